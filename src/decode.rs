//! decode: attention of a sequence's newest tokens over its cache, with the step's new tokens appended in the same
//! launch where asked.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::abi;
use crate::append::{Append, check_step};
use crate::attention::{Options, check_outputs};
use crate::cache_view::{CacheMut, CacheRef};
use crate::decode_plan::DecodeShape;
use crate::divisor::divisor;
use crate::dtype::{Element, Stores};
use crate::error::{Error, Result};
use crate::module::Kernels;
use crate::plan::Plan;
use crate::rope::{NO_ROPE, Rope};
use crate::shape::{CacheShape, MAX_QUERY_TOKENS};
use crate::slice::{read_vectors, write, write_vectors};
use crate::step::{NewTokens, Step};
use crate::tokens::{Extent, Tokens};
use crate::workspace::{Workspace, WorkspaceSize};

impl Kernels {
    /// Attention of one query token a sequence over all the tokens the sequence holds, those of this step included:
    /// `out[h] = Σ_t softmax_t(softmax_scale · q[h]·K[t]) V[t]`.
    ///
    /// `q` is `[batch, num_q_heads, head_dim]` ([`Tokens`] of one token a sequence), `out` the same, dense. Query heads
    /// `h·G … h·G + G − 1` share KV head `h`, `G = num_q_heads / num_kv_heads` up to
    /// [`MAX_GROUP_SIZE`](crate::MAX_GROUP_SIZE). With [`query_tokens`](Decode::query_tokens) there are more of them.
    ///
    /// A query that sees no token gives zeros. What lies behind a sequence's tokens is not read.
    ///
    /// Over a cache of a byte an element, `K[t]` and `V[t]` are what its payload and scales stand for.
    pub fn decode<'a, T: Element, K: Stores<T>, V: Stores<T>>(
        &'a self,
        q: impl Into<Tokens<'a, T>>,
        num_q_heads: usize,
        cache: impl Into<CacheRef<'a, K, V>>,
        step: Step<'a>,
        out: &'a mut impl DevicePtrMut<T>,
    ) -> Decode<'a, T, K, V> {
        Decode::new(
            self,
            q.into(),
            num_q_heads,
            Source::Cached(cache.into()),
            step,
            out,
        )
    }

    /// What a [`Workspace`] holds for decodes of this shape split as the [plan](DecodeShape::plan) for this device has
    /// it.
    ///
    /// # Errors
    /// As [`DecodeShape::plan`].
    pub fn workspace_size(&self, shape: &DecodeShape) -> Result<WorkspaceSize> {
        shape.workspace(shape.plan(self.gpu())?.num_splits)
    }
}

impl<'a, T: Element, K: Stores<T>, V: Stores<T>> Append<'a, T, K, V> {
    /// Attention in the same launch: appends the step's new tokens, and attends with them to all the tokens that their
    /// sequence holds, themselves included.
    ///
    /// `q` is `[batch, tokens, num_q_heads, head_dim]`, a query for each new token, `out` the same, dense; each query
    /// sees the tokens up to its own. The step gives [each](NewTokens::Each) sequence the same number of tokens, 1 to
    /// [`MAX_QUERY_TOKENS`]. The rest is as for [`Kernels::decode`].
    ///
    /// A sequence without room for its new tokens is left untouched and flagged; its queries then stand for the newest
    /// tokens that it holds.
    pub fn decode(
        self,
        q: impl Into<Tokens<'a, T>>,
        num_q_heads: usize,
        out: &'a mut impl DevicePtrMut<T>,
    ) -> Decode<'a, T, K, V> {
        let (kernels, step, rope) = (self.kernels, self.step, self.rope);
        let source = Source::Appended {
            k: self.k,
            v: self.v,
            cache: self.cache,
        };
        Decode {
            rope,
            ..Decode::new(kernels, q.into(), num_q_heads, source, step, out)
        }
    }
}

/// A decode attention to be launched.
#[must_use = "nothing is attended to until it is launched"]
pub struct Decode<'a, T, K = T, V = T> {
    kernels: &'a Kernels,
    q: Tokens<'a, T>,
    num_q_heads: usize,
    source: Source<'a, T, K, V>,
    step: Step<'a>,
    out: &'a mut dyn DevicePtrMut<T>,
    options: Options<'a>,
    lse: Option<&'a mut dyn DevicePtrMut<f32>>,
    query_tokens: Option<usize>,
    num_splits: Option<usize>,
    workspace: Option<&'a mut Workspace>,
    rope: Option<&'a Rope<'a>>,
}

/// Where the step's new tokens are.
enum Source<'a, T, K, V> {
    Cached(CacheRef<'a, K, V>),
    Appended {
        k: Tokens<'a, T>,
        v: Tokens<'a, T>,
        cache: CacheMut<'a, K, V>,
    },
}

impl<'a, T: Element, K: Stores<T>, V: Stores<T>> Decode<'a, T, K, V> {
    fn new(
        kernels: &'a Kernels,
        q: Tokens<'a, T>,
        num_q_heads: usize,
        source: Source<'a, T, K, V>,
        step: Step<'a>,
        out: &'a mut dyn DevicePtrMut<T>,
    ) -> Self {
        Decode {
            kernels,
            q,
            num_q_heads,
            source,
            step,
            out,
            options: Options::default(),
            lse: None,
            query_tokens: None,
            num_splits: None,
            workspace: None,
            rope: None,
        }
    }

    /// Factor of the scores; 1/√head_dim where none is given.
    pub fn softmax_scale(mut self, softmax_scale: f32) -> Self {
        self.options.softmax_scale = Some(softmax_scale);
        self
    }

    /// Bounds the scores: `cap · tanh(score / cap)`, above 0. Applied before ALiBi's bias.
    pub fn logits_soft_cap(mut self, cap: f32) -> Self {
        self.options.logits_soft_cap = Some(cap);
        self
    }

    /// Tokens that a query sees, its own included, at least 1. Those further to the left are not read.
    pub fn sliding_window(mut self, tokens: usize) -> Self {
        self.options.sliding_window = Some(tokens);
        self
    }

    /// One more logit for each query head, `f32 [num_q_heads]`, which takes probability and adds no value. It is
    /// neither scaled nor capped, and counts in lse.
    pub fn sinks(mut self, sinks: &'a impl DevicePtr<f32>) -> Self {
        self.options.sinks = Some(sinks);
        self
    }

    /// ALiBi's slope for each query head, `f32 [num_q_heads]`: what a score loses for each token between its key and
    /// its query.
    pub fn alibi_slopes(mut self, slopes: &'a impl DevicePtr<f32>) -> Self {
        self.options.alibi_slopes = Some(slopes);
        self
    }

    /// Also writes the natural logarithm of each query head's softmax denominator, `f32 [batch, query_tokens,
    /// num_q_heads]`; −∞ for a query that sees no token.
    pub fn lse(mut self, lse: &'a mut impl DevicePtrMut<f32>) -> Self {
        self.lse = Some(lse);
        self
    }

    /// Turns each query by its own position before it attends; `q` itself stays as it is. Where the step's tokens are
    /// appended in the same launch, their K too, on the way to the cache, as [`Append::rope`] does.
    pub fn rope(mut self, rope: &'a Rope<'a>) -> Self {
        self.rope = Some(rope);
        self
    }

    /// Query tokens a sequence, 1 to [`MAX_QUERY_TOKENS`]: its newest ones, causal among themselves. `q` and `out` are
    /// `[batch, query_tokens, num_q_heads, head_dim]`. One where nothing is said, and as many as are new where they are
    /// appended in the same launch.
    pub fn query_tokens(mut self, query_tokens: usize) -> Self {
        self.query_tokens = Some(query_tokens);
        self
    }

    /// Lets several blocks share a sequence: without, one block works through all the tokens of a KV head, which leaves
    /// most of a GPU idle while the batch is small. As many splits as the plan for this GPU wants and the workspace has
    /// room for.
    pub fn workspace(mut self, workspace: &'a mut Workspace) -> Self {
        self.workspace = Some(workspace);
        self
    }

    /// Splits each sequence in exactly so many, instead of as the plan would: its result then has the same bits in
    /// whatever batch it is. More than one need a [workspace](Self::workspace).
    pub fn num_splits(mut self, num_splits: usize) -> Self {
        self.num_splits = Some(num_splits);
        self
    }

    /// What would be launched.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Plan> {
        match &self.source {
            Source::Cached(cache) => cache.check()?,
            Source::Appended { cache, .. } => cache.check()?,
        }
        check_step(&self.step, self.cache_shape())?;
        let shape = self.shape()?;
        if let Some(rope) = self.rope {
            rope.check(shape.cache.head_dim, self.step.max_seq_len())?;
        }
        let room = self.workspace.as_ref().map(|workspace| workspace.size());
        let room = room.unwrap_or_default();
        match self.num_splits {
            None => shape.plan_within(self.kernels.gpu(), shape.splits_within(room)?),
            Some(num_splits) => {
                let plan = shape.plan_with(num_splits)?;
                let needed = shape.workspace(plan.num_splits)?;
                if !room.holds(needed) {
                    return Err(Error::Workspace {
                        num_splits,
                        partials: room.partials,
                        arrivals: room.arrivals,
                        partials_needed: needed.partials,
                        arrivals_needed: needed.arrivals,
                    });
                }
                Ok(plan)
            }
        }
    }

    fn cache_shape(&self) -> CacheShape {
        match &self.source {
            Source::Cached(cache) => cache.shape(),
            Source::Appended { cache, .. } => cache.shape(),
        }
    }

    fn shape(&self) -> Result<DecodeShape> {
        let cache = self.cache_shape();
        let query_tokens = match (self.query_tokens, &self.source) {
            (Some(query_tokens), _) => query_tokens,
            (None, Source::Cached(_)) => 1,
            (None, Source::Appended { .. }) => self.appended_tokens()?,
        };
        Ok(DecodeShape {
            cache: CacheShape {
                max_seq_len: self.step.max_seq_len(),
                ..cache
            },
            dtype: T::DTYPE,
            k_dtype: K::DTYPE,
            v_dtype: V::DTYPE,
            num_q_heads: self.num_q_heads,
            query_tokens,
            sliding_window: self.options.sliding_window,
        })
    }

    /// New tokens of each sequence, where they are appended in this launch.
    fn appended_tokens(&self) -> Result<usize> {
        match self.step.new_tokens() {
            NewTokens::Each(tokens) if tokens <= MAX_QUERY_TOKENS => Ok(tokens),
            NewTokens::Each(tokens) => Err(Error::TooLarge {
                argument: "new tokens appended and attended to in one launch",
                value: tokens as u128,
                limit: MAX_QUERY_TOKENS as u128,
            }),
            NewTokens::Packed { .. } => Err(Error::Packed {
                operation: "append and decode in one launch",
            }),
        }
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`] for the stream or any slice; [`Error::Mismatch`] where the step's batch is not the
    /// cache's or its capacity is larger; [`Error::HeadsNotDivisible`], [`Error::GroupSize`];
    /// [`Error::Zero`] and [`Error::TooLarge`] for query tokens, splits, the window and new tokens;
    /// [`Error::Mismatch`] for RoPE of more channels than `head_dim` or of tables of fewer positions than the capacity;
    /// [`Error::NoScale`] and [`Error::CacheTypes`] for the cache; [`Error::Packed`] for a packed step to be appended; [`Error::Workspace`] for splits without room;
    /// [`Error::Length`] for q, k, v, out, lse, sinks and slopes; [`Error::Stride`] for q, k and v;
    /// [`Error::NotFinite`] and [`Error::NotPositive`] for scale and cap; [`Error::Misaligned`] for q, k, v, out, the
    /// cache and the workspace; [`Error::Driver`] from the launch.
    pub fn launch(mut self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let shape = self.shape()?;
        let row_groups = shape.units()?.row_groups;
        let CacheShape {
            batch,
            num_kv_heads,
            head_dim,
            ..
        } = shape.cache;
        let (num_q_heads, query_tokens) = (self.num_q_heads, shape.query_tokens);
        let queries = Extent {
            batch,
            tokens: query_tokens,
            heads: num_q_heads,
            head_dim,
        };
        let q_strides = self.q.strides("q", queries)?;
        self.options.check(num_q_heads)?;
        let heads = batch * query_tokens * num_q_heads;
        let dimensions = || format!("{batch}, {query_tokens}, {num_q_heads}");
        let lse_len = self.lse.as_ref().map(|lse| lse.len());
        check_outputs(self.out.len(), lse_len, heads, head_dim, dimensions)?;
        let new = match &self.source {
            Source::Cached(_) => None,
            Source::Appended { k, v, .. } => {
                let new = Extent {
                    tokens: self.appended_tokens()?,
                    heads: num_kv_heads,
                    ..queries
                };
                Some((k.strides("k", new)?, v.strides("v", new)?))
            }
        };

        let (q, _q) = read_vectors("q", self.q.data(), stream)?;
        let ((k_new, _k), (v_new, _v)) = match &self.source {
            Source::Appended { k, v, .. } if self.appended_tokens()? > 0 => (
                read_vectors("k", k.data(), stream)?,
                read_vectors("v", v.data(), stream)?,
            ),
            _ => (none(), none()),
        };
        let (cache, _cache) = match &mut self.source {
            Source::Cached(cache) => cache.bind(stream)?,
            Source::Appended { cache, .. } => cache.bind(stream)?,
        };
        let (step, _step) = self.step.bind(stream)?;
        let rope = self.rope.map(|rope| rope.bind(stream)).transpose()?;
        let (options, _options) = self.options.bind(head_dim, stream)?;
        let (out, _out) = write_vectors("out", self.out, stream)?;
        let (lse, _lse) = match self.lse {
            Some(lse) => write("lse", lse, stream)?,
            None => none(),
        };
        let ((partials, arrivals), _workspace) = match self.workspace {
            Some(workspace) if plan.num_splits > 1 => workspace.bind(stream)?,
            _ => ((0, 0), [none().1, none().1]),
        };
        let (k_strides, v_strides) = new.unwrap_or((q_strides, q_strides));
        let params = abi::KvDecodeParams {
            step,
            cache,
            q: q_strides.abi(q),
            k_new: k_strides.abi(k_new),
            v_new: v_strides.abi(v_new),
            rope: rope.as_ref().map_or(NO_ROPE, |(rope, _)| *rope),
            element: T::DTYPE.abi(),
            out: out as *mut _,
            lse: lse as *mut f32,
            partials: partials as *mut f32,
            arrivals: arrivals as *mut u32,
            sinks: options.sinks as *const f32,
            alibi_slopes: options.alibi_slopes as *const f32,
            num_kv_heads: divisor(num_kv_heads as u32),
            group_size: divisor((num_q_heads / num_kv_heads) as u32),
            query_tokens: query_tokens as i32,
            row_groups: divisor(row_groups),
            num_splits: divisor(plan.num_splits),
            sliding_window: options.sliding_window,
            score_scale: options.score_scale,
            soft_cap: options.soft_cap,
            soft_cap_scale: options.soft_cap_scale,
        };
        // SAFETY: a decode kernel takes KvDecodeParams. Slices have the lengths that shapes and strides imply, are
        // borrowed (those written to mutably) and guarded; the workspace has room for the plan's splits; the kernel
        // keeps to positions below the step's capacity, which is at most the cache's, whatever the lengths on the
        // device are.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}

/// The address of what is not there.
fn none<'s>() -> (u64, SyncOnDrop<'s>) {
    (0, SyncOnDrop::Record(None))
}

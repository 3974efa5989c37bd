//! prefill: causal attention of a step's new tokens, however many, over the cache that they have been appended to.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use crate::abi;
use crate::append::{check_step, extent};
use crate::attention::{Options, check_outputs};
use crate::cache_view::CacheRef;
use crate::dtype::Element;
use crate::error::Result;
use crate::module::Kernels;
use crate::plan::Plan;
use crate::prefill_plan::row_tiles;
use crate::shape::{MAX_INDEX, at_most};
use crate::slice::{read_vectors, write, write_vectors};
use crate::step::{NewTokens, Step};
use crate::tokens::Tokens;

impl Kernels {
    /// Causal attention of all of a step's new tokens, which have been appended: of a prompt, or of the next part of
    /// one over the parts cached before. The query of a sequence's `i`-th new token stands at position `seq_len + i`
    /// and sees the tokens up to its own.
    ///
    /// `q` is `[batch, tokens, num_q_heads, head_dim]`, or `[total, num_q_heads, head_dim]` in a
    /// [packed](NewTokens::Packed) step (other orders by [`Tokens`]), `out` the same, dense. Query heads
    /// `h·G … h·G + G − 1` share KV head `h`, `G = num_q_heads / num_kv_heads` up to
    /// [`MAX_GROUP_SIZE`](crate::MAX_GROUP_SIZE).
    ///
    /// A sequence without room for its new tokens has none of them appended; its queries then stand for the newest
    /// tokens that it holds. A query that sees no token gives zeros. Where a packed step's `total` is more than its
    /// sequences' tokens, what lies behind them in `out` stays as it is.
    ///
    /// [`decode`](Self::decode) is the faster one for up to [`MAX_QUERY_TOKENS`](crate::MAX_QUERY_TOKENS) queries over
    /// a long cache: it splits a sequence among blocks.
    pub fn prefill<'a, T: Element>(
        &'a self,
        q: impl Into<Tokens<'a, T>>,
        num_q_heads: usize,
        cache: impl Into<CacheRef<'a, T>>,
        step: Step<'a>,
        out: &'a mut impl DevicePtrMut<T>,
    ) -> Prefill<'a, T> {
        Prefill {
            kernels: self,
            q: q.into(),
            num_q_heads,
            cache: cache.into(),
            step,
            out,
            options: Options::default(),
            lse: None,
        }
    }
}

/// A prefill attention to be launched.
#[must_use = "nothing is attended to until it is launched"]
pub struct Prefill<'a, T> {
    kernels: &'a Kernels,
    q: Tokens<'a, T>,
    num_q_heads: usize,
    cache: CacheRef<'a, T>,
    step: Step<'a>,
    out: &'a mut dyn DevicePtrMut<T>,
    options: Options<'a>,
    lse: Option<&'a mut dyn DevicePtrMut<f32>>,
}

impl<'a, T: Element> Prefill<'a, T> {
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

    /// Tokens that a query sees, its own included, at least 1. Those that no query of a block sees are not read.
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

    /// Also writes the natural logarithm of each query head's softmax denominator, `f32 [batch, tokens, num_q_heads]`
    /// or `[total, num_q_heads]`; −∞ for a query that sees no token.
    pub fn lse(mut self, lse: &'a mut impl DevicePtrMut<f32>) -> Self {
        self.lse = Some(lse);
        self
    }

    /// What would be launched; `None` where the step has no new tokens.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Option<Plan>> {
        let shape = self.cache.shape();
        check_step(&self.step, shape)?;
        let row_tiles = self.row_tiles()?;
        let plan = Plan::prefill(row_tiles, shape.num_kv_heads, T::DTYPE, shape.head_dim)?;
        Ok((row_tiles > 0).then_some(plan))
    }

    fn row_tiles(&self) -> Result<u128> {
        let group_size = self.cache.shape().group_size(self.num_q_heads)?;
        let queries = self.step.total_tokens() as u128 * self.num_q_heads as u128;
        at_most("new tokens * num_q_heads", queries, MAX_INDEX)?;
        let (new, batch) = (self.step.new_tokens(), self.step.batch());
        Ok(row_tiles(new, batch, group_size))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`](crate::Error::OtherContext) for the stream or any slice; [`Error::Mismatch`](crate::Error::Mismatch) where the step's batch is not the
    /// cache's or its capacity is larger; [`Error::HeadsNotDivisible`](crate::Error::HeadsNotDivisible), [`Error::GroupSize`](crate::Error::GroupSize); [`Error::Zero`](crate::Error::Zero) and
    /// [`Error::TooLarge`](crate::Error::TooLarge) for the window and for more queries or blocks than are indexed; [`Error::Length`](crate::Error::Length) for q,
    /// out, lse, sinks and slopes; [`Error::Stride`](crate::Error::Stride) for q; [`Error::NotFinite`](crate::Error::NotFinite) and [`Error::NotPositive`](crate::Error::NotPositive) for scale
    /// and cap; [`Error::Misaligned`](crate::Error::Misaligned) for q, out and the cache; [`Error::Driver`](crate::Error::Driver) from the launch.
    pub fn launch(self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let row_tiles = self.row_tiles()?;
        let shape = self.cache.shape();
        let (num_q_heads, head_dim) = (self.num_q_heads, shape.head_dim);
        let queries = extent(&self.step, num_q_heads, head_dim);
        let q_strides = self.q.strides("q", queries)?;
        self.options.check(num_q_heads)?;
        self.check_outputs()?;
        let Some(plan) = plan else {
            return Ok(());
        };
        let (q, _q) = read_vectors("q", self.q.data(), stream)?;
        let (cache, _cache) = self.cache.bind(stream)?;
        let (step, _step) = self.step.bind(stream)?;
        let (options, _options) = self.options.bind(head_dim, stream)?;
        let (out, _out) = write_vectors("out", self.out, stream)?;
        let (lse, _lse) = match self.lse {
            Some(lse) => write("lse", lse, stream)?,
            None => (0, SyncOnDrop::Record(None)),
        };
        let params = abi::KvPrefillParams {
            step,
            cache,
            q: q_strides.abi(q),
            out: out as *mut _,
            lse: lse as *mut f32,
            sinks: options.sinks as *const f32,
            alibi_slopes: options.alibi_slopes as *const f32,
            num_kv_heads: shape.num_kv_heads as i32,
            group_size: (num_q_heads / shape.num_kv_heads) as i32,
            tokens: self.step.total_tokens() as i32,
            row_tiles: row_tiles as i32, // a factor of the blocks
            sliding_window: options.sliding_window,
            score_scale: options.score_scale,
            soft_cap: options.soft_cap,
            soft_cap_scale: options.soft_cap_scale,
        };
        // SAFETY: a prefill kernel takes KvPrefillParams. Slices have the lengths that shapes, strides and step imply,
        // are borrowed (out and lse mutably) and guarded; the kernel keeps to positions below the step's capacity,
        // which is at most the cache's, and to the queries there are, whatever the lengths and cu_seqlens on the
        // device are.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }

    fn check_outputs(&self) -> Result<()> {
        let shape = self.cache.shape();
        let (num_q_heads, head_dim) = (self.num_q_heads, shape.head_dim);
        // Only for messages: a launch allocates nothing.
        let tokens = || match self.step.new_tokens() {
            NewTokens::Each(tokens) => format!("{}, {tokens}", shape.batch),
            NewTokens::Packed { total, .. } => total.to_string(),
        };
        let heads = self.step.total_tokens() * num_q_heads;
        let lse_len = self.lse.as_ref().map(|lse| lse.len());
        let dimensions = || format!("{}, {num_q_heads}", tokens());
        check_outputs(self.out.len(), lse_len, heads, head_dim, dimensions)
    }
}

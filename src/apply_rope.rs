//! rope: turns the q and k vectors of a step's new tokens in place.

use cudarc::driver::{CudaStream, SyncOnDrop};

use crate::abi;
use crate::append::extent;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::module::Kernels;
use crate::plan::Plan;
use crate::rope::Rope;
use crate::shape::{HEAD_DIMS, MAX_INDEX, at_least_one, at_most};
use crate::slice::write_vectors;
use crate::step::Step;
use crate::tokens::{Strides, TokensMut};

impl Kernels {
    /// Turns the vectors of a step's new tokens in place, each token's by its own position: `seq_len`, `seq_len + 1`, …
    /// of its sequence. Which vectors, [`q`](ApplyRope::q) and [`k`](ApplyRope::k) say; both take one launch.
    ///
    /// ```no_run
    /// # use half::f16;
    /// # use kv_kernels::{Kernels, Lengths, NewTokens, PairStyle, Rope, RopeFrequencies};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let ctx = kv_kernels::open(0)?;
    /// # let stream = ctx.default_stream();
    /// # let kernels = Kernels::new(&ctx)?;
    /// # let lengths = Lengths::new(&stream, 2, 4096)?;
    /// # let mut q = stream.alloc_zeros::<f16>(2 * 7 * 32 * 128)?;
    /// # let mut k = stream.alloc_zeros::<f16>(2 * 7 * 8 * 128)?;
    /// let rope = Rope::new(&stream, &RopeFrequencies::plain(10_000.0, 128)?, PairStyle::HalfSplit)?;
    /// // 7 new tokens for each of two sequences; 32 query heads on 8 KV heads of 128.
    /// let step = lengths.step(NewTokens::Each(7))?;
    /// kernels.rope(&rope, 128, step).q(&mut q, 32).k(&mut k, 8).launch(&stream)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A projection that leaves q and k side by side in one buffer is turned as one: so many heads together, by
    /// [`TokensMut::strided`]. Keys that only go to the cache are better turned on their way
    /// ([`Append::rope`](crate::Append::rope)).
    ///
    /// The tokens of a sequence that has no room for them stay as they are; append and advance flag it.
    pub fn rope<'a, T: Element>(
        &'a self,
        rope: &'a Rope<'a>,
        head_dim: usize,
        step: Step<'a>,
    ) -> ApplyRope<'a, T> {
        ApplyRope {
            kernels: self,
            rope,
            head_dim,
            step,
            q: None,
            k: None,
        }
    }
}

/// Turns to be launched.
#[must_use = "nothing is turned until it is launched"]
pub struct ApplyRope<'a, T> {
    kernels: &'a Kernels,
    rope: &'a Rope<'a>,
    head_dim: usize,
    step: Step<'a>,
    q: Option<(TokensMut<'a, T>, usize)>,
    k: Option<(TokensMut<'a, T>, usize)>,
}

impl<'a, T: Element> ApplyRope<'a, T> {
    /// Queries to turn, `[batch, tokens, num_q_heads, head_dim]`, or `[total, num_q_heads, head_dim]` in a
    /// [packed](crate::NewTokens::Packed) step; other orders by [`TokensMut`].
    pub fn q(mut self, q: impl Into<TokensMut<'a, T>>, num_q_heads: usize) -> Self {
        self.q = Some((q.into(), num_q_heads));
        self
    }

    /// Keys to turn, as [`q`](Self::q).
    pub fn k(mut self, k: impl Into<TokensMut<'a, T>>, num_kv_heads: usize) -> Self {
        self.k = Some((k.into(), num_kv_heads));
        self
    }

    /// What would be launched; `None` where the step has no new tokens, or there is neither q nor k.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Option<Plan>> {
        if !HEAD_DIMS.contains(&self.head_dim) {
            return Err(Error::HeadDim {
                value: self.head_dim,
                dtype: T::DTYPE,
                supported: HEAD_DIMS,
            });
        }
        self.rope.check(self.head_dim, self.step.max_seq_len())?;
        let heads = [("num_q_heads", &self.q), ("num_kv_heads", &self.k)];
        for (argument, vectors) in heads {
            if let Some((_, heads)) = vectors {
                at_least_one(argument, *heads)?;
            }
        }
        let (q_heads, k_heads) = (heads_of(&self.q), heads_of(&self.k));
        let tokens = self.step.total_tokens();
        let vectors = tokens as u128 * (q_heads as u128 + k_heads as u128);
        at_most(
            "new tokens * (num_q_heads + num_kv_heads)",
            vectors,
            MAX_INDEX,
        )?;
        Ok((vectors > 0).then(|| {
            // None of them is larger than the product.
            Plan::rope(
                tokens as u32,
                q_heads as u32,
                k_heads as u32,
                T::DTYPE,
                self.head_dim,
            )
        }))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`] for the stream or any slice; [`Error::HeadDim`]; [`Error::Mismatch`] where RoPE turns more
    /// channels than `head_dim`, or has tables of fewer positions than the step's capacity; [`Error::Zero`] for a number
    /// of heads; [`Error::TooLarge`] for more vectors than are indexed; [`Error::Length`], [`Error::Stride`] and
    /// [`Error::Misaligned`] for q and k; [`Error::Driver`] from the launch.
    pub fn launch(mut self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let (num_q_heads, num_kv_heads) = (heads_of(&self.q), heads_of(&self.k));
        let strides = |argument, vectors: &Option<(TokensMut<'a, T>, usize)>| match vectors {
            Some((vectors, heads)) => {
                vectors.strides(argument, extent(&self.step, *heads, self.head_dim))
            }
            None => Ok(NOWHERE),
        };
        let (q_strides, k_strides) = (strides("q", &self.q)?, strides("k", &self.k)?);
        let Some(plan) = plan else {
            return Ok(());
        };
        let (q, _q) = bind("q", &mut self.q, stream)?;
        let (k, _k) = bind("k", &mut self.k, stream)?;
        let (rope, _rope) = self.rope.bind(stream)?;
        let (step, _step) = self.step.bind(stream)?;
        let params = abi::KvRopeParams {
            step,
            rope,
            q: q_strides.abi(q),
            k: k_strides.abi(k),
            num_q_heads: num_q_heads as i32,
            num_kv_heads: num_kv_heads as i32,
            tokens: self.step.total_tokens() as i32,
        };
        // SAFETY: a rope kernel takes KvRopeParams. Slices have the lengths that heads, strides and step imply, are
        // borrowed mutably, with no two vectors on the same elements, and guarded; positions stay below the step's
        // capacity, which is at most that of RoPE's tables, whatever the lengths on the device are.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}

/// Where vectors lie that are not there.
const NOWHERE: Strides = Strides {
    batch: 0,
    token: 0,
    head: 0,
};

fn heads_of<T>(vectors: &Option<(TokensMut<'_, T>, usize)>) -> usize {
    vectors.as_ref().map_or(0, |(_, heads)| *heads)
}

fn bind<'s, T>(
    argument: &'static str,
    vectors: &'s mut Option<(TokensMut<'_, T>, usize)>,
    stream: &'s CudaStream,
) -> Result<(u64, SyncOnDrop<'s>)> {
    match vectors {
        Some((vectors, _)) => write_vectors(argument, vectors.data(), stream),
        None => Ok((0, SyncOnDrop::Record(None))),
    }
}

//! append: a step's new K and V vectors, behind those already cached; K turned by RoPE where asked.

use cudarc::driver::CudaStream;

use crate::abi;
use crate::cache_types::CacheTypes;
use crate::cache_view::CacheMut;
use crate::dtype::{Element, Stores};
use crate::error::{Error, Result};
use crate::module::Kernels;
use crate::plan::Plan;
use crate::rope::{NO_ROPE, Rope};
use crate::shape::{CacheShape, MAX_INDEX, at_most};
use crate::slice::read_vectors;
use crate::step::{NewTokens, Step};
use crate::tokens::{Extent, Tokens};

impl Kernels {
    /// Copies the K and V vectors of a step's new tokens behind those each sequence holds, at positions `seq_len`,
    /// `seq_len + 1`, … of its own. Lengths stay as they are until they are [advanced](Self::advance).
    ///
    /// `k` and `v` are `[batch, tokens, num_kv_heads, head_dim]`, or `[total, num_kv_heads, head_dim]` in a
    /// [packed](NewTokens::Packed) step; other orders by [`Tokens`].
    ///
    /// A sequence without room for all its new tokens is left untouched and flagged in its status word.
    /// A cache of a byte an element has them quantised on the way: int8 by `scale = absmax / 127` of each vector, fp8 by
    /// `absmax / 448`, bit for bit as [`reference::quantize`](crate::reference::quantize()) does, divided by the cache's
    /// channel scales first where it has some. Elements that are not finite are counted in the sequence's status word.
    pub fn append<'a, T: Element, K: Stores<T>, V: Stores<T>>(
        &'a self,
        k: impl Into<Tokens<'a, T>>,
        v: impl Into<Tokens<'a, T>>,
        cache: impl Into<CacheMut<'a, K, V>>,
        step: Step<'a>,
    ) -> Append<'a, T, K, V> {
        Append {
            kernels: self,
            k: k.into(),
            v: v.into(),
            cache: cache.into(),
            step,
            rope: None,
        }
    }
}

/// An append to be launched.
#[must_use = "nothing is appended until it is launched"]
pub struct Append<'a, T, K = T, V = T> {
    pub(crate) kernels: &'a Kernels,
    pub(crate) k: Tokens<'a, T>,
    pub(crate) v: Tokens<'a, T>,
    pub(crate) cache: CacheMut<'a, K, V>,
    pub(crate) step: Step<'a>,
    pub(crate) rope: Option<&'a Rope<'a>>,
}

impl<'a, T: Element, K: Stores<T>, V: Stores<T>> Append<'a, T, K, V> {
    /// Turns each new token's K by its position on the way to the cache. `k` itself stays as it is.
    pub fn rope(mut self, rope: &'a Rope<'a>) -> Self {
        self.rope = Some(rope);
        self
    }

    /// What would be launched; `None` where the step has no new tokens.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Option<Plan>> {
        let shape = self.cache.shape();
        let types = CacheTypes::of::<T, K, V>()?;
        self.cache.check()?;
        check_step(&self.step, shape)?;
        let rows = rows(&self.step, shape)?;
        if let Some(rope) = self.rope {
            rope.check(shape.head_dim, self.step.max_seq_len())?;
        }
        let heads = shape.num_kv_heads as u32;
        let tokens = rows / heads;
        Ok((rows > 0).then(|| {
            if types.are_scaled() {
                Plan::append_quantized(tokens, heads, shape.head_dim)
            } else if self.rope.is_some() {
                Plan::append_rope(tokens, heads, T::DTYPE, shape.head_dim)
            } else {
                Plan::append(rows, T::DTYPE, shape.head_dim)
            }
        }))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`] for the stream or any slice; [`Error::Mismatch`] where the step's batch is not the
    /// cache's or its capacity is larger, or where RoPE turns more channels than `head_dim` or has tables of fewer
    /// positions than the step's capacity; [`Error::TooLarge`] for more vectors than are indexed; [`Error::Length`] and
    /// [`Error::Stride`] for k and v; [`Error::NoScale`] and [`Error::CacheTypes`] for the cache; [`Error::Misaligned`] for k, v and the cache; [`Error::Driver`] from the launch.
    pub fn launch(mut self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let shape = self.cache.shape();
        let extent = extent(&self.step, shape.num_kv_heads, shape.head_dim);
        let k_strides = self.k.strides("k", extent)?;
        let v_strides = self.v.strides("v", extent)?;
        let Some(plan) = plan else {
            return Ok(());
        };
        let (k, _k) = read_vectors("k", self.k.data(), stream)?;
        let (v, _v) = read_vectors("v", self.v.data(), stream)?;
        let (cache, _cache) = self.cache.bind(stream)?;
        let (step, _step) = self.step.bind(stream)?;
        let rope = self.rope.map(|rope| rope.bind(stream)).transpose()?;
        let params = abi::KvAppendParams {
            step,
            cache,
            k_new: k_strides.abi(k),
            v_new: v_strides.abi(v),
            rope: rope.as_ref().map_or(NO_ROPE, |(rope, _)| *rope),
            element: T::DTYPE.abi(),
            k_dtype: K::DTYPE.abi(),
            v_dtype: V::DTYPE.abi(),
            num_kv_heads: shape.num_kv_heads as i32,
            rows: rows(&self.step, shape)? as i32,
        };
        // SAFETY: an append kernel takes KvAppendParams. Slices have the lengths that shape, strides and step imply,
        // are borrowed (the cache mutably) and guarded; the kernel keeps positions below the step's capacity, which
        // is at most the cache's and RoPE's, whatever the lengths on the device are.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}

/// Whether the step is one of this cache's.
pub(crate) fn check_step(step: &Step<'_>, shape: CacheShape) -> Result<()> {
    if step.batch() != shape.batch {
        return Err(Error::Mismatch {
            argument: "batch of the step",
            value: step.batch(),
            other: "batch of the cache",
            other_value: shape.batch,
        });
    }
    if step.max_seq_len() > shape.max_seq_len {
        return Err(Error::Mismatch {
            argument: "max_seq_len of the step",
            value: step.max_seq_len(),
            other: "max_seq_len of the cache",
            other_value: shape.max_seq_len,
        });
    }
    Ok(())
}

/// Vectors of K to be appended, and as many of V.
fn rows(step: &Step<'_>, shape: CacheShape) -> Result<u32> {
    let rows = step.total_tokens() as u128 * shape.num_kv_heads as u128;
    at_most("new tokens * num_kv_heads", rows, MAX_INDEX)?;
    Ok(rows as u32)
}

/// The vectors of a step's new tokens.
pub(crate) fn extent(step: &Step<'_>, heads: usize, head_dim: usize) -> Extent {
    let (batch, tokens) = match step.new_tokens() {
        NewTokens::Each(tokens) => (step.batch(), tokens),
        NewTokens::Packed { total, .. } => (1, total),
    };
    Extent {
        batch,
        tokens,
        heads,
        head_dim,
    }
}

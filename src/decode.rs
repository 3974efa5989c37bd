//! decode: attention of one token a sequence over its cached tokens.

use std::f32::consts::LOG2_E;

use cudarc::driver::{CudaStream, DevicePtrMut, SyncOnDrop};

use crate::abi;
use crate::append::check_step;
use crate::cache::CacheRef;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::module::Kernels;
use crate::plan::{Plan, Units};
use crate::slice::{read_vectors, write, write_vectors};
use crate::step::Step;
use crate::tokens::{Extent, Tokens};

impl Kernels {
    /// Attention of one query token a sequence over all the tokens the sequence holds, those of this step included:
    /// `out[h] = Σ_t softmax_t(softmax_scale · q[h]·K[t]) V[t]`.
    ///
    /// `q` is `[batch, num_q_heads, head_dim]` ([`Tokens`] of one token a sequence), `out` the same, dense. Query heads
    /// `h·G … h·G + G − 1` share KV head `h`, `G = num_q_heads / num_kv_heads` up to
    /// [`MAX_GROUP_SIZE`](crate::MAX_GROUP_SIZE).
    ///
    /// A sequence that holds nothing gives zeros. What lies behind a sequence's tokens is not read.
    pub fn decode<'a, T: Element>(
        &'a self,
        q: impl Into<Tokens<'a, T>>,
        num_q_heads: usize,
        cache: impl Into<CacheRef<'a, T>>,
        step: Step<'a>,
        out: &'a mut impl DevicePtrMut<T>,
    ) -> Decode<'a, T> {
        Decode {
            kernels: self,
            q: q.into(),
            num_q_heads,
            cache: cache.into(),
            step,
            out,
            softmax_scale: None,
            lse: None,
        }
    }
}

/// A decode attention to be launched.
#[must_use = "nothing is attended to until it is launched"]
pub struct Decode<'a, T> {
    kernels: &'a Kernels,
    q: Tokens<'a, T>,
    num_q_heads: usize,
    cache: CacheRef<'a, T>,
    step: Step<'a>,
    out: &'a mut dyn DevicePtrMut<T>,
    softmax_scale: Option<f32>,
    lse: Option<&'a mut dyn DevicePtrMut<f32>>,
}

impl<'a, T: Element> Decode<'a, T> {
    /// Factor of the scores; 1/√head_dim where none is given.
    pub fn softmax_scale(mut self, softmax_scale: f32) -> Self {
        self.softmax_scale = Some(softmax_scale);
        self
    }

    /// Also writes the natural logarithm of each query head's softmax denominator, `f32 [batch, num_q_heads]`; −∞ for
    /// a sequence that holds nothing.
    pub fn lse(mut self, lse: &'a mut impl DevicePtrMut<f32>) -> Self {
        self.lse = Some(lse);
        self
    }

    /// What would be launched.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Plan> {
        let shape = self.cache.shape();
        check_step(&self.step, shape)?;
        let units = self.units()?;
        Ok(Plan::decode(units, T::DTYPE, shape.head_dim, 1))
    }

    fn units(&self) -> Result<Units> {
        let shape = self.cache.shape();
        let group_size = shape.group_size(self.num_q_heads)?;
        // The product was checked with the cache's shape.
        let pairs = (shape.batch * shape.num_kv_heads) as u32;
        Ok(Units::new(pairs, group_size as u32, shape.head_dim))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`] for the stream or any slice; [`Error::Mismatch`] where the step's batch is not the
    /// cache's or its capacity is larger; [`Error::HeadsNotDivisible`], [`Error::GroupSize`];
    /// [`Error::Length`] for q, out and lse; [`Error::Stride`] for q; [`Error::NotFinite`] for the scale;
    /// [`Error::Misaligned`] for q, out and the cache; [`Error::Driver`] from the launch.
    pub fn launch(self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let row_groups = self.units()?.row_groups as i32;
        let shape = self.cache.shape();
        let num_q_heads = self.num_q_heads;
        let q_strides = self.q.strides(
            "q",
            Extent {
                batch: shape.batch,
                tokens: 1,
                heads: num_q_heads,
                head_dim: shape.head_dim,
            },
        )?;
        let softmax_scale = self
            .softmax_scale
            .unwrap_or_else(|| 1.0 / (shape.head_dim as f32).sqrt());
        if !softmax_scale.is_finite() {
            return Err(Error::NotFinite {
                argument: "softmax_scale",
                value: softmax_scale,
            });
        }
        let heads = shape.batch * num_q_heads;
        if self.out.len() != heads * shape.head_dim {
            return Err(Error::Length {
                argument: "out",
                shape: format!("[{}, {num_q_heads}, {}]", shape.batch, shape.head_dim),
                expected: heads * shape.head_dim,
                got: self.out.len(),
            });
        }
        if let Some(lse) = &self.lse
            && lse.len() != heads
        {
            return Err(Error::Length {
                argument: "lse",
                shape: format!("[{}, {num_q_heads}]", shape.batch),
                expected: heads,
                got: lse.len(),
            });
        }

        let (q, _q) = read_vectors("q", self.q.data(), stream)?;
        let (cache, _cache) = self.cache.bind(stream)?;
        let (step, _step) = self.step.bind(stream)?;
        let (out, _out) = write_vectors("out", self.out, stream)?;
        let (lse, _lse) = match self.lse {
            Some(lse) => write("lse", lse, stream)?,
            None => (0, SyncOnDrop::Record(None)),
        };
        let none = abi::KvTokens {
            data: std::ptr::null(),
            batch_stride: 0,
            token_stride: 0,
            head_stride: 0,
        };
        let params = abi::KvDecodeParams {
            step,
            cache,
            q: q_strides.abi(q),
            k_new: none,
            v_new: none,
            rope: abi::KvRope {
                turns: std::ptr::null(),
                cos: std::ptr::null(),
                sin: std::ptr::null(),
                table_positions: 0,
                rotary_dim: 0,
                interleaved: 0,
                factor: 1.0,
            },
            out: out as *mut _,
            lse: lse as *mut f32,
            partials: std::ptr::null_mut(),
            arrivals: std::ptr::null_mut(),
            sinks: std::ptr::null(),
            alibi_slopes: std::ptr::null(),
            num_kv_heads: shape.num_kv_heads as i32,
            group_size: (num_q_heads / shape.num_kv_heads) as i32,
            query_tokens: 1,
            row_groups,
            num_splits: 1,
            sliding_window: 0,
            score_scale: softmax_scale * LOG2_E,
            soft_cap: 0.0,
            soft_cap_scale: 0.0,
        };
        // SAFETY: a decode kernel takes KvDecodeParams. Slices have the lengths that shapes and strides imply, are
        // borrowed (out and lse mutably) and guarded; the kernel reads positions below the step's capacity only,
        // which is at most the cache's, whatever the lengths on the device are.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}

//! calibrate_channel_scale: channel scales from what a cache holds.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use crate::abi;
use crate::cache_view::check_vectors;
use crate::dtype::Element;
use crate::error::{During, Error, Result};
use crate::module::Kernels;
use crate::plan::Plan;
use crate::quantize_plan::Parts;
use crate::shape::{CacheShape, MAX_INDEX, at_least_one, at_most};
use crate::slice::{read_vectors, write, write_vectors};
use crate::span::TokenSpan;

/// A scale for each KV head and channel, on the device: the largest magnitude met there in all calibrations so far, 1
/// where there was none but zeros. Before the first one all are 1.
#[derive(Debug)]
pub struct ChannelScales {
    /// Bits of the largest magnitudes.
    absmax: CudaSlice<u32>,
    scales: CudaSlice<f32>,
    /// Blocks that are done, 0 between launches.
    arrivals: CudaSlice<u32>,
    num_kv_heads: usize,
    head_dim: usize,
}

impl ChannelScales {
    /// Scales of 1.
    ///
    /// # Errors
    /// [`Error::Zero`], [`Error::TooLarge`], or [`Error::Driver`] from the allocations.
    pub fn new(stream: &Arc<CudaStream>, num_kv_heads: usize, head_dim: usize) -> Result<Self> {
        at_least_one("num_kv_heads", num_kv_heads)?;
        at_least_one("head_dim", head_dim)?;
        let channels = num_kv_heads as u128 * head_dim as u128;
        at_most("num_kv_heads * head_dim", channels, MAX_INDEX)?;
        let channels = channels as usize;
        Ok(ChannelScales {
            absmax: stream
                .alloc_zeros(channels)
                .during("allocating magnitudes of channels")?,
            scales: stream
                .clone_htod(&vec![1.0f32; channels])
                .during("allocating channel scales")?,
            arrivals: stream.alloc_zeros(1).during("allocating a count")?,
            num_kv_heads,
            head_dim,
        })
    }

    /// The scales, `f32 [num_kv_heads, head_dim]`, for [`Quantize::channel_scale`](crate::Quantize::channel_scale) and
    /// its like.
    pub fn scales(&self) -> &CudaSlice<f32> {
        &self.scales
    }

    /// The scales alone, for [`KvCache::set_k_channel_scale`](crate::KvCache::set_k_channel_scale).
    pub fn into_scales(self) -> CudaSlice<f32> {
        self.scales
    }

    /// Forgets what was met: the next calibration is the first.
    ///
    /// # Errors
    /// [`Error::OtherContext`], [`Error::Driver`].
    pub fn reset(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        if stream.context() != self.scales.context() {
            return Err(Error::OtherContext { argument: "stream" });
        }
        stream
            .memset_zeros(&mut self.absmax)
            .during("clearing magnitudes of channels")?;
        let ones = vec![1.0f32; self.scales.len()];
        stream
            .memcpy_htod(&ones, &mut self.scales)
            .during("writing channel scales")
    }
}

impl Kernels {
    /// Raises each channel's scale to the largest magnitude that `source` holds there, K or V as
    /// `[batch, num_kv_heads, max_seq_len, head_dim]`. What is not finite does not count.
    ///
    /// Several prompts are calibrated on one after another, into the same scales; only [`ChannelScales::reset`]
    /// forgets. The result does not depend on their order.
    ///
    /// ```no_run
    /// # use half::f16;
    /// # use kv_kernels::{CacheShape, ChannelScales, Kernels, KvCache, Lengths};
    /// # fn main() -> kv_kernels::Result<()> {
    /// # let ctx = kv_kernels::open(0)?;
    /// # let stream = ctx.default_stream();
    /// # let kernels = Kernels::new(&ctx)?;
    /// # let shape = CacheShape { batch: 2, num_kv_heads: 8, max_seq_len: 4096, head_dim: 128 };
    /// # let prefilled = KvCache::<f16>::new(&stream, shape)?;
    /// # let lengths = Lengths::new(&stream, 2, 4096)?;
    /// let mut scales = ChannelScales::new(&stream, shape.num_kv_heads, shape.head_dim)?;
    /// kernels
    ///     .calibrate_channel_scale(prefilled.k(), shape, &mut scales)
    ///     .tokens(&lengths)
    ///     .launch(&stream)?;
    /// let mut cache = KvCache::<i8>::new(&stream, shape)?;
    /// cache.set_k_channel_scale(Some(scales.into_scales()))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn calibrate_channel_scale<'a, T: Element>(
        &'a self,
        source: &'a impl DevicePtr<T>,
        shape: CacheShape,
        scales: &'a mut ChannelScales,
    ) -> Calibrate<'a, T> {
        Calibrate {
            kernels: self,
            source,
            shape,
            scales,
            tokens: TokenSpan::all(),
        }
    }
}

/// A calibration to be launched.
#[must_use = "nothing is calibrated until it is launched"]
pub struct Calibrate<'a, T> {
    kernels: &'a Kernels,
    source: &'a dyn DevicePtr<T>,
    shape: CacheShape,
    scales: &'a mut ChannelScales,
    tokens: TokenSpan<'a>,
}

impl<'a, T: Element> Calibrate<'a, T> {
    /// The tokens to look at; all where not said.
    pub fn tokens(mut self, tokens: impl Into<TokenSpan<'a>>) -> Self {
        self.tokens = tokens.into();
        self
    }

    /// What would be launched; `None` where there are no tokens.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Option<Plan>> {
        let heads = self.shape.num_kv_heads as u32;
        let parts = self.parts()?;
        Ok(parts.map(|parts| Plan::calibrate(parts, heads, T::DTYPE, self.shape.head_dim)))
    }

    fn parts(&self) -> Result<Option<Parts>> {
        parts(self.shape, &self.tokens, T::DTYPE)
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`] for the stream or any slice; those of [`CacheShape::check`]; [`Error::Mismatch`] for a
    /// range of tokens beyond the capacity, or scales of another number of heads or channels; [`Error::TooLarge`] for
    /// more vectors than are indexed; [`Error::Length`] for any slice; [`Error::Misaligned`] for the source;
    /// [`Error::Driver`] from the launch.
    pub fn launch(self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let (plan, parts) = (self.plan()?, self.parts()?);
        let shape = self.shape;
        check_vectors("source", self.source.len(), shape)?;
        for (argument, value, other, other_value) in [
            (
                "num_kv_heads of the channel scales",
                self.scales.num_kv_heads,
                "num_kv_heads",
                shape.num_kv_heads,
            ),
            (
                "head_dim of the channel scales",
                self.scales.head_dim,
                "head_dim",
                shape.head_dim,
            ),
        ] {
            if value != other_value {
                return Err(Error::Mismatch {
                    argument,
                    value,
                    other,
                    other_value,
                });
            }
        }
        let (Some(plan), Some(parts)) = (plan, parts) else {
            return Ok(());
        };
        let (elements, _elements) = read_vectors("source", self.source, stream)?;
        let (absmax, _absmax) = write("channel magnitudes", &mut self.scales.absmax, stream)?;
        let (scales, _scales) = write_vectors("channel scales", &mut self.scales.scales, stream)?;
        let (arrivals, _arrivals) = write("channel arrivals", &mut self.scales.arrivals, stream)?;
        let (span, _span) = self.tokens.bind(shape, stream)?;
        let params = abi::KvCalibrateParams {
            span,
            elements: elements as *const _,
            absmax: absmax as *mut u32,
            scales: scales as *mut f32,
            arrivals: arrivals as *mut u32,
            // Of vectors that an i32 counts.
            parts: parts.count as i32,
            part: parts.vectors as i32,
        };
        // SAFETY: a calibrate kernel takes KvCalibrateParams; slices have the lengths that the shape implies, are
        // borrowed (those written to mutably) and guarded; the kernel keeps to the span's tokens, which are below
        // max_seq_len whatever is on the device.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}

/// How blocks share each KV head's vectors; `None` where there are none.
pub(crate) fn parts(
    shape: CacheShape,
    tokens: &TokenSpan<'_>,
    dtype: crate::dtype::Dtype,
) -> Result<Option<Parts>> {
    shape.check(dtype)?;
    let heads = shape.num_kv_heads as u32; // a factor of all vectors
    let vectors = tokens.covered(shape)?.vectors / heads;
    Ok((vectors > 0).then(|| Parts::new(vectors, heads, shape.head_dim)))
}

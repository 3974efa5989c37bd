//! quantize: K or V of a cache, or packed rows, to a byte an element and a scale a vector.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

use crate::abi;
use crate::cache_view::{check_channel_scale, check_scale, check_vectors, read_vectors_if};
use crate::dtype::{Element, Storage};
use crate::error::Result;
use crate::module::Kernels;
use crate::plan::Plan;
use crate::reference::Payload;
use crate::shape::CacheShape;
use crate::slice::{read_if, read_vectors, write, write_vectors};
use crate::span::TokenSpan;
use crate::step::one_a_sequence;

impl Kernels {
    /// Stores each vector of `source` as a byte an element and a scale: `i8`, or
    /// [`F8E4M3`](crate::reference::F8E4M3). With `MAX` 127 or 448:
    ///
    /// ```text
    /// y       = x                       or x / channel_scale, where there is one
    /// scale   = max |y| / MAX           over the finite y
    /// payload = nearest(y / scale)      ties to even, never past ±MAX; 0 where the scale is 0
    /// ```
    ///
    /// `source` and `payload` are K, or V, `[batch, num_kv_heads, max_seq_len, head_dim]`, and `scales` is
    /// `[batch, num_kv_heads, max_seq_len]`: a cache's own with
    /// [`k_and_scale_mut`](crate::KvCache::k_and_scale_mut). Rows `[tokens, num_kv_heads, head_dim]` are a batch of
    /// `tokens` sequences of one token.
    ///
    /// NaN is stored as 0 and an infinity as ±`MAX`. Neither has a part in the scale, so that the rest of the vector is
    /// as precise as without; a [status](Quantize::status) counts them.
    ///
    /// ```no_run
    /// # use half::f16;
    /// # use kv_kernels::{CacheShape, Kernels, KvCache, Lengths};
    /// # fn main() -> kv_kernels::Result<()> {
    /// # let ctx = kv_kernels::open(0)?;
    /// # let stream = ctx.default_stream();
    /// # let kernels = Kernels::new(&ctx)?;
    /// # let shape = CacheShape { batch: 2, num_kv_heads: 8, max_seq_len: 4096, head_dim: 128 };
    /// # let cache = KvCache::<f16>::new(&stream, shape)?;
    /// # let lengths = Lengths::new(&stream, 2, 4096)?;
    /// let mut small = KvCache::<i8>::new(&stream, shape)?;
    /// if let (payload, Some(scales)) = small.k_and_scale_mut() {
    ///     kernels.quantize(cache.k(), shape, payload, scales).tokens(&lengths).launch(&stream)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn quantize<'a, T: Element, P: Storage + Payload>(
        &'a self,
        source: &'a impl DevicePtr<T>,
        shape: CacheShape,
        payload: &'a mut impl DevicePtrMut<P>,
        scales: &'a mut impl DevicePtrMut<f32>,
    ) -> Quantize<'a, T, P> {
        Quantize {
            kernels: self,
            source,
            shape,
            payload,
            scales,
            channel_scale: None,
            tokens: TokenSpan::all(),
            status: None,
        }
    }
}

/// A quantisation to be launched.
#[must_use = "nothing is quantised until it is launched"]
pub struct Quantize<'a, T, P> {
    kernels: &'a Kernels,
    source: &'a dyn DevicePtr<T>,
    shape: CacheShape,
    payload: &'a mut dyn DevicePtrMut<P>,
    scales: &'a mut dyn DevicePtrMut<f32>,
    channel_scale: Option<&'a dyn DevicePtr<f32>>,
    tokens: TokenSpan<'a>,
    status: Option<&'a dyn DevicePtr<u32>>,
}

impl<'a, T: Element, P: Storage + Payload> Quantize<'a, T, P> {
    /// Divides each element by its channel's scale first, `f32 [num_kv_heads, head_dim]`, each finite and above 0:
    /// [`calibrate_channel_scale`](Kernels::calibrate_channel_scale) makes them.
    pub fn channel_scale(mut self, channel_scale: &'a impl DevicePtr<f32>) -> Self {
        self.channel_scale = Some(channel_scale);
        self
    }

    /// The tokens to quantise; all where not said. What belongs to others is neither read nor written.
    pub fn tokens(mut self, tokens: impl Into<TokenSpan<'a>>) -> Self {
        self.tokens = tokens.into();
        self
    }

    /// Counts elements that are not finite in these status words, `u32 [batch]`
    /// ([`Status::non_finite`](crate::Status::non_finite)). They are raised by atomic operations, through a shared
    /// borrow: read them on the stream that launched.
    pub fn status(mut self, status: &'a impl DevicePtr<u32>) -> Self {
        self.status = Some(status);
        self
    }

    /// What would be launched; `None` where there are no tokens.
    ///
    /// # Errors
    /// Those of [`launch`](Self::launch) that concern shapes.
    pub fn plan(&self) -> Result<Option<Plan>> {
        let shape = self.shape;
        shape.check(T::DTYPE)?;
        let covered = self.tokens.covered(shape)?;
        Ok((covered.vectors > 0)
            .then(|| Plan::quantize(covered.vectors, T::DTYPE, P::DTYPE, shape.head_dim)))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// [`Error::OtherContext`](crate::Error::OtherContext) for the stream or any slice; those of
    /// [`CacheShape::check`]; [`Error::Mismatch`](crate::Error::Mismatch) for a range of tokens beyond the capacity;
    /// [`Error::TooLarge`](crate::Error::TooLarge) for more vectors than are indexed;
    /// [`Error::Length`](crate::Error::Length) for any slice; [`Error::Misaligned`](crate::Error::Misaligned) for
    /// source, payload and channel scales; [`Error::Driver`](crate::Error::Driver) from the launch.
    pub fn launch(self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let shape = self.shape;
        check_vectors("source", self.source.len(), shape)?;
        check_vectors("payload", self.payload.len(), shape)?;
        check_scale("scales", self.scales.len(), P::DTYPE, shape)?;
        if let Some(channel_scale) = self.channel_scale {
            check_channel_scale("channel_scale", channel_scale.len(), P::DTYPE, shape)?;
        }
        if let Some(status) = self.status {
            one_a_sequence("status", status.len(), shape.batch)?;
        }
        let Some(plan) = plan else {
            return Ok(());
        };
        let (elements, _elements) = read_vectors("source", self.source, stream)?;
        let (payload, _payload) = write_vectors("payload", self.payload, stream)?;
        let (scales, _scales) = write("scales", self.scales, stream)?;
        let (channel_scale, _channel_scale) =
            read_vectors_if("channel_scale", self.channel_scale, stream)?;
        let (status, _status) = read_if("status", self.status, stream)?;
        let (span, _span) = self.tokens.bind(shape, stream)?;
        let params = abi::KvQuantizeParams {
            span,
            elements: elements as *mut _,
            payload: payload as *mut _,
            scales: scales as *mut f32,
            channel_scale: channel_scale as *const f32,
            status: status as *mut u32,
        };
        // SAFETY: a quantize kernel takes KvQuantizeParams and reads its elements. Slices have the lengths that the
        // shape implies, are borrowed (those written to mutably, but for status words, which are raised atomically) and
        // guarded; the kernel keeps to the span's tokens, which are below max_seq_len whatever is on the device.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}

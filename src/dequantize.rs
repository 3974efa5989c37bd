//! dequantize: what quantised vectors stand for, in fp16 or bf16.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

use crate::abi;
use crate::cache_view::{check_channel_scale, check_scale, check_vectors, read_vectors_if};
use crate::dtype::{Element, Storage};
use crate::error::Result;
use crate::module::Kernels;
use crate::plan::Plan;
use crate::reference::Payload;
use crate::shape::CacheShape;
use crate::slice::{read, read_vectors, write_vectors};
use crate::span::TokenSpan;

impl Kernels {
    /// Writes `payload · scale`, or `payload · scale · channel_scale`, to `target`: each product rounded to fp32, the
    /// last one to `T`. The slices are those of [`quantize`](Self::quantize).
    pub fn dequantize<'a, P: Storage + Payload, T: Element>(
        &'a self,
        payload: &'a impl DevicePtr<P>,
        scales: &'a impl DevicePtr<f32>,
        shape: CacheShape,
        target: &'a mut impl DevicePtrMut<T>,
    ) -> Dequantize<'a, P, T> {
        Dequantize {
            kernels: self,
            payload,
            scales,
            shape,
            target,
            channel_scale: None,
            tokens: TokenSpan::all(),
        }
    }
}

/// A dequantisation to be launched.
#[must_use = "nothing is dequantised until it is launched"]
pub struct Dequantize<'a, P, T> {
    kernels: &'a Kernels,
    payload: &'a dyn DevicePtr<P>,
    scales: &'a dyn DevicePtr<f32>,
    shape: CacheShape,
    target: &'a mut dyn DevicePtrMut<T>,
    channel_scale: Option<&'a dyn DevicePtr<f32>>,
    tokens: TokenSpan<'a>,
}

impl<'a, P: Storage + Payload, T: Element> Dequantize<'a, P, T> {
    /// What the channels were divided by, `f32 [num_kv_heads, head_dim]`.
    pub fn channel_scale(mut self, channel_scale: &'a impl DevicePtr<f32>) -> Self {
        self.channel_scale = Some(channel_scale);
        self
    }

    /// The tokens to dequantise; all where not said. What belongs to others is neither read nor written.
    pub fn tokens(mut self, tokens: impl Into<TokenSpan<'a>>) -> Self {
        self.tokens = tokens.into();
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
            .then(|| Plan::dequantize(covered.vectors, P::DTYPE, T::DTYPE, shape.head_dim)))
    }

    /// Launches it on a stream. Does not wait.
    ///
    /// # Errors
    /// As [`Quantize::launch`](crate::Quantize::launch).
    pub fn launch(self, stream: &CudaStream) -> Result<()> {
        self.kernels.check_stream(stream)?;
        let plan = self.plan()?;
        let shape = self.shape;
        check_vectors("payload", self.payload.len(), shape)?;
        check_scale("scales", self.scales.len(), P::DTYPE, shape)?;
        check_vectors("target", self.target.len(), shape)?;
        if let Some(channel_scale) = self.channel_scale {
            check_channel_scale("channel_scale", channel_scale.len(), P::DTYPE, shape)?;
        }
        let Some(plan) = plan else {
            return Ok(());
        };
        let (payload, _payload) = read_vectors("payload", self.payload, stream)?;
        let (scales, _scales) = read("scales", self.scales, stream)?;
        let (elements, _elements) = write_vectors("target", self.target, stream)?;
        let (channel_scale, _channel_scale) =
            read_vectors_if("channel_scale", self.channel_scale, stream)?;
        let (span, _span) = self.tokens.bind(shape, stream)?;
        let params = abi::KvQuantizeParams {
            span,
            elements: elements as *mut _,
            payload: payload as *mut _,
            scales: scales as *mut f32,
            channel_scale: channel_scale as *const f32,
            status: std::ptr::null_mut(),
        };
        // SAFETY: a dequantize kernel takes KvQuantizeParams and writes nothing but its elements. The rest as in
        // Quantize::launch.
        unsafe { self.kernels.launch(&plan, &params, stream) }
    }
}

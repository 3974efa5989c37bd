//! Calibration and quantisation captured once in a CUDA graph follow the lengths on the device, with the bits of launches
//! one by one.

use std::sync::Arc;

use half::f16;
use kv_kernels::cudarc::driver::{CudaSlice, CudaStream, sys};
use kv_kernels::{CacheShape, ChannelScales, Kernels, KvCache, Lengths, Result};

use crate::harness::{another_context, numbers};

const SHAPE: CacheShape = CacheShape {
    batch: 2,
    num_kv_heads: 2,
    max_seq_len: 90,
    head_dim: 64,
};

/// A cache, and what it is converted to.
struct Conversion {
    source: CudaSlice<f16>,
    lengths: Lengths,
    channels: ChannelScales,
    stored: KvCache<i8>,
}

impl Conversion {
    fn new(stream: &Arc<CudaStream>) -> Result<Conversion> {
        let source = numbers::<f16>(1, SHAPE.elements()?);
        Ok(Conversion {
            source: stream.clone_htod(&source).expect("upload"),
            lengths: Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len)?,
            channels: ChannelScales::new(stream, SHAPE.num_kv_heads, SHAPE.head_dim)?,
            stored: KvCache::new(stream, SHAPE)?,
        })
    }

    fn launch(&mut self, kernels: &Kernels, stream: &CudaStream) -> Result<()> {
        kernels
            .calibrate_channel_scale(&self.source, SHAPE, &mut self.channels)
            .tokens(&self.lengths)
            .launch(stream)?;
        let (payload, scales) = self.stored.k_and_scale_mut();
        kernels
            .quantize(&self.source, SHAPE, payload, scales.expect("scales"))
            .channel_scale(self.channels.scales())
            .tokens(&self.lengths)
            .launch(stream)
    }

    fn read(&self, stream: &Arc<CudaStream>) -> (Vec<f32>, Vec<i8>, Vec<f32>) {
        let scales = self.stored.k_scale().expect("scales");
        (
            stream.clone_dtoh(self.channels.scales()).expect("download"),
            stream.clone_dtoh(self.stored.k()).expect("download"),
            stream.clone_dtoh(scales).expect("download"),
        )
    }
}

#[test]
fn a_captured_conversion_follows_the_lengths() {
    // A context of its own: other tests' slices keep their event tracking.
    let ctx = another_context();
    // SAFETY: all of this context's work is on one stream.
    unsafe { ctx.disable_event_tracking() };
    let stream = ctx.new_stream().expect("a stream");
    let kernels = Kernels::new(&ctx).expect("the kernels load");
    let mut eager = Conversion::new(&stream).expect("a conversion");
    let mut captured = Conversion::new(&stream).expect("a conversion");
    stream.synchronize().expect("synchronize");
    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .expect("capture");
    captured.launch(&kernels, &stream).expect("a launch");
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .expect("end of capture")
        .expect("a graph");
    let mut last = eager.read(&stream);
    for lens in [[0, 1], [5, 40], [64, 41], [90, 90]] {
        for conversion in [&mut eager, &mut captured] {
            conversion.lengths.set(&stream, &lens).expect("lengths");
        }
        eager.launch(&kernels, &stream).expect("a launch");
        graph.launch().expect("replay");
        let expected = eager.read(&stream);
        assert_eq!(captured.read(&stream), expected, "{lens:?}");
        assert_ne!(expected, last, "{lens:?}: nothing was converted");
        last = expected;
    }
}

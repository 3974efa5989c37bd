//! A step captured once in a CUDA graph replays while sequences grow, with the bits of launches one by one: RoPE, append
//! and attention split over several blocks, one launch a layer.

use half::f16;
use kv_kernels::cudarc::driver::sys;
use kv_kernels::cudarc::driver::{CudaSlice, CudaStream};
use kv_kernels::{
    CacheShape, Kernels, KvCache, Lengths, NewTokens, PairStyle, Result, Rope, RopeFrequencies,
    Stores, Workspace, WorkspaceSize,
};
use std::sync::Arc;

use crate::harness::{another_context, device, numbers};

const LAYERS: usize = 2;
const STEPS: usize = 100;
const SHAPE: CacheShape = CacheShape {
    batch: 2,
    num_kv_heads: 2,
    max_seq_len: 400,
    head_dim: 64,
};
const NUM_Q_HEADS: usize = 6;

/// What a model holds on the device.
struct Model<S> {
    layers: Vec<KvCache<S>>,
    lengths: Lengths,
    q: CudaSlice<f16>,
    k: CudaSlice<f16>,
    v: CudaSlice<f16>,
    out: CudaSlice<f16>,
    rope: Rope<'static>,
    workspace: Workspace,
}

/// As a step of several hundred tokens has it: most are idle while sequences are short.
const NUM_SPLITS: usize = 3;

impl<S: Stores<f16>> Model<S> {
    fn new(stream: &Arc<CudaStream>) -> Result<Model<S>> {
        let vectors = |seed, heads: usize| {
            stream
                .clone_htod(&numbers::<f16>(seed, SHAPE.batch * heads * SHAPE.head_dim))
                .expect("upload")
        };
        let mut lengths = Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len)?;
        lengths.set(stream, &[0, 215])?;
        let frequencies = RopeFrequencies::plain(10_000.0, SHAPE.head_dim).expect("frequencies");
        let size = WorkspaceSize {
            partials: 1 << 14,
            arrivals: 1 << 5,
        };
        Ok(Model {
            layers: (0..LAYERS)
                .map(|_| KvCache::new(stream, SHAPE))
                .collect::<Result<_>>()?,
            lengths,
            q: vectors(1, NUM_Q_HEADS),
            k: vectors(2, SHAPE.num_kv_heads),
            v: vectors(3, SHAPE.num_kv_heads),
            out: vectors(4, NUM_Q_HEADS),
            rope: Rope::new(stream, &frequencies, PairStyle::HalfSplit)?,
            workspace: Workspace::new(stream, size)?,
        })
    }

    /// Each layer's output is the next one's q, so that a step's result depends on all of them; the last one's is the
    /// next step's q.
    fn step(&mut self, kernels: &Kernels, stream: &CudaStream) -> Result<()> {
        let step = self.lengths.step(NewTokens::Each(1))?;
        for cache in &mut self.layers {
            kernels
                .append(&self.k, &self.v, &mut *cache, step)
                .rope(&self.rope)
                .decode(&self.q, NUM_Q_HEADS, &mut self.out)
                .workspace(&mut self.workspace)
                .num_splits(NUM_SPLITS)
                .launch(stream)?;
            std::mem::swap(&mut self.q, &mut self.out);
        }
        kernels
            .advance(&mut self.lengths, NewTokens::Each(1))
            .launch(stream)
    }
}

#[test]
fn a_captured_step_replays_as_sequences_grow() {
    check::<f16>();
}

#[test]
fn a_captured_step_over_int8_replays_too() {
    check::<i8>();
}

fn check<S: Stores<f16>>() {
    let device = device();
    // A context of its own: other tests' slices keep their event tracking.
    let ctx = another_context();
    // SAFETY: all of this context's work is on one stream.
    unsafe { ctx.disable_event_tracking() };
    let stream = ctx.new_stream().expect("a stream");
    let kernels = Kernels::new(&ctx).expect("the kernels load");
    assert_ne!(kernels.context(), device.kernels.context());

    let mut eager = Model::<S>::new(&stream).expect("a model");
    let mut expected = Vec::new();
    for _ in 0..STEPS {
        eager.step(&kernels, &stream).expect("a step");
        expected.push(stream.clone_dtoh(&eager.q).expect("download"));
    }

    let mut model = Model::<S>::new(&stream).expect("a model");
    stream.synchronize().expect("synchronize");
    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .expect("capture");
    model.step(&kernels, &stream).expect("a step");
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .expect("end of capture")
        .expect("a graph");
    for (index, expected) in expected.iter().enumerate() {
        graph.launch().expect("replay");
        let out = stream.clone_dtoh(&model.q).expect("download");
        assert_eq!(&out, expected, "step {index}");
    }
    assert_eq!(model.lengths.get(&stream).expect("lengths"), [100, 315]);
    assert!(model.lengths.status(&stream).expect("status").is_ok());
}

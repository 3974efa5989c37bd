//! What an operation costs on the host, once it has run for the first time: one launch, no other work for the driver,
//! and no memory from the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use half::f16;
use kv_kernels::{
    CacheShape, ChannelScales, DecodeShape, Dtype, Kernels, KvCache, Lengths, NewTokens, PairStyle,
    Partials, Result, Rope, RopeFrequencies, Storage, Workspace,
};

/// The system's allocator, counting what each thread asks it for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system allocator's own doing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SHAPE: CacheShape = CacheShape {
    batch: 1,
    num_kv_heads: 2,
    max_seq_len: 1024,
    head_dim: 64,
};
const NUM_Q_HEADS: usize = 8;

#[test]
fn an_operation_is_one_launch_and_no_allocation() {
    let device = ptx_emulator::install().expect("a GPU or the emulator");
    let emulator = device.emulator();
    let ctx = kv_kernels::open(0).expect("a device");
    // As for a graph's capture: otherwise cudarc waits for and records an event of each slice.
    // SAFETY: all of this context's work is on one stream.
    unsafe { ctx.disable_event_tracking() };
    let stream = ctx.new_stream().expect("a stream");
    let kernels = Kernels::new(&ctx).expect("the kernels load");
    let mut cache = KvCache::<f16>::new(&stream, SHAPE).expect("a cache");
    let mut lengths = Lengths::new(&stream, 1, SHAPE.max_seq_len).expect("lengths");
    let zeros = |heads: usize| {
        stream
            .alloc_zeros::<f16>(heads * SHAPE.head_dim)
            .expect("allocation")
    };
    let (mut q, k, v, mut out) = (
        zeros(NUM_Q_HEADS),
        zeros(SHAPE.num_kv_heads),
        zeros(SHAPE.num_kv_heads),
        zeros(NUM_Q_HEADS),
    );
    let shape = DecodeShape {
        cache: SHAPE,
        dtype: f16::DTYPE,
        k_dtype: f16::DTYPE,
        v_dtype: f16::DTYPE,
        num_q_heads: NUM_Q_HEADS,
        query_tokens: 1,
        sliding_window: None,
    };
    assert_eq!(shape.dtype, Dtype::F16);
    let size = kernels.workspace_size(&shape).expect("a size");
    let mut workspace = Workspace::new(&stream, size).expect("a workspace");
    let one = NewTokens::Each(1);

    type Operation<'a> = &'a mut dyn FnMut() -> Result<()>;
    let check = |name: &str, operation: Operation| {
        operation().expect(name);
        stream.synchronize().expect("synchronize");
        if let Some(emulator) = emulator {
            emulator.take_calls().expect("calls");
        }
        let before = ALLOCATIONS.get();
        operation().expect(name);
        assert_eq!(ALLOCATIONS.get() - before, 0, "allocations of {name}");
        if let Some(emulator) = emulator {
            let mut calls: BTreeMap<String, u64> =
                serde_json::from_str(&emulator.take_calls().expect("calls")).expect("JSON");
            // The rest are this test's own questions.
            calls.retain(|call, _| call.starts_with("cu"));
            // cudarc asks whether the context is current: an answer from the thread's own memory.
            let expected = [("cuCtxGetCurrent", 1), ("cuLaunchKernel", 1)];
            let expected = expected.map(|(call, count)| (call.to_owned(), count));
            assert_eq!(calls, BTreeMap::from(expected), "driver calls of {name}");
        }
        stream.synchronize().expect("synchronize");
    };

    let step = lengths.step(one).expect("a step");
    check("append", &mut || {
        kernels.append(&k, &v, &mut cache, step).launch(&stream)
    });
    check("decode", &mut || {
        kernels
            .decode(&q, NUM_Q_HEADS, &cache, step, &mut out)
            .workspace(&mut workspace)
            .launch(&stream)
    });
    check("append and decode", &mut || {
        kernels
            .append(&k, &v, &mut cache, step)
            .decode(&q, NUM_Q_HEADS, &mut out)
            .workspace(&mut workspace)
            .launch(&stream)
    });
    let frequencies = RopeFrequencies::plain(10_000.0, SHAPE.head_dim).expect("frequencies");
    let rope = Rope::new(&stream, &frequencies, PairStyle::HalfSplit).expect("a rope");
    check("rope", &mut || {
        kernels
            .rope(&rope, SHAPE.head_dim, step)
            .q(&mut q, NUM_Q_HEADS)
            .launch(&stream)
    });
    check("append with rope", &mut || {
        kernels
            .append(&k, &v, &mut cache, step)
            .rope(&rope)
            .launch(&stream)
    });
    check("append with rope, and decode", &mut || {
        kernels
            .append(&k, &v, &mut cache, step)
            .rope(&rope)
            .decode(&q, NUM_Q_HEADS, &mut out)
            .workspace(&mut workspace)
            .launch(&stream)
    });
    check("prefill", &mut || {
        kernels
            .prefill(&q, NUM_Q_HEADS, &cache, step, &mut out)
            .launch(&stream)
    });
    let lse = stream.alloc_zeros::<f32>(NUM_Q_HEADS).expect("allocation");
    let partials = Partials {
        parts: 1,
        rows: NUM_Q_HEADS,
        head_dim: SHAPE.head_dim,
    };
    check("merge", &mut || {
        kernels.merge(&q, &lse, partials, &mut out).launch(&stream)
    });
    let mut small = KvCache::<i8>::new(&stream, SHAPE).expect("a cache");
    let mut channels =
        ChannelScales::new(&stream, SHAPE.num_kv_heads, SHAPE.head_dim).expect("channel scales");
    check("calibrate", &mut || {
        kernels
            .calibrate_channel_scale(cache.k(), SHAPE, &mut channels)
            .tokens(&lengths)
            .launch(&stream)
    });
    check("quantize", &mut || {
        let (payload, scales) = small.k_and_scale_mut();
        kernels
            .quantize(cache.k(), SHAPE, payload, scales.expect("scales"))
            .channel_scale(channels.scales())
            .tokens(&lengths)
            .launch(&stream)
    });
    check("dequantize", &mut || {
        let scales = small.k_scale().expect("scales");
        kernels
            .dequantize(small.k(), scales, SHAPE, cache.k_v_mut().0)
            .channel_scale(channels.scales())
            .tokens(&lengths)
            .launch(&stream)
    });
    small
        .set_k_channel_scale(Some(channels.into_scales()))
        .expect("channel scales");
    check("append to int8", &mut || {
        kernels.append(&k, &v, &mut small, step).launch(&stream)
    });
    check("append to int8 with rope, and decode", &mut || {
        kernels
            .append(&k, &v, &mut small, step)
            .rope(&rope)
            .decode(&q, NUM_Q_HEADS, &mut out)
            .workspace(&mut workspace)
            .launch(&stream)
    });
    check("advance", &mut || {
        kernels.advance(&mut lengths, one).launch(&stream)
    });
}

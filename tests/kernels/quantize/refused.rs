//! What quantize and dequantize refuse, and what the refusal says.

use half::f16;
use kv_kernels::cudarc::driver::CudaSlice;
use kv_kernels::{CacheShape, TokenSpan};

use crate::harness::{Device, another_context, device};
use crate::rejected::refused;

const SHAPE: CacheShape = CacheShape {
    batch: 2,
    num_kv_heads: 3,
    max_seq_len: 4,
    head_dim: 64,
};
const ELEMENTS: usize = 2 * 3 * 4 * 64;
const VECTORS: usize = 2 * 3 * 4;

struct Slices {
    source: CudaSlice<f16>,
    payload: CudaSlice<i8>,
    scales: CudaSlice<f32>,
}

fn slices(source: usize, payload: usize, scales: usize) -> Slices {
    let stream = &device().stream;
    Slices {
        source: stream.alloc_zeros(source).expect("allocation"),
        payload: stream.alloc_zeros(payload).expect("allocation"),
        scales: stream.alloc_zeros(scales).expect("allocation"),
    }
}

#[test]
fn slices_of_another_length() {
    let Device {
        stream, kernels, ..
    } = device();
    for (source, payload, scales, quantize, dequantize) in [
        (
            ELEMENTS - 64,
            ELEMENTS,
            VECTORS,
            "source has 1472 elements: its shape [2, 3, 4, 64] has 1536",
            "target has 1472 elements: its shape [2, 3, 4, 64] has 1536",
        ),
        (
            ELEMENTS,
            ELEMENTS + 1,
            VECTORS,
            "payload has 1537 elements: its shape [2, 3, 4, 64] has 1536",
            "payload has 1537 elements: its shape [2, 3, 4, 64] has 1536",
        ),
        (
            ELEMENTS,
            ELEMENTS,
            VECTORS - 1,
            "scales has 23 elements: its shape [2, 3, 4] has 24",
            "scales has 23 elements: its shape [2, 3, 4] has 24",
        ),
    ] {
        let mut s = slices(source, payload, scales);
        let operation = kernels.quantize(&s.source, SHAPE, &mut s.payload, &mut s.scales);
        refused(operation.launch(stream), quantize);
        let operation = kernels.dequantize(&s.payload, &s.scales, SHAPE, &mut s.source);
        refused(operation.launch(stream), dequantize);
    }
    let mut s = slices(ELEMENTS, ELEMENTS, VECTORS);
    let channels = stream.alloc_zeros::<f32>(64).expect("allocation");
    let quantize = kernels.quantize(&s.source, SHAPE, &mut s.payload, &mut s.scales);
    refused(
        quantize.channel_scale(&channels).launch(stream),
        "channel_scale has 64 elements: its shape [3, 64] has 192",
    );
    let dequantize = kernels.dequantize(&s.payload, &s.scales, SHAPE, &mut s.source);
    refused(
        dequantize.channel_scale(&channels).launch(stream),
        "channel_scale has 64 elements: its shape [3, 64] has 192",
    );
    let words = stream.alloc_zeros::<u32>(3).expect("allocation");
    let quantize = kernels.quantize(&s.source, SHAPE, &mut s.payload, &mut s.scales);
    refused(
        quantize.status(&words).launch(stream),
        "status has 3 elements: its shape [2] has 2",
    );
}

#[test]
fn shapes_and_tokens() {
    let Device {
        stream, kernels, ..
    } = device();
    let mut s = slices(ELEMENTS, ELEMENTS, VECTORS);
    for (shape, message) in [
        (
            CacheShape { batch: 0, ..SHAPE },
            "batch is 0: it must be at least 1",
        ),
        (
            CacheShape {
                head_dim: 72,
                ..SHAPE
            },
            "head_dim is 72: the kernels for f16 are built for [64, 80, 96, 112, 128, 192, 256]",
        ),
    ] {
        let quantize = kernels.quantize(&s.source, shape, &mut s.payload, &mut s.scales);
        refused(quantize.plan(), message);
        let dequantize = kernels.dequantize(&s.payload, &s.scales, shape, &mut s.source);
        refused(dequantize.plan(), message);
    }
    let quantize = kernels.quantize(&s.source, SHAPE, &mut s.payload, &mut s.scales);
    refused(
        quantize.tokens(2..5).launch(stream),
        "end of tokens is 5, but max_seq_len is 4",
    );
    let dequantize = kernels.dequantize(&s.payload, &s.scales, SHAPE, &mut s.source);
    refused(
        dequantize.tokens(2..5).launch(stream),
        "end of tokens is 5, but max_seq_len is 4",
    );
    let (one, two) = (
        stream.alloc_zeros::<i32>(1).expect("allocation"),
        stream.alloc_zeros::<i32>(2).expect("allocation"),
    );
    let quantize = kernels.quantize(&s.source, SHAPE, &mut s.payload, &mut s.scales);
    refused(
        quantize.tokens(TokenSpan::held(&one)).launch(stream),
        "to has 1 elements: its shape [2] has 2",
    );
    let quantize = kernels.quantize(&s.source, SHAPE, &mut s.payload, &mut s.scales);
    refused(
        quantize.tokens(TokenSpan::ranges(&one, &two)).plan(),
        "from has 1 elements: its shape [2] has 2",
    );
}

#[test]
fn slices_that_begin_between_vectors() {
    let Device {
        stream, kernels, ..
    } = device();
    let mut s = slices(ELEMENTS + 8, ELEMENTS + 8, VECTORS);
    let source = s.source.slice(4..4 + ELEMENTS);
    let mut payload = s.payload.slice_mut(..ELEMENTS);
    let quantize = kernels.quantize(&source, SHAPE, &mut payload, &mut s.scales);
    let message = quantize.launch(stream).unwrap_err().to_string();
    assert!(message.starts_with("source begins at 0x"), "{message}");
    let source = s.source.slice(..ELEMENTS);
    let mut payload = s.payload.slice_mut(8..8 + ELEMENTS);
    let quantize = kernels.quantize(&source, SHAPE, &mut payload, &mut s.scales);
    let message = quantize.launch(stream).unwrap_err().to_string();
    assert!(
        message.starts_with("payload begins at 0x")
            && message.ends_with("it must be a multiple of 16 bytes"),
        "{message}"
    );
}

#[test]
fn another_contexts_stream_and_slices() {
    let Device {
        stream, kernels, ..
    } = device();
    let other = another_context();
    let foreign = other.new_stream().expect("a stream");
    let mut s = slices(ELEMENTS, ELEMENTS, VECTORS);
    let quantize = kernels.quantize(&s.source, SHAPE, &mut s.payload, &mut s.scales);
    refused(
        quantize.launch(&foreign),
        "stream belongs to another CUDA context than the kernels",
    );
    let scales = foreign.alloc_zeros::<f32>(VECTORS).expect("allocation");
    let dequantize = kernels.dequantize(&s.payload, &scales, SHAPE, &mut s.source);
    refused(
        dequantize.launch(stream),
        "scales belongs to another CUDA context than the kernels",
    );
}

//! Every input that is refused, and what the refusal says.

use std::fmt::Debug;

use half::f16;
use kv_kernels::{
    CacheMut, CacheRef, CacheShape, Error, KvCache, Lengths, LengthsMut, NewTokens, Result, Step,
    Strides, Tokens,
};

use crate::harness::{Device, another_context, device};

const SHAPE: CacheShape = CacheShape {
    batch: 2,
    num_kv_heads: 2,
    max_seq_len: 8,
    head_dim: 64,
};
/// Elements of one token's K for both sequences.
const ROW: usize = 2 * 2 * 64;

#[track_caller]
pub fn refused<T: Debug>(result: Result<T>, message: &str) {
    match result {
        Ok(value) => panic!("not refused: {value:?}"),
        Err(error) => assert_eq!(error.to_string(), message),
    }
}

fn zeros(elements: usize) -> kv_kernels::cudarc::driver::CudaSlice<f16> {
    device().stream.alloc_zeros(elements).expect("allocation")
}

fn cache_of(shape: CacheShape) -> Result<()> {
    KvCache::<f16>::new(&device().stream, shape).map(drop)
}

#[test]
fn shapes() {
    refused(
        cache_of(CacheShape { batch: 0, ..SHAPE }),
        "batch is 0: it must be at least 1",
    );
    refused(
        cache_of(CacheShape {
            max_seq_len: 0,
            ..SHAPE
        }),
        "max_seq_len is 0: it must be at least 1",
    );
    refused(
        cache_of(CacheShape {
            head_dim: 72,
            ..SHAPE
        }),
        "head_dim is 72: the kernels for f16 are built for [64, 80, 96, 112, 128, 192, 256]",
    );
    refused(
        cache_of(CacheShape {
            max_seq_len: 1 << 31,
            ..SHAPE
        }),
        "max_seq_len is 2147483648: at most 1073741824 can be indexed",
    );
    refused(
        cache_of(CacheShape {
            batch: 1 << 20,
            num_kv_heads: 1 << 12,
            ..SHAPE
        }),
        "batch * num_kv_heads is 4294967296: at most 2147483647 can be indexed",
    );
}

#[test]
fn a_cache_that_does_not_fit_the_device() {
    let vast = CacheShape {
        batch: 1 << 10,
        num_kv_heads: 1 << 10,
        max_seq_len: 1 << 20,
        head_dim: 128,
    };
    assert!(matches!(
        KvCache::<f16>::new(&device().stream, vast),
        Err(Error::Driver {
            during: "allocating K",
            ..
        })
    ));
}

#[test]
fn slices_of_the_wrong_length() {
    let Device {
        stream, kernels, ..
    } = device();
    let (mut k, mut v) = (zeros(2 * 2 * 8 * 64), zeros(2 * 2 * 8 * 64 - 64));
    refused(
        CacheRef::new(&k, &v, SHAPE).map(drop),
        "cache v has 1984 elements: its shape [2, 2, 8, 64] has 2048",
    );
    refused(
        CacheMut::new(&mut v, &mut k, SHAPE).map(drop),
        "cache k has 1984 elements: its shape [2, 2, 8, 64] has 2048",
    );

    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let mut lengths = Lengths::new(stream, 2, 8).expect("lengths");
    let (row, short) = (zeros(ROW), zeros(ROW - 8));
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    refused(
        kernels
            .append(&short, &row, &mut cache, step)
            .launch(stream),
        "k has 248 elements: its shape [2, 1, 2, 64] has 256",
    );
    refused(
        kernels
            .append(&row, Tokens::head_major(&short), &mut cache, step)
            .launch(stream),
        "v has 248 elements: its shape [2, 2, 1, 64] has 256",
    );
    let strides = Strides {
        batch: 256,
        token: 128,
        head: 64,
    };
    refused(
        kernels
            .append(Tokens::strided(&row, strides), &row, &mut cache, step)
            .launch(stream),
        "k has 256 elements: its shape [2, 1, 2, 64] of strides [256, 128, 64, 1] has 384",
    );
    let mut out = zeros(ROW);
    refused(
        kernels
            .decode(&short, 2, &cache, step, &mut out)
            .launch(stream),
        "q has 248 elements: its shape [2, 1, 2, 64] has 256",
    );
    let mut short_out = zeros(ROW - 8);
    refused(
        kernels
            .decode(&row, 2, &cache, step, &mut short_out)
            .launch(stream),
        "out has 248 elements: its shape [2, 1, 2, 64] has 256",
    );
    let mut lse = stream.alloc_zeros::<f32>(3).expect("lse");
    refused(
        kernels
            .decode(&row, 2, &cache, step, &mut out)
            .lse(&mut lse)
            .launch(stream),
        "lse has 3 elements: its shape [2, 1, 2] has 4",
    );
    refused(
        lengths.set(stream, &[1, 2, 3]),
        "seq_lens has 3 elements: its shape [2] has 2",
    );
}

#[test]
fn heads() {
    let Device {
        stream, kernels, ..
    } = device();
    let cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, 2, 8).expect("lengths");
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    let q = zeros(ROW);
    let mut out = zeros(ROW);
    let mut with = |num_q_heads| {
        kernels
            .decode(&q, num_q_heads, &cache, step, &mut out)
            .launch(stream)
    };
    refused(with(0), "num_q_heads is 0: it must be at least 1");
    refused(
        with(3),
        "num_q_heads is 3: it must be a multiple of num_kv_heads, 2",
    );
    refused(
        with(130),
        "group size is 65 (num_q_heads 130 / num_kv_heads 2): at most 64",
    );
}

#[test]
fn steps() {
    let Device {
        stream, kernels, ..
    } = device();
    let lens = stream.alloc_zeros::<i32>(2).expect("lengths");
    let none = lens.slice(0..0);
    refused(
        Step::new(&none, 8, NewTokens::Each(1)).map(drop),
        "batch is 0: it must be at least 1",
    );
    refused(
        Step::new(&lens, 0, NewTokens::Each(1)).map(drop),
        "max_seq_len is 0: it must be at least 1",
    );
    refused(
        Step::new(&lens, 1 << 31, NewTokens::Each(1)).map(drop),
        "max_seq_len is 2147483648: at most 1073741824 can be indexed",
    );
    refused(
        Step::new(&lens, 8, NewTokens::Each(1 << 30)).map(drop),
        "batch * new tokens is 2147483648: at most 2147483647 can be indexed",
    );
    let packed = |total| NewTokens::Packed {
        cu_seqlens: &lens,
        total,
    };
    refused(
        Step::new(&lens, 8, packed(1)).map(drop),
        "cu_seqlens has 2 elements: its shape [2 + 1] has 3",
    );
    refused(
        Step::new(&lens, 8, packed(1 << 31)).map(drop),
        "total new tokens is 2147483648: at most 2147483647 can be indexed",
    );
    let status = stream.alloc_zeros::<u32>(3).expect("status");
    refused(
        Step::new(&lens, 8, NewTokens::Each(1))
            .and_then(|step| step.with_status(&status))
            .map(drop),
        "status has 3 elements: its shape [2] has 2",
    );

    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let row = zeros(ROW);
    let others = Lengths::new(stream, 3, 8).expect("lengths");
    refused(
        kernels
            .append(
                &row,
                &row,
                &mut cache,
                others.step(NewTokens::Each(1)).expect("a step"),
            )
            .launch(stream),
        "batch of the step is 3, but batch of the cache is 2",
    );
    let longer = Lengths::new(stream, 2, 9).expect("lengths");
    let mut out = zeros(ROW);
    refused(
        kernels
            .decode(
                &row,
                2,
                &cache,
                longer.step(NewTokens::Each(1)).expect("a step"),
                &mut out,
            )
            .launch(stream),
        "max_seq_len of the step is 9, but max_seq_len of the cache is 8",
    );
    let many = lens_step(&lens, (1 << 30) - 1);
    refused(
        kernels.append(&row, &row, &mut cache, many).launch(stream),
        "new tokens * num_kv_heads is 4294967292: at most 2147483647 can be indexed",
    );
}

fn lens_step(lens: &kv_kernels::cudarc::driver::CudaSlice<i32>, tokens: usize) -> Step<'_> {
    Step::new(lens, 8, NewTokens::Each(tokens)).expect("a step")
}

#[test]
fn lengths() {
    let stream = &device().stream;
    refused(
        Lengths::new(stream, 0, 8),
        "batch is 0: it must be at least 1",
    );
    refused(
        Lengths::new(stream, 1, 0),
        "max_seq_len is 0: it must be at least 1",
    );
    let mut lengths = Lengths::new(stream, 2, 8).expect("lengths");
    refused(
        lengths.set(stream, &[8, 9]),
        "seq_len 9 of sequence 1: at most max_seq_len, 8",
    );
    refused(
        lengths.set_one(stream, 0, 9),
        "seq_len 9 of sequence 0: at most max_seq_len, 8",
    );
    refused(
        lengths.set_one(stream, 2, 0),
        "sequence is 2: the batch has 2",
    );
    let mut lens = stream.alloc_zeros::<i32>(2).expect("lengths");
    refused(
        LengthsMut::new(&mut lens, 0).map(drop),
        "max_seq_len is 0: it must be at least 1",
    );
}

#[test]
fn views_off_16_bytes() {
    let Device {
        stream, kernels, ..
    } = device();
    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, 2, 8).expect("lengths");
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    let (row, mut longer) = (zeros(ROW), zeros(ROW + 8));
    let off = longer.slice(4..ROW + 4);
    let misaligned = |result: Result<()>, expected: &str| match result {
        Err(Error::Misaligned {
            argument,
            address,
            alignment: 16,
        }) => {
            assert_eq!((argument, address % 16), (expected, 8));
        }
        other => panic!("{expected}: {other:?}"),
    };
    misaligned(
        kernels.append(&off, &row, &mut cache, step).launch(stream),
        "k",
    );
    misaligned(
        kernels.append(&row, &off, &mut cache, step).launch(stream),
        "v",
    );
    let mut out = zeros(ROW);
    misaligned(
        kernels
            .decode(&off, 2, &cache, step, &mut out)
            .launch(stream),
        "q",
    );
    let mut off_out = longer.slice_mut(4..ROW + 4);
    misaligned(
        kernels
            .decode(&row, 2, &cache, step, &mut off_out)
            .launch(stream),
        "out",
    );
    let (k, mut v) = (zeros(2048), zeros(2056));
    let off = v.slice(4..2052);
    let cache = CacheRef::new(&k, &off, SHAPE).expect("a cache");
    misaligned(
        kernels
            .decode(&row, 2, cache, step, &mut out)
            .launch(stream),
        "cache v",
    );
    let mut k = k;
    let mut off = v.slice_mut(4..2052);
    let cache = CacheMut::new(&mut off, &mut k, SHAPE).expect("a cache");
    misaligned(
        kernels.append(&row, &row, cache, step).launch(stream),
        "cache k",
    );
    // A view that begins on 16 bytes is as good as a slice.
    let aligned = longer.slice(8..ROW + 8);
    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    assert_eq!(
        kernels
            .append(&aligned, &aligned, &mut cache, step)
            .launch(stream),
        Ok(())
    );
}

#[test]
fn strides() {
    let Device {
        stream, kernels, ..
    } = device();
    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, 2, 8).expect("lengths");
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    let row = zeros(2 * ROW);
    let off = Strides {
        batch: 132,
        token: 64,
        head: 64,
    };
    refused(
        kernels
            .append(
                Tokens::strided(&row, off),
                Tokens::strided(&row, off),
                &mut cache,
                step,
            )
            .launch(stream),
        "k batch stride is 132 elements: it must be a multiple of 16 bytes",
    );
}

#[test]
fn of_another_context() {
    let Device {
        ctx,
        stream,
        kernels,
    } = device();
    let other_ctx = another_context();
    let other_stream = other_ctx.new_stream().expect("a stream");
    ctx.bind_to_thread().expect("back to ours");

    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let mut lengths = Lengths::new(stream, 2, 8).expect("lengths");
    let mut out = zeros(ROW);
    let row = zeros(ROW);
    let foreign = other_stream.alloc_zeros::<f16>(ROW).expect("allocation");
    let mut foreign_out = other_stream.alloc_zeros::<f16>(ROW).expect("allocation");
    let foreign_cache = KvCache::<f16>::new(&other_stream, SHAPE).expect("a cache");
    let mut foreign_lengths = Lengths::new(&other_stream, 2, 8).expect("lengths");
    let mut foreign_lse = other_stream.alloc_zeros::<f32>(4).expect("allocation");
    let one = NewTokens::Each(1);

    let message =
        |argument: &str| format!("{argument} belongs to another CUDA context than the kernels");
    {
        let step = lengths.step(one).expect("a step");
        refused(
            kernels
                .append(&row, &row, &mut cache, step)
                .launch(&other_stream),
            &message("stream"),
        );
        refused(
            kernels
                .append(&foreign, &row, &mut cache, step)
                .launch(stream),
            &message("k"),
        );
        refused(
            kernels
                .append(&row, &foreign, &mut cache, step)
                .launch(stream),
            &message("v"),
        );
        refused(
            kernels
                .decode(&foreign, 2, &cache, step, &mut out)
                .launch(stream),
            &message("q"),
        );
        refused(
            kernels
                .decode(&row, 2, &foreign_cache, step, &mut out)
                .launch(stream),
            &message("cache k"),
        );
        refused(
            kernels
                .decode(&row, 2, &cache, step, &mut foreign_out)
                .launch(stream),
            &message("out"),
        );
        refused(
            kernels
                .decode(&row, 2, &cache, step, &mut out)
                .lse(&mut foreign_lse)
                .launch(stream),
            &message("lse"),
        );
        let step = foreign_lengths.step(one).expect("a step");
        refused(
            kernels
                .decode(&row, 2, &cache, step, &mut out)
                .launch(stream),
            &message("seq_lens"),
        );
    }
    refused(
        kernels.advance(&mut foreign_lengths, one).launch(stream),
        &message("seq_lens"),
    );
    refused(
        kernels.advance(&mut lengths, one).launch(&other_stream),
        &message("stream"),
    );
    refused(lengths.get(&other_stream), &message("stream"));
    refused(lengths.set(&other_stream, &[0, 0]), &message("stream"));
}

#[test]
fn a_device_there_is_not() {
    device();
    match kv_kernels::open(99) {
        Err(Error::NoDevice { ordinal: 99, count }) => assert!(count >= 1),
        other => panic!("{other:?}"),
    }
}

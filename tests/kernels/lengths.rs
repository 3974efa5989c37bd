//! Lengths and status words: what the host sets and reads, and what the kernels do with numbers no host would set.

use half::f16;
use kv_kernels::{CacheShape, Kernels, KvCache, Lengths, LengthsMut, NewTokens, Status, Step};

use crate::harness::{bits, device, download, numbers, upload};

const SHAPE: CacheShape = CacheShape {
    batch: 4,
    num_kv_heads: 1,
    max_seq_len: 6,
    head_dim: 64,
};

#[test]
fn set_and_cut_back() {
    let stream = &device().stream;
    let mut lengths = Lengths::new(stream, 3, 10).expect("lengths");
    assert_eq!((lengths.batch(), lengths.max_seq_len()), (3, 10));
    assert_eq!(lengths.get(stream).expect("get"), [0, 0, 0]);
    lengths.set(stream, &[10, 0, 7]).expect("set");
    lengths.set_one(stream, 0, 2).expect("set one");
    assert_eq!(lengths.get(stream).expect("get"), [2, 0, 7]);
}

#[test]
fn status_stays_until_cleared() {
    let device = device();
    let stream = &device.stream;
    let mut lengths = Lengths::new(stream, 3, 10).expect("lengths");
    lengths.set(stream, &[10, 9, 10]).expect("set");
    device
        .kernels
        .advance(&mut lengths, NewTokens::Each(1))
        .launch(stream)
        .expect("advance");
    assert_eq!(lengths.get(stream).expect("get"), [10, 10, 10]);
    let status = lengths.status(stream).expect("status");
    assert_eq!(status.over_capacity().collect::<Vec<_>>(), [0, 2]);
    lengths.set_one(stream, 2, 0).expect("set one");
    let status = lengths.status(stream).expect("status");
    assert_eq!(status.over_capacity().collect::<Vec<_>>(), [0]);
    lengths.clear_status(stream).expect("clear");
    assert!(lengths.status(stream).expect("status").is_ok());
}

/// Lengths in slices an engine keeps, with values that are no lengths.
#[test]
fn numbers_out_of_range_are_flagged_and_touch_nothing() {
    let device = device();
    let stream = &device.stream;
    let wild = [-1, 7, i32::MAX, i32::MIN];
    let mut seq_lens = stream.clone_htod(&wild).expect("upload");
    let status = stream.alloc_zeros::<u32>(4).expect("status");
    let host = numbers::<f16>(1, SHAPE.elements().expect("a shape"));
    let mut k = upload(&host);
    let mut v = upload(&host);
    let new = upload(&numbers::<f16>(2, 4 * 64));
    let mut out = upload(&[f16::NAN; 4 * 64]);

    let step = Step::new(&seq_lens, 6, NewTokens::Each(1))
        .and_then(|step| step.with_status(&status))
        .expect("a step");
    let cache = kv_kernels::CacheMut::new(&mut k, &mut v, SHAPE).expect("a cache");
    device
        .kernels
        .append(&new, &new, cache, step)
        .launch(stream)
        .expect("append");
    let cache = kv_kernels::CacheRef::new(&k, &v, SHAPE).expect("a cache");
    device
        .kernels
        .decode(&new, 1, cache, step, &mut out)
        .launch(stream)
        .expect("decode");
    let lengths = LengthsMut::new(&mut seq_lens, 6)
        .and_then(|lengths| lengths.with_status(&status))
        .expect("lengths");
    device
        .kernels
        .advance(lengths, NewTokens::Each(1))
        .launch(stream)
        .expect("advance");

    assert_eq!(bits(&download(&k)), bits(&host));
    assert_eq!(bits(&download(&v)), bits(&host));
    assert_eq!(download(&out), [f16::ZERO; 4 * 64]);
    assert_eq!(stream.clone_dtoh(&seq_lens).expect("download"), wild);
    let status = Status::from_words(stream.clone_dtoh(&status).expect("download"));
    assert_eq!(status.bad_seq_len().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

/// Running totals that do not start at 0, go down, or end behind the vectors.
#[test]
fn packed_totals_out_of_range_touch_nothing_else() {
    let device = device();
    let stream = &device.stream;
    for (cu_seqlens, flags, lens) in [
        ([2, 3, 4, 4, 4], [0, 0, 0, 0], [1, 1, 0, 0]),
        ([0, 3, 1, 2, 2], [0, 4, 0, 0], [3, 0, 1, 0]),
        ([0, 0, 0, 0, i32::MAX], [0, 0, 0, 1], [0, 0, 0, 0]),
        ([i32::MIN, i32::MAX, 0, 1, 2], [1, 4, 0, 0], [0, 0, 1, 1]),
    ] {
        let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
        let mut lengths = Lengths::new(stream, 4, 6).expect("lengths");
        let new = upload(&numbers::<f16>(2, 4 * 64));
        let totals = stream.clone_htod(&cu_seqlens).expect("upload");
        let packed = NewTokens::Packed {
            cu_seqlens: &totals,
            total: 4,
        };
        let step = lengths.step(packed).expect("a step");
        device
            .kernels
            .append(&new, &new, &mut cache, step)
            .launch(stream)
            .expect("append");
        device
            .kernels
            .advance(&mut lengths, packed)
            .launch(stream)
            .expect("advance");
        let status = lengths.status(stream).expect("status");
        assert_eq!(status.words(), flags, "{cu_seqlens:?}");
        assert_eq!(lengths.get(stream).expect("get"), lens, "{cu_seqlens:?}");
    }
}

#[test]
fn kernels_are_loaded_once_a_context() {
    let device = device();
    let again = Kernels::new(&device.ctx).expect("kernels");
    assert_eq!(again.context(), device.kernels.context());
}

#[test]
fn a_step_without_tokens_launches_nothing_to_append() {
    let device = device();
    let stream = &device.stream;
    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, 4, 6).expect("lengths");
    let some = upload(&[f16::NAN; 8]);
    let none = some.slice(0..0);
    let step = lengths.step(NewTokens::Each(0)).expect("a step");
    let append = device.kernels.append(&none, &none, &mut cache, step);
    assert_eq!(append.plan(), Ok(None));
    append.launch(stream).expect("append");
}

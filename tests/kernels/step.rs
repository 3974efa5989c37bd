//! The fused step, RoPE and append and attention in one launch, against the same as separate launches: the cache bit for
//! bit, and attention within the tolerance of the oracle over that cache with the queries that `rope` turned.

use half::{bf16, f16};
use kv_kernels::reference::{self, Comparison, Options, Rows};
use kv_kernels::{
    CacheShape, HEAD_DIMS, KvCache, Lengths, NewTokens, PairStyle, Rope, RopeFrequencies,
};
use proptest::prelude::*;

use crate::case::{Case, New};
use crate::harness::{Device, Number, bits, device, download, numbers, upload};

/// Runs a case's step in one launch and in three. Every sequence has room.
fn check<T: Number>(case: &Case, rotary_dim: usize, pairs: PairStyle) {
    let Device {
        stream, kernels, ..
    } = device();
    let shape = case.shape;
    let New::Each(tokens) = case.new else {
        panic!("a fused step has as many tokens for each");
    };
    let num_q_heads = shape.num_kv_heads * case.group_size;
    let vectors = |seed, heads: usize| {
        numbers::<T>(
            case.seed + seed,
            shape.batch * tokens * heads * shape.head_dim,
        )
    };
    let q = vectors(4, num_q_heads);
    let k = upload(&vectors(2, shape.num_kv_heads));
    let v = upload(&vectors(3, shape.num_kv_heads));
    let frequencies = RopeFrequencies::plain(10_000.0, rotary_dim).expect("frequencies");
    let rope = Rope::new(stream, &frequencies, pairs).expect("a rope");
    let lens: Vec<usize> = case.seq_lens.iter().map(|&len| len as usize).collect();
    let mut lengths = Lengths::new(stream, shape.batch, shape.max_seq_len).expect("lengths");
    lengths.set(stream, &lens).expect("set");
    let step = lengths.step(NewTokens::Each(tokens)).expect("a step");
    let cache = || {
        let mut cache = KvCache::<T>::new(stream, shape).expect("a cache");
        let (to_k, to_v) = cache.k_v_mut();
        let halves = [(to_k, 0), (to_v, 1)];
        for (to, seed) in halves {
            let values = case.poisoned::<T>(seed);
            stream.memcpy_htod(&values, to).expect("upload");
        }
        cache
    };

    let mut fused = cache();
    let q_device = upload(&q);
    let mut out = upload(&vec![T::NAN; q.len()]);
    let mut workspace = case.workspace::<T, T, T>();
    let mut decode = kernels
        .append(&k, &v, &mut fused, step)
        .rope(&rope)
        .decode(&q_device, num_q_heads, &mut out)
        .workspace(&mut workspace);
    if let Some(num_splits) = case.num_splits {
        decode = decode.num_splits(num_splits);
    }
    decode.launch(stream).expect("the fused step");
    assert_eq!(bits(&download(&q_device)), bits(&q), "q stays as it was");

    let mut apart = cache();
    let mut turned = upload(&q);
    kernels
        .append(&k, &v, &mut apart, step)
        .rope(&rope)
        .launch(stream)
        .expect("append");
    kernels
        .rope(&rope, shape.head_dim, step)
        .q(&mut turned, num_q_heads)
        .launch(stream)
        .expect("rope");
    assert_eq!(
        bits(&download(fused.k())),
        bits(&download(apart.k())),
        "K of {case:?}"
    );
    assert_eq!(
        bits(&download(fused.v())),
        bits(&download(apart.v())),
        "V of {case:?}"
    );
    // Turned on the way to attention instead of in place: the same bits.
    let mut attended = [0; 2].map(|_| upload(&vec![T::NAN; q.len()]));
    let [of_turned, of_given] = &mut attended;
    kernels
        .decode(&turned, num_q_heads, &apart, step, of_turned)
        .query_tokens(tokens)
        .launch(stream)
        .expect("decode");
    kernels
        .decode(&q_device, num_q_heads, &apart, step, of_given)
        .query_tokens(tokens)
        .rope(&rope)
        .launch(stream)
        .expect("decode with rope");
    assert_eq!(
        bits(&download(of_turned)),
        bits(&download(of_given)),
        "q of {case:?}"
    );

    let kv_lens: Vec<i32> = case
        .seq_lens
        .iter()
        .map(|len| len + tokens as i32)
        .collect();
    let expected = reference::decode(reference::Decode {
        map: &case.map(),
        k_cache: &download(apart.k()),
        v_cache: &download(apart.v()),
        q: &download(&turned),
        rows: Rows::Uniform {
            batch: shape.batch,
            tokens,
        },
        num_q_heads,
        kv_lens: &kv_lens,
        options: Options::default(),
    })
    .expect("the oracle attends");
    for (what, out) in [("in one launch", &out), ("apart", of_turned)] {
        let compared = Comparison::of(&download(out), &expected.out).expect("as many");
        assert!(
            compared.within(T::TOLERANCE),
            "{what}, {case:?}: {compared}"
        );
    }
}

const STYLES: [PairStyle; 2] = [PairStyle::HalfSplit, PairStyle::Interleaved];

#[test]
fn every_head_dim_and_style() {
    for &head_dim in HEAD_DIMS {
        for (index, pairs) in STYLES.into_iter().enumerate() {
            let shape = CacheShape {
                batch: 4,
                num_kv_heads: 2,
                max_seq_len: 300,
                head_dim,
            };
            let mut case = Case::new(shape, 5, &[0, 31, 128, 290]).fused(1 + 3 * index);
            check::<f16>(&case, head_dim, pairs);
            case.num_splits = Some(2);
            check::<bf16>(&case, head_dim / 2, pairs);
        }
    }
}

/// Without room nothing is appended, RoPE or not, and the sequence is flagged.
#[test]
fn a_sequence_without_room_is_left_as_it_is() {
    let shape = CacheShape {
        batch: 2,
        num_kv_heads: 1,
        max_seq_len: 40,
        head_dim: 64,
    };
    Case::new(shape, 3, &[40, 36]).fused(4).check::<f16>();
    Case::new(shape, 3, &[37, 36]).fused(4).check::<f16>();
}

#[test]
fn tables_too_short_are_refused() {
    let Device {
        stream, kernels, ..
    } = device();
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 1,
        max_seq_len: 40,
        head_dim: 64,
    };
    let mut cache = KvCache::<f16>::new(stream, shape).expect("a cache");
    let lengths = Lengths::new(stream, 1, 40).expect("lengths");
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    let table = stream.alloc_zeros::<f32>(39 * 32).expect("a table");
    let vector = upload(&[f16::ONE; 64]);
    let mut out = upload(&[f16::ONE; 64]);
    let rope = Rope::from_tables(&table, &table, 39, 64, PairStyle::HalfSplit).expect("a rope");
    let error = kernels
        .append(&vector, &vector, &mut cache, step)
        .rope(&rope)
        .decode(&vector, 1, &mut out)
        .launch(stream)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "positions of the rope tables is 39, but max_seq_len of the step is 40"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn one_launch_is_as_three(
        (batch, num_kv_heads, group_size) in (1usize..4, 1usize..4, 1usize..20),
        head_dim in prop::sample::select(HEAD_DIMS),
        tokens in 1usize..9,
        longest in 0usize..300,
        num_splits in prop::option::of(1usize..5),
        pairs in 1usize..128,
        style in prop::sample::select(&STYLES[..]),
        seed in 0u64..1 << 60,
        is_bf16: bool,
    ) {
        let seq_lens: Vec<i32> = (0..batch).map(|i| (longest / (i + 1)) as i32).collect();
        let shape = CacheShape { batch, num_kv_heads, max_seq_len: longest + tokens, head_dim };
        let case = Case { num_splits, seed, ..Case::new(shape, group_size, &seq_lens).fused(tokens) };
        let rotary_dim = 2 * pairs.min(head_dim / 2);
        if is_bf16 {
            check::<bf16>(&case, rotary_dim, style);
        } else {
            check::<f16>(&case, rotary_dim, style);
        }
    }
}

//! Attention over caches of a byte an element, and appending to them: everything that caches of 16 bits are held to, with
//! the oracle attending over what the payload and scales stand for.

use half::{bf16, f16};
use kv_kernels::reference::{self, F8E4M3, Options, Rows, Span};
use kv_kernels::{CacheMut, CacheRef, CacheShape, HEAD_DIMS, KvCache, Lengths, NewTokens, Stores};
use proptest::prelude::*;

use crate::attention::ATTENTIONS;
use crate::case::{Case, New};
use crate::harness::{Device, Number, device, download, numbers, upload};
use crate::properties::case;
use crate::stored::Kept;

/// Tokens cached before the step's own: none, one, and around what a kernel counts in (32 tokens a tile, 128 a round).
const LENGTHS: &[i32] = &[0, 1, 31, 32, 97, 127, 128, 129, 600];

fn table<T: Number, K: Kept<T> + Stores<T>, V: Kept<T> + Stores<T>>(
    head_dims: &[usize],
    groups: &[usize],
) {
    for &head_dim in head_dims {
        for (index, &group_size) in groups.iter().enumerate() {
            let shape = CacheShape {
                batch: LENGTHS.len(),
                num_kv_heads: 2,
                max_seq_len: 603,
                head_dim,
            };
            let case = Case {
                channel_scales: index % 2 == 1,
                ..Case::new(shape, group_size, LENGTHS)
            };
            case.check_stored::<T, K, V>();
            let fused = Case {
                num_splits: Some(3),
                ..case.fused(1 + index % 3)
            };
            fused.check_stored::<T, K, V>();
        }
    }
}

#[test]
fn int8() {
    table::<f16, i8, i8>(HEAD_DIMS, &[1, 7, 16]);
    table::<bf16, i8, i8>(&[64, 128], &[4, 17]);
}

#[test]
fn fp8() {
    table::<f16, F8E4M3, F8E4M3>(HEAD_DIMS, &[5, 16]);
    table::<bf16, F8E4M3, F8E4M3>(&[64, 128], &[8, 40]);
}

#[test]
fn int8_keys_alone() {
    table::<f16, i8, f16>(HEAD_DIMS, &[8]);
    table::<bf16, i8, bf16>(HEAD_DIMS, &[9]);
}

#[test]
fn int8_values_alone() {
    table::<f16, f16, i8>(HEAD_DIMS, &[8]);
    table::<bf16, bf16, i8>(HEAD_DIMS, &[9]);
}

#[test]
fn every_option() {
    for attention in ATTENTIONS {
        let shape = CacheShape {
            batch: LENGTHS.len(),
            num_kv_heads: 1,
            max_seq_len: 602,
            head_dim: 64,
        };
        let case = Case {
            attention,
            query_tokens: 3,
            num_splits: Some(2),
            channel_scales: true,
            ..Case::new(shape, 5, LENGTHS)
        };
        case.check_stored::<f16, i8, i8>();
        case.check_stored::<bf16, F8E4M3, F8E4M3>();
        case.fused(2).check_stored::<f16, i8, i8>();
    }
}

/// Scales of tokens over six orders of magnitude, and tokens of zeros, which have none.
#[test]
fn tokens_of_all_sizes() {
    let shape = CacheShape {
        batch: LENGTHS.len(),
        num_kv_heads: 2,
        max_seq_len: 603,
        head_dim: 64,
    };
    for (group_size, softmax_scale) in [(3, None), (16, Some(0.25)), (8, Some(-0.01))] {
        let mut case = Case {
            uneven: true,
            ..Case::new(shape, group_size, LENGTHS)
        };
        case.attention.softmax_scale = softmax_scale;
        case.check_stored::<f16, i8, i8>();
        case.check_stored::<f16, F8E4M3, F8E4M3>();
        case.check_stored::<f16, f16, i8>();
        case.fused(2).check_stored::<bf16, i8, i8>();
    }
}

/// What is not finite is stored as something that is, and counted; in one launch and in two.
#[test]
fn what_is_not_finite_is_counted() {
    let shape = CacheShape {
        batch: 3,
        num_kv_heads: 5,
        max_seq_len: 40,
        head_dim: 80,
    };
    let case = Case {
        non_finite: true,
        channel_scales: true,
        new: New::Packed(vec![0, 3, 3, 25]),
        ..Case::new(shape, 2, &[0, 12, 38])
    };
    case.check_stored::<f16, i8, i8>();
    case.check_stored::<bf16, F8E4M3, F8E4M3>();
    let fused = case.fused(2);
    fused.check_stored::<f16, i8, i8>();
    fused.check_stored::<bf16, F8E4M3, F8E4M3>();
}

/// K from −23.3 to 21.8 in a few channels and a tenth of that in the others, V from −2.9 to 3.2, as a layer of
/// Qwen2.5-14B has them: attention over int8 with channel scales is that over fp16, by the cosine of every head's output.
#[test]
fn a_layer_with_outlier_channels() {
    const TOKENS: usize = 512;
    const GROUP_SIZE: usize = 5;
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 8,
        max_seq_len: TOKENS,
        head_dim: 128,
    };
    let case = Case::new(shape, GROUP_SIZE, &[TOKENS as i32]);
    let map = case.map();
    let between = |seed, low: f32, high: f32| {
        let unit = numbers::<f16>(seed, map.elements()).into_iter();
        unit.map(move |x| low + (high - low) * (f32::from(x) + 1.0) / 2.0)
    };
    let k: Vec<f16> = between(1, -23.3, 21.8)
        .enumerate()
        .map(|(i, x)| f16::from_f32(if i % 128 % 43 == 7 { x } else { x / 10.0 }))
        .collect();
    let v: Vec<f16> = between(2, -2.9, 3.2).map(f16::from_f32).collect();
    let queries = shape.num_kv_heads * GROUP_SIZE;
    let q = numbers::<f16>(3, queries * 128);
    let channel_scale = reference::calibrate_channel_scale(reference::Calibrate {
        map: &map,
        span: Span::Whole,
        cache: &k,
    })
    .expect("channel scales");

    let Device {
        stream, kernels, ..
    } = device();
    let seq_lens = [TOKENS as i32];
    let k_side = <i8 as Kept<f16>>::keep(&map, &seq_lens, &k, Some(channel_scale));
    let v_side = <i8 as Kept<f16>>::keep(&map, &seq_lens, &v, None);
    let cache = case.cache(&k_side, &v_side);
    let mut lengths = Lengths::new(stream, 1, TOKENS).expect("lengths");
    lengths.set(stream, &[TOKENS]).expect("set");
    let step = lengths.step(NewTokens::Each(0)).expect("a step");
    let mut out = upload(&vec![f16::NAN; q.len()]);
    kernels
        .decode(&upload(&q), queries, &cache, step, &mut out)
        .launch(stream)
        .expect("decode");
    let expected = reference::decode(reference::Decode {
        map: &map,
        k_cache: &k,
        v_cache: &v,
        q: &q,
        rows: Rows::Uniform {
            batch: 1,
            tokens: 1,
        },
        num_q_heads: queries,
        kv_lens: &seq_lens,
        options: Options::default(),
    })
    .expect("the oracle attends");
    let out = download(&out);
    for (head, (found, expected)) in out.chunks(128).zip(expected.out.chunks(128)).enumerate() {
        let found: Vec<f64> = found.iter().map(|x| f64::from(f32::from(*x))).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&found, expected) / (dot(&found, &found) * dot(expected, expected)).sqrt();
        assert!(cosine >= 0.9999, "head {head}: {cosine}");
    }
}

/// Payload and scales that an engine owns.
#[test]
fn a_cache_without_its_scales_is_refused() {
    let Device {
        stream, kernels, ..
    } = device();
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 1,
        max_seq_len: 40,
        head_dim: 64,
    };
    let mut k = stream.alloc_zeros::<i8>(40 * 64).expect("k");
    let mut v = stream.alloc_zeros::<i8>(40 * 64).expect("v");
    let mut k_scale = stream.alloc_zeros::<f32>(40).expect("scales");
    let lengths = Lengths::new(stream, 1, 40).expect("lengths");
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    let vector = upload(&[f16::ONE; 64]);
    let mut out = upload(&[f16::ONE; 64]);
    let cache = CacheMut::<i8>::new(&mut k, &mut v, shape).expect("a cache");
    let cache = cache.k_scale(&mut k_scale).expect("scales");
    let error = kernels
        .append(&vector, &vector, cache, step)
        .launch(stream)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "v_scale is missing: vectors of int8 have a scale each"
    );
    let cache = CacheRef::<i8>::new(&k, &v, shape).expect("a cache");
    let error = kernels
        .decode(&vector, 1, cache, step, &mut out)
        .launch(stream)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "k_scale is missing: vectors of int8 have a scale each"
    );
    let mixed = KvCache::<F8E4M3, f16>::new(stream, shape).expect("a cache");
    let error = kernels
        .decode(&vector, 1, &mixed, step, &mut out)
        .plan()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a cache of fp8 keys and f16 values under f16 queries: "),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn any_step(mut case in case(), types in 0..6) {
        // Queries are rounded to 16 bits: scores of hundreds would be off by more than lse may be.
        case.attention.softmax_scale = case.attention.softmax_scale.map(|scale| scale / 8.0);
        match types {
            0 => drop(case.check_stored::<f16, i8, i8>()),
            1 => drop(case.check_stored::<f16, F8E4M3, F8E4M3>()),
            2 => drop(case.check_stored::<f16, f16, i8>()),
            3 => drop(case.check_stored::<f16, i8, f16>()),
            4 => drop(case.check_stored::<bf16, i8, i8>()),
            _ => drop(case.check_stored::<bf16, bf16, i8>()),
        }
    }
}

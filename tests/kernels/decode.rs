//! The case table of decode: dtype × head_dim × group × lengths, all lengths of a batch in one launch.

use half::{bf16, f16};
use kv_kernels::CacheShape;

use crate::case::{Case, New};
use crate::harness::{Number, device, download, upload};

/// Tokens cached before the step's own: none, one, and around what a kernel counts in (32 tokens a tile).
const LENGTHS: &[i32] = &[0, 1, 30, 31, 32, 54, 97, 127, 128, 129, 2049];
const MAX_SEQ_LEN: usize = 2051;
const GROUPS: &[usize] = &[1, 4, 5, 8, 9, 16, 17];

fn table<T: Number>(head_dim: usize) {
    for &group_size in GROUPS {
        let shape = CacheShape {
            batch: LENGTHS.len(),
            num_kv_heads: 2,
            max_seq_len: MAX_SEQ_LEN,
            head_dim,
        };
        Case::new(shape, group_size, LENGTHS).check::<T>();
    }
}

#[test]
fn f16_64() {
    table::<f16>(64);
}

#[test]
fn f16_128() {
    table::<f16>(128);
}

#[test]
fn bf16_64() {
    table::<bf16>(64);
}

#[test]
fn bf16_128() {
    table::<bf16>(128);
}

/// The other head dimensions, a group each of one and of several blocks.
#[test]
fn every_head_dim() {
    for &head_dim in kv_kernels::HEAD_DIMS {
        for group_size in [7, 40] {
            let shape = CacheShape {
                batch: LENGTHS.len(),
                num_kv_heads: 1,
                max_seq_len: 300,
                head_dim,
            };
            let lengths: Vec<i32> = LENGTHS.iter().map(|&length| length.min(299)).collect();
            Case::new(shape, group_size, &lengths).check::<f16>();
            Case::new(shape, group_size, &lengths).check::<bf16>();
        }
    }
}

#[test]
fn a_sequence_alone_and_in_a_batch_give_the_same_bits() {
    let shape = CacheShape {
        batch: 3,
        num_kv_heads: 2,
        max_seq_len: 200,
        head_dim: 64,
    };
    let together = Case::new(shape, 3, &[150, 150, 150]).check::<f16>();
    let again = Case::new(shape, 3, &[150, 150, 150]).check::<f16>();
    assert_eq!(together, again);
}

#[test]
fn scores_far_apart_do_not_overflow() {
    // Scores up to ±64: beyond what exp holds without the maximum taken out.
    let shape = CacheShape {
        batch: 2,
        num_kv_heads: 1,
        max_seq_len: 160,
        head_dim: 64,
    };
    let mut case = Case::new(shape, 4, &[150, 33]);
    case.attention.softmax_scale = Some(8.0);
    case.check::<f16>();
    case.attention.softmax_scale = Some(-8.0);
    case.check::<f16>();
    case.attention.softmax_scale = Some(0.0);
    case.check::<bf16>();
}

#[test]
fn without_new_tokens_it_attends_to_what_is_cached() {
    let shape = CacheShape {
        batch: 3,
        num_kv_heads: 2,
        max_seq_len: 64,
        head_dim: 128,
    };
    let mut case = Case::new(shape, 2, &[0, 64, 40]);
    case.new = New::Each(0);
    case.check::<f16>();
}

#[test]
fn lse_is_optional() {
    let device = device();
    let stream = &device.stream;
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 1,
        max_seq_len: 8,
        head_dim: 64,
    };
    let cache = kv_kernels::KvCache::<f16>::new(stream, shape).expect("a cache");
    let lengths = kv_kernels::Lengths::new(stream, 1, 8).expect("lengths");
    let step = lengths
        .step(kv_kernels::NewTokens::Each(0))
        .expect("a step");
    let q = upload(&[f16::ONE; 64]);
    let mut out = upload(&[f16::NAN; 64]);
    device
        .kernels
        .decode(&q, 1, &cache, step, &mut out)
        .launch(stream)
        .expect("decode");
    assert_eq!(download(&out), [f16::ZERO; 64]);
}

//! What shapes attention, each alone and together: options, several query tokens, splits, and appending in the same
//! launch. Lengths of a batch go from none to the capacity, whose last tokens find no room.

use half::{bf16, f16};
use kv_kernels::CacheShape;

use crate::case::{Attention, Case, New};
use crate::harness::Number;

const SHAPE: CacheShape = CacheShape {
    batch: 9,
    num_kv_heads: 2,
    max_seq_len: 700,
    head_dim: 64,
};
const LENGTHS: &[i32] = &[0, 1, 7, 31, 127, 128, 129, 600, 700];

/// Each option alone, and all of them.
pub const ATTENTIONS: [Attention; 7] = [
    PLAIN,
    Attention {
        softmax_scale: Some(0.7),
        ..PLAIN
    },
    Attention {
        logits_soft_cap: Some(2.0),
        ..PLAIN
    },
    Attention {
        sliding_window: Some(50),
        ..PLAIN
    },
    Attention {
        sinks: true,
        ..PLAIN
    },
    Attention {
        alibi_slopes: true,
        ..PLAIN
    },
    Attention {
        softmax_scale: Some(-0.4),
        logits_soft_cap: Some(30.0),
        sliding_window: Some(257),
        sinks: true,
        alibi_slopes: true,
    },
];
const PLAIN: Attention = Attention {
    softmax_scale: None,
    logits_soft_cap: None,
    sliding_window: None,
    sinks: false,
    alibi_slopes: false,
};

/// Every option with every way to launch it.
fn table<T: Number>(head_dim: usize, group_size: usize) {
    let shape = CacheShape { head_dim, ..SHAPE };
    for attention in ATTENTIONS {
        let case = Case {
            attention,
            ..Case::new(shape, group_size, LENGTHS)
        };
        case.check::<T>();
        let split = Case {
            num_splits: Some(3),
            ..case.clone()
        };
        split.clone().fused(1).check::<T>();
        Case {
            query_tokens: 5,
            ..split
        }
        .check::<T>();
        case.fused(4).check::<T>();
    }
}

#[test]
fn f16_of_64() {
    table::<f16>(64, 3);
}

#[test]
fn f16_of_128() {
    table::<f16>(128, 8);
}

#[test]
fn bf16_of_128() {
    table::<bf16>(128, 5);
}

#[test]
fn bf16_of_256() {
    table::<bf16>(256, 2);
}

#[test]
fn a_window_of_one_is_the_token_itself() {
    for num_splits in [1, 2] {
        let case = Case {
            attention: Attention {
                sliding_window: Some(1),
                ..PLAIN
            },
            num_splits: Some(num_splits),
            ..Case::new(SHAPE, 4, LENGTHS)
        };
        case.check::<f16>();
        case.fused(8).check::<f16>();
    }
}

/// Far more splits than a sequence has tiles: the idle ones leave nothing behind.
#[test]
fn more_splits_than_work() {
    let case = Case {
        num_splits: Some(40),
        ..Case::new(SHAPE, 8, LENGTHS)
    };
    case.check::<f16>();
    case.fused(2).check::<bf16>();
}

/// With a fixed number of splits a sequence has the same bits alone and in any batch.
#[test]
fn fixed_splits_do_not_depend_on_the_batch() {
    let case = |batch: usize| Case {
        num_splits: Some(4),
        ..Case::new(CacheShape { batch, ..SHAPE }, 6, &vec![650; batch])
    };
    let alone = case(1).check::<f16>();
    // The first sequence of a batch has the same numbers.
    let mut together = case(1);
    together.shape.batch = 3;
    together.seq_lens = vec![650, 3, 700];
    let together = together.check::<f16>();
    assert_eq!(together[..alone.len()], alone);
}

/// No new token at all, and several queries: the newest tokens there are.
#[test]
fn queries_without_new_tokens() {
    let case = Case {
        new: New::Each(0),
        query_tokens: 8,
        ..Case::new(SHAPE, 9, LENGTHS)
    };
    case.check::<f16>();
}

//! append: many tokens at once, in every order of the new vectors, and sequences without room.

use half::{bf16, f16};
use kv_kernels::CacheShape;

use crate::case::{Case, New, Order};

const SHAPE: CacheShape = CacheShape {
    batch: 4,
    num_kv_heads: 3,
    max_seq_len: 140,
    head_dim: 64,
};
const ORDERS: [Order; 3] = [Order::TokenMajor, Order::HeadMajor, Order::Apart(72)];

#[test]
fn as_many_for_each_sequence() {
    for tokens in [1, 2, 33, 97, 128] {
        for order in ORDERS {
            let mut case = Case::new(SHAPE, 2, &[0, 12, 11, 3]);
            case.new = New::Each(tokens);
            case.order = order;
            case.check::<f16>();
            case.shape.head_dim = 128;
            case.check::<bf16>();
        }
    }
}

#[test]
fn packed_each_its_own() {
    for cu_seqlens in [
        vec![0, 1, 2, 3, 4],
        vec![0, 0, 54, 54, 151],
        vec![0, 127, 127, 128, 130],
        vec![0, 0, 0, 0, 0],
    ] {
        for order in ORDERS {
            let mut case = Case::new(SHAPE, 1, &[0, 7, 100, 9]);
            case.new = New::Packed(cu_seqlens.clone());
            case.order = order;
            case.check::<bf16>();
            case.shape.head_dim = 128;
            case.check::<f16>();
        }
    }
}

#[test]
fn a_sequence_without_room_is_left_untouched_and_flagged() {
    let mut case = Case::new(SHAPE, 2, &[140, 139, 138, 0]);
    case.new = New::Each(2);
    case.check::<f16>();
    case.new = New::Each(1);
    case.check::<f16>();
    case.new = New::Each(141);
    case.check::<f16>();
    case.new = New::Packed(vec![0, 1, 2, 4, 145]);
    case.check::<f16>();
}

#[test]
fn a_batch_of_one_block_and_of_many() {
    for batch in [1, 33, 130] {
        let shape = CacheShape {
            batch,
            num_kv_heads: 1,
            max_seq_len: 3,
            head_dim: 64,
        };
        let seq_lens: Vec<i32> = (0..batch as i32).map(|sequence| sequence % 4).collect();
        Case::new(shape, 1, &seq_lens).check::<f16>();
    }
}

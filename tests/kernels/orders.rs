//! In whatever order warps and blocks run, the results have the same bits: which of a sequence's splits arrives last, and
//! merges, is left to chance.

use half::{bf16, f16};
use kv_kernels::reference::F8E4M3;
use kv_kernels::{CacheShape, Stores};

use crate::case::{Attention, Case};
use crate::harness::{Number, bits, device};
use crate::stored::Kept;

const SEEDS: u64 = 20;

fn check<T: Number>(case: &Case) {
    check_stored::<T, T, T>(case);
}

fn check_stored<T: Number, K: Kept<T> + Stores<T>, V: Kept<T> + Stores<T>>(case: &Case) {
    device();
    let Some(emulator) = ptx_emulator::Emulator::loaded() else {
        println!("skipped: a GPU runs in an order of its own");
        return;
    };
    let mut first: Option<Vec<u16>> = None;
    for seed in 0..SEEDS {
        emulator.set_seed(Some(seed)).expect("a seed");
        let out = bits(&case.check_stored::<T, K, V>());
        let expected = first.get_or_insert_with(|| out.clone());
        assert_eq!(&out, expected, "seed {seed} of {case:?}");
    }
    emulator.set_seed(None).expect("no seed");
}

const SHAPE: CacheShape = CacheShape {
    batch: 4,
    num_kv_heads: 2,
    max_seq_len: 600,
    head_dim: 64,
};

#[test]
fn split_and_fused() {
    let case = Case {
        num_splits: Some(4),
        ..Case::new(SHAPE, 5, &[0, 130, 400, 590]).fused(3)
    };
    check::<f16>(&case);
    check_stored::<f16, i8, i8>(&case);
}

#[test]
fn with_every_option() {
    let case = Case {
        num_splits: Some(3),
        query_tokens: 2,
        attention: Attention {
            softmax_scale: Some(0.2),
            logits_soft_cap: Some(20.0),
            sliding_window: Some(300),
            sinks: true,
            alibi_slopes: true,
        },
        ..Case::new(SHAPE, 12, &[1, 129, 256, 599])
    };
    check::<bf16>(&case);
    check_stored::<bf16, F8E4M3, F8E4M3>(&case);
}

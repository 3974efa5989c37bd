//! Any shape, lengths, split of the new tokens and order of their vectors: as the oracle.

use half::{bf16, f16};
use kv_kernels::{CacheShape, HEAD_DIMS};
use proptest::prelude::*;

use crate::harness::{Case, New, Order};

/// New tokens for a batch: as many for each, or each its own, some more than fit.
fn new_tokens(batch: usize) -> impl Strategy<Value = New> {
    prop_oneof![
        (0usize..6).prop_map(New::Each),
        prop::collection::vec(0i32..40, batch).prop_map(|counts| {
            let mut total = 0;
            let sums = counts.into_iter().map(|count| {
                total += count;
                total
            });
            New::Packed(std::iter::once(0).chain(sums).collect())
        }),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::TokenMajor),
        Just(Order::HeadMajor),
        (0usize..9).prop_map(|vectors| Order::Apart(8 * vectors)),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    (1usize..5, 1usize..5, 1usize..17, 1usize..200)
        .prop_flat_map(|(batch, num_kv_heads, group_size, max_seq_len)| {
            (
                Just((batch, num_kv_heads, group_size, max_seq_len)),
                prop::sample::select(HEAD_DIMS),
                prop::collection::vec(0..=max_seq_len as i32, batch),
                new_tokens(batch),
                order(),
                prop::option::of(-2.0f32..2.0),
                any::<u64>(),
            )
        })
        .prop_map(
            |(
                (batch, num_kv_heads, group_size, max_seq_len),
                head_dim,
                seq_lens,
                new,
                order,
                softmax_scale,
                seed,
            )| Case {
                shape: CacheShape {
                    batch,
                    num_kv_heads,
                    max_seq_len,
                    head_dim,
                },
                group_size,
                seq_lens,
                new,
                order,
                softmax_scale,
                seed: seed >> 1,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_step_is_as_the_oracle_says(case in case(), is_bf16: bool) {
        if is_bf16 {
            case.check::<bf16>();
        } else {
            case.check::<f16>();
        }
    }
}

//! Any shape, lengths, split of the new tokens and order of their vectors: as the oracle.

use half::{bf16, f16};
use kv_kernels::{CacheShape, HEAD_DIMS};
use proptest::prelude::*;

use crate::case::{Attention, Case, New, Order};

/// New tokens for a batch: as many for each, or each its own, some more than fit.
pub fn new_tokens(batch: usize) -> impl Strategy<Value = New> {
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

pub fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::TokenMajor),
        Just(Order::HeadMajor),
        (0usize..9).prop_map(|vectors| Order::Apart(8 * vectors)),
    ]
}

pub fn attention() -> impl Strategy<Value = Attention> {
    (
        prop::option::of(-2.0f32..2.0),
        prop::option::of(0.5f32..50.0),
        prop::option::of(1usize..150),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(softmax_scale, logits_soft_cap, sliding_window, sinks, alibi_slopes)| Attention {
                softmax_scale,
                logits_soft_cap,
                sliding_window,
                sinks,
                alibi_slopes,
            },
        )
}

pub fn case() -> impl Strategy<Value = Case> {
    let shape = (1usize..5, 1usize..4, 1usize..400)
        .prop_flat_map(|(batch, num_kv_heads, max_seq_len)| {
            let lens = prop::collection::vec(0..=max_seq_len as i32, batch);
            let head_dim = prop::sample::select(HEAD_DIMS);
            let sizes = Just((batch, num_kv_heads, max_seq_len));
            (sizes, head_dim, lens, new_tokens(batch))
        })
        .prop_map(
            |((batch, num_kv_heads, max_seq_len), head_dim, seq_lens, new)| {
                let shape = CacheShape {
                    batch,
                    num_kv_heads,
                    max_seq_len,
                    head_dim,
                };
                (shape, seq_lens, new)
            },
        );
    (
        shape,
        prop_oneof![1usize..9, 1usize..65],
        order(),
        attention(),
        1usize..9,
        prop::option::of(1usize..7),
        (any::<bool>(), any::<bool>()),
        any::<u64>(),
    )
        .prop_map(
            |(
                (shape, seq_lens, new),
                group_size,
                order,
                attention,
                query_tokens,
                num_splits,
                (fused, channel_scales),
                seed,
            )| {
                let case = Case {
                    shape,
                    group_size,
                    seq_lens,
                    new,
                    order,
                    attention,
                    query_tokens,
                    num_splits,
                    fused: false,
                    channel_scales,
                    uneven: false,
                    non_finite: false,
                    seed: seed >> 1,
                };
                if fused {
                    case.fused(query_tokens)
                } else {
                    case
                }
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

//! Rotations and frequencies.

use crate::common::{assert_close, noise};
use kv_kernels::reference::{
    Angles, Error, Llama3Scaling, PairStyle, Rope, RopeFrequencies, Rows, YarnScaling, positions,
    rope,
};
use proptest::prelude::*;

fn rotate(x: &[f64], position: i32, style: PairStyle, frequencies: &RopeFrequencies) -> Vec<f64> {
    rope(Rope {
        x,
        positions: &[position],
        heads: 1,
        head_dim: x.len(),
        style,
        angles: Angles::Frequencies(frequencies),
    })
    .unwrap()
}

#[test]
fn pairs_turn_by_position() {
    // Two pairs of a vector of five; base 100 makes the second ten times as
    // slow as the first.
    let frequencies = RopeFrequencies::plain(100.0, 4).unwrap();
    assert_close(&frequencies.inv_freq, &[1.0, 0.1], 1e-15);
    let x = [1.0, 2.0, 3.0, 4.0, 5.0];
    let (sin, cos) = 3f64.sin_cos();
    let (slow_sin, slow_cos) = 0.3f64.sin_cos();
    assert_close(
        &rotate(&x, 3, PairStyle::HalfSplit, &frequencies),
        &[
            cos - 3.0 * sin,
            2.0 * slow_cos - 4.0 * slow_sin,
            3.0 * cos + sin,
            4.0 * slow_cos + 2.0 * slow_sin,
            5.0,
        ],
        1e-12,
    );
    assert_close(
        &rotate(&x, 3, PairStyle::Interleaved, &frequencies),
        &[
            cos - 2.0 * sin,
            2.0 * cos + sin,
            3.0 * slow_cos - 4.0 * slow_sin,
            4.0 * slow_cos + 3.0 * slow_sin,
            5.0,
        ],
        1e-12,
    );
}

#[track_caller]
fn assert_frequencies(found: &RopeFrequencies, expected: &[(usize, f64)]) {
    for &(pair, expected) in expected {
        let error = (found.inv_freq[pair] / expected - 1.0).abs();
        assert!(error < 1e-11, "pair {pair}: {}", found.inv_freq[pair]);
    }
}

#[test]
fn llama3_frequencies() {
    // Llama 3.1 8B. Expected values from the published formula by wavelengths,
    // evaluated separately: pairs to 28 are kept, from 36 on divided by 8.
    let frequencies = RopeFrequencies::llama3(
        500_000.0,
        128,
        Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192.0,
        },
    )
    .unwrap();
    assert_frequencies(
        &frequencies,
        &[
            (0, 1.0),
            (1, 8.146172338565e-01),
            (28, 3.211445994753e-03),
            (29, 2.166570763503e-03),
            (31, 8.567514129196e-04),
            (34, 1.785078127680e-04),
            (35, 9.556212353965e-05),
            (63, 3.068925988915e-07),
        ],
    );
    assert_eq!(frequencies.attention_factor, 1.0);
}

#[test]
fn yarn_frequencies() {
    let deepseek = RopeFrequencies::yarn(
        10_000.0,
        64,
        YarnScaling {
            factor: 40.0,
            original_max_positions: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            truncate: true,
        },
    )
    .unwrap();
    assert_frequencies(
        &deepseek,
        &[
            (0, 1.0),
            (10, 5.623413251903e-02),
            (12, 2.687936011143e-02),
            (15, 8.334508951021e-03),
            (18, 2.249365300761e-03),
            (22, 1.778279410039e-04),
            (23, 3.333803580408e-05),
            (31, 3.333803580408e-06),
        ],
    );
    assert_close(&[deepseek.attention_factor], &[1.368887945411], 1e-11);

    // gpt-oss: the ramp's ends, 8.09 and 17.40, are not rounded.
    let gpt_oss = RopeFrequencies::yarn(
        150_000.0,
        64,
        YarnScaling {
            factor: 32.0,
            original_max_positions: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            truncate: false,
        },
    )
    .unwrap();
    assert_frequencies(
        &gpt_oss,
        &[
            (8, 5.081327481546e-02),
            (9, 3.170569618466e-02),
            (12, 6.794959489732e-03),
            (15, 1.052602101386e-03),
            (18, 3.830881237375e-05),
            (31, 3.023511428119e-07),
        ],
    );
    assert_close(&[gpt_oss.attention_factor], &[1.346573590280], 1e-11);
    // The factor is on the vectors.
    let turned = rotate(
        &[1.0, 0.0, 0.0, 0.0],
        0,
        PairStyle::HalfSplit,
        &RopeFrequencies {
            inv_freq: vec![1.0, 0.5],
            attention_factor: 1.25,
        },
    );
    assert_eq!(turned, [1.25, 0.0, 0.0, 0.0]);
}

#[test]
fn new_tokens_stand_behind_those_held() {
    let rows = Rows::Ragged {
        cu_seqlens: &[0, 2, 2, 5],
    };
    assert_eq!(positions(rows, &[7, 3, 0]).unwrap(), [7, 8, 0, 1, 2]);
    assert_eq!(
        positions(rows, &[i32::MAX, 0, 0]).unwrap_err(),
        Error::TooLarge {
            argument: "position"
        }
    );
}

proptest! {
    /// What RoPE is for: a score depends on the distance alone.
    #[test]
    fn scores_depend_on_distance(
        seed: u64,
        pairs in 1usize..9,
        rest in 0usize..4,
        at in 0i32..1000,
        distance in 0i32..1000,
        interleaved: bool,
    ) {
        let style = if interleaved { PairStyle::Interleaved } else { PairStyle::HalfSplit };
        let frequencies = RopeFrequencies::plain(10_000.0, 2 * pairs).unwrap();
        let q = noise(seed, 2 * pairs + rest);
        let k = noise(!seed, 2 * pairs + rest);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let far = dot(
            &rotate(&q, at + distance, style, &frequencies),
            &rotate(&k, at, style, &frequencies),
        );
        let near = dot(
            &rotate(&q, distance, style, &frequencies),
            &rotate(&k, 0, style, &frequencies),
        );
        assert_close(&[far], &[near], 1e-9);
        // A rotation keeps lengths, position 0 keeps everything, channels past
        // the rotated ones are kept.
        let turned = rotate(&q, at, style, &frequencies);
        assert_close(&[dot(&turned, &turned)], &[dot(&q, &q)], 1e-12);
        prop_assert_eq!(&turned[2 * pairs..], &q[2 * pairs..]);
        prop_assert_eq!(rotate(&k, 0, style, &frequencies), k);
    }

    /// The two styles differ by the order of channels only.
    #[test]
    fn styles_are_permutations(seed: u64, pairs in 1usize..9, at in 0i32..1000) {
        let frequencies = RopeFrequencies::plain(10_000.0, 2 * pairs).unwrap();
        let halves = noise(seed, 2 * pairs);
        let weave = |x: &[f64]| -> Vec<f64> {
            (0..pairs).flat_map(|pair| [x[pair], x[pair + pairs]]).collect()
        };
        prop_assert_eq!(
            rotate(&weave(&halves), at, PairStyle::Interleaved, &frequencies),
            weave(&rotate(&halves, at, PairStyle::HalfSplit, &frequencies))
        );
    }

    /// A table gives what the frequencies give, to f32's precision, for every
    /// head and token.
    #[test]
    fn tables_hold_the_frequencies(
        seed: u64,
        pairs in 1usize..5,
        heads in 1usize..4,
        at in prop::collection::vec(0i32..50, 0..5),
        factor in 0.5f64..2.0,
    ) {
        let frequencies = RopeFrequencies {
            attention_factor: factor,
            ..RopeFrequencies::plain(1000.0, 2 * pairs).unwrap()
        };
        let table = frequencies.table(50).unwrap();
        let head_dim = 2 * pairs + 1;
        let x = noise(seed, at.len() * heads * head_dim);
        let turn = |angles| rope(Rope {
            x: &x,
            positions: &at,
            heads,
            head_dim,
            style: PairStyle::HalfSplit,
            angles,
        }).unwrap();
        let exact = turn(Angles::Frequencies(&frequencies));
        assert_close(&turn(Angles::Table(&table)), &exact, 1e-6);
        for (token, at) in at.iter().enumerate() {
            for head in 0..heads {
                let vector = (token * heads + head) * head_dim;
                let vector = vector..vector + head_dim;
                prop_assert_eq!(
                    rotate(&x[vector.clone()], *at, PairStyle::HalfSplit, &frequencies),
                    &exact[vector]
                );
            }
        }
    }
}

#[test]
fn refusals() {
    let frequencies = RopeFrequencies::plain(10_000.0, 4).unwrap();
    let table = frequencies.table(8).unwrap();
    let x = [0.0f32; 4];
    let plain = Rope {
        x: &x,
        positions: &[0],
        heads: 1,
        head_dim: 4,
        style: PairStyle::HalfSplit,
        angles: Angles::Table(&table),
    };
    for (args, message) in [
        (
            Rope {
                positions: &[8],
                ..plain
            },
            "position 8 is out of range: there are 8",
        ),
        (
            Rope {
                positions: &[-1],
                ..plain
            },
            "positions[0] is -1; it must not be negative",
        ),
        (
            Rope {
                x: &x[..2],
                head_dim: 2,
                ..plain
            },
            "rotary_dim is 4; allowed: at most head_dim",
        ),
        (
            Rope {
                x: &x[..3],
                ..plain
            },
            "x has 3 elements where [tokens, heads, head_dim], one position a token, asks for 4",
        ),
    ] {
        assert_eq!(rope(args).unwrap_err().to_string(), message);
    }
    assert_eq!(
        RopeFrequencies::plain(10_000.0, 5).unwrap_err().to_string(),
        "rotary_dim is 5; allowed: even, at least 2"
    );
    assert_eq!(
        RopeFrequencies::plain(1.0, 4).unwrap_err().to_string(),
        "base is 1; allowed: finite, above 1"
    );
    let scaling = Llama3Scaling {
        factor: 8.0,
        low_freq_factor: 4.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192.0,
    };
    assert_eq!(
        RopeFrequencies::llama3(1e4, 4, scaling)
            .unwrap_err()
            .to_string(),
        "high_freq_factor is 4; allowed: finite, above low_freq_factor"
    );
}

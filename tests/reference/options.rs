//! Each option by itself, against sums written out longhand.

use crate::common::{assert_close, noise};
use kv_kernels::reference::{
    CacheMap, ContiguousShape, Decode, Decoded, Merge, Options, Partial, Rows, decode, merge,
};

const TOKENS: usize = 5;
const DIM: usize = 4;

/// Two query heads on one KV head over five tokens.
struct Case {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

fn case() -> Case {
    Case {
        q: noise(1, 2 * DIM),
        k: noise(2, TOKENS * DIM),
        v: noise(3, TOKENS * DIM),
    }
}

impl Case {
    fn decode(&self, options: Options<'_>) -> Decoded {
        decode(Decode {
            map: &CacheMap::contiguous(ContiguousShape {
                batch: 1,
                num_kv_heads: 1,
                max_seq_len: TOKENS,
                head_dim: DIM,
            })
            .unwrap(),
            k_cache: &self.k,
            v_cache: &self.v,
            q: &self.q,
            rows: Rows::Uniform {
                batch: 1,
                tokens: 1,
            },
            num_q_heads: 2,
            kv_lens: &[TOKENS as i32],
            options,
        })
        .unwrap()
    }

    fn dot(&self, head: usize, token: usize) -> f64 {
        (0..DIM)
            .map(|d| self.q[head * DIM + d] * self.k[token * DIM + d])
            .sum()
    }

    /// Softmax over `(logit, token)` pairs, a pair without a token adding no
    /// value.
    fn check(&self, found: &Decoded, logits: impl Fn(usize) -> Vec<(f64, Option<usize>)>) {
        let mut out = vec![0.0; 2 * DIM];
        let mut lse = vec![0.0; 2];
        for head in 0..2 {
            let logits = logits(head);
            let denominator: f64 = logits.iter().map(|(logit, _)| logit.exp()).sum();
            lse[head] = denominator.ln();
            for (logit, token) in logits {
                let Some(token) = token else { continue };
                for d in 0..DIM {
                    out[head * DIM + d] += logit.exp() / denominator * self.v[token * DIM + d];
                }
            }
        }
        assert_close(&found.out, &out, 1e-12);
        assert_close(&found.lse, &lse, 1e-12);
    }
}

#[test]
fn softmax_scale() {
    let case = case();
    let default = case.decode(Options::default());
    case.check(&default, |head| {
        (0..TOKENS)
            .map(|t| (case.dot(head, t) * 0.5, Some(t)))
            .collect()
    });
    let tripled = case.decode(Options {
        softmax_scale: Some(3.0),
        ..Options::default()
    });
    case.check(&tripled, |head| {
        (0..TOKENS)
            .map(|t| (case.dot(head, t) * 3.0, Some(t)))
            .collect()
    });
}

#[test]
fn soft_cap_comes_before_alibi() {
    let case = case();
    let slopes = [0.25f32, -0.5];
    let found = case.decode(Options {
        softmax_scale: Some(4.0),
        logits_soft_cap: Some(1.5),
        alibi_slopes: Some(&slopes),
        ..Options::default()
    });
    case.check(&found, |head| {
        (0..TOKENS)
            .map(|t| {
                let capped = 1.5 * (4.0 * case.dot(head, t) / 1.5).tanh();
                let distance = (TOKENS - 1 - t) as f64;
                (capped - f64::from(slopes[head]) * distance, Some(t))
            })
            .collect()
    });
}

#[test]
fn sinks_take_probability_and_count_in_lse() {
    let case = case();
    let sinks = [0.75f32, f32::NEG_INFINITY];
    let found = case.decode(Options {
        sinks: Some(&sinks),
        ..Options::default()
    });
    case.check(&found, |head| {
        let mut logits: Vec<_> = (0..TOKENS)
            .map(|t| (case.dot(head, t) * 0.5, Some(t)))
            .collect();
        logits.push((f64::from(sinks[head]), None));
        logits
    });
}

#[test]
fn sliding_window_counts_the_query_itself() {
    let case = case();
    let found = case.decode(Options {
        sliding_window: Some(2),
        ..Options::default()
    });
    case.check(&found, |head| {
        [3, 4].map(|t| (case.dot(head, t) * 0.5, Some(t))).to_vec()
    });
    let alone = case.decode(Options {
        sliding_window: Some(1),
        ..Options::default()
    });
    for head in 0..2 {
        assert_eq!(
            alone.out[head * DIM..(head + 1) * DIM],
            case.v[(TOKENS - 1) * DIM..]
        );
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let case = case();
    let found = case.decode(Options {
        softmax_scale: Some(1e6),
        ..Options::default()
    });
    assert!(found.out.iter().chain(&found.lse).all(|x| x.is_finite()));
}

#[test]
fn merging_ignores_what_empty_parts_hold() {
    let garbage = [f32::NAN; 2];
    let merged = merge(Merge {
        partials: &[
            Partial {
                out: &garbage,
                lse: &[f32::NEG_INFINITY],
            },
            Partial {
                out: &[3.0, 4.0],
                lse: &[-0.5],
            },
        ],
        head_dim: 2,
    })
    .unwrap();
    assert_eq!((merged.out, merged.lse), (vec![3.0, 4.0], vec![-0.5]));

    let nothing = merge(Merge {
        partials: &[Partial {
            out: &garbage,
            lse: &[f32::NEG_INFINITY],
        }],
        head_dim: 2,
    })
    .unwrap();
    assert_eq!(nothing.out, [0.0, 0.0]);
    assert_eq!(nothing.lse, [f64::NEG_INFINITY]);
}

//! Greedy decoding, and the ways to the next token's logits.

use anyhow::{Result, ensure};
use candle_core::DType;

use crate::attention::{Attention, CandleAttention, Shared};
use crate::model::Model;

/// A way to the next token's logits.
pub trait NextToken {
    /// Logits of the token after `text`. Each call's text is the one before with tokens added; the last `new` are
    /// those added.
    fn logits(&mut self, text: &[u32], new: usize) -> Result<Vec<f32>>;
}

/// With a cache: only the new tokens pass through the model.
pub struct Cached<'a, A> {
    /// The weights.
    pub model: &'a Model,
    /// Holds the tokens before.
    pub attention: A,
}

impl<A: Attention> NextToken for Cached<'_, A> {
    fn logits(&mut self, text: &[u32], new: usize) -> Result<Vec<f32>> {
        self.model
            .forward(&text[text.len() - new..], &mut self.attention)
    }
}

/// Without one: all tokens pass through the model, at every step.
pub struct Recomputed<'a> {
    /// The weights.
    pub model: &'a Model,
    /// The precision of the cache there would be.
    pub dtype: DType,
}

impl NextToken for Recomputed<'_> {
    fn logits(&mut self, text: &[u32], _new: usize) -> Result<Vec<f32>> {
        let mut attention = CandleAttention::new(self.model.config(), self.dtype);
        self.model.forward(text, &mut attention)
    }
}

/// With a cache, and once more with candle's attention over the same K and V.
pub struct Compared<'a, A> {
    /// The weights.
    pub model: &'a Model,
    /// Both attentions.
    pub attention: Shared<A>,
    /// What has come of it so far.
    pub agreement: Agreement,
}

impl<A: Attention> NextToken for Compared<'_, A> {
    fn logits(&mut self, text: &[u32], new: usize) -> Result<Vec<f32>> {
        let new = &text[text.len() - new..];
        let ours = self.model.forward(new, &mut self.attention.ours())?;
        let oracle = self.model.forward(new, &mut self.attention.oracle())?;
        self.agreement.add(&ours, &oracle);
        Ok(ours)
    }
}

/// How two attentions' greedy tokens and logits compare.
#[derive(Debug, Default, PartialEq)]
pub struct Agreement {
    tokens: usize,
    /// The largest difference between the two logits of any token at any step; NaN where one was.
    pub max_logit_diff: f32,
    differing: Vec<Difference>,
}

/// A step at which the two would have gone on differently.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// Which token of the answer, from 0.
    pub index: usize,
    /// What ours chose.
    pub ours: Choice,
    /// What candle's attention would have chosen.
    pub oracle: Choice,
}

/// A token with its logit by either attention.
#[derive(Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Its logit by our attention.
    pub logit_ours: f32,
    /// Its logit by candle's.
    pub logit_oracle: f32,
}

impl Agreement {
    fn add(&mut self, ours: &[f32], oracle: &[f32]) {
        let choice = |token: u32| Choice {
            token,
            logit_ours: ours[token as usize],
            logit_oracle: oracle[token as usize],
        };
        let (our_token, oracle_token) = (likeliest(ours), likeliest(oracle));
        if our_token != oracle_token {
            self.differing.push(Difference {
                index: self.tokens,
                ours: choice(our_token),
                oracle: choice(oracle_token),
            });
        }
        self.tokens += 1;
        for (a, b) in ours.iter().zip(oracle) {
            // NaN on either side must not pass for agreement.
            let difference = (a - b).abs();
            if difference > self.max_logit_diff || difference.is_nan() {
                self.max_logit_diff = difference; // and stays NaN: nothing is larger
            }
        }
    }

    /// The steps at which they differ.
    pub fn differing(&self) -> &[Difference] {
        &self.differing
    }
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let agreeing = self.tokens - self.differing.len();
        let Agreement {
            tokens,
            max_logit_diff,
            ..
        } = self;
        write!(
            f,
            "agree {agreeing}/{tokens} max_logit_diff {max_logit_diff:.4}"
        )
    }
}

/// Extends `prompt` by the likeliest token, again and again: `limit` times, or until that token is `end`, which is
/// not part of the answer. `on_token` sees each token as it comes.
pub fn greedy(
    next: &mut impl NextToken,
    prompt: &[u32],
    limit: usize,
    end: Option<u32>,
    mut on_token: impl FnMut(u32) -> Result<()>,
) -> Result<Vec<u32>> {
    ensure!(!prompt.is_empty(), "the prompt has no tokens");
    let mut text = prompt.to_vec();
    let mut new = prompt.len();
    for _ in 0..limit {
        let token = likeliest(&next.logits(&text, new)?);
        if Some(token) == end {
            break;
        }
        text.push(token);
        new = 1;
        on_token(token)?;
    }
    Ok(text.split_off(prompt.len()))
}

/// The token of the largest logit, the first of equals.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// Tokens whose K and V are computed for an answer of `tokens` tokens to a prompt of `prompt` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computations {
    /// Each token once.
    pub with_cache: usize,
    /// All so far, at every step.
    pub without: usize,
}

impl Computations {
    /// The answer's last token is never passed through the model.
    pub fn of(prompt: usize, tokens: usize) -> Self {
        Computations {
            with_cache: match tokens {
                0 => 0,
                _ => prompt + tokens - 1,
            },
            without: (0..tokens).map(|step| prompt + step).sum(),
        }
    }

    /// The part of the work a cache saves.
    pub fn saved(&self) -> f64 {
        1.0 - self.with_cache as f64 / self.without as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, TINY};

    /// Counts up from the last token, and what it was asked.
    struct Successor {
        asked: Vec<(usize, usize)>,
    }

    impl NextToken for Successor {
        fn logits(&mut self, text: &[u32], new: usize) -> Result<Vec<f32>> {
            self.asked.push((text.len(), new));
            let mut logits = vec![0.0; 16];
            logits[*text.last().unwrap() as usize + 1] = 1.0;
            Ok(logits)
        }
    }

    #[test]
    fn the_prompt_goes_in_at_once_then_token_by_token() {
        let mut next = Successor { asked: Vec::new() };
        let mut seen = Vec::new();
        let answer = greedy(&mut next, &[1, 2, 3], 3, None, |token| {
            seen.push(token);
            Ok(())
        });
        assert_eq!(answer.unwrap(), [4, 5, 6]);
        assert_eq!(seen, [4, 5, 6]);
        assert_eq!(next.asked, [(3, 3), (4, 1), (5, 1)]);
    }

    #[test]
    fn the_answer_ends_before_the_end_token() {
        let mut next = Successor { asked: Vec::new() };
        let answer = greedy(&mut next, &[1], 10, Some(4), |_| Ok(()));
        assert_eq!(answer.unwrap(), [2, 3]);
        assert!(greedy(&mut next, &[], 1, None, |_| Ok(())).is_err());
    }

    #[test]
    fn equal_logits_give_the_first_token() {
        assert_eq!(likeliest(&[0.0, 2.0, 1.0, 2.0]), 1);
        assert_eq!(likeliest(&[f32::NEG_INFINITY, -3.0]), 1);
    }

    #[test]
    fn with_and_without_a_cache_the_text_is_the_same() {
        let model = testing::tiny_model();
        let dtype = DType::F16;
        let attention = CandleAttention::new(&TINY, dtype);
        let mut cached = Cached {
            model: &model,
            attention,
        };
        let mut recomputed = Recomputed {
            model: &model,
            dtype,
        };
        let prompt = [7, 3, 11];
        let with = greedy(&mut cached, &prompt, 20, None, |_| Ok(())).unwrap();
        let without = greedy(&mut recomputed, &prompt, 20, None, |_| Ok(())).unwrap();
        assert_eq!(with, without);
    }

    #[test]
    fn candle_agrees_with_itself() {
        let model = testing::tiny_model();
        let attention = || CandleAttention::new(&TINY, DType::BF16);
        let mut compared = Compared {
            model: &model,
            attention: Shared::new(attention(), attention()),
            agreement: Agreement::default(),
        };
        greedy(&mut compared, &[7, 3, 11], 10, None, |_| Ok(())).unwrap();
        assert_eq!(
            compared.agreement.to_string(),
            "agree 10/10 max_logit_diff 0.0000"
        );
    }

    #[test]
    fn a_difference_is_kept_with_both_logits() {
        let mut agreement = Agreement::default();
        agreement.add(&[1.0, 0.0], &[1.0, 0.5]);
        agreement.add(&[1.0, 1.5], &[2.0, 1.75]);
        assert_eq!(agreement.to_string(), "agree 1/2 max_logit_diff 1.0000");
        assert_eq!(
            agreement.differing(),
            [Difference {
                index: 1,
                ours: Choice {
                    token: 1,
                    logit_ours: 1.5,
                    logit_oracle: 1.75
                },
                oracle: Choice {
                    token: 0,
                    logit_ours: 1.0,
                    logit_oracle: 2.0
                },
            }]
        );
    }

    #[test]
    fn a_nan_is_no_agreement() {
        let mut agreement = Agreement::default();
        agreement.add(&[0.0, f32::NAN, 0.25], &[0.0, 0.0, 0.0]);
        agreement.add(&[0.0, 1.0, 0.0], &[0.0, 1.0, 0.0]);
        assert!(agreement.max_logit_diff.is_nan());
    }

    #[test]
    fn work_saved_on_a_short_prompt() {
        let work = Computations::of(3, 5);
        assert_eq!((work.without, work.with_cache), (25, 7));
        assert_eq!((100.0 * work.saved()).round(), 72.0);
        // From a prompt of one token, N tokens: N (N + 1) / 2 against N.
        let work = Computations::of(1, 100);
        assert_eq!((work.without, work.with_cache), (5050, 100));
    }
}

//! Attention of one query vector: the arithmetic that decode and prefill share.

use super::error::Error;
use super::options::HeadOptions;
use std::ops::Range;

/// The tokens a query sees, of `tokens` in all. `position` is the query's own,
/// negative where a sequence holds fewer tokens than it has queries.
pub(super) fn visible(
    position: i64,
    tokens: usize,
    causal: bool,
    window: Option<usize>,
) -> Range<usize> {
    let end = if causal {
        // A position is below `tokens`, so this fits.
        (position + 1).max(0) as usize
    } else {
        tokens
    };
    let past = (position + 1).max(0) as usize;
    let start = window.map_or(0, |window| past.saturating_sub(window));
    start.min(end)..end
}

/// Attention of query vector `q` at `position` over the `visible` tokens, whose
/// keys and values are asked for one by one (so that no other token is ever
/// read). Returns the output and the natural log of the softmax denominator.
pub(super) fn attend(
    q: &[f64],
    position: i64,
    visible: Range<usize>,
    options: &HeadOptions,
    key: impl Fn(usize) -> Result<Vec<f64>, Error>,
    value: impl Fn(usize) -> Result<Vec<f64>, Error>,
) -> Result<(Vec<f64>, f64), Error> {
    let mut out = vec![0.0; q.len()];
    if visible.is_empty() {
        return Ok((out, f64::NEG_INFINITY));
    }
    let scores = visible
        .clone()
        .map(|token| Ok(score(q, &key(token)?, position - token as i64, options)))
        .collect::<Result<Vec<f64>, Error>>()?;

    let sink = options.sink.unwrap_or(f64::NEG_INFINITY);
    let max = scores.iter().copied().fold(sink, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let denominator = weights.iter().sum::<f64>() + (sink - max).exp();

    for (token, weight) in visible.zip(weights) {
        for (sum, element) in out.iter_mut().zip(value(token)?) {
            *sum += weight / denominator * element;
        }
    }
    Ok((out, max + denominator.ln()))
}

/// The score of a key `distance` tokens to the query's left.
fn score(q: &[f64], k: &[f64], distance: i64, options: &HeadOptions) -> f64 {
    let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
    let mut score = options.scale * dot;
    if let Some(cap) = options.soft_cap {
        score = cap * (score / cap).tanh();
    }
    if let Some(slope) = options.slope {
        score -= slope * distance.unsigned_abs() as f64;
    }
    score
}

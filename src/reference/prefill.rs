//! Attention of whole sequences over themselves, no cache involved: the other
//! side of the equality that a cache rests on.

use super::error::{self, Error};
use super::options::Options;
use super::rows::{self, Rows};
use super::scalar::{Scalar, widen};
use super::softmax::{attend, visible};

/// Whole sequences: as many queries as keys and values.
#[derive(Debug)]
pub struct Prefill<'a, Q, K, V> {
    /// Queries, `[tokens, num_q_heads, head_dim]`.
    pub q: &'a [Q],
    /// Keys, `[tokens, num_kv_heads, head_dim]`.
    pub k: &'a [K],
    /// Values, `[tokens, num_kv_heads, head_dim]`.
    pub v: &'a [V],
    /// How the tokens divide among the sequences.
    pub rows: Rows<'a>,
    /// Query heads, a multiple of `num_kv_heads`.
    pub num_q_heads: usize,
    /// KV heads.
    pub num_kv_heads: usize,
    /// Numbers a vector.
    pub head_dim: usize,
    /// Whether a token sees only itself and those before it. Without, it sees
    /// the whole sequence (a sliding window still bounds it to the left).
    pub causal: bool,
    /// What shapes the scores.
    pub options: Options<'a>,
}

/// What attention gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Attended {
    /// Outputs, `[tokens, num_q_heads, head_dim]`.
    pub out: Vec<f64>,
    /// Natural log of the softmax denominator, `[tokens, num_q_heads]`.
    pub lse: Vec<f64>,
}

/// Full attention of every token of every sequence.
///
/// # Errors
/// [`Error::Length`] and [`Error::Zero`] for shapes, [`Error::Group`] for heads
/// that do not divide, [`Error::Ragged`], options out of range.
pub fn prefill<Q: Scalar, K: Scalar, V: Scalar>(
    args: Prefill<'_, Q, K, V>,
) -> Result<Attended, Error> {
    let head_dim = error::nonzero("head_dim", args.head_dim)?;
    let group = error::group_size(args.num_q_heads, args.num_kv_heads)?;
    let ranges = args.rows.ranges()?;
    let tokens = rows::total(&ranges);
    let queries = error::product("q", &[tokens, args.num_q_heads])?;
    let q_elements = error::product("q", &[queries, head_dim])?;
    error::length(
        "q",
        args.q.len(),
        q_elements,
        "[tokens, num_q_heads, head_dim]",
    )?;
    let kv_elements = error::product("k", &[tokens, args.num_kv_heads, head_dim])?;
    const KV: &str = "[tokens, num_kv_heads, head_dim]";
    error::length("k", args.k.len(), kv_elements, KV)?;
    error::length("v", args.v.len(), kv_elements, KV)?;
    let options = args.options.per_head(args.num_q_heads, head_dim)?;

    let mut attended = Attended {
        out: vec![0.0; q_elements],
        lse: vec![f64::NEG_INFINITY; queries],
    };
    for range in ranges {
        for position in 0..range.len() {
            for (q_head, options) in options.iter().enumerate() {
                let query = (range.start + position) * args.num_q_heads + q_head;
                let elements = query * head_dim..(query + 1) * head_dim;
                let kv = |token: usize| {
                    let row = range.start + token;
                    let start = (row * args.num_kv_heads + q_head / group) * head_dim;
                    start..start + head_dim
                };
                let (out, lse) = attend(
                    &widen(&args.q[elements.clone()]),
                    position as i64,
                    visible(position as i64, range.len(), args.causal, options.window),
                    options,
                    |token| Ok(widen(&args.k[kv(token)])),
                    |token| Ok(widen(&args.v[kv(token)])),
                )?;
                attended.out[elements].copy_from_slice(&out);
                attended.lse[query] = lse;
            }
        }
    }
    Ok(attended)
}

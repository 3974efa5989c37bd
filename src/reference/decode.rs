//! Attention of the newest tokens over the cache.

use super::error::{self, Error};
use super::layout::CacheMap;
use super::options::Options;
use super::rows::{self, Rows};
use super::scalar::{Scalar, widen};
use super::softmax::{attend, visible};

/// Queries and the cache they attend to.
///
/// The queries of a sequence are its last tokens, causal among themselves: of
/// `n` queries the last sits at position `kv_len − 1`, the first at
/// `kv_len − n`, and none sees a token past its own position.
#[derive(Debug)]
pub struct Decode<'a, Q, K, V> {
    /// Where the vectors of both buffers lie.
    pub map: &'a CacheMap,
    /// Keys, [`CacheMap::elements`] of them; a quantised cache is dequantised
    /// first.
    pub k_cache: &'a [K],
    /// Values, [`CacheMap::elements`] of them.
    pub v_cache: &'a [V],
    /// Queries, `[tokens, num_q_heads, head_dim]`.
    pub q: &'a [Q],
    /// How the query tokens divide among the sequences: one each in plain
    /// decoding.
    pub rows: Rows<'a>,
    /// Query heads, a multiple of the cache's KV heads.
    pub num_q_heads: usize,
    /// Tokens to attend to, `[batch]`: all that are in the cache, those of this
    /// step included. [`advance`](super::advance) on a copy of the lengths gives
    /// them inside a step too, and leaves out new tokens that found no room.
    pub kv_lens: &'a [i32],
    /// What shapes the scores.
    pub options: Options<'a>,
}

/// What attention over a cache gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Outputs, `[tokens, num_q_heads, head_dim]`; zeros for a query that sees
    /// no token.
    pub out: Vec<f64>,
    /// Natural log of the softmax denominator, `[tokens, num_q_heads]`; −∞ for
    /// a query that sees no token.
    pub lse: Vec<f64>,
    /// Sequences whose `kv_len` passes the capacity, ascending: no cache holds
    /// that many tokens, so they are taken for empty.
    pub overflowed: Vec<usize>,
}

/// Attend to the cache with each sequence's newest tokens. Nothing past
/// `kv_len`, past a query's own position or outside its sliding window is
/// read.
///
/// # Errors
/// Lengths that do not fit the map ([`Error::Length`], [`Error::Batch`]), query
/// heads that do not divide among the KV heads, negative lengths, options out
/// of range, a block table entry that names no page.
pub fn decode<Q: Scalar, K: Scalar, V: Scalar>(
    args: Decode<'_, Q, K, V>,
) -> Result<Decoded, Error> {
    let map = args.map;
    let head_dim = map.head_dim();
    let ranges = args.rows.ranges()?;
    error::batch("rows", ranges.len(), map.batch())?;
    let kv_lens = error::lengths("kv_lens", args.kv_lens, map.batch())?;
    let group = error::group_size(args.num_q_heads, map.num_kv_heads())?;
    let tokens = rows::total(&ranges);
    let queries = error::product("q", &[tokens, args.num_q_heads])?;
    error::length(
        "q",
        args.q.len(),
        error::product("q", &[queries, head_dim])?,
        "[tokens, num_q_heads, head_dim]",
    )?;
    error::length("k_cache", args.k_cache.len(), map.elements(), "the cache")?;
    error::length("v_cache", args.v_cache.len(), map.elements(), "the cache")?;
    let options = args.options.per_head(args.num_q_heads, head_dim)?;

    let mut decoded = Decoded {
        out: vec![0.0; queries * head_dim],
        lse: vec![f64::NEG_INFINITY; queries],
        overflowed: Vec::new(),
    };
    for (sequence, range) in ranges.into_iter().enumerate() {
        let kv_len = kv_lens[sequence];
        if kv_len > map.capacity() {
            decoded.overflowed.push(sequence);
            continue;
        }
        let first_position = kv_len as i64 - range.len() as i64;
        for (index, row) in range.enumerate() {
            let position = first_position + index as i64;
            for (q_head, options) in options.iter().enumerate() {
                let query = row * args.num_q_heads + q_head;
                let elements = query * head_dim..(query + 1) * head_dim;
                let kv_head = q_head / group;
                let (out, lse) = attend(
                    &widen(&args.q[elements.clone()]),
                    position,
                    visible(position, kv_len, true, options.window),
                    options,
                    |token| {
                        let at = map.vector(sequence, kv_head, token)?;
                        Ok(widen(&args.k_cache[at]))
                    },
                    |token| {
                        let at = map.vector(sequence, kv_head, token)?;
                        Ok(widen(&args.v_cache[at]))
                    },
                )?;
                decoded.out[elements].copy_from_slice(&out);
                decoded.lse[query] = lse;
            }
        }
    }
    Ok(decoded)
}

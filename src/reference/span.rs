//! Which of the cached tokens an operation covers.

use super::error::{self, Error};
use super::layout::CacheMap;
use std::ops::Range;

/// Tokens of a cache, the same for all heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span<'a> {
    /// Every token a sequence has room for.
    Whole,
    /// Tokens `from[b]..to[b]` of sequence `b`.
    Tokens {
        /// First tokens, `[batch]`.
        from: &'a [i32],
        /// One past the last tokens, `[batch]`.
        to: &'a [i32],
    },
}

impl Span<'_> {
    /// The tokens of every sequence.
    ///
    /// # Errors
    /// [`Error::Batch`], [`Error::Negative`], [`Error::Outside`] for a span that
    /// ends past the capacity or begins past its end.
    pub fn ranges(&self, map: &CacheMap) -> Result<Vec<Range<usize>>, Error> {
        let Self::Tokens { from, to } = self else {
            return Ok(vec![0..map.capacity(); map.batch()]);
        };
        let from = error::lengths("from", from, map.batch())?;
        let to = error::lengths("to", to, map.batch())?;
        from.into_iter()
            .zip(to)
            .map(|(from, to)| {
                within("to", to, map.capacity())?;
                within("from", from, to)?;
                Ok(from..to)
            })
            .collect()
    }

    /// Every vector of the span: KV head and elements.
    pub(super) fn vectors(&self, map: &CacheMap) -> Result<Vec<Vector>, Error> {
        let mut vectors = Vec::new();
        for (sequence, tokens) in self.ranges(map)?.into_iter().enumerate() {
            for token in tokens {
                for head in 0..map.num_kv_heads() {
                    let elements = map.vector(sequence, head, token)?;
                    vectors.push(Vector { head, elements });
                }
            }
        }
        Ok(vectors)
    }
}

/// A vector of a cache.
pub(super) struct Vector {
    pub head: usize,
    pub elements: Range<usize>,
}

/// `end` may be as large as `limit`: it is one past the last token.
fn within(what: &'static str, end: usize, limit: usize) -> Result<(), Error> {
    if end > limit {
        return Err(Error::Outside {
            what,
            index: end,
            limit,
        });
    }
    Ok(())
}

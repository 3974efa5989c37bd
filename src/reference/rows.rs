//! How packed rows of tokens divide among the sequences of a batch.

use super::error::{self, Error};
use std::ops::Range;

/// Which of the packed rows `[tokens, heads, head_dim]` belong to which
/// sequence. The rows of a sequence follow each other in the order of the
/// tokens, and the sequences follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows<'a> {
    /// The same number of tokens for every sequence: the rows are
    /// `[batch, tokens, heads, head_dim]`.
    Uniform {
        /// Sequences.
        batch: usize,
        /// Tokens each.
        tokens: usize,
    },
    /// Sequence `b` owns rows `cu_seqlens[b]..cu_seqlens[b + 1]`.
    Ragged {
        /// Running totals, `[batch + 1]`: first 0, last the number of rows.
        cu_seqlens: &'a [i32],
    },
}

impl Rows<'_> {
    /// Sequences the rows are for.
    pub fn batch(&self) -> usize {
        match self {
            Self::Uniform { batch, .. } => *batch,
            Self::Ragged { cu_seqlens } => cu_seqlens.len().saturating_sub(1),
        }
    }

    /// The rows of every sequence.
    ///
    /// # Errors
    /// [`Error::Zero`] for a batch of none, [`Error::Ragged`] for totals that
    /// do not begin with 0 or go down, [`Error::TooLarge`].
    pub fn ranges(&self) -> Result<Vec<Range<usize>>, Error> {
        error::nonzero("batch", self.batch())?;
        match self {
            Self::Uniform { batch, tokens } => {
                error::product("rows", &[*batch, *tokens])?;
                Ok((0..*batch).map(|b| b * tokens..(b + 1) * tokens).collect())
            }
            Self::Ragged { cu_seqlens } => {
                if cu_seqlens[0] != 0 {
                    return Err(Error::Ragged {
                        index: 0,
                        value: cu_seqlens[0],
                    });
                }
                cu_seqlens
                    .windows(2)
                    .enumerate()
                    .map(|(b, pair)| {
                        if pair[1] < pair[0] {
                            return Err(Error::Ragged {
                                index: b + 1,
                                value: pair[1],
                            });
                        }
                        // Neither is negative: the first is 0 and none is
                        // below the one before it.
                        Ok(pair[0] as usize..pair[1] as usize)
                    })
                    .collect()
            }
        }
    }
}

/// The position of every row: a new token's is the number of tokens its
/// sequence holds before it, `seq_lens` `[batch]` being those held now.
///
/// # Errors
/// [`Error::Batch`], [`Error::Negative`], those of [`Rows::ranges`], and
/// [`Error::TooLarge`] for a position past `i32`.
pub fn positions(rows: Rows<'_>, seq_lens: &[i32]) -> Result<Vec<i32>, Error> {
    let ranges = rows.ranges()?;
    error::lengths("seq_lens", seq_lens, ranges.len())?;
    ranges
        .into_iter()
        .zip(seq_lens)
        .flat_map(|(range, &seq_len)| {
            (0..range.len()).map(move |new| {
                i32::try_from(new)
                    .ok()
                    .and_then(|new| seq_len.checked_add(new))
                    .ok_or(Error::TooLarge {
                        argument: "position",
                    })
            })
        })
        .collect()
}

/// The number of rows `ranges` covers.
pub(super) fn total(ranges: &[Range<usize>]) -> usize {
    ranges.last().map_or(0, |range| range.end)
}

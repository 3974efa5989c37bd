//! Which of a cache's tokens an operation covers.

use std::ops::Range;

use cudarc::driver::{CudaStream, DevicePtr, SyncOnDrop};

use crate::abi;
use crate::divisor::divisor;
use crate::error::{Error, Result};
use crate::lengths::Lengths;
use crate::shape::{CacheShape, MAX_INDEX, at_most};
use crate::slice::read_if;
use crate::step::one_a_sequence;

/// Tokens of each sequence, the same for all heads: [all](Self::all) that there is room for, those that a sequence
/// [holds](Self::held), or [ranges](Self::ranges) of each sequence's own, and of those the ones [within](Self::within) a
/// range.
///
/// A range converts into it, and so do [`Lengths`], as the tokens held. What is read on the device is taken as far as
/// there are tokens: a length below 0 holds none, one above the capacity holds as many as that.
#[derive(Clone)]
pub struct TokenSpan<'a> {
    range: Option<Range<usize>>,
    from: Option<&'a dyn DevicePtr<i32>>,
    to: Option<&'a dyn DevicePtr<i32>>,
}

impl<'a> TokenSpan<'a> {
    /// Every token that a sequence has room for.
    pub fn all() -> Self {
        TokenSpan {
            range: None,
            from: None,
            to: None,
        }
    }

    /// The tokens that a sequence holds, by lengths on the device, `i32 [batch]`.
    pub fn held(seq_lens: &'a impl DevicePtr<i32>) -> Self {
        TokenSpan {
            to: Some(seq_lens),
            ..Self::all()
        }
    }

    /// Tokens `from[b]..to[b]` of sequence `b`, both `i32 [batch]` on the device.
    pub fn ranges(from: &'a impl DevicePtr<i32>, to: &'a impl DevicePtr<i32>) -> Self {
        TokenSpan {
            from: Some(from),
            to: Some(to),
            ..Self::all()
        }
    }

    /// Of these tokens only those in `range`, which the launch then takes its blocks for.
    pub fn within(mut self, range: Range<usize>) -> Self {
        self.range = Some(range);
        self
    }

    /// What there is to launch for.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a range that ends behind the capacity or before it begins, [`Error::Length`] for slices
    /// of other than a number a sequence, [`Error::TooLarge`] for more vectors than are indexed.
    pub(crate) fn covered(&self, shape: CacheShape) -> Result<Covered> {
        let Range { start, end } = self.range.clone().unwrap_or(0..shape.max_seq_len);
        if end > shape.max_seq_len {
            return Err(Error::Mismatch {
                argument: "end of tokens",
                value: end,
                other: "max_seq_len",
                other_value: shape.max_seq_len,
            });
        }
        if start > end {
            return Err(Error::Mismatch {
                argument: "start of tokens",
                value: start,
                other: "end of tokens",
                other_value: end,
            });
        }
        for (argument, slice) in [("from", self.from), ("to", self.to)] {
            if let Some(slice) = slice {
                one_a_sequence(argument, slice.len(), shape.batch)?;
            }
        }
        let all = shape.vectors() as u128;
        at_most("batch * num_kv_heads * max_seq_len", all, MAX_INDEX)?;
        let tokens = end - start;
        let vectors = shape.batch * shape.num_kv_heads * tokens;
        Ok(Covered {
            first: start as u32,
            tokens: tokens as u32,
            vectors: vectors as u32,
        })
    }

    /// The span as the kernels read it. There are tokens, and [`covered`](Self::covered) has found nothing wrong.
    pub(crate) fn bind<'s>(
        &'s self,
        shape: CacheShape,
        stream: &'s CudaStream,
    ) -> Result<(abi::KvSpan, [SyncOnDrop<'s>; 2])> {
        let Covered { first, tokens, .. } = self.covered(shape)?;
        let (from, from_guard) = read_if("from", self.from, stream)?;
        let (to, to_guard) = read_if("to", self.to, stream)?;
        let span = abi::KvSpan {
            from: from as *const i32,
            to: to as *const i32,
            tokens: divisor(tokens),
            // All checked against i32 with the shape.
            num_kv_heads: divisor(shape.num_kv_heads as u32),
            batch: shape.batch as i32,
            first: first as i32,
            max_seq_len: shape.max_seq_len as i32,
        };
        Ok((span, [from_guard, to_guard]))
    }
}

impl From<Range<usize>> for TokenSpan<'_> {
    fn from(range: Range<usize>) -> Self {
        TokenSpan::all().within(range)
    }
}

impl<'a> From<&'a Lengths> for TokenSpan<'a> {
    fn from(lengths: &'a Lengths) -> Self {
        TokenSpan::held(lengths.seq_lens())
    }
}

/// What a launch has to cover, by capacities and host ranges alone. Every count fits an `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    /// First token of each sequence.
    pub first: u32,
    /// Tokens of each sequence.
    pub tokens: u32,
    /// Vectors of all sequences and heads.
    pub vectors: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape {
        batch: 3,
        num_kv_heads: 4,
        max_seq_len: 100,
        head_dim: 64,
    };

    #[test]
    fn counts_what_capacities_leave_room_for() {
        let of = |first, tokens, vectors| Covered {
            first,
            tokens,
            vectors,
        };
        assert_eq!(TokenSpan::all().covered(SHAPE), Ok(of(0, 100, 1200)));
        assert_eq!(TokenSpan::from(7..9).covered(SHAPE), Ok(of(7, 2, 24)));
        assert_eq!(TokenSpan::from(100..100).covered(SHAPE), Ok(of(100, 0, 0)));
    }

    #[test]
    fn refuses_ranges_that_are_none() {
        for (range, message) in [
            (0..101, "end of tokens is 101, but max_seq_len is 100"),
            #[allow(clippy::reversed_empty_ranges)]
            (8..7, "start of tokens is 8, but end of tokens is 7"),
        ] {
            let error = TokenSpan::from(range).covered(SHAPE).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let long = CacheShape {
            max_seq_len: 1 << 28,
            ..SHAPE
        };
        assert_eq!(
            TokenSpan::all().covered(long).unwrap_err().to_string(),
            "batch * num_kv_heads * max_seq_len is 3221225472: at most 2147483647 can be indexed"
        );
    }
}

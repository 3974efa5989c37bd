//! What the reference refuses, and why.

use std::fmt;

/// Why a call was refused. Every variant names the argument at fault and the
/// value met.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A slice does not have the number of elements its shape asks for.
    Length {
        /// The argument at fault.
        argument: &'static str,
        /// Elements it has.
        found: usize,
        /// Elements it should have.
        expected: usize,
        /// The shape that asks for them, in words.
        shape: &'static str,
    },
    /// A dimension that must be at least one is zero.
    Zero {
        /// The argument at fault.
        argument: &'static str,
    },
    /// The product of the dimensions of `argument` does not fit in `usize`.
    TooLarge {
        /// The argument at fault.
        argument: &'static str,
    },
    /// The query heads cannot be shared out evenly among the KV heads.
    Group {
        /// Query heads given.
        num_q_heads: usize,
        /// KV heads given.
        num_kv_heads: usize,
    },
    /// A length, count or position that must not be negative is.
    Negative {
        /// The argument at fault.
        argument: &'static str,
        /// Which of its entries.
        index: usize,
        /// The entry.
        value: i64,
    },
    /// Two arguments speak of different numbers of sequences.
    Batch {
        /// The argument at fault.
        argument: &'static str,
        /// Sequences it speaks of.
        found: usize,
        /// Sequences the cache, or the first argument, has.
        expected: usize,
    },
    /// `cu_seqlens` does not begin with 0 or goes down somewhere.
    Ragged {
        /// The first entry at fault.
        index: usize,
        /// That entry.
        value: i32,
    },
    /// A sequence, head, token or position was asked for that does not exist.
    Outside {
        /// What was asked for.
        what: &'static str,
        /// Its index.
        index: usize,
        /// How many there are.
        limit: usize,
    },
    /// The block table sends a token to a page that does not exist.
    Page {
        /// The sequence.
        sequence: usize,
        /// Which of the sequence's pages.
        index: usize,
        /// The page the table names.
        page: i32,
        /// Pages there are.
        num_pages: usize,
    },
    /// A number lies outside what the operation is defined for.
    Value {
        /// The argument at fault.
        argument: &'static str,
        /// Its value.
        value: f64,
        /// The values allowed, in words.
        allowed: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length {
                argument,
                found,
                expected,
                shape,
            } => write!(
                f,
                "{argument} has {found} elements where {shape} asks for {expected}"
            ),
            Self::Zero { argument } => write!(f, "{argument} is 0; it must be at least 1"),
            Self::TooLarge { argument } => {
                write!(f, "the elements of {argument} are too many to be counted")
            }
            Self::Group {
                num_q_heads,
                num_kv_heads,
            } => write!(
                f,
                "num_q_heads {num_q_heads} is not a positive multiple of num_kv_heads \
                 {num_kv_heads}"
            ),
            Self::Negative {
                argument,
                index,
                value,
            } => write!(f, "{argument}[{index}] is {value}; it must not be negative"),
            Self::Batch {
                argument,
                found,
                expected,
            } => write!(f, "{argument} is for {found} sequences, not {expected}"),
            Self::Ragged { index, value } => write!(
                f,
                "cu_seqlens[{index}] is {value}; the entries must begin with 0 and never go down"
            ),
            Self::Outside { what, index, limit } => {
                write!(f, "{what} {index} is out of range: there are {limit}")
            }
            Self::Page {
                sequence,
                index,
                page,
                num_pages,
            } => write!(
                f,
                "block_table sends page {index} of sequence {sequence} to page {page}; there are \
                 {num_pages} pages"
            ),
            Self::Value {
                argument,
                value,
                allowed,
            } => write!(f, "{argument} is {value}; allowed: {allowed}"),
        }
    }
}

impl std::error::Error for Error {}

pub(super) fn nonzero(argument: &'static str, value: usize) -> Result<usize, Error> {
    if value == 0 {
        return Err(Error::Zero { argument });
    }
    Ok(value)
}

/// The product of `dims`, refused where it leaves `usize`.
pub(super) fn product(argument: &'static str, dims: &[usize]) -> Result<usize, Error> {
    dims.iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .ok_or(Error::TooLarge { argument })
}

pub(super) fn length(
    argument: &'static str,
    found: usize,
    expected: usize,
    shape: &'static str,
) -> Result<(), Error> {
    if found != expected {
        return Err(Error::Length {
            argument,
            found,
            expected,
            shape,
        });
    }
    Ok(())
}

pub(super) fn batch(argument: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found != expected {
        return Err(Error::Batch {
            argument,
            found,
            expected,
        });
    }
    Ok(())
}

/// Query heads to a KV head.
pub(super) fn group_size(num_q_heads: usize, num_kv_heads: usize) -> Result<usize, Error> {
    if num_kv_heads == 0 || num_q_heads == 0 || !num_q_heads.is_multiple_of(num_kv_heads) {
        return Err(Error::Group {
            num_q_heads,
            num_kv_heads,
        });
    }
    Ok(num_q_heads / num_kv_heads)
}

/// One length a sequence, none negative.
pub(super) fn lengths(
    argument: &'static str,
    lengths: &[i32],
    expected_batch: usize,
) -> Result<Vec<usize>, Error> {
    batch(argument, lengths.len(), expected_batch)?;
    lengths
        .iter()
        .enumerate()
        .map(|(index, &value)| {
            usize::try_from(value).map_err(|_| Error::Negative {
                argument,
                index,
                value: value.into(),
            })
        })
        .collect()
}

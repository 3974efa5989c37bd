//! Vectors of new tokens as an engine has them in memory.

use cudarc::driver::{DevicePtr, DevicePtrMut};

use crate::abi;
use crate::dtype::Element;
use crate::error::{Error, Result};

/// The q, k or v vectors of a step's new tokens: `[batch, tokens, heads, head_dim]`, in whatever order the engine
/// keeps the first three dimensions; the elements of a vector follow each other.
///
/// A slice or view converts into it as the dense row-major case, which is what a projection writes. Where a step is
/// [packed](crate::NewTokens::Packed), batch and tokens are one dimension, `[total, heads, head_dim]`.
pub struct Tokens<'a, T> {
    data: &'a dyn DevicePtr<T>,
    order: Order,
}

#[derive(Clone, Copy)]
enum Order {
    TokenMajor,
    HeadMajor,
    Strided(Strides),
}

/// Distances, in elements, between vectors that are neighbours in one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// From a sequence's first token to the next sequence's; not looked at in packed steps.
    pub batch: usize,
    /// From a token to the next one of the same sequence.
    pub token: usize,
    /// From a head to the next one of the same token.
    pub head: usize,
}

impl Strides {
    /// Vectors at this address, as the kernels read them. The strides have been checked.
    pub(crate) fn abi(self, data: u64) -> abi::KvTokens {
        abi::KvTokens {
            data: data as *const _,
            batch_stride: self.batch as i64,
            token_stride: self.token as i64,
            head_stride: self.head as i64,
        }
    }
}

impl<T> Clone for Tokens<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Tokens<'_, T> {}

impl<'a, T, S: DevicePtr<T>> From<&'a S> for Tokens<'a, T> {
    fn from(data: &'a S) -> Self {
        Tokens {
            data,
            order: Order::TokenMajor,
        }
    }
}

impl<'a, T> Tokens<'a, T> {
    /// Dense `[batch, heads, tokens, head_dim]`, as attention layers that transpose first have it. In a packed step
    /// `[heads, total, head_dim]`.
    pub fn head_major(data: &'a impl DevicePtr<T>) -> Self {
        Tokens {
            data,
            order: Order::HeadMajor,
        }
    }

    /// Any strides: a part of a fused q, k and v projection, for one. Each stride in use is a multiple of 16 bytes.
    pub fn strided(data: &'a impl DevicePtr<T>, strides: Strides) -> Self {
        Tokens {
            data,
            order: Order::Strided(strides),
        }
    }

    pub(crate) fn data(&self) -> &'a dyn DevicePtr<T> {
        self.data
    }
}

/// [`Tokens`] to be changed in place. No two vectors may share elements.
pub struct TokensMut<'a, T> {
    data: &'a mut dyn DevicePtrMut<T>,
    order: Order,
}

impl<'a, T, S: DevicePtrMut<T>> From<&'a mut S> for TokensMut<'a, T> {
    fn from(data: &'a mut S) -> Self {
        TokensMut {
            data,
            order: Order::TokenMajor,
        }
    }
}

impl<'a, T> TokensMut<'a, T> {
    /// As [`Tokens::head_major`].
    pub fn head_major(data: &'a mut impl DevicePtrMut<T>) -> Self {
        TokensMut {
            data,
            order: Order::HeadMajor,
        }
    }

    /// As [`Tokens::strided`]; each stride in use is also at least what the smaller ones span.
    pub fn strided(data: &'a mut impl DevicePtrMut<T>, strides: Strides) -> Self {
        TokensMut {
            data,
            order: Order::Strided(strides),
        }
    }

    pub(crate) fn data(&mut self) -> &mut dyn DevicePtrMut<T> {
        self.data
    }
}

impl<T: Element> TokensMut<'_, T> {
    /// As [`Tokens::strides`].
    pub(crate) fn strides(&self, argument: &'static str, extent: Extent) -> Result<Strides> {
        let strides = self.order.strides::<T>(argument, extent, self.data.len())?;
        check_apart(argument, strides, extent)?;
        Ok(strides)
    }
}

/// How many vectors there are to be.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub batch: usize,
    /// Of each sequence; of all together where packed.
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
}

impl<T: Element> Tokens<'_, T> {
    /// The strides for this many vectors.
    ///
    /// # Errors
    /// [`Error::Length`] where the slice is not of that size, or too short for its strides; [`Error::Stride`].
    pub(crate) fn strides(&self, argument: &'static str, extent: Extent) -> Result<Strides> {
        self.order.strides::<T>(argument, extent, self.data.len())
    }
}

impl Order {
    fn strides<T>(self, argument: &'static str, extent: Extent, len: usize) -> Result<Strides> {
        let Extent {
            batch,
            tokens,
            heads,
            head_dim,
        } = extent;
        let wrong_length = |shape: String, expected: usize| Error::Length {
            argument,
            shape,
            expected,
            got: len,
        };
        // Products fit: the step has checked batch * tokens * heads against i32, and head_dim is one of a few.
        let dense = batch * tokens * heads * head_dim;
        match self {
            Order::TokenMajor => {
                if len != dense {
                    return Err(wrong_length(
                        format!("[{batch}, {tokens}, {heads}, {head_dim}]"),
                        dense,
                    ));
                }
                Ok(Strides {
                    batch: tokens * heads * head_dim,
                    token: heads * head_dim,
                    head: head_dim,
                })
            }
            Order::HeadMajor => {
                if len != dense {
                    return Err(wrong_length(
                        format!("[{batch}, {heads}, {tokens}, {head_dim}]"),
                        dense,
                    ));
                }
                Ok(Strides {
                    batch: heads * tokens * head_dim,
                    token: head_dim,
                    head: tokens * head_dim,
                })
            }
            Order::Strided(strides) => {
                let last = check_strides::<T>(argument, strides, extent)?;
                if last > len as u128 {
                    return Err(wrong_length(
                        format!(
                            "[{batch}, {tokens}, {heads}, {head_dim}] of strides [{}, {}, {}, 1]",
                            strides.batch, strides.token, strides.head
                        ),
                        last as usize,
                    ));
                }
                Ok(strides)
            }
        }
    }
}

/// Refuses strides that leave the 16-byte grid. Returns one past the last element they reach.
fn check_strides<T>(argument: &'static str, strides: Strides, extent: Extent) -> Result<u128> {
    if extent.batch * extent.tokens * extent.heads == 0 {
        return Ok(0);
    }
    let per_vector = abi::KV_VECTOR_BYTES as usize / size_of::<T>();
    let mut last = extent.head_dim as u128;
    for (stride, value, count) in [
        ("batch", strides.batch, extent.batch),
        ("token", strides.token, extent.tokens),
        ("head", strides.head, extent.heads),
    ] {
        if count <= 1 {
            continue;
        }
        let refused = |requirement| Error::Stride {
            argument,
            stride,
            value,
            requirement,
        };
        if !value.is_multiple_of(per_vector) {
            return Err(refused("it must be a multiple of 16 bytes"));
        }
        if value > isize::MAX as usize / size_of::<T>() {
            return Err(refused("it must fit the device's address space"));
        }
        last += value as u128 * (count as u128 - 1);
    }
    Ok(last)
}

/// Refuses strides that put vectors on top of each other.
fn check_apart(argument: &'static str, strides: Strides, extent: Extent) -> Result<()> {
    if extent.batch * extent.tokens * extent.heads == 0 {
        return Ok(());
    }
    let mut dimensions = [
        ("batch", strides.batch, extent.batch),
        ("token", strides.token, extent.tokens),
        ("head", strides.head, extent.heads),
    ];
    dimensions.sort_by_key(|&(_, value, _)| value);
    let mut span = extent.head_dim as u128;
    for (stride, value, count) in dimensions {
        if count <= 1 {
            continue;
        }
        if (value as u128) < span {
            return Err(Error::Stride {
                argument,
                stride,
                value,
                requirement: "it must keep vectors that are written apart",
            });
        }
        span += value as u128 * (count as u128 - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    const EXTENT: Extent = Extent {
        batch: 2,
        tokens: 3,
        heads: 4,
        head_dim: 64,
    };

    #[test]
    fn strides_reach_their_last_element() {
        // k inside a fused projection of 4 + 4 + 4 heads.
        let strides = Strides {
            batch: 3 * 768,
            token: 768,
            head: 64,
        };
        assert_eq!(
            check_strides::<f16>("k", strides, EXTENT),
            Ok(2304 + 2 * 768 + 3 * 64 + 64)
        );
    }

    #[test]
    fn strides_keep_to_16_bytes() {
        let strides = Strides {
            batch: 2304,
            token: 772,
            head: 64,
        };
        assert_eq!(
            check_strides::<f16>("k", strides, EXTENT)
                .unwrap_err()
                .to_string(),
            "k token stride is 772 elements: it must be a multiple of 16 bytes"
        );
    }

    #[test]
    fn a_stride_nobody_takes_is_not_looked_at() {
        let strides = Strides {
            batch: 1,
            token: 1,
            head: 64,
        };
        let one = Extent {
            batch: 1,
            tokens: 1,
            ..EXTENT
        };
        assert_eq!(check_strides::<f16>("q", strides, one), Ok(4 * 64));
        let none = Extent {
            tokens: 0,
            ..EXTENT
        };
        assert_eq!(check_strides::<f16>("q", strides, none), Ok(0));
    }

    #[test]
    fn vectors_that_are_written_do_not_overlap() {
        let strides = Strides {
            batch: 3 * 256,
            token: 256,
            head: 64,
        };
        assert_eq!(check_apart("q", strides, EXTENT), Ok(()));
        let head_major = Strides {
            token: 64,
            head: 3 * 64,
            ..strides
        };
        assert_eq!(check_apart("q", head_major, EXTENT), Ok(()));
        for (wrong, message) in [
            (
                Strides { head: 0, ..strides },
                "q head stride is 0 elements: it must keep vectors that are written apart",
            ),
            (
                Strides {
                    token: 248,
                    ..strides
                },
                "q token stride is 248 elements: it must keep vectors that are written apart",
            ),
            (
                Strides {
                    batch: 760,
                    ..strides
                },
                "q batch stride is 760 elements: it must keep vectors that are written apart",
            ),
        ] {
            let error = check_apart("q", wrong, EXTENT).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}

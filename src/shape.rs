//! The shape of a contiguous cache and its limits.

use crate::abi;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Largest capacity of a sequence, in tokens: lengths are `i32` on the device, and a length plus a step's new tokens
/// must not overflow one. Offsets into a cache are 64-bit.
pub const MAX_SEQ_LEN: usize = abi::KV_MAX_SEQ_LEN as usize;

/// Most query heads that may share one KV head.
pub const MAX_GROUP_SIZE: usize = abi::KV_MAX_GROUP_SIZE as usize;

pub use crate::embedded::HEAD_DIMS;

/// Most query tokens a sequence in one step of attention.
pub const MAX_QUERY_TOKENS: usize = abi::KV_MAX_QUERY_TOKENS as usize;

/// Largest count the kernels hold in an `i32`: sequences, heads, rows of new tokens, thread blocks.
pub const MAX_INDEX: usize = i32::MAX as usize;

/// Shape of K, and of V, of one layer's contiguous cache: `[batch, num_kv_heads, max_seq_len, head_dim]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheShape {
    /// Sequences.
    pub batch: usize,
    /// Heads of K and V.
    pub num_kv_heads: usize,
    /// Capacity of a sequence, in tokens.
    pub max_seq_len: usize,
    /// Elements of a head's vector.
    pub head_dim: usize,
}

impl CacheShape {
    /// Elements of K (and as many of V).
    ///
    /// # Errors
    /// As [`check`](Self::check), without looking at the head dimension.
    pub fn elements(&self) -> Result<usize> {
        at_least_one("batch", self.batch)?;
        at_least_one("num_kv_heads", self.num_kv_heads)?;
        at_least_one("max_seq_len", self.max_seq_len)?;
        at_least_one("head_dim", self.head_dim)?;
        at_most("max_seq_len", self.max_seq_len as u128, MAX_SEQ_LEN)?;
        // One thread block a sequence and KV head.
        let pairs = self.batch as u128 * self.num_kv_heads as u128;
        at_most("batch * num_kv_heads", pairs, MAX_INDEX)?;
        let elements = pairs * self.max_seq_len as u128 * self.head_dim as u128;
        // Device offsets are signed 64-bit, in elements of up to 8 bytes.
        at_most(
            "batch * num_kv_heads * max_seq_len * head_dim",
            elements,
            isize::MAX as usize / 8,
        )?;
        Ok(elements as usize)
    }

    /// Bytes of K and V together, their scales included.
    ///
    /// # Errors
    /// As [`check`](Self::check), without looking at the head dimension.
    pub fn bytes(&self, dtype: Dtype) -> Result<usize> {
        let elements = self.elements()?;
        let scales = if dtype.is_scaled() { self.vectors() } else { 0 };
        Ok(2 * (dtype.size() * elements + size_of::<f32>() * scales))
    }

    /// Vectors of K (and as many of V): as many scales has a cache that stores a byte an element. The product has been
    /// checked.
    pub(crate) fn vectors(&self) -> usize {
        self.batch * self.num_kv_heads * self.max_seq_len
    }

    /// Whether there are kernels for this shape.
    ///
    /// # Errors
    /// [`Error::Zero`] for a dimension that is 0, [`Error::TooLarge`] for one beyond what the kernels index
    /// ([`MAX_SEQ_LEN`], [`MAX_INDEX`]), [`Error::HeadDim`] for one not in [`HEAD_DIMS`].
    pub fn check(&self, dtype: Dtype) -> Result<()> {
        self.elements()?;
        if !HEAD_DIMS.contains(&self.head_dim) {
            return Err(Error::HeadDim {
                value: self.head_dim,
                dtype,
                supported: HEAD_DIMS,
            });
        }
        Ok(())
    }

    /// Query heads a KV head, the group size.
    ///
    /// # Errors
    /// [`Error::Zero`], [`Error::HeadsNotDivisible`], [`Error::GroupSize`] above [`MAX_GROUP_SIZE`], or
    /// [`Error::TooLarge`] for more query heads in the batch than [`MAX_INDEX`].
    pub fn group_size(&self, num_q_heads: usize) -> Result<usize> {
        at_least_one("num_q_heads", num_q_heads)?;
        let heads = self.batch as u128 * num_q_heads as u128;
        at_most("batch * num_q_heads", heads, MAX_INDEX)?;
        at_least_one("num_kv_heads", self.num_kv_heads)?;
        if !num_q_heads.is_multiple_of(self.num_kv_heads) {
            return Err(Error::HeadsNotDivisible {
                num_q_heads,
                num_kv_heads: self.num_kv_heads,
            });
        }
        let group_size = num_q_heads / self.num_kv_heads;
        if group_size > MAX_GROUP_SIZE {
            return Err(Error::GroupSize {
                group_size,
                num_q_heads,
                num_kv_heads: self.num_kv_heads,
                limit: MAX_GROUP_SIZE,
            });
        }
        Ok(group_size)
    }
}

pub(crate) fn at_least_one(argument: &'static str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::Zero { argument });
    }
    Ok(())
}

pub(crate) fn at_most(argument: &'static str, value: u128, limit: usize) -> Result<()> {
    if value > limit as u128 {
        return Err(Error::TooLarge {
            argument,
            value,
            limit: limit as u128,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: CacheShape = CacheShape {
        batch: 2,
        num_kv_heads: 8,
        max_seq_len: 4096,
        head_dim: 128,
    };

    #[test]
    fn sizes_of_known_models() {
        // GPT-2, 12 layers of 12 heads, 100 tokens, fp16.
        let gpt2 = CacheShape {
            batch: 1,
            num_kv_heads: 12,
            max_seq_len: 100,
            head_dim: 64,
        };
        assert_eq!(gpt2.bytes(Dtype::F16).map(|b| 12 * b), Ok(3_686_400));
        // GPT-3 style, 96 layers of 96 heads, 2048 tokens, fp16.
        let gpt3 = CacheShape {
            batch: 1,
            num_kv_heads: 96,
            max_seq_len: 2048,
            head_dim: 128,
        };
        assert_eq!(gpt3.bytes(Dtype::F16).map(|b| 96 * b), Ok(9_663_676_416));
        // Half of it, and 4 bytes of scale for each 128.
        assert_eq!(
            gpt3.bytes(Dtype::I8).map(|b| 96 * b),
            Ok(9_663_676_416 / 2 + 9_663_676_416 / 64)
        );
    }

    #[test]
    fn refuses_empty_dimensions() {
        for (shape, argument) in [
            (CacheShape { batch: 0, ..SHAPE }, "batch"),
            (
                CacheShape {
                    num_kv_heads: 0,
                    ..SHAPE
                },
                "num_kv_heads",
            ),
            (
                CacheShape {
                    max_seq_len: 0,
                    ..SHAPE
                },
                "max_seq_len",
            ),
            (
                CacheShape {
                    head_dim: 0,
                    ..SHAPE
                },
                "head_dim",
            ),
        ] {
            let error = shape.check(Dtype::F16).unwrap_err();
            assert_eq!(error, Error::Zero { argument });
            assert_eq!(
                error.to_string(),
                format!("{argument} is 0: it must be at least 1")
            );
        }
    }

    #[test]
    fn refuses_head_dims_without_a_kernel() {
        let shape = CacheShape {
            head_dim: 100,
            ..SHAPE
        };
        assert_eq!(
            shape.check(Dtype::Bf16).unwrap_err().to_string(),
            "head_dim is 100: the kernels for bf16 are built for [64, 80, 96, 112, 128, 192, 256]"
        );
    }

    #[test]
    fn refuses_what_it_cannot_index() {
        let long = CacheShape {
            max_seq_len: MAX_SEQ_LEN + 1,
            ..SHAPE
        };
        assert_eq!(
            long.check(Dtype::F16).unwrap_err().to_string(),
            "max_seq_len is 1073741825: at most 1073741824 can be indexed"
        );
        let wide = CacheShape {
            batch: 1 << 16,
            num_kv_heads: 1 << 15,
            ..SHAPE
        };
        assert_eq!(
            wide.check(Dtype::F16).unwrap_err().to_string(),
            "batch * num_kv_heads is 2147483648: at most 2147483647 can be indexed"
        );
        let vast = CacheShape {
            batch: 1 << 30,
            num_kv_heads: 1,
            max_seq_len: MAX_SEQ_LEN,
            head_dim: 128,
        };
        assert!(matches!(
            vast.check(Dtype::F16),
            Err(Error::TooLarge {
                argument: "batch * num_kv_heads * max_seq_len * head_dim",
                ..
            })
        ));
    }

    #[test]
    fn groups() {
        assert_eq!(SHAPE.group_size(8), Ok(1));
        assert_eq!(SHAPE.group_size(40), Ok(5));
        assert_eq!(SHAPE.group_size(512), Ok(64));
        assert_eq!(
            SHAPE.group_size(12).unwrap_err().to_string(),
            "num_q_heads is 12: it must be a multiple of num_kv_heads, 8"
        );
        assert_eq!(
            SHAPE.group_size(520).unwrap_err().to_string(),
            "group size is 65 (num_q_heads 520 / num_kv_heads 8): at most 64"
        );
        assert_eq!(
            SHAPE.group_size(0),
            Err(Error::Zero {
                argument: "num_q_heads"
            })
        );
    }
}

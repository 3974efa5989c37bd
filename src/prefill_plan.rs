//! How prefill is shared out over blocks.

use crate::abi;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::plan::{Kernel, Plan};
use crate::shape::{MAX_INDEX, at_most};
use crate::step::NewTokens;

/// Largest head dimension whose outputs and queries one warp holds for its rows; beyond, two share them.
const WIDE_HEAD_DIM: u32 = 128;

/// Parts of 16 rows in a tile of K and V: kParts of kernels/prefill.cuh.
const PARTS: u32 = abi::KV_PREFILL_ROWS / 16;

/// Threads of a block: a warp for each 16 rows, or two.
fn threads(head_dim: u32) -> u32 {
    let sharers = if head_dim > WIDE_HEAD_DIM { 2 } else { 1 };
    PARTS * 32 * sharers
}

/// Shared memory of a block: two stages of K and V; and queries that registers do not hold.
pub(crate) fn shared_bytes(dtype: Dtype, head_dim: u32) -> u32 {
    let stages = if head_dim > WIDE_HEAD_DIM { 3 } else { 2 };
    stages * PARTS * 16 * head_dim * dtype.size() as u32
}

/// Tiles of query rows of all sequences together, at most: blocks of a KV head.
pub(crate) fn row_tiles(new: NewTokens<'_>, batch: usize, group_size: usize) -> u128 {
    let rows_of_tile = u128::from(abi::KV_PREFILL_ROWS);
    let rows = |tokens: usize| tokens as u128 * group_size as u128;
    match new {
        NewTokens::Each(tokens) => batch as u128 * rows(tokens).div_ceil(rows_of_tile),
        // Only the device knows who has how many. A sequence's tiles begin at (rows before it) / 64 + its index.
        NewTokens::Packed { total: 0, .. } => 0,
        NewTokens::Packed { total, .. } => rows(total) / rows_of_tile + batch as u128,
    }
}

impl Plan {
    /// prefill: so many tiles of query rows for each KV head.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) for more blocks than a grid has.
    pub(crate) fn prefill(
        row_tiles: u128,
        num_kv_heads: usize,
        dtype: Dtype,
        head_dim: usize,
    ) -> Result<Plan> {
        let kernel = Kernel::Prefill {
            dtype,
            head_dim: head_dim as u32,
        };
        let blocks = row_tiles * num_kv_heads as u128;
        at_most("row tiles * num_kv_heads", blocks, MAX_INDEX)?;
        Ok(Plan {
            kernel,
            blocks: blocks as u32,
            threads: threads(head_dim as u32),
            shared_bytes: kernel.dynamic_shared_bytes(),
            num_splits: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_rows_of_every_sequence() {
        for (batch, tokens, group_size, tiles) in [
            (1, 1, 1, 1),
            (3, 64, 1, 3),
            (3, 65, 1, 6),
            (2, 13, 5, 4),
            (1, 8192, 8, 1024),
            (5, 0, 4, 0),
        ] {
            assert_eq!(
                row_tiles(NewTokens::Each(tokens), batch, group_size),
                tiles,
                "{batch} {tokens} {group_size}"
            );
        }
    }

    /// Where the kernel has a sequence's tiles begin leaves each its own, and all of them are launched.
    #[test]
    fn packed_tiles_need_no_sum_of_tiles() {
        let first_tile =
            |cu_seqlens: &[usize], b: usize, group: usize| cu_seqlens[b] * group / 64 + b;
        for counts in [[0, 1, 63, 64, 65], [1000, 0, 0, 1, 130], [5, 5, 5, 5, 5]] {
            let mut cu_seqlens = vec![0];
            for count in counts {
                cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + count);
            }
            for group in [1, 3, 8, 64] {
                for (b, count) in counts.into_iter().enumerate() {
                    let room =
                        first_tile(&cu_seqlens, b + 1, group) - first_tile(&cu_seqlens, b, group);
                    let needed = (count * group).div_ceil(64);
                    assert!((needed..=needed + 2).contains(&room), "{counts:?} {group}");
                }
                let launched = cu_seqlens[5] * group / 64 + 5;
                assert_eq!(first_tile(&cu_seqlens, 5, group), launched);
            }
        }
    }

    #[test]
    fn every_plan_is_of_a_kernel_there_is_and_fits_every_device() {
        let all: Vec<_> = Kernel::all().collect();
        for &dtype in Dtype::ELEMENTS {
            for &head_dim in crate::shape::HEAD_DIMS {
                let plan = Plan::prefill(3, 2, dtype, head_dim).expect("a plan");
                assert!(all.contains(&plan.kernel));
                // 99 KiB, the least that a block may have on compute capability 8.0 and up, with 128 bytes that a
                // kernel has of its own.
                assert!(plan.shared_bytes + 128 <= 99 << 10);
            }
        }
        let plan = Plan::prefill(7, 8, Dtype::F16, 128).expect("a plan");
        assert_eq!(
            plan.to_string(),
            "kv_prefill_f16_d128: 56 blocks of 128 threads and 32768 bytes"
        );
        let error = Plan::prefill(1 << 30, 2, Dtype::F16, 128).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row tiles * num_kv_heads is 2147483648: at most 2147483647 can be indexed"
        );
    }
}

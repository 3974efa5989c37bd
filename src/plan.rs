//! What is launched for an operation: decided on the host, from shapes alone.

use std::fmt;

use crate::abi;
use crate::dtype::Dtype;

/// One kernel launch. A pure function of shapes: device memory is not looked at, so a CUDA graph that captured the
/// launch stays right while sequences grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    kernel: Kernel,
    /// Thread blocks, in one dimension.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory a block asks for at the launch.
    pub shared_bytes: u32,
}

impl Plan {
    /// The kernel to launch.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// append: a thread for each 16 bytes of `rows` vectors of a head, whole vectors a block.
    pub(crate) fn append(rows: u32, dtype: Dtype, head_dim: usize) -> Plan {
        let row_vectors = (head_dim * dtype.size()) as u32 / abi::KV_VECTOR_BYTES;
        let rows_of_block = abi::KV_APPEND_THREADS / row_vectors;
        Plan {
            kernel: Kernel::Append {
                bits: 8 * dtype.size() as u32,
                head_dim: head_dim as u32,
            },
            blocks: rows.div_ceil(rows_of_block),
            threads: abi::KV_APPEND_THREADS,
            shared_bytes: 0,
        }
    }

    /// advance: a thread a sequence.
    pub(crate) fn advance(batch: u32) -> Plan {
        Plan {
            kernel: Kernel::Advance,
            blocks: batch.div_ceil(abi::KV_ADVANCE_THREADS),
            threads: abi::KV_ADVANCE_THREADS,
            shared_bytes: 0,
        }
    }

    /// decode: a block for each split of each sequence, KV head and group of its query rows.
    pub(crate) fn decode(units: Units, dtype: Dtype, head_dim: usize, num_splits: u32) -> Plan {
        let kernel = Kernel::Decode {
            dtype,
            head_dim: head_dim as u32,
            columns: units.columns,
        };
        Plan {
            kernel,
            blocks: units.count * num_splits,
            threads: abi::KV_DECODE_THREADS,
            shared_bytes: kernel.dynamic_shared_bytes(),
        }
    }
}

/// How the query rows of a decode are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    /// Query rows a block serves at once.
    pub columns: u32,
    /// Blocks that share a KV head's query rows.
    pub row_groups: u32,
    /// Sequences × KV heads × row groups: as many blocks a split.
    pub count: u32,
}

impl Units {
    /// `pairs` sequences × KV heads, with `rows` query rows each: the fewest row groups, so that K and V are read as
    /// seldom as can be, and no wider than needed.
    pub(crate) fn new(pairs: u32, rows: u32, head_dim: usize) -> Units {
        let widest = if head_dim <= WIDE_HEAD_DIM { 16 } else { 8 };
        let columns = if rows <= 8 { 8 } else { widest };
        let row_groups = rows.div_ceil(columns);
        Units {
            columns,
            row_groups,
            count: pairs * row_groups,
        }
    }
}

/// Largest head dimension with kernels for 16 query rows: beyond, their accumulators do not fit the registers.
const WIDE_HEAD_DIM: usize = 128;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            kernel,
            blocks,
            threads,
            shared_bytes,
        } = self;
        write!(f, "{kernel}: {blocks} blocks of {threads} threads")?;
        if *shared_bytes > 0 {
            write!(f, " and {shared_bytes} bytes")?;
        }
        Ok(())
    }
}

/// A kernel by what it was built for. Displays as its symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// Copies new vectors into the cache.
    Append {
        /// Bits of an element.
        bits: u32,
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Adds new tokens to lengths.
    Advance,
    /// Attention of one token a sequence.
    Decode {
        /// Element type of q, K, V and the output.
        dtype: Dtype,
        /// Elements of a vector.
        head_dim: u32,
        /// Query rows of a block.
        columns: u32,
    },
}

impl Kernel {
    /// Every kernel there is.
    pub fn all() -> impl Iterator<Item = Kernel> {
        let head_dims = || {
            crate::shape::HEAD_DIMS
                .iter()
                .map(|&head_dim| head_dim as u32)
        };
        let appends = head_dims().map(|head_dim| Kernel::Append { bits: 16, head_dim });
        let decodes = Dtype::ALL.iter().flat_map(move |&dtype| {
            head_dims().flat_map(move |head_dim| {
                [8, 16]
                    .into_iter()
                    .filter(move |&columns| columns == 8 || head_dim as usize <= WIDE_HEAD_DIM)
                    .map(move |columns| Kernel::Decode {
                        dtype,
                        head_dim,
                        columns,
                    })
            })
        });
        appends.chain([Kernel::Advance]).chain(decodes)
    }

    /// Bytes of shared memory a block asks for at the launch: for decode four warps' rings of three tiles, of 32
    /// tokens or, with long vectors, of 16.
    pub(crate) fn dynamic_shared_bytes(self) -> u32 {
        match self {
            Kernel::Decode {
                dtype, head_dim, ..
            } => {
                let tokens = if head_dim <= 128 { 32 } else { 16 };
                4 * 3 * tokens * head_dim * dtype.size() as u32
            }
            Kernel::Append { .. } | Kernel::Advance => 0,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Append { bits, head_dim } => write!(f, "kv_append_b{bits}_d{head_dim}"),
            Kernel::Advance => f.write_str("kv_advance"),
            Kernel::Decode {
                dtype,
                head_dim,
                columns,
            } => write!(f, "kv_decode_{dtype}_d{head_dim}_n{columns}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_covers_its_rows() {
        // 64 fp16 elements are 8 vectors of 16 bytes: 32 rows a block of 256 threads.
        for (rows, blocks) in [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3)] {
            assert_eq!(Plan::append(rows, Dtype::F16, 64).blocks, blocks, "{rows}");
        }
        assert_eq!(Plan::append(33, Dtype::Bf16, 128).blocks, 3);
        assert_eq!(
            Plan::append(33, Dtype::Bf16, 128).to_string(),
            "kv_append_b16_d128: 3 blocks of 256 threads"
        );
    }

    #[test]
    fn query_rows_are_shared_out_over_as_few_blocks_as_can_be() {
        for (rows, head_dim, columns, row_groups) in [
            (1, 64, 8, 1),
            (8, 128, 8, 1),
            (9, 128, 16, 1),
            (16, 64, 16, 1),
            (17, 64, 16, 2),
            (64, 112, 16, 4),
            (9, 192, 8, 2),
            (64, 256, 8, 8),
        ] {
            assert_eq!(
                Units::new(6, rows, head_dim),
                Units {
                    columns,
                    row_groups,
                    count: 6 * row_groups
                },
                "{rows} {head_dim}"
            );
        }
        let plan = Plan::decode(Units::new(24, 5, 64), Dtype::F16, 64, 3);
        assert_eq!(
            plan.to_string(),
            "kv_decode_f16_d64_n8: 72 blocks of 128 threads and 49152 bytes"
        );
    }

    #[test]
    fn every_plan_is_of_a_kernel_there_is_and_fits_every_device() {
        let all: Vec<_> = Kernel::all().collect();
        for &dtype in Dtype::ALL {
            for &head_dim in crate::shape::HEAD_DIMS {
                assert!(all.contains(&Plan::append(1, dtype, head_dim).kernel));
                for rows in 1..=512 {
                    let plan = Plan::decode(Units::new(1, rows, head_dim), dtype, head_dim, 1);
                    assert!(all.contains(&plan.kernel));
                    // 99 KiB, the least that a block may have on compute capability 8.0 and up.
                    assert!(plan.shared_bytes <= 99 << 10);
                }
            }
        }
        assert!(all.contains(&Plan::advance(1).kernel));
    }
}

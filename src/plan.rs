//! What is launched for an operation: decided on the host, from shapes alone.

use std::fmt;

use crate::abi;
use crate::dtype::Dtype;
use crate::shape::MAX_GROUP_SIZE;

/// One kernel launch. A pure function of shapes: device memory is not looked at, so a CUDA graph that captured the
/// launch stays right while sequences grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    kernel: Kernel,
    /// Thread blocks, in one dimension.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
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
        }
    }

    /// advance: a thread a sequence.
    pub(crate) fn advance(batch: u32) -> Plan {
        Plan {
            kernel: Kernel::Advance,
            blocks: batch.div_ceil(abi::KV_ADVANCE_THREADS),
            threads: abi::KV_ADVANCE_THREADS,
        }
    }

    /// decode: a block for each sequence and KV head, by the smallest kernel that holds the group.
    pub(crate) fn decode(pairs: u32, dtype: Dtype, head_dim: usize, group_size: usize) -> Plan {
        let max_group = DECODE_GROUPS
            .into_iter()
            .find(|&group| group as usize >= group_size)
            .unwrap_or(MAX_GROUP_SIZE as u32);
        Plan {
            kernel: Kernel::Decode {
                dtype,
                head_dim: head_dim as u32,
                max_group,
            },
            blocks: pairs,
            threads: abi::KV_DECODE_THREADS,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            kernel,
            blocks,
            threads,
        } = self;
        write!(f, "{kernel}: {blocks} blocks of {threads} threads")
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
        /// The largest group it serves.
        max_group: u32,
    },
}

/// Group sizes decode is built for.
const DECODE_GROUPS: [u32; 3] = [4, 8, 16];

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
                DECODE_GROUPS.map(|max_group| Kernel::Decode {
                    dtype,
                    head_dim,
                    max_group,
                })
            })
        });
        appends.chain([Kernel::Advance]).chain(decodes)
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
                max_group,
            } => write!(f, "kv_decode_{dtype}_d{head_dim}_g{max_group}"),
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
    fn decode_takes_the_smallest_kernel_that_holds_the_group() {
        for (group_size, expected) in [(1, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16)] {
            let plan = Plan::decode(24, Dtype::F16, 64, group_size);
            assert_eq!(
                plan.to_string(),
                format!("kv_decode_f16_d64_g{expected}: 24 blocks of 128 threads")
            );
        }
    }

    #[test]
    fn every_plan_is_of_a_kernel_there_is() {
        let all: Vec<_> = Kernel::all().collect();
        for &dtype in Dtype::ALL {
            for &head_dim in crate::shape::HEAD_DIMS {
                assert!(all.contains(&Plan::append(1, dtype, head_dim).kernel));
                for group_size in 1..=MAX_GROUP_SIZE {
                    assert!(all.contains(&Plan::decode(1, dtype, head_dim, group_size).kernel));
                }
            }
        }
        assert!(all.contains(&Plan::advance(1).kernel));
    }
}

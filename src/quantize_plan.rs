//! What is launched to quantise, to dequantise, and to look at what a cache holds.

use crate::abi;
use crate::dtype::Dtype;
use crate::plan::{Kernel, Plan};

impl Plan {
    /// quantize: so many vectors, a byte for each element.
    pub(crate) fn quantize(vectors: u32, from: Dtype, to: Dtype, head_dim: usize) -> Plan {
        let kernel = Kernel::Quantize {
            from,
            to,
            head_dim: head_dim as u32,
        };
        by_vectors(kernel, vectors, head_dim)
    }

    /// dequantize: so many vectors, of a byte for each element.
    pub(crate) fn dequantize(vectors: u32, from: Dtype, to: Dtype, head_dim: usize) -> Plan {
        let kernel = Kernel::Dequantize {
            from,
            to,
            head_dim: head_dim as u32,
        };
        by_vectors(kernel, vectors, head_dim)
    }

    /// calibrate: the parts of every KV head's vectors.
    pub(crate) fn calibrate(
        parts: Parts,
        num_kv_heads: u32,
        dtype: Dtype,
        head_dim: usize,
    ) -> Plan {
        let kernel = Kernel::Calibrate {
            dtype,
            head_dim: head_dim as u32,
        };
        by_parts(kernel, parts, num_kv_heads)
    }

    /// statistics: the parts of every KV head's vectors.
    pub(crate) fn statistics(
        parts: Parts,
        num_kv_heads: u32,
        dtype: Dtype,
        head_dim: usize,
    ) -> Plan {
        let kernel = Kernel::Statistics {
            dtype,
            head_dim: head_dim as u32,
        };
        by_parts(kernel, parts, num_kv_heads)
    }
}

/// Lanes that hold a vector, eight elements each.
fn lanes(head_dim: usize) -> u32 {
    head_dim as u32 / (abi::KV_VECTOR_BYTES / 2)
}

/// A vector takes whole lanes of a warp, which take several one after another.
fn by_vectors(kernel: Kernel, vectors: u32, head_dim: usize) -> Plan {
    let of_block = abi::KV_QUANTIZE_THREADS / 32 * (32 / lanes(head_dim)) * abi::KV_QUANTIZE_PASSES;
    Plan {
        kernel,
        blocks: vectors.div_ceil(of_block),
        threads: abi::KV_QUANTIZE_THREADS,
        shared_bytes: 0,
        num_splits: 1,
    }
}

fn by_parts(kernel: Kernel, parts: Parts, num_kv_heads: u32) -> Plan {
    Plan {
        kernel,
        blocks: parts.count * num_kv_heads,
        threads: abi::KV_STATISTICS_THREADS,
        shared_bytes: 0,
        num_splits: parts.count,
    }
}

/// How blocks share a KV head's vectors. By the shape alone, whatever the GPU: sums are made in the order of the parts,
/// and are to have the same bits everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Blocks.
    pub count: u32,
    /// Vectors of each, the last one's perhaps fewer.
    pub vectors: u32,
}

impl Parts {
    /// Vectors that a thread takes at least, before more blocks are made.
    const LEAST: u32 = 16;
    /// Blocks of all KV heads together, about: several waves of any GPU.
    const BLOCKS: u32 = 2048;

    /// Of so many vectors, at least one.
    pub fn new(vectors: u32, num_kv_heads: u32, head_dim: usize) -> Parts {
        let rows = abi::KV_STATISTICS_THREADS / lanes(head_dim);
        let most = (Self::BLOCKS / num_kv_heads).max(1);
        let count = vectors.div_ceil(rows * Self::LEAST).min(most);
        let each = vectors.div_ceil(count);
        Parts {
            count: vectors.div_ceil(each),
            vectors: each,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_all_vectors() {
        // 128 elements take 16 lanes: 16 vectors a block at a time, four times.
        for (vectors, blocks) in [(1, 1), (64, 1), (65, 2), (6400, 100)] {
            let plan = Plan::quantize(vectors, Dtype::F16, Dtype::I8, 128);
            assert_eq!(plan.blocks, blocks, "{vectors}");
        }
        // 80 take ten: three a warp.
        assert_eq!(
            Plan::dequantize(97, Dtype::F8E4M3, Dtype::Bf16, 80).to_string(),
            "kv_dequantize_fp8_bf16_d80: 2 blocks of 256 threads"
        );
    }

    #[test]
    fn parts_cover_all_vectors_and_none_is_empty() {
        for head_dim in crate::shape::HEAD_DIMS.iter().copied() {
            for num_kv_heads in [1, 8, 4096] {
                for vectors in [1, 127, 128, 129, 4096, 1 << 20, i32::MAX as u32] {
                    let Parts {
                        count,
                        vectors: each,
                    } = Parts::new(vectors, num_kv_heads, head_dim);
                    let (count, each, vectors) = (count as u64, each as u64, vectors as u64);
                    assert!(count * each >= vectors && (count - 1) * each < vectors);
                }
            }
        }
        // 8 rows at a time of 128 elements, 16 times.
        assert_eq!(
            Parts::new(4096, 8, 128),
            Parts {
                count: 32,
                vectors: 128
            }
        );
    }

    #[test]
    fn every_plan_is_of_a_kernel_there_is() {
        let all: Vec<_> = Kernel::all().collect();
        let parts = Parts::new(1, 1, 64);
        for &dtype in Dtype::ELEMENTS {
            for &head_dim in crate::shape::HEAD_DIMS {
                assert!(all.contains(&Plan::statistics(parts, 1, dtype, head_dim).kernel));
                assert!(all.contains(&Plan::calibrate(parts, 1, dtype, head_dim).kernel));
                for payload in [Dtype::I8, Dtype::F8E4M3] {
                    assert!(all.contains(&Plan::quantize(1, dtype, payload, head_dim).kernel));
                    assert!(all.contains(&Plan::dequantize(1, payload, dtype, head_dim).kernel));
                }
            }
        }
    }
}

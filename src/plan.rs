//! What is launched for an operation: decided on the host, from shapes alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use crate::abi;
use crate::cache_types::CacheTypes;
use crate::decode_plan;
use crate::dtype::Dtype;
use crate::embedded::{HEAD_DIMS, RESOURCES};
use crate::gpu::Gpu;
use crate::prefill_plan;

/// One kernel launch. A pure function of shapes: device memory is not looked at, so a CUDA graph that captured the
/// launch stays right while sequences grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) kernel: Kernel,
    /// Thread blocks, in one dimension.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory a block asks for at the launch.
    pub shared_bytes: u32,
    /// Blocks among which the tokens of each sequence and KV head are split.
    pub num_splits: u32,
}

impl Plan {
    /// The kernel to launch.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Blocks of this kernel that a multiprocessor holds at once.
    pub fn blocks_per_sm(&self, gpu: &Gpu) -> u32 {
        let Demands {
            registers,
            shared_bytes,
        } = self.kernel.demands();
        gpu.occupancy(self.threads, registers, self.shared_bytes + shared_bytes)
    }

    /// How often the GPU is filled with blocks, one after another.
    pub fn waves(&self, gpu: &Gpu) -> f64 {
        f64::from(self.blocks) / f64::from(gpu.sm_count * self.blocks_per_sm(gpu).max(1))
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
            num_splits: 1,
        }
    }

    /// merge: a thread for each 16 bytes of the output.
    pub(crate) fn merge(vectors: u32, dtype: Dtype) -> Plan {
        Plan {
            kernel: Kernel::Merge { dtype },
            blocks: vectors.div_ceil(abi::KV_MERGE_THREADS),
            threads: abi::KV_MERGE_THREADS,
            shared_bytes: 0,
            num_splits: 1,
        }
    }

    /// advance: a thread a sequence.
    pub(crate) fn advance(batch: u32) -> Plan {
        Plan {
            kernel: Kernel::Advance,
            blocks: batch.div_ceil(abi::KV_ADVANCE_THREADS),
            threads: abi::KV_ADVANCE_THREADS,
            shared_bytes: 0,
            num_splits: 1,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            kernel,
            blocks,
            threads,
            shared_bytes,
            num_splits,
        } = self;
        write!(f, "{kernel}: {blocks} blocks of {threads} threads")?;
        if *shared_bytes > 0 {
            write!(f, " and {shared_bytes} bytes")?;
        }
        if *num_splits > 1 {
            write!(f, ", {num_splits} splits")?;
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
    /// Copies new vectors into the cache, those of K turned by RoPE.
    AppendRope {
        /// Element type of K and V.
        dtype: Dtype,
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Adds new tokens to lengths.
    Advance,
    /// Causal attention of many tokens a sequence.
    Prefill {
        /// Element type of q, K, V and the output.
        dtype: Dtype,
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Turns vectors of q and k by RoPE.
    Rope {
        /// Element type of the vectors.
        dtype: Dtype,
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Copies new vectors into the cache, quantised, those of K turned by RoPE where asked.
    AppendQuantized {
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Attention of one token a sequence.
    Decode {
        /// What K is stored as.
        k: Dtype,
        /// What V is stored as. Where both are of a byte an element, q and the output are of either type; else they are
        /// of the type that K or V has.
        v: Dtype,
        /// Elements of a vector.
        head_dim: u32,
        /// Query rows of a block.
        columns: u32,
    },
    /// Attention over all tokens from attention over parts of them.
    Merge {
        /// Element type of the outputs.
        dtype: Dtype,
    },
    /// Vectors to a byte an element and a scale.
    Quantize {
        /// Element type of the vectors.
        from: Dtype,
        /// What is stored.
        to: Dtype,
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Vectors of a byte an element and a scale to what they stand for.
    Dequantize {
        /// What is stored.
        from: Dtype,
        /// Element type of the vectors.
        to: Dtype,
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Channel scales from what a cache holds.
    Calibrate {
        /// Element type of the cache.
        dtype: Dtype,
        /// Elements of a vector.
        head_dim: u32,
    },
    /// Ranges and sums of what a cache holds.
    Statistics {
        /// Element type of the cache.
        dtype: Dtype,
        /// Elements of a vector.
        head_dim: u32,
    },
}

impl Kernel {
    /// Every kernel there is.
    pub fn all() -> impl Iterator<Item = Kernel> {
        let head_dims = || HEAD_DIMS.iter().map(|&head_dim| head_dim as u32);
        let appends = head_dims().map(|head_dim| Kernel::Append { bits: 16, head_dim });
        let quantized = head_dims().map(|head_dim| Kernel::AppendQuantized { head_dim });
        let decodes = CacheTypes::kernels().flat_map(|(k, v)| {
            CacheTypes::variants(k, v).map(move |(head_dim, columns)| Kernel::Decode {
                k,
                v,
                head_dim,
                columns,
            })
        });
        let merges = Dtype::ELEMENTS.iter().map(|&dtype| Kernel::Merge { dtype });
        let by_vector = Dtype::ELEMENTS.iter().flat_map(move |&dtype| {
            head_dims().flat_map(move |head_dim| {
                [
                    Kernel::Rope { dtype, head_dim },
                    Kernel::AppendRope { dtype, head_dim },
                    Kernel::Prefill { dtype, head_dim },
                ]
            })
        });
        appends
            .chain(quantized)
            .chain([Kernel::Advance])
            .chain(decodes)
            .chain(merges)
            .chain(by_vector)
            .chain(Self::of_quantization())
    }

    fn of_quantization() -> impl Iterator<Item = Kernel> {
        let variants = Dtype::ELEMENTS.iter().flat_map(|&dtype| {
            let head_dims = HEAD_DIMS.iter().map(|&head_dim| head_dim as u32);
            head_dims.map(move |head_dim| (dtype, head_dim))
        });
        variants.flat_map(|(dtype, head_dim)| {
            let quantize = |to| Kernel::Quantize {
                from: dtype,
                to,
                head_dim,
            };
            let dequantize = |from| Kernel::Dequantize {
                from,
                to: dtype,
                head_dim,
            };
            [
                quantize(Dtype::I8),
                quantize(Dtype::F8E4M3),
                dequantize(Dtype::I8),
                dequantize(Dtype::F8E4M3),
                Kernel::Calibrate { dtype, head_dim },
                Kernel::Statistics { dtype, head_dim },
            ]
        })
    }

    /// Bytes of shared memory a block asks for at the launch.
    pub(crate) fn dynamic_shared_bytes(self) -> u32 {
        match self {
            Kernel::Decode {
                k,
                v,
                head_dim,
                columns,
            } => decode_plan::shared_bytes(k, v, head_dim, columns),
            Kernel::Prefill { dtype, head_dim } => prefill_plan::shared_bytes(dtype, head_dim),
            Kernel::Append { .. }
            | Kernel::AppendRope { .. }
            | Kernel::AppendQuantized { .. }
            | Kernel::Merge { .. }
            | Kernel::Rope { .. }
            | Kernel::Quantize { .. }
            | Kernel::Dequantize { .. }
            | Kernel::Calibrate { .. }
            | Kernel::Statistics { .. }
            | Kernel::Advance => 0,
        }
    }

    /// What ptxas gives it, the most on any architecture built for.
    pub(crate) fn demands(self) -> Demands {
        static OF_KERNEL: LazyLock<HashMap<Kernel, Demands>> = LazyLock::new(|| {
            Kernel::all()
                .map(|kernel| (kernel, Demands::of(&kernel.to_string())))
                .collect()
        });
        OF_KERNEL.get(&self).copied().unwrap_or(Demands::MOST)
    }
}

/// What a kernel takes of a multiprocessor, besides what its launch asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demands {
    /// Of a thread.
    pub registers: u32,
    /// Of a block, in bytes: static shared memory.
    pub shared_bytes: u32,
}

impl Demands {
    /// What the launch bounds of every kernel of 128 threads leave to a thread.
    const MOST: Demands = Demands {
        registers: 168,
        shared_bytes: 64,
    };

    fn of(name: &str) -> Demands {
        RESOURCES
            .iter()
            .filter(|resources| resources.kernel == name)
            .map(|resources| Demands {
                registers: resources.registers,
                shared_bytes: resources.shared_bytes,
            })
            .reduce(|a, b| Demands {
                registers: a.registers.max(b.registers),
                shared_bytes: a.shared_bytes.max(b.shared_bytes),
            })
            .unwrap_or(Demands::MOST)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Append { bits, head_dim } => write!(f, "kv_append_b{bits}_d{head_dim}"),
            Kernel::AppendRope { dtype, head_dim } => {
                write!(f, "kv_append_rope_{dtype}_d{head_dim}")
            }
            Kernel::Advance => f.write_str("kv_advance"),
            Kernel::Prefill { dtype, head_dim } => write!(f, "kv_prefill_{dtype}_d{head_dim}"),
            Kernel::Rope { dtype, head_dim } => write!(f, "kv_rope_{dtype}_d{head_dim}"),
            Kernel::AppendQuantized { head_dim } => write!(f, "kv_append_quantized_d{head_dim}"),
            Kernel::Decode {
                k,
                v,
                head_dim,
                columns,
            } if k == v => write!(f, "kv_decode_{k}_d{head_dim}_n{columns}"),
            Kernel::Decode {
                k,
                v,
                head_dim,
                columns,
            } => write!(f, "kv_decode_{k}_{v}_d{head_dim}_n{columns}"),
            Kernel::Merge { dtype } => write!(f, "kv_merge_{dtype}"),
            Kernel::Quantize { from, to, head_dim } => {
                write!(f, "kv_quantize_{from}_{to}_d{head_dim}")
            }
            Kernel::Dequantize { from, to, head_dim } => {
                write!(f, "kv_dequantize_{from}_{to}_d{head_dim}")
            }
            Kernel::Calibrate { dtype, head_dim } => write!(f, "kv_calibrate_{dtype}_d{head_dim}"),
            Kernel::Statistics { dtype, head_dim } => {
                write!(f, "kv_statistics_{dtype}_d{head_dim}")
            }
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
}

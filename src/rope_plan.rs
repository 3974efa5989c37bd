//! What is launched to turn vectors by RoPE, with or without appending them.

use crate::abi;
use crate::dtype::Dtype;
use crate::plan::{Kernel, Plan};

impl Plan {
    /// rope: so many tokens, whose q and k have so many heads.
    pub(crate) fn rope(
        tokens: u32,
        num_q_heads: u32,
        num_kv_heads: u32,
        dtype: Dtype,
        head_dim: usize,
    ) -> Plan {
        let kernel = Kernel::Rope {
            dtype,
            head_dim: head_dim as u32,
        };
        let units = tokens * (units_of_heads(num_q_heads) + units_of_heads(num_kv_heads));
        by_units(kernel, units, dtype, head_dim)
    }

    /// append with rope: K and V of so many tokens and heads.
    pub(crate) fn append_rope(
        tokens: u32,
        num_kv_heads: u32,
        dtype: Dtype,
        head_dim: usize,
    ) -> Plan {
        let kernel = Kernel::AppendRope {
            dtype,
            head_dim: head_dim as u32,
        };
        let units = tokens * units_of_heads(num_kv_heads);
        by_units(kernel, units, dtype, head_dim)
    }

    /// append to a cache of a byte an element, with rope or without: K and V of so many tokens and heads.
    pub(crate) fn append_quantized(tokens: u32, num_kv_heads: u32, head_dim: usize) -> Plan {
        let kernel = Kernel::AppendQuantized {
            head_dim: head_dim as u32,
        };
        let units = tokens * units_of_heads(num_kv_heads);
        // New vectors are of two bytes an element, whichever.
        by_units(kernel, units, Dtype::F16, head_dim)
    }
}

/// Units that share the heads of a token.
fn units_of_heads(heads: u32) -> u32 {
    heads.div_ceil(abi::KV_ROPE_PASSES)
}

/// A unit is as many lanes as a vector has 16 bytes; whole units a warp.
fn by_units(kernel: Kernel, units: u32, dtype: Dtype, head_dim: usize) -> Plan {
    let lanes = (head_dim * dtype.size()) as u32 / abi::KV_VECTOR_BYTES;
    let warps = abi::KV_ROPE_THREADS / 32;
    Plan {
        kernel,
        blocks: units.div_ceil(warps * (32 / lanes)),
        threads: abi::KV_ROPE_THREADS,
        shared_bytes: 0,
        num_splits: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_all_heads_of_all_tokens() {
        // Vectors of 128 fp16 elements take 16 lanes: 8 units a block of 4 warps.
        for (tokens, q, k, blocks) in [
            (1, 4, 0, 1),
            (1, 32, 8, 2), // 8 + 2 units
            (4, 7, 0, 1),  // 2 units a token
            (5, 0, 5, 2),  // 2 units a token
            (1000, 40, 8, 1500),
        ] {
            let plan = Plan::rope(tokens, q, k, Dtype::F16, 128);
            assert_eq!(plan.blocks, blocks, "{tokens} tokens, {q} and {k} heads");
        }
        // 80 elements take 10 lanes: 3 units a warp.
        assert_eq!(
            Plan::append_rope(25, 3, Dtype::Bf16, 80).to_string(),
            "kv_append_rope_bf16_d80: 3 blocks of 128 threads"
        );
    }

    #[test]
    fn every_plan_is_of_a_kernel_there_is() {
        let all: Vec<_> = Kernel::all().collect();
        for &dtype in Dtype::ELEMENTS {
            for &head_dim in crate::shape::HEAD_DIMS {
                assert!(all.contains(&Plan::rope(1, 1, 1, dtype, head_dim).kernel));
                assert!(all.contains(&Plan::append_rope(1, 1, dtype, head_dim).kernel));
            }
        }
    }
}

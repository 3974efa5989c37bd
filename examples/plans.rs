//! How decode is shared out over GPUs, by batch and capacity: `cargo run --example plans`. Needs no GPU: a plan is a
//! function of shapes and of a GPU's limits.

use kv_kernels::{CacheShape, DecodeShape, Dtype, Gpu};

const GPUS: [(&str, Gpu); 6] = [
    ("A100", Gpu::A100),
    ("L4", Gpu::L4),
    ("RTX 4090", Gpu::RTX_4090),
    ("H100", Gpu::H100),
    ("H200", Gpu::H200),
    ("B200", Gpu::B200),
];

fn main() -> kv_kernels::Result<()> {
    println!("fp16, 8 KV heads of 128 elements, 4 query heads each");
    for (name, gpu) in GPUS {
        println!(
            "\n{name}: {} multiprocessors\n{:>6} {:>8} {:>7} {:>7} {:>7} {:>14} {:>12}",
            gpu.sm_count, "batch", "seq", "splits", "blocks", "waves", "in flight/SM", "workspace"
        );
        for batch in [1, 4, 16, 64, 256] {
            for max_seq_len in [128, 1024, 8192, 65_536, 1 << 20] {
                let shape = DecodeShape {
                    cache: CacheShape {
                        batch,
                        num_kv_heads: 8,
                        max_seq_len,
                        head_dim: 128,
                    },
                    dtype: Dtype::F16,
                    k_dtype: Dtype::F16,
                    v_dtype: Dtype::F16,
                    num_q_heads: 32,
                    query_tokens: 1,
                    sliding_window: None,
                };
                let plan = shape.plan(&gpu)?;
                println!(
                    "{batch:>6} {max_seq_len:>8} {:>7} {:>7} {:>7.2} {:>10} KiB {:>8} KiB",
                    plan.num_splits,
                    plan.blocks,
                    plan.waves(&gpu),
                    shape.bytes_in_flight_per_sm(&gpu)? >> 10,
                    shape.workspace(plan.num_splits)?.bytes() >> 10,
                );
            }
        }
    }
    Ok(())
}

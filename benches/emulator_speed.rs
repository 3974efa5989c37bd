//! Warp instructions a second that the emulator executes on the decode kernel, on one core: `cargo bench --bench
//! emulator_speed`. A figure of this machine's CPU, and no prediction of any GPU's time.

use half::f16;
use kv_kernels::{CacheShape, Kernels, KvCache, Lengths, NewTokens};
use std::time::Instant;

/// Launches timed for each set of checks.
const LAUNCHES: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(emulator) = ptx_emulator::install()?.emulator() else {
        println!("skipped: a GPU is in force, and this measures the emulator");
        return Ok(());
    };
    emulator.set_threads(1)?;
    let ctx = kv_kernels::open(0)?;
    let stream = ctx.default_stream();
    let kernels = Kernels::new(&ctx)?;
    let (num_q_heads, head_dim, seq_len) = (8, 128, 2048);
    let shape = CacheShape {
        batch: 2,
        num_kv_heads: 1,
        max_seq_len: seq_len,
        head_dim,
    };
    let mut cache = KvCache::<f16>::new(&stream, shape)?;
    let mut lengths = Lengths::new(&stream, shape.batch, shape.max_seq_len)?;
    let tokens = shape.batch * seq_len * head_dim;
    let values = |count: usize| -> Vec<f16> {
        (0..count)
            .map(|i| f16::from_f32((i % 61) as f32 / 61.0))
            .collect()
    };
    let (k, v) = (
        stream.clone_htod(&values(tokens))?,
        stream.clone_htod(&values(tokens))?,
    );
    let q = stream.clone_htod(&values(shape.batch * num_q_heads * head_dim))?;
    let mut out = stream.alloc_zeros::<f16>(shape.batch * num_q_heads * head_dim)?;
    let step = lengths.step(NewTokens::Each(seq_len))?;
    kernels.append(&k, &v, &mut cache, step).launch(&stream)?;
    kernels
        .advance(&mut lengths, NewTokens::Each(seq_len))
        .launch(&stream)?;
    stream.synchronize()?;
    for checks in ["none", "all"] {
        emulator.set_checks(checks)?;
        emulator.keep_counters(true)?;
        emulator.take_counters()?;
        let step = lengths.step(NewTokens::Each(0))?;
        kernels
            .decode(&q, num_q_heads, &cache, step, &mut out)
            .launch(&stream)?;
        stream.synchronize()?;
        let instructions = executed(&emulator.take_counters()?)?;
        // Memory counters cost time of their own: they are off, like the checks, unless asked for.
        emulator.keep_counters(checks == "all")?;
        let start = Instant::now();
        for _ in 0..LAUNCHES {
            let step = lengths.step(NewTokens::Each(0))?;
            kernels
                .decode(&q, num_q_heads, &cache, step, &mut out)
                .launch(&stream)?;
        }
        stream.synchronize()?;
        let seconds = start.elapsed().as_secs_f64() / LAUNCHES as f64;
        println!(
            "decode, head_dim {head_dim}, group {num_q_heads}, {seq_len} tokens, checks {checks}: {instructions} warp instructions in {:.1} ms: {:.1} million a second",
            seconds * 1e3,
            instructions as f64 / seconds / 1e6
        );
    }
    Ok(())
}

/// Warp instructions of the launches in a counters report.
fn executed(report: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let launches: serde_json::Value = serde_json::from_str(report)?;
    let list = launches.as_array().ok_or("the counters are no list")?;
    Ok(list
        .iter()
        .filter_map(|l| l["metrics"]["smsp__inst_executed.sum"].as_u64())
        .sum())
}

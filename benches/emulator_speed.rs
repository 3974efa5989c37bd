//! Warp instructions a second that the emulator executes on one core, on the decode kernel and on CUB's block radix
//! sort, without checks and with all of them and all counters: `cargo bench --bench emulator_speed`. Words behind `--`
//! choose among the lines: those that hold all of the words are measured. Figures of this machine's CPU, and no
//! prediction of any GPU's time. On a machine that others use too, the quickest launch says what the emulator can do, and
//! the mean what became of it.
//!
//! Launches are big enough, about a million warp instructions, to be about the interpreter; what a launch costs by
//! itself stands in a line of its own, of a kernel that does next to nothing.

#[path = "../emulator/tests/support/mod.rs"]
mod support;

use cudarc::driver::{CudaContext, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use half::f16;
use kv_kernels::{CacheShape, Kernels, KvCache, Lengths, NewTokens};
use ptx_emulator::Emulator;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Seconds that launches are timed for, at least, under each set of checks.
const LONG_ENOUGH: f64 = 1.0;

fn main() -> Outcome {
    let Some(emulator) = ptx_emulator::install()?.emulator() else {
        println!("skipped: a GPU is in force, and this measures the emulator");
        return Ok(());
    };
    emulator.set_threads(1)?;
    let context = kv_kernels::open(0)?;
    decode(&emulator, &context)?;
    radix_sort(&emulator, &context)?;
    little(&emulator, &context)
}

/// What is measured: without checks, and with all of them.
const CHECKS: [&str; 2] = ["none", "all"];

/// Whether the command line asks for the line of that name and those checks.
fn chosen(name: &str, checks: &str) -> bool {
    let line = format!("{name}, checks {checks}");
    let mut words = std::env::args().skip(1).filter(|w| !w.starts_with('-'));
    words.all(|word| line.contains(&word))
}

/// Times a launch without checks, and with all of them and all counters.
fn measure(
    emulator: &Emulator,
    stream: &CudaStream,
    name: &str,
    mut launch: impl FnMut() -> Outcome,
) -> Outcome {
    for checks in CHECKS {
        if !chosen(name, checks) {
            continue;
        }
        emulator.set_checks(checks)?;
        emulator.keep_counters(true)?;
        emulator.take_counters()?;
        launch()?;
        stream.synchronize()?;
        let instructions = executed(&emulator.take_counters()?)?;
        // Memory counters cost time of their own: they are off, like the checks, unless asked for.
        emulator.keep_counters(checks == "all")?;
        let start = processor_seconds();
        let (mut launches, mut quickest) = (0, f64::MAX);
        while processor_seconds() - start < LONG_ENOUGH {
            let began = Instant::now();
            launch()?;
            stream.synchronize()?;
            quickest = quickest.min(began.elapsed().as_secs_f64());
            launches += 1;
        }
        let seconds = (processor_seconds() - start) / f64::from(launches);
        let rate = |seconds: f64| instructions as f64 / seconds / 1e6;
        println!(
            "{name}, checks {checks}: {instructions} warp instructions in {:.3} ms: {:.1} million a second, {:.1} in the quickest launch",
            seconds * 1e3,
            rate(seconds),
            rate(quickest)
        );
    }
    Ok(())
}

fn decode(emulator: &Emulator, context: &Arc<CudaContext>) -> Outcome {
    let (num_q_heads, head_dim, seq_len) = (8, 128, 8192);
    let shape = CacheShape {
        batch: 16,
        num_kv_heads: 1,
        max_seq_len: seq_len,
        head_dim,
    };
    let name = format!(
        "decode, head_dim {head_dim}, group {num_q_heads}, {} sequences of {seq_len} tokens",
        shape.batch
    );
    if !CHECKS.iter().any(|checks| chosen(&name, checks)) {
        return Ok(());
    }
    let stream = context.default_stream();
    let kernels = Kernels::new(context)?;
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
    measure(emulator, &stream, &name, || {
        let step = lengths.step(NewTokens::Each(0))?;
        kernels
            .decode(&q, num_q_heads, &cache, step, &mut out)
            .launch(&stream)?;
        Ok(())
    })
}

/// CUB's block radix sort from the toolkit's headers: tiles of 512 keys.
fn radix_sort(emulator: &Emulator, context: &Arc<CudaContext>) -> Outcome {
    let (blocks, threads, items) = (256u32, 128u32, 4u32);
    let name = format!("CUB's block radix sort, {} keys a block", threads * items);
    if !CHECKS.iter().any(|checks| chosen(&name, checks)) {
        return Ok(());
    }
    let Some(nvcc) = support::nvcc_or_skip("CUB's radix sort") else {
        return Ok(());
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("emulator/tests/cub/sort.cu");
    let ptx = support::compile(&nvcc, &source, &["-arch=compute_80"], "speed");
    let kernel = context
        .load_module(Ptx::from_src(ptx))?
        .load_function("radix_u32_128x4")?;
    let stream = context.default_stream();
    let count = blocks * threads * items;
    let keys: Vec<u32> = (0..count).map(|k| k.wrapping_mul(2_654_435_761)).collect();
    let keys = stream.clone_htod(&keys)?;
    let mut sorted = stream.alloc_zeros::<u32>(count as usize)?;
    let config = LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    };
    measure(emulator, &stream, &name, || {
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&keys).arg(&mut sorted).arg(&0i32).arg(&32i32);
        // SAFETY: the arguments are the kernel's, and both buffers hold a tile for every block.
        unsafe { launch.launch(config) }?;
        Ok(())
    })
}

/// A kernel of one warp that leaves at once: what a launch costs by itself.
fn little(emulator: &Emulator, context: &Arc<CudaContext>) -> Outcome {
    let ptx =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry little()\n{\n ret;\n}\n";
    let kernel = context
        .load_module(Ptx::from_src(ptx))?
        .load_function("little")?;
    let stream = context.default_stream();
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (32, 1, 1),
        shared_mem_bytes: 0,
    };
    measure(emulator, &stream, "a kernel that only returns", || {
        // SAFETY: the kernel takes nothing and touches nothing.
        unsafe { stream.launch_builder(&kernel).launch(config) }?;
        Ok(())
    })
}

/// Seconds of a processor that this process has had, so that a busy machine does not show; the time of day where the
/// system does not say.
fn processor_seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // Behind the name in brackets: state and ten more fields, then ticks of a hundredth second in user and system mode.
    let ticks = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|text| {
            let (_, fields) = text.rsplit_once(')')?;
            let mut fields = fields.split_whitespace().skip(11);
            let user: f64 = fields.next()?.parse().ok()?;
            let system: f64 = fields.next()?.parse().ok()?;
            Some(user + system)
        });
    match ticks {
        Some(ticks) => ticks / 100.0,
        None => START.get_or_init(Instant::now).elapsed().as_secs_f64(),
    }
}

/// Warp instructions of the launches in a counters report.
fn executed(report: &str) -> Outcome<u64> {
    let launches: serde_json::Value = serde_json::from_str(report)?;
    let list = launches.as_array().ok_or("the counters are no list")?;
    Ok(list
        .iter()
        .filter_map(|l| l["metrics"]["smsp__inst_executed.sum"].as_u64())
        .sum())
}

//! What a cache of fewer bits does to a real model.
//!
//! Runs SmolLM2-135M over a text of many kinds of English, each time with a cache of another type, appended and attended
//! to by kv-kernels' fused step, and reports what each did to the model's predictions, to the outputs of attention in
//! every layer, and to K and V themselves.

mod chart;
mod cli;
mod measure;
mod report;
mod run;

use anyhow::{Context, Result};
use clap::Parser;
use half::f16;
use kv_kernels::CacheShape;
use kv_kernels::reference::F8E4M3;
use smollm2::attention::{CacheStorage, KernelAttention};
use smollm2::device::{self, Opened};
use smollm2::loaded::Loaded;
use smollm2::model::Config;
use smollm2::model_file;

use crate::cli::Args;
use crate::report::Report;
use crate::run::Candidate;

/// Written for this: a story, an explanation, a letter, a recipe and more.
const TEXT: &str = include_str!("../text.txt");

fn main() -> Result<()> {
    let args = Args::parse();
    let path = model_file::find(args.model.clone())?;
    let loaded = Loaded::from_file(&path)?;
    eprintln!("model: {}, {}", path.display(), loaded.model.config());
    let mut tokens = loaded.tokenizer.encode(TEXT)?;
    if let Some(limit) = args.tokens {
        tokens.truncate(limit as usize);
    }
    let device = device::open()?;
    device::set_default_checks("none")?;
    eprintln!("device: {device}");
    let config = loaded.model.config();
    let candidates = candidates(&device, config, tokens.len(), args.calibrate as usize)?;
    eprintln!("text: {} tokens", tokens.len());
    let started = std::time::Instant::now();
    let measured = run::measure(&loaded.model, &tokens, candidates)?;
    eprintln!("took {:.0} s", started.elapsed().as_secs_f64());
    print!("{}", Report(&measured));
    if let Some(path) = &args.svg {
        chart::draw(path, &measured).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("drawn: {}", path.display());
    }
    Ok(())
}

/// The caches that are compared, the one that the others are held against first.
fn candidates(
    device: &Opened,
    config: &Config,
    tokens: usize,
    calibrate: usize,
) -> Result<Vec<Candidate>> {
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: config.num_kv_heads,
        max_seq_len: tokens,
        head_dim: config.head_dim,
    };
    Ok(vec![
        Candidate {
            name: "fp16",
            attention: Box::new(attention::<f16>(device, config, shape)?),
        },
        Candidate {
            name: "int8 with channel scales",
            attention: Box::new(attention::<i8>(device, config, shape)?.calibrated(calibrate)),
        },
        Candidate {
            name: "int8",
            attention: Box::new(attention::<i8>(device, config, shape)?),
        },
        Candidate {
            name: "fp8",
            attention: Box::new(attention::<F8E4M3>(device, config, shape)?),
        },
    ])
}

fn attention<S: CacheStorage>(
    device: &Opened,
    config: &Config,
    shape: CacheShape,
) -> Result<KernelAttention<S>> {
    let attention = KernelAttention::new(&device.context, config, shape)?;
    // Without splits results are the same on any device, and the emulator has the least to execute.
    Ok(attention.by_steps().num_splits(1))
}

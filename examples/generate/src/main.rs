//! Text from a small language model, its rotary positions, key-value cache and attention through kv-kernels.
//!
//! candle reads the model (SmolLM2-135M-Instruct, GGUF) and does its matrix products on the CPU. The vectors of new
//! tokens go to the device, where the kernels turn them by their positions, append them to the cache and attend over
//! it; the attended vectors come back. A decode step is one launch a layer, a prompt three.
//!
//! ```text
//!                         ┌ turn q and k by RoPE        ┐
//! x ─► norm ─► q, k, v ─► │ append k and v to the cache │ ─► output ─► + ─► norm ─► ffn ─► +
//!                         └ attend from q over it       ┘
//!      candle, on the CPU   kv-kernels, on the device       candle
//! ```

mod attention;
mod chat;
mod cli;
mod device;
mod generation;
mod model;
mod model_file;
mod progress;
mod rope;
mod speaker;
mod table;
#[cfg(test)]
mod testing;
mod tokenizer;
mod trace;

use anyhow::Result;
use candle_core::WithDType;
use clap::Parser;
use kv_kernels::{CacheShape, Dtype};

use crate::attention::{CacheElement, CandleAttention, KernelAttention, Shared};
use crate::cli::{Args, Precision};
use crate::device::Opened;
use crate::generation::{Agreement, Cached, Compared, Computations, Difference, Recomputed};
use crate::model::Config;
use crate::speaker::{Speaker, Timing};
use crate::table::{LENGTHS, Table};
use crate::tokenizer::Tokenizer;
use crate::trace::Trace;

fn main() -> Result<()> {
    let args = Args::parse();
    match args.dtype {
        Precision::F16 => run::<half::f16>(&args),
        Precision::Bf16 => run::<half::bf16>(&args),
    }
}

/// Does what was asked, with a cache of `T`. Text and results go to stdout, what is said about them to stderr.
fn run<T: CacheElement>(args: &Args) -> Result<()> {
    let path = model_file::find(args.model.clone())?;
    let speaker = Speaker::load(&path)?;
    eprintln!("model: {}, {}", path.display(), speaker.model.config());
    let prompt = speaker.chat.prompt(&speaker.tokenizer, &args.prompt)?;
    if args.table {
        table::<T>(&speaker, &prompt)
    } else if args.no_cache {
        without_cache::<T>(&speaker, &prompt, args.tokens.into())
    } else {
        with_cache::<T>(&speaker, &prompt, args.tokens.into(), args.compare)
    }
}

fn with_cache<T: CacheElement>(
    speaker: &Speaker,
    prompt: &[u32],
    limit: usize,
    compare: bool,
) -> Result<()> {
    let model = &speaker.model;
    let attention = kernels::<T>(&device::open()?, model.config(), prompt.len() + limit)?;
    if !compare {
        let mut next = Cached { model, attention };
        let timing = speaker.answer(&mut next, prompt, limit)?;
        report(timing);
        report_launches(next.attention.trace());
        return Ok(());
    }
    let oracle = CandleAttention::new(model.config(), <T as WithDType>::DTYPE);
    let mut next = Compared {
        model,
        attention: Shared::new(attention, oracle),
        agreement: Agreement::default(),
    };
    let timing = speaker.answer(&mut next, prompt, limit)?;
    report(timing);
    report_launches(next.attention.ours_ref().trace());
    for difference in next.agreement.differing() {
        println!("{}", describe(difference, &speaker.tokenizer));
    }
    println!("{}", next.agreement);
    Ok(())
}

fn without_cache<T: CacheElement>(speaker: &Speaker, prompt: &[u32], limit: usize) -> Result<()> {
    eprintln!("device: none, candle on the CPU; no cache");
    let mut next = Recomputed {
        model: &speaker.model,
        dtype: <T as WithDType>::DTYPE,
    };
    report(speaker.answer(&mut next, prompt, limit)?);
    Ok(())
}

fn table<T: CacheElement>(speaker: &Speaker, prompt: &[u32]) -> Result<()> {
    let model = &speaker.model;
    let dtype = <T as WithDType>::DTYPE;
    let longest = LENGTHS.into_iter().max().unwrap_or(0);
    let device = device::open()?;
    let attention = kernels::<T>(&device, model.config(), prompt.len() + longest)?;
    let mut kernels = Cached { model, attention };
    let with_kernels = table::measure("with a cache", &mut kernels, prompt, &LENGTHS)?;
    let attention = CandleAttention::new(model.config(), dtype);
    let mut candle = Cached { model, attention };
    let with_candle = table::measure("with candle's", &mut candle, prompt, &LENGTHS)?;
    let mut recomputed = Recomputed { model, dtype };
    let without = table::measure("without a cache", &mut recomputed, prompt, &LENGTHS)?;
    print!(
        "{}",
        Table {
            prompt: prompt.len(),
            without,
            with: vec![
                ("kv-kernels".to_owned(), with_kernels),
                ("candle".to_owned(), with_candle),
            ],
        }
    );
    println!("candle runs on the CPU, kv-kernels on: {device}");
    Ok(())
}

/// Our attention, on this device; says which, and what its cache takes.
fn kernels<T: CacheElement>(
    device: &Opened,
    config: &Config,
    max_seq_len: usize,
) -> Result<KernelAttention<T>> {
    eprintln!("device: {device}");
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: config.num_kv_heads,
        max_seq_len,
        head_dim: config.head_dim,
    };
    let attention = KernelAttention::new(&device.context, config, shape)?;
    let bytes = Dtype::ELEMENTS
        .iter()
        .map(|&dtype| {
            Ok(format!(
                "{dtype} {}",
                config.num_layers * shape.bytes(dtype)?
            ))
        })
        .collect::<kv_kernels::Result<Vec<String>>>()?;
    eprintln!(
        "cache: {}, room for {max_seq_len} tokens; bytes of K and V in {} layers: {}",
        <T as kv_kernels::Storage>::DTYPE,
        config.num_layers,
        bytes.join(", ")
    );
    Ok(attention)
}

/// Says how long an answer took, and how much of the work a cache saves.
fn report(timing: Timing) {
    let work = Computations::of(timing.prompt, timing.tokens);
    eprintln!("{timing}");
    eprintln!(
        "tokens through the model: {} with a cache, {} without",
        work.with_cache, work.without
    );
}

/// Says what was launched, step by step.
fn report_launches(trace: &Trace) {
    eprintln!("launches, {} in all:\n{trace}", trace.total());
}

fn describe(difference: &Difference, tokenizer: &Tokenizer) -> String {
    let choice = |choice: &generation::Choice| {
        format!(
            "{} (logit {:.4} with the kernels, {:.4} with candle's attention)",
            tokenizer.quote(choice.token),
            choice.logit_ours,
            choice.logit_oracle
        )
    };
    format!(
        "token {} differs: the kernels chose {}, candle's attention would choose {}",
        difference.index + 1,
        choice(&difference.ours),
        choice(&difference.oracle)
    )
}

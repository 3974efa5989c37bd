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

mod cli;
mod speaker;
mod table;

use anyhow::Result;
use candle_core::WithDType;
use clap::Parser;
use kv_kernels::reference::F8E4M3;
use kv_kernels::{CacheShape, Dtype};
use smollm2::attention::{CacheStorage, CandleAttention, KernelAttention, Shared, Vectors};
use smollm2::device::{self, Opened};
use smollm2::generation::{
    Agreement, Cached, Choice, Compared, Computations, Difference, Recomputed,
};
use smollm2::loaded::Loaded;
use smollm2::model::Config;
use smollm2::model_file;
use smollm2::tokenizer::Tokenizer;
use smollm2::trace::Trace;

use crate::cli::{Args, CacheType};
use crate::speaker::{Timing, answer};
use crate::table::{LENGTHS, Table};

fn main() -> Result<()> {
    let args = Args::parse();
    match args.cache {
        CacheType::F16 => run::<half::f16>(&args),
        CacheType::Bf16 => run::<half::bf16>(&args),
        CacheType::Int8 => run::<i8>(&args),
        CacheType::Fp8 => run::<F8E4M3>(&args),
    }
}

/// Tokens of the prompt from which the scales of an int8 cache's channels are calibrated, at most.
const CALIBRATION: usize = 128;

/// Does what was asked, with a cache of `S`. Text and results go to stdout, what is said about them to stderr.
fn run<S: CacheStorage>(args: &Args) -> Result<()> {
    let path = model_file::find(args.model.clone())?;
    let loaded = Loaded::from_file(&path)?;
    eprintln!("model: {}, {}", path.display(), loaded.model.config());
    let prompt = loaded.chat.prompt(&loaded.tokenizer, &args.prompt)?;
    if args.table {
        table::<S>(&loaded, &prompt)
    } else if args.no_cache {
        without_cache::<S>(&loaded, &prompt, args.tokens.into())
    } else {
        with_cache::<S>(&loaded, &prompt, args.tokens.into(), args.compare)
    }
}

fn with_cache<S: CacheStorage>(
    loaded: &Loaded,
    prompt: &[u32],
    limit: usize,
    compare: bool,
) -> Result<()> {
    let model = &loaded.model;
    let attention = kernels::<S>(&device::open()?, model.config(), prompt.len() + limit)?;
    if !compare {
        let mut next = Cached { model, attention };
        let timing = answer(loaded, &mut next, prompt, limit)?;
        report(timing);
        report_cache(&next.attention)?;
        report_launches(next.attention.trace());
        return Ok(());
    }
    let oracle = CandleAttention::new(model.config(), <Vectors<S> as WithDType>::DTYPE);
    let mut next = Compared {
        model,
        attention: Shared::new(attention, oracle),
        agreement: Agreement::default(),
    };
    let timing = answer(loaded, &mut next, prompt, limit)?;
    report(timing);
    report_cache(next.attention.ours_ref())?;
    report_launches(next.attention.ours_ref().trace());
    for difference in next.agreement.differing() {
        println!("{}", describe(difference, &loaded.tokenizer));
    }
    println!("{}", next.agreement);
    Ok(())
}

fn without_cache<S: CacheStorage>(loaded: &Loaded, prompt: &[u32], limit: usize) -> Result<()> {
    eprintln!("device: none, candle on the CPU; no cache");
    let mut next = Recomputed {
        model: &loaded.model,
        dtype: <Vectors<S> as WithDType>::DTYPE,
    };
    report(answer(loaded, &mut next, prompt, limit)?);
    Ok(())
}

fn table<S: CacheStorage>(loaded: &Loaded, prompt: &[u32]) -> Result<()> {
    let model = &loaded.model;
    let dtype = <Vectors<S> as WithDType>::DTYPE;
    let longest = LENGTHS.into_iter().max().unwrap_or(0);
    let device = device::open()?;
    let attention = kernels::<S>(&device, model.config(), prompt.len() + longest)?;
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

/// Our attention, on this device; says which.
fn kernels<S: CacheStorage>(
    device: &Opened,
    config: &Config,
    max_seq_len: usize,
) -> Result<KernelAttention<S>> {
    eprintln!("device: {device}");
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: config.num_kv_heads,
        max_seq_len,
        head_dim: config.head_dim,
    };
    let attention = KernelAttention::<S>::new(&device.context, config, shape)?;
    Ok(match S::DTYPE {
        Dtype::I8 => attention.calibrated(CALIBRATION),
        _ => attention,
    })
}

/// Says how many bytes the cache takes, and how many 16-bit elements would take.
fn report_cache<S: CacheStorage>(attention: &KernelAttention<S>) -> Result<()> {
    let shape = attention.shape();
    let layers = attention.num_layers();
    let of_f16 = layers * shape.bytes(Dtype::F16)?;
    let elements = of_f16 / Dtype::F16.size() * S::DTYPE.size();
    let scales = attention.bytes() - elements;
    eprintln!(
        "cache: {}, room for {} tokens in {layers} layers: {elements} bytes of K and V, {scales} of scales; \
         f16 takes {of_f16}",
        S::DTYPE,
        shape.max_seq_len,
    );
    Ok(())
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
    let choice = |choice: &Choice| {
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

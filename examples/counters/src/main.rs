//! What kv-kernels' operations move and issue, counted on the emulator: `cargo xtask counters`.
//!
//! Every configuration is launched through the crate's public API on an emulated device, which executes the PTX that
//! a GPU's machine code was made of and counts all of it. The table and its JSON are for deciding by; `--check` holds
//! the figures to `budget.json`.

mod budget;
mod cli;
mod config;
mod convert;
mod device;
mod matrix;
mod record;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use half::{bf16, f16};
use kv_kernels::reference::F8E4M3;
use kv_kernels::{Dtype, Stores};

use crate::budget::Budget;
use crate::cli::Args;
use crate::config::Config;
use crate::device::{Device, Number, Prepared};
use crate::record::Record;

/// The bars.
const BUDGET: &str = include_str!("../budget.json");

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let device = Device::open(&args.device)?;
    let configs = args.axes().configs();
    let began = Instant::now();
    let mut records = Vec::new();
    let same_cache = |a: &Config, b: &Config| (a.dtype, a.shape()) == (b.dtype, b.shape());
    for configs in configs.chunk_by(same_cache) {
        match configs[0].dtype {
            Dtype::F16 => count::<f16>(&device, configs, &mut records)?,
            Dtype::Bf16 => count::<bf16>(&device, configs, &mut records)?,
            Dtype::I8 => count::<i8>(&device, configs, &mut records)?,
            Dtype::F8E4M3 => count::<F8E4M3>(&device, configs, &mut records)?,
            other => anyhow::bail!("no numbers of type {other} can be made up"),
        }
    }
    eprintln!(
        "{} configurations counted in {:.0} s",
        records.len(),
        began.elapsed().as_secs_f64()
    );
    if args.check {
        return check(&records, args.is_whole());
    }
    let records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&records)?);
    } else {
        print!("{}", table::table(&records));
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts configurations of one cache.
fn count<T: Number + Stores<T::Query>>(
    device: &Device,
    configs: &[Config],
    records: &mut Vec<(String, Record)>,
) -> Result<()> {
    let mut prepared = Prepared::<T>::new(device, &configs[0])?;
    for config in configs {
        let launched = prepared.launch(config)?;
        let record = Record::new(config, device.profile, &launched)?;
        records.push((config.to_string(), record));
    }
    Ok(())
}

/// Holds the records to the budget, and says each breach.
fn check(records: &[(String, Record)], whole: bool) -> Result<ExitCode> {
    let budget = Budget::read(BUDGET)?;
    let breaches = budget.breaches(records, whole)?;
    for breach in &breaches {
        println!("{breach}");
    }
    if breaches.is_empty() {
        println!(
            "{} configurations keep all {} bars of the budget",
            records.len(),
            budget.len()
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} breaches of the budget", breaches.len());
    Ok(ExitCode::FAILURE)
}

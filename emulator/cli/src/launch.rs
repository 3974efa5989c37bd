//! `ptx-emulator run`.

use crate::Failure;
use crate::argument::{Argument, prepare};
use clap::Args;
use ptx_emulator::check::Checks;
use ptx_emulator::image;
use ptx_emulator::profile::{PROFILES, Profile};
use ptx_emulator::run::{Finished, RunError, Setup, run as run_kernel};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Options of `run`.
#[derive(Debug, Args)]
pub struct Options {
    /// PTX text or a fat binary.
    file: PathBuf,
    /// The kernel; may be left out where the file has one alone.
    #[arg(long, default_value = "")]
    kernel: String,
    /// Blocks of the grid: X, X,Y or X,Y,Z.
    #[arg(long, value_parser = extent, default_value = "1")]
    grid: [u32; 3],
    /// Threads of a block.
    #[arg(long, value_parser = extent, default_value = "1")]
    block: [u32; 3],
    /// Blocks of a cluster; what the kernel was compiled for, if left out.
    #[arg(long, value_parser = extent)]
    cluster: Option<[u32; 3]>,
    /// Dynamic shared memory of a block, in bytes.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// A cooperative launch: all blocks at once.
    #[arg(long)]
    cooperative: bool,
    /// The device: a100, h100, l4 or rtx4090.
    #[arg(long, value_parser = profile, default_value = "h100")]
    device: &'static Profile,
    /// Checks in force: all, none, names separated by commas, or -name to leave one out.
    #[arg(long, value_parser = checks, default_value = "all", allow_hyphen_values = true)]
    checks: Checks,
    /// Seed of the order in which warps and blocks run; plain order without one.
    #[arg(long)]
    seed: Option<u64>,
    /// Most warp instructions of the launch.
    #[arg(long, default_value_t = 1 << 32)]
    budget: u64,
    /// Threads of the host; 0 for all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object: report, counters, what the kernel printed.
    #[arg(long)]
    json: bool,
    /// The kernel's arguments in order: TYPE:NUMBER (i32:5, f32:1.5), bytes:HEX for a structure, in:FILE.npy,
    /// inout:FILE.npy[:FILE.npy], out:TYPE:SHAPE:FILE.npy (out:f32:4x8:b.npy).
    #[arg(value_name = "ARG")]
    arguments: Vec<Argument>,
}

fn extent(text: &str) -> Result<[u32; 3], String> {
    let mut out = [1; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("three numbers are the most".into());
    }
    for (slot, part) in out.iter_mut().zip(parts) {
        *slot = match part.trim().parse() {
            Ok(n) if n > 0 => n,
            _ => return Err(format!("`{part}` is not a positive number")),
        };
    }
    Ok(out)
}

fn profile(key: &str) -> Result<&'static Profile, String> {
    Profile::by_key(key).ok_or_else(|| {
        let known: Vec<&str> = PROFILES.iter().map(|p| p.key).collect();
        format!("no device `{key}` (there are {})", known.join(", "))
    })
}

pub(crate) fn checks(text: &str) -> Result<Checks, String> {
    Checks::parse(text).map_err(|name| format!("no check `{name}`"))
}

/// Launches; the status to end with.
///
/// # Errors
/// Files that cannot be read, arguments that do not fit the kernel.
pub fn run(options: &Options) -> Result<u8, Failure> {
    let text = ptx_of(&options.file, options.device)?;
    let (args, outputs) = prepare(&options.arguments)?;
    let setup = Setup {
        grid: options.grid,
        block: options.block,
        dynamic_shared: options.shared,
        cooperative: options.cooperative,
        cluster: options.cluster,
        profile: options.device,
        checks: options.checks,
        seed: options.seed,
        budget: Some(options.budget),
        threads: options.threads,
        counters: true,
    };
    options.fits()?;
    match run_kernel(&text, &options.kernel, &args, &setup) {
        Ok(done) => {
            for output in outputs {
                let mut array = output.array;
                array.bytes = done.buffers[output.buffer].clone();
                array.write(&output.path)?;
            }
            print(options, &done);
            Ok(0)
        }
        Err(RunError::Fault(fault)) => {
            if options.json {
                println!(
                    "{}",
                    json!({ "report": fault.to_string(), "counters": Value::Null })
                );
            } else {
                eprintln!("{fault}");
            }
            Ok(1)
        }
        Err(other) => Err(other.into()),
    }
}

fn print(options: &Options, done: &Finished) {
    if options.json {
        let counters = done.counters.to_json(&done.kernel, &done.config);
        println!(
            "{}",
            json!({ "report": Value::Null, "counters": counters, "printed": done.printed })
        );
    } else {
        print!("{}", done.printed);
        print!("{}", done.counters.table(&done.kernel, &done.config));
    }
}

impl Options {
    /// What a device of this kind would refuse to launch.
    fn fits(&self) -> Result<(), Failure> {
        let threads: u64 = self.block.iter().map(|&n| u64::from(n)).product();
        let [_, y, z] = self.grid;
        let limit = ptx_emulator::profile::THREADS_PER_BLOCK;
        if threads > u64::from(limit) {
            return Err(format!(
                "--block {:?} has {threads} threads: {limit} are the most",
                self.block
            )
            .into());
        }
        if self.grid[0] > i32::MAX as u32 || y > 65535 || z > 65535 {
            let grid = self.grid;
            return Err(
                format!("--grid {grid:?}: 2147483647, 65535 and 65535 are the most").into(),
            );
        }
        if self.shared > self.device.shared_per_block_optin {
            return Err(format!(
                "--shared {}: {} bytes are the most on {}",
                self.shared, self.device.shared_per_block_optin, self.device.name
            )
            .into());
        }
        Ok(())
    }
}

/// The PTX that the device would run of a file.
fn ptx_of(path: &Path, device: &Profile) -> Result<String, Failure> {
    let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let bytes = std::fs::read(path).map_err(|e| named(&e))?;
    let images = image::images(&bytes).map_err(|e| named(&e))?;
    let device = device.compute_capability;
    let Some(chosen) = image::select(&images, device) else {
        return Err(named(&format!(
            "no PTX for compute capability {}.{}",
            device.0, device.1
        ))
        .into());
    };
    Ok(chosen.text().map_err(|e| named(&e))?)
}

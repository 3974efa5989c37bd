//! Set-up, demo and tests of kv-kernels, one command each.

mod abi;
mod cargo;
mod demo;
mod nvcc;
mod pins;
mod prerequisites;
mod setup;

#[path = "../../build/lookup.rs"]
mod lookup;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch nvcc and libclang into .toolchain/, unless they are there
    Setup,
    /// Set up, then run every test of the workspace
    Test {
        /// Passed on to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Set up, fetch the model, then generate text through the kernels
    Demo {
        /// Passed on to examples/generate; `-- --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Write src/abi.rs, the Rust view of kernels/abi.h
    Abi {
        /// Compare with what is there instead of writing
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // The message alone: a backtrace would bury what to install.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let root = root();
    match task {
        Task::Setup => setup::toolchain(&root),
        Task::Test { args } => {
            setup::toolchain(&root)?;
            cargo::test(&root, &args)
        }
        Task::Demo { args } => {
            setup::toolchain(&root)?;
            demo::run(&root, &args)
        }
        Task::Abi { check } => abi::run(&root, check),
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask
        .parent()
        .expect("xtask lies in the repository")
        .to_owned()
}

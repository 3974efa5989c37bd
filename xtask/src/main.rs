//! Set-up, demo and tests of kv-kernels, one command each.

mod abi;
mod cargo;
mod counters;
mod demo;
mod nvcc;
mod pins;
mod prerequisites;
mod setup;

#[path = "../../build/lookup.rs"]
mod lookup;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch nvcc and libclang into .toolchain/, unless they are there
    Setup,
    /// Set up, fetch NVIDIA's Python packages, then run every test of the workspace
    Test {
        /// Passed on to `cargo test --workspace`
        args: Vec<OsString>,
    },
    /// Set up, fetch the model, then generate text through the kernels
    Demo {
        /// Passed on to examples/generate; `--help` lists what it takes
        args: Vec<OsString>,
    },
    /// Set up, fetch the model, then compare caches of several types over a text
    Fidelity {
        /// Passed on to examples/fidelity; `--help` lists what it takes
        args: Vec<OsString>,
    },
    /// Set up, then count on the emulator what the kernels move and issue
    Counters {
        /// Passed on to examples/counters; `--help` lists what it takes
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
    match run(Cli::parse_from(escaped(env::args_os())).command) {
        Ok(()) => ExitCode::SUCCESS,
        // The message alone: a backtrace would bury what to install.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line with `--` behind a task that passes arguments on: clap then
/// leaves all of them as they stand, a `--` among them too.
fn escaped(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|task| {
        ["test", "demo", "fidelity", "counters"]
            .iter()
            .any(|name| task == *name)
    }) {
        args.insert(2, "--".into());
    }
    args
}

fn run(task: Task) -> Result<()> {
    let root = root();
    match task {
        Task::Setup => setup::toolchain(&root),
        Task::Test { args } => {
            setup::toolchain(&root)?;
            let python = setup::clients(&root)?;
            cargo::test(&root, &args, python.as_ref())
        }
        Task::Demo { args } => {
            setup::toolchain(&root)?;
            demo::run(&root, &args)
        }
        Task::Fidelity { args } => {
            setup::toolchain(&root)?;
            demo::fidelity(&root, &args)
        }
        Task::Counters { args } => {
            setup::toolchain(&root)?;
            counters::run(&root, &args)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn passed_on(args: &[&str]) -> Vec<OsString> {
        let line = ["xtask"].iter().chain(args).map(OsString::from);
        match Cli::try_parse_from(escaped(line)).unwrap().command {
            Task::Test { args }
            | Task::Demo { args }
            | Task::Fidelity { args }
            | Task::Counters { args } => args,
            _ => panic!("{args:?} passes nothing on"),
        }
    }

    #[test]
    fn what_follows_the_task_is_passed_on_as_it_stands() {
        for args in [
            &["test", "--package", "xtask", "--", "--nocapture"] as &[&str],
            &["test", "--", "--nocapture"],
            &["test", "name"],
            &["demo", "--prompt", "A sentence.", "--tokens=8"],
            &["demo", "--table"],
            &["demo"],
            &["fidelity", "--svg", "fidelity.svg"],
            &["counters", "--check", "--seq-len", "128,4096"],
        ] {
            assert_eq!(passed_on(args), &args[1..], "{args:?}");
        }
    }
}

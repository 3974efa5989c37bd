//! `ptx-emulator run` launches one kernel over typed arguments and `.npy` files; `ptx-emulator check` runs a program
//! with the emulator in place of libcuda.so.1 and sums up what it found.

mod argument;
mod array;
mod check;
mod element;
mod launch;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "ptx-emulator", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Launch one kernel of a PTX file or fat binary. Ends with status 1 where the kernel is at fault.
    Run(launch::Options),
    /// Run a program on the emulator. Ends with the program's status, or where that is 0 and something was found,
    /// with the one of --error-exitcode.
    Check(check::Options),
}

fn main() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Command::Run(options) => launch::run(&options),
        Command::Check(options) => check::run(&options),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("ptx-emulator: {error}");
            ExitCode::from(2)
        }
    }
}

/// What ends a command before it has an outcome.
type Failure = Box<dyn std::error::Error>;

//! What the kernels move and issue, counted on the emulator.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo;

/// What Cargo builds: the program alone, but with every package's choice of features. Those of the program's own
/// dependencies are fewer, and with them the emulator would be compiled once more.
pub const BUILD: &[&str] = &["build", "--workspace", "--bin", "counters"];

/// Runs examples/counters.
pub fn run(root: &Path, args: &[OsString]) -> Result<()> {
    cargo::run(cargo::command(root).args(BUILD))?;
    // Cargo put it where it put this program.
    let program = env::current_exe()
        .context("the path of this program")?
        .with_file_name("counters");
    cargo::run(Command::new(program).current_dir(root).args(args))
}

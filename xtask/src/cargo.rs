//! Cargo, called from a task.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::Python;

/// Portable PTX, which the emulator executes and any newer GPU's driver can compile
/// from, and machine code for the two architectures that it counts by.
const EMULATED_ARCHS: &str = "80,90";

/// Cargo in the repository's root. The architectures are trimmed unless the user
/// has named some; tests, demo and CI so share one build of the kernels.
pub fn command(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    // What Cargo told this program of itself is not meant for the build below:
    // build scripts that watch these variables would run again for nothing.
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|own| name_text.starts_with(own))
        {
            command.env_remove(&name);
        }
    }
    if env::var_os("KV_CUDA_ARCHS").is_none() {
        command.env("KV_CUDA_ARCHS", EMULATED_ARCHS);
    }
    command
}

/// Runs the command; its failure is this task's, after its own words.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{command:?} does not start"))?;
    if !status.success() {
        bail!(
            "{:?} failed ({status})",
            command.get_args().collect::<Vec<_>>().join(" ".as_ref())
        );
    }
    Ok(())
}

/// Every test of the workspace; those of the emulator's Python clients in `python`, unless the user has named one.
pub fn test(root: &Path, args: &[OsString], python: Option<&Python>) -> Result<()> {
    const PYTHON: &str = "PTX_EMULATOR_PYTHON";
    let mut command = command(root);
    if let Some(python) = python
        && env::var_os(PYTHON).is_none()
    {
        command
            .env(PYTHON, &python.program)
            .env("PTX_EMULATOR_PYTHON_PACKAGES", &python.packages);
    }
    run(command.args(["test", "--workspace"]).args(args))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Packages with their features, as `cargo tree` selects them.
    fn packages(selection: &[&str]) -> BTreeSet<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let output = command(root)
            .args(["tree", "--offline", "--prefix", "none", "--no-dedupe"])
            .args(["--format", "{p} {f}"])
            .args(selection)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// A dependency with fewer features in the demo or the counters than in the tests
    /// would be built twice, and all that depends on it: minutes, with candle or the
    /// emulator.
    #[test]
    fn demo_and_counters_run_on_what_the_tests_built() {
        let tests = packages(&["--workspace"]);
        assert_eq!(crate::counters::BUILD[1], "--workspace");
        for selection in [&["--package", "generate"] as &[&str], &["--workspace"]] {
            let run = packages(&[selection, &["--edges", "normal,build"]].concat());
            let built_again: Vec<_> = run.difference(&tests).collect();
            assert!(built_again.is_empty(), "{selection:?}: {built_again:?}");
        }
    }
}

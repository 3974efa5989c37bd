//! The examples that run a real model: the demo, and what caches of fewer bits do to it.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use crate::{cargo, setup};

/// Runs examples/generate, by default over the pinned model.
pub fn run(root: &Path, args: &[OsString]) -> Result<()> {
    run_example(root, "generate", &defaults(args), args)
}

/// Runs examples/fidelity, by default over the pinned model.
pub fn fidelity(root: &Path, args: &[OsString]) -> Result<()> {
    run_example(root, "fidelity", &[], args)
}

fn run_example(root: &Path, package: &str, defaults: &[&str], args: &[OsString]) -> Result<()> {
    let mut command = cargo::command(root);
    command.args(["run", "--package", package, "--"]);
    if !given(args, "--model") {
        command.arg("--model").arg(setup::model(root)?);
    }
    cargo::run(command.args(defaults).args(args))
}

/// What the demo asks for where `args` say nothing else: a short text, every
/// token of it checked against candle's own attention.
fn defaults(args: &[OsString]) -> Vec<&'static str> {
    let mut defaults = Vec::new();
    // The table has lengths of its own, and each run in it is an ordinary one.
    if given(args, "--table") || given(args, "--help") {
        return defaults;
    }
    if !given(args, "--compare") && !given(args, "--no-cache") {
        defaults.push("--compare");
    }
    if !given(args, "--tokens") {
        defaults.extend(["--tokens", "64"]);
    }
    defaults
}

/// Whether `args` hold the option, as `--name` or `--name=value`.
fn given(args: &[OsString], option: &str) -> bool {
    let name = |arg: &OsString| arg.to_str()?.split('=').next().map(str::to_owned);
    args.iter().any(|arg| name(arg).as_deref() == Some(option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_given_replace_the_defaults() {
        for (args, expected) in [
            (&[] as &[&str], &["--compare", "--tokens", "64"] as &[&str]),
            (&["--prompt", "Hi"], &["--compare", "--tokens", "64"]),
            (&["--tokens", "8"], &["--compare"]),
            (&["--tokens=8", "--compare"], &[]),
            (&["--no-cache"], &["--tokens", "64"]),
            (&["--table"], &[]),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(defaults(&args), expected, "{args:?}");
        }
    }
}

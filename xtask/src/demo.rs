//! The demo: text from a real model, its attention through the crate's kernels.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use crate::cargo;

/// Runs examples/generate over the model at `model`.
pub fn run(root: &Path, model: &Path, args: &[OsString]) -> Result<()> {
    let mut command = cargo::command(root);
    command
        .args(["run", "--package", "generate", "--"])
        .arg("--model")
        .arg(model);
    cargo::run(command.args(defaults(args)).args(args))
}

/// What the demo asks for where `args` says nothing else: a short text, every
/// token of it checked against candle's own attention.
fn defaults(args: &[OsString]) -> Vec<&'static str> {
    let given = |names: &[&str]| {
        args.iter().any(|arg| {
            let name = arg
                .to_str()
                .and_then(|arg| arg.split('=').next())
                .unwrap_or_default();
            names.contains(&name)
        })
    };
    let mut defaults = Vec::new();
    if given(&["--help", "-h", "--table"]) {
        return defaults;
    }
    if !given(&["--compare"]) {
        defaults.push("--compare");
    }
    if !given(&["--tokens"]) {
        defaults.extend(["--tokens", "64"]);
    }
    defaults
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
            (&["--table"], &[]),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(defaults(&args), expected, "{args:?}");
        }
    }
}

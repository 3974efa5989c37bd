//! `src/abi.rs`, written by bindgen from `kernels/abi.h`.
//!
//! bindgen is large, so it is a feature of this program: the task builds the
//! program once more with it and hands over.

use std::path::Path;

use anyhow::Result;

/// Writes the bindings, or with `check` compares them with what is there.
#[cfg(not(feature = "bindgen"))]
pub fn run(root: &Path, check: bool) -> Result<()> {
    use crate::{cargo, setup};

    setup::toolchain(root)?;
    let mut command = cargo::command(root);
    command.env("LIBCLANG_PATH", setup::libclang(root)).args([
        "run",
        "--package",
        "xtask",
        "--features",
        "bindgen",
        "--",
        "abi",
    ]);
    if check {
        command.arg("--check");
    }
    cargo::run(&mut command)
}

/// Writes the bindings, or with `check` compares them with what is there.
#[cfg(feature = "bindgen")]
pub fn run(root: &Path, check: bool) -> Result<()> {
    use anyhow::{Context, bail};
    use std::fs;

    let path = root.join("src/abi.rs");
    let text = generate(root)?;
    if !check {
        return fs::write(&path, text).with_context(|| path.display().to_string());
    }
    let committed = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    if committed != text {
        bail!("src/abi.rs is not what kernels/abi.h gives: run `cargo xtask abi` and commit it");
    }
    Ok(())
}

#[cfg(feature = "bindgen")]
fn generate(root: &Path) -> Result<String> {
    let header = root.join("kernels/abi.h");
    let bindings = bindgen::Builder::default()
        .header(header.to_string_lossy())
        .allowlist_item("(?i)kv_.*")
        .clang_arg("-fparse-all-comments")
        .raw_line("//! Parameter structs and limits of the kernels: `kernels/abi.h` in Rust.")
        .raw_line("//! Written by `cargo xtask abi`.")
        .raw_line("")
        .use_core()
        .derive_default(true)
        .derive_eq(true)
        .disable_header_comment()
        .formatter(bindgen::Formatter::Rustfmt)
        .rustfmt_configuration_file(Some(root.join("rustfmt.toml")))
        .generate()?;
    Ok(bindings.to_string())
}

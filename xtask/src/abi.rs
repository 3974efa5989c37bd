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
    command
        .env(
            "LIBCLANG_PATH",
            root.join(setup::FOLDER).join("tools/clang/native"),
        )
        .args([
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
    // The oldest stable release with the workspace's edition.
    let target = bindgen::RustTarget::stable(85, 0).map_err(|error| anyhow::anyhow!("{error}"))?;
    let header = root.join("kernels/abi.h");
    let bindings = bindgen::Builder::default()
        .header(header.to_string_lossy())
        .allowlist_item("(KV_|Kv).*")
        .clang_arg("-fparse-all-comments")
        .raw_line("//! Parameter structs and limits of the kernels: `kernels/abi.h` in Rust.")
        .raw_line("//! Written by `cargo xtask abi`.")
        .raw_line("#![allow(dead_code, missing_docs)]")
        .use_core()
        .disable_header_comment()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .rust_target(target)
        .generate()?;
    Ok(bindings.to_string())
}

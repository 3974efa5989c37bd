//! nvcc for tests that compile CUDA: where it is, and PTX out of a source file.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The nvcc that builds use: the one named by `NVCC`, the repository's own, or the one on `PATH`.
pub fn nvcc() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NVCC").filter(|v| !v.is_empty()) {
        return Some(named.into());
    }
    // Of this package's repository, at its root or one folder up.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = [here.to_path_buf(), here.join("..")]
        .map(|root| root.join(".toolchain/nvcc/nvidia/cu13/bin/nvcc"));
    if let Some(own) = own.into_iter().find(|p| p.exists()) {
        return Some(own);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("nvcc"))
        .find(|p| p.exists())
}

/// As [`nvcc`], or a line that says the test is skipped and why. CI has nvcc, so there it is an error.
pub fn nvcc_or_skip(test: &str) -> Option<PathBuf> {
    let found = nvcc();
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{test} needs nvcc: cargo xtask setup"
        );
        eprintln!("skipped {test}: no nvcc (cargo xtask setup)");
    }
    found
}

/// The PTX of a CUDA source file.
pub fn compile(nvcc: &Path, source: &Path, flags: &[&str], tag: &str) -> String {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{tag}.ptx"));
    let output = Command::new(nvcc)
        .args(["-ptx", "-std=c++17", "-O3", "-lineinfo"])
        .args(flags)
        .arg(source)
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", nvcc.display()));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read_to_string(&out).unwrap_or_else(|e| panic!("{}: {e}", out.display()))
}

//! Gives the library the driver's name, and leaves links under that name in the build folder.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Whoever asks for libcuda.so.1 once this is loaded gets this.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    // Calls inside the library stay inside, whatever else the process has under the same names.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else {
        return;
    };
    // OUT_DIR is <profile>/build/<package>/out.
    let Some(profile) = out.ancestors().nth(3) else {
        return;
    };
    if let Err(e) = links(profile) {
        println!(
            "cargo:warning=no links to the emulator in {}: {e}",
            profile.display()
        );
    }
}

/// `libcuda.so` beside the build's results; and in a folder of their own, where only whoever names it in
/// `LD_LIBRARY_PATH` finds them, `libcuda.so` and `libcuda.so.1`. All lead to the file that every build of
/// the library writes.
#[cfg(unix)]
fn links(profile: &Path) -> std::io::Result<()> {
    let apart = profile.join("emulated");
    std::fs::create_dir_all(&apart)?;
    link("deps/libptx_emulator.so", &profile.join("libcuda.so"))?;
    link("../deps/libptx_emulator.so", &apart.join("libcuda.so"))?;
    link("../deps/libptx_emulator.so", &apart.join("libcuda.so.1"))
}

#[cfg(unix)]
fn link(target: &str, at: &Path) -> std::io::Result<()> {
    if std::fs::read_link(at).is_ok_and(|there| there == Path::new(target)) {
        return Ok(());
    }
    match std::fs::remove_file(at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::os::unix::fs::symlink(target, at)
}

#[cfg(not(unix))]
fn links(_profile: &Path) -> std::io::Result<()> {
    Ok(())
}

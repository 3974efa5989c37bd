//! Where programs are found. The build script and `cargo xtask` share this file.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where `cargo xtask setup` leaves nvcc, from the root of the repository.
pub const LOCAL_NVCC: &str = ".toolchain/nvcc/nvidia/cu13/bin/nvcc";

/// `program` as a shell would find it: as it stands where it has a folder, else
/// in the folders of `path`.
pub fn on_path(program: &Path, path: Option<&OsStr>) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    env::split_paths(path?)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

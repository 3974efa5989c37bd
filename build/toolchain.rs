//! Which nvcc compiles the kernels.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::BuildError;
use super::lookup::{LOCAL_NVCC, on_path};

/// What `cargo build` says where there is no nvcc.
pub const NO_NVCC: &str = "\
kv-kernels compiles its CUDA kernels at build time and found no nvcc.
In a checkout of kv-kernels, `cargo xtask setup` gets one without touching the system.
Elsewhere install the CUDA toolkit (12.8 or newer) and put nvcc on PATH or name it in NVCC.";

/// The nvcc to use: the one the user `named` through `NVCC`, else the
/// repository's own, else the first on `path`.
pub fn find_nvcc(
    named: Option<PathBuf>,
    root: &Path,
    path: Option<&OsStr>,
) -> Result<PathBuf, BuildError> {
    if let Some(named) = named {
        return on_path(&named, path).ok_or(BuildError::NvccMissing(named));
    }
    let local = root.join(LOCAL_NVCC);
    if local.is_file() {
        return Ok(local);
    }
    on_path(Path::new("nvcc"), path).ok_or(BuildError::NoNvcc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder with an empty file `name`, as a stand-in for an installation.
    fn installed(root: &Path, name: &str) -> PathBuf {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        file
    }

    #[test]
    fn named_comes_before_local_and_local_before_path() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let (named, local, global) = (
            installed(root, "named/nvcc"),
            installed(root, LOCAL_NVCC),
            installed(root, "bin/nvcc"),
        );
        let bin = global.parent().unwrap().as_os_str();
        let empty = root.join("empty");
        assert_eq!(
            find_nvcc(Some(named.clone()), root, Some(bin)).unwrap(),
            named
        );
        assert_eq!(find_nvcc(None, root, Some(bin)).unwrap(), local);
        assert_eq!(find_nvcc(None, &empty, Some(bin)).unwrap(), global);
        assert_eq!(
            find_nvcc(Some("nvcc".into()), &empty, Some(bin)).unwrap(),
            global
        );
    }

    #[test]
    fn without_nvcc_three_lines_name_the_command() {
        let empty = tempfile::tempdir().unwrap();
        let error = find_nvcc(None, empty.path(), Some(empty.path().as_os_str())).unwrap_err();
        let text = error.to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("`cargo xtask setup`"), "{text}");
    }

    #[test]
    fn a_wrong_name_is_not_replaced_by_another_nvcc() {
        let root = tempfile::tempdir().unwrap();
        installed(root.path(), LOCAL_NVCC);
        let wrong = root.path().join("gone/nvcc");
        let text = find_nvcc(Some(wrong.clone()), root.path(), None)
            .unwrap_err()
            .to_string();
        assert!(text.contains(&*wrong.to_string_lossy()), "{text}");
    }
}

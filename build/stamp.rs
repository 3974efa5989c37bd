//! Whether a fatbin is still what its sources and flags would give.
//!
//! Beside each fatbin lies a stamp: the command that made it and, for every file
//! nvcc read of ours, its length and time of change. Toolkit and system headers
//! are not listed; the compiler's version in the command stands for them.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The stamp's text for `command` over `files` (relative to `root`).
pub fn stamp(root: &Path, command: &str, files: &[PathBuf]) -> io::Result<String> {
    let mut text = format!("command {}\n", command.escape_debug());
    for file in files {
        let (length, changed) = state(&root.join(file))?;
        let _ = writeln!(text, "file {length} {changed} {}", file.display());
    }
    Ok(text)
}

/// The files that a stamp's text lists.
pub fn files(stamp: &str) -> Vec<PathBuf> {
    let name = |line: &str| {
        line.strip_prefix("file ")?
            .splitn(3, ' ')
            .nth(2)
            .map(PathBuf::from)
    };
    stamp.lines().filter_map(name).collect()
}

/// Whether the stamp of an earlier build still describes `command` and the files
/// as they are now.
pub fn is_fresh(root: &Path, command: &str, earlier: &str) -> bool {
    let files = files(earlier);
    // A file that is gone makes the stamp stale, not the build fail: nvcc says
    // better what is missing.
    !files.is_empty() && stamp(root, command, &files).is_ok_and(|now| now == earlier)
}

/// Whether any of `files` changed at or after `moment`, so that a compiler
/// started then may have read another state of it.
pub fn any_since(root: &Path, files: &[PathBuf], moment: SystemTime) -> bool {
    let moment = nanos(moment);
    files
        .iter()
        .any(|file| state(&root.join(file)).map_or(true, |(_, changed)| changed >= moment))
}

/// Our own prerequisites in a dependency file of nvcc's (make syntax). They are
/// the relative paths: nvcc runs in the package root and names toolkit and system
/// headers absolutely.
pub fn dependencies(make: &str) -> Vec<PathBuf> {
    let Some((_, prerequisites)) = make.split_once(": ") else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = prerequisites
        .split_ascii_whitespace()
        .filter(|word| *word != "\\")
        .map(PathBuf::from)
        .filter(|file| file.is_relative())
        .collect();
    files.sort();
    files.dedup();
    files
}

fn state(file: &Path) -> io::Result<(u64, u128)> {
    let data = fs::metadata(file)?;
    Ok((data.len(), nanos(data.modified()?)))
}

fn nanos(moment: SystemTime) -> u128 {
    moment
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dependencies_are_our_files_once_each() {
        let make = "out/a.fatbin : kernels/a.cu \\\n    /usr/include/cuda_fp16.h \\\n    \
                    kernels/abi.h \\\n    kernels/cp_async.cuh kernels/abi.h\n";
        let ours = ["kernels/a.cu", "kernels/abi.h", "kernels/cp_async.cuh"].map(PathBuf::from);
        assert_eq!(dependencies(make), ours);
        assert!(dependencies("").is_empty());
    }

    #[test]
    fn stale_once_a_file_the_command_or_nothing_is_known() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let files = ["a.cu", "b.cuh"].map(PathBuf::from);
        for file in &files {
            fs::write(root.join(file), "x").unwrap();
        }
        let earlier = stamp(root, "nvcc -O3", &files).unwrap();
        assert_eq!(super::files(&earlier), files);
        assert!(is_fresh(root, "nvcc -O3", &earlier));
        assert!(!is_fresh(root, "nvcc -O2", &earlier));
        assert!(!is_fresh(root, "nvcc -O3", ""));

        let header = fs::File::options()
            .append(true)
            .open(root.join("b.cuh"))
            .unwrap();
        header
            .set_modified(SystemTime::now() + Duration::from_secs(2))
            .unwrap();
        assert!(!is_fresh(root, "nvcc -O3", &earlier), "touched");
        assert!(any_since(root, &files, SystemTime::now()));

        fs::remove_file(root.join("b.cuh")).unwrap();
        assert!(!is_fresh(root, "nvcc -O3", &earlier), "removed");
    }
}

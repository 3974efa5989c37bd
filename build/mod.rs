//! The build script's parts. `build.rs` puts them to work; `tests/build_script.rs`
//! runs them over kernels of its own.

pub mod arch;
pub mod compile;
pub mod generate;
pub mod lookup;
pub mod ptxas;
pub mod stamp;
pub mod toolchain;
pub mod variants;

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the kernels could not be built. Its text is what `cargo build` shows, one
/// error a line.
#[derive(Debug)]
pub enum BuildError {
    /// No nvcc by any of the three ways.
    NoNvcc,
    /// `NVCC` names something that is not there.
    NvccMissing(PathBuf),
    /// No C++ compiler for nvcc to preprocess with.
    HostCompiler(String),
    /// `KV_CUDA_ARCHS` holds a word that is no architecture.
    Arch(String),
    /// A program that is there could not be started.
    Start { program: PathBuf, error: io::Error },
    /// nvcc refused a kernel; its own words.
    Compile { source: PathBuf, output: String },
    /// The table of what kernels are built for has no lines, or others than numbers.
    Variants(PathBuf),
    /// A file could not be read or written.
    File { path: PathBuf, error: io::Error },
}

impl BuildError {
    /// Adapter for `map_err` on file operations.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNvcc => f.write_str(toolchain::NO_NVCC),
            Self::NvccMissing(path) => {
                write!(
                    f,
                    "NVCC names {}, which is not there: correct or unset it",
                    path.display()
                )
            }
            Self::HostCompiler(error) => {
                write!(
                    f,
                    "nvcc needs a C++ compiler (g++ or clang++; CXX names one): {error}"
                )
            }
            Self::Arch(word) => write!(
                f,
                "KV_CUDA_ARCHS holds {word:?}: it is a comma-separated list of compute \
                 capabilities from 80 on without the dot, such as 80,90,100,120"
            ),
            Self::Start { program, error } => {
                write!(f, "{} does not start: {error}", program.display())
            }
            Self::Compile { source, output } => {
                write!(
                    f,
                    "nvcc could not compile {}:\n{}",
                    source.display(),
                    output.trim_end()
                )
            }
            Self::Variants(table) => write!(
                f,
                "{}: no lines HEAD_DIM(n) and VARIANT(n, n)",
                table.display()
            ),
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_what_was_met_and_what_would_do() {
        let error = |kind| io::Error::new(kind, "no such file");
        let missing = || error(io::ErrorKind::NotFound);
        let start = BuildError::Start {
            program: "/cuda/bin/nvcc".into(),
            error: missing(),
        };
        assert_eq!(
            start.to_string(),
            "/cuda/bin/nvcc does not start: no such file"
        );
        assert_eq!(
            BuildError::file("kernels")(missing()).to_string(),
            "kernels: no such file"
        );
        let host = BuildError::HostCompiler("none found".to_owned()).to_string();
        assert!(
            host.contains("g++") && host.contains("none found"),
            "{host}"
        );
    }
}

//! What must be on the machine already, checked before anything is fetched.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::lookup::on_path;

/// A program or part of one that set-up or the build needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prerequisite {
    /// python3 itself.
    Python,
    /// Its modules `venv` and `ensurepip`, which some distributions split off.
    Venv,
    /// The C++ compiler that nvcc preprocesses with.
    Cxx,
}

impl Prerequisite {
    /// One line that says what to install.
    fn advice(self) -> &'static str {
        match self {
            Self::Python => {
                "python3 is missing: install Python 3.9 or newer (Debian, Ubuntu: apt install python3 python3-venv)"
            }
            Self::Venv => {
                "python3 lacks its venv module: install it (Debian, Ubuntu: apt install python3-venv)"
            }
            Self::Cxx => {
                "a C++ compiler is missing: install g++ or clang++ (Debian, Ubuntu: apt install g++), or name one in CXX"
            }
        }
    }
}

/// Fails with one line for each of `needed` that is missing.
pub fn check(needed: &[Prerequisite]) -> Result<()> {
    let missing = missing(needed, env::var_os("PATH").as_deref(), env::var_os("CXX"));
    if !missing.is_empty() {
        let lines: Vec<_> = missing.into_iter().map(Prerequisite::advice).collect();
        bail!("{}", lines.join("\n"));
    }
    Ok(())
}

fn missing(
    needed: &[Prerequisite],
    path: Option<&OsStr>,
    cxx: Option<OsString>,
) -> Vec<Prerequisite> {
    let python = on_path(Path::new("python3"), path).filter(|python| runs(python, "import sys"));
    let present = |prerequisite: &Prerequisite| match prerequisite {
        Prerequisite::Python => python.is_some(),
        // Without python3 its own line is enough.
        Prerequisite::Venv => python
            .as_ref()
            .is_none_or(|python| runs(python, "import venv, ensurepip")),
        Prerequisite::Cxx => {
            let named = cxx.clone().unwrap_or_else(|| "c++".into());
            // CXX may carry flags or a wrapper: `ccache g++`.
            let named = named.to_string_lossy();
            let program = named.split_ascii_whitespace().next().unwrap_or("c++");
            on_path(Path::new(program), path).is_some()
        }
    };
    needed
        .iter()
        .copied()
        .filter(|prerequisite| !present(prerequisite))
        .collect()
}

fn runs(python: &Path, code: &str) -> bool {
    let mut command = Command::new(python);
    command
        .args(["-c", code])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const ALL: [Prerequisite; 3] = [Prerequisite::Python, Prerequisite::Venv, Prerequisite::Cxx];

    fn program(folder: &Path, name: &str, script: &str) {
        let file = folder.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn each_missing_part_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        assert_eq!(
            missing(&ALL, path, None),
            [Prerequisite::Python, Prerequisite::Cxx]
        );
        program(
            folder.path(),
            "python3",
            "case \"$2\" in *venv*) exit 1;; esac",
        );
        assert_eq!(
            missing(&ALL, path, None),
            [Prerequisite::Venv, Prerequisite::Cxx]
        );
        program(folder.path(), "python3", "exit 0");
        assert_eq!(missing(&ALL, path, None), [Prerequisite::Cxx]);
        assert_eq!(missing(&[Prerequisite::Python], path, None), []);
        program(folder.path(), "my-c++", "exit 0");
        assert_eq!(missing(&ALL, path, Some("my-c++ -m64".into())), []);
        for prerequisite in ALL {
            let line = prerequisite.advice();
            assert!(line.contains("install") && !line.contains('\n'), "{line}");
        }
    }
}

//! An nvcc that the machine has already.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lookup::on_path;

/// The first release that knows every architecture the crate is built for.
const OLDEST: (u32, u32) = (12, 8);

/// The nvcc that `NVCC` names or PATH holds. One on PATH that is too old is
/// passed over with a remark; one named on purpose must do.
pub fn installed() -> Result<Option<PathBuf>> {
    let named = env::var_os("NVCC").filter(|named| !named.is_empty());
    find(named, env::var_os("PATH").as_deref())
}

fn find(named: Option<OsString>, path: Option<&OsStr>) -> Result<Option<PathBuf>> {
    let program = PathBuf::from(named.clone().unwrap_or_else(|| "nvcc".into()));
    let Some(nvcc) = on_path(&program, path) else {
        if named.is_some() {
            bail!(
                "NVCC names {}, which is not there: correct or unset it",
                program.display()
            );
        }
        return Ok(None);
    };
    let (major, minor) = release(&nvcc)?;
    if (major, minor) >= OLDEST {
        return Ok(Some(nvcc));
    }
    let (wanted_major, wanted_minor) = OLDEST;
    let remark = format!(
        "{} is release {major}.{minor}; {wanted_major}.{wanted_minor} or newer is needed",
        nvcc.display()
    );
    if named.is_some() {
        bail!("{remark}: name another in NVCC or unset it");
    }
    eprintln!("setup: {remark}; fetching one for this repository");
    Ok(None)
}

fn release(nvcc: &Path) -> Result<(u32, u32)> {
    let output = Command::new(nvcc)
        .arg("--version")
        .output()
        .with_context(|| format!("{} does not start", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_release(&text).with_context(|| format!("{} --version names no release", nvcc.display()))
}

/// `13.0` of `Cuda compilation tools, release 13.0, V13.0.88`.
fn parse_release(version: &str) -> Option<(u32, u32)> {
    let (_, rest) = version.split_once("release ")?;
    let (major, rest) = rest.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_old_nvcc_is_passed_over_on_path_and_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let nvcc = folder.path().join("nvcc");
        let install = |release: &str| {
            let script =
                format!("#!/bin/sh\necho 'Cuda compilation tools, release {release}, V1'\n");
            fs::write(&nvcc, script).unwrap();
            fs::set_permissions(&nvcc, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let path = Some(folder.path().as_os_str());
        let named = || Some(nvcc.clone().into_os_string());

        assert_eq!(find(None, path).unwrap(), None);
        assert!(
            find(named(), path)
                .unwrap_err()
                .to_string()
                .contains("not there")
        );
        install("13.0");
        assert_eq!(find(None, path).unwrap().as_ref(), Some(&nvcc));
        assert_eq!(find(named(), None).unwrap().as_ref(), Some(&nvcc));
        install("12.4");
        assert_eq!(find(None, path).unwrap(), None);
        let error = find(named(), path).unwrap_err().to_string();
        assert!(
            error.contains("release 12.4") && error.contains("12.8"),
            "{error}"
        );
    }

    #[test]
    fn the_release_is_read_from_the_version() {
        let text = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n";
        assert_eq!(parse_release(text), Some((13, 0)));
        assert_eq!(parse_release("gcc 12"), None);
    }
}

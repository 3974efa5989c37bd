//! Fetches what the build and the demo need into `.toolchain/`, and only there.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::lookup::LOCAL_NVCC;
use crate::nvcc;
use crate::pins::{self, PinnedFile, Pins};
use crate::prerequisites::{self, Prerequisite};

/// The folder of fetched things, from the root of the repository; git ignores it.
pub const FOLDER: &str = ".toolchain";

/// Whether the pinned wheels fit this machine.
const PINNED_HERE: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

/// Makes sure of nvcc and of the tools beside it.
pub fn toolchain(root: &Path) -> Result<()> {
    prerequisites::check(&[Prerequisite::Cxx])?;
    let installed = nvcc::installed()?;
    if let Some(nvcc) = &installed {
        eprintln!("setup: nvcc is {}", nvcc.display());
    }
    if !PINNED_HERE {
        if installed.is_none() {
            bail!(
                "the pinned nvcc is for Linux on x86-64: here install the CUDA toolkit and name its nvcc in NVCC"
            );
        }
        return Ok(());
    }
    let mut wanted = vec![pins::section("tools")?];
    if installed.is_none() {
        wanted.push(pins::section("nvcc")?);
    }
    fetch(root, wanted)?;
    if installed.is_none() {
        // The build script looks for it there.
        let nvcc = root.join(LOCAL_NVCC);
        if !nvcc.is_file() {
            bail!("the wheels brought no {}", nvcc.display());
        }
    }
    Ok(())
}

/// A Python interpreter, and the folder that it finds packages in.
#[derive(Debug, PartialEq, Eq)]
pub struct Python {
    /// The interpreter.
    pub program: PathBuf,
    /// The packages.
    pub packages: PathBuf,
}

/// Makes sure of the Python that the emulator's clients are tested with; `None`, and a line that says so, where the
/// packages cannot be had for the Python of this machine.
pub fn clients(root: &Path) -> Result<Option<Python>> {
    let pins = pins::section("clients")?;
    let folder = root.join(FOLDER);
    let python = Python {
        program: folder.join("python/bin/python3"),
        packages: folder.join(&pins.name),
    };
    if !PINNED_HERE {
        return Ok(None);
    }
    if let Err(error) = fetch(root, vec![pins]) {
        eprintln!("setup: the emulator's Python clients will not be tested: {error:#}");
        return Ok(None);
    }
    Ok(Some(python))
}

/// Makes sure of the demo's model and says where its file lies.
pub fn model(root: &Path) -> Result<PathBuf> {
    let pins = pins::section("model")?;
    let file = pins
        .files
        .first()
        .context("the section model names no file")?;
    let path = root.join(FOLDER).join(&pins.name).join(&file.path);
    fetch(root, vec![pins])?;
    Ok(path)
}

/// Brings the folders of `wanted` to what their pins say.
fn fetch(root: &Path, wanted: Vec<Pins>) -> Result<()> {
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // Two commands at a time: the second waits and finds everything there.
    let lock = File::create(folder.join("lock")).context("the lock of .toolchain")?;
    lock.lock().context("the lock of .toolchain")?;

    let mut stale = Vec::new();
    for pins in wanted {
        if !is_current(&folder, &pins)? {
            stale.push(pins);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    prerequisites::check(&[Prerequisite::Python, Prerequisite::Venv])?;
    let started = Instant::now();
    let names: Vec<_> = stale.iter().map(|pins| &*pins.name).collect();
    eprintln!(
        "setup: fetching {} into {}",
        names.join(" and "),
        folder.display()
    );
    let python = venv(&folder)?;
    // Downloads wait for the network: all at a time.
    std::thread::scope(|scope| {
        let installs: Vec<_> = stale
            .iter()
            .map(|pins| scope.spawn(|| install(&python, &folder, pins)))
            .collect();
        installs
            .into_iter()
            .try_for_each(|install| install.join().expect("install does not panic"))
    })?;
    eprintln!("setup: done in {:.0?}", started.elapsed());
    Ok(())
}

/// The name of the file that says from which pins a folder was filled.
const FILLED_FROM: &str = "pins.txt";

fn is_current(folder: &Path, pins: &Pins) -> Result<bool> {
    let filled = folder.join(&pins.name);
    let from = fs::read_to_string(filled.join(FILLED_FROM)).unwrap_or_default();
    if from != pins.requirements {
        return Ok(false);
    }
    for file in &pins.files {
        check_file(&filled, file)?;
    }
    Ok(true)
}

/// A Python environment with pip of its own, whatever the system's is.
fn venv(folder: &Path) -> Result<PathBuf> {
    let home = folder.join("python");
    let python = home.join("bin/python3");
    let works = |python: &Path| {
        let mut command = Command::new(python);
        command
            .args(["-m", "pip", "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works(&python) {
        let mut command = Command::new("python3");
        run(command.args(["-m", "venv", "--clear"]).arg(&home))?;
    }
    Ok(python)
}

fn install(python: &Path, folder: &Path, pins: &Pins) -> Result<()> {
    let done = folder.join(&pins.name);
    // Filled beside its place and moved there whole: a broken download leaves
    // nothing that looks finished.
    let partial = folder.join(format!("{}.partial", pins.name));
    remove(&partial)?;
    fs::create_dir(&partial).with_context(|| partial.display().to_string())?;
    let requirements = partial.join(FILLED_FROM);
    fs::write(&requirements, &pins.requirements)
        .with_context(|| requirements.display().to_string())?;
    run(Command::new(python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args([
            "--no-cache-dir",
            "--no-deps",
            "--no-compile",
            "--only-binary=:all:",
            "--require-hashes",
        ])
        .arg("--target")
        .arg(&partial)
        .arg("--requirement")
        .arg(&requirements))
    .with_context(|| format!("fetching {}", pins.name))?;
    for file in &pins.files {
        check_file(&partial, file)?;
    }
    remove(&done)?;
    fs::rename(&partial, &done).with_context(|| done.display().to_string())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{command:?} does not start"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

fn check_file(folder: &Path, file: &PinnedFile) -> Result<()> {
    let path = folder.join(&file.path);
    let found = sha256(&path).with_context(|| path.display().to_string())?;
    if found != file.sha256 {
        bail!(
            "{} has SHA-256 {found}, not the pinned {}: remove {} and run the command again",
            path.display(),
            file.sha256,
            folder.display()
        );
    }
    Ok(())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> Pins {
        // SHA-256 of "abc", from FIPS 180-2.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        Pins {
            name: "model".to_owned(),
            requirements: "x==1 --hash=sha256:00\n".to_owned(),
            files: vec![PinnedFile {
                path: "x.gguf".to_owned(),
                sha256: sha256.to_owned(),
            }],
        }
    }

    #[test]
    fn a_folder_is_current_with_the_same_pins_and_an_intact_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut pins = pins();
        assert!(!is_current(folder, &pins).unwrap(), "nothing there");
        fs::create_dir(folder.join("model")).unwrap();
        fs::write(folder.join("model/pins.txt"), &pins.requirements).unwrap();
        fs::write(folder.join("model/x.gguf"), "abc").unwrap();
        assert!(is_current(folder, &pins).unwrap());

        fs::write(folder.join("model/x.gguf"), "abd").unwrap();
        let error = is_current(folder, &pins).unwrap_err().to_string();
        assert!(
            error.contains("x.gguf") && error.contains("not the pinned ba78"),
            "{error}"
        );

        pins.requirements.push_str("y==1 --hash=sha256:00\n");
        assert!(!is_current(folder, &pins).unwrap(), "other pins");
    }
}

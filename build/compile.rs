//! Runs nvcc over the kernels, in parallel, and only over those that changed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

use super::BuildError;
use super::arch::Archs;
use super::ptxas::{self, Usage};
use super::stamp;

/// Optimised in every profile; line information always, so that a profiler or the
/// emulator can name source lines; `-v` has ptxas say registers and spills.
const FLAGS: [&str; 6] = ["-O3", "-std=c++17", "-lineinfo", "-Xptxas", "-v", "-fatbin"];

/// nvcc and what it is called with besides [`FLAGS`].
pub struct Compiler {
    /// The program.
    pub nvcc: PathBuf,
    /// Host compiler flags.
    pub args: Vec<OsString>,
    /// What `nvcc --version` prints.
    pub version: String,
}

/// What to compile, and how.
pub struct Request<'a> {
    /// Where nvcc runs; `sources` are relative to it.
    pub root: &'a Path,
    /// The `.cu` files.
    pub sources: &'a [PathBuf],
    /// Receives `NAME.fatbin` and its stamp and log.
    pub out_dir: &'a Path,
    /// What compiles them.
    pub compiler: &'a Compiler,
    /// For which GPUs.
    pub archs: &'a Archs,
    /// Compilers to run at a time.
    pub jobs: NonZeroUsize,
}

/// A compiled `.cu` file.
pub struct Module {
    /// Its source.
    pub source: PathBuf,
    /// Whether nvcc ran for it in this build.
    pub compiled: bool,
    /// Figures of its kernels.
    pub usages: Vec<Usage>,
    /// nvcc's warnings, one a line.
    pub warnings: Vec<String>,
}

/// The `.cu` files in `folder` under `root`, in order of name.
pub fn sources(root: &Path, folder: &str) -> Result<Vec<PathBuf>, BuildError> {
    let path = root.join(folder);
    let mut files = Vec::new();
    for entry in fs::read_dir(&path).map_err(BuildError::file(&path))? {
        let name = entry.map_err(BuildError::file(&path))?.file_name();
        let file = Path::new(folder).join(name);
        if file.extension().is_some_and(|extension| extension == "cu") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Brings every fatbin up to date. Modules come back in the order of the sources.
pub fn all(request: &Request) -> Result<Vec<Module>, BuildError> {
    let queue: Mutex<VecDeque<_>> = Mutex::new(request.sources.iter().enumerate().collect());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..request.jobs.get().min(request.sources.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no job panics").pop_front();
                    let Some((index, source)) = next else { break };
                    let module = one(request, source);
                    done.lock().expect("no job panics").push((index, module));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no job panics");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, module)| module).collect()
}

fn one(request: &Request, source: &Path) -> Result<Module, BuildError> {
    let output = |extension| request.out_dir.join(name(source)).with_extension(extension);
    let (fatbin, log, made, stamped) = (
        output("fatbin"),
        output("log"),
        output("d"),
        output("stamp"),
    );

    let path = request.root.join(source);
    let text = fs::read_to_string(&path).map_err(BuildError::file(&path))?;
    let mut command = Command::new(&request.compiler.nvcc);
    command
        .current_dir(request.root)
        .args(&request.compiler.args)
        .args(FLAGS)
        .args(request.archs.flags(&text))
        .arg("-MMD")
        .arg("-MF")
        .arg(&made)
        .arg("-o")
        .arg(&fatbin)
        .arg(source);
    let identity = format!("{command:?} {}", request.compiler.version);

    let earlier = fs::read_to_string(&stamped).unwrap_or_default();
    let known = fs::read_to_string(&log).ok().filter(|_| fatbin.is_file());
    if let Some(known) = known.filter(|_| stamp::is_fresh(request.root, &identity, &earlier)) {
        return Ok(module(source, false, &known));
    }

    let started = SystemTime::now();
    let ran = command.output().map_err(|error| BuildError::Start {
        program: request.compiler.nvcc.clone(),
        error,
    })?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    if !ran.status.success() {
        return Err(BuildError::Compile {
            source: source.to_owned(),
            output: said,
        });
    }
    fs::write(&log, &said).map_err(BuildError::file(&log))?;
    let make = fs::read_to_string(&made).map_err(BuildError::file(&made))?;
    let files = stamp::dependencies(&make);
    // A file changed while nvcc ran may have been read before the change: leave
    // no stamp then, so that the next build compiles it again.
    let text = if stamp::any_since(request.root, &files, started) {
        String::new()
    } else {
        stamp::stamp(request.root, &identity, &files).map_err(BuildError::file(request.root))?
    };
    fs::write(&stamped, text).map_err(BuildError::file(&stamped))?;
    Ok(module(source, true, &said))
}

fn module(source: &Path, compiled: bool, log: &str) -> Module {
    let (usages, warnings) = ptxas::parse(log);
    Module {
        source: source.to_owned(),
        compiled,
        usages,
        warnings,
    }
}

/// A source's name without folder and ending: `append` of `kernels/append.cu`.
pub fn name(source: &Path) -> String {
    source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

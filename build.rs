//! Compiles `kernels/*.cu` to fatbins that the crate embeds.
//!
//! Environment: `NVCC` names the compiler (else the repository's own from
//! `cargo xtask setup`, else the one on PATH); `KV_CUDA_ARCHS` trims the list of
//! GPU architectures; under `DOCS_RS` nothing is compiled and the images are empty.

#[path = "build/mod.rs"]
mod kernels;

use std::env;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use kernels::arch::Archs;
use kernels::compile::{self, Compiler, Request};
use kernels::{BuildError, generate, toolchain, variants};

/// Where the kernels lie, from the package root, which is also where Cargo runs
/// this script: line information then names `kernels/append.cu` on any machine.
const SOURCES: &str = "kernels";

/// The table of what they are built for.
const VARIANTS: &str = "kernels/variants.h";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    // The folder, not its files: a new kernel must be seen as well.
    println!("cargo::rerun-if-changed={SOURCES}");
    for name in ["NVCC", "KV_CUDA_ARCHS", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), BuildError> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    let sources = compile::sources(Path::new("."), SOURCES)?;
    let modules = if env::var_os("DOCS_RS").is_some() {
        Vec::new()
    } else {
        let archs = match env::var("KV_CUDA_ARCHS") {
            Ok(list) => list.parse()?,
            Err(_) => Archs::default(),
        };
        let compiler = compiler()?;
        compile::all(&Request {
            root: Path::new("."),
            sources: &sources,
            out_dir: &out_dir,
            compiler: &compiler,
            archs: &archs,
            jobs: env::var("NUM_JOBS")
                .ok()
                .and_then(|jobs| jobs.parse().ok())
                .unwrap_or(NonZeroUsize::MIN),
        })?
    };
    for module in &modules {
        // Seen with `cargo build -vv`.
        println!(
            "{} {}",
            if module.compiled { "compiled" } else { "kept" },
            module.source.display()
        );
        for line in module.warnings.iter().flat_map(|warning| warning.lines()) {
            println!("cargo::warning={line}");
        }
    }
    variants::write(&out_dir, Path::new(VARIANTS))?;
    generate::write(&out_dir, &sources, &modules)
}

/// nvcc with the host compiler that `cc` would give it. Only `-ccbin` is wanted
/// of cc's flags: in Cargo's dev profile it would add `-G`, which turns off
/// optimisation in device code.
fn compiler() -> Result<Compiler, BuildError> {
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets CARGO_MANIFEST_DIR"));
    let tool = cc::Build::new()
        .cuda(true)
        .cudart("none")
        .no_default_flags(true)
        .cargo_metadata(false)
        .cargo_warnings(false)
        .try_get_compiler()
        .map_err(|error| BuildError::HostCompiler(error.to_string()))?;
    // cc's own choice is the bare name; an empty NVCC is one that is not set.
    let unnamed = ["", "nvcc"]
        .iter()
        .any(|name| tool.path() == Path::new(name));
    let named = (!unnamed).then(|| tool.path().to_owned());
    let nvcc = toolchain::find_nvcc(named, &root, env::var_os("PATH").as_deref())?;
    let version = Command::new(&nvcc)
        .arg("--version")
        .output()
        .map_err(|error| BuildError::Start {
            program: nvcc.clone(),
            error,
        })?;
    Ok(Compiler {
        nvcc,
        args: tool.args().to_vec(),
        version: String::from_utf8_lossy(&version.stdout).into_owned(),
    })
}

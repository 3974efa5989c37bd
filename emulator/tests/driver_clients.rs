//! Clients that are not Rust: a C++ program that loads the emulator in place of libcuda.so.1.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The build folder of the profile that this test is of.
fn profile_folder() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(2).unwrap().to_path_buf()
}

/// Compiles a program of `tests/clients` against the emulator's library.
fn compile(source: &str) -> PathBuf {
    let folder = profile_folder();
    let out = folder.join("emulated").join(source.replace(".cpp", ""));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(source);
    let done = Command::new(compiler)
        .args(["-std=c++17", "-Wall", "-Werror", "-o"])
        .args([&out, &path])
        .arg(folder.join("emulated/libcuda.so"))
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    out
}

fn run(program: &Path, environment: &[(&str, &str)]) -> (bool, String, String) {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", profile_folder().join("emulated"));
    for (name, value) in environment {
        command.env(name, value);
    }
    let done = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        done.status.success(),
        text(&done.stdout),
        text(&done.stderr),
    )
}

#[test]
fn a_program_against_the_driver_api() {
    let program = compile("vector_add.cpp");
    let (ok, out, err) = run(&program, &[]);
    assert!(ok, "{out}{err}");
    assert_eq!(
        out,
        "driver 13000\nNVIDIA H100 80GB HBM3 (emulated)\nsum ok\n"
    );
    let said: Vec<_> = err
        .lines()
        .map(|l| l.split(':').nth(1).unwrap_or_default().trim())
        .collect();
    assert_eq!(
        said,
        [
            "cuModuleLoadDataEx",
            "cuTexRefCreate",
            "cuStreamSynchronize"
        ],
        "{err}"
    );

    let (ok, out, _) = run(
        &program,
        &[("PTX_EMULATOR_DEVICES", "a100"), ("PTX_EMULATOR_SEED", "5")],
    );
    assert!(ok);
    assert!(out.contains("A100"), "{out}");

    let counters = profile_folder().join("emulated/counters.jsonl");
    let _ = std::fs::remove_file(&counters);
    let (ok, ..) = run(
        &program,
        &[("PTX_EMULATOR_COUNTERS", counters.to_str().unwrap())],
    );
    assert!(ok);
    let lines = std::fs::read_to_string(&counters).unwrap();
    let launch: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(launch["kernel"], "vector_add");
    assert_eq!(lines.lines().count(), 1);

    let (ok, _, err) = run(&program, &[("PTX_EMULATOR_FAIL", "cuMemAlloc:2")]);
    assert!(!ok);
    assert!(
        err.contains("cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY, injected"),
        "{err}"
    );

    let (ok, _, err) = run(&program, &[("PTX_EMULATOR_DEVICES", "voodoo2")]);
    assert!(!ok);
    assert!(
        err.contains("no profile `voodoo2` (there are a100, h100, l4, rtx4090)"),
        "{err}"
    );
}

/// Runs a script of `tests/clients` in the Python that `PTX_EMULATOR_PYTHON` names, as `cargo xtask test` does, with the
/// packages in the folder `PTX_EMULATOR_PYTHON_PACKAGES`, or its own; `None`, and a line that says so, where none is
/// named.
fn python(script: &str) -> Option<(String, String)> {
    let Some(python) = std::env::var_os("PTX_EMULATOR_PYTHON") else {
        eprintln!("{script} not run: PTX_EMULATOR_PYTHON names no Python with NVIDIA's packages");
        return None;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(script);
    let mut command = Command::new(python);
    if let Some(packages) = std::env::var_os("PTX_EMULATOR_PYTHON_PACKAGES") {
        command.env("PYTHONPATH", packages);
    }
    let done = command
        .arg(path)
        .env("LD_LIBRARY_PATH", profile_folder().join("emulated"))
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{out}{err}");
    Some((out, err))
}

#[test]
fn pythons_bindings() {
    let Some((out, err)) = python("bindings.py") else {
        return;
    };
    assert_eq!(out, "NVIDIA H100 80GB HBM3 (emulated)\nfill ok\n");
    assert_eq!(err, "");
}

#[test]
fn pythons_core() {
    let Some((out, err)) = python("core.py") else {
        return;
    };
    assert!(
        out.starts_with("NVIDIA H100 80GB HBM3 (emulated) ") && out.ends_with("\nscale ok\n"),
        "{out}"
    );
    // It asks for a context before it has one.
    assert!(
        err.lines().all(|line| line.contains("cuCtxGetDevice")),
        "{err}"
    );
}

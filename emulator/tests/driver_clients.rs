//! Clients that are not Rust: programs in C++, C and Python that load the emulator in place of libcuda.so.1.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The build folder of the profile that this test is of.
fn profile_folder() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(2).unwrap().to_path_buf()
}

/// A file of `tests/clients`.
fn client(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// Compiles a program of `tests/clients`, in the language that the flags say, against the emulator's library.
fn compile(source: &str, flags: &[&str]) -> PathBuf {
    let folder = profile_folder();
    let path = client(source);
    let out = folder.join("emulated").join(path.file_stem().unwrap());
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let done = Command::new(compiler)
        .args(flags)
        .args(["-Wall", "-Werror", "-o"])
        .args([&out, &path])
        // What follows is in no language.
        .args(["-x", "none"])
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

/// Runs a program: whether it succeeded, and what it wrote to stdout and to stderr.
fn run(
    program: &Path,
    arguments: &[&Path],
    environment: &[(&str, &str)],
) -> (bool, String, String) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LD_LIBRARY_PATH", profile_folder().join("emulated"));
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
    let program = compile("vector_add.cpp", &["-std=c++17"]);
    let (ok, out, err) = run(&program, &[], &[]);
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
        &[],
        &[("PTX_EMULATOR_DEVICES", "a100"), ("PTX_EMULATOR_SEED", "5")],
    );
    assert!(ok);
    assert!(out.contains("A100"), "{out}");

    let counters = profile_folder().join("emulated/counters.jsonl");
    let _ = std::fs::remove_file(&counters);
    let (ok, ..) = run(
        &program,
        &[],
        &[("PTX_EMULATOR_COUNTERS", counters.to_str().unwrap())],
    );
    assert!(ok);
    let lines = std::fs::read_to_string(&counters).unwrap();
    let launch: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(launch["kernel"], "vector_add");
    assert_eq!(lines.lines().count(), 1);

    let (ok, _, err) = run(&program, &[], &[("PTX_EMULATOR_FAIL", "cuMemAlloc:2")]);
    assert!(!ok);
    assert!(
        err.contains("cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY, injected"),
        "{err}"
    );

    let (ok, _, err) = run(&program, &[], &[("PTX_EMULATOR_DEVICES", "voodoo2")]);
    assert!(!ok);
    assert!(
        err.contains("no profile `voodoo2` (there are a100, h100, l4, rtx4090)"),
        "{err}"
    );
}

#[test]
fn a_program_in_c_against_the_toolkits_header() {
    let Some(nvcc) = support::nvcc_or_skip("a_program_in_c_against_the_toolkits_header") else {
        return;
    };
    let include = nvcc.ancestors().nth(2).unwrap().join("include");
    let include = include.to_str().unwrap();
    let program = compile("steps.c", &["-x", "c", "-std=c11", "-I", include]);
    let ptx = support::compile(&nvcc, &client("steps.cu"), &["-arch=compute_80"], "steps");
    let module = program.with_extension("ptx");
    std::fs::write(&module, ptx).unwrap();
    for environment in [&[][..], &[("PTX_EMULATOR_SEED", "3")]] {
        let (ok, out, err) = run(&program, &[&module], environment);
        assert!(ok, "{out}{err}");
        assert_eq!(out, "steps ok\n", "{err}");
        // Its last step is a fault.
        assert!(
            err.contains("read of 4 bytes") && err.contains("steps.cu:12"),
            "{err}"
        );
    }
}

/// Runs a script of `tests/clients` in the Python that `PTX_EMULATOR_PYTHON` names, as `cargo xtask test` does, with the
/// packages in the folder `PTX_EMULATOR_PYTHON_PACKAGES`, or its own; `None`, and a line that says so, where none is
/// named.
fn python(script: &str) -> Option<(String, String)> {
    let Some(python) = std::env::var_os("PTX_EMULATOR_PYTHON") else {
        eprintln!("{script} not run: PTX_EMULATOR_PYTHON names no Python with NVIDIA's packages");
        return None;
    };
    let mut command = Command::new(python);
    if let Some(packages) = std::env::var_os("PTX_EMULATOR_PYTHON_PACKAGES") {
        command.env("PYTHONPATH", packages);
    }
    let done = command
        .arg(client(script))
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

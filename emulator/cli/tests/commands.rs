//! The two commands as a user gives them.

use npyz::WriterBuilder as _;
use serde_json::Value;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PTX: &str = "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 pin, .param .u64 pout, .param .f32 factor, .param .u32 count)
{
    .reg .pred %p<3>; .reg .b32 %r<6>; .reg .f32 %f<4>; .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [pin];
    ld.param.u64 %rd2, [pout];
    ld.param.f32 %f1, [factor];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 ret;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd1, %rd1, %rd3;
    add.s64 %rd2, %rd2, %rd3;
    ld.global.f32 %f2, [%rd1];
    mul.f32 %f3, %f2, %f1;
    st.global.f32 [%rd2], %f3;
    ret;
}
.visible .entry negate(.param .u64 p)
{
    .reg .b32 %r<3>; .reg .b64 %rd<4>; .reg .b16 %h;
    ld.param.u64 %rd1, [p];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 2;
    add.s64 %rd1, %rd1, %rd2;
    ld.global.b16 %h, [%rd1];
    neg.s16 %h, %h;
    st.global.b16 [%rd1], %h;
    ret;
}
";

fn tool(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptx-emulator"));
    command.current_dir(folder);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ends(output: &Output, status: i32) {
    assert_eq!(
        output.status.code(),
        Some(status),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// A folder with the kernels and an array `a.npy` of 2 × 50 floats: 0, 1, 2, …
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kernels.ptx"), PTX).unwrap();
    let values = (0..100).map(|k| k as f32);
    write(&folder.path().join("a.npy"), &[2, 50], values);
    folder
}

fn write<T: npyz::AutoSerialize>(path: &Path, shape: &[u64], values: impl Iterator<Item = T>) {
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(shape)
        .writer(File::create(path).unwrap())
        .begin_nd()
        .unwrap();
    writer.extend(values).unwrap();
    writer.finish().unwrap();
}

fn read<T: npyz::Deserialize>(path: &Path) -> (Vec<u64>, Vec<T>) {
    let file = npyz::NpyFile::new(BufReader::new(File::open(path).unwrap())).unwrap();
    (file.shape().to_vec(), file.into_vec().unwrap())
}

const SCALE: [&str; 10] = [
    "run",
    "kernels.ptx",
    "--kernel",
    "scale",
    "--grid",
    "4",
    "--block",
    "32",
    "in:a.npy",
    "out:f32:2x50:b.npy",
];

#[test]
fn a_kernel_over_files() {
    let folder = folder();
    let done = tool(folder.path())
        .args(SCALE)
        .args(["f32:2.5", "u32:100"])
        .output()
        .unwrap();
    ends(&done, 0);
    let table = text(&done.stdout);
    assert!(table.contains("smsp__inst_executed.sum"), "{table}");
    let (shape, values) = read::<f32>(&folder.path().join("b.npy"));
    assert_eq!(shape, [2, 50]);
    assert!(values.iter().enumerate().all(|(k, v)| *v == 2.5 * k as f32));

    // Counters for programs: 4 warps of 16 instructions where nobody leaves early, the last with four lanes.
    let done = tool(folder.path())
        .args(SCALE)
        .args([
            "f32:1", "u32:100", "--json", "--device", "a100", "--seed", "3",
        ])
        .output()
        .unwrap();
    ends(&done, 0);
    let json: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(json["report"], Value::Null);
    assert_eq!(json["counters"]["kernel"], "scale");
    let metrics = &json["counters"]["metrics"];
    assert_eq!(metrics["smsp__inst_executed.sum"], 4 * 17);
    // 400 bytes in sectors of 32.
    assert_eq!(
        metrics["l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"],
        13
    );

    // In place, with another type.
    let values = (0..32).map(|k: i16| k * 100);
    write(&folder.path().join("h.npy"), &[32], values);
    let done = tool(folder.path())
        .args([
            "run",
            "kernels.ptx",
            "--kernel",
            "negate",
            "--block",
            "32",
            "inout:h.npy",
        ])
        .output()
        .unwrap();
    ends(&done, 0);
    let (_, values) = read::<i16>(&folder.path().join("h.npy"));
    assert!(
        values
            .iter()
            .enumerate()
            .all(|(k, v)| *v == -100 * k as i16)
    );
}

#[test]
fn a_kernel_at_fault() {
    let folder = folder();
    let run = |more: &[&str]| {
        tool(folder.path())
            .args(SCALE)
            .args(["f32:2.5", "u32:101"])
            .args(more)
            .output()
            .unwrap()
    };
    let done = run(&[]);
    ends(&done, 1);
    let report = text(&done.stderr);
    assert!(
        report.contains("error[bounds]: read of 4 bytes"),
        "{report}"
    );
    assert!(report.contains("thread (4,0,0)"), "{report}");
    assert!(!folder.path().join("b.npy").exists());
    let done = run(&["--json"]);
    ends(&done, 1);
    let json: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert!(json["report"].as_str().unwrap().contains("bounds"));
    let done = run(&["--budget", "10"]);
    ends(&done, 1);
    assert!(text(&done.stderr).contains("instruction budget"));
}

#[test]
fn mistakes_are_named() {
    let folder = folder();
    let says = |arguments: &[&str], said: &str| {
        let done = tool(folder.path()).args(arguments).output().unwrap();
        ends(&done, 2);
        let error = text(&done.stderr);
        assert!(error.contains(said), "{error}");
    };
    says(&["run", "nothing.ptx"], "nothing.ptx");
    says(&["run", "a.npy"], "a.npy");
    says(
        &["run", "kernels.ptx", "--kernel", "scales"],
        "no kernel `scales`",
    );
    says(
        &["run", "kernels.ptx", "--kernel", "negate"],
        "takes 1 parameters, 0 arguments",
    );
    says(
        &["run", "kernels.ptx", "--kernel", "negate", "i33:1"],
        "no type `i33`",
    );
    says(
        &["run", "kernels.ptx", "--kernel", "negate", "in:b.npy"],
        "b.npy",
    );
    says(
        &[
            "run",
            "kernels.ptx",
            "--kernel",
            "negate",
            "--block",
            "2048",
            "in:a.npy",
        ],
        "1024 are the most",
    );
    says(
        &[
            "run",
            "kernels.ptx",
            "--grid",
            "1,70000",
            "--kernel",
            "negate",
            "in:a.npy",
        ],
        "65535",
    );
    says(
        &["run", "kernels.ptx", "--device", "voodoo2"],
        "no device `voodoo2`",
    );
    says(
        &["run", "kernels.ptx", "--checks", "bound"],
        "no check `bound`",
    );
    says(&["check", "--", "./no-such-program"], "no-such-program");
    says(
        &["check", "--library", ".", "--", "true"],
        "no libcuda.so.1",
    );
}

/// Compiles the client of this folder, which scales an array with the kernels above: one element too many, and
/// without giving it back, if asked to.
fn client(folder: &Path) -> PathBuf {
    let out = folder.join("client");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client.cpp");
    let library = Path::new(env!("CARGO_BIN_EXE_ptx-emulator"))
        .parent()
        .unwrap()
        .join("emulated/libcuda.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let done = Command::new(compiler)
        .args(["-std=c++17", "-Wall", "-o"])
        .args([&out, &source, &library])
        .output()
        .unwrap();
    ends(&done, 0);
    out
}

#[test]
fn a_program_under_the_checks() {
    let folder = folder();
    let client = client(folder.path());
    let check = |options: &[&str], arguments: &[&str]| {
        let done = tool(folder.path())
            .arg("check")
            .args(options)
            .arg("--")
            .arg(&client)
            .arg("kernels.ptx")
            .args(arguments)
            .output()
            .unwrap();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    let (code, out, err) = check(&[], &["100"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(out, "scaled\n");
    assert!(
        err.contains("ERROR SUMMARY: 0 errors of 0 kinds in 1 run"),
        "{err}"
    );

    // The program sees the launch fail, and says so with its status.
    let (code, _, err) = check(&[], &["101"]);
    assert_eq!(code, Some(7), "{err}");
    assert!(
        err.contains("ERROR SUMMARY: 1 error of 1 kind in 1 run"),
        "{err}"
    );
    assert!(err.contains("error[bounds]"), "{err}");

    // A leak is nothing that the program notices.
    let (code, out, err) = check(&[], &["100", "leak"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("error[leak]"), "{err}");
    let (code, ..) = check(&["--error-exitcode", "42"], &["100", "leak"]);
    assert_eq!(code, Some(42));
    let (code, _, err) = check(&["--checks", "-leak"], &["100", "leak"]);
    assert_eq!(code, Some(0), "{err}");

    let (code, out, err) = check(&["--seeds", "3", "--json"], &["101"]);
    assert_eq!(code, Some(7), "{err}");
    let json: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&json["runs"], &json["errors"]), (&3.into(), &3.into()));
    assert_eq!(json["findings"][0]["kind"], "bounds");
    assert_eq!(json["findings"][0]["seeds"], serde_json::json!([0, 1, 2]));
}

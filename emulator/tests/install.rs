//! `install()`: what it decides, what it says, and that the symbols cudarc wants are there.

use ptx_emulator::{Device, InstallError, install};
use std::process::{Command, Output};

/// Runs the test `child` of this file in a process of its own, under that environment.
fn in_a_child(environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture"])
        .env("INSTALL_CHILD", "1");
    for name in [
        "KV_DEVICE",
        "PTX_EMULATOR_LIBRARY",
        "PTX_EMULATOR_RESTARTED",
    ] {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Nothing by itself: what `child` runs.
#[test]
fn child() {
    if std::env::var_os("INSTALL_CHILD").is_none() {
        return;
    }
    // From several threads, all with one answer.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(install)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for answer in &answers {
        match answer {
            Ok(Device::Emulator(_)) => println!("ANSWER emulator"),
            Ok(Device::Cuda { devices }) => println!("ANSWER cuda {devices}"),
            Err(e) => println!("ANSWER error {e}"),
        }
    }
    if let Ok(Device::Emulator(_)) = answers[0] {
        assert!(ptx_emulator::Emulator::loaded().is_some());
        let context = cudarc::driver::CudaContext::new(0).unwrap();
        println!("NAME {}", context.name().unwrap());
    }
}

#[test]
fn the_emulator_is_put_in_force_once_and_said_once() {
    let output = in_a_child(&[("KV_DEVICE", "emulator")]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("ANSWER emulator").count(), 4, "{text}");
    assert_eq!(
        text.matches("running on the PTX emulator (h100; no GPU is used)")
            .count(),
        1,
        "{text}"
    );
    assert!(
        text.contains("NAME NVIDIA H100 80GB HBM3 (emulated)"),
        "{text}"
    );
}

#[test]
fn it_works_without_the_build_folder_on_the_loaders_path() {
    let output = in_a_child(&[("KV_DEVICE", "emulator"), ("LD_LIBRARY_PATH", "")]);
    assert!(
        said(&output).contains("NAME NVIDIA H100"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_stub_named_libcuda_does_not_get_in_the_way() {
    // As the toolkit's stub would: another library under the name that is tried first.
    let folder = std::env::temp_dir().join(format!("ptx-emulator-stub-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let stub = folder.join("libcuda.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let source = folder.join("stub.cpp");
    std::fs::write(
        &source,
        "extern \"C\" int cuInit(unsigned) { return 34; }\n",
    )
    .unwrap();
    let built = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([&stub, &source])
        .status()
        .unwrap();
    assert!(built.success());
    let output = in_a_child(&[
        ("KV_DEVICE", "emulator"),
        ("LD_LIBRARY_PATH", folder.to_str().unwrap()),
    ]);
    assert!(
        said(&output).contains("NAME NVIDIA H100"),
        "{}",
        said(&output)
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn mistakes_are_named() {
    let text = said(&in_a_child(&[("KV_DEVICE", "abacus")]));
    assert!(
        text.contains("KV_DEVICE is `abacus`: expected `cuda` or `emulator`"),
        "{text}"
    );
    let text = said(&in_a_child(&[
        ("KV_DEVICE", "emulator"),
        ("PTX_EMULATOR_LIBRARY", "/nowhere/lib.so"),
    ]));
    assert!(text.contains("/nowhere/lib.so"), "{text}");
    let error = InstallError::NoDriver {
        reason: "the driver lists no device".into(),
    };
    assert_eq!(
        error.to_string(),
        "KV_DEVICE=cuda, but the driver lists no device"
    );
}

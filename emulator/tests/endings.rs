//! What cannot go well ends in an error code and a message that say why. Each case runs in a process of its own, whose
//! stderr has the message.

mod common;

use common::{VECTOR_ADD, gpu};
use cudarc::driver::{DriverError, LaunchConfig};
use cudarc::nvrtc::Ptx;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel's PTX with the body's addition replaced.
fn instead_of_add(instruction: &str) -> String {
    VECTOR_ADD.replace("add.f32 %f3, %f1, %f2;", instruction)
}

/// A fat binary cut off after some of its bytes.
fn truncated(bytes: usize) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images.lz4.fatbin");
    let whole = std::fs::read(data).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("truncated{bytes}.fatbin"));
    std::fs::write(&path, &whole[..bytes]).unwrap();
    path
}

/// A kernel without parameters, launched over `grid`, with a budget.
fn launched(body: &str, grid: (u32, u32, u32), block: u32) -> Result<(), DriverError> {
    let gpu = gpu();
    gpu.emulator.set_budget(Some(1_000_000)).unwrap();
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {{ .reg .b32 %r<4>; {body} }}"
    );
    let module = gpu.context.load_module(Ptx::from_src(text))?;
    let kernel = module.load_function("k")?;
    let stream = gpu.context.new_stream()?;
    let config = LaunchConfig {
        grid_dim: grid,
        block_dim: (block, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: no arguments, and nothing is touched.
    unsafe { stream.launch_builder(&kernel).launch(config) }?;
    stream.synchronize()
}

fn loaded(ptx: Ptx) -> Result<(), DriverError> {
    gpu().context.load_module(ptx).map(|_| ())
}

/// A case, its code and what its message says.
struct Ending {
    name: &'static str,
    run: fn() -> Result<(), DriverError>,
    code: &'static str,
    says: &'static [&'static str],
}

const ENDINGS: &[Ending] = &[
    Ending {
        name: "an instruction that is not executed",
        run: || {
            loaded(Ptx::from_src(instead_of_add(
                "tex.1d.v4.f32.s32 {%f1, %f2, %f3, %f3}, [%rd1, {%r1}];",
            )))
        },
        code: "CUDA_ERROR_INVALID_PTX",
        says: &["line 26", "unsupported instruction `tex.1d.v4.f32.s32`"],
    },
    Ending {
        name: "an instruction that there is not",
        run: || loaded(Ptx::from_src(instead_of_add("frobnicate.f32 %f3, %f1;"))),
        code: "CUDA_ERROR_INVALID_PTX",
        says: &["line 26", "frobnicate.f32"],
    },
    Ending {
        name: "text that breaks off",
        run: || loaded(Ptx::from_src(&VECTOR_ADD[..VECTOR_ADD.len() / 2])),
        code: "CUDA_ERROR_INVALID_PTX",
        says: &["PTX line", "column"],
    },
    Ending {
        name: "PTX of a newer version",
        run: || {
            loaded(Ptx::from_src(
                VECTOR_ADD.replace("version 7.0", "version 99.1"),
            ))
        },
        code: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        says: &["99.1"],
    },
    Ending {
        name: "a fat binary without its header",
        run: || loaded(Ptx::from_file(truncated(10))),
        code: "CUDA_ERROR_INVALID_IMAGE",
        says: &["cuModuleLoad"],
    },
    Ending {
        name: "a fat binary without its end",
        run: || loaded(Ptx::from_file(truncated(1000))),
        code: "CUDA_ERROR_INVALID_IMAGE",
        says: &["cuModuleLoad"],
    },
    Ending {
        name: "a grid past the device's",
        run: || launched("ret;", (1, 1, 65536), 1),
        code: "CUDA_ERROR_INVALID_VALUE",
        says: &["grid", "65536"],
    },
    Ending {
        name: "the largest grid",
        run: || launched("ret;", (i32::MAX as u32, 65535, 65535), 1024),
        code: "CUDA_ERROR_LAUNCH_TIMEOUT",
        says: &["instruction budget", "kernel k"],
    },
    Ending {
        name: "a kernel that never ends",
        run: || launched("FOR: add.u32 %r1, %r1, 1; bra FOR;", (1, 1, 1), 32),
        code: "CUDA_ERROR_LAUNCH_TIMEOUT",
        says: &["instruction budget", "kernel k"],
    },
    Ending {
        name: "a kernel that waits for ever",
        run: || launched("bar.sync 1, 64;", (1, 1, 1), 32),
        code: "CUDA_ERROR_LAUNCH_FAILED",
        says: &["barrier 1 has 32 of 64 threads"],
    },
];

const CASE: &str = "PTX_EMULATOR_ENDING";

/// Does the case that the environment names; nothing by itself.
#[test]
fn one_ending() {
    let Ok(name) = std::env::var(CASE) else {
        return;
    };
    let case = ENDINGS.iter().find(|e| e.name == name).unwrap();
    match (case.run)() {
        Ok(()) => println!("code: none"),
        Err(error) => println!("code: {:?}", error.0),
    }
}

#[test]
fn every_ending_is_named() {
    for case in ENDINGS {
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_ending", "--nocapture"])
            .env(CASE, case.name)
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&done.stdout);
        let err = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: {out}{err}", case.name);
        let code = format!("code: {}\n", case.code);
        assert!(out.contains(&code), "{}: {out}{err}", case.name);
        for said in case.says {
            assert!(err.contains(said), "{}: {said}: {err}", case.name);
        }
    }
}

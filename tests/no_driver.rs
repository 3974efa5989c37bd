//! A program that uses the crate where there is no driver is told so, and lives.

use std::env;
use std::fs;
use std::process::Command;

use kv_kernels::Error;

/// Set in the process that is to find no driver.
const HIDDEN: &str = "KV_TEST_DRIVER_HIDDEN";

/// Runs itself once more with a folder before all others in which every name of
/// the driver's library is a file that is no library. The loader stops there, so
/// this holds on a machine with a GPU as well.
#[test]
fn open_says_that_there_is_no_driver() {
    if env::var_os(HIDDEN).is_some() {
        return hidden();
    }
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "libcuda.so",
        "libcuda.so.1",
        "libnvcuda.so",
        "libnvcuda.so.1",
    ] {
        fs::write(folder.path().join(name), "no library").unwrap();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "open_says_that_there_is_no_driver",
            "--nocapture",
        ])
        .env(HIDDEN, "1")
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("told: no CUDA driver"), "{said}");
}

fn hidden() {
    for ordinal in [0, 1] {
        match kv_kernels::open(ordinal) {
            Err(error @ Error::NoDriver { .. }) => println!("told: {error}"),
            other => panic!("open({ordinal}) gave {other:?}"),
        }
    }
}

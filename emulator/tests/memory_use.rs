//! The emulator's own memory against the device memory that a program uses, with every check on.

mod common;

use common::{VECTOR_ADD, gpu};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// Bytes of this process that lie in memory, now and at most so far.
fn resident() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[test]
fn at_most_three_times_the_device_memory_in_use() {
    let gpu = gpu();
    let stream = gpu.context.default_stream();
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    let add = module.load_function("vector_add").unwrap();
    let count = 8u32 << 20;
    let bytes = 3 * 4 * count as usize;
    let (before, _) = resident();
    // Filled on the device, so that the host holds no copy.
    let ones = stream.alloc_zeros::<f32>(count as usize).unwrap();
    let twos = stream.alloc_zeros::<f32>(count as usize).unwrap();
    // SAFETY: the kernel writes all of it.
    let mut out = unsafe { stream.alloc::<f32>(count as usize) }.unwrap();
    let mut launch = stream.launch_builder(&add);
    launch.arg(&ones).arg(&twos).arg(&mut out).arg(&count);
    // SAFETY: the arguments are the kernel's, the grid covers them, the kernel checks its bounds.
    unsafe { launch.launch(LaunchConfig::for_num_elems(count)) }.unwrap();
    stream.synchronize().unwrap();
    let (_, peak) = resident();
    let times = (peak - before) as f64 / bytes as f64;
    println!(
        "{} MiB of device memory in use: {} MiB more of the host's, {times:.2} times as much",
        bytes >> 20,
        (peak - before) >> 20
    );
    assert!(times <= 3.0, "{times}");
    assert_eq!(gpu.reports(), "");
}

//! Counters of launches as the driver gives them: metrics, occupancy and machine code, against figures by hand.

mod common;

use common::{Gpu, VECTOR_ADD, gpu};
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use serde_json::{Value, json};

/// Kernels with PTX for compute_80 and machine code made of it for sm_80 and sm_90: `data/machine.cu`.
const MACHINE: &[u8] = include_bytes!("data/machine.fatbin");

fn machine(gpu: &Gpu, kernel: &str) -> CudaFunction {
    let module = gpu.context.load_module(Ptx::from_binary(MACHINE.to_vec()));
    module.unwrap().load_function(kernel).unwrap()
}

fn shape(blocks: u32, threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes,
    }
}

/// The counters of what `launch` launches, one kernel.
fn counted(gpu: &Gpu, launch: impl FnOnce()) -> Value {
    gpu.context.synchronize().unwrap();
    gpu.emulator.keep_counters(true).unwrap();
    gpu.emulator.take_counters().unwrap();
    launch();
    gpu.context.synchronize().unwrap();
    gpu.emulator.keep_counters(false).unwrap();
    let mut launches: Value = serde_json::from_str(&gpu.emulator.take_counters().unwrap()).unwrap();
    assert_eq!(launches.as_array().map(Vec::len), Some(1), "{launches}");
    assert_eq!(gpu.reports(), "");
    launches[0].take()
}

fn rounds(gpu: &Gpu, blocks: u32) -> Value {
    let stream = gpu.context.default_stream();
    let rounds = machine(gpu, "rounds");
    let mut x = stream.clone_htod(&vec![1f32; 7 * 128]).unwrap();
    counted(gpu, || {
        let mut launch = stream.launch_builder(&rounds);
        launch.arg(&mut x).arg(&6i32);
        // SAFETY: the arguments are the kernel's, and `x` has a row of 128 for each of 6 rounds and the sum.
        unsafe { launch.launch(shape(blocks, 128, 0)) }.unwrap();
    })
}

#[test]
fn machine_instructions_of_every_architecture_there_is_code_for() {
    // 4 warps, 6 rounds. Before the loop 10 and 4 instructions on sm_80, 9 and 12 on sm_90; in it 26; behind it 2
    // and 4 (tests/sass.rs).
    let machine = &rounds(&gpu(), 1)["machine"];
    for (arch, total) in [
        ("sm_80", 4 * (10 + 4 + 2) + 24 * 26),
        ("sm_90", 4 * (9 + 12 + 4) + 24 * 26),
    ] {
        let of = &machine[arch];
        assert_eq!(of["instructions"], total, "{arch}: {machine}");
        assert_eq!(of["by_opcode"]["BAR"], 48);
        assert_eq!(of["by_opcode"]["SHFL"], 120);
        assert_eq!(of["stack_bytes"], 0);
        assert!(of["registers"].as_u64().unwrap() > 8, "{of}");
    }
    assert_eq!(machine.as_object().unwrap().len(), 2);
}

#[test]
fn a_kernel_with_a_call_and_asynchronous_copies() {
    // One warp, 5 tiles of 512 bytes, the next copied while one is worked on.
    let gpu = gpu();
    let stream = gpu.context.default_stream();
    let tiles = machine(&gpu, "tiles");
    let x = stream.clone_htod(&vec![0u32; 5 * 128]).unwrap();
    let mut out = stream.alloc_zeros::<f32>(1).unwrap();
    let launch = counted(&gpu, || {
        let mut launch = stream.launch_builder(&tiles);
        launch.arg(&x).arg(&mut out).arg(&5i32);
        // SAFETY: the arguments are the kernel's, with 32 lanes × 16 bytes for each of the 5 tiles.
        unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
    });
    for (arch, total) in [
        ("sm_80", 16 + 4 + 5 * 24 + 8 + 4 + 13u32),
        ("sm_90", 22 + 5 + 5 * 25 + 7 + 3 + 13),
    ] {
        let of = &launch["machine"][arch];
        assert_eq!(of["instructions"], total, "{arch}");
        // The sixth, behind the last tile, is predicated off: issued, by no lane.
        assert_eq!(of["by_opcode"]["LDGSTS"], 6, "{arch}");
    }
    let metrics = &launch["metrics"];
    for (name, value) in [
        (
            "sm__sass_l1tex_t_requests_pipe_lsu_mem_global_op_ldgsts.sum",
            5,
        ),
        (
            "sm__sass_l1tex_t_sectors_pipe_lsu_mem_global_op_ldgsts.sum",
            5 * 16,
        ),
        ("emulator__ideal_sectors_global_op_ldgsts.sum", 5 * 16),
        ("emulator__bytes_global_op_ldgsts.sum", 5 * 512),
        (
            "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ldgsts.sum",
            5 * 4,
        ),
        ("l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum", 0),
        (
            "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum",
            5 * 4,
        ),
        ("l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum", 1),
        ("emulator__bytes_distinct_sectors_global_read.sum", 5 * 512),
        ("emulator__bytes_distinct_sectors_global_written.sum", 32),
        ("emulator__bytes_async_copy.sum", 5 * 512),
        (
            "emulator__async_copy_bytes_in_flight_per_block.max",
            2 * 512,
        ),
        // 32 blocks of one warp an SM.
        (
            "emulator__async_copy_bytes_in_flight_per_sm.max",
            32 * 2 * 512,
        ),
    ] {
        assert_eq!(metrics[name], value, "{name}: {metrics}");
    }
}

#[test]
fn occupancy_by_the_devices_figures() {
    // An H100: 64 Ki registers, 2048 threads and 32 blocks an SM, 228 KiB of shared memory of which each block
    // takes 1 KiB more than it asks for.
    let gpu = gpu();
    // Blocks write the same.
    gpu.emulator.set_checks("all,-global-race").unwrap();
    let launch = rounds(&gpu, 264);
    let metrics = &launch["metrics"];
    let registers = metrics["launch__registers_per_thread"].as_u64().unwrap();
    assert!(registers <= 32, "{registers}: more would bind");
    for (name, value) in [
        ("launch__block_size", json!(128)),
        ("launch__grid_size", json!(264)),
        ("launch__shared_mem_per_block_static", json!(512)),
        ("launch__shared_mem_per_block_dynamic", json!(0)),
        ("launch__shared_mem_per_block_driver", json!(1024)),
        ("launch__occupancy_limit_blocks", json!(32)),
        ("launch__occupancy_limit_warps", json!(16)),
        (
            "launch__occupancy_limit_shared_mem",
            json!(228 * 1024 / 1536),
        ),
        ("sm__maximum_warps_avg_per_active_cycle", json!(64)),
        ("sm__maximum_warps_per_active_cycle_pct", json!(100.0)),
        ("launch__waves_per_multiprocessor", json!(0.125)),
    ] {
        assert_eq!(metrics[name], value, "{name}");
    }
    let limited_by = &launch["occupancy"]["limited_by"];
    assert!(
        limited_by.as_array().unwrap().contains(&json!("warps")),
        "{limited_by}"
    );
    assert_eq!(launch["occupancy"]["blocks_per_sm"], 16);
    assert_eq!(launch["occupancy"]["device"], "h100");
}

#[test]
fn what_cannot_be_counted_says_why() {
    let gpu = gpu();
    let stream = gpu.context.default_stream();
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    let add = module.load_function("vector_add").unwrap();
    let mut buffer = stream.alloc_zeros::<f32>(64).unwrap();
    let launch = counted(&gpu, || {
        let address = &mut buffer;
        let mut launch = stream.launch_builder(&add);
        launch
            .arg(&*address)
            .arg(&*address)
            .arg(&*address)
            .arg(&0u32);
        // SAFETY: with zero elements the kernel touches nothing.
        unsafe { launch.launch(shape(1, 32, 0)) }.unwrap();
    });
    let why = launch["machine"]["unavailable"].as_str().unwrap();
    assert!(why.contains("no machine code"), "{why}");
    let why = launch["occupancy"]["unavailable"].as_str().unwrap();
    assert!(why.contains("sm_90"), "{why}");
    assert_eq!(launch["metrics"].get("launch__registers_per_thread"), None);
}

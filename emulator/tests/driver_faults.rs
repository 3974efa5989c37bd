//! Faults of kernels: what the host sees, for how long, and what the report says.

mod common;

use common::{Gpu, VECTOR_ADD, alone, gpu};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// One thread stores a word at `address + offset`.
const STORE: &str = "\
.version 7.0
.target sm_80
.address_size 64
.visible .entry store(.param .u64 address, .param .u64 offset)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [address];
    ld.param.u64 %rd2, [offset];
    add.s64 %rd3, %rd1, %rd2;
    mov.u32 %r1, 7;
    st.global.u32 [%rd3], %r1;
    ret;
}
.visible .entry forever()
{
LOOP:
    bra LOOP;
}
.visible .entry give_up()
{
    trap;
}
";

const ONE_THREAD: LaunchConfig = LaunchConfig {
    grid_dim: (1, 1, 1),
    block_dim: (1, 1, 1),
    shared_mem_bytes: 0,
};

fn kernel(gpu: &Gpu, name: &str) -> CudaFunction {
    gpu.context
        .load_module(Ptx::from_src(STORE))
        .unwrap()
        .load_function(name)
        .unwrap()
}

/// Runs the kernel over 16 bytes at an offset and gives what the synchronisation says.
fn store_at(gpu: &Gpu, offset: u64) -> Result<(), DriverError> {
    let stream = gpu.context.new_stream().unwrap();
    let kernel = kernel(gpu, "store");
    let buffer = stream.alloc_zeros::<u32>(4).unwrap();
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&buffer).arg(&offset);
    // SAFETY: wrong offsets are the test.
    unsafe { launch.launch(ONE_THREAD) }.unwrap();
    stream.synchronize()
}

/// The primary context made new, as after every fault.
fn reset() {
    // SAFETY: no work is under way.
    unsafe { sys::cuDevicePrimaryCtxReset_v2(0) }
        .result()
        .unwrap();
}

#[test]
fn an_access_out_of_bounds_sticks_to_the_context() {
    let gpu = gpu();
    assert_eq!(store_at(&gpu, 12), Ok(()));
    assert_eq!(gpu.reports(), "");
    let illegal = Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert_eq!(store_at(&gpu, 16), illegal);
    let report = gpu.reports();
    assert!(report.starts_with("error[bounds]"), "{report}");
    assert!(
        report.contains("kernel store") && report.contains("st.global.u32"),
        "{report}"
    );
    // Every call on the context says so from now on.
    let mut address = 0;
    // SAFETY: room for the address.
    unsafe {
        assert_eq!(
            sys::cuMemAlloc_v2(&mut address, 4),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        );
        assert_eq!(
            sys::cuCtxSynchronize(),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        );
    }
    // Devices can still be asked; a new context is sound.
    assert_eq!(CudaContext::device_count().unwrap(), 1);
    reset();
    drop(gpu);
    let gpu = common::gpu();
    assert_eq!(store_at(&gpu, 0), Ok(()));
}

#[test]
fn each_fault_has_cudas_code() {
    let gpu = gpu();
    assert_eq!(
        store_at(&gpu, 2),
        Err(DriverError(CUresult::CUDA_ERROR_MISALIGNED_ADDRESS))
    );
    assert!(gpu.reports().starts_with("error[alignment]"));
    reset();
    drop(gpu);

    let gpu = common::gpu();
    gpu.emulator.set_budget(Some(100_000)).unwrap();
    let (forever, stream) = (kernel(&gpu, "forever"), gpu.context.new_stream().unwrap());
    // SAFETY: no arguments.
    unsafe { stream.launch_builder(&forever).launch(ONE_THREAD) }.unwrap();
    assert_eq!(
        stream.synchronize(),
        Err(DriverError(CUresult::CUDA_ERROR_LAUNCH_TIMEOUT))
    );
    assert!(gpu.reports().starts_with("error[instruction budget]"));
    reset();
    drop((forever, stream, gpu));

    let gpu = common::gpu();
    let (give_up, stream) = (kernel(&gpu, "give_up"), gpu.context.new_stream().unwrap());
    // SAFETY: no arguments.
    unsafe { stream.launch_builder(&give_up).launch(ONE_THREAD) }.unwrap();
    assert_eq!(
        stream.synchronize(),
        Err(DriverError(CUresult::CUDA_ERROR_LAUNCH_FAILED))
    );
    assert!(gpu.reports().starts_with("error[trap]"));
    reset();
}

#[test]
fn reports_are_json_too() {
    let gpu = gpu();
    store_at(&gpu, 400).unwrap_err();
    let reports: serde_json::Value =
        serde_json::from_str(&gpu.emulator.take_reports_json().unwrap()).unwrap();
    assert_eq!(reports[0]["kind"], "bounds");
    assert_eq!(reports[0]["kernel"], "store");
    assert_eq!(reports[0]["thread"], serde_json::json!([0, 0, 0]));
    assert_eq!(reports[0]["ptx_line"], 12);
    assert_eq!(gpu.emulator.take_reports_json().unwrap(), "[]");
    reset();
}

#[test]
fn a_check_can_be_switched_off() {
    let gpu = gpu();
    gpu.emulator.set_checks("-leak").unwrap();
    assert!(gpu.emulator.set_checks("leek").is_err());
    let stream = gpu.context.default_stream();
    let leaked = stream.alloc_zeros::<u8>(10).unwrap();
    leaked.leak();
    drop((stream, gpu.context));
    assert_eq!(gpu.emulator.take_reports().unwrap(), "");
}

#[test]
fn the_nth_call_fails() {
    let (emulator, _alone) = alone();
    let context = CudaContext::new(0).unwrap();
    emulator.set_failures("cuMemAllocAsync:2").unwrap();
    let stream = context.default_stream();
    assert!(stream.alloc_zeros::<u8>(10).is_ok());
    let failed = stream.alloc_zeros::<u8>(10).map(|_| ()).unwrap_err();
    assert_eq!(failed, DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    assert!(stream.alloc_zeros::<u8>(10).is_ok());
    emulator
        .set_failures("cuStreamSynchronize:1:CUDA_ERROR_LAUNCH_FAILED")
        .unwrap();
    assert_eq!(
        stream.synchronize(),
        Err(DriverError(CUresult::CUDA_ERROR_LAUNCH_FAILED))
    );
    assert_eq!(stream.synchronize(), Ok(()));
    assert!(emulator.set_failures("cuNothing:1").is_err());
}

#[test]
fn calls_and_launches_are_counted() {
    let gpu = gpu();
    let stream = gpu.context.default_stream();
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    let add = module.load_function("vector_add").unwrap();
    let ones = stream.clone_htod(&[1f32; 64]).unwrap();
    let mut out = stream.alloc_zeros::<f32>(64).unwrap();
    stream.synchronize().unwrap();
    gpu.emulator.keep_counters(true).unwrap();
    gpu.emulator.take_calls().unwrap();
    let mut launch = stream.launch_builder(&add);
    launch.arg(&ones).arg(&ones).arg(&mut out).arg(&64u32);
    // SAFETY: the arguments are the kernel's.
    unsafe {
        launch.launch(LaunchConfig {
            grid_dim: (1, 1, 1),
            block_dim: (64, 1, 1),
            shared_mem_bytes: 0,
        })
    }
    .unwrap();
    let calls: serde_json::Value =
        serde_json::from_str(&gpu.emulator.take_calls().unwrap()).unwrap();
    assert_eq!(calls["cuLaunchKernel"], 1);
    stream.synchronize().unwrap();
    let launches: serde_json::Value =
        serde_json::from_str(&gpu.emulator.take_counters().unwrap()).unwrap();
    gpu.emulator.keep_counters(false).unwrap();
    assert_eq!(launches.as_array().unwrap().len(), 1);
    assert_eq!(launches[0]["kernel"], "vector_add");
    assert_eq!(launches[0]["grid"], serde_json::json!([1, 1, 1]));
    assert_eq!(launches[0]["metrics"]["smsp__inst_executed.sum"], 2 * 19);
}

//! Kernels through cudarc on the emulator: loading, launching, results, and what is refused.

mod common;

use common::{VECTOR_ADD, gpu};
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

#[test]
fn a_vector_sum() {
    let gpu = gpu();
    let stream = gpu.context.default_stream();
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    let add = module.load_function("vector_add").unwrap();
    let n = 1000u32;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 0.5 * i as f32).collect();
    let (da, db) = (
        stream.clone_htod(&a).unwrap(),
        stream.clone_htod(&b).unwrap(),
    );
    let mut out = stream.alloc_zeros::<f32>(n as usize).unwrap();
    let mut launch = stream.launch_builder(&add);
    launch.arg(&da).arg(&db).arg(&mut out).arg(&n);
    // SAFETY: the arguments are the kernel's, the grid covers them, the kernel checks its bounds.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.unwrap();
    let sums = stream.clone_dtoh(&out).unwrap();
    assert!(sums.iter().enumerate().all(|(i, s)| *s == 1.5 * i as f32));
    assert_eq!(gpu.reports(), "");
}

#[test]
fn what_does_not_fit_is_refused_before_it_runs() {
    let gpu = gpu();
    let stream = gpu.context.default_stream();
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    let add = module.load_function("vector_add").unwrap();
    let buffer = stream.alloc_zeros::<f32>(4).unwrap();
    let launch = |grid, block, shared| {
        let mut launch = stream.launch_builder(&add);
        launch.arg(&buffer).arg(&buffer).arg(&buffer).arg(&0u32);
        // SAFETY: with zero elements the kernel touches nothing.
        unsafe {
            launch.launch(LaunchConfig {
                grid_dim: grid,
                block_dim: block,
                shared_mem_bytes: shared,
            })
        }
        .map(|_| ())
    };
    let refused = |code| Err(DriverError(code));
    assert_eq!(launch((1, 1, 1), (32, 1, 1), 0), Ok(()));
    assert_eq!(
        launch((0, 1, 1), (32, 1, 1), 0),
        refused(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    assert_eq!(
        launch((1, 65536, 1), (32, 1, 1), 0),
        refused(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    assert_eq!(
        launch((1, 1, 1), (32, 33, 1), 0),
        refused(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    assert_eq!(
        launch((1, 1, 1), (1, 1, 65), 0),
        refused(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    assert_eq!(
        launch((1, 1, 1), (32, 1, 1), 49 * 1024),
        refused(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    add.set_attribute(attribute, 100 * 1024).unwrap();
    assert_eq!(launch((1, 1, 1), (32, 1, 1), 100 * 1024), Ok(()));
    assert_eq!(
        add.set_attribute(attribute, 228 * 1024),
        refused(CUresult::CUDA_ERROR_INVALID_VALUE)
    );
    stream.synchronize().unwrap();
}

#[test]
fn images_that_cannot_run_say_why() {
    let gpu = gpu();
    let load = |text: &str| {
        gpu.context
            .load_module(Ptx::from_src(text))
            .map(|_| ())
            .unwrap_err()
            .0
    };
    assert_eq!(load("no PTX at all"), CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(
        load(&VECTOR_ADD.replace("sm_80", "sm_100")),
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
    );
    assert_eq!(
        load(&VECTOR_ADD.replace(".version 7.0", ".version 99.0")),
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    );
    assert_eq!(
        load(&VECTOR_ADD.replace("add.f32", "frobnicate.f32")),
        CUresult::CUDA_ERROR_INVALID_PTX
    );
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    assert_eq!(
        module.load_function("vector_sub").unwrap_err().0,
        CUresult::CUDA_ERROR_NOT_FOUND
    );
}

/// `write` has the first thread of warp 1 write a word; `read` has warp 0 read every 32nd byte of as many words.
const PASSED_ON: &str = "\
.version 7.0
.target sm_80
.address_size 64
.visible .entry write(.param .u64 to)
{
    .reg .pred %p; .reg .b32 %t; .reg .b64 %to;
    ld.param.u64 %to, [to];
    mov.u32 %t, %tid.x;
    setp.ne.u32 %p, %t, 32;
    @%p exit;
    st.global.u32 [%to], %t;
    ret;
}
.visible .entry read(.param .u64 from, .param .u32 count)
{
    .reg .pred %p; .reg .b32 %t, %count, %sum, %word; .reg .b64 %from;
    ld.param.u64 %from, [from];
    ld.param.u32 %count, [count];
    mov.u32 %t, %tid.x;
    setp.ne.u32 %p, %t, 0;
    @%p exit;
    mov.u32 %sum, 0;
NEXT:
    ld.global.u32 %word, [%from];
    add.u32 %sum, %sum, %word;
    add.u64 %from, %from, 32;
    sub.u32 %count, %count, 1;
    setp.ne.u32 %p, %count, 0;
    @%p bra NEXT;
    st.global.u32 [%from], %sum;
    ret;
}
";

#[test]
fn launches_are_told_apart_however_many_there_are() {
    let gpu = gpu();
    let stream = gpu.context.default_stream();
    let module = gpu.context.load_module(Ptx::from_src(PASSED_ON)).unwrap();
    let (write, read) = (
        module.load_function("write").unwrap(),
        module.load_function("read").unwrap(),
    );
    let two_warps = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (64, 1, 1),
        shared_mem_bytes: 0,
    };
    // More than the race check's shadow has numbers for: what one launch wrote is past in every later one.
    let count = 2200usize;
    let mut words = stream.alloc_zeros::<u32>(8 * (count + 1)).unwrap();
    for k in 0..count {
        let mut launch = stream.launch_builder(&write);
        let mut word = words.slice_mut(8 * k..8 * k + 1);
        launch.arg(&mut word);
        // SAFETY: the argument is the kernel's, a word.
        unsafe { launch.launch(two_warps) }.unwrap();
    }
    let mut launch = stream.launch_builder(&read);
    let given = count as u32;
    launch.arg(&mut words).arg(&given);
    // SAFETY: the arguments are the kernel's; it reads that many words and writes the one behind them.
    unsafe { launch.launch(two_warps) }.unwrap();
    let words = stream.clone_dtoh(&words).unwrap();
    assert_eq!(gpu.reports(), "");
    assert_eq!(words[8 * count], 32 * given);
}

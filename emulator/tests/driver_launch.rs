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

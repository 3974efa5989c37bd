//! Several devices at once: what each says it is, and memory between them.

mod common;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUdevice_attribute as A, CUresult};
use cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// The emulator with an H100 and an L4. One test: devices are fixed once the driver is loaded.
#[test]
fn two_devices() {
    // SAFETY: this process's only test, before anything reads the environment.
    unsafe { std::env::set_var("PTX_EMULATOR_DEVICES", "h100,l4") };
    let (emulator, _alone) = common::alone();
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    let (h100, l4) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
    assert_eq!(h100.name().unwrap(), "NVIDIA H100 80GB HBM3 (emulated)");
    assert_eq!(l4.name().unwrap(), "NVIDIA L4 (emulated)");
    assert_ne!(h100.uuid().unwrap().bytes, l4.uuid().unwrap().bytes);
    assert_eq!(h100.compute_capability().unwrap(), (9, 0));
    assert_eq!(l4.compute_capability().unwrap(), (8, 9));
    assert_eq!(
        h100.attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .unwrap(),
        132
    );
    assert_eq!(
        l4.attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .unwrap(),
        99 << 10
    );
    let mut value = 0;
    // SAFETY: room for the value; the emulator checks the ordinal.
    unsafe {
        let code = sys::cuDeviceGetAttribute(&mut value, A::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 2);
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_DEVICE);
        sys::cuDeviceCanAccessPeer(&mut value, 0, 1)
            .result()
            .unwrap();
        assert_eq!(value, 1);
    }

    // A copy from one to the other.
    let (on_h100, on_l4) = (h100.new_stream().unwrap(), l4.new_stream().unwrap());
    let there = on_h100.clone_htod(&[1f32, 2.0, 3.0]).unwrap();
    on_h100.synchronize().unwrap();
    let mut here = on_l4.alloc_zeros::<f32>(3).unwrap();
    on_l4.memcpy_dtod(&there, &mut here).unwrap();
    assert_eq!(on_l4.clone_dtoh(&here).unwrap(), [1.0, 2.0, 3.0]);

    // A kernel may touch the other's memory once access was enabled, and not before.
    let run = || {
        let module = l4.load_module(Ptx::from_src(common::VECTOR_ADD)).unwrap();
        let add = module.load_function("vector_add").unwrap();
        let address = there.device_ptr(&on_h100).0;
        let out = on_l4.alloc_zeros::<f32>(3).unwrap();
        let mut launch = on_l4.launch_builder(&add);
        launch.arg(&address).arg(&address).arg(&out).arg(&3u32);
        // SAFETY: the addresses hold three elements.
        unsafe { launch.launch(LaunchConfig::for_num_elems(3)) }?;
        on_l4.clone_dtoh(&out)
    };
    l4.bind_to_thread().unwrap();
    // SAFETY: a live context.
    unsafe { sys::cuCtxEnablePeerAccess(h100.cu_ctx(), 0) }
        .result()
        .unwrap();
    assert_eq!(run().unwrap(), [2.0, 4.0, 6.0]);
    // SAFETY: a live context.
    unsafe {
        l4.bind_to_thread().unwrap();
        let again = sys::cuCtxEnablePeerAccess(h100.cu_ctx(), 0);
        assert_eq!(again, CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
        sys::cuCtxDisablePeerAccess(h100.cu_ctx()).result().unwrap();
    }
    assert_eq!(emulator.take_reports().unwrap(), "");
    assert_eq!(run().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(
        emulator
            .take_reports()
            .unwrap()
            .starts_with("error[bounds]")
    );
    // The other device's context is sound.
    assert_eq!(on_h100.clone_dtoh(&there).unwrap(), [1.0, 2.0, 3.0]);
    // SAFETY: nothing runs there.
    unsafe { sys::cuDevicePrimaryCtxReset_v2(1) }
        .result()
        .unwrap();
    drop(here);
}

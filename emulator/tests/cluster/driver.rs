//! Clusters through the driver: the launch attribute, what is refused, and occupancy.

use super::common;
use cudarc::driver::sys::{
    self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig, CUresult,
};
use std::ffi::c_void;

const RANKS: &str = "\
.version 8.3
.target sm_90
.address_size 64
.visible .entry ranks(.param .u64 p)
{
    .reg .b32 %r<9>; .reg .b64 %rd<9>;
    .shared .align 4 .b32 room;
    ld.param.u64 %rd1, [p];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %cluster_ctarank; mov.u32 %r6, %cluster_nctarank;
    st.shared.u32 [room], %r1;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    add.u32 %r3, %r2, 1; rem.u32 %r3, %r3, %r6;
    mov.u32 %r4, room; mapa.shared::cluster.u32 %r4, %r4, %r3; ld.shared::cluster.u32 %r5, [%r4];
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    mad.wide.u32 %rd2, %r1, 4, %rd1; st.global.u32 [%rd2], %r5;
    ret;
}
";

/// The attribute of clusters along x.
fn clusters_of(blocks: u32) -> CUlaunchAttribute {
    // SAFETY: all zeros are a value of the union, which is plain numbers.
    let mut value: CUlaunchAttributeValue = unsafe { std::mem::zeroed() };
    value.clusterDim.x = blocks;
    value.clusterDim.y = 1;
    value.clusterDim.z = 1;
    CUlaunchAttribute {
        id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value,
    }
}

/// Launches over 12 blocks in clusters of that many along x.
fn launch(function: sys::CUfunction, stream: sys::CUstream, cluster: u32, out: u64) -> CUresult {
    let mut attribute = clusters_of(cluster);
    let config = config(&mut attribute, stream);
    let mut parameter = out;
    let mut parameters = [&raw mut parameter as *mut c_void];
    // SAFETY: the configuration and the parameters are those of the kernel and alive.
    unsafe {
        sys::cuLaunchKernelEx(
            &config,
            function,
            parameters.as_mut_ptr(),
            std::ptr::null_mut(),
        )
    }
}

fn config(attribute: &mut CUlaunchAttribute, stream: sys::CUstream) -> CUlaunchConfig {
    CUlaunchConfig {
        gridDimX: 12,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream,
        attrs: attribute,
        numAttrs: 1,
    }
}

#[test]
fn the_cluster_dimension_of_a_launch() {
    let gpu = common::gpu();
    let stream = gpu.context.default_stream();
    let text = std::ffi::CString::new(RANKS).unwrap();
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the text and the name end in zeros; both handles are written.
    unsafe {
        let loaded = sys::cuModuleLoadData(&mut module, text.as_ptr().cast());
        assert_eq!(loaded, CUresult::CUDA_SUCCESS, "{}", gpu.reports());
        let found = sys::cuModuleGetFunction(&mut function, module, c"ranks".as_ptr());
        assert_eq!(found, CUresult::CUDA_SUCCESS);
    }
    let mut out = stream.alloc_zeros::<u32>(12).unwrap();
    for cluster in [1u32, 2, 4, 6] {
        let address = {
            use cudarc::driver::DevicePtrMut;
            out.device_ptr_mut(&stream).0
        };
        let launched = launch(function, stream.cu_stream(), cluster, address);
        assert_eq!(launched, CUresult::CUDA_SUCCESS, "{}", gpu.reports());
        let found = stream.clone_dtoh(&out).unwrap();
        let expected: Vec<u32> = (0..12)
            .map(|b| b / cluster * cluster + (b + 1) % cluster)
            .collect();
        assert_eq!(found, expected, "clusters of {cluster}");
    }
    for (cluster, error) in [
        (5, CUresult::CUDA_ERROR_INVALID_VALUE),
        (12, CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE),
    ] {
        assert_eq!(
            launch(function, stream.cu_stream(), cluster, 0),
            error,
            "{}",
            gpu.reports()
        );
    }
    let mut attribute = clusters_of(4);
    let config = config(&mut attribute, stream.cu_stream());
    let (mut largest, mut active) = (0, 0);
    // SAFETY: function and configuration are alive; both results are written.
    unsafe {
        let code = sys::cuOccupancyMaxPotentialClusterSize(&mut largest, function, &config);
        assert_eq!(code, CUresult::CUDA_SUCCESS);
        let code = sys::cuOccupancyMaxActiveClusters(&mut active, function, &config);
        assert_eq!(code, CUresult::CUDA_SUCCESS);
        sys::cuModuleUnload(module);
    }
    // The portable limit; and 32 blocks of one thread on each of 132 SMs, four to a cluster.
    assert_eq!((largest, active), (8, 32 * 132 / 4));
}

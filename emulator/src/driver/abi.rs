//! The C structures and constants of the driver API that more than one part needs.

use super::context::Context;
use super::event::Event;
use super::function::Function;
use super::graph::{Graph, GraphNode};
use super::handle::Handle;
use super::library::Kernel;
use super::stream::Stream;
use std::ffi::c_void;

/// `CUdevice`.
pub(crate) type Ordinal = i32;
/// `CUdeviceptr`.
pub(crate) type DevicePointer = u64;

/// `CUmemorytype`.
pub(crate) mod memory_type {
    pub(crate) const HOST: u32 = 1;
    pub(crate) const DEVICE: u32 = 2;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const UNIFIED: u32 = 4;
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memcpy2d {
    pub(crate) src_x_in_bytes: usize,
    pub(crate) src_y: usize,
    pub(crate) src_memory_type: u32,
    pub(crate) src_host: *const c_void,
    pub(crate) src_device: DevicePointer,
    pub(crate) src_array: *mut c_void,
    pub(crate) src_pitch: usize,
    pub(crate) dst_x_in_bytes: usize,
    pub(crate) dst_y: usize,
    pub(crate) dst_memory_type: u32,
    pub(crate) dst_host: *mut c_void,
    pub(crate) dst_device: DevicePointer,
    pub(crate) dst_array: *mut c_void,
    pub(crate) dst_pitch: usize,
    pub(crate) width_in_bytes: usize,
    pub(crate) height: usize,
}

/// `CUDA_MEMCPY3D`, and `CUDA_MEMCPY3D_PEER`, which has contexts where this has reserved pointers.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memcpy3d {
    pub(crate) src_x_in_bytes: usize,
    pub(crate) src_y: usize,
    pub(crate) src_z: usize,
    pub(crate) src_lod: usize,
    pub(crate) src_memory_type: u32,
    pub(crate) src_host: *const c_void,
    pub(crate) src_device: DevicePointer,
    pub(crate) src_array: *mut c_void,
    pub(crate) src_context: Handle<Context>,
    pub(crate) src_pitch: usize,
    pub(crate) src_height: usize,
    pub(crate) dst_x_in_bytes: usize,
    pub(crate) dst_y: usize,
    pub(crate) dst_z: usize,
    pub(crate) dst_lod: usize,
    pub(crate) dst_memory_type: u32,
    pub(crate) dst_host: *mut c_void,
    pub(crate) dst_device: DevicePointer,
    pub(crate) dst_array: *mut c_void,
    pub(crate) dst_context: Handle<Context>,
    pub(crate) dst_pitch: usize,
    pub(crate) dst_height: usize,
    pub(crate) width_in_bytes: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

impl Default for Memcpy3d {
    fn default() -> Memcpy3d {
        Memcpy3d {
            src_x_in_bytes: 0,
            src_y: 0,
            src_z: 0,
            src_lod: 0,
            src_memory_type: 0,
            src_host: std::ptr::null(),
            src_device: 0,
            src_array: std::ptr::null_mut(),
            src_context: Handle::NULL,
            src_pitch: 0,
            src_height: 0,
            dst_x_in_bytes: 0,
            dst_y: 0,
            dst_z: 0,
            dst_lod: 0,
            dst_memory_type: 0,
            dst_host: std::ptr::null_mut(),
            dst_device: 0,
            dst_array: std::ptr::null_mut(),
            dst_context: Handle::NULL,
            dst_pitch: 0,
            dst_height: 0,
            width_in_bytes: 0,
            height: 0,
            depth: 0,
        }
    }
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) kind: i32,
    pub(crate) id: i32,
}

/// `CUmemLocationType`.
pub(crate) mod location_type {
    pub(crate) const DEVICE: i32 = 1;
    pub(crate) const HOST: i32 = 2;
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolProperties {
    pub(crate) allocation_type: i32,
    pub(crate) handle_types: i32,
    pub(crate) location: Location,
    pub(crate) security_attributes: *mut c_void,
    pub(crate) max_size: usize,
    pub(crate) usage: u16,
    pub(crate) reserved: [u8; 54],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccessDescription {
    pub(crate) location: Location,
    pub(crate) flags: i32,
}

/// `CUlaunchAttribute`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchAttribute {
    pub(crate) id: u32,
    pub(crate) padding: u32,
    pub(crate) value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchArguments {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) stream: Handle<Stream>,
    pub(crate) attributes: *const LaunchAttribute,
    pub(crate) attribute_count: u32,
}

/// `CUhostFn`.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);
/// `CUstreamCallback`.
pub(crate) type StreamCallback =
    unsafe extern "C" fn(Handle<Stream>, super::error::CuResult, *mut c_void);

/// `CUDA_KERNEL_NODE_PARAMS` (v2; v1 ends before `kernel`).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct KernelNodeParams {
    pub(crate) function: Handle<Function>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) params: *const *const c_void,
    pub(crate) extra: *const *const c_void,
    pub(crate) kernel: Handle<Kernel>,
    pub(crate) context: Handle<Context>,
}

/// `CUDA_KERNEL_NODE_PARAMS` of CUDA 11.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct KernelNodeParamsV1 {
    pub(crate) function: Handle<Function>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) params: *const *const c_void,
    pub(crate) extra: *const *const c_void,
}

/// `CUDA_MEMSET_NODE_PARAMS` (v1; v2 appends a context).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemsetNodeParams {
    pub(crate) address: DevicePointer,
    pub(crate) pitch: usize,
    pub(crate) value: u32,
    pub(crate) element: u32,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostNodeParams {
    pub(crate) function: Option<HostFunction>,
    pub(crate) user_data: *mut c_void,
}

/// `CUDA_MEMCPY_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemcpyNodeParams {
    pub(crate) flags: i32,
    pub(crate) reserved: i32,
    pub(crate) context: Handle<Context>,
    pub(crate) copy: Memcpy3d,
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct AllocNodeParams {
    pub(crate) pool: PoolProperties,
    pub(crate) access: *const AccessDescription,
    pub(crate) access_count: usize,
    pub(crate) bytes: usize,
    pub(crate) address: DevicePointer,
}

/// The union inside `CUgraphNodeParams`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union NodeParamsUnion {
    pub(crate) room: [i64; 29],
    pub(crate) kernel: KernelNodeParams,
    pub(crate) memcpy: MemcpyNodeParams,
    pub(crate) memset: MemsetNodeParams,
    pub(crate) host: HostNodeParams,
    pub(crate) graph: Handle<Graph>,
    pub(crate) event: Handle<Event>,
    pub(crate) alloc: AllocNodeParams,
    pub(crate) address: DevicePointer,
}

/// `CUgraphNodeParams`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NodeParams {
    pub(crate) kind: u32,
    pub(crate) reserved: [i32; 3],
    pub(crate) of: NodeParamsUnion,
    pub(crate) reserved2: i64,
}

/// `CUgraphEdgeData`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EdgeData {
    pub(crate) from_port: u8,
    pub(crate) to_port: u8,
    pub(crate) kind: u8,
    pub(crate) reserved: [u8; 5],
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstantiateParams {
    pub(crate) flags: u64,
    pub(crate) upload_stream: Handle<Stream>,
    pub(crate) error_node: Handle<GraphNode>,
    pub(crate) result: u32,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpdateResult {
    pub(crate) result: u32,
    pub(crate) error_node: Handle<GraphNode>,
    pub(crate) error_from_node: Handle<GraphNode>,
}

/// `CUuuid`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

const _: () = {
    assert!(size_of::<Memcpy2d>() == 128);
    assert!(size_of::<Memcpy3d>() == 200);
    assert!(size_of::<LaunchAttribute>() == 72);
    assert!(size_of::<LaunchArguments>() == 56);
    assert!(size_of::<PoolProperties>() == 88);
    assert!(size_of::<KernelNodeParams>() == 72);
    assert!(size_of::<MemcpyNodeParams>() == 216);
    assert!(size_of::<NodeParams>() == 256);
    assert!(size_of::<InstantiateParams>() == 32);
};

//! Graphs: captured, built by hand, replayed, updated; and what a capture forbids.

mod common;

use common::{Gpu, VECTOR_ADD, gpu};
use cudarc::driver::sys::{
    self, CUgraphInstantiate_flags as Flags, CUresult, CUstreamCaptureMode as Mode,
};
use cudarc::driver::{CudaStream, DevicePtr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

/// A device whose streams are ordered by the test alone.
fn plain() -> Gpu {
    let gpu = gpu();
    // SAFETY: every test orders what it shares between streams.
    unsafe { gpu.context.disable_event_tracking() };
    gpu
}

#[test]
fn a_captured_kernel_runs_at_every_launch() {
    let gpu = plain();
    let stream = gpu.context.new_stream().unwrap();
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    let add = module.load_function("vector_add").unwrap();
    let ones = stream.clone_htod(&[1f32; 100]).unwrap();
    let mut sum = stream.alloc_zeros::<f32>(100).unwrap();
    let n = 100u32;
    stream
        .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let sum_in = sum.clone_view();
    let mut launch = stream.launch_builder(&add);
    launch.arg(&ones).arg(&sum_in).arg(&sum_in).arg(&n);
    // SAFETY: each thread reads and writes its own element of the sum.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.unwrap();
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    assert_eq!(
        stream.clone_dtoh(&sum).unwrap(),
        [0.0; 100],
        "captured, not run"
    );
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    graph.upload().unwrap();
    assert_eq!(stream.clone_dtoh(&sum).unwrap(), [3.0; 100]);
    stream.memset_zeros(&mut sum).unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&sum).unwrap(), [1.0; 100]);
    assert_eq!(gpu.reports(), "");
}

trait CloneView {
    fn clone_view(&self) -> u64;
}

impl CloneView for cudarc::driver::CudaSlice<f32> {
    /// The slice's address, to pass it twice.
    fn clone_view(&self) -> u64 {
        let stream = self.stream().clone();
        let (address, _record) = self.device_ptr(&stream);
        address
    }
}

#[test]
fn a_fork_joined_by_events_is_captured_whole() {
    for seed in [None, Some(1), Some(2)] {
        let gpu = plain();
        gpu.emulator.set_seed(seed).unwrap();
        let (main, side) = (
            gpu.context.new_stream().unwrap(),
            gpu.context.new_stream().unwrap(),
        );
        let mut buffer = main.alloc_zeros::<u8>(8).unwrap();
        main.synchronize().unwrap();
        main.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL)
            .unwrap();
        let fork = main.record_event(None).unwrap();
        side.wait(&fork).unwrap();
        let address = { buffer.device_ptr(&main).0 };
        // SAFETY: within the buffer; the halves do not overlap.
        unsafe {
            sys::cuMemsetD8Async(address, 1, 4, main.cu_stream())
                .result()
                .unwrap();
            sys::cuMemsetD8Async(address + 4, 2, 4, side.cu_stream())
                .result()
                .unwrap();
        }
        let join = side.record_event(None).unwrap();
        main.wait(&join).unwrap();
        // SAFETY: within the buffer, after both fills.
        unsafe { sys::cuMemcpyDtoDAsync_v2(address, address + 4, 2, main.cu_stream()) }
            .result()
            .unwrap();
        let graph = main.end_capture(Flags(0)).unwrap().unwrap();
        let mut count = 0;
        // SAFETY: a live graph, room for the count.
        unsafe { sys::cuGraphGetNodes(graph.cu_graph(), null_mut(), &mut count) }
            .result()
            .unwrap();
        assert_eq!(count, 3);
        main.memset_zeros(&mut buffer).unwrap();
        graph.launch().unwrap();
        assert_eq!(main.clone_dtoh(&buffer).unwrap(), [2, 2, 1, 1, 2, 2, 2, 2]);
    }
}

fn code<T>(result: Result<T, cudarc::driver::DriverError>) -> CUresult {
    result
        .map(|_| ())
        .map_or_else(|e| e.0, |()| CUresult::CUDA_SUCCESS)
}

fn begin(stream: &Arc<CudaStream>) {
    stream
        .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL)
        .unwrap();
}

#[test]
fn what_cannot_be_captured_spoils_the_capture() {
    let gpu = plain();
    let stream = gpu.context.new_stream().unwrap();
    begin(&stream);
    assert_eq!(
        code(stream.synchronize()),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    assert_eq!(
        code(stream.end_capture(Flags(0))),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );

    begin(&stream);
    let mut address = 0;
    // SAFETY: room for the address.
    let allocated = unsafe { sys::cuMemAlloc_v2(&mut address, 4) };
    assert_eq!(allocated, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(
        code(stream.end_capture(Flags(0))),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );

    // An event from outside the capture.
    let other = gpu.context.new_stream().unwrap();
    let outside = other.record_event(None).unwrap();
    begin(&stream);
    assert_eq!(
        code(stream.wait(&outside)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION
    );
    assert_eq!(
        code(stream.end_capture(Flags(0))),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );

    // A captured event asked about.
    let event = gpu.context.new_event(None).unwrap();
    begin(&stream);
    event.record(&stream).unwrap();
    assert_eq!(
        code(event.try_is_complete()),
        CUresult::CUDA_ERROR_CAPTURED_EVENT
    );
    assert_eq!(
        code(stream.end_capture(Flags(0))),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );

    // Work on a stream that joined is not joined back.
    begin(&stream);
    event.record(&stream).unwrap();
    other.wait(&event).unwrap();
    // SAFETY: an empty fill.
    unsafe { sys::cuMemsetD8Async(0, 0, 0, other.cu_stream()) }
        .result()
        .unwrap();
    assert_eq!(
        code(stream.end_capture(Flags(0))),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
    );

    // Captures end where they began, and only once.
    assert_eq!(
        code(stream.end_capture(Flags(0))),
        CUresult::CUDA_ERROR_ILLEGAL_STATE
    );
    // The legacy default stream cannot capture.
    let legacy = gpu
        .context
        .default_stream()
        .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
    assert_eq!(
        code(legacy),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    // After all this the stream works.
    let ones = stream.clone_htod(&[1u8; 4]).unwrap();
    assert_eq!(stream.clone_dtoh(&ones).unwrap(), [1; 4]);
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    let gpu = plain();
    let stream = gpu.context.new_stream().unwrap();
    begin(&stream);
    let flags = Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
        | Flags::CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
    assert_eq!(
        code(stream.end_capture(flags)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    begin(&stream);
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    graph.launch().unwrap();
    stream.synchronize().unwrap();
}

/// `memset` → `memcpy`, built node by node.
struct ByHand {
    graph: sys::CUgraph,
    fill: sys::CUgraphNode,
    fill_params: sys::CUDA_MEMSET_NODE_PARAMS,
}

fn by_hand(gpu: &Gpu, from: u64, to: u64) -> ByHand {
    let context = gpu.context.cu_ctx();
    let (mut graph, mut fill, mut copy) = (null_mut(), null_mut(), null_mut());
    let fill_params = sys::CUDA_MEMSET_NODE_PARAMS {
        dst: from,
        pitch: 0,
        value: 3,
        elementSize: 4,
        width: 4,
        height: 1,
    };
    let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
    let copy_params = sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: device,
        srcHost: null_mut(),
        srcDevice: from,
        srcArray: null_mut(),
        reserved0: null_mut(),
        srcPitch: 0,
        srcHeight: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: device,
        dstHost: null_mut(),
        dstDevice: to,
        dstArray: null_mut(),
        reserved1: null_mut(),
        dstPitch: 0,
        dstHeight: 0,
        WidthInBytes: 16,
        Height: 1,
        Depth: 1,
    };
    // SAFETY: room for every result; both buffers have 16 bytes.
    unsafe {
        sys::cuGraphCreate(&mut graph, 0).result().unwrap();
        sys::cuGraphAddMemsetNode(&mut fill, graph, null_mut(), 0, &fill_params, context)
            .result()
            .unwrap();
        sys::cuGraphAddMemcpyNode(&mut copy, graph, &fill, 1, &copy_params, context)
            .result()
            .unwrap();
        let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        sys::cuGraphNodeGetType(copy, &mut kind).result().unwrap();
        assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMCPY);
    }
    ByHand {
        graph,
        fill,
        fill_params,
    }
}

#[test]
fn a_graph_built_by_hand_is_launched_updated_and_cloned() {
    let gpu = plain();
    let stream = gpu.context.new_stream().unwrap();
    let (a, b) = (
        stream.alloc_zeros::<u32>(4).unwrap(),
        stream.alloc_zeros::<u32>(4).unwrap(),
    );
    stream.synchronize().unwrap();
    let (from, to) = (a.device_ptr(&stream).0, b.device_ptr(&stream).0);
    let made = by_hand(&gpu, from, to);
    let (mut exec, mut clone, mut second) = (null_mut(), null_mut(), null_mut());
    // SAFETY: room for every result; live handles.
    unsafe {
        sys::cuGraphInstantiateWithFlags(&mut exec, made.graph, 0)
            .result()
            .unwrap();
        sys::cuGraphLaunch(exec, stream.cu_stream())
            .result()
            .unwrap();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), [3; 4]);

        let mut changed = made.fill_params;
        changed.value = 8;
        sys::cuGraphExecMemsetNodeSetParams(exec, made.fill, &changed, gpu.context.cu_ctx())
            .result()
            .unwrap();
        sys::cuGraphLaunch(exec, stream.cu_stream())
            .result()
            .unwrap();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), [8; 4]);

        changed.value = 9;
        sys::cuGraphMemsetNodeSetParams(made.fill, &changed)
            .result()
            .unwrap();
        let mut result: sys::CUgraphExecUpdateResultInfo = std::mem::zeroed();
        sys::cuGraphExecUpdate_v2(exec, made.graph, &mut result)
            .result()
            .unwrap();
        sys::cuGraphLaunch(exec, stream.cu_stream())
            .result()
            .unwrap();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), [9; 4]);

        sys::cuGraphClone(&mut clone, made.graph).result().unwrap();
        sys::cuGraphInstantiateWithFlags(&mut second, clone, 0)
            .result()
            .unwrap();
        let mut extra = null_mut();
        sys::cuGraphAddEmptyNode(&mut extra, clone, null_mut(), 0)
            .result()
            .unwrap();
        let grown = sys::cuGraphExecUpdate_v2(exec, clone, &mut result);
        assert_eq!(grown, CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        assert_eq!(
            result.result,
            sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED
        );

        sys::cuGraphExecDestroy(exec).result().unwrap();
        assert_eq!(
            sys::cuGraphLaunch(exec, stream.cu_stream()),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        sys::cuGraphExecDestroy(second).result().unwrap();
        sys::cuGraphDestroy(clone).result().unwrap();
        sys::cuGraphDestroy(made.graph).result().unwrap();
    }
}

#[test]
fn kernel_nodes_give_their_parameters_back() {
    let gpu = plain();
    let stream = gpu.context.new_stream().unwrap();
    let module = gpu.context.load_module(Ptx::from_src(VECTOR_ADD)).unwrap();
    let add = module.load_function("vector_add").unwrap();
    let ones = stream.clone_htod(&[1f32; 10]).unwrap();
    let sum = stream.alloc_zeros::<f32>(10).unwrap();
    stream.synchronize().unwrap();
    let (mut a, mut out, mut n, mut fewer) = (ones.clone_view(), sum.clone_view(), 10u32, 4u32);
    let mut pointers: [*mut c_void; 4] = [
        (&raw mut a).cast(),
        (&raw mut a).cast(),
        (&raw mut out).cast(),
        (&raw mut n).cast(),
    ];
    // SAFETY: plain numbers and null pointers.
    let mut params: sys::CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
    params.func = add.cu_function();
    (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
    (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
    params.kernelParams = pointers.as_mut_ptr();
    let (mut graph, mut node, mut exec) = (null_mut(), null_mut(), null_mut());
    // SAFETY: room for every result; the parameters are the kernel's.
    unsafe {
        sys::cuGraphCreate(&mut graph, 0).result().unwrap();
        sys::cuGraphAddKernelNode_v2(&mut node, graph, null_mut(), 0, &params)
            .result()
            .unwrap();
        let mut back: sys::CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
        sys::cuGraphKernelNodeGetParams_v2(node, &mut back)
            .result()
            .unwrap();
        assert_eq!(back.blockDimX, 32);
        assert_eq!(
            (*back.kernelParams.add(3)).cast::<u32>().read_unaligned(),
            10
        );
        // With fewer elements, from what the driver gave back.
        pointers[3] = (&raw mut fewer).cast();
        back.kernelParams = pointers.as_mut_ptr();
        sys::cuGraphKernelNodeSetParams_v2(node, &back)
            .result()
            .unwrap();
        sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0)
            .result()
            .unwrap();
        sys::cuGraphLaunch(exec, stream.cu_stream())
            .result()
            .unwrap();
        let sums = stream.clone_dtoh(&sum).unwrap();
        assert_eq!(sums, [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        sys::cuGraphExecDestroy(exec).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();
    }
}

#[test]
fn memory_of_a_graph_lives_while_it_runs() {
    let gpu = plain();
    let stream = gpu.context.new_stream().unwrap();
    let out = stream.alloc_zeros::<u8>(16).unwrap();
    stream.synchronize().unwrap();
    begin(&stream);
    let mut scratch = 0;
    // SAFETY: room for the address; 16 bytes on both sides.
    unsafe {
        sys::cuMemAllocAsync(&mut scratch, 16, stream.cu_stream())
            .result()
            .unwrap();
        sys::cuMemsetD8Async(scratch, 4, 16, stream.cu_stream())
            .result()
            .unwrap();
        sys::cuMemcpyDtoDAsync_v2(out.device_ptr(&stream).0, scratch, 16, stream.cu_stream())
            .result()
            .unwrap();
        sys::cuMemFreeAsync(scratch, stream.cu_stream())
            .result()
            .unwrap();
    }
    let graph = stream.end_capture(Flags(0)).unwrap().unwrap();
    for _ in 0..2 {
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&out).unwrap(), [4; 16]);
    }
    // SAFETY: a mistake on purpose: the graph freed it.
    unsafe { sys::cuMemsetD8Async(scratch, 4, 16, stream.cu_stream()) }
        .result()
        .unwrap();
    assert_eq!(
        code(stream.synchronize()),
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
    );
    gpu.emulator.take_reports().unwrap();
    // SAFETY: nothing runs.
    unsafe { sys::cuDevicePrimaryCtxReset_v2(0) }
        .result()
        .unwrap();
}

//! Streams, events and host functions: what is ordered, what is not, and who waits.

mod common;

use common::gpu;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaStream, DriverError};
use std::ffi::c_void;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Keeps a stream from going on until released.
struct Gate(Sender<()>);

unsafe extern "C" fn wait(data: *mut c_void) {
    // SAFETY: `Gate::in_stream` made it for this one call.
    let receiver = unsafe { Box::from_raw(data.cast::<Receiver<()>>()) };
    let _ = receiver.recv_timeout(Duration::from_secs(60));
}

impl Gate {
    fn in_stream(stream: &CudaStream) -> Gate {
        let (sender, receiver) = channel::<()>();
        let data = Box::into_raw(Box::new(receiver));
        // SAFETY: the function takes the receiver over.
        unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(wait), data.cast()) }
            .result()
            .unwrap();
        Gate(sender)
    }

    fn open(self) {
        self.0.send(()).unwrap();
    }
}

/// What host functions noted, in order.
type Notes = Mutex<Vec<u32>>;

struct Note(Arc<Notes>, u32);

unsafe extern "C" fn write_note(data: *mut c_void) {
    // SAFETY: `note` made it for this one call.
    let note = unsafe { Box::from_raw(data.cast::<Note>()) };
    note.0.lock().unwrap().push(note.1);
}

fn note(stream: sys::CUstream, notes: &Arc<Notes>, number: u32) {
    let data = Box::into_raw(Box::new(Note(notes.clone(), number)));
    // SAFETY: the function takes the note over.
    unsafe { sys::cuLaunchHostFunc(stream, Some(write_note), data.cast()) }
        .result()
        .unwrap();
}

#[test]
fn a_stream_is_done_when_its_work_is() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let event = gpu.context.new_event(None).unwrap();
    assert_eq!(event.try_is_complete(), Ok(true));
    let gate = Gate::in_stream(&stream);
    event.record(&stream).unwrap();
    assert_eq!(event.try_is_complete(), Ok(false));
    // SAFETY: a live stream.
    let query = || unsafe { sys::cuStreamQuery(stream.cu_stream()) };
    assert_eq!(query(), CUresult::CUDA_ERROR_NOT_READY);
    gate.open();
    event.synchronize().unwrap();
    assert_eq!(event.try_is_complete(), Ok(true));
    stream.synchronize().unwrap();
    assert_eq!(query(), CUresult::CUDA_SUCCESS);
}

#[test]
fn polling_gets_there() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let buffer = stream.alloc_zeros::<u8>(1 << 16).unwrap();
    let event = stream.record_event(None).unwrap();
    let start = Instant::now();
    while !event.is_complete() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    drop(buffer);
}

#[test]
fn a_blocked_stream_does_not_block_another() {
    let gpu = gpu();
    let (slow, quick) = (
        gpu.context.new_stream().unwrap(),
        gpu.context.new_stream().unwrap(),
    );
    let gate = Gate::in_stream(&slow);
    // SAFETY: the streams share no memory here.
    unsafe { gpu.context.disable_event_tracking() };
    let ones = quick.clone_htod(&[1u32; 8]).unwrap();
    assert_eq!(quick.clone_dtoh(&ones).unwrap(), [1; 8]);
    gate.open();
    slow.synchronize().unwrap();
}

#[test]
fn a_wait_orders_streams() {
    for seed in [None, Some(1), Some(2), Some(3)] {
        let gpu = gpu();
        gpu.emulator.set_seed(seed).unwrap();
        let (a, b) = (
            gpu.context.new_stream().unwrap(),
            gpu.context.new_stream().unwrap(),
        );
        let notes = Arc::new(Notes::default());
        for number in 0..4 {
            note(a.cu_stream(), &notes, number);
        }
        let event = a.record_event(None).unwrap();
        b.wait(&event).unwrap();
        for number in 4..8 {
            note(b.cu_stream(), &notes, number);
        }
        b.synchronize().unwrap();
        assert_eq!(*notes.lock().unwrap(), (0..8).collect::<Vec<_>>());
    }
}

#[test]
fn only_what_was_asked_for_runs() {
    let gpu = gpu();
    let (a, b) = (
        gpu.context.new_stream().unwrap(),
        gpu.context.new_stream().unwrap(),
    );
    let notes = Arc::new(Notes::default());
    note(a.cu_stream(), &notes, 1);
    note(b.cu_stream(), &notes, 2);
    b.synchronize().unwrap();
    assert_eq!(notes.lock().unwrap().last(), Some(&2));
    a.synchronize().unwrap();
    assert_eq!(*notes.lock().unwrap(), [2, 1]);
}

#[test]
fn work_that_nobody_asks_for_runs_in_the_end() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let notes = Arc::new(Notes::default());
    note(stream.cu_stream(), &notes, 1);
    let start = Instant::now();
    while notes.lock().unwrap().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    let _gpu = gpu();
    let mut blocking: [sys::CUstream; 2] = [std::ptr::null_mut(); 2];
    for stream in &mut blocking {
        // SAFETY: room for one stream.
        unsafe { sys::cuStreamCreate(stream, 0) }.result().unwrap();
    }
    let legacy = std::ptr::null_mut();
    let notes = Arc::new(Notes::default());
    note(blocking[0], &notes, 0);
    note(legacy, &notes, 1);
    note(blocking[1], &notes, 2);
    // SAFETY: a live stream.
    unsafe { sys::cuStreamSynchronize(blocking[1]) }
        .result()
        .unwrap();
    assert_eq!(*notes.lock().unwrap(), [0, 1, 2]);
    for stream in blocking {
        // SAFETY: created above, destroyed once.
        unsafe { sys::cuStreamDestroy_v2(stream) }.result().unwrap();
    }
}

#[test]
fn a_non_blocking_stream_does_not_wait_for_the_legacy_stream() {
    let gpu = gpu();
    let free = gpu.context.new_stream().unwrap();
    let gate = Gate::in_stream(&gpu.context.default_stream());
    let notes = Arc::new(Notes::default());
    note(free.cu_stream(), &notes, 1);
    free.synchronize().unwrap();
    assert_eq!(*notes.lock().unwrap(), [1]);
    gate.open();
    gpu.context.synchronize().unwrap();
}

#[test]
fn pageable_memory_is_read_at_the_call_and_pinned_memory_when_its_turn_comes() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    // SAFETY: all work below is in one stream.
    unsafe { gpu.context.disable_event_tracking() };
    let mut device = stream.alloc_zeros::<u32>(4).unwrap();
    let mut pageable = [1u32; 4];
    // SAFETY: written below before it is read.
    let mut pinned = unsafe { gpu.context.alloc_pinned::<u32>(4) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&[5; 4]);

    let gate = Gate::in_stream(&stream);
    stream.memcpy_htod(&pageable, &mut device).unwrap();
    pageable.fill(2);
    gate.open();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), [1; 4]);

    let gate = Gate::in_stream(&stream);
    let pointer = pinned.as_mut_ptr().unwrap();
    use cudarc::driver::DevicePtrMut;
    let address = device.device_ptr_mut(&stream).0;
    // SAFETY: four words on both sides.
    unsafe { sys::cuMemcpyHtoDAsync_v2(address, pointer.cast(), 16, stream.cu_stream()) }
        .result()
        .unwrap();
    // SAFETY: a program error on purpose: the copy has not run yet.
    unsafe { pointer.write(6) };
    gate.open();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), [6, 5, 5, 5]);
}

#[test]
fn host_functions_may_not_call_the_driver() {
    unsafe extern "C" fn call(data: *mut c_void) {
        let mut count = 0;
        // SAFETY: room for the count; `data` is the test's slot.
        unsafe {
            data.cast::<CUresult>()
                .write(sys::cuDeviceGetCount(&mut count))
        };
    }
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let mut result = CUresult::CUDA_SUCCESS;
    // SAFETY: the slot lives until the stream is synchronised.
    unsafe { sys::cuLaunchHostFunc(stream.cu_stream(), Some(call), (&raw mut result).cast()) }
        .result()
        .unwrap();
    stream.synchronize().unwrap();
    assert_eq!(result, CUresult::CUDA_ERROR_NOT_PERMITTED);
}

#[test]
fn elapsed_time_needs_timed_events_that_were_recorded() {
    let gpu = gpu();
    let stream = gpu.context.new_stream().unwrap();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let (start, end) = (
        gpu.context.new_event(timed).unwrap(),
        gpu.context.new_event(timed).unwrap(),
    );
    let never = start.elapsed_ms(&end).unwrap_err();
    assert_eq!(never, DriverError(CUresult::CUDA_ERROR_INVALID_HANDLE));
    start.record(&stream).unwrap();
    let buffer = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    end.record(&stream).unwrap();
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    let untimed = stream.record_event(None).unwrap();
    assert!(start.elapsed_ms(&untimed).is_err());
    drop(buffer);
}

#[test]
fn destroyed_handles_are_named_not_followed() {
    let _gpu = gpu();
    let mut stream = std::ptr::null_mut();
    // SAFETY: room for one stream; then handles that are no longer, or never were, streams: the emulator
    // only looks them up.
    unsafe {
        sys::cuStreamCreate(&mut stream, 0).result().unwrap();
        sys::cuStreamDestroy_v2(stream).result().unwrap();
        assert_eq!(
            sys::cuStreamSynchronize(stream),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            sys::cuStreamDestroy_v2(stream),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            sys::cuStreamSynchronize(0x1234usize as sys::CUstream),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            sys::cuEventQuery(stream.cast()),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            sys::cuEventQuery(std::ptr::null_mut()),
            CUresult::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            sys::cuCtxSetCurrent(0x5678usize as sys::CUcontext),
            CUresult::CUDA_ERROR_INVALID_CONTEXT
        );
    }
}

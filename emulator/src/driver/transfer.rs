//! Copies and fills as calls: what they check, and what they wait for.
//!
//! The rules of waiting are CUDA's. A copy from pageable host memory takes its
//! bytes before it returns; one to pageable host memory returns when it is done;
//! pinned memory is read and written when the copy's turn comes. Synchronous calls
//! go through the default stream and wait for it, except copies within the device
//! and fills, which do not make the host wait.

use super::abi::{Memcpy2d, Memcpy3d};
use super::api::{In, driver_calls, per_thread_default};
use super::context::Context;
use super::copy::{Copy, Fill, HostPointer, Place};
use super::error::{Result, fail};
use super::handle::Handle;
use super::state::{Guard, State, lock};
use super::stream::{Stream, synchronize};
use super::work::Work;
use std::sync::Arc;

/// Whether a call returns before its work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timing {
    Synchronous,
    Asynchronous,
}
use Timing::{Asynchronous, Synchronous};

impl State {
    /// Fails where a copy's device sides are not within allocations.
    pub(crate) fn check_copy(&self, copy: &Copy) -> Result<()> {
        copy.device_ranges()
            .try_for_each(|(address, len)| self.check_range(address, len))
    }

    /// The host side of a copy: memory the driver knows (pinned, managed), or pageable.
    fn host_place(&self, pointer: HostPointer, bytes: usize) -> Result<Place> {
        if pointer.0.is_null() && bytes > 0 {
            fail!(
                INVALID_VALUE,
                "the host pointer is null, the byte count {bytes}"
            );
        }
        let address = pointer.0 as u64;
        // Partly pinned memory is treated as pageable.
        let pinned = self
            .record_at(address)
            .is_some_and(|r| address - r.base + bytes as u64 <= r.size);
        Ok(if pinned {
            Place::Device(address)
        } else {
            Place::Host(pointer)
        })
    }
}

/// Puts a copy into a stream and waits as the API promises.
fn copy(mut state: Guard, copy: Copy, stream: Handle<Stream>, timing: Timing) -> Result<()> {
    let stream_handle = stream;
    let stream = state.stream(stream)?;
    state.check_copy(&copy)?;
    if timing == Synchronous {
        state.forbid_while_capturing("a synchronous copy")?;
    }
    let capturing = state.capturing(stream)?.is_some();
    let within_device = !copy.reads_pageable()
        && !copy.writes_pageable()
        && copy.device_ranges().all(|(a, _)| !state.is_host(a));
    let waits = !capturing && (copy.writes_pageable() || (timing == Synchronous && !within_device));
    let mut copy = copy;
    if copy.reads_pageable() && !capturing {
        copy.stage();
    }
    state.put(stream, Work::Copy(Arc::new(copy)))?;
    drop(state);
    if waits {
        synchronize(stream_handle)
    } else {
        Ok(())
    }
}

impl State {
    /// Whether an address is in pinned or managed memory.
    fn is_host(&self, address: u64) -> bool {
        use super::memory::MemoryKind::{Managed, Pinned, Registered};
        self.record_at(address)
            .is_some_and(|r| matches!(r.kind, Pinned(_) | Registered(_) | Managed))
    }
}

fn to_device(
    to: u64,
    from: HostPointer,
    bytes: usize,
    stream: Handle<Stream>,
    timing: Timing,
) -> Result<()> {
    let state = lock()?;
    let from = state.host_place(from, bytes)?;
    copy(
        state,
        Copy::flat(Place::Device(to), from, bytes as u64),
        stream,
        timing,
    )
}

fn to_host(
    to: HostPointer,
    from: u64,
    bytes: usize,
    stream: Handle<Stream>,
    timing: Timing,
) -> Result<()> {
    let state = lock()?;
    let to = state.host_place(to, bytes)?;
    copy(
        state,
        Copy::flat(to, Place::Device(from), bytes as u64),
        stream,
        timing,
    )
}

fn within_device(
    to: u64,
    from: u64,
    bytes: usize,
    stream: Handle<Stream>,
    timing: Timing,
) -> Result<()> {
    copy(
        lock()?,
        Copy::flat(Place::Device(to), Place::Device(from), bytes as u64),
        stream,
        timing,
    )
}

fn unified(to: u64, from: u64, bytes: usize, stream: Handle<Stream>, timing: Timing) -> Result<()> {
    let state = lock()?;
    if (to == 0 || from == 0) && bytes > 0 {
        fail!(
            INVALID_VALUE,
            "copy of {bytes} bytes from {from:#x} to {to:#x}"
        );
    }
    let (to, from) = (Place::of(&state.space, to), Place::of(&state.space, from));
    copy(state, Copy::flat(to, from, bytes as u64), stream, timing)
}

fn peer(
    to: (u64, Handle<Context>),
    from: (u64, Handle<Context>),
    bytes: usize,
    stream: Handle<Stream>,
    timing: Timing,
) -> Result<()> {
    let state = lock()?;
    for (address, context) in [to, from] {
        let device = state.contexts.get(context)?.device;
        if let Some(record) = state.record_at(address)
            && record.device != device
        {
            fail!(
                INVALID_VALUE,
                "{} is not of the context's device {device}",
                record.describe()
            );
        }
    }
    drop(state);
    within_device(to.0, from.0, bytes, stream, timing)
}

fn shaped(of: &Memcpy3d, stream: Handle<Stream>, timing: Timing) -> Result<()> {
    let state = lock()?;
    let shaped = Copy::from_3d(&state.space, of)?;
    copy(state, shaped, stream, timing)
}

fn fill(fill: Fill, stream: Handle<Stream>, timing: Timing) -> Result<()> {
    let mut state = lock()?;
    let stream_handle = stream;
    let stream = state.stream(stream)?;
    state.check_range(fill.address, fill.extent()?)?;
    if timing == Synchronous {
        state.forbid_while_capturing("a synchronous fill")?;
    }
    let waits = timing == Synchronous && state.is_host(fill.address);
    state.put(stream, Work::Fill(fill))?;
    drop(state);
    if waits {
        synchronize(stream_handle)
    } else {
        Ok(())
    }
}

fn row(address: u64, value: u32, element: u32, count: usize) -> Fill {
    Fill {
        address,
        pitch: 0,
        value,
        element,
        width: count as u64,
        height: 1,
    }
}

fn rows(address: u64, pitch: usize, value: u32, element: u32, width: usize, height: usize) -> Fill {
    Fill {
        address,
        pitch: pitch as u64,
        value,
        element,
        width: width as u64,
        height: height as u64,
    }
}

/// The stream of a synchronous call: the calling thread's default stream in the `_ptds` flavour.
fn default_stream() -> Handle<Stream> {
    Handle::from_raw(if per_thread_default() { 2 } else { 1 })
}

driver_calls! { EXPORTS:
    fn cuMemcpyHtoD_v2(to: u64, from: HostPointer, bytes: usize) per_thread cuMemcpyHtoD_v2_ptds {
        to_device(to, from, bytes, default_stream(), Synchronous)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: HostPointer, bytes: usize, stream: Handle<Stream>) per_thread cuMemcpyHtoDAsync_v2_ptsz {
        to_device(to, from, bytes, stream, Asynchronous)
    }

    fn cuMemcpyDtoH_v2(to: HostPointer, from: u64, bytes: usize) per_thread cuMemcpyDtoH_v2_ptds {
        to_host(to, from, bytes, default_stream(), Synchronous)
    }

    fn cuMemcpyDtoHAsync_v2(to: HostPointer, from: u64, bytes: usize, stream: Handle<Stream>) per_thread cuMemcpyDtoHAsync_v2_ptsz {
        to_host(to, from, bytes, stream, Asynchronous)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) per_thread cuMemcpyDtoD_v2_ptds {
        within_device(to, from, bytes, default_stream(), Synchronous)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle<Stream>) per_thread cuMemcpyDtoDAsync_v2_ptsz {
        within_device(to, from, bytes, stream, Asynchronous)
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) per_thread cuMemcpy_ptds {
        unified(to, from, bytes, default_stream(), Synchronous)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle<Stream>) per_thread cuMemcpyAsync_ptsz {
        unified(to, from, bytes, stream, Asynchronous)
    }

    fn cuMemcpyPeer(to: u64, to_context: Handle<Context>, from: u64, from_context: Handle<Context>, bytes: usize) per_thread cuMemcpyPeer_ptds {
        peer((to, to_context), (from, from_context), bytes, default_stream(), Synchronous)
    }

    fn cuMemcpyPeerAsync(to: u64, to_context: Handle<Context>, from: u64, from_context: Handle<Context>, bytes: usize, stream: Handle<Stream>) per_thread cuMemcpyPeerAsync_ptsz {
        peer((to, to_context), (from, from_context), bytes, stream, Asynchronous)
    }

    fn cuMemcpy2D_v2(of: In<Memcpy2d>) per_thread cuMemcpy2D_v2_ptds {
        shaped(&Memcpy3d::from(&of.get("pCopy")?), default_stream(), Synchronous)
    }

    fn cuMemcpy2DUnaligned_v2(of: In<Memcpy2d>) per_thread cuMemcpy2DUnaligned_v2_ptds {
        shaped(&Memcpy3d::from(&of.get("pCopy")?), default_stream(), Synchronous)
    }

    fn cuMemcpy2DAsync_v2(of: In<Memcpy2d>, stream: Handle<Stream>) per_thread cuMemcpy2DAsync_v2_ptsz {
        shaped(&Memcpy3d::from(&of.get("pCopy")?), stream, Asynchronous)
    }

    fn cuMemcpy3D_v2(of: In<Memcpy3d>) per_thread cuMemcpy3D_v2_ptds {
        shaped(&of.get("pCopy")?, default_stream(), Synchronous)
    }

    fn cuMemcpy3DAsync_v2(of: In<Memcpy3d>, stream: Handle<Stream>) per_thread cuMemcpy3DAsync_v2_ptsz {
        shaped(&of.get("pCopy")?, stream, Asynchronous)
    }

    fn cuMemcpy3DPeer(of: In<Memcpy3d>) per_thread cuMemcpy3DPeer_ptds {
        shaped(&of.get("pCopy")?, default_stream(), Synchronous)
    }

    fn cuMemcpy3DPeerAsync(of: In<Memcpy3d>, stream: Handle<Stream>) per_thread cuMemcpy3DPeerAsync_ptsz {
        shaped(&of.get("pCopy")?, stream, Asynchronous)
    }

    fn cuMemsetD8_v2(address: u64, value: u8, count: usize) per_thread cuMemsetD8_v2_ptds {
        fill(row(address, u32::from(value), 1, count), default_stream(), Synchronous)
    }

    fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Handle<Stream>) per_thread cuMemsetD8Async_ptsz {
        fill(row(address, u32::from(value), 1, count), stream, Asynchronous)
    }

    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize) per_thread cuMemsetD2D8_v2_ptds {
        fill(rows(address, pitch, u32::from(value), 1, width, height), default_stream(), Synchronous)
    }

    fn cuMemsetD2D8Async(address: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle<Stream>) per_thread cuMemsetD2D8Async_ptsz {
        fill(rows(address, pitch, u32::from(value), 1, width, height), stream, Asynchronous)
    }

    fn cuMemsetD16_v2(address: u64, value: u16, count: usize) per_thread cuMemsetD16_v2_ptds {
        fill(row(address, u32::from(value), 2, count), default_stream(), Synchronous)
    }

    fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Handle<Stream>) per_thread cuMemsetD16Async_ptsz {
        fill(row(address, u32::from(value), 2, count), stream, Asynchronous)
    }

    fn cuMemsetD2D16_v2(address: u64, pitch: usize, value: u16, width: usize, height: usize) per_thread cuMemsetD2D16_v2_ptds {
        fill(rows(address, pitch, u32::from(value), 2, width, height), default_stream(), Synchronous)
    }

    fn cuMemsetD2D16Async(address: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle<Stream>) per_thread cuMemsetD2D16Async_ptsz {
        fill(rows(address, pitch, u32::from(value), 2, width, height), stream, Asynchronous)
    }

    fn cuMemsetD32_v2(address: u64, value: u32, count: usize) per_thread cuMemsetD32_v2_ptds {
        fill(row(address, value, 4, count), default_stream(), Synchronous)
    }

    fn cuMemsetD32Async(address: u64, value: u32, count: usize, stream: Handle<Stream>) per_thread cuMemsetD32Async_ptsz {
        fill(row(address, value, 4, count), stream, Asynchronous)
    }

    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: u32, width: usize, height: usize) per_thread cuMemsetD2D32_v2_ptds {
        fill(rows(address, pitch, value, 4, width, height), default_stream(), Synchronous)
    }

    fn cuMemsetD2D32Async(address: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle<Stream>) per_thread cuMemsetD2D32Async_ptsz {
        fill(rows(address, pitch, value, 4, width, height), stream, Asynchronous)
    }

    fn cuMemcpyBatchAsync_v2(
        to: In<u64>, from: In<u64>, sizes: In<usize>, count: usize,
        _attributes: *const u8, _indices: In<usize>, _attribute_count: usize, stream: Handle<Stream>,
    ) per_thread cuMemcpyBatchAsync_v2_ptsz {
        if stream.is_null() {
            fail!(INVALID_VALUE, "batched copies need a stream that is not the legacy default stream");
        }
        let (to, from, sizes) = (to.all(count, "dsts")?, from.all(count, "srcs")?, sizes.all(count, "sizes")?);
        for ((to, from), bytes) in to.into_iter().zip(from).zip(sizes) {
            unified(to, from, bytes, stream, Asynchronous)?;
        }
        Ok(())
    }
}

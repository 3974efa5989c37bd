//! Allocations: device memory, pinned and managed host memory, and what the driver knows of each.

use super::api::{Out, driver_calls};
use super::context::Context;
use super::error::{CuResult, Result, error, fail};
use super::handle::Handle;
use super::pool::Pool;
use super::state::{State, lock};
use crate::memory::{Allocation, MemoryError, Owner};
use std::sync::Arc;

/// What sort of memory an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// `cuMemAlloc`.
    Device,
    /// `cuMemAllocAsync` and `cuMemAllocFromPoolAsync`.
    Pooled(Handle<Pool>),
    /// Allocation nodes of graphs.
    Graph,
    /// `cuMemHostAlloc`, with its flags.
    Pinned(u32),
    /// `cuMemHostRegister`, with its flags.
    Registered(u32),
    /// `cuMemAllocManaged`.
    Managed,
}

/// An allocation and what the driver keeps of it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) allocation: Arc<Allocation>,
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) kind: MemoryKind,
    pub(crate) context: Handle<Context>,
    pub(crate) device: u32,
    /// Its allocation in stream order has not been reached: nothing may touch it yet.
    pub(crate) hidden: bool,
    /// A free of it is in a stream.
    pub(crate) freeing: bool,
    /// `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`.
    pub(crate) sync_operations: bool,
    /// Managed memory's advice, and where it was last prefetched to.
    pub(crate) advice: Advice,
}

/// What `cuMemAdvise` and `cuMemPrefetchAsync` left on managed memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Advice {
    pub(crate) read_mostly: bool,
    pub(crate) preferred: Option<super::abi::Location>,
    pub(crate) accessed_by: Vec<i32>,
    pub(crate) prefetched: Option<super::abi::Location>,
}

impl Record {
    /// For reports: size, sort, address and number.
    pub(crate) fn describe(&self) -> String {
        let sort = match self.kind {
            MemoryKind::Device => "device memory",
            MemoryKind::Pooled(_) => "stream-ordered device memory",
            MemoryKind::Graph => "device memory of a graph",
            MemoryKind::Pinned(_) => "pinned host memory",
            MemoryKind::Registered(_) => "registered host memory",
            MemoryKind::Managed => "managed memory",
        };
        format!(
            "{} bytes of {sort} at {:#x} (allocation {})",
            self.size, self.base, self.allocation.serial
        )
    }

    /// Whether the caller must free it: graphs free their own, and registered memory was never allocated.
    pub(crate) fn is_the_callers(&self) -> bool {
        !matches!(self.kind, MemoryKind::Graph | MemoryKind::Registered(_))
    }

    /// Whether its bytes count against the device.
    fn on_device(&self) -> bool {
        matches!(
            self.kind,
            MemoryKind::Device | MemoryKind::Pooled(_) | MemoryKind::Graph
        )
    }
}

/// Flags of `cuMemHostAlloc`: portable, device map, write combined.
const HOST_ALLOC_FLAGS: u32 = 7;
/// Flags of `cuMemHostRegister`: portable, device map, I/O memory, read only.
const HOST_REGISTER_FLAGS: u32 = 15;
/// Distance of rows that `cuMemAllocPitch` chooses a multiple of, in bytes.
const PITCH: usize = 512;

/// A host access's error as CUDA returns it at the call.
pub(crate) fn bad_address(e: MemoryError) -> super::error::Error {
    match e {
        MemoryError::OutOfMemory(text) => error(CuResult::OUT_OF_MEMORY, text),
        other => error(CuResult::INVALID_VALUE, other.to_string()),
    }
}

impl State {
    /// Device memory for the context.
    pub(crate) fn allocate(
        &mut self,
        context: Handle<Context>,
        device: usize,
        bytes: usize,
        kind: MemoryKind,
        hidden: bool,
    ) -> Result<u64> {
        let size = bytes as u64;
        let free = self.devices[device].free_bytes();
        if size > free {
            fail!(
                OUT_OF_MEMORY,
                "{size} bytes asked for, {free} bytes of device {device} are free"
            );
        }
        let allocation = self
            .space
            .allocate(size, Owner::Device(device as u32), None)
            .map_err(bad_address)?;
        self.devices[device].used += size;
        Ok(self.remember(allocation, kind, context, device as u32, hidden))
    }

    fn remember(
        &mut self,
        allocation: Arc<Allocation>,
        kind: MemoryKind,
        context: Handle<Context>,
        device: u32,
        hidden: bool,
    ) -> u64 {
        let (base, size) = (allocation.address, allocation.size);
        let record = Record {
            allocation,
            base,
            size,
            kind,
            context,
            device,
            hidden,
            freeing: false,
            sync_operations: false,
            advice: Advice::default(),
        };
        self.memory.insert(base, record);
        base
    }

    /// The allocation that holds an address.
    pub(crate) fn record_at(&self, address: u64) -> Option<&Record> {
        let (_, record) = self.memory.range(..=address).next_back()?;
        (address - record.base < record.size.max(1)).then_some(record)
    }

    /// The base of the managed allocation that holds a range.
    pub(crate) fn managed(&self, address: u64, len: u64) -> Result<u64> {
        match self.record_at(address) {
            Some(r) if r.kind == MemoryKind::Managed && address - r.base + len <= r.size => {
                Ok(r.base)
            }
            _ => fail!(
                INVALID_VALUE,
                "{len} bytes at {address:#x} are not within managed memory"
            ),
        }
    }

    /// Fails where a range is not within one allocation.
    pub(crate) fn check_range(&self, address: u64, len: u64) -> Result<()> {
        if len > 0 {
            self.space.resolve(address, len).map_err(bad_address)?;
        }
        Ok(())
    }

    /// Why an address cannot be touched yet: its stream-ordered allocation was not reached.
    pub(crate) fn hidden_at(&self, address: u64) -> Option<String> {
        self.record_at(address).filter(|r| r.hidden).map(|r| {
            format!(
                "{} is used at {address:#x} before its allocation in stream order",
                r.describe()
            )
        })
    }

    /// Frees an allocation at once.
    pub(crate) fn free_now(&mut self, base: u64) {
        let Some(record) = self.memory.remove(&base) else {
            return;
        };
        if record.on_device() {
            let device = &mut self.devices[record.device as usize];
            device.used = device.used.saturating_sub(record.size);
            if record.kind == MemoryKind::Graph {
                device.graph_memory.0 = device.graph_memory.0.saturating_sub(record.size);
            }
        }
        if let MemoryKind::Pooled(pool) = record.kind {
            self.left_pool(pool, record.size);
        }
        // It was in the table, so the address space holds it.
        let _ = self.space.free(base);
    }

    /// The base of the allocation at `address`, which must be its first byte and not be freed already.
    pub(crate) fn freeable(
        &self,
        address: u64,
        which: impl Fn(MemoryKind) -> bool,
    ) -> Result<&Record> {
        match self.memory.get(&address) {
            Some(record) if record.freeing => {
                fail!(INVALID_VALUE, "{} is freed already", record.describe())
            }
            Some(record) if which(record.kind) => Ok(record),
            Some(record) => fail!(
                INVALID_VALUE,
                "this call does not free {}",
                record.describe()
            ),
            None => match self.record_at(address) {
                Some(inside) => fail!(
                    INVALID_VALUE,
                    "{address:#x} is {} bytes into an allocation: {}",
                    address - inside.base,
                    inside.describe()
                ),
                None => match self.space.freed(address) {
                    Some((base, size)) => {
                        fail!(
                            INVALID_VALUE,
                            "freed twice: {size} bytes at {base:#x} were freed before"
                        )
                    }
                    None => fail!(INVALID_VALUE, "no allocation begins at {address:#x}"),
                },
            },
        }
    }
}

fn allocate(out: Out<u64>, bytes: usize) -> Result<()> {
    out.check("dptr")?;
    if bytes == 0 {
        fail!(INVALID_VALUE, "bytesize is 0");
    }
    let mut state = lock()?;
    let context = state.current()?;
    state.forbid_while_capturing("cuMemAlloc")?;
    let device = state.current_device()?;
    out.put(state.allocate(context, device, bytes, MemoryKind::Device, false)?)
}

fn allocate_host(out: Out<u64>, bytes: usize, flags: u32) -> Result<()> {
    out.check("pp")?;
    if bytes == 0 || flags & !HOST_ALLOC_FLAGS != 0 {
        fail!(INVALID_VALUE, "bytesize {bytes}, flags {flags:#x}");
    }
    let mut state = lock()?;
    let context = state.current()?;
    state.forbid_while_capturing("cuMemHostAlloc")?;
    let device = state.current_device()? as u32;
    let allocation = state
        .space
        .allocate_host(None, bytes as u64, Owner::Host)
        .map_err(bad_address)?;
    out.put(state.remember(
        allocation,
        MemoryKind::Pinned(flags),
        context,
        device,
        false,
    ))
}

/// Waits for the context's work, as the driver does before it frees what that work may use, then frees.
fn free_when_idle(address: u64, which: impl Fn(MemoryKind) -> bool + Copy) -> Result<()> {
    let mut state = lock()?;
    let current = state.current()?;
    state.forbid_while_capturing("freeing memory")?;
    let owner = state.freeable(address, which)?.context;
    state = state.drain(owner);
    if owner != current {
        state = state.drain(current);
    }
    state.freeable(address, which)?;
    state.free_now(address);
    Ok(())
}

driver_calls! { EXPORTS:
    fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) {
        allocate(out, bytes)
    }

    fn cuMemAllocPitch_v2(out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        pitch.check("pPitch")?;
        if !matches!(element, 4 | 8 | 16) {
            fail!(INVALID_VALUE, "ElementSizeBytes {element}: expected 4, 8 or 16");
        }
        let row = width.checked_next_multiple_of(PITCH);
        let Some((row, bytes)) = row.and_then(|row| Some((row, row.checked_mul(height)?))) else {
            fail!(INVALID_VALUE, "{height} rows of {width} bytes are too many");
        };
        allocate(out, bytes)?;
        pitch.put(row)
    }

    fn cuMemFree_v2(address: u64) {
        if address == 0 {
            return lock()?.current().map(|_| ());
        }
        free_when_idle(address, |kind| {
            matches!(kind, MemoryKind::Device | MemoryKind::Pooled(_) | MemoryKind::Managed)
        })
    }

    fn cuMemAllocHost_v2(out: Out<u64>, bytes: usize) {
        allocate_host(out, bytes, 0)
    }

    fn cuMemHostAlloc(out: Out<u64>, bytes: usize, flags: u32) {
        allocate_host(out, bytes, flags)
    }

    fn cuMemFreeHost(address: u64) {
        free_when_idle(address, |kind| matches!(kind, MemoryKind::Pinned(_)))
    }

    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32) {
        if address == 0 || bytes == 0 || flags & !HOST_REGISTER_FLAGS != 0 {
            fail!(INVALID_VALUE, "pointer {address:#x}, bytesize {bytes}, flags {flags:#x}");
        }
        let mut state = lock()?;
        let context = state.current()?;
        let device = state.current_device()? as u32;
        let overlaps = state.memory.values().any(|r| r.base < address.saturating_add(bytes as u64) && address < r.base + r.size);
        if overlaps {
            return Err(CuResult::HOST_MEMORY_ALREADY_REGISTERED.into());
        }
        let allocation = state.space.allocate_host(Some(address as *mut u8), bytes as u64, Owner::Host).map_err(bad_address)?;
        state.remember(allocation, MemoryKind::Registered(flags), context, device, false);
        Ok(())
    }

    fn cuMemHostUnregister(address: u64) {
        if !matches!(lock()?.memory.get(&address), Some(Record { kind: MemoryKind::Registered(_), .. })) {
            return Err(CuResult::HOST_MEMORY_NOT_REGISTERED.into());
        }
        free_when_idle(address, |kind| matches!(kind, MemoryKind::Registered(_)))
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, address: u64, flags: u32) {
        if flags != 0 {
            fail!(INVALID_VALUE, "flags {flags}: expected 0");
        }
        let state = lock()?;
        state.current()?;
        match state.record_at(address).map(|r| r.kind) {
            Some(MemoryKind::Pinned(_) | MemoryKind::Registered(_)) => out.put(address),
            _ => fail!(INVALID_VALUE, "{address:#x} is not in pinned memory"),
        }
    }

    fn cuMemHostGetFlags(out: Out<u32>, address: u64) {
        let state = lock()?;
        state.current()?;
        match state.record_at(address).map(|r| r.kind) {
            // Mapped, as all pinned memory is with unified addressing.
            Some(MemoryKind::Pinned(flags) | MemoryKind::Registered(flags)) => out.put(flags | 2),
            _ => fail!(INVALID_VALUE, "{address:#x} is not in pinned memory"),
        }
    }

    fn cuMemAllocManaged(out: Out<u64>, bytes: usize, flags: u32) {
        out.check("dptr")?;
        if bytes == 0 || !matches!(flags, 1 | 2) {
            fail!(INVALID_VALUE, "bytesize {bytes}, flags {flags:#x}: expected 1 (global) or 2 (host)");
        }
        let mut state = lock()?;
        let context = state.current()?;
        state.forbid_while_capturing("cuMemAllocManaged")?;
        let device = state.current_device()? as u32;
        let allocation = state.space.allocate_host(None, bytes as u64, Owner::Managed).map_err(bad_address)?;
        out.put(state.remember(allocation, MemoryKind::Managed, context, device, false))
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let state = lock()?;
        let device = &state.devices[state.current_device()?];
        free.put(device.free_bytes() as usize)?;
        total.put(device.profile.memory_bytes as usize)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) {
        let state = lock()?;
        state.current()?;
        let (allocation, _) = state.space.resolve(address, 1).map_err(|e| error(CuResult::NOT_FOUND, e.to_string()))?;
        base.put_if(allocation.address);
        size.put_if(allocation.size as usize);
        Ok(())
    }
}

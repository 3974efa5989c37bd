//! The process's device address space: who owns which range, and host-side access to it.

use super::DEVICE_BASE;
use super::allocation::{Allocation, Owner};
use std::sync::{Arc, RwLock};
use thiserror::Error;

/// An access by the host (a copy, a set, a free) that cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// No allocation there, and none ever was.
    #[error("no allocation holds address {address:#x} ({len} bytes)")]
    Unmapped {
        /// First address asked for.
        address: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// The allocation there was freed.
    #[error("allocation of {size} bytes at {base:#x} holding {address:#x} was freed")]
    Freed {
        /// First address asked for.
        address: u64,
        /// Base of the freed allocation.
        base: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// The range begins inside an allocation and ends outside it.
    #[error(
        "{len} bytes at {address:#x} end {over} bytes past the allocation of {size} bytes at {base:#x}"
    )]
    PastEnd {
        /// First address asked for.
        address: u64,
        /// Bytes asked for.
        len: u64,
        /// Base of the allocation.
        base: u64,
        /// Its size in bytes.
        size: u64,
        /// Bytes past its end.
        over: u64,
    },
    /// A free of an address that is not the first of an allocation.
    #[error("{address:#x} is {offset} bytes into an allocation, not its first address")]
    NotBase {
        /// The address.
        address: u64,
        /// How far inside.
        offset: u64,
    },
    /// The system or the profile has no more memory.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
}

/// Live allocations in address order; freed ones are found too, to name them.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// Live allocations, ascending by address.
    pub live: Arc<Vec<Arc<Allocation>>>,
}

impl Snapshot {
    /// The live allocation that holds `address`.
    #[inline]
    pub fn find(&self, address: u64) -> Option<&Arc<Allocation>> {
        let index = self.live.partition_point(|a| a.address <= address);
        let allocation = self.live.get(index.checked_sub(1)?)?;
        (address < allocation.end()).then_some(allocation)
    }

    /// These and one more.
    pub fn with(&self, allocation: &Arc<Allocation>) -> Snapshot {
        let mut live = self.live.as_ref().clone();
        let at = live.partition_point(|a| a.address < allocation.address);
        live.insert(at, allocation.clone());
        Snapshot {
            live: Arc::new(live),
        }
    }

    /// The live allocation nearest to `address`, for reports.
    pub fn nearest(&self, address: u64) -> Option<&Arc<Allocation>> {
        self.live.iter().min_by_key(|a| {
            if address < a.address {
                a.address - address
            } else {
                address.saturating_sub(a.end().saturating_sub(1))
            }
        })
    }
}

#[derive(Debug, Default)]
struct State {
    live: Snapshot,
    /// Address, size of what was freed, ascending by address (addresses are never reused).
    freed: Vec<(u64, u64)>,
    next: u64,
    serial: u64,
}

/// All device-addressable memory of the process.
#[derive(Debug, Default)]
pub struct AddressSpace {
    state: RwLock<State>,
}

/// Alignment of device allocations, in bytes.
const ALIGNMENT: u64 = 512;
/// Unowned bytes between device allocations, so that an overrun meets nothing.
const GAP: u64 = 1 << 20;

impl AddressSpace {
    /// An empty address space.
    pub fn new() -> AddressSpace {
        AddressSpace::default()
    }

    /// Device memory of `size` bytes, uninitialised, for `owner`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`] where the system cannot map it.
    pub fn allocate(
        &self,
        size: u64,
        owner: Owner,
        name: Option<String>,
    ) -> Result<Arc<Allocation>, MemoryError> {
        let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
        let base = state.next.max(DEVICE_BASE);
        let next = base
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(ALIGNMENT))
            .and_then(|end| end.checked_add(GAP))
            .ok_or_else(|| {
                MemoryError::OutOfMemory(format!("{size} bytes pass the end of the address space"))
            })?;
        let serial = state.serial + 1;
        let allocation = Allocation::device(base, size, owner, serial, name)
            .map_err(|e| MemoryError::OutOfMemory(format!("{size} bytes: {e}")))?;
        state.next = next;
        Ok(state.insert(allocation))
    }

    /// Host memory reachable from devices under its host address: fresh, or the caller's own at `pointer`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`] where the system cannot map it.
    pub fn allocate_host(
        &self,
        pointer: Option<*mut u8>,
        size: u64,
        owner: Owner,
    ) -> Result<Arc<Allocation>, MemoryError> {
        let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
        let serial = state.serial + 1;
        let allocation = Allocation::host(pointer, size, owner, serial)
            .map_err(|e| MemoryError::OutOfMemory(format!("{size} bytes of host memory: {e}")))?;
        Ok(state.insert(allocation))
    }

    /// Frees the allocation that begins at `address` and returns it.
    ///
    /// # Errors
    /// Where `address` is not the first of a live allocation.
    pub fn free(&self, address: u64) -> Result<Arc<Allocation>, MemoryError> {
        let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
        let found = state.live.find(address).cloned();
        let Some(allocation) = found else {
            // A zero-sized range asks only who was there.
            return Err(state.missing(address, 0));
        };
        if allocation.address != address {
            return Err(MemoryError::NotBase {
                address,
                offset: address - allocation.address,
            });
        }
        allocation.mark_freed();
        let live = Arc::make_mut(&mut state.live.live);
        live.retain(|a| a.address != address);
        let at = state.freed.partition_point(|f| f.0 < address);
        if matches!(allocation.owner, Owner::Device(_)) {
            state.freed.insert(at, (address, allocation.size));
        }
        Ok(allocation)
    }

    /// The live allocations as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.state
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .live
            .clone()
    }

    /// The freed allocation (base, size) that held `address`, if one did.
    pub fn freed(&self, address: u64) -> Option<(u64, u64)> {
        self.state
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .freed_at(address)
    }

    /// The allocation that holds all of `len` bytes at `address`, and the offset in it.
    ///
    /// # Errors
    /// Where the range is not inside one live allocation.
    pub fn resolve(&self, address: u64, len: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let state = self.state.read().unwrap_or_else(|e| e.into_inner());
        let Some(allocation) = state.live.find(address) else {
            return Err(state.missing(address, len));
        };
        let offset = address - allocation.address;
        match offset.checked_add(len) {
            Some(end) if end <= allocation.size => Ok((allocation.clone(), offset)),
            end => Err(MemoryError::PastEnd {
                address,
                len,
                base: allocation.address,
                size: allocation.size,
                over: end.unwrap_or(u64::MAX) - allocation.size,
            }),
        }
    }

    /// Copies device memory to `out`.
    ///
    /// # Errors
    /// As [`AddressSpace::resolve`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        if out.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.resolve(address, out.len() as u64)?;
        // SAFETY: the range lies inside the allocation; `out` is the caller's own.
        unsafe {
            std::ptr::copy_nonoverlapping(
                allocation.host_ptr().add(offset as usize),
                out.as_mut_ptr(),
                out.len(),
            );
        }
        Ok(())
    }

    /// Copies `bytes` to device memory and marks them initialised.
    ///
    /// # Errors
    /// As [`AddressSpace::resolve`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (allocation, offset) = self.resolve(address, bytes.len() as u64)?;
        // SAFETY: the range lies inside the allocation; `bytes` may overlap it only for host memory,
        // for which `copy` is right.
        unsafe {
            std::ptr::copy(
                bytes.as_ptr(),
                allocation.host_ptr().add(offset as usize),
                bytes.len(),
            );
        }
        allocation.mark_init(offset, bytes.len() as u64);
        Ok(())
    }

    /// Copies between device ranges, initialised or not, carrying over which bytes are.
    ///
    /// # Errors
    /// As [`AddressSpace::resolve`], for either range.
    pub fn copy(&self, destination: u64, source: u64, len: u64) -> Result<(), MemoryError> {
        if len == 0 {
            return Ok(());
        }
        let (from, from_offset) = self.resolve(source, len)?;
        let (to, to_offset) = self.resolve(destination, len)?;
        // SAFETY: both ranges lie inside their allocations; `copy` allows overlap.
        unsafe {
            std::ptr::copy(
                from.host_ptr().add(from_offset as usize),
                to.host_ptr().add(to_offset as usize),
                len as usize,
            );
        }
        // Only what was initialised becomes so: copying rubbish does not make it sound.
        let mut at = 0;
        while at < len {
            let bad = from
                .first_uninit(from_offset + at, len - at)
                .map_or(len, |o| o - from_offset);
            to.mark_init(to_offset + at, bad - at);
            at = bad + 1;
        }
        Ok(())
    }

    /// Fills `count` elements of `pattern` (1, 2 or 4 bytes).
    ///
    /// # Errors
    /// As [`AddressSpace::resolve`].
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let len = pattern.len() as u64 * count;
        if len == 0 {
            return Ok(());
        }
        let (allocation, offset) = self.resolve(address, len)?;
        // SAFETY: the range lies inside the allocation.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(allocation.host_ptr().add(offset as usize), len as usize)
        };
        for chunk in bytes.chunks_exact_mut(pattern.len()) {
            chunk.copy_from_slice(pattern);
        }
        allocation.mark_init(offset, len);
        Ok(())
    }
}

impl State {
    fn insert(&mut self, allocation: Allocation) -> Arc<Allocation> {
        self.serial += 1;
        let allocation = Arc::new(allocation);
        let live = Arc::make_mut(&mut self.live.live);
        let at = live.partition_point(|a| a.address < allocation.address);
        live.insert(at, allocation.clone());
        allocation
    }

    fn freed_at(&self, address: u64) -> Option<(u64, u64)> {
        let index = self.freed.partition_point(|f| f.0 <= address);
        let (base, size) = *self.freed.get(index.checked_sub(1)?)?;
        (address < base + size.max(1)).then_some((base, size))
    }

    fn missing(&self, address: u64, len: u64) -> MemoryError {
        match self.freed_at(address) {
            Some((base, size)) => MemoryError::Freed {
                address,
                base,
                size,
            },
            None => MemoryError::Unmapped { address, len },
        }
    }
}

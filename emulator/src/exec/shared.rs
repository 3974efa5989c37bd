//! Shared memory of a block, with its shadow.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// Bytes aligned to a 128-byte line, zeroed.
#[derive(Debug)]
pub struct AlignedBytes {
    ptr: *mut u8,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes.
    pub fn new(len: usize) -> AlignedBytes {
        let layout = Self::layout(len);
        // SAFETY: the layout has a size of at least one line.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        AlignedBytes { ptr, len }
    }

    fn layout(len: usize) -> Layout {
        let size = len.max(1).next_multiple_of(128);
        Layout::from_size_align(size, 128)
            .unwrap_or_else(|_| panic!("{len} bytes do not fit the address space"))
    }

    /// First byte.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: made with this layout in `new`.
        unsafe { dealloc(self.ptr, Self::layout(self.len)) };
    }
}

/// What a byte of shared memory is: bits.
pub mod byte_state {
    /// Never written.
    pub const UNINIT: u8 = 0;
    /// Written.
    pub const INIT: u8 = 1;
    /// Destination of an asynchronous copy that has not landed.
    pub const PENDING: u8 = 2;
    /// Source of an asynchronous copy that has not read it yet.
    pub const BUSY: u8 = 4;
    /// Destination of asynchronous reductions that have not landed.
    pub const REDUCING: u8 = 8;
    /// Not to be written.
    pub const TAKEN: u8 = PENDING | BUSY | REDUCING;
}

/// Bytes that the system keeps in each block's shared memory for what the toolkit's headers do there (tiles of
/// several warps meet in them). `%reserved_smem_offset_0` and `_1` point at the halves.
pub const RESERVED: usize = 1024;

/// A block's shared memory.
#[derive(Debug)]
pub struct SharedMemory {
    bytes: AlignedBytes,
    /// Bytes of the block's own, from 0.
    len: usize,
    /// Where the system's own bytes lie, apart from the block's; empty where the program has no use for them.
    reserved: std::ops::Range<usize>,
    /// A state for each byte: see [`byte_state`].
    states: AlignedBytes,
    /// Race shadow.
    pub race: super::race::SharedRaces,
}

impl SharedMemory {
    /// `len` bytes, uninitialised, and the system's own where the program reaches for them.
    pub fn new(len: usize, with_reserved: bool) -> SharedMemory {
        // A gap before them, so that an overrun of the block's own bytes meets nothing.
        let first = len.next_multiple_of(RESERVED) + RESERVED;
        let reserved = if with_reserved {
            first..first + RESERVED
        } else {
            len..len
        };
        SharedMemory {
            bytes: AlignedBytes::new(reserved.end),
            len,
            states: AlignedBytes::new(reserved.end),
            race: super::race::SharedRaces::new(reserved.end),
            reserved,
        }
    }

    /// Size of the block's own in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the block has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The system's own bytes.
    pub fn reserved(&self) -> std::ops::Range<usize> {
        self.reserved.clone()
    }

    /// Whether `size` bytes at `address` are the system's own.
    #[cold]
    pub fn is_reserved(&self, address: u32, size: u32) -> bool {
        let first = address as usize;
        first >= self.reserved.start && first + size as usize <= self.reserved.end
    }

    /// First byte.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u8 {
        self.bytes.as_ptr()
    }

    /// States of the bytes.
    #[inline(always)]
    pub fn states(&self) -> *mut u8 {
        self.states.as_ptr()
    }

    /// Uninitialised again, for the next block. The bytes are filled with a pattern that is no zero, so that
    /// with checks off too nothing depends on what a block finds.
    pub fn forget(&mut self) {
        // SAFETY: both buffers have this length.
        unsafe {
            std::ptr::write_bytes(self.bytes.as_ptr(), 0xa5, self.bytes.len());
            std::ptr::write_bytes(self.states.as_ptr(), byte_state::UNINIT, self.states.len());
            // What the system keeps there counts as written by the system.
            std::ptr::write_bytes(
                self.states.as_ptr().add(self.reserved.start),
                byte_state::INIT,
                self.reserved.len(),
            );
        }
        self.race.forget();
    }
}

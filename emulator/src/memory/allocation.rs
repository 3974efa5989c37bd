//! One allocation: bytes, and the shadow that says which are initialised.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Shadow of some bytes for the race detector: see `exec::race`.
pub type RaceCell = AtomicU64;

/// Race shadow of an allocation: a cell for each line of it, and one for each eight bytes.
#[derive(Debug, Clone, Copy)]
pub struct RaceShadow<'a> {
    lines: &'a [RaceCell],
    granules: &'a [RaceCell],
}

impl<'a> RaceShadow<'a> {
    /// Granules of a line.
    pub const LINE: usize = 16;

    /// The cell of a line, by number.
    #[inline(always)]
    pub fn line(&self, number: usize) -> &'a RaceCell {
        &self.lines[number]
    }

    /// The cells of granules, by number.
    #[inline(always)]
    pub fn granules(&self, numbers: std::ops::Range<usize>) -> &'a [RaceCell] {
        &self.granules[numbers]
    }
}

/// Whose memory an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Memory of the device with that ordinal.
    Device(u32),
    /// Page-locked host memory, reachable from every device.
    Host,
    /// Managed memory, reachable from host and devices.
    Managed,
}

/// Bytes from which on a mapping asks for the processor's larger pages, so that finding a page is seldom a walk.
const LARGE: usize = 8 << 20;

/// A private anonymous mapping; pages cost nothing until touched.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; who may touch which byte is the matter of the kernels and
// copies that use it, as on a device.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> io::Result<Mapping> {
        let len = len.max(1);
        // SAFETY: an anonymous mapping at an address of the system's choice touches nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at_zero = || io::Error::other("mapping at address zero");
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(at_zero)?;
        if len >= LARGE {
            // Kernels stride through it. Where the system has no such pages, nothing is lost.
            // SAFETY: the range is the mapping just made.
            unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Mapping { base, len })
    }

    /// Makes all bytes zero.
    fn clear(&self) {
        // SAFETY: the whole mapping is ours; dropping its pages makes them read as zero again.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mapping made in `new`, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A range of device-addressable memory.
#[derive(Debug)]
pub struct Allocation {
    /// First device address.
    pub address: u64,
    /// Size in bytes, as asked for.
    pub size: u64,
    /// Whose memory it is.
    pub owner: Owner,
    /// Name of the variable, for module globals.
    pub name: Option<String>,
    /// Number of the allocation, from 1, in the process.
    pub serial: u64,
    freed: AtomicBool,
    host: *mut u8,
    /// Keeps the bytes mapped (absent for host memory that somebody else owns).
    _bytes: Option<Mapping>,
    /// One bit a byte: initialised. Absent where all of it counts as initialised.
    init: Option<Mapping>,
    /// Race shadow, made at the first launch that wants it: the cells of lines, then those of granules.
    race: std::sync::OnceLock<Option<Mapping>>,
    /// The round of launches that the shadow tells apart: see [`Allocation::begin_races`].
    race_round: AtomicU64,
}

// SAFETY: `host` points into `_bytes`, or into memory that the registrant keeps alive.
unsafe impl Send for Allocation {}
// SAFETY: as above; the shadow is atomic, the bytes are the kernels' own matter.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// Fresh device memory, every byte uninitialised.
    ///
    /// # Errors
    /// The system's, where it cannot map that much.
    pub(super) fn device(
        address: u64,
        size: u64,
        owner: Owner,
        serial: u64,
        name: Option<String>,
    ) -> io::Result<Allocation> {
        let len = usize::try_from(size).map_err(io::Error::other)?;
        let bytes = Mapping::new(len)?;
        let init = Mapping::new(len / 8 + 8)?;
        Ok(Allocation {
            address,
            size,
            owner,
            name,
            serial,
            freed: AtomicBool::new(false),
            host: bytes.base.as_ptr(),
            _bytes: Some(bytes),
            init: Some(init),
            race: std::sync::OnceLock::new(),
            race_round: AtomicU64::new(0),
        })
    }

    /// Host memory under its own address. With `pointer`, memory that the caller owns.
    ///
    /// # Errors
    /// The system's, where it cannot map that much.
    pub(super) fn host(
        pointer: Option<*mut u8>,
        size: u64,
        owner: Owner,
        serial: u64,
    ) -> io::Result<Allocation> {
        let len = usize::try_from(size).map_err(io::Error::other)?;
        let bytes = match pointer {
            Some(_) => None,
            None => Some(Mapping::new(len)?),
        };
        let host = match (&bytes, pointer) {
            (Some(mapping), _) => mapping.base.as_ptr(),
            (None, Some(pointer)) => pointer,
            (None, None) => unreachable!("one of the two was made above"),
        };
        Ok(Allocation {
            address: host as u64,
            size,
            owner,
            name: None,
            serial,
            freed: AtomicBool::new(false),
            host,
            _bytes: bytes,
            init: None,
            race: std::sync::OnceLock::new(),
            race_round: AtomicU64::new(0),
        })
    }

    /// Host pointer to the first byte.
    #[inline(always)]
    pub fn host_ptr(&self) -> *mut u8 {
        self.host
    }

    /// One past the last device address.
    #[inline(always)]
    pub fn end(&self) -> u64 {
        self.address + self.size
    }

    /// Whether it was freed (a running launch may still hold it).
    #[inline(always)]
    pub fn is_freed(&self) -> bool {
        self.freed.load(Ordering::Relaxed)
    }

    pub(super) fn mark_freed(&self) {
        self.freed.store(true, Ordering::Relaxed);
    }

    /// The bitmap of initialised bytes, bit `i & 7` of byte `i >> 3`; null where all is initialised.
    #[inline(always)]
    pub fn init_bits(&self) -> *const AtomicU8 {
        match &self.init {
            Some(map) => map.base.as_ptr().cast_const().cast(),
            None => std::ptr::null(),
        }
    }

    /// The race shadow, made on first use; `None` where the system refuses it.
    #[inline(always)]
    pub fn race_shadow(&self) -> Option<RaceShadow<'_>> {
        let lines = self.size as usize / (8 * RaceShadow::LINE) + 1;
        let count = lines * (1 + RaceShadow::LINE);
        let made = self
            .race
            .get_or_init(|| Mapping::new(count * size_of::<RaceCell>()).ok());
        let first = made.as_ref()?.base.as_ptr().cast_const();
        // SAFETY: the mapping holds that many cells, begins with a page, and lives as long as the allocation.
        let cells = unsafe { std::slice::from_raw_parts(first.cast::<RaceCell>(), count) };
        let (lines, granules) = cells.split_at(lines);
        Some(RaceShadow { lines, granules })
    }

    /// A launch of that round begins. Cells have numbers for the launches of one round, and what they say of an earlier
    /// one is forgotten, lest it be taken for this one's.
    pub fn begin_races(&self, round: u64) {
        let earlier = self.race_round.fetch_max(round, Ordering::Relaxed) < round;
        if earlier && let Some(Some(shadow)) = self.race.get() {
            shadow.clear();
        }
    }

    /// The same by words of 64 bytes' bits.
    #[inline(always)]
    fn init_words(&self) -> *const AtomicU64 {
        // The mapping begins with a page, and reaches past the word of the last byte.
        self.init_bits().cast()
    }

    /// Marks `len` bytes from `offset` initialised.
    #[inline(always)]
    pub fn mark_init(&self, offset: u64, len: u64) {
        let words = self.init_words();
        if words.is_null() {
            return;
        }
        debug_assert!(offset + len <= self.size);
        for_words(offset, len, |word, mask| {
            // SAFETY: the bitmap has a bit for every byte of the allocation.
            let cell = unsafe { &*words.add(word as usize) };
            if cell.load(Ordering::Relaxed) & mask != mask {
                cell.fetch_or(mask, Ordering::Relaxed);
            }
        });
    }

    /// Whether all of `len` bytes from `offset` are initialised.
    #[inline(always)]
    pub fn is_init(&self, offset: u64, len: u64) -> bool {
        let words = self.init_words();
        let mut missing = 0;
        if words.is_null() {
            return true;
        }
        if (offset | len) & 63 == 0 {
            for word in offset >> 6..(offset + len) >> 6 {
                // SAFETY: the bitmap has a bit for every byte of the allocation.
                let cell = unsafe { &*words.add(word as usize) };
                missing |= !cell.load(Ordering::Relaxed);
            }
        } else {
            for_words(offset, len, |word, mask| {
                // SAFETY: the bitmap has a bit for every byte of the allocation.
                let cell = unsafe { &*words.add(word as usize) };
                missing |= mask & !cell.load(Ordering::Relaxed);
            });
        }
        missing == 0
    }

    /// First offset in the range that is not initialised, if any.
    #[inline]
    pub fn first_uninit(&self, offset: u64, len: u64) -> Option<u64> {
        let bits = self.init_bits();
        if bits.is_null() {
            return None;
        }
        let mut found = None;
        for_bit_bytes(offset, len, |byte, mask| {
            // SAFETY: the bitmap has a bit for every byte of the allocation.
            let missing = mask & !unsafe { &*bits.add(byte as usize) }.load(Ordering::Relaxed);
            if missing != 0 {
                found = Some(byte * 8 + u64::from(missing.trailing_zeros()));
            }
            missing == 0
        });
        found
    }

    /// Forgets which bytes are initialised (memory that a pool hands out again).
    pub fn forget_init(&self) {
        if let Some(map) = &self.init {
            map.clear();
        }
    }
}

/// Calls `f(word, mask)` for each word of 64 bits of a bitmap that bits `offset..offset + len` touch.
#[inline(always)]
fn for_words(offset: u64, len: u64, mut f: impl FnMut(u64, u64)) {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let low = at & 63;
        let take = (64 - low).min(end - at);
        f(at >> 6, u64::MAX >> (64 - take) << low);
        at += take;
    }
}

/// Calls `f(byte, mask)` for each byte of a bitmap that bits `offset..offset + len` touch, until it says false.
#[inline(always)]
fn for_bit_bytes(offset: u64, len: u64, mut f: impl FnMut(u64, u8) -> bool) {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let low = at & 7;
        let take = (8 - low).min(end - at);
        let mask = (((1u16 << take) - 1) << low) as u8;
        if !f(at >> 3, mask) {
            return;
        }
        at += take;
    }
}

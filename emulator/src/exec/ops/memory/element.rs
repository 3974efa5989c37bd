//! Elements of memory and the registers they go to and come from.

/// A memory element of `SIZE` bytes.
pub(super) trait Element: Copy {
    /// The element at `p`.
    ///
    /// # Safety
    /// There are as many bytes there.
    unsafe fn read(p: *const u8) -> Self;
    /// Puts it at `p`.
    ///
    /// # Safety
    /// There are as many bytes there.
    unsafe fn write(self, p: *mut u8);
    /// The element at `p`, of which it is known that it is aligned.
    ///
    /// # Safety
    /// There are as many bytes there, and `p` is a multiple of them.
    unsafe fn read_aligned(p: *const u8) -> Self;
    /// Puts it at `p`, of which it is known that it is aligned.
    ///
    /// # Safety
    /// There are as many bytes there, and `p` is a multiple of them.
    unsafe fn write_aligned(self, p: *mut u8);
    fn to32(self) -> u32;
    fn to64(self) -> u64;
    fn from32(v: u32) -> Self;
    fn from64(v: u64) -> Self;
}

macro_rules! element {
    ($($t:ident $atomic:ident $via32:ident $via64:ident),*) => {$(
        impl Element for $t {
            #[inline(always)]
            unsafe fn read(p: *const u8) -> $t {
                // SAFETY: the caller's promise: memory that was checked. Unaligned addresses get here only with that
                // check off.
                unsafe {
                    if p.addr() % size_of::<$t>() == 0 {
                        Self::read_aligned(p)
                    } else {
                        p.cast::<$t>().read_unaligned()
                    }
                }
            }
            #[inline(always)]
            unsafe fn write(self, p: *mut u8) {
                // SAFETY: as for reading.
                unsafe {
                    if p.addr() % size_of::<$t>() == 0 {
                        self.write_aligned(p);
                    } else {
                        p.cast::<$t>().write_unaligned(self);
                    }
                }
            }
            // Relaxed atomics, since blocks on other threads may write the same place.
            #[inline(always)]
            unsafe fn read_aligned(p: *const u8) -> $t {
                // SAFETY: the caller's promise.
                unsafe { (*p.cast::<std::sync::atomic::$atomic>()).load(std::sync::atomic::Ordering::Relaxed) as $t }
            }
            #[inline(always)]
            unsafe fn write_aligned(self, p: *mut u8) {
                // SAFETY: the caller's promise.
                unsafe { (*p.cast::<std::sync::atomic::$atomic>()).store(self as _, std::sync::atomic::Ordering::Relaxed) };
            }
            #[inline(always)]
            fn to32(self) -> u32 { self as $via32 as u32 }
            #[inline(always)]
            fn to64(self) -> u64 { self as $via64 as u64 }
            #[inline(always)]
            fn from32(v: u32) -> $t { v as $t }
            #[inline(always)]
            fn from64(v: u64) -> $t { v as $t }
        }
    )*};
}
element!(u8 AtomicU8 u32 u64, u16 AtomicU16 u32 u64, u32 AtomicU32 u32 u64, u64 AtomicU64 u32 u64,
         i8 AtomicI8 i32 i64, i16 AtomicI16 i32 i64, i32 AtomicI32 i32 i64);

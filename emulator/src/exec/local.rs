//! Local memory of a warp's threads: variables, spilled structs, call parameters.

/// Per-thread stacks, thread after thread, grown on demand.
#[derive(Debug, Default)]
pub struct LocalMemory {
    bytes: Vec<u8>,
    /// One byte a byte: nonzero where written.
    written: Vec<u8>,
    /// Bytes of a thread.
    stride: usize,
}

/// Most local memory of a thread, in bytes, as on hardware.
pub const LOCAL_LIMIT: u64 = 512 << 10;

impl LocalMemory {
    /// Bytes a thread has now.
    #[inline(always)]
    pub fn stride(&self) -> u64 {
        self.stride as u64
    }

    /// Makes room for `bytes` a thread, keeping what is there. False past [`LOCAL_LIMIT`].
    pub fn reserve(&mut self, bytes: u64) -> bool {
        if bytes > LOCAL_LIMIT {
            return false;
        }
        let want = (bytes as usize).next_multiple_of(16);
        if want <= self.stride {
            return true;
        }
        // Doubling keeps deep recursion from copying at every call.
        let stride = want.max(self.stride * 2).min(LOCAL_LIMIT as usize);
        let mut moved = vec![0xa5; stride * 32];
        let mut written = vec![0; stride * 32];
        for lane in 0..32 {
            moved[lane * stride..][..self.stride]
                .copy_from_slice(&self.bytes[lane * self.stride..][..self.stride]);
            written[lane * stride..][..self.stride]
                .copy_from_slice(&self.written[lane * self.stride..][..self.stride]);
        }
        (self.bytes, self.written, self.stride) = (moved, written, stride);
        true
    }

    /// Pointer to a thread's byte at `offset`.
    #[inline(always)]
    pub fn at(&mut self, lane: usize, offset: usize) -> *mut u8 {
        self.bytes[lane * self.stride + offset..].as_mut_ptr()
    }

    /// Whether each byte of a thread's range was written.
    #[inline(always)]
    pub fn is_written(&self, lane: usize, offset: usize, len: usize) -> bool {
        self.written[lane * self.stride + offset..][..len]
            .iter()
            .all(|&w| w != 0)
    }

    /// Marks a thread's range written, or not.
    #[inline(always)]
    pub fn mark(&mut self, lane: usize, offset: usize, len: usize, written: bool) {
        self.written[lane * self.stride + offset..][..len].fill(u8::from(written));
    }

    /// A thread's bytes.
    pub fn bytes(&self, lane: usize, offset: usize, len: usize) -> &[u8] {
        &self.bytes[lane * self.stride + offset..][..len]
    }

    /// Copies a range of a thread within its memory, with what is known of it.
    pub fn copy(&mut self, lane: usize, from: usize, to: usize, len: usize) {
        let base = lane * self.stride;
        self.bytes
            .copy_within(base + from..base + from + len, base + to);
        self.written
            .copy_within(base + from..base + from + len, base + to);
    }

    /// Nothing is written any more.
    pub fn forget(&mut self) {
        self.written.fill(0);
    }
}

//! The copies of a warp's threads that are in flight: a ring of batches, one for each instruction.
//!
//! The rings of a block's warps share the caches with what is copied. So what most batches need of theirs lies in front,
//! and what few need is neither written nor read.

use super::super::access::{Pointers, bits, for_lanes};
use super::super::lanes::each;

/// The copies of one instruction, a lane each.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Batch {
    /// Destinations: bytes from the start of shared memory.
    pub(super) to: [u32; 32],
    /// Where the lanes read, one after another; null where each has a place of its own, in `from`.
    run: *const u8,
    /// Its number among the warp's copy instructions.
    pub(super) serial: u64,
    /// Lanes whose copies are in flight.
    pub(super) lanes: u32,
    /// Bytes written at each destination: 4, 8 or 16.
    pub(super) size: u32,
    /// Whether some lanes read fewer bytes, as `taken` says, and zeros fill the rest.
    partial: bool,
    /// Groups that had been committed before it.
    pub(super) group: Groups,
    taken: [u8; 32],
    /// The launch keeps the sources' allocations alive.
    from: Pointers,
}

/// Where the copies of a batch read.
#[derive(Debug, Clone, Copy)]
pub enum Sources<'s> {
    /// Lane after lane, from here on.
    Run(*const u8),
    /// Each lane by itself.
    Each(&'s Pointers),
}

/// How many groups lanes have committed.
#[derive(Debug, Clone, Copy)]
pub enum Groups {
    /// All lanes as many.
    Same(u32),
    /// Each lane by itself.
    Each([u32; 32]),
}

impl Groups {
    #[inline(always)]
    fn of(&self, lane: usize) -> u32 {
        match self {
            Groups::Same(count) => *count,
            Groups::Each(counts) => counts[lane],
        }
    }

    /// One more for the lanes of `mask`.
    #[inline(always)]
    fn add(&mut self, mask: u32) {
        match self {
            Groups::Same(count) if mask == u32::MAX => *count = count.wrapping_add(1),
            _ => self.add_each(mask),
        }
    }

    #[cold]
    fn add_each(&mut self, mask: u32) {
        *self = Groups::Each(each(|l| self.of(l).wrapping_add(mask >> l & 1)));
    }

    /// The lanes that have committed more than `count` since they had committed `before`.
    #[inline(always)]
    pub(super) fn past(&self, before: &Groups, count: u32) -> u32 {
        if let (Groups::Same(now), Groups::Same(before)) = (self, before) {
            return if now.wrapping_sub(*before) > count {
                u32::MAX
            } else {
                0
            };
        }
        self.each_past(before, count)
    }

    #[cold]
    fn each_past(&self, before: &Groups, count: u32) -> u32 {
        let mut lanes = 0;
        for lane in 0..32 {
            lanes |= u32::from(self.of(lane).wrapping_sub(before.of(lane)) > count) << lane;
        }
        lanes
    }
}

/// Copies that a warp's threads have issued.
#[derive(Debug)]
pub struct CopyQueue {
    /// Batches in flight, in order of issue, from `first` on, around its end; a power of two of them, or none.
    ring: Vec<Batch>,
    first: usize,
    flying: usize,
    pub(super) committed: Groups,
    /// Copy instructions issued.
    issued: u64,
    /// Bytes being read from global memory.
    in_flight: u64,
    /// The most there have been.
    most_in_flight: u64,
}

impl Default for CopyQueue {
    fn default() -> CopyQueue {
        CopyQueue {
            ring: Vec::new(),
            first: 0,
            flying: 0,
            committed: Groups::Same(0),
            issued: 0,
            in_flight: 0,
            most_in_flight: 0,
        }
    }
}

impl CopyQueue {
    /// Nothing is in flight.
    pub fn clear(&mut self) {
        self.first = 0;
        self.flying = 0;
        self.committed = Groups::Same(0);
        self.in_flight = 0;
        self.most_in_flight = 0;
    }

    /// The most bytes that have been in flight at a time.
    pub fn most_in_flight(&self) -> u64 {
        self.most_in_flight
    }

    /// Copies of so many bytes have been issued.
    #[inline(always)]
    pub fn depart(&mut self, bytes: u64) {
        self.in_flight += bytes;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    /// Copies of so many bytes have landed.
    #[inline(always)]
    pub fn arrive(&mut self, bytes: u64) {
        self.in_flight -= bytes;
    }

    /// Copy instructions issued so far.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// The lanes of `mask` put what they issued since their last commit into a group.
    #[inline(always)]
    pub fn commit(&mut self, mask: u32) {
        self.committed.add(mask);
    }

    #[inline(always)]
    fn place(&self, at: usize) -> usize {
        (self.first + at) & (self.ring.len() - 1)
    }

    /// The batch at that place among those in flight.
    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> Option<&Batch> {
        (at < self.flying).then(|| &self.ring[self.place(at)])
    }

    /// The copies of `lanes` are under way, to places `behind` those in `to`.
    #[inline(always)]
    pub(super) fn launch(
        &mut self,
        lanes: u32,
        size: u32,
        taken: Option<&[u8; 32]>,
        (to, behind): (&[u32; 32], u32),
        from: Sources,
    ) {
        if self.flying == self.ring.len() {
            self.grow();
        }
        let place = self.place(self.flying);
        let batch = &mut self.ring[place];
        batch.to = each(|lane| to[lane].wrapping_add(behind));
        batch.serial = self.issued;
        batch.lanes = lanes;
        batch.size = size;
        match &self.committed {
            // The tag and a number, and no more.
            Groups::Same(count) => batch.group = Groups::Same(*count),
            groups => batch.group = *groups,
        }
        batch.partial = taken.is_some();
        if let Some(taken) = taken {
            batch.taken = *taken;
        }
        match from {
            Sources::Run(from) => batch.run = from,
            Sources::Each(from) => {
                batch.run = std::ptr::null();
                batch.from = *from;
            }
        }
        let bytes = batch.bytes(lanes);
        self.flying += 1;
        self.issued += 1;
        self.depart(bytes);
    }

    #[cold]
    fn grow(&mut self) {
        self.ring.rotate_left(self.first);
        self.first = 0;
        let len = (2 * self.ring.len()).max(8);
        self.ring.resize_with(len, Batch::default);
    }

    /// Takes lanes off a batch, and the batch off the queue where none is left; the place of the next.
    #[inline(always)]
    pub(super) fn retire(&mut self, at: usize, lanes: u32) -> usize {
        let place = self.place(at);
        let batch = &mut self.ring[place];
        batch.lanes &= !lanes;
        let (bytes, left) = (batch.bytes(lanes), batch.lanes);
        self.arrive(bytes);
        if left != 0 {
            return at + 1;
        }
        if at != 0 {
            self.bring_forward(at);
        }
        self.first = self.place(1);
        self.flying -= 1;
        at
    }

    /// Makes whole warps' copies land, the oldest first, as long as they are not of the newest `pending` groups; others are
    /// left, with all behind them.
    ///
    /// # Safety
    /// As for [`Batch::land`].
    #[inline(always)]
    pub(super) unsafe fn land_whole(&mut self, pending: u32, base: *mut u8) {
        let Groups::Same(committed) = self.committed else {
            return;
        };
        while let Some(batch) = self.get(0) {
            let Groups::Same(before) = batch.group else {
                return;
            };
            if batch.lanes != u32::MAX || committed.wrapping_sub(before) <= pending {
                return;
            }
            // SAFETY: the caller's promise.
            unsafe { batch.land(u32::MAX, base) };
            self.retire(0, u32::MAX);
        }
    }

    /// Puts a batch before all others, which stay in order.
    #[cold]
    fn bring_forward(&mut self, at: usize) {
        for at in (0..at).rev() {
            let (here, next) = (self.place(at), self.place(at + 1));
            self.ring.swap(here, next);
        }
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            to: [0; 32],
            run: std::ptr::null(),
            serial: 0,
            lanes: 0,
            size: 0,
            partial: false,
            group: Groups::Same(0),
            taken: [0; 32],
            from: [std::ptr::null_mut(); 32],
        }
    }
}

impl Batch {
    /// Copies for `lanes` what their sources hold.
    ///
    /// # Safety
    /// The sources are valid for what is read of them, the destinations, behind `base`, for the batch's size.
    #[inline(always)]
    pub(super) unsafe fn land(&self, lanes: u32, base: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.partial, self.size) {
                (false, 16) => self.move_whole::<u128>(lanes, base),
                (false, 8) => self.move_whole::<u64>(lanes, base),
                (false, _) => self.move_whole::<u32>(lanes, base),
                (true, _) => self.move_parts(lanes, base),
            }
        }
    }

    /// Copies what the sources of `lanes` hold, as much each as a `W`, which is the batch's size.
    ///
    /// # Safety
    /// Sources and destinations, behind `base`, are valid for that.
    #[inline(always)]
    unsafe fn move_whole<W: Copy>(&self, lanes: u32, base: *mut u8) {
        let to = |lane: usize| base.wrapping_add(self.to[lane] as usize).cast::<W>();
        // SAFETY: the caller's promise.
        unsafe {
            if lanes == u32::MAX && !self.run.is_null() {
                for lane in 0..32 {
                    let from = self.run.cast::<W>().add(lane);
                    to(lane).write_unaligned(from.read_unaligned());
                }
            } else {
                let mut left = lanes;
                while left != 0 {
                    let lane = left.trailing_zeros() as usize;
                    to(lane).write_unaligned(self.source(lane).cast::<W>().read_unaligned());
                    left &= left - 1;
                }
            }
        }
    }

    /// Copies what is `taken` of each source, and puts zeros behind it.
    ///
    /// # Safety
    /// As for [`Batch::move_whole`].
    unsafe fn move_parts(&self, lanes: u32, base: *mut u8) {
        for lane in bits(lanes) {
            let to = base.wrapping_add(self.to[lane] as usize);
            let taken = usize::from(self.taken[lane]);
            // SAFETY: the caller's promise.
            unsafe {
                if taken != 0 {
                    std::ptr::copy_nonoverlapping(self.source(lane), to, taken);
                }
                std::ptr::write_bytes(to.add(taken), 0, self.size as usize - taken);
            }
        }
    }

    /// Where a lane's copy reads.
    #[inline(always)]
    fn source(&self, lane: usize) -> *const u8 {
        if self.run.is_null() {
            self.from[lane]
        } else {
            self.run.wrapping_add(lane * self.size as usize)
        }
    }

    /// Bytes that the copies of some lanes read.
    #[inline(always)]
    fn bytes(&self, lanes: u32) -> u64 {
        if !self.partial {
            return u64::from(lanes.count_ones() * self.size);
        }
        let mut bytes = 0;
        for_lanes(lanes, |lane| bytes += u64::from(self.taken[lane]));
        bytes
    }
}

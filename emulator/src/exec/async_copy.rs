//! `cp.async`: copies in flight, which land when a wait makes them and no sooner.
//!
//! What lands is what the source holds at that moment. Until then the destination's bytes are
//! [`byte_state::PENDING`], so that whatever touches them is reported. Every thread counts its own groups:
//! a copy belongs to the group that its thread commits next, and threads of a warp may commit and wait
//! at different times.

use super::access::{Access, Kind, Lanes, Operand, Pointers, Reach, bits, for_lanes};
use super::block::Block;
use super::lanes::each;
use super::program::Flow;
use super::shared::byte_state;
use super::warp::Warp;
use crate::check::Check;
use crate::ptx::ast::Space;
use std::collections::VecDeque;

/// The copies of one instruction, a lane each.
#[derive(Debug)]
pub struct Batch {
    /// Lanes whose copies are in flight.
    lanes: u32,
    /// Bytes written at each destination: 4, 8 or 16.
    size: u32,
    /// Bytes read, where some lanes read fewer; zeros fill the rest.
    taken: Option<[u8; 32]>,
    /// Groups that had been committed before it.
    group: Groups,
    /// Its number among the warp's copy instructions.
    serial: u64,
    /// Destinations: bytes from the start of shared memory.
    to: [u32; 32],
    /// Sources. The launch keeps their allocations alive.
    from: Sources,
}

/// Where the copies of a batch read.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // written where it stays, like the batch
enum Sources {
    /// Lane after lane, from here on.
    Run(*const u8),
    /// Each lane by itself.
    Each(Pointers),
}

/// How many groups lanes have committed.
#[derive(Debug, Clone, Copy)]
enum Groups {
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
            _ => *self = Groups::Each(each(|l| self.of(l).wrapping_add(mask >> l & 1))),
        }
    }

    /// The lanes that have committed more than `count` since they had committed `before`.
    #[inline(always)]
    fn past(&self, before: &Groups, count: u32) -> u32 {
        if let (Groups::Same(now), Groups::Same(before)) = (self, before) {
            return if now.wrapping_sub(*before) > count {
                u32::MAX
            } else {
                0
            };
        }
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
    /// In order of issue. Boxed: a batch is large, and is written where it stays.
    flying: VecDeque<Box<Batch>>,
    /// Batches that are done, to be used again.
    #[allow(clippy::vec_box)] // they go back and forth as they are
    idle: Vec<Box<Batch>>,
    committed: Groups,
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
            flying: VecDeque::new(),
            idle: Vec::new(),
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
        self.idle.extend(self.flying.drain(..));
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

    /// The copies of `lanes` are under way.
    #[inline(always)]
    fn launch(
        &mut self,
        lanes: u32,
        size: u32,
        taken: Option<[u8; 32]>,
        to: [u32; 32],
        from: Sources,
    ) {
        let mut batch = self.idle.pop().unwrap_or_default();
        batch.lanes = lanes;
        batch.size = size;
        batch.taken = taken;
        batch.group = self.committed;
        batch.serial = self.issued;
        batch.to = to;
        batch.from = from;
        self.issued += 1;
        self.depart(batch.bytes(lanes));
        self.flying.push_back(batch);
    }

    /// The lanes of `mask` put what they issued since their last commit into a group.
    #[inline(always)]
    pub fn commit(&mut self, mask: u32) {
        self.committed.add(mask);
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            lanes: 0,
            size: 0,
            taken: None,
            group: Groups::Same(0),
            serial: 0,
            to: [0; 32],
            from: Sources::Run(std::ptr::null()),
        }
    }
}

impl Batch {
    /// Copies what the sources of `lanes` hold, as much each as a `W`, which is the batch's size.
    ///
    /// # Safety
    /// Sources and destinations, behind `base`, are valid for that.
    #[inline(always)]
    unsafe fn move_whole<W: Copy>(&self, lanes: u32, base: *mut u8) {
        let to = |lane: usize| base.wrapping_add(self.to[lane] as usize).cast::<W>();
        // SAFETY: the caller's promise.
        unsafe {
            match &self.from {
                Sources::Run(from) if lanes == u32::MAX => {
                    for lane in 0..32 {
                        to(lane).write_unaligned(from.cast::<W>().add(lane).read_unaligned());
                    }
                }
                _ => for_lanes(lanes, |lane| {
                    to(lane).write_unaligned(self.source(lane).cast::<W>().read_unaligned());
                }),
            }
        }
    }

    /// Copies what is `taken` of each source, and puts zeros behind it.
    ///
    /// # Safety
    /// As for [`Batch::move_whole`].
    unsafe fn move_parts(&self, lanes: u32, base: *mut u8, taken: &[u8; 32]) {
        for lane in bits(lanes) {
            let to = base.wrapping_add(self.to[lane] as usize);
            let taken = usize::from(taken[lane]);
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
        match &self.from {
            Sources::Run(from) => from.wrapping_add(lane * self.size as usize),
            Sources::Each(from) => from[lane],
        }
    }

    /// Bytes that the copies of some lanes read.
    #[inline(always)]
    fn bytes(&self, lanes: u32) -> u64 {
        match &self.taken {
            None => u64::from(lanes.count_ones() * self.size),
            Some(taken) => bits(lanes).map(|l| u64::from(taken[l])).sum(),
        }
    }
}

/// One instruction's copies, before they are checked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// Bytes written at each destination.
    pub size: u32,
    /// Bytes each lane reads, where not `size`.
    pub taken: Option<[u8; 32]>,
    /// Shared addresses of the destinations.
    pub to: &'r [u64; 32],
    /// State space of the destinations: shared, or generic addresses inside it.
    pub to_space: Option<Space>,
    /// Addresses of the sources.
    pub from: &'r [u64; 32],
    /// State space of the sources: global, or generic.
    pub from_space: Option<Space>,
}

impl Warp {
    /// The copies that this warp has issued. They are the block's, since other warps may make them land.
    #[inline(always)]
    pub fn copies(&mut self) -> &mut CopyQueue {
        // SAFETY: no other reference to the block is alive while a handler runs; it has a queue for each warp.
        unsafe { &mut *self.block().copies.as_mut_ptr().add(self.index as usize) }
    }

    /// Issues copies for the lanes of `mask`. Sources and destinations are checked now.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    #[inline(always)]
    pub fn issue_copies(&mut self, mask: u32, request: &Request) -> Result<(), Flow> {
        let size = request.size;
        let read = |size| Access {
            space: request.from_space,
            size,
            align: request.size,
            kind: Kind::Read,
        };
        let from = match &request.taken {
            None => {
                let reach = self.reach(mask, request.from, read(size))?;
                self.places(reach, request.from)
            }
            Some(taken) => {
                let mut from = [std::ptr::null_mut(); 32];
                // Lanes that read nothing may name any address.
                let mut left = bits(mask)
                    .filter(|&l| taken[l] != 0)
                    .fold(0u32, |m, l| m | 1 << l);
                while left != 0 {
                    let count = taken[left.trailing_zeros() as usize];
                    let same = bits(left)
                        .filter(|&l| taken[l] == count)
                        .fold(0u32, |m, l| m | 1 << l);
                    let reach = self.reach(same, request.from, read(u32::from(count)))?;
                    let part = self.places(reach, request.from);
                    bits(same).for_each(|l| from[l] = part[l]);
                    left &= !same;
                }
                from
            }
        };
        let probe = Access {
            space: request.to_space,
            size,
            align: size,
            kind: Kind::Probe,
        };
        let reach = self.reach(mask, request.to, probe)?;
        // SAFETY: no other reference to the block is alive while a handler runs.
        let base = unsafe { self.block() }.shared.as_ptr() as usize;
        let to: [u32; 32] = match reach {
            Reach::Behind(start) => {
                let first = (start as usize).wrapping_sub(base) as u32;
                each(|lane| (request.to[lane] as u32).wrapping_add(first))
            }
            Reach::Apart => each(|lane| (self.apart[lane] as usize).wrapping_sub(base) as u32),
        };
        let checks = self.launch().checks;
        if checks.has(Check::AsyncCopy) || checks.has(Check::UninitMemory) {
            self.mark_pending(self.block, mask, &to, size)?;
        }
        if checks.has(Check::SharedRace) {
            // The copy may write at any time from now on: what others read before must be ordered before this.
            let places: [u64; 32] = each(|lane| u64::from(to[lane]));
            let write = Access {
                kind: Kind::Store,
                space: Some(Space::Shared),
                ..probe
            };
            // SAFETY: the block is the warp's own, and no reference to it is alive.
            unsafe { self.shared_race(self.block, mask, &places, write)? };
        }
        self.copies()
            .launch(mask, size, request.taken, to, Sources::Each(from));
        Ok(())
    }

    /// [`Warp::issue_copies`] of whole pieces by the quick way; false, and nothing done, where that does not lead.
    ///
    /// # Safety
    /// The operands are those of one of the warp's program's instructions; `mask` is not zero.
    #[inline(always)]
    pub unsafe fn issue_quickly(
        &mut self,
        mask: u32,
        size: u32,
        to: Operand,
        from: Operand,
    ) -> bool {
        // SAFETY: the caller's promise; the registers are as they were throughout.
        unsafe {
            let (Some(from), Some(to)) = (
                self.quick(mask, from, size, true),
                self.quick(mask, to, size, false),
            ) else {
                return false;
            };
            let Lanes::Narrow(start, offsets) = to else {
                return false;
            };
            let first = start
                .addr()
                .wrapping_sub(self.block().shared.as_ptr().addr()) as u32;
            let offsets = *offsets;
            let to = each(|lane| offsets[lane].wrapping_add(first));
            let from = match from {
                Lanes::Run(start) => {
                    prefetch(start, 32 * size as usize);
                    Sources::Run(start)
                }
                others => Sources::Each(others.pointers(size as usize)),
            };
            self.copies().launch(mask, size, None, to, from);
        }
        true
    }

    /// Marks destinations of 4, 8 or 16 bytes in a block's shared memory as what an asynchronous copy will write.
    ///
    /// # Errors
    /// The flow to return where another copy to the same bytes is in flight.
    pub(super) fn mark_pending(
        &mut self,
        owner: *mut Block,
        mask: u32,
        to: &[u32; 32],
        size: u32,
    ) -> Result<(), Flow> {
        // SAFETY: no other reference to the block is alive while a handler runs.
        let states = unsafe { (*owner).shared.states() };
        // SAFETY: the destinations were found inside shared memory; there is a state for each of their bytes.
        let taken = |lanes: u32| unsafe { any_taken(states, lanes, to, size) };
        if self.launch().checks.has(Check::AsyncCopy) && taken(mask) {
            let lane = bits(mask).find(|&lane| taken(1 << lane)).unwrap_or(0);
            let text = format!(
                "copy of {size} bytes to shared address {:#x}, where an earlier asynchronous copy has not landed: \
                 no wait has completed it, and nothing orders the two",
                to[lane]
            );
            return Err(self.violation(Check::AsyncCopy, 1 << lane, text));
        }
        // SAFETY: as above.
        unsafe { set_states(states, mask, to, size, byte_state::PENDING) };
        Ok(())
    }

    /// Makes the copies of `mask`'s lanes land, all but those of the newest `pending` groups of each lane and
    /// those not committed.
    ///
    /// # Errors
    /// The flow to return where a landing raced with an access.
    #[inline(always)]
    pub fn wait_copies(&mut self, mask: u32, pending: u32) -> Result<(), Flow> {
        let mut at = 0;
        loop {
            let queue = self.copies();
            let Some(batch) = queue.flying.get(at) else {
                return Ok(());
            };
            let here = batch.lanes & mask;
            // Of the groups since the copy, its own is the first.
            let due = here & queue.committed.past(&batch.group, pending);
            if due != 0 {
                self.land(at, due)?;
                at = self.retire(at, due);
            } else if here == mask {
                // Later copies of these lanes are in the same groups or newer ones.
                return Ok(());
            } else {
                at += 1;
            }
        }
    }

    /// Makes the copies of `mask`'s lanes land that were issued before the one with number `serial`.
    ///
    /// # Errors
    /// As [`Warp::wait_copies`].
    pub fn land_before(&mut self, mask: u32, serial: u64) -> Result<(), Flow> {
        let mut at = 0;
        loop {
            let due = match self.copies().flying.get(at) {
                Some(batch) if batch.serial < serial => batch.lanes & mask,
                _ => return Ok(()),
            };
            if due == 0 {
                at += 1;
                continue;
            }
            self.land(at, due)?;
            at = self.retire(at, due);
        }
    }

    /// Makes all copies of `mask`'s lanes land, committed or not.
    ///
    /// # Errors
    /// As [`Warp::wait_copies`].
    #[inline(always)]
    pub fn wait_all_copies(&mut self, mask: u32) -> Result<(), Flow> {
        self.copies().commit(mask);
        self.wait_copies(mask, 0)
    }

    /// Takes lanes off a batch, and the batch off the queue where none is left; the index of the next.
    #[inline(always)]
    fn retire(&mut self, at: usize, lanes: u32) -> usize {
        let queue = self.copies();
        let bytes = queue.flying[at].bytes(lanes);
        queue.arrive(bytes);
        let flying = &mut queue.flying;
        flying[at].lanes &= !lanes;
        if flying[at].lanes != 0 {
            return at + 1;
        }
        let done = if at == 0 {
            flying.pop_front()
        } else {
            flying.remove(at)
        };
        queue.idle.extend(done);
        at
    }

    /// Writes the destinations of `lanes` of a batch.
    #[inline(always)]
    fn land(&mut self, at: usize, lanes: u32) -> Result<(), Flow> {
        let checks = self.launch().checks;
        // SAFETY: no other reference to the block is alive while a handler runs.
        let block = unsafe { self.block() };
        let (base, states) = (block.shared.as_ptr(), block.shared.states());
        let batch = &block.copies[self.index as usize].flying[at];
        let size = batch.size as usize;
        // SAFETY: `size` bytes at each destination and the bytes taken at each source were found inside their memories
        // at issue, which live as long as the launch.
        unsafe {
            match (&batch.taken, size) {
                (None, 16) => batch.move_whole::<u128>(lanes, base),
                (None, 8) => batch.move_whole::<u64>(lanes, base),
                (None, _) => batch.move_whole::<u32>(lanes, base),
                (Some(taken), _) => batch.move_parts(lanes, base, taken),
            }
        }
        if checks.has(Check::AsyncCopy) || checks.has(Check::UninitMemory) {
            // SAFETY: there is a state for each byte of the destinations.
            unsafe { set_states(states, lanes, &batch.to, batch.size, byte_state::INIT) };
        }
        if checks.has(Check::SharedRace) {
            let addresses: [u64; 32] = each(|lane| u64::from(batch.to[lane]));
            let access = Access {
                space: Some(Space::Shared),
                size: size as u32,
                align: 1,
                kind: Kind::Store,
            };
            // SAFETY: the block is the warp's own, and no reference to it is used after this.
            unsafe { self.shared_race(self.block, lanes, &addresses, access)? };
        }
        Ok(())
    }
}

/// Asks for `len` bytes from `start` on, which will be read some time after, as the device would.
#[inline(always)]
fn prefetch(start: *const u8, len: usize) {
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch touches nothing, wherever it points; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len, LINE);
}

/// Gives the bytes at `to` of the lanes of `mask`, 4, 8 or 16 each, a state.
///
/// # Safety
/// `states` has one for each of them.
#[inline(always)]
unsafe fn set_states(states: *mut u8, mask: u32, to: &[u32; 32], size: u32, state: u8) {
    let all = u128::from_ne_bytes([state; 16]);
    for_lanes(mask, |lane| {
        let at = states.wrapping_add(to[lane] as usize);
        // SAFETY: the caller's promise.
        unsafe {
            match size {
                16 => at.cast::<u128>().write_unaligned(all),
                8 => at.cast::<u64>().write_unaligned(all as u64),
                _ => at.cast::<u32>().write_unaligned(all as u32),
            }
        }
    });
}

/// Whether any of the bytes at `to` of the lanes of `mask`, 4, 8 or 16 each, has one of the states
/// [`byte_state::TAKEN`].
///
/// # Safety
/// `states` has one for each of them.
#[inline(always)]
unsafe fn any_taken(states: *const u8, mask: u32, to: &[u32; 32], size: u32) -> bool {
    let mut any = 0;
    for_lanes(mask, |lane| {
        let at = states.wrapping_add(to[lane] as usize);
        // SAFETY: the caller's promise.
        any |= unsafe {
            match size {
                16 => at.cast::<u128>().read_unaligned(),
                8 => u128::from(at.cast::<u64>().read_unaligned()),
                _ => u128::from(at.cast::<u32>().read_unaligned()),
            }
        };
    });
    // States are bits, so one mask finds them in many bytes.
    any & u128::from_ne_bytes([byte_state::TAKEN; 16]) != 0
}

//! `cp.async`: copies in flight, which land when a wait makes them and no sooner.
//!
//! What lands is what the source holds at that moment. Until then the destination's bytes are
//! [`byte_state::PENDING`], so that whatever touches them is reported. Every thread counts its own groups:
//! a copy belongs to the group that its thread commits next, and threads of a warp may commit and wait
//! at different times.

use super::access::{Access, Kind, Pointers, Reach, bits, for_lanes};
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
    /// For each lane, how many groups it had committed before this copy.
    group: [u32; 32],
    /// Its number among the warp's copy instructions.
    serial: u64,
    /// Destinations: bytes from the start of shared memory.
    to: [u32; 32],
    /// Sources. The launch keeps their allocations alive.
    from: Pointers,
}

/// Copies that a warp's threads have issued.
#[derive(Debug, Default)]
pub struct CopyQueue {
    /// In order of issue. Boxed: a batch is large, and is written where it stays.
    flying: VecDeque<Box<Batch>>,
    /// Batches that are done, to be used again.
    #[allow(clippy::vec_box)] // they go back and forth as they are
    idle: Vec<Box<Batch>>,
    /// For each lane, groups committed.
    committed: [u32; 32],
    /// Copy instructions issued.
    issued: u64,
    /// Bytes being read from global memory.
    in_flight: u64,
    /// The most there have been.
    most_in_flight: u64,
}

impl CopyQueue {
    /// Nothing is in flight.
    pub fn clear(&mut self) {
        self.idle.extend(self.flying.drain(..));
        self.committed = [0; 32];
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
        for (lane, count) in self.committed.iter_mut().enumerate() {
            *count = count.wrapping_add(mask >> lane & 1);
        }
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            lanes: 0,
            size: 0,
            taken: None,
            group: [0; 32],
            serial: 0,
            to: [0; 32],
            from: [std::ptr::null_mut(); 32],
        }
    }
}

impl Batch {
    /// Copies what the sources of `lanes` hold, as much each as a `W`.
    ///
    /// # Safety
    /// Sources and destinations, behind `base`, are valid for that.
    #[inline(always)]
    unsafe fn move_whole<W: Copy>(&self, lanes: u32, base: *mut u8) {
        for_lanes(lanes, |lane| {
            let to = base.wrapping_add(self.to[lane] as usize).cast::<W>();
            // SAFETY: the caller's promise.
            unsafe { to.write_unaligned(self.from[lane].cast::<W>().read_unaligned()) };
        });
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
                    std::ptr::copy_nonoverlapping(self.from[lane].cast_const(), to, taken);
                }
                std::ptr::write_bytes(to.add(taken), 0, self.size as usize - taken);
            }
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
        let queue = self.copies();
        let mut batch = queue.idle.pop().unwrap_or_default();
        batch.lanes = mask;
        batch.size = size;
        batch.taken = request.taken;
        batch.group = queue.committed;
        batch.serial = queue.issued;
        batch.to = to;
        batch.from = from;
        queue.issued += 1;
        queue.depart(batch.bytes(mask));
        queue.flying.push_back(batch);
        Ok(())
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
        if self.launch().checks.has(Check::AsyncCopy) {
            for lane in bits(mask) {
                // SAFETY: the destination was found inside shared memory; there is a state for each of its bytes.
                if unsafe { any_taken(states.add(to[lane] as usize), size) } {
                    let text = format!(
                        "copy of {size} bytes to shared address {:#x}, where an earlier asynchronous copy has not landed: \
                         no wait has completed it, and nothing orders the two",
                        to[lane]
                    );
                    return Err(self.violation(Check::AsyncCopy, 1 << lane, text));
                }
            }
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
            let mut due = 0u32;
            for lane in 0..32 {
                // Commits since the copy; the copy's own group is the first of them.
                let since = queue.committed[lane].wrapping_sub(batch.group[lane]);
                due |= u32::from(since > pending) << lane;
            }
            due &= here;
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

/// Whether any of the 4, 8 or 16 states at `at` is one of [`byte_state::TAKEN`].
///
/// # Safety
/// There are that many.
#[inline(always)]
unsafe fn any_taken(at: *const u8, size: u32) -> bool {
    // States are bits, so one mask finds them in many bytes.
    const MASK: u128 = u128::from_ne_bytes([byte_state::TAKEN; 16]);
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            16 => at.cast::<u128>().read_unaligned() & MASK != 0,
            8 => at.cast::<u64>().read_unaligned() & MASK as u64 != 0,
            _ => at.cast::<u32>().read_unaligned() & MASK as u32 != 0,
        }
    }
}

//! `cp.async`: copies in flight, which land when a wait makes them and no sooner.
//!
//! What lands is what the source holds at that moment. Until then the destination's bytes are
//! [`byte_state::PENDING`], so that whatever touches them is reported. Every thread counts its own groups:
//! a copy belongs to the group that its thread commits next, and threads of a warp may commit and wait
//! at different times.

mod queue;
mod watched;

pub use queue::CopyQueue;
use queue::Sources;

use super::access::{Access, Kind, Landing, Lanes, Operand, ROW, Reach, bits, for_lanes};
use super::block::Block;
use super::lanes::each;
use super::program::Flow;
use super::shared::byte_state;
use super::warp::Warp;
use crate::check::Check;
use crate::ptx::ast::Space;

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
        let taken = request.taken.as_ref();
        self.copies()
            .launch(mask, size, taken, (&to, 0), Sources::Each(&from));
        Ok(())
    }

    /// [`Warp::issue_copies`] of whole pieces by the quick way; false, and nothing done, where that does not lead.
    ///
    /// # Safety
    /// The operands are those of one of the warp's program's instructions; `mask` is not zero.
    #[inline(always)]
    pub unsafe fn issue_quickly<const WIDE: bool>(
        &mut self,
        mask: u32,
        size: u32,
        to: Operand,
        from: Operand,
    ) -> bool {
        // SAFETY: the caller's promise; the registers are as they were throughout.
        unsafe {
            let (Some(from), Some(to)) = (
                self.quick::<WIDE>(mask, from, size, true),
                self.quick::<WIDE>(mask, to, size, false),
            ) else {
                return false;
            };
            let Lanes::Narrow(start, offsets) = to else {
                return false;
            };
            let base = self.block().shared.as_ptr().addr();
            let behind = start.addr().wrapping_sub(base) as u32;
            let copies = self.copies();
            match from {
                Lanes::Run(start) => {
                    prefetch(start, 32 * size as usize);
                    let from = Sources::Run(start);
                    copies.launch(mask, size, None, (&*offsets, behind), from);
                }
                others => {
                    let from = others.pointers(size as usize);
                    let from = Sources::Each(&from);
                    copies.launch(mask, size, None, (&*offsets, behind), from);
                }
            }
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
        if mask == u32::MAX && !self.watched {
            // SAFETY: no other reference to the block is alive while a handler runs; sources and destinations were found
            // inside their memories at issue, which live as long as the launch.
            unsafe {
                let base = self.block().shared.as_ptr();
                self.copies().land_whole(pending, base);
            }
        }
        let mut at = 0;
        loop {
            let queue = self.copies();
            let Some(batch) = queue.get(at) else {
                return Ok(());
            };
            let here = batch.lanes & mask;
            // Of the groups since the copy, its own is the first.
            let due = here & queue.committed.past(&batch.group, pending);
            if due != 0 {
                self.land(at, due)?;
                at = self.copies().retire(at, due);
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
            let due = match self.copies().get(at) {
                Some(batch) if batch.serial < serial => batch.lanes & mask,
                _ => return Ok(()),
            };
            if due == 0 {
                at += 1;
                continue;
            }
            self.land(at, due)?;
            at = self.copies().retire(at, due);
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

    /// Writes the destinations of `lanes` of a batch.
    #[inline(always)]
    fn land(&mut self, at: usize, lanes: u32) -> Result<(), Flow> {
        let checks = self.launch().checks;
        // SAFETY: no other reference to the block is alive while a handler runs.
        let block = unsafe { self.block() };
        let (base, states) = (block.shared.as_ptr(), block.shared.states());
        let Some(batch) = block.copies[self.index as usize].get(at) else {
            return Ok(());
        };
        // SAFETY: `size` bytes at each destination and the bytes taken at each source were found inside their memories
        // at issue, which live as long as the launch.
        unsafe { batch.land(lanes, base) };
        if !self.watched {
            return Ok(());
        }
        let (to, size): (*const [u32; 32], _) = (&batch.to, batch.size);
        // SAFETY: the batch stays where it is, and nothing changes it before this function ends.
        let to = unsafe { &*to };
        if lanes == u32::MAX
            && size == ROW
            && let Some(rows) = self.rows_at(to)
            && self.enter_rows::<Landing>(rows)
        {
            return Ok(());
        }
        if checks.has(Check::AsyncCopy) || checks.has(Check::UninitMemory) {
            // SAFETY: there is a state for each byte of the destinations.
            unsafe { set_states(states, lanes, to, size, byte_state::INIT) };
        }
        if checks.has(Check::SharedRace) {
            let addresses: [u64; 32] = each(|lane| u64::from(to[lane]));
            let access = Access {
                space: Some(Space::Shared),
                size,
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

//! `cp.async.bulk`: one thread's copy of a whole range into shared memory, which lands when somebody waits for
//! the phase of the `mbarrier` that counts its bytes.

use super::access::{Access, Kind, Pointers};
use super::program::Flow;
use super::shared::byte_state;
use super::warp::{Stop, Warp};
use crate::check::Check;
use crate::ptx::ast::Space;

/// Alignment of addresses and size, in bytes.
pub const GRAIN: u32 = 16;

/// A copy in flight.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Warp that issued it.
    pub warp: u32,
    /// Lane that issued it.
    pub lane: u32,
    /// Destination: bytes from the start of shared memory.
    pub to: u32,
    /// Source. The launch keeps its allocation alive.
    pub from: *const u8,
    /// Bytes.
    pub size: u32,
}

/// What is done 32 grains at a time, as a warp's access would be.
fn pieces(size: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..size)
        .step_by(32 * GRAIN as usize)
        .map(move |at| (at, u32::MAX >> (32 - ((size - at) / GRAIN).min(32))))
}

fn grains(first: u64, at: u32) -> [u64; 32] {
    std::array::from_fn(|k| first + u64::from(at) + u64::from(GRAIN) * k as u64)
}

impl Warp {
    /// Checks all of a range; its first host pointer.
    fn range(
        &mut self,
        lane: usize,
        first: u64,
        size: u32,
        space: Option<Space>,
        kind: Kind,
    ) -> Result<*mut u8, Flow> {
        let access = Access {
            space,
            size: GRAIN,
            align: GRAIN,
            kind,
        };
        let mut start = std::ptr::null_mut();
        for (at, mask) in pieces(size) {
            let found: Result<Pointers, Flow> = self.pointers(mask, &grains(first, at), access);
            match found {
                Ok(pointers) if at == 0 => start = pointers[0],
                Ok(_) => {}
                Err(flow) => {
                    // The grains are no lanes: all of them are this one's.
                    if let Stop::Fault(trouble) = &mut self.stop {
                        trouble.lanes = 1 << lane;
                    }
                    return Err(flow);
                }
            }
        }
        Ok(start)
    }

    /// Checks a copy of `size` bytes (a multiple of [`GRAIN`]) by `lane` and marks its destination.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    pub fn issue_bulk(
        &mut self,
        lane: usize,
        (to, to_space): (u64, Option<Space>),
        (from, from_space): (u64, Option<Space>),
        size: u32,
    ) -> Result<Bulk, Flow> {
        let from = self.range(lane, from, size, from_space, Kind::Read)?;
        let pointer = self.range(lane, to, size, to_space, Kind::Probe)?;
        // SAFETY: no other reference to the block is alive while a handler runs.
        let base = unsafe { self.block() }.shared.as_ptr() as usize;
        let to = if size == 0 {
            0
        } else {
            (pointer as usize - base) as u32
        };
        let checks = self.launch().checks;
        if checks.has(Check::AsyncCopy) || checks.has(Check::UninitMemory) {
            for (at, mask) in pieces(size) {
                let places = grains(u64::from(to), at).map(|a| a as u32);
                if let Err(flow) = self.mark_pending(mask, &places, GRAIN) {
                    if let Stop::Fault(trouble) = &mut self.stop {
                        trouble.lanes = 1 << lane;
                    }
                    return Err(flow);
                }
            }
        }
        self.copies().depart(u64::from(size));
        Ok(Bulk {
            warp: self.index,
            lane: lane as u32,
            to,
            from,
            size,
        })
    }

    /// Writes the destination, in the name of the warp that runs.
    ///
    /// # Errors
    /// The flow to return where the landing raced with an access.
    pub fn land_bulk(&mut self, copy: &Bulk) -> Result<(), Flow> {
        if copy.size == 0 {
            return Ok(());
        }
        // SAFETY: no other reference to the block is alive while a handler runs.
        let block = unsafe { self.block() };
        block.copies[copy.warp as usize].arrive(u64::from(copy.size));
        let (to, states) = (
            block.shared.as_ptr().wrapping_add(copy.to as usize),
            block.shared.states().wrapping_add(copy.to as usize),
        );
        // SAFETY: both ranges were found inside their memories at issue, which live as long as the launch; there
        // is a state for each byte of shared memory.
        unsafe {
            std::ptr::copy_nonoverlapping(copy.from, to, copy.size as usize);
            std::ptr::write_bytes(states, byte_state::INIT, copy.size as usize);
        }
        if self.launch().checks.has(Check::SharedRace) {
            let access = Access {
                space: Some(Space::Shared),
                size: GRAIN,
                align: GRAIN,
                kind: Kind::Store,
            };
            for (at, mask) in pieces(copy.size) {
                self.shared_race(mask, &grains(u64::from(copy.to), at), access)?;
            }
        }
        Ok(())
    }
}

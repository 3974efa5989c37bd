//! Whole warps' accesses to global memory side by side, in launches that check or count.

use super::quick::Operand;
use super::survey::Address;
use super::{Access, Kind, tally};
use crate::check::Check;
use crate::counters::SECTOR;
use crate::exec::lanes::each;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;
use crate::memory::Allocation;
use crate::ptx::ast::Space;

/// What a whole warp accesses, lane after lane, inside an allocation.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Address of the first byte.
    pub first: u64,
    /// Where the host has it.
    pub host: *mut u8,
    /// The launch keeps it alive.
    allocation: *const Allocation,
}

impl Warp {
    /// Where all lanes access `size` bytes each side by side, at multiples of that inside one of the allocations that
    /// the warp accessed last; `None` where they do not.
    ///
    /// # Safety
    /// The operand is one of the warp's program, with addresses of 64 bits in global memory; `WIDE` only in the wide
    /// build.
    #[inline(always)]
    pub unsafe fn locate_run<const WIDE: bool>(&self, operand: Operand, size: u32) -> Option<Run> {
        // SAFETY: the slot is one of 64-bit lanes; the wide build is the caller's promise.
        let (registers, side_by_side) = unsafe {
            let registers = &*self.slot(operand.slot).cast::<[u64; 32]>();
            (registers, u64::side_by_side::<WIDE>(registers, size))
        };
        if !side_by_side {
            return None;
        }
        let first = registers[0].wrapping_add_signed(operand.offset);
        let recent = self.recent.holding(first)?;
        let behind = first - recent.base;
        let inside = recent.size - behind >= 32 * u64::from(size);
        (inside && first & u64::from(size - 1) == 0).then(|| Run {
            first,
            host: recent.host.wrapping_add(behind as usize),
            allocation: recent.allocation,
        })
    }

    /// Does what checks and counters do where all lanes read `size` bytes of a run, to act on them at once.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    #[inline(always)]
    pub fn read_run(&mut self, run: &Run, size: u32) -> Result<(), Flow> {
        let access = Access {
            space: Some(Space::Global),
            size,
            align: size,
            kind: Kind::Read,
        };
        let checks = self.launch().checks;
        // SAFETY: the launch keeps its allocations alive as long as its warps run.
        let allocation = unsafe { &*run.allocation };
        let (behind, len) = (run.first - allocation.address, 32 * u64::from(size));
        let sound = (!checks.has(Check::UninitMemory) || allocation.is_init(behind, len))
            && (!checks.has(Check::GlobalRace)
                || self.enter_global(allocation, behind..behind + len, access));
        if !sound {
            return self.doubtful_run(run, access);
        }
        if self.launch().counters {
            let (first, last) = (run.first / SECTOR, (run.first + len - 1) / SECTOR);
            let sectors = (last - first) as u32 + 1;
            tally(&mut self.counts().global, sectors, size, len as u32);
            // SAFETY: the launch's worker keeps the sets as long as its warps run, and nobody else touches them.
            unsafe { &mut *self.books.touched }.read.insert(first, last);
        }
        Ok(())
    }

    /// [`Warp::read_run`] by the long way, which says what is amiss.
    #[cold]
    fn doubtful_run(&mut self, run: &Run, access: Access) -> Result<(), Flow> {
        let addresses = each(|lane| run.first + lane as u64 * u64::from(access.size));
        self.reach(u32::MAX, &addresses, access).map(|_| ())
    }
}

//! The quick way to memory, for launches that neither check nor count accesses: where the addresses of all lanes, as
//! they stand in their register, are inside one memory and aligned, the lanes are reached through that register. Where
//! it does not lead, [`Warp::reach`] does.

use super::survey::Address;
use super::{Recent, RecentAllocations};
use crate::exec::lanes::each;
use crate::exec::ops::memory::space_code;
use crate::exec::warp::Warp;

/// The addresses of an access as an instruction has them.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// Slot of the address register.
    pub slot: u32,
    /// Bytes added.
    pub offset: i64,
    /// Space and width: [`space_code`].
    pub code: u32,
}

/// Where an access's lanes are in the host's memory, aligned to the access's size.
#[derive(Debug, Clone, Copy)]
pub enum Lanes {
    /// Side by side, all 32 of them.
    Run(*mut u8),
    /// Each as far behind the pointer as a number of 32 bits says.
    Narrow(*mut u8, *const [u32; 32]),
    /// Each as far behind the pointer as a number of 64 bits says.
    Wide(*mut u8, *const [u64; 32]),
}

impl Lanes {
    /// The lanes' pointers, for an access of `size` bytes each; of no meaning for lanes that do not take part.
    ///
    /// # Safety
    /// The register that the lanes are reached through is alive and as it was.
    #[inline(always)]
    pub unsafe fn pointers(self, size: usize) -> super::Pointers {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Lanes::Run(start) => each(|lane| start.wrapping_add(lane * size)),
                Lanes::Narrow(start, offsets) => {
                    each(|lane| start.wrapping_add((*offsets)[lane] as usize))
                }
                Lanes::Wide(start, offsets) => {
                    each(|lane| start.wrapping_add((*offsets)[lane] as usize))
                }
            }
        }
    }
}

/// How far behind a pointer a lane is.
pub trait Offset: Copy {
    /// In bytes.
    fn bytes(self) -> usize;
}

impl Offset for u32 {
    #[inline(always)]
    fn bytes(self) -> usize {
        self as usize
    }
}

impl Offset for u64 {
    #[inline(always)]
    fn bytes(self) -> usize {
        self as usize
    }
}

/// What an access wants of the quick way.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    mask: u32,
    /// Bytes a lane, a power of two, of which its address must be a multiple.
    size: u32,
    /// Whether [`Lanes::Run`] is of use.
    runs: bool,
}

impl Warp {
    /// The lanes of an access of `size` bytes each, by the quick way; `None` where the long way has to be taken.
    /// [`Lanes::Run`] only where `runs` asks for it.
    ///
    /// # Safety
    /// The operand is one of the warp's program; `mask` is not zero; `size` is a power of two; `WIDE` only in the wide
    /// build.
    #[inline(always)]
    pub unsafe fn quick<const WIDE: bool>(
        &self,
        mask: u32,
        operand: Operand,
        size: u32,
        runs: bool,
    ) -> Option<Lanes> {
        if self.watched {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe { self.locate::<WIDE>(mask, operand, size, runs) }
    }

    /// [`Warp::quick`], whatever the launch checks or counts.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(in crate::exec) unsafe fn locate<const WIDE: bool>(
        &self,
        mask: u32,
        operand: Operand,
        size: u32,
        runs: bool,
    ) -> Option<Lanes> {
        const NARROW_SHARED: u32 = space_code::SHARED | space_code::NARROW;
        let wanted = Wanted { mask, size, runs };
        // SAFETY: the caller's promise.
        unsafe {
            match operand.code & (space_code::MASK | space_code::NARROW) {
                NARROW_SHARED => self.quick_shared::<WIDE>(operand, wanted),
                // What lies in an allocation lies in no window.
                space_code::GLOBAL | space_code::GENERIC => {
                    self.quick_global::<WIDE>(operand, wanted)
                }
                _ => None,
            }
        }
    }

    #[inline(always)]
    unsafe fn quick_shared<const WIDE: bool>(
        &self,
        operand: Operand,
        Wanted { mask, size, runs }: Wanted,
    ) -> Option<Lanes> {
        // SAFETY: the slot is one of 32-bit lanes; no other reference to the block's memory is alive while a handler
        // runs.
        let (registers, memory) = unsafe {
            let slot = self.slot(operand.slot).cast::<[u32; 32]>();
            (&*slot, &(*self.block).shared)
        };
        let added = i64::from(operand.offset as i32);
        // The registers of lanes inside hold from `first` to `last`. Sums that wrap take the long way.
        let first = (-added).max(0);
        let last = memory.len() as i64 - i64::from(size) - added;
        // As far behind `first` as its own address is behind 0, or that many less.
        let aligned = added < 0 || added & i64::from(size - 1) == 0;
        if last < first || !aligned {
            return None;
        }
        let (first, span) = (first as u32, (last - first) as u32);
        // SAFETY: the caller's promise.
        if !unsafe { u32::within::<WIDE>(registers, mask, first, span, size - 1) } {
            return None;
        }
        let start = memory.as_ptr().wrapping_offset(added as isize);
        // SAFETY: the caller's promise.
        if runs && mask == u32::MAX && unsafe { u32::side_by_side::<WIDE>(registers, size) } {
            return Some(Lanes::Run(start.wrapping_add(registers[0] as usize)));
        }
        Some(Lanes::Narrow(start, registers))
    }

    #[inline(always)]
    unsafe fn quick_global<const WIDE: bool>(
        &self,
        operand: Operand,
        Wanted { mask, size, runs }: Wanted,
    ) -> Option<Lanes> {
        // SAFETY: the slot is one of 64-bit lanes.
        let registers = unsafe { &*self.slot(operand.slot).cast::<[u64; 32]>() };
        let (wide_size, low) = (u64::from(size), u64::from(size - 1));
        let some_lane = registers[mask.trailing_zeros() as usize & 31];
        let recent = self
            .recent
            .holding(some_lane.wrapping_add_signed(operand.offset))?;
        if recent.base & low != 0 {
            return None;
        }
        // From here on in terms of what registers hold.
        let base = recent.base.wrapping_sub(operand.offset as u64);
        let last = recent.size.checked_sub(wide_size)?;
        let start = recent.host.wrapping_sub(base as usize);
        let behind = some_lane.wrapping_sub(base);
        // SAFETY: the caller's promise.
        if runs && mask == u32::MAX && unsafe { u64::side_by_side::<WIDE>(registers, size) } {
            let inside = behind & low == 0 && behind + 31 * wide_size <= last;
            return inside.then(|| Lanes::Run(start.wrapping_add(registers[0] as usize)));
        }
        // Lanes further than 2^31 from one another take the long way.
        let most = u64::from(u32::MAX / 2) & !low;
        let near = base.wrapping_add(behind.saturating_sub(most) & !low);
        let span = (last.checked_sub(near.wrapping_sub(base))?).min(u64::from(u32::MAX)) as u32;
        // SAFETY: the caller's promise.
        let within = unsafe { u64::within::<WIDE>(registers, mask, near, span, size - 1) };
        within.then_some(Lanes::Wide(start, registers))
    }
}

impl RecentAllocations {
    /// The one that holds `address`.
    #[inline(always)]
    pub(super) fn holding(&self, address: u64) -> Option<Recent> {
        let holds = |r: &&Recent| address.wrapping_sub(r.base) < r.size;
        self.0.iter().find(holds).copied()
    }
}

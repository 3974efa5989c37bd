//! Whole warps' accesses of 16 bytes a lane to their block's own shared memory, as matrices and asynchronous copies
//! make them, in launches that check or count: mostly their states are as they should be, all that was done there is
//! past, and no bank is wanted twice. All of that is seen first, by one look at all lanes, and noted then; where it is
//! not so nothing is noted, and the long way has to be taken.

use super::quick::{Lanes, Operand};
use super::survey::{Address, are_on_banks_apart};
use super::tally;
use crate::check::Check;
use crate::exec::lanes::{each, wide};
use crate::exec::race::Four;
use crate::exec::shared::byte_state;
use crate::exec::traffic;
use crate::exec::warp::Warp;

/// Bytes of a row, and what its address is a multiple of.
pub const ROW: u32 = 16;

/// Where the lanes of a whole warp access a row each, inside their block's shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'r> {
    offsets: &'r [u32; 32],
    added: isize,
}

impl<'r> Rows<'r> {
    /// At each of the `offsets`, and `added` to it.
    ///
    /// # Safety
    /// These are multiples of [`ROW`], and that many bytes from there on are inside the block's shared memory.
    #[inline(always)]
    pub unsafe fn new(offsets: &'r [u32; 32], added: isize) -> Rows<'r> {
        Rows { offsets, added }
    }

    /// Where the lanes' rows are in something that begins at `first` and has 16 bytes for each 16 of the memory.
    #[inline(always)]
    pub fn of<T>(&self, first: *mut u8) -> impl Fn(usize) -> *mut T + use<'r, T> {
        const { assert!(size_of::<T>() == ROW as usize) };
        let (offsets, first) = (self.offsets, first.wrapping_offset(self.added));
        move |lane| first.wrapping_add(offsets[lane] as usize).cast()
    }

    /// The offsets, and what is added to each, as addresses have it.
    #[inline(always)]
    pub fn parts(&self) -> (&'r [u32; 32], u32) {
        (self.offsets, self.added as u32)
    }
}

/// What is done to rows.
pub trait Act {
    /// Whether it counts as a write, where accesses race.
    const WRITES: bool;
    /// Whether the bytes must have been written.
    const READS: bool;
    /// The state that bytes must not have.
    const AVOIDS: u8;
    /// The state that they have then; [`byte_state::UNINIT`] for the one they had.
    const LEAVES: u8;
    /// Whether the memory's traffic has part of it.
    const COUNTS: bool;
}

/// They are read.
#[derive(Debug)]
pub struct Reading;

impl Act for Reading {
    const WRITES: bool = false;
    const READS: bool = true;
    const AVOIDS: u8 = byte_state::UNINIT;
    const LEAVES: u8 = byte_state::UNINIT;
    const COUNTS: bool = true;
}

/// They are written.
#[derive(Debug)]
pub struct Writing;

impl Act for Writing {
    const WRITES: bool = true;
    const READS: bool = false;
    const AVOIDS: u8 = byte_state::TAKEN;
    const LEAVES: u8 = byte_state::INIT;
    const COUNTS: bool = true;
}

/// Asynchronous copies to them begin.
#[derive(Debug)]
pub struct Issuing;

impl Act for Issuing {
    const WRITES: bool = true;
    const READS: bool = false;
    const AVOIDS: u8 = byte_state::TAKEN;
    const LEAVES: u8 = byte_state::PENDING;
    const COUNTS: bool = true;
}

/// Asynchronous copies to them land.
#[derive(Debug)]
pub struct Landing;

impl Act for Landing {
    const WRITES: bool = true;
    const READS: bool = false;
    const AVOIDS: u8 = byte_state::UNINIT;
    const LEAVES: u8 = byte_state::INIT;
    const COUNTS: bool = false;
}

impl Warp {
    /// [`Warp::quick`] for reads of a row a lane; in launches that check or count, for whole warps.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn quick_rows<const WIDE: bool>(
        &mut self,
        mask: u32,
        operand: Operand,
    ) -> Option<Lanes> {
        // SAFETY: the caller's promise.
        unsafe {
            if !self.watched {
                return self.quick::<WIDE>(mask, operand, ROW, false);
            }
            if mask != u32::MAX {
                return None;
            }
            let lanes = self.locate::<WIDE>(mask, operand, ROW, false)?;
            let rows = self.rows(lanes)?;
            self.enter_rows::<Reading>(rows).then_some(lanes)
        }
    }

    /// The rows that all lanes were located at; `None` where they are not in shared memory.
    ///
    /// # Safety
    /// They were, for accesses of a row each.
    #[inline(always)]
    pub unsafe fn rows<'r>(&self, lanes: Lanes) -> Option<Rows<'r>> {
        let Lanes::Narrow(start, offsets) = lanes else {
            return None;
        };
        // SAFETY: the caller's promise; no other reference to the block's memory is alive while a handler runs.
        unsafe {
            let first = (*self.block).shared.as_ptr().addr();
            Some(Rows::new(
                &*offsets,
                start.addr().wrapping_sub(first) as isize,
            ))
        }
    }

    /// The rows at these addresses; `None` where they are not all inside the block's shared memory and aligned.
    #[inline(always)]
    pub fn rows_at<'r>(&self, addresses: &'r [u32; 32]) -> Option<Rows<'r>> {
        // SAFETY: no other reference to the block's memory is alive while a handler runs; the wide build only where the
        // processor has its features; what `Rows` asks for is what is found out.
        unsafe {
            let last = ((*self.block).shared.len() as u32).checked_sub(ROW)?;
            let within = if wide() {
                u32::within::<true>(addresses, u32::MAX, 0, last, ROW - 1)
            } else {
                u32::within::<false>(addresses, u32::MAX, 0, last, ROW - 1)
            };
            within.then(|| Rows::new(addresses, 0))
        }
    }

    /// Does what checks and counters do at an access, where they find nothing amiss by one look; false, and nothing
    /// done, where the long way has to be taken.
    // One copy for all instructions.
    #[inline(never)]
    pub fn enter_rows<A: Act>(&mut self, rows: Rows) -> bool {
        let checks = self.launch().checks;
        let stated = checks.has(Check::UninitMemory) || checks.has(Check::AsyncCopy);
        let ordered = checks.has(Check::SharedRace);
        #[cfg(target_arch = "x86_64")]
        if stated && ordered && wide() {
            // SAFETY: the processor has the features of the wide build.
            return unsafe { self.enter_rows_wide::<A>(rows) };
        }
        self.enter_rows_in::<A>(rows, stated, ordered)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn enter_rows_wide<A: Act>(&mut self, rows: Rows) -> bool {
        self.enter_rows_in::<A>(rows, true, true)
    }

    #[inline(always)]
    fn enter_rows_in<A: Act>(&mut self, rows: Rows, stated: bool, ordered: bool) -> bool {
        let me = self.order_index();
        // SAFETY: no other reference to the block's memory, or to the order, is alive while a handler runs.
        let (memory, order, first) = unsafe {
            let first = (*self.block).first_warp as usize;
            (&mut (*self.block).shared, self.order(), first)
        };
        let state = rows.of::<[u32; 4]>(memory.states());
        let (stated, changes) = (
            stated && (A::READS || A::AVOIDS != byte_state::UNINIT),
            stated && A::LEAVES != byte_state::UNINIT,
        );
        let mut sight = if ordered {
            let Some(sight) = memory.race.sight(order, me, first) else {
                return false;
            };
            Some(sight)
        } else {
            None
        };
        let mut odd = Four::all(0);
        for lane in 0..32 {
            // SAFETY: there is a state for each byte of the rows, which are inside.
            unsafe {
                if stated {
                    odd = odd.or(odd_states::<A>(Four::new(*state(lane))));
                }
                if let Some(sight) = &mut sight {
                    sight.see(rows, lane);
                }
            }
        }
        if !A::READS {
            odd = odd.and(states(A::AVOIDS));
        }
        let is_past = sight.as_ref().is_none_or(|sight| sight.is_past());
        // Both, whatever the first says: what is put off until it is known the compiler keeps in memory, lane by lane.
        if !(odd.equals(Four::all(0)).is_everywhere() & is_past) {
            return false;
        }
        let mut pen = sight.map(|sight| memory.race.pen(&sight, A::WRITES));
        for lane in 0..32 {
            // SAFETY: as above.
            unsafe {
                if changes {
                    *state(lane) = states(A::LEAVES).array();
                }
                if let Some(pen) = &mut pen {
                    pen.note(rows, lane);
                }
            }
        }
        if A::COUNTS && self.launch().counters {
            self.count_rows(rows);
        }
        true
    }

    #[inline(always)]
    fn count_rows(&mut self, rows: Rows) {
        let (offsets, added) = rows.parts();
        let (wavefronts, ideal) = if are_on_banks_apart(offsets, added) {
            (4, 4)
        } else {
            let addresses = each(|lane| u64::from(offsets[lane].wrapping_add(added)));
            traffic::shared_wavefronts(u32::MAX, &addresses, ROW)
        };
        tally(&mut self.counts().shared, wavefronts, ideal, 32 * ROW);
    }
}

/// Bits of states that must not be there; where bytes need not have been written, among them those of [`Act::AVOIDS`].
#[inline(always)]
fn odd_states<A: Act>(row: Four) -> Four {
    if A::READS {
        row.xor(states(byte_state::INIT))
    } else {
        row
    }
}

/// The same state of 16 bytes.
#[inline(always)]
fn states(state: u8) -> Four {
    Four::all(u32::from_ne_bytes([state; 4]))
}

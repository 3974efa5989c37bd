//! Races in global memory: a shadow of eight bytes for each eight bytes of an allocation, its granules.
//!
//! Mostly whole lines of 128 bytes are accessed at once, and one cell knows what all of a line's granules would say.
//! From the first access to a part of it on, for the rest of the launch, its granules have cells of their own.

use super::order::Order;
use crate::check::Check;
use crate::exec::access::{Access, Ranges, bits};
use crate::exec::program::Flow;
use crate::exec::warp::Warp;
use crate::memory::{Allocation, RaceCell, RaceShadow};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// The round of a launch, by its serial number: within one, shadows tell launches apart.
pub fn round(serial: u64) -> u64 {
    serial >> cell::SERIAL_BITS
}

impl Warp {
    /// Checks a global access, which touches the ranges `touched`, against those before it in the launch.
    ///
    /// # Errors
    /// The flow to return where it races.
    #[inline(always)]
    pub fn global_race(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
        allocation: &Allocation,
        mut touched: Ranges,
    ) -> Result<(), Flow> {
        let Some(shadow) = allocation.race_shadow() else {
            return Ok(());
        };
        // SAFETY: the order is alive while its warps are, and no other reference to it is.
        let order = unsafe { self.order() };
        let me = self.stamp(access, order);
        if me.block > cell::BLOCK_MAX {
            return Ok(());
        }
        while let Some((start, end)) = touched.next() {
            let bytes = start - allocation.address..end - allocation.address;
            if let Err(raced) = self.enter_range(shadow, &me, bytes, order) {
                return Err(self.report_global_race(
                    mask,
                    addresses,
                    access,
                    allocation,
                    (&me, &raced),
                ));
            }
        }
        Ok(())
    }

    /// Checks a global access to these bytes of an allocation against those before it in the launch: whether it races
    /// with none.
    #[inline(always)]
    pub fn enter_global(&self, allocation: &Allocation, bytes: Range<u64>, access: Access) -> bool {
        let Some(shadow) = allocation.race_shadow() else {
            return true;
        };
        // SAFETY: the order is alive while its warps are, and no other reference to it is.
        let order = unsafe { self.order() };
        let me = self.stamp(access, order);
        if me.block > cell::BLOCK_MAX {
            return true;
        }
        let mut start = bytes.start;
        if start & (cell::LINE - 1) == 0 {
            // Mostly nobody has been in these lines in this launch, or the warp itself just now.
            let new = me.pack(cell::WHOLE);
            while bytes.end - start >= cell::LINE {
                let line = shadow.line((start >> cell::LINE_SHIFT) as usize);
                let old = line.load(Ordering::Relaxed);
                if old != new {
                    if old >> cell::SERIAL_SHIFT == me.serial {
                        break;
                    }
                    line.store(new, Ordering::Relaxed);
                }
                start += cell::LINE;
            }
        }
        start == bytes.end || self.enter_rest(shadow, &me, start..bytes.end, order)
    }

    #[inline(never)]
    fn enter_rest(&self, shadow: RaceShadow, me: &Stamp, bytes: Range<u64>, order: &Order) -> bool {
        self.enter_range(shadow, me, bytes, order).is_ok()
    }

    /// Who accesses now.
    #[inline(always)]
    fn stamp(&self, access: Access, order: &Order) -> Stamp {
        Stamp {
            serial: self.launch().serial & ((1 << cell::SERIAL_BITS) - 1),
            // SAFETY: the block is alive while its warps are.
            block: unsafe { (*self.block).linear },
            warp: self.index,
            tick: order.tick().min(cell::TICK_MAX),
            writes: access.kind.writes(),
            strong: access.kind.is_strong(),
        }
    }

    /// Writes an access to some of an allocation's bytes into its shadow.
    ///
    /// # Errors
    /// The earlier access, where the two race.
    #[inline(always)]
    fn enter_range(
        &self,
        shadow: RaceShadow,
        me: &Stamp,
        bytes: Range<u64>,
        order: &Order,
    ) -> Result<(), Raced> {
        let mut start = bytes.start;
        while start < bytes.end {
            let number = start >> cell::LINE_SHIFT;
            let end = bytes.end.min((number + 1) << cell::LINE_SHIFT);
            let line = shadow.line(number as usize);
            let is_split = line.load(Ordering::Acquire) == me.split();
            if end - start == cell::LINE && !is_split {
                let granule = start >> cell::GRANULE_SHIFT;
                self.enter(line, me, me.pack(cell::WHOLE), order)
                    .map_err(|other| Raced { granule, other })?;
            } else {
                if !is_split {
                    split(shadow, number as usize, me);
                }
                self.enter_granules(shadow, me, start..end, order)?;
            }
            start = end;
        }
        Ok(())
    }

    /// [`Warp::enter_range`] in a line whose granules have cells of their own.
    #[inline(always)]
    fn enter_granules(
        &self,
        shadow: RaceShadow,
        me: &Stamp,
        bytes: Range<u64>,
        order: &Order,
    ) -> Result<(), Raced> {
        let granules = bytes.start >> cell::GRANULE_SHIFT..bytes.end.div_ceil(cell::GRANULE);
        let cells = shadow.granules(granules.start as usize..granules.end as usize);
        for (granule, cell) in granules.zip(cells) {
            let first = granule << cell::GRANULE_SHIFT;
            let touched = cell::touched(
                bytes.start.max(first) - first,
                (bytes.end - first).min(cell::GRANULE),
            );
            self.enter(cell, me, me.pack(touched), order)
                .map_err(|other| Raced { granule, other })?;
        }
        Ok(())
    }

    /// Writes an access that makes a cell say `new` into it.
    ///
    /// # Errors
    /// The earlier access, where the two race.
    #[inline(always)]
    fn enter(&self, cell: &RaceCell, me: &Stamp, new: u64, order: &Order) -> Result<(), Stamp> {
        let old = cell.load(Ordering::Relaxed);
        if old == new {
            return Ok(());
        }
        // Mostly nobody has been there in this launch.
        let value = if old >> cell::SERIAL_SHIFT == me.serial {
            self.race_with(me, old, new, order)?
        } else {
            new
        };
        cell.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// What a cell says after an access that would make it say `new`, where `old` is of the same launch.
    ///
    /// # Errors
    /// The earlier access, where the two race.
    fn race_with(&self, me: &Stamp, old: u64, new: u64, order: &Order) -> Result<u64, Stamp> {
        let before = Stamp::unpack(old);
        let clash = (before.writes || me.writes) && !(before.strong && me.strong);
        if clash && cell::overlap(old, new) && !self.is_ordered(&before, order) {
            return Err(before);
        }
        let same = before.block == me.block && before.warp == me.warp && before.tick == me.tick;
        Ok(
            if same && before.writes == me.writes && before.strong == me.strong {
                cell::together(old, new)
            } else if before.writes && !me.writes {
                // A later read does not hide the write it came after.
                old
            } else {
                new
            },
        )
    }

    #[cold]
    fn report_global_race(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
        allocation: &Allocation,
        (me, Raced { granule, other }): (&Stamp, &Raced),
    ) -> Flow {
        let first = granule << cell::GRANULE_SHIFT;
        let there = |&lane: &usize| {
            let start = addresses[lane] - allocation.address;
            start < first + cell::GRANULE && start + u64::from(access.size) > first
        };
        let lane = bits(mask).find(there).unwrap_or(0);
        let verb = if me.writes { "write" } else { "read" };
        let theirs = if other.writes { "write" } else { "read" };
        let name = allocation
            .name
            .as_ref()
            .map_or(String::new(), |n| format!(" (`{n}`)"));
        let whom = if other.block == me.block {
            format!("warp {} of the same block", other.warp)
        } else {
            format!("block {} (x fastest), warp {}", other.block, other.warp)
        };
        let text = format!(
            "{verb} at {:#x}, byte {first} of the allocation of {} bytes at {:#x}{name}, races with a {theirs} by {whom}: nothing orders them",
            addresses[lane], allocation.size, allocation.address,
        );
        self.violation(Check::GlobalRace, 1 << lane, text)
    }

    /// Whether `before` is ordered before what this warp does now.
    fn is_ordered(&self, before: &Stamp, order: &Order) -> bool {
        // A tick that ran over its bits says nothing.
        if before.tick == cell::TICK_MAX {
            return true;
        }
        // SAFETY: block and cluster are alive while their warps are.
        let (own, cluster) = unsafe {
            let block = &*self.block;
            (block.linear, (*block.cluster).number)
        };
        if before.block == own && before.warp == self.index {
            return true;
        }
        let me = self.order_index();
        let (number, rank) = self.launch().cluster_of(before.block);
        let warp = rank as usize * self.launch().block_warps() + before.warp as usize;
        let known = if number == cluster {
            order.known(me, warp)
        } else {
            order.known_of(me, number, warp)
        };
        before.tick <= known
    }
}

/// Gives the granules of a line cells of their own for the rest of the launch, which say what the line's did.
#[cold]
fn split(shadow: RaceShadow, line: usize, me: &Stamp) {
    let cell = shadow.line(line);
    let old = cell.load(Ordering::Relaxed);
    // What the granules' cells say is of an earlier launch, and so is what the line's says if nobody has been there.
    if old >> cell::SERIAL_SHIFT == me.serial {
        let first = line * RaceShadow::LINE;
        let granules = shadow.granules(first..first + RaceShadow::LINE);
        granules
            .iter()
            .for_each(|g| g.store(old, Ordering::Relaxed));
    }
    cell.store(me.split(), Ordering::Release);
}

/// The earlier side of a race in global memory, and where.
struct Raced {
    granule: u64,
    other: Stamp,
}

/// How an access is written down in eight bytes of shadow.
mod cell {
    /// A cell covers eight bytes.
    pub const GRANULE: u64 = 8;
    pub const GRANULE_SHIFT: u32 = 3;
    /// A line is as many granules as share a cell of their own above theirs.
    pub const LINE: u64 = GRANULE * crate::memory::RaceShadow::LINE as u64;
    pub const LINE_SHIFT: u32 = LINE.trailing_zeros();
    /// From low to high: a bit for each byte touched, two flags, 18 bits of tick, 5 of warp, 21 of block, 10 of serial.
    pub const WHOLE: u64 = 0xff;
    pub const WRITES: u64 = 1 << 8;
    pub const STRONG: u64 = 1 << 9;
    pub const TICK_SHIFT: u32 = 10;
    pub const TICK_MAX: u32 = (1 << 18) - 1;
    pub const WARP_SHIFT: u32 = 28;
    pub const WARP_MAX: u32 = 31;
    pub const BLOCK_SHIFT: u32 = 33;
    pub const BLOCK_MAX: u64 = (1 << 21) - 1;
    pub const SERIAL_SHIFT: u32 = 54;
    pub const SERIAL_BITS: u32 = u64::BITS - SERIAL_SHIFT;

    /// The bytes `low..high` of a cell.
    #[inline(always)]
    pub fn touched(low: u64, high: u64) -> u64 {
        WHOLE >> (GRANULE - (high - low)) << low
    }

    /// Whether two accesses touch the same bytes.
    #[inline(always)]
    pub fn overlap(a: u64, b: u64) -> bool {
        a & b & WHOLE != 0
    }

    /// One thread's accesses that differ in nothing but the bytes touched, as one.
    #[inline(always)]
    pub fn together(a: u64, b: u64) -> u64 {
        a & WHOLE | b
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn bytes_are_told_apart() {
            let at = touched;
            assert_eq!((at(0, 8), at(3, 4), at(6, 8)), (WHOLE, 8, 0xc0));
            assert!(!overlap(at(0, 4), at(4, 8)));
            assert!(overlap(at(0, 4), at(2, 8)));
            assert!(!overlap(at(0, 1), at(1, 4)), "parts of one word");
            assert!(overlap(at(1, 3), at(2, 3)) && overlap(WHOLE, at(7, 8)));
            assert_eq!(together(at(0, 4), at(4, 5) | WRITES), at(0, 5) | WRITES);
        }
    }
}

/// Who accessed, when and how.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    serial: u64,
    block: u64,
    warp: u32,
    tick: u32,
    writes: bool,
    strong: bool,
}

impl Stamp {
    #[inline(always)]
    fn pack(self, touched: u64) -> u64 {
        let flags = touched
            | if self.writes { cell::WRITES } else { 0 }
            | if self.strong { cell::STRONG } else { 0 };
        // A tick is never 0, and so is no stamp.
        flags
            | u64::from(self.tick) << cell::TICK_SHIFT
            | u64::from(self.warp) << cell::WARP_SHIFT
            | self.block << cell::BLOCK_SHIFT
            | self.serial << cell::SERIAL_SHIFT
    }

    /// What the cell of a line says whose granules have cells of their own: no stamp, for none has tick 0.
    #[inline(always)]
    fn split(self) -> u64 {
        self.serial << cell::SERIAL_SHIFT
    }

    #[inline(always)]
    fn unpack(bits: u64) -> Stamp {
        Stamp {
            serial: bits >> cell::SERIAL_SHIFT,
            block: bits >> cell::BLOCK_SHIFT & cell::BLOCK_MAX,
            warp: (bits >> cell::WARP_SHIFT) as u32 & cell::WARP_MAX,
            tick: (bits >> cell::TICK_SHIFT) as u32 & cell::TICK_MAX,
            writes: bits & cell::WRITES != 0,
            strong: bits & cell::STRONG != 0,
        }
    }
}

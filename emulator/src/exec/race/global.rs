//! Races in global memory: a shadow of eight bytes for each eight bytes of an allocation.

use super::order::Order;
use crate::check::Check;
use crate::exec::access::{Access, Kind, Ranges, bits};
use crate::exec::program::Flow;
use crate::exec::warp::Warp;
use crate::memory::{Allocation, RaceCell};
use std::sync::atomic::Ordering;

impl Warp {
    /// Checks a global access against those before it in the launch.
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
    ) -> Result<(), Flow> {
        let cells = allocation.race_cells();
        if cells.is_null() {
            return Ok(());
        }
        // SAFETY: block and order are alive while their warps are, and no other reference to the order is.
        let (block, order) = unsafe { ((*self.block).linear, self.order()) };
        let strong = matches!(
            access.kind,
            Kind::Atomic | Kind::StrongLoad | Kind::StrongStore
        );
        let writes = access.kind.only_writes() || access.kind == Kind::Atomic;
        let me = Stamp {
            serial: self.launch().serial & cell::SERIAL_MAX,
            block,
            warp: self.index,
            tick: order.tick().min(cell::TICK_MAX),
            writes,
            strong,
        };
        if me.block > cell::BLOCK_MAX {
            return Ok(());
        }
        // SAFETY: the shadow has a cell for every eight bytes of the allocation.
        let cell = |granule: u64| unsafe { &*cells.add(granule as usize) };
        let whole = me.pack(cell::WHOLE);
        let mut ranges = Ranges::new(mask, addresses, u64::from(access.size));
        while let Some((start, end)) = ranges.next() {
            let (start, end) = (start - allocation.address, end - allocation.address);
            for granule in start >> cell::GRANULE_SHIFT..=(end - 1) >> cell::GRANULE_SHIFT {
                let first = granule << cell::GRANULE_SHIFT;
                let new = if start <= first && first + cell::GRANULE <= end {
                    whole
                } else {
                    me.pack(cell::touched(
                        start.max(first) - first,
                        (end - first).min(cell::GRANULE),
                    ))
                };
                let shadow: &RaceCell = cell(granule);
                let old = shadow.load(Ordering::Relaxed);
                if old == new {
                    continue;
                }
                // Mostly nobody has been there in this launch.
                if old >> cell::SERIAL_SHIFT != me.serial {
                    shadow.store(new, Ordering::Relaxed);
                    continue;
                }
                match self.race_with(&me, old, new, order) {
                    Ok(value) => shadow.store(value, Ordering::Relaxed),
                    Err(other) => {
                        return Err(self.report_global_race(
                            mask,
                            addresses,
                            access,
                            allocation,
                            (granule, &me, &other),
                        ));
                    }
                }
            }
        }
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
        (granule, me, other): (u64, &Stamp, &Stamp),
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

/// How an access is written down in eight bytes of shadow.
mod cell {
    /// A cell covers eight bytes.
    pub const GRANULE: u64 = 8;
    pub const GRANULE_SHIFT: u32 = 3;
    pub const SERIAL_MAX: u64 = (1 << 11) - 1;
    pub const SERIAL_SHIFT: u32 = 53;
    pub const BLOCK_MAX: u64 = (1 << 22) - 1;
    pub const TICK_MAX: u32 = (1 << 20) - 1;
    /// The halves touched, a bit each; above them the halves of which only some bytes were, which is too fine to tell
    /// them apart.
    pub const WHOLE: u64 = 3;
    const PARTLY_SHIFT: u32 = 2;
    pub const WRITES: u64 = 16;
    pub const STRONG: u64 = 32;

    /// The halves that bytes `low..high` of a cell touch.
    pub fn touched(low: u64, high: u64) -> u64 {
        let halves = u64::from(low < 4) | u64::from(high > 4) << 1;
        let whole = u64::from(low == 0 && high >= 4) | u64::from(low <= 4 && high == 8) << 1;
        halves | (halves & !whole) << PARTLY_SHIFT
    }

    /// Whether two accesses touch the same bytes, as far as cells tell.
    #[inline(always)]
    pub fn overlap(a: u64, b: u64) -> bool {
        let both = a & b;
        both & WHOLE & !(both >> PARTLY_SHIFT) != 0
    }

    /// One thread's accesses that differ in nothing but the bytes touched, as one.
    pub fn together(a: u64, b: u64) -> u64 {
        let whole = |cell: u64| cell & WHOLE & !(cell >> PARTLY_SHIFT);
        let (halves, whole) = ((a | b) & WHOLE, whole(a) | whole(b));
        b & !(WHOLE | WHOLE << PARTLY_SHIFT) | halves | (halves & !whole) << PARTLY_SHIFT
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn halves_are_told_apart_and_their_parts_are_not() {
            let at = touched;
            assert!(!overlap(at(0, 4), at(4, 8)));
            assert!(overlap(at(0, 4), at(2, 8)));
            assert!(!overlap(at(0, 1), at(1, 4)), "parts of one half");
            assert!(
                !overlap(at(0, 3), at(3, 8)),
                "parts of one half, and the other"
            );
            assert!(overlap(at(0, 6), at(4, 8)) && overlap(WHOLE, at(7, 8)));
            assert_eq!(together(at(0, 4), at(4, 5)), at(0, 5));
            assert_eq!(together(at(0, 1), at(0, 4)), at(0, 4));
            assert_eq!(together(at(0, 6), at(2, 8)), WHOLE);
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
        // 6 bits of flags, 20 of tick, 5 of warp, 22 of block, 11 of serial. A tick is never 0, and so is no stamp.
        let flags = touched
            | if self.writes { cell::WRITES } else { 0 }
            | if self.strong { cell::STRONG } else { 0 };
        flags
            | u64::from(self.tick) << 6
            | u64::from(self.warp) << 26
            | self.block << 31
            | self.serial << cell::SERIAL_SHIFT
    }

    #[inline(always)]
    fn unpack(bits: u64) -> Stamp {
        Stamp {
            serial: bits >> cell::SERIAL_SHIFT,
            block: bits >> 31 & cell::BLOCK_MAX,
            warp: (bits >> 26 & 31) as u32,
            tick: (bits >> 6) as u32 & cell::TICK_MAX,
            writes: bits & cell::WRITES != 0,
            strong: bits & cell::STRONG != 0,
        }
    }
}

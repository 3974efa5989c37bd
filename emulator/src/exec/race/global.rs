//! Races in global memory: a shadow of eight bytes for each eight bytes of an allocation.

use super::order::Order;
use crate::check::Check;
use crate::exec::access::{Access, Kind, bits};
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
        let mut conflict = None;
        'lanes: for lane in bits(mask) {
            let first = addresses[lane] - allocation.address;
            let end = first + u64::from(access.size);
            let mut at = first;
            while at < end {
                let granule = at >> cell::GRANULE_SHIFT;
                let next = ((granule + 1) << cell::GRANULE_SHIFT).min(end);
                let low = at & 7;
                let high = low + (next - at);
                // Halves touched; a piece that is no whole half is too fine for the shadow.
                let halves = u64::from(low < 4) | u64::from(high > 4) << 1;
                let partial = !low.is_multiple_of(4) || !high.is_multiple_of(4);
                at = next;
                // SAFETY: the shadow has a cell for every eight bytes of the allocation.
                let shadow: &RaceCell = unsafe { &*cells.add(granule as usize) };
                let old = shadow.load(Ordering::Relaxed);
                let new = me.pack(halves, partial);
                if old == new {
                    continue;
                }
                let before = Stamp::unpack(old);
                let current = old != 0 && before.serial == me.serial;
                if current && cell::overlap(old, new) {
                    let clash = (before.writes || writes) && !(before.strong && strong);
                    if clash && !self.is_ordered(&before, order) {
                        conflict = Some((lane, granule, before));
                        break 'lanes;
                    }
                }
                // A later read does not hide the write it came after.
                let same = current
                    && before.block == me.block
                    && before.warp == me.warp
                    && before.tick == me.tick;
                let value = if same && before.writes == writes && before.strong == strong {
                    new | old & cell::HALVES
                } else if current && before.writes && !writes {
                    continue;
                } else {
                    new
                };
                shadow.store(value, Ordering::Relaxed);
            }
        }
        match conflict {
            None => Ok(()),
            Some((lane, granule, other)) => {
                let verb = if writes { "write" } else { "read" };
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
                    "{verb} at {:#x}, byte {} of the allocation of {} bytes at {:#x}{name}, races with a {theirs} by {whom}: nothing orders them",
                    addresses[lane],
                    granule << cell::GRANULE_SHIFT,
                    allocation.size,
                    allocation.address,
                );
                Err(self.violation(Check::GlobalRace, 1 << lane, text))
            }
        }
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
    pub const GRANULE_SHIFT: u32 = 3;
    pub const SERIAL_MAX: u64 = (1 << 11) - 1;
    pub const BLOCK_MAX: u64 = (1 << 22) - 1;
    pub const TICK_MAX: u32 = (1 << 20) - 1;
    pub const HALVES: u64 = 3;
    pub const PARTIAL: u64 = 4;
    pub const WRITES: u64 = 8;
    pub const STRONG: u64 = 16;
    pub const VALID: u64 = 32;

    /// Whether two accesses touch the same bytes, as far as cells tell.
    #[inline(always)]
    pub fn overlap(a: u64, b: u64) -> bool {
        a & b & HALVES != 0 && a & b & PARTIAL == 0
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
    fn pack(self, halves: u64, partial: bool) -> u64 {
        // 6 bits of flags, 20 of tick, 5 of warp, 22 of block, 11 of serial.
        let flags = halves
            | if partial { cell::PARTIAL } else { 0 }
            | if self.writes { cell::WRITES } else { 0 }
            | if self.strong { cell::STRONG } else { 0 }
            | cell::VALID;
        flags
            | u64::from(self.tick) << 6
            | u64::from(self.warp) << 26
            | self.block << 31
            | self.serial << 53
    }

    #[inline(always)]
    fn unpack(bits: u64) -> Stamp {
        Stamp {
            serial: bits >> 53,
            block: bits >> 31 & cell::BLOCK_MAX,
            warp: (bits >> 26 & 31) as u32,
            tick: (bits >> 6) as u32 & cell::TICK_MAX,
            writes: bits & cell::WRITES != 0,
            strong: bits & cell::STRONG != 0,
        }
    }
}

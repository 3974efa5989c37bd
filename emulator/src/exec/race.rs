//! Which accesses are ordered, and a report where two that conflict are not.
//!
//! A block counts its ordering events in *ticks*. For each pair of warps it keeps the tick up to which the
//! one's accesses are ordered before whatever the other does next; barriers, releases seen by acquires, and
//! `bar.warp.sync` (for a warp and itself) move it on. An access is stamped with the tick it happened in, so
//! it is ordered before another warp's access exactly if its stamp is no later than that pair's tick.
//!
//! Within a warp, lanes are ordered by `bar.warp.sync` and barriers alone: that they often run in step is
//! nothing to rely on. Between blocks, only a release observed by an acquire orders: a fence and then an
//! atomic (or a `.release` one) on one side, an atomic and then a fence (or an `.acquire` one) on the other.
//! A fence that a barrier carries to the thread doing the atomic counts too.

use super::access::{Access, Kind, bits};
use super::program::Flow;
use super::warp::Warp;
use crate::check::Check;
use crate::memory::{Allocation, RaceCell};
use crate::ptx::ast::Space;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Ticks of the warps of one block.
type Ticks = Arc<[u32]>;
/// What is known of other blocks: ticks of their warps.
type Remote = Arc<HashMap<u64, Ticks>>;

/// What orders a block's accesses.
#[derive(Debug)]
pub struct BlockOrder {
    warps: usize,
    tick: u32,
    /// `[observer][observed]`.
    ordered: Vec<u32>,
    /// What each warp's last fence covers: `[warp][observed]`; zero before any.
    fenced: Vec<u32>,
    /// What each warp has read through atomics and a fence would make its own.
    observed: Vec<u32>,
    remote: Vec<Remote>,
    observed_remote: Vec<Remote>,
    barriers: [Option<Gathering>; 16],
    /// Releases on shared addresses.
    places: HashMap<u64, (Vec<u32>, Remote)>,
}

/// What arrivals at a barrier bring together.
#[derive(Debug, Clone)]
struct Gathering {
    ordered: Vec<u32>,
    fenced: Vec<u32>,
    remote: Remote,
}

/// Releases on global addresses, by address: what each block released.
pub type GlobalPlaces = Mutex<HashMap<u64, HashMap<u64, Ticks>>>;

fn join(into: &mut [u32], from: &[u32]) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

fn join_remote(into: &mut Remote, from: &Remote) {
    if from.is_empty() || Arc::ptr_eq(into, from) {
        return;
    }
    if into.is_empty() {
        *into = from.clone();
        return;
    }
    let map = Arc::make_mut(into);
    for (block, ticks) in from.iter() {
        join_ticks(map, *block, ticks);
    }
}

fn join_ticks(map: &mut HashMap<u64, Ticks>, block: u64, ticks: &Ticks) {
    match map.get_mut(&block) {
        None => {
            map.insert(block, ticks.clone());
        }
        Some(mine) if mine.iter().zip(ticks.iter()).all(|(a, b)| a >= b) => {}
        Some(mine) => {
            *mine = mine
                .iter()
                .zip(ticks.iter())
                .map(|(a, b)| *a.max(b))
                .collect()
        }
    }
}

impl BlockOrder {
    /// For `warps` warps.
    pub fn new(warps: usize) -> BlockOrder {
        BlockOrder {
            warps,
            tick: 1,
            ordered: vec![0; warps * warps],
            fenced: vec![0; warps * warps],
            observed: vec![0; warps * warps],
            remote: vec![Remote::default(); warps],
            observed_remote: vec![Remote::default(); warps],
            barriers: Default::default(),
            places: HashMap::new(),
        }
    }

    /// A new block.
    pub fn forget(&mut self) {
        *self = BlockOrder::new(self.warps);
    }

    fn row(&self, warp: usize) -> std::ops::Range<usize> {
        warp * self.warps..(warp + 1) * self.warps
    }

    /// A warp arrives at a barrier.
    pub fn arrive(&mut self, barrier: usize, warp: usize) {
        let row = self.row(warp);
        let count = self.warps;
        let gathering = self.barriers[barrier].get_or_insert_with(|| Gathering {
            ordered: vec![0; count],
            fenced: vec![0; count],
            remote: Remote::default(),
        });
        join(&mut gathering.ordered, &self.ordered[row.clone()]);
        gathering.ordered[warp] = self.tick;
        join(&mut gathering.fenced, &self.fenced[row]);
        join_remote(&mut gathering.remote, &self.remote[warp]);
        // What the warp does after arriving without waiting is not covered.
        self.tick += 1;
    }

    /// A barrier completes for the warps that waited.
    pub fn complete(&mut self, barrier: usize, warps: &[u32]) {
        let Some(gathering) = self.barriers[barrier].take() else {
            return;
        };
        for &warp in warps {
            let row = self.row(warp as usize);
            join(&mut self.ordered[row.clone()], &gathering.ordered);
            join(&mut self.fenced[row], &gathering.fenced);
            join_remote(&mut self.remote[warp as usize], &gathering.remote);
        }
        self.tick += 1;
    }

    fn syncwarp(&mut self, warp: usize) {
        self.ordered[warp * self.warps + warp] = self.tick;
        self.tick += 1;
    }

    fn fence(&mut self, warp: usize) {
        let row = self.row(warp);
        let observed = self.observed[row.clone()].to_vec();
        join(&mut self.ordered[row.clone()], &observed);
        let remote = self.observed_remote[warp].clone();
        join_remote(&mut self.remote[warp], &remote);
        let now: Vec<u32> = self.ordered[row.clone()].to_vec();
        self.fenced[row.clone()].copy_from_slice(&now);
        // The warp's own accesses up to here are covered whether or not its lanes have synchronised.
        self.fenced[row.start + warp] = self.tick;
        self.tick += 1;
    }

    /// What a release by `warp` publishes: everything before it, or before its last fence.
    fn release(&mut self, warp: usize, now: bool) -> Vec<u32> {
        let row = self.row(warp);
        if !now {
            return self.fenced[row].to_vec();
        }
        let mut ticks = self.ordered[row].to_vec();
        ticks[warp] = self.tick;
        self.tick += 1;
        ticks
    }

    fn known(&self, observer: usize, observed: usize) -> u32 {
        self.ordered[observer * self.warps + observed]
    }
}

/// Shadow of one word of shared memory.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    /// Tick of the last write; 0 where there was none.
    write_tick: u32,
    /// Tick of the first read that is not known to be ordered; 0 where there is none.
    read_tick: u32,
    /// Warps that read since.
    readers: u32,
    /// Warp of the last write.
    write_warp: u8,
    /// Lane of the last write.
    write_lane: u8,
    /// Bytes of the last write, and whether it was atomic (bit 7).
    write_bytes: u8,
    /// Lane of the reads, or [`MANY`]; bit 7 where all were atomic.
    read_lane: u8,
}

const MANY: u8 = 0x40;
const STRONG: u8 = 0x80;

/// Shadow of a block's shared memory.
#[derive(Debug)]
pub struct SharedRaces {
    words: Vec<Word>,
    len: usize,
}

impl SharedRaces {
    /// For `len` bytes; the shadow is made when the check first wants it.
    pub fn new(len: usize) -> SharedRaces {
        SharedRaces {
            words: Vec::new(),
            len,
        }
    }

    /// A new block.
    pub fn forget(&mut self) {
        self.words.fill(Word::default());
    }
}

/// The words that `size` bytes at a shared address touch, and which of their bytes.
#[inline(always)]
fn words_of(address: u64, size: u32) -> impl Iterator<Item = (usize, u8)> {
    let mut at = address as u32 as usize;
    let end = at + size as usize;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let low = at & 3;
        let take = (4 - low).min(end - at);
        let word = at >> 2;
        at += take;
        Some((word, (((1u32 << take) - 1) << low) as u8))
    })
}

/// The two sides of a race in shared memory.
struct Conflict {
    lane: usize,
    word: usize,
    other_warp: u32,
    other_lane: u8,
    other_wrote: bool,
}

impl Warp {
    /// Checks a shared access against those before it.
    ///
    /// # Errors
    /// The flow to return where it races.
    #[inline(always)]
    pub fn shared_race(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        // SAFETY: no other reference to the block is alive while a handler runs.
        let block = unsafe { self.block() };
        let me = self.index as usize;
        let order = &block.order;
        let shadow = &mut block.shared.race;
        if shadow.words.is_empty() {
            shadow.words = vec![Word::default(); shadow.len.div_ceil(4)];
        }
        let strong = matches!(
            access.kind,
            Kind::Atomic | Kind::StrongLoad | Kind::StrongStore
        );
        let writes = access.kind.only_writes() || access.kind == Kind::Atomic;
        let reads = access.kind.reads() && access.kind != Kind::Atomic;
        let own = order.known(me, me);
        let tick = order.tick;
        let mut conflict = None;
        // All lanes are held against what was before; what they do together in one instruction is no race among
        // them (of several that write a word, one leaves its value).
        'lanes: for lane in bits(mask) {
            for (word, bytes) in words_of(addresses[lane], access.size) {
                let cell = &mut shadow.words[word];
                // Against the last write.
                if cell.write_tick != 0
                    && cell.write_bytes & bytes & 0xf != 0
                    && !(strong && cell.write_bytes & STRONG != 0)
                {
                    let warp = usize::from(cell.write_warp);
                    let same_lane = warp == me && usize::from(cell.write_lane) == lane;
                    let known = if warp == me {
                        own
                    } else {
                        order.known(me, warp)
                    };
                    if !same_lane && cell.write_tick > known {
                        conflict = Some(Conflict {
                            lane,
                            word,
                            other_warp: warp as u32,
                            other_lane: cell.write_lane,
                            other_wrote: true,
                        });
                        break 'lanes;
                    }
                }
                // A write against the reads since.
                if writes && cell.readers != 0 && !(strong && cell.read_lane & STRONG != 0) {
                    for warp in bits(cell.readers) {
                        let known = if warp == me {
                            own
                        } else {
                            order.known(me, warp)
                        };
                        let lane_of = cell.read_lane & !STRONG;
                        let same_lane = warp == me && usize::from(lane_of) == lane;
                        if !same_lane && cell.read_tick > known {
                            conflict = Some(Conflict {
                                lane,
                                word,
                                other_warp: warp as u32,
                                other_lane: lane_of,
                                other_wrote: false,
                            });
                            break 'lanes;
                        }
                    }
                }
                if reads {
                    let stale = cell.readers == 0
                        || bits(cell.readers).all(|warp| cell.read_tick <= order.known(me, warp));
                    let flag = if strong { STRONG } else { 0 };
                    let bit = 1 << me;
                    if stale {
                        cell.readers = bit;
                        cell.read_tick = tick;
                        cell.read_lane = lane as u8 | flag;
                    } else {
                        cell.readers |= bit;
                        let lane_of = cell.read_lane & !STRONG;
                        let keep = if usize::from(lane_of) == lane {
                            lane_of
                        } else {
                            MANY
                        };
                        cell.read_lane = keep | (cell.read_lane & flag);
                    }
                }
            }
        }
        if writes && conflict.is_none() {
            for lane in bits(mask) {
                for (word, bytes) in words_of(addresses[lane], access.size) {
                    let cell = &mut shadow.words[word];
                    // Parts of a word written one after another by one lane add up, and an atomic after the
                    // lane's own plain store does not make that one atomic.
                    let more = cell.write_tick == tick
                        && usize::from(cell.write_warp) == me
                        && usize::from(cell.write_lane) == lane;
                    let (kept, weak) = if more {
                        (cell.write_bytes & 0xf, cell.write_bytes & STRONG == 0)
                    } else {
                        (0, false)
                    };
                    *cell = Word {
                        write_tick: tick,
                        write_warp: me as u8,
                        write_lane: lane as u8,
                        write_bytes: kept | bytes | if strong && !weak { STRONG } else { 0 },
                        ..Word::default()
                    };
                }
            }
        }
        match conflict {
            None => Ok(()),
            Some(conflict) => Err(self.report_shared_race(conflict, access)),
        }
    }

    #[cold]
    fn report_shared_race(&mut self, c: Conflict, access: Access) -> Flow {
        let verb = if access.kind.reads() { "read" } else { "write" };
        let other = if c.other_wrote { "write" } else { "read" };
        let who = if c.other_warp == self.index {
            if c.other_lane & MANY != 0 {
                "other lanes of the same warp".to_string()
            } else {
                format!("lane {} of the same warp", c.other_lane)
            }
        } else {
            format!("warp {}", c.other_warp)
        };
        let missing = if c.other_warp == self.index {
            "__syncwarp"
        } else {
            "barrier"
        };
        let text = format!(
            "{verb} at shared address {:#x} by warp {} lane {} races with a {other} by {who}: no {missing} between them",
            c.word * 4,
            self.index,
            c.lane
        );
        self.violation(Check::SharedRace, 1 << c.lane, text)
    }

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
        // SAFETY: no other reference to the block is alive while a handler runs.
        let block = unsafe { self.block() };
        let strong = matches!(
            access.kind,
            Kind::Atomic | Kind::StrongLoad | Kind::StrongStore
        );
        let writes = access.kind.only_writes() || access.kind == Kind::Atomic;
        let me = Stamp {
            serial: self.launch().serial & cell::SERIAL_MAX,
            block: block.linear,
            warp: self.index,
            tick: block.order.tick.min(cell::TICK_MAX),
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
                    if clash && !ordered(&before, &me, &block.order, self.index as usize) {
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

    fn order_checked(&self) -> bool {
        let checks = self.launch().checks;
        checks.has(Check::SharedRace) || checks.has(Check::GlobalRace)
    }

    /// A `bar.warp.sync` ordered the lanes.
    pub fn synchronised(&mut self, _mask: u32) {
        if self.order_checked() {
            // SAFETY: no other reference to the block is alive while a handler runs.
            unsafe { self.block() }.order.syncwarp(self.index as usize);
        }
    }

    /// A fence by the lanes. One of the block's scope alone orders nothing between blocks, which have their
    /// own atomics' scopes to answer for; both are taken alike.
    pub fn fenced(&mut self, _mask: u32, _block_only: bool) {
        if self.order_checked() {
            // SAFETY: no other reference to the block is alive while a handler runs.
            unsafe { self.block() }.order.fence(self.index as usize);
        }
    }

    /// A release (`now`), or an atomic or strong write that publishes what the last fence covers, on the
    /// lanes' addresses.
    pub fn publish(&mut self, mask: u32, addresses: &[u64; 32], access: Access, now: bool) {
        if !self.order_checked() {
            return;
        }
        // SAFETY: no other reference to the block is alive while a handler runs.
        let block = unsafe { self.block() };
        let me = self.index as usize;
        let ticks = block.order.release(me, now);
        let remote = block.order.remote[me].clone();
        if ticks.iter().all(|&t| t == 0) && remote.is_empty() {
            return;
        }
        for lane in bits(mask) {
            let address = addresses[lane];
            if self.is_shared(address, access) {
                let place = block
                    .order
                    .places
                    .entry(address & 0xffff_ffff)
                    .or_insert_with(|| (vec![0; ticks.len()], Remote::default()));
                join(&mut place.0, &ticks);
                join_remote(&mut place.1, &remote);
            } else {
                let mut places = self
                    .launch()
                    .places
                    .lock()
                    .unwrap_or_else(|e| e.into_inner());
                let place = places.entry(address).or_default();
                join_ticks(place, block.linear, &Ticks::from(ticks.as_slice()));
                for (other, ticks) in remote.iter() {
                    join_ticks(place, *other, ticks);
                }
            }
        }
    }

    /// An acquire (`now`), or an atomic or strong read that a later fence turns into one, on the lanes'
    /// addresses.
    pub fn observe(&mut self, mask: u32, addresses: &[u64; 32], access: Access, now: bool) {
        if !self.order_checked() {
            return;
        }
        // SAFETY: no other reference to the block is alive while a handler runs.
        let block = unsafe { self.block() };
        let me = self.index as usize;
        let row = block.order.row(me);
        for lane in bits(mask) {
            let address = addresses[lane];
            let (ticks, remote) = if self.is_shared(address, access) {
                match block.order.places.get(&(address & 0xffff_ffff)) {
                    Some((ticks, remote)) => (Some(ticks.clone()), remote.clone()),
                    None => continue,
                }
            } else {
                let places = self
                    .launch()
                    .places
                    .lock()
                    .unwrap_or_else(|e| e.into_inner());
                let Some(place) = places.get(&address) else {
                    continue;
                };
                let own = place.get(&block.linear).map(|t| t.to_vec());
                let others = place
                    .iter()
                    .filter(|(b, _)| **b != block.linear)
                    .map(|(b, t)| (*b, t.clone()))
                    .collect();
                (own, Arc::new(others))
            };
            let order = &mut block.order;
            let (into, into_remote) = if now {
                (&mut order.ordered, &mut order.remote)
            } else {
                (&mut order.observed, &mut order.observed_remote)
            };
            if let Some(ticks) = ticks {
                join(&mut into[row.clone()], &ticks);
            }
            join_remote(&mut into_remote[me], &remote);
        }
    }

    fn is_shared(&self, address: u64, access: Access) -> bool {
        match access.space {
            Some(space) => space == Space::Shared,
            None => super::access::window(address) == Space::Shared,
        }
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

/// Whether `before` is ordered before what warp `me` of `now`'s block does now.
fn ordered(before: &Stamp, now: &Stamp, order: &BlockOrder, me: usize) -> bool {
    // A tick that ran over its bits says nothing.
    if before.tick == cell::TICK_MAX {
        return true;
    }
    if before.block == now.block {
        return before.warp == now.warp || before.tick <= order.known(me, before.warp as usize);
    }
    match order.remote[me].get(&before.block) {
        Some(ticks) => ticks
            .get(before.warp as usize)
            .is_some_and(|&t| before.tick <= t),
        None => false,
    }
}

//! What is known of the accesses to four cells side by side: the four words of 16 bytes of shared memory, or the four
//! bytes of a word. Four, and field by field, because that is a vector: what mostly holds is decided for all four at
//! once, and what that leaves open one by one.

use super::four::Four;
use crate::exec::access::bits;

/// Shadow of four cells.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Quad {
    /// Tick of the last write; 0 where there was none. Of a cell that is [`SPLIT`], where its parts are, as what is
    /// later than any tick.
    pub(super) write_tick: [u32; 4],
    /// Lane and warp of the last write, flags, and the lane of the reads since.
    pub(super) notes: [u32; 4],
    /// Tick of the reads since the last write: of the last one, where one warp has read; of several warps' reads, of
    /// the first that is not known to be ordered. 0 where there is none.
    pub(super) read_tick: [u32; 4],
    /// Warps of the block itself that read since the last write.
    pub(super) readers: [u32; 4],
}

/// The last tick that there can be. A block that gets so far is held to have done all of it at once.
pub const LAST_TICK: u32 = (1 << 30) - 1;
/// Added to where the parts of a cell are.
const AFTER_ALL: u32 = LAST_TICK + 1;

/// The last write's lane, and its warp of the cluster above that.
pub(super) const WRITER: u32 = 0x1fff;
pub(super) const WRITER_WARP: u32 = 0x1fe0;
const WRITER_LANE_BITS: u32 = 5;
/// Bytes of the word that were read at the last read's tick: of an [`OWNED`] one those that its owner has read, of
/// another all; from [`WRITTEN_SHIFT`] on stand those that were written.
const READ_SHIFT: u32 = 13;
/// Where the lane of the reads stands, or [`MANY`].
pub(super) const READ_LANE_SHIFT: u32 = 17;
pub(super) const READ_LANE: u32 = 0x3f << READ_LANE_SHIFT;
/// Several lanes have read.
pub(super) const MANY: u32 = 0x20 << READ_LANE_SHIFT;
/// All the reads since the last write were atomic, or such that threads agree to share the place.
pub(super) const STRONG_READ: u32 = 1 << 23;
/// The last write was.
pub(super) const STRONG_WRITE: u32 = 1 << 24;
/// The word's bytes have cells of their own, which count instead of this one.
pub const SPLIT: u32 = 1 << 25;
/// Warps of other blocks have read since: they are in a list.
pub const FAR: u32 = 1 << 26;
/// Of all that is not known to everybody, one lane did everything, at one tick, to some bytes of the word.
pub const OWNED: u32 = 1 << 27;
const WRITTEN_SHIFT: u32 = 28;
pub(super) const ALL_READ: u32 = 15 << READ_SHIFT;
pub(super) const ALL_WRITTEN: u32 = 15 << WRITTEN_SHIFT;

/// Which cells of a quad, by the bits of a number.
const SELECTED: [[u32; 4]; 16] = {
    let mut table = [[0; 4]; 16];
    let mut n = 0;
    while n < 64 {
        table[n / 4][n % 4] = if (n / 4) >> (n % 4) & 1 != 0 {
            u32::MAX
        } else {
            0
        };
        n += 1;
    }
    table
};

/// The one who accesses now.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// Warp of the cluster.
    pub warp: u32,
    /// Its bit among the warps of the memory's block; 0 for a warp of another block.
    pub bit: u32,
    /// Now.
    pub tick: u32,
    /// Up to when the warp's own accesses are ordered before what any of its lanes does.
    pub own: u32,
    /// Up to when those of all other warps are, at the least.
    pub others: u32,
    /// Up to when those of any other warp are, at the most.
    pub most: u32,
    /// Up to when everybody's accesses are ordered before what anybody does.
    pub settled: u32,
    /// Atomic, or such that threads agree to share the place.
    pub strong: bool,
}

impl Side {
    #[inline(always)]
    pub(super) fn writer(&self, lane: usize) -> u32 {
        self.warp << WRITER_LANE_BITS | lane as u32
    }
}

/// The other one, in a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// Warp of the cluster.
    pub warp: usize,
    /// Lane; `None` for several.
    pub lane: Option<u32>,
    /// Whether it wrote.
    pub wrote: bool,
}

/// The cells of `select`, as a mask.
#[inline(always)]
fn selected(select: u32) -> Four {
    Four::new(SELECTED[select as usize & 15])
}

/// A write: warp of the cluster, lane and tick.
pub type Write = (usize, usize, u32);

impl Quad {
    /// The last write to cell `k`, where one is known.
    pub fn last_write(&self, k: usize) -> Option<Write> {
        let writer = self.notes[k] & WRITER;
        let lane = writer & ((1 << WRITER_LANE_BITS) - 1);
        let warp = writer >> WRITER_LANE_BITS;
        (self.write_tick[k] != 0).then_some((warp as usize, lane as usize, self.write_tick[k]))
    }

    /// Flags of cell `k`.
    #[inline(always)]
    pub fn flags(&self, k: usize) -> u32 {
        self.notes[k]
    }

    /// Whether any of the cells of `select` has a flag.
    #[inline(always)]
    pub fn has(&self, select: u32, flag: u32) -> bool {
        let flags = Four::new(self.notes).and(Four::all(flag));
        flags.and(selected(select)).any()
    }

    /// Sets a flag of cell `k`.
    pub fn set(&mut self, k: usize, flag: u32) {
        self.notes[k] |= flag;
    }

    /// Takes a flag off cell `k`.
    pub fn clear(&mut self, k: usize, flag: u32) {
        self.notes[k] &= !flag;
    }

    /// Splits cell `k`: four cells that know what it does, which it says are at `place` from now on.
    pub fn split(&mut self, k: usize, place: u32) -> Quad {
        let note = self.notes[k];
        let written = selected(note >> WRITTEN_SHIFT);
        let read = selected(note >> READ_SHIFT);
        let parts = Quad {
            write_tick: written.and(Four::all(self.write_tick[k])).array(),
            notes: Four::all(note & (WRITER | READ_LANE | STRONG_READ | STRONG_WRITE)).array(),
            read_tick: read.and(Four::all(self.read_tick[k])).array(),
            readers: read.and(Four::all(self.readers[k])).array(),
        };
        // By vectors, as they are read: a read of four waits for a write of one.
        let chosen = selected(1 << k);
        let ticks = Four::new(self.write_tick);
        self.write_tick = chosen.choose(Four::all(AFTER_ALL | place), ticks).array();
        let notes = Four::new(self.notes);
        let new = Four::all(note & FAR | SPLIT);
        self.notes = chosen.choose(new, notes).array();
        parts
    }

    /// Whether lane `lane`'s access to `bytes` of the word whose cell is `k` leaves it [`OWNED`] by that lane, and so
    /// races with nothing; if so, notes it where `noted` says.
    #[inline(always)]
    pub fn own<const WRITES: bool>(
        &mut self,
        k: usize,
        side: &Side,
        lane: usize,
        bytes: u32,
        noted: bool,
    ) -> bool {
        let (note, write_tick, read_tick) = (self.notes[k], self.write_tick[k], self.read_tick[k]);
        let me = side.writer(lane) | (lane as u32) << READ_LANE_SHIFT;
        let apart = note ^ me;
        let write_settled = write_tick <= side.settled;
        let write_mine = (apart & (WRITER | STRONG_WRITE) == 0) & (write_tick == side.tick);
        let read_settled = read_tick <= side.settled;
        let read_mine = (apart & (READ_LANE | STRONG_READ) == 0)
            & (self.readers[k] == side.bit)
            & (read_tick == side.tick);
        let owned = (write_settled | write_mine) & (read_settled | read_mine);
        if !owned | side.strong | (note & FAR != 0) {
            return false;
        }
        if !noted {
            return true;
        }
        let written = if write_settled { 0 } else { note & ALL_WRITTEN };
        let read = if read_settled { 0 } else { note & ALL_READ };
        let (written, read) = if WRITES {
            (
                written | bytes << WRITTEN_SHIFT,
                read & !(bytes << READ_SHIFT),
            )
        } else {
            (written, read | bytes << READ_SHIFT)
        };
        self.notes[k] = me | OWNED | written | read;
        self.write_tick[k] = if written != 0 { side.tick } else { 0 };
        self.read_tick[k] = if read != 0 { side.tick } else { 0 };
        self.readers[k] = if read != 0 { side.bit } else { 0 };
        true
    }

    /// Makes cell `k`, which is [`SPLIT`], one of which nothing is known; where its parts were.
    #[inline(always)]
    pub fn join(&mut self, k: usize) -> u32 {
        let place = self.write_tick[k] & LAST_TICK;
        let chosen = selected(1 << k);
        for field in [
            &mut self.write_tick,
            &mut self.notes,
            &mut self.read_tick,
            &mut self.readers,
        ] {
            *field = chosen.out_of(Four::new(*field)).array();
        }
        place
    }

    /// Where the cells of the bytes of cell `k` are, which is [`SPLIT`].
    #[inline(always)]
    pub fn parts(&self, k: usize) -> usize {
        (self.write_tick[k] & LAST_TICK) as usize
    }

    /// Where the reads are not known to be ordered before what the warp does now; and where no other warp has read.
    #[inline(always)]
    pub(super) fn late_reads(&self, side: &Side) -> (Four, Four) {
        let readers = Four::new(self.readers);
        let alone = Four::all(side.bit).out_of(readers).equals(Four::all(0));
        let all = Four::all(side.own.min(side.others));
        let limit = alone.choose(Four::all(side.own), all);
        (Four::new(self.read_tick).exceeds(limit), alone)
    }

    /// Whether a glance shows that lane `lane`'s access to the cells of `select` races with nothing, and that
    /// [`Quad::read_all`] may note it.
    #[inline(always)]
    pub fn plainly_sound<const WRITES: bool>(&self, side: &Side, lane: usize, select: u32) -> bool {
        let none = Four::all(0);
        let notes = Four::new(self.notes);
        let has = |flag: u32| notes.and(Four::all(flag)).exceeds(none);
        let strong = |flag: u32| has(if side.strong { flag } else { 0 });
        let apart = notes.xor(Four::all(side.writer(lane)));
        let same_warp = apart.and(Four::all(WRITER_WARP)).equals(none);
        let same_lane = apart.and(Four::all(WRITER)).equals(none);
        let limit = same_warp.choose(Four::all(side.own), Four::all(side.others));
        let late = Four::new(self.write_tick).exceeds(limit);
        let written = same_lane.or(strong(STRONG_WRITE)).out_of(late);
        let (late, alone) = self.late_reads(side);
        let odd = if WRITES {
            let at = Four::all((lane as u32) << READ_LANE_SHIFT);
            let own = alone.and(notes.and(Four::all(READ_LANE)).equals(at));
            own.or(strong(STRONG_READ))
                .out_of(late)
                .or(has(SPLIT | FAR))
        } else {
            // Later than what is known of anybody, the reads of others are certain not to be ordered.
            let certain = Four::new(self.read_tick).exceeds(Four::all(side.most));
            alone
                .or(certain)
                .out_of(late)
                .or(has(OWNED).and(late))
                .or(has(SPLIT))
        };
        !written.or(odd).and(selected(select)).any()
    }

    /// Notes a read of the cells of `select`, where [`Quad::plainly_sound`] said so.
    #[inline(always)]
    pub fn read_all(&mut self, side: &Side, lane: usize, select: u32) {
        let notes = Four::new(self.notes);
        let (late, alone) = self.late_reads(side);
        let at = Four::all((lane as u32) << READ_LANE_SHIFT);
        let again = notes.and(Four::all(READ_LANE)).equals(at);
        // A lane's later read takes the place of its earlier one.
        let merged = alone.and(again).out_of(late);
        let lanes = again.out_of(merged).choose(Four::all(MANY), at);
        let strong = if side.strong {
            let weak = notes.and(Four::all(STRONG_READ)).equals(Four::all(0));
            weak.and(late).out_of(Four::all(STRONG_READ))
        } else {
            Four::all(0)
        };
        let read = Four::all(READ_LANE | STRONG_READ)
            .out_of(notes)
            .or(lanes)
            .or(strong)
            .or(Four::all(ALL_READ));
        let old = Four::new(self.read_tick);
        // Of a warp's reads that nothing orders among its lanes, the last is the first to be unordered for others.
        let tick = alone.out_of(merged).choose(old, Four::all(side.tick));
        let readers = Four::new(self.readers);
        let all = merged.and(readers).or(Four::all(side.bit));
        let selected = selected(select);
        self.notes = selected.choose(read, notes).array();
        self.read_tick = selected.choose(tick, old).array();
        self.readers = selected.choose(all, readers).array();
    }

    /// Notes a write of the cells of `select`.
    #[inline(always)]
    pub fn write_all(&mut self, side: &Side, lane: usize, select: u32) {
        let none = Four::all(0);
        let me = Four::all(side.writer(lane) | ALL_WRITTEN);
        let now = Four::all(side.tick);
        let notes = Four::new(self.notes);
        let ticks = Four::new(self.write_tick);
        let new = if side.strong {
            // An atomic after the lane's own plain store does not make that one atomic.
            let same = notes.xor(me).and(Four::all(WRITER)).equals(none);
            let weak = notes.and(Four::all(STRONG_WRITE)).equals(none);
            let more = same.and(weak).and(ticks.equals(now));
            me.or(more.out_of(Four::all(STRONG_WRITE)))
        } else {
            me
        };
        let selected = selected(select);
        self.notes = selected.choose(new, notes).array();
        self.write_tick = selected.choose(now, ticks).array();
        self.read_tick = selected.out_of(Four::new(self.read_tick)).array();
        self.readers = selected.out_of(Four::new(self.readers)).array();
    }

    /// Whom an access to cell `k` races with, by what `known` says of each warp: up to when its accesses are ordered
    /// before this. `first` is the number of the block's first warp.
    pub fn clash(
        &self,
        k: usize,
        side: &Side,
        lane: usize,
        writes: bool,
        first: usize,
        known: impl Fn(usize) -> u32,
    ) -> Option<Other> {
        let note = self.notes[k];
        let writer = note & WRITER;
        if writer != side.writer(lane) && !(side.strong && note & STRONG_WRITE != 0) {
            let warp = (writer >> WRITER_LANE_BITS) as usize;
            if self.write_tick[k] > known(warp) {
                return Some(Other {
                    warp,
                    lane: Some(writer & ((1 << WRITER_LANE_BITS) - 1)),
                    wrote: true,
                });
            }
        }
        if !writes || side.strong && note & STRONG_READ != 0 {
            return None;
        }
        let read_lane = self.read_lane(k);
        bits(self.readers[k])
            .map(|bit| first + bit)
            .find(|&warp| {
                let same = warp == side.warp as usize && read_lane == Some(lane as u32);
                !same && self.read_tick[k] > known(warp)
            })
            .map(|warp| Other {
                warp,
                lane: read_lane,
                wrote: false,
            })
    }

    /// The lane that has read cell `k`; `None` for several.
    fn read_lane(&self, k: usize) -> Option<u32> {
        let lane = self.notes[k] & READ_LANE;
        (lane & MANY == 0).then_some(lane >> READ_LANE_SHIFT)
    }

    /// Notes a read of cell `k`, by what `known` says of each warp.
    pub fn read(
        &mut self,
        k: usize,
        side: &Side,
        lane: usize,
        first: usize,
        known: impl Fn(usize) -> u32,
    ) {
        let note = self.notes[k];
        let at = (lane as u32) << READ_LANE_SHIFT;
        let stale = bits(self.readers[k]).all(|bit| self.read_tick[k] <= known(first + bit));
        let alone = self.readers[k] & !side.bit == 0;
        if stale || alone {
            self.read_tick[k] = side.tick;
        }
        let lanes = if stale || alone && note & READ_LANE == at {
            self.readers[k] = side.bit;
            at
        } else {
            self.readers[k] |= side.bit;
            if note & READ_LANE == at { at } else { MANY }
        };
        let strong = side.strong && (stale || note & STRONG_READ != 0);
        let strong = if strong { STRONG_READ } else { 0 };
        self.notes[k] = note & !(READ_LANE | STRONG_READ) | lanes | strong | ALL_READ;
    }
}

//! What is known of the accesses to a cell of shared memory, and how an access is held against it. A cell is a word, a
//! byte of a word whose bytes are told apart, or 16 bytes that instructions access as one.

use super::four::Four;
use crate::exec::access::bits;

/// Shadow of a cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Cell {
    /// Tick of the last write; 0 where there was none. Of a cell that is [`SPLIT`], where its parts are, as what is
    /// later than any tick.
    pub(super) write_tick: u32,
    /// Tick of the reads since the last write: of the last one, where one warp has read; of several warps' reads, of
    /// the first that is not known to be ordered. 0 where there is none.
    pub(super) read_tick: u32,
    /// Lane and warp of the last write, flags, and the lane of the reads since.
    pub(super) notes: u32,
    /// Warps of the block itself that read since the last write.
    pub(super) readers: u32,
}

/// Four cells side by side: the words of 16 bytes, or the bytes of a word.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Quad(pub [Cell; 4]);

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
/// There are reads since the last write that are in a list.
pub const FAR: u32 = 1 << 26;
/// Of all that is not known to everybody, one lane did everything, at one tick, to some bytes of the word.
pub const OWNED: u32 = 1 << 27;
const WRITTEN_SHIFT: u32 = 28;
pub(super) const ALL_READ: u32 = 15 << READ_SHIFT;
pub(super) const ALL_WRITTEN: u32 = 15 << WRITTEN_SHIFT;

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

/// A write: warp of the cluster, lane and tick.
pub type Write = (usize, usize, u32);

impl Cell {
    /// Of 16 bytes whose words are told apart.
    pub(super) const IN_PARTS: Cell = Cell {
        write_tick: AFTER_ALL,
        read_tick: 0,
        notes: SPLIT,
        readers: 0,
    };

    /// As a vector, field by field.
    #[inline(always)]
    pub(super) fn vector(self) -> Four {
        Four::new([self.write_tick, self.read_tick, self.notes, self.readers])
    }

    /// Of a vector, field by field.
    #[inline(always)]
    pub(super) fn of(vector: Four) -> Cell {
        let [write_tick, read_tick, notes, readers] = vector.array();
        Cell {
            write_tick,
            read_tick,
            notes,
            readers,
        }
    }

    /// The last write, where one is known.
    pub fn last_write(&self) -> Option<Write> {
        let writer = self.notes & WRITER;
        let lane = writer & ((1 << WRITER_LANE_BITS) - 1);
        let warp = writer >> WRITER_LANE_BITS;
        (self.write_tick != 0).then_some((warp as usize, lane as usize, self.write_tick))
    }

    /// Whether it has any of these flags.
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.notes & flags != 0
    }

    /// Sets a flag.
    pub fn set(&mut self, flag: u32) {
        self.notes |= flag;
    }

    /// Takes a flag off.
    pub fn clear(&mut self, flag: u32) {
        self.notes &= !flag;
    }

    /// Splits a word's cell: those of its bytes, which know what it does, and which it says are at `place` from now on.
    pub fn split(&mut self, place: u32) -> Quad {
        let old = *self;
        let shared = old.notes & (WRITER | READ_LANE | STRONG_READ | STRONG_WRITE);
        *self = Cell {
            write_tick: AFTER_ALL | place,
            notes: old.notes & FAR | SPLIT,
            ..Cell::default()
        };
        Quad(std::array::from_fn(|byte| {
            let written = old.notes >> WRITTEN_SHIFT >> byte & 1 != 0;
            let read = old.notes >> READ_SHIFT >> byte & 1 != 0;
            Cell {
                write_tick: if written { old.write_tick } else { 0 },
                read_tick: if read { old.read_tick } else { 0 },
                notes: shared,
                readers: if read { old.readers } else { 0 },
            }
        }))
    }

    /// Where the cells of its parts are: it is [`SPLIT`].
    #[inline(always)]
    pub fn parts(&self) -> usize {
        (self.write_tick & LAST_TICK) as usize
    }

    /// Whether nothing is known of it that is not known to everybody.
    #[inline(always)]
    pub fn is_settled(&self, side: &Side) -> bool {
        // What is split is later than any tick; of listed reads the cell does not know.
        (self.write_tick <= side.settled) & (self.read_tick <= side.settled) & !self.has(FAR)
    }

    /// Whether lane `lane`'s access to `bytes` of the word leaves its cell [`OWNED`] by that lane, and so races with
    /// nothing; if so, notes it where `noted` says.
    #[inline(always)]
    pub fn own<const WRITES: bool>(
        &mut self,
        side: &Side,
        lane: usize,
        bytes: u32,
        noted: bool,
    ) -> bool {
        let Cell {
            write_tick,
            read_tick,
            notes,
            readers,
        } = *self;
        let me = side.writer(lane) | (lane as u32) << READ_LANE_SHIFT;
        let apart = notes ^ me;
        let write_settled = write_tick <= side.settled;
        let write_mine = (apart & (WRITER | STRONG_WRITE) == 0) & (write_tick == side.tick);
        let read_settled = read_tick <= side.settled;
        let read_mine = (apart & (READ_LANE | STRONG_READ) == 0)
            & (readers == side.bit)
            & (read_tick == side.tick);
        let owned = (write_settled | write_mine) & (read_settled | read_mine);
        if !owned | side.strong | self.has(FAR) {
            return false;
        }
        if !noted {
            return true;
        }
        let written = if write_settled {
            0
        } else {
            notes & ALL_WRITTEN
        };
        let read = if read_settled { 0 } else { notes & ALL_READ };
        let (written, read) = if WRITES {
            (
                written | bytes << WRITTEN_SHIFT,
                read & !(bytes << READ_SHIFT),
            )
        } else {
            (written, read | bytes << READ_SHIFT)
        };
        *self = Cell {
            write_tick: if written != 0 { side.tick } else { 0 },
            read_tick: if read != 0 { side.tick } else { 0 },
            notes: me | OWNED | written | read,
            readers: if read != 0 { side.bit } else { 0 },
        };
        true
    }

    /// Whether its reads are not known to be ordered before what the warp does now; and whether no other warp has read.
    #[inline(always)]
    fn late_reads(&self, side: &Side) -> (bool, bool) {
        let alone = self.readers & !side.bit == 0;
        let limit = if alone {
            side.own
        } else {
            side.own.min(side.others)
        };
        (self.read_tick > limit, alone)
    }

    /// Whether a glance shows that lane `lane`'s access races with nothing, and that [`Cell::read_plainly`] may note it.
    #[inline(always)]
    pub fn plainly_sound<const WRITES: bool>(&self, side: &Side, lane: usize) -> bool {
        let strong = |flag: u32| side.strong && self.has(flag);
        let apart = self.notes ^ side.writer(lane);
        let limit = if apart & WRITER_WARP == 0 {
            side.own
        } else {
            side.others
        };
        let same_lane = apart & WRITER == 0;
        if self.write_tick > limit && !same_lane && !strong(STRONG_WRITE) {
            return false;
        }
        let (late, alone) = self.late_reads(side);
        if WRITES {
            let own = alone && self.notes & READ_LANE == (lane as u32) << READ_LANE_SHIFT;
            !self.has(SPLIT | FAR) && (!late || own || strong(STRONG_READ))
        } else {
            // Later than what is known of anybody, the reads of others are certain not to be ordered.
            let certain = self.read_tick > side.most;
            let plain = (alone || certain) && !self.has(OWNED) && !self.mixes(side);
            !self.has(SPLIT) && (!late || plain)
        }
    }

    /// Whether there are reads, not known to everybody, that are atomic where the access is not, or the other way round.
    /// Of its reads a cell knows whether all were atomic, and not which.
    #[inline(always)]
    pub fn mixes(&self, side: &Side) -> bool {
        self.read_tick > side.settled && self.has(STRONG_READ) != side.strong
    }

    /// Notes a read, where [`Cell::plainly_sound`] said so.
    #[inline(always)]
    pub fn read_plainly(&mut self, side: &Side, lane: usize) {
        let (late, alone) = self.late_reads(side);
        let at = (lane as u32) << READ_LANE_SHIFT;
        let again = self.notes & READ_LANE == at;
        // A lane's later read takes the place of its earlier one.
        let merged = late && !(alone && again);
        let lanes = if merged && !again { MANY } else { at };
        let strong = if side.strong && (!late || self.has(STRONG_READ)) {
            STRONG_READ
        } else {
            0
        };
        self.notes = self.notes & !(READ_LANE | STRONG_READ) | lanes | strong | ALL_READ;
        // Of a warp's reads that nothing orders among its lanes, the last is the first to be unordered for others.
        if !merged || alone {
            self.read_tick = side.tick;
        }
        self.readers = if merged { self.readers } else { 0 } | side.bit;
    }

    /// Notes a write.
    #[inline(always)]
    pub fn write(&mut self, side: &Side, lane: usize) {
        let me = side.writer(lane) | ALL_WRITTEN;
        // An atomic after the lane's own plain store does not make that one atomic.
        let same = (self.notes ^ me) & WRITER == 0;
        let more = same && !self.has(STRONG_WRITE) && self.write_tick == side.tick;
        let strong = if side.strong && !more {
            STRONG_WRITE
        } else {
            0
        };
        *self = Cell {
            write_tick: side.tick,
            notes: me | strong,
            ..Cell::default()
        };
    }

    /// Whom an access races with, by what `known` says of each warp: up to when its accesses are ordered
    /// before this. `first` is the number of the block's first warp.
    pub fn clash(
        &self,
        side: &Side,
        lane: usize,
        writes: bool,
        first: usize,
        known: impl Fn(usize) -> u32,
    ) -> Option<Other> {
        let note = self.notes;
        let writer = note & WRITER;
        if writer != side.writer(lane) && !(side.strong && note & STRONG_WRITE != 0) {
            let warp = (writer >> WRITER_LANE_BITS) as usize;
            if self.write_tick > known(warp) {
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
        let read_lane = self.read_lane();
        bits(self.readers)
            .map(|bit| first + bit)
            .find(|&warp| {
                let same = warp == side.warp as usize && read_lane == Some(lane as u32);
                !same && self.read_tick > known(warp)
            })
            .map(|warp| Other {
                warp,
                lane: read_lane,
                wrote: false,
            })
    }

    /// The lane that has read it; `None` for several.
    fn read_lane(&self) -> Option<u32> {
        let lane = self.notes & READ_LANE;
        (lane & MANY == 0).then_some(lane >> READ_LANE_SHIFT)
    }

    /// Notes a read, by what `known` says of each warp.
    pub fn read(&mut self, side: &Side, lane: usize, first: usize, known: impl Fn(usize) -> u32) {
        let note = self.notes;
        let at = (lane as u32) << READ_LANE_SHIFT;
        let stale = bits(self.readers).all(|bit| self.read_tick <= known(first + bit));
        let alone = self.readers & !side.bit == 0;
        if stale || alone {
            self.read_tick = side.tick;
        }
        let lanes = if stale || alone && note & READ_LANE == at {
            self.readers = side.bit;
            at
        } else {
            self.readers |= side.bit;
            if note & READ_LANE == at { at } else { MANY }
        };
        let strong = side.strong && (stale || note & STRONG_READ != 0);
        let strong = if strong { STRONG_READ } else { 0 };
        self.notes = note & !(READ_LANE | STRONG_READ) | lanes | strong | ALL_READ;
    }
}

impl Quad {
    /// Whether any of the cells of `select` has any of these flags.
    #[inline(always)]
    pub fn has(&self, select: u32, flags: u32) -> bool {
        bits(select).any(|k| self.0[k].has(flags))
    }

    /// [`Cell::plainly_sound`] for the cells of `select`.
    #[inline(always)]
    pub fn plainly_sound<const WRITES: bool>(&self, side: &Side, lane: usize, select: u32) -> bool {
        bits(select).all(|k| self.0[k].plainly_sound::<WRITES>(side, lane))
    }

    /// [`Cell::mixes`] for any of the cells of `select`.
    pub fn mixes(&self, side: &Side, select: u32) -> bool {
        bits(select).any(|k| self.0[k].mixes(side))
    }

    /// [`Cell::read_plainly`] for the cells of `select`.
    #[inline(always)]
    pub fn read_plainly(&mut self, side: &Side, lane: usize, select: u32) {
        bits(select).for_each(|k| self.0[k].read_plainly(side, lane));
    }

    /// [`Cell::write`] for the cells of `select`.
    #[inline(always)]
    pub fn write(&mut self, side: &Side, lane: usize, select: u32) {
        bits(select).for_each(|k| self.0[k].write(side, lane));
    }
}

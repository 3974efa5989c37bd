//! Cells of which all that was done to them is past: ordered before whatever any of the warp's lanes does now. So are
//! mostly all the cells that an instruction touches, and then no lane need be told from another, and what is noted is
//! the same whatever was.

use super::case::Case;
use super::cell::{
    ALL_READ, ALL_WRITTEN, Cell, MANY, READ_LANE, READ_LANE_SHIFT, STRONG_READ, STRONG_WRITE, Side,
    WRITER_WARP,
};
use super::deed::Deed;
use super::four::Four;
use crate::exec::access::for_lanes;

/// What a vector's place that takes no part is compared with: nothing exceeds it.
const MOST: u32 = i32::MAX as u32;

/// One who accesses, ready to be held against many cells and noted in them. Its vectors are cells, field by field.
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    /// The fields that tell the warp's own part in a cell, and what they are where it is all.
    told: Four,
    mine: Four,
    /// Ticks up to which the warp's own accesses are past, and those of anybody.
    own: Four,
    all: Four,
    /// What a write leaves but for its lane.
    written: Four,
    /// What a read leaves of what was, what it adds but for its lane, and its tick.
    kept: Four,
    read: Four,
    now: Four,
}

impl Glance {
    /// Of that side.
    #[inline(always)]
    pub fn new(side: &Side) -> Glance {
        let writing = side.writer(0) | ALL_WRITTEN | if side.strong { STRONG_WRITE } else { 0 };
        let all = side.own.min(side.others);
        let tick = side.tick;
        Glance {
            told: Four::new([u32::MAX, u32::MAX, WRITER_WARP, !side.bit]),
            mine: Four::new([0, 0, side.writer(0), 0]),
            own: Four::new([side.own, side.own, MOST, MOST]),
            all: Four::new([all, all, MOST, MOST]),
            written: Four::new([tick, 0, writing, 0]),
            kept: Four::new([u32::MAX, 0, !(READ_LANE | STRONG_READ), 0]),
            // Atomic reads are not noted at a glance.
            read: Four::new([0, tick, ALL_READ, side.bit]),
            now: Four::new([MOST, tick, MOST, MOST]),
        }
    }

    /// Where not all of a cell is past: a mask of the ticks that are not. What is split is never.
    #[inline(always)]
    pub fn present(&self, cell: Cell) -> Four {
        let apart = cell.vector().and(self.told).xor(self.mine);
        // A warp that wrote, or read, alone stands behind the ticks: beside them when halves change places.
        let alone = apart.equals(Four::all(0)).upper();
        let past = apart.exceeds(self.own).out_of(alone);
        past.out_of(apart.exceeds(self.all))
    }

    /// A cell, of which all else that was done in another instruction is past, after `lane`'s access.
    #[inline(always)]
    pub fn touched<const WRITES: bool>(&self, cell: Cell, lane: usize) -> Cell {
        let lanes = if WRITES {
            &LANES_WRITING
        } else {
            &LANES_READING
        };
        self.noted::<WRITES>(cell, self.first::<WRITES>().or(lanes[lane]))
    }

    /// What lane 0's access leaves, but for what it keeps.
    #[inline(always)]
    pub fn first<const WRITES: bool>(&self) -> Four {
        if WRITES { self.written } else { self.read }
    }

    /// [`Glance::touched`] by a lane that leaves `new`.
    #[inline(always)]
    pub fn noted<const WRITES: bool>(&self, cell: Cell, new: Four) -> Cell {
        if WRITES {
            return Cell::of(new);
        }
        let cell = cell.vector();
        // Where the tick of the reads is now, another lane has read in this instruction: many have.
        let again = cell.equals(self.now).next().and(MANY_READING);
        Cell::of(cell.and(self.kept).or(new.or(again)))
    }
}

impl Case<'_> {
    /// Whether all that was done to the `WORDS` words at each address is past; if so, notes what is done now, which
    /// races with nothing.
    #[inline(always)]
    pub(super) fn after_all<const WORDS: usize, const WRITES: bool>(&self, deed: &Deed) -> bool {
        if !self.near || WRITES && !self.shadow.far.is_empty() {
            return false;
        }
        let glance = Glance::new(&self.side);
        let cell = |lane: usize, k: usize| self.word(deed.addresses[lane] as u32 as usize / 4 + k);
        let mut present = Four::all(0);
        for_lanes(deed.mask, |lane| {
            for k in 0..WORDS {
                present = present.or(glance.present(*cell(lane, k)));
            }
        });
        if present.any() {
            return false;
        }
        for_lanes(deed.mask, |lane| {
            for k in 0..WORDS {
                *cell(lane, k) = glance.touched::<WRITES>(*cell(lane, k), lane);
            }
        });
        true
    }
}

/// By lane, what notes say of a write and of a read.
static LANES_WRITING: [Four; 32] = lanes(0);
static LANES_READING: [Four; 32] = lanes(READ_LANE_SHIFT);
static MANY_READING: Four = Four::new([0, 0, MANY, 0]);

const fn lanes(shift: u32) -> [Four; 32] {
    let mut table = [Four::new([0; 4]); 32];
    let mut lane = 0;
    while lane < 32 {
        table[lane] = Four::new([0, 0, (lane as u32) << shift, 0]);
        lane += 1;
    }
    table
}

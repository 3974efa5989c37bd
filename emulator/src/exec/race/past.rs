//! Cells of which all that was done to them is past: ordered before whatever any of the warp's lanes does now. So are
//! mostly all the cells that an instruction touches, and then no lane need be told from another, and what is noted is
//! the same whatever was.

use super::case::Case;
use super::deed::Deed;
use super::four::Four;
use super::quad::{
    ALL_READ, ALL_WRITTEN, MANY, Quad, READ_LANE, READ_LANE_SHIFT, STRONG_READ, STRONG_WRITE, Side,
    WRITER_WARP,
};
use crate::exec::access::{bits, side_by_side};

impl Case<'_> {
    /// Whether all that was done to the cells of `SIZE` bytes, 4 at least, at each address is past; if so, notes what is
    /// done now, which races with nothing.
    #[inline(always)]
    pub fn after_all<const SIZE: u32, const WRITES: bool>(&self, side: &Side, deed: &Deed) -> bool {
        // Reads of and by other blocks stand in a list.
        if !self.near || WRITES && !self.shadow.far.is_empty() {
            return false;
        }
        let at = |lane: usize| deed.addresses[lane] as u32 as usize;
        if SIZE == 16 {
            let mut present = Four::all(0);
            for lane in bits(deed.mask) {
                present = present.or(self.words.at(at(lane) >> 4).present(side));
            }
            if present.any() {
                return false;
            }
            for lane in bits(deed.mask) {
                let quad = self.words.at(at(lane) >> 4);
                quad.touch::<WRITES>(side, [lane as u32; 4]);
            }
            return true;
        }
        if at(0) % 16 == 0 && side_by_side(deed.mask, deed.addresses, u64::from(SIZE)) {
            let (first, count) = (at(0) >> 4, 2 * SIZE as usize);
            let mut present = Four::all(0);
            for quad in 0..count {
                present = present.or(self.words.at(first + quad).present(side));
            }
            if present.any() {
                return false;
            }
            for quad in 0..count {
                let lane = |word: u32| (quad as u32 * 4 + word) / (SIZE / 4);
                let lanes = [lane(0), lane(1), lane(2), lane(3)];
                self.words.at(first + quad).touch::<WRITES>(side, lanes);
            }
            return true;
        }
        if SIZE == 4 && (!WRITES || deed.is_on_banks_apart()) {
            // Lane by lane, the same takes one pass.
            return false;
        }
        let mut past = true;
        for lane in bits(deed.mask) {
            let (quad, k) = (self.words.at(at(lane) >> 4), at(lane) >> 2 & 3);
            for word in 0..SIZE as usize / 4 {
                past &= quad.is_past(k + word, side);
            }
        }
        if past {
            for lane in bits(deed.mask) {
                let (quad, k) = (self.words.at(at(lane) >> 4), at(lane) >> 2 & 3);
                for word in 0..SIZE as usize / 4 {
                    quad.touch_one::<WRITES>(k + word, side, lane);
                }
            }
        }
        past
    }
}

impl Quad {
    /// By a mask, the cells of which not all is past. Those that are split are among them.
    #[inline(always)]
    pub fn present(&self, side: &Side) -> Four {
        let apart = Four::new(self.notes).xor(Four::all(side.writer(0)));
        let same_warp = apart.and(Four::all(WRITER_WARP)).equals(Four::all(0));
        let limit = same_warp.choose(Four::all(side.own), Four::all(side.others));
        let late_writes = Four::new(self.write_tick).exceeds(limit);
        let (late_reads, _) = self.late_reads(side);
        late_writes.or(late_reads)
    }

    /// Whether all of cell `k` is past.
    #[inline(always)]
    pub fn is_past(&self, k: usize, side: &Side) -> bool {
        let same_warp = (self.notes[k] ^ side.writer(0)) & WRITER_WARP == 0;
        let write_limit = if same_warp { side.own } else { side.others };
        let alone = self.readers[k] & !side.bit == 0;
        let read_limit = if alone {
            side.own
        } else {
            side.own.min(side.others)
        };
        (self.write_tick[k] <= write_limit) & (self.read_tick[k] <= read_limit)
    }

    /// Notes that the lanes of `lanes`, each where it stands, access all four cells, of which all else that was done in
    /// another instruction is past.
    #[inline(always)]
    pub fn touch<const WRITES: bool>(&mut self, side: &Side, lanes: [u32; 4]) {
        let lanes = Four::new(lanes);
        let tick = Four::all(side.tick);
        if WRITES {
            self.notes = lanes.or(Four::all(writing(side))).array();
            self.write_tick = tick.array();
            self.read_tick = [0; 4];
            self.readers = [0; 4];
            return;
        }
        let again = Four::new(self.read_tick).equals(tick);
        let lanes = Four::new(lanes.array().map(|lane| lane << READ_LANE_SHIFT));
        let more = again.and(Four::all(MANY)).or(lanes);
        let kept = Four::all(!(READ_LANE | STRONG_READ)).and(Four::new(self.notes));
        self.notes = kept.or(more).or(Four::all(reading(side))).array();
        self.read_tick = tick.array();
        self.readers = [side.bit; 4];
    }

    /// [`Quad::touch`] of cell `k` by one lane.
    #[inline(always)]
    pub fn touch_one<const WRITES: bool>(&mut self, k: usize, side: &Side, lane: usize) {
        if WRITES {
            self.notes[k] = lane as u32 | writing(side);
            self.write_tick[k] = side.tick;
            self.read_tick[k] = 0;
            self.readers[k] = 0;
            return;
        }
        let again = self.read_tick[k] == side.tick;
        let at = (lane as u32) << READ_LANE_SHIFT | if again { MANY } else { 0 };
        let kept = self.notes[k] & !(READ_LANE | STRONG_READ);
        self.notes[k] = kept | at | reading(side);
        self.read_tick[k] = side.tick;
        self.readers[k] = side.bit;
    }
}

/// What a write of all bytes notes but for its lane.
#[inline(always)]
fn writing(side: &Side) -> u32 {
    side.writer(0) | ALL_WRITTEN | if side.strong { STRONG_WRITE } else { 0 }
}

/// What a read of all bytes notes but for its lane.
#[inline(always)]
fn reading(side: &Side) -> u32 {
    ALL_READ | if side.strong { STRONG_READ } else { 0 }
}

//! One instruction's accesses to shared memory, held against what was done there before.

use super::cell::{Cell, FAR, OWNED, Other, Quad, SPLIT, Side};
use super::deed::{Deed, Piece, Pieces};
use super::order::Order;
use super::past::Glance;
use super::shadow::{ALL_BYTES, FarRead, SharedRaces, View, at_tick};
use crate::exec::access::bits;

/// The two sides of a race in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The lane that accesses now.
    pub lane: usize,
    /// First byte that both touch.
    pub address: usize,
    /// The other side.
    pub other: Other,
}

/// One instruction's accesses, held against the shadow.
pub struct Case<'c> {
    pub(super) shadow: &'c mut SharedRaces,
    /// The shadow's words.
    pub(super) words: View<'c, Quad>,
    order: &'c Order,
    pub(super) side: Side,
    /// Number of the memory's block's first warp.
    first: usize,
    /// The memory is that of the warp's own block.
    pub(super) near: bool,
    reads: bool,
}

impl<'c> Case<'c> {
    /// Warp `warp` of the cluster does it to the memory of the block whose first warp has number `first`, which is its
    /// own if `near`.
    #[inline(always)]
    pub fn new(
        shadow: &'c mut SharedRaces,
        order: &'c Order,
        warp: usize,
        first: usize,
        near: bool,
        deed: &Deed,
    ) -> Case<'c> {
        let words = shadow.wanted();
        let side = shadow.side(order, warp, first, near, deed.strong);
        shadow.latest = shadow.latest.max(side.tick);
        Case {
            side,
            words,
            shadow,
            order,
            first,
            near,
            reads: !deed.writes,
        }
    }

    /// A word's cell.
    #[inline(always)]
    pub(super) fn word(&self, word: usize) -> &'c mut Cell {
        &mut self.words.at(word / 4).0[word % 4]
    }

    /// Holds a piece against what was before, and notes it if it reads. `side` is the case's own, where the compiler
    /// sees that nothing changes it.
    #[inline(always)]
    fn check<const WRITES: bool>(
        &mut self,
        side: &Side,
        lane: usize,
        piece: Piece,
    ) -> Option<Conflict> {
        if piece.fine {
            return self.check_part::<WRITES>(side, lane, piece);
        }
        let quad = self.words.at(piece.at);
        if (WRITES || self.near) && quad.plainly_sound::<WRITES>(side, lane, piece.select) {
            if !WRITES {
                quad.read_plainly(side, lane, piece.select);
            }
            return None;
        }
        self.check_words::<WRITES>(lane, piece.at, piece.select)
    }

    /// [`Case::check`] of some of a word's bytes.
    #[inline(never)]
    fn check_part<const WRITES: bool>(
        &mut self,
        side: &Side,
        lane: usize,
        piece: Piece,
    ) -> Option<Conflict> {
        let word = self.word(piece.at);
        let sound = if !WRITES && !self.near {
            false
        } else if !word.has(SPLIT) {
            word.own::<WRITES>(side, lane, piece.select, !WRITES)
        } else {
            let parts = self.shadow.parts(piece.at);
            let sound = parts.plainly_sound::<WRITES>(side, lane, piece.select);
            if !WRITES && sound {
                parts.read_plainly(side, lane, piece.select);
            }
            sound && !(WRITES && word.has(FAR))
        };
        if sound {
            return None;
        }
        self.check_bytes::<WRITES>(lane, piece.at, piece.select)
    }

    /// [`Case::check`] of words, one by one.
    #[inline(never)]
    fn check_words<const WRITES: bool>(
        &mut self,
        lane: usize,
        at: usize,
        select: u32,
    ) -> Option<Conflict> {
        bits(select).find_map(|k| self.check_bytes::<WRITES>(lane, at * 4 + k, ALL_BYTES))
    }

    /// Holds an access to bytes of a word against what was before; notes it if it reads.
    #[inline(never)]
    fn check_bytes<const WRITES: bool>(
        &mut self,
        lane: usize,
        word: usize,
        select: u32,
    ) -> Option<Conflict> {
        let cell = *self.word(word);
        let (order, me, base) = (self.order, self.side.warp as usize, self.shadow.base);
        let known = |warp| at_tick(base, order.known(me, warp));
        if WRITES
            && cell.has(FAR)
            && let Some(list) = self.shadow.far.get(&word)
        {
            let clash = list.iter().find(|r| {
                let agreed = r.warp == me && r.lane == lane || self.side.strong && r.strong;
                r.bytes & select != 0 && !agreed && r.tick > known(r.warp)
            });
            if let Some(read) = clash {
                return Some(Conflict {
                    lane,
                    address: word * 4 + (read.bytes & select).trailing_zeros() as usize,
                    other: Other {
                        warp: read.warp,
                        lane: Some(read.lane as u32),
                        wrote: false,
                    },
                });
            }
        }
        // A word is one cell until somebody accesses part of it.
        let fine = cell.has(SPLIT | OWNED) || select != ALL_BYTES;
        if fine && !cell.has(SPLIT) {
            self.shadow.split(word);
        }
        let (cells, first) = if fine {
            (self.shadow.parts(word), 0)
        } else {
            (self.words.at(word / 4), word % 4)
        };
        let select_cells = if fine { select } else { 1 << first };
        let noted = self.reads && self.near && !cells.mixes(&self.side, select_cells);
        if (noted || !self.reads) && cells.plainly_sound::<WRITES>(&self.side, lane, select_cells) {
            if noted {
                cells.read_plainly(&self.side, lane, select_cells);
            }
            return None;
        }
        for k in bits(select_cells) {
            let cell = &mut cells.0[k];
            let clash = cell.clash(&self.side, lane, WRITES, self.first, known);
            if let Some(other) = clash {
                return Some(Conflict {
                    lane,
                    address: word * 4 + k - first,
                    other,
                });
            }
            if noted {
                cell.read(&self.side, lane, self.first, known);
            }
        }
        if self.reads && !noted {
            self.note_far(lane, word, select);
        }
        None
    }

    /// Notes a read that the word's cell has no room for: by a warp of another block, or atomic where others are not.
    fn note_far(&mut self, lane: usize, word: usize, bytes: u32) {
        self.word(word).set(FAR);
        let list = self.shadow.far.entry(word).or_default();
        let read = FarRead {
            warp: self.side.warp as usize,
            lane,
            tick: self.side.tick,
            strong: self.side.strong,
            bytes,
        };
        // A lane's last read stands for those before it, but for another byte's or a weaker one.
        let same = |r: &&mut FarRead| {
            r.warp == read.warp
                && r.lane == lane
                && r.strong == read.strong
                && r.bytes & !bytes == 0
        };
        match list.iter_mut().find(same) {
            Some(last) => *last = read,
            None => list.push(read),
        }
    }

    /// Notes a write.
    #[inline(always)]
    fn write(&mut self, side: &Side, lane: usize, piece: Piece) {
        if piece.fine {
            let word = self.word(piece.at);
            if !word.own::<true>(side, lane, piece.select, true) {
                self.write_bytes(lane, piece.at, piece.select);
            }
            return;
        }
        let quad = self.words.at(piece.at);
        if quad.has(piece.select, SPLIT | FAR) {
            return self.write_words(lane, piece.at, piece.select);
        }
        quad.write(side, lane, piece.select);
    }

    /// [`Case::write`], word by word.
    #[inline(never)]
    fn write_words(&mut self, lane: usize, at: usize, select: u32) {
        for k in bits(select) {
            let word = at * 4 + k;
            let cell = self.word(word);
            let (far, split) = (cell.has(FAR), cell.has(SPLIT));
            if far {
                self.shadow.forget_far(word, ALL_BYTES);
            }
            // A plain write makes the word one cell again. An atomic does not undo what went before to its bytes.
            if split && self.side.strong {
                let parts = self.shadow.parts(word);
                parts.write(&self.side, lane, ALL_BYTES);
                continue;
            }
            if split {
                self.shadow.join(word);
            }
            self.word(word).write(&self.side, lane);
        }
    }

    /// Notes a write of some of a word's bytes.
    #[inline(never)]
    fn write_bytes(&mut self, lane: usize, word: usize, select: u32) {
        let cell = self.word(word);
        let far = cell.has(FAR);
        if !cell.has(SPLIT) {
            // Another lane's write in the same instruction has made it one again, or that lane's own.
            self.shadow.split(word);
        }
        let parts = self.shadow.parts(word);
        parts.write(&self.side, lane, select);
        if far {
            self.shadow.forget_far(word, select);
        }
    }
}

impl Case<'_> {
    /// Holds all of it against what was before, and notes it.
    #[inline(always)]
    pub fn hold(self, deed: &Deed) -> Option<Conflict> {
        let natural = if deed.is_aligned() { deed.size } else { 0 };
        match (natural, deed.writes) {
            (1, false) => self.run::<1, false>(deed),
            (1, true) => self.run::<1, true>(deed),
            (2, false) => self.run::<2, false>(deed),
            (2, true) => self.run::<2, true>(deed),
            (4, false) => self.run::<4, false>(deed),
            (4, true) => self.run::<4, true>(deed),
            (8, false) => self.run::<8, false>(deed),
            (8, true) => self.run::<8, true>(deed),
            (16, false) => self.run::<16, false>(deed),
            (16, true) => self.run::<16, true>(deed),
            (_, false) => self.run::<0, false>(deed),
            (_, true) => self.run::<0, true>(deed),
        }
    }

    /// All lanes are held against what was before; what they do together in one instruction is no race among them (of
    /// several that write a word, one leaves its value).
    #[inline(always)]
    pub(super) fn run<const NATURAL: u32, const WRITES: bool>(
        mut self,
        deed: &Deed,
    ) -> Option<Conflict> {
        let side = self.side;
        if !WRITES && side.strong {
            return self.read_strongly(deed);
        }
        if NATURAL == 16 && self.hold_chunks::<WRITES>(deed) {
            return None;
        }
        if self.shadow.whole != 0 {
            self.spread(deed);
        }
        if NATURAL == 16 && self.after_all::<4, WRITES>(deed)
            || NATURAL == 8 && self.after_all::<2, WRITES>(deed)
        {
            return None;
        }
        if NATURAL == 4 && self.near && (!WRITES || deed.is_on_banks_apart()) {
            return self.run_words::<WRITES>(&side, deed);
        }
        if !WRITES && NATURAL != 0 && NATURAL < 4 && self.near {
            return self.read_parts::<NATURAL>(&side, deed);
        }
        if WRITES && NATURAL != 0 && NATURAL < 4 && deed.is_on_banks_apart() {
            return self.write_parts::<NATURAL>(&side, deed);
        }
        for lane in bits(deed.mask) {
            let mut pieces = Pieces::of(deed, lane);
            while let Some(piece) = pieces.next::<NATURAL>() {
                let found = self.check::<WRITES>(&side, lane, piece);
                if found.is_some() {
                    return found;
                }
            }
        }
        if WRITES {
            for lane in bits(deed.mask) {
                let mut pieces = Pieces::of(deed, lane);
                while let Some(piece) = pieces.next::<NATURAL>() {
                    self.write(&side, lane, piece);
                }
            }
        }
        None
    }

    /// Reads of words, or writes of a word of its own by each lane: each lane's can be noted at once.
    #[inline(always)]
    fn run_words<const WRITES: bool>(&mut self, side: &Side, deed: &Deed) -> Option<Conflict> {
        // Some reads stand in a list.
        let may_glance = !WRITES || self.shadow.far.is_empty();
        let glance = Glance::new(side);
        for lane in bits(deed.mask) {
            let cell = self.word(deed.addresses[lane] as u32 as usize / 4);
            if may_glance && !glance.present(*cell).any() {
                *cell = glance.touched::<WRITES>(*cell, lane);
                continue;
            }
            let piece = Piece::natural::<4>(deed.addresses[lane]);
            let found = self.check::<WRITES>(side, lane, piece);
            if found.is_some() {
                return found;
            }
            if WRITES {
                self.write(side, lane, piece);
            }
        }
        None
    }

    /// Atomic reads, or such that threads agree to share the place. They are noted where they can be told from others.
    #[inline(never)]
    fn read_strongly(&mut self, deed: &Deed) -> Option<Conflict> {
        self.spread(deed);
        bits(deed.mask).find_map(|lane| {
            let mut pieces = Pieces::of(deed, lane);
            while let Some(Piece { at, select, fine }) = pieces.next::<0>() {
                let found = if fine {
                    self.check_bytes::<false>(lane, at, select)
                } else {
                    self.check_words::<false>(lane, at, select)
                };
                if found.is_some() {
                    return found;
                }
            }
            None
        })
    }

    /// Reads of bytes or halves of words.
    #[inline(always)]
    fn read_parts<const SIZE: u32>(&mut self, side: &Side, deed: &Deed) -> Option<Conflict> {
        for lane in bits(deed.mask) {
            let piece = Piece::natural::<SIZE>(deed.addresses[lane]);
            let cell = self.word(piece.at);
            if !cell.has(SPLIT) && cell.own::<false>(side, lane, piece.select, true) {
                continue;
            }
            let found = self.check_part::<false>(side, lane, piece);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Writes of bytes or halves of words, to a word of its own by each lane: each lane's can be noted at once.
    #[inline(always)]
    fn write_parts<const SIZE: u32>(&mut self, side: &Side, deed: &Deed) -> Option<Conflict> {
        for lane in bits(deed.mask) {
            let Piece { at, select, .. } = Piece::natural::<SIZE>(deed.addresses[lane]);
            if self.word(at).own::<true>(side, lane, select, true) {
                continue;
            }
            let found = self.check_bytes::<true>(lane, at, select);
            if found.is_some() {
                return found;
            }
            self.write_bytes(lane, at, select);
        }
        None
    }
}

//! One instruction's accesses to shared memory, held against what was done there before.

use super::deed::{Deed, Piece, Pieces};
use super::order::Order;
use super::quad::{FAR, OWNED, Other, SPLIT, Side};
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
    pub(super) words: View<'c>,
    order: &'c Order,
    side: Side,
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
        let tick = shadow.tick(order.tick());
        shadow.latest = shadow.latest.max(tick);
        let (others, most) = order.known_of_others(warp);
        let side = Side {
            warp: warp as u32,
            bit: if near { 1 << (warp - first) } else { 0 },
            tick,
            own: shadow.tick(order.known(warp, warp)),
            others: shadow.tick(others),
            most: shadow.tick(most),
            settled: shadow.tick(order.settled()),
            strong: deed.strong,
        };
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
                quad.read_all(side, lane, piece.select);
            }
            return None;
        }
        self.check_words::<WRITES>(lane, piece.at, piece.select)
    }

    /// [`Case::check`] of some of a word's bytes.
    #[inline(always)]
    fn check_part<const WRITES: bool>(
        &mut self,
        side: &Side,
        lane: usize,
        piece: Piece,
    ) -> Option<Conflict> {
        let (word, k) = (self.words.at(piece.at / 4), piece.at % 4);
        let flags = word.flags(k);
        let sound = if !WRITES && !self.near {
            false
        } else if flags & SPLIT == 0 {
            word.own::<WRITES>(k, side, lane, piece.select, !WRITES)
        } else {
            let parts = self.shadow.parts(piece.at);
            let sound = parts.plainly_sound::<WRITES>(side, lane, piece.select);
            if !WRITES && sound {
                parts.read_all(side, lane, piece.select);
            }
            sound && !(WRITES && flags & FAR != 0)
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
        let (place, k) = (word / 4, word % 4);
        let flags = self.words.at(place).flags(k);
        let (order, me, base) = (self.order, self.side.warp as usize, self.shadow.base);
        let known = |warp| at_tick(base, order.known(me, warp));
        if WRITES
            && flags & FAR != 0
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
        let fine = flags & (SPLIT | OWNED) != 0 || select != ALL_BYTES;
        if flags & SPLIT == 0 && fine {
            self.shadow.split(word);
        }
        let quad = if fine {
            self.shadow.parts(word)
        } else {
            self.words.at(place)
        };
        let cells = if fine { select } else { 1 << k };
        let noted = self.reads && self.near;
        if (noted || !self.reads) && quad.plainly_sound::<WRITES>(&self.side, lane, cells) {
            if noted {
                quad.read_all(&self.side, lane, cells);
            }
            return None;
        }
        for cell in bits(cells) {
            let clash = quad.clash(cell, &self.side, lane, WRITES, self.first, known);
            if let Some(other) = clash {
                return Some(Conflict {
                    lane,
                    address: word * 4 + if fine { cell } else { 0 },
                    other,
                });
            }
            if noted {
                quad.read(cell, &self.side, lane, self.first, known);
            }
        }
        if self.reads && !self.near {
            self.note_far(lane, word, select);
        }
        None
    }

    /// Notes a read by a warp of another block.
    fn note_far(&mut self, lane: usize, word: usize, bytes: u32) {
        self.words.at(word / 4).set(word % 4, FAR);
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
            let word = self.words.at(piece.at / 4);
            if !word.own::<true>(piece.at % 4, side, lane, piece.select, true) {
                self.write_bytes(lane, piece.at, piece.select);
            }
            return;
        }
        let quad = self.words.at(piece.at);
        if quad.has(piece.select, SPLIT | FAR) {
            return self.write_words(lane, piece.at, piece.select);
        }
        quad.write_all(side, lane, piece.select);
    }

    /// [`Case::write`], word by word.
    #[inline(never)]
    fn write_words(&mut self, lane: usize, at: usize, select: u32) {
        for k in bits(select) {
            let (word, flags) = (at * 4 + k, self.words.at(at).flags(k));
            if flags & FAR != 0 {
                self.shadow.forget_far(word, ALL_BYTES);
            }
            // A plain write makes the word one cell again. An atomic does not undo what went before to its bytes.
            if flags & SPLIT != 0 && self.side.strong {
                let quad = self.shadow.parts(word);
                quad.write_all(&self.side, lane, ALL_BYTES);
                continue;
            }
            if flags & SPLIT != 0 {
                self.shadow.join(word);
            }
            let quad = self.words.at(at);
            quad.write_all(&self.side, lane, 1 << k);
        }
    }

    /// Notes a write of some of a word's bytes.
    #[inline(never)]
    fn write_bytes(&mut self, lane: usize, word: usize, select: u32) {
        let flags = self.words.at(word / 4).flags(word % 4);
        if flags & SPLIT == 0 {
            // Another lane's write in the same instruction has made it one again, or that lane's own.
            self.shadow.split(word);
        }
        let quad = self.shadow.parts(word);
        quad.write_all(&self.side, lane, select);
        if flags & FAR != 0 {
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
        if NATURAL >= 4 && self.after_all::<NATURAL, WRITES>(&side, deed) {
            return None;
        }
        if NATURAL == 4 && self.near && (!WRITES || deed.is_on_banks_apart()) {
            return self.run_words::<WRITES>(&side, deed);
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
        // Reads by other blocks stand in a list.
        let may_glance = !WRITES || self.shadow.far.is_empty();
        for lane in bits(deed.mask) {
            let piece = Piece::natural::<4>(deed.addresses[lane]);
            let quad = self.words.at(piece.at);
            let k = deed.addresses[lane] as usize >> 2 & 3;
            if may_glance && quad.is_past(k, side) {
                quad.touch_one::<WRITES>(k, side, lane);
                continue;
            }
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

    /// Writes of bytes or halves of words, to a word of its own by each lane: each lane's can be noted at once.
    #[inline(always)]
    fn write_parts<const SIZE: u32>(&mut self, side: &Side, deed: &Deed) -> Option<Conflict> {
        for lane in bits(deed.mask) {
            let Piece { at, select, .. } = Piece::natural::<SIZE>(deed.addresses[lane]);
            let word = self.words.at(at / 4);
            if word.own::<true>(at % 4, side, lane, select, true) {
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

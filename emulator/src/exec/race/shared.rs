//! Races in shared memory, of the block's own and of the other blocks of its cluster.

use super::order::Order;
use super::quad::{FAR, OWNED, Other, SPLIT, Side};
use super::shadow::{ALL_BYTES, FarRead, SharedRaces, View};
use crate::check::Check;
use crate::exec::access::{Access, Kind, bits};
use crate::exec::block::Block;
use crate::exec::lanes::wide;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;

/// Part of a lane's access: cells of one quad.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// The 16 bytes, by number; for bytes the word.
    at: usize,
    /// Cells, by bit.
    select: u32,
    /// Whether the cells are a word's bytes.
    fine: bool,
}

impl Piece {
    /// The only piece of `SIZE` bytes at a multiple of them, 16 at most.
    #[inline(always)]
    fn natural<const SIZE: u32>(address: u64) -> Piece {
        let address = address as u32 as usize;
        if SIZE < 4 {
            Piece {
                at: address >> 2,
                select: (SIZE * 2 - 1) << (address & 3),
                fine: true,
            }
        } else {
            Piece {
                at: address >> 4,
                select: ((1 << (SIZE / 4)) - 1) << (address >> 2 & 3),
                fine: false,
            }
        }
    }

    /// The first piece of the bytes from `at` to `end`, of one word at most, and where the rest begins.
    #[inline(always)]
    fn first(at: usize, end: usize) -> (Piece, usize) {
        let low = at & 3;
        let take = (4 - low).min(end - at);
        let word = at >> 2;
        let piece = if take == 4 {
            Piece {
                at: word >> 2,
                select: 1 << (word & 3),
                fine: false,
            }
        } else {
            Piece {
                at: word,
                select: ((1 << take) - 1) << low,
                fine: true,
            }
        };
        (piece, at + take)
    }
}

/// The two sides of a race in shared memory.
struct Conflict {
    lane: usize,
    /// First byte that both touch.
    address: usize,
    other: Other,
}

/// One instruction's accesses, held against the shadow.
struct Case<'c> {
    shadow: &'c mut SharedRaces,
    /// The shadow's words.
    words: View<'c>,
    order: &'c Order,
    side: Side,
    /// Number of the memory's block's first warp.
    first: usize,
    /// The memory is that of the warp's own block.
    near: bool,
    reads: bool,
}

impl Case<'_> {
    /// Holds a piece against what was before, and notes it if it reads. `side` is the case's own, where the compiler
    /// sees that nothing changes it.
    #[inline(always)]
    fn check<const WRITES: bool>(
        &mut self,
        side: &Side,
        lane: usize,
        piece: Piece,
    ) -> Option<Conflict> {
        if !WRITES && !self.near {
            return self.check_words::<WRITES>(lane, piece);
        }
        let quad = if piece.fine {
            let word = self.words.at(piece.at / 4);
            let k = piece.at % 4;
            let flags = word.flags(k);
            if flags & SPLIT == 0 && word.own::<WRITES>(k, side, lane, piece.select, !WRITES) {
                return None;
            }
            if flags & SPLIT == 0 || WRITES && flags & FAR != 0 {
                return self.check_bytes::<WRITES>(lane, piece.at, piece.select);
            }
            self.shadow.parts(piece.at)
        } else {
            self.words.at(piece.at)
        };
        if quad.plainly_sound::<WRITES>(side, lane, piece.select) {
            if !WRITES {
                quad.read_all(side, lane, piece.select);
            }
            return None;
        }
        self.check_words::<WRITES>(lane, piece)
    }

    /// [`Case::check`], word by word.
    #[inline(never)]
    fn check_words<const WRITES: bool>(&mut self, lane: usize, piece: Piece) -> Option<Conflict> {
        if piece.fine {
            return self.check_bytes::<WRITES>(lane, piece.at, piece.select);
        }
        bits(piece.select)
            .find_map(|k| self.check_bytes::<WRITES>(lane, piece.at * 4 + k, ALL_BYTES))
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
        let known = |warp| base + order.known(me, warp);
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
            let k = piece.at % 4;
            let whole = word.flags(k) & SPLIT == 0;
            if !whole || !word.own::<true>(k, side, lane, piece.select, true) {
                self.write_bytes(lane, piece);
            }
            return;
        }
        let quad = self.words.at(piece.at);
        if quad.has(piece.select, SPLIT | FAR) {
            return self.write_words(lane, piece);
        }
        quad.write_all(side, lane, piece.select);
    }

    /// [`Case::write`], word by word.
    #[inline(never)]
    fn write_words(&mut self, lane: usize, piece: Piece) {
        for k in bits(piece.select) {
            let (word, flags) = (piece.at * 4 + k, self.words.at(piece.at).flags(k));
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
            let quad = self.words.at(piece.at);
            quad.write_all(&self.side, lane, 1 << k);
        }
    }

    /// Notes a write of some of a word's bytes.
    fn write_bytes(&mut self, lane: usize, piece: Piece) {
        let flags = self.words.at(piece.at / 4).flags(piece.at % 4);
        if flags & SPLIT == 0 {
            // Another lane's write in the same instruction has made it one again, or that lane's own.
            self.shadow.split(piece.at);
        }
        let quad = self.shadow.parts(piece.at);
        quad.write_all(&self.side, lane, piece.select);
        if flags & FAR != 0 {
            self.shadow.forget_far(piece.at, piece.select);
        }
    }
}

impl Warp {
    /// Checks an access to the shared memory of `owner`, a block of the cluster, against those before it.
    ///
    /// # Errors
    /// The flow to return where it races.
    ///
    /// # Safety
    /// The block is alive, and no reference to it or to its cluster's order is.
    // One copy for all that touches shared memory.
    #[inline(never)]
    pub unsafe fn shared_race(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        // SAFETY: the caller's promise; the wide build only where the processor has its features.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if wide() {
                return self.shared_race_wide(owner, mask, addresses, access);
            }
            self.shared_race_any(owner, mask, addresses, access)
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn shared_race_wide(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        // SAFETY: the caller's promise.
        unsafe { self.shared_race_any(owner, mask, addresses, access) }
    }

    #[inline(always)]
    unsafe fn shared_race_any(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        let mut low = 0;
        for lane in 0..32 {
            low |= if mask >> lane & 1 != 0 {
                addresses[lane] as u32
            } else {
                0
            };
        }
        let writes = access.kind.only_writes() || access.kind == Kind::Atomic;
        let natural = low & (access.size.wrapping_sub(1)) == 0;
        let me = self.order_index();
        // SAFETY: the caller's promise; shadow and order are apart.
        let (shadow, first, order) = unsafe {
            (
                &mut (*owner).shared.race,
                (*owner).first_warp as usize,
                self.order(),
            )
        };
        let words = shadow.wanted();
        let near = owner == self.block;
        let tick = shadow.base + order.tick();
        shadow.latest = shadow.latest.max(tick);
        let (others, most) = order.known_of_others(me);
        let case = Case {
            side: Side {
                warp: me as u32,
                bit: if near { 1 << (me - first) } else { 0 },
                tick,
                own: shadow.base + order.known(me, me),
                others: shadow.base + others,
                most: shadow.base + most,
                settled: shadow.base + order.settled(),
                strong: matches!(
                    access.kind,
                    Kind::Atomic | Kind::StrongLoad | Kind::StrongStore
                ),
            },
            words,
            shadow,
            order,
            first,
            near,
            reads: !writes,
        };
        let conflict = match (if natural { access.size } else { 0 }, writes) {
            (1, false) => case.run::<1, false>(mask, addresses, access.size),
            (1, true) => case.run::<1, true>(mask, addresses, access.size),
            (2, false) => case.run::<2, false>(mask, addresses, access.size),
            (2, true) => case.run::<2, true>(mask, addresses, access.size),
            (4, false) => case.run::<4, false>(mask, addresses, access.size),
            (4, true) => case.run::<4, true>(mask, addresses, access.size),
            (8, false) => case.run::<8, false>(mask, addresses, access.size),
            (8, true) => case.run::<8, true>(mask, addresses, access.size),
            (16, false) => case.run::<16, false>(mask, addresses, access.size),
            (16, true) => case.run::<16, true>(mask, addresses, access.size),
            (_, false) => case.run::<0, false>(mask, addresses, access.size),
            (_, true) => case.run::<0, true>(mask, addresses, access.size),
        };
        match conflict {
            None => Ok(()),
            Some(conflict) => Err(self.report_shared_race(conflict, owner, access)),
        }
    }

    #[cold]
    fn report_shared_race(&mut self, c: Conflict, owner: *mut Block, access: Access) -> Flow {
        let verb = if access.kind.reads() { "read" } else { "write" };
        let other = if c.other.wrote { "write" } else { "read" };
        let me = self.order_index();
        // SAFETY: the owner is alive, and nothing is changed while the report is made.
        let (own, own_index, base, there, warps) = unsafe {
            let own = &*self.block;
            (
                owner == self.block,
                own.rank,
                own.first_warp as usize,
                (*owner).rank,
                own.copies.len(),
            )
        };
        let warp = c.other.warp;
        let who = if warp == me {
            match c.other.lane {
                None => "other lanes of the same warp".to_string(),
                Some(lane) => format!("lane {lane} of the same warp"),
            }
        } else if warp.wrapping_sub(base) < warps {
            format!("warp {}", warp - base)
        } else {
            format!(
                "warp {} of block {} of the cluster",
                warp % warps,
                warp / warps
            )
        };
        let missing = if warp == me {
            "__syncwarp"
        } else if warp / warps != own_index as usize {
            "barrier of the cluster"
        } else {
            "barrier"
        };
        let place = if own {
            String::new()
        } else {
            format!(" of block {there} of the cluster")
        };
        let text = format!(
            "{verb} at shared address {:#x}{place} by warp {} lane {} races with a {other} by {who}: no {missing} between them",
            c.address, self.index, c.lane
        );
        self.violation(Check::SharedRace, 1 << c.lane, text)
    }
}

impl Case<'_> {
    /// All lanes are held against what was before; what they do together in one instruction is no race among them (of
    /// several that write a word, one leaves its value).
    #[inline(always)]
    fn run<const NATURAL: u32, const WRITES: bool>(
        mut self,
        mask: u32,
        addresses: &[u64; 32],
        size: u32,
    ) -> Option<Conflict> {
        let side = self.side;
        for lane in bits(mask) {
            if NATURAL != 0 {
                let conflict =
                    self.check::<WRITES>(&side, lane, Piece::natural::<NATURAL>(addresses[lane]));
                if conflict.is_some() {
                    return conflict;
                }
                continue;
            }
            let mut at = addresses[lane] as u32 as usize;
            let end = at + size as usize;
            while at < end {
                let (piece, next) = Piece::first(at, end);
                let conflict = self.check::<WRITES>(&side, lane, piece);
                if conflict.is_some() {
                    return conflict;
                }
                at = next;
            }
        }
        if !WRITES {
            return None;
        }
        for lane in bits(mask) {
            if NATURAL != 0 {
                self.write(&side, lane, Piece::natural::<NATURAL>(addresses[lane]));
                continue;
            }
            let mut at = addresses[lane] as u32 as usize;
            let end = at + size as usize;
            while at < end {
                let (piece, next) = Piece::first(at, end);
                self.write(&side, lane, piece);
                at = next;
            }
        }
        None
    }
}

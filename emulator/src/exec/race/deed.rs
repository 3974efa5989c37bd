//! What an instruction does to shared memory, and the pieces that each lane's part of it comes in.

use crate::exec::access::for_lanes;

/// What an instruction does to shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'d> {
    /// Lanes that take part.
    pub mask: u32,
    /// Their addresses.
    pub addresses: &'d [u64; 32],
    /// Bytes at each of them.
    pub size: u32,
    /// Whether they are written.
    pub writes: bool,
    /// Atomic, or such that threads agree to share the place.
    pub strong: bool,
}

impl Deed<'_> {
    /// Whether each lane's address is a multiple of the bytes there.
    #[inline(always)]
    pub fn is_aligned(&self) -> bool {
        let mut low = 0;
        if self.mask == u32::MAX {
            for address in self.addresses {
                low |= address;
            }
        } else {
            for_lanes(self.mask, |lane| low |= self.addresses[lane]);
        }
        low as u32 & self.size.wrapping_sub(1) == 0
    }

    /// Whether the lanes' addresses are on different banks of shared memory, and so in different words.
    #[inline(always)]
    pub fn is_on_banks_apart(&self) -> bool {
        let mut banks = 0u32;
        for lane in 0..32 {
            let bank = 1 << (self.addresses[lane] as u32 >> 2 & 31);
            let takes_part = self.mask >> lane & 1 != 0;
            banks |= if takes_part { bank } else { 0 };
        }
        banks.count_ones() == self.mask.count_ones()
    }
}

/// Part of a lane's access: cells of one quad.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// The 16 bytes, by number; for bytes the word.
    pub at: usize,
    /// Cells, by bit.
    pub select: u32,
    /// Whether the cells are a word's bytes.
    pub fine: bool,
}

impl Piece {
    /// The only piece of `SIZE` bytes at a multiple of them, 16 at most.
    #[inline(always)]
    pub fn natural<const SIZE: u32>(address: u64) -> Piece {
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

/// The pieces of a lane's access that are left.
#[derive(Debug)]
pub struct Pieces {
    at: usize,
    end: usize,
}

impl Pieces {
    /// All of them.
    #[inline(always)]
    pub fn of(deed: &Deed, lane: usize) -> Pieces {
        let at = deed.addresses[lane] as u32 as usize;
        Pieces {
            at,
            end: at + deed.size as usize,
        }
    }

    /// The next one, of an access of `NATURAL` bytes if that is not 0.
    #[inline(always)]
    #[allow(clippy::should_implement_trait)] // inlined into the wide builds as it is
    pub fn next<const NATURAL: u32>(&mut self) -> Option<Piece> {
        if self.at >= self.end {
            return None;
        }
        let (piece, next) = if NATURAL != 0 {
            (Piece::natural::<NATURAL>(self.at as u64), self.end)
        } else {
            Piece::first(self.at, self.end)
        };
        self.at = next;
        Some(piece)
    }
}

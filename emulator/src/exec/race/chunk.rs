//! Accesses of 16 bytes, as asynchronous copies and matrices make them: their bytes are one cell while nobody accesses
//! parts of them.

use super::case::Case;
use super::cell::SPLIT;
use super::deed::Deed;
use super::four::Four;
use super::past::Glance;
use crate::exec::access::{bits, for_lanes};

impl Case<'_> {
    /// Holds accesses of 16 bytes each, at multiples of that, against what was before, and notes them; false where it
    /// takes the words to do so, and nothing was noted.
    #[inline(always)]
    pub(super) fn hold_chunks<const WRITES: bool>(&mut self, deed: &Deed) -> bool {
        // Reads of other blocks, and some by them, stand in a list, by word.
        if !self.near || !self.shadow.far.is_empty() {
            return false;
        }
        let chunks = self.shadow.wanted_chunks();
        let cell = |lane: usize| chunks.at(deed.addresses[lane] as u32 as usize / 16);
        let glance = Glance::new(&self.side);
        let mut present = Four::all(0);
        for_lanes(deed.mask, |lane| {
            present = present.or(glance.present(*cell(lane)));
        });
        if present.any() {
            return self.hold_each_chunk::<WRITES>(deed);
        }
        for_lanes(deed.mask, |lane| {
            *cell(lane) = glance.touched::<WRITES>(*cell(lane), lane);
        });
        true
    }

    /// [`Case::hold_chunks`] lane by lane, where not all is past or known of chunks.
    #[inline(never)]
    fn hold_each_chunk<const WRITES: bool>(&mut self, deed: &Deed) -> bool {
        let (side, chunks) = (self.side, self.shadow.chunks.view());
        let index = |lane: usize| deed.addresses[lane] as u32 as usize / 16;
        for lane in bits(deed.mask) {
            let cell = chunks.at(index(lane));
            let known = !cell.has(SPLIT) || self.shadow.gather::<WRITES>(index(lane), &side);
            if !known || !cell.plainly_sound::<WRITES>(&side, lane) {
                return false;
            }
        }
        for lane in bits(deed.mask) {
            let cell = chunks.at(index(lane));
            if WRITES {
                cell.write(&side, lane);
            } else {
                cell.read_plainly(&side, lane);
            }
        }
        true
    }

    /// Accesses to parts of chunks, or such as not to be told without: what is known of them is left to their words.
    #[inline(never)]
    pub(super) fn spread(&mut self, deed: &Deed) {
        for lane in bits(deed.mask) {
            let first = deed.addresses[lane] as u32 as usize;
            for chunk in first / 16..=(first + deed.size as usize - 1) / 16 {
                self.shadow.spread(chunk);
            }
        }
    }
}

//! Which 32-byte sectors of global memory a launch touched, however often: what it would cost at the least
//! to move them once.

use std::collections::HashMap;

/// Bytes of a sector.
pub const SECTOR: u64 = 32;

/// Sectors of a page, a bit each.
const PAGE: u64 = 2048;
const WORDS: usize = (PAGE / 64) as usize;
/// Pages found without a look-up: a kernel that streams goes back and forth between few.
const RECENT: usize = 16;

/// A set of sectors, by number (address ÷ 32).
#[derive(Debug, Clone, Default)]
pub struct SectorSet {
    /// Where in `pages` each page is, by the sectors' number ÷ [`PAGE`].
    places: HashMap<u64, u32>,
    pages: Vec<[u64; WORDS]>,
    /// Pages met last, each at the place that its number's low bits give: number + 1, and place.
    recent: [(u64, u32); RECENT],
}

impl SectorSet {
    fn page(&mut self, number: u64) -> &mut [u64; WORDS] {
        let slot = number as usize % RECENT;
        if self.recent[slot].0 != number + 1 {
            self.find(number, slot);
        }
        &mut self.pages[self.recent[slot].1 as usize]
    }

    #[cold]
    fn find(&mut self, number: u64, slot: usize) {
        let fresh = self.pages.len() as u32;
        let place = *self.places.entry(number).or_insert(fresh);
        if place == fresh {
            self.pages.push([0; WORDS]);
        }
        self.recent[slot] = (number + 1, place);
    }

    /// Takes in the sectors from `first` to `last`.
    #[inline]
    pub fn insert(&mut self, mut first: u64, last: u64) {
        while first <= last {
            let end = last.min(first | (PAGE - 1));
            let page = self.page(first / PAGE);
            let (from, to) = (first % PAGE, end % PAGE);
            for word in from / 64..=to / 64 {
                let low = from.saturating_sub(word * 64);
                let high = (to - word * 64).min(63);
                page[word as usize] |= u64::MAX >> (63 - high) & u64::MAX << low;
            }
            first = end + 1;
        }
    }

    /// Takes in another set.
    pub fn add(&mut self, other: &SectorSet) {
        for (number, place) in &other.places {
            let theirs = &other.pages[*place as usize];
            let mine = self.page(*number);
            mine.iter_mut().zip(theirs).for_each(|(m, t)| *m |= t);
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        let words = self.pages.iter().flatten();
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

/// The sectors that a launch read, and those it wrote. Atomic operations write.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// Read, by asynchronous copies too. Prefetches are hints, which touch nothing.
    pub read: SectorSet,
    /// Written.
    pub written: SectorSet,
}

impl Touched {
    /// Takes in what another part of the same launch touched.
    pub fn add(&mut self, other: &Touched) {
        self.read.add(&other.read);
        self.written.add(&other.written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_counts_once() {
        let mut set = SectorSet::default();
        assert!(set.is_empty());
        set.insert(5, 5);
        set.insert(5, 6);
        set.insert(4, 6);
        assert_eq!(set.len(), 3);
        // Across words and pages.
        set.insert(60, 70);
        assert_eq!(set.len(), 3 + 11);
        set.insert(2 * PAGE - 3, 3 * PAGE + 1);
        assert_eq!(set.len(), 14 + 3 + PAGE + 2);
    }

    #[test]
    fn pages_that_share_a_recent_place_are_kept_apart() {
        let mut set = SectorSet::default();
        for round in 0..3 {
            for page in [0, RECENT as u64, 2 * RECENT as u64, 1 << 40] {
                set.insert(page * PAGE + round, page * PAGE + round);
            }
        }
        assert_eq!(set.len(), 12);
    }

    #[test]
    fn sets_add_up() {
        let (mut a, mut b) = (SectorSet::default(), SectorSet::default());
        a.insert(0, 9);
        b.insert(5, 14);
        b.insert(1 << 30, 1 << 30);
        a.add(&b);
        assert_eq!(a.len(), 16);
        a.add(&SectorSet::default());
        assert_eq!(a.len(), 16);
    }
}

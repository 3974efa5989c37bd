//! What is known of the accesses to a block's shared memory: a cell for each word, for each byte of the words of which
//! threads access parts, and for each 16 bytes that are only accessed whole.

use super::cell::{Cell, FAR, LAST_TICK, Quad, SPLIT, Side, Write};
use super::order::Order;
use crate::exec::shared::AlignedBytes;
use std::collections::HashMap;
use std::marker::PhantomData;

/// A read that no cell has room for: by a warp of another block of the cluster, or atomic where others are not.
#[derive(Debug, Clone, Copy)]
pub struct FarRead {
    /// The warp, by its number in the cluster.
    pub warp: usize,
    /// Its lane.
    pub lane: usize,
    /// When.
    pub tick: u32,
    /// Whether it was atomic, or such that threads agree to share the place.
    pub strong: bool,
    /// Bytes of the word.
    pub bytes: u32,
}

/// Shadow of a block's shared memory. Its ticks go on from block to block, so that what is left of the blocks before
/// is older than anything that a block knows of, and need not be wiped away.
#[derive(Debug)]
pub struct SharedRaces {
    /// A cell for each 16 bytes that are accessed whole; one that is split leaves it to the words. There are none
    /// before the first such access: then the words count.
    pub(super) chunks: Array<Cell>,
    /// Chunks that are not split.
    pub(super) whole: usize,
    /// By 16 bytes: a cell a word.
    pub(super) words: Array<Quad>,
    /// The bytes of words that are split, a cell each, where the words say; and those of words that are no longer.
    parts: Vec<Quad>,
    free: Vec<u32>,
    /// Reads since the last write that no cell has room for, by word, where those are marked so.
    pub(super) far: HashMap<usize, Vec<FarRead>>,
    len: usize,
    /// Added to the order's ticks, which begin anew with each block.
    pub(super) base: u32,
    /// The last tick noted.
    pub(super) latest: u32,
}

/// Cells by index, made when they are first wanted.
#[derive(Debug)]
pub struct Array<T>(Option<AlignedBytes>, PhantomData<T>);

impl<T: Copy> Array<T> {
    /// None yet.
    const NONE: Array<T> = Array(None, PhantomData);

    /// Room for `count`, each of which is `first` to begin with.
    #[inline(always)]
    fn make(&mut self, count: usize, first: T) {
        if self.0.is_none() {
            self.fill(count, first);
        }
    }

    #[cold]
    fn fill(&mut self, count: usize, first: T) {
        self.0 = Some(AlignedBytes::new(count * size_of::<T>()));
        let all = self.view();
        (0..count).for_each(|k| *all.at(k) = first);
    }

    /// Where they begin, if they are there.
    #[inline(always)]
    pub fn first(&self) -> Option<*mut u8> {
        self.0.as_ref().map(AlignedBytes::as_ptr)
    }

    /// All of them.
    #[inline(always)]
    pub fn view<'q>(&self) -> View<'q, T> {
        let (first, count) = match &self.0 {
            None => (std::ptr::null_mut(), 0),
            Some(bytes) => (bytes.as_ptr().cast(), bytes.len() / size_of::<T>()),
        };
        View {
            first,
            count,
            of: PhantomData,
        }
    }

    /// The one with that index.
    #[inline(always)]
    pub fn at<'q>(&self, index: usize) -> &'q mut T {
        self.view().at(index)
    }
}

/// Cells by index, for the time of one check.
#[derive(Debug, Clone, Copy)]
pub struct View<'q, T> {
    first: *mut T,
    count: usize,
    of: PhantomData<&'q T>,
}

impl<'q, T> View<'q, T> {
    /// The one with that index.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &'q mut T {
        assert!(index < self.count, "the shadow covers all of the memory");
        // SAFETY: there are so many, aligned to 128 bytes, of which any bits are one; a shadow belongs to one host
        // thread, and what it does with one is done before it takes another reference to the same.
        unsafe { &mut *self.first.add(index) }
    }
}

/// All bytes of a word.
pub const ALL_BYTES: u32 = 15;

/// Past this the shadow is wiped and ticks begin anew.
const MANY_TICKS: u32 = LAST_TICK / 2;

/// A tick of the order's, in a shadow whose ticks begin at `base`.
#[inline(always)]
pub fn at_tick(base: u32, tick: u32) -> u32 {
    base.saturating_add(tick).min(LAST_TICK)
}

impl SharedRaces {
    /// For `len` bytes; the shadow is made when the check first wants it.
    pub fn new(len: usize) -> SharedRaces {
        SharedRaces {
            chunks: Array::NONE,
            whole: 0,
            words: Array::NONE,
            parts: Vec::new(),
            free: Vec::new(),
            far: HashMap::new(),
            len,
            base: 0,
            latest: 0,
        }
    }

    /// The shadow's words, made if they are not there yet.
    #[inline(always)]
    pub fn wanted<'q>(&mut self) -> View<'q, Quad> {
        self.words.make(self.len.div_ceil(16), Quad::default());
        self.words.view()
    }

    /// The shadow's chunks, made if they are not there yet; all of them split at first.
    #[inline(always)]
    pub fn wanted_chunks<'q>(&mut self) -> View<'q, Cell> {
        self.chunks.make(self.len.div_ceil(16), Cell::IN_PARTS);
        self.chunks.view()
    }

    /// Leaves what is known of a chunk to its words, where the chunk knows it.
    #[inline(always)]
    pub fn spread(&mut self, chunk: usize) {
        if self.whole == 0 {
            return;
        }
        let cell = self.chunks.at(chunk);
        if !cell.has(SPLIT) {
            *self.words.at(chunk) = Quad([*cell; 4]);
            // When that was: what is accessed in parts once may well be so again.
            *cell = Cell {
                read_tick: self.latest,
                ..Cell::IN_PARTS
            };
            self.whole -= 1;
        }
    }

    /// Takes what is known of a chunk from its words, where one cell can say it and the block has not told them apart
    /// before; false where not. What `WRITES` the chunk hides what everybody knows.
    pub fn gather<const WRITES: bool>(&mut self, chunk: usize, side: &Side) -> bool {
        let cell = self.chunks.at(chunk);
        let Quad(words) = self.words.at(chunk);
        *cell = if cell.read_tick > self.base {
            return false;
        } else if WRITES && words.iter().all(|word| word.is_settled(side)) {
            Cell::default()
        } else if words.iter().all(|word| *word == words[0]) && !words[0].has(SPLIT | FAR) {
            words[0]
        } else {
            return false;
        };
        self.whole += 1;
        true
    }

    /// Warp `warp` of the cluster, as it accesses the memory now, which is its own block's if `near`.
    #[inline(always)]
    pub(super) fn side(
        &self,
        order: &Order,
        warp: usize,
        first: usize,
        near: bool,
        strong: bool,
    ) -> Side {
        let (others, most) = order.known_of_others(warp);
        Side {
            warp: warp as u32,
            bit: if near { 1 << (warp - first) } else { 0 },
            tick: self.tick(order.tick()),
            own: self.tick(order.known(warp, warp)),
            others: self.tick(others),
            most: self.tick(most),
            settled: self.tick(order.settled()),
            strong,
        }
    }

    /// A tick of the order's, by which accesses are noted.
    #[inline(always)]
    pub fn tick(&self, tick: u32) -> u32 {
        at_tick(self.base, tick)
    }

    /// A new block.
    pub fn forget(&mut self) {
        self.base = self.latest;
        self.far.clear();
        if self.base > MANY_TICKS {
            *self = SharedRaces::new(self.len);
        }
    }

    /// Gives the bytes of a word cells of their own, until it is written whole.
    pub fn split(&mut self, word: usize) {
        let place = self.free.pop().unwrap_or(self.parts.len() as u32);
        let parts = self.word(word).split(place);
        match self.parts.get_mut(place as usize) {
            Some(cells) => *cells = parts,
            None => self.parts.push(parts),
        }
    }

    /// The cells of a word's bytes; it is split.
    #[inline(always)]
    pub fn parts(&mut self, word: usize) -> &mut Quad {
        let place = self.word(word).parts();
        &mut self.parts[place]
    }

    /// A word's cell.
    #[inline(always)]
    pub fn word<'q>(&self, word: usize) -> &'q mut Cell {
        &mut self.words.at(word / 4).0[word % 4]
    }

    /// The last writes to a word, or to each of its bytes: the first byte, and warp of the cluster, lane and tick.
    pub fn last_writes(&mut self, word: usize) -> impl Iterator<Item = (u32, Option<Write>)> {
        self.wanted();
        self.spread(word / 4);
        let cell = *self.word(word);
        let (cells, count) = if cell.has(SPLIT) {
            (*self.parts(word), 4)
        } else {
            (Quad([cell; 4]), 1)
        };
        (0..count).map(move |byte| (byte as u32, cells.0[byte].last_write()))
    }

    /// The word, which is split, is one cell again, of which nothing is known.
    pub fn join(&mut self, word: usize) {
        let cell = self.word(word);
        self.free.push(cell.parts() as u32);
        *cell = Cell::default();
    }

    /// Bytes of a word are written: the listed reads of them are past.
    #[cold]
    pub fn forget_far(&mut self, word: usize, bytes: u32) {
        if let Some(list) = self.far.get_mut(&word) {
            list.iter_mut().for_each(|r| r.bytes &= !bytes);
            list.retain(|r| r.bytes != 0);
            if !list.is_empty() {
                return;
            }
        }
        self.far.remove(&word);
        self.word(word).clear(FAR);
    }
}

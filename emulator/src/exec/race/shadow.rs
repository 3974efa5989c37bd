//! What is known of the accesses to a block's shared memory: a cell for each word, and for each byte of the words of
//! which threads access parts.

use super::quad::{FAR, LAST_TICK, Quad, SPLIT, Write};
use crate::exec::shared::AlignedBytes;
use std::collections::HashMap;

/// A read by a warp of another block of the cluster.
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
    /// By 16 bytes: a cell a word.
    pub(super) words: Quads,
    /// The bytes of words that are split, a cell each, where the words say; and those of words that are no longer.
    parts: Vec<Quad>,
    free: Vec<u32>,
    /// Reads by other blocks' warps since the last write, by word, where those are marked so.
    pub(super) far: HashMap<usize, Vec<FarRead>>,
    len: usize,
    /// Added to the order's ticks, which begin anew with each block.
    pub(super) base: u32,
    /// The last tick noted.
    pub(super) latest: u32,
}

/// Quads by index, made when they are first wanted.
#[derive(Debug, Default)]
pub struct Quads(Option<AlignedBytes>);

impl Quads {
    /// Room for `count`, with nothing noted.
    fn make(&mut self, count: usize) {
        if self.0.is_none() {
            self.0 = Some(AlignedBytes::new(count * size_of::<Quad>()));
        }
    }

    /// All of them.
    #[inline(always)]
    pub fn view<'q>(&self) -> View<'q> {
        let (first, count) = match &self.0 {
            None => (std::ptr::null_mut(), 0),
            Some(bytes) => (bytes.as_ptr().cast(), bytes.len() / size_of::<Quad>()),
        };
        View {
            first,
            count,
            of: std::marker::PhantomData,
        }
    }

    /// The quad with that index.
    #[inline(always)]
    pub fn at<'q>(&self, index: usize) -> &'q mut Quad {
        self.view().at(index)
    }
}

/// Quads by index, for the time of one check.
#[derive(Debug, Clone, Copy)]
pub struct View<'q> {
    first: *mut Quad,
    count: usize,
    of: std::marker::PhantomData<&'q Quad>,
}

impl<'q> View<'q> {
    /// The quad with that index.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &'q mut Quad {
        assert!(index < self.count, "the shadow covers all of the memory");
        // SAFETY: there are so many quads, aligned to 128 bytes, of which any bits are one; a shadow belongs to one
        // host thread, and what it does with a quad is done before it takes another reference to the same.
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
            words: Quads::default(),
            parts: Vec::new(),
            free: Vec::new(),
            far: HashMap::new(),
            len,
            base: 0,
            latest: 0,
        }
    }

    /// The shadow's words, made if they are not there yet.
    pub fn wanted<'q>(&mut self) -> View<'q> {
        self.words.make(self.len.div_ceil(16));
        self.words.view()
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
        let parts = self.words.at(word / 4).split(word % 4, place);
        match self.parts.get_mut(place as usize) {
            Some(cells) => *cells = parts,
            None => self.parts.push(parts),
        }
    }

    /// The cells of a word's bytes; it is split.
    #[inline(always)]
    pub fn parts(&mut self, word: usize) -> &mut Quad {
        let place = self.words.at(word / 4).parts(word % 4);
        &mut self.parts[place]
    }

    /// The last writes to a word, or to each of its bytes: the first byte, and warp of the cluster, lane and tick.
    pub fn last_writes(&mut self, word: usize) -> impl Iterator<Item = (u32, Option<Write>)> {
        let quad = *self.wanted().at(word / 4);
        let k = word % 4;
        let (cells, count) = if quad.flags(k) & SPLIT != 0 {
            (*self.parts(word), 4)
        } else {
            (quad, 1)
        };
        (0..count).map(move |byte| {
            let cell = if count == 1 { k } else { byte };
            (byte as u32, cells.last_write(cell))
        })
    }

    /// The word, which is split, is one cell again, of which nothing is known.
    pub fn join(&mut self, word: usize) {
        let place = self.words.at(word / 4).join(word % 4);
        self.free.push(place);
    }

    /// Bytes of a word are written: other blocks' reads of them are past.
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
        self.words.at(word / 4).clear(word % 4, FAR);
    }
}

//! Where a token's vector lies in a cache: one address rule for contiguous and
//! paged.
//!
//! ```text
//! element = page·strides.page + head·strides.head + offset·strides.token
//!
//! contiguous  [batch, num_kv_heads, max_seq_len, head_dim]
//!             page = sequence, offset = token
//! paged HND   [num_pages, num_kv_heads, page_size, head_dim]
//! paged NHD   [num_pages, page_size, num_kv_heads, head_dim]
//!             page = block_table[sequence][token / page_size]
//!             offset = token % page_size
//! ```

use super::error::{self, Error};
use std::ops::Range;

/// The shape of a contiguous cache, `[batch, num_kv_heads, max_seq_len, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContiguousShape {
    /// Sequences.
    pub batch: usize,
    /// Key (or value) vectors a token.
    pub num_kv_heads: usize,
    /// Tokens a sequence can hold.
    pub max_seq_len: usize,
    /// Numbers a vector.
    pub head_dim: usize,
}

/// The order of the two middle dimensions of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOrder {
    /// `[num_pages, num_kv_heads, page_size, head_dim]`: a head's tokens
    /// follow each other.
    Hnd,
    /// `[num_pages, page_size, num_kv_heads, head_dim]`: a token's heads
    /// follow each other.
    Nhd,
}

/// The shape of a paged cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagedShape {
    /// Pages in the pool.
    pub num_pages: usize,
    /// Key (or value) vectors a token.
    pub num_kv_heads: usize,
    /// Tokens a page.
    pub page_size: usize,
    /// Numbers a vector.
    pub head_dim: usize,
    /// The order inside a page.
    pub order: PageOrder,
}

/// Which page of the pool holds which part of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTable<'a> {
    /// Page indices, `[batch, max_pages]`. Entries of pages a sequence has not
    /// reached yet may hold anything.
    pub pages: &'a [i32],
    /// Sequences.
    pub batch: usize,
    /// Pages a sequence can hold.
    pub max_pages: usize,
}

/// Distances in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// From a page to the next.
    pub page: usize,
    /// From a head to the next.
    pub head: usize,
    /// From a token to the next of the same page.
    pub token: usize,
}

/// A token's place: a page of the pool and a token within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The page.
    pub page: usize,
    /// The token within the page.
    pub offset: usize,
}

/// Where every vector of a cache lies, contiguous or paged. K and V are two
/// buffers of the same map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMap {
    batch: usize,
    num_kv_heads: usize,
    head_dim: usize,
    num_pages: usize,
    page_size: usize,
    max_pages: usize,
    strides: Strides,
    block_table: Vec<i32>,
}

impl CacheMap {
    /// A cache of one run of `max_seq_len` tokens a sequence and head.
    ///
    /// # Errors
    /// [`Error::Zero`] for a dimension of 0, [`Error::TooLarge`].
    pub fn contiguous(shape: ContiguousShape) -> Result<Self, Error> {
        let ContiguousShape {
            batch,
            num_kv_heads,
            max_seq_len,
            head_dim,
        } = shape;
        error::nonzero("batch", batch)?;
        error::nonzero("max_seq_len", max_seq_len)?;
        let mut map = Self::pool(PagedShape {
            num_pages: batch,
            num_kv_heads,
            page_size: max_seq_len,
            head_dim,
            order: PageOrder::Hnd,
        })?;
        let last = i32::try_from(batch).map_err(|_| Error::TooLarge { argument: "batch" })?;
        map.batch = batch;
        map.max_pages = 1;
        map.block_table = (0..last).collect();
        Ok(map)
    }

    /// A cache of pages, those of sequence `b` named by row `b` of the table.
    ///
    /// The table's entries are checked when a token behind them is asked for,
    /// not before.
    ///
    /// # Errors
    /// [`Error::Zero`] for a dimension of 0, [`Error::Length`] for a table that
    /// is not `[batch, max_pages]`, [`Error::TooLarge`].
    pub fn paged(shape: PagedShape, table: BlockTable<'_>) -> Result<Self, Error> {
        error::nonzero("batch", table.batch)?;
        error::nonzero("max_pages", table.max_pages)?;
        let entries = error::product("block_table", &[table.batch, table.max_pages])?;
        error::length(
            "block_table",
            table.pages.len(),
            entries,
            "[batch, max_pages]",
        )?;
        error::product("capacity", &[table.max_pages, shape.page_size])?;
        let mut map = Self::pool(shape)?;
        map.batch = table.batch;
        map.max_pages = table.max_pages;
        map.block_table = table.pages.to_vec();
        Ok(map)
    }

    /// Packed rows `[tokens, num_kv_heads, head_dim]`, as they come out of a
    /// projection, seen as a cache of one sequence: what works on a cache works
    /// on them.
    ///
    /// # Errors
    /// [`Error::Zero`] for a dimension of 0, [`Error::TooLarge`].
    pub fn rows(tokens: usize, num_kv_heads: usize, head_dim: usize) -> Result<Self, Error> {
        error::nonzero("tokens", tokens)?;
        Self::paged(
            PagedShape {
                num_pages: 1,
                num_kv_heads,
                page_size: tokens,
                head_dim,
                order: PageOrder::Nhd,
            },
            BlockTable {
                pages: &[0],
                batch: 1,
                max_pages: 1,
            },
        )
    }

    /// Where the scales of a quantised cache lie: one for each vector, in the
    /// order of the vectors. It is this map with `head_dim` 1.
    pub fn scales(&self) -> Self {
        let strides = Strides {
            page: self.strides.page / self.head_dim,
            head: self.strides.head / self.head_dim,
            token: self.strides.token / self.head_dim,
        };
        Self {
            head_dim: 1,
            strides,
            ..self.clone()
        }
    }

    /// The pages alone, no sequence holding any.
    fn pool(shape: PagedShape) -> Result<Self, Error> {
        let PagedShape {
            num_pages,
            num_kv_heads,
            page_size,
            head_dim,
            order,
        } = shape;
        error::nonzero("num_pages", num_pages)?;
        error::nonzero("num_kv_heads", num_kv_heads)?;
        error::nonzero("page_size", page_size)?;
        error::nonzero("head_dim", head_dim)?;
        error::product("cache", &[num_pages, num_kv_heads, page_size, head_dim])?;
        let page = num_kv_heads * page_size * head_dim;
        let strides = match order {
            PageOrder::Hnd => Strides {
                page,
                head: page_size * head_dim,
                token: head_dim,
            },
            PageOrder::Nhd => Strides {
                page,
                head: head_dim,
                token: num_kv_heads * head_dim,
            },
        };
        Ok(Self {
            batch: 0,
            num_kv_heads,
            head_dim,
            num_pages,
            page_size,
            max_pages: 0,
            strides,
            block_table: Vec::new(),
        })
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Key (or value) vectors a token.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    /// Numbers a vector.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Distances in elements.
    pub fn strides(&self) -> Strides {
        self.strides
    }

    /// Tokens a sequence can hold.
    pub fn capacity(&self) -> usize {
        self.max_pages * self.page_size
    }

    /// Vectors in one buffer: also the number of scales beside a quantised one.
    pub fn vectors(&self) -> usize {
        self.num_pages * self.num_kv_heads * self.page_size
    }

    /// Elements of one buffer (K or V).
    pub fn elements(&self) -> usize {
        self.vectors() * self.head_dim
    }

    /// Where the table puts a token of a sequence.
    ///
    /// # Errors
    /// [`Error::Outside`] past the batch or the capacity, [`Error::Page`] for
    /// a table entry that names no page.
    pub fn slot(&self, sequence: usize, token: usize) -> Result<Slot, Error> {
        inside("sequence", sequence, self.batch)?;
        inside("token", token, self.capacity())?;
        let index = token / self.page_size;
        let entry = self.block_table[sequence * self.max_pages + index];
        match usize::try_from(entry) {
            Ok(page) if page < self.num_pages => Ok(Slot {
                page,
                offset: token % self.page_size,
            }),
            _ => Err(Error::Page {
                sequence,
                index,
                page: entry,
                num_pages: self.num_pages,
            }),
        }
    }

    /// The elements of a token's vector of one head, in either buffer.
    ///
    /// # Errors
    /// As [`slot`](Self::slot), and [`Error::Outside`] past the heads.
    pub fn vector(
        &self,
        sequence: usize,
        head: usize,
        token: usize,
    ) -> Result<Range<usize>, Error> {
        inside("head", head, self.num_kv_heads)?;
        let slot = self.slot(sequence, token)?;
        let start = slot.page * self.strides.page
            + head * self.strides.head
            + slot.offset * self.strides.token;
        Ok(start..start + self.head_dim)
    }
}

fn inside(what: &'static str, index: usize, limit: usize) -> Result<(), Error> {
    if index >= limit {
        return Err(Error::Outside { what, index, limit });
    }
    Ok(())
}

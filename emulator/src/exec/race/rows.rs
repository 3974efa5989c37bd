//! Rows of 16 bytes, one a lane of a whole warp, in the memory of its own block: held against what was before for all
//! lanes at once.

use super::cell::{Cell, READ_LANE_SHIFT, Side, WRITER_WARP};
use super::four::Four;
use super::order::Order;
use super::past::Glance;
use super::shadow::SharedRaces;
use crate::exec::access::Rows;

/// What has been seen of the cells of rows.
#[derive(Debug)]
pub struct Sight {
    cells: *mut u8,
    side: Side,
    mine: Four,
    /// The latest ticks, and all bits in which other notes than the warp's own differ from them.
    latest: Four,
    apart: Four,
}

/// Notes of an access to rows, lane after lane.
#[derive(Debug)]
pub struct Pen {
    cells: *mut u8,
    glance: Glance,
    writes: bool,
    /// What the next lane leaves, but for what it keeps.
    new: Four,
    step: Four,
}

impl SharedRaces {
    /// Before warp `warp` of the cluster, whose block's first warp has number `first`, looks at rows; `None` where
    /// looking at the cells of rows is not enough.
    #[inline(always)]
    pub fn sight(&self, order: &Order, warp: usize, first: usize) -> Option<Sight> {
        let cells = self.rows_cells()?;
        let side = self.side(order, warp, first, true, false);
        Some(Sight {
            cells,
            side,
            mine: Four::new([0, 0, side.writer(0), 0]),
            latest: Four::all(0),
            apart: Four::all(0),
        })
    }

    /// The cells of rows, if they are there, and nothing is in the list.
    #[inline(always)]
    fn rows_cells(&self) -> Option<*mut u8> {
        self.chunks.first().filter(|_| self.far.is_empty())
    }

    /// Begins to note an access of which all lanes have seen their rows.
    #[inline(always)]
    pub fn pen(&mut self, sight: &Sight, writes: bool) -> Pen {
        self.latest = self.latest.max(sight.side.tick);
        let glance = Glance::new(&sight.side);
        let (new, shift) = if writes {
            (glance.first::<true>(), 0)
        } else {
            (glance.first::<false>(), READ_LANE_SHIFT)
        };
        Pen {
            cells: sight.cells,
            glance,
            writes,
            new,
            step: Four::new([0, 0, 1 << shift, 0]),
        }
    }
}

impl Sight {
    /// Looks at a lane's row.
    ///
    /// # Safety
    /// The rows are those of the memory that the sight is of.
    #[inline(always)]
    pub unsafe fn see(&mut self, rows: Rows, lane: usize) {
        // SAFETY: there is a cell for each 16 bytes of the memory, and rows are inside and aligned; a shadow belongs to
        // one host thread.
        let known = unsafe { *rows.of::<Cell>(self.cells)(lane) }.vector();
        self.latest = self.latest.most(known);
        self.apart = self.apart.or(known.xor(self.mine));
    }

    /// Whether it is plain that all that was done to the rows is past: ordered before what any lane does now.
    #[inline(always)]
    pub fn is_past(&self) -> bool {
        let [writes, reads, ..] = self.latest.array();
        let [.., notes, readers] = self.apart.array();
        let (side, latest) = (&self.side, writes.max(reads));
        let alone = (notes & WRITER_WARP == 0) & (readers & !side.bit == 0);
        (latest <= side.own.min(side.others)) | (alone & (latest <= side.own))
    }
}

impl Pen {
    /// Notes the next lane's access, from lane 0 on.
    ///
    /// # Safety
    /// The rows are those that were seen.
    #[inline(always)]
    pub unsafe fn note(&mut self, rows: Rows, lane: usize) {
        let (cell, glance) = (rows.of::<Cell>(self.cells)(lane), &self.glance);
        // SAFETY: as for `Sight::see`.
        unsafe {
            *cell = if self.writes {
                glance.noted::<true>(*cell, self.new)
            } else {
                glance.noted::<false>(*cell, self.new)
            }
        };
        self.new = self.new.plus(self.step);
    }
}

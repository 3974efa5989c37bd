//! A row of 16 bytes a lane, held against what was before for all lanes of a warp at once.

use super::cell::{Cell, WRITER_WARP};
use super::four::Four;
use super::order::Order;
use super::past::Glance;
use super::shadow::SharedRaces;
use crate::exec::access::{Act, Rows};

impl SharedRaces {
    /// Notes what warp `warp` of the cluster does to rows of the memory of its own block, whose first warp has number
    /// `first`; false, and nothing noted, where it takes more than one look to tell that all that was done to them is
    /// past.
    #[inline(always)]
    pub fn enter_rows<A: Act>(
        &mut self,
        order: &Order,
        warp: usize,
        first: usize,
        rows: Rows,
    ) -> bool {
        // Reads of and by other blocks stand in a list, by word.
        let Some(cells) = self.chunks.first() else {
            return false;
        };
        if !self.far.is_empty() {
            return false;
        }
        let cell = rows.of::<Cell>(cells);
        let side = self.side(order, warp, first, true, false);
        let mine = Four::new([0, 0, side.writer(0), 0]);
        let (mut latest, mut apart) = (Four::all(0), Four::all(0));
        for lane in 0..32 {
            // SAFETY: there is a cell for each 16 bytes of the memory, and rows are inside and aligned; a shadow belongs
            // to one host thread.
            let known = unsafe { *cell(lane) }.vector();
            latest = latest.most(known);
            apart = apart.or(known.xor(mine));
        }
        let ([writes, reads, ..], [.., notes, readers]) = (latest.array(), apart.array());
        let latest = writes.max(reads);
        let alone = notes & WRITER_WARP == 0 && readers & !side.bit == 0;
        if latest > side.own.min(side.others) && !(alone && latest <= side.own) {
            return false;
        }
        self.latest = self.latest.max(side.tick);
        let glance = Glance::new(&side);
        for lane in 0..32 {
            // SAFETY: as above.
            unsafe {
                *cell(lane) = if A::WRITES {
                    glance.touched::<true>(*cell(lane), lane)
                } else {
                    glance.touched::<false>(*cell(lane), lane)
                }
            };
        }
        true
    }
}

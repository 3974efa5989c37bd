//! Whole warps' copies of 16 bytes a lane from places side by side, in launches that check or count.

use super::prefetch;
use super::queue::Sources;
use crate::exec::access::{Issuing, Operand, ROW};
use crate::exec::ops::memory::space_code;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;

impl Warp {
    /// [`Warp::issue_copies`] of whole pieces; false, and nothing done, where that has to be done at length.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As for [`Warp::issue_quickly`].
    #[inline(always)]
    pub unsafe fn issue_watched<const WIDE: bool>(
        &mut self,
        mask: u32,
        size: u32,
        to: Operand,
        from: Operand,
    ) -> Result<bool, Flow> {
        let is_global = from.code & (space_code::MASK | space_code::NARROW) == space_code::GLOBAL;
        if mask != u32::MAX || size != ROW || !is_global {
            return Ok(false);
        }
        // SAFETY: the caller's promise; the registers are as they were throughout.
        unsafe {
            let Some(run) = self.locate_run::<WIDE>(from, size) else {
                return Ok(false);
            };
            let Some(lanes) = self.locate::<WIDE>(mask, to, size, false) else {
                return Ok(false);
            };
            let Some(rows) = self.rows(lanes) else {
                return Ok(false);
            };
            // Now, so that they come while the rest is done.
            prefetch(run.host, 32 * size as usize);
            if !self.enter_rows::<Issuing>(rows) {
                return Ok(false);
            }
            self.read_run(&run, size)?;
            let (offsets, behind) = rows.parts();
            let from = Sources::Run(run.host);
            self.copies()
                .launch(mask, size, None, (offsets, behind), from);
        }
        Ok(true)
    }
}

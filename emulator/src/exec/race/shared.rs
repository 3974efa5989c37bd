//! Races in shared memory, of the block's own and of the other blocks of its cluster.

use super::case::{Case, Conflict};
use super::deed::Deed;
use crate::check::Check;
use crate::exec::access::Access;
use crate::exec::block::Block;
use crate::exec::lanes::wide;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;

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
        let deed = Deed {
            mask,
            addresses,
            size: access.size,
            writes: access.kind.writes(),
            strong: access.kind.is_strong(),
        };
        let me = self.order_index();
        // SAFETY: the caller's promise; shadow and order are apart.
        let case = unsafe {
            let (shadow, first) = (&mut (*owner).shared.race, (*owner).first_warp as usize);
            Case::new(shadow, self.order(), me, first, owner == self.block, &deed)
        };
        match case.hold(&deed) {
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

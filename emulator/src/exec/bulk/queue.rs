//! Operations that their threads wait for by bulk groups.

use super::Bulk;
use crate::check::Check;
use crate::exec::access::bits;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;
use std::collections::VecDeque;

/// A copy that its thread waits for by groups.
#[derive(Debug)]
struct Grouped {
    copy: Bulk,
    /// Groups that the thread had committed before it.
    group: u32,
    /// What it read, once its source may be written again.
    read: Option<Vec<u8>>,
}

/// Copies that a warp's threads wait for by groups.
#[derive(Debug, Default)]
pub struct BulkQueue {
    /// In order of issue.
    flying: VecDeque<Grouped>,
    /// For each lane, groups committed.
    committed: [u32; 32],
}

impl BulkQueue {
    /// Nothing is in flight.
    pub fn clear(&mut self) {
        self.flying.clear();
        self.committed = [0; 32];
    }

    /// The lanes of `mask` put what they issued since their last commit into a group.
    pub fn commit(&mut self, mask: u32) {
        bits(mask).for_each(|lane| self.committed[lane] = self.committed[lane].wrapping_add(1));
    }
}

impl Warp {
    /// The copies that this warp's threads wait for by groups.
    pub fn bulk_queue(&mut self) -> &mut BulkQueue {
        // SAFETY: no other reference to the block is alive while a handler runs; it has a queue for each warp.
        unsafe { &mut *self.block().bulks.as_mut_ptr().add(self.index as usize) }
    }

    /// Puts a copy off until its thread waits for the group it will be in.
    pub fn group_bulk(&mut self, copy: Bulk) {
        let queue = self.bulk_queue();
        let group = queue.committed[copy.lane as usize];
        queue.flying.push_back(Grouped {
            copy,
            group,
            read: None,
        });
    }

    /// Makes the copies of `mask`'s lanes land, all but those of the newest `pending` groups of each and those not
    /// committed; or no more than read their sources.
    ///
    /// # Errors
    /// The flow to return where that races with an access.
    pub fn wait_bulks(&mut self, mask: u32, pending: u32, read_only: bool) -> Result<(), Flow> {
        let mut at = 0;
        loop {
            let queue = self.bulk_queue();
            let Some(flying) = queue.flying.get_mut(at) else {
                return Ok(());
            };
            let lane = flying.copy.lane;
            let since = queue.committed[lane as usize].wrapping_sub(flying.group);
            if mask >> lane & 1 == 0 || since <= pending || (read_only && flying.read.is_some()) {
                at += 1;
                continue;
            }
            let (copy, read) = (flying.copy, flying.read.take());
            let data = match read {
                Some(data) => data,
                None => self.read_bulk(&copy)?,
            };
            if read_only {
                self.bulk_queue().flying[at].read = Some(data);
                at += 1;
            } else {
                self.bulk_queue().flying.remove(at);
                self.write_bulk(&copy, &data)?;
            }
        }
    }

    /// The block's threads have all exited: what has been read lands now; what has not, never will.
    ///
    /// # Errors
    /// The flow to return where a copy's source is gone, or its landing races with an access.
    pub fn finish_bulks(&mut self) -> Result<(), Flow> {
        while let Some(flying) = self.bulk_queue().flying.pop_front() {
            match flying.read {
                Some(data) => self.write_bulk(&flying.copy, &data)?,
                None if self.launch().checks.has(Check::AsyncCopy) => {
                    let text = format!(
                        "the block exits, and its shared memory with it, before a bulk copy of {} bytes from there was read: \
                         no cp.async.bulk.wait_group has completed it",
                        flying.copy.size
                    );
                    return Err(self.violation(Check::AsyncCopy, 1 << flying.copy.lane, text));
                }
                None => self.land_bulk(&flying.copy)?,
            }
        }
        Ok(())
    }
}

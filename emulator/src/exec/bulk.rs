//! `cp.async.bulk`: one thread's copy of a whole range between global memory and the cluster's shared memory. One that
//! an `mbarrier` counts lands when somebody waits for the phase that counts its bytes; one of a bulk group, when its
//! thread waits for the group. No copy lands sooner than it must.

use super::access::{Access, Kind, Pointers, bits};
use super::block::Block;
use super::cluster;
use super::program::Flow;
use super::shared::byte_state;
use super::warp::{Stop, Warp};
use crate::check::Check;
use crate::ptx::ast::Space;
use std::collections::VecDeque;

/// Alignment of addresses and size, in bytes.
pub const GRAIN: u32 = 16;

/// Where a copy begins or ends.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// A place in the cluster's shared memory.
    Shared(u32),
    /// An address in global memory, and the host's. The launch keeps its allocation alive.
    Global(u64, *mut u8),
}

/// A copy in flight.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Rank of the block that issued it.
    pub block: u32,
    /// Warp that issued it.
    pub warp: u32,
    /// Lane that issued it.
    pub lane: u32,
    /// Destination.
    pub to: End,
    /// Source.
    pub from: End,
    /// Bytes.
    pub size: u32,
}

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

/// What is done 32 grains at a time, as a warp's access would be.
fn pieces(size: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..size)
        .step_by(32 * GRAIN as usize)
        .map(move |at| (at, u32::MAX >> (32 - ((size - at) / GRAIN).min(32))))
}

fn grains(first: u64, at: u32) -> [u64; 32] {
    std::array::from_fn(|k| first + u64::from(at) + u64::from(GRAIN) * k as u64)
}

impl Warp {
    /// Does something for all of a range, 32 grains at a time; a fault is `lane`'s.
    fn pieces_of(
        &mut self,
        lane: usize,
        first: u64,
        size: u32,
        mut act: impl FnMut(&mut Warp, u32, &[u64; 32]) -> Result<(), Flow>,
    ) -> Result<(), Flow> {
        for (at, mask) in pieces(size) {
            if let Err(flow) = act(self, mask, &grains(first, at)) {
                // The grains are no lanes: all of them are this one's.
                if let Stop::Fault(trouble) = &mut self.stop {
                    trouble.lanes = 1 << lane;
                }
                return Err(flow);
            }
        }
        Ok(())
    }

    /// Checks all of a range, and says where it is.
    fn range(
        &mut self,
        lane: usize,
        (first, space): (u64, Space),
        size: u32,
        kind: Kind,
    ) -> Result<End, Flow> {
        let access = Access {
            space: Some(space),
            size: GRAIN,
            align: GRAIN,
            kind,
        };
        let mut start: *mut u8 = std::ptr::null_mut();
        self.pieces_of(lane, first, size, |warp, mask, addresses| {
            let pointers: Pointers = warp.pointers(mask, addresses, access)?;
            if space == Space::Global && kind == Kind::Probe && warp.launch().counters {
                let store = Access {
                    kind: Kind::Store,
                    ..access
                };
                warp.count_global(mask, addresses, store);
            }
            if start.is_null() {
                start = pointers[0];
            }
            Ok(())
        })?;
        Ok(match space {
            Space::Global => End::Global(first, start),
            _ => End::Shared(cluster::place(first as u32, self.rank())),
        })
    }

    /// The block and the address in its shared memory of a place.
    fn owner(&self, place: u32) -> (*mut Block, u32) {
        let owner = self.peer(cluster::rank_of(place, self.rank()));
        (owner, cluster::within(place))
    }

    /// Checks a copy of `size` bytes (a multiple of [`GRAIN`]) by `lane`, and marks what it will write and read.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    pub fn issue_bulk(
        &mut self,
        lane: usize,
        to: (u64, Space),
        from: (u64, Space),
        size: u32,
    ) -> Result<Bulk, Flow> {
        let from = self.range(lane, from, size, Kind::Read)?;
        let to = self.range(lane, to, size, Kind::Probe)?;
        let checks = self.launch().checks;
        if checks.has(Check::AsyncCopy) || checks.has(Check::UninitMemory) {
            if let End::Shared(place) = to {
                let (owner, first) = self.owner(place);
                self.pieces_of(lane, first.into(), size, |warp, mask, addresses| {
                    warp.mark_pending(owner, mask, &addresses.map(|a| a as u32), GRAIN)
                })?;
            }
            if let End::Shared(place) = from {
                let (owner, first) = self.owner(place);
                // SAFETY: the range was found inside the block's shared memory, which has a state for each byte.
                unsafe { set_busy(owner, first, size, true) };
            }
        }
        if matches!(from, End::Global(..)) {
            self.copies().depart(u64::from(size));
        }
        Ok(Bulk {
            block: self.rank(),
            warp: self.index,
            lane: lane as u32,
            to,
            from,
            size,
        })
    }

    /// Reads the source, in the name of the warp that runs.
    ///
    /// # Errors
    /// The flow to return where that races with an access.
    fn read_bulk(&mut self, copy: &Bulk) -> Result<Vec<u8>, Flow> {
        let from = match copy.from {
            End::Global(_, pointer) => pointer.cast_const(),
            End::Shared(place) => {
                let (owner, first) = self.owner(place);
                let access = Access {
                    space: Some(Space::Shared),
                    size: GRAIN,
                    align: GRAIN,
                    kind: Kind::Read,
                };
                // SAFETY: the range was found inside the block's shared memory at issue.
                let pointer = unsafe {
                    set_busy(owner, first, copy.size, false);
                    (*owner).shared.as_ptr().add(first as usize)
                };
                if self.launch().checks.has(Check::SharedRace) {
                    let lane = copy.lane as usize;
                    self.pieces_of(lane, first.into(), copy.size, |warp, mask, addresses| {
                        // SAFETY: the owner is a block of the cluster, and no reference to it is alive.
                        unsafe { warp.shared_race(owner, mask, addresses, access) }
                    })?;
                }
                pointer.cast_const()
            }
        };
        if copy.size == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: the source was found inside its memory at issue, which lives as long as the launch.
        Ok(unsafe { std::slice::from_raw_parts(from, copy.size as usize) }.to_vec())
    }

    /// Writes the destination, in the name of the warp that runs.
    ///
    /// # Errors
    /// The flow to return where that races with an access.
    fn write_bulk(&mut self, copy: &Bulk, data: &[u8]) -> Result<(), Flow> {
        let (pointer, first, owner) = match copy.to {
            End::Global(first, pointer) => (pointer, first, None),
            End::Shared(place) => {
                let (owner, first) = self.owner(place);
                // SAFETY: the range was found inside the block's shared memory at issue; there is a state for each
                // of its bytes.
                let pointer = unsafe {
                    let memory = &(*owner).shared;
                    let states = memory.states().add(first as usize);
                    std::ptr::write_bytes(states, byte_state::INIT, data.len());
                    memory.as_ptr().add(first as usize)
                };
                (pointer, first.into(), Some(owner))
            }
        };
        if data.is_empty() {
            return Ok(());
        }
        if matches!(copy.from, End::Global(..)) {
            self.copies().arrive(u64::from(copy.size));
        }
        // SAFETY: as many bytes were found at the destination at issue.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), pointer, data.len()) };
        let access = Access {
            space: Some(Space::Global),
            size: GRAIN,
            align: GRAIN,
            kind: Kind::Store,
        };
        let checks = self.launch().checks;
        let lane = copy.lane as usize;
        self.pieces_of(
            lane,
            first,
            copy.size,
            |warp, mask, addresses| match owner {
                None => warp.shadows(mask, addresses, access),
                Some(owner) if checks.has(Check::SharedRace) => {
                    // SAFETY: the owner is a block of the cluster, and no reference to it is alive.
                    unsafe { warp.shared_race(owner, mask, addresses, access) }
                }
                Some(_) => Ok(()),
            },
        )
    }

    /// Makes a copy land, in the name of the warp that runs.
    ///
    /// # Errors
    /// The flow to return where that races with an access.
    pub fn land_bulk(&mut self, copy: &Bulk) -> Result<(), Flow> {
        let data = self.read_bulk(copy)?;
        self.write_bulk(copy, &data)
    }

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

/// Marks bytes of a block's shared memory as being read by a copy, or no longer.
///
/// # Safety
/// The range lies inside the shared memory of a block that is alive.
unsafe fn set_busy(owner: *mut Block, first: u32, size: u32, busy: bool) {
    // SAFETY: the caller's promise; there is a state for each byte.
    let states = unsafe {
        let start = (*owner).shared.states().add(first as usize);
        std::slice::from_raw_parts_mut(start, size as usize)
    };
    for state in states {
        if busy {
            *state |= byte_state::BUSY;
        } else {
            *state &= !byte_state::BUSY;
        }
    }
}

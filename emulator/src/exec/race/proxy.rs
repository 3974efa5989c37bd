//! Whether a proxy fence lies between an ordinary write to shared memory and the async proxy's read of it.
//!
//! The fence may stand anywhere on the way from the one to the other: in the writing thread, in the one that issues the
//! bulk operation, or in a thread between them. So every fence notes what was ordered before it, and an operation looks
//! at the last one of each warp that is ordered before itself. What the async proxy itself has written needs none, and
//! neither does an ordinary read of it: with the completion that a thread waits for comes a fence.

use super::order::Order;
use super::shadow::SharedRaces;
use crate::check::Check;
use crate::exec::access::bits;
use crate::exec::bulk::{Bulk, GRAIN};
use crate::exec::cluster;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;
use std::collections::{HashMap, VecDeque};

/// One warp's fence.
#[derive(Debug, Clone)]
struct Fence {
    tick: u32,
    /// When each lane last fenced, up to this one.
    lanes: [u32; 32],
    /// Up to which tick each warp's accesses were ordered before it.
    ordered: Box<[u32]>,
}

/// The proxy fences of a cluster, and what the async proxy wrote.
#[derive(Debug, Default)]
pub struct Proxies {
    /// By warp, oldest first.
    fences: Vec<VecDeque<Fence>>,
    /// When it last wrote, by place in the cluster's shared memory, in multiples of [`GRAIN`].
    written: HashMap<u32, u32>,
}

/// Fences kept of a warp. Beyond that the oldest two count as one, at the time of the first: what is missing may be
/// overlooked, what is there is not.
const KEPT: usize = 64;

impl Proxies {
    /// Nothing has happened.
    pub fn clear(&mut self) {
        self.fences.clear();
        self.written.clear();
    }
}

/// Up to which ticks writes are fenced off, for one operation.
struct Fenced {
    /// All of a warp's.
    warps: Vec<u32>,
    /// Each lane's own.
    lanes: Vec<[u32; 32]>,
}

impl Fenced {
    fn add(&mut self, ordered: &[u32]) {
        for (mine, tick) in self.warps.iter_mut().zip(ordered) {
            *mine = (*mine).max(*tick);
        }
    }
}

impl Order {
    /// The lanes of `mask` of a warp fence the async proxy off.
    pub fn proxy_fence(&mut self, warp: usize, mask: u32) {
        let warps = self.warps();
        let tick = self.tick();
        let ordered = (0..warps).map(|other| self.known(warp, other)).collect();
        self.proxies.fences.resize(warps, VecDeque::new());
        let list = &mut self.proxies.fences[warp];
        let mut lanes = list.back().map_or([0; 32], |f| f.lanes);
        bits(mask).for_each(|lane| lanes[lane] = tick);
        list.push_back(Fence {
            tick,
            lanes,
            ordered,
        });
        if list.len() > KEPT
            && let Some(oldest) = list.pop_front()
        {
            list[0].tick = oldest.tick;
        }
        // What the warp does after it is not covered.
        self.advance();
    }

    /// The async proxy writes `size` bytes at a place in the cluster's shared memory.
    pub fn written_by_proxy(&mut self, place: u32, size: u32) {
        let tick = self.tick();
        let grains = (place..place + size).step_by(GRAIN as usize);
        self.proxies.written.extend(grains.map(|at| (at, tick)));
    }

    /// What is fenced off for an operation that `lane` of warp `me` issues now.
    fn fenced_off(&self, me: usize, lane: usize) -> Fenced {
        let mut fenced = Fenced {
            warps: vec![0; self.warps()],
            lanes: vec![[0; 32]; self.warps()],
        };
        for (warp, list) in self.proxies.fences.iter().enumerate() {
            let known = self.known(me, warp);
            let at = list.partition_point(|f| f.tick <= known);
            if let Some(fence) = at.checked_sub(1).and_then(|at| list.get(at)) {
                fenced.add(&fence.ordered);
                fenced.lanes[warp] = fence.lanes;
            }
        }
        // The lane's own fences come before what it does, whether or not its warp has synchronised.
        if let Some(list) = self.proxies.fences.get(me)
            && let Some(last) = list.back().map(|f| f.lanes[lane]).filter(|&tick| tick != 0)
        {
            let at = list.partition_point(|f| f.lanes[lane] < last);
            fenced.add(&list[at].ordered);
            fenced.lanes[me][lane] = last;
        }
        fenced
    }
}

/// A write that a bulk operation reads without a fence.
struct Unfenced {
    address: u32,
    warp: usize,
    lane: usize,
}

/// The first ordinary write to a range of shared memory, at `place` in the cluster's, that nothing fences off.
fn unfenced(
    order: &Order,
    fenced: &Fenced,
    shadow: &mut SharedRaces,
    place: u32,
    size: u32,
    me: (usize, usize),
) -> Option<Unfenced> {
    let base = shadow.base;
    let first = cluster::within(place);
    for at in (0..size).step_by(4) {
        let written = order.proxies.written.get(&((place + at) & !(GRAIN - 1)));
        let written = written.copied().unwrap_or(0);
        for (byte, write) in shadow.last_writes(((first + at) / 4) as usize) {
            let Some((warp, lane, tick)) = write else {
                continue;
            };
            // What is left of blocks before is no write of this one.
            let tick = tick.saturating_sub(base);
            let sound = tick <= written
                || tick <= fenced.warps[warp]
                || tick <= fenced.lanes[warp][lane]
                // What nothing orders at all is a race, and reported as that.
                || (warp, lane) != me && tick > order.known(me.0, warp);
            if !sound {
                return Some(Unfenced {
                    address: first + at + byte,
                    warp,
                    lane,
                });
            }
        }
    }
    None
}

impl Warp {
    /// The lanes of `mask` fence the async proxy off, as far as shared memory goes.
    pub fn proxy_fenced(&mut self, mask: u32) {
        if self.order_checked() {
            let me = self.order_index();
            // SAFETY: no other reference to the order is alive.
            unsafe { self.order() }.proxy_fence(me, mask);
        }
    }

    /// Checks that what a bulk operation reads at a place in the cluster's shared memory was fenced off, where it was
    /// written by ordinary ways. Who wrote what is known where races are watched.
    ///
    /// # Errors
    /// The flow to return where it was not.
    pub fn check_proxy(&mut self, copy: &Bulk, place: u32) -> Result<(), Flow> {
        if !self.launch().checks.has(Check::SharedRace) {
            return Ok(());
        }
        let (me, lane) = (self.order_index(), copy.lane as usize);
        let owner = self.peer(cluster::rank_of(place, self.rank()));
        // SAFETY: no other reference to the order or to the owner is alive; they are apart.
        let found = unsafe {
            let order = self.order();
            let fenced = order.fenced_off(me, lane);
            let shadow = &mut (*owner).shared.race;
            unfenced(order, &fenced, shadow, place, copy.size, (me, lane))
        };
        let Some(write) = found else {
            return Ok(());
        };
        // SAFETY: the block is alive while its warps are.
        let warps = unsafe { (*self.block).copies.len() };
        let own = write.warp / warps == self.rank() as usize;
        let of = if own {
            String::new()
        } else {
            format!(" of block {} of the cluster", write.warp / warps)
        };
        let what = match copy.reduction {
            None => "copy",
            Some(_) => "reduction",
        };
        let text = format!(
            "a bulk {what} of {} bytes reads shared address {:#x}, which warp {}{of} lane {} wrote: no fence.proxy.async between them",
            copy.size,
            write.address,
            write.warp % warps,
            write.lane
        );
        Err(self.violation(Check::AsyncCopy, 1 << lane, text))
    }
}

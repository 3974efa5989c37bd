//! Which accesses are ordered, and a report where two that conflict are not.
//!
//! A block counts its ordering events in *ticks*. For each pair of warps it keeps the tick up to which the
//! one's accesses are ordered before whatever the other does next; barriers, releases seen by acquires, and
//! `bar.warp.sync` (for a warp and itself) move it on. An access is stamped with the tick it happened in, so
//! it is ordered before another warp's access exactly if its stamp is no later than that pair's tick.
//!
//! Within a warp, lanes are ordered by `bar.warp.sync` and barriers alone: that they often run in step is
//! nothing to rely on. Between blocks, only a release observed by an acquire orders: a fence and then an
//! atomic (or a `.release` one) on one side, an atomic and then a fence (or an `.acquire` one) on the other.
//! A fence that a barrier carries to the thread doing the atomic counts too.
//!
//! Mostly all that was done to what an instruction touches is past: ordered before whatever the warp does now. That is
//! seen for all its lanes at once, and only where it is not so lanes are told apart.
//!
//! Shared memory is watched by words. Of a word whose bytes one lane alone accesses between two barriers the word's own
//! cell remembers which bytes; where that is not enough to tell, its bytes get cells of their own, until a plain write
//! of the whole word makes it one again. Sixteen bytes that are accessed whole are one cell, until parts of them are.

mod case;
mod cell;
mod chunk;
mod deed;
mod four;
mod global;
#[cfg(test)]
mod history;
mod order;
mod past;
mod proxy;
mod rows;
mod shadow;
mod shared;

pub use four::Four;
pub use global::round;
pub use order::{GlobalPlaces, Order};
pub use shadow::SharedRaces;

use super::access::{Access, bits};
use super::cluster;
use super::warp::Warp;
use crate::check::Check;
use crate::ptx::ast::Space;

impl Warp {
    /// The warp's number in its cluster, by which orders know it.
    #[inline(always)]
    pub fn order_index(&self) -> usize {
        // SAFETY: the block is alive while its warps are.
        self.index as usize + unsafe { (*self.block).first_warp } as usize
    }

    /// What orders the cluster's accesses, for the time of one handler.
    ///
    /// # Safety
    /// No other reference to it is alive.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // reached by pointer from all warps of the cluster, one at a time
    pub unsafe fn order(&self) -> &mut Order {
        // SAFETY: block and cluster outlive the warp's run; the caller promises that the reference is alone.
        unsafe { &mut (*(*self.block).cluster).order }
    }

    /// Whether anybody asks what orders accesses.
    #[inline(always)]
    pub fn order_checked(&self) -> bool {
        let checks = self.launch().checks;
        checks.has(Check::SharedRace) || checks.has(Check::GlobalRace)
    }

    /// A `bar.warp.sync` ordered the lanes.
    pub fn synchronised(&mut self) {
        if self.order_checked() {
            let me = self.order_index();
            // SAFETY: no other reference to the order is alive.
            unsafe { self.order() }.syncwarp(me);
        }
    }

    /// A fence. One of the block's scope alone orders nothing between blocks, which have their own atomics' scopes
    /// to answer for; all are taken alike.
    pub fn fenced(&mut self) {
        if self.order_checked() {
            let me = self.order_index();
            // SAFETY: no other reference to the order is alive.
            unsafe { self.order() }.fence(me);
        }
    }

    /// A release (`now`), or an atomic or strong write that publishes what the last fence covers, on the
    /// lanes' addresses.
    pub fn publish(&mut self, mask: u32, addresses: &[u64; 32], access: Access, now: bool) {
        if !self.order_checked() {
            return;
        }
        let me = self.order_index();
        // SAFETY: no other reference to the order is alive.
        let order = unsafe { self.order() };
        let Some(release) = order.release(me, now) else {
            return;
        };
        for lane in bits(mask) {
            match self.shared_place(addresses[lane], access) {
                Some(place) => order.publish(place, &release),
                None => Order::publish_global(
                    &self.launch().places,
                    addresses[lane],
                    self.cluster_number(),
                    &release,
                ),
            }
        }
    }

    /// An acquire (`now`), or an atomic or strong read that a later fence turns into one, on the lanes'
    /// addresses.
    pub fn observe(&mut self, mask: u32, addresses: &[u64; 32], access: Access, now: bool) {
        if !self.order_checked() {
            return;
        }
        let me = self.order_index();
        // SAFETY: no other reference to the order is alive.
        let order = unsafe { self.order() };
        for lane in bits(mask) {
            let address = addresses[lane];
            match self.shared_place(address, access) {
                Some(place) => order.observe(me, place, now),
                None => {
                    let places = &self.launch().places;
                    order.observe_global(places, me, address, self.cluster_number(), now);
                }
            }
        }
    }

    /// The cluster's number in the grid.
    fn cluster_number(&self) -> u64 {
        // SAFETY: block and cluster are alive while their warps are.
        unsafe { (*(*self.block).cluster).number }
    }

    /// The place in the cluster's shared memory that an address names; `None` for global memory.
    fn shared_place(&self, address: u64, access: Access) -> Option<u64> {
        let shared = match access.space {
            Some(space) => matches!(space, Space::Shared | Space::Cluster),
            None => super::access::window(address) == Space::Shared,
        };
        // SAFETY: the block is alive while its warps are.
        let own = unsafe { (*self.block).rank };
        shared.then(|| u64::from(cluster::place(address as u32, own)))
    }
}

//! Accesses to shared memory: the block's own and that of the other blocks of its cluster.

use super::rows::{ROW, Reading, Rows, Writing};
use super::survey::{filled, plainly_within, survey};
use super::{Access, Kind, Reach, bits, verb};
use crate::check::Check;
use crate::exec::block::Block;
use crate::exec::cluster::{self, FarAccess};
use crate::exec::doubt::Found;
use crate::exec::lanes::each;
use crate::exec::program::Flow;
use crate::exec::shared::byte_state;
use crate::exec::warp::Warp;

impl Warp {
    /// Addresses in the shared memory of the cluster's blocks.
    pub(super) fn cluster(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        let mut any = 0;
        for address in filled(mask, addresses) {
            any |= address as u32;
        }
        if cluster::within(any) == any {
            return self.shared(self.block, mask, addresses, access);
        }
        // SAFETY: block and cluster are alive while their warps are.
        let (own, size) = unsafe {
            let block = &*self.block;
            let cluster = &*block.cluster;
            (block.rank, cluster.blocks.len() as u32)
        };
        let mut out = [std::ptr::null_mut(); 32];
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let rank = cluster::rank_of(addresses[lane] as u32, own);
            let lanes = bits(left)
                .filter(|&l| cluster::rank_of(addresses[l] as u32, own) == rank)
                .fold(0u32, |m, l| m | 1 << l);
            left &= !lanes;
            if rank >= size {
                let text = format!(
                    "{} of {} bytes at {:#x} in the cluster's shared memory, which would be in block {rank} of {size}",
                    verb(access.kind),
                    access.size,
                    addresses[lane] as u32
                );
                return Err(self.violation(Check::Bounds, lanes, text));
            }
            let inside: [u64; 32] = each(|l| u64::from(cluster::within(addresses[l] as u32)));
            let owner = self.peer(rank);
            if owner != self.block {
                self.visit(owner, lanes, access)?;
            }
            let reach = self.shared(owner, lanes, &inside, access)?;
            let part = self.places(reach, &inside);
            for lane in bits(lanes) {
                out[lane] = part[lane];
            }
        }
        self.apart = out;
        Ok(Reach::Apart)
    }

    /// The block of the cluster with that rank.
    pub fn peer(&self, rank: u32) -> *mut Block {
        // SAFETY: block and cluster are alive while their warps are; the rank is one of the cluster's.
        unsafe { (&(*(*self.block).cluster).blocks)[rank as usize] }
    }

    /// Checks that another block of the cluster has begun and is there still, and leaves it word of the access.
    ///
    /// # Errors
    /// The flow to return where it is not.
    fn visit(&mut self, owner: *mut Block, lanes: u32, access: Access) -> Result<(), Flow> {
        let me = self.order_index();
        let line = self.program().info[self.pc as usize].line;
        // SAFETY: the blocks of the cluster are alive, and no reference to this one or to the order is.
        let (rank, gone, known, tick) = unsafe {
            let block = &*owner;
            let shared = &*block.cluster;
            let warps = block.first_warp as usize..block.first_warp as usize + block.copies.len();
            let known = shared.met || warps.clone().any(|w| shared.order.known(me, w) != 0);
            (block.rank, block.gone, known, shared.order.tick())
        };
        let verb = verb(access.kind);
        if gone && self.launch().checks.has(Check::UseAfterFree) {
            let text = format!(
                "{verb} in the shared memory of block {rank} of the cluster, which has exited"
            );
            return Err(self.violation(Check::UseAfterFree, lanes, text));
        }
        if !known && self.launch().checks.has(Check::SharedRace) {
            let text = format!(
                "{verb} in the shared memory of block {rank} of the cluster, which may not have begun: no barrier of the cluster comes before"
            );
            return Err(self.violation(Check::SharedRace, lanes, text));
        }
        // SAFETY: as above.
        unsafe { (&mut (*owner).far)[me] = FarAccess { tick, line } };
        Ok(())
    }

    /// The shared memory of a block of the cluster, by addresses inside it.
    #[inline(always)]
    pub(super) fn shared(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        let others;
        let lanes = if mask == u32::MAX {
            addresses
        } else {
            others = filled(mask, addresses);
            &others
        };
        // SAFETY: no other reference to the block's memory is alive while a handler runs.
        let memory = unsafe { &(*owner).shared };
        let last = (memory.len() as u64).wrapping_sub(u64::from(access.size));
        let (aligned, within) = if plainly_within(lanes, 0, last, access.align) {
            (true, true)
        } else {
            let (low, within) = survey(lanes, 0, last);
            (low & (u64::from(access.align) - 1) == 0, within)
        };
        if !aligned {
            self.misaligned(mask, addresses, access.align)?;
        }
        if !within {
            self.outside_shared(owner, mask, addresses, access)?;
        }
        let start = memory.as_ptr();
        let whole = mask == u32::MAX && access.size == ROW && access.align == ROW;
        if whole && owner == self.block && aligned && within && self.enter_whole(lanes, access.kind)
        {
            return Ok(Reach::Behind(start));
        }
        self.shared_shadow(owner, mask, lanes, access)?;
        if self.launch().counters {
            self.count_shared(mask, lanes, access.size);
        }
        if aligned && within {
            return Ok(Reach::Behind(start));
        }
        self.apart = each(|l| start.wrapping_add(lanes[l] as u32 as usize));
        Ok(Reach::Apart)
    }

    /// [`Warp::enter_rows`] for rows at multiples of their size inside the block's own memory.
    #[inline(never)]
    fn enter_whole(&mut self, addresses: &[u64; 32], kind: Kind) -> bool {
        let offsets = each(|lane| addresses[lane] as u32);
        // SAFETY: that is where the caller has found the rows.
        let rows = unsafe { Rows::new(&offsets, 0) };
        match kind {
            Kind::Load | Kind::Read => self.enter_rows::<Reading>(rows),
            Kind::Store => self.enter_rows::<Writing>(rows),
            _ => false,
        }
    }

    /// Not all of the addresses are in the block's own bytes, as numbers of 64 bits: the report, unless those that
    /// are not have something above the 32 bits of a shared address, or are the system's own bytes.
    #[cold]
    fn outside_shared(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        // SAFETY: no other reference to the block's memory is alive while a handler runs.
        let memory = unsafe { &(*owner).shared };
        let len = memory.len() as u64;
        let size = u64::from(access.size);
        let lanes = bits(mask)
            .filter(|&l| (addresses[l] & 0xffff_ffff) + size > len)
            .filter(|&l| !memory.is_reserved(addresses[l] as u32, access.size))
            .fold(0u32, |m, l| m | 1 << l);
        if lanes == 0 {
            return Ok(());
        }
        let address = addresses[lanes.trailing_zeros() as usize];
        let text = if cluster::place(address as u32, 0) == address as u32 {
            format!(
                "{} of {size} bytes at {address:#x}, an address in the cluster's shared memory, where only the block's own can be reached",
                verb(access.kind)
            )
        } else {
            format!(
                "{} of {size} bytes at shared address {address:#x}: {} bytes past the {len} bytes the block has",
                verb(access.kind),
                (address + size).saturating_sub(len)
            )
        };
        Err(self.violation(Check::Bounds, lanes, text))
    }

    /// What the shadows of a block's shared memory say; lanes that do not take part have another lane's address.
    #[inline(always)]
    pub(super) fn shared_shadow(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        let checks = self.launch().checks;
        if access.kind != Kind::Probe
            && (checks.has(Check::UninitMemory) || checks.has(Check::AsyncCopy))
        {
            // SAFETY: no other reference to the block's memory is alive while a handler runs; the ranges were found
            // inside it, and there is a state for each of its bytes.
            let sound = unsafe {
                let states = (*owner).shared.states();
                match access.size {
                    16 => states_allow::<u128>(states, addresses, access.kind),
                    8 => states_allow::<u64>(states, addresses, access.kind),
                    4 => states_allow::<u32>(states, addresses, access.kind),
                    2 => states_allow::<u16>(states, addresses, access.kind),
                    1 => states_allow::<u8>(states, addresses, access.kind),
                    _ => false,
                }
            };
            if !sound {
                self.shared_states(owner, mask, addresses, access)?;
            }
        }
        if checks.has(Check::SharedRace) && access.kind != Kind::Probe {
            // SAFETY: the owner is a block of the cluster, and no reference to it is alive.
            unsafe { self.shared_race(owner, mask, addresses, access)? };
        }
        Ok(())
    }

    /// An access to bytes of which not all may be plainly written or free to be written, lane by lane.
    #[cold]
    pub(in crate::exec) fn shared_states(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        // SAFETY: no other reference to the block's memory is alive while a handler runs.
        let states = unsafe { (*owner).shared.states() };
        let size = access.size as usize;
        for lane in bits(mask) {
            let offset = addresses[lane] as u32 as usize;
            // SAFETY: the range was found inside shared memory; there is a state for each of its bytes.
            let sound = unsafe {
                let at = states.add(offset);
                if access.kind.only_writes() {
                    begin_write(at, size)
                } else {
                    all_written(at, size)
                }
            };
            if !sound {
                // SAFETY: as above.
                let range = unsafe { std::slice::from_raw_parts(states.add(offset), size) };
                self.shared_state(lane, offset, access, range)?;
            }
        }
        Ok(())
    }

    /// An access to bytes of which not all are plainly written.
    fn shared_state(
        &mut self,
        lane: usize,
        offset: usize,
        access: Access,
        range: &[u8],
    ) -> Result<(), Flow> {
        let checks = self.launch().checks;
        let any = |state: u8| range.iter().any(|s| s & state != 0);
        let size = access.size;
        let copying = if any(byte_state::PENDING) {
            Some("has not landed: no wait has completed it")
        } else if any(byte_state::BUSY)
            && !matches!(access.kind, Kind::Load | Kind::Read | Kind::StrongLoad)
        {
            Some("has not read its source: no wait has completed it")
        } else if any(byte_state::REDUCING)
            && matches!(access.kind, Kind::Load | Kind::Read | Kind::Store)
        {
            // Atomics, and whoever shares the place with them, may come between.
            Some("has not been reduced into it: no wait has completed it")
        } else {
            None
        };
        if let Some(what) = copying {
            if !checks.has(Check::AsyncCopy) {
                return Ok(());
            }
            let text = format!(
                "{} of {size} bytes at shared address {offset:#x}, where an asynchronous copy {what}",
                verb(access.kind)
            );
            return Err(self.violation(Check::AsyncCopy, 1 << lane, text));
        }
        let bytes = (0..range.len())
            .filter(|&k| range[k] & byte_state::INIT == 0)
            .fold(0u32, |m, k| m | 1 << k);
        if bytes == 0 || access.kind.only_writes() || !checks.has(Check::UninitMemory) {
            return Ok(());
        }
        let text = uninit_shared(access, offset);
        if access.kind == Kind::Load {
            self.doubts.find(Found::new(lane, bytes, text));
            return Ok(());
        }
        Err(self.violation(Check::UninitMemory, 1 << lane, text))
    }
}

fn uninit_shared(access: Access, offset: usize) -> String {
    format!(
        "{} of {} bytes at shared address {offset:#x}, which was never written",
        verb(access.kind),
        access.size
    )
}

/// States side by side.
trait States:
    Copy
    + PartialEq
    + std::ops::BitAnd<Output = Self>
    + std::ops::BitOr<Output = Self>
    + std::ops::BitXor<Output = Self>
{
    const WRITTEN: Self;
    const TAKEN: Self;
    const NONE: Self;
}

macro_rules! states {
    ($($t:ident),*) => {$(
        impl States for $t {
            const WRITTEN: $t = $t::from_ne_bytes([byte_state::INIT; size_of::<$t>()]);
            const TAKEN: $t = $t::from_ne_bytes([byte_state::TAKEN; size_of::<$t>()]);
            const NONE: $t = 0;
        }
    )*};
}
states!(u8, u16, u32, u64, u128);

/// Whether the bytes at all the addresses, as many each as `W` has, are written, or for an access that only writes, free
/// to be: then they are written.
///
/// # Safety
/// There is a state for each of the bytes.
#[inline(always)]
unsafe fn states_allow<W: States>(states: *mut u8, addresses: &[u64; 32], kind: Kind) -> bool {
    let at = |lane: usize| {
        states
            .wrapping_add(addresses[lane] as u32 as usize)
            .cast::<W>()
    };
    let mut odd = W::NONE;
    // SAFETY: the caller's promise.
    unsafe {
        if kind.only_writes() {
            for lane in 0..32 {
                odd = odd | at(lane).read_unaligned();
            }
            odd = odd & W::TAKEN;
            if odd == W::NONE {
                for lane in 0..32 {
                    at(lane).write_unaligned(W::WRITTEN);
                }
            }
        } else {
            for lane in 0..32 {
                odd = odd | at(lane).read_unaligned() ^ W::WRITTEN;
            }
        }
    }
    odd == W::NONE
}

/// Whether all of `size` states are plainly written.
///
/// # Safety
/// There are that many.
unsafe fn all_written(at: *mut u8, size: usize) -> bool {
    // SAFETY: the caller's promise.
    let states = unsafe { std::slice::from_raw_parts(at, size) };
    states.iter().all(|&s| s == byte_state::INIT)
}

/// Marks `size` states written, or says that a copy has taken one of them.
///
/// # Safety
/// There are that many.
unsafe fn begin_write(at: *mut u8, size: usize) -> bool {
    // SAFETY: the caller's promise.
    let states = unsafe { std::slice::from_raw_parts_mut(at, size) };
    let free = states.iter().all(|&s| s & byte_state::TAKEN == 0);
    if free {
        states.fill(byte_state::INIT);
    }
    free
}

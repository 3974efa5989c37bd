//! From the addresses of a warp's lanes to host pointers: bounds, alignment, initialisation, order and
//! counters, for every instruction that touches memory.

use super::block::Block;
use super::cluster::{self, FarAccess};
use super::doubt::Found;
use super::lanes::each;
use super::program::Flow;
use super::shared::byte_state;
use super::warp::Warp;
use crate::check::Check;
use crate::counters::{InstructionCounts, SECTOR, Traffic};
use crate::memory::{Allocation, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::ast::Space;
use std::sync::Arc;

/// The allocation that the warp's last global access went to.
#[derive(Debug, Default)]
pub struct CachedAllocation {
    base: u64,
    end: u64,
    allocation: Option<Arc<Allocation>>,
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads into registers: what nothing has written does no harm before something acts on it.
    Load,
    /// Reads, to act on it at once.
    Read,
    /// Writes.
    Store,
    /// Reads, as one of several threads that agree to share the place (`ld.relaxed`, `.volatile`, …).
    StrongLoad,
    /// Writes, likewise.
    StrongStore,
    /// Reads and writes at once, ordered with other atomics.
    Atomic,
    /// Touches nothing now (the destination of an asynchronous copy, a prefetch).
    Probe,
}

impl Kind {
    /// Whether memory is read.
    #[inline(always)]
    pub fn reads(self) -> bool {
        matches!(
            self,
            Kind::Load | Kind::Read | Kind::StrongLoad | Kind::Atomic
        )
    }
    /// Whether memory is written without being read.
    #[inline(always)]
    pub fn only_writes(self) -> bool {
        matches!(self, Kind::Store | Kind::StrongStore)
    }
}

/// A warp's access: `size` bytes at each lane's address.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// State space of the instruction; `None` for generic addresses.
    pub space: Option<Space>,
    /// Bytes a lane touches.
    pub size: u32,
    /// Alignment the address must have; the size for most.
    pub align: u32,
    /// What it does.
    pub kind: Kind,
}

/// Host pointers of the lanes of a mask; the others are null.
pub type Pointers = [*mut u8; 32];

/// Generic addresses of each window are told apart by their upper half.
#[inline(always)]
pub fn window(address: u64) -> Space {
    match address >> 31 {
        1 => Space::Param,
        2 => Space::Shared,
        3 => Space::Local,
        _ => Space::Global,
    }
}

const _: () =
    assert!(PARAM_WINDOW >> 31 == 1 && SHARED_WINDOW >> 31 == 2 && LOCAL_WINDOW >> 31 == 3);

impl Warp {
    /// Checks an access of the lanes of `mask` and gives their host pointers.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    // One copy for all instructions: inlined into each, it was most of this crate's code.
    #[inline(never)]
    pub fn pointers(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        match access.space {
            Some(Space::Global | Space::Const) => self.global(mask, addresses, access),
            Some(Space::Shared) => self.shared(self.block, mask, addresses, access),
            Some(Space::Cluster) => self.cluster(mask, addresses, access),
            Some(Space::Local) => self.local_pointers(mask, addresses, access),
            Some(Space::Param | Space::Reg) => self.params(mask, addresses, access),
            None => self.generic(mask, addresses, access),
        }
    }

    /// As [`Warp::pointers`] for a load of which only the bytes of `used` matter: the others may be unwritten, or
    /// another thread's to write.
    #[cold]
    pub fn pointers_partly(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
        used: u32,
    ) -> Result<Pointers, Flow> {
        let space = |lane: usize| access.space.unwrap_or(window(addresses[lane]));
        let mut shadowed = bits(mask).map(space);
        if !shadowed.all(|s| {
            matches!(
                s,
                Space::Global | Space::Const | Space::Shared | Space::Cluster
            )
        }) {
            return self.pointers(mask, addresses, access);
        }
        let whole = Access {
            kind: Kind::Probe,
            ..access
        };
        let pointers = self.pointers(mask, addresses, whole)?;
        let global = bits(mask).all(|l| matches!(space(l), Space::Global | Space::Const));
        if global && self.launch().counters {
            self.count_global(mask, addresses, access);
        }
        let mut first = 0;
        while first < access.size {
            let left = used >> first;
            first += left.trailing_zeros().min(access.size - first);
            let len = (used.wrapping_shr(first))
                .trailing_ones()
                .min(access.size - first);
            if len != 0 {
                let part = Access {
                    size: len,
                    align: 1,
                    ..access
                };
                let places: [u64; 32] = each(|l| addresses[l].wrapping_add(u64::from(first)));
                self.shadows(mask, &places, part)?;
                self.doubts.shift(first);
            }
            first += len.max(1);
        }
        Ok(pointers)
    }

    /// What shadows say of an access that was found inside its memory.
    ///
    /// # Errors
    /// The flow to return where they forbid it.
    pub fn shadows(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        for lane in bits(mask) {
            match access.space.unwrap_or(window(addresses[lane])) {
                Space::Shared | Space::Cluster => {
                    // SAFETY: the block is alive while its warps are.
                    let own = unsafe { (*self.block).rank };
                    let owner = self.peer(cluster::rank_of(addresses[lane] as u32, own));
                    let inside: [u64; 32] =
                        each(|l| u64::from(cluster::within(addresses[l] as u32)));
                    self.shared_shadow(owner, 1 << lane, &inside, access)?;
                }
                _ => {
                    let found = self.launch().memory.find(addresses[lane]).cloned();
                    if let Some(allocation) = found {
                        self.global_shadow(1 << lane, addresses, access, &allocation)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn generic(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        let mut out = [std::ptr::null_mut(); 32];
        let mut left = mask;
        while left != 0 {
            let first = window(addresses[left.trailing_zeros() as usize]);
            let mut lanes = 0;
            for lane in bits(left) {
                if window(addresses[lane]) == first {
                    lanes |= 1 << lane;
                }
            }
            // Generic addresses reach the shared memory of all of the cluster's blocks.
            let space = match first {
                Space::Shared => Space::Cluster,
                other => other,
            };
            left &= !lanes;
            let base = match space {
                Space::Cluster => SHARED_WINDOW,
                Space::Local => LOCAL_WINDOW,
                Space::Param => PARAM_WINDOW,
                _ => 0,
            };
            let inside: [u64; 32] = each(|l| addresses[l].wrapping_sub(base));
            let part = self.pointers(
                lanes,
                &inside,
                Access {
                    space: Some(space),
                    ..access
                },
            )?;
            if lanes == mask {
                return Ok(part);
            }
            for lane in bits(lanes) {
                out[lane] = part[lane];
            }
        }
        Ok(out)
    }

    #[inline(always)]
    fn misaligned(&mut self, mask: u32, addresses: &[u64; 32], align: u32) -> Result<(), Flow> {
        let low = u64::from(align) - 1;
        let mut any = 0;
        for lane in 0..32 {
            any |= if mask >> lane & 1 != 0 {
                addresses[lane] & low
            } else {
                0
            };
        }
        if any == 0 || !self.launch().checks.has(Check::Alignment) {
            return Ok(());
        }
        Err(self.report_misaligned(mask, addresses, align))
    }

    #[cold]
    fn report_misaligned(&mut self, mask: u32, addresses: &[u64; 32], align: u32) -> Flow {
        let low = u64::from(align) - 1;
        let lanes = bits(mask)
            .filter(|&l| addresses[l] & low != 0)
            .fold(0u32, |m, l| m | 1 << l);
        let address = addresses[lanes.trailing_zeros() as usize];
        self.violation(
            Check::Alignment,
            lanes,
            format!(
                "address {address:#x} is {} past a multiple of {align}, which the access needs",
                address & low
            ),
        )
    }

    #[inline(always)]
    fn global(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        self.misaligned(mask, addresses, access.align)?;
        let size = u64::from(access.size);
        let first = addresses[mask.trailing_zeros() as usize];
        if first < self.cached.base || first >= self.cached.end {
            self.find_allocation(first);
        }
        let (base, end) = (self.cached.base, self.cached.end);
        let mut outside = 0u32;
        for lane in 0..32 {
            let a = addresses[lane];
            let bad = a < base || a.wrapping_add(size) > end || a.wrapping_add(size) < a;
            outside |= u32::from(bad) << lane;
        }
        if outside & mask != 0 {
            return self.scattered(mask, addresses, access);
        }
        let Some(allocation) = self.cached.allocation.as_ref() else {
            return self.scattered(mask, addresses, access);
        };
        let host = allocation.host_ptr();
        let allocation: *const Allocation = &**allocation;
        let out: Pointers = each(|lane| {
            if mask >> lane & 1 != 0 {
                host.wrapping_add(addresses[lane].wrapping_sub(base) as usize)
            } else {
                std::ptr::null_mut()
            }
        });
        // SAFETY: the cache holds the allocation alive, and is not touched before the reference ends.
        let allocation = unsafe { &*allocation };
        self.global_shadow(mask, addresses, access, allocation)?;
        if self.launch().counters && access.kind != Kind::Probe {
            self.count_global(mask, addresses, access);
        }
        Ok(out)
    }

    fn find_allocation(&mut self, address: u64) {
        let found = self.launch().memory.find(address).cloned();
        if let Some(allocation) = found {
            self.cached = CachedAllocation {
                base: allocation.address,
                end: allocation.end(),
                allocation: Some(allocation),
            };
        }
    }

    /// Lanes in different allocations, or outside all of them.
    #[cold]
    fn scattered(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        let mut out = [std::ptr::null_mut(); 32];
        for lane in bits(mask) {
            let address = addresses[lane];
            let size = u64::from(access.size);
            let found = self.launch().memory.find(address).cloned();
            let inside =
                found.filter(|a| address.checked_add(size).is_some_and(|end| end <= a.end()));
            let Some(allocation) = inside else {
                return Err(self.report_outside(mask, addresses, access));
            };
            out[lane] = allocation
                .host_ptr()
                .wrapping_add((address - allocation.address) as usize);
            self.global_shadow(1 << lane, addresses, access, &allocation)?;
        }
        if self.launch().counters && access.kind != Kind::Probe {
            self.count_global(mask, addresses, access);
        }
        Ok(out)
    }

    #[cold]
    fn report_outside(&mut self, mask: u32, addresses: &[u64; 32], access: Access) -> Flow {
        let size = u64::from(access.size);
        let launch = self.launch();
        let outside = |&lane: &usize| {
            let a = addresses[lane];
            launch
                .memory
                .find(a)
                .is_none_or(|al| a.checked_add(size).is_none_or(|end| end > al.end()))
        };
        let lanes = bits(mask).filter(outside).fold(0u32, |m, l| m | 1 << l);
        let address = addresses[lanes.trailing_zeros() as usize];
        let verb = verb(access.kind);
        if let Some((base, freed)) = launch.space.freed(address) {
            let text = format!(
                "{verb} of {size} bytes at {address:#x}, in the allocation of {freed} bytes at {base:#x} that was freed"
            );
            return self.violation(Check::UseAfterFree, lanes, text);
        }
        let near = match launch.memory.nearest(address) {
            None => "nothing is allocated".to_string(),
            Some(a) => {
                let name = a
                    .name
                    .as_ref()
                    .map_or(String::new(), |n| format!(" (`{n}`)"));
                let place = if address < a.address {
                    format!("{} bytes before", a.address - address)
                } else {
                    format!("{} bytes past the end of", address + size - a.end())
                };
                format!(
                    "{place} the allocation of {} bytes at {:#x}{name}",
                    a.size, a.address
                )
            }
        };
        let text = format!("{verb} of {size} bytes at {address:#x}: {near}");
        self.violation(Check::Bounds, lanes, text)
    }

    #[inline(always)]
    fn global_shadow(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
        allocation: &Allocation,
    ) -> Result<(), Flow> {
        let checks = self.launch().checks;
        if checks.has(Check::UninitMemory) && !allocation.init_bits().is_null() {
            let size = u64::from(access.size);
            for lane in bits(mask) {
                let offset = addresses[lane] - allocation.address;
                if access.kind.only_writes() {
                    allocation.mark_init(offset, size);
                } else if access.kind.reads()
                    && let Some(at) = allocation.first_uninit(offset, size)
                {
                    if access.kind == Kind::Load {
                        self.doubt_global(lane, at, access, allocation, offset);
                        continue;
                    }
                    let text = uninit_global(at, access, allocation);
                    return Err(self.violation(Check::UninitMemory, 1 << lane, text));
                }
            }
        }
        if checks.has(Check::GlobalRace) && access.kind != Kind::Probe {
            self.global_race(mask, addresses, access, allocation)?;
        }
        Ok(())
    }

    #[cold]
    fn doubt_global(
        &mut self,
        lane: usize,
        at: u64,
        access: Access,
        allocation: &Allocation,
        offset: u64,
    ) {
        let bytes = (0..u64::from(access.size))
            .filter(|k| allocation.first_uninit(offset + k, 1).is_some())
            .fold(0u32, |m, k| m | 1 << k);
        let text = uninit_global(at, access, allocation);
        self.doubts.find(Found::new(lane, bytes, text));
    }

    /// Addresses in the shared memory of the cluster's blocks.
    fn cluster(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        // SAFETY: block and cluster are alive while their warps are.
        let (own, size) = unsafe {
            let block = &*self.block;
            let cluster = &*block.cluster;
            (block.rank, cluster.blocks.len() as u32)
        };
        if bits(mask).all(|l| cluster::within(addresses[l] as u32) == addresses[l] as u32) {
            return self.shared(self.block, mask, addresses, access);
        }
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
                self.reach(owner, lanes, access)?;
            }
            let part = self.shared(owner, lanes, &inside, access)?;
            for lane in bits(lanes) {
                out[lane] = part[lane];
            }
        }
        Ok(out)
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
    fn reach(&mut self, owner: *mut Block, lanes: u32, access: Access) -> Result<(), Flow> {
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
    fn shared(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        self.misaligned(mask, addresses, access.align)?;
        // SAFETY: no other reference to the block's memory is alive while a handler runs.
        let memory = unsafe { &(*owner).shared };
        let len = memory.len() as u64;
        let size = u64::from(access.size);
        let mut outside = 0u32;
        for lane in 0..32 {
            // A shared address has 32 bits, so the sum cannot wrap.
            outside |= u32::from((addresses[lane] & 0xffff_ffff) + size > len) << lane;
        }
        if outside & mask != 0 {
            let lanes = bits(outside & mask)
                .filter(|&l| !memory.is_reserved(addresses[l] as u32, access.size))
                .fold(0u32, |m, l| m | 1 << l);
            if lanes != 0 {
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
                return Err(self.violation(Check::Bounds, lanes, text));
            }
        }
        let base = memory.as_ptr();
        let out: Pointers = each(|lane| {
            if mask >> lane & 1 != 0 {
                base.wrapping_add(addresses[lane] as u32 as usize)
            } else {
                std::ptr::null_mut()
            }
        });
        self.shared_shadow(owner, mask, addresses, access)?;
        if self.launch().counters {
            self.count_shared(mask, addresses, access.size);
        }
        Ok(out)
    }

    #[inline(always)]
    fn shared_shadow(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        let checks = self.launch().checks;
        if checks.has(Check::UninitMemory) || checks.has(Check::AsyncCopy) {
            // SAFETY: no other reference to the block's memory is alive while a handler runs.
            let states = unsafe { (*owner).shared.states() };
            let size = access.size as usize;
            for lane in bits(mask) {
                let offset = addresses[lane] as u32 as usize;
                // SAFETY: the range was found inside shared memory; there is a state for each of its bytes.
                let range = unsafe { std::slice::from_raw_parts_mut(states.add(offset), size) };
                if access.kind.only_writes() && range.iter().all(|&s| s & byte_state::TAKEN == 0) {
                    range.fill(byte_state::INIT);
                } else if access.kind != Kind::Probe
                    && !range.iter().all(|&s| s == byte_state::INIT)
                {
                    self.shared_state(lane, offset, access, range)?;
                }
            }
        }
        if checks.has(Check::SharedRace) && access.kind != Kind::Probe {
            // SAFETY: the owner is a block of the cluster, and no reference to it is alive.
            unsafe { self.shared_race(owner, mask, addresses, access)? };
        }
        Ok(())
    }

    /// An access to bytes of which not all are plainly written.
    #[cold]
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

    fn local_pointers(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        self.misaligned(mask, addresses, access.align)?;
        let stride = self.local.stride();
        let size = u64::from(access.size);
        let checked = self.launch().checks.has(Check::UninitMemory);
        let mut out = [std::ptr::null_mut(); 32];
        for lane in bits(mask) {
            let address = addresses[lane];
            if address.checked_add(size).is_none_or(|end| end > stride) {
                let text = format!(
                    "{} of {size} bytes at local address {address:#x}, past the {stride} bytes a thread has",
                    verb(access.kind)
                );
                return Err(self.violation(Check::Bounds, 1 << lane, text));
            }
            let offset = address as usize;
            if access.kind.only_writes() {
                self.local.mark(lane, offset, size as usize, true);
            } else if access.kind.reads()
                && checked
                && !self.local.is_written(lane, offset, size as usize)
            {
                let text = format!(
                    "{} of {size} bytes at local address {address:#x}, which the thread never wrote",
                    verb(access.kind)
                );
                if access.kind != Kind::Load {
                    return Err(self.violation(Check::UninitMemory, 1 << lane, text));
                }
                let bytes = (0..size as usize)
                    .filter(|k| !self.local.is_written(lane, offset + k, 1))
                    .fold(0u32, |m, k| m | 1 << k);
                self.doubts.find(Found::new(lane, bytes, text));
            }
            out[lane] = self.local.at(lane, offset);
        }
        if self.launch().counters {
            self.count_local(mask, access.size);
        }
        Ok(out)
    }

    fn params(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        self.misaligned(mask, addresses, access.align)?;
        let len = self.launch().params.len() as u64;
        let size = u64::from(access.size);
        let mut out = [std::ptr::null_mut(); 32];
        for lane in bits(mask) {
            let address = addresses[lane];
            if address.checked_add(size).is_none_or(|end| end > len) || !access.kind.reads() {
                let text = format!(
                    "{} of {size} bytes at byte {address} of the kernel's {len} bytes of read-only parameters",
                    verb(access.kind)
                );
                return Err(self.violation(Check::Bounds, 1 << lane, text));
            }
            out[lane] = self
                .launch()
                .params
                .as_ptr()
                .cast_mut()
                .wrapping_add(address as usize);
        }
        Ok(out)
    }

    /// The counters of the current instruction.
    #[inline(always)]
    pub fn counts(&mut self) -> &mut InstructionCounts {
        // SAFETY: counts are as long as the program.
        unsafe { &mut *self.counts.add(self.pc as usize) }
    }

    /// Counts an access to global memory under the current instruction.
    pub fn count_global(&mut self, mask: u32, addresses: &[u64; 32], access: Access) {
        let size = access.size;
        let sectors = super::traffic::global_sectors(mask, addresses, size);
        tally(
            &mut self.counts().global,
            sectors.count,
            sectors.ideal,
            mask.count_ones() * size,
        );
        // SAFETY: the launch's worker keeps the sets as long as its warps run, and nobody else touches them.
        let touched = unsafe { &mut *self.touched };
        let writes = access.kind.only_writes() || access.kind == Kind::Atomic;
        let set = if writes {
            &mut touched.written
        } else {
            &mut touched.read
        };
        if sectors.is_range() {
            set.insert(sectors.first, sectors.last);
        } else {
            for lane in bits(mask) {
                let last = addresses[lane] + u64::from(size) - 1;
                set.insert(addresses[lane] / SECTOR, last / SECTOR);
            }
        }
    }

    fn count_shared(&mut self, mask: u32, addresses: &[u64; 32], size: u32) {
        let (wavefronts, ideal) = super::traffic::shared_wavefronts(mask, addresses, size);
        tally(
            &mut self.counts().shared,
            wavefronts,
            ideal,
            mask.count_ones() * size,
        );
    }

    fn count_local(&mut self, mask: u32, size: u32) {
        // Local memory is laid out so that the lanes' same word lies together: always as few as can be.
        let bytes = mask.count_ones() * size;
        let sectors = bytes.div_ceil(32);
        tally(&mut self.counts().local, sectors, sectors, bytes);
    }
}

/// Adds one request.
pub fn tally(traffic: &mut Traffic, passes: u32, ideal: u32, bytes: u32) {
    traffic.requests += 1;
    traffic.passes += u64::from(passes);
    traffic.ideal += u64::from(ideal);
    traffic.bytes += u64::from(bytes);
}

/// The lanes of a mask.
#[inline(always)]
pub fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}

fn uninit_global(at: u64, access: Access, allocation: &Allocation) -> String {
    let name = allocation
        .name
        .as_ref()
        .map_or(String::new(), |n| format!(" (`{n}`)"));
    format!(
        "{} of {} bytes, of which byte {at} of the allocation of {} bytes at {:#x}{name} was never written",
        verb(access.kind),
        access.size,
        allocation.size,
        allocation.address
    )
}

fn uninit_shared(access: Access, offset: usize) -> String {
    format!(
        "{} of {} bytes at shared address {offset:#x}, which was never written",
        verb(access.kind),
        access.size
    )
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Load | Kind::Read | Kind::StrongLoad => "read",
        Kind::Store | Kind::StrongStore => "write",
        Kind::Atomic => "atomic",
        Kind::Probe => "copy",
    }
}

//! From the addresses of a warp's lanes to host pointers: bounds, alignment, initialisation, order and
//! counters, for every instruction that touches memory.

mod global;
mod local;
mod shared;

use super::cluster;
use super::lanes::{each, wide};
use super::program::Flow;
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
        #[cfg(target_arch = "x86_64")]
        if wide() {
            // SAFETY: the processor has the features of the wide build.
            return unsafe { self.pointers_wide(mask, addresses, access) };
        }
        self.pointers_of(mask, addresses, access)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn pointers_wide(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        self.pointers_of(mask, addresses, access)
    }

    #[inline(always)]
    fn pointers_of(
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

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Load | Kind::Read | Kind::StrongLoad => "read",
        Kind::Store | Kind::StrongStore => "write",
        Kind::Atomic => "atomic",
        Kind::Probe => "copy",
    }
}

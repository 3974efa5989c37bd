//! From the addresses of a warp's lanes to host pointers: bounds, alignment, initialisation, order and
//! counters, for every instruction that touches memory.

mod global;
mod local;
mod quick;
mod rows;
mod run;
mod shared;
mod survey;

pub use quick::{Lanes, Offset, Operand};
pub use rows::{Issuing, Landing, ROW, Rows};
#[cfg(test)]
pub use survey::are_on_banks_apart;
pub use survey::side_by_side;

use self::survey::filled;
use super::cluster;
use super::lanes::{each, wide};
use super::program::Flow;
use super::warp::Warp;
use crate::check::{Check, Checks};
use crate::counters::{MemoryCounts, SECTOR, Traffic};
use crate::memory::{Allocation, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::ast::Space;

/// Allocations that global accesses went to last, newest first.
#[derive(Debug)]
pub struct RecentAllocations([Recent; RECENT]);

/// How many are kept.
const RECENT: usize = 4;

/// An allocation met before; of no bytes where there is none.
#[derive(Debug, Clone, Copy)]
struct Recent {
    base: u64,
    size: u64,
    /// Its first byte.
    host: *mut u8,
    /// The launch keeps it alive.
    allocation: *const Allocation,
}

impl Default for RecentAllocations {
    fn default() -> RecentAllocations {
        let none = Recent {
            base: 0,
            size: 0,
            host: std::ptr::null_mut(),
            allocation: std::ptr::null(),
        };
        RecentAllocations([none; RECENT])
    }
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
    /// Whether memory is written.
    #[inline(always)]
    pub fn writes(self) -> bool {
        self.only_writes() || self == Kind::Atomic
    }
    /// Whether it is atomic, or such that threads agree to share the place.
    #[inline(always)]
    pub fn is_strong(self) -> bool {
        matches!(self, Kind::Atomic | Kind::StrongLoad | Kind::StrongStore)
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

/// Host pointers of the lanes.
pub type Pointers = [*mut u8; 32];

/// Where the host has the places of an access.
#[derive(Debug, Clone, Copy)]
pub enum Reach {
    /// Each lane's as far behind this pointer as its address says, and aligned as the access asks.
    Behind(*mut u8),
    /// Each lane's by itself, in [`Warp::apart`].
    Apart,
}

/// The ranges that lanes touch, lane after lane: lanes side by side, or at the same place, are one.
#[derive(Debug, Clone, Copy)]
pub struct Ranges<'a> {
    addresses: &'a [u64; 32],
    size: u64,
    /// Lanes left.
    left: u32,
    /// The lanes left are all lanes, side by side.
    is_one: bool,
}

impl<'a> Ranges<'a> {
    /// Of `size` bytes at each address.
    #[inline(always)]
    pub fn new(mask: u32, addresses: &'a [u64; 32], size: u64) -> Ranges<'a> {
        Ranges {
            addresses,
            size,
            left: mask,
            is_one: side_by_side(mask, addresses, size as u32),
        }
    }

    /// The next one's first byte, and one past its last.
    #[inline(always)]
    #[allow(clippy::should_implement_trait)] // inlined into the wide builds as it is
    pub fn next(&mut self) -> Option<(u64, u64)> {
        if self.left == 0 {
            return None;
        }
        let start = self.addresses[self.left.trailing_zeros() as usize];
        if self.is_one {
            self.left = 0;
            return Some((start, start + 32 * self.size));
        }
        let mut end = start + self.size;
        loop {
            self.left &= self.left - 1;
            if self.left == 0 {
                return Some((start, end));
            }
            let address = self.addresses[self.left.trailing_zeros() as usize];
            if address == end {
                end += self.size;
            } else if address != end - self.size {
                return Some((start, end));
            }
        }
    }
}

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
    /// Checks an access of the lanes of `mask` and gives their host pointers; null for the other lanes.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    pub fn pointers(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Pointers, Flow> {
        let places = self.reach(mask, addresses, access)?;
        let places = self.places(places, addresses);
        Ok(each(|lane| {
            if mask >> lane & 1 != 0 {
                places[lane]
            } else {
                std::ptr::null_mut()
            }
        }))
    }

    /// The host pointers of an access's lanes; of no meaning for lanes that do not take part.
    #[inline(always)]
    pub fn places(&self, reach: Reach, addresses: &[u64; 32]) -> Pointers {
        match reach {
            Reach::Behind(base) => each(|lane| base.wrapping_add(addresses[lane] as usize)),
            Reach::Apart => self.apart,
        }
    }

    /// Checks an access of the lanes of `mask`, and says where the host has them.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    // One copy for all instructions: inlined into each, it was most of this crate's code.
    #[inline(never)]
    pub fn reach(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        #[cfg(target_arch = "x86_64")]
        if wide() {
            // SAFETY: the processor has the features of the wide build.
            return unsafe { self.reach_wide(mask, addresses, access) };
        }
        self.reach_in(mask, addresses, access)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn reach_wide(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        self.reach_in(mask, addresses, access)
    }

    #[inline(always)]
    fn reach_in(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        match access.space {
            Some(Space::Global | Space::Const) => self.global(mask, addresses, access),
            Some(Space::Shared) => self.shared(self.block, mask, addresses, access),
            None => self.generic(mask, addresses, access),
            Some(Space::Cluster) => self.cluster(mask, addresses, access),
            Some(Space::Local) => self.local_pointers(mask, addresses, access),
            Some(Space::Param | Space::Reg) => self.params(mask, addresses, access),
        }
    }

    /// As [`Warp::reach`] for a load of which only the bytes of `used` matter: the others may be unwritten, or
    /// another thread's to write.
    #[cold]
    pub fn reach_partly(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
        used: u32,
    ) -> Result<Reach, Flow> {
        if self.launch().checks == Checks::NONE {
            return self.reach(mask, addresses, access);
        }
        let space = |lane: usize| access.space.unwrap_or(window(addresses[lane]));
        let mut shadowed = bits(mask).map(space);
        if !shadowed.all(|s| {
            matches!(
                s,
                Space::Global | Space::Const | Space::Shared | Space::Cluster
            )
        }) {
            return self.reach(mask, addresses, access);
        }
        let whole = Access {
            kind: Kind::Probe,
            ..access
        };
        let reach = self.reach(mask, addresses, whole)?;
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
        Ok(reach)
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
        // SAFETY: the block is alive while its warps are.
        let own = unsafe { (*self.block).rank };
        // The rank of the block of the cluster that has the place; `None` in global memory.
        let owner = |lane: usize| match access.space.unwrap_or(window(addresses[lane])) {
            Space::Shared | Space::Cluster => Some(cluster::rank_of(addresses[lane] as u32, own)),
            _ => None,
        };
        let mut left = mask;
        while left != 0 {
            let first = left.trailing_zeros() as usize;
            let alike = |among: u32, f: &dyn Fn(usize) -> bool| {
                bits(among).filter(|&l| f(l)).fold(0u32, |m, l| m | 1 << l)
            };
            let lanes = match owner(first) {
                Some(rank) => {
                    let lanes = alike(left, &|l| owner(l) == Some(rank));
                    let inside: [u64; 32] =
                        each(|l| u64::from(cluster::within(addresses[l] as u32)));
                    let inside = filled(lanes, &inside);
                    self.shared_shadow(self.peer(rank), lanes, &inside, access)?;
                    lanes
                }
                None => match self.launch().memory.find(addresses[first]).cloned() {
                    Some(allocation) => {
                        let range = allocation.address..allocation.end();
                        let here = |l: usize| owner(l).is_none() && range.contains(&addresses[l]);
                        let lanes = alike(left, &here);
                        self.global_shadow(lanes, addresses, access, &allocation)?;
                        lanes
                    }
                    None => 1 << first,
                },
            };
            left &= !lanes;
        }
        Ok(())
    }

    fn generic(&mut self, mask: u32, addresses: &[u64; 32], access: Access) -> Result<Reach, Flow> {
        let lanes = filled(mask, addresses);
        let first = lanes[0] >> 31;
        let (mut mixed, mut windows) = (0, false);
        for address in lanes {
            mixed |= address >> 31 ^ first;
            windows |= (address >> 31).wrapping_sub(1) < 3;
        }
        if !windows {
            return self.global(mask, addresses, access);
        }
        if mixed == 0 {
            return self.inside(window(lanes[0]), mask, addresses, access);
        }
        let mut out = [std::ptr::null_mut(); 32];
        let mut left = mask;
        while left != 0 {
            let space = window(addresses[left.trailing_zeros() as usize]);
            let lanes = bits(left)
                .filter(|&l| window(addresses[l]) == space)
                .fold(0u32, |m, l| m | 1 << l);
            left &= !lanes;
            let reach = self.inside(space, lanes, addresses, access)?;
            let part = self.places(reach, addresses);
            for lane in bits(lanes) {
                out[lane] = part[lane];
            }
        }
        self.apart = out;
        Ok(Reach::Apart)
    }

    /// Generic addresses that are all in `space`.
    fn inside(
        &mut self,
        space: Space,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        // Generic addresses reach the shared memory of all of the cluster's blocks.
        let (space, base) = match space {
            Space::Shared => (Space::Cluster, SHARED_WINDOW),
            Space::Local => (Space::Local, LOCAL_WINDOW),
            Space::Param => (Space::Param, PARAM_WINDOW),
            other => (other, 0),
        };
        let inside: [u64; 32] = each(|l| addresses[l].wrapping_sub(base));
        let access = Access {
            space: Some(space),
            ..access
        };
        Ok(match self.reach(mask, &inside, access)? {
            Reach::Behind(start) => Reach::Behind(start.wrapping_sub(base as usize)),
            Reach::Apart => Reach::Apart,
        })
    }

    /// What the lanes' addresses have in common, `low`, is no multiple of what the access needs: the report, or where
    /// the check is off, word that the lanes must be reached one by one.
    #[cold]
    fn misaligned(&mut self, mask: u32, addresses: &[u64; 32], align: u32) -> Result<(), Flow> {
        if !self.launch().checks.has(Check::Alignment) {
            return Ok(());
        }
        let low = u64::from(align) - 1;
        let lanes = bits(mask)
            .filter(|&l| addresses[l] & low != 0)
            .fold(0u32, |m, l| m | 1 << l);
        let address = addresses[lanes.trailing_zeros() as usize];
        Err(self.violation(
            Check::Alignment,
            lanes,
            format!(
                "address {address:#x} is {} past a multiple of {align}, which the access needs",
                address & low
            ),
        ))
    }

    /// What the current instruction has done to memory, in launches that count it.
    #[inline(always)]
    pub fn counts(&mut self) -> &mut MemoryCounts {
        debug_assert!(self.launch().counters);
        // SAFETY: the books are as long as the program where memory is counted, as here.
        unsafe { &mut *self.books.memory.add(self.pc as usize) }
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
        let touched = unsafe { &mut *self.books.touched };
        let set = if access.kind.writes() {
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

    #[inline(always)]
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
#[inline(always)]
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

/// Calls `f` for the lanes of a mask, in order.
#[inline(always)]
pub fn for_lanes(mask: u32, mut f: impl FnMut(usize)) {
    // One call, so that it is inlined, into the wide builds too.
    for lane in 0..32 {
        if mask >> lane & 1 != 0 {
            f(lane);
        }
    }
}

fn verb(kind: Kind) -> &'static str {
    match kind {
        Kind::Load | Kind::Read | Kind::StrongLoad => "read",
        Kind::Store | Kind::StrongStore => "write",
        Kind::Atomic => "atomic",
        Kind::Probe => "copy",
    }
}

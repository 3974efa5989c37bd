//! Accesses to global memory: the allocation they fall into, and its shadows.

use super::{Access, CachedAllocation, Kind, Pointers, bits, verb};
use crate::check::Check;
use crate::exec::doubt::Found;
use crate::exec::lanes::each;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;
use crate::memory::Allocation;

impl Warp {
    #[inline(always)]
    pub(super) fn global(
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
    pub(super) fn global_shadow(
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

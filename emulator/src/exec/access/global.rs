//! Accesses to global memory: the allocation they fall into, and its shadows.

use super::survey::{filled, plainly_within, survey};
use super::{Access, Kind, Ranges, Reach, Recent, bits, verb};
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
    ) -> Result<Reach, Flow> {
        let others;
        let lanes = if mask == u32::MAX {
            addresses
        } else {
            others = filled(mask, addresses);
            &others
        };
        let recent = match self.recent.holding(lanes[0]) {
            Some(recent) => recent,
            None => self.find_allocation(lanes[0]),
        };
        let last = recent.size.wrapping_sub(u64::from(access.size));
        let (aligned, within) = if plainly_within(lanes, recent.base, last, access.align) {
            (true, true)
        } else {
            let (low, within) = survey(lanes, recent.base, last);
            (low & (u64::from(access.align) - 1) == 0, within)
        };
        if !aligned {
            self.misaligned(mask, addresses, access.align)?;
        }
        if !within || recent.allocation.is_null() {
            return self.scattered(mask, addresses, access);
        }
        // SAFETY: the launch keeps its allocations alive as long as its warps run.
        let allocation = unsafe { &*recent.allocation };
        self.global_shadow(mask, addresses, access, allocation)?;
        if self.launch().counters && access.kind != Kind::Probe {
            self.count_global(mask, addresses, access);
        }
        let start = recent.host.wrapping_sub(recent.base as usize);
        if aligned {
            return Ok(Reach::Behind(start));
        }
        self.apart = each(|l| start.wrapping_add(lanes[l] as usize));
        Ok(Reach::Apart)
    }

    /// Looks for the allocation that holds `address`, and remembers it; where there is none, any.
    #[cold]
    fn find_allocation(&mut self, address: u64) -> Recent {
        let found = self.launch().memory.find(address).map(|a| Recent {
            base: a.address,
            size: a.size,
            host: a.host_ptr(),
            allocation: &**a,
        });
        if let Some(found) = found {
            self.recent.0.rotate_right(1);
            self.recent.0[0] = found;
        }
        self.recent.0[0]
    }

    /// Lanes in different allocations, or outside all of them.
    #[cold]
    fn scattered(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
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
        self.apart = out;
        Ok(Reach::Apart)
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
        let touched = Ranges::new(mask, addresses, u64::from(access.size));
        if checks.has(Check::UninitMemory) && !allocation.init_bits().is_null() {
            let first = allocation.address;
            let mut ranges = touched;
            if access.kind.only_writes() {
                while let Some((start, end)) = ranges.next() {
                    allocation.mark_init(start - first, end - start);
                }
            } else if access.kind.reads() {
                let mut written = true;
                while let Some((start, end)) = ranges.next() {
                    written &= allocation.is_init(start - first, end - start);
                }
                if !written {
                    self.unwritten_global(mask, addresses, access, allocation)?;
                }
            }
        }
        if checks.has(Check::GlobalRace) && access.kind != Kind::Probe {
            self.global_race(mask, addresses, access, allocation, touched)?;
        }
        Ok(())
    }

    /// A read of bytes of which some were never written.
    #[cold]
    fn unwritten_global(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
        allocation: &Allocation,
    ) -> Result<(), Flow> {
        for lane in bits(mask) {
            let offset = addresses[lane] - allocation.address;
            let Some(at) = allocation.first_uninit(offset, u64::from(access.size)) else {
                continue;
            };
            if access.kind != Kind::Load {
                let text = uninit_global(at, access, allocation);
                return Err(self.violation(Check::UninitMemory, 1 << lane, text));
            }
            self.doubt_global(lane, at, access, allocation, offset);
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

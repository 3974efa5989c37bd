//! Accesses to local memory and to the kernel's parameters.

use super::survey::{filled, survey};
use super::{Access, Kind, Reach, bits, verb};
use crate::check::Check;
use crate::exec::doubt::Found;
use crate::exec::lanes::each;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;

impl Warp {
    pub(super) fn local_pointers(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        if survey(&filled(mask, addresses), 0, 0).0 & (u64::from(access.align) - 1) != 0 {
            self.misaligned(mask, addresses, access.align)?;
        }
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
        self.apart = out;
        Ok(Reach::Apart)
    }

    pub(super) fn params(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<Reach, Flow> {
        let params = &self.launch().params;
        let (start, len) = (params.as_ptr().cast_mut(), params.len() as u64);
        let size = u64::from(access.size);
        let lanes = filled(mask, addresses);
        let (low, within) = survey(&lanes, 0, len.wrapping_sub(size));
        let aligned = low & (u64::from(access.align) - 1) == 0;
        if !aligned {
            self.misaligned(mask, addresses, access.align)?;
        }
        if !within || !access.kind.reads() {
            return Err(self.outside_params(mask, addresses, access, len));
        }
        // The parameters' bytes on the host are as aligned as it happens.
        self.apart = each(|lane| start.wrapping_add(lanes[lane] as usize));
        Ok(Reach::Apart)
    }

    #[cold]
    fn outside_params(
        &mut self,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
        len: u64,
    ) -> Flow {
        let size = u64::from(access.size);
        let outside = |&lane: &usize| {
            let end = addresses[lane].checked_add(size);
            end.is_none_or(|end| end > len) || !access.kind.reads()
        };
        let lane = bits(mask).find(outside).unwrap_or(0);
        let text = format!(
            "{} of {size} bytes at byte {} of the kernel's {len} bytes of read-only parameters",
            verb(access.kind),
            addresses[lane]
        );
        self.violation(Check::Bounds, 1 << lane, text)
    }
}

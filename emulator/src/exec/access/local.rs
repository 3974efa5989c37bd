//! Accesses to local memory and to the kernel's parameters.

use super::{Access, Kind, Pointers, bits, verb};
use crate::check::Check;
use crate::exec::doubt::Found;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;

impl Warp {
    pub(super) fn local_pointers(
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

    pub(super) fn params(
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
}

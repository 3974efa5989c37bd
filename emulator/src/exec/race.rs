//! What orders accesses of a block's warps.

use super::access::Access;
use super::program::Flow;
use super::warp::Warp;
use crate::memory::Allocation;

/// Vector clocks of a block's warps.
#[derive(Debug)]
pub struct BlockOrder {
    warps: usize,
}

impl BlockOrder {
    /// For `warps` warps.
    pub fn new(warps: usize) -> BlockOrder {
        BlockOrder { warps }
    }
    /// A new block.
    pub fn forget(&mut self) {}
    /// A warp arrives at a barrier.
    pub fn arrive(&mut self, _barrier: usize, _warp: usize) {}
    /// A barrier completes for the warps that arrived.
    pub fn complete(&mut self, _barrier: usize, _warps: &[u32]) {}
    /// A warp is gone.
    pub fn exit(&mut self, _warp: usize) {}
}

/// Shadow of shared memory.
#[derive(Debug)]
pub struct SharedRaces {
    len: usize,
}

impl SharedRaces {
    /// For `len` bytes.
    pub fn new(len: usize) -> SharedRaces {
        SharedRaces { len }
    }
    /// A new block.
    pub fn forget(&mut self) {}
}

impl Warp {
    /// Checks a shared access against those before it.
    #[inline(always)]
    pub fn shared_race(&mut self, _mask: u32, _addresses: &[u64; 32], _access: Access) -> Result<(), Flow> {
        Ok(())
    }
    /// Checks a global access against those before it.
    #[inline(always)]
    pub fn global_race(&mut self, _mask: u32, _addresses: &[u64; 32], _access: Access, _allocation: &Allocation) -> Result<(), Flow> {
        Ok(())
    }

    /// A `bar.warp.sync` ordered the lanes.
    pub fn synchronised(&mut self, _mask: u32) {}
    /// A fence by the lanes, of the block alone or wider.
    pub fn fenced(&mut self, _mask: u32, _block_only: bool) {}
    /// An acquire load was done.
    pub fn acquired(&mut self, _mask: u32, _addresses: &[u64; 32], _access: Access) {}
    /// A release store was done.
    pub fn released(&mut self, _mask: u32, _addresses: &[u64; 32], _access: Access) {}
}

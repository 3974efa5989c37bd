//! One launch of a kernel: blocks in seeded order over all cores.

use super::module::Kernel;
use crate::check::{Checks, Fault};
use crate::counters::Counters;
use crate::memory::Snapshot;
use crate::profile::Profile;

/// Grid, block and shared memory of a launch. The caller has checked it against the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub dynamic_shared: u32,
    /// All blocks resident at once (`cuLaunchCooperativeKernel`).
    pub cooperative: bool,
    /// Blocks of a cluster; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
}

/// What a launch runs under.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Allocations alive at the launch.
    pub memory: Snapshot,
    /// Freed ranges are named through this.
    pub space: std::sync::Arc<crate::memory::AddressSpace>,
    /// The device.
    pub profile: &'static Profile,
    /// Checks in force.
    pub checks: Checks,
    /// Seed of the order in which warps and blocks run; `None` for plain order and long slices.
    pub seed: Option<u64>,
    /// Most warp instructions of the launch, all blocks together; `None` for no limit.
    pub budget: Option<u64>,
    /// Threads of the host that blocks run on; 0 for all cores.
    pub threads: usize,
    /// Whether memory counters (sectors, conflicts) are kept; instruction counts always are.
    pub counters: bool,
}

/// What came of a launch.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Counters up to the end or the fault.
    pub counters: Counters,
    /// The first fault, if any: the kernel stopped there.
    pub fault: Option<Fault>,
    /// What device code printed.
    pub printed: String,
}

//! Occupancy: how many blocks of a kernel an SM holds.

use super::abi::LaunchArguments;
use super::api::{In, Out, driver_calls};
use super::error::{Result, fail};
use super::function::Function;
use super::handle::Handle;
use super::launch::cluster_of;
use super::state::lock;
use crate::profile::{Profile, THREADS_PER_BLOCK};

/// Registers are handed to a warp in units of this many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is handed to a block in units of this many bytes.
const SHARED_UNIT: u64 = 128;
/// An SM's four parts each hold their own warps and registers.
const PARTS: u32 = 4;
/// Threads of a warp.
pub(crate) const WARP: u32 = 32;

/// What a block needs of an SM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) threads: u32,
    /// Registers of a thread.
    pub(crate) registers: u32,
    /// Static and dynamic shared memory, in bytes.
    pub(crate) shared: u64,
}

/// Registers that a warp takes.
pub(crate) fn registers_per_warp(registers: u32) -> u32 {
    (registers * WARP).next_multiple_of(REGISTER_UNIT)
}

/// Shared memory that a block takes, the system's part included.
fn shared_per_block(profile: &Profile, shared: u64) -> u64 {
    (shared + u64::from(profile.shared_reserved_per_block)).next_multiple_of(SHARED_UNIT)
}

/// Blocks of an SM that each of its resources has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Blocks the SM can keep at all.
    pub(crate) blocks: u32,
    /// Its warps.
    pub(crate) warps: u32,
    /// Its registers.
    pub(crate) registers: u32,
    /// Its shared memory.
    pub(crate) shared: u32,
}

impl Limits {
    pub(crate) fn of(profile: &Profile, need: Need) -> Limits {
        if need.threads == 0 || need.threads > THREADS_PER_BLOCK {
            return Limits {
                blocks: 0,
                warps: 0,
                registers: 0,
                shared: 0,
            };
        }
        let warps = need.threads.div_ceil(WARP);
        let shared = match u64::from(profile.shared_per_block_optin) {
            most if need.shared > most => 0,
            _ => u64::from(profile.shared_per_sm) / shared_per_block(profile, need.shared),
        };
        Limits {
            blocks: profile.blocks_per_sm,
            warps: profile.threads_per_sm / WARP / warps,
            registers: match registers_per_warp(need.registers) {
                0 => profile.blocks_per_sm,
                each => profile.registers_per_sm / PARTS / each * PARTS / warps,
            },
            // An SM's shared memory is far below 2^32 units.
            shared: shared as u32,
        }
    }

    /// By name, as [`Limits::binding`] gives them.
    fn named(&self) -> [(&'static str, u32); 4] {
        [
            ("registers", self.registers),
            ("shared_mem", self.shared),
            ("warps", self.warps),
            ("blocks", self.blocks),
        ]
    }

    /// Blocks that an SM holds at once; 0 where not even one fits.
    pub(crate) fn blocks_per_sm(&self) -> u32 {
        self.named()
            .map(|(_, limit)| limit)
            .into_iter()
            .min()
            .unwrap_or(0)
    }

    /// The resources that allow no more.
    pub(crate) fn binding(&self) -> impl Iterator<Item = &'static str> {
        let least = self.blocks_per_sm();
        let binding = move |(name, limit)| (limit == least).then_some(name);
        self.named().into_iter().filter_map(binding)
    }
}

/// Blocks that an SM holds at once; 0 where not even one fits.
pub(crate) fn blocks_per_sm(profile: &Profile, need: Need) -> u32 {
    Limits::of(profile, need).blocks_per_sm()
}

/// The block size with the most resident threads (the largest of several), with its blocks an SM.
fn best_block(profile: &Profile, limit: u32, need: impl Fn(u32) -> Need) -> (u32, u32) {
    let mut best = (0, 0);
    let top = limit.div_ceil(WARP);
    for size in (1..=top).rev().map(|warps| (warps * WARP).min(limit)) {
        let blocks = blocks_per_sm(profile, need(size));
        if blocks * size > best.0 * best.1 {
            best = (size, blocks);
        }
    }
    best
}

/// A function as occupancy sees it.
struct Facts {
    profile: &'static Profile,
    registers: u32,
    static_shared: u64,
    max_threads: u32,
    non_portable_clusters: bool,
    cluster: [u32; 3],
}

impl Facts {
    fn of(function: Handle<Function>) -> Result<Facts> {
        let mut state = lock()?;
        let function = state.function(function)?;
        let of = state.functions.get(function)?;
        let profile = state.profile_of(of.context)?;
        Ok(Facts {
            profile,
            registers: of.registers,
            static_shared: u64::from(of.kernel.static_shared),
            max_threads: of.max_threads(profile),
            non_portable_clusters: of.non_portable_clusters,
            cluster: of.kernel.cluster,
        })
    }

    fn need(&self, threads: u32, dynamic: u64) -> Need {
        Need {
            threads,
            registers: self.registers,
            shared: self.static_shared + dynamic,
        }
    }

    fn blocks(&self, threads: u32, dynamic: u64) -> u32 {
        if threads > self.max_threads {
            0
        } else {
            blocks_per_sm(self.profile, self.need(threads, dynamic))
        }
    }
}

fn max_active_blocks(
    out: Out<i32>,
    function: Handle<Function>,
    threads: i32,
    dynamic: usize,
    flags: u32,
) -> Result<()> {
    if threads <= 0 || flags > 1 {
        fail!(INVALID_VALUE, "block size {threads}, flags {flags:#x}");
    }
    let facts = Facts::of(function)?;
    out.put(facts.blocks(threads as u32, dynamic as u64) as i32)
}

/// `CUoccupancyB2DSize`: dynamic shared memory of a block, by its size.
type SharedBySize = unsafe extern "C" fn(i32) -> usize;

fn max_potential_block(
    grid: Out<i32>,
    block: Out<i32>,
    function: Handle<Function>,
    by_size: Option<SharedBySize>,
    dynamic: usize,
    limit: i32,
    flags: u32,
) -> Result<()> {
    if limit < 0 || flags > 1 {
        fail!(INVALID_VALUE, "block size limit {limit}, flags {flags:#x}");
    }
    let facts = Facts::of(function)?;
    let limit = if limit == 0 {
        facts.max_threads
    } else {
        facts.max_threads.min(limit as u32)
    };
    let shared = |threads: u32| match by_size {
        // SAFETY: the API's caller gave the function to be called with block sizes.
        Some(by_size) => unsafe { by_size(threads as i32) as u64 },
        None => dynamic as u64,
    };
    let (size, blocks) = best_block(facts.profile, limit, |threads| {
        facts.need(threads, shared(threads))
    });
    grid.put((blocks * facts.profile.sm_count) as i32)?;
    block.put(size as i32)
}

driver_calls! { EXPORTS:
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: Out<i32>, function: Handle<Function>, threads: i32, dynamic: usize) {
        max_active_blocks(out, function, threads, dynamic, 0)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: Out<i32>, function: Handle<Function>, threads: i32, dynamic: usize, flags: u32,
    ) {
        max_active_blocks(out, function, threads, dynamic, flags)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>, block: Out<i32>, function: Handle<Function>, by_size: Option<SharedBySize>, dynamic: usize, limit: i32,
    ) {
        max_potential_block(grid, block, function, by_size, dynamic, limit, 0)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>, block: Out<i32>, function: Handle<Function>, by_size: Option<SharedBySize>, dynamic: usize, limit: i32, flags: u32,
    ) {
        max_potential_block(grid, block, function, by_size, dynamic, limit, flags)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(out: Out<usize>, function: Handle<Function>, blocks: i32, threads: i32) {
        let facts = Facts::of(function)?;
        let without = Facts { static_shared: 0, ..facts };
        if blocks <= 0 || threads <= 0 || without.blocks(threads as u32, 0) < blocks as u32 {
            fail!(INVALID_VALUE, "{blocks} blocks of {threads} threads do not fit an SM even without shared memory");
        }
        let facts = Facts::of(function)?;
        let profile = facts.profile;
        let share = u64::from(profile.shared_per_sm) / blocks as u64 / SHARED_UNIT * SHARED_UNIT;
        let usable = share.saturating_sub(u64::from(profile.shared_reserved_per_block)).min(profile.shared_per_block_optin.into());
        out.put(usable.saturating_sub(facts.static_shared) as usize)
    }

    fn cuOccupancyMaxPotentialClusterSize(out: Out<i32>, function: Handle<Function>, config: In<LaunchArguments>) {
        let config = config.get("config")?;
        let facts = Facts::of(function)?;
        if facts.profile.compute_capability.0 < 9 {
            fail!(INVALID_CLUSTER_SIZE, "{} has no clusters", facts.profile.name);
        }
        let threads = config.block.iter().product();
        let fits = facts.blocks(threads, config.shared_bytes.into()) > 0;
        out.put(match (fits, facts.non_portable_clusters) {
            (false, _) => 0,
            (true, false) => 8,
            (true, true) => 16,
        })
    }

    fn cuOccupancyMaxActiveClusters(out: Out<i32>, function: Handle<Function>, config: In<LaunchArguments>) {
        let config = config.get("config")?;
        let facts = Facts::of(function)?;
        if facts.profile.compute_capability.0 < 9 {
            fail!(INVALID_CLUSTER_SIZE, "{} has no clusters", facts.profile.name);
        }
        let cluster = cluster_of(&config)?.unwrap_or(facts.cluster);
        let size: u32 = cluster.iter().product();
        let threads = config.block.iter().product();
        let blocks = facts.blocks(threads, config.shared_bytes.into()) * facts.profile.sm_count;
        out.put((blocks / size.max(1)) as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(key: &str) -> &'static Profile {
        Profile::by_key(key).unwrap()
    }

    /// Worked by hand from the tables of the CUDA programming guide.
    #[test]
    fn each_resource_limits_in_its_turn() {
        let h100 = profile("h100");
        let blocks = |threads, registers, shared| {
            blocks_per_sm(
                h100,
                Need {
                    threads,
                    registers,
                    shared,
                },
            )
        };
        assert_eq!(blocks(1024, 32, 0), 2, "threads: 2048 / 1024");
        assert_eq!(blocks(32, 16, 0), 32, "blocks an SM");
        assert_eq!(
            blocks(128, 94, 0),
            5,
            "registers: 96 × 32 a warp, 5 warps a part, 20 warps"
        );
        assert_eq!(blocks(256, 32, 48 << 10), 4, "shared: 49 KiB each of 228");
        assert_eq!(blocks(256, 32, 227 << 10), 1, "all of it");
        assert_eq!(
            blocks(256, 32, (227 << 10) + 1),
            0,
            "more than a block may have"
        );
        assert_eq!(blocks(1024, 65, 0), 0, "72 × 32 registers a warp, 28 warps");
        assert_eq!(blocks(1025, 16, 0), 0);
        let l4 = profile("l4");
        assert_eq!(
            blocks_per_sm(
                l4,
                Need {
                    threads: 1024,
                    registers: 32,
                    shared: 0
                }
            ),
            1,
            "1536 threads an SM"
        );
        assert_eq!(
            blocks_per_sm(
                l4,
                Need {
                    threads: 512,
                    registers: 32,
                    shared: 0
                }
            ),
            3
        );
    }

    #[test]
    fn what_binds_is_named() {
        let binding = |key, threads, registers, shared| {
            let need = Need {
                threads,
                registers,
                shared,
            };
            let limits = Limits::of(profile(key), need);
            (limits.blocks_per_sm(), limits.binding().collect::<Vec<_>>())
        };
        assert_eq!(binding("h100", 128, 94, 0), (5, vec!["registers"]));
        // 97 KiB each, with the system's: 2 of 228 on an H100, 1 of 164 on an A100.
        assert_eq!(binding("h100", 128, 94, 96 << 10), (2, vec!["shared_mem"]));
        assert_eq!(binding("a100", 128, 94, 96 << 10), (1, vec!["shared_mem"]));
        assert_eq!(
            binding("h100", 1024, 32, 0),
            (2, vec!["registers", "warps"])
        );
        assert_eq!(binding("l4", 32, 16, 0), (24, vec!["blocks"]));
        assert_eq!(
            binding("h100", 2048, 16, 0),
            (0, vec!["registers", "shared_mem", "warps", "blocks"])
        );
    }

    #[test]
    fn the_best_block_keeps_the_most_threads() {
        let need = |threads| Need {
            threads,
            registers: 32,
            shared: 0,
        };
        assert_eq!(best_block(profile("l4"), 1024, need), (768, 2));
        assert_eq!(best_block(profile("h100"), 1024, need), (1024, 2));
        assert_eq!(best_block(profile("h100"), 100, need).0, 64);
    }
}

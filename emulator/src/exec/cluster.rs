//! A cluster of blocks (a block, where there are no clusters): scheduled together, with addresses for each other's
//! shared memory and a barrier of their own.

use super::block::{Block, Resident, Turn};
use super::launch::LaunchState;
use super::program::Program;
use super::race::Order;
use super::warp::{State, Trouble};
use crate::check::{Check, FaultKind};
use crate::counters::Books;
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// In the upper byte of an address in the cluster's shared memory stands a block's rank, plus one; zero for the
/// block that uses the address.
const RANK_SHIFT: u32 = 24;

/// The address as every block of the cluster writes it, from how block `own` does.
#[inline(always)]
pub fn place(address: u32, own: u32) -> u32 {
    if address >> RANK_SHIFT == 0 {
        mapped(address, own)
    } else {
        address
    }
}

/// The address in block `rank` that corresponds to `address`, of whatever block.
#[inline(always)]
pub fn mapped(address: u32, rank: u32) -> u32 {
    within(address) | (rank + 1) << RANK_SHIFT
}

/// Bytes from the start of the shared memory that an address is in.
#[inline(always)]
pub fn within(address: u32) -> u32 {
    address & ((1 << RANK_SHIFT) - 1)
}

/// The block whose shared memory an address that block `own` uses is in.
#[inline(always)]
pub fn rank_of(address: u32, own: u32) -> u32 {
    (place(address, own) >> RANK_SHIFT) - 1
}

/// What the blocks of a cluster share.
pub struct Shared {
    /// What orders their accesses.
    pub order: Order,
    /// The blocks, by rank.
    pub blocks: Vec<*mut Block>,
    /// Number of the cluster in the grid.
    pub number: u64,
    /// Whether a thread has arrived at the barrier's present phase.
    pub arrived: bool,
    /// Whether the barrier has completed a phase: all blocks have begun.
    pub met: bool,
}

/// An access by another block of the cluster to a block's shared memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct FarAccess {
    /// Tick of the last one; 0 where there was none.
    pub tick: u32,
    /// PTX line of its instruction.
    pub line: u32,
}

/// What a turn counts for [`Cluster::stay`] that ran some warp until its instructions were up.
pub const FULL_TURN: u64 = 64;

/// A cluster on a worker.
pub struct Cluster {
    /// Boxed: blocks point at it.
    shared: Box<Shared>,
    blocks: Vec<Resident>,
    done: Vec<bool>,
    /// How long it has been here: for each turn [`FULL_TURN`], but 1 for one in which every warp came to a place to
    /// wait at, or to its end. Blocks with many barriers have many of those turns, and get on.
    pub stay: u64,
    random: Option<Xoshiro256PlusPlus>,
}

/// Where a turn left a cluster.
#[derive(Debug)]
pub enum ClusterTurn {
    /// Blocks are left to run.
    Going,
    /// All blocks are done.
    Done,
    /// A fault, of a warp of the block with that rank.
    Fault(Box<Trouble>, usize, u32),
}

impl Cluster {
    /// Room for a cluster of the launch.
    pub fn new(program: &Program, launch: &LaunchState) -> Cluster {
        let size = launch.config.cluster.iter().product::<u32>() as usize;
        let mut blocks: Vec<Resident> = (0..size).map(|_| Resident::new(program, launch)).collect();
        let warps = launch.block_warps();
        let mut shared = Box::new(Shared {
            order: Order::new(size, warps),
            blocks: Vec::new(),
            number: 0,
            arrived: false,
            met: false,
        });
        let to_shared: *mut Shared = &mut *shared;
        for (rank, block) in blocks.iter_mut().enumerate() {
            block.join(to_shared, rank as u32, (rank * warps) as u32, size * warps);
        }
        shared.blocks = blocks.iter_mut().map(Resident::block).collect();
        Cluster {
            shared,
            done: vec![false; size],
            blocks,
            stay: 0,
            random: None,
        }
    }

    /// Puts cluster `number` of the grid here.
    pub fn begin(&mut self, number: u64, launch: &LaunchState, program: &Program) {
        self.shared.order.forget();
        self.shared.number = number;
        self.shared.arrived = false;
        self.shared.met = false;
        self.done.fill(false);
        self.stay = 0;
        self.random = launch.seed.map(|seed| {
            Xoshiro256PlusPlus::seed_from_u64(!seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        });
        for (rank, block) in self.blocks.iter_mut().enumerate() {
            block.begin(launch.block_of(number, rank as u32), launch, program);
        }
    }

    /// The block with that rank.
    pub fn block(&self, rank: usize) -> &Resident {
        &self.blocks[rank]
    }

    /// The most bytes that asynchronous copies of one of its blocks had in flight at once.
    pub fn most_in_flight(&self) -> u64 {
        let most = self.blocks.iter().map(Resident::most_in_flight).max();
        most.unwrap_or(0)
    }

    /// A turn for every block that can run.
    ///
    /// # Safety
    /// The launch and the books are alive, and these are the program's.
    pub unsafe fn turn(&mut self, books: Books, launch: &LaunchState) -> ClusterTurn {
        let count = self.blocks.len();
        let first = match &mut self.random {
            Some(random) if count > 1 => random.next_u32() as usize % count,
            _ => 0,
        };
        let (mut moved, mut full) = (false, launch.seed.is_some());
        for k in 0..count {
            let at = if k < count - first {
                first + k
            } else {
                first + k - count
            };
            if self.done[at] {
                continue;
            }
            // SAFETY: the caller's promise.
            let turn = unsafe { self.blocks[at].turn(books, launch) };
            full |= self.blocks[at].used_up;
            match turn {
                Turn::Going => moved = true,
                Turn::Stuck => {}
                Turn::Done => {
                    moved = true;
                    self.done[at] = true;
                    if let Some((trouble, warp)) = self.blocks[at].leave() {
                        return ClusterTurn::Fault(trouble, at, warp);
                    }
                }
                Turn::Fault(trouble, warp) => return ClusterTurn::Fault(trouble, at, warp),
            }
            moved |= self.complete_barrier();
        }
        self.stay += if full { FULL_TURN } else { 1 };
        if self.done.iter().all(|&d| d) {
            return ClusterTurn::Done;
        }
        if moved {
            return ClusterTurn::Going;
        }
        self.deadlock()
    }

    /// Lets the waiting go on if every thread that has not exited has arrived at the cluster's barrier.
    fn complete_barrier(&mut self) -> bool {
        if !self.shared.arrived || !self.blocks.iter().all(Resident::all_arrived) {
            return false;
        }
        self.shared.arrived = false;
        self.shared.met = true;
        self.shared.order.complete_cluster();
        self.blocks.iter_mut().for_each(Resident::pass_cluster);
        true
    }

    #[cold]
    fn deadlock(&self) -> ClusterTurn {
        let stuck = || (0..self.blocks.len()).filter(|&at| !self.done[at]);
        for at in stuck() {
            if let Some((trouble, warp)) = self.blocks[at].deadlock() {
                return ClusterTurn::Fault(trouble, at, warp);
            }
        }
        // All that are left wait for the cluster.
        let missing: Vec<String> = stuck()
            .filter_map(|at| Some(format!("block {at}: {}", self.blocks[at].not_arrived()?)))
            .collect();
        for at in stuck() {
            let waiting = self.blocks[at].first_waiting(State::Cluster);
            if let Some((warp, lanes, pc)) = waiting {
                let trouble = Trouble {
                    kind: FaultKind::Check(Check::Barrier),
                    message: format!(
                        "the cluster's barrier is waited for and no warp can run; not arrived: {}",
                        missing.join("; ")
                    ),
                    lanes,
                    pc,
                };
                return ClusterTurn::Fault(Box::new(trouble), at, warp);
            }
        }
        unreachable!("a warp that cannot run waits for lanes or at a barrier")
    }
}

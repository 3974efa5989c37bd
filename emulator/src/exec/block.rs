//! A block in execution: shared memory, barriers, and the turns of its warps.

use super::access::bits;
use super::cluster::{self, FarAccess};
use super::launch::LaunchState;
use super::program::{Program, SLOT};
use super::shared::{AlignedBytes, SharedMemory};
use super::warp::{ReduceOp, State, Stop, Trouble, Warp};
use crate::check::{Check, FaultKind};
use crate::counters::Books;
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// What warps of a block share.
pub struct Block {
    /// Block index.
    pub index: [u32; 3],
    /// Block index, x fastest.
    pub linear: u64,
    /// Shared memory.
    pub shared: SharedMemory,
    /// What the blocks of its cluster share.
    pub cluster: *mut cluster::Shared,
    /// Its rank in the cluster.
    pub rank: u32,
    /// The first of its warps' numbers in the cluster.
    pub first_warp: u32,
    /// Accesses to its shared memory by warps of the cluster's other blocks.
    pub far: Vec<FarAccess>,
    /// Whether its threads have all exited.
    pub gone: bool,
    /// Asynchronous copies in flight, a queue for each warp.
    pub copies: Vec<super::async_copy::CopyQueue>,
    /// Bulk copies that threads wait for by groups, a queue for each warp.
    pub bulks: Vec<super::bulk::BulkQueue>,
    /// Ranges of its shared memory that operations in flight hold.
    pub held: super::bulk::Held,
    /// Barrier objects in shared memory.
    pub mbarriers: super::mbarrier::Mbarriers,
}

/// A barrier of a block.
#[derive(Debug, Clone, Default)]
struct Barrier {
    /// Threads that have arrived.
    arrived: u32,
    /// Threads asked for; 0 for all.
    threads: u32,
    /// Warps that arrived, waiting or not, by bit.
    warps: u32,
    /// Those of them that wait.
    waiting: u32,
    /// Result so far and destinations, for reductions.
    popc: u32,
    voters: u32,
    destinations: Vec<(u32, u32, u32, ReduceOp)>,
}

/// A block and its warps, resident on a worker.
pub struct Resident {
    /// Boxed: warps point at it.
    block: Box<Block>,
    warps: Vec<Warp>,
    files: Vec<AlignedBytes>,
    barriers: [Barrier; 16],
    /// Barriers that somebody has arrived at, by bit.
    awaited: u32,
    /// Warps that have exited.
    finished: Vec<bool>,
    /// Warps that have not.
    left: usize,
    /// Threads that have not exited.
    live: u32,
    /// Whether a warp used up its instructions in the last turn.
    pub used_up: bool,
    random: Option<Xoshiro256PlusPlus>,
}

/// Where a turn left a block.
#[derive(Debug)]
pub enum Turn {
    /// Warps are left to run.
    Going,
    /// No warp can run before something happens elsewhere in the cluster.
    Stuck,
    /// All threads exited.
    Done,
    /// A fault, of the warp with that index.
    Fault(Box<Trouble>, u32),
}

/// Warp instructions of a turn without a seed: long enough that switching costs nothing.
const PLAIN_SLICE: u64 = 1 << 13;

impl Resident {
    /// Room for a block of the launch.
    pub fn new(program: &Program, launch: &LaunchState) -> Resident {
        let threads: u32 = launch.config.block.iter().product();
        let warp_count = threads.div_ceil(32);
        let shared = program.static_shared as usize + launch.config.dynamic_shared as usize;
        let block = Box::new(Block {
            index: [0; 3],
            linear: 0,
            shared: SharedMemory::new(shared, super::special::wants_reserved(program)),
            cluster: std::ptr::null_mut(),
            rank: 0,
            first_warp: 0,
            far: Vec::new(),
            gone: false,
            copies: (0..warp_count).map(|_| Default::default()).collect(),
            bulks: (0..warp_count).map(|_| Default::default()).collect(),
            held: Default::default(),
            mbarriers: Default::default(),
        });
        let mut warps = Vec::new();
        let mut files = Vec::new();
        for index in 0..warp_count {
            let file = AlignedBytes::new(program.file_bytes as usize);
            let mut warp = Warp::new(program, launch, index, lanes_of(threads, index));
            warp.regs = file.as_ptr();
            super::special::fill_constants(program, &warp);
            super::special::fill_lanes(program, &warp, launch, &block);
            warps.push(warp);
            files.push(file);
        }
        Resident {
            block,
            finished: vec![false; warps.len()],
            warps,
            files,
            barriers: Default::default(),
            awaited: 0,
            left: 0,
            live: 0,
            used_up: false,
            random: None,
        }
    }

    /// Puts block `linear` of the grid here.
    pub fn begin(&mut self, linear: u64, launch: &LaunchState, program: &Program) {
        let [gx, gy, _] = launch.config.grid.map(u64::from);
        self.block.index = [
            (linear % gx) as u32,
            (linear / gx % gy) as u32,
            (linear / gx / gy) as u32,
        ];
        self.block.linear = linear;
        self.block.shared.forget();
        self.block.far.fill(FarAccess::default());
        self.block.gone = false;
        self.block.copies.iter_mut().for_each(|c| c.clear());
        self.block.bulks.iter_mut().for_each(|c| c.clear());
        self.block.held.clear();
        self.block.mbarriers.clear();
        self.barriers = Default::default();
        self.awaited = 0;
        self.finished.fill(false);
        self.left = self.warps.len();
        self.live = launch.config.block.iter().product();
        self.random = launch.seed.map(|seed| {
            Xoshiro256PlusPlus::seed_from_u64(seed ^ linear.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        });
        let threads: u32 = launch.config.block.iter().product();
        let block: *mut Block = &mut *self.block;
        for warp in &mut self.warps {
            warp.block = block;
            warp.restart(lanes_of(threads, warp.index));
            if !warp
                .local
                .reserve(u64::from(program.functions[0].frame_bytes))
            {
                // Load refuses kernels with frames past the limit.
                unreachable!("a kernel's own frame fits local memory");
            }
            for &slot in &program.watch_slots {
                // SAFETY: a mask slot of this program.
                unsafe { *warp.slot(slot).cast::<u32>() = 0 };
            }
            super::special::fill_specials(program, warp, launch, &self.block);
        }
        debug_assert!(self.files.iter().all(|f| f.len() as u32 >= SLOT));
    }

    /// Block index of the block that is here.
    pub fn index(&self) -> [u32; 3] {
        self.block.index
    }

    /// The most bytes of asynchronous copies in flight since the block began, each warp by itself.
    pub fn most_in_flight(&self) -> u64 {
        self.block.copies.iter().map(|c| c.most_in_flight()).sum()
    }

    /// A turn for every warp that can run.
    ///
    /// # Safety
    /// The launch and the books are alive, and these are the program's.
    pub unsafe fn turn(&mut self, books: Books, launch: &LaunchState) -> Turn {
        self.used_up = false;
        let count = self.warps.len();
        let first = self
            .random
            .as_mut()
            .map_or(0, |r| r.next_u32() as usize % count);
        let mut ran = false;
        for k in 0..count {
            let at = if k < count - first {
                first + k
            } else {
                first + k - count
            };
            // A warp that has exited has nothing to run.
            if !self.warps[at].can_run() {
                continue;
            }
            let slice = match &mut self.random {
                Some(random) => {
                    // Some warps fall far behind, some run ahead; often at the grain of a few instructions.
                    let spread = random.next_u32() % 10;
                    1 + u64::from(random.next_u32() % (2 << spread))
                }
                None => PLAIN_SLICE,
            };
            let warp = &mut self.warps[at];
            warp.books = books;
            let (before, exited) = (warp.clock, warp.exited);
            // SAFETY: the caller's promise; block and registers live in `self`.
            let stop = unsafe { warp.run(slice) };
            ran = true;
            let spent = warp.clock - before;
            if !launch.spend(spent) {
                let trouble = Trouble {
                    kind: FaultKind::Budget,
                    message: "the launch ran past its instruction budget".into(),
                    lanes: warp.active,
                    pc: warp.pc,
                };
                return Turn::Fault(Box::new(trouble), at as u32);
            }
            let gone = (warp.exited & !exited).count_ones();
            self.live -= gone;
            // Nothing else completes a barrier.
            let mut completes = gone != 0;
            match stop {
                Stop::Yield => self.used_up |= spent == slice,
                Stop::Blocked => {}
                Stop::Exited => {
                    self.finished[at] = true;
                    self.left -= 1;
                }
                Stop::Barrier => {
                    completes = true;
                    if let Err(trouble) = self.arrived(at) {
                        return Turn::Fault(trouble, at as u32);
                    }
                }
                Stop::Fault(trouble) => return Turn::Fault(trouble, at as u32),
            }
            if completes {
                self.complete_barriers();
            }
        }
        if self.left == 0 {
            return Turn::Done;
        }
        if ran { Turn::Going } else { Turn::Stuck }
    }

    /// Makes the block one of a cluster of `warps` warps in all.
    pub fn join(
        &mut self,
        cluster: *mut cluster::Shared,
        rank: u32,
        first_warp: u32,
        warps: usize,
    ) {
        self.block.cluster = cluster;
        self.block.rank = rank;
        self.block.first_warp = first_warp;
        self.block.far = vec![FarAccess::default(); warps];
    }

    /// The block that its warps share.
    pub fn block(&mut self) -> *mut Block {
        &mut *self.block
    }

    /// What the block's warps share with the cluster's others.
    fn cluster(&mut self) -> &mut cluster::Shared {
        // SAFETY: the cluster outlives its blocks, and no handler runs.
        unsafe { &mut *self.block.cluster }
    }

    /// Whether every thread that has not exited has arrived at the cluster's barrier.
    pub fn all_arrived(&self) -> bool {
        self.warps
            .iter()
            .all(|w| w.threads & !w.exited & !w.cluster_arrived == 0)
    }

    /// The cluster's barrier has completed its phase.
    pub fn pass_cluster(&mut self) {
        for at in 0..self.warps.len() {
            if self.warps[at].pass_cluster() {
                let warp = self.block.first_warp as usize + at;
                self.cluster().order.pass_cluster(warp);
            }
        }
    }

    /// All threads have exited: the trouble that makes, and the warp it is laid to.
    pub fn leave(&mut self) -> Option<(Box<Trouble>, u32)> {
        for warp in &mut self.warps {
            if warp.finish_bulks().is_err()
                && let Stop::Fault(trouble) = std::mem::replace(&mut warp.stop, Stop::Yield)
            {
                return Some((trouble, warp.index));
            }
        }
        self.block.gone = true;
        let launch = self.warps[0].launch();
        if !launch.checks.has(Check::SharedRace) {
            return None;
        }
        let (first, count) = (self.block.first_warp as usize, self.warps.len());
        let far = self.block.far.clone();
        let order = &self.cluster().order;
        let unordered = far.iter().enumerate().find(|(warp, access)| {
            (first..first + count).all(|own| order.known(own, *warp) < access.tick)
        });
        let (warp, access) = unordered?;
        let last = &self.warps[count - 1];
        let trouble = Trouble {
            kind: FaultKind::Check(Check::SharedRace),
            message: format!(
                "the block exits, and its shared memory with it, while warp {} of block {} of the cluster accesses it \
                 (PTX line {}): no barrier of the cluster between them",
                warp % count,
                warp / count,
                access.line
            ),
            lanes: last.threads,
            pc: last.pc,
        };
        Some((Box::new(trouble), last.index))
    }

    /// Whom the cluster's barrier misses here.
    pub fn not_arrived(&self) -> Option<String> {
        let list: Vec<String> = self
            .warps
            .iter()
            .map(|w| (w, w.threads & !w.exited & !w.cluster_arrived))
            .filter(|(_, lanes)| *lanes != 0)
            .map(|(w, lanes)| {
                let place = self.whereabouts(w.index as usize, lanes);
                format!("warp {} ({place})", w.index)
            })
            .collect();
        (!list.is_empty()).then(|| list.join(", "))
    }

    /// The first fragment that waits in that state: its warp, lanes and instruction.
    pub fn first_waiting(&self, state: State) -> Option<(u32, u32, u32)> {
        self.warps.iter().find_map(|warp| {
            let waiting = warp.others.iter().find(|f| f.state == state)?;
            Some((warp.index, waiting.lanes, waiting.pc - 1))
        })
    }

    /// A warp has arrived at a barrier, as [`Warp::arrival`] says.
    fn arrived(&mut self, warp: usize) -> Result<(), Box<Trouble>> {
        let arrival = self.warps[warp].arrival;
        let barrier = &mut self.barriers[arrival.id as usize];
        if barrier.arrived == 0 {
            barrier.threads = arrival.threads;
        } else if barrier.threads != arrival.threads {
            return Err(Box::new(Trouble {
                kind: FaultKind::Check(Check::Barrier),
                message: format!(
                    "barrier {} is awaited by {} threads and by {} at once (0: all)",
                    arrival.id, barrier.threads, arrival.threads
                ),
                lanes: arrival.lanes,
                pc: arrival.pc,
            }));
        }
        // A count is in whole warps: a partial last warp counts as full.
        barrier.arrived += if arrival.threads == 0 {
            arrival.lanes.count_ones()
        } else {
            32
        };
        barrier.warps |= 1 << warp;
        if arrival.wait {
            barrier.waiting |= 1 << warp;
        }
        self.awaited |= 1 << arrival.id;
        if self.warps[warp].order_checked() {
            let number = self.block.first_warp as usize + warp;
            self.cluster().order.arrive(arrival.id as usize, number);
        }
        let barrier = &mut self.barriers[arrival.id as usize];
        if let Some(reduction) = arrival.reduction {
            barrier.popc += (reduction.bits & arrival.lanes).count_ones();
            barrier.voters += arrival.lanes.count_ones();
            barrier
                .destinations
                .push((warp as u32, reduction.slot, arrival.lanes, reduction.op));
        }
        Ok(())
    }

    fn complete_barriers(&mut self) {
        for id in bits(self.awaited) {
            let wanted = match self.barriers[id].threads {
                0 => self.live,
                threads => threads,
            };
            if self.barriers[id].arrived < wanted {
                continue;
            }
            let barrier = std::mem::take(&mut self.barriers[id]);
            self.awaited &= !(1 << id);
            for &(warp, slot, lanes, op) in &barrier.destinations {
                // SAFETY: the slot is the destination operand of an instruction of this program.
                unsafe { write_reduction(&self.warps[warp as usize], slot, lanes, op, &barrier) };
            }
            if self.warps[0].order_checked() {
                let wholly = bits(barrier.waiting)
                    .filter(|&w| self.warps[w].waits_wholly(id as u32))
                    .fold(0, |m, w| m | 1 << w);
                let rank = self.block.rank as usize;
                let order = &mut self.cluster().order;
                order.complete(rank, id, barrier.waiting, wholly);
            }
            for warp in bits(barrier.waiting) {
                self.warps[warp].release(id as u32);
            }
        }
    }

    /// What a lane or a barrier of the block waits for in vain, and the warp that waits.
    #[cold]
    pub fn deadlock(&self) -> Option<(Box<Trouble>, u32)> {
        for (at, warp) in self.warps.iter().enumerate() {
            for fragment in &warp.others {
                let State::Lanes(members) = fragment.state else {
                    continue;
                };
                let absent = members & !fragment.lanes;
                let opcode = &warp.program().info[fragment.pc as usize].opcode;
                let check = if opcode.starts_with("bar") && **opcode != *"bar.warp.sync" {
                    Check::Barrier
                } else {
                    Check::WarpSync
                };
                let trouble = Trouble {
                    kind: FaultKind::Check(check),
                    message: format!(
                        "`{opcode}` waits for lanes {absent:#010x} (of {members:#010x}), which never come: {}",
                        self.whereabouts(at, absent)
                    ),
                    lanes: fragment.lanes,
                    pc: fragment.pc,
                };
                return Some((Box::new(trouble), at as u32));
            }
        }
        for (at, warp) in self.warps.iter().enumerate() {
            for fragment in &warp.others {
                let State::Barrier(id) = fragment.state else {
                    continue;
                };
                let barrier = &self.barriers[id as usize];
                let missing: Vec<String> = (0..self.warps.len())
                    .filter(|&w| !self.finished[w] && barrier.warps >> w & 1 == 0)
                    .map(|w| format!("warp {w} ({})", self.whereabouts(w, u32::MAX)))
                    .collect();
                let trouble = Trouble {
                    kind: FaultKind::Check(Check::Barrier),
                    message: format!(
                        "barrier {id} has {} of {} threads and no warp can run; missing: {}",
                        barrier.arrived,
                        if barrier.threads == 0 {
                            "all".to_string()
                        } else {
                            barrier.threads.to_string()
                        },
                        if missing.is_empty() {
                            "threads that have exited".to_string()
                        } else {
                            missing.join(", ")
                        }
                    ),
                    lanes: fragment.lanes,
                    pc: fragment.pc - 1,
                };
                return Some((Box::new(trouble), at as u32));
            }
        }
        None
    }

    fn whereabouts(&self, warp: usize, lanes: u32) -> String {
        let warp = &self.warps[warp];
        let info = &warp.program().info;
        let mut places = Vec::new();
        if warp.exited & lanes != 0 {
            places.push(format!("lanes {:#010x} have exited", warp.exited & lanes));
        }
        for f in warp.others.iter().filter(|f| f.lanes & lanes != 0) {
            let pc = if f.state.is_behind() { f.pc - 1 } else { f.pc };
            places.push(format!(
                "lanes {:#010x} wait at PTX line {}",
                f.lanes & lanes,
                info[pc as usize].line
            ));
        }
        if places.is_empty() {
            "nowhere".into()
        } else {
            places.join("; ")
        }
    }

    /// Thread index of the first of `lanes` of a warp.
    pub fn thread(&self, warp: u32, lanes: u32, launch: &LaunchState) -> [u32; 3] {
        let lane = lanes.trailing_zeros().min(31);
        let linear = warp * 32 + lane;
        let [bx, by, _] = launch.config.block;
        [linear % bx, linear / bx % by, linear / bx / by]
    }
}

unsafe fn write_reduction(warp: &Warp, slot: u32, lanes: u32, op: ReduceOp, barrier: &Barrier) {
    use super::lanes::Lane;
    // SAFETY: the caller's promise.
    unsafe {
        let slot = warp.slot(slot);
        match op {
            ReduceOp::Popc => u32::store(slot, [barrier.popc; 32], lanes),
            ReduceOp::And => bool::store(slot, [barrier.popc == barrier.voters; 32], lanes),
            ReduceOp::Or => bool::store(slot, [barrier.popc != 0; 32], lanes),
        }
    }
}

/// Lanes that warp `index` has in a block of `threads`.
fn lanes_of(threads: u32, index: u32) -> u32 {
    match threads - index * 32 {
        32.. => u32::MAX,
        n => (1 << n) - 1,
    }
}

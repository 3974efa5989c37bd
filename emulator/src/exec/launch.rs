//! One launch of a kernel: blocks dispatched in order, run in turns that a seed draws, on all cores.

use super::block::Resident;
use super::cluster::{Cluster, ClusterTurn, FULL_TURN};
use super::module::Kernel;
use super::warp::Trouble;
use crate::check::{Check, Checks, Fault, FaultKind};
use crate::counters::Counters;
use crate::memory::{AddressSpace, Allocation, Owner, Snapshot};
use crate::profile::Profile;
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

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
    pub space: Arc<AddressSpace>,
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

/// What all warps of a launch share.
pub struct LaunchState {
    /// Grid and block.
    pub config: LaunchConfig,
    /// The parameter block.
    pub params: Vec<u8>,
    /// Allocations alive at the launch.
    pub memory: Snapshot,
    /// Names freed ranges.
    pub space: Arc<AddressSpace>,
    /// The device.
    pub profile: &'static Profile,
    /// Checks in force.
    pub checks: Checks,
    /// Order seed.
    pub seed: Option<u64>,
    /// Whether memory counters are kept.
    pub counters: bool,
    /// Number of the launch in the process.
    pub serial: u64,
    /// Output of `vprintf`.
    pub printed: Mutex<String>,
    /// Releases on global addresses, for the race check.
    pub places: super::race::GlobalPlaces,
    /// Where the blocks of a cooperative launch meet.
    workspace: Option<Arc<Allocation>>,
    /// Warp instructions left, where there is a limit; negative once spent.
    budget: Option<AtomicI64>,
}

impl LaunchState {
    /// Address of the grid's workspace; 0 where the blocks need not all be resident, so that they cannot meet.
    pub fn workspace(&self) -> u64 {
        self.workspace.as_ref().map_or(0, |w| w.address)
    }

    /// Warps of a block.
    pub fn block_warps(&self) -> usize {
        self.config.block.iter().product::<u32>().div_ceil(32) as usize
    }

    /// Number in the grid (x fastest) of the block with that rank in a cluster.
    pub fn block_of(&self, cluster: u64, rank: u32) -> u64 {
        let LaunchConfig {
            grid,
            cluster: size,
            ..
        } = self.config;
        let clusters: [u64; 3] = std::array::from_fn(|k| u64::from(grid[k] / size[k]));
        let first = spread(cluster, clusters);
        let inside = spread(u64::from(rank), size.map(u64::from));
        let at: [u64; 3] = std::array::from_fn(|k| first[k] * u64::from(size[k]) + inside[k]);
        at[0] + u64::from(grid[0]) * (at[1] + u64::from(grid[1]) * at[2])
    }

    /// The cluster of a block, and its rank there.
    pub fn cluster_of(&self, block: u64) -> (u64, u32) {
        let LaunchConfig {
            grid,
            cluster: size,
            ..
        } = self.config;
        if size == [1, 1, 1] {
            return (block, 0);
        }
        let at = spread(block, grid.map(u64::from));
        let number = |k: usize| at[k] / u64::from(size[k]);
        let clusters = |k: usize| u64::from(grid[k] / size[k]);
        let inside = |k: usize| (at[k] % u64::from(size[k])) as u32;
        (
            number(0) + clusters(0) * (number(1) + clusters(1) * number(2)),
            inside(0) + size[0] * (inside(1) + size[1] * inside(2)),
        )
    }

    /// Takes `instructions` off the budget. False when it is spent.
    pub fn spend(&self, instructions: u64) -> bool {
        let Some(budget) = &self.budget else {
            return true;
        };
        let instructions = i64::try_from(instructions).unwrap_or(i64::MAX);
        budget.fetch_sub(instructions, Ordering::Relaxed) >= instructions
    }
}

/// The index along each axis of number `at`, x fastest.
fn spread(at: u64, [x, y, _]: [u64; 3]) -> [u64; 3] {
    [at % x, at / x % y, at / x / y]
}

/// Clusters that a worker keeps in turns under a seed, so that blocks interleave.
const SEEDED_RESIDENTS: usize = 4;
/// Turns of a cluster after which, if it is still there, it may be waiting for one that has not begun: turns that ran
/// warps until their instructions were up. What is waited for that way is waited for in a loop.
const LONG_STAY: u64 = 8 * FULL_TURN;
/// Most clusters a worker takes on for that reason.
const MOST_RESIDENTS: usize = 1024;

/// Cores of the host, asked for once: the system has to read files to say.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

static LAUNCHES: AtomicU64 = AtomicU64::new(0);

/// Runs a kernel to its end or its first fault.
pub fn launch(kernel: &Kernel, config: &LaunchConfig, params: &[u8], env: &Environment) -> Outcome {
    let workspace = if config.cooperative && super::special::wants_workspace(&kernel.program) {
        begin_workspace(&env.space)
    } else {
        None
    };
    let state = LaunchState {
        config: *config,
        params: params.to_vec(),
        memory: workspace
            .as_ref()
            .map_or_else(|| env.memory.clone(), |w| env.memory.with(w)),
        workspace,
        space: env.space.clone(),
        profile: env.profile,
        checks: env.checks,
        seed: env.seed,
        counters: env.counters,
        serial: LAUNCHES.fetch_add(1, Ordering::Relaxed) + 1,
        printed: Mutex::new(String::new()),
        places: super::race::GlobalPlaces::default(),
        budget: env
            .budget
            .and_then(|b| i64::try_from(b).ok())
            .map(AtomicI64::new),
    };
    if state.checks.has(Check::GlobalRace) {
        let round = super::race::round(state.serial);
        state.memory.live.iter().for_each(|a| a.begin_races(round));
    }
    let blocks: u64 = config.grid.iter().map(|&g| u64::from(g)).product();
    let threads = match env.threads {
        0 => cores(),
        threads => threads,
    };
    let clusters = blocks
        / config
            .cluster
            .iter()
            .map(|&c| u64::from(c))
            .product::<u64>();
    let workers = threads
        .min(usize::try_from(clusters).unwrap_or(usize::MAX))
        .max(1);
    let job = Job {
        kernel,
        state: &state,
        next: AtomicU64::new(0),
        clusters,
        workers: workers as u64,
        abort: AtomicBool::new(false),
        fault: Mutex::new(None),
    };
    let mut counters = if workers == 1 {
        job.work(0)
    } else {
        let mut sums = Counters::new(kernel.program.insts.len(), env.counters);
        std::thread::scope(|scope| {
            let job = &job;
            let handles: Vec<_> = (0..workers as u64)
                .map(|w| scope.spawn(move || job.work(w)))
                .collect();
            for handle in handles {
                let part = handle.join();
                sums.add(&part.unwrap_or_else(|p| std::panic::resume_unwind(p)));
            }
        });
        sums
    };
    counters.blocks = blocks;
    counters.warps = blocks * u64::from(config.block.iter().product::<u32>().div_ceil(32));
    let fault = job.fault.into_inner().unwrap_or_else(|e| e.into_inner());
    if let Some(workspace) = &state.workspace {
        // Nobody else can have freed what nobody else was given.
        let _ = env.space.free(workspace.address);
    }
    let printed = state
        .printed
        .into_inner()
        .unwrap_or_else(|e| e.into_inner());
    Outcome {
        counters,
        fault,
        printed,
    }
}

/// Bytes of a grid's workspace: its size and the barrier of its blocks, of which the toolkit's headers know.
const WORKSPACE: [u32; 2] = [8, 0];

fn begin_workspace(space: &AddressSpace) -> Option<Arc<Allocation>> {
    let bytes: Vec<u8> = WORKSPACE.iter().flat_map(|w| w.to_le_bytes()).collect();
    let name = Some("workspace of the grid".into());
    let made = space
        .allocate(bytes.len() as u64, Owner::Device(0), name)
        .ok()?;
    space.write(made.address, &bytes).ok()?;
    Some(made)
}

struct Job<'a> {
    kernel: &'a Kernel,
    state: &'a LaunchState,
    next: AtomicU64,
    clusters: u64,
    workers: u64,
    abort: AtomicBool,
    fault: Mutex<Option<Fault>>,
}

impl Job<'_> {
    /// Runs clusters until none is left; the worker's counts.
    fn work(&self, worker: u64) -> Counters {
        let count = self.kernel.program.insts.len();
        let mut counters = Counters::new(count, self.state.counters);
        let books = counters.books();
        let program = &*self.kernel.program;
        let mut random = self
            .state
            .seed
            .map(|s| Xoshiro256PlusPlus::seed_from_u64(s.wrapping_add(worker)));
        let mut resident: Vec<Cluster> = Vec::new();
        let mut idle: Vec<Cluster> = Vec::new();
        let wanted = if self.state.config.cooperative {
            usize::MAX
        } else if self.state.seed.is_some() {
            SEEDED_RESIDENTS
        } else {
            1
        };
        let mut owned = worker;
        loop {
            // Those that stay may be waiting for one that has not begun: take on as many again.
            let stuck = resident.iter().all(|r| r.stay > LONG_STAY);
            let room = if stuck {
                (resident.len() * 2).min(MOST_RESIDENTS)
            } else {
                0
            };
            while resident.len() < wanted.max(room) {
                // All blocks of a cooperative launch are resident, dealt out evenly.
                let number = if self.state.config.cooperative {
                    let number = owned;
                    owned += self.workers;
                    number
                } else {
                    self.next.fetch_add(1, Ordering::Relaxed)
                };
                if number >= self.clusters {
                    break;
                }
                let mut place = idle
                    .pop()
                    .unwrap_or_else(|| Cluster::new(program, self.state));
                place.begin(number, self.state, program);
                resident.push(place);
            }
            if resident.is_empty() || self.abort.load(Ordering::Relaxed) {
                return counters;
            }
            let first = random
                .as_mut()
                .map_or(0, |r| r.next_u32() as usize % resident.len());
            let mut done = Vec::new();
            for k in 0..resident.len() {
                let at = if k < resident.len() - first {
                    first + k
                } else {
                    first + k - resident.len()
                };
                // SAFETY: the books are the program's, and like the launch outlive the blocks.
                match unsafe { resident[at].turn(books, self.state) } {
                    ClusterTurn::Going => {}
                    ClusterTurn::Done => done.push(at),
                    ClusterTurn::Fault(trouble, rank, warp) => {
                        self.report(resident[at].block(rank), *trouble, warp);
                        return counters;
                    }
                }
            }
            done.sort_unstable();
            for at in done.into_iter().rev() {
                let place = resident.swap_remove(at);
                counters.block_bytes_in_flight =
                    counters.block_bytes_in_flight.max(place.most_in_flight());
                idle.push(place);
            }
        }
    }

    fn report(&self, place: &Resident, trouble: Trouble, warp: u32) {
        self.abort.store(true, Ordering::Relaxed);
        let program = &*self.kernel.program;
        let info = &program.info[(trouble.pc as usize).min(program.info.len() - 1)];
        let mut sources = program.sources(trouble.pc as usize).into_iter();
        let fault = Fault {
            kind: trouble.kind,
            message: trouble.message,
            kernel: self.kernel.name.clone(),
            block: place.index(),
            thread: place.thread(warp, trouble.lanes, self.state),
            lanes: trouble.lanes,
            ptx_line: info.line,
            instruction: info.text.clone(),
            source: sources.next(),
            inlined: sources.collect(),
        };
        let mut slot = self.fault.lock().unwrap_or_else(|e| e.into_inner());
        slot.get_or_insert(fault);
    }
}

/// Whether a fault of this kind is an access outside memory, for the driver's error codes.
pub fn is_address_fault(kind: FaultKind) -> bool {
    matches!(kind, FaultKind::Check(Check::Bounds | Check::UseAfterFree))
}

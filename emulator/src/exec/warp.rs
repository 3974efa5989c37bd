//! A warp: its registers, its threads' program counters, and the loop that runs it.
//!
//! Threads of a warp that are at the same place form a *fragment*. One fragment runs; the others wait in
//! [`Warp::others`]. Of those that can run, the one that is deepest in calls and earliest in the program
//! goes first, so that fragments meet again where their paths join. A fragment that spins while others
//! could run is set back after a while, so a lane can wait for another of its warp.

mod fragment;
mod meeting;

use super::block::Block;
use super::launch::LaunchState;
use super::program::{Flow, Inst, Program};
use crate::check::{Check, FaultKind};
use crate::counters::{Books, IssueCounts};

/// Why a warp left its loop.
#[derive(Debug)]
pub enum Stop {
    /// Its slice is over, or it asked to let others run.
    Yield,
    /// No fragment can go on until something else happens in the block.
    Blocked,
    /// A fragment arrived at a barrier: see [`Warp::arrival`].
    Barrier,
    /// All threads have exited.
    Exited,
    /// A fault.
    Fault(Box<Trouble>),
}

/// A fault before it is dressed with names.
#[derive(Debug)]
pub struct Trouble {
    /// What kind.
    pub kind: FaultKind,
    /// What happened.
    pub message: String,
    /// Lanes concerned.
    pub lanes: u32,
    /// The instruction.
    pub pc: u32,
}

/// What a `bar`/`barrier` instruction asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct BarrierArrival {
    /// Barrier 0 to 15.
    pub id: u32,
    /// Threads that complete it; 0 for all of the block.
    pub threads: u32,
    /// Lanes that arrive.
    pub lanes: u32,
    /// Whether they wait for completion.
    pub wait: bool,
    /// For `.red`: the operation, this arrival's predicate bits, and where the result goes.
    pub reduction: Option<Reduction>,
    /// The instruction.
    pub pc: u32,
}

/// `bar.red` in flight.
#[derive(Debug, Clone, Copy)]
pub struct Reduction {
    /// Which.
    pub op: ReduceOp,
    /// Lanes whose predicate is true.
    pub bits: u32,
    /// Destination slot.
    pub slot: u32,
}

/// Operation of `bar.red`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Number of threads with a true predicate.
    Popc,
    /// Whether all are true.
    And,
    /// Whether any is true.
    Or,
}

/// What a waiting fragment waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing: it can run.
    Ready,
    /// Completion of a barrier of the block; then it goes on at its program counter.
    Barrier(u32),
    /// The phase of the cluster's barrier that it has arrived for; then it goes on at its program counter.
    Cluster,
    /// Other lanes of the warp to arrive at the same instruction.
    Lanes(u32),
}

impl State {
    /// Whether the fragment has the instruction that it waits at behind it, and nobody may join it there.
    pub fn is_behind(self) -> bool {
        matches!(self, State::Barrier(_) | State::Cluster)
    }
}

/// Threads of a warp at one place.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// Next instruction.
    pub pc: u32,
    /// The threads.
    pub lanes: u32,
    /// Return addresses, outermost first.
    pub calls: Vec<Call>,
    /// Offset of the current frame in local memory.
    pub frame: u32,
    /// Whether it can run.
    pub state: State,
}

/// A call in progress.
#[derive(Debug, Clone)]
pub struct Call {
    /// Where to go on.
    pub return_pc: u32,
    /// The caller's frame.
    pub frame: u32,
    /// The `call` instruction.
    pub call_pc: u32,
    /// Function called.
    pub callee: u32,
    /// The callee's registers before the call, where it may already be active.
    pub saved: Option<std::rc::Rc<Vec<u8>>>,
}

impl PartialEq for Call {
    fn eq(&self, other: &Call) -> bool {
        self.return_pc == other.return_pc && self.frame == other.frame
    }
}

/// Deepest chain of calls.
pub const MAX_CALLS: usize = 512;

/// A warp in execution.
pub struct Warp {
    /// First byte of the register file.
    pub regs: *mut u8,
    /// Program counter of the running fragment.
    pub pc: u32,
    /// Threads of the running fragment.
    pub active: u32,
    /// Threads that the warp has (the last warp of a block may be partial).
    pub threads: u32,
    /// Threads that have exited.
    pub exited: u32,
    /// Frame of the running fragment in local memory.
    pub frame: u32,
    /// Where what each thread took of its stack ends in local memory; 0 where it took nothing.
    pub stack: [u32; 32],
    /// Calls of the running fragment.
    pub calls: Vec<Call>,
    /// The other fragments.
    pub others: Vec<Fragment>,
    /// Place of the nearest waiting fragment: the loop looks up when it gets there.
    next_stop: u64,
    spins: u32,
    patience: u32,
    turn: u32,
    /// Index in the block.
    pub index: u32,
    /// Set with [`Flow::Stop`].
    pub stop: Stop,
    /// Set with [`Stop::Barrier`].
    pub arrival: BarrierArrival,
    /// The program.
    pub program: *const Program,
    /// Where it counts what it does, by program counter.
    pub books: Books,
    /// The block.
    pub block: *mut Block,
    /// The launch.
    pub launch: *const LaunchState,
    /// Per-thread local memory, thread after thread.
    pub local: super::local::LocalMemory,
    /// Where global accesses went last.
    pub recent: super::access::RecentAllocations,
    /// Places of lanes that have to be reached one by one: see [`super::access::Reach`].
    pub apart: super::access::Pointers,
    /// Warp instructions run, for clocks.
    pub clock: u64,
    /// Carry flag of each lane.
    pub carry: u32,
    /// Threads that have arrived at the cluster's barrier in its present phase.
    pub cluster_arrived: u32,
    /// Threads that arrived in the phase before, which is complete, and have not waited yet.
    pub cluster_passed: u32,
    /// Values from memory that nothing had written.
    pub doubts: super::doubt::Doubts,
    /// Whether accesses to memory are counted, or checked for more than that they are inside and aligned.
    pub watched: bool,
}

impl Warp {
    /// A warp at the start of its kernel.
    pub fn new(program: *const Program, launch: &LaunchState, index: u32, threads: u32) -> Warp {
        const WATCHING: [Check; 4] = [
            Check::UninitMemory,
            Check::SharedRace,
            Check::GlobalRace,
            Check::AsyncCopy,
        ];
        Warp {
            watched: launch.counters || WATCHING.iter().any(|&c| launch.checks.has(c)),
            regs: std::ptr::null_mut(),
            pc: 0,
            active: threads,
            threads,
            exited: 0,
            frame: 0,
            stack: [0; 32],
            calls: Vec::new(),
            others: Vec::new(),
            next_stop: u64::MAX,
            spins: 0,
            patience: fragment::PATIENCE,
            turn: 0,
            index,
            stop: Stop::Yield,
            arrival: BarrierArrival::default(),
            program,
            books: Books {
                issues: std::ptr::null_mut(),
                memory: std::ptr::null_mut(),
                touched: std::ptr::null_mut(),
            },
            block: std::ptr::null_mut(),
            launch,
            local: super::local::LocalMemory::default(),
            recent: super::access::RecentAllocations::default(),
            apart: [std::ptr::null_mut(); 32],
            clock: 0,
            carry: 0,
            cluster_arrived: 0,
            cluster_passed: 0,
            doubts: super::doubt::Doubts::default(),
        }
    }

    /// Back to the start, for the next block.
    pub fn restart(&mut self, threads: u32) {
        self.pc = 0;
        self.active = threads;
        self.threads = threads;
        self.exited = 0;
        self.frame = 0;
        self.stack = [0; 32];
        self.calls.clear();
        self.others.clear();
        self.next_stop = u64::MAX;
        self.spins = 0;
        self.patience = fragment::PATIENCE;
        self.turn = 0;
        self.carry = 0;
        self.cluster_arrived = 0;
        self.cluster_passed = 0;
        self.doubts.clear();
        self.local.forget();
    }

    /// The launch this warp belongs to.
    #[inline(always)]
    pub fn launch(&self) -> &LaunchState {
        // SAFETY: the launch outlives its warps.
        unsafe { &*self.launch }
    }

    /// The program.
    #[inline(always)]
    pub fn program(&self) -> &'static Program {
        // SAFETY: the program outlives the launch; the reference never leaves it.
        unsafe { &*self.program }
    }

    /// The block, for the time of one handler.
    ///
    /// # Safety
    /// No other reference to the block is alive.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // the block is reached by pointer from all its warps, one at a time
    pub unsafe fn block(&self) -> &mut Block {
        // SAFETY: the block outlives the warp's run; the caller promises that the reference is alone.
        unsafe { &mut *self.block }
    }

    /// Runs until the slice is over or something stops the warp.
    ///
    /// # Safety
    /// Registers, block, launch, program and books are those of one live launch.
    pub unsafe fn run(&mut self, slice: u64) -> Stop {
        if self.active == 0 && !self.pick() {
            return if self.others.is_empty() {
                Stop::Exited
            } else {
                Stop::Blocked
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            if self.doubts.is_empty() {
                #[cfg(target_arch = "x86_64")]
                if super::lanes::wide() {
                    return self.run_wide(slice);
                }
                self.run_on::<false>(slice)
            } else {
                self.begin_doubts();
                self.run_on::<true>(slice)
            }
        }
    }

    /// [`Warp::run`] without doubtful values, where the processor counts bits.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn run_wide(&mut self, slice: u64) -> Stop {
        // SAFETY: the caller's promise.
        unsafe { self.run_on::<false>(slice) }
    }

    /// [`Warp::run`], following doubtful values or not.
    #[inline(always)]
    unsafe fn run_on<const DOUBTING: bool>(&mut self, slice: u64) -> Stop {
        let insts = self.program().insts.as_ptr();
        let issues = self.books.issues;
        let mut left = slice;
        let depth_key = |calls: usize| ((MAX_CALLS - calls) as u64) << 32;
        let mut key = depth_key(self.calls.len());
        // The program counter, which handlers read and may set in `self`.
        let mut pc = self.pc;
        loop {
            // SAFETY: the program counter stays inside the program: it ends in an exit that nothing jumps over.
            let inst = unsafe { &*insts.add(pc as usize) };
            // SAFETY: the guard slot lies in the register file; the books are as long as the program.
            let mask = unsafe {
                let guard = *self.regs.add(inst.guard as usize).cast::<u32>() ^ inst.guard_xor;
                let mask = self.active & guard;
                (*issues.add(pc as usize)).count(mask);
                mask
            };
            self.clock += 1;
            left -= 1;
            let inherited = if DOUBTING {
                match self.weigh_doubts(inst, mask) {
                    Ok(inherited) => inherited,
                    Err(trouble) => return Stop::Fault(trouble),
                }
            } else {
                (0, 0)
            };
            let mut flow = Flow::Next;
            if mask != 0 {
                // SAFETY: the handler's contract is this function's.
                flow = unsafe { (inst.run)(self, inst, mask) };
                if DOUBTING && (flow == Flow::Next || matches!(self.stop, Stop::Yield)) {
                    self.spread_doubts(pc, mask, inherited);
                }
            }
            match flow {
                Flow::Next => {
                    pc += 1;
                    self.pc = pc;
                }
                Flow::Jump => {
                    if !self.others.is_empty() && !self.arrange() {
                        return Stop::Blocked;
                    }
                    if self.active == 0 {
                        return if self.others.is_empty() {
                            Stop::Exited
                        } else {
                            Stop::Blocked
                        };
                    }
                    key = depth_key(self.calls.len());
                    pc = self.pc;
                }
                Flow::Stop => return std::mem::replace(&mut self.stop, Stop::Yield),
            }
            if key | u64::from(pc) >= self.next_stop {
                self.arrange();
                key = depth_key(self.calls.len());
                pc = self.pc;
            }
            if left == 0 {
                return Stop::Yield;
            }
        }
    }

    /// Rank of the block in its cluster.
    pub fn rank(&self) -> u32 {
        // SAFETY: the block is alive while its warps are.
        unsafe { (*self.block).rank }
    }

    /// Blocks of the cluster.
    pub fn cluster_size(&self) -> u32 {
        self.launch().config.cluster.iter().product()
    }

    /// Stops with a fault of the current instruction.
    #[cold]
    pub fn fault(&mut self, kind: FaultKind, lanes: u32, message: String) -> Flow {
        self.stop = Stop::Fault(Box::new(Trouble {
            kind,
            message,
            lanes,
            pc: self.pc,
        }));
        Flow::Stop
    }

    /// A fault of a check.
    #[cold]
    pub fn violation(&mut self, check: Check, lanes: u32, message: String) -> Flow {
        self.fault(FaultKind::Check(check), lanes, message)
    }

    /// How often an instruction was issued.
    #[inline(always)]
    pub(super) fn issues(&mut self, pc: u32) -> &mut IssueCounts {
        // SAFETY: the books are as long as the program.
        unsafe { &mut *self.books.issues.add(pc as usize) }
    }

    /// A pointer to a register slot.
    ///
    /// # Safety
    /// The offset is that of a slot of this program.
    #[inline(always)]
    pub unsafe fn slot(&self, offset: u32) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.regs.add(offset as usize) }
    }

    /// A pointer to a lane of a register slot whose lanes have `width` bytes.
    #[inline(always)]
    pub fn slot_lane(&self, offset: u32, lane: usize, width: usize) -> *mut u8 {
        self.regs.wrapping_add(offset as usize + lane * width)
    }

    /// Operands of an instruction beyond its own fields.
    #[inline(always)]
    pub fn extra(&self, inst: &Inst, index: usize) -> u32 {
        self.program().extra[inst.extra as usize + index]
    }
}

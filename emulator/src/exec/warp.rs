//! A warp: its registers, its threads' program counters, and the loop that runs it.
//!
//! Threads of a warp that are at the same place form a *fragment*. One fragment runs; the others wait in
//! [`Warp::others`]. Of those that can run, the one that is deepest in calls and earliest in the program
//! goes first, so that fragments meet again where their paths join. A fragment that spins while others
//! could run is set back after a while, so a lane can wait for another of its warp.

use super::block::Block;
use super::launch::LaunchState;
use super::program::{Flow, Inst, Program};
use crate::check::{Check, FaultKind};
use crate::counters::{InstructionCounts, Touched};

/// Why a warp left its loop.
#[derive(Debug)]
pub enum Stop {
    /// Its slice is over, or it asked to let others run.
    Yield,
    /// No fragment can go on until something else happens in the block.
    Blocked,
    /// A fragment arrived at a barrier.
    Barrier(BarrierArrival),
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
#[derive(Debug, Clone, Copy)]
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

/// Jumps a fragment may make while others could run, before they are let through; half as many each time that it
/// was in vain, down to [`LEAST_PATIENCE`].
const PATIENCE: u32 = 2048;
const LEAST_PATIENCE: u32 = 32;
/// Jumps for which a fragment that was let through keeps its turn.
const TURN: u32 = 64;
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
    /// The program.
    pub program: *const Program,
    /// Counts by program counter.
    pub counts: *mut InstructionCounts,
    /// Sectors of global memory that the worker's blocks touch.
    pub touched: *mut Touched,
    /// The block.
    pub block: *mut Block,
    /// The launch.
    pub launch: *const LaunchState,
    /// Per-thread local memory, thread after thread.
    pub local: super::local::LocalMemory,
    /// Where global accesses went last.
    pub cached: super::access::CachedAllocation,
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
}

impl Warp {
    /// A warp at the start of its kernel.
    pub fn new(
        program: *const Program,
        launch: *const LaunchState,
        index: u32,
        threads: u32,
    ) -> Warp {
        Warp {
            regs: std::ptr::null_mut(),
            pc: 0,
            active: threads,
            threads,
            exited: 0,
            frame: 0,
            calls: Vec::new(),
            others: Vec::new(),
            next_stop: u64::MAX,
            spins: 0,
            patience: PATIENCE,
            turn: 0,
            index,
            stop: Stop::Yield,
            program,
            counts: std::ptr::null_mut(),
            touched: std::ptr::null_mut(),
            block: std::ptr::null_mut(),
            launch,
            local: super::local::LocalMemory::default(),
            cached: super::access::CachedAllocation::default(),
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
        self.calls.clear();
        self.others.clear();
        self.next_stop = u64::MAX;
        self.spins = 0;
        self.patience = PATIENCE;
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
    /// Registers, block, launch, program and counts are those of one live launch.
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
                self.run_on::<false>(slice)
            } else {
                self.begin_doubts();
                self.run_on::<true>(slice)
            }
        }
    }

    /// [`Warp::run`], following doubtful values or not.
    unsafe fn run_on<const DOUBTING: bool>(&mut self, slice: u64) -> Stop {
        let insts = self.program().insts.as_ptr();
        let mut left = slice;
        let depth_key = |calls: usize| ((MAX_CALLS - calls) as u64) << 32;
        let mut key = depth_key(self.calls.len());
        loop {
            // SAFETY: the program counter stays inside the program: it ends in an exit that nothing jumps over.
            let inst = unsafe { &*insts.add(self.pc as usize) };
            // SAFETY: the guard slot lies in the register file; counts are as long as the program.
            let mask = unsafe {
                let guard = *self.regs.add(inst.guard as usize).cast::<u32>() ^ inst.guard_xor;
                let mask = self.active & guard;
                let count = &mut *self.counts.add(self.pc as usize);
                count.issued += 1;
                count.lanes += u64::from(mask.count_ones());
                mask
            };
            self.clock += 1;
            left -= 1;
            let inherited = if DOUBTING {
                match self.weigh_doubts(inst, mask) {
                    Ok(inherited) => Some((self.pc, inherited)),
                    Err(trouble) => return Stop::Fault(trouble),
                }
            } else {
                None
            };
            if mask != 0 {
                // SAFETY: the handler's contract is this function's.
                let flow = unsafe { (inst.run)(self, inst, mask) };
                if let Some((pc, inherited)) = inherited
                    && (flow == Flow::Next || matches!(self.stop, Stop::Yield))
                {
                    self.spread_doubts(pc, mask, inherited);
                }
                match flow {
                    Flow::Next => self.pc += 1,
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
                    }
                    Flow::Stop => return std::mem::replace(&mut self.stop, Stop::Yield),
                }
            } else {
                self.pc += 1;
            }
            if key | u64::from(self.pc) >= self.next_stop {
                self.arrange();
                key = depth_key(self.calls.len());
            }
            if left == 0 {
                return Stop::Yield;
            }
        }
    }

    fn key(pc: u32, calls: usize) -> u64 {
        ((MAX_CALLS - calls) as u64) << 32 | u64::from(pc)
    }

    /// Joins fragments at the same place, and runs the one whose turn it is. False where none can run.
    fn arrange(&mut self) -> bool {
        if self.active == 0 {
            return self.others.is_empty() || self.pick();
        }
        self.join();
        let here = Self::key(self.pc, self.calls.len());
        if self.others.iter().any(|f| f.state == State::Ready) {
            self.spins += 1;
            if self.turn > 0 {
                self.turn -= 1;
            } else if self.spins > self.patience {
                // The running fragment may be waiting for one of the others.
                self.patience = (self.patience / 2).max(LEAST_PATIENCE);
                self.let_through();
            } else {
                let first = (0..self.others.len())
                    .filter(|&k| self.others[k].state == State::Ready)
                    .min_by_key(|&k| Self::key(self.others[k].pc, self.others[k].calls.len()));
                if let Some(at) = first
                    && Self::key(self.others[at].pc, self.others[at].calls.len()) < here
                {
                    self.swap(at);
                    self.join();
                }
            }
        }
        self.find_next_stop();
        true
    }

    /// Lets the fragment through that has waited longest, for a while.
    pub fn let_through(&mut self) {
        let Some(at) = self.others.iter().position(|f| f.state == State::Ready) else {
            return;
        };
        self.spins = 0;
        self.turn = TURN;
        let next = self.others.remove(at);
        let current = self.take_current(State::Ready);
        self.others.push(current);
        self.resume(next);
        self.join();
        self.find_next_stop();
    }

    fn find_next_stop(&mut self) {
        let here = Self::key(self.pc, self.calls.len());
        self.next_stop = self
            .others
            .iter()
            .filter(|f| !f.state.is_behind())
            .map(|f| Self::key(f.pc, f.calls.len()))
            .filter(|&key| key > here)
            .min()
            .unwrap_or(u64::MAX);
    }

    /// Takes in every fragment that stands where the running one does.
    fn join(&mut self) {
        let mut k = 0;
        while k < self.others.len() {
            let other = &self.others[k];
            if other.pc == self.pc
                && !other.state.is_behind()
                && other.frame == self.frame
                && other.calls == self.calls
            {
                self.active |= other.lanes;
                self.merge_saved(k);
                self.others.swap_remove(k);
            } else {
                k += 1;
            }
        }
    }

    /// Registers saved at recursive calls are per lane: a joined fragment brings its own lanes' values.
    fn merge_saved(&mut self, k: usize) {
        let lanes = self.others[k].lanes;
        for level in 0..self.calls.len() {
            let program = self.program();
            let Some(theirs) = self.others[k].calls[level].saved.clone() else {
                continue;
            };
            let call = &mut self.calls[level];
            let Some(mine) = &call.saved else { continue };
            let mut merged = mine.as_ref().clone();
            super::call::blend_slots(program, call.callee as usize, &mut merged, &theirs, lanes);
            call.saved = Some(std::rc::Rc::new(merged));
        }
    }

    fn swap(&mut self, at: usize) {
        let current = self.take_current(State::Ready);
        let next = std::mem::replace(&mut self.others[at], current);
        self.resume(next);
    }

    fn take_current(&mut self, state: State) -> Fragment {
        Fragment {
            pc: self.pc,
            lanes: std::mem::take(&mut self.active),
            calls: std::mem::take(&mut self.calls),
            frame: self.frame,
            state,
        }
    }

    fn resume(&mut self, fragment: Fragment) {
        self.pc = fragment.pc;
        self.active = fragment.lanes;
        self.calls = fragment.calls;
        self.frame = fragment.frame;
    }

    /// Makes a waiting fragment the running one. False where none is ready.
    fn pick(&mut self) -> bool {
        debug_assert_eq!(self.active, 0);
        let first = (0..self.others.len())
            .filter(|&k| self.others[k].state == State::Ready)
            .min_by_key(|&k| Self::key(self.others[k].pc, self.others[k].calls.len()));
        let Some(at) = first else {
            self.next_stop = u64::MAX;
            return false;
        };
        let next = self.others.swap_remove(at);
        self.resume(next);
        self.join();
        self.find_next_stop();
        true
    }

    /// Sends the lanes of `taken` to `target` and the rest on. For branch handlers.
    #[inline(always)]
    pub fn branch(&mut self, taken: u32, target: u32) -> Flow {
        if taken == self.active {
            self.pc = target;
            return Flow::Jump;
        }
        self.split(taken, target);
        Flow::Jump
    }

    #[cold]
    fn split(&mut self, taken: u32, target: u32) {
        let rest = self.active & !taken;
        self.others.push(Fragment {
            pc: target,
            lanes: taken,
            calls: self.calls.clone(),
            frame: self.frame,
            state: State::Ready,
        });
        self.active = rest;
        self.pc += 1;
    }

    /// Splits off `lanes` (not all) to go on at `pc`, the running fragment keeping the rest where it is.
    pub fn split_off(&mut self, lanes: u32, pc: u32) {
        debug_assert!(lanes != self.active);
        self.others.push(Fragment {
            pc,
            lanes,
            calls: self.calls.clone(),
            frame: self.frame,
            state: State::Ready,
        });
        self.active &= !lanes;
    }

    /// The running fragment's `lanes` are gone for good.
    pub fn exit(&mut self, lanes: u32) -> Flow {
        self.exited |= lanes;
        self.active &= !lanes;
        if self.active != 0 {
            return Flow::Next;
        }
        self.calls.clear();
        // With no lanes left, `arrange` picks another fragment, or the loop ends.
        if self.others.is_empty() || self.pick() {
            return Flow::Jump;
        }
        self.stop = Stop::Blocked;
        Flow::Stop
    }

    /// Leaves the loop with `lanes` (all of the running fragment) waiting at a barrier of the block.
    pub fn arrive(&mut self, arrival: BarrierArrival) -> Flow {
        self.pc += 1;
        if arrival.wait {
            let fragment = self.take_current(State::Barrier(arrival.id));
            self.others.push(fragment);
            self.pick();
        }
        self.stop = Stop::Barrier(arrival);
        Flow::Stop
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

    /// `lanes` arrive at the cluster's barrier.
    pub fn arrive_at_cluster(&mut self, lanes: u32, release: bool) {
        self.cluster_arrived |= lanes;
        let me = self.order_index();
        // SAFETY: the cluster is alive while its warps are, and no other reference to it is.
        let shared = unsafe { &mut *(*self.block).cluster };
        shared.arrived = true;
        shared.order.arrive_cluster(me, release);
    }

    /// Lanes have waited for a phase of the cluster's barrier that was complete.
    pub fn passed_cluster(&mut self) {
        let me = self.order_index();
        // SAFETY: no other reference to the order is alive.
        unsafe { self.order() }.pass_cluster(me);
    }

    /// Parks `lanes` of the running fragment behind this instruction until the cluster's barrier completes; others
    /// go on, if there are any.
    pub fn wait_for_cluster(&mut self, lanes: u32) -> Flow {
        if lanes != self.active {
            self.split_off(self.active & !lanes, self.pc + 1);
        }
        self.pc += 1;
        let fragment = self.take_current(State::Cluster);
        self.others.push(fragment);
        if self.pick() {
            return Flow::Jump;
        }
        self.stop = Stop::Blocked;
        Flow::Stop
    }

    /// The phase that its threads have arrived for is complete. Whether any waited.
    pub fn pass_cluster(&mut self) -> bool {
        self.cluster_passed |= std::mem::take(&mut self.cluster_arrived);
        let waiting = (self.others.iter())
            .filter(|f| f.state == State::Cluster)
            .fold(0, |m, f| m | f.lanes);
        self.cluster_passed &= !waiting;
        self.release_from(State::Cluster);
        waiting != 0
    }

    /// Lets the fragments that wait at barrier `id` go on.
    pub fn release(&mut self, id: u32) {
        self.release_from(State::Barrier(id));
    }

    fn release_from(&mut self, state: State) {
        for fragment in &mut self.others {
            if fragment.state == state {
                fragment.state = State::Ready;
            }
        }
        if self.active != 0 {
            self.find_next_stop();
        }
    }

    /// Whether a fragment can run.
    pub fn can_run(&self) -> bool {
        self.active != 0 || self.others.iter().any(|f| f.state == State::Ready)
    }

    /// For collectives: `None` where all of `members` that have not exited are here (`mask` executes);
    /// otherwise the running fragment waits for them and the warp does something else.
    #[inline(always)]
    pub fn gather(&mut self, mask: u32, members: u32) -> Option<Flow> {
        if members & !mask & !self.exited & self.threads == 0 {
            return None;
        }
        Some(self.wait_for_lanes(mask, members))
    }

    #[cold]
    fn wait_for_lanes(&mut self, mask: u32, members: u32) -> Flow {
        // Guarded off, the missing lanes of the running fragment will not come back here.
        let guarded_off = members & self.active & !mask;
        if guarded_off != 0 {
            return self.fault(
                FaultKind::Check(Check::WarpSync),
                guarded_off,
                format!("lanes {guarded_off:#010x} are named in the mask {members:#010x} but predicated off"),
            );
        }
        // It did not issue after all: it will when the lanes are together.
        // SAFETY: counts are as long as the program.
        let count = unsafe { &mut *self.counts.add(self.pc as usize) };
        count.issued -= 1;
        count.lanes -= u64::from(mask.count_ones());
        let fragment = self.take_current(State::Lanes(members));
        self.others.push(fragment);
        self.release_syncwarps();
        if self.pick() {
            return Flow::Jump;
        }
        self.stop = Stop::Blocked;
        Flow::Stop
    }

    /// `bar.warp.sync` moves no data, so lanes may meet at different ones of it.
    fn release_syncwarps(&mut self) {
        let program = self.program();
        let is_sync = |f: &Fragment| program.info[f.pc as usize].opcode == "bar.warp.sync";
        let mut here = 0;
        for f in self.others.iter().filter(|f| is_sync(f)) {
            if matches!(f.state, State::Lanes(_)) {
                here |= f.lanes;
            }
        }
        let gone = self.exited | !self.threads;
        for f in &mut self.others {
            if let State::Lanes(members) = f.state
                && is_sync(f)
                && members & !here & !gone == 0
            {
                // SAFETY: counts are as long as the program.
                let count = unsafe { &mut *self.counts.add(f.pc as usize) };
                count.issued += 1;
                count.lanes += u64::from(f.lanes.count_ones());
                f.state = State::Ready;
                f.pc += 1;
            }
        }
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

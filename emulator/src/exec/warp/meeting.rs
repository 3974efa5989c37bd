//! Waiting for others: at barriers of the block and of the cluster, and for lanes of the same warp.

use super::{BarrierArrival, Fragment, State, Stop, Warp};
use crate::check::{Check, FaultKind};
use crate::exec::program::Flow;

impl Warp {
    /// Leaves the loop with `lanes` (all of the running fragment) waiting at a barrier of the block.
    pub fn arrive(&mut self, arrival: BarrierArrival) -> Flow {
        self.pc += 1;
        if arrival.wait {
            let alone = self.others.is_empty();
            let fragment = self.take_current(State::Barrier(arrival.id));
            self.others.push(fragment);
            if alone {
                self.none_to_meet();
            } else {
                self.pick();
            }
        }
        self.arrival = arrival;
        self.stop = Stop::Barrier;
        Flow::Stop
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

    /// Whether all threads that have not exited wait at barrier `id`.
    pub fn waits_wholly(&self, id: u32) -> bool {
        let waiting = (self.others.iter())
            .filter(|f| f.state == State::Barrier(id))
            .fold(0, |lanes, f| lanes | f.lanes);
        self.threads & !self.exited & !waiting == 0
    }

    /// Lets the fragments that wait at barrier `id` go on.
    pub fn release(&mut self, id: u32) {
        self.release_from(State::Barrier(id));
    }

    pub(super) fn release_from(&mut self, state: State) {
        for fragment in &mut self.others {
            if fragment.state == state {
                fragment.state = State::Ready;
            }
        }
        if self.active != 0 {
            self.find_next_stop();
        }
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
    pub(super) fn wait_for_lanes(&mut self, mask: u32, members: u32) -> Flow {
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
        self.issues(self.pc).take_back(mask);
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
    pub(super) fn release_syncwarps(&mut self) {
        let program = self.program();
        let is_sync = |f: &Fragment| *program.info[f.pc as usize].opcode == *"bar.warp.sync";
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
                // SAFETY: the books are as long as the program.
                unsafe { (*self.books.issues.add(f.pc as usize)).count(f.lanes) };
                f.state = State::Ready;
                f.pc += 1;
            }
        }
    }
}

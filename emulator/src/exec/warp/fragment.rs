//! Which of a warp's fragments runs, and where they part and meet.

use super::{Fragment, MAX_CALLS, State, Stop, Warp};
use crate::exec::program::Flow;

/// Jumps a fragment may make while others could run, before they are let through; half as many each time that it
/// was in vain, down to [`LEAST_PATIENCE`].
pub(super) const PATIENCE: u32 = 2048;
const LEAST_PATIENCE: u32 = 32;
/// Jumps for which a fragment that was let through keeps its turn.
const TURN: u32 = 64;

impl Warp {
    pub(super) fn key(pc: u32, calls: usize) -> u64 {
        ((MAX_CALLS - calls) as u64) << 32 | u64::from(pc)
    }

    /// Joins fragments at the same place, and runs the one whose turn it is. False where none can run.
    pub(super) fn arrange(&mut self) -> bool {
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

    pub(super) fn find_next_stop(&mut self) {
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

    /// There is no other fragment that the running one could come to.
    pub(super) fn none_to_meet(&mut self) {
        self.next_stop = u64::MAX;
    }

    /// Takes in every fragment that stands where the running one does.
    pub(super) fn join(&mut self) {
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
    pub(super) fn merge_saved(&mut self, k: usize) {
        let lanes = self.others[k].lanes;
        for level in 0..self.calls.len() {
            let program = self.program();
            let Some(theirs) = self.others[k].calls[level].saved.clone() else {
                continue;
            };
            let call = &mut self.calls[level];
            let Some(mine) = &call.saved else { continue };
            let mut merged = mine.as_ref().clone();
            crate::exec::call::blend_slots(
                program,
                call.callee as usize,
                &mut merged,
                &theirs,
                lanes,
            );
            call.saved = Some(std::rc::Rc::new(merged));
        }
    }

    pub(super) fn swap(&mut self, at: usize) {
        let current = self.take_current(State::Ready);
        let next = std::mem::replace(&mut self.others[at], current);
        self.resume(next);
    }

    pub(super) fn take_current(&mut self, state: State) -> Fragment {
        Fragment {
            pc: self.pc,
            lanes: std::mem::take(&mut self.active),
            calls: std::mem::take(&mut self.calls),
            frame: self.frame,
            state,
        }
    }

    pub(super) fn resume(&mut self, fragment: Fragment) {
        self.pc = fragment.pc;
        self.active = fragment.lanes;
        self.calls = fragment.calls;
        self.frame = fragment.frame;
    }

    /// Makes a waiting fragment the running one. False where none is ready.
    pub(super) fn pick(&mut self) -> bool {
        debug_assert_eq!(self.active, 0);
        if let [only] = self.others.as_slice() {
            // All that the warp has left, mostly behind a barrier.
            let ready = only.state == State::Ready;
            if ready && let Some(only) = self.others.pop() {
                self.resume(only);
            }
            self.none_to_meet();
            return ready;
        }
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
    pub(super) fn split(&mut self, taken: u32, target: u32) {
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

    /// Whether a fragment can run.
    pub fn can_run(&self) -> bool {
        self.active != 0 || self.others.iter().any(|f| f.state == State::Ready)
    }
}

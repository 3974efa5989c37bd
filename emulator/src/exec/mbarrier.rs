//! `mbarrier` objects: arrivals counted in phases, some of them by asynchronous copies.
//!
//! The object in shared memory is opaque, so its state is kept beside the block and the eight bytes hold
//! nothing. Arrivals that asynchronous copies owe are put off until somebody waits for the phase that needs
//! them: copies land no sooner than they must. Barriers are named by their places in the cluster's shared memory, so
//! that other blocks can arrive at them; waiting is for the block's own threads.

use super::access::{Access, Kind};
use super::block::Block;
use super::bulk::Bulk;
use super::cluster;
use super::program::Flow;
use super::warp::Warp;
use crate::check::{Check, FaultKind};
use crate::ptx::ast::Space;
use std::collections::{HashMap, VecDeque};

/// Largest count of arrivals, and largest magnitude of a transaction count.
pub const MOST: u32 = (1 << 20) - 1;

/// Arrivals that come once copies have landed.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    /// Warp whose copies these are.
    pub warp: u32,
    /// Lanes that owe an arrival each.
    pub lanes: u32,
    /// Copies issued before this serial number land first.
    pub before: u64,
}

/// What is put off until a phase needs it.
#[derive(Debug, Clone, Copy)]
pub enum Debt {
    /// Arrivals after copies.
    Arrivals(Owed),
    /// A copy that completes its bytes.
    Bytes(Bulk),
}

/// One barrier object.
#[derive(Debug, Clone, Default)]
pub struct Mbarrier {
    /// Phases completed.
    pub phase: u64,
    /// Arrivals each phase takes.
    pub expected: u32,
    /// Arrivals the current phase still takes.
    pub pending: u32,
    /// Bytes the current phase still waits for.
    pub bytes: i64,
    owed: VecDeque<Debt>,
}

/// The barriers of a block, by address in its shared memory.
pub type Mbarriers = HashMap<u32, Mbarrier>;

impl Mbarrier {
    /// A barrier for `count` arrivals a phase.
    pub fn new(count: u32) -> Mbarrier {
        Mbarrier {
            expected: count,
            pending: count,
            ..Mbarrier::default()
        }
    }

    /// What an arrival gives back: the phase, and the arrivals pending before it.
    pub fn token(&self) -> u64 {
        self.phase << 20 | u64::from(self.pending)
    }

    /// Arrivals pending, from a token.
    pub fn pending_of(token: u64) -> u32 {
        (token & u64::from(MOST)) as u32
    }

    /// Whether the phase of a token is complete.
    pub fn passed(&self, token: u64) -> bool {
        self.phase << 20 != token & !u64::from(MOST)
    }

    /// Whether the newest phase of that parity is complete.
    pub fn passed_parity(&self, parity: u32) -> bool {
        self.phase & 1 != u64::from(parity & 1)
    }

    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.expected;
        }
    }
}

/// An operation on a barrier's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Arrivals.
    Arrive(u32),
    /// Arrivals that no later phase will see again.
    Drop(u32),
    /// Arrivals that may not complete the phase.
    ArriveWithin(u32),
    /// Likewise, and gone for later phases.
    DropWithin(u32),
    /// Bytes that the phase waits for.
    Expect(u32),
    /// Bytes that have come.
    Complete(u32),
    /// One more arrival to wait for, in this phase.
    Add(u32),
}

/// What a wait asks for.
#[derive(Debug, Clone, Copy)]
pub enum Phase {
    /// The phase of a token.
    Token(u64),
    /// The newest phase of a parity.
    Parity(u32),
}

impl Warp {
    /// The barrier at a place in the cluster's shared memory, if there is one.
    fn mbarrier(&mut self, at: u32) -> Option<&mut Mbarrier> {
        let owner = self.peer(cluster::rank_of(at, self.rank()));
        // SAFETY: no other reference to the block is alive while a handler runs.
        unsafe { (*owner).mbarriers.get_mut(&cluster::within(at)) }
    }

    /// Does `operation` for `lane` on the barrier at place `at`; the token from before it.
    ///
    /// # Errors
    /// The flow to return where there is no barrier or its counts forbid it.
    pub fn operate(&mut self, lane: usize, at: u32, operation: Operation) -> Result<u64, Flow> {
        let Some(barrier) = self.mbarrier(at) else {
            return Err(self.no_barrier(lane, at));
        };
        let token = barrier.token();
        let trouble = match operation {
            Operation::Arrive(n)
            | Operation::Drop(n)
            | Operation::ArriveWithin(n)
            | Operation::DropWithin(n)
                if n == 0 || n > barrier.pending =>
            {
                Some(format!(
                    "{n} arrivals, where the phase takes {} more",
                    barrier.pending
                ))
            }
            Operation::ArriveWithin(n) | Operation::DropWithin(n)
                if n == barrier.pending && barrier.bytes == 0 =>
            {
                Some(format!("{n} arrivals under .noComplete complete the phase"))
            }
            Operation::Expect(n) if barrier.bytes + i64::from(n) > i64::from(MOST) => {
                Some(format!(
                    "{n} more bytes expected beside {}: {MOST} are the most",
                    barrier.bytes
                ))
            }
            Operation::Complete(n) if barrier.bytes - i64::from(n) < -i64::from(MOST) => {
                Some(format!(
                    "{n} bytes complete, where {} were expected: {MOST} too many are the most",
                    barrier.bytes
                ))
            }
            Operation::Add(n) if barrier.pending + n > MOST => Some(format!(
                "{n} more arrivals to wait for beside {}",
                barrier.pending
            )),
            _ => None,
        };
        if let Some(text) = trouble {
            return Err(self.violation(
                Check::Barrier,
                1 << lane,
                format!(
                    "mbarrier at shared address {:#x}: {text}",
                    cluster::within(at)
                ),
            ));
        }
        match operation {
            Operation::Arrive(n) | Operation::ArriveWithin(n) => barrier.pending -= n,
            Operation::Drop(n) | Operation::DropWithin(n) => {
                barrier.pending -= n;
                barrier.expected -= n.min(barrier.expected);
            }
            Operation::Expect(n) => barrier.bytes += i64::from(n),
            Operation::Complete(n) => barrier.bytes -= i64::from(n),
            Operation::Add(n) => barrier.pending += n,
        }
        if !matches!(operation, Operation::Expect(_) | Operation::Add(_)) {
            barrier.settle();
        }
        Ok(token)
    }

    #[cold]
    fn no_barrier(&mut self, lane: usize, at: u32) -> Flow {
        let text = format!(
            "no mbarrier has been initialised at shared address {:#x}, or it was invalidated",
            cluster::within(at)
        );
        self.violation(Check::Barrier, 1 << lane, text)
    }

    /// Checks that the barriers at the lanes' places were initialised before what this warp does to them.
    ///
    /// # Errors
    /// The flow to return where nothing orders the two.
    pub fn barrier_race(&mut self, mask: u32, at: &[u32; 32]) -> Result<(), Flow> {
        let access = Access {
            space: Some(Space::Shared),
            size: 8,
            align: 8,
            kind: Kind::Atomic,
        };
        let inside: [u64; 32] = std::array::from_fn(|l| u64::from(cluster::within(at[l])));
        for lane in super::access::bits(mask) {
            let owner = self.peer(cluster::rank_of(at[lane], self.rank()));
            if self.mbarrier(at[lane]).is_some() {
                // SAFETY: the owner is a block of the cluster, and no reference to it is alive.
                unsafe { self.shared_race(owner, 1 << lane, &inside, access)? };
            }
        }
        Ok(())
    }

    /// Puts a fresh barrier at `at`.
    ///
    /// # Errors
    /// The flow to return where the count is out of range or a barrier lives there.
    pub fn begin_barrier(&mut self, lane: usize, at: u32, count: u32) -> Result<(), Flow> {
        if count == 0 || count > MOST {
            let text = format!("mbarrier for {count} arrivals: 1 to {MOST} are possible");
            return Err(self.fault(FaultKind::Illegal, 1 << lane, text));
        }
        // SAFETY: no other reference to the block is alive while a handler runs.
        let barriers = &mut unsafe { self.block() }.mbarriers;
        let at = cluster::within(at);
        if barriers.insert(at, Mbarrier::new(count)).is_some() {
            let text = format!(
                "the mbarrier at shared address {at:#x} is initialised again without mbarrier.inval before"
            );
            return Err(self.violation(Check::Barrier, 1 << lane, text));
        }
        Ok(())
    }

    /// Ends the life of the barrier at `at`.
    ///
    /// # Errors
    /// The flow to return where there is none.
    pub fn end_barrier(&mut self, lane: usize, at: u32) -> Result<(), Flow> {
        // SAFETY: no other reference to the block is alive while a handler runs.
        match unsafe { self.block() }
            .mbarriers
            .remove(&cluster::within(at))
        {
            Some(_) => Ok(()),
            None => Err(self.no_barrier(lane, at)),
        }
    }

    /// Makes the barrier at `at` wait for the copies that `lanes` have issued, and for an arrival of each.
    ///
    /// # Errors
    /// The flow to return where there is no barrier.
    pub fn owe_arrivals(&mut self, at: u32, lanes: u32) -> Result<(), Flow> {
        let warp = self.index;
        // SAFETY: no other reference to the block is alive while a handler runs.
        let before = unsafe { self.block() }.copies[warp as usize].issued();
        let lane = lanes.trailing_zeros() as usize;
        self.owe(
            lane,
            at,
            Debt::Arrivals(Owed {
                warp,
                lanes,
                before,
            }),
        )
    }

    /// Puts something off until a phase of the barrier at `at` needs it.
    ///
    /// # Errors
    /// The flow to return where there is no barrier.
    pub fn owe(&mut self, lane: usize, at: u32, debt: Debt) -> Result<(), Flow> {
        let Some(barrier) = self.mbarrier(at) else {
            return Err(self.no_barrier(lane, at));
        };
        barrier.owed.push_back(debt);
        Ok(())
    }

    /// Whether a phase is complete; if it is not, what is owed to it is paid first.
    ///
    /// # Errors
    /// The flow to return where there is no barrier, or a copy that lands races.
    pub fn phase_passed(&mut self, lane: usize, at: u32, phase: Phase) -> Result<bool, Flow> {
        loop {
            let Some(barrier) = self.mbarrier(at) else {
                return Err(self.no_barrier(lane, at));
            };
            let passed = match phase {
                Phase::Token(token) => barrier.passed(token),
                Phase::Parity(parity) => barrier.passed_parity(parity),
            };
            if passed {
                return Ok(true);
            }
            let Some(debt) = barrier.owed.pop_front() else {
                return Ok(false);
            };
            self.pay(at, debt)?;
        }
    }

    /// Does what was put off, in the name of the warp that owes it.
    fn pay(&mut self, at: u32, debt: Debt) -> Result<(), Flow> {
        let (owner, block) = match debt {
            Debt::Arrivals(owed) => (owed.warp, self.block),
            Debt::Bytes(copy) => (copy.warp, self.peer(copy.block)),
        };
        self.in_the_name_of(block, owner, |warp| warp.pay_as_owner(at, debt))
    }

    /// Does something as if another warp of the cluster did it.
    pub fn in_the_name_of<T>(
        &mut self,
        block: *mut Block,
        index: u32,
        act: impl FnOnce(&mut Warp) -> T,
    ) -> T {
        let me = (
            std::mem::replace(&mut self.index, index),
            std::mem::replace(&mut self.block, block),
        );
        let outcome = act(self);
        (self.index, self.block) = me;
        outcome
    }

    fn pay_as_owner(&mut self, at: u32, debt: Debt) -> Result<(), Flow> {
        match debt {
            Debt::Arrivals(owed) => self.land_before(owed.lanes, owed.before)?,
            Debt::Bytes(copy) => self.land_bulk(&copy)?,
        }
        let access = Access {
            space: Some(Space::Cluster),
            size: 8,
            align: 8,
            kind: Kind::Atomic,
        };
        self.publish(1, &[u64::from(at); 32], access, true);
        match debt {
            Debt::Arrivals(owed) => {
                for lane in super::access::bits(owed.lanes) {
                    self.operate(lane, at, Operation::Arrive(1))?;
                }
            }
            Debt::Bytes(copy) => {
                self.operate(copy.lane as usize, at, Operation::Complete(copy.size))?;
            }
        }
        Ok(())
    }
}

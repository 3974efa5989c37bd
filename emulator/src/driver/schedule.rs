//! Work in order: what was submitted, what it waits for, what runs next.
//!
//! Work runs as late as its ordering allows. Nothing runs until somebody asks
//! for a result (a synchronisation, a query); then only what that result needs
//! runs, in the order of submission, or, with a seed, any ready work in an order
//! drawn from it. So a program that reads a result without asking for it in a
//! way CUDA promises, or that forgets to join two streams, sees what a GPU may
//! show it once in a thousand runs. Frees run as early as they may, for the same
//! reason. Work that nobody asks for runs after all when the host has submitted
//! nothing for a while, since a GPU makes progress by itself.

use super::context::Context;
use super::handle::Handle;
use super::work::Work;
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Number of a piece of work, ascending in the order of submission.
pub(crate) type WorkId = u64;

/// After this long without a submission, work that nobody asked for starts.
pub(crate) const IDLE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Entry {
    context: Handle<Context>,
    /// Taken while it runs.
    work: Option<Work>,
    /// Unfinished work that must come before.
    needs: Vec<WorkId>,
    /// Work that waits for this.
    unblocks: Vec<WorkId>,
    wanted: bool,
    eager: bool,
}

/// All unfinished work.
#[derive(Debug)]
pub(crate) struct Schedule {
    next: WorkId,
    pending: BTreeMap<WorkId, Entry>,
    /// Work whose needs are done and that is not running.
    ready: BTreeSet<WorkId>,
    /// The part of `ready` that something asked for depends on.
    ready_wanted: BTreeSet<WorkId>,
    /// The part of `ready` that runs as soon as anything does.
    ready_eager: BTreeSet<WorkId>,
    last_submission: Instant,
    seed: Option<u64>,
    draws: Xoshiro256PlusPlus,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule {
            next: 1,
            pending: BTreeMap::new(),
            ready: BTreeSet::new(),
            ready_wanted: BTreeSet::new(),
            ready_eager: BTreeSet::new(),
            last_submission: Instant::now(),
            seed: None,
            draws: Xoshiro256PlusPlus::seed_from_u64(0),
        }
    }
}

impl Schedule {
    /// Draws the order of work from `seed` from now on; `None` for the order of submission.
    pub(crate) fn set_seed(&mut self, seed: Option<u64>) {
        self.seed = seed;
        self.draws = Xoshiro256PlusPlus::seed_from_u64(seed.unwrap_or_default());
    }

    /// Adds work that comes after `needs` (finished ones are ignored).
    pub(crate) fn submit(
        &mut self,
        context: Handle<Context>,
        work: Work,
        needs: impl IntoIterator<Item = WorkId>,
    ) -> WorkId {
        let id = self.next;
        self.next += 1;
        let mut needs: Vec<_> = needs
            .into_iter()
            .filter(|n| self.pending.contains_key(n))
            .collect();
        needs.sort_unstable();
        needs.dedup();
        for need in &needs {
            if let Some(entry) = self.pending.get_mut(need) {
                entry.unblocks.push(id);
            }
        }
        let eager = matches!(work, Work::Free(_) | Work::Vanish(_));
        if needs.is_empty() {
            self.ready.insert(id);
            if eager {
                self.ready_eager.insert(id);
            }
        }
        let entry = Entry {
            context,
            work: Some(work),
            needs,
            unblocks: Vec::new(),
            wanted: false,
            eager,
        };
        self.pending.insert(id, entry);
        self.last_submission = Instant::now();
        id
    }

    pub(crate) fn is_pending(&self, id: WorkId) -> bool {
        self.pending.contains_key(&id)
    }

    /// Asks for work to be done, and so for all that it needs.
    pub(crate) fn want(&mut self, id: WorkId) {
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            let Some(entry) = self.pending.get_mut(&id) else {
                continue;
            };
            if entry.wanted {
                continue;
            }
            entry.wanted = true;
            stack.extend(&entry.needs);
            if self.ready.contains(&id) {
                self.ready_wanted.insert(id);
            }
        }
    }

    /// Unfinished work of a context.
    pub(crate) fn of_context(&self, context: Handle<Context>) -> Vec<WorkId> {
        self.pending
            .iter()
            .filter(|(_, e)| e.context == context)
            .map(|(id, _)| *id)
            .collect()
    }

    /// The next work to run, taken out of the ready ones; `None` where nothing may run now.
    pub(crate) fn take_next(&mut self) -> Option<(WorkId, Handle<Context>, Work)> {
        let asked = !self.ready_wanted.is_empty();
        if !asked && (self.ready.is_empty() || self.last_submission.elapsed() < IDLE) {
            return None;
        }
        let id = match self.ready_eager.first() {
            Some(eager) => *eager,
            None => match self.seed {
                Some(_) if !self.ready.is_empty() => {
                    let at = self.draws.next_u64() as usize % self.ready.len();
                    *self.ready.iter().nth(at)?
                }
                _ if asked => *self.ready_wanted.first()?,
                _ => *self.ready.first()?,
            },
        };
        self.ready.remove(&id);
        self.ready_wanted.remove(&id);
        self.ready_eager.remove(&id);
        let entry = self.pending.get_mut(&id)?;
        let work = entry.work.take()?;
        Some((id, entry.context, work))
    }

    /// How long until idle work may start, where there is some.
    pub(crate) fn until_idle(&self) -> Option<Duration> {
        (!self.ready.is_empty()).then(|| IDLE.saturating_sub(self.last_submission.elapsed()))
    }

    /// Work is done: what waited for it may become ready.
    pub(crate) fn finish(&mut self, id: WorkId) {
        let Some(entry) = self.pending.remove(&id) else {
            return;
        };
        for next in entry.unblocks {
            let Some(waiting) = self.pending.get_mut(&next) else {
                continue;
            };
            waiting.needs.retain(|n| *n != id);
            if waiting.needs.is_empty() {
                self.ready.insert(next);
                if waiting.wanted {
                    self.ready_wanted.insert(next);
                }
                if waiting.eager {
                    self.ready_eager.insert(next);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_all(schedule: &mut Schedule) -> Vec<WorkId> {
        let mut order = Vec::new();
        while let Some((id, _, _)) = schedule.take_next() {
            order.push(id);
            schedule.finish(id);
        }
        order
    }

    fn chain(schedule: &mut Schedule, len: usize) -> Vec<WorkId> {
        let mut ids = Vec::new();
        for _ in 0..len {
            let last = ids.last().copied();
            ids.push(schedule.submit(Handle::NULL, Work::Marker, last));
        }
        ids
    }

    #[test]
    fn nothing_runs_unasked() {
        let mut schedule = Schedule::default();
        chain(&mut schedule, 3);
        assert_eq!(run_all(&mut schedule), Vec::<u64>::new());
        assert!(schedule.until_idle().is_some());
    }

    #[test]
    fn only_what_is_needed_runs() {
        let mut schedule = Schedule::default();
        let a = chain(&mut schedule, 2);
        let b = chain(&mut schedule, 2);
        let joined = schedule.submit(Handle::NULL, Work::Marker, [a[0], b[0]]);
        schedule.want(joined);
        assert_eq!(run_all(&mut schedule), [a[0], b[0], joined]);
        assert!(schedule.is_pending(a[1]) && schedule.is_pending(b[1]));
    }

    #[test]
    fn a_free_runs_as_early_as_it_may() {
        let mut schedule = Schedule::default();
        let a = chain(&mut schedule, 1);
        let free = schedule.submit(Handle::NULL, Work::Free(0), [a[0]]);
        let use_elsewhere = schedule.submit(Handle::NULL, Work::Marker, [a[0]]);
        schedule.want(use_elsewhere);
        assert_eq!(run_all(&mut schedule), [a[0], free, use_elsewhere]);
    }

    #[test]
    fn a_seed_draws_an_order_that_keeps_every_dependency() {
        let order_of = |seed| {
            let mut schedule = Schedule::default();
            schedule.set_seed(Some(seed));
            let a = chain(&mut schedule, 4);
            let b = chain(&mut schedule, 4);
            let last = schedule.submit(Handle::NULL, Work::Marker, [a[3], b[3]]);
            schedule.want(last);
            let order = run_all(&mut schedule);
            let at = |id| order.iter().position(|o| *o == id).unwrap();
            for chain in [&a, &b] {
                assert!(chain.windows(2).all(|w| at(w[0]) < at(w[1])));
            }
            assert_eq!(order.last(), Some(&last));
            order
        };
        assert_eq!(order_of(3), order_of(3));
        assert!((0..8).map(order_of).collect::<BTreeSet<_>>().len() > 1);
    }
}

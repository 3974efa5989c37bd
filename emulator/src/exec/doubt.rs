//! Values loaded from memory that nothing had written. Loading them is no harm, and code that reads a little too far
//! and throws the rest away does it; acting on them is. So a load's doubtful lanes are followed through registers,
//! and what acts on them makes the report, at the line of the load.
//!
//! A warp follows doubts in a loop of its own, which it is in only while it has any.

use super::access::bits;
use super::program::Inst;
use super::warp::{Trouble, Warp};
use crate::check::{Check, FaultKind};
use std::collections::HashMap;

/// What an instruction reads and writes, by register slots.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// Slots written.
    pub writes: Box<[u32]>,
    /// Slots read as data, on which the results depend.
    pub reads: Box<[u32]>,
    /// Slots acted on: addresses, guards, stored data, comparisons, what other lanes get to see.
    pub harm: Box<[u32]>,
    /// The result is one of the first two operands, by the third.
    pub choice: bool,
}

/// A load of bytes that nothing had written.
#[derive(Debug, Clone)]
struct Origin {
    pc: u32,
    text: String,
}

/// What one lane's load found unwritten.
#[derive(Debug)]
pub struct Found {
    /// The lane.
    pub lane: usize,
    /// The access's bytes that nothing had written, from the lowest bit on.
    pub bytes: u32,
    /// The report, should it come to one.
    pub text: String,
    /// Whether the bytes have been brought to their places in the access.
    pub shifted: bool,
}

impl Found {
    /// As its fields say.
    pub fn new(lane: usize, bytes: u32, text: String) -> Found {
        Found {
            lane,
            bytes,
            text,
            shifted: false,
        }
    }
}

/// The doubtful values in a warp's registers.
#[derive(Debug, Default)]
pub struct Doubts {
    /// By slot: the lanes in doubt, and where the newest doubt came from.
    slots: HashMap<u32, (u32, usize)>,
    origins: Vec<Origin>,
    /// Found by the load that is being executed, and its destinations with the bytes each takes.
    found: Vec<Found>,
    fresh: Vec<(u32, u32, usize)>,
}

impl Doubts {
    /// Whether there are none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.fresh.is_empty()
    }

    /// No doubts any more.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            *self = Doubts::default();
        }
    }

    /// A load has met unwritten bytes.
    pub fn find(&mut self, found: Found) {
        self.found.push(found);
    }

    /// What was found last lies `first` bytes into the access.
    pub fn shift(&mut self, first: u32) {
        for found in self.found.iter_mut().filter(|f| !f.shifted) {
            found.bytes <<= first;
            found.shifted = true;
        }
    }

    /// Whether the present load has met any.
    #[inline(always)]
    pub fn has_found(&self) -> bool {
        !self.found.is_empty()
    }

    /// Settles what the load at `pc` has found on its destinations: slots, and the first byte and size of each.
    pub fn settle(&mut self, pc: u32, targets: impl Iterator<Item = (u32, u32, u32)> + Clone) {
        for found in std::mem::take(&mut self.found) {
            let origin = match self.origins.iter().position(|o| o.pc == pc) {
                Some(known) => known,
                None => {
                    self.origins.push(Origin {
                        pc,
                        text: found.text,
                    });
                    self.origins.len() - 1
                }
            };
            for (slot, first, size) in targets.clone() {
                let bytes = (((1u64 << size) - 1) << first) as u32;
                if found.bytes & bytes != 0 {
                    self.fresh.push((slot, 1 << found.lane, origin));
                }
            }
        }
    }

    fn lanes(&self, slot: u32) -> (u32, usize) {
        self.slots.get(&slot).copied().unwrap_or_default()
    }

    fn set(&mut self, slot: u32, mask: u32, (doubtful, origin): (u32, usize)) {
        let (before, old_origin) = self.lanes(slot);
        let lanes = before & !mask | mask & doubtful;
        if lanes == 0 {
            self.slots.remove(&slot);
        } else {
            let newest = if mask & doubtful != 0 {
                origin
            } else {
                old_origin
            };
            self.slots.insert(slot, (lanes, newest));
        }
    }

    /// What comes in with the load just executed, after what it wrote is settled.
    fn take_in_fresh(&mut self) {
        for (slot, lanes, origin) in std::mem::take(&mut self.fresh) {
            self.set(slot, lanes, (lanes, origin));
        }
    }
}

impl Warp {
    /// Begins to follow the doubts that a load has left.
    pub fn begin_doubts(&mut self) {
        self.doubts.take_in_fresh();
    }

    /// Before an instruction: the trouble it makes where it acts on a doubtful value, and otherwise what its results
    /// inherit.
    pub fn weigh_doubts(&self, inst: &Inst, mask: u32) -> Result<(u32, usize), Box<Trouble>> {
        let effects = &self.program().effects[self.pc as usize];
        // A guard is acted on in all active lanes.
        let guard = self.doubts.lanes(inst.guard);
        let acted = std::iter::once((guard.0 & self.active, guard.1)).chain(
            effects.harm.iter().map(|&slot| {
                let (lanes, origin) = self.doubts.lanes(slot);
                (lanes & mask, origin)
            }),
        );
        for (lanes, origin) in acted {
            if lanes != 0 {
                return Err(self.doubt_acted_on(lanes, origin));
            }
        }
        let mut inherited = (0, 0);
        let mut add = |lanes: u32, origin: usize| {
            if lanes != 0 {
                inherited = (inherited.0 | lanes, origin);
            }
        };
        if effects.choice {
            // SAFETY: the third operand of a choice is a predicate slot.
            let chosen = unsafe { *self.slot(inst.c).cast::<u32>() };
            for (slot, lanes) in [(inst.a, chosen), (inst.b, !chosen), (inst.c, u32::MAX)] {
                let (doubtful, origin) = self.doubts.lanes(slot);
                add(doubtful & lanes, origin);
            }
        } else {
            for &slot in &effects.reads {
                let (lanes, origin) = self.doubts.lanes(slot);
                add(lanes, origin);
            }
        }
        Ok(inherited)
    }

    /// After the instruction at `pc`, executed by the lanes of `mask`.
    pub fn spread_doubts(&mut self, pc: u32, mask: u32, inherited: (u32, usize)) {
        for &slot in &self.program().effects[pc as usize].writes {
            self.doubts.set(slot, mask, inherited);
        }
        self.doubts.take_in_fresh();
    }

    #[cold]
    fn doubt_acted_on(&self, lanes: u32, origin: usize) -> Box<Trouble> {
        let origin = &self.doubts.origins[origin];
        let info = &self.program().info[self.pc as usize];
        let first = bits(lanes).next().unwrap_or(0);
        Box::new(Trouble {
            kind: FaultKind::Check(Check::UninitMemory),
            message: format!(
                "{}; lane {first} acts on it at PTX line {}: {}",
                origin.text, info.line, info.text
            ),
            lanes,
            pc: origin.pc,
        })
    }
}

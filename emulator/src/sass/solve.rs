//! Weights of a function's blocks from anchors, equivalent blocks and votes.
//!
//! Rules are tried in order, and again from the first whenever one finds a weight, so
//! that a weaker one only fills what the stronger leave open.

use std::collections::BTreeMap;

use super::blocks::Block;
use super::equivalence;
use super::weigh::{Basis, BlockWeight};

/// How much the copies of a PTX instruction bind the blocks that hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Binding {
    /// An instruction that ptxas may have moved, repeated or made several of.
    Line,
    /// A branch, which may be found to go one way only and vanish from some of its copies.
    Branch,
    /// A load, which may be moved out of a loop, but whose copies tell an unrolled one.
    Load,
    /// An instruction with an effect: it runs as often as PTX says, in one copy or another.
    Effect,
}

/// Copies of one PTX instruction in machine code.
#[derive(Debug, Clone)]
pub(super) struct Copies {
    /// Executions of the PTX instruction.
    pub count: u64,
    /// What that says of blocks.
    pub binding: Binding,
    /// How many copies each block holds.
    pub blocks: BTreeMap<usize, u64>,
}

impl Copies {
    /// No copies yet.
    pub fn none(count: u64, binding: Binding) -> Self {
        Copies {
            count,
            binding,
            blocks: BTreeMap::new(),
        }
    }

    /// How many times a block runs the PTX instruction. Where it takes several machine
    /// instructions, these are not several times.
    fn times(&self, copies: u64) -> f64 {
        match self.binding {
            Binding::Line => 1.0,
            _ => copies as f64,
        }
    }

    /// The block that holds most of a moveable instruction, if one does.
    fn home(&self) -> Option<usize> {
        let most = self.blocks.values().max()?;
        let mut homes = self.blocks.iter().filter(|(_, n)| *n == most);
        match (homes.next(), homes.next()) {
            (Some((b, _)), None) => Some(*b),
            _ => None,
        }
    }
}

/// Weighs every block. `entered` is how often the function is, where that is known.
pub(super) fn solve(
    blocks: &[Block],
    copies: Vec<Copies>,
    entered: Option<u64>,
) -> Vec<BlockWeight> {
    let mut votes = vec![BTreeMap::new(); blocks.len()];
    for line in copies.iter().filter(|c| c.binding == Binding::Line) {
        if let Some(home) = line.home() {
            *votes[home].entry(line.count).or_insert(0) += line.blocks[&home];
        }
    }
    let mut before = vec![Vec::new(); blocks.len()];
    let mut behind = vec![Vec::new(); blocks.len()];
    for (b, block) in blocks.iter().enumerate().filter(|(_, b)| b.reachable) {
        for s in &block.successors {
            behind[b].push(*s);
            before[*s].push(b);
        }
    }
    let mut solver = Solver {
        before,
        behind,
        weights: blocks
            .iter()
            .map(|block| (!block.reachable).then_some(BlockWeight::NOTHING))
            .collect(),
        classes: equivalence::classes(blocks),
        copies,
        votes,
    };
    // Unless something leads back there, nothing else enters the first block.
    if let (Some(entered), Some([])) = (entered, solver.before.first().map(Vec::as_slice)) {
        solver.weights[0] = Some(BlockWeight {
            weight: entered as f64,
            basis: Basis::Anchored,
        });
    }
    while solver.step() {}
    solver
        .weights
        .into_iter()
        .map(|w| w.unwrap_or(BlockWeight::NOTHING))
        .collect()
}

struct Solver {
    /// Blocks that lead to each, and that each leads to.
    before: Vec<Vec<usize>>,
    behind: Vec<Vec<usize>>,
    weights: Vec<Option<BlockWeight>>,
    /// First block of each one's class, and how many loops it is in.
    classes: Vec<(usize, usize)>,
    copies: Vec<Copies>,
    /// Counts that a block's instructions would give it, each with how many agree.
    votes: Vec<BTreeMap<u64, u64>>,
}

impl Solver {
    /// Finds a weight, or several, by the strongest rule that finds any. False where none does.
    fn step(&mut self) -> bool {
        // What has no unknown block left tells nothing more.
        let weights = &self.weights;
        self.copies
            .retain(|c| c.blocks.keys().any(|b| weights[*b].is_none()));
        self.shared(Binding::Effect)
            || self.equivalent()
            || self.shared(Binding::Load)
            || self.shared(Binding::Branch)
            || self.voted()
            || self.assumed(Binding::Load)
            || self.shared(Binding::Line)
            || self.assumed(Binding::Line)
    }

    /// What is left of an instruction's count, and the blocks still to share it, each with
    /// how many times it runs it.
    fn open(&self, copies: &Copies) -> (f64, Vec<(usize, f64)>) {
        let mut left = copies.count as f64;
        let mut unknown = Vec::new();
        for (b, n) in &copies.blocks {
            match self.weights[*b] {
                Some(known) => left -= known.weight * copies.times(*n),
                None => unknown.push((*b, copies.times(*n))),
            }
        }
        (left.max(0.0), unknown)
    }

    /// Blocks that are the only unknown of an instruction.
    fn shared(&mut self, binding: Binding) -> bool {
        // Effects and loads have what they are worth from their own copies.
        let contested = if binding < Binding::Load {
            self.contested()
        } else {
            Vec::new()
        };
        let mut found: BTreeMap<usize, Vec<(bool, f64)>> = BTreeMap::new();
        for copies in self.copies.iter().filter(|c| c.binding == binding) {
            let (left, unknown) = self.open(copies);
            let [(b, n)] = unknown[..] else { continue };
            let alone = copies.blocks.len() == 1;
            let usable = match binding {
                Binding::Effect => true,
                // One load at one place may have been moved there: that is a vote at most.
                Binding::Load => !alone || n > 1.0,
                Binding::Branch | Binding::Line => !contested[b],
            };
            if usable {
                found.entry(b).or_default().push((alone, left / n));
            }
        }
        // One that has all its copies in a block says more than one that shares them.
        for (b, candidates) in &found {
            let alone = candidates.iter().any(|(alone, _)| *alone);
            let weights = candidates.iter().filter(|(a, _)| *a == alone);
            let weights: Vec<f64> = weights.map(|(_, weight)| *weight).collect();
            let weight = agreed(&weights);
            let cap = self.cap(*b).filter(|_| binding < Binding::Load);
            self.weights[*b] = Some(BlockWeight {
                weight: cap.map_or(weight, |cap| weight.min(cap)),
                basis: if alone {
                    Basis::Anchored
                } else {
                    Basis::Shared
                },
            });
        }
        !found.is_empty()
    }

    /// Blocks of unknown weight that share an effect or load with another of unknown weight:
    /// copies of a loop's body, where branches and lines do not add up.
    fn contested(&self) -> Vec<bool> {
        let mut contested = vec![false; self.weights.len()];
        for copies in self.copies.iter().filter(|c| c.binding >= Binding::Load) {
            let (_, unknown) = self.open(copies);
            if unknown.len() > 1 {
                unknown.iter().for_each(|(b, _)| contested[*b] = true);
            }
        }
        contested
    }

    /// Blocks that run as often as one whose weight is known.
    fn equivalent(&mut self) -> bool {
        let mut by_class = vec![None; self.classes.len()];
        for (weight, (class, _)) in self.weights.iter().zip(&self.classes) {
            if let Some(known) = weight.filter(|w| w.basis != Basis::Nothing) {
                by_class[*class].get_or_insert(known.weight);
            }
        }
        let mut found = false;
        for (weight, (class, _)) in self.weights.iter_mut().zip(&self.classes) {
            if let (None, Some(known)) = (*weight, by_class[*class]) {
                *weight = Some(BlockWeight {
                    weight: known,
                    basis: Basis::Equivalent,
                });
                found = true;
            }
        }
        found
    }

    /// The most a block can have run: as often as all that lead to it together, or all that
    /// it leads to.
    fn cap(&self, b: usize) -> Option<f64> {
        let sum = |blocks: &[usize]| {
            let known = |b: &usize| self.weights[*b].map(|w| w.weight);
            let sum: Option<f64> = blocks.iter().map(known).sum();
            sum.filter(|_| !blocks.is_empty())
        };
        match (sum(&self.before[b]), sum(&self.behind[b])) {
            (Some(in_), Some(out)) => Some(in_.min(out)),
            (one, other) => one.or(other),
        }
    }

    /// The block whose instructions agree most, of those that neighbours bound if any.
    fn voted(&mut self) -> bool {
        let contested = self.contested();
        let best = (0..self.weights.len())
            .filter(|b| self.weights[*b].is_none() && !contested[*b])
            .filter_map(|b| {
                // Of equal votes the smaller count: the other is likelier to have been hoisted.
                let (count, n) = self.votes[b].iter().rev().max_by_key(|(_, n)| **n)?;
                Some((self.cap(b), *n, b, *count as f64))
            })
            .max_by_key(|(cap, n, b, _)| (cap.is_some(), *n, usize::MAX - b));
        let Some((cap, _, b, count)) = best else {
            return false;
        };
        self.weights[b] = Some(BlockWeight {
            weight: cap.map_or(count, |cap| count.min(cap)),
            basis: Basis::Votes,
        });
        true
    }

    /// Of the blocks that share an instruction, as much as goes to the one with most copies,
    /// or of several the one in the deepest loop: an unrolled loop runs its body as often as
    /// it can before what is left over runs. Every entry is taken to run it equally often.
    fn assumed(&mut self, weakest: Binding) -> bool {
        let depth = |b: usize| self.classes[b].1;
        let best = self
            .copies
            .iter()
            .filter(|c| c.binding >= weakest && c.binding != Binding::Branch)
            .filter_map(|copies| {
                let (left, unknown) = self.open(copies);
                let (b, n) = unknown
                    .into_iter()
                    .max_by(|(a, n), (b, m)| n.total_cmp(m).then(depth(*a).cmp(&depth(*b))))?;
                Some((copies.binding, n, b, left))
            })
            .max_by(|(binding, n, b, _), (other, m, c, _)| {
                binding
                    .cmp(other)
                    .then(n.total_cmp(m))
                    .then(depth(*b).cmp(&depth(*c)))
            });
        let Some((_, n, b, left)) = best else {
            return false;
        };
        let entries = self.weights[0].map_or(1.0, |w| w.weight.max(1.0));
        let share = (left / n / entries).floor() * entries;
        let cap = self.cap(b);
        self.weights[b] = Some(BlockWeight {
            weight: cap.map_or(share, |cap| share.min(cap)),
            basis: Basis::Assumed,
        });
        true
    }
}

/// The value most candidates have; of several, the smallest.
fn agreed(candidates: &[f64]) -> f64 {
    let mut sorted = candidates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let runs = sorted.chunk_by(|a, b| a == b);
    let longest = runs.max_by(|a, b| a.len().cmp(&b.len()).then(b[0].total_cmp(&a[0])));
    longest.map_or(0.0, |run| run[0])
}

//! Blocks that run equally often whatever the data: whenever one is reached the other is
//! too, once each. A branch that comes together again leaves the block before it and the
//! block behind it so.

use super::blocks::Block;

/// A set of blocks.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: usize, full: bool) -> Self {
        Set(vec![if full { u64::MAX } else { 0 }; len.div_ceil(64)])
    }

    fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn keep_common(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }
}

/// Edges of the graph, forwards or backwards.
type Edges = Vec<Vec<usize>>;

/// For each block, those on every path to it: its dominators, itself included. Blocks with
/// no edge in start a path.
fn dominators(into: &Edges) -> Vec<Set> {
    let len = into.len();
    let mut sets = vec![Set::new(len, true); len];
    let mut changed = true;
    while changed {
        changed = false;
        for b in 0..len {
            let mut set = Set::new(len, !into[b].is_empty());
            into[b].iter().for_each(|p| set.keep_common(&sets[*p]));
            set.insert(b);
            if set != sets[b] {
                sets[b] = set;
                changed = true;
            }
        }
    }
    sets
}

/// The loops: for each edge back to a dominator, the blocks that reach its start without
/// passing its end.
fn loops(into: &Edges, out: &Edges, dominators: &[Set]) -> Vec<Set> {
    let mut all = Vec::new();
    for (b, successors) in out.iter().enumerate() {
        for header in successors.iter().copied().filter(|s| dominators[b].has(*s)) {
            let mut body = Set::new(out.len(), false);
            body.insert(header);
            let mut open = vec![b];
            while let Some(k) = open.pop() {
                if !body.has(k) {
                    body.insert(k);
                    open.extend(&into[k]);
                }
            }
            all.push(body);
        }
    }
    all
}

/// For each block, the first block of its class, and how many loops it is in.
pub(super) fn classes(blocks: &[Block]) -> Vec<(usize, usize)> {
    let len = blocks.len();
    let mut out = vec![Vec::new(); len];
    let mut into = vec![Vec::new(); len];
    for (b, block) in blocks.iter().enumerate().filter(|(_, b)| b.reachable) {
        for s in &block.successors {
            out[b].push(*s);
            into[*s].push(b);
        }
    }
    let before = dominators(&into);
    let behind = dominators(&out);
    let loops = loops(&into, &out, &before);
    let same_loops = |a: usize, b: usize| loops.iter().all(|l| l.has(a) == l.has(b));
    (0..len)
        .map(|b| {
            let first = (0..b).find(|a| {
                let ordered = before[b].has(*a) && behind[*a].has(b)
                    || before[*a].has(b) && behind[b].has(*a);
                ordered && same_loops(*a, b)
            });
            let depth = loops.iter().filter(|l| l.has(b)).count();
            (first.unwrap_or(b), depth)
        })
        .collect()
}

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

/// For each block, those on every path to it from where paths start: its dominators, itself
/// included. A block that no path leads to has itself alone.
fn dominators(into: &Edges, out: &Edges, starts: &[bool]) -> Vec<Set> {
    let len = into.len();
    let mut met = vec![false; len];
    let mut open: Vec<usize> = (0..len).filter(|b| starts[*b]).collect();
    while let Some(b) = open.pop() {
        if !std::mem::replace(&mut met[b], true) {
            open.extend(&out[b]);
        }
    }
    let mut sets = vec![Set::new(len, true); len];
    let mut changed = true;
    while changed {
        changed = false;
        for b in 0..len {
            let mut set = Set::new(len, met[b] && !starts[b]);
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
    let entered: Vec<bool> = into.iter().map(Vec::is_empty).collect();
    let left: Vec<bool> = blocks
        .iter()
        .map(|b| b.leaves || b.successors.is_empty())
        .collect();
    let before = dominators(&into, &out, &entered);
    let behind = dominators(&out, &into, &left);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks by their successors; those in `leaves` may leave the function as well.
    fn classes_of(successors: &[&[usize]], leaves: &[usize]) -> Vec<usize> {
        let block = |(k, successors): (usize, &&[usize])| Block {
            first: k,
            len: 1,
            successors: successors.to_vec(),
            leaves: leaves.contains(&k) || successors.is_empty(),
            reachable: true,
        };
        let blocks: Vec<Block> = successors.iter().enumerate().map(block).collect();
        classes(&blocks)
            .into_iter()
            .map(|(class, _)| class)
            .collect()
    }

    #[test]
    fn a_branch_that_comes_together_again() {
        assert_eq!(classes_of(&[&[1, 2], &[3], &[3], &[]], &[]), [0, 1, 2, 0]);
    }

    #[test]
    fn a_loop_runs_more_often_than_what_is_around_it() {
        assert_eq!(classes_of(&[&[1], &[2], &[1, 3], &[]], &[]), [0, 1, 1, 0]);
    }

    #[test]
    fn a_warp_that_may_leave_need_not_come_further() {
        // The second block ends in a predicated exit.
        assert_eq!(classes_of(&[&[1], &[2], &[]], &[1]), [0, 0, 2]);
        // The only way out of a loop is such an exit.
        assert_eq!(
            classes_of(&[&[1, 2], &[3], &[3], &[4], &[3]], &[3]),
            [0, 1, 2, 3, 4]
        );
    }

    #[test]
    fn what_cannot_end_tells_nothing() {
        assert_eq!(classes_of(&[&[1], &[2], &[1]], &[]), [0, 1, 2]);
    }
}

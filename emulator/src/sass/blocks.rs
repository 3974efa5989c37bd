//! Basic blocks: runs of instructions that are entered at the first and left after the last.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::{BYTES, Flow, Instruction};

/// A basic block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Index of its first instruction.
    pub first: usize,
    /// How many instructions it has.
    pub len: usize,
    /// Blocks that may follow it, by index.
    pub successors: Vec<usize>,
    /// Whether a warp may leave the function at its end: always, or by a predicate.
    pub leaves: bool,
    /// Whether any path from an entry leads here; padding is not.
    pub reachable: bool,
}

impl Block {
    /// The indices of its instructions.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.len
    }
}

/// Splits a section's instructions. `entries` are offsets at which it is entered,
/// `indirect` the targets of its indirect branches by the branch's offset.
pub(super) fn split(
    instructions: &[Instruction],
    entries: &[u64],
    indirect: &BTreeMap<u64, Vec<u64>>,
) -> Vec<Block> {
    let index_of = |offset: u64| {
        let index = usize::try_from(offset / BYTES as u64).ok()?;
        (index < instructions.len() && offset.is_multiple_of(BYTES as u64)).then_some(index)
    };
    let mut starts: BTreeSet<usize> = entries.iter().filter_map(|o| index_of(*o)).collect();
    starts.extend(indirect.values().flatten().filter_map(|o| index_of(*o)));
    let mut entered: Vec<usize> = starts.iter().copied().collect();
    if !instructions.is_empty() {
        starts.insert(0);
    }
    for (i, instruction) in instructions.iter().enumerate() {
        match instruction.flow {
            Flow::Branch(target)
            | Flow::Divergence { target, .. }
            | Flow::Call(target)
            | Flow::Converge(target) => {
                starts.extend(index_of(target));
            }
            _ => {}
        }
        // A call comes back, so it does not end its block.
        let ends = matches!(
            instruction.flow,
            Flow::Branch(_) | Flow::Divergence { .. } | Flow::Indirect | Flow::Leave
        );
        if ends && i + 1 < instructions.len() {
            starts.insert(i + 1);
        }
        if let Flow::Call(target) = instruction.flow {
            entered.extend(index_of(target));
        }
    }
    let firsts: Vec<usize> = starts.into_iter().collect();
    let block_of = |index: usize| firsts.partition_point(|first| *first <= index) - 1;
    let mut blocks: Vec<Block> = firsts
        .iter()
        .enumerate()
        .map(|(k, first)| {
            let end = firsts.get(k + 1).copied().unwrap_or(instructions.len());
            let last = &instructions[end - 1];
            let mut successors = Vec::new();
            // Where lanes are absent, code apart from the rest stands in; whole warps are assumed.
            let whole_warps_jump = matches!(last.flow, Flow::Divergence { if_whole: true, .. });
            match last.flow {
                Flow::Divergence { target, .. } if whole_warps_jump => {
                    successors.extend(index_of(target).map(block_of));
                }
                Flow::Branch(target) => successors.extend(index_of(target).map(block_of)),
                Flow::Indirect => {
                    let targets = indirect.get(&last.address).into_iter().flatten();
                    successors.extend(targets.filter_map(|o| index_of(*o)).map(block_of));
                }
                _ => {}
            }
            let always_leaves = whole_warps_jump
                || matches!(last.flow, Flow::Branch(_) | Flow::Indirect | Flow::Leave)
                    && last.predicate.is_none();
            if !always_leaves && end < instructions.len() {
                successors.push(k + 1);
            }
            successors.sort_unstable();
            successors.dedup();
            Block {
                first: *first,
                len: end - first,
                successors,
                leaves: last.flow == Flow::Leave,
                reachable: false,
            }
        })
        .collect();
    let mut open: Vec<usize> = entered.into_iter().map(block_of).collect();
    while let Some(k) = open.pop() {
        if !std::mem::replace(&mut blocks[k].reachable, true) {
            open.extend(&blocks[k].successors);
        }
    }
    blocks
}

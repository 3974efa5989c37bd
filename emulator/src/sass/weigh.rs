//! How often each basic block of machine code ran, from the executed counts of PTX.
//!
//! Line by line, machine code does not tell its count: ptxas hoists invariants out of
//! loops, merges short branches into predicates and copies loop bodies. But some
//! instructions stay where they are put, because they have effects or are too dear to
//! repeat: stores, barriers, shuffles, asynchronous copies, matrix products, conditional
//! branches. Each such *anchor* is the translation of one PTX instruction whose count is
//! known, so that the counts of the blocks that hold copies of it add up to it:
//!
//! ```text
//!   sum over blocks of (copies in the block × the block's weight) = the PTX count
//! ```
//!
//! Most anchors have all copies in one block and give its weight at once; others follow
//! once the rest of their blocks are known. A function's first block runs as often as its
//! first PTX instruction. A block without anchors runs as often as one
//! that it cannot but follow, or takes the count that most of its instructions agree on.
//! Code for warps with lanes absent, which ptxas keeps apart, counts as never run.

use std::collections::{BTreeMap, HashMap};

use super::decode::Instruction;
use super::solve::{Binding, Copies, solve};
use super::{Code, Function, SassError};
use crate::counters::Counters;
use crate::exec::program::Program;
use crate::exec::text;
use crate::ptx::ast;
use serde_json::{Map, Value, json};

/// What a launch executed of PTX.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Executed {
    /// By function: each instruction as text, in order, and warps that executed it.
    /// Predicated-off executions count.
    pub functions: BTreeMap<String, Vec<(String, u64)>>,
}

impl Executed {
    /// From the counters of a launch of `program`.
    pub fn of(program: &Program, counters: &Counters) -> Self {
        let mut functions: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        for (info, (count, _)) in program.info.iter().zip(counters.instructions()) {
            let function = &program.functions[info.function as usize];
            let counts = functions.entry(function.name.clone()).or_default();
            if info.text != text::END {
                counts.push((info.text.clone(), count.issued));
            }
        }
        Executed { functions }
    }
}

/// How a block's weight was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// By instructions of known count.
    Anchored,
    /// By instructions of known count that it shares with blocks weighed before.
    Shared,
    /// It runs whenever a block of known weight runs.
    Equivalent,
    /// By the count that most of its instructions' PTX has.
    Votes,
    /// It shares instructions of known count with others of unknown weight, and was taken
    /// to run all of them.
    Assumed,
    /// It cannot be reached, or nothing in it has a line.
    Nothing,
}

/// A block's weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockWeight {
    /// Times that a warp ran through it.
    pub weight: f64,
    /// How that was found.
    pub basis: Basis,
}

impl BlockWeight {
    pub(super) const NOTHING: BlockWeight = BlockWeight {
        weight: 0.0,
        basis: Basis::Nothing,
    };
}

/// What a launch issued of a cubin.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// By function, in the order of [`Code::functions`]: a weight for each block.
    pub functions: Vec<Vec<BlockWeight>>,
    /// Machine instructions issued, counted by warp.
    pub total: f64,
    /// The same by mnemonic.
    pub by_mnemonic: BTreeMap<&'static str, f64>,
    /// The same by how the block's weight was found.
    pub by_basis: BTreeMap<Basis, f64>,
}

impl Weights {
    /// `{"instructions", "by_opcode", "by_basis"}`: machine instructions issued, by mnemonic,
    /// and by how sure their count is.
    pub fn to_json(&self) -> Value {
        let issued = |n: &f64| Value::from(n.round() as u64);
        let by_opcode: Map<String, Value> = self
            .by_mnemonic
            .iter()
            .filter(|(_, n)| **n > 0.0)
            .map(|(mnemonic, n)| ((*mnemonic).into(), issued(n)))
            .collect();
        let by_basis: Map<String, Value> = self
            .by_basis
            .iter()
            .filter(|(_, n)| **n > 0.0)
            .map(|(basis, n)| (basis.name().into(), issued(n)))
            .collect();
        json!({
            "instructions": issued(&self.total),
            "by_opcode": by_opcode,
            "by_basis": by_basis,
        })
    }
}

impl Basis {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Anchored => "anchored",
            Basis::Shared => "shared",
            Basis::Equivalent => "equivalent",
            Basis::Votes => "votes",
            Basis::Assumed => "assumed",
            Basis::Nothing => "nothing",
        }
    }
}

/// What an anchor is, in machine code and in PTX alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Anchor {
    Matrix,
    LoadMatrix,
    AsyncCopy,
    Commit,
    Barrier,
    Shuffle,
    Vote,
    Store,
    Atomic,
    Load,
    Branch,
}

impl Anchor {
    fn of_machine(instruction: &Instruction) -> Option<Anchor> {
        Some(match instruction.mnemonic {
            "HMMA" | "IMMA" | "DMMA" | "BMMA" => Anchor::Matrix,
            "LDSM" | "STSM" | "MOVM" => Anchor::LoadMatrix,
            "LDGSTS" => Anchor::AsyncCopy,
            "LDGDEPBAR" => Anchor::Commit,
            "BAR" => Anchor::Barrier,
            "SHFL" => Anchor::Shuffle,
            "VOTE" | "VOTEU" | "MATCH" | "REDUX" => Anchor::Vote,
            "ST" | "STG" | "STS" => Anchor::Store,
            "ATOM" | "ATOMG" | "ATOMS" | "RED" | "REDG" => Anchor::Atomic,
            "LD" | "LDG" | "LDS" => Anchor::Load,
            "BRA" if instruction.predicate.is_some() => Anchor::Branch,
            _ => return None,
        })
    }

    pub(super) fn of_ptx(instruction: &ast::Instruction) -> Option<Anchor> {
        let modifier = |i: usize| instruction.opcode.get(i).map_or("", String::as_str);
        let spaces = ["param", "local", "const"];
        let apart = instruction
            .opcode
            .iter()
            .any(|m| spaces.contains(&m.as_str()));
        Some(match modifier(0) {
            // The oldest shape takes several instructions.
            "mma" if modifier(3) == "m8n8k4" && !modifier(6).starts_with("f64") => return None,
            "mma" => Anchor::Matrix,
            "ldmatrix" | "stmatrix" | "movmatrix" => Anchor::LoadMatrix,
            "cp" if modifier(1) == "async" => match modifier(2) {
                "ca" | "cg" => Anchor::AsyncCopy,
                "commit_group" => Anchor::Commit,
                _ => return None,
            },
            "bar" | "barrier" if !modifier(1).starts_with("cluster") => Anchor::Barrier,
            "shfl" => Anchor::Shuffle,
            "vote" | "match" | "redux" | "activemask" => Anchor::Vote,
            "st" | "ld" if apart => return None,
            "st" => Anchor::Store,
            "ld" => Anchor::Load,
            "atom" | "red" => Anchor::Atomic,
            "bra" if instruction.guard.is_some() => Anchor::Branch,
            _ => return None,
        })
    }
}

/// What is known of the PTX on one line.
struct Known {
    anchor: Option<Anchor>,
    guarded: bool,
    count: u64,
}

/// Counts by line of the cubin's PTX.
struct Lines {
    known: HashMap<u32, Vec<Known>>,
    /// How often each function was entered, where its first instruction tells.
    entered: HashMap<String, u64>,
}

impl Lines {
    /// Ties the cubin's PTX to the program that was executed: the same instructions in the
    /// same order, whatever their lines.
    fn bind(code: &Code, executed: &Executed) -> Result<Self, SassError> {
        let ptx = code.ptx.as_ref().ok_or(SassError::NoLines)?;
        let mut lines = Lines {
            known: HashMap::new(),
            entered: HashMap::new(),
        };
        for (name, counts) in &executed.functions {
            let other_ptx = |line| SassError::OtherPtx {
                function: name.clone(),
                line,
            };
            let compiled = ptx.functions.get(name).ok_or_else(|| other_ptx(0))?;
            let instructions = &compiled.instructions;
            if counts.len() > instructions.len() {
                return Err(other_ptx(instructions.last().map_or(0, |i| i.line)));
            }
            if let Some((_, count)) = counts.first().filter(|_| !compiled.labelled) {
                lines.entered.insert(name.clone(), *count);
            }
            for (i, instruction) in instructions.iter().enumerate() {
                let count = match counts.get(i) {
                    Some((text, count)) if *text == instruction.text => *count,
                    _ => return Err(other_ptx(instruction.line)),
                };
                lines
                    .known
                    .entry(instruction.line)
                    .or_default()
                    .push(Known {
                        anchor: instruction.anchor,
                        guarded: instruction.guarded,
                        count,
                    });
            }
        }
        Ok(lines)
    }

    /// The PTX instruction that a machine instruction is the translation of, if it is an anchor.
    fn anchor(&self, instruction: &Instruction) -> Option<(u32, Anchor, u64)> {
        let anchor = Anchor::of_machine(instruction)?;
        let line = instruction.ptx_line?;
        let known = self
            .known
            .get(&line)?
            .iter()
            .find(|k| k.anchor == Some(anchor))?;
        // A predicate that PTX does not have came from a branch, and the block is the
        // larger one around it.
        let sound = instruction.predicate.is_none() || known.guarded;
        sound.then_some((line, anchor, known.count))
    }

    /// Whether anything of a function came from PTX that was counted.
    fn any_of(&self, function: &Function) -> bool {
        let mut lines = function.instructions.iter().filter_map(|i| i.ptx_line);
        lines.any(|line| self.known.contains_key(&line))
    }

    fn count(&self, line: u32) -> Option<u64> {
        let known = self.known.get(&line)?;
        known.iter().map(|k| k.count).max()
    }
}

impl Code {
    /// Weighs every block by the executed counts of the PTX it came from.
    ///
    /// # Errors
    /// [`SassError::NoLines`] without `-lineinfo`, [`SassError::OtherPtx`] where the cubin
    /// was compiled from another PTX.
    pub fn weigh(&self, executed: &Executed) -> Result<Weights, SassError> {
        let lines = Lines::bind(self, executed)?;
        let mut weights = Weights {
            functions: Vec::new(),
            total: 0.0,
            by_mnemonic: BTreeMap::new(),
            by_basis: BTreeMap::new(),
        };
        for function in &self.functions {
            // Of kernels, only the one that was launched ran.
            let other = function.is_kernel && !executed.functions.contains_key(&function.name);
            if other || !lines.any_of(function) {
                let nothing = vec![BlockWeight::NOTHING; function.blocks.len()];
                weights.functions.push(nothing);
                continue;
            }
            let blocks = weigh_function(function, &lines);
            for (block, weighed) in function.blocks.iter().zip(&blocks) {
                for instruction in &function.instructions[block.range()] {
                    let mix = weights.by_mnemonic.entry(instruction.mnemonic);
                    *mix.or_insert(0.0) += weighed.weight;
                }
                let issued = weighed.weight * block.len as f64;
                weights.total += issued;
                *weights.by_basis.entry(weighed.basis).or_insert(0.0) += issued;
            }
            weights.functions.push(blocks);
        }
        Ok(weights)
    }
}

/// Collects the anchors and votes of a function and solves for its blocks.
fn weigh_function(function: &Function, lines: &Lines) -> Vec<BlockWeight> {
    // By PTX instruction: its count and how many copies each block holds.
    let mut anchors: BTreeMap<(u32, Anchor), Copies> = BTreeMap::new();
    let mut others: BTreeMap<u32, Copies> = BTreeMap::new();
    for (b, block) in function.blocks.iter().enumerate() {
        if !block.reachable {
            continue;
        }
        for instruction in &function.instructions[block.range()] {
            let copies = if let Some((line, anchor, count)) = lines.anchor(instruction) {
                let binding = match anchor {
                    Anchor::Branch => Binding::Branch,
                    Anchor::Load => Binding::Load,
                    _ => Binding::Effect,
                };
                let fresh = Copies::none(count, binding);
                anchors.entry((line, anchor)).or_insert(fresh)
            } else if instruction.predicate.is_none()
                && let Some(line) = instruction.ptx_line
                && let Some(count) = lines.count(line)
            {
                let fresh = Copies::none(count, Binding::Line);
                others.entry(line).or_insert(fresh)
            } else {
                continue;
            };
            *copies.blocks.entry(b).or_insert(0) += 1;
        }
    }
    let copies = anchors.into_values().chain(others.into_values());
    let entered = lines.entered.get(&function.name).copied();
    solve(&function.blocks, copies.collect(), entered)
}

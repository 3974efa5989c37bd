//! What flows where in a function: registers read and written, lives, and reads that no write precedes.

use crate::ptx::ast::{AddressBase, Body, Instruction, Operand, RegId};
use std::ops::Range;

/// Registers an instruction writes and reads, by index.
#[derive(Debug, Default, Clone)]
pub struct Effects {
    /// Written, in the lanes where the guard holds.
    pub writes: Vec<usize>,
    /// Read as data.
    pub reads: Vec<usize>,
    /// Read where a wrong value does harm at once: addresses, guards, stored data, comparisons, branches.
    pub harm: Vec<usize>,
}

/// Instructions whose first operand is read though it is a register.
fn reads_first(opcode: &[String]) -> bool {
    match opcode[0].as_str() {
        "bar" | "barrier" => !opcode.iter().any(|m| m == "red"),
        "brx" | "nanosleep" | "call" | "setmaxnreg" | "st" | "red" | "stackrestore" => true,
        _ => false,
    }
}

/// Instructions that pass an undefined value on without harm; all others but these and plain arithmetic
/// act on what they read.
fn acts(opcode: &str) -> bool {
    matches!(
        opcode,
        "st" | "red"
            | "atom"
            | "setp"
            | "bar"
            | "barrier"
            | "brx"
            | "call"
            | "shfl"
            | "vote"
            | "match"
            | "redux"
            | "cp"
            | "mbarrier"
            | "nanosleep"
            | "stmatrix"
            | "alloca"
            | "stackrestore"
    )
}

fn registers(operand: &Operand, out: &mut Vec<usize>) {
    match operand {
        Operand::Reg(RegId(r))
        | Operand::NotReg(RegId(r))
        | Operand::Part { reg: RegId(r), .. }
        | Operand::Address(AddressBase::Reg(RegId(r)), _) => out.push(*r as usize),
        Operand::Vector(list) | Operand::List(list) | Operand::Composite(list) => {
            list.iter().for_each(|o| registers(o, out))
        }
        Operand::Pair(a, b) => {
            registers(a, out);
            registers(b, out);
        }
        _ => {}
    }
}

/// What an instruction reads and writes.
pub fn effects(inst: &Instruction) -> Effects {
    let mut e = Effects::default();
    let mut sources = &inst.operands[..];
    if let Some((first, rest)) = inst.operands.split_first()
        && matches!(
            first,
            Operand::Reg(_)
                | Operand::Part { .. }
                | Operand::Vector(_)
                | Operand::Pair(..)
                | Operand::Sink
        )
        && !reads_first(&inst.opcode)
    {
        registers(first, &mut e.writes);
        sources = rest;
    }
    for operand in sources {
        let harmful = acts(&inst.opcode[0])
            || matches!(operand, Operand::Address(..) | Operand::Composite(_));
        registers(operand, if harmful { &mut e.harm } else { &mut e.reads });
    }
    if let Some(guard) = inst.guard {
        e.harm.push(guard.reg.0 as usize);
    }
    e
}

/// A set of registers.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: usize, full: bool) -> Set {
        Set(vec![if full { u64::MAX } else { 0 }; len.div_ceil(64)])
    }
    fn has(&self, k: usize) -> bool {
        self.0[k / 64] >> (k % 64) & 1 != 0
    }
    fn put(&mut self, k: usize) {
        self.0[k / 64] |= 1 << (k % 64);
    }
    fn take(&mut self, k: usize) {
        self.0[k / 64] &= !(1 << (k % 64));
    }
    fn join(&mut self, other: &Set) -> bool {
        let mut changed = false;
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            changed |= *b & !*a != 0;
            *a |= b;
        }
        changed
    }
    fn meet(&mut self, other: &Set) -> bool {
        let mut changed = false;
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            changed |= *a & !*b != 0;
            *a &= b;
        }
        changed
    }
    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(w, &bits)| {
            let mut bits = bits;
            std::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let k = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                Some(w * 64 + k)
            })
        })
    }
}

/// A straight run of instructions and where it can go.
struct BasicBlock {
    range: Range<usize>,
    next: Vec<usize>,
}

fn blocks(body: &Body) -> Vec<BasicBlock> {
    let count = body.instructions.len();
    let mut starts = vec![false; count + 1];
    starts[0] = true;
    for &at in body.labels.values() {
        starts[at.min(count)] = true;
    }
    let ends = |i: &Instruction| {
        matches!(
            i.opcode[0].as_str(),
            "bra" | "brx" | "ret" | "exit" | "trap"
        )
    };
    for (k, inst) in body.instructions.iter().enumerate() {
        if ends(inst) {
            starts[k + 1] = true;
        }
    }
    let firsts: Vec<usize> = (0..count).filter(|&k| starts[k]).collect();
    let block_at = |at: usize| firsts.binary_search(&at).ok();
    firsts
        .iter()
        .enumerate()
        .map(|(b, &first)| {
            let end = firsts.get(b + 1).copied().unwrap_or(count);
            let last = &body.instructions[end - 1];
            let mut next = Vec::new();
            let label = |name: &String| body.labels.get(name).and_then(|&at| block_at(at));
            match last.opcode[0].as_str() {
                "bra" => {
                    if let Some(Operand::Symbol(name, _)) = last.operands.first() {
                        next.extend(label(name));
                    }
                }
                "brx" => {
                    if let Some(Operand::Symbol(table, _)) = last.operands.get(1) {
                        next.extend(
                            body.branch_targets
                                .get(table)
                                .into_iter()
                                .flatten()
                                .filter_map(label),
                        );
                    }
                }
                _ => {}
            }
            if !ends(last) || last.guard.is_some() {
                next.extend(block_at(end));
            }
            BasicBlock {
                range: first..end,
                next,
            }
        })
        .collect()
}

/// What is known of a body's registers.
pub struct Analysis {
    /// First and last instruction at which each register must keep its value; `None` where it is never used.
    pub lives: Vec<Option<(usize, usize)>>,
    /// Registers that may be read before they are written, and those computed from them: their lanes are
    /// watched as the kernel runs.
    pub watched: Vec<bool>,
    /// Effects by instruction.
    pub effects: Vec<Effects>,
}

/// Analyses a body.
pub fn analyse(body: &Body) -> Analysis {
    let effects: Vec<Effects> = body.instructions.iter().map(effects).collect();
    let count = body.regs.len();
    if body.instructions.is_empty() {
        return Analysis {
            lives: vec![None; count],
            watched: vec![false; count],
            effects,
        };
    }
    let blocks = blocks(body);
    Analysis {
        lives: lives(body, &effects, &blocks),
        watched: watched(body, &effects, &blocks),
        effects,
    }
}

fn lives(body: &Body, effects: &[Effects], blocks: &[BasicBlock]) -> Vec<Option<(usize, usize)>> {
    let count = body.regs.len();
    let mut live_in = vec![Set::new(count, false); blocks.len()];
    let step = |set: &mut Set, k: usize| {
        let e = &effects[k];
        // Under a guard the old value lives on in the other lanes.
        if body.instructions[k].guard.is_none() {
            e.writes.iter().for_each(|&r| set.take(r));
        } else {
            e.writes.iter().for_each(|&r| set.put(r));
        }
        e.reads.iter().chain(&e.harm).for_each(|&r| set.put(r));
    };
    let live_out = |live_in: &[Set], b: usize| {
        let mut set = Set::new(count, false);
        for &n in &blocks[b].next {
            set.join(&live_in[n]);
        }
        set
    };
    loop {
        let mut changed = false;
        for b in (0..blocks.len()).rev() {
            let mut set = live_out(&live_in, b);
            for k in blocks[b].range.clone().rev() {
                step(&mut set, k);
            }
            changed |= live_in[b].join(&set);
        }
        if !changed {
            break;
        }
    }
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; count];
    let mut extend = |r: usize, k: usize| {
        let life = lives[r].get_or_insert((k, k));
        *life = (life.0.min(k), life.1.max(k));
    };
    for (b, block) in blocks.iter().enumerate() {
        live_in[b].iter().for_each(|r| extend(r, block.range.start));
        live_out(&live_in, b)
            .iter()
            .for_each(|r| extend(r, block.range.end - 1));
        for k in block.range.clone() {
            let e = &effects[k];
            e.writes
                .iter()
                .chain(&e.reads)
                .chain(&e.harm)
                .for_each(|&r| extend(r, k));
        }
    }
    lives
}

fn watched(body: &Body, effects: &[Effects], blocks: &[BasicBlock]) -> Vec<bool> {
    let count = body.regs.len();
    let mut written_in = vec![Set::new(count, true); blocks.len()];
    written_in[0] = Set::new(count, false);
    let through = |mut set: Set, b: usize, seen: &mut dyn FnMut(usize, &Set)| {
        for k in blocks[b].range.clone() {
            seen(k, &set);
            // A guarded write leaves the other lanes as they were.
            if body.instructions[k].guard.is_none() {
                effects[k].writes.iter().for_each(|&r| set.put(r));
            }
        }
        set
    };
    loop {
        let mut changed = false;
        for b in 0..blocks.len() {
            let out = through(written_in[b].clone(), b, &mut |_, _| {});
            for &n in &blocks[b].next {
                changed |= written_in[n].meet(&out);
            }
        }
        if !changed {
            break;
        }
    }
    let mut watched = vec![false; count];
    for b in 0..blocks.len() {
        through(written_in[b].clone(), b, &mut |k, written| {
            let e = &effects[k];
            for &r in e.reads.iter().chain(&e.harm) {
                watched[r] |= !written.has(r);
            }
        });
    }
    // What is computed from a doubtful value is doubtful.
    loop {
        let mut changed = false;
        for e in effects {
            if e.reads.iter().any(|&r| watched[r]) {
                for &r in &e.writes {
                    changed |= !watched[r];
                    watched[r] = true;
                }
            }
        }
        if !changed {
            return watched;
        }
    }
}

/// Gives registers places, counted in units of a class, so that registers alive at once never share:
/// `classes[r]` is a register's class, `None` keeps it out. Returns the place of each and, for each class,
/// how many places it needs.
pub fn allocate(
    analysis: &Analysis,
    classes: &[Option<usize>],
    class_count: usize,
) -> (Vec<usize>, Vec<usize>) {
    let mut places = vec![0; classes.len()];
    let mut needed = vec![0; class_count];
    let mut free: Vec<Vec<usize>> = vec![Vec::new(); class_count];
    let mut order: Vec<(usize, usize, usize)> = analysis
        .lives
        .iter()
        .enumerate()
        .filter_map(|(r, life)| classes[r].and(*life).map(|(s, e)| (s, e, r)))
        .collect();
    order.sort_unstable();
    let mut active: std::collections::BinaryHeap<std::cmp::Reverse<(usize, usize)>> =
        Default::default();
    for (start, end, r) in order {
        // A register that dies at an instruction keeps its place through it: handlers may write their result
        // before they have read every lane of every source.
        while let Some(&std::cmp::Reverse((last, other))) = active.peek() {
            if last >= start {
                break;
            }
            active.pop();
            if let Some(class) = classes[other] {
                free[class].push(places[other]);
            }
        }
        let Some(class) = classes[r] else { continue };
        places[r] = free[class].pop().unwrap_or_else(|| {
            needed[class] += 1;
            needed[class] - 1
        });
        active.push(std::cmp::Reverse((end, r)));
    }
    (places, needed)
}

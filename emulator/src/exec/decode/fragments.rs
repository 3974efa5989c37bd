//! Fragments that one instruction can hand to the next as they are multiplied, unpacked: found before a function is
//! decoded, so that both sides are decoded to it.
//!
//! The products meant are those of `.f16` and of `.bf16` with sums of `.f32`, in the shape m16n8k16. There is one place
//! for an unpacked A and one for an unpacked B in a warp's register file. What is in them holds along a straight run of
//! instructions, into which and out of which nothing branches.

use crate::exec::flow::Analysis;
use crate::ptx::ast::{Body, Instruction, Operand, RegId, Type};
use std::collections::{HashMap, HashSet};

/// How a product gets its A.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorA {
    /// From its registers.
    Packed,
    /// It is held by rows.
    ByRows,
    /// It is held by columns.
    ByColumns,
}

/// How a product gets its factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldFactors {
    /// `.f16` or `.bf16`.
    pub element: Type,
    /// The factor A.
    pub a: FactorA,
    /// Whether the factor B is held. Where it is not, the product unpacks it to where the next may find it.
    pub b_held: bool,
}

/// A load of four matrices that are the A of one product and nothing else: their registers need not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLoad {
    /// Type of the product's elements.
    pub element: Type,
    /// For each matrix loaded, which block of A it is: the half of the rows and the half of the columns.
    pub blocks: [(u32, u32); 4],
}

/// The loads and products of a function that hold fragments, by instruction.
#[derive(Debug, Default)]
pub struct Fragments {
    loads: HashMap<usize, HeldLoad>,
    products: HashMap<usize, HeldFactors>,
}

impl Fragments {
    /// Looks for them.
    pub fn find(body: &Body, analysis: &Analysis) -> Fragments {
        let mut found = Fragments::default();
        let labelled: HashSet<usize> = body.labels.values().copied().collect();
        // Where the straight run began, the first instruction that A's place is free for, and the B held.
        let (mut start, mut free, mut b_held) = (0, 0, None);
        for (at, instruction) in body.instructions.iter().enumerate() {
            if labelled.contains(&at) {
                (start, b_held) = (at, None);
            }
            if let Some(product) = Product::of(instruction) {
                let key = (product.element, product.b);
                let load = product
                    .load(body, analysis, at)
                    .filter(|&(from, ..)| from >= start.max(free));
                let mut a = FactorA::Packed;
                if let Some((from, by_columns, blocks)) = load {
                    let element = product.element;
                    found.loads.insert(from, HeldLoad { element, blocks });
                    a = if by_columns {
                        FactorA::ByColumns
                    } else {
                        FactorA::ByRows
                    };
                }
                let factors = HeldFactors {
                    element: product.element,
                    a,
                    b_held: b_held == Some(key),
                };
                found.products.insert(at, factors);
                (free, b_held) = (at + 1, Some(key));
            }
            if let Some((_, b)) = b_held
                && b.iter().any(|r| analysis.effects[at].writes.contains(r))
            {
                b_held = None;
            }
            if leaves(instruction) {
                (start, b_held) = (at + 1, None);
            }
        }
        found
    }

    /// What the load at an instruction hands to a product.
    pub fn load(&self, at: usize) -> Option<HeldLoad> {
        self.loads.get(&at).copied()
    }

    /// How the product at an instruction gets its factors, where it is one of those that hold them.
    pub fn product(&self, at: usize) -> Option<HeldFactors> {
        self.products.get(&at).copied()
    }
}

/// Whether what follows may not be the next instruction to be executed.
fn leaves(instruction: &Instruction) -> bool {
    matches!(
        instruction.opcode[0].as_str(),
        "bra" | "brx" | "call" | "ret" | "exit" | "trap"
    )
}

/// A product that can hold its factors.
struct Product {
    element: Type,
    a: [usize; 4],
    b: [usize; 2],
}

impl Product {
    fn of(instruction: &Instruction) -> Option<Product> {
        let [opcode, modifiers @ ..] = &instruction.opcode[..] else {
            return None;
        };
        let modifiers: Vec<&str> = modifiers.iter().map(String::as_str).collect();
        let [
            "sync",
            "aligned",
            "m16n8k16",
            "row",
            "col",
            "f32",
            a,
            b,
            "f32",
        ] = modifiers[..]
        else {
            return None;
        };
        let element = match (a, b) {
            ("f16", "f16") => Type::F16,
            ("bf16", "bf16") => Type::BF16,
            _ => return None,
        };
        if opcode != "mma" || instruction.guard.is_some() {
            return None;
        }
        let [_, a, b, _] = &instruction.operands[..] else {
            return None;
        };
        Some(Product {
            element,
            a: registers(a)?,
            b: registers(b)?,
        })
    }

    /// The load that the product at `at` has its A of, if that is all of A and it has no other use: where it is, whether
    /// its matrices are columns, and which blocks of A they are.
    fn load(
        &self,
        body: &Body,
        analysis: &Analysis,
        at: usize,
    ) -> Option<(usize, bool, [(u32, u32); 4])> {
        let (from, _) = analysis.lives[self.a[0]]?;
        let load = &body.instructions[from];
        let has = |modifier| load.opcode.iter().any(|m| m == modifier);
        let only_here = |r: &usize| analysis.lives[*r] == Some((from, at)) && !analysis.watched[*r];
        let fits = load.opcode[0] == "ldmatrix"
            && ["m8n8", "x4", "b16"].into_iter().all(has)
            && load.guard.is_none()
            && self.a.iter().all(only_here);
        if !fits {
            return None;
        }
        let loaded: [usize; 4] = registers(load.operands.first()?)?;
        // The registers of A are the halves of its rows, then those of its columns.
        let mut blocks = [(0, 0); 4];
        for (block, register) in blocks.iter_mut().zip(loaded) {
            let place = self.a.iter().position(|&r| r == register)? as u32;
            *block = (place % 2, place / 2);
        }
        Some((from, has("trans"), blocks))
    }
}

/// The registers of a vector operand, where it is one of so many different ones.
fn registers<const N: usize>(operand: &Operand) -> Option<[usize; N]> {
    let Operand::Vector(list) = operand else {
        return None;
    };
    let mut out = [usize::MAX; N];
    if list.len() != N {
        return None;
    }
    for (k, element) in list.iter().enumerate() {
        let Operand::Reg(RegId(r)) = element else {
            return None;
        };
        if out.contains(&(*r as usize)) {
            return None;
        }
        out[k] = *r as usize;
    }
    Some(out)
}

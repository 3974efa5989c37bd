//! Fragments that one instruction can hand to the next as they are multiplied, unpacked: found before a function is
//! decoded, so that both sides are decoded to it.
//!
//! The products meant are those of `.f16` and of `.bf16` with sums of `.f32`, in the shape m16n8k16. There is one place
//! for an unpacked A and one for an unpacked B in a warp's register file. What is in them holds along a straight run of
//! instructions, into which and out of which nothing branches.

use crate::exec::flow::{Analysis, Effects};
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
                let a = load.map_or(FactorA::Packed, |(from, a, load)| {
                    found.loads.insert(from, load);
                    a
                });
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

    /// The load that the product at `at` has its A of, if that is all of A and it has no other use: where it is, and how
    /// the product gets it.
    fn load(
        &self,
        body: &Body,
        analysis: &Analysis,
        at: usize,
    ) -> Option<(usize, FactorA, HeldLoad)> {
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
        // Lives say when the first and the last use is, and not what is between.
        let touches = |e: &Effects| -> usize {
            let all = e.writes.iter().chain(&e.reads).chain(&e.harm);
            all.filter(|r| self.a.contains(r)).count()
        };
        let between = analysis.effects[from + 1..at]
            .iter()
            .any(|e| touches(e) != 0);
        if between || touches(&analysis.effects[at]) != self.a.len() {
            return None;
        }
        let loaded: [usize; 4] = registers(load.operands.first()?)?;
        // The registers of A are the halves of its rows, then those of its columns.
        let mut blocks = [(0, 0); 4];
        for (block, register) in blocks.iter_mut().zip(loaded) {
            let place = self.a.iter().position(|&r| r == register)? as u32;
            *block = (place % 2, place / 2);
        }
        let a = if has("trans") {
            FactorA::ByColumns
        } else {
            FactorA::ByRows
        };
        let element = self.element;
        Some((from, a, HeldLoad { element, blocks }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::flow::analyse;
    use crate::ptx;

    const LOAD: &str = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [%row];";
    const PRODUCT: &str = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%c0, %c1, %c2, %c3}, \
                           {%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};";

    /// How the products of a body get their factors, in order: A, and whether B is held.
    fn found(body: &str) -> Vec<(FactorA, bool)> {
        let text = format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k() {{\n.reg .b32 %a<4>; .reg .b32 %e<4>; .reg .b32 %b<4>;\n\
             .reg .b32 %c<4>; .reg .b32 %row; .reg .pred %p; .shared .align 16 .b8 tile[512];\nmov.u32 %row, tile;\n\
             setp.eq.u32 %p, %row, 1;\nmov.b32 %b0, 0;\nmov.b32 %b1, 0;\nmov.b32 %b2, 0;\nmov.b32 %c0, 0;\n\
             mov.b32 %c1, 0;\nmov.b32 %c2, 0;\nmov.b32 %c3, 0;\n{body}\nret;\n}}\n"
        );
        let module = ptx::parse(&text).expect("it is PTX");
        let body = module.functions[0].body.as_ref().expect("a body");
        let fragments = Fragments::find(body, &analyse(body));
        let count = body.instructions.len();
        let products: Vec<_> = (0..count).filter_map(|k| fragments.product(k)).collect();
        let held = products.iter().filter(|p| p.a != FactorA::Packed).count();
        let loads = (0..count).filter(|&k| fragments.load(k).is_some()).count();
        assert_eq!(loads, held);
        products.iter().map(|p| (p.a, p.b_held)).collect()
    }

    #[test]
    fn a_load_for_one_product_is_held() {
        use FactorA::{ByColumns, ByRows};
        assert_eq!(found(&format!("{LOAD}{PRODUCT}")), [(ByRows, false)]);
        // As the compiler writes it: what is loaded anew is in new registers.
        let columns = LOAD.replace(".x4", ".x4.trans").replace("%a", "%e");
        let second = PRODUCT.replace("%a", "%e");
        let both = format!("{LOAD}{PRODUCT}{columns}mov.b32 %b2, 1;{second}");
        assert_eq!(found(&both), [(ByRows, false), (ByColumns, true)]);
    }

    #[test]
    fn other_loads_are_not() {
        use FactorA::Packed;
        let guarded = format!("@%p {LOAD}{PRODUCT}");
        let product_guarded = format!("{LOAD}@%p {PRODUCT}");
        let label = format!("{LOAD}\nL:\n{PRODUCT}");
        let branch = format!("{LOAD}@%p bra L;\n{PRODUCT}\nL:");
        let written = format!("{LOAD}mov.b32 %a2, 0;{PRODUCT}");
        let turned = LOAD.replace("%a2, %a3", "%a2, %b3");
        for body in [
            guarded,
            label,
            branch,
            written,
            format!("{turned}mov.b32 %a3, 0;{PRODUCT}"),
        ] {
            assert_eq!(found(&body), [(Packed, false)], "{body}");
        }
        let read = format!("{LOAD}mov.b32 %b2, %a1;{PRODUCT}");
        let also_c = format!(
            "{LOAD}{}",
            PRODUCT.replace("{%c0, %c1, %c2, %c3};", "{%c0, %c1, %c2, %a3};")
        );
        for body in [read, also_c] {
            assert_eq!(found(&body), [(Packed, false)], "{body}");
        }
        // A guarded product holds nothing.
        assert_eq!(found(&product_guarded), []);
        let twice = format!("{LOAD}{PRODUCT}{PRODUCT}");
        assert_eq!(found(&twice), [(Packed, false), (Packed, true)]);
    }

    #[test]
    fn b_is_held_until_it_changes() {
        let second = |between: &str| found(&format!("{PRODUCT}{between}{PRODUCT}"))[1].1;
        assert!(second(""));
        assert!(second("mov.b32 %b2, 1;"));
        assert!(!second("mov.b32 %b1, 1;"));
        assert!(!second("@%p mov.b32 %b1, 1;"));
        assert!(!second("\nL:\n"));
        assert!(!second("@%p bra L;\nL:\n"));
        let other = PRODUCT.replace("%b0, %b1", "%b1, %b0");
        assert!(!found(&format!("{PRODUCT}{other}{PRODUCT}"))[2].1);
    }
}

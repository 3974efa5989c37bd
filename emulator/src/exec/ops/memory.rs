//! Loads, stores, moves between registers, and address conversions.

mod element;
mod load;
mod moves;
mod space;
mod stack;
mod store;
mod whole;

pub use space::{AddressLane, decode_space, encode_space, lane_addresses, space_code, space_of};
pub use whole::{compare_and_swap_whole, exchange_whole};

use super::{has, only, operands, type_of};
use crate::exec::decode::{Address, Decoder};
use crate::exec::lanes::alu1;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let inst = match i.opcode[0].as_str() {
        "ld" | "ldu" => load::load(d, i)?,
        "st" => store::store(d, i)?,
        "mov" if !super::control::reads_clock(i) => moves::mov(d, i)?,
        "cvta" => space::convert_address(d, i)?,
        "isspacep" => space::is_space(d, i)?,
        "prefetch" | "prefetchu" | "discard" | "applypriority" => {
            // Hints: the data stays what it is. (`discard` may lose it; keeping it is one of the outcomes allowed.)
            d.inst(hint)
        }
        "createpolicy" => {
            let slot = d.dst(&i.operands[0], Type::B64)?;
            let a = d.constant(0, 8);
            Inst {
                d: slot,
                a,
                ..d.inst(alu1(|x: u64| x))
            }
        }
        "alloca" => stack::allocate(d, i)?,
        "stacksave" => stack::save(d, i)?,
        "stackrestore" => stack::restore(d, i)?,
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

unsafe fn hint(_: &mut Warp, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

/// Elements of a vector operand, or the operand itself.
pub fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(list) => list,
        other => std::slice::from_ref(other),
    }
}

/// How many elements `.v2`, `.v4`, `.v8` ask for.
pub fn vector_len(i: &Instruction) -> usize {
    if has(i, "v8") {
        8
    } else if has(i, "v4") {
        4
    } else if has(i, "v2") {
        2
    } else {
        1
    }
}

const MODIFIERS: &[&str] = &[
    "global",
    "const",
    "shared",
    "shared::cta",
    "shared::cluster",
    "local",
    "param",
    "param::entry",
    "param::func",
    "v2",
    "v4",
    "v8",
    "weak",
    "relaxed",
    "acquire",
    "release",
    "volatile",
    "mmio",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
    "L2::cache_hint",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "unified",
];

/// Flags after the space code in [`Inst::aux`] of loads and stores.
pub const ACQUIRE: u32 = 1 << space_code::NEXT;
/// The access is a release.
pub const RELEASE: u32 = 2 << space_code::NEXT;
/// The access is strong: relaxed, volatile or mmio.
pub const STRONG: u32 = 4 << space_code::NEXT;

/// Not all bytes of the load are used.
const PARTLY: u32 = 8 << space_code::NEXT;

/// The address operand of a load or store, as [`Form`] has encoded it.
#[inline(always)]
fn operand(i: &Inst) -> crate::exec::access::Operand {
    crate::exec::access::Operand {
        slot: i.a,
        offset: i.imm,
        code: i.aux,
    }
}

/// What loads and stores have in common.
struct Form {
    ty: Type,
    /// Elements of the vector; one without.
    count: usize,
    address: Address,
    /// Space and order, for [`Inst::aux`].
    aux: u32,
}

impl Form {
    /// Reads a load's or store's modifiers and its address, which is operand `at`.
    fn read(d: &mut Decoder, i: &Instruction, at: usize) -> Result<Form, LoadError> {
        only(d, i, MODIFIERS)?;
        let ty = type_of(d, i)?;
        operands(d, i, 2 + usize::from(has(i, "L2::cache_hint")))?;
        let address = d.address(&i.operands[at])?;
        let mut aux = encode_space(d, space_of(i), &address)?;
        if has(i, "acquire") {
            aux |= ACQUIRE;
        }
        if has(i, "release") {
            aux |= RELEASE;
        }
        if ["relaxed", "volatile", "mmio"].iter().any(|m| has(i, m)) {
            aux |= STRONG;
        }
        Ok(Form {
            ty,
            count: vector_len(i),
            address,
            aux,
        })
    }
}

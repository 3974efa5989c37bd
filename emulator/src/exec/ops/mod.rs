//! The instruction set, a family a file. Each file turns syntax into an [`Inst`] whose handler executes it.

pub mod approximate;
pub mod async_store;
pub mod atomic;
pub mod bits;
pub mod bulk;
pub mod carry;
pub mod cluster;
pub mod collective;
pub mod compare;
pub mod control;
pub mod convert;
pub mod copy;
pub mod float;
pub mod half;
pub mod int;
pub mod logic;
pub mod matrix_load;
pub mod mbarrier;
pub mod memory;
pub mod mma;
mod narrow;
pub mod reduction;
mod shape;
pub mod tensor;
pub mod video;
pub mod wmma;

use super::decode::Decoder;
use super::module::LoadError;
use super::program::{Inst, Pipe};
use crate::ptx::ast::{Instruction, Type};

/// Decodes one instruction.
///
/// # Errors
/// An instruction, or a form of one, that no family executes.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let families = [
        int::decode,
        logic::decode,
        bits::decode,
        compare::decode,
        video::decode,
        float::decode,
        half::decode,
        convert::decode,
        memory::decode,
        control::decode,
        collective::decode,
        atomic::decode,
        copy::decode,
        mbarrier::decode,
        cluster::decode,
        tensor::decode,
    ];
    for family in families {
        if let Some(inst) = family(d, i)? {
            return Ok(inst);
        }
    }
    d.unsupported("")
}

/// The pipe an instruction is counted under.
pub fn pipe(i: &Instruction) -> Pipe {
    let last = i.opcode.last().map_or("", String::as_str);
    match i.opcode[0].as_str() {
        "ld" | "ldu" | "st" | "atom" | "red" | "cp" | "ldmatrix" | "stmatrix" | "prefetch"
        | "mbarrier" | "shfl" | "movmatrix" | "isspacep" | "discard" | "applypriority" => Pipe::Lsu,
        "mma" | "wmma" | "wgmma" => Pipe::Tensor,
        "bra" | "brx" | "call" | "ret" | "exit" | "bar" | "barrier" | "trap" | "brkpt"
        | "nanosleep" | "membar" | "fence" | "activemask" | "elect" | "griddepcontrol" => {
            Pipe::Control
        }
        "sin" | "cos" | "lg2" | "ex2" | "rcp" | "rsqrt" | "sqrt" | "tanh" | "popc" | "clz"
        | "bfind" | "brev" => Pipe::Xu,
        "cvt" => Pipe::Xu,
        "vote" | "match" | "redux" => Pipe::Alu,
        _ => match Type::from_suffix(last) {
            Some(Type::F64) => Pipe::Fp64,
            Some(Type::F32 | Type::F32x2) => Pipe::Fma,
            Some(Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2) => Pipe::Fp16,
            _ if i.opcode[0].starts_with("mul") || i.opcode[0].starts_with("mad") => Pipe::Fma,
            _ => Pipe::Alu,
        },
    }
}

/// The last opcode part as a type.
///
/// # Errors
/// Where it is none.
pub fn type_of(d: &Decoder, i: &Instruction) -> Result<Type, LoadError> {
    match i.opcode.last().and_then(|s| Type::from_suffix(s)) {
        Some(ty) => Ok(ty),
        None => d.unsupported("no type"),
    }
}

/// Whether a modifier is present.
pub fn has(i: &Instruction, modifier: &str) -> bool {
    i.opcode[1..].iter().any(|m| m == modifier)
}

/// Refuses modifiers that are not among `known` (types and the opcode itself aside).
///
/// # Errors
/// The first unknown modifier.
pub fn only(d: &Decoder, i: &Instruction, known: &[&str]) -> Result<(), LoadError> {
    for m in &i.opcode[1..] {
        if Type::from_suffix(m).is_none() && !known.contains(&m.as_str()) {
            return d.unsupported(format!("modifier .{m}"));
        }
    }
    Ok(())
}

/// Checks the number of operands.
///
/// # Errors
/// Where it differs.
pub fn operands(d: &Decoder, i: &Instruction, count: usize) -> Result<(), LoadError> {
    if i.operands.len() == count {
        return Ok(());
    }
    d.invalid(format!(
        "{} operands, where {count} belong",
        i.operands.len()
    ))
}

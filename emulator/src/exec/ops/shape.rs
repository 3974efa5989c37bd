//! Operand shapes that most arithmetic shares, and the choice of a handler by type.

use super::operands;
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Handler, Inst};
use crate::ptx::ast::{Instruction, Type};

/// `op d, a` with `d` of `out` and `a` of `a`.
///
/// # Errors
/// Operands of another number or type.
pub fn unary(
    d: &mut Decoder,
    i: &Instruction,
    out: Type,
    a: Type,
    run: Handler,
) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let (out, a) = (d.dst(&i.operands[0], out)?, d.src(&i.operands[1], a)?);
    Ok(Inst {
        d: out,
        a,
        ..d.inst(run)
    })
}

/// `op d, a, b`.
///
/// # Errors
/// Operands of another number or type.
pub fn binary(
    d: &mut Decoder,
    i: &Instruction,
    out: Type,
    [a, b]: [Type; 2],
    run: Handler,
) -> Result<Inst, LoadError> {
    operands(d, i, 3)?;
    let out = d.dst(&i.operands[0], out)?;
    let (a, b) = (d.src(&i.operands[1], a)?, d.src(&i.operands[2], b)?);
    Ok(Inst {
        d: out,
        a,
        b,
        ..d.inst(run)
    })
}

/// `op d, a, b, c`.
///
/// # Errors
/// Operands of another number or type.
pub fn ternary(
    d: &mut Decoder,
    i: &Instruction,
    out: Type,
    [a, b, c]: [Type; 3],
    run: Handler,
) -> Result<Inst, LoadError> {
    operands(d, i, 4)?;
    let out = d.dst(&i.operands[0], out)?;
    let (a, b, c) = (
        d.src(&i.operands[1], a)?,
        d.src(&i.operands[2], b)?,
        d.src(&i.operands[3], c)?,
    );
    Ok(Inst {
        d: out,
        a,
        b,
        c,
        ..d.inst(run)
    })
}

/// Refuses modifiers that are not among `known`; unlike [`super::only`], types in the middle of the opcode too.
///
/// # Errors
/// The first unknown modifier.
pub fn exactly(d: &Decoder, i: &Instruction, known: &[&str]) -> Result<(), LoadError> {
    let last = i.opcode.len() - 1;
    match i.opcode[1..last.max(1)]
        .iter()
        .find(|m| !known.contains(&m.as_str()))
    {
        Some(m) => d.unsupported(format!("modifier .{m}")),
        None => Ok(()),
    }
}

/// `alu(|x: T, …| body)` for the `T` that belongs to a type, out of those listed; another type is refused.
macro_rules! by_type {
    ($d:expr, $ty:expr, $alu:ident, [$($V:ident $t:ident),*], |$x:ident| $body:expr) => {
        by_type!(@ $d, $ty, $alu, [$($V $t),*], (|$x: T| $body))
    };
    ($d:expr, $ty:expr, $alu:ident, [$($V:ident $t:ident),*], |$x:ident, $y:ident| $body:expr) => {
        by_type!(@ $d, $ty, $alu, [$($V $t),*], (|$x: T, $y: T| $body))
    };
    ($d:expr, $ty:expr, $alu:ident, [$($V:ident $t:ident),*], |$x:ident, $y:ident, $z:ident| $body:expr) => {
        by_type!(@ $d, $ty, $alu, [$($V $t),*], (|$x: T, $y: T, $z: T| $body))
    };
    (@ $d:expr, $ty:expr, $alu:ident, [$($V:ident $t:ident),*], $f:tt) => {
        match $ty {
            $($crate::ptx::ast::Type::$V => {
                type T = $t;
                #[allow(unused_parens)]
                $crate::exec::lanes::$alu($f)
            })*
            other => return $d.unsupported(format!("type {other:?}")),
        }
    };
}
pub(super) use by_type;

//! Bitwise logic and shifts.

use super::has;
use super::int::unsigned;
use super::shape::{binary, by_type, exactly, ternary, unary};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, alu2, alu3, each, pick_handler};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let op = i.opcode[0].as_str();
    if !matches!(
        op,
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf"
    ) {
        return Ok(None);
    }
    let ty = super::type_of(d, i)?;
    let inst = match op {
        "and" | "or" | "xor" | "not" if ty == Type::Pred => predicate(d, i)?,
        "and" | "or" | "xor" => {
            exactly(d, i, &[])?;
            let ty = bits_only(d, ty)?;
            let run = match op {
                "and" => by_type!(d, unsigned(ty), alu2, [U16 u16, U32 u32, U64 u64], |a, b| a & b),
                "or" => by_type!(d, unsigned(ty), alu2, [U16 u16, U32 u32, U64 u64], |a, b| a | b),
                _ => by_type!(d, unsigned(ty), alu2, [U16 u16, U32 u32, U64 u64], |a, b| a ^ b),
            };
            binary(d, i, ty, [ty; 2], run)?
        }
        "not" | "cnot" => {
            exactly(d, i, &[])?;
            let ty = bits_only(d, ty)?;
            let run = if op == "not" {
                by_type!(d, unsigned(ty), alu1, [U16 u16, U32 u32, U64 u64], |a| !a)
            } else {
                by_type!(d, unsigned(ty), alu1, [U16 u16, U32 u32, U64 u64], |a| (a == 0) as T)
            };
            unary(d, i, ty, ty, run)?
        }
        "lop3" => lop3(d, i)?,
        "shl" => {
            exactly(d, i, &[])?;
            let ty = bits_only(d, ty)?;
            // Amounts past the width are clamped to it.
            let run = match ty {
                Type::B16 => alu2(|a: u16, n: u32| if n > 15 { 0 } else { a << n }),
                Type::B32 => alu2(|a: u32, n: u32| if n > 31 { 0 } else { a << n }),
                _ => alu2(|a: u64, n: u32| if n > 63 { 0 } else { a << n }),
            };
            binary(d, i, ty, [ty, Type::U32], run)?
        }
        "shr" => {
            exactly(d, i, &[])?;
            let run = match ty {
                Type::B16 | Type::U16 => alu2(|a: u16, n: u32| if n > 15 { 0 } else { a >> n }),
                Type::B32 | Type::U32 => alu2(|a: u32, n: u32| if n > 31 { 0 } else { a >> n }),
                Type::B64 | Type::U64 => alu2(|a: u64, n: u32| if n > 63 { 0 } else { a >> n }),
                Type::S16 => alu2(|a: i16, n: u32| a >> n.min(15)),
                Type::S32 => alu2(|a: i32, n: u32| a >> n.min(31)),
                Type::S64 => alu2(|a: i64, n: u32| a >> n.min(63)),
                _ => return d.unsupported("type"),
            };
            binary(d, i, ty, [ty, Type::U32], run)?
        }
        _ => {
            exactly(d, i, &["l", "r", "clamp", "wrap"])?;
            let run = match (has(i, "l"), has(i, "clamp")) {
                (true, true) => {
                    alu3(|a: u32, b: u32, n: u32| (pair(a, b) << n.min(32) >> 32) as u32)
                }
                (true, false) => {
                    alu3(|a: u32, b: u32, n: u32| (pair(a, b) << (n & 31) >> 32) as u32)
                }
                (false, true) => alu3(|a: u32, b: u32, n: u32| (pair(a, b) >> n.min(32)) as u32),
                (false, false) => alu3(|a: u32, b: u32, n: u32| (pair(a, b) >> (n & 31)) as u32),
            };
            ternary(d, i, Type::B32, [Type::B32, Type::B32, Type::U32], run)?
        }
    };
    Ok(Some(inst))
}

fn bits_only(d: &Decoder, ty: Type) -> Result<Type, LoadError> {
    match ty {
        Type::B16 | Type::B32 | Type::B64 => Ok(ty),
        _ => d.unsupported(format!("type {ty:?}")),
    }
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Negated operands of predicate logic, in [`Inst::aux`].
const NOT_A: u32 = 1;
const NOT_B: u32 = 2;

/// `and`, `or`, `xor`, `not` of predicates.
fn predicate(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    exactly(d, i, &[])?;
    let op = i.opcode[0].as_str();
    super::operands(d, i, if op == "not" { 2 } else { 3 })?;
    let target = d.dst(&i.operands[0], Type::Pred)?;
    let (a, not_a) = d.predicate(&i.operands[1])?;
    let (b, not_b) = d.predicate(&i.operands[i.operands.len() - 1])?;
    let aux = if not_a { NOT_A } else { 0 } | if not_b { NOT_B } else { 0 };
    let run: Handler = match op {
        "and" => |w, i, m| masks(w, i, m, |a, b| a & b),
        "or" => |w, i, m| masks(w, i, m, |a, b| a | b),
        "xor" => |w, i, m| masks(w, i, m, |a, b| a ^ b),
        _ => |w, i, m| masks(w, i, m, |a, _| !a),
    };
    Ok(Inst {
        d: target,
        a,
        b,
        aux,
        ..d.inst(run)
    })
}

#[inline(always)]
fn masks(w: &mut Warp, i: &Inst, mask: u32, f: impl Fn(u32, u32) -> u32) -> Flow {
    // SAFETY: the operands are predicate slots of the warp's file, as a handler's caller promises.
    unsafe {
        let a = *w.slot(i.a).cast::<u32>() ^ if i.aux & NOT_A != 0 { u32::MAX } else { 0 };
        let b = *w.slot(i.b).cast::<u32>() ^ if i.aux & NOT_B != 0 { u32::MAX } else { 0 };
        let d = w.slot(i.d).cast::<u32>();
        *d = *d & !mask | f(a, b) & mask;
    }
    Flow::Next
}

/// The coefficients of the table's exclusive-or normal form: bit k stands for the product of the operands
/// that k names (1 is c, 2 is b, 4 is a).
const fn normal_form(table: u32) -> u32 {
    let mut t = table & 0xff;
    t ^= (t & 0x55) << 1;
    t ^= (t & 0x33) << 2;
    t ^= (t & 0x0f) << 4;
    t
}

/// A three-input function by its normal form, each coefficient spread over a word.
#[inline(always)]
fn evaluate(k: [u32; 8], a: u32, b: u32, c: u32) -> u32 {
    let (ab, ac, bc) = (a & b, a & c, b & c);
    k[0] ^ (k[1] & c)
        ^ (k[2] & b)
        ^ (k[3] & bc)
        ^ (k[4] & a)
        ^ (k[5] & ac)
        ^ (k[6] & ab)
        ^ (k[7] & ab & c)
}

const fn spread(form: u32) -> [u32; 8] {
    let mut k = [0; 8];
    let mut j = 0;
    while j < 8 {
        k[j] = if form >> j & 1 != 0 { u32::MAX } else { 0 };
        j += 1;
    }
    k
}

#[inline(always)]
unsafe fn any_lop3(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are 32-bit slots of the warp's file.
    unsafe {
        let (a, b, c) = (
            u32::load(w.slot(i.a)),
            u32::load(w.slot(i.b)),
            u32::load(w.slot(i.c)),
        );
        let k = spread(i.aux);
        let out: [u32; 32] = each(|l| evaluate(k, a[l], b[l], c[l]));
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

fn known_lop3<const TABLE: u32>() -> Handler {
    alu3(|a: u32, b: u32, c: u32| evaluate(const { spread(normal_form(TABLE)) }, a, b, c))
}

/// `d = table(a, b, c)`, and for the form with a predicate `p = (d != 0) op q`.
fn lop3(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let boolean = has(i, "and") || has(i, "or");
    exactly(d, i, &["and", "or"])?;
    super::operands(d, i, if boolean { 6 } else { 5 })?;
    let Operand::Int(table @ 0..=255) = i.operands[4] else {
        return d.invalid("the table is no constant of 8 bits");
    };
    let table = table as u32;
    let [a, b, c] = [1, 2, 3].map(|k| d.src(&i.operands[k], Type::B32));
    let (a, b, c) = (a?, b?, c?);
    if boolean {
        let Operand::Pair(first, second) = &i.operands[0] else {
            return d.invalid("a pair of destinations belongs");
        };
        let (target, p) = (d.dst(first, Type::B32)?, d.dst(second, Type::Pred)?);
        let (q, negated) = d.predicate(&i.operands[5])?;
        let extra = d.extras([
            p,
            q,
            if negated { u32::MAX } else { 0 },
            u32::from(has(i, "and")),
        ]);
        return Ok(Inst {
            d: target,
            a,
            b,
            c,
            aux: normal_form(table),
            extra,
            ..d.inst(pick_handler!(lop3_predicate))
        });
    }
    let target = d.dst(&i.operands[0], Type::B32)?;
    // The tables met most have handlers of their own: and, or and xor of two and three, and selections.
    let run = match table {
        0xc0 => known_lop3::<0xc0>(),
        0xfc => known_lop3::<0xfc>(),
        0x3c => known_lop3::<0x3c>(),
        0x80 => known_lop3::<0x80>(),
        0xfe => known_lop3::<0xfe>(),
        0x96 => known_lop3::<0x96>(),
        0xea => known_lop3::<0xea>(),
        0xf8 => known_lop3::<0xf8>(),
        0x6a => known_lop3::<0x6a>(),
        0x78 => known_lop3::<0x78>(),
        0xe2 => known_lop3::<0xe2>(),
        0xe4 => known_lop3::<0xe4>(),
        0xca => known_lop3::<0xca>(),
        0xd8 => known_lop3::<0xd8>(),
        _ => pick_handler!(any_lop3),
    };
    Ok(Inst {
        d: target,
        a,
        b,
        c,
        aux: normal_form(table),
        ..d.inst(run)
    })
}

#[inline(always)]
unsafe fn lop3_predicate(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file; the destination may be the sink, so it is not read back.
    unsafe {
        let (a, b, c) = (
            u32::load(w.slot(i.a)),
            u32::load(w.slot(i.b)),
            u32::load(w.slot(i.c)),
        );
        let q = *w.slot(w.extra(i, 1)).cast::<u32>() ^ w.extra(i, 2);
        let k = spread(i.aux);
        let out: [u32; 32] = each(|l| evaluate(k, a[l], b[l], c[l]));
        let mut set = 0u32;
        for l in 0..32 {
            set |= u32::from(out[l] != 0) << l;
        }
        let result = if w.extra(i, 3) != 0 { set & q } else { set | q };
        u32::store(w.slot(i.d), out, mask);
        let p = w.slot(w.extra(i, 0)).cast::<u32>();
        *p = *p & !mask | result & mask;
    }
    Flow::Next
}

//! Integer arithmetic. What overwrites the carry flag is in [`super::carry`], bits in [`super::bits`].

use super::shape::{binary, by_type, exactly, ternary, unary};
use super::{carry, has};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{alu2, alu3};
use crate::exec::module::LoadError;
use crate::exec::program::{Handler, Inst};
use crate::ptx::ast::{Instruction, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let op = i.opcode[0].as_str();
    if carry::owns(i) {
        return carry::decode(d, i).map(Some);
    }
    // nvcc's headers put `.relu` after the type.
    let reordered;
    let i = match i.opcode.split_last() {
        Some((last, rest)) if last == "relu" && rest.len() == 2 && matches!(op, "min" | "max") => {
            let opcode = [op.to_string(), last.clone(), rest[1].clone()];
            reordered = Instruction {
                opcode: opcode.into(),
                ..i.clone()
            };
            &reordered
        }
        _ => i,
    };
    let last = i.opcode.last().map_or("", String::as_str);
    if matches!(last, "u16x2" | "s16x2") {
        return packed(d, i, last == "s16x2");
    }
    let ty = match Type::from_suffix(last) {
        Some(ty) if is_int(ty) => ty,
        _ => return Ok(None),
    };
    let inst = match op {
        "add" | "sub" => {
            exactly(d, i, if ty == Type::S32 { &["sat"] } else { &[] })?;
            let run = match (op, has(i, "sat")) {
                ("add", true) => alu2(|a: i32, b: i32| a.saturating_add(b)),
                (_, true) => alu2(|a: i32, b: i32| a.saturating_sub(b)),
                ("add", _) => {
                    by_type!(d, unsigned(ty), alu2, [U16 u16, U32 u32, U64 u64], |a, b| { a.wrapping_add(b) })
                }
                _ => {
                    by_type!(d, unsigned(ty), alu2, [U16 u16, U32 u32, U64 u64], |a, b| { a.wrapping_sub(b) })
                }
            };
            binary(d, i, ty, [ty; 2], run)?
        }
        "mul" => mul(d, i, ty)?,
        "mad" => mad(d, i, ty)?,
        "mul24" => {
            exactly(d, i, &["lo", "hi"])?;
            let run = match (ty, has(i, "hi")) {
                (Type::U32, false) => alu2(|a: u32, b: u32| product24(a, b) as u32),
                (Type::U32, true) => alu2(|a: u32, b: u32| (product24(a, b) >> 16) as u32),
                (Type::S32, false) => alu2(|a: i32, b: i32| signed_product24(a, b) as i32),
                (Type::S32, true) => alu2(|a: i32, b: i32| (signed_product24(a, b) >> 16) as i32),
                _ => return d.unsupported("type"),
            };
            binary(d, i, ty, [ty; 2], run)?
        }
        "mad24" => {
            exactly(d, i, &["lo", "hi", "sat"])?;
            let run = match (ty, has(i, "hi"), has(i, "sat")) {
                (Type::U32, false, false) => {
                    alu3(|a: u32, b: u32, c: u32| (product24(a, b) as u32).wrapping_add(c))
                }
                (Type::U32, true, false) => {
                    alu3(|a: u32, b: u32, c: u32| ((product24(a, b) >> 16) as u32).wrapping_add(c))
                }
                (Type::S32, false, false) => {
                    alu3(|a: i32, b: i32, c: i32| (signed_product24(a, b) as i32).wrapping_add(c))
                }
                (Type::S32, true, false) => alu3(|a: i32, b: i32, c: i32| {
                    ((signed_product24(a, b) >> 16) as i32).wrapping_add(c)
                }),
                (Type::S32, true, true) => alu3(|a: i32, b: i32, c: i32| {
                    ((signed_product24(a, b) >> 16) as i32).saturating_add(c)
                }),
                _ => return d.unsupported("type"),
            };
            ternary(d, i, ty, [ty; 3], run)?
        }
        "div" => {
            exactly(d, i, &[])?;
            // What the device's own sequences give for a zero divisor: all ones.
            let run = by_type!(d, ty, alu2, [U16 u16, U32 u32, U64 u64, S16 i16, S32 i32, S64 i64],
                |a, b| { if b == 0 { !0 } else { a.wrapping_div(b) } });
            binary(d, i, ty, [ty; 2], run)?
        }
        "rem" => {
            exactly(d, i, &[])?;
            let run = by_type!(d, ty, alu2, [U16 u16, U32 u32, U64 u64, S16 i16, S32 i32, S64 i64],
                |a, b| { if b == 0 { !0 } else { a.wrapping_rem(b) } });
            binary(d, i, ty, [ty; 2], run)?
        }
        "abs" => {
            exactly(d, i, &[])?;
            let run = by_type!(d, ty, alu1, [S16 i16, S32 i32, S64 i64], |a| { a.wrapping_abs() });
            unary(d, i, ty, ty, run)?
        }
        "neg" => {
            exactly(d, i, &[])?;
            let run = by_type!(d, ty, alu1, [S16 i16, S32 i32, S64 i64], |a| { a.wrapping_neg() });
            unary(d, i, ty, ty, run)?
        }
        "min" | "max" => {
            exactly(d, i, if ty == Type::S32 { &["relu"] } else { &[] })?;
            let run = match (op, has(i, "relu")) {
                ("min", true) => alu2(|a: i32, b: i32| a.min(b).max(0)),
                (_, true) => alu2(|a: i32, b: i32| a.max(b).max(0)),
                ("min", _) => {
                    by_type!(d, ty, alu2, [U16 u16, U32 u32, U64 u64, S16 i16, S32 i32, S64 i64],
                    |a, b| { a.min(b) })
                }
                _ => by_type!(d, ty, alu2, [U16 u16, U32 u32, U64 u64, S16 i16, S32 i32, S64 i64],
                    |a, b| { a.max(b) }),
            };
            binary(d, i, ty, [ty; 2], run)?
        }
        "sad" => {
            exactly(d, i, &[])?;
            let run = by_type!(d, ty, alu3, [U16 u16, U32 u32, U64 u64, S16 i16, S32 i32, S64 i64],
                |a, b, c| { c.wrapping_add(if a < b { b.wrapping_sub(a) } else { a.wrapping_sub(b) }) });
            ternary(d, i, ty, [ty; 3], run)?
        }
        "dp4a" => dot(d, i, false)?,
        "dp2a" => dot(d, i, true)?,
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

/// Whether a type is one of the integers or untyped bits (predicates are not).
pub fn is_int(ty: Type) -> bool {
    use Type::*;
    matches!(
        ty,
        U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64 | B8 | B16 | B32 | B64
    )
}

/// The unsigned type of the same size, for operations to which the sign is nothing.
pub fn unsigned(ty: Type) -> Type {
    match ty {
        Type::S8 | Type::B8 => Type::U8,
        Type::S16 | Type::B16 => Type::U16,
        Type::S32 | Type::B32 => Type::U32,
        Type::S64 | Type::B64 => Type::U64,
        other => other,
    }
}

fn twice(d: &Decoder, ty: Type) -> Result<Type, LoadError> {
    Ok(match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        Type::S32 => Type::S64,
        _ => return d.unsupported("type"),
    })
}

/// Product of the low 24 bits.
fn product24(a: u32, b: u32) -> u64 {
    u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
}

/// Product of the low 24 bits, as signed numbers.
fn signed_product24(a: i32, b: i32) -> i64 {
    i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)
}

/// The upper half of a product.
trait MulHigh: Copy {
    fn mul_high(self, other: Self) -> Self;
}

macro_rules! mul_high {
    ($($t:ident $wide:ident),*) => {$(
        impl MulHigh for $t {
            #[inline(always)]
            fn mul_high(self, other: $t) -> $t {
                ((self as $wide * other as $wide) >> $t::BITS) as $t
            }
        }
    )*};
}
mul_high!(u16 u32, i16 i32, u32 u64, i32 i64, u64 u128, i64 i128);

fn mul(d: &mut Decoder, i: &Instruction, ty: Type) -> Result<Inst, LoadError> {
    exactly(d, i, &["lo", "hi", "wide"])?;
    if has(i, "wide") {
        let run = wide_product(d, ty)?;
        return binary(d, i, twice(d, ty)?, [ty; 2], run);
    }
    let run = if has(i, "hi") {
        by_type!(d, ty, alu2, [U16 u16, U32 u32, U64 u64, S16 i16, S32 i32, S64 i64], |a, b| { a.mul_high(b) })
    } else {
        by_type!(d, unsigned(ty), alu2, [U16 u16, U32 u32, U64 u64], |a, b| { a.wrapping_mul(b) })
    };
    binary(d, i, ty, [ty; 2], run)
}

fn wide_product(d: &Decoder, ty: Type) -> Result<Handler, LoadError> {
    Ok(match ty {
        Type::U16 => alu2(|a: u16, b: u16| u32::from(a) * u32::from(b)),
        Type::S16 => alu2(|a: i16, b: i16| i32::from(a) * i32::from(b)),
        Type::U32 => alu2(|a: u32, b: u32| u64::from(a) * u64::from(b)),
        Type::S32 => alu2(|a: i32, b: i32| i64::from(a) * i64::from(b)),
        _ => return d.unsupported("type"),
    })
}

fn mad(d: &mut Decoder, i: &Instruction, ty: Type) -> Result<Inst, LoadError> {
    let saturating = ty == Type::S32 && has(i, "hi");
    exactly(
        d,
        i,
        if saturating {
            &["hi", "sat"]
        } else {
            &["lo", "hi", "wide"]
        },
    )?;
    if has(i, "wide") {
        let run = match ty {
            Type::U16 => {
                alu3(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c))
            }
            Type::S16 => {
                alu3(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c))
            }
            Type::U32 => {
                alu3(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
            }
            Type::S32 => {
                alu3(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c))
            }
            _ => return d.unsupported("type"),
        };
        let wide = twice(d, ty)?;
        return ternary(d, i, wide, [ty, ty, wide], run);
    }
    let run = if has(i, "sat") {
        alu3(|a: i32, b: i32, c: i32| a.mul_high(b).saturating_add(c))
    } else if has(i, "hi") {
        by_type!(d, ty, alu3, [U16 u16, U32 u32, U64 u64, S16 i16, S32 i32, S64 i64],
            |a, b, c| { a.mul_high(b).wrapping_add(c) })
    } else {
        by_type!(d, unsigned(ty), alu3, [U16 u16, U32 u32, U64 u64], |a, b, c| { a.wrapping_mul(b).wrapping_add(c) })
    };
    ternary(d, i, ty, [ty; 3], run)
}

/// Two 16-bit integers in a register.
fn packed(d: &mut Decoder, i: &Instruction, signed: bool) -> Result<Option<Inst>, LoadError> {
    let relu = has(i, "relu");
    exactly(
        d,
        i,
        if signed && matches!(i.opcode[0].as_str(), "min" | "max") {
            &["relu"]
        } else {
            &[]
        },
    )?;
    let run = match (i.opcode[0].as_str(), signed) {
        ("add", _) => alu2(|a: u32, b: u32| halves(a, b, u16::wrapping_add)),
        ("min", false) => alu2(|a: u32, b: u32| halves(a, b, Ord::min)),
        ("max", false) => alu2(|a: u32, b: u32| halves(a, b, Ord::max)),
        ("min", true) if relu => alu2(|a: u32, b: u32| signed_halves(a, b, |x, y| x.min(y).max(0))),
        ("max", true) if relu => alu2(|a: u32, b: u32| signed_halves(a, b, |x, y| x.max(y).max(0))),
        ("min", true) => alu2(|a: u32, b: u32| signed_halves(a, b, Ord::min)),
        ("max", true) => alu2(|a: u32, b: u32| signed_halves(a, b, Ord::max)),
        _ => return Ok(None),
    };
    binary(d, i, Type::B32, [Type::B32; 2], run).map(Some)
}

#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

#[inline(always)]
fn signed_halves(a: u32, b: u32, f: impl Fn(i16, i16) -> i16) -> u32 {
    halves(a, b, |x, y| f(x as i16, y as i16) as u16)
}

/// `dp4a` and `dp2a`: `pairs` is for the latter, whose first operand holds two 16-bit numbers.
fn dot(d: &mut Decoder, i: &Instruction, pairs: bool) -> Result<Inst, LoadError> {
    let n = i.opcode.len();
    let types: Vec<Type> = i.opcode[n.max(2) - 2..]
        .iter()
        .filter_map(|m| Type::from_suffix(m))
        .collect();
    let signs = match types[..] {
        [a, b] => (a == Type::S32, b == Type::S32),
        _ => return d.invalid("two types belong"),
    };
    if types.iter().any(|t| !matches!(t, Type::U32 | Type::S32)) {
        return d.unsupported("type");
    }
    if i.opcode[1..n - 2]
        .iter()
        .any(|m| !pairs || !matches!(m.as_str(), "lo" | "hi"))
    {
        return d.unsupported("modifier");
    }
    let run = match (pairs, has(i, "hi"), signs) {
        (false, _, (false, false)) => alu3(|a: u32, b: u32, c: u32| dot4(a, b, c, zero8, zero8)),
        (false, _, (false, true)) => alu3(|a: u32, b: u32, c: u32| dot4(a, b, c, zero8, sign8)),
        (false, _, (true, false)) => alu3(|a: u32, b: u32, c: u32| dot4(a, b, c, sign8, zero8)),
        (false, _, (true, true)) => alu3(|a: u32, b: u32, c: u32| dot4(a, b, c, sign8, sign8)),
        (true, false, (false, false)) => {
            alu3(|a: u32, b: u32, c: u32| dot2(a, b, c, zero16, zero8))
        }
        (true, false, (false, true)) => alu3(|a: u32, b: u32, c: u32| dot2(a, b, c, zero16, sign8)),
        (true, false, (true, false)) => alu3(|a: u32, b: u32, c: u32| dot2(a, b, c, sign16, zero8)),
        (true, false, (true, true)) => alu3(|a: u32, b: u32, c: u32| dot2(a, b, c, sign16, sign8)),
        (true, true, (false, false)) => {
            alu3(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, zero16, zero8))
        }
        (true, true, (false, true)) => {
            alu3(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, zero16, sign8))
        }
        (true, true, (true, false)) => {
            alu3(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, sign16, zero8))
        }
        (true, true, (true, true)) => {
            alu3(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, sign16, sign8))
        }
    };
    let sum = if signs == (false, false) {
        Type::U32
    } else {
        Type::S32
    };
    ternary(d, i, sum, [types[0], types[1], sum], run)
}

#[inline(always)]
fn zero8(x: u32) -> u32 {
    x & 0xff
}
#[inline(always)]
fn sign8(x: u32) -> u32 {
    x as i8 as u32
}
#[inline(always)]
fn zero16(x: u32) -> u32 {
    x & 0xffff
}
#[inline(always)]
fn sign16(x: u32) -> u32 {
    x as i16 as u32
}

#[inline(always)]
fn dot4(a: u32, b: u32, c: u32, fa: impl Fn(u32) -> u32, fb: impl Fn(u32) -> u32) -> u32 {
    let mut sum = c;
    for k in 0..4 {
        sum = sum.wrapping_add(fa(a >> (8 * k)).wrapping_mul(fb(b >> (8 * k))));
    }
    sum
}

#[inline(always)]
fn dot2(a: u32, b: u32, c: u32, fa: impl Fn(u32) -> u32, fb: impl Fn(u32) -> u32) -> u32 {
    let mut sum = c;
    for k in 0..2 {
        sum = sum.wrapping_add(fa(a >> (16 * k)).wrapping_mul(fb(b >> (8 * k))));
    }
    sum
}

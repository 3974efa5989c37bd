//! Arithmetic of binary32 and binary64 numbers with every rounding, `.ftz` and `.sat`.

use super::shape::{binary, exactly, ternary, unary};
use super::{approximate, has};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{alu1, alu2, alu3};
use crate::exec::module::LoadError;
use crate::exec::number::exact::{self, Round};
use crate::exec::number::odd::{add_odd, direction, narrow, quotient_odd, root_odd};
use crate::exec::program::{Handler, Inst};
use crate::ptx::ast::{Instruction, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let op = i.opcode[0].as_str();
    let ty = match i.opcode.last().and_then(|s| Type::from_suffix(s)) {
        Some(ty @ (Type::F32 | Type::F64 | Type::F32x2)) => ty,
        _ => return Ok(None),
    };
    if i.opcode[1..].iter().any(|m| m == "approx" || m == "full") {
        return approximate::decode(d, i, ty).map(Some);
    }
    let inst = match op {
        "add" | "sub" | "mul" | "fma" | "mad" => arithmetic(d, i, ty)?,
        "div" | "rcp" | "sqrt" => quotient(d, i, ty)?,
        "abs" | "neg" => {
            exactly(d, i, if ty == Type::F32 { &["ftz"] } else { &[] })?;
            let run = match (op, ty, has(i, "ftz")) {
                ("abs", Type::F32, false) => alu1(|a: u32| a & 0x7fff_ffff),
                ("abs", Type::F32, true) => alu1(|a: f32| flush(a).to_bits() & 0x7fff_ffff),
                ("neg", Type::F32, false) => alu1(|a: u32| a ^ 0x8000_0000),
                ("neg", Type::F32, true) => alu1(|a: f32| flush(a).to_bits() ^ 0x8000_0000),
                ("abs", Type::F64, _) => alu1(|a: u64| a & (u64::MAX >> 1)),
                ("neg", Type::F64, _) => alu1(|a: u64| a ^ (1 << 63)),
                _ => return d.unsupported("type"),
            };
            unary(d, i, ty, ty, run)?
        }
        "min" | "max" => extremum(d, i, ty)?,
        "copysign" => {
            exactly(d, i, &[])?;
            let run = match ty {
                Type::F32 => alu2(|a: u32, b: u32| a & 0x8000_0000 | b & 0x7fff_ffff),
                Type::F64 => alu2(|a: u64, b: u64| a & (1 << 63) | b & (u64::MAX >> 1)),
                _ => return d.unsupported("type"),
            };
            binary(d, i, ty, [ty; 2], run)?
        }
        "testp" => testp(d, i, ty)?,
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

/// Zero of the same sign for a subnormal number.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    })
}

/// The one NaN that binary32 arithmetic gives.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    // In integers: to the compiler one NaN is as good as another, and it may drop a choice between floats.
    let bits = x.to_bits();
    let nan = u32::from(bits & 0x7fff_ffff > 0x7f80_0000).wrapping_neg();
    f32::from_bits((bits & !nan) | (0x7fff_ffff & nan))
}

/// The one NaN that binary64 arithmetic gives.
#[inline(always)]
pub fn canonical64(x: f64) -> f64 {
    let bits = x.to_bits();
    let nan = u64::from(bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000).wrapping_neg();
    f64::from_bits((bits & !nan) | (exact::F64.nan & nan))
}

/// `.sat`: into [0, 1], NaN to zero.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    let above = if x > 0.0 { x } else { 0.0 };
    if above < 1.0 { above } else { 1.0 }
}

/// An operand, flushed where asked.
#[inline(always)]
fn arg<const FTZ: bool>(x: f32) -> f32 {
    if FTZ { flush(x) } else { x }
}

/// A result, flushed and saturated where asked.
#[inline(always)]
fn result<const FTZ: bool, const SAT: bool>(x: f32) -> f32 {
    let x = if FTZ { flush(x) } else { x };
    if SAT { saturate(x) } else { canonical(x) }
}

/// `a + b`, rounded in one of the directions other than the nearest.
#[inline(always)]
fn add_directed<const DIRECTION: u32>(a: f64, b: f64) -> f32 {
    let sum = narrow::<DIRECTION>(add_odd(a, b));
    // A sum of opposites, or of zeros of either sign, is minus zero when rounding down.
    let opposite = (a.to_bits() ^ b.to_bits()) >> 63 != 0;
    if DIRECTION == direction::DOWN && a + b == 0.0 && opposite {
        -0.0
    } else {
        sum
    }
}

/// The direction that the modifiers name; `None` where they name none.
///
/// # Errors
/// Two of them.
pub fn rounding(d: &Decoder, i: &Instruction) -> Result<Option<Round>, LoadError> {
    let mut found = None;
    for m in &i.opcode[1..] {
        let round = match m.as_str() {
            "rn" => Round::Even,
            "rz" => Round::Zero,
            "rm" => Round::Down,
            "rp" => Round::Up,
            "rna" => Round::Away,
            _ => continue,
        };
        if found.replace(round).is_some() {
            return d.invalid("two rounding modes");
        }
    }
    Ok(found)
}

/// Calls `$f::<DIRECTION, FTZ, SAT>($args)`.
macro_rules! with_flags {
    ($f:ident, $round:expr, $ftz:expr, $sat:expr, $args:tt) => {
        match $round {
            Round::Even | Round::Away => with_flags!(@ $f, EVEN, $ftz, $sat, $args),
            Round::Zero => with_flags!(@ $f, ZERO, $ftz, $sat, $args),
            Round::Down => with_flags!(@ $f, DOWN, $ftz, $sat, $args),
            Round::Up => with_flags!(@ $f, UP, $ftz, $sat, $args),
        }
    };
    (@ $f:ident, $direction:ident, $ftz:expr, $sat:expr, ($($arg:expr),*)) => {
        match ($ftz, $sat) {
            (false, false) => $f::<{ direction::$direction }, false, false>($($arg),*),
            (true, false) => $f::<{ direction::$direction }, true, false>($($arg),*),
            (false, true) => $f::<{ direction::$direction }, false, true>($($arg),*),
            (true, true) => $f::<{ direction::$direction }, true, true>($($arg),*),
        }
    };
}

// The operations, as functions rather than closures so that they are inlined into the wide builds whatever
// their size. The product of two binary32 numbers is a binary64 number.

#[inline(always)]
fn add<const DIRECTION: u32, const FTZ: bool, const SAT: bool>(a: f32, b: f32) -> f32 {
    let (a, b) = (arg::<FTZ>(a), arg::<FTZ>(b));
    result::<FTZ, SAT>(if DIRECTION == direction::EVEN {
        a + b
    } else {
        add_directed::<DIRECTION>(a.into(), b.into())
    })
}

#[inline(always)]
fn sub<const DIRECTION: u32, const FTZ: bool, const SAT: bool>(a: f32, b: f32) -> f32 {
    add::<DIRECTION, FTZ, SAT>(a, -b)
}

#[inline(always)]
fn mul<const DIRECTION: u32, const FTZ: bool, const SAT: bool>(a: f32, b: f32) -> f32 {
    let (a, b) = (arg::<FTZ>(a), arg::<FTZ>(b));
    result::<FTZ, SAT>(if DIRECTION == direction::EVEN {
        a * b
    } else {
        narrow::<DIRECTION>(f64::from(a) * f64::from(b))
    })
}

#[inline(always)]
fn fma<const DIRECTION: u32, const FTZ: bool, const SAT: bool>(a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = (arg::<FTZ>(a), arg::<FTZ>(b), arg::<FTZ>(c));
    result::<FTZ, SAT>(if DIRECTION == direction::EVEN {
        a.mul_add(b, c)
    } else {
        add_directed::<DIRECTION>(f64::from(a) * f64::from(b), c.into())
    })
}

#[inline(always)]
fn div<const DIRECTION: u32, const FTZ: bool>(a: f32, b: f32) -> f32 {
    let (a, b) = (arg::<FTZ>(a), arg::<FTZ>(b));
    result::<FTZ, false>(if DIRECTION == direction::EVEN {
        a / b
    } else {
        narrow::<DIRECTION>(quotient_odd(a.into(), b.into()))
    })
}

#[inline(always)]
fn rcp<const DIRECTION: u32, const FTZ: bool>(a: f32) -> f32 {
    div::<DIRECTION, FTZ>(1.0, a)
}

#[inline(always)]
fn sqrt<const DIRECTION: u32, const FTZ: bool>(a: f32) -> f32 {
    let a = arg::<FTZ>(a);
    result::<FTZ, false>(if DIRECTION == direction::EVEN {
        a.sqrt()
    } else {
        narrow::<DIRECTION>(root_odd(a.into()))
    })
}

fn single<const DIRECTION: u32, const FTZ: bool, const SAT: bool>(op: &str) -> Handler {
    match op {
        "add" => alu2(add::<DIRECTION, FTZ, SAT>),
        "sub" => alu2(sub::<DIRECTION, FTZ, SAT>),
        "mul" => alu2(mul::<DIRECTION, FTZ, SAT>),
        _ => alu3(fma::<DIRECTION, FTZ, SAT>),
    }
}

/// A function of two binary32 numbers on each half of 64 bits.
#[inline(always)]
fn both(a: u64, b: u64, f: impl Fn(f32, f32) -> f32) -> u64 {
    let half = |shift: u32| u64::from(f(part(a, shift), part(b, shift)).to_bits()) << shift;
    half(0) | half(32)
}

#[inline(always)]
fn part(x: u64, shift: u32) -> f32 {
    f32::from_bits((x >> shift) as u32)
}

#[inline(always)]
fn fma_pair<const DIRECTION: u32, const FTZ: bool>(a: u64, b: u64, c: u64) -> u64 {
    let half = |shift: u32| {
        let sum = fma::<DIRECTION, FTZ, false>(part(a, shift), part(b, shift), part(c, shift));
        u64::from(sum.to_bits()) << shift
    };
    half(0) | half(32)
}

fn pair<const DIRECTION: u32, const FTZ: bool, const SAT: bool>(op: &str) -> Handler {
    match op {
        "add" => alu2(|a: u64, b: u64| both(a, b, add::<DIRECTION, FTZ, false>)),
        "sub" => alu2(|a: u64, b: u64| both(a, b, sub::<DIRECTION, FTZ, false>)),
        "mul" => alu2(|a: u64, b: u64| both(a, b, mul::<DIRECTION, FTZ, false>)),
        _ => alu3(fma_pair::<DIRECTION, FTZ>),
    }
}

fn double(op: &str, round: Round) -> Handler {
    match (op, round) {
        ("add", Round::Even) => alu2(|a: f64, b: f64| canonical64(a + b)),
        ("sub", Round::Even) => alu2(|a: f64, b: f64| canonical64(a - b)),
        ("mul", Round::Even) => alu2(|a: f64, b: f64| canonical64(a * b)),
        (_, Round::Even) => alu3(|a: f64, b: f64, c: f64| canonical64(a.mul_add(b, c))),
        ("add", Round::Zero) => {
            alu2(|a: f64, b: f64| canonical64(exact::fma(a, 1.0, b, Round::Zero)))
        }
        ("add", Round::Down) => {
            alu2(|a: f64, b: f64| canonical64(exact::fma(a, 1.0, b, Round::Down)))
        }
        ("add", _) => alu2(|a: f64, b: f64| canonical64(exact::fma(a, 1.0, b, Round::Up))),
        ("sub", Round::Zero) => {
            alu2(|a: f64, b: f64| canonical64(exact::fma(a, 1.0, -b, Round::Zero)))
        }
        ("sub", Round::Down) => {
            alu2(|a: f64, b: f64| canonical64(exact::fma(a, 1.0, -b, Round::Down)))
        }
        ("sub", _) => alu2(|a: f64, b: f64| canonical64(exact::fma(a, 1.0, -b, Round::Up))),
        ("mul", Round::Zero) => alu2(|a: f64, b: f64| canonical64(exact::mul(a, b, Round::Zero))),
        ("mul", Round::Down) => alu2(|a: f64, b: f64| canonical64(exact::mul(a, b, Round::Down))),
        ("mul", _) => alu2(|a: f64, b: f64| canonical64(exact::mul(a, b, Round::Up))),
        (_, Round::Zero) => {
            alu3(|a: f64, b: f64, c: f64| canonical64(exact::fma(a, b, c, Round::Zero)))
        }
        (_, Round::Down) => {
            alu3(|a: f64, b: f64, c: f64| canonical64(exact::fma(a, b, c, Round::Down)))
        }
        (_, _) => alu3(|a: f64, b: f64, c: f64| canonical64(exact::fma(a, b, c, Round::Up))),
    }
}

fn arithmetic(d: &mut Decoder, i: &Instruction, ty: Type) -> Result<Inst, LoadError> {
    exactly(
        d,
        i,
        if ty == Type::F32 {
            &["rn", "rz", "rm", "rp", "ftz", "sat"]
        } else if ty == Type::F64 {
            &["rn", "rz", "rm", "rp"]
        } else {
            &["rn", "rz", "rm", "rp", "ftz"]
        },
    )?;
    let op = i.opcode[0].as_str();
    let fused = matches!(op, "fma" | "mad");
    let round = match rounding(d, i)? {
        Some(round) => round,
        None if fused => return d.invalid("the rounding must be named"),
        None => Round::Even,
    };
    let (ftz, sat) = (has(i, "ftz"), has(i, "sat"));
    let run = match ty {
        Type::F32 => with_flags!(single, round, ftz, sat, (op)),
        Type::F64 => double(op, round),
        _ => with_flags!(pair, round, ftz, sat, (op)),
    };
    if fused {
        ternary(d, i, ty, [ty; 3], run)
    } else {
        binary(d, i, ty, [ty; 2], run)
    }
}

fn single_quotient<const DIRECTION: u32, const FTZ: bool, const SAT: bool>(op: &str) -> Handler {
    match op {
        "div" => alu2(div::<DIRECTION, FTZ>),
        "rcp" => alu1(rcp::<DIRECTION, FTZ>),
        _ => alu1(sqrt::<DIRECTION, FTZ>),
    }
}

fn double_quotient(op: &str, round: Round) -> Handler {
    match (op, round) {
        ("div", Round::Even) => alu2(|a: f64, b: f64| canonical64(a / b)),
        ("div", Round::Zero) => alu2(|a: f64, b: f64| canonical64(exact::div(a, b, Round::Zero))),
        ("div", Round::Down) => alu2(|a: f64, b: f64| canonical64(exact::div(a, b, Round::Down))),
        ("div", _) => alu2(|a: f64, b: f64| canonical64(exact::div(a, b, Round::Up))),
        ("rcp", Round::Even) => alu1(|a: f64| canonical64(1.0 / a)),
        ("rcp", Round::Zero) => alu1(|a: f64| canonical64(exact::div(1.0, a, Round::Zero))),
        ("rcp", Round::Down) => alu1(|a: f64| canonical64(exact::div(1.0, a, Round::Down))),
        ("rcp", _) => alu1(|a: f64| canonical64(exact::div(1.0, a, Round::Up))),
        (_, Round::Even) => alu1(|a: f64| canonical64(a.sqrt())),
        (_, Round::Zero) => alu1(|a: f64| canonical64(exact::sqrt(a, Round::Zero))),
        (_, Round::Down) => alu1(|a: f64| canonical64(exact::sqrt(a, Round::Down))),
        (_, _) => alu1(|a: f64| canonical64(exact::sqrt(a, Round::Up))),
    }
}

fn quotient(d: &mut Decoder, i: &Instruction, ty: Type) -> Result<Inst, LoadError> {
    exactly(
        d,
        i,
        if ty == Type::F32 {
            &["rn", "rz", "rm", "rp", "ftz"]
        } else {
            &["rn", "rz", "rm", "rp"]
        },
    )?;
    let op = i.opcode[0].as_str();
    let Some(round) = rounding(d, i)? else {
        return d.invalid("the rounding must be named");
    };
    let run = match ty {
        Type::F32 => with_flags!(single_quotient, round, has(i, "ftz"), false, (op)),
        Type::F64 => double_quotient(op, round),
        _ => return d.unsupported("type"),
    };
    if op == "div" {
        binary(d, i, ty, [ty; 2], run)
    } else {
        unary(d, i, ty, ty, run)
    }
}

/// The smaller or larger of two numbers: a number wins over NaN unless `NAN`, and -0 is below +0.
#[inline(always)]
pub fn choose<const MAX: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    // Of the zeros, which compare equal, the sign decides: as integers minus zero is the lesser.
    let a_first = if MAX {
        (a > b) | ((a == b) & (a.to_bits() as i32 >= b.to_bits() as i32))
    } else {
        (a < b) | ((a == b) & (a.to_bits() as i32 <= b.to_bits() as i32))
    };
    let of_numbers = if a_first { a } else { b };
    // With a NaN neither comparison holds, so `b` was taken.
    if NAN {
        if a.is_nan() { a } else { of_numbers }
    } else if b.is_nan() {
        a
    } else {
        of_numbers
    }
}

#[inline(always)]
fn extreme<const MAX: bool, const FTZ: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    canonical(choose::<MAX, NAN>(arg::<FTZ>(a), arg::<FTZ>(b)))
}

/// Of the magnitudes, with the sign of the product.
#[inline(always)]
fn extreme_magnitude<const MAX: bool, const FTZ: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    let chosen = extreme::<MAX, FTZ, NAN>(a.abs(), b.abs());
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    if chosen.is_nan() {
        chosen
    } else {
        f32::from_bits(chosen.to_bits() | sign)
    }
}

fn single_extremum<const MAX: bool, const FTZ: bool, const NAN: bool>(signs: bool) -> Handler {
    if signs {
        alu2(extreme_magnitude::<MAX, FTZ, NAN>)
    } else {
        alu2(extreme::<MAX, FTZ, NAN>)
    }
}

fn double_choose<const MAX: bool>(a: f64, b: f64) -> f64 {
    let a_first = if MAX {
        (a > b) | ((a == b) & (a.to_bits() as i64 >= b.to_bits() as i64))
    } else {
        (a < b) | ((a == b) & (a.to_bits() as i64 <= b.to_bits() as i64))
    };
    canonical64(if a_first || b.is_nan() { a } else { b })
}

fn extremum(d: &mut Decoder, i: &Instruction, ty: Type) -> Result<Inst, LoadError> {
    exactly(
        d,
        i,
        if ty == Type::F32 {
            &["ftz", "NaN", "xorsign", "abs"]
        } else {
            &[]
        },
    )?;
    if i.operands.len() == 4 {
        return d.unsupported("three sources");
    }
    let signs = has(i, "xorsign");
    if signs != has(i, "abs") {
        return d.unsupported(".xorsign without .abs");
    }
    let max = i.opcode[0] == "max";
    let run = match (ty, max, has(i, "ftz"), has(i, "NaN")) {
        (Type::F32, false, false, false) => single_extremum::<false, false, false>(signs),
        (Type::F32, false, false, true) => single_extremum::<false, false, true>(signs),
        (Type::F32, false, true, false) => single_extremum::<false, true, false>(signs),
        (Type::F32, false, true, true) => single_extremum::<false, true, true>(signs),
        (Type::F32, true, false, false) => single_extremum::<true, false, false>(signs),
        (Type::F32, true, false, true) => single_extremum::<true, false, true>(signs),
        (Type::F32, true, true, false) => single_extremum::<true, true, false>(signs),
        (Type::F32, true, true, true) => single_extremum::<true, true, true>(signs),
        (Type::F64, false, _, _) => alu2(double_choose::<false>),
        (Type::F64, true, _, _) => alu2(double_choose::<true>),
        _ => return d.unsupported("type"),
    };
    binary(d, i, ty, [ty; 2], run)
}

fn testp(d: &mut Decoder, i: &Instruction, ty: Type) -> Result<Inst, LoadError> {
    let [_, property, _] = &i.opcode[..] else {
        return d.unsupported("form");
    };
    let run = match (ty, property.as_str()) {
        (Type::F32, "finite") => alu1(|a: f32| a.is_finite()),
        (Type::F32, "infinite") => alu1(|a: f32| a.is_infinite()),
        (Type::F32, "number") => alu1(|a: f32| !a.is_nan()),
        (Type::F32, "notanumber") => alu1(|a: f32| a.is_nan()),
        // Zeros count as normal.
        (Type::F32, "normal") => alu1(|a: f32| a.is_normal() || a == 0.0),
        (Type::F32, "subnormal") => alu1(|a: f32| a.is_subnormal()),
        (Type::F64, "finite") => alu1(|a: f64| a.is_finite()),
        (Type::F64, "infinite") => alu1(|a: f64| a.is_infinite()),
        (Type::F64, "number") => alu1(|a: f64| !a.is_nan()),
        (Type::F64, "notanumber") => alu1(|a: f64| a.is_nan()),
        (Type::F64, "normal") => alu1(|a: f64| a.is_normal() || a == 0.0),
        (Type::F64, "subnormal") => alu1(|a: f64| a.is_subnormal()),
        _ => return d.unsupported(format!("property .{property} of {ty:?}")),
    };
    unary(d, i, Type::Pred, ty, run)
}

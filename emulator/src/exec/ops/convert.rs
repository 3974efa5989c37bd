//! `cvt` between integers and floating-point numbers; narrow and packed formats are in `narrow.rs`.

use super::float::{canonical, canonical64, flush, rounding, saturate};
use super::int::is_int;
use super::{has, narrow, operands};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, alu1, pick_handler};
use crate::exec::module::LoadError;
use crate::exec::number::exact::{self, Exact, Format, Round};
use crate::exec::number::f16::{BF16, F16, Half};
use crate::exec::number::odd::{self, direction};
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    if i.opcode[0] != "cvt" {
        return Ok(None);
    }
    if has(i, "pack") {
        return narrow::pack(d, i).map(Some);
    }
    let n = i.opcode.len();
    if n < 3 {
        return d.invalid("two types belong");
    }
    let (to, from) = (i.opcode[n - 2].as_str(), i.opcode[n - 1].as_str());
    const MODIFIERS: [&str; 13] = [
        "rn",
        "rz",
        "rm",
        "rp",
        "rna",
        "rni",
        "rzi",
        "rmi",
        "rpi",
        "ftz",
        "sat",
        "relu",
        "satfinite",
    ];
    if let Some(m) = i.opcode[1..n - 2]
        .iter()
        .find(|m| !MODIFIERS.contains(&m.as_str()))
    {
        return d.unsupported(format!("modifier .{m}"));
    }
    if let Some(inst) = narrow::decode(d, i, to, from)? {
        return Ok(Some(inst));
    }
    let (Some(to), Some(from)) = (scalar(to), scalar(from)) else {
        return d.unsupported("types");
    };
    operands(d, i, 2)?;
    if has(i, "relu") || has(i, "satfinite") {
        return d.unsupported("modifiers for these types");
    }
    if has(i, "ftz") && to != Type::F32 && from != Type::F32 {
        return d.invalid(".ftz without .f32");
    }
    let inst = match (is_int(to), is_int(from)) {
        (true, true) => integer(d, i, to, from)?,
        (true, false) => to_integer(d, i, to, from)?,
        (false, true) => from_integer(d, i, to, from)?,
        (false, false) => between_reals(d, i, to, from)?,
    };
    Ok(Some(inst))
}

fn scalar(name: &str) -> Option<Type> {
    use Type::*;
    Type::from_suffix(name).filter(|t| {
        matches!(
            t,
            U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64 | F16 | BF16 | F32 | F64
        )
    })
}

/// Slot and lane width (4 or 8 bytes) of an operand that may be wider than its type.
fn at_least(
    d: &mut Decoder,
    operand: &Operand,
    ty: Type,
    destination: bool,
) -> Result<(u32, bool), LoadError> {
    let width = match operand {
        Operand::Reg(reg) => d.reg_type(*reg).size(),
        _ => ty.size(),
    };
    if width < ty.size()
        || width > 8
        || matches!(operand, Operand::Reg(reg) if d.reg_type(*reg) == Type::Pred)
    {
        return d.invalid(format!("a register of {width} bytes for {ty:?}"));
    }
    let slot = match (operand, destination) {
        (Operand::Reg(reg), _) => d.reg(*reg),
        (_, true) => d.dst(operand, ty)?,
        (_, false) => d.src_any(operand, ty)?,
    };
    Ok((slot, width > 4))
}

/// Source operand of a type, wherever it lies: narrower integers are in the low bits of wider registers.
fn source(d: &mut Decoder, operand: &Operand, ty: Type) -> Result<(u32, bool), LoadError> {
    let (slot, wide) = at_least(d, operand, ty, false)?;
    Ok((slot, wide))
}

// How the generic handlers find their types, in Inst::aux: type codes, direction and flags.
const SOURCE: u32 = 0;
const TARGET: u32 = 4;
const ROUND: u32 = 8;
const WIDE_TARGET: u32 = 1 << 12;
const WIDE_SOURCE: u32 = 1 << 13;
const FTZ: u32 = 1 << 14;
const SAT: u32 = 1 << 15;

const TYPES: [Type; 12] = {
    use Type::*;
    [U8, U16, U32, U64, S8, S16, S32, S64, F16, BF16, F32, F64]
};
const ROUNDS: [Round; 5] = [
    Round::Even,
    Round::Away,
    Round::Zero,
    Round::Down,
    Round::Up,
];

fn codes(to: Type, from: Type, round: Round) -> u32 {
    let place = |ty| TYPES.iter().position(|t| *t == ty).unwrap_or(0) as u32;
    let round = ROUNDS.iter().position(|r| *r == round).unwrap_or(0) as u32;
    place(from) << SOURCE | place(to) << TARGET | round << ROUND
}

/// Reads lanes as 64 bits, of which the type's are cut out later.
#[inline(always)]
unsafe fn raw(w: &Warp, slot: u32, wide: bool) -> [u64; 32] {
    // SAFETY: the caller's promise: a slot of this width.
    unsafe {
        if wide {
            u64::load(w.slot(slot))
        } else {
            u32::load(w.slot(slot)).map(u64::from)
        }
    }
}

/// An integer of a type from the low bits of a lane.
#[inline(always)]
fn integer_value(ty: Type, bits: u64) -> i128 {
    match ty {
        Type::U8 => i128::from(bits as u8),
        Type::U16 => i128::from(bits as u16),
        Type::U32 => i128::from(bits as u32),
        Type::U64 => i128::from(bits),
        Type::S8 => i128::from(bits as i8),
        Type::S16 => i128::from(bits as i16),
        Type::S32 => i128::from(bits as i32),
        _ => i128::from(bits as i64),
    }
}

fn limits(ty: Type) -> (i128, i128) {
    let bits = 8 * ty.size();
    match ty {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => (0, (1 << bits) - 1),
        _ => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
    }
}

/// Writes integers of any type, which fill the register: two's complement does that by itself.
#[inline(always)]
unsafe fn write_raw(w: &Warp, i: &Inst, values: [u64; 32], mask: u32) {
    // SAFETY: the caller's promise: the destination has the width that the flags say.
    unsafe {
        if i.aux & WIDE_TARGET != 0 {
            u64::store(w.slot(i.d), values, mask);
        } else {
            u32::store(w.slot(i.d), values.map(|v| v as u32), mask);
        }
    }
}

/// `alu1` of a plain integer conversion: source lane `$S`, cut or extended to `$T`, filling `$Out`.
macro_rules! integer_casts {
    ($to:expr, $from:expr, $wide:expr, [$($F:ident $f:ident),*], $targets:tt) => {
        match $from {
            $(Type::$F => integer_casts!(@ $to, $f, $wide, $targets),)*
            _ => None,
        }
    };
    (@ $to:expr, $f:ident, $wide:expr, [$($T:ident $t:ident),*]) => {
        match ($to, $wide) {
            $((Type::$T, false) => Some(alu1(|a: $f| a as $t as u32)),
              (Type::$T, true) => Some(alu1(|a: $f| a as $t as u64)),)*
            _ => None,
        }
    };
}

fn integer(d: &mut Decoder, i: &Instruction, to: Type, from: Type) -> Result<Inst, LoadError> {
    if i.opcode[1..i.opcode.len() - 2].iter().any(|m| m != "sat") {
        return d.unsupported("modifiers between integers");
    }
    let (target, wide_target) = at_least(d, &i.operands[0], to, true)?;
    let (a, wide_source) = source(d, &i.operands[1], from)?;
    let flags =
        if wide_target { WIDE_TARGET } else { 0 } | if wide_source { WIDE_SOURCE } else { 0 };
    let quick = if has(i, "sat") || wide_source != (from.size() == 8) {
        None
    } else {
        integer_casts!(to, from, wide_target,
            [U8 u8, U16 u16, U32 u32, U64 u64, S8 i8, S16 i16, S32 i32, S64 i64],
            [U8 u8, U16 u16, U32 u32, U64 u64, S8 i8, S16 i16, S32 i32, S64 i64])
    };
    let aux = codes(to, from, Round::Even) | flags | if has(i, "sat") { SAT } else { 0 };
    Ok(Inst {
        d: target,
        a,
        aux,
        ..d.inst(quick.unwrap_or(any_integer))
    })
}

unsafe fn any_integer(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (from, to) = (
        TYPES[(i.aux >> SOURCE & 15) as usize],
        TYPES[(i.aux >> TARGET & 15) as usize],
    );
    let (least, most) = limits(to);
    // SAFETY: operands are slots of the warp's file, of the widths that the flags say.
    unsafe {
        let out = raw(w, i.a, i.aux & WIDE_SOURCE != 0).map(|bits| {
            let value = integer_value(from, bits);
            let value = if i.aux & SAT != 0 {
                value.clamp(least, most)
            } else {
                integer_value(to, value as u64)
            };
            value as u64
        });
        write_raw(w, i, out, mask);
    }
    Flow::Next
}

/// The integer rounding that the modifiers name.
fn integral(i: &Instruction) -> Option<Round> {
    i.opcode[1..].iter().find_map(|m| match m.as_str() {
        "rni" => Some(Round::Even),
        "rzi" => Some(Round::Zero),
        "rmi" => Some(Round::Down),
        "rpi" => Some(Round::Up),
        _ => None,
    })
}

#[inline(always)]
fn to_integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
        _ => x.round_ties_even(),
    }
}

fn to_integer(d: &mut Decoder, i: &Instruction, to: Type, from: Type) -> Result<Inst, LoadError> {
    let Some(round) = integral(i) else {
        return d.invalid("the rounding to an integer must be named");
    };
    if rounding(d, i)?.is_some() {
        return d.invalid("two rounding modes");
    }
    let (target, wide_target) = at_least(d, &i.operands[0], to, true)?;
    let a = d.src(&i.operands[1], from)?;
    let ftz = has(i, "ftz");
    // `as` saturates and makes zero of NaN, as the device does from binary32 to up to 32 bits. Flushing
    // changes nothing for these two roundings.
    let quick = match (from, to, round, wide_target) {
        (Type::F32, Type::S32, Round::Even, false) => {
            Some(alu1(|a: f32| a.round_ties_even() as i32))
        }
        (Type::F32, Type::U32, Round::Even, false) => {
            Some(alu1(|a: f32| a.round_ties_even() as u32))
        }
        (Type::F32, Type::S32, Round::Zero, false) => Some(alu1(|a: f32| a as i32)),
        (Type::F32, Type::U32, Round::Zero, false) => Some(alu1(|a: f32| a as u32)),
        (Type::F32, Type::S8, Round::Even, false) => {
            Some(alu1(|a: f32| a.round_ties_even() as i8 as i32))
        }
        _ => None,
    };
    let aux = codes(to, from, round)
        | if wide_target { WIDE_TARGET } else { 0 }
        | if ftz { FTZ } else { 0 };
    Ok(Inst {
        d: target,
        a,
        aux,
        ..d.inst(quick.unwrap_or(pick_handler!(any_to_integer)))
    })
}

/// A real number of a type.
#[inline(always)]
fn real_value(ty: Type, bits: u64, ftz: bool) -> f64 {
    match ty {
        Type::F16 => F16(bits as u16).to_f32().into(),
        Type::BF16 => BF16(bits as u16).to_f32().into(),
        Type::F32 => {
            let x = f32::from_bits(bits as u32);
            if ftz { flush(x).into() } else { x.into() }
        }
        _ => f64::from_bits(bits),
    }
}

#[inline(always)]
unsafe fn any_to_integer(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (from, to) = (
        TYPES[(i.aux >> SOURCE & 15) as usize],
        TYPES[(i.aux >> TARGET & 15) as usize],
    );
    let round = ROUNDS[(i.aux >> ROUND & 15) as usize];
    let (least, most) = limits(to);
    // NaN becomes zero, except from binary64 or to 64 bits: then the top bit alone.
    let nan = if from == Type::F64 || to.size() == 8 {
        1u64 << (8 * to.size() - 1)
    } else {
        0
    };
    let nan = integer_value(to, nan) as u64;
    // SAFETY: operands are slots of the warp's file, of the widths that the flags and types say.
    unsafe {
        let out = raw(w, i.a, from == Type::F64).map(|bits| {
            let x = real_value(from, bits, i.aux & FTZ != 0);
            if x.is_nan() {
                nan
            } else {
                (to_integral(x, round) as i128).clamp(least, most) as u64
            }
        });
        write_raw(w, i, out, mask);
    }
    Flow::Next
}

fn format(ty: Type) -> Format {
    match ty {
        Type::F16 => exact::F16,
        Type::BF16 => exact::BF16,
        Type::F32 => exact::F32,
        _ => exact::F64,
    }
}

/// `.sat` on bits of a type, once rounded.
#[inline(always)]
fn saturated(ty: Type, bits: u64) -> u64 {
    match ty {
        Type::F16 => F16::from_f32(saturate(F16(bits as u16).to_f32())).0.into(),
        Type::BF16 => BF16::from_f32(saturate(BF16(bits as u16).to_f32()))
            .0
            .into(),
        Type::F32 => saturate(f32::from_bits(bits as u32)).to_bits().into(),
        _ => saturate64(f64::from_bits(bits)).to_bits(),
    }
}

#[inline(always)]
fn saturate64(x: f64) -> f64 {
    let above = if x > 0.0 { x } else { 0.0 };
    if above < 1.0 { above } else { 1.0 }
}

fn from_integer(d: &mut Decoder, i: &Instruction, to: Type, from: Type) -> Result<Inst, LoadError> {
    let Some(round) = rounding(d, i)? else {
        return d.invalid("the rounding must be named");
    };
    if integral(i).is_some() || round == Round::Away {
        return d.unsupported("rounding");
    }
    let target = d.dst(&i.operands[0], to)?;
    let (a, wide_source) = source(d, &i.operands[1], from)?;
    let quick = if has(i, "sat") || round != Round::Even || wide_source != (from.size() == 8) {
        None
    } else {
        match (to, from) {
            (Type::F32, Type::U8) => Some(alu1(|a: u8| f32::from(a))),
            (Type::F32, Type::S8) => Some(alu1(|a: i8| f32::from(a))),
            (Type::F32, Type::U16) => Some(alu1(|a: u16| f32::from(a))),
            (Type::F32, Type::S16) => Some(alu1(|a: i16| f32::from(a))),
            (Type::F32, Type::U32) => Some(alu1(|a: u32| a as f32)),
            (Type::F32, Type::S32) => Some(alu1(|a: i32| a as f32)),
            (Type::F32, Type::U64) => Some(alu1(|a: u64| a as f32)),
            (Type::F32, Type::S64) => Some(alu1(|a: i64| a as f32)),
            (Type::F64, Type::U32) => Some(alu1(|a: u32| f64::from(a))),
            (Type::F64, Type::S32) => Some(alu1(|a: i32| f64::from(a))),
            (Type::F64, Type::U64) => Some(alu1(|a: u64| a as f64)),
            (Type::F64, Type::S64) => Some(alu1(|a: i64| a as f64)),
            // What binary32 cannot hold exactly is beyond binary16's range.
            (Type::F16, Type::U8) => Some(alu1(|a: u8| F16::from_f32(a.into()))),
            (Type::F16, Type::S8) => Some(alu1(|a: i8| F16::from_f32(a.into()))),
            (Type::F16, Type::U16) => Some(alu1(|a: u16| F16::from_f32(a.into()))),
            (Type::F16, Type::S16) => Some(alu1(|a: i16| F16::from_f32(a.into()))),
            (Type::F16, Type::U32) => Some(alu1(|a: u32| F16::from_f32(a as f32))),
            (Type::F16, Type::S32) => Some(alu1(|a: i32| F16::from_f32(a as f32))),
            (Type::BF16, Type::S8) => Some(alu1(|a: i8| BF16::from_f32(a.into()))),
            (Type::BF16, Type::S16) => Some(alu1(|a: i16| BF16::from_f32(a.into()))),
            _ => None,
        }
    };
    let flags = if wide_source { WIDE_SOURCE } else { 0 } | if has(i, "sat") { SAT } else { 0 };
    let flags = flags | if to == Type::F64 { WIDE_TARGET } else { 0 };
    Ok(Inst {
        d: target,
        a,
        aux: codes(to, from, round) | flags,
        ..d.inst(quick.unwrap_or(any_from_integer))
    })
}

unsafe fn any_from_integer(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (from, to) = (
        TYPES[(i.aux >> SOURCE & 15) as usize],
        TYPES[(i.aux >> TARGET & 15) as usize],
    );
    let round = ROUNDS[(i.aux >> ROUND & 15) as usize];
    let format = format(to);
    // SAFETY: operands are slots of the warp's file, of the widths that the flags say.
    unsafe {
        let out = raw(w, i.a, i.aux & WIDE_SOURCE != 0).map(|bits| {
            let value = integer_value(from, bits);
            let bits = match value {
                0 => 0,
                value => {
                    Exact::integer(value < 0, value.unsigned_abs() as u64).round(format, round)
                }
            };
            if i.aux & SAT != 0 {
                saturated(to, bits)
            } else {
                bits
            }
        });
        write_raw(w, i, out, mask);
    }
    Flow::Next
}

fn between_reals(
    d: &mut Decoder,
    i: &Instruction,
    to: Type,
    from: Type,
) -> Result<Inst, LoadError> {
    let (ftz, sat) = (has(i, "ftz"), has(i, "sat"));
    let (fraction, whole) = (rounding(d, i)?, integral(i));
    let narrows = to.size() < from.size() || (to != from && to.size() == 2);
    if fraction.is_some() && whole.is_some() || fraction == Some(Round::Away) {
        return d.unsupported("rounding");
    }
    if narrows && fraction.is_none() {
        return d.invalid("the rounding must be named");
    }
    if to != from && whole.is_some() {
        return d.unsupported("rounding to an integer with a change of type");
    }
    let target = d.dst(&i.operands[0], to)?;
    let a = d.src(&i.operands[1], from)?;
    let round = whole.or(fraction).unwrap_or(Round::Even);
    let quick = match (to, from, round, sat) {
        (Type::F32, Type::F16, _, false) => Some(alu1(|a: F16| canonical(a.to_f32()))),
        (Type::F32, Type::BF16, _, false) if !ftz => Some(alu1(|a: BF16| canonical(a.to_f32()))),
        (Type::F16, Type::F32, Round::Even, false) if !ftz => Some(alu1(F16::from_f32)),
        (Type::BF16, Type::F32, Round::Even, false) if !ftz => Some(alu1(BF16::from_f32)),
        (Type::F64, Type::F32, _, false) if !ftz => Some(alu1(|a: f32| canonical64(a.into()))),
        (Type::F32, Type::F64, Round::Even, false) if !ftz => {
            Some(alu1(|a: f64| canonical(a as f32)))
        }
        (Type::F32, Type::F64, Round::Zero, false) if !ftz => Some(alu1(|a: f64| {
            canonical(odd::narrow::<{ direction::ZERO }>(a))
        })),
        (Type::F32, Type::F64, Round::Down, false) if !ftz => Some(alu1(|a: f64| {
            canonical(odd::narrow::<{ direction::DOWN }>(a))
        })),
        (Type::F32, Type::F64, Round::Up, false) if !ftz => Some(alu1(|a: f64| {
            canonical(odd::narrow::<{ direction::UP }>(a))
        })),
        (Type::F32, Type::F32, _, false) if !ftz && whole.is_some() => Some(match round {
            Round::Zero => alu1(|a: f32| canonical(a.trunc())),
            Round::Down => alu1(|a: f32| canonical(a.floor())),
            Round::Up => alu1(|a: f32| canonical(a.ceil())),
            _ => alu1(|a: f32| canonical(a.round_ties_even())),
        }),
        (Type::F32, Type::F32, _, true) if !ftz && whole.is_none() => {
            Some(alu1(|a: f32| saturate(a)))
        }
        _ => None,
    };
    let flags = if ftz { FTZ } else { 0 }
        | if sat { SAT } else { 0 }
        | if to == Type::F64 { WIDE_TARGET } else { 0 };
    let run: Handler = match (quick, whole.is_some()) {
        (Some(run), _) => run,
        (None, true) => any_real::<true>,
        (None, false) => any_real::<false>,
    };
    Ok(Inst {
        d: target,
        a,
        aux: codes(to, from, round) | flags,
        ..d.inst(run)
    })
}

unsafe fn any_real<const WHOLE: bool>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (from, to) = (
        TYPES[(i.aux >> SOURCE & 15) as usize],
        TYPES[(i.aux >> TARGET & 15) as usize],
    );
    let round = ROUNDS[(i.aux >> ROUND & 15) as usize];
    let ftz = i.aux & FTZ != 0;
    // SAFETY: operands are slots of the warp's file, of the widths that the types say.
    unsafe {
        let out = raw(w, i.a, from == Type::F64).map(|bits| {
            let x = real_value(from, bits, ftz);
            let x = if WHOLE { to_integral(x, round) } else { x };
            let bits = round_to(x, format(to), round);
            let bits = if ftz && to == Type::F32 {
                flush(f32::from_bits(bits as u32)).to_bits().into()
            } else {
                bits
            };
            if i.aux & SAT != 0 {
                saturated(to, bits)
            } else {
                bits
            }
        });
        write_raw(w, i, out, mask);
    }
    Flow::Next
}

/// Any number rounded to a format.
pub(super) fn round_to(x: f64, format: Format, round: Round) -> u64 {
    if x.is_nan() {
        format.nan
    } else if x == 0.0 {
        u64::from(x.is_sign_negative()) << format.sign
    } else if x.is_infinite() {
        format.infinity.unwrap_or(format.nan) | u64::from(x < 0.0) << format.sign
    } else {
        Exact::new(x).round(format, round)
    }
}

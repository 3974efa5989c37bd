//! Comparison and selection: `setp`, `set`, `selp`, `slct`.

use super::int::is_int;
use super::shape::exactly;
use super::{has, operands};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, alu3, conjure, each, lanes_where, pick_handler, wide};
use crate::exec::module::LoadError;
use crate::exec::number::f16::{BF16, F16, Half};
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let inst = match i.opcode[0].as_str() {
        "setp" => setp(d, i)?,
        "set" => set(d, i)?,
        "selp" => selp(d, i)?,
        "slct" => slct(d, i)?,
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

// A comparison is the set of outcomes that make it true.
const LESS: u32 = 1;
const EQUAL: u32 = 2;
const GREATER: u32 = 4;
const UNORDERED: u32 = 8;

fn relation(name: &str, ty: Type) -> Option<u32> {
    let unsigned = matches!(ty, Type::U16 | Type::U32 | Type::U64);
    let bits = matches!(ty, Type::B16 | Type::B32 | Type::B64);
    let code = match name {
        "eq" => EQUAL,
        "ne" => LESS | GREATER,
        "lt" if !bits => LESS,
        "le" if !bits => LESS | EQUAL,
        "gt" if !bits => GREATER,
        "ge" if !bits => GREATER | EQUAL,
        "lo" if unsigned => LESS,
        "ls" if unsigned => LESS | EQUAL,
        "hi" if unsigned => GREATER,
        "hs" if unsigned => GREATER | EQUAL,
        _ if is_int(ty) => return None,
        "equ" => EQUAL | UNORDERED,
        "neu" => LESS | GREATER | UNORDERED,
        "ltu" => LESS | UNORDERED,
        "leu" => LESS | EQUAL | UNORDERED,
        "gtu" => GREATER | UNORDERED,
        "geu" => GREATER | EQUAL | UNORDERED,
        "num" => LESS | EQUAL | GREATER,
        "nan" => UNORDERED,
        _ => return None,
    };
    Some(code)
}

// Inst::aux of a comparison: what happens to its outcome.
const AND: u32 = 1;
const OR: u32 = 2;
const XOR: u32 = 3;
const COMBINE: u32 = 3;
const NOT_C: u32 = 4;
/// A second predicate, whose slot is in `Inst::imm`.
const SECOND: u32 = 8;
/// The result goes to lanes, as the value in `Inst::imm` or zero, not to a predicate.
const LANES: u32 = 16;
/// For those that compare by [`holds`]: the relation, from here up.
const RELATION: u32 = 8;

/// The outcomes of 32 lanes, combined and written.
#[inline(always)]
unsafe fn finish(w: &mut Warp, i: &Inst, mask: u32, outcome: u32) -> Flow {
    // SAFETY: the destination is a predicate's slot.
    unsafe {
        if i.aux & 0xff == 0 {
            let p = w.slot(i.d).cast::<u32>();
            *p = *p & !mask | outcome & mask;
        } else {
            combine_and_write(w, i, mask, outcome);
        }
    }
    Flow::Next
}

#[inline(always)]
unsafe fn combined(w: &Warp, i: &Inst, outcome: u32) -> u32 {
    // SAFETY: the third source is a predicate's slot, or the sink where there is none.
    let c = unsafe { *w.slot(i.c).cast::<u32>() } ^ if i.aux & NOT_C != 0 { u32::MAX } else { 0 };
    match i.aux & COMBINE {
        AND => outcome & c,
        OR => outcome | c,
        XOR => outcome ^ c,
        _ => outcome,
    }
}

unsafe fn combine_and_write(w: &mut Warp, i: &Inst, mask: u32, outcome: u32) {
    // SAFETY: slots of the warp's file, lanes or predicates as the flags say.
    unsafe {
        let first = combined(w, i, outcome);
        if i.aux & LANES != 0 {
            let value = i.imm as u32;
            let out = each(|l| if first >> l & 1 != 0 { value } else { 0 });
            u32::store(w.slot(i.d), out, mask);
            return;
        }
        let second = combined(w, i, !outcome);
        let p = w.slot(i.d).cast::<u32>();
        *p = *p & !mask | first & mask;
        if i.aux & SECOND != 0 {
            let q = w.slot(i.imm as u32).cast::<u32>();
            *q = *q & !mask | second & mask;
        }
    }
}

/// The handler of a comparison by `f`.
fn compare<T: Lane, F: Fn(T, T) -> bool + Copy>(_: F) -> Handler {
    #[inline(always)]
    unsafe fn body<T: Lane, F: Fn(T, T) -> bool + Copy>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
        // SAFETY: the operands are slots of this width; `f` was given to the constructor.
        unsafe {
            let f = conjure::<F>();
            let (a, b) = (T::load(w.slot(i.a)), T::load(w.slot(i.b)));
            finish(w, i, mask, lanes_where(|l| f(a[l], b[l])))
        }
    }
    unsafe fn base<T: Lane, F: Fn(T, T) -> bool + Copy>(w: &mut Warp, i: &Inst, m: u32) -> Flow {
        // SAFETY: the handler's own contract.
        unsafe { body::<T, F>(w, i, m) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn fast<T: Lane, F: Fn(T, T) -> bool + Copy>(w: &mut Warp, i: &Inst, m: u32) -> Flow {
        // SAFETY: the handler's own contract; picked only where the features exist.
        unsafe { body::<T, F>(w, i, m) }
    }
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return fast::<T, F>;
    }
    base::<T, F>
}

fn ordered<T: Lane + PartialOrd>(code: u32) -> Handler {
    const NOT_EQUAL: u32 = LESS | GREATER;
    const AT_MOST: u32 = LESS | EQUAL;
    match code {
        LESS => compare(|a: T, b: T| a < b),
        EQUAL => compare(|a: T, b: T| a == b),
        NOT_EQUAL => compare(|a: T, b: T| a != b),
        AT_MOST => compare(|a: T, b: T| a <= b),
        GREATER => compare(|a: T, b: T| a > b),
        _ => compare(|a: T, b: T| a >= b),
    }
}

/// A lane that is compared as a binary32 or binary64 number.
trait Real: Lane {
    type Value: PartialOrd + Copy;
    fn value(self) -> Self::Value;
}

/// binary32 whose subnormal values count as zero.
#[derive(Clone, Copy)]
struct Flushed(f32);

// SAFETY: a lane of binary32.
unsafe impl Lane for Flushed {
    #[inline(always)]
    unsafe fn load(slot: *const u8) -> [Flushed; 32] {
        // SAFETY: the caller's promise.
        let values = unsafe { f32::load(slot) };
        each(|l| Flushed(values[l]))
    }
    #[inline(always)]
    unsafe fn store(slot: *mut u8, values: [Flushed; 32], mask: u32) {
        // SAFETY: the caller's promise.
        unsafe { f32::store(slot, each(|l| values[l].0), mask) };
    }
}

/// binary16 whose subnormal values count as zero.
#[derive(Clone, Copy)]
struct FlushedHalf(u16);

// SAFETY: a lane of 16 bits.
unsafe impl Lane for FlushedHalf {
    #[inline(always)]
    unsafe fn load(slot: *const u8) -> [FlushedHalf; 32] {
        // SAFETY: the caller's promise.
        let bits = unsafe { u16::load(slot) };
        each(|l| FlushedHalf(bits[l]))
    }
    #[inline(always)]
    unsafe fn store(slot: *mut u8, values: [FlushedHalf; 32], mask: u32) {
        // SAFETY: the caller's promise.
        unsafe { u16::store(slot, each(|l| values[l].0), mask) };
    }
}

macro_rules! real {
    ($($t:ty => $v:ty, |$x:ident| $e:expr;)*) => {$(
        impl Real for $t {
            type Value = $v;
            #[inline(always)]
            fn value(self) -> $v {
                let $x = self;
                $e
            }
        }
    )*};
}
real! {
    f32 => f32, |x| x;
    f64 => f64, |x| x;
    Flushed => f32, |x| super::float::flush(x.0);
    F16 => f32, |x| x.to_f32();
    BF16 => f32, |x| x.to_f32();
    FlushedHalf => f32, |x| F16(x.0).flushed().to_f32();
}

fn real<T: Real>(code: u32) -> Handler {
    const NOT_EQUAL: u32 = LESS | GREATER;
    const AT_MOST: u32 = LESS | EQUAL;
    const AT_LEAST: u32 = GREATER | EQUAL;
    const NUMBER: u32 = LESS | EQUAL | GREATER;
    const EQUAL_U: u32 = EQUAL | UNORDERED;
    const NOT_EQUAL_U: u32 = NOT_EQUAL | UNORDERED;
    const LESS_U: u32 = LESS | UNORDERED;
    const AT_MOST_U: u32 = AT_MOST | UNORDERED;
    const GREATER_U: u32 = GREATER | UNORDERED;
    const AT_LEAST_U: u32 = AT_LEAST | UNORDERED;
    match code {
        LESS => compare(|a: T, b: T| a.value() < b.value()),
        EQUAL => compare(|a: T, b: T| a.value() == b.value()),
        AT_MOST => compare(|a: T, b: T| a.value() <= b.value()),
        GREATER => compare(|a: T, b: T| a.value() > b.value()),
        AT_LEAST => compare(|a: T, b: T| a.value() >= b.value()),
        // Two values are unordered where neither is at least the other.
        NOT_EQUAL => compare(|a: T, b: T| (a.value() < b.value()) | (a.value() > b.value())),
        EQUAL_U => compare(|a: T, b: T| !((a.value() < b.value()) | (a.value() > b.value()))),
        NOT_EQUAL_U => compare(|a: T, b: T| a.value() != b.value()),
        LESS_U => compare(|a: T, b: T| !at_least(a.value(), b.value())),
        AT_MOST_U => compare(|a: T, b: T| !above(a.value(), b.value())),
        GREATER_U => compare(|a: T, b: T| !at_least(b.value(), a.value())),
        AT_LEAST_U => compare(|a: T, b: T| !above(b.value(), a.value())),
        NUMBER => compare(|a: T, b: T| !unordered(a.value(), b.value())),
        _ => compare(|a: T, b: T| unordered(a.value(), b.value())),
    }
}

#[inline(always)]
fn at_least<V: PartialOrd>(a: V, b: V) -> bool {
    a >= b
}
#[inline(always)]
fn above<V: PartialOrd>(a: V, b: V) -> bool {
    a > b
}
#[inline(always)]
#[allow(clippy::eq_op)] // NaN differs from itself
fn unordered<V: PartialOrd>(a: V, b: V) -> bool {
    (a != a) | (b != b)
}

/// Whether a relation found at run time holds.
#[inline(always)]
fn holds(code: u32, a: f32, b: f32) -> bool {
    // Every relation by itself, without branches: loops over lanes become vector code.
    let when = |holds: bool, outcome: u32| if holds { code & outcome } else { 0 };
    let unordered = a.is_nan() | b.is_nan();
    when(a < b, LESS) | when(a == b, EQUAL) | when(a > b, GREATER) | when(unordered, UNORDERED) != 0
}

/// Two halves a lane: a predicate for each, or a lane of two results.
#[inline(always)]
unsafe fn packed<H: Real<Value = f32> + FromBits>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: slots of the warp's file, lanes or predicates as the flags say.
    unsafe {
        let (a, b) = (u32::load(w.slot(i.a)), u32::load(w.slot(i.b)));
        let code = i.aux >> RELATION;
        let half = |x: u32, shift: u32| H::from_bits16((x >> shift) as u16).value();
        let low = combined(
            w,
            i,
            lanes_where(|l| holds(code, half(a[l], 0), half(b[l], 0))),
        );
        let high = combined(
            w,
            i,
            lanes_where(|l| holds(code, half(a[l], 16), half(b[l], 16))),
        );
        if i.aux & LANES != 0 {
            let value = i.imm as u32;
            let out = each(|l| {
                (if low >> l & 1 != 0 { value } else { 0 })
                    | (if high >> l & 1 != 0 { value << 16 } else { 0 })
            });
            u32::store(w.slot(i.d), out, mask);
        } else {
            for (slot, bits) in [(i.d, low), (i.imm as u32, high)] {
                let p = w.slot(slot).cast::<u32>();
                *p = *p & !mask | bits & mask;
            }
        }
    }
    Flow::Next
}

trait FromBits {
    fn from_bits16(bits: u16) -> Self;
}
impl FromBits for F16 {
    #[inline(always)]
    fn from_bits16(bits: u16) -> F16 {
        F16(bits)
    }
}
impl FromBits for BF16 {
    #[inline(always)]
    fn from_bits16(bits: u16) -> BF16 {
        BF16(bits)
    }
}
impl FromBits for FlushedHalf {
    #[inline(always)]
    fn from_bits16(bits: u16) -> FlushedHalf {
        FlushedHalf(bits)
    }
}

/// The handler that compares values of a type, and the bits it needs in [`Inst::aux`].
fn comparison(d: &Decoder, i: &Instruction, ty: Type) -> Result<(Handler, u32), LoadError> {
    let name = i.opcode.get(1).map_or("", String::as_str);
    let Some(code) = relation(name, ty) else {
        return d.unsupported(format!("comparison .{name} of {ty:?}"));
    };
    let ftz = has(i, "ftz");
    if ftz && !matches!(ty, Type::F32 | Type::F16 | Type::F16x2) {
        return d.unsupported(format!("modifier .ftz for {ty:?}"));
    }
    let run: Handler = match (ty, ftz) {
        (Type::B16 | Type::U16, _) => ordered::<u16>(code),
        (Type::B32 | Type::U32, _) => ordered::<u32>(code),
        (Type::B64 | Type::U64, _) => ordered::<u64>(code),
        (Type::S16, _) => ordered::<i16>(code),
        (Type::S32, _) => ordered::<i32>(code),
        (Type::S64, _) => ordered::<i64>(code),
        (Type::F32, false) => real::<f32>(code),
        (Type::F32, true) => real::<Flushed>(code),
        (Type::F64, _) => real::<f64>(code),
        (Type::F16, false) => real::<F16>(code),
        (Type::F16, true) => real::<FlushedHalf>(code),
        (Type::BF16, _) => real::<BF16>(code),
        (Type::F16x2, false) => pick_handler!(packed::<F16>),
        (Type::F16x2, true) => pick_handler!(packed::<FlushedHalf>),
        (Type::BF16x2, _) => pick_handler!(packed::<BF16>),
        (ty, _) => return d.unsupported(format!("type {ty:?}")),
    };
    let is_packed = matches!(ty, Type::F16x2 | Type::BF16x2);
    Ok((run, if is_packed { code << RELATION } else { 0 }))
}

const MODIFIERS: [&str; 22] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan", "and", "or", "xor", "ftz",
];

/// The operator and operand that the outcome is combined with: bits for [`Inst::aux`], and the slot.
fn combination(d: &mut Decoder, i: &Instruction) -> Result<(u32, u32), LoadError> {
    let op = match i.opcode.get(2).map_or("", String::as_str) {
        "and" => AND,
        "or" => OR,
        "xor" => XOR,
        _ => 0,
    };
    operands(d, i, if op == 0 { 3 } else { 4 })?;
    if op == 0 {
        return Ok((0, 0));
    }
    let (slot, negated) = d.predicate(&i.operands[3])?;
    Ok((op | if negated { NOT_C } else { 0 }, slot))
}

fn setp(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    exactly(d, i, &MODIFIERS)?;
    let ty = super::type_of(d, i)?;
    let (run, relation) = comparison(d, i, ty)?;
    let (combine, c) = combination(d, i)?;
    let (first, second) = match &i.operands[0] {
        Operand::Pair(p, q) => (d.dst(p, Type::Pred)?, Some(d.dst(q, Type::Pred)?)),
        p => (d.dst(p, Type::Pred)?, None),
    };
    if relation != 0 && second.is_none() {
        return d.invalid("two halves are compared: a pair of predicates belongs");
    }
    let (a, b) = (d.src(&i.operands[1], ty)?, d.src(&i.operands[2], ty)?);
    let aux = relation | combine | if second.is_some() { SECOND } else { 0 };
    Ok(Inst {
        d: first,
        a,
        b,
        c,
        aux,
        imm: i64::from(second.unwrap_or(0)),
        ..d.inst(run)
    })
}

fn set(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let n = i.opcode.len();
    let ty = super::type_of(d, i)?;
    let Some(out) = i.opcode.get(n - 2).and_then(|m| Type::from_suffix(m)) else {
        return d.invalid("two types belong");
    };
    if let Some(m) = i.opcode[1..n - 2]
        .iter()
        .find(|m| !MODIFIERS.contains(&m.as_str()))
    {
        return d.unsupported(format!("modifier .{m}"));
    }
    let (run, relation) = comparison(d, i, ty)?;
    let (combine, c) = combination(d, i)?;
    let value: u32 = match (out, relation != 0) {
        (Type::U32 | Type::S32, false) => u32::MAX,
        (Type::U16 | Type::S16, false) => 0xffff,
        (Type::F32, false) => 1f32.to_bits(),
        (Type::F16, false) => u32::from(F16::ONE),
        (Type::BF16, false) => u32::from(BF16::ONE),
        (Type::U32 | Type::S32, true) => 0xffff,
        (Type::F16x2, true) => u32::from(F16::ONE),
        (Type::BF16x2, true) => u32::from(BF16::ONE),
        (out, _) => return d.unsupported(format!("type {out:?}")),
    };
    let target = d.dst(&i.operands[0], out)?;
    let (a, b) = (d.src(&i.operands[1], ty)?, d.src(&i.operands[2], ty)?);
    Ok(Inst {
        d: target,
        a,
        b,
        c,
        aux: relation | combine | LANES,
        imm: i64::from(value),
        ..d.inst(run)
    })
}

fn selp(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    exactly(d, i, &[])?;
    let ty = super::type_of(d, i)?;
    operands(d, i, 4)?;
    let run = match ty.size() {
        2 | 4 if ty != Type::Pred => alu3(|a: u32, b: u32, c: bool| if c { a } else { b }),
        8 => alu3(|a: u64, b: u64, c: bool| if c { a } else { b }),
        _ => return d.unsupported(format!("type {ty:?}")),
    };
    let target = d.dst(&i.operands[0], ty)?;
    let (a, b) = (d.src(&i.operands[1], ty)?, d.src(&i.operands[2], ty)?);
    let (c, negated) = d.predicate(&i.operands[3])?;
    let (a, b) = if negated { (b, a) } else { (a, b) };
    Ok(Inst {
        d: target,
        a,
        b,
        c,
        ..d.inst(run)
    })
}

fn slct(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let n = i.opcode.len();
    let test = super::type_of(d, i)?;
    let Some(ty) = i.opcode.get(n - 2).and_then(|m| Type::from_suffix(m)) else {
        return d.invalid("two types belong");
    };
    let ftz = has(i, "ftz");
    if n != 3 + usize::from(ftz) {
        return d.unsupported("modifiers");
    }
    // A negative subnormal number counts as zero only where it is flushed; minus zero is at least zero.
    let run = match (test, ty.size(), ftz) {
        (Type::S32, 2 | 4, false) => alu3(|a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
        (Type::S32, 8, false) => alu3(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
        (Type::F32, 2 | 4, false) => alu3(|a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b }),
        (Type::F32, 8, false) => alu3(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b }),
        (Type::F32, 2 | 4, true) => {
            alu3(|a: u32, b: u32, c: f32| if c > -f32::MIN_POSITIVE { a } else { b })
        }
        (Type::F32, 8, true) => {
            alu3(|a: u64, b: u64, c: f32| if c > -f32::MIN_POSITIVE { a } else { b })
        }
        _ => return d.unsupported("types"),
    };
    super::shape::ternary(d, i, ty, [ty, ty, test], run)
}

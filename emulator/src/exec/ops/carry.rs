//! Extended-precision arithmetic: `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`. The carry flag of
//! each thread is a bit of [`Warp::carry`]; for subtraction it is a borrow.

use super::has;
use super::int::unsigned;
use super::shape::{binary, exactly, ternary};
use crate::exec::decode::Decoder;
use crate::exec::lanes::Lane;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Type};

/// Whether an instruction reads or writes the carry flag.
pub fn owns(i: &Instruction) -> bool {
    matches!(i.opcode[0].as_str(), "addc" | "subc" | "madc")
        || (matches!(i.opcode[0].as_str(), "add" | "sub" | "mad") && has(i, "cc"))
}

/// Decodes one of them.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let ty = super::type_of(d, i)?;
    let op = i.opcode[0].as_str();
    let product = op.starts_with("mad");
    exactly(
        d,
        i,
        if product {
            &["lo", "hi", "cc"]
        } else {
            &["cc"]
        },
    )?;
    if !matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64) {
        return d.unsupported("type");
    }
    let kind = match (op, product) {
        (_, true) if has(i, "hi") => HIGH,
        (_, true) => LOW,
        ("sub" | "subc", _) => SUB,
        _ => ADD,
    };
    // Only the upper half of a product depends on the sign.
    let ty = if kind == HIGH { ty } else { unsigned(ty) };
    let aux = if op.ends_with('c') { READS } else { 0 } | if has(i, "cc") { WRITES } else { 0 };
    let run = match ty {
        Type::U32 => pick::<u32>(kind),
        Type::S32 => pick::<i32>(kind),
        Type::U64 => pick::<u64>(kind),
        _ => pick::<i64>(kind),
    };
    let inst = if product {
        ternary(d, i, ty, [ty; 3], run)?
    } else {
        binary(d, i, ty, [ty; 2], run)?
    };
    Ok(Inst { aux, ..inst })
}

const ADD: u32 = 0;
const SUB: u32 = 1;
const LOW: u32 = 2;
const HIGH: u32 = 3;

const READS: u32 = 1;
const WRITES: u32 = 2;

trait Word: Lane {
    /// Low and high half of the product, as this type.
    fn product(self, other: Self) -> (Self, Self);
    fn add(self, other: Self, carry: bool) -> (Self, bool);
    fn sub(self, other: Self, borrow: bool) -> (Self, bool);
}

macro_rules! word {
    ($($t:ident $u:ident $wide:ident),*) => {$(
        impl Word for $t {
            #[inline(always)]
            fn product(self, other: $t) -> ($t, $t) {
                let p = self as $wide * other as $wide;
                (p as $t, (p >> $t::BITS) as $t)
            }
            #[inline(always)]
            fn add(self, other: $t, carry: bool) -> ($t, bool) {
                let (a, x) = (self as $u).overflowing_add(other as $u);
                let (b, y) = a.overflowing_add($u::from(carry));
                (b as $t, x | y)
            }
            #[inline(always)]
            fn sub(self, other: $t, borrow: bool) -> ($t, bool) {
                let (a, x) = (self as $u).overflowing_sub(other as $u);
                let (b, y) = a.overflowing_sub($u::from(borrow));
                (b as $t, x | y)
            }
        }
    )*};
}
word!(u32 u32 u64, i32 u32 i64, u64 u64 u128, i64 u64 i128);

fn pick<T: Word>(kind: u32) -> Handler {
    match kind {
        ADD => execute::<T, ADD>,
        SUB => execute::<T, SUB>,
        LOW => execute::<T, LOW>,
        _ => execute::<T, HIGH>,
    }
}

unsafe fn execute<T: Word, const KIND: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file, of this width.
    let (a, b) = unsafe { (T::load(w.slot(i.a)), T::load(w.slot(i.b))) };
    let carry_in = if i.aux & READS != 0 { w.carry } else { 0 };
    let mut carry_out = 0u32;
    let mut out = a;
    // SAFETY: as above; without a third operand the slot is the sink, which is wide enough.
    let c = unsafe { T::load(w.slot(i.c)) };
    for l in 0..32 {
        let carry = carry_in >> l & 1 != 0;
        let (value, over) = match KIND {
            ADD => a[l].add(b[l], carry),
            SUB => a[l].sub(b[l], carry),
            LOW => a[l].product(b[l]).0.add(c[l], carry),
            _ => a[l].product(b[l]).1.add(c[l], carry),
        };
        out[l] = value;
        carry_out |= u32::from(over) << l;
    }
    // SAFETY: as above.
    unsafe { T::store(w.slot(i.d), out, mask) };
    if i.aux & WRITES != 0 {
        w.carry = w.carry & !mask | carry_out & mask;
    }
    Flow::Next
}

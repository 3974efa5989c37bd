//! SIMD video instructions on two or four parts of a register: `vadd2`, `vabsdiff4`, `vset4` and their like,
//! in the forms without selectors and masks, which are those that nvcc emits. The scalar ones have a file of their own.

mod scalar;

use super::{has, operands};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, each};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Type};

/// What is done to each pair of parts; the discriminant is in [`Inst::aux`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    Average,
    Difference,
    Min,
    Max,
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// By discriminant.
const OPS: [Op; 12] = {
    use Op::*;
    [
        Add, Sub, Average, Difference, Min, Max, Equal, NotEqual, Less, AtMost, Greater, AtLeast,
    ]
};

const _: () = {
    let mut k = 0;
    while k < OPS.len() {
        assert!(OPS[k] as usize == k);
        k += 1;
    }
};

// Flags above the operation in Inst::aux.
const OP: u32 = 0xff;
const SIGNED_A: u32 = 1 << 8;
const SIGNED_B: u32 = 1 << 9;
const SIGNED_D: u32 = 1 << 10;
const SATURATE: u32 = 1 << 11;
const ACCUMULATE: u32 = 1 << 12;
const BYTES: u32 = 1 << 13;

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let Some((name, bytes)) = i.opcode[0]
        .strip_suffix('4')
        .map(|n| (n, true))
        .or(i.opcode[0].strip_suffix('2').map(|n| (n, false)))
    else {
        return scalar::decode(d, i);
    };
    let set = name == "vset";
    let op = match (name, i.opcode.get(3).map_or("", String::as_str)) {
        ("vadd", _) => Op::Add,
        ("vsub", _) => Op::Sub,
        ("vavrg", _) => Op::Average,
        ("vabsdiff", _) => Op::Difference,
        ("vmin", _) => Op::Min,
        ("vmax", _) => Op::Max,
        ("vset", "eq") => Op::Equal,
        ("vset", "ne") => Op::NotEqual,
        ("vset", "lt") => Op::Less,
        ("vset", "le") => Op::AtMost,
        ("vset", "gt") => Op::Greater,
        ("vset", "ge") => Op::AtLeast,
        ("vset", _) => return d.unsupported("comparison"),
        _ => return Ok(None),
    };
    // The types come first: of the result (except for vset), of a, of b.
    let count = if set { 2 } else { 3 };
    let mut signs = Vec::new();
    for part in i.opcode[1..].iter().take(count) {
        match part.as_str() {
            "u32" => signs.push(false),
            "s32" => signs.push(true),
            _ => return d.unsupported(format!("type .{part}")),
        }
    }
    let rest = i.opcode.get(4..).unwrap_or(&[]);
    if signs.len() < count
        || rest.len() > 1
        || rest.iter().any(|m| m != "add" && (set || m != "sat"))
    {
        return d.unsupported("modifiers");
    }
    operands(d, i, 4)?;
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    let aux = op as u32
        | flag(signs[count - 2], SIGNED_A)
        | flag(signs[count - 1], SIGNED_B)
        | flag(!set && signs[0], SIGNED_D)
        | flag(has(i, "sat"), SATURATE)
        | flag(has(i, "add"), ACCUMULATE)
        | flag(bytes, BYTES);
    let target = d.dst(&i.operands[0], Type::B32)?;
    let [a, b, c] = [1, 2, 3].map(|k| d.src(&i.operands[k], Type::B32));
    Ok(Some(Inst {
        d: target,
        a: a?,
        b: b?,
        c: c?,
        aux,
        ..d.inst(execute)
    }))
}

unsafe fn execute(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { apply(w, i, mask, parts) }
}

/// What `operate` makes of the lanes' three sources and the instruction's form.
///
/// # Safety
/// As for every handler: operands are 32-bit slots of the warp's file.
unsafe fn apply(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    operate: impl Fn(u32, u32, u32, u32) -> u32,
) -> Flow {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b, c) = (
            u32::load(w.slot(i.a)),
            u32::load(w.slot(i.b)),
            u32::load(w.slot(i.c)),
        );
        let out: [u32; 32] = each(|l| operate(a[l], b[l], c[l], i.aux));
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

fn parts(a: u32, b: u32, c: u32, aux: u32) -> u32 {
    let width = if aux & BYTES != 0 { 8 } else { 16 };
    let ones = (1u32 << width) - 1;
    let part = |x: u32, place: u32, signed: bool| {
        let bits = x >> place & ones;
        if signed {
            (bits << (32 - width)) as i32 >> (32 - width)
        } else {
            bits as i32
        }
    };
    let (least, most) = if aux & SIGNED_D != 0 {
        (-(1 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        (0, ones as i32)
    };
    let op = OPS[(aux & OP) as usize % OPS.len()];
    let mut sum = c;
    let mut merged = 0;
    for place in (0..32).step_by(width as usize) {
        let value = operate(
            op,
            part(a, place, aux & SIGNED_A != 0),
            part(b, place, aux & SIGNED_B != 0),
        );
        let value = if aux & SATURATE != 0 {
            value.clamp(least, most)
        } else {
            value
        };
        sum = sum.wrapping_add(value as u32);
        merged |= (value as u32 & ones) << place;
    }
    if aux & ACCUMULATE != 0 { sum } else { merged }
}

fn operate(op: Op, a: i32, b: i32) -> i32 {
    match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        // Rounded up, of negative sums down.
        Op::Average => (a + b + i32::from(a + b >= 0)) >> 1,
        Op::Difference => (a - b).abs(),
        Op::Min => a.min(b),
        Op::Max => a.max(b),
        Op::Equal => (a == b).into(),
        Op::NotEqual => (a != b).into(),
        Op::Less => (a < b).into(),
        Op::AtMost => (a <= b).into(),
        Op::Greater => (a > b).into(),
        Op::AtLeast => (a >= b).into(),
    }
}

//! Scalar video instructions: `vadd` and its like, on whole registers or bytes and halves of them, with a second
//! operation on the result or a place in another register that it is put into.

use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Part, Type};

/// What is done; the discriminant is in [`Inst::aux`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Sub,
    Difference,
    Min,
    Max,
    ShiftLeft,
    ShiftRight,
    MultiplyAdd,
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// By discriminant.
const OPS: [Op; 14] = {
    use Op::*;
    [
        Add,
        Sub,
        Difference,
        Min,
        Max,
        ShiftLeft,
        ShiftRight,
        MultiplyAdd,
        Equal,
        NotEqual,
        Less,
        AtMost,
        Greater,
        AtLeast,
    ]
};

const _: () = {
    let mut k = 0;
    while k < OPS.len() {
        assert!(OPS[k] as usize == k);
        k += 1;
    }
};

// Bits of `Inst::aux` above the operation.
const OP: u32 = 0xf;
const SIGNED_D: u32 = 1 << 4;
const SIGNED_A: u32 = 1 << 5;
const SIGNED_B: u32 = 1 << 6;
const SATURATE: u32 = 1 << 7;
/// Shift counts wrap at 32, where they do not stop there.
const WRAP: u32 = 1 << 8;
const PLUS_ONE: u32 = 1 << 9;
const NEGATE_PRODUCT: u32 = 1 << 10;
const NEGATE_C: u32 = 1 << 11;
/// The second operation.
const SECOND_SHIFT: u32 = 12;
const SECOND_ADD: u32 = 1;
const SECOND_MIN: u32 = 2;
const SECOND_MAX: u32 = 3;
/// The product's scale: 0, 7 or 15.
const SCALE_SHIFT: u32 = 14;
/// Parts of a, b and d, four bits each: see [`code`].
const A_SHIFT: u32 = 18;
const B_SHIFT: u32 = 22;
const D_SHIFT: u32 = 26;

/// A part in four bits: 0 for all of a register.
fn code(part: Option<Part>) -> u32 {
    match part {
        None => 0,
        Some(Part::Byte(k)) => 1 + k,
        Some(Part::Half(k)) => 5 + k,
    }
}

/// Lowest bit and bits of a part.
fn bits(aux: u32, shift: u32) -> (u32, u32) {
    match aux >> shift & 0xf {
        0 => (0, 32),
        k @ 1..5 => Part::Byte(k - 1).bits(),
        k => Part::Half(k - 5).bits(),
    }
}

/// An operand taken apart: what is left of it, whether it is negated, and which part it is.
fn taken(operand: &Operand) -> (Operand, bool, u32) {
    match operand {
        Operand::Part { reg, negated, part } => (Operand::Reg(*reg), *negated, code(*part)),
        other => (other.clone(), false, 0),
    }
}

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let op = match i.opcode[0].as_str() {
        "vadd" => Op::Add,
        "vsub" => Op::Sub,
        "vabsdiff" => Op::Difference,
        "vmin" => Op::Min,
        "vmax" => Op::Max,
        "vshl" => Op::ShiftLeft,
        "vshr" => Op::ShiftRight,
        "vmad" => Op::MultiplyAdd,
        "vset" => match i.opcode.get(3).map_or("", String::as_str) {
            "eq" => Op::Equal,
            "ne" => Op::NotEqual,
            "lt" => Op::Less,
            "le" => Op::AtMost,
            "gt" => Op::Greater,
            "ge" => Op::AtLeast,
            _ => return d.unsupported("comparison"),
        },
        _ => return Ok(None),
    };
    let compares = i.opcode[0] == "vset";
    let shifts = matches!(op, Op::ShiftLeft | Op::ShiftRight);
    let multiplies = op == Op::MultiplyAdd;
    let mut aux = op as u32;
    // The types come first: of the result (but for a comparison, whose is unsigned), of a, of b.
    let signs: &[u32] = if compares {
        &[SIGNED_A, SIGNED_B]
    } else {
        &[SIGNED_D, SIGNED_A, SIGNED_B]
    };
    for (k, sign) in signs.iter().enumerate() {
        match i.opcode.get(1 + k).map(String::as_str) {
            Some("s32") if !(shifts && *sign == SIGNED_B) => aux |= sign,
            Some("u32") => {}
            _ => return d.unsupported("types"),
        }
    }
    let mut second = 0;
    let mut mode = false;
    for m in i
        .opcode
        .iter()
        .skip(1 + signs.len() + usize::from(compares))
    {
        match m.as_str() {
            "sat" if !compares => aux |= SATURATE,
            "clamp" if shifts => mode = true,
            "wrap" if shifts => {
                mode = true;
                aux |= WRAP;
            }
            "po" if multiplies => aux |= PLUS_ONE,
            "shr7" if multiplies => aux |= 7 << SCALE_SHIFT,
            "shr15" if multiplies => aux |= 15 << SCALE_SHIFT,
            "add" if !multiplies => second = SECOND_ADD,
            "min" if !multiplies => second = SECOND_MIN,
            "max" if !multiplies => second = SECOND_MAX,
            other => return d.unsupported(format!("modifier .{other}")),
        }
    }
    if shifts && !mode {
        return d.invalid("neither .clamp nor .wrap");
    }
    let [target, a, b, rest @ ..] = &i.operands[..] else {
        return d.invalid("operands are not d, a, b and c");
    };
    let (target, _, into) = taken(target);
    let with_c = multiplies || second != 0 || into != 0;
    if rest.len() != usize::from(with_c) {
        return d.invalid(format!(
            "{} operands, where c {} belong",
            i.operands.len(),
            if with_c { "does" } else { "does not" }
        ));
    }
    if into != 0 && (second != 0 || multiplies) {
        return d.invalid("a second operation, and a part of the destination");
    }
    let (a, minus_a, part_a) = taken(a);
    let (b, minus_b, part_b) = taken(b);
    let c = rest.first().map(taken);
    let minus_c = c.as_ref().is_some_and(|c| c.1);
    if (minus_a || minus_b || minus_c) && (!multiplies || aux & PLUS_ONE != 0)
        || minus_c && minus_a != minus_b
    {
        return d.invalid("operands may not be negated so");
    }
    if minus_a != minus_b {
        aux |= NEGATE_PRODUCT;
    }
    if minus_c {
        aux |= NEGATE_C;
    }
    aux |= second << SECOND_SHIFT | part_a << A_SHIFT | part_b << B_SHIFT | into << D_SHIFT;
    let slot = d.dst(&target, Type::B32)?;
    let (a, b) = (d.src(&a, Type::B32)?, d.src(&b, Type::B32)?);
    let c = match c {
        Some((_, _, part)) if part != 0 => return d.invalid("a part of c"),
        Some((operand, ..)) => d.src(&operand, Type::B32)?,
        None => d.constant(0, 4),
    };
    Ok(Some(Inst {
        d: slot,
        a,
        b,
        c,
        aux,
        ..d.inst(execute)
    }))
}

unsafe fn execute(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { super::apply(w, i, mask, operate) }
}

/// The number that bits `place` on are, as many as `width`.
fn number(x: u32, (place, width): (u32, u32), signed: bool) -> i128 {
    let bits = x >> place << (32 - width);
    if signed {
        i128::from(bits as i32 >> (32 - width))
    } else {
        i128::from(bits >> (32 - width))
    }
}

fn saturated(x: i128, width: u32, signed: bool) -> i128 {
    if signed {
        x.clamp(-(1 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        x.clamp(0, (1 << width) - 1)
    }
}

fn operate(a: u32, b: u32, c: u32, aux: u32) -> u32 {
    let op = OPS[(aux & OP) as usize % OPS.len()];
    let (signed_a, signed_b) = (aux & SIGNED_A != 0, aux & SIGNED_B != 0);
    let ta = number(a, bits(aux, A_SHIFT), signed_a);
    let tb = number(b, bits(aux, B_SHIFT), signed_b);
    if op == Op::MultiplyAdd {
        return multiply_add(ta, tb, c, aux);
    }
    let count = if aux & WRAP != 0 { tb & 31 } else { tb.min(32) };
    let result = match op {
        Op::Add => ta + tb,
        Op::Sub => ta - tb,
        Op::Difference => (ta - tb).abs(),
        Op::Min => ta.min(tb),
        Op::Max => ta.max(tb),
        Op::ShiftLeft => ta << count,
        Op::ShiftRight => ta >> count,
        Op::Equal => (ta == tb).into(),
        Op::NotEqual => (ta != tb).into(),
        Op::Less => (ta < tb).into(),
        Op::AtMost => (ta <= tb).into(),
        Op::Greater => (ta > tb).into(),
        Op::AtLeast | Op::MultiplyAdd => (ta >= tb).into(),
    };
    let signed = aux & SIGNED_D != 0;
    let (place, width) = bits(aux, D_SHIFT);
    let result = if aux & SATURATE != 0 {
        saturated(result, width, signed)
    } else {
        result
    };
    let tc = number(c, (0, 32), signed);
    let result = match aux >> SECOND_SHIFT & 3 {
        SECOND_ADD => result + tc,
        SECOND_MIN => result.min(tc),
        SECOND_MAX => result.max(tc),
        _ => result,
    };
    let kept = (u32::MAX >> (32 - width)) << place;
    (result as u32) << place & kept | c & !kept
}

fn multiply_add(ta: i128, tb: i128, c: u32, aux: u32) -> u32 {
    let has = |flag: u32| aux & flag != 0;
    let signed = has(SIGNED_A) || has(SIGNED_B) || has(NEGATE_PRODUCT) || has(NEGATE_C);
    let product = if has(NEGATE_PRODUCT) {
        !(ta * tb)
    } else {
        ta * tb
    };
    let c = if has(NEGATE_C) { !c } else { c };
    let one = has(PLUS_ONE) || has(NEGATE_PRODUCT) || has(NEGATE_C);
    let sum = product + number(c, (0, 32), signed) + i128::from(one);
    let scaled = sum >> (aux >> SCALE_SHIFT & 0xf);
    if has(SATURATE) {
        return saturated(scaled, 32, signed) as u32;
    }
    scaled as u32
}

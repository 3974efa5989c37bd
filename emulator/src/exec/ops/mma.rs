//! `mma.sync`: a warp's product of small matrices, D = A B + C.
//!
//! In every shape from m8n8 on, a fragment register of A, its 32 lanes in order, is eight rows of 16 bytes:
//! lane `4 g + t` holds bytes `4 t .. 4 t + 4` of row `g`. The registers of A are the blocks of eight rows, then
//! the blocks of 16 bytes along K; those of B likewise, with the columns of B for rows. What differs between
//! element types is how many elements 16 bytes are. The registers of C and D are lanes `4 g + t` at row `g`,
//! columns `2 t` and `2 t + 1`.
//!
//! Floating-point products are exact and are added to the accumulator one after another along K, each sum
//! rounded to single precision (the ISA leaves order and rounding of the sums open); with `.f16` accumulators
//! the end result is rounded once more. Integer sums are exact modulo 2^32, or clamped under `.satfinite`.

mod double;
mod float;
mod integer;

use super::memory::elements;
use super::{has, operands};
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Handler, Inst};
use crate::ptx::ast::{Instruction, Type};

/// What `mma` is asked for: shape and element types, as spelled.
#[derive(Debug, Clone, Copy)]
pub struct Form<'i> {
    /// `m16n8k16` and so on.
    pub shape: &'i str,
    /// Type of D.
    pub d: &'i str,
    /// Type of A.
    pub a: &'i str,
    /// Type of B.
    pub b: &'i str,
    /// Type of C.
    pub c: &'i str,
}

/// A form's handler and its registers: how many of each operand, and of what type.
pub struct Plan {
    /// What executes it.
    pub run: Handler,
    /// Registers of D, A, B, C.
    pub counts: [usize; 4],
    /// Type of the registers of D and of C.
    pub accumulators: [Type; 2],
    /// Type of the registers of A and B.
    pub factors: Type,
}

/// `mma`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if i.opcode[1..]
        .iter()
        .any(|m| m == "sp" || m.starts_with("sp::"))
    {
        return d.unsupported("sparse matrices");
    }
    if i.opcode[1..]
        .iter()
        .any(|m| m.starts_with("kind::") || m == "block_scale")
    {
        return d.unsupported("the forms of sm_120a");
    }
    let mut rest: Vec<&str> = i.opcode[1..].iter().map(String::as_str).collect();
    let mut take = |known: &[&str]| -> Option<String> {
        let at = rest.iter().position(|m| known.contains(m))?;
        Some(rest.remove(at).to_string())
    };
    if take(&["sync"]).is_none() || take(&["aligned"]).is_none() {
        return d.invalid("neither .sync nor .aligned may be left out");
    }
    let saturate = take(&["satfinite"]).is_some();
    take(&["popc"]);
    let bit_op = take(&["xor", "and"]);
    let layouts = [take(&["row", "col"]), take(&["row", "col"])];
    let [shape, dt, at, bt, ct] = rest[..] else {
        return d.unsupported("form");
    };
    let form = Form {
        shape,
        d: dt,
        a: at,
        b: bt,
        c: ct,
    };
    if shape == "m8n8k4" && at == "f16" {
        return d.unsupported("the m8n8k4 product of halves, made for sm_70");
    }
    if layouts != [Some("row".to_string()), Some("col".to_string())] {
        return d.invalid("A is .row and B is .col in this shape");
    }
    let plan = match at {
        "f64" => double::plan(form),
        "s8" | "u8" | "s4" | "u4" | "b1" => integer::plan(form, saturate, bit_op.as_deref()),
        _ => float::plan(form),
    };
    let Some(plan) = plan else {
        return d.unsupported("shape and types");
    };
    if saturate && !matches!(at, "s8" | "u8" | "s4" | "u4") {
        return d.unsupported(".satfinite");
    }
    build(d, i, &plan)
}

/// Puts the operand slots together: D, A, B, C in [`Inst::extra`].
fn build(d: &mut Decoder, i: &Instruction, plan: &Plan) -> Result<Inst, LoadError> {
    operands(d, i, 4)?;
    let mut slots = Vec::new();
    for (k, operand) in i.operands.iter().enumerate() {
        let list = elements(operand);
        if list.len() != plan.counts[k] {
            return d.invalid(format!(
                "{} registers for operand {k}, where {} belong",
                list.len(),
                plan.counts[k]
            ));
        }
        let ty = [
            plan.accumulators[0],
            plan.factors,
            plan.factors,
            plan.accumulators[1],
        ][k];
        for element in list {
            slots.push(if k == 0 {
                d.dst(element, ty)?
            } else {
                d.src(element, ty)?
            });
        }
    }
    if has(i, "sp") {
        return d.unsupported("sparse matrices");
    }
    let extra = d.extras(slots);
    Ok(Inst {
        extra,
        ..d.inst(plan.run)
    })
}

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

mod accumulator;
mod double;
pub(super) mod element;
mod float;
pub(in crate::exec) mod held;
mod integer;
mod sums;

use super::memory::elements;
use super::{has, operands};
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Handler, Inst};
use crate::exec::warp::Warp;
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

/// In [`Inst::aux`]: no register of D is one of A or B, or of C but for its counterpart, so that rows of D may be
/// written before all of C is read.
const APART: u32 = 1;

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
    let [targets, factors] = [plan.counts[0], plan.counts[1] + plan.counts[2]];
    let (of_d, rest) = slots.split_at(targets);
    let (of_factors, of_c) = rest.split_at(factors);
    let meets = |k: usize, slot: u32| {
        of_factors.contains(&slot) || of_c.iter().enumerate().any(|(n, &c)| n != k && c == slot)
    };
    let apart = !of_d.iter().enumerate().any(|(k, &slot)| meets(k, slot));
    let extra = d.extras(slots);
    let inst = Inst {
        extra,
        aux: if apart { APART } else { 0 },
        ..d.inst(plan.run)
    };
    Ok(match d.held_product() {
        Some(factors) => held::product(d, inst, factors),
        None => inst,
    })
}

/// An 8x8 tile of 32-bit words, rows `stride` words apart, to its transpose, rows eight words apart.
///
/// # Safety
/// Both pointers are valid for that; `to` is aligned to 32 bytes; `WIDE` only where
/// [`crate::exec::lanes::wide`] says so.
#[inline(always)]
unsafe fn transpose_words<const WIDE: bool>(from: *const u32, stride: usize, to: *mut u32) {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the caller's promise.
        unsafe { transpose_vectors(from.cast(), stride, to.cast()) };
        return;
    }
    for n in 0..8 {
        for k in 0..8 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(8 * k + n) = *from.add(n * stride + k) };
        }
    }
}

/// [`transpose_words`] in vectors: pairs, then quadruples inside each half, then the halves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn transpose_vectors(from: *const f32, stride: usize, to: *mut f32) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        let mut quads = [[_mm256_setzero_ps(); 4]; 2];
        for (half, quad) in quads.iter_mut().enumerate() {
            let first = from.add(4 * half * stride);
            let (a, b) = (_mm256_loadu_ps(first), _mm256_loadu_ps(first.add(stride)));
            let (c, d) = (
                _mm256_loadu_ps(first.add(2 * stride)),
                _mm256_loadu_ps(first.add(3 * stride)),
            );
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            *quad = [
                _mm256_shuffle_ps::<0x44>(low, low2),
                _mm256_shuffle_ps::<0xee>(low, low2),
                _mm256_shuffle_ps::<0x44>(high, high2),
                _mm256_shuffle_ps::<0xee>(high, high2),
            ];
        }
        for k in 0..4 {
            _mm256_store_ps(
                to.add(8 * k),
                _mm256_permute2f128_ps::<0x20>(quads[0][k], quads[1][k]),
            );
            _mm256_store_ps(
                to.add(8 * (k + 4)),
                _mm256_permute2f128_ps::<0x31>(quads[0][k], quads[1][k]),
            );
        }
    }
}

/// Memory for unpacked factors, written before it is read.
#[repr(C, align(32))]
struct Scratch<T, const N: usize>(std::mem::MaybeUninit<[T; N]>);

impl<T, const N: usize> Scratch<T, N> {
    #[inline(always)]
    fn new() -> Scratch<T, N> {
        Scratch(std::mem::MaybeUninit::uninit())
    }
    #[inline(always)]
    fn ptr(&mut self) -> *mut T {
        self.0.as_mut_ptr().cast()
    }
}

/// The operand slots of an instruction that [`build`] put together, `count` of them.
///
/// # Safety
/// The instruction is one of the warp's program.
#[inline(always)]
unsafe fn slots_of(w: &Warp, i: &Inst, count: usize) -> [*mut u8; 14] {
    let offsets = &w.program().extra[i.extra as usize..][..count];
    let mut slots = [std::ptr::null_mut(); 14];
    for (slot, &offset) in slots.iter_mut().zip(offsets) {
        // SAFETY: operands are slots of the warp's file.
        *slot = unsafe { w.slot(offset) };
    }
    slots
}

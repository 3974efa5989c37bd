//! Arithmetic of binary16 and bfloat16 numbers, one or two a register, each result rounded once.

use super::float::{canonical, choose, saturate};
use super::has;
use super::shape::{binary, exactly, ternary, unary};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, conjure, each};
use crate::exec::module::LoadError;
use crate::exec::number::approx;
use crate::exec::number::f16::{BF16, F16, Half};
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let ty = match i.opcode.last().and_then(|s| Type::from_suffix(s)) {
        Some(ty @ (Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2)) => ty,
        _ => return Ok(None),
    };
    let binary16 = matches!(ty, Type::F16 | Type::F16x2);
    let op = i.opcode[0].as_str();
    let known: &[&str] = match (op, binary16) {
        ("add" | "sub" | "mul", true) => &["rn", "ftz", "sat"],
        ("add" | "sub" | "mul", false) => &["rn"],
        ("fma", true) => &["rn", "ftz", "sat", "relu"],
        ("fma", false) => &["rn", "relu"],
        ("min" | "max", true) => &["ftz", "NaN", "xorsign", "abs"],
        ("min" | "max", false) => &["NaN", "xorsign", "abs"],
        ("abs" | "neg", true) => &["ftz"],
        ("abs" | "neg", false) => &[],
        ("tanh", _) => &["approx"],
        ("ex2", _) => &["approx", "ftz"],
        _ => return Ok(None),
    };
    exactly(d, i, known)?;
    if op == "fma" && !has(i, "rn") || matches!(op, "tanh" | "ex2") && !has(i, "approx") {
        return d.invalid("the rounding must be named");
    }
    if has(i, "sat") && has(i, "relu") || has(i, "xorsign") != has(i, "abs") {
        return d.unsupported("combination of modifiers");
    }
    let mut flags = 0;
    for (name, flag) in [("ftz", FTZ), ("sat", SAT), ("relu", RELU)] {
        if has(i, name) {
            flags |= flag;
        }
    }
    let inst = match op {
        "abs" | "neg" => {
            let run = sign(op == "neg", has(i, "ftz"));
            let both = matches!(ty, Type::F16x2 | Type::BF16x2);
            Inst {
                aux: if both { 0x8000_8000 } else { 0x8000 },
                ..unary(d, i, ty, ty, run)?
            }
        }
        "add" => binary(d, i, ty, [ty; 2], handler::<2, _>(ty, |a, b, _| a + b))?,
        "sub" => binary(d, i, ty, [ty; 2], handler::<2, _>(ty, |a, b, _| a - b))?,
        "mul" => binary(d, i, ty, [ty; 2], handler::<2, _>(ty, |a, b, _| a * b))?,
        "fma" => {
            let run = if binary16 {
                handler::<3, _>(ty, fma_f16)
            } else {
                handler::<3, _>(ty, fma_bf16)
            };
            ternary(d, i, ty, [ty; 3], run)?
        }
        "min" | "max" => {
            let run = match (op, has(i, "NaN"), has(i, "abs")) {
                ("min", false, false) => {
                    handler::<2, _>(ty, |a, b, _| choose::<false, false>(a, b))
                }
                ("min", true, false) => handler::<2, _>(ty, |a, b, _| choose::<false, true>(a, b)),
                ("min", false, true) => {
                    handler::<2, _>(ty, |a, b, _| choose_magnitude::<false, false>(a, b))
                }
                ("min", true, true) => {
                    handler::<2, _>(ty, |a, b, _| choose_magnitude::<false, true>(a, b))
                }
                (_, false, false) => handler::<2, _>(ty, |a, b, _| choose::<true, false>(a, b)),
                (_, true, false) => handler::<2, _>(ty, |a, b, _| choose::<true, true>(a, b)),
                (_, false, true) => {
                    handler::<2, _>(ty, |a, b, _| choose_magnitude::<true, false>(a, b))
                }
                (_, true, true) => {
                    handler::<2, _>(ty, |a, b, _| choose_magnitude::<true, true>(a, b))
                }
            };
            binary(d, i, ty, [ty; 2], run)?
        }
        "tanh" => unary(d, i, ty, ty, handler::<1, _>(ty, |a, _, _| approx::tanh(a)))?,
        _ => unary(d, i, ty, ty, handler::<1, _>(ty, |a, _, _| approx::exp2(a)))?,
    };
    Ok(Some(Inst {
        aux: inst.aux | flags,
        ..inst
    }))
}

// Inst::aux: what is done to operands and results.
const FTZ: u32 = 1;
const SAT: u32 = 2;
const RELU: u32 = 4;

/// `abs` and `neg`: the sign bits are in [`Inst::aux`] (above the flags, which lie among no sign bits).
fn sign(negate: bool, ftz: bool) -> Handler {
    unsafe fn change<const NEGATE: bool, const FLUSH: bool>(
        w: &mut Warp,
        i: &Inst,
        mask: u32,
    ) -> Flow {
        let signs = i.aux & 0x8000_8000;
        // SAFETY: operands are 32-bit slots of the warp's file.
        unsafe {
            let a = u32::load(w.slot(i.a));
            let out = each(|l| {
                let a = if FLUSH {
                    u32::from(F16(a[l] as u16).flushed().0)
                        | u32::from(F16((a[l] >> 16) as u16).flushed().0) << 16
                } else {
                    a[l]
                };
                // Of a single number the upper half is nothing.
                let a = if signs == 0x8000 { a & 0xffff } else { a };
                if NEGATE { a ^ signs } else { a & !signs }
            });
            u32::store(w.slot(i.d), out, mask);
        }
        Flow::Next
    }
    match (negate, ftz) {
        (false, false) => change::<false, false>,
        (false, true) => change::<false, true>,
        (true, false) => change::<true, false>,
        (true, true) => change::<true, true>,
    }
}

/// `a · b + c` of binary16 numbers, rounded to odd in binary32: once more rounded it is right.
#[inline(always)]
fn fma_f16(a: f32, b: f32, c: f32) -> f32 {
    // The product has 22 bits: exact.
    let p = a * b;
    let s = p + c;
    let from_c = s - p;
    let error = (p - (s - from_c)) + (c - from_c);
    let bits = s.to_bits();
    let away = (error > 0.0) == (s > 0.0);
    let moved = if away {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    // Where the sum is not finite, the error is NaN and neither holds.
    let inexact = (error > 0.0) | (error < 0.0);
    f32::from_bits(if inexact & (bits & 1 == 0) {
        moved
    } else {
        bits
    })
}

/// The same of bfloat16 numbers, whose products can leave the range of binary32.
#[inline(always)]
fn fma_bf16(a: f32, b: f32, c: f32) -> f32 {
    use crate::exec::number::odd::{add_odd, narrow_odd};
    narrow_odd(add_odd(f64::from(a) * f64::from(b), c.into()))
}

/// `.xorsign.abs`: of the magnitudes, with the sign of the product.
#[inline(always)]
fn choose_magnitude<const MAX: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    f32::from_bits(choose::<MAX, NAN>(a.abs(), b.abs()).to_bits() | sign)
}

/// Eight numbers at a time between 16 bits and binary32.
pub(super) trait Chunks: Half {
    /// Widens; `WIDE` where the processor's own conversion may be used.
    ///
    /// # Safety
    /// With `WIDE` the caller is compiled for F16C.
    unsafe fn widen<const WIDE: bool>(bits: [u16; 8]) -> [f32; 8];
    /// Rounds, NaN being canonical already.
    ///
    /// # Safety
    /// As for widening.
    unsafe fn narrow<const WIDE: bool>(values: [f32; 8]) -> [u16; 8];
}

impl Chunks for F16 {
    #[inline(always)]
    unsafe fn widen<const WIDE: bool>(bits: [u16; 8]) -> [f32; 8] {
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            use std::arch::x86_64::*;
            // SAFETY: the caller's promise; the arrays are vectors of these sizes.
            return unsafe {
                std::mem::transmute::<__m256, [f32; 8]>(_mm256_cvtph_ps(std::mem::transmute::<
                    [u16; 8],
                    __m128i,
                >(bits)))
            };
        }
        each(|l| F16(bits[l]).to_f32())
    }
    #[inline(always)]
    unsafe fn narrow<const WIDE: bool>(values: [f32; 8]) -> [u16; 8] {
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            use std::arch::x86_64::*;
            // SAFETY: as above.
            return unsafe {
                let values = std::mem::transmute::<[f32; 8], __m256>(values);
                std::mem::transmute::<__m128i, [u16; 8]>(
                    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values),
                )
            };
        }
        each(|l| F16::from_f32(values[l]).0)
    }
}

impl Chunks for BF16 {
    #[inline(always)]
    unsafe fn widen<const WIDE: bool>(bits: [u16; 8]) -> [f32; 8] {
        each(|l| BF16(bits[l]).to_f32())
    }
    #[inline(always)]
    unsafe fn narrow<const WIDE: bool>(values: [f32; 8]) -> [u16; 8] {
        each(|l| BF16::from_f32(values[l]).0)
    }
}

/// The halves of a slot: 64 where there are two a register, otherwise 32 and nothing.
#[inline(always)]
unsafe fn halves<const TWO: bool>(slot: *const u8) -> [u16; 64] {
    // SAFETY: a slot has 128 bytes.
    unsafe {
        if TWO {
            return *slot.cast::<[u16; 64]>();
        }
        let mut out = [0; 64];
        out[..32].copy_from_slice(&u16::load(slot));
        out
    }
}

#[inline(always)]
unsafe fn body<H: Chunks, F, const ARITY: usize, const TWO: bool, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow
where
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    // SAFETY: the caller's promise.
    unsafe {
        // Mostly nothing is asked for, and the loop over all numbers is straight.
        match i.aux & (FTZ | SAT | RELU) {
            0 => body_with::<H, F, ARITY, TWO, WIDE>(w, i, mask, 0),
            flags => body_with::<H, F, ARITY, TWO, WIDE>(w, i, mask, flags),
        }
    }
}

#[inline(always)]
unsafe fn body_with<H: Chunks, F, const ARITY: usize, const TWO: bool, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    flags: u32,
) -> Flow
where
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    // SAFETY: operands are slots of the warp's file; `F` was given to the constructor.
    unsafe {
        let f = conjure::<F>();
        let a = halves::<TWO>(w.slot(i.a));
        let b = if ARITY > 1 {
            halves::<TWO>(w.slot(i.b))
        } else {
            a
        };
        let c = if ARITY > 2 {
            halves::<TWO>(w.slot(i.c))
        } else {
            a
        };
        let mut out = [0u16; 64];
        for k in 0..if TWO { 8 } else { 4 } {
            let part = |x: &[u16; 64]| {
                let mut bits: [u16; 8] = each(|l| x[8 * k + l]);
                if flags & FTZ != 0 {
                    bits = each(|l| H::from_bits(bits[l]).flushed().bits());
                }
                H::widen::<WIDE>(bits)
            };
            let a = part(&a);
            let b = if ARITY > 1 { part(&b) } else { a };
            let c = if ARITY > 2 { part(&c) } else { a };
            let mut values: [f32; 8] = each(|l| canonical(f(a[l], b[l], c[l])));
            if flags & SAT != 0 {
                values = each(|l| saturate(values[l]));
            }
            if flags & RELU != 0 {
                values = each(|l| if values[l] <= 0.0 { 0.0 } else { values[l] });
            }
            let mut bits = H::narrow::<WIDE>(values);
            if flags & FTZ != 0 {
                bits = each(|l| H::from_bits(bits[l]).flushed().bits());
            }
            out[8 * k..8 * k + 8].copy_from_slice(&bits);
        }
        if TWO {
            u32::store(
                w.slot(i.d),
                std::mem::transmute::<[u16; 64], [u32; 32]>(out),
                mask,
            );
        } else {
            u16::store(w.slot(i.d), each(|l| out[l]), mask);
        }
    }
    Flow::Next
}

unsafe fn base<H: Chunks, F, const ARITY: usize, const TWO: bool>(
    w: &mut Warp,
    i: &Inst,
    m: u32,
) -> Flow
where
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    // SAFETY: the handler's own contract.
    unsafe { body::<H, F, ARITY, TWO, false>(w, i, m) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn fast<H: Chunks, F, const ARITY: usize, const TWO: bool>(
    w: &mut Warp,
    i: &Inst,
    m: u32,
) -> Flow
where
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    // SAFETY: the handler's own contract; picked only where the features exist.
    unsafe { body::<H, F, ARITY, TWO, true>(w, i, m) }
}

fn pick<H: Chunks, F, const ARITY: usize, const TWO: bool>() -> Handler
where
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    #[cfg(target_arch = "x86_64")]
    if crate::exec::lanes::wide() {
        return fast::<H, F, ARITY, TWO>;
    }
    base::<H, F, ARITY, TWO>
}

/// The handler that does `f` in binary32 on each number of a type and rounds.
fn handler<const ARITY: usize, F>(ty: Type, _: F) -> Handler
where
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    match ty {
        Type::F16 => pick::<F16, F, ARITY, false>(),
        Type::F16x2 => pick::<F16, F, ARITY, true>(),
        Type::BF16 => pick::<BF16, F, ARITY, false>(),
        _ => pick::<BF16, F, ARITY, true>(),
    }
}

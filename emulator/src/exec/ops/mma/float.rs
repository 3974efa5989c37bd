//! Products of `.f16`, `.bf16`, `.tf32`, `.e4m3` and `.e5m2` with `.f32` or `.f16` accumulators.

use super::super::matrix_load::transposed;
use super::super::tensor::whole_warp;
use super::accumulator::{Accumulator, ROWS, Single};
use super::element::{Brain, E4M3, E5M2, Element, Half, Tensor};
use super::sums::{Strides, sum};
use super::{APART, Form, Plan, Scratch, slots_of, transpose_words};
use crate::exec::lanes::each;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::Type;

/// Plans a floating-point form; `None` where there is none such.
pub fn plan(form: Form) -> Option<Plan> {
    let run: Handler = match (form.shape, form.a, form.b, form.c) {
        ("m16n8k8", "f16", "f16", "f32") => pick::<Half, Single, 1, 8>(),
        ("m16n8k16", "f16", "f16", "f32") => pick::<Half, Single, 2, 16>(),
        ("m16n8k8", "f16", "f16", "f16") => pick::<Half, Half, 1, 8>(),
        ("m16n8k16", "f16", "f16", "f16") => pick::<Half, Half, 2, 16>(),
        ("m16n8k8", "bf16", "bf16", "f32") => pick::<Brain, Single, 1, 8>(),
        ("m16n8k16", "bf16", "bf16", "f32") => pick::<Brain, Single, 2, 16>(),
        ("m16n8k4", "tf32", "tf32", "f32") => pick::<Tensor, Single, 1, 4>(),
        ("m16n8k8", "tf32", "tf32", "f32") => pick::<Tensor, Single, 2, 8>(),
        ("m16n8k16" | "m16n8k32", "e4m3" | "e5m2", "e4m3" | "e5m2", "f32" | "f16") => {
            eight_bits(form)?
        }
        _ => return None,
    };
    if form.d != form.c {
        return None;
    }
    let accumulators = if form.c == "f16" { 2 } else { 4 };
    // 16-byte blocks along K: the elements of one are 16 bytes' worth.
    let depth = match (form.shape, form.a) {
        ("m16n8k8" | "m16n8k4", "f16" | "bf16")
        | ("m16n8k4", _)
        | ("m16n8k16", "e4m3" | "e5m2") => 1,
        _ => 2,
    };
    Some(Plan {
        run,
        counts: [accumulators, 2 * depth, depth, accumulators],
        accumulators: [
            if form.d == "f16" {
                Type::B32
            } else {
                Type::F32
            },
            if form.c == "f16" {
                Type::B32
            } else {
                Type::F32
            },
        ],
        factors: Type::B32,
    })
}

fn eight_bits(form: Form) -> Option<Handler> {
    Some(match (form.shape, form.a, form.b, form.c) {
        ("m16n8k16", "e4m3", "e4m3", "f32") => pick2::<E4M3, E4M3, Single, 1, 16>(),
        ("m16n8k16", "e4m3", "e5m2", "f32") => pick2::<E4M3, E5M2, Single, 1, 16>(),
        ("m16n8k16", "e5m2", "e4m3", "f32") => pick2::<E5M2, E4M3, Single, 1, 16>(),
        ("m16n8k16", "e5m2", "e5m2", "f32") => pick2::<E5M2, E5M2, Single, 1, 16>(),
        ("m16n8k32", "e4m3", "e4m3", "f32") => pick2::<E4M3, E4M3, Single, 2, 32>(),
        ("m16n8k32", "e4m3", "e5m2", "f32") => pick2::<E4M3, E5M2, Single, 2, 32>(),
        ("m16n8k32", "e5m2", "e4m3", "f32") => pick2::<E5M2, E4M3, Single, 2, 32>(),
        ("m16n8k32", "e5m2", "e5m2", "f32") => pick2::<E5M2, E5M2, Single, 2, 32>(),
        ("m16n8k16", "e4m3", "e4m3", "f16") => pick2::<E4M3, E4M3, Half, 1, 16>(),
        ("m16n8k16", "e4m3", "e5m2", "f16") => pick2::<E4M3, E5M2, Half, 1, 16>(),
        ("m16n8k16", "e5m2", "e4m3", "f16") => pick2::<E5M2, E4M3, Half, 1, 16>(),
        ("m16n8k16", "e5m2", "e5m2", "f16") => pick2::<E5M2, E5M2, Half, 1, 16>(),
        ("m16n8k32", "e4m3", "e4m3", "f16") => pick2::<E4M3, E4M3, Half, 2, 32>(),
        ("m16n8k32", "e4m3", "e5m2", "f16") => pick2::<E4M3, E5M2, Half, 2, 32>(),
        ("m16n8k32", "e5m2", "e4m3", "f16") => pick2::<E5M2, E4M3, Half, 2, 32>(),
        ("m16n8k32", "e5m2", "e5m2", "f16") => pick2::<E5M2, E5M2, Half, 2, 32>(),
        _ => return None,
    })
}

/// Unpacks A: 16 rows of `K` values, of which a row is `DEPTH` blocks of 16 bytes.
///
/// # Safety
/// The slots are those of A's registers; `to` is valid for the rows; `WIDE` as for [`Element::unpack`].
#[inline(always)]
pub unsafe fn unpack_a<A: Element, const DEPTH: usize, const K: usize, const WIDE: bool>(
    slots: &[*mut u8],
    to: *mut f32,
) {
    for part in 0..DEPTH {
        for row in 0..ROWS {
            // SAFETY: a slot is eight rows of 16 bytes.
            unsafe {
                let from = slots[2 * part + row / 8].add(row % 8 * 16);
                A::unpack::<WIDE>(from, to.add(row * K + part * (K / DEPTH)));
            }
        }
    }
}

/// Unpacks B: `K` rows of its eight columns, those in the accumulator's order. `AREA` is at least 8 K.
///
/// # Safety
/// The slots are those of B's registers; `to` is valid for the rows and aligned to 32 bytes; `WIDE` as for
/// [`Element::unpack`].
#[inline(always)]
pub unsafe fn unpack_b<
    B: Element,
    C: Accumulator,
    const DEPTH: usize,
    const K: usize,
    const AREA: usize,
    const WIDE: bool,
>(
    slots: &[*mut u8],
    to: *mut f32,
) {
    // SAFETY: each slot is eight columns of 16 bytes.
    unsafe {
        if B::SHORT {
            // Transposed as they are, they are half as many vectors.
            for part in 0..DEPTH {
                let from = slots[part].cast::<[u16; 8]>();
                let rows = transposed(each(|n| *from.add(C::ORDER[n])));
                for k in 0..8 {
                    B::unpack::<WIDE>(rows[k].as_ptr().cast(), to.add(8 * (8 * part + k)));
                }
            }
            return;
        }
        let mut columns = Scratch::<f32, AREA>::new();
        let columns = columns.ptr();
        for part in 0..DEPTH {
            for n in 0..8 {
                let from = slots[part].add(C::ORDER[n] * 16);
                B::unpack::<WIDE>(from, columns.add(n * K + part * (K / DEPTH)));
            }
        }
        if K.is_multiple_of(8) {
            for k in (0..K).step_by(8) {
                transpose_words::<WIDE>(columns.add(k).cast(), K, to.add(8 * k).cast());
            }
        } else {
            for k in 0..K {
                for n in 0..8 {
                    *to.add(8 * k + n) = *columns.add(n * K + k);
                }
            }
        }
    }
}

/// The matrix product, on `DEPTH` blocks of 16 bytes that are `K` elements of a row together. `AREA` is 16 K, the
/// elements of A.
///
/// # Safety
/// `slots` are the registers of D, A, B, C, and what the decoder has found to be `apart` is; `WIDE` as for
/// [`Element::unpack`].
#[inline(always)]
unsafe fn multiply<
    A: Element,
    B: Element,
    C: Accumulator,
    const DEPTH: usize,
    const K: usize,
    const AREA: usize,
    const WIDE: bool,
>(
    slots: &[*mut u8],
    apart: bool,
) {
    let (d, rest) = slots.split_at(C::COUNT);
    let (a_slots, rest) = rest.split_at(2 * DEPTH);
    let (b_slots, c) = rest.split_at(DEPTH);
    let (mut a, mut b) = (Scratch::<f32, AREA>::new(), Scratch::<f32, AREA>::new());
    let (a, b) = (a.ptr(), b.ptr());
    // SAFETY: the caller's promise.
    unsafe {
        unpack_a::<A, DEPTH, K, WIDE>(a_slots, a);
        unpack_b::<B, C, DEPTH, K, AREA, WIDE>(b_slots, b);
        sum::<C, K, K, 1, WIDE>((a, Strides), b, c, d, apart);
    }
}

#[inline(always)]
unsafe fn run<
    A: Element,
    B: Element,
    C: Accumulator,
    const DEPTH: usize,
    const K: usize,
    const WIDE: bool,
>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let count = 2 * C::COUNT + 3 * DEPTH;
    // SAFETY: the decoder put the slots together in this order.
    unsafe {
        let slots = slots_of(w, i, count);
        let apart = i.aux & APART != 0;
        match K {
            4 => multiply::<A, B, C, DEPTH, K, 64, WIDE>(&slots[..count], apart),
            8 => multiply::<A, B, C, DEPTH, K, 128, WIDE>(&slots[..count], apart),
            16 => multiply::<A, B, C, DEPTH, K, 256, WIDE>(&slots[..count], apart),
            _ => multiply::<A, B, C, DEPTH, K, 512, WIDE>(&slots[..count], apart),
        }
    }
    Flow::Next
}

fn pick<E: Element, C: Accumulator, const DEPTH: usize, const K: usize>() -> Handler {
    pick2::<E, E, C, DEPTH, K>()
}

fn pick2<A: Element, B: Element, C: Accumulator, const DEPTH: usize, const K: usize>() -> Handler {
    unsafe fn base<A: Element, B: Element, C: Accumulator, const DEPTH: usize, const K: usize>(
        w: &mut Warp,
        i: &Inst,
        mask: u32,
    ) -> Flow {
        // SAFETY: the handler's own contract.
        unsafe { run::<A, B, C, DEPTH, K, false>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn fast<A: Element, B: Element, C: Accumulator, const DEPTH: usize, const K: usize>(
        w: &mut Warp,
        i: &Inst,
        mask: u32,
    ) -> Flow {
        // SAFETY: the handler's own contract; picked only where the features exist.
        unsafe { run::<A, B, C, DEPTH, K, true>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if crate::exec::lanes::wide() {
        return fast::<A, B, C, DEPTH, K>;
    }
    base::<A, B, C, DEPTH, K>
}

//! Products of `.s8`, `.u8`, `.s4`, `.u4` and `.b1` with 32-bit integer accumulators.

use super::super::tensor::whole_warp;
use super::{Form, Plan, Scratch, slots_of, transpose_words};
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::Type;

/// Plans an integer form; `None` where there is none such.
pub fn plan(form: Form, saturate: bool, bit_op: Option<&str>) -> Option<Plan> {
    if form.d != "s32" || form.c != "s32" {
        return None;
    }
    let bits = match (form.a, form.b) {
        ("s8" | "u8", "s8" | "u8") => 8,
        ("s4" | "u4", "s4" | "u4") => 4,
        ("b1", "b1") => 1,
        _ => return None,
    };
    // Blocks of eight rows, blocks of 16 bytes along K.
    let (high, depth) = match (form.shape, bits) {
        ("m8n8k16", 8) | ("m8n8k32", 4) | ("m8n8k128", 1) => (1, 1),
        ("m16n8k16", 8) | ("m16n8k32", 4) | ("m16n8k128", 1) => (2, 1),
        ("m16n8k32", 8) | ("m16n8k64", 4) | ("m16n8k256", 1) => (2, 2),
        _ => return None,
    };
    let signs = (form.a.starts_with('s'), form.b.starts_with('s'));
    let run = match (bits, signs, bit_op) {
        (8, (true, true), None) => of_shape::<Bytes<true>, Bytes<true>>(high, depth, saturate),
        (8, (true, false), None) => of_shape::<Bytes<true>, Bytes<false>>(high, depth, saturate),
        (8, (false, true), None) => of_shape::<Bytes<false>, Bytes<true>>(high, depth, saturate),
        (8, (false, false), None) => of_shape::<Bytes<false>, Bytes<false>>(high, depth, saturate),
        (4, (true, true), None) => of_shape::<Nibbles<true>, Nibbles<true>>(high, depth, saturate),
        (4, (true, false), None) => {
            of_shape::<Nibbles<true>, Nibbles<false>>(high, depth, saturate)
        }
        (4, (false, true), None) => {
            of_shape::<Nibbles<false>, Nibbles<true>>(high, depth, saturate)
        }
        (4, (false, false), None) => {
            of_shape::<Nibbles<false>, Nibbles<false>>(high, depth, saturate)
        }
        (1, _, Some("xor")) => bit_shape::<true>(high, depth),
        (1, _, Some("and")) => bit_shape::<false>(high, depth),
        _ => return None,
    };
    Some(Plan {
        run,
        counts: [2 * high, high * depth, depth, 2 * high],
        accumulators: [Type::S32; 2],
        factors: Type::B32,
    })
}

/// An element type of A or B.
trait Element {
    /// Elements in 16 bytes.
    const COUNT: usize;
    /// The 16 bytes at `from` as `COUNT` 16-bit values.
    ///
    /// # Safety
    /// Both pointers are valid for that much.
    unsafe fn unpack(from: *const u8, to: *mut i16);
}

struct Bytes<const SIGNED: bool>;
impl<const SIGNED: bool> Element for Bytes<SIGNED> {
    const COUNT: usize = 16;
    #[inline(always)]
    unsafe fn unpack(from: *const u8, to: *mut i16) {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = from.cast::<[u8; 16]>().read_unaligned();
            let values = if SIGNED {
                bytes.map(|b| i16::from(b as i8))
            } else {
                bytes.map(i16::from)
            };
            to.cast::<[i16; 16]>().write_unaligned(values);
        }
    }
}

struct Nibbles<const SIGNED: bool>;
impl<const SIGNED: bool> Element for Nibbles<SIGNED> {
    const COUNT: usize = 32;
    #[inline(always)]
    unsafe fn unpack(from: *const u8, to: *mut i16) {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = from.cast::<[u8; 16]>().read_unaligned();
            // Low nibble first: both become one 32-bit word of two values.
            let pairs = bytes.map(|b| {
                let (low, high) = (i32::from(b & 15), i32::from(b >> 4));
                let sign = |x: i32| if SIGNED { (x ^ 8) - 8 } else { x };
                sign(low) & 0xffff | sign(high) << 16
            });
            to.cast::<[i32; 16]>().write_unaligned(pairs);
        }
    }
}

/// Which column of D is at each place of a row of sums: the even ones lie in one register, the odd in the next.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Eight columns of a row, in [`ORDER`].
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Columns([i32; 8]);

#[inline(always)]
unsafe fn run<
    A: Element,
    B: Element,
    const HIGH: usize,
    const DEPTH: usize,
    const SATURATE: bool,
    const WIDE: bool,
>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let count = 4 * HIGH + HIGH * DEPTH + DEPTH;
    // SAFETY: the decoder put the slots together in this order.
    unsafe {
        let slots = slots_of(w, i, count);
        multiply::<A, B, HIGH, DEPTH, SATURATE, WIDE>(&slots[..count]);
    }
    Flow::Next
}

/// Most 16-bit values of A: 16 rows of 64.
const AREA: usize = 1024;

/// # Safety
/// `slots` are the registers of D, A, B, C; `WIDE` only where [`crate::exec::lanes::wide`] says so.
#[inline(always)]
unsafe fn multiply<
    A: Element,
    B: Element,
    const HIGH: usize,
    const DEPTH: usize,
    const SATURATE: bool,
    const WIDE: bool,
>(
    slots: &[*mut u8],
) {
    let (d, rest) = slots.split_at(2 * HIGH);
    let (a_slots, rest) = rest.split_at(HIGH * DEPTH);
    let (b_slots, c) = rest.split_at(DEPTH);
    // Elements in pairs along K: a pair is one 32-bit word, multiplied and added at once.
    let pairs = A::COUNT * DEPTH / 2;
    let (mut a, mut columns, mut b) = (
        Scratch::<i16, AREA>::new(),
        Scratch::<i16, AREA>::new(),
        Scratch::<i32, AREA>::new(),
    );
    let (a, columns, b) = (a.ptr(), columns.ptr(), b.ptr());
    let mut sums = [[Columns([0; 8]); 8]; HIGH];
    // SAFETY: each slot is eight rows of 16 bytes; a row of the unpacked matrices is `2 * pairs` values, at most 64,
    // of 16 rows in A and eight in B; pairs come in eights.
    unsafe {
        for part in 0..DEPTH {
            for row in 0..8 * HIGH {
                let from = a_slots[HIGH * part + row / 8].add(row % 8 * 16);
                A::unpack(from, a.add(row * 2 * pairs + part * A::COUNT));
            }
            for n in 0..8 {
                B::unpack(
                    b_slots[part].add(ORDER[n] * 16),
                    columns.add(n * 2 * pairs + part * B::COUNT),
                );
            }
        }
        for pair in (0..pairs).step_by(8) {
            transpose_words::<WIDE>(columns.add(2 * pair).cast(), pairs, b.add(8 * pair).cast());
        }
        for (high, sums) in sums.iter_mut().enumerate() {
            accumulate::<WIDE>(a.add(high * 16 * pairs).cast(), b, pairs, sums);
        }
    }
    // Registers of D may share slots with those of C: all of C is read before any of D is written.
    let mut results = [[[0i32; 32]; 2]; HIGH];
    for (high, result) in results.iter_mut().enumerate() {
        for (half, out) in result.iter_mut().enumerate() {
            // SAFETY: the slot holds 32 lanes.
            let old = unsafe { *c[2 * high + half].cast::<[i32; 32]>() };
            for row in 0..8 {
                for t in 0..4 {
                    let (lane, x) = (4 * row + t, sums[high][row].0[4 * half + t]);
                    out[lane] = if SATURATE {
                        old[lane].saturating_add(x)
                    } else {
                        old[lane].wrapping_add(x)
                    };
                }
            }
        }
    }
    for (to, result) in d.iter().zip(results.as_flattened()) {
        // SAFETY: the slot holds 32 lanes.
        unsafe { (*to).cast::<[i32; 32]>().write(*result) };
    }
}

/// `sums[r] += a[r][p] · b[p]` over the pairs. No sum of a product overflows: 64 · 255².
///
/// # Safety
/// `a` is eight rows of `pairs` words, `b` as many rows of eight, aligned to 32 bytes; `WIDE` as for [`multiply`].
#[inline(always)]
unsafe fn accumulate<const WIDE: bool>(
    a: *const i32,
    b: *const i32,
    pairs: usize,
    sums: &mut [Columns; 8],
) {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        use std::arch::x86_64::*;
        // SAFETY: the caller's promise.
        unsafe {
            let mut s = [_mm256_setzero_si256(); 8];
            for p in 0..pairs {
                let row = _mm256_load_si256(b.add(8 * p).cast());
                for r in 0..8 {
                    s[r] = _mm256_add_epi32(
                        s[r],
                        _mm256_madd_epi16(_mm256_set1_epi32(*a.add(r * pairs + p)), row),
                    );
                }
            }
            for r in 0..8 {
                _mm256_store_si256(sums[r].0.as_mut_ptr().cast(), s[r]);
            }
        }
        return;
    }
    for p in 0..pairs {
        for (r, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let left = unsafe { *a.add(r * pairs + p) };
            for n in 0..8 {
                // SAFETY: the caller's promise.
                let right = unsafe { *b.add(8 * p + n) };
                sum.0[n] +=
                    i32::from(left as i16) * i32::from(right as i16) + (left >> 16) * (right >> 16);
            }
        }
    }
}

fn of_shape<A: Element, B: Element>(high: usize, depth: usize, saturate: bool) -> Handler {
    match (high, depth, saturate) {
        (1, _, false) => pick::<A, B, 1, 1, false>(),
        (1, _, true) => pick::<A, B, 1, 1, true>(),
        (_, 1, false) => pick::<A, B, 2, 1, false>(),
        (_, 1, true) => pick::<A, B, 2, 1, true>(),
        (_, _, false) => pick::<A, B, 2, 2, false>(),
        (_, _, true) => pick::<A, B, 2, 2, true>(),
    }
}

fn pick<A: Element, B: Element, const HIGH: usize, const DEPTH: usize, const SATURATE: bool>()
-> Handler {
    unsafe fn base<
        A: Element,
        B: Element,
        const HIGH: usize,
        const DEPTH: usize,
        const SATURATE: bool,
    >(
        w: &mut Warp,
        i: &Inst,
        mask: u32,
    ) -> Flow {
        // SAFETY: the handler's own contract.
        unsafe { run::<A, B, HIGH, DEPTH, SATURATE, false>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn fast<
        A: Element,
        B: Element,
        const HIGH: usize,
        const DEPTH: usize,
        const SATURATE: bool,
    >(
        w: &mut Warp,
        i: &Inst,
        mask: u32,
    ) -> Flow {
        // SAFETY: the handler's own contract; picked only where the features exist.
        unsafe { run::<A, B, HIGH, DEPTH, SATURATE, true>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if crate::exec::lanes::wide() {
        return fast::<A, B, HIGH, DEPTH, SATURATE>;
    }
    base::<A, B, HIGH, DEPTH, SATURATE>
}

fn bit_shape<const XOR: bool>(high: usize, depth: usize) -> Handler {
    match (high, depth) {
        (1, _) => bits::<1, 1, XOR>,
        (_, 1) => bits::<2, 1, XOR>,
        _ => bits::<2, 2, XOR>,
    }
}

/// Single bits: the population count of `a ^ b` or `a & b`.
unsafe fn bits<const HIGH: usize, const DEPTH: usize, const XOR: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    // SAFETY: operands are slots of the warp's file: D, A, B, C.
    unsafe {
        let slot = |k: usize| w.slot(w.extra(i, k));
        let (a, b, c) = (
            2 * HIGH,
            2 * HIGH + HIGH * DEPTH,
            2 * HIGH + HIGH * DEPTH + DEPTH,
        );
        let a: [[[u128; 8]; HIGH]; DEPTH] =
            std::array::from_fn(|k| std::array::from_fn(|m| *slot(a + HIGH * k + m).cast()));
        let b: [[u128; 8]; DEPTH] = std::array::from_fn(|k| *slot(b + k).cast());
        let mut sums: [[[i32; 32]; 2]; HIGH] =
            std::array::from_fn(|m| std::array::from_fn(|n| *slot(c + 2 * m + n).cast()));
        for (m, rows) in sums.iter_mut().enumerate() {
            for (n, sum) in rows.iter_mut().enumerate() {
                for (lane, value) in sum.iter_mut().enumerate() {
                    for k in 0..DEPTH {
                        let (x, y) = (a[k][m][lane / 4], b[k][lane % 4 * 2 + n]);
                        let ones = if XOR { x ^ y } else { x & y }.count_ones();
                        *value = value.wrapping_add(ones as i32);
                    }
                }
            }
        }
        for (m, rows) in sums.iter().enumerate() {
            for (n, sum) in rows.iter().enumerate() {
                *slot(2 * m + n).cast() = *sum;
            }
        }
    }
    Flow::Next
}

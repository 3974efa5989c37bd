//! Products of `.f16`, `.bf16`, `.tf32`, `.e4m3` and `.e5m2` with `.f32` or `.f16` accumulators.
//!
//! The factors are unpacked to single precision, B by rows of K, and eight columns of D are one vector. With
//! `.f32` accumulators the even columns lie in one register and the odd ones in the next, so the vector holds
//! columns 0 2 4 6 1 3 5 7 and nothing has to be shuffled; with `.f16` they lie in order.

use super::super::matrix_load::transposed;
use super::super::tensor::whole_warp;
use super::{APART, Form, Plan, Scratch, slots_of, transpose_words};
use crate::exec::lanes::each;
#[cfg(target_arch = "x86_64")]
use crate::exec::lanes::halved;
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

/// Rows of D, a block of eight to each of the accumulator's halves.
const ROWS: usize = 16;

/// Eight columns of a row, in the accumulator's order.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Columns([f32; 8]);

/// An element type of A or B.
trait Element {
    /// Whether it has 16 bits.
    const SHORT: bool = false;
    /// Unpacks the 16 bytes at `from` to `16 / size` values at `to`.
    ///
    /// # Safety
    /// Both are valid for that much; `WIDE` only where [`crate::exec::lanes::wide`] says so.
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32);
}

struct Half;
impl Element for Half {
    const SHORT: bool = true;

    #[inline(always)]
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32) {
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            use std::arch::x86_64::*;
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) };
            return;
        }
        for k in 0..8 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(k) = half::f16::from_bits(*from.cast::<u16>().add(k)).to_f32() };
        }
    }
}

struct Brain;
impl Element for Brain {
    const SHORT: bool = true;

    #[inline(always)]
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32) {
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            use std::arch::x86_64::*;
            // SAFETY: the caller's promise.
            unsafe {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_storeu_si256(to.cast(), _mm256_slli_epi32::<16>(words));
            }
            return;
        }
        for k in 0..8 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(k) = f32::from_bits(u32::from(*from.cast::<u16>().add(k)) << 16) };
        }
    }
}

struct Tensor;
impl Element for Tensor {
    #[inline(always)]
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32) {
        for k in 0..4 {
            // The low 13 bits of a .tf32 register are ignored.
            // SAFETY: the caller's promise.
            unsafe { *to.add(k) = f32::from_bits(*from.cast::<u32>().add(k) & !0x1fff) };
        }
    }
}

/// The value of an 8-bit float with `EXPONENT` exponent bits. E4M3 has no infinities: only all ones is NaN.
const fn small(bits: u8, exponent_bits: u32) -> f32 {
    let mantissa_bits = 7 - exponent_bits;
    let sign = (bits as u32 >> 7) << 31;
    let exponent = (bits as u32 & 0x7f) >> mantissa_bits;
    let mantissa = bits as u32 & ((1 << mantissa_bits) - 1);
    let top = (1 << exponent_bits) - 1;
    let bias = (1 << (exponent_bits - 1)) - 1;
    if exponent_bits == 4 && bits & 0x7f == 0x7f {
        return f32::from_bits(0x7fff_ffff);
    }
    if exponent_bits == 5 && exponent == top {
        return f32::from_bits(if mantissa == 0 {
            sign | 0x7f80_0000
        } else {
            0x7fff_ffff
        });
    }
    if exponent == 0 {
        // Subnormal: mantissa units of 2^(1 - bias - mantissa_bits), a normal number in single precision.
        let unit = f32::from_bits((127 + 1 - bias - mantissa_bits) << 23);
        let value = mantissa as f32 * unit;
        return f32::from_bits(value.to_bits() | sign);
    }
    f32::from_bits(sign | (exponent + 127 - bias) << 23 | mantissa << (23 - mantissa_bits))
}

const fn small_table(exponent_bits: u32) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut k = 0;
    while k < 256 {
        table[k] = small(k as u8, exponent_bits);
        k += 1;
    }
    table
}

static E4M3_VALUES: [f32; 256] = small_table(4);
static E5M2_VALUES: [f32; 256] = small_table(5);

struct E4M3;
impl Element for E4M3 {
    #[inline(always)]
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32) {
        for k in 0..16 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(k) = E4M3_VALUES[*from.add(k) as usize] };
        }
    }
}

struct E5M2;
impl Element for E5M2 {
    #[inline(always)]
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32) {
        for k in 0..16 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(k) = E5M2_VALUES[*from.add(k) as usize] };
        }
    }
}

/// A type of accumulators.
trait Accumulator {
    /// Registers of C, and of D.
    const COUNT: usize;
    /// Whether a register's lanes `4 g` to `4 g + 3` are four sums of row `g`, as they are.
    const SINGLE: bool;
    /// Which column of D is at each place of [`Columns`].
    const ORDER: [usize; 8];
    /// Rows `8 * half` to `8 * half + 7` of C, from its registers' slots.
    ///
    /// # Safety
    /// The slots are those of `COUNT` registers; `WIDE` as for [`Element::unpack`].
    unsafe fn load<const WIDE: bool>(slots: &[*mut u8], half: usize) -> Rows;
    /// Writes those rows of D, of which the NaNs have their one pattern.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn store<const WIDE: bool>(slots: &[*mut u8], half: usize, rows: &Rows);
}

/// Eight rows.
type Rows = [Columns; 8];

struct Single;
impl Accumulator for Single {
    const COUNT: usize = 4;
    const SINGLE: bool = true;
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

    #[inline(always)]
    unsafe fn load<const WIDE: bool>(slots: &[*mut u8], half: usize) -> Rows {
        let even = slots[2 * half].cast::<[f32; 4]>().cast_const();
        let odd = slots[2 * half + 1].cast::<[f32; 4]>().cast_const();
        each(|row| {
            // SAFETY: the caller's promise: lanes 4 g to 4 g + 3 of two registers.
            let (even, odd) = unsafe { (*even.add(row), *odd.add(row)) };
            Columns(each(|n| if n < 4 { even[n] } else { odd[n - 4] }))
        })
    }

    #[inline(always)]
    unsafe fn store<const WIDE: bool>(slots: &[*mut u8], half: usize, rows: &Rows) {
        let even = slots[2 * half].cast::<[f32; 4]>();
        let odd = slots[2 * half + 1].cast::<[f32; 4]>();
        for (row, Columns(v)) in rows.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                *even.add(row) = [v[0], v[1], v[2], v[3]];
                *odd.add(row) = [v[4], v[5], v[6], v[7]];
            }
        }
    }
}

/// NaN results have one pattern.
#[inline(always)]
fn canonical(x: f32) -> f32 {
    if x.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        x
    }
}

impl Accumulator for Half {
    const COUNT: usize = 2;
    const SINGLE: bool = false;
    const ORDER: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

    #[inline(always)]
    unsafe fn load<const WIDE: bool>(slots: &[*mut u8], half: usize) -> Rows {
        let mut out = [Columns([0.0; 8]); 8];
        for (row, columns) in out.iter_mut().enumerate() {
            // SAFETY: the caller's promise: lanes 4 g to 4 g + 3 are 16 bytes.
            unsafe {
                let from = slots[half].add(row * 16);
                <Half as Element>::unpack::<WIDE>(from, columns.0.as_mut_ptr());
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn store<const WIDE: bool>(slots: &[*mut u8], half: usize, rows: &Rows) {
        for (row, Columns(values)) in rows.iter().enumerate() {
            // SAFETY: the caller's promise.
            let to = unsafe { slots[half].add(row * 16) };
            #[cfg(target_arch = "x86_64")]
            if WIDE {
                use std::arch::x86_64::*;
                // SAFETY: the caller's promise.
                unsafe {
                    let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(
                        values.as_ptr(),
                    ));
                    _mm_storeu_si128(to.cast(), halves);
                }
                continue;
            }
            for (n, value) in values.iter().enumerate() {
                let bits = if value.is_nan() {
                    0x7fff
                } else {
                    half::f16::from_f32(*value).to_bits()
                };
                // SAFETY: the caller's promise.
                unsafe { *to.cast::<u16>().add(n) = bits };
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
    let block = K / DEPTH;
    let (mut a, mut columns, mut b) = (
        Scratch::<f32, AREA>::new(),
        Scratch::<f32, AREA>::new(),
        Scratch::<f32, AREA>::new(),
    );
    let (a, columns, b) = (a.ptr(), columns.ptr(), b.ptr());
    // SAFETY: each slot is eight rows of 16 bytes; a row of the unpacked matrices is K values, of 16 rows in A and
    // eight in B, and each of the eight columns of a row of `b` is written.
    unsafe {
        for part in 0..DEPTH {
            for row in 0..ROWS {
                let from = a_slots[2 * part + row / 8].add(row % 8 * 16);
                A::unpack::<WIDE>(from, a.add(row * K + part * block));
            }
        }
        if B::SHORT {
            // Transposed as they are, they are half as many vectors.
            for part in 0..DEPTH {
                let from = b_slots[part].cast::<[u16; 8]>();
                let rows = transposed(each(|n| *from.add(C::ORDER[n])));
                for k in 0..8 {
                    B::unpack::<WIDE>(rows[k].as_ptr().cast(), b.add(8 * (8 * part + k)));
                }
            }
        } else {
            for part in 0..DEPTH {
                for n in 0..8 {
                    let from = b_slots[part].add(C::ORDER[n] * 16);
                    B::unpack::<WIDE>(from, columns.add(n * K + part * block));
                }
            }
            if K.is_multiple_of(8) {
                for k in (0..K).step_by(8) {
                    transpose_words::<WIDE>(columns.add(k).cast(), K, b.add(8 * k).cast());
                }
            } else {
                for k in 0..K {
                    for n in 0..8 {
                        *b.add(8 * k + n) = *columns.add(n * K + k);
                    }
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        if WIDE && C::SINGLE && apart && halved() {
            if accumulate_by_fours::<K>(a, b, c, d) {
                for slot in d {
                    let sums = slot.cast::<[f32; 32]>();
                    sums.write(each(|l| canonical((*sums)[l])));
                }
            }
            return;
        }
        // Registers of D may share slots with those of C: all of C is read before any of D is written.
        let mut sums = [C::load::<WIDE>(c, 0), C::load::<WIDE>(c, 1)];
        let mut odd = false;
        for (half, rows) in sums.iter_mut().enumerate() {
            odd |= accumulate::<K, WIDE>(a.add(half * 8 * K), b, rows);
        }
        if odd {
            for row in sums.iter_mut().flatten() {
                row.0 = row.0.map(canonical);
            }
        }
        for (half, rows) in sums.iter().enumerate() {
            C::store::<WIDE>(d, half, rows);
        }
    }
}

/// `sums[r] += a[r][k] * b[k]`, for each of `K` in turn. Whether a sum is a NaN.
///
/// # Safety
/// `a` is eight rows of K values, `b` K rows of eight, aligned to 32 bytes; `WIDE` as for [`Element::unpack`].
#[inline(always)]
unsafe fn accumulate<const K: usize, const WIDE: bool>(
    a: *const f32,
    b: *const f32,
    sums: &mut Rows,
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        use std::arch::x86_64::*;
        // SAFETY: the caller's promise.
        unsafe {
            let mut s: [__m256; 8] = each(|r| _mm256_load_ps(sums[r].0.as_ptr()));
            for k in 0..K {
                let row = _mm256_load_ps(b.add(8 * k));
                for r in 0..8 {
                    s[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(&*a.add(r * K + k)), row, s[r]);
                }
            }
            let mut odd = _mm256_setzero_ps();
            for r in 0..8 {
                _mm256_store_ps(sums[r].0.as_mut_ptr(), s[r]);
                if r % 2 == 0 {
                    odd = _mm256_or_ps(odd, _mm256_cmp_ps::<_CMP_UNORD_Q>(s[r], s[r + 1]));
                }
            }
            return _mm256_movemask_ps(odd) != 0;
        }
    }
    for k in 0..K {
        for (r, sum) in sums.iter_mut().enumerate() {
            for n in 0..8 {
                // SAFETY: the caller's promise.
                sum.0[n] = unsafe { (*a.add(r * K + k)).mul_add(*b.add(8 * k + n), sum.0[n]) };
            }
        }
    }
    sums.iter().flat_map(|row| row.0).any(f32::is_nan)
}

/// [`accumulate`] for all 16 rows, from registers of C straight to those of D, by vectors of four, of which two share
/// what is broadcast to them: where a vector of eight is two of four anyhow, it is fewer instructions.
///
/// # Safety
/// `a` is 16 rows of K values, `b` K rows of eight, aligned to 16 bytes; `c` and `d` are four registers each, of which
/// none of D is another one of C; the processor is one of the wide build.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn accumulate_by_fours<const K: usize>(
    a: *const f32,
    b: *const f32,
    c: &[*mut u8],
    d: &[*mut u8],
) -> bool {
    // Six rows are twelve sums: as many as there are registers for, and as multiplication needs to be kept busy.
    // SAFETY: the caller's promise.
    unsafe {
        rows_by_fours::<K, 0, 6>(a, b, c, d)
            | rows_by_fours::<K, 6, 5>(a, b, c, d)
            | rows_by_fours::<K, 11, 5>(a, b, c, d)
    }
}

/// [`accumulate_by_fours`] for `N` rows from `FIRST` on.
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn rows_by_fours<const K: usize, const FIRST: usize, const N: usize>(
    a: *const f32,
    b: *const f32,
    c: &[*mut u8],
    d: &[*mut u8],
) -> bool {
    use std::arch::x86_64::*;
    // Even columns are in one register, odd ones in the next.
    let place = |slots: &[*mut u8], row: usize, odd: usize| -> *mut f32 {
        slots[row / 8 * 2 + odd]
            .cast::<f32>()
            .wrapping_add(row % 8 * 4)
    };
    // SAFETY: the caller's promise.
    unsafe {
        let mut even: [__m128; N] = each(|r| _mm_load_ps(place(c, FIRST + r, 0)));
        let mut odd: [__m128; N] = each(|r| _mm_load_ps(place(c, FIRST + r, 1)));
        for k in 0..K {
            let (b_even, b_odd) = (_mm_load_ps(b.add(8 * k)), _mm_load_ps(b.add(8 * k + 4)));
            for r in 0..N {
                let factor = _mm_broadcast_ss(&*a.add((FIRST + r) * K + k));
                even[r] = _mm_fmadd_ps(factor, b_even, even[r]);
                odd[r] = _mm_fmadd_ps(factor, b_odd, odd[r]);
            }
        }
        let mut nan = _mm_setzero_ps();
        for r in 0..N {
            _mm_store_ps(place(d, FIRST + r, 0), even[r]);
            _mm_store_ps(place(d, FIRST + r, 1), odd[r]);
            nan = _mm_or_ps(nan, _mm_cmpunord_ps(even[r], odd[r]));
        }
        _mm_movemask_ps(nan) != 0
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

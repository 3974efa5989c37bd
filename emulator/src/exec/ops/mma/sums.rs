//! The sums of a floating-point product, from factors unpacked to single precision: A as it lies, B by rows of K.

use super::accumulator::{Accumulator, Rows, canonical};
#[cfg(target_arch = "x86_64")]
use crate::exec::lanes::{each, halved};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256;

/// Where the element of A in row `r` and column `k` is: `r * row + k * step` values behind the first.
#[derive(Clone, Copy)]
pub struct Strides<const ROW: usize, const STEP: usize>;

/// D = A B + C over `K`, each product added to the sum after the other.
///
/// # Safety
/// `a` is 16 rows of K values, as far apart as the strides say, `b` K rows of eight in the accumulator's order, aligned
/// to 32 bytes; `c` and `d` are registers' slots, and `apart` what the decoder has found of them; `WIDE` only where
/// [`crate::exec::lanes::wide`] says so.
#[inline(always)]
pub unsafe fn sum<
    C: Accumulator,
    const K: usize,
    const ROW: usize,
    const STEP: usize,
    const WIDE: bool,
>(
    (a, _): (*const f32, Strides<ROW, STEP>),
    b: *const f32,
    c: &[*mut u8],
    d: &[*mut u8],
    apart: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if WIDE
            && C::SINGLE
            && apart
            && let (Ok(c), Ok(d)) = (c.try_into(), d.try_into())
        {
            let odd = if halved() {
                by_fours::<K, ROW, STEP>(a, b, c, d)
            } else {
                straight::<K, ROW, STEP, 0>(a, b, c, d) | straight::<K, ROW, STEP, 1>(a, b, c, d)
            };
            if odd {
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
            odd |= by_eights::<K, ROW, STEP, WIDE>(a.add(half * 8 * ROW), b, rows);
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
/// As for [`sum`], of eight rows of A.
#[inline(always)]
unsafe fn by_eights<const K: usize, const ROW: usize, const STEP: usize, const WIDE: bool>(
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
            add_products::<K, ROW, STEP>(a, b, &mut s);
            for r in 0..8 {
                _mm256_store_ps(sums[r].0.as_mut_ptr(), s[r]);
            }
            return is_any_nan(&s);
        }
    }
    for k in 0..K {
        for (r, sum) in sums.iter_mut().enumerate() {
            for n in 0..8 {
                // SAFETY: the caller's promise.
                sum.0[n] =
                    unsafe { (*a.add(r * ROW + k * STEP)).mul_add(*b.add(8 * k + n), sum.0[n]) };
            }
        }
    }
    sums.iter().flat_map(|row| row.0).any(f32::is_nan)
}

/// [`by_eights`] for the rows from `8 * HALF` on, from registers of C straight to those of D. A function of its own, lest
/// the compiler put sums by until those of all rows are there, to look for NaNs among them.
///
/// # Safety
/// As for [`sum`]; `c` and `d` are four registers each, of which none of D is another one of C; the processor is one of
/// the wide build.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn straight<const K: usize, const ROW: usize, const STEP: usize, const HALF: usize>(
    a: *const f32,
    b: *const f32,
    c: &[*mut u8; 4],
    d: &[*mut u8; 4],
) -> bool {
    use std::arch::x86_64::*;
    let a = a.wrapping_add(8 * HALF * ROW);
    // Even columns are in one register, odd ones in the next.
    let registers = |slots: &[*mut u8; 4]| [0, 1].map(|odd| slots[2 * HALF + odd].cast::<f32>());
    let ([c_even, c_odd], [d_even, d_odd]) = (registers(c), registers(d));
    // SAFETY: the caller's promise.
    unsafe {
        let mut s: [__m256; 8] =
            each(|r| _mm256_loadu2_m128(c_odd.add(4 * r).cast_const(), c_even.add(4 * r)));
        add_products::<K, ROW, STEP>(a, b, &mut s);
        for r in 0..8 {
            _mm256_storeu2_m128(d_odd.add(4 * r), d_even.add(4 * r), s[r]);
        }
        is_any_nan(&s)
    }
}

/// The products of eight rows of A with B, added to those rows' sums one after another.
///
/// # Safety
/// As for [`by_eights`], in the wide build.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn add_products<const K: usize, const ROW: usize, const STEP: usize>(
    a: *const f32,
    b: *const f32,
    sums: &mut [__m256; 8],
) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        for k in 0..K {
            let row = _mm256_load_ps(b.add(8 * k));
            for r in 0..8 {
                let factor = _mm256_broadcast_ss(&*a.add(r * ROW + k * STEP));
                sums[r] = _mm256_fmadd_ps(factor, row, sums[r]);
            }
        }
    }
}

/// Whether a sum is a NaN.
///
/// # Safety
/// In the wide build.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn is_any_nan(sums: &[__m256; 8]) -> bool {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        let mut odd = _mm256_setzero_ps();
        for r in (0..8).step_by(2) {
            odd = _mm256_or_ps(odd, _mm256_cmp_ps::<_CMP_UNORD_Q>(sums[r], sums[r + 1]));
        }
        _mm256_movemask_ps(odd) != 0
    }
}

/// The same for all 16 rows by vectors of four, of which two share what is broadcast to them: where a vector of eight is
/// two of four anyhow, it is fewer instructions.
///
/// # Safety
/// As for [`straight`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn by_fours<const K: usize, const ROW: usize, const STEP: usize>(
    a: *const f32,
    b: *const f32,
    c: &[*mut u8; 4],
    d: &[*mut u8; 4],
) -> bool {
    // Six rows are twelve sums: as many as there are registers for, and as multiplication needs to be kept busy.
    // SAFETY: the caller's promise.
    unsafe {
        rows_by_fours::<K, ROW, STEP, 0, 6>(a, b, c, d)
            | rows_by_fours::<K, ROW, STEP, 6, 5>(a, b, c, d)
            | rows_by_fours::<K, ROW, STEP, 11, 5>(a, b, c, d)
    }
}

/// [`by_fours`] for `N` rows from `FIRST` on. A function of its own, lest the compiler put sums by until those of all
/// rows are there, to look for NaNs among them.
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn rows_by_fours<
    const K: usize,
    const ROW: usize,
    const STEP: usize,
    const FIRST: usize,
    const N: usize,
>(
    a: *const f32,
    b: *const f32,
    c: &[*mut u8; 4],
    d: &[*mut u8; 4],
) -> bool {
    use std::arch::x86_64::*;
    // Even columns are in one register, odd ones in the next.
    let place = |slots: &[*mut u8; 4], row: usize, odd: usize| -> *mut f32 {
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
                let factor = _mm_broadcast_ss(&*a.add((FIRST + r) * ROW + k * STEP));
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

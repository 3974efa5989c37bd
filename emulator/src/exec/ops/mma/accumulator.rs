//! Types of accumulators. Eight columns of D are one vector: with `.f32` accumulators the even columns lie in one
//! register and the odd ones in the next, so the vector holds columns 0 2 4 6 1 3 5 7 and nothing has to be shuffled;
//! with `.f16` they lie in order.

use super::element::{Element, Half};
use crate::exec::lanes::each;

/// Rows of D, a block of eight to each of the accumulator's halves.
pub const ROWS: usize = 16;

/// Eight columns of a row, in the accumulator's order.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct Columns(pub [f32; 8]);

/// A type of accumulators.
pub trait Accumulator {
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
pub type Rows = [Columns; 8];

/// `.f32`.
pub struct Single;
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
pub fn canonical(x: f32) -> f32 {
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

//! Element types of factors, unpacked to single precision.

/// An element type of A or B.
pub trait Element {
    /// Whether it has 16 bits.
    const SHORT: bool = false;

    /// Unpacks the 16 bytes at `from` to `16 / size` values at `to`.
    ///
    /// # Safety
    /// Both are valid for that much; `WIDE` only where [`crate::exec::lanes::wide`] says so.
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32);
}

/// `.f16`, as elements and as accumulators.
pub struct Half;
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

/// `.bf16`.
pub struct Brain;
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

/// `.tf32`.
pub struct Tensor;
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

/// `.e4m3`.
pub struct E4M3;
impl Element for E4M3 {
    #[inline(always)]
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32) {
        for k in 0..16 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(k) = E4M3_VALUES[*from.add(k) as usize] };
        }
    }
}

/// `.e5m2`.
pub struct E5M2;
impl Element for E5M2 {
    #[inline(always)]
    unsafe fn unpack<const WIDE: bool>(from: *const u8, to: *mut f32) {
        for k in 0..16 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(k) = E5M2_VALUES[*from.add(k) as usize] };
        }
    }
}

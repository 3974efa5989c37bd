//! binary16 and bfloat16: conversions without branches, so that warp-wide loops over them become vector code.

use crate::exec::lanes::{Lane, each};

/// A 16-bit floating-point format.
pub trait Half: Lane {
    /// The value, exactly; NaN becomes some NaN.
    fn to_f32(self) -> f32;
    /// Rounded to nearest even; NaN becomes [`Half::NAN`].
    fn from_f32(x: f32) -> Self;
    /// From the bits.
    fn from_bits(bits: u16) -> Self;
    /// The bits.
    fn bits(self) -> u16;
    /// The canonical NaN.
    const NAN: u16 = 0x7fff;
    /// Bits of 1.0.
    const ONE: u16;
    /// Smallest normal number, as an `f32`.
    const SMALLEST: f32;
    /// Bits of infinity.
    const INFINITY: u16;

    /// Whether the bits are a NaN's.
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.bits() & 0x7fff > Self::INFINITY
    }
    /// Zero of the same sign where the value is subnormal.
    #[inline(always)]
    fn flushed(self) -> Self {
        let bits = self.bits();
        Self::from_bits(if bits & Self::INFINITY == 0 {
            bits & 0x8000
        } else {
            bits
        })
    }
}

/// binary16 in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub u16);

/// bfloat16 in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct BF16(pub u16);

macro_rules! half_lane {
    ($($t:ident),*) => {$(
        // SAFETY: a lane of a 16-bit number is that of its bits.
        unsafe impl Lane for $t {
            #[inline(always)]
            unsafe fn load(slot: *const u8) -> [$t; 32] {
                // SAFETY: the caller's promise.
                let bits = unsafe { u16::load(slot) };
                each(|l| $t(bits[l]))
            }
            #[inline(always)]
            unsafe fn store(slot: *mut u8, values: [$t; 32], mask: u32) {
                // SAFETY: the caller's promise.
                unsafe { u16::store(slot, each(|l| values[l].0), mask) };
            }
        }
    )*};
}
half_lane!(F16, BF16);

impl Half for F16 {
    const ONE: u16 = 0x3c00;
    const SMALLEST: f32 = f32::from_bits(113 << 23);
    const INFINITY: u16 = 0x7c00;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        let h = u32::from(self.0);
        let sign = (h & 0x8000) << 16;
        let magnitude = (h & 0x7fff) << 13;
        // Normal numbers: a change of bias. The exponent of infinity and NaN becomes that of f32's.
        let normal = magnitude
            + if h & 0x7c00 == 0x7c00 {
                (255 - 31) << 23
            } else {
                (127 - 15) << 23
            };
        // Subnormal ones: as the fraction of 2^-14, from which that is then taken.
        let tiny = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
        f32::from_bits(sign | if h & 0x7c00 == 0 { tiny } else { normal })
    }

    #[inline(always)]
    fn from_f32(x: f32) -> F16 {
        let bits = x.to_bits();
        let sign = (bits >> 16) & 0x8000;
        let a = bits & 0x7fff_ffff;
        // Normal: rebias, add just under half a unit, or just half for odd numbers, and cut.
        let normal = (a
            .wrapping_sub((127 - 15) << 23)
            .wrapping_add(0xfff + (a >> 13 & 1)))
            >> 13;
        // Subnormal: the addition puts the unit of the last place at the bottom and rounds in hardware.
        let tiny = (f32::from_bits(a) + 0.5)
            .to_bits()
            .wrapping_sub(0.5f32.to_bits());
        let finite = if a < 113 << 23 { tiny } else { normal };
        // From 65520 on, infinity.
        let large = if a > 0x7f80_0000 { 0x7fff } else { 0x7c00 };
        let sign = if a > 0x7f80_0000 { 0 } else { sign };
        F16((sign | if a >= 0x477f_f000 { large } else { finite }) as u16)
    }

    #[inline(always)]
    fn from_bits(bits: u16) -> F16 {
        F16(bits)
    }
    #[inline(always)]
    fn bits(self) -> u16 {
        self.0
    }
}

impl Half for BF16 {
    const ONE: u16 = 0x3f80;
    const SMALLEST: f32 = f32::MIN_POSITIVE;
    const INFINITY: u16 = 0x7f80;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> BF16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        BF16(if bits & 0x7fff_ffff > 0x7f80_0000 {
            0x7fff
        } else {
            rounded as u16
        })
    }

    #[inline(always)]
    fn from_bits(bits: u16) -> BF16 {
        BF16(bits)
    }
    #[inline(always)]
    fn bits(self) -> u16 {
        self.0
    }
}

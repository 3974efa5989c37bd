//! Sums and products rounded to odd, and directed rounding made of them, without leaving the host's own
//! arithmetic: an inexact result whose last bit is made odd can be rounded once more, to a format at least
//! two bits narrower, in any direction, as if the exact result were rounded.

/// The rounding error of `s = a + b`, exactly, where nothing overflows.
#[inline(always)]
pub fn sum_error(a: f64, b: f64, s: f64) -> f64 {
    let from_b = s - a;
    (a - (s - from_b)) + (b - from_b)
}

/// Moves an inexact sum to the neighbour with an odd last bit, given its rounding error.
#[inline(always)]
fn to_odd(s: f64, error: f64) -> f64 {
    let bits = s.to_bits();
    // Where the error is NaN (the sum is not finite) neither comparison holds.
    let away = (error > 0.0) == (s > 0.0);
    let moved = if away {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    let inexact = (error > 0.0) | (error < 0.0);
    f64::from_bits(if inexact && bits & 1 == 0 {
        moved
    } else {
        bits
    })
}

/// `a + b` in binary64, rounded to odd. For operands whose sum overflows in no direction.
#[inline(always)]
pub fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    to_odd(s, sum_error(a, b, s))
}

/// Rounds to binary32, to odd.
#[inline(always)]
pub fn narrow_odd(x: f64) -> f32 {
    let s = x as f32;
    let back = f64::from(s);
    let bits = s.to_bits();
    let moved = if back.abs() < x.abs() {
        bits.wrapping_add(1)
    } else {
        bits.wrapping_sub(1)
    };
    let inexact = (back < x) | (back > x);
    f32::from_bits(if inexact && bits & 1 == 0 {
        moved
    } else {
        bits
    })
}

/// Directions for [`narrow`].
pub mod direction {
    /// Nearest, ties to even.
    pub const EVEN: u32 = 0;
    /// Toward zero.
    pub const ZERO: u32 = 1;
    /// Toward minus infinity.
    pub const DOWN: u32 = 2;
    /// Toward plus infinity.
    pub const UP: u32 = 3;
}

/// Rounds to binary32 in a direction of [`direction`].
#[inline(always)]
pub fn narrow<const DIRECTION: u32>(x: f64) -> f32 {
    use direction::*;
    let s = x as f32;
    let back = f64::from(s);
    let bits = s.to_bits();
    // Neighbours by the bits: one less is toward zero, one more away from it. A result that is zero or
    // infinite has the sign of `x`, so neither step leaves the right half of the line.
    let negative = x < 0.0;
    let too_far = match DIRECTION {
        ZERO => back.abs() > x.abs(),
        DOWN => back > x && !negative,
        UP => back < x && negative,
        _ => false,
    };
    let too_near = match DIRECTION {
        DOWN => back > x && negative,
        UP => back < x && !negative,
        _ => false,
    };
    let moved = if too_far { bits.wrapping_sub(1) } else { bits };
    f32::from_bits(if too_near {
        bits.wrapping_add(1)
    } else {
        moved
    })
}

/// `a / b` in binary64, rounded to odd, for binary32 operands.
#[inline(always)]
pub fn quotient_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    // The remainder has the sign of the error, as far as `b` does.
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b < 0.0 { -rest } else { rest })
}

/// The square root in binary64, rounded to odd, of a binary32 number.
#[inline(always)]
pub fn root_odd(a: f64) -> f64 {
    let root = a.sqrt();
    to_odd(root, (-root).mul_add(root, a))
}

//! The device's approximate functions, in binary32. The ISA bounds their error and fixes their value at
//! special arguments; these are nearer than the bounds ask.

/// `2^x`, within 2 units in the last place, exact at integers. Results below the normal numbers are rounded
/// once. Without branches or calls, so that loops over it become vector code.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    // Past these the result is zero or infinite anyhow. NaN becomes -151 for now.
    let bounded = if x > -151.0 { x } else { -151.0 };
    let bounded = if bounded < 129.0 { bounded } else { 129.0 };
    // Adding 1.5 · 2^23 leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = bounded + SHIFT;
    let whole = (shifted.to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32);
    let f = bounded - (shifted - SHIFT);
    // (2^f - 1) / f on [-1/2, 1/2], interpolated at Chebyshev's nodes.
    let q = fma(f, 0.000_154_531_63, 0.001_339_086_3);
    let q = fma(f, q, 0.009_618_083);
    let q = fma(f, q, 0.055_503_57);
    let q = fma(f, q, 0.240_226_5);
    let q = fma(f, q, std::f32::consts::LN_2);
    let p = fma(f, q, 1.0);
    // In two steps, the first of which is exact, since 2^whole may itself be no normal number.
    let half = whole >> 1;
    let scale = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    let result = p * scale(half) * scale(whole - half);
    if x.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        result
    }
}

/// Rounded once, so that every host gives the same bits.
#[inline(always)]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// `a / b` as `div.approx` has it: for divisors past 2^126, whose reciprocal is subnormal, a zero (of the
/// quotient's sign), or NaN where `a` is infinite.
#[inline(always)]
pub fn divide(a: f32, b: f32) -> f32 {
    let magnitude = b.to_bits() & 0x7fff_ffff;
    let reciprocal = if magnitude > 253 << 23 && magnitude < 255 << 23 {
        f32::from_bits(b.to_bits() & 0x8000_0000)
    } else {
        1.0
    };
    if reciprocal == 1.0 {
        a / b
    } else {
        a * reciprocal
    }
}

/// `1 / √x`.
#[inline(always)]
pub fn inverse_root(x: f32) -> f32 {
    // The square root of minus zero is minus zero.
    (1.0 / f64::from(x).sqrt()) as f32
}

/// Sine.
pub fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

/// Cosine.
pub fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

/// Logarithm to base 2.
pub fn log2(x: f32) -> f32 {
    f64::from(x).log2() as f32
}

/// Hyperbolic tangent.
pub fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}

/// The upper 32 bits of a binary64 number, as the gross functions of that type take them: subnormal numbers
/// flushed.
#[inline(always)]
fn upper(x: f64) -> f64 {
    let bits = x.to_bits() & 0xffff_ffff_0000_0000;
    f64::from_bits(if bits & 0x7ff0_0000_0000_0000 == 0 {
        bits & 1 << 63
    } else {
        bits
    })
}

/// Rounded to the upper 32 bits, subnormal numbers flushed.
#[inline(always)]
fn to_upper(x: f64) -> f64 {
    if x.is_nan() {
        f64::from_bits(super::exact::F64.nan)
    } else {
        upper(f64::from_bits(x.to_bits().wrapping_add(0x8000_0000)))
    }
}

/// `rcp.approx.ftz.f64`.
#[inline(always)]
pub fn gross_reciprocal(x: f64) -> f64 {
    to_upper(1.0 / upper(x))
}

/// `rsqrt.approx.ftz.f64`.
#[inline(always)]
pub fn gross_inverse_root(x: f64) -> f64 {
    to_upper(1.0 / upper(x).sqrt())
}

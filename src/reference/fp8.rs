//! The 8-bit floating-point format e4m3, as the conversion instructions of
//! compute_89 and later have it.
//!
//! ```text
//! bit   7      6 5 4 3     2 1 0
//!      sign   exponent   mantissa     bias 7, no infinities
//!
//! exponent 0:            ± mantissa/8 · 2⁻⁶
//! exponent 1…15:         ± (1 + mantissa/8) · 2^(exponent − 7)
//! but 1111 111:          NaN, so the largest value is 1111 110 = 448
//! ```

/// A number in e4m3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F8E4M3(
    /// The eight bits.
    pub u8,
);

impl F8E4M3 {
    /// The largest value, 448.
    pub const MAX: Self = Self(0x7e);
    /// Not a number. The format has two, this one without sign.
    pub const NAN: Self = Self(0x7f);

    /// The nearest value, ties to even; what lies past 448 becomes ±448,
    /// infinities included (`cvt.rn.satfinite`). NaN becomes [`NAN`](Self::NAN).
    pub fn from_f32(value: f32) -> Self {
        if value.is_nan() {
            return Self::NAN;
        }
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        let magnitude = f64::from(value.abs());
        if magnitude >= 448.0 {
            return Self(sign | Self::MAX.0);
        }
        // The exponent of the value's binade, at least that of the subnormals;
        // a binade has eight steps.
        let exponent = f64_exponent(magnitude).max(-6);
        let steps = (magnitude * 2f64.powi(3 - exponent)).round_ties_even() as u8;
        // Consecutive codes are consecutive values. A normal's steps begin at 8
        // (the leading one), a subnormal's at 0; rounding up into the next
        // binade carries into the exponent by itself.
        let binade = ((exponent + 6) as u8) << 3;
        Self(sign | (binade + steps))
    }

    /// The value, exactly.
    pub fn to_f32(self) -> f32 {
        let exponent = i32::from(self.0 >> 3 & 0xf);
        let mantissa = f32::from(self.0 & 7);
        let magnitude = match (exponent, self.0 & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 8.0 * 2f32.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        if self.0 & 0x80 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }
}

/// The exponent of the power of two at or below a normal `value`; some number
/// far below −6 for 0.
fn f64_exponent(value: f64) -> i32 {
    (value.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

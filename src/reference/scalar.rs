//! The element types the oracle reads and writes.

use half::{bf16, f16};
use std::fmt::Debug;

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A floating-point element: `f16`, `bf16`, `f32` or `f64`. Sealed.
pub trait Scalar:
    sealed::Sealed + Copy + Debug + Default + PartialEq + Send + Sync + 'static
{
    /// The type's name, as DESIGN and the counters write it.
    const NAME: &'static str;

    /// The value, exactly.
    fn to_f64(self) -> f64;

    /// The nearest value of the type, ties to even, rounded once; NaN stays
    /// NaN, and what lies past the largest finite value becomes infinite.
    fn from_f64(value: f64) -> Self;
}

impl Scalar for f64 {
    const NAME: &'static str = "f64";

    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(value: f64) -> Self {
        value
    }
}

impl Scalar for f32 {
    const NAME: &'static str = "f32";

    fn to_f64(self) -> f64 {
        self.into()
    }

    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Scalar for f16 {
    const NAME: &'static str = "f16";

    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }

    fn from_f64(value: f64) -> Self {
        f16::from_f32(round_to_odd(value))
    }
}

impl Scalar for bf16 {
    const NAME: &'static str = "bf16";

    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }

    fn from_f64(value: f64) -> Self {
        bf16::from_f32(round_to_odd(value))
    }
}

/// `value` in f32, with the last bit set wherever the conversion loses
/// anything. A further rounding to a type at least two bits narrower then
/// gives what one rounding of `value` would have given: an inexact value can
/// no longer pose as a tie.
fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if value.is_nan() || f64::from(nearest) == value {
        return nearest;
    }
    // Truncate toward zero: at most one step back, as `nearest` is next to
    // `value`. Stepping back from infinity gives the largest finite value.
    let truncated = if f64::from(nearest).abs() > value.abs() {
        nearest.to_bits() - 1
    } else {
        nearest.to_bits()
    };
    f32::from_bits(truncated | 1)
}

/// A slice as f64.
pub(super) fn widen<T: Scalar>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

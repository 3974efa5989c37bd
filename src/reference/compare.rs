//! How far a kernel's result is from the oracle's.

use super::error::{self, Error};
use super::scalar::Scalar;
use std::fmt;

/// What a result may differ by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Each element: `|found − expected| ≤ elementwise · (1 + |expected|)`.
    pub elementwise: f64,
    /// All together: `‖found − expected‖ ≤ relative_l2 · ‖expected‖`.
    pub relative_l2: f64,
}

impl Tolerance {
    /// For outputs of attention in f16.
    pub const F16: Self = Self {
        elementwise: 1e-3,
        relative_l2: 5e-4,
    };
    /// For outputs of attention in bf16.
    pub const BF16: Self = Self {
        elementwise: 8e-3,
        relative_l2: 4e-3,
    };
    /// For `lse`, absolute.
    pub const LSE: f64 = 1e-3;
}

/// The difference between what was found and what was expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Elements compared.
    pub elements: usize,
    /// The element that differs most for its size.
    pub worst: usize,
    /// What was found there.
    pub found: f64,
    /// What was expected there.
    pub expected: f64,
    /// The largest `|found − expected|`.
    pub max_abs: f64,
    /// The largest `|found − expected| / (1 + |expected|)`, what
    /// [`Tolerance::elementwise`] bounds.
    pub max_scaled: f64,
    /// `‖found − expected‖ / ‖expected‖`; 0 where nothing differs.
    pub relative_l2: f64,
    /// The cosine of the angle between both; 1 where nothing differs.
    pub cosine: f64,
}

impl Comparison {
    /// Compare. Elements that are equal, infinities included, or both NaN do
    /// not differ; any other element that is not finite differs infinitely.
    ///
    /// # Errors
    /// [`Error::Length`] for slices of different lengths.
    pub fn of<T: Scalar>(found: &[T], expected: &[f64]) -> Result<Self, Error> {
        error::length("found", found.len(), expected.len(), "expected")?;
        let mut comparison = Self {
            elements: found.len(),
            worst: 0,
            found: found.first().map_or(0.0, |x| x.to_f64()),
            expected: expected.first().copied().unwrap_or(0.0),
            max_abs: 0.0,
            max_scaled: 0.0,
            relative_l2: 0.0,
            cosine: 1.0,
        };
        let (mut error, mut dot, mut found_power, mut power) = (0.0, 0.0, 0.0, 0.0);
        for (index, (found, &expected)) in found.iter().zip(expected).enumerate() {
            let found = found.to_f64();
            let same = found == expected || found.is_nan() && expected.is_nan();
            let difference = match (found - expected).abs() {
                _ if same => 0.0,
                difference if difference.is_nan() => f64::INFINITY,
                difference => difference,
            };
            let scaled = if difference.is_finite() {
                difference / (1.0 + expected.abs())
            } else {
                difference
            };
            comparison.max_abs = comparison.max_abs.max(difference);
            if scaled > comparison.max_scaled {
                comparison.max_scaled = scaled;
                (comparison.worst, comparison.found, comparison.expected) =
                    (index, found, expected);
            }
            error += difference * difference;
            if found.is_finite() && expected.is_finite() {
                dot += found * expected;
                found_power += found * found;
                power += expected * expected;
            }
        }
        if error > 0.0 {
            comparison.relative_l2 = (error / power).sqrt();
            let norms = (found_power * power).sqrt();
            comparison.cosine = if norms > 0.0 { dot / norms } else { 0.0 };
        }
        Ok(comparison)
    }

    /// Whether both bars of a tolerance are met.
    pub fn within(&self, tolerance: Tolerance) -> bool {
        self.max_scaled <= tolerance.elementwise && self.relative_l2 <= tolerance.relative_l2
    }

    /// Signal over noise in decibels of power; infinite where nothing differs.
    pub fn snr_db(&self) -> f64 {
        -20.0 * self.relative_l2.log10()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} elements, worst [{}]: {} for {}; max |Δ| {:.3e}, relative L2 {:.3e}",
            self.elements, self.worst, self.found, self.expected, self.max_abs, self.relative_l2
        )
    }
}

//! Arithmetic that the host's own types do not offer: 16-bit floating-point numbers, rounding in any
//! direction, narrow formats, and the device's approximate functions.

pub mod approx;
pub mod exact;
pub mod f16;
pub mod odd;

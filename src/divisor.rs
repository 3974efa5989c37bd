//! Numbers that kernels divide by, with what makes that a multiplication.

use crate::abi::KvDivisor;

/// A divisor from 1 to 2³¹ − 1 for indices of the same range, after Granlund and Montgomery, "Division by Invariant
/// Integers using Multiplication" (PLDI 1994): with `2^s` the least power of two not below the divisor and the multiplier
/// `⌈2^(31 + s) / divisor⌉`, the product exceeds `index · 2^(31 + s) / divisor` by less than `2^(31 + s) / divisor`.
pub(crate) fn divisor(value: u32) -> KvDivisor {
    debug_assert!((1..1 << 31).contains(&value));
    let shift = 31 + value.next_power_of_two().trailing_zeros();
    KvDivisor {
        value: value as i32,
        // From 2³¹ to below 2³².
        multiplier: (1u64 << shift).div_ceil(u64::from(value)) as u32,
        shift: shift as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the kernels divide.
    fn quotient(index: u32, by: KvDivisor) -> u32 {
        ((u64::from(index) * u64::from(by.multiplier)) >> by.shift) as u32
    }

    #[test]
    fn at_the_ends() {
        let most = i32::MAX as u32;
        for value in [1, 2, 3, 5, 7, 64, 1 << 30, (1 << 30) + 1, most - 1, most] {
            for index in [0, 1, value - 1, value, most / 2, most - 1, most] {
                assert_eq!(
                    quotient(index, divisor(value)),
                    index / value,
                    "{index} / {value}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn as_division(value in 1u32..1 << 31, times in 0u32..1 << 31, index in 0u32..1 << 31) {
            let by = divisor(value);
            prop_assert_eq!(quotient(index, by), index / value);
            // Around multiples, where an error would show first.
            let multiple = times / value * value;
            prop_assert_eq!(quotient(multiple, by), multiple / value);
            prop_assert_eq!(quotient(multiple.saturating_sub(1), by), multiple.saturating_sub(1) / value);
        }
    }
}

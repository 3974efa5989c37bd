//! Which types of K and V there are kernels for, under q and new vectors of which type.

use crate::dtype::{Dtype, Element, Stores};
use crate::embedded::DECODE_VARIANTS;
use crate::error::{Error, Result};

/// Types of a cache's K and V that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheTypes {
    k: Dtype,
    v: Dtype,
}

const SUPPORTED: &str = "K and V are both as the queries, both int8 or both fp8, or one of them int8 and the other as the queries";

/// Query rows of a block where K and V are of different types: the most used variant only.
const MIXED_COLUMNS: u32 = 8;

impl CacheTypes {
    /// Those of an operation.
    ///
    /// # Errors
    /// [`Error::CacheTypes`] where no kernel was built for them.
    pub fn of<T: Element, K: Stores<T>, V: Stores<T>>() -> Result<CacheTypes> {
        CacheTypes::new(T::DTYPE, K::DTYPE, V::DTYPE)
    }

    /// K and V of these types, under queries of type `element`.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn new(element: Dtype, k: Dtype, v: Dtype) -> Result<CacheTypes> {
        let is_known = !element.is_scaled()
            && match (k, v) {
                (Dtype::I8, Dtype::I8) | (Dtype::F8E4M3, Dtype::F8E4M3) => true,
                (Dtype::I8, other) | (other, Dtype::I8) => other == element,
                _ => k == element && v == element,
            };
        if !is_known {
            return Err(Error::CacheTypes {
                element,
                k,
                v,
                supported: SUPPORTED,
            });
        }
        Ok(CacheTypes { k, v })
    }

    /// Whether either has scales.
    pub fn are_scaled(self) -> bool {
        self.k.is_scaled() || self.v.is_scaled()
    }

    /// Those that decode kernels are built for.
    pub fn kernels() -> impl Iterator<Item = (Dtype, Dtype)> {
        let same = Dtype::ALL.iter().map(|&dtype| (dtype, dtype));
        let mixed = Dtype::ELEMENTS
            .iter()
            .flat_map(|&element| [(element, Dtype::I8), (Dtype::I8, element)]);
        same.chain(mixed)
    }

    /// Head dimension and query rows of a block of each decode kernel of these types.
    pub fn variants(k: Dtype, v: Dtype) -> impl Iterator<Item = (u32, u32)> {
        let all = DECODE_VARIANTS.iter().copied();
        all.filter(move |&(_, columns)| k == v || columns == MIXED_COLUMNS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_pair_has_kernels() {
        let kernels: Vec<_> = CacheTypes::kernels().collect();
        let mut supported = Vec::new();
        for &element in Dtype::ELEMENTS {
            for &k in Dtype::ALL {
                for &v in Dtype::ALL {
                    if CacheTypes::new(element, k, v).is_ok() && !supported.contains(&(k, v)) {
                        supported.push((k, v));
                    }
                }
            }
        }
        assert_eq!(kernels.len(), 8);
        assert!(kernels.iter().all(|pair| supported.contains(pair)));
        assert!(supported.iter().all(|pair| kernels.contains(pair)));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (element, k, v, wrong) in [
            (
                Dtype::F16,
                Dtype::F8E4M3,
                Dtype::I8,
                "fp8 keys and int8 values",
            ),
            (
                Dtype::F16,
                Dtype::Bf16,
                Dtype::F16,
                "bf16 keys and f16 values",
            ),
            (Dtype::Bf16, Dtype::F16, Dtype::I8, "under bf16 queries"),
        ] {
            let error = CacheTypes::new(element, k, v).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}

//! Element types of a cache.

use std::fmt;

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};

/// An element type, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE binary16, [`half::f16`].
    F16,
    /// The upper half of a binary32, [`half::bf16`].
    Bf16,
}

impl Dtype {
    /// Every element type.
    pub const ALL: &[Dtype] = &[Dtype::F16, Dtype::Bf16];

    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The name in kernels' names, `"f16"` or `"bf16"`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// An element type, as a type: [`half::f16`] or [`half::bf16`].
pub trait Element:
    sealed::Sealed + DeviceRepr + ValidAsZeroBits + Copy + Send + Sync + 'static
{
    /// The same as a value.
    const DTYPE: Dtype;
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

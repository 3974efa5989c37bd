//! Element types: of vectors as a model computes them, and of what a cache stores.

use std::fmt;

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};

use crate::abi;
use crate::reference::F8E4M3;

/// An element type, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE binary16, [`half::f16`].
    F16,
    /// The upper half of a binary32, [`half::bf16`].
    Bf16,
    /// A signed byte with a scale for each vector.
    I8,
    /// A byte of floating point, [`F8E4M3`], with a scale for each vector.
    F8E4M3,
}

impl Dtype {
    /// Every type that a cache stores.
    pub const ALL: &[Dtype] = &[Dtype::F16, Dtype::Bf16, Dtype::I8, Dtype::F8E4M3];

    /// The types of vectors as a model computes them: q, new K and V, and outputs.
    pub const ELEMENTS: &[Dtype] = &[Dtype::F16, Dtype::Bf16];

    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I8 | Dtype::F8E4M3 => 1,
        }
    }

    /// Whether a vector of it has a scale beside it.
    pub const fn is_scaled(self) -> bool {
        matches!(self, Dtype::I8 | Dtype::F8E4M3)
    }

    /// The name in kernels' names and reports: `"f16"`, `"bf16"`, `"int8"` or `"fp8"`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
            Dtype::I8 => "int8",
            Dtype::F8E4M3 => "fp8",
        }
    }

    /// As kernels are told at a launch.
    pub(crate) const fn abi(self) -> i32 {
        let code = match self {
            Dtype::F16 => abi::KV_DTYPE_F16,
            Dtype::Bf16 => abi::KV_DTYPE_BF16,
            Dtype::I8 => abi::KV_DTYPE_INT8,
            Dtype::F8E4M3 => abi::KV_DTYPE_FP8,
        };
        code as i32
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
    impl Sealed for i8 {}
    impl Sealed for crate::reference::F8E4M3 {}
}

/// What a cache stores for an element, as a type: [`half::f16`], [`half::bf16`], `i8` or [`F8E4M3`].
pub trait Storage:
    sealed::Sealed + DeviceRepr + ValidAsZeroBits + Copy + Send + Sync + 'static
{
    /// The same as a value.
    const DTYPE: Dtype;
}

/// An element of vectors as a model computes them, as a type: [`half::f16`] or [`half::bf16`].
pub trait Element: Storage {}

/// What may be stored for elements of type `T`: themselves, or a byte each.
pub trait Stores<T: Element>: Storage {}

// SAFETY: one plain byte.
unsafe impl DeviceRepr for F8E4M3 {}
// SAFETY: all bits zero are the number 0.
unsafe impl ValidAsZeroBits for F8E4M3 {}

impl Storage for f16 {
    const DTYPE: Dtype = Dtype::F16;
}

impl Storage for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
}

impl Storage for i8 {
    const DTYPE: Dtype = Dtype::I8;
}

impl Storage for F8E4M3 {
    const DTYPE: Dtype = Dtype::F8E4M3;
}

impl Element for f16 {}
impl Element for bf16 {}

impl<T: Element> Stores<T> for T {}
impl<T: Element> Stores<T> for i8 {}
impl<T: Element> Stores<T> for F8E4M3 {}

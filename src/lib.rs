//! Handwritten CUDA kernels for the key-value cache of a language model.

pub mod embedded;
pub mod reference;

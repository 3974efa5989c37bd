//! A CUDA driver on the CPU.

pub mod image;
pub mod ptx;

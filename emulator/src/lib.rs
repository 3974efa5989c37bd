//! A CUDA driver on the CPU.

pub mod ptx;

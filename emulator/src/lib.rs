//! A CUDA driver on the CPU: executes the PTX that nvcc emitted, warp by warp, strictly.

pub mod check;
pub mod counters;
pub mod exec;
pub mod image;
pub mod memory;
pub mod profile;
pub mod ptx;
pub mod run;

//! A CUDA driver on the CPU: executes the PTX that nvcc emitted, warp by warp, strictly.

<<<<<<< HEAD
pub mod image;
=======
pub mod check;
pub mod counters;
pub mod exec;
pub mod memory;
pub mod profile;
>>>>>>> c76c8a4 (Emulator core: warps, blocks, launches, memory access and control flow)
pub mod ptx;
pub mod run;

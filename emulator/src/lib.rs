//! A CUDA driver on the CPU: executes the PTX that nvcc emitted, warp by warp, strictly.

pub mod check;
pub mod control;
pub mod counters;
mod driver;
pub mod exec;
pub mod image;
pub mod install;
pub mod memory;
pub mod profile;
pub mod ptx;
pub mod run;
pub mod sass;

pub use control::{ControlError, Emulator};
pub use install::{Device, InstallError, install};

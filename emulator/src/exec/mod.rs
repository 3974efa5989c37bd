//! Execution: PTX modules made ready for a device, and launches of their kernels.

pub mod launch;
pub mod module;

pub use launch::{Environment, LaunchConfig, Outcome, launch};
pub use module::{GlobalVariable, Kernel, LoadError, Module, ParamLayout};

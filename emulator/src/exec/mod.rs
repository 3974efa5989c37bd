//! Execution: PTX modules made ready for a device, and launches of their kernels.

pub mod access;
pub mod async_copy;
pub mod block;
pub mod bulk;
pub mod call;
pub mod cluster;
pub mod decode;
pub mod doubt;
pub mod flow;
pub mod lanes;
pub mod launch;
pub mod local;
pub mod mbarrier;
pub mod module;
pub mod number;
pub mod ops;
pub mod printf;
pub mod program;
pub mod race;
pub mod shared;
pub mod special;
pub mod symbols;
pub mod system;
pub mod text;
pub mod traffic;
pub mod warp;
pub mod watch;

pub use launch::{Environment, LaunchConfig, Outcome, launch};
pub use module::{GlobalVariable, Kernel, LoadError, Module, ParamLayout};

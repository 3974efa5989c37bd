//! The compiled kernels that build.rs put into the crate.

/// A kernel's demands on one GPU architecture, as ptxas reported them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The `kernels/*.cu` file, without its ending.
    pub module: &'static str,
    /// Name of the kernel.
    pub kernel: &'static str,
    /// Compute capability without the dot, such as `"80"`.
    pub arch: &'static str,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of stack a thread.
    pub stack_bytes: u32,
    /// Bytes of spill stores a thread.
    pub spill_store_bytes: u32,
    /// Bytes of spill loads a thread.
    pub spill_load_bytes: u32,
    /// Bytes of static shared memory a block.
    pub shared_bytes: u32,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
include!(concat!(env!("OUT_DIR"), "/variants.rs"));

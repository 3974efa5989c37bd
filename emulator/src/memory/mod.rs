//! Device memory: one address space for the process, allocations with the
//! shadow state that the checks need.
//!
//! Device addresses are numbers of their own, never host pointers, so a host
//! dereference of a device pointer crashes here as it does with a GPU. They are
//! handed out once only: a freed address stays recognisable for ever.
//! Host (pinned or managed) memory is the exception: its device address is its
//! host address, as with unified addressing.

mod allocation;
mod space;

pub use allocation::{Allocation, Owner, RaceCell, RaceShadow};
pub use space::{AddressSpace, MemoryError, Snapshot};

/// First generic address of the shared-memory window.
pub const SHARED_WINDOW: u64 = 0x1_0000_0000;
/// First generic address of the local-memory window.
pub const LOCAL_WINDOW: u64 = 0x1_8000_0000;
/// First generic address of the kernel-parameter window.
pub const PARAM_WINDOW: u64 = 0x8000_0000;
/// First device address ever handed out.
pub const DEVICE_BASE: u64 = 0x2_0000_0000;

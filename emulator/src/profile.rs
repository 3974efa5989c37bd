//! The devices the emulator can be: the figures of real GPUs that launches,
//! occupancy and device attributes depend on.

/// Figures of one GPU model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Short name, as in `PTX_EMULATOR_DEVICES`.
    pub key: &'static str,
    /// Marketing name, as `cuDeviceGetName` would say (with a suffix that tells the truth).
    pub name: &'static str,
    /// Compute capability, (major, minor).
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Shared memory of an SM that blocks can use, in bytes.
    pub shared_per_sm: u32,
    /// Most shared memory a block may opt in to, in bytes.
    pub shared_per_block_optin: u32,
    /// Shared memory the system reserves of each block, in bytes.
    pub shared_reserved_per_block: u32,
    /// 32-bit registers of an SM.
    pub registers_per_sm: u32,
    /// Resident threads of an SM.
    pub threads_per_sm: u32,
    /// Resident blocks of an SM.
    pub blocks_per_sm: u32,
    /// L2 cache in bytes.
    pub l2_bytes: u32,
    /// SM clock in kHz (boost).
    pub clock_khz: u32,
    /// Memory clock in kHz.
    pub memory_clock_khz: u32,
    /// Memory bus width in bits.
    pub memory_bus_bits: u32,
}

const GIB: u64 = 1 << 30;
const KIB: u32 = 1 << 10;

/// Every profile known.
pub const PROFILES: &[Profile] = &[
    Profile {
        key: "a100",
        name: "NVIDIA A100-SXM4-80GB (emulated)",
        compute_capability: (8, 0),
        sm_count: 108,
        memory_bytes: 80 * GIB,
        shared_per_sm: 164 * KIB,
        shared_per_block_optin: 163 * KIB,
        shared_reserved_per_block: KIB,
        registers_per_sm: 65536,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        l2_bytes: 40 << 20,
        clock_khz: 1_410_000,
        memory_clock_khz: 1_593_000,
        memory_bus_bits: 5120,
    },
    Profile {
        key: "h100",
        name: "NVIDIA H100 80GB HBM3 (emulated)",
        compute_capability: (9, 0),
        sm_count: 132,
        memory_bytes: 80 * GIB,
        shared_per_sm: 228 * KIB,
        shared_per_block_optin: 227 * KIB,
        shared_reserved_per_block: KIB,
        registers_per_sm: 65536,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
        l2_bytes: 50 << 20,
        clock_khz: 1_980_000,
        memory_clock_khz: 2_619_000,
        memory_bus_bits: 5120,
    },
    Profile {
        key: "l4",
        name: "NVIDIA L4 (emulated)",
        compute_capability: (8, 9),
        sm_count: 58,
        memory_bytes: 24 * GIB,
        shared_per_sm: 100 * KIB,
        shared_per_block_optin: 99 * KIB,
        shared_reserved_per_block: KIB,
        registers_per_sm: 65536,
        threads_per_sm: 1536,
        blocks_per_sm: 24,
        l2_bytes: 48 << 20,
        clock_khz: 2_040_000,
        memory_clock_khz: 6_251_000,
        memory_bus_bits: 192,
    },
    Profile {
        key: "rtx4090",
        name: "NVIDIA GeForce RTX 4090 (emulated)",
        compute_capability: (8, 9),
        sm_count: 128,
        memory_bytes: 24 * GIB,
        shared_per_sm: 100 * KIB,
        shared_per_block_optin: 99 * KIB,
        shared_reserved_per_block: KIB,
        registers_per_sm: 65536,
        threads_per_sm: 1536,
        blocks_per_sm: 24,
        l2_bytes: 72 << 20,
        clock_khz: 2_520_000,
        memory_clock_khz: 10_501_000,
        memory_bus_bits: 384,
    },
];

/// Shared memory a block may use without opting in, in bytes, on every profile.
pub const SHARED_PER_BLOCK: u32 = 48 * KIB;
/// Most threads of a block, on every profile.
pub const THREADS_PER_BLOCK: u32 = 1024;

impl Profile {
    /// The profile of that key.
    pub fn by_key(key: &str) -> Option<&'static Profile> {
        PROFILES.iter().find(|p| p.key == key)
    }

    /// Compute capability as PTX targets write it: 80, 89, 90.
    pub fn sm(&self) -> u32 {
        self.compute_capability.0 * 10 + self.compute_capability.1
    }
}

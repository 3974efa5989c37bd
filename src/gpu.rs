//! What of a GPU decides how work is shared out over it.

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute;

use crate::error::{During, Result};

/// The limits of a GPU that plans are made from.
///
/// The constants are NVIDIA's published figures (CUDA C++ Programming Guide, "Compute Capabilities", and the
/// architectures' white papers); [`of`](Self::of) asks the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gpu {
    /// Streaming multiprocessors.
    pub sm_count: u32,
    /// Registers of a multiprocessor, 32-bit.
    pub registers_per_sm: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_bytes_per_sm: u32,
    /// Shared memory that the system takes of each block, in bytes.
    pub reserved_shared_bytes: u32,
    /// Threads that a multiprocessor holds.
    pub threads_per_sm: u32,
    /// Blocks that a multiprocessor holds.
    pub blocks_per_sm: u32,
}

impl Gpu {
    /// A100 (SXM and PCIe), compute capability 8.0.
    pub const A100: Gpu = Gpu {
        sm_count: 108,
        registers_per_sm: 65_536,
        shared_bytes_per_sm: 164 << 10,
        reserved_shared_bytes: 1 << 10,
        threads_per_sm: 2048,
        blocks_per_sm: 32,
    };

    /// L4, compute capability 8.9.
    pub const L4: Gpu = Gpu {
        sm_count: 58,
        shared_bytes_per_sm: 100 << 10,
        threads_per_sm: 1536,
        blocks_per_sm: 24,
        ..Gpu::A100
    };

    /// GeForce RTX 4090, compute capability 8.9.
    pub const RTX_4090: Gpu = Gpu {
        sm_count: 128,
        ..Gpu::L4
    };

    /// H100 SXM5, compute capability 9.0.
    pub const H100: Gpu = Gpu {
        sm_count: 132,
        shared_bytes_per_sm: 228 << 10,
        ..Gpu::A100
    };

    /// H200, compute capability 9.0: an H100 with more and faster memory.
    pub const H200: Gpu = Gpu::H100;

    /// B200, compute capability 10.0.
    pub const B200: Gpu = Gpu {
        sm_count: 148,
        ..Gpu::H100
    };

    /// The device of a context.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver) where it does not answer.
    pub fn of(context: &CudaContext) -> Result<Gpu> {
        use CUdevice_attribute::*;
        let ask = |attribute| {
            context
                .attribute(attribute)
                .map(|value| value as u32)
                .during("asking for the device's limits")
        };
        Ok(Gpu {
            sm_count: ask(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            registers_per_sm: ask(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR)?,
            shared_bytes_per_sm: ask(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            reserved_shared_bytes: ask(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK)?,
            threads_per_sm: ask(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            blocks_per_sm: ask(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?,
        })
    }

    /// Blocks of `threads` threads (whole warps), `registers` registers a thread and `shared_bytes` of shared memory
    /// that a multiprocessor holds at once: the theoretical occupancy, by the rules of NVIDIA's occupancy calculator.
    pub fn occupancy(&self, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
        // Registers are handed out 256 at a time to a warp; each of the four partitions has its quarter of them.
        let registers_of_warp = (registers * 32).next_multiple_of(256).max(256);
        let warps_of_partition = self.registers_per_sm / 4 / registers_of_warp;
        let by_registers = warps_of_partition * 4 / (threads / 32);
        let shared_of_block = (shared_bytes + self.reserved_shared_bytes).next_multiple_of(128);
        let by_shared = self.shared_bytes_per_sm / shared_of_block.max(1);
        let by_threads = self.threads_per_sm / threads;
        self.blocks_per_sm
            .min(by_registers)
            .min(by_shared)
            .min(by_threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked by hand from the programming guide's limits.
    #[test]
    fn occupancy_is_the_tightest_limit() {
        for (gpu, threads, registers, shared_bytes, blocks) in [
            // 168 registers: 5376 a warp, 3 warps a partition.
            (Gpu::H100, 128, 168, 48 << 10, 3),
            // 96 KiB and the system's 1 KiB: twice in 228.
            (Gpu::H100, 128, 137, 96 << 10, 2),
            (Gpu::A100, 128, 137, 96 << 10, 1),
            (Gpu::L4, 128, 137, 96 << 10, 1),
            // 118 registers count as 120: 3840 a warp, 4 a partition.
            (Gpu::H100, 128, 118, 48 << 10, 4),
            (Gpu::L4, 128, 118, 48 << 10, 2),
            // Nothing but threads.
            (Gpu::A100, 256, 22, 0, 8),
            (Gpu::RTX_4090, 256, 22, 0, 6),
            // Nothing but blocks.
            (Gpu::A100, 32, 16, 0, 32),
        ] {
            assert_eq!(
                gpu.occupancy(threads, registers, shared_bytes),
                blocks,
                "{gpu:?} {threads} {registers} {shared_bytes}"
            );
        }
    }
}

//! Devices: what they are called, what they can do.

use super::abi::{Ordinal, Uuid};
use super::api::{Out, Text, driver_calls, put_text};
use super::context::Context;
use super::error::{Result, fail};
use super::handle::Handle;
use super::pool::Pool;
use super::state::{State, lock, lock_always};
use crate::profile::{Profile, SHARED_PER_BLOCK, THREADS_PER_BLOCK};

/// What `cuDriverGetVersion` says: CUDA 13.0.
pub(crate) const DRIVER_VERSION: i32 = 13000;

/// One device and what belongs to it alone.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) profile: &'static Profile,
    pub(crate) primary: Primary,
    /// Bytes allocated on it.
    pub(crate) used: u64,
    pub(crate) default_pool: Handle<Pool>,
    pub(crate) pool: Handle<Pool>,
    /// Bytes of graph allocations: now, and the most so far.
    pub(crate) graph_memory: (u64, u64),
}

/// The primary context's own state; the context itself exists while somebody retains it.
#[derive(Debug, Default)]
pub(crate) struct Primary {
    /// The same for the process's life once it was made.
    pub(crate) handle: Option<Handle<Context>>,
    pub(crate) retained: u32,
    pub(crate) flags: u32,
}

impl State {
    /// Makes the devices of the settings.
    pub(crate) fn make_devices(&mut self) {
        self.devices = (self.settings.devices.clone().into_iter().enumerate())
            .map(|(ordinal, profile)| {
                let pool = self.pools.insert(Pool::default_of(ordinal as u32));
                Device {
                    profile,
                    primary: Primary::default(),
                    used: 0,
                    default_pool: pool,
                    pool,
                    graph_memory: (0, 0),
                }
            })
            .collect();
    }

    /// The device's index, checked.
    pub(crate) fn device(&self, ordinal: Ordinal) -> Result<usize> {
        match usize::try_from(ordinal) {
            Ok(index) if index < self.devices.len() => Ok(index),
            _ => fail!(INVALID_DEVICE, "device {ordinal} of {}", self.devices.len()),
        }
    }
}

impl Device {
    /// Bytes that can still be allocated.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.profile.memory_bytes.saturating_sub(self.used)
    }
}

/// The attribute's value, or `None` for an attribute the emulator has no word on.
fn attribute(attribute: u32, ordinal: usize, p: &Profile) -> Option<i32> {
    let (major, minor) = p.compute_capability;
    let value = match attribute {
        1 => THREADS_PER_BLOCK,                // MAX_THREADS_PER_BLOCK
        2 | 3 => 1024,                         // MAX_BLOCK_DIM_X, _Y
        4 => 64,                               // MAX_BLOCK_DIM_Z
        5 => i32::MAX as u32,                  // MAX_GRID_DIM_X
        6 | 7 => 65535,                        // MAX_GRID_DIM_Y, _Z
        8 => SHARED_PER_BLOCK,                 // MAX_SHARED_MEMORY_PER_BLOCK
        9 => 65536,                            // TOTAL_CONSTANT_MEMORY
        10 => 32,                              // WARP_SIZE
        11 => i32::MAX as u32,                 // MAX_PITCH
        12 => p.registers_per_sm,              // MAX_REGISTERS_PER_BLOCK
        13 => p.clock_khz,                     // CLOCK_RATE
        14 | 30 => 512,                        // TEXTURE_ALIGNMENT, SURFACE_ALIGNMENT
        15 => 1,                               // GPU_OVERLAP
        16 => p.sm_count,                      // MULTIPROCESSOR_COUNT
        17 | 18 => 0,                          // KERNEL_EXEC_TIMEOUT, INTEGRATED
        19 => 1,                               // CAN_MAP_HOST_MEMORY
        20 => 0,                               // COMPUTE_MODE
        21..=29 | 42..=49 | 52..=74 | 77 => 0, // textures and surfaces: none (75, 76 are below)
        31 => 1,                               // CONCURRENT_KERNELS
        32 => 0,                               // ECC_ENABLED
        33 => ordinal as u32 + 1,              // PCI_BUS_ID
        34 | 35 => 0,                          // PCI_DEVICE_ID, TCC_DRIVER
        36 => p.memory_clock_khz,              // MEMORY_CLOCK_RATE
        37 => p.memory_bus_bits,               // GLOBAL_MEMORY_BUS_WIDTH
        38 => p.l2_bytes,                      // L2_CACHE_SIZE
        39 => p.threads_per_sm,                // MAX_THREADS_PER_MULTIPROCESSOR
        40 => 2,                               // ASYNC_ENGINE_COUNT
        41 => 1,                               // UNIFIED_ADDRESSING
        50 => 0,                               // PCI_DOMAIN_ID
        51 => 32,                              // TEXTURE_PITCH_ALIGNMENT
        78..=80 => 1,                          // STREAM_PRIORITIES, GLOBAL_L1, LOCAL_L1
        81 => p.shared_per_sm,                 // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        82 => p.registers_per_sm,              // MAX_REGISTERS_PER_MULTIPROCESSOR
        83 => 1,                               // MANAGED_MEMORY
        84 => 0,                               // MULTI_GPU_BOARD
        85 => ordinal as u32,                  // MULTI_GPU_BOARD_GROUP_ID
        86 => 0,                               // HOST_NATIVE_ATOMIC_SUPPORTED
        87 => {
            if (major, minor) == (8, 9) {
                64
            } else {
                2
            }
        } // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        88 => 0,                               // PAGEABLE_MEMORY_ACCESS
        89..=91 => 1, // CONCURRENT_MANAGED_ACCESS, COMPUTE_PREEMPTION, HOST_POINTER_FOR_REGISTERED
        92..=94 => 0, // stream memory operations, v1
        95 => 1,      // COOPERATIVE_LAUNCH
        96 => 0,      // COOPERATIVE_MULTI_DEVICE_LAUNCH
        97 => p.shared_per_block_optin, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        98 => 0,      // CAN_FLUSH_REMOTE_WRITES
        99 => 1,      // HOST_REGISTER_SUPPORTED
        100..=105 => 0, // host page tables, virtual memory management, shareable handles
        106 => p.blocks_per_sm, // MAX_BLOCKS_PER_MULTIPROCESSOR
        107..=110 => 0, // compression, persisting L2, access policy window, RDMA
        111 => p.shared_reserved_per_block, // RESERVED_SHARED_MEMORY_PER_BLOCK
        112 => 0,     // SPARSE_CUDA_ARRAY_SUPPORTED
        113 => 1,     // READ_ONLY_HOST_REGISTER_SUPPORTED
        114 => 0,     // TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
        115 => 1,     // MEMORY_POOLS_SUPPORTED
        116..=119 => 0, // RDMA, MEMPOOL_SUPPORTED_HANDLE_TYPES
        120 => u32::from(major >= 9), // CLUSTER_LAUNCH
        121..=125 => 0, // deferred arrays, stream memory operations, DMA_BUF, IPC_EVENT
        126 => {
            if major >= 9 {
                4
            } else {
                1
            }
        } // MEM_SYNC_DOMAIN_COUNT
        127 | 128 => 0, // TENSOR_MAP_ACCESS (not emulated), HANDLE_TYPE_FABRIC
        129 => 1,     // UNIFIED_FUNCTION_POINTERS
        130 => 0,     // NUMA_CONFIG: none
        131 | 134 => return Some(-1), // NUMA_ID, HOST_NUMA_ID: none
        132 | 133 => 0, // MULTICAST, MPS
        135..=138 => 0, // CIG, decompression
        139 | 140 => 0, // PCI device and subsystem ids
        141..=147 => 0, // host virtual memory management and pools, partial atomics
        75 => major,
        76 => minor,
        _ => return None,
    };
    i32::try_from(value).ok()
}

/// A UUID that is the same in every run and different for every device.
fn uuid(ordinal: usize, p: &Profile) -> Uuid {
    let mut bytes = *b"ptx-emulator\0\0\0\0";
    bytes[12..14].copy_from_slice(&(p.sm() as u16).to_be_bytes());
    bytes[14] = p.sm_count as u8;
    bytes[15] = ordinal as u8;
    Uuid(bytes)
}

fn bus_id(ordinal: usize) -> String {
    format!("0000:{:02x}:00.0", ordinal + 1)
}

/// `CUdevprop`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Properties {
    max_threads_per_block: i32,
    max_threads_dim: [i32; 3],
    max_grid_size: [i32; 3],
    shared_mem_per_block: i32,
    total_constant_memory: i32,
    simd_width: i32,
    mem_pitch: i32,
    regs_per_block: i32,
    clock_rate: i32,
    texture_align: i32,
}

driver_calls! { EXPORTS:
    fn cuInit(flags: u32) {
        if flags != 0 {
            fail!(INVALID_VALUE, "flags {flags}: expected 0");
        }
        let mut state = lock_always();
        if let Some(message) = &state.bad_settings {
            fail!(INVALID_VALUE, "{message}");
        }
        state.initialised = true;
        Ok(())
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.put(DRIVER_VERSION)
    }

    fn cuDeviceGet(device: Out<Ordinal>, ordinal: i32) {
        lock()?.device(ordinal)?;
        device.put(ordinal)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        count.put(lock()?.devices.len() as i32)
    }

    fn cuDeviceGetName(name: Out<u8>, len: i32, device: Ordinal) {
        let state = lock()?;
        let device = state.device(device)?;
        put_text(name, len.max(0) as usize, state.devices[device].profile.name)
    }

    fn cuDeviceGetUuid_v2(out: Out<Uuid>, device: Ordinal) also cuDeviceGetUuid {
        let state = lock()?;
        let device = state.device(device)?;
        out.put(uuid(device, state.devices[device].profile))
    }

    fn cuDeviceGetLuid(_luid: Out<u8>, _mask: Out<u32>, device: Ordinal) {
        lock()?.device(device)?;
        // As on Linux: LUIDs are Windows's.
        fail!(NOT_SUPPORTED, "LUIDs are Windows's")
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: Ordinal) {
        let state = lock()?;
        let device = state.device(device)?;
        bytes.put(state.devices[device].profile.memory_bytes as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, which: u32, device: Ordinal) {
        let state = lock()?;
        let device = state.device(device)?;
        match attribute(which, device, state.devices[device].profile) {
            Some(found) => value.put(found),
            None => fail!(INVALID_VALUE, "no device attribute {which} is known"),
        }
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: Ordinal) {
        let state = lock()?;
        let device = state.device(device)?;
        let (a, b) = state.devices[device].profile.compute_capability;
        major.put(a as i32)?;
        minor.put(b as i32)
    }

    fn cuDeviceGetProperties(out: Out<Properties>, device: Ordinal) {
        let state = lock()?;
        let device = state.device(device)?;
        let p = state.devices[device].profile;
        out.put(Properties {
            max_threads_per_block: THREADS_PER_BLOCK as i32,
            max_threads_dim: [1024, 1024, 64],
            max_grid_size: [i32::MAX, 65535, 65535],
            shared_mem_per_block: SHARED_PER_BLOCK as i32,
            total_constant_memory: 65536,
            simd_width: 32,
            mem_pitch: i32::MAX,
            regs_per_block: p.registers_per_sm as i32,
            clock_rate: p.clock_khz as i32,
            texture_align: 512,
        })
    }

    fn cuDeviceGetPCIBusId(text: Out<u8>, len: i32, device: Ordinal) {
        let device = lock()?.device(device)?;
        put_text(text, len.max(0) as usize, &bus_id(device))
    }

    fn cuDeviceGetByPCIBusId(device: Out<Ordinal>, id: Text) {
        let state = lock()?;
        let id = id.get("the bus id")?;
        // The function may be left out, the domain too.
        let matches = |full: String| full == id || full[..10] == id || full[5..] == id || full[5..10] == id;
        match (0..state.devices.len()).find(|d| matches(bus_id(*d))) {
            Some(found) => device.put(found as i32),
            None => fail!(INVALID_DEVICE, "no device at `{id}`"),
        }
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: Ordinal, peer: Ordinal) {
        let state = lock()?;
        let (device, peer) = (state.device(device)?, state.device(peer)?);
        can.put(i32::from(device != peer))
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, which: u32, device: Ordinal, peer: Ordinal) {
        let state = lock()?;
        let (a, b) = (state.device(device)?, state.device(peer)?);
        if a == b {
            fail!(INVALID_DEVICE, "device {a} is no peer of itself");
        }
        match which {
            1 | 5 => value.put(0), // PERFORMANCE_RANK, ONLY_PARTIAL_NATIVE_ATOMIC
            2 | 3 => value.put(1), // ACCESS, NATIVE_ATOMIC
            4 => value.put(0),     // ARRAY_ACCESS
            _ => fail!(INVALID_VALUE, "no peer attribute {which} is known"),
        }
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, _kind: u32, device: Ordinal) {
        lock()?.device(device)?;
        supported.put(0)
    }

    fn cuDeviceGetTexture1DLinearMaxWidth(width: Out<usize>, _format: u32, _channels: u32, device: Ordinal) {
        lock()?.device(device)?;
        width.put(0)
    }

    fn cuFlushGPUDirectRDMAWrites(_target: u32, _scope: u32) {
        fail!(NOT_SUPPORTED, "RDMA is not emulated")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::PROFILES;

    #[test]
    fn every_attribute_of_cuda_13_0_has_a_value() {
        for profile in PROFILES {
            for which in 1..=147 {
                assert!(
                    attribute(which, 0, profile).is_some(),
                    "attribute {which} of {}",
                    profile.key
                );
            }
            assert_eq!(attribute(148, 0, profile), None);
            assert_eq!(attribute(0, 0, profile), None);
            assert_eq!(
                attribute(75, 0, profile),
                Some(profile.compute_capability.0 as i32)
            );
            assert_eq!(
                attribute(76, 0, profile),
                Some(profile.compute_capability.1 as i32)
            );
        }
    }
}

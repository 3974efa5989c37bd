//! Launches: their checks, in CUDA's order and with CUDA's codes, and the parameter block.

use super::abi::{LaunchArguments, LaunchAttribute};
use super::api::{In, driver_calls};
use super::context::Context;
use super::error::{Result, fail};
use super::function::Function;
use super::handle::Handle;
use super::occupancy::{Need, blocks_per_sm, registers_per_warp};
use super::state::{State, lock};
use super::stream::Stream;
use super::work::Work;
use crate::exec::{self, LaunchConfig};
use crate::profile::{Profile, THREADS_PER_BLOCK};
use crate::sass::MachineCode;
use std::ffi::c_void;
use std::sync::Arc;

/// A checked launch.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) function: Handle<Function>,
    pub(crate) kernel: Arc<exec::Kernel>,
    pub(crate) config: LaunchConfig,
    /// The parameter block.
    pub(crate) params: Vec<u8>,
    /// Registers of a thread, where ptxas said.
    pub(crate) registers: Option<u32>,
    /// The device.
    pub(crate) profile: &'static Profile,
    /// The module's machine code.
    pub(crate) machine: Arc<MachineCode>,
}

/// The shape of a launch as the caller gave it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared_bytes: u32,
    pub(crate) cooperative: bool,
    /// Blocks of a cluster, where the launch says.
    pub(crate) cluster: Option<[u32; 3]>,
}

/// Array of pointers to parameters, or the list that gives them as one buffer.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pointers(pub(crate) *const *const c_void);

/// `CU_LAUNCH_PARAM_*`.
const PARAM_END: usize = 0;
const PARAM_BUFFER: usize = 1;
const PARAM_BUFFER_SIZE: usize = 2;

impl Pointers {
    fn at(self, index: usize) -> *const c_void {
        // SAFETY: the API's caller vouches for as many pointers as the kernel has parameters, or for a
        // list that ends in CU_LAUNCH_PARAM_END.
        unsafe { self.0.add(index).read() }
    }
}

/// The parameter block that a call describes.
fn parameters(kernel: &exec::Kernel, params: Pointers, extra: Pointers) -> Result<Vec<u8>> {
    let mut block = vec![0; kernel.param_bytes as usize];
    if kernel.params.is_empty() {
        return Ok(block);
    }
    match (params.0.is_null(), extra.0.is_null()) {
        (false, false) => fail!(INVALID_VALUE, "both kernelParams and extra are given"),
        (true, true) => fail!(
            INVALID_VALUE,
            "{} takes {} parameters, none are given",
            kernel.name,
            kernel.params.len()
        ),
        (false, true) => {
            for (index, param) in kernel.params.iter().enumerate() {
                let from = params.at(index).cast::<u8>();
                if from.is_null() {
                    fail!(
                        INVALID_VALUE,
                        "the pointer to parameter {index} of {} is null",
                        kernel.name
                    );
                }
                // SAFETY: the API's caller vouches for the parameter's bytes at its pointer.
                let bytes = unsafe { std::slice::from_raw_parts(from, param.size as usize) };
                block[param.offset as usize..][..bytes.len()].copy_from_slice(bytes);
            }
        }
        (true, false) => {
            let (buffer, len) = parameter_buffer(extra)?;
            if len < block.len() {
                fail!(
                    INVALID_VALUE,
                    "the parameter buffer has {len} bytes, {} takes {}",
                    kernel.name,
                    block.len()
                );
            }
            // SAFETY: the API's caller vouches for the bytes of the buffer, which are at least these.
            let given = unsafe { std::slice::from_raw_parts(buffer, block.len()) };
            block.copy_from_slice(given);
        }
    }
    Ok(block)
}

/// Buffer and size that an `extra` list names.
fn parameter_buffer(extra: Pointers) -> Result<(*const u8, usize)> {
    let (mut buffer, mut len) = (std::ptr::null::<u8>(), 0usize);
    let mut at = 0;
    loop {
        match extra.at(at) as usize {
            PARAM_END => break,
            PARAM_BUFFER => buffer = extra.at(at + 1).cast(),
            PARAM_BUFFER_SIZE => {
                len = In::from_pointer(extra.at(at + 1).cast::<usize>()).get("the buffer's size")?
            }
            other => fail!(INVALID_VALUE, "{other:#x} in the list of extra options"),
        }
        at += 2;
    }
    if buffer.is_null() {
        fail!(
            INVALID_VALUE,
            "the list of extra options names no parameter buffer"
        );
    }
    Ok((buffer, len))
}

/// Largest grid.
const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Largest block.
const BLOCK: [u32; 3] = [1024, 1024, 64];
/// Largest cluster that every device with clusters takes.
const PORTABLE_CLUSTER: u32 = 8;
/// Largest cluster at all.
const CLUSTER: u32 = 16;

/// Checks a launch against function and device.
fn check(function: &Function, profile: &Profile, shape: &Shape) -> Result<LaunchConfig> {
    let kernel = &function.kernel;
    let name = &kernel.name;
    for (what, given, limits) in [("grid", shape.grid, GRID), ("block", shape.block, BLOCK)] {
        if given
            .iter()
            .zip(limits)
            .any(|(g, limit)| *g == 0 || *g > limit)
        {
            fail!(
                INVALID_VALUE,
                "{name}: {what} {given:?}: from [1, 1, 1] to {limits:?}"
            );
        }
    }
    let threads = shape.block.iter().product::<u32>();
    if threads > THREADS_PER_BLOCK {
        fail!(
            INVALID_VALUE,
            "{name}: block {:?} has {threads} threads: at most {THREADS_PER_BLOCK}",
            shape.block
        );
    }
    if let Some(required) = kernel.required_threads
        && required != shape.block
    {
        fail!(
            INVALID_VALUE,
            "{name}: block {:?}: the kernel requires {required:?}",
            shape.block
        );
    }
    if let Some(bound) = kernel.max_threads
        && threads > bound.iter().product()
    {
        fail!(
            INVALID_VALUE,
            "{name}: block {:?} has {threads} threads: its launch bounds are {bound:?}",
            shape.block
        );
    }
    let warps = threads.div_ceil(32);
    let registers = warps * registers_per_warp(function.registers);
    if registers > profile.registers_per_sm {
        fail!(
            LAUNCH_OUT_OF_RESOURCES,
            "{name}: {threads} threads of {} registers take {registers}: at most {}",
            function.registers,
            profile.registers_per_sm
        );
    }
    if shape.shared_bytes > function.max_dynamic_shared {
        fail!(
            INVALID_VALUE,
            "{name}: {} bytes of dynamic shared memory: at most {} (CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
            shape.shared_bytes,
            function.max_dynamic_shared
        );
    }
    let cluster = cluster(function, profile, shape)?;
    if shape.cooperative {
        let need = Need {
            threads,
            registers: function.registers,
            shared: u64::from(kernel.static_shared) + u64::from(shape.shared_bytes),
        };
        let room = u64::from(blocks_per_sm(profile, need)) * u64::from(profile.sm_count);
        let blocks: u64 = shape.grid.iter().map(|g| u64::from(*g)).product();
        if blocks > room {
            fail!(
                COOPERATIVE_LAUNCH_TOO_LARGE,
                "{name}: {blocks} blocks at once: the device holds {room}"
            );
        }
    }
    Ok(LaunchConfig {
        grid: shape.grid,
        block: shape.block,
        dynamic_shared: shape.shared_bytes,
        cooperative: shape.cooperative,
        cluster,
    })
}

/// The launch's cluster, checked.
fn cluster(function: &Function, profile: &Profile, shape: &Shape) -> Result<[u32; 3]> {
    let kernel = &function.kernel;
    let compiled = (kernel.cluster != [1, 1, 1]).then_some(kernel.cluster);
    let cluster = match (shape.cluster, compiled) {
        (Some(asked), Some(compiled)) if asked != compiled => {
            fail!(
                INVALID_CLUSTER_SIZE,
                "{}: cluster {asked:?}: the kernel was compiled for {compiled:?}",
                kernel.name
            )
        }
        (Some(asked), _) => asked,
        (None, Some(compiled)) => compiled,
        (None, None) => return Ok([1, 1, 1]),
    };
    let size = cluster
        .iter()
        .try_fold(1u32, |size, c| size.checked_mul(*c))
        .unwrap_or(u32::MAX);
    if size == 1 {
        return Ok(cluster);
    }
    if profile.compute_capability.0 < 9 {
        fail!(
            INVALID_CLUSTER_SIZE,
            "{}: cluster {cluster:?}: {} has no clusters",
            kernel.name,
            profile.name
        );
    }
    let limit = if function.non_portable_clusters {
        CLUSTER
    } else {
        PORTABLE_CLUSTER
    };
    if size == 0 || size > limit {
        fail!(
            INVALID_CLUSTER_SIZE,
            "{}: cluster {cluster:?} has {size} blocks: from 1 to {limit}",
            kernel.name
        );
    }
    if shape
        .grid
        .iter()
        .zip(cluster)
        .any(|(grid, cluster)| grid % cluster != 0)
    {
        fail!(
            INVALID_VALUE,
            "{}: grid {:?} is no multiple of the cluster {cluster:?}",
            kernel.name,
            shape.grid
        );
    }
    Ok(cluster)
}

impl State {
    /// A launch, checked, with its parameters; and the context it belongs to.
    pub(crate) fn prepare(
        &mut self,
        function: Handle<Function>,
        shape: &Shape,
        params: Pointers,
        extra: Pointers,
    ) -> Result<(Handle<Context>, Arc<Launch>)> {
        let function = self.function(function)?;
        let of = self.functions.get(function)?;
        self.usable(of.context)?;
        let profile = self.profile_of(of.context)?;
        let config = check(of, profile, shape)?;
        let params = parameters(&of.kernel, params, extra)?;
        let launch = Launch {
            function,
            kernel: of.kernel.clone(),
            config,
            params,
            registers: (!of.registers_assumed).then_some(of.registers),
            profile,
            machine: of.machine.clone(),
        };
        Ok((of.context, Arc::new(launch)))
    }
}

fn launch(
    function: Handle<Function>,
    shape: &Shape,
    stream: Handle<Stream>,
    params: Pointers,
    extra: Pointers,
) -> Result<()> {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    let (context, launch) = state.prepare(function, shape, params, extra)?;
    if context != state.streams.get(stream)?.context {
        fail!(
            INVALID_HANDLE,
            "{}: function and stream are of different contexts",
            launch.kernel.name
        );
    }
    state.put(stream, Work::Launch(launch))?;
    Ok(())
}

/// `CUlaunchAttributeID`.
mod attribute {
    pub(super) const IGNORE: u32 = 0;
    pub(super) const ACCESS_POLICY_WINDOW: u32 = 1;
    pub(super) const COOPERATIVE: u32 = 2;
    pub(super) const SYNCHRONIZATION_POLICY: u32 = 3;
    pub(super) const CLUSTER_DIMENSION: u32 = 4;
    pub(super) const CLUSTER_POLICY: u32 = 5;
    pub(super) const PROGRAMMATIC_SERIALIZATION: u32 = 6;
    pub(super) const PRIORITY: u32 = 8;
    pub(super) const SYNC_DOMAIN_MAP: u32 = 9;
    pub(super) const SYNC_DOMAIN: u32 = 10;
    pub(super) const PREFERRED_CLUSTER: u32 = 11;
    pub(super) const SHARED_CARVEOUT: u32 = 14;
    pub(super) const NVLINK_SCHEDULING: u32 = 16;
}

fn attributes(config: &LaunchArguments) -> Result<Vec<LaunchAttribute>> {
    In::from_pointer(config.attributes).all(config.attribute_count as usize, "attrs")
}

/// The cluster that a launch's attributes ask for.
pub(crate) fn cluster_of(config: &LaunchArguments) -> Result<Option<[u32; 3]>> {
    let found = attributes(config)?
        .into_iter()
        .find(|a| a.id == attribute::CLUSTER_DIMENSION);
    Ok(found.map(|a| [a.value[0], a.value[1], a.value[2]]))
}

fn shape_of(config: &LaunchArguments) -> Result<Shape> {
    let mut cooperative = false;
    for a in attributes(config)? {
        match a.id {
            attribute::COOPERATIVE => cooperative = a.value[0] != 0,
            attribute::CLUSTER_DIMENSION => {}
            // Without an effect on results: caches, waiting, priorities, preferences. A programmatic
            // dependent launch may overlap its predecessor; waiting for its end is one of the orders allowed.
            attribute::IGNORE
            | attribute::ACCESS_POLICY_WINDOW
            | attribute::SYNCHRONIZATION_POLICY
            | attribute::CLUSTER_POLICY
            | attribute::PROGRAMMATIC_SERIALIZATION
            | attribute::PRIORITY
            | attribute::SYNC_DOMAIN_MAP
            | attribute::SYNC_DOMAIN
            | attribute::PREFERRED_CLUSTER
            | attribute::SHARED_CARVEOUT
            | attribute::NVLINK_SCHEDULING => {}
            other => fail!(NOT_SUPPORTED, "launch attribute {other}"),
        }
    }
    let cluster = cluster_of(config)?;
    Ok(Shape {
        grid: config.grid,
        block: config.block,
        shared_bytes: config.shared_bytes,
        cooperative,
        cluster,
    })
}

driver_calls! { EXPORTS:
    fn cuLaunchKernel(
        function: Handle<Function>, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32,
        shared_bytes: u32, stream: Handle<Stream>, params: Pointers, extra: Pointers,
    ) per_thread cuLaunchKernel_ptsz {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes, cooperative: false, cluster: None };
        launch(function, &shape, stream, params, extra)
    }

    fn cuLaunchKernelEx(
        config: In<LaunchArguments>, function: Handle<Function>, params: Pointers, extra: Pointers,
    ) per_thread cuLaunchKernelEx_ptsz {
        let config = config.get("config")?;
        launch(function, &shape_of(&config)?, config.stream, params, extra)
    }

    fn cuLaunchCooperativeKernel(
        function: Handle<Function>, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32,
        shared_bytes: u32, stream: Handle<Stream>, params: Pointers,
    ) per_thread cuLaunchCooperativeKernel_ptsz {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], shared_bytes, cooperative: true, cluster: None };
        launch(function, &shape, stream, params, Pointers(std::ptr::null()))
    }
}

//! One kernel of a PTX text over buffers, without a driver: what the instruction tests and the
//! command-line tool stand on.

use crate::check::{Checks, Fault};
use crate::counters::Counters;
use crate::exec::{Environment, LaunchConfig, LoadError, Module, launch};
use crate::memory::{AddressSpace, MemoryError, Owner};
use crate::profile::Profile;
use crate::ptx;
use std::sync::Arc;
use thiserror::Error;

/// A kernel argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// A 32-bit value.
    U32(u32),
    /// A 64-bit value.
    U64(u64),
    /// A single-precision value.
    F32(f32),
    /// A double-precision value.
    F64(f64),
    /// A parameter of any size (a structure), as its bytes.
    Bytes(Vec<u8>),
    /// A buffer of device memory, initialised with these bytes; the kernel gets its address.
    Buffer(Vec<u8>),
    /// A buffer of that many bytes that nothing has written.
    Uninit(usize),
}

impl Arg {
    /// A buffer of 32-bit words.
    pub fn words(values: &[u32]) -> Arg {
        Arg::Buffer(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A buffer of 64-bit words.
    pub fn longs(values: &[u64]) -> Arg {
        Arg::Buffer(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
}

impl Finished {
    /// Buffer `k` as 32-bit words.
    pub fn words(&self, k: usize) -> Vec<u32> {
        self.buffers[k]
            .as_chunks()
            .0
            .iter()
            .map(|c| u32::from_le_bytes(*c))
            .collect()
    }

    /// Buffer `k` as 64-bit words.
    pub fn longs(&self, k: usize) -> Vec<u64> {
        self.buffers[k]
            .as_chunks()
            .0
            .iter()
            .map(|c| u64::from_le_bytes(*c))
            .collect()
    }
}

/// How a kernel is run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Grid.
    pub grid: [u32; 3],
    /// Block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// All blocks resident.
    pub cooperative: bool,
    /// Blocks of a cluster; `None` for what the kernel was compiled for.
    pub cluster: Option<[u32; 3]>,
    /// Device.
    pub profile: &'static Profile,
    /// Checks in force.
    pub checks: Checks,
    /// Order seed.
    pub seed: Option<u64>,
    /// Instruction budget.
    pub budget: Option<u64>,
    /// Host threads; 0 for all cores.
    pub threads: usize,
    /// Whether memory counters are kept; instruction counts always are.
    pub counters: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            grid: [1, 1, 1],
            block: [32, 1, 1],
            dynamic_shared: 0,
            cooperative: false,
            cluster: None,
            profile: &crate::profile::PROFILES[1],
            checks: Checks::ALL,
            seed: None,
            budget: Some(1 << 32),
            threads: 0,
            counters: true,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Finished {
    /// Contents of the buffer arguments afterwards, in order.
    pub buffers: Vec<Vec<u8>>,
    /// Counters.
    pub counters: Counters,
    /// What device code printed.
    pub printed: String,
    /// The kernel.
    pub kernel: std::sync::Arc<crate::exec::Kernel>,
    /// The launch.
    pub config: LaunchConfig,
}

/// Why a run came to nothing.
#[derive(Debug, Error)]
pub enum RunError {
    /// The text is no PTX.
    #[error(transparent)]
    Parse(#[from] ptx::ParseError),
    /// The module cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The module has no such kernel.
    #[error("no kernel `{0}`")]
    NoKernel(String),
    /// The arguments do not fit the kernel's parameters.
    #[error(
        "kernel `{kernel}` takes {want} parameters, {got} arguments given; or argument {at} has the wrong size"
    )]
    Arguments {
        /// Kernel.
        kernel: String,
        /// Parameters it has.
        want: usize,
        /// Arguments given.
        got: usize,
        /// First argument at fault.
        at: usize,
    },
    /// The grid is not made up of whole clusters.
    #[error("a grid of {grid:?} blocks in clusters of {cluster:?}")]
    Cluster {
        /// The grid.
        grid: [u32; 3],
        /// The cluster.
        cluster: [u32; 3],
    },
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel faulted.
    #[error("{0}")]
    Fault(Box<Fault>),
}

/// Parses `text` and runs its kernel `name` (or its only one, for an empty name).
///
/// # Errors
/// Text that is no PTX, what the emulator does not execute, arguments that do not fit, a fault.
pub fn run(text: &str, name: &str, args: &[Arg], setup: &Setup) -> Result<Finished, RunError> {
    let tree = ptx::parse(text)?;
    let space = Arc::new(AddressSpace::new());
    let module = Module::load(&tree, setup.profile.sm(), &space, 0)?;
    let kernel = match name {
        "" if module.kernels.len() == 1 => module.kernels.values().next(),
        name => module.kernels.get(name),
    };
    let kernel = kernel
        .ok_or_else(|| RunError::NoKernel(name.into()))?
        .clone();
    let cluster = setup.cluster.unwrap_or(kernel.cluster);
    let divides = |k: usize| cluster[k] != 0 && setup.grid[k].is_multiple_of(cluster[k]);
    if !(0..3).all(divides) {
        return Err(RunError::Cluster {
            grid: setup.grid,
            cluster,
        });
    }
    let wrong = |at| RunError::Arguments {
        kernel: kernel.name.clone(),
        want: kernel.params.len(),
        got: args.len(),
        at,
    };
    if kernel.params.len() != args.len() {
        return Err(wrong(0));
    }
    let mut params = vec![0u8; kernel.param_bytes as usize];
    let mut buffers = Vec::new();
    for (at, (arg, layout)) in args.iter().zip(&kernel.params).enumerate() {
        let mut device = |bytes: usize| -> Result<u64, MemoryError> {
            let allocation = space.allocate(
                bytes as u64,
                Owner::Device(0),
                Some(format!("argument {at}")),
            )?;
            buffers.push(allocation.clone());
            Ok(allocation.address)
        };
        let value: Vec<u8> = match arg {
            Arg::U32(v) => v.to_le_bytes().into(),
            Arg::U64(v) => v.to_le_bytes().into(),
            Arg::F32(v) => v.to_le_bytes().into(),
            Arg::F64(v) => v.to_le_bytes().into(),
            Arg::Bytes(bytes) => bytes.clone(),
            Arg::Buffer(bytes) => {
                let address = device(bytes.len())?;
                space.write(address, bytes)?;
                address.to_le_bytes().into()
            }
            Arg::Uninit(len) => device(*len)?.to_le_bytes().into(),
        };
        if value.len() != layout.size as usize {
            return Err(wrong(at));
        }
        params[layout.offset as usize..][..value.len()].copy_from_slice(&value);
    }
    let config = LaunchConfig {
        grid: setup.grid,
        block: setup.block,
        dynamic_shared: setup.dynamic_shared,
        cooperative: setup.cooperative,
        cluster,
    };
    let environment = Environment {
        memory: space.snapshot(),
        space: space.clone(),
        profile: setup.profile,
        checks: setup.checks,
        seed: setup.seed,
        budget: setup.budget,
        threads: setup.threads,
        counters: setup.counters,
    };
    let outcome = launch(&kernel, &config, &params, &environment);
    if let Some(fault) = outcome.fault {
        return Err(RunError::Fault(Box::new(fault)));
    }
    let mut contents = Vec::new();
    for buffer in buffers {
        let mut bytes = vec![0; buffer.size as usize];
        space.read(buffer.address, &mut bytes)?;
        contents.push(bytes);
    }
    Ok(Finished {
        buffers: contents,
        counters: outcome.counters,
        printed: outcome.printed,
        kernel,
        config,
    })
}

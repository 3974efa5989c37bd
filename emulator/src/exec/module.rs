//! A PTX module made ready for one device.

use crate::memory::{AddressSpace, Allocation, Owner};
use crate::ptx::ast;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;

/// Why a module cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// An instruction, or a form of one, that the emulator does not execute.
    #[error("PTX line {line}: unsupported instruction `{instruction}`{detail}")]
    Unsupported {
        /// Line in the PTX text.
        line: u32,
        /// The opcode with its modifiers.
        instruction: String,
        /// What about it, with a leading colon, or nothing.
        detail: String,
    },
    /// PTX that means nothing: an unknown symbol, operands of the wrong kind or number.
    #[error("PTX line {line}: {message}")]
    Invalid {
        /// Line in the PTX text.
        line: u32,
        /// What is wrong.
        message: String,
    },
    /// An `.extern` symbol that no module defines.
    #[error("unresolved symbol `{0}`")]
    Unresolved(String),
    /// PTX for a newer architecture than the device.
    #[error("PTX for sm_{target} cannot run on a device of compute capability {device}")]
    Target {
        /// The module's target.
        target: u32,
        /// The device's compute capability, as 80, 89, 90.
        device: u32,
    },
    /// No memory for the module's globals.
    #[error("module globals: {0}")]
    Memory(String),
}

/// A module-scope `.global` or `.const` variable.
#[derive(Debug, Clone)]
pub struct GlobalVariable {
    /// Where it lives.
    pub allocation: Arc<Allocation>,
    /// Size in bytes.
    pub size: u64,
}

/// One kernel parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamLayout {
    /// Offset in the parameter block, in bytes.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub struct Kernel {
    /// Name as in PTX (mangled).
    pub name: String,
    /// Parameters in order.
    pub params: Vec<ParamLayout>,
    /// Size of the parameter block in bytes.
    pub param_bytes: u32,
    /// Statically declared shared memory, in bytes.
    pub static_shared: u32,
    /// Local memory of a thread that PTX declares, in bytes.
    pub local_bytes: u32,
    /// `.maxntid` or `.reqntid` as written; `None` where absent.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: the block must be exactly this.
    pub required_threads: Option<[u32; 3]>,
    /// `.reqnctapercluster`, or `[1, 1, 1]`.
    pub cluster: [u32; 3],
    /// The flat program.
    pub program: Arc<super::program::Program>,
}

/// A module on a device: its globals placed, its kernels decoded.
#[derive(Debug)]
pub struct Module {
    /// Kernels by name.
    pub kernels: BTreeMap<String, Arc<Kernel>>,
    /// Module-scope variables in global or constant space, by name.
    pub globals: BTreeMap<String, GlobalVariable>,
}

impl Module {
    /// Places the module's globals in `space` as memory of device `ordinal` and decodes every kernel.
    ///
    /// # Errors
    /// Anything the emulator would not execute faithfully is refused here, by name and line.
    pub fn load(
        module: &ast::Module,
        sm: u32,
        space: &AddressSpace,
        ordinal: u32,
    ) -> Result<Module, LoadError> {
        if module.target > sm {
            return Err(LoadError::Target {
                target: module.target,
                device: sm,
            });
        }
        let globals = super::symbols::place_globals(module, space, ordinal)?;
        let kernels = decode_all(module, &globals)
            .into_iter()
            .map(|kernel| kernel.map(|kernel| (kernel.name.clone(), Arc::new(kernel))))
            .collect::<Result<_, _>>()?;
        Ok(Module { kernels, globals })
    }

    /// Frees the module's globals.
    pub fn unload(&self, space: &AddressSpace) {
        for global in self.globals.values() {
            // Freed twice or never placed: nothing is left to do either way.
            let _ = space.free(global.allocation.address);
        }
    }
}

/// Decodes every kernel, in the module's order, on as many threads as there are cores.
fn decode_all(
    module: &ast::Module,
    globals: &BTreeMap<String, GlobalVariable>,
) -> Vec<Result<Kernel, LoadError>> {
    let entries: Vec<_> = (module.functions.iter())
        .filter(|f| f.is_entry && f.body.is_some())
        .collect();
    let decode = |entry: &&ast::Function| super::decode::kernel(module, entry, globals);
    let threads = super::launch::cores().min(entries.len());
    if threads < 2 {
        return entries.iter().map(decode).collect();
    }
    // Dealt out in turn: neighbours are often of a size.
    let mut decoded: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                let dealt = entries.iter().enumerate().skip(first).step_by(threads);
                scope.spawn(move || dealt.map(|(k, e)| (k, decode(e))).collect::<Vec<_>>())
            })
            .collect();
        let join = |w: std::thread::ScopedJoinHandle<_>| {
            w.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().flat_map(join).collect()
    });
    decoded.sort_unstable_by_key(|(k, _)| *k);
    decoded.into_iter().map(|(_, kernel)| kernel).collect()
}

/// Device memory owned by `ordinal`.
pub(super) fn device_owner(ordinal: u32) -> Owner {
    Owner::Device(ordinal)
}

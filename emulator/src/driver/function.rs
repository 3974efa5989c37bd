//! Functions: kernels of a loaded module, their attributes.

use super::api::{Out, driver_calls};
use super::context::Context;
use super::error::{Result, fail};
use super::handle::{Handle, Kind};
use super::library::Kernel;
use super::loader::Compiled;
use super::module::Module;
use super::state::{State, lock};
use crate::exec;
use crate::profile::{Profile, SHARED_PER_BLOCK, THREADS_PER_BLOCK};
use crate::sass::MachineCode;
use std::ffi::{CString, c_char};
use std::sync::Arc;

/// A kernel of a module on a device.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) context: Handle<Context>,
    pub(crate) module: Handle<Module>,
    pub(crate) kernel: Arc<exec::Kernel>,
    pub(crate) name: CString,
    /// Registers of a thread: ptxas's figure, or what is assumed without machine code.
    pub(crate) registers: u32,
    /// Whether they are assumed.
    pub(crate) registers_assumed: bool,
    /// The module's machine code.
    pub(crate) machine: Arc<MachineCode>,
    pub(crate) local_bytes: u32,
    /// Most dynamic shared memory a launch may ask for, in bytes.
    pub(crate) max_dynamic_shared: u32,
    carveout: i32,
    pub(crate) non_portable_clusters: bool,
    cluster_policy: i32,
    ptx_arch: u32,
    binary_arch: u32,
}

impl Kind for Function {
    const TAG: u8 = 6;
    const WHAT: &'static str = "function";
}

/// Registers of a thread assumed where no machine code tells: what lets any block size run.
const ASSUMED_REGISTERS: u32 = 64;

impl Function {
    pub(crate) fn new(
        context: Handle<Context>,
        module: Handle<Module>,
        kernel: Arc<exec::Kernel>,
        compiled: &Compiled,
        profile: &Profile,
    ) -> Function {
        let resources = compiled.resources.get(&kernel.name);
        let threads = kernel
            .max_threads
            .map_or(THREADS_PER_BLOCK, |t| t.iter().product());
        Function {
            context,
            module,
            name: CString::new(kernel.name.as_str()).unwrap_or_default(),
            registers: resources.map_or_else(
                || ASSUMED_REGISTERS.min(profile.registers_per_sm / threads.max(1)),
                |r| r.registers,
            ),
            registers_assumed: resources.is_none(),
            machine: compiled.machine.clone(),
            local_bytes: resources.map_or(kernel.local_bytes, |r| r.local_bytes),
            max_dynamic_shared: SHARED_PER_BLOCK.saturating_sub(kernel.static_shared),
            carveout: -1,
            non_portable_clusters: false,
            cluster_policy: 0,
            ptx_arch: compiled.syntax.target,
            binary_arch: profile.sm(),
            kernel,
        }
    }

    /// Most threads of a block: by the launch bounds and by the registers.
    pub(crate) fn max_threads(&self, profile: &Profile) -> u32 {
        let bound = self
            .kernel
            .max_threads
            .map_or(THREADS_PER_BLOCK, |t| t.iter().product());
        let warps =
            profile.registers_per_sm / super::occupancy::registers_per_warp(self.registers).max(1);
        bound.min(THREADS_PER_BLOCK).min(warps * 32)
    }

    /// An attribute's value; an error where there is no such attribute.
    pub(crate) fn attribute(&self, attribute: u32, profile: &Profile) -> Result<i32> {
        let required = self.kernel.cluster != [1, 1, 1];
        Ok(match attribute {
            0 => self.max_threads(profile) as i32,
            1 => self.kernel.static_shared as i32,
            2 => 0,
            3 => self.local_bytes as i32,
            4 => self.registers as i32,
            5 => self.ptx_arch as i32,
            6 => self.binary_arch as i32,
            7 => 0,
            8 => self.max_dynamic_shared as i32,
            9 => self.carveout,
            10 => i32::from(required),
            11..=13 if required => self.kernel.cluster[attribute as usize - 11] as i32,
            11..=13 => 0,
            14 => i32::from(self.non_portable_clusters),
            15 => self.cluster_policy,
            _ => fail!(INVALID_VALUE, "function attribute {attribute}"),
        })
    }

    /// Sets an attribute.
    pub(crate) fn set_attribute(
        &mut self,
        attribute: u32,
        value: i32,
        profile: &Profile,
    ) -> Result<()> {
        match attribute {
            8 => {
                let limit = profile
                    .shared_per_block_optin
                    .saturating_sub(self.kernel.static_shared);
                match u32::try_from(value) {
                    Ok(bytes) if bytes <= limit => self.max_dynamic_shared = bytes,
                    _ => fail!(
                        INVALID_VALUE,
                        "{value} bytes of dynamic shared memory: at most {limit} beside the {} static ones",
                        self.kernel.static_shared
                    ),
                }
            }
            9 => match value {
                -1..=100 => self.carveout = value,
                _ => fail!(
                    INVALID_VALUE,
                    "carveout {value}: expected -1 to 100 percent"
                ),
            },
            14 => match value {
                0 | 1 => self.non_portable_clusters = value == 1,
                _ => fail!(INVALID_VALUE, "{value}: expected 0 or 1"),
            },
            15 => match value {
                0..=2 => self.cluster_policy = value,
                _ => fail!(
                    INVALID_VALUE,
                    "cluster scheduling policy {value}: expected 0 to 2"
                ),
            },
            _ => fail!(
                INVALID_VALUE,
                "function attribute {attribute} cannot be set"
            ),
        }
        Ok(())
    }

    /// Offset and size of a parameter in the kernel's parameter block.
    pub(crate) fn param(&self, index: usize) -> Result<(usize, usize)> {
        match self.kernel.params.get(index) {
            Some(p) => Ok((p.offset as usize, p.size as usize)),
            None => {
                fail!(
                    INVALID_VALUE,
                    "parameter {index} of {} ({} has them)",
                    self.kernel.params.len(),
                    self.kernel.name
                )
            }
        }
    }
}

impl State {
    /// The function meant by a handle that may also be a library's kernel.
    pub(crate) fn function(&mut self, handle: Handle<Function>) -> Result<Handle<Function>> {
        if handle.is_kind::<Kernel>() {
            let context = self.current()?;
            return self.function_of_kernel(Handle::from_raw(handle.raw()), context);
        }
        self.functions.get(handle)?;
        Ok(handle)
    }

    /// Profile of the device that the context is of.
    pub(crate) fn profile_of(&self, context: Handle<Context>) -> Result<&'static Profile> {
        Ok(self.devices[self.contexts.get(context)?.device as usize].profile)
    }
}

driver_calls! { EXPORTS:
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle<Function>) {
        let mut state = lock()?;
        let function = state.function(function)?;
        let of = state.functions.get(function)?;
        value.put(of.attribute(attribute, state.profile_of(of.context)?)?)
    }

    fn cuFuncSetAttribute(function: Handle<Function>, attribute: u32, value: i32) {
        let mut state = lock()?;
        let function = state.function(function)?;
        let profile = state.profile_of(state.functions.get(function)?.context)?;
        state.functions.get_mut(function)?.set_attribute(attribute, value, profile)
    }

    fn cuFuncSetCacheConfig(function: Handle<Function>, config: u32) {
        if config > 3 {
            fail!(INVALID_VALUE, "cache configuration {config}: expected 0 to 3");
        }
        lock()?.function(function).map(|_| ())
    }

    fn cuFuncSetSharedMemConfig(function: Handle<Function>, config: u32) {
        if config > 2 {
            fail!(INVALID_VALUE, "shared-memory configuration {config}: expected 0 to 2");
        }
        lock()?.function(function).map(|_| ())
    }

    fn cuFuncGetModule(out: Out<Handle<Module>>, function: Handle<Function>) {
        let mut state = lock()?;
        let function = state.function(function)?;
        out.put(state.functions.get(function)?.module)
    }

    fn cuFuncGetName(out: Out<*const c_char>, function: Handle<Function>) {
        let mut state = lock()?;
        let function = state.function(function)?;
        // The text lives as long as the function.
        out.put(state.functions.get(function)?.name.as_ptr())
    }

    fn cuFuncGetParamInfo(function: Handle<Function>, index: usize, offset: Out<usize>, size: Out<usize>) {
        let mut state = lock()?;
        let function = state.function(function)?;
        let (at, bytes) = state.functions.get(function)?.param(index)?;
        offset.put(at)?;
        size.put_if(bytes);
        Ok(())
    }

    fn cuFuncIsLoaded(out: Out<u32>, function: Handle<Function>) {
        lock()?.function(function)?;
        out.put(1)
    }

    fn cuFuncLoad(function: Handle<Function>) {
        lock()?.function(function).map(|_| ())
    }
}

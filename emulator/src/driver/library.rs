//! Libraries and their kernels: images loaded once, for every context that comes to use them.

use super::abi::Ordinal;
use super::api::{In, Out, Text, driver_calls};
use super::context::Context;
use super::error::{CuResult, Result, error, fail};
use super::function::Function;
use super::handle::{Handle, Kind};
use super::loader::{Compiled, JitOptions, compile, load};
use super::module::{Module, images_at, read_file};
use super::state::{State, lock};
use crate::image::{self, Image, ImageError};
use crate::profile::Profile;
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

/// A library: one image, compiled for every device that can run it.
#[derive(Debug)]
pub(crate) struct Library {
    /// By compute capability (80, 89, 90); the error where a device cannot run it.
    compiled: BTreeMap<u32, Result<Arc<Compiled>>>,
    kernels: BTreeMap<String, Handle<Kernel>>,
    /// Loaded for these contexts so far.
    pub(crate) modules: BTreeMap<Handle<Context>, Handle<Module>>,
}

impl Kind for Library {
    const TAG: u8 = 8;
    const WHAT: &'static str = "library";
}

/// A kernel of a library, of no context.
#[derive(Debug)]
pub(crate) struct Kernel {
    library: Handle<Library>,
    name: CString,
    /// Attributes set, by device and attribute.
    attributes: BTreeMap<(usize, u32), i32>,
}

impl Kind for Kernel {
    const TAG: u8 = 9;
    const WHAT: &'static str = "kernel";
}

impl State {
    /// The library's module in a context, loaded on first use.
    fn module_of(
        &mut self,
        library: Handle<Library>,
        context: Handle<Context>,
    ) -> Result<Handle<Module>> {
        self.usable(context)?;
        let of = self.libraries.get(library)?;
        if let Some(module) = of.modules.get(&context) {
            return Ok(*module);
        }
        let profile = self.profile_of(context)?;
        let compiled = match of.compiled.get(&profile.sm()) {
            Some(compiled) => compiled.clone()?,
            None => fail!(
                NO_BINARY_FOR_GPU,
                "the library was not compiled for sm_{}",
                profile.sm()
            ),
        };
        let device = self.contexts.get(context)?.device;
        let loaded = load(&compiled, profile, &self.space.clone(), device)?;
        let module = self.add_module(context, loaded, &compiled, Some(library))?;
        self.libraries
            .get_mut(library)?
            .modules
            .insert(context, module);
        let set: Vec<_> = (self.kernels.iter())
            .filter(|(_, k)| k.library == library)
            .flat_map(|(_, k)| {
                k.attributes
                    .iter()
                    .map(|(key, value)| (k.name.clone(), *key, *value))
            })
            .filter(|(_, (of, _), _)| *of == device as usize)
            .collect();
        for (name, (_, attribute), value) in set {
            let function = self.function_named(module, &name.to_string_lossy())?;
            self.functions
                .get_mut(function)?
                .set_attribute(attribute, value, profile)?;
        }
        Ok(module)
    }

    /// The kernel's function in a context.
    pub(crate) fn function_of_kernel(
        &mut self,
        kernel: Handle<Kernel>,
        context: Handle<Context>,
    ) -> Result<Handle<Function>> {
        let of = self.kernels.get(kernel)?;
        let (library, name) = (of.library, of.name.to_string_lossy().into_owned());
        let module = self.module_of(library, context)?;
        self.function_named(module, &name)
    }

    /// A context of the device in which attributes of kernels can be asked: the current one, or the primary.
    fn context_of_device(&self, device: usize) -> Result<Handle<Context>> {
        if let Ok(current) = self.current()
            && self.contexts.get(current)?.device as usize == device
        {
            return Ok(current);
        }
        match self.devices[device].primary.handle {
            Some(primary) if self.contexts.contains(primary) => self.usable(primary),
            _ => fail!(INVALID_CONTEXT, "device {device} has no active context"),
        }
    }
}

fn load_library(
    out: Out<Handle<Library>>,
    images: Result<Vec<Image<'_>>, ImageError>,
) -> Result<()> {
    let profiles: Vec<&'static Profile> = lock()?.devices.iter().map(|d| d.profile).collect();
    let mut compiled = BTreeMap::new();
    for profile in profiles {
        compiled
            .entry(profile.sm())
            .or_insert_with(|| compile(images.clone(), profile).map(Arc::new));
    }
    // A library that no device can run is an error at once.
    let usable = compiled.values().find_map(|c| c.as_ref().ok());
    let Some(usable) = usable else {
        return match compiled.into_values().next() {
            Some(Err(e)) => Err(e),
            _ => Err(CuResult::NO_DEVICE.into()),
        };
    };
    let names: Vec<_> = (usable.syntax.functions.iter())
        .filter(|f| f.is_entry && f.body.is_some())
        .map(|f| f.name.clone())
        .collect();
    let mut state = lock()?;
    let library = state.libraries.insert(Library {
        compiled,
        kernels: BTreeMap::new(),
        modules: BTreeMap::new(),
    });
    for name in names {
        let text = CString::new(name.as_str()).unwrap_or_default();
        let kernel = state.kernels.insert(Kernel {
            library,
            name: text,
            attributes: BTreeMap::new(),
        });
        state
            .libraries
            .get_mut(library)?
            .kernels
            .insert(name, kernel);
    }
    out.put(library)
}

driver_calls! { EXPORTS:
    fn cuLibraryLoadData(
        out: Out<Handle<Library>>, pointer: *const c_void,
        jit_names: In<u32>, jit_values: In<*mut c_void>, jit_count: u32,
        _names: In<u32>, _values: In<*mut c_void>, _count: u32,
    ) {
        out.check("library")?;
        let options = JitOptions::read(jit_count, jit_names, jit_values)?;
        let result = load_library(out, images_at(pointer));
        options.log(&result)?;
        result
    }

    fn cuLibraryLoadFromFile(
        out: Out<Handle<Library>>, path: Text,
        jit_names: In<u32>, jit_values: In<*mut c_void>, jit_count: u32,
        _names: In<u32>, _values: In<*mut c_void>, _count: u32,
    ) {
        out.check("library")?;
        let options = JitOptions::read(jit_count, jit_names, jit_values)?;
        let bytes = read_file(path)?;
        let result = load_library(out, image::images(&bytes));
        options.log(&result)?;
        result
    }

    fn cuLibraryUnload(library: Handle<Library>) {
        let mut state = lock()?;
        let modules: Vec<_> = state.libraries.get(library)?.modules.iter().map(|(c, m)| (*c, *m)).collect();
        for (context, module) in modules {
            state = state.drain(context);
            state.unload(module)?;
        }
        let gone = state.libraries.remove(library)?;
        for kernel in gone.kernels.values() {
            state.kernels.remove(*kernel)?;
        }
        Ok(())
    }

    fn cuLibraryGetKernel(out: Out<Handle<Kernel>>, library: Handle<Library>, name: Text) {
        let name = name.get("name")?;
        let state = lock()?;
        match state.libraries.get(library)?.kernels.get(&name) {
            Some(kernel) => out.put(*kernel),
            None => fail!(NOT_FOUND, "no kernel `{name}`"),
        }
    }

    fn cuLibraryGetKernelCount(out: Out<u32>, library: Handle<Library>) {
        out.put(lock()?.libraries.get(library)?.kernels.len() as u32)
    }

    fn cuLibraryEnumerateKernels(out: Out<Handle<Kernel>>, count: u32, library: Handle<Library>) {
        let state = lock()?;
        out.put_all(state.libraries.get(library)?.kernels.values().take(count as usize).copied())
    }

    fn cuLibraryGetModule(out: Out<Handle<Module>>, library: Handle<Library>) {
        let mut state = lock()?;
        let context = state.current()?;
        out.put(state.module_of(library, context)?)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle<Library>, name: Text) {
        let name = name.get("name")?;
        let mut state = lock()?;
        let context = state.current()?;
        let module = state.module_of(library, context)?;
        let (at, size) = state.global_named(module, &name)?;
        address.put_if(at);
        bytes.put_if(size as usize);
        Ok(())
    }

    fn cuLibraryGetManaged(_address: Out<u64>, _bytes: Out<usize>, library: Handle<Library>, name: Text) {
        let name = name.get("name")?;
        lock()?.libraries.get(library)?;
        Err(error(CuResult::NOT_FOUND, format!("no managed variable `{name}`: managed variables of modules are not emulated")))
    }

    fn cuKernelGetFunction(out: Out<Handle<Function>>, kernel: Handle<Kernel>) {
        let mut state = lock()?;
        let context = state.current()?;
        out.put(state.function_of_kernel(kernel, context)?)
    }

    fn cuKernelGetLibrary(out: Out<Handle<Library>>, kernel: Handle<Kernel>) {
        out.put(lock()?.kernels.get(kernel)?.library)
    }

    fn cuKernelGetName(out: Out<*const c_char>, kernel: Handle<Kernel>) {
        // The text lives as long as the kernel; a function's name is found too, as handles convert.
        let state = lock()?;
        if kernel.is_kind::<Function>() {
            return out.put(state.functions.get(Handle::from_raw(kernel.raw()))?.name.as_ptr());
        }
        out.put(state.kernels.get(kernel)?.name.as_ptr())
    }

    fn cuKernelGetParamInfo(kernel: Handle<Kernel>, index: usize, offset: Out<usize>, size: Out<usize>) {
        let mut state = lock()?;
        let context = state.current()?;
        let function = state.function_of_kernel(kernel, context)?;
        let (at, bytes) = state.functions.get(function)?.param(index)?;
        offset.put(at)?;
        size.put_if(bytes);
        Ok(())
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: Handle<Kernel>, device: Ordinal) {
        let mut state = lock()?;
        let device = state.device(device)?;
        let context = state.context_of_device(device)?;
        let function = state.function_of_kernel(kernel, context)?;
        value.put(state.functions.get(function)?.attribute(attribute, state.devices[device].profile)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: Handle<Kernel>, device: Ordinal) {
        let mut state = lock()?;
        let device = state.device(device)?;
        let profile = state.devices[device].profile;
        let context = state.context_of_device(device)?;
        let function = state.function_of_kernel(kernel, context)?;
        state.functions.get_mut(function)?.set_attribute(attribute, value, profile)?;
        let of = state.kernels.get_mut(kernel)?;
        of.attributes.insert((device, attribute), value);
        let (library, name) = (of.library, of.name.to_string_lossy().into_owned());
        // Other contexts of the device that have it loaded.
        let others: Vec<_> = state.libraries.get(library)?.modules.iter().map(|(c, m)| (*c, *m)).collect();
        for (context, module) in others {
            if state.contexts.get(context)?.device as usize == device {
                let function = state.function_named(module, &name)?;
                state.functions.get_mut(function)?.set_attribute(attribute, value, profile)?;
            }
        }
        Ok(())
    }

    fn cuKernelSetCacheConfig(kernel: Handle<Kernel>, config: u32, device: Ordinal) {
        if config > 3 {
            fail!(INVALID_VALUE, "cache configuration {config}: expected 0 to 3");
        }
        let state = lock()?;
        state.device(device)?;
        state.kernels.get(kernel).map(|_| ())
    }
}

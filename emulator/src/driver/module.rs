//! Modules: images loaded into a context.

use super::api::{In, Out, Text, driver_calls};
use super::context::{Context, null};
use super::error::{CuResult, Result, error, fail};
use super::function::Function;
use super::handle::{Handle, Kind};
use super::library::Library;
use super::loader::{Compiled, JitOptions, compile, load};
use super::state::{Guard, State, lock};
use crate::exec;
use crate::image::{self, Image, ImageError};
use std::collections::BTreeMap;
use std::ffi::c_void;

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) context: Handle<Context>,
    module: exec::Module,
    functions: BTreeMap<String, Handle<Function>>,
    /// The library it belongs to, where it was loaded for one.
    library: Option<Handle<Library>>,
}

impl Kind for Module {
    const TAG: u8 = 7;
    const WHAT: &'static str = "module";
}

impl State {
    /// Takes in a loaded module with all its functions.
    pub(crate) fn add_module(
        &mut self,
        context: Handle<Context>,
        module: exec::Module,
        compiled: &Compiled,
        library: Option<Handle<Library>>,
    ) -> Result<Handle<Module>> {
        let profile = self.profile_of(context)?;
        let kernels: Vec<_> = module
            .kernels
            .iter()
            .map(|(name, kernel)| (name.clone(), kernel.clone()))
            .collect();
        let handle = self.modules.insert(Module {
            context,
            module,
            functions: BTreeMap::new(),
            library,
        });
        for (name, kernel) in kernels {
            let function = Function::new(context, handle, kernel, compiled, profile);
            let function = self.functions.insert(function);
            self.modules
                .get_mut(handle)?
                .functions
                .insert(name, function);
        }
        Ok(handle)
    }

    /// The function of that name.
    pub(crate) fn function_named(
        &self,
        module: Handle<Module>,
        name: &str,
    ) -> Result<Handle<Function>> {
        let of = self.modules.get(module)?;
        match of.functions.get(name) {
            Some(function) => Ok(*function),
            None => fail!(
                NOT_FOUND,
                "no kernel `{name}` (there are: {})",
                listed(of.functions.keys())
            ),
        }
    }

    /// Address and size of the variable of that name.
    pub(crate) fn global_named(&self, module: Handle<Module>, name: &str) -> Result<(u64, u64)> {
        let of = self.modules.get(module)?;
        match of.module.globals.get(name) {
            Some(global) => Ok((global.allocation.address, global.size)),
            None => fail!(
                NOT_FOUND,
                "no variable `{name}` (there are: {})",
                listed(of.module.globals.keys())
            ),
        }
    }

    /// Removes a module with all its functions and frees its variables.
    pub(crate) fn unload(&mut self, module: Handle<Module>) -> Result<()> {
        let gone = self.modules.remove(module)?;
        for function in gone.functions.values() {
            self.functions.remove(*function)?;
        }
        gone.module.unload(&self.space);
        Ok(())
    }

    /// Unloads every module of a context that goes.
    pub(crate) fn unload_all(&mut self, context: Handle<Context>) {
        let of: Vec<_> = self
            .modules
            .iter()
            .filter(|(_, m)| m.context == context)
            .map(|(h, _)| h)
            .collect();
        for module in of {
            // It was just found in the table.
            let _ = self.unload(module);
        }
        for (_, library) in self.libraries.iter_mut() {
            library.modules.remove(&context);
        }
    }
}

/// Names for a message, the first few.
fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    match names.len() {
        0 => "none".into(),
        1..=8 => names.join(", "),
        n => format!("{}, and {} more", names[..8].join(", "), n - 8),
    }
}

/// Loads images into the current context.
fn load_images(out: Out<Handle<Module>>, images: Result<Vec<Image<'_>>, ImageError>) -> Result<()> {
    let mut state = lock()?;
    let context = state.current()?;
    let profile = state.profile_of(context)?;
    let device = state.contexts.get(context)?.device;
    let space = state.space.clone();
    // Compiling takes long: others may go on meanwhile.
    drop(state);
    let compiled = compile(images, profile)?;
    let module = load(&compiled, profile, &space, device)?;
    state = lock()?;
    if state.usable(context).is_err() {
        module.unload(&space);
        fail!(
            CONTEXT_IS_DESTROYED,
            "the context went while the module was compiled"
        );
    }
    out.put(state.add_module(context, module, &compiled, None)?)
}

/// The images at a pointer that C gave.
pub(crate) fn images_at<'a>(pointer: *const c_void) -> Result<Vec<Image<'a>>, ImageError> {
    // SAFETY: the API's caller vouches for an image at the pointer, for the time of the call.
    unsafe { image::images_from_ptr(pointer) }
}

/// The bytes of a file.
pub(crate) fn read_file(path: Text) -> Result<Vec<u8>> {
    let path = path.get("fname")?;
    std::fs::read(&path).map_err(|e| error(CuResult::FILE_NOT_FOUND, format!("{path}: {e}")))
}

fn unload(mut state: Guard, module: Handle<Module>) -> Result<()> {
    let of = state.modules.get(module)?;
    if of.library.is_some() {
        fail!(NOT_PERMITTED, "the module belongs to a library");
    }
    let context = of.context;
    // What still runs may use its variables.
    state = state.drain(context);
    state.unload(module)
}

driver_calls! { EXPORTS:
    fn cuModuleLoad(out: Out<Handle<Module>>, path: Text) {
        out.check("module")?;
        let bytes = read_file(path)?;
        load_images(out, image::images(&bytes))
    }

    fn cuModuleLoadData(out: Out<Handle<Module>>, pointer: *const c_void) {
        out.check("module")?;
        load_images(out, images_at(pointer))
    }

    fn cuModuleLoadDataEx(
        out: Out<Handle<Module>>, pointer: *const c_void, count: u32, names: In<u32>, values: In<*mut c_void>,
    ) {
        out.check("module")?;
        let options = JitOptions::read(count, names, values)?;
        let result = load_images(out, images_at(pointer));
        options.log(&result)?;
        result
    }

    fn cuModuleLoadFatBinary(out: Out<Handle<Module>>, pointer: *const c_void) {
        out.check("module")?;
        load_images(out, images_at(pointer))
    }

    fn cuModuleUnload(module: Handle<Module>) {
        unload(lock()?, module)
    }

    fn cuModuleGetFunction(out: Out<Handle<Function>>, module: Handle<Module>, name: Text) {
        let name = name.get("name")?;
        let state = lock()?;
        out.put(state.function_named(module, &name)?)
    }

    fn cuModuleGetFunctionCount(out: Out<u32>, module: Handle<Module>) {
        out.put(lock()?.modules.get(module)?.functions.len() as u32)
    }

    fn cuModuleEnumerateFunctions(out: Out<Handle<Function>>, count: u32, module: Handle<Module>) {
        let state = lock()?;
        out.put_all(state.modules.get(module)?.functions.values().take(count as usize).copied())
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle<Module>, name: Text) {
        let name = name.get("name")?;
        if address.is_null() && bytes.is_null() {
            return Err(null("dptr and bytes"));
        }
        let (at, size) = lock()?.global_named(module, &name)?;
        address.put_if(at);
        bytes.put_if(size as usize);
        Ok(())
    }

    fn cuModuleGetLoadingMode(out: Out<u32>) {
        // Eager: every kernel is decoded when its module is loaded.
        out.put(1)
    }
}

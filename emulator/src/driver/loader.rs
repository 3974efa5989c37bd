//! From an image to something a device can load: choosing the PTX, parsing it,
//! and saying why not in the words and codes of the driver's JIT compiler.

use super::api::{In, Out};
use super::error::{CuResult, Error, Result, error, fail};
use crate::exec::{self, LoadError};
use crate::image::{self, Image, ImageError, Kind};
use crate::memory::AddressSpace;
use crate::profile::Profile;
use crate::ptx::{self, ParseError, ParseErrorKind, ast};
use crate::sass::MachineCode;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;

/// What ptxas made of a kernel, where the image holds machine code for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Registers of a thread.
    pub(crate) registers: u32,
    /// Local memory of a thread, in bytes.
    pub(crate) local_bytes: u32,
}

/// An image's PTX, parsed, with what its machine code tells.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) syntax: ast::Module,
    pub(crate) resources: BTreeMap<String, Resources>,
    /// All of the image's machine code, for counting by it.
    pub(crate) machine: Arc<MachineCode>,
}

/// Chooses and parses what the device runs.
pub(crate) fn compile(
    images: Result<Vec<Image<'_>>, ImageError>,
    profile: &Profile,
) -> Result<Compiled> {
    let images = images.map_err(bad_image)?;
    let device = profile.compute_capability;
    let Some(chosen) = image::select(&images, device) else {
        let there: Vec<_> = images.iter().map(describe).collect();
        fail!(
            NO_BINARY_FOR_GPU,
            "no PTX for compute capability {}.{} (the emulator executes PTX, not machine code); the image holds: {}",
            device.0,
            device.1,
            if there.is_empty() {
                "nothing".into()
            } else {
                there.join(", ")
            }
        );
    };
    let text = chosen.text().map_err(bad_image)?;
    let syntax = ptx::parse(&text).map_err(bad_ptx)?;
    let mut resources = BTreeMap::new();
    if let Some(code) = image::select_machine_code(&images, device) {
        let bytes = code.contents().map_err(bad_image)?;
        for kernel in image::cubin::kernels(&bytes).map_err(bad_image)? {
            let found = Resources {
                registers: kernel.registers,
                local_bytes: kernel.stack_bytes,
            };
            resources.insert(kernel.name, found);
        }
    }
    Ok(Compiled {
        syntax,
        resources,
        machine: Arc::new(MachineCode::of(&images)),
    })
}

fn describe(image: &Image<'_>) -> String {
    match image.kind {
        Kind::Ptx => format!("PTX for compute_{}", image.arch),
        Kind::Elf => format!("machine code for sm_{}", image.arch),
        Kind::Other(number) => format!("an image of kind {number}"),
    }
}

/// Loads what was compiled onto a device.
pub(crate) fn load(
    compiled: &Compiled,
    profile: &Profile,
    space: &AddressSpace,
    device: u32,
) -> Result<exec::Module> {
    exec::Module::load(&compiled.syntax, profile.sm(), space, device).map_err(|e| {
        let code = match &e {
            LoadError::Unsupported { .. }
            | LoadError::Invalid { .. }
            | LoadError::Unresolved(_) => CuResult::INVALID_PTX,
            LoadError::Target { .. } => CuResult::NO_BINARY_FOR_GPU,
            LoadError::Memory(_) => CuResult::OUT_OF_MEMORY,
        };
        error(code, e.to_string())
    })
}

fn bad_image(e: ImageError) -> Error {
    match e {
        ImageError::Ptx(e) => bad_ptx(e),
        ImageError::Null => error(CuResult::INVALID_VALUE, e.to_string()),
        other => error(CuResult::INVALID_IMAGE, other.to_string()),
    }
}

fn bad_ptx(e: ParseError) -> Error {
    let code = match e.kind {
        ParseErrorKind::VersionTooNew { .. } => CuResult::UNSUPPORTED_PTX_VERSION,
        _ => CuResult::INVALID_PTX,
    };
    error(code, e.to_string())
}

/// The JIT compiler's options that a call was given.
pub(crate) struct JitOptions {
    names: Vec<u32>,
    values: Vec<*mut c_void>,
    /// Where the values came from: sizes of logs go back there.
    slots: Out<*mut c_void>,
}

/// `CUjit_option`.
const INFO_LOG: u32 = 3;
const INFO_LOG_BYTES: u32 = 4;
const ERROR_LOG: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;

impl JitOptions {
    pub(crate) fn read(count: u32, names: In<u32>, values: In<*mut c_void>) -> Result<JitOptions> {
        let slots = values.as_out();
        let names = names.all(count as usize, "options")?;
        let values = values.all(count as usize, "optionValues")?;
        if let Some(unknown) = names.iter().find(|n| **n > 34) {
            fail!(INVALID_VALUE, "JIT option {unknown}");
        }
        Ok(JitOptions {
            names,
            values,
            slots,
        })
    }

    fn value(&self, name: u32) -> Option<(usize, *mut c_void)> {
        let at = self.names.iter().position(|n| *n == name)?;
        Some((at, self.values[at]))
    }

    /// Writes the logs into the buffers that the caller gave for them.
    pub(crate) fn log(&self, result: &Result<()>) -> Result<()> {
        let text = match result {
            Err(Error { code, message }) => match message {
                Some(message) => format!("ptx-emulator: {message}"),
                None => format!("ptx-emulator: {code}"),
            },
            Ok(()) => String::new(),
        };
        self.fill(ERROR_LOG, ERROR_LOG_BYTES, &text)?;
        self.fill(INFO_LOG, INFO_LOG_BYTES, "")
    }

    fn fill(&self, buffer: u32, bytes: u32, text: &str) -> Result<()> {
        let (Some((_, buffer)), Some((slot, len))) = (self.value(buffer), self.value(bytes)) else {
            return Ok(());
        };
        let len = len as usize;
        if buffer.is_null() || len == 0 {
            return Ok(());
        }
        super::api::put_text(Out::from_pointer(buffer.cast()), len, text)?;
        // The size comes back as the bytes written.
        let written = (text.len() + 1).min(len);
        let mut values = self.values.clone();
        values[slot] = written as *mut c_void;
        self.slots.put_all(values)
    }
}

//! The device the kernels run on.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result};
use kv_kernels::cudarc::driver::CudaContext;
use ptx_emulator::Emulator;

/// A device, opened.
pub struct Opened {
    /// Its context.
    pub context: Arc<CudaContext>,
    name: String,
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Opens the first device: a GPU where there is a driver for one, the emulator's where there is none. `KV_DEVICE` set
/// to `cuda` or `emulator` decides otherwise.
pub fn open() -> Result<Opened> {
    ptx_emulator::install()?;
    let context = kv_kernels::open(0)?;
    let name = context.name().context("asking for the device's name")?;
    Ok(Opened { context, name })
}

/// Sets the checks that the emulator makes, where it is in force and `PTX_EMULATOR_CHECKS` does not say which.
///
/// # Errors
/// Where there is no such check.
pub fn set_default_checks(checks: &str) -> Result<()> {
    match Emulator::loaded() {
        Some(emulator) if std::env::var_os("PTX_EMULATOR_CHECKS").is_none() => {
            Ok(emulator.set_checks(checks)?)
        }
        _ => Ok(()),
    }
}

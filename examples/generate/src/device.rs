//! The device the kernels run on.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result};
use kv_kernels::cudarc::driver::CudaContext;

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

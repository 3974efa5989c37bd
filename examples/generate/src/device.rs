//! The device the kernels run on.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;
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

/// Opens the first device.
pub fn open() -> Result<Opened> {
    let context = kv_kernels::open(0)?;
    let name = context.name()?;
    Ok(Opened { context, name })
}

//! Finding a device without falling over where there is none.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, result, sys};

use crate::error::{During, Error, Result};

/// Opens the `ordinal`-th CUDA device: its primary context, as [`CudaContext::new`] does, but with an error instead
/// of a panic where there is no driver.
///
/// # Errors
/// [`Error::NoDriver`] where no driver library is found or it does not start, [`Error::NoDevice`] where it has no
/// such device, [`Error::Driver`] for whatever else it answers.
pub fn open(ordinal: usize) -> Result<Arc<CudaContext>> {
    // SAFETY: loads and unloads the driver library by its usual names, which runs its initialisers as any first use
    // of CUDA in this process would.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver {
            reason: "libcuda.so.1 was not found".to_owned(),
        });
    }
    match result::init() {
        Ok(()) => {}
        Err(error) if error.0 == CUresult::CUDA_ERROR_NO_DEVICE => {
            return Err(Error::NoDevice { ordinal, count: 0 });
        }
        Err(error) => {
            return Err(Error::NoDriver {
                reason: format!("the driver did not start: {:?}", error.0),
            });
        }
    }
    let count = result::device::get_count()
        .during("counting devices")?
        .max(0) as usize;
    if ordinal >= count {
        return Err(Error::NoDevice { ordinal, count });
    }
    CudaContext::new(ordinal).during("opening the device")
}

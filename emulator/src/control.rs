//! Control of the emulator that a program has loaded: seed, checks, fault
//! injection, reports, counters.
//!
//! A program that links this crate has its own copy of the crate's statics,
//! apart from those of the library that it (or cudarc for it) loaded. So
//! nothing here touches the emulator directly: everything goes through functions
//! that the loaded library exports.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;

/// Version of the functions that the library exports for this.
pub(crate) const INTERFACE: u32 = 1;

/// The emulator in force in this process. Made by [`crate::install()`] or [`Emulator::loaded`].
#[derive(Debug, Clone, Copy)]
pub struct Emulator {
    /// Handle of the loaded library, for `dlsym`; it is never unloaded.
    library: *mut c_void,
}

// SAFETY: the handle is only passed to `dlsym`, which any thread may call.
unsafe impl Send for Emulator {}
// SAFETY: as above.
unsafe impl Sync for Emulator {}

/// A control call that the library refused, or that it does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlError {
    /// The library refused the arguments; it says why on stderr.
    Refused {
        /// The control function.
        function: &'static str,
        /// The result code.
        code: u32,
    },
    /// The loaded library does not export the function: it is of another version.
    Missing(&'static str),
    /// A text with a NUL inside.
    NulInText(String),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Refused { function, code } => write!(f, "{function} returned {code}"),
            ControlError::Missing(function) => {
                write!(f, "the loaded emulator does not export {function}")
            }
            ControlError::NulInText(text) => write!(f, "{text:?} has a NUL inside"),
        }
    }
}

impl std::error::Error for ControlError {}

/// Which text `ptx_emulator_take` gives.
const REPORTS_TEXT: u32 = 0;
const REPORTS_JSON: u32 = 1;
const COUNTERS_JSON: u32 = 2;
const CALLS_JSON: u32 = 3;

impl Emulator {
    /// The emulator behind a library handle, if the library is one.
    pub(crate) fn behind(library: *mut c_void) -> Option<Emulator> {
        let emulator = Emulator { library };
        let mut version = 0u32;
        // SAFETY: the function, where the library has it, takes a pointer to the version.
        let code = unsafe {
            let function: unsafe extern "C" fn(*mut u32) -> u32 =
                emulator.function(c"ptx_emulator_version").ok()?;
            function(&mut version)
        };
        (code == 0 && version == INTERFACE).then_some(emulator)
    }

    /// The emulator that this process has loaded as its CUDA driver already, if it has.
    pub fn loaded() -> Option<Emulator> {
        // SAFETY: asking for a library that is loaded already runs no code of it.
        let library =
            unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        if library.is_null() {
            None
        } else {
            Emulator::behind(library)
        }
    }

    /// The library's function of that name.
    ///
    /// # Safety
    /// `F` is the function's type as the library defines it.
    unsafe fn function<F: Copy>(&self, name: &'static CStr) -> Result<F, ControlError> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the library stays loaded.
        let address = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        if address.is_null() {
            return Err(ControlError::Missing(name.to_str().unwrap_or("a function")));
        }
        // SAFETY: the caller's word on the type; a function pointer is as large as an address.
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }

    fn accepted(function: &'static CStr, code: u32) -> Result<(), ControlError> {
        match code {
            0 => Ok(()),
            code => Err(ControlError::Refused {
                function: function.to_str().unwrap_or_default(),
                code,
            }),
        }
    }

    fn send_text(&self, name: &'static CStr, text: &str) -> Result<(), ControlError> {
        let text = CString::new(text).map_err(|_| ControlError::NulInText(text.into()))?;
        // SAFETY: the library defines both functions that take a text so.
        let code = unsafe {
            self.function::<unsafe extern "C" fn(*const c_char) -> u32>(name)?(text.as_ptr())
        };
        Self::accepted(name, code)
    }

    /// Draws every order that is not laid down (of streams, blocks, warps) from `seed`; `None` for plain order.
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn set_seed(&self, seed: Option<u64>) -> Result<(), ControlError> {
        let name = c"ptx_emulator_set_seed";
        // SAFETY: the library defines it so.
        let code = unsafe {
            let call: unsafe extern "C" fn(c_int, u64) -> u32 = self.function(name)?;
            call(seed.is_some().into(), seed.unwrap_or_default())
        };
        Self::accepted(name, code)
    }

    /// Sets the checks in force: `all`, `none`, or names separated by commas, `-name` to take one away.
    ///
    /// # Errors
    /// [`ControlError::Refused`] for a name that is not a check.
    pub fn set_checks(&self, checks: &str) -> Result<(), ControlError> {
        self.send_text(c"ptx_emulator_set_checks", checks)
    }

    /// Limits the warp instructions of a launch; past it the launch ends in `CUDA_ERROR_LAUNCH_TIMEOUT`.
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn set_budget(&self, instructions: Option<u64>) -> Result<(), ControlError> {
        let name = c"ptx_emulator_set_budget";
        // SAFETY: the library defines it so.
        let code = unsafe {
            let call: unsafe extern "C" fn(u64) -> u32 = self.function(name)?;
            call(instructions.unwrap_or(0))
        };
        Self::accepted(name, code)
    }

    /// Runs blocks on that many host threads; 0 for all cores.
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn set_threads(&self, threads: u32) -> Result<(), ControlError> {
        let name = c"ptx_emulator_set_threads";
        // SAFETY: the library defines it so.
        let code = unsafe { self.function::<unsafe extern "C" fn(u32) -> u32>(name)?(threads) };
        Self::accepted(name, code)
    }

    /// Keeps counters of the launches to come, for [`Emulator::take_counters`].
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn keep_counters(&self, keep: bool) -> Result<(), ControlError> {
        let name = c"ptx_emulator_keep_counters";
        // SAFETY: the library defines it so.
        let code =
            unsafe { self.function::<unsafe extern "C" fn(c_int) -> u32>(name)?(keep.into()) };
        Self::accepted(name, code)
    }

    /// Makes driver calls fail: `cuMemAlloc:3` for the third `cuMemAlloc` from now, with
    /// `CUDA_ERROR_OUT_OF_MEMORY` for allocations and `CUDA_ERROR_UNKNOWN` for others, or with the code that
    /// follows (`cuLaunchKernel:1:CUDA_ERROR_LAUNCH_FAILED`); `*:5` for the fifth call of any kind; several
    /// separated by commas; an empty text for none.
    ///
    /// # Errors
    /// [`ControlError::Refused`] for a text of another form, or names that do not exist.
    pub fn set_failures(&self, failures: &str) -> Result<(), ControlError> {
        self.send_text(c"ptx_emulator_set_failures", failures)
    }

    fn take(&self, what: u32) -> Result<String, ControlError> {
        let name = c"ptx_emulator_take";
        let mut text: *mut c_char = std::ptr::null_mut();
        // SAFETY: the library defines both so; the text is its own until given back.
        unsafe {
            let take: unsafe extern "C" fn(u32, *mut *mut c_char) -> u32 = self.function(name)?;
            let free: unsafe extern "C" fn(*mut c_char) -> u32 =
                self.function(c"ptx_emulator_free")?;
            Self::accepted(name, take(what, &mut text))?;
            let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
            free(text);
            Ok(owned)
        }
    }

    /// Takes the reports (faults, leaks) since they were last taken, as people read them; empty where all is well.
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn take_reports(&self) -> Result<String, ControlError> {
        self.take(REPORTS_TEXT)
    }

    /// Takes the reports as a JSON array of objects with `kind`, `text` and, for faults of kernels, `message`,
    /// `kernel`, `block`, `thread`, `lanes`, `ptx_line`, `instruction`, `file`, `line`.
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn take_reports_json(&self) -> Result<String, ControlError> {
        self.take(REPORTS_JSON)
    }

    /// Takes the counters of launches since they were last taken: a JSON array, one object a launch.
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn take_counters(&self) -> Result<String, ControlError> {
        self.take(COUNTERS_JSON)
    }

    /// Takes the numbers of driver calls since they were last taken: a JSON object, exported name to count.
    ///
    /// # Errors
    /// [`ControlError`] where the library is of another version.
    pub fn take_calls(&self) -> Result<String, ControlError> {
        self.take(CALLS_JSON)
    }
}

//! Putting the emulator in force where there is no real driver.

use crate::control::Emulator;
use std::env;
use std::ffi::{CStr, CString, OsString, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What the process's CUDA calls run on.
#[derive(Debug, Clone, Copy)]
pub enum Device {
    /// NVIDIA's driver, which has that many devices.
    Cuda {
        /// Devices the driver lists.
        devices: u32,
    },
    /// The emulator.
    Emulator(Emulator),
}

impl Device {
    /// The emulator, where that is what calls run on.
    pub fn emulator(&self) -> Option<Emulator> {
        match self {
            Device::Cuda { .. } => None,
            Device::Emulator(emulator) => Some(*emulator),
        }
    }
}

/// Why neither a driver nor the emulator is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstallError {
    /// `KV_DEVICE` is neither `cuda` nor `emulator`.
    BadChoice {
        /// Its value.
        value: String,
    },
    /// `KV_DEVICE=cuda`, and no driver with a device is there.
    NoDriver {
        /// What was wrong with it.
        reason: String,
    },
    /// The emulator's library is not where it is looked for.
    NoLibrary {
        /// The paths tried.
        tried: Vec<PathBuf>,
    },
    /// The library is there and cannot be loaded.
    NotLoadable {
        /// Its path.
        path: PathBuf,
        /// The dynamic loader's words.
        reason: String,
    },
    /// Another library would be loaded as `libcuda.so`, and starting the process anew did not help.
    Shadowed {
        /// What should have been found.
        wanted: &'static str,
    },
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::BadChoice { value } => {
                write!(f, "KV_DEVICE is `{value}`: expected `cuda` or `emulator`")
            }
            InstallError::NoDriver { reason } => write!(f, "KV_DEVICE=cuda, but {reason}"),
            InstallError::NoLibrary { tried } => {
                write!(f, "{LIBRARY} is not at any of:")?;
                for path in tried {
                    write!(f, "\n  {}", path.display())?;
                }
                write!(f, "\nname it with PTX_EMULATOR_LIBRARY")
            }
            InstallError::NotLoadable { path, reason } => write!(f, "{}: {reason}", path.display()),
            InstallError::Shadowed { wanted } => {
                write!(
                    f,
                    "libcuda.so leads to another library than {wanted}: see LD_LIBRARY_PATH"
                )
            }
        }
    }
}

impl std::error::Error for InstallError {}

/// The library's file.
const LIBRARY: &str = "libptx_emulator.so";
/// Set where the process was started anew to get the right library, so that it happens once.
const RESTARTED: &str = "PTX_EMULATOR_RESTARTED";

/// Makes sure that CUDA calls of this process have something to run on, and says on stderr what.
///
/// A real driver with at least one device wins; where there is none the emulator's library is loaded
/// under the driver's name, so that whatever loads `libcuda` later (cudarc, say) gets it. `KV_DEVICE`
/// set to `cuda` or `emulator` forces one of the two. The library is looked for beside the executable
/// (its folder, the folder above, and `deps` in either), or where `PTX_EMULATOR_LIBRARY` says.
///
/// Call it before anything else touches CUDA. Later calls, from any thread, give the first one's result.
///
/// Where `libcuda.so` on the loader's path is not what was decided for (`cargo test` puts the build folder
/// there, which holds a link of that name to the emulator), the process starts itself anew with a
/// corrected `LD_LIBRARY_PATH`.
///
/// # Errors
/// [`InstallError`] where neither can be had.
pub fn install() -> Result<Device, InstallError> {
    static INSTALLED: OnceLock<Result<Device, InstallError>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let device = decide()?;
            match device {
                Device::Cuda { devices } => eprintln!("running on CUDA ({devices} device(s))"),
                Device::Emulator(_) => eprintln!(
                    "running on the PTX emulator ({}; no GPU is used)",
                    env::var("PTX_EMULATOR_DEVICES").unwrap_or_else(|_| "h100".into())
                ),
            }
            Ok(device)
        })
        .clone()
}

fn decide() -> Result<Device, InstallError> {
    let choice = env::var_os("KV_DEVICE").unwrap_or_default();
    match choice.as_bytes() {
        b"cuda" => match real_driver() {
            Ok(devices) => real(devices),
            Err(reason) => Err(InstallError::NoDriver { reason }),
        },
        b"emulator" => emulator(),
        b"" => match real_driver() {
            Ok(devices) => real(devices),
            Err(_) => emulator(),
        },
        other => Err(InstallError::BadChoice {
            value: String::from_utf8_lossy(other).into_owned(),
        }),
    }
}

/// A library the dynamic loader opened.
struct Library(*mut c_void);

impl Library {
    fn open(name: &CStr, flags: i32) -> Result<Library, String> {
        // SAFETY: loading runs the library's initialisers; it is a CUDA driver or this crate's own library.
        let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
        if !handle.is_null() {
            return Ok(Library(handle));
        }
        // SAFETY: the text, where there is one, is valid until the thread's next call to the loader.
        let reason = unsafe { libc::dlerror() };
        if reason.is_null() {
            return Err("cannot be loaded".into());
        }
        // SAFETY: as above.
        Err(unsafe { CStr::from_ptr(reason) }
            .to_string_lossy()
            .into_owned())
    }

    /// The function of that name.
    ///
    /// # Safety
    /// `F` is its type.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the library is open.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if address.is_null() {
            return None;
        }
        // SAFETY: the caller's word on the type.
        Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }

    fn close(self) {
        // SAFETY: opened once, closed once.
        unsafe { libc::dlclose(self.0) };
    }
}

/// Devices of NVIDIA's driver, or why there is none to use.
fn real_driver() -> Result<u32, String> {
    let library = Library::open(c"libcuda.so.1", libc::RTLD_LAZY | libc::RTLD_LOCAL)?;
    if Emulator::behind(library.0).is_some() {
        library.close();
        return Err("libcuda.so.1 leads to the emulator".into());
    }
    // SAFETY: the types are those of cuda.h.
    let count = unsafe {
        let init = library.function::<unsafe extern "C" fn(u32) -> u32>(c"cuInit");
        let count = library.function::<unsafe extern "C" fn(*mut i32) -> u32>(c"cuDeviceGetCount");
        match (init, count) {
            (Some(init), Some(count)) => {
                let mut devices = 0;
                match init(0) {
                    0 => match count(&mut devices) {
                        0 => Ok(devices),
                        code => Err(format!("cuDeviceGetCount returned {code}")),
                    },
                    code => Err(format!("cuInit returned {code}")),
                }
            }
            _ => Err("libcuda.so.1 is no CUDA driver".into()),
        }
    };
    match count {
        Ok(devices) if devices > 0 => Ok(devices as u32),
        Ok(_) => {
            library.close();
            Err("the driver lists no device".into())
        }
        Err(reason) => {
            library.close();
            Err(reason)
        }
    }
}

/// What `libcuda.so`, the name that is tried first, leads to.
enum Leads {
    Nowhere,
    /// The emulator's library under that handle, kept open.
    ToEmulator(Library),
    Elsewhere,
}

fn libcuda_so() -> Leads {
    match Library::open(c"libcuda.so", libc::RTLD_LAZY | libc::RTLD_LOCAL) {
        Err(_) => Leads::Nowhere,
        Ok(library) if Emulator::behind(library.0).is_some() => Leads::ToEmulator(library),
        Ok(library) => {
            library.close();
            Leads::Elsewhere
        }
    }
}

fn real(devices: u32) -> Result<Device, InstallError> {
    if let Leads::ToEmulator(library) = libcuda_so() {
        library.close();
        restart("NVIDIA's driver", |folders| {
            let ours = |folder: &PathBuf| {
                std::fs::read_link(folder.join("libcuda.so")).is_ok_and(|to| to.ends_with(LIBRARY))
            };
            folders.into_iter().filter(|folder| !ours(folder)).collect()
        })?;
    }
    Ok(Device::Cuda { devices })
}

fn emulator() -> Result<Device, InstallError> {
    if let Some(emulator) = Emulator::loaded() {
        return Ok(Device::Emulator(emulator));
    }
    let path = find_library()?;
    let name =
        CString::new(path.as_os_str().as_bytes()).map_err(|_| InstallError::NotLoadable {
            path: path.clone(),
            reason: "its path has a NUL inside".into(),
        })?;
    let library = Library::open(&name, libc::RTLD_NOW | libc::RTLD_GLOBAL).map_err(|reason| {
        InstallError::NotLoadable {
            path: path.clone(),
            reason,
        }
    })?;
    let Some(emulator) = Emulator::behind(library.0) else {
        return Err(InstallError::NotLoadable {
            path,
            reason: "it is not this version of the emulator".into(),
        });
    };
    let same = match libcuda_so() {
        Leads::Nowhere => true,
        Leads::ToEmulator(found) => found.0 == library.0,
        Leads::Elsewhere => false,
    };
    if !same {
        restart("the emulator", |folders| {
            link_folder(&path).into_iter().chain(folders).collect()
        })?;
    }
    Ok(Device::Emulator(emulator))
}

/// The folder beside the library, or above it, in which the build left a `libcuda.so` that leads to it.
fn link_folder(library: &Path) -> Option<PathBuf> {
    let real = library.canonicalize().ok()?;
    let leads_there = |folder: &&Path| {
        folder
            .join("libcuda.so")
            .canonicalize()
            .is_ok_and(|to| to == real)
    };
    library
        .ancestors()
        .skip(1)
        .take(2)
        .find(leads_there)
        .map(Path::to_path_buf)
}

fn find_library() -> Result<PathBuf, InstallError> {
    if let Some(path) = env::var_os("PTX_EMULATOR_LIBRARY").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return if path.exists() {
            Ok(path)
        } else {
            Err(InstallError::NoLibrary { tried: vec![path] })
        };
    }
    let folder = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_path_buf))
        .unwrap_or_default();
    let above = folder.parent().map(Path::to_path_buf).unwrap_or_default();
    let tried: Vec<_> = [
        folder.join("deps"),
        folder.clone(),
        above.join("deps"),
        above,
    ]
    .into_iter()
    .map(|folder| folder.join(LIBRARY))
    .collect();
    match tried.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(InstallError::NoLibrary { tried }),
    }
}

/// Starts the process anew with another `LD_LIBRARY_PATH`. Returns only where that fails or was done before.
fn restart(
    wanted: &'static str,
    change: impl FnOnce(Vec<PathBuf>) -> Vec<PathBuf>,
) -> Result<(), InstallError> {
    let folders = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = change(env::split_paths(&folders).collect());
    let joined = env::join_paths(folders).unwrap_or_else(|_| OsString::new());
    let mut arguments: Vec<OsString> = env::args_os().collect();
    if env::var_os(RESTARTED).is_some() || arguments.is_empty() {
        return Err(InstallError::Shadowed { wanted });
    }
    let first = arguments.remove(0);
    // Only returns where it failed.
    let _error = std::process::Command::new("/proc/self/exe")
        .arg0(first)
        .args(arguments)
        .env("LD_LIBRARY_PATH", joined)
        .env(RESTARTED, "1")
        .exec();
    Err(InstallError::Shadowed { wanted })
}

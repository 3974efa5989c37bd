//! How a driver call is entered: it is counted, fails on purpose where fault
//! injection says so, and its error becomes a code for the caller and a
//! sentence on stderr. The argument wrappers here are the only places where
//! the driver follows a pointer that C gave it for a value.

use super::error::{CuResult, Error, Result, error};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};

/// One exported function.
#[derive(Clone, Copy)]
pub(crate) struct Export {
    /// Its symbol.
    pub(crate) name: &'static str,
    /// Its address.
    pub(crate) address: *const (),
}

// SAFETY: the address is that of a function; it is only handed out.
unsafe impl Sync for Export {}

/// Defines exported driver calls: `fn cuX (…) {…}`, the body a `Result<()>` block. `fn cuX (…) also cuY`
/// defines a second name; `fn cuX (…) per_thread cuX_ptsz` one in which stream 0 is the calling thread's own default stream.
macro_rules! driver_calls {
    ($table:ident: $(
        $(#[$attr:meta])*
        fn $name:ident $args:tt $(also $alias:ident)? $(per_thread $twin:ident)? $body:block
    )*) => {
        $(
            $crate::driver::api::driver_call! { $(#[$attr])* $name $args $body }
            $($crate::driver::api::driver_twin! { $alias $name false $args })?
            $($crate::driver::api::driver_twin! { $twin $name true $args })?
        )*
        /// The functions defined here, for `cuGetProcAddress`.
        pub(crate) static $table: &[$crate::driver::api::Export] = &[
            $(
                $crate::driver::api::Export { name: stringify!($name), address: $name as *const () },
                $($crate::driver::api::Export { name: stringify!($alias), address: $alias as *const () },)?
                $($crate::driver::api::Export { name: stringify!($twin), address: $twin as *const () },)?
            )*
        ];
    };
}
pub(crate) use driver_calls;

/// One exported driver call.
macro_rules! driver_call {
    ($(#[$attr:meta])* $name:ident ($($arg:ident : $ty:ty),* $(,)?) $body:block) => {
        $(#[$attr])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::driver::error::CuResult {
            $crate::driver::api::enter(stringify!($name), move || $body)
        }
    };
}
pub(crate) use driver_call;

/// A second name of a driver call.
macro_rules! driver_twin {
    ($twin:ident $name:ident $per_thread:literal ($($arg:ident : $ty:ty),* $(,)?)) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $twin($($arg: $ty),*) -> $crate::driver::error::CuResult {
            $crate::driver::api::entered_as_twin($per_thread);
            // SAFETY: the same arguments, under the same contract.
            unsafe { $name($($arg),*) }
        }
    };
}
pub(crate) use driver_twin;

thread_local! {
    /// Stream 0 means the per-thread default stream during the present call.
    static PER_THREAD: Cell<bool> = const { Cell::new(false) };
    /// What [`PER_THREAD`] is to be in the call now being entered.
    static NEXT_PER_THREAD: Cell<bool> = const { Cell::new(false) };
    /// This thread runs the caller's host functions, in which driver calls are forbidden.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether stream 0 means the calling thread's default stream in the present call.
pub(crate) fn per_thread_default() -> bool {
    PER_THREAD.get()
}

/// Runs `f` as a host function of the caller's: driver calls inside it are refused.
pub(crate) fn as_callback(f: impl FnOnce()) {
    IN_CALLBACK.set(true);
    f();
    IN_CALLBACK.set(false);
}

/// Calls made, by name, and those that shall fail.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<Failure>,
}

static LEDGER: Mutex<Ledger> = Mutex::new(Ledger {
    counts: BTreeMap::new(),
    failures: Vec::new(),
});

/// The ledger of calls.
pub(crate) fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(|e| e.into_inner())
}

/// A call that shall fail: `cuMemAlloc:3` or `cuMemAlloc:3:CUDA_ERROR_OUT_OF_MEMORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Name without version or stream suffix, or `*` for any call.
    call: String,
    /// How many such calls are left to pass, the failing one included.
    left: u64,
    code: CuResult,
}

impl Failure {
    /// Reads `CALL:COUNT[:CODE]`, several separated by commas.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Failure>, String> {
        text.split(',')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(Failure::parse)
            .collect()
    }

    fn parse(text: &str) -> Result<Failure, String> {
        let mut parts = text.split(':');
        let call = plain_name(parts.next().unwrap_or_default()).to_string();
        let left = parts
            .next()
            .and_then(|n| n.parse().ok())
            .filter(|n| *n > 0)
            .ok_or_else(|| format!("`{text}`: expected CALL:COUNT with a count from 1"))?;
        let code = match parts.next() {
            None if call.contains("Alloc") => CuResult::OUT_OF_MEMORY,
            None => CuResult::UNKNOWN,
            Some(name) => CuResult::by_name(name)
                .ok_or_else(|| format!("`{text}`: no result code `{name}`"))?,
        };
        if call != "*" && !super::exports().any(|e| plain_name(e.name) == call) {
            return Err(format!("`{text}`: no driver call `{call}`"));
        }
        Ok(Failure { call, left, code })
    }
}

/// A call's name without `_v2`, `_ptsz`, `_ptds`.
pub(crate) fn plain_name(name: &str) -> &str {
    let name = name
        .strip_suffix("_ptsz")
        .or_else(|| name.strip_suffix("_ptds"))
        .unwrap_or(name);
    match name.rsplit_once("_v") {
        Some((base, digits))
            if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) =>
        {
            base
        }
        _ => name,
    }
}

impl Ledger {
    /// Replaces the failures to come.
    pub(crate) fn set_failures(&mut self, failures: Vec<Failure>) {
        self.failures = failures;
    }

    /// Takes the counts of calls made so far, by exported name.
    pub(crate) fn take_counts(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.counts)
    }

    fn enter(&mut self, name: &'static str) -> Option<CuResult> {
        *self.counts.entry(name).or_default() += 1;
        if self.failures.is_empty() {
            return None;
        }
        let plain = plain_name(name);
        let mut fails = None;
        self.failures.retain_mut(|failure| {
            if failure.call != "*" && failure.call != plain {
                return true;
            }
            failure.left -= 1;
            if failure.left == 0 {
                fails.get_or_insert(failure.code);
            }
            failure.left > 0
        });
        fails
    }
}

/// Runs a driver call's body: what every exported function does.
pub(crate) fn enter(name: &'static str, body: impl FnOnce() -> Result<()>) -> CuResult {
    let mut body = Some(body);
    // One copy of what surrounds the body serves the hundreds of calls.
    run(name, &mut || body.take().map_or(Ok(()), |body| body()))
}

/// Says that the call about to be entered came under a second name.
pub(crate) fn entered_as_twin(per_thread: bool) {
    NEXT_PER_THREAD.set(per_thread);
}

fn run(name: &'static str, body: &mut dyn FnMut() -> Result<()>) -> CuResult {
    let per_thread = NEXT_PER_THREAD.take();
    if let Some(code) = ledger().enter(name) {
        eprintln!("ptx-emulator: {name}: {code}, injected");
        return code;
    }
    if IN_CALLBACK.get() && !name.starts_with("cuGetError") {
        eprintln!("ptx-emulator: {name}: a host function may not make driver calls");
        return CuResult::NOT_PERMITTED;
    }
    let outer = PER_THREAD.replace(per_thread);
    let result = catch_unwind(AssertUnwindSafe(body));
    PER_THREAD.set(outer);
    match result {
        Ok(Ok(())) => CuResult::SUCCESS,
        Ok(Err(Error { code, message })) => {
            if let Some(message) = message {
                eprintln!("ptx-emulator: {name}: {code}: {message}");
            }
            code
        }
        Err(_) => {
            eprintln!("ptx-emulator: {name}: a defect of the emulator, see the panic above");
            CuResult::UNKNOWN
        }
    }
}

/// A pointer through which a call returns a value.
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// A pointer that came inside an array of pointers.
    pub(crate) fn from_pointer(pointer: *mut T) -> Out<T> {
        Out(pointer)
    }

    /// Fails where the pointer is null: call it before doing what cannot be undone.
    pub(crate) fn check(self, what: &str) -> Result<()> {
        if self.0.is_null() {
            return Err(error(CuResult::INVALID_VALUE, format!("{what} is null")));
        }
        Ok(())
    }

    /// Writes the value; nothing where the pointer is null.
    pub(crate) fn put_if(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null; the API's caller vouches that it points to room for a `T`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Writes the value.
    pub(crate) fn put(self, value: T) -> Result<()> {
        self.check("the pointer for the result")?;
        self.put_if(value);
        Ok(())
    }

    /// Writes `values` from the pointer on.
    pub(crate) fn put_all(self, values: impl IntoIterator<Item = T>) -> Result<()> {
        self.check("the array for the results")?;
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: the API's caller vouches for room for as many as it said, which bounds `values`.
            unsafe { self.0.add(i).write_unaligned(value) };
        }
        Ok(())
    }
}

impl<T: Copy> Out<T> {
    /// Reads the value that is there (parameters that go in and out).
    pub(crate) fn get(self) -> Result<T> {
        self.check("the pointer")?;
        // SAFETY: not null; the API's caller vouches that it points to a `T`.
        Ok(unsafe { self.0.read_unaligned() })
    }
}

/// A pointer to one or more values that a call reads.
#[repr(transparent)]
pub(crate) struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// A pointer that came inside a structure.
    pub(crate) fn from_pointer(pointer: *const T) -> In<T> {
        In(pointer)
    }

    /// The same pointer for arrays whose elements a call reads and writes.
    pub(crate) fn as_out(self) -> Out<T> {
        Out(self.0.cast_mut())
    }

    /// The value pointed to.
    pub(crate) fn get(self, what: &str) -> Result<T> {
        if self.0.is_null() {
            return Err(error(CuResult::INVALID_VALUE, format!("{what} is null")));
        }
        // SAFETY: not null; the API's caller vouches that it points to a `T`.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The `count` values from the pointer on.
    pub(crate) fn all(self, count: usize, what: &str) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.0.is_null() {
            return Err(error(
                CuResult::INVALID_VALUE,
                format!("{what} is null, its count {count}"),
            ));
        }
        // SAFETY: not null; the API's caller vouches for `count` values there.
        Ok((0..count)
            .map(|i| unsafe { self.0.add(i).read_unaligned() })
            .collect())
    }
}

/// C text that a call reads.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Text(*const c_char);

impl Text {
    /// The text; an error where the pointer is null or the text is not UTF-8.
    pub(crate) fn get(self, what: &str) -> Result<String> {
        if self.0.is_null() {
            return Err(error(CuResult::INVALID_VALUE, format!("{what} is null")));
        }
        // SAFETY: not null; the API's caller vouches for a NUL-terminated text.
        let text = unsafe { CStr::from_ptr(self.0) };
        match text.to_str() {
            Ok(text) => Ok(text.to_string()),
            Err(_) => Err(error(
                CuResult::INVALID_VALUE,
                format!("{what} is not UTF-8: {text:?}"),
            )),
        }
    }
}

/// Writes `text` and its NUL into a buffer of `len` bytes, cut where it is too long.
pub(crate) fn put_text(buffer: Out<u8>, len: usize, text: &str) -> Result<()> {
    buffer.check("the text buffer")?;
    if len == 0 {
        return Err(error(
            CuResult::INVALID_VALUE,
            "the text buffer has length 0",
        ));
    }
    let kept = &text.as_bytes()[..text.len().min(len - 1)];
    buffer.put_all(kept.iter().copied().chain([0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_suffixes() {
        assert_eq!(plain_name("cuMemAlloc_v2"), "cuMemAlloc");
        assert_eq!(plain_name("cuMemcpyHtoDAsync_v2_ptsz"), "cuMemcpyHtoDAsync");
        assert_eq!(plain_name("cuLaunchKernel_ptsz"), "cuLaunchKernel");
        assert_eq!(plain_name("cuInit"), "cuInit");
    }

    #[test]
    fn the_third_call_fails_once() {
        let mut ledger = Ledger::default();
        ledger.set_failures(
            Failure::parse_list("cuMemAlloc:3, cuInit:1:CUDA_ERROR_NO_DEVICE").unwrap(),
        );
        let outcomes: Vec<_> = (0..5).map(|_| ledger.enter("cuMemAlloc_v2")).collect();
        assert_eq!(
            outcomes,
            [None, None, Some(CuResult::OUT_OF_MEMORY), None, None]
        );
        assert_eq!(ledger.enter("cuInit"), Some(CuResult::NO_DEVICE));
        assert_eq!(ledger.take_counts()["cuMemAlloc_v2"], 5);
    }

    #[test]
    fn a_failure_names_what_is_wrong_with_it() {
        assert!(
            Failure::parse_list("cuMemAlloc")
                .unwrap_err()
                .contains("COUNT")
        );
        assert!(
            Failure::parse_list("cuMemAlloc:0")
                .unwrap_err()
                .contains("from 1")
        );
        assert!(
            Failure::parse_list("cuNothing:1")
                .unwrap_err()
                .contains("cuNothing")
        );
        assert!(
            Failure::parse_list("cuInit:1:PURPLE")
                .unwrap_err()
                .contains("PURPLE")
        );
    }
}

//! One conversion of `printf`, done by the C library.

use std::ffi::CString;

/// `%` `spec` `conversion` applied to the bits of a value (or to `text`, for `%s`).
///
/// # Errors
/// A conversion that C does not have.
pub fn convert(
    conversion: char,
    spec: &str,
    long: bool,
    bits: u64,
    text: Option<&str>,
) -> Result<String, String> {
    let length = if long { "ll" } else { "" };
    let make = |s: String| CString::new(s).map_err(|e| e.to_string());
    let mut buffer = vec![0u8; 512 + text.map_or(0, str::len)];
    let out = buffer.as_mut_ptr().cast();
    let room = buffer.len();
    // SAFETY (all calls): the format has one conversion, and the one argument has the type it names; the
    // buffer's size is given.
    let written = match conversion {
        'd' | 'i' if long => {
            let f = make(format!("%{spec}{length}{conversion}"))?;
            // SAFETY: see above.
            unsafe { libc::snprintf(out, room, f.as_ptr(), bits as libc::c_longlong) }
        }
        'u' | 'x' | 'X' | 'o' if long => {
            let f = make(format!("%{spec}{length}{conversion}"))?;
            // SAFETY: see above.
            unsafe { libc::snprintf(out, room, f.as_ptr(), bits as libc::c_ulonglong) }
        }
        'd' | 'i' | 'c' | 'u' | 'x' | 'X' | 'o' => {
            let f = make(format!("%{spec}{conversion}"))?;
            // SAFETY: see above.
            unsafe { libc::snprintf(out, room, f.as_ptr(), bits as libc::c_int) }
        }
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' | 'A' => {
            let f = make(format!("%{spec}{conversion}"))?;
            // SAFETY: see above.
            unsafe { libc::snprintf(out, room, f.as_ptr(), f64::from_bits(bits)) }
        }
        'p' => {
            let f = make(format!("%{spec}p"))?;
            // SAFETY: see above.
            unsafe { libc::snprintf(out, room, f.as_ptr(), bits as *const libc::c_void) }
        }
        's' => {
            let f = make(format!("%{spec}s"))?;
            let s = make(text.unwrap_or("(null)").to_string())?;
            // SAFETY: see above.
            unsafe { libc::snprintf(out, room, f.as_ptr(), s.as_ptr()) }
        }
        other => return Err(format!("printf conversion %{other}")),
    };
    let len = usize::try_from(written)
        .map_err(|_| format!("printf could not convert %{spec}{conversion}"))?;
    buffer.truncate(len.min(room - 1));
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

//! Images behind a bare pointer, as `cuModuleLoadData` gets them.

use std::ffi::{CStr, c_char, c_void};

use super::{Image, ImageError, container, cubin, images};

/// What the compiler's host code passes: a wrapper around the container.
#[repr(C)]
struct Wrapper {
    magic: u32,
    version: u32,
    data: *const c_void,
    prelinked: *const c_void,
}

/// `magic` of a [`Wrapper`].
const WRAPPER_MAGIC: u32 = 0x4662_43b1;

/// The largest file accepted behind a pointer. Nothing bounds what a pointer leads to,
/// so a size beyond this is taken for damage.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// Lists the images at a pointer whose size only its contents tell.
///
/// # Errors
/// As [`images`], and [`ImageError::Null`].
///
/// # Safety
/// `pointer` is null, or leads to a fat binary, a fat binary wrapper, a cubin or
/// NUL-terminated PTX; all of it is readable and neither changes nor goes while `'a` lasts.
pub unsafe fn images_from_ptr<'a>(pointer: *const c_void) -> Result<Vec<Image<'a>>, ImageError> {
    if pointer.is_null() {
        return Err(ImageError::Null);
    }
    // SAFETY: the shortest of the four is PTX, whose bytes up to the NUL are readable;
    // each byte is read only where the one before it was not the end.
    let magic = unsafe { first_bytes(pointer.cast()) };
    if magic == WRAPPER_MAGIC.to_le_bytes() {
        // SAFETY: the magic says that the caller passed a wrapper.
        let data = unsafe { pointer.cast::<Wrapper>().read_unaligned() }.data;
        if data.is_null() {
            return Err(ImageError::Null);
        }
        // SAFETY: a wrapper's data is a container, readable as long as the wrapper is.
        let magic = unsafe { first_bytes(data.cast()) };
        if magic != container::MAGIC {
            let magic = magic.to_vec();
            return Err(ImageError::UnknownFormat { magic });
        }
        // SAFETY: as above.
        return unsafe { container_at(data) };
    }
    if magic == container::MAGIC {
        // SAFETY: the magic says that the caller passed a container.
        return unsafe { container_at(pointer) };
    }
    if &magic == b"\x7fELF" {
        // SAFETY: the magic says that the caller passed a cubin, whose tables say how long it is.
        let header = unsafe { bytes_at(pointer, cubin::HEADER_BYTES as u64)? };
        let tables = cubin::tables_end(header)?;
        // SAFETY: the header and the tables it announces are part of the cubin.
        let upto_tables = unsafe { bytes_at(pointer, tables)? };
        let whole = cubin::end(upto_tables)?;
        // SAFETY: the sections are part of the cubin.
        return images(unsafe { bytes_at(pointer, whole)? });
    }
    if !super::looks_like_text(&magic) && !magic.iter().all(u8::is_ascii_whitespace) {
        let magic = magic.to_vec();
        return Err(ImageError::UnknownFormat { magic });
    }
    // SAFETY: what is none of the others is text up to a NUL.
    images(unsafe { CStr::from_ptr(pointer.cast::<c_char>()) }.to_bytes())
}

/// The first four bytes, zero from the first NUL on.
///
/// # Safety
/// Bytes up to four or the first NUL are readable.
unsafe fn first_bytes(pointer: *const u8) -> [u8; 4] {
    let mut bytes = [0; 4];
    for (i, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: no NUL stood before, so this byte is readable.
        *byte = unsafe { pointer.add(i).read() };
        if *byte == 0 {
            break;
        }
    }
    bytes
}

/// # Safety
/// A container lies at `pointer`.
unsafe fn container_at<'a>(pointer: *const c_void) -> Result<Vec<Image<'a>>, ImageError> {
    // SAFETY: every container has this header.
    let header = unsafe { bytes_at(pointer, container::HEADER_BYTES as u64)? };
    let total = container::total_size(header)?;
    // SAFETY: the header says how long the container is.
    images(unsafe { bytes_at(pointer, total)? })
}

/// # Safety
/// `len` bytes at `pointer` are readable and stay so for `'a`.
unsafe fn bytes_at<'a>(pointer: *const c_void, len: u64) -> Result<&'a [u8], ImageError> {
    if len > MAX_FILE_BYTES {
        return Err(ImageError::TooLarge {
            size: len,
            limit: MAX_FILE_BYTES,
        });
    }
    // SAFETY: the caller's word.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), len as usize) })
}

//! The fat binary container.
//!
//! A header of 16 bytes (magic, version, header size, size of what follows), then
//! entries: a header of 64 bytes or more, with the identifier and the options for ptxas
//! in its tail, and the payload padded to 8 bytes. All numbers are little-endian.

use super::compression::Method;
use super::{Image, ImageError, Kind, Reach, Stored};

/// First bytes of a container.
pub(super) const MAGIC: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();

/// Bytes of the container's header.
pub(super) const HEADER_BYTES: usize = 16;

/// Bytes that every entry's header has; fields by offset.
const ENTRY_BYTES: u64 = 0x40;
const KIND: usize = 0x00;
const HEADER_SIZE: usize = 0x04;
const PAYLOAD_SIZE: usize = 0x08;
const COMPRESSED_SIZE: usize = 0x10;
const OPTIONS_OFFSET: usize = 0x14;
const ARCH: usize = 0x1c;
const NAME_OFFSET: usize = 0x20;
const NAME_SIZE: usize = 0x24;
const FLAGS: usize = 0x28;
const UNCOMPRESSED_SIZE: usize = 0x38;

/// Flags of an entry.
const LZ4: u64 = 1 << 13;
const ZSTD: u64 = 1 << 15;
const ARCH_SPECIFIC: u64 = 1 << 20;
const FAMILY_SPECIFIC: u64 = 1 << 21;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Bytes of the whole container, from its header (at least [`HEADER_BYTES`] long).
pub(super) fn total_size(header: &[u8]) -> Result<u64, ImageError> {
    let version = u16_at(header, 4);
    if version != 1 {
        return Err(ImageError::BadField {
            field: "version of the fat binary",
            value: version.into(),
            allowed: "1",
        });
    }
    let header_size = u16_at(header, 6);
    if usize::from(header_size) < HEADER_BYTES {
        return Err(ImageError::BadField {
            field: "header size of the fat binary",
            value: header_size.into(),
            allowed: "16 or more",
        });
    }
    let body = u64_at(header, 8);
    body.checked_add(header_size.into())
        .ok_or(ImageError::BadField {
            field: "size of the fat binary",
            value: body,
            allowed: "less than 2^63",
        })
}

/// `len` bytes from `at` on, or how many are missing.
fn slice<'a>(
    bytes: &'a [u8],
    at: u64,
    len: u64,
    what: &'static str,
) -> Result<&'a [u8], ImageError> {
    let end = at.saturating_add(len);
    if end > bytes.len() as u64 {
        return Err(ImageError::Truncated {
            what,
            needed: end,
            available: bytes.len() as u64,
        });
    }
    Ok(&bytes[at as usize..end as usize])
}

/// The entries of a container.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Image<'_>>, ImageError> {
    let header = slice(
        bytes,
        0,
        HEADER_BYTES as u64,
        "the header of the fat binary",
    )?;
    let total = total_size(header)?;
    let bytes = slice(bytes, 0, total, "the fat binary")?;
    let mut at = u64::from(u16_at(header, 6));
    let mut images = Vec::new();
    while at < total {
        let fixed = slice(bytes, at, ENTRY_BYTES, "the header of an entry")?;
        let header_size = u64::from(u32_at(fixed, HEADER_SIZE));
        if header_size < ENTRY_BYTES {
            return Err(ImageError::BadField {
                field: "header size of an entry",
                value: header_size,
                allowed: "64 or more",
            });
        }
        let header = slice(bytes, at, header_size, "the header of an entry")?;
        let payload_size = u64_at(header, PAYLOAD_SIZE);
        let payload = slice(
            bytes,
            at + header_size,
            payload_size,
            "the payload of an entry",
        )?;
        images.push(entry(header, payload)?);
        at += header_size + payload_size;
    }
    Ok(images)
}

fn entry<'a>(header: &'a [u8], payload: &'a [u8]) -> Result<Image<'a>, ImageError> {
    let flags = u64_at(header, FLAGS);
    let method = match flags & (LZ4 | ZSTD) {
        0 => None,
        LZ4 => Some(Method::Lz4),
        ZSTD => Some(Method::Zstd),
        _ => {
            return Err(ImageError::BadField {
                field: "flags of an entry",
                value: flags,
                allowed: "one way of compression",
            });
        }
    };
    let stored = match method {
        None => Stored::Plain(payload.into()),
        Some(method) => Stored::Compressed {
            bytes: slice(
                payload,
                0,
                u32_at(header, COMPRESSED_SIZE).into(),
                "the compressed payload of an entry",
            )?
            .into(),
            method,
            size: u64_at(header, UNCOMPRESSED_SIZE),
        },
    };
    let name = match (u32_at(header, NAME_OFFSET), u32_at(header, NAME_SIZE)) {
        (_, 0) => "".into(),
        (at, len) => {
            let name = slice(header, at.into(), len.into(), "the name of an entry")?;
            String::from_utf8_lossy(name).into_owned()
        }
    };
    Ok(Image {
        kind: match u16_at(header, KIND) {
            1 => Kind::Ptx,
            2 => Kind::Elf,
            other => Kind::Other(other),
        },
        arch: u32_at(header, ARCH),
        reach: match flags & (ARCH_SPECIFIC | FAMILY_SPECIFIC) {
            0 => Reach::Base,
            FAMILY_SPECIFIC => Reach::Family,
            _ => Reach::Exact,
        },
        flags,
        name,
        options: options(header)?,
        stored,
    })
}

/// Options are found through two steps: the header tells where a descriptor lies
/// (offset and length of the text), and that tells where the text is.
fn options(header: &[u8]) -> Result<String, ImageError> {
    let at = u64::from(u32_at(header, OPTIONS_OFFSET));
    if at == 0 {
        return Ok(String::new());
    }
    let descriptor = slice(header, at, 8, "the options of an entry")?;
    let (at, len) = (u32_at(descriptor, 0), u32_at(descriptor, 4));
    let text = slice(header, at.into(), len.into(), "the options of an entry")?;
    // On newer architectures the same place holds a binary record instead.
    if !text.is_ascii() || text.contains(&0) {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(text).trim().to_string())
}

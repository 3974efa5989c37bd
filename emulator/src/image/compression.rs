//! The two ways nvcc compresses images: zstd frames and LZ4 blocks.

use std::io::Read;

use super::{ImageError, MAX_IMAGE_BYTES};

/// How an image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// One zstd frame (nvcc's default since 12.8).
    Zstd,
    /// One LZ4 block without a frame (older, and `-compress-mode=speed`).
    Lz4,
}

/// LZ4 emits at most 255 bytes for each byte read.
const LZ4_MAX_RATIO: u64 = 255;

/// Decompresses to exactly `size` bytes.
pub(super) fn decompress(bytes: &[u8], method: Method, size: u64) -> Result<Vec<u8>, ImageError> {
    if size > MAX_IMAGE_BYTES {
        return Err(ImageError::TooLarge {
            size,
            limit: MAX_IMAGE_BYTES,
        });
    }
    match method {
        Method::Zstd => zstd(bytes, size),
        Method::Lz4 => lz4(bytes, size),
    }
}

fn zstd(bytes: &[u8], size: u64) -> Result<Vec<u8>, ImageError> {
    let failed = |reason: String| ImageError::Decompression {
        format: "zstd",
        reason,
    };
    let decoder =
        ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|e| failed(e.to_string()))?;
    // Memory grows with what is really there, and one byte past the size tells a longer stream.
    let mut out = Vec::new();
    decoder
        .take(size + 1)
        .read_to_end(&mut out)
        .map_err(|e| failed(e.to_string()))?;
    check_size("zstd", out, size)
}

fn lz4(bytes: &[u8], size: u64) -> Result<Vec<u8>, ImageError> {
    if size / LZ4_MAX_RATIO > bytes.len() as u64 {
        return Err(ImageError::Decompression {
            format: "LZ4",
            reason: format!("{} bytes cannot hold {size}", bytes.len()),
        });
    }
    let out = lz4_flex::block::decompress(bytes, size as usize).map_err(|e| {
        ImageError::Decompression {
            format: "LZ4",
            reason: e.to_string(),
        }
    })?;
    check_size("LZ4", out, size)
}

fn check_size(format: &'static str, out: Vec<u8>, size: u64) -> Result<Vec<u8>, ImageError> {
    if out.len() as u64 == size {
        return Ok(out);
    }
    let reason = if out.len() as u64 > size {
        format!("it holds more than the {size} bytes announced")
    } else {
        format!("it holds {} bytes, announced are {size}", out.len())
    };
    Err(ImageError::Decompression { format, reason })
}

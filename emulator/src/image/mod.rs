//! Device code as programs carry it: fat binaries, cubins and PTX text.
//!
//! [`images`] lists what a file or an embedded array holds, [`select`] picks what a
//! device runs, as the driver would, and [`cubin`] reads what ptxas left behind about
//! a kernel: registers, stack, shared memory.

mod compression;
mod container;
pub mod cubin;
mod pointer;

use std::borrow::Cow;
use std::fmt;

use crate::ptx;

pub use pointer::images_from_ptr;

/// The largest image accepted once decompressed: a guard against files made to exhaust memory.
pub const MAX_IMAGE_BYTES: u64 = 512 << 20;

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PTX text.
    Ptx,
    /// A cubin: machine code in ELF.
    Elf,
    /// Anything else a fat binary can hold (intermediate code for link-time optimisation), by its number.
    Other(u16),
}

/// How far beyond its own architecture an image runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// No suffix: PTX runs on everything newer, machine code on later minors of its major.
    Base,
    /// `f`: later minors of the same major.
    Family,
    /// `a`: exactly this architecture.
    Exact,
}

/// One image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image<'a> {
    /// What it is.
    pub kind: Kind,
    /// Architecture, 80 for compute capability 8.0.
    pub arch: u32,
    /// Suffix of the architecture.
    pub reach: Reach,
    /// Flags of the container, 0 where there is none.
    pub flags: u64,
    /// Identifier the container gives (the source file as a rule), or empty.
    pub name: String,
    /// Options for ptxas that the container carries, or empty.
    pub options: String,
    stored: Stored<'a>,
}

/// The bytes as the file has them.
#[derive(Debug, Clone, PartialEq)]
enum Stored<'a> {
    Plain(Cow<'a, [u8]>),
    Compressed {
        bytes: Cow<'a, [u8]>,
        method: compression::Method,
        size: u64,
    },
}

impl<'a> Image<'a> {
    /// The image itself, decompressed where need be.
    ///
    /// # Errors
    /// [`ImageError::Decompression`] for a damaged stream, [`ImageError::TooLarge`] for
    /// one beyond [`MAX_IMAGE_BYTES`].
    pub fn contents(&self) -> Result<Cow<'a, [u8]>, ImageError> {
        match &self.stored {
            Stored::Plain(bytes) => Ok(bytes.clone()),
            Stored::Compressed {
                bytes,
                method,
                size,
            } => compression::decompress(bytes, *method, *size).map(Cow::Owned),
        }
    }

    /// The same image with bytes of its own, compressed still where it was.
    pub fn into_owned(self) -> Image<'static> {
        let owned = |bytes: Cow<'_, [u8]>| Cow::Owned(bytes.into_owned());
        Image {
            kind: self.kind,
            arch: self.arch,
            reach: self.reach,
            flags: self.flags,
            name: self.name,
            options: self.options,
            stored: match self.stored {
                Stored::Plain(bytes) => Stored::Plain(owned(bytes)),
                Stored::Compressed {
                    bytes,
                    method,
                    size,
                } => Stored::Compressed {
                    bytes: owned(bytes),
                    method,
                    size,
                },
            },
        }
    }

    /// The text of a PTX image, without the padding behind it.
    ///
    /// # Errors
    /// As [`Image::contents`], and [`ImageError::NotText`] where it is not UTF-8.
    pub fn text(&self) -> Result<String, ImageError> {
        let mut bytes = self.contents()?.into_owned();
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        String::from_utf8(bytes).map_err(|e| ImageError::NotText {
            offset: e.utf8_error().valid_up_to(),
        })
    }

    /// Whether a device of compute capability `cc` runs this image.
    pub fn runs_on(&self, cc: (u32, u32)) -> bool {
        let device = cc.0 * 10 + cc.1;
        let same_major = self.arch / 10 == cc.0 && self.arch <= device;
        match (self.reach, self.kind) {
            (_, Kind::Other(_)) => false,
            (Reach::Exact, _) => self.arch == device,
            (Reach::Family, _) | (Reach::Base, Kind::Elf) => same_major,
            (Reach::Base, Kind::Ptx) => self.arch <= device,
        }
    }

    fn rank(&self) -> (u32, Reach) {
        (self.arch, self.reach)
    }
}

/// What can be wrong with an image or its container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// Neither a fat binary nor ELF nor PTX.
    UnknownFormat {
        /// The first bytes, at most 4.
        magic: Vec<u8>,
    },
    /// The bytes end before what they announce.
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes needed from the start of the container.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// A field whose value cannot be.
    BadField {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        allowed: &'static str,
    },
    /// An image larger than [`MAX_IMAGE_BYTES`].
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// A compressed stream that does not decompress to what was announced.
    Decompression {
        /// The format, `zstd` or `LZ4`.
        format: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// PTX that is not UTF-8.
    NotText {
        /// Offset of the first byte that is not.
        offset: usize,
    },
    /// PTX whose head does not parse.
    Ptx(ptx::ParseError),
    /// A cubin that is not sound ELF.
    Elf {
        /// What went wrong.
        reason: String,
    },
    /// A null pointer in place of an image.
    Null,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageError::UnknownFormat { magic } => {
                write!(
                    f,
                    "not a fat binary, a cubin or PTX: it starts with {magic:02x?}"
                )
            }
            ImageError::Truncated {
                what,
                needed,
                available,
            } => write!(f, "{what} needs {needed} bytes, the image has {available}"),
            ImageError::BadField {
                field,
                value,
                allowed,
            } => write!(f, "{field} is {value:#x}, allowed is {allowed}"),
            ImageError::TooLarge { size, limit } => {
                write!(f, "an image of {size} bytes exceeds the limit of {limit}")
            }
            ImageError::Decompression { format, reason } => {
                write!(f, "damaged {format} stream: {reason}")
            }
            ImageError::NotText { offset } => write!(f, "PTX is not UTF-8 from byte {offset} on"),
            ImageError::Ptx(error) => error.fmt(f),
            ImageError::Elf { reason } => write!(f, "damaged cubin: {reason}"),
            ImageError::Null => f.write_str("a null pointer in place of an image"),
        }
    }
}

impl std::error::Error for ImageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ImageError::Ptx(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ptx::ParseError> for ImageError {
    fn from(error: ptx::ParseError) -> Self {
        ImageError::Ptx(error)
    }
}

/// Lists the images in a fat binary, a cubin or PTX text. Nothing is decompressed yet.
///
/// # Errors
/// [`ImageError`] for bytes that are none of the three, or damaged. Nothing panics.
pub fn images(bytes: &[u8]) -> Result<Vec<Image<'_>>, ImageError> {
    if bytes.starts_with(&container::MAGIC) {
        return container::entries(bytes);
    }
    if bytes.starts_with(b"\x7fELF") {
        return Ok(vec![Image {
            kind: Kind::Elf,
            arch: cubin::architecture(bytes)?,
            reach: Reach::Base,
            flags: 0,
            name: String::new(),
            options: String::new(),
            stored: Stored::Plain(bytes.into()),
        }]);
    }
    if looks_like_text(bytes) {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        let text = std::str::from_utf8(&bytes[..end]).map_err(|e| ImageError::NotText {
            offset: e.valid_up_to(),
        })?;
        let target = ptx::target(text)?;
        return Ok(vec![Image {
            kind: Kind::Ptx,
            arch: target.arch,
            reach: match target.suffix {
                Some('a') => Reach::Exact,
                Some(_) => Reach::Family,
                None => Reach::Base,
            },
            flags: 0,
            name: String::new(),
            options: String::new(),
            stored: Stored::Plain(bytes[..end].into()),
        }]);
    }
    Err(ImageError::UnknownFormat {
        magic: bytes[..bytes.len().min(4)].to_vec(),
    })
}

/// Whether the first byte that is not blank could open PTX: a directive or a comment.
fn looks_like_text(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    matches!(first, Some(b'.' | b'/'))
}

/// The PTX a device of compute capability `cc` would run: the newest it can.
pub fn select<'i, 'a>(images: &'i [Image<'a>], cc: (u32, u32)) -> Option<&'i Image<'a>> {
    newest(images, Kind::Ptx, cc)
}

/// The machine code that a device of compute capability `cc` would run, if there is any.
pub fn select_machine_code<'i, 'a>(
    images: &'i [Image<'a>],
    cc: (u32, u32),
) -> Option<&'i Image<'a>> {
    newest(images, Kind::Elf, cc)
}

fn newest<'i, 'a>(images: &'i [Image<'a>], kind: Kind, cc: (u32, u32)) -> Option<&'i Image<'a>> {
    images
        .iter()
        .filter(|image| image.kind == kind && image.runs_on(cc))
        .max_by_key(|image| image.rank())
}

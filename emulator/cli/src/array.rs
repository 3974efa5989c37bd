//! Arrays in `.npy` files, as their bytes in C order.

use crate::element::Element;
use half::f16;
use npyz::{NpyFile, Order, TypeChar, TypeStr, WriterBuilder as _};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An array.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Type of its elements.
    pub element: Element,
    /// Its extents.
    pub shape: Vec<u64>,
    /// Its elements, little-endian, the last axis fastest.
    pub bytes: Vec<u8>,
}

/// What is wrong with an array's file.
#[derive(Debug, Error)]
pub enum ArrayError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Elements that kernels have no use for.
    #[error(
        "{path}: elements of type {descriptor}: integers and floats of 1 to 8 bytes can be passed"
    )]
    Type {
        /// The file.
        path: PathBuf,
        /// The type as NumPy writes it.
        descriptor: String,
    },
    /// Columns first.
    #[error("{path}: the array is in Fortran order; save it with numpy.ascontiguousarray")]
    Order {
        /// The file.
        path: PathBuf,
    },
}

fn element_of(ty: &TypeStr) -> Option<Element> {
    Some(match (ty.type_char(), ty.size_field()) {
        (TypeChar::Int, 1) => Element::I8,
        (TypeChar::Int, 2) => Element::I16,
        (TypeChar::Int, 4) => Element::I32,
        (TypeChar::Int, 8) => Element::I64,
        (TypeChar::Uint | TypeChar::Bool, 1) => Element::U8,
        (TypeChar::Uint, 2) => Element::U16,
        (TypeChar::Uint, 4) => Element::U32,
        (TypeChar::Uint, 8) => Element::U64,
        (TypeChar::Float, 2) => Element::F16,
        (TypeChar::Float, 4) => Element::F32,
        (TypeChar::Float, 8) => Element::F64,
        _ => return None,
    })
}

/// Does something for the Rust type of an element.
macro_rules! with_type {
    ($element:expr, $T:ident => $body:expr) => {
        match $element {
            Element::I8 => {
                type $T = i8;
                $body
            }
            Element::I16 => {
                type $T = i16;
                $body
            }
            Element::I32 => {
                type $T = i32;
                $body
            }
            Element::I64 => {
                type $T = i64;
                $body
            }
            Element::U8 => {
                type $T = u8;
                $body
            }
            Element::U16 | Element::Bf16 => {
                type $T = u16;
                $body
            }
            Element::U32 => {
                type $T = u32;
                $body
            }
            Element::U64 => {
                type $T = u64;
                $body
            }
            Element::F16 => {
                type $T = f16;
                $body
            }
            Element::F32 => {
                type $T = f32;
                $body
            }
            Element::F64 => {
                type $T = f64;
                $body
            }
        }
    };
}

impl Array {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that is none or cannot be passed to a kernel.
    pub fn read(path: &Path) -> Result<Array, ArrayError> {
        let failed = |source| ArrayError::File {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let file = NpyFile::new(BufReader::new(file)).map_err(failed)?;
        let npyz::DType::Plain(ty) = file.dtype() else {
            return Err(ArrayError::Type {
                path: path.into(),
                descriptor: file.dtype().descr(),
            });
        };
        let Some(element) = element_of(&ty) else {
            return Err(ArrayError::Type {
                path: path.into(),
                descriptor: ty.to_string(),
            });
        };
        let shape = file.shape().to_vec();
        if file.order() == Order::Fortran && shape.len() > 1 {
            return Err(ArrayError::Order { path: path.into() });
        }
        let bytes = if ty.type_char() == TypeChar::Bool {
            let values: Vec<bool> = file.into_vec().map_err(failed)?;
            values.into_iter().map(u8::from).collect()
        } else {
            with_type!(element, T => {
                let values: Vec<T> = file.into_vec().map_err(failed)?;
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            })
        };
        Ok(Array {
            element,
            shape,
            bytes,
        })
    }

    /// Writes it to a file.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ArrayError> {
        let failed = |source| ArrayError::File {
            path: path.into(),
            source,
        };
        let file = BufWriter::new(File::create(path).map_err(failed)?);
        with_type!(self.element, T => {
            let mut writer = npyz::WriteOptions::new()
                .default_dtype()
                .shape(&self.shape)
                .writer(file)
                .begin_nd()
                .map_err(failed)?;
            let values = self.bytes.as_chunks().0.iter().map(|b| T::from_le_bytes(*b));
            writer.extend(values).map_err(failed)?;
            writer.finish().map_err(failed)
        })
    }
}

//! Kernel arguments on the command line.

use crate::array::{Array, ArrayError};
use crate::element::Element;
use ptx_emulator::run::Arg;
use std::path::PathBuf;
use std::str::FromStr;

/// An argument as it was written.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// `i32:5`: a number.
    Scalar(Vec<u8>),
    /// `bytes:0a0b`: a structure.
    Bytes(Vec<u8>),
    /// `in:a.npy`: a buffer with an array's elements.
    In(PathBuf),
    /// `inout:a.npy`, `inout:a.npy:b.npy`: likewise, and written to a file afterwards.
    InOut(PathBuf, PathBuf),
    /// `out:f32:4x8:b.npy`: a buffer that nothing has written, and the file that its elements go to.
    Out(Element, Vec<u64>, PathBuf),
}

const FORMS: &str = "TYPE:NUMBER, bytes:HEX, in:FILE, inout:FILE[:FILE] or out:TYPE:SHAPE:FILE";

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Argument, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("expected {FORMS}"));
        };
        match kind {
            "in" => Ok(Argument::In(rest.into())),
            "inout" => {
                let (from, to) = rest.split_once(':').unwrap_or((rest, rest));
                Ok(Argument::InOut(from.into(), to.into()))
            }
            "out" => {
                let mut parts = rest.splitn(3, ':');
                let (Some(element), Some(shape), Some(path)) =
                    (parts.next(), parts.next(), parts.next())
                else {
                    return Err("expected out:TYPE:SHAPE:FILE".into());
                };
                let shape: Result<Vec<u64>, _> = shape.split('x').map(str::parse).collect();
                let shape = shape.map_err(|_| {
                    format!("`{rest}`: a shape is numbers with x between them, as 4x8")
                })?;
                Ok(Argument::Out(element.parse()?, shape, path.into()))
            }
            "bytes" => {
                let byte = |k: usize| {
                    rest.get(k..k + 2)
                        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                };
                let bytes: Option<Vec<u8>> = (0..rest.len()).step_by(2).map(byte).collect();
                bytes
                    .map(Argument::Bytes)
                    .ok_or_else(|| format!("`{rest}`: two hexadecimal digits are a byte"))
            }
            ty => Ok(Argument::Scalar(
                ty.parse::<Element>()
                    .map_err(|e| format!("{e}; or {FORMS}"))?
                    .parse(rest)?,
            )),
        }
    }
}

/// A buffer whose contents go to a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Which of the launch's buffers.
    pub buffer: usize,
    /// The array, without its elements.
    pub array: Array,
    /// The file.
    pub path: PathBuf,
}

/// What the launch gets, and what becomes of its buffers.
///
/// # Errors
/// A file that cannot be read.
pub fn prepare(arguments: &[Argument]) -> Result<(Vec<Arg>, Vec<Output>), ArrayError> {
    let (mut args, mut outputs, mut buffers) = (Vec::new(), Vec::new(), 0);
    let mut keep = |buffer: usize, element: Element, shape: &[u64], path: &PathBuf| {
        outputs.push(Output {
            buffer,
            array: Array {
                element,
                shape: shape.to_vec(),
                bytes: Vec::new(),
            },
            path: path.clone(),
        });
    };
    for argument in arguments {
        args.push(match argument {
            Argument::Scalar(bytes) | Argument::Bytes(bytes) => Arg::Bytes(bytes.clone()),
            Argument::In(path) => {
                buffers += 1;
                Arg::Buffer(Array::read(path)?.bytes)
            }
            Argument::InOut(from, to) => {
                let array = Array::read(from)?;
                keep(buffers, array.element, &array.shape, to);
                buffers += 1;
                Arg::Buffer(array.bytes)
            }
            Argument::Out(element, shape, path) => {
                keep(buffers, *element, shape, path);
                buffers += 1;
                let count: u64 = shape.iter().product();
                Arg::Uninit(count as usize * element.size())
            }
        });
    }
    Ok((args, outputs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let read = |text: &str| text.parse::<Argument>();
        assert_eq!(read("u16:0x10"), Ok(Argument::Scalar(vec![16, 0])));
        assert_eq!(read("bytes:0aFF"), Ok(Argument::Bytes(vec![10, 255])));
        assert_eq!(read("in:a.npy"), Ok(Argument::In("a.npy".into())));
        assert_eq!(
            read("inout:a.npy"),
            Ok(Argument::InOut("a.npy".into(), "a.npy".into()))
        );
        assert_eq!(
            read("inout:a.npy:b.npy"),
            Ok(Argument::InOut("a.npy".into(), "b.npy".into()))
        );
        assert_eq!(
            read("out:f16:2x3:b.npy"),
            Ok(Argument::Out(Element::F16, vec![2, 3], "b.npy".into()))
        );
        for (text, said) in [
            ("5", "TYPE:NUMBER"),
            ("f31:5", "no type `f31`"),
            ("i32:", "not an integer"),
            ("bytes:0a0", "two hexadecimal digits"),
            ("out:f32:4", "out:TYPE:SHAPE:FILE"),
            ("out:f32:4y:b.npy", "numbers with x"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}

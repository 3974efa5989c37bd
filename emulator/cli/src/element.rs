//! Types of scalars and of arrays' elements.

use half::{bf16, f16};
use std::str::FromStr;

/// A type of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 8 bits, signed.
    I8,
    /// 16 bits, signed.
    I16,
    /// 32 bits, signed.
    I32,
    /// 64 bits, signed.
    I64,
    /// 8 bits.
    U8,
    /// 16 bits.
    U16,
    /// 32 bits.
    U32,
    /// 64 bits.
    U64,
    /// Half precision.
    F16,
    /// The upper half of single precision. NumPy has no such type: arrays of it are u16.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

const ALL: &[(&str, Element, usize)] = &[
    ("i8", Element::I8, 1),
    ("i16", Element::I16, 2),
    ("i32", Element::I32, 4),
    ("i64", Element::I64, 8),
    ("u8", Element::U8, 1),
    ("u16", Element::U16, 2),
    ("u32", Element::U32, 4),
    ("u64", Element::U64, 8),
    ("f16", Element::F16, 2),
    ("bf16", Element::Bf16, 2),
    ("f32", Element::F32, 4),
    ("f64", Element::F64, 8),
];

impl FromStr for Element {
    type Err = String;

    fn from_str(text: &str) -> Result<Element, String> {
        let found = ALL.iter().find(|(name, ..)| *name == text);
        found.map(|(_, element, _)| *element).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|(name, ..)| *name).collect();
            format!("no type `{text}` (there are {})", names.join(", "))
        })
    }
}

impl Element {
    /// Bytes of one.
    pub fn size(self) -> usize {
        ALL.iter()
            .find(|(_, element, _)| *element == self)
            .map_or(0, |(.., size)| *size)
    }

    /// The bytes of a number given as text: decimal, or 0x and hexadecimal digits for integers.
    ///
    /// # Errors
    /// Text that is no such number.
    pub fn parse(self, text: &str) -> Result<Vec<u8>, String> {
        let float = || -> Result<f64, String> {
            text.parse()
                .map_err(|_| format!("`{text}` is not a number"))
        };
        let integer = |low: i128, high: i128| -> Result<i128, String> {
            let parsed = match text.strip_prefix("0x") {
                Some(digits) => i128::from_str_radix(digits, 16),
                None => text.parse(),
            };
            match parsed {
                Ok(value) if (low..=high).contains(&value) => Ok(value),
                Ok(value) => Err(format!("{value} is not from {low} to {high}")),
                Err(_) => Err(format!("`{text}` is not an integer")),
            }
        };
        let bits = 8 * self.size() as u32;
        Ok(match self {
            Element::I8 | Element::I16 | Element::I32 | Element::I64 => {
                let low = -(1i128 << (bits - 1));
                integer(low, -low - 1)?.to_le_bytes()[..self.size()].to_vec()
            }
            Element::U8 | Element::U16 | Element::U32 | Element::U64 => {
                integer(0, (1 << bits) - 1)?.to_le_bytes()[..self.size()].to_vec()
            }
            Element::F16 => f16::from_f64(float()?).to_le_bytes().to_vec(),
            Element::Bf16 => bf16::from_f64(float()?).to_le_bytes().to_vec(),
            Element::F32 => (float()? as f32).to_le_bytes().to_vec(),
            Element::F64 => float()?.to_le_bytes().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_each_type() {
        let bytes = |ty: &str, text: &str| ty.parse::<Element>().unwrap().parse(text);
        assert_eq!(bytes("i32", "-5"), Ok((-5i32).to_le_bytes().to_vec()));
        assert_eq!(bytes("u64", "0xffffffffffffffff"), Ok(vec![0xff; 8]));
        assert_eq!(bytes("f32", "1.5"), Ok(1.5f32.to_le_bytes().to_vec()));
        assert_eq!(bytes("f16", "-2"), Ok(vec![0x00, 0xc0]));
        assert_eq!(bytes("bf16", "1"), Ok(vec![0x80, 0x3f]));
        assert_eq!(
            bytes("f64", "inf"),
            Ok(f64::INFINITY.to_le_bytes().to_vec())
        );
        assert!(bytes("i8", "128").unwrap_err().contains("from -128 to 127"));
        assert!(bytes("u32", "x").unwrap_err().contains("`x`"));
        assert!("f8".parse::<Element>().unwrap_err().contains("f16, bf16"));
    }
}

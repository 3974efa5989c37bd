//! Constant expressions, evaluated while they are read (PTX ISA, "Constant Expressions").

use super::super::error::{ParseError, ParseErrorKind};
use super::super::lexer::Kind;
use super::Parser;
use super::scope::Name;

/// The value of a constant expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A 64-bit integer and whether it is unsigned.
    Int(i64, bool),
    /// Single-precision bits, exact as written.
    F32(u32),
    /// Double-precision bits.
    F64(u64),
    /// An address.
    Symbol {
        name: String,
        offset: i64,
        generic: bool,
        mask: Option<u64>,
    },
}

/// Binary operators with how strongly they bind.
fn binding(punct: &str) -> Option<u8> {
    Some(match punct {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | "<=" | ">" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => return None,
    })
}

/// Binding of `+` and `-`, for the terms of an address.
const ADDITIVE: u8 = 9;

impl<'a> Parser<'a> {
    /// A whole constant expression, `? :` included.
    pub(super) fn expression(&mut self) -> Result<Value, ParseError> {
        self.enter("levels of nesting")?;
        let mut value = self.binary(0)?;
        if self.eat("?")? {
            let condition = self.truth(&value)?;
            let yes = self.expression()?;
            self.expect(":", "`:`")?;
            let no = self.expression()?;
            value = if condition { yes } else { no };
        }
        self.leave();
        Ok(value)
    }

    /// The signed terms that follow a base: `+4`, `+-4`, `-8+4`. Zero where there are none.
    pub(super) fn offset_terms(&mut self) -> Result<i64, ParseError> {
        let mut offset = 0i64;
        loop {
            let minus = self.at("-");
            if !minus && !self.at("+") {
                return Ok(offset);
            }
            self.bump()?;
            let term = self.binary(ADDITIVE)?;
            let term = self.integer(term)?;
            offset = if minus {
                offset.wrapping_sub(term)
            } else {
                offset.wrapping_add(term)
            };
        }
    }

    /// An expression that must be an integer.
    pub(super) fn int_expression(&mut self) -> Result<i64, ParseError> {
        let value = self.expression()?;
        self.integer(value)
    }

    pub(super) fn integer(&self, value: Value) -> Result<i64, ParseError> {
        match value {
            Value::Int(value, _) => Ok(value),
            _ => Err(self.error(ParseErrorKind::Unexpected {
                met: "an address or floating-point value".into(),
                expected: "an integer constant",
            })),
        }
    }

    fn truth(&self, value: &Value) -> Result<bool, ParseError> {
        match value {
            Value::Int(value, _) => Ok(*value != 0),
            Value::F32(bits) => Ok(f32::from_bits(*bits) != 0.0),
            Value::F64(bits) => Ok(f64::from_bits(*bits) != 0.0),
            Value::Symbol { .. } => Err(self.error(ParseErrorKind::Unexpected {
                met: "an address".into(),
                expected: "a number",
            })),
        }
    }

    /// Operators that bind more strongly than `above`.
    fn binary(&mut self, above: u8) -> Result<Value, ParseError> {
        let mut left = self.unary()?;
        while let Kind::Punct(punct) = self.token.kind {
            let Some(strength) = binding(punct).filter(|s| *s > above) else {
                break;
            };
            self.bump()?;
            self.enter("levels of nesting")?;
            let right = self.binary(strength)?;
            self.leave();
            left = self.apply(punct, left, right)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Value, ParseError> {
        let Kind::Punct(punct @ ("-" | "+" | "~" | "!")) = self.token.kind else {
            return self.primary();
        };
        self.bump()?;
        self.enter("levels of nesting")?;
        let value = self.unary()?;
        self.leave();
        Ok(match (punct, value) {
            ("+", value) => value,
            ("!", value) => Value::Int(i64::from(!self.truth(&value)?), false),
            ("-", Value::Int(value, unsigned)) => Value::Int(value.wrapping_neg(), unsigned),
            ("-", Value::F32(bits)) => Value::F32(bits ^ 1 << 31),
            ("-", Value::F64(bits)) => Value::F64(bits ^ 1 << 63),
            ("~", Value::Int(value, unsigned)) => Value::Int(!value, unsigned),
            _ => {
                return Err(self.error(ParseErrorKind::Unexpected {
                    met: format!("`{punct}` before an address or floating-point value"),
                    expected: "an integer constant",
                }));
            }
        })
    }

    fn primary(&mut self) -> Result<Value, ParseError> {
        match self.token.kind {
            Kind::Int(value, marked) => {
                self.bump()?;
                // `0xFF00(symbol)`: one byte of an address.
                if self.at("(") {
                    return self.masked(value);
                }
                let unsigned = marked || value > i64::MAX as u64;
                Ok(Value::Int(value as i64, unsigned))
            }
            Kind::F32(bits) => {
                self.bump()?;
                Ok(Value::F32(bits))
            }
            Kind::F64(bits) => {
                self.bump()?;
                Ok(Value::F64(bits))
            }
            Kind::Punct("(") => {
                self.bump()?;
                // Casts: `(.s64)` and `(.u64)`.
                for (cast, unsigned) in [(".s64", false), (".u64", true)] {
                    if self.eat_dotted(cast)? {
                        self.expect(")", "`)`")?;
                        self.enter("levels of nesting")?;
                        let value = self.unary()?;
                        self.leave();
                        let value = match value {
                            Value::F64(bits) if unsigned => f64::from_bits(bits) as u64 as i64,
                            Value::F64(bits) => f64::from_bits(bits) as i64,
                            value => self.integer(value)?,
                        };
                        return Ok(Value::Int(value, unsigned));
                    }
                }
                let value = self.expression()?;
                self.expect(")", "`)`")?;
                Ok(value)
            }
            Kind::Word => self.named(),
            _ => Err(self.unexpected("an operand or constant")),
        }
    }

    /// `0xFF(symbol+offset)`, the mask already read.
    fn masked(&mut self, mask: u64) -> Result<Value, ParseError> {
        self.expect("(", "`(`")?;
        let inner = self.expression()?;
        self.expect(")", "`)`")?;
        match inner {
            Value::Symbol {
                name,
                offset,
                generic,
                mask: None,
            } => Ok(Value::Symbol {
                name,
                offset,
                generic,
                mask: Some(mask),
            }),
            _ => Err(self.error(ParseErrorKind::Unexpected {
                met: "a mask on something else".into(),
                expected: "a mask on a symbol's address",
            })),
        }
    }

    /// `WARP_SZ`, `generic(symbol)` or a symbol.
    fn named(&mut self) -> Result<Value, ParseError> {
        let token = self.bump()?;
        if token.text == "WARP_SZ" {
            return Ok(Value::Int(32, false));
        }
        if token.text == "generic" && self.eat("(")? {
            let inner = self.expression()?;
            self.expect(")", "`)`")?;
            return match inner {
                Value::Symbol {
                    name,
                    offset,
                    mask: None,
                    ..
                } => Ok(Value::Symbol {
                    name,
                    offset,
                    generic: true,
                    mask: None,
                }),
                _ => Err(self.error(ParseErrorKind::Unexpected {
                    met: "`generic` of something else".into(),
                    expected: "`generic` of a symbol",
                })),
            };
        }
        let name = match self.scopes.lookup(token.text) {
            Some(Name::Variable(name, _) | Name::Label(name)) => name,
            Some(Name::Reg(_) | Name::RegVector(..)) => {
                return Err(self.error_at(
                    &token,
                    ParseErrorKind::Unexpected {
                        met: format!("the register `{}`", token.text),
                        expected: "a constant",
                    },
                ));
            }
            None => {
                self.refer(token)?;
                token.text.to_string()
            }
        };
        Ok(Value::Symbol {
            name,
            offset: 0,
            generic: false,
            mask: None,
        })
    }

    fn apply(&self, punct: &str, left: Value, right: Value) -> Result<Value, ParseError> {
        use Value::{F32, F64, Int, Symbol};
        match (left, right) {
            (Int(a, ua), Int(b, ub)) => self.apply_int(punct, (a, ua), (b, ub)),
            (
                Symbol {
                    name,
                    offset,
                    generic,
                    mask: None,
                },
                Int(by, _),
            ) if matches!(punct, "+" | "-") => Ok(Symbol {
                name,
                offset: match punct {
                    "+" => offset.wrapping_add(by),
                    _ => offset.wrapping_sub(by),
                },
                generic,
                mask: None,
            }),
            (
                Int(by, _),
                Symbol {
                    name,
                    offset,
                    generic,
                    mask: None,
                },
            ) if punct == "+" => Ok(Symbol {
                name,
                offset: offset.wrapping_add(by),
                generic,
                mask: None,
            }),
            (left @ (Int(..) | F32(_) | F64(_)), right @ (Int(..) | F32(_) | F64(_))) => {
                self.apply_float(punct, as_f64(&left), as_f64(&right))
            }
            _ => Err(self.error(ParseErrorKind::Unexpected {
                met: format!("`{punct}` with an address"),
                expected: "`symbol + constant` or `symbol - constant`",
            })),
        }
    }

    fn apply_int(
        &self,
        punct: &str,
        (a, a_unsigned): (i64, bool),
        (b, b_unsigned): (i64, bool),
    ) -> Result<Value, ParseError> {
        let unsigned = a_unsigned || b_unsigned;
        let (wide_a, wide_b) = (a as u64, b as u64);
        let truth = |value: bool| Value::Int(i64::from(value), false);
        if matches!(punct, "/" | "%") && b == 0 {
            return Err(self.error(ParseErrorKind::BadNumber {
                met: format!("{a} {punct} 0"),
                reason: "division by zero",
            }));
        }
        Ok(match punct {
            "+" => Value::Int(a.wrapping_add(b), unsigned),
            "-" => Value::Int(a.wrapping_sub(b), unsigned),
            "*" => Value::Int(a.wrapping_mul(b), unsigned),
            "/" if unsigned => Value::Int((wide_a / wide_b) as i64, true),
            "/" => Value::Int(a.wrapping_div(b), false),
            "%" if unsigned => Value::Int((wide_a % wide_b) as i64, true),
            "%" => Value::Int(a.wrapping_rem(b), false),
            "&" => Value::Int(a & b, unsigned),
            "|" => Value::Int(a | b, unsigned),
            "^" => Value::Int(a ^ b, unsigned),
            "<<" => {
                let shifted = u32::try_from(wide_b).ok().and_then(|by| a.checked_shl(by));
                Value::Int(shifted.unwrap_or(0), a_unsigned)
            }
            ">>" if a_unsigned => {
                let by = u32::try_from(wide_b).unwrap_or(64);
                Value::Int(wide_a.checked_shr(by).unwrap_or(0) as i64, true)
            }
            ">>" => Value::Int(a >> wide_b.min(63), false),
            "&&" => truth(a != 0 && b != 0),
            "||" => truth(a != 0 || b != 0),
            "==" => truth(a == b),
            "!=" => truth(a != b),
            "<" => truth(if unsigned { wide_a < wide_b } else { a < b }),
            "<=" => truth(if unsigned { wide_a <= wide_b } else { a <= b }),
            ">" => truth(if unsigned { wide_a > wide_b } else { a > b }),
            _ => truth(if unsigned { wide_a >= wide_b } else { a >= b }),
        })
    }

    fn apply_float(&self, punct: &str, a: f64, b: f64) -> Result<Value, ParseError> {
        let number = |value: f64| Value::F64(value.to_bits());
        let truth = |value: bool| Value::Int(i64::from(value), false);
        Ok(match punct {
            "+" => number(a + b),
            "-" => number(a - b),
            "*" => number(a * b),
            "/" => number(a / b),
            "&&" => truth(a != 0.0 && b != 0.0),
            "||" => truth(a != 0.0 || b != 0.0),
            "==" => truth(a == b),
            "!=" => truth(a != b),
            "<" => truth(a < b),
            "<=" => truth(a <= b),
            ">" => truth(a > b),
            ">=" => truth(a >= b),
            _ => {
                return Err(self.error(ParseErrorKind::Unexpected {
                    met: format!("`{punct}` with a floating-point value"),
                    expected: "integer constants",
                }));
            }
        })
    }
}

/// A number's value in double precision; addresses do not come here.
fn as_f64(value: &Value) -> f64 {
    match value {
        Value::Int(value, false) => *value as f64,
        Value::Int(value, true) => *value as u64 as f64,
        Value::F32(bits) => f32::from_bits(*bits).into(),
        Value::F64(bits) => f64::from_bits(*bits),
        Value::Symbol { .. } => f64::NAN,
    }
}

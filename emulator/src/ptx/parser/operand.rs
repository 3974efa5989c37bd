//! Operands of instructions.

use super::super::ast::{AddressBase, Operand, Part, RegId};
use super::super::error::{ParseError, ParseErrorKind};
use super::super::lexer::{Kind, Token};
use super::expr::Value;
use super::scope::Name;
use super::{Global, Parser};

/// Special registers by name without `%`; vectors take a component after it.
const SPECIAL: &[&str] = &[
    "tid",
    "ntid",
    "laneid",
    "warpid",
    "nwarpid",
    "ctaid",
    "nctaid",
    "smid",
    "nsmid",
    "gridid",
    "is_explicit_cluster",
    "clusterid",
    "nclusterid",
    "cluster_ctaid",
    "cluster_nctaid",
    "cluster_ctarank",
    "cluster_nctarank",
    "lanemask_eq",
    "lanemask_le",
    "lanemask_lt",
    "lanemask_ge",
    "lanemask_gt",
    "clock",
    "clock_hi",
    "clock64",
    "globaltimer",
    "globaltimer_lo",
    "globaltimer_hi",
    "reserved_smem_offset_begin",
    "reserved_smem_offset_end",
    "reserved_smem_offset_cap",
    "reserved_smem_offset_0",
    "reserved_smem_offset_1",
    "total_smem_size",
    "aggr_smem_size",
    "dynamic_smem_size",
    "current_graph_exec",
];

/// Whether `%name` is a special register.
fn is_special(name: &str) -> bool {
    let Some(name) = name.strip_prefix('%') else {
        return false;
    };
    if SPECIAL.contains(&name) {
        return true;
    }
    let numbered = |prefix: &str, count: u32| {
        name.strip_prefix(prefix)
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| n < count)
    };
    let performance = name.strip_suffix("_64").unwrap_or(name);
    numbered("envreg", 32)
        || performance
            .strip_prefix("pm")
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| n < 8)
}

/// The index of a vector component: `.x` or `.r` is 0.
fn component(text: &str) -> Option<u32> {
    Some(match text {
        ".x" | ".r" => 0,
        ".y" | ".g" => 1,
        ".z" | ".b" => 2,
        ".w" | ".a" => 3,
        _ => return None,
    })
}

/// The part of a register that `.b0` and the like select.
fn part_of(text: &str) -> Option<Part> {
    Some(match text {
        ".b0" => Part::Byte(0),
        ".b1" => Part::Byte(1),
        ".b2" => Part::Byte(2),
        ".b3" => Part::Byte(3),
        ".h0" => Part::Half(0),
        ".h1" => Part::Half(1),
        _ => return None,
    })
}

/// What an operand expects, in messages.
const OPERAND: &str = "an operand";

/// What the instruction decides about how its operands read.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Context {
    /// `(…)` is a list of arguments.
    Call,
    /// `array[3]` is the element's address as a value.
    Mov,
    /// `array[3]` is the element in memory.
    Other,
}

impl Context {
    pub fn of(opcode: &str) -> Self {
        match opcode {
            "call" => Context::Call,
            "mov" => Context::Mov,
            _ => Context::Other,
        }
    }
}

impl<'a> Parser<'a> {
    /// One operand.
    pub(super) fn operand(&mut self, context: Context) -> Result<Operand, ParseError> {
        let first = self.part(context)?;
        if self.at("|") && matches!(first, Operand::Reg(_) | Operand::Sink) {
            self.bump()?;
            let second = self.part(Context::Other)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn part(&mut self, context: Context) -> Result<Operand, ParseError> {
        match self.token.kind {
            Kind::Word => self.named_operand(context),
            Kind::Punct("{") => Ok(Operand::Vector(self.several("}", "`,` or `}`")?)),
            Kind::Punct("(") if context == Context::Call => {
                Ok(Operand::List(self.several(")", "`,` or `)`")?))
            }
            Kind::Punct("[") => self.bracket(),
            Kind::Punct("!") => self.negated(context),
            Kind::Punct("-") => self.minus(context),
            _ => self.constant(context),
        }
    }

    /// Operands between an opening bracket, not yet read, and `close`.
    fn several(
        &mut self,
        close: &'static str,
        expected: &'static str,
    ) -> Result<Vec<Operand>, ParseError> {
        self.enter("levels of nesting")?;
        self.bump()?;
        let mut operands = Vec::new();
        if !self.eat(close)? {
            loop {
                operands.push(self.operand(Context::Other)?);
                if self.eat(close)? {
                    break;
                }
                self.expect(",", expected)?;
            }
        }
        self.leave();
        Ok(operands)
    }

    fn named_operand(&mut self, context: Context) -> Result<Operand, ParseError> {
        match self.token.text {
            "_" => {
                self.bump()?;
                return Ok(Operand::Sink);
            }
            "WARP_SZ" | "generic" => return self.constant(context),
            _ => {}
        }
        match self.scopes.lookup(self.token.text) {
            Some(Name::Reg(reg)) => {
                self.bump()?;
                self.register(reg, false)
            }
            Some(Name::RegVector(first, width)) => {
                self.bump()?;
                self.vector_register(first, width)
            }
            Some(_) => self.constant(context),
            None if self.token.text.starts_with('%') => self.special(),
            None => self.constant(context),
        }
    }

    /// A register, already read, or the part of it that is selected.
    fn register(&mut self, reg: RegId, negated: bool) -> Result<Operand, ParseError> {
        let dotted = self.token.kind == Kind::Dotted;
        let part = part_of(self.token.text).filter(|_| dotted);
        if part.is_some() {
            self.bump()?;
        }
        if part.is_none() && !negated {
            return Ok(Operand::Reg(reg));
        }
        Ok(Operand::Part { reg, negated, part })
    }

    /// `-%r1`, or a constant expression that starts with a minus.
    fn minus(&mut self, context: Context) -> Result<Operand, ParseError> {
        let mark = (self.lexer.clone(), self.token);
        self.bump()?;
        if self.token.kind == Kind::Word
            && let Some(Name::Reg(reg)) = self.scopes.lookup(self.token.text)
        {
            self.bump()?;
            return self.register(reg, true);
        }
        (self.lexer, self.token) = mark;
        self.constant(context)
    }

    /// A register vector: one component of it, or all.
    fn vector_register(&mut self, first: RegId, width: u32) -> Result<Operand, ParseError> {
        if self.token.kind != Kind::Dotted {
            let all = (0..width).map(|i| Operand::Reg(RegId(first.0 + i)));
            return Ok(Operand::Vector(all.collect()));
        }
        match component(self.token.text) {
            Some(i) if i < width => {
                self.bump()?;
                Ok(Operand::Reg(RegId(first.0 + i)))
            }
            _ => Err(self.unexpected("a component that the vector has")),
        }
    }

    fn special(&mut self) -> Result<Operand, ParseError> {
        let token = self.token;
        let array = |name: &str| name == "%envreg" || name == "%reserved_smem_offset_";
        if !is_special(token.text) || array(token.text) {
            let name = token.text.into();
            return Err(self.error(ParseErrorKind::Undeclared { name }));
        }
        self.bump()?;
        let mut name = token.text.to_string();
        if self.token.kind == Kind::Dotted && component(self.token.text).is_some() {
            name.push_str(self.token.text);
            self.bump()?;
        }
        Ok(Operand::Special(name))
    }

    /// `!%p`, or a constant expression that starts with `!`.
    fn negated(&mut self, context: Context) -> Result<Operand, ParseError> {
        let mark = (self.lexer.clone(), self.token);
        self.bump()?;
        if self.token.kind == Kind::Word
            && let Some(Name::Reg(reg)) = self.scopes.lookup(self.token.text)
        {
            self.bump()?;
            return Ok(Operand::NotReg(reg));
        }
        (self.lexer, self.token) = mark;
        self.constant(context)
    }

    fn constant(&mut self, context: Context) -> Result<Operand, ParseError> {
        let start = self.token;
        let value = self.expression()?;
        if start.kind == Kind::Word && self.at("[") {
            return self.array_element(&start, value, context);
        }
        self.value_operand(value, &start)
    }

    /// `array[3]`, the array's name already read: the index counts elements.
    fn array_element(
        &mut self,
        array: &Token<'a>,
        value: Value,
        context: Context,
    ) -> Result<Operand, ParseError> {
        let bytes = match (self.scopes.lookup(array.text), self.globals.get(array.text)) {
            (Some(Name::Variable(_, bytes)), _) => bytes,
            (None, Some(Global::Variable { element_bytes, .. })) => *element_bytes,
            _ => return Err(self.unexpected("`,` or `;`")),
        };
        self.bump()?;
        let index = self.int_expression()?;
        self.expect("]", "`]`")?;
        let by = index.wrapping_mul(bytes.into());
        match self.value_operand(value, array)? {
            Operand::Symbol(name, offset) if context == Context::Mov => {
                Ok(Operand::Symbol(name, offset.wrapping_add(by)))
            }
            Operand::Symbol(name, offset) => Ok(Operand::Address(
                AddressBase::Symbol(name),
                offset.wrapping_add(by),
            )),
            other => Ok(other),
        }
    }

    fn value_operand(&self, value: Value, start: &Token<'a>) -> Result<Operand, ParseError> {
        match value {
            Value::Int(value, _) => Ok(Operand::Int(value)),
            Value::F32(bits) => Ok(Operand::F32(bits)),
            Value::F64(bits) => Ok(Operand::F64(bits)),
            Value::Symbol {
                name,
                offset,
                generic: false,
                mask: None,
            } => Ok(Operand::Symbol(name, offset)),
            Value::Symbol { .. } => Err(self.error_at(
                start,
                ParseErrorKind::Unexpected {
                    met: "`generic` or a mask".into(),
                    expected: OPERAND,
                },
            )),
        }
    }

    /// `[…]`: an address, or several parts.
    fn bracket(&mut self) -> Result<Operand, ParseError> {
        self.enter("levels of nesting")?;
        self.bump()?;
        let first = self.address()?;
        if self.eat("]")? {
            self.leave();
            return Ok(first);
        }
        // Several parts: each is an operand of its own.
        let mut parts = vec![match first {
            Operand::Address(AddressBase::Reg(reg), 0) => Operand::Reg(reg),
            Operand::Address(AddressBase::Symbol(name), offset) => Operand::Symbol(name, offset),
            Operand::Address(AddressBase::Absolute, value) => Operand::Int(value),
            other => other,
        }];
        while !self.eat("]")? {
            self.expect(",", "`,` or `]`")?;
            parts.push(self.operand(Context::Other)?);
        }
        self.leave();
        Ok(Operand::Composite(parts))
    }

    /// What stands in brackets before any comma.
    fn address(&mut self) -> Result<Operand, ParseError> {
        if self.token.kind == Kind::Word {
            let register = match self.scopes.lookup(self.token.text) {
                Some(Name::Reg(reg)) => {
                    self.bump()?;
                    Some(reg)
                }
                Some(Name::RegVector(first, width)) => {
                    self.bump()?;
                    match self.vector_register(first, width)? {
                        Operand::Reg(reg) => Some(reg),
                        _ => return Err(self.unexpected("a component of the vector")),
                    }
                }
                None if self.token.text.starts_with('%') => {
                    let name = self.token.text.into();
                    return Err(self.error(ParseErrorKind::Undeclared { name }));
                }
                _ => None,
            };
            if let Some(reg) = register {
                let offset = self.offset_terms()?;
                return Ok(Operand::Address(AddressBase::Reg(reg), offset));
            }
        }
        let start = self.token;
        let value = self.expression()?;
        Ok(match self.value_operand(value, &start)? {
            Operand::Symbol(name, offset) => Operand::Address(AddressBase::Symbol(name), offset),
            Operand::Int(value) => Operand::Address(AddressBase::Absolute, value),
            _ => {
                return Err(self.error_at(
                    &start,
                    ParseErrorKind::Unexpected {
                        met: start.shown(),
                        expected: "an address",
                    },
                ));
            }
        })
    }
}

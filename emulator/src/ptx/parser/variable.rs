//! Variables with their initialisers, and parameters.

use super::super::ast::{Init, Linkage, Param, Space, Type, Variable};
use super::super::error::{ParseError, ParseErrorKind};
use super::super::lexer::{Kind, Token};
use super::expr::Value;
use super::scope::Name;
use super::{Global, MAX_VARIABLE_BYTES, Parser};

/// Elements an initialiser may have once nested braces are filled with zeros.
const MAX_INIT_ELEMENTS: u64 = 1 << 24;

/// What stands before the names of a declaration.
pub(super) struct Shape {
    /// `.align`, if written.
    pub align: Option<u32>,
    /// Scalar type.
    pub ty: Type,
    /// Components of a vector type; 1 for a scalar.
    pub width: u32,
}

impl Shape {
    fn element_bytes(&self) -> u64 {
        u64::from(self.ty.size()) * u64::from(self.width)
    }

    fn alignment(&self) -> u32 {
        self.align.unwrap_or(self.ty.size() * self.width)
    }
}

/// Array dimensions; `None` for `[]`.
struct Extent {
    dims: Vec<Option<u64>>,
}

impl<'a> Parser<'a> {
    /// `.align 8 .v2 .f32`, with attributes skipped.
    pub(super) fn shape(&mut self) -> Result<Shape, ParseError> {
        let expected = "a type such as `.b32`";
        let mut align = None;
        let mut width = 1;
        loop {
            if self.token.kind != Kind::Dotted {
                return Err(self.unexpected(expected));
            }
            match self.token.text {
                ".attribute" => self.attribute()?,
                ".align" => {
                    self.bump()?;
                    align = Some(self.alignment()?);
                }
                ".v2" | ".v4" | ".v8" => {
                    width = u32::from(self.token.text.as_bytes()[2] - b'0');
                    self.bump()?;
                }
                ".texref" | ".samplerref" | ".surfref" => {
                    return Err(self.unsupported(format!("`{}`", self.token.text)));
                }
                text => {
                    let Some(ty) = Type::from_suffix(&text[1..]) else {
                        return Err(self.unexpected(expected));
                    };
                    self.bump()?;
                    return Ok(Shape { align, ty, width });
                }
            }
        }
    }

    fn alignment(&mut self) -> Result<u32, ParseError> {
        let expected = "an alignment that is a power of two";
        let token = self.token;
        let align = self.small_int(expected)?;
        if !align.is_power_of_two() {
            let met = token.shown();
            return Err(self.error_at(&token, ParseErrorKind::Unexpected { met, expected }));
        }
        Ok(align)
    }

    /// `.global` and its like at module scope, from the type on.
    pub(super) fn module_variables(
        &mut self,
        space: Space,
        linkage: Linkage,
    ) -> Result<(), ParseError> {
        if self.at("[") {
            return Err(self.unsupported("a bank of constant memory"));
        }
        let shape = self.shape()?;
        loop {
            let name = self.word("a variable's name")?;
            self.declare_global(&name, linkage, &shape)?;
            let variable =
                self.variable(&shape, space, linkage, name.text.to_string(), name.line)?;
            self.module.variables.push(variable);
            if !self.eat(",")? {
                break;
            }
        }
        self.expect(";", "`;`")
    }

    fn declare_global(
        &mut self,
        name: &Token<'a>,
        linkage: Linkage,
        shape: &Shape,
    ) -> Result<(), ParseError> {
        let external = linkage == Linkage::Extern;
        let clash = match self.globals.get(name.text) {
            None => false,
            Some(Global::Variable {
                external: before, ..
            }) => !(external || *before),
            Some(Global::Function { .. }) => true,
        };
        if clash {
            let text = name.text.into();
            return Err(self.error_at(name, ParseErrorKind::Redeclared { name: text }));
        }
        self.globals.insert(
            name.text,
            Global::Variable {
                external,
                element_bytes: shape.element_bytes() as u32,
            },
        );
        Ok(())
    }

    /// Variables declared in a function's body, from the type on.
    pub(super) fn local_variables(
        &mut self,
        space: Space,
        variables: &mut Vec<Variable>,
    ) -> Result<(), ParseError> {
        let shape = self.shape()?;
        loop {
            let name = self.word("a variable's name")?;
            let unique = self.declare_variable(&name, &shape)?;
            let variable = self.variable(&shape, space, Linkage::Internal, unique, name.line)?;
            match space {
                Space::Global | Space::Const => self.module.variables.push(variable),
                _ => variables.push(variable),
            }
            if !self.eat(",")? {
                break;
            }
        }
        self.expect(";", "`;`")
    }

    /// Enters a variable of the current scope and returns its unique name.
    fn declare_variable(&mut self, name: &Token<'a>, shape: &Shape) -> Result<String, ParseError> {
        self.check_fresh(name)?;
        let outside = self.globals.contains_key(name.text);
        let unique = self.scopes.unique(name.text, outside);
        self.scopes.declare(
            name.text,
            Name::Variable(unique.clone(), shape.element_bytes() as u32),
        );
        Ok(unique)
    }

    pub(super) fn check_fresh(&self, name: &Token<'a>) -> Result<(), ParseError> {
        if self.scopes.declares(name.text) {
            let text = name.text.into();
            return Err(self.error_at(name, ParseErrorKind::Redeclared { name: text }));
        }
        Ok(())
    }

    /// Dimensions and initialiser of a variable whose name was read.
    fn variable(
        &mut self,
        shape: &Shape,
        space: Space,
        linkage: Linkage,
        name: String,
        line: u32,
    ) -> Result<Variable, ParseError> {
        let mut extent = self.extent()?;
        let mut init = Vec::new();
        if self.eat("=")? {
            init = self.initialiser(shape, &mut extent)?;
        }
        let unsized_array = extent.dims.first() == Some(&None);
        let elements = self.elements(&extent.dims)?;
        let size = if unsized_array {
            0
        } else {
            self.bytes(elements, shape)?
        };
        Ok(Variable {
            name,
            space,
            linkage,
            align: shape.alignment(),
            ty: shape.ty,
            size,
            unsized_array,
            init,
            line,
        })
    }

    /// `[4][8]`, `[]` or nothing.
    fn extent(&mut self) -> Result<Extent, ParseError> {
        let mut dims = Vec::new();
        while self.eat("[")? {
            if self.at("]") && dims.is_empty() {
                dims.push(None);
            } else {
                let start = self.token;
                let size = self.int_expression()?;
                let Ok(size) = u64::try_from(size) else {
                    let reason = "an array's size cannot be negative";
                    let met = size.to_string();
                    return Err(self.error_at(&start, ParseErrorKind::BadNumber { met, reason }));
                };
                dims.push(Some(size));
            }
            self.expect("]", "`]`")?;
        }
        Ok(Extent { dims })
    }

    /// Product of the known dimensions.
    fn elements(&self, dims: &[Option<u64>]) -> Result<u64, ParseError> {
        let product = dims
            .iter()
            .flatten()
            .try_fold(1u64, |product, dim| product.checked_mul(*dim));
        product
            .filter(|n| *n <= MAX_VARIABLE_BYTES)
            .ok_or_else(|| self.too_big())
    }

    fn bytes(&self, elements: u64, shape: &Shape) -> Result<u64, ParseError> {
        elements
            .checked_mul(shape.element_bytes())
            .filter(|n| *n <= MAX_VARIABLE_BYTES)
            .ok_or_else(|| self.too_big())
    }

    fn too_big(&self) -> ParseError {
        self.error(ParseErrorKind::TooLarge {
            what: "bytes in a variable",
            limit: MAX_VARIABLE_BYTES,
        })
    }

    /// What follows `=`. Gives `[]` its size.
    fn initialiser(&mut self, shape: &Shape, extent: &mut Extent) -> Result<Vec<Init>, ParseError> {
        let mut init = Vec::new();
        if extent.dims.is_empty() && shape.width == 1 {
            let element = self.element(shape.ty)?;
            init.push(element);
            return Ok(init);
        }
        // A vector's components are one more dimension.
        let mut dims = extent.dims.clone();
        if shape.width > 1 {
            dims.push(Some(shape.width.into()));
        }
        self.braces(shape.ty, &dims, &mut init)?;
        if let Some(first @ None) = extent.dims.first_mut() {
            let inner = self.elements(&dims[1..])?.max(1);
            *first = Some((init.len() as u64).div_ceil(inner));
        }
        let capacity = self.elements(&extent.dims)? * u64::from(shape.width);
        if init.len() as u64 > capacity {
            return Err(self.error(ParseErrorKind::TooLarge {
                what: "elements in the initialiser of this array",
                limit: capacity,
            }));
        }
        Ok(init)
    }

    /// One brace level of an initialiser; a level left short is filled with zeros.
    fn braces(
        &mut self,
        ty: Type,
        dims: &[Option<u64>],
        init: &mut Vec<Init>,
    ) -> Result<(), ParseError> {
        self.enter("levels of nesting")?;
        self.expect("{", "`{`")?;
        let inner = dims.get(1..).unwrap_or(&[]);
        while !self.at("}") {
            if self.at("{") {
                if inner.is_empty() {
                    return Err(self.unexpected("an element: the array has no more dimensions"));
                }
                let start = init.len();
                self.braces(ty, inner, init)?;
                let whole = self.elements(inner)?;
                self.fill(init, start as u64 + whole)?;
            } else {
                let element = self.element(ty)?;
                init.push(element);
            }
            if !self.eat(",")? {
                break;
            }
        }
        self.expect("}", "`,` or `}`")?;
        self.leave();
        Ok(())
    }

    fn fill(&self, init: &mut Vec<Init>, to: u64) -> Result<(), ParseError> {
        if init.len() as u64 > to || to > MAX_INIT_ELEMENTS {
            return Err(self.error(ParseErrorKind::TooLarge {
                what: "elements in this level of the initialiser",
                limit: to.min(MAX_INIT_ELEMENTS),
            }));
        }
        init.resize(to as usize, Init::Bits(0));
        Ok(())
    }

    fn element(&mut self, ty: Type) -> Result<Init, ParseError> {
        let start = self.token;
        Ok(match self.expression()? {
            Value::Symbol {
                name,
                offset,
                generic,
                mask,
            } => Init::Address {
                symbol: name,
                offset,
                generic,
                mask,
            },
            Value::Int(..) if matches!(ty, Type::F32 | Type::F64) => {
                let met = start.shown();
                let expected = "a floating-point value, as the variable's type asks";
                return Err(self.error_at(&start, ParseErrorKind::Unexpected { met, expected }));
            }
            Value::Int(value, _) => Init::Bits(truncate(value as u64, ty)),
            Value::F32(bits) => match ty {
                Type::F64 => Init::Bits(f64::from(f32::from_bits(bits)).to_bits()),
                Type::F32 | Type::B32 => Init::Bits(bits.into()),
                _ => return Err(self.float_element(&start)),
            },
            Value::F64(bits) => match ty {
                Type::F64 | Type::B64 => Init::Bits(bits),
                Type::F32 => Init::Bits((f64::from_bits(bits) as f32).to_bits().into()),
                _ => return Err(self.float_element(&start)),
            },
        })
    }

    fn float_element(&self, start: &Token<'a>) -> ParseError {
        let met = start.shown();
        let expected = "an integer, as the variable's type asks";
        self.error_at(start, ParseErrorKind::Unexpected { met, expected })
    }

    /// `( .param .align 8 .b8 name[16], … )` of a function's head or a prototype. Register
    /// parameters are entered into the scope; they become the body's first registers.
    pub(super) fn params(&mut self) -> Result<Vec<Param>, ParseError> {
        let mut params = Vec::new();
        self.expect("(", "`(`")?;
        if self.eat(")")? {
            return Ok(params);
        }
        loop {
            params.push(self.param()?);
            if self.eat(")")? {
                return Ok(params);
            }
            self.expect(",", "`,` or `)`")?;
        }
    }

    fn param(&mut self) -> Result<Param, ParseError> {
        let space = match self.space() {
            Some(space @ (Space::Param | Space::Reg)) => space,
            _ => return Err(self.unexpected("`.param` or `.reg`")),
        };
        self.bump()?;
        let mut shape = self.shape()?;
        // `.ptr .global .align 16`: what a pointer points to, of no use here.
        if self.eat_dotted(".ptr")? {
            if self.space().is_some() {
                self.bump()?;
            }
            if self.eat_dotted(".align")? {
                self.alignment()?;
            }
        } else if self.eat_dotted(".align")? {
            shape.align = Some(self.alignment()?);
        }
        let name = self.word("a parameter's name")?;
        let extent = self.extent()?;
        let size = if extent.dims.first() == Some(&None) {
            0
        } else {
            let elements = self.elements(&extent.dims)?;
            self.bytes(elements, &shape)?
        };
        let Ok(size) = u32::try_from(size) else {
            return Err(self.too_big());
        };
        let mut reg = None;
        let mut unique = name.text.to_string();
        if name.text != "_" {
            if space == Space::Reg {
                self.check_fresh(&name)?;
                let id = self.new_register(name.text.to_string(), shape.ty)?;
                self.scopes.declare(name.text, Name::Reg(id));
                reg = Some(id);
            } else {
                unique = self.declare_variable(&name, &shape)?;
            }
        }
        Ok(Param {
            name: unique,
            space,
            ty: shape.ty,
            align: shape.alignment(),
            size,
            reg,
        })
    }
}

/// An integer's low bits, as many as the type has.
fn truncate(value: u64, ty: Type) -> u64 {
    match ty.size() {
        size @ 0..8 => value & ((1 << (8 * size)) - 1),
        _ => value,
    }
}

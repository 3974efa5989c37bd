//! Function bodies: declarations, labels, instructions and nested scopes.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::super::ast::{Body, Guard, Instruction, Operand, Param, Reg, RegId, SourceLoc, Type};
use super::super::error::{ParseError, ParseErrorKind};
use super::super::lexer::{Kind, Token};
use super::operand::Context;
use super::scope::Name;
use super::{MAX_REGISTERS, Parser, Pending};

/// What a body is read into.
#[derive(Default)]
struct Reading {
    body: Body,
    /// Source position in force.
    loc: Option<SourceLoc>,
    /// Bytes that the next load's pragma calls used.
    used_bytes: Option<u32>,
    /// Scope of each instruction.
    scopes: Vec<u32>,
    /// Scope of each branch table.
    table_scopes: Vec<(String, usize)>,
}

impl<'a> Parser<'a> {
    /// `{ … }` of a function; the head's parameters are in scope already.
    pub(super) fn body(&mut self) -> Result<Body, ParseError> {
        let mut reading = Reading::default();
        let pending_before = self.pending.len();
        self.block(&mut reading)?;
        self.settle_labels(&mut reading, pending_before);
        let mut body = reading.body;
        self.registers_before += self.regs.len();
        body.regs = std::mem::take(&mut self.regs);
        Ok(body)
    }

    fn block(&mut self, reading: &mut Reading) -> Result<(), ParseError> {
        self.enter("nested blocks")?;
        self.scopes.open();
        self.expect("{", "`{`")?;
        while !self.eat("}")? {
            self.statement(reading)?;
        }
        self.scopes.close();
        self.leave();
        Ok(())
    }

    fn statement(&mut self, reading: &mut Reading) -> Result<(), ParseError> {
        match self.token.kind {
            Kind::Word => {
                let word = self.bump()?;
                if self.eat(":")? {
                    return self.label(word, reading);
                }
                self.instruction(None, word, reading)
            }
            Kind::Punct("@") => {
                self.bump()?;
                let guard = self.guard()?;
                let word = self.word("an instruction")?;
                self.instruction(Some(guard), word, reading)
            }
            Kind::Punct("{") => self.block(reading),
            Kind::Punct(";") => self.bump().map(drop),
            Kind::Dotted => self.declaration(reading),
            _ => Err(self.unexpected("an instruction, a declaration, a label or `}`")),
        }
    }

    fn declaration(&mut self, reading: &mut Reading) -> Result<(), ParseError> {
        match self.token.text {
            ".loc" => {
                reading.loc = Some(self.loc()?);
                Ok(())
            }
            ".file" => self.file(),
            ".pragma" => {
                if let Some(mask) = self.pragma()? {
                    reading.used_bytes = Some(mask);
                }
                Ok(())
            }
            ".section" => self.section(),
            ".reg" => self.registers(),
            _ => match self.space() {
                Some(space) => {
                    self.bump()?;
                    self.local_variables(space, &mut reading.body.variables)
                }
                None => Err(self.unexpected("a declaration such as `.reg` or `.shared`")),
            },
        }
    }

    /// `.loc file line column[, function_name label][, inlined_at file line column]`.
    /// The innermost position is the one written first.
    pub(super) fn loc(&mut self) -> Result<SourceLoc, ParseError> {
        self.bump()?;
        let mut loc = self.position()?;
        while self.eat(",")? {
            let word = self.word("`function_name` or `inlined_at`")?;
            match word.text {
                "function_name" => {
                    self.word("a label of the string section")?;
                    self.offset_terms()?;
                }
                "inlined_at" => {
                    let at = self.position()?;
                    loc.inlined_at = Some((at.file, at.line, at.column));
                }
                _ => {
                    let met = word.shown();
                    let expected = "`function_name` or `inlined_at`";
                    return Err(self.error_at(&word, ParseErrorKind::Unexpected { met, expected }));
                }
            }
        }
        Ok(loc)
    }

    fn position(&mut self) -> Result<SourceLoc, ParseError> {
        Ok(SourceLoc {
            file: self.small_int("a file index")?,
            line: self.small_int("a line")?,
            column: self.small_int("a column")?,
            inlined_at: None,
        })
    }

    // ---- registers ----------------------------------------------------------

    pub(super) fn new_register(&mut self, name: String, ty: Type) -> Result<RegId, ParseError> {
        if self.registers_before + self.regs.len() >= MAX_REGISTERS {
            return Err(self.error(ParseErrorKind::TooLarge {
                what: "registers in a module",
                limit: MAX_REGISTERS as u64,
            }));
        }
        self.regs.push(Reg { name, ty });
        Ok(RegId(self.regs.len() as u32 - 1))
    }

    /// One register, or the components of a vector one.
    fn new_vector(&mut self, name: &str, ty: Type, width: u32) -> Result<RegId, ParseError> {
        if width == 1 {
            return self.new_register(name.to_string(), ty);
        }
        let first = RegId(self.regs.len() as u32);
        for component in ["x", "y", "z", "w"] {
            self.new_register(format!("{name}.{component}"), ty)?;
            if self.regs.len() as u32 == first.0 + width {
                break;
            }
        }
        Ok(first)
    }

    /// `.reg .b32 %r<5>, %x, %y;`
    fn registers(&mut self) -> Result<(), ParseError> {
        self.bump()?;
        let shape = self.shape()?;
        if shape.width > 4 {
            return Err(self.unsupported("a register vector of more than 4 components"));
        }
        loop {
            let name = self.word("a register's name")?;
            self.check_fresh(&name)?;
            if self.eat("<")? {
                let count = self.small_int("how many registers")?;
                self.expect(">", "`>`")?;
                let first = RegId(self.regs.len() as u32);
                for i in 0..count {
                    self.new_vector(&format!("{}{i}", name.text), shape.ty, shape.width)?;
                }
                let fresh = self
                    .scopes
                    .declare_range(name.text, first, count, shape.width);
                if !fresh {
                    let name_text = name.text.into();
                    return Err(
                        self.error_at(&name, ParseErrorKind::Redeclared { name: name_text })
                    );
                }
            } else {
                let first = self.new_vector(name.text, shape.ty, shape.width)?;
                let what = match shape.width {
                    1 => Name::Reg(first),
                    width => Name::RegVector(first, width),
                };
                self.scopes.declare(name.text, what);
            }
            if !self.eat(",")? {
                break;
            }
        }
        self.expect(";", "`,` or `;`")
    }

    // ---- instructions -------------------------------------------------------

    fn guard(&mut self) -> Result<Guard, ParseError> {
        let negated = self.eat("!")?;
        let start = self.token;
        match self.operand(Context::Other)? {
            Operand::Reg(reg) => Ok(Guard { reg, negated }),
            _ => {
                let met = start.shown();
                let expected = "a predicate register";
                Err(self.error_at(&start, ParseErrorKind::Unexpected { met, expected }))
            }
        }
    }

    fn instruction(
        &mut self,
        guard: Option<Guard>,
        name: Token<'a>,
        reading: &mut Reading,
    ) -> Result<(), ParseError> {
        if !name.text.starts_with(|c: char| c.is_ascii_lowercase()) {
            let met = name.shown();
            let expected = "an instruction";
            return Err(self.error_at(&name, ParseErrorKind::Unexpected { met, expected }));
        }
        let opcode = self.opcode(name)?;
        let mut operands = Vec::with_capacity(4);
        let context = Context::of(name.text);
        if !self.eat(";")? {
            loop {
                operands.push(self.operand(context)?);
                if self.eat(";")? {
                    break;
                }
                self.expect(",", "`,` or `;`")?;
            }
        }
        reading.scopes.push(self.scopes.current() as u32);
        reading.body.instructions.push(Instruction {
            guard,
            opcode,
            operands,
            line: name.line,
            loc: reading.loc,
            used_bytes: reading.used_bytes.take(),
        });
        Ok(())
    }

    /// The dotted words behind an instruction's name, and that.
    fn opcode(&mut self, name: Token<'a>) -> Result<Arc<[String]>, ParseError> {
        let mut end = name.start + name.text.len();
        let mut modifiers = std::mem::take(&mut self.modifiers);
        while self.token.kind == Kind::Dotted {
            end = self.token.start + self.token.text.len();
            modifiers.push(&self.token.text[1..]);
            self.bump()?;
        }
        let made = || {
            let words = std::iter::once(name.text).chain(modifiers.iter().copied());
            words.map(str::to_string).collect()
        };
        let spelled = self.lexer.between(name.start, end);
        let opcode = self.opcodes.entry(spelled).or_insert_with(made).clone();
        modifiers.clear();
        self.modifiers = modifiers;
        Ok(opcode)
    }

    // ---- labels -------------------------------------------------------------

    /// What follows `name:`. A table belongs to the label; otherwise it marks a place.
    fn label(&mut self, name: Token<'a>, reading: &mut Reading) -> Result<(), ParseError> {
        self.check_fresh(&name)?;
        let outside = self.globals.contains_key(name.text);
        let unique = self.scopes.unique(name.text, outside);
        self.scopes.label_renamed |= unique != name.text;
        self.scopes.declare(name.text, Name::Label(unique.clone()));
        if self.token.kind == Kind::Dotted {
            match self.token.text {
                ".branchtargets" => {
                    let targets = self.names()?;
                    let scope = self.scopes.current();
                    reading.table_scopes.push((unique.clone(), scope));
                    reading.body.branch_targets.insert(unique, targets);
                    return Ok(());
                }
                ".calltargets" => {
                    let targets = self.names()?;
                    reading.body.call_targets.insert(unique, targets);
                    return Ok(());
                }
                ".callprototype" => {
                    let prototype = self.prototype()?;
                    reading.body.call_prototypes.insert(unique, prototype);
                    return Ok(());
                }
                _ => {}
            }
        }
        let at = reading.body.instructions.len();
        match reading.body.labels.entry(unique) {
            Entry::Vacant(entry) => {
                entry.insert(at);
                Ok(())
            }
            Entry::Occupied(entry) => {
                let name_text = entry.key().clone();
                Err(self.error_at(&name, ParseErrorKind::Redeclared { name: name_text }))
            }
        }
    }

    /// The names of a table, each checked once its function or the module ends.
    fn names(&mut self) -> Result<Vec<String>, ParseError> {
        self.bump()?;
        let mut names = Vec::new();
        loop {
            let name = self.word("a label or function name")?;
            match self.scopes.lookup(name.text) {
                Some(Name::Label(unique)) => names.push(unique),
                _ => {
                    self.refer(name)?;
                    names.push(name.text.to_string());
                }
            }
            if !self.eat(",")? {
                break;
            }
        }
        self.expect(";", "`,` or `;`")?;
        Ok(names)
    }

    /// `.callprototype (ret) _ (params) .noreturn;`
    fn prototype(&mut self) -> Result<(Vec<Param>, Vec<Param>), ParseError> {
        self.bump()?;
        self.scopes.open();
        let returns = if self.at("(") {
            self.params()?
        } else {
            Vec::new()
        };
        self.word("`_`")?;
        let params = if self.at("(") {
            self.params()?
        } else {
            Vec::new()
        };
        self.function_directives()?;
        self.expect(";", "`;`")?;
        self.scopes.close();
        Ok((returns, params))
    }

    /// Notes the use of a name that the function has not declared so far.
    pub(super) fn refer(&mut self, token: Token<'a>) -> Result<(), ParseError> {
        if token.text.starts_with('%') {
            let name = token.text.into();
            return Err(self.error_at(&token, ParseErrorKind::Undeclared { name }));
        }
        if !self.globals.contains_key(token.text) {
            let scope = self.scopes.current();
            self.pending.push(Pending { token, scope });
        }
        Ok(())
    }

    /// Finds the labels that were used before they stood. What is left may be a function
    /// declared later in the module.
    fn settle_labels(&mut self, reading: &mut Reading, pending_before: usize) {
        let scopes = &self.scopes;
        let mut kept = self.pending.split_off(pending_before);
        kept.retain(|p| {
            !matches!(
                scopes.lookup_from(p.scope, p.token.text),
                Some(Name::Label(_))
            )
        });
        self.pending.append(&mut kept);
        if !self.scopes.label_renamed {
            return;
        }
        // Two labels of one name in different scopes: each use means the one it can see.
        let settle = |name: &mut String, scope: usize| {
            if let Some(Name::Label(unique)) = self.scopes.lookup_from(scope, name) {
                *name = unique;
            }
        };
        let uses = reading.body.instructions.iter_mut().zip(&reading.scopes);
        for (instruction, scope) in uses {
            for operand in &mut instruction.operands {
                if let Operand::Symbol(name, 0) = operand {
                    settle(name, *scope as usize);
                }
            }
        }
        for (table, scope) in &reading.table_scopes {
            if let Some(targets) = reading.body.branch_targets.get_mut(table) {
                for name in targets {
                    settle(name, *scope);
                }
            }
        }
    }
}

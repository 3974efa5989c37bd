//! Tokens to syntax tree.
//!
//! Recursive descent with one token of look-ahead. Names are resolved while
//! reading: registers become [`RegId`](super::ast::RegId)s, variables of nested
//! scopes get unique names, and labels are checked when their function ends.

mod body;
mod expr;
mod operand;
mod scope;
mod variable;

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Function, Linkage, Module, Reg, Space};
use super::error::{ParseError, ParseErrorKind};
use super::lexer::{Kind, Lexer, Token};

/// The newest PTX version understood; a newer one is an error, as in the driver.
pub const MAX_VERSION: (u32, u32) = (9, 0);

/// Registers a module may declare. `%r<N>` makes N of them in a few characters,
/// so the text's length does not bound memory.
const MAX_REGISTERS: usize = 1 << 22;

/// Bytes a variable may have: what a device could address.
const MAX_VARIABLE_BYTES: u64 = 1 << 47;

/// Nested braces and parentheses, bounding the parser's own stack.
const MAX_DEPTH: u32 = 100;

/// Reads a PTX module.
///
/// # Errors
/// The first thing in the text that is not PTX, that nothing declares, or that
/// the emulator does not know, with its line and column. No text panics.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let mut parser = Parser::new(text)?;
    parser.header()?;
    while parser.token.kind != Kind::End {
        parser.top_level()?;
    }
    parser.check_pending()?;
    Ok(parser.module)
}

/// What the head of a module asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// Architecture, 80 for `sm_80`.
    pub arch: u32,
    /// `a` (that architecture only) or `f` (its family), if written.
    pub suffix: Option<char>,
}

/// Reads only the head of a module: enough to choose between several.
///
/// # Errors
/// As [`parse`], for the head.
pub fn target(text: &str) -> Result<Target, ParseError> {
    let mut parser = Parser::new(text)?;
    parser.header()?;
    let suffix = match parser.module.target_options.first() {
        Some(first) if first == "a" || first == "f" => first.chars().next(),
        _ => None,
    };
    Ok(Target {
        version: parser.module.version,
        arch: parser.module.target,
        suffix,
    })
}

/// A name used before anything declared it.
struct Pending<'a> {
    token: Token<'a>,
    scope: usize,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token not yet consumed.
    token: Token<'a>,
    module: Module,
    /// Module-scope names; the value tells whether a second declaration is an error.
    globals: HashMap<&'a str, Global>,
    /// The function being read.
    scopes: scope::Scopes<'a>,
    /// Opcodes so far, as spelled.
    opcodes: HashMap<&'a str, Arc<[String]>>,
    /// Room for the words of one.
    modifiers: Vec<&'a str>,
    /// Names used in bodies that were not resolved when their function ended.
    pending: Vec<Pending<'a>>,
    /// Registers of the function being read.
    regs: Vec<Reg>,
    /// Registers of the functions before it.
    registers_before: usize,
    depth: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Global {
    Variable { external: bool, element_bytes: u32 },
    Function { defined: bool },
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, ParseError> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Parser {
            lexer,
            token,
            module: Module {
                version: (0, 0),
                target: 0,
                target_options: Vec::new(),
                files: Default::default(),
                variables: Vec::new(),
                functions: Vec::new(),
                aliases: Vec::new(),
            },
            globals: HashMap::new(),
            scopes: scope::Scopes::default(),
            opcodes: HashMap::new(),
            modifiers: Vec::new(),
            pending: Vec::new(),
            regs: Vec::new(),
            registers_before: 0,
            depth: 0,
        })
    }

    // ---- tokens -------------------------------------------------------------

    fn bump(&mut self) -> Result<Token<'a>, ParseError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn at(&self, punct: &str) -> bool {
        matches!(self.token.kind, Kind::Punct(p) if p == punct)
    }

    fn eat(&mut self, punct: &str) -> Result<bool, ParseError> {
        let met = self.at(punct);
        if met {
            self.bump()?;
        }
        Ok(met)
    }

    fn expect(&mut self, punct: &'static str, shown: &'static str) -> Result<(), ParseError> {
        if self.eat(punct)? {
            Ok(())
        } else {
            Err(self.unexpected(shown))
        }
    }

    /// Whether the token is this dotted word (given with its dot).
    fn at_dotted(&self, word: &str) -> bool {
        self.token.kind == Kind::Dotted && self.token.text == word
    }

    fn eat_dotted(&mut self, word: &str) -> Result<bool, ParseError> {
        let met = self.at_dotted(word);
        if met {
            self.bump()?;
        }
        Ok(met)
    }

    fn word(&mut self, expected: &'static str) -> Result<Token<'a>, ParseError> {
        if self.token.kind == Kind::Word {
            self.bump()
        } else {
            Err(self.unexpected(expected))
        }
    }

    /// A plain integer that fits 32 bits.
    fn small_int(&mut self, expected: &'static str) -> Result<u32, ParseError> {
        match self.token.kind {
            Kind::Int(value, _) => {
                let value = u32::try_from(value).map_err(|_| {
                    self.error(ParseErrorKind::BadNumber {
                        met: self.token.text.into(),
                        reason: "it does not fit 32 bits",
                    })
                })?;
                self.bump()?;
                Ok(value)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    // ---- errors -------------------------------------------------------------

    fn error_at(&self, token: &Token<'a>, kind: ParseErrorKind) -> ParseError {
        ParseError {
            line: token.line,
            column: self.lexer.column(token.start),
            kind,
        }
    }

    fn error(&self, kind: ParseErrorKind) -> ParseError {
        self.error_at(&self.token, kind)
    }

    fn unexpected(&self, expected: &'static str) -> ParseError {
        self.error(ParseErrorKind::Unexpected {
            met: self.token.shown(),
            expected,
        })
    }

    fn unsupported(&self, what: impl Into<String>) -> ParseError {
        self.error(ParseErrorKind::Unsupported { what: what.into() })
    }

    /// Enters one level of nesting; [`Parser::leave`] undoes it.
    fn enter(&mut self, what: &'static str) -> Result<(), ParseError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(ParseErrorKind::TooLarge {
                what,
                limit: MAX_DEPTH.into(),
            }));
        }
        self.depth += 1;
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    // ---- module level -------------------------------------------------------

    /// `.version` and `.target`, which open every module.
    fn header(&mut self) -> Result<(), ParseError> {
        if !self.eat_dotted(".version")? {
            return Err(self.unexpected("`.version`"));
        }
        let version = self
            .token
            .text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let Some(version) = version else {
            return Err(self.unexpected("a version such as `8.0`"));
        };
        if version > MAX_VERSION {
            return Err(self.error(ParseErrorKind::VersionTooNew {
                met: version,
                max: MAX_VERSION,
            }));
        }
        self.module.version = version;
        self.bump()?;
        if !self.eat_dotted(".target")? {
            return Err(self.unexpected("`.target`"));
        }
        let expected = "a target such as `sm_80`";
        let target = self.word(expected)?;
        let number = target.text.strip_prefix("sm_").unwrap_or("");
        let suffix_at = number
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(number.len());
        let (number, suffix) = number.split_at(suffix_at);
        self.module.target = match number.parse() {
            Ok(number) if matches!(suffix, "" | "a" | "f") => number,
            _ => {
                return Err(self.error_at(
                    &target,
                    ParseErrorKind::Unexpected {
                        met: target.shown(),
                        expected,
                    },
                ));
            }
        };
        if !suffix.is_empty() {
            self.module.target_options.push(suffix.into());
        }
        while self.eat(",")? {
            let option = self.word("a target option")?;
            self.module.target_options.push(option.text.into());
        }
        Ok(())
    }

    fn top_level(&mut self) -> Result<(), ParseError> {
        let expected = "a directive such as `.entry`, `.func` or `.global`";
        if self.eat(";")? {
            return Ok(());
        }
        if self.token.kind != Kind::Dotted {
            return Err(self.unexpected(expected));
        }
        match self.token.text {
            ".address_size" => {
                self.bump()?;
                match self.token.kind {
                    Kind::Int(64, _) => {
                        self.bump()?;
                        Ok(())
                    }
                    Kind::Int(32, _) => Err(self.unsupported("`.address_size 32`")),
                    _ => Err(self.unexpected("64")),
                }
            }
            ".file" => self.file(),
            ".loc" => self.loc().map(drop),
            ".pragma" => self.pragma().map(drop),
            ".section" => self.section(),
            ".alias" => self.alias(),
            _ => {
                let linkage = self.linkage()?;
                match self.token.text {
                    ".entry" | ".func" if self.token.kind == Kind::Dotted => self.function(linkage),
                    _ => match self.space() {
                        Some(space @ (Space::Global | Space::Const | Space::Shared)) => {
                            self.bump()?;
                            self.module_variables(space, linkage)
                        }
                        _ if self.at_dotted(".tex") => Err(self.unsupported("`.tex`")),
                        _ => Err(self.unexpected(expected)),
                    },
                }
            }
        }
    }

    fn linkage(&mut self) -> Result<Linkage, ParseError> {
        if self.token.kind != Kind::Dotted {
            return Ok(Linkage::Internal);
        }
        let linkage = match self.token.text {
            ".visible" => Linkage::Visible,
            ".extern" => Linkage::Extern,
            ".weak" => Linkage::Weak,
            ".common" => Linkage::Common,
            _ => return Ok(Linkage::Internal),
        };
        self.bump()?;
        Ok(linkage)
    }

    /// The state space that the token names; does not consume it.
    fn space(&self) -> Option<Space> {
        if self.token.kind != Kind::Dotted {
            return None;
        }
        Some(match self.token.text {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            ".reg" => Space::Reg,
            _ => return None,
        })
    }

    /// `.file 1 "path"[, timestamp, size]`
    fn file(&mut self) -> Result<(), ParseError> {
        self.bump()?;
        let index = self.small_int("a file index")?;
        if self.token.kind != Kind::Str {
            return Err(self.unexpected("a path in quotes"));
        }
        let path = self.bump()?.text.to_string();
        self.module.files.insert(index, path);
        while self.eat(",")? {
            let Kind::Int(..) = self.token.kind else {
                return Err(self.unexpected("a time stamp or size"));
            };
            self.bump()?;
        }
        Ok(())
    }

    /// `.pragma "text", … ;`: the mask of `used_bytes_mask`, if it is that one; the others are hints.
    fn pragma(&mut self) -> Result<Option<u32>, ParseError> {
        self.bump()?;
        let mut used_bytes = None;
        loop {
            if self.token.kind != Kind::Str {
                return Err(self.unexpected("a pragma in quotes"));
            }
            let text = self.token.text.trim_matches('"').trim();
            if let Some(mask) = text.strip_prefix("used_bytes_mask") {
                used_bytes =
                    Some(mask_of(mask.trim()).ok_or_else(|| self.unexpected("a mask of bytes"))?);
            }
            self.bump()?;
            if !self.eat(",")? {
                break;
            }
        }
        self.expect(";", "`;`")?;
        Ok(used_bytes)
    }

    /// `.section name { … }`: debug information, skipped.
    fn section(&mut self) -> Result<(), ParseError> {
        self.bump()?;
        if !matches!(self.token.kind, Kind::Dotted | Kind::Word | Kind::Str) {
            return Err(self.unexpected("a section name"));
        }
        self.bump()?;
        if self.at("{") {
            self.lexer.skip_to_brace();
        }
        self.expect("{", "`{`")?;
        self.expect("}", "`}` at the end of the section")
    }

    /// `.alias name, aliasee;`
    fn alias(&mut self) -> Result<(), ParseError> {
        self.bump()?;
        let alias = self.word("a function name")?;
        self.expect(",", "`,`")?;
        let aliasee = self.word("a function name")?;
        self.expect(";", "`;`")?;
        for token in [&alias, &aliasee] {
            if !matches!(self.globals.get(token.text), Some(Global::Function { .. })) {
                let name = token.text.into();
                return Err(self.error_at(token, ParseErrorKind::Undeclared { name }));
            }
        }
        self.module
            .aliases
            .push((alias.text.into(), aliasee.text.into()));
        Ok(())
    }

    /// `.entry` or `.func`, its header and its body.
    fn function(&mut self, linkage: Linkage) -> Result<(), ParseError> {
        let is_entry = self.bump()?.text == ".entry";
        self.scopes.reset();
        self.regs.clear();
        let returns = if !is_entry && self.at("(") {
            self.params()?
        } else {
            Vec::new()
        };
        // `.func (ret) .attribute(…) name`
        self.attribute()?;
        let name = self.word("a function name")?;
        let line = name.line;
        let params = if self.at("(") {
            self.params()?
        } else {
            Vec::new()
        };
        let directives = self.function_directives()?;
        let defined = self.at("{");
        self.declare_function(&name, defined)?;
        let body = if defined {
            Some(self.body()?)
        } else {
            self.expect(";", "`{` or `;` after the function's head")?;
            None
        };
        self.module.functions.push(Function {
            name: name.text.into(),
            is_entry,
            linkage,
            returns,
            params,
            directives,
            body,
            line,
        });
        Ok(())
    }

    fn declare_function(&mut self, name: &Token<'a>, defined: bool) -> Result<(), ParseError> {
        let before = self.globals.get(name.text).copied();
        let clash = match before {
            None => false,
            Some(Global::Function { defined: before }) => before && defined,
            Some(Global::Variable { .. }) => true,
        };
        if clash {
            let name_text = name.text.into();
            return Err(self.error_at(name, ParseErrorKind::Redeclared { name: name_text }));
        }
        let defined = defined || before == Some(Global::Function { defined: true });
        self.globals.insert(name.text, Global::Function { defined });
        Ok(())
    }

    /// `.maxntid 128, 1, 1 .minnctapersm 2 .noreturn …`
    fn function_directives(&mut self) -> Result<Vec<(String, Vec<u32>)>, ParseError> {
        let mut directives = Vec::new();
        while self.token.kind == Kind::Dotted {
            if self.at_dotted(".pragma") {
                self.pragma()?;
                continue;
            }
            if self.at_dotted(".attribute") {
                self.attribute()?;
                continue;
            }
            let name = self.bump()?.text[1..].to_string();
            let mut numbers = Vec::new();
            if let Kind::Int(..) = self.token.kind {
                numbers.push(self.small_int("a number")?);
                while self.eat(",")? {
                    numbers.push(self.small_int("a number")?);
                }
            }
            directives.push((name, numbers));
        }
        Ok(directives)
    }

    /// Skips `.attribute(.managed, .unified(1, 2))` where there is one.
    fn attribute(&mut self) -> Result<(), ParseError> {
        if !self.eat_dotted(".attribute")? {
            return Ok(());
        }
        self.expect("(", "`(`")?;
        let mut open = 1;
        while open > 0 {
            match self.token.kind {
                Kind::Punct("(") => open += 1,
                Kind::Punct(")") => open -= 1,
                Kind::Punct(",") | Kind::Dotted | Kind::Int(..) | Kind::Word => {}
                _ => return Err(self.unexpected("an attribute or `)`")),
            }
            self.bump()?;
        }
        Ok(())
    }

    /// Names that no function declared must be functions or variables of the module.
    fn check_pending(&self) -> Result<(), ParseError> {
        for pending in &self.pending {
            if !self.globals.contains_key(pending.token.text) {
                let name = pending.token.text.into();
                return Err(self.error_at(&pending.token, ParseErrorKind::Undeclared { name }));
            }
        }
        Ok(())
    }
}

/// The number of a `used_bytes_mask`, in decimal or hexadecimal.
fn mask_of(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

//! Characters to tokens.
//!
//! Tokens borrow from the text and carry their line and column. Words with a
//! leading dot (`.global`, `.shared::cta`, `.16x8`) are one token, so that an
//! opcode is a plain word followed by dotted ones.

use super::error::{ParseError, ParseErrorKind};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A name: `mov`, `%r1`, `$L__BB0_2`.
    Word,
    /// A word with its leading dot.
    Dotted,
    /// An integer literal and whether it carries `U`.
    Int(u64, bool),
    /// `0f` literal: bits.
    F32(u32),
    /// `0d` or decimal literal: bits.
    F64(u64),
    /// A string; the token's text is without the quotes.
    Str,
    /// An operator or bracket.
    Punct(&'static str),
    /// End of the text.
    End,
}

/// One token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// The text it was made from.
    pub text: &'a str,
    /// Line, from 1.
    pub line: u32,
    /// Byte offset of its start.
    pub start: usize,
}

impl Token<'_> {
    /// The token as an error message shows it.
    pub fn shown(&self) -> String {
        match self.kind {
            Kind::End => "the end of the text".into(),
            Kind::Str => format!("the string \"{}\"", clip(self.text)),
            _ => format!("`{}`", clip(self.text)),
        }
    }
}

/// The first characters of an overlong token.
fn clip(text: &str) -> &str {
    match text.char_indices().nth(64) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// The longest operator or bracket that starts with `first` (and `second`).
fn punctuation(first: u8, second: u8) -> Option<&'static str> {
    Some(match (first, second) {
        (b'<', b'<') => "<<",
        (b'>', b'>') => ">>",
        (b'<', b'=') => "<=",
        (b'>', b'=') => ">=",
        (b'=', b'=') => "==",
        (b'!', b'=') => "!=",
        (b'&', b'&') => "&&",
        (b'|', b'|') => "||",
        (b'{', _) => "{",
        (b'}', _) => "}",
        (b'[', _) => "[",
        (b']', _) => "]",
        (b'(', _) => "(",
        (b')', _) => ")",
        (b',', _) => ",",
        (b';', _) => ";",
        (b':', _) => ":",
        (b'+', _) => "+",
        (b'-', _) => "-",
        (b'*', _) => "*",
        (b'/', _) => "/",
        (b'%', _) => "%",
        (b'<', _) => "<",
        (b'>', _) => ">",
        (b'=', _) => "=",
        (b'!', _) => "!",
        (b'~', _) => "~",
        (b'&', _) => "&",
        (b'|', _) => "|",
        (b'^', _) => "^",
        (b'?', _) => "?",
        _ => return None,
    })
}

fn is_word_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || b == b'$' || b == b'%'
}

fn is_word(b: u8) -> bool {
    /// By byte: most of a text is words.
    const WORD: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0;
        while b < 256 {
            let byte = b as u8;
            table[b] = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$';
            b += 1;
        }
        table
    };
    WORD[b as usize]
}

/// Yields the tokens of a text one by one.
#[derive(Clone)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Lexer {
            text,
            at: 0,
            line: 1,
        }
    }

    /// The byte at `i`, or 0 past the end.
    fn byte(&self, i: usize) -> u8 {
        self.text.as_bytes().get(i).copied().unwrap_or(0)
    }

    /// Column, from 1 and in characters, of a byte offset.
    pub fn column(&self, offset: usize) -> u32 {
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        before[line_start..].chars().count() as u32 + 1
    }

    /// The text from one byte offset to another, both of tokens.
    pub fn between(&self, start: usize, end: usize) -> &'a str {
        &self.text[start..end]
    }

    fn error(&self, start: usize, line: u32, kind: ParseErrorKind) -> ParseError {
        ParseError {
            line,
            column: self.column(start),
            kind,
        }
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) -> Result<(), ParseError> {
        let bytes = self.text.as_bytes();
        while let Some(&b) = bytes.get(self.at) {
            match b {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'/' if self.byte(self.at + 1) == b'/' => self.skip_line(),
                b'/' if self.byte(self.at + 1) == b'*' => {
                    let Some(len) = self.text[self.at + 2..].find("*/") else {
                        return Err(self.error(
                            self.at,
                            self.line,
                            ParseErrorKind::Unexpected {
                                met: "a comment without end".into(),
                                expected: "`*/`",
                            },
                        ));
                    };
                    let end = self.at + 2 + len + 2;
                    self.line += count_lines(&bytes[self.at..end]);
                    self.at = end;
                }
                // DWARF lines of the oldest compilers.
                b'@' if self.text[self.at..].starts_with("@@") => self.skip_line(),
                _ => break,
            }
        }
        Ok(())
    }

    /// Goes on at the next `}`, or at the end of the text.
    pub fn skip_to_brace(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let len = rest.iter().position(|&b| b == b'}').unwrap_or(rest.len());
        self.line += count_lines(&rest[..len]);
        self.at += len;
    }

    fn skip_line(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
    }

    /// The next token; [`Kind::End`] for ever once the text is through.
    pub fn next(&mut self) -> Result<Token<'a>, ParseError> {
        let before = self.at;
        self.skip_blank()?;
        let start = self.at;
        let line = self.line;
        let first = self.byte(start);
        let second = self.byte(start + 1);
        // `.5` is a number, but `ld.16x8` is an opcode: what stands directly before decides.
        let glued = start == before && start > 0 && is_word(self.byte(start - 1));
        let kind = if start >= self.text.len() {
            Kind::End
        } else if is_word_start(first) && (first != b'%' || is_word(second)) {
            self.at += 1;
            self.take_word();
            Kind::Word
        } else if first == b'.' && is_word(second) && (glued || !second.is_ascii_digit()) {
            self.at += 1;
            self.take_word();
            while self.byte(self.at) == b':'
                && self.byte(self.at + 1) == b':'
                && is_word(self.byte(self.at + 2))
            {
                self.at += 2;
                self.take_word();
            }
            Kind::Dotted
        } else if first.is_ascii_digit() || (first == b'.' && second.is_ascii_digit()) {
            self.number()?
        } else if first == b'"' {
            return self.string();
        } else if first == b'@' {
            self.at += 1;
            Kind::Punct("@")
        } else if let Some(p) = punctuation(first, second) {
            self.at += p.len();
            Kind::Punct(p)
        } else {
            let met = self.text[start..].chars().next().unwrap_or(' ');
            return Err(self.error(
                start,
                line,
                ParseErrorKind::Unexpected {
                    met: format!("the character {met:?}"),
                    expected: "PTX",
                },
            ));
        };
        Ok(Token {
            kind,
            text: &self.text[start..self.at],
            line,
            start,
        })
    }

    fn take_word(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|&b| !is_word(b)).unwrap_or(rest.len());
    }

    fn string(&mut self) -> Result<Token<'a>, ParseError> {
        let start = self.at;
        let line = self.line;
        let bytes = self.text.as_bytes();
        let mut i = start + 1;
        loop {
            match bytes.get(i) {
                Some(b'"') => break,
                Some(b'\\') if bytes.get(i + 1).is_some_and(|&b| b != b'\n') => i += 2,
                Some(b'\n') | None => {
                    return Err(self.error(
                        start,
                        line,
                        ParseErrorKind::Unexpected {
                            met: "a string without end".into(),
                            expected: "`\"` on the same line",
                        },
                    ));
                }
                Some(_) => i += 1,
            }
        }
        self.at = i + 1;
        Ok(Token {
            kind: Kind::Str,
            text: &self.text[start + 1..i],
            line,
            start,
        })
    }

    fn number(&mut self) -> Result<Kind, ParseError> {
        let start = self.at;
        let line = self.line;
        // Everything glued to the number belongs to it, so `12abc` is one bad literal.
        self.take_word();
        let hex = self.text[start..]
            .get(..2)
            .is_some_and(|p| matches!(p, "0x" | "0X" | "0f" | "0F" | "0d" | "0D" | "0b" | "0B"));
        if !hex {
            if self.byte(self.at) == b'.' {
                self.at += 1;
                self.take_word();
            }
            if matches!(self.byte(self.at - 1), b'e' | b'E')
                && matches!(self.byte(self.at), b'+' | b'-')
                && self.byte(self.at + 1).is_ascii_digit()
            {
                self.at += 1;
                self.take_word();
            }
        }
        let text = &self.text[start..self.at];
        literal(text).map_err(|reason| {
            self.error(
                start,
                line,
                ParseErrorKind::BadNumber {
                    met: clip(text).into(),
                    reason,
                },
            )
        })
    }
}

fn count_lines(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u32
}

/// The value of a number literal.
fn literal(text: &str) -> Result<Kind, &'static str> {
    let all_hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    let prefix = text.get(..2).unwrap_or("");
    match prefix {
        "0f" | "0F" => {
            let digits = &text[2..];
            if digits.len() != 8 || !all_hex(digits) {
                return Err("`0f` takes exactly 8 hexadecimal digits");
            }
            let bits = u32::from_str_radix(digits, 16).map_err(|_| "not hexadecimal")?;
            return Ok(Kind::F32(bits));
        }
        "0d" | "0D" => {
            let digits = &text[2..];
            if digits.len() != 16 || !all_hex(digits) {
                return Err("`0d` takes exactly 16 hexadecimal digits");
            }
            let bits = u64::from_str_radix(digits, 16).map_err(|_| "not hexadecimal")?;
            return Ok(Kind::F64(bits));
        }
        "0x" | "0X" | "0b" | "0B" => {}
        _ if text.contains(['.', 'e', 'E']) => {
            let value: f64 = text.parse().map_err(|_| "not a decimal number")?;
            return Ok(Kind::F64(value.to_bits()));
        }
        _ => {}
    }
    let (body, unsigned) = match text.strip_suffix('U') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let (digits, radix) = match prefix {
        "0x" | "0X" => (&body[2..], 16),
        "0b" | "0B" => (&body[2..], 2),
        _ if body.len() > 1 && body.starts_with('0') => (&body[1..], 8),
        _ => (body, 10),
    };
    if digits.is_empty() || !digits.bytes().all(|b| (b as char).is_digit(radix)) {
        return Err("a digit does not belong to it");
    }
    match u64::from_str_radix(digits, radix) {
        Ok(value) => Ok(Kind::Int(value, unsigned)),
        Err(_) => Err("it does not fit 64 bits"),
    }
}

//! What can be wrong with PTX text, and where.

use std::fmt;

/// A refusal of PTX text, with the place of the offending token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong there.
    pub kind: ParseErrorKind,
}

/// The kinds of [`ParseError`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseErrorKind {
    /// A token that the grammar does not allow here.
    Unexpected {
        /// The token met.
        met: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// `.version` beyond [`MAX_VERSION`](super::parser::MAX_VERSION).
    VersionTooNew {
        /// Version of the text.
        met: (u32, u32),
        /// Newest version understood.
        max: (u32, u32),
    },
    /// A register, variable, label or function that nothing declares.
    Undeclared {
        /// The name.
        name: String,
    },
    /// A name declared twice in one scope.
    Redeclared {
        /// The name.
        name: String,
    },
    /// A literal that does not fit its form.
    BadNumber {
        /// The literal.
        met: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A construct of PTX that the emulator does not execute.
    Unsupported {
        /// The construct.
        what: String,
    },
    /// A count or nesting beyond what the parser accepts.
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// The most allowed.
        limit: u64,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}, column {}: ", self.line, self.column)?;
        match &self.kind {
            ParseErrorKind::Unexpected { met, expected } => {
                write!(f, "met {met}, expected {expected}")
            }
            ParseErrorKind::VersionTooNew { met, max } => write!(
                f,
                "PTX version {}.{} is newer than {}.{}, the newest understood",
                met.0, met.1, max.0, max.1
            ),
            ParseErrorKind::Undeclared { name } => write!(f, "`{name}` is not declared"),
            ParseErrorKind::Redeclared { name } => {
                write!(f, "`{name}` is already declared in this scope")
            }
            ParseErrorKind::BadNumber { met, reason } => write!(f, "bad number `{met}`: {reason}"),
            ParseErrorKind::Unsupported { what } => write!(f, "{what} is not supported"),
            ParseErrorKind::TooLarge { what, limit } => write!(f, "more than {limit} {what}"),
        }
    }
}

impl std::error::Error for ParseError {}

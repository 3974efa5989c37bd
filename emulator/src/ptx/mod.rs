//! PTX text to syntax tree.

pub mod ast;
mod error;
mod lexer;
pub mod parser;

pub use error::{ParseError, ParseErrorKind};
pub use parser::{MAX_VERSION, Target, parse, target};

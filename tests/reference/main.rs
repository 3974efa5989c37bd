//! The oracle against numbers worked out elsewhere, and against itself.

mod common;
mod errors;
mod golden;
mod options;
mod properties;

//! The oracle against numbers worked out elsewhere, and against itself.

mod common;
mod compare;
mod errors;
mod fp8;
mod golden;
mod options;
mod properties;
mod quantize;
mod rope;
mod statistics;

//! `wmma`: matrix products whose fragments are laid out as the implementation likes.
//!
//! Here a fragment is the matrix cut into 32 equal runs, a lane each, along the direction in which memory
//! holds it: so a lane's run is contiguous in memory too. A and B carry their layout in every instruction; C and
//! D do not, and are cut row by row. Where the ISA gives `.f16` factors more registers than that needs, the run
//! is there again.

mod fragment;
mod product;

use super::has;
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::Inst;
use crate::ptx::ast::{Instruction, Type};

/// `wmma`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if !has(i, "sync") || !has(i, "aligned") {
        return d.invalid("neither .sync nor .aligned may be left out");
    }
    match i.opcode.get(1).map(String::as_str) {
        Some("load") => fragment::access(d, i, true),
        Some("store") => fragment::access(d, i, false),
        Some("mma") => product::product(d, i),
        _ => d.unsupported("form"),
    }
}

/// Rows, columns and depth of the shapes there are.
const SHAPES: &[(&str, [u32; 3])] = &[
    ("m16n16k16", [16, 16, 16]),
    ("m8n32k16", [8, 32, 16]),
    ("m32n8k16", [32, 8, 16]),
    ("m16n16k8", [16, 16, 8]),
    ("m8n8k4", [8, 8, 4]),
    ("m8n8k32", [8, 8, 32]),
    ("m8n8k128", [8, 8, 128]),
];

/// Bits of the element types.
const ELEMENTS: &[(&str, u32)] = &[
    ("f16", 16),
    ("bf16", 16),
    ("tf32", 32),
    ("f32", 32),
    ("f64", 64),
    ("s8", 8),
    ("u8", 8),
    ("s4", 4),
    ("u4", 4),
    ("b1", 1),
    ("s32", 32),
];

fn element_bits(name: &str) -> Option<u32> {
    ELEMENTS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|&(_, bits)| bits)
}

fn shape_of(d: &Decoder, i: &Instruction) -> Result<[u32; 3], LoadError> {
    match SHAPES.iter().find(|(name, _)| has(i, name)) {
        Some(&(_, shape)) => Ok(shape),
        None => d.unsupported("shape"),
    }
}

/// Whether factors of that type come in that shape.
fn factors_fit([m, n, k]: [u32; 3], element: &str) -> bool {
    match element {
        "f16" | "bf16" | "s8" | "u8" => k == 16 && m * n == 256,
        "tf32" => k == 8,
        "f64" => k == 4,
        "s4" | "u4" => k == 32,
        "b1" => k == 128,
        _ => false,
    }
}

/// Bytes of a lane's run of a matrix with that many elements.
fn run_bytes(count: u32, bits: u32) -> u32 {
    count * bits / 8 / 32
}

/// Registers of a fragment: those its run fills, but always eight for `.f16` factors.
fn registers(element: &str, bytes: u32, factor: bool) -> usize {
    match element {
        "f16" if factor => 8,
        "f64" => bytes as usize / 8,
        _ => bytes as usize / 4,
    }
}

fn register_type(element: &str) -> Type {
    match element {
        "f64" => Type::F64,
        _ => Type::B32,
    }
}

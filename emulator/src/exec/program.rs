//! The flat program that warps run: one [`Inst`] for each PTX instruction.

use super::warp::Warp;
use crate::ptx::ast::SourceLoc;
use std::sync::Arc;

/// Bytes of a register slot: 32 lanes of 32 bits. A 64-bit register takes two.
pub const SLOT: u32 = 128;

/// What the warp does after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// Go on with the next instruction.
    Next,
    /// The program counter was set.
    Jump,
    /// The warp must leave its loop: [`Warp::stop`] says why.
    Stop,
}

/// Executes one instruction for the lanes of `mask` (never zero).
///
/// # Safety
/// The warp's register file is that of the program the instruction belongs to, and its block and launch
/// are alive.
pub type Handler = unsafe fn(warp: &mut Warp, inst: &Inst, mask: u32) -> Flow;

/// A decoded instruction. Operands are byte offsets of register slots; immediates and special registers
/// have slots like any other.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Inst {
    /// What executes it.
    pub run: Handler,
    /// Slot of the guard predicate (a slot of ones where there is none).
    pub guard: u32,
    /// All ones where the guard is negated.
    pub guard_xor: u32,
    /// Destination.
    pub d: u32,
    /// First source.
    pub a: u32,
    /// Second source.
    pub b: u32,
    /// Third source.
    pub c: u32,
    /// Address offset, branch target, or other constant of the operation.
    pub imm: i64,
    /// Further constant of the operation.
    pub aux: u32,
    /// First of further operands in [`Program::extra`].
    pub extra: u32,
}

/// What pipe an instruction is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names say it
pub enum Pipe {
    Alu,
    Fma,
    Fp16,
    Fp64,
    Xu,
    Tensor,
    Lsu,
    Control,
}

/// What is known of an instruction besides how to execute it.
#[derive(Debug, Clone, PartialEq)]
pub struct InstInfo {
    /// Opcode with modifiers.
    pub opcode: Arc<str>,
    /// The operands as text, for reports.
    pub text: String,
    /// Line in the PTX text.
    pub line: u32,
    /// CUDA source position.
    pub loc: Option<SourceLoc>,
    /// Pipe.
    pub pipe: Pipe,
    /// Function it belongs to.
    pub function: u32,
}

/// A special register and the slot that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialSlot {
    /// Name with its `%`.
    pub name: String,
    /// Byte offset of the slot.
    pub slot: u32,
}

/// A function linked into the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Name as in PTX.
    pub name: String,
    /// First instruction.
    pub entry: u32,
    /// Bytes of local memory a frame needs: variables, call parameters, formal parameters.
    pub frame_bytes: u32,
    /// Formal parameters: offset in the frame and size.
    pub params: Vec<(u32, u32)>,
    /// Return values: offset in the frame and size.
    pub returns: Vec<(u32, u32)>,
    /// Slots of its registers, first byte and one past the last (to save across recursion).
    pub slots: (u32, u32),
    /// Whether it can be active twice in a thread.
    pub recursive: bool,
}

/// A kernel's program: its own instructions, then those of the functions it reaches.
#[derive(Debug)]
pub struct Program {
    /// Instructions; the program counter indexes them.
    pub insts: Vec<Inst>,
    /// Parallel to `insts`.
    pub info: Vec<InstInfo>,
    /// Parallel to `insts`.
    pub effects: Vec<super::doubt::Effects>,
    /// Further operands.
    pub extra: Vec<u32>,
    /// Functions; the kernel is the first.
    pub functions: Vec<FunctionInfo>,
    /// Bytes of a warp's register file.
    pub file_bytes: u32,
    /// Constants to broadcast: slot, bits, whether the slot is 64 bits wide.
    pub constants: Vec<(u32, u64, bool)>,
    /// Special registers used.
    pub specials: Vec<SpecialSlot>,
    /// `.file` paths by index.
    pub files: std::collections::BTreeMap<u32, String>,
    /// Shared memory declared statically, in bytes; dynamic shared memory follows it.
    pub static_shared: u32,
    /// Linked functions by their place among the module's functions, from which their address comes.
    pub by_module_index: std::collections::HashMap<usize, u32>,
    /// Instructions that touch registers which may be unwritten.
    pub watches: std::collections::HashMap<u32, super::watch::Watch>,
    /// Mask slots of watched registers, cleared when a block begins.
    pub watch_slots: Vec<u32>,
    /// Positions inside inlined functions, and where those were inlined.
    pub inlined: std::collections::HashMap<(u32, u32, u32), (u32, u32, u32)>,
    /// Slots of registers and bytes a lane of each: 4, 8 or 16; 0 for predicates.
    pub widths: Vec<(u32, u32)>,
}

impl Program {
    /// CUDA source file and line of an instruction.
    pub fn source(&self, pc: usize) -> Option<(String, u32)> {
        self.sources(pc).into_iter().next()
    }

    /// CUDA source files and lines of an instruction: its own, then where the function was inlined, outwards.
    pub fn sources(&self, pc: usize) -> Vec<(String, u32)> {
        let Some(loc) = self.info.get(pc).and_then(|i| i.loc) else {
            return Vec::new();
        };
        let name = |file: u32| {
            self.files
                .get(&file)
                .cloned()
                .unwrap_or_else(|| format!("<file {file}>"))
        };
        let mut out = vec![(name(loc.file), loc.line)];
        let mut next = loc.inlined_at;
        // Inlining is finite; a cycle could only come from PTX that lies.
        while let Some(at) = next.filter(|_| out.len() < 64) {
            out.push((name(at.0), at.1));
            next = self.inlined.get(&at).copied();
        }
        out
    }
}

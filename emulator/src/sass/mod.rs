//! Machine code as ptxas made it, and how much of it a launch issues.
//!
//! The emulator executes PTX, but what a GPU issues is machine code: address
//! arithmetic folded away, moves added, loops unrolled. [`Code::read`] decodes a cubin
//! into instructions with the PTX line that each came from (`-lineinfo` leaves the
//! table), splits them into basic blocks, and [`Code::weigh`] gives each block the
//! executed count of the PTX it came from, so that the machine instructions issued by
//! a launch can be added up without a GPU.

mod blocks;
mod decode;
mod equivalence;
mod lines;
mod machine;
mod solve;
mod weigh;

use std::collections::BTreeMap;
use std::fmt;

use crate::exec::text;
use crate::image::ImageError;
use crate::image::cubin::{Cubin, FunctionSymbol};
use crate::ptx;

pub use blocks::Block;
pub use decode::{Flow, Instruction, Predicate};
pub use lines::SourceLine;
pub use machine::MachineCode;
pub use weigh::{Basis, BlockWeight, Executed, Weights};

/// Oldest and newest architectures whose encoding is known here.
const ARCHITECTURES: std::ops::RangeInclusive<u32> = 70..=90;

/// The machine code of a cubin.
#[derive(Debug, Clone, PartialEq)]
pub struct Code {
    /// Architecture, 80 for `sm_80`.
    pub arch: u32,
    /// Functions that have code of their own, kernels and others.
    pub functions: Vec<Function>,
    /// The PTX that ptxas compiled, where the cubin carries it (`-lineinfo`).
    pub ptx: Option<Ptx>,
}

/// The PTX inside a cubin.
#[derive(Debug, Clone, PartialEq)]
pub struct Ptx {
    /// Its text, comments emptied: lines are those of the original.
    pub text: String,
    /// Each function with a body.
    functions: BTreeMap<String, PtxFunction>,
}

/// A function of the PTX.
#[derive(Debug, Clone, PartialEq)]
struct PtxFunction {
    instructions: Vec<PtxInstruction>,
    /// Whether its first instruction has a label, and may be branched to.
    labelled: bool,
}

/// What weighing needs of a PTX instruction.
#[derive(Debug, Clone, PartialEq)]
struct PtxInstruction {
    line: u32,
    /// Opcode and operands.
    text: String,
    guarded: bool,
    anchor: Option<weigh::Anchor>,
}

impl Ptx {
    fn read(text: String) -> Result<Self, SassError> {
        let module = ptx::parse(&text).map_err(SassError::Ptx)?;
        let mut functions = BTreeMap::new();
        for function in module.functions {
            let Some(body) = function.body else { continue };
            let instructions = body.instructions.iter().map(|i| PtxInstruction {
                line: i.line,
                text: text::instruction(i, &body),
                guarded: i.guard.is_some(),
                anchor: weigh::Anchor::of_ptx(i),
            });
            let compiled = PtxFunction {
                instructions: instructions.collect(),
                labelled: body.labels.values().any(|at| *at == 0),
            };
            functions.insert(function.name, compiled);
        }
        Ok(Ptx { text, functions })
    }
}

/// The code of one function, and of those that ptxas placed within it.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Name, mangled.
    pub name: String,
    /// Whether it can be launched.
    pub is_kernel: bool,
    /// Every instruction, padding included, at 16 bytes each.
    pub instructions: Vec<Instruction>,
    /// Basic blocks in order of address; together they hold every instruction.
    pub blocks: Vec<Block>,
}

/// Why machine code cannot be read or weighed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SassError {
    /// The cubin is damaged.
    Image(ImageError),
    /// An architecture whose encoding is not known here.
    Architecture {
        /// The cubin's.
        arch: u32,
    },
    /// The cubin has no lines: it was compiled without `-lineinfo`.
    NoLines,
    /// The table of lines is damaged.
    Lines {
        /// What went wrong.
        reason: String,
    },
    /// The PTX inside the cubin does not parse.
    Ptx(ptx::ParseError),
    /// The cubin was compiled from another PTX than the one counted.
    OtherPtx {
        /// The function that differs.
        function: String,
        /// Line of the cubin's PTX where it does.
        line: u32,
    },
}

impl fmt::Display for SassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SassError::Image(error) => error.fmt(f),
            SassError::Architecture { arch } => write!(
                f,
                "machine code of sm_{arch}: known are sm_{} to sm_{}",
                ARCHITECTURES.start(),
                ARCHITECTURES.end()
            ),
            SassError::NoLines => f.write_str("the cubin has no lines: compile with -lineinfo"),
            SassError::Lines { reason } => write!(f, "damaged table of lines: {reason}"),
            SassError::Ptx(error) => write!(f, "in the cubin's own PTX: {error}"),
            SassError::OtherPtx { function, line } => write!(
                f,
                "the cubin was compiled from another PTX than the one executed: \
                 `{function}` differs at line {line}"
            ),
        }
    }
}

impl std::error::Error for SassError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SassError::Image(error) => Some(error),
            SassError::Ptx(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ImageError> for SassError {
    fn from(error: ImageError) -> Self {
        SassError::Image(error)
    }
}

impl Code {
    /// Decodes the machine code of a cubin.
    ///
    /// # Errors
    /// [`SassError`] for a damaged file, an unknown architecture, a table of lines or PTX that
    /// does not read. A cubin without lines decodes; its instructions then have none.
    pub fn read(bytes: &[u8]) -> Result<Code, SassError> {
        let arch = crate::image::cubin::architecture(bytes)?;
        if !ARCHITECTURES.contains(&arch) {
            return Err(SassError::Architecture { arch });
        }
        let cubin = Cubin::parse(bytes)?;
        let ptx_lines = lines::ptx_lines(&cubin)?;
        let source_lines = lines::source_lines(&cubin)?;
        let symbols = cubin.functions();
        let mut functions = Vec::new();
        for (index, name, section) in cubin.named() {
            let Some(name) = name.strip_prefix(".text.") else {
                continue;
            };
            let mut instructions = decode::instructions(cubin.data(section)?, arch);
            lines::attach(&mut instructions, index, &ptx_lines, |i, line| {
                i.ptx_line = Some(*line);
            });
            lines::attach(&mut instructions, index, &source_lines, |i, line| {
                i.source = Some(line.clone());
            });
            let inside: Vec<_> = symbols.iter().filter(|s| s.section == index).collect();
            let indirect = cubin.indirect_targets(name)?;
            functions.push(Function {
                name: name.to_string(),
                is_kernel: inside.iter().any(|s| s.is_kernel && s.name == name),
                blocks: blocks::split(&instructions, &entries(&inside), &indirect),
                instructions,
            });
        }
        Ok(Code {
            arch,
            functions,
            ptx: lines::ptx_text(&cubin)?.map(Ptx::read).transpose()?,
        })
    }
}

/// Offsets at which code of a section is entered from outside.
fn entries(symbols: &[&FunctionSymbol<'_>]) -> Vec<u64> {
    let mut offsets: Vec<u64> = symbols.iter().map(|s| s.offset).collect();
    offsets.push(0);
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

//! What the parser produces: one PTX module, names resolved to registers and
//! symbols, nested scopes flattened, nothing interpreted yet.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A parsed PTX module.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// `.target` architecture, e.g. 80 for `sm_80`.
    pub target: u32,
    /// Suffix of the target (`a` or `f`) and further target options, verbatim.
    pub target_options: Vec<String>,
    /// `.file` directives: index to path.
    pub files: BTreeMap<u32, String>,
    /// Module-scope variables (`.global`, `.const`, `.shared`, extern ones too).
    pub variables: Vec<Variable>,
    /// Functions and kernels, in order; a declaration has no body.
    pub functions: Vec<Function>,
    /// `.alias` directives: new name, function it stands for.
    pub aliases: Vec<(String, String)>,
}

/// State space of a variable or an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.global`
    Global,
    /// `.const`
    Const,
    /// `.shared`
    Shared,
    /// `.shared::cluster`: the shared memory of all blocks of the cluster.
    Cluster,
    /// `.local`
    Local,
    /// `.param`
    Param,
    /// `.reg` (parameters of device functions in old PTX)
    Reg,
}

/// Fundamental type of a register, variable or instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are PTX's own
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    F32,
    F32x2,
    F64,
}

impl Type {
    /// Size in bytes; a predicate counts as 1.
    pub fn size(self) -> u32 {
        use Type::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | BF16 => 2,
            B32 | U32 | S32 | F16x2 | BF16x2 | F32 => 4,
            B64 | U64 | S64 | F64 | F32x2 => 8,
            B128 => 16,
        }
    }

    /// The type named by a PTX suffix without its dot (`"s32"`), if it is one.
    pub fn from_suffix(s: &str) -> Option<Type> {
        use Type::*;
        Some(match s {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => BF16,
            "bf16x2" => BF16x2,
            "f32" => F32,
            "f32x2" => F32x2,
            "f64" => F64,
            _ => return None,
        })
    }
}

/// Linkage of a symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// No directive: private to the module.
    Internal,
    /// `.visible`
    Visible,
    /// `.extern`
    Extern,
    /// `.weak`
    Weak,
    /// `.common`
    Common,
}

/// A variable in a state space.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Unique name (a function-scope variable that shadows another is renamed).
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Linkage.
    pub linkage: Linkage,
    /// Alignment in bytes (natural alignment where none is written).
    pub align: u32,
    /// Element type (for a `.v2`/`.v4` variable, its scalar type).
    pub ty: Type,
    /// Size in bytes; 0 for an unsized `extern .shared` array.
    pub size: u64,
    /// True where the array has no size (`smem[]`).
    pub unsized_array: bool,
    /// Initialiser, elements in order; the rest is zero.
    pub init: Vec<Init>,
    /// Line in the PTX text, from 1.
    pub line: u32,
}

/// One element of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// The element's bits (floating values already converted to the variable's type).
    Bits(u64),
    /// Address of a symbol plus an offset; `generic` for `generic(sym)`.
    Address {
        /// Variable or function named.
        symbol: String,
        /// Bytes added.
        offset: i64,
        /// Whether the generic address is meant.
        generic: bool,
        /// For `0xFF(sym)` forms: the mask, applied and shifted down.
        mask: Option<u64>,
    },
}

/// A kernel (`.entry`) or device function (`.func`).
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Name as in PTX (mangled).
    pub name: String,
    /// `.entry` or `.func`.
    pub is_entry: bool,
    /// Linkage.
    pub linkage: Linkage,
    /// Return parameters (device functions).
    pub returns: Vec<Param>,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// `.maxntid`, `.reqntid`, `.minnctapersm`, `.maxnreg`, `.noreturn`, `.reqnctapercluster`, …:
    /// directive without dot, and its numbers.
    pub directives: Vec<(String, Vec<u32>)>,
    /// The body; `None` for a declaration.
    pub body: Option<Body>,
    /// Line in the PTX text.
    pub line: u32,
}

/// A formal parameter. `.reg` parameters also appear in [`Body::regs`].
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Unique name in the function.
    pub name: String,
    /// `.param` or `.reg`.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes.
    pub align: u32,
    /// Size in bytes (array size for `.b8 name[N]`).
    pub size: u32,
    /// `.reg` parameters: the register.
    pub reg: Option<RegId>,
}

/// Index into [`Body::regs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);

/// A virtual register.
#[derive(Debug, Clone, PartialEq)]
pub struct Reg {
    /// Name with its `%` (for reports).
    pub name: String,
    /// Declared type.
    pub ty: Type,
}

/// A function's body, flat.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Body {
    /// Every register declared, `%r<5>` expanded.
    pub regs: Vec<Reg>,
    /// Function-scope variables (`.local`, `.shared`, `.param` of call sequences).
    pub variables: Vec<Variable>,
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
    /// Label name to index of the instruction that follows it (may equal `instructions.len()`).
    pub labels: BTreeMap<String, usize>,
    /// `.branchtargets` tables by label: the label names.
    pub branch_targets: BTreeMap<String, Vec<String>>,
    /// `.calltargets` tables by label: the function names.
    pub call_targets: BTreeMap<String, Vec<String>>,
    /// `.callprototype` by label: returns and parameters.
    pub call_prototypes: BTreeMap<String, (Vec<Param>, Vec<Param>)>,
}

/// A position in CUDA source, from `.loc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceLoc {
    /// `.file` index.
    pub file: u32,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
    /// Where the function that holds this position was inlined: file, line, column.
    pub inlined_at: Option<(u32, u32, u32)>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// `@%p` or `@!%p`.
    pub guard: Option<Guard>,
    /// Opcode and modifiers split at the dots, e.g. `["ld", "global", "v4", "u32"]`; `::` stays inside
    /// its part (`"shared::cta"`, `"L2::128B"`). Instructions that spell it alike have it together.
    pub opcode: Arc<[String]>,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// CUDA source position in force.
    pub loc: Option<SourceLoc>,
    /// For a load: the bytes of each thread's data that are used at all, from the lowest bit on
    /// (`.pragma "used_bytes_mask …"`).
    pub used_bytes: Option<u32>,
}

/// Predicate guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The predicate register.
    pub reg: RegId,
    /// `@!`.
    pub negated: bool,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register.
    Reg(RegId),
    /// A negated predicate source (`!%p`).
    NotReg(RegId),
    /// A special register, `%tid.x` (and component selections of vectors, verbatim).
    Special(String),
    /// An integer immediate, two's complement in 64 bits (`negative` values sign-extended).
    Int(i64),
    /// An exact single-precision immediate (`0f3F800000`): its bits.
    F32(u32),
    /// A double immediate (`0d…` or decimal): its bits. Decimal literals are always this.
    F64(u64),
    /// A variable, function or label, plus an offset (`smem+16`).
    Symbol(String, i64),
    /// `[base + offset]`.
    Address(AddressBase, i64),
    /// `{a, b, c, d}`.
    Vector(Vec<Operand>),
    /// `a|b` (destination pairs of setp, shfl, match, …).
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `_`: a destination thrown away.
    Sink,
    /// A register negated, or part of one (`-%r1.h0`), in video instructions.
    Part {
        /// The register.
        reg: RegId,
        /// Whether a minus stands before it.
        negated: bool,
        /// The part, where not all of it.
        part: Option<Part>,
    },
    /// `[tensorMap, {c0, c1}]` and other bracket contents with several parts.
    Composite(Vec<Operand>),
}

/// A part of a 32-bit register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A byte, from the lowest on.
    Byte(u32),
    /// A half, the lower one first.
    Half(u32),
}

impl Part {
    /// Lowest bit, and bits.
    pub fn bits(self) -> (u32, u32) {
        match self {
            Part::Byte(k) => (8 * k, 8),
            Part::Half(k) => (16 * k, 16),
        }
    }
}

/// What an address operand starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum AddressBase {
    /// A register.
    Reg(RegId),
    /// A variable or parameter.
    Symbol(String),
    /// An absolute address (the offset holds all of it).
    Absolute,
}

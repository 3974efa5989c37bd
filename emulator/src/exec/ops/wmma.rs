//! `wmma`: matrix products whose fragments are laid out as the implementation likes.
//!
//! Here a fragment is the matrix cut into 32 equal runs, a lane each, along the direction in which memory
//! holds it: so a lane's run is contiguous in memory too. A and B carry their layout in every instruction; C and
//! D do not, and are cut row by row. Where the ISA gives `.f16` factors more registers than that needs, the run
//! is there again.

use super::memory::{decode_space, elements, encode_space, lane_addresses, space_code, space_of};
use super::tensor::whole_warp;
use super::{has, only};
use crate::check::FaultKind;
use crate::exec::access::{Access, Kind};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, pick_handler};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// `wmma`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if !has(i, "sync") || !has(i, "aligned") {
        return d.invalid("neither .sync nor .aligned may be left out");
    }
    match i.opcode.get(1).map(String::as_str) {
        Some("load") => access(d, i, true),
        Some("store") => access(d, i, false),
        Some("mma") => product(d, i),
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

const ACCESS_MODIFIERS: &[&str] = &[
    "load",
    "store",
    "a",
    "b",
    "c",
    "d",
    "sync",
    "aligned",
    "row",
    "col",
    "m16n16k16",
    "m8n32k16",
    "m32n8k16",
    "m16n16k8",
    "m8n8k4",
    "m8n8k32",
    "m8n8k128",
    "global",
    "shared",
    "shared::cta",
    "tf32",
    "s4",
    "u4",
    "b1",
];

/// Header of a load's or store's extras, before the slots.
const HEADER: usize = 6;

fn access(d: &mut Decoder, i: &Instruction, load: bool) -> Result<Inst, LoadError> {
    only(d, i, ACCESS_MODIFIERS)?;
    let [m, n, k] = shape_of(d, i)?;
    let element = i.opcode.last().map_or("", String::as_str);
    let Some(bits) = element_bits(element) else {
        return d.unsupported("element type");
    };
    let row = has(i, "row");
    if row == has(i, "col") {
        return d.invalid("a layout, .row or .col, belongs here");
    }
    let matrix = i.opcode.get(2).map_or("", String::as_str);
    // Outer and inner extents in memory, and whether the fragment runs along the inner one.
    let (outer, inner, along) = match (matrix, row) {
        ("a", true) => (m, k, true),
        ("a", false) => (k, m, true),
        ("b", true) => (k, n, true),
        ("b", false) => (n, k, true),
        ("c" | "d", true) => (m, n, true),
        ("c" | "d", false) => (n, m, false),
        _ => return d.invalid("no matrix .a, .b, .c or .d named"),
    };
    let factor = matches!(matrix, "a" | "b");
    if load == (matrix == "d") || (!load && factor) {
        return d.invalid("that matrix is not loaded or stored");
    }
    if factor && !factors_fit([m, n, k], element)
        || !factor && !matches!(element, "f16" | "f32" | "s32" | "f64")
    {
        return d.unsupported("shape and type");
    }
    let (list, address, stride) = match (&i.operands[..], load) {
        ([list, address], true) | ([address, list], false) => (list, address, None),
        ([list, address, stride], true) | ([address, list, stride], false) => {
            (list, address, Some(stride))
        }
        _ => return d.invalid("operands are not registers, [address] and stride"),
    };
    let bytes = run_bytes(outer * inner, bits);
    let count = registers(element, bytes, factor);
    let list = elements(list);
    if list.len() != count {
        return d.invalid(format!("{} registers, where {count} belong", list.len()));
    }
    let ty = register_type(element);
    let mut slots = Vec::new();
    for operand in list {
        slots.push(if load {
            d.dst(operand, ty)?
        } else {
            d.src(operand, ty)?
        });
    }
    let address = d.address(address)?;
    let code = encode_space(d, space_of(i), &address)?;
    let b = match stride {
        Some(stride) => d.src(stride, Type::U32)?,
        None => d.constant(u64::from(inner), 4),
    };
    // The row-major fragment of C against column-major memory: the extents as the fragment sees them.
    let header = [outer, inner, bits, u32::from(along), bytes, count as u32];
    let extra = d.extras(header.into_iter().chain(slots));
    let run: Handler = if load {
        move_fragment::<true>
    } else {
        move_fragment::<false>
    };
    Ok(Inst {
        a: address.slot,
        imm: address.offset,
        b,
        aux: code,
        extra,
        ..d.inst(run)
    })
}

/// A fragment's runs, lane after lane: at most 32 bytes each.
type Runs = [u8; 1024];

unsafe fn move_fragment<const LOAD: bool>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let header: [usize; HEADER] = std::array::from_fn(|k| w.extra(i, k) as usize);
    let [_, inner, bits, along, bytes, count] = header;
    // SAFETY: operands are slots of the warp's file.
    let (base, strides) = unsafe { (lane_addresses(w, i.a, i.imm, i.aux), u32::load(w.slot(i.b))) };
    let (first, stride) = (base[0], strides[0] as usize);
    if base.iter().any(|&a| a != first) || strides.iter().any(|&s| s as usize != stride) {
        return w.fault(
            FaultKind::Illegal,
            mask,
            "lanes give different addresses or strides to wmma".into(),
        );
    }
    let mut runs: Runs = [0; 1024];
    if !LOAD {
        // SAFETY: the slots are those of the fragment.
        unsafe { gather(w, i, bytes, bits == 64, count, &mut runs) };
    }
    // A lane's run in memory, in pieces that are contiguous.
    let piece = if along != 0 {
        bytes.min(16).min(inner * bits / 8)
    } else {
        bits / 8
    };
    let space = decode_space(i.aux & space_code::MASK);
    let kind = if LOAD { Kind::Read } else { Kind::Store };
    for part in 0..bytes / piece {
        let addresses: [u64; 32] = std::array::from_fn(|lane| {
            let element = (lane * bytes + part * piece) * 8 / bits;
            // The fragment's rows are memory's columns where it does not run along memory.
            let (row, column) = if along != 0 {
                (element / inner, element % inner)
            } else {
                let width = header[0];
                (element % width, element / width)
            };
            first.wrapping_add(((row * stride + column) * bits / 8) as u64)
        });
        let access = Access {
            space,
            size: piece as u32,
            align: piece as u32,
            kind,
        };
        let pointers = match w.pointers(mask, &addresses, access) {
            Ok(pointers) => pointers,
            Err(flow) => return flow,
        };
        for (lane, &pointer) in pointers.iter().enumerate() {
            if pointer.is_null() {
                continue;
            }
            let run = runs[lane * bytes + part * piece..][..piece].as_mut_ptr();
            // SAFETY: `piece` bytes were checked behind the pointer, and the run has as many.
            unsafe {
                if LOAD {
                    std::ptr::copy_nonoverlapping(pointer, run, piece);
                } else {
                    std::ptr::copy_nonoverlapping(run, pointer, piece);
                }
            }
        }
    }
    if LOAD {
        // SAFETY: the slots are those of the fragment.
        unsafe { scatter(w, i, HEADER, bytes, bits == 64, count, &runs) };
    }
    Flow::Next
}

/// Bytes of a lane in a register.
fn lane_width(wide: bool) -> usize {
    if wide { 8 } else { 4 }
}

unsafe fn gather(w: &Warp, i: &Inst, bytes: usize, wide: bool, count: usize, runs: &mut Runs) {
    // SAFETY: the caller's promise.
    unsafe { gather_from(w, i, HEADER, bytes, wide, count, runs) };
}

/// Registers `from..` of the extras to runs.
///
/// # Safety
/// There are `count` slots, of lanes as wide as said.
unsafe fn gather_from(
    w: &Warp,
    i: &Inst,
    from: usize,
    bytes: usize,
    wide: bool,
    count: usize,
    runs: &mut Runs,
) {
    let width = lane_width(wide);
    for k in 0..count.min(bytes / width) {
        // SAFETY: the caller's promise.
        let slot = unsafe { w.slot(w.extra(i, from + k)) };
        for lane in 0..32 {
            let to = runs[lane * bytes + k * width..][..width].as_mut_ptr();
            // SAFETY: a lane of the slot has this width.
            unsafe { std::ptr::copy_nonoverlapping(slot.add(lane * width), to, width) };
        }
    }
}

/// Runs to registers, again from the start where there are more registers than a run fills.
///
/// # Safety
/// As for [`gather_from`].
unsafe fn scatter(
    w: &Warp,
    i: &Inst,
    from: usize,
    bytes: usize,
    wide: bool,
    count: usize,
    runs: &Runs,
) {
    let width = lane_width(wide);
    for k in 0..count {
        // SAFETY: the caller's promise.
        let slot = unsafe { w.slot(w.extra(i, from + k)) };
        for lane in 0..32 {
            let at = lane * bytes + k * width % bytes;
            // SAFETY: a lane of the slot has this width.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    runs[at..][..width].as_ptr(),
                    slot.add(lane * width),
                    width,
                )
            };
        }
    }
}

/// Element types, as numbers.
const TYPES: &[&str] = &[
    "f16", "bf16", "tf32", "f64", "s8", "u8", "s4", "u4", "b1", "f32", "s32",
];

/// Flags of a product.
const A_ROW: u32 = 1;
const B_ROW: u32 = 2;
const SATURATE: u32 = 4;
const AND: u32 = 8;

/// Header of a product's extras: shape, types of D, A, B, C, flags; then how many registers each has.
const PRODUCT_HEADER: usize = 12;

fn product(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let shape = shape_of(d, i)?;
    let mut flags = 0;
    let mut layouts = Vec::new();
    let mut types = Vec::new();
    for m in &i.opcode[2..] {
        match m.as_str() {
            "row" | "col" => layouts.push(m == "row"),
            "satfinite" => flags |= SATURATE,
            "and" => flags |= AND,
            "xor" | "popc" | "sync" | "aligned" | "rn" => {}
            name if SHAPES.iter().any(|(s, _)| *s == name) => {}
            name if TYPES.contains(&name) => types.push(name),
            other => return d.unsupported(format!("modifier .{other}")),
        }
    }
    let [a_row, b_row] = layouts[..] else {
        return d.invalid("two layouts belong here");
    };
    flags |= if a_row { A_ROW } else { 0 } | if b_row { B_ROW } else { 0 };
    let [dt, at, bt, ct] = match types[..] {
        // Halves are not named.
        [dt, ct] => [dt, "f16", "f16", ct],
        [dt, at, bt, ct] => [dt, at, bt, ct],
        _ => return d.unsupported("types"),
    };
    let accumulators = match at {
        "f16" => matches!(dt, "f16" | "f32") && matches!(ct, "f16" | "f32"),
        "bf16" | "tf32" => dt == "f32" && ct == "f32",
        "f64" => dt == "f64" && ct == "f64",
        _ => dt == "s32" && ct == "s32",
    };
    let alike = at == bt;
    if !accumulators || !alike || !factors_fit(shape, at) {
        return d.unsupported("shape and types");
    }
    if flags & SATURATE != 0 && !matches!(at, "s8" | "u8" | "s4" | "u4") {
        return d.unsupported(".satfinite");
    }
    let [m, n, k] = shape;
    super::operands(d, i, 4)?;
    let sizes = [m * n, m * k, n * k, m * n];
    let mut header: Vec<u32> = shape.to_vec();
    let mut counts = Vec::new();
    let mut slots = Vec::new();
    for (at, (operand, element)) in i.operands.iter().zip([dt, at, bt, ct]).enumerate() {
        let Some(bits) = element_bits(element) else {
            return d.unsupported("types");
        };
        let factor = at == 1 || at == 2;
        let count = registers(element, run_bytes(sizes[at], bits), factor);
        let list: &[Operand] = elements(operand);
        if list.len() != count {
            return d.invalid(format!(
                "{} registers for operand {at}, where {count} belong",
                list.len()
            ));
        }
        let ty = register_type(element);
        for o in list {
            slots.push(if at == 0 {
                d.dst(o, ty)?
            } else {
                d.src(o, ty)?
            });
        }
        header.push(TYPES.iter().position(|t| *t == element).unwrap_or(0) as u32);
        counts.push(count as u32);
    }
    header.push(flags);
    header.extend(counts);
    let extra = d.extras(header.into_iter().chain(slots));
    let run: Handler = match at {
        "f64" => doubles,
        "f16" | "bf16" | "tf32" => pick_handler!(singles),
        _ => integers,
    };
    Ok(Inst {
        extra,
        ..d.inst(run)
    })
}

/// A product taken from its extras.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    types: [&'static str; 4],
    flags: u32,
    counts: [usize; 4],
    /// First slot of each operand in the extras.
    first: [usize; 4],
}

impl Product {
    fn of(w: &Warp, i: &Inst) -> Product {
        let h: [usize; PRODUCT_HEADER] = std::array::from_fn(|k| w.extra(i, k) as usize);
        let counts = [h[8], h[9], h[10], h[11]];
        let mut first = [PRODUCT_HEADER; 4];
        for k in 1..4 {
            first[k] = first[k - 1] + counts[k - 1];
        }
        Product {
            m: h[0],
            n: h[1],
            k: h[2],
            types: std::array::from_fn(|k| TYPES[h[3 + k]]),
            flags: h[7] as u32,
            counts,
            first,
        }
    }

    fn bytes(&self, operand: usize) -> usize {
        let count = [
            self.m * self.n,
            self.m * self.k,
            self.n * self.k,
            self.m * self.n,
        ][operand];
        let bits = element_bits(self.types[operand]).unwrap_or(32) as usize;
        count * bits / 8 / 32
    }

    /// The runs of an operand.
    unsafe fn gather(&self, w: &Warp, i: &Inst, operand: usize) -> Runs {
        let mut runs = [0; 1024];
        let wide = self.types[operand] == "f64";
        // SAFETY: the decoder put the slots there.
        unsafe {
            gather_from(
                w,
                i,
                self.first[operand],
                self.bytes(operand),
                wide,
                self.counts[operand],
                &mut runs,
            )
        };
        runs
    }

    unsafe fn scatter(&self, w: &Warp, i: &Inst, runs: &Runs) {
        let wide = self.types[0] == "f64";
        // SAFETY: the decoder put the slots there.
        unsafe {
            scatter(
                w,
                i,
                self.first[0],
                self.bytes(0),
                wide,
                self.counts[0],
                runs,
            )
        };
    }

    /// Place of A's element in its runs.
    #[inline(always)]
    fn a(&self, m: usize, k: usize) -> usize {
        if self.flags & A_ROW != 0 {
            m * self.k + k
        } else {
            k * self.m + m
        }
    }

    /// Place of B's element in its runs.
    #[inline(always)]
    fn b(&self, k: usize, n: usize) -> usize {
        if self.flags & B_ROW != 0 {
            k * self.n + n
        } else {
            n * self.k + k
        }
    }
}

fn word(runs: &Runs, at: usize) -> u32 {
    u32::from_le_bytes([
        runs[4 * at],
        runs[4 * at + 1],
        runs[4 * at + 2],
        runs[4 * at + 3],
    ])
}

fn single(runs: &Runs, element: &str, at: usize) -> f32 {
    let half = || u16::from_le_bytes([runs[2 * at], runs[2 * at + 1]]);
    match element {
        "f16" => half::f16::from_bits(half()).to_f32(),
        "bf16" => f32::from_bits(u32::from(half()) << 16),
        "tf32" => f32::from_bits(word(runs, at) & !0x1fff),
        _ => f32::from_bits(word(runs, at)),
    }
}

/// Products with sums in single precision, one after another along K.
#[inline(always)]
unsafe fn singles(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let p = Product::of(w, i);
    // SAFETY: the extras are a product's.
    let (a, b, c) = unsafe { (p.gather(w, i, 1), p.gather(w, i, 2), p.gather(w, i, 3)) };
    let mut left = [0f32; 512];
    let mut right = [0f32; 512];
    let mut sums = [0f32; 256];
    for k in 0..p.k {
        for m in 0..p.m {
            left[m * p.k + k] = single(&a, p.types[1], p.a(m, k));
        }
        for n in 0..p.n {
            right[k * p.n + n] = single(&b, p.types[2], p.b(k, n));
        }
    }
    for (at, sum) in sums.iter_mut().enumerate() {
        *sum = single(&c, p.types[3], at);
    }
    for m in 0..p.m {
        let row = &mut sums[m * p.n..][..p.n];
        for k in 0..p.k {
            let x = left[m * p.k + k];
            for (sum, y) in row.iter_mut().zip(&right[k * p.n..][..p.n]) {
                *sum = x.mul_add(*y, *sum);
            }
        }
    }
    let mut out: Runs = [0; 1024];
    for (at, sum) in sums.iter().enumerate() {
        if p.types[0] == "f16" {
            let bits = if sum.is_nan() {
                0x7fff
            } else {
                half::f16::from_f32(*sum).to_bits()
            };
            out[2 * at..][..2].copy_from_slice(&bits.to_le_bytes());
        } else {
            let bits = if sum.is_nan() {
                0x7fff_ffff
            } else {
                sum.to_bits()
            };
            out[4 * at..][..4].copy_from_slice(&bits.to_le_bytes());
        }
    }
    // SAFETY: the extras are a product's.
    unsafe { p.scatter(w, i, &out) };
    Flow::Next
}

unsafe fn doubles(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let p = Product::of(w, i);
    // SAFETY: the extras are a product's.
    let (a, b, c) = unsafe { (p.gather(w, i, 1), p.gather(w, i, 2), p.gather(w, i, 3)) };
    let value =
        |runs: &Runs, at: usize| f64::from_le_bytes(std::array::from_fn(|k| runs[8 * at + k]));
    let mut out: Runs = [0; 1024];
    for m in 0..p.m {
        for n in 0..p.n {
            let at = m * p.n + n;
            let sum = (0..p.k).fold(value(&c, at), |sum, k| {
                value(&a, p.a(m, k)).mul_add(value(&b, p.b(k, n)), sum)
            });
            out[8 * at..][..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
    // SAFETY: the extras are a product's.
    unsafe { p.scatter(w, i, &out) };
    Flow::Next
}

fn integer(runs: &Runs, element: &str, at: usize) -> i32 {
    let nibble = || runs[at / 2] >> (at % 2 * 4) & 15;
    match element {
        "s8" => i32::from(runs[at] as i8),
        "u8" => i32::from(runs[at]),
        "s4" => i32::from((nibble() << 4) as i8 >> 4),
        "u4" => i32::from(nibble()),
        _ => i32::from(runs[at / 8] >> (at % 8) & 1),
    }
}

unsafe fn integers(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let p = Product::of(w, i);
    // SAFETY: the extras are a product's.
    let (a, b, c) = unsafe { (p.gather(w, i, 1), p.gather(w, i, 2), p.gather(w, i, 3)) };
    let mut out: Runs = [0; 1024];
    for m in 0..p.m {
        for n in 0..p.n {
            let at = m * p.n + n;
            let sum: i32 = (0..p.k)
                .map(|k| {
                    let (x, y) = (
                        integer(&a, p.types[1], p.a(m, k)),
                        integer(&b, p.types[2], p.b(k, n)),
                    );
                    match p.types[1] {
                        "b1" if p.flags & AND == 0 => x ^ y,
                        _ => x * y,
                    }
                })
                .sum();
            let old = word(&c, at) as i32;
            let new = if p.flags & SATURATE != 0 {
                old.saturating_add(sum)
            } else {
                old.wrapping_add(sum)
            };
            out[4 * at..][..4].copy_from_slice(&new.to_le_bytes());
        }
    }
    // SAFETY: the extras are a product's.
    unsafe { p.scatter(w, i, &out) };
    Flow::Next
}

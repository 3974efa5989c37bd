//! Products of fragments.

use super::super::memory::elements;
use super::super::operands;
use super::super::tensor::whole_warp;
use super::fragment::{Runs, gather_from, scatter};
use super::{SHAPES, element_bits, factors_fit, register_type, registers, run_bytes, shape_of};
use crate::exec::decode::Decoder;
use crate::exec::lanes::pick_handler;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand};

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

/// `wmma.mma`.
///
/// # Errors
/// A form that is not executed.
pub fn product(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
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
    operands(d, i, 4)?;
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

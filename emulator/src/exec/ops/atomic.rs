//! `atom` and `red`.

use super::memory::{decode_space, elements, encode_space, lane_addresses, space_of, vector_len};
use super::{has, only, operands, type_of};
use crate::exec::access::{Access, Kind, bits};
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};
use half::{bf16, f16};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

const MODIFIERS: &[&str] = &[
    "global",
    "shared",
    "shared::cta",
    "shared::cluster",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "and",
    "or",
    "xor",
    "exch",
    "cas",
    "add",
    "inc",
    "dec",
    "min",
    "max",
    "noftz",
    "v2",
    "v4",
    "v8",
    "L2::cache_hint",
];

/// Flags after the space code in [`Inst::aux`].
const ACQUIRE: u32 = super::memory::ACQUIRE;
const RELEASE: u32 = super::memory::RELEASE;
/// `red`: no result.
const SILENT: u32 = super::memory::STRONG;

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let result = match i.opcode[0].as_str() {
        "atom" => true,
        "red" if !has(i, "async") => false,
        _ => return Ok(None),
    };
    only(d, i, MODIFIERS)?;
    let ty = type_of(d, i)?;
    let op = match i.opcode[1..]
        .iter()
        .find(|m| OPERATIONS.contains(&m.as_str()))
    {
        Some(op) => op.as_str(),
        None => return d.unsupported("no operation"),
    };
    let n = vector_len(i);
    let hinted = usize::from(has(i, "L2::cache_hint"));
    operands(
        d,
        i,
        usize::from(result) + 2 + usize::from(op == "cas") + hinted,
    )?;
    let rest = &i.operands[usize::from(result)..];
    let address = d.address(&rest[0])?;
    let code = encode_space(d, space_of(i), &address)?;
    let sources = elements(&rest[1]);
    if sources.len() != n {
        return d.invalid(format!("{} values for {n} elements", sources.len()));
    }
    let targets: Vec<&Operand> = if result {
        elements(&i.operands[0]).iter().collect()
    } else {
        vec![&Operand::Sink; n]
    };
    if targets.len() != n {
        return d.invalid(format!("{} registers for {n} elements", targets.len()));
    }
    let mut slots = Vec::new();
    for target in targets {
        slots.push(d.dst(target, ty)?);
    }
    for source in sources {
        slots.push(d.src(source, ty)?);
    }
    let c = if op == "cas" { d.src(&rest[2], ty)? } else { 0 };
    let Some(run) = handler(op, ty, n) else {
        return d.unsupported(format!("operation .{op} on .{ty:?}"));
    };
    let mut aux = code | if result { 0 } else { SILENT };
    if has(i, "acquire") || has(i, "acq_rel") {
        aux |= ACQUIRE;
    }
    if has(i, "release") || has(i, "acq_rel") {
        aux |= RELEASE;
    }
    let extra = d.extras(slots);
    Ok(Some(Inst {
        a: address.slot,
        c,
        imm: address.offset,
        aux,
        extra,
        ..d.inst(run)
    }))
}

const OPERATIONS: &[&str] = &[
    "and", "or", "xor", "exch", "cas", "add", "inc", "dec", "min", "max",
];

/// A cell that is changed atomically: its bits, as a word of its size.
trait Cell: Copy + PartialEq {
    /// Bytes in memory.
    const SIZE: u32;
    unsafe fn update(p: *mut u8, f: impl Fn(Self) -> Self) -> Self;
    unsafe fn lane(slot: *mut u8, lane: usize) -> Self;
    unsafe fn set_lane(self, slot: *mut u8, lane: usize);
}

macro_rules! cell {
    ($($t:ident $atomic:ident $lane:ident),*) => {$(
        impl Cell for $t {
            const SIZE: u32 = size_of::<$t>() as u32;
            #[inline(always)]
            unsafe fn update(p: *mut u8, f: impl Fn($t) -> $t) -> $t {
                // SAFETY: the caller's promise: checked, aligned memory.
                let cell = unsafe { &*p.cast::<$atomic>() };
                let mut old = cell.load(Ordering::Relaxed);
                loop {
                    // Relaxed suffices on the way in; a success orders both ways, as the strongest form asks.
                    match cell.compare_exchange_weak(old, f(old), Ordering::AcqRel, Ordering::Relaxed) {
                        Ok(_) => return old,
                        Err(now) => old = now,
                    }
                }
            }
            #[inline(always)]
            unsafe fn lane(slot: *mut u8, lane: usize) -> $t {
                // SAFETY: the caller's promise: a slot with lanes of this width.
                unsafe { *slot.cast::<$lane>().add(lane) as $t }
            }
            #[inline(always)]
            unsafe fn set_lane(self, slot: *mut u8, lane: usize) {
                // SAFETY: the caller's promise: a slot with lanes of this width.
                unsafe { *slot.cast::<$lane>().add(lane) = self as $lane }
            }
        }
    )*};
}
cell!(u16 AtomicU16 u32, u32 AtomicU32 u32, u64 AtomicU64 u64);

/// The handler for `f(old, value)`, or for compare-and-swap.
fn update<C: Cell, const N: usize, F: Fn(C, C) -> C + Copy>(_f: F) -> Handler {
    run::<C, N, F>
}

unsafe fn run<C: Cell, const N: usize, F: Fn(C, C) -> C + Copy>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    const { assert!(size_of::<F>() == 0, "operations capture nothing") };
    // SAFETY: a value of this type exists, it is Copy and has no bytes.
    let f: F = unsafe { std::mem::transmute_copy::<(), F>(&()) };
    // SAFETY: the slots are those of the operands.
    unsafe { atomically::<C, N>(w, i, mask, |old, value, _, _| f(old, value)) }
}

unsafe fn compare_and_swap<C: Cell>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the slots are those of the operands; `c` holds the new value.
    unsafe {
        atomically::<C, 1>(w, i, mask, |old, expected, w, lane| {
            if old == expected {
                C::lane(w.slot(i.c), lane)
            } else {
                old
            }
        })
    }
}

#[inline(always)]
unsafe fn atomically<C: Cell, const N: usize>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    f: impl Fn(C, C, &Warp, usize) -> C,
) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let size = C::SIZE * N as u32;
    let access = Access {
        space: decode_space(i.aux),
        size,
        align: size,
        kind: Kind::Atomic,
    };
    let to = match w.pointers(mask, &addresses, access) {
        Ok(pointers) => pointers,
        Err(flow) => return flow,
    };
    // Published before the value is: whoever sees the value finds what it publishes.
    w.publish(mask, &addresses, access, i.aux & RELEASE != 0);
    for lane in bits(mask) {
        for k in 0..N {
            // SAFETY: the pointers were checked, aligned by refusal or by the cell's own size; slots as decoded.
            unsafe {
                let p = to[lane].add(k * C::SIZE as usize);
                if p.addr() % C::SIZE as usize != 0 {
                    return w.violation(
                        crate::check::Check::Alignment,
                        1 << lane,
                        format!("atomic at {:#x}", addresses[lane]),
                    );
                }
                let value = C::lane(w.slot(w.extra(i, N + k)), lane);
                let old = C::update(p, |old| f(old, value, w, lane));
                if i.aux & SILENT == 0 {
                    old.set_lane(w.slot(w.extra(i, k)), lane);
                }
            }
        }
    }
    w.observe(mask, &addresses, access, i.aux & ACQUIRE != 0);
    Flow::Next
}

fn vectors<C: Cell, F: Fn(C, C) -> C + Copy>(n: usize, f: F) -> Handler {
    match n {
        1 => update::<C, 1, F>(f),
        2 => update::<C, 2, F>(f),
        4 => update::<C, 4, F>(f),
        _ => update::<C, 8, F>(f),
    }
}

fn f32_add(a: u32, b: u32) -> u32 {
    // Atomic additions keep subnormals except in shared memory of old devices; NaN results are canonical.
    let sum = f32::from_bits(a) + f32::from_bits(b);
    if sum.is_nan() {
        0x7fff_ffff
    } else {
        sum.to_bits()
    }
}

fn f64_add(a: u64, b: u64) -> u64 {
    let sum = f64::from_bits(a) + f64::from_bits(b);
    if sum.is_nan() {
        0x7fff_ffff_ffff_ffff
    } else {
        sum.to_bits()
    }
}

fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn f16_op(a: u16, b: u16, f: impl Fn(f64, f64) -> f64) -> u16 {
    let v = f(f16::from_bits(a).to_f64(), f16::from_bits(b).to_f64());
    // A sum of two halves is exact in double precision, so this rounds once.
    if v.is_nan() {
        0x7fff
    } else {
        f16::from_f64(v).to_bits()
    }
}

fn bf16_op(a: u16, b: u16, f: impl Fn(f64, f64) -> f64) -> u16 {
    let v = f(bf16::from_bits(a).to_f64(), bf16::from_bits(b).to_f64());
    if v.is_nan() {
        return 0x7fff;
    }
    // Two bf16 values may lie further apart than a double holds; rounding to odd keeps the tie information.
    bf16::from_f64(v).to_bits()
}

/// Minimum of numbers: a NaN gives way, and −0 is less than +0.
fn least(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

fn greatest(a: f64, b: f64) -> f64 {
    -least(-a, -b)
}

fn handler(op: &str, ty: Type, n: usize) -> Option<Handler> {
    use Type::*;
    let scalar = n == 1;
    Some(match (op, ty) {
        ("cas", B16 | U16) if scalar => compare_and_swap::<u16>,
        ("cas", B32 | U32 | S32) if scalar => compare_and_swap::<u32>,
        ("cas", B64 | U64 | S64) if scalar => compare_and_swap::<u64>,
        ("exch", B32 | U32 | S32 | F32) if scalar => update::<u32, 1, _>(|_, v| v),
        ("exch", B64 | U64 | S64 | F64) if scalar => update::<u64, 1, _>(|_, v| v),
        ("and", B32 | U32 | S32) if scalar => update::<u32, 1, _>(|a, b| a & b),
        ("or", B32 | U32 | S32) if scalar => update::<u32, 1, _>(|a, b| a | b),
        ("xor", B32 | U32 | S32) if scalar => update::<u32, 1, _>(|a, b| a ^ b),
        ("and", B64 | U64 | S64) if scalar => update::<u64, 1, _>(|a, b| a & b),
        ("or", B64 | U64 | S64) if scalar => update::<u64, 1, _>(|a, b| a | b),
        ("xor", B64 | U64 | S64) if scalar => update::<u64, 1, _>(|a, b| a ^ b),
        ("add", U32 | S32 | B32) if scalar => update::<u32, 1, _>(|a: u32, b| a.wrapping_add(b)),
        ("add", U64 | S64 | B64) if scalar => update::<u64, 1, _>(|a: u64, b| a.wrapping_add(b)),
        ("inc", U32) if scalar => update::<u32, 1, _>(|a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", U32) if scalar => {
            update::<u32, 1, _>(|a, b| if a == 0 || a > b { b } else { a - 1 })
        }
        ("min", U32) if scalar => update::<u32, 1, _>(|a: u32, b| a.min(b)),
        ("max", U32) if scalar => update::<u32, 1, _>(|a: u32, b| a.max(b)),
        ("min", S32) if scalar => update::<u32, 1, _>(|a, b| (a as i32).min(b as i32) as u32),
        ("max", S32) if scalar => update::<u32, 1, _>(|a, b| (a as i32).max(b as i32) as u32),
        ("min", U64) if scalar => update::<u64, 1, _>(|a: u64, b| a.min(b)),
        ("max", U64) if scalar => update::<u64, 1, _>(|a: u64, b| a.max(b)),
        ("min", S64) if scalar => update::<u64, 1, _>(|a, b| (a as i64).min(b as i64) as u64),
        ("max", S64) if scalar => update::<u64, 1, _>(|a, b| (a as i64).max(b as i64) as u64),
        ("add", F32) => vectors(n, f32_add),
        ("add", F64) if scalar => update::<u64, 1, _>(f64_add),
        ("add", F16) => vectors(n, |a, b| f16_op(a, b, |x, y| x + y)),
        ("add", BF16) => vectors(n, |a, b| bf16_op(a, b, |x, y| x + y)),
        ("add", F16x2) => vectors(n, |a, b| halves(a, b, |x, y| f16_op(x, y, |p, q| p + q))),
        ("add", BF16x2) => vectors(n, |a, b| halves(a, b, |x, y| bf16_op(x, y, |p, q| p + q))),
        ("min", F16) => vectors(n, |a, b| f16_op(a, b, least)),
        ("max", F16) => vectors(n, |a, b| f16_op(a, b, greatest)),
        ("min", BF16) => vectors(n, |a, b| bf16_op(a, b, least)),
        ("max", BF16) => vectors(n, |a, b| bf16_op(a, b, greatest)),
        ("min", F16x2) => vectors(n, |a, b| halves(a, b, |x, y| f16_op(x, y, least))),
        ("max", F16x2) => vectors(n, |a, b| halves(a, b, |x, y| f16_op(x, y, greatest))),
        ("min", BF16x2) => vectors(n, |a, b| halves(a, b, |x, y| bf16_op(x, y, least))),
        ("max", BF16x2) => vectors(n, |a, b| halves(a, b, |x, y| bf16_op(x, y, greatest))),
        _ => return None,
    })
}

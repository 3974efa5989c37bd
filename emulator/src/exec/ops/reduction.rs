//! What `atom`, `red` and the asynchronous reductions do to a cell of memory, by operation and type.

use crate::ptx::ast::Type;
use half::{bf16, f16};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A cell that is changed atomically: its bits, as a word of its size.
pub trait Cell: Copy + PartialEq {
    /// Bytes in memory.
    const SIZE: u32;
    /// Changes the cell at `p`; what it held.
    ///
    /// # Safety
    /// Memory that was checked, at a multiple of the size.
    unsafe fn update(p: *mut u8, f: impl Fn(Self) -> Self) -> Self;
    /// The value at `p`, of any alignment.
    ///
    /// # Safety
    /// There are as many bytes there.
    unsafe fn value(p: *const u8) -> Self;
    /// A lane's value in a slot.
    ///
    /// # Safety
    /// The slot has lanes of this width.
    unsafe fn lane(slot: *mut u8, lane: usize) -> Self;
    /// Puts a lane's value into a slot.
    ///
    /// # Safety
    /// As for [`Cell::lane`].
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
            unsafe fn value(p: *const u8) -> $t {
                // SAFETY: the caller's promise.
                unsafe { p.cast::<$t>().read_unaligned() }
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

/// Who wants an operation: what it becomes of `f(old, value)`.
pub trait Use: Sized {
    /// What that is.
    type Out;
    /// An operation on integers or bits, of single cells.
    fn scalar<C: Cell, F: Fn(C, C) -> C + Copy>(self, f: F) -> Option<Self::Out>;
    /// An operation on floats, which may stand side by side.
    fn float<C: Cell, F: Fn(C, C) -> C + Copy>(self, f: F) -> Option<Self::Out>;
}

/// The operation itself, by its type alone.
#[inline(always)]
pub fn operation<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "operations capture nothing") };
    // SAFETY: a value of this type exists (its type can only be named by having one), it is Copy and has no bytes.
    unsafe { std::mem::transmute_copy::<(), F>(&()) }
}

/// What `user` makes of operation `op` on cells of type `ty`; `None` where there is no such operation.
pub fn choose<U: Use>(op: &str, ty: Type, user: U) -> Option<U::Out> {
    use Type::*;
    match (op, ty) {
        ("exch", B32 | U32 | S32 | F32) => user.scalar(|_: u32, v| v),
        ("exch", B64 | U64 | S64 | F64) => user.scalar(|_: u64, v| v),
        ("and", B32 | U32 | S32) => user.scalar(|a: u32, b| a & b),
        ("or", B32 | U32 | S32) => user.scalar(|a: u32, b| a | b),
        ("xor", B32 | U32 | S32) => user.scalar(|a: u32, b| a ^ b),
        ("and", B64 | U64 | S64) => user.scalar(|a: u64, b| a & b),
        ("or", B64 | U64 | S64) => user.scalar(|a: u64, b| a | b),
        ("xor", B64 | U64 | S64) => user.scalar(|a: u64, b| a ^ b),
        ("add", U32 | S32 | B32) => user.scalar(|a: u32, b| a.wrapping_add(b)),
        ("add", U64 | S64 | B64) => user.scalar(|a: u64, b| a.wrapping_add(b)),
        ("inc", U32) => user.scalar(|a: u32, b| if a >= b { 0 } else { a + 1 }),
        ("dec", U32) => user.scalar(|a: u32, b| if a == 0 || a > b { b } else { a - 1 }),
        ("min", U32) => user.scalar(|a: u32, b| a.min(b)),
        ("max", U32) => user.scalar(|a: u32, b| a.max(b)),
        ("min", S32) => user.scalar(|a: u32, b| (a as i32).min(b as i32) as u32),
        ("max", S32) => user.scalar(|a: u32, b| (a as i32).max(b as i32) as u32),
        ("min", U64) => user.scalar(|a: u64, b| a.min(b)),
        ("max", U64) => user.scalar(|a: u64, b| a.max(b)),
        ("min", S64) => user.scalar(|a: u64, b| (a as i64).min(b as i64) as u64),
        ("max", S64) => user.scalar(|a: u64, b| (a as i64).max(b as i64) as u64),
        ("add", F32) => user.float(f32_add),
        ("add", F64) => user.scalar(f64_add),
        ("add", F16) => user.float(|a, b| f16_op(a, b, |x, y| x + y)),
        ("add", BF16) => user.float(|a, b| bf16_op(a, b, |x, y| x + y)),
        ("add", F16x2) => user.float(|a, b| halves(a, b, |x, y| f16_op(x, y, |p, q| p + q))),
        ("add", BF16x2) => user.float(|a, b| halves(a, b, |x, y| bf16_op(x, y, |p, q| p + q))),
        ("min", F16) => user.float(|a, b| f16_op(a, b, least)),
        ("max", F16) => user.float(|a, b| f16_op(a, b, greatest)),
        ("min", BF16) => user.float(|a, b| bf16_op(a, b, least)),
        ("max", BF16) => user.float(|a, b| bf16_op(a, b, greatest)),
        ("min", F16x2) => user.float(|a, b| halves(a, b, |x, y| f16_op(x, y, least))),
        ("max", F16x2) => user.float(|a, b| halves(a, b, |x, y| f16_op(x, y, greatest))),
        ("min", BF16x2) => user.float(|a, b| halves(a, b, |x, y| bf16_op(x, y, least))),
        ("max", BF16x2) => user.float(|a, b| halves(a, b, |x, y| bf16_op(x, y, greatest))),
        _ => None,
    }
}

/// The sum as global memory makes it: subnormal numbers, and a subnormal sum, are zero.
pub fn f32_add_flushing(a: u32, b: u32) -> u32 {
    flushed(f32_add(flushed(a), flushed(b)))
}

/// The sum as shared memory makes it.
pub fn f32_add(a: u32, b: u32) -> u32 {
    // NaN results are canonical.
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

/// A reduction of one array into another, element by element.
#[derive(Debug, Clone, Copy)]
pub struct Reduction {
    /// Bytes of an element.
    element: u32,
    /// Reduces the second's element into the first's.
    apply: unsafe fn(*mut u8, *const u8),
}

/// Makes [`Reduction`]s.
struct Elementwise;

impl Use for Elementwise {
    type Out = Reduction;
    fn scalar<C: Cell, F: Fn(C, C) -> C + Copy>(self, _f: F) -> Option<Reduction> {
        Some(Reduction {
            element: C::SIZE,
            apply: reduce::<C, F>,
        })
    }
    fn float<C: Cell, F: Fn(C, C) -> C + Copy>(self, f: F) -> Option<Reduction> {
        self.scalar(f)
    }
}

unsafe fn reduce<C: Cell, F: Fn(C, C) -> C + Copy>(to: *mut u8, from: *const u8) {
    let f: F = operation();
    // SAFETY: the caller's promise, as for [`Reduction::apply`].
    unsafe {
        let value = C::value(from);
        C::update(to, |old| f(old, value));
    }
}

/// Which instructions have a form: those that reduce arrays into global memory, or into a block's shared memory, and
/// those that reduce registers.
pub mod by {
    /// `cp.reduce.async.bulk.global`.
    pub const GLOBAL: u32 = 1;
    /// `cp.reduce.async.bulk.shared::cluster`.
    pub const SHARED: u32 = 2;
    /// `red.async`.
    pub const REGISTERS: u32 = 4;
    /// All of them.
    pub const ALL: u32 = GLOBAL | SHARED | REGISTERS;
}

/// The forms of asynchronous reductions.
const FORMS: &[(&str, Type, u32)] = &[
    ("add", Type::U32, by::ALL),
    ("add", Type::S32, by::ALL),
    ("add", Type::U64, by::ALL),
    ("add", Type::S64, by::REGISTERS),
    ("add", Type::F32, by::GLOBAL),
    ("add", Type::F64, by::GLOBAL),
    ("add", Type::F16, by::GLOBAL),
    ("add", Type::BF16, by::GLOBAL),
    ("min", Type::U32, by::ALL),
    ("min", Type::S32, by::ALL),
    ("min", Type::U64, by::GLOBAL),
    ("min", Type::S64, by::GLOBAL),
    ("min", Type::F16, by::GLOBAL),
    ("min", Type::BF16, by::GLOBAL),
    ("max", Type::U32, by::ALL),
    ("max", Type::S32, by::ALL),
    ("max", Type::U64, by::GLOBAL),
    ("max", Type::S64, by::GLOBAL),
    ("max", Type::F16, by::GLOBAL),
    ("max", Type::BF16, by::GLOBAL),
    ("inc", Type::U32, by::ALL),
    ("dec", Type::U32, by::ALL),
    ("and", Type::B32, by::ALL),
    ("and", Type::B64, by::GLOBAL),
    ("or", Type::B32, by::ALL),
    ("or", Type::B64, by::GLOBAL),
    ("xor", Type::B32, by::ALL),
    ("xor", Type::B64, by::GLOBAL),
];

/// What the forms do, in their order.
static REDUCTIONS: LazyLock<Vec<Option<Reduction>>> = LazyLock::new(|| {
    let make = |&(op, ty, _): &(&str, Type, u32)| match (op, ty) {
        // In global memory the addition of 32-bit floats takes subnormal numbers, and gives them, as zero.
        ("add", Type::F32) => Elementwise.float(f32_add_flushing),
        _ => choose(op, ty, Elementwise),
    };
    FORMS.iter().map(make).collect()
});

impl Reduction {
    /// The number of an asynchronous reduction, of those that instructions `by` have.
    pub fn number(op: &str, ty: Type, by: u32) -> Option<u32> {
        let found = FORMS
            .iter()
            .position(|f| (f.0, f.1) == (op, ty) && f.2 & by != 0);
        found.map(|at| at as u32)
    }

    /// The reduction of that number.
    pub fn numbered(number: u32) -> Option<Reduction> {
        REDUCTIONS.get(number as usize).copied().flatten()
    }

    /// Reduces `data` into what is at `to`.
    ///
    /// # Safety
    /// As many bytes at `to` are memory that was checked, at a multiple of the element's size.
    pub unsafe fn apply(&self, to: *mut u8, data: &[u8]) {
        for at in (0..data.len()).step_by(self.element as usize) {
            // SAFETY: the caller's promise; the data is whole elements.
            unsafe { (self.apply)(to.add(at), data.as_ptr().add(at)) };
        }
    }
}

/// A subnormal number as zero of its sign.
fn flushed(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

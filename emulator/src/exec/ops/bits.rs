//! Bit fields, bit counts, byte permutation.

use super::has;
use super::int::{is_int, unsigned};
use super::shape::{binary, by_type, exactly, ternary, unary};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, alu2, alu3, each};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let op = i.opcode[0].as_str();
    if !matches!(
        op,
        "bfe" | "bfi" | "bfind" | "brev" | "popc" | "clz" | "fns" | "prmt" | "szext" | "bmsk"
    ) {
        return Ok(None);
    }
    if op == "prmt" {
        return prmt(d, i).map(Some);
    }
    let ty = super::type_of(d, i)?;
    if !is_int(ty) || ty.size() < 4 {
        return d.unsupported(format!("type {ty:?}"));
    }
    let inst = match op {
        "bfe" => {
            exactly(d, i, &[])?;
            let run = match ty {
                Type::U32 => alu3(|a: u32, p: u32, n: u32| extract(u64::from(a), p, n) as u32),
                Type::U64 => alu3(|a: u64, p: u32, n: u32| extract(a, p, n)),
                Type::S32 => {
                    alu3(|a: i32, p: u32, n: u32| signed_extract(i64::from(a), p, n, 31) as i32)
                }
                Type::S64 => alu3(|a: i64, p: u32, n: u32| signed_extract(a, p, n, 63)),
                _ => return d.unsupported("type"),
            };
            ternary(d, i, ty, [ty, Type::U32, Type::U32], run)?
        }
        "bfi" => {
            exactly(d, i, &[])?;
            super::operands(d, i, 5)?;
            let run: Handler = match ty {
                Type::B32 => bfi::<u32>,
                Type::B64 => bfi::<u64>,
                _ => return d.unsupported("type"),
            };
            let target = d.dst(&i.operands[0], ty)?;
            let (a, b) = (d.src(&i.operands[1], ty)?, d.src(&i.operands[2], ty)?);
            let (c, len) = (
                d.src(&i.operands[3], Type::U32)?,
                d.src(&i.operands[4], Type::U32)?,
            );
            Inst {
                d: target,
                a,
                b,
                c,
                aux: len,
                ..d.inst(run)
            }
        }
        "bfind" => {
            exactly(d, i, &["shiftamt"])?;
            let run = if has(i, "shiftamt") {
                by_type!(d, ty, alu1, [U32 u32, U64 u64, S32 i32, S64 i64], |a| top_bit(a as i64, T::MIN != 0, T::BITS, true))
            } else {
                by_type!(d, ty, alu1, [U32 u32, U64 u64, S32 i32, S64 i64], |a| top_bit(a as i64, T::MIN != 0, T::BITS, false))
            };
            unary(d, i, Type::U32, ty, run)?
        }
        "brev" => {
            exactly(d, i, &[])?;
            let run = by_type!(d, unsigned(ty), alu1, [U32 u32, U64 u64], |a| a.reverse_bits());
            unary(d, i, ty, ty, run)?
        }
        "popc" => {
            exactly(d, i, &[])?;
            let run = by_type!(d, unsigned(ty), alu1, [U32 u32, U64 u64], |a| a.count_ones());
            unary(d, i, Type::U32, ty, run)?
        }
        "clz" => {
            exactly(d, i, &[])?;
            let run = by_type!(d, unsigned(ty), alu1, [U32 u32, U64 u64], |a| a.leading_zeros());
            unary(d, i, Type::U32, ty, run)?
        }
        "fns" => {
            exactly(d, i, &[])?;
            ternary(
                d,
                i,
                Type::B32,
                [Type::B32, Type::B32, Type::S32],
                alu3(find_nth_set),
            )?
        }
        "szext" => {
            exactly(d, i, &["clamp", "wrap"])?;
            let run = match (ty, has(i, "clamp")) {
                (Type::U32, true) => alu2(|a: u32, b: u32| extend(a, b, false, true)),
                (Type::U32, false) => alu2(|a: u32, b: u32| extend(a, b, false, false)),
                (Type::S32, true) => alu2(|a: u32, b: u32| extend(a, b, true, true)),
                (Type::S32, false) => alu2(|a: u32, b: u32| extend(a, b, true, false)),
                _ => return d.unsupported("type"),
            };
            binary(d, i, ty, [ty, Type::U32], run)?
        }
        _ => {
            exactly(d, i, &["clamp", "wrap"])?;
            let run = if has(i, "clamp") {
                alu2(|a: u32, b: u32| bit_mask(a, b, true))
            } else {
                alu2(|a: u32, b: u32| bit_mask(a, b, false))
            };
            binary(d, i, Type::B32, [Type::B32, Type::B32], run)?
        }
    };
    Ok(Some(inst))
}

/// Unsigned `bfe`: bits past the top are zero.
#[inline(always)]
fn extract(a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let shifted = if pos > 63 { 0 } else { a >> pos };
    if len > 63 {
        shifted
    } else {
        shifted & ((1 << len) - 1)
    }
}

/// Signed `bfe`: the sign is the field's top bit, or the number's where the field passes it.
#[inline(always)]
fn signed_extract(a: i64, pos: u32, len: u32, top: u32) -> i64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    // `a` is sign-extended, so bits past the number's top are copies of it.
    let shifted = a >> pos.min(top);
    if len == 0 {
        0
    } else if len > 63 {
        shifted
    } else {
        shifted << (64 - len) >> (64 - len)
    }
}

trait Field: Lane {
    fn insert(self, into: Self, pos: u32, len: u32) -> Self;
}

macro_rules! field {
    ($($t:ident),*) => {$(
        impl Field for $t {
            #[inline(always)]
            fn insert(self, into: $t, pos: u32, len: u32) -> $t {
                let (pos, len) = (pos & 0xff, len & 0xff);
                if pos >= $t::BITS || len == 0 {
                    return into;
                }
                let ones = if len >= $t::BITS { !0 } else { (1 << len) - 1 };
                let mask = ones << pos;
                into & !mask | self << pos & mask
            }
        }
    )*};
}
field!(u32, u64);

/// `bfi f, a, b, c, len`; the slot of the last is in [`Inst::aux`].
unsafe fn bfi<T: Field>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file, of these widths.
    unsafe {
        let (a, b) = (T::load(w.slot(i.a)), T::load(w.slot(i.b)));
        let (pos, len) = (u32::load(w.slot(i.c)), u32::load(w.slot(i.aux)));
        let out: [T; 32] = each(|l| a[l].insert(b[l], pos[l], len[l]));
        T::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

/// `bfind`: place of the top bit that differs from the sign; all ones where there is none.
#[inline(always)]
fn top_bit(a: i64, signed: bool, width: u32, shift: bool) -> u32 {
    let a = if signed && a < 0 { !a } else { a };
    let a = if width == 32 {
        a as u64 & 0xffff_ffff
    } else {
        a as u64
    };
    if a == 0 {
        return u32::MAX;
    }
    let place = 63 - a.leading_zeros();
    if shift { width - 1 - place } else { place }
}

fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    if offset == 0 {
        return if base < 32 && mask >> base & 1 != 0 {
            base
        } else {
            u32::MAX
        };
    }
    let step = i64::from(offset.signum());
    let mut left = offset.unsigned_abs() - 1;
    let mut at = i64::from(base as i32);
    while (0..32).contains(&at) {
        if mask >> at & 1 != 0 {
            if left == 0 {
                return at as u32;
            }
            left -= 1;
        }
        at += step;
    }
    u32::MAX
}

/// `szext`: zero- or sign-extends the low `width` bits.
#[inline(always)]
fn extend(a: u32, width: u32, signed: bool, clamp: bool) -> u32 {
    let bits = width & 31;
    let too_large = clamp && width >= 32;
    let mask = if too_large { 0 } else { u32::MAX << bits };
    let negative = signed && bits != 0 && !too_large && a >> (bits.wrapping_sub(1) & 31) & 1 != 0;
    a & !mask | if negative { mask } else { 0 }
}

/// `bmsk`: `len` ones from bit `pos`.
#[inline(always)]
fn bit_mask(pos: u32, len: u32, clamp: bool) -> u32 {
    let (a, b) = (pos & 31, len & 31);
    let below = if clamp && pos >= 32 { 0 } else { u32::MAX << a };
    let past_top = a + b >= 32 || clamp && (pos >= 32 || len >= 32);
    let above = if past_top {
        0
    } else if b == 0 {
        // No bits at all: the ISA's text makes the mask empty through this.
        u32::MAX
    } else {
        u32::MAX << (a + b)
    };
    below & !above
}

/// `prmt` without a mode: each nibble of `c` picks a byte of `b:a`, or its sign.
fn prmt(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    const MODES: [&str; 6] = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
    // The mode follows the type.
    if i.opcode.get(1).map(String::as_str) != Some("b32") || i.opcode.len() > 3 {
        return d.unsupported("form");
    }
    let run = match i.opcode.get(2) {
        None => permute_handler(),
        Some(mode) => match MODES.iter().position(|m| m == mode) {
            Some(0) => alu3(|a: u32, b: u32, c: u32| {
                permute(a, b, [0x3210, 0x4321, 0x5432, 0x6543][c as usize & 3])
            }),
            Some(1) => alu3(|a: u32, b: u32, c: u32| {
                permute(a, b, [0x5670, 0x6701, 0x7012, 0x0123][c as usize & 3])
            }),
            Some(2) => alu3(|a: u32, b: u32, c: u32| {
                permute(a, b, [0x0000, 0x1111, 0x2222, 0x3333][c as usize & 3])
            }),
            Some(3) => alu3(|a: u32, b: u32, c: u32| {
                permute(a, b, [0x3210, 0x3211, 0x3222, 0x3333][c as usize & 3])
            }),
            Some(4) => alu3(|a: u32, b: u32, c: u32| {
                permute(a, b, [0x0000, 0x1110, 0x2210, 0x3210][c as usize & 3])
            }),
            Some(_) => alu3(|a: u32, b: u32, c: u32| {
                permute(a, b, [0x1010, 0x3232, 0x1010, 0x3232][c as usize & 3])
            }),
            None => return d.unsupported(format!("modifier .{mode}")),
        },
    };
    ternary(d, i, Type::B32, [Type::B32; 3], run)
}

#[inline(always)]
fn permute(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    for k in 0..4 {
        let control = c >> (4 * k) & 0xf;
        let byte = (bytes >> (8 * (control & 7))) as u8;
        let byte = if control & 8 != 0 {
            (byte as i8 >> 7) as u8
        } else {
            byte
        };
        out |= u32::from(byte) << (8 * k);
    }
    out
}

fn permute_handler() -> Handler {
    #[cfg(target_arch = "x86_64")]
    if crate::exec::lanes::wide() {
        return permute_wide;
    }
    alu3(permute)
}

/// Byte shuffles of eight lanes at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn permute_wide(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    use std::arch::x86_64::*;
    let mut out = [0u32; 32];
    // SAFETY: operands are 32-bit slots, 32 lanes of which are read and written in four vectors of eight.
    unsafe {
        let (a, b, c) = (
            w.slot(i.a).cast::<__m256i>(),
            w.slot(i.b).cast::<__m256i>(),
            w.slot(i.c).cast::<__m256i>(),
        );
        // Where each lane's bytes begin in its 128-bit half.
        let origin = _mm256_setr_epi32(
            0,
            0x0404_0404,
            0x0808_0808,
            0x0c0c_0c0c,
            0,
            0x0404_0404,
            0x0808_0808,
            0x0c0c_0c0c,
        );
        let byte = |v: u32| _mm256_set1_epi32(v as i32);
        for k in 0..4 {
            let (a, b, c) = (
                _mm256_load_si256(a.add(k)),
                _mm256_load_si256(b.add(k)),
                _mm256_load_si256(c.add(k)),
            );
            // A nibble a byte.
            let c = _mm256_and_si256(c, byte(0xffff));
            let c = _mm256_and_si256(
                _mm256_or_si256(c, _mm256_slli_epi32::<8>(c)),
                byte(0x00ff_00ff),
            );
            let c = _mm256_and_si256(
                _mm256_or_si256(c, _mm256_slli_epi32::<4>(c)),
                byte(0x0f0f_0f0f),
            );
            let place = _mm256_add_epi8(_mm256_and_si256(c, byte(0x0303_0303)), origin);
            // The top bit of a shuffle control makes a zero: of `a` where bit 2 is set, of `b` where it is not.
            let second = _mm256_and_si256(_mm256_slli_epi32::<5>(c), byte(0x8080_8080));
            let first = _mm256_xor_si256(second, byte(0x8080_8080));
            let from_a = _mm256_shuffle_epi8(a, _mm256_or_si256(place, second));
            let from_b = _mm256_shuffle_epi8(b, _mm256_or_si256(place, first));
            let bytes = _mm256_or_si256(from_a, from_b);
            let signs = _mm256_cmpgt_epi8(_mm256_setzero_si256(), bytes);
            // Bit 3 to the top, where the blend looks.
            let result = _mm256_blendv_epi8(bytes, signs, _mm256_slli_epi32::<4>(c));
            _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>().add(k), result);
        }
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

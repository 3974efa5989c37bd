//! `ldmatrix`, `stmatrix` and `movmatrix`: 8x8 matrices of 16-bit elements between shared memory and the
//! fragments that `mma` takes.
//!
//! A fragment register of such a matrix, all 32 lanes of it in order, is the matrix in row-major order:
//! lane `4 r + t` holds elements `2 t` and `2 t + 1` of row `r`. So a register's slot and the eight rows of
//! 16 bytes in shared memory are the same 128 bytes.

use super::memory::{decode_space, elements, encode_space, lane_addresses, space_of};
use super::mma::element::{Brain, Element, Half};
use super::mma::held::{block_place, unpack_row};
use super::tensor::whole_warp;
use super::{has, only, operands};
use crate::exec::access::{Access, Kind, Lanes, Operand as AddressOperand};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{each, pick_handler, wide};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// Bytes of a row of a matrix.
const ROW: u32 = 16;

const MODIFIERS: &[&str] = &[
    "sync",
    "aligned",
    "m8n8",
    "x1",
    "x2",
    "x4",
    "trans",
    "shared",
    "shared::cta",
];

/// `ldmatrix` and `stmatrix`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let load = i.opcode[0] == "ldmatrix";
    if has(i, "m16n16") || has(i, "m8n16") || has(i, "m16n8") {
        return d.unsupported("8-bit and narrower elements, which need sm_100a");
    }
    only(d, i, MODIFIERS)?;
    operands(d, i, 2)?;
    if super::type_of(d, i)? != Type::B16 {
        return d.unsupported("element type");
    }
    let (address, list) = if load {
        (&i.operands[1], &i.operands[0])
    } else {
        (&i.operands[0], &i.operands[1])
    };
    let count = [("x1", 1), ("x2", 2), ("x4", 4)]
        .iter()
        .find(|(m, _)| has(i, m))
        .map(|&(_, n)| n);
    let Some(count) = count else {
        return d.invalid("neither .x1, .x2 nor .x4");
    };
    let list = elements(list);
    if list.len() != count {
        return d.invalid(format!("{} registers for {count} matrices", list.len()));
    }
    let address = d.address(address)?;
    let code = encode_space(d, space_of(i), &address)?;
    let mut slots = Vec::new();
    for operand in list {
        slots.push(if load {
            d.dst(operand, Type::B32)?
        } else {
            d.src(operand, Type::B32)?
        });
    }
    let run: Handler = match (load, has(i, "trans"), count) {
        (true, trans, _) if let Some(held) = d.held_load() => {
            let (first, _) = d.held_slots();
            slots = held
                .blocks
                .map(|(half, part)| first + block_place(half, part, trans))
                .to_vec();
            match held.element {
                Type::F16 => pick_load::<4, Unpacked<Half>>(),
                _ => pick_load::<4, Unpacked<Brain>>(),
            }
        }
        (true, false, 1) => pick_load::<1, Rows>(),
        (true, false, 2) => pick_load::<2, Rows>(),
        (true, false, _) => pick_load::<4, Rows>(),
        (true, true, 1) => pick_load::<1, Columns>(),
        (true, true, 2) => pick_load::<2, Columns>(),
        (true, true, _) => pick_load::<4, Columns>(),
        (false, false, 1) => pick_handler!(store_matrices::<1, false>),
        (false, false, 2) => pick_handler!(store_matrices::<2, false>),
        (false, false, _) => pick_handler!(store_matrices::<4, false>),
        (false, true, 1) => pick_handler!(store_matrices::<1, true>),
        (false, true, 2) => pick_handler!(store_matrices::<2, true>),
        (false, true, _) => pick_handler!(store_matrices::<4, true>),
    };
    Ok(Inst {
        a: address.slot,
        imm: address.offset,
        aux: code,
        extra: d.extras(slots),
        ..d.inst(run)
    })
}

/// A matrix, row after row.
pub(super) type Matrix = [[u16; 8]; 8];

/// Rows to columns.
#[inline(always)]
pub(super) fn transposed(m: Matrix) -> Matrix {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: SSE2 is part of x86-64; a matrix is eight vectors of 16 bytes.
        unsafe {
            let r: [__m128i; 8] = std::mem::transmute(m);
            // Interleaving rows k and k + 4 three times over sends each index bit to its place.
            let mix = |r: [__m128i; 8]| -> [__m128i; 8] {
                std::array::from_fn(|k| {
                    let (x, y) = (r[k / 2], r[k / 2 + 4]);
                    if k % 2 == 0 {
                        _mm_unpacklo_epi16(x, y)
                    } else {
                        _mm_unpackhi_epi16(x, y)
                    }
                })
            };
            std::mem::transmute(mix(mix(mix(r))))
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|r| std::array::from_fn(|c| m[c][r]))
}

/// The lanes that give row addresses for `N` matrices.
const fn address_lanes(n: usize) -> u32 {
    u32::MAX >> (32 - 8 * n)
}

/// What becomes of a loaded matrix.
trait Target {
    /// Whether its place is a register's, which may be that of the addresses.
    const REGISTER: bool = true;

    /// Puts the matrix, of whose rows `row` gives the pointers, to its place.
    ///
    /// # Safety
    /// The pointers are valid for a row each; the place is valid for what this target makes of a matrix; `WIDE` only in
    /// the wide build.
    unsafe fn put<const WIDE: bool>(place: *mut u8, row: impl Fn(usize) -> *const u8);
}

/// A register takes it as it is.
struct Rows;
impl Target for Rows {
    #[inline(always)]
    unsafe fn put<const WIDE: bool>(place: *mut u8, row: impl Fn(usize) -> *const u8) {
        // Row by row, not by way of a whole matrix.
        for r in 0..8 {
            // SAFETY: the caller's promise.
            unsafe {
                let row = row(r).cast::<[u16; 8]>().read_unaligned();
                place.cast::<[u16; 8]>().add(r).write(row);
            }
        }
    }
}

/// A register takes its transpose.
struct Columns;
impl Target for Columns {
    #[inline(always)]
    unsafe fn put<const WIDE: bool>(place: *mut u8, row: impl Fn(usize) -> *const u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let matrix = each(|r| row(r).cast::<[u16; 8]>().read_unaligned());
            place.cast::<Matrix>().write(transposed(matrix));
        }
    }
}

/// The product that is to come takes it, unpacked: as it lies in memory, for the product knows whether those are rows.
struct Unpacked<E>(std::marker::PhantomData<E>);
impl<E: Element> Target for Unpacked<E> {
    const REGISTER: bool = false;

    #[inline(always)]
    unsafe fn put<const WIDE: bool>(place: *mut u8, row: impl Fn(usize) -> *const u8) {
        for r in 0..8 {
            // SAFETY: the caller's promise.
            unsafe { unpack_row::<E, WIDE>(row(r), place, r) };
        }
    }
}

fn pick_load<const N: usize, T: Target>() -> Handler {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn fast<const N: usize, T: Target>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
        // SAFETY: the handler's own contract; picked only where the features exist.
        unsafe { load_matrices::<N, T, true>(w, i, mask) }
    }
    unsafe fn base<const N: usize, T: Target>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
        // SAFETY: the handler's own contract.
        unsafe { load_matrices::<N, T, false>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return fast::<N, T>;
    }
    base::<N, T>
}

#[inline(always)]
unsafe fn load_matrices<const N: usize, T: Target, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let given = mask & address_lanes(N);
    let operand = AddressOperand {
        slot: i.a,
        offset: i.imm,
        code: i.aux,
    };
    // SAFETY: operands are slots of the warp's file; the quick way has checked 16 bytes behind each pointer.
    unsafe {
        if given == address_lanes(N)
            && let Some(Lanes::Narrow(start, offsets)) = w.quick_rows::<WIDE>(given, operand)
        {
            // From memory addresses are made faster than from the vectors that were checked.
            let offsets = std::hint::black_box(offsets);
            let copy;
            let offsets = if T::REGISTER {
                copy = *offsets;
                std::hint::black_box(&copy)
            } else {
                &*offsets
            };
            for k in 0..N {
                let row = |r: usize| start.wrapping_add(offsets[8 * k + r] as usize).cast_const();
                T::put::<WIDE>(w.slot(w.extra(i, k)), row);
            }
            return Flow::Next;
        }
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            return load_by_reach_wide::<N, T>(w, i, given);
        }
        load_by_reach::<N, T, false>(w, i, given)
    }
}

/// [`load_by_reach`] in the wide build, out of the quick way's way.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn load_by_reach_wide<const N: usize, T: Target>(
    w: &mut Warp,
    i: &Inst,
    given: u32,
) -> Flow {
    // SAFETY: the caller's promise.
    unsafe { load_by_reach::<N, T, true>(w, i, given) }
}

/// [`load_matrices`] for the lanes of `given`, by the long way.
#[inline(always)]
unsafe fn load_by_reach<const N: usize, T: Target, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    given: u32,
) -> Flow {
    // SAFETY: operands are slots of the warp's file. Destinations may be the address register: it is read before.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let access = Access {
        space: decode_space(i.aux),
        size: ROW,
        align: ROW,
        kind: Kind::Read,
    };
    let rows = match w.reach(given, &addresses, access) {
        Ok(reach) => w.places(reach, &addresses),
        Err(flow) => return flow,
    };
    for k in 0..N {
        // Lanes that a partial warp lacks give no rows.
        const ABSENT: [u16; 8] = [0; 8];
        let row = |r: usize| {
            let lane = 8 * k + r;
            if given >> lane & 1 == 0 {
                ABSENT.as_ptr().cast()
            } else {
                rows[lane].cast_const()
            }
        };
        // SAFETY: 16 bytes were checked behind the pointer of each lane that gives a row; the decoder gave the place.
        unsafe { T::put::<WIDE>(w.slot(w.extra(i, k)), row) };
    }
    Flow::Next
}

#[inline(always)]
unsafe fn store_matrices<const N: usize, const TRANS: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let access = Access {
        space: decode_space(i.aux),
        size: ROW,
        align: ROW,
        kind: Kind::Store,
    };
    let given = mask & address_lanes(N);
    let rows = match w.reach(given, &addresses, access) {
        Ok(reach) => w.places(reach, &addresses),
        Err(flow) => return flow,
    };
    for k in 0..N {
        // SAFETY: the source is a 128-byte slot.
        let matrix = unsafe { w.slot(w.extra(i, k)).cast::<Matrix>().read() };
        let matrix = if TRANS { transposed(matrix) } else { matrix };
        for (r, row) in matrix.iter().enumerate() {
            let lane = 8 * k + r;
            if given >> lane & 1 != 0 {
                // SAFETY: 16 bytes were checked behind the pointer of each lane that gives a row.
                unsafe { rows[lane].cast::<[u16; 8]>().write_unaligned(*row) };
            }
        }
    }
    Flow::Next
}

/// `movmatrix`: the transpose of a fragment.
///
/// # Errors
/// A form that is not executed.
pub fn decode_move(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    only(d, i, &["sync", "aligned", "m8n8", "trans"])?;
    operands(d, i, 2)?;
    if super::type_of(d, i)? != Type::B16 || !has(i, "trans") {
        return d.unsupported("form");
    }
    let slot = d.dst(&i.operands[0], Type::B32)?;
    let a = d.src(&i.operands[1], Type::B32)?;
    if matches!(i.operands[0], Operand::Sink) {
        return d.invalid("no destination");
    }
    Ok(Inst {
        d: slot,
        a,
        ..d.inst(move_matrix)
    })
}

unsafe fn move_matrix(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    // SAFETY: both operands are 128-byte slots.
    unsafe {
        let matrix = w.slot(i.a).cast::<Matrix>().read();
        w.slot(i.d).cast::<Matrix>().write(transposed(matrix));
    }
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition() {
        let m: Matrix = std::array::from_fn(|r| std::array::from_fn(|c| (r * 8 + c) as u16));
        let t: Matrix = std::array::from_fn(|r| std::array::from_fn(|c| (c * 8 + r) as u16));
        assert_eq!(transposed(m), t);
    }
}

//! Products of 16-bit elements whose factors are held unpacked, in slots of their own, from one instruction to the next:
//! what `ldmatrix` loads for one product alone is unpacked as it is loaded, and a B that several products share is
//! unpacked once. [`Fragments`](crate::exec::decode::Fragments) says where that is so.

use super::super::tensor::whole_warp;
use super::APART;
use super::accumulator::{ROWS, Single};
use super::element::{Brain, Element, Half};
use super::float::{unpack_a, unpack_b};
use super::sums::{Strides, sum};
use crate::exec::decode::{Decoder, FactorA, HeldFactors};
use crate::exec::lanes::{each, wide};
use crate::exec::program::{Flow, Handler, Inst, SLOT};
use crate::exec::warp::Warp;
use crate::ptx::ast::Type;

/// Length of the sums.
const K: usize = 16;
/// Blocks of 16 bytes along K.
const DEPTH: usize = 2;
/// Slots that A takes, unpacked.
pub const A_SLOTS: u32 = (ROWS * K * size_of::<f32>()) as u32 / SLOT;
/// Slots that B takes, unpacked.
pub const B_SLOTS: u32 = (K * 8 * size_of::<f32>()) as u32 / SLOT;
/// Bytes between the places of two rows of a loaded matrix.
const ROW_BYTES: usize = K * size_of::<f32>();

/// Where A comes from: its registers, held by rows, held by columns.
const PACKED: u8 = 0;
const BY_ROWS: u8 = 1;
const BY_COLUMNS: u8 = 2;

/// The place, in bytes behind the first, of a block of eight by eight elements of A: of rows from `8 * half` on and
/// columns from `8 * part` on. Its rows, or its columns where A is held by columns, are [`ROW_BYTES`] apart.
pub fn block_place(half: u32, part: u32, by_columns: bool) -> u32 {
    let (row, column) = if by_columns {
        (8 * part, 8 * half)
    } else {
        (8 * half, 8 * part)
    };
    row * ROW_BYTES as u32 + column * size_of::<f32>() as u32
}

/// A product made to take its factors as they are held.
pub fn product(d: &mut Decoder, inst: Inst, factors: HeldFactors) -> Inst {
    let (a, b) = d.held_slots();
    Inst {
        run: match factors.element {
            Type::F16 => pick_product::<Half>(factors),
            _ => pick_product::<Brain>(factors),
        },
        a,
        b,
        ..inst
    }
}

fn pick_product<E: Element>(factors: HeldFactors) -> Handler {
    match (factors.a, factors.b_held) {
        (FactorA::Packed, false) => pick::<E, PACKED, false>(),
        (FactorA::Packed, true) => pick::<E, PACKED, true>(),
        (FactorA::ByRows, false) => pick::<E, BY_ROWS, false>(),
        (FactorA::ByRows, true) => pick::<E, BY_ROWS, true>(),
        (FactorA::ByColumns, false) => pick::<E, BY_COLUMNS, false>(),
        (FactorA::ByColumns, true) => pick::<E, BY_COLUMNS, true>(),
    }
}

fn pick<E: Element, const A: u8, const B_HELD: bool>() -> Handler {
    unsafe fn base<E: Element, const A: u8, const B_HELD: bool>(
        w: &mut Warp,
        i: &Inst,
        mask: u32,
    ) -> Flow {
        // SAFETY: the handler's own contract.
        unsafe { multiply::<E, A, B_HELD, false>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn fast<E: Element, const A: u8, const B_HELD: bool>(
        w: &mut Warp,
        i: &Inst,
        mask: u32,
    ) -> Flow {
        // SAFETY: the handler's own contract; picked only where the features exist.
        unsafe { multiply::<E, A, B_HELD, true>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return fast::<E, A, B_HELD>;
    }
    base::<E, A, B_HELD>
}

#[inline(always)]
unsafe fn multiply<E: Element, const A: u8, const B_HELD: bool, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    // SAFETY: the decoder put the slots together in this order, and gave the held factors slots enough.
    unsafe {
        let first = w.program().extra.as_ptr().add(i.extra as usize);
        let slot = |k: usize| w.slot(*first.add(k));
        let (d, c) = (each::<_, 4>(slot), each::<_, 4>(|k| slot(10 + k)));
        let (a, b) = (w.slot(i.a).cast::<f32>(), w.slot(i.b).cast::<f32>());
        if A == PACKED {
            unpack_a::<E, DEPTH, K, WIDE>(&each::<_, 4>(|k| slot(4 + k)), a);
        }
        if !B_HELD {
            unpack_b::<E, Single, DEPTH, K, 0, WIDE>(&[slot(8), slot(9)], b);
        }
        let apart = i.aux & APART != 0;
        if A == BY_COLUMNS {
            sum::<Single, K, 1, ROWS, WIDE>((a, Strides), b, &c, &d, apart);
        } else {
            sum::<Single, K, K, 1, WIDE>((a, Strides), b, &c, &d, apart);
        }
    }
    Flow::Next
}

/// Unpacks a row, or column, of a block of A to its place.
///
/// # Safety
/// `from` is valid for 16 bytes; `block` is the place of the block; `WIDE` as for [`Element::unpack`].
#[inline(always)]
pub unsafe fn unpack_row<E: Element, const WIDE: bool>(
    from: *const u8,
    block: *mut u8,
    row: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { E::unpack::<WIDE>(from, block.add(row * ROW_BYTES).cast()) };
}

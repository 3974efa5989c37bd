//! `cp.async.bulk` from global to shared memory, counted by an `mbarrier`.

use super::mbarrier::barrier_space;
use super::memory::{decode_space, encode_space, lane_addresses, space_code};
use super::{has, only};
use crate::check::FaultKind;
use crate::exec::access::{Access, Kind, bits};
use crate::exec::bulk::GRAIN;
use crate::exec::decode::Decoder;
use crate::exec::lanes::Lane;
use crate::exec::mbarrier::Debt;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Space, Type};

const MODIFIERS: &[&str] = &[
    "async",
    "bulk",
    "shared::cluster",
    "shared::cta",
    "global",
    "mbarrier::complete_tx::bytes",
    "L2::cache_hint",
];

/// Bits of [`Inst::aux`] from which the codes of the destination's and the barrier's space stand; the source's
/// is lowest.
const TO_SHIFT: u32 = 8;
const BARRIER_SHIFT: u32 = 16;
const CODE: u32 = (1 << TO_SHIFT) - 1;

/// `cp.async.bulk`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if has(i, "tensor") {
        return d.unsupported("tensor maps");
    }
    if has(i, "reduce") || i.opcode.get(1).is_some_and(|m| m == "reduce") {
        return d.unsupported("bulk reductions");
    }
    if has(i, "prefetch") {
        // A hint: the data stays what it is.
        return Ok(d.inst(hint));
    }
    if has(i, "multicast::cluster") {
        return d.unsupported("clusters");
    }
    if has(i, "bulk_group") || has(i, "commit_group") || has(i, "wait_group") {
        return d.unsupported("bulk copies from shared memory");
    }
    only(d, i, MODIFIERS)?;
    // Destination first, then source: two spaces in the opcode.
    if !has(i, "global") || !has(i, "mbarrier::complete_tx::bytes") {
        return d.unsupported("bulk copies between blocks");
    }
    let ([to, from, size, barrier] | [to, from, size, barrier, _]) = &i.operands[..] else {
        return d.invalid("operands are not [to], [from], size, [barrier] and a cache policy");
    };
    let (to, from, barrier) = (d.address(to)?, d.address(from)?, d.address(barrier)?);
    let shared = barrier_space(i).or(Some(Space::Shared));
    let to_code = encode_space(d, shared, &to)?;
    let barrier_code = encode_space(d, shared, &barrier)?;
    let from_code = encode_space(d, Some(Space::Global), &from)?;
    let b = d.src(size, Type::U32)?;
    let (Ok(to_offset), Ok(barrier_offset)) =
        (i32::try_from(to.offset), i32::try_from(barrier.offset))
    else {
        return d.invalid("offset in shared memory");
    };
    let extra = d.extras([barrier.slot, barrier_offset as u32]);
    Ok(Inst {
        a: from.slot,
        imm: from.offset,
        d: to.slot,
        c: to_offset as u32,
        b,
        aux: from_code | to_code << TO_SHIFT | barrier_code << BARRIER_SHIFT,
        extra,
        ..d.inst(issue)
    })
}

unsafe fn hint(_: &mut Warp, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

unsafe fn issue(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (from_code, to_code, barrier_code) = (
        i.aux & CODE,
        i.aux >> TO_SHIFT & CODE,
        i.aux >> BARRIER_SHIFT,
    );
    // SAFETY: operands are slots of the warp's file.
    let (from, to, barriers, sizes) = unsafe {
        (
            lane_addresses(w, i.a, i.imm, from_code),
            lane_addresses(w, i.d, i64::from(i.c as i32), to_code),
            lane_addresses(
                w,
                w.extra(i, 0),
                i64::from(w.extra(i, 1) as i32),
                barrier_code,
            ),
            u32::load(w.slot(i.b)),
        )
    };
    let space = |code: u32| decode_space(code & space_code::MASK);
    let access = Access {
        space: space(barrier_code),
        size: 8,
        align: 8,
        kind: Kind::Probe,
    };
    if let Err(flow) = w.pointers(mask, &barriers, access) {
        return flow;
    }
    for lane in bits(mask) {
        let size = sizes[lane];
        if size % GRAIN != 0 {
            return w.fault(
                FaultKind::Illegal,
                1 << lane,
                format!("bulk copy of {size} bytes: whole multiples of {GRAIN} are copied"),
            );
        }
        let issued = w.issue_bulk(
            lane,
            (to[lane], space(to_code)),
            (from[lane], space(from_code)),
            size,
        );
        let owed = issued.and_then(|copy| w.owe(lane, barriers[lane] as u32, Debt::Bytes(copy)));
        if let Err(flow) = owed {
            return flow;
        }
    }
    Flow::Next
}

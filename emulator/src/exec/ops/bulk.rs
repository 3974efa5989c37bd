//! `cp.async.bulk` between global memory and the cluster's shared memory, counted by an `mbarrier` or by groups.

use super::memory::{decode_space, encode_space, lane_addresses, space_code};
use super::{has, only, operands};
use crate::check::FaultKind;
use crate::exec::access::{Access, Kind, bits};
use crate::exec::bulk::GRAIN;
use crate::exec::cluster;
use crate::exec::decode::Decoder;
use crate::exec::lanes::Lane;
use crate::exec::mbarrier::Debt;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Space, Type};

const MODIFIERS: &[&str] = &[
    "async",
    "bulk",
    "shared::cluster",
    "shared::cta",
    "global",
    "mbarrier::complete_tx::bytes",
    "multicast::cluster",
    "bulk_group",
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
    if has(i, "commit_group") {
        operands(d, i, 0)?;
        return Ok(d.inst(commit));
    }
    if has(i, "wait_group") {
        operands(d, i, 1)?;
        return match i.operands[0] {
            Operand::Int(n) if (0..=i64::from(u32::MAX)).contains(&n) => Ok(Inst {
                imm: n,
                aux: u32::from(has(i, "read")),
                ..d.inst(wait)
            }),
            ref other => d.invalid(format!("{other:?} is no number of groups")),
        };
    }
    only(d, i, MODIFIERS)?;
    // Destination first, then source: two spaces in the opcode.
    let spaces: Vec<Space> = (i.opcode.iter())
        .filter_map(|m| match m.as_str() {
            "global" => Some(Space::Global),
            "shared::cta" => Some(Space::Shared),
            "shared::cluster" => Some(Space::Cluster),
            _ => None,
        })
        .collect();
    let (to_space, from_space) = match spaces[..] {
        [to @ (Space::Shared | Space::Cluster), Space::Global] => (to, Space::Global),
        [Space::Cluster, Space::Shared] => (Space::Cluster, Space::Shared),
        [Space::Global, Space::Shared] => (Space::Global, Space::Shared),
        _ => return d.unsupported("spaces"),
    };
    let grouped = to_space == Space::Global;
    if grouped != has(i, "bulk_group") || grouped == has(i, "mbarrier::complete_tx::bytes") {
        return d.unsupported("completion mechanism");
    }
    let hinted = usize::from(has(i, "L2::cache_hint"));
    let multicast = has(i, "multicast::cluster");
    let wanted = 3 + usize::from(!grouped) + usize::from(multicast) + hinted;
    operands(d, i, wanted)?;
    let list = &i.operands;
    let (to, from) = (d.address(&list[0])?, d.address(&list[1])?);
    let to_code = encode_space(d, Some(to_space), &to)?;
    let from_code = encode_space(d, Some(from_space), &from)?;
    let b = d.src(&list[2], Type::U32)?;
    let Ok(to_offset) = i32::try_from(to.offset) else {
        return d.invalid("offset of the destination");
    };
    let mut inst = Inst {
        a: from.slot,
        imm: from.offset,
        d: to.slot,
        c: to_offset as u32,
        b,
        aux: from_code | to_code << TO_SHIFT,
        ..d.inst(issue_grouped)
    };
    if grouped {
        return Ok(inst);
    }
    let barrier = d.address(&list[3])?;
    // The barrier is where the destination is.
    let barrier_code = encode_space(d, Some(to_space), &barrier)?;
    let Ok(barrier_offset) = i32::try_from(barrier.offset) else {
        return d.invalid("offset of the barrier");
    };
    let mut extras = vec![barrier.slot, barrier_offset as u32];
    inst.run = issue;
    if multicast {
        extras.push(d.src(&list[4], Type::U16)?);
        inst.run = issue_to_many;
    }
    inst.aux |= barrier_code << BARRIER_SHIFT;
    inst.extra = d.extras(extras);
    Ok(inst)
}

unsafe fn hint(_: &mut Warp, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

unsafe fn commit(w: &mut Warp, _: &Inst, mask: u32) -> Flow {
    w.bulk_queue().commit(mask);
    Flow::Next
}

unsafe fn wait(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    match w.wait_bulks(mask, i.imm as u32, i.aux != 0) {
        Ok(()) => Flow::Next,
        Err(flow) => flow,
    }
}

/// What the lanes ask for: destinations, sources and sizes.
struct Request {
    to: [u64; 32],
    to_space: Space,
    from: [u64; 32],
    from_space: Space,
    sizes: [u32; 32],
}

unsafe fn request(w: &mut Warp, i: &Inst, mask: u32) -> Result<Request, Flow> {
    let (from_code, to_code) = (i.aux & CODE, i.aux >> TO_SHIFT & CODE);
    // SAFETY: operands are slots of the warp's file.
    let (from, to, sizes) = unsafe {
        (
            lane_addresses(w, i.a, i.imm, from_code),
            lane_addresses(w, i.d, i64::from(i.c as i32), to_code),
            u32::load(w.slot(i.b)),
        )
    };
    if let Some(lane) = bits(mask).find(|&l| sizes[l] % GRAIN != 0) {
        let text = format!(
            "bulk copy of {} bytes: whole multiples of {GRAIN} are copied",
            sizes[lane]
        );
        return Err(w.fault(FaultKind::Illegal, 1 << lane, text));
    }
    let space = |code: u32| decode_space(code & space_code::MASK).unwrap_or(Space::Global);
    Ok(Request {
        to,
        to_space: space(to_code),
        from,
        from_space: space(from_code),
        sizes,
    })
}

unsafe fn issue_grouped(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let r = match unsafe { request(w, i, mask) } {
        Ok(request) => request,
        Err(flow) => return flow,
    };
    for lane in bits(mask) {
        let (to, from) = ((r.to[lane], r.to_space), (r.from[lane], r.from_space));
        match w.issue_bulk(lane, to, from, r.sizes[lane]) {
            Ok(copy) => w.group_bulk(copy),
            Err(flow) => return flow,
        }
    }
    Flow::Next
}

unsafe fn issue(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe { issue_counted(w, i, mask, None) }
}

unsafe fn issue_to_many(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let blocks = u32::load(w.slot(w.extra(i, 2)));
        issue_counted(w, i, mask, Some(blocks))
    }
}

/// Copies that a barrier beside the destination counts; to each of some blocks of the cluster, or to where the address
/// says.
unsafe fn issue_counted(w: &mut Warp, i: &Inst, mask: u32, blocks: Option<[u32; 32]>) -> Flow {
    let barrier_code = i.aux >> BARRIER_SHIFT;
    // SAFETY: operands are slots of the warp's file.
    let (asked, barriers) = unsafe {
        let offset = i64::from(w.extra(i, 1) as i32);
        (
            request(w, i, mask),
            lane_addresses(w, w.extra(i, 0), offset, barrier_code),
        )
    };
    let r = match asked {
        Ok(request) => request,
        Err(flow) => return flow,
    };
    let (own, size) = (w.rank(), w.cluster_size());
    for lane in bits(mask) {
        let targets: Vec<(u64, u64)> = match &blocks {
            None => vec![(r.to[lane], barriers[lane])],
            Some(blocks) => {
                if let Some(rank) = bits(blocks[lane] & 0xffff).find(|&b| b as u32 >= size) {
                    let text = format!("a copy to block {rank} of a cluster of {size}");
                    return w.violation(crate::check::Check::Bounds, 1 << lane, text);
                }
                let there = |a: u64, rank: usize| u64::from(cluster::mapped(a as u32, rank as u32));
                bits(blocks[lane] & 0xffff)
                    .map(|rank| (there(r.to[lane], rank), there(barriers[lane], rank)))
                    .collect()
            }
        };
        for (to, barrier) in targets {
            let access = Access {
                space: Some(r.to_space),
                size: 8,
                align: 8,
                kind: Kind::Probe,
            };
            let place = cluster::place(barrier as u32, own);
            let outcome = w
                .pointers(1 << lane, &[barrier; 32], access)
                .and_then(|_| {
                    let from = (r.from[lane], r.from_space);
                    w.issue_bulk(lane, (to, r.to_space), from, r.sizes[lane])
                })
                .and_then(|copy| w.owe(lane, place, Debt::Bytes(copy)));
            if let Err(flow) = outcome {
                return flow;
            }
        }
    }
    Flow::Next
}

//! `cp.async.bulk` and `cp.reduce.async.bulk` between global memory and the cluster's shared memory, counted by an
//! `mbarrier` or by groups.

use super::memory::{decode_space, encode_space, lane_addresses, space_code};
use super::reduction::{Reduction, by};
use super::{has, only, operands, type_of};
use crate::check::{Check, FaultKind};
use crate::exec::access::{Access, Kind, bits};
use crate::exec::bulk::{GRAIN, Request, Source};
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

/// Of reductions besides.
const OPERATIONS: &[&str] = &[
    "reduce", "noftz", "add", "min", "max", "inc", "dec", "and", "or", "xor",
];

/// Bits of [`Inst::aux`] from which the codes of the destination's and the barrier's space stand (the source's is
/// lowest), and the reduction's number, plus one.
const TO_SHIFT: u32 = 8;
const BARRIER_SHIFT: u32 = 16;
const CODE: u32 = (1 << TO_SHIFT) - 1;
const REDUCTION_SHIFT: u32 = 24;

/// `cp.async.bulk`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if has(i, "tensor") {
        return d.unsupported("tensor maps");
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
    let reduces = has(i, "reduce");
    if reduces {
        only(d, i, &[MODIFIERS, OPERATIONS].concat())?;
    } else {
        only(d, i, MODIFIERS)?;
    }
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
        [to @ (Space::Shared | Space::Cluster), Space::Global] if !reduces => (to, Space::Global),
        [Space::Cluster, Space::Shared] => (Space::Cluster, Space::Shared),
        [Space::Global, Space::Shared] => (Space::Global, Space::Shared),
        _ => return d.unsupported("spaces"),
    };
    let grouped = to_space == Space::Global;
    if grouped != has(i, "bulk_group") || grouped == has(i, "mbarrier::complete_tx::bytes") {
        return d.unsupported("completion mechanism");
    }
    let reduction = match reduces {
        true => Some(reduction(d, i, grouped)?),
        false => None,
    };
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
    if let Some(number) = reduction {
        inst.aux |= (number + 1) << REDUCTION_SHIFT;
    }
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

/// The reduction that an instruction asks for, by its number.
fn reduction(d: &mut Decoder, i: &Instruction, global: bool) -> Result<u32, LoadError> {
    let ty = type_of(d, i)?;
    let op = (i.opcode.iter()).find(|m| OPERATIONS[2..].contains(&m.as_str()));
    let op = op.map_or("", String::as_str);
    // Additions of half-width floats say that they keep subnormal numbers, and no others do.
    let half = op == "add" && matches!(ty, Type::F16 | Type::BF16);
    let form = Reduction::number(op, ty, if global { by::GLOBAL } else { by::SHARED });
    match form.filter(|_| half == has(i, "noftz")) {
        Some(number) => Ok(number),
        None => d.unsupported(format!("reduction .{op} of .{ty:?}")),
    }
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
struct Requests {
    to: [u64; 32],
    to_space: Space,
    from: [u64; 32],
    from_space: Space,
    sizes: [u32; 32],
    reduction: Option<Reduction>,
}

impl Requests {
    /// What `lane` asks for, of a destination at `to`.
    fn of(&self, lane: usize, to: u64) -> Request {
        Request {
            to: (to, self.to_space),
            from: Source::Memory(self.from[lane], self.from_space),
            size: self.sizes[lane],
            reduction: self.reduction,
        }
    }
}

unsafe fn requests(w: &mut Warp, i: &Inst, mask: u32) -> Result<Requests, Flow> {
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
    let number = (i.aux >> REDUCTION_SHIFT).checked_sub(1);
    Ok(Requests {
        to,
        to_space: space(to_code),
        from,
        from_space: space(from_code),
        sizes,
        reduction: number.and_then(Reduction::numbered),
    })
}

unsafe fn issue_grouped(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let r = match unsafe { requests(w, i, mask) } {
        Ok(request) => request,
        Err(flow) => return flow,
    };
    for lane in bits(mask) {
        match w.issue_bulk(lane, &r.of(lane, r.to[lane])) {
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
    let barrier_code = i.aux >> BARRIER_SHIFT & CODE;
    // SAFETY: operands are slots of the warp's file.
    let (asked, barriers) = unsafe {
        let offset = i64::from(w.extra(i, 1) as i32);
        (
            requests(w, i, mask),
            lane_addresses(w, w.extra(i, 0), offset, barrier_code),
        )
    };
    let r = match asked {
        Ok(request) => request,
        Err(flow) => return flow,
    };
    let size = w.cluster_size();
    for lane in bits(mask) {
        let targets: Vec<(u64, u64)> = match &blocks {
            None => vec![(r.to[lane], barriers[lane])],
            Some(blocks) => {
                if let Some(rank) = bits(blocks[lane] & 0xffff).find(|&b| b as u32 >= size) {
                    let text = format!("a copy to block {rank} of a cluster of {size}");
                    return w.violation(Check::Bounds, 1 << lane, text);
                }
                let there = |a: u64, rank: usize| u64::from(cluster::mapped(a as u32, rank as u32));
                bits(blocks[lane] & 0xffff)
                    .map(|rank| (there(r.to[lane], rank), there(barriers[lane], rank)))
                    .collect()
            }
        };
        for (to, barrier) in targets {
            if let Err(flow) = count_with(w, lane, barrier, &r.of(lane, to)) {
                return flow;
            }
        }
    }
    Flow::Next
}

/// Issues what `lane` asks for, to be counted by an mbarrier in the same shared memory as the destination.
///
/// # Errors
/// The flow to return where a check failed.
pub fn count_with(w: &mut Warp, lane: usize, barrier: u64, request: &Request) -> Result<(), Flow> {
    let (to, space) = request.to;
    let access = Access {
        space: Some(space),
        size: 8,
        align: 8,
        kind: Kind::Probe,
    };
    w.pointers(1 << lane, &[barrier; 32], access)?;
    let own = w.rank();
    let place = cluster::place(barrier as u32, own);
    let (there, here) = (
        cluster::rank_of(to as u32, own),
        cluster::rank_of(place, own),
    );
    if there != here {
        let text = format!(
            "the mbarrier is in block {here} of the cluster and the destination in block {there}: they have to be in the same"
        );
        return Err(w.violation(Check::Bounds, 1 << lane, text));
    }
    let copy = w.issue_bulk(lane, request)?;
    w.owe(lane, place, Debt::Bytes(copy))
}

//! Clusters: addresses in other blocks' shared memory, and the cluster's barrier.

use super::memory::AddressLane;
use super::{has, only, operands, type_of};
use crate::check::Check;
use crate::exec::access::{bits, window};
use crate::exec::cluster;
use crate::exec::decode::Decoder;
use crate::exec::lanes::Lane;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::memory::SHARED_WINDOW;
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    match i.opcode[0].as_str() {
        "mapa" => map(d, i).map(Some),
        "getctarank" => rank(d, i).map(Some),
        _ => Ok(None),
    }
}

/// The address that `.shared::cluster` forms take is one in that space, of whatever width; others take a generic one.
fn is_generic(d: &Decoder, i: &Instruction) -> Result<bool, LoadError> {
    match i.opcode[1..].iter().find(|m| m.starts_with("shared")) {
        None => Ok(true),
        Some(m) if m == "shared::cluster" => Ok(false),
        Some(m) => d.unsupported(format!("modifier .{m}")),
    }
}

/// `mapa`: the address in another block that corresponds to one here.
fn map(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    only(d, i, &["shared::cluster"])?;
    operands(d, i, 3)?;
    let ty = type_of(d, i)?;
    let target = d.dst(&i.operands[0], ty)?;
    let generic = is_generic(d, i)?;
    let (wide, source) = match ty {
        Type::U32 if !generic => (false, d.src(&i.operands[1], ty)?),
        Type::U64 => (true, d.src(&i.operands[1], ty)?),
        _ => return d.unsupported(format!("type .{ty:?}")),
    };
    // A variable's own name stands for its address in shared memory, under either form.
    let named = matches!(i.operands[1], Operand::Symbol(..));
    let b = d.src(&i.operands[2], Type::U32)?;
    let run: Handler = match (wide, generic) {
        (false, _) => map_lanes::<u32>,
        (true, _) => map_lanes::<u64>,
    };
    Ok(Inst {
        d: target,
        a: source,
        b,
        imm: if generic && !named {
            SHARED_WINDOW as i64
        } else {
            0
        },
        ..d.inst(run)
    })
}

unsafe fn map_lanes<A: AddressLane>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file, of these widths.
    let (addresses, ranks) = unsafe { (A::load(w.slot(i.a)), u32::load(w.slot(i.b))) };
    let size = w.cluster_size();
    let base = i.imm as u64;
    let mut out = addresses;
    for lane in bits(mask) {
        let address = addresses[lane].wide();
        if base != 0 && window(address) != Space::Shared {
            let text = format!("address {address:#x} is not one in shared memory");
            return w.violation(Check::Bounds, 1 << lane, text);
        }
        if ranks[lane] >= size {
            let text = format!(
                "the address in block {} of a cluster of {size} is asked for",
                ranks[lane]
            );
            return w.violation(Check::Bounds, 1 << lane, text);
        }
        out[lane] = A::narrow(base + u64::from(cluster::mapped(address as u32, ranks[lane])));
    }
    // SAFETY: the destination is a slot of this width.
    unsafe { A::store(w.slot(i.d), out, mask) };
    Flow::Next
}

/// `getctarank`: the rank of the block that an address is in.
fn rank(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    only(d, i, &["shared::cluster"])?;
    operands(d, i, 2)?;
    let ty = type_of(d, i)?;
    is_generic(d, i)?;
    let slot = d.dst(&i.operands[0], Type::U32)?;
    let a = d.src(&i.operands[1], ty)?;
    let run: Handler = match ty {
        Type::U32 => rank_lanes::<u32>,
        Type::U64 => rank_lanes::<u64>,
        _ => return d.unsupported(format!("type .{ty:?}")),
    };
    Ok(Inst {
        d: slot,
        a,
        ..d.inst(run)
    })
}

unsafe fn rank_lanes<A: AddressLane>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let own = w.rank();
    // SAFETY: operands are slots of the warp's file, of these widths.
    unsafe {
        let addresses = A::load(w.slot(i.a));
        let ranks = addresses.map(|a| cluster::rank_of(a.wide() as u32, own));
        u32::store(w.slot(i.d), ranks, mask);
    }
    Flow::Next
}

/// `isspacep.shared`: whether generic addresses are in the block's own shared memory.
///
/// # Safety
/// As for every handler.
pub unsafe fn in_own_block(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let own = w.rank();
    // SAFETY: operands are a 64-bit slot and a predicate slot of the warp's file.
    unsafe {
        let addresses = u64::load(w.slot(i.a));
        let inside =
            addresses.map(|a| window(a) == Space::Shared && cluster::rank_of(a as u32, own) == own);
        bool::store(w.slot(i.d), inside, mask);
    }
    Flow::Next
}

const ALIGNED: u32 = 1;
const RELAXED: u32 = 2;

/// `barrier.cluster.arrive` and `.wait`.
///
/// # Errors
/// A form that is not executed.
pub fn barrier(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 0)?;
    let arrives = has(i, "arrive");
    only(
        d,
        i,
        if arrives {
            &["cluster", "arrive", "release", "relaxed", "aligned"]
        } else {
            &["cluster", "wait", "acquire", "aligned"]
        },
    )?;
    let aligned = if has(i, "aligned") { ALIGNED } else { 0 };
    let relaxed = if has(i, "relaxed") { RELAXED } else { 0 };
    let run: Handler = match (arrives, has(i, "wait")) {
        (true, false) => arrive,
        (false, true) => wait,
        _ => return d.unsupported("form"),
    };
    Ok(Inst {
        aux: aligned | relaxed,
        ..d.inst(run)
    })
}

/// For aligned forms: the whole warp has to come to this very instruction.
fn align(w: &mut Warp, i: &Inst, mask: u32) -> Option<Flow> {
    if i.aux & ALIGNED == 0 {
        return None;
    }
    if mask != w.active {
        let off = w.active & !mask;
        let text = format!("lanes {off:#010x} are predicated off at an aligned barrier");
        return Some(w.violation(Check::Barrier, off, text));
    }
    w.gather(mask, w.threads)
}

unsafe fn arrive(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = align(w, i, mask) {
        return flow;
    }
    let twice = mask & (w.cluster_arrived | w.cluster_passed);
    if twice != 0 {
        let text = format!(
            "lanes {twice:#010x} arrive at the cluster's barrier again without having waited"
        );
        return w.violation(Check::Barrier, twice, text);
    }
    w.arrive_at_cluster(mask, i.aux & RELAXED == 0);
    Flow::Next
}

unsafe fn wait(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = align(w, i, mask) {
        return flow;
    }
    let neither = mask & !(w.cluster_arrived | w.cluster_passed);
    if neither != 0 {
        let text =
            format!("lanes {neither:#010x} wait for the cluster's barrier without having arrived");
        return w.violation(Check::Barrier, neither, text);
    }
    let waiting = mask & w.cluster_arrived;
    let passed = mask & !waiting;
    if passed != 0 {
        w.cluster_passed &= !passed;
        w.passed_cluster();
    }
    if waiting == 0 {
        return Flow::Next;
    }
    w.wait_for_cluster(waiting)
}

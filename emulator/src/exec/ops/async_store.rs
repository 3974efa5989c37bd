//! `st.async` and `red.async`: registers stored to, or reduced into, another block's shared memory, counted by an
//! `mbarrier` there.

use super::bulk::count_with;
use super::memory::{decode_space, elements, encode_space, lane_addresses, vector_len};
use super::reduction::{Reduction, by};
use super::{has, only, operands, type_of};
use crate::check::Check;
use crate::exec::access::{bits, window};
use crate::exec::bulk::{Request, STORED, Source};
use crate::exec::cluster;
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Space, Type};

const MODIFIERS: &[&str] = &[
    "async",
    "weak",
    "cluster",
    "shared::cluster",
    "mbarrier::complete_tx::bytes",
    "v2",
    "v4",
];

const REDUCTIONS: &[&str] = &[
    "async",
    "relaxed",
    "cluster",
    "shared::cluster",
    "mbarrier::complete_tx::bytes",
    "add",
    "min",
    "max",
    "inc",
    "dec",
    "and",
    "or",
    "xor",
];

/// Bits of [`Inst::aux`] from which stand: the code of the barrier's space, after that of the destination's; bytes of
/// an element; elements; and the reduction's number, plus one.
const BARRIER_SHIFT: u32 = 4;
const SIZE_SHIFT: u32 = 8;
const COUNT_SHIFT: u32 = 12;
const REDUCTION_SHIFT: u32 = 16;

/// `st.async` or `red.async`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let reduces = i.opcode[0] == "red";
    only(d, i, if reduces { REDUCTIONS } else { MODIFIERS })?;
    if !has(i, "mbarrier::complete_tx::bytes") {
        return d.unsupported("completion mechanism");
    }
    operands(d, i, 3)?;
    let ty = type_of(d, i)?;
    let n = vector_len(i);
    let size = ty.size();
    if !matches!(size, 4 | 8) || matches!(ty, Type::Pred) || size as usize * n > STORED {
        return d.unsupported(format!("{n} elements of .{ty:?}"));
    }
    let space = has(i, "shared::cluster").then_some(Space::Cluster);
    let (to, barrier) = (d.address(&i.operands[0])?, d.address(&i.operands[2])?);
    let to_code = encode_space(d, space, &to)?;
    let barrier_code = encode_space(d, space, &barrier)?;
    let sources = elements(&i.operands[1]);
    if sources.len() != n {
        return d.invalid(format!("{} values for {n} elements", sources.len()));
    }
    let mut slots = Vec::new();
    for source in sources {
        slots.push(d.src(source, ty)?);
    }
    let mut aux = to_code | barrier_code << BARRIER_SHIFT;
    aux |= size << SIZE_SHIFT | (n as u32) << COUNT_SHIFT;
    if reduces {
        let op = (i.opcode.iter()).find(|m| REDUCTIONS[5..].contains(&m.as_str()));
        let op = op.map_or("", String::as_str);
        match Reduction::number(op, ty, by::REGISTERS) {
            Some(number) => aux |= (number + 1) << REDUCTION_SHIFT,
            None => return d.unsupported(format!("reduction .{op} of .{ty:?}")),
        }
    }
    let Ok(offset) = i32::try_from(barrier.offset) else {
        return d.invalid("offset of the barrier");
    };
    let extra = d.extras(slots);
    Ok(Inst {
        a: to.slot,
        imm: to.offset,
        b: barrier.slot,
        c: offset as u32,
        aux,
        extra,
        ..d.inst(issue)
    })
}

/// What a lane's registers hold, in the order of memory.
unsafe fn bytes(w: &Warp, i: &Inst, lane: usize) -> [u8; STORED] {
    let size = (i.aux >> SIZE_SHIFT & 0xf) as usize;
    let count = (i.aux >> COUNT_SHIFT & 0xf) as usize;
    let mut bytes = [0; STORED];
    for (k, part) in bytes.chunks_mut(size).take(count).enumerate() {
        // SAFETY: slots of the warp's file as decoded, whose lanes have this width.
        unsafe {
            let held = w.slot(w.extra(i, k)).add(lane * size);
            std::ptr::copy_nonoverlapping(held, part.as_mut_ptr(), size);
        }
    }
    bytes
}

unsafe fn issue(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (to_code, barrier_code) = (i.aux & 0xf, i.aux >> BARRIER_SHIFT & 0xf);
    // SAFETY: operands are slots of the warp's file.
    let (to, barriers) = unsafe {
        (
            lane_addresses(w, i.a, i.imm, to_code),
            lane_addresses(w, i.b, i64::from(i.c as i32), barrier_code),
        )
    };
    let number = (i.aux >> REDUCTION_SHIFT).checked_sub(1);
    let reduction = number.and_then(Reduction::numbered);
    let size = (i.aux >> SIZE_SHIFT & 0xf) * (i.aux >> COUNT_SHIFT & 0xf);
    let own = w.rank();
    for lane in bits(mask) {
        for (address, code) in [(to[lane], to_code), (barriers[lane], barrier_code)] {
            let generic = decode_space(code).is_none();
            if generic && window(address) != Space::Shared {
                let text = format!("address {address:#x} is not one in shared memory");
                return w.violation(Check::Bounds, 1 << lane, text);
            }
        }
        if cluster::rank_of(to[lane] as u32, own) == own {
            let text = format!(
                "the destination at {:#x} is in the block's own shared memory: asynchronous stores are to other blocks'",
                to[lane] as u32
            );
            return w.violation(Check::Bounds, 1 << lane, text);
        }
        let request = Request {
            // The lower half of a generic address is the address in the cluster's shared memory.
            to: (u64::from(to[lane] as u32), Space::Cluster),
            // SAFETY: as above.
            from: Source::Registers(unsafe { bytes(w, i, lane) }),
            size,
            reduction,
        };
        let barrier = u64::from(barriers[lane] as u32);
        if let Err(flow) = count_with(w, lane, barrier, &request) {
            return flow;
        }
    }
    Flow::Next
}

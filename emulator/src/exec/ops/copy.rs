//! Asynchronous copies: `cp.async` and its groups.

use super::memory::{decode_space, encode_space, lane_addresses};
use super::{has, only, operands};
use crate::check::FaultKind;
use crate::exec::access::{Operand as AddressOperand, bits};
use crate::exec::async_copy::Request;
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, pick_handler, wide};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    match i.opcode[0].as_str() {
        "cp" if !has(i, "async") => return d.unsupported(""),
        "cp" if has(i, "bulk") => return super::bulk::decode(d, i).map(Some),
        "cp" => {}
        // The launch before is complete when a kernel begins, and the next begins when it is complete; registers
        // are never short.
        "griddepcontrol" | "setmaxnreg" => return Ok(Some(d.inst(nothing))),
        _ => return Ok(None),
    }
    let inst = match i.opcode.get(2).map(String::as_str) {
        Some("commit_group") => {
            operands(d, i, 0)?;
            d.inst(pick_handler!(commit))
        }
        Some("wait_all") => {
            operands(d, i, 0)?;
            d.inst(pick_handler!(wait_all))
        }
        Some("wait_group") => {
            operands(d, i, 1)?;
            match i.operands[0] {
                Operand::Int(n) if (0..=i64::from(u32::MAX)).contains(&n) => Inst {
                    imm: n,
                    ..d.inst(pick_handler!(wait_group))
                },
                ref other => return d.invalid(format!("{other:?} is no number of groups")),
            }
        }
        Some("ca" | "cg") => copy(d, i)?,
        Some("mbarrier") => super::mbarrier::decode_copy_arrive(d, i)?,
        _ => return d.unsupported("form"),
    };
    Ok(Some(inst))
}

unsafe fn nothing(_: &mut Warp, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

#[inline(always)]
unsafe fn commit(w: &mut Warp, _: &Inst, mask: u32) -> Flow {
    w.copies().commit(mask);
    Flow::Next
}

#[inline(always)]
unsafe fn wait_group(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    match w.wait_copies(mask, i.imm as u32) {
        Ok(()) => Flow::Next,
        Err(flow) => flow,
    }
}

#[inline(always)]
unsafe fn wait_all(w: &mut Warp, _: &Inst, mask: u32) -> Flow {
    match w.wait_all_copies(mask) {
        Ok(()) => Flow::Next,
        Err(flow) => flow,
    }
}

const MODIFIERS: &[&str] = &[
    "async",
    "ca",
    "cg",
    "shared",
    "shared::cta",
    "global",
    "L2::cache_hint",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

/// What tells how much of the source a lane reads.
const ALL: u32 = 0;
const SOURCE_SIZE: u32 = 1;
const IGNORE: u32 = 2;
const IGNORE_NEGATED: u32 = 3;

/// Bit of [`Inst::aux`] from which the code of the destination's space stands; the source's is lowest.
const TO_SHIFT: u32 = 8;

fn copy(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    only(d, i, MODIFIERS)?;
    let hinted = has(i, "L2::cache_hint");
    let (list, policy) = match i.operands.split_last() {
        Some((policy, list)) if hinted => (list, Some(policy)),
        _ => (&i.operands[..], None),
    };
    if let Some(policy) = policy {
        // A hint: read for its type alone.
        d.src(policy, Type::B64)?;
    }
    let (to, from, size, rest) = match list {
        [to, from, Operand::Int(size)] => (to, from, *size, None),
        [to, from, Operand::Int(size), rest] => (to, from, *size, Some(rest)),
        _ => return d.invalid("operands are not [to], [from], size and one more at most"),
    };
    if has(i, "cg") && size != 16 {
        return d.invalid(format!("{size} bytes under .cg, which copies 16"));
    }
    let to = d.address(to)?;
    let from = d.address(from)?;
    let to_code = encode_space(d, Some(Space::Shared), &to)?;
    let from_code = encode_space(d, Some(Space::Global), &from)?;
    let mut inst = Inst {
        a: from.slot,
        imm: from.offset,
        d: to.slot,
        ..d.inst(pick_handler!(wait_all))
    };
    let form = match rest {
        None => ALL,
        Some(Operand::NotReg(_)) => {
            inst.b = d.predicate(rest.unwrap_or(&Operand::Sink))?.0;
            IGNORE_NEGATED
        }
        Some(Operand::Reg(reg)) if d.reg_type(*reg) == Type::Pred => {
            inst.b = d.reg(*reg);
            IGNORE
        }
        Some(bytes) => {
            inst.b = d.src(bytes, Type::U32)?;
            SOURCE_SIZE
        }
    };
    inst.run = match (size, form) {
        (4, _) => form_of::<4>(form),
        (8, _) => form_of::<8>(form),
        (16, _) => form_of::<16>(form),
        _ => return d.invalid(format!("{size} bytes: 4, 8 or 16 can be copied")),
    };
    let Ok(to_offset) = i32::try_from(to.offset) else {
        return d.invalid(format!("offset {} in shared memory", to.offset));
    };
    inst.c = to_offset as u32;
    inst.aux = from_code | to_code << TO_SHIFT;
    Ok(inst)
}

fn form_of<const SIZE: u32>(form: u32) -> Handler {
    match form {
        ALL => pick_issue::<SIZE, ALL>(),
        SOURCE_SIZE => pick_issue::<SIZE, SOURCE_SIZE>(),
        IGNORE => pick_issue::<SIZE, IGNORE>(),
        _ => pick_issue::<SIZE, IGNORE_NEGATED>(),
    }
}

fn pick_issue<const SIZE: u32, const FORM: u32>() -> Handler {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn fast<const SIZE: u32, const FORM: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
        // SAFETY: the handler's own contract; picked only where the features exist.
        unsafe { issue::<SIZE, FORM, true>(w, i, mask) }
    }
    unsafe fn base<const SIZE: u32, const FORM: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
        // SAFETY: the handler's own contract.
        unsafe { issue::<SIZE, FORM, false>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return fast::<SIZE, FORM>;
    }
    base::<SIZE, FORM>
}

#[inline(always)]
unsafe fn issue<const SIZE: u32, const FORM: u32, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    let to = AddressOperand {
        slot: i.d,
        offset: i64::from(i.c as i32),
        code: i.aux >> TO_SHIFT,
    };
    let from = AddressOperand {
        slot: i.a,
        offset: i.imm,
        code: i.aux & ((1 << TO_SHIFT) - 1),
    };
    // SAFETY: operands are slots of the warp's file; `mask` is not zero.
    unsafe {
        if FORM == ALL && w.issue_quickly::<WIDE>(mask, SIZE, to, from) {
            return Flow::Next;
        }
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            return issue_in_part_wide::<SIZE, FORM>(w, i, mask, [to, from]);
        }
        issue_in_part::<SIZE, FORM, false>(w, i, mask, [to, from])
    }
}

/// [`issue_in_part`] in the wide build, out of the quick way's way.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
#[inline(never)]
unsafe fn issue_in_part_wide<const SIZE: u32, const FORM: u32>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    places: [AddressOperand; 2],
) -> Flow {
    // SAFETY: the caller's promise.
    unsafe { issue_in_part::<SIZE, FORM, true>(w, i, mask, places) }
}

/// [`issue`] where the source may be shorter than the destination, and by the long way.
#[inline(always)]
unsafe fn issue_in_part<const SIZE: u32, const FORM: u32, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    [to, from]: [AddressOperand; 2],
) -> Flow {
    let taken = match FORM {
        ALL => None,
        SOURCE_SIZE => {
            // SAFETY: the operand is a 32-bit slot.
            let sizes = unsafe { u32::load(w.slot(i.b)) };
            if let Some(lane) = bits(mask).find(|&l| sizes[l] > SIZE) {
                let text = format!(
                    "copy of {} bytes into {SIZE}: the source may be no larger than the destination",
                    sizes[lane]
                );
                return w.fault(FaultKind::Illegal, 1 << lane, text);
            }
            Some(sizes.map(|s| s as u8))
        }
        _ => {
            // SAFETY: the operand is a predicate slot.
            let ignored =
                unsafe { *w.slot(i.b).cast::<u32>() } ^ if FORM == IGNORE { 0 } else { u32::MAX };
            Some(std::array::from_fn(|l| {
                if ignored >> l & 1 != 0 { 0 } else { SIZE as u8 }
            }))
        }
    };
    let taken = taken.filter(|t| bits(mask).any(|l| u32::from(t[l]) != SIZE));
    // SAFETY: operands are slots of the warp's file.
    let (to_lanes, from_lanes) = unsafe {
        if FORM != ALL && taken.is_none() && w.issue_quickly::<WIDE>(mask, SIZE, to, from) {
            return Flow::Next;
        }
        if taken.is_none() && w.watched {
            match w.issue_watched::<WIDE>(mask, SIZE, to, from) {
                Ok(false) => {}
                Ok(true) => return Flow::Next,
                Err(flow) => return flow,
            }
        }
        (
            lane_addresses(w, to.slot, to.offset, to.code),
            lane_addresses(w, from.slot, from.offset, from.code),
        )
    };
    let request = Request {
        size: SIZE,
        taken,
        to: &to_lanes,
        to_space: decode_space(to.code),
        from: &from_lanes,
        from_space: decode_space(from.code),
    };
    match w.issue_copies(mask, &request) {
        Ok(()) => Flow::Next,
        Err(flow) => flow,
    }
}

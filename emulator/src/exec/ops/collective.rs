//! Exchange and votes among the lanes of a warp: `shfl`, `vote`, `match`, `redux`, `elect`.
//!
//! Each executing lane brings a mask of members. Lanes that bring the same mask act together, once all of
//! its members that have not exited are here.

use super::{has, only, operands};
use crate::check::Check;
use crate::exec::access::bits;
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, lanes_where, pick_handler};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let inst = match i.opcode[0].as_str() {
        "shfl" => shuffle(d, i)?,
        "vote" => vote(d, i)?,
        "match" => match_lanes(d, i)?,
        "redux" => reduce(d, i)?,
        "elect" => elect(d, i)?,
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

/// Since sm_70 only the `.sync` forms exist.
fn needs_sync(d: &Decoder, i: &Instruction) -> Result<(), LoadError> {
    if has(i, "sync") {
        Ok(())
    } else {
        d.unsupported("the form without .sync, which sm_70 and later do not have")
    }
}

/// `d|p` or `d`; the sink for a part that is absent.
fn destination_pair(d: &mut Decoder, operand: &Operand, ty: Type) -> Result<(u32, u32), LoadError> {
    match operand {
        Operand::Pair(value, predicate) => Ok((d.dst(value, ty)?, d.dst(predicate, Type::Pred)?)),
        value => Ok((d.dst(value, ty)?, d.dst(&Operand::Sink, Type::Pred)?)),
    }
}

/// Runs `body(warp, lanes, members)` for each group of executing lanes with the same mask of members.
#[inline(always)]
unsafe fn together(
    w: &mut Warp,
    mask: u32,
    members: u32,
    mut body: impl FnMut(&mut Warp, u32, u32) -> Result<(), Flow>,
) -> Flow {
    // SAFETY: the operand is a 32-bit slot.
    let members = unsafe { u32::load(w.slot(members)) };
    let first = members[mask.trailing_zeros() as usize];
    let mut odd = 0;
    if mask == u32::MAX {
        for lane in 0..32 {
            odd |= members[lane] ^ first;
        }
    } else {
        for lane in 0..32 {
            odd |= (members[lane] ^ first) & (mask >> lane & 1).wrapping_neg();
        }
    }
    if odd == 0 && mask & !first == 0 {
        if let Some(flow) = w.gather(mask, first) {
            return flow;
        }
        return match body(w, mask, first) {
            Ok(()) => Flow::Next,
            Err(flow) => flow,
        };
    }
    match check_groups(w, mask, &members) {
        Ok(()) => {}
        Err(flow) => return flow,
    }
    let mut left = mask;
    while left != 0 {
        let group = group_of(left, &members);
        if let Err(flow) = body(w, group, members[left.trailing_zeros() as usize]) {
            return flow;
        }
        left &= !group;
    }
    Flow::Next
}

/// The lanes of `mask` that bring the same members as its first.
fn group_of(mask: u32, members: &[u32; 32]) -> u32 {
    let first = members[mask.trailing_zeros() as usize];
    bits(mask)
        .filter(|&l| members[l] == first)
        .fold(0, |m, l| m | 1 << l)
}

/// Whether every group is complete. Nothing has been done yet when one is not: the instruction runs again.
#[cold]
fn check_groups(w: &mut Warp, mask: u32, members: &[u32; 32]) -> Result<(), Flow> {
    let mut left = mask;
    while left != 0 {
        let group = group_of(left, members);
        let named = members[left.trailing_zeros() as usize];
        if group & !named != 0 {
            let text = format!(
                "lanes {:#010x} execute this with a mask {named:#010x} that does not name them",
                group & !named
            );
            return Err(w.violation(Check::WarpSync, group & !named, text));
        }
        if let Some(flow) = w.gather(mask, named) {
            return Err(flow);
        }
        let elsewhere = named & mask & !group;
        if elsewhere != 0 {
            let text = format!(
                "lanes {group:#010x} name {named:#010x}, of which lanes {elsewhere:#010x} came with other masks"
            );
            return Err(w.violation(Check::WarpSync, elsewhere, text));
        }
        left &= !group;
    }
    Ok(())
}

const UP: u32 = 0;
const DOWN: u32 = 1;
const BUTTERFLY: u32 = 2;
const INDEX: u32 = 3;

fn shuffle(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    needs_sync(d, i)?;
    only(d, i, &["sync", "up", "down", "bfly", "idx"])?;
    operands(d, i, 5)?;
    let run: Handler = match i.opcode[2].as_str() {
        "up" => pick_handler!(do_shuffle::<UP>),
        "down" => pick_handler!(do_shuffle::<DOWN>),
        "bfly" => pick_handler!(do_shuffle::<BUTTERFLY>),
        "idx" => pick_handler!(do_shuffle::<INDEX>),
        _ => return d.unsupported("mode"),
    };
    let (slot, predicate) = destination_pair(d, &i.operands[0], Type::B32)?;
    let a = d.src(&i.operands[1], Type::B32)?;
    let b = d.src(&i.operands[2], Type::B32)?;
    let c = d.src(&i.operands[3], Type::B32)?;
    let members = d.src(&i.operands[4], Type::B32)?;
    let wants_predicate = matches!(i.operands[0], Operand::Pair(..));
    let extra = d.extras([predicate]);
    Ok(Inst {
        d: slot,
        a,
        b,
        c,
        imm: i64::from(wants_predicate),
        aux: members,
        extra,
        ..d.inst(run)
    })
}

/// Where a lane takes its value from, and whether it may: what it brings says so.
#[inline(always)]
fn source<const MODE: u32>(lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (offset, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let low = lane & segment;
    let limit = low | (clamp & !segment);
    // Wrapping below zero gives a number above any limit or, for `up`, one that is negative.
    match MODE {
        UP => (
            lane.wrapping_sub(offset),
            lane.wrapping_sub(offset) as i32 >= limit as i32,
        ),
        DOWN => (lane + offset, lane + offset <= limit),
        BUTTERFLY => (lane ^ offset, lane ^ offset <= limit),
        _ => (
            low | (offset & !segment),
            low | (offset & !segment) <= limit,
        ),
    }
}

#[inline(always)]
unsafe fn do_shuffle<const MODE: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        together(w, mask, i.aux, |w, lanes, _| {
            let a = u32::load(w.slot(i.a));
            let (b, c) = (u32::load(w.slot(i.b)), u32::load(w.slot(i.c)));
            let (mut from, mut valid) = ([0u32; 32], [0u32; 32]);
            for l in 0..32 {
                let (lane, ok) = source::<MODE>(l as u32, b[l], c[l]);
                from[l] = if ok { lane & 31 } else { l as u32 };
                valid[l] = if ok { u32::MAX } else { 0 };
            }
            if lanes != u32::MAX {
                let absent = lanes & lanes_where(|l| lanes >> from[l] & 1 == 0);
                if absent != 0 && w.launch().checks.has(Check::WarpSync) {
                    return Err(report_absent(w, absent, lanes, &from));
                }
            }
            let mut out = [0u32; 32];
            for l in 0..32 {
                out[l] = a[from[l] as usize & 31];
            }
            u32::store(w.slot(i.d), out, lanes);
            if i.imm != 0 {
                let predicate = w.slot(w.extra(i, 0)).cast::<u32>();
                *predicate = (*predicate & !lanes) | (lanes_where(|l| valid[l] != 0) & lanes);
            }
            Ok(())
        })
    }
}

#[cold]
fn report_absent(w: &mut Warp, lanes: u32, present: u32, from: &[u32; 32]) -> Flow {
    let lane = lanes.trailing_zeros() as usize;
    let why = if w.exited >> from[lane] & 1 != 0 {
        "which has exited"
    } else if w.threads >> from[lane] & 1 == 0 {
        "which the warp does not have"
    } else {
        "which does not take part"
    };
    let text = format!(
        "lane {lane} takes its value from lane {}, {why} (lanes {present:#010x} do)",
        from[lane]
    );
    w.violation(Check::WarpSync, lanes, text)
}

const ALL: u32 = 0;
const ANY: u32 = 1;
const UNIFORM: u32 = 2;
const BALLOT: u32 = 3;

fn vote(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    needs_sync(d, i)?;
    only(d, i, &["sync", "all", "any", "uni", "ballot"])?;
    operands(d, i, 3)?;
    let (run, ty): (Handler, Type) = match i.opcode[2].as_str() {
        "all" => (do_vote::<ALL>, Type::Pred),
        "any" => (do_vote::<ANY>, Type::Pred),
        "uni" => (do_vote::<UNIFORM>, Type::Pred),
        "ballot" => (do_vote::<BALLOT>, Type::B32),
        _ => return d.unsupported("mode"),
    };
    let slot = d.dst(&i.operands[0], ty)?;
    let (a, negated) = d.predicate(&i.operands[1])?;
    let members = d.src(&i.operands[2], Type::B32)?;
    Ok(Inst {
        d: slot,
        a,
        c: members,
        aux: if negated { u32::MAX } else { 0 },
        ..d.inst(run)
    })
}

unsafe fn do_vote<const MODE: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        together(w, mask, i.c, |w, lanes, _| {
            let ballot = (*w.slot(i.a).cast::<u32>() ^ i.aux) & lanes;
            let answer = match MODE {
                ALL => ballot == lanes,
                ANY => ballot != 0,
                UNIFORM => ballot == lanes || ballot == 0,
                _ => {
                    u32::store(w.slot(i.d), [ballot; 32], lanes);
                    return Ok(());
                }
            };
            let to = w.slot(i.d).cast::<u32>();
            *to = if answer { *to | lanes } else { *to & !lanes };
            Ok(())
        })
    }
}

fn match_lanes(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    needs_sync(d, i)?;
    only(d, i, &["sync", "any", "all"])?;
    operands(d, i, 3)?;
    let ty = super::type_of(d, i)?;
    let all = has(i, "all");
    if !all && matches!(i.operands[0], Operand::Pair(..)) {
        return d.invalid("match.any has no predicate");
    }
    let run: Handler = match (all, ty.size()) {
        (false, 4) => do_match::<u32, false>,
        (false, 8) => do_match::<u64, false>,
        (true, 4) => do_match::<u32, true>,
        (true, 8) => do_match::<u64, true>,
        _ => return d.unsupported("type"),
    };
    let (slot, predicate) = destination_pair(d, &i.operands[0], Type::B32)?;
    let a = d.src(&i.operands[1], ty)?;
    let members = d.src(&i.operands[2], Type::B32)?;
    let wants_predicate = matches!(i.operands[0], Operand::Pair(..));
    Ok(Inst {
        d: slot,
        a,
        b: predicate,
        c: members,
        imm: i64::from(wants_predicate),
        ..d.inst(run)
    })
}

unsafe fn do_match<T: Lane + PartialEq, const EVERY: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        together(w, mask, i.c, |w, lanes, _| {
            let a = T::load(w.slot(i.a));
            if EVERY {
                let first = a[lanes.trailing_zeros() as usize];
                let same = bits(lanes).all(|l| a[l] == first);
                u32::store(w.slot(i.d), [if same { lanes } else { 0 }; 32], lanes);
                if i.imm != 0 {
                    let to = w.slot(i.b).cast::<u32>();
                    *to = if same { *to | lanes } else { *to & !lanes };
                }
            } else {
                let mut out = [0u32; 32];
                let mut left = lanes;
                while left != 0 {
                    let value = a[left.trailing_zeros() as usize];
                    let group = bits(left)
                        .filter(|&l| a[l] == value)
                        .fold(0u32, |m, l| m | 1 << l);
                    bits(group).for_each(|l| out[l] = group);
                    left &= !group;
                }
                u32::store(w.slot(i.d), out, lanes);
            }
            Ok(())
        })
    }
}

fn reduce(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    needs_sync(d, i)?;
    only(d, i, &["sync", "add", "min", "max", "and", "or", "xor"])?;
    operands(d, i, 3)?;
    let ty = super::type_of(d, i)?;
    let run: Handler = match (i.opcode[2].as_str(), ty) {
        ("add", Type::U32 | Type::S32) => pick_handler!(do_reduce::<u32, ADD>),
        ("min", Type::U32) => pick_handler!(do_reduce::<u32, MIN>),
        ("max", Type::U32) => pick_handler!(do_reduce::<u32, MAX>),
        ("min", Type::S32) => pick_handler!(do_reduce::<i32, MIN>),
        ("max", Type::S32) => pick_handler!(do_reduce::<i32, MAX>),
        ("and", Type::B32) => pick_handler!(do_reduce::<u32, AND>),
        ("or", Type::B32) => pick_handler!(do_reduce::<u32, OR>),
        ("xor", Type::B32) => pick_handler!(do_reduce::<u32, XOR>),
        (_, Type::F32) => return d.unsupported("only sm_100a and its family reduce .f32"),
        _ => return d.unsupported("operation and type"),
    };
    let slot = d.dst(&i.operands[0], ty)?;
    let a = d.src(&i.operands[1], ty)?;
    let members = d.src(&i.operands[2], Type::B32)?;
    Ok(Inst {
        d: slot,
        a,
        c: members,
        ..d.inst(run)
    })
}

const ADD: u32 = 0;
const MIN: u32 = 1;
const MAX: u32 = 2;
const AND: u32 = 3;
const OR: u32 = 4;
const XOR: u32 = 5;

trait Reduced: Lane + Ord {
    fn bits(self) -> u32;
    fn of(bits: u32) -> Self;
}
impl Reduced for u32 {
    fn bits(self) -> u32 {
        self
    }
    fn of(bits: u32) -> u32 {
        bits
    }
}
impl Reduced for i32 {
    fn bits(self) -> u32 {
        self as u32
    }
    fn of(bits: u32) -> i32 {
        bits as i32
    }
}

#[inline(always)]
unsafe fn do_reduce<T: Reduced, const OP: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        together(w, mask, i.c, |w, lanes, _| {
            let a = T::load(w.slot(i.a));
            let combine = |x: T, y: T| match OP {
                ADD => T::of(x.bits().wrapping_add(y.bits())),
                MIN => x.min(y),
                MAX => x.max(y),
                AND => T::of(x.bits() & y.bits()),
                OR => T::of(x.bits() | y.bits()),
                _ => T::of(x.bits() ^ y.bits()),
            };
            let mut list = bits(lanes);
            let first = a[list.next().unwrap_or(0)];
            let result = list.fold(first, |x, l| combine(x, a[l]));
            T::store(w.slot(i.d), [result; 32], lanes);
            Ok(())
        })
    }
}

fn elect(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    needs_sync(d, i)?;
    only(d, i, &["sync"])?;
    operands(d, i, 2)?;
    let (slot, predicate) = destination_pair(d, &i.operands[0], Type::B32)?;
    let c = d.src(&i.operands[1], Type::B32)?;
    Ok(Inst {
        d: slot,
        b: predicate,
        c,
        ..d.inst(do_elect)
    })
}

/// The lowest lane leads: any rule that depends on the mask alone would do.
unsafe fn do_elect(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        together(w, mask, i.c, |w, lanes, _| {
            let leader = lanes.trailing_zeros();
            u32::store(w.slot(i.d), [leader; 32], lanes);
            let to = w.slot(i.b).cast::<u32>();
            *to = (*to & !lanes) | 1 << leader;
            Ok(())
        })
    }
}

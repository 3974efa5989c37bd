//! Branches, calls, exits, barriers of the block, traps, fences, clocks.

use super::{has, operands};
use crate::check::{Check, FaultKind};
use crate::exec::access::bits;
use crate::exec::call;
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, pick_handler};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::{BarrierArrival, ReduceOp, Reduction, Stop, Warp};
use crate::ptx::ast::{Instruction, Operand, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let inst = match i.opcode[0].as_str() {
        "bra" => {
            operands(d, i, 1)?;
            let target = d.label(&i.operands[0])?;
            Inst {
                imm: i64::from(target),
                ..d.inst(branch)
            }
        }
        "brx" => indexed_branch(d, i)?,
        "exit" => exit(d),
        "ret" => ret(d),
        "call" => decode_call(d, i)?,
        "bar" if has(i, "warp") => {
            operands(d, i, 1)?;
            let a = d.src(&i.operands[0], Type::U32)?;
            Inst {
                a,
                ..d.inst(syncwarp)
            }
        }
        "barrier" if has(i, "cluster") => super::cluster::barrier(d, i)?,
        "bar" | "barrier" => barrier(d, i)?,
        "trap" => d.inst(trap),
        "brkpt" => d.inst(trap),
        "nanosleep" => d.inst(rest),
        "membar" | "fence" => fence(d, i)?,
        "pmevent" => d.inst(nothing),
        "activemask" => {
            operands(d, i, 1)?;
            let slot = d.dst(&i.operands[0], Type::B32)?;
            Inst {
                d: slot,
                ..d.inst(activemask)
            }
        }
        "mov" if reads_clock(i) => {
            let Some(Operand::Special(name)) = i.operands.get(1) else {
                unreachable!("matched above")
            };
            let Some((kind, ty)) = clock_kind(name) else {
                unreachable!("matched above")
            };
            let slot = d.dst(&i.operands[0], ty)?;
            Inst {
                d: slot,
                aux: kind,
                ..d.inst(if ty.size() == 8 { clock64 } else { clock32 })
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

/// The end of a kernel.
pub fn exit(d: &Decoder) -> Inst {
    d.inst(do_exit)
}

/// The end of a function; of a kernel, an exit.
pub fn ret(d: &Decoder) -> Inst {
    d.inst(call::ret)
}

unsafe fn branch(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    w.branch(mask, i.imm as u32)
}

unsafe fn do_exit(w: &mut Warp, _: &Inst, mask: u32) -> Flow {
    w.exit(mask)
}

unsafe fn nothing(_: &mut Warp, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

/// `nanosleep`: lets the others run, the warp's own other lanes among them.
unsafe fn rest(w: &mut Warp, _: &Inst, _: u32) -> Flow {
    w.pc += 1;
    w.let_through();
    w.stop = Stop::Yield;
    Flow::Stop
}

unsafe fn trap(w: &mut Warp, _: &Inst, mask: u32) -> Flow {
    w.fault(FaultKind::Trap, mask, "the kernel trapped".into())
}

unsafe fn activemask(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a 32-bit slot.
    unsafe { u32::store(w.slot(i.d), [mask; 32], mask) };
    Flow::Next
}

/// What a clock register counts, for [`Inst::aux`]: the warp's instructions, or nanoseconds of the host.
const WARP_CLOCK: u32 = 0;
const WARP_CLOCK_HIGH: u32 = 1;
const HOST_TIME: u32 = 2;
const HOST_TIME_HIGH: u32 = 3;

fn clock_kind(name: &str) -> Option<(u32, Type)> {
    Some(match name {
        "%clock" => (WARP_CLOCK, Type::U32),
        "%clock_hi" => (WARP_CLOCK_HIGH, Type::U32),
        "%clock64" => (WARP_CLOCK, Type::U64),
        "%globaltimer" => (HOST_TIME, Type::U64),
        "%globaltimer_lo" => (HOST_TIME, Type::U32),
        "%globaltimer_hi" => (HOST_TIME_HIGH, Type::U32),
        _ => return None,
    })
}

/// Whether an instruction reads a register that changes by itself.
pub fn reads_clock(i: &Instruction) -> bool {
    matches!(i.operands.get(1), Some(Operand::Special(name)) if clock_kind(name).is_some())
}

fn clock(w: &Warp, kind: u32) -> u64 {
    match kind {
        WARP_CLOCK => w.clock,
        WARP_CLOCK_HIGH => w.clock >> 32,
        _ => {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            let nanos = now.as_nanos() as u64;
            if kind == HOST_TIME_HIGH {
                nanos >> 32
            } else {
                nanos
            }
        }
    }
}

unsafe fn clock32(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a 32-bit slot.
    unsafe { u32::store(w.slot(i.d), [clock(w, i.aux) as u32; 32], mask) };
    Flow::Next
}

unsafe fn clock64(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a 64-bit slot.
    unsafe { u64::store(w.slot(i.d), [clock(w, i.aux); 32], mask) };
    Flow::Next
}

fn indexed_branch(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let a = d.src(&i.operands[0], Type::U32)?;
    let Operand::Symbol(table, 0) = &i.operands[1] else {
        return d.invalid("the second operand is no table of branch targets");
    };
    let Some(labels) = d.body().branch_targets.get(table) else {
        return d.invalid(format!("unknown table of branch targets {table}"));
    };
    let mut targets = Vec::with_capacity(labels.len());
    for label in labels {
        targets.push(d.label_named(label)?);
    }
    let count = targets.len() as u32;
    let extra = d.extras(targets);
    Ok(Inst {
        a,
        aux: count,
        extra,
        ..d.inst(branch_indexed)
    })
}

unsafe fn branch_indexed(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a 32-bit slot.
    let index = unsafe { u32::load(w.slot(i.a)) };
    let mut left = mask;
    let at = w.pc;
    if mask != w.active {
        w.split_off(w.active & !mask, at + 1);
    }
    loop {
        let value = index[left.trailing_zeros() as usize];
        if value >= i.aux {
            return w.fault(
                FaultKind::Illegal,
                left,
                format!("branch index {value} past a table of {}", i.aux),
            );
        }
        let same = bits(left)
            .filter(|&l| index[l] == value)
            .fold(0, |m, l| m | 1 << l);
        let target = w.extra(i, value as usize);
        if same == left {
            w.pc = target;
            return Flow::Jump;
        }
        w.split_off(same, target);
        left &= !same;
    }
}

fn decode_call(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    // (returns), function, (arguments), prototype: lists may be absent.
    let mut lists: Vec<&[Operand]> = Vec::new();
    let mut callee = None;
    let mut returns: &[Operand] = &[];
    for operand in &i.operands {
        match operand {
            Operand::List(list) if callee.is_none() => returns = list,
            Operand::List(list) => lists.push(list),
            other if callee.is_none() => callee = Some(other),
            _ => {}
        }
    }
    let arguments = lists.first().copied().unwrap_or(&[]);
    let offsets = |d: &Decoder, list: &[Operand]| -> Result<Vec<u32>, LoadError> {
        list.iter()
            .map(|o| match o {
                Operand::Symbol(name, 0) => match d.frame_offset(name) {
                    Some(at) => Ok(at),
                    None => d.invalid(format!("{name} is no parameter variable")),
                },
                other => d.unsupported(format!("call operand {other:?}")),
            })
            .collect()
    };
    let (returns, arguments) = (offsets(d, returns)?, offsets(d, arguments)?);
    let Some(callee) = callee else {
        return d.invalid("no function named");
    };
    let system = match callee {
        Operand::Symbol(name, 0) => crate::exec::system::handler(name),
        _ => None,
    };
    let mut values = vec![returns.len() as u32];
    values.extend(&returns);
    values.push(arguments.len() as u32);
    values.extend(&arguments);
    let extra = d.extras(values);
    if let Some(run) = system {
        return Ok(Inst {
            extra,
            ..d.inst(run)
        });
    }
    match callee {
        Operand::Symbol(name, 0) => match d.function_named(name) {
            Some(function) => Ok(Inst {
                imm: i64::from(function),
                extra,
                ..d.inst(call::call)
            }),
            None => Err(LoadError::Unresolved(name.clone())),
        },
        pointer => {
            let a = d.src(pointer, Type::U64)?;
            Ok(Inst {
                imm: -1,
                a,
                extra,
                ..d.inst(call::call)
            })
        }
    }
}

/// `bar.warp.sync`.
unsafe fn syncwarp(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a 32-bit slot.
    let members = unsafe { u32::load(w.slot(i.a)) };
    let mut left = mask;
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        let group = bits(left)
            .filter(|&l| members[l] == members[lane])
            .fold(0, |m, l| m | 1 << l);
        if members[lane] & group != group {
            let text = format!(
                "lanes {group:#010x} sync with a mask {:#010x} that does not name them",
                members[lane]
            );
            return w.violation(Check::WarpSync, group, text);
        }
        if let Some(flow) = w.gather(mask, members[lane]) {
            return flow;
        }
        left &= !group;
    }
    w.synchronised();
    Flow::Next
}

fn barrier(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let aligned = i.opcode[0] == "bar" || has(i, "aligned");
    let reduction = if has(i, "red") {
        let op = if has(i, "popc") {
            RED_POPC
        } else if has(i, "and") {
            RED_AND
        } else if has(i, "or") {
            RED_OR
        } else {
            return d.unsupported("reduction");
        };
        Some(op)
    } else {
        None
    };
    let mut list: &[Operand] = &i.operands;
    if let ([Operand::Int(id @ 0..=15)], None) = (list, reduction)
        && aligned
        && !has(i, "arrive")
    {
        return Ok(Inst {
            imm: *id,
            a: d.src(&list[0], Type::U32)?,
            b: d.constant(0, 4),
            aux: ALIGNED,
            ..d.inst(sync_block)
        });
    }
    let mut inst = d.inst(pick_handler!(arrive));
    if let Some(op) = reduction {
        let Some(((target, rest), (predicate, middle))) = list
            .split_first()
            .and_then(|(t, r)| Some(((t, r), r.split_last()?)))
        else {
            return d.invalid("too few operands");
        };
        let _ = rest;
        inst.d = d.dst(
            target,
            if op == RED_POPC {
                Type::U32
            } else {
                Type::Pred
            },
        )?;
        let (slot, negated) = d.predicate(predicate)?;
        inst.c = slot;
        inst.aux |= op;
        if negated {
            inst.aux |= RED_NEGATED;
        }
        list = middle;
    }
    let (id, count) = match list {
        [id] => (id, None),
        [id, count] => (id, Some(count)),
        _ => return d.invalid("operands of a barrier"),
    };
    inst.a = d.src(id, Type::U32)?;
    inst.b = match count {
        Some(count) => d.src(count, Type::U32)?,
        None => d.constant(0, 4),
    };
    if aligned {
        inst.aux |= ALIGNED;
    }
    if has(i, "arrive") {
        if count.is_none() {
            return d.invalid("an arrival needs a thread count");
        }
        inst.aux |= ARRIVE_ONLY;
    }
    Ok(inst)
}

const ALIGNED: u32 = 1;
const ARRIVE_ONLY: u32 = 2;
const RED_POPC: u32 = 4;
const RED_AND: u32 = 8;
const RED_OR: u32 = 16;
const RED_NEGATED: u32 = 32;

/// `bar.sync` by all threads of the block, at a barrier that is named by its number.
unsafe fn sync_block(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if mask != w.active || w.threads & !w.exited & !mask != 0 {
        // SAFETY: the handler's own contract.
        return unsafe { arrive(w, i, mask) };
    }
    w.arrive(BarrierArrival {
        id: i.imm as u32,
        threads: 0,
        lanes: mask,
        wait: true,
        reduction: None,
        pc: w.pc,
    })
}

#[inline(always)]
unsafe fn arrive(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if i.aux & ALIGNED != 0 {
        // Every thread of the warp that has not exited must come to this very instruction.
        if mask != w.active {
            let off = w.active & !mask;
            return w.violation(
                Check::Barrier,
                off,
                format!("lanes {off:#010x} are predicated off at an aligned barrier"),
            );
        }
        if let Some(flow) = w.gather(mask, w.threads) {
            return flow;
        }
    }
    // SAFETY: the operands are 32-bit slots.
    let (id, count) = unsafe { (u32::load(w.slot(i.a)), u32::load(w.slot(i.b))) };
    let lane = mask.trailing_zeros() as usize;
    let mut odd = 0;
    for l in 0..32 {
        if mask >> l & 1 != 0 {
            odd |= (id[l] ^ id[lane]) | (count[l] ^ count[lane]);
        }
    }
    if odd != 0 {
        return w.violation(
            Check::Barrier,
            mask,
            "lanes of a warp name different barriers or thread counts".into(),
        );
    }
    if id[lane] > 15 {
        return w.fault(
            FaultKind::Illegal,
            mask,
            format!("barrier {}: there are barriers 0 to 15", id[lane]),
        );
    }
    if count[lane] % 32 != 0 {
        return w.fault(
            FaultKind::Illegal,
            mask,
            format!(
                "barrier for {} threads: the count is in whole warps",
                count[lane]
            ),
        );
    }
    let reduction = match i.aux & (RED_POPC | RED_AND | RED_OR) {
        0 => None,
        op => {
            // SAFETY: the operand is a predicate slot.
            let bits = unsafe { *w.slot(i.c).cast::<u32>() };
            Some(Reduction {
                op: match op {
                    RED_POPC => ReduceOp::Popc,
                    RED_AND => ReduceOp::And,
                    _ => ReduceOp::Or,
                },
                bits: if i.aux & RED_NEGATED != 0 {
                    !bits
                } else {
                    bits
                },
                slot: i.d,
            })
        }
    };
    if mask != w.active {
        w.split_off(w.active & !mask, w.pc + 1);
    }
    let arrival = BarrierArrival {
        id: id[lane],
        threads: count[lane],
        lanes: mask,
        wait: i.aux & ARRIVE_ONLY == 0,
        reduction,
        pc: w.pc,
    };
    w.arrive(arrival)
}

fn fence(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if !has(i, "proxy") {
        return Ok(d.inst(do_fence));
    }
    // Of the other proxies' accesses those to shared memory alone are followed.
    let followed = (has(i, "async") && !has(i, "global")) || has(i, "async::generic");
    Ok(d.inst(if followed { fence_proxy } else { nothing }))
}

unsafe fn fence_proxy(w: &mut Warp, _: &Inst, mask: u32) -> Flow {
    w.proxy_fenced(mask);
    Flow::Next
}

unsafe fn do_fence(w: &mut Warp, _: &Inst, _: u32) -> Flow {
    w.fenced();
    Flow::Next
}

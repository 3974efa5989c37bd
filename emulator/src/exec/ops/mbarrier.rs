//! `mbarrier` and `cp.async.mbarrier.arrive`.

use super::memory::{decode_space, encode_space, lane_addresses, space_code};
use super::{has, only, operands};
use crate::check::Check;
use crate::exec::access::{Access, Kind, bits, window};
use crate::exec::cluster;
use crate::exec::decode::Decoder;
use crate::exec::lanes::Lane;
use crate::exec::mbarrier::{Mbarrier, Operation, Phase};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::{Stop, Warp};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    if i.opcode[0] != "mbarrier" {
        return Ok(None);
    }
    only(d, i, MODIFIERS)?;
    let Some(operation) = i.opcode.get(1) else {
        return d.unsupported("");
    };
    let inst = match operation.as_str() {
        "init" => with_value(d, i, init)?,
        "inval" => {
            operands(d, i, 1)?;
            at_address(d, i, &i.operands[0], invalidate)?
        }
        "expect_tx" => with_value(d, i, expect)?,
        "complete_tx" => with_value(d, i, complete)?,
        "arrive" | "arrive_drop" => arrive(d, i)?,
        "test_wait" | "try_wait" => wait(d, i)?,
        "pending_count" => {
            operands(d, i, 2)?;
            let slot = d.dst(&i.operands[0], Type::U32)?;
            let a = d.src(&i.operands[1], Type::B64)?;
            Inst {
                d: slot,
                a,
                ..d.inst(crate::exec::lanes::alu1(Mbarrier::pending_of))
            }
        }
        _ => return d.unsupported("form"),
    };
    Ok(Some(inst))
}

const MODIFIERS: &[&str] = &[
    "init",
    "inval",
    "expect_tx",
    "complete_tx",
    "arrive",
    "arrive_drop",
    "test_wait",
    "try_wait",
    "pending_count",
    "shared",
    "shared::cta",
    "shared::cluster",
    "release",
    "acquire",
    "relaxed",
    "cta",
    "cluster",
    "noComplete",
    "parity",
];

/// After the space code in [`Inst::aux`]: the operation neither publishes nor acquires.
const RELAXED: u32 = 1 << space_code::NEXT;

/// The space of a barrier's address.
pub fn barrier_space(i: &Instruction) -> Option<Space> {
    if has(i, "shared::cluster") {
        Some(Space::Cluster)
    } else if has(i, "shared") || has(i, "shared::cta") {
        Some(Space::Shared)
    } else {
        None
    }
}

fn at_address(
    d: &mut Decoder,
    i: &Instruction,
    operand: &Operand,
    run: Handler,
) -> Result<Inst, LoadError> {
    let address = d.address(operand)?;
    let code = encode_space(d, barrier_space(i), &address)?;
    let relaxed = if has(i, "relaxed") { RELAXED } else { 0 };
    Ok(Inst {
        a: address.slot,
        imm: address.offset,
        aux: code | relaxed,
        ..d.inst(run)
    })
}

fn with_value(d: &mut Decoder, i: &Instruction, run: Handler) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let b = d.src(&i.operands[1], Type::U32)?;
    Ok(Inst {
        b,
        ..at_address(d, i, &i.operands[0], run)?
    })
}

fn arrive(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let drop = i.opcode[1] == "arrive_drop";
    let run: Handler = match (drop, has(i, "expect_tx"), has(i, "noComplete")) {
        (false, false, false) => arrive_with::<ARRIVE>,
        (true, false, false) => arrive_with::<DROP>,
        (false, false, true) => arrive_with::<ARRIVE_WITHIN>,
        (true, false, true) => arrive_with::<DROP_WITHIN>,
        (false, true, false) => arrive_with::<EXPECT_ARRIVE>,
        (true, true, false) => arrive_with::<EXPECT_DROP>,
        _ => return d.invalid(".expect_tx and .noComplete exclude each other"),
    };
    let (state, address, value) = match &i.operands[..] {
        [state, address] if !has(i, "expect_tx") && !has(i, "noComplete") => (state, address, None),
        [state, address, value] => (state, address, Some(value)),
        _ => return d.invalid("operands are not state, [address] and a count"),
    };
    let slot = d.dst(state, Type::B64)?;
    let b = match value {
        Some(value) => d.src(value, Type::U32)?,
        None => d.constant(1, 4),
    };
    Ok(Inst {
        d: slot,
        b,
        ..at_address(d, i, address, run)?
    })
}

fn wait(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let list = match (&i.operands[..], i.opcode[1] == "try_wait") {
        ([p, address, phase], _) => [p, address, phase],
        // The hint says how long to wait at most: here, never.
        ([p, address, phase, hint], true) => {
            d.src(hint, Type::U32)?;
            [p, address, phase]
        }
        _ => return d.invalid("operands are not predicate, [address] and phase"),
    };
    let slot = d.dst(list[0], Type::Pred)?;
    let parity = has(i, "parity");
    let b = d.src(list[2], if parity { Type::U32 } else { Type::B64 })?;
    let run: Handler = if parity {
        wait_for::<true>
    } else {
        wait_for::<false>
    };
    Ok(Inst {
        d: slot,
        b,
        ..at_address(d, i, list[1], run)?
    })
}

/// `cp.async.mbarrier.arrive`.
///
/// # Errors
/// A form that is not executed.
pub fn decode_copy_arrive(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    only(
        d,
        i,
        &[
            "async",
            "mbarrier",
            "arrive",
            "noinc",
            "shared",
            "shared::cta",
        ],
    )?;
    operands(d, i, 1)?;
    let run: Handler = if has(i, "noinc") {
        copy_arrive::<false>
    } else {
        copy_arrive::<true>
    };
    at_address(d, i, &i.operands[0], run)
}

/// Places of the lanes' barriers in the cluster's shared memory, checked as an access of `kind`; only the block's
/// own, but for what other blocks may do to them.
unsafe fn places(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    kind: Kind,
    far: bool,
) -> Result<[u32; 32], Flow> {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let access = Access {
        space: decode_space(i.aux),
        size: 8,
        align: 8,
        kind,
    };
    if access.space.is_none()
        && let Some(lane) = bits(mask).find(|&l| window(addresses[l]) != Space::Shared)
    {
        let text = format!(
            "mbarrier at {:#x}, which is not in shared memory",
            addresses[lane]
        );
        return Err(w.violation(Check::Bounds, 1 << lane, text));
    }
    w.pointers(mask, &addresses, access)?;
    let own = w.rank();
    let at: [u32; 32] = std::array::from_fn(|l| cluster::place(addresses[l] as u32, own));
    if !far && let Some(lane) = bits(mask).find(|&l| cluster::rank_of(at[l], own) != own) {
        let text = format!(
            "the mbarrier is that of block {} of the cluster: other blocks can arrive at it, and no more",
            cluster::rank_of(at[lane], own)
        );
        return Err(w.violation(Check::Bounds, 1 << lane, text));
    }
    if kind == Kind::Probe && w.launch().checks.has(Check::SharedRace) {
        // Operations on a barrier are atomic; its initialisation has to come before them.
        w.barrier_race(mask, &at)?;
    }
    Ok(at)
}

fn order(w: &mut Warp, i: &Inst, mask: u32, at: &[u32; 32], acquire: bool) {
    let access = Access {
        space: Some(Space::Cluster),
        size: 8,
        align: 8,
        kind: Kind::Atomic,
    };
    let addresses = at.map(u64::from);
    if acquire {
        w.observe(mask, &addresses, access, i.aux & RELAXED == 0);
    } else {
        w.publish(mask, &addresses, access, i.aux & RELAXED == 0);
    }
}

macro_rules! attempt {
    ($outcome:expr) => {
        match $outcome {
            Ok(value) => value,
            Err(flow) => return flow,
        }
    };
}

unsafe fn init(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let at = attempt!(places(w, i, mask, Kind::Store, false));
        let counts = u32::load(w.slot(i.b));
        for lane in bits(mask) {
            attempt!(w.begin_barrier(lane, at[lane], counts[lane]));
        }
    }
    Flow::Next
}

unsafe fn invalidate(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let at = attempt!(places(w, i, mask, Kind::Store, false));
        for lane in bits(mask) {
            attempt!(w.end_barrier(lane, at[lane]));
        }
    }
    Flow::Next
}

unsafe fn expect(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let at = attempt!(places(w, i, mask, Kind::Probe, true));
        let bytes = u32::load(w.slot(i.b));
        for lane in bits(mask) {
            attempt!(w.operate(lane, at[lane], Operation::Expect(bytes[lane])));
        }
    }
    Flow::Next
}

unsafe fn complete(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let at = attempt!(places(w, i, mask, Kind::Probe, true));
        let bytes = u32::load(w.slot(i.b));
        for lane in bits(mask) {
            attempt!(w.operate(lane, at[lane], Operation::Complete(bytes[lane])));
        }
    }
    Flow::Next
}

const ARRIVE: u32 = 0;
const DROP: u32 = 1;
const ARRIVE_WITHIN: u32 = 2;
const DROP_WITHIN: u32 = 3;
const EXPECT_ARRIVE: u32 = 4;
const EXPECT_DROP: u32 = 5;

unsafe fn arrive_with<const HOW: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let at = attempt!(places(w, i, mask, Kind::Probe, true));
        let values = u32::load(w.slot(i.b));
        order(w, i, mask, &at, false);
        let mut tokens = [0u64; 32];
        for lane in bits(mask) {
            let n = values[lane];
            let operation = match HOW {
                ARRIVE => Operation::Arrive(n),
                DROP => Operation::Drop(n),
                ARRIVE_WITHIN => Operation::ArriveWithin(n),
                DROP_WITHIN => Operation::DropWithin(n),
                _ => {
                    attempt!(w.operate(lane, at[lane], Operation::Expect(n)));
                    if HOW == EXPECT_ARRIVE {
                        Operation::Arrive(1)
                    } else {
                        Operation::Drop(1)
                    }
                }
            };
            tokens[lane] = attempt!(w.operate(lane, at[lane], operation));
        }
        u64::store(w.slot(i.d), tokens, mask);
    }
    Flow::Next
}

unsafe fn wait_for<const PARITY: bool>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let mut passed = 0u32;
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let at = attempt!(places(w, i, mask, Kind::Probe, false));
        for lane in bits(mask) {
            let phase = if PARITY {
                Phase::Parity(u32::load(w.slot(i.b))[lane])
            } else {
                Phase::Token(u64::load(w.slot(i.b))[lane])
            };
            passed |= u32::from(attempt!(w.phase_passed(lane, at[lane], phase))) << lane;
        }
        order(w, i, passed, &at, true);
        let to = w.slot(i.d).cast::<u32>();
        *to = (*to & !mask) | passed;
    }
    if passed == mask {
        return Flow::Next;
    }
    // Whoever has to arrive gets a turn.
    w.pc += 1;
    w.let_through();
    w.stop = Stop::Yield;
    Flow::Stop
}

unsafe fn copy_arrive<const COUNTED: bool>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        let at = attempt!(places(w, i, mask, Kind::Probe, false));
        let mut left = mask;
        while left != 0 {
            let place = at[left.trailing_zeros() as usize];
            let lanes = bits(left)
                .filter(|&l| at[l] == place)
                .fold(0u32, |m, l| m | 1 << l);
            if COUNTED {
                attempt!(w.operate(
                    lanes.trailing_zeros() as usize,
                    place,
                    Operation::Add(lanes.count_ones())
                ));
            }
            attempt!(w.owe_arrivals(place, lanes));
            left &= !lanes;
        }
    }
    Flow::Next
}

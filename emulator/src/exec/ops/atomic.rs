//! `atom` and `red`.

use super::memory::{
    compare_and_swap_whole, decode_space, elements, encode_space, exchange_whole, lane_addresses,
    space_of, vector_len,
};
use super::reduction::{self, Cell, Use};
use super::{has, only, operands};
use crate::exec::access::{Access, Kind, bits, window};
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Space, Type};

const MODIFIERS: &[&str] = &[
    "global",
    "shared",
    "shared::cta",
    "shared::cluster",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "and",
    "or",
    "xor",
    "exch",
    "cas",
    "add",
    "inc",
    "dec",
    "min",
    "max",
    "noftz",
    "v2",
    "v4",
    "v8",
    "L2::cache_hint",
];

/// Flags after the space code in [`Inst::aux`].
const ACQUIRE: u32 = super::memory::ACQUIRE;
const RELEASE: u32 = super::memory::RELEASE;
/// `red`: no result.
pub const SILENT: u32 = super::memory::STRONG;

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let result = match i.opcode[0].as_str() {
        "atom" => true,
        "red" if has(i, "async") => return super::async_store::decode(d, i).map(Some),
        "red" => false,
        _ => return Ok(None),
    };
    only(d, i, MODIFIERS)?;
    // Of vectors the type may stand before the operation.
    let named = i.opcode.iter().rev().find_map(|m| Type::from_suffix(m));
    let Some(ty) = named else {
        return d.unsupported("no type");
    };
    let op = match i.opcode[1..]
        .iter()
        .find(|m| OPERATIONS.contains(&m.as_str()))
    {
        Some(op) => op.as_str(),
        None => return d.unsupported("no operation"),
    };
    let n = vector_len(i);
    let hinted = usize::from(has(i, "L2::cache_hint"));
    operands(
        d,
        i,
        usize::from(result) + 2 + usize::from(op == "cas") + hinted,
    )?;
    let rest = &i.operands[usize::from(result)..];
    let address = d.address(&rest[0])?;
    let code = encode_space(d, space_of(i), &address)?;
    let sources = elements(&rest[1]);
    if sources.len() != n {
        return d.invalid(format!("{} values for {n} elements", sources.len()));
    }
    let targets: Vec<&Operand> = if result {
        elements(&i.operands[0]).iter().collect()
    } else {
        vec![&Operand::Sink; n]
    };
    if targets.len() != n {
        return d.invalid(format!("{} registers for {n} elements", targets.len()));
    }
    let mut slots = Vec::new();
    for target in targets {
        slots.push(d.dst(target, ty)?);
    }
    for source in sources {
        slots.push(d.src(source, ty)?);
    }
    let c = if op == "cas" { d.src(&rest[2], ty)? } else { 0 };
    let run = match (op, ty) {
        ("add", Type::F32) => add_f32(n, decode_space(code)),
        _ => handler(op, ty, n),
    };
    let Some(run) = run else {
        return d.unsupported(format!("operation .{op} on .{ty:?}"));
    };
    let mut aux = code | if result { 0 } else { SILENT };
    if has(i, "acquire") || has(i, "acq_rel") {
        aux |= ACQUIRE;
    }
    if has(i, "release") || has(i, "acq_rel") {
        aux |= RELEASE;
    }
    let extra = d.extras(slots);
    Ok(Some(Inst {
        a: address.slot,
        c,
        imm: address.offset,
        aux,
        extra,
        ..d.inst(run)
    }))
}

const OPERATIONS: &[&str] = &[
    "and", "or", "xor", "exch", "cas", "add", "inc", "dec", "min", "max",
];

/// The handler for `f(old, value)`, of as many elements as the vector has.
struct Atomically(usize);

impl Use for Atomically {
    type Out = Handler;
    fn scalar<C: Cell, F: Fn(C, C) -> C + Copy>(self, _f: F) -> Option<Handler> {
        (self.0 == 1).then_some(run::<C, 1, F>)
    }
    fn float<C: Cell, F: Fn(C, C) -> C + Copy>(self, _f: F) -> Option<Handler> {
        Some(match self.0 {
            1 => run::<C, 1, F>,
            2 => run::<C, 2, F>,
            4 => run::<C, 4, F>,
            _ => run::<C, 8, F>,
        })
    }
}

unsafe fn run<C: Cell, const N: usize, F: Fn(C, C) -> C + Copy>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    let f: F = reduction::operation();
    // SAFETY: the slots are those of the operands.
    unsafe { atomically::<C, N>(w, i, mask, |old, value, _, _| f(old, value)) }
}

unsafe fn compare_and_swap<C: Cell>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the slots are those of the operands; `c` holds the new value.
    unsafe {
        atomically::<C, 1>(w, i, mask, |old, expected, w, lane| {
            if old == expected {
                C::lane(w.slot(i.c), lane)
            } else {
                old
            }
        })
    }
}

#[inline(always)]
unsafe fn atomically<C: Cell, const N: usize>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    f: impl Fn(C, C, &Warp, usize) -> C,
) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let size = C::SIZE * N as u32;
    let access = Access {
        space: decode_space(i.aux),
        size,
        align: size,
        kind: Kind::Atomic,
    };
    let to = match w.pointers(mask, &addresses, access) {
        Ok(pointers) => pointers,
        Err(flow) => return flow,
    };
    // Published before the value is: whoever sees the value finds what it publishes.
    w.publish(mask, &addresses, access, i.aux & RELEASE != 0);
    for lane in bits(mask) {
        for k in 0..N {
            // SAFETY: the pointers were checked, aligned by refusal or by the cell's own size; slots as decoded.
            unsafe {
                let p = to[lane].add(k * C::SIZE as usize);
                if p.addr() % C::SIZE as usize != 0 {
                    return w.violation(
                        crate::check::Check::Alignment,
                        1 << lane,
                        format!("atomic at {:#x}", addresses[lane]),
                    );
                }
                let value = C::lane(w.slot(w.extra(i, N + k)), lane);
                let old = C::update(p, |old| f(old, value, w, lane));
                if i.aux & SILENT == 0 {
                    old.set_lane(w.slot(w.extra(i, k)), lane);
                }
            }
        }
    }
    w.observe(mask, &addresses, access, i.aux & ACQUIRE != 0);
    Flow::Next
}

fn handler(op: &str, ty: Type, n: usize) -> Option<Handler> {
    use Type::*;
    match (op, ty) {
        ("cas", B16 | U16) if n == 1 => Some(compare_and_swap::<u16>),
        ("cas", B32 | U32 | S32) if n == 1 => Some(compare_and_swap::<u32>),
        ("cas", B64 | U64 | S64) if n == 1 => Some(compare_and_swap::<u64>),
        ("cas", B128) if n == 1 => Some(compare_and_swap_whole),
        ("exch", B128) if n == 1 => Some(exchange_whole),
        _ => reduction::choose(op, ty, Atomically(n)),
    }
}

/// Sums of 32-bit floats, which global memory makes otherwise than shared memory.
fn add_f32(n: usize, space: Option<Space>) -> Option<Handler> {
    match (space, n) {
        (Some(Space::Global), _) => Atomically(n).float(reduction::f32_add_flushing),
        (None, 1) => Some(add_f32_anywhere),
        // Vectors are added in global memory alone.
        (None, _) => Atomically(n).float(reduction::f32_add_flushing),
        _ => Atomically(n).float(reduction::f32_add),
    }
}

/// The handler of an operation on single cells.
fn single<C: Cell, F: Fn(C, C) -> C + Copy>(_f: F) -> Handler {
    run::<C, 1, F>
}

unsafe fn add_f32_anywhere(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let shared = bits(mask)
        .filter(|&l| window(addresses[l]) == Space::Shared)
        .fold(0u32, |m, l| m | 1 << l);
    for (lanes, run) in [
        (shared, single(reduction::f32_add)),
        (mask & !shared, single(reduction::f32_add_flushing)),
    ] {
        if lanes != 0 {
            // SAFETY: the same instruction for fewer lanes.
            match unsafe { run(w, i, lanes) } {
                Flow::Next => {}
                flow => return flow,
            }
        }
    }
    Flow::Next
}

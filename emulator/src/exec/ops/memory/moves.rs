//! Moves between registers, of addresses, and of parts of registers.

use crate::exec::access::bits;
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, alu1, alu2, pick_handler};
use crate::exec::module::LoadError;
use crate::exec::ops::{operands, type_of};
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// `mov`.
///
/// # Errors
/// A form that is not executed.
pub(super) fn mov(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let ty = type_of(d, i)?;
    match (&i.operands[0], &i.operands[1]) {
        (Operand::Vector(targets), source) => unpack(d, targets, source, ty),
        (target, Operand::Vector(sources)) => pack(d, target, sources, ty),
        (target, Operand::Symbol(name, offset)) if d.frame_offset(name).is_some() => {
            // The address of a local variable: bytes from the frame of this call.
            let at = i64::from(d.frame_offset(name).unwrap_or(0)) + offset;
            let slot = d.dst(target, ty)?;
            Ok(Inst {
                d: slot,
                imm: at,
                ..d.inst(if ty.size() == 8 {
                    frame_address64
                } else {
                    frame_address32
                })
            })
        }
        (target, source) => {
            let slot = d.dst(target, ty)?;
            if ty == Type::Pred {
                let (a, negated) = d.predicate(source)?;
                let run = if negated {
                    alu1(|x: bool| !x)
                } else {
                    alu1(|x: bool| x)
                };
                return Ok(Inst {
                    d: slot,
                    a,
                    ..d.inst(run)
                });
            }
            let a = d.src(source, ty)?;
            let run = match ty.size() {
                16 => move_128,
                8 => alu1(|x: u64| x),
                _ => alu1(|x: u32| x),
            };
            Ok(Inst {
                d: slot,
                a,
                ..d.inst(run)
            })
        }
    }
}

unsafe fn move_128(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    for lane in bits(mask) {
        // SAFETY: both operands are four slots, 16 bytes a lane.
        unsafe {
            let value = w.slot(i.a).cast::<[u64; 2]>().add(lane).read();
            w.slot(i.d).cast::<[u64; 2]>().add(lane).write(value);
        }
    }
    Flow::Next
}

/// The address of a local variable.
///
/// # Safety
/// As for every handler.
pub(super) unsafe fn frame_address64(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a 64-bit slot.
    unsafe { u64::store(w.slot(i.d), [(i.imm + i64::from(w.frame)) as u64; 32], mask) };
    Flow::Next
}

unsafe fn frame_address32(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a 32-bit slot.
    unsafe { u32::store(w.slot(i.d), [(i.imm + i64::from(w.frame)) as u32; 32], mask) };
    Flow::Next
}

/// `mov.bN d, {a, b, …}`: elements from the low end.
fn pack(
    d: &mut Decoder,
    target: &Operand,
    sources: &[Operand],
    ty: Type,
) -> Result<Inst, LoadError> {
    let slot = d.dst(target, ty)?;
    let Some(part) = part_type(ty, sources.len()) else {
        return d.unsupported(format!("{} elements in .{ty:?}", sources.len()));
    };
    let mut slots = Vec::new();
    for s in sources {
        slots.push(d.src(s, part)?);
    }
    match (ty.size(), sources.len()) {
        (4, 2) => Ok(Inst {
            d: slot,
            a: slots[0],
            b: slots[1],
            ..d.inst(alu2(|a: u16, b: u16| u32::from(a) | u32::from(b) << 16))
        }),
        (8, 2) => Ok(Inst {
            d: slot,
            a: slots[0],
            b: slots[1],
            ..d.inst(alu2(|a: u32, b: u32| u64::from(a) | u64::from(b) << 32))
        }),
        (2, 2) => Ok(Inst {
            d: slot,
            a: slots[0],
            b: slots[1],
            ..d.inst(alu2(|a: u8, b: u8| u16::from(a) | u16::from(b) << 8))
        }),
        _ => {
            let extra = d.extras(slots);
            Ok(Inst {
                d: slot,
                aux: part.size() << 8 | sources.len() as u32,
                extra,
                ..d.inst(pack_many)
            })
        }
    }
}

/// `mov.bN {a, b, …}, s`.
fn unpack(
    d: &mut Decoder,
    targets: &[Operand],
    source: &Operand,
    ty: Type,
) -> Result<Inst, LoadError> {
    let Some(part) = part_type(ty, targets.len()) else {
        return d.unsupported(format!("{} elements of .{ty:?}", targets.len()));
    };
    let a = d.src(source, ty)?;
    let mut slots = Vec::new();
    for t in targets {
        slots.push(d.dst(t, part)?);
    }
    // The common halves, without a loop over bytes.
    match (ty.size(), slots.as_slice()) {
        (4, &[low, high]) => {
            let run = pick_handler!(halve::<u32, u16>);
            return Ok(Inst {
                a,
                d: low,
                b: high,
                ..d.inst(run)
            });
        }
        (8, &[low, high]) => {
            let run = pick_handler!(halve::<u64, u32>);
            return Ok(Inst {
                a,
                d: low,
                b: high,
                ..d.inst(run)
            });
        }
        _ => {}
    }
    let extra = d.extras(slots);
    let wide = if ty.size() > 4 { 1 << 16 } else { 0 };
    Ok(Inst {
        a,
        aux: wide | part.size() << 8 | targets.len() as u32,
        extra,
        ..d.inst(unpack_many)
    })
}

fn part_type(ty: Type, count: usize) -> Option<Type> {
    Some(match (ty.size() as usize).checked_div(count)? {
        1 => Type::B8,
        2 => Type::B16,
        4 => Type::B32,
        8 => Type::B64,
        _ => return None,
    })
}

/// A value of two halves.
trait Halves: Lane {
    /// A half.
    type Half: Lane;
    /// The low half, then the high one.
    fn halves(self) -> (Self::Half, Self::Half);
}

impl Halves for u32 {
    type Half = u16;
    #[inline(always)]
    fn halves(self) -> (u16, u16) {
        (self as u16, (self >> 16) as u16)
    }
}

impl Halves for u64 {
    type Half = u32;
    #[inline(always)]
    fn halves(self) -> (u32, u32) {
        (self as u32, (self >> 32) as u32)
    }
}

/// `mov {low, high}, s`: low in `d`, high in `b`.
#[inline(always)]
unsafe fn halve<W: Halves<Half = H>, H: Lane + Default>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file, of these widths.
    unsafe {
        let values = W::load(w.slot(i.a));
        let (mut low, mut high) = ([H::default(); 32], [H::default(); 32]);
        for lane in 0..32 {
            (low[lane], high[lane]) = values[lane].halves();
        }
        H::store(w.slot(i.d), low, mask);
        H::store(w.slot(i.b), high, mask);
    }
    Flow::Next
}

unsafe fn pack_many(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (size, count) = ((i.aux >> 8) as usize, (i.aux & 0xff) as usize);
    // Lanes of the result are as wide as the parts together.
    let width = (size * count).max(4);
    for lane in bits(mask) {
        let mut value = [0u8; 16];
        for k in 0..count {
            // SAFETY: sources are slots of lanes of 4 bytes, or 8 for parts of 8.
            let part = unsafe { w.slot(w.extra(i, k)).add(lane * size.max(4)) };
            // SAFETY: the part lies inside its lane.
            value[k * size..(k + 1) * size]
                .copy_from_slice(unsafe { std::slice::from_raw_parts(part, size) });
        }
        // SAFETY: the destination's lane has this width.
        unsafe {
            std::ptr::copy_nonoverlapping(value.as_ptr(), w.slot(i.d).add(lane * width), width)
        };
    }
    Flow::Next
}

unsafe fn unpack_many(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let (size, count) = ((i.aux >> 8 & 0xff) as usize, (i.aux & 0xff) as usize);
    let width = (size * count).max(4);
    for lane in bits(mask) {
        let mut value = [0u8; 16];
        // SAFETY: the source's lane has this width. Read whole first: a target may be the source.
        unsafe {
            std::ptr::copy_nonoverlapping(w.slot(i.a).add(lane * width), value.as_mut_ptr(), width)
        };
        for k in 0..count {
            let mut part = [0u8; 8];
            part[..size].copy_from_slice(&value[k * size..(k + 1) * size]);
            let to = w.slot_lane(w.extra(i, k), lane, size.max(4));
            // SAFETY: the target's lane has this width.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), to, size.max(4)) };
        }
    }
    Flow::Next
}

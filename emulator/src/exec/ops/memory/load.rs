//! Loads.

use super::element::Element;
use super::space::{decode_space, lane_addresses};
use super::{ACQUIRE, Form, PARTLY, STRONG, elements};
use crate::exec::access::{Access, Kind, Pointers, bits};
use crate::exec::decode::Decoder;
use crate::exec::lanes::wide;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::{Stop, Warp};
use crate::ptx::ast::{Instruction, Operand, Type};

/// `ld` and `ldu`.
///
/// # Errors
/// A form that is not executed.
pub fn load(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let form = Form::read(d, i, 1)?;
    let (ty, n) = (form.ty, form.count);
    let targets = elements(&i.operands[0]);
    if targets.len() != n {
        return d.invalid(format!("{} registers for {n} elements", targets.len()));
    }
    let mut slots = Vec::new();
    let mut wide = None;
    for target in targets {
        let (slot, width) = match target {
            Operand::Sink => {
                slots.push(d.dst(target, ty)?);
                continue;
            }
            Operand::Reg(reg) => {
                let width = d.reg_type(*reg).size();
                // Loads fill wider registers: sign-extended for .s, zero-extended otherwise.
                if width < ty.size() {
                    return d.invalid(format!(
                        "a register of {width} bytes for elements of {}",
                        ty.size()
                    ));
                }
                (d.reg(*reg), width)
            }
            other => return d.invalid(format!("destination {other:?}")),
        };
        if wide.is_some_and(|wide| wide != (width > 4)) {
            return d.unsupported("a vector of registers of different widths");
        }
        wide = Some(width > 4);
        slots.push(slot);
    }
    let target_wide = wide.unwrap_or(ty.size() > 4);
    let first = slots[0];
    // Behind the destinations.
    slots.extend(i.used_bytes);
    let extra = d.extras(slots);
    let partly = if i.used_bytes.is_some() { PARTLY } else { 0 };
    let run: Handler = match (ty, target_wide) {
        (Type::B128, _) => return load_128(d, i, &form),
        (Type::S8, false) => load_handler::<i8, 1, false>(n),
        (Type::S8, true) => load_handler::<i8, 1, true>(n),
        (Type::S16, false) => load_handler::<i16, 2, false>(n),
        (Type::S16, true) => load_handler::<i16, 2, true>(n),
        (Type::S32, true) => load_handler::<i32, 4, true>(n),
        (ty, wide) => match (ty.size(), wide) {
            (1, false) => load_handler::<u8, 1, false>(n),
            (1, true) => load_handler::<u8, 1, true>(n),
            (2, false) => load_handler::<u16, 2, false>(n),
            (2, true) => load_handler::<u16, 2, true>(n),
            (4, false) => load_handler::<u32, 4, false>(n),
            (4, true) => load_handler::<u32, 4, true>(n),
            _ => load_handler::<u64, 8, true>(n),
        },
    };
    Ok(Inst {
        d: first,
        a: form.address.slot,
        imm: form.address.offset,
        aux: form.aux | partly,
        extra,
        ..d.inst(run)
    })
}

fn load_handler<E: Element, const SIZE: usize, const WIDE: bool>(n: usize) -> Handler {
    match n {
        1 => pick::<E, SIZE, 1, WIDE>(),
        2 => pick::<E, SIZE, 2, WIDE>(),
        4 => pick::<E, SIZE, 4, WIDE>(),
        _ => pick::<E, SIZE, 8, WIDE>(),
    }
}

fn pick<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>() -> Handler {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return load_fast::<E, SIZE, N, WIDE>;
    }
    load_plain::<E, SIZE, N, WIDE>
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn load_fast<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract; picked only where the features exist.
    unsafe { do_load::<E, SIZE, N, WIDE>(w, i, mask) }
}

unsafe fn load_plain<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { do_load::<E, SIZE, N, WIDE>(w, i, mask) }
}

#[inline(always)]
unsafe fn do_load<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let size = (SIZE * N) as u32;
    let kind = if i.aux & (ACQUIRE | STRONG) != 0 {
        Kind::StrongLoad
    } else {
        Kind::Load
    };
    let access = Access {
        space: decode_space(i.aux),
        size,
        align: size,
        kind,
    };
    let checked = if i.aux & PARTLY == 0 {
        w.pointers(mask, &addresses, access)
    } else {
        w.pointers_partly(mask, &addresses, access, w.extra(i, N))
    };
    let from = match checked {
        Ok(pointers) => pointers,
        Err(flow) => return flow,
    };
    for k in 0..N {
        // SAFETY: the pointers were checked for SIZE * N bytes; destinations are slots.
        unsafe {
            let slot = if N == 1 {
                w.slot(i.d)
            } else {
                w.slot(w.extra(i, k))
            };
            move_in::<E, SIZE, WIDE>(&from, k, slot, mask);
        }
    }
    if kind == Kind::StrongLoad {
        // After the value is read: what another block's thread releases in between must not go unseen.
        w.observe(mask, &addresses, access, i.aux & ACQUIRE != 0);
    }
    if w.doubts.has_found() {
        return doubt::<SIZE, N>(w, i);
    }
    Flow::Next
}

/// Some of what was loaded nothing had written: from here on its way through the registers is watched.
#[cold]
fn doubt<const SIZE: usize, const N: usize>(w: &mut Warp, i: &Inst) -> Flow {
    let slots: [u32; N] = std::array::from_fn(|k| if N == 1 { i.d } else { w.extra(i, k) });
    let size = SIZE as u32;
    let targets = (0..N).map(|k| (slots[k], k as u32 * size, size));
    w.doubts.settle(w.pc, targets);
    w.pc += 1;
    w.stop = Stop::Yield;
    Flow::Stop
}

#[inline(always)]
unsafe fn move_in<E: Element, const SIZE: usize, const WIDE: bool>(
    from: &Pointers,
    k: usize,
    slot: *mut u8,
    mask: u32,
) {
    if WIDE {
        let slot = slot.cast::<u64>();
        for lane in bits(mask) {
            // SAFETY: the caller's promise.
            unsafe { *slot.add(lane) = E::read(from[lane].add(k * SIZE)).to64() };
        }
    } else if mask == u32::MAX {
        let slot = slot.cast::<u32>();
        for (lane, p) in from.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { *slot.add(lane) = E::read(p.add(k * SIZE)).to32() };
        }
    } else {
        let slot = slot.cast::<u32>();
        for lane in bits(mask) {
            // SAFETY: the caller's promise.
            unsafe { *slot.add(lane) = E::read(from[lane].add(k * SIZE)).to32() };
        }
    }
}

fn load_128(d: &mut Decoder, i: &Instruction, form: &Form) -> Result<Inst, LoadError> {
    if form.count != 1 {
        return d.unsupported("vectors of .b128");
    }
    let slot = d.dst(&i.operands[0], Type::B128)?;
    Ok(Inst {
        d: slot,
        a: form.address.slot,
        imm: form.address.offset,
        aux: form.aux,
        ..d.inst(do_load_128)
    })
}

unsafe fn do_load_128(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let access = Access {
        space: decode_space(i.aux),
        size: 16,
        align: 16,
        kind: Kind::Load,
    };
    let from = match w.pointers(mask, &addresses, access) {
        Ok(pointers) => pointers,
        Err(flow) => return flow,
    };
    for lane in bits(mask) {
        // SAFETY: the pointers were checked; the destination is four slots, 16 bytes a lane.
        unsafe {
            w.slot(i.d)
                .cast::<[u64; 2]>()
                .add(lane)
                .write(from[lane].cast::<[u64; 2]>().read_unaligned())
        };
    }
    if w.doubts.has_found() {
        return doubt::<16, 1>(w, i);
    }
    Flow::Next
}

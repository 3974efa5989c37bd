//! Loads.

use super::element::Element;
use super::space::{decode_space, lane_addresses, space_code};
use super::{ACQUIRE, Form, PARTLY, STRONG, elements, operand, whole};
use crate::exec::access::{Access, Kind, Lanes, Offset, Reach, for_lanes};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, each, wide};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::{Stop, Warp};
use crate::ptx::ast::{AddressBase, Instruction, Operand, Space, Type};

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
    let [anywhere, uniform] = match (ty, target_wide) {
        (Type::B128, _) => return whole::load(d, i, &form),
        (Type::S8, false) => load_handlers::<i8, 1, false>(n),
        (Type::S8, true) => load_handlers::<i8, 1, true>(n),
        (Type::S16, false) => load_handlers::<i16, 2, false>(n),
        (Type::S16, true) => load_handlers::<i16, 2, true>(n),
        (Type::S32, true) => load_handlers::<i32, 4, true>(n),
        (ty, wide) => match (ty.size(), wide) {
            (1, false) => load_handlers::<u8, 1, false>(n),
            (1, true) => load_handlers::<u8, 1, true>(n),
            (2, false) => load_handlers::<u16, 2, false>(n),
            (2, true) => load_handlers::<u16, 2, true>(n),
            (4, false) => load_handlers::<u32, 4, false>(n),
            (4, true) => load_handlers::<u32, 4, true>(n),
            _ => load_handlers::<u64, 8, true>(n),
        },
    };
    let by_name = matches!(i.operands[1], Operand::Address(AddressBase::Symbol(_), _));
    let alike = match decode_space(form.aux) {
        // A structure's members are mostly reached through a register that holds where it begins.
        Some(Space::Param) => true,
        Some(Space::Shared) => by_name && form.aux & (ACQUIRE | STRONG) == 0,
        _ => false,
    };
    let run = if alike { uniform } else { anywhere };
    Ok(Inst {
        d: first,
        a: form.address.slot,
        imm: form.address.offset,
        aux: form.aux | partly,
        extra,
        ..d.inst(run)
    })
}

/// The handlers of a form: of loads from anywhere, and of loads of parameters and of shared variables by name, mostly of
/// one place for all lanes.
type Handlers = [Handler; 2];

fn load_handlers<E: Element, const SIZE: usize, const WIDE: bool>(n: usize) -> Handlers {
    match n {
        1 => pick::<E, SIZE, 1, WIDE>(),
        2 => pick::<E, SIZE, 2, WIDE>(),
        4 => pick::<E, SIZE, 4, WIDE>(),
        _ => pick::<E, SIZE, 8, WIDE>(),
    }
}

fn pick<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>() -> Handlers {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return [
            load_fast::<E, SIZE, N, WIDE>,
            load_uniform_fast::<E, SIZE, N, WIDE>,
        ];
    }
    [
        load_plain::<E, SIZE, N, WIDE>,
        load_uniform_plain::<E, SIZE, N, WIDE>,
    ]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn load_uniform_fast<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract; picked only where the features exist.
    unsafe { do_load_uniform::<E, SIZE, N, WIDE, true>(w, i, mask) }
}

unsafe fn load_uniform_plain<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { do_load_uniform::<E, SIZE, N, WIDE, false>(w, i, mask) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn load_fast<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract; picked only where the features exist.
    unsafe { do_load::<E, SIZE, N, WIDE, true>(w, i, mask) }
}

unsafe fn load_plain<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { do_load::<E, SIZE, N, WIDE, false>(w, i, mask) }
}

/// `FAST` in the wide build.
#[inline(always)]
unsafe fn do_load<
    E: Element,
    const SIZE: usize,
    const N: usize,
    const WIDE: bool,
    const FAST: bool,
>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    let size = (SIZE * N) as u32;
    // SAFETY: operands are slots of the warp's file.
    unsafe {
        if i.aux & (ACQUIRE | STRONG) == 0
            && let Some(lanes) = w.quick::<FAST>(mask, operand(i), size, N == 1)
        {
            let slots: [*mut u8; N] = each(|k| target::<N>(w, i, k));
            match lanes {
                Lanes::Run(start) => fetch_run::<E, WIDE>(start, slots[0]),
                Lanes::Narrow(start, at) => fetch::<E, _, SIZE, N, WIDE>(mask, start, at, slots),
                Lanes::Wide(start, at) => fetch::<E, _, SIZE, N, WIDE>(mask, start, at, slots),
            }
            return Flow::Next;
        }
        #[cfg(target_arch = "x86_64")]
        if FAST {
            return load_long_fast::<E, SIZE, N, WIDE>(w, i, mask);
        }
        load_long_plain::<E, SIZE, N, WIDE>(w, i, mask)
    }
}

// The long way by itself, so that the quick one needs no room for it.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn load_long_fast<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract; called only where the features exist.
    unsafe { load_long::<E, SIZE, N, WIDE>(w, i, mask) }
}

#[inline(never)]
unsafe fn load_long_plain<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { load_long::<E, SIZE, N, WIDE>(w, i, mask) }
}

#[inline(always)]
unsafe fn load_long<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    let size = (SIZE * N) as u32;
    let kind = if i.aux & (ACQUIRE | STRONG) != 0 {
        Kind::StrongLoad
    } else {
        Kind::Load
    };
    // SAFETY: operands are slots of the warp's file.
    let (slots, addresses): ([*mut u8; N], _) = unsafe {
        let slots = each(|k| target::<N>(w, i, k));
        (slots, lane_addresses(w, i.a, i.imm, i.aux))
    };
    let access = Access {
        space: decode_space(i.aux),
        size,
        align: size,
        kind,
    };
    let checked = if i.aux & PARTLY == 0 {
        w.reach(mask, &addresses, access)
    } else {
        w.reach_partly(mask, &addresses, access, w.extra(i, N))
    };
    // SAFETY: the places were checked for SIZE * N bytes, and for alignment where they lie behind one pointer;
    // destinations are slots.
    unsafe {
        match checked {
            Ok(Reach::Behind(start)) => {
                fetch::<E, _, SIZE, N, WIDE>(mask, start, &addresses, slots);
            }
            Ok(Reach::Apart) => for_lanes(mask, |lane| {
                for k in 0..N {
                    put::<E, WIDE>(slots[k], lane, E::read(w.apart[lane].add(k * SIZE)));
                }
            }),
            Err(flow) => return flow,
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
pub(super) fn doubt<const SIZE: usize, const N: usize>(w: &mut Warp, i: &Inst) -> Flow {
    let slots: [u32; N] = std::array::from_fn(|k| if N == 1 { i.d } else { w.extra(i, k) });
    let size = SIZE as u32;
    let targets = (0..N).map(|k| (slots[k], k as u32 * size, size));
    w.doubts.settle(w.pc, targets);
    w.pc += 1;
    w.stop = Stop::Yield;
    Flow::Stop
}

/// The slot of the destination's element `k`.
///
/// # Safety
/// The instruction is one of the warp's program, with `N` destinations.
#[inline(always)]
unsafe fn target<const N: usize>(w: &Warp, i: &Inst, k: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { w.slot(if N == 1 { i.d } else { w.extra(i, k) }) }
}

/// Loads the lanes' `N` elements, aligned, each lane's behind `start` by what `offsets` says.
///
/// # Safety
/// They are there. The slots are of lanes of 64 bits, or not, as `WIDE` says; the offsets may be one of them.
#[inline(always)]
unsafe fn fetch<E: Element, O: Offset, const SIZE: usize, const N: usize, const WIDE: bool>(
    mask: u32,
    start: *const u8,
    offsets: *const [O; 32],
    slots: [*mut u8; N],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u32::MAX {
            for lane in 0..32 {
                fetch_lane::<E, O, SIZE, N, WIDE>(lane, start, offsets, slots);
            }
        } else {
            let mut left = mask;
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                fetch_lane::<E, O, SIZE, N, WIDE>(lane, start, offsets, slots);
                left &= left - 1;
            }
        }
    }
}

/// [`fetch`] for one lane.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn fetch_lane<E: Element, O: Offset, const SIZE: usize, const N: usize, const WIDE: bool>(
    lane: usize,
    start: *const u8,
    offsets: *const [O; 32],
    slots: [*mut u8; N],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let from = start.wrapping_add(offsets.cast::<O>().add(lane).read().bytes());
        for k in 0..N {
            put::<E, WIDE>(slots[k], lane, E::read_aligned(from.add(k * SIZE)));
        }
    }
}

/// Loads 32 elements that lie side by side.
///
/// # Safety
/// As for [`fetch`].
#[inline(always)]
unsafe fn fetch_run<E: Element, const WIDE: bool>(start: *const u8, slot: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let values = start.cast::<[E; 32]>().read_unaligned();
        if WIDE {
            slot.cast::<[u64; 32]>().write(each(|l| values[l].to64()));
        } else {
            slot.cast::<[u32; 32]>().write(each(|l| values[l].to32()));
        }
    }
}

/// Puts an element into a lane of a register.
///
/// # Safety
/// The slot is one of lanes of 64 bits, or not, as `WIDE` says.
#[inline(always)]
unsafe fn put<E: Element, const WIDE: bool>(slot: *mut u8, lane: usize, value: E) {
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE {
            *slot.cast::<u64>().add(lane) = value.to64();
        } else {
            *slot.cast::<u32>().add(lane) = value.to32();
        }
    }
}

/// A load of a kernel's parameter, or of a shared variable that is named, from one address for all lanes.
#[inline(always)]
unsafe fn do_load_uniform<
    E: Element,
    const SIZE: usize,
    const N: usize,
    const WIDE: bool,
    const FAST: bool,
>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the address's slot is of lanes as wide as the code says; the block is alive.
    let (offset, (start, len)) = unsafe {
        let slot = w.slot(i.a);
        let (offset, differing) = if i.aux & space_code::NARROW != 0 {
            let lanes = &*slot.cast::<[u32; 32]>();
            let differing = lanes.iter().fold(0, |all, lane| all | (lane ^ lanes[0]));
            (u64::from(lanes[0]), u64::from(differing))
        } else {
            let lanes = &*slot.cast::<[u64; 32]>();
            let differing = lanes.iter().fold(0, |all, lane| all | (lane ^ lanes[0]));
            (lanes[0], differing)
        };
        if differing != 0 {
            return do_load::<E, SIZE, N, WIDE, FAST>(w, i, mask);
        }
        let memory = if i.aux & space_code::MASK == space_code::PARAM {
            let params = &w.launch().params;
            (params.as_ptr(), params.len())
        } else {
            let shared = &(*w.block).shared;
            // Of parameters all is known at the launch; shared memory may be watched.
            let len = if w.watched { 0 } else { shared.len() };
            (shared.as_ptr().cast_const(), len)
        };
        (offset.wrapping_add_signed(i.imm), memory)
    };
    let size = (SIZE * N) as u64;
    let inside = offset
        .checked_add(size)
        .is_some_and(|end| end <= len as u64);
    if !inside || offset % size != 0 {
        // SAFETY: the handler's contract.
        return unsafe { do_load::<E, SIZE, N, WIDE, FAST>(w, i, mask) };
    }
    let start = start.wrapping_add(offset as usize);
    for k in 0..N {
        // SAFETY: the element lies inside the memory; destinations are slots.
        unsafe {
            let value = E::read(start.add(k * SIZE));
            let slot = target::<N>(w, i, k);
            if WIDE {
                u64::store(slot, [value.to64(); 32], mask);
            } else {
                u32::store(slot, [value.to32(); 32], mask);
            }
        }
    }
    Flow::Next
}

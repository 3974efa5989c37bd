//! Stores.

use super::element::Element;
use super::space::{decode_space, lane_addresses};
use super::{Form, RELEASE, STRONG, elements, operand, whole};
use crate::exec::access::{Access, Kind, Lanes, Offset, Reach, for_lanes};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{each, wide};
use crate::exec::module::LoadError;
use crate::exec::ops::has;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand};

/// `st`.
///
/// # Errors
/// A form that is not executed.
pub fn store(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if has(i, "async") {
        return crate::exec::ops::async_store::decode(d, i);
    }
    if has(i, "bulk") {
        return d.unsupported("bulk stores");
    }
    let form = Form::read(d, i, 0)?;
    let (ty, n) = (form.ty, form.count);
    let sources = elements(&i.operands[1]);
    if sources.len() != n {
        return d.invalid(format!("{} values for {n} elements", sources.len()));
    }
    let mut slots = Vec::new();
    for source in sources {
        if let Operand::Reg(reg) = source
            && d.reg_type(*reg).size() < ty.size()
        {
            return d.invalid(format!(
                "a register of {} bytes for elements of {}",
                d.reg_type(*reg).size(),
                ty.size()
            ));
        }
        slots.push(d.src_any(source, ty)?);
    }
    // A wider register gives its low bytes: little-endian lanes of 64 bits need their own stride.
    let wide_source = sources
        .iter()
        .any(|s| matches!(s, Operand::Reg(reg) if d.reg_type(*reg).size() == 8))
        && ty.size() < 8;
    if wide_source
        && !sources
            .iter()
            .all(|s| matches!(s, Operand::Reg(reg) if d.reg_type(*reg).size() == 8))
    {
        return d.unsupported("a vector of registers of different widths");
    }
    let extra = d.extras(slots.iter().copied());
    let run: Handler = match (ty.size(), wide_source) {
        (1, false) => store_handler::<u8, 1, false>(n),
        (2, false) => store_handler::<u16, 2, false>(n),
        (4, false) => store_handler::<u32, 4, false>(n),
        (1, true) => store_handler::<u8, 1, true>(n),
        (2, true) => store_handler::<u16, 2, true>(n),
        (4, true) => store_handler::<u32, 4, true>(n),
        (8, _) => store_handler::<u64, 8, true>(n),
        _ if n == 1 => whole::store,
        _ => return d.unsupported("vectors of .b128"),
    };
    Ok(Inst {
        d: slots[0],
        a: form.address.slot,
        imm: form.address.offset,
        aux: form.aux,
        extra,
        ..d.inst(run)
    })
}

fn store_handler<E: Element, const SIZE: usize, const WIDE: bool>(n: usize) -> Handler {
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
        return store_fast::<E, SIZE, N, WIDE>;
    }
    store_plain::<E, SIZE, N, WIDE>
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn store_fast<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract; picked only where the features exist.
    unsafe { do_store::<E, SIZE, N, WIDE, true>(w, i, mask) }
}

unsafe fn store_plain<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { do_store::<E, SIZE, N, WIDE, false>(w, i, mask) }
}

/// `FAST` in the wide build.
#[inline(always)]
unsafe fn do_store<
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
        if i.aux & (RELEASE | STRONG) == 0
            && let Some(lanes) = w.quick::<FAST>(mask, operand(i), size, N == 1)
        {
            let slots: [*const u8; N] = each(|k| value::<N>(w, i, k));
            match lanes {
                Lanes::Run(start) => store_run::<E, WIDE>(start, slots[0]),
                Lanes::Narrow(start, at) => put::<E, _, SIZE, N, WIDE>(mask, start, at, slots),
                Lanes::Wide(start, at) => put::<E, _, SIZE, N, WIDE>(mask, start, at, slots),
            }
            return Flow::Next;
        }
        #[cfg(target_arch = "x86_64")]
        if FAST {
            return store_long_fast::<E, SIZE, N, WIDE>(w, i, mask);
        }
        store_long_plain::<E, SIZE, N, WIDE>(w, i, mask)
    }
}

// The long way by itself, so that the quick one needs no room for it.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn store_long_fast<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract; called only where the features exist.
    unsafe { store_long::<E, SIZE, N, WIDE>(w, i, mask) }
}

#[inline(never)]
unsafe fn store_long_plain<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: the handler's own contract.
    unsafe { store_long::<E, SIZE, N, WIDE>(w, i, mask) }
}

#[inline(always)]
unsafe fn store_long<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    let size = (SIZE * N) as u32;
    let kind = if i.aux & (RELEASE | STRONG) != 0 {
        Kind::StrongStore
    } else {
        Kind::Store
    };
    // SAFETY: operands are slots of the warp's file.
    let (slots, addresses): ([*const u8; N], _) = unsafe {
        let slots = each(|k| value::<N>(w, i, k));
        (slots, lane_addresses(w, i.a, i.imm, i.aux))
    };
    let access = Access {
        space: decode_space(i.aux),
        size,
        align: size,
        kind,
    };
    let reach = match w.reach(mask, &addresses, access) {
        Ok(reach) => reach,
        Err(flow) => return flow,
    };
    if kind == Kind::StrongStore {
        // Published before the value is: whoever sees the value finds what it publishes.
        w.publish(mask, &addresses, access, i.aux & RELEASE != 0);
    }
    // SAFETY: the places were checked for SIZE * N bytes, and for alignment where they lie behind one pointer; sources
    // are slots.
    unsafe {
        match reach {
            Reach::Behind(start) => put::<E, _, SIZE, N, WIDE>(mask, start, &addresses, slots),
            Reach::Apart => for_lanes(mask, |lane| {
                for k in 0..N {
                    get::<E, WIDE>(slots[k], lane).write(w.apart[lane].add(k * SIZE));
                }
            }),
        }
    }
    Flow::Next
}

/// The slot of element `k` of what is stored.
///
/// # Safety
/// The instruction is one of the warp's program, with `N` values.
#[inline(always)]
unsafe fn value<const N: usize>(w: &Warp, i: &Inst, k: usize) -> *const u8 {
    // SAFETY: the caller's promise.
    unsafe { w.slot(if N == 1 { i.d } else { w.extra(i, k) }) }
}

/// Stores the lanes' `N` elements, aligned, each lane's behind `start` by what `offsets` says.
///
/// # Safety
/// There is room for them. The slots are of lanes of 64 bits, or not, as `WIDE` says.
#[inline(always)]
unsafe fn put<E: Element, O: Offset, const SIZE: usize, const N: usize, const WIDE: bool>(
    mask: u32,
    start: *mut u8,
    offsets: *const [O; 32],
    slots: [*const u8; N],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u32::MAX {
            for lane in 0..32 {
                put_lane::<E, O, SIZE, N, WIDE>(lane, start, offsets, slots);
            }
        } else {
            let mut left = mask;
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                put_lane::<E, O, SIZE, N, WIDE>(lane, start, offsets, slots);
                left &= left - 1;
            }
        }
    }
}

/// [`put`] for one lane.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn put_lane<E: Element, O: Offset, const SIZE: usize, const N: usize, const WIDE: bool>(
    lane: usize,
    start: *mut u8,
    offsets: *const [O; 32],
    slots: [*const u8; N],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let to = start.wrapping_add(offsets.cast::<O>().add(lane).read().bytes());
        for k in 0..N {
            get::<E, WIDE>(slots[k], lane).write_aligned(to.add(k * SIZE));
        }
    }
}

/// Stores 32 elements side by side.
///
/// # Safety
/// As for [`put`].
#[inline(always)]
unsafe fn store_run<E: Element, const WIDE: bool>(start: *mut u8, slot: *const u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let values: [E; 32] = if WIDE {
            let register = slot.cast::<[u64; 32]>().read();
            each(|l| E::from64(register[l]))
        } else {
            let register = slot.cast::<[u32; 32]>().read();
            each(|l| E::from32(register[l]))
        };
        start.cast::<[E; 32]>().write_unaligned(values);
    }
}

/// The element in a lane of a register.
///
/// # Safety
/// The slot is one of lanes of 64 bits, or not, as `WIDE` says.
#[inline(always)]
unsafe fn get<E: Element, const WIDE: bool>(slot: *const u8, lane: usize) -> E {
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE {
            E::from64(*slot.cast::<u64>().add(lane))
        } else {
            E::from32(*slot.cast::<u32>().add(lane))
        }
    }
}

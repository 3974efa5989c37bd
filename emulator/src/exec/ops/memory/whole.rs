//! Sixteen bytes at once: loads, stores and atomics of `.b128`.

use super::load::doubt;
use super::space::{decode_space, lane_addresses};
use super::{ACQUIRE, Form, RELEASE, STRONG};
use crate::check::Check;
use crate::exec::access::{Access, Kind, Pointers, bits};
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::ops::atomic::SILENT;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Type};
use std::sync::Mutex;

const SIZE: u32 = 16;

/// `ld` of one `.b128`.
///
/// # Errors
/// A form that is not executed.
pub(super) fn load(d: &mut Decoder, i: &Instruction, form: &Form) -> Result<Inst, LoadError> {
    if form.count != 1 {
        return d.unsupported("vectors of .b128");
    }
    let slot = d.dst(&i.operands[0], Type::B128)?;
    Ok(Inst {
        d: slot,
        a: form.address.slot,
        imm: form.address.offset,
        aux: form.aux,
        ..d.inst(do_load)
    })
}

/// The lanes' places, checked.
fn places(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    addresses: &[u64; 32],
    kind: Kind,
) -> Result<(Pointers, Access), Flow> {
    let access = Access {
        space: decode_space(i.aux),
        size: SIZE,
        align: SIZE,
        kind,
    };
    let reach = w.reach(mask, addresses, access)?;
    Ok((w.places(reach, addresses), access))
}

/// A lane's register: four slots, 16 bytes a lane.
///
/// # Safety
/// The slot is one of such registers of the warp's file.
unsafe fn register(w: &Warp, slot: u32, lane: usize) -> *mut u128 {
    // SAFETY: the caller's promise.
    unsafe { w.slot(slot).cast::<u128>().add(lane) }
}

unsafe fn do_load(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let strong = i.aux & (ACQUIRE | STRONG) != 0;
    let kind = if strong { Kind::StrongLoad } else { Kind::Load };
    let (from, access) = match places(w, i, mask, &addresses, kind) {
        Ok(places) => places,
        Err(flow) => return flow,
    };
    for lane in bits(mask) {
        // SAFETY: the places were checked; the destination is such a register.
        unsafe { register(w, i.d, lane).write(read(from[lane])) };
    }
    if strong {
        w.observe(mask, &addresses, access, i.aux & ACQUIRE != 0);
    }
    if w.doubts.has_found() {
        return doubt::<{ SIZE as usize }, 1>(w, i);
    }
    Flow::Next
}

/// `st` of one `.b128`.
///
/// # Safety
/// As for every handler.
pub(super) unsafe fn store(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let strong = i.aux & (RELEASE | STRONG) != 0;
    let kind = if strong {
        Kind::StrongStore
    } else {
        Kind::Store
    };
    let (to, access) = match places(w, i, mask, &addresses, kind) {
        Ok(places) => places,
        Err(flow) => return flow,
    };
    if strong {
        // Published before the value is: whoever sees the value finds what it publishes.
        w.publish(mask, &addresses, access, i.aux & RELEASE != 0);
    }
    for lane in bits(mask) {
        // SAFETY: the places were checked; the source is such a register.
        unsafe { write(to[lane], register(w, i.d, lane).read()) };
    }
    Flow::Next
}

/// `atom.exch.b128`.
///
/// # Safety
/// As for every handler.
pub unsafe fn exchange_whole(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the slots are those of the operands.
    unsafe { atomically(w, i, mask, |_, value, _, _| value) }
}

/// `atom.cas.b128`.
///
/// # Safety
/// As for every handler; `c` holds the new value.
pub unsafe fn compare_and_swap_whole(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let change = |old, expected, w: &Warp, lane| {
        if old == expected {
            // SAFETY: a register of 16 bytes a lane.
            unsafe { register(w, i.c, lane).read() }
        } else {
            old
        }
    };
    // SAFETY: the slots are those of the operands.
    unsafe { atomically(w, i, mask, change) }
}

unsafe fn atomically(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
    change: impl Fn(u128, u128, &Warp, usize) -> u128,
) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let (to, access) = match places(w, i, mask, &addresses, Kind::Atomic) {
        Ok(places) => places,
        Err(flow) => return flow,
    };
    // Published before the value is: whoever sees the value finds what it publishes.
    w.publish(mask, &addresses, access, i.aux & RELEASE != 0);
    for lane in bits(mask) {
        if !to[lane].addr().is_multiple_of(SIZE as usize) {
            let text = format!("atomic of {SIZE} bytes at {:#x}", addresses[lane]);
            return w.violation(Check::Alignment, 1 << lane, text);
        }
        // SAFETY: the place was checked; slots as decoded.
        unsafe {
            let value = register(w, w.extra(i, 1), lane).read();
            let old = update(to[lane], |old| change(old, value, w, lane));
            if i.aux & SILENT == 0 {
                register(w, w.extra(i, 0), lane).write(old);
            }
        }
    }
    w.observe(mask, &addresses, access, i.aux & ACQUIRE != 0);
    Flow::Next
}

/// What is at `p`; at once where it is a multiple of 16 and the processor can.
///
/// # Safety
/// There are 16 bytes.
unsafe fn read(p: *const u8) -> u128 {
    #[cfg(target_arch = "x86_64")]
    if p.addr().is_multiple_of(SIZE as usize) {
        use std::arch::x86_64::{__m128i, _mm_load_si128};
        // SAFETY: the caller's promise, and it is aligned.
        return unsafe { std::mem::transmute::<__m128i, u128>(_mm_load_si128(p.cast())) };
    }
    // SAFETY: the caller's promise.
    unsafe { p.cast::<u128>().read_unaligned() }
}

/// Puts 16 bytes at `p`, as [`read`] reads them.
///
/// # Safety
/// There are 16 bytes.
unsafe fn write(p: *mut u8, value: u128) {
    #[cfg(target_arch = "x86_64")]
    if p.addr().is_multiple_of(SIZE as usize) {
        use std::arch::x86_64::{__m128i, _mm_store_si128};
        // SAFETY: the caller's promise, and it is aligned.
        unsafe { _mm_store_si128(p.cast(), std::mem::transmute::<u128, __m128i>(value)) };
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { p.cast::<u128>().write_unaligned(value) }
}

/// Changes the 16 bytes at `p` at once; what they were.
///
/// # Safety
/// There are 16 bytes, at a multiple of 16.
unsafe fn update(p: *mut u8, change: impl Fn(u128) -> u128) -> u128 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("cmpxchg16b") {
        // SAFETY: the caller's promise, and the processor has the instruction.
        unsafe {
            let mut old = read(p);
            loop {
                let now = exchange_if(p, old, change(old));
                if now == old {
                    return old;
                }
                old = now;
            }
        }
    }
    // Without such an instruction they are atomic among themselves.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    // SAFETY: the caller's promise.
    unsafe {
        let old = read(p);
        write(p, change(old));
        old
    }
}

/// Puts `new` at `p` if `old` is there; what was.
///
/// # Safety
/// There are 16 bytes, at a multiple of 16, and the processor has the instruction.
#[cfg(target_arch = "x86_64")]
unsafe fn exchange_if(p: *mut u8, old: u128, new: u128) -> u128 {
    let halves = |x: u128| (x as u64, (x >> 64) as u64);
    let ((mut low, mut high), (new_low, new_high)) = (halves(old), halves(new));
    // By hand: the intrinsic leaves a call to a library that is not there where it is not inlined.
    // SAFETY: the caller's promise. The compiler keeps rbx to itself, so it is put back.
    unsafe {
        std::arch::asm!(
            "xchg {keep}, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, {keep}",
            keep = inout(reg) new_low => _,
            in("rdi") p,
            in("rcx") new_high,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(low) | u128::from(high) << 64
}

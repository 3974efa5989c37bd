//! Warp-wide arithmetic: a scalar function of one lane becomes a handler that
//! the compiler turns into vector instructions, in two builds, one of them for
//! processors with AVX2 and FMA.

use super::program::{Flow, Handler, Inst};
use super::warp::Warp;

/// A value that a lane of a register slot holds.
///
/// # Safety
/// `load` and `store` touch only the slot (or the two slots, for 64 bits) at the pointer.
pub unsafe trait Lane: Copy {
    /// Reads all 32 lanes.
    ///
    /// # Safety
    /// `slot` points to a slot of this width.
    unsafe fn load(slot: *const u8) -> [Self; 32];
    /// Writes the lanes of `mask`.
    ///
    /// # Safety
    /// `slot` points to a slot of this width.
    unsafe fn store(slot: *mut u8, values: [Self; 32], mask: u32);
}

macro_rules! plain_lane {
    ($($t:ty),*) => {$(
        // SAFETY: a slot (or two) is exactly `[Self; 32]`.
        unsafe impl Lane for $t {
            #[inline(always)]
            unsafe fn load(slot: *const u8) -> [$t; 32] {
                // SAFETY: the caller's promise; slots are 128-byte aligned.
                unsafe { *slot.cast::<[$t; 32]>() }
            }
            #[inline(always)]
            unsafe fn store(slot: *mut u8, values: [$t; 32], mask: u32) {
                let slot = slot.cast::<[$t; 32]>();
                if mask == u32::MAX {
                    // SAFETY: the caller's promise.
                    unsafe { *slot = values };
                } else {
                    // SAFETY: the caller's promise.
                    let old = unsafe { *slot };
                    let mut new = old;
                    for l in 0..32 {
                        new[l] = if mask >> l & 1 != 0 { values[l] } else { old[l] };
                    }
                    // SAFETY: the caller's promise.
                    unsafe { *slot = new };
                }
            }
        }
    )*};
}
plain_lane!(u32, i32, f32, u64, i64, f64);

macro_rules! narrow_lane {
    ($($t:ty),*) => {$(
        // SAFETY: narrow values live zero-extended in 32-bit lanes.
        unsafe impl Lane for $t {
            #[inline(always)]
            unsafe fn load(slot: *const u8) -> [$t; 32] {
                // SAFETY: the caller's promise.
                let wide = unsafe { u32::load(slot) };
                let mut out = [0 as $t; 32];
                for l in 0..32 {
                    out[l] = wide[l] as $t;
                }
                out
            }
            #[inline(always)]
            unsafe fn store(slot: *mut u8, values: [$t; 32], mask: u32) {
                let mut wide = [0u32; 32];
                for l in 0..32 {
                    // Through the unsigned type of the same width: zero extension.
                    wide[l] = (values[l] as u32) & (u32::MAX >> (32 - 8 * size_of::<$t>()));
                }
                // SAFETY: the caller's promise.
                unsafe { u32::store(slot, wide, mask) };
            }
        }
    )*};
}
narrow_lane!(u8, i8, u16, i16);

// SAFETY: a predicate is a lane mask in the first word of its slot.
unsafe impl Lane for bool {
    #[inline(always)]
    unsafe fn load(slot: *const u8) -> [bool; 32] {
        // SAFETY: the caller's promise.
        let mask = unsafe { *slot.cast::<u32>() };
        let mut out = [false; 32];
        for l in 0..32 {
            out[l] = mask >> l & 1 != 0;
        }
        out
    }
    #[inline(always)]
    unsafe fn store(slot: *mut u8, values: [bool; 32], mask: u32) {
        let bits = lanes_where(|l| values[l]);
        let slot = slot.cast::<u32>();
        // SAFETY: the caller's promise.
        unsafe { *slot = (*slot & !mask) | (bits & mask) };
    }
}

/// An array by index. [`std::array::from_fn`] is a call that stays outside the wide builds; this is a loop
/// that becomes vector code inside them.
#[inline(always)]
pub fn each<T: Copy, const N: usize>(mut f: impl FnMut(usize) -> T) -> [T; N] {
    let mut out = std::mem::MaybeUninit::<[T; N]>::uninit();
    let first = out.as_mut_ptr().cast::<T>();
    for k in 0..N {
        // SAFETY: `k` is below the array's length.
        unsafe { first.add(k).write(f(k)) };
    }
    // SAFETY: every element was written.
    unsafe { out.assume_init() }
}

/// The lanes for which `f` says yes, by bit.
#[inline(always)]
pub fn lanes_where(f: impl Fn(usize) -> bool) -> u32 {
    // Ones or zeros in all bits are what a vector comparison leaves.
    let lanes: [u32; 32] = each(|l| if f(l) { u32::MAX } else { 0 });
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: every x86-64 processor has these instructions; four lanes from each fourth are inside.
        unsafe {
            let four = |k: usize| _mm_loadu_si128(lanes.as_ptr().add(4 * k).cast());
            let eight = |k: usize| _mm_packs_epi32(four(k), four(k + 1));
            let sixteen = |k: usize| _mm_movemask_epi8(_mm_packs_epi16(eight(k), eight(k + 2)));
            sixteen(0) as u32 | (sixteen(4) as u32) << 16
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    (0..32).fold(0, |all, l| all | lanes[l] & 1 << l)
}

/// Whether the wide build of handlers may run here.
pub fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        static WIDE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *WIDE.get_or_init(|| {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether vector instructions of 256 bits are carried out as two of 128 here, as AMD's first Zen processors do.
#[cfg(target_arch = "x86_64")]
pub fn halved() -> bool {
    use std::arch::x86_64::__cpuid;
    static HALVED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *HALVED.get_or_init(|| {
        #[allow(unused_unsafe)] // newer compilers call it safe
        // SAFETY: every x86-64 processor has the instruction and these leaves.
        let (vendor, signature) = unsafe { (__cpuid(0), __cpuid(1).eax) };
        // Family and model, each of a base and an extension.
        let family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
        let model = (signature >> 4 & 0xf) | (signature >> 12 & 0xf0);
        let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        amd.as_flattened() == b"AuthenticAMD" && family == 0x17 && model < 0x30
    })
}

/// The [`Handler`] of an `#[inline(always)] unsafe fn` with a handler's signature, in the build that suits
/// the processor. Generic arguments must be concrete: `pick_handler!(body::<4>)`.
macro_rules! pick_handler {
    ($body:expr) => {{
        unsafe fn base(
            w: &mut $crate::exec::warp::Warp,
            i: &$crate::exec::program::Inst,
            m: u32,
        ) -> $crate::exec::program::Flow {
            // SAFETY: the handler's own contract.
            unsafe { ($body)(w, i, m) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn fast(
            w: &mut $crate::exec::warp::Warp,
            i: &$crate::exec::program::Inst,
            m: u32,
        ) -> $crate::exec::program::Flow {
            // SAFETY: the handler's own contract; picked only where the features exist.
            unsafe { ($body)(w, i, m) }
        }
        let mut handler: $crate::exec::program::Handler = base;
        #[cfg(target_arch = "x86_64")]
        if $crate::exec::lanes::wide() {
            handler = fast;
        }
        handler
    }};
}
pub(super) use pick_handler;

/// A function value of a type without size, made anew from the type alone.
#[inline(always)]
pub(super) unsafe fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "lane functions must capture nothing") };
    // SAFETY: a value of this type exists (the constructor was given one), it is Copy and has no bytes.
    unsafe { std::mem::transmute_copy::<(), F>(&()) }
}

macro_rules! alu {
    ($(#[doc = $doc:literal])* $name:ident $body:ident ($($arg:ident : $T:ident @ $field:ident),*)) => {
        $(#[doc = $doc])*
        pub fn $name<D: Lane, $($T: Lane,)* F: Fn($($T),*) -> D + Copy>(_f: F) -> Handler {
            #[inline(always)]
            unsafe fn $body<D: Lane, $($T: Lane,)* F: Fn($($T),*) -> D + Copy>(
                w: &mut Warp, i: &Inst, mask: u32,
            ) -> Flow {
                // SAFETY: the handler's contract: operands are slots of the warp's file.
                unsafe {
                    let f = conjure::<F>();
                    $(let $arg = $T::load(w.regs.add(i.$field as usize));)*
                    let out: [D; 32] = each(|l| f($($arg[l]),*));
                    D::store(w.regs.add(i.d as usize), out, mask);
                }
                Flow::Next
            }
            // Where the wide build cannot run, speed matters less than the size of this crate: one loop for
            // all functions of a shape.
            #[inline(never)]
            unsafe fn plain<D: Lane, $($T: Lane),*>(w: &mut Warp, i: &Inst, mask: u32, f: &dyn Fn($($T),*) -> D) -> Flow {
                // SAFETY: the handler's contract: operands are slots of the warp's file.
                unsafe {
                    $(let $arg = $T::load(w.regs.add(i.$field as usize));)*
                    let out: [D; 32] = std::array::from_fn(|l| f($($arg[l]),*));
                    D::store(w.regs.add(i.d as usize), out, mask);
                }
                Flow::Next
            }
            unsafe fn base<D: Lane, $($T: Lane,)* F: Fn($($T),*) -> D + Copy>(w: &mut Warp, i: &Inst, m: u32) -> Flow {
                // SAFETY: the handler's own contract.
                unsafe { plain::<D, $($T),*>(w, i, m, &conjure::<F>()) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            unsafe fn fast<D: Lane, $($T: Lane,)* F: Fn($($T),*) -> D + Copy>(w: &mut Warp, i: &Inst, m: u32) -> Flow {
                // SAFETY: the handler's own contract; picked only where the features exist.
                unsafe { $body::<D, $($T,)* F>(w, i, m) }
            }
            #[cfg(target_arch = "x86_64")]
            if wide() {
                return fast::<D, $($T,)* F> as Handler;
            }
            base::<D, $($T,)* F> as Handler
        }
    };
}

alu!(
    /// `d = f(a)`, lane by lane.
    alu1 body1 (a: A @ a));
alu!(
    /// `d = f(a, b)`, lane by lane.
    alu2 body2 (a: A @ a, b: B @ b));
alu!(
    /// `d = f(a, b, c)`, lane by lane.
    alu3 body3 (a: A @ a, b: B @ b, c: C @ c));

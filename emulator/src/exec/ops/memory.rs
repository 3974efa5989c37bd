//! Loads, stores, moves between registers, and address conversions.

use super::{has, operands, type_of};
use crate::exec::access::{Access, Kind, Pointers, bits, window};
use crate::exec::decode::{Address, Decoder};
use crate::exec::lanes::{Lane, alu1, alu2, each, pick_handler};
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::{Stop, Warp};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let inst = match i.opcode[0].as_str() {
        "ld" | "ldu" => load(d, i)?,
        "st" => store(d, i)?,
        "mov" if !super::control::reads_clock(i) => mov(d, i)?,
        "cvta" => convert_address(d, i)?,
        "isspacep" => is_space(d, i)?,
        "prefetch" | "prefetchu" | "discard" | "applypriority" => {
            // Hints: the data stays what it is. (`discard` may lose it; keeping it is one of the outcomes allowed.)
            d.inst(hint)
        }
        "createpolicy" => {
            let slot = d.dst(&i.operands[0], Type::B64)?;
            let a = d.constant(0, 8);
            Inst {
                d: slot,
                a,
                ..d.inst(alu1(|x: u64| x))
            }
        }
        "alloca" | "stacksave" | "stackrestore" => return d.unsupported("dynamic stack"),
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

unsafe fn hint(_: &mut Warp, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

/// The state space that an access names; `None` for generic.
pub fn space_of(i: &Instruction) -> Option<Space> {
    i.opcode[1..].iter().find_map(|m| {
        Some(match m.as_str() {
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" | "shared::cta" => Space::Shared,
            "shared::cluster" => Space::Cluster,
            "local" => Space::Local,
            "param" | "param::entry" | "param::func" => Space::Param,
            _ => return None,
        })
    })
}

/// Codes of spaces in [`Inst::aux`].
pub mod space_code {
    /// Generic address.
    pub const GENERIC: u32 = 0;
    /// Global or constant.
    pub const GLOBAL: u32 = 1;
    /// Shared.
    pub const SHARED: u32 = 2;
    /// Local, absolute.
    pub const LOCAL: u32 = 3;
    /// Kernel parameters.
    pub const PARAM: u32 = 4;
    /// Local, from the frame.
    pub const FRAME: u32 = 5;
    /// The shared memory of the cluster's blocks.
    pub const CLUSTER: u32 = 6;
    /// The bits that hold the code.
    pub const MASK: u32 = 7;
    /// Set where the address register has 32 bits.
    pub const NARROW: u32 = 8;
    /// First free bit.
    pub const NEXT: u32 = 4;
}

/// The code of an access's space, for [`Inst::aux`].
///
/// # Errors
/// Where the address and the space do not go together.
pub fn encode_space(
    d: &Decoder,
    space: Option<Space>,
    address: &Address,
) -> Result<u32, LoadError> {
    use space_code::*;
    let code = match (space, address.space) {
        // Call parameters and the parameters of device functions are in the frame.
        (Some(Space::Param) | Some(Space::Local) | None, _) if address.in_frame => FRAME,
        (Some(Space::Param), _) => PARAM,
        (Some(Space::Global | Space::Const), _) => GLOBAL,
        (Some(Space::Shared), _) => SHARED,
        (Some(Space::Cluster), _) => CLUSTER,
        (Some(Space::Local), _) => LOCAL,
        (Some(Space::Reg), _) => return d.unsupported("register space"),
        // A variable's own name is an address in its space, not a generic one.
        (None, Some(Space::Shared | Space::Cluster)) => SHARED,
        (None, Some(Space::Param)) => PARAM,
        (None, Some(Space::Local)) => FRAME,
        (None, _) => GENERIC,
    };
    Ok(code | if address.wide { 0 } else { NARROW })
}

/// The space that a code stands for.
#[inline(always)]
pub fn decode_space(code: u32) -> Option<Space> {
    match code & space_code::MASK {
        space_code::GENERIC => None,
        space_code::GLOBAL => Some(Space::Global),
        space_code::SHARED => Some(Space::Shared),
        space_code::CLUSTER => Some(Space::Cluster),
        space_code::PARAM => Some(Space::Param),
        _ => Some(Space::Local),
    }
}

/// The lanes' addresses of an access: base slot `slot`, offset `offset`, space code `code`.
///
/// # Safety
/// The slot is one of the warp's file, of the width the code says.
#[inline(always)]
pub unsafe fn lane_addresses(w: &Warp, slot: u32, offset: i64, code: u32) -> [u64; 32] {
    let offset = if code & space_code::MASK == space_code::FRAME {
        offset + i64::from(w.frame)
    } else {
        offset
    };
    if code & space_code::NARROW != 0 {
        // SAFETY: the caller's promise.
        let base = unsafe { u32::load(w.slot(slot)) };
        // A 32-bit address wraps in 32 bits.
        each(|l| u64::from(base[l].wrapping_add(offset as u32)))
    } else {
        // SAFETY: the caller's promise.
        let base = unsafe { u64::load(w.slot(slot)) };
        each(|l| base[l].wrapping_add_signed(offset))
    }
}

/// Elements of a vector operand, or the operand itself.
pub fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(list) => list,
        other => std::slice::from_ref(other),
    }
}

/// How many elements `.v2`, `.v4`, `.v8` ask for.
pub fn vector_len(i: &Instruction) -> usize {
    if has(i, "v8") {
        8
    } else if has(i, "v4") {
        4
    } else if has(i, "v2") {
        2
    } else {
        1
    }
}

const LOAD_MODIFIERS: &[&str] = &[
    "global",
    "const",
    "shared",
    "shared::cta",
    "shared::cluster",
    "local",
    "param",
    "param::entry",
    "param::func",
    "v2",
    "v4",
    "v8",
    "weak",
    "relaxed",
    "acquire",
    "release",
    "volatile",
    "mmio",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
    "L2::cache_hint",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "unified",
];

fn load(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    super::only(d, i, LOAD_MODIFIERS)?;
    let ty = type_of(d, i)?;
    let n = vector_len(i);
    let hinted = has(i, "L2::cache_hint");
    operands(d, i, if hinted { 3 } else { 2 })?;
    let address = d.address(&i.operands[1])?;
    let code = encode_space(d, space_of(i), &address)?;
    let targets = elements(&i.operands[0]);
    if targets.len() != n {
        return d.invalid(format!("{} registers for {n} elements", targets.len()));
    }
    let mut slots = Vec::new();
    let mut wide = None;
    for target in targets {
        let (slot, width) = match target {
            Operand::Sink => (d.dst(target, ty)?, ty.size().max(4)),
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
        wide = wide.max(Some(width > 4));
        slots.push(slot);
    }
    let target_wide = wide == Some(true);
    let first = slots[0];
    // Behind the destinations.
    slots.extend(i.used_bytes);
    let extra = d.extras(slots);
    let ordered = if i.used_bytes.is_some() { PARTLY } else { 0 }
        | if has(i, "acquire") { ACQUIRE } else { 0 }
        | if has(i, "relaxed") || has(i, "volatile") || has(i, "mmio") {
            STRONG
        } else {
            0
        };
    let run: Handler = match (ty, target_wide) {
        (Type::B128, _) => return load_128(d, i, address, code),
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
        a: address.slot,
        imm: address.offset,
        aux: code | ordered,
        extra,
        ..d.inst(run)
    })
}

/// Flags after the space code in [`Inst::aux`] of loads and stores.
pub const ACQUIRE: u32 = 1 << space_code::NEXT;
/// The access is a release.
pub const RELEASE: u32 = 2 << space_code::NEXT;
/// The access is strong: relaxed, volatile or mmio.
pub const STRONG: u32 = 4 << space_code::NEXT;

/// Not all bytes of the load are used.
const PARTLY: u32 = 8 << space_code::NEXT;

/// A memory element of `SIZE` bytes.
trait Element: Copy {
    unsafe fn read(p: *const u8) -> Self;
    unsafe fn write(self, p: *mut u8);
    fn to32(self) -> u32;
    fn to64(self) -> u64;
    fn from32(v: u32) -> Self;
    fn from64(v: u64) -> Self;
}

macro_rules! element {
    ($($t:ident $atomic:ident $via32:ident $via64:ident),*) => {$(
        impl Element for $t {
            #[inline(always)]
            unsafe fn read(p: *const u8) -> $t {
                // SAFETY: the caller's promise: memory that was checked. Relaxed atomics, since blocks on other
                // threads may write it; unaligned addresses get here only with that check off.
                unsafe {
                    if p.addr() % size_of::<$t>() == 0 {
                        (*p.cast::<std::sync::atomic::$atomic>()).load(std::sync::atomic::Ordering::Relaxed) as $t
                    } else {
                        p.cast::<$t>().read_unaligned()
                    }
                }
            }
            #[inline(always)]
            unsafe fn write(self, p: *mut u8) {
                // SAFETY: as for reading.
                unsafe {
                    if p.addr() % size_of::<$t>() == 0 {
                        (*p.cast::<std::sync::atomic::$atomic>()).store(self as _, std::sync::atomic::Ordering::Relaxed);
                    } else {
                        p.cast::<$t>().write_unaligned(self);
                    }
                }
            }
            #[inline(always)]
            fn to32(self) -> u32 { self as $via32 as u32 }
            #[inline(always)]
            fn to64(self) -> u64 { self as $via64 as u64 }
            #[inline(always)]
            fn from32(v: u32) -> $t { v as $t }
            #[inline(always)]
            fn from64(v: u64) -> $t { v as $t }
        }
    )*};
}
element!(u8 AtomicU8 u32 u64, u16 AtomicU16 u32 u64, u32 AtomicU32 u32 u64, u64 AtomicU64 u32 u64,
         i8 AtomicI8 i32 i64, i16 AtomicI16 i32 i64, i32 AtomicI32 i32 i64);

fn load_handler<E: Element, const SIZE: usize, const WIDE: bool>(n: usize) -> Handler {
    match n {
        1 => do_load::<E, SIZE, 1, WIDE>,
        2 => do_load::<E, SIZE, 2, WIDE>,
        4 => do_load::<E, SIZE, 4, WIDE>,
        _ => do_load::<E, SIZE, 8, WIDE>,
    }
}

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

fn load_128(
    d: &mut Decoder,
    i: &Instruction,
    address: Address,
    code: u32,
) -> Result<Inst, LoadError> {
    if vector_len(i) != 1 {
        return d.unsupported("vectors of .b128");
    }
    let slot = d.dst(&i.operands[0], Type::B128)?;
    Ok(Inst {
        d: slot,
        a: address.slot,
        imm: address.offset,
        aux: code,
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

fn store(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    if has(i, "async") || has(i, "bulk") {
        return d.unsupported("asynchronous stores");
    }
    super::only(d, i, LOAD_MODIFIERS)?;
    let ty = type_of(d, i)?;
    let n = vector_len(i);
    let hinted = has(i, "L2::cache_hint");
    operands(d, i, if hinted { 3 } else { 2 })?;
    let address = d.address(&i.operands[0])?;
    let code = encode_space(d, space_of(i), &address)?;
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
        _ if n == 1 => do_store_128,
        _ => return d.unsupported("vectors of .b128"),
    };
    let ordered = if has(i, "release") { RELEASE } else { 0 }
        | if has(i, "relaxed") || has(i, "volatile") || has(i, "mmio") {
            STRONG
        } else {
            0
        };
    Ok(Inst {
        d: slots[0],
        a: address.slot,
        imm: address.offset,
        aux: code | ordered,
        extra,
        ..d.inst(run)
    })
}

fn store_handler<E: Element, const SIZE: usize, const WIDE: bool>(n: usize) -> Handler {
    match n {
        1 => do_store::<E, SIZE, 1, WIDE>,
        2 => do_store::<E, SIZE, 2, WIDE>,
        4 => do_store::<E, SIZE, 4, WIDE>,
        _ => do_store::<E, SIZE, 8, WIDE>,
    }
}

unsafe fn do_store<E: Element, const SIZE: usize, const N: usize, const WIDE: bool>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let size = (SIZE * N) as u32;
    let kind = if i.aux & (RELEASE | STRONG) != 0 {
        Kind::StrongStore
    } else {
        Kind::Store
    };
    let access = Access {
        space: decode_space(i.aux),
        size,
        align: size,
        kind,
    };
    let to = match w.pointers(mask, &addresses, access) {
        Ok(pointers) => pointers,
        Err(flow) => return flow,
    };
    if kind == Kind::StrongStore {
        // Published before the value is: whoever sees the value finds what it publishes.
        w.publish(mask, &addresses, access, i.aux & RELEASE != 0);
    }
    for k in 0..N {
        // SAFETY: the pointers were checked for SIZE * N bytes; sources are slots.
        unsafe {
            let slot = if N == 1 {
                w.slot(i.d)
            } else {
                w.slot(w.extra(i, k))
            };
            for lane in bits(mask) {
                let value = if WIDE {
                    E::from64(*slot.cast::<u64>().add(lane))
                } else {
                    E::from32(*slot.cast::<u32>().add(lane))
                };
                value.write(to[lane].add(k * SIZE));
            }
        }
    }
    Flow::Next
}

unsafe fn do_store_128(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let addresses = unsafe { lane_addresses(w, i.a, i.imm, i.aux) };
    let access = Access {
        space: decode_space(i.aux),
        size: 16,
        align: 16,
        kind: Kind::Store,
    };
    let to = match w.pointers(mask, &addresses, access) {
        Ok(pointers) => pointers,
        Err(flow) => return flow,
    };
    for lane in bits(mask) {
        // SAFETY: the pointers were checked; the source is four slots, 16 bytes a lane.
        unsafe {
            to[lane]
                .cast::<[u64; 2]>()
                .write_unaligned(w.slot(i.d).cast::<[u64; 2]>().add(lane).read())
        };
    }
    Flow::Next
}

fn mov(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
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

unsafe fn frame_address64(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
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

fn convert_address(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let ty = type_of(d, i)?;
    let to = has(i, "to");
    let space = match space_of(i) {
        Some(space) => space,
        None => return d.unsupported("no space"),
    };
    if ty.size() != 8 {
        return d.unsupported("32-bit generic addresses");
    }
    let slot = d.dst(&i.operands[0], ty)?;
    // The address of a variable by name is an address in its own space.
    let a = match &i.operands[1] {
        Operand::Symbol(name, offset) if d.frame_offset(name).is_some() => {
            let at = i64::from(d.frame_offset(name).unwrap_or(0)) + offset;
            let base = if to { 0 } else { LOCAL_WINDOW as i64 };
            return Ok(Inst {
                d: slot,
                imm: at + base,
                ..d.inst(frame_address64)
            });
        }
        source => d.src(source, ty)?,
    };
    let run = match (space, to) {
        (Space::Global | Space::Const, _) => alu1(|x: u64| x),
        (Space::Shared | Space::Cluster, false) => alu1(|x: u64| x.wrapping_add(SHARED_WINDOW)),
        (Space::Shared | Space::Cluster, true) => alu1(|x: u64| x.wrapping_sub(SHARED_WINDOW)),
        (Space::Local, false) => alu1(|x: u64| x.wrapping_add(LOCAL_WINDOW)),
        (Space::Local, true) => alu1(|x: u64| x.wrapping_sub(LOCAL_WINDOW)),
        (Space::Param, false) => alu1(|x: u64| x.wrapping_add(PARAM_WINDOW)),
        (Space::Param, true) => alu1(|x: u64| x.wrapping_sub(PARAM_WINDOW)),
        (Space::Reg, _) => return d.unsupported("register space"),
    };
    Ok(Inst {
        d: slot,
        a,
        ..d.inst(run)
    })
}

fn is_space(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let slot = d.dst(&i.operands[0], Type::Pred)?;
    let a = d.src(&i.operands[1], Type::U64)?;
    let run = match space_of(i) {
        Some(Space::Shared) => super::cluster::in_own_block as Handler,
        Some(Space::Cluster) => alu1(|x: u64| window(x) == Space::Shared),
        Some(Space::Local) => alu1(|x: u64| window(x) == Space::Local),
        Some(Space::Param) => alu1(|x: u64| window(x) == Space::Param),
        Some(Space::Global) => alu1(|x: u64| window(x) == Space::Global),
        // Constant variables lie in the same range as global ones here, so neither can be told by address.
        _ => return d.unsupported("constant space"),
    };
    Ok(Inst {
        d: slot,
        a,
        ..d.inst(run)
    })
}

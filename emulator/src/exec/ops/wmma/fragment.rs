//! Fragments between memory and registers.

use super::super::memory::{
    decode_space, elements, encode_space, lane_addresses, space_code, space_of,
};
use super::super::tensor::whole_warp;
use super::super::{has, only};
use super::{element_bits, factors_fit, register_type, registers, run_bytes, shape_of};
use crate::check::FaultKind;
use crate::exec::access::{Access, Kind};
use crate::exec::decode::Decoder;
use crate::exec::lanes::Lane;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Type};

const ACCESS_MODIFIERS: &[&str] = &[
    "load",
    "store",
    "a",
    "b",
    "c",
    "d",
    "sync",
    "aligned",
    "row",
    "col",
    "m16n16k16",
    "m8n32k16",
    "m32n8k16",
    "m16n16k8",
    "m8n8k4",
    "m8n8k32",
    "m8n8k128",
    "global",
    "shared",
    "shared::cta",
    "tf32",
    "s4",
    "u4",
    "b1",
];

/// Header of a load's or store's extras, before the slots.
const HEADER: usize = 6;

/// `wmma.load` and `wmma.store`.
///
/// # Errors
/// A form that is not executed.
pub fn access(d: &mut Decoder, i: &Instruction, load: bool) -> Result<Inst, LoadError> {
    only(d, i, ACCESS_MODIFIERS)?;
    let [m, n, k] = shape_of(d, i)?;
    let element = i.opcode.last().map_or("", String::as_str);
    let Some(bits) = element_bits(element) else {
        return d.unsupported("element type");
    };
    let row = has(i, "row");
    if row == has(i, "col") {
        return d.invalid("a layout, .row or .col, belongs here");
    }
    let matrix = i.opcode.get(2).map_or("", String::as_str);
    // Outer and inner extents in memory, and whether the fragment runs along the inner one.
    let (outer, inner, along) = match (matrix, row) {
        ("a", true) => (m, k, true),
        ("a", false) => (k, m, true),
        ("b", true) => (k, n, true),
        ("b", false) => (n, k, true),
        ("c" | "d", true) => (m, n, true),
        ("c" | "d", false) => (n, m, false),
        _ => return d.invalid("no matrix .a, .b, .c or .d named"),
    };
    let factor = matches!(matrix, "a" | "b");
    if load == (matrix == "d") || (!load && factor) {
        return d.invalid("that matrix is not loaded or stored");
    }
    if factor && !factors_fit([m, n, k], element)
        || !factor && !matches!(element, "f16" | "f32" | "s32" | "f64")
    {
        return d.unsupported("shape and type");
    }
    let (list, address, stride) = match (&i.operands[..], load) {
        ([list, address], true) | ([address, list], false) => (list, address, None),
        ([list, address, stride], true) | ([address, list, stride], false) => {
            (list, address, Some(stride))
        }
        _ => return d.invalid("operands are not registers, [address] and stride"),
    };
    let bytes = run_bytes(outer * inner, bits);
    let count = registers(element, bytes, factor);
    let list = elements(list);
    if list.len() != count {
        return d.invalid(format!("{} registers, where {count} belong", list.len()));
    }
    let ty = register_type(element);
    let mut slots = Vec::new();
    for operand in list {
        slots.push(if load {
            d.dst(operand, ty)?
        } else {
            d.src(operand, ty)?
        });
    }
    let address = d.address(address)?;
    let code = encode_space(d, space_of(i), &address)?;
    let b = match stride {
        Some(stride) => d.src(stride, Type::U32)?,
        None => d.constant(u64::from(inner), 4),
    };
    // The row-major fragment of C against column-major memory: the extents as the fragment sees them.
    let header = [outer, inner, bits, u32::from(along), bytes, count as u32];
    let extra = d.extras(header.into_iter().chain(slots));
    let run: Handler = if load {
        move_fragment::<true>
    } else {
        move_fragment::<false>
    };
    Ok(Inst {
        a: address.slot,
        imm: address.offset,
        b,
        aux: code,
        extra,
        ..d.inst(run)
    })
}

/// A fragment's runs, lane after lane: at most 32 bytes each.
pub type Runs = [u8; 1024];

unsafe fn move_fragment<const LOAD: bool>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    let header: [usize; HEADER] = std::array::from_fn(|k| w.extra(i, k) as usize);
    let [_, inner, bits, along, bytes, count] = header;
    // SAFETY: operands are slots of the warp's file.
    let (base, strides) = unsafe { (lane_addresses(w, i.a, i.imm, i.aux), u32::load(w.slot(i.b))) };
    let (first, stride) = (base[0], strides[0] as usize);
    if base.iter().any(|&a| a != first) || strides.iter().any(|&s| s as usize != stride) {
        return w.fault(
            FaultKind::Illegal,
            mask,
            "lanes give different addresses or strides to wmma".into(),
        );
    }
    let mut runs: Runs = [0; 1024];
    if !LOAD {
        // SAFETY: the slots are those of the fragment.
        unsafe { gather(w, i, bytes, bits == 64, count, &mut runs) };
    }
    // A lane's run in memory, in pieces that are contiguous.
    let piece = if along != 0 {
        bytes.min(16).min(inner * bits / 8)
    } else {
        bits / 8
    };
    let space = decode_space(i.aux & space_code::MASK);
    let kind = if LOAD { Kind::Read } else { Kind::Store };
    for part in 0..bytes / piece {
        let addresses: [u64; 32] = std::array::from_fn(|lane| {
            let element = (lane * bytes + part * piece) * 8 / bits;
            // The fragment's rows are memory's columns where it does not run along memory.
            let (row, column) = if along != 0 {
                (element / inner, element % inner)
            } else {
                let width = header[0];
                (element % width, element / width)
            };
            first.wrapping_add(((row * stride + column) * bits / 8) as u64)
        });
        let access = Access {
            space,
            size: piece as u32,
            align: piece as u32,
            kind,
        };
        let pointers = match w.pointers(mask, &addresses, access) {
            Ok(pointers) => pointers,
            Err(flow) => return flow,
        };
        for (lane, &pointer) in pointers.iter().enumerate() {
            if pointer.is_null() {
                continue;
            }
            let run = runs[lane * bytes + part * piece..][..piece].as_mut_ptr();
            // SAFETY: `piece` bytes were checked behind the pointer, and the run has as many.
            unsafe {
                if LOAD {
                    std::ptr::copy_nonoverlapping(pointer, run, piece);
                } else {
                    std::ptr::copy_nonoverlapping(run, pointer, piece);
                }
            }
        }
    }
    if LOAD {
        // SAFETY: the slots are those of the fragment.
        unsafe { scatter(w, i, HEADER, bytes, bits == 64, count, &runs) };
    }
    Flow::Next
}

/// Bytes of a lane in a register.
fn lane_width(wide: bool) -> usize {
    if wide { 8 } else { 4 }
}

unsafe fn gather(w: &Warp, i: &Inst, bytes: usize, wide: bool, count: usize, runs: &mut Runs) {
    // SAFETY: the caller's promise.
    unsafe { gather_from(w, i, HEADER, bytes, wide, count, runs) };
}

/// Registers `from..` of the extras to runs.
///
/// # Safety
/// There are `count` slots, of lanes as wide as said.
pub unsafe fn gather_from(
    w: &Warp,
    i: &Inst,
    from: usize,
    bytes: usize,
    wide: bool,
    count: usize,
    runs: &mut Runs,
) {
    let width = lane_width(wide);
    for k in 0..count.min(bytes / width) {
        // SAFETY: the caller's promise.
        let slot = unsafe { w.slot(w.extra(i, from + k)) };
        for lane in 0..32 {
            let to = runs[lane * bytes + k * width..][..width].as_mut_ptr();
            // SAFETY: a lane of the slot has this width.
            unsafe { std::ptr::copy_nonoverlapping(slot.add(lane * width), to, width) };
        }
    }
}

/// Runs to registers, again from the start where there are more registers than a run fills.
///
/// # Safety
/// As for [`gather_from`].
pub unsafe fn scatter(
    w: &Warp,
    i: &Inst,
    from: usize,
    bytes: usize,
    wide: bool,
    count: usize,
    runs: &Runs,
) {
    let width = lane_width(wide);
    for k in 0..count {
        // SAFETY: the caller's promise.
        let slot = unsafe { w.slot(w.extra(i, from + k)) };
        for lane in 0..32 {
            let at = lane * bytes + k * width % bytes;
            // SAFETY: a lane of the slot has this width.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    runs[at..][..width].as_ptr(),
                    slot.add(lane * width),
                    width,
                )
            };
        }
    }
}

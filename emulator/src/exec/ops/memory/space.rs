//! The state space of an access: by name, in [`Inst::aux`], and what it makes of a register's value.

use super::moves::frame_address64;
use crate::exec::access::window;
use crate::exec::decode::{Address, Decoder};
use crate::exec::lanes::{Lane, alu1, each};
use crate::exec::module::LoadError;
use crate::exec::ops::{has, operands, type_of};
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

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

/// An address of either width.
pub trait AddressLane: Lane + Copy {
    /// As 64 bits.
    fn wide(self) -> u64;
    /// The lowest bits of `value`.
    fn narrow(value: u64) -> Self;
}

impl AddressLane for u32 {
    fn wide(self) -> u64 {
        self.into()
    }
    fn narrow(value: u64) -> u32 {
        value as u32
    }
}

impl AddressLane for u64 {
    fn wide(self) -> u64 {
        self
    }
    fn narrow(value: u64) -> u64 {
        value
    }
}

/// `cvta`.
///
/// # Errors
/// A form that is not executed.
pub(super) fn convert_address(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
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

/// `isspacep`.
///
/// # Errors
/// A form that is not executed.
pub(super) fn is_space(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let slot = d.dst(&i.operands[0], Type::Pred)?;
    let a = d.src(&i.operands[1], Type::U64)?;
    let run = match space_of(i) {
        Some(Space::Shared) => crate::exec::ops::cluster::in_own_block as Handler,
        Some(Space::Cluster) => alu1(|x: u64| window(x) == Space::Shared),
        Some(Space::Local) => alu1(|x: u64| window(x) == Space::Local),
        Some(Space::Param) => alu1(|x: u64| window(x) == Space::Param),
        Some(Space::Const | Space::Global) => {
            // Constant variables lie among the global ones: they are told apart one by one.
            let ranges = d.constant_ranges();
            let halves = |x: u64| [x as u32, (x >> 32) as u32];
            let list = ranges
                .iter()
                .flat_map(|&(first, end)| [halves(first), halves(end)]);
            let list: Vec<u32> = list.flatten().collect();
            let extra = d.extras(list);
            return Ok(Inst {
                d: slot,
                a,
                extra,
                imm: ranges.len() as i64,
                aux: u32::from(space_of(i) == Some(Space::Const)),
                ..d.inst(in_constants)
            });
        }
        _ => return d.unsupported("space"),
    };
    Ok(Inst {
        d: slot,
        a,
        ..d.inst(run)
    })
}

/// `isspacep.const` and `.global`: whether addresses are in one of the constant variables, or else in global memory.
unsafe fn in_constants(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let whole = |at: usize| u64::from(w.extra(i, at)) | u64::from(w.extra(i, at + 1)) << 32;
    let wanted = i.aux != 0;
    let is = |x: u64| {
        let constant = (0..i.imm as usize).any(|k| (whole(4 * k)..whole(4 * k + 2)).contains(&x));
        window(x) == Space::Global && constant == wanted
    };
    // SAFETY: operands are a 64-bit slot and a predicate slot of the warp's file.
    unsafe {
        let found = u64::load(w.slot(i.a)).map(is);
        bool::store(w.slot(i.d), found, mask);
    }
    Flow::Next
}

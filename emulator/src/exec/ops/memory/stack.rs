//! Room that a thread takes on its stack while it runs: `alloca`, `stacksave`, `stackrestore`.
//!
//! It lies in local memory behind the frame of the function, and what is called meanwhile has its frame behind that. A
//! return gives it back.

use super::space::AddressLane;
use crate::check::FaultKind;
use crate::exec::access::bits;
use crate::exec::decode::Decoder;
use crate::exec::local::LOCAL_LIMIT;
use crate::exec::module::LoadError;
use crate::exec::ops::{operands, type_of};
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// What is aligned to, where nothing is asked for, and the most that can be.
const ALIGN: i64 = 8;
const MOST_ALIGN: i64 = 1 << 23;

/// Whether addresses and sizes have 64 bits.
fn is_wide(d: &Decoder, i: &Instruction) -> Result<bool, LoadError> {
    match type_of(d, i)? {
        Type::U64 => Ok(true),
        Type::U32 => Ok(false),
        ty => d.unsupported(format!("type .{ty:?}")),
    }
}

/// `alloca`.
///
/// # Errors
/// A form that is not executed.
pub fn allocate(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let align = match i.operands.get(2) {
        None => ALIGN,
        Some(Operand::Int(n)) if (1..=MOST_ALIGN).contains(n) && n & (n - 1) == 0 => *n,
        Some(other) => {
            return d.invalid(format!("{other:?} is no power of two up to {MOST_ALIGN}"));
        }
    };
    operands(d, i, i.operands.len().clamp(2, 3))?;
    let wide = is_wide(d, i)?;
    let ty = type_of(d, i)?;
    let target = d.dst(&i.operands[0], ty)?;
    let a = d.src(&i.operands[1], ty)?;
    Ok(Inst {
        d: target,
        a,
        imm: align.max(ALIGN),
        ..d.inst(if wide {
            do_allocate::<u64>
        } else {
            do_allocate::<u32>
        })
    })
}

/// `stacksave`.
///
/// # Errors
/// A form that is not executed.
pub fn save(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 1)?;
    let wide = is_wide(d, i)?;
    let ty = type_of(d, i)?;
    let target = d.dst(&i.operands[0], ty)?;
    Ok(Inst {
        d: target,
        ..d.inst(if wide { do_save::<u64> } else { do_save::<u32> })
    })
}

/// `stackrestore`.
///
/// # Errors
/// A form that is not executed.
pub fn restore(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    operands(d, i, 1)?;
    let wide = is_wide(d, i)?;
    let ty = type_of(d, i)?;
    let a = d.src(&i.operands[0], ty)?;
    Ok(Inst {
        a,
        ..d.inst(if wide {
            do_restore::<u64>
        } else {
            do_restore::<u32>
        })
    })
}

impl Warp {
    /// Where the frame of the function that runs ends.
    fn frame_end(&self) -> u32 {
        let program = self.program();
        let function = program.info[self.pc as usize].function as usize;
        self.frame + program.functions[function].frame_bytes
    }

    /// Where a thread's stack ends.
    fn stack_end(&self, lane: usize) -> u32 {
        self.stack[lane].max(self.frame_end())
    }
}

unsafe fn do_allocate<A: AddressLane>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are slots of the warp's file.
    let (sizes, mut out) = unsafe { (A::load(w.slot(i.a)), A::load(w.slot(i.d))) };
    for lane in bits(mask) {
        let size = sizes[lane].wide();
        let first = u64::from(w.stack_end(lane)).next_multiple_of(i.imm as u64);
        let end = first.saturating_add(size).max(first);
        if end > LOCAL_LIMIT || !w.local.reserve(end) {
            let text = format!(
                "stack overflow in local memory: {size} bytes more, behind {first}, where {LOCAL_LIMIT} are the most"
            );
            return w.fault(FaultKind::Illegal, 1 << lane, text);
        }
        w.local.mark(lane, first as usize, size as usize, false);
        w.stack[lane] = end as u32;
        out[lane] = A::narrow(first);
    }
    // SAFETY: the destination is a slot of this width.
    unsafe { A::store(w.slot(i.d), out, mask) };
    Flow::Next
}

unsafe fn do_save<A: AddressLane>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let out = std::array::from_fn(|lane| A::narrow(w.stack_end(lane).into()));
    // SAFETY: the destination is a slot of this width.
    unsafe { A::store(w.slot(i.d), out, mask) };
    Flow::Next
}

unsafe fn do_restore<A: AddressLane>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: the operand is a slot of this width.
    let saved = unsafe { A::load(w.slot(i.a)) };
    for lane in bits(mask) {
        let (to, end) = (saved[lane].wide(), w.stack_end(lane));
        if to < w.frame_end().into() || to > end.into() {
            let text = format!(
                "the stack, which ends at {end}, is restored to {to}: no stacksave of this call has given that"
            );
            return w.fault(FaultKind::Illegal, 1 << lane, text);
        }
        // What was there must not be read as if it still were.
        w.local
            .mark(lane, to as usize, end as usize - to as usize, false);
        w.stack[lane] = to as u32;
    }
    Flow::Next
}

//! Instructions that a warp executes as one on matrices: which file executes which, and what they share.

use super::{matrix_load, mma, wmma};
use crate::check::Check;
use crate::exec::decode::Decoder;
use crate::exec::module::LoadError;
use crate::exec::program::{Flow, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::Instruction;

/// Decodes an instruction of this family, if it is one.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction) -> Result<Option<Inst>, LoadError> {
    let inst = match i.opcode[0].as_str() {
        "ldmatrix" | "stmatrix" => matrix_load::decode(d, i)?,
        "movmatrix" => matrix_load::decode_move(d, i)?,
        "mma" => mma::decode(d, i)?,
        "wmma" => wmma::decode(d, i)?,
        "wgmma" => return d.unsupported("matrix products of warp groups"),
        "tcgen05" => return d.unsupported("tensor memory"),
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

/// For `.sync.aligned` instructions: `None` where the whole warp is here; otherwise what to return, unless
/// the warp has no 32 threads left and nobody minds.
#[inline(always)]
pub fn whole_warp(w: &mut Warp, mask: u32) -> Option<Flow> {
    if mask == u32::MAX {
        None
    } else {
        part_of_warp(w, mask)
    }
}

#[cold]
fn part_of_warp(w: &mut Warp, mask: u32) -> Option<Flow> {
    let off = w.active & !mask;
    if off != 0 {
        let text = format!(
            "lanes {off:#010x} are predicated off at an instruction that the whole warp executes"
        );
        return Some(w.violation(Check::WarpSync, off, text));
    }
    if let Some(flow) = w.gather(mask, w.threads) {
        return Some(flow);
    }
    if !w.launch().checks.has(Check::WarpSync) {
        return None;
    }
    let text = match w.exited {
        0 => format!(
            "the warp has {} threads, where the instruction needs 32",
            w.threads.count_ones()
        ),
        exited => format!("lanes {exited:#010x} have exited, where the instruction needs all 32"),
    };
    Some(w.violation(Check::WarpSync, mask, text))
}

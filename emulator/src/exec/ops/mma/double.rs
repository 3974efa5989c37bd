//! Products of `.f64`: a lane holds one element of A and B a register, lane `4 g + t` row (or column) `g`, and
//! `t` along K; further registers of A alternate between rows `g` and `g + 8`, then go on along K by four.

use super::super::tensor::whole_warp;
use super::{Form, Plan};
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::Type;

/// Plans a double-precision form; `None` where there is none such.
pub fn plan(form: Form) -> Option<Plan> {
    if [form.a, form.b, form.c, form.d] != ["f64"; 4] {
        return None;
    }
    // Blocks of eight rows, blocks of four along K.
    let (run, high, depth): (Handler, usize, usize) = match form.shape {
        "m8n8k4" => (multiply::<1, 1>, 1, 1),
        "m16n8k4" => (multiply::<2, 1>, 2, 1),
        "m16n8k8" => (multiply::<2, 2>, 2, 2),
        "m16n8k16" => (multiply::<2, 4>, 2, 4),
        _ => return None,
    };
    Some(Plan {
        run,
        counts: [2 * high, high * depth, depth, 2 * high],
        accumulators: [Type::F64; 2],
        factors: Type::F64,
    })
}

unsafe fn multiply<const HIGH: usize, const DEPTH: usize>(
    w: &mut Warp,
    i: &Inst,
    mask: u32,
) -> Flow {
    if let Some(flow) = whole_warp(w, mask) {
        return flow;
    }
    // SAFETY: operands are 64-bit slots of the warp's file: D, A, B, C.
    unsafe {
        let slot = |k: usize| w.slot(w.extra(i, k)).cast::<[f64; 32]>();
        let (a, b, c) = (
            2 * HIGH,
            2 * HIGH + HIGH * DEPTH,
            2 * HIGH + HIGH * DEPTH + DEPTH,
        );
        let a: [[[f64; 32]; HIGH]; DEPTH] =
            std::array::from_fn(|k| std::array::from_fn(|m| *slot(a + HIGH * k + m)));
        let b: [[f64; 32]; DEPTH] = std::array::from_fn(|k| *slot(b + k));
        let mut sums: [[[f64; 32]; 2]; HIGH] =
            std::array::from_fn(|m| std::array::from_fn(|n| *slot(c + 2 * m + n)));
        for (m, rows) in sums.iter_mut().enumerate() {
            for (n, sum) in rows.iter_mut().enumerate() {
                for (lane, value) in sum.iter_mut().enumerate() {
                    let (row, column) = (lane / 4, lane % 4 * 2 + n);
                    for k in 0..4 * DEPTH {
                        *value = a[k / 4][m][row * 4 + k % 4]
                            .mul_add(b[k / 4][column * 4 + k % 4], *value);
                    }
                }
            }
        }
        for (m, rows) in sums.iter().enumerate() {
            for (n, sum) in rows.iter().enumerate() {
                *slot(2 * m + n) = *sum;
            }
        }
    }
    Flow::Next
}

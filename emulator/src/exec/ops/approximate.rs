//! The `.approx` and `.full` functions.

use super::float::{canonical, canonical64, flush};
use super::has;
use super::shape::{binary, exactly, unary};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{alu1, alu2};
use crate::exec::module::LoadError;
use crate::exec::number::approx;
use crate::exec::program::Inst;
use crate::ptx::ast::{Instruction, Type};

/// `alu1` of a binary32 function, with operand and result flushed where `$ftz`. As functions, not closures,
/// so that they are inlined into the wide builds whatever their size.
macro_rules! function {
    ($ftz:expr, |$x:ident| $body:expr) => {{
        #[inline(always)]
        fn plain($x: f32) -> f32 {
            canonical($body)
        }
        #[inline(always)]
        fn flushing(x: f32) -> f32 {
            flush(plain(flush(x)))
        }
        if $ftz { alu1(flushing) } else { alu1(plain) }
    }};
}

/// Decodes an instruction with `.approx` or `.full`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(d: &mut Decoder, i: &Instruction, ty: Type) -> Result<Inst, LoadError> {
    let op = i.opcode[0].as_str();
    exactly(
        d,
        i,
        &[
            if op == "div" && has(i, "full") {
                "full"
            } else {
                "approx"
            },
            "ftz",
        ],
    )?;
    let ftz = has(i, "ftz");
    let run = match (op, ty) {
        ("ex2", Type::F32) => function!(ftz, |x| approx::exp2(x)),
        ("lg2", Type::F32) => function!(ftz, |x| approx::log2(x)),
        ("sin", Type::F32) => function!(ftz, |x| approx::sin(x)),
        ("cos", Type::F32) => function!(ftz, |x| approx::cos(x)),
        ("tanh", Type::F32) if !ftz => function!(false, |x| approx::tanh(x)),
        ("rcp", Type::F32) => function!(ftz, |x| 1.0 / x),
        ("sqrt", Type::F32) => function!(ftz, |x| x.sqrt()),
        ("rsqrt", Type::F32) => function!(ftz, |x| approx::inverse_root(x)),
        ("rcp", Type::F64) if ftz => alu1(|x: f64| approx::gross_reciprocal(x)),
        ("rsqrt", Type::F64) if ftz => alu1(|x: f64| approx::gross_inverse_root(x)),
        ("rsqrt", Type::F64) => alu1(|x: f64| canonical64(1.0 / x.sqrt())),
        ("div", Type::F32) => {
            let run = match (has(i, "full"), ftz) {
                (true, false) => alu2(|a: f32, b: f32| canonical(a / b)),
                (true, true) => alu2(|a: f32, b: f32| flush(canonical(flush(a) / flush(b)))),
                (false, false) => alu2(|a: f32, b: f32| canonical(approx::divide(a, b))),
                (false, true) => {
                    alu2(|a: f32, b: f32| flush(canonical(approx::divide(flush(a), flush(b)))))
                }
            };
            return binary(d, i, ty, [ty; 2], run);
        }
        _ => return d.unsupported(""),
    };
    unary(d, i, ty, ty, run)
}

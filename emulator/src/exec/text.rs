//! Instructions as text, for reports.

use crate::ptx::ast::{AddressBase, Body, Instruction, Operand, Part};
use std::fmt::Write;

/// Stands for the return behind a function's last instruction, which PTX does not write.
pub const END: &str = "(end of the function)";

/// An instruction nearly as it was written.
pub fn instruction(inst: &Instruction, body: &Body) -> String {
    let mut out = String::new();
    if let Some(guard) = inst.guard {
        let bang = if guard.negated { "!" } else { "" };
        let _ = write!(out, "@{bang}{} ", body.regs[guard.reg.0 as usize].name);
    }
    out.push_str(&inst.opcode.join("."));
    for (k, operand) in inst.operands.iter().enumerate() {
        out.push_str(if k == 0 { " " } else { ", " });
        write_operand(&mut out, operand, body);
    }
    out
}

fn write_operand(out: &mut String, operand: &Operand, body: &Body) {
    let name = |reg: &crate::ptx::ast::RegId| body.regs[reg.0 as usize].name.as_str();
    // Writing to a string cannot fail.
    let _ = match operand {
        Operand::Reg(reg) => write!(out, "{}", name(reg)),
        Operand::NotReg(reg) => write!(out, "!{}", name(reg)),
        Operand::Special(s) => write!(out, "{s}"),
        Operand::Int(v) => write!(out, "{v}"),
        Operand::F32(bits) => write!(out, "0f{bits:08X}"),
        Operand::F64(bits) => write!(out, "0d{bits:016X}"),
        Operand::Symbol(s, 0) => write!(out, "{s}"),
        Operand::Symbol(s, offset) => write!(out, "{s}{offset:+}"),
        Operand::Address(base, offset) => {
            let _ = match base {
                AddressBase::Reg(reg) => write!(out, "[{}", name(reg)),
                AddressBase::Symbol(s) => write!(out, "[{s}"),
                AddressBase::Absolute => write!(out, "[{offset}]"),
            };
            match (base, offset) {
                (AddressBase::Absolute, _) => Ok(()),
                (_, 0) => write!(out, "]"),
                (_, offset) => write!(out, "{offset:+}]"),
            }
        }
        Operand::Vector(list) => write_list(out, '{', list, '}', body),
        Operand::List(list) => write_list(out, '(', list, ')', body),
        Operand::Composite(list) => write_list(out, '[', list, ']', body),
        Operand::Pair(a, b) => {
            write_operand(out, a, body);
            out.push('|');
            write_operand(out, b, body);
            Ok(())
        }
        Operand::Sink => write!(out, "_"),
        Operand::Part { reg, negated, part } => {
            let minus = if *negated { "-" } else { "" };
            let part = match part {
                None => String::new(),
                Some(Part::Byte(k)) => format!(".b{k}"),
                Some(Part::Half(k)) => format!(".h{k}"),
            };
            write!(out, "{minus}{}{part}", name(reg))
        }
    };
}

fn write_list(
    out: &mut String,
    open: char,
    list: &[Operand],
    close: char,
    body: &Body,
) -> std::fmt::Result {
    out.push(open);
    for (k, operand) in list.iter().enumerate() {
        if k > 0 {
            out.push_str(", ");
        }
        write_operand(out, operand, body);
    }
    out.push(close);
    Ok(())
}

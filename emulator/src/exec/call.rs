//! Calls: frames in local memory, parameters by value, registers saved where a function can be active twice.

use super::access::bits;
use super::program::{Flow, Inst, Program, SLOT};
use super::symbols::{CODE_BASE, CODE_STEP};
use super::warp::{Call, MAX_CALLS, Warp};
use crate::check::FaultKind;
use crate::ptx::ast::{self, Operand};
use std::rc::Rc;

/// Which of the functions can be active twice in a thread: those on a cycle of the call graph. A function
/// that calls through a pointer is taken to call every other.
pub fn recursive(functions: &[&ast::Function]) -> Vec<bool> {
    let index = |name: &str| functions.iter().position(|f| f.name == name);
    let calls: Vec<Vec<usize>> = functions
        .iter()
        .map(|f| {
            let Some(body) = &f.body else {
                return Vec::new();
            };
            let mut out = Vec::new();
            for inst in body.instructions.iter().filter(|i| i.opcode[0] == "call") {
                let named = inst.operands.iter().find_map(|o| match o {
                    Operand::Symbol(name, _) => index(name),
                    _ => None,
                });
                match named {
                    Some(callee) => out.push(callee),
                    None if inst.operands.iter().any(|o| matches!(o, Operand::Reg(_))) => {
                        out.extend(1..functions.len())
                    }
                    None => {}
                }
            }
            out
        })
        .collect();
    let reaches = |from: usize| {
        let mut seen = vec![false; functions.len()];
        let mut stack = calls[from].clone();
        while let Some(f) = stack.pop() {
            if !std::mem::replace(&mut seen[f], true) {
                stack.extend(&calls[f]);
            }
        }
        seen[from]
    };
    (0..functions.len()).map(reaches).collect()
}

/// Overwrites the `lanes` of saved slots of a function with those of another copy.
pub fn blend_slots(program: &Program, function: usize, into: &mut [u8], from: &[u8], lanes: u32) {
    // Slots of 64-bit registers are two 128-byte slots of 16 lanes each; which a slot is does not show in
    // the bytes, so the program says.
    let (first, _) = program.functions[function].slots;
    for (slot, bytes_a_lane) in program.register_widths(function) {
        let at = (slot - first) as usize;
        if bytes_a_lane == 0 {
            let mask = u32::from_le_bytes([into[at], into[at + 1], into[at + 2], into[at + 3]]);
            let other = u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]]);
            into[at..at + 4].copy_from_slice(&(mask & !lanes | other & lanes).to_le_bytes());
            continue;
        }
        for lane in bits(lanes) {
            let range = at + lane * bytes_a_lane..at + (lane + 1) * bytes_a_lane;
            into[range.clone()].copy_from_slice(&from[range]);
        }
    }
}

/// `call`: `imm` is the callee, or −1 with the address in `a`. Extra operands: the number of return
/// variables, their frame offsets, the number of arguments, their frame offsets.
///
/// # Safety
/// As for every handler.
pub unsafe fn call(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let program = w.program();
    let callee = if i.imm >= 0 {
        i.imm as usize
    } else {
        // SAFETY: `a` is a 64-bit slot.
        let targets = unsafe { <u64 as super::lanes::Lane>::load(w.slot(i.a)) };
        let first = targets[mask.trailing_zeros() as usize];
        let same = bits(mask)
            .filter(|&l| targets[l] == first)
            .fold(0, |m, l| m | 1 << l);
        if same != mask {
            // Lanes that call something else come back to this instruction by themselves.
            w.split_off(mask & !same, w.pc);
            // SAFETY: the same instruction for fewer lanes.
            return unsafe { call(w, i, same) };
        }
        match program.function_at(first) {
            Some(function) => function,
            None => {
                return w.fault(
                    FaultKind::Illegal,
                    mask,
                    format!("call to {first:#x}, which is no function's address"),
                );
            }
        }
    };
    if w.calls.len() >= MAX_CALLS {
        return w.fault(
            FaultKind::Illegal,
            mask,
            format!("more than {MAX_CALLS} calls deep"),
        );
    }
    if mask != w.active {
        w.split_off(w.active & !mask, w.pc + 1);
    }
    let info = &program.functions[callee];
    let caller = &program.functions[program.info[w.pc as usize].function as usize];
    let taken = bits(mask).map(|lane| w.stack[lane]).max().unwrap_or(0);
    let frame = (w.frame + caller.frame_bytes).max(taken.next_multiple_of(16));
    if !w.local.reserve(u64::from(frame + info.frame_bytes)) {
        return w.fault(
            FaultKind::Illegal,
            mask,
            "stack overflow in local memory".into(),
        );
    }
    let returns = w.extra(i, 0) as usize;
    let arguments = w.extra(i, 1 + returns) as usize;
    if arguments > info.params.len() || returns > info.returns.len() {
        return w.fault(
            FaultKind::Illegal,
            mask,
            format!("`{}` takes other parameters than the call gives", info.name),
        );
    }
    for k in 0..arguments {
        let from = w.frame + w.extra(i, 2 + returns + k);
        let (at, size) = info.params[k];
        for lane in bits(mask) {
            w.local
                .copy(lane, from as usize, (frame + at) as usize, size as usize);
        }
    }
    let saved = info.recursive.then(|| {
        let (first, end) = info.slots;
        // SAFETY: the slots lie in the register file.
        Rc::new(
            unsafe { std::slice::from_raw_parts(w.slot(first), (end - first) as usize) }.to_vec(),
        )
    });
    w.calls.push(Call {
        return_pc: w.pc + 1,
        frame: w.frame,
        call_pc: w.pc,
        callee: callee as u32,
        saved,
    });
    w.frame = frame;
    w.pc = info.entry;
    Flow::Jump
}

/// `ret`: of a kernel, an exit.
///
/// # Safety
/// As for every handler.
pub unsafe fn ret(w: &mut Warp, _: &Inst, mask: u32) -> Flow {
    if w.calls.is_empty() {
        return match w.exit(mask) {
            Flow::Next => {
                w.pc += 1;
                Flow::Jump
            }
            flow => flow,
        };
    }
    if mask != w.active {
        // The others go on in the function.
        w.split_off(w.active & !mask, w.pc + 1);
    }
    let program = w.program();
    let Some(done) = w.calls.pop() else {
        unreachable!("checked above")
    };
    let call = &program.insts[done.call_pc as usize];
    let info = &program.functions[done.callee as usize];
    let returns = w.extra(call, 0) as usize;
    for k in 0..returns {
        let (at, size) = info.returns[k];
        let to = done.frame + w.extra(call, 1 + k);
        for lane in bits(mask) {
            w.local
                .copy(lane, (w.frame + at) as usize, to as usize, size as usize);
        }
    }
    // The callee's frame is no more: what it wrote must not be read as if it were.
    for lane in bits(mask) {
        let end = w.stack[lane].max(w.frame + info.frame_bytes);
        w.local
            .mark(lane, w.frame as usize, (end - w.frame) as usize, false);
        w.stack[lane] = w.stack[lane].min(w.frame);
    }
    if let Some(saved) = done.saved {
        let (first, end) = info.slots;
        // SAFETY: the slots lie in the register file.
        let now = unsafe { std::slice::from_raw_parts_mut(w.slot(first), (end - first) as usize) };
        blend_slots(program, done.callee as usize, now, &saved, mask);
    }
    w.frame = done.frame;
    w.pc = done.return_pc;
    Flow::Jump
}

impl Program {
    /// The function at a code address, if one was linked there.
    pub fn function_at(&self, address: u64) -> Option<usize> {
        let index = address.checked_sub(CODE_BASE)?;
        if index % CODE_STEP != 0 {
            return None;
        }
        let index = usize::try_from(index / CODE_STEP).ok()?;
        let function = *self.by_module_index.get(&index)?;
        Some(function as usize)
    }

    /// Slots of a function's registers and bytes a lane of each; 0 for predicates.
    pub fn register_widths(&self, function: usize) -> impl Iterator<Item = (u32, usize)> + '_ {
        let (first, end) = self.functions[function].slots;
        self.widths
            .iter()
            .filter(move |w| w.0 >= first && w.0 < end)
            .map(|w| (w.0, w.1 as usize))
    }
}

const _: () = assert!(SLOT == 128);

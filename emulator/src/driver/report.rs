//! What the driver has to say: faults and leaks, on stderr and kept for whoever asks, and counters of launches.

use super::error::CuResult;
use super::launch::Launch;
use super::state::State;
use crate::check::{Check, Fault, FaultKind};
use crate::counters::{Counters, InstructionCounts};
use crate::exec::Outcome;
use std::fmt::Write as _;
use std::io::Write as _;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The check's name, or `trap`, `assertion`, `deadlock`, `budget`, `illegal`, `copy`, `defect`.
    pub(crate) kind: String,
    /// As people read it.
    pub(crate) text: String,
    /// Further members of the JSON object, `,"name":value` each.
    details: String,
}

impl Report {
    /// A kernel's fault.
    pub(crate) fn fault(fault: &Fault) -> Report {
        let kind = match fault.kind {
            FaultKind::Check(check) => check.name(),
            FaultKind::Trap => "trap",
            FaultKind::Assert => "assertion",
            FaultKind::Deadlock => "deadlock",
            FaultKind::Budget => "budget",
            FaultKind::Illegal => "illegal",
        };
        let mut details = format!(
            ",\"message\":{},\"kernel\":{},\"block\":{:?},\"thread\":{:?},\"lanes\":{},\"ptx_line\":{},\"instruction\":{}",
            json_text(&fault.message),
            json_text(&fault.kernel),
            fault.block,
            fault.thread,
            fault.lanes,
            fault.ptx_line,
            json_text(&fault.instruction)
        );
        if let Some((file, line)) = &fault.source {
            let _ = write!(details, ",\"file\":{},\"line\":{line}", json_text(file));
        }
        Report { kind: kind.into(), text: fault.to_string(), details }
    }

    /// A copy or fill of the host's that went wrong.
    pub(crate) fn copy(text: String) -> Report {
        Report { kind: "copy".into(), text: format!("error[copy]: {text}"), details: String::new() }
    }

    /// Allocations alive when their context goes.
    pub(crate) fn leak(text: String) -> Report {
        Report { kind: Check::Leak.name().into(), text: format!("error[leak]: {text}"), details: String::new() }
    }

    /// The emulator's own mistake.
    pub(crate) fn defect(text: String) -> Report {
        Report { kind: "defect".into(), text: format!("error[defect]: {text}"), details: String::new() }
    }

    /// The report as a JSON object.
    pub(crate) fn json(&self) -> String {
        format!("{{\"kind\":{},\"text\":{}{}}}", json_text(&self.kind), json_text(&self.text), self.details)
    }
}

/// A JSON string.
pub(crate) fn json_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What CUDA returns for a fault.
pub(crate) fn code_of(kind: &FaultKind) -> CuResult {
    match kind {
        FaultKind::Check(Check::Bounds | Check::UseAfterFree) => CuResult::ILLEGAL_ADDRESS,
        FaultKind::Check(Check::Alignment) => CuResult::MISALIGNED_ADDRESS,
        FaultKind::Assert => CuResult::ASSERT,
        FaultKind::Illegal => CuResult::ILLEGAL_INSTRUCTION,
        FaultKind::Budget => CuResult::LAUNCH_TIMEOUT,
        _ => CuResult::LAUNCH_FAILED,
    }
}

/// Prints what kernels printed, where `printf` would.
pub(crate) fn print_device_output(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed stdout is the program's own affair.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

impl State {
    /// Says a report on stderr and keeps it.
    pub(crate) fn report(&mut self, report: Report) {
        eprintln!("ptx-emulator: {}", report.text);
        self.reports.push(report);
    }

    /// Whether anything wants the counters of launches.
    pub(crate) fn counters_wanted(&self) -> bool {
        self.settings.keep_counters || self.settings.counters_file.is_some()
    }

    /// Keeps and files a launch's counters.
    pub(crate) fn count_launch(&mut self, launch: &Launch, outcome: &Outcome) {
        if !self.counters_wanted() {
            return;
        }
        let json = launch_json(launch, outcome);
        if let Some(path) = &self.settings.counters_file {
            let written = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|mut file| writeln!(file, "{json}"));
            if let Err(e) = written {
                eprintln!("ptx-emulator: counters not written to {}: {e}", path.display());
            }
        }
        if self.settings.keep_counters {
            self.launches.push(json);
        }
    }
}

/// A launch and its counters as one JSON object.
fn launch_json(launch: &Launch, outcome: &Outcome) -> String {
    format!(
        "{{\"kernel\":{},\"grid\":{:?},\"block\":{:?},\"dynamic_shared\":{},\"registers\":{},\"static_shared\":{},\"counters\":{}}}",
        json_text(&launch.kernel.name),
        launch.config.grid,
        launch.config.block,
        launch.config.dynamic_shared,
        launch.registers,
        launch.kernel.static_shared,
        counters_json(&outcome.counters)
    )
}

/// A launch's counters, all instructions together.
fn counters_json(counters: &Counters) -> String {
    let sum = |of: fn(&InstructionCounts) -> u64| counters.instructions.iter().map(of).sum::<u64>();
    format!(
        "{{\"blocks\":{},\"warps\":{},\"smsp__inst_executed.sum\":{},\"smsp__thread_inst_executed.sum\":{}}}",
        counters.blocks,
        counters.warps,
        sum(|c| c.issued),
        sum(|c| c.lanes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_escapes() {
        assert_eq!(json_text("a\"b\\c\nd\u{1}"), r#""a\"b\\c\nd\u0001""#);
    }

    #[test]
    fn faults_give_cudas_codes() {
        assert_eq!(code_of(&FaultKind::Check(Check::Bounds)), CuResult::ILLEGAL_ADDRESS);
        assert_eq!(code_of(&FaultKind::Check(Check::Alignment)), CuResult::MISALIGNED_ADDRESS);
        assert_eq!(code_of(&FaultKind::Assert), CuResult::ASSERT);
        assert_eq!(code_of(&FaultKind::Budget), CuResult::LAUNCH_TIMEOUT);
        assert_eq!(code_of(&FaultKind::Check(Check::SharedRace)), CuResult::LAUNCH_FAILED);
    }
}

//! What the driver has to say: faults and leaks, on stderr and kept for whoever asks, and counters of launches.

use super::error::CuResult;
use super::launch::Launch;
use super::occupancy::{Limits, Need, WARP};
use super::state::State;
use crate::check::{Check, Fault, FaultKind};
use crate::counters::Counters;
use crate::sass::Executed;
use serde_json::{Value, json};
use std::io::Write as _;

/// One finding.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// As people read it.
    pub(crate) text: String,
    /// As programs do: `kind`, `text`, and for a kernel's fault what it is made of.
    pub(crate) json: Value,
}

impl Report {
    fn new(kind: &str, text: String) -> Report {
        let text = format!("error[{kind}]: {text}");
        Report {
            json: json!({ "kind": kind, "text": text }),
            text,
        }
    }

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
        let text = fault.to_string();
        let (file, line) = fault
            .source
            .as_ref()
            .map(|(file, line)| (file, line))
            .unzip();
        let json = json!({
            "kind": kind, "text": text, "message": fault.message, "kernel": fault.kernel, "block": fault.block,
            "thread": fault.thread, "lanes": fault.lanes, "ptx_line": fault.ptx_line,
            "instruction": fault.instruction, "file": file, "line": line,
        });
        Report { text, json }
    }

    /// A copy or fill of the host's that went wrong.
    pub(crate) fn copy(text: String) -> Report {
        Report::new("copy", text)
    }

    /// Allocations alive when their context goes.
    pub(crate) fn leak(text: String) -> Report {
        Report::new(Check::Leak.name(), text)
    }

    /// The emulator's own mistake.
    pub(crate) fn defect(text: String) -> Report {
        Report::new("defect", text)
    }
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
        if let Some(path) = &self.settings.reports_file {
            append(path, &report.json, "report");
        }
        self.reports.push(report);
    }

    /// Whether anything wants the counters of launches.
    pub(crate) fn counters_wanted(&self) -> bool {
        self.settings.keep_counters || self.settings.counters_file.is_some()
    }

    /// Keeps and files a launch's counters.
    pub(crate) fn keep_launch(&mut self, json: Value) {
        if let Some(path) = &self.settings.counters_file {
            append(path, &json, "counters");
        }
        if self.settings.keep_counters {
            self.launches.push(json);
        }
    }
}

/// Adds a line to a file; where that fails, stderr says what is lost.
fn append(path: &std::path::Path, json: &Value, what: &str) {
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{json}"));
    if let Err(e) = written {
        eprintln!(
            "ptx-emulator: {what} not written to {}: {e}",
            path.display()
        );
    }
}

/// A launch and its counters as one JSON object.
pub(crate) fn launch_json(launch: &Launch, counters: &Counters) -> Value {
    let mut json = counters.to_json(&launch.kernel, &launch.config);
    let executed = Executed::of(&launch.kernel.program, counters);
    json["machine"] = launch.machine.weigh(&launch.kernel.name, &executed);
    occupy(&mut json, launch, counters);
    json
}

/// Adds what the device's figures make of a launch: how many of its blocks an SM holds, and why no more.
fn occupy(json: &mut Value, launch: &Launch, counters: &Counters) {
    let Launch {
        kernel,
        config,
        profile,
        ..
    } = launch;
    let threads: u32 = config.block.iter().product();
    let metrics = &mut json["metrics"];
    metrics["launch__block_size"] = threads.into();
    metrics["launch__grid_size"] = counters.blocks.into();
    metrics["launch__shared_mem_per_block_dynamic"] = config.dynamic_shared.into();
    metrics["launch__shared_mem_per_block_driver"] = profile.shared_reserved_per_block.into();
    metrics["launch__shared_mem_per_block_static"] = kernel.static_shared.into();
    let Some(registers) = launch.registers else {
        let why = format!(
            "the module holds no machine code for sm_{}, so registers are not known",
            profile.sm()
        );
        json["occupancy"] = json!({ "unavailable": why });
        return;
    };
    let limits = Limits::of(
        profile,
        Need {
            threads,
            registers,
            shared: u64::from(kernel.static_shared) + u64::from(config.dynamic_shared),
        },
    );
    let blocks = limits.blocks_per_sm();
    let warps = blocks * threads.div_ceil(WARP);
    metrics["launch__registers_per_thread"] = registers.into();
    metrics["launch__occupancy_limit_blocks"] = limits.blocks.into();
    metrics["launch__occupancy_limit_registers"] = limits.registers.into();
    metrics["launch__occupancy_limit_shared_mem"] = limits.shared.into();
    metrics["launch__occupancy_limit_warps"] = limits.warps.into();
    metrics["sm__maximum_warps_avg_per_active_cycle"] = warps.into();
    let of_most = f64::from(warps * WARP) / f64::from(profile.threads_per_sm);
    metrics["sm__maximum_warps_per_active_cycle_pct"] = (of_most * 100.0).into();
    let room = u64::from(blocks) * u64::from(profile.sm_count);
    if room > 0 {
        metrics["launch__waves_per_multiprocessor"] = (counters.blocks as f64 / room as f64).into();
    }
    metrics["emulator__async_copy_bytes_in_flight_per_sm.max"] =
        (counters.block_bytes_in_flight * u64::from(blocks)).into();
    json["occupancy"] = json!({
        "device": profile.key,
        "blocks_per_sm": blocks,
        "limited_by": limits.binding().collect::<Vec<_>>(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_give_cudas_codes() {
        assert_eq!(
            code_of(&FaultKind::Check(Check::Bounds)),
            CuResult::ILLEGAL_ADDRESS
        );
        assert_eq!(
            code_of(&FaultKind::Check(Check::Alignment)),
            CuResult::MISALIGNED_ADDRESS
        );
        assert_eq!(code_of(&FaultKind::Assert), CuResult::ASSERT);
        assert_eq!(code_of(&FaultKind::Budget), CuResult::LAUNCH_TIMEOUT);
        assert_eq!(
            code_of(&FaultKind::Check(Check::SharedRace)),
            CuResult::LAUNCH_FAILED
        );
    }
}

//! What a launch did, counted, under the names that Nsight Compute uses where it has one.

mod metrics;
mod sectors;

use crate::exec::LaunchConfig;
use crate::exec::module::Kernel;
use crate::exec::program::Program;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

pub use sectors::{SECTOR, SectorSet, Touched};

/// Counts of one launch.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Per PTX instruction of the program.
    pub instructions: Vec<InstructionCounts>,
    /// Blocks run.
    pub blocks: u64,
    /// Warps run.
    pub warps: u64,
    /// Distinct sectors of global memory.
    pub touched: Touched,
    /// The most bytes of asynchronous copies that a block had in flight: of each warp the most that it had
    /// issued and that no wait had made land, summed over the warps; and of that the most of any block.
    ///
    /// Each warp's figure is its own, so that the sum does not depend on how warps take turns; it is what a
    /// block can have in flight at once where nothing keeps its warps from being there together. (Bulk copies
    /// land when anybody waits for their barrier, so theirs may depend on the seed.)
    pub block_bytes_in_flight: u64,
}

/// Accesses of one instruction to one kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp-level accesses with at least one lane.
    pub requests: u64,
    /// Sectors of 32 bytes (global, local), or wavefronts (shared).
    pub passes: u64,
    /// The fewest that the distinct bytes asked for (global, local) or the access width (shared) need.
    pub ideal: u64,
    /// Bytes asked for by active lanes.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.passes += other.passes;
        self.ideal += other.ideal;
        self.bytes += other.bytes;
    }
}

/// Counts of one PTX instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstructionCounts {
    /// Times a warp issued it.
    pub issued: u64,
    /// Lanes that executed it, summed.
    pub lanes: u64,
    /// Global memory.
    pub global: Traffic,
    /// Shared memory.
    pub shared: Traffic,
    /// Local memory.
    pub local: Traffic,
}

impl InstructionCounts {
    fn add(&mut self, other: &InstructionCounts) {
        self.issued += other.issued;
        self.lanes += other.lanes;
        self.global.add(&other.global);
        self.shared.add(&other.shared);
        self.local.add(&other.local);
    }
}

impl Counters {
    /// Zeros for a program of `instructions`.
    pub fn new(instructions: usize) -> Counters {
        Counters {
            instructions: vec![InstructionCounts::default(); instructions],
            ..Counters::default()
        }
    }

    /// Takes in what another part of the same launch did. Blocks and warps are those of the whole launch.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.instructions.iter_mut().zip(&other.instructions) {
            mine.add(theirs);
        }
        self.touched.add(&other.touched);
        self.block_bytes_in_flight = self.block_bytes_in_flight.max(other.block_bytes_in_flight);
    }

    /// Warp instructions issued.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.iter().map(|c| c.issued).sum()
    }

    /// Every metric, by name.
    pub fn metrics(&self, program: &Program) -> BTreeMap<&'static str, u64> {
        metrics::metrics(self, program)
    }

    /// The launch as a JSON object: kernel, shape, metrics, and the source view.
    pub fn to_json(&self, kernel: &Kernel, config: &LaunchConfig) -> Value {
        let mut metrics = Map::new();
        for (name, value) in self.metrics(&kernel.program) {
            metrics.insert(name.into(), json!(value));
        }
        let lines: Vec<Value> = self
            .source_view(&kernel.program)
            .into_iter()
            .map(|l| {
                json!({
                    "file": l.file, "line": l.line, "instructions": l.counts.issued, "lanes": l.counts.lanes,
                    "global_sectors": l.counts.global.passes, "ideal_global_sectors": l.counts.global.ideal,
                    "shared_wavefronts": l.counts.shared.passes, "ideal_shared_wavefronts": l.counts.shared.ideal,
                })
            })
            .collect();
        json!({
            "kernel": kernel.name,
            "grid": config.grid,
            "block": config.block,
            "dynamic_shared": config.dynamic_shared,
            "static_shared": kernel.static_shared,
            "blocks": self.blocks,
            "warps": self.warps,
            "metrics": metrics,
            "source": lines,
        })
    }

    /// Counts by CUDA source line (by PTX line where there is no line information), most instructions first.
    pub fn source_view(&self, program: &Program) -> Vec<SourceLine> {
        let mut lines: BTreeMap<(String, u32), InstructionCounts> = BTreeMap::new();
        for (at, (count, info)) in self.instructions.iter().zip(&program.info).enumerate() {
            if count.issued == 0 {
                continue;
            }
            let key = program
                .source(at)
                .unwrap_or_else(|| ("<ptx>".into(), info.line));
            lines.entry(key).or_default().add(count);
        }
        let mut view: Vec<SourceLine> = lines
            .into_iter()
            .map(|((file, line), counts)| SourceLine { file, line, counts })
            .collect();
        view.sort_by(|a, b| {
            b.counts
                .issued
                .cmp(&a.counts.issued)
                .then_with(|| (&a.file, a.line).cmp(&(&b.file, b.line)))
        });
        view
    }

    /// The metrics and the source view as text.
    pub fn table(&self, kernel: &Kernel, config: &LaunchConfig) -> String {
        let mut out = String::new();
        let [gx, gy, gz] = config.grid;
        let [bx, by, bz] = config.block;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}  ({gx}, {gy}, {gz}) x ({bx}, {by}, {bz})",
            kernel.name
        );
        for (name, value) in self
            .metrics(&kernel.program)
            .into_iter()
            .filter(|(_, v)| *v != 0)
        {
            let _ = writeln!(out, "  {name:<64} {value:>16}");
        }
        let _ = writeln!(
            out,
            "  {:>14} {:>8} {:>8} {:>9}  source",
            "instructions", "lanes", "sec/idl", "conflicts"
        );
        for line in self.source_view(&kernel.program) {
            let c = &line.counts;
            let ratio = if c.global.ideal == 0 {
                "-".into()
            } else {
                format!("{:.2}", c.global.passes as f64 / c.global.ideal as f64)
            };
            let lanes = c.lanes as f64 / c.issued as f64;
            let conflicts = c.shared.passes.saturating_sub(c.shared.ideal);
            let _ = writeln!(
                out,
                "  {:>14} {lanes:>8.1} {ratio:>8} {conflicts:>9}  {}:{}",
                c.issued, line.file, line.line
            );
        }
        out
    }
}

/// A line of the source view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    /// CUDA source file, or `<ptx>`.
    pub file: String,
    /// Line.
    pub line: u32,
    /// Counts of its instructions together.
    pub counts: InstructionCounts,
}

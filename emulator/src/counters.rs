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
    /// Per PTX instruction of the program, how often it was issued.
    issues: Vec<IssueCounts>,
    /// Per PTX instruction of the program, what it did to memory; empty where that is not counted.
    memory: Vec<MemoryCounts>,
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
    const NONE: Traffic = Traffic {
        requests: 0,
        passes: 0,
        ideal: 0,
        bytes: 0,
    };

    fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.passes += other.passes;
        self.ideal += other.ideal;
        self.bytes += other.bytes;
    }
}

/// How often one PTX instruction was issued. Every instruction counts here, so these lie close together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IssueCounts {
    /// Times a warp issued it.
    pub issued: u64,
    /// Lanes that executed it, summed.
    pub lanes: u64,
}

impl IssueCounts {
    /// A warp issues it for the lanes of `mask`.
    #[inline(always)]
    pub fn count(&mut self, mask: u32) {
        self.issued += 1;
        self.lanes += u64::from(mask.count_ones());
    }

    /// Takes back a [`IssueCounts::count`].
    pub fn take_back(&mut self, mask: u32) {
        self.issued -= 1;
        self.lanes -= u64::from(mask.count_ones());
    }

    fn add(&mut self, other: &IssueCounts) {
        self.issued += other.issued;
        self.lanes += other.lanes;
    }
}

/// What one PTX instruction did to memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryCounts {
    /// Global memory.
    pub global: Traffic,
    /// Shared memory.
    pub shared: Traffic,
    /// Local memory.
    pub local: Traffic,
}

impl MemoryCounts {
    fn add(&mut self, other: &MemoryCounts) {
        self.global.add(&other.global);
        self.shared.add(&other.shared);
        self.local.add(&other.local);
    }
}

/// Where warps write down what they do: the places of a [`Counters`], which has to outlive their use.
#[derive(Debug, Clone, Copy)]
pub struct Books {
    /// As many as the program has instructions.
    pub issues: *mut IssueCounts,
    /// As many, where accesses to memory are counted.
    pub memory: *mut MemoryCounts,
    /// Sectors of global memory.
    pub touched: *mut Touched,
}

impl Counters {
    /// Zeros for a program of `instructions`, of whose accesses to memory something is counted `with_memory`.
    pub fn new(instructions: usize, with_memory: bool) -> Counters {
        let counted = if with_memory { instructions } else { 0 };
        Counters {
            issues: vec![IssueCounts::default(); instructions],
            memory: vec![MemoryCounts::default(); counted],
            ..Counters::default()
        }
    }

    /// Takes in what another part of the same launch did. Blocks and warps are those of the whole launch.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.issues.iter_mut().zip(&other.issues) {
            mine.add(theirs);
        }
        for (mine, theirs) in self.memory.iter_mut().zip(&other.memory) {
            mine.add(theirs);
        }
        self.touched.add(&other.touched);
        self.block_bytes_in_flight = self.block_bytes_in_flight.max(other.block_bytes_in_flight);
    }

    /// Where warps count.
    pub fn books(&mut self) -> Books {
        Books {
            issues: self.issues.as_mut_ptr(),
            memory: self.memory.as_mut_ptr(),
            touched: &mut self.touched,
        }
    }

    /// The program's instructions in order: how often each was issued, and what it did to memory.
    pub fn instructions(&self) -> impl DoubleEndedIterator<Item = (&IssueCounts, &MemoryCounts)> {
        const NONE: &MemoryCounts = &MemoryCounts {
            global: Traffic::NONE,
            shared: Traffic::NONE,
            local: Traffic::NONE,
        };
        let memory = |k: usize| self.memory.get(k).unwrap_or(NONE);
        let issues = self.issues.iter().enumerate();
        issues.map(move |(k, issues)| (issues, memory(k)))
    }

    /// Warp instructions issued.
    pub fn warp_instructions(&self) -> u64 {
        self.issues.iter().map(|c| c.issued).sum()
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
                    "file": l.file, "line": l.line, "instructions": l.issues.issued, "lanes": l.issues.lanes,
                    "global_sectors": l.memory.global.passes, "ideal_global_sectors": l.memory.global.ideal,
                    "shared_wavefronts": l.memory.shared.passes, "ideal_shared_wavefronts": l.memory.shared.ideal,
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
        let mut lines: BTreeMap<(String, u32), (IssueCounts, MemoryCounts)> = BTreeMap::new();
        for (at, ((issues, memory), info)) in self.instructions().zip(&program.info).enumerate() {
            if issues.issued == 0 {
                continue;
            }
            let key = program
                .source(at)
                .unwrap_or_else(|| ("<ptx>".into(), info.line));
            let sums = lines.entry(key).or_default();
            sums.0.add(issues);
            sums.1.add(memory);
        }
        let mut view: Vec<SourceLine> = lines
            .into_iter()
            .map(|((file, line), (issues, memory))| SourceLine {
                file,
                line,
                issues,
                memory,
            })
            .collect();
        view.sort_by(|a, b| {
            b.issues
                .issued
                .cmp(&a.issues.issued)
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
            let SourceLine { issues, memory, .. } = &line;
            let ratio = if memory.global.ideal == 0 {
                "-".into()
            } else {
                let (passes, ideal) = (memory.global.passes, memory.global.ideal);
                format!("{:.2}", passes as f64 / ideal as f64)
            };
            let lanes = issues.lanes as f64 / issues.issued as f64;
            let conflicts = memory.shared.passes.saturating_sub(memory.shared.ideal);
            let _ = writeln!(
                out,
                "  {:>14} {lanes:>8.1} {ratio:>8} {conflicts:>9}  {}:{}",
                issues.issued, line.file, line.line
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
    /// How often its instructions were issued, together.
    pub issues: IssueCounts,
    /// What its instructions did to memory, together.
    pub memory: MemoryCounts,
}

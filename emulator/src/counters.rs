//! What a launch did, counted, under the names that Nsight Compute uses where it has one.

use crate::exec::LaunchConfig;
use crate::exec::module::Kernel;
use crate::exec::program::{Pipe, Program};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Counts of one launch.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Per PTX instruction of the program.
    pub instructions: Vec<InstructionCounts>,
    /// Blocks run.
    pub blocks: u64,
    /// Warps run.
    pub warps: u64,
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

/// What an instruction does to memory, for the counters' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Load,
    Store,
    Atomic,
    Reduction,
    None,
}

fn operation(opcode: &str) -> Operation {
    match opcode.split('.').next().unwrap_or("") {
        "ld" | "ldu" | "ldmatrix" | "cp" => Operation::Load,
        "st" | "stmatrix" => Operation::Store,
        "wmma" if opcode.starts_with("wmma.load") => Operation::Load,
        "wmma" if opcode.starts_with("wmma.store") => Operation::Store,
        "atom" | "mbarrier" => Operation::Atomic,
        "red" => Operation::Reduction,
        _ => Operation::None,
    }
}

impl Counters {
    /// Zeros for a program of `instructions`.
    pub fn new(instructions: usize) -> Counters {
        Counters {
            instructions: vec![InstructionCounts::default(); instructions],
            blocks: 0,
            warps: 0,
        }
    }

    /// Adds the instruction counts of another part of the same launch.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.instructions.iter_mut().zip(&other.instructions) {
            mine.add(theirs);
        }
    }

    /// Warp instructions issued.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.iter().map(|c| c.issued).sum()
    }

    /// Every metric, by name.
    pub fn metrics(&self, program: &Program) -> BTreeMap<&'static str, u64> {
        let mut m: BTreeMap<&'static str, u64> = METRICS.iter().map(|n| (*n, 0)).collect();
        let mut add = |name: &'static str, n: u64| *m.entry(name).or_default() += n;
        for (count, info) in self.instructions.iter().zip(&program.info) {
            add("smsp__inst_executed.sum", count.issued);
            add("smsp__thread_inst_executed.sum", count.lanes);
            add(pipe_metric(info.pipe), count.issued);
            let op = operation(&info.opcode);
            let (g, s, l) = (&count.global, &count.shared, &count.local);
            match op {
                Operation::Load => {
                    add(
                        "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
                        g.requests,
                    );
                    add("l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum", g.passes);
                    add("emulator__ideal_sectors_global_op_ld.sum", g.ideal);
                    add("emulator__bytes_global_op_ld.sum", g.bytes);
                    add(
                        "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum",
                        s.passes,
                    );
                    add(
                        "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
                        s.passes - s.ideal.min(s.passes),
                    );
                    add("l1tex__t_sectors_pipe_lsu_mem_local_op_ld.sum", l.passes);
                    add("emulator__bytes_local.sum", l.bytes);
                }
                Operation::Store => {
                    add(
                        "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum",
                        g.requests,
                    );
                    add("l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum", g.passes);
                    add("emulator__ideal_sectors_global_op_st.sum", g.ideal);
                    add("emulator__bytes_global_op_st.sum", g.bytes);
                    add(
                        "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_st.sum",
                        s.passes,
                    );
                    add(
                        "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
                        s.passes - s.ideal.min(s.passes),
                    );
                    add("l1tex__t_sectors_pipe_lsu_mem_local_op_st.sum", l.passes);
                    add("emulator__bytes_local.sum", l.bytes);
                }
                Operation::Atomic => {
                    add(
                        "l1tex__t_requests_pipe_lsu_mem_global_op_atom.sum",
                        g.requests,
                    );
                    add("l1tex__t_sectors_pipe_lsu_mem_global_op_atom.sum", g.passes);
                    add("emulator__requests_shared_op_atom.sum", s.requests);
                }
                Operation::Reduction => {
                    add(
                        "l1tex__t_requests_pipe_lsu_mem_global_op_red.sum",
                        g.requests,
                    );
                    add("l1tex__t_sectors_pipe_lsu_mem_global_op_red.sum", g.passes);
                    add("emulator__requests_shared_op_atom.sum", s.requests);
                }
                Operation::None => {}
            }
            if info.opcode.starts_with("bar.") && !info.opcode.starts_with("bar.warp")
                || info.opcode.starts_with("barrier.")
            {
                add("emulator__barriers.sum", count.issued);
            }
            if info.opcode.starts_with("cp.async.c") {
                add("emulator__bytes_async_copy.sum", g.bytes);
            }
        }
        m
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

/// The metrics that every report has, zero or not.
const METRICS: &[&str] = &[
    "smsp__inst_executed.sum",
    "smsp__thread_inst_executed.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
    "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
    "emulator__bytes_global_op_ld.sum",
    "emulator__bytes_global_op_st.sum",
    "emulator__bytes_local.sum",
    "emulator__bytes_async_copy.sum",
    "emulator__barriers.sum",
];

fn pipe_metric(pipe: Pipe) -> &'static str {
    match pipe {
        Pipe::Alu => "smsp__inst_executed_pipe_alu.sum",
        Pipe::Fma => "smsp__inst_executed_pipe_fma.sum",
        Pipe::Fp16 => "smsp__inst_executed_pipe_fp16.sum",
        Pipe::Fp64 => "smsp__inst_executed_pipe_fp64.sum",
        Pipe::Xu => "smsp__inst_executed_pipe_xu.sum",
        Pipe::Tensor => "smsp__inst_executed_pipe_tensor.sum",
        Pipe::Lsu => "smsp__inst_executed_pipe_lsu.sum",
        Pipe::Control => "smsp__inst_executed_pipe_cbu.sum",
    }
}

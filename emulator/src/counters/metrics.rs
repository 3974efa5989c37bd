//! Metrics by name: Nsight Compute's where it has one, `emulator__…` where it has none.

use super::{Counters, IssueCounts, MemoryCounts, Traffic};
use crate::exec::program::{InstInfo, Pipe, Program};
use std::collections::BTreeMap;

/// What an instruction does to memory, for the names of its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Load,
    Store,
    /// `cp.async`: `LDGSTS` in machine code, which reads global memory and writes shared memory.
    AsyncCopy,
    /// `cp.async.bulk`: past the load and store unit.
    BulkCopy,
    Atomic,
    Reduction,
}

impl Operation {
    fn of(opcode: &str) -> Option<Operation> {
        let mut parts = opcode.split('.');
        let mut next = || parts.next().unwrap_or("");
        Some(match next() {
            "ld" | "ldu" | "ldmatrix" => Operation::Load,
            "st" | "stmatrix" => Operation::Store,
            "cp" => match (next(), next()) {
                ("async", "ca" | "cg") => Operation::AsyncCopy,
                ("async", "bulk") => Operation::BulkCopy,
                // Arrives at a barrier object.
                ("async", "mbarrier") => Operation::Atomic,
                _ => return None,
            },
            "wmma" => match next() {
                "load" => Operation::Load,
                "store" => Operation::Store,
                _ => return None,
            },
            "atom" | "mbarrier" => Operation::Atomic,
            "red" => Operation::Reduction,
            _ => return None,
        })
    }

    /// The names of its counters.
    fn names(self) -> &'static Names {
        match self {
            Operation::Load => &LOAD,
            Operation::Store => &STORE,
            Operation::AsyncCopy => &ASYNC_COPY,
            Operation::BulkCopy => &BULK_COPY,
            Operation::Atomic => &ATOMIC,
            Operation::Reduction => &REDUCTION,
        }
    }
}

/// Names of an operation's counters.
struct Names {
    instructions: Option<&'static str>,
    global: Global,
    shared: Shared,
    local_sectors: Option<&'static str>,
}

struct Global {
    requests: &'static str,
    sectors: &'static str,
    ideal: &'static str,
    bytes: &'static str,
}

struct Shared {
    requests: &'static str,
    wavefronts: &'static str,
    conflicts: &'static str,
}

const LOAD: Names = Names {
    instructions: None,
    global: Global {
        requests: "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",
        sectors: "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
        ideal: "emulator__ideal_sectors_global_op_ld.sum",
        bytes: "emulator__bytes_global_op_ld.sum",
    },
    shared: Shared {
        requests: "emulator__requests_shared_op_ld.sum",
        wavefronts: "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ld.sum",
        conflicts: "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
    },
    local_sectors: Some("l1tex__t_sectors_pipe_lsu_mem_local_op_ld.sum"),
};

const STORE: Names = Names {
    instructions: None,
    global: Global {
        requests: "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum",
        sectors: "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
        ideal: "emulator__ideal_sectors_global_op_st.sum",
        bytes: "emulator__bytes_global_op_st.sum",
    },
    shared: Shared {
        requests: "emulator__requests_shared_op_st.sum",
        wavefronts: "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_st.sum",
        conflicts: "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
    },
    local_sectors: Some("l1tex__t_sectors_pipe_lsu_mem_local_op_st.sum"),
};

const ASYNC_COPY: Names = Names {
    instructions: Some("smsp__inst_executed_op_ldgsts.sum"),
    global: Global {
        requests: "sm__sass_l1tex_t_requests_pipe_lsu_mem_global_op_ldgsts.sum",
        sectors: "sm__sass_l1tex_t_sectors_pipe_lsu_mem_global_op_ldgsts.sum",
        ideal: "emulator__ideal_sectors_global_op_ldgsts.sum",
        bytes: "emulator__bytes_global_op_ldgsts.sum",
    },
    shared: Shared {
        requests: "emulator__requests_shared_op_ldgsts.sum",
        wavefronts: "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_ldgsts.sum",
        conflicts: "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ldgsts.sum",
    },
    local_sectors: None,
};

const BULK_COPY: Names = Names {
    instructions: None,
    global: Global {
        requests: "emulator__requests_global_op_tma_ld.sum",
        sectors: "emulator__sectors_global_op_tma_ld.sum",
        ideal: "emulator__ideal_sectors_global_op_tma_ld.sum",
        bytes: "l1tex__m_xbar2l1tex_read_bytes_mem_global_op_tma_ld.sum",
    },
    shared: Shared {
        requests: "emulator__requests_shared_op_tma_ld.sum",
        wavefronts: "emulator__wavefronts_shared_op_tma_ld.sum",
        conflicts: "emulator__bank_conflicts_shared_op_tma_ld.sum",
    },
    local_sectors: None,
};

const ATOMIC: Names = Names {
    instructions: None,
    global: Global {
        requests: "l1tex__t_requests_pipe_lsu_mem_global_op_atom.sum",
        sectors: "l1tex__t_sectors_pipe_lsu_mem_global_op_atom.sum",
        ideal: "emulator__ideal_sectors_global_op_atom.sum",
        bytes: "emulator__bytes_global_op_atom.sum",
    },
    shared: SHARED_ATOMIC,
    local_sectors: None,
};

const REDUCTION: Names = Names {
    instructions: None,
    global: Global {
        requests: "l1tex__t_requests_pipe_lsu_mem_global_op_red.sum",
        sectors: "l1tex__t_sectors_pipe_lsu_mem_global_op_red.sum",
        ideal: "emulator__ideal_sectors_global_op_red.sum",
        bytes: "emulator__bytes_global_op_red.sum",
    },
    // Machine code has one instruction for both.
    shared: SHARED_ATOMIC,
    local_sectors: None,
};

const SHARED_ATOMIC: Shared = Shared {
    requests: "emulator__requests_shared_op_atom.sum",
    wavefronts: "l1tex__data_pipe_lsu_wavefronts_mem_shared_op_atom.sum",
    conflicts: "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_atom.sum",
};

/// The metrics that every report has, zero or not.
const ALWAYS: &[&str] = &[
    "smsp__inst_executed.sum",
    "smsp__thread_inst_executed.sum",
    LOAD.global.requests,
    LOAD.global.sectors,
    LOAD.global.bytes,
    STORE.global.requests,
    STORE.global.sectors,
    STORE.global.bytes,
    LOAD.shared.conflicts,
    STORE.shared.conflicts,
    "emulator__bytes_distinct_sectors_global_read.sum",
    "emulator__bytes_distinct_sectors_global_written.sum",
    "emulator__bytes_local.sum",
    "emulator__bytes_async_copy.sum",
    "emulator__async_copy_bytes_in_flight_per_block.max",
    "emulator__barriers.sum",
];

/// Metrics by name.
#[derive(Default)]
struct Sums(BTreeMap<&'static str, u64>);

impl Sums {
    fn add(&mut self, name: &'static str, n: u64) {
        *self.0.entry(name).or_default() += n;
    }

    /// As [`Sums::add`], without an entry for nothing.
    fn add_some(&mut self, name: &'static str, n: u64) {
        if n != 0 {
            self.add(name, n);
        }
    }

    fn global(&mut self, names: &Global, traffic: &Traffic) {
        self.add_some(names.requests, traffic.requests);
        self.add_some(names.sectors, traffic.passes);
        self.add_some(names.ideal, traffic.ideal);
        self.add_some(names.bytes, traffic.bytes);
    }

    fn shared(&mut self, names: &Shared, traffic: &Traffic) {
        self.add_some(names.requests, traffic.requests);
        self.add_some(names.wavefronts, traffic.passes);
        self.add_some(
            names.conflicts,
            traffic.passes.saturating_sub(traffic.ideal),
        );
    }

    fn instruction(&mut self, (issues, memory): (&IssueCounts, &MemoryCounts), info: &InstInfo) {
        self.add("smsp__inst_executed.sum", issues.issued);
        self.add("smsp__thread_inst_executed.sum", issues.lanes);
        self.add(pipe(info.pipe), issues.issued);
        if is_barrier(&info.opcode) {
            self.add("emulator__barriers.sum", issues.issued);
        }
        let Some(operation) = Operation::of(&info.opcode) else {
            return;
        };
        let names = operation.names();
        if let Some(instructions) = names.instructions {
            self.add(instructions, issues.issued);
        }
        self.global(&names.global, &memory.global);
        self.shared(&names.shared, &memory.shared);
        if let Some(sectors) = names.local_sectors {
            self.add_some(sectors, memory.local.passes);
        }
        self.add("emulator__bytes_local.sum", memory.local.bytes);
        if matches!(operation, Operation::AsyncCopy | Operation::BulkCopy) {
            self.add("emulator__bytes_async_copy.sum", memory.global.bytes);
        }
    }
}

/// Every metric of a launch, by name.
pub(super) fn metrics(counters: &Counters, program: &Program) -> BTreeMap<&'static str, u64> {
    let mut sums = Sums(ALWAYS.iter().map(|name| (*name, 0)).collect());
    for (counts, info) in counters.instructions().zip(&program.info) {
        sums.instruction(counts, info);
    }
    let touched = &counters.touched;
    for (name, set) in [
        (
            "emulator__bytes_distinct_sectors_global_read.sum",
            &touched.read,
        ),
        (
            "emulator__bytes_distinct_sectors_global_written.sum",
            &touched.written,
        ),
    ] {
        sums.add(name, set.len() * super::sectors::SECTOR);
    }
    sums.add(
        "emulator__async_copy_bytes_in_flight_per_block.max",
        counters.block_bytes_in_flight,
    );
    sums.0
}

fn is_barrier(opcode: &str) -> bool {
    opcode.starts_with("bar.") && !opcode.starts_with("bar.warp") || opcode.starts_with("barrier.")
}

fn pipe(pipe: Pipe) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_by_opcode() {
        for (opcode, expected) in [
            ("ld.global.u32", Some(Operation::Load)),
            (
                "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
                Some(Operation::Load),
            ),
            (
                "wmma.load.a.sync.aligned.row.m16n16k16.f16",
                Some(Operation::Load),
            ),
            (
                "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f16.f16.f32",
                None,
            ),
            (
                "cp.async.cg.shared.global.L2::128B",
                Some(Operation::AsyncCopy),
            ),
            ("cp.async.commit_group", None),
            (
                "cp.async.mbarrier.arrive.noinc.shared.b64",
                Some(Operation::Atomic),
            ),
            (
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes",
                Some(Operation::BulkCopy),
            ),
            ("red.global.add.u32", Some(Operation::Reduction)),
            ("redux.sync.add.s32", None),
            ("add.f32", None),
        ] {
            assert_eq!(Operation::of(opcode), expected, "{opcode}");
        }
    }
}

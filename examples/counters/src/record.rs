//! What was counted of a configuration.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kv_kernels::embedded::RESOURCES;
use ptx_emulator::profile::Profile;
use serde::Serialize;
use serde_json::Value;

use crate::config::{Config, Splits};
use crate::device::Launched;

/// A configuration's figures, over all of its launches. Serialised, the fields are an object of
/// `cargo xtask counters --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// What was launched: `decode`, `append`, `step`, `quantize` …
    pub op: &'static str,
    /// Element type.
    pub dtype: &'static str,
    /// How the cache lies: `contiguous`.
    pub layout: &'static str,
    /// Tokens of a page, where there are pages.
    pub page_size: Option<u64>,
    /// Elements of a vector.
    pub head_dim: u64,
    /// Query heads that share a KV head.
    pub group_size: u64,
    /// KV heads.
    pub num_kv_heads: u64,
    /// Sequences.
    pub batch: u64,
    /// Tokens attended to (append: of the sequence, of which one is appended).
    pub seq_len: u64,
    /// Splits of each sequence.
    pub num_splits: u64,
    /// Whether that is the plan's own number.
    pub planned: bool,
    /// Tokens of a split, rounded up.
    pub tokens_per_split: u64,
    /// Emulated device.
    pub device: &'static str,
    /// Kernels launched, in order.
    pub kernels: Vec<String>,
    /// Kernel launches.
    pub launches: u64,
    /// Thread blocks.
    pub blocks: u64,
    /// PTX instructions that warps executed.
    pub warp_instructions: u64,
    /// Bytes of K and V of the tokens attended to (append: appended), once; of operations on the whole of K, bytes read
    /// and written.
    pub kv_bytes: u64,
    /// Bytes of the queries.
    pub q_bytes: u64,
    /// Bytes that threads asked of global memory, asynchronous copies included.
    pub global_load_bytes: u64,
    /// Bytes that threads wrote to global memory, atomics included.
    pub global_store_bytes: u64,
    /// Sectors of 32 bytes that the requests for both took.
    pub global_sectors: u64,
    /// The fewest that each request's bytes could have taken.
    pub ideal_sectors: u64,
    /// Bytes of the distinct sectors read.
    pub distinct_read_bytes: u64,
    /// Bytes of the distinct sectors written.
    pub distinct_written_bytes: u64,
    /// Wavefronts of shared memory beyond the fewest.
    pub shared_bank_conflicts: u64,
    /// The same for each block: what does not grow with its tokens is not in its loop over them.
    pub bank_conflicts_per_block: f64,
    /// Bytes of local memory touched.
    pub local_bytes: u64,
    /// Registers a thread, of the device's machine code.
    pub registers: Option<u64>,
    /// Bytes a thread that ptxas spills, stores and loads, in the device's machine code.
    pub spill_bytes: Option<u64>,
    /// `kv_bytes` ÷ `warp_instructions`.
    pub kv_bytes_per_warp_instruction: f64,
    /// `kv_bytes` ÷ machine instructions, in the device's machine code.
    pub kv_bytes_per_machine_instruction: Option<f64>,
    /// `global_load_bytes` ÷ (`kv_bytes` + `q_bytes`).
    pub global_load_ratio: f64,
    /// `global_sectors` ÷ `ideal_sectors`.
    pub sector_ratio: f64,
    /// Blocks that an SM of the device holds at once.
    pub blocks_per_sm: Option<u64>,
    /// What keeps it from holding more.
    pub limited_by: Vec<String>,
    /// Blocks ÷ those that the device holds at once.
    pub waves: Option<f64>,
    /// Bytes that a block's asynchronous copies have in flight, at most.
    pub bytes_in_flight_per_block: u64,
    /// The same for an SM that holds all the blocks it can.
    pub bytes_in_flight_per_sm: Option<u64>,
    /// Machine code by architecture.
    pub machine: BTreeMap<String, Machine>,
}

/// What the machine code of one architecture makes of a configuration.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Machine {
    /// Instructions that warps issue.
    pub instructions: Option<u64>,
    /// Of these, the part whose count is an estimate.
    pub estimated: Option<f64>,
    /// `kv_bytes` ÷ `instructions`.
    pub kv_bytes_per_instruction: Option<f64>,
    /// Registers a thread, the most of any kernel.
    pub registers: Option<u64>,
    /// Bytes a thread that ptxas spills.
    pub spill_bytes: Option<u64>,
    /// Why there are no figures, where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

impl Record {
    /// The figures of a configuration that was launched on a device.
    pub fn new(config: &Config, profile: &Profile, launched: &Launched) -> Result<Record> {
        let launches = &launched.launches;
        ensure!(!launches.is_empty(), "{config}: nothing was launched");
        let sum = |names: &[&str]| -> u64 {
            let metrics = launches.iter().map(|launch| &launch["metrics"]);
            metrics
                .flat_map(|m| names.iter().filter_map(|name| m[*name].as_u64()))
                .sum()
        };
        let most = |name: &str| {
            let metrics = launches.iter().map(|launch| &launch["metrics"]);
            metrics.filter_map(|m| m[name].as_u64()).max()
        };
        let kernels: Vec<String> = launches
            .iter()
            .map(|launch| launch["kernel"].as_str().unwrap_or_default().to_owned())
            .collect();
        // Occupancy is that of the launch with most to do.
        let main = launches
            .iter()
            .max_by_key(|launch| launch["metrics"][INSTRUCTIONS].as_u64())
            .context("nothing was launched")?;
        let (kv_bytes, q_bytes) = (config.kv_bytes(), config.q_bytes());
        let warp_instructions = sum(&[INSTRUCTIONS]);
        let global_load_bytes = sum(LOAD_BYTES);
        let (global_sectors, ideal_sectors) = (sum(SECTORS), sum(IDEAL_SECTORS));
        let blocks = launches.iter().filter_map(|l| l["blocks"].as_u64()).sum();
        let shared_bank_conflicts = sum(CONFLICTS);
        let machine = machine(launches, &kernels, kv_bytes);
        // Machine code serves the later minors of its major.
        let own = machine.get(&format!("sm_{}0", profile.compute_capability.0));
        let num_splits = u64::from(launched.num_splits);
        Ok(Record {
            op: config.op.name(),
            dtype: config.dtype.name(),
            layout: "contiguous",
            page_size: None,
            head_dim: config.head_dim as u64,
            group_size: config.group_size as u64,
            num_kv_heads: config.num_kv_heads as u64,
            batch: config.batch as u64,
            seq_len: config.seq_len as u64,
            num_splits,
            planned: config.num_splits == Splits::Planned,
            tokens_per_split: (config.seq_len as u64).div_ceil(num_splits),
            device: profile.key,
            launches: launches.len() as u64,
            blocks,
            warp_instructions,
            kv_bytes,
            q_bytes,
            global_load_bytes,
            global_store_bytes: sum(STORE_BYTES),
            global_sectors,
            ideal_sectors,
            distinct_read_bytes: sum(&["emulator__bytes_distinct_sectors_global_read.sum"]),
            distinct_written_bytes: sum(&["emulator__bytes_distinct_sectors_global_written.sum"]),
            shared_bank_conflicts,
            bank_conflicts_per_block: ratio(shared_bank_conflicts, blocks),
            local_bytes: sum(&["emulator__bytes_local.sum"]),
            registers: own.and_then(|own| own.registers),
            spill_bytes: own.and_then(|own| own.spill_bytes),
            kv_bytes_per_warp_instruction: ratio(kv_bytes, warp_instructions),
            kv_bytes_per_machine_instruction: own.and_then(|own| own.kv_bytes_per_instruction),
            global_load_ratio: ratio(global_load_bytes, kv_bytes + q_bytes),
            sector_ratio: ratio(global_sectors, ideal_sectors),
            blocks_per_sm: main["occupancy"]["blocks_per_sm"].as_u64(),
            limited_by: strings(&main["occupancy"]["limited_by"]),
            waves: main["metrics"]["launch__waves_per_multiprocessor"].as_f64(),
            bytes_in_flight_per_block: most("emulator__async_copy_bytes_in_flight_per_block.max")
                .unwrap_or(0),
            bytes_in_flight_per_sm: most("emulator__async_copy_bytes_in_flight_per_sm.max"),
            machine,
            kernels,
        })
    }
}

const INSTRUCTIONS: &str = "smsp__inst_executed.sum";
const LOAD_BYTES: &[&str] = &[
    "emulator__bytes_global_op_ld.sum",
    "emulator__bytes_global_op_ldgsts.sum",
    "l1tex__m_xbar2l1tex_read_bytes_mem_global_op_tma_ld.sum",
];
const STORE_BYTES: &[&str] = &[
    "emulator__bytes_global_op_st.sum",
    "emulator__bytes_global_op_red.sum",
    "emulator__bytes_global_op_atom.sum",
];
const SECTORS: &[&str] = &[
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
    "sm__sass_l1tex_t_sectors_pipe_lsu_mem_global_op_ldgsts.sum",
    "emulator__sectors_global_op_tma_ld.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_red.sum",
    "l1tex__t_sectors_pipe_lsu_mem_global_op_atom.sum",
];
const IDEAL_SECTORS: &[&str] = &[
    "emulator__ideal_sectors_global_op_ld.sum",
    "emulator__ideal_sectors_global_op_ldgsts.sum",
    "emulator__ideal_sectors_global_op_tma_ld.sum",
    "emulator__ideal_sectors_global_op_st.sum",
    "emulator__ideal_sectors_global_op_red.sum",
    "emulator__ideal_sectors_global_op_atom.sum",
];
const CONFLICTS: &[&str] = &[
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ldgsts.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_atom.sum",
    "emulator__bank_conflicts_shared_op_tma_ld.sum",
];

fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// Machine instructions of all launches together, by architecture.
fn machine(launches: &[Value], kernels: &[String], kv_bytes: u64) -> BTreeMap<String, Machine> {
    let mut all = BTreeMap::new();
    let archs = launches[0]["machine"].as_object().into_iter().flatten();
    for (arch, _) in archs.filter(|(arch, _)| arch.starts_with("sm_")) {
        let each: Vec<&Value> = launches.iter().map(|l| &l["machine"][arch]).collect();
        let sum =
            |of: &dyn Fn(&Value) -> Option<u64>| each.iter().map(|l| of(l)).sum::<Option<u64>>();
        let instructions = sum(&|launch| launch["instructions"].as_u64());
        let estimated = sum(&|launch| {
            let by_basis = launch["by_basis"].as_object()?;
            let named = ["votes", "assumed"].iter();
            Some(named.filter_map(|name| by_basis.get(*name)?.as_u64()).sum())
        });
        let machine = Machine {
            instructions,
            estimated: estimated
                .zip(instructions)
                .map(|(estimated, all)| ratio(estimated, all)),
            kv_bytes_per_instruction: instructions.map(|all| ratio(kv_bytes, all)),
            registers: each.iter().filter_map(|l| l["registers"].as_u64()).max(),
            spill_bytes: spills(kernels, arch),
            unavailable: each
                .iter()
                .find_map(|l| l["unavailable"].as_str().map(str::to_owned)),
        };
        all.insert(arch.clone(), machine);
    }
    all
}

/// What ptxas said it spills of a thread's registers, in all these kernels together.
fn spills(kernels: &[String], arch: &str) -> Option<u64> {
    let arch = arch.trim_start_matches("sm_");
    let of = |kernel: &String| {
        let mut built = RESOURCES.iter();
        let found = built.find(|r| r.kernel == kernel && r.arch == arch)?;
        Some(u64::from(found.spill_store_bytes + found.spill_load_bytes))
    };
    kernels.iter().map(of).sum()
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::tests::CONFIG;

    /// A launch as the emulator reports it, of round figures.
    fn launch(kernel: &str, instructions: u64) -> Value {
        json!({
            "kernel": kernel, "blocks": 16,
            "metrics": {
                INSTRUCTIONS: instructions,
                "emulator__bytes_global_op_ld.sum": 1000,
                "emulator__bytes_global_op_ldgsts.sum": CONFIG.kv_bytes(),
                "emulator__bytes_global_op_st.sum": 64,
                "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum": 40,
                "emulator__ideal_sectors_global_op_ld.sum": 32,
                "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum": 3,
                "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ldgsts.sum": 2,
                "emulator__async_copy_bytes_in_flight_per_block.max": 4096,
                "emulator__async_copy_bytes_in_flight_per_sm.max": 3 * 4096,
                "launch__waves_per_multiprocessor": 0.5,
            },
            "occupancy": { "blocks_per_sm": 3, "limited_by": ["registers"] },
            "machine": {
                "sm_80": { "unavailable": "of other PTX" },
                "sm_90": {
                    "instructions": instructions / 2, "registers": 100 + instructions / 1000,
                    "by_basis": { "anchored": instructions / 4, "votes": instructions / 4 },
                },
            },
        })
    }

    /// A record for the tests of other parts.
    pub fn record() -> Record {
        let launched = Launched {
            num_splits: 3,
            launches: vec![launch("a", 1000), launch("b", 3000)],
        };
        Record::new(&CONFIG, Profile::by_key("h100").unwrap(), &launched).unwrap()
    }

    #[test]
    fn figures_of_several_launches_together() {
        let record = record();
        assert_eq!((record.launches, record.blocks), (2, 32));
        assert_eq!(record.warp_instructions, 4000);
        assert_eq!(record.global_load_bytes, 2 * (1000 + CONFIG.kv_bytes()));
        assert_eq!((record.global_sectors, record.ideal_sectors), (80, 64));
        assert_eq!(record.sector_ratio, 1.25);
        assert_eq!(record.shared_bank_conflicts, 10);
        assert_eq!(record.bank_conflicts_per_block, 10.0 / 32.0);
        assert_eq!(record.tokens_per_split, 334);
        assert_eq!(
            record.kv_bytes_per_warp_instruction,
            CONFIG.kv_bytes() as f64 / 4000.0
        );
        let hopper = &record.machine["sm_90"];
        assert_eq!(
            (hopper.instructions, hopper.registers),
            (Some(2000), Some(103))
        );
        assert_eq!(hopper.estimated, Some(0.5));
        assert_eq!(record.registers, Some(103), "the device's own");
        assert_eq!(
            record.kv_bytes_per_machine_instruction,
            hopper.kv_bytes_per_instruction
        );
        assert_eq!(
            (
                record.bytes_in_flight_per_block,
                record.bytes_in_flight_per_sm
            ),
            (4096, Some(12288))
        );
        let ampere = &record.machine["sm_80"];
        assert_eq!(ampere.instructions, None);
        assert_eq!(ampere.unavailable.as_deref(), Some("of other PTX"));
    }

    #[test]
    fn the_names_that_tools_read() {
        let json = serde_json::to_value(record()).unwrap();
        for name in [
            "op",
            "dtype",
            "layout",
            "page_size",
            "head_dim",
            "group_size",
            "num_kv_heads",
            "batch",
            "seq_len",
            "num_splits",
            "launches",
            "blocks",
            "warp_instructions",
            "kv_bytes",
            "global_load_bytes",
            "global_store_bytes",
            "global_sectors",
            "ideal_sectors",
            "shared_bank_conflicts",
            "local_bytes",
            "registers",
            "spill_bytes",
            "kv_bytes_per_warp_instruction",
            "kv_bytes_per_machine_instruction",
        ] {
            assert!(json.get(name).is_some(), "{name}: {json}");
        }
    }
}

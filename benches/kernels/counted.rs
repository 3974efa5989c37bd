//! Without a GPU: what the launches did, as the emulator counted it.

use kv_kernels::Kernels;
use serde_json::Value;

use crate::workload::{Op, Workload, cases};
use ptx_emulator::Emulator;

/// Batch and cached tokens.
const SIZES: [(usize, usize); 3] = [(1, 4095), (4, 1023), (16, 127)];

pub fn run(emulator: Emulator) -> Result<(), Box<dyn std::error::Error>> {
    let ctx = kv_kernels::open(0)?;
    let stream = ctx.default_stream();
    let kernels = Kernels::new(&ctx)?;
    // The tests run with every check on; these runs are for their counters.
    emulator.set_checks("none")?;
    println!("no GPU: counts of what was executed, and no times");
    println!(
        "{:<11} {:<22} {:>8} {:>7} {:>12} {:>13} {:>9} {:>8} {:>9} {:>9}",
        "op",
        "case",
        "launches",
        "blocks",
        "fewest bytes",
        "bytes moved",
        "moved/few",
        "sec/idl",
        "conflicts",
        "KV B/inst"
    );
    for op in Op::ALL {
        for case in cases(&SIZES) {
            let mut workload = Workload::new(&kernels, &stream, case, 1)?;
            stream.synchronize()?;
            emulator.keep_counters(true)?;
            workload.launch(op, 0, &stream)?;
            stream.synchronize()?;
            let launches: Value = serde_json::from_str(&emulator.take_counters()?)?;
            emulator.keep_counters(false)?;
            let launches = launches.as_array().ok_or("the counters are no list")?;
            let sum = |names: &[&str]| -> u64 {
                let of_launch = |launch: &Value| -> u64 {
                    let of_name = |name: &&str| launch["metrics"][*name].as_u64();
                    names.iter().filter_map(of_name).sum()
                };
                launches.iter().map(of_launch).sum()
            };
            let blocks: u64 = launches.iter().filter_map(|l| l["blocks"].as_u64()).sum();
            let moved = sum(&[
                "emulator__bytes_global_op_ld.sum",
                "emulator__bytes_global_op_st.sum",
            ]);
            let sectors = sum(&[
                "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
                "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum",
            ]);
            let ideal = sum(&[
                "emulator__ideal_sectors_global_op_ld.sum",
                "emulator__ideal_sectors_global_op_st.sum",
            ]);
            let conflicts = sum(&[
                "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum",
                "l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_st.sum",
            ]);
            let instructions = sum(&["smsp__inst_executed.sum"]);
            let fewest = case.fewest_bytes(op);
            let kv_bytes_per_instruction = match op {
                Op::Append => "-".to_owned(),
                Op::Decode | Op::Step | Op::DecodeInt8 | Op::StepInt8 => {
                    format!("{:.1}", case.kv_bytes(op) as f64 / instructions as f64)
                }
                // K alone, and what it is converted to or from.
                Op::Quantize | Op::Dequantize => {
                    format!("{:.1}", fewest as f64 / instructions as f64)
                }
            };
            println!(
                "{op:<11} {case:<22} {:>8} {blocks:>7} {fewest:>12} {moved:>13} {:>9.3} {:>8.3} {conflicts:>9} {kv_bytes_per_instruction:>9}",
                launches.len(),
                moved as f64 / fewest as f64,
                sectors as f64 / ideal as f64,
            );
        }
    }
    Ok(())
}

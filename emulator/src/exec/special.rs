//! Slots that hold constants and special registers.

use super::block::Block;
use super::lanes::Lane;
use super::launch::LaunchState;
use super::program::{Program, SpecialSlot};
use super::shared::RESERVED;
use super::warp::Warp;

/// Special registers that never change while a block runs, and their width in bits.
/// Clocks and the active mask are not among them: reading those is an instruction of its own.
pub fn width(name: &str) -> Option<u32> {
    Some(match name {
        "%tid.x"
        | "%tid.y"
        | "%tid.z"
        | "%ntid.x"
        | "%ntid.y"
        | "%ntid.z"
        | "%ctaid.x"
        | "%ctaid.y"
        | "%ctaid.z"
        | "%nctaid.x"
        | "%nctaid.y"
        | "%nctaid.z"
        | "%laneid"
        | "%warpid"
        | "%nwarpid"
        | "%smid"
        | "%nsmid"
        | "%lanemask_eq"
        | "%lanemask_le"
        | "%lanemask_lt"
        | "%lanemask_ge"
        | "%lanemask_gt"
        | "%total_smem_size"
        | "%dynamic_smem_size"
        | "%aggr_smem_size"
        | "%clusterid.x"
        | "%clusterid.y"
        | "%clusterid.z"
        | "%nclusterid.x"
        | "%nclusterid.y"
        | "%nclusterid.z"
        | "%cluster_ctaid.x"
        | "%cluster_ctaid.y"
        | "%cluster_ctaid.z"
        | "%cluster_nctaid.x"
        | "%cluster_nctaid.y"
        | "%cluster_nctaid.z"
        | "%cluster_ctarank"
        | "%cluster_nctarank"
        | "%reserved_smem_offset_begin"
        | "%reserved_smem_offset_end"
        | "%reserved_smem_offset_cap"
        | "%reserved_smem_offset_0"
        | "%reserved_smem_offset_1"
        | "%envreg1"
        | "%envreg2" => 32,
        "%gridid" => 64,
        "%is_explicit_cluster" => 1,
        _ => return None,
    })
}

/// Whether the program reaches for the shared memory that the system keeps.
pub fn wants_reserved(program: &Program) -> bool {
    let reserved = |name: &str| name.starts_with("%reserved_smem_offset_");
    program.specials.iter().any(|s| reserved(&s.name))
}

/// Whether the program asks where the grid's workspace is, in which its blocks meet.
pub fn wants_workspace(program: &Program) -> bool {
    let asked = |name: &str| matches!(name, "%envreg1" | "%envreg2");
    program.specials.iter().any(|s| asked(&s.name))
}

/// Broadcasts the program's constants into a fresh register file.
pub fn fill_constants(program: &Program, warp: &Warp) {
    for &(slot, bits, wide) in &program.constants {
        // SAFETY: constant slots lie in the register file, and have the width noted.
        unsafe {
            if wide {
                u64::store(warp.slot(slot), [bits; 32], u32::MAX);
            } else {
                u32::store(warp.slot(slot), [bits as u32; 32], u32::MAX);
            }
        }
    }
}

/// Whether a special register is each lane's own. Those are the same in every block.
fn is_of_lane(name: &str) -> bool {
    name.starts_with("%tid") || name.starts_with("%lane")
}

/// Fills in the special registers that tell a warp's lanes apart.
pub fn fill_lanes(program: &Program, warp: &Warp, launch: &LaunchState, block: &Block) {
    for special in program.specials.iter().filter(|s| is_of_lane(&s.name)) {
        let values: [u64; 32] = std::array::from_fn(|lane| {
            value(&special.name, lane as u32, warp.index, launch, block)
        });
        put(warp, special, values);
    }
}

/// Fills in the other special registers for the block that `warp` is part of now.
pub fn fill_specials(program: &Program, warp: &Warp, launch: &LaunchState, block: &Block) {
    for special in program.specials.iter().filter(|s| !is_of_lane(&s.name)) {
        let value = value(&special.name, 0, warp.index, launch, block);
        put(warp, special, [value; 32]);
    }
}

fn put(warp: &Warp, special: &SpecialSlot, values: [u64; 32]) {
    // SAFETY: special slots lie in the register file, and have the width that `width` says.
    unsafe {
        match width(&special.name) {
            Some(64) => u64::store(warp.slot(special.slot), values, u32::MAX),
            Some(1) => bool::store(warp.slot(special.slot), values.map(|v| v != 0), u32::MAX),
            _ => u32::store(warp.slot(special.slot), values.map(|v| v as u32), u32::MAX),
        }
    }
}

fn value(name: &str, lane: u32, warp: u32, launch: &LaunchState, block: &Block) -> u64 {
    let config = &launch.config;
    let axis = |values: [u32; 3]| match name.as_bytes().last() {
        Some(b'x') => values[0],
        Some(b'y') => values[1],
        _ => values[2],
    };
    let [bx, by, _] = config.block;
    let linear = warp * 32 + lane;
    let within = |k: usize| block.index[k] % config.cluster[k];
    let shared = block.shared.len() as u32;
    let bits = match name.split('.').next().unwrap_or(name) {
        "%tid" => axis([linear % bx, linear / bx % by, linear / bx / by]),
        "%ntid" => axis(config.block),
        "%ctaid" => axis(block.index),
        "%nctaid" => axis(config.grid),
        "%laneid" => lane,
        "%warpid" => warp,
        "%nwarpid" => launch.profile.threads_per_sm / 32,
        "%smid" => (block.linear % u64::from(launch.profile.sm_count)) as u32,
        "%nsmid" => launch.profile.sm_count,
        "%lanemask_eq" => 1 << lane,
        "%lanemask_lt" => (1 << lane) - 1,
        "%lanemask_le" => ((1 << lane) - 1) | (1 << lane),
        "%lanemask_gt" => !(((1 << lane) - 1) | (1 << lane)),
        "%lanemask_ge" => !((1 << lane) - 1),
        "%total_smem_size" | "%aggr_smem_size" => shared,
        "%dynamic_smem_size" => config.dynamic_shared,
        "%clusterid" => axis(std::array::from_fn(|k| block.index[k] / config.cluster[k])),
        "%nclusterid" => axis(std::array::from_fn(|k| config.grid[k] / config.cluster[k])),
        "%cluster_ctaid" => axis(std::array::from_fn(within)),
        "%cluster_nctaid" => axis(config.cluster),
        "%cluster_ctarank" => {
            within(0) + config.cluster[0] * (within(1) + config.cluster[1] * within(2))
        }
        "%cluster_nctarank" => config.cluster.iter().product(),
        "%is_explicit_cluster" => u32::from(config.cluster != [1, 1, 1]),
        "%gridid" => return launch.serial,
        "%reserved_smem_offset_begin" | "%reserved_smem_offset_0" => {
            block.shared.reserved().start as u32
        }
        "%reserved_smem_offset_1" => (block.shared.reserved().start + RESERVED / 2) as u32,
        "%reserved_smem_offset_end" => block.shared.reserved().end as u32,
        "%reserved_smem_offset_cap" => block.shared.reserved().len() as u32,
        "%envreg1" => (launch.workspace() >> 32) as u32,
        "%envreg2" => launch.workspace() as u32,
        _ => unreachable!("`width` knows no other"),
    };
    u64::from(bits)
}

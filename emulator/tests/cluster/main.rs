//! Clusters and distributed shared memory: the toolkit's own ways to use them, broken versions of those, each
//! instruction by itself, and launches through the driver.

mod asynchronous;
#[path = "../common/mod.rs"]
mod common;
mod driver;
mod forms;
mod mutants;
mod proxies;
#[path = "../support/mod.rs"]
mod support;

use mutants::MUTANTS;
use ptx_emulator::check::{Check, FaultKind};
use ptx_emulator::run::{Arg, Finished, RunError, Setup, run};
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/kernels.cu")
}

fn compile(nvcc: &Path, mutant: u32) -> String {
    let define = format!("-DMUTANT={mutant}");
    let flags = ["-arch=compute_90", &define];
    support::compile(nvcc, &source(), &flags, &format!("cluster{mutant}"))
}

fn numbers(count: u32) -> Vec<u32> {
    (0..count).map(|k| k * 2654435761 % 100_003).collect()
}

/// Runs one of the kernels on its input.
fn launch(ptx: &str, kernel: &str, seed: Option<u64>) -> Result<Finished, RunError> {
    // One host thread: an order is its seed's alone, and a report the same every time.
    let setup = |grid: [u32; 3], threads: u32| Setup {
        grid,
        block: [threads, 1, 1],
        seed,
        threads: 1,
        ..Setup::default()
    };
    match kernel {
        "histogram" => {
            let input: Vec<u8> = numbers(3000).iter().map(|v| *v as u8).collect();
            let args = [Arg::Buffer(input), Arg::words(&[0; 256]), Arg::U32(3000)];
            run(ptx, kernel, &args, &setup([8, 1, 1], 96))
        }
        "ring" => {
            let args = [
                Arg::words(&numbers(16 * 64)),
                Arg::Uninit(16 * 64 * 4),
                Arg::U32(5),
            ];
            let setup = Setup {
                cluster: Some([8, 1, 1]),
                ..setup([16, 1, 1], 64)
            };
            run(ptx, kernel, &args, &setup)
        }
        "gather" => {
            let args = [Arg::words(&numbers(16 * 32)), Arg::Uninit(16 * 32 * 4)];
            run(ptx, kernel, &args, &setup([4, 4, 1], 32))
        }
        "tell" => {
            let args = [Arg::words(&numbers(64)), Arg::Uninit(64 * 4)];
            run(ptx, kernel, &args, &setup([2, 1, 1], 64))
        }
        "push" => {
            let args = [Arg::words(&numbers(8 * 64)), Arg::Uninit(8 * 7 * 64 * 4)];
            run(ptx, kernel, &args, &setup([8, 1, 1], 64))
        }
        "pool" => {
            let args = [Arg::words(&numbers(8 * 64)), Arg::words(&[0; 192])];
            run(ptx, kernel, &args, &setup([8, 1, 1], 64))
        }
        _ => {
            let args = [Arg::words(&numbers(256)), Arg::Uninit(4 * 256 * 4)];
            run(ptx, kernel, &args, &setup([4, 1, 1], 64))
        }
    }
}

/// What each kernel leaves, by a plain loop.
fn expected(kernel: &str) -> Vec<u32> {
    match kernel {
        "histogram" => {
            // Two clusters count the same numbers.
            let mut bins = vec![0; 256];
            numbers(3000)
                .iter()
                .for_each(|v| bins[(*v as u8) as usize] += 2);
            bins
        }
        "ring" => {
            let input = numbers(16 * 64);
            (0..16 * 64)
                .map(|k| {
                    let (cluster, block, at) = (k / 512, k / 64 % 8, k % 64);
                    input[cluster * 512 + (block + 8 - 5) % 8 * 64 + at] + 5
                })
                .collect()
        }
        "gather" => {
            let input = numbers(16 * 32);
            (0..16 * 32)
                .map(|k| {
                    let (x, y, at) = (k / 32 % 4, k / 128, k % 32);
                    let (first_x, first_y) = (x / 2 * 2, y / 2 * 2);
                    let others = [(0, 0), (1, 0), (0, 1), (1, 1)];
                    let sum: u32 = others
                        .iter()
                        .map(|(dx, dy)| input[((first_y + dy) * 4 + first_x + dx) * 32 + at])
                        .sum();
                    sum + (x % 2 + y % 2 * 2 + x % 2 * 100 + y % 2 * 1000) as u32
                })
                .collect()
        }
        "push" => {
            let input = numbers(8 * 64);
            (0..8 * 7 * 64)
                .map(|k| {
                    let (block, at) = (k / 448, k % 448);
                    let from = block / 4 * 4 + (block + 3) % 4;
                    let (thread, more) = match at {
                        0..64 => (at, 0),
                        64..192 => ((at - 64) / 2, 1 + at % 2),
                        _ => ((at - 192) / 4, 3 + at % 4),
                    };
                    input[from * 64 + thread] + more as u32
                })
                .collect()
        }
        "pool" => {
            let input = numbers(8 * 64);
            let of = |block: usize, k: usize| input[block * 64 + k];
            let least = |cluster: usize| {
                let others = cluster * 4 + 1..cluster * 4 + 4;
                let all = others.flat_map(|b| (0..64).map(move |k| of(b, k)));
                all.min().unwrap_or(0)
            };
            let sum = |cluster: usize, k: usize| -> u32 {
                (cluster * 4..cluster * 4 + 4).map(|b| of(b, k)).sum()
            };
            let sums = (0..128).map(|k| sum(k / 64, k % 64) + k as u32 % 64 + least(k / 64));
            let most = (0..64).map(|k| (0..8).map(|b| of(b, k)).max().unwrap_or(0));
            sums.chain(most).collect()
        }
        "tell" => (0..64).map(|k| numbers(64)[63 - k] * 2).collect(),
        _ => {
            let input = numbers(256);
            (0..1024)
                .map(|k| input[255 - k % 256] + (k / 256 + 3) as u32 % 4)
                .collect()
        }
    }
}

const KERNELS: &[&str] = &[
    "histogram",
    "ring",
    "gather",
    "tell",
    "bulk",
    "push",
    "pool",
];

#[test]
fn sound_clusters_pass_in_any_order() {
    let Some(nvcc) = support::nvcc_or_skip("sound_clusters_pass_in_any_order") else {
        return;
    };
    let ptx = compile(&nvcc, 0);
    for kernel in KERNELS {
        for seed in std::iter::once(None).chain((0..30).map(Some)) {
            let done = launch(&ptx, kernel, seed)
                .unwrap_or_else(|e| panic!("{kernel}, seed {seed:?}: {e}"));
            assert_eq!(done.words(1), expected(kernel), "{kernel}, seed {seed:?}");
        }
    }
}

#[test]
fn every_broken_cluster_is_reported() {
    let Some(nvcc) = support::nvcc_or_skip("every_broken_cluster_is_reported") else {
        return;
    };
    let mut missed = Vec::new();
    for &(mutant, kernel, checks) in MUTANTS {
        let ptx = compile(&nvcc, mutant);
        for seed in [None, Some(1), Some(2), Some(3)] {
            let said = match launch(&ptx, kernel, seed) {
                Ok(_) => "not noticed".to_string(),
                Err(RunError::Fault(fault)) => match fault.kind {
                    FaultKind::Check(check) if checks.contains(&check) => continue,
                    _ => fault.to_string(),
                },
                Err(other) => other.to_string(),
            };
            missed.push(format!(
                "mutant {mutant} of {kernel}, seed {seed:?}: {said}"
            ));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
}

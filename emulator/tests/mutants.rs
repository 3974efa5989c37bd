//! Broken versions of sound kernels: each must be reported, by the right check, on the right line of the
//! CUDA source; and the sound ones never, whatever the order.

#[path = "mutants/list.rs"]
mod list;
mod support;

use list::MUTANTS;
use ptx_emulator::check::FaultKind;
use ptx_emulator::run::{Arg, Finished, RunError, Setup, run};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const KERNELS: &[&str] = &[
    "transpose",
    "block_sum",
    "pipeline",
    "grid_sum",
    "histogram",
    "product",
    "scan",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutants/kernels.cu")
}

fn floats(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 37 % 101) as f32 - 50.0).collect()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Runs one of the kernels on its input.
fn launch(ptx: &str, kernel: &str, seed: Option<u64>) -> Result<Finished, RunError> {
    // One host thread: an order is its seed's alone, and a report the same every time.
    let setup = Setup {
        seed,
        threads: 1,
        ..Setup::default()
    };
    match kernel {
        "transpose" => {
            let args = [
                Arg::Buffer(bytes_of(&floats(40 * 70))),
                Arg::Uninit(40 * 70 * 4),
                Arg::U32(40),
                Arg::U32(70),
            ];
            run(
                ptx,
                kernel,
                &args,
                &Setup {
                    grid: [3, 2, 1],
                    block: [32, 8, 1],
                    ..setup
                },
            )
        }
        "block_sum" => {
            let args = [
                Arg::Buffer(bytes_of(&floats(700))),
                Arg::Uninit(12),
                Arg::U32(700),
            ];
            run(
                ptx,
                kernel,
                &args,
                &Setup {
                    grid: [3, 1, 1],
                    block: [256, 1, 1],
                    ..setup
                },
            )
        }
        "pipeline" => {
            let args = [
                Arg::Buffer(bytes_of(&floats(7 * 8 * 64))),
                Arg::Uninit(7 * 8 * 4),
                Arg::U32(7),
            ];
            run(ptx, kernel, &args, &setup)
        }
        "grid_sum" => {
            let args = [
                Arg::Buffer(bytes_of(&floats(640))),
                Arg::Uninit(640 * 4),
                Arg::Buffer(vec![0; 4]),
            ];
            run(
                ptx,
                kernel,
                &args,
                &Setup {
                    grid: [10, 1, 1],
                    block: [64, 1, 1],
                    ..setup
                },
            )
        }
        "histogram" => {
            let input: Vec<u8> = (0..3000u32).map(|i| (i * i % 251) as u8).collect();
            let args = [
                Arg::Buffer(input),
                Arg::Buffer(vec![0; 256]),
                Arg::U32(3000),
            ];
            run(
                ptx,
                kernel,
                &args,
                &Setup {
                    grid: [4, 1, 1],
                    block: [128, 1, 1],
                    ..setup
                },
            )
        }
        "product" => {
            let half = |count: usize| -> Vec<u8> {
                floats(count)
                    .iter()
                    .flat_map(|v| half::f16::from_f32(v / 64.0).to_le_bytes())
                    .collect()
            };
            let args = [
                Arg::Buffer(half(16 * 32)),
                Arg::Buffer(half(8 * 32)),
                Arg::Uninit(16 * 8 * 4),
                Arg::U32(32),
            ];
            run(
                ptx,
                kernel,
                &args,
                &Setup {
                    block: [64, 1, 1],
                    ..setup
                },
            )
        }
        _ => {
            let input: Vec<u32> = (0..128).map(|i| i * 5 % 23).collect();
            run(
                ptx,
                kernel,
                &[Arg::words(&input), Arg::Uninit(512)],
                &Setup {
                    block: [128, 1, 1],
                    ..setup
                },
            )
        }
    }
}

/// What each kernel should compute, by a plain loop.
fn check_result(kernel: &str, done: &Finished) {
    let close = |found: u32, expected: f64| {
        let found = f64::from(f32::from_bits(found));
        assert!(
            (found - expected).abs() <= 1e-3 * expected.abs().max(1.0),
            "{kernel}: {found} for {expected}"
        );
    };
    let sum = |range: std::ops::Range<usize>| {
        floats(range.end)[range]
            .iter()
            .map(|v| f64::from(*v))
            .sum::<f64>()
    };
    match kernel {
        "transpose" => {
            let (input, out) = (floats(40 * 70), done.words(1));
            for y in 0..40 {
                for x in 0..70 {
                    assert_eq!(out[x * 40 + y], input[y * 70 + x].to_bits());
                }
            }
        }
        "block_sum" => {
            for (b, &v) in done.words(1).iter().enumerate() {
                close(v, sum(b * 256..(b * 256 + 256).min(700)));
            }
        }
        "pipeline" => {
            for (r, &v) in done.words(1).iter().enumerate() {
                close(v, sum(r * 64..r * 64 + 64));
            }
        }
        "grid_sum" => close(done.words(2)[0], 2.0 * sum(0..640)),
        "histogram" => {
            let mut bins = vec![0u32; 64];
            (0..3000u32).for_each(|i| bins[((i * i % 251) & 63) as usize] += 1);
            assert_eq!(done.words(1), bins);
        }
        "product" => {
            let half = |v: f32| f64::from(half::f16::from_f32(v / 64.0).to_f32());
            let (a, b, c) = (floats(16 * 32), floats(8 * 32), done.words(2));
            for row in 0..16 {
                for column in 0..8 {
                    let exact = (0..32)
                        .map(|k| half(a[row * 32 + k]) * half(b[column * 32 + k]))
                        .sum::<f64>();
                    close(c[row * 8 + column], exact);
                }
            }
        }
        _ => {
            let mut total = 0;
            for (i, &v) in done.words(1).iter().enumerate() {
                total += i as u32 * 5 % 23;
                assert_eq!(v, total);
            }
        }
    }
}

#[test]
fn sound_kernels_pass_in_any_order() {
    let Some(nvcc) = support::nvcc_or_skip("sound_kernels_pass_in_any_order") else {
        return;
    };
    let ptx = support::compile(&nvcc, &source(), &["-arch=compute_80"], "sound");
    for kernel in KERNELS {
        let mut first: Option<Vec<Vec<u8>>> = None;
        for seed in std::iter::once(None).chain((0..100).map(Some)) {
            let done = launch(&ptx, kernel, seed)
                .unwrap_or_else(|e| panic!("{kernel}, seed {seed:?}: {e}"));
            check_result(kernel, &done);
            // Sums by atomics on floats of this size are exact, so all results are bit-equal.
            let first = first.get_or_insert_with(|| done.buffers.clone());
            assert_eq!(*first, done.buffers, "{kernel}, seed {seed:?}");
        }
    }
}

/// Lines of the source by the mutant that may be reported on them.
fn marked_lines() -> HashMap<u32, Vec<u32>> {
    let text = std::fs::read_to_string(source()).expect("the kernels are beside the test");
    let mut lines: HashMap<u32, Vec<u32>> = HashMap::new();
    for (k, line) in text.lines().enumerate() {
        let Some((_, marks)) = line.split_once("//") else {
            continue;
        };
        for mark in marks
            .split_whitespace()
            .filter_map(|w| w.strip_prefix('!')?.parse().ok())
        {
            lines.entry(mark).or_default().push(k as u32 + 1);
        }
    }
    lines
}

#[test]
fn every_mutant_is_caught_by_the_right_check_on_the_right_line() {
    let Some(nvcc) = support::nvcc_or_skip("every_mutant_is_caught") else {
        return;
    };
    let lines = marked_lines();
    let mut missed = Vec::new();
    for &(mutant, kernel, checks) in MUTANTS {
        let define = format!("-DMUTANT={mutant}");
        let ptx = support::compile(
            &nvcc,
            &source(),
            &["-arch=compute_80", &define],
            &format!("mutant{mutant}"),
        );
        for seed in [None, Some(1), Some(2)] {
            match launch(&ptx, kernel, seed) {
                Err(RunError::Fault(fault)) => {
                    let right =
                        matches!(fault.kind, FaultKind::Check(check) if checks.contains(&check));
                    let on_line = fault
                        .source
                        .iter()
                        .chain(&fault.inlined)
                        .any(|(file, line)| {
                            file.ends_with("kernels.cu")
                                && lines.get(&mutant).is_some_and(|l| l.contains(line))
                        });
                    if !right || !on_line {
                        missed.push(format!(
                            "mutant {mutant}, seed {seed:?}: wrong report:\n{fault}"
                        ));
                    }
                }
                Err(other) => missed.push(format!("mutant {mutant}, seed {seed:?}: {other}")),
                Ok(_) => missed.push(format!(
                    "mutant {mutant} of {kernel}, seed {seed:?}: not noticed"
                )),
            }
        }
    }
    println!(
        "{} mutants tried, {} reports amiss",
        MUTANTS.len(),
        missed.len()
    );
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
}

//! Barriers, pipelines, atomics and cooperative groups: `sync.cu`, for both architectures.

use super::*;
use ptx_emulator::run::RunError;

static SOURCES: [Source; 2] = [
    Source::new("sync.cu", "compute_80"),
    Source::new("sync.cu", "compute_90"),
];

/// `test` for the PTX of each architecture.
fn each(test: impl Fn(&str)) {
    SOURCES.iter().filter_map(Source::ptx).for_each(test);
}

#[test]
fn barriers_between_producers_and_consumers() {
    each(|ptx| {
        for half in [32usize, 64] {
            for_all(
                4,
                (1..6usize, drawn::<u32>(6 * 64), order()),
                |(rounds, input, seed)| {
                    let args = [
                        buffer(&input[..rounds * half]),
                        Arg::Uninit(4 * half),
                        Arg::U32(rounds as u32),
                    ];
                    let done = launch(ptx, "producer_consumer", (1, 2 * half as u32), seed, &args);
                    let expected: Vec<u32> = (0..half)
                        .map(|me| {
                            (0..rounds)
                                .map(|r| input[r * half + (me + r) % half].wrapping_mul(3))
                                .fold(0, u32::wrapping_add)
                        })
                        .collect();
                    assert_eq!(done.words(1), expected);
                },
            );
        }
    });
}

#[test]
fn barriers_that_threads_drop_out_of() {
    each(|ptx| {
        for seed in [None, Some(1), Some(2)] {
            let done = launch(ptx, "dropping_out", (1, 64), seed, &[Arg::Uninit(16)]);
            assert_eq!(
                done.words(0),
                [63, 63 + 62, 63 + 62 + 61, 63 + 62 + 61 + 60]
            );
        }
    });
}

/// All blocks at once, as a cooperative launch has them.
fn together(
    ptx: &str,
    kernel: &str,
    blocks: u32,
    threads: u32,
    seed: Option<u64>,
    args: &[Arg],
) -> Finished {
    let setup = Setup {
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        cooperative: true,
        seed,
        ..Setup::default()
    };
    run(ptx, kernel, args, &setup).unwrap_or_else(|e: RunError| panic!("{kernel}: {e}"))
}

#[test]
fn barriers_between_blocks() {
    each(|ptx| {
        for_all(4, (1..12u32, order()), |(blocks, seed)| {
            let args = [
                Arg::Uninit(128),
                Arg::words(&vec![0; blocks as usize + 1]),
                Arg::Uninit(4 * blocks as usize),
            ];
            let done = together(ptx, "grid_barrier", blocks, 32, seed, &args);
            let sum = (0..blocks).map(|b| b * 7 + 1).sum::<u32>();
            assert_eq!(done.words(2), vec![sum; blocks as usize]);
        });
    });
}

#[test]
fn the_whole_grid_as_a_group() {
    each(|ptx| {
        for_all(
            4,
            (1..8u32, drawn::<u32>(8 * 64), order()),
            |(blocks, input, seed)| {
                let n = 64 * blocks as usize;
                let args = [buffer(&input[..n]), Arg::Uninit(4 * n), Arg::Uninit(4 * n)];
                let done = together(ptx, "whole_grid", blocks, 64, seed, &args);
                let expected: Vec<u32> = (0..n)
                    .map(|me| {
                        // Rounds weigh 1 + 2 + 3.
                        (0..4)
                            .map(|k| input[(me + k * 64 + 1) % n].wrapping_mul(6))
                            .fold(0, u32::wrapping_add)
                    })
                    .collect();
                assert_eq!(done.words(2), expected);
            },
        );
    });
}

#[test]
fn asynchronous_copies() {
    each(|ptx| {
        for_all(
            5,
            (1..7usize, drawn::<u32>(7 * 256), order()),
            |(tiles, input, seed)| {
                let rearranged = |tile: usize, f: &dyn Fn(usize, usize) -> u32| -> Vec<u32> {
                    (0..tiles)
                        .flat_map(|k| (0..tile).map(move |at| (k, at)))
                        .map(|(k, at)| f(k, at))
                        .collect()
                };
                let run = |kernel: &str, threads: u32, tile: usize| {
                    let n = tiles * tile;
                    let args = [
                        buffer(&input[..n]),
                        Arg::Uninit(4 * n),
                        Arg::U32(tiles as u32),
                    ];
                    launch(ptx, kernel, (1, threads), seed, &args).words(1)
                };
                assert_eq!(
                    run("copy_with_barrier", 64, 256),
                    rearranged(256, &|k, at| input[k * 256 + 255 - at].wrapping_add(1))
                );
                for stages in [2, 3] {
                    assert_eq!(
                        run(&format!("pipeline_{stages}"), 96, 128),
                        rearranged(128, &|k, at| input[k * 128 + at * 5 % 128] ^ k as u32)
                    );
                }
                assert_eq!(
                    run("pipeline_of_thread", 64, 64),
                    rearranged(64, &|k, at| input[k * 64 + at]
                        .wrapping_mul(2)
                        .wrapping_add(1))
                );
            },
        );
        for_all(
            6,
            (1..=100usize, drawn::<u32>(200), order()),
            |(n, input, seed)| {
                let args = [buffer(&input), Arg::Uninit(4 * 64), Arg::U32(n as u32)];
                let done = launch(ptx, "copy_of_group", (1, 64), seed, &args);
                let expected: Vec<u32> = (0..64)
                    .map(|me| {
                        (me..n)
                            .step_by(64)
                            .map(|k| {
                                input[n - 1 - k]
                                    .wrapping_add(input[100 + n - 1 - k].wrapping_mul(3))
                            })
                            .fold(0, u32::wrapping_add)
                    })
                    .collect();
                assert_eq!(done.words(1), expected, "{n} elements");
            },
        );
    });
}

#[test]
fn latches_semaphores_locks_and_messages() {
    each(|ptx| {
        for seed in [None, Some(3), Some(4), Some(5)] {
            let done = launch(ptx, "latch_and_semaphore", (1, 64), seed, &[Arg::Uninit(8)]);
            assert_eq!(done.words(0), [64 * 63 / 2, 1]);
            let args = [
                Arg::words(&[0; 2]),
                Arg::words(&[0; 2]),
                Arg::words(&[0; 6]),
            ];
            let done = launch(ptx, "lock_and_message", (6, 32), seed, &args);
            assert_eq!(done.words(1), [(1 << 6) - 1, 42]);
            assert_eq!(done.words(2), [0, 43, 44, 45, 46, 47]);
        }
    });
}

#[test]
fn tiles_of_threads() {
    each(|ptx| {
        for width in [8usize, 32] {
            for_all(4, (drawn::<u32>(64), order()), |(input, seed)| {
                let args = [buffer(&input), Arg::Uninit(4 * 4 * 64)];
                let done = launch(ptx, &format!("tiles_{width}"), (1, 64), seed, &args);
                let mut expected = vec![0u32; 4 * 64];
                for (tile, values) in input.chunks(width).enumerate() {
                    let sum = values.iter().copied().fold(0, u32::wrapping_add);
                    for (lane, &v) in values.iter().enumerate() {
                        let at = tile * width + lane;
                        let before = values[..lane].iter().copied();
                        let below = values.get(lane + 1).copied().unwrap_or(v);
                        expected[at] = sum;
                        expected[64 + at] = before.clone().fold(v, u32::max);
                        expected[128 + at] = before.fold(0, u32::wrapping_add);
                        expected[192 + at] = below.wrapping_add(tile as u32 * 1000);
                    }
                }
                assert_eq!(done.words(1), expected, "{width} lanes");
            });
        }
        for_all(4, (drawn::<u32>(256), order()), |(input, seed)| {
            let args = [buffer(&input), Arg::Uninit(4 * 256)];
            let done = launch(ptx, "tiles_of_warps", (1, 256), seed, &args);
            let expected: Vec<u32> = (0..256)
                .map(|k| {
                    let tile = k / 64;
                    let sum = input[tile * 64..][..64].iter().copied();
                    sum.fold(tile as u32, u32::wrapping_add)
                })
                .collect();
            assert_eq!(done.words(1), expected);
        });
    });
}

#[test]
fn groups_of_those_that_branch_together() {
    each(|ptx| {
        for_all(4, (drawn::<u32>(64), order()), |(input, seed)| {
            let args = [buffer(&input), Arg::Uninit(4 * 128)];
            let done = launch(ptx, "branches", (1, 64), seed, &args);
            let mut expected = Vec::new();
            for warp in input.chunks(32) {
                for (lane, &v) in warp.iter().enumerate() {
                    let thirds: Vec<u32> = warp.iter().copied().filter(|v| v % 3 == 0).collect();
                    let rank = warp[..lane].iter().filter(|v| *v % 3 == 0).count();
                    let odd = thirds.iter().any(|v| v % 2 != 0);
                    expected.push(if v % 3 == 0 {
                        thirds.len() as u32 * 100 + rank as u32 + if odd { 10000 } else { 0 }
                    } else {
                        warp.iter()
                            .filter(|w| *w % 3 != 0 && *w % 4 == v % 4)
                            .fold(0, |x, w| x ^ w)
                    });
                }
            }
            for warp in input.chunks(32) {
                for &v in warp {
                    let side: Vec<u32> = warp.iter().copied().filter(|w| w & 1 == v & 1).collect();
                    expected.push(side.len() as u32 * 64 + side[0] % 64);
                }
            }
            assert_eq!(done.words(1), expected);
        });
    });
}

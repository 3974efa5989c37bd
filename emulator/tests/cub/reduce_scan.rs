//! Reductions and scans: `reduce_scan.cu`.

use super::*;
use cudarc::driver::{LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

static SOURCE: Source = Source::new("reduce_scan.cu", "compute_80");

fn larger<T: Number>(a: T, b: T) -> T {
    if a < b { b } else { a }
}

fn reduction<T: Number>(ptx: &str, kernel: &str, threads: usize, items: usize) {
    let tile = threads * items;
    for_all(6, (drawn::<T>(1..3 * tile), order()), |(input, seed)| {
        let n = input.len();
        let blocks = n.div_ceil(tile);
        let args = [
            buffer(&input),
            Arg::Uninit(blocks * 2 * T::SIZE),
            Arg::U32(n as u32),
        ];
        let done = launch(ptx, kernel, (blocks as u32, threads as u32), seed, &args);
        let mut expected = Vec::new();
        for part in input.chunks(tile) {
            // A tile that is not full is filled up with zeros.
            let filled = (part.len() < tile).then(T::default);
            expected.push(part.iter().copied().fold(T::default(), T::plus));
            expected.extend(part.iter().copied().chain(filled).reduce(larger));
        }
        assert_eq!(numbers_of::<T>(&done.buffers[1]), expected, "{kernel}");
    });
}

#[test]
fn block_reductions() {
    let Some(ptx) = SOURCE.ptx() else { return };
    reduction::<u32>(ptx, "reduce_u32_128x1_raking", 128, 1);
    reduction::<u64>(ptx, "reduce_u64_96x4_raking", 96, 4);
    reduction::<u32>(ptx, "reduce_u32_256x3_commutative", 256, 3);
    reduction::<f32>(ptx, "reduce_f32_256x5_warps", 256, 5);
    reduction::<f64>(ptx, "reduce_f64_64x2_warps", 64, 2);
    reduction::<u8>(ptx, "reduce_u8_40x7_warps", 40, 7);
}

fn scan<T: Number>(ptx: &str, kernel: &str, threads: usize, items: usize) {
    let tile = threads * items;
    for_all(6, (drawn::<T>(1..3 * tile), order()), |(input, seed)| {
        let n = input.len();
        let blocks = n.div_ceil(tile);
        let args = [
            buffer(&input),
            Arg::Uninit(2 * n * T::SIZE),
            Arg::Uninit(blocks * T::SIZE),
            Arg::U32(n as u32),
        ];
        let done = launch(ptx, kernel, (blocks as u32, threads as u32), seed, &args);
        let (mut sums, mut maxima, mut totals) = (Vec::new(), Vec::new(), Vec::new());
        for part in input.chunks(tile) {
            let (mut sum, mut most) = (T::default(), T::THREE);
            for &v in part {
                sum = sum.plus(v);
                sums.push(sum);
                maxima.push(most);
                most = larger(most, v);
            }
            totals.push(sum);
        }
        sums.extend(maxima);
        assert_eq!(numbers_of::<T>(&done.buffers[1]), sums, "{kernel}");
        assert_eq!(numbers_of::<T>(&done.buffers[2]), totals, "{kernel}");
    });
}

#[test]
fn block_scans() {
    let Some(ptx) = SOURCE.ptx() else { return };
    scan::<u32>(ptx, "scan_u32_128x1_raking", 128, 1);
    scan::<u64>(ptx, "scan_u64_64x5_memoize", 64, 5);
    scan::<u32>(ptx, "scan_u32_256x4_warps", 256, 4);
    scan::<f32>(ptx, "scan_f32_96x3_raking", 96, 3);
}

/// What the kernels `warps_…` leave: a word for each place, zero where they leave none.
fn warps(input: &[u32], width: usize) -> Vec<u32> {
    let mut out = vec![0; 320];
    for (part, values) in input.chunks(width).enumerate() {
        out[part] = values.iter().copied().fold(0, u32::wrapping_add);
        let is_head = |lane: usize| lane == 0 || values[lane].is_multiple_of(5);
        for lane in (0..width).filter(|&l| is_head(l)) {
            let end = (lane + 1..width).find(|&l| is_head(l)).unwrap_or(width);
            out[64 + part * width + lane] = *values[lane..end].iter().max().expect("not empty");
        }
        let valid = 1 + values[0] as usize % width;
        out[128 + part] = *values[..valid].iter().max().expect("not empty");
        // The first map is applied first: x, then scale · x + shift, and so on.
        let (mut at_seven, mut at_zero) = (7u32, 0u32);
        for (lane, &v) in values.iter().enumerate() {
            let apply = |x: u32| {
                (2u32.wrapping_mul(v).wrapping_add(1))
                    .wrapping_mul(x)
                    .wrapping_add(v >> 3)
            };
            (at_seven, at_zero) = (apply(at_seven), apply(at_zero));
            out[192 + part * width + lane] = at_seven;
        }
        out[256 + part] = at_zero;
    }
    out
}

#[test]
fn warp_reductions_and_scans() {
    let Some(ptx) = SOURCE.ptx() else { return };
    for width in [32, 16, 8, 4] {
        for_all(6, (drawn::<u32>(64), order()), |(input, seed)| {
            let args = [buffer(&input), Arg::words(&[0; 320])];
            let done = launch(ptx, &format!("warps_{width}"), (1, 64), seed, &args);
            assert_eq!(done.words(1), warps(&input, width), "{width} lanes");
        });
    }
}

/// The exclusive sums of a grid whose blocks wait for one another.
fn look_back<T>(gpu: &common::Gpu, ptx: &str, ty: &str, threads: usize, items: usize)
where
    T: Number + cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits,
{
    let stream = gpu.context.default_stream();
    let module = gpu.context.load_module(Ptx::from_src(ptx)).unwrap();
    let begin = module
        .load_function(&format!("look_back_begin_{ty}"))
        .unwrap();
    let kernel = format!("look_back_{ty}_{threads}x{items}");
    let kernel = module.load_function(&kernel).unwrap();
    let tile = threads * items;
    for_all(6, (drawn::<T>(1..40 * tile), order()), |(input, seed)| {
        gpu.emulator.set_seed(seed).unwrap();
        let (n, blocks) = (input.len() as i32, input.len().div_ceil(tile) as i32);
        let values = stream.clone_htod(&input).unwrap();
        let mut out = stream.alloc_zeros::<T>(input.len()).unwrap();
        // A status and a value of equal size for each tile, and for a warp of tiles before the first.
        // SAFETY: the kernels write it before they read it.
        let mut states = unsafe { stream.alloc::<T>(2 * (32 + blocks as usize)) }.unwrap();
        let mut ticket = stream.alloc_zeros::<u32>(1).unwrap();
        let config = |grid: i32, block: usize| LaunchConfig {
            grid_dim: (grid as u32, 1, 1),
            block_dim: (block as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are the kernels', and the buffers hold what their tiles touch.
        unsafe {
            let mut launch = stream.launch_builder(&begin);
            launch.arg(&mut states).arg(&blocks);
            launch.launch(config((blocks + 63) / 64, 64)).unwrap();
            let mut launch = stream.launch_builder(&kernel);
            launch
                .arg(&values)
                .arg(&mut out)
                .arg(&mut states)
                .arg(&mut ticket)
                .arg(&n);
            launch.launch(config(blocks, threads)).unwrap();
        }
        let found = stream.clone_dtoh(&out);
        assert_eq!(gpu.reports(), "");
        let mut sum = T::default();
        let expected: Vec<T> = input
            .iter()
            .map(|&v| {
                let before = sum;
                sum = sum.plus(v);
                before
            })
            .collect();
        assert_eq!(found.unwrap(), expected, "{ty}");
    });
}

#[test]
fn a_scan_of_the_grid_in_one_pass() {
    let Some(ptx) = SOURCE.ptx() else { return };
    let gpu = common::gpu();
    look_back::<u32>(&gpu, ptx, "u32", 64, 3);
    look_back::<u64>(&gpu, ptx, "u64", 128, 2);
}

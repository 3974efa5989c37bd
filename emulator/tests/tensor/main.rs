//! `ldmatrix`, `stmatrix`, `movmatrix` and every shape of `mma.sync` against plain loops, through the PTX
//! ISA's own tables of which lane holds which element.

mod held;
mod products;
mod shared;
#[path = "../warp/mod.rs"]
mod warp;

use half::{bf16, f16};
use ptx_emulator::check::Check;
use warp::{Lanes, Random, lanes as run, refused, reported};

type Place = fn(usize, usize) -> (usize, usize);

/// Row and column of element `i` of a lane's fragment of A.
fn a_place(shape: &str, bits: usize) -> Place {
    match (shape, bits) {
        ("m8n8k4", 64) => |l, _| (l >> 2, l % 4),
        ("m16n8k4", 32 | 64) => |l, i| (if i == 0 { l >> 2 } else { (l >> 2) + 8 }, l % 4),
        ("m16n8k8", 32 | 64) => |l, i| {
            (
                if i % 2 == 0 { l >> 2 } else { (l >> 2) + 8 },
                if i < 2 { l % 4 } else { l % 4 + 4 },
            )
        },
        ("m16n8k16", 64) => |l, i| {
            (
                if i % 2 == 0 { l >> 2 } else { (l >> 2) + 8 },
                i * 2 - 2 * (i % 2) + l % 4,
            )
        },
        ("m16n8k8", 16) => |l, i| {
            (
                if i < 2 { l >> 2 } else { (l >> 2) + 8 },
                (l % 4) * 2 + (i & 1),
            )
        },
        ("m16n8k16", 16) => |l, i| {
            let row = if i < 2 || (4..6).contains(&i) {
                l >> 2
            } else {
                (l >> 2) + 8
            };
            (row, (l % 4) * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
        },
        ("m8n8k16", 8) => |l, i| (l >> 2, (l % 4) * 4 + i),
        ("m16n8k16", 8) => |l, i| {
            (
                if i < 4 { l >> 2 } else { (l >> 2) + 8 },
                (l % 4) * 4 + (i & 3),
            )
        },
        ("m16n8k32", 8) => |l, i| {
            let row = if i < 4 || (8..12).contains(&i) {
                l >> 2
            } else {
                (l >> 2) + 8
            };
            (row, (l % 4) * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
        },
        ("m8n8k32", 4) => |l, i| (l >> 2, (l % 4) * 8 + i),
        ("m16n8k32", 4) => |l, i| {
            (
                if i < 8 { l >> 2 } else { (l >> 2) + 8 },
                (l % 4) * 8 + (i & 7),
            )
        },
        ("m16n8k64", 4) => |l, i| {
            let row = if i < 8 || (16..24).contains(&i) {
                l >> 2
            } else {
                (l >> 2) + 8
            };
            (row, (l % 4) * 8 + (i & 7) + if i < 16 { 0 } else { 32 })
        },
        ("m8n8k128", 1) => |l, i| (l >> 2, (l % 4) * 32 + i),
        ("m16n8k128", 1) => |l, i| {
            (
                if i < 32 { l >> 2 } else { (l >> 2) + 8 },
                (l % 4) * 32 + (i & 31),
            )
        },
        ("m16n8k256", 1) => |l, i| {
            let row = if i < 32 || (64..96).contains(&i) {
                l >> 2
            } else {
                (l >> 2) + 8
            };
            (row, (l % 4) * 32 + (i & 31) + if i < 64 { 0 } else { 128 })
        },
        other => panic!("no table for {other:?}"),
    }
}

/// Row (along K) and column of element `i` of a lane's fragment of B.
fn b_place(shape: &str, bits: usize) -> Place {
    match (shape, bits) {
        ("m8n8k4" | "m16n8k4", _) => |l, _| (l % 4, l >> 2),
        ("m16n8k8", 32 | 64) => |l, i| (if i == 0 { l % 4 } else { l % 4 + 4 }, l >> 2),
        ("m16n8k16", 64) => |l, i| (i * 4 + l % 4, l >> 2),
        ("m16n8k8", 16) => |l, i| ((l % 4) * 2 + i, l >> 2),
        ("m16n8k16", 16) => |l, i| ((l % 4) * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, l >> 2),
        ("m8n8k16" | "m16n8k16", 8) => |l, i| ((l % 4) * 4 + i, l >> 2),
        ("m16n8k32", 8) => |l, i| ((l % 4) * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, l >> 2),
        ("m8n8k32" | "m16n8k32", 4) => |l, i| ((l % 4) * 8 + i, l >> 2),
        ("m16n8k64", 4) => |l, i| ((l % 4) * 8 + (i & 7) + if i < 8 { 0 } else { 32 }, l >> 2),
        ("m8n8k128" | "m16n8k128", 1) => |l, i| ((l % 4) * 32 + i, l >> 2),
        ("m16n8k256", 1) => |l, i| {
            (
                (l % 4) * 32 + (i & 31) + if i < 32 { 0 } else { 128 },
                l >> 2,
            )
        },
        other => panic!("no table for {other:?}"),
    }
}

/// Row and column of element `i` of a lane's fragment of C and D.
fn c_place(l: usize, i: usize) -> (usize, usize) {
    (
        if i < 2 { l >> 2 } else { (l >> 2) + 8 },
        (l % 4) * 2 + (i & 1),
    )
}

struct Shape {
    name: &'static str,
    m: usize,
    k: usize,
}

fn shape(name: &'static str) -> Shape {
    let (m, rest) = name[1..].split_once('n').unwrap();
    let (_, k) = rest.split_once('k').unwrap();
    Shape {
        name,
        m: m.parse().unwrap(),
        k: k.parse().unwrap(),
    }
}

/// The registers that hold the elements (as raw bits) of a matrix whose element at (row, column) is `value`.
fn fragment(
    count: usize,
    bits: usize,
    place: impl Fn(usize, usize) -> (usize, usize),
    value: impl Fn(usize, usize) -> u64,
) -> Vec<Lanes> {
    let words = (count * bits).div_ceil(32);
    let mut out = vec![[0u32; 32]; words];
    for lane in 0..32 {
        for i in 0..count {
            let (row, column) = place(lane, i);
            let raw = value(row, column);
            let at = i * bits;
            out[at / 32][lane] |= (raw << (at % 32)) as u32;
            if bits == 64 {
                out[at / 32 + 1][lane] |= (raw >> 32) as u32;
            }
        }
    }
    out
}

fn names(prefix: &str, from: usize, count: usize) -> String {
    let list: Vec<String> = (from..from + count)
        .map(|k| format!("%{prefix}{k}"))
        .collect();
    format!("{{{}}}", list.join(", "))
}

/// Runs an `mma` on matrices of raw elements and returns D, row by row.
fn mma(
    form: &str,
    s: &Shape,
    bits: usize,
    acc_bits: usize,
    a: &[Vec<u64>],
    b: &[Vec<u64>],
    c: &[Vec<u64>],
) -> Vec<Vec<u64>> {
    let a_count = s.m * s.k / 32;
    let b_count = 8 * s.k / 32;
    let c_count = s.m * 8 / 32;
    let a_regs = fragment(a_count, bits, a_place(s.name, bits), |r, k| a[r][k]);
    let b_regs = fragment(b_count, bits, b_place(s.name, bits), |k, n| b[k][n]);
    let c_regs = fragment(c_count, acc_bits, c_place, |r, n| c[r][n]);
    let (na, nb, nc) = (a_regs.len(), b_regs.len(), c_regs.len());
    let mut inputs = a_regs;
    inputs.extend(b_regs);
    inputs.extend(c_regs);
    let body = if bits == 64 {
        // Pairs of words make doubles.
        let pairs: String = (0..inputs.len() / 2)
            .map(|k| format!("mov.b64 %f{k}, {{%i{}, %i{}}};\n", 2 * k, 2 * k + 1))
            .collect();
        let unpack: String = (0..nc / 2)
            .map(|k| format!("mov.b64 {{%o{}, %o{}}}, %g{k};\n", 2 * k, 2 * k + 1))
            .collect();
        format!(
            ".reg .f64 %f<{}>; .reg .f64 %g<{}>;\n{pairs}mma.sync.aligned.{form} {}, {}, {}, {};\n{unpack}",
            inputs.len() / 2,
            nc / 2,
            names("g", 0, nc / 2),
            names("f", 0, na / 2),
            names("f", na / 2, nb / 2),
            names("f", (na + nb) / 2, nc / 2)
        )
    } else {
        format!(
            "mma.sync.aligned.{form} {}, {}, {}, {};",
            names("o", 0, nc),
            names("i", 0, na),
            names("i", na, nb),
            names("i", na + nb, nc)
        )
    };
    let out = run(&body, &inputs, nc);
    let mut d = vec![vec![0u64; 8]; s.m];
    for lane in 0..32 {
        for i in 0..c_count {
            let (row, column) = c_place(lane, i);
            let at = i * acc_bits;
            let mut raw = u64::from(out[at / 32][lane]) >> (at % 32);
            if acc_bits == 64 {
                raw |= u64::from(out[at / 32 + 1][lane]) << 32;
            } else {
                raw &= (1 << acc_bits) - 1;
            }
            d[row][column] = raw;
        }
    }
    d
}

fn matrix(rows: usize, columns: usize, mut value: impl FnMut() -> u64) -> Vec<Vec<u64>> {
    (0..rows)
        .map(|_| (0..columns).map(|_| value()).collect())
        .collect()
}

/// A format's value of raw bits.
fn value(format: &str, raw: u64) -> f64 {
    match format {
        "f16" => f16::from_bits(raw as u16).to_f64(),
        "bf16" => bf16::from_bits(raw as u16).to_f64(),
        "tf32" => f64::from(f32::from_bits(raw as u32 & 0xffff_e000)),
        "f32" => f64::from(f32::from_bits(raw as u32)),
        "f64" => f64::from_bits(raw),
        // Sign, exponent (bias 7), 3 bits of mantissa; no infinity.
        "e4m3" => {
            let (e, m) = ((raw >> 3 & 15) as i32, (raw & 7) as f64);
            let magnitude = match (e, raw & 7) {
                (15, 7) => f64::NAN,
                (0, _) => m * 2f64.powi(-9),
                _ => (1.0 + m / 8.0) * 2f64.powi(e - 7),
            };
            if raw >> 7 != 0 { -magnitude } else { magnitude }
        }
        "e5m2" => {
            let (e, m) = ((raw >> 2 & 31) as i32, (raw & 3) as f64);
            let magnitude = match (e, raw & 3) {
                (31, 0) => f64::INFINITY,
                (31, _) => f64::NAN,
                (0, _) => m * 2f64.powi(-16),
                _ => (1.0 + m / 4.0) * 2f64.powi(e - 15),
            };
            if raw >> 7 != 0 { -magnitude } else { magnitude }
        }
        other => panic!("no format {other}"),
    }
}

fn bits_of(format: &str) -> usize {
    match format {
        "f64" => 64,
        "f32" | "tf32" | "s32" => 32,
        "f16" | "bf16" => 16,
        "b1" => 1,
        "s4" | "u4" => 4,
        _ => 8,
    }
}

/// A small whole number in a format, so that all sums are exact whatever their order.
fn whole(format: &str, x: i32) -> u64 {
    match format {
        "f16" => u64::from(f16::from_f32(x as f32).to_bits()),
        "bf16" => u64::from(bf16::from_f32(x as f32).to_bits()),
        "tf32" | "f32" => u64::from((x as f32).to_bits()),
        "f64" => f64::from(x).to_bits(),
        _ => (0..256)
            .find(|&raw| value(format, raw) == f64::from(x))
            .expect("a small number"),
    }
}

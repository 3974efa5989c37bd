//! `ldmatrix`, `stmatrix`, `movmatrix` and every shape of `mma.sync` against plain loops, through the PTX
//! ISA's own tables of which lane holds which element.

mod warp;

use half::{bf16, f16};
use ptx_emulator::check::Check;
use warp::{Lanes, Random, lanes as run, refused, reported};

// --- The ISA's tables, as it words them: groupID = laneid >> 2, threadID_in_group = laneid % 4.

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

// --- Matrices and fragments.

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

const FLOATS: &[(&str, &str, &str, &str)] = &[
    ("m16n8k8", "f16", "f16", "f32"),
    ("m16n8k16", "f16", "f16", "f32"),
    ("m16n8k8", "f16", "f16", "f16"),
    ("m16n8k16", "f16", "f16", "f16"),
    ("m16n8k8", "bf16", "bf16", "f32"),
    ("m16n8k16", "bf16", "bf16", "f32"),
    ("m16n8k4", "tf32", "tf32", "f32"),
    ("m16n8k8", "tf32", "tf32", "f32"),
    ("m16n8k16", "e4m3", "e5m2", "f32"),
    ("m16n8k32", "e4m3", "e4m3", "f32"),
    ("m16n8k32", "e4m3", "e5m2", "f32"),
    ("m16n8k32", "e5m2", "e4m3", "f32"),
    ("m16n8k32", "e5m2", "e5m2", "f16"),
    ("m16n8k16", "e5m2", "e5m2", "f16"),
    ("m8n8k4", "f64", "f64", "f64"),
    ("m16n8k4", "f64", "f64", "f64"),
    ("m16n8k8", "f64", "f64", "f64"),
    ("m16n8k16", "f64", "f64", "f64"),
];

#[test]
fn floating_point_products_of_whole_numbers_are_exact() {
    let mut random = Random(11);
    for &(name, at, bt, ct) in FLOATS {
        let s = shape(name);
        let form = format!("{name}.row.col.{ct}.{at}.{bt}.{ct}");
        let a = matrix(s.m, s.k, || whole(at, random.below(9) as i32 - 4));
        let b = matrix(s.k, 8, || whole(bt, random.below(9) as i32 - 4));
        let c = matrix(s.m, 8, || whole(ct, random.below(201) as i32 - 100));
        let d = mma(&form, &s, bits_of(at), bits_of(ct), &a, &b, &c);
        for r in 0..s.m {
            for n in 0..8 {
                let sum: f64 = (0..s.k)
                    .map(|k| value(at, a[r][k]) * value(bt, b[k][n]))
                    .sum();
                assert_eq!(
                    value(ct, d[r][n]),
                    sum + value(ct, c[r][n]),
                    "{form} row {r} column {n}"
                );
            }
        }
    }
}

#[test]
fn floating_point_products_of_any_numbers() {
    let mut random = Random(5);
    for &(name, at, bt, ct) in FLOATS {
        let s = shape(name);
        let form = format!("{name}.row.col.{ct}.{at}.{bt}.{ct}");
        // Any finite pattern of a moderate exponent, subnormals of the narrow formats among them.
        let mut draw = |format: &str| loop {
            let raw = match format {
                "f64" => f64::from(random.word() as i32 as f32 / 1e9).to_bits(),
                "tf32" | "f32" => u64::from((random.word() as i32 as f32 / 1e9).to_bits()),
                "bf16" => u64::from(bf16::from_f32(random.word() as i32 as f32 / 1e9).to_bits()),
                "f16" => u64::from(random.word() & 0xbfff),
                _ => u64::from(random.word() & 0xff),
            };
            if value(format, raw).abs() <= 64.0 {
                return raw;
            }
        };
        let a = matrix(s.m, s.k, || draw(at));
        let b = matrix(s.k, 8, || draw(bt));
        let c = matrix(s.m, 8, || draw(ct));
        let d = mma(&form, &s, bits_of(at), bits_of(ct), &a, &b, &c);
        let unit = match ct {
            "f16" => 2f64.powi(-11),
            "f32" => 2f64.powi(-24),
            _ => 2f64.powi(-53),
        };
        for r in 0..s.m {
            for n in 0..8 {
                let terms: Vec<f64> = (0..s.k)
                    .map(|k| value(at, a[r][k]) * value(bt, b[k][n]))
                    .chain([value(ct, c[r][n])])
                    .collect();
                let sum: f64 = terms.iter().sum();
                let size: f64 = terms.iter().map(|t| t.abs()).sum();
                let bound =
                    size * unit * s.k as f64 + if ct == "f16" { 2f64.powi(-25) } else { 0.0 };
                let got = value(ct, d[r][n]);
                assert!(
                    (got - sum).abs() <= bound,
                    "{form} row {r} column {n}: {got} for {sum}"
                );
            }
        }
    }
}

#[test]
fn infinities_and_nans_come_through() {
    let s = shape("m16n8k16");
    for (at, ct) in [("f16", "f32"), ("f16", "f16"), ("bf16", "f32")] {
        let raw = |x: f32| {
            u64::from(if at == "f16" {
                f16::from_f32(x).to_bits()
            } else {
                bf16::from_f32(x).to_bits()
            })
        };
        let mut a = matrix(16, 16, || raw(1.0));
        let mut b = matrix(16, 8, || raw(1.0));
        a[3][5] = raw(f32::INFINITY);
        a[4][2] = raw(f32::NEG_INFINITY);
        b[2][6] = raw(0.0);
        a[9][0] = raw(f32::NAN) | 1;
        let c = matrix(16, 8, || 0);
        let d = mma(
            &format!("m16n8k16.row.col.{ct}.{at}.{at}.{ct}"),
            &s,
            16,
            bits_of(ct),
            &a,
            &b,
            &c,
        );
        let nan = if ct == "f16" { 0x7fff } else { 0x7fff_ffff };
        assert_eq!(value(ct, d[3][1]), f64::INFINITY);
        assert_eq!(value(ct, d[4][1]), f64::NEG_INFINITY);
        assert_eq!(d[4][6], nan, "infinity times zero");
        assert_eq!(d[9][7], nan);
        assert_eq!(value(ct, d[0][0]), 16.0);
    }
}

#[test]
fn half_accumulators_overflow_and_round_to_even() {
    let s = shape("m16n8k8");
    let one = u64::from(f16::ONE.to_bits());
    let a = matrix(16, 8, || one);
    let b = matrix(8, 8, || u64::from(f16::from_f32(8192.0).to_bits()));
    let c = matrix(16, 8, || 0);
    let d = mma("m16n8k8.row.col.f16.f16.f16.f16", &s, 16, 16, &a, &b, &c);
    assert_eq!(
        d[0][0],
        u64::from(f16::INFINITY.to_bits()),
        "65536 is no half"
    );
    // 2048 + 1 lies between two halves: to even.
    let mut a = matrix(16, 8, || 0);
    a[0][0] = one;
    let b = matrix(8, 8, || one);
    let c = matrix(16, 8, || u64::from(f16::from_f32(2048.0).to_bits()));
    let d = mma("m16n8k8.row.col.f16.f16.f16.f16", &s, 16, 16, &a, &b, &c);
    assert_eq!(value("f16", d[0][0]), 2048.0);
}

#[test]
fn tf32_ignores_the_low_bits() {
    let s = shape("m16n8k4");
    let a = matrix(16, 4, || u64::from(1f32.to_bits() | 0x1fff));
    let b = matrix(4, 8, || u64::from(1f32.to_bits() | 0x1fff));
    let c = matrix(16, 8, || 0);
    let d = mma("m16n8k4.row.col.f32.tf32.tf32.f32", &s, 32, 32, &a, &b, &c);
    assert!(d.iter().flatten().all(|&x| value("f32", x) == 4.0));
}

fn integer(format: &str, raw: u64) -> i64 {
    match format {
        "s8" => i64::from(raw as u8 as i8),
        "s4" => i64::from(((raw as u8) << 4) as i8 >> 4),
        _ => raw as i64,
    }
}

#[test]
fn integer_products() {
    let mut random = Random(23);
    let eight = [("m8n8k16", 8), ("m16n8k16", 8), ("m16n8k32", 8)];
    let four = [("m8n8k32", 4), ("m16n8k32", 4), ("m16n8k64", 4)];
    for (name, bits) in eight.into_iter().chain(four) {
        let s = shape(name);
        for signs in [("s", "s"), ("s", "u"), ("u", "s"), ("u", "u")] {
            let (at, bt) = (format!("{}{bits}", signs.0), format!("{}{bits}", signs.1));
            for extreme in [false, true] {
                for saturate in [false, true] {
                    // Extremes: the largest products of either sign, and accumulators at the ends.
                    let top = (1u64 << bits) - 1;
                    let half = 1u64 << (bits - 1);
                    let mut element = || {
                        if extreme {
                            [half, top, half - 1, half][random.below(4) as usize]
                        } else {
                            u64::from(random.word()) & top
                        }
                    };
                    let a = matrix(s.m, s.k, &mut element);
                    let b = matrix(s.k, 8, &mut element);
                    let c = matrix(s.m, 8, || {
                        u64::from(if extreme {
                            [0x7fff_ffff, 0x8000_0000][random.below(2) as usize]
                        } else {
                            random.word()
                        })
                    });
                    let form = format!(
                        "{name}.row.col{}.s32.{at}.{bt}.s32",
                        if saturate { ".satfinite" } else { "" }
                    );
                    let d = mma(&form, &s, bits, 32, &a, &b, &c);
                    for r in 0..s.m {
                        for n in 0..8 {
                            let sum: i64 = (0..s.k)
                                .map(|k| integer(&at, a[r][k]) * integer(&bt, b[k][n]))
                                .sum();
                            let exact = sum + i64::from(c[r][n] as u32 as i32);
                            let want = if saturate {
                                exact.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
                            } else {
                                exact as i32
                            };
                            assert_eq!(d[r][n] as u32 as i32, want, "{form} row {r} column {n}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn single_bit_products() {
    let mut random = Random(29);
    for name in ["m8n8k128", "m16n8k128", "m16n8k256"] {
        let s = shape(name);
        for op in ["xor", "and"] {
            let a = matrix(s.m, s.k, || u64::from(random.word() & 1));
            let b = matrix(s.k, 8, || u64::from(random.word() & 1));
            let c = matrix(s.m, 8, || u64::from(random.word()));
            let d = mma(
                &format!("{name}.row.col.s32.b1.b1.s32.{op}.popc"),
                &s,
                1,
                32,
                &a,
                &b,
                &c,
            );
            for r in 0..s.m {
                for n in 0..8 {
                    let sum: u64 = (0..s.k)
                        .map(|k| {
                            if op == "xor" {
                                a[r][k] ^ b[k][n]
                            } else {
                                a[r][k] & b[k][n]
                            }
                        })
                        .sum();
                    assert_eq!(
                        d[r][n] as u32,
                        (c[r][n] as u32).wrapping_add(sum as u32),
                        "{name} {op}"
                    );
                }
            }
        }
    }
}

#[test]
fn d_may_be_c_and_may_be_a() {
    let mut random = Random(31);
    let s = shape("m16n8k16");
    let a = matrix(16, 16, || whole("f16", random.below(5) as i32 - 2));
    let b = matrix(16, 8, || whole("f16", random.below(5) as i32 - 2));
    let c = matrix(16, 8, || whole("f32", random.below(50) as i32));
    let want = mma("m16n8k16.row.col.f32.f16.f16.f32", &s, 16, 32, &a, &b, &c);
    let mut inputs = fragment(8, 16, a_place(s.name, 16), |r, k| a[r][k]);
    inputs.extend(fragment(4, 16, b_place(s.name, 16), |k, n| b[k][n]));
    inputs.extend(fragment(4, 32, c_place, |r, n| c[r][n]));
    for d in [
        "%i6, %i7, %i8, %i9",
        "%i9, %i8, %i7, %i6",
        "%i0, %i1, %i2, %i3",
    ] {
        let registers: Vec<&str> = d.split(", ").collect();
        let moves: String = registers
            .iter()
            .enumerate()
            .map(|(k, r)| format!("mov.b32 %o{k}, {r};\n"))
            .collect();
        let body = format!(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{{d}}}, {{%i0, %i1, %i2, %i3}}, {{%i4, %i5}}, {{%i6, %i7, %i8, %i9}};\n{moves}"
        );
        let out = run(&body, &inputs, 4);
        for lane in 0..32 {
            for i in 0..4 {
                let (r, n) = c_place(lane, i);
                assert_eq!(u64::from(out[i][lane]), want[r][n], "D in {d}");
            }
        }
    }
}

#[test]
fn a_part_of_a_warp_cannot_multiply() {
    let product = "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%o0, %o1}, {%t0, %t0}, {%t0}, {%t0, %t0};";
    let body =
        format!("setp.lt.u32 %p0, %t0, 16;\nmov.b32 %o0, 0;\nmov.b32 %o1, 0;\n@%p0 {product}");
    reported(&body, &[], 2, Check::WarpSync, "predicated off");
    reported(
        &format!("setp.eq.u32 %p0, %t0, 9;\n@%p0 exit;\n{product}"),
        &[],
        2,
        Check::WarpSync,
        "exited",
    );
}

#[test]
fn forms_of_other_devices_are_refused() {
    refused(
        "mma.sp.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%t1, %t2}, {%t0, %t0}, {%t0, %t0}, {%t0, %t0}, %t0, 0;",
        "sparse",
    );
    refused(
        "mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e3m2.e3m2.f32 {%t1, %t2, %t3, %t4}, {%t0, %t0, %t0, %t0}, {%t0, %t0}, {%t0, %t0, %t0, %t0};",
        "sm_120a",
    );
    refused(
        "mma.sync.aligned.m16n8k8.row.row.f16.f16.f16.f16 {%t1, %t2}, {%t0, %t0}, {%t0}, {%t0, %t0};",
        ".col",
    );
    refused(
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%t1, %t2}, [%d0];",
        "sm_100a",
    );
}

// --- Matrices in shared memory.

const STAGE: &str = "
    .shared .align 16 .b8 tile[1024];
    .reg .b32 %row; .reg .b32 %at; .reg .b32 %put;
    mov.u32 %row, tile;
    // 512 bytes from the inputs: word l of input k is bytes 128 k + 4 l.
    shl.b32 %put, %t0, 2;
    add.u32 %put, %put, %row;
    st.shared.b32 [%put], %i0;
    st.shared.b32 [%put+128], %i1;
    st.shared.b32 [%put+256], %i2;
    st.shared.b32 [%put+384], %i3;
    bar.sync 0;
    // Row l: 16 bytes.
    shl.b32 %at, %t0, 4;
    add.u32 %at, %at, %row;
";

/// Four matrices of 16-bit elements, each 64 in row-major order, as the words of four inputs.
fn four_matrices(random: &mut Random) -> (Vec<Lanes>, Vec<[[u16; 8]; 8]>) {
    let inputs: Vec<Lanes> = (0..4).map(|_| random.lanes()).collect();
    let matrices = inputs
        .iter()
        .map(|words| {
            std::array::from_fn(|r| {
                std::array::from_fn(|c| (words[r * 4 + c / 2] >> (c % 2 * 16)) as u16)
            })
        })
        .collect();
    (inputs, matrices)
}

#[test]
fn matrices_load_in_rows_and_in_columns() {
    let mut random = Random(41);
    let (inputs, matrices) = four_matrices(&mut random);
    for (num, count) in [("x1", 1), ("x2", 2), ("x4", 4)] {
        for trans in [false, true] {
            let suffix = if trans { ".trans" } else { "" };
            let clear: String = (0..4).map(|k| format!("mov.b32 %o{k}, 0;\n")).collect();
            let body = format!(
                "{STAGE}{clear}ldmatrix.sync.aligned.m8n8.{num}{suffix}.shared.b16 {}, [%at];",
                names("o", 0, count)
            );
            let out = run(&body, &inputs, 4);
            for (k, m) in matrices.iter().enumerate().take(count) {
                for lane in 0..32 {
                    // Lane l holds elements 2 (l % 4) and the next of row l / 4, or of column l / 4.
                    let pick = |c: usize| {
                        if trans {
                            m[c][lane / 4]
                        } else {
                            m[lane / 4][c]
                        }
                    };
                    let want =
                        u32::from(pick(lane % 4 * 2)) | u32::from(pick(lane % 4 * 2 + 1)) << 16;
                    assert_eq!(out[k][lane], want, "{num}{suffix} matrix {k} lane {lane}");
                }
            }
        }
    }
}

#[test]
fn a_matrix_loads_by_generic_address_and_offset() {
    let mut random = Random(43);
    let (inputs, _) = four_matrices(&mut random);
    let body = format!(
        "{STAGE}mul.wide.u32 %d1, %at, 1;\ncvta.shared.u64 %d1, %d1;\nldmatrix.sync.aligned.m8n8.x1.b16 {{%o0}}, [%d1+128];"
    );
    assert_eq!(run(&body, &inputs, 1)[0], inputs[1]);
}

#[test]
fn matrices_store_as_they_load() {
    let mut random = Random(47);
    let (inputs, matrices) = four_matrices(&mut random);
    for trans in [false, true] {
        let suffix = if trans { ".trans" } else { "" };
        let body = format!(
            "{STAGE}
            bar.sync 0;
            stmatrix.sync.aligned.m8n8.x4{suffix}.shared.b16 [%at+512], {{%i0, %i1, %i2, %i3}};
            bar.sync 0;
            ld.shared.b32 %o0, [%put+512];
            ld.shared.b32 %o1, [%put+640];
            ld.shared.b32 %o2, [%put+768];
            ld.shared.b32 %o3, [%put+896];"
        );
        let out = run(&body, &inputs, 4);
        for (k, m) in matrices.iter().enumerate() {
            for lane in 0..32 {
                let pick = |c: usize| {
                    if trans {
                        m[c][lane / 4]
                    } else {
                        m[lane / 4][c]
                    }
                };
                let want = u32::from(pick(lane % 4 * 2)) | u32::from(pick(lane % 4 * 2 + 1)) << 16;
                assert_eq!(out[k][lane], want, "matrix {k} lane {lane}");
            }
        }
    }
}

#[test]
fn a_fragment_transposes_in_registers() {
    let mut random = Random(53);
    let (inputs, matrices) = four_matrices(&mut random);
    let out = run(
        "movmatrix.sync.aligned.m8n8.trans.b16 %o0, %i2;",
        &inputs,
        1,
    );
    for lane in 0..32 {
        let pick = |c: usize| u32::from(matrices[2][c][lane / 4]);
        assert_eq!(
            out[0][lane],
            pick(lane % 4 * 2) | pick(lane % 4 * 2 + 1) << 16
        );
    }
}

#[test]
fn rows_off_sixteen_bytes_are_reported() {
    let body = format!("{STAGE}ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%o0}}, [%at+4];");
    reported(
        &body,
        &[[0; 32]; 4],
        1,
        Check::Alignment,
        "past a multiple of 16",
    );
    let body = format!(
        "{STAGE}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%o0, %o1, %o2, %o3}}, [%at+512];"
    );
    reported(
        &body,
        &[[0; 32]; 4],
        4,
        Check::UninitMemory,
        "never written",
    );
    let body = format!(
        "{STAGE}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%o0, %o1, %o2, %o3}}, [%at+1008];"
    );
    reported(
        &body,
        &[[0; 32]; 4],
        4,
        Check::Bounds,
        "past the 1024 bytes",
    );
}

#[test]
fn rows_in_one_bank_are_counted() {
    // Eight rows 128 bytes apart all begin in bank 0: eight wavefronts. Rows 16 bytes apart: one a matrix.
    let spread = "
        .shared .align 128 .b8 tile[4096];
        .reg .b32 %row; .reg .b32 %at; .reg .b32 %put;
        mov.u32 %row, tile;
        shl.b32 %at, %t0, 7;
        add.u32 %at, %at, %row;
        st.shared.v4.b32 [%at], {%t0, %t0, %t0, %t0};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%o0, %o1, %o2, %o3}, [%at];";
    let close =
        format!("{STAGE}ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%o0, %o1, %o2, %o3}}, [%at];");
    for (body, inputs, want) in [(spread, 0, (32, 4)), (close.as_str(), 4, (4, 4))] {
        let setup = ptx_emulator::run::Setup::default();
        let done = warp::try_lanes(body, &vec![[0; 32]; inputs], 4, &setup).expect("it runs");
        let counts = done
            .counters
            .instructions
            .iter()
            .rev()
            .map(|c| c.shared)
            .find(|c| c.bytes == 512);
        let counts = counts.expect("the load of four matrices is counted");
        assert_eq!((counts.passes, counts.ideal), want);
        assert_eq!(counts.requests, 1);
    }
}

//! binary16 and bfloat16 instructions, against an arbitrary-precision software implementation.

mod lanes;

use lanes::Reg::{H, W};
use lanes::{Mix, check, product, refused, rows, table};
use rustc_apfloat::ieee::{BFloat, Half};
use rustc_apfloat::{Float, Round};

const NAN: u64 = 0x7fff;
const RN: Round = Round::NearestTiesToEven;

/// A format under test.
struct Format {
    name: &'static str,
    infinity: u64,
    one: u64,
    value: fn(u64) -> f64,
    op: fn(&str, &[u64]) -> u64,
}

fn operate<F: Float>(op: &str, v: &[u64]) -> u64 {
    let x: Vec<F> = v.iter().map(|&b| F::from_bits(u128::from(b))).collect();
    let result = match op {
        "add" => x[0].add_r(x[1], RN),
        "sub" => x[0].sub_r(x[1], RN),
        "mul" => x[0].mul_r(x[1], RN),
        _ => x[0].mul_add_r(x[1], x[2], RN),
    };
    if result.value.is_nan() {
        NAN
    } else {
        result.value.to_bits() as u64
    }
}

fn f16_value(b: u64) -> f64 {
    let (e, m) = ((b >> 10 & 31) as i32, (b & 0x3ff) as f64);
    let magnitude = match e {
        0 => m * 2f64.powi(-24),
        31 if m == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1024.0 + m) * 2f64.powi(e - 25),
    };
    if b & 0x8000 != 0 {
        -magnitude
    } else {
        magnitude
    }
}

fn bf16_value(b: u64) -> f64 {
    f32::from_bits((b as u32) << 16).into()
}

const FORMATS: [Format; 2] = [
    Format {
        name: "f16",
        infinity: 0x7c00,
        one: 0x3c00,
        value: f16_value,
        op: operate::<Half>,
    },
    Format {
        name: "bf16",
        infinity: 0x7f80,
        one: 0x3f80,
        value: bf16_value,
        op: operate::<BFloat>,
    },
];

impl Format {
    fn is_nan(&self, x: u64) -> bool {
        x & 0x7fff > self.infinity
    }
    fn flush(&self, x: u64) -> u64 {
        if x & self.infinity == 0 {
            x & 0x8000
        } else {
            x
        }
    }
    fn finish(&self, x: u64, ftz: bool, last: &str) -> u64 {
        let x = if ftz { self.flush(x) } else { x };
        let value = (self.value)(x);
        match last {
            ".sat" if value.is_nan() || value <= 0.0 => 0,
            ".sat" if value > 1.0 => self.one,
            ".relu" if !value.is_nan() && value <= 0.0 => 0,
            _ => x,
        }
    }

    /// Edges of the format, both signs.
    fn edges(&self) -> Vec<u64> {
        let normal = self.infinity & self.infinity.wrapping_neg();
        let list = [
            0,
            1,
            2,
            normal / 2,
            normal - 1,
            normal,
            normal + 1,
            self.one - 1,
            self.one,
            self.one + 1,
            self.one + normal / 2,
            self.infinity - 1,
            self.infinity,
            self.infinity + 1,
            NAN,
        ];
        list.iter().flat_map(|&x| [x, x | 0x8000]).collect()
    }

    /// Rows of edges and of random numbers, near each other and far.
    fn rows(&self, columns: usize) -> Vec<Vec<u64>> {
        let edges = self.edges();
        let few: Vec<u64> = edges
            .iter()
            .copied()
            .step_by(if columns == 3 { 3 } else { 1 })
            .collect();
        let lists: Vec<&[u64]> = vec![&few; columns];
        let mut rows = product(&lists);
        let mut mix = Mix(columns as u64);
        rows.extend(mix.rows(6000, columns, 16));
        for _ in 0..6000 {
            // Exponents about that of one.
            let row = (0..columns).map(|_| {
                let r = mix.bits() & 0xffff;
                (r & 0x9fff & !self.infinity)
                    | (self.one & self.infinity & !(3 << 13))
                    | (r & self.infinity & 0x1fff)
                    | (self.one & 3 << 13)
            });
            rows.push(row.collect());
        }
        rows
    }
}

/// Checks an operation on one number a register and on two.
fn both(
    format: &Format,
    head: &str,
    arity: usize,
    operands: &[Vec<u64>],
    expect: impl Fn(&[u64]) -> u64,
) {
    let names = &[" %d, %a;", " %d, %a, %b;", " %d, %a, %b, %c;"][arity - 1];
    check(
        &format!("{head}.{}{names}", format.name),
        H,
        &vec![H; arity],
        operands,
        &expect,
    );
    // The other half comes from the row after.
    let pairs: Vec<Vec<u64>> = (0..operands.len())
        .map(|k| {
            (0..arity)
                .map(|c| operands[k][c] | operands[(k + 1) % operands.len()][c] << 16)
                .collect()
        })
        .collect();
    check(
        &format!("{head}.{}x2{names}", format.name),
        W,
        &vec![W; arity],
        &pairs,
        |v| {
            let half = |shift: u32| -> Vec<u64> { v.iter().map(|x| x >> shift & 0xffff).collect() };
            expect(&half(0)) | expect(&half(16)) << 16
        },
    );
}

#[test]
fn arithmetic_rounds_once() {
    for format in &FORMATS {
        for op in ["add", "sub", "mul", "fma"] {
            let arity = if op == "fma" { 3 } else { 2 };
            let operands = format.rows(arity);
            let half = format.name == "f16";
            for ftz in [false, true] {
                for last in ["", ".sat", ".relu"] {
                    let exists = match last {
                        ".sat" => half,
                        ".relu" => op == "fma",
                        _ => true,
                    };
                    if !exists || ftz && !half {
                        continue;
                    }
                    let head = format!("{op}.rn{}{last}", if ftz { ".ftz" } else { "" });
                    both(format, &head, arity, &operands, |v| {
                        let args: Vec<u64> = v
                            .iter()
                            .map(|&x| if ftz { format.flush(x) } else { x })
                            .collect();
                        format.finish((format.op)(op, &args), ftz, last)
                    });
                }
            }
        }
    }
}

#[test]
fn a_fused_product_decides_ties() {
    table(
        "fma.rn.f16 %d, %a, %b, %c;",
        H,
        &[H; 3],
        &[
            // (2^-11)·1 + 1 is a tie: to even.
            (&[0x1000, 0x3c00, 0x3c00], 0x3c00),
            // (2^-11)(1 + 2^-10) + 1 is just above it.
            (&[0x1000, 0x3c01, 0x3c00], 0x3c01),
            // 2^-11·(1 - 2^-11) + 1 + 2^-10 is just below one; 2^-11 + 1 + 2^-10 is one, and its even neighbour above.
            (&[0x1000, 0x3bff, 0x3c01], 0x3c01),
            (&[0x1000, 0x3c00, 0x3c01], 0x3c02),
        ],
    );
    // bfloat16: products past binary32's range, on both sides.
    table(
        "fma.rn.bf16 %d, %a, %b, %c;",
        H,
        &[H; 3],
        &[
            (&[0x0001, 0x0001, 0x3f80], 0x3f80),
            (&[0x7f00, 0x7f00, 0xff80], 0xff80),
            (&[0x7f00, 0x7f00, 0], 0x7f80),
            // 2^-8·(1 + 2^-7) + 1 is just above a tie.
            (&[0x3b80, 0x3f81, 0x3f80], 0x3f81),
        ],
    );
}

#[test]
fn signs() {
    for format in &FORMATS {
        let operands: Vec<Vec<u64>> = (0..0x10000).step_by(7).map(|v| vec![v]).collect();
        both(format, "abs", 1, &operands, |v| v[0] & 0x7fff);
        both(format, "neg", 1, &operands, |v| v[0] ^ 0x8000);
    }
    let operands: Vec<Vec<u64>> = FORMATS[0].edges().into_iter().map(|v| vec![v]).collect();
    both(&FORMATS[0], "abs.ftz", 1, &operands, |v| {
        FORMATS[0].flush(v[0]) & 0x7fff
    });
    both(&FORMATS[0], "neg.ftz", 1, &operands, |v| {
        FORMATS[0].flush(v[0]) ^ 0x8000
    });
}

#[test]
fn extremes() {
    for format in &FORMATS {
        let edges = format.edges();
        let operands = product(&[&edges, &edges]);
        for (op, max) in [("min", false), ("max", true)] {
            for ftz in [false, true] {
                for nan in [false, true] {
                    for signs in [false, true] {
                        if ftz && format.name == "bf16" {
                            continue;
                        }
                        let flag = |on, text| if on { text } else { "" };
                        let head = format!(
                            "{op}{}{}{}",
                            flag(ftz, ".ftz"),
                            flag(nan, ".NaN"),
                            flag(signs, ".xorsign.abs")
                        );
                        both(format, &head, 2, &operands, |v| {
                            let arg = |x| {
                                let x = if ftz { format.flush(x) } else { x };
                                if signs { x & 0x7fff } else { x }
                            };
                            let (a, b) = (arg(v[0]), arg(v[1]));
                            let (a_nan, b_nan) = (format.is_nan(a), format.is_nan(b));
                            if a_nan && b_nan || nan && (a_nan || b_nan) {
                                return NAN;
                            }
                            let key = |x: u64| {
                                if x & 0x8000 != 0 {
                                    -((x & 0x7fff) as i64) - 1
                                } else {
                                    x as i64
                                }
                            };
                            let chosen = match (a_nan, b_nan) {
                                (true, _) => b,
                                (_, true) => a,
                                _ => {
                                    if (key(a) < key(b)) != max {
                                        a
                                    } else {
                                        b
                                    }
                                }
                            };
                            if signs {
                                chosen | (v[0] ^ v[1]) & 0x8000
                            } else {
                                chosen
                            }
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn approximations() {
    let every: Vec<Vec<u64>> = (0..0x10000).map(|v| vec![v]).collect();
    for (format, ftz, bound, small) in [
        (&FORMATS[0], "", 2f64.powf(-9.9), 2f64.powi(-24)),
        (&FORMATS[1], ".ftz", 2f64.powi(-7), 0.0),
    ] {
        let results = rows(
            &format!("ex2.approx{ftz}.{} %d, %a;", format.name),
            &[H],
            &[H],
            &every,
        );
        for (v, r) in every.iter().zip(results) {
            let (x, got) = ((format.value)(v[0]), (format.value)(r[0]));
            let want = x.exp2();
            if x.is_nan() {
                assert_eq!(r[0], NAN);
            } else if want > (format.value)(format.infinity - 1) * 1.0001 {
                assert_eq!(r[0], format.infinity);
            } else if want < f64::from(f32::MIN_POSITIVE) && format.name == "bf16" {
                assert_eq!(r[0], 0);
            } else {
                assert!(
                    (got - want).abs() <= (bound * want).max(small),
                    "2^{x}: {got}, where {want} belongs"
                );
            }
        }
    }
    for (format, bound) in [
        (&FORMATS[0], 2f64.powf(-10.987)),
        (&FORMATS[1], 2f64.powi(-8)),
    ] {
        let results = rows(
            &format!("tanh.approx.{} %d, %a;", format.name),
            &[H],
            &[H],
            &every,
        );
        for (v, r) in every.iter().zip(results) {
            let (x, got) = ((format.value)(v[0]), (format.value)(r[0]));
            if x.is_nan() {
                assert_eq!(r[0], NAN);
            } else {
                assert!((got - x.tanh()).abs() <= bound, "tanh {x}: {got}");
                assert_eq!(got.is_sign_negative(), x.is_sign_negative());
            }
        }
    }
    // Two at once are the same as one and one.
    let pairs: Vec<Vec<u64>> = (0..2000)
        .map(|k| vec![(k * 0x0020_8081) & 0xffff_ffff])
        .collect();
    for op in [
        "ex2.approx.f16",
        "ex2.approx.ftz.f16",
        "ex2.approx.ftz.bf16",
        "tanh.approx.f16",
        "tanh.approx.bf16",
    ] {
        let two = rows(&format!("{op}x2 %d, %a;"), &[W], &[W], &pairs);
        let halves: Vec<Vec<u64>> = pairs
            .iter()
            .flat_map(|v| [vec![v[0] & 0xffff], vec![v[0] >> 16]])
            .collect();
        let one = rows(&format!("{op} %d, %a;"), &[H], &[H], &halves);
        for (k, r) in two.iter().enumerate() {
            assert_eq!(r[0], one[2 * k][0] | one[2 * k + 1][0] << 16);
        }
    }
}

#[test]
fn what_does_not_exist_is_refused() {
    for body in [
        "add.sat.bf16 %d, %a, %a;",
        "fma.f16 %d, %a, %a, %a;",
        "fma.rn.oob.f16 %d, %a, %a, %a;",
        "min.ftz.bf16 %d, %a, %a;",
        "tanh.f16 %d, %a;",
        "fma.rn.sat.relu.f16 %d, %a, %a, %a;",
    ] {
        refused(body, &[H], &[H]);
    }
}

//! `mma`.

use super::*;

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
fn products_are_added_in_turn_whatever_their_bits() {
    let mut random = Random(29);
    for &(name, at, bt, ct) in FLOATS.iter().filter(|form| form.3 == "f32") {
        let s = shape(name);
        let form = format!("{name}.row.col.{ct}.{at}.{bt}.{ct}");
        for round in 0..6 {
            // Any bits; then none that are large, so that most sums are numbers; then subnormals alone.
            let mut draw = |format: &str, spare: usize| {
                let bits = bits_of(format);
                let raw = u64::from(random.word()) & ((1 << bits) - 1);
                match round % 3 {
                    0 => raw,
                    1 => raw & !(1 << (bits - 2)),
                    _ => raw & (1 << (bits - 1) | ((1 << (bits - spare)) - 1)),
                }
            };
            let spare = |format: &str| match format {
                "f16" | "e5m2" => 6,
                "e4m3" => 5,
                _ => 9,
            };
            let a = matrix(16, s.k, || draw(at, spare(at)));
            let b = matrix(s.k, 8, || draw(bt, spare(bt)));
            let c = matrix(16, 8, || draw(ct, spare(ct)));
            let d = mma(&form, &s, bits_of(at), 32, &a, &b, &c);
            for r in 0..16 {
                for n in 0..8 {
                    let sum = (0..s.k).fold(value(ct, c[r][n]) as f32, |sum, k| {
                        (value(at, a[r][k]) as f32).mul_add(value(bt, b[k][n]) as f32, sum)
                    });
                    let want = if sum.is_nan() {
                        0x7fff_ffff
                    } else {
                        sum.to_bits()
                    };
                    assert_eq!(
                        d[r][n],
                        u64::from(want),
                        "{form} round {round} row {r} column {n}"
                    );
                }
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

//! binary32 and binary64 instructions, against an arbitrary-precision software implementation.

mod lanes;

use lanes::Reg::{D, P, W};
use lanes::{Mix, check, product, refused, rows, table};
use rustc_apfloat::ieee::{Double, Quad, Single};
use rustc_apfloat::{Float, FloatConvert, Round};
use std::cmp::Ordering;

const MODES: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

const NAN: u64 = 0x7fff_ffff;
const NAN64: u64 = 0xfff8_0000_0000_0000;
const INF: u64 = 0x7f80_0000;
const MINUS: u64 = 0x8000_0000;
const ONE: u64 = 0x3f80_0000;

/// Both signs of magnitudes at every edge of binary32.
fn singles() -> Vec<u64> {
    let magnitudes = [
        0,
        1,
        2,
        0x0040_0000,
        0x007f_ffff,
        0x0080_0000,
        0x0080_0001,
        0x0100_0000,
        0x3400_0000,
        0x337f_ffff,
        0x3f00_0000,
        0x3f7f_ffff,
        ONE,
        0x3f80_0001,
        0x3fc0_0000,
        0x4000_0000,
        0x4b7f_ffff,
        0x4b80_0001,
        0x7e80_0000,
        0x7f00_0000,
        0x7f7f_ffff,
        INF,
        0x7f80_0001,
        0x7fc0_0000,
    ];
    magnitudes.iter().flat_map(|&m| [m, m | MINUS]).collect()
}

fn doubles() -> Vec<u64> {
    let magnitudes = [
        0,
        1,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x0010_0000_0000_0001,
        0x3ca0_0000_0000_0000,
        0x3fe0_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0x3ff0_0000_0000_0001,
        0x3ff8_0000_0000_0000,
        0x4340_0000_0000_0001,
        0x7fe0_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
    ];
    magnitudes.iter().flat_map(|&m| [m, m | 1 << 63]).collect()
}

/// Random numbers whose exponents are near each other, so that sums and products meet.
fn near(mix: &mut Mix, count: usize, columns: usize, wide: bool) -> Vec<Vec<u64>> {
    (0..count)
        .map(|_| {
            let base = mix.bits();
            (0..columns)
                .map(|_| {
                    let r = mix.bits();
                    if wide {
                        let exponent = (1023 + (r >> 52 & 63)).wrapping_sub(base & 63) & 0x7ff;
                        r & 0x800f_ffff_ffff_ffff | exponent << 52
                    } else {
                        let exponent = (127 + (r >> 23 & 31)).wrapping_sub(base & 31) & 0xff;
                        r & 0x807f_ffff | exponent << 23
                    }
                })
                .collect()
        })
        .collect()
}

fn flush(x: u64) -> u64 {
    if x & 0x7f80_0000 == 0 { x & MINUS } else { x }
}

fn is_nan(x: u64) -> bool {
    x & 0x7fff_ffff > INF
}

fn saturate(x: u64) -> u64 {
    let value = f32::from_bits(x as u32);
    if value.is_nan() || value <= 0.0 {
        0
    } else {
        u64::from(value.min(1.0).to_bits())
    }
}

/// What an operation gives for bits `v`, with modifiers.
fn expect32(v: &[u64], ftz: bool, sat: bool, f: &dyn Fn(&[Single]) -> Single) -> u64 {
    let args: Vec<Single> = v
        .iter()
        .map(|&x| Single::from_bits(u128::from(if ftz { flush(x) } else { x })))
        .collect();
    let result = f(&args).to_bits() as u64;
    let result = if is_nan(result) { NAN } else { result };
    let result = if ftz { flush(result) } else { result };
    if sat { saturate(result) } else { result }
}

fn expect64(v: &[u64], f: &dyn Fn(&[Double]) -> Double) -> u64 {
    let args: Vec<Double> = v
        .iter()
        .map(|&x| Double::from_bits(u128::from(x)))
        .collect();
    let result = f(&args);
    if result.is_nan() {
        NAN64
    } else {
        result.to_bits() as u64
    }
}

#[test]
fn single_arithmetic_in_every_rounding() {
    let mut mix = Mix(1);
    let mut two = product(&[&singles(), &singles()]);
    two.extend(mix.rows(500, 2, 32));
    two.extend(near(&mut mix, 1500, 2, false));
    let mut three = near(&mut mix, 3000, 3, false);
    three.extend(mix.rows(500, 3, 32));
    let few: Vec<u64> = singles().into_iter().step_by(3).collect();
    three.extend(product(&[&few, &few, &few]));
    // Cancellation: a·b against the rounded product.
    for row in near(&mut mix, 500, 2, false) {
        let p = f32::from_bits(row[0] as u32) * f32::from_bits(row[1] as u32);
        three.push(vec![row[0], row[1], u64::from((-p).to_bits())]);
    }
    for (mode, round) in MODES {
        for (ftz, sat) in [(false, false), (true, false), (false, true), (true, true)] {
            let suffix = format!(
                "{mode}{}{}.f32",
                if ftz { ".ftz" } else { "" },
                if sat { ".sat" } else { "" }
            );
            check(
                &format!("add.{suffix} %d, %a, %b;"),
                W,
                &[W; 2],
                &two,
                |v| expect32(v, ftz, sat, &|x| x[0].add_r(x[1], round).value),
            );
            check(
                &format!("sub.{suffix} %d, %a, %b;"),
                W,
                &[W; 2],
                &two,
                |v| expect32(v, ftz, sat, &|x| x[0].sub_r(x[1], round).value),
            );
            check(
                &format!("mul.{suffix} %d, %a, %b;"),
                W,
                &[W; 2],
                &two,
                |v| expect32(v, ftz, sat, &|x| x[0].mul_r(x[1], round).value),
            );
            let fma =
                |v: &[u64]| expect32(v, ftz, sat, &|x| x[0].mul_add_r(x[1], x[2], round).value);
            check(
                &format!("fma.{suffix} %d, %a, %b, %c;"),
                W,
                &[W; 3],
                &three,
                fma,
            );
            if !ftz && !sat {
                check(
                    &format!("mad.{suffix} %d, %a, %b, %c;"),
                    W,
                    &[W; 3],
                    &three,
                    fma,
                );
            }
        }
        for ftz in [false, true] {
            let suffix = format!("{mode}{}.f32", if ftz { ".ftz" } else { "" });
            check(
                &format!("div.{suffix} %d, %a, %b;"),
                W,
                &[W; 2],
                &two,
                |v| expect32(v, ftz, false, &|x| x[0].div_r(x[1], round).value),
            );
            let one = Single::from_bits(u128::from(ONE));
            check(&format!("rcp.{suffix} %d, %a;"), W, &[W], &two, |v| {
                expect32(&v[..1], ftz, false, &|x| one.div_r(x[0], round).value)
            });
            check(&format!("sqrt.{suffix} %d, %a;"), W, &[W], &two, |v| {
                expect32(&v[..1], ftz, false, &|x| root32(x[0], round))
            });
        }
    }
}

#[test]
fn a_plain_add_rounds_to_nearest() {
    // 1 + 2^-24 is a tie: to even.
    table(
        "add.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[
            (&[ONE, 0x3380_0000], ONE),
            (&[0x3f80_0001, 0x3380_0000], 0x3f80_0002),
        ],
    );
    table(
        "mul.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[(&[INF, 0], NAN), (&[ONE | MINUS, 0], MINUS)],
    );
    table(
        "add.rm.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[
            (&[ONE, ONE | MINUS], MINUS),
            (&[0, MINUS], MINUS),
            (&[0, 0], 0),
        ],
    );
    table(
        "add.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[(&[ONE, ONE | MINUS], 0), (&[MINUS, MINUS], MINUS)],
    );
}

#[test]
fn two_singles_in_a_register() {
    let mut mix = Mix(2);
    let values: Vec<u64> = singles();
    let rows: Vec<Vec<u64>> = (0..2000)
        .map(|_| {
            (0..3)
                .map(|_| {
                    let pick = |r: u64| values[r as usize % values.len()];
                    let (r, s) = (mix.bits(), mix.bits());
                    match r >> 60 {
                        0..=3 => pick(r & 0xffff) | pick(s & 0xffff) << 32,
                        _ => r,
                    }
                })
                .collect()
        })
        .collect();
    let half = |v: &[u64], shift: u32| -> Vec<u64> {
        v.iter().map(|x| x >> shift & 0xffff_ffff).collect()
    };
    for (mode, round) in MODES {
        for ftz in [false, true] {
            let suffix = format!("{mode}{}.f32x2", if ftz { ".ftz" } else { "" });
            let both = |v: &[u64], f: &dyn Fn(&[Single]) -> Single| {
                expect32(&half(v, 0), ftz, false, f) | expect32(&half(v, 32), ftz, false, f) << 32
            };
            check(
                &format!("add.{suffix} %d, %a, %b;"),
                D,
                &[D; 2],
                &rows,
                |v| both(&v[..2], &|x| x[0].add_r(x[1], round).value),
            );
            check(
                &format!("sub.{suffix} %d, %a, %b;"),
                D,
                &[D; 2],
                &rows,
                |v| both(&v[..2], &|x| x[0].sub_r(x[1], round).value),
            );
            check(
                &format!("mul.{suffix} %d, %a, %b;"),
                D,
                &[D; 2],
                &rows,
                |v| both(&v[..2], &|x| x[0].mul_r(x[1], round).value),
            );
            check(
                &format!("fma.{suffix} %d, %a, %b, %c;"),
                D,
                &[D; 3],
                &rows,
                |v| both(v, &|x| x[0].mul_add_r(x[1], x[2], round).value),
            );
        }
    }
}

#[test]
fn double_arithmetic_in_every_rounding() {
    let mut mix = Mix(3);
    let mut two = product(&[&doubles(), &doubles()]);
    two.extend(mix.rows(300, 2, 64));
    two.extend(near(&mut mix, 1000, 2, true));
    let few: Vec<u64> = doubles().into_iter().step_by(2).collect();
    let mut three = product(&[&few, &few, &few]);
    three.extend(near(&mut mix, 1500, 3, true));
    for row in near(&mut mix, 300, 2, true) {
        let p = f64::from_bits(row[0]) * f64::from_bits(row[1]);
        three.push(vec![row[0], row[1], (-p).to_bits()]);
    }
    for (mode, round) in MODES {
        check(
            &format!("add.{mode}.f64 %d, %a, %b;"),
            D,
            &[D; 2],
            &two,
            |v| expect64(v, &|x| x[0].add_r(x[1], round).value),
        );
        check(
            &format!("sub.{mode}.f64 %d, %a, %b;"),
            D,
            &[D; 2],
            &two,
            |v| expect64(v, &|x| x[0].sub_r(x[1], round).value),
        );
        check(
            &format!("mul.{mode}.f64 %d, %a, %b;"),
            D,
            &[D; 2],
            &two,
            |v| expect64(v, &|x| x[0].mul_r(x[1], round).value),
        );
        check(
            &format!("div.{mode}.f64 %d, %a, %b;"),
            D,
            &[D; 2],
            &two,
            |v| expect64(v, &|x| x[0].div_r(x[1], round).value),
        );
        check(
            &format!("fma.{mode}.f64 %d, %a, %b, %c;"),
            D,
            &[D; 3],
            &three,
            |v| expect64(v, &|x| x[0].mul_add_r(x[1], x[2], round).value),
        );
        let one = Double::from_bits(u128::from(1f64.to_bits()));
        check(&format!("rcp.{mode}.f64 %d, %a;"), D, &[D], &two, |v| {
            expect64(&v[..1], &|x| one.div_r(x[0], round).value)
        });
        check(&format!("sqrt.{mode}.f64 %d, %a;"), D, &[D], &two, |v| {
            expect64(&v[..1], &|x| root64(x[0], round))
        });
    }
}

/// The square root by search: the largest number whose square is not above `x`, or the next one, as the
/// direction says. Squares are exact in binary128.
fn root64(x: Double, round: Round) -> Double {
    if x.is_nan() || x.is_zero() || (x.is_negative()) || x.is_infinite() {
        return if x.is_zero() || (x.is_infinite() && !x.is_negative()) {
            x
        } else {
            Double::qnan(None)
        };
    }
    let quad = |v: Double| -> Quad { v.convert_r(Round::NearestTiesToEven, &mut false).value };
    let target = quad(x);
    let at_most = |v: Double| {
        matches!(
            (quad(v) * quad(v)).value.partial_cmp(&target),
            Some(Ordering::Less | Ordering::Equal)
        )
    };
    let mut low = Double::from_bits(u128::from(
        f64::from_bits(x.to_bits() as u64).sqrt().to_bits(),
    ));
    while !at_most(low) {
        low = low.next_down().value;
    }
    while at_most(low.next_up().value) {
        low = low.next_up().value;
    }
    let exact = (quad(low) * quad(low)).value == target;
    let high = low.next_up().value;
    match round {
        _ if exact => low,
        Round::TowardPositive => high,
        Round::TowardZero | Round::TowardNegative => low,
        _ => {
            let half = Quad::from_bits(u128::from(0x3ffeu32) << 112);
            let middle = ((quad(low) + quad(high)).value * half).value;
            // The root is never halfway between two numbers.
            if (middle * middle).value < target {
                high
            } else {
                low
            }
        }
    }
}

fn root32(x: Single, round: Round) -> Single {
    let wide: Double = x.convert_r(Round::NearestTiesToEven, &mut false).value;
    // Toward zero at first, with a last bit that says whether more followed.
    let down = root64(wide, Round::TowardZero);
    if !down.is_finite_non_zero() {
        return down.convert_r(round, &mut false).value;
    }
    let exact = root64(wide, Round::TowardPositive).bitwise_eq(down);
    let odd = if exact {
        down.to_bits()
    } else {
        down.to_bits() | 1
    };
    Double::from_bits(odd).convert_r(round, &mut false).value
}

#[test]
fn signs() {
    let list: Vec<Vec<u64>> = singles().into_iter().map(|v| vec![v]).collect();
    check("abs.f32 %d, %a;", W, &[W], &list, |v| v[0] & !MINUS);
    check("neg.f32 %d, %a;", W, &[W], &list, |v| v[0] ^ MINUS);
    check("abs.ftz.f32 %d, %a;", W, &[W], &list, |v| {
        flush(v[0]) & !MINUS
    });
    check("neg.ftz.f32 %d, %a;", W, &[W], &list, |v| {
        flush(v[0]) ^ MINUS
    });
    let pairs = product(&[&singles(), &singles()]);
    check("copysign.f32 %d, %a, %b;", W, &[W; 2], &pairs, |v| {
        v[0] & MINUS | v[1] & !MINUS
    });
    let list: Vec<Vec<u64>> = doubles().into_iter().map(|v| vec![v]).collect();
    check("abs.f64 %d, %a;", D, &[D], &list, |v| v[0] & !(1 << 63));
    check("neg.f64 %d, %a;", D, &[D], &list, |v| v[0] ^ 1 << 63);
    check(
        "copysign.f64 %d, %a, %b;",
        D,
        &[D; 2],
        &product(&[&doubles(), &doubles()]),
        |v| v[0] & 1 << 63 | v[1] & !(1 << 63),
    );
}

#[test]
fn extremes() {
    let pairs = product(&[&singles(), &singles()]);
    for (name, max) in [("min", false), ("max", true)] {
        for ftz in [false, true] {
            for nan in [false, true] {
                for signs in [false, true] {
                    let flag = |on, text| if on { text } else { "" };
                    let body = format!(
                        "{name}{}{}{}.f32 %d, %a, %b;",
                        flag(ftz, ".ftz"),
                        flag(nan, ".NaN"),
                        flag(signs, ".xorsign.abs")
                    );
                    check(&body, W, &[W; 2], &pairs, |v| {
                        let sign = (v[0] ^ v[1]) & MINUS;
                        let arg = |x| {
                            let x = if ftz { flush(x) } else { x };
                            if signs { x & !MINUS } else { x }
                        };
                        let (a, b) = (arg(v[0]), arg(v[1]));
                        if is_nan(a) && is_nan(b) || nan && (is_nan(a) || is_nan(b)) {
                            return NAN;
                        }
                        let chosen = if is_nan(a) {
                            b
                        } else if is_nan(b) {
                            a
                        } else {
                            // By order of the line, where -0 is before +0.
                            let key = |x: u64| {
                                if x & MINUS != 0 {
                                    -((x & !MINUS) as i64) - 1
                                } else {
                                    x as i64
                                }
                            };
                            if (key(a) < key(b)) != max { a } else { b }
                        };
                        if signs { chosen | sign } else { chosen }
                    });
                }
            }
        }
        check(
            &format!("{name}.f64 %d, %a, %b;"),
            D,
            &[D; 2],
            &product(&[&doubles(), &doubles()]),
            |v| {
                let (a, b) = (f64::from_bits(v[0]), f64::from_bits(v[1]));
                match (a.is_nan(), b.is_nan()) {
                    (true, true) => NAN64,
                    (true, false) => v[1],
                    (false, true) => v[0],
                    _ => {
                        if (a.total_cmp(&b) == Ordering::Less) != max {
                            v[0]
                        } else {
                            v[1]
                        }
                    }
                }
            },
        );
    }
}

#[test]
fn properties() {
    type Property = fn(f64, bool) -> bool;
    let properties: [(&str, Property); 6] = [
        ("finite", |x, _| x.is_finite()),
        ("infinite", |x, _| x.is_infinite()),
        ("number", |x, _| !x.is_nan()),
        ("notanumber", |x, _| x.is_nan()),
        // The ISA counts zeros among the normal numbers.
        ("normal", |x, subnormal| x.is_finite() && !subnormal),
        ("subnormal", |_, subnormal| subnormal),
    ];
    for (name, property) in properties {
        let list: Vec<Vec<u64>> = singles().into_iter().map(|v| vec![v]).collect();
        check(&format!("testp.{name}.f32 %d, %a;"), P, &[W], &list, |v| {
            let x = f32::from_bits(v[0] as u32);
            property(x.into(), x.is_subnormal()).into()
        });
        let list: Vec<Vec<u64>> = doubles().into_iter().map(|v| vec![v]).collect();
        check(&format!("testp.{name}.f64 %d, %a;"), P, &[D], &list, |v| {
            let x = f64::from_bits(v[0]);
            property(x, x.is_subnormal()).into()
        });
    }
}

/// Greatest error of `body` on `inputs`, as `measure` has it of (result, exact).
fn worst(
    body: &str,
    inputs: &[u64],
    exact: impl Fn(f64) -> f64,
    measure: impl Fn(f64, f64) -> f64,
) -> f64 {
    let list: Vec<Vec<u64>> = inputs.iter().map(|&v| vec![v]).collect();
    let results = rows(body, &[W], &[W], &list);
    let errors = inputs.iter().zip(results).map(|(&x, r)| {
        let (want, got) = (
            exact(f64::from(f32::from_bits(x as u32))),
            f64::from(f32::from_bits(r[0] as u32)),
        );
        if want == got { 0.0 } else { measure(got, want) }
    });
    errors.fold(0.0, f64::max)
}

fn relative(got: f64, want: f64) -> f64 {
    ((got - want) / want).abs()
}

fn between(mix: &mut Mix, low: f64, high: f64, count: usize) -> Vec<u64> {
    let unit = |r: u64| (r >> 11) as f64 / (1u64 << 53) as f64;
    (0..count)
        .map(|_| u64::from(((low + (high - low) * unit(mix.bits())) as f32).to_bits()))
        .collect()
}

#[test]
fn approximations_keep_their_bounds() {
    let mut mix = Mix(4);
    let ulp = 2f64.powi(-22);
    let wide = between(&mut mix, -125.9, 127.9, 20_000);
    assert!(worst("ex2.approx.ftz.f32 %d, %a;", &wide, f64::exp2, relative) <= ulp);
    assert!(worst("ex2.approx.f32 %d, %a;", &wide, f64::exp2, relative) <= ulp);
    assert!(
        worst(
            "ex2.approx.f32 %d, %a;",
            &between(&mut mix, -1.0, 1.0, 20_000),
            f64::exp2,
            relative
        ) <= ulp
    );
    // Subnormal results: half a unit of theirs, and what the approximation is off.
    let low = between(&mut mix, -149.0, -126.0, 4_000);
    assert!(
        worst("ex2.approx.f32 %d, %a;", &low, f64::exp2, |g, w| (g - w)
            .abs()
            / 2f64.powi(-149))
            <= 1.5
    );
    let positive: Vec<u64> = (0..20_000).map(|_| mix.bits() % INF).collect();
    assert!(
        worst("lg2.approx.f32 %d, %a;", &positive, f64::log2, |g, w| (g
            - w)
            .abs()
            .min(relative(g, w)))
            <= ulp
    );
    let any: Vec<u64> = (0..20_000)
        .map(|_| mix.bits() & 0xbfff_ffff | 0x2000_0000)
        .collect();
    assert!(worst("rcp.approx.f32 %d, %a;", &any, f64::recip, relative) <= 2f64.powi(-23));
    let positive: Vec<u64> = (0..20_000)
        .map(|_| 0x0080_0000 + mix.bits() % (INF - 0x0080_0000))
        .collect();
    assert!(
        worst(
            "rsqrt.approx.f32 %d, %a;",
            &positive,
            |x| 1.0 / x.sqrt(),
            relative
        ) <= 2f64.powf(-22.9)
    );
    assert!(worst("sqrt.approx.f32 %d, %a;", &positive, f64::sqrt, relative) <= 2f64.powi(-23));
    let angles = between(&mut mix, -7.0, 7.0, 20_000);
    assert!(
        worst("sin.approx.f32 %d, %a;", &angles, f64::sin, |g, w| (g - w)
            .abs())
            <= 2f64.powf(-20.5)
    );
    assert!(
        worst("cos.approx.f32 %d, %a;", &angles, f64::cos, |g, w| (g - w)
            .abs())
            <= 2f64.powf(-20.5)
    );
    assert!(worst("tanh.approx.f32 %d, %a;", &angles, f64::tanh, relative) <= 2f64.powi(-11));
}

#[test]
fn approximations_at_special_arguments() {
    let cases: [(&str, &[(u64, u64)]); 10] = [
        (
            "ex2.approx.f32",
            &[
                (INF | MINUS, 0),
                (MINUS, ONE),
                (0, ONE),
                (INF, INF),
                (NAN, NAN),
                (0x0040_0000 | MINUS, ONE),
                (0xc315_0000, 1),
                (0xc318_0000, 0),
                (0x4300_0000, INF),
            ],
        ),
        // 2^-127 is subnormal.
        (
            "ex2.approx.ftz.f32",
            &[
                (INF | MINUS, 0),
                (0, ONE),
                (0x40a0_0000, 0x4200_0000),
                (0xc2fe_0000, 0),
                (0xc2fc_0000, 0x0080_0000),
                (0xffc0_0000, NAN),
            ],
        ),
        (
            "lg2.approx.f32",
            &[
                (INF | MINUS, NAN),
                (ONE | MINUS, NAN),
                (MINUS, INF | MINUS),
                (0, INF | MINUS),
                (INF, INF),
                (ONE, 0),
                (0x4100_0000, 0x4040_0000),
                (1, 0xc315_0000),
            ],
        ),
        (
            "lg2.approx.ftz.f32",
            &[(1, INF | MINUS), (0x8000_0001, INF | MINUS)],
        ),
        (
            "rcp.approx.f32",
            &[
                (INF | MINUS, MINUS),
                (MINUS, INF | MINUS),
                (0, INF),
                (INF, 0),
                (NAN, NAN),
                (0x4000_0000, 0x3f00_0000),
            ],
        ),
        (
            "rcp.approx.ftz.f32",
            &[(1, INF), (0x8000_0001, INF | MINUS), (0x7f00_0000, 0)],
        ),
        (
            "rsqrt.approx.f32",
            &[
                (INF | MINUS, NAN),
                (ONE | MINUS, NAN),
                (MINUS, INF | MINUS),
                (0, INF),
                (INF, 0),
                (0x4080_0000, 0x3f00_0000),
            ],
        ),
        (
            "sqrt.approx.f32",
            &[
                (INF | MINUS, NAN),
                (ONE | MINUS, NAN),
                (MINUS, MINUS),
                (0, 0),
                (INF, INF),
                (0x4080_0000, 0x4000_0000),
            ],
        ),
        (
            "sin.approx.f32",
            &[
                (INF, NAN),
                (INF | MINUS, NAN),
                (MINUS, MINUS),
                (0, 0),
                (NAN, NAN),
            ],
        ),
        (
            "tanh.approx.f32",
            &[
                (INF, ONE),
                (INF | MINUS, ONE | MINUS),
                (MINUS, MINUS),
                (0, 0),
                (NAN, NAN),
            ],
        ),
    ];
    for (op, list) in cases {
        for (x, want) in list {
            table(&format!("{op} %d, %a;"), W, &[W], &[(&[*x], *want)]);
        }
    }
    table(
        "cos.approx.f32 %d, %a;",
        W,
        &[W],
        &[(&[0], ONE), (&[MINUS], ONE), (&[INF], NAN)],
    );
    table("cos.approx.ftz.f32 %d, %a;", W, &[W], &[(&[1], ONE)]);
}

#[test]
fn divisions() {
    let mut mix = Mix(5);
    let list = near(&mut mix, 5000, 2, false);
    for op in [
        "div.approx.f32",
        "div.approx.ftz.f32",
        "div.full.f32",
        "div.full.ftz.f32",
    ] {
        let results = rows(&format!("{op} %d, %a, %b;"), &[W], &[W; 2], &list);
        for (v, r) in list.iter().zip(results) {
            let exact =
                f64::from(f32::from_bits(v[0] as u32)) / f64::from(f32::from_bits(v[1] as u32));
            let got = f64::from(f32::from_bits(r[0] as u32));
            assert!(
                relative(got, exact) <= 2f64.powi(-22),
                "{op} of {v:x?}: {got} for {exact}"
            );
        }
    }
    // Past 2^126 the reciprocal is gone.
    table(
        "div.approx.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[
            (&[0x7f7f_ffff, 0x7e80_0001], 0),
            (&[0x7f7f_ffff | MINUS, 0x7e80_0001], MINUS),
            (&[INF, 0x7e80_0001], NAN),
            (&[ONE, INF], 0),
            (&[ONE, 0], INF),
            (&[0, 0], NAN),
            (&[0x7e80_0000, 0x7e80_0000], ONE),
        ],
    );
    table(
        "div.full.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[
            (&[0x7f00_0000, 0x7f00_0000], ONE),
            (&[ONE, MINUS], INF | MINUS),
        ],
    );
    table(
        "div.full.ftz.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[(&[1, ONE], 0), (&[ONE, 1], INF)],
    );
}

#[test]
fn gross_functions_of_doubles() {
    let mut mix = Mix(6);
    let list: Vec<Vec<u64>> = (0..2000)
        .map(|_| {
            let r = mix.bits();
            vec![r & 0x000f_ffff_ffff_ffff | (1 + (r >> 52) % 2045) << 52]
        })
        .collect();
    let results = rows(
        "rcp.approx.ftz.f64 %d, %a;\nrsqrt.approx.ftz.f64 %q, %a;",
        &[D, D],
        &[D],
        &list,
    );
    for (v, r) in list.iter().zip(results) {
        let x = f64::from_bits(v[0]);
        assert_eq!((r[0] & 0xffff_ffff, r[1] & 0xffff_ffff), (0, 0));
        let (a, b) = (f64::from_bits(r[0]), f64::from_bits(r[1]));
        assert!(
            a == 0.0 && x > 2f64.powi(1021) || relative(a, 1.0 / x) <= 2f64.powi(-19),
            "{x:e}: {a:e}"
        );
        assert!(
            relative(b, 1.0 / x.sqrt()) <= 1.8 * 2f64.powi(-18),
            "{x:e}: {b:e}"
        );
    }
    let minus = 1u64 << 63;
    let inf = f64::INFINITY.to_bits();
    table(
        "rcp.approx.ftz.f64 %d, %a;",
        D,
        &[D],
        &[
            (&[inf], 0),
            (&[inf | minus], minus),
            (&[0], inf),
            (&[minus | 5], inf | minus),
            (&[NAN64], NAN64),
        ],
    );
    table(
        "rsqrt.approx.ftz.f64 %d, %a;",
        D,
        &[D],
        &[
            (&[inf], 0),
            (&[minus], inf | minus),
            (&[7], inf),
            (&[inf | minus], NAN64),
        ],
    );
    table(
        "rsqrt.approx.f64 %d, %a;",
        D,
        &[D],
        &[(&[4f64.to_bits()], 0.5f64.to_bits())],
    );
}

#[test]
fn what_does_not_exist_is_refused() {
    for (body, regs) in [
        ("add.sat.f64 %d, %a, %a;", D),
        ("fma.f32 %d, %a, %a, %a;", W),
        ("div.f32 %d, %a, %a;", W),
        ("add.rn.rz.f32 %d, %a, %a;", W),
        ("max.xorsign.f32 %d, %a, %a;", W),
        ("tanh.approx.ftz.f32 %d, %a;", W),
        ("sin.full.f32 %d, %a;", W),
        ("testp.zero.f32 %d, %a;", W),
        ("min.f32 %d, %a, %a, %a;", W),
    ] {
        refused(body, &[regs], &[regs]);
    }
}

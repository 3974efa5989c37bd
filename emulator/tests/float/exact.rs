//! What the ISA defines to the last bit.

use super::*;

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

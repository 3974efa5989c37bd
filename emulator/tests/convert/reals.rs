//! From and to reals of 16, 32 and 64 bits.

use super::*;

#[test]
fn between_reals() {
    for from in REALS {
        for to in REALS {
            let list = from.operands();
            let narrows = to.width < from.width || (to.width == from.width && to.name != from.name);
            for (mode, round) in MODES {
                for ftz in [false, true] {
                    for sat in [false, true] {
                        if ftz && from.name != "f32" && to.name != "f32" || !narrows && mode != "rn"
                        {
                            continue;
                        }
                        let named = if narrows {
                            format!(".{mode}")
                        } else {
                            String::new()
                        };
                        let body = format!(
                            "cvt{named}{}{}.{}.{} %d, %a;",
                            if ftz { ".ftz" } else { "" },
                            if sat { ".sat" } else { "" },
                            to.name,
                            from.name
                        );
                        check(&body, to.reg, &[from.reg], &list, |v| {
                            let x = if ftz && from.name == "f32" {
                                flush(v[0])
                            } else {
                                v[0]
                            };
                            let result = to.result((from.to_double)(x), round);
                            let result = if ftz && to.name == "f32" {
                                flush(result)
                            } else {
                                result
                            };
                            if sat { saturate(&to, result) } else { result }
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn to_whole_numbers_of_the_same_type() {
    for real in REALS {
        let list = real.operands();
        for (mode, round) in MODES {
            let whole = |x: u64| {
                real.result(
                    (real.to_double)(x).round_to_integral(round).value,
                    Round::NearestTiesToEven,
                )
            };
            check(
                &format!("cvt.{mode}i.{0}.{0} %d, %a;", real.name),
                real.reg,
                &[real.reg],
                &list,
                |v| whole(v[0]),
            );
            if real.name == "f32" {
                check(
                    &format!("cvt.{mode}i.ftz.f32.f32 %d, %a;"),
                    W,
                    &[W],
                    &list,
                    |v| flush(whole(flush(v[0]))),
                );
                check(
                    &format!("cvt.{mode}i.sat.f32.f32 %d, %a;"),
                    W,
                    &[W],
                    &list,
                    |v| saturate(&real, whole(v[0])),
                );
            }
        }
    }
}

#[test]
fn from_reals_to_integers() {
    for from in REALS {
        let list = from.operands();
        for (to, width) in INTS {
            for target in [H, W, D].into_iter().filter(|r| size(*r) >= width) {
                for (mode, round) in MODES {
                    for ftz in [false, true] {
                        if ftz && from.name != "f32" {
                            continue;
                        }
                        let body = format!(
                            "cvt.{mode}i{}.{to}.{} %d, %a;",
                            if ftz { ".ftz" } else { "" },
                            from.name
                        );
                        check(&body, target, &[from.reg], &list, |v| {
                            let x = (from.to_double)(if ftz { flush(v[0]) } else { v[0] });
                            let value = if x.is_nan() {
                                if from.name == "f64" || width == 64 {
                                    integer(to, width, 1 << (width - 1))
                                } else {
                                    0
                                }
                            } else {
                                let (least, most) = limits(to, width);
                                // Saturates at 127 bits, which is past every limit.
                                x.to_i128_r(127, round, &mut false).value.clamp(least, most)
                            };
                            value as u64 & ones(size(target))
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn from_integers_to_reals() {
    for (from, width) in INTS {
        for source in [H, W, D].into_iter().filter(|r| size(*r) >= width) {
            let list = integers(size(source));
            for to in REALS {
                for (mode, round) in MODES {
                    check(
                        &format!("cvt.{mode}.{}.{from} %d, %a;", to.name),
                        to.reg,
                        &[source],
                        &list,
                        |v| (to.from_integer)(integer(from, width, v[0]), round),
                    );
                }
                check(
                    &format!("cvt.rn.sat.{}.{from} %d, %a;", to.name),
                    to.reg,
                    &[source],
                    &list,
                    |v| {
                        saturate(
                            &to,
                            (to.from_integer)(integer(from, width, v[0]), Round::NearestTiesToEven),
                        )
                    },
                );
            }
        }
    }
}

#[test]
fn pairs_and_clamps() {
    let singles = &REALS[2];
    let list = singles.operands();
    let pairs: Vec<Vec<u64>> = (0..list.len())
        .map(|k| vec![list[k][0], list[(k + 7) % list.len()][0]])
        .collect();
    for (to, max) in [(&REALS[0], 0x7bffu64), (&REALS[1], 0x7f7f)] {
        for (mode, round) in MODES {
            for relu in [false, true] {
                for finite in [false, true] {
                    let flags = format!(
                        "{}{}",
                        if relu { ".relu" } else { "" },
                        if finite { ".satfinite" } else { "" }
                    );
                    let one = |x: u64| {
                        clamped(
                            (singles.to_double)(x),
                            relu,
                            finite,
                            0x7fff,
                            max,
                            0x8000,
                            |x| (to.from_double)(x, round),
                        )
                    };
                    check(
                        &format!("cvt.{mode}{flags}.{}x2.f32 %d, %a, %b;", to.name),
                        W,
                        &[W; 2],
                        &pairs,
                        |v| one(v[0]) << 16 | one(v[1]),
                    );
                    check(
                        &format!("cvt.{mode}{flags}.{}.f32 %d, %a;", to.name),
                        H,
                        &[W],
                        &list,
                        |v| one(v[0]),
                    );
                }
            }
        }
    }
    table(
        "cvt.rn.satfinite.f16.f32 %d, %a;",
        H,
        &[W],
        &[
            (&[0x7f80_0000], 0x7bff),
            (&[0xff80_0000], 0xfbff),
            (&[0x4780_0000], 0x7bff),
        ],
    );
}

//! Several numbers in a register.

use super::*;

#[test]
fn dot_products() {
    let list = operands(3, 32);
    let part = |x: u64, width: u32, k: u32, sign: char| {
        value(x >> (width * k) & (u64::MAX >> (64 - width)), width, sign)
    };
    for a in ['u', 's'] {
        for b in ['u', 's'] {
            check(
                &format!("dp4a.{a}32.{b}32 %d, %a, %b, %c;"),
                W,
                &[W; 3],
                &list,
                |v| {
                    cut(
                        (0..4)
                            .map(|k| part(v[0], 8, k, a) * part(v[1], 8, k, b))
                            .sum::<i128>()
                            + i128::from(v[2]),
                        32,
                    )
                },
            );
            for (half, first) in [("lo", 0), ("hi", 2)] {
                check(
                    &format!("dp2a.{half}.{a}32.{b}32 %d, %a, %b, %c;"),
                    W,
                    &[W; 3],
                    &list,
                    |v| {
                        cut(
                            (0..2)
                                .map(|k| part(v[0], 16, k, a) * part(v[1], 8, first + k, b))
                                .sum::<i128>()
                                + i128::from(v[2]),
                            32,
                        )
                    },
                );
            }
        }
    }
}

#[test]
fn pairs_of_16_bits() {
    let list = operands(2, 32);
    let both = |v: &[u64], f: &dyn Fn(u64, u64) -> u64| {
        f(v[0] & 0xffff, v[1] & 0xffff) & 0xffff | (f(v[0] >> 16, v[1] >> 16) & 0xffff) << 16
    };
    for sign in ['u', 's'] {
        let of = |x: u64| value(x, 16, sign);
        check(
            &format!("add.{sign}16x2 %d, %a, %b;"),
            W,
            &[W; 2],
            &list,
            |v| both(v, &|a, b| a + b),
        );
        check(
            &format!("min.{sign}16x2 %d, %a, %b;"),
            W,
            &[W; 2],
            &list,
            |v| both(v, &|a, b| cut(of(a).min(of(b)), 16)),
        );
        check(
            &format!("max.{sign}16x2 %d, %a, %b;"),
            W,
            &[W; 2],
            &list,
            |v| both(v, &|a, b| cut(of(a).max(of(b)), 16)),
        );
    }
    let of = |x: u64| signed(x, 16);
    check("min.relu.s16x2 %d, %a, %b;", W, &[W; 2], &list, |v| {
        both(v, &|a, b| cut(of(a).min(of(b)).max(0), 16))
    });
    check("max.relu.s16x2 %d, %a, %b;", W, &[W; 2], &list, |v| {
        both(v, &|a, b| cut(of(a).max(of(b)).max(0), 16))
    });
    check("min.relu.s32 %d, %a, %b;", W, &[W; 2], &list, |v| {
        cut(signed(v[0], 32).min(signed(v[1], 32)).max(0), 32)
    });
    check("max.relu.s32 %d, %a, %b;", W, &[W; 2], &list, |v| {
        cut(signed(v[0], 32).max(signed(v[1], 32)).max(0), 32)
    });
}

/// The ISA's pseudocode of the SIMD video instructions.
fn video(name: &str, v: &[u64], width: u32, [d, a, b]: [char; 3], last: &str) -> u64 {
    let ones = (1u64 << width) - 1;
    let (least, most) = if d == 's' {
        (-(1i128 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        (0, i128::from(ones))
    };
    let mut sum = i128::from(v[2]);
    let mut merged = 0;
    for k in 0..32 / width {
        let (x, y) = (
            value(v[0] >> (k * width) & ones, width, a),
            value(v[1] >> (k * width) & ones, width, b),
        );
        let t = match name {
            "vadd" => x + y,
            "vsub" => x - y,
            "vavrg" if x + y >= 0 => (x + y + 1) >> 1,
            "vavrg" => (x + y) >> 1,
            "vabsdiff" => (x - y).abs(),
            "vmin" => x.min(y),
            "vmax" => x.max(y),
            "eq" => (x == y).into(),
            "ne" => (x != y).into(),
            "lt" => (x < y).into(),
            "le" => (x <= y).into(),
            "gt" => (x > y).into(),
            _ => (x >= y).into(),
        };
        let t = if last == ".sat" {
            t.clamp(least, most)
        } else {
            t
        };
        sum += t;
        merged |= (t as u64 & ones) << (k * width);
    }
    if last == ".add" { cut(sum, 32) } else { merged }
}

#[test]
fn parts_of_a_register() {
    let list = operands(3, 32);
    for (count, width) in [(2, 16), (4, 8)] {
        for a in ['u', 's'] {
            for b in ['u', 's'] {
                for d in ['u', 's'] {
                    for name in ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax"] {
                        for last in ["", ".sat", ".add"] {
                            let body =
                                format!("{name}{count}.{d}32.{a}32.{b}32{last} %d, %a, %b, %c;");
                            check(&body, W, &[W; 3], &list, |v| {
                                video(name, v, width, [d, a, b], last)
                            });
                        }
                    }
                }
                for name in ["eq", "ne", "lt", "le", "gt", "ge"] {
                    for last in ["", ".add"] {
                        let body = format!("vset{count}.{a}32.{b}32.{name}{last} %d, %a, %b, %c;");
                        check(&body, W, &[W; 3], &list, |v| {
                            video(name, v, width, ['u', a, b], last)
                        });
                    }
                }
            }
        }
    }
    check("max.s16x2.relu %d, %a, %b;", W, &[W; 2], &list, |v| {
        let top = |s: u32| {
            cut(
                signed(v[0] >> s & 0xffff, 16)
                    .max(signed(v[1] >> s & 0xffff, 16))
                    .max(0),
                16,
            )
        };
        top(0) | top(16) << 16
    });
    check("min.s32.relu %d, %a, %b;", W, &[W; 2], &list, |v| {
        cut(signed(v[0], 32).min(signed(v[1], 32)).max(0), 32)
    });
}

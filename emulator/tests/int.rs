//! Integer instructions, against 128-bit arithmetic and the ISA's own pseudocode.

mod lanes;

use lanes::Reg::{D, H, P, W};
use lanes::{Mix, check, product, refused, rows, table};

/// Edge values of a width.
fn edges(width: u32) -> Vec<u64> {
    let ones = u64::MAX >> (64 - width);
    let top = 1 << (width - 1);
    vec![
        0,
        1,
        2,
        3,
        7,
        0x55,
        ones / 3,
        top - 1,
        top,
        top + 1,
        ones - 1,
        ones,
    ]
}

fn reg(width: u32) -> lanes::Reg {
    match width {
        16 => H,
        32 => W,
        _ => D,
    }
}

fn operands(columns: usize, width: u32) -> Vec<Vec<u64>> {
    let edges = edges(width);
    let lists: Vec<&[u64]> = vec![&edges; columns.min(2)];
    let mut rows = product(&lists);
    let mut mix = Mix(u64::from(width));
    for row in &mut rows {
        row.extend((lists.len()..columns).map(|_| mix.bits() & (u64::MAX >> (64 - width))));
    }
    rows.extend(mix.rows(200, columns, width));
    rows
}

fn signed(x: u64, width: u32) -> i128 {
    i128::from((x as i64) << (64 - width) >> (64 - width))
}

fn value(x: u64, width: u32, sign: char) -> i128 {
    if sign == 's' {
        signed(x, width)
    } else {
        i128::from(x)
    }
}

fn cut(x: i128, width: u32) -> u64 {
    x as u64 & (u64::MAX >> (64 - width))
}

#[test]
fn two_operands_wrap() {
    type Op = fn(i128, i128) -> i128;
    let ops: [(&str, Op); 5] = [
        ("add", |a, b| a + b),
        ("sub", |a, b| a - b),
        ("mul.lo", |a, b| a.wrapping_mul(b)),
        ("min", |a, b| a.min(b)),
        ("max", |a, b| a.max(b)),
    ];
    for (name, op) in ops {
        for width in [16, 32, 64] {
            for sign in ['u', 's'] {
                let body = format!("{name}.{sign}{width} %d, %a, %b;");
                check(
                    &body,
                    reg(width),
                    &[reg(width); 2],
                    &operands(2, width),
                    |v| {
                        cut(
                            op(value(v[0], width, sign), value(v[1], width, sign)),
                            width,
                        )
                    },
                );
            }
        }
    }
}

#[test]
fn products() {
    for sign in ['u', 's'] {
        let high = |v: &[u64], width: u32| {
            if width == 64 && sign == 'u' {
                ((u128::from(v[0]) * u128::from(v[1])) >> 64) as u64
            } else {
                cut(
                    (value(v[0], width, sign) * value(v[1], width, sign)) >> width,
                    width,
                )
            }
        };
        for width in [16, 32, 64] {
            check(
                &format!("mul.hi.{sign}{width} %d, %a, %b;"),
                reg(width),
                &[reg(width); 2],
                &operands(2, width),
                |v| high(v, width),
            );
            check(
                &format!("mad.lo.{sign}{width} %d, %a, %b, %c;"),
                reg(width),
                &[reg(width); 3],
                &operands(3, width),
                |v| v[0].wrapping_mul(v[1]).wrapping_add(v[2]) & (u64::MAX >> (64 - width)),
            );
            check(
                &format!("mad.hi.{sign}{width} %d, %a, %b, %c;"),
                reg(width),
                &[reg(width); 3],
                &operands(3, width),
                |v| high(v, width).wrapping_add(v[2]) & (u64::MAX >> (64 - width)),
            );
        }
        for width in [16, 32] {
            let wide = |v: &[u64]| value(v[0], width, sign) * value(v[1], width, sign);
            check(
                &format!("mul.wide.{sign}{width} %d, %a, %b;"),
                reg(2 * width),
                &[reg(width); 2],
                &operands(2, width),
                |v| cut(wide(v), 2 * width),
            );
            let ins = [reg(width), reg(width), reg(2 * width)];
            check(
                &format!("mad.wide.{sign}{width} %d, %a, %b, %c;"),
                reg(2 * width),
                &ins,
                &operands(3, width),
                |v| cut(wide(v) + i128::from(v[2]), 2 * width),
            );
        }
        let low24 = |x: u64| {
            if sign == 's' {
                signed(x & 0xff_ffff, 24)
            } else {
                i128::from(x & 0xff_ffff)
            }
        };
        for (part, shift) in [("lo", 0), ("hi", 16)] {
            check(
                &format!("mul24.{part}.{sign}32 %d, %a, %b;"),
                W,
                &[W; 2],
                &operands(2, 32),
                |v| cut((low24(v[0]) * low24(v[1])) >> shift, 32),
            );
            check(
                &format!("mad24.{part}.{sign}32 %d, %a, %b, %c;"),
                W,
                &[W; 3],
                &operands(3, 32),
                |v| {
                    cut(
                        ((low24(v[0]) * low24(v[1])) >> shift) + i128::from(v[2]),
                        32,
                    )
                },
            );
        }
    }
    let clamp = |x: i128| cut(x.clamp(i32::MIN.into(), i32::MAX.into()), 32);
    check(
        "mad.hi.sat.s32 %d, %a, %b, %c;",
        W,
        &[W; 3],
        &operands(3, 32),
        |v| clamp(((signed(v[0], 32) * signed(v[1], 32)) >> 32) + signed(v[2], 32)),
    );
    check(
        "mad24.hi.sat.s32 %d, %a, %b, %c;",
        W,
        &[W; 3],
        &operands(3, 32),
        |v| {
            let product = signed(v[0] & 0xff_ffff, 24) * signed(v[1] & 0xff_ffff, 24);
            clamp(i128::from((product >> 16) as i32) + signed(v[2], 32))
        },
    );
    check(
        "add.sat.s32 %d, %a, %b;",
        W,
        &[W; 2],
        &operands(2, 32),
        |v| clamp(signed(v[0], 32) + signed(v[1], 32)),
    );
    check(
        "sub.sat.s32 %d, %a, %b;",
        W,
        &[W; 2],
        &operands(2, 32),
        |v| clamp(signed(v[0], 32) - signed(v[1], 32)),
    );
}

#[test]
fn quotients() {
    for sign in ['u', 's'] {
        for width in [16, 32, 64] {
            let ones = u64::MAX >> (64 - width);
            check(
                &format!("div.{sign}{width} %d, %a, %b;"),
                reg(width),
                &[reg(width); 2],
                &operands(2, width),
                |v| {
                    // A zero divisor gives all ones on the device. The most negative number by -1 wraps.
                    if v[1] == 0 {
                        ones
                    } else {
                        cut(value(v[0], width, sign) / value(v[1], width, sign), width)
                    }
                },
            );
            check(
                &format!("rem.{sign}{width} %d, %a, %b;"),
                reg(width),
                &[reg(width); 2],
                &operands(2, width),
                |v| {
                    if v[1] == 0 {
                        ones
                    } else {
                        cut(value(v[0], width, sign) % value(v[1], width, sign), width)
                    }
                },
            );
        }
    }
}

#[test]
fn one_operand() {
    for width in [16, 32, 64] {
        check(
            &format!("abs.s{width} %d, %a;"),
            reg(width),
            &[reg(width)],
            &operands(1, width),
            |v| cut(signed(v[0], width).abs(), width),
        );
        check(
            &format!("neg.s{width} %d, %a;"),
            reg(width),
            &[reg(width)],
            &operands(1, width),
            |v| cut(-signed(v[0], width), width),
        );
        check(
            &format!("not.b{width} %d, %a;"),
            reg(width),
            &[reg(width)],
            &operands(1, width),
            |v| cut(!i128::from(v[0]), width),
        );
        check(
            &format!("cnot.b{width} %d, %a;"),
            reg(width),
            &[reg(width)],
            &operands(1, width),
            |v| u64::from(v[0] == 0),
        );
        for sign in ['u', 's'] {
            let ins = [reg(width); 3];
            check(
                &format!("sad.{sign}{width} %d, %a, %b, %c;"),
                reg(width),
                &ins,
                &operands(3, width),
                |v| {
                    cut(
                        (value(v[0], width, sign) - value(v[1], width, sign)).abs()
                            + i128::from(v[2]),
                        width,
                    )
                },
            );
        }
    }
    for width in [32, 64] {
        check(
            &format!("popc.b{width} %d, %a;"),
            W,
            &[reg(width)],
            &operands(1, width),
            |v| v[0].count_ones().into(),
        );
        check(
            &format!("clz.b{width} %d, %a;"),
            W,
            &[reg(width)],
            &operands(1, width),
            |v| u64::from(v[0].leading_zeros() - (64 - width)),
        );
        check(
            &format!("brev.b{width} %d, %a;"),
            reg(width),
            &[reg(width)],
            &operands(1, width),
            |v| v[0].reverse_bits() >> (64 - width),
        );
        for sign in ['u', 's'] {
            let top = |x: u64| {
                let x = if sign == 's' && x >> (width - 1) != 0 {
                    cut(!i128::from(x), width)
                } else {
                    x
                };
                (0..width).rev().find(|&k| x >> k & 1 != 0)
            };
            check(
                &format!("bfind.{sign}{width} %d, %a;"),
                W,
                &[reg(width)],
                &operands(1, width),
                |v| u64::from(top(v[0]).unwrap_or(u32::MAX)),
            );
            check(
                &format!("bfind.shiftamt.{sign}{width} %d, %a;"),
                W,
                &[reg(width)],
                &operands(1, width),
                |v| u64::from(top(v[0]).map_or(u32::MAX, |k| width - 1 - k)),
            );
        }
    }
}

#[test]
fn logic_and_shifts() {
    for width in [16, 32, 64] {
        let ins = [reg(width); 2];
        check(
            &format!("and.b{width} %d, %a, %b;"),
            reg(width),
            &ins,
            &operands(2, width),
            |v| v[0] & v[1],
        );
        check(
            &format!("or.b{width} %d, %a, %b;"),
            reg(width),
            &ins,
            &operands(2, width),
            |v| v[0] | v[1],
        );
        check(
            &format!("xor.b{width} %d, %a, %b;"),
            reg(width),
            &ins,
            &operands(2, width),
            |v| v[0] ^ v[1],
        );
        // Amounts at and past the width are clamped.
        let amounts = [
            0,
            1,
            7,
            15,
            16,
            17,
            31,
            32,
            33,
            63,
            64,
            65,
            255,
            256,
            0x8000_0000,
            0xffff_ffff,
        ];
        let list = product(&[&edges(width), &amounts]);
        let ins = [reg(width), W];
        check(
            &format!("shl.b{width} %d, %a, %b;"),
            reg(width),
            &ins,
            &list,
            |v| {
                if v[1] >= u64::from(width) {
                    0
                } else {
                    cut(i128::from(v[0]) << v[1], width)
                }
            },
        );
        check(
            &format!("shr.u{width} %d, %a, %b;"),
            reg(width),
            &ins,
            &list,
            |v| {
                if v[1] >= u64::from(width) {
                    0
                } else {
                    v[0] >> v[1]
                }
            },
        );
        check(
            &format!("shr.b{width} %d, %a, %b;"),
            reg(width),
            &ins,
            &list,
            |v| {
                if v[1] >= u64::from(width) {
                    0
                } else {
                    v[0] >> v[1]
                }
            },
        );
        check(
            &format!("shr.s{width} %d, %a, %b;"),
            reg(width),
            &ins,
            &list,
            |v| cut(signed(v[0], width) >> v[1].min(64), width),
        );
    }
    let amounts = [0, 1, 8, 31, 32, 33, 40, 63, 64, 0xffff_ffff];
    let list = product(&[&edges(32), &edges(32), &amounts]);
    for (mode, limit) in [
        ("clamp", (|c| c.min(32)) as fn(u64) -> u64),
        ("wrap", |c| c & 31),
    ] {
        let both = |v: &[u64]| u128::from(v[1] << 32 | v[0]);
        check(
            &format!("shf.l.{mode}.b32 %d, %a, %b, %c;"),
            W,
            &[W; 3],
            &list,
            |v| (both(v) << limit(v[2]) >> 32) as u64 & 0xffff_ffff,
        );
        check(
            &format!("shf.r.{mode}.b32 %d, %a, %b, %c;"),
            W,
            &[W; 3],
            &list,
            |v| (both(v) >> limit(v[2])) as u64 & 0xffff_ffff,
        );
    }
}

#[test]
fn three_input_logic() {
    let list = operands(3, 32);
    for lut in [
        0u64, 0x01, 0x3c, 0x80, 0x96, 0xca, 0xd8, 0xe2, 0xe4, 0xe8, 0xea, 0xf8, 0xfe, 0xff, 0x17,
        0x6a, 0x78, 0xc0, 0xfc, 0x5a, 0xb1,
    ] {
        let expect = |v: &[u64]| {
            (0..32).fold(0, |out, k| {
                let index = (v[0] >> k & 1) << 2 | (v[1] >> k & 1) << 1 | (v[2] >> k & 1);
                out | (lut >> index & 1) << k
            })
        };
        check(
            &format!("lop3.b32 %d, %a, %b, %c, {lut};"),
            W,
            &[W; 3],
            &list,
            expect,
        );
    }
    let both = rows(
        "lop3.or.b32 %d|%q, %a, %b, %c, 0x80, !%e;",
        &[W, P],
        &[W, W, W, P],
        &[vec![6, 3, 2, 1], vec![1, 2, 4, 1], vec![1, 2, 4, 0]],
    );
    assert_eq!(both, [[2, 1], [0, 0], [0, 1]]);
    let both = rows(
        "lop3.and.b32 _|%q, %a, %b, %c, 0x80, %e;",
        &[W, P],
        &[W, W, W, P],
        &[vec![6, 3, 2, 1], vec![6, 3, 2, 0]],
    );
    assert_eq!([both[0][1], both[1][1]], [1, 0]);
}

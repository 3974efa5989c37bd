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
    let sunk = rows(
        "lop3.and.b32 _|%d, %a, %b, %c, 0x80, %e;",
        &[P],
        &[W, W, W, P],
        &[vec![6, 3, 2, 1], vec![6, 3, 2, 0]],
    );
    assert_eq!(sunk, [[1], [0]]);
}

#[test]
fn carries_chain() {
    let values = [0u64, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];
    let list = product(&[&values, &values, &values, &values]);
    // 64-bit sums and differences from halves, and what is carried out of them.
    let halves = |v: &[u64]| (u128::from(v[1] << 32 | v[0]), u128::from(v[3] << 32 | v[2]));
    let sum = "add.cc.u32 %d, %a, %c;\naddc.cc.s32 %q, %b, %e;\n.reg .b32 %over;\naddc.u32 %over, 0, 0;\nshl.b32 %over, %over, 31;\nxor.b32 %q, %q, %over;";
    for (v, r) in list.iter().zip(rows(sum, &[W, W], &[W; 4], &list)) {
        let (a, b) = halves(v);
        let s = a + b;
        let over = (s >> 64) as u64;
        assert_eq!(
            r,
            [s as u64 & 0xffff_ffff, s as u64 >> 32 ^ over << 31],
            "{v:x?}"
        );
    }
    let difference = "sub.cc.u32 %d, %a, %c;\nsubc.cc.u32 %q, %b, %e;\n.reg .b32 %over;\nsubc.u32 %over, 0, 0;\nand.b32 %over, %over, 0x80000000;\nxor.b32 %q, %q, %over;";
    for (v, r) in list.iter().zip(rows(difference, &[W, W], &[W; 4], &list)) {
        let (a, b) = halves(v);
        let s = a.wrapping_sub(b);
        let over = u64::from(a < b);
        assert_eq!(
            r,
            [s as u64 & 0xffff_ffff, s as u64 >> 32 ^ over << 31],
            "{v:x?}"
        );
    }
    // The product of two 64-bit numbers.
    let edges = edges(64);
    let mut list = product(&[&edges, &edges]);
    list.extend(Mix(9).rows(200, 2, 64));
    let wide = "mul.lo.u64 %d, %a, %b;\nmul.hi.u64 %q, %a, %b;\nadd.cc.u64 %d, %d, %a;\naddc.u64 %q, %q, %b;";
    for (v, r) in list.iter().zip(rows(wide, &[D, D], &[D; 2], &list)) {
        let (a, b) = (u128::from(v[0]), u128::from(v[1]));
        let s = (a * b).wrapping_add(a | b << 64);
        assert_eq!(r, [s as u64, (s >> 64) as u64], "{v:x?}");
    }
    // From 32-bit pieces by multiply and add with carry.
    let pieces = "mad.lo.cc.u32 %d, %a, %b, %c;\nmadc.hi.u32 %q, %a, %b, %e;";
    let list = operands(4, 32);
    for (v, r) in list.iter().zip(rows(pieces, &[W, W], &[W; 4], &list)) {
        let s = (v[0] * v[1]).wrapping_add(v[3] << 32 | v[2]);
        assert_eq!(r, [s & 0xffff_ffff, s >> 32], "{v:x?}");
    }
    let signed_pieces = "mad.lo.cc.s32 %d, %a, %b, %c;\nmadc.hi.s32 %q, %a, %b, %e;";
    for (v, r) in list
        .iter()
        .zip(rows(signed_pieces, &[W, W], &[W; 4], &list))
    {
        let s = (signed(v[0], 32) * signed(v[1], 32)) as u64;
        let s = s.wrapping_add(v[3] << 32 | v[2]);
        assert_eq!(r, [s & 0xffff_ffff, s >> 32], "{v:x?}");
    }
    // A lane that is guarded off keeps its flag.
    let guarded = "add.cc.u32 %d, %a, 1;\n@%b add.cc.u32 %d, 0, 0;\naddc.u32 %d, 0, 0;";
    table(
        guarded,
        W,
        &[W, P],
        &[(&[0xffff_ffff, 0], 1), (&[0xffff_ffff, 1], 0), (&[5, 0], 0)],
    );
}

#[test]
fn fields() {
    let places = [
        0,
        1,
        4,
        8,
        15,
        16,
        24,
        31,
        32,
        33,
        48,
        63,
        64,
        65,
        128,
        255,
        256,
        257,
        0xffff_ffff,
    ];
    for width in [32, 64] {
        let top = width - 1;
        let values: Vec<u64> = edges(width)
            .into_iter()
            .chain(Mix(3).rows(6, 1, width).into_iter().flatten())
            .collect();
        let list = product(&[&values, &places, &places]);
        for sign in ['u', 's'] {
            let ins = [reg(width), W, W];
            check(
                &format!("bfe.{sign}{width} %d, %a, %b, %c;"),
                reg(width),
                &ins,
                &list,
                |v| {
                    let (pos, len) = ((v[1] & 0xff) as u32, (v[2] & 0xff) as u32);
                    let last = if sign == 'u' || len == 0 {
                        0
                    } else {
                        v[0] >> (pos + len - 1).min(top) & 1
                    };
                    (0..width).fold(0, |d, k| {
                        d | if k < len && pos + k <= top {
                            v[0] >> (pos + k) & 1
                        } else {
                            last
                        } << k
                    })
                },
            );
        }
        let list = product(&[
            &values[..14],
            &[0, u64::MAX >> (64 - width), 0x1234_5678],
            &places,
            &places,
        ]);
        check(
            &format!("bfi.b{width} %d, %a, %b, %c, %e;"),
            reg(width),
            &[reg(width), reg(width), W, W],
            &list,
            |v| {
                let (pos, len) = ((v[2] & 0xff) as u32, (v[3] & 0xff) as u32);
                (0..len).take_while(|k| pos + k <= top).fold(v[1], |f, k| {
                    f & !(1 << (pos + k)) | (v[0] >> k & 1) << (pos + k)
                })
            },
        );
    }
    // The ISA's pseudocode of szext and bmsk.
    let list = product(&[&edges(32), &[0, 1, 8, 31, 32, 33, 63, 64, 0xffff_ffff]]);
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        for sign in ['u', 's'] {
            check(
                &format!("szext.{mode}.{sign}32 %d, %a, %b;"),
                W,
                &[W; 2],
                &list,
                |v| {
                    let b1 = v[1] & 31;
                    let too_large = v[1] >= 32 && clamp;
                    let mask = if too_large {
                        0
                    } else {
                        0xffff_ffff << b1 & 0xffff_ffff
                    };
                    let negative =
                        sign == 's' && b1 != 0 && !too_large && v[0] >> (b1 - 1) & 1 != 0;
                    v[0] & !mask | if negative { mask } else { 0 }
                },
            );
        }
        check(
            &format!("bmsk.{mode}.b32 %d, %a, %b;"),
            W,
            &[W; 2],
            &list,
            |v| {
                let (start, len) = if clamp {
                    (v[0].min(32), v[1].min(32))
                } else {
                    (v[0] & 31, v[1] & 31)
                };
                (start..(start + len).min(32)).fold(0, |m, k| m | 1 << k)
            },
        );
    }
}

#[test]
fn nth_set_bit() {
    let list = product(&[
        &[0, 1, 0x8000_0000, 0xf0f0_0001, 0xffff_ffff],
        &[0, 3, 31],
        &[
            0,
            1,
            2,
            5,
            31,
            32,
            33,
            0xffff_ffff,
            0xffff_fffd,
            0x8000_0000,
        ],
    ]);
    check("fns.b32 %d, %a, %b, %c;", W, &[W; 3], &list, |v| {
        let (mask, base, offset) = (v[0], v[1] as i64, i64::from(v[2] as i32));
        if offset == 0 {
            return if mask >> base & 1 != 0 {
                base as u64
            } else {
                0xffff_ffff
            };
        }
        let (mut pos, mut count) = (base, offset.abs() - 1);
        while (0..32).contains(&pos) {
            if mask >> pos & 1 != 0 {
                if count == 0 {
                    return pos as u64;
                }
                count -= 1;
            }
            pos += offset.signum();
        }
        0xffff_ffff
    });
}

#[test]
fn byte_permutations() {
    let mut mix = Mix(11);
    let list: Vec<Vec<u64>> = mix.rows(3000, 3, 32);
    let byte = |v: &[u64], k: u64| (v[1] << 32 | v[0]) >> (8 * k) & 0xff;
    check("prmt.b32 %d, %a, %b, %c;", W, &[W; 3], &list, |v| {
        (0..4).fold(0, |d, k| {
            let control = v[2] >> (4 * k) & 15;
            let picked = byte(v, control & 7);
            d | if control & 8 == 0 {
                picked
            } else {
                (picked >> 7) * 0xff
            } << (8 * k)
        })
    });
    check("prmt.b32 %d, %a, %b, 0x5410;", W, &[W; 3], &list, |v| {
        v[0] & 0xffff | (v[1] & 0xffff) << 16
    });
    // The source bytes of the four controls, most significant first, from the ISA's table.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        (
            "f4e",
            [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
        ),
        (
            "b4e",
            [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
        ),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        (
            "ecl",
            [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]],
        ),
        (
            "ecr",
            [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]],
        ),
        (
            "rc16",
            [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
        ),
    ];
    for (mode, sources) in modes {
        check(
            &format!("prmt.b32.{mode} %d, %a, %b, %c;"),
            W,
            &[W; 3],
            &list,
            |v| {
                sources[(v[2] & 3) as usize]
                    .iter()
                    .fold(0, |d, k| d << 8 | byte(v, *k))
            },
        );
    }
}

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

#[test]
fn what_does_not_exist_is_refused() {
    for (body, out, of) in [
        ("add.sat.u32 %d, %a, %a;", W, W),
        ("mul.wide.u64 %d, %a, %a;", D, D),
        ("and.u32 %d, %a, %a;", W, W),
        ("shl.s32 %d, %a, %a;", W, W),
        ("neg.u32 %d, %a;", W, W),
        ("add.u32 %d, %a;", W, W),
        ("add.u64 %d, %a, %a;", D, W),
        ("lop3.b32 %d, %a, %a, %a, 300;", W, W),
        ("prmt.b32.xyz %d, %a, %a, %a;", W, W),
        ("popc.b16 %d, %a;", W, H),
    ] {
        refused(body, &[out], &[of]);
    }
}

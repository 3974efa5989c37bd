//! Sums, products, quotients and carries.

use super::*;

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

//! Logic, shifts, fields and permutations of bits and bytes.

use super::*;

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
        for kind in ['u', 'b'] {
            check(
                &format!("shr.{kind}{width} %d, %a, %b;"),
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
        }
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

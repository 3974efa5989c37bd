//! From and to the narrow formats, and packing.

use super::*;

#[test]
fn tensor_float() {
    let list = REALS[2].operands();
    let round = |x: u64, up: u64| {
        let cut = ((x & 0x7fff_ffff) + up) & !0x1fff;
        x & 0x8000_0000 | cut
    };
    let special = |x: u64| (x & 0x7fff_ffff > 0x7f80_0000).then_some(0x7fff_ffffu64);
    check("cvt.rna.tf32.f32 %d, %a;", W, &[W], &list, |v| {
        special(v[0]).unwrap_or(round(v[0], 0x1000))
    });
    check("cvt.rz.tf32.f32 %d, %a;", W, &[W], &list, |v| {
        special(v[0]).unwrap_or(round(v[0], 0))
    });
    check("cvt.rn.tf32.f32 %d, %a;", W, &[W], &list, |v| {
        special(v[0]).unwrap_or(round(v[0], 0xfff + (v[0] >> 13 & 1)))
    });
    check(
        "cvt.rn.satfinite.relu.tf32.f32 %d, %a;",
        W,
        &[W],
        &list,
        |v| {
            let bits = special(v[0]).unwrap_or(round(v[0], 0xfff + (v[0] >> 13 & 1)));
            match bits {
                0x7fff_ffff => bits,
                bits if bits & 0x8000_0000 != 0 => 0,
                bits => bits.min(0x7f7f_e000),
            }
        },
    );
}

#[test]
fn eight_bit_formats() {
    let round = Round::NearestTiesToEven;
    let e4m3 = |x: Double| {
        let result: Float8E4M3FN = x.convert_r(round, &mut false).value;
        // Past the range that one gives NaN.
        if result.is_nan() {
            0x7f | u64::from(x.is_negative()) << 7
        } else {
            result.to_bits() as u64
        }
    };
    let e5m2 = |x: Double| {
        let result: Float8E5M2 = x.convert_r(round, &mut false).value;
        result.to_bits() as u64
    };
    let list = REALS[2].operands();
    let pairs: Vec<Vec<u64>> = (0..list.len())
        .map(|k| vec![list[k][0], list[(k + 7) % list.len()][0]])
        .collect();
    let halves: Vec<Vec<u64>> = (0..0x10000u64)
        .step_by(5)
        .map(|k| vec![k | ((k * 31) & 0xffff) << 16])
        .collect();
    type Rounded<'a> = (&'a str, u64, &'a dyn Fn(Double) -> u64);
    let formats: [Rounded; 2] = [("e4m3x2", 0x7e, &e4m3), ("e5m2x2", 0x7b, &e5m2)];
    for (name, max, convert) in formats {
        for relu in [false, true] {
            let flag = if relu { ".relu" } else { "" };
            let one = |x: Double| clamped(x, relu, true, 0x7f, max, 0x80, convert);
            let single = |x| one((REALS[2].to_double)(x));
            check(
                &format!("cvt.rn.satfinite{flag}.{name}.f32 %d, %a, %b;"),
                H,
                &[W; 2],
                &pairs,
                |v| single(v[0]) << 8 | single(v[1]),
            );
            let half = |x: u64| one((REALS[0].to_double)(x & 0xffff));
            check(
                &format!("cvt.rn.satfinite{flag}.{name}.f16x2 %d, %a;"),
                H,
                &[W],
                &halves,
                |v| half(v[0] >> 16) << 8 | half(v[0]),
            );
        }
    }
    // Back: every byte is a binary16 number.
    let bytes: Vec<Vec<u64>> = (0..256u64).map(|k| vec![k | (255 - k) << 8]).collect();
    let to_half = |x: Double| {
        if x.is_nan() {
            0x7fff
        } else {
            (REALS[0].from_double)(x, round)
        }
    };
    let wide4 = |x: u64| {
        to_half(
            Float8E4M3FN::from_bits(u128::from(x & 0xff))
                .convert_r(round, &mut false)
                .value,
        )
    };
    let wide5 = |x: u64| {
        to_half(
            Float8E5M2::from_bits(u128::from(x & 0xff))
                .convert_r(round, &mut false)
                .value,
        )
    };
    let relu = |x: u64| if x & 0x8000 != 0 { 0 } else { x };
    check("cvt.rn.f16x2.e4m3x2 %d, %a;", W, &[H], &bytes, |v| {
        wide4(v[0] >> 8) << 16 | wide4(v[0])
    });
    check("cvt.rn.f16x2.e5m2x2 %d, %a;", W, &[H], &bytes, |v| {
        wide5(v[0] >> 8) << 16 | wide5(v[0])
    });
    check("cvt.rn.relu.f16x2.e4m3x2 %d, %a;", W, &[H], &bytes, |v| {
        relu(wide4(v[0] >> 8)) << 16 | relu(wide4(v[0]))
    });
    check("cvt.rn.relu.f16x2.e5m2x2 %d, %a;", W, &[H], &bytes, |v| {
        relu(wide5(v[0] >> 8)) << 16 | relu(wide5(v[0]))
    });
}

#[test]
fn packs() {
    let values = [
        0,
        1,
        3,
        7,
        8,
        15,
        127,
        128,
        255,
        300,
        32_767,
        32_768,
        65_535,
        65_536,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0xffff_fff8,
        0xffff_ff80,
        0xffff_8000,
    ];
    let list = product(&[&values, &values, &[0x1234_5678]]);
    for (name, width) in [
        ("u16", 16u32),
        ("s16", 16),
        ("u8", 8),
        ("s8", 8),
        ("u4", 4),
        ("s4", 4),
        ("u2", 2),
        ("s2", 2),
    ] {
        let (least, most) = limits(name, width);
        let one = |x: u64| i128::from(x as i32).clamp(least, most) as u64 & ones(width);
        let both = |v: &[u64]| one(v[1]) | one(v[0]) << width;
        if width == 16 {
            check(
                &format!("cvt.pack.sat.{name}.s32 %d, %a, %b;"),
                W,
                &[W; 3],
                &list,
                both,
            );
        } else {
            check(
                &format!("cvt.pack.sat.{name}.s32.b32 %d, %a, %b, %c;"),
                W,
                &[W; 3],
                &list,
                |v| (both(v) | v[2] << (2 * width)) & 0xffff_ffff,
            );
        }
    }
}

#[test]
fn immediates_convert() {
    table("cvt.rn.f32.s32 %d, -3;", W, &[W], &[(&[0], 0xc040_0000)]);
    assert_eq!(
        rows(
            "cvt.u64.u32 %d, %tid.x;",
            &[D],
            &[W],
            &[vec![0], vec![0], vec![0]]
        )[2],
        [2]
    );
}

//! `cvt` in all its forms, against an arbitrary-precision software implementation.

#[path = "../lanes/mod.rs"]
mod lanes;
mod narrow;
mod reals;

use lanes::Reg::{self, D, H, W};
use lanes::{Mix, check, product, refused, rows, table};
use rustc_apfloat::ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

const MODES: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

const INTS: [(&str, u32); 8] = [
    ("u8", 8),
    ("u16", 16),
    ("u32", 32),
    ("u64", 64),
    ("s8", 8),
    ("s16", 16),
    ("s32", 32),
    ("s64", 64),
];

fn size(reg: Reg) -> u32 {
    match reg {
        H => 16,
        W => 32,
        _ => 64,
    }
}

fn ones(width: u32) -> u64 {
    u64::MAX >> (64 - width)
}

fn integer(name: &str, width: u32, bits: u64) -> i128 {
    if name.starts_with('s') {
        i128::from((bits as i64) << (64 - width) >> (64 - width))
    } else {
        i128::from(bits & ones(width))
    }
}

fn limits(name: &str, width: u32) -> (i128, i128) {
    if name.starts_with('s') {
        (-(1 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        (0, (1 << width) - 1)
    }
}

fn integers(width: u32) -> Vec<Vec<u64>> {
    let mut mix = Mix(width.into());
    let mut list: Vec<u64> = vec![
        0,
        1,
        2,
        127,
        128,
        129,
        255,
        256,
        257,
        0x7fff,
        0x8000,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0x8000_0000,
    ];
    list.extend([
        0xffff_ffff,
        0x1_0000_0000,
        1 << 63,
        (1 << 63) - 1,
        u64::MAX,
        0xffff_ffff_8000_0000,
        0xffff_ffff_7fff_ffff,
        65_519,
        65_520,
    ]);
    list.extend([
        0x0100_0001,
        0x0100_0003,
        0x00ff_ffff,
        0x0020_0000_0000_0001,
        0x0020_0000_0000_0003,
    ]);
    list.extend((0..100).map(|_| mix.bits() >> (mix.bits() & 63)));
    list.into_iter().map(|v| vec![v & ones(width)]).collect()
}

#[test]
fn between_integers() {
    for (from, from_width) in INTS {
        for (to, to_width) in INTS {
            // Registers as wide as the types, and wider.
            for source in [H, W, D].into_iter().filter(|r| size(*r) >= from_width) {
                for target in [H, W, D].into_iter().filter(|r| size(*r) >= to_width) {
                    let list = integers(size(source));
                    let fill = |x: i128| x as u64 & ones(size(target));
                    check(
                        &format!("cvt.{to}.{from} %d, %a;"),
                        target,
                        &[source],
                        &list,
                        |v| {
                            fill(integer(
                                to,
                                to_width,
                                integer(from, from_width, v[0]) as u64,
                            ))
                        },
                    );
                    let (least, most) = limits(to, to_width);
                    check(
                        &format!("cvt.sat.{to}.{from} %d, %a;"),
                        target,
                        &[source],
                        &list,
                        |v| fill(integer(from, from_width, v[0]).clamp(least, most)),
                    );
                }
            }
        }
    }
}

/// A floating-point type under test.
#[derive(Clone, Copy)]
struct Real {
    name: &'static str,
    reg: Reg,
    width: u32,
    nan: u64,
    to_double: fn(u64) -> Double,
    from_double: fn(Double, Round) -> u64,
    from_integer: fn(i128, Round) -> u64,
}

fn widen<F: Float + FloatConvert<Double>>(bits: u64) -> Double {
    F::from_bits(u128::from(bits))
        .convert_r(Round::NearestTiesToEven, &mut false)
        .value
}

fn narrow<F: Float>(x: Double, round: Round) -> u64
where
    Double: FloatConvert<F>,
{
    x.convert_r(round, &mut false).value.to_bits() as u64
}

fn from_integer<F: Float>(x: i128, round: Round) -> u64 {
    F::from_i128_r(x, round).value.to_bits() as u64
}

const REALS: [Real; 4] = [
    Real {
        name: "f16",
        reg: H,
        width: 16,
        nan: 0x7fff,
        to_double: widen::<Half>,
        from_double: narrow::<Half>,
        from_integer: from_integer::<Half>,
    },
    Real {
        name: "bf16",
        reg: H,
        width: 16,
        nan: 0x7fff,
        to_double: widen::<BFloat>,
        from_double: narrow::<BFloat>,
        from_integer: from_integer::<BFloat>,
    },
    Real {
        name: "f32",
        reg: W,
        width: 32,
        nan: 0x7fff_ffff,
        to_double: widen::<Single>,
        from_double: narrow::<Single>,
        from_integer: from_integer::<Single>,
    },
    Real {
        name: "f64",
        reg: D,
        width: 64,
        nan: 0xfff8_0000_0000_0000,
        to_double: widen::<Double>,
        from_double: narrow::<Double>,
        from_integer: from_integer::<Double>,
    },
];

impl Real {
    fn result(&self, x: Double, round: Round) -> u64 {
        if x.is_nan() {
            self.nan
        } else {
            (self.from_double)(x, round)
        }
    }

    /// Numbers at the edges of every type, rounded to this one, and random ones.
    fn operands(&self) -> Vec<Vec<u64>> {
        let mut mix = Mix(self.width.into());
        let mut list = vec![
            0.0,
            0.25,
            0.5,
            0.75,
            1.0,
            1.5,
            2.5,
            3.5,
            126.5,
            127.4,
            127.5,
            128.0,
            254.5,
            255.5,
            256.0,
            32_767.5,
            65_503.9,
            65_519.9,
            65_520.0,
            65_535.5,
            65_536.0,
            2_147_483_646.5,
            2_147_483_647.5,
            2_147_483_648.0,
            4_294_967_295.5,
            4_294_967_296.0,
            9.223_372_036_854_776e18,
            9.223372036854775e18,
            1.8446744073709552e19,
            1.844674407370955e19,
            1e30,
            3.4e38,
            3.5e38,
            1e300,
            5.96e-8,
            2.98e-8,
            2.99e-8,
            6.1e-5,
            1e-40,
            1e-45,
            7.0e-46,
            7.1e-46,
            1e-300,
            5e-324,
            1.0 + 2f64.powi(-11),
            1.0 + 3.0 * 2f64.powi(-11),
            1.0 + 2f64.powi(-8),
            1.0 + 2f64.powi(-24),
            1.0 + 2f64.powi(-24) + 2f64.powi(-50),
            f64::INFINITY,
            f64::NAN,
        ];
        list.extend((0..200).map(|_| {
            f64::from_bits(mix.bits() & 0x000f_ffff_ffff_ffff | (1023 - 30 + mix.bits() % 96) << 52)
        }));
        let rounded = list.into_iter().flat_map(|x| {
            let bits = self.result(
                Double::from_bits(u128::from(x.to_bits())),
                Round::NearestTiesToEven,
            );
            [bits, bits ^ 1 << (self.width - 1)]
        });
        let mut all: Vec<u64> = rounded.collect();
        all.extend((0..200).map(|_| mix.bits() & ones(self.width)));
        all.into_iter().map(|v| vec![v]).collect()
    }
}

fn flush(x: u64) -> u64 {
    if x & 0x7f80_0000 == 0 {
        x & 0x8000_0000
    } else {
        x
    }
}

fn saturate(real: &Real, bits: u64) -> u64 {
    let x = (real.to_double)(bits);
    let one = Double::from_bits(u128::from(1f64.to_bits()));
    if x.is_nan() || x.is_negative() || x.is_zero() {
        0
    } else if x > one {
        (real.from_double)(one, Round::TowardZero)
    } else {
        bits
    }
}

/// What a clamping conversion gives.
fn clamped(
    x: Double,
    relu: bool,
    finite: bool,
    nan: u64,
    max: u64,
    sign: u64,
    round: impl Fn(Double) -> u64,
) -> u64 {
    if x.is_nan() {
        return nan;
    }
    if relu && (x.is_negative() || x.is_zero()) {
        return 0;
    }
    let bits = round(x);
    if finite && (bits & (sign - 1) > max || x.is_infinite()) {
        max | if x.is_negative() { sign } else { 0 }
    } else {
        bits
    }
}

#[test]
fn what_does_not_exist_is_refused() {
    for (body, out, of) in [
        ("cvt.f16.f32 %d, %a;", H, W),
        ("cvt.s32.f32 %d, %a;", W, W),
        ("cvt.f32.s32 %d, %a;", W, W),
        ("cvt.rn.satfinite.e2m1x2.f32 %d, %a, %a;", H, W),
        ("cvt.rn.e4m3x2.f32 %d, %a, %a;", H, W),
        ("cvt.rp.tf32.f32 %d, %a;", W, W),
        ("cvt.rs.f16x2.f32 %d, %a, %a, %a;", W, W),
        ("cvt.rn.relu.f32.f64 %d, %a;", W, D),
        ("cvt.rni.rn.s32.f32 %d, %a;", W, W),
        ("cvt.u64.u32 %d, %a;", W, W),
    ] {
        refused(body, &[out], &[of]);
    }
}

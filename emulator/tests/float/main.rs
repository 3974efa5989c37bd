//! binary32 and binary64 instructions, against an arbitrary-precision software implementation.

mod approximate;
mod exact;
#[path = "../lanes/mod.rs"]
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

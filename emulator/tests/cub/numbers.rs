//! 16-bit and 8-bit floats: `numbers.cu`, for both architectures, against software of arbitrary precision and against
//! the formats' definitions.

use super::*;
use rustc_apfloat::ieee::{BFloat, Half, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

static SOURCES: [Source; 2] = [
    Source::new("numbers.cu", "compute_80"),
    Source::new("numbers.cu", "compute_90"),
];

const RN: Round = Round::NearestTiesToEven;

/// Bits of 16-bit floats: any, and those at the edges of the format's range.
fn patterns(count: usize) -> impl Strategy<Value = Vec<u16>> {
    let edges = vec![
        0u16, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x3f80, 0x7bff, 0xfbff, 0x7c00,
        0xfc00, 0x7e00, 0x7f7f, 0x7f80, 0xff80, 0x7fff,
    ];
    let one = prop_oneof![3 => any::<u16>(), 1 => proptest::sample::select(edges)];
    proptest::collection::vec(one, count)
}

/// What `arithmetic` of numbers.cu leaves for x, y and z, in its order.
fn arithmetic<F: Float>(x: F, y: F, z: F) -> Vec<Expected> {
    let float = |v: F| Expected::Float(v.is_nan(), v.to_bits() as u16);
    let flag = |v: bool| Expected::Flag(v);
    let ordered = |min: bool| {
        let x_first = match x.partial_cmp(&y) {
            _ if y.is_nan() => true,
            _ if x.is_nan() => false,
            Some(std::cmp::Ordering::Less) => min,
            Some(std::cmp::Ordering::Greater) => !min,
            // Zeros of different signs: the negative one is less.
            _ => x.is_negative() == min,
        };
        if x_first { x } else { y }
    };
    let fused = x.mul_add_r(y, z, RN).value;
    let whole = |round| x.round_to_integral(round).value;
    vec![
        float(x.add_r(y, RN).value),
        float(x.sub_r(y, RN).value),
        float(x.mul_r(y, RN).value),
        float(fused),
        float(ordered(true)),
        float(ordered(false)),
        float(x.abs()),
        float(-x),
        float(if fused.is_negative() && !fused.is_nan() {
            F::ZERO
        } else {
            fused
        }),
        float(if x.is_nan() || y.is_nan() {
            F::NAN
        } else {
            ordered(false)
        }),
        flag(x < y),
        flag(x >= y),
        flag(x == y),
        flag(x != y),
        flag(x.is_nan()),
        float(x.div_r(y, RN).value),
        Expected::Root,
        float(whole(Round::TowardNegative)),
        float(whole(Round::TowardPositive)),
        float(whole(RN)),
        float(whole(Round::TowardZero)),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Expected {
    /// These bits, or any NaN.
    Float(bool, u16),
    Flag(bool),
    /// The square root of x, which apfloat does not know.
    Root,
}

/// One of the two formats.
struct Format {
    kernel: &'static str,
    infinity: u16,
    expected: fn(u16, u16, u16) -> Vec<Expected>,
    value: fn(u16) -> f64,
    round: fn(f64) -> u16,
}

fn expected<F: Float>(x: u16, y: u16, z: u16) -> Vec<Expected> {
    let float = |bits: u16| F::from_bits(u128::from(bits));
    arithmetic(float(x), float(y), float(z))
}

const FORMATS: [Format; 2] = [
    Format {
        kernel: "f16_arithmetic",
        infinity: 0x7c00,
        expected: expected::<Half>,
        value: |b| half::f16::from_bits(b).to_f64(),
        round: |v| half::f16::from_f64(v).to_bits(),
    },
    Format {
        kernel: "bf16_arithmetic",
        infinity: 0x7f80,
        expected: expected::<BFloat>,
        value: |b| half::bf16::from_bits(b).to_f64(),
        round: |v| half::bf16::from_f64(v).to_bits(),
    },
];

#[test]
fn arithmetic_of_16_bits() {
    const N: usize = 600;
    let inputs = || (patterns(N), patterns(N), patterns(N), order());
    for ptx in SOURCES.iter().filter_map(Source::ptx) {
        for format in FORMATS {
            for_all(4, inputs(), |(x, y, z, seed)| {
                let count = (format.expected)(0, 0, 0).len();
                let args = [
                    buffer(&x),
                    buffer(&y),
                    buffer(&z),
                    Arg::Uninit(2 * count * N),
                    Arg::U32(N as u32),
                ];
                let done = launch(
                    ptx,
                    format.kernel,
                    (N.div_ceil(128) as u32, 128),
                    seed,
                    &args,
                );
                let found = numbers_of::<u16>(&done.buffers[3]);
                for i in 0..N {
                    for (k, expected) in (format.expected)(x[i], y[i], z[i]).iter().enumerate() {
                        let found = found[k * N + i];
                        let nan = found & 0x7fff > format.infinity;
                        let good = match *expected {
                            Expected::Float(true, _) => nan,
                            Expected::Float(false, bits) => found == bits,
                            Expected::Flag(value) => found == u16::from(value),
                            Expected::Root => {
                                let root = (format.value)(x[i]).sqrt();
                                // A root is never so near to a tie that rounding it twice shows.
                                if root.is_nan() {
                                    nan
                                } else {
                                    found == (format.round)(root)
                                }
                            }
                        };
                        assert!(
                            good,
                            "{}, operation {k} on {:#x}, {:#x}, {:#x}: {found:#x} for {expected:x?}",
                            format.kernel, x[i], y[i], z[i]
                        );
                    }
                }
            });
        }
    }
}

/// Floats of which many lie near the ranges and ties of the small formats.
fn floats(count: usize) -> impl Strategy<Value = Vec<u32>> {
    let near = (any::<u16>(), 0..5u32).prop_map(|(half, off)| {
        // A half, the middle between two, or next to that.
        let bits = half::f16::from_bits(half).to_f32().to_bits();
        (bits | 0x1000).wrapping_add(off).wrapping_sub(2)
    });
    let round = any::<u8>().prop_map(|b| u32::from(b) << 23);
    let one =
        prop_oneof![2 => any::<u32>(), 3 => near, 1 => round, 1 => 0x3b00_0000..0x4800_0000u32];
    proptest::collection::vec(one, count)
}

/// Conversion to a 16-bit format, as bits; any NaN is one.
fn narrowed<F: Float>(bits: u32, round: Round) -> u16
where
    Single: FloatConvert<F>,
{
    let value: F = Single::from_bits(u128::from(bits))
        .convert_r(round, &mut false)
        .value;
    if value.is_nan() {
        0x7fff
    } else {
        value.to_bits() as u16
    }
}

fn to_integer(value: Half, width: usize, signed: bool, round: Round) -> u32 {
    if value.is_nan() {
        return 0;
    }
    let exact = &mut false;
    // Out of range is brought to the nearest there is, with the sign spread over 32 bits.
    if signed {
        value.to_i128_r(width, round, exact).value as u32
    } else {
        value.to_u128_r(width, round, exact).value as u32
    }
}

#[test]
fn conversions_of_16_bits() {
    const N: usize = 1000;
    for ptx in SOURCES.iter().filter_map(Source::ptx) {
        for_all(4, (floats(N), order()), |(input, seed)| {
            let args = [buffer(&input), Arg::Uninit(11 * 4 * N), Arg::U32(N as u32)];
            let done = launch(
                ptx,
                "f16_conversions",
                (N.div_ceil(128) as u32, 128),
                seed,
                &args,
            );
            let found = done.words(1);
            for i in 0..N {
                let x = input[i];
                let rounded = narrowed::<Half>(x, RN);
                let h = Half::from_bits(u128::from(rounded));
                let wide: Single = h.convert(&mut false).value;
                let expected = [
                    u32::from(rounded),
                    narrowed::<Half>(x, Round::TowardZero).into(),
                    narrowed::<Half>(x, Round::TowardNegative).into(),
                    narrowed::<Half>(x, Round::TowardPositive).into(),
                    narrowed::<BFloat>(x, RN).into(),
                    narrowed::<BFloat>(x, Round::TowardZero).into(),
                    to_integer(h, 32, true, RN),
                    to_integer(h, 32, true, Round::TowardZero),
                    to_integer(h, 32, false, Round::TowardNegative),
                    to_integer(h, 16, true, Round::TowardPositive),
                    wide.to_bits() as u32,
                ];
                for (k, &expected) in expected.iter().enumerate() {
                    let found = found[k * N + i];
                    let good = if k == 10 && h.is_nan() {
                        f32::from_bits(found).is_nan()
                    } else {
                        found == expected
                    };
                    assert!(
                        good,
                        "conversion {k} of {x:#x}: {found:#x} for {expected:#x}"
                    );
                }
            }
        });
    }
}

#[test]
fn pairs_of_halves() {
    const N: usize = 300;
    let inputs = || (patterns(2 * N), patterns(2 * N), patterns(2 * N), order());
    for ptx in SOURCES.iter().filter_map(Source::ptx) {
        for_all(4, inputs(), |(x, y, z, seed)| {
            let args = [
                buffer(&x),
                buffer(&y),
                buffer(&z),
                Arg::Uninit(6 * 4 * N),
                Arg::U32(N as u32),
            ];
            let done = launch(ptx, "f16_pairs", (N.div_ceil(64) as u32, 64), seed, &args);
            let found = numbers_of::<u16>(&done.buffers[3]);
            for i in 0..N {
                let half = |k: usize, of: &[u16]| Half::from_bits(u128::from(of[2 * i + k]));
                for k in 0..2 {
                    let (a, b, c) = (half(k, &x), half(k, &y), half(k, &z));
                    let results = [
                        a.mul_add_r(b, c, RN).value,
                        a.add_r(b, RN).value,
                        a.mul_r(b, RN).value,
                    ];
                    for (operation, value) in results.iter().enumerate() {
                        let found = found[operation * 2 * N + 2 * i + k];
                        let expected = value.to_bits() as u16;
                        let good = if value.is_nan() {
                            found & 0x7fff > 0x7c00
                        } else {
                            found == expected
                        };
                        assert!(
                            good,
                            "operation {operation} on {a}, {b}, {c}: {found:#x} for {expected:#x}"
                        );
                    }
                }
                let moved = |operation: usize| &found[operation * 2 * N + 2 * i..][..2];
                assert_eq!(moved(3), [x[2 * i], y[2 * i]]);
                assert_eq!(moved(4), [x[2 * i + 1], y[2 * i + 1]]);
                assert_eq!(moved(5), [x[2 * i + 1], x[2 * i]]);
            }
        });
    }
}

/// A kind of fp8: bits of its fraction, its exponent's bias, its largest finite code.
struct Small {
    fraction: u32,
    bias: i32,
    largest: u8,
    /// The code after the largest: infinity, where there is one, or NaN.
    infinite: bool,
}

const E4M3: Small = Small {
    fraction: 3,
    bias: 7,
    largest: 0x7e,
    infinite: false,
};
const E5M2: Small = Small {
    fraction: 2,
    bias: 15,
    largest: 0x7b,
    infinite: true,
};

impl Small {
    /// The value of a code without its sign, as if there were no infinity and no NaN.
    fn magnitude(&self, code: u8) -> f64 {
        let (exponent, fraction) = (code >> self.fraction, code & ((1 << self.fraction) - 1));
        let (whole, exponent) = if exponent == 0 {
            (0, 1)
        } else {
            (1 << self.fraction, i32::from(exponent))
        };
        f64::from(whole + u32::from(fraction))
            * 2f64.powi(exponent - self.bias - self.fraction as i32)
    }

    fn value(&self, code: u8) -> f64 {
        let magnitude = match code & 0x7f {
            c if c <= self.largest => self.magnitude(c),
            c if self.infinite && c == self.largest + 1 => f64::INFINITY,
            _ => f64::NAN,
        };
        if code & 0x80 != 0 {
            -magnitude
        } else {
            magnitude
        }
    }

    /// The code nearest to a number, ties to even; `None` for NaN.
    fn code(&self, x: f32, saturate: bool) -> Option<u8> {
        if x.is_nan() {
            return None;
        }
        let sign = if x.is_sign_negative() { 0x80 } else { 0 };
        // The code past the largest stands for all that rounds beyond.
        let size = f64::from(x).abs().min(self.magnitude(self.largest + 1));
        let nearest = (0..=self.largest + 1)
            .min_by(|&a, &b| {
                let off = |c: u8| (self.magnitude(c) - size).abs();
                off(a).total_cmp(&off(b)).then((a & 1).cmp(&(b & 1)))
            })
            .expect("there are codes");
        match nearest > self.largest {
            false => Some(sign | nearest),
            true if saturate => Some(sign | self.largest),
            true if self.infinite => Some(sign | (self.largest + 1)),
            true => None,
        }
    }
}

#[test]
fn fp8() {
    const N: usize = 1000;
    for ptx in SOURCES.iter().filter_map(Source::ptx) {
        for_all(4, (floats(N), order()), |(input, seed)| {
            let args = [buffer(&input), Arg::Uninit(6 * N), Arg::U32(N as u32)];
            let done = launch(
                ptx,
                "fp8_from_float",
                (N.div_ceil(128) as u32, 128),
                seed,
                &args,
            );
            let found = &done.buffers[1];
            let kinds = [
                (E4M3, true),
                (E5M2, true),
                (E4M3, false),
                (E5M2, false),
                (E4M3, true),
                (E5M2, true),
            ];
            for (k, (kind, saturate)) in kinds.iter().enumerate() {
                for (i, &bits) in input.iter().enumerate() {
                    let x = f32::from_bits(bits);
                    let found = found[k * N + i];
                    let good = match kind.code(x, *saturate) {
                        Some(code) => found == code,
                        None => kind.value(found).is_nan(),
                    };
                    assert!(
                        good,
                        "{k}: {x:e} became {found:#x}, not {:x?}",
                        kind.code(x, *saturate)
                    );
                }
            }
        });
        let done = launch(
            ptx,
            "fp8_to_float",
            (1, 256),
            None,
            &[Arg::Uninit(4 * 1024)],
        );
        let found = numbers_of::<f32>(&done.buffers[0]);
        for code in 0..=255u8 {
            let at = usize::from(code);
            let cases = [
                (found[at], E4M3.value(code)),
                (found[256 + at], E5M2.value(code)),
                (found[512 + at], E4M3.value(code)),
                (found[768 + at], E4M3.value(255 - code)),
            ];
            for (found, expected) in cases {
                assert!(
                    found.is_nan() && expected.is_nan()
                        || f64::from(found).to_bits() == expected.to_bits(),
                    "code {code:#x}: {found} for {expected}"
                );
            }
        }
    }
}

/// The formats' own words, so that the definitions above are not the only witness.
#[test]
fn ranges_of_fp8() {
    assert_eq!(E4M3.value(0x7e), 448.0);
    assert_eq!(E5M2.value(0x7b), 57344.0);
    assert_eq!(E4M3.value(1), 2f64.powi(-9));
    assert_eq!(E5M2.value(1), 2f64.powi(-16));
    assert_eq!(E4M3.code(464.0, false), Some(0x7e));
    assert_eq!(E5M2.code(61440.0, false), Some(0x7c));
}

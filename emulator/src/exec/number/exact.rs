//! Exact numbers and their rounding to any binary format in any direction: for what the host's arithmetic
//! does not round as asked. One number at a time.

/// Direction of rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Nearest, ties to even.
    Even,
    /// Nearest, ties away from zero.
    Away,
    /// Toward zero.
    Zero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
}

/// A binary floating-point format with subnormal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bits of the significand, the implicit one included.
    pub precision: u32,
    /// Exponent of the smallest normal number.
    pub min_exponent: i32,
    /// Bits of the largest finite number.
    pub max: u64,
    /// Bits of infinity, where the format has one.
    pub infinity: Option<u64>,
    /// Bits of the canonical NaN.
    pub nan: u64,
    /// Place of the sign bit.
    pub sign: u32,
}

const fn ieee(width: u32, precision: u32, nan: u64) -> Format {
    let exponent_bits = width - precision;
    let infinity = ((1 << exponent_bits) - 1) << (precision - 1);
    let min_exponent = 2 - (1 << (exponent_bits - 1));
    Format {
        precision,
        min_exponent,
        max: infinity - 1,
        infinity: Some(infinity),
        nan,
        sign: width - 1,
    }
}

/// binary64.
pub const F64: Format = ieee(64, 53, 0xfff8_0000_0000_0000);
/// binary32.
pub const F32: Format = ieee(32, 24, 0x7fff_ffff);
/// binary16.
pub const F16: Format = ieee(16, 11, 0x7fff);
/// bfloat16.
pub const BF16: Format = ieee(16, 8, 0x7fff);
/// TensorFloat-32, without the 13 bits of nothing below it.
pub const TF32: Format = ieee(19, 11, 0x3ffff);
/// 8 bits, exponent of 4: no infinity, and NaN only where all bits are set.
pub const E4M3: Format = Format {
    precision: 4,
    min_exponent: -6,
    max: 0x7e,
    infinity: None,
    nan: 0x7f,
    sign: 7,
};
/// 8 bits, exponent of 5.
pub const E5M2: Format = ieee(8, 3, 0x7f);

/// A number other than zero: `significand · 2^exponent`, and where `sticky` something positive more that is
/// less than one unit of the significand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    /// Sign.
    pub negative: bool,
    /// Never zero.
    pub significand: u128,
    /// Of the significand's last bit.
    pub exponent: i32,
    /// Whether there is more below the last bit.
    pub sticky: bool,
}

impl Exact {
    /// A finite number other than zero.
    pub fn new(x: f64) -> Exact {
        let bits = x.to_bits();
        let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let significand = u128::from(if field == 0 {
            fraction
        } else {
            fraction | 1 << 52
        });
        Exact {
            negative: bits >> 63 != 0,
            significand,
            exponent: field.max(1) - 1075,
            sticky: false,
        }
    }

    /// The integer with this magnitude and sign.
    pub fn integer(negative: bool, magnitude: u64) -> Exact {
        Exact {
            negative,
            significand: u128::from(magnitude),
            exponent: 0,
            sticky: false,
        }
    }

    /// Exponent of the first bit.
    fn top(&self) -> i32 {
        self.exponent + 127 - self.significand.leading_zeros() as i32
    }

    /// With the first bit of the significand at place 126.
    fn normalised(self) -> Exact {
        let shift = self.significand.leading_zeros() as i32 - 1;
        if shift < 0 {
            let sticky = self.sticky || self.significand & 1 != 0;
            return Exact {
                significand: self.significand >> 1,
                exponent: self.exponent + 1,
                sticky,
                ..self
            };
        }
        Exact {
            significand: self.significand << shift,
            exponent: self.exponent - shift,
            ..self
        }
    }

    /// The product of significands of at most 64 bits.
    pub fn product(self, other: Exact) -> Exact {
        Exact {
            negative: self.negative != other.negative,
            significand: self.significand * other.significand,
            exponent: self.exponent + other.exponent,
            sticky: false,
        }
    }

    /// The sum of two numbers without sticky bits; `None` for zero.
    pub fn sum(self, other: Exact) -> Option<Exact> {
        let (a, b) = (self.normalised(), other.normalised());
        let larger = (a.exponent, a.significand) >= (b.exponent, b.significand);
        let (a, b) = if larger { (a, b) } else { (b, a) };
        let shift = (a.exponent - b.exponent) as u32;
        let (small, sticky) = match shift {
            0..=127 => (
                b.significand >> shift,
                b.significand << (128 - shift).min(127) != 0 && shift != 0,
            ),
            _ => (0, true),
        };
        let significand = if a.negative == b.negative {
            a.significand + small
        } else {
            // What is below the last bit is taken away too: borrow one unit, and its rest is below.
            a.significand - small - u128::from(sticky)
        };
        (significand != 0).then_some(Exact {
            significand,
            sticky,
            ..a
        })
    }

    /// The quotient, with a sticky bit.
    pub fn quotient(self, other: Exact) -> Exact {
        let a = self.normalised();
        let (q, r) = (
            a.significand / other.significand,
            a.significand % other.significand,
        );
        Exact {
            negative: self.negative != other.negative,
            significand: q,
            exponent: a.exponent - other.exponent,
            sticky: r != 0,
        }
    }

    /// The square root of a positive number, with a sticky bit.
    pub fn square_root(self) -> Exact {
        let mut a = self.normalised();
        if a.exponent % 2 != 0 {
            a.significand <<= 1;
            a.exponent -= 1;
        }
        let root = a.significand.isqrt();
        Exact {
            negative: false,
            significand: root,
            exponent: a.exponent / 2,
            sticky: root * root != a.significand,
        }
    }

    /// The bits of this number in a format, without its sign: `Err` where it is beyond the largest finite
    /// number once rounded.
    fn magnitude(&self, format: Format, round: Round) -> Result<u64, Overflow> {
        let top = self.top();
        let significand = self.significand << self.significand.leading_zeros();
        let least = top.max(format.min_exponent) - (format.precision as i32 - 1);
        let drop = least - (top - 127);
        let (kept, half, rest) = match drop {
            ..=127 => {
                let below = significand << (128 - drop);
                (significand >> drop, below >> 127 != 0, below << 1 != 0)
            }
            128 => (0, true, significand << 1 != 0),
            _ => (0, false, true),
        };
        let rest = rest || self.sticky;
        let up = match round {
            Round::Even => half && (rest || kept & 1 != 0),
            Round::Away => half,
            Round::Zero => false,
            Round::Down => self.negative && (half || rest),
            Round::Up => !self.negative && (half || rest),
        };
        let kept = kept as u64 + u64::from(up);
        let field = (top.max(format.min_exponent) - format.min_exponent) as u64;
        // The implicit bit adds one to the exponent's field, and so does a carry out of the significand.
        let bits = (field << (format.precision - 1)) + kept;
        if bits <= format.max {
            Ok(bits)
        } else {
            Err(Overflow)
        }
    }

    /// Rounds to a format; past its range to infinity (or NaN where it has none) or the largest number,
    /// as the direction says.
    pub fn round(&self, format: Format, round: Round) -> u64 {
        let sign = u64::from(self.negative) << format.sign;
        let bits =
            self.magnitude(format, round)
                .unwrap_or_else(|Overflow| match (round, self.negative) {
                    (Round::Zero, _) | (Round::Down, false) | (Round::Up, true) => format.max,
                    _ => format.infinity.unwrap_or(format.nan),
                });
        bits | sign
    }

    /// Rounds to a format; past its range to the largest finite number.
    pub fn round_finite(&self, format: Format, round: Round) -> u64 {
        self.magnitude(format, round).unwrap_or(format.max)
            | u64::from(self.negative) << format.sign
    }
}

struct Overflow;

fn signed_zero(negative: bool) -> f64 {
    if negative { -0.0 } else { 0.0 }
}

fn to_f64(x: Exact, round: Round) -> f64 {
    f64::from_bits(x.round(F64, round))
}

/// `a · b + c` in binary64, rounded once.
pub fn fma(a: f64, b: f64, c: f64, round: Round) -> f64 {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a * b + c;
    }
    let product_negative = a.is_sign_negative() != b.is_sign_negative();
    let product = (a != 0.0 && b != 0.0).then(|| Exact::new(a).product(Exact::new(b)));
    let addend = (c != 0.0).then(|| Exact::new(c));
    let sum = match (product, addend) {
        (Some(p), Some(c)) => p.sum(c),
        (p, c) => p.or(c),
    };
    match sum {
        Some(sum) => to_f64(sum, round),
        // A sum of zeros of one sign, or that cancels.
        None if product.is_none() && product_negative == c.is_sign_negative() => {
            signed_zero(product_negative)
        }
        None => signed_zero(round == Round::Down),
    }
}

/// `a · b` in binary64.
pub fn mul(a: f64, b: f64, round: Round) -> f64 {
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a * b;
    }
    to_f64(Exact::new(a).product(Exact::new(b)), round)
}

/// `a / b` in binary64.
pub fn div(a: f64, b: f64, round: Round) -> f64 {
    if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a / b;
    }
    to_f64(Exact::new(a).quotient(Exact::new(b)), round)
}

/// The square root in binary64.
pub fn sqrt(a: f64, round: Round) -> f64 {
    if a.is_finite() && a > 0.0 {
        to_f64(Exact::new(a).square_root(), round)
    } else if a >= 0.0 {
        // Zeros and infinity are their own roots.
        a
    } else {
        f64::from_bits(F64.nan)
    }
}

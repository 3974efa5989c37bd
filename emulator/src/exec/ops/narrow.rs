//! `cvt` to and from formats below binary32 with saturation of their own, packed ones, and `cvt.pack`.

use super::convert::round_to;
use super::float::{canonical, flush, rounding};
use super::half::Chunks;
use super::{has, operands};
use crate::exec::decode::Decoder;
use crate::exec::lanes::{Lane, alu1, each, wide};
use crate::exec::module::LoadError;
use crate::exec::number::exact::{self, Exact, Format, Round};
use crate::exec::number::f16::{BF16, F16, Half};
use crate::exec::program::{Flow, Handler, Inst};
use crate::exec::warp::Warp;
use crate::ptx::ast::{Instruction, Operand, Type};

/// Decodes a conversion that has a packed or narrow type, `.relu` or `.satfinite`.
///
/// # Errors
/// A form that is not executed.
pub fn decode(
    d: &mut Decoder,
    i: &Instruction,
    to: &str,
    from: &str,
) -> Result<Option<Inst>, LoadError> {
    let own = has(i, "relu") || has(i, "satfinite");
    let inst = match (to, from) {
        ("f16x2", "f32") => pair(d, i, exact::F16)?,
        ("bf16x2", "f32") => pair(d, i, exact::BF16)?,
        ("e4m3x2", "f32") => pair(d, i, exact::E4M3)?,
        ("e5m2x2", "f32") => pair(d, i, exact::E5M2)?,
        ("f16", "f32") if own => single(d, i, Type::F16, exact::F16, 0)?,
        ("bf16", "f32") if own => single(d, i, Type::BF16, exact::BF16, 0)?,
        ("tf32", "f32") => single(d, i, Type::B32, exact::TF32, 13)?,
        ("e4m3x2", "f16x2") => from_halves(d, i, exact::E4M3)?,
        ("e5m2x2", "f16x2") => from_halves(d, i, exact::E5M2)?,
        ("f16x2", "e4m3x2") => to_halves(d, i, true)?,
        ("f16x2", "e5m2x2") => to_halves(d, i, false)?,
        _ => return Ok(None),
    };
    Ok(Some(inst))
}

// Inst::aux of these: the direction, the format, flags.
const ROUND: u32 = 0xf;
const FORMAT: u32 = 4;
const RELU: u32 = 1 << 8;
const FINITE: u32 = 1 << 9;
const FTZ: u32 = 1 << 10;
const SAT: u32 = 1 << 11;
/// Bits that a result is shifted up.
const SHIFT: u32 = 12;

const FORMATS: [Format; 5] = [
    exact::F16,
    exact::BF16,
    exact::TF32,
    exact::E4M3,
    exact::E5M2,
];
const ROUNDS: [Round; 5] = [
    Round::Even,
    Round::Away,
    Round::Zero,
    Round::Down,
    Round::Up,
];

/// The constants of a conversion, its modifiers checked.
fn modifiers(d: &Decoder, i: &Instruction, format: Format) -> Result<u32, LoadError> {
    let Some(round) = rounding(d, i)? else {
        return d.invalid("the rounding must be named");
    };
    let eight_bits = format == exact::E4M3 || format == exact::E5M2;
    let tf32 = format == exact::TF32;
    let allowed = match round {
        Round::Even => true,
        Round::Zero => !eight_bits,
        Round::Away => tf32,
        _ => format == exact::F16 || format == exact::BF16,
    };
    if !allowed || has(i, "rni") || has(i, "rzi") || has(i, "rmi") || has(i, "rpi") {
        return d.unsupported("rounding");
    }
    if eight_bits && !has(i, "satfinite") {
        return d.invalid(".satfinite belongs");
    }
    if has(i, "sat") && (eight_bits || tf32 || has(i, "relu") || has(i, "satfinite"))
        || has(i, "ftz") && (eight_bits || tf32)
    {
        return d.unsupported("combination of modifiers");
    }
    let round = ROUNDS.iter().position(|r| *r == round).unwrap_or(0) as u32;
    let place = FORMATS.iter().position(|f| *f == format).unwrap_or(0) as u32;
    let mut aux = round | place << FORMAT;
    for (name, flag) in [
        ("relu", RELU),
        ("satfinite", FINITE),
        ("ftz", FTZ),
        ("sat", SAT),
    ] {
        if has(i, name) {
            aux |= flag;
        }
    }
    Ok(aux)
}

/// One number, rounded and clamped as the flags say.
fn convert(x: f32, aux: u32) -> u32 {
    let format = FORMATS[(aux >> FORMAT & 0xf) as usize];
    let round = ROUNDS[(aux & ROUND) as usize];
    let x = if aux & FTZ != 0 { flush(x) } else { x };
    let x = if aux & RELU != 0 && x <= 0.0 { 0.0 } else { x };
    let x = if aux & SAT != 0 {
        super::float::saturate(x)
    } else {
        x
    };
    let wide = f64::from(x);
    let bits = if aux & FINITE == 0 || x.is_nan() || x == 0.0 {
        round_to(wide, format, round)
    } else if x.is_infinite() {
        format.max | u64::from(x < 0.0) << format.sign
    } else {
        Exact::new(wide).round_finite(format, round)
    };
    (bits as u32) << (aux >> SHIFT)
}

fn single(
    d: &mut Decoder,
    i: &Instruction,
    to: Type,
    format: Format,
    shift: u32,
) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let aux = modifiers(d, i, format)? | shift << SHIFT;
    let target = d.dst(&i.operands[0], to)?;
    let a = d.src(&i.operands[1], Type::F32)?;
    Ok(Inst {
        d: target,
        a,
        aux,
        ..d.inst(one)
    })
}

unsafe fn one(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are 32-bit slots of the warp's file.
    unsafe {
        let out = f32::load(w.slot(i.a)).map(|x| tf32_nan(convert(x, i.aux), i.aux));
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

/// The bits below a TensorFloat-32 NaN are ones too: it is binary32's canonical NaN.
fn tf32_nan(bits: u32, aux: u32) -> u32 {
    if aux >> SHIFT != 0 && bits & 0x7fff_ffff > 0x7f80_0000 {
        0x7fff_ffff
    } else {
        bits
    }
}

/// Two binary32 numbers to two of a narrower format, the first to the upper half.
fn pair(d: &mut Decoder, i: &Instruction, format: Format) -> Result<Inst, LoadError> {
    operands(d, i, 3)?;
    let aux = modifiers(d, i, format)?;
    let eight_bits = format == exact::E4M3 || format == exact::E5M2;
    let target = d.dst(
        &i.operands[0],
        if eight_bits { Type::B16 } else { Type::B32 },
    )?;
    let (a, b) = (
        d.src(&i.operands[1], Type::F32)?,
        d.src(&i.operands[2], Type::F32)?,
    );
    let plain = aux & !(0xf << FORMAT) == 0;
    let run: Handler = match (plain, format) {
        (true, exact::F16) => pick_rounded::<F16>(),
        (true, exact::BF16) => pick_rounded::<BF16>(),
        _ if eight_bits => two::<8>,
        _ => two::<16>,
    };
    Ok(Inst {
        d: target,
        a,
        b,
        aux,
        ..d.inst(run)
    })
}

/// Two numbers rounded to nearest, side by side.
#[inline(always)]
unsafe fn both_rounded<H: Chunks, const WIDE: bool>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are 32-bit slots of the warp's file; the wide build is the caller's promise.
    unsafe {
        let (a, b) = (f32::load(w.slot(i.a)), f32::load(w.slot(i.b)));
        let rounded =
            |x: &[f32; 32], k: usize| H::narrow::<WIDE>(each(|l| canonical(x[8 * k + l])));
        let mut out = [0; 32];
        for k in 0..4 {
            let (upper, lower) = (rounded(&a, k), rounded(&b, k));
            let both: [u32; 8] = each(|l| u32::from(upper[l]) << 16 | u32::from(lower[l]));
            out[8 * k..8 * k + 8].copy_from_slice(&both);
        }
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

fn pick_rounded<H: Chunks>() -> Handler {
    unsafe fn base<H: Chunks>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
        // SAFETY: the handler's own contract.
        unsafe { both_rounded::<H, false>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn fast<H: Chunks>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
        // SAFETY: the handler's own contract; picked only where the features exist.
        unsafe { both_rounded::<H, true>(w, i, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if wide() {
        return fast::<H>;
    }
    base::<H>
}

unsafe fn two<const WIDTH: u32>(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are 32-bit slots of the warp's file.
    unsafe {
        let (a, b) = (f32::load(w.slot(i.a)), f32::load(w.slot(i.b)));
        let out = each(|l| convert(a[l], i.aux) << WIDTH | convert(b[l], i.aux));
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

fn from_halves(d: &mut Decoder, i: &Instruction, format: Format) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    let aux = modifiers(d, i, format)?;
    let target = d.dst(&i.operands[0], Type::B16)?;
    let a = d.src(&i.operands[1], Type::B32)?;
    Ok(Inst {
        d: target,
        a,
        aux,
        ..d.inst(two_halves)
    })
}

unsafe fn two_halves(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    // SAFETY: operands are 32-bit slots of the warp's file.
    unsafe {
        let out = u32::load(w.slot(i.a)).map(|a| {
            let half = |bits: u32| convert(F16(bits as u16).to_f32(), i.aux);
            half(a >> 16) << 8 | half(a)
        });
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

fn to_halves(d: &mut Decoder, i: &Instruction, e4m3: bool) -> Result<Inst, LoadError> {
    operands(d, i, 2)?;
    if rounding(d, i)? != Some(Round::Even) || has(i, "satfinite") || has(i, "sat") || has(i, "ftz")
    {
        return d.unsupported("modifiers");
    }
    let target = d.dst(&i.operands[0], Type::B32)?;
    let a = d.src(&i.operands[1], Type::B16)?;
    let run = match (e4m3, has(i, "relu")) {
        (true, false) => alu1(|a: u32| both_bytes(a, from_e4m3)),
        (true, true) => alu1(|a: u32| both_bytes(a, |x| relu(from_e4m3(x)))),
        (false, false) => alu1(|a: u32| both_bytes(a, from_e5m2)),
        (false, true) => alu1(|a: u32| both_bytes(a, |x| relu(from_e5m2(x)))),
    };
    Ok(Inst {
        d: target,
        a,
        ..d.inst(run)
    })
}

#[inline(always)]
fn both_bytes(a: u32, f: impl Fn(u32) -> u32) -> u32 {
    f(a & 0xff) | f(a >> 8 & 0xff) << 16
}

/// Zero in place of negative numbers.
#[inline(always)]
fn relu(half: u32) -> u32 {
    if half & 0x8000 != 0 { 0 } else { half }
}

/// Bits of binary16, which holds every e5m2 number.
#[inline(always)]
fn from_e5m2(x: u32) -> u32 {
    if x & 0x7f > 0x7c { 0x7fff } else { x << 8 }
}

/// Bits of binary16, which holds every e4m3 number.
#[inline(always)]
fn from_e4m3(x: u32) -> u32 {
    let (sign, magnitude) = ((x & 0x80) << 8, x & 0x7f);
    // The exponent is one bit shorter and its bias 8 less; subnormal numbers are multiples of 2^-9.
    let normal = (magnitude << 7) + (8 << 10);
    let tiny = F16::from_f32((magnitude as f32) * (1.0 / 512.0)).0.into();
    let finite = if magnitude < 8 { tiny } else { normal };
    if magnitude == 0x7f {
        0x7fff
    } else {
        sign | finite
    }
}

/// `cvt.pack`: two integers clamped to a narrow type and put side by side, above them the low bits of `c`.
///
/// # Errors
/// A form that is not executed.
pub fn pack(d: &mut Decoder, i: &Instruction) -> Result<Inst, LoadError> {
    let parts: Vec<&str> = i.opcode[1..].iter().map(String::as_str).collect();
    let (ty, with_c) = match parts[..] {
        ["pack", "sat", ty @ ("u16" | "s16"), "s32"] => (ty, false),
        [
            "pack",
            "sat",
            ty @ ("u8" | "s8" | "u4" | "s4" | "u2" | "s2"),
            "s32",
            "b32",
        ] => (ty, true),
        _ => return d.unsupported(""),
    };
    operands(d, i, if with_c { 4 } else { 3 })?;
    let bits: u32 = match &ty[1..] {
        "16" => 16,
        "8" => 8,
        "4" => 4,
        _ => 2,
    };
    let signed = ty.starts_with('s');
    let target = d.dst(&i.operands[0], Type::B32)?;
    let (a, b) = (
        d.src(&i.operands[1], Type::S32)?,
        d.src(&i.operands[2], Type::S32)?,
    );
    let third: Option<&Operand> = i.operands.get(3);
    let c = match third {
        Some(operand) => d.src(operand, Type::B32)?,
        None => d.constant(0, 4),
    };
    Ok(Inst {
        d: target,
        a,
        b,
        c,
        aux: bits,
        imm: i64::from(signed),
        ..d.inst(packed)
    })
}

unsafe fn packed(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let bits = i.aux;
    let (least, most) = if i.imm != 0 {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1i32 << bits) - 1)
    };
    let field = (1u32 << bits) - 1;
    // SAFETY: operands are 32-bit slots of the warp's file.
    unsafe {
        let (a, b, c) = (
            i32::load(w.slot(i.a)),
            i32::load(w.slot(i.b)),
            u32::load(w.slot(i.c)),
        );
        let out = each(|l| {
            let clamp = |x: i32| x.clamp(least, most) as u32 & field;
            let low = clamp(b[l]) | clamp(a[l]) << bits;
            if bits == 16 {
                low
            } else {
                low | c[l] << (2 * bits)
            }
        });
        u32::store(w.slot(i.d), out, mask);
    }
    Flow::Next
}

//! quantize and dequantize: every bit as the oracle's, and nothing touched besides.

mod refused;
mod replay;

use half::{bf16, f16};
use kv_kernels::cudarc::driver::CudaSlice;
use kv_kernels::reference::{self, CacheMap, ContiguousShape, Payload, Span};
use kv_kernels::{CacheShape, F8E4M3, HEAD_DIMS, Status, Storage, TokenSpan};
use proptest::prelude::*;

use crate::harness::{Device, Number, bits, device, numbers};

/// An element type, by its bits.
pub trait Source: Number {
    fn from_bits(bits: u16) -> Self;
}

impl Source for f16 {
    fn from_bits(bits: u16) -> Self {
        f16::from_bits(bits)
    }
}

impl Source for bf16 {
    fn from_bits(bits: u16) -> Self {
        bf16::from_bits(bits)
    }
}

/// What is stored, by its bits.
trait Stored: Storage + Payload {
    fn bits(self) -> u8;
    fn from_bits(bits: u8) -> Self;
}

impl Stored for i8 {
    fn bits(self) -> u8 {
        self as u8
    }
    fn from_bits(bits: u8) -> Self {
        bits as i8
    }
}

impl Stored for F8E4M3 {
    fn bits(self) -> u8 {
        self.0
    }
    fn from_bits(bits: u8) -> Self {
        F8E4M3(bits)
    }
}

/// Which tokens a test's operation covers.
#[derive(Clone, Debug)]
pub enum Tokens {
    All,
    Range(usize, usize),
    Held(Vec<i32>),
    HeldWithin(Vec<i32>, usize, usize),
    Ranges(Vec<i32>, Vec<i32>),
}

impl Tokens {
    /// First tokens and ends of each sequence, as far as there are tokens.
    pub fn clipped(&self, shape: CacheShape) -> (Vec<i32>, Vec<i32>) {
        let most = shape.max_seq_len as i32;
        let all = |token: usize| vec![token as i32; shape.batch];
        let (from, to) = match self {
            Tokens::All => (all(0), vec![most; shape.batch]),
            Tokens::Range(from, to) => (all(*from), all(*to)),
            Tokens::Held(to) => (all(0), to.clone()),
            Tokens::HeldWithin(to, first, last) => {
                let last = *last as i32;
                (all(*first), to.iter().map(|&to| to.min(last)).collect())
            }
            Tokens::Ranges(from, to) => (from.clone(), to.clone()),
        };
        let clip = |token: &i32| (*token).clamp(0, most);
        let from: Vec<i32> = from.iter().map(clip).collect();
        let to = to.iter().map(clip).zip(&from);
        let to = to.map(|(to, &from)| to.max(from)).collect();
        (from, to)
    }

    /// The span as an operation takes it, by way of `with`: what is on the device is borrowed.
    pub fn with<R>(&self, with: impl FnOnce(TokenSpan<'_>) -> R) -> R {
        let upload = |tokens: &[i32]| device().stream.clone_htod(tokens).expect("upload");
        match self {
            Tokens::All => with(TokenSpan::all()),
            Tokens::Range(from, to) => with((*from..*to).into()),
            Tokens::Held(to) => with(TokenSpan::held(&upload(to))),
            Tokens::HeldWithin(to, first, last) => {
                with(TokenSpan::held(&upload(to)).within(*first..*last))
            }
            Tokens::Ranges(from, to) => with(TokenSpan::ranges(&upload(from), &upload(to))),
        }
    }
}

/// What a test's vectors hold.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// Numbers from −1 to 1 times so much.
    Spread(f32),
    /// Any bits at all: NaN, infinities, subnormals, both ends.
    AnyBits,
    /// Bits of finite numbers, few of them large.
    Finite,
    /// Halves of whole numbers up to 127: the quotients of int8 are ties.
    Ties,
    /// Zeros of both signs, with a vector here and there that is not all zero.
    Zeros,
    /// Subnormals.
    Tiny,
    /// The largest finite numbers and what lies near, and infinities.
    Huge,
}

const VALUES: [Values; 8] = [
    Values::Spread(1.0),
    Values::Spread(3000.0),
    Values::AnyBits,
    Values::Finite,
    Values::Ties,
    Values::Zeros,
    Values::Tiny,
    Values::Huge,
];

impl Values {
    pub fn make<T: Source>(self, seed: u64, count: usize, head_dim: usize) -> Vec<T> {
        let random: Vec<u32> = numbers::<bf16>(seed ^ 0x51, 2 * count)
            .chunks(2)
            .zip(numbers::<f16>(seed, count))
            .map(|(pair, low)| {
                let mix = |x: u16, by: u32| u32::from(x).wrapping_mul(by);
                mix(pair[0].to_bits(), 0x9e37_79b1)
                    ^ mix(pair[1].to_bits(), 0x85eb_ca77)
                    ^ mix(low.to_bits(), 0xc2b2_ae3d).rotate_left(16)
            })
            .collect();
        // The bits of the largest finite number.
        let last_finite = T::of(f32::INFINITY).to_bits_of() - 1;
        let sign = |r: u32| (r as u16) & 0x8000;
        let one = |at: usize, r: u32| match self {
            Values::Spread(by) => T::of(by * (r as f32 / (1u64 << 31) as f32 - 1.0)),
            Values::AnyBits => T::from_bits((r >> 8) as u16),
            Values::Finite => T::from_bits(sign(r) | ((r >> 16) as u16 % (last_finite + 1))),
            Values::Ties if at.is_multiple_of(head_dim) => T::of(127.0),
            Values::Ties => T::of(0.5 * ((r >> 8) % 255) as f32 - 63.5),
            Values::Zeros if r.is_multiple_of(997) => T::of(2.5),
            Values::Zeros => T::from_bits(sign(r)),
            Values::Tiny => T::from_bits(sign(r) | ((r >> 16) as u16 % 12)),
            Values::Huge => T::from_bits(sign(r) | (last_finite + 1 - (r >> 16) as u16 % 30)),
        };
        let random = random.into_iter().enumerate();
        random.map(|(at, r)| one(at, r)).collect()
    }
}

trait Bits {
    fn to_bits_of(self) -> u16;
}

impl<T: Source> Bits for T {
    fn to_bits_of(self) -> u16 {
        bits(&[self])[0]
    }
}

/// One quantisation, and one back.
#[derive(Clone, Debug)]
struct Case {
    shape: CacheShape,
    tokens: Tokens,
    values: Values,
    /// Powers of ten of the channel scales, and so of what is divided by them.
    channel_scale: Option<i32>,
    seed: u64,
}

pub fn map(shape: CacheShape) -> CacheMap {
    CacheMap::contiguous(ContiguousShape {
        batch: shape.batch,
        num_kv_heads: shape.num_kv_heads,
        max_seq_len: shape.max_seq_len,
        head_dim: shape.head_dim,
    })
    .expect("a map")
}

/// Elements behind each slice that no kernel may touch.
const GUARD: usize = 16;

fn upload<T: Storage>(values: &[T], guard: T) -> CudaSlice<T> {
    let guarded = [values, &[guard; GUARD]].concat();
    device().stream.clone_htod(&guarded).expect("upload")
}

fn upload_f32(values: &[f32]) -> CudaSlice<f32> {
    let guarded = [values, &[-7.5; GUARD]].concat();
    device().stream.clone_htod(&guarded).expect("upload")
}

impl Case {
    fn new(shape: CacheShape) -> Case {
        Case {
            shape,
            tokens: Tokens::All,
            values: Values::Spread(1.0),
            channel_scale: None,
            seed: 1,
        }
    }

    fn check<T: Source, P: Stored>(&self) {
        let Device {
            stream, kernels, ..
        } = device();
        let (shape, map) = (self.shape, map(self.shape));
        let vectors = map.vectors();
        let source = self
            .values
            .make::<T>(self.seed, map.elements(), shape.head_dim);
        let channels = self.channel_scale.map(|power| {
            let spread = numbers::<f16>(self.seed + 2, shape.num_kv_heads * shape.head_dim);
            let of = |x: f16| (1.0 + 0.9 * f32::from(x)) * 10f32.powi(power);
            spread.into_iter().map(of).collect::<Vec<f32>>()
        });

        // The oracle, a sequence at a time, for the counts of each.
        let (from, to) = self.tokens.clipped(shape);
        let mut payload = vec![P::from_bits(0x55); map.elements()];
        let mut scales = vec![-1.5f32; vectors];
        let untouched = (payload.clone(), scales.clone());
        let mut words = vec![0u32; shape.batch];
        for sequence in 0..shape.batch {
            let mut ends = from.clone();
            ends[sequence] = to[sequence];
            let non_finite = reference::quantize(reference::Quantize {
                map: &map,
                span: Span::Tokens {
                    from: &from,
                    to: &ends,
                },
                source: &source,
                channel_scale: channels.as_deref(),
                payload: &mut payload,
                scales: &mut scales,
            })
            .expect("the oracle quantises");
            if non_finite > 0 {
                words[sequence] = 8 | (non_finite as u32) << 8;
            }
        }

        let source_device = upload(&source, T::NAN);
        let mut payload_device = upload(&untouched.0, P::from_bits(0x33));
        let mut scales_device = upload_f32(&untouched.1);
        let channels_device = channels.as_deref().map(upload_f32);
        let status = stream.alloc_zeros::<u32>(shape.batch).expect("status");
        let channels_len = shape.num_kv_heads * shape.head_dim;
        let channels_view = channels_device.as_ref().map(|c| c.slice(..channels_len));
        self.tokens.with(|tokens| {
            let source = source_device.slice(..map.elements());
            let mut payload = payload_device.slice_mut(..map.elements());
            let mut scales = scales_device.slice_mut(..vectors);
            let mut quantize = kernels
                .quantize(&source, shape, &mut payload, &mut scales)
                .tokens(tokens)
                .status(&status);
            if let Some(channels) = &channels_view {
                quantize = quantize.channel_scale(channels);
            }
            quantize.launch(stream).expect("quantize");
        });
        let found = stream.clone_dtoh(&payload_device).expect("download");
        let found_scales = stream.clone_dtoh(&scales_device).expect("download");
        let same = |found: &[P], expected: &[P]| {
            let wrong = found.iter().zip(expected).position(|(a, b)| a != b);
            if let Some(at) = wrong {
                panic!(
                    "payload[{at}] is {:#x}, expected {:#x}, of {:?} at scale {} ({}): {self:?}",
                    found[at].bits(),
                    expected[at].bits(),
                    source.get(at),
                    scales[at / shape.head_dim],
                    found_scales[at / shape.head_dim],
                );
            }
        };
        same(
            &found,
            &[&payload[..], &[P::from_bits(0x33); GUARD]].concat(),
        );
        let scale_bits = |scales: &[f32]| scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
        let expected_scales = [&scales[..], &[-7.5; GUARD]].concat();
        assert_eq!(
            scale_bits(&found_scales),
            scale_bits(&expected_scales),
            "{self:?}"
        );
        let found_words = stream.clone_dtoh(&status).expect("download");
        assert_eq!(found_words, words, "{self:?}");
        let counted: usize = Status::from_words(found_words)
            .non_finite()
            .map(|(_, count)| count)
            .sum();
        let of_words: u32 = words.iter().map(|word| word >> 8).sum();
        assert_eq!(counted, of_words as usize);

        // And back.
        let blank = vec![T::of(-9.0); map.elements()];
        let mut expected = blank.clone();
        reference::dequantize(reference::Dequantize {
            map: &map,
            span: Span::Tokens {
                from: &from,
                to: &to,
            },
            payload: &payload,
            scales: &scales,
            channel_scale: channels.as_deref(),
            target: &mut expected,
        })
        .expect("the oracle dequantises");
        let mut target = upload(&blank, T::of(-5.0));
        self.tokens.with(|tokens| {
            let payload = payload_device.slice(..map.elements());
            let scales = scales_device.slice(..vectors);
            let mut view = target.slice_mut(..map.elements());
            let mut dequantize = kernels
                .dequantize(&payload, &scales, shape, &mut view)
                .tokens(tokens);
            if let Some(channels) = &channels_view {
                dequantize = dequantize.channel_scale(channels);
            }
            dequantize.launch(stream).expect("dequantize");
        });
        let found = stream.clone_dtoh(&target).expect("download");
        expected.extend([T::of(-5.0); GUARD]);
        assert_eq!(bits(&found), bits(&expected), "{self:?}");
    }

    fn check_all(&self) {
        self.check::<f16, i8>();
        self.check::<f16, F8E4M3>();
        self.check::<bf16, i8>();
        self.check::<bf16, F8E4M3>();
    }
}

const SHAPE: CacheShape = CacheShape {
    batch: 3,
    num_kv_heads: 2,
    max_seq_len: 23,
    head_dim: 64,
};

#[test]
fn every_head_dim_and_kind_of_value() {
    for &head_dim in HEAD_DIMS {
        for values in VALUES {
            let mut case = Case::new(CacheShape {
                batch: 1,
                head_dim,
                ..SHAPE
            });
            case.values = values;
            case.check_all();
        }
    }
}

#[test]
fn channel_scales_of_every_size() {
    for power in [0, -3, 4, -20, 18, -36, 37] {
        for values in VALUES {
            let mut case = Case::new(CacheShape { batch: 1, ..SHAPE });
            case.values = values;
            case.channel_scale = Some(power);
            case.check_all();
        }
    }
}

#[test]
fn tokens_of_every_kind() {
    let lens = vec![0, 11, 23];
    for tokens in [
        Tokens::All,
        Tokens::Range(5, 17),
        Tokens::Range(7, 7),
        Tokens::Held(lens.clone()),
        Tokens::HeldWithin(lens, 4, 20),
        Tokens::Ranges(vec![0, 9, 22], vec![1, 23, 23]),
        // Beyond what there is, on either side, and none.
        Tokens::Held(vec![-4, 24, i32::MAX]),
        Tokens::Ranges(vec![-7, i32::MIN, 15], vec![3, i32::MAX, 15]),
        Tokens::Ranges(vec![9, 40, i32::MAX], vec![2, 50, i32::MIN]),
    ] {
        let mut case = Case::new(SHAPE);
        case.tokens = tokens;
        // What lies outside must not be counted, either.
        case.values = Values::AnyBits;
        case.check_all();
        case.channel_scale = Some(0);
        case.check_all();
    }
}

#[test]
fn packed_rows_are_sequences_of_one_token() {
    let mut case = Case::new(CacheShape {
        batch: 37,
        num_kv_heads: 3,
        max_seq_len: 1,
        head_dim: 128,
    });
    case.channel_scale = Some(0);
    case.check_all();
    case.tokens = Tokens::Held((0..37).map(|sequence| sequence % 2).collect());
    case.check_all();
}

/// Every byte there is, NaN of e4m3 among them, stands for what the oracle says.
#[test]
fn any_payload() {
    fn check<P: Stored, T: Source>() {
        let Device {
            stream, kernels, ..
        } = device();
        let shape = CacheShape {
            batch: 1,
            num_kv_heads: 1,
            max_seq_len: 4,
            head_dim: 256,
        };
        let map = map(shape);
        let payload: Vec<P> = (0..1024).map(|at| P::from_bits(at as u8)).collect();
        let scales = [1.0f32, 0.37, 2.0e-7, 900.0];
        let mut expected = vec![T::of(0.0); 1024];
        reference::dequantize(reference::Dequantize {
            map: &map,
            span: Span::Whole,
            payload: &payload,
            scales: &scales,
            channel_scale: None,
            target: &mut expected,
        })
        .expect("the oracle dequantises");
        let payload = stream.clone_htod(&payload).expect("upload");
        let scales = stream.clone_htod(&scales).expect("upload");
        let mut target = stream.alloc_zeros::<T>(1024).expect("allocation");
        kernels
            .dequantize(&payload, &scales, shape, &mut target)
            .launch(stream)
            .expect("dequantize");
        let found = stream.clone_dtoh(&target).expect("download");
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let both_nan = found.to_f64().is_nan() && expected.to_f64().is_nan();
            assert!(both_nan || bits(&[*found]) == bits(&[*expected]), "{at}");
        }
    }
    check::<i8, f16>();
    check::<i8, bf16>();
    check::<F8E4M3, f16>();
    check::<F8E4M3, bf16>();
}

prop_compose! {
    fn cases()(
        batch in 1usize..4,
        num_kv_heads in 1usize..5,
        max_seq_len in 1usize..60,
        head_dim in prop::sample::select(HEAD_DIMS),
        values in prop::sample::select(&VALUES[..]),
        channel_scale in prop::option::of(-5i32..5),
        kind in 0..5,
        seed in 0u64..1 << 40,
        ends in prop::collection::vec((-2i32..64, -2i32..64), 4),
    ) -> Case {
        let shape = CacheShape { batch, num_kv_heads, max_seq_len, head_dim };
        let from: Vec<i32> = ends[..batch].iter().map(|ends| ends.0).collect();
        let to: Vec<i32> = ends[..batch].iter().map(|ends| ends.1).collect();
        let inside = |end: i32| end.clamp(0, max_seq_len as i32) as usize;
        let (a, b) = (inside(ends[3].0), inside(ends[3].1));
        let (first, last) = (a.min(b), a.max(b));
        let tokens = match kind {
            0 => Tokens::All,
            1 => Tokens::Range(first, last),
            2 => Tokens::Held(to),
            3 => Tokens::HeldWithin(to, first, last),
            _ => Tokens::Ranges(from, to),
        };
        Case { shape, tokens, values, channel_scale, seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn as_the_oracle_says(case in cases()) {
        match case.seed % 4 {
            0 => case.check::<f16, i8>(),
            1 => case.check::<f16, F8E4M3>(),
            2 => case.check::<bf16, i8>(),
            _ => case.check::<bf16, F8E4M3>(),
        }
    }
}

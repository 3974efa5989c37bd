//! statistics and calibrate_channel_scale, against the oracle.

use half::{bf16, f16};
use kv_kernels::reference::{self, Span};
use kv_kernels::{CacheShape, ChannelScales, HEAD_DIMS, Statistics};
use proptest::prelude::*;

use crate::harness::{Device, another_context, device, numbers, upload};
use crate::quantize::{Source, Tokens, Values, map};
use crate::rejected::refused;

const SHAPE: CacheShape = CacheShape {
    batch: 2,
    num_kv_heads: 3,
    max_seq_len: 40,
    head_dim: 64,
};

#[derive(Clone, Debug)]
struct Case {
    shape: CacheShape,
    tokens: Tokens,
    values: Values,
    seed: u64,
}

impl Case {
    fn new(shape: CacheShape) -> Case {
        Case {
            shape,
            tokens: Tokens::All,
            values: Values::Spread(1.0),
            seed: 1,
        }
    }

    fn elements<T: Source>(&self) -> Vec<T> {
        let count = map(self.shape).elements();
        self.values.make(self.seed, count, self.shape.head_dim)
    }

    fn read<T: Source>(&self) -> Statistics {
        let Device {
            stream, kernels, ..
        } = device();
        let cache = upload(&self.elements::<T>());
        self.tokens.with(|tokens| {
            let statistics = kernels.statistics(&cache, self.shape).tokens(tokens);
            statistics.read(stream).expect("statistics")
        })
    }

    fn check<T: Source>(&self) {
        let (from, to) = self.tokens.clipped(self.shape);
        let (map, elements) = (map(self.shape), self.elements::<T>());
        let span = Span::Tokens {
            from: &from,
            to: &to,
        };
        let expected = reference::statistics(reference::StatisticsOf {
            map: &map,
            span,
            cache: &elements,
        })
        .expect("the oracle counts");
        let found = self.read::<T>();
        assert_eq!(
            (found.num_kv_heads, found.head_dim, found.channels.len()),
            (
                expected.num_kv_heads,
                expected.head_dim,
                expected.channels.len()
            )
        );
        for (channel, (found, expected)) in
            found.channels.iter().zip(&expected.channels).enumerate()
        {
            let range = expected.max - expected.min;
            assert!(
                (found.mean - expected.mean).abs() <= 1e-6 * range.max(expected.absmax),
                "mean of {channel}: {}, expected {}: {self:?}",
                found.mean,
                expected.mean
            );
            let mut exact = *found;
            exact.mean = expected.mean;
            assert_eq!(exact, *expected, "channel {channel} of {self:?}");
        }
        assert_eq!(found.outliers(), expected.outliers());

        let expected = reference::calibrate_channel_scale(reference::Calibrate {
            map: &map,
            span,
            cache: &elements,
        })
        .expect("the oracle calibrates");
        let mut scales = ones(self.shape);
        self.calibrate(&elements, &mut scales);
        assert_eq!(read(&scales), expected, "{self:?}");
    }

    fn calibrate<T: Source>(&self, elements: &[T], scales: &mut ChannelScales) {
        let Device {
            stream, kernels, ..
        } = device();
        let cache = upload(elements);
        self.tokens.with(|tokens| {
            kernels
                .calibrate_channel_scale(&cache, self.shape, scales)
                .tokens(tokens)
                .launch(stream)
                .expect("calibrate");
        });
    }
}

fn ones(shape: CacheShape) -> ChannelScales {
    ChannelScales::new(&device().stream, shape.num_kv_heads, shape.head_dim).expect("scales")
}

fn read(scales: &ChannelScales) -> Vec<f32> {
    let stream = &device().stream;
    stream.clone_dtoh(scales.scales()).expect("download")
}

#[test]
fn every_head_dim_and_kind_of_value() {
    for &head_dim in HEAD_DIMS {
        for values in [
            Values::Spread(30.0),
            Values::AnyBits,
            Values::Zeros,
            Values::Tiny,
            Values::Huge,
        ] {
            let mut case = Case::new(CacheShape { head_dim, ..SHAPE });
            case.values = values;
            case.check::<f16>();
            case.check::<bf16>();
        }
    }
}

#[test]
fn tokens_of_every_kind() {
    for tokens in [
        Tokens::Range(3, 39),
        Tokens::Range(9, 9),
        Tokens::Held(vec![0, 17]),
        Tokens::Held(vec![0, -1]),
        Tokens::HeldWithin(vec![40, 12], 8, 30),
        Tokens::Ranges(vec![-5, 39], vec![1, i32::MAX]),
    ] {
        let mut case = Case::new(SHAPE);
        case.tokens = tokens;
        case.values = Values::AnyBits;
        case.check::<f16>();
        case.check::<bf16>();
    }
}

/// Many parts of a head, whose last one is short.
#[test]
fn long_caches() {
    let mut case = Case::new(CacheShape {
        batch: 3,
        num_kv_heads: 2,
        max_seq_len: 700,
        head_dim: 128,
    });
    case.tokens = Tokens::Held(vec![700, 1, 513]);
    case.check::<f16>();
    case.check::<bf16>();
}

/// Which block is done first is left to chance; the bits are not.
#[test]
fn the_same_bits_in_any_order() {
    device();
    let Some(emulator) = ptx_emulator::Emulator::loaded() else {
        println!("skipped: a GPU runs in an order of its own");
        return;
    };
    let case = Case::new(CacheShape {
        batch: 3,
        max_seq_len: 300,
        ..SHAPE
    });
    let elements = case.elements::<bf16>();
    let mut first = None;
    for seed in 0..20 {
        emulator.set_seed(Some(seed)).expect("a seed");
        let statistics = case.read::<bf16>();
        let means: Vec<u64> = statistics
            .channels
            .iter()
            .map(|channel| channel.mean.to_bits())
            .collect();
        let mut scales = ones(case.shape);
        case.calibrate(&elements, &mut scales);
        let found = (statistics, means, read(&scales));
        let expected = first.get_or_insert_with(|| found.clone());
        assert_eq!(&found, expected, "seed {seed}");
    }
    emulator.set_seed(None).expect("no seed");
}

/// Prompts one after another are as good as all at once, small channels that the first one had only zeros in too.
#[test]
fn calibration_goes_on_until_it_is_reset() {
    let stream = &device().stream;
    let case = Case::new(SHAPE);
    let mut first = case.elements::<f16>();
    let mut second: Vec<f16> = numbers(7, first.len());
    for (at, x) in first.iter_mut().enumerate() {
        match at % SHAPE.head_dim {
            5 | 6 => *x = f16::ZERO,
            _ => {}
        }
    }
    for (at, x) in second.iter_mut().enumerate() {
        match at % SHAPE.head_dim {
            5 => *x = f16::from_f32(0.25),
            6 => *x = f16::ZERO,
            7 => *x = f16::from_f32(9.0),
            _ => {}
        }
    }
    let of = |elements: &[f16]| {
        reference::calibrate_channel_scale(reference::Calibrate {
            map: &map(SHAPE),
            span: Span::Whole,
            cache: elements,
        })
        .expect("the oracle calibrates")
    };
    let (of_first, of_second) = (of(&first), of(&second));
    let mut scales = ones(SHAPE);
    assert_eq!(read(&scales), vec![1.0; 3 * 64]);
    case.calibrate(&first, &mut scales);
    assert_eq!(read(&scales), of_first);
    case.calibrate(&second, &mut scales);
    let both: Vec<f32> = (0..3 * 64)
        .map(|channel| match channel % 64 {
            5 => 0.25,
            6 => 1.0,
            _ => of_first[channel].max(of_second[channel]),
        })
        .collect();
    assert_eq!(read(&scales), both);
    scales.reset(stream).expect("reset");
    assert_eq!(read(&scales), vec![1.0; 3 * 64]);
    case.calibrate(&second, &mut scales);
    assert_eq!(read(&scales), of_second);
    assert_eq!(
        stream.clone_dtoh(&scales.into_scales()).expect("download"),
        of_second
    );
}

/// Keys of the ranges that are known of a Qwen2.5-14B layer: one channel in sixteen is large.
#[test]
fn outlier_channels_are_reported() {
    let Device {
        stream, kernels, ..
    } = device();
    let mut keys: Vec<f16> = numbers(3, map(SHAPE).elements());
    for vector in keys.chunks_mut(SHAPE.head_dim) {
        for x in vector.iter_mut().step_by(16) {
            *x = f16::from_f32(x.to_f32() * 22.0);
        }
        vector[16] = f16::from_f32(23.3);
    }
    let statistics = kernels
        .statistics(&upload(&keys), SHAPE)
        .read(stream)
        .expect("statistics");
    for head in statistics.outliers() {
        assert_eq!(head.channel, 16);
        assert!(head.ratio > 22.0 && head.channel_scales_help(), "{head:?}");
    }
    let text = statistics.to_string();
    assert_eq!(text.lines().count(), 1 + SHAPE.num_kv_heads + 1);
    assert!(text.ends_with("help 3 of 3 heads"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn as_the_oracle_says(
        batch in 1usize..4,
        num_kv_heads in 1usize..4,
        max_seq_len in 1usize..150,
        head_dim in prop::sample::select(HEAD_DIMS),
        ends in prop::collection::vec((-2i32..150, -2i32..150), 3),
        any_bits in any::<bool>(),
        seed in 0u64..1 << 40,
    ) {
        let shape = CacheShape { batch, num_kv_heads, max_seq_len, head_dim };
        let (from, to) = ends[..batch].iter().copied().unzip();
        let values = if any_bits { Values::AnyBits } else { Values::Finite };
        let case = Case { shape, tokens: Tokens::Ranges(from, to), values, seed };
        if seed.is_multiple_of(2) {
            case.check::<f16>();
        } else {
            case.check::<bf16>();
        }
    }
}

#[test]
fn refusals() {
    let Device {
        stream, kernels, ..
    } = device();
    let cache = upload(&[f16::ONE; 2 * 3 * 40 * 64]);
    let short = upload(&[f16::ONE; 64]);
    let length = "source has 64 elements: its shape [2, 3, 40, 64] has 15360";
    refused(kernels.statistics(&short, SHAPE).read(stream), length);
    let mut scales = ones(SHAPE);
    let calibrate = kernels.calibrate_channel_scale(&short, SHAPE, &mut scales);
    refused(calibrate.launch(stream), length);
    refused(
        kernels.statistics(&cache, SHAPE).tokens(0..41).read(stream),
        "end of tokens is 41, but max_seq_len is 40",
    );
    let wide = CacheShape {
        head_dim: 100,
        ..SHAPE
    };
    refused(
        kernels.statistics(&cache, wide).plan(),
        "head_dim is 100: the kernels for f16 are built for [64, 80, 96, 112, 128, 192, 256]",
    );
    let mut of_others = ChannelScales::new(stream, 4, 64).expect("scales");
    let calibrate = kernels.calibrate_channel_scale(&cache, SHAPE, &mut of_others);
    refused(
        calibrate.launch(stream),
        "num_kv_heads of the channel scales is 4, but num_kv_heads is 3",
    );
    let mut of_others = ChannelScales::new(stream, 3, 128).expect("scales");
    let calibrate = kernels.calibrate_channel_scale(&cache, SHAPE, &mut of_others);
    refused(
        calibrate.launch(stream),
        "head_dim of the channel scales is 128, but head_dim is 64",
    );
    refused(
        ChannelScales::new(stream, 0, 64),
        "num_kv_heads is 0: it must be at least 1",
    );
    refused(
        ChannelScales::new(stream, 1 << 20, 1 << 20),
        "num_kv_heads * head_dim is 1099511627776: at most 2147483647 can be indexed",
    );
    let foreign = another_context().new_stream().expect("a stream");
    refused(
        kernels.statistics(&cache, SHAPE).read(&foreign),
        "stream belongs to another CUDA context than the kernels",
    );
    refused(
        scales.reset(&foreign),
        "stream belongs to another CUDA context than the kernels",
    );
}

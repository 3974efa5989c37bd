//! One byte an element and a scale a vector.

use crate::common::{assert_close, noise, reversed_pages};
use half::{bf16, f16};
use kv_kernels::reference::{
    Append, CacheMap, Calibrate, Comparison, ContiguousShape, Decode, Dequantize, F8E4M3, Options,
    PageOrder, Payload, Quantize, QuantizeAppend, Rows, Scalar, Span, append,
    calibrate_channel_scale, decode, dequantize, quantize, quantize_append,
};
use proptest::prelude::*;

/// Quantise one vector.
fn vector<T: Scalar, P: Payload>(x: &[T], channel_scale: Option<&[f32]>) -> (Vec<P>, f32, usize) {
    let map = CacheMap::rows(1, 1, x.len()).unwrap();
    let mut payload = vec![P::default(); x.len()];
    let mut scales = [f32::NAN];
    let non_finite = quantize(Quantize {
        map: &map,
        span: Span::Whole,
        source: x,
        channel_scale,
        payload: &mut payload,
        scales: &mut scales,
    })
    .unwrap();
    (payload, scales[0], non_finite)
}

fn back<P: Payload>(payload: &[P], scale: f32, channel_scale: Option<&[f32]>) -> Vec<f64> {
    let mut target = vec![0.0; payload.len()];
    dequantize(Dequantize {
        map: &CacheMap::rows(1, 1, payload.len()).unwrap(),
        span: Span::Whole,
        payload,
        scales: &[scale],
        channel_scale,
        target: &mut target,
    })
    .unwrap();
    target
}

#[test]
fn int8_by_hand() {
    // The largest magnitude is 127, so the scale is 1 and ties go to even.
    let x = [127.0f32, 63.5, 64.5, -0.5, 1.5, -2.5, -126.5, 0.0];
    assert_eq!(
        vector::<_, i8>(&x, None),
        (vec![127, 64, 64, 0, 2, -2, -126, 0], 1.0, 0)
    );
    let x = [-254.0f32, 3.0, 1.0];
    assert_eq!(
        vector::<_, i8>(&x, None),
        (vec![-127, 2, 0], 2.0, 0),
        "never -128"
    );
    assert_eq!(vector::<_, i8>(&[0.0f32, -0.0], None), (vec![0, 0], 0.0, 0));
    // f16's largest, and its smallest.
    let x = [f16::MAX, f16::MIN, f16::from_f32(1.0)];
    let (payload, scale, _) = vector::<_, i8>(&x, None);
    assert_eq!((payload, scale), (vec![127, -127, 0], 65504.0 / 127.0));
    let x = [f16::MIN_POSITIVE_SUBNORMAL, f16::ZERO];
    let (payload, scale, _) = vector::<_, i8>(&x, None);
    assert_eq!((payload, scale), (vec![127, 0], 2f32.powi(-24) / 127.0));
    // bf16's smallest: the scale is an f32 subnormal and still above 0.
    let (payload, scale, _) = vector::<_, i8>(&[bf16::MIN_POSITIVE_SUBNORMAL], None);
    assert_eq!((payload, scale.to_bits()), (vec![127], 516));
    let (payload, scale, _) = vector::<_, i8>(&[bf16::MAX, bf16::MIN], None);
    assert_eq!(payload, [127, -127]);
    assert!(scale.is_finite());
    // Too small for a scale.
    assert_eq!(
        vector::<_, i8>(&[f32::from_bits(1)], None),
        (vec![0], 0.0, 0)
    );
}

#[test]
fn fp8_by_hand() {
    let x = [448.0f32, -1.0, 0.0, 17.0, 1.0 / 512.0, 1.0 / 1024.0];
    let (payload, scale, _) = vector::<_, F8E4M3>(&x, None);
    assert_eq!(scale, 1.0);
    // 17 lies between 16 and 18: the tie goes to 16; half the smallest
    // subnormal goes to 0.
    assert_eq!(
        payload.map_to(F8E4M3::to_f32),
        [448.0, -1.0, 0.0, 16.0, 1.0 / 512.0, 0.0]
    );
}

trait MapTo<P> {
    fn map_to<R>(&self, f: impl Fn(P) -> R) -> Vec<R>;
}

impl<P: Copy> MapTo<P> for Vec<P> {
    fn map_to<R>(&self, f: impl Fn(P) -> R) -> Vec<R> {
        self.iter().map(|x| f(*x)).collect()
    }
}

#[test]
fn what_is_not_finite_costs_the_rest_nothing() {
    let (inf, nan) = (f16::INFINITY, f16::NAN);
    let x = [1.0, 0.5, -1.0].map(f16::from_f32);
    let clean = vector::<_, i8>(&x, None);
    let dirty = vector::<_, i8>(&[x[0], inf, x[1], -inf, x[2], nan], None);
    assert_eq!(clean.1, dirty.1);
    assert_eq!(dirty.0, [clean.0[0], 127, clean.0[1], -127, clean.0[2], 0]);
    assert_eq!(dirty.2, 3);
    assert_eq!(vector::<_, i8>(&[inf, nan], None), (vec![0, 0], 0.0, 2));
    let (payload, scale, non_finite) = vector::<_, F8E4M3>(&[inf, nan, x[0]], None);
    assert_eq!((payload[0], payload[1]), (F8E4M3::MAX, F8E4M3(0)));
    assert_eq!((scale, non_finite), (1.0 / 448.0, 2));
    // A quotient past f32 is no more finite than an element.
    let (payload, scale, non_finite) = vector::<_, i8>(&[1e30f32, 2.0], Some(&[1e-30, 1.0]));
    assert_eq!(
        (payload, scale, non_finite),
        (vec![127, 127], 2.0 / 127.0, 1)
    );
}

#[test]
fn a_span_leaves_all_else_alone() {
    let map = CacheMap::contiguous(ContiguousShape {
        batch: 2,
        num_kv_heads: 1,
        max_seq_len: 3,
        head_dim: 2,
    })
    .unwrap();
    let source = vec![1.0f32; map.elements()];
    let mut payload = vec![7i8; map.elements()];
    let mut scales = vec![9.0; map.vectors()];
    let span = Span::Tokens {
        from: &[1, 2],
        to: &[3, 2],
    };
    quantize(Quantize {
        map: &map,
        span,
        source: &source,
        channel_scale: None,
        payload: &mut payload,
        scales: &mut scales,
    })
    .unwrap();
    assert_eq!(payload, [7, 7, 127, 127, 127, 127, 7, 7, 7, 7, 7, 7]);
    let scale = 1.0 / 127.0;
    assert_eq!(scales, [9.0, scale, scale, 9.0, 9.0, 9.0]);
    let mut target = vec![5.0f32; map.elements()];
    dequantize(Dequantize {
        map: &map,
        span,
        payload: &payload,
        scales: &scales,
        channel_scale: None,
        target: &mut target,
    })
    .unwrap();
    assert_eq!(target, [5., 5., 1., 1., 1., 1., 5., 5., 5., 5., 5., 5.]);
}

/// The published range of one layer of Qwen2.5-14B: K from −23.3 to 21.8 with
/// outlier channels, V from −2.9 to 3.2. Attention over the int8 cache must
/// point where it points over the fp16 one.
#[test]
fn published_ranges_survive() {
    let (tokens, head_dim, heads, group) = (64, 128, 2, 5);
    let map = CacheMap::rows(tokens, heads, head_dim).unwrap();
    let mut k = noise(1, map.elements());
    for (index, k) in k.iter_mut().enumerate() {
        *k = match index % head_dim {
            17 => *k * 1.3 + 20.5,
            81 => *k * 1.3 - 22.0,
            _ => *k * 2.0,
        };
    }
    let v: Vec<f64> = noise(2, map.elements())
        .iter()
        .map(|v| v * 3.05 + 0.15)
        .collect();
    let halve = |x: &[f64]| x.iter().map(|x| f16::from_f64(*x)).collect::<Vec<_>>();
    let (k, v) = (halve(&k), halve(&v));
    let q = halve(&noise(3, heads * group * head_dim));
    let span = Span::Whole;
    let channel_scale = calibrate_channel_scale(Calibrate {
        map: &map,
        span,
        cache: &k,
    })
    .unwrap();
    let attend = |k: &[f64], v: &[f64]| {
        decode(Decode {
            map: &map,
            k_cache: k,
            v_cache: v,
            q: &q,
            rows: Rows::Uniform {
                batch: 1,
                tokens: 1,
            },
            num_q_heads: heads * group,
            kv_lens: &[tokens as i32],
            options: Options::default(),
        })
        .unwrap()
    };
    let through_int8 = |x: &[f16], channel_scale| {
        let mut payload = vec![0i8; map.elements()];
        let mut scales = vec![0.0; map.vectors()];
        quantize(Quantize {
            map: &map,
            span,
            source: x,
            channel_scale,
            payload: &mut payload,
            scales: &mut scales,
        })
        .unwrap();
        let mut target = vec![0.0f64; map.elements()];
        dequantize(Dequantize {
            map: &map,
            span,
            payload: &payload,
            scales: &scales,
            channel_scale,
            target: &mut target,
        })
        .unwrap();
        target
    };
    let widen = |x: &[f16]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    let exact = attend(&widen(&k), &widen(&v));
    let v8 = through_int8(&v, None);
    let compare = |k: &[f64]| Comparison::of(&attend(k, &v8).out, &exact.out).unwrap();
    let plain = compare(&through_int8(&k, None));
    let scaled = compare(&through_int8(&k, Some(&channel_scale)));
    assert!(scaled.cosine >= 0.9999, "{scaled}");
    assert!(
        scaled.relative_l2 < plain.relative_l2 / 2.0,
        "{plain} / {scaled}"
    );
}

proptest! {
    /// Any bits whatever: everything stays finite, and what was finite comes
    /// back within half a step.
    #[test]
    fn int8_error_is_at_most_half_a_step(bits in prop::collection::vec(any::<u16>(), 1..40)) {
        let x: Vec<f16> = bits.iter().map(|bits| f16::from_bits(*bits)).collect();
        let (payload, scale, non_finite) = vector::<_, i8>(&x, None);
        prop_assert!(scale.is_finite() && scale >= 0.0);
        prop_assert_eq!(non_finite, x.iter().filter(|x| !x.is_finite()).count());
        for ((x, payload), back) in x.iter().zip(&payload).zip(back(&payload, scale, None)) {
            prop_assert!(*payload != i8::MIN);
            if x.is_finite() {
                // f32's rounding of quotient and scale adds a little.
                let bound = f64::from(scale) * 0.50002;
                prop_assert!((x.to_f64() - back).abs() <= bound);
            }
        }
    }

    #[test]
    fn fp8_error_is_at_most_half_a_step(seed: u64, magnitude in -10i32..10, len in 1usize..40) {
        let x: Vec<f64> =
            noise(seed, len).iter().map(|x| x * 2f64.powi(magnitude)).collect();
        let x: Vec<f16> = x.into_iter().map(<f16 as Scalar>::from_f64).collect();
        let (payload, scale, _) = vector::<_, F8E4M3>(&x, None);
        for (x, back) in x.iter().zip(back(&payload, scale, None)) {
            let x = x.to_f64();
            // Three bits of mantissa, down to the subnormals' fixed step.
            let bound = (x.abs() / 16.0).max(f64::from(scale) / 1024.0) * 1.00001;
            prop_assert!((x - back).abs() <= bound, "{x} came back as {back}");
        }
    }

    /// A vector that came back is quantised to the same payload again.
    #[test]
    fn int8_is_idempotent(seed: u64, len in 1usize..40) {
        let (payload, scale, _) = vector::<_, i8>(&noise(seed, len), None);
        let (again, scale_again, _) = vector::<_, i8>(&back(&payload, scale, None), None);
        prop_assert_eq!(payload, again);
        prop_assert!((scale_again / scale - 1.0).abs() < 1e-6);
    }

    /// Dividing the key and multiplying the query leaves the score.
    #[test]
    fn channel_scales_cancel(seed: u64, len in 1usize..40) {
        let k: Vec<f32> = noise(seed, len).iter().map(|x| *x as f32 * 9.0).collect();
        let q = noise(!seed, len);
        let map = CacheMap::rows(1, 1, len).unwrap();
        let channels = calibrate_channel_scale(Calibrate {
            map: &map,
            span: Span::Whole,
            cache: &k,
        }).unwrap();
        // A single token is its own range: every element becomes ±1.
        let (payload, scale, _) = vector::<_, i8>(&k, Some(&channels));
        prop_assert!(payload.iter().all(|p| p.abs() == 127));
        prop_assert_eq!(scale, 1.0 / 127.0);
        let whole = back(&payload, scale, Some(&channels));
        let divided = back(&payload, scale, None);
        let on_keys: f64 = q.iter().zip(&whole).map(|(q, k)| q * k).sum();
        let on_query: f64 = q.iter().zip(&divided).zip(&channels)
            .map(|((q, k), c)| q * f64::from(*c) * k)
            .sum();
        assert_close(&[on_keys], &[on_query], 1e-4);
    }

    /// Quantising on append is appending what quantising gives.
    #[test]
    fn quantising_on_append(
        lens in prop::collection::vec((0usize..5, 0usize..4), 1..4),
        heads in 1usize..3,
        head_dim in 1usize..6,
        nhd: bool,
        with_channels: bool,
        seed: u64,
    ) {
        let order = if nhd { PageOrder::Nhd } else { PageOrder::Hnd };
        let map = reversed_pages(lens.len(), 3, heads, 2, head_dim, order);
        let seq_lens: Vec<i32> = lens.iter().map(|(held, _)| *held as i32).collect();
        let mut cu_seqlens = vec![0];
        for (_, new) in &lens {
            cu_seqlens.push(cu_seqlens.last().unwrap() + *new as i32);
        }
        let rows = Rows::Ragged { cu_seqlens: &cu_seqlens };
        let tokens = *cu_seqlens.last().unwrap() as usize;
        let mut new = noise(seed, tokens * heads * head_dim);
        if let Some(first) = new.first_mut() {
            *first = f64::NAN;
        }
        let channels: Vec<f32> =
            noise(!seed, heads * head_dim).iter().map(|x| x.abs() as f32 + 0.1).collect();
        let channel_scale = with_channels.then_some(&channels[..]);

        let mut payload = vec![99i8; map.elements()];
        let mut scales = vec![-1.0f32; map.vectors()];
        let appended = quantize_append(QuantizeAppend {
            map: &map,
            payload: &mut payload,
            scales: &mut scales,
            new: &new,
            rows,
            seq_lens: &seq_lens,
            channel_scale,
        }).unwrap();

        let mut expected = vec![99i8; map.elements()];
        let mut expected_scales = vec![-1.0f32; map.vectors()];
        let mut row_payload = vec![0i8; new.len()];
        let mut row_scales = vec![0.0f32; tokens * heads];
        if tokens > 0 {
            quantize(Quantize {
                map: &CacheMap::rows(tokens, heads, head_dim).unwrap(),
                span: Span::Whole,
                source: &new,
                channel_scale,
                payload: &mut row_payload,
                scales: &mut row_scales,
            }).unwrap();
        }
        let plain = append(Append {
            map: &map,
            k_cache: &mut expected,
            v_cache: &mut vec![0i8; map.elements()],
            k: &row_payload,
            v: &row_payload,
            rows,
            seq_lens: &seq_lens,
        }).unwrap();
        append(Append {
            map: &map.scales(),
            k_cache: &mut expected_scales,
            v_cache: &mut vec![0.0f32; map.vectors()],
            k: &row_scales,
            v: &row_scales,
            rows,
            seq_lens: &seq_lens,
        }).unwrap();
        prop_assert_eq!(payload, expected);
        prop_assert_eq!(scales, expected_scales);
        let first = lens.iter().position(|(_, new)| *new > 0);
        let stored = first.is_some_and(|first| !plain.overflowed.contains(&first));
        prop_assert_eq!(appended.overflowed, plain.overflowed);
        prop_assert_eq!(appended.non_finite, usize::from(stored));
    }
}

#[test]
fn refusals() {
    let map = CacheMap::rows(2, 1, 4).unwrap();
    let try_quantize = |source: usize, scales: usize, channel_scale, span| {
        quantize(Quantize {
            map: &map,
            span,
            source: &vec![0.0f32; source],
            channel_scale,
            payload: &mut [0i8; 8],
            scales: &mut vec![0.0; scales],
        })
        .unwrap_err()
        .to_string()
    };
    let whole = Span::Whole;
    assert_eq!(
        try_quantize(7, 2, None, whole),
        "source has 7 elements where the cache asks for 8"
    );
    assert_eq!(
        try_quantize(8, 8, None, whole),
        "scales has 8 elements where a scale a vector asks for 2"
    );
    assert_eq!(
        try_quantize(8, 2, Some(&[1.0; 3]), whole),
        "channel_scale has 3 elements where [num_kv_heads, head_dim] asks for 4"
    );
    assert_eq!(
        try_quantize(8, 2, Some(&[1.0, 0.0, 1.0, 1.0]), whole),
        "channel_scale is 0; allowed: finite, above 0"
    );
    let span = |from, to| Span::Tokens { from, to };
    assert_eq!(
        try_quantize(8, 2, None, span(&[0], &[3])),
        "to 3 is out of range: there are 2"
    );
    assert_eq!(
        try_quantize(8, 2, None, span(&[2], &[1])),
        "from 2 is out of range: there are 1"
    );
    assert_eq!(
        try_quantize(8, 2, None, span(&[0, 0], &[1])),
        "from is for 2 sequences, not 1"
    );
}

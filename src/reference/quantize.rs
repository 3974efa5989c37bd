//! One byte an element and one scale a vector: int8, and fp8 e4m3 by the same
//! rule.
//!
//! Fixed bit for bit. For a vector `x` of one token and KV head, all in f32
//! with each operation rounded to nearest even:
//!
//! ```text
//! y       = x                       or x / channel_scale, where there is one
//! scale   = max |y| / MAX           over the finite y; MAX is 127 (int8), 448 (e4m3)
//! payload = nearest(y / scale)      ties to even, never past ±MAX
//! x̂       = payload · scale         or payload · scale · channel_scale
//! ```
//!
//! - A vector whose finite elements are all zero has scale 0 and payload 0. The
//!   same goes for one so small that its scale rounds to 0.
//! - A `y` that is not finite is counted and does not touch the scale: NaN is
//!   stored as 0, ±∞ as ±MAX (as 0 where the scale is 0). Payload and scale are
//!   therefore always finite, and the rest of the vector is as precise as if
//!   the element had not been there.

use super::append::{check, copy, place};
use super::channel_scale;
use super::error::{self, Error};
use super::fp8::F8E4M3;
use super::layout::CacheMap;
use super::rows::Rows;
use super::scalar::Scalar;
use super::span::Span;
use std::fmt::Debug;

mod sealed {
    pub trait Sealed {}
    impl Sealed for i8 {}
    impl Sealed for crate::reference::F8E4M3 {}
}

/// What a quantised cache stores for an element: `i8` or [`F8E4M3`]. Sealed.
pub trait Payload: sealed::Sealed + Copy + Debug + Default + PartialEq + 'static {
    /// The largest magnitude stored, which the largest element of a vector is
    /// scaled to.
    const MAX: f32;

    /// The nearest stored value, ties to even, never past ±[`MAX`](Self::MAX).
    /// `value` is finite.
    fn nearest(value: f32) -> Self;

    /// The stored value.
    fn value(self) -> f32;
}

impl Payload for i8 {
    const MAX: f32 = 127.0;

    fn nearest(value: f32) -> Self {
        let max = <Self as Payload>::MAX;
        value.round_ties_even().clamp(-max, max) as i8
    }

    fn value(self) -> f32 {
        self.into()
    }
}

impl Payload for F8E4M3 {
    const MAX: f32 = 448.0;

    fn nearest(value: f32) -> Self {
        F8E4M3::from_f32(value)
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

/// Vectors to quantise, and where to. Source, payload and scales lie by the
/// same map; for packed rows that is [`CacheMap::rows`].
#[derive(Debug)]
pub struct Quantize<'a, T, P> {
    /// Where the vectors lie; the scales by [`CacheMap::scales`].
    pub map: &'a CacheMap,
    /// The tokens to quantise. All else is left as it is.
    pub span: Span<'a>,
    /// Elements, [`CacheMap::elements`] of them.
    pub source: &'a [T],
    /// Divisors, `[num_kv_heads, head_dim]`, each finite and above 0.
    pub channel_scale: Option<&'a [f32]>,
    /// Receives the payload, [`CacheMap::elements`] long.
    pub payload: &'a mut [P],
    /// Receives a scale for each vector, [`CacheMap::vectors`] long.
    pub scales: &'a mut [f32],
}

/// Quantise. Returns the number of elements that were not finite.
///
/// # Errors
/// [`Error::Length`] for buffers that do not fit the map, [`Error::Value`] for a
/// channel scale out of range, those of [`Span::ranges`] and
/// [`CacheMap::slot`].
pub fn quantize<T: Scalar, P: Payload>(args: Quantize<'_, T, P>) -> Result<usize, Error> {
    let Quantize {
        map,
        span,
        source,
        payload,
        scales,
        ..
    } = args;
    error::length("source", source.len(), map.elements(), "the cache")?;
    error::length("payload", payload.len(), map.elements(), "the cache")?;
    error::length("scales", scales.len(), map.vectors(), "a scale a vector")?;
    channel_scale::check(args.channel_scale, map)?;
    let mut non_finite = 0;
    for vector in span.vectors(map)? {
        let channels = channel_scale::of_head(args.channel_scale, map, vector.head);
        let elements: Vec<f32> = source[vector.elements.clone()]
            .iter()
            .enumerate()
            .map(|(d, x)| match channels {
                Some(channels) => x.to_f64() as f32 / channels[d],
                None => x.to_f64() as f32,
            })
            .collect();
        let scale = vector_scale::<P>(&elements);
        scales[vector.elements.start / map.head_dim()] = scale;
        for (payload, y) in payload[vector.elements].iter_mut().zip(elements) {
            non_finite += usize::from(!y.is_finite());
            *payload = quantize_element(y, scale);
        }
    }
    Ok(non_finite)
}

fn vector_scale<P: Payload>(elements: &[f32]) -> f32 {
    let absmax = elements
        .iter()
        .filter(|y| y.is_finite())
        .fold(0.0, |absmax: f32, y| absmax.max(y.abs()));
    absmax / P::MAX
}

fn quantize_element<P: Payload>(y: f32, scale: f32) -> P {
    if scale == 0.0 || y.is_nan() {
        P::nearest(0.0)
    } else if y.is_infinite() {
        P::nearest(P::MAX.copysign(y))
    } else {
        P::nearest(y / scale)
    }
}

/// A quantised cache and where to put what it stands for.
#[derive(Debug)]
pub struct Dequantize<'a, P, T> {
    /// Where the vectors lie; the scales by [`CacheMap::scales`].
    pub map: &'a CacheMap,
    /// The tokens to dequantise. All else is left as it is.
    pub span: Span<'a>,
    /// Payload, [`CacheMap::elements`] long.
    pub payload: &'a [P],
    /// Scales, [`CacheMap::vectors`] long.
    pub scales: &'a [f32],
    /// What the source was divided by, `[num_kv_heads, head_dim]`.
    pub channel_scale: Option<&'a [f32]>,
    /// Receives the elements, [`CacheMap::elements`] long: each product is
    /// rounded to f32 and the last one to `T`.
    pub target: &'a mut [T],
}

/// Dequantise: the values that attention over a quantised cache is held to
/// (with `T` f32 or f64), or what a conversion kernel writes (f16, bf16).
///
/// # Errors
/// As [`quantize`].
pub fn dequantize<P: Payload, T: Scalar>(args: Dequantize<'_, P, T>) -> Result<(), Error> {
    let Dequantize {
        map,
        span,
        payload,
        scales,
        target,
        ..
    } = args;
    error::length("payload", payload.len(), map.elements(), "the cache")?;
    error::length("scales", scales.len(), map.vectors(), "a scale a vector")?;
    error::length("target", target.len(), map.elements(), "the cache")?;
    channel_scale::check(args.channel_scale, map)?;
    for vector in span.vectors(map)? {
        let channels = channel_scale::of_head(args.channel_scale, map, vector.head);
        let scale = scales[vector.elements.start / map.head_dim()];
        for (d, element) in vector.elements.enumerate() {
            let mut value = payload[element].value() * scale;
            if let Some(channels) = channels {
                value *= channels[d];
            }
            target[element] = T::from_f64(value.into());
        }
    }
    Ok(())
}

/// New tokens to quantise into a cache: one buffer, K or V.
#[derive(Debug)]
pub struct QuantizeAppend<'a, T, P> {
    /// Where the cache's vectors lie; the scales by [`CacheMap::scales`].
    pub map: &'a CacheMap,
    /// The cache, [`CacheMap::elements`] long.
    pub payload: &'a mut [P],
    /// Its scales, [`CacheMap::vectors`] long.
    pub scales: &'a mut [f32],
    /// New vectors, `[tokens, num_kv_heads, head_dim]`.
    pub new: &'a [T],
    /// How the new tokens divide among the sequences.
    pub rows: Rows<'a>,
    /// Tokens each sequence holds before, `[batch]`.
    pub seq_lens: &'a [i32],
    /// Divisors, `[num_kv_heads, head_dim]`, each finite and above 0.
    pub channel_scale: Option<&'a [f32]>,
}

/// What a quantising append did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuantizeAppended {
    /// Sequences left untouched, as in [`Appended`](super::Appended).
    pub overflowed: Vec<usize>,
    /// Elements that were not finite, of those stored.
    pub non_finite: usize,
}

/// Quantise new tokens and append them: [`append`](super::append()) of what
/// [`quantize`] makes of them.
///
/// # Errors
/// Those of both. On an error nothing has been written.
pub fn quantize_append<T: Scalar, P: Payload>(
    args: QuantizeAppend<'_, T, P>,
) -> Result<QuantizeAppended, Error> {
    let map = args.map;
    let placement = place(map, args.rows, args.seq_lens)?;
    check(
        map,
        &placement,
        ("new", args.new.len()),
        ("payload", args.payload.len()),
    )?;
    let scales_len = args.scales.len();
    error::length("scales", scales_len, map.vectors(), "a scale a vector")?;
    channel_scale::check(args.channel_scale, map)?;
    let mut appended = QuantizeAppended {
        overflowed: placement.overflowed.clone(),
        non_finite: 0,
    };
    if placement.tokens == 0 {
        return Ok(appended);
    }

    let rows = CacheMap::rows(placement.tokens, map.num_kv_heads(), map.head_dim())?;
    let mut payload = vec![P::default(); rows.elements()];
    let mut scales = vec![0.0; rows.vectors()];
    for token in &placement.placed {
        let row = i32::try_from(token.row).map_err(|_| Error::TooLarge { argument: "rows" })?;
        appended.non_finite += quantize(Quantize {
            map: &rows,
            span: Span::Tokens {
                from: &[row],
                to: &[row + 1],
            },
            source: args.new,
            channel_scale: args.channel_scale,
            payload: &mut payload,
            scales: &mut scales,
        })?;
    }
    copy(map, &placement, &payload, args.payload)?;
    copy(&map.scales(), &placement, &scales, args.scales)?;
    Ok(appended)
}

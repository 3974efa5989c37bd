//! Channel scales: what keys are divided by before they are quantised, so that
//! a few large channels do not cost all others their precision.
//!
//! The query is multiplied by them instead, once, and the scores stay what they
//! were: `Σ (q·c)(k/c) = Σ q k`.

use super::error::{self, Error};
use super::layout::CacheMap;
use super::options::allowed;
use super::scalar::Scalar;
use super::span::Span;

/// Cached vectors to calibrate channel scales on.
#[derive(Debug)]
pub struct Calibrate<'a, T> {
    /// Where the vectors lie.
    pub map: &'a CacheMap,
    /// The tokens to look at.
    pub span: Span<'a>,
    /// Elements, [`CacheMap::elements`] of them.
    pub cache: &'a [T],
}

/// A scale for each KV head and channel, `[num_kv_heads, head_dim]`: the largest
/// magnitude the span holds there, as f32. Elements that are not finite do not
/// count; a channel without any but zeros gets 1.
///
/// # Errors
/// [`Error::Length`] for a cache that does not fit the map, those of
/// [`Span::ranges`] and [`CacheMap::slot`].
pub fn calibrate_channel_scale<T: Scalar>(args: Calibrate<'_, T>) -> Result<Vec<f32>, Error> {
    let map = args.map;
    error::length("cache", args.cache.len(), map.elements(), "the cache")?;
    let mut scales = vec![0.0f32; map.num_kv_heads() * map.head_dim()];
    for vector in args.span.vectors(map)? {
        let head = &mut scales[vector.head * map.head_dim()..][..map.head_dim()];
        for (scale, x) in head.iter_mut().zip(&args.cache[vector.elements]) {
            let magnitude = x.to_f64().abs() as f32;
            if magnitude.is_finite() {
                *scale = scale.max(magnitude);
            }
        }
    }
    for scale in &mut scales {
        if *scale == 0.0 {
            *scale = 1.0;
        }
    }
    Ok(scales)
}

pub(super) fn check(channel_scale: Option<&[f32]>, map: &CacheMap) -> Result<(), Error> {
    let Some(scales) = channel_scale else {
        return Ok(());
    };
    let channels = map.num_kv_heads() * map.head_dim();
    error::length(
        "channel_scale",
        scales.len(),
        channels,
        "[num_kv_heads, head_dim]",
    )?;
    for &scale in scales {
        let good = scale.is_finite() && scale > 0.0;
        allowed("channel_scale", scale.into(), good, "finite, above 0")?;
    }
    Ok(())
}

/// The channel scales of one KV head, `[head_dim]`.
pub(super) fn of_head<'a>(
    channel_scale: Option<&'a [f32]>,
    map: &CacheMap,
    head: usize,
) -> Option<&'a [f32]> {
    Some(&channel_scale?[head * map.head_dim()..][..map.head_dim()])
}

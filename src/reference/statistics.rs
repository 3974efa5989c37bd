//! The ranges of cached values, and whether channel scales would help.

use super::error::{self, Error};
use super::layout::CacheMap;
use super::scalar::Scalar;
use super::span::Span;

/// Cached vectors to look at.
#[derive(Debug)]
pub struct StatisticsOf<'a, T> {
    /// Where the vectors lie.
    pub map: &'a CacheMap,
    /// The tokens to look at.
    pub span: Span<'a>,
    /// Elements, [`CacheMap::elements`] of them.
    pub cache: &'a [T],
}

/// What one channel of one KV head holds. Only finite elements count; all but
/// the counts are 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ChannelStatistics {
    /// Finite elements.
    pub count: usize,
    /// Elements that are NaN or infinite.
    pub non_finite: usize,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The largest magnitude.
    pub absmax: f64,
}

impl ChannelStatistics {
    fn add(&mut self, x: f64) {
        if !x.is_finite() {
            self.non_finite += 1;
            return;
        }
        if self.count == 0 {
            (self.min, self.max) = (x, x);
        }
        self.count += 1;
        self.min = self.min.min(x);
        self.max = self.max.max(x);
        self.absmax = self.absmax.max(x.abs());
        // Divided by the count when all are in.
        self.mean += x;
    }

    /// Both together.
    fn join(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            let counted = if self.count == 0 { other } else { self };
            return Self {
                non_finite: self.non_finite + other.non_finite,
                ..counted
            };
        }
        let count = self.count + other.count;
        let sum = self.mean * self.count as f64 + other.mean * other.count as f64;
        Self {
            count,
            non_finite: self.non_finite + other.non_finite,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            mean: sum / count as f64,
            absmax: self.absmax.max(other.absmax),
        }
    }
}

/// What a span of a cache holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// KV heads.
    pub num_kv_heads: usize,
    /// Channels a head.
    pub head_dim: usize,
    /// `[num_kv_heads, head_dim]`.
    pub channels: Vec<ChannelStatistics>,
}

/// Ranges and means of every channel over the tokens of a span.
///
/// # Errors
/// [`Error::Length`] for a cache that does not fit the map, those of
/// [`Span::ranges`] and [`CacheMap::slot`].
pub fn statistics<T: Scalar>(args: StatisticsOf<'_, T>) -> Result<Statistics, Error> {
    let map = args.map;
    error::length("cache", args.cache.len(), map.elements(), "the cache")?;
    let (num_kv_heads, head_dim) = (map.num_kv_heads(), map.head_dim());
    let mut channels = vec![ChannelStatistics::default(); num_kv_heads * head_dim];
    for vector in args.span.vectors(map)? {
        let head = &mut channels[vector.head * head_dim..][..head_dim];
        for (channel, x) in head.iter_mut().zip(&args.cache[vector.elements]) {
            channel.add(x.to_f64());
        }
    }
    for channel in &mut channels {
        channel.mean /= channel.count.max(1) as f64;
    }
    Ok(Statistics {
        num_kv_heads,
        head_dim,
        channels,
    })
}

/// How uneven the channels of one KV head are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierReport {
    /// The channel with the largest magnitude.
    pub channel: usize,
    /// Its magnitude over the median channel's: infinite where the median is 0
    /// and it is not, 1 where all are 0.
    pub ratio: f64,
    /// How much weaker quantisation noise gets with channel scales, in decibels
    /// of power: at least 0, 6 being one bit. Without them every channel's noise
    /// is that of the largest, with them it is in proportion to its own range.
    pub gain_db: f64,
}

impl OutlierReport {
    /// Whether channel scales would gain at least a bit.
    pub fn channel_scales_help(&self) -> bool {
        self.gain_db >= 20.0 * 2f64.log10()
    }
}

impl Statistics {
    /// All channels of a KV head together.
    pub fn of_head(&self, head: usize) -> Option<ChannelStatistics> {
        let channels = self.channels.chunks_exact(self.head_dim).nth(head)?;
        channels.iter().copied().reduce(ChannelStatistics::join)
    }

    /// All heads and channels together.
    pub fn total(&self) -> ChannelStatistics {
        self.channels
            .iter()
            .copied()
            .reduce(ChannelStatistics::join)
            .unwrap_or_default()
    }

    /// A report for each KV head.
    pub fn outliers(&self) -> Vec<OutlierReport> {
        self.channels
            .chunks_exact(self.head_dim)
            .map(outliers_of)
            .collect()
    }
}

fn outliers_of(channels: &[ChannelStatistics]) -> OutlierReport {
    let magnitudes: Vec<f64> = channels.iter().map(|channel| channel.absmax).collect();
    let mut sorted = magnitudes.clone();
    sorted.sort_by(f64::total_cmp);
    // Of an even number, the lower of the two in the middle.
    let median = sorted[(sorted.len() - 1) / 2];
    let largest = sorted[sorted.len() - 1];
    let channel = magnitudes
        .iter()
        .position(|magnitude| *magnitude == largest)
        .unwrap_or(0);
    if largest == 0.0 {
        return OutlierReport {
            channel,
            ratio: 1.0,
            gain_db: 0.0,
        };
    }
    // Relative to the largest, so that no square overflows.
    let power: f64 = magnitudes.iter().map(|m| (m / largest).powi(2)).sum();
    OutlierReport {
        channel,
        ratio: largest / median,
        gain_db: 10.0 * (channels.len() as f64 / power).log10(),
    }
}

//! statistics: the ranges of what a cache holds, channel by channel, and whether channel scales would help.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr};

use crate::abi;
use crate::cache_view::check_vectors;
use crate::calibrate::parts;
use crate::dtype::Element;
use crate::error::{During, Result};
use crate::module::Kernels;
use crate::plan::Plan;
use crate::quantize_plan::Parts;
use crate::reference::{ChannelStatistics, Statistics};
use crate::shape::CacheShape;
use crate::slice::{read_vectors, write};
use crate::span::TokenSpan;

impl Kernels {
    /// Smallest, largest and mean of each KV head's channels, K or V as
    /// `[batch, num_kv_heads, max_seq_len, head_dim]`, and how many elements were not finite.
    ///
    /// ```no_run
    /// # use half::f16;
    /// # use kv_kernels::{CacheShape, Kernels, KvCache, Lengths};
    /// # fn main() -> kv_kernels::Result<()> {
    /// # let ctx = kv_kernels::open(0)?;
    /// # let stream = ctx.default_stream();
    /// # let kernels = Kernels::new(&ctx)?;
    /// # let shape = CacheShape { batch: 2, num_kv_heads: 8, max_seq_len: 4096, head_dim: 128 };
    /// # let cache = KvCache::<f16>::new(&stream, shape)?;
    /// # let lengths = Lengths::new(&stream, 2, 4096)?;
    /// let statistics = kernels.statistics(cache.k(), shape).tokens(&lengths).read(&stream)?;
    /// println!("{statistics}"); // a line for each KV head
    /// let help = statistics.outliers().iter().any(|head| head.channel_scales_help());
    /// # Ok(())
    /// # }
    /// ```
    pub fn statistics<'a, T: Element>(
        &'a self,
        source: &'a impl DevicePtr<T>,
        shape: CacheShape,
    ) -> ReadStatistics<'a, T> {
        ReadStatistics {
            kernels: self,
            source,
            shape,
            tokens: TokenSpan::all(),
        }
    }
}

/// Statistics to be read.
#[must_use = "nothing is looked at until it is read"]
pub struct ReadStatistics<'a, T> {
    kernels: &'a Kernels,
    source: &'a dyn DevicePtr<T>,
    shape: CacheShape,
    tokens: TokenSpan<'a>,
}

impl<'a, T: Element> ReadStatistics<'a, T> {
    /// The tokens to look at; all where not said.
    pub fn tokens(mut self, tokens: impl Into<TokenSpan<'a>>) -> Self {
        self.tokens = tokens.into();
        self
    }

    /// What would be launched; `None` where there are no tokens.
    ///
    /// # Errors
    /// Those of [`read`](Self::read) that concern shapes.
    pub fn plan(&self) -> Result<Option<Plan>> {
        let heads = self.shape.num_kv_heads as u32;
        let parts = self.parts()?;
        Ok(parts.map(|parts| Plan::statistics(parts, heads, T::DTYPE, self.shape.head_dim)))
    }

    fn parts(&self) -> Result<Option<Parts>> {
        parts(self.shape, &self.tokens, T::DTYPE)
    }

    /// Launches it on a stream, waits, and puts together what the blocks have found: sums in f64, in an order that
    /// the shape fixes, so that the same elements give the same bits. Allocates room for that on the device.
    ///
    /// # Errors
    /// [`Error::OtherContext`](crate::Error::OtherContext) for the stream or any slice; those of
    /// [`CacheShape::check`]; [`Error::Mismatch`](crate::Error::Mismatch) for a range of tokens beyond the capacity;
    /// [`Error::TooLarge`](crate::Error::TooLarge) for more vectors than are indexed;
    /// [`Error::Length`](crate::Error::Length) and [`Error::Misaligned`](crate::Error::Misaligned) for the source;
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn read(self, stream: &Arc<CudaStream>) -> Result<Statistics> {
        self.kernels.check_stream(stream)?;
        let (plan, parts) = (self.plan()?, self.parts()?);
        let shape = self.shape;
        check_vectors("source", self.source.len(), shape)?;
        let channels = shape.num_kv_heads * shape.head_dim;
        let found = match (plan, parts) {
            (Some(plan), Some(parts)) => {
                let numbers = abi::KV_STATISTICS_PLANES as usize * parts.count as usize * channels;
                let mut found = stream
                    .alloc_zeros::<f64>(numbers)
                    .during("allocating room for statistics")?;
                {
                    let (elements, _elements) = read_vectors("source", self.source, stream)?;
                    let (to, _to) = write("statistics", &mut found, stream)?;
                    let (span, _span) = self.tokens.bind(shape, stream)?;
                    let params = abi::KvStatisticsParams {
                        span,
                        elements: elements as *const _,
                        found: to as *mut f64,
                        // Of vectors that an i32 counts.
                        parts: parts.count as i32,
                        part: parts.vectors as i32,
                    };
                    // SAFETY: a statistics kernel takes KvStatisticsParams; the source has the length that the shape
                    // implies, `found` that of the parts; both are borrowed and guarded. The kernel keeps to the
                    // span's tokens, which are below max_seq_len whatever is on the device.
                    unsafe { self.kernels.launch(&plan, &params, stream) }?;
                }
                stream.clone_dtoh(&found).during("reading statistics")?
            }
            _ => Vec::new(),
        };
        Ok(Statistics {
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            channels: join(&found, channels),
        })
    }
}

/// Channels from what blocks have found of them, `[planes, parts, channels]`.
fn join(found: &[f64], channels: usize) -> Vec<ChannelStatistics> {
    let plane_len = found.len() / abi::KV_STATISTICS_PLANES as usize;
    let of_channel = |plane: u32, channel: usize| {
        let plane = &found[plane as usize * plane_len..][..plane_len];
        plane.iter().skip(channel).step_by(channels).copied()
    };
    let join_channel = |channel| {
        let count: f64 = of_channel(abi::KV_STATISTICS_COUNT, channel).sum();
        let non_finite: f64 = of_channel(abi::KV_STATISTICS_NON_FINITE, channel).sum();
        let non_finite = non_finite as usize;
        if count == 0.0 {
            return ChannelStatistics {
                non_finite,
                ..ChannelStatistics::default()
            };
        }
        let sum: f64 = of_channel(abi::KV_STATISTICS_SUM, channel).sum();
        // A part without finite elements has the one infinite upwards and the other downwards.
        let min = of_channel(abi::KV_STATISTICS_MIN, channel).fold(f64::INFINITY, f64::min);
        let max = of_channel(abi::KV_STATISTICS_MAX, channel).fold(f64::NEG_INFINITY, f64::max);
        ChannelStatistics {
            count: count as usize,
            non_finite,
            min,
            max,
            mean: sum / count,
            absmax: min.abs().max(max.abs()),
        }
    };
    (0..channels).map(join_channel).collect()
}

/// A line for each KV head, and one for all: the range of its elements, its outlier channel, and what channel scales
/// would gain.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>4} {:>12} {:>12} {:>12} {:>12} {:>10} {:>8} {:>8} {:>8}  channel scales",
            "head", "min", "max", "mean", "absmax", "non-finite", "channel", "ratio", "gain dB"
        )?;
        let outliers = self.outliers();
        for (head, outlier) in outliers.iter().enumerate() {
            let Some(range) = self.of_head(head) else {
                continue;
            };
            write_range(f, &head, &range)?;
            let help = if outlier.channel_scales_help() {
                "help"
            } else {
                "gain little"
            };
            writeln!(
                f,
                " {:>8} {:>8.2} {:>8.2}  {help}",
                outlier.channel, outlier.ratio, outlier.gain_db
            )?;
        }
        write_range(f, &"all", &self.total())?;
        let helped = outliers.iter().filter(|head| head.channel_scales_help());
        write!(
            f,
            " {:>26}  help {} of {} heads",
            "",
            helped.count(),
            outliers.len()
        )
    }
}

fn write_range(
    f: &mut fmt::Formatter<'_>,
    name: &dyn fmt::Display,
    range: &ChannelStatistics,
) -> fmt::Result {
    let ChannelStatistics {
        min,
        max,
        mean,
        absmax,
        non_finite,
        ..
    } = range;
    // Padding is of the name's text: numbers and words alike to the right.
    let name = name.to_string();
    write!(
        f,
        "{name:>4} {min:>12.5} {max:>12.5} {mean:>12.5} {absmax:>12.5} {non_finite:>10}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_channel_by_channel() {
        // Two parts of two channels; the second one holds nothing finite in the first part.
        let inf = f64::INFINITY;
        let found = [
            [3.0, 0.0, 5.0, -4.0],  // sum
            [1.0, inf, -2.0, -4.0], // min
            [2.0, -inf, 7.0, -4.0], // max
            [2.0, 0.0, 2.0, 1.0],   // count
            [0.0, 2.0, 0.0, 1.0],   // non-finite
        ]
        .concat();
        let expected = [
            ChannelStatistics {
                count: 4,
                non_finite: 0,
                min: -2.0,
                max: 7.0,
                mean: 2.0,
                absmax: 7.0,
            },
            ChannelStatistics {
                count: 1,
                non_finite: 3,
                min: -4.0,
                max: -4.0,
                mean: -4.0,
                absmax: 4.0,
            },
        ];
        assert_eq!(join(&found, 2), expected);
        assert_eq!(join(&[], 3), [ChannelStatistics::default(); 3]);
    }

    #[test]
    fn a_line_for_each_head() {
        let channel = |absmax: f64| ChannelStatistics {
            count: 1,
            non_finite: 0,
            min: -absmax,
            max: absmax,
            mean: 0.0,
            absmax,
        };
        let statistics = Statistics {
            num_kv_heads: 2,
            head_dim: 3,
            channels: [1.0, 1.0, 24.0, 2.0, 2.0, 2.0].map(channel).to_vec(),
        };
        let text = statistics.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[1],
            "   0    -24.00000     24.00000      0.00000     24.00000          0        2    24.00     4.76  gain little"
        );
        assert!(lines[3].ends_with("help 0 of 2 heads"), "{text}");
    }
}

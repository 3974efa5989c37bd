//! What shapes the attention scores.

use super::error::{self, Error};

/// The options of every attention in this module; the default is plain
/// softmax attention with scale `1/√head_dim`.
///
/// The score of the query at position `p` for the key at position `t`:
/// ```text
/// s = softmax_scale · (q · k)
/// s = logits_soft_cap · tanh(s / logits_soft_cap)     with a soft cap
/// s = s − alibi_slope[head] · |p − t|                 with ALiBi
/// visible if t ≤ p (causal) and p − t < sliding_window
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Options<'a> {
    /// Factor on `q · k`; `1/√head_dim` where none is given.
    pub softmax_scale: Option<f64>,
    /// Bound on the magnitude of scores; positive.
    pub logits_soft_cap: Option<f64>,
    /// Tokens visible to the left, the query's own included; at least 1.
    pub sliding_window: Option<usize>,
    /// One more logit for each query head, `[num_q_heads]`: it takes
    /// probability and adds no value. It is neither scaled nor capped, and
    /// counts in `lse`. A query that sees no token has no use for it: zeros
    /// and an `lse` of −∞ all the same.
    pub sinks: Option<&'a [f32]>,
    /// ALiBi's slope for each query head, `[num_q_heads]`.
    pub alibi_slopes: Option<&'a [f32]>,
}

/// Options checked, with one query head's own.
pub(super) struct HeadOptions {
    pub scale: f64,
    pub soft_cap: Option<f64>,
    pub window: Option<usize>,
    pub sink: Option<f64>,
    pub slope: Option<f64>,
}

impl Options<'_> {
    /// Options for each query head.
    pub(super) fn per_head(
        &self,
        num_q_heads: usize,
        head_dim: usize,
    ) -> Result<Vec<HeadOptions>, Error> {
        let scale = self
            .softmax_scale
            .unwrap_or_else(|| 1.0 / (head_dim as f64).sqrt());
        allowed("softmax_scale", scale, scale.is_finite(), "finite")?;
        if let Some(cap) = self.logits_soft_cap {
            let good = cap.is_finite() && cap > 0.0;
            allowed("logits_soft_cap", cap, good, "finite, above 0")?;
        }
        if let Some(window) = self.sliding_window {
            error::nonzero("sliding_window", window)?;
        }
        if let Some(sinks) = self.sinks {
            error::length("sinks", sinks.len(), num_q_heads, "[num_q_heads]")?;
            for &sink in sinks {
                let good = sink.is_finite() || sink == f32::NEG_INFINITY;
                allowed("sinks", sink.into(), good, "finite or -inf")?;
            }
        }
        if let Some(slopes) = self.alibi_slopes {
            error::length("alibi_slopes", slopes.len(), num_q_heads, "[num_q_heads]")?;
            for &slope in slopes {
                allowed("alibi_slopes", slope.into(), slope.is_finite(), "finite")?;
            }
        }
        Ok((0..num_q_heads)
            .map(|head| HeadOptions {
                scale,
                soft_cap: self.logits_soft_cap,
                window: self.sliding_window,
                sink: self.sinks.map(|sinks| sinks[head].into()),
                slope: self.alibi_slopes.map(|slopes| slopes[head].into()),
            })
            .collect())
    }
}

pub(super) fn allowed(
    argument: &'static str,
    value: f64,
    good: bool,
    allowed: &'static str,
) -> Result<(), Error> {
    if !good {
        return Err(Error::Value {
            argument,
            value,
            allowed,
        });
    }
    Ok(())
}

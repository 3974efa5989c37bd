//! What shapes attention scores: the options that decode has in common with every other attention of this crate.

use std::f32::consts::LOG2_E;

use cudarc::driver::{CudaStream, DevicePtr, SyncOnDrop};

use crate::error::{Error, Result};
use crate::shape::{MAX_SEQ_LEN, at_least_one, at_most};
use crate::slice::read;

/// Options of an attention, as given.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options<'a> {
    pub softmax_scale: Option<f32>,
    pub logits_soft_cap: Option<f32>,
    pub sliding_window: Option<usize>,
    pub sinks: Option<&'a dyn DevicePtr<f32>>,
    pub alibi_slopes: Option<&'a dyn DevicePtr<f32>>,
}

/// Options as kernels take them.
pub(crate) struct Bound {
    /// softmax_scale · log₂e: kernels work in base 2.
    pub score_scale: f32,
    /// logits_soft_cap · log₂e, or 0.
    pub soft_cap: f32,
    /// 2 / logits_soft_cap: cap · tanh(x / cap) by an exponential in base 2.
    pub soft_cap_scale: f32,
    /// 0 for none.
    pub sliding_window: i32,
    /// 0 for none.
    pub sinks: u64,
    /// 0 for none.
    pub alibi_slopes: u64,
}

impl Options<'_> {
    /// Refuses what is out of range or not of this shape.
    pub(crate) fn check(&self, num_q_heads: usize) -> Result<()> {
        let finite = |argument, value: Option<f32>| match value {
            Some(value) if !value.is_finite() => Err(Error::NotFinite { argument, value }),
            _ => Ok(()),
        };
        finite("softmax_scale", self.softmax_scale)?;
        finite("logits_soft_cap", self.logits_soft_cap)?;
        if let Some(value) = self.logits_soft_cap
            && value <= 0.0
        {
            return Err(Error::NotPositive {
                argument: "logits_soft_cap",
                value,
            });
        }
        if let Some(window) = self.sliding_window {
            at_least_one("sliding_window", window)?;
            at_most("sliding_window", window as u128, MAX_SEQ_LEN)?;
        }
        for (argument, slice) in [("sinks", self.sinks), ("alibi_slopes", self.alibi_slopes)] {
            if let Some(slice) = slice
                && slice.len() != num_q_heads
            {
                return Err(Error::Length {
                    argument,
                    shape: format!("[{num_q_heads}]"),
                    expected: num_q_heads,
                    got: slice.len(),
                });
            }
        }
        Ok(())
    }

    /// The options as the kernels take them, with what keeps streams in order until after the launch. They have been
    /// checked.
    pub(crate) fn bind<'s>(
        &'s self,
        head_dim: usize,
        stream: &'s CudaStream,
    ) -> Result<(Bound, [SyncOnDrop<'s>; 2])> {
        let scale = self
            .softmax_scale
            .unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt());
        let address = |argument, slice: Option<&'s dyn DevicePtr<f32>>| match slice {
            Some(slice) => read(argument, slice, stream),
            None => Ok((0, SyncOnDrop::Record(None))),
        };
        let (sinks, sinks_guard) = address("sinks", self.sinks)?;
        let (alibi_slopes, slopes_guard) = address("alibi_slopes", self.alibi_slopes)?;
        let cap = self.logits_soft_cap;
        let bound = Bound {
            score_scale: scale * LOG2_E,
            soft_cap: cap.map_or(0.0, |cap| cap * LOG2_E),
            soft_cap_scale: cap.map_or(0.0, |cap| 2.0 / cap),
            sliding_window: self.sliding_window.unwrap_or(0) as i32,
            sinks,
            alibi_slopes,
        };
        Ok((bound, [sinks_guard, slopes_guard]))
    }
}

/// Whether out and lse have the elements of `queries` query heads, `[tokens.., num_q_heads]`; `dimensions` names them in
/// an error and is asked for nothing else.
pub(crate) fn check_outputs(
    out: usize,
    lse: Option<usize>,
    queries: usize,
    head_dim: usize,
    dimensions: impl Fn() -> String,
) -> Result<()> {
    if out != queries * head_dim {
        return Err(Error::Length {
            argument: "out",
            shape: format!("[{}, {head_dim}]", dimensions()),
            expected: queries * head_dim,
            got: out,
        });
    }
    if let Some(lse) = lse
        && lse != queries
    {
        return Err(Error::Length {
            argument: "lse",
            shape: format!("[{}]", dimensions()),
            expected: queries,
            got: lse,
        });
    }
    Ok(())
}

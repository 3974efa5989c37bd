//! How fast each pair of channels turns with position: plain RoPE and the
//! scalings that stretch it to longer contexts.

use super::error::{self, Error};
use super::options::allowed;
use std::f64::consts::TAU;

/// The angle a token's position adds in each pair of channels.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFrequencies {
    /// Radians a position, `[rotary_dim / 2]`.
    pub inv_freq: Vec<f64>,
    /// Factor on cosine and sine alike, so on rotated vectors; 1 but for YaRN.
    pub attention_factor: f64,
}

/// The scaling of Llama 3.1 and later: long wavelengths are slowed by `factor`,
/// short ones left alone, those in between blended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3Scaling {
    /// How much slower the slow pairs turn.
    pub factor: f64,
    /// Wavelengths above the original context divided by this are scaled.
    pub low_freq_factor: f64,
    /// Wavelengths below the original context divided by this are not.
    pub high_freq_factor: f64,
    /// Positions the model was first trained on.
    pub original_max_positions: f64,
}

/// YaRN: pairs that turn often within the original context are left alone, pairs
/// that turn rarely are slowed by `factor`, with a linear ramp over the pairs in
/// between; attention is sharpened by a factor on the vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct YarnScaling {
    /// How much slower the slow pairs turn.
    pub factor: f64,
    /// Positions the model was first trained on.
    pub original_max_positions: f64,
    /// Pairs that turn more often than this are left alone; commonly 32.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are slowed in full; commonly 1.
    pub beta_slow: f64,
    /// Factor on the rotated vectors; `0.1 ln(factor) + 1` where none is given
    /// (1 for a `factor` below 1).
    pub attention_factor: Option<f64>,
    /// Whether the ends of the ramp are rounded outwards to whole pairs, as all
    /// but a few models have it.
    pub truncate: bool,
}

impl RopeFrequencies {
    /// `base^(−2i / rotary_dim)` for pair `i`.
    ///
    /// # Errors
    /// [`Error::Value`] for a base that is not above 1 and finite, or a
    /// `rotary_dim` that is 0 or odd.
    pub fn plain(base: f64, rotary_dim: usize) -> Result<Self, Error> {
        allowed(
            "base",
            base,
            base.is_finite() && base > 1.0,
            "finite, above 1",
        )?;
        check_rotary_dim(rotary_dim)?;
        let inv_freq = (0..rotary_dim / 2)
            .map(|pair| base.powf(-(2.0 * pair as f64) / rotary_dim as f64))
            .collect();
        Ok(Self {
            inv_freq,
            attention_factor: 1.0,
        })
    }

    /// Plain frequencies with Llama 3's scaling.
    ///
    /// # Errors
    /// Those of [`plain`](Self::plain), and [`Error::Value`] for parameters that
    /// are not positive and finite or factors in the wrong order.
    pub fn llama3(base: f64, rotary_dim: usize, scaling: Llama3Scaling) -> Result<Self, Error> {
        let Llama3Scaling {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions: original,
        } = scaling;
        positive("factor", factor)?;
        positive("low_freq_factor", low)?;
        positive("original_max_positions", original)?;
        let good = high.is_finite() && high > low;
        allowed(
            "high_freq_factor",
            high,
            good,
            "finite, above low_freq_factor",
        )?;
        let mut frequencies = Self::plain(base, rotary_dim)?;
        for freq in &mut frequencies.inv_freq {
            // Turns within the original context.
            let turns = original * *freq / TAU;
            // How much of the unscaled frequency is kept, 0 to 1.
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            *freq = (1.0 - kept) * *freq / factor + kept * *freq;
        }
        Ok(frequencies)
    }

    /// Plain frequencies with YaRN's scaling.
    ///
    /// # Errors
    /// Those of [`plain`](Self::plain), and [`Error::Value`] for parameters that
    /// are not positive and finite or betas in the wrong order.
    pub fn yarn(base: f64, rotary_dim: usize, scaling: YarnScaling) -> Result<Self, Error> {
        let YarnScaling {
            factor,
            original_max_positions: original,
            beta_fast,
            beta_slow,
            ..
        } = scaling;
        positive("factor", factor)?;
        positive("original_max_positions", original)?;
        positive("beta_slow", beta_slow)?;
        let good = beta_fast.is_finite() && beta_fast >= beta_slow;
        allowed("beta_fast", beta_fast, good, "finite, at least beta_slow")?;
        let attention_factor = scaling
            .attention_factor
            .unwrap_or_else(|| 0.1 * factor.max(1.0).ln() + 1.0);
        positive("attention_factor", attention_factor)?;
        let mut frequencies = Self::plain(base, rotary_dim)?;

        // The pair, as a real number, that turns `turns` times in the original
        // context.
        let dim = rotary_dim as f64;
        let pair = |turns: f64| dim * (original / (turns * TAU)).ln() / (2.0 * base.ln());
        let (mut from, mut to) = (pair(beta_fast), pair(beta_slow));
        if scaling.truncate {
            (from, to) = (from.floor(), to.ceil());
        }
        (from, to) = (from.max(0.0), to.min(dim - 1.0));
        if from == to {
            // A ramp of no length would divide by zero.
            to += 0.001;
        }
        for (index, freq) in frequencies.inv_freq.iter_mut().enumerate() {
            let slowed = ((index as f64 - from) / (to - from)).clamp(0.0, 1.0);
            *freq = slowed * *freq / factor + (1.0 - slowed) * *freq;
        }
        frequencies.attention_factor = attention_factor;
        Ok(frequencies)
    }

    /// Channels rotated: the first this many of a vector.
    pub fn rotary_dim(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Cosines and sines of positions `0..positions`, attention factor
    /// included, computed in f64 and rounded to f32 once: what a kernel is
    /// given.
    ///
    /// # Errors
    /// [`Error::Zero`], [`Error::TooLarge`].
    pub fn table(&self, positions: usize) -> Result<RopeTable, Error> {
        error::nonzero("positions", positions)?;
        error::product("table", &[positions, self.inv_freq.len()])?;
        let entries = (0..positions).flat_map(|position| {
            self.inv_freq
                .iter()
                .map(move |freq| self.turn(position as f64 * freq))
        });
        let (cos, sin) = entries.map(|(cos, sin)| (cos as f32, sin as f32)).unzip();
        Ok(RopeTable {
            positions,
            rotary_dim: self.rotary_dim(),
            cos,
            sin,
        })
    }

    /// Cosine and sine of an angle with the attention factor.
    pub(super) fn turn(&self, angle: f64) -> (f64, f64) {
        let (sin, cos) = angle.sin_cos();
        (cos * self.attention_factor, sin * self.attention_factor)
    }
}

/// Cosines and sines by position and pair.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Positions the table knows.
    pub positions: usize,
    /// Channels rotated.
    pub rotary_dim: usize,
    /// `[positions, rotary_dim / 2]`.
    pub cos: Vec<f32>,
    /// `[positions, rotary_dim / 2]`.
    pub sin: Vec<f32>,
}

pub(super) fn check_rotary_dim(rotary_dim: usize) -> Result<(), Error> {
    let good = rotary_dim >= 2 && rotary_dim.is_multiple_of(2);
    allowed("rotary_dim", rotary_dim as f64, good, "even, at least 2")
}

fn positive(argument: &'static str, value: f64) -> Result<(), Error> {
    let good = value.is_finite() && value > 0.0;
    allowed(argument, value, good, "finite, above 0")
}

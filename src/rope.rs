//! Rotary position embedding: how far each pair of channels turns at a token's position.

use std::f64::consts::TAU;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, SyncOnDrop};

use crate::abi;
use crate::error::{During, Error, Result};
use crate::reference::{PairStyle, RopeFrequencies};
use crate::shape::{MAX_SEQ_LEN, at_least_one, at_most};
use crate::slice::read;

/// Rotary position embedding (Su et al., [arXiv:2104.09864](https://arxiv.org/abs/2104.09864)) of queries and keys:
/// at position `p`, pair `i` of a vector's channels turns by the angle `p · inv_freq[i]`,
///
/// ```text
/// (a, b) → (a·cos − b·sin, b·cos + a·sin)
///
/// half-split    pair i is channels i and i + rotary_dim/2
/// interleaved   pair i is channels 2i and 2i + 1
/// ```
///
/// and channels from `rotary_dim` on pass unchanged. Made once for a model, used by every layer and step.
///
/// [`Rope::new`] takes frequencies: plain ones by base, or scaled as Llama 3 and YaRN scale them
/// ([`RopeFrequencies`]), or a model's own. Kernels then compute cosine and sine of a position's angle, exact to fp32
/// at any position. [`Rope::from_tables`] takes cosines and sines that an engine has on the device.
///
/// ```no_run
/// use kv_kernels::{PairStyle, Rope, RopeFrequencies};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let ctx = kv_kernels::open(0)?;
/// # let stream = ctx.default_stream();
/// let frequencies = RopeFrequencies::plain(10_000.0, 128)?;
/// let rope = Rope::new(&stream, &frequencies, PairStyle::HalfSplit)?;
/// # Ok(())
/// # }
/// ```
pub struct Rope<'a> {
    angles: Angles<'a>,
    rotary_dim: usize,
    pairs: PairStyle,
}

enum Angles<'a> {
    /// Whole turns a position in units of 2⁻⁶⁴, `[rotary_dim / 2]`: what is beyond a whole turn wraps, so that a
    /// product with a position loses nothing.
    Turns { turns: CudaSlice<u64>, factor: f32 },
    /// Each `[positions, rotary_dim / 2]`.
    Tables {
        cos: &'a dyn DevicePtr<f32>,
        sin: &'a dyn DevicePtr<f32>,
        positions: usize,
    },
}

impl Rope<'static> {
    /// Angles by frequency. Allocates eight bytes a pair on the device.
    ///
    /// # Errors
    /// [`Error::RotaryDim`] for frequencies of no pair, [`Error::NotFinite`] for one that is NaN or infinite, or such an
    /// attention factor; [`Error::Driver`] from the allocation.
    pub fn new(
        stream: &Arc<CudaStream>,
        frequencies: &RopeFrequencies,
        pairs: PairStyle,
    ) -> Result<Self> {
        let rotary_dim = check_rotary_dim(frequencies.rotary_dim())?;
        for &freq in &frequencies.inv_freq {
            check_finite("inv_freq", freq)?;
        }
        check_finite("attention_factor", frequencies.attention_factor)?;
        let turns: Vec<u64> = frequencies.inv_freq.iter().map(|&f| turns(f)).collect();
        let turns = stream.clone_htod(&turns).during("uploading RoPE's turns")?;
        Ok(Rope {
            angles: Angles::Turns {
                turns,
                factor: frequencies.attention_factor as f32,
            },
            rotary_dim,
            pairs,
        })
    }
}

impl<'a> Rope<'a> {
    /// Cosines and sines by position, `f32 [positions, rotary_dim / 2]` each, on the device; factors that belong on
    /// rotated vectors are in them. Steps whose sequences may grow past `positions` are refused.
    ///
    /// # Errors
    /// [`Error::RotaryDim`] for one that is odd or 0; [`Error::Zero`] or [`Error::TooLarge`] for the number of
    /// positions; [`Error::Length`] for either slice.
    pub fn from_tables(
        cos: &'a impl DevicePtr<f32>,
        sin: &'a impl DevicePtr<f32>,
        positions: usize,
        rotary_dim: usize,
        pairs: PairStyle,
    ) -> Result<Self> {
        check_tables(cos.len(), sin.len(), positions, rotary_dim)?;
        Ok(Rope {
            angles: Angles::Tables {
                cos,
                sin,
                positions,
            },
            rotary_dim,
            pairs,
        })
    }

    /// Channels that turn, the first of a vector.
    pub fn rotary_dim(&self) -> usize {
        self.rotary_dim
    }

    /// Which channels make a pair.
    pub fn pairs(&self) -> PairStyle {
        self.pairs
    }

    /// Whether it is one for vectors of `head_dim` at every position below `max_seq_len`.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a `rotary_dim` above `head_dim`, or tables of fewer positions.
    pub(crate) fn check(&self, head_dim: usize, max_seq_len: usize) -> Result<()> {
        if self.rotary_dim > head_dim {
            return Err(Error::Mismatch {
                argument: "rotary_dim",
                value: self.rotary_dim,
                other: "head_dim",
                other_value: head_dim,
            });
        }
        if let Angles::Tables { positions, .. } = self.angles
            && positions < max_seq_len
        {
            return Err(Error::Mismatch {
                argument: "positions of the rope tables",
                value: positions,
                other: "max_seq_len of the step",
                other_value: max_seq_len,
            });
        }
        Ok(())
    }

    /// It as the kernels read it, with what keeps the streams in order until after the launch.
    pub(crate) fn bind<'s>(
        &'s self,
        stream: &'s CudaStream,
    ) -> Result<(abi::KvRope, [SyncOnDrop<'s>; 2])> {
        let params = abi::KvRope {
            rotary_dim: self.rotary_dim as i32, // at most a head_dim
            interleaved: (self.pairs == PairStyle::Interleaved).into(),
            ..NO_ROPE
        };
        match &self.angles {
            Angles::Turns { turns, factor } => {
                let (turns, guard) = read("rope", turns, stream)?;
                let params = abi::KvRope {
                    turns: turns as *const u64,
                    factor: *factor,
                    ..params
                };
                Ok((params, [guard, SyncOnDrop::Record(None)]))
            }
            Angles::Tables {
                cos,
                sin,
                positions,
            } => {
                let (cos, cos_guard) = read("cos", *cos, stream)?;
                let (sin, sin_guard) = read("sin", *sin, stream)?;
                let params = abi::KvRope {
                    cos: cos as *const f32,
                    sin: sin as *const f32,
                    table_positions: *positions as i32, // checked when it was made
                    ..params
                };
                Ok((params, [cos_guard, sin_guard]))
            }
        }
    }
}

/// Nothing turns.
pub(crate) const NO_ROPE: abi::KvRope = abi::KvRope {
    turns: std::ptr::null(),
    cos: std::ptr::null(),
    sin: std::ptr::null(),
    table_positions: 0,
    rotary_dim: 0,
    interleaved: 0,
    factor: 1.0,
};

/// Radians a position as turns a position, in units of 2⁻⁶⁴ of one.
fn turns(inv_freq: f64) -> u64 {
    // A negative frequency turns the other way: by the rest of a whole turn. The conversion saturates where rounding
    // makes that rest a whole one.
    ((inv_freq / TAU).rem_euclid(1.0) * 2.0f64.powi(64)).round() as u64
}

fn check_rotary_dim(value: usize) -> Result<usize> {
    if value < 2 || !value.is_multiple_of(2) {
        return Err(Error::RotaryDim { value });
    }
    Ok(value)
}

fn check_finite(argument: &'static str, value: f64) -> Result<()> {
    if !value.is_finite() {
        return Err(Error::NotFinite {
            argument,
            value: value as f32,
        });
    }
    Ok(())
}

fn check_tables(cos: usize, sin: usize, positions: usize, rotary_dim: usize) -> Result<()> {
    check_rotary_dim(rotary_dim)?;
    at_least_one("positions", positions)?;
    at_most("positions", positions as u128, MAX_SEQ_LEN)?;
    let pairs = rotary_dim / 2;
    let entries = positions as u128 * pairs as u128;
    at_most(
        "positions * rotary_dim / 2",
        entries,
        isize::MAX as usize / 4,
    )?;
    for (argument, got) in [("cos", cos), ("sin", sin)] {
        if got as u128 != entries {
            return Err(Error::Length {
                argument,
                shape: format!("[{positions}, {pairs}]"),
                expected: entries as usize,
                got,
            });
        }
    }
    Ok(())
}

impl std::fmt::Debug for Rope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rope = f.debug_struct("Rope");
        rope.field("rotary_dim", &self.rotary_dim)
            .field("pairs", &self.pairs);
        match &self.angles {
            Angles::Turns { factor, .. } => rope.field("factor", factor),
            Angles::Tables { positions, .. } => rope.field("positions", positions),
        }
        .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Llama3Scaling, YarnScaling};

    /// Radians that the kernels' whole arithmetic on turns makes of a position: exact up to the last step.
    fn angle(turns: u64, position: u64) -> f64 {
        let halves = (turns.wrapping_mul(position) >> 32) as u32 as i32;
        f64::from(halves as f32 * 2.0f32.powi(-31)) * std::f64::consts::PI
    }

    /// Angle between two directions.
    fn apart(a: f64, b: f64) -> f64 {
        let difference = (a - b).rem_euclid(TAU);
        difference.min(TAU - difference)
    }

    #[test]
    fn turns_are_those_of_a_frequency() {
        assert_eq!(turns(0.0), 0);
        assert_eq!(turns(TAU / 4.0), 1 << 62);
        assert_eq!(turns(-TAU / 4.0), 3 << 62);
        assert_eq!(turns(TAU * 2.5), 1 << 63);
        assert_eq!(turns(-f64::MIN_POSITIVE), u64::MAX);
    }

    #[test]
    fn angles_are_exact_to_fp32_at_any_position() {
        let llama3 = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192.0,
        };
        let yarn = YarnScaling {
            factor: 40.0,
            original_max_positions: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            truncate: true,
        };
        let all = [
            RopeFrequencies::plain(10_000.0, 128),
            RopeFrequencies::plain(1e6, 64),
            RopeFrequencies::llama3(500_000.0, 128, llama3),
            RopeFrequencies::yarn(10_000.0, 64, yarn),
        ];
        for frequencies in all {
            let frequencies = frequencies.expect("frequencies");
            for &freq in &frequencies.inv_freq {
                for position in [0, 1, 4095, 131_071, 999_983, 1 << 20, (1 << 30) - 1] {
                    // The oracle's own angle carries an error of its f64 product: 1e-7 at 2^30.
                    let expected = position as f64 * freq;
                    let found = angle(turns(freq), position);
                    assert!(
                        apart(found, expected) < 4e-7,
                        "position {position} at {freq}: {found}, expected {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn tables_have_the_shape_they_claim() {
        assert_eq!(check_tables(320, 320, 10, 64), Ok(()));
        for (cos, sin, positions, rotary_dim, message) in [
            (
                320,
                319,
                10,
                64,
                "sin has 319 elements: its shape [10, 32] has 320",
            ),
            (
                64,
                320,
                10,
                64,
                "cos has 64 elements: its shape [10, 32] has 320",
            ),
            (0, 0, 0, 64, "positions is 0: it must be at least 1"),
            (
                0,
                0,
                10,
                0,
                "rotary_dim is 0: it must be even and at least 2",
            ),
            (
                50,
                50,
                10,
                5,
                "rotary_dim is 5: it must be even and at least 2",
            ),
            (
                0,
                0,
                (1 << 30) + 1,
                64,
                "positions is 1073741825: at most 1073741824 can be indexed",
            ),
        ] {
            let error = check_tables(cos, sin, positions, rotary_dim).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}

//! Rotary position embedding: pairs of channels turned by an angle in
//! proportion to the token's position.
//!
//! ```text
//! (a, b) → (a·cos − b·sin, b·cos + a·sin)
//!
//! half-split    pair i is channels i and i + rotary_dim/2
//! interleaved   pair i is channels 2i and 2i + 1
//! ```
//! Channels from `rotary_dim` on pass unchanged.

use super::error::{self, Error};
use super::options::allowed;
use super::rope_frequencies::{RopeFrequencies, RopeTable, check_rotary_dim};
use super::scalar::Scalar;

/// Which channels make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairStyle {
    /// Channel `i` with `i + rotary_dim/2` (GPT-NeoX, Llama as most engines
    /// store it).
    HalfSplit,
    /// Channel `2i` with `2i + 1` (GPT-J, Llama as first released).
    Interleaved,
}

/// Where the angles come from.
#[derive(Debug, Clone, Copy)]
pub enum Angles<'a> {
    /// Computed in f64.
    Frequencies(&'a RopeFrequencies),
    /// Looked up, in f32.
    Table(&'a RopeTable),
}

/// Vectors to rotate: queries or keys.
#[derive(Debug)]
pub struct Rope<'a, T> {
    /// Vectors, `[tokens, heads, head_dim]`.
    pub x: &'a [T],
    /// Each token's position, `[tokens]`: see [`positions`](super::positions).
    pub positions: &'a [i32],
    /// Heads.
    pub heads: usize,
    /// Numbers a vector, of which the first `rotary_dim` turn.
    pub head_dim: usize,
    /// Which channels make a pair.
    pub style: PairStyle,
    /// Where the angles come from.
    pub angles: Angles<'a>,
}

/// The rotated vectors, not rounded; [`Scalar::from_f64`] rounds them to what a
/// kernel stores.
///
/// # Errors
/// [`Error::Length`], [`Error::Zero`], [`Error::Negative`] for a position below
/// 0, [`Error::Outside`] for one past the table, [`Error::Value`] for a
/// `rotary_dim` that is odd, 0 or above `head_dim`.
pub fn rope<T: Scalar>(args: Rope<'_, T>) -> Result<Vec<f64>, Error> {
    let head_dim = error::nonzero("head_dim", args.head_dim)?;
    let heads = error::nonzero("heads", args.heads)?;
    let row = error::product("x", &[heads, head_dim])?;
    let elements = error::product("x", &[args.positions.len(), row])?;
    error::length(
        "x",
        args.x.len(),
        elements,
        "[tokens, heads, head_dim], one position a token,",
    )?;
    let rotary_dim = args.angles.check()?;
    allowed(
        "rotary_dim",
        rotary_dim as f64,
        rotary_dim <= head_dim,
        "at most head_dim",
    )?;
    let positions = error::lengths("positions", args.positions, args.positions.len())?;

    let mut out: Vec<f64> = args.x.iter().map(|x| x.to_f64()).collect();
    for (token, position) in positions.into_iter().enumerate() {
        for pair in 0..rotary_dim / 2 {
            let (cos, sin) = args.angles.at(position, pair)?;
            let (first, second) = match args.style {
                PairStyle::HalfSplit => (pair, pair + rotary_dim / 2),
                PairStyle::Interleaved => (2 * pair, 2 * pair + 1),
            };
            for head in 0..heads {
                let vector = &mut out[token * row + head * head_dim..][..head_dim];
                let (a, b) = (vector[first], vector[second]);
                vector[first] = a * cos - b * sin;
                vector[second] = b * cos + a * sin;
            }
        }
    }
    Ok(out)
}

impl Angles<'_> {
    /// Channels that turn.
    fn check(&self) -> Result<usize, Error> {
        match self {
            Self::Frequencies(frequencies) => {
                let rotary_dim = frequencies.rotary_dim();
                check_rotary_dim(rotary_dim)?;
                Ok(rotary_dim)
            }
            Self::Table(table) => {
                check_rotary_dim(table.rotary_dim)?;
                const SHAPE: &str = "[positions, rotary_dim / 2]";
                let entries = error::product("cos", &[table.positions, table.rotary_dim / 2])?;
                error::length("cos", table.cos.len(), entries, SHAPE)?;
                error::length("sin", table.sin.len(), entries, SHAPE)?;
                Ok(table.rotary_dim)
            }
        }
    }

    /// Cosine and sine for a pair.
    fn at(&self, position: usize, pair: usize) -> Result<(f64, f64), Error> {
        match self {
            Self::Frequencies(frequencies) => {
                Ok(frequencies.turn(position as f64 * frequencies.inv_freq[pair]))
            }
            Self::Table(table) => {
                if position >= table.positions {
                    return Err(Error::Outside {
                        what: "position",
                        index: position,
                        limit: table.positions,
                    });
                }
                let entry = position * (table.rotary_dim / 2) + pair;
                Ok((table.cos[entry].into(), table.sin[entry].into()))
            }
        }
    }
}

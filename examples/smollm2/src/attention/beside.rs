//! Two attentions over the same K and V.
//!
//! A step runs the model twice. First with ours: the K and V every layer hands it are kept for the oracle too, which
//! turns K itself ([`Beside`]). Then with the oracle's: each layer's own K and V are dropped, and it attends over those
//! kept ([`Replayed`]). So whatever differs between the two runs' logits comes from RoPE and attention in this step,
//! not from caches that have drifted apart, and a token our cache did not keep as it was given, or turned otherwise,
//! shows at once.

use anyhow::Result;
use candle_core::Tensor;

use super::{Attention, CandleAttention};

/// Both attentions, and which tokens they have.
pub struct Shared<A> {
    ours: A,
    oracle: CandleAttention,
}

impl<A: Attention> Shared<A> {
    /// Two caches, both empty.
    pub fn new(ours: A, oracle: CandleAttention) -> Self {
        Shared { ours, oracle }
    }

    /// The attention for a step's first run.
    pub fn ours(&mut self) -> Beside<'_, A> {
        Beside(self)
    }

    /// The attention for its second run, over the same tokens.
    pub fn oracle(&mut self) -> Replayed<'_> {
        Replayed(&mut self.oracle)
    }

    /// Ours, to be asked what it has done.
    pub fn ours_ref(&self) -> &A {
        &self.ours
    }
}

/// Ours, keeping K and V for the oracle.
pub struct Beside<'a, A>(&'a mut Shared<A>);

impl<A: Attention> Attention for Beside<'_, A> {
    fn seq_len(&self) -> usize {
        self.0.ours.seq_len()
    }

    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.0.oracle.append(layer, k, v)?;
        self.0.ours.attend(layer, q, k, v)
    }

    fn advance(&mut self, new_tokens: usize) -> Result<()> {
        self.0.ours.advance(new_tokens)
    }
}

/// The oracle, over the K and V of the run before.
pub struct Replayed<'a>(&'a mut CandleAttention);

impl Attention for Replayed<'_> {
    fn seq_len(&self) -> usize {
        self.0.seq_len()
    }

    fn attend(&mut self, layer: usize, q: &Tensor, _k: &Tensor, _v: &Tensor) -> Result<Tensor> {
        self.0.attend_over(layer, q)
    }

    fn advance(&mut self, new_tokens: usize) -> Result<()> {
        self.0.advance(new_tokens)
    }
}

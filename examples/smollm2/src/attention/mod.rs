//! What a transformer needs from an attention and its key-value cache, and the ones there are.

mod beside;
mod candle;
mod kernels;
mod storage;

use anyhow::Result;
use candle_core::Tensor;

pub use beside::{Beside, Replayed, Shared};
pub use candle::CandleAttention;
pub use kernels::KernelAttention;
pub use storage::{CacheStorage, Vectors};

/// Causal attention of one sequence over a cache it fills, for all layers of a model.
///
/// A step is: [`attend`](Self::attend) in every layer, each time with the vectors of the same new tokens, then
/// [`advance`](Self::advance), once. Tensors are f32 on the CPU, whatever the cache holds.
pub trait Attention {
    /// Tokens cached before this step, which is also the position of its first new token.
    fn seq_len(&self) -> usize;

    /// Puts the new tokens' `k` and `v`, `[tokens, num_kv_heads, head_dim]`, behind those cached of this layer, and
    /// attends from `q`, `[tokens, num_q_heads, head_dim]`, each token seeing those up to itself. Returns `[tokens,
    /// num_q_heads, head_dim]`. q and k come as they are projected: RoPE turns them here, each token's by its position.
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor>;

    /// Ends a step: its `new_tokens` now count as cached.
    fn advance(&mut self, new_tokens: usize) -> Result<()>;
}

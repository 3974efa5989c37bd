//! What a cache costs in memory and saves in work.

/// The size of a model's whole cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSize {
    /// Layers, each with a cache of its own.
    pub layers: u64,
    /// Sequences.
    pub batch: u64,
    /// KV heads a layer.
    pub num_kv_heads: u64,
    /// Numbers a vector.
    pub head_dim: u64,
    /// Tokens a sequence.
    pub tokens: u64,
    /// Bytes of one number: 2 for fp16 and bf16, 1 for int8.
    pub bytes_per_element: u64,
    /// Bytes of what lies beside each vector: 4 for an f32 scale, else 0.
    pub bytes_per_vector: u64,
}

impl CacheSize {
    /// Bytes of K and V together.
    pub fn bytes(&self) -> u64 {
        let vectors = self.layers * self.batch * self.num_kv_heads * self.tokens;
        2 * vectors * (self.head_dim * self.bytes_per_element + self.bytes_per_vector)
    }
}

/// Tokens whose K and V are computed (in each layer) to generate `steps` tokens
/// after a prompt of `prompt`: the first step works through the prompt, and
/// without a cache every later one works through everything before it again.
pub fn kv_computations(prompt: u64, steps: u64, cached: bool) -> u64 {
    if steps == 0 {
        0
    } else if cached {
        prompt + (steps - 1)
    } else {
        prompt * steps + steps * (steps - 1) / 2
    }
}

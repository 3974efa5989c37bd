//! What a cache may store, and what the kernels do for each.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};
use kv_kernels::cudarc::driver::{CudaSlice, CudaStream};
use kv_kernels::reference::F8E4M3;
use kv_kernels::{CacheShape, Element, Kernels, KvCache, Step, Stores};

/// What a cache stores for an element, as a type.
pub trait CacheStorage: Stores<<Self as CacheStorage>::Vectors> {
    /// The vectors that the cache is given, and whose queries attend to it.
    type Vectors: Element + WithDType;

    /// Attention of all tokens of a prompt at once, where there is a kernel for it.
    const PREFILL: Option<Prefill<Self>>;

    /// The number stored, without its scales.
    fn number(self) -> f32;
}

/// The vectors that a cache of `S` is given.
pub type Vectors<S> = <S as CacheStorage>::Vectors;

/// Attends from q of so many heads over a cache that holds their tokens, whose step this is, into a buffer.
pub type Prefill<S> = fn(
    &Kernels,
    &CudaSlice<Vectors<S>>,
    usize,
    &KvCache<S>,
    Step<'_>,
    &mut CudaSlice<Vectors<S>>,
    &CudaStream,
) -> kv_kernels::Result<()>;

impl CacheStorage for f16 {
    type Vectors = f16;
    const PREFILL: Option<Prefill<Self>> = Some(prefill);

    fn number(self) -> f32 {
        self.to_f32()
    }
}

impl CacheStorage for bf16 {
    type Vectors = bf16;
    const PREFILL: Option<Prefill<Self>> = Some(prefill);

    fn number(self) -> f32 {
        self.to_f32()
    }
}

impl CacheStorage for i8 {
    type Vectors = f16;
    const PREFILL: Option<Prefill<Self>> = None;

    fn number(self) -> f32 {
        self.into()
    }
}

impl CacheStorage for F8E4M3 {
    type Vectors = f16;
    const PREFILL: Option<Prefill<Self>> = None;

    fn number(self) -> f32 {
        self.to_f32()
    }
}

fn prefill<T: Element>(
    kernels: &Kernels,
    q: &CudaSlice<T>,
    num_q_heads: usize,
    cache: &KvCache<T>,
    step: Step<'_>,
    out: &mut CudaSlice<T>,
    stream: &CudaStream,
) -> kv_kernels::Result<()> {
    let prefill = kernels.prefill(q, num_q_heads, cache, step, out);
    prefill.launch(stream)
}

/// The first `tokens` tokens of a cache of one sequence: K and V, each `[tokens, num_kv_heads, head_dim]`.
pub(super) fn read<S: CacheStorage>(
    stream: &Arc<CudaStream>,
    cache: &KvCache<S>,
    tokens: usize,
) -> Result<[Tensor; 2]> {
    let shape = cache.shape();
    let side = |payload, scale: Option<_>, channel_scale: Option<_>| -> Result<Tensor> {
        let floats = |slice: Option<_>| slice.map(|slice| stream.clone_dtoh(slice)).transpose();
        let side = Side {
            shape,
            payload: stream.clone_dtoh(payload)?,
            scale: floats(scale)?,
            channel_scale: floats(channel_scale)?,
        };
        side.numbers(tokens)
    };
    Ok([
        side(cache.k(), cache.k_scale(), cache.k_channel_scale())?,
        side(cache.v(), cache.v_scale(), cache.v_channel_scale())?,
    ])
}

/// K or V of a cache of one sequence, on the host.
struct Side<S> {
    shape: CacheShape,
    /// `[num_kv_heads, max_seq_len, head_dim]`.
    payload: Vec<S>,
    /// `[num_kv_heads, max_seq_len]`.
    scale: Option<Vec<f32>>,
    /// `[num_kv_heads, head_dim]`.
    channel_scale: Option<Vec<f32>>,
}

impl<S: CacheStorage> Side<S> {
    /// What the first `tokens` tokens' vectors stand for, by token.
    fn numbers(&self, tokens: usize) -> Result<Tensor> {
        let CacheShape {
            num_kv_heads,
            max_seq_len,
            head_dim,
            ..
        } = self.shape;
        let mut numbers = Vec::with_capacity(tokens * num_kv_heads * head_dim);
        for token in 0..tokens {
            for head in 0..num_kv_heads {
                let vector = head * max_seq_len + token;
                let scale = self.scale.as_ref().map_or(1.0, |scale| scale[vector]);
                for (channel, element) in self.payload[vector * head_dim..][..head_dim]
                    .iter()
                    .enumerate()
                {
                    let channel_scale = self
                        .channel_scale
                        .as_ref()
                        .map_or(1.0, |scale| scale[head * head_dim + channel]);
                    numbers.push(element.number() * scale * channel_scale);
                }
            }
        }
        let shape = (tokens, num_kv_heads, head_dim);
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_payload_by_scales_in_the_order_of_tokens() {
        let side = Side::<i8> {
            shape: CacheShape {
                batch: 1,
                num_kv_heads: 2,
                max_seq_len: 3,
                head_dim: 2,
            },
            payload: vec![1, 2, 3, 4, 9, 9, -1, -2, -3, -4, 9, 9],
            scale: Some(vec![0.5, 2.0, 9.0, 1.0, 10.0, 9.0]),
            channel_scale: Some(vec![1.0, 3.0, 1.0, 0.5]),
        };
        let numbers: Vec<f32> = side
            .numbers(2)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(numbers, [0.5, 3.0, -1.0, -1.0, 6.0, 24.0, -30.0, -20.0]);
    }
}

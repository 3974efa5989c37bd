//! The cache and the decode attention of this workspace's kernels, on a device.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor, WithDType};
use kv_kernels::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use kv_kernels::{CacheShape, Element, Kernels, KvCache, Lengths, NewTokens};

use super::candle::causal_attention;
use super::{Attention, rounded};
use crate::model::Config;
use crate::trace::{Launches, Trace};

/// An element type that both candle and the kernels have.
pub trait CacheElement: Element + WithDType {}

impl<T: Element + WithDType> CacheElement for T {}

/// One cache a layer, one count of tokens for all of them.
///
/// A step of one token is attended by the kernels. A longer one, the prompt, is attended by candle, on its way into
/// an empty cache; its K and V are appended by the same kernel as a single token's.
pub struct KernelAttention<T: Element> {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    caches: Vec<KvCache<T>>,
    lengths: Lengths,
    /// Attention of one token, `[1, num_q_heads, head_dim]`.
    out: CudaSlice<T>,
    num_q_heads: usize,
    /// The length on the device, known without asking it.
    seq_len: usize,
    launches: Launches,
    trace: Trace,
}

impl<T: CacheElement> KernelAttention<T> {
    /// Empty caches of this shape, one sequence's, for each of the model's layers.
    pub fn new(context: &Arc<CudaContext>, config: &Config, shape: CacheShape) -> Result<Self> {
        let stream = context.default_stream();
        shape.group_size(config.num_q_heads)?;
        let caches = (0..config.num_layers)
            .map(|_| KvCache::new(&stream, shape))
            .collect::<kv_kernels::Result<_>>()?;
        Ok(KernelAttention {
            kernels: Kernels::new(context)?,
            caches,
            lengths: Lengths::new(&stream, shape.batch, shape.max_seq_len)?,
            out: stream.alloc_zeros(config.num_q_heads * config.head_dim)?,
            stream,
            num_q_heads: config.num_q_heads,
            seq_len: 0,
            launches: Launches::default(),
            trace: Trace::new(config.num_layers),
        })
    }

    /// What has been launched so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl<T: CacheElement> Attention for KernelAttention<T> {
    fn seq_len(&self) -> usize {
        self.seq_len
    }

    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let tokens = q.dim(0)?;
        ensure!(
            tokens == 1 || self.seq_len == 0,
            "{tokens} tokens behind {}: a prompt goes into an empty cache",
            self.seq_len
        );
        let (k_new, v_new) = (upload(&self.stream, k)?, upload(&self.stream, v)?);
        let step = self.lengths.step(NewTokens::Each(tokens))?;
        let cache = &mut self.caches[layer];
        self.kernels
            .append(&k_new, &v_new, &mut *cache, step)
            .launch(&self.stream)?;
        self.launches.append += 1;

        if tokens > 1 {
            let dtype = <T as WithDType>::DTYPE;
            let head_major = |x: &Tensor| rounded(&x.transpose(0, 1)?.contiguous()?, dtype);
            let q = rounded(q, dtype)?;
            return Ok(causal_attention(&q, &head_major(k)?, &head_major(v)?)?);
        }
        let q_new = upload(&self.stream, q)?;
        self.kernels
            .decode(&q_new, self.num_q_heads, &*cache, step, &mut self.out)
            .launch(&self.stream)?;
        self.launches.decode += 1;
        let out = self.stream.clone_dtoh(&self.out)?;
        Ok(Tensor::from_vec(out, q.dims(), &Device::Cpu)?.to_dtype(DType::F32)?)
    }

    fn advance(&mut self, new_tokens: usize) -> Result<()> {
        self.kernels
            .advance(&mut self.lengths, NewTokens::Each(new_tokens))
            .launch(&self.stream)?;
        self.launches.advance += 1;
        let status = self.lengths.status(&self.stream)?;
        ensure!(
            status.is_ok(),
            "the cache holds {} tokens: no room for {new_tokens} behind {}",
            self.lengths.max_seq_len(),
            self.seq_len
        );
        self.seq_len += new_tokens;
        self.trace
            .push(new_tokens, std::mem::take(&mut self.launches));
        Ok(())
    }
}

/// A copy of `x` on the device, rounded to `T`.
fn upload<T: CacheElement>(stream: &Arc<CudaStream>, x: &Tensor) -> Result<CudaSlice<T>> {
    let x: Vec<T> = x
        .to_dtype(<T as WithDType>::DTYPE)?
        .flatten_all()?
        .to_vec1()?;
    Ok(stream.clone_htod(&x)?)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::attention::{CandleAttention, Shared};
    use crate::device;
    use crate::generation::{Agreement, Compared, greedy};
    use crate::testing::{TINY, tiny_model};

    const PROMPT: [u32; 5] = [7, 3, 11, 30, 1];

    fn attention<T: CacheElement>(max_seq_len: usize) -> KernelAttention<T> {
        let shape = CacheShape {
            batch: 1,
            num_kv_heads: TINY.num_kv_heads,
            max_seq_len,
            head_dim: TINY.head_dim,
        };
        KernelAttention::new(&device::open().unwrap().context, &TINY, shape).unwrap()
    }

    /// A prompt and 40 steps: past the first tile of the decode kernel.
    fn agreement<T: CacheElement>() -> (Agreement, Trace) {
        let model = tiny_model();
        let oracle = CandleAttention::new(TINY.num_layers, <T as WithDType>::DTYPE);
        let mut next = Compared {
            model: &model,
            attention: Shared::new(attention::<T>(PROMPT.len() + 40), oracle),
            agreement: Agreement::default(),
        };
        greedy(&mut next, &PROMPT, 41, None, |_| Ok(())).unwrap();
        let trace = next.attention.ours_ref().trace().clone();
        (next.agreement, trace)
    }

    #[test]
    fn f16_agrees_with_candle() {
        let (agreement, trace) = agreement::<f16>();
        assert_eq!(agreement.differing(), []);
        assert!(agreement.max_logit_diff < 5e-3, "{agreement}");
        assert_eq!(
            trace.to_string(),
            "step 0, 5 tokens: append 2, advance 1; launches a layer: 1\n\
             steps 1 to 40, 1 token each: append 2, decode 2, advance 1; launches a layer: 2"
        );
    }

    #[test]
    fn bf16_agrees_with_candle() {
        let (agreement, _) = agreement::<bf16>();
        assert_eq!(agreement.differing(), []);
        assert!(agreement.max_logit_diff < 4e-2, "{agreement}");
    }

    #[test]
    fn a_full_cache_takes_no_more() {
        let model = tiny_model();
        let mut attention = attention::<f16>(PROMPT.len());
        model.forward(&PROMPT, &mut attention).unwrap();
        let error = model.forward(&[2], &mut attention).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the cache holds 5 tokens: no room for 1 behind 5"
        );
    }

    #[test]
    fn a_prompt_goes_into_an_empty_cache() {
        let model = tiny_model();
        let mut attention = attention::<f16>(16);
        model.forward(&PROMPT, &mut attention).unwrap();
        let error = model.forward(&PROMPT, &mut attention).unwrap_err();
        assert_eq!(
            error.to_string(),
            "5 tokens behind 5: a prompt goes into an empty cache"
        );
    }
}

//! RoPE, cache and attention by this workspace's kernels, on a device.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor, WithDType};
use kv_kernels::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use kv_kernels::{
    CacheShape, DecodeShape, Element, Kernels, KvCache, Lengths, NewTokens, PairStyle, Rope,
    RopeFrequencies, Storage, Workspace,
};

use super::Attention;
use crate::model::Config;
use crate::trace::{Launches, Operation, Trace};

/// An element type that both candle and the kernels have.
pub trait CacheElement: Element + WithDType {}

impl<T: Element + WithDType> CacheElement for T {}

/// One cache a layer, one count of tokens for all of them.
///
/// A step of one token takes one launch a layer, which turns q and k by RoPE, appends k and v, and attends. A longer
/// one, the prompt, takes three: K is turned on its way to the cache, q in place, then all its tokens attend.
pub struct KernelAttention<T: Element> {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    rope: Rope<'static>,
    caches: Vec<KvCache<T>>,
    lengths: Lengths,
    workspace: Workspace,
    /// The length on the device, known without asking it.
    seq_len: usize,
    launches: Launches,
    trace: Trace,
}

impl<T: CacheElement> KernelAttention<T> {
    /// Empty caches of this shape, one sequence's, for each of the model's layers.
    pub fn new(context: &Arc<CudaContext>, config: &Config, shape: CacheShape) -> Result<Self> {
        let stream = context.default_stream();
        let kernels = Kernels::new(context)?;
        let frequencies = RopeFrequencies::plain(config.rope_base, config.head_dim)?;
        let caches = (0..config.num_layers)
            .map(|_| KvCache::new(&stream, shape))
            .collect::<kv_kernels::Result<_>>()?;
        let workspace = kernels.workspace_size(&DecodeShape {
            cache: shape,
            dtype: <T as Storage>::DTYPE,
            k_dtype: <T as Storage>::DTYPE,
            v_dtype: <T as Storage>::DTYPE,
            num_q_heads: config.num_q_heads,
            query_tokens: 1,
            sliding_window: None,
        })?;
        Ok(KernelAttention {
            // GGUF files of llama models have pairs side by side.
            rope: Rope::new(&stream, &frequencies, PairStyle::Interleaved)?,
            caches,
            lengths: Lengths::new(&stream, shape.batch, shape.max_seq_len)?,
            workspace: Workspace::new(&stream, workspace)?,
            kernels,
            stream,
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
        let (tokens, num_q_heads, head_dim) = q.dims3()?;
        let stream = &self.stream;
        let (k_new, v_new) = (upload::<T>(stream, k)?, upload(stream, v)?);
        let mut q_new = upload(stream, q)?;
        let mut out = stream.alloc_zeros(q.elem_count())?;

        let step = self.lengths.step(NewTokens::Each(tokens))?;
        let (kernels, rope, cache) = (&self.kernels, &self.rope, &mut self.caches[layer]);
        let append = kernels.append(&k_new, &v_new, &mut *cache, step).rope(rope);
        if tokens == 1 {
            let launched = append
                .decode(&q_new, num_q_heads, &mut out)
                .workspace(&mut self.workspace)
                .launch(stream);
            self.launches.count(Operation::FusedStep, launched)?;
        } else {
            let launched = append.launch(stream);
            self.launches.count(Operation::Append, launched)?;
            let launched = kernels
                .rope(rope, head_dim, step)
                .q(&mut q_new, num_q_heads)
                .launch(stream);
            self.launches.count(Operation::Rope, launched)?;
            let launched = kernels
                .prefill(&q_new, num_q_heads, &*cache, step, &mut out)
                .launch(stream);
            self.launches.count(Operation::Prefill, launched)?;
        }
        let out = stream.clone_dtoh(&out)?;
        Ok(Tensor::from_vec(out, q.dims(), &Device::Cpu)?.to_dtype(DType::F32)?)
    }

    fn advance(&mut self, new_tokens: usize) -> Result<()> {
        let launched = self
            .kernels
            .advance(&mut self.lengths, NewTokens::Each(new_tokens))
            .launch(&self.stream);
        self.launches.count(Operation::Advance, launched)?;
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
    use std::collections::HashMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use half::{bf16, f16};
    use ptx_emulator::Emulator;

    use super::*;
    use crate::attention::{CandleAttention, Shared};
    use crate::device;
    use crate::generation::{Agreement, Compared, greedy};
    use crate::testing::{TINY, assert_close, tiny_model};

    const PROMPT: [u32; 5] = [7, 3, 11, 30, 1];

    /// One test at a time on the device: the emulator counts driver calls of the whole process.
    fn alone() -> MutexGuard<'static, ()> {
        static DEVICE: Mutex<()> = Mutex::new(());
        DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kernels that the emulator, where it is in force, was told to launch since it was last asked.
    fn launched() -> Option<usize> {
        let calls = Emulator::loaded()?.take_calls().unwrap();
        let calls: HashMap<String, usize> = serde_json::from_str(&calls).unwrap();
        Some(calls.get("cuLaunchKernel").copied().unwrap_or(0))
    }

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
        let _alone = alone();
        let model = tiny_model();
        let oracle = CandleAttention::new(&TINY, <T as WithDType>::DTYPE);
        let mut next = Compared {
            model: &model,
            attention: Shared::new(attention::<T>(PROMPT.len() + 40), oracle),
            agreement: Agreement::default(),
        };
        launched();
        greedy(&mut next, &PROMPT, 41, None, |_| Ok(())).unwrap();
        let trace = next.attention.ours_ref().trace().clone();
        if let Some(launched) = launched() {
            assert_eq!(trace.total(), launched, "launches");
        }
        (next.agreement, trace)
    }

    #[test]
    fn f16_agrees_with_candle() {
        let (agreement, trace) = agreement::<f16>();
        assert_eq!(agreement.differing(), []);
        assert!(agreement.max_logit_diff < 5e-3, "{agreement}");
        assert_eq!(
            trace.to_string(),
            "step 0, 5 tokens: append with RoPE 2, RoPE of q 2, prefill 2, advance 1; \
             launches a layer and step: 3\n\
             steps 1 to 40, 1 token each: RoPE + append + decode 2, advance 1; \
             launches a layer and step: 1"
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
        let _alone = alone();
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
    fn a_prompt_may_come_in_parts() {
        let _alone = alone();
        let model = tiny_model();
        let whole = model
            .forward(&PROMPT, &mut attention::<f16>(PROMPT.len()))
            .unwrap();
        let mut attention = attention::<f16>(PROMPT.len());
        model.forward(&PROMPT[..2], &mut attention).unwrap();
        let parts = model.forward(&PROMPT[2..], &mut attention).unwrap();
        assert_close(&parts, &whole, 5e-3);
    }
}

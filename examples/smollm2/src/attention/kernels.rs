//! RoPE, cache and attention by this workspace's kernels, on a device.

use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor, WithDType};
use kv_kernels::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};
use kv_kernels::{
    CacheShape, ChannelScales, DecodeShape, Kernels, KvCache, Lengths, MAX_QUERY_TOKENS, NewTokens,
    PairStyle, Rope, RopeFrequencies, Step, Storage, Workspace,
};

use super::Attention;
use super::storage::{CacheStorage, Prefill, Vectors};
use crate::model::Config;
use crate::trace::{Launches, Operation, Trace};

/// One cache a layer, one count of tokens for all of them.
///
/// A step of one token takes one launch a layer, which turns q and k by RoPE, appends k and v, and attends. A longer
/// one, the prompt, takes three where the cache has 16-bit elements: K is turned on its way to the cache, q in place,
/// then all its tokens attend. Otherwise, or [where asked](Self::by_steps), its tokens go in as decode's do, up to 8 in
/// a launch: then each of them attends to what the cache has made of the others.
pub struct KernelAttention<S: CacheStorage> {
    kernels: Kernels,
    stream: Arc<CudaStream>,
    rope: Rope<'static>,
    shape: CacheShape,
    caches: Vec<KvCache<S>>,
    lengths: Lengths,
    workspace: Workspace,
    /// How a prompt attends, where not by steps.
    prefill: Option<Prefill<S>>,
    num_splits: Option<usize>,
    /// Tokens from which channel scales are calibrated.
    calibration: Option<usize>,
    /// The length on the device, known without asking it.
    seq_len: usize,
    launches: Launches,
    trace: Trace,
}

/// A step's vectors in one layer, on the device.
struct LayerStep<T> {
    q: CudaSlice<T>,
    k: CudaSlice<T>,
    v: CudaSlice<T>,
    out: CudaSlice<T>,
    tokens: usize,
    num_q_heads: usize,
}

impl<S: CacheStorage> KernelAttention<S> {
    /// Empty caches of this shape, one sequence's, for each of the model's layers.
    ///
    /// # Errors
    /// Where the kernels do not have the shape, or the device has no room.
    pub fn new(context: &Arc<CudaContext>, config: &Config, shape: CacheShape) -> Result<Self> {
        let stream = context.default_stream();
        let kernels = Kernels::new(context)?;
        let frequencies = RopeFrequencies::plain(config.rope_base, config.head_dim)?;
        let caches = (0..config.num_layers)
            .map(|_| KvCache::new(&stream, shape))
            .collect::<kv_kernels::Result<_>>()?;
        let workspace = |query_tokens| {
            kernels.workspace_size(&DecodeShape {
                cache: shape,
                dtype: <Vectors<S> as Storage>::DTYPE,
                k_dtype: S::DTYPE,
                v_dtype: S::DTYPE,
                num_q_heads: config.num_q_heads,
                query_tokens,
                sliding_window: None,
            })
        };
        let workspace = workspace(1)?.max(workspace(MAX_QUERY_TOKENS)?);
        Ok(KernelAttention {
            // GGUF files of llama models have pairs side by side.
            rope: Rope::new(&stream, &frequencies, PairStyle::Interleaved)?,
            shape,
            caches,
            lengths: Lengths::new(&stream, shape.batch, shape.max_seq_len)?,
            workspace: Workspace::new(&stream, workspace)?,
            prefill: S::PREFILL,
            num_splits: None,
            calibration: None,
            kernels,
            stream,
            seq_len: 0,
            launches: Launches::default(),
            trace: Trace::new(config.num_layers),
        })
    }

    /// Puts a prompt in as decode puts in its tokens, up to 8 in a launch, whatever the cache stores.
    pub fn by_steps(mut self) -> Self {
        self.prefill = None;
        self
    }

    /// Splits a decode in so many parts, instead of as many as suit the device and the cache's capacity.
    pub fn num_splits(mut self, num_splits: usize) -> Self {
        self.num_splits = Some(num_splits);
        self
    }

    /// Divides each pair of K's channels that RoPE turns by the largest magnitude that it has in the first `tokens` tokens
    /// of the first step, so that a few large channels do not cost all others their precision. For caches of a byte an
    /// element.
    pub fn calibrated(mut self, tokens: usize) -> Self {
        self.calibration = Some(tokens);
        self
    }

    /// What has been launched so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The shape of each layer's cache.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Layers, each with a cache of its own.
    pub fn num_layers(&self) -> usize {
        self.caches.len()
    }

    /// Bytes of all caches on the device, scales included.
    pub fn bytes(&self) -> usize {
        self.caches.iter().map(KvCache::bytes).sum()
    }

    /// K, turned, and V of a layer's first `tokens` tokens as the cache has them, each `[tokens, num_kv_heads, head_dim]`.
    ///
    /// # Errors
    /// The driver's.
    pub fn stored(&self, layer: usize, tokens: usize) -> Result<[Tensor; 2]> {
        super::storage::read(&self.stream, &self.caches[layer], tokens)
    }

    /// Sets a layer's channel scales from the first tokens of a step.
    fn calibrate(
        &mut self,
        layer: usize,
        vectors: &LayerStep<Vectors<S>>,
        tokens: usize,
    ) -> Result<()> {
        let stream = &self.stream;
        let shape = CacheShape {
            max_seq_len: tokens.min(vectors.tokens),
            ..self.shape
        };
        let part = ..shape.max_seq_len * shape.num_kv_heads * shape.head_dim;
        let (k, v) = (vectors.k.slice(part), vectors.v.slice(part));
        let mut sample = KvCache::<Vectors<S>>::new(stream, shape)?;
        let empty = stream.alloc_zeros(shape.batch)?;
        let new = NewTokens::Each(shape.max_seq_len);
        let launched = self
            .kernels
            .append(
                &k,
                &v,
                &mut sample,
                Step::new(&empty, shape.max_seq_len, new)?,
            )
            .rope(&self.rope)
            .launch(stream);
        self.launches.count(Operation::Sample, launched)?;
        let mut scales = ChannelScales::new(stream, shape.num_kv_heads, shape.head_dim)?;
        let launched = self
            .kernels
            .calibrate_channel_scale(sample.k(), shape, &mut scales)
            .launch(stream);
        self.launches.count(Operation::Calibrate, launched)?;
        let mut scales = stream.clone_dtoh(scales.scales())?;
        share_within_pairs(&mut scales);
        self.caches[layer].set_k_channel_scale(Some(stream.clone_htod(&scales)?))?;
        Ok(())
    }

    /// A prompt in three launches.
    fn at_once(
        &mut self,
        prefill: Prefill<S>,
        layer: usize,
        vectors: &mut LayerStep<Vectors<S>>,
    ) -> Result<()> {
        let (kernels, stream, rope) = (&self.kernels, &self.stream, &self.rope);
        let cache = &mut self.caches[layer];
        let num_q_heads = vectors.num_q_heads;
        let step = self.lengths.step(NewTokens::Each(vectors.tokens))?;
        let launched = kernels
            .append(&vectors.k, &vectors.v, &mut *cache, step)
            .rope(rope)
            .launch(stream);
        self.launches.count(Operation::Append, launched)?;
        let launched = kernels
            .rope(rope, self.shape.head_dim, step)
            .q(&mut vectors.q, num_q_heads)
            .launch(stream);
        self.launches.count(Operation::Rope, launched)?;
        let (q, out) = (&vectors.q, &mut vectors.out);
        let launched = prefill(kernels, q, num_q_heads, cache, step, out, stream);
        self.launches.count(Operation::Prefill, launched)?;
        Ok(())
    }

    /// The fused step, again and again: a launch for up to 8 tokens.
    fn fused(&mut self, layer: usize, vectors: &mut LayerStep<Vectors<S>>) -> Result<()> {
        let cache = &mut self.caches[layer];
        let CacheShape {
            num_kv_heads,
            head_dim,
            ..
        } = self.shape;
        let firsts: Vec<usize> = (0..vectors.tokens).step_by(MAX_QUERY_TOKENS).collect();
        // What the sequence holds before each launch. The lengths themselves stay until all layers have seen the step.
        let held: Vec<i32> = firsts
            .iter()
            .map(|first| i32::try_from(self.seq_len + first))
            .collect::<Result<_, _>>()?;
        let held = self.stream.clone_htod(&held)?;
        for (index, first) in firsts.into_iter().enumerate() {
            let tokens = MAX_QUERY_TOKENS.min(vectors.tokens - first);
            let new = NewTokens::Each(tokens);
            let held = held.slice(index..index + 1);
            let step = match vectors.tokens {
                ..=MAX_QUERY_TOKENS => self.lengths.step(new)?,
                _ => Step::new(&held, self.lengths.max_seq_len(), new)?,
            };
            let part = |heads: usize| {
                let vector = heads * head_dim;
                first * vector..(first + tokens) * vector
            };
            let (k, v) = (
                vectors.k.slice(part(num_kv_heads)),
                vectors.v.slice(part(num_kv_heads)),
            );
            let q = vectors.q.slice(part(vectors.num_q_heads));
            let mut out = vectors.out.slice_mut(part(vectors.num_q_heads));
            let mut decode = self
                .kernels
                .append(&k, &v, &mut *cache, step)
                .rope(&self.rope)
                .decode(&q, vectors.num_q_heads, &mut out)
                .workspace(&mut self.workspace);
            if let Some(num_splits) = self.num_splits {
                decode = decode.num_splits(num_splits);
            }
            let launched = decode.launch(&self.stream);
            self.launches.count(Operation::FusedStep, launched)?;
        }
        Ok(())
    }
}

impl<S: CacheStorage> Attention for KernelAttention<S> {
    fn seq_len(&self) -> usize {
        self.seq_len
    }

    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (tokens, num_q_heads, _) = q.dims3()?;
        let stream = &self.stream;
        let mut vectors = LayerStep {
            q: upload::<Vectors<S>>(stream, q)?,
            k: upload(stream, k)?,
            v: upload(stream, v)?,
            out: stream.alloc_zeros(q.elem_count())?,
            tokens,
            num_q_heads,
        };
        if let (0, Some(tokens)) = (self.seq_len, self.calibration) {
            self.calibrate(layer, &vectors, tokens)?;
        }
        match self.prefill {
            Some(prefill) if tokens > 1 => self.at_once(prefill, layer, &mut vectors)?,
            _ => self.fused(layer, &mut vectors)?,
        }
        let out = self.stream.clone_dtoh(&vectors.out)?;
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

/// Gives both channels of each pair that RoPE turns the larger one's scale: what the one has at the sample's positions,
/// the other will have at later ones, where a pair turns slowly long after the sample. Pairs lie side by side.
fn share_within_pairs(scales: &mut [f32]) {
    for pair in scales.chunks_exact_mut(2) {
        pair.fill(pair[0].max(pair[1]));
    }
}

/// A copy of `x` on the device, rounded to `T`.
fn upload<T: WithDType + DeviceRepr>(stream: &Arc<CudaStream>, x: &Tensor) -> Result<CudaSlice<T>> {
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
    use kv_kernels::reference::F8E4M3;
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

    fn attention<S: CacheStorage>(max_seq_len: usize) -> KernelAttention<S> {
        let shape = CacheShape {
            batch: 1,
            num_kv_heads: TINY.num_kv_heads,
            max_seq_len,
            head_dim: TINY.head_dim,
        };
        KernelAttention::new(&device::open().unwrap().context, &TINY, shape).unwrap()
    }

    /// A prompt and 40 steps: past the first tile of the decode kernel.
    fn agreement<S: CacheStorage>(
        options: impl Fn(KernelAttention<S>) -> KernelAttention<S>,
    ) -> (Agreement, Trace) {
        let _alone = alone();
        let model = tiny_model();
        let oracle = CandleAttention::new(&TINY, <Vectors<S> as WithDType>::DTYPE);
        let mut next = Compared {
            model: &model,
            attention: Shared::new(options(attention(PROMPT.len() + 40)), oracle),
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
        let (agreement, trace) = agreement::<f16>(|attention| attention);
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
        let (agreement, _) = agreement::<bf16>(|attention| attention);
        assert_eq!(agreement.differing(), []);
        assert!(agreement.max_logit_diff < 4e-2, "{agreement}");
    }

    #[test]
    fn int8_is_close_to_candle() {
        let (agreement, trace) = agreement::<i8>(|attention| attention.calibrated(128));
        assert_eq!(agreement.differing(), []);
        assert!(agreement.max_logit_diff < 0.3, "{agreement}");
        assert_eq!(
            trace.to_string(),
            "step 0, 5 tokens: sample with RoPE 2, calibration 2, RoPE + append + decode 2, advance 1; \
             launches a layer and step: 3\n\
             steps 1 to 40, 1 token each: RoPE + append + decode 2, advance 1; \
             launches a layer and step: 1"
        );
    }

    #[test]
    fn fp8_is_near_candle() {
        let (agreement, _) = agreement::<F8E4M3>(|attention| attention);
        assert!(agreement.max_logit_diff < 1.5, "{agreement}");
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

    #[test]
    fn a_prompt_may_go_in_by_steps() {
        let _alone = alone();
        let model = tiny_model();
        let prompt: Vec<u32> = (0..20).collect();
        let whole = model
            .forward(&prompt, &mut attention::<f16>(prompt.len()))
            .unwrap();
        let mut attention = attention::<f16>(prompt.len()).by_steps().num_splits(1);
        launched();
        // The first three at once, so that the others' steps begin at neither 0 nor a multiple of 8.
        model.forward(&prompt[..3], &mut attention).unwrap();
        let steps = model.forward(&prompt[3..], &mut attention).unwrap();
        assert_close(&steps, &whole, 5e-3);
        assert_eq!(
            attention.trace().to_string(),
            "step 0, 3 tokens: RoPE + append + decode 2, advance 1; launches a layer and step: 1\n\
             step 1, 17 tokens: RoPE + append + decode 6, advance 1; launches a layer and step: 3"
        );
        if let Some(launched) = launched() {
            assert_eq!(attention.trace().total(), launched, "launches");
        }
    }

    #[test]
    fn what_is_stored_can_be_read() {
        let _alone = alone();
        let tokens = 11;
        let random = |heads| {
            let shape = (tokens, heads, TINY.head_dim);
            Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
        };
        let (q, k, v) = (
            random(TINY.num_q_heads),
            random(TINY.num_kv_heads),
            random(TINY.num_kv_heads),
        );
        let mut attention = attention::<f16>(16).by_steps();
        attention.attend(1, &q, &k, &v).unwrap();
        let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let [stored_k, stored_v] = attention.stored(1, tokens).unwrap();
        assert_eq!(stored_k.dims(), k.dims());
        let turned = TINY.rope().turn(0, tokens).unwrap().apply(&k).unwrap();
        assert_close(&numbers(&stored_k), &numbers(&turned), 4e-3);
        assert_close(&numbers(&stored_v), &numbers(&v), 4e-3);
        let shape = attention.shape();
        let elements = shape.max_seq_len * shape.num_kv_heads * shape.head_dim;
        assert_eq!(attention.bytes(), 2 * 2 * 2 * elements);
    }

    #[test]
    fn calibrated_channels_keep_their_precision_beside_large_ones() {
        let _alone = alone();
        let tokens = 20;
        let random = |heads| {
            let shape = (tokens, heads, TINY.head_dim);
            Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
        };
        let q = random(TINY.num_q_heads);
        // A pair that RoPE hardly turns, so that it stays the only large one.
        let large: Vec<f32> = (0..TINY.head_dim)
            .map(|channel| if channel < 62 { 1.0 } else { 100.0 })
            .collect();
        let large = Tensor::new(large, &Device::Cpu).unwrap();
        let k = random(TINY.num_kv_heads).broadcast_mul(&large).unwrap();
        let v = random(TINY.num_kv_heads);
        let turned = TINY.rope().turn(0, tokens).unwrap().apply(&k).unwrap();
        let error = |attention: &mut KernelAttention<i8>| -> f32 {
            attention.attend(0, &q, &k, &v).unwrap();
            let [stored, _] = attention.stored(0, tokens).unwrap();
            let small = (stored - &turned).unwrap().narrow(2, 0, 62).unwrap();
            let errors = small.sqr().unwrap().mean_all().unwrap();
            errors.to_scalar::<f32>().unwrap().sqrt()
        };
        let plain = error(&mut attention(tokens));
        let calibrated = error(&mut attention(tokens).calibrated(10));
        // Steps of 1/127 of 100 to 300 against those of 1/127 of 2 or 3.
        assert!(calibrated * 20.0 < plain, "{calibrated} against {plain}");
    }

    #[test]
    fn a_pair_has_one_scale() {
        let mut scales = [1.0, 3.0, 2.0, 0.5];
        share_within_pairs(&mut scales);
        assert_eq!(scales, [3.0, 3.0, 2.0, 2.0]);
    }
}

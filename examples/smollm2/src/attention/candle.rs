//! RoPE and attention as a few tensor operations of candle's, in f32: the oracle the kernels are held against.

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};

use super::Attention;
use crate::model::Config;
use crate::rope::Rope;

/// K and V of each layer as candle tensors, rounded to the precision of the cache they stand beside.
#[derive(Debug)]
pub struct CandleAttention {
    layers: Vec<Option<Layer>>,
    rope: Rope,
    dtype: DType,
    seq_len: usize,
}

/// `[num_kv_heads, tokens, head_dim]`, f32, K turned.
#[derive(Debug, Clone)]
struct Layer {
    k: Tensor,
    v: Tensor,
}

impl CandleAttention {
    /// An empty cache for a model of these sizes, its K and V rounded to `dtype`.
    pub fn new(config: &Config, dtype: DType) -> Self {
        CandleAttention {
            layers: vec![None; config.num_layers],
            rope: config.rope(),
            dtype,
            seq_len: 0,
        }
    }

    /// Puts `k`, turned, and `v`, `[tokens, num_kv_heads, head_dim]`, behind those cached of this layer.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let head_major = |x: Tensor| x.transpose(0, 1)?.contiguous();
        let k = head_major(self.turned(k)?)?;
        let v = head_major(rounded(v, self.dtype)?)?;
        let grown = match &self.layers[layer] {
            None => Layer { k, v },
            Some(cached) => Layer {
                k: Tensor::cat(&[&cached.k, &k], 1)?,
                v: Tensor::cat(&[&cached.v, &v], 1)?,
            },
        };
        self.layers[layer] = Some(grown);
        Ok(())
    }

    /// Attends from `q`, `[tokens, num_q_heads, head_dim]`, the vectors of the last tokens appended.
    pub fn attend_over(&self, layer: usize, q: &Tensor) -> Result<Tensor> {
        let cached = self.layers[layer]
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("layer {layer} has no K and V to attend over"))?;
        Ok(causal_attention(&self.turned(q)?, &cached.k, &cached.v)?)
    }

    /// This step's q or k, `[tokens, heads, head_dim]`, as the kernels have it: rounded when it is handed to them,
    /// turned in f32, and rounded again.
    fn turned(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let turn = self.rope.turn(self.seq_len, x.dim(0)?)?;
        rounded(&turn.apply(&rounded(x, self.dtype)?)?, self.dtype)
    }
}

impl Attention for CandleAttention {
    fn seq_len(&self) -> usize {
        self.seq_len
    }

    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.append(layer, k, v)?;
        self.attend_over(layer, q)
    }

    fn advance(&mut self, new_tokens: usize) -> Result<()> {
        self.seq_len += new_tokens;
        Ok(())
    }
}

/// Softmax attention of the last tokens of a sequence over all of it, scale 1/√head_dim.
///
/// `q` is `[tokens, num_q_heads, head_dim]`, `k` and `v` are `[num_kv_heads, seq_len, head_dim]`; a group of
/// consecutive query heads shares a KV head. Returns `[tokens, num_q_heads, head_dim]`.
fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    let (tokens, num_q_heads, head_dim) = q.dims3()?;
    let (num_kv_heads, seq_len, _) = k.dims3()?;
    let group_size = num_q_heads / num_kv_heads;

    // A KV head's whole group, and all its tokens, in one product: [num_kv_heads, group_size * tokens, head_dim].
    let q = (q.transpose(0, 1)?.contiguous()? / (head_dim as f64).sqrt())?;
    let q = q.reshape((num_kv_heads, group_size * tokens, head_dim))?;
    let scores = q.matmul(&k.t()?)?;
    let scores = scores
        .reshape((num_q_heads, tokens, seq_len))?
        .broadcast_add(&causal_mask(tokens, seq_len)?)?;
    let weights = softmax(&scores)?.reshape((num_kv_heads, group_size * tokens, seq_len))?;
    let out = weights.matmul(v)?;
    out.reshape((num_q_heads, tokens, head_dim))?
        .transpose(0, 1)?
        .contiguous()
}

/// 0 where the last `tokens` tokens of a sequence may look, −inf after each one: `[tokens, seq_len]`.
fn causal_mask(tokens: usize, seq_len: usize) -> candle_core::Result<Tensor> {
    let cached = seq_len - tokens;
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|row| {
            (0..seq_len).map(move |column| {
                if column <= cached + row {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
        })
        .collect();
    Tensor::from_vec(mask, (tokens, seq_len), &Device::Cpu)
}

fn softmax(scores: &Tensor) -> candle_core::Result<Tensor> {
    let weights = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
        .exp()?;
    weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
}

/// `x` as a cache of `dtype` keeps it: rounded to that precision, in f32 again.
fn rounded(x: &Tensor, dtype: DType) -> candle_core::Result<Tensor> {
    x.to_dtype(dtype)?.to_dtype(DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TINY;

    /// The worked example of three tokens, one head of 4: q = k = v = x.
    const X: [[f32; 4]; 3] = [
        [1.0, 0.5, 0.2, 0.1],
        [0.5, 1.0, 0.3, 0.2],
        [0.3, 0.8, 1.0, 0.4],
    ];

    fn close(got: &Tensor, expected: &[f32], tolerance: f32) {
        let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= tolerance, "{got} for {expected}");
        }
    }

    #[test]
    fn the_last_token_attends_over_all() {
        let x = Tensor::new(&X, &Device::Cpu).unwrap();
        let (q, kv) = (
            x.narrow(0, 2, 1).unwrap().unsqueeze(1).unwrap(),
            x.unsqueeze(0).unwrap(),
        );
        let out = causal_attention(&q, &kv, &kv).unwrap();
        close(&out, &[0.54666, 0.785108, 0.568251, 0.257961], 1e-5);
    }

    #[test]
    fn a_prompt_is_its_tokens_one_by_one() {
        let tokens = 5;
        let random =
            |heads| Tensor::randn(0f32, 1.0, (tokens, heads, TINY.head_dim), &Device::Cpu).unwrap();
        let (q, k, v) = (
            random(TINY.num_q_heads),
            random(TINY.num_kv_heads),
            random(TINY.num_kv_heads),
        );
        let mut whole = CandleAttention::new(&TINY, DType::F16);
        let mut stepwise = CandleAttention::new(&TINY, DType::F16);
        for layer in 0..TINY.num_layers {
            whole.attend(layer, &q, &k, &v).unwrap();
        }
        let all = whole.attend_over(1, &q).unwrap();
        for t in 0..tokens {
            let one = |x: &Tensor| x.narrow(0, t, 1).unwrap();
            for layer in 0..TINY.num_layers {
                let out = stepwise
                    .attend(layer, &one(&q), &one(&k), &one(&v))
                    .unwrap();
                let expected: Vec<f32> = one(&all).flatten_all().unwrap().to_vec1().unwrap();
                close(&out, &expected, 1e-5);
            }
            stepwise.advance(1).unwrap();
        }
        assert_eq!(stepwise.seq_len(), tokens);
    }

    #[test]
    fn a_group_shares_its_kv_head() {
        // Head h of V is h everywhere, so that the output tells which KV head a query head read.
        let q = Tensor::zeros((1, 6, 4), DType::F32, &Device::Cpu).unwrap();
        let k = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap();
        let v = Tensor::new(&[0f32, 1.0], &Device::Cpu)
            .and_then(|v| v.reshape((2, 1, 1))?.broadcast_as((2, 3, 4))?.contiguous())
            .unwrap();
        let out = causal_attention(&q, &k, &v).unwrap();
        let first: Vec<f32> = out
            .narrow(2, 0, 1)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(first, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn the_cache_rounds_as_its_dtype_does() {
        let x = Tensor::new(&[1.0f32 + 1.0 / 512.0], &Device::Cpu).unwrap();
        let as_dtype = |dtype| rounded(&x, dtype).unwrap().to_vec1::<f32>().unwrap()[0];
        assert_eq!(as_dtype(DType::F16), 1.0 + 1.0 / 512.0);
        assert_eq!(as_dtype(DType::BF16), 1.0);
    }
}

//! Attention as a few tensor operations of candle's, in f32: the oracle the kernels are held against.

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor};

use super::{Attention, rounded};

/// K and V of each layer as candle tensors, rounded to the precision of the cache they stand beside.
#[derive(Debug)]
pub struct CandleAttention {
    layers: Vec<Option<Layer>>,
    dtype: DType,
    seq_len: usize,
}

/// `[num_kv_heads, tokens, head_dim]`, f32.
#[derive(Debug, Clone)]
struct Layer {
    k: Tensor,
    v: Tensor,
}

impl CandleAttention {
    /// An empty cache of `num_layers` layers whose K and V are rounded to `dtype`.
    pub fn new(num_layers: usize, dtype: DType) -> Self {
        CandleAttention {
            layers: vec![None; num_layers],
            dtype,
            seq_len: 0,
        }
    }

    /// Puts `k` and `v`, `[tokens, num_kv_heads, head_dim]`, behind those cached of this layer.
    pub fn append(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let head_major = |x: &Tensor| rounded(&x.transpose(0, 1)?.contiguous()?, self.dtype);
        let (k, v) = (head_major(k)?, head_major(v)?);
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
        Ok(causal_attention(
            &rounded(q, self.dtype)?,
            &cached.k,
            &cached.v,
        )?)
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
pub fn causal_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of three tokens, one head of 4: q = k = v = x.
    const X: [[f32; 4]; 3] = [
        [1.0, 0.5, 0.2, 0.1],
        [0.5, 1.0, 0.3, 0.2],
        [0.3, 0.8, 1.0, 0.4],
    ];

    fn token(index: usize) -> Tensor {
        Tensor::new(&X[index], &Device::Cpu)
            .and_then(|x| x.reshape((1, 1, 4)))
            .unwrap()
    }

    fn close(got: &Tensor, expected: &[f32], tolerance: f32) {
        let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= tolerance, "{got} for {expected}");
        }
    }

    #[test]
    fn a_token_attends_over_the_cache() {
        let mut attention = CandleAttention::new(1, DType::F32);
        for index in 0..2 {
            let x = token(index);
            attention.attend(0, &x, &x, &x).unwrap();
            attention.advance(1).unwrap();
        }
        assert_eq!(attention.seq_len(), 2);
        let x = token(2);
        let out = attention.attend(0, &x, &x, &x).unwrap();
        close(&out, &[0.54666, 0.785108, 0.568251, 0.257961], 1e-5);
    }

    #[test]
    fn a_prompt_is_its_tokens_one_by_one() {
        let (layers, heads, kv_heads, head_dim, tokens) = (2, 6, 2, 8, 5);
        let random = |heads| Tensor::randn(0f32, 1.0, (tokens, heads, head_dim), &Device::Cpu);
        let (q, k, v) = (
            random(heads).unwrap(),
            random(kv_heads).unwrap(),
            random(kv_heads).unwrap(),
        );
        let mut whole = CandleAttention::new(layers, DType::F16);
        let mut stepwise = CandleAttention::new(layers, DType::F16);
        for layer in 0..layers {
            whole.attend(layer, &q, &k, &v).unwrap();
        }
        let all = whole.attend_over(1, &q).unwrap();
        for t in 0..tokens {
            let one = |x: &Tensor| x.narrow(0, t, 1).unwrap();
            for layer in 0..layers {
                let out = stepwise
                    .attend(layer, &one(&q), &one(&k), &one(&v))
                    .unwrap();
                let expected: Vec<f32> = one(&all).flatten_all().unwrap().to_vec1().unwrap();
                close(&out, &expected, 1e-5);
            }
            stepwise.advance(1).unwrap();
        }
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

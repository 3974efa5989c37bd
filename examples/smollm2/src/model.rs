//! A llama-shaped transformer from a GGUF file: everything but RoPE and attention, which the caller brings.

use std::io::{Read, Seek};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{D, Device, Tensor};

use crate::attention::Attention;
use crate::rope::Rope;

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Transformer layers, each with a cache of its own.
    pub num_layers: usize,
    /// Query heads.
    pub num_q_heads: usize,
    /// Heads of K and V.
    pub num_kv_heads: usize,
    /// Elements of a head's vector.
    pub head_dim: usize,
    /// Tokens the model was trained to see at once.
    pub context_length: usize,
    /// Base of the rotary embedding's frequencies.
    pub rope_base: f64,
    /// Added to the mean square before its root is taken.
    pub rms_epsilon: f32,
}

impl Config {
    /// Reads the sizes from a GGUF file's metadata.
    pub fn from_gguf(gguf: &Content) -> Result<Self> {
        let architecture = entry(gguf, "general.architecture")?.to_string()?;
        ensure!(
            architecture == "llama",
            "general.architecture is {architecture:?}: this example runs \"llama\""
        );
        let size = |name: &str| -> Result<usize> { Ok(entry(gguf, name)?.to_u32()? as usize) };
        let num_q_heads = size("llama.attention.head_count")?;
        let embedding_length = size("llama.embedding_length")?;
        ensure!(
            num_q_heads > 0 && embedding_length.is_multiple_of(num_q_heads),
            "llama.embedding_length is {embedding_length}: not a multiple of the {num_q_heads} heads"
        );
        let head_dim = embedding_length / num_q_heads;
        let rope_dim = size("llama.rope.dimension_count")?;
        ensure!(
            rope_dim == head_dim,
            "llama.rope.dimension_count is {rope_dim}: this example turns whole heads, {head_dim}"
        );
        Ok(Config {
            num_layers: size("llama.block_count")?,
            num_q_heads,
            num_kv_heads: size("llama.attention.head_count_kv")?,
            head_dim,
            context_length: size("llama.context_length")?,
            rope_base: entry(gguf, "llama.rope.freq_base")?.to_f32()?.into(),
            rms_epsilon: entry(gguf, "llama.attention.layer_norm_rms_epsilon")?.to_f32()?,
        })
    }

    /// RoPE as this model turns by it.
    pub fn rope(&self) -> Rope {
        Rope::new(self.head_dim, self.rope_base)
    }
}

impl std::fmt::Display for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Config {
            num_layers,
            num_q_heads,
            num_kv_heads,
            head_dim,
            ..
        } = self;
        write!(
            f,
            "{num_layers} layers of {num_q_heads} query heads on {num_kv_heads} KV heads, head_dim {head_dim}"
        )
    }
}

/// The metadata under `name`.
pub fn entry<'a>(gguf: &'a Content, name: &str) -> Result<&'a Value> {
    gguf.metadata
        .get(name)
        .with_context(|| format!("the model file has no {name}"))
}

/// Weights, and the forward pass over them.
pub struct Model {
    config: Config,
    /// `[vocabulary, elements]`, both ends of the model: rows are the tokens' embeddings, the products with them the
    /// logits.
    embedding: Tensor,
    layers: Vec<Layer>,
    output_norm: RmsNorm,
}

struct Layer {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    output: Linear,
    ffn_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Model {
    /// Loads the weights `gguf` describes out of `file`.
    pub fn load<R: Read + Seek>(gguf: &Content, file: &mut R) -> Result<Self> {
        let config = Config::from_gguf(gguf)?;
        if gguf.tensor_infos.contains_key("output.weight") {
            bail!(
                "the model has an output.weight: this example runs those that share the embedding"
            );
        }
        let mut tensor = |name: &str| -> Result<QTensor> {
            gguf.tensor(file, name, &Device::Cpu)
                .with_context(|| format!("reading {name}"))
        };
        let norm = |weight: QTensor| -> Result<RmsNorm> {
            Ok(RmsNorm {
                weight: weight.dequantize(&Device::Cpu)?,
                epsilon: config.rms_epsilon.into(),
            })
        };
        let layers = (0..config.num_layers)
            .map(|layer| {
                let mut part = |name: &str| tensor(&format!("blk.{layer}.{name}.weight"));
                Ok(Layer {
                    attention_norm: norm(part("attn_norm")?)?,
                    q: Linear::new(part("attn_q")?)?,
                    k: Linear::new(part("attn_k")?)?,
                    v: Linear::new(part("attn_v")?)?,
                    output: Linear::new(part("attn_output")?)?,
                    ffn_norm: norm(part("ffn_norm")?)?,
                    gate: Linear::new(part("ffn_gate")?)?,
                    up: Linear::new(part("ffn_up")?)?,
                    down: Linear::new(part("ffn_down")?)?,
                })
            })
            .collect::<Result<Vec<Layer>>>()?;
        Ok(Model {
            embedding: tensor("token_embd.weight")?.dequantize(&Device::Cpu)?,
            layers,
            output_norm: norm(tensor("output_norm.weight")?)?,
            config,
        })
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// One step: the `new` tokens, at least one, behind those `attention` has cached. Returns the logits of the token
    /// after the last of them, one a word of the vocabulary.
    ///
    /// # Errors
    /// Where there are no tokens or the text is longer than the model sees, and those of `attention`.
    pub fn forward(&self, new: &[u32], attention: &mut impl Attention) -> Result<Vec<f32>> {
        let tokens = new.len();
        self.check_room(attention.seq_len(), tokens)?;
        let mut x = self.embed(new)?;
        for layer in 0..self.config.num_layers {
            x = self.layer(layer, &x, attention)?;
        }
        attention.advance(tokens)?;
        let last = x.narrow(0, tokens - 1, 1)?;
        Ok(self.logits(&last)?.flatten_all()?.to_vec1()?)
    }

    /// Whether a step of `new` tokens fits behind `cached` ones.
    ///
    /// # Errors
    /// Where there are none, or the text is longer than the model sees.
    pub fn check_room(&self, cached: usize, new: usize) -> Result<()> {
        ensure!(new > 0, "a step needs at least one token");
        let length = cached + new;
        ensure!(
            length <= self.config.context_length,
            "the text is {length} tokens long: the model sees {}",
            self.config.context_length
        );
        Ok(())
    }

    /// What enters the first layer: `[tokens, elements]`.
    ///
    /// # Errors
    /// Where a token is not in the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        Ok(self.embedding.index_select(&tokens, 0)?)
    }

    /// A layer of the step: `x`, `[tokens, elements]`, is what entered it. Returns what enters the next.
    ///
    /// # Errors
    /// Those of `attention`.
    pub fn layer(
        &self,
        index: usize,
        x: &Tensor,
        attention: &mut (impl Attention + ?Sized),
    ) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        let heads = |x: Tensor, heads| x.reshape((tokens, heads, self.config.head_dim));
        let layer = &self.layers[index];
        let h = layer.attention_norm.forward(x)?;
        let q = heads(layer.q.forward(&h)?, self.config.num_q_heads)?;
        let k = heads(layer.k.forward(&h)?, self.config.num_kv_heads)?;
        let v = heads(layer.v.forward(&h)?, self.config.num_kv_heads)?;
        let attended = attention.attend(index, &q, &k, &v)?.reshape((tokens, ()))?;
        let x = (x + layer.output.forward(&attended)?)?;

        let h = layer.ffn_norm.forward(&x)?;
        let gated = (layer.gate.forward(&h)?.silu()? * layer.up.forward(&h)?)?;
        Ok((&x + layer.down.forward(&gated)?)?)
    }

    /// The logits of the tokens after those that left the last layer as `x`, `[tokens, elements]`: `[tokens,
    /// vocabulary]`.
    ///
    /// # Errors
    /// candle's.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.output_norm.forward(x)?;
        Ok(x.matmul(&self.embedding.t()?)?)
    }
}

/// A projection, its weights unpacked. candle's product over packed Q4_1 takes 8 times as long on a prompt and not much
/// less on a single token; and it rounds what it multiplies to 8 bits, in whose noise the difference between two
/// attentions would be lost.
struct Linear {
    /// `[inputs, outputs]`, contiguous.
    weight: Tensor,
}

impl Linear {
    fn new(weight: QTensor) -> Result<Self> {
        let weight = weight.dequantize(&Device::Cpu)?.t()?.contiguous()?;
        Ok(Linear { weight })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)
    }
}

struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
}

impl RmsNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(mean_square + self.epsilon)?.sqrt()?)?
            .broadcast_mul(&self.weight)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::attention::CandleAttention;
    use crate::testing::{self, TINY};

    const TEXT: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];

    #[test]
    fn sizes_come_from_the_file() {
        assert_eq!(testing::tiny_model().config(), &TINY);
    }

    #[test]
    fn other_architectures_are_refused() {
        let error = testing::tiny_gguf(&[("general.architecture", Value::String("mamba".into()))])
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "general.architecture is \"mamba\": this example runs \"llama\""
        );
    }

    #[test]
    fn a_cache_changes_nothing() {
        let model = testing::tiny_model();
        let mut cached = CandleAttention::new(&TINY, DType::F16);
        model.forward(&TEXT[..3], &mut cached).unwrap();
        for end in 4..=TEXT.len() {
            let step = model.forward(&TEXT[end - 1..end], &mut cached).unwrap();
            let mut fresh = CandleAttention::new(&TINY, DType::F16);
            let whole = model.forward(&TEXT[..end], &mut fresh).unwrap();
            testing::assert_close(&step, &whole, 1e-4);
        }
        assert_eq!(cached.seq_len(), TEXT.len());
    }

    #[test]
    fn the_order_of_tokens_matters() {
        let model = testing::tiny_model();
        let logits = |tokens: &[u32]| {
            let mut attention = CandleAttention::new(&TINY, DType::F16);
            model.forward(tokens, &mut attention).unwrap()
        };
        let (a, b) = (logits(&[1, 2, 3]), logits(&[2, 1, 3]));
        assert!(testing::max_difference(&a, &b) > 1e-3);
    }

    #[test]
    fn too_long_a_text_is_refused() {
        let model = testing::tiny_model();
        let mut attention = CandleAttention::new(&TINY, DType::F16);
        let error = model
            .forward(&vec![0; TINY.context_length + 1], &mut attention)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the text is 65 tokens long: the model sees 64"
        );
        assert!(model.forward(&[], &mut attention).is_err());
    }
}

//! The model over a text, with several caches at once.
//!
//! The text is known from the start, so a layer takes all of its tokens before the next one begins: its projections are
//! one product each, and its attention a launch of the fused step for every 8 tokens, in their order. Each token thus
//! attends to all before it, and to itself, as the cache has stored them, as when text is generated. Caches go through
//! a layer one after another, so that what the first one's attention gave is at hand to hold the others' against.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use smollm2::attention::{Attention, CacheStorage, KernelAttention};
use smollm2::model::Model;
use smollm2::progress::Progress;
use smollm2::rope::Turn;

use crate::measure::{Cosines, Noise, Predictions};

/// Positions whose logits are held at once.
const LOGITS_AT_ONCE: usize = 128;

/// An attention whose caches can be looked into.
pub trait Cached: Attention {
    /// K, turned, and V of a layer's first `tokens` tokens as the cache has them, each `[tokens, num_kv_heads,
    /// head_dim]`.
    fn stored(&self, layer: usize, tokens: usize) -> Result<[Tensor; 2]>;

    /// Bytes of all layers' caches, scales included.
    fn bytes(&self) -> usize;
}

impl<S: CacheStorage> Cached for KernelAttention<S> {
    fn stored(&self, layer: usize, tokens: usize) -> Result<[Tensor; 2]> {
        KernelAttention::stored(self, layer, tokens)
    }

    fn bytes(&self) -> usize {
        KernelAttention::bytes(self)
    }
}

/// A cache to be measured.
pub struct Candidate {
    /// What it is called.
    pub name: &'static str,
    /// Attention over it, empty.
    pub attention: Box<dyn Cached>,
}

/// What came of one.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What it is called.
    pub name: &'static str,
    /// Bytes of all layers' caches, scales included.
    pub bytes: usize,
    /// What it foresaw.
    pub predictions: Predictions,
    /// Of each layer.
    pub layers: Vec<LayerMeasures>,
}

/// What one layer of a cache is like.
#[derive(Debug, Clone, Copy)]
pub struct LayerMeasures {
    /// Between what attention gives for each token and query head and what it gave in the first candidate's run, each
    /// run on its own way through the layers before.
    pub outputs: Cosines,
    /// Of K as it is stored, against K as this run's layer computed it, turned in f32.
    pub k: Noise,
    /// Of V, likewise.
    pub v: Noise,
}

/// The way of one candidate through the layers.
struct Run {
    candidate: Candidate,
    x: Tensor,
    layers: Vec<LayerMeasures>,
}

/// Runs `model` over `tokens` with each of the `candidates`; the first of them is what the others are held against.
///
/// # Errors
/// Where there are no two tokens or more than the model sees, and those of the attentions.
pub fn measure(model: &Model, tokens: &[u32], candidates: Vec<Candidate>) -> Result<Vec<Measured>> {
    ensure!(
        tokens.len() >= 2,
        "{} tokens: a prediction takes two",
        tokens.len()
    );
    model.check_room(0, tokens.len())?;
    let turn = model.config().rope().turn(0, tokens.len())?;
    let embedded = model.embed(tokens)?;
    let mut runs: Vec<Run> = candidates
        .into_iter()
        .map(|candidate| Run {
            candidate,
            x: embedded.clone(),
            layers: Vec::new(),
        })
        .collect();
    let num_layers = model.config().num_layers;
    let mut progress = Progress::new("all caches", "layers", num_layers);
    for layer in 0..num_layers {
        let mut expected = None;
        for run in &mut runs {
            let outputs = run.layer(model, layer, &turn, expected.as_deref())?;
            expected.get_or_insert(outputs);
        }
        progress.advance("")?;
    }
    progress.finish();
    runs.into_iter()
        .map(|run| run.finish(model, tokens))
        .collect()
}

impl Run {
    /// Takes all tokens through a layer. Returns what its attention gave.
    fn layer(
        &mut self,
        model: &Model,
        layer: usize,
        turn: &Turn,
        expected: Option<&[f32]>,
    ) -> Result<Vec<f32>> {
        let mut watched = Watched {
            attention: &mut *self.candidate.attention,
            seen: None,
        };
        self.x = model.layer(layer, &self.x, &mut watched)?;
        let Some(Seen { k, v, outputs }) = watched.seen else {
            anyhow::bail!("layer {layer} has not attended");
        };
        let head_dim = outputs.dim(2)?;
        let tokens = outputs.dim(0)?;
        let [stored_k, stored_v] = self.candidate.attention.stored(layer, tokens)?;
        let outputs = elements(&outputs)?;
        self.layers.push(LayerMeasures {
            outputs: Cosines::of(&outputs, expected.unwrap_or(&outputs), head_dim),
            k: Noise::of(&elements(&stored_k)?, &elements(&turn.apply(&k)?)?),
            v: Noise::of(&elements(&stored_v)?, &elements(&v)?),
        });
        Ok(outputs)
    }

    /// Ends the step, and predicts each token from those before it.
    fn finish(mut self, model: &Model, tokens: &[u32]) -> Result<Measured> {
        self.candidate.attention.advance(tokens.len())?;
        let mut predictions = Predictions::default();
        let predicted = tokens.len() - 1;
        for first in (0..predicted).step_by(LOGITS_AT_ONCE) {
            let count = LOGITS_AT_ONCE.min(predicted - first);
            let logits = model.logits(&self.x.narrow(0, first, count)?)?;
            let vocabulary = logits.dim(1)?;
            let came = &tokens[first + 1..];
            for (logits, &came) in elements(&logits)?.chunks_exact(vocabulary).zip(came) {
                predictions.add(logits, came);
            }
        }
        Ok(Measured {
            name: self.candidate.name,
            bytes: self.candidate.attention.bytes(),
            predictions,
            layers: self.layers,
        })
    }
}

/// An attention, and what went through it.
struct Watched<'a> {
    attention: &'a mut dyn Cached,
    seen: Option<Seen>,
}

/// New vectors of a layer and what attention gave: `[tokens, heads, head_dim]`.
struct Seen {
    k: Tensor,
    v: Tensor,
    outputs: Tensor,
}

impl Attention for Watched<'_> {
    fn seq_len(&self) -> usize {
        self.attention.seq_len()
    }

    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let outputs = self.attention.attend(layer, q, k, v)?;
        self.seen = Some(Seen {
            k: k.clone(),
            v: v.clone(),
            outputs: outputs.clone(),
        });
        Ok(outputs)
    }

    fn advance(&mut self, new_tokens: usize) -> Result<()> {
        self.attention.advance(new_tokens)
    }
}

fn elements(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
pub mod tests {
    use candle_core::DType;
    use half::{bf16, f16};
    use kv_kernels::CacheShape;
    use kv_kernels::reference::F8E4M3;
    use smollm2::attention::CandleAttention;
    use smollm2::device;
    use smollm2::testing::{TINY, tiny_model};

    use super::*;

    /// Measures of one layer made up: two predictions, right in `right` of them; outputs, K and V off by `error`.
    pub fn made_up(name: &'static str, right: usize, error: f32) -> Measured {
        let mut predictions = Predictions::default();
        for position in 0..2 {
            let likely = usize::from(position < right);
            let mut logits = [0.0; 2];
            logits[likely] = 3f32.ln();
            predictions.add(&logits, 1);
        }
        let exact = [1.0, 0.0];
        let noise = Noise::of(&[1.0 + error, 0.0], &exact);
        Measured {
            name,
            bytes: 1000,
            predictions,
            layers: vec![LayerMeasures {
                outputs: Cosines::of(&[1.0, error], &exact, 2),
                k: noise,
                v: noise,
            }],
        }
    }

    fn candidate<S: CacheStorage>(name: &'static str) -> Candidate {
        let shape = CacheShape {
            batch: 1,
            num_kv_heads: TINY.num_kv_heads,
            max_seq_len: TINY.context_length,
            head_dim: TINY.head_dim,
        };
        let context = device::open().unwrap().context;
        let attention = KernelAttention::<S>::new(&context, &TINY, shape).unwrap();
        Candidate {
            name,
            attention: Box::new(attention.by_steps()),
        }
    }

    /// One of 32 words after another, in no order.
    fn text() -> Vec<u32> {
        (0..27).map(|i| i * i * 7 % 31).collect()
    }

    #[test]
    fn a_layer_at_a_time_is_a_token_at_a_time() {
        let model = tiny_model();
        let text = text();
        let candidates = vec![candidate::<f16>("one"), candidate::<f16>("same")];
        let measured = measure(&model, &text, candidates).unwrap();

        let mut expected = Predictions::default();
        let mut oracle = CandleAttention::new(&TINY, DType::F16);
        for pair in text.windows(2) {
            let logits = model.forward(&pair[..1], &mut oracle).unwrap();
            expected.add(&logits, pair[1]);
        }
        for one in &measured {
            let ratio = one.predictions.perplexity() / expected.perplexity();
            assert!((ratio - 1.0).abs() < 1e-3, "{}: {ratio}", one.name);
            assert_eq!(one.predictions.agreeing(&expected), text.len() - 1);
            assert_eq!(one.layers.len(), TINY.num_layers);
        }
        assert_eq!(measured[0].predictions, measured[1].predictions);
        assert!(
            measured[1]
                .layers
                .iter()
                .all(|layer| layer.outputs.worst > 1.0 - 1e-12)
        );
    }

    #[test]
    fn fewer_bits_are_more_noise() {
        let candidates = vec![
            candidate::<f16>("f16"),
            candidate::<bf16>("bf16"),
            candidate::<i8>("int8"),
            candidate::<F8E4M3>("fp8"),
        ];
        let measured = measure(&tiny_model(), &text(), candidates).unwrap();
        for layer in 0..TINY.num_layers {
            let [f16, bf16, int8, fp8] = [0, 1, 2, 3].map(|one| measured[one].layers[layer]);
            // Three bits of mantissa, 6 dB each.
            for (f16, bf16) in [(f16.k, bf16.k), (f16.v, bf16.v)] {
                let gain = f16.decibels() - bf16.decibels();
                assert!((16.0..20.0).contains(&gain), "{gain} dB");
            }
            // Uniform steps of 1/127 of a vector's largest element; three bits of mantissa.
            for (int8, fp8) in [(int8.k, fp8.k), (int8.v, fp8.v)] {
                assert!(
                    (38.0..46.0).contains(&int8.decibels()),
                    "{} dB",
                    int8.decibels()
                );
                assert!(
                    (29.0..33.0).contains(&fp8.decibels()),
                    "{} dB",
                    fp8.decibels()
                );
            }
            assert!(f16.outputs.worst > 1.0 - 1e-12);
            let means = [bf16, int8, fp8].map(|one| one.outputs.mean());
            assert!(means.is_sorted_by(|a, b| a > b), "{means:?}");
            assert!(means[2] > 0.99, "{means:?}");
        }
    }

    #[test]
    fn a_text_of_one_token_predicts_nothing() {
        let error = measure(&tiny_model(), &[1], Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "1 tokens: a prediction takes two");
    }
}

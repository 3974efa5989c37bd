//! For tests: a model small enough for them, and the real one where it lies on this machine.

use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;
use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::loaded::Loaded;
use crate::model::{Config, Model};

/// Sizes of the tiny model: two layers, three query heads a KV head, a head dimension the kernels have.
pub const TINY: Config = Config {
    num_layers: 2,
    num_q_heads: 6,
    num_kv_heads: 2,
    head_dim: 64,
    context_length: 64,
    rope_base: 1e4,
    rms_epsilon: 1e-5,
};

const VOCABULARY: usize = 32;
const FFN: usize = 96;

/// The tiny model, its weights drawn from a fixed seed, written as a GGUF file and loaded from it.
pub fn tiny_model() -> Model {
    tiny_gguf(&[]).unwrap()
}

/// The tiny model with some of its metadata replaced.
pub fn tiny_gguf(replaced: &[(&str, Value)]) -> Result<Model> {
    let embedding = TINY.num_q_heads * TINY.head_dim;
    let kv = TINY.num_kv_heads * TINY.head_dim;
    let mut metadata = vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(TINY.num_layers as u32)),
        (
            "llama.attention.head_count",
            Value::U32(TINY.num_q_heads as u32),
        ),
        (
            "llama.attention.head_count_kv",
            Value::U32(TINY.num_kv_heads as u32),
        ),
        ("llama.embedding_length", Value::U32(embedding as u32)),
        (
            "llama.context_length",
            Value::U32(TINY.context_length as u32),
        ),
        (
            "llama.rope.dimension_count",
            Value::U32(TINY.head_dim as u32),
        ),
        ("llama.rope.freq_base", Value::F32(TINY.rope_base as f32)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Value::F32(TINY.rms_epsilon),
        ),
    ];
    metadata.extend(replaced.iter().cloned());

    let mut random = Random(1);
    let mut tensors = Vec::new();
    let mut matrix = |name: String, rows: usize, columns: usize| -> Result<()> {
        // Large enough that attention is far from uniform.
        let scale = 3.0 / (columns as f32).sqrt();
        let values = (0..rows * columns).map(|_| scale * random.next()).collect();
        let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu)?;
        tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32)?));
        Ok(())
    };
    matrix("token_embd.weight".into(), VOCABULARY, embedding)?;
    for layer in 0..TINY.num_layers {
        for (name, rows, columns) in [
            ("attn_q", embedding, embedding),
            ("attn_k", kv, embedding),
            ("attn_v", kv, embedding),
            ("attn_output", embedding, embedding),
            ("ffn_gate", FFN, embedding),
            ("ffn_up", FFN, embedding),
            ("ffn_down", embedding, FFN),
        ] {
            matrix(format!("blk.{layer}.{name}.weight"), rows, columns)?;
        }
    }
    let ones = QTensor::quantize(
        &Tensor::ones(embedding, candle_core::DType::F32, &Device::Cpu)?,
        GgmlDType::F32,
    )?;
    let norms: Vec<String> = (0..TINY.num_layers)
        .flat_map(|layer| {
            ["attn_norm", "ffn_norm"].map(|name| format!("blk.{layer}.{name}.weight"))
        })
        .chain(["output_norm.weight".into()])
        .collect();

    let mut file = Cursor::new(Vec::new());
    let metadata: Vec<(&str, &Value)> = metadata
        .iter()
        .map(|(name, value)| (*name, value))
        .collect();
    let tensors: Vec<(&str, &QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .chain(norms.iter().map(|name| (name.as_str(), &ones)))
        .collect();
    gguf_file::write(&mut file, &metadata, &tensors)?;
    file.set_position(0);
    Model::load(&Content::read(&mut file)?, &mut file)
}

/// A linear congruential generator: the same numbers everywhere, between −1 and 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// The largest difference between elements.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// Fails unless every element is within `tolerance` of its counterpart.
pub fn assert_close(got: &[f32], expected: &[f32], tolerance: f32) {
    let difference = max_difference(got, expected);
    assert!(difference <= tolerance, "{difference} apart");
}

/// The real model, for tests of what only it can show. Says so on stderr where it is absent: `cargo xtask demo`
/// fetches it.
pub fn real_model() -> Option<&'static Loaded> {
    static MODEL: OnceLock<Option<Loaded>> = OnceLock::new();
    let model = MODEL.get_or_init(|| Some(Loaded::from_file(&real_file()?).unwrap()));
    model.as_ref()
}

/// The real model's metadata.
pub fn real_gguf() -> Option<Content> {
    let mut file = File::open(real_file()?).unwrap();
    Some(Content::read(&mut file).unwrap())
}

fn real_file() -> Option<PathBuf> {
    let found = crate::model_file::find(std::env::var_os("KV_MODEL").map(PathBuf::from));
    found
        .inspect_err(|error| eprintln!("skipped: {error}"))
        .ok()
}

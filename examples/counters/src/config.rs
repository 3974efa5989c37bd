//! One configuration of a launch.

use std::fmt;
use std::str::FromStr;

use kv_kernels::{CacheShape, Dtype};

/// What is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Attention of one new token a sequence, which is in the cache already.
    Decode,
    /// The new token's K and V into the cache.
    Append,
    /// RoPE and both in one launch: what a layer does in a decode step.
    Step,
    /// K of the whole cache to int8.
    Quantize,
    /// The same, divided by channel scales first.
    QuantizeChannels,
    /// K of the whole cache to fp8.
    QuantizeFp8,
    /// The whole cache's K back from int8.
    Dequantize,
    /// The same from fp8.
    DequantizeFp8,
    /// Channel scales from K of the whole cache.
    Calibrate,
    /// Ranges of K of the whole cache.
    Statistics,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Operation; 10] = [
        Operation::Decode,
        Operation::Append,
        Operation::Step,
        Operation::Quantize,
        Operation::QuantizeChannels,
        Operation::QuantizeFp8,
        Operation::Dequantize,
        Operation::DequantizeFp8,
        Operation::Calibrate,
        Operation::Statistics,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Decode => "decode",
            Operation::Append => "append",
            Operation::Step => "step",
            Operation::Quantize => "quantize",
            Operation::QuantizeChannels => "quantize-channels",
            Operation::QuantizeFp8 => "quantize-fp8",
            Operation::Dequantize => "dequantize",
            Operation::DequantizeFp8 => "dequantize-fp8",
            Operation::Calibrate => "calibrate",
            Operation::Statistics => "statistics",
        }
    }

    /// Whether it is on the whole of K, of 16 bits an element.
    pub fn converts(self) -> bool {
        !self.attends() && self != Operation::Append
    }

    /// Whether it attends, for which there are groups of query heads and splits.
    pub fn attends(self) -> bool {
        matches!(self, Operation::Decode | Operation::Step)
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Operation::ALL.into_iter().find(|op| op.name() == word);
        known.ok_or_else(|| {
            let names = Operation::ALL.map(Operation::name);
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// How the tokens of a sequence are shared out over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Splits {
    /// As many splits as the plan for the device has.
    Planned,
    /// So many.
    Fixed(usize),
}

impl FromStr for Splits {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match (word, word.parse()) {
            ("planned", _) => Ok(Splits::Planned),
            (_, Ok(number)) if number > 0 => Ok(Splits::Fixed(number)),
            _ => Err("expected `planned` or a number from 1 on".into()),
        }
    }
}

/// A configuration: everything that decides what is launched, besides the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// What is launched.
    pub op: Operation,
    /// What the cache stores: queries and output are of the same type, or fp16 where it is a byte.
    pub dtype: Dtype,
    /// Elements of a vector.
    pub head_dim: usize,
    /// Query heads that share a KV head.
    pub group_size: usize,
    /// KV heads.
    pub num_kv_heads: usize,
    /// Sequences.
    pub batch: usize,
    /// Tokens that each sequence attends to or has converted, the new one included: as many as its cache has room for.
    pub seq_len: usize,
    /// Splits of each sequence.
    pub num_splits: Splits,
}

impl Config {
    /// Query heads.
    pub fn num_q_heads(&self) -> usize {
        self.num_kv_heads * self.group_size
    }

    /// The cache.
    pub fn shape(&self) -> CacheShape {
        CacheShape {
            batch: self.batch,
            num_kv_heads: self.num_kv_heads,
            max_seq_len: self.seq_len,
            head_dim: self.head_dim,
        }
    }

    /// Bytes of a vector of K or V, its scale included where it has one.
    fn vector_bytes(&self) -> u64 {
        let scale = if self.dtype.is_scaled() { 4 } else { 0 };
        (self.head_dim * self.dtype.size() + scale) as u64
    }

    /// Bytes of K, V and scales of the tokens worked on, once: those attended to, or those appended. Of operations on the
    /// whole of K, what they read and write.
    pub fn kv_bytes(&self) -> u64 {
        let vectors = |tokens: usize| (self.batch * self.num_kv_heads * tokens) as u64;
        let stored_vector = (self.head_dim + size_of::<f32>()) as u64;
        match self.op {
            Operation::Append => 2 * vectors(1) * self.vector_bytes(),
            Operation::Decode | Operation::Step => 2 * vectors(self.seq_len) * self.vector_bytes(),
            Operation::Quantize
            | Operation::QuantizeChannels
            | Operation::QuantizeFp8
            | Operation::Dequantize
            | Operation::DequantizeFp8 => {
                vectors(self.seq_len) * (self.vector_bytes() + stored_vector)
            }
            Operation::Calibrate | Operation::Statistics => {
                vectors(self.seq_len) * self.vector_bytes()
            }
        }
    }

    /// Bytes of the queries.
    pub fn q_bytes(&self) -> u64 {
        if !self.op.attends() {
            return 0;
        }
        // 16 bits an element, whatever the cache stores.
        2 * (self.batch * self.num_q_heads() * self.head_dim) as u64
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            op,
            dtype,
            head_dim,
            group_size,
            num_kv_heads,
            batch,
            seq_len,
            num_splits,
        } = self;
        let splits = match num_splits {
            Splits::Planned => "planned splits".to_string(),
            Splits::Fixed(1) => "1 split".to_string(),
            Splits::Fixed(number) => format!("{number} splits"),
        };
        write!(
            f,
            "{} {dtype}, head_dim {head_dim}, group_size {group_size}, num_kv_heads {num_kv_heads}, batch {batch}, \
             seq_len {seq_len}, {splits}",
            op.name()
        )
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A configuration for the tests of other parts.
    pub const CONFIG: Config = Config {
        op: Operation::Decode,
        dtype: Dtype::F16,
        head_dim: 128,
        group_size: 4,
        num_kv_heads: 8,
        batch: 2,
        seq_len: 1000,
        num_splits: Splits::Fixed(1),
    };

    #[test]
    fn bytes_of_a_configuration() {
        // 2 sequences, 8 heads, 1000 tokens of 256 bytes, K and V.
        assert_eq!(CONFIG.kv_bytes(), 2 * 2 * 8 * 1000 * 256);
        assert_eq!(CONFIG.q_bytes(), 2 * 32 * 256);
        let append = Config {
            op: Operation::Append,
            ..CONFIG
        };
        assert_eq!((append.kv_bytes(), append.q_bytes()), (2 * 2 * 8 * 256, 0));
        let of = |op| Config { op, ..CONFIG }.kv_bytes();
        // K alone: 256 bytes a vector on the one side, 128 and a scale on the other.
        assert_eq!(of(Operation::Quantize), 2 * 8 * 1000 * (256 + 132));
        assert_eq!(of(Operation::Statistics), 2 * 8 * 1000 * 256);
        let int8 = Config {
            dtype: Dtype::I8,
            ..CONFIG
        };
        assert_eq!(int8.kv_bytes(), 2 * 2 * 8 * 1000 * (128 + 4));
        assert_eq!(int8.q_bytes(), CONFIG.q_bytes());
    }
}

//! What the benches run: operations on caches of known models' shapes.

use std::fmt;
use std::sync::Arc;

use half::f16;
use kv_kernels::cudarc::driver::{CudaSlice, CudaStream};
use kv_kernels::{
    CacheShape, DecodeShape, Kernels, KvCache, Lengths, NewTokens, Result, Storage, Workspace,
};

/// An operation of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    Append,
    Decode,
    /// Both in one launch.
    Step,
    /// Attention over a cache of int8.
    DecodeInt8,
    /// The step on one.
    StepInt8,
    /// All of K to int8.
    Quantize,
    /// And back.
    Dequantize,
}

impl Op {
    pub const ALL: [Op; 7] = [
        Op::Append,
        Op::Decode,
        Op::Step,
        Op::DecodeInt8,
        Op::StepInt8,
        Op::Quantize,
        Op::Dequantize,
    ];
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Op::Append => "append",
            Op::Decode => "decode",
            Op::Step => "step",
            Op::DecodeInt8 => "decode int8",
            Op::StepInt8 => "step int8",
            Op::Quantize => "quantize",
            Op::Dequantize => "dequantize",
        })
    }
}

/// One layer of a model at one moment: every sequence holds `seq_len` tokens, one is new.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub batch: usize,
    pub seq_len: usize,
    pub num_kv_heads: usize,
    pub group_size: usize,
    pub head_dim: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            batch,
            seq_len,
            num_kv_heads,
            group_size,
            head_dim,
        } = self;
        let text = format!("b{batch} s{seq_len} h{num_kv_heads}x{group_size} d{head_dim}");
        f.pad(&text)
    }
}

/// Heads as in Llama 3 8B (8 × 4, 128), Qwen2.5 14B (8 × 5, 128) and SmolLM2 135M (3 × 3, 64).
pub fn cases(batches_and_lengths: &[(usize, usize)]) -> Vec<Case> {
    let models = [(8, 4, 128), (8, 5, 128), (3, 3, 64)];
    let of_model = |(num_kv_heads, group_size, head_dim)| {
        batches_and_lengths
            .iter()
            .map(move |&(batch, seq_len)| Case {
                batch,
                seq_len,
                num_kv_heads,
                group_size,
                head_dim,
            })
    };
    models.into_iter().flat_map(of_model).collect()
}

impl Case {
    fn shape(&self) -> CacheShape {
        CacheShape {
            batch: self.batch,
            num_kv_heads: self.num_kv_heads,
            max_seq_len: self.seq_len + 1,
            head_dim: self.head_dim,
        }
    }

    fn num_q_heads(&self) -> usize {
        self.num_kv_heads * self.group_size
    }

    /// Bytes of one token's K and V of all sequences, as a model computes them.
    fn token_bytes(&self) -> usize {
        2 * self.batch * self.num_kv_heads * self.head_dim * size_of::<f16>()
    }

    /// The same as an int8 cache stores them.
    fn stored_token_bytes(&self) -> usize {
        2 * self.batch * self.num_kv_heads * (self.head_dim + size_of::<f32>())
    }

    /// Bytes of K, V and scales that an operation attends to.
    pub fn kv_bytes(&self, op: Op) -> usize {
        let of_token = match op {
            Op::DecodeInt8 | Op::StepInt8 => self.stored_token_bytes(),
            _ => self.token_bytes(),
        };
        of_token * (self.seq_len + 1)
    }

    /// The fewest bytes that an operation moves between memory and the GPU, each once.
    pub fn fewest_bytes(&self, op: Op) -> usize {
        let queries = 2 * self.batch * self.num_q_heads() * self.head_dim * size_of::<f16>();
        match op {
            Op::Append => 2 * self.token_bytes(),
            Op::Decode | Op::DecodeInt8 => self.kv_bytes(op) + queries,
            // The new token's K and V are read as given, and written: counted among those attended to.
            Op::Step | Op::StepInt8 => self.kv_bytes(op) + self.token_bytes() + queries,
            Op::Quantize | Op::Dequantize => {
                let vectors = self.batch * self.num_kv_heads * (self.seq_len + 1);
                let stored = self.head_dim + size_of::<f32>();
                vectors * (self.head_dim * size_of::<f16>() + stored)
            }
        }
    }
}

/// A case on the device: as many caches as are asked for, to be used in turn.
pub struct Workload {
    case: Case,
    kernels: Kernels,
    caches: Vec<KvCache<f16>>,
    /// Caches of int8, which those are converted to.
    stored: Vec<KvCache<i8>>,
    lengths: Lengths,
    q: CudaSlice<f16>,
    k: CudaSlice<f16>,
    v: CudaSlice<f16>,
    out: CudaSlice<f16>,
    workspace: Workspace,
}

impl Workload {
    pub fn new(
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        case: Case,
        caches: usize,
    ) -> std::result::Result<Workload, Box<dyn std::error::Error>> {
        let zeros = |heads: usize| stream.alloc_zeros::<f16>(case.batch * heads * case.head_dim);
        let mut lengths = Lengths::new(stream, case.batch, case.seq_len + 1)?;
        lengths.set(stream, &vec![case.seq_len; case.batch])?;
        let size = kernels.workspace_size(&DecodeShape {
            cache: case.shape(),
            dtype: f16::DTYPE,
            k_dtype: f16::DTYPE,
            v_dtype: f16::DTYPE,
            num_q_heads: case.num_q_heads(),
            query_tokens: 1,
            sliding_window: None,
        })?;
        Ok(Workload {
            case,
            kernels: kernels.clone(),
            caches: (0..caches)
                .map(|_| KvCache::new(stream, case.shape()))
                .collect::<Result<_>>()?,
            stored: (0..caches)
                .map(|_| KvCache::new(stream, case.shape()))
                .collect::<Result<_>>()?,
            lengths,
            q: zeros(case.num_q_heads())?,
            k: zeros(case.num_kv_heads)?,
            v: zeros(case.num_kv_heads)?,
            out: zeros(case.num_q_heads())?,
            workspace: Workspace::new(stream, size)?,
        })
    }

    /// Launches an operation on the `turn`-th cache, counted round and round.
    pub fn launch(&mut self, op: Op, turn: usize, stream: &CudaStream) -> Result<()> {
        let step = self.lengths.step(NewTokens::Each(1))?;
        let turn = turn % self.caches.len();
        let (cache, stored) = (&mut self.caches[turn], &mut self.stored[turn]);
        let num_q_heads = self.case.num_q_heads();
        match op {
            Op::Append => {
                let append = self.kernels.append(&self.k, &self.v, cache, step);
                append.launch(stream)
            }
            Op::Decode => self
                .kernels
                .decode(&self.q, num_q_heads, &*cache, step, &mut self.out)
                .workspace(&mut self.workspace)
                .launch(stream),
            Op::Step => self
                .kernels
                .append(&self.k, &self.v, cache, step)
                .decode(&self.q, num_q_heads, &mut self.out)
                .workspace(&mut self.workspace)
                .launch(stream),
            Op::DecodeInt8 => self
                .kernels
                .decode(&self.q, num_q_heads, &*stored, step, &mut self.out)
                .workspace(&mut self.workspace)
                .launch(stream),
            Op::StepInt8 => self
                .kernels
                .append(&self.k, &self.v, stored, step)
                .decode(&self.q, num_q_heads, &mut self.out)
                .workspace(&mut self.workspace)
                .launch(stream),
            Op::Quantize => {
                let shape = cache.shape();
                let (payload, scales) = stored.k_and_scale_mut();
                let scales = scales.expect("int8 has scales");
                let quantize = self.kernels.quantize(cache.k(), shape, payload, scales);
                quantize.launch(stream)
            }
            Op::Dequantize => {
                let shape = cache.shape();
                let scales = stored.k_scale().expect("int8 has scales");
                let target = cache.k_v_mut().0;
                let dequantize = self.kernels.dequantize(stored.k(), scales, shape, target);
                dequantize.launch(stream)
            }
        }
    }
}

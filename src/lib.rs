//! Handwritten CUDA kernels for the key-value cache of a language model.
//!
//! One decode step of a transformer layer: [append](Kernels::append) the new token's K and V behind the tokens already
//! cached, and [attend](Append::decode) to all of them, in one launch that reads each cached byte once for the whole
//! group of query heads that share it. After the last layer, [advance](Kernels::advance) the lengths.
//! A prompt is appended likewise and attends to itself by [`prefill`](Kernels::prefill). Rotary embedding ([`Rope`]) is a
//! part of either, or an operation of its own ([`rope`](Kernels::rope)); so is attention over what is cached already
//! ([`decode`](Kernels::decode)).
//!
//! ```no_run
//! use half::f16;
//! use kv_kernels::{CacheShape, Kernels, KvCache, Lengths, NewTokens};
//!
//! # fn main() -> kv_kernels::Result<()> {
//! let ctx = kv_kernels::open(0)?; // an error, not a panic, where there is no driver
//! let stream = ctx.default_stream();
//! let kernels = Kernels::new(&ctx)?;
//!
//! let shape = CacheShape { batch: 2, num_kv_heads: 8, max_seq_len: 4096, head_dim: 128 };
//! let mut cache = KvCache::<f16>::new(&stream, shape)?; // one a layer
//! let mut lengths = Lengths::new(&stream, 2, 4096)?; // shared by all layers
//!
//! # let q = stream.alloc_zeros::<f16>(2 * 32 * 128).unwrap();
//! # let k = stream.alloc_zeros::<f16>(2 * 8 * 128).unwrap();
//! # let v = stream.alloc_zeros::<f16>(2 * 8 * 128).unwrap();
//! # let mut out = stream.alloc_zeros::<f16>(2 * 32 * 128).unwrap();
//! // In every layer, with q [2, 32, 128], k and v [2, 8, 128] and out [2, 32, 128] on the device:
//! let step = lengths.step(NewTokens::Each(1))?;
//! kernels.append(&k, &v, &mut cache, step).decode(&q, 32, &mut out).launch(&stream)?;
//!
//! // After the last layer:
//! kernels.advance(&mut lengths, NewTokens::Each(1)).launch(&stream)?;
//! assert!(lengths.status(&stream)?.is_ok()); // no sequence was full
//! # Ok(())
//! # }
//! ```
//!
//! K and V may be stored as a byte an element: [`quantize`](Kernels::quantize) and
//! [`dequantize`](Kernels::dequantize) convert, [`statistics`](Kernels::statistics) and
//! [`calibrate_channel_scale`](Kernels::calibrate_channel_scale) look at what there is.
//!
//! # Launches
//! An operation is one launch; a builder takes its options, [`plan`](Decode::plan) says what would be launched. Plans are
//! pure functions of shapes and of the GPU's limits ([`DecodeShape`], [`Gpu`]): how many blocks share a sequence's tokens
//! does not depend on how many there are, and may be [fixed](Decode::num_splits). Blocks that share a sequence meet in a
//! [`Workspace`], one for all layers; without, a block takes a whole sequence and KV head.
//!
//! # Memory
//! K and V of a layer lie apart, each `[batch, num_kv_heads, max_seq_len, head_dim]`, row-major, in a [`KvCache`] or in
//! slices and views that an engine owns ([`CacheRef`], [`CacheMut`]). Lengths live on the device and belong to the
//! sequences, not to a layer: kernels read them there, so a CUDA graph captured once replays while sequences grow.
//!
//! # Errors
//! Shapes, lengths of slices, alignment, and that everything belongs to the same context are checked before a launch,
//! and refused by an [`Error`] that names the argument and its value. What only the device knows (a sequence that is
//! full) goes to a [`Status`].
//!
//! [`mod@reference`] computes the same in plain Rust, to check against.

mod abi;
mod advance;
mod append;
mod apply_rope;
mod attention;
mod cache;
mod cache_types;
mod cache_view;
mod calibrate;
mod decode;
mod decode_plan;
mod dequantize;
mod device;
mod divisor;
mod dtype;
pub mod embedded;
mod error;
mod gpu;
mod lengths;
mod merge;
mod module;
mod plan;
mod prefill;
mod prefill_plan;
mod quantize;
mod quantize_plan;
pub mod reference;
mod rope;
mod rope_plan;
mod shape;
mod slice;
mod span;
mod split;
mod statistics;
mod status;
mod step;
mod tokens;
mod workspace;

pub use advance::Advance;
pub use append::Append;
pub use apply_rope::ApplyRope;
pub use cache::KvCache;
pub use cache_view::{CacheMut, CacheRef};
pub use calibrate::{Calibrate, ChannelScales};
pub use cudarc;
pub use decode::Decode;
pub use decode_plan::DecodeShape;
pub use dequantize::Dequantize;
pub use device::open;
pub use dtype::{Dtype, Element, Storage, Stores};
pub use error::{Error, Result};
pub use gpu::Gpu;
pub use lengths::{Lengths, LengthsMut};
pub use merge::{Merge, Partials};
pub use module::Kernels;
pub use plan::{Kernel, Plan};
pub use prefill::Prefill;
pub use quantize::Quantize;
pub use reference::{
    ChannelStatistics, F8E4M3, Llama3Scaling, OutlierReport, PairStyle, RopeFrequencies,
    Statistics, YarnScaling,
};
pub use rope::Rope;
pub use shape::{CacheShape, HEAD_DIMS, MAX_GROUP_SIZE, MAX_INDEX, MAX_QUERY_TOKENS, MAX_SEQ_LEN};
pub use span::TokenSpan;
pub use statistics::ReadStatistics;
pub use status::Status;
pub use step::{NewTokens, Step};
pub use tokens::{Strides, Tokens, TokensMut};
pub use workspace::{Workspace, WorkspaceSize};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

//! The oracle: everything the kernels compute, in plain Rust on the CPU.
//!
//! Nothing here is fast and nothing needs a GPU. Sums, exponentials and
//! products are done in `f64` on inputs as they are stored, so that what a
//! kernel may differ by is the kernel's own rounding. Where a kernel's result
//! is fixed bit for bit (quantised payloads, scales, appended rows), the
//! functions here round step by step as the kernel does and say so.
//!
//! An engine can check itself against it: copy a cache back to the host,
//! describe how it lies with a [`CacheMap`], and compare.
//!
//! # Words
//! `batch` sequences, each with `num_kv_heads` key and value vectors of
//! `head_dim` numbers a token; `num_q_heads` query heads, of which each
//! `num_q_heads / num_kv_heads` consecutive ones share a KV head. New tokens
//! and queries come as packed rows `[tokens, heads, head_dim]`, divided among
//! the sequences by [`Rows`].
//!
//! # Example
//! Append one token and attend to the cache with it:
//! ```
//! use kv_kernels::reference::{
//!     Append, CacheMap, ContiguousShape, Decode, Options, Rows, append, decode,
//! };
//!
//! let map = CacheMap::contiguous(ContiguousShape {
//!     batch: 1,
//!     num_kv_heads: 1,
//!     max_seq_len: 8,
//!     head_dim: 2,
//! })?;
//! let mut k_cache = vec![0.0f32; map.elements()];
//! let mut v_cache = vec![0.0f32; map.elements()];
//! let rows = Rows::Uniform { batch: 1, tokens: 1 };
//! append(Append {
//!     map: &map,
//!     k_cache: &mut k_cache,
//!     v_cache: &mut v_cache,
//!     k: &[0.5, -1.0],
//!     v: &[2.0, 3.0],
//!     rows,
//!     seq_lens: &[0],
//! })?;
//! let step = decode(Decode {
//!     map: &map,
//!     k_cache: &k_cache,
//!     v_cache: &v_cache,
//!     q: &[1.0f32, 1.0],
//!     rows,
//!     num_q_heads: 1,
//!     kv_lens: &[1],
//!     options: Options::default(),
//! })?;
//! assert_eq!(step.out, [2.0, 3.0]); // one token: all weight on its value
//! # Ok::<(), kv_kernels::reference::Error>(())
//! ```

mod append;
mod channel_scale;
mod compare;
mod cost;
mod decode;
mod error;
mod fp8;
mod layout;
mod merge;
mod options;
mod prefill;
mod quantize;
mod rope;
mod rope_frequencies;
mod rows;
mod scalar;
mod softmax;
mod span;
mod statistics;

pub use append::{Append, Appended, advance, append};
pub use channel_scale::{Calibrate, calibrate_channel_scale};
pub use compare::{Comparison, Tolerance};
pub use cost::{CacheSize, kv_computations};
pub use decode::{Decode, Decoded, decode};
pub use error::Error;
pub use fp8::F8E4M3;
pub use layout::{BlockTable, CacheMap, ContiguousShape, PageOrder, PagedShape, Slot, Strides};
pub use merge::{Merge, Partial, merge};
pub use options::Options;
pub use prefill::{Attended, Prefill, prefill};
pub use quantize::{
    Dequantize, Payload, Quantize, QuantizeAppend, QuantizeAppended, dequantize, quantize,
    quantize_append,
};
pub use rope::{Angles, PairStyle, Rope, rope};
pub use rope_frequencies::{Llama3Scaling, RopeFrequencies, RopeTable, YarnScaling};
pub use rows::{Rows, positions};
pub use scalar::Scalar;
pub use span::Span;
pub use statistics::{ChannelStatistics, OutlierReport, Statistics, StatisticsOf, statistics};

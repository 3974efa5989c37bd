//! SmolLM2-135M, its rotary positions, key-value cache and attention through kv-kernels: what the examples share.
//!
//! candle reads the model (a GGUF file) and does its matrix products on the CPU ([`model`]). The vectors of new tokens
//! go to the device, where the kernels turn them by their positions, append them to the cache and attend over it; the
//! attended vectors come back ([`attention`]).
//!
//! ```text
//!                         ┌ turn q and k by RoPE        ┐
//! x ─► norm ─► q, k, v ─► │ append k and v to the cache │ ─► output ─► + ─► norm ─► ffn ─► +
//!                         └ attend from q over it       ┘
//!      candle, on the CPU   kv-kernels, on the device       candle
//! ```

pub mod attention;
pub mod chat;
pub mod device;
pub mod generation;
pub mod loaded;
pub mod markdown;
pub mod model;
pub mod model_file;
pub mod progress;
pub mod rope;
pub mod testing;
pub mod tokenizer;
pub mod trace;

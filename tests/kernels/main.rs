//! The kernels through the safe API, against the oracle: on the GPU, or where there is none on the emulator.
//! `KV_REQUIRE_GPU=1` refuses the emulator.

mod append;
mod attention;
mod case;
mod decode;
mod golden;
mod harness;
mod large;
mod lengths;
mod merge;
mod orders;
mod prefill;
mod properties;
mod quantize;
mod quantized_cache;
mod rejected;
mod rejected_attention;
mod replay;
mod resources;
mod rope;
mod statistics;
mod step;
mod stored;

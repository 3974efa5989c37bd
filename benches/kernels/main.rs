//! append, decode, both in one launch, quantize and dequantize: `cargo bench --bench kernels`.
//!
//! On a GPU each is timed by CUDA events, on caches in turn that together pass the L2, and set against the bandwidth of
//! a copy measured in the same run. Without a GPU there is no time to speak of: what the launches did is counted.

mod counted;
mod timed;
mod workload;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match ptx_emulator::install()?.emulator() {
        Some(emulator) => counted::run(emulator),
        None => timed::run(),
    }
}

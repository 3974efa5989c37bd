//! Text generation over kv-kernels.
fn main() {}

//! Appends three tokens to a cache and attends to them: `cargo run --example append_attend`.

use half::f16;
use kv_kernels::{CacheShape, Kernels, KvCache, Lengths, NewTokens};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ptx_emulator::install()?; // uses the GPU or, where there is none, the emulator; says which
    let ctx = kv_kernels::open(0)?;
    let stream = ctx.default_stream();
    let kernels = Kernels::new(&ctx)?;

    // One sequence, two KV heads that four query heads share, room for 16 tokens of 64 elements.
    let (num_q_heads, head_dim) = (4, 64);
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 2,
        max_seq_len: 16,
        head_dim,
    };
    let mut cache = KvCache::<f16>::new(&stream, shape)?;
    let mut lengths = Lengths::new(&stream, shape.batch, shape.max_seq_len)?;

    for token in 1..=3 {
        let vectors = |heads: usize| vec![f16::from_f32(token as f32); heads * head_dim];
        let (q, k, v) = (vectors(num_q_heads), vectors(2), vectors(2));
        let (q, k, v) = (
            stream.clone_htod(&q)?,
            stream.clone_htod(&k)?,
            stream.clone_htod(&v)?,
        );
        let mut out = stream.alloc_zeros::<f16>(num_q_heads * head_dim)?;

        let step = lengths.step(NewTokens::Each(1))?;
        kernels.append(&k, &v, &mut cache, step).launch(&stream)?;
        kernels
            .decode(&q, num_q_heads, &cache, step, &mut out)
            .launch(&stream)?;
        kernels
            .advance(&mut lengths, NewTokens::Each(1))
            .launch(&stream)?;
        println!(
            "{token} cached: each element is {}",
            stream.clone_dtoh(&out)?[0]
        );
    }
    Ok(())
}

//! What RoPE refuses, and what the refusal says.

use super::*;

#[test]
fn what_is_refused() {
    let Device {
        stream, kernels, ..
    } = device();
    let shape = CacheShape { batch: 1, ..SHAPE };
    let mut cache = KvCache::<f16>::new(stream, shape).expect("a cache");
    let lengths = Lengths::new(stream, 1, 60).expect("lengths");
    let step = lengths.step(NewTokens::Each(2)).expect("a step");
    let rope = Rope::new(stream, &plain(64), PairStyle::HalfSplit).expect("a rope");
    let zeros = |elements| stream.alloc_zeros::<f16>(elements).expect("allocation");
    let (mut q, mut short) = (zeros(2 * 3 * 64), zeros(2 * 3 * 64 - 8));
    refused(
        kernels
            .rope(&rope, 64, step)
            .q(&mut q, 3)
            .k(&mut short, 3)
            .launch(stream),
        "k has 376 elements: its shape [1, 2, 3, 64] has 384",
    );
    refused(
        kernels.rope(&rope, 64, step).q(&mut q, 0).launch(stream),
        "num_q_heads is 0: it must be at least 1",
    );
    refused(
        kernels.rope(&rope, 72, step).q(&mut q, 3).launch(stream),
        "head_dim is 72: the kernels for f16 are built for [64, 80, 96, 112, 128, 192, 256]",
    );
    let overlapping = Strides {
        batch: 0,
        token: 64,
        head: 64,
    };
    refused(
        kernels
            .rope(&rope, 64, step)
            .q(TokensMut::strided(&mut q, overlapping), 3)
            .launch(stream),
        "q head stride is 64 elements: it must keep vectors that are written apart",
    );
    let vast = lengths.step(NewTokens::Each(1 << 30)).expect("a step");
    refused(
        kernels.rope(&rope, 64, vast).q(&mut q, 3).launch(stream),
        "new tokens * (num_q_heads + num_kv_heads) is 3221225472: at most 2147483647 can be indexed",
    );

    let wide = Rope::new(stream, &plain(128), PairStyle::HalfSplit).expect("a rope");
    let new = zeros(2 * 5 * 64);
    let wider = "rotary_dim is 128, but head_dim is 64";
    refused(
        kernels.rope(&wide, 64, step).q(&mut q, 3).launch(stream),
        wider,
    );
    refused(
        kernels
            .append(&new, &new, &mut cache, step)
            .rope(&wide)
            .launch(stream),
        wider,
    );
    let mut out = zeros(2 * 5 * 64);
    refused(
        kernels
            .append(&new, &new, &mut cache, step)
            .rope(&wide)
            .decode(&new, 5, &mut out)
            .launch(stream),
        wider,
    );
    let table = stream.alloc_zeros::<f32>(59 * 32).expect("allocation");
    let short_table = Rope::from_tables(&table, &table, 59, 64, PairStyle::Interleaved);
    refused(
        kernels
            .append(&new, &new, &mut cache, step)
            .rope(&short_table.expect("a rope"))
            .launch(stream),
        "positions of the rope tables is 59, but max_seq_len of the step is 60",
    );
    refused(
        Rope::from_tables(&table, &table, 60, 64, PairStyle::Interleaved),
        "cos has 1888 elements: its shape [60, 32] has 1920",
    );
    let frequencies = |inv_freq: &[f64]| RopeFrequencies {
        inv_freq: inv_freq.to_vec(),
        attention_factor: 1.0,
    };
    refused(
        Rope::new(stream, &frequencies(&[]), PairStyle::HalfSplit),
        "rotary_dim is 0: it must be even and at least 2",
    );
    refused(
        Rope::new(stream, &frequencies(&[1.0, f64::NAN]), PairStyle::HalfSplit),
        "inv_freq is NaN: it must be finite",
    );

    let context = another_context();
    let foreign = context.new_stream().expect("a stream");
    let foreign_rope = Rope::new(&foreign, &plain(64), PairStyle::HalfSplit).expect("a rope");
    refused(
        kernels
            .append(&new, &new, &mut cache, step)
            .rope(&foreign_rope)
            .launch(stream),
        "rope belongs to another CUDA context than the kernels",
    );
}

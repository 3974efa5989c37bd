//! RoPE in the launch that appends and attends.

use super::*;

/// A fused step has K's bits of the operations one by one, and attends as the oracle does with the q of `rope`.
fn check_step<T: Number>(case: &Case, turn: &Turn) {
    let Device {
        stream, kernels, ..
    } = device();
    let shape = case.shape;
    let num_q_heads = shape.num_kv_heads * case.group_size;
    let (batch, tokens) = case.extent();
    let of_heads = |heads| batch * tokens * heads * shape.head_dim;
    let k = upload(&numbers::<T>(1, of_heads(shape.num_kv_heads)));
    let v = upload(&numbers::<T>(2, of_heads(shape.num_kv_heads)));
    let mut q = upload(&numbers::<T>(3, of_heads(num_q_heads)));
    let mut out = upload(&vec![T::NAN; of_heads(num_q_heads)]);
    let new_cache = || {
        let mut cache = KvCache::<T>::new(stream, shape).expect("a cache");
        let (to_k, to_v) = cache.k_v_mut();
        stream
            .memcpy_htod(&case.poisoned::<T>(4), to_k)
            .expect("upload K");
        stream
            .memcpy_htod(&case.poisoned::<T>(5), to_v)
            .expect("upload V");
        cache
    };
    let (mut fused, mut apart) = (new_cache(), new_cache());
    let seq_lens = stream.clone_htod(&case.seq_lens).expect("upload lengths");
    let step = Step::new(&seq_lens, shape.max_seq_len, NewTokens::Each(tokens)).expect("a step");
    turn.with(|rope| {
        kernels
            .append(&k, &v, &mut fused, step)
            .rope(rope)
            .decode(&q, num_q_heads, &mut out)
            .launch(stream)
            .expect("a step in one launch");
        kernels
            .append(&k, &v, &mut apart, step)
            .rope(rope)
            .launch(stream)
            .expect("append");
        kernels
            .rope(rope, shape.head_dim, step)
            .q(&mut q, num_q_heads)
            .launch(stream)
            .expect("rope");
    });
    let (k_cache, v_cache) = (download(fused.k()), download(fused.v()));
    assert_eq!(
        bits(&k_cache),
        bits(&download(apart.k())),
        "{case:?} {turn:?}"
    );
    assert_eq!(
        bits(&v_cache),
        bits(&download(apart.v())),
        "{case:?} {turn:?}"
    );
    let mut kv_lens = case.seq_lens.clone();
    reference::advance(&mut kv_lens, case.rows(), shape.max_seq_len).expect("lengths");
    let expected = reference::decode(reference::Decode {
        map: &case.map(),
        k_cache: &k_cache,
        v_cache: &v_cache,
        q: &download(&q),
        rows: case.rows(),
        num_q_heads,
        kv_lens: &kv_lens,
        options: reference::Options::default(),
    })
    .expect("the oracle attends");
    let compared = Comparison::of(&download(&out), &expected.out).expect("as many");
    assert!(
        compared.within(T::TOLERANCE),
        "{case:?} {turn:?}: {compared}"
    );
}

#[test]
fn a_step_in_one_launch() {
    for pairs in STYLES {
        for (head_dim, rotary_dim) in [(64, 64), (80, 20), (128, 128), (256, 64)] {
            let turn = Turn::new(rotary_dim, pairs);
            for tokens in [1, 6] {
                let case = case(head_dim, New::Each(tokens));
                check_step::<f16>(&case, &turn);
                check_step::<bf16>(&case, &turn);
            }
        }
    }
}

//! Caches of more than 2³¹ elements, and sequences of a million tokens: addresses are 64-bit where they must be.
//!
//! K and V are never filled: the device gives memory that nobody has written, and only what a test appends is read.

use half::f16;
use kv_kernels::reference::{
    self, CacheMap, Comparison, ContiguousShape, Options, Rows, Tolerance,
};
use kv_kernels::{
    CacheMut, CacheRef, CacheShape, Lengths, NewTokens, PairStyle, Rope, RopeFrequencies,
};

use crate::harness::{Device, device, download, numbers, upload};

/// 2.3 · 10⁹ elements: the last sequence's last head begins beyond 2³¹ of them.
const SHAPE: CacheShape = CacheShape {
    batch: 3,
    num_kv_heads: 3,
    max_seq_len: 1 << 20,
    head_dim: 256,
};
const NUM_Q_HEADS: usize = 6;

/// Appends `tokens` to a cache whose sequences hold `seq_len`, of which nothing is in memory, and attends to no more
/// than those appended.
fn append_and_attend(seq_len: usize, tokens: usize) {
    let Device {
        stream, kernels, ..
    } = device();
    let elements = SHAPE.elements().expect("a shape");
    assert!(elements > 1 << 31);
    // SAFETY: f16 has no invalid bits, and nothing is read before it is written: the emulator checks.
    let (mut k_cache, mut v_cache) = unsafe {
        (
            stream.alloc::<f16>(elements).expect("room for K"),
            stream.alloc::<f16>(elements).expect("room for V"),
        )
    };
    let (k, v) = [1, 2]
        .map(|seed| {
            let count = SHAPE.batch * tokens * SHAPE.num_kv_heads * SHAPE.head_dim;
            numbers::<f16>(seed, count)
        })
        .into();
    let q = numbers::<f16>(3, SHAPE.batch * NUM_Q_HEADS * SHAPE.head_dim);
    let mut lengths = Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len).expect("lengths");
    lengths.set(stream, &[seq_len; 3]).expect("set");
    let step = lengths.step(NewTokens::Each(tokens)).expect("a step");
    let mut out = upload(&vec![f16::NAN; q.len()]);
    let cache = CacheMut::new(&mut k_cache, &mut v_cache, SHAPE).expect("a cache");
    kernels
        .append(&upload(&k), &upload(&v), cache, step)
        .launch(stream)
        .expect("append");
    let cache = CacheRef::new(&k_cache, &v_cache, SHAPE).expect("a cache");
    kernels
        .decode(&upload(&q), NUM_Q_HEADS, cache, step, &mut out)
        .sliding_window(tokens)
        .launch(stream)
        .expect("decode");

    // A cache of these tokens alone gives the same.
    let map = CacheMap::contiguous(ContiguousShape {
        batch: SHAPE.batch,
        num_kv_heads: SHAPE.num_kv_heads,
        max_seq_len: tokens,
        head_dim: SHAPE.head_dim,
    })
    .expect("a shape for the oracle");
    let rows = |tokens| Rows::Uniform {
        batch: SHAPE.batch,
        tokens,
    };
    let mut small_k = vec![f16::NAN; SHAPE.batch * SHAPE.num_kv_heads * tokens * SHAPE.head_dim];
    let mut small_v = small_k.clone();
    reference::append(reference::Append {
        map: &map,
        k_cache: &mut small_k,
        v_cache: &mut small_v,
        k: &k,
        v: &v,
        rows: rows(tokens),
        seq_lens: &[0; 3],
    })
    .expect("the oracle appends");
    let expected = reference::decode(reference::Decode {
        map: &map,
        k_cache: &small_k,
        v_cache: &small_v,
        q: &q,
        rows: rows(1),
        num_q_heads: NUM_Q_HEADS,
        kv_lens: &[tokens as i32; 3],
        options: Options::default(),
    })
    .expect("the oracle attends");
    let compared = Comparison::of(&download(&out), &expected.out).expect("as many");
    assert!(compared.within(Tolerance::F16), "{compared}");
}

/// K turned on its way to the far end of such a cache, and prefill there: through a window of one token each query
/// gives the token's own value, to the bit.
#[test]
fn rope_and_prefill_at_the_end_of_a_million_tokens() {
    const TOKENS: usize = 40;
    let Device {
        stream, kernels, ..
    } = device();
    let elements = SHAPE.elements().expect("a shape");
    // SAFETY: f16 has no invalid bits, and nothing is read before it is written: the emulator checks.
    let (mut k_cache, mut v_cache) = unsafe {
        (
            stream.alloc::<f16>(elements).expect("room for K"),
            stream.alloc::<f16>(elements).expect("room for V"),
        )
    };
    let row = SHAPE.num_kv_heads * SHAPE.head_dim;
    let k = numbers::<f16>(1, SHAPE.batch * TOKENS * row);
    let v = numbers::<f16>(2, SHAPE.batch * TOKENS * row);
    let seq_len = SHAPE.max_seq_len - TOKENS;
    let mut lengths = Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len).expect("lengths");
    lengths.set(stream, &[seq_len; 3]).expect("set");
    let step = lengths.step(NewTokens::Each(TOKENS)).expect("a step");
    let frequencies = RopeFrequencies::plain(500_000.0, SHAPE.head_dim).expect("frequencies");
    let rope = Rope::new(stream, &frequencies, PairStyle::HalfSplit).expect("a rope");
    let cache = CacheMut::new(&mut k_cache, &mut v_cache, SHAPE).expect("a cache");
    kernels
        .append(&upload(&k), &upload(&v), cache, step)
        .rope(&rope)
        .launch(stream)
        .expect("append");
    let mut out = upload(&vec![f16::NAN; v.len()]);
    let cache = CacheRef::new(&k_cache, &v_cache, SHAPE).expect("a cache");
    kernels
        .prefill(&upload(&k), SHAPE.num_kv_heads, cache, step, &mut out)
        .sliding_window(1)
        .launch(stream)
        .expect("prefill");
    assert_eq!(download(&out), v);

    let positions: Vec<i32> = (0..SHAPE.batch)
        .flat_map(|_| (seq_len..SHAPE.max_seq_len).map(|position| position as i32))
        .collect();
    let turned = reference::rope(reference::Rope {
        x: &k,
        positions: &positions,
        heads: SHAPE.num_kv_heads,
        head_dim: SHAPE.head_dim,
        style: PairStyle::HalfSplit,
        angles: reference::Angles::Frequencies(&frequencies),
    })
    .expect("the oracle turns");
    for (token, expected) in turned.chunks_exact(row).enumerate() {
        for (head, expected) in expected.chunks_exact(SHAPE.head_dim).enumerate() {
            let pair = token / TOKENS * SHAPE.num_kv_heads + head;
            let at = (pair * SHAPE.max_seq_len + seq_len + token % TOKENS) * SHAPE.head_dim;
            let found = stream.clone_dtoh(&k_cache.slice(at..at + SHAPE.head_dim));
            let compared = Comparison::of(&found.expect("download"), expected).expect("as many");
            assert!(compared.within(Tolerance::F16), "token {token}: {compared}");
        }
    }
}

#[test]
fn the_first_tokens_of_sequences_far_apart() {
    append_and_attend(0, 40);
}

#[test]
fn the_last_of_a_million_tokens() {
    append_and_attend(SHAPE.max_seq_len - 40, 40);
}

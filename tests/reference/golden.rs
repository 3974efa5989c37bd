//! Numbers worked out by hand or printed in the literature on caches.

use crate::common::assert_close;
use kv_kernels::reference::{
    Append, CacheMap, CacheSize, ContiguousShape, Decode, Options, Prefill, Rows, append, decode,
    kv_computations, prefill,
};

#[test]
fn append_concatenates_along_the_sequence_axis() {
    // Three tokens of two heads in a cache of four: head 0 holds 0…11, head 1
    // 100…111, and what lies behind them is marked.
    let map = CacheMap::contiguous(ContiguousShape {
        batch: 1,
        num_kv_heads: 2,
        max_seq_len: 4,
        head_dim: 4,
    })
    .unwrap();
    let mut k_cache = vec![-1.0f32; map.elements()];
    for i in 0..12 {
        k_cache[i] = i as f32;
        k_cache[16 + i] = 100.0 + i as f32;
    }
    let mut v_cache: Vec<f32> = k_cache.iter().map(|k| k + 1000.0).collect();
    let k: Vec<f32> = vec![50., 51., 52., 53., 150., 151., 152., 153.];
    let v: Vec<f32> = k.iter().map(|k| k + 1000.0).collect();

    let appended = append(Append {
        map: &map,
        k_cache: &mut k_cache,
        v_cache: &mut v_cache,
        k: &k,
        v: &v,
        rows: Rows::Uniform {
            batch: 1,
            tokens: 1,
        },
        seq_lens: &[3],
    })
    .unwrap();

    let expected: Vec<f32> = (0..12)
        .chain(50..54)
        .chain(100..112)
        .chain(150..154)
        .map(|i| i as f32)
        .collect();
    assert_eq!(k_cache, expected);
    let expected: Vec<f32> = expected.iter().map(|k| k + 1000.0).collect();
    assert_eq!(v_cache, expected);
    assert!(appended.overflowed.is_empty());
}

const X: [f64; 12] = [1., 0.5, 0.2, 0.1, 0.5, 1., 0.3, 0.2, 0.3, 0.8, 1., 0.4];

#[test]
fn worked_example_both_rows_over_both_tokens() {
    let x = &X[..8];
    let attended = prefill(Prefill {
        q: x,
        k: x,
        v: x,
        rows: Rows::Uniform {
            batch: 1,
            tokens: 2,
        },
        num_q_heads: 1,
        num_kv_heads: 1,
        head_dim: 4,
        causal: false,
        options: Options::default(),
    })
    .unwrap();
    let out = [
        0.763736, 0.736264, 0.247253, 0.147253, 0.731285, 0.768715, 0.253743, 0.153743,
    ];
    assert_close(&attended.out, &out, 5e-7);
    // The denominators of the scores [.65, .54] and [.54, .69].
    let lse = [(0.65f64, 0.54f64), (0.54, 0.69)].map(|(a, b)| (a.exp() + b.exp()).ln());
    assert_close(&attended.lse, &lse, 1e-12);
}

#[test]
fn worked_example_third_token_over_the_cache() {
    let map = CacheMap::contiguous(ContiguousShape {
        batch: 1,
        num_kv_heads: 1,
        max_seq_len: 5,
        head_dim: 4,
    })
    .unwrap();
    let mut k_cache = vec![f64::NAN; map.elements()];
    let mut v_cache = k_cache.clone();
    for (held, new) in [(0usize, 2usize), (2, 1)] {
        let x = &X[held * 4..(held + new) * 4];
        append(Append {
            map: &map,
            k_cache: &mut k_cache,
            v_cache: &mut v_cache,
            k: x,
            v: x,
            rows: Rows::Uniform {
                batch: 1,
                tokens: new,
            },
            seq_lens: &[held as i32],
        })
        .unwrap();
    }
    let step = decode(Decode {
        map: &map,
        k_cache: &k_cache,
        v_cache: &v_cache,
        q: &X[8..],
        rows: Rows::Uniform {
            batch: 1,
            tokens: 1,
        },
        num_q_heads: 1,
        kv_lens: &[3],
        options: Options::default(),
    })
    .unwrap();
    assert_close(&step.out, &[0.54666, 0.785108, 0.568251, 0.257961], 5e-7);
    let scores = [0.47f64, 0.665, 0.945];
    let denominator: f64 = scores.iter().map(|s| s.exp()).sum();
    assert_close(&step.lse, &[denominator.ln()], 1e-12);
    // The weights the example prints follow from scores and lse.
    let weights = scores.map(|s| (s - step.lse[0]).exp());
    assert_close(&weights, &[0.261552, 0.317868, 0.42058], 5e-7);
}

#[test]
fn memory_of_known_models() {
    // Qwen2.5-14B after compressing 49 tokens to 24, in f32, as measured on
    // one of K and V: 98,304 bytes a layer, 4,718,592 in all.
    let qwen = CacheSize {
        layers: 1,
        batch: 1,
        num_kv_heads: 8,
        head_dim: 128,
        tokens: 24,
        bytes_per_element: 4,
        bytes_per_vector: 0,
    };
    assert_eq!(qwen.bytes(), 2 * 98_304);
    assert_eq!(CacheSize { layers: 48, ..qwen }.bytes(), 2 * 4_718_592);
    let map = CacheMap::contiguous(ContiguousShape {
        batch: 1,
        num_kv_heads: 8,
        max_seq_len: 24,
        head_dim: 128,
    })
    .unwrap();
    assert_eq!(map.elements() * size_of::<f32>(), 98_304);

    let gpt2 = CacheSize {
        layers: 12,
        batch: 1,
        num_kv_heads: 12,
        head_dim: 64,
        tokens: 100,
        bytes_per_element: 2,
        bytes_per_vector: 0,
    };
    assert_eq!(gpt2.bytes(), 3_686_400);

    let gpt3 = CacheSize {
        layers: 96,
        batch: 1,
        num_kv_heads: 96,
        head_dim: 128,
        tokens: 2048,
        bytes_per_element: 2,
        bytes_per_vector: 0,
    };
    assert_eq!(gpt3.bytes(), 9_663_676_416);
    let eight = CacheSize { batch: 8, ..gpt3 }.bytes();
    assert_eq!((eight as f64 / 1e8).round() / 10.0, 77.3);

    // int8 halves the payload; its scales add a 32nd of what is left.
    let int8 = CacheSize {
        bytes_per_element: 1,
        ..gpt3
    };
    assert_eq!(2 * int8.bytes(), gpt3.bytes());
    let scaled = CacheSize {
        bytes_per_vector: 4,
        ..int8
    };
    assert_eq!(scaled.bytes(), int8.bytes() + int8.bytes() / 32);
    assert!(scaled.bytes() as f64 / gpt3.bytes() as f64 <= 0.52);
}

#[test]
fn work_saved_by_a_cache() {
    assert_eq!(kv_computations(3, 5, false), 25);
    assert_eq!(kv_computations(3, 5, true), 7);
    assert_eq!(100 - 100 * 7 / 25, 72);
    for n in [1, 2, 3, 10, 128, 2048] {
        assert_eq!(kv_computations(1, n, false), n * (n + 1) / 2);
        assert_eq!(kv_computations(1, n, true), n);
    }
    assert_eq!(kv_computations(7, 0, false), 0);
    assert_eq!(kv_computations(7, 0, true), 0);
}

//! Numbers worked out elsewhere. The kernels' smallest head dimension is 64, so vectors of 4 are followed by zeros.

use half::f16;
use kv_kernels::{CacheShape, KvCache, Lengths, NewTokens};

use crate::harness::{device, download, upload};

const DIM: usize = 64;

fn padded(rows: &[[f32; 4]]) -> Vec<f16> {
    let mut all = vec![f16::ZERO; rows.len() * DIM];
    for (to, row) in all.chunks_exact_mut(DIM).zip(rows) {
        for (to, &x) in to.iter_mut().zip(row) {
            *to = f16::from_f32(x);
        }
    }
    all
}

/// Rows of four numbers that follow each other.
fn counting(first: u16, rows: u16) -> Vec<[f32; 4]> {
    (0..rows)
        .map(|row| [0, 1, 2, 3].map(|element| f32::from(first + 4 * row + element)))
        .collect()
}

#[test]
fn append_is_concatenation_along_the_sequence() {
    let device = device();
    let stream = &device.stream;
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 2,
        max_seq_len: 5,
        head_dim: DIM,
    };
    let untouched = [[-7.0; 4]];
    let (old, new) = (
        [counting(0, 3), counting(100, 3)],
        [counting(50, 1), counting(150, 1)],
    );
    let layout = |head: &[[f32; 4]], last: &[[f32; 4]]| padded(&[head, last, &untouched].concat());
    let before: Vec<f16> = [layout(&old[0], &untouched), layout(&old[1], &untouched)].concat();
    let after: Vec<f16> = [layout(&old[0], &new[0]), layout(&old[1], &new[1])].concat();

    let mut cache = KvCache::<f16>::new(stream, shape).expect("a cache");
    let (k, v) = cache.k_v_mut();
    stream.memcpy_htod(&before, k).expect("upload K");
    stream.memcpy_htod(&before, v).expect("upload V");
    let mut lengths = Lengths::new(stream, 1, 5).expect("lengths");
    lengths.set(stream, &[3]).expect("set");
    let tokens = upload(&padded(&new.concat()));
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    device
        .kernels
        .append(&tokens, &tokens, &mut cache, step)
        .launch(stream)
        .expect("append");
    assert_eq!(download(cache.k()), after);
    assert_eq!(download(cache.v()), after);
    assert_eq!(lengths.get(stream).expect("lengths"), [3]);
    device
        .kernels
        .advance(&mut lengths, NewTokens::Each(1))
        .launch(stream)
        .expect("advance");
    assert_eq!(lengths.get(stream).expect("lengths"), [4]);
}

/// q = k = v = x, scale 1/2: the first two tokens attend to both, the third to all three.
#[test]
fn worked_example() {
    let x = [
        [1.0, 0.5, 0.2, 0.1],
        [0.5, 1.0, 0.3, 0.2],
        [0.3, 0.8, 1.0, 0.4],
    ];
    let expected = [
        [0.763736, 0.736264, 0.247253, 0.147253],
        [0.731285, 0.768715, 0.253743, 0.153743],
        [0.54666, 0.785108, 0.568251, 0.257961],
    ];
    let device = device();
    let stream = &device.stream;
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 1,
        max_seq_len: 4,
        head_dim: DIM,
    };
    let mut cache = KvCache::<f16>::new(stream, shape).expect("a cache");
    let mut lengths = Lengths::new(stream, 1, 4).expect("lengths");
    let attend = |cache: &KvCache<f16>, lengths: &Lengths, row: usize| {
        let q = upload(&padded(&x[row..row + 1]));
        let mut out = upload(&padded(&[[f32::NAN; 4]]));
        let step = lengths.step(NewTokens::Each(0)).expect("a step");
        device
            .kernels
            .decode(&q, 1, cache, step, &mut out)
            .softmax_scale(0.5)
            .launch(stream)
            .expect("decode");
        let out = download(&out);
        for (found, expected) in out.iter().zip(expected[row]) {
            assert!(
                (found.to_f64() - expected).abs() <= 1e-3 * (1.0 + expected),
                "row {row}: {:?}, expected {:?}",
                &out[..4],
                expected
            );
        }
        assert!(out[4..].iter().all(|&x| x == f16::ZERO));
    };

    for tokens in [&x[..2], &x[2..]] {
        let new = upload(&padded(tokens));
        let step = lengths.step(NewTokens::Each(tokens.len())).expect("a step");
        device
            .kernels
            .append(&new, &new, &mut cache, step)
            .launch(stream)
            .expect("append");
        device
            .kernels
            .advance(&mut lengths, NewTokens::Each(tokens.len()))
            .launch(stream)
            .expect("advance");
        if tokens.len() == 2 {
            attend(&cache, &lengths, 0);
            attend(&cache, &lengths, 1);
        }
    }
    attend(&cache, &lengths, 2);
}

/// A layer of Qwen2.5-14B: 40 query heads on 8 KV heads of 128, 24 tokens.
#[test]
fn qwen_layer() {
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 8,
        max_seq_len: 49,
        head_dim: 128,
    };
    crate::case::Case::new(shape, 5, &[23]).check::<half::bf16>();
}

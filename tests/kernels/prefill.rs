//! prefill: causal attention of many tokens over the cache they were appended to, against the oracle. Every case goes
//! through append first, onto a cache whose elements past the tokens are NaN.

use half::{bf16, f16};
use kv_kernels::cudarc::driver::CudaView;
use kv_kernels::reference::{self, Comparison, Options, Tolerance};
use kv_kernels::{CacheShape, HEAD_DIMS, KvCache, Lengths, NewTokens, Step, Tokens};
use proptest::prelude::*;

use crate::case::{Attention, Case, New, Order, PADDING, upload_padded};
use crate::harness::{Device, Number, bits, device, download, numbers, upload};
use crate::rejected::refused;

const PLAIN: Attention = Attention {
    softmax_scale: None,
    logits_soft_cap: None,
    sliding_window: None,
    sinks: false,
    alibi_slopes: false,
};

/// Runs append and prefill on the device and in the oracle, and compares. Returns what the device wrote to `out`.
fn check<T: Number>(case: &Case) -> Vec<T> {
    let Device {
        stream, kernels, ..
    } = device();
    let shape = case.shape;
    let num_q_heads = shape.num_kv_heads * case.group_size;
    let (batch, tokens) = case.extent();
    let elements = |heads: usize| batch * tokens * heads * shape.head_dim;
    let k = numbers::<T>(case.seed + 2, elements(shape.num_kv_heads));
    let v = numbers::<T>(case.seed + 3, elements(shape.num_kv_heads));
    let q = numbers::<T>(case.seed + 4, elements(num_q_heads));
    let option_numbers = |seed, low: f32, high: f32| -> Vec<f32> {
        let unit = numbers::<f16>(case.seed + seed, num_q_heads);
        unit.into_iter()
            .map(|x| low + (high - low) * (f32::from(x) + 1.0) / 2.0)
            .collect()
    };
    let sinks = option_numbers(5, -3.0, 5.0);
    let slopes = option_numbers(6, 0.0, 0.5);

    // On the device.
    let mut cache = KvCache::<T>::new(stream, shape).expect("a cache");
    let (to_k, to_v) = cache.k_v_mut();
    let poisoned = (case.poisoned::<T>(0), case.poisoned::<T>(1));
    stream.memcpy_htod(&poisoned.0, to_k).expect("upload K");
    stream.memcpy_htod(&poisoned.1, to_v).expect("upload V");
    let mut lengths = Lengths::new(stream, shape.batch, shape.max_seq_len).expect("lengths");
    let seq_lens: Vec<usize> = case.seq_lens.iter().map(|&len| len as usize).collect();
    lengths.set(stream, &seq_lens).expect("set lengths");
    let mut q_case = case.clone();
    q_case.shape.num_kv_heads = num_q_heads;
    let k_device = upload_padded(&k);
    let v_device = upload_padded(&v);
    let q_device = upload_padded(&q_case.arranged(&q));
    let (k_view, v_view) = (k_device.slice(..k.len()), v_device.slice(..v.len()));
    let q_view: CudaView<'_, T> = q_device.slice(..q_device.len() - PADDING);
    let mut out = upload(&vec![T::NAN; q.len() + PADDING]);
    let queries = batch * tokens * num_q_heads;
    let mut lse = stream
        .clone_htod(&vec![f32::NAN; queries + 1])
        .expect("upload lse");
    let cu_seqlens = match &case.new {
        New::Each(_) => None,
        New::Packed(cu_seqlens) => Some(stream.clone_htod(cu_seqlens).expect("cu_seqlens")),
    };
    let new = match &cu_seqlens {
        None => NewTokens::Each(tokens),
        Some(cu_seqlens) => NewTokens::Packed {
            cu_seqlens,
            total: tokens,
        },
    };
    let step = lengths.step(new).expect("a step");
    let sinks_device = stream.clone_htod(&sinks).expect("upload sinks");
    let slopes_device = stream.clone_htod(&slopes).expect("upload slopes");
    kernels
        .append(&k_view, &v_view, &mut cache, step)
        .launch(stream)
        .expect("append");
    {
        let mut out_view = out.slice_mut(..q.len());
        let mut lse_view = lse.slice_mut(..queries);
        let mut prefill = kernels
            .prefill(
                q_case.tokens(&q_view),
                num_q_heads,
                &cache,
                step,
                &mut out_view,
            )
            .lse(&mut lse_view);
        if let Some(softmax_scale) = case.attention.softmax_scale {
            prefill = prefill.softmax_scale(softmax_scale);
        }
        if let Some(cap) = case.attention.logits_soft_cap {
            prefill = prefill.logits_soft_cap(cap);
        }
        if let Some(window) = case.attention.sliding_window {
            prefill = prefill.sliding_window(window);
        }
        if case.attention.sinks {
            prefill = prefill.sinks(&sinks_device);
        }
        if case.attention.alibi_slopes {
            prefill = prefill.alibi_slopes(&slopes_device);
        }
        prefill.launch(stream).expect("prefill");
    }

    // In the oracle, over the cache as it has become: append has tests of its own.
    let mut kv_lens = case.seq_lens.clone();
    reference::advance(&mut kv_lens, case.rows(), shape.max_seq_len).expect("lengths");
    let expected = reference::decode(reference::Decode {
        map: &case.map(),
        k_cache: &download(cache.k()),
        v_cache: &download(cache.v()),
        q: &q,
        rows: case.rows(),
        num_q_heads,
        kv_lens: &kv_lens,
        options: Options {
            softmax_scale: case.attention.softmax_scale.map(f64::from),
            logits_soft_cap: case.attention.logits_soft_cap.map(f64::from),
            sliding_window: case.attention.sliding_window,
            sinks: case.attention.sinks.then_some(&sinks),
            alibi_slopes: case.attention.alibi_slopes.then_some(&slopes),
        },
    })
    .expect("the oracle attends");

    let mut out = download(&out);
    let behind = out.split_off(q.len());
    assert_eq!(
        bits(&behind),
        bits(&[T::NAN; PADDING]),
        "behind out of {case:?}"
    );
    let compared = Comparison::of(&out, &expected.out).expect("as many");
    assert!(compared.within(T::TOLERANCE), "out of {case:?}: {compared}");
    let mut lse = stream.clone_dtoh(&lse).expect("download lse");
    assert!(lse.pop().is_some_and(f32::is_nan), "behind lse of {case:?}");
    for (index, (found, expected)) in lse.iter().zip(&expected.lse).enumerate() {
        let found = f64::from(*found);
        assert!(
            found == *expected || (found - expected).abs() <= Tolerance::LSE,
            "lse[{index}] of {case:?}: {found}, expected {expected}"
        );
    }
    out
}

const SHAPE: CacheShape = CacheShape {
    batch: 3,
    num_kv_heads: 2,
    max_seq_len: 200,
    head_dim: 64,
};

fn case(new: New, group_size: usize, seq_lens: &[i32]) -> Case {
    Case {
        new,
        ..Case::new(SHAPE, group_size, seq_lens)
    }
}

/// Whole prompts and parts of them, of lengths around what a kernel counts in: 16 rows a warp, 64 a block, 32 tokens a
/// tile.
#[test]
fn each_sequence_as_many() {
    for tokens in [1, 2, 15, 16, 17, 33, 64, 97, 129] {
        for group_size in [1, 3, 8] {
            check::<f16>(&case(New::Each(tokens), group_size, &[0, 1, 71]));
        }
    }
    check::<bf16>(&case(New::Each(54), 5, &[0, 31, 32]));
}

#[test]
fn packed_each_its_own() {
    for cu_seqlens in [
        vec![0, 1, 2, 3],
        vec![0, 0, 54, 54],
        vec![0, 127, 127, 255],
        vec![0, 64, 128, 192],
        vec![0, 0, 0, 0],
        vec![0, 100, 101, 102],
    ] {
        for group_size in [1, 5, 64] {
            let case = case(New::Packed(cu_seqlens.clone()), group_size, &[0, 7, 60]);
            check::<bf16>(&case);
            if group_size == 5 {
                check::<f16>(&case);
            }
        }
    }
}

#[test]
fn every_head_dim() {
    for &head_dim in HEAD_DIMS {
        let shape = CacheShape { head_dim, ..SHAPE };
        let case = Case {
            new: New::Packed(vec![0, 33, 120, 121]),
            ..Case::new(shape, 2, &[0, 50, 100])
        };
        check::<f16>(&case);
        check::<bf16>(&case);
    }
}

#[test]
fn options_alone_and_together() {
    let attentions = [
        Attention {
            softmax_scale: Some(0.7),
            ..PLAIN
        },
        Attention {
            softmax_scale: Some(-8.0),
            ..PLAIN
        },
        Attention {
            logits_soft_cap: Some(2.0),
            ..PLAIN
        },
        Attention {
            sliding_window: Some(1),
            ..PLAIN
        },
        Attention {
            sliding_window: Some(37),
            ..PLAIN
        },
        Attention {
            sinks: true,
            ..PLAIN
        },
        Attention {
            alibi_slopes: true,
            ..PLAIN
        },
        Attention {
            softmax_scale: Some(-0.4),
            logits_soft_cap: Some(30.0),
            sliding_window: Some(100),
            sinks: true,
            alibi_slopes: true,
        },
    ];
    for attention in attentions {
        for head_dim in [64, 128, 256] {
            let case = Case {
                attention,
                new: New::Packed(vec![0, 90, 90, 131]),
                ..Case::new(CacheShape { head_dim, ..SHAPE }, 3, &[0, 200, 151])
            };
            check::<f16>(&case);
            if head_dim == 128 {
                check::<bf16>(&case);
            }
        }
    }
}

/// Tokens that no query sees through its window are not read: there NaN, everywhere.
#[test]
fn what_slid_out_of_the_window_is_not_read() {
    let Device {
        stream, kernels, ..
    } = device();
    let shape = CacheShape {
        batch: 1,
        num_kv_heads: 1,
        max_seq_len: 400,
        head_dim: 64,
    };
    let (window, cached, tokens) = (40, 300, 50);
    let oldest = cached + 1 - window;
    let vectors = |seed| {
        let mut all = numbers::<f16>(seed, 400 * 64);
        all[..oldest * 64].fill(f16::NAN);
        all[(cached + tokens) * 64..].fill(f16::NAN);
        all
    };
    let mut cache = KvCache::<f16>::new(stream, shape).expect("a cache");
    let (k, v) = cache.k_v_mut();
    stream.memcpy_htod(&vectors(1), k).expect("upload K");
    stream.memcpy_htod(&vectors(2), v).expect("upload V");
    let seq_lens = stream.clone_htod(&[cached as i32]).expect("upload lengths");
    let step = Step::new(&seq_lens, 400, NewTokens::Each(tokens)).expect("a step");
    let q = upload(&numbers::<f16>(3, tokens * 64));
    let mut out = upload(&vec![f16::NAN; tokens * 64]);
    kernels
        .prefill(&q, 1, &cache, step, &mut out)
        .sliding_window(window)
        .launch(stream)
        .expect("prefill");
    assert!(download(&out).iter().all(|x| x.is_finite()));
}

#[test]
fn sequences_without_room_or_tokens() {
    // Full, one token short, none cached and more than fit.
    check::<f16>(&case(New::Each(20), 4, &[200, 181, 0]));
    check::<f16>(&case(New::Each(201), 1, &[0, 100, 200]));
    check::<f16>(&case(New::Packed(vec![0, 70, 80, 300]), 2, &[150, 190, 0]));
    check::<f16>(&case(New::Each(0), 2, &[0, 1, 2]));
}

/// A prompt in parts has the numbers of the prompt at once, of which each token's is its own: bit-equal in any batch.
#[test]
fn a_sequence_alone_and_in_a_batch_give_the_same_bits() {
    let one = CacheShape { batch: 1, ..SHAPE };
    let alone = check::<f16>(&Case {
        new: New::Packed(vec![0, 97]),
        ..Case::new(one, 3, &[40])
    });
    // The first sequence of a batch has the same numbers.
    let together = check::<f16>(&Case {
        new: New::Packed(vec![0, 97, 97, 130]),
        ..Case::new(SHAPE, 3, &[40, 10, 20])
    });
    assert_eq!(together[..alone.len()], alone);
}

#[test]
fn queries_in_every_order() {
    for order in [Order::HeadMajor, Order::Apart(72)] {
        for new in [New::Each(40), New::Packed(vec![0, 3, 60, 61])] {
            // K and V of the case stay dense: append has tests of its own.
            check::<f16>(&Case {
                order,
                ..case(new, 3, &[9, 0, 100])
            });
        }
    }
}

/// Whatever cu_seqlens says, nothing outside of q, out and the cache is touched: the emulator would say so.
#[test]
fn nonsense_in_cu_seqlens_touches_nothing() {
    let Device {
        stream, kernels, ..
    } = device();
    let cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, 3, 200).expect("lengths");
    let q = upload(&numbers::<f16>(1, 40 * 2 * 64));
    let mut out = upload(&vec![f16::NAN; 40 * 2 * 64]);
    for nonsense in [
        [0, 50, 40, 40],
        [-7, 3, 9, 40],
        [0, 41, 41, 41],
        [i32::MIN, i32::MAX, i32::MIN, i32::MAX],
        [i32::MAX, i32::MAX, i32::MAX, i32::MAX],
        [30, 20, 10, 0],
    ] {
        let cu_seqlens = stream.clone_htod(&nonsense).expect("upload cu_seqlens");
        let new = NewTokens::Packed {
            cu_seqlens: &cu_seqlens,
            total: 40,
        };
        let step = lengths.step(new).expect("a step");
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .launch(stream)
            .expect("prefill");
        stream.synchronize().expect("nothing out of bounds");
    }
}

#[test]
fn what_is_refused() {
    let Device {
        stream, kernels, ..
    } = device();
    let cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, 3, 200).expect("lengths");
    let step = lengths.step(NewTokens::Each(5)).expect("a step");
    let zeros = |elements| stream.alloc_zeros::<f16>(elements).expect("allocation");
    let (q, short) = (zeros(3 * 5 * 2 * 64), zeros(3 * 5 * 2 * 64 - 8));
    let (mut out, mut short_out) = (zeros(3 * 5 * 2 * 64), zeros(3 * 5 * 2 * 64 - 8));
    let mut lse = stream.alloc_zeros::<f32>(29).expect("allocation");
    let slopes = stream.alloc_zeros::<f32>(3).expect("allocation");
    refused(
        kernels
            .prefill(&short, 2, &cache, step, &mut out)
            .launch(stream),
        "q has 1912 elements: its shape [3, 5, 2, 64] has 1920",
    );
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut short_out)
            .launch(stream),
        "out has 1912 elements: its shape [3, 5, 2, 64] has 1920",
    );
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .lse(&mut lse)
            .launch(stream),
        "lse has 29 elements: its shape [3, 5, 2] has 30",
    );
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .alibi_slopes(&slopes)
            .launch(stream),
        "alibi_slopes has 3 elements: its shape [2] has 2",
    );
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .sinks(&slopes)
            .launch(stream),
        "sinks has 3 elements: its shape [2] has 2",
    );
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .softmax_scale(f32::NAN)
            .launch(stream),
        "softmax_scale is NaN: it must be finite",
    );
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .logits_soft_cap(0.0)
            .launch(stream),
        "logits_soft_cap is 0: it must be above 0",
    );
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .sliding_window(0)
            .launch(stream),
        "sliding_window is 0: it must be at least 1",
    );
    refused(
        kernels
            .prefill(&q, 3, &cache, step, &mut out)
            .launch(stream),
        "num_q_heads is 3: it must be a multiple of num_kv_heads, 2",
    );
    let another = Lengths::new(stream, 3, 201).expect("lengths");
    let step = another.step(NewTokens::Each(5)).expect("a step");
    refused(
        kernels
            .prefill(&q, 2, &cache, step, &mut out)
            .launch(stream),
        "max_seq_len of the step is 201, but max_seq_len of the cache is 200",
    );
    let vast = lengths.step(NewTokens::Each(1 << 28)).expect("a step");
    refused(
        kernels
            .prefill(&q, 4, &cache, vast, &mut out)
            .launch(stream),
        "new tokens * num_q_heads is 3221225472: at most 2147483647 can be indexed",
    );
    let misaligned = zeros(3 * 5 * 2 * 64 + 1);
    let misaligned = misaligned.slice(1..);
    let error = kernels
        .prefill(
            Tokens::from(&misaligned),
            2,
            &cache,
            step_of(&lengths),
            &mut out,
        )
        .launch(stream)
        .unwrap_err();
    assert!(error.to_string().starts_with("q begins at 0x"), "{error}");
}

fn step_of(lengths: &Lengths) -> Step<'_> {
    lengths.step(NewTokens::Each(5)).expect("a step")
}

fn any_case() -> impl Strategy<Value = Case> {
    (1usize..4, 1usize..4, 1usize..250)
        .prop_flat_map(|(batch, num_kv_heads, max_seq_len)| {
            let counts = prop::collection::vec(0..=max_seq_len as i32, batch);
            let new = prop_oneof![
                (0usize..=max_seq_len).prop_map(New::Each),
                counts.prop_map(|counts| {
                    let mut total = 0;
                    let sums = counts.into_iter().map(|count| {
                        total += count;
                        total
                    });
                    New::Packed(std::iter::once(0).chain(sums).collect())
                }),
            ];
            (
                Just((batch, num_kv_heads, max_seq_len)),
                prop::sample::select(HEAD_DIMS),
                prop_oneof![1usize..9, 1usize..65],
                // Short enough, often, for the new tokens to find room.
                prop::collection::vec(0..=(max_seq_len / 3) as i32, batch),
                new,
                crate::properties::order(),
                crate::properties::attention(),
                any::<u32>(),
            )
        })
        .prop_map(
            |(
                (batch, num_kv_heads, max_seq_len),
                head_dim,
                group,
                seq_lens,
                new,
                order,
                attention,
                seed,
            )| {
                let shape = CacheShape {
                    batch,
                    num_kv_heads,
                    max_seq_len,
                    head_dim,
                };
                Case {
                    new,
                    order,
                    attention,
                    seed: seed.into(),
                    ..Case::new(shape, group, &seq_lens)
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn as_the_oracle_says(case in any_case(), is_bf16: bool) {
        if is_bf16 {
            check::<bf16>(&case);
        } else {
            check::<f16>(&case);
        }
    }
}

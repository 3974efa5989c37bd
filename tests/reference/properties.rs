//! What must hold for any shape.

use crate::common::{assert_close, noise, reversed_pages};
use half::{bf16, f16};
use kv_kernels::reference::{
    Append, CacheMap, ContiguousShape, Decode, Decoded, Merge, Options, PageOrder, Partial,
    Prefill, Rows, Scalar, advance, append, decode, merge, prefill,
};
use proptest::prelude::*;

/// A batch of sequences of different lengths and how a cache holds them.
#[derive(Debug, Clone)]
struct Batch {
    lens: Vec<usize>,
    num_kv_heads: usize,
    group: usize,
    head_dim: usize,
    page_size: usize,
    layout: Layout,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum Layout {
    Contiguous,
    Paged(PageOrder),
}

fn batches(min_len: usize) -> impl Strategy<Value = Batch> {
    (
        prop::collection::vec(min_len..20, 1..4),
        1usize..4,
        1usize..4,
        1usize..9,
        1usize..6,
        prop_oneof![
            Just(Layout::Contiguous),
            Just(Layout::Paged(PageOrder::Hnd)),
            Just(Layout::Paged(PageOrder::Nhd)),
        ],
        any::<u64>(),
    )
        .prop_map(
            |(lens, num_kv_heads, group, head_dim, page_size, layout, seed)| Batch {
                lens,
                num_kv_heads,
                group,
                head_dim,
                page_size,
                layout,
                seed,
            },
        )
}

/// A cache that holds every token of a batch, NaN everywhere else.
struct Filled {
    map: CacheMap,
    k_cache: Vec<f64>,
    v_cache: Vec<f64>,
}

impl Batch {
    fn num_q_heads(&self) -> usize {
        self.num_kv_heads * self.group
    }

    fn cu_seqlens(&self) -> Vec<i32> {
        let mut total = 0;
        std::iter::once(0)
            .chain(self.lens.iter().map(|len| {
                total += *len as i32;
                total
            }))
            .collect()
    }

    fn tokens(&self) -> usize {
        self.lens.iter().sum()
    }

    fn q(&self) -> Vec<f64> {
        noise(
            self.seed,
            self.tokens() * self.num_q_heads() * self.head_dim,
        )
    }

    fn k(&self) -> Vec<f64> {
        noise(
            self.seed ^ 1,
            self.tokens() * self.num_kv_heads * self.head_dim,
        )
    }

    fn v(&self) -> Vec<f64> {
        noise(
            self.seed ^ 2,
            self.tokens() * self.num_kv_heads * self.head_dim,
        )
    }

    fn lens_i32(&self) -> Vec<i32> {
        self.lens.iter().map(|len| *len as i32).collect()
    }

    /// Room for the longest sequence and a few tokens more.
    fn map(&self) -> CacheMap {
        let longest = self.lens.iter().max().unwrap() + 2;
        match self.layout {
            Layout::Contiguous => CacheMap::contiguous(ContiguousShape {
                batch: self.lens.len(),
                num_kv_heads: self.num_kv_heads,
                max_seq_len: longest,
                head_dim: self.head_dim,
            })
            .unwrap(),
            Layout::Paged(order) => reversed_pages(
                self.lens.len(),
                longest.div_ceil(self.page_size),
                self.num_kv_heads,
                self.page_size,
                self.head_dim,
                order,
            ),
        }
    }

    fn filled(&self) -> Filled {
        let map = self.map();
        let mut filled = Filled {
            k_cache: vec![f64::NAN; map.elements()],
            v_cache: vec![f64::NAN; map.elements()],
            map,
        };
        append(Append {
            map: &filled.map,
            k_cache: &mut filled.k_cache,
            v_cache: &mut filled.v_cache,
            k: &self.k(),
            v: &self.v(),
            rows: Rows::Ragged {
                cu_seqlens: &self.cu_seqlens(),
            },
            seq_lens: &vec![0; self.lens.len()],
        })
        .unwrap();
        filled
    }

    /// The last query of each sequence.
    fn last_queries(&self) -> Vec<f64> {
        let row = self.num_q_heads() * self.head_dim;
        let q = self.q();
        self.cu_seqlens()[1..]
            .iter()
            .flat_map(|end| q[(*end as usize - 1) * row..*end as usize * row].to_vec())
            .collect()
    }

    fn decode_last(&self, filled: &Filled, options: Options<'_>) -> Decoded {
        decode(Decode {
            map: &filled.map,
            k_cache: &filled.k_cache,
            v_cache: &filled.v_cache,
            q: &self.last_queries(),
            rows: Rows::Uniform {
                batch: self.lens.len(),
                tokens: 1,
            },
            num_q_heads: self.num_q_heads(),
            kv_lens: &self.lens_i32(),
            options,
        })
        .unwrap()
    }
}

proptest! {
    /// The equality a cache rests on, under every option at once, with NaN in
    /// all of the cache that holds no token.
    #[test]
    fn decode_is_the_last_row_of_prefill(
        batch in batches(1),
        scale in prop::option::of(0.1f64..2.0),
        cap in prop::option::of(0.5f64..5.0),
        window in prop::option::of(1usize..25),
        with_sinks: bool,
        with_alibi: bool,
    ) {
        let heads = batch.num_q_heads();
        let per_head: Vec<f32> = noise(batch.seed ^ 3, heads).iter().map(|x| *x as f32).collect();
        let options = Options {
            softmax_scale: scale,
            logits_soft_cap: cap,
            sliding_window: window,
            sinks: with_sinks.then_some(&per_head),
            alibi_slopes: with_alibi.then_some(&per_head),
        };
        let filled = batch.filled();
        let step = batch.decode_last(&filled, options);
        let cu_seqlens = batch.cu_seqlens();
        let whole = prefill(Prefill {
            q: &batch.q(),
            k: &batch.k(),
            v: &batch.v(),
            rows: Rows::Ragged { cu_seqlens: &cu_seqlens },
            num_q_heads: heads,
            num_kv_heads: batch.num_kv_heads,
            head_dim: batch.head_dim,
            causal: true,
            options,
        }).unwrap();
        let row = heads * batch.head_dim;
        for (sequence, end) in cu_seqlens[1..].iter().enumerate() {
            let last = *end as usize - 1;
            assert_close(
                &step.out[sequence * row..(sequence + 1) * row],
                &whole.out[last * row..(last + 1) * row],
                1e-12,
            );
            assert_close(
                &step.lse[sequence * heads..(sequence + 1) * heads],
                &whole.lse[last * heads..(last + 1) * heads],
                1e-12,
            );
        }

        // All queries at once, causal among themselves: prefill as such.
        let all = decode(Decode {
            map: &filled.map,
            k_cache: &filled.k_cache,
            v_cache: &filled.v_cache,
            q: &batch.q(),
            rows: Rows::Ragged { cu_seqlens: &cu_seqlens },
            num_q_heads: heads,
            kv_lens: &batch.lens_i32(),
            options,
        }).unwrap();
        assert_close(&all.out, &whole.out, 1e-12);
        assert_close(&all.lse, &whole.lse, 1e-12);
    }

    /// Attention over consecutive parts of a sequence, merged.
    #[test]
    fn merging_any_split_gives_the_whole(
        batch in batches(1),
        cuts in prop::collection::vec(0usize..20, 0..4),
    ) {
        let batch = Batch { lens: vec![batch.lens[0]], layout: Layout::Contiguous, ..batch };
        let len = batch.lens[0];
        let filled = batch.filled();
        let whole = batch.decode_last(&filled, Options::default());

        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(len)).collect();
        cuts.extend([0, len]);
        cuts.sort_unstable();
        let row = batch.num_kv_heads * batch.head_dim;
        let parts: Vec<Decoded> = cuts.windows(2).map(|part| {
            let tokens = part[1] - part[0];
            let map = CacheMap::contiguous(ContiguousShape {
                batch: 1,
                num_kv_heads: batch.num_kv_heads,
                max_seq_len: tokens.max(1),
                head_dim: batch.head_dim,
            }).unwrap();
            let mut k_cache = vec![f64::NAN; map.elements()];
            let mut v_cache = vec![f64::NAN; map.elements()];
            append(Append {
                map: &map,
                k_cache: &mut k_cache,
                v_cache: &mut v_cache,
                k: &batch.k()[part[0] * row..part[1] * row],
                v: &batch.v()[part[0] * row..part[1] * row],
                rows: Rows::Uniform { batch: 1, tokens },
                seq_lens: &[0],
            }).unwrap();
            decode(Decode {
                map: &map,
                k_cache: &k_cache,
                v_cache: &v_cache,
                q: &batch.last_queries(),
                rows: Rows::Uniform { batch: 1, tokens: 1 },
                num_q_heads: batch.num_q_heads(),
                kv_lens: &[tokens as i32],
                options: Options::default(),
            }).unwrap()
        }).collect();
        let partials: Vec<_> =
            parts.iter().map(|part| Partial { out: &part.out, lse: &part.lse }).collect();
        let merged = merge(Merge { partials: &partials, head_dim: batch.head_dim }).unwrap();
        assert_close(&merged.out, &whole.out, 1e-12);
        assert_close(&merged.lse, &whole.lse, 1e-12);
    }

    #[test]
    fn a_window_as_long_as_the_sequence_is_none(batch in batches(1), more in 0usize..3) {
        let filled = batch.filled();
        let longest = batch.lens.iter().max().unwrap() + more;
        let windowed = batch.decode_last(&filled, Options {
            sliding_window: Some(longest),
            ..Options::default()
        });
        prop_assert_eq!(windowed, batch.decode_last(&filled, Options::default()));
    }

    /// Tokens outside the window may hold anything.
    #[test]
    fn tokens_outside_the_window_are_not_read(batch in batches(1), window in 1usize..8) {
        let mut filled = batch.filled();
        let options = Options { sliding_window: Some(window), ..Options::default() };
        let before = batch.decode_last(&filled, options);
        for (sequence, len) in batch.lens.iter().enumerate() {
            for token in 0..len.saturating_sub(window) {
                for head in 0..batch.num_kv_heads {
                    let at = filled.map.vector(sequence, head, token).unwrap();
                    filled.k_cache[at.clone()].fill(f64::NAN);
                    filled.v_cache[at].fill(f64::NAN);
                }
            }
        }
        prop_assert_eq!(before, batch.decode_last(&filled, options));
    }

    /// Token by token or all at once, contiguous or paged: the same vectors at
    /// the same (sequence, head, token), nothing else written, full sequences
    /// left as they were.
    #[test]
    fn appending_fills_and_never_moves(batch in batches(0), chunk in 1usize..4) {
        let map = batch.map();
        let mut k_cache = vec![f64::NAN; map.elements()];
        let mut v_cache = vec![f64::NAN; map.elements()];
        let mut seq_lens = vec![0; batch.lens.len()];
        let (k, v) = (batch.k(), batch.v());
        let row = batch.num_kv_heads * batch.head_dim;
        let starts = batch.cu_seqlens();
        while seq_lens.iter().zip(&batch.lens).any(|(held, len)| (*held as usize) < *len) {
            let mut cu_seqlens = vec![0];
            let (mut new_k, mut new_v) = (Vec::new(), Vec::new());
            for (sequence, len) in batch.lens.iter().enumerate() {
                let held = seq_lens[sequence] as usize;
                let tokens = chunk.min(len - held);
                let from = starts[sequence] as usize + held;
                new_k.extend_from_slice(&k[from * row..(from + tokens) * row]);
                new_v.extend_from_slice(&v[from * row..(from + tokens) * row]);
                cu_seqlens.push(cu_seqlens[sequence] + tokens as i32);
            }
            let rows = Rows::Ragged { cu_seqlens: &cu_seqlens };
            let appended = append(Append {
                map: &map,
                k_cache: &mut k_cache,
                v_cache: &mut v_cache,
                k: &new_k,
                v: &new_v,
                rows,
                seq_lens: &seq_lens,
            }).unwrap();
            prop_assert!(appended.overflowed.is_empty());
            let advanced = advance(&mut seq_lens, rows, map.capacity()).unwrap();
            prop_assert!(advanced.overflowed.is_empty());
        }
        prop_assert_eq!(&seq_lens, &batch.lens_i32());
        let bits = |cache: &[f64]| cache.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let filled = batch.filled();
        prop_assert_eq!(bits(&k_cache), bits(&filled.k_cache));
        prop_assert_eq!(bits(&v_cache), bits(&filled.v_cache));
        let held: usize = k_cache.iter().filter(|x| !x.is_nan()).count();
        prop_assert_eq!(held, k.len());
        for (sequence, len) in batch.lens.iter().enumerate() {
            for token in 0..*len {
                for head in 0..batch.num_kv_heads {
                    let from = (starts[sequence] as usize + token) * row + head * batch.head_dim;
                    let at = map.vector(sequence, head, token).unwrap();
                    prop_assert_eq!(&k_cache[at], &k[from..from + batch.head_dim]);
                }
            }
        }

        // One token too many for the last sequence: it alone stays as it is.
        let last = batch.lens.len() - 1;
        let room = map.capacity() - batch.lens[last];
        let mut cu_seqlens = vec![0; batch.lens.len() + 1];
        cu_seqlens[last + 1] = room as i32 + 1;
        let rows = Rows::Ragged { cu_seqlens: &cu_seqlens };
        let new = noise(9, (room + 1) * row);
        let before = bits(&k_cache);
        let appended = append(Append {
            map: &map,
            k_cache: &mut k_cache,
            v_cache: &mut v_cache,
            k: &new,
            v: &new,
            rows,
            seq_lens: &seq_lens,
        }).unwrap();
        prop_assert_eq!(&appended.overflowed, &vec![last]);
        prop_assert_eq!(bits(&k_cache), before);
        let lens = seq_lens.clone();
        prop_assert_eq!(advance(&mut seq_lens, rows, map.capacity()).unwrap(), appended);
        prop_assert_eq!(seq_lens, lens);
    }

    /// One rounding from f64: no neighbour is nearer, and a tie goes to even.
    #[test]
    fn rounding_is_to_the_nearest(bits: u64, near in -70000.0f64..70000.0) {
        for value in [f64::from_bits(bits), near, near * 1e-9] {
            nearest(value, f16::from_bits, f16::to_bits, 65520.0);
            nearest(value, bf16::from_bits, bf16::to_bits, (2.0 - 2f64.powi(-8)) * 2f64.powi(127));
        }
    }
}

#[track_caller]
fn nearest<T: Scalar>(value: f64, of: fn(u16) -> T, bits: fn(T) -> u16, overflow: f64) {
    let rounded = T::from_f64(value);
    if value.is_nan() {
        assert!(rounded.to_f64().is_nan());
        return;
    }
    assert_eq!(rounded.to_f64().is_infinite(), value.abs() >= overflow);
    if rounded.to_f64().is_infinite() {
        return;
    }
    let error = (rounded.to_f64() - value).abs();
    for neighbour in [bits(rounded).wrapping_sub(1), bits(rounded).wrapping_add(1)] {
        let other = of(neighbour).to_f64();
        if other.is_finite() {
            let further = (other - value).abs();
            let tie_to_even = further == error && bits(rounded).is_multiple_of(2);
            assert!(
                further > error || tie_to_even || error == 0.0,
                "{value:e} became {:e}, not {other:e}",
                rounded.to_f64()
            );
        }
    }
}

#[test]
fn an_inexact_value_is_no_tie() {
    // Just above the middle between 1 and the next f16: f32 in between would
    // make it a tie, and even is down.
    let above = 1.0 + (0.5 + 1e-9) * 2f64.powi(-10);
    assert_eq!(<f16 as Scalar>::from_f64(above).to_bits(), 0x3c01);
    assert_eq!(<f16 as Scalar>::from_f64(-above).to_bits(), 0xbc01);
    let above = 1.0 + (0.5 + 1e-9) * 2f64.powi(-7);
    assert_eq!(<bf16 as Scalar>::from_f64(above).to_bits(), 0x3f81);
}

#[test]
fn sequences_without_tokens_and_past_capacity_give_zeros() {
    let map = CacheMap::contiguous(ContiguousShape {
        batch: 4,
        num_kv_heads: 1,
        max_seq_len: 2,
        head_dim: 1,
    })
    .unwrap();
    let mut cache = vec![f64::NAN; map.elements()];
    cache[2] = 7.0; // sequence 1 holds one token
    cache[6] = 5.0; // sequence 3 as well
    let sinks = [0.0];
    for sinks in [None, Some(&sinks[..])] {
        let step = decode(Decode {
            map: &map,
            k_cache: &cache,
            v_cache: &cache,
            q: &[1.0f32; 8],
            rows: Rows::Uniform {
                batch: 4,
                tokens: 2,
            },
            num_q_heads: 1,
            kv_lens: &[0, 1, 3, 1],
            options: Options {
                sinks,
                ..Options::default()
            },
        })
        .unwrap();
        // Sequence 1 and 3 have one token and two queries: the first query
        // comes before the sequence's beginning and sees nothing.
        let weight = |k: f64| sinks.map_or(1.0, |_| k.exp() / (k.exp() + 1.0));
        let seen = [7.0 * weight(7.0), 5.0 * weight(5.0)];
        assert_close(
            &step.out,
            &[0.0, 0.0, 0.0, seen[0], 0.0, 0.0, 0.0, seen[1]],
            1e-12,
        );
        for nothing in [0, 1, 2, 4, 5, 6] {
            assert_eq!(step.lse[nothing], f64::NEG_INFINITY);
        }
        assert_eq!(step.overflowed, [2]);
    }
}

//! RoPE: every kind of angle, in place and on the way to the cache, against the oracle.

mod refused;
mod step;

use half::{bf16, f16};
use kv_kernels::cudarc::driver::CudaSlice;
use kv_kernels::reference::{self, Angles, Comparison, RopeTable, positions};
use kv_kernels::{
    CacheShape, HEAD_DIMS, KvCache, Lengths, Llama3Scaling, NewTokens, PairStyle, Rope,
    RopeFrequencies, Step, Strides, TokensMut, YarnScaling,
};
use proptest::prelude::*;

use crate::case::{Case, New, Order, PADDING, upload_padded};
use crate::harness::{Device, Number, another_context, bits, device, download, numbers, upload};
use crate::rejected::refused;

/// How vectors turn.
#[derive(Clone, Debug)]
struct Turn {
    frequencies: RopeFrequencies,
    pairs: PairStyle,
    /// Whether the angles are looked up, for sequences of so many tokens.
    table: Option<usize>,
}

const STYLES: [PairStyle; 2] = [PairStyle::HalfSplit, PairStyle::Interleaved];

fn plain(rotary_dim: usize) -> RopeFrequencies {
    RopeFrequencies::plain(10_000.0, rotary_dim).expect("frequencies")
}

impl Turn {
    fn new(rotary_dim: usize, pairs: PairStyle) -> Turn {
        Turn {
            frequencies: plain(rotary_dim),
            pairs,
            table: None,
        }
    }

    /// The rope as a kernel takes it, by way of `with`: tables are borrowed.
    fn with<R>(&self, with: impl FnOnce(&Rope<'_>) -> R) -> R {
        let stream = &device().stream;
        match self.reference_table() {
            None => with(&Rope::new(stream, &self.frequencies, self.pairs).expect("a rope")),
            Some(table) => {
                let cos = stream.clone_htod(&table.cos).expect("upload cos");
                let sin = stream.clone_htod(&table.sin).expect("upload sin");
                let (positions, rotary_dim) = (table.positions, table.rotary_dim);
                with(
                    &Rope::from_tables(&cos, &sin, positions, rotary_dim, self.pairs)
                        .expect("a rope"),
                )
            }
        }
    }

    fn reference_table(&self) -> Option<RopeTable> {
        let positions = self.table?;
        Some(self.frequencies.table(positions).expect("a table"))
    }

    /// Vectors `[tokens, heads, head_dim]` turned, not rounded.
    fn expected<T: Number>(&self, x: &[T], positions: &[i32], shape: CacheShape) -> Vec<f64> {
        let table = self.reference_table();
        reference::rope(reference::Rope {
            x,
            positions,
            heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            style: self.pairs,
            angles: match &table {
                Some(table) => Angles::Table(table),
                None => Angles::Frequencies(&self.frequencies),
            },
        })
        .expect("the oracle turns")
    }
}

/// Whether the numbers are the expected ones rounded once, give or take what fp32 makes of angles and products.
#[track_caller]
fn assert_rounded<T: Number>(found: &[T], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = found.to_f64();
        let bound = T::EPSILON / 2.0 * expected.abs() + 1.5e-6;
        assert!(
            (found - expected).abs() <= bound,
            "{what}[{index}]: {found}, expected {expected}"
        );
    }
}

fn upload_cu_seqlens(new: &New) -> Option<CudaSlice<i32>> {
    match new {
        New::Each(_) => None,
        New::Packed(cu_seqlens) => {
            let stream = &device().stream;
            Some(stream.clone_htod(cu_seqlens).expect("upload cu_seqlens"))
        }
    }
}

fn new_tokens<'a>(case: &Case, cu_seqlens: &'a Option<CudaSlice<i32>>) -> NewTokens<'a> {
    let (_, tokens) = case.extent();
    match cu_seqlens {
        None => NewTokens::Each(tokens),
        Some(cu_seqlens) => NewTokens::Packed {
            cu_seqlens,
            total: tokens,
        },
    }
}

/// Which of the new tokens find room, one by one.
fn kept(case: &Case) -> Vec<bool> {
    let ranges = case.rows().ranges().expect("ranges");
    let lens = ranges.iter().zip(&case.seq_lens);
    lens.flat_map(|(range, &len)| {
        let fits = len as usize + range.len() <= case.shape.max_seq_len;
        range.clone().map(move |_| fits)
    })
    .collect()
}

impl Case {
    /// New vectors of so many heads, in the case's order.
    fn of_heads(&self, heads: usize) -> Case {
        let mut case = self.clone();
        case.shape.num_kv_heads = heads;
        case
    }

    /// Where the new tokens come to lie; 0 for those without room, which no table need know.
    fn positions(&self) -> Vec<i32> {
        let positions = positions(self.rows(), &self.seq_lens).expect("positions");
        let kept = kept(self).into_iter();
        let inside = positions.into_iter().zip(kept);
        inside.map(|(at, kept)| if kept { at } else { 0 }).collect()
    }

    /// Turns q and k in place and compares every element of both, those between vectors and of sequences without room
    /// too.
    fn check_turned<T: Number>(&self, turn: &Turn) {
        let Device {
            stream, kernels, ..
        } = device();
        let shape = self.shape;
        let (q_case, k_case) = (
            self.of_heads(shape.num_kv_heads * self.group_size),
            self.clone(),
        );
        let (batch, tokens) = self.extent();
        let rows = |case: &Case, seed| {
            numbers::<T>(
                self.seed + seed,
                batch * tokens * case.shape.num_kv_heads * shape.head_dim,
            )
        };
        let (q, k) = (rows(&q_case, 10), rows(&k_case, 11));
        let mut q_device = upload_padded(&q_case.arranged(&q));
        let mut k_device = upload_padded(&k_case.arranged(&k));
        // Lengths of an engine's own: no cache is needed, so that sequences may be as long as can be.
        let seq_lens = stream.clone_htod(&self.seq_lens).expect("upload lengths");
        let cu_seqlens = upload_cu_seqlens(&self.new);
        let new = new_tokens(self, &cu_seqlens);
        let step = Step::new(&seq_lens, shape.max_seq_len, new).expect("a step");
        turn.with(|rope| {
            let (q_len, k_len) = (q_device.len() - PADDING, k_device.len() - PADDING);
            let mut q_view = q_device.slice_mut(..q_len);
            let mut k_view = k_device.slice_mut(..k_len);
            let q_tokens = match self.order {
                Order::TokenMajor => TokensMut::from(&mut q_view),
                Order::HeadMajor => TokensMut::head_major(&mut q_view),
                Order::Apart(_) => TokensMut::strided(&mut q_view, q_case.strides()),
            };
            let k_tokens = match self.order {
                Order::TokenMajor => TokensMut::from(&mut k_view),
                Order::HeadMajor => TokensMut::head_major(&mut k_view),
                Order::Apart(_) => TokensMut::strided(&mut k_view, k_case.strides()),
            };
            kernels
                .rope(rope, shape.head_dim, step)
                .q(q_tokens, q_case.shape.num_kv_heads)
                .k(k_tokens, shape.num_kv_heads)
                .launch(stream)
                .expect("rope");
        });

        let kept = kept(self);
        let positions = self.positions();
        for (what, case, rows, device) in [("q", q_case, q, q_device), ("k", k_case, k, k_device)] {
            let what = format!("{what} of {self:?} by {turn:?}");
            let found = download(&device);
            let (found, behind) = found.split_at(found.len() - PADDING);
            assert_eq!(bits(behind), bits(&[T::NAN; PADDING]), "{what}");
            let heads = case.shape.num_kv_heads;
            let row = heads * shape.head_dim;
            let expected = turn.expected(&rows, &positions, case.shape);
            // Where each row lies: by arranging their numbers.
            let mut left: Vec<T> = found.to_vec();
            let strides = case.strides();
            for b in 0..batch {
                for t in 0..tokens {
                    let token = b * tokens + t;
                    for h in 0..heads {
                        let at = b * strides.batch + t * strides.token + h * strides.head;
                        let from = token * row + h * shape.head_dim;
                        let vector = from..from + shape.head_dim;
                        let found = &left[at..at + shape.head_dim];
                        if kept[token] {
                            assert_rounded(found, &expected[vector.clone()], &what);
                            let rotary_dim = turn.frequencies.rotary_dim();
                            assert_eq!(
                                bits(&found[rotary_dim..]),
                                bits(&rows[vector][rotary_dim..]),
                                "{what}"
                            );
                        } else {
                            assert_eq!(bits(found), bits(&rows[vector]), "{what}");
                        }
                        left[at..at + shape.head_dim].fill(T::NAN);
                    }
                }
            }
            assert!(left.iter().all(|x| x.to_f64().is_nan()), "{what}");
        }
    }

    /// Appends with K turned, and compares both caches and the status words.
    fn check_appended<T: Number>(&self, turn: &Turn) {
        let Device {
            stream, kernels, ..
        } = device();
        let shape = self.shape;
        let (batch, tokens) = self.extent();
        let row = shape.num_kv_heads * shape.head_dim;
        let mut k_cache = self.poisoned::<T>(0);
        let mut v_cache = self.poisoned::<T>(1);
        let k = numbers::<T>(self.seed + 2, batch * tokens * row);
        let v = numbers::<T>(self.seed + 3, batch * tokens * row);

        let mut cache = KvCache::<T>::new(stream, shape).expect("a cache");
        let (to_k, to_v) = cache.k_v_mut();
        stream.memcpy_htod(&k_cache, to_k).expect("upload K");
        stream.memcpy_htod(&v_cache, to_v).expect("upload V");
        let mut lengths = Lengths::new(stream, shape.batch, shape.max_seq_len).expect("lengths");
        let seq_lens: Vec<usize> = self.seq_lens.iter().map(|&len| len as usize).collect();
        lengths.set(stream, &seq_lens).expect("set lengths");
        let k_device = upload_padded(&self.arranged(&k));
        let v_device = upload_padded(&self.arranged(&v));
        let len = k_device.len() - PADDING;
        let (k_view, v_view) = (k_device.slice(..len), v_device.slice(..len));
        let cu_seqlens = upload_cu_seqlens(&self.new);
        let step = lengths.step(new_tokens(self, &cu_seqlens)).expect("a step");
        turn.with(|rope| {
            kernels
                .append(self.tokens(&k_view), self.tokens(&v_view), &mut cache, step)
                .rope(rope)
                .launch(stream)
                .expect("append");
        });

        // K as the oracle appends it, and beside it what is to be where: new rows are compared, others are equal.
        let map = self.map();
        let positions = positions(self.rows(), &self.seq_lens).expect("positions");
        let inside: Vec<i32> = positions
            .iter()
            .zip(kept(self))
            .map(|(&p, kept)| if kept { p } else { 0 })
            .collect();
        let turned = turn.expected(&k, &inside, shape);
        let mut expected_k: Vec<f64> = k_cache.iter().map(|x| x.to_f64()).collect();
        let appended = reference::append(reference::Append {
            map: &map,
            k_cache: &mut expected_k,
            v_cache: &mut v_cache,
            k: &turned,
            v: &v,
            rows: self.rows(),
            seq_lens: &self.seq_lens,
        })
        .expect("the oracle appends");
        let mut new_rows = vec![false; k_cache.len()];
        reference::append(reference::Append {
            map: &map,
            k_cache: &mut new_rows,
            v_cache: &mut vec![false; k_cache.len()],
            k: &vec![true; k.len()],
            v: &vec![true; k.len()],
            rows: self.rows(),
            seq_lens: &self.seq_lens,
        })
        .expect("the oracle appends");

        let what = format!("{self:?} by {turn:?}");
        assert_eq!(bits(&download(cache.v())), bits(&v_cache), "V of {what}");
        let found = download(cache.k());
        for (index, is_new) in new_rows.into_iter().enumerate() {
            if is_new {
                assert_rounded(&found[index..=index], &expected_k[index..=index], &what);
                // Only to compare the rest at once.
                k_cache[index] = found[index];
            }
        }
        assert_eq!(bits(&found), bits(&k_cache), "K of {what}");
        let mut words = vec![0; shape.batch];
        for sequence in appended.overflowed {
            words[sequence] = 1;
        }
        let status = lengths.status(stream).expect("status");
        assert_eq!(status, kv_kernels::Status::from_words(words), "{what}");
    }
}

const SHAPE: CacheShape = CacheShape {
    batch: 3,
    num_kv_heads: 5,
    max_seq_len: 60,
    head_dim: 64,
};

fn case(head_dim: usize, new: New) -> Case {
    let shape = CacheShape { head_dim, ..SHAPE };
    Case {
        new,
        ..Case::new(shape, 2, &[0, 17, 41])
    }
}

#[test]
fn every_head_dim_turned_whole() {
    for &head_dim in HEAD_DIMS {
        for pairs in STYLES {
            let turn = Turn::new(head_dim, pairs);
            for new in [New::Each(7), New::Packed(vec![0, 11, 11, 30])] {
                let case = case(head_dim, new);
                case.check_turned::<f16>(&turn);
                case.check_turned::<bf16>(&turn);
                case.check_appended::<f16>(&turn);
                case.check_appended::<bf16>(&turn);
            }
        }
    }
}

/// As models have them, and such as no model has: pairs that lie across 16 bytes, halves of odd length.
#[test]
fn a_part_of_the_channels() {
    for (head_dim, rotary_dim) in [
        (64, 16),
        (80, 32),
        (80, 20),
        (96, 24),
        (128, 64),
        (128, 2),
        (128, 126),
        (256, 64),
        (112, 74),
    ] {
        for pairs in STYLES {
            let turn = Turn::new(rotary_dim, pairs);
            let case = case(head_dim, New::Each(5));
            case.check_turned::<f16>(&turn);
            case.check_appended::<f16>(&turn);
        }
    }
}

#[test]
fn tables_and_scaled_frequencies() {
    let llama3 = RopeFrequencies::llama3(
        500_000.0,
        128,
        Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192.0,
        },
    );
    let yarn = RopeFrequencies::yarn(
        10_000.0,
        64,
        YarnScaling {
            factor: 4.0,
            original_max_positions: 16.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            truncate: true,
        },
    );
    for frequencies in [llama3, yarn] {
        let frequencies = frequencies.expect("frequencies");
        for pairs in STYLES {
            for table in [None, Some(SHAPE.max_seq_len), Some(1000)] {
                let turn = Turn {
                    frequencies: frequencies.clone(),
                    pairs,
                    table,
                };
                let case = case(128, New::Packed(vec![0, 3, 20, 21]));
                case.check_turned::<bf16>(&turn);
                case.check_appended::<f16>(&turn);
            }
        }
    }
}

#[test]
fn every_order_of_the_vectors() {
    for order in [Order::TokenMajor, Order::HeadMajor, Order::Apart(72)] {
        for new in [New::Each(4), New::Packed(vec![0, 0, 9, 12])] {
            let case = Case {
                order,
                ..case(128, new)
            };
            let turn = Turn::new(128, PairStyle::HalfSplit);
            case.check_turned::<f16>(&turn);
            case.check_appended::<bf16>(&turn);
        }
    }
}

/// Angles are as exact a billion tokens on as at the first.
#[test]
fn positions_to_the_end() {
    for (seq_lens, max_seq_len) in [
        ([131_071, 999_999, 1_048_575], 1 << 20),
        ([16_777_217, 1 << 29, (1 << 30) - 2], 1 << 30),
    ] {
        for head_dim in [64, 128] {
            let shape = CacheShape {
                max_seq_len,
                head_dim,
                ..SHAPE
            };
            let case = Case::new(shape, 1, &seq_lens);
            for pairs in STYLES {
                let turn = Turn::new(head_dim, pairs);
                case.check_turned::<f16>(&turn);
                case.check_turned::<bf16>(&turn);
            }
        }
    }
}

#[test]
fn a_sequence_without_room_is_left_as_it_is() {
    let turn = Turn::new(64, PairStyle::HalfSplit);
    for new in [
        New::Each(2),
        New::Each(61),
        New::Each(0),
        New::Packed(vec![0, 1, 2, 4]),
    ] {
        let case = Case {
            new,
            ..Case::new(SHAPE, 3, &[60, 59, 58])
        };
        case.check_turned::<f16>(&turn);
        case.check_appended::<f16>(&turn);
    }
}

/// One launch for q alone, k alone, or neither.
#[test]
fn either_may_be_missing() {
    let Device {
        stream, kernels, ..
    } = device();
    let lengths = Lengths::new(stream, 1, 8).expect("lengths");
    let step = lengths.step(NewTokens::Each(1)).expect("a step");
    let rope = Rope::new(stream, &plain(64), PairStyle::HalfSplit).expect("a rope");
    let mut q = upload(&numbers::<f16>(1, 64));
    let mut k = upload(&numbers::<f16>(2, 64));
    kernels
        .rope(&rope, 64, step)
        .q(&mut q, 1)
        .launch(stream)
        .expect("q alone");
    kernels
        .rope(&rope, 64, step)
        .k(&mut k, 1)
        .launch(stream)
        .expect("k alone");
    // At position 0 nothing turns.
    assert_eq!(download(&q), numbers::<f16>(1, 64));
    assert_eq!(download(&k), numbers::<f16>(2, 64));
    let neither = kernels.rope::<f16>(&rope, 64, step);
    assert_eq!(neither.plan(), Ok(None));
    neither.launch(stream).expect("nothing");
}

fn turn(head_dim: usize) -> impl Strategy<Value = Turn> {
    let rotary_dim = prop_oneof![Just(head_dim), (1..=head_dim / 2).prop_map(|half| 2 * half)];
    (
        rotary_dim,
        prop::sample::select(&STYLES),
        100.0f64..1e6,
        any::<bool>(),
    )
        .prop_map(|(rotary_dim, pairs, base, table)| Turn {
            frequencies: RopeFrequencies::plain(base, rotary_dim).expect("frequencies"),
            pairs,
            table: table.then_some(200),
        })
}

fn any_case() -> impl Strategy<Value = (Case, Turn)> {
    (1usize..4, 1usize..8, 1usize..200, 1usize..6)
        .prop_flat_map(|(batch, num_kv_heads, max_seq_len, group_size)| {
            let head_dim = prop::sample::select(HEAD_DIMS);
            (
                head_dim.prop_flat_map(|head_dim| (Just(head_dim), turn(head_dim))),
                prop::collection::vec(0..=max_seq_len as i32, batch),
                crate::properties::new_tokens(batch),
                crate::properties::order(),
                any::<u32>(),
                Just((num_kv_heads, max_seq_len, group_size)),
            )
        })
        .prop_map(
            |((head_dim, turn), seq_lens, new, order, seed, (num_kv_heads, max_seq_len, group))| {
                let shape = CacheShape {
                    batch: seq_lens.len(),
                    num_kv_heads,
                    max_seq_len,
                    head_dim,
                };
                let case = Case {
                    new,
                    order,
                    seed: seed.into(),
                    ..Case::new(shape, group, &seq_lens)
                };
                (case, turn)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn as_the_oracle_says((case, turn) in any_case(), is_bf16: bool) {
        if is_bf16 {
            case.check_turned::<bf16>(&turn);
            case.check_appended::<bf16>(&turn);
        } else {
            case.check_turned::<f16>(&turn);
            case.check_appended::<f16>(&turn);
        }
    }
}

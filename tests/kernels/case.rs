//! One whole step on the device compared with the oracle.

use half::f16;
use kv_kernels::cudarc::driver::{CudaSlice, CudaView};
use kv_kernels::reference::{
    self, CacheMap, Comparison, ContiguousShape, Options, Rows, Tolerance,
};
use kv_kernels::{
    CacheShape, DecodeShape, KvCache, Lengths, NewTokens, Status, Storage, Stores, Strides, Tokens,
    Workspace,
};

use crate::harness::{Device, Number, bytes, device, download, numbers, upload};
use crate::stored::{Appending, Kept, Side};

/// Elements behind the vectors of a step, which may have none: the driver allocates no empty memory.
pub const PADDING: usize = 8;

pub fn upload_padded<T: Number>(values: &[T]) -> CudaSlice<T> {
    upload(&[values, &[T::NAN; PADDING]].concat())
}

/// How many new tokens a test's step has.
#[derive(Clone, Debug)]
pub enum New {
    Each(usize),
    Packed(Vec<i32>),
}

/// In what order a test's new vectors lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    TokenMajor,
    HeadMajor,
    /// As part of rows that hold this many elements more.
    Apart(usize),
}

/// One step: append, attend, advance.
#[derive(Clone, Debug)]
pub struct Case {
    pub shape: CacheShape,
    pub group_size: usize,
    pub seq_lens: Vec<i32>,
    pub new: New,
    pub order: Order,
    pub attention: Attention,
    /// Query tokens of a sequence.
    pub query_tokens: usize,
    /// Splits, with a workspace for them.
    pub num_splits: Option<usize>,
    /// Appends and attends in one launch: as many queries as new tokens.
    pub fused: bool,
    /// Scales channels too, where vectors have scales.
    pub channel_scales: bool,
    /// Cached vectors from 2^-18 to 2^2 of the size they would have, and some of zeros.
    pub uneven: bool,
    /// Some elements of new vectors are NaN or infinite, for caches that quantise them.
    pub non_finite: bool,
    pub seed: u64,
}

/// Options of an attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attention {
    pub softmax_scale: Option<f32>,
    pub logits_soft_cap: Option<f32>,
    pub sliding_window: Option<usize>,
    pub sinks: bool,
    pub alibi_slopes: bool,
}

impl Case {
    /// A case of one new token a sequence, dense.
    pub fn new(shape: CacheShape, group_size: usize, seq_lens: &[i32]) -> Case {
        Case {
            shape,
            group_size,
            seq_lens: seq_lens.to_vec(),
            new: New::Each(1),
            order: Order::TokenMajor,
            attention: Attention::default(),
            query_tokens: 1,
            num_splits: None,
            fused: false,
            channel_scales: false,
            uneven: false,
            non_finite: false,
            seed: 1,
        }
    }

    /// The same with every new token a query, appended in the launch that attends to it.
    pub fn fused(self, new_tokens: usize) -> Case {
        Case {
            new: New::Each(new_tokens),
            query_tokens: new_tokens,
            fused: true,
            ..self
        }
    }

    pub fn map(&self) -> CacheMap {
        CacheMap::contiguous(ContiguousShape {
            batch: self.shape.batch,
            num_kv_heads: self.shape.num_kv_heads,
            max_seq_len: self.shape.max_seq_len,
            head_dim: self.shape.head_dim,
        })
        .expect("a shape for the oracle")
    }

    pub fn rows(&self) -> Rows<'_> {
        match &self.new {
            New::Each(tokens) => Rows::Uniform {
                batch: self.shape.batch,
                tokens: *tokens,
            },
            New::Packed(cu_seqlens) => Rows::Ragged { cu_seqlens },
        }
    }

    /// Sequences and tokens of the vectors as they lie in memory.
    pub fn extent(&self) -> (usize, usize) {
        match &self.new {
            New::Each(tokens) => (self.shape.batch, *tokens),
            New::Packed(cu_seqlens) => (1, cu_seqlens[self.shape.batch] as usize),
        }
    }

    /// K or V of the case, stored as `S`: `seed` tells them apart. What lies behind a sequence's tokens is NaN.
    pub fn side<T: Number, S: Kept<T>>(&self, seed: u64) -> Side<S> {
        let map = self.map();
        let mut source = numbers::<T>(self.seed + seed, map.elements());
        if self.uneven {
            for (token, vector) in source.chunks_mut(self.shape.head_dim).enumerate() {
                let factor = match (token * 7 + seed as usize) % 22 {
                    21 => 0.0,
                    exponent => (exponent as f32 - 18.0).exp2(),
                };
                for x in vector {
                    *x = T::of(x.to_f64() as f32 * factor);
                }
            }
        }
        let channels = self.shape.num_kv_heads * self.shape.head_dim;
        // From 1/4 to 4, some of them larger.
        let channel_scale = || {
            let unit = numbers::<f16>(self.seed + seed + 100, channels);
            let scales = unit.into_iter().enumerate();
            scales
                .map(|(i, x)| (2.0 * f32::from(x)).exp2() * if i % 29 == 3 { 4.0 } else { 1.0 })
                .collect()
        };
        S::keep(
            &map,
            &self.seq_lens,
            &source,
            (self.channel_scales && S::DTYPE.is_scaled()).then(channel_scale),
        )
    }

    /// K or V as a `T` of every element, as [`side`](Self::side) has it.
    pub fn poisoned<T: Number>(&self, seed: u64) -> Vec<T> {
        self.side::<T, T>(seed).payload
    }

    /// A cache on the device of what the two hold.
    pub fn cache<K: Storage, V: Storage>(&self, k: &Side<K>, v: &Side<V>) -> KvCache<K, V> {
        let stream = &device().stream;
        let mut cache = KvCache::<K, V>::new(stream, self.shape).expect("a cache");
        let (to, scale) = cache.k_and_scale_mut();
        write(k, to, scale);
        let (to, scale) = cache.v_and_scale_mut();
        write(v, to, scale);
        let scales = |side: &Option<Vec<f32>>| {
            let scales = side.as_ref().map(|scales| stream.clone_htod(scales));
            scales.transpose().expect("upload")
        };
        cache
            .set_k_channel_scale(scales(&k.channel_scale))
            .expect("K's channels");
        cache
            .set_v_channel_scale(scales(&v.channel_scale))
            .expect("V's channels");
        cache
    }

    /// Token-major rows in the case's own order; what lies between is NaN.
    pub fn arranged<T: Number>(&self, rows: &[T]) -> Vec<T> {
        let (heads, dim) = (self.shape.num_kv_heads, self.shape.head_dim);
        let (batch, tokens) = self.extent();
        let strides = self.strides();
        let mut arranged = vec![
            T::NAN;
            match self.order {
                Order::Apart(_) => batch * strides.batch,
                _ => rows.len(),
            }
        ];
        for b in 0..batch {
            for t in 0..tokens {
                for h in 0..heads {
                    let from = ((b * tokens + t) * heads + h) * dim;
                    let to = b * strides.batch + t * strides.token + h * strides.head;
                    arranged[to..to + dim].copy_from_slice(&rows[from..from + dim]);
                }
            }
        }
        arranged
    }

    pub fn strides(&self) -> Strides {
        let (heads, dim) = (self.shape.num_kv_heads, self.shape.head_dim);
        let (_, tokens) = self.extent();
        match self.order {
            Order::TokenMajor => Strides {
                batch: tokens * heads * dim,
                token: heads * dim,
                head: dim,
            },
            Order::HeadMajor => Strides {
                batch: tokens * heads * dim,
                token: dim,
                head: tokens * dim,
            },
            Order::Apart(more) => Strides {
                batch: tokens * (heads * dim + more),
                token: heads * dim + more,
                head: dim,
            },
        }
    }

    pub fn tokens<'a, T: Number>(&self, view: &'a CudaView<'a, T>) -> Tokens<'a, T> {
        match self.order {
            Order::TokenMajor => view.into(),
            Order::HeadMajor => Tokens::head_major(view),
            Order::Apart(_) => Tokens::strided(view, self.strides()),
        }
    }

    /// Room for the case's splits, of NaN.
    pub fn workspace<T: Number, K: Storage, V: Storage>(&self) -> Workspace {
        let shape = DecodeShape {
            cache: self.shape,
            dtype: T::DTYPE,
            k_dtype: K::DTYPE,
            v_dtype: V::DTYPE,
            num_q_heads: self.shape.num_kv_heads * self.group_size,
            query_tokens: self.query_tokens.max(1),
            sliding_window: None,
        };
        let size = shape
            .workspace(self.num_splits.unwrap_or(1) as u32)
            .expect("a size");
        let stream = &device().stream;
        let partials = stream.clone_htod(&vec![f32::NAN; size.partials.max(4)]);
        let arrivals = stream.alloc_zeros(size.arrivals.max(1));
        Workspace::from_slices(partials.expect("partials"), arrivals.expect("arrivals"))
    }

    /// Runs the step on the device and in the oracle, and compares all there is: the cache bit for bit, attention and
    /// lse within the tolerances, lengths, and which sequences were full. Returns what the device wrote to `out`.
    pub fn check<T: Number>(&self) -> Vec<T> {
        self.check_stored::<T, T, T>()
    }

    /// [`check`](Self::check) over K and V of these types, quantised on the way where they are; attention is compared
    /// with the oracle's over what the cache stands for.
    pub fn check_stored<T: Number, K: Kept<T> + Stores<T>, V: Kept<T> + Stores<T>>(
        &self,
    ) -> Vec<T> {
        let Device {
            stream, kernels, ..
        } = device();
        let shape = self.shape;
        let num_q_heads = shape.num_kv_heads * self.group_size;
        let (batch, new_tokens) = self.extent();
        let row = shape.num_kv_heads * shape.head_dim;

        let mut k_side: Side<K> = self.side::<T, K>(0);
        let mut v_side: Side<V> = self.side::<T, V>(1);
        let new_vectors = |seed| {
            let mut vectors = numbers::<T>(self.seed + seed, batch * new_tokens * row);
            if self.non_finite {
                let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
                for (i, x) in vectors.iter_mut().enumerate().step_by(37) {
                    *x = T::of(bad[i % 3]);
                }
            }
            vectors
        };
        let (k, v) = (new_vectors(2), new_vectors(3));
        let queries = shape.batch * self.query_tokens * num_q_heads;
        let q = numbers::<T>(self.seed + 4, queries * shape.head_dim);
        let option_numbers = |seed, low: f32, high: f32| -> Vec<f32> {
            let unit = numbers::<f16>(self.seed + seed, num_q_heads);
            unit.into_iter()
                .map(|x| low + (high - low) * (f32::from(x) + 1.0) / 2.0)
                .collect()
        };
        let sinks = option_numbers(5, -3.0, 5.0);
        let slopes = option_numbers(6, 0.0, 0.5);

        // On the device.
        let mut cache = self.cache(&k_side, &v_side);
        let mut lengths = Lengths::new(stream, shape.batch, shape.max_seq_len).expect("lengths");
        let seq_lens: Vec<usize> = self.seq_lens.iter().map(|&len| len as usize).collect();
        lengths.set(stream, &seq_lens).expect("set lengths");
        let k_device = upload_padded(&self.arranged(&k));
        let v_device = upload_padded(&self.arranged(&v));
        let arranged_len = k_device.len() - PADDING;
        let (k_view, v_view) = (
            k_device.slice(..arranged_len),
            v_device.slice(..arranged_len),
        );
        let q_device = upload(&q);
        let mut out = upload(&vec![T::NAN; q.len()]);
        let mut lse = stream
            .clone_htod(&vec![f32::NAN; queries])
            .expect("upload lse");
        let cu_seqlens = match &self.new {
            New::Each(_) => None,
            New::Packed(cu_seqlens) => Some(stream.clone_htod(cu_seqlens).expect("cu_seqlens")),
        };
        let new = match &cu_seqlens {
            None => NewTokens::Each(new_tokens),
            Some(cu_seqlens) => NewTokens::Packed {
                cu_seqlens,
                total: new_tokens,
            },
        };
        let step = lengths.step(new).expect("a step");
        let sinks_device = stream.clone_htod(&sinks).expect("upload sinks");
        let slopes_device = stream.clone_htod(&slopes).expect("upload slopes");
        let mut workspace = self.workspace::<T, K, V>();
        let append = kernels.append(self.tokens(&k_view), self.tokens(&v_view), &mut cache, step);
        let mut decode = if self.fused {
            append.decode(&q_device, num_q_heads, &mut out)
        } else {
            append.launch(stream).expect("append");
            kernels
                .decode(&q_device, num_q_heads, &cache, step, &mut out)
                .query_tokens(self.query_tokens)
        };
        let Attention {
            softmax_scale,
            logits_soft_cap,
            sliding_window,
            ..
        } = self.attention;
        if let Some(softmax_scale) = softmax_scale {
            decode = decode.softmax_scale(softmax_scale);
        }
        if let Some(cap) = logits_soft_cap {
            decode = decode.logits_soft_cap(cap);
        }
        if let Some(window) = sliding_window {
            decode = decode.sliding_window(window);
        }
        if self.attention.sinks {
            decode = decode.sinks(&sinks_device);
        }
        if self.attention.alibi_slopes {
            decode = decode.alibi_slopes(&slopes_device);
        }
        if let Some(num_splits) = self.num_splits {
            decode = decode.num_splits(num_splits).workspace(&mut workspace);
        }
        decode.lse(&mut lse).launch(stream).expect("decode");
        kernels
            .advance(&mut lengths, new)
            .launch(stream)
            .expect("advance");

        // In the oracle.
        let map = self.map();
        let appending = |new| Appending {
            map: &map,
            new,
            rows: self.rows(),
            seq_lens: &self.seq_lens,
        };
        K::append(&mut k_side, appending(&k));
        V::append(&mut v_side, appending(&v));
        let mut kv_lens = self.seq_lens.clone();
        let advanced = reference::advance(&mut kv_lens, self.rows(), shape.max_seq_len)
            .expect("the oracle advances");
        let expected = reference::decode(reference::Decode {
            map: &map,
            k_cache: &K::values(&k_side, &map),
            v_cache: &V::values(&v_side, &map),
            q: &q,
            rows: Rows::Uniform {
                batch: shape.batch,
                tokens: self.query_tokens,
            },
            num_q_heads,
            kv_lens: &kv_lens,
            options: Options {
                softmax_scale: softmax_scale.map(f64::from),
                logits_soft_cap: logits_soft_cap.map(f64::from),
                sliding_window,
                sinks: self.attention.sinks.then_some(&sinks),
                alibi_slopes: self.attention.alibi_slopes.then_some(&slopes),
            },
        })
        .expect("the oracle attends");

        assert_same(
            &k_side,
            cache.k(),
            cache.k_scale(),
            &format!("K of {self:?}"),
        );
        assert_same(
            &v_side,
            cache.v(),
            cache.v_scale(),
            &format!("V of {self:?}"),
        );
        assert_eq!(
            lengths.get(stream).expect("lengths"),
            kv_lens,
            "lengths of {self:?}"
        );
        let status = lengths.status(stream).expect("status");
        let mut words = vec![0; shape.batch];
        advanced
            .overflowed
            .iter()
            .for_each(|&sequence| words[sequence] = 1);
        if self.non_finite {
            for (sequence, word) in words.iter_mut().enumerate().filter(|(_, word)| **word == 0) {
                let (first, end) = match &self.new {
                    New::Each(tokens) => (sequence * tokens, (sequence + 1) * tokens),
                    New::Packed(sums) => (sums[sequence] as usize, sums[sequence + 1] as usize),
                };
                let counted = |vectors: &[T]| {
                    let vectors = &vectors[first * row..end * row];
                    vectors.iter().filter(|x| !x.to_f64().is_finite()).count() as u32
                };
                let count = counted(&k) + counted(&v);
                // The flag, and the count from bit 8 on.
                *word = if count > 0 { 8 | count << 8 } else { 0 };
            }
        }
        assert_eq!(status, Status::from_words(words), "status of {self:?}");

        let arrivals = workspace.into_slices().1;
        let arrivals = stream.clone_dtoh(&arrivals).expect("arrivals");
        assert!(
            arrivals.iter().all(|&count| count == 0),
            "arrivals of {self:?}"
        );
        let out = download(&out);
        let compared = Comparison::of(&out, &expected.out).expect("as many");
        assert!(compared.within(T::TOLERANCE), "out of {self:?}: {compared}");
        let lse = stream.clone_dtoh(&lse).expect("download lse");
        for (index, (found, expected)) in lse.iter().zip(&expected.lse).enumerate() {
            let found = f64::from(*found);
            assert!(
                found == *expected || (found - expected).abs() <= Tolerance::LSE,
                "lse[{index}] of {self:?}: {found}, expected {expected}"
            );
        }
        out
    }
}

/// Writes what the host has to the device.
fn write<S: Storage>(side: &Side<S>, to: &mut CudaSlice<S>, scale: Option<&mut CudaSlice<f32>>) {
    let stream = &device().stream;
    stream.memcpy_htod(&side.payload, to).expect("upload");
    if let Some(scale) = scale {
        stream
            .memcpy_htod(&side.scales, scale)
            .expect("upload scales");
    }
}

/// Compares payload and scales bit for bit.
pub fn assert_same<S: Storage>(
    expected: &Side<S>,
    payload: &CudaSlice<S>,
    scales: Option<&CudaSlice<f32>>,
    what: &str,
) {
    assert!(
        bytes(&download(payload)) == bytes(&expected.payload),
        "{what}"
    );
    if let Some(scales) = scales {
        let scales = device().stream.clone_dtoh(scales).expect("download");
        for (index, (found, expected)) in scales.iter().zip(&expected.scales).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "scale {index} of {what}"
            );
        }
    }
}

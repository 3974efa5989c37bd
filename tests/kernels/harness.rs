//! A device, and one whole step on it compared with the oracle.

use std::sync::{Arc, OnceLock};

use half::{bf16, f16};
use kv_kernels::cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, sys};
use kv_kernels::reference::{
    self, CacheMap, Comparison, ContiguousShape, Options, Rows, Scalar, Tolerance,
};
use kv_kernels::{
    CacheShape, Element, Kernels, KvCache, Lengths, NewTokens, Status, Strides, Tokens,
};

/// What the tests run on, opened once.
pub struct Device {
    pub ctx: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
}

pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        install();
        let ctx = kv_kernels::open(0).expect("a device");
        Device {
            // Not the default stream: slices give their memory back on their stream without making its context
            // current, and the default one is that of whichever context is.
            stream: ctx.new_stream().expect("a stream"),
            kernels: Kernels::new(&ctx).expect("the kernels load"),
            ctx,
        }
    })
}

/// A context besides the device's primary one.
pub fn another_context() -> Arc<CudaContext> {
    let device = device().ctx.cu_device();
    let mut context = std::ptr::null_mut();
    // SAFETY: the device is one the driver gave, and the address is that of a context to be written; the context is
    // handed over to its new owner at once.
    unsafe {
        sys::cuCtxCreate_v4(&mut context, std::ptr::null_mut(), 0, device)
            .result()
            .expect("another context");
        CudaContext::from_raw_context(0, device, context).expect("another context")
    }
}

/// Puts the emulator in force where there is no GPU, unless `KV_REQUIRE_GPU` forbids it.
fn install() {
    let device = ptx_emulator::install().expect("a GPU or the emulator");
    let required = std::env::var("KV_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(
        !required || device.emulator().is_none(),
        "KV_REQUIRE_GPU=1, but there is no GPU: tests would run on the emulator"
    );
}

/// An element type the tests can make up and judge.
pub trait Number: Element + Scalar + PartialEq + std::fmt::Debug {
    const TOLERANCE: Tolerance;
    const NAN: Self;
    fn of(value: f32) -> Self;
}

impl Number for f16 {
    const TOLERANCE: Tolerance = Tolerance::F16;
    const NAN: Self = f16::NAN;
    fn of(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Number for bf16 {
    const TOLERANCE: Tolerance = Tolerance::BF16;
    const NAN: Self = bf16::NAN;
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

/// Numbers from −1 to 1 that look random, the same for the same seed (splitmix64).
pub fn numbers<T: Number>(seed: u64, count: usize) -> Vec<T> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            T::of((z >> 40) as f32 / (1 << 23) as f32 - 1.0)
        })
        .collect()
}

/// Bit patterns, so that NaN equals itself.
pub fn bits<T: Element>(values: &[T]) -> Vec<u16> {
    const { assert!(size_of::<T>() == 2) };
    // SAFETY: both elements are plain 16-bit numbers.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u16>(), values.len()) }.to_vec()
}

pub fn upload<T: Element>(values: &[T]) -> CudaSlice<T> {
    device().stream.clone_htod(values).expect("upload")
}

/// Elements behind the vectors of a step, which may have none: the driver allocates no empty memory.
const PADDING: usize = 8;

fn upload_padded<T: Number>(values: &[T]) -> CudaSlice<T> {
    upload(&[values, &[T::NAN; PADDING]].concat())
}

pub fn download<T: Element>(slice: &CudaSlice<T>) -> Vec<T> {
    device().stream.clone_dtoh(slice).expect("download")
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
    pub softmax_scale: Option<f32>,
    pub seed: u64,
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
            softmax_scale: None,
            seed: 1,
        }
    }

    fn map(&self) -> CacheMap {
        CacheMap::contiguous(ContiguousShape {
            batch: self.shape.batch,
            num_kv_heads: self.shape.num_kv_heads,
            max_seq_len: self.shape.max_seq_len,
            head_dim: self.shape.head_dim,
        })
        .expect("a shape for the oracle")
    }

    fn rows(&self) -> Rows<'_> {
        match &self.new {
            New::Each(tokens) => Rows::Uniform {
                batch: self.shape.batch,
                tokens: *tokens,
            },
            New::Packed(cu_seqlens) => Rows::Ragged { cu_seqlens },
        }
    }

    /// Sequences and tokens of the vectors as they lie in memory.
    fn extent(&self) -> (usize, usize) {
        match &self.new {
            New::Each(tokens) => (self.shape.batch, *tokens),
            New::Packed(cu_seqlens) => (1, cu_seqlens[self.shape.batch] as usize),
        }
    }

    /// K or V whose every element past a sequence's tokens is NaN.
    fn poisoned<T: Number>(&self, seed: u64) -> Vec<T> {
        let CacheShape {
            num_kv_heads,
            max_seq_len,
            head_dim,
            ..
        } = self.shape;
        let mut cache = numbers::<T>(seed, self.shape.elements().expect("a shape"));
        for (sequence, &len) in self.seq_lens.iter().enumerate() {
            for head in 0..num_kv_heads {
                let start = (sequence * num_kv_heads + head) * max_seq_len;
                cache[(start + len as usize) * head_dim..(start + max_seq_len) * head_dim]
                    .fill(T::NAN);
            }
        }
        cache
    }

    /// Token-major rows in the case's own order; what lies between is NaN.
    fn arranged<T: Number>(&self, rows: &[T]) -> Vec<T> {
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

    fn strides(&self) -> Strides {
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

    fn tokens<'a, T: Number>(&self, view: &'a CudaView<'a, T>) -> Tokens<'a, T> {
        match self.order {
            Order::TokenMajor => view.into(),
            Order::HeadMajor => Tokens::head_major(view),
            Order::Apart(_) => Tokens::strided(view, self.strides()),
        }
    }

    /// Runs the step on the device and in the oracle, and compares all there is: the cache bit for bit, attention and
    /// lse within the tolerances, lengths, and which sequences were full. Returns what the device wrote to `out`.
    pub fn check<T: Number>(&self) -> Vec<T> {
        let Device {
            stream, kernels, ..
        } = device();
        let shape = self.shape;
        let num_q_heads = shape.num_kv_heads * self.group_size;
        let (batch, new_tokens) = self.extent();
        let row = shape.num_kv_heads * shape.head_dim;

        let mut k_cache = self.poisoned::<T>(self.seed);
        let mut v_cache = self.poisoned::<T>(self.seed + 1);
        let k = numbers::<T>(self.seed + 2, batch * new_tokens * row);
        let v = numbers::<T>(self.seed + 3, batch * new_tokens * row);
        let q = numbers::<T>(self.seed + 4, shape.batch * num_q_heads * shape.head_dim);

        // On the device.
        let mut cache = KvCache::<T>::new(stream, shape).expect("a cache");
        let (to_k, to_v) = cache.k_v_mut();
        stream.memcpy_htod(&k_cache, to_k).expect("upload K");
        stream.memcpy_htod(&v_cache, to_v).expect("upload V");
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
            .clone_htod(&vec![f32::NAN; shape.batch * num_q_heads])
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
        kernels
            .append(self.tokens(&k_view), self.tokens(&v_view), &mut cache, step)
            .launch(stream)
            .expect("append");
        let mut decode = kernels
            .decode(&q_device, num_q_heads, &cache, step, &mut out)
            .lse(&mut lse);
        if let Some(softmax_scale) = self.softmax_scale {
            decode = decode.softmax_scale(softmax_scale);
        }
        decode.launch(stream).expect("decode");
        kernels
            .advance(&mut lengths, new)
            .launch(stream)
            .expect("advance");

        // In the oracle.
        let map = self.map();
        reference::append(reference::Append {
            map: &map,
            k_cache: &mut k_cache,
            v_cache: &mut v_cache,
            k: &k,
            v: &v,
            rows: self.rows(),
            seq_lens: &self.seq_lens,
        })
        .expect("the oracle appends");
        let mut kv_lens = self.seq_lens.clone();
        let advanced = reference::advance(&mut kv_lens, self.rows(), shape.max_seq_len)
            .expect("the oracle advances");
        let expected = reference::decode(reference::Decode {
            map: &map,
            k_cache: &k_cache,
            v_cache: &v_cache,
            q: &q,
            rows: Rows::Uniform {
                batch: shape.batch,
                tokens: 1,
            },
            num_q_heads,
            kv_lens: &kv_lens,
            options: Options {
                softmax_scale: self.softmax_scale.map(f64::from),
                ..Options::default()
            },
        })
        .expect("the oracle attends");

        assert_eq!(bits(&download(cache.k())), bits(&k_cache), "K of {self:?}");
        assert_eq!(bits(&download(cache.v())), bits(&v_cache), "V of {self:?}");
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
        assert_eq!(status, Status::from_words(words), "status of {self:?}");

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

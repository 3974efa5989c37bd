//! The emulated device, and an operation launched on it: the one place that knows the API of kv-kernels.

use std::env;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use half::{bf16, f16};
use kv_kernels::cudarc::driver::{CudaSlice, CudaStream};
use kv_kernels::{
    Decode, DecodeShape, Element, F8E4M3, Kernels, KvCache, Lengths, NewTokens, PairStyle, Rope,
    RopeFrequencies, Storage, Stores, Workspace, WorkspaceSize,
};
use ptx_emulator::Emulator;
use ptx_emulator::profile::{PROFILES, Profile};
use serde_json::Value;

use crate::config::{Config, Operation, Splits};
use crate::convert::convert;

/// An emulated device with the kernels loaded.
pub struct Device {
    /// Its figures.
    pub profile: &'static Profile,
    emulator: Emulator,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) kernels: Kernels,
}

/// What an operation did.
pub struct Launched {
    /// Splits of each sequence.
    pub num_splits: u32,
    /// The counters of each of its launches, as the emulator gives them.
    pub launches: Vec<Value>,
}

impl Device {
    /// Puts the emulator in force as one device of that profile, also where there is a GPU. Called once, before
    /// anything else.
    pub fn open(key: &str) -> Result<Device> {
        let Some(profile) = Profile::by_key(key) else {
            let known: Vec<_> = PROFILES.iter().map(|profile| profile.key).collect();
            bail!("no device `{key}` (there are {})", known.join(", "));
        };
        // SAFETY: the program has started no thread yet.
        unsafe {
            env::set_var("KV_DEVICE", "emulator");
            env::set_var("PTX_EMULATOR_DEVICES", key);
        }
        let emulator = ptx_emulator::install()?
            .emulator()
            .context("a GPU is in force")?;
        // Tests have them on; they change no count.
        emulator.set_checks("none")?;
        emulator.keep_counters(true)?;
        let context = kv_kernels::open(0)?;
        Ok(Device {
            profile,
            emulator,
            stream: context.new_stream()?,
            kernels: Kernels::new(&context)?,
        })
    }

    fn take_launches(&self) -> Result<Vec<Value>> {
        self.stream.synchronize()?;
        let text = self.emulator.take_counters()?;
        serde_json::from_str(&text).context("the emulator's counters")
    }
}

/// Types of a cache that can be made up, by numbers.
pub trait Number: Storage {
    /// What queries and new vectors are of.
    type Query: Number + Element;

    /// The scale of every vector, where they have one.
    const SCALE: f32 = 1.0;

    /// What stands for a number.
    fn of(value: f32) -> Self;

    /// An operation on the whole of K, which quantises it or looks at it.
    fn convert(op: Operation, _device: &Device, _cache: &KvCache<Self>) -> Result<()> {
        bail!("{} is on caches of 16 bits an element", op.name())
    }
}

impl Number for f16 {
    type Query = f16;

    fn of(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn convert(op: Operation, device: &Device, cache: &KvCache<Self>) -> Result<()> {
        convert(op, device, cache)
    }
}

impl Number for bf16 {
    type Query = bf16;

    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }

    fn convert(op: Operation, device: &Device, cache: &KvCache<Self>) -> Result<()> {
        convert(op, device, cache)
    }
}

impl Number for i8 {
    type Query = f16;

    const SCALE: f32 = 1.0 / 32.0;

    fn of(value: f32) -> Self {
        (value / Self::SCALE).round() as i8
    }
}

impl Number for F8E4M3 {
    type Query = f16;

    const SCALE: f32 = 1.0 / 128.0;

    fn of(value: f32) -> Self {
        F8E4M3::from_f32(value / Self::SCALE)
    }
}

/// Numbers that look drawn from a normal distribution of variance 1, so that scores are too: how often a running
/// maximum moves, and with it the instructions that rescale, depends on them.
fn normal<T: Number>(seed: u64, count: usize) -> Vec<T> {
    let mut state = seed;
    let mut uniform = || {
        // splitmix64, to 24 bits between −1 and 1.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    // Three of variance 1/3 add up to 1.
    (0..count)
        .map(|_| T::of(uniform() + uniform() + uniform()))
        .collect()
}

/// A filled cache, for all the configurations that go over it.
pub struct Prepared<'d, T> {
    device: &'d Device,
    cache: KvCache<T>,
    lengths: Lengths,
}

impl<'d, T: Number + Stores<T::Query>> Prepared<'d, T> {
    /// The cache of a configuration. Sequences hold all their tokens but the newest, for which there is a vector too:
    /// a step of one token then has `seq_len` to attend to.
    pub fn new(device: &'d Device, config: &Config) -> Result<Prepared<'d, T>> {
        let shape = config.shape();
        let stream = &device.stream;
        let mut cache = KvCache::<T>::new(stream, shape)?;
        let of_sequence = shape.num_kv_heads * shape.max_seq_len * shape.head_dim;
        // One pool for all sequences, each from a place of its own.
        const APART: usize = 1237;
        let pool = normal::<T>(1, of_sequence + 2 * shape.batch * APART);
        let (k, v) = cache.k_v_mut();
        for (which, tensor) in [k, v].into_iter().enumerate() {
            for sequence in 0..shape.batch {
                let from = (2 * sequence + which) * APART;
                let to = sequence * of_sequence;
                stream.memcpy_htod(
                    &pool[from..from + of_sequence],
                    &mut tensor.slice_mut(to..to + of_sequence),
                )?;
            }
        }
        let fill = |scales: Option<&mut CudaSlice<f32>>| match scales {
            Some(scales) => stream.memcpy_htod(&vec![T::SCALE; scales.len()], scales),
            None => Ok(()),
        };
        fill(cache.k_and_scale_mut().1)?;
        fill(cache.v_and_scale_mut().1)?;
        let mut lengths = Lengths::new(stream, shape.batch, shape.max_seq_len)?;
        lengths.set(stream, &vec![shape.max_seq_len - 1; shape.batch])?;
        stream.synchronize()?;
        Ok(Prepared {
            device,
            cache,
            lengths,
        })
    }

    /// Launches a configuration of this cache's and counts.
    pub fn launch(&mut self, config: &Config) -> Result<Launched> {
        let Device {
            stream, kernels, ..
        } = self.device;
        let vectors = |seed, heads: usize| -> Result<CudaSlice<T::Query>> {
            Ok(stream.clone_htod(&normal::<T::Query>(
                seed,
                config.batch * heads * config.head_dim,
            ))?)
        };
        let num_q_heads = config.num_q_heads();
        let (q, mut out) = (vectors(2, num_q_heads)?, vectors(2, num_q_heads)?);
        let (k, v) = (
            vectors(3, config.num_kv_heads)?,
            vectors(4, config.num_kv_heads)?,
        );
        let mut workspace = Workspace::new(stream, self.workspace_size(config)?)?;
        let step = self.lengths.step(NewTokens::Each(1))?;
        self.device.take_launches()?;
        let num_splits = match config.op {
            Operation::Append => {
                kernels
                    .append(&k, &v, &mut self.cache, step)
                    .launch(stream)?;
                1
            }
            Operation::Decode => {
                let decode = kernels.decode(&q, num_q_heads, &self.cache, step, &mut out);
                attend(decode, config.num_splits, &mut workspace, stream)?
            }
            Operation::Step => {
                let frequencies = RopeFrequencies::plain(10_000.0, config.head_dim)?;
                let rope = Rope::new(stream, &frequencies, PairStyle::HalfSplit)?;
                let append = kernels.append(&k, &v, &mut self.cache, step);
                let decode = append.rope(&rope).decode(&q, num_q_heads, &mut out);
                attend(decode, config.num_splits, &mut workspace, stream)?
            }
            _ => {
                T::convert(config.op, self.device, &self.cache)?;
                1
            }
        };
        Ok(Launched {
            num_splits,
            launches: self.device.take_launches()?,
        })
    }

    fn workspace_size(&self, config: &Config) -> Result<WorkspaceSize> {
        let shape = DecodeShape {
            cache: config.shape(),
            dtype: <T::Query as Storage>::DTYPE,
            k_dtype: T::DTYPE,
            v_dtype: T::DTYPE,
            num_q_heads: config.num_q_heads(),
            query_tokens: 1,
            sliding_window: None,
        };
        Ok(match config.num_splits {
            Splits::Planned => self.device.kernels.workspace_size(&shape)?,
            Splits::Fixed(number) => shape.workspace(u32::try_from(number)?)?,
        })
    }
}

/// Launches a decode; the splits it is launched with.
fn attend<'a, T: Element, S: Stores<T>>(
    decode: Decode<'a, T, S, S>,
    num_splits: Splits,
    workspace: &'a mut Workspace,
    stream: &CudaStream,
) -> Result<u32> {
    let mut decode = decode.workspace(workspace);
    if let Splits::Fixed(number) = num_splits {
        decode = decode.num_splits(number);
    }
    let num_splits = decode.plan()?.num_splits;
    decode.launch(stream)?;
    Ok(num_splits)
}

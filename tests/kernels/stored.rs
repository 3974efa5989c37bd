//! K or V of a cache on the host, in whatever type it is stored, and what the oracle makes of it.

use kv_kernels::Storage;
use kv_kernels::reference::{self, CacheMap, F8E4M3, Payload, Rows, Span};

use crate::harness::Number;

/// K or V: what is stored, and a scale for each vector where there are some.
#[derive(Clone, Debug)]
pub struct Side<S> {
    pub payload: Vec<S>,
    pub scales: Vec<f32>,
    /// `[num_kv_heads, head_dim]`, where channels are scaled.
    pub channel_scale: Option<Vec<f32>>,
}

/// New tokens on their way to a cache, as the oracle appends them.
pub struct Appending<'a, T> {
    pub map: &'a CacheMap,
    pub new: &'a [T],
    pub rows: Rows<'a>,
    pub seq_lens: &'a [i32],
}

/// A type that tests store vectors of `T` in.
pub trait Kept<T: Number>: Storage + std::fmt::Debug {
    /// A cache that holds these vectors for the tokens that its sequences have, and NaN behind them.
    fn keep(
        map: &CacheMap,
        seq_lens: &[i32],
        source: &[T],
        channel_scale: Option<Vec<f32>>,
    ) -> Side<Self>;

    /// Appends; returns how many elements were not finite, where that counts.
    fn append(side: &mut Side<Self>, new: Appending<'_, T>) -> usize;

    /// What the elements stand for.
    fn values(side: &Side<Self>, map: &CacheMap) -> Vec<f32>;
}

fn keep_as_is<T: Number>(map: &CacheMap, seq_lens: &[i32], source: &[T]) -> Side<T> {
    let mut payload = source.to_vec();
    for (sequence, &len) in seq_lens.iter().enumerate() {
        for head in 0..map.num_kv_heads() {
            for token in len as usize..map.capacity() {
                let vector = map.vector(sequence, head, token).expect("a vector");
                payload[vector].fill(T::NAN);
            }
        }
    }
    Side {
        payload,
        scales: Vec::new(),
        channel_scale: None,
    }
}

fn append_as_is<T: Number>(side: &mut Side<T>, new: Appending<'_, T>) {
    let mut other = side.payload.clone();
    reference::append(reference::Append {
        map: new.map,
        k_cache: &mut side.payload,
        v_cache: &mut other,
        k: new.new,
        v: new.new,
        rows: new.rows,
        seq_lens: new.seq_lens,
    })
    .expect("the oracle appends");
}

impl<T: Number> Kept<T> for T {
    fn keep(map: &CacheMap, seq_lens: &[i32], source: &[T], _: Option<Vec<f32>>) -> Side<T> {
        keep_as_is(map, seq_lens, source)
    }

    fn append(side: &mut Side<T>, new: Appending<'_, T>) -> usize {
        append_as_is(side, new);
        0
    }

    fn values(side: &Side<T>, _: &CacheMap) -> Vec<f32> {
        side.payload.iter().map(|x| x.to_f64() as f32).collect()
    }
}

/// Stored by the byte.
fn quantized<T: Number, P: Payload + Storage>(
    map: &CacheMap,
    seq_lens: &[i32],
    source: &[T],
    channel_scale: Option<Vec<f32>>,
    garbage: P,
) -> Side<P> {
    let mut side = Side {
        payload: vec![garbage; map.elements()],
        scales: vec![f32::NAN; map.vectors()],
        channel_scale,
    };
    reference::quantize(reference::Quantize {
        map,
        span: Span::Tokens {
            from: &vec![0; map.batch()],
            to: seq_lens,
        },
        source,
        channel_scale: side.channel_scale.as_deref(),
        payload: &mut side.payload,
        scales: &mut side.scales,
    })
    .expect("the oracle quantises");
    side
}

macro_rules! by_the_byte {
    ($type:ty, $garbage:expr) => {
        impl<T: Number> Kept<T> for $type {
            fn keep(
                map: &CacheMap,
                seq_lens: &[i32],
                source: &[T],
                channel_scale: Option<Vec<f32>>,
            ) -> Side<$type> {
                quantized(map, seq_lens, source, channel_scale, $garbage)
            }

            fn append(side: &mut Side<$type>, new: Appending<'_, T>) -> usize {
                reference::quantize_append(reference::QuantizeAppend {
                    map: new.map,
                    payload: &mut side.payload,
                    scales: &mut side.scales,
                    new: new.new,
                    rows: new.rows,
                    seq_lens: new.seq_lens,
                    channel_scale: side.channel_scale.as_deref(),
                })
                .expect("the oracle appends")
                .non_finite
            }

            fn values(side: &Side<$type>, map: &CacheMap) -> Vec<f32> {
                let mut values = vec![f32::NAN; map.elements()];
                reference::dequantize(reference::Dequantize {
                    map,
                    span: Span::Whole,
                    payload: &side.payload,
                    scales: &side.scales,
                    channel_scale: side.channel_scale.as_deref(),
                    target: &mut values,
                })
                .expect("the oracle dequantises");
                values
            }
        }
    };
}
by_the_byte!(i8, -128);
by_the_byte!(F8E4M3, F8E4M3::NAN);

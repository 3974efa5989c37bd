//! Sorts and histograms: `sort.cu`.

use super::*;

static SOURCE: Source = Source::new("sort.cu", "compute_80");

/// A number whose order the bits of an unsigned one give.
trait Key: Number {
    /// Any bits at all, but for NaNs.
    fn any(bits: u64) -> Self;
    /// A number that orders as this one does; both zeros of a float are one.
    fn rank(self) -> u64;
}

macro_rules! unsigned {
    ($($t:ident),*) => {$(
        impl Key for $t {
            fn any(bits: u64) -> $t { bits as $t }
            fn rank(self) -> u64 { self.into() }
        }
    )*};
}
unsigned!(u8, u32, u64);

impl Key for i32 {
    fn any(bits: u64) -> i32 {
        bits as i32
    }
    fn rank(self) -> u64 {
        (i64::from(self) - i64::from(i32::MIN)) as u64
    }
}

macro_rules! float {
    ($t:ident, $bits:ident) => {
        impl Key for $t {
            fn any(bits: u64) -> $t {
                let value = $t::from_bits(bits as $bits);
                if value.is_nan() { -0.0 } else { value }
            }
            fn rank(self) -> u64 {
                let bits = if self == 0.0 { 0 } else { self.to_bits() };
                let sign = 1 << ($bits::BITS - 1);
                u64::from(if bits & sign != 0 { !bits } else { bits | sign })
            }
        }
    };
}
float!(f32, u32);
float!(f64, u64);

fn keys<T: Key>(count: usize) -> impl Strategy<Value = Vec<T>> {
    let any = proptest::collection::vec(any::<u64>(), count);
    (any, 0..3u32).prop_map(|(bits, kind)| {
        // Any bits; few different ones; and such as differ in the sign alone.
        let key = |b: u64| match kind {
            0 => T::any(b),
            1 => T::any(b % 11),
            _ => T::any((b & 1) << (8 * T::SIZE - 1) | b >> 32 & 1),
        };
        bits.into_iter().map(key).collect()
    })
}

fn radix<T: Key>(ptx: &str, kernel: &str, threads: usize, items: usize) {
    let (tile, whole) = (threads * items, 8 * T::SIZE as u32);
    // Some of the bits, but for floats, whose zeros do not sort by their bits.
    let range = (0..whole, 1..=whole).prop_map(move |(a, b)| match T::any(1 << (whole - 1)) {
        zero if zero == T::default() => (0, whole),
        _ if a < b => (a, b),
        _ => (0, whole),
    });
    for_all(
        6,
        (keys::<T>(2 * tile), range, order()),
        |(input, (from, to), seed)| {
            let args = [
                buffer(&input),
                Arg::Uninit(input.len() * T::SIZE),
                Arg::U32(from),
                Arg::U32(to),
            ];
            let done = launch(ptx, kernel, (2, threads as u32), seed, &args);
            let mut expected = input.clone();
            let digits = |key: &T| key.rank() >> from & (u64::MAX >> (64 - (to - from)));
            expected
                .chunks_mut(tile)
                .for_each(|t| t.sort_by_key(digits));
            // Bytes, so that zeros with different signs differ.
            assert_eq!(
                done.buffers[1],
                bytes(&expected),
                "{kernel}, bits {from} to {to}"
            );
        },
    );
}

#[test]
fn radix_sorts() {
    let Some(ptx) = SOURCE.ptx() else { return };
    radix::<u32>(ptx, "radix_u32_128x4", 128, 4);
    radix::<i32>(ptx, "radix_i32_64x7", 64, 7);
    radix::<f32>(ptx, "radix_f32_256x2", 256, 2);
    radix::<u64>(ptx, "radix_u64_96x3", 96, 3);
    radix::<u8>(ptx, "radix_u8_32x9", 32, 9);
}

fn pairs<T: Key, V: Number>(ptx: &str, kernel: &str, threads: usize, items: usize) {
    let tile = threads * items;
    for_all(6, (keys::<T>(2 * tile), order()), |(input, seed)| {
        let args = [
            buffer(&input),
            Arg::Uninit(input.len() * T::SIZE),
            Arg::Uninit(input.len() * V::SIZE),
        ];
        let done = launch(ptx, kernel, (2, threads as u32), seed, &args);
        let (mut sorted, mut places) = (Vec::new(), Vec::new());
        for part in input.chunks(tile) {
            let mut order: Vec<usize> = (0..tile).collect();
            order.sort_by_key(|&k| std::cmp::Reverse(part[k].rank()));
            sorted.extend(order.iter().map(|&k| part[k]));
            places.extend(order.iter().map(|&k| V::drawn(k as u64)));
        }
        assert_eq!(done.buffers[1], bytes(&sorted), "{kernel}");
        assert_eq!(done.buffers[2], bytes(&places), "{kernel}");
    });
}

#[test]
fn radix_sorts_of_pairs_downwards() {
    let Some(ptx) = SOURCE.ptx() else { return };
    pairs::<u32, u16>(ptx, "pairs_u32_128x5", 128, 5);
    pairs::<f64, u32>(ptx, "pairs_f64_64x3", 64, 3);
}

/// Numbers whose upper halves repeat, so that a stable sort differs from others.
fn upper_halves(
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<u32>> {
    drawn::<u32>(count).prop_map(|v| v.into_iter().map(|x| (x % 37) << 16 | x >> 16).collect())
}

#[test]
fn merge_sorts() {
    let Some(ptx) = SOURCE.ptx() else { return };
    for (kernel, threads, tile) in [("merge_u32_128x4", 128, 512), ("merge_u32_256x3", 256, 768)] {
        for_all(6, (upper_halves(1..2 * tile), order()), |(input, seed)| {
            let n = input.len();
            let args = [buffer(&input), Arg::Uninit(4 * n), Arg::U32(n as u32)];
            let done = launch(ptx, kernel, (n.div_ceil(tile) as u32, threads), seed, &args);
            let mut expected = input.clone();
            expected
                .chunks_mut(tile)
                .for_each(|t| t.sort_by_key(|v| v >> 16));
            assert_eq!(done.words(1), expected, "{kernel}");
        });
    }
    for (kernel, part, count) in [("warp_merge_32x4", 128, 256), ("warp_merge_16x3", 48, 192)] {
        for_all(6, (upper_halves(count), order()), |(input, seed)| {
            let args = [buffer(&input), Arg::Uninit(4 * count)];
            let done = launch(ptx, kernel, (1, 64), seed, &args);
            let mut expected = input.clone();
            expected
                .chunks_mut(part)
                .for_each(|t| t.sort_by_key(|v| v >> 16));
            assert_eq!(done.words(1), expected, "{kernel}");
        });
    }
}

#[test]
fn histograms() {
    let Some(ptx) = SOURCE.ptx() else { return };
    for (kernel, threads, tile, bins) in [
        ("histogram_sort_128x4", 128, 512, 256),
        ("histogram_atomic_96x5", 96, 480, 64),
    ] {
        for_all(6, (drawn::<u8>(2 * tile), order()), |(input, seed)| {
            let args = [buffer(&input), Arg::Uninit(2 * bins * 4)];
            let done = launch(ptx, kernel, (2, threads), seed, &args);
            let mut expected = vec![0; 2 * bins];
            for (k, &v) in input.iter().enumerate() {
                let value = usize::from(v) % bins;
                expected[k / tile * bins + value] += 1;
                expected[k / tile * bins + value / 2] += 1;
            }
            assert_eq!(done.words(1), expected, "{kernel}");
        });
    }
}

//! Kernels that nobody here wrote: CUB, libcu++, cooperative groups and the number headers of the toolkit, compiled
//! by nvcc, run with every check on under drawn inputs and orders, and compared with plain loops on the host.

#[path = "../common/mod.rs"]
mod common;
mod numbers;
mod reduce_scan;
mod sort;
#[path = "../support/mod.rs"]
mod support;
mod sync;
mod wmma;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use ptx_emulator::run::{Arg, Finished, Setup, run};
use std::fmt::Debug;
use std::path::Path;
use std::sync::OnceLock;

/// A source beside this file for one architecture, compiled when the first test asks for it.
struct Source {
    file: &'static str,
    architecture: &'static str,
    ptx: OnceLock<Option<String>>,
}

impl Source {
    const fn new(file: &'static str, architecture: &'static str) -> Source {
        Source {
            file,
            architecture,
            ptx: OnceLock::new(),
        }
    }

    /// The PTX; `None` where there is no nvcc.
    fn ptx(&self) -> Option<&str> {
        self.ptx
            .get_or_init(|| compile(self.file, self.architecture))
            .as_deref()
    }
}

fn compile(source: &str, architecture: &str) -> Option<String> {
    let nvcc = support::nvcc_or_skip(source)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cub")
        .join(source);
    Some(support::compile(
        &nvcc,
        &path,
        &[&format!("-arch={architecture}")],
        &format!("{source}.{architecture}"),
    ))
}

/// Runs `check` on `cases` inputs drawn from `inputs`, and on a smaller one where it fails.
fn for_all<S: Strategy>(cases: u32, inputs: S, check: impl Fn(S::Value))
where
    S::Value: Debug,
{
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 64,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&inputs, |input| {
            check(input);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}

/// Orders: plain, and any seed.
fn order() -> impl Strategy<Value = Option<u64>> {
    proptest::option::weighted(0.7, any::<u64>())
}

/// Runs a kernel in blocks of `threads`; a fault fails the test with its report.
fn launch(
    ptx: &str,
    kernel: &str,
    (blocks, threads): (u32, u32),
    seed: Option<u64>,
    args: &[Arg],
) -> Finished {
    let setup = Setup {
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        seed,
        ..Setup::default()
    };
    run(ptx, kernel, args, &setup).unwrap_or_else(|e| panic!("{kernel}: {e}"))
}

/// A number as it lies in memory.
trait Number: Copy + Debug + PartialEq + PartialOrd + Default {
    /// Bytes.
    const SIZE: usize;
    /// Three.
    const THREE: Self;
    /// Any number of this type from random bits; for floats a small integer, so that sums are exact.
    fn drawn(bits: u64) -> Self;
    fn put(self, out: &mut Vec<u8>);
    fn take(bytes: &[u8]) -> Self;
    fn plus(self, other: Self) -> Self;
}

macro_rules! number {
    ($($t:ident: $drawn:expr, $plus:expr;)*) => {$(
        impl Number for $t {
            const SIZE: usize = size_of::<$t>();
            const THREE: $t = 3 as $t;
            fn drawn(bits: u64) -> $t { let f: fn(u64) -> $t = $drawn; f(bits) }
            fn put(self, out: &mut Vec<u8>) { out.extend(self.to_le_bytes()) }
            fn take(bytes: &[u8]) -> $t { $t::from_le_bytes(bytes.try_into().expect("the type's size")) }
            fn plus(self, other: $t) -> $t { let f: fn($t, $t) -> $t = $plus; f(self, other) }
        }
    )*};
}
number! {
    u8: |b| b as u8, u8::wrapping_add;
    u16: |b| b as u16, u16::wrapping_add;
    u32: |b| b as u32, u32::wrapping_add;
    i32: |b| b as i32, i32::wrapping_add;
    u64: |b| b, u64::wrapping_add;
    f32: |b| (b % 2001) as f32 - 1000.0, |a, b| a + b;
    f64: |b| (b % 2001) as f64 - 1000.0, |a, b| a + b;
}

fn bytes<T: Number>(values: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|v| v.put(&mut out));
    out
}

fn buffer<T: Number>(values: &[T]) -> Arg {
    Arg::Buffer(bytes(values))
}

fn numbers_of<T: Number>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(T::SIZE).map(T::take).collect()
}

/// Numbers of a type: all kinds, or few different ones.
fn drawn<T: Number>(
    count: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Vec<T>> {
    (
        proptest::collection::vec(any::<u64>(), count),
        any::<bool>(),
    )
        .prop_map(|(bits, few)| {
            bits.iter()
                .map(|&b| T::drawn(if few { b % 7 } else { b }))
                .collect()
        })
}

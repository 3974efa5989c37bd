//! A device, and numbers for it.

use std::sync::{Arc, OnceLock};

use half::{bf16, f16};
use kv_kernels::cudarc::driver::{CudaContext, CudaSlice, CudaStream, sys};
use kv_kernels::reference::{Scalar, Tolerance};
use kv_kernels::{Element, Kernels, Storage};

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
    /// Distance from 1 to the next number.
    const EPSILON: f64;
    fn of(value: f32) -> Self;
}

impl Number for f16 {
    const TOLERANCE: Tolerance = Tolerance::F16;
    const NAN: Self = f16::NAN;
    const EPSILON: f64 = 1.0 / 1024.0;
    fn of(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Number for bf16 {
    const TOLERANCE: Tolerance = Tolerance::BF16;
    const NAN: Self = bf16::NAN;
    const EPSILON: f64 = 1.0 / 128.0;
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

/// The bytes of plain numbers.
pub fn bytes<T: Storage>(values: &[T]) -> &[u8] {
    // SAFETY: Storage is of plain numbers without padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) }
}

pub fn upload<T: Element>(values: &[T]) -> CudaSlice<T> {
    device().stream.clone_htod(values).expect("upload")
}

pub fn download<T: Storage>(slice: &CudaSlice<T>) -> Vec<T> {
    device().stream.clone_dtoh(slice).expect("download")
}

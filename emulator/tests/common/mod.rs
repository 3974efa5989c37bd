//! What the driver's tests share: a device to themselves.

#![allow(dead_code)] // each test file uses its own part

use cudarc::driver::CudaContext;
use ptx_emulator::Emulator;
use std::sync::{Arc, Mutex, MutexGuard};

/// `out[i] = a[i] + b[i]` for i < n.
pub const VECTOR_ADD: &str = "\
.version 7.0
.target sm_80
.address_size 64
.visible .entry vector_add(.param .u64 pa, .param .u64 pb, .param .u64 po, .param .u32 pn)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [pa];
    ld.param.u64 %rd2, [pb];
    ld.param.u64 %rd3, [po];
    ld.param.u32 %r1, [pn];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r5, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}
";

/// A context on device 0, with the emulator to itself: its seed, checks and reports are the process's.
pub struct Gpu {
    pub context: Arc<CudaContext>,
    pub emulator: Emulator,
    _alone: MutexGuard<'static, ()>,
}

impl Gpu {
    /// Takes the reports so far.
    pub fn reports(&self) -> String {
        self.emulator.take_reports().unwrap()
    }
}

/// The emulator in force, for this test alone.
pub fn alone() -> (Emulator, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    // The tests are about the emulator: never a real driver.
    // SAFETY: every test takes the lock before anything reads the environment.
    unsafe { std::env::set_var("KV_DEVICE", "emulator") };
    let emulator = ptx_emulator::install().unwrap().emulator().unwrap();
    emulator.set_seed(None).unwrap();
    emulator.set_checks("all").unwrap();
    emulator.set_budget(None).unwrap();
    emulator.set_failures("").unwrap();
    emulator.take_reports().unwrap();
    (emulator, alone)
}

/// A context on device 0, for this test alone.
pub fn gpu() -> Gpu {
    let (emulator, alone) = alone();
    Gpu {
        context: CudaContext::new(0).unwrap(),
        emulator,
        _alone: alone,
    }
}

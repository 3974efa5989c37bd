//! Runs a few instructions over 32 lanes: each lane has its words of the inputs in `%i0`, `%i1`, … and leaves
//! its results in `%o0`, `%o1`, ….
#![allow(dead_code)] // not every test binary uses all of it

use ptx_emulator::check::{Check, Checks, FaultKind};
use ptx_emulator::run::{Arg, Finished, RunError, Setup, run};

/// A lane each.
pub type Lanes = [u32; 32];

/// The kernel around `body`. Free for its use: `%p<8>`, `%t<16>` (32 bits, `%t0` the lane), `%d<16>` (64 bits,
/// zero), and whatever it declares.
pub fn kernel(body: &str, inputs: usize, outputs: usize) -> String {
    let loads: String = (0..inputs)
        .map(|k| format!("ld.global.b32 %i{k}, [%in+{}];\n", 128 * k))
        .collect();
    let stores: String = (0..outputs)
        .map(|k| format!("st.global.b32 [%out+{}], %o{k};\n", 128 * k))
        .collect();
    format!(
        ".version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out) {{
.reg .b32 %i<{}>; .reg .b32 %o<{}>; .reg .b32 %t<16>; .reg .pred %p<8>; .reg .b64 %d<16>;
.reg .b64 %in; .reg .b64 %out; .reg .b64 %offset;
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
mov.u32 %t0, %tid.x;
mul.wide.u32 %offset, %t0, 4;
add.s64 %in, %in, %offset;
add.s64 %out, %out, %offset;
{loads}
{body}
{stores}
ret;
}}
",
        inputs.max(1),
        outputs.max(1)
    )
}

/// Runs `body` under `setup`.
pub fn try_lanes(
    body: &str,
    inputs: &[Lanes],
    outputs: usize,
    setup: &Setup,
) -> Result<Finished, RunError> {
    let words: Vec<u32> = inputs.iter().flatten().copied().collect();
    let zero = vec![0xdead_beef; 32 * outputs.max(1)];
    run(
        &kernel(body, inputs.len(), outputs),
        "k",
        &[Arg::words(&words), Arg::words(&zero)],
        setup,
    )
}

/// The results of `body`, which are the same where nothing is checked and counted.
#[track_caller]
pub fn lanes(body: &str, inputs: &[Lanes], outputs: usize) -> Vec<Lanes> {
    let under = |setup: &Setup| match try_lanes(body, inputs, outputs, setup) {
        Ok(done) => done.words(1),
        Err(error) => panic!("{error}\n{body}"),
    };
    let checked = under(&Setup::default());
    assert_eq!(checked, under(&unwatched()), "{body}");
    checked.as_chunks().0.to_vec()
}

/// Nothing is checked, and nothing counted but instructions.
pub fn unwatched() -> Setup {
    Setup {
        checks: Checks::NONE,
        counters: false,
        ..Setup::default()
    }
}

/// The fault of `body`.
#[track_caller]
pub fn fault(
    body: &str,
    inputs: &[Lanes],
    outputs: usize,
    setup: &Setup,
) -> ptx_emulator::check::Fault {
    match try_lanes(body, inputs, outputs, setup) {
        Err(RunError::Fault(fault)) => *fault,
        Err(other) => panic!("{other}\n{body}"),
        Ok(_) => panic!("no fault\n{body}"),
    }
}

/// Asserts that `body` is reported under `check`, in words that contain `text`.
#[track_caller]
pub fn reported(body: &str, inputs: &[Lanes], outputs: usize, check: Check, text: &str) {
    let fault = fault(body, inputs, outputs, &Setup::default());
    assert_eq!(fault.kind, FaultKind::Check(check), "{fault}");
    assert!(fault.message.contains(text), "{fault}");
}

/// Asserts that `body` does not load, for a reason that contains `text`.
#[track_caller]
pub fn refused(body: &str, text: &str) {
    match try_lanes(body, &[], 0, &Setup::default()) {
        Err(RunError::Load(error)) => {
            let said = error.to_string();
            assert!(said.contains(text), "{said}\n{body}");
        }
        Err(other) => panic!("{other}\n{body}"),
        Ok(_) => panic!("it loads\n{body}"),
    }
}

/// A small generator for test data: xorshift.
pub struct Random(pub u64);

impl Random {
    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.word() % n
    }
    /// A word for every lane.
    pub fn lanes(&mut self) -> Lanes {
        std::array::from_fn(|_| self.word())
    }
}

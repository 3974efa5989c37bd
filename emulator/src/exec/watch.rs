//! Registers that a path may reach unwritten: their lanes are watched while the kernel runs.

use super::program::{Flow, Handler, Inst};
use super::warp::{Stop, Warp};
use crate::check::Check;

/// A watched instruction.
#[derive(Debug, Clone)]
pub struct Watch {
    /// What executes it.
    pub inner: Handler,
    /// Mask slots of watched registers it reads harmlessly, which its results depend on.
    pub reads: Vec<u32>,
    /// Mask slots and names of watched registers that it acts on.
    pub harm: Vec<(u32, String)>,
    /// Mask slots of watched registers it writes.
    pub writes: Vec<u32>,
}

/// The handler of a watched instruction.
///
/// # Safety
/// As for every handler; the mask slots are those of the program.
pub unsafe fn watched(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let program = w.program();
    let at = w.pc;
    let Some(watch) = program.watches.get(&at) else {
        unreachable!("every watched instruction has an entry")
    };
    let on = w.launch().checks.has(Check::UninitRegister);
    if on {
        for (slot, name) in &watch.harm {
            // SAFETY: a mask slot of this program.
            let written = unsafe { *w.slot(*slot).cast::<u32>() };
            let missing = mask & !written;
            if missing != 0 {
                let text = format!(
                    "register {name} is read in lanes {missing:#010x}, where nothing has written it"
                );
                return w.violation(Check::UninitRegister, missing, text);
            }
        }
    }
    let mut sound = u32::MAX;
    for slot in &watch.reads {
        // SAFETY: a mask slot of this program.
        sound &= unsafe { *w.slot(*slot).cast::<u32>() };
    }
    // SAFETY: the inner handler's contract is this one's.
    let flow = unsafe { (watch.inner)(w, i, mask) };
    // An instruction that lets others run after it is done, too.
    if flow == Flow::Next || flow == Flow::Stop && matches!(w.stop, Stop::Yield) {
        for slot in &watch.writes {
            // SAFETY: a mask slot of this program.
            unsafe {
                let written = w.slot(*slot).cast::<u32>();
                *written = *written & !mask | mask & sound;
            }
        }
    }
    flow
}

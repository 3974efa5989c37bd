//! Control of the loaded library: functions exported beside the driver's, for
//! whoever loaded it. [`crate::control`] is their client in Rust.

use super::api::{Failure, Out, Text, driver_calls, ledger};
use super::context::null;
use super::error::{CuResult, Result, error, fail};
use super::state::lock_always;
use crate::check::Checks;
use serde_json::{Value, json};
use std::ffi::{CString, c_char};

/// Which text [`ptx_emulator_take`] gives.
mod wanted {
    /// Reports, as people read them.
    pub(super) const REPORTS_TEXT: u32 = 0;
    /// Reports, a JSON array.
    pub(super) const REPORTS_JSON: u32 = 1;
    /// Counters of launches, a JSON array.
    pub(super) const COUNTERS_JSON: u32 = 2;
    /// Counts of driver calls by name, a JSON object.
    pub(super) const CALLS_JSON: u32 = 3;
}

fn take(what: u32) -> Result<String> {
    let mut state = lock_always();
    Ok(match what {
        wanted::REPORTS_TEXT => std::mem::take(&mut state.reports)
            .into_iter()
            .map(|r| r.text + "\n")
            .collect(),
        wanted::REPORTS_JSON => {
            let reports = std::mem::take(&mut state.reports);
            Value::Array(reports.into_iter().map(|r| r.json).collect()).to_string()
        }
        wanted::COUNTERS_JSON => Value::Array(std::mem::take(&mut state.launches)).to_string(),
        wanted::CALLS_JSON => json!(ledger().take_counts()).to_string(),
        other => fail!(INVALID_VALUE, "no text {other}"),
    })
}

driver_calls! { EXPORTS:
    /// Tells that a library is the emulator: writes the version of this control interface.
    fn ptx_emulator_version(out: Out<u32>) {
        out.put(crate::control::INTERFACE)
    }

    /// Seed of every order that is not laid down; without one, plain order.
    fn ptx_emulator_set_seed(given: i32, seed: u64) {
        let mut state = lock_always();
        let seed = (given != 0).then_some(seed);
        state.settings.seed = seed;
        state.schedule.set_seed(seed);
        Ok(())
    }

    /// Checks in force, as `PTX_EMULATOR_CHECKS`.
    fn ptx_emulator_set_checks(checks: Text) {
        let text = checks.get("checks")?;
        let checks = Checks::parse(&text).map_err(|name| error(CuResult::INVALID_VALUE, format!("no check `{name}`")))?;
        lock_always().settings.checks = checks;
        Ok(())
    }

    /// Most warp instructions of a launch; 0 for no limit.
    fn ptx_emulator_set_budget(instructions: u64) {
        lock_always().settings.budget = (instructions > 0).then_some(instructions);
        Ok(())
    }

    /// Host threads that blocks run on; 0 for all cores.
    fn ptx_emulator_set_threads(threads: u32) {
        lock_always().settings.threads = threads as usize;
        Ok(())
    }

    /// Whether counters of launches are kept to be taken.
    fn ptx_emulator_keep_counters(keep: i32) {
        lock_always().settings.keep_counters = keep != 0;
        Ok(())
    }

    /// Calls that shall fail, as `PTX_EMULATOR_FAIL`; an empty text for none.
    fn ptx_emulator_set_failures(failures: Text) {
        let text = failures.get("failures")?;
        let failures = Failure::parse_list(&text).map_err(|e| error(CuResult::INVALID_VALUE, e))?;
        ledger().set_failures(failures);
        Ok(())
    }

    /// Takes what was reported or counted since it was last taken: a text that
    /// `ptx_emulator_free` gives back.
    fn ptx_emulator_take(what: u32, out: Out<*mut c_char>) {
        out.check("text")?;
        let text = take(what)?.replace('\0', "\u{fffd}");
        match CString::new(text) {
            Ok(text) => out.put(text.into_raw()),
            Err(_) => Err(null("nothing of the text")),
        }
    }

    /// Gives back a text of `ptx_emulator_take`.
    fn ptx_emulator_free(text: *mut c_char) {
        if !text.is_null() {
            // SAFETY: the caller vouches that it came from `ptx_emulator_take`, which gave it up.
            drop(unsafe { CString::from_raw(text) });
        }
        Ok(())
    }
}

//! Work that streams carry and graphs hold, and the thread that does it.

use super::abi::{HostFunction, StreamCallback};
use super::api::as_callback;
use super::context::Context;
use super::copy::{Copy, Fill, HostPointer};
use super::error::CuResult;
use super::event::Event;
use super::handle::Handle;
use super::launch::Launch;
use super::report::Report;
use super::schedule::WorkId;
use super::state::{Guard, State, lock_always, shared};
use super::stream::Stream;
use crate::exec;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// One piece of work.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Nothing: a point that other work is ordered by.
    Marker,
    /// An event's record.
    Record(Handle<Event>),
    /// A wait for an event's record (in graphs only; in streams it is an ordering).
    Wait(Handle<Event>),
    /// A kernel.
    Launch(Arc<Launch>),
    /// A copy.
    Copy(Arc<Copy>),
    /// A fill.
    Fill(Fill),
    /// A function of the host's.
    Host(HostCall),
    /// The stream-ordered allocation at this address comes into being.
    Appear(u64),
    /// The graph's allocation at this address goes, until the graph runs again.
    Vanish(u64),
    /// The stream-ordered allocation at this address is freed.
    Free(u64),
}

/// A function of the host's with its argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HostCall {
    /// `cuLaunchHostFunc` and host nodes.
    Function(HostFunction, HostPointer),
    /// `cuStreamAddCallback`.
    Callback(StreamCallback, Handle<Stream>, HostPointer),
}

impl HostCall {
    fn run(self, status: CuResult) {
        as_callback(|| match self {
            HostCall::Function(function, data) => {
                // After an error of the context CUDA does not call it.
                if status == CuResult::SUCCESS {
                    // SAFETY: the API's caller gave function and argument for this call.
                    unsafe { function(data.0.cast()) };
                }
            }
            HostCall::Callback(function, stream, data) => {
                // SAFETY: the API's caller gave function and argument for this call.
                unsafe { function(stream, status, data.0.cast()) };
            }
        });
    }
}

/// What is left to do for a piece of work once the state's lock is released.
enum Job {
    /// Nothing: it is done.
    Done,
    Host(HostCall, CuResult),
    Launch(Arc<Launch>, exec::Environment),
    Copy(Arc<Copy>),
    Fill(Fill),
}

/// Makes sure that the thread that does the work runs, and tells it of a change.
pub(crate) fn wake() {
    static START: std::sync::Once = std::sync::Once::new();
    START.call_once(|| {
        let spawned = std::thread::Builder::new()
            .name("ptx-emulator".into())
            .spawn(run_forever);
        if let Err(e) = spawned {
            eprintln!("ptx-emulator: no thread to run work on: {e}");
        }
    });
    shared().wake.notify_one();
}

fn run_forever() {
    let callbacks = callback_thread();
    let mut state = lock_always();
    loop {
        let Some((id, context, work)) = state.schedule.take_next() else {
            state = match state.schedule.until_idle() {
                Some(left) => state.sleep_at_most(left + Duration::from_millis(1)),
                None => state.sleep(),
            };
            continue;
        };
        state = match state.begin(context, id, work) {
            Job::Done => state,
            Job::Host(call, status) => {
                // On its own thread: a host function that blocks must not keep other streams from running.
                if callbacks.send((call, status, id)).is_ok() {
                    continue;
                }
                state
            }
            Job::Launch(launch, environment) => {
                drop(state);
                let ran = catch_unwind(AssertUnwindSafe(|| {
                    let outcome =
                        exec::launch(&launch.kernel, &launch.config, &launch.params, &environment);
                    // Machine code takes its time to weigh: not under the lock.
                    let counted = environment
                        .counters
                        .then(|| super::report::launch_json(&launch, &outcome.counters));
                    (outcome, counted)
                }));
                let mut state = lock_always();
                state.launched(context, &launch, ran.ok());
                state
            }
            Job::Copy(copy) => {
                let space = state.space.clone();
                drop(state);
                let result = copy.run(&space);
                let mut state = lock_always();
                if let Err(e) = result {
                    state.fault(
                        context,
                        CuResult::ILLEGAL_ADDRESS,
                        Report::copy(e.to_string()),
                    );
                }
                state
            }
            Job::Fill(fill) => {
                let space = state.space.clone();
                drop(state);
                let result = fill.run(&space);
                let mut state = lock_always();
                if let Err(e) = result {
                    state.fault(
                        context,
                        CuResult::ILLEGAL_ADDRESS,
                        Report::copy(e.to_string()),
                    );
                }
                state
            }
        };
        state.finish(id);
    }
}

/// The thread that runs the caller's host functions.
fn callback_thread() -> mpsc::Sender<(HostCall, CuResult, WorkId)> {
    let (send, receive) = mpsc::channel::<(HostCall, CuResult, WorkId)>();
    let spawned = std::thread::Builder::new()
        .name("ptx-emulator-host".into())
        .spawn(move || {
            for (call, status, id) in receive {
                call.run(status);
                lock_always().finish(id);
                shared().wake.notify_one();
            }
        });
    if let Err(e) = spawned {
        eprintln!("ptx-emulator: no thread to run host functions on: {e}");
    }
    send
}

impl Guard {
    fn finish(&mut self, id: WorkId) {
        self.schedule.finish(id);
        shared().changed.notify_all();
    }
}

impl State {
    /// Starts a piece of work: does what needs the state, and says what is left to do without it.
    fn begin(&mut self, context: Handle<Context>, id: WorkId, work: Work) -> Job {
        let sticky = self.contexts.get(context).ok().and_then(|c| c.sticky);
        match work {
            Work::Marker | Work::Wait(_) => Job::Done,
            Work::Record(event) => {
                if let Ok(event) = self.events.get_mut(event)
                    && event.work == Some(id)
                {
                    event.time = Some(Instant::now());
                }
                Job::Done
            }
            Work::Free(address) => {
                self.free_now(address);
                Job::Done
            }
            Work::Vanish(address) => {
                if let Some(record) = self.memory.get_mut(&address) {
                    record.hidden = true;
                }
                Job::Done
            }
            Work::Appear(address) => {
                if let Some(record) = self.memory.get_mut(&address) {
                    record.hidden = false;
                    record.allocation.forget_init();
                }
                Job::Done
            }
            Work::Host(call) => Job::Host(call, sticky.unwrap_or(CuResult::SUCCESS)),
            // After a fault nothing of the context runs any more.
            _ if sticky.is_some() => Job::Done,
            Work::Launch(launch) => {
                let environment = self.environment(context, id);
                Job::Launch(launch, environment)
            }
            Work::Copy(copy) => {
                let hidden = copy
                    .device_ranges()
                    .find_map(|(address, _)| self.hidden_at(address));
                self.unless_hidden(context, hidden, Job::Copy(copy))
            }
            Work::Fill(fill) => {
                let hidden = self.hidden_at(fill.address);
                self.unless_hidden(context, hidden, Job::Fill(fill))
            }
        }
    }

    /// The job, or a fault where what it touches is not there yet.
    fn unless_hidden(&mut self, context: Handle<Context>, hidden: Option<String>, job: Job) -> Job {
        match hidden {
            Some(why) => {
                self.fault(context, CuResult::ILLEGAL_ADDRESS, Report::copy(why));
                Job::Done
            }
            None => job,
        }
    }

    /// What a launch of the context runs under.
    fn environment(&self, context: Handle<Context>, id: WorkId) -> exec::Environment {
        let device = self
            .contexts
            .get(context)
            .map(|c| c.device as usize)
            .unwrap_or_default();
        exec::Environment {
            memory: self.reachable(context),
            space: self.space.clone(),
            profile: self.devices[device].profile,
            checks: self.settings.checks,
            // Every launch its own order, the same in every run.
            seed: self
                .settings
                .seed
                .map(|s| s.wrapping_add(id.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            budget: self.settings.budget,
            threads: self.settings.threads,
            counters: self.counters_wanted(),
        }
    }

    /// Takes in what came of a launch, and its counters where they were kept (`None`: it panicked).
    fn launched(
        &mut self,
        context: Handle<Context>,
        launch: &Launch,
        ran: Option<(exec::Outcome, Option<Value>)>,
    ) {
        let Some((outcome, counted)) = ran else {
            let text = format!(
                "kernel {}: a defect of the emulator, see the panic above",
                launch.kernel.name
            );
            self.fault(context, CuResult::LAUNCH_FAILED, Report::defect(text));
            return;
        };
        if !outcome.printed.is_empty() {
            super::report::print_device_output(&outcome.printed);
        }
        if let Some(counted) = counted {
            self.keep_launch(counted);
        }
        if let Some(fault) = outcome.fault {
            let code = super::report::code_of(&fault.kind);
            self.fault(context, code, Report::fault(&fault));
        }
    }

    /// Reports a fault and makes it the context's, for every later call to return.
    pub(crate) fn fault(&mut self, context: Handle<Context>, code: CuResult, report: Report) {
        self.report(report);
        if let Ok(context) = self.contexts.get_mut(context) {
            context.sticky.get_or_insert(code);
        }
    }
}

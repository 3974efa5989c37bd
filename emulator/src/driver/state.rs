//! The driver's one state, its lock, and the waits on it.

use super::api::ledger;
use super::capture::Capture;
use super::context::Context;
use super::device::Device;
use super::error::{CuResult, Result, error};
use super::event::Event;
use super::function::Function;
use super::graph::{Graph, GraphNode};
use super::graph_exec::GraphExec;
use super::handle::{Handle, Table};
use super::library::{Kernel, Library};
use super::link::Link;
use super::memory::Record;
use super::module::Module;
use super::pool::Pool;
use super::report::Report;
use super::schedule::{Schedule, WorkId};
use super::settings::Settings;
use super::stream::Stream;
use crate::memory::AddressSpace;
use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::Duration;

/// Everything the driver knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) initialised: bool,
    pub(crate) settings: Settings,
    /// What was wrong with the environment's settings; `cuInit` fails with it.
    pub(crate) bad_settings: Option<String>,
    pub(crate) space: Arc<AddressSpace>,
    pub(crate) devices: Vec<Device>,
    pub(crate) contexts: Table<Context>,
    pub(crate) streams: Table<Stream>,
    pub(crate) thread_streams: HashMap<(ThreadId, Handle<Context>), Handle<Stream>>,
    pub(crate) events: Table<Event>,
    pub(crate) modules: Table<Module>,
    pub(crate) functions: Table<Function>,
    pub(crate) libraries: Table<Library>,
    pub(crate) kernels: Table<Kernel>,
    pub(crate) links: Table<Link>,
    pub(crate) pools: Table<Pool>,
    pub(crate) graphs: Table<Graph>,
    pub(crate) nodes: Table<GraphNode>,
    pub(crate) execs: Table<GraphExec>,
    pub(crate) captures: Table<Capture>,
    /// Allocations by first address.
    pub(crate) memory: BTreeMap<u64, Record>,
    pub(crate) schedule: Schedule,
    pub(crate) reports: Vec<Report>,
    /// Counters of launches kept, one JSON object each.
    pub(crate) launches: Vec<serde_json::Value>,
}

/// The state with its lock, and what is waited on.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Some work finished.
    pub(crate) changed: Condvar,
    /// There may be work to run.
    pub(crate) wake: Condvar,
}

/// The process's driver, made from the environment on first use.
pub(crate) fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let read =
            Settings::read(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()));
        let (settings, bad_settings) = match read {
            Ok((settings, failures)) => {
                ledger().set_failures(failures);
                (settings, None)
            }
            Err(message) => (Settings::default(), Some(message)),
        };
        Shared {
            state: Mutex::new(State::new(settings, bad_settings)),
            changed: Condvar::new(),
            wake: Condvar::new(),
        }
    })
}

impl State {
    fn new(settings: Settings, bad_settings: Option<String>) -> State {
        let mut state = State {
            initialised: false,
            bad_settings,
            space: Arc::new(AddressSpace::new()),
            devices: Vec::new(),
            contexts: Table::default(),
            streams: Table::default(),
            thread_streams: HashMap::new(),
            events: Table::default(),
            modules: Table::default(),
            functions: Table::default(),
            libraries: Table::default(),
            kernels: Table::default(),
            links: Table::default(),
            pools: Table::default(),
            graphs: Table::default(),
            nodes: Table::default(),
            execs: Table::default(),
            captures: Table::default(),
            memory: BTreeMap::new(),
            schedule: Schedule::default(),
            reports: Vec::new(),
            launches: Vec::new(),
            settings,
        };
        state.schedule.set_seed(state.settings.seed);
        state.make_devices();
        state
    }
}

/// The locked state.
pub(crate) struct Guard(MutexGuard<'static, State>);

impl Deref for Guard {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

/// Locks the state, initialised or not.
pub(crate) fn lock_always() -> Guard {
    Guard(shared().state.lock().unwrap_or_else(|e| e.into_inner()))
}

/// Locks the state of an initialised driver.
pub(crate) fn lock() -> Result<Guard> {
    let state = lock_always();
    if !state.initialised {
        return Err(error(CuResult::NOT_INITIALIZED, "cuInit was not called"));
    }
    Ok(state)
}

impl Guard {
    /// Waits until all of `works` are done, asking for them first.
    pub(crate) fn wait_for(mut self, works: impl IntoIterator<Item = WorkId>) -> Guard {
        let mut works: Vec<_> = works
            .into_iter()
            .filter(|w| self.schedule.is_pending(*w))
            .collect();
        if works.is_empty() {
            return self;
        }
        for work in &works {
            self.schedule.want(*work);
        }
        super::work::wake();
        while {
            works.retain(|w| self.schedule.is_pending(*w));
            !works.is_empty()
        } {
            self = Guard(
                shared()
                    .changed
                    .wait(self.0)
                    .unwrap_or_else(|e| e.into_inner()),
            );
        }
        self
    }

    /// Sleeps until somebody wakes the thread that does the work.
    pub(crate) fn sleep(self) -> Guard {
        Guard(
            shared()
                .wake
                .wait(self.0)
                .unwrap_or_else(|e| e.into_inner()),
        )
    }

    /// Sleeps as [`Guard::sleep`], but no longer than `time`.
    pub(crate) fn sleep_at_most(self, time: Duration) -> Guard {
        Guard(
            shared()
                .wake
                .wait_timeout(self.0, time)
                .unwrap_or_else(|e| e.into_inner())
                .0,
        )
    }
}

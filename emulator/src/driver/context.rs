//! Contexts: primary and other, the stack of each thread, the sticky error, teardown.

use super::abi::Ordinal;
use super::api::{Out, driver_calls};
use super::device::DRIVER_VERSION;
use super::error::{CuResult, Error, Result, error, fail};
use super::event::Event;
use super::handle::{Handle, Kind};
use super::report::Report;
use super::schedule::WorkId;
use super::state::{Guard, State, lock};
use super::stream::{Stream, StreamKind};
use crate::check::Check;
use crate::memory::{Owner, Snapshot};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::Arc;

/// A context.
#[derive(Debug)]
pub(crate) struct Context {
    /// Index of its device.
    pub(crate) device: u32,
    pub(crate) primary: bool,
    flags: u32,
    /// The fault that ended it: every call returns this until the context goes.
    pub(crate) sticky: Option<CuResult>,
    /// The legacy default stream.
    pub(crate) legacy: Handle<Stream>,
    /// Unfinished work of blocking streams destroyed since: the legacy default stream still waits for it.
    pub(crate) orphans: Vec<WorkId>,
    limits: [usize; 10],
    cache_config: u32,
    shared_config: u32,
    /// Contexts whose memory kernels of this one may touch.
    peers: BTreeSet<Handle<Context>>,
}

impl Kind for Context {
    const TAG: u8 = 1;
    const WHAT: &'static str = "context";
    const MISSING: CuResult = CuResult::INVALID_CONTEXT;
}

thread_local! {
    static STACK: RefCell<Vec<Handle<Context>>> = const { RefCell::new(Vec::new()) };
}

fn top() -> Option<Handle<Context>> {
    STACK.with_borrow(|s| s.last().copied())
}

/// Flags that mean something: scheduling, host mapping, local memory, core dumps, synchronous copies.
const FLAGS: u32 = 0xff;

fn check_flags(flags: u32) -> Result<()> {
    if flags & !FLAGS != 0 || !matches!(flags & 7, 0 | 1 | 2 | 4) {
        fail!(INVALID_VALUE, "context flags {flags:#x}");
    }
    Ok(())
}

/// Bytes or counts that `cuCtxGetLimit` says before anybody set them.
const LIMITS: [usize; 10] = [1024, 1 << 20, 8 << 20, 2, 2048, 128, 0, 0, 0, 0];

impl State {
    /// The calling thread's context, if it can be used.
    pub(crate) fn current(&self) -> Result<Handle<Context>> {
        let Some(current) = top() else {
            fail!(INVALID_CONTEXT, "no context is current on this thread");
        };
        match self.contexts.get(current) {
            Ok(_) => self.usable(current),
            Err(_) => fail!(
                CONTEXT_IS_DESTROYED,
                "the current context {current:?} was destroyed"
            ),
        }
    }

    /// The context, if no fault ended it.
    pub(crate) fn usable(&self, context: Handle<Context>) -> Result<Handle<Context>> {
        match self.contexts.get(context)?.sticky {
            Some(code) => Err(code.into()),
            None => Ok(context),
        }
    }

    /// Index of the calling thread's device.
    pub(crate) fn current_device(&self) -> Result<usize> {
        let current = self.current()?;
        Ok(self.contexts.get(current)?.device as usize)
    }

    fn make_context(&mut self, device: usize, flags: u32, primary: bool) -> Handle<Context> {
        let context = Context {
            device: device as u32,
            primary,
            flags,
            sticky: None,
            legacy: Handle::NULL,
            orphans: Vec::new(),
            limits: LIMITS,
            cache_config: 0,
            shared_config: 0,
            peers: BTreeSet::new(),
        };
        let handle = match self.devices[device].primary.handle {
            Some(handle) if primary => {
                self.contexts.insert_at(handle, context);
                handle
            }
            _ => self.contexts.insert(context),
        };
        let legacy = self
            .streams
            .insert(Stream::new(handle, StreamKind::Legacy, 0));
        if let Ok(context) = self.contexts.get_mut(handle) {
            context.legacy = legacy;
        }
        handle
    }

    /// Allocations that kernels of the context may touch.
    pub(crate) fn reachable(&self, context: Handle<Context>) -> Snapshot {
        let all = self.space.snapshot();
        let one_device = self.devices.len() == 1;
        if one_device && !self.memory.values().any(|r| r.hidden) {
            return all;
        }
        let Ok(of) = self.contexts.get(context) else {
            return all;
        };
        let peers: BTreeSet<u32> = (of.peers.iter())
            .filter_map(|p| self.contexts.get(*p).ok())
            .map(|p| p.device)
            .chain([of.device])
            .collect();
        let live = all.live.iter().filter(|allocation| {
            let near = match allocation.owner {
                Owner::Device(device) => peers.contains(&device),
                Owner::Host | Owner::Managed => true,
            };
            near && self
                .memory
                .get(&allocation.address)
                .is_none_or(|r| !r.hidden)
        });
        Snapshot {
            live: Arc::new(live.cloned().collect()),
        }
    }
}

impl Guard {
    /// Waits for all work of a context.
    pub(crate) fn drain(mut self, context: Handle<Context>) -> Guard {
        loop {
            let works = self.schedule.of_context(context);
            if works.is_empty() {
                return self;
            }
            self = self.wait_for(works);
        }
    }

    /// Ends a context: its work is finished, what it left behind reported and freed.
    fn tear_down(mut self, context: Handle<Context>) -> Result<Guard> {
        self.contexts.get(context)?;
        self = self.drain(context);
        let gone = self.contexts.remove(context)?;
        let check = self.settings.checks.has(Check::Leak);
        let left: Vec<_> = (self.memory.values().filter(|r| r.context == context))
            .map(|r| (r.base, r.is_the_callers().then(|| r.describe())))
            .collect();
        for (base, what) in left {
            // After a fault the program could not free anything, so what is left says nothing.
            if let Some(what) = what.filter(|_| check && gone.sticky.is_none()) {
                self.report(Report::leak(format!(
                    "{what} were never freed before their context was destroyed"
                )));
            }
            self.free_now(base);
        }
        self.streams.retain(|_, s| s.context != context);
        self.thread_streams.retain(|key, _| key.1 != context);
        self.events.retain(|_, e: &mut Event| e.context != context);
        self.unload_all(context);
        self.captures.retain(|_, c| c.context != context);
        self.pools.retain(|_, p| p.context != Some(context));
        Ok(self)
    }
}

fn create(out: Out<Handle<Context>>, flags: u32, device: Ordinal) -> Result<()> {
    out.check("pctx")?;
    check_flags(flags)?;
    let mut state = lock()?;
    let device = state.device(device)?;
    let context = state.make_context(device, flags, false);
    STACK.with_borrow_mut(|s| s.push(context));
    out.put(context)
}

/// The context given, or the current one where none is.
fn given_or_current(state: &State, context: Handle<Context>) -> Result<Handle<Context>> {
    if context.is_null() {
        state.current()
    } else {
        state.usable(context)
    }
}

/// `CUctxCreateParams`, of which nothing is emulated.
#[repr(C)]
#[derive(Clone, Copy)]
struct CreateParams {
    affinity: *const c_void,
    affinity_count: i32,
    graphics: *const c_void,
}

driver_calls! { EXPORTS:
    fn cuCtxCreate_v2(out: Out<Handle<Context>>, flags: u32, device: Ordinal) {
        create(out, flags, device)
    }

    fn cuCtxCreate_v3(out: Out<Handle<Context>>, _affinity: *const c_void, count: i32, flags: u32, device: Ordinal) {
        if count != 0 {
            fail!(UNSUPPORTED_EXEC_AFFINITY, "execution affinity is not emulated");
        }
        create(out, flags, device)
    }

    fn cuCtxCreate_v4(out: Out<Handle<Context>>, params: super::api::In<CreateParams>, flags: u32, device: Ordinal) {
        if !params.is_null() {
            let params = params.get("ctxCreateParams")?;
            if params.affinity_count != 0 {
                fail!(UNSUPPORTED_EXEC_AFFINITY, "execution affinity is not emulated");
            }
            if !params.graphics.is_null() {
                fail!(NOT_SUPPORTED, "CUDA in graphics is not emulated");
            }
        }
        create(out, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle<Context>) {
        let state = lock()?;
        if state.contexts.get(context)?.primary {
            fail!(INVALID_CONTEXT, "{context:?} is a primary context: it is released, not destroyed");
        }
        drop(state.tear_down(context)?);
        STACK.with_borrow_mut(|s| {
            if s.last() == Some(&context) {
                s.pop();
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle<Context>) {
        lock()?.contexts.get(context)?;
        STACK.with_borrow_mut(|s| s.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(out: Out<Handle<Context>>) {
        let _state = lock()?;
        match STACK.with_borrow_mut(|s| s.pop()) {
            Some(context) => {
                out.put_if(context);
                Ok(())
            }
            None => fail!(INVALID_CONTEXT, "no context is current on this thread"),
        }
    }

    fn cuCtxSetCurrent(context: Handle<Context>) {
        let state = lock()?;
        if !context.is_null() {
            state.contexts.get(context)?;
        }
        STACK.with_borrow_mut(|s| {
            s.pop();
            if !context.is_null() {
                s.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(out: Out<Handle<Context>>) {
        let _state = lock()?;
        out.put(top().unwrap_or(Handle::NULL))
    }

    fn cuCtxGetDevice(out: Out<Ordinal>) {
        let state = lock()?;
        let Some(current) = top() else {
            fail!(INVALID_CONTEXT, "no context is current on this thread");
        };
        out.put(state.contexts.get(current)?.device as i32)
    }

    fn cuCtxGetDevice_v2(out: Out<Ordinal>, context: Handle<Context>) {
        let state = lock()?;
        let context = given_or_current(&state, context)?;
        out.put(state.contexts.get(context)?.device as i32)
    }

    fn cuCtxGetFlags(out: Out<u32>) {
        let state = lock()?;
        let current = state.current()?;
        out.put(state.contexts.get(current)?.flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        check_flags(flags)?;
        let mut state = lock()?;
        let current = state.current()?;
        state.contexts.get_mut(current)?.flags = flags;
        Ok(())
    }

    fn cuCtxGetId(context: Handle<Context>, out: Out<u64>) {
        let state = lock()?;
        let context = given_or_current(&state, context)?;
        out.put(context.raw() & 0xff_ffff_ffff)
    }

    fn cuCtxGetApiVersion(context: Handle<Context>, out: Out<u32>) {
        let state = lock()?;
        given_or_current(&state, context)?;
        out.put(DRIVER_VERSION as u32)
    }

    fn cuCtxSynchronize() {
        let mut state = lock()?;
        let current = state.current()?;
        state.forbid_while_capturing("cuCtxSynchronize")?;
        state = state.drain(current);
        state.current()?;
        Ok(())
    }

    fn cuCtxSynchronize_v2(context: Handle<Context>) {
        let mut state = lock()?;
        let context = given_or_current(&state, context)?;
        state.forbid_while_capturing("cuCtxSynchronize")?;
        state = state.drain(context);
        state.usable(context)?;
        Ok(())
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let state = lock()?;
        let current = state.current()?;
        match state.contexts.get(current)?.limits.get(limit as usize) {
            Some(found) => value.put(*found),
            None => fail!(UNSUPPORTED_LIMIT, "limit {limit}"),
        }
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let mut state = lock()?;
        let current = state.current()?;
        match state.contexts.get_mut(current)?.limits.get_mut(limit as usize) {
            Some(slot) => {
                *slot = value;
                Ok(())
            }
            None => fail!(UNSUPPORTED_LIMIT, "limit {limit}"),
        }
    }

    fn cuCtxGetCacheConfig(out: Out<u32>) {
        let state = lock()?;
        let current = state.current()?;
        out.put(state.contexts.get(current)?.cache_config)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        if config > 3 {
            fail!(INVALID_VALUE, "cache configuration {config}: expected 0 to 3");
        }
        let mut state = lock()?;
        let current = state.current()?;
        state.contexts.get_mut(current)?.cache_config = config;
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(out: Out<u32>) {
        let state = lock()?;
        let current = state.current()?;
        out.put(state.contexts.get(current)?.shared_config)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        if config > 2 {
            fail!(INVALID_VALUE, "shared-memory configuration {config}: expected 0 to 2");
        }
        let mut state = lock()?;
        let current = state.current()?;
        state.contexts.get_mut(current)?.shared_config = config;
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        lock()?.current()?;
        least.put_if(super::stream::LEAST_PRIORITY);
        greatest.put_if(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        lock()?.current().map(|_| ())
    }

    fn cuCtxEnablePeerAccess(peer: Handle<Context>, flags: u32) {
        if flags != 0 {
            fail!(INVALID_VALUE, "flags {flags}: expected 0");
        }
        let mut state = lock()?;
        let current = state.current()?;
        let there = state.contexts.get(peer)?.device;
        if state.contexts.get(current)?.device == there {
            fail!(INVALID_CONTEXT, "both contexts are of device {there}");
        }
        if !state.contexts.get_mut(current)?.peers.insert(peer) {
            return Err(CuResult::PEER_ACCESS_ALREADY_ENABLED.into());
        }
        Ok(())
    }

    fn cuCtxDisablePeerAccess(peer: Handle<Context>) {
        let mut state = lock()?;
        let current = state.current()?;
        state.contexts.get(peer)?;
        if !state.contexts.get_mut(current)?.peers.remove(&peer) {
            return Err(CuResult::PEER_ACCESS_NOT_ENABLED.into());
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxRetain(out: Out<Handle<Context>>, device: Ordinal) {
        out.check("pctx")?;
        let mut state = lock()?;
        let device = state.device(device)?;
        let handle = match state.devices[device].primary.handle {
            Some(handle) if state.contexts.contains(handle) => handle,
            _ => {
                let flags = state.devices[device].primary.flags;
                let handle = state.make_context(device, flags, true);
                state.devices[device].primary.handle = Some(handle);
                handle
            }
        };
        state.devices[device].primary.retained += 1;
        out.put(handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: Ordinal) {
        let mut state = lock()?;
        let device = state.device(device)?;
        let primary = &mut state.devices[device].primary;
        let (Some(handle), true) = (primary.handle, primary.retained > 0) else {
            fail!(INVALID_CONTEXT, "the primary context of device {device} is not retained");
        };
        primary.retained -= 1;
        if primary.retained == 0 {
            drop(state.tear_down(handle)?);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: Ordinal) {
        let mut state = lock()?;
        let device = state.device(device)?;
        let Some(handle) = state.devices[device].primary.handle else { return Ok(()) };
        if !state.contexts.contains(handle) {
            return Ok(());
        }
        state = state.tear_down(handle)?;
        // Whoever retained it goes on with a fresh one under the same handle.
        if state.devices[device].primary.retained > 0 {
            let flags = state.devices[device].primary.flags;
            state.make_context(device, flags, true);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: Ordinal, flags: u32) {
        check_flags(flags)?;
        let mut state = lock()?;
        let device = state.device(device)?;
        state.devices[device].primary.flags = flags;
        if let Some(handle) = state.devices[device].primary.handle
            && let Ok(context) = state.contexts.get_mut(handle)
        {
            context.flags = flags;
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: Ordinal, flags: Out<u32>, active: Out<i32>) {
        let state = lock()?;
        let device = state.device(device)?;
        let primary = &state.devices[device].primary;
        flags.put(primary.flags)?;
        active.put(i32::from(primary.handle.is_some_and(|h| state.contexts.contains(h))))
    }
}

impl From<Error> for CuResult {
    fn from(e: Error) -> CuResult {
        e.code
    }
}

/// A null pointer among the arguments.
pub(crate) fn null(what: &str) -> Error {
    error(CuResult::INVALID_VALUE, format!("{what} is null"))
}

//! Streams: queues of work, ordered as CUDA orders them.

use super::abi::{HostFunction, Ordinal, StreamCallback};
use super::api::{Out, driver_calls, per_thread_default};
use super::capture::Capture;
use super::context::{Context, null};
use super::copy::HostPointer;
use super::error::{CuResult, Result, fail};
use super::event::Event;
use super::handle::{Handle, Kind};
use super::schedule::WorkId;
use super::state::{State, lock};
use super::work::{HostCall, Work, wake};
use std::collections::BTreeMap;

/// The least urgent priority a stream can have.
pub(crate) const LEAST_PRIORITY: i32 = 0;
/// The most urgent.
pub(crate) const GREATEST_PRIORITY: i32 = -5;

/// How a stream is ordered against the legacy default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// The legacy default stream: waits for all blocking streams, and they for it.
    Legacy,
    /// Ordered against the legacy default stream.
    Blocking,
    /// A thread's own default stream; ordered as [`StreamKind::Blocking`].
    PerThread,
    /// Ordered against nothing.
    NonBlocking,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) context: Handle<Context>,
    kind: StreamKind,
    priority: i32,
    /// The last work put into it.
    tail: Option<WorkId>,
    pub(crate) capture: Option<Handle<Capture>>,
    /// `cuStreamSetAttribute`'s values, by attribute.
    attributes: BTreeMap<u32, [u32; 16]>,
}

impl Kind for Stream {
    const TAG: u8 = 2;
    const WHAT: &'static str = "stream";
}

impl Stream {
    pub(crate) fn new(context: Handle<Context>, kind: StreamKind, priority: i32) -> Stream {
        Stream {
            context,
            kind,
            priority,
            tail: None,
            capture: None,
            attributes: BTreeMap::new(),
        }
    }

    fn blocks(&self) -> bool {
        matches!(self.kind, StreamKind::Blocking | StreamKind::PerThread)
    }
}

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

impl State {
    /// The stream meant by a handle of a call: the default streams resolved, the context usable.
    pub(crate) fn stream(&mut self, handle: Handle<Stream>) -> Result<Handle<Stream>> {
        let own = match handle.raw() {
            0 => per_thread_default(),
            LEGACY => false,
            PER_THREAD => true,
            _ => {
                let context = self.streams.get(handle)?.context;
                self.usable(context)?;
                return Ok(handle);
            }
        };
        let context = self.current()?;
        if !own {
            return Ok(self.contexts.get(context)?.legacy);
        }
        let key = (std::thread::current().id(), context);
        if let Some(found) = self.thread_streams.get(&key) {
            return Ok(*found);
        }
        let made = self
            .streams
            .insert(Stream::new(context, StreamKind::PerThread, 0));
        self.thread_streams.insert(key, made);
        Ok(made)
    }

    /// Puts work into a stream, or into the graph that the stream captures (then `None`).
    pub(crate) fn put(&mut self, stream: Handle<Stream>, work: Work) -> Result<Option<WorkId>> {
        if self.capturing(stream)?.is_some() {
            self.capture_work(stream, work)?;
            return Ok(None);
        }
        self.forbid_implicit(stream)?;
        self.enqueue(stream, work, []).map(Some)
    }

    /// Puts work into a stream that does not capture, after `more` as well.
    pub(crate) fn enqueue(
        &mut self,
        stream: Handle<Stream>,
        work: Work,
        more: impl IntoIterator<Item = WorkId>,
    ) -> Result<WorkId> {
        let of = self.streams.get(stream)?;
        let context = of.context;
        let mut needs: Vec<WorkId> = more.into_iter().chain(of.tail).collect();
        match of.kind {
            StreamKind::Legacy => {
                needs.extend(self.blocking_tails(context));
                // All of it comes before this, so the next need not look at it again.
                self.contexts.get_mut(context)?.orphans.clear();
            }
            StreamKind::Blocking | StreamKind::PerThread => {
                let legacy = self.contexts.get(context)?.legacy;
                needs.extend(self.streams.get(legacy)?.tail);
            }
            StreamKind::NonBlocking => {}
        }
        let id = self.schedule.submit(context, work, needs);
        self.streams.get_mut(stream)?.tail = Some(id);
        wake();
        Ok(id)
    }

    /// Fails with `STREAM_CAPTURE_IMPLICIT` where the legacy default stream would have to wait for a
    /// stream that captures.
    fn forbid_implicit(&mut self, stream: Handle<Stream>) -> Result<()> {
        let of = self.streams.get(stream)?;
        if of.kind != StreamKind::Legacy {
            return Ok(());
        }
        let context = of.context;
        let blocked: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| s.context == context && s.blocks())
            .filter_map(|(_, s)| s.capture)
            .collect();
        if blocked.is_empty() {
            return Ok(());
        }
        for capture in blocked {
            self.invalidate(capture);
        }
        fail!(
            STREAM_CAPTURE_IMPLICIT,
            "the legacy default stream cannot wait for a stream that captures"
        );
    }

    /// The last work put into the stream, if it is unfinished. For the legacy default stream also that
    /// of the streams it waits for.
    pub(crate) fn tails(&self, stream: Handle<Stream>) -> Result<Vec<WorkId>> {
        let of = self.streams.get(stream)?;
        let mut tails: Vec<_> = of.tail.into_iter().collect();
        if of.kind == StreamKind::Legacy {
            tails.extend(self.blocking_tails(of.context));
        }
        tails.retain(|t| self.schedule.is_pending(*t));
        Ok(tails)
    }

    /// The last work of every blocking stream of a context, the destroyed ones too.
    fn blocking_tails(&self, context: Handle<Context>) -> Vec<WorkId> {
        let live = self
            .streams
            .iter()
            .filter(|(_, s)| s.context == context && s.blocks())
            .filter_map(|(_, s)| s.tail);
        let orphans = self
            .contexts
            .get(context)
            .map(|c| c.orphans.clone())
            .unwrap_or_default();
        live.chain(orphans).collect()
    }

    /// Fails where the stream captures: what waits for its work cannot be captured.
    fn forbid_capturing(&mut self, stream: Handle<Stream>, what: &str) -> Result<()> {
        if let Some(capture) = self.streams.get(stream)?.capture {
            self.invalidate(capture);
            fail!(
                STREAM_CAPTURE_UNSUPPORTED,
                "{what} on a stream that captures"
            );
        }
        self.forbid_implicit(stream)
    }

    /// Whether the stream is the legacy default stream of its context.
    pub(crate) fn is_legacy(&self, stream: Handle<Stream>) -> bool {
        self.streams
            .get(stream)
            .is_ok_and(|s| s.kind == StreamKind::Legacy)
    }
}

/// Waits for a stream, as `cuStreamSynchronize`.
pub(crate) fn synchronize(handle: Handle<Stream>) -> Result<()> {
    let mut state = lock()?;
    let stream = state.stream(handle)?;
    state.forbid_capturing(stream, "cuStreamSynchronize")?;
    let context = state.streams.get(stream)?.context;
    let tails = state.tails(stream)?;
    let state = state.wait_for(tails);
    state.usable(context)?;
    Ok(())
}

fn create(out: Out<Handle<Stream>>, flags: u32, priority: i32) -> Result<()> {
    out.check("phStream")?;
    let kind = match flags {
        0 => StreamKind::Blocking,
        1 => StreamKind::NonBlocking,
        _ => fail!(
            INVALID_VALUE,
            "stream flags {flags:#x}: expected 0 or 1 (non-blocking)"
        ),
    };
    let mut state = lock()?;
    let context = state.current()?;
    // As the driver does: a priority outside the range is brought into it.
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    let stream = state.streams.insert(Stream::new(context, kind, priority));
    out.put(stream)
}

fn add_host_call(
    handle: Handle<Stream>,
    call: impl FnOnce(Handle<Stream>) -> HostCall,
) -> Result<()> {
    let mut state = lock()?;
    let stream = state.stream(handle)?;
    state.put(stream, Work::Host(call(handle)))?;
    Ok(())
}

/// `CU_EVENT_WAIT_EXTERNAL`.
const WAIT_EXTERNAL: u32 = 1;

driver_calls! { EXPORTS:
    fn cuStreamCreate(out: Out<Handle<Stream>>, flags: u32) {
        create(out, flags, 0)
    }

    fn cuStreamCreateWithPriority(out: Out<Handle<Stream>>, flags: u32, priority: i32) {
        create(out, flags, priority)
    }

    fn cuStreamDestroy_v2(handle: Handle<Stream>) {
        let mut state = lock()?;
        if handle.raw() <= PER_THREAD {
            fail!(INVALID_HANDLE, "the default streams cannot be destroyed");
        }
        let stream = state.streams.get(handle)?;
        if let Some(capture) = stream.capture {
            state.invalidate(capture);
        }
        // Work already in it still runs.
        let gone = state.streams.remove(handle)?;
        if gone.blocks() {
            state.contexts.get_mut(gone.context)?.orphans.extend(gone.tail);
        }
        Ok(())
    }

    fn cuStreamSynchronize(stream: Handle<Stream>) per_thread cuStreamSynchronize_ptsz {
        synchronize(stream)
    }

    fn cuStreamQuery(handle: Handle<Stream>) per_thread cuStreamQuery_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        state.forbid_capturing(stream, "cuStreamQuery")?;
        let tails = state.tails(stream)?;
        if tails.is_empty() {
            return Ok(());
        }
        // Whoever asks again and again shall not ask for ever.
        for tail in tails {
            state.schedule.want(tail);
        }
        wake();
        Err(CuResult::NOT_READY.into())
    }

    fn cuStreamWaitEvent(handle: Handle<Stream>, event: Handle<Event>, flags: u32) per_thread cuStreamWaitEvent_ptsz {
        if flags & !WAIT_EXTERNAL != 0 {
            fail!(INVALID_VALUE, "flags {flags:#x}: expected 0 or 1 (external)");
        }
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        state.events.get(event)?;
        if flags == WAIT_EXTERNAL && state.capturing(stream)?.is_some() {
            state.capture_work(stream, Work::Wait(event))?;
            return Ok(());
        }
        state.wait_event(stream, event)
    }

    fn cuLaunchHostFunc(stream: Handle<Stream>, function: Option<HostFunction>, data: HostPointer) per_thread cuLaunchHostFunc_ptsz {
        let Some(function) = function else { return Err(null("fn")) };
        add_host_call(stream, |_| HostCall::Function(function, data))
    }

    fn cuStreamAddCallback(stream: Handle<Stream>, function: Option<StreamCallback>, data: HostPointer, flags: u32) per_thread cuStreamAddCallback_ptsz {
        let Some(function) = function else { return Err(null("callback")) };
        if flags != 0 {
            fail!(INVALID_VALUE, "flags {flags:#x}: expected 0");
        }
        let mut state = lock()?;
        let of = state.stream(stream)?;
        // Unlike host functions, callbacks cannot be captured.
        state.forbid_capturing(of, "cuStreamAddCallback")?;
        state.put(of, Work::Host(HostCall::Callback(function, stream, data)))?;
        Ok(())
    }

    fn cuStreamGetPriority(handle: Handle<Stream>, priority: Out<i32>) per_thread cuStreamGetPriority_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        priority.put(state.streams.get(stream)?.priority)
    }

    fn cuStreamGetFlags(handle: Handle<Stream>, flags: Out<u32>) per_thread cuStreamGetFlags_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        flags.put(u32::from(state.streams.get(stream)?.kind == StreamKind::NonBlocking))
    }

    fn cuStreamGetId(handle: Handle<Stream>, id: Out<u64>) per_thread cuStreamGetId_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        id.put(stream.raw() & 0xff_ffff_ffff)
    }

    fn cuStreamGetCtx(handle: Handle<Stream>, out: Out<Handle<Context>>) per_thread cuStreamGetCtx_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        out.put(state.streams.get(stream)?.context)
    }

    fn cuStreamGetCtx_v2(handle: Handle<Stream>, out: Out<Handle<Context>>, green: Out<u64>) per_thread cuStreamGetCtx_v2_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        green.put_if(0);
        out.put(state.streams.get(stream)?.context)
    }

    fn cuStreamGetDevice(handle: Handle<Stream>, out: Out<Ordinal>) per_thread cuStreamGetDevice_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        let context = state.streams.get(stream)?.context;
        out.put(state.contexts.get(context)?.device as i32)
    }

    fn cuStreamSetAttribute(handle: Handle<Stream>, attribute: u32, value: super::api::In<[u32; 16]>) per_thread cuStreamSetAttribute_ptsz {
        let value = value.get("value")?;
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        let stream = state.streams.get_mut(stream)?;
        match attribute {
            // Hints about caches and waiting, without an effect on results.
            1 | 3 | 9 | 10 => {
                stream.attributes.insert(attribute, value);
                Ok(())
            }
            8 => {
                stream.priority = (value[0] as i32).clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
                Ok(())
            }
            _ => fail!(INVALID_VALUE, "stream attribute {attribute}"),
        }
    }

    fn cuStreamGetAttribute(handle: Handle<Stream>, attribute: u32, value: Out<[u32; 16]>) per_thread cuStreamGetAttribute_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        let stream = state.streams.get(stream)?;
        match attribute {
            1 | 3 | 9 | 10 => value.put(stream.attributes.get(&attribute).copied().unwrap_or_default()),
            8 => {
                let mut words = [0; 16];
                words[0] = stream.priority as u32;
                value.put(words)
            }
            _ => fail!(INVALID_VALUE, "stream attribute {attribute}"),
        }
    }

    fn cuStreamCopyAttributes(to: Handle<Stream>, from: Handle<Stream>) per_thread cuStreamCopyAttributes_ptsz {
        let mut state = lock()?;
        let (to, from) = (state.stream(to)?, state.stream(from)?);
        let attributes = state.streams.get(from)?.attributes.clone();
        state.streams.get_mut(to)?.attributes = attributes;
        Ok(())
    }

    fn cuStreamAttachMemAsync(handle: Handle<Stream>, address: u64, len: usize, flags: u32) per_thread cuStreamAttachMemAsync_ptsz {
        if !matches!(flags, 1 | 2 | 4) {
            fail!(INVALID_VALUE, "flags {flags:#x}: expected 1 (global), 2 (host) or 4 (single)");
        }
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        state.managed(address, len as u64)?;
        state.put(stream, Work::Marker)?;
        Ok(())
    }
}

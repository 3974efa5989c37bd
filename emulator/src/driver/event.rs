//! Events: points in a stream that others can wait for.

use super::api::{Out, driver_calls};
use super::capture::Capture;
use super::context::Context;
use super::error::{CuResult, Result, fail};
use super::graph::GraphNode;
use super::handle::{Handle, Kind};
use super::schedule::WorkId;
use super::state::{State, lock};
use super::stream::Stream;
use super::work::{Work, wake};
use std::time::Instant;

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) context: Handle<Context>,
    timed: bool,
    /// The last record of it, finished or not.
    pub(crate) work: Option<WorkId>,
    /// When that record was reached.
    pub(crate) time: Option<Instant>,
    /// Where it was last recorded, if in a capture: the nodes it stands for.
    capture: Option<(Handle<Capture>, Vec<Handle<GraphNode>>)>,
}

impl Kind for Event {
    const TAG: u8 = 3;
    const WHAT: &'static str = "event";
}

/// Flags: blocking synchronisation, no timing, between processes.
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
/// `CU_EVENT_RECORD_EXTERNAL`.
const RECORD_EXTERNAL: u32 = 1;

impl State {
    /// Records an event in a stream.
    fn record(
        &mut self,
        event: Handle<Event>,
        stream: Handle<Stream>,
        external: bool,
    ) -> Result<()> {
        let context = self.events.get(event)?.context;
        if context != self.streams.get(stream)?.context {
            fail!(INVALID_HANDLE, "event and stream are of different contexts");
        }
        if let Some(capture) = self.capturing(stream)? {
            if external {
                return self.capture_work(stream, Work::Record(event));
            }
            let nodes = self.frontier(capture, stream)?;
            self.events.get_mut(event)?.capture = Some((capture, nodes));
            return Ok(());
        }
        if let Some(id) = self.put(stream, Work::Record(event))? {
            self.recorded_by(event, id);
        }
        Ok(())
    }

    /// The event's record is now that piece of work.
    pub(crate) fn recorded_by(&mut self, event: Handle<Event>, work: WorkId) {
        if let Ok(event) = self.events.get_mut(event) {
            event.work = Some(work);
            event.time = None;
            event.capture = None;
        }
    }

    /// Orders a stream after an event's record: `cuStreamWaitEvent`.
    pub(crate) fn wait_event(
        &mut self,
        stream: Handle<Stream>,
        event: Handle<Event>,
    ) -> Result<()> {
        let captured = self.events.get(event)?.capture.clone();
        let here = self.capturing(stream)?;
        match (here, captured) {
            (Some(here), Some((there, nodes))) if here == there => {
                self.join_capture(here, stream, nodes)
            }
            (Some(here), Some((there, _))) if self.captures.contains(there) => {
                self.invalidate(here);
                self.invalidate(there);
                fail!(
                    STREAM_CAPTURE_MERGE,
                    "the event was recorded in another capture"
                )
            }
            (Some(here), _) => {
                self.invalidate(here);
                fail!(
                    STREAM_CAPTURE_ISOLATION,
                    "the event was not recorded in this capture"
                )
            }
            (None, Some((there, nodes))) if self.captures.contains(there) => {
                if self.is_legacy(stream) {
                    self.invalidate(there);
                    fail!(
                        STREAM_CAPTURE_IMPLICIT,
                        "the legacy default stream cannot take part in a capture"
                    );
                }
                self.join_capture(there, stream, nodes)
            }
            (None, Some(_)) => fail!(
                CAPTURED_EVENT,
                "the event was last recorded in a capture that has ended"
            ),
            (None, None) => {
                let work = self.events.get(event)?.work;
                self.put_after(stream, work)
            }
        }
    }

    fn put_after(&mut self, stream: Handle<Stream>, work: Option<WorkId>) -> Result<()> {
        if let Some(work) = work.filter(|w| self.schedule.is_pending(*w)) {
            self.enqueue(stream, Work::Marker, [work])?;
        }
        Ok(())
    }

    /// Whether the event's last record is finished; an error where it was captured.
    fn is_complete(&mut self, event: Handle<Event>) -> Result<bool> {
        let of = self.events.get(event)?;
        let (context, work) = (of.context, of.work);
        if let Some((capture, _)) = &of.capture {
            let capture = *capture;
            self.invalidate(capture);
            fail!(CAPTURED_EVENT, "the event was last recorded in a capture");
        }
        self.usable(context)?;
        Ok(!work.is_some_and(|w| self.schedule.is_pending(w)))
    }
}

fn elapsed(out: Out<f32>, start: Handle<Event>, end: Handle<Event>) -> Result<()> {
    out.check("pMilliseconds")?;
    let mut state = lock()?;
    let mut times = [None; 2];
    for (slot, handle) in times.iter_mut().zip([start, end]) {
        let complete = state.is_complete(handle)?;
        let event = state.events.get(handle)?;
        if !event.timed {
            fail!(
                INVALID_HANDLE,
                "event {handle:?} was created without timing"
            );
        }
        if event.work.is_none() {
            fail!(INVALID_HANDLE, "event {handle:?} was never recorded");
        }
        if !complete {
            return Err(CuResult::NOT_READY.into());
        }
        *slot = event.time;
    }
    match times {
        // The host's clock while it emulates: it says nothing about a GPU.
        [Some(from), Some(to)] => {
            let seconds = match to.checked_duration_since(from) {
                Some(ahead) => ahead.as_secs_f64(),
                None => -from.duration_since(to).as_secs_f64(),
            };
            out.put((seconds * 1e3) as f32)
        }
        // A record that a fault kept from happening.
        _ => Err(CuResult::NOT_READY.into()),
    }
}

fn record(event: Handle<Event>, stream: Handle<Stream>, flags: u32) -> Result<()> {
    if flags & !RECORD_EXTERNAL != 0 {
        fail!(
            INVALID_VALUE,
            "flags {flags:#x}: expected 0 or 1 (external)"
        );
    }
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    state.record(event, stream, flags == RECORD_EXTERNAL)
}

driver_calls! { EXPORTS:
    fn cuEventCreate(out: Out<Handle<Event>>, flags: u32) {
        out.check("phEvent")?;
        if flags & !7 != 0 || (flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0) {
            fail!(INVALID_VALUE, "event flags {flags:#x}");
        }
        if flags & INTERPROCESS != 0 {
            fail!(NOT_SUPPORTED, "events between processes are not emulated");
        }
        let mut state = lock()?;
        let context = state.current()?;
        let timed = flags & DISABLE_TIMING == 0;
        let event = state.events.insert(Event { context, timed, work: None, time: None, capture: None });
        out.put(event)
    }

    fn cuEventDestroy_v2(event: Handle<Event>) {
        lock()?.events.remove(event)?;
        Ok(())
    }

    fn cuEventRecord(event: Handle<Event>, stream: Handle<Stream>) per_thread cuEventRecord_ptsz {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags(event: Handle<Event>, stream: Handle<Stream>, flags: u32) per_thread cuEventRecordWithFlags_ptsz {
        record(event, stream, flags)
    }

    fn cuEventQuery(event: Handle<Event>) {
        let mut state = lock()?;
        if state.is_complete(event)? {
            return Ok(());
        }
        // Whoever asks again and again shall not ask for ever.
        if let Some(work) = state.events.get(event)?.work {
            state.schedule.want(work);
            wake();
        }
        Err(CuResult::NOT_READY.into())
    }

    fn cuEventSynchronize(event: Handle<Event>) {
        let mut state = lock()?;
        if state.is_complete(event)? {
            return Ok(());
        }
        let of = state.events.get(event)?;
        let (context, work) = (of.context, of.work);
        let state = state.wait_for(work);
        state.usable(context)?;
        Ok(())
    }

    fn cuEventElapsedTime(out: Out<f32>, start: Handle<Event>, end: Handle<Event>) also cuEventElapsedTime_v2 {
        elapsed(out, start, end)
    }

    fn cuCtxRecordEvent(_context: Handle<Context>, _event: Handle<Event>) {
        fail!(NOT_SUPPORTED, "events of whole contexts are for green contexts, which are not emulated")
    }

    fn cuCtxWaitEvent(_context: Handle<Context>, _event: Handle<Event>) {
        fail!(NOT_SUPPORTED, "events of whole contexts are for green contexts, which are not emulated")
    }
}

//! Stream capture: work becomes nodes of a graph instead of running.

use super::abi::EdgeData;
use super::api::{In, Out, driver_calls};
use super::context::Context;
use super::error::{Result, fail};
use super::graph::{Action, Graph, GraphNode};
use super::handle::{Handle, Kind};
use super::state::{State, lock};
use super::stream::Stream;
use super::work::Work;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::thread::ThreadId;

/// Which calls a capture forbids, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// To every thread.
    Global,
    /// To the thread that captures.
    ThreadLocal,
    /// To nobody.
    Relaxed,
}

impl Mode {
    fn of(number: u32) -> Result<Mode> {
        match number {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => fail!(
                INVALID_VALUE,
                "capture mode {number}: expected 0 (global), 1 (thread-local) or 2 (relaxed)"
            ),
        }
    }
}

thread_local! {
    /// How the thread stands to captures of others.
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// A capture under way.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) context: Handle<Context>,
    graph: Handle<Graph>,
    /// Whether the graph was made for the capture, so that it goes when the capture fails.
    owns_graph: bool,
    origin: Handle<Stream>,
    mode: Mode,
    thread: ThreadId,
    valid: bool,
    /// The streams taking part, and the nodes that what comes next in each depends on.
    streams: BTreeMap<Handle<Stream>, Vec<Handle<GraphNode>>>,
    /// What `cuStreamGetCaptureInfo` last pointed the caller to.
    told: (Box<[Handle<GraphNode>]>, Box<[EdgeData]>),
}

impl Kind for Capture {
    const TAG: u8 = 4;
    const WHAT: &'static str = "capture";
}

/// `CUstreamCaptureStatus`.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

impl State {
    /// The capture the stream takes part in, if any; an error where that capture is spoilt.
    pub(crate) fn capturing(&self, stream: Handle<Stream>) -> Result<Option<Handle<Capture>>> {
        match self.streams.get(stream)?.capture {
            Some(capture) if !self.captures.get(capture)?.valid => {
                fail!(
                    STREAM_CAPTURE_INVALIDATED,
                    "an earlier call spoilt the capture"
                )
            }
            capture => Ok(capture),
        }
    }

    /// Spoils a capture: it can only be ended.
    pub(crate) fn invalidate(&mut self, capture: Handle<Capture>) {
        if let Ok(capture) = self.captures.get_mut(capture) {
            capture.valid = false;
        }
    }

    /// The nodes that what comes next in the stream depends on.
    pub(crate) fn frontier(
        &self,
        capture: Handle<Capture>,
        stream: Handle<Stream>,
    ) -> Result<Vec<Handle<GraphNode>>> {
        Ok(self
            .captures
            .get(capture)?
            .streams
            .get(&stream)
            .cloned()
            .unwrap_or_default())
    }

    /// Orders a stream of a capture, or one that joins it, after nodes.
    pub(crate) fn join_capture(
        &mut self,
        capture: Handle<Capture>,
        stream: Handle<Stream>,
        nodes: Vec<Handle<GraphNode>>,
    ) -> Result<()> {
        let of = self.captures.get_mut(capture)?;
        if !of.valid {
            fail!(
                STREAM_CAPTURE_INVALIDATED,
                "an earlier call spoilt the capture"
            );
        }
        let frontier = of.streams.entry(stream).or_default();
        for node in nodes {
            if !frontier.contains(&node) {
                frontier.push(node);
            }
        }
        self.streams.get_mut(stream)?.capture = Some(capture);
        Ok(())
    }

    /// Adds work in a capturing stream to the graph.
    pub(crate) fn capture_work(&mut self, stream: Handle<Stream>, work: Work) -> Result<()> {
        let Some(capture) = self.capturing(stream)? else {
            fail!(ILLEGAL_STATE, "the stream does not capture");
        };
        let needs = self.frontier(capture, stream)?;
        let graph = self.captures.get(capture)?.graph;
        let context = self.streams.get(stream)?.context;
        let node = self.add_work_node(graph, context, work, needs)?;
        self.captures
            .get_mut(capture)?
            .streams
            .insert(stream, vec![node]);
        Ok(())
    }

    /// Adds a graph as one node of the captured graph.
    pub(crate) fn capture_child(
        &mut self,
        capture: Handle<Capture>,
        stream: Handle<Stream>,
        child: Handle<Graph>,
    ) -> Result<()> {
        let needs = self.frontier(capture, stream)?;
        let graph = self.captures.get(capture)?.graph;
        let context = self.streams.get(stream)?.context;
        let node = self.add_node(graph, context, Action::Child(child), needs)?;
        self.captures
            .get_mut(capture)?
            .streams
            .insert(stream, vec![node]);
        Ok(())
    }

    /// Fails where a capture forbids the calling thread a call that could wait for captured work.
    pub(crate) fn forbid_while_capturing(&mut self, call: &str) -> Result<()> {
        let mode = THREAD_MODE.get();
        if mode == Mode::Relaxed {
            return Ok(());
        }
        let me = std::thread::current().id();
        let hit: Vec<_> = (self.captures.iter())
            .filter(|(_, c)| {
                if c.thread == me {
                    c.mode != Mode::Relaxed
                } else {
                    mode == Mode::Global && c.mode == Mode::Global
                }
            })
            .map(|(handle, _)| handle)
            .collect();
        if hit.is_empty() {
            return Ok(());
        }
        for capture in hit {
            self.invalidate(capture);
        }
        fail!(
            STREAM_CAPTURE_UNSUPPORTED,
            "{call} is not permitted while a stream captures"
        );
    }

    fn begin_capture(
        &mut self,
        stream: Handle<Stream>,
        mode: u32,
        into: Option<(Handle<Graph>, Vec<Handle<GraphNode>>)>,
    ) -> Result<()> {
        let mode = Mode::of(mode)?;
        if self.is_legacy(stream) {
            fail!(
                STREAM_CAPTURE_UNSUPPORTED,
                "the legacy default stream cannot capture"
            );
        }
        if self.streams.get(stream)?.capture.is_some() {
            fail!(ILLEGAL_STATE, "the stream captures already");
        }
        let owns_graph = into.is_none();
        let (graph, nodes) =
            into.unwrap_or_else(|| (self.graphs.insert(Graph::default()), Vec::new()));
        let context = self.streams.get(stream)?.context;
        let capture = self.captures.insert(Capture {
            context,
            graph,
            owns_graph,
            origin: stream,
            mode,
            thread: std::thread::current().id(),
            valid: true,
            streams: BTreeMap::from([(stream, nodes)]),
            told: Default::default(),
        });
        self.streams.get_mut(stream)?.capture = Some(capture);
        Ok(())
    }

    fn end_capture(&mut self, stream: Handle<Stream>) -> Result<Handle<Graph>> {
        let Some(handle) = self.streams.get(stream)?.capture else {
            fail!(ILLEGAL_STATE, "the stream does not capture");
        };
        let capture = self.captures.get(handle)?;
        if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
            fail!(
                STREAM_CAPTURE_WRONG_THREAD,
                "the capture was begun by another thread"
            );
        }
        if capture.origin != stream {
            self.invalidate(handle);
            fail!(
                STREAM_CAPTURE_UNMATCHED,
                "the capture was begun in another stream"
            );
        }
        let capture = self.captures.remove(handle)?;
        for stream in capture.streams.keys() {
            if let Ok(stream) = self.streams.get_mut(*stream) {
                stream.capture = None;
            }
        }
        let joined = self.ancestors(capture.streams.get(&stream).into_iter().flatten().copied());
        let stray = capture
            .streams
            .values()
            .flatten()
            .any(|node| !joined.contains(node));
        if capture.valid && !stray {
            return Ok(capture.graph);
        }
        if capture.owns_graph {
            self.destroy_graph(capture.graph);
        }
        if !capture.valid {
            fail!(
                STREAM_CAPTURE_INVALIDATED,
                "an earlier call spoilt the capture"
            );
        }
        fail!(
            STREAM_CAPTURE_UNJOINED,
            "another stream's captured work was not joined into this one"
        );
    }

    /// The nodes and all that they depend on.
    fn ancestors(
        &self,
        nodes: impl Iterator<Item = Handle<GraphNode>>,
    ) -> BTreeSet<Handle<GraphNode>> {
        let mut found = BTreeSet::new();
        let mut stack: Vec<_> = nodes.collect();
        while let Some(node) = stack.pop() {
            if found.insert(node)
                && let Ok(node) = self.nodes.get(node)
            {
                stack.extend(&node.needs);
            }
        }
        found
    }

    fn status(&self, stream: Handle<Stream>) -> Result<(u32, Option<Handle<Capture>>)> {
        Ok(match self.streams.get(stream)?.capture {
            None => (NONE, None),
            Some(capture) if self.captures.get(capture)?.valid => (ACTIVE, Some(capture)),
            Some(_) => (INVALIDATED, None),
        })
    }
}

/// Where `cuStreamGetCaptureInfo` writes.
struct InfoTargets {
    status: Out<u32>,
    id: Out<u64>,
    graph: Option<Out<Handle<Graph>>>,
    nodes: Option<Out<*const Handle<GraphNode>>>,
    edges: Option<Out<*const EdgeData>>,
    count: Option<Out<usize>>,
}

fn capture_info(stream: Handle<Stream>, to: InfoTargets) -> Result<()> {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    let (status, capture) = state.status(stream)?;
    to.status.put(status)?;
    let Some(handle) = capture else { return Ok(()) };
    let frontier = state.frontier(handle, stream)?;
    let capture = state.captures.get_mut(handle)?;
    to.id.put_if(handle.raw() & 0xff_ffff_ffff);
    if let Some(graph) = to.graph {
        graph.put_if(capture.graph);
    }
    capture.told = (
        frontier.clone().into(),
        vec![EdgeData::default(); frontier.len()].into(),
    );
    if let Some(nodes) = to.nodes {
        nodes.put_if(capture.told.0.as_ptr());
    }
    if let Some(edges) = to.edges {
        edges.put_if(capture.told.1.as_ptr());
    }
    if let Some(count) = to.count {
        count.put_if(frontier.len());
    }
    Ok(())
}

fn update_dependencies(
    stream: Handle<Stream>,
    nodes: In<Handle<GraphNode>>,
    count: usize,
    flags: u32,
) -> Result<()> {
    let nodes = nodes.all(count, "dependencies")?;
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    let Some(capture) = state.capturing(stream)? else {
        fail!(ILLEGAL_STATE, "the stream does not capture");
    };
    let graph = state.captures.get(capture)?.graph;
    for node in &nodes {
        if state.nodes.get(*node)?.graph != graph {
            fail!(INVALID_VALUE, "node {node:?} is not of the captured graph");
        }
    }
    match flags {
        0 => state.join_capture(capture, stream, nodes),
        1 => {
            state
                .captures
                .get_mut(capture)?
                .streams
                .insert(stream, nodes);
            Ok(())
        }
        _ => fail!(INVALID_VALUE, "flags {flags}: expected 0 (add) or 1 (set)"),
    }
}

driver_calls! { EXPORTS:
    fn cuStreamBeginCapture_v2(stream: Handle<Stream>, mode: u32) per_thread cuStreamBeginCapture_v2_ptsz {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        state.begin_capture(stream, mode, None)
    }

    fn cuStreamBeginCaptureToGraph(
        stream: Handle<Stream>, graph: Handle<Graph>, nodes: In<Handle<GraphNode>>, _edges: In<EdgeData>, count: usize, mode: u32,
    ) per_thread cuStreamBeginCaptureToGraph_ptsz {
        let nodes = nodes.all(count, "dependencies")?;
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        state.graphs.get(graph)?;
        for node in &nodes {
            if state.nodes.get(*node)?.graph != graph {
                fail!(INVALID_VALUE, "node {node:?} is not of the graph");
            }
        }
        state.begin_capture(stream, mode, Some((graph, nodes)))
    }

    fn cuStreamEndCapture(stream: Handle<Stream>, out: Out<Handle<Graph>>) per_thread cuStreamEndCapture_ptsz {
        out.check("phGraph")?;
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        out.put(Handle::NULL)?;
        let graph = state.end_capture(stream)?;
        out.put(graph)
    }

    fn cuStreamIsCapturing(handle: Handle<Stream>, out: Out<u32>) per_thread cuStreamIsCapturing_ptsz {
        let mut state = lock()?;
        let stream = state.stream(handle)?;
        out.put(state.status(stream)?.0)
    }

    fn cuStreamGetCaptureInfo(stream: Handle<Stream>, status: Out<u32>, id: Out<u64>) per_thread cuStreamGetCaptureInfo_ptsz {
        capture_info(stream, InfoTargets { status, id, graph: None, nodes: None, edges: None, count: None })
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle<Stream>, status: Out<u32>, id: Out<u64>, graph: Out<Handle<Graph>>,
        nodes: Out<*const Handle<GraphNode>>, count: Out<usize>,
    ) per_thread cuStreamGetCaptureInfo_v2_ptsz {
        capture_info(stream, InfoTargets { status, id, graph: Some(graph), nodes: Some(nodes), edges: None, count: Some(count) })
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle<Stream>, status: Out<u32>, id: Out<u64>, graph: Out<Handle<Graph>>,
        nodes: Out<*const Handle<GraphNode>>, edges: Out<*const EdgeData>, count: Out<usize>,
    ) per_thread cuStreamGetCaptureInfo_v3_ptsz {
        capture_info(stream, InfoTargets {
            status, id, graph: Some(graph), nodes: Some(nodes), edges: Some(edges), count: Some(count),
        })
    }

    fn cuStreamUpdateCaptureDependencies(
        stream: Handle<Stream>, nodes: In<Handle<GraphNode>>, count: usize, flags: u32,
    ) per_thread cuStreamUpdateCaptureDependencies_ptsz {
        update_dependencies(stream, nodes, count, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2(
        stream: Handle<Stream>, nodes: In<Handle<GraphNode>>, _edges: In<EdgeData>, count: usize, flags: u32,
    ) per_thread cuStreamUpdateCaptureDependencies_v2_ptsz {
        update_dependencies(stream, nodes, count, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let new = Mode::of(mode.get()?)?;
        mode.put(THREAD_MODE.replace(new) as u32)
    }
}

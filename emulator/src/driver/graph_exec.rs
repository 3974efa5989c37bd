//! Instances of graphs: launched again and again, updated in between.

use super::abi::{
    HostNodeParams, InstantiateParams, KernelNodeParams, KernelNodeParamsV1, Memcpy3d,
    MemsetNodeParams, UpdateResult,
};
use super::api::{In, Out, driver_calls};
use super::context::{Context, null};
use super::copy::HostPointer;
use super::error::{CuResult, Result, fail};
use super::event::Event;
use super::graph::{Action, Graph, GraphNode};
use super::graph_nodes::function_in;
use super::handle::{Handle, Kind};
use super::schedule::WorkId;
use super::state::{State, lock};
use super::stream::Stream;
use super::work::{HostCall, Work, wake};

/// An instantiated graph.
#[derive(Debug)]
pub(crate) struct GraphExec {
    /// Each after those it needs.
    nodes: Vec<ExecNode>,
    flags: u64,
    /// The end of its last launch: launches of one instance follow each other.
    last: Option<WorkId>,
    /// Allocation nodes without a free node: freed before the next launch where the flags say so.
    unfreed: Vec<u64>,
}

impl Kind for GraphExec {
    const TAG: u8 = 13;
    const WHAT: &'static str = "executable graph";
    const MISSING: CuResult = CuResult::INVALID_VALUE;
}

/// A node, embedded graphs flattened.
#[derive(Debug, Clone)]
struct ExecNode {
    /// The node it came from.
    source: Handle<GraphNode>,
    context: Handle<Context>,
    work: Work,
    /// Indices of nodes before it.
    needs: Vec<usize>,
    enabled: bool,
}

const AUTO_FREE_ON_LAUNCH: u64 = 1;
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const NODE_PRIORITY: u64 = 8;

/// `CUgraphInstantiateResult` and `CUgraphExecUpdateResult`.
const SUCCESS: u32 = 0;
const TOPOLOGY_CHANGED: u32 = 2;
const TYPE_CHANGED: u32 = 3;
const UNSUPPORTED_FUNCTION_CHANGE: u32 = 7;

impl State {
    /// Appends a graph's nodes, those without dependencies after `entry`; gives the indices of its last ones.
    fn flatten(
        &self,
        graph: Handle<Graph>,
        entry: &[usize],
        into: &mut Vec<ExecNode>,
    ) -> Result<Vec<usize>> {
        let mut ends = std::collections::BTreeMap::new();
        let mut leaves = std::collections::BTreeSet::new();
        for handle in self.in_order(graph)? {
            let node = self.nodes.get(handle)?;
            let mut needs: Vec<usize> = node
                .needs
                .iter()
                .filter_map(|n| ends.get(n).copied())
                .collect();
            for need in &needs {
                leaves.remove(need);
            }
            if needs.is_empty() {
                needs.extend(entry);
            }
            let work = match &node.action {
                Action::Work(work) => work.clone(),
                Action::Child(child) => {
                    // The node itself stands for the embedded graph's end.
                    needs = self.flatten(*child, &needs.clone(), into)?;
                    Work::Marker
                }
            };
            into.push(ExecNode {
                source: handle,
                context: node.context,
                work,
                needs,
                enabled: true,
            });
            ends.insert(handle, into.len() - 1);
            leaves.insert(into.len() - 1);
        }
        Ok(if leaves.is_empty() {
            entry.to_vec()
        } else {
            leaves.into_iter().collect()
        })
    }

    fn flat(&self, graph: Handle<Graph>) -> Result<Vec<ExecNode>> {
        let mut nodes = Vec::new();
        self.flatten(graph, &[], &mut nodes)?;
        Ok(nodes)
    }

    fn instantiate(&mut self, graph: Handle<Graph>, flags: u64) -> Result<Handle<GraphExec>> {
        if flags & !(AUTO_FREE_ON_LAUNCH | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY) != 0
            || flags & (AUTO_FREE_ON_LAUNCH | DEVICE_LAUNCH) == AUTO_FREE_ON_LAUNCH | DEVICE_LAUNCH
        {
            fail!(INVALID_VALUE, "flags {flags:#x}");
        }
        if flags & DEVICE_LAUNCH != 0 {
            fail!(
                NOT_SUPPORTED,
                "launching graphs from the device is not emulated"
            );
        }
        let nodes = self.flat(graph)?;
        let mut unfreed = Vec::new();
        for node in &nodes {
            match node.work {
                Work::Appear(address) => unfreed.push(address),
                Work::Vanish(address) => unfreed.retain(|a| *a != address),
                _ => {}
            }
        }
        Ok(self.execs.insert(GraphExec {
            nodes,
            flags,
            last: None,
            unfreed,
        }))
    }

    /// Puts one run of an instance into a stream.
    fn launch_graph(&mut self, exec: Handle<GraphExec>, stream: Handle<Stream>) -> Result<()> {
        let of = self.execs.get(exec)?;
        let (nodes, last, flags, unfreed) =
            (of.nodes.clone(), of.last, of.flags, of.unfreed.clone());
        if let Some(capture) = self.capturing(stream)? {
            return self.capture_graph(capture, stream, &nodes);
        }
        for node in &nodes {
            self.usable(node.context)?;
        }
        if flags & AUTO_FREE_ON_LAUNCH == 0
            && let Some(address) = unfreed
                .iter()
                .find(|a| self.memory.get(a).is_some_and(|r| !r.hidden))
            && last.is_some()
        {
            fail!(
                INVALID_VALUE,
                "the graph's memory at {address:#x} was not freed since its last launch"
            );
        }
        let entry = self.enqueue(stream, Work::Marker, last)?;
        let mut ids = Vec::with_capacity(nodes.len());
        for node in &nodes {
            let mut needs: Vec<WorkId> = node.needs.iter().map(|n| ids[*n]).collect();
            needs.push(entry);
            let work = if node.enabled {
                node.work.clone()
            } else {
                Work::Marker
            };
            if let Work::Wait(event) = work {
                needs.extend(self.events.get(event)?.work);
            }
            let id = self.schedule.submit(node.context, work.clone(), needs);
            if let Work::Record(event) = work {
                self.recorded_by(event, id);
            }
            ids.push(id);
        }
        let end = self.enqueue(stream, Work::Marker, ids)?;
        self.execs.get_mut(exec)?.last = Some(end);
        Ok(())
    }

    /// Launching an instance in a capturing stream embeds its nodes in the captured graph.
    fn capture_graph(
        &mut self,
        capture: Handle<super::capture::Capture>,
        stream: Handle<Stream>,
        nodes: &[ExecNode],
    ) -> Result<()> {
        let child = self.graphs.insert(Graph::embedded());
        let mut made = Vec::with_capacity(nodes.len());
        for node in nodes {
            let needs = node.needs.iter().map(|n| made[*n]).collect();
            made.push(self.add_work_node(child, node.context, node.work.clone(), needs)?);
        }
        self.capture_child(capture, stream, child)
    }

    /// Changes the work of the instance's node that came from `source`.
    fn update_node(
        &mut self,
        exec: Handle<GraphExec>,
        source: Handle<GraphNode>,
        work: Work,
    ) -> Result<()> {
        let of = self.execs.get_mut(exec)?;
        let Some(node) = of.nodes.iter_mut().find(|n| n.source == source) else {
            fail!(
                INVALID_VALUE,
                "the instance has no node made from {source:?}"
            );
        };
        if std::mem::discriminant(&node.work) != std::mem::discriminant(&work) {
            fail!(
                INVALID_VALUE,
                "the parameters are of another type than the node"
            );
        }
        node.work = work;
        Ok(())
    }

    /// Takes over the work of a graph of the same shape; what was in the way otherwise.
    fn update(
        &mut self,
        exec: Handle<GraphExec>,
        graph: Handle<Graph>,
    ) -> Result<(u32, Handle<GraphNode>, Handle<GraphNode>)> {
        let new = self.flat(graph)?;
        let old = &self.execs.get(exec)?.nodes;
        if old.len() != new.len() {
            return Ok((TOPOLOGY_CHANGED, Handle::NULL, Handle::NULL));
        }
        for (old, new) in old.iter().zip(&new) {
            let verdict = if old.needs != new.needs {
                TOPOLOGY_CHANGED
            } else if std::mem::discriminant(&old.work) != std::mem::discriminant(&new.work) {
                TYPE_CHANGED
            } else if old.context != new.context && function_in(&old.work).is_some() {
                UNSUPPORTED_FUNCTION_CHANGE
            } else {
                continue;
            };
            return Ok((verdict, new.source, old.source));
        }
        for (old, new) in self.execs.get_mut(exec)?.nodes.iter_mut().zip(new) {
            old.work = new.work;
        }
        Ok((SUCCESS, Handle::NULL, Handle::NULL))
    }
}

fn instantiate(out: Out<Handle<GraphExec>>, graph: Handle<Graph>, flags: u64) -> Result<()> {
    out.check("phGraphExec")?;
    let mut state = lock()?;
    let exec = state.instantiate(graph, flags)?;
    out.put(exec)
}

driver_calls! { EXPORTS:
    fn cuGraphInstantiateWithFlags(out: Out<Handle<GraphExec>>, graph: Handle<Graph>, flags: u64) {
        instantiate(out, graph, flags)
    }

    fn cuGraphInstantiate_v2(
        out: Out<Handle<GraphExec>>, graph: Handle<Graph>, error_node: Out<Handle<GraphNode>>, log: *mut u8, log_bytes: usize,
    ) also cuGraphInstantiate {
        // There is nothing to log: errors explain themselves on stderr.
        let _ = (log, log_bytes);
        error_node.put_if(Handle::NULL);
        instantiate(out, graph, 0)
    }

    fn cuGraphInstantiateWithParams(
        out: Out<Handle<GraphExec>>, graph: Handle<Graph>, params: Out<InstantiateParams>,
    ) per_thread cuGraphInstantiateWithParams_ptsz {
        let mut given = params.get()?;
        let result = instantiate(out, graph, given.flags);
        given.error_node = Handle::NULL;
        given.result = u32::from(result.is_err());
        params.put(given)?;
        result
    }

    fn cuGraphExecGetFlags(exec: Handle<GraphExec>, out: Out<u64>) {
        out.put(lock()?.execs.get(exec)?.flags)
    }

    fn cuGraphExecDestroy(exec: Handle<GraphExec>) {
        // A launch under way holds all it needs.
        lock()?.execs.remove(exec)?;
        Ok(())
    }

    fn cuGraphLaunch(exec: Handle<GraphExec>, stream: Handle<Stream>) per_thread cuGraphLaunch_ptsz {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        state.launch_graph(exec, stream)?;
        wake();
        Ok(())
    }

    fn cuGraphUpload(exec: Handle<GraphExec>, stream: Handle<Stream>) per_thread cuGraphUpload_ptsz {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        state.execs.get(exec)?;
        state.put(stream, Work::Marker)?;
        Ok(())
    }

    fn cuGraphExecUpdate_v2(exec: Handle<GraphExec>, graph: Handle<Graph>, out: Out<UpdateResult>) {
        let (result, error_node, error_from_node) = lock()?.update(exec, graph)?;
        out.put_if(UpdateResult { result, error_node, error_from_node });
        if result != SUCCESS {
            return Err(CuResult::GRAPH_EXEC_UPDATE_FAILURE.into());
        }
        Ok(())
    }

    fn cuGraphExecUpdate(exec: Handle<GraphExec>, graph: Handle<Graph>, node: Out<Handle<GraphNode>>, out: Out<u32>) {
        let (result, error_node, _) = lock()?.update(exec, graph)?;
        node.put_if(error_node);
        out.put_if(result);
        if result != SUCCESS {
            return Err(CuResult::GRAPH_EXEC_UPDATE_FAILURE.into());
        }
        Ok(())
    }

    fn cuGraphExecKernelNodeSetParams_v2(exec: Handle<GraphExec>, node: Handle<GraphNode>, params: In<KernelNodeParams>) {
        let params = params.get("nodeParams")?;
        let mut state = lock()?;
        let (_, work) = state.kernel_work(&params)?;
        state.update_node(exec, node, work)
    }

    fn cuGraphExecKernelNodeSetParams(exec: Handle<GraphExec>, node: Handle<GraphNode>, params: In<KernelNodeParamsV1>) {
        let params = params.get("nodeParams")?;
        let mut state = lock()?;
        let (_, work) = state.kernel_work(&params.into())?;
        state.update_node(exec, node, work)
    }

    fn cuGraphExecMemcpyNodeSetParams(exec: Handle<GraphExec>, node: Handle<GraphNode>, params: In<Memcpy3d>, _context: Handle<Context>) {
        let params = params.get("copyParams")?;
        let mut state = lock()?;
        let work = state.copy_work(&params)?;
        state.update_node(exec, node, work)
    }

    fn cuGraphExecMemsetNodeSetParams(exec: Handle<GraphExec>, node: Handle<GraphNode>, params: In<MemsetNodeParams>, _context: Handle<Context>) {
        let params = params.get("memsetParams")?;
        let mut state = lock()?;
        let work = state.fill_work(&params)?;
        state.update_node(exec, node, work)
    }

    fn cuGraphExecHostNodeSetParams(exec: Handle<GraphExec>, node: Handle<GraphNode>, params: In<HostNodeParams>) {
        let params = params.get("nodeParams")?;
        let Some(function) = params.function else { return Err(null("fn")) };
        let work = Work::Host(HostCall::Function(function, HostPointer(params.user_data.cast())));
        lock()?.update_node(exec, node, work)
    }

    fn cuGraphExecEventRecordNodeSetEvent(exec: Handle<GraphExec>, node: Handle<GraphNode>, event: Handle<Event>) {
        let mut state = lock()?;
        state.events.get(event)?;
        state.update_node(exec, node, Work::Record(event))
    }

    fn cuGraphExecEventWaitNodeSetEvent(exec: Handle<GraphExec>, node: Handle<GraphNode>, event: Handle<Event>) {
        let mut state = lock()?;
        state.events.get(event)?;
        state.update_node(exec, node, Work::Wait(event))
    }

    fn cuGraphNodeSetEnabled(exec: Handle<GraphExec>, node: Handle<GraphNode>, enabled: u32) {
        let mut state = lock()?;
        match state.execs.get_mut(exec)?.nodes.iter_mut().find(|n| n.source == node) {
            Some(found) if matches!(found.work, Work::Launch(_) | Work::Copy(_) | Work::Fill(_)) => {
                found.enabled = enabled != 0;
                Ok(())
            }
            Some(_) => fail!(INVALID_VALUE, "only kernel, memcpy and memset nodes can be disabled"),
            None => fail!(INVALID_VALUE, "the instance has no node made from {node:?}"),
        }
    }

    fn cuGraphNodeGetEnabled(exec: Handle<GraphExec>, node: Handle<GraphNode>, enabled: Out<u32>) {
        let state = lock()?;
        match state.execs.get(exec)?.nodes.iter().find(|n| n.source == node) {
            Some(found) => enabled.put(u32::from(found.enabled)),
            None => fail!(INVALID_VALUE, "the instance has no node made from {node:?}"),
        }
    }
}

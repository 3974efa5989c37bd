//! Nodes made and changed one by one, rather than captured.

use super::abi::{
    AllocNodeParams, EdgeData, HostNodeParams, KernelNodeParams, KernelNodeParamsV1, Memcpy3d,
    MemsetNodeParams, NodeParams, location_type,
};
use super::api::{In, Out, driver_calls};
use super::context::{Context, null};
use super::copy::{Copy, Fill, HostPointer};
use super::error::{Result, fail};
use super::event::Event;
use super::function::Function;
use super::graph::{Action, Graph, GraphNode, node_type};
use super::handle::Handle;
use super::launch::{Launch, Pointers, Shape};
use super::memory::MemoryKind;
use super::state::{State, lock};
use super::work::{HostCall, Work};
use std::sync::Arc;

impl State {
    /// A kernel node's work, and the context it belongs to.
    pub(crate) fn kernel_work(
        &mut self,
        params: &KernelNodeParams,
    ) -> Result<(Handle<Context>, Work)> {
        let shape = Shape {
            grid: params.grid,
            block: params.block,
            shared_bytes: params.shared_bytes,
            cooperative: false,
            cluster: None,
        };
        let function = if params.function.is_null() {
            Handle::from_raw(params.kernel.raw())
        } else {
            params.function
        };
        let (context, launch) = self.prepare(
            function,
            &shape,
            Pointers(params.params),
            Pointers(params.extra),
        )?;
        Ok((context, Work::Launch(launch)))
    }

    /// A memcpy node's work.
    pub(crate) fn copy_work(&self, params: &Memcpy3d) -> Result<Work> {
        let copy = Copy::from_3d(&self.space, params)?;
        self.check_copy(&copy)?;
        Ok(Work::Copy(Arc::new(copy)))
    }

    /// A memset node's work.
    pub(crate) fn fill_work(&self, params: &MemsetNodeParams) -> Result<Work> {
        let fill = Fill {
            address: params.address,
            pitch: params.pitch as u64,
            value: params.value,
            element: params.element,
            width: params.width as u64,
            height: params.height as u64,
        };
        self.check_range(fill.address, fill.extent()?)?;
        Ok(Work::Fill(fill))
    }

    fn alloc_work(&mut self, params: &AllocNodeParams) -> Result<(Handle<Context>, Work, u64)> {
        let location = params.pool.location;
        if location.kind != location_type::DEVICE {
            fail!(
                INVALID_VALUE,
                "location type {}: expected 1 (device)",
                location.kind
            );
        }
        let device = self.device(location.id)?;
        let context = self.current()?;
        if params.bytes == 0 {
            fail!(INVALID_VALUE, "bytesize is 0");
        }
        let address = self.allocate_for_graph(context, device, params.bytes)?;
        Ok((context, Work::Appear(address), address))
    }

    fn free_work(&self, address: u64) -> Result<Work> {
        self.freeable(address, |kind| kind == MemoryKind::Graph)?;
        Ok(Work::Vanish(address))
    }

    /// The work that general parameters describe; the address is an allocation node's.
    fn any_work(
        &mut self,
        params: &NodeParams,
        context: Handle<Context>,
    ) -> Result<(Handle<Context>, Action, Option<u64>)> {
        let of = params.of;
        // SAFETY (each arm): every member is plain numbers and pointers, valid as any bits, and the kind says
        // which one the caller filled in.
        Ok(match params.kind {
            node_type::KERNEL => {
                // SAFETY: above.
                let (context, work) = self.kernel_work(&unsafe { of.kernel })?;
                (context, Action::Work(work), None)
            }
            // SAFETY: above.
            node_type::MEMCPY => (
                context,
                Action::Work(self.copy_work(&unsafe { of.memcpy }.copy)?),
                None,
            ),
            // SAFETY: above.
            node_type::MEMSET => (
                context,
                Action::Work(self.fill_work(&unsafe { of.memset })?),
                None,
            ),
            // SAFETY: above.
            node_type::HOST => (context, Action::Work(host_work(&unsafe { of.host })?), None),
            // SAFETY: above.
            node_type::GRAPH => (
                context,
                Action::Child(self.clone_graph(unsafe { of.graph }, true)?),
                None,
            ),
            node_type::EMPTY => (context, Action::Work(Work::Marker), None),
            node_type::WAIT_EVENT | node_type::EVENT_RECORD => {
                // SAFETY: above.
                let event = unsafe { of.event };
                self.events.get(event)?;
                let work = if params.kind == node_type::WAIT_EVENT {
                    Work::Wait(event)
                } else {
                    Work::Record(event)
                };
                (context, Action::Work(work), None)
            }
            node_type::MEM_ALLOC => {
                // SAFETY: above.
                let (context, work, address) = self.alloc_work(&unsafe { of.alloc })?;
                (context, Action::Work(work), Some(address))
            }
            // SAFETY: above.
            node_type::MEM_FREE => (
                context,
                Action::Work(self.free_work(unsafe { of.address })?),
                None,
            ),
            other => fail!(
                NOT_SUPPORTED,
                "graph nodes of type {other} are not emulated"
            ),
        })
    }

    fn launch_of(&self, node: Handle<GraphNode>) -> Result<Arc<Launch>> {
        match &self.nodes.get(node)?.action {
            Action::Work(Work::Launch(launch)) => Ok(launch.clone()),
            _ => fail!(INVALID_VALUE, "node {node:?} is no kernel node"),
        }
    }

    /// Replaces a node's work by work of the same kind.
    fn replace(&mut self, node: Handle<GraphNode>, work: Work) -> Result<()> {
        let action = Action::Work(work);
        let of = self.nodes.get_mut(node)?;
        if of.action.kind() != action.kind() {
            fail!(
                INVALID_VALUE,
                "node {node:?} is of type {}, the parameters of {}",
                of.action.kind(),
                action.kind()
            );
        }
        of.action = action;
        Ok(())
    }

    fn add(
        &mut self,
        out: Out<Handle<GraphNode>>,
        graph: Handle<Graph>,
        context: Handle<Context>,
        action: Action,
        needs: Needs,
    ) -> Result<()> {
        let needs = needs.0.all(needs.1, "dependencies")?;
        let node = self.add_node(graph, context, action, needs)?;
        out.put(node)
    }

    /// The context of a node: the one given, or the current.
    fn node_context(&self, context: Handle<Context>) -> Result<Handle<Context>> {
        if context.is_null() {
            self.current()
        } else {
            self.usable(context)
        }
    }
}

/// A node's dependencies as C passes them.
struct Needs(In<Handle<GraphNode>>, usize);

fn host_work(params: &HostNodeParams) -> Result<Work> {
    match params.function {
        Some(function) => Ok(Work::Host(HostCall::Function(
            function,
            HostPointer(params.user_data.cast()),
        ))),
        None => Err(null("fn")),
    }
}

impl From<KernelNodeParamsV1> for KernelNodeParams {
    fn from(p: KernelNodeParamsV1) -> KernelNodeParams {
        KernelNodeParams {
            function: p.function,
            grid: p.grid,
            block: p.block,
            shared_bytes: p.shared_bytes,
            params: p.params,
            extra: p.extra,
            kernel: Handle::NULL,
            context: Handle::NULL,
        }
    }
}

fn add_kernel(
    out: Out<Handle<GraphNode>>,
    graph: Handle<Graph>,
    needs: Needs,
    params: KernelNodeParams,
) -> Result<()> {
    out.check("phGraphNode")?;
    let mut state = lock()?;
    let (context, work) = state.kernel_work(&params)?;
    state.add(out, graph, context, Action::Work(work), needs)
}

fn kernel_params(node: Handle<GraphNode>) -> Result<KernelNodeParams> {
    let mut state = lock()?;
    let launch = state.launch_of(node)?;
    let of = state.nodes.get_mut(node)?;
    let params = of.told.keep(&launch.kernel, &launch.params);
    Ok(KernelNodeParams {
        function: launch.function,
        grid: launch.config.grid,
        block: launch.config.block,
        shared_bytes: launch.config.dynamic_shared,
        params: params.0,
        extra: std::ptr::null(),
        kernel: Handle::NULL,
        context: of.context,
    })
}

fn set_kernel_params(node: Handle<GraphNode>, params: KernelNodeParams) -> Result<()> {
    let mut state = lock()?;
    let (_, work) = state.kernel_work(&params)?;
    state.replace(node, work)
}

fn event_of(node: Handle<GraphNode>, kind: u32) -> Result<Handle<Event>> {
    match &lock()?.nodes.get(node)?.action {
        Action::Work(Work::Wait(event)) if kind == node_type::WAIT_EVENT => Ok(*event),
        Action::Work(Work::Record(event)) if kind == node_type::EVENT_RECORD => Ok(*event),
        _ => fail!(INVALID_VALUE, "node {node:?} is not of type {kind}"),
    }
}

fn add_any(
    out: Out<Handle<GraphNode>>,
    graph: Handle<Graph>,
    needs: Needs,
    params: Out<NodeParams>,
) -> Result<()> {
    out.check("phGraphNode")?;
    let mut given = params.get()?;
    let mut state = lock()?;
    let current = state.current()?;
    let (context, action, address) = state.any_work(&given, current)?;
    if let Some(address) = address {
        // SAFETY: the member that `any_work` just read for this kind of node.
        let mut alloc = unsafe { given.of.alloc };
        alloc.address = address;
        given.of.alloc = alloc;
        params.put(given)?;
    }
    state.add(out, graph, context, action, needs)
}

driver_calls! { EXPORTS:
    fn cuGraphAddKernelNode_v2(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, params: In<KernelNodeParams>,
    ) {
        add_kernel(out, graph, Needs(needs, count), params.get("nodeParams")?)
    }

    fn cuGraphAddKernelNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, params: In<KernelNodeParamsV1>,
    ) {
        add_kernel(out, graph, Needs(needs, count), params.get("nodeParams")?.into())
    }

    fn cuGraphKernelNodeGetParams_v2(node: Handle<GraphNode>, out: Out<KernelNodeParams>) {
        out.put(kernel_params(node)?)
    }

    fn cuGraphKernelNodeGetParams(node: Handle<GraphNode>, out: Out<KernelNodeParamsV1>) {
        let p = kernel_params(node)?;
        out.put(KernelNodeParamsV1 {
            function: p.function, grid: p.grid, block: p.block, shared_bytes: p.shared_bytes, params: p.params, extra: p.extra,
        })
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle<GraphNode>, params: In<KernelNodeParams>) {
        set_kernel_params(node, params.get("nodeParams")?)
    }

    fn cuGraphKernelNodeSetParams(node: Handle<GraphNode>, params: In<KernelNodeParamsV1>) {
        set_kernel_params(node, params.get("nodeParams")?.into())
    }

    fn cuGraphKernelNodeCopyAttributes(to: Handle<GraphNode>, from: Handle<GraphNode>) {
        let mut state = lock()?;
        let cooperative = state.launch_of(from)?.config.cooperative;
        let mut launch = (*state.launch_of(to)?).clone();
        launch.config.cooperative = cooperative;
        state.replace(to, Work::Launch(Arc::new(launch)))
    }

    fn cuGraphKernelNodeGetAttribute(node: Handle<GraphNode>, attribute: u32, value: Out<[u32; 16]>) {
        let config = lock()?.launch_of(node)?.config;
        let mut words = [0; 16];
        match attribute {
            2 => words[0] = config.cooperative.into(),
            4 => words[..3].copy_from_slice(&config.cluster),
            1 | 5 | 8 | 9 | 10 | 14 => {}
            _ => fail!(INVALID_VALUE, "kernel node attribute {attribute}"),
        }
        value.put(words)
    }

    fn cuGraphKernelNodeSetAttribute(node: Handle<GraphNode>, attribute: u32, value: In<[u32; 16]>) {
        let value = value.get("value")?;
        let mut state = lock()?;
        let mut launch = (*state.launch_of(node)?).clone();
        match attribute {
            2 => launch.config.cooperative = value[0] != 0,
            4 => launch.config.cluster = [value[0], value[1], value[2]],
            // Hints without an effect on results.
            1 | 5 | 8 | 9 | 10 | 14 => {}
            _ => fail!(INVALID_VALUE, "kernel node attribute {attribute}"),
        }
        state.replace(node, Work::Launch(Arc::new(launch)))
    }

    fn cuGraphAddMemcpyNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize,
        params: In<Memcpy3d>, context: Handle<Context>,
    ) {
        let params = params.get("copyParams")?;
        let mut state = lock()?;
        let context = state.node_context(context)?;
        let work = state.copy_work(&params)?;
        state.add(out, graph, context, Action::Work(work), Needs(needs, count))
    }

    fn cuGraphMemcpyNodeGetParams(node: Handle<GraphNode>, out: Out<Memcpy3d>) {
        match &lock()?.nodes.get(node)?.action {
            Action::Work(Work::Copy(copy)) => out.put(copy.to_3d()),
            _ => fail!(INVALID_VALUE, "node {node:?} is no memcpy node"),
        }
    }

    fn cuGraphMemcpyNodeSetParams(node: Handle<GraphNode>, params: In<Memcpy3d>) {
        let params = params.get("nodeParams")?;
        let mut state = lock()?;
        let work = state.copy_work(&params)?;
        state.replace(node, work)
    }

    fn cuGraphAddMemsetNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize,
        params: In<MemsetNodeParams>, context: Handle<Context>,
    ) {
        let params = params.get("memsetParams")?;
        let mut state = lock()?;
        let context = state.node_context(context)?;
        let work = state.fill_work(&params)?;
        state.add(out, graph, context, Action::Work(work), Needs(needs, count))
    }

    fn cuGraphMemsetNodeGetParams(node: Handle<GraphNode>, out: Out<MemsetNodeParams>) {
        match &lock()?.nodes.get(node)?.action {
            Action::Work(Work::Fill(fill)) => out.put(MemsetNodeParams {
                address: fill.address,
                pitch: fill.pitch as usize,
                value: fill.value,
                element: fill.element,
                width: fill.width as usize,
                height: fill.height as usize,
            }),
            _ => fail!(INVALID_VALUE, "node {node:?} is no memset node"),
        }
    }

    fn cuGraphMemsetNodeSetParams(node: Handle<GraphNode>, params: In<MemsetNodeParams>) {
        let params = params.get("nodeParams")?;
        let mut state = lock()?;
        let work = state.fill_work(&params)?;
        state.replace(node, work)
    }

    fn cuGraphAddHostNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, params: In<HostNodeParams>,
    ) {
        let work = host_work(&params.get("nodeParams")?)?;
        let mut state = lock()?;
        let context = state.current()?;
        state.add(out, graph, context, Action::Work(work), Needs(needs, count))
    }

    fn cuGraphHostNodeGetParams(node: Handle<GraphNode>, out: Out<HostNodeParams>) {
        match &lock()?.nodes.get(node)?.action {
            Action::Work(Work::Host(HostCall::Function(function, data))) => {
                out.put(HostNodeParams { function: Some(*function), user_data: data.0.cast() })
            }
            _ => fail!(INVALID_VALUE, "node {node:?} is no host node"),
        }
    }

    fn cuGraphHostNodeSetParams(node: Handle<GraphNode>, params: In<HostNodeParams>) {
        let work = host_work(&params.get("nodeParams")?)?;
        lock()?.replace(node, work)
    }

    fn cuGraphAddEmptyNode(out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize) {
        let mut state = lock()?;
        let context = state.current()?;
        state.add(out, graph, context, Action::Work(Work::Marker), Needs(needs, count))
    }

    fn cuGraphAddChildGraphNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, child: Handle<Graph>,
    ) {
        let mut state = lock()?;
        let context = state.current()?;
        let child = state.clone_graph(child, true)?;
        state.add(out, graph, context, Action::Child(child), Needs(needs, count))
    }

    fn cuGraphChildGraphNodeGetGraph(node: Handle<GraphNode>, out: Out<Handle<Graph>>) {
        match &lock()?.nodes.get(node)?.action {
            Action::Child(child) => out.put(*child),
            Action::Work(_) => fail!(INVALID_VALUE, "node {node:?} is no child graph node"),
        }
    }

    fn cuGraphAddEventRecordNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, event: Handle<Event>,
    ) {
        let mut state = lock()?;
        let context = state.events.get(event)?.context;
        state.add(out, graph, context, Action::Work(Work::Record(event)), Needs(needs, count))
    }

    fn cuGraphEventRecordNodeGetEvent(node: Handle<GraphNode>, out: Out<Handle<Event>>) {
        out.put(event_of(node, node_type::EVENT_RECORD)?)
    }

    fn cuGraphEventRecordNodeSetEvent(node: Handle<GraphNode>, event: Handle<Event>) {
        let mut state = lock()?;
        state.events.get(event)?;
        state.replace(node, Work::Record(event))
    }

    fn cuGraphAddEventWaitNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, event: Handle<Event>,
    ) {
        let mut state = lock()?;
        let context = state.events.get(event)?.context;
        state.add(out, graph, context, Action::Work(Work::Wait(event)), Needs(needs, count))
    }

    fn cuGraphEventWaitNodeGetEvent(node: Handle<GraphNode>, out: Out<Handle<Event>>) {
        out.put(event_of(node, node_type::WAIT_EVENT)?)
    }

    fn cuGraphEventWaitNodeSetEvent(node: Handle<GraphNode>, event: Handle<Event>) {
        let mut state = lock()?;
        state.events.get(event)?;
        state.replace(node, Work::Wait(event))
    }

    fn cuGraphAddMemAllocNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, params: Out<AllocNodeParams>,
    ) {
        out.check("phGraphNode")?;
        let mut given = params.get()?;
        let mut state = lock()?;
        let (context, work, address) = state.alloc_work(&given)?;
        state.add(out, graph, context, Action::Work(work), Needs(needs, count))?;
        given.address = address;
        params.put(given)
    }

    fn cuGraphAddMemFreeNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, address: u64,
    ) {
        let mut state = lock()?;
        let context = state.current()?;
        let work = state.free_work(address)?;
        state.add(out, graph, context, Action::Work(work), Needs(needs, count))
    }

    fn cuGraphMemFreeNodeGetParams(node: Handle<GraphNode>, out: Out<u64>) {
        match &lock()?.nodes.get(node)?.action {
            Action::Work(Work::Vanish(address)) => out.put(*address),
            _ => fail!(INVALID_VALUE, "node {node:?} is no free node"),
        }
    }

    fn cuGraphAddNode_v2(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, _edges: In<EdgeData>, count: usize, params: Out<NodeParams>,
    ) {
        add_any(out, graph, Needs(needs, count), params)
    }

    fn cuGraphAddNode(
        out: Out<Handle<GraphNode>>, graph: Handle<Graph>, needs: In<Handle<GraphNode>>, count: usize, params: Out<NodeParams>,
    ) {
        add_any(out, graph, Needs(needs, count), params)
    }

    fn cuGraphNodeSetParams(node: Handle<GraphNode>, params: In<NodeParams>) {
        let params = params.get("nodeParams")?;
        if params.kind == node_type::MEM_ALLOC {
            fail!(INVALID_VALUE, "allocation nodes cannot be changed");
        }
        let mut state = lock()?;
        let context = state.nodes.get(node)?.context;
        match state.any_work(&params, context)?.1 {
            Action::Work(work) => state.replace(node, work),
            Action::Child(child) => {
                state.destroy_graph(child);
                fail!(NOT_SUPPORTED, "changing child graph nodes is not emulated")
            }
        }
    }
}

/// The function of a kernel node's parameters, for updates that must keep it.
pub(crate) fn function_in(work: &Work) -> Option<Handle<Function>> {
    match work {
        Work::Launch(launch) => Some(launch.function),
        _ => None,
    }
}

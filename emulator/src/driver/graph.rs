//! Graphs: nodes of work and what each waits for.

use super::abi::EdgeData;
use super::api::{In, Out, Text, driver_calls};
use super::context::Context;
use super::error::{CuResult, Result, error, fail};
use super::handle::{Handle, Kind};
use super::launch::Pointers;
use super::state::{State, lock};
use super::work::Work;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt::Write as _;

/// A graph.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Handle<GraphNode>>,
    /// For a clone: its node by the original's.
    originals: BTreeMap<Handle<GraphNode>, Handle<GraphNode>>,
    /// The graph belongs to a child node and goes with it.
    embedded: bool,
}

impl Kind for Graph {
    const TAG: u8 = 11;
    const WHAT: &'static str = "graph";
    const MISSING: CuResult = CuResult::INVALID_VALUE;
}

impl Graph {
    /// A graph that belongs to a child node.
    pub(crate) fn embedded() -> Graph {
        Graph {
            embedded: true,
            ..Graph::default()
        }
    }
}

/// What a node does.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Work(Work),
    /// Runs another graph.
    Child(Handle<Graph>),
}

/// A node of a graph.
#[derive(Debug)]
pub(crate) struct GraphNode {
    pub(crate) graph: Handle<Graph>,
    pub(crate) context: Handle<Context>,
    pub(crate) action: Action,
    pub(crate) needs: Vec<Handle<GraphNode>>,
    /// What `cuGraphKernelNodeGetParams` last pointed the caller to.
    pub(crate) told: Told,
}

impl Kind for GraphNode {
    const TAG: u8 = 12;
    const WHAT: &'static str = "graph node";
    const MISSING: CuResult = CuResult::INVALID_VALUE;
}

/// A kernel node's parameters as an array of pointers, kept alive for the caller.
#[derive(Debug, Default)]
pub(crate) struct Told {
    bytes: Box<[u8]>,
    pointers: Box<[*const c_void]>,
}

// SAFETY: the pointers lead into `bytes` beside them and are only handed to the caller.
unsafe impl Send for Told {}

impl Told {
    /// Keeps the parameters of a kernel and gives the array of pointers to them.
    pub(crate) fn keep(&mut self, kernel: &crate::exec::Kernel, params: &[u8]) -> Pointers {
        self.bytes = params.into();
        self.pointers = kernel
            .params
            .iter()
            .map(|p| self.bytes[p.offset as usize..].as_ptr().cast())
            .collect();
        Pointers(if self.pointers.is_empty() {
            std::ptr::null()
        } else {
            self.pointers.as_ptr()
        })
    }
}

/// `CUgraphNodeType`.
pub(crate) mod node_type {
    pub(crate) const KERNEL: u32 = 0;
    pub(crate) const MEMCPY: u32 = 1;
    pub(crate) const MEMSET: u32 = 2;
    pub(crate) const HOST: u32 = 3;
    pub(crate) const GRAPH: u32 = 4;
    pub(crate) const EMPTY: u32 = 5;
    pub(crate) const WAIT_EVENT: u32 = 6;
    pub(crate) const EVENT_RECORD: u32 = 7;
    pub(crate) const MEM_ALLOC: u32 = 10;
    pub(crate) const MEM_FREE: u32 = 11;
}

impl Action {
    /// The number C has for what the node does.
    pub(crate) fn kind(&self) -> u32 {
        match self {
            Action::Child(_) => node_type::GRAPH,
            Action::Work(work) => match work {
                Work::Launch(_) => node_type::KERNEL,
                Work::Copy(_) => node_type::MEMCPY,
                Work::Fill(_) => node_type::MEMSET,
                Work::Host(_) => node_type::HOST,
                Work::Wait(_) => node_type::WAIT_EVENT,
                Work::Record(_) => node_type::EVENT_RECORD,
                Work::Appear(_) => node_type::MEM_ALLOC,
                Work::Vanish(_) | Work::Free(_) => node_type::MEM_FREE,
                Work::Marker => node_type::EMPTY,
            },
        }
    }

    fn label(&self) -> String {
        match self {
            Action::Child(_) => "graph".into(),
            Action::Work(work) => match work {
                Work::Launch(launch) => format!("kernel {}", launch.kernel.name),
                Work::Copy(_) => "memcpy".into(),
                Work::Fill(_) => "memset".into(),
                Work::Host(_) => "host".into(),
                Work::Wait(_) => "wait event".into(),
                Work::Record(_) => "record event".into(),
                Work::Appear(_) => "alloc".into(),
                Work::Vanish(_) | Work::Free(_) => "free".into(),
                Work::Marker => "empty".into(),
            },
        }
    }
}

impl State {
    /// Adds a node that does work.
    pub(crate) fn add_work_node(
        &mut self,
        graph: Handle<Graph>,
        context: Handle<Context>,
        work: Work,
        needs: Vec<Handle<GraphNode>>,
    ) -> Result<Handle<GraphNode>> {
        self.add_node(graph, context, Action::Work(work), needs)
    }

    /// Adds a node after those it needs, which must be of the same graph.
    pub(crate) fn add_node(
        &mut self,
        graph: Handle<Graph>,
        context: Handle<Context>,
        action: Action,
        needs: Vec<Handle<GraphNode>>,
    ) -> Result<Handle<GraphNode>> {
        self.graphs.get(graph)?;
        for (i, need) in needs.iter().enumerate() {
            if self.nodes.get(*need)?.graph != graph {
                fail!(INVALID_VALUE, "dependency {i} is a node of another graph");
            }
            if needs[..i].contains(need) {
                fail!(INVALID_VALUE, "dependency {i} is named twice");
            }
        }
        let node = self.nodes.insert(GraphNode {
            graph,
            context,
            action,
            needs,
            told: Told::default(),
        });
        self.graphs.get_mut(graph)?.nodes.push(node);
        Ok(node)
    }

    /// Destroys a graph with its nodes and the graphs embedded in it.
    pub(crate) fn destroy_graph(&mut self, graph: Handle<Graph>) {
        let Ok(gone) = self.graphs.remove(graph) else {
            return;
        };
        for node in gone.nodes {
            if let Ok(node) = self.nodes.remove(node) {
                self.drop_action(node.action);
            }
        }
    }

    fn drop_action(&mut self, action: Action) {
        match action {
            Action::Child(child) => self.destroy_graph(child),
            // The graph's own memory stays while instances of the graph can still run: it goes with its context.
            Action::Work(_) => {}
        }
    }

    /// A copy of a graph, its embedded graphs copied too.
    pub(crate) fn clone_graph(
        &mut self,
        graph: Handle<Graph>,
        embedded: bool,
    ) -> Result<Handle<Graph>> {
        let nodes = self.graphs.get(graph)?.nodes.clone();
        let clone = self.graphs.insert(Graph {
            embedded,
            ..Graph::default()
        });
        let mut clones = BTreeMap::new();
        for original in &nodes {
            let of = self.nodes.get(*original)?;
            let (context, action) = (of.context, of.action.clone());
            let action = match action {
                Action::Child(child) => Action::Child(self.clone_graph(child, true)?),
                action => action,
            };
            clones.insert(
                *original,
                self.add_node(clone, context, action, Vec::new())?,
            );
        }
        for (original, copy) in &clones {
            let needs = self
                .nodes
                .get(*original)?
                .needs
                .iter()
                .filter_map(|n| clones.get(n).copied())
                .collect();
            self.nodes.get_mut(*copy)?.needs = needs;
        }
        self.graphs.get_mut(clone)?.originals = clones;
        Ok(clone)
    }

    /// Nodes that need the given one.
    fn dependents(&self, node: Handle<GraphNode>) -> Result<Vec<Handle<GraphNode>>> {
        let graph = self.nodes.get(node)?.graph;
        let nodes = &self.graphs.get(graph)?.nodes;
        Ok(nodes
            .iter()
            .copied()
            .filter(|n| self.nodes.get(*n).is_ok_and(|n| n.needs.contains(&node)))
            .collect())
    }

    /// Edges (from, to), in the order of the nodes.
    fn edges(&self, graph: Handle<Graph>) -> Result<Vec<(Handle<GraphNode>, Handle<GraphNode>)>> {
        let mut edges = Vec::new();
        for to in &self.graphs.get(graph)?.nodes {
            edges.extend(self.nodes.get(*to)?.needs.iter().map(|from| (*from, *to)));
        }
        Ok(edges)
    }

    /// The graph's nodes, each after those it needs; an error where they wait in a circle.
    pub(crate) fn in_order(&self, graph: Handle<Graph>) -> Result<Vec<Handle<GraphNode>>> {
        let nodes = &self.graphs.get(graph)?.nodes;
        let mut done = std::collections::BTreeSet::new();
        let mut order = Vec::with_capacity(nodes.len());
        while order.len() < nodes.len() {
            let before = order.len();
            for node in nodes {
                if !done.contains(node)
                    && self
                        .nodes
                        .get(*node)?
                        .needs
                        .iter()
                        .all(|n| done.contains(n))
                {
                    done.insert(*node);
                    order.push(*node);
                }
            }
            if order.len() == before {
                fail!(
                    INVALID_VALUE,
                    "the graph's nodes wait for each other in a circle"
                );
            }
        }
        Ok(order)
    }
}

fn get_edges(
    graph: Handle<Graph>,
    from: Out<Handle<GraphNode>>,
    to: Out<Handle<GraphNode>>,
    data: Option<Out<EdgeData>>,
    count: Out<usize>,
) -> Result<()> {
    let edges = lock()?.edges(graph)?;
    if from.is_null() && to.is_null() {
        return count.put(edges.len());
    }
    let room = count.get()?;
    type Side = fn(&(Handle<GraphNode>, Handle<GraphNode>)) -> Handle<GraphNode>;
    let padded = |side: Side| {
        edges
            .iter()
            .map(side)
            .chain(std::iter::repeat(Handle::NULL))
            .take(room)
            .collect::<Vec<_>>()
    };
    from.put_all(padded(|e| e.0))?;
    to.put_all(padded(|e| e.1))?;
    if let Some(data) = data.filter(|d| !d.is_null()) {
        data.put_all(std::iter::repeat_n(EdgeData::default(), room))?;
    }
    count.put(edges.len().min(room))
}

fn neighbours(
    list: Vec<Handle<GraphNode>>,
    out: Out<Handle<GraphNode>>,
    data: Option<Out<EdgeData>>,
    count: Out<usize>,
) -> Result<()> {
    put_nodes(&list, out, count)?;
    match data.filter(|d| !d.is_null() && !out.is_null()) {
        Some(data) => data.put_all(std::iter::repeat_n(EdgeData::default(), count.get()?)),
        None => Ok(()),
    }
}

/// Answers a question for nodes in C's way: with a null array the count, else at most as many as fit,
/// null for the rest.
fn put_nodes(
    list: &[Handle<GraphNode>],
    out: Out<Handle<GraphNode>>,
    count: Out<usize>,
) -> Result<()> {
    if out.is_null() {
        return count.put(list.len());
    }
    let room = count.get()?;
    out.put_all(
        list.iter()
            .copied()
            .chain(std::iter::repeat(Handle::NULL))
            .take(room),
    )?;
    count.put(list.len().min(room))
}

fn change_edges(
    graph: Handle<Graph>,
    from: In<Handle<GraphNode>>,
    to: In<Handle<GraphNode>>,
    count: usize,
    add: bool,
) -> Result<()> {
    let (from, to) = (from.all(count, "from")?, to.all(count, "to")?);
    let mut state = lock()?;
    for (from, to) in from.iter().zip(&to) {
        if state.nodes.get(*from)?.graph != graph || state.nodes.get(*to)?.graph != graph {
            fail!(
                INVALID_VALUE,
                "edge {from:?} → {to:?}: not both of the graph"
            );
        }
        if from == to || state.nodes.get(*to)?.needs.contains(from) == add {
            let what = if add {
                "is there already, or of a node to itself"
            } else {
                "is not there"
            };
            fail!(INVALID_VALUE, "edge {from:?} → {to:?} {what}");
        }
    }
    for (from, to) in from.into_iter().zip(to) {
        let needs = &mut state.nodes.get_mut(to)?.needs;
        if add {
            needs.push(from);
        } else {
            needs.retain(|n| *n != from);
        }
    }
    Ok(())
}

driver_calls! { EXPORTS:
    fn cuGraphCreate(out: Out<Handle<Graph>>, flags: u32) {
        if flags != 0 {
            fail!(INVALID_VALUE, "flags {flags}: expected 0");
        }
        out.check("phGraph")?;
        let mut state = lock()?;
        let graph = state.graphs.insert(Graph::default());
        out.put(graph)
    }

    fn cuGraphDestroy(graph: Handle<Graph>) {
        let mut state = lock()?;
        if state.graphs.get(graph)?.embedded {
            fail!(INVALID_VALUE, "the graph belongs to a child graph node");
        }
        state.destroy_graph(graph);
        Ok(())
    }

    fn cuGraphClone(out: Out<Handle<Graph>>, graph: Handle<Graph>) {
        out.check("phGraphClone")?;
        let mut state = lock()?;
        let clone = state.clone_graph(graph, false)?;
        out.put(clone)
    }

    fn cuGraphNodeFindInClone(out: Out<Handle<GraphNode>>, original: Handle<GraphNode>, clone: Handle<Graph>) {
        let state = lock()?;
        match state.graphs.get(clone)?.originals.get(&original) {
            Some(node) => out.put(*node),
            None => fail!(INVALID_VALUE, "the graph has no clone of node {original:?}"),
        }
    }

    fn cuGraphNodeGetType(node: Handle<GraphNode>, kind: Out<u32>) {
        kind.put(lock()?.nodes.get(node)?.action.kind())
    }

    fn cuGraphGetNodes(graph: Handle<Graph>, out: Out<Handle<GraphNode>>, count: Out<usize>) {
        put_nodes(&lock()?.graphs.get(graph)?.nodes, out, count)
    }

    fn cuGraphGetRootNodes(graph: Handle<Graph>, out: Out<Handle<GraphNode>>, count: Out<usize>) {
        let state = lock()?;
        let mut roots = Vec::new();
        for node in &state.graphs.get(graph)?.nodes {
            if state.nodes.get(*node)?.needs.is_empty() {
                roots.push(*node);
            }
        }
        put_nodes(&roots, out, count)
    }

    fn cuGraphGetEdges(graph: Handle<Graph>, from: Out<Handle<GraphNode>>, to: Out<Handle<GraphNode>>, count: Out<usize>) {
        get_edges(graph, from, to, None, count)
    }

    fn cuGraphGetEdges_v2(
        graph: Handle<Graph>, from: Out<Handle<GraphNode>>, to: Out<Handle<GraphNode>>, data: Out<EdgeData>, count: Out<usize>,
    ) {
        get_edges(graph, from, to, Some(data), count)
    }

    fn cuGraphNodeGetDependencies(node: Handle<GraphNode>, out: Out<Handle<GraphNode>>, count: Out<usize>) {
        let needs = lock()?.nodes.get(node)?.needs.clone();
        neighbours(needs, out, None, count)
    }

    fn cuGraphNodeGetDependencies_v2(node: Handle<GraphNode>, out: Out<Handle<GraphNode>>, data: Out<EdgeData>, count: Out<usize>) {
        let needs = lock()?.nodes.get(node)?.needs.clone();
        neighbours(needs, out, Some(data), count)
    }

    fn cuGraphNodeGetDependentNodes(node: Handle<GraphNode>, out: Out<Handle<GraphNode>>, count: Out<usize>) {
        let dependents = lock()?.dependents(node)?;
        neighbours(dependents, out, None, count)
    }

    fn cuGraphNodeGetDependentNodes_v2(node: Handle<GraphNode>, out: Out<Handle<GraphNode>>, data: Out<EdgeData>, count: Out<usize>) {
        let dependents = lock()?.dependents(node)?;
        neighbours(dependents, out, Some(data), count)
    }

    fn cuGraphAddDependencies(graph: Handle<Graph>, from: In<Handle<GraphNode>>, to: In<Handle<GraphNode>>, count: usize) {
        change_edges(graph, from, to, count, true)
    }

    fn cuGraphAddDependencies_v2(
        graph: Handle<Graph>, from: In<Handle<GraphNode>>, to: In<Handle<GraphNode>>, _data: In<EdgeData>, count: usize,
    ) {
        change_edges(graph, from, to, count, true)
    }

    fn cuGraphRemoveDependencies(graph: Handle<Graph>, from: In<Handle<GraphNode>>, to: In<Handle<GraphNode>>, count: usize) {
        change_edges(graph, from, to, count, false)
    }

    fn cuGraphRemoveDependencies_v2(
        graph: Handle<Graph>, from: In<Handle<GraphNode>>, to: In<Handle<GraphNode>>, _data: In<EdgeData>, count: usize,
    ) {
        change_edges(graph, from, to, count, false)
    }

    fn cuGraphDestroyNode(node: Handle<GraphNode>) {
        let mut state = lock()?;
        for dependent in state.dependents(node)? {
            state.nodes.get_mut(dependent)?.needs.retain(|n| *n != node);
        }
        let gone = state.nodes.remove(node)?;
        state.graphs.get_mut(gone.graph)?.nodes.retain(|n| *n != node);
        state.drop_action(gone.action);
        Ok(())
    }

    fn cuGraphDebugDotPrint(graph: Handle<Graph>, path: Text, _flags: u32) {
        let path = path.get("path")?;
        let state = lock()?;
        let mut dot = String::from("digraph graph_1 {\n");
        for node in &state.graphs.get(graph)?.nodes {
            let _ = writeln!(dot, "  \"{node:?}\" [label=\"{}\"];", state.nodes.get(*node)?.action.label());
        }
        for (from, to) in state.edges(graph)? {
            let _ = writeln!(dot, "  \"{from:?}\" -> \"{to:?}\";");
        }
        dot.push_str("}\n");
        std::fs::write(&path, dot).map_err(|e| error(CuResult::OPERATING_SYSTEM, format!("{path}: {e}")))
    }
}

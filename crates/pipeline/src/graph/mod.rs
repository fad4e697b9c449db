//! A manifest checked against the node types, and its running instances.

mod away;
mod compile;
mod foreign;
mod instance;
mod queue;
mod reload;

pub(crate) use foreign::Answer;
pub use foreign::{ForeignCall, ForeignHost, ForeignOutput, ForeignReply};
pub(crate) use instance::{Change, Cross, Crossing, Instance, Msg, OnFailure, Outlets, Surroundings, Tap};
pub(crate) use queue::{Gate, Ingress};

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::data::Kind;
use crate::error::{ManifestError, NodeError, either, printable};
use crate::manifest::{Manifest, OnError, Scope};
use crate::metrics::Metrics;
use crate::spec::{ForeignSpec, NodeFactory, NodeSpec, Params, PortSpec, Registry};
use crate::ticket::Output;

/// Deadline of a node that runs elsewhere and takes audio, pictures or anything, where the manifest names none.
const MEDIA_DEADLINE_MS: u64 = 2_000;
/// The same for one that takes data only.
const DATA_DEADLINE_MS: u64 = 30_000;

/// A manifest ready to run: ports resolved, parameters checked, models loaded. Its instances share what was loaded.
///
/// A node that runs elsewhere has a deadline even where the manifest names none: 2 s if it takes audio, pictures or `any`,
/// 30 s if it takes data only. A native node has one only where the manifest names it.
pub struct Plan {
    /// In topological order; an index here is how nodes are named inside.
    nodes: Vec<PlanNode>,
    /// Inputs that no connection leads to: where items from outside go.
    inputs: Vec<GraphInput>,
    /// The names of both ends of each connection, in the manifest's order.
    edges: Vec<(String, String)>,
    warnings: Vec<String>,
}

struct PlanNode {
    id: Arc<str>,
    body: Body,
    on_error: OnError,
    enabled: bool,
    deadline: Option<Duration>,
    place: Place,
    /// By output port: the inputs it leads to. None: it leaves the graph there.
    outs: Vec<Vec<Target>>,
    /// By input port.
    edges: Vec<queue::Edge>,
}

/// In which instances a node lives: of each peer, or of all; and apart from pictures, so that audio never waits behind one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub scope: Scope,
    pub audio: bool,
}

enum Body {
    Native { spec: Arc<NodeSpec>, factory: Box<dyn NodeFactory>, params: Params },
    Foreign { spec: Arc<ForeignSpec>, params: Arc<Map<String, Value>> },
}

/// An input, and the connection that leads to it.
struct Target {
    node: usize,
    port: usize,
    edge: usize,
}

struct GraphInput {
    node: usize,
    port: usize,
    kind: Kind,
}

impl Plan {
    /// Checks a manifest and loads what its nodes need. The error names the place.
    ///
    /// Refused are: ids used twice, unknown types, ports and parameters, values out of range, connections of kinds that
    /// don't go together, cycles, inputs that must be connected and aren't, and what isn't built yet.
    pub fn compile(manifest: &Manifest, registry: &Registry) -> Result<Arc<Plan>, ManifestError> {
        compile::compile(manifest, registry).map(Arc::new)
    }

    /// What was ignored in the manifest, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The kinds that items from outside may have, each once.
    pub fn takes(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.inputs.iter().map(|input| input.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// The ids of the nodes, in the order they run.
    pub fn node_ids(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| &*node.id)
    }

    /// The ids of the nodes that items leave the graph from.
    pub fn output_ids(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|node| node.is_output()).map(|node| &*node.id)
    }

    pub(crate) fn check_input(&self, kind: Kind) -> Result<(), NodeError> {
        if self.inputs.iter().any(|input| input.kind.accepts(kind)) {
            return Ok(());
        }
        Err(NodeError::NoInput { kind, takes: either(self.takes().iter().map(|kind| kind.name())) })
    }

    /// Where items of this kind go that come from outside, each place once.
    pub(crate) fn entries(&self, kind: Kind) -> Vec<Place> {
        let takes = self.inputs.iter().filter(|input| input.kind.accepts(kind));
        let mut places: Vec<Place> = takes.map(|input| self.nodes[input.node].place).collect();
        places.sort();
        places.dedup();
        places
    }

    /// Where this node lives.
    pub(crate) fn place(&self, node: usize) -> Place {
        self.nodes[node].place
    }

    /// Checks what a shared node is told about one peer.
    pub(crate) fn check_source_param(&self, node: usize, name: &str, value: &Value) -> Result<(), NodeError> {
        let node = &self.nodes[node];
        let problem = |problem| NodeError::Param { node: node.id.to_string(), problem };
        let specs = match &node.body {
            Body::Native { factory, .. } if node.place.scope == Scope::Shared => factory.source_params(),
            _ => Vec::new(),
        };
        let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
            let known = match specs.is_empty() {
                true => "it has none".to_owned(),
                false => format!("it has {}", either(specs.iter().map(|spec| spec.name))),
            };
            return Err(problem(format!("\"{}\" is no parameter by peer; {known}", printable(name))));
        };
        spec.check(value).map_err(|wrong| problem(format!("{name} {wrong}")))
    }

    /// Counters for its nodes and connections. Those of the same name and type in `before` go on.
    pub(crate) fn metrics(&self, before: Option<(&Plan, &Metrics)>) -> Arc<Metrics> {
        let nodes = self.nodes.iter().map(|node| {
            let old = before.and_then(|(plan, metrics)| {
                let at = plan
                    .nodes
                    .iter()
                    .position(|old| old.id == node.id && old.body.node_type() == node.body.node_type())?;
                metrics.nodes.get(at).cloned()
            });
            old.unwrap_or_default()
        });
        let edges = self.edges.iter().map(|edge| {
            let old = before.and_then(|(plan, metrics)| {
                let at = plan.edges.iter().position(|old| old == edge)?;
                metrics.edges.get(at).cloned()
            });
            old.unwrap_or_default()
        });
        Arc::new(Metrics { nodes: nodes.collect(), edges: edges.collect() })
    }

    /// The ids and types of the nodes, in the order they run.
    pub(crate) fn describe(&self) -> impl Iterator<Item = (&str, &str)> {
        self.nodes.iter().map(|node| (&*node.id, node.body.node_type()))
    }

    /// The names of both ends of each connection.
    pub(crate) fn edges(&self) -> impl Iterator<Item = &(String, String)> {
        self.edges.iter()
    }

    pub(crate) fn index(&self, id: &str) -> Result<(usize, Arc<str>), NodeError> {
        let found = self.nodes.iter().position(|node| &*node.id == id);
        found
            .map(|at| (at, self.nodes[at].id.clone()))
            .ok_or_else(|| NodeError::UnknownNode(printable(id), either(self.node_ids())))
    }

    /// An output that items leave the graph by: `node` for all of a node's, or `node.port`.
    pub(crate) fn output(&self, name: &str) -> Result<Output, NodeError> {
        let (id, port) = match name.split_once('.') {
            Some((id, port)) => (id, Some(port)),
            None => (name, None),
        };
        let found = self.nodes.iter().find(|node| &*node.id == id).filter(|node| {
            let mut ports = node.body.outputs().iter().zip(&node.outs);
            ports.any(|(spec, targets)| targets.is_empty() && port.is_none_or(|only| only == spec.name))
        });
        found
            .map(|node| Output { node: node.id.clone(), port: port.map(str::to_owned) })
            .ok_or_else(|| NodeError::UnknownOutput(printable(name), self.open_outputs()))
    }

    /// Whether items leave the graph by this output, given as `node` or `node.port`.
    pub fn has_output(&self, name: &str) -> bool {
        self.output(name).is_ok()
    }

    /// The outputs behind a name, given as `node` or `node.port`, that items leave the graph by: the ports and what they give. Empty
    /// where there is none.
    pub fn output_ports(&self, name: &str) -> Vec<(&str, Kind)> {
        let Ok(output) = self.output(name) else { return Vec::new() };
        let Some(node) = self.nodes.iter().find(|node| node.id == output.node) else { return Vec::new() };
        let ports = node.body.outputs().iter().zip(&node.outs).filter(|(_, targets)| targets.is_empty());
        ports
            .filter(|(spec, _)| output.is(&node.id, &spec.name))
            .map(|(spec, _)| (spec.name.as_str(), spec.kind))
            .collect()
    }

    /// Whether something of these kinds that comes from outside can lead to something that leaves the graph by an output, given as
    /// `node` or `node.port`.
    pub fn leads_to(&self, kinds: &[Kind], output: &str) -> bool {
        let Ok(output) = self.output(output) else { return false };
        let mut reached: Vec<bool> = vec![false; self.nodes.len()];
        for input in self.inputs.iter().filter(|input| kinds.iter().any(|kind| input.kind.accepts(*kind))) {
            reached[input.node] = true;
        }
        // In topological order each node is looked at after all that lead to it.
        for (at, node) in self.nodes.iter().enumerate() {
            if reached[at] {
                node.outs.iter().flatten().for_each(|target| reached[target.node] = true);
            }
        }
        self.nodes.iter().zip(reached).any(|(node, reached)| reached && node.id == output.node)
    }

    /// The outputs that items leave the graph by, as a list to read.
    pub fn open_outputs(&self) -> String {
        let nodes = self.nodes.iter().flat_map(|node| {
            let ports = node.body.outputs().iter().zip(&node.outs);
            let open: Vec<_> = ports.filter(|(_, targets)| targets.is_empty()).collect();
            let all = node.outs.len() == 1;
            open.into_iter().map(move |(spec, _)| match all {
                true => node.id.to_string(),
                false => format!("{}.{}", node.id, spec.name),
            })
        });
        either(nodes)
    }

    /// The parameters a node starts with, with one changed. `None` for a foreign node: its host knows its own.
    pub(crate) fn change(
        &self,
        node: usize,
        name: &str,
        value: &Value,
        now: Option<&Params>,
    ) -> Result<Option<Params>, NodeError> {
        let node = &self.nodes[node];
        let Body::Native { spec, params, factory } = &node.body else { return Ok(None) };
        if spec.params.iter().any(|param| param.fixed && param.name == name) {
            return Err(NodeError::Param {
                node: node.id.to_string(),
                problem: format!("params.{name} can't change while the node runs; reload the manifest"),
            });
        }
        let changed =
            now.unwrap_or(params).with(&spec.params, name, value.clone()).map_err(|(name, problem)| {
                NodeError::Param { node: node.id.to_string(), problem: format!("params.{name} {problem}") }
            })?;
        // Ranges don't say which values go together; a node made with them does.
        factory.create(&changed).map_err(|error| error.at(&node.id))?;
        Ok(Some(changed))
    }
}

impl PlanNode {
    fn is_output(&self) -> bool {
        self.outs.iter().any(Vec::is_empty)
    }
}

impl Body {
    fn node_type(&self) -> &str {
        match self {
            Body::Native { spec, .. } => &spec.node_type,
            Body::Foreign { spec, .. } => &spec.node_type,
        }
    }

    fn inputs(&self) -> &[PortSpec] {
        match self {
            Body::Native { spec, .. } => &spec.inputs,
            Body::Foreign { spec, .. } => &spec.inputs,
        }
    }

    fn outputs(&self) -> &[PortSpec] {
        match self {
            Body::Native { spec, .. } => &spec.outputs,
            Body::Foreign { spec, .. } => &spec.outputs,
        }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({})", self.node_ids().collect::<Vec<_>>().join(" -> "))
    }
}

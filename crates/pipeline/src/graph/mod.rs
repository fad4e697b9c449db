//! A manifest checked against the node types, and its running instances.

mod compile;
mod foreign;
mod instance;
mod queue;

pub(crate) use foreign::Answer;
pub use foreign::{ForeignCall, ForeignHost, ForeignOutput, ForeignReply};
pub(crate) use instance::{Change, Instance, Msg, OnFailure, Surroundings};
pub(crate) use queue::Ingress;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::data::Kind;
use crate::error::{ManifestError, NodeError, either, printable};
use crate::manifest::{Manifest, OnError};
use crate::spec::{ForeignSpec, NodeFactory, NodeSpec, Params, PortSpec, Registry};

/// A manifest ready to run: ports resolved, parameters checked, models loaded. Its instances share what was loaded.
pub struct Plan {
    /// In topological order; an index here is how nodes are named inside.
    nodes: Vec<PlanNode>,
    /// Inputs that no connection leads to: where items from outside go.
    inputs: Vec<GraphInput>,
    warnings: Vec<String>,
}

struct PlanNode {
    id: Arc<str>,
    body: Body,
    on_error: OnError,
    enabled: bool,
    /// By output port: the inputs it leads to. None: it leaves the graph there.
    outs: Vec<Vec<(usize, usize)>>,
    /// By input port.
    edges: Vec<queue::Edge>,
}

enum Body {
    Native { spec: Arc<NodeSpec>, factory: Box<dyn NodeFactory>, params: Params },
    Foreign { spec: Arc<ForeignSpec>, params: Arc<Map<String, Value>> },
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

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn describe(&self, node: usize) -> (&str, &str) {
        let node = &self.nodes[node];
        (&node.id, node.body.node_type())
    }

    pub(crate) fn index(&self, id: &str) -> Result<usize, NodeError> {
        let found = self.nodes.iter().position(|node| &*node.id == id);
        found.ok_or_else(|| NodeError::UnknownNode(printable(id), either(self.node_ids())))
    }

    pub(crate) fn output_index(&self, id: &str) -> Result<usize, NodeError> {
        let found = self.nodes.iter().position(|node| &*node.id == id && node.is_output());
        found.ok_or_else(|| {
            NodeError::UnknownNode(
                format!("{}\" with an open output", printable(id)),
                either(self.output_ids()),
            )
        })
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

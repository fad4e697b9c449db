//! What a node type is: its ports, its parameters with their ranges, and how one is made.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::data::{Item, Kind};
use crate::error::{ManifestError, NodeError, either, printable};
use crate::graph::ForeignHost;
use crate::manifest::Scope;

/// The most items one call of [`Node::process`] or one foreign answer gives out.
pub(crate) const MAX_EMITTED: usize = 256;
/// The most items one call of [`Node::tick`] gives out: one a peer, and some ticks that were late.
pub(crate) const MAX_EMITTED_A_TICK: usize = 4096;
/// The most node types of an application's own.
const MAX_FOREIGN: usize = 1024;
/// The most ports a node type has each way.
const MAX_PORTS: usize = 64;

/// One node of one running instance.
pub trait Node: Send {
    /// Takes an item in at input `port` (an index into [`NodeSpec::inputs`]) and gives out what there is to give.
    ///
    /// An input item that must be correlated with its result is passed on by [`Item::derive`].
    fn process(&mut self, port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError>;

    /// Changes a parameter between two items. All of `params` are given, checked, the changed one among them.
    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        let _ = params;
        Ok(())
    }

    /// For a node with a clock of its own: how often [`Node::tick`] is called. Asked again after each tick. Usual: never.
    fn tick_every(&self) -> Option<Duration> {
        None
    }

    /// Gives out what is due at `now`, between two items. The times are a grid of whole periods; of those that could not be run in
    /// time only the last one is.
    ///
    /// What leaves the graph from here goes to [`crate::SessionOptions::on_output`]: no item led to it.
    fn tick(&mut self, now: Instant, out: &mut Emit) -> Result<(), NodeError> {
        let _ = (now, out);
        Ok(())
    }

    /// For a node that peers share: changes what it does with one of them, by its [`Item::source`], who may not be there yet. The
    /// value is checked against [`NodeFactory::source_params`].
    fn set_source_param(&mut self, source: &str, name: &str, value: &Value) -> Result<(), NodeError> {
        let _ = (source, name, value);
        Ok(())
    }

    /// The peer of this [`Item::source`] is gone for good: nothing of it comes any more.
    fn source_gone(&mut self, source: &str) {
        let _ = source;
    }
}

/// Makes fresh nodes. It holds what was loaded once for the plan, such as a model.
pub trait NodeFactory: Send + Sync {
    /// A node with fresh state.
    fn create(&self, params: &Params) -> Result<Box<dyn Node>, NodeError>;

    /// Whose a node of this type is where the manifest doesn't say.
    fn scope(&self) -> Scope {
        Scope::Peer
    }

    /// What a node that peers share can be told about each of them.
    fn source_params(&self) -> Vec<ParamSpec> {
        Vec::new()
    }
}

impl<F> NodeFactory for F
where
    F: Fn(&Params) -> Result<Box<dyn Node>, NodeError> + Send + Sync,
{
    fn create(&self, params: &Params) -> Result<Box<dyn Node>, NodeError> {
        self(params)
    }
}

/// Loads what the nodes of one place in a manifest share. Its error is told at compile time, with the node named.
pub type Load = Arc<dyn Fn(&Params) -> Result<Box<dyn NodeFactory>, String> + Send + Sync>;

/// A node type.
#[derive(Clone)]
pub struct NodeSpec {
    /// Its name in manifests.
    pub node_type: String,
    /// Input ports. In one pass a node sees the items of a port before those of the ports behind it.
    pub inputs: Vec<PortSpec>,
    /// Output ports.
    pub outputs: Vec<PortSpec>,
    /// Parameters.
    pub params: Vec<ParamSpec>,
    /// Its `any` outputs give what its `any` inputs got, so that the compiler can see through it.
    pub same_kind: bool,
    /// How it is made.
    pub load: Load,
}

/// A port of a node type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name in manifests.
    pub name: String,
    /// What it takes or gives.
    pub kind: Kind,
    /// For inputs: it must be connected, as items from outside the graph can't go there.
    pub connected: bool,
}

/// A parameter of a node type.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// Its name in manifests.
    pub name: &'static str,
    /// What it takes.
    pub kind: ParamKind,
    /// Its value when it isn't given; `None` leaves it open.
    pub default: Option<Value>,
    /// Whether a manifest must give it.
    pub required: bool,
    /// It can't change while the node runs: what it names is loaded with the manifest.
    pub fixed: bool,
    /// Its unit, such as `dB`, `ms` or `px`; empty where it has none.
    pub unit: &'static str,
    /// What it does, in a few words, for the documentation.
    pub about: &'static str,
}

/// What a parameter takes.
#[derive(Debug, Clone, PartialEq)]
pub enum ParamKind {
    /// A number within the range, both ends included.
    Number {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// A whole number within the range, both ends included.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// True or false.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text.
    Text {
        /// Characters at most.
        most: usize,
    },
    /// `#rrggbb` or `#rrggbbaa`.
    Colour,
}

/// Checked parameters of a node, defaults filled in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Params(BTreeMap<String, Value>);

/// Where a node puts what it gives out. Bounded: more than 256 items from one call, or 4096 from one tick, are an error of the node.
#[derive(Default)]
pub struct Emit {
    pub(crate) items: Vec<(usize, Item)>,
    pub(crate) overflow: bool,
    pub(crate) is_tick: bool,
}

/// The node types that manifests can use. Cloning is cheap and shares them.
#[derive(Clone)]
pub struct Registry {
    types: Arc<RwLock<HashMap<String, NodeType>>>,
}

#[derive(Clone)]
pub(crate) enum NodeType {
    Native(Arc<NodeSpec>),
    Foreign(Arc<ForeignSpec>),
}

pub(crate) struct ForeignSpec {
    pub node_type: Arc<str>,
    pub inputs: Vec<PortSpec>,
    pub outputs: Vec<PortSpec>,
    pub host: Arc<dyn ForeignHost>,
}

impl Emit {
    pub(crate) fn most(&self) -> usize {
        if self.is_tick { MAX_EMITTED_A_TICK } else { MAX_EMITTED }
    }

    /// Gives an item out at output `port` (an index into [`NodeSpec::outputs`]).
    pub fn push(&mut self, port: usize, item: Item) {
        if self.items.len() < self.most() {
            self.items.push((port, item));
        } else {
            self.overflow = true;
        }
    }
}

impl PortSpec {
    /// A port that may stay unconnected.
    pub fn new(name: &str, kind: Kind) -> PortSpec {
        PortSpec { name: name.to_owned(), kind, connected: false }
    }

    /// An input that must be connected.
    pub fn connected(name: &str, kind: Kind) -> PortSpec {
        PortSpec { connected: true, ..PortSpec::new(name, kind) }
    }
}

impl ParamSpec {
    fn new(name: &'static str, kind: ParamKind, default: Value) -> ParamSpec {
        ParamSpec { name, kind, default: Some(default), required: false, fixed: false, unit: "", about: "" }
    }

    /// A number, with the value it has when it isn't given.
    pub fn number(name: &'static str, min: f64, max: f64, default: f64) -> ParamSpec {
        ParamSpec::new(name, ParamKind::Number { min, max }, default.into())
    }

    /// A whole number, with the value it has when it isn't given.
    pub fn integer(name: &'static str, min: i64, max: i64, default: i64) -> ParamSpec {
        ParamSpec::new(name, ParamKind::Integer { min, max }, default.into())
    }

    /// A switch, with the value it has when it isn't given.
    pub fn bool(name: &'static str, default: bool) -> ParamSpec {
        ParamSpec::new(name, ParamKind::Bool, default.into())
    }

    /// One of some words, with the one it is when it isn't given.
    pub fn choice(name: &'static str, words: &'static [&'static str], default: &str) -> ParamSpec {
        ParamSpec::new(name, ParamKind::Choice(words), default.into())
    }

    /// Text of at most `most` characters, with what it is when it isn't given.
    pub fn text(name: &'static str, most: usize, default: &str) -> ParamSpec {
        ParamSpec::new(name, ParamKind::Text { most }, default.into())
    }

    /// A colour, `#rrggbb` or with opacity `#rrggbbaa`, with what it is when it isn't given.
    pub fn colour(name: &'static str, default: &str) -> ParamSpec {
        ParamSpec::new(name, ParamKind::Colour, default.into())
    }

    /// The same without a default: it may be left out.
    pub fn optional(self) -> ParamSpec {
        ParamSpec { default: None, ..self }
    }

    /// The same without a default: it must be given.
    pub fn required(self) -> ParamSpec {
        ParamSpec { default: None, required: true, ..self }
    }

    /// The same, but it can't change while the node runs.
    pub fn fixed(self) -> ParamSpec {
        ParamSpec { fixed: true, ..self }
    }

    /// The same with a unit, for the documentation.
    pub fn unit(self, unit: &'static str) -> ParamSpec {
        ParamSpec { unit, ..self }
    }

    /// The same with a few words on what it does, for the documentation.
    pub fn about(self, about: &'static str) -> ParamSpec {
        ParamSpec { about, ..self }
    }

    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        let ok = match &self.kind {
            ParamKind::Number { min, max } => value.as_f64().is_some_and(|n| (*min..=*max).contains(&n)),
            ParamKind::Integer { min, max } => whole(value).is_some_and(|n| (*min..=*max).contains(&n)),
            ParamKind::Bool => value.is_boolean(),
            ParamKind::Choice(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            ParamKind::Text { most } => value.as_str().is_some_and(|text| text.chars().count() <= *most),
            ParamKind::Colour => value.as_str().is_some_and(|text| colour(text).is_some()),
        };
        if ok { Ok(()) } else { Err(format!("is {}, not {}", shown(value), self.kind.describe())) }
    }
}

impl ParamKind {
    /// What it takes, in words.
    pub fn describe(&self) -> String {
        match self {
            ParamKind::Number { min, max } => format!("a number from {min} to {max}"),
            ParamKind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            ParamKind::Bool => "true or false".to_owned(),
            ParamKind::Choice(words) => either(*words),
            ParamKind::Text { most } => format!("text of at most {most} characters"),
            ParamKind::Colour => "a colour, #rrggbb or #rrggbbaa".to_owned(),
        }
    }
}

/// Red, green, blue and opacity.
fn colour(text: &str) -> Option<[u8; 4]> {
    let digits = text.strip_prefix('#')?;
    if !matches!(digits.len(), 6 | 8) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| digits.get(at..at + 2).map_or(Some(255), |two| u8::from_str_radix(two, 16).ok());
    Some([byte(0)?, byte(2)?, byte(4)?, byte(6)?])
}

/// JavaScript has one number type, so 12.0 is as whole as 12.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        other => printable(&other.to_string()),
    }
}

impl Params {
    /// The number of this name; `None` when it was left open.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }

    /// The whole number of this name.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(whole)
    }

    /// The switch of this name; false when it was left open.
    pub fn bool(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The word of this name.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The text of this name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// The colour of this name: red, green, blue and opacity.
    pub fn colour(&self, name: &str) -> Option<[u8; 4]> {
        self.0.get(name).and_then(Value::as_str).and_then(colour)
    }

    /// The names of those that differ.
    pub(crate) fn differences<'a>(&'a self, other: &'a Params) -> impl Iterator<Item = &'a str> {
        let names = self.0.keys().chain(other.0.keys().filter(|name| !self.0.contains_key(*name)));
        names.filter(|name| self.0.get(*name) != other.0.get(*name)).map(String::as_str)
    }

    /// Checked parameters of a type, as a manifest would give them.
    pub fn new(specs: &[ParamSpec], given: &serde_json::Map<String, Value>) -> Result<Params, ManifestError> {
        Params::check(specs, given)
            .map_err(|(name, problem)| ManifestError::new(format!("params.{name}"), problem))
    }

    /// Checks `given` against the type's parameters. The error is the parameter's name and what is wrong with it.
    pub(crate) fn check(
        specs: &[ParamSpec],
        given: &serde_json::Map<String, Value>,
    ) -> Result<Params, (String, String)> {
        let mut params = BTreeMap::new();
        for (name, value) in given {
            let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
                let known = if specs.is_empty() {
                    "it takes none".to_owned()
                } else {
                    format!("it takes {}", either(specs.iter().map(|spec| spec.name)))
                };
                return Err((printable(name), format!("is no parameter of this node type; {known}")));
            };
            // YAML's way of leaving something out.
            if value.is_null() {
                continue;
            }
            spec.check(value).map_err(|problem| (spec.name.to_owned(), problem))?;
            params.insert(name.clone(), value.clone());
        }
        for spec in specs {
            if params.contains_key(spec.name) {
                continue;
            }
            match &spec.default {
                Some(value) => drop(params.insert(spec.name.to_owned(), value.clone())),
                None if spec.required => {
                    return Err((spec.name.to_owned(), format!("is missing: {}", spec.kind.describe())));
                }
                None => {}
            }
        }
        Ok(Params(params))
    }

    /// These with one changed, checked again.
    pub(crate) fn with(
        &self,
        specs: &[ParamSpec],
        name: &str,
        value: Value,
    ) -> Result<Params, (String, String)> {
        let mut given: serde_json::Map<String, Value> = self.0.clone().into_iter().collect();
        given.insert(name.to_owned(), value);
        Params::check(specs, &given)
    }
}

impl Registry {
    /// The built-in node types; docs/nodes.md describes them.
    pub fn builtin() -> Registry {
        let registry = Registry { types: Arc::default() };
        for spec in crate::nodes::specs() {
            registry.write().insert(spec.node_type.clone(), NodeType::Native(Arc::new(spec)));
        }
        registry
    }

    /// Adds a native node type. Refused when the name is taken or a port is badly named.
    pub fn register(&self, spec: NodeSpec) -> Result<(), ManifestError> {
        let spec = Arc::new(spec);
        self.insert(&spec.node_type, &spec.inputs, &spec.outputs, NodeType::Native(spec.clone()))
    }

    /// Adds a node type that runs elsewhere, such as in JavaScript: every item that reaches it is handed to `host`.
    /// Refused when the name is a native type's; another foreign type of this name is replaced, for plans compiled later.
    pub fn register_foreign(
        &self,
        node_type: &str,
        inputs: Vec<PortSpec>,
        outputs: Vec<PortSpec>,
        host: Arc<dyn ForeignHost>,
    ) -> Result<(), ManifestError> {
        let spec = ForeignSpec {
            node_type: node_type.into(),
            inputs: inputs.clone(),
            outputs: outputs.clone(),
            host,
        };
        self.insert(node_type, &inputs, &outputs, NodeType::Foreign(Arc::new(spec)))
    }

    /// The names of all types, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.read().keys().cloned().collect();
        names.sort();
        names
    }

    /// The native types, sorted by name.
    pub fn specs(&self) -> Vec<Arc<NodeSpec>> {
        let mut specs: Vec<Arc<NodeSpec>> = self
            .read()
            .values()
            .filter_map(|node_type| match node_type {
                NodeType::Native(spec) => Some(spec.clone()),
                NodeType::Foreign(_) => None,
            })
            .collect();
        specs.sort_by(|a, b| a.node_type.cmp(&b.node_type));
        specs
    }

    pub(crate) fn get(&self, name: &str) -> Option<NodeType> {
        self.read().get(name).cloned()
    }

    fn insert(
        &self,
        name: &str,
        inputs: &[PortSpec],
        outputs: &[PortSpec],
        node_type: NodeType,
    ) -> Result<(), ManifestError> {
        let place = format!("node type \"{}\"", printable(name));
        if !is_name(name) {
            return Err(ManifestError::new(place, format!("a name is {NAME_RULE}")));
        }
        for (way, ports) in [("inputs", inputs), ("outputs", outputs)] {
            if ports.len() > MAX_PORTS {
                return Err(ManifestError::new(
                    place,
                    format!("has {} {way}, at most {MAX_PORTS}", ports.len()),
                ));
            }
            for (index, port) in ports.iter().enumerate() {
                if !is_name(&port.name) {
                    let problem = format!("{way}: \"{}\": a name is {NAME_RULE}", printable(&port.name));
                    return Err(ManifestError::new(place, problem));
                }
                if ports[..index].iter().any(|earlier| earlier.name == port.name) {
                    return Err(ManifestError::new(
                        place,
                        format!("{way}: \"{}\" is there twice", port.name),
                    ));
                }
            }
        }
        if inputs.is_empty() {
            return Err(ManifestError::new(place, "has no inputs; a node without one is never run"));
        }
        let mut types = self.write();
        match (types.get(name), &node_type) {
            (Some(NodeType::Foreign(_)), NodeType::Foreign(_)) => {}
            (Some(_), _) => return Err(ManifestError::new(place, "is taken; choose another name")),
            (None, _) if types.len() >= MAX_FOREIGN => {
                return Err(ManifestError::new(place, format!("there are {MAX_FOREIGN} node types already")));
            }
            (None, _) => {}
        }
        types.insert(name.to_owned(), node_type);
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, NodeType>> {
        self.types.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, NodeType>> {
        self.types.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl NodeType {
    pub fn inputs(&self) -> &[PortSpec] {
        match self {
            NodeType::Native(spec) => &spec.inputs,
            NodeType::Foreign(spec) => &spec.inputs,
        }
    }

    pub fn outputs(&self) -> &[PortSpec] {
        match self {
            NodeType::Native(spec) => &spec.outputs,
            NodeType::Foreign(spec) => &spec.outputs,
        }
    }
}

/// What [`is_name`] asks for, to be put in messages.
pub(crate) const NAME_RULE: &str = "1 to 64 letters, digits, '_' or '-'";

/// Names of nodes, types and ports: no dot, which separates a node from its port.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

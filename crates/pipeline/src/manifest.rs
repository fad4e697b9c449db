//! Manifest v1: what a user writes, read from YAML or JSON and checked for form.
//!
//! The text becomes a tree first and is then walked by hand, so that an error can say `nodes[2].queue.max` and an unknown
//! field be a warning. Limits hold before anything is built: size, nesting, aliases, counts.

use serde_json::{Map, Value};

use crate::error::{ManifestError, either, printable};
use crate::spec::{NAME_RULE, is_name};

/// The longest manifest, in bytes: 1 MiB.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// The most nodes.
pub const MAX_NODES: usize = 1024;
/// The most connections.
pub const MAX_CONNECTIONS: usize = 4096;
/// The deepest nesting of maps and lists.
pub const MAX_DEPTH: usize = 32;
/// The longest deadline a node may have: ten minutes.
pub(crate) const MAX_DEADLINE_MS: u64 = 600_000;
/// The longest queue a connection may ask for.
pub(crate) const MAX_QUEUE: usize = 4096;

/// Unknown fields told at most; a text full of them must not make a list as long.
pub(crate) const MAX_WARNINGS: usize = 100;

/// A manifest of version v1, checked for form. Types, ports and parameters are checked by [`crate::Plan::compile`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Manifest {
    /// What it says about itself.
    pub metadata: Metadata,
    /// The nodes, in the order written.
    pub nodes: Vec<NodeDef>,
    /// The connections, in the order written.
    pub connections: Vec<ConnectionDef>,
    /// What was ignored, one line each.
    pub warnings: Vec<String>,
}

/// What a manifest says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Its name.
    pub name: Option<String>,
    /// A description.
    pub description: Option<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDef {
    /// Its id, unique in the manifest.
    pub id: String,
    /// The name of its type.
    pub node_type: String,
    /// Parameters as written.
    pub params: Map<String, Value>,
    /// One a peer, or one for all; `None`: as its type has it.
    pub scope: Option<Scope>,
    /// What happens when it fails on an item.
    pub on_error: OnError,
    /// When false, items pass it by: each goes from its input to the outputs of the same kind.
    pub enabled: bool,
    /// How long it may take from an item's arrival to its answer, in milliseconds, 1 to 600 000. What takes longer is a
    /// failure, handled by `on_error`. Left out: as [`crate::Plan`] says for nodes that run elsewhere, no limit for others.
    pub deadline_ms: Option<u64>,
}

/// Whose a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Each peer has its own.
    #[default]
    Peer,
    /// All peers of a session share one.
    Shared,
}

/// What happens to an item that a node failed on. Each failure is counted and told to the session's error hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It goes on unchanged, at the outputs of its kind.
    Bypass,
    /// It ends here; whoever waits for a result is told that there is none.
    Drop,
    /// As `Drop`, and the node's state is made anew.
    Restart,
    /// It ends here; whoever waits for a result gets the error. The graph goes on with the next item.
    #[default]
    Fail,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionDef {
    /// An output.
    pub from: EndPoint,
    /// An input.
    pub to: EndPoint,
    /// The queue, where one is asked for.
    pub queue: Option<QueueDef>,
}

/// One end of a connection: `node` or `node.port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndPoint {
    /// The node's id.
    pub node: String,
    /// The port's name; where it's left out, the node must have one port that fits.
    pub port: Option<String>,
}

/// The bound of a connection. It matters where items wait: before a node that runs in JavaScript. Between native nodes nothing
/// ever waits, so there any bound holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDef {
    /// Items that may wait, 1 to 4096.
    pub max: Option<usize>,
    /// What happens when they are that many.
    pub policy: Option<QueuePolicy>,
}

/// What happens to an item that finds the queue of its connection full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueuePolicy {
    /// Whatever waits makes room: only the newest is worth having. Usual for pictures and masks.
    Latest,
    /// The oldest one waiting makes room, and the one behind it is marked as following a gap. Usual for audio.
    DropOldest,
    /// It is dropped itself, and counted.
    DropNewest,
    /// It is dropped itself, and whoever waits for its result gets an error.
    Reject,
    /// Nothing is dropped here: the instance takes no more items in until there is room. What comes meanwhile waits at
    /// the entrance of the graph, as its kind does there; data beyond that is refused, which tells its sender to wait.
    /// Usual for text, JSON and bytes.
    Block,
}

impl Manifest {
    /// Reads a manifest from YAML or JSON.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        if text.len() > MAX_MANIFEST_BYTES {
            let problem = format!("is {} bytes long, at most {MAX_MANIFEST_BYTES} are read", text.len());
            return Err(ManifestError::new("manifest", problem));
        }
        Manifest::from_value(&read(text)?)
    }

    /// Reads a manifest from a tree, such as a JavaScript object that was turned into JSON.
    pub fn from_value(value: &Value) -> Result<Manifest, ManifestError> {
        check_depth(value)?;
        let mut walk = Walk { warnings: Vec::new() };
        let root = map(value, "manifest")?;
        walk.unknown(root, "manifest", &["version", "metadata", "nodes", "connections"]);
        walk.warnings.extend(version(root)?);
        let metadata = walk.metadata(root)?;
        let nodes = walk.nodes(root)?;
        let connections = walk.connections(root)?;
        Ok(Manifest { metadata, nodes, connections, warnings: walk.warnings })
    }
}

fn read(text: &str) -> Result<Value, ManifestError> {
    // YAML contains JSON, but serde_json is exact about it and quicker.
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.flow_nesting_limit = MAX_DEPTH;
    budget.max_documents = 1;
    budget.max_events = 500_000;
    budget.max_nodes = 250_000;
    budget.max_aliases = 1000;
    budget.max_anchors = 1000;
    budget.max_merge_keys = 1000;
    budget.max_recorded_anchor_events = 50_000;
    budget.max_recorded_anchor_bytes = MAX_MANIFEST_BYTES;
    budget.max_total_scalar_bytes = 4 * MAX_MANIFEST_BYTES;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.alias_limits.max_total_replayed_events = 50_000;
    options.alias_limits.max_replay_stack_depth = 8;
    options.with_snippet = false;
    // YAML 1.1 reads a node called `n` or `y` as a truth value; 1.2, and everyone's expectation, as a name.
    options.strict_booleans = true;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        ManifestError::new("manifest", format!("is not YAML or JSON: {}", printable_long(&error)))
    })
}

fn printable_long(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn check_depth(value: &Value) -> Result<(), ManifestError> {
    let mut level: Vec<&Value> = vec![value];
    for _ in 0..=MAX_DEPTH {
        let mut next = Vec::new();
        for value in level {
            match value {
                Value::Array(list) => next.extend(list),
                Value::Object(map) => next.extend(map.values()),
                _ => {}
            }
        }
        if next.is_empty() {
            return Ok(());
        }
        level = next;
    }
    Err(ManifestError::new("manifest", format!("is nested deeper than {MAX_DEPTH} levels")))
}

fn version(root: &Map<String, Value>) -> Result<Option<String>, ManifestError> {
    match root.get("version") {
        Some(Value::String(version)) if version == "v1" => Ok(None),
        // As some of the existing ecosystem's say it.
        Some(Value::String(version)) if version == "1.0" => {
            Ok(Some("version: \"1.0\" is taken as v1".to_owned()))
        }
        Some(other) => Err(ManifestError::new("version", format!("is {}, not v1", describe(other)))),
        None => Err(ManifestError::new("version", "is missing; it is v1")),
    }
}

struct Walk {
    warnings: Vec<String>,
}

impl Walk {
    fn unknown(&mut self, map: &Map<String, Value>, place: &str, known: &[&str]) {
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            if self.warnings.len() < MAX_WARNINGS {
                self.warnings.push(format!("{place}: unknown field \"{}\" is ignored", printable(name)));
            }
        }
    }

    fn metadata(&mut self, root: &Map<String, Value>) -> Result<Metadata, ManifestError> {
        let Some(value) = present(root, "metadata") else { return Ok(Metadata::default()) };
        let fields = map(value, "metadata")?;
        self.unknown(fields, "metadata", &["name", "description"]);
        let text = |name: &str| optional_text(fields, name, "metadata");
        Ok(Metadata { name: text("name")?, description: text("description")? })
    }

    fn nodes(&mut self, root: &Map<String, Value>) -> Result<Vec<NodeDef>, ManifestError> {
        let list = list(root, "nodes", MAX_NODES)?;
        if list.is_empty() {
            return Err(ManifestError::new("nodes", "is empty or missing; a manifest has at least one node"));
        }
        list.iter().enumerate().map(|(index, value)| self.node(value, &format!("nodes[{index}]"))).collect()
    }

    fn node(&mut self, value: &Value, place: &str) -> Result<NodeDef, ManifestError> {
        let fields = map(value, place)?;
        self.unknown(
            fields,
            place,
            &["id", "node_type", "nodeType", "params", "scope", "on_error", "enabled", "deadline_ms"],
        );
        // The existing ecosystem has both.
        let node_type = match optional_text(fields, "nodeType", place)? {
            Some(node_type) if present(fields, "node_type").is_none() => node_type,
            _ => required_text(fields, "node_type", place)?,
        };
        let id = required_text(fields, "id", place)?;
        if !is_name(&id) {
            return Err(ManifestError::new(
                format!("{place}.id"),
                format!("\"{}\" is not {NAME_RULE}", printable(&id)),
            ));
        }
        let params = match present(fields, "params") {
            Some(value) => map(value, &format!("{place}.params"))?.clone(),
            None => Map::new(),
        };
        let scope = [("peer", Scope::Peer), ("shared", Scope::Shared)];
        let on_error = [
            ("bypass", OnError::Bypass),
            ("drop", OnError::Drop),
            ("restart", OnError::Restart),
            ("fail", OnError::Fail),
        ];
        let enabled = match present(fields, "enabled") {
            Some(Value::Bool(enabled)) => *enabled,
            Some(other) => {
                let problem = format!("is {}, not true or false", describe(other));
                return Err(ManifestError::new(format!("{place}.enabled"), problem));
            }
            None => true,
        };
        Ok(NodeDef {
            node_type,
            scope: word(fields, "scope", place, &scope)?,
            on_error: word(fields, "on_error", place, &on_error)?.unwrap_or_default(),
            deadline_ms: self.whole(fields, "deadline_ms", place, MAX_DEADLINE_MS)?,
            id,
            params,
            enabled,
        })
    }

    fn connections(&mut self, root: &Map<String, Value>) -> Result<Vec<ConnectionDef>, ManifestError> {
        let list = list(root, "connections", MAX_CONNECTIONS)?;
        list.iter()
            .enumerate()
            .map(|(index, value)| self.connection(value, &format!("connections[{index}]")))
            .collect()
    }

    fn connection(&mut self, value: &Value, place: &str) -> Result<ConnectionDef, ManifestError> {
        let fields = map(value, place)?;
        self.unknown(fields, place, &["from", "to", "queue"]);
        Ok(ConnectionDef {
            from: end_point(fields, "from", place)?,
            to: end_point(fields, "to", place)?,
            queue: present(fields, "queue")
                .map(|value| self.queue(value, &format!("{place}.queue")))
                .transpose()?,
        })
    }

    fn queue(&mut self, value: &Value, place: &str) -> Result<QueueDef, ManifestError> {
        let fields = map(value, place)?;
        self.unknown(fields, place, &["max", "policy"]);
        let max = self.whole(fields, "max", place, MAX_QUEUE as u64)?.map(|max| max as usize);
        let policies = [
            ("latest", QueuePolicy::Latest),
            ("drop_oldest", QueuePolicy::DropOldest),
            ("drop-oldest", QueuePolicy::DropOldest),
            ("drop_newest", QueuePolicy::DropNewest),
            ("drop-newest", QueuePolicy::DropNewest),
            ("reject", QueuePolicy::Reject),
            ("block", QueuePolicy::Block),
        ];
        Ok(QueueDef { max, policy: word(fields, "policy", place, &policies)? })
    }

    /// A whole number of at least 1, where it is given.
    fn whole(
        &self,
        fields: &Map<String, Value>,
        name: &str,
        place: &str,
        most: u64,
    ) -> Result<Option<u64>, ManifestError> {
        let Some(value) = present(fields, name) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => {
                let problem = format!("is {}, not a whole number from 1 to {most}", describe(value));
                Err(ManifestError::new(format!("{place}.{name}"), problem))
            }
        }
    }
}

fn end_point(fields: &Map<String, Value>, name: &str, place: &str) -> Result<EndPoint, ManifestError> {
    let text = required_text(fields, name, place)?;
    let (node, port) = match text.split_once('.') {
        Some((node, port)) => (node, Some(port)),
        None => (text.as_str(), None),
    };
    if !is_name(node) || port.is_some_and(|port| !is_name(port)) {
        let problem = format!("\"{}\" is not a node or node.port", printable(&text));
        return Err(ManifestError::new(format!("{place}.{name}"), problem));
    }
    Ok(EndPoint { node: node.to_owned(), port: port.map(str::to_owned) })
}

/// A field that is there and not null.
fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn map<'a>(value: &'a Value, place: &str) -> Result<&'a Map<String, Value>, ManifestError> {
    value.as_object().ok_or_else(|| ManifestError::new(place, format!("is {}, not a map", describe(value))))
}

fn list<'a>(root: &'a Map<String, Value>, name: &str, most: usize) -> Result<&'a [Value], ManifestError> {
    match present(root, name) {
        None => Ok(&[]),
        Some(Value::Array(list)) if list.len() <= most => Ok(list),
        Some(Value::Array(list)) => {
            Err(ManifestError::new(name, format!("has {} entries, at most {most} are taken", list.len())))
        }
        Some(other) => Err(ManifestError::new(name, format!("is {}, not a list", describe(other)))),
    }
}

fn optional_text(
    fields: &Map<String, Value>,
    name: &str,
    place: &str,
) -> Result<Option<String>, ManifestError> {
    match present(fields, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => {
            Err(ManifestError::new(format!("{place}.{name}"), format!("is {}, not text", describe(other))))
        }
    }
}

fn required_text(fields: &Map<String, Value>, name: &str, place: &str) -> Result<String, ManifestError> {
    optional_text(fields, name, place)?
        .ok_or_else(|| ManifestError::new(format!("{place}.{name}"), "is missing"))
}

fn word<T: Copy>(
    fields: &Map<String, Value>,
    name: &str,
    place: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, ManifestError> {
    let Some(value) = present(fields, name) else { return Ok(None) };
    let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
    found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| {
        // Other spellings are taken and not advertised.
        let allowed = either(words.iter().map(|(word, _)| word).filter(|word| !word.contains('-')));
        ManifestError::new(format!("{place}.{name}"), format!("is {}, not {allowed}", describe(value)))
    })
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        Value::String(text) => format!("\"{}\"", printable(text)),
        other => printable(&other.to_string()),
    }
}

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::queue::Edge;
use super::{Body, DATA_DEADLINE_MS, GraphInput, MEDIA_DEADLINE_MS, Place, Plan, PlanNode, Target};
use crate::compat;
use crate::data::Kind;
use crate::error::{ManifestError, either, printable};
use crate::manifest::{
    ConnectionDef, EndPoint, MAX_CONNECTIONS, MAX_DEADLINE_MS, MAX_NODES, MAX_WARNINGS, Manifest, NodeDef,
    QueueDef, Scope,
};
use crate::spec::{NodeType, Params, PortSpec, Registry};

/// A connection with its ends resolved: nodes by their place in the manifest, ports by their place in the type.
struct Wire {
    from: (usize, usize),
    to: (usize, usize),
    queue: Option<QueueDef>,
}

pub(super) fn compile(given: &Manifest, registry: &Registry) -> Result<Plan, ManifestError> {
    let manifest = &translated(given, registry);
    // A manifest may have been built by hand, past the limits of the reader.
    for (place, count, most) in [
        ("nodes", manifest.nodes.len(), MAX_NODES),
        ("connections", manifest.connections.len(), MAX_CONNECTIONS),
    ] {
        if count > most {
            return Err(ManifestError::new(place, format!("has {count} entries, at most {most} are taken")));
        }
    }
    if manifest.nodes.is_empty() {
        return Err(ManifestError::new("nodes", "is empty or missing; a manifest has at least one node"));
    }
    let mut by_id = HashMap::new();
    for (index, node) in manifest.nodes.iter().enumerate() {
        if by_id.insert(node.id.as_str(), index).is_some() {
            return Err(ManifestError::node(&node.id, "is there twice; ids are unique"));
        }
    }
    let types = manifest.nodes.iter().map(|node| node_type(node, registry)).collect::<Result<Vec<_>, _>>()?;
    let wires = resolve(manifest, &by_id, &types)?;
    let order = topological(manifest, &wires)?;
    check_kinds(manifest, &types, &wires, &order)?;
    check_required(manifest, &types, &wires)?;

    let mut place = vec![0; order.len()];
    for (position, &node) in order.iter().enumerate() {
        place[node] = position;
    }
    let mut nodes = Vec::with_capacity(order.len());
    let mut inputs = Vec::new();
    for (position, &index) in order.iter().enumerate() {
        let def = &manifest.nodes[index];
        let mut outs: Vec<Vec<Target>> = types[index].outputs().iter().map(|_| Vec::new()).collect();
        for (edge, wire) in wires.iter().enumerate().filter(|(_, wire)| wire.from.0 == index) {
            outs[wire.from.1].push(Target { node: place[wire.to.0], port: wire.to.1, edge });
        }
        let mut edges = Vec::new();
        for (port, spec) in types[index].inputs().iter().enumerate() {
            let mut incoming = wires.iter().filter(|wire| wire.to == (index, port)).peekable();
            if incoming.peek().is_none() {
                inputs.push(GraphInput { node: position, port, kind: spec.kind });
            }
            let mut queues = incoming.filter_map(|wire| wire.queue);
            let queue = queues.next();
            if queues.any(|other| Some(other) != queue) {
                let problem =
                    format!("input {} gets two connections that ask for different queues", spec.name);
                return Err(ManifestError::node(&def.id, problem));
            }
            edges.push(Edge::new(spec.kind, queue));
        }
        let body = body(def, &types[index])?;
        let deadline = match (def.deadline_ms, &body) {
            (Some(ms), _) => Some(Duration::from_millis(ms.clamp(1, MAX_DEADLINE_MS))),
            (None, Body::Foreign { spec, .. }) => Some(usual_deadline(&spec.inputs)),
            (None, Body::Native { .. }) => None,
        };
        let scope = match (def.scope, &body) {
            (Some(Scope::Peer), Body::Native { factory, .. }) if factory.scope() == Scope::Shared => {
                let problem = format!("scope: peer makes no sense for {}; leave it out", def.node_type);
                return Err(ManifestError::node(&def.id, problem));
            }
            (Some(scope), _) => scope,
            (None, Body::Native { factory, .. }) => factory.scope(),
            (None, Body::Foreign { .. }) => Scope::Peer,
        };
        nodes.push(PlanNode {
            id: def.id.as_str().into(),
            place: Place { scope, audio: is_audio(&types[index]) },
            body,
            on_error: def.on_error,
            enabled: def.enabled,
            deadline,
            outs,
            edges,
        });
    }
    // Items from outside reach the ports in the manifest's order.
    inputs.sort_by_key(|input| (order[input.node], input.port));
    let edges = wires.iter().map(|wire| {
        let end = |(node, port): (usize, usize), ports: &[PortSpec]| {
            format!("{}.{}", manifest.nodes[node].id, ports[port].name)
        };
        (end(wire.from, types[wire.from.0].outputs()), end(wire.to, types[wire.to.0].inputs()))
    });
    let edges = edges.collect();
    Ok(Plan { nodes, inputs, edges, warnings: manifest.warnings.clone() })
}

/// Media that is seconds late is of no use; whoever sends text may ask a model that takes its time.
fn usual_deadline(inputs: &[PortSpec]) -> Duration {
    let media = [Kind::Audio, Kind::AudioMix, Kind::Video, Kind::Mask, Kind::Any];
    let any = inputs.iter().any(|port| media.contains(&port.kind));
    Duration::from_millis(if any { MEDIA_DEADLINE_MS } else { DATA_DEADLINE_MS })
}

/// Whether a node has to do with audio and not with pictures, as far as its type says.
fn is_audio(node_type: &NodeType) -> bool {
    let ports = || node_type.inputs().iter().chain(node_type.outputs());
    ports().any(|port| matches!(port.kind, Kind::Audio | Kind::AudioMix))
        && ports().all(|port| !matches!(port.kind, Kind::Video | Kind::Mask | Kind::Any))
}

/// The manifest with node types of the existing ecosystem, where nobody has registered one of the name, as what they are here.
fn translated<'a>(manifest: &'a Manifest, registry: &Registry) -> Cow<'a, Manifest> {
    let mut manifest = Cow::Borrowed(manifest);
    for index in 0..manifest.nodes.len().min(MAX_NODES) {
        let node = &manifest.nodes[index];
        if registry.get(&node.node_type).is_some() {
            continue;
        }
        let Some(ours) = compat::translate(&node.node_type, &node.params) else { continue };
        let mut told = vec![format!(
            "nodes[{index}]: node_type \"{}\" is taken as {}",
            printable(&node.node_type),
            ours.node_type
        )];
        told.extend(ours.ignored.iter().map(|name| {
            format!("nodes[{index}].params: \"{name}\" has no meaning for {} and is ignored", ours.node_type)
        }));
        let manifest = manifest.to_mut();
        let room = MAX_WARNINGS.saturating_sub(manifest.warnings.len());
        manifest.warnings.extend(told.into_iter().take(room));
        manifest.nodes[index].node_type = ours.node_type.to_owned();
        manifest.nodes[index].params = ours.params;
    }
    manifest
}

fn node_type(node: &NodeDef, registry: &Registry) -> Result<NodeType, ManifestError> {
    registry.get(&node.node_type).ok_or_else(|| {
        let known = either(registry.names().iter().take(50));
        ManifestError::node(
            &node.id,
            format!("unknown node_type \"{}\"; there is {known}", printable(&node.node_type)),
        )
    })
}

/// Checks the parameters and loads; after everything else, as loading a model takes its time.
fn body(def: &NodeDef, node_type: &NodeType) -> Result<Body, ManifestError> {
    match node_type {
        NodeType::Foreign(spec) => {
            Ok(Body::Foreign { spec: spec.clone(), params: Arc::new(def.params.clone()) })
        }
        NodeType::Native(spec) => {
            let params = Params::check(&spec.params, &def.params).map_err(|(name, problem)| {
                ManifestError::node(&def.id, format!("params.{name} {problem}"))
            })?;
            let factory = (spec.load)(&params).map_err(|problem| ManifestError::node(&def.id, problem))?;
            // A node that can't be made is found here and not when the first peer joins.
            factory
                .create(&params)
                .map_err(|error| ManifestError::node(&def.id, error.at(&def.id).to_string()))?;
            Ok(Body::Native { spec: spec.clone(), factory, params })
        }
    }
}

fn resolve(
    manifest: &Manifest,
    by_id: &HashMap<&str, usize>,
    types: &[NodeType],
) -> Result<Vec<Wire>, ManifestError> {
    let mut seen = HashMap::new();
    let mut wires = Vec::with_capacity(manifest.connections.len());
    for (index, connection) in manifest.connections.iter().enumerate() {
        let wire = wire(index, connection, manifest, by_id, types)?;
        if let Some(earlier) = seen.insert((wire.from, wire.to), index) {
            let problem = format!("joins the same ports as connections[{earlier}]");
            return Err(ManifestError::new(format!("connections[{index}]"), problem));
        }
        wires.push(wire);
    }
    Ok(wires)
}

fn wire(
    index: usize,
    connection: &ConnectionDef,
    manifest: &Manifest,
    by_id: &HashMap<&str, usize>,
    types: &[NodeType],
) -> Result<Wire, ManifestError> {
    let find = |end: &EndPoint, field: &str| {
        by_id.get(end.node.as_str()).copied().ok_or_else(|| {
            let known = either(manifest.nodes.iter().map(|node| node.id.as_str()).take(50));
            let problem = format!("there is no node \"{}\"; the manifest has {known}", printable(&end.node));
            ManifestError::new(format!("connections[{index}].{field}"), problem)
        })
    };
    let (from, to) = (find(&connection.from, "from")?, find(&connection.to, "to")?);
    let outs =
        candidates(types[from].outputs(), &connection.from, &format!("connections[{index}].from"), "output")?;
    let ins = candidates(types[to].inputs(), &connection.to, &format!("connections[{index}].to"), "input")?;
    let mut fitting = Vec::new();
    for &out in &outs {
        for &input in &ins {
            let (gives, takes) = (types[from].outputs()[out].kind, types[to].inputs()[input].kind);
            if takes.accepts(gives) {
                fitting.push((out, input));
            }
        }
    }
    let names = |ports: &[PortSpec], which: &[usize]| {
        either(which.iter().map(|&port| format!("{} ({})", ports[port].name, ports[port].kind)))
    };
    let (gives, takes) = (names(types[from].outputs(), &outs), names(types[to].inputs(), &ins));
    match fitting.as_slice() {
        [(out, input)] => Ok(Wire { from: (from, *out), to: (to, *input), queue: connection.queue }),
        [] => {
            let problem =
                format!("{} gives {gives}, {} takes {takes}", connection.from.node, connection.to.node);
            Err(ManifestError::new(format!("connections[{index}]"), problem))
        }
        _ => {
            let problem = format!(
                "more than one pair of ports fits, name them as node.port: {} gives {gives}, {} takes {takes}",
                connection.from.node, connection.to.node
            );
            Err(ManifestError::new(format!("connections[{index}]"), problem))
        }
    }
}

fn candidates(
    ports: &[PortSpec],
    end: &EndPoint,
    place: &str,
    way: &str,
) -> Result<Vec<usize>, ManifestError> {
    let Some(name) = &end.port else {
        if ports.is_empty() {
            return Err(ManifestError::new(place, format!("node \"{}\" has no {way}s", end.node)));
        }
        return Ok((0..ports.len()).collect());
    };
    match ports.iter().position(|port| port.name == *name) {
        Some(port) => Ok(vec![port]),
        None => {
            let known = either(ports.iter().map(|port| port.name.as_str()));
            let problem =
                format!("node \"{}\" has no {way} \"{}\"; it has {known}", end.node, printable(name));
            Err(ManifestError::new(place, problem))
        }
    }
}

/// Kahn's algorithm, the earliest in the manifest first, so that the order is the one written where that is possible.
fn topological(manifest: &Manifest, wires: &[Wire]) -> Result<Vec<usize>, ManifestError> {
    let count = manifest.nodes.len();
    let mut missing = vec![0usize; count];
    let mut next = vec![Vec::new(); count];
    for wire in wires {
        missing[wire.to.0] += 1;
        next[wire.from.0].push(wire.to.0);
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..count).filter(|&node| missing[node] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for &after in &next[node] {
            missing[after] -= 1;
            if missing[after] == 0 {
                ready.push(Reverse(after));
            }
        }
    }
    if order.len() == count {
        return Ok(order);
    }
    Err(cycle(manifest, wires, &missing))
}

/// Follows connections backwards among the nodes left over until one comes again: that is the cycle.
fn cycle(manifest: &Manifest, wires: &[Wire], missing: &[usize]) -> ManifestError {
    let before =
        |node: usize| wires.iter().find(|w| w.to.0 == node && missing[w.from.0] > 0).map(|w| w.from.0);
    let mut path: Vec<usize> = Vec::new();
    let mut at = missing.iter().position(|&count| count > 0);
    while let Some(node) = at {
        if let Some(start) = path.iter().position(|&earlier| earlier == node) {
            let mut ids: Vec<&str> =
                path[start..].iter().rev().map(|&node| manifest.nodes[node].id.as_str()).collect();
            ids.extend(ids.first().copied());
            return ManifestError::new("connections", format!("make a cycle: {}", printable_path(&ids)));
        }
        path.push(node);
        at = before(node);
    }
    ManifestError::new("connections", "make a cycle")
}

fn printable_path(ids: &[&str]) -> String {
    const SHOWN: usize = 12;
    let shown = ids.iter().take(SHOWN).copied().collect::<Vec<_>>().join(" -> ");
    if ids.len() > SHOWN { format!("{shown} -> …") } else { shown }
}

/// Looks through nodes that give out what they got, so that video behind a `PassThrough` is still video.
fn check_kinds(
    manifest: &Manifest,
    types: &[NodeType],
    wires: &[Wire],
    order: &[usize],
) -> Result<(), ManifestError> {
    let mut through: Vec<Option<Kind>> = vec![None; types.len()];
    for &node in order {
        for (index, wire) in wires.iter().enumerate().filter(|(_, wire)| wire.to.0 == node) {
            let declared = types[wire.from.0].outputs()[wire.from.1].kind;
            let known = if declared == Kind::Any { through[wire.from.0] } else { Some(declared) };
            let Some(gives) = known else { continue };
            let takes = types[node].inputs()[wire.to.1].kind;
            if !takes.accepts(gives) {
                let (from, to) = (&manifest.nodes[wire.from.0].id, &manifest.nodes[node].id);
                let problem = format!("{from} gives {gives}, {to} takes {takes}");
                return Err(ManifestError::new(format!("connections[{index}]"), problem));
            }
            if takes == Kind::Any && matches!(&types[node], NodeType::Native(spec) if spec.same_kind) {
                // Two kinds into one node: either may come out, so nothing is known behind it.
                through[node] = match through[node] {
                    Some(other) if other != gives => Some(Kind::Any),
                    _ => Some(gives),
                };
            }
        }
    }
    Ok(())
}

fn check_required(manifest: &Manifest, types: &[NodeType], wires: &[Wire]) -> Result<(), ManifestError> {
    for (node, node_type) in types.iter().enumerate() {
        for (port, spec) in node_type.inputs().iter().enumerate() {
            if spec.connected && !wires.iter().any(|wire| wire.to == (node, port)) {
                let problem = format!("input {} ({}) must be connected", spec.name, spec.kind);
                return Err(ManifestError::node(&manifest.nodes[node].id, problem));
            }
        }
    }
    Ok(())
}

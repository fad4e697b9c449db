//! One running graph: the nodes of one peer, run by one worker at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Instant;

use serde_json::Value;

use super::away::Foreign;
use super::foreign::{Answer, Answerer};
use super::queue::{Arrival, Gate};
use super::{Body, Place, Plan, PlanNode};
use crate::data::{Audience, Item};
use crate::error::NodeError;
use crate::exec::panic_message;
use crate::manifest::OnError;
use crate::metrics::{DropReason, Metrics};
use crate::session::OutputHook;
use crate::spec::{Emit, Node, NodeFactory, Params};
use crate::ticket::Output;

/// Deliveries from node to node in one pass. Nodes that fan out and meet again multiply items; this ends it.
const MAX_DELIVERIES: usize = 10_000;

/// What an instance is asked to do.
pub(crate) enum Msg {
    /// Begin what nodes do by themselves.
    Start,
    /// Run an item through the graph.
    Input(Item),
    /// Go on where an item comes in from another instance of the same graph.
    Arrive(Crossing),
    /// Go on behind a foreign node.
    Answer { key: u64, id: u64, answer: Answer },
    /// Look for calls of a foreign node that are overdue.
    Deadline { key: u64 },
    /// A node's own clock.
    Tick { key: u64 },
    /// Change a node while it runs.
    Change { node: Arc<str>, change: Change },
    /// Become another graph; nodes that are in both keep their state.
    Reload { plan: Arc<Plan>, metrics: Arc<Metrics> },
    /// A peer is gone for good.
    SourceGone(Arc<str>),
}

pub(crate) enum Change {
    Params(Params),
    ForeignParam(String, Value),
    Enabled(bool),
    Source { source: Arc<str>, name: String, value: Value },
}

/// An item on its way from one instance of a graph to another: between a peer's nodes and those that are shared, or between those of
/// audio and the others.
pub(crate) struct Crossing {
    /// The one that `node`, `port` and `edge` are of.
    pub plan: Arc<Plan>,
    pub node: usize,
    pub port: usize,
    pub edge: usize,
    pub item: Item,
    pub since: Instant,
}

/// Told of a failure: the node's id and the error.
pub(crate) type OnFailure = Arc<dyn Fn(&str, &NodeError) + Send + Sync>;
/// Brings an item to another instance. It knows which one from the place of the node.
pub(crate) type Cross = Arc<dyn Fn(Crossing) + Send + Sync>;
/// Brings a message to the instance at a time.
pub(crate) type Later = Arc<dyn Fn(Instant, Msg) + Send + Sync>;

/// Where items leave a graph to, besides to whoever waits for what becomes of one.
#[derive(Default)]
pub(crate) struct Outlets {
    /// Takes what no item led to.
    pub rest: Option<OutputHook>,
    pub taps: RwLock<Vec<Tap>>,
}

/// Somebody who gets all that leaves by an output.
pub(crate) struct Tap {
    pub id: u64,
    pub output: Output,
    pub hook: OutputHook,
}

/// What an instance needs from the session it belongs to.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub peer: Option<Arc<str>>,
    /// Shared with the session's other instances.
    pub metrics: Arc<Metrics>,
    pub answerer: Answerer,
    pub on_error: OnFailure,
    pub later: Later,
    pub cross: Cross,
    pub outlets: Arc<Outlets>,
    /// Of the queue before this instance.
    pub gate: Gate,
}

pub(crate) struct Instance {
    pub(super) plan: Arc<Plan>,
    /// Which nodes of it live here; all where `None`.
    pub(super) place: Option<Place>,
    pub(super) id: u64,
    pub(super) around: Surroundings,
    pub(super) slots: Vec<Slot>,
    /// By node: what the current pass has brought to it.
    pub(super) pending: Vec<Vec<Arrival>>,
    pub(super) emit: Emit,
    pub(super) deliveries: usize,
    pub(super) next_key: u64,
}

pub(super) struct Slot {
    /// Names the node within the instance, whatever its graph becomes.
    pub key: u64,
    pub state: State,
    pub enabled: bool,
    pub next_tick: Option<Instant>,
}

pub(super) enum State {
    Native {
        node: Option<Box<dyn Node>>,
        params: Params,
    },
    Foreign(Foreign),
    /// It lives in another instance.
    Elsewhere,
}

static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

impl Instance {
    pub fn new(plan: Arc<Plan>, place: Option<Place>, around: Surroundings) -> Result<Instance, NodeError> {
        let mut slots = Vec::with_capacity(plan.nodes.len());
        for (key, node) in plan.nodes.iter().enumerate() {
            let state = State::new(node, place).map_err(|error| error.at(&node.id))?;
            slots.push(Slot { key: key as u64, state, enabled: node.enabled, next_tick: None });
        }
        let pending = slots.iter().map(|_| Vec::new()).collect();
        let id = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
        let next_key = slots.len() as u64;
        let emit = Emit::default();
        Ok(Instance { plan, place, id, around, slots, pending, emit, deliveries: 0, next_key })
    }

    /// Whether a node of it has a clock of its own, so that it must be told to start.
    pub fn has_clock(&self) -> bool {
        self.slots.iter().any(|slot| slot.state.tick_every().is_some())
    }

    pub fn handle(&mut self, msg: Msg) {
        // A panic outside a node's own call would leave a pass half done; the next one starts clean.
        self.pending.iter_mut().for_each(Vec::clear);
        self.deliveries = 0;
        match msg {
            Msg::Start => self.arm_ticks(),
            Msg::Input(item) => self.input(item),
            Msg::Arrive(crossing) => self.arrive(crossing),
            Msg::Answer { key, id, answer } => {
                if let Some(node) = self.find(key) {
                    self.answered(node, id, answer);
                }
            }
            Msg::Deadline { key } => {
                if let Some(node) = self.find(key) {
                    self.expire(node);
                }
            }
            Msg::Tick { key } => {
                if let Some(node) = self.find(key) {
                    self.tick(node);
                }
            }
            Msg::Change { node, change } => {
                if let Some(node) = self.plan.nodes.iter().position(|known| known.id == node) {
                    self.change(node, change);
                }
            }
            Msg::Reload { plan, metrics } => self.reload(plan, metrics),
            Msg::SourceGone(source) => self.source_gone(&source),
        }
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.slots.iter().position(|slot| slot.key == key)
    }

    fn input(&mut self, item: Item) {
        let plan = self.plan.clone();
        let here = |node: usize| self.place.is_none_or(|place| plan.nodes[node].place == place);
        let takes = plan.inputs.iter().filter(|input| input.kind.accepts(item.kind()));
        for input in takes.filter(|input| here(input.node)) {
            self.pending[input.node].push(Arrival { port: input.port, edge: None, item: item.clone() });
        }
        drop(item);
        self.pass(0);
    }

    /// An item from another instance. The graph may have become another one since it left there.
    fn arrive(&mut self, Crossing { plan, node, port, edge, item, since }: Crossing) {
        let arrival = if Arc::ptr_eq(&plan, &self.plan) {
            self.around.metrics.edges[edge].waited(since.elapsed());
            Some((node, Arrival { port, edge: Some(edge), item }))
        } else {
            let id = &plan.nodes[node].id;
            let found = self.plan.nodes.iter().position(|known| known.id == *id);
            found
                .filter(|node| self.plan.nodes[*node].body.inputs().len() > port)
                .map(|node| (node, Arrival { port, edge: None, item }))
        };
        if let Some((node, arrival)) = arrival {
            self.pending[node].push(arrival);
            self.pass(node);
        }
    }

    /// Runs every node from `first` on that has something pending, in topological order.
    pub(super) fn pass(&mut self, first: usize) {
        for node in first..self.slots.len() {
            if self.pending[node].is_empty() {
                continue;
            }
            let mut items = std::mem::take(&mut self.pending[node]);
            items.sort_by_key(|arrival| arrival.port);
            for arrival in items.drain(..) {
                self.visit(node, arrival);
            }
            // The buffer is kept for the next pass.
            self.pending[node] = items;
        }
    }

    fn visit(&mut self, node: usize, arrival: Arrival) {
        let metrics = &self.around.metrics;
        metrics.nodes[node].items_in.fetch_add(1, Ordering::Relaxed);
        if let Some(edge) = arrival.edge {
            metrics.edges[edge].items.fetch_add(1, Ordering::Relaxed);
        }
        let spec = &self.plan.nodes[node].body.inputs()[arrival.port];
        if !spec.kind.accepts(arrival.item.kind()) {
            let got = arrival.item.kind();
            let error = NodeError::failed(format!("input {} takes {}, got {got}", spec.name, spec.kind));
            return self.failed(node, error, None, arrival.item.ticket);
        }
        if !self.slots[node].enabled {
            return self.bypass(node, arrival.item);
        }
        match self.slots[node].state {
            State::Native { .. } => self.run(node, arrival.port, arrival.item),
            State::Foreign(_) => self.wait(node, arrival),
            State::Elsewhere => {}
        }
    }

    fn run(&mut self, node: usize, port: usize, item: Item) {
        let ticket = item.ticket.clone();
        let kept = (self.plan.nodes[node].on_error == OnError::Bypass).then(|| item.clone());
        self.call(node, kept, ticket, |runner, emit| runner.process(port, item, emit));
    }

    /// Lets a native node work, and passes on what it gives out. What it breaks stays its own.
    fn call(
        &mut self,
        node: usize,
        kept: Option<Item>,
        ticket: Option<crate::Ticket>,
        work: impl FnOnce(&mut Box<dyn Node>, &mut Emit) -> Result<(), NodeError>,
    ) {
        if let Err(error) = self.remake(node) {
            return self.failed(node, error, kept, ticket);
        }
        let mut emit = std::mem::take(&mut self.emit);
        emit.items.clear();
        emit.overflow = false;
        let State::Native { node: Some(runner), .. } = &mut self.slots[node].state else {
            return self.emit = emit;
        };
        let since = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| work(runner, &mut emit)));
        let took = since.elapsed();
        self.around.metrics.nodes[node].took(took);
        let result = match result {
            Ok(Ok(())) => match self.plan.nodes[node].deadline.filter(|most| took > *most) {
                Some(most) => Err(NodeError::deadline(most)),
                None => self.check(node, &emit),
            },
            Ok(Err(error)) => Err(error),
            Err(payload) => {
                let message = panic_message(payload.as_ref());
                // A payload may panic when it is dropped.
                std::mem::forget(payload);
                // Whatever the policy: what a panic left behind is not trusted.
                self.renew(node);
                Err(NodeError::Panicked { node: self.plan.nodes[node].id.to_string(), message })
            }
        };
        match result {
            Ok(()) => {
                for (port, item) in emit.items.drain(..) {
                    self.give(node, port, item);
                }
            }
            Err(error) => {
                emit.items.clear();
                self.failed(node, error, kept, ticket);
            }
        }
        self.emit = emit;
    }

    /// Refuses what a node must not give out.
    pub(super) fn check(&self, node: usize, emit: &Emit) -> Result<(), NodeError> {
        if emit.overflow {
            return Err(NodeError::failed(format!("it gave out more than {} items for one", emit.most())));
        }
        let outputs = self.plan.nodes[node].body.outputs();
        for (port, item) in &emit.items {
            match outputs.get(*port) {
                None => {
                    return Err(NodeError::failed(format!(
                        "it gave out at output {port}, which it doesn't have"
                    )));
                }
                Some(spec) if !spec.kind.accepts(item.kind()) => {
                    let problem = format!(
                        "it gave out {} at output {}, which is {}",
                        item.kind(),
                        spec.name,
                        spec.kind
                    );
                    return Err(NodeError::failed(problem));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// An item that came out of a node: to the nodes behind it, or out of the graph.
    pub(super) fn give(&mut self, node: usize, port: usize, item: Item) {
        self.around.metrics.nodes[node].items_out.fetch_add(1, Ordering::Relaxed);
        let plan = self.plan.clone();
        let targets = &plan.nodes[node].outs[port];
        let Some((last, others)) = targets.split_last() else {
            let (id, port) = (&plan.nodes[node].id, &plan.nodes[node].body.outputs()[port].name);
            return self.around.outlets.give(self.around.peer.as_ref(), id, port, item);
        };
        for target in others {
            self.bring(target, item.clone());
        }
        self.bring(last, item);
    }

    fn bring(&mut self, to: &super::Target, item: Item) {
        if self.deliveries >= MAX_DELIVERIES {
            self.around.metrics.nodes[to.node].drop_item(DropReason::Overrun, 1);
            self.around.metrics.edges[to.edge].drop_item(DropReason::Overrun);
            if self.deliveries == MAX_DELIVERIES {
                self.deliveries += 1;
                let error =
                    NodeError::failed(format!("one item became more than {MAX_DELIVERIES} on its way"));
                self.tell(to.node, error, item.ticket);
            }
            return;
        }
        self.deliveries += 1;
        if matches!(self.slots[to.node].state, State::Elsewhere) {
            let crossing = Crossing {
                plan: self.plan.clone(),
                node: to.node,
                port: to.port,
                edge: to.edge,
                item,
                since: Instant::now(),
            };
            return (self.around.cross)(crossing);
        }
        self.pending[to.node].push(Arrival { port: to.port, edge: Some(to.edge), item });
    }

    pub(super) fn bypass(&mut self, node: usize, item: Item) {
        let plan = self.plan.clone();
        for (port, spec) in plan.nodes[node].body.outputs().iter().enumerate() {
            if spec.kind.accepts(item.kind()) {
                self.give(node, port, item.clone());
            }
        }
    }

    pub(super) fn failed(
        &mut self,
        node: usize,
        error: NodeError,
        kept: Option<Item>,
        ticket: Option<crate::Ticket>,
    ) {
        let metrics = &self.around.metrics.nodes[node];
        metrics.errors.fetch_add(1, Ordering::Relaxed);
        let reason = match error {
            NodeError::Deadline { .. } => DropReason::Deadline,
            _ => DropReason::Error,
        };
        match (self.plan.nodes[node].on_error, kept) {
            (OnError::Bypass, Some(item)) => {
                self.tell(node, error, None);
                self.bypass(node, item);
            }
            (OnError::Fail, _) => {
                metrics.drop_item(reason, 1);
                self.tell(node, error, ticket);
            }
            (policy, _) => {
                metrics.drop_item(reason, 1);
                if policy == OnError::Restart && !matches!(error, NodeError::Panicked { .. }) {
                    self.renew(node);
                }
                self.tell(node, error, None);
            }
        }
    }

    pub(super) fn tell(&self, node: usize, error: NodeError, ticket: Option<crate::Ticket>) {
        let id = &self.plan.nodes[node].id;
        let error = error.at(id);
        tracing::debug!(node = &**id, %error, "a node failed");
        (self.around.on_error)(id, &error);
        if let Some(ticket) = ticket {
            ticket.fail(error);
        }
    }

    /// Fresh state for a node.
    fn renew(&mut self, node: usize) {
        self.around.metrics.nodes[node].restarts.fetch_add(1, Ordering::Relaxed);
        let plan = self.plan.clone();
        match (&mut self.slots[node].state, &plan.nodes[node].body) {
            (State::Native { node: runner, params }, Body::Native { factory, .. }) => {
                drop_guarded(runner.take());
                // Where that fails, the next item tries again and tells why.
                *runner = create(&**factory, params).ok();
            }
            (State::Foreign(_), Body::Foreign { spec, .. }) => {
                spec.host.release(self.id, &plan.nodes[node].id)
            }
            _ => {}
        }
    }

    /// Makes a native node that could not be made before, after a failure or a reload.
    fn remake(&mut self, node: usize) -> Result<(), NodeError> {
        let plan = self.plan.clone();
        if let State::Native { node: runner @ None, params } = &mut self.slots[node].state
            && let Body::Native { factory, .. } = &plan.nodes[node].body
        {
            *runner = Some(create(&**factory, params)?);
        }
        Ok(())
    }

    fn change(&mut self, node: usize, change: Change) {
        let result = match (change, &mut self.slots[node]) {
            (Change::Enabled(enabled), slot) => {
                slot.enabled = enabled;
                Ok(())
            }
            (Change::Params(new), Slot { state: State::Native { node, params }, .. }) => {
                *params = new;
                node.as_mut().map_or(Ok(()), |node| node.set_params(params))
            }
            (Change::ForeignParam(name, value), Slot { state: State::Foreign(foreign), .. }) => {
                foreign.set_param(name, value);
                Ok(())
            }
            (
                Change::Source { source, name, value },
                Slot { state: State::Native { node: Some(node), .. }, .. },
            ) => node.set_source_param(&source, &name, &value),
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.around.metrics.nodes[node].errors.fetch_add(1, Ordering::Relaxed);
            self.tell(node, error, None);
        }
        self.arm_ticks();
    }

    fn source_gone(&mut self, source: &str) {
        for slot in &mut self.slots {
            if let State::Native { node: Some(node), .. } = &mut slot.state {
                let told = catch_unwind(AssertUnwindSafe(|| node.source_gone(source)));
                if let Err(payload) = told {
                    std::mem::forget(payload);
                }
            }
        }
    }

    /// Starts the clocks that don't run yet.
    pub(super) fn arm_ticks(&mut self) {
        for slot in &mut self.slots {
            let Some(period) = slot.state.tick_every().filter(|_| slot.next_tick.is_none()) else { continue };
            let next = Instant::now() + period;
            slot.next_tick = Some(next);
            (self.around.later)(next, Msg::Tick { key: slot.key });
        }
    }

    fn tick(&mut self, node: usize) {
        let now = Instant::now();
        let due = self.slots[node].next_tick.take().unwrap_or(now);
        let Some(period) = self.slots[node].state.tick_every() else { return };
        // On its grid for ever: of what was missed only the last one is run.
        let missed = now.saturating_duration_since(due).as_nanos() / period.as_nanos();
        let due = due + period * u32::try_from(missed).unwrap_or(u32::MAX);
        if self.slots[node].enabled {
            self.emit.is_tick = true;
            self.call(node, None, None, |runner, emit| runner.tick(due, emit));
            self.emit.is_tick = false;
            self.pass(node + 1);
        }
        let slot = &mut self.slots[node];
        if let Some(period) = slot.state.tick_every() {
            let next = (due + period).max(now);
            slot.next_tick = Some(next);
            (self.around.later)(next, Msg::Tick { key: slot.key });
        }
    }
}

impl Outlets {
    fn give(&self, peer: Option<&Arc<str>>, node: &str, port: &str, item: Item) {
        let taps = self.taps.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let hooks: Vec<OutputHook> =
            taps.iter().filter(|tap| tap.output.is(node, port)).map(|tap| tap.hook.clone()).collect();
        drop(taps);
        let whose = match &item.audience {
            Some(Audience::One(one)) => peer.or(Some(one)),
            _ => peer,
        };
        for hook in hooks {
            hook(whose, node, Item { ticket: None, ..item.clone() });
        }
        match (item.ticket.clone(), &self.rest) {
            (Some(ticket), _) => drop(ticket.deliver(node, port, item)),
            (None, Some(rest)) => rest(peer, node, item),
            (None, None) => {}
        }
    }
}

impl State {
    /// Fresh state for a node, if it lives at this place.
    pub(super) fn new(node: &PlanNode, place: Option<Place>) -> Result<State, NodeError> {
        if place.is_some_and(|place| place != node.place) {
            return Ok(State::Elsewhere);
        }
        Ok(match &node.body {
            Body::Native { factory, params, .. } => {
                State::Native { node: Some(create(&**factory, params)?), params: params.clone() }
            }
            Body::Foreign { spec, params } => State::Foreign(Foreign::new(spec, params, &node.edges)),
        })
    }

    fn tick_every(&self) -> Option<std::time::Duration> {
        // A node without a sensible period would keep its worker for itself.
        const SHORTEST: std::time::Duration = std::time::Duration::from_millis(1);
        match self {
            State::Native { node: Some(node), .. } => node.tick_every().map(|period| period.max(SHORTEST)),
            _ => None,
        }
    }
}

/// A node, with a panic of its maker as an error.
pub(super) fn create(factory: &dyn NodeFactory, params: &Params) -> Result<Box<dyn Node>, NodeError> {
    catch_unwind(AssertUnwindSafe(|| factory.create(params))).unwrap_or_else(|payload| {
        let message = panic_message(payload.as_ref());
        std::mem::forget(payload);
        Err(NodeError::failed(format!("it could not be made: {message}")))
    })
}

/// Drops what may panic while it is dropped.
pub(super) fn drop_guarded<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        std::mem::forget(payload);
    }
}

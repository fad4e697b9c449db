//! One running graph: the nodes of one peer, run by one worker at a time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Map, Value};

use super::foreign::{Answer, Answerer, ForeignCall, ForeignReply};
use super::queue::EdgeQueue;
use super::{Body, Plan};
use crate::data::Item;
use crate::error::NodeError;
use crate::exec::panic_message;
use crate::manifest::OnError;
use crate::metrics::{DropReason, NodeMetrics};
use crate::spec::{Emit, MAX_EMITTED, Node, Params};

/// Deliveries from node to node in one pass. Nodes that fan out and meet again multiply items; this ends it.
const MAX_DELIVERIES: usize = 10_000;

/// What an instance is asked to do.
pub(crate) enum Msg {
    /// Run an item through the graph.
    Input(Item),
    /// Go on behind a foreign node.
    Answer { node: usize, id: u64, answer: Answer },
    /// Change a node while it runs.
    Change { node: usize, change: Change },
}

pub(crate) enum Change {
    Params(Params),
    ForeignParam(String, Value),
    Enabled(bool),
}

/// Told of a failure: the node's id and the error.
pub(crate) type OnFailure = Arc<dyn Fn(&str, &NodeError) + Send + Sync>;

/// What an instance needs from the session it belongs to.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub peer: Option<Arc<str>>,
    /// By node; shared with the session's other instances.
    pub metrics: Arc<Vec<NodeMetrics>>,
    pub answerer: Answerer,
    pub on_error: OnFailure,
}

pub(crate) struct Instance {
    plan: Arc<Plan>,
    id: u64,
    around: Surroundings,
    slots: Vec<Slot>,
    /// By node: what the current pass has brought to it.
    pending: Vec<Vec<(usize, Item)>>,
    emit: Emit,
    deliveries: usize,
}

struct Slot {
    state: State,
    enabled: bool,
}

enum State {
    Native { node: Option<Box<dyn Node>>, params: Params },
    Foreign(Foreign),
}

struct Foreign {
    params: Arc<Map<String, Value>>,
    next_id: u64,
    /// Calls in the order they were made; their answers go on in that order.
    calls: VecDeque<Call>,
    /// By input port.
    ports: Vec<ForeignPort>,
}

struct ForeignPort {
    name: Arc<str>,
    in_flight: usize,
    limit: usize,
    waiting: EdgeQueue,
}

struct Call {
    id: u64,
    port: usize,
    item: Item,
    since: Instant,
    answer: Option<Answer>,
}

static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

impl Instance {
    pub fn new(plan: Arc<Plan>, around: Surroundings) -> Result<Instance, NodeError> {
        let mut slots = Vec::with_capacity(plan.nodes.len());
        for node in &plan.nodes {
            let state = match &node.body {
                Body::Native { factory, params, .. } => {
                    let made = factory.create(params).map_err(|error| error.at(&node.id))?;
                    State::Native { node: Some(made), params: params.clone() }
                }
                Body::Foreign { spec, params } => {
                    let ports = spec.inputs.iter().zip(&node.edges);
                    State::Foreign(Foreign {
                        params: params.clone(),
                        next_id: 0,
                        calls: VecDeque::new(),
                        ports: ports
                            .map(|(port, edge)| ForeignPort {
                                name: port.name.as_str().into(),
                                in_flight: 0,
                                limit: edge.in_flight,
                                waiting: EdgeQueue::new(*edge),
                            })
                            .collect(),
                    })
                }
            };
            slots.push(Slot { state, enabled: node.enabled });
        }
        let pending = vec![Vec::new(); slots.len()];
        let id = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
        Ok(Instance { plan, id, around, slots, pending, emit: Emit::default(), deliveries: 0 })
    }

    pub fn handle(&mut self, msg: Msg) {
        // A panic outside a node's own call would leave a pass half done; the next one starts clean.
        self.pending.iter_mut().for_each(Vec::clear);
        self.deliveries = 0;
        match msg {
            Msg::Input(item) => self.input(item),
            Msg::Answer { node, id, answer } => self.answered(node, id, answer),
            Msg::Change { node, change } => self.change(node, change),
        }
    }

    fn input(&mut self, item: Item) {
        let plan = self.plan.clone();
        for input in plan.inputs.iter().filter(|input| input.kind.accepts(item.kind())) {
            self.pending[input.node].push((input.port, item.clone()));
        }
        drop(item);
        self.pass(0);
    }

    /// Runs every node from `first` on that has something pending, in topological order.
    fn pass(&mut self, first: usize) {
        for node in first..self.slots.len() {
            if self.pending[node].is_empty() {
                continue;
            }
            let mut items = std::mem::take(&mut self.pending[node]);
            items.sort_by_key(|(port, _)| *port);
            for (port, item) in items.drain(..) {
                self.visit(node, port, item);
            }
            // The buffer is kept for the next pass.
            self.pending[node] = items;
        }
    }

    fn visit(&mut self, node: usize, port: usize, item: Item) {
        self.around.metrics[node].items_in.fetch_add(1, Ordering::Relaxed);
        let takes = self.plan.nodes[node].body.inputs()[port].kind;
        if !takes.accepts(item.kind()) {
            let name = &self.plan.nodes[node].body.inputs()[port].name;
            let error = NodeError::failed(format!("input {name} takes {takes}, got {}", item.kind()));
            return self.failed(node, error, None, item.ticket);
        }
        if !self.slots[node].enabled {
            return self.bypass(node, item);
        }
        match self.slots[node].state {
            State::Native { .. } => self.run(node, port, item),
            State::Foreign(_) => self.wait(node, port, item),
        }
    }

    fn run(&mut self, node: usize, port: usize, item: Item) {
        let on_error = self.plan.nodes[node].on_error;
        let ticket = item.ticket.clone();
        let kept = (on_error == OnError::Bypass).then(|| item.clone());
        let mut emit = std::mem::take(&mut self.emit);
        emit.items.clear();
        emit.overflow = false;
        let State::Native { node: runner, .. } = &mut self.slots[node].state else { return };
        let Some(runner) = runner else {
            self.emit = emit;
            let error = NodeError::failed("it could not be made anew after a failure");
            return self.failed(node, error, kept, ticket);
        };
        let since = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| runner.process(port, item, &mut emit)));
        self.around.metrics[node].took(since.elapsed());
        let result = match result {
            Ok(result) => result,
            Err(payload) => {
                let message = panic_message(payload.as_ref());
                // Whatever the policy: what a panic left behind is not trusted.
                self.renew(node);
                Err(NodeError::Panicked { node: self.plan.nodes[node].id.to_string(), message })
            }
        };
        match result.and_then(|()| self.check(node, &emit)) {
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
    fn check(&self, node: usize, emit: &Emit) -> Result<(), NodeError> {
        if emit.overflow {
            return Err(NodeError::failed(format!("it gave out more than {MAX_EMITTED} items for one")));
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
    fn give(&mut self, node: usize, port: usize, item: Item) {
        self.around.metrics[node].items_out.fetch_add(1, Ordering::Relaxed);
        let plan = self.plan.clone();
        let targets = &plan.nodes[node].outs[port];
        let Some((last, others)) = targets.split_last() else {
            if let Some(ticket) = item.ticket.clone() {
                ticket.deliver(node, item);
            }
            return;
        };
        for (to, port) in others {
            self.bring(*to, *port, item.clone());
        }
        self.bring(last.0, last.1, item);
    }

    fn bring(&mut self, node: usize, port: usize, item: Item) {
        if self.deliveries >= MAX_DELIVERIES {
            self.around.metrics[node].drop_item(DropReason::Overrun, 1);
            if self.deliveries == MAX_DELIVERIES {
                self.deliveries += 1;
                let error =
                    NodeError::failed(format!("one item became more than {MAX_DELIVERIES} on its way"));
                self.tell(node, error, item.ticket);
            }
            return;
        }
        self.deliveries += 1;
        self.pending[node].push((port, item));
    }

    fn bypass(&mut self, node: usize, item: Item) {
        let plan = self.plan.clone();
        for (port, spec) in plan.nodes[node].body.outputs().iter().enumerate() {
            if spec.kind.accepts(item.kind()) {
                self.give(node, port, item.clone());
            }
        }
    }

    fn failed(&mut self, node: usize, error: NodeError, kept: Option<Item>, ticket: Option<crate::Ticket>) {
        let metrics = &self.around.metrics[node];
        metrics.errors.fetch_add(1, Ordering::Relaxed);
        match (self.plan.nodes[node].on_error, kept) {
            (OnError::Bypass, Some(item)) => {
                self.tell(node, error, None);
                self.bypass(node, item);
            }
            (OnError::Fail, _) => {
                metrics.drop_item(DropReason::Error, 1);
                self.tell(node, error, ticket);
            }
            (policy, _) => {
                metrics.drop_item(DropReason::Error, 1);
                if policy == OnError::Restart && !matches!(error, NodeError::Panicked { .. }) {
                    self.renew(node);
                }
                self.tell(node, error, None);
            }
        }
    }

    fn tell(&self, node: usize, error: NodeError, ticket: Option<crate::Ticket>) {
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
        self.around.metrics[node].restarts.fetch_add(1, Ordering::Relaxed);
        let plan = self.plan.clone();
        match (&mut self.slots[node].state, &plan.nodes[node].body) {
            (State::Native { node: runner, params }, Body::Native { factory, .. }) => {
                // Dropping what panicked may panic again.
                let old = runner.take();
                let dropped = catch_unwind(AssertUnwindSafe(|| drop(old)));
                if let Err(payload) = dropped {
                    std::mem::forget(payload);
                }
                *runner = factory.create(params).ok();
            }
            (State::Foreign(_), Body::Foreign { spec, .. }) => {
                spec.host.release(self.id, &plan.nodes[node].id)
            }
            _ => {}
        }
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
                Arc::make_mut(&mut foreign.params).insert(name, value);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.around.metrics[node].errors.fetch_add(1, Ordering::Relaxed);
            self.tell(node, error, None);
        }
    }

    /// An item before a foreign node: on to its host, or into the queue of its port.
    fn wait(&mut self, node: usize, port: usize, item: Item) {
        let State::Foreign(foreign) = &mut self.slots[node].state else { return };
        let at = &mut foreign.ports[port];
        if at.in_flight < at.limit && at.waiting.len() == 0 {
            return self.submit(node, port, item);
        }
        let reject = self.plan.nodes[node].edges[port].policy == crate::exec::Policy::Reject;
        let (kind, queue) = (item.kind(), format!("the queue before node \"{}\"", self.plan.nodes[node].id));
        let before = at.waiting.len();
        let old = at.waiting.push(item);
        let grown = at.waiting.len() as i64 - before as i64;
        let metrics = &self.around.metrics[node];
        metrics.depth.fetch_add(grown as u64, Ordering::Relaxed);
        metrics.drop_item(DropReason::Queue, old.len() as u64);
        for item in old {
            if let (true, Some(ticket)) = (reject, &item.ticket) {
                ticket.fail(NodeError::Full { queue: queue.clone(), kind });
            }
        }
    }

    fn submit(&mut self, node: usize, port: usize, item: Item) {
        let plan = self.plan.clone();
        let Body::Foreign { spec, .. } = &plan.nodes[node].body else { return };
        let State::Foreign(foreign) = &mut self.slots[node].state else { return };
        let id = foreign.next_id;
        foreign.next_id += 1;
        foreign.ports[port].in_flight += 1;
        self.around.metrics[node].depth.fetch_add(1, Ordering::Relaxed);
        let call = ForeignCall {
            id,
            instance: self.id,
            node_id: plan.nodes[node].id.clone(),
            node_type: spec.node_type.clone(),
            port: foreign.ports[port].name.clone(),
            item: Item { ticket: None, ..item.clone() },
            peer: self.around.peer.clone(),
            params: foreign.params.clone(),
            reply: ForeignReply::new(self.around.answerer.clone(), node, id),
        };
        foreign.calls.push_back(Call { id, port, item, since: Instant::now(), answer: None });
        // A host that panics drops the reply, which answers the call.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| spec.host.submit(call))) {
            tracing::error!(message = panic_message(payload.as_ref()), "a foreign host panicked");
        }
    }

    fn answered(&mut self, node: usize, id: u64, answer: Answer) {
        let State::Foreign(foreign) = &mut self.slots[node].state else { return };
        if let Some(call) = foreign.calls.iter_mut().find(|call| call.id == id) {
            call.answer = Some(answer);
        }
        loop {
            let State::Foreign(foreign) = &mut self.slots[node].state else { return };
            if foreign.calls.front().is_none_or(|call| call.answer.is_none()) {
                return;
            }
            let Some(Call { port, item, since, answer: Some(answer), .. }) = foreign.calls.pop_front() else {
                return;
            };
            let at = &mut foreign.ports[port];
            at.in_flight -= 1;
            let next = at.waiting.pop();
            let metrics = &self.around.metrics[node];
            metrics.depth.fetch_sub(1 + u64::from(next.is_some()), Ordering::Relaxed);
            metrics.took(since.elapsed());
            // The host gets its next item first, and is at work while this one goes on.
            if let Some(next) = next {
                self.submit(node, port, next);
            }
            self.deliveries = 0;
            self.go_on(node, item, answer);
        }
    }

    /// Continues a pass behind a foreign node with its answer.
    fn go_on(&mut self, node: usize, item: Item, answer: Answer) {
        let mut emit = std::mem::take(&mut self.emit);
        emit.items.clear();
        emit.overflow = false;
        let plan = self.plan.clone();
        let outputs = plan.nodes[node].body.outputs();
        let result = answer.map_err(NodeError::failed).and_then(|given| {
            for output in given {
                let Some(port) = outputs.iter().position(|port| port.name == output.port) else {
                    let name = crate::error::printable(&output.port);
                    return Err(NodeError::failed(format!(
                        "it gave out at output \"{name}\", which it doesn't have"
                    )));
                };
                output.data.check().map_err(|error| NodeError::failed(error.to_string()))?;
                let mut item = item.derive(output.data);
                item.timestamp_us = output.timestamp_us.unwrap_or(item.timestamp_us);
                emit.push(port, item);
            }
            self.check(node, &emit)
        });
        match result {
            Ok(()) => emit.items.drain(..).for_each(|(port, item)| self.give(node, port, item)),
            Err(error) => {
                emit.items.clear();
                let ticket = item.ticket.clone();
                let kept = (plan.nodes[node].on_error == OnError::Bypass).then_some(item);
                self.failed(node, error, kept, ticket);
            }
        }
        self.emit = emit;
        self.pass(node + 1);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for (index, slot) in self.slots.iter().enumerate() {
            let State::Foreign(foreign) = &slot.state else { continue };
            let waiting: usize = foreign.ports.iter().map(|port| port.waiting.len()).sum();
            let left = (foreign.calls.len() + waiting) as u64;
            let metrics = &self.around.metrics[index];
            metrics.depth.fetch_sub(left, Ordering::Relaxed);
            metrics.drop_item(DropReason::Closed, left);
            if let Body::Foreign { spec, .. } = &self.plan.nodes[index].body {
                spec.host.release(self.id, &self.plan.nodes[index].id);
            }
        }
    }
}

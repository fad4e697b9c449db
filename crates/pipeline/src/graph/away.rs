//! Items before and at a node that lives elsewhere: handed over, waited for, given up.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Map, Value};

use super::Body;
use super::foreign::{Answer, ForeignCall, ForeignReply};
use super::instance::{Instance, Msg, State};
use super::queue::{Arrival, Edge, EdgeQueue, Waiting};
use crate::data::Item;
use crate::error::NodeError;
use crate::exec::panic_message;
use crate::manifest::{OnError, QueuePolicy};
use crate::metrics::DropReason;
use crate::spec::ForeignSpec;

/// The state of a foreign node in one instance.
pub(super) struct Foreign {
    params: Arc<Map<String, Value>>,
    next_id: u64,
    /// Calls in the order they were made; their answers go on in that order.
    calls: VecDeque<Call>,
    /// Calls that were given up and that the host still has, and their ports: they keep their places there.
    late: Vec<(u64, usize)>,
    /// By input port.
    ports: Vec<Port>,
    /// Whether a look for overdue calls is in line.
    alarmed: bool,
}

struct Port {
    name: Arc<str>,
    in_flight: usize,
    limit: usize,
    waiting: EdgeQueue,
}

struct Call {
    id: u64,
    number: u64,
    port: usize,
    item: Item,
    /// When the item reached the node.
    since: Instant,
    state: CallState,
}

enum CallState {
    Out,
    Answered(Answer),
    Overdue,
}

static NEXT_CALL: AtomicU64 = AtomicU64::new(1);

impl Foreign {
    pub fn new(spec: &ForeignSpec, params: &Arc<Map<String, Value>>, edges: &[Edge]) -> Foreign {
        let ports = spec.inputs.iter().zip(edges).map(|(port, edge)| Port {
            name: port.name.as_str().into(),
            in_flight: 0,
            limit: edge.in_flight,
            waiting: EdgeQueue::new(*edge),
        });
        Foreign {
            params: params.clone(),
            next_id: 0,
            calls: VecDeque::new(),
            late: Vec::new(),
            ports: ports.collect(),
            alarmed: false,
        }
    }

    pub fn set_param(&mut self, name: String, value: Value) {
        Arc::make_mut(&mut self.params).insert(name, value);
    }

    /// The same node in another graph. `edges` says what became of the connections.
    pub fn carry_over(
        &mut self,
        params: &Arc<Map<String, Value>>,
        bounds: &[Edge],
        edges: impl Fn(usize) -> Option<usize>,
    ) {
        self.params = params.clone();
        for (port, edge) in self.ports.iter_mut().zip(bounds) {
            port.limit = edge.in_flight;
            port.waiting.set_edge(*edge);
            port.waiting.each(|waiting| waiting.edge = waiting.edge.and_then(&edges));
        }
    }

    /// Items waiting before it or away at its host.
    pub fn depth(&self) -> usize {
        let waiting: usize = self.ports.iter().map(|port| port.waiting.len()).sum();
        self.calls.len() + self.late.len() + waiting
    }

    /// By connection: the items that wait.
    pub fn waiting(&self) -> impl Iterator<Item = usize> {
        self.ports.iter().flat_map(|port| port.waiting.edges())
    }

    pub fn blocks(&self) -> bool {
        self.ports.iter().any(|port| port.waiting.blocks())
    }

    /// Whether all that the host has of this port was given up: it makes no sense to wait behind that.
    fn hangs(&self, port: usize) -> bool {
        let late = self.late.iter().filter(|(_, at)| *at == port).count();
        late > 0 && late >= self.ports[port].limit
    }

    /// Since when the oldest item that has no answer is here.
    fn oldest(&self) -> Option<Instant> {
        let calls = self.calls.iter().filter(|call| matches!(call.state, CallState::Out));
        calls.map(|call| call.since).chain(self.ports.iter().filter_map(|port| port.waiting.since())).min()
    }
}

impl Instance {
    /// An item before a foreign node: on to its host, or into the queue of its port.
    pub(super) fn wait(&mut self, node: usize, arrival: Arrival) {
        let Arrival { port, edge, item } = arrival;
        let new = Waiting { edge, item, since: Instant::now() };
        let State::Foreign(foreign) = &mut self.slots[node].state else { return };
        if foreign.hangs(port) {
            return self.pass_over(node, new.item);
        }
        let at = &mut foreign.ports[port];
        if at.in_flight < at.limit && at.waiting.len() == 0 {
            self.submit(node, port, new);
            return self.arm_deadline(node);
        }
        let policy = self.plan.nodes[node].edges[port].policy;
        let kind = new.item.kind();
        let metrics = &self.around.metrics;
        metrics.nodes[node].depth.fetch_add(1, Ordering::Relaxed);
        if let Some(edge) = edge {
            metrics.edges[edge].depth.fetch_add(1, Ordering::Relaxed);
        }
        for old in at.waiting.push(new) {
            metrics.nodes[node].depth.fetch_sub(1, Ordering::Relaxed);
            metrics.nodes[node].drop_item(DropReason::Queue, 1);
            if let Some(edge) = old.edge {
                metrics.edges[edge].depth.fetch_sub(1, Ordering::Relaxed);
                metrics.edges[edge].drop_item(DropReason::Queue);
            }
            if let (QueuePolicy::Reject, Some(ticket)) = (policy, &old.item.ticket) {
                let queue = format!("the queue before node \"{}\"", self.plan.nodes[node].id);
                ticket.fail(NodeError::Full { queue, kind });
            }
        }
        self.set_gate();
        self.arm_deadline(node);
    }

    fn submit(&mut self, node: usize, port: usize, waiting: Waiting) {
        let plan = self.plan.clone();
        let Body::Foreign { spec, .. } = &plan.nodes[node].body else { return };
        let slot = &mut self.slots[node];
        let State::Foreign(foreign) = &mut slot.state else { return };
        let Waiting { edge, item, since } = waiting;
        if let Some(edge) = edge {
            self.around.metrics.edges[edge].waited(since.elapsed());
        }
        let id = foreign.next_id;
        foreign.next_id += 1;
        foreign.ports[port].in_flight += 1;
        self.around.metrics.nodes[node].depth.fetch_add(1, Ordering::Relaxed);
        let number = NEXT_CALL.fetch_add(1, Ordering::Relaxed);
        let call = ForeignCall {
            id,
            number,
            instance: self.id,
            node_id: plan.nodes[node].id.clone(),
            node_type: spec.node_type.clone(),
            port: foreign.ports[port].name.clone(),
            peer: self.around.peer.clone().or_else(|| item.source.clone()),
            item: Item { ticket: None, ..item.clone() },
            params: foreign.params.clone(),
            reply: ForeignReply::new(self.around.answerer.clone(), slot.key, id),
        };
        foreign.calls.push_back(Call { id, number, port, item, since, state: CallState::Out });
        // A host that panics drops the reply, which answers the call.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| spec.host.submit(call))) {
            tracing::error!(message = panic_message(payload.as_ref()), "a foreign host panicked");
            std::mem::forget(payload);
        }
    }

    pub(super) fn answered(&mut self, node: usize, id: u64, answer: Answer) {
        let State::Foreign(foreign) = &mut self.slots[node].state else { return };
        if let Some(at) = foreign.late.iter().position(|(late, _)| *late == id) {
            let (_, port) = foreign.late.swap_remove(at);
            self.around.metrics.nodes[node].depth.fetch_sub(1, Ordering::Relaxed);
            return self.make_room(node, port);
        }
        if let Some(call) = foreign.calls.iter_mut().find(|call| call.id == id)
            && matches!(call.state, CallState::Out)
        {
            call.state = CallState::Answered(answer);
        }
        self.advance(node);
    }

    /// Gives up what has waited for its answer too long.
    pub(super) fn expire(&mut self, node: usize) {
        let plan = self.plan.clone();
        let Some(deadline) = plan.nodes[node].deadline else { return };
        let Body::Foreign { spec, .. } = &plan.nodes[node].body else { return };
        let State::Foreign(foreign) = &mut self.slots[node].state else { return };
        foreign.alarmed = false;
        let Some(before) = Instant::now().checked_sub(deadline) else { return self.arm_deadline(node) };
        let mut cancelled = Vec::new();
        for call in &mut foreign.calls {
            if matches!(call.state, CallState::Out) && call.since <= before {
                call.state = CallState::Overdue;
                foreign.late.push((call.id, call.port));
                cancelled.push(call.number);
            }
        }
        let mut expired = Vec::new();
        for port in 0..foreign.ports.len() {
            let hangs = foreign.hangs(port);
            let queue = &mut foreign.ports[port].waiting;
            expired.extend(queue.expire(if hangs { Instant::now() } else { before }));
        }
        for number in cancelled {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| spec.host.cancel(number))) {
                std::mem::forget(payload);
            }
        }
        self.advance(node);
        for waiting in expired {
            let metrics = &self.around.metrics;
            metrics.nodes[node].depth.fetch_sub(1, Ordering::Relaxed);
            if let Some(edge) = waiting.edge {
                metrics.edges[edge].depth.fetch_sub(1, Ordering::Relaxed);
                metrics.edges[edge].drop_item(DropReason::Deadline);
            }
            self.deliveries = 0;
            self.pass_over(node, waiting.item);
            self.pass(node + 1);
        }
        self.set_gate();
        self.arm_deadline(node);
    }

    /// An item that a host which hangs can't take: as its policy says, but without another error, which was told of the
    /// call that hangs.
    fn pass_over(&mut self, node: usize, item: Item) {
        if self.plan.nodes[node].on_error == OnError::Bypass {
            return self.bypass(node, item);
        }
        self.around.metrics.nodes[node].drop_item(DropReason::Deadline, 1);
        if let (OnError::Fail, Some(ticket), Some(deadline)) =
            (self.plan.nodes[node].on_error, &item.ticket, self.plan.nodes[node].deadline)
        {
            ticket.fail(NodeError::deadline(deadline).at(&self.plan.nodes[node].id));
        }
    }

    /// Goes on with the calls that have come to an end, as far as none before them is still out.
    fn advance(&mut self, node: usize) {
        loop {
            let State::Foreign(foreign) = &mut self.slots[node].state else { return };
            if foreign.calls.front().is_none_or(|call| matches!(call.state, CallState::Out)) {
                return;
            }
            let Some(call) = foreign.calls.pop_front() else { return };
            let answer = match call.state {
                CallState::Out => return,
                CallState::Answered(answer) => {
                    let metrics = &self.around.metrics.nodes[node];
                    metrics.depth.fetch_sub(1, Ordering::Relaxed);
                    metrics.took(call.since.elapsed());
                    // The host gets its next item first, and is at work while this one goes on.
                    self.make_room(node, call.port);
                    answer.map_err(NodeError::failed)
                }
                CallState::Overdue => {
                    let deadline = self.plan.nodes[node].deadline.unwrap_or_default();
                    self.around.metrics.nodes[node].took(call.since.elapsed());
                    Err(NodeError::deadline(deadline))
                }
            };
            self.deliveries = 0;
            self.go_on(node, call.item, answer);
        }
    }

    /// The host has done with an item of this port: it gets the next.
    fn make_room(&mut self, node: usize, port: usize) {
        let State::Foreign(foreign) = &mut self.slots[node].state else { return };
        let at = &mut foreign.ports[port];
        at.in_flight -= 1;
        // A reload may have made the limit smaller than what is out.
        if at.in_flight < at.limit
            && let Some(next) = at.waiting.pop()
        {
            self.around.metrics.nodes[node].depth.fetch_sub(1, Ordering::Relaxed);
            if let Some(edge) = next.edge {
                self.around.metrics.edges[edge].depth.fetch_sub(1, Ordering::Relaxed);
            }
            self.submit(node, port, next);
            self.arm_deadline(node);
        }
        self.set_gate();
    }

    /// Continues a pass behind a foreign node with its answer.
    fn go_on(&mut self, node: usize, item: Item, answer: Result<Vec<super::ForeignOutput>, NodeError>) {
        let mut emit = std::mem::take(&mut self.emit);
        emit.items.clear();
        emit.overflow = false;
        let plan = self.plan.clone();
        let outputs = plan.nodes[node].body.outputs();
        let result = answer.and_then(|given| {
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

    /// Has the oldest item looked at when its time is up. One look is in line at most: later items are due later.
    pub(super) fn arm_deadline(&mut self, node: usize) {
        let Some(deadline) = self.plan.nodes[node].deadline else { return };
        let slot = &mut self.slots[node];
        let State::Foreign(foreign) = &mut slot.state else { return };
        if let (false, Some(oldest)) = (foreign.alarmed, foreign.oldest()) {
            foreign.alarmed = true;
            (self.around.later)(oldest + deadline, Msg::Deadline { key: slot.key });
        }
    }

    /// Closes the entrance while a queue that blocks is full.
    pub(super) fn set_gate(&self) {
        let blocked = self.slots.iter().any(|slot| match &slot.state {
            State::Foreign(foreign) => foreign.blocks(),
            State::Native { .. } | State::Elsewhere => false,
        });
        self.around.gate.set(blocked);
    }

    /// A node leaves the graph with what waits for it: whoever waits for that is told that there is no result.
    pub(super) fn leave(&self, node: usize) {
        let State::Foreign(foreign) = &self.slots[node].state else { return };
        let left = foreign.depth() as u64;
        let metrics = &self.around.metrics;
        metrics.nodes[node].depth.fetch_sub(left, Ordering::Relaxed);
        metrics.nodes[node].drop_item(DropReason::Closed, left - foreign.late.len() as u64);
        for edge in foreign.waiting() {
            metrics.edges[edge].depth.fetch_sub(1, Ordering::Relaxed);
            metrics.edges[edge].drop_item(DropReason::Closed);
        }
        if let Body::Foreign { spec, .. } = &self.plan.nodes[node].body {
            spec.host.release(self.id, &self.plan.nodes[node].id);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for node in 0..self.slots.len() {
            self.leave(node);
        }
    }
}

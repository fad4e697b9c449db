//! The two places where items wait: before an instance, and before a node that lives elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::Msg;
use crate::data::{Item, Kind};
use crate::exec::{MailQueue, Push};
use crate::manifest::{QueueDef, QueuePolicy};

/// Audio that waits, at most.
const AUDIO_US: i64 = 100_000;
/// Parameter changes that wait, at most. Answers are bounded by the calls they answer.
const MAX_CONTROL: usize = 1024;

/// Data that waits for one input on its way from one instance to another, at most.
const MAX_CROSSING: usize = 1024;

/// The bounds of an input that connections lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    /// Items handed to the node's host and not answered yet.
    pub in_flight: usize,
    /// Items waiting behind those.
    pub waiting: usize,
    /// How much audio may wait, where time bounds it.
    pub waiting_us: Option<i64>,
    pub policy: QueuePolicy,
}

/// An item at an input.
pub(super) struct Arrival {
    pub port: usize,
    /// The connection it came by; `None` from outside.
    pub edge: Option<usize>,
    pub item: Item,
}

/// An item that waits, and since when.
pub(super) struct Waiting {
    pub edge: Option<usize>,
    pub item: Item,
    pub since: Instant,
}

/// Items of one kind under one [`Edge`].
pub(super) struct EdgeQueue {
    edge: Edge,
    items: VecDeque<Waiting>,
}

/// What waits before an instance: each kind under its own default, in the order of arrival all together.
pub(crate) struct Ingress {
    queue: VecDeque<Msg>,
    gate: Gate,
}

/// Items that are bounded together.
#[derive(PartialEq, Eq)]
struct Line {
    kind: Kind,
    source: Option<Arc<str>>,
    /// The input, where it is one behind a connection.
    input: Option<(usize, usize)>,
}

/// Closed while a queue with [`QueuePolicy::Block`] is full: items from outside wait, answers and changes don't.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Edge {
    pub fn new(kind: Kind, asked: Option<QueueDef>) -> Edge {
        let usual = match kind {
            Kind::Audio | Kind::AudioMix => Edge {
                in_flight: 4,
                waiting: 32,
                waiting_us: Some(AUDIO_US),
                policy: QueuePolicy::DropOldest,
            },
            Kind::Video | Kind::Mask => {
                Edge { in_flight: 1, waiting: 1, waiting_us: None, policy: QueuePolicy::Latest }
            }
            Kind::Text | Kind::Json | Kind::Binary => {
                Edge { in_flight: 16, waiting: 64, waiting_us: None, policy: QueuePolicy::Block }
            }
            // Video may come: many of its frames must not pile up.
            Kind::Any => Edge { in_flight: 4, waiting: 4, waiting_us: None, policy: QueuePolicy::DropOldest },
        };
        let Some(QueueDef { max, policy }) = asked else { return usual };
        let policy = policy.unwrap_or(usual.policy);
        let Some(max) = max else { return Edge { policy, ..usual } };
        let waiting = if policy == QueuePolicy::Latest { 1 } else { max };
        Edge { in_flight: max, waiting, waiting_us: None, policy }
    }
}

impl EdgeQueue {
    pub fn new(edge: Edge) -> EdgeQueue {
        EdgeQueue { edge, items: VecDeque::new() }
    }

    /// Takes an item in; what has no room comes back, oldest first.
    pub fn push(&mut self, new: Waiting) -> Vec<Waiting> {
        match self.edge.policy {
            QueuePolicy::Reject | QueuePolicy::DropNewest if self.items.len() >= self.edge.waiting => {
                return vec![new];
            }
            QueuePolicy::Latest => {
                let old: Vec<Waiting> = self.items.drain(..).collect();
                self.items.push_back(new);
                return self.marked(old);
            }
            // What is on its way inside the instance when the gate closes still comes; a pass is bounded.
            QueuePolicy::Block => {
                self.items.push_back(new);
                return Vec::new();
            }
            _ => self.items.push_back(new),
        }
        let mut out = Vec::new();
        let mut waiting_us: i64 = self.items.iter().map(|waiting| waiting.item.duration_us()).sum();
        while self.items.len() > 1
            && (self.items.len() > self.edge.waiting
                || self.edge.waiting_us.is_some_and(|most| waiting_us > most))
            && let Some(old) = self.items.pop_front()
        {
            waiting_us -= old.item.duration_us();
            out.push(old);
        }
        self.marked(out)
    }

    pub fn pop(&mut self) -> Option<Waiting> {
        self.items.pop_front()
    }

    /// Takes out what has waited since before `before`.
    pub fn expire(&mut self, before: Instant) -> Vec<Waiting> {
        let mut old = Vec::new();
        while self.items.front().is_some_and(|first| first.since <= before) {
            old.extend(self.items.pop_front());
        }
        self.marked(old)
    }

    /// Since when the first has waited.
    pub fn since(&self) -> Option<Instant> {
        self.items.front().map(|first| first.since)
    }

    /// Whether the instance must not take more in.
    pub fn blocks(&self) -> bool {
        self.edge.policy == QueuePolicy::Block && self.items.len() >= self.edge.waiting
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn each(&mut self, change: impl FnMut(&mut Waiting)) {
        self.items.iter_mut().for_each(change);
    }

    /// The connections that its items came by.
    pub fn edges(&self) -> impl Iterator<Item = usize> {
        self.items.iter().filter_map(|waiting| waiting.edge)
    }

    /// Other bounds from now on; the policy sees to what is too many with the next item.
    pub fn set_edge(&mut self, edge: Edge) {
        self.edge = edge;
    }

    fn marked(&mut self, out: Vec<Waiting>) -> Vec<Waiting> {
        if let (false, Some(first)) = (out.is_empty(), self.items.front_mut()) {
            first.item.discontinuity = true;
        }
        out
    }
}

impl Line {
    fn of(msg: &Msg) -> Option<Line> {
        let item = msg.item()?;
        let input = match msg {
            Msg::Arrive(crossing) => Some((crossing.node, crossing.port)),
            _ => None,
        };
        Some(Line { kind: item.kind(), source: item.source.clone(), input })
    }
}

impl Msg {
    /// What it brings from outside or from another instance.
    fn item(&self) -> Option<&Item> {
        match self {
            Msg::Input(item) => Some(item),
            Msg::Arrive(crossing) => Some(&crossing.item),
            _ => None,
        }
    }

    fn item_mut(&mut self) -> Option<&mut Item> {
        match self {
            Msg::Input(item) => Some(item),
            Msg::Arrive(crossing) => Some(&mut crossing.item),
            _ => None,
        }
    }
}

impl Gate {
    pub fn set(&self, closed: bool) {
        self.0.store(closed, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Ingress {
    pub fn new(gate: Gate) -> Ingress {
        Ingress { queue: VecDeque::new(), gate }
    }

    /// Those that wait in the same line, in order: of one peer, one kind, and for one input where they come from another instance.
    fn line(&self, line: &Line) -> impl Iterator<Item = (usize, &Item)> {
        self.queue.iter().enumerate().filter_map(move |(at, msg)| {
            let item = msg.item()?;
            (Line::of(msg).as_ref() == Some(line)).then_some((at, item))
        })
    }

    fn control(&mut self, msg: Msg) -> Push<Msg> {
        match &msg {
            Msg::Change { .. } => {
                let waiting = self.queue.iter().filter(|msg| matches!(msg, Msg::Change { .. })).count();
                if waiting >= MAX_CONTROL {
                    return Push::Refused(msg);
                }
            }
            // Only the last one matters.
            Msg::Reload { .. } => {
                if let Some(at) = self.queue.iter().position(|msg| matches!(msg, Msg::Reload { .. })) {
                    let old = self.queue.remove(at);
                    self.queue.push_back(msg);
                    return Push::Dropped(old.into_iter().collect());
                }
            }
            _ => {}
        }
        self.queue.push_back(msg);
        Push::Pushed
    }

    fn take_oldest(&mut self, line: &Line) -> Option<Msg> {
        let at = self.line(line).next().map(|(at, _)| at)?;
        self.queue.remove(at)
    }
}

impl MailQueue<Msg> for Ingress {
    fn push(&mut self, msg: Msg) -> Push<Msg> {
        let (Some(line), Some(item)) = (Line::of(&msg), msg.item()) else {
            return self.control(msg);
        };
        let edge = match &msg {
            Msg::Arrive(crossing) => crossing.plan.nodes[crossing.node].edges[crossing.port],
            _ => Edge::new(item.kind(), None),
        };
        let most = match (&msg, edge.policy) {
            // Nobody can be made to wait between two instances; but this many must not be usual.
            (Msg::Arrive(_), QueuePolicy::Block) => edge.waiting.max(MAX_CROSSING),
            _ => edge.waiting,
        };
        let mut count = self.line(&line).count();
        let refuses =
            matches!(edge.policy, QueuePolicy::Block | QueuePolicy::Reject | QueuePolicy::DropNewest);
        if refuses && count >= most {
            return Push::Refused(msg);
        }
        let mut waiting_us: i64 =
            self.line(&line).map(|(_, item)| item.duration_us()).sum::<i64>() + item.duration_us();
        let mut old = Vec::new();
        while count > 0
            && (count >= most || edge.waiting_us.is_some_and(|most| waiting_us > most))
            && let Some(msg) = self.take_oldest(&line)
        {
            waiting_us -= msg.item().map_or(0, Item::duration_us);
            count -= 1;
            old.push(msg);
        }
        self.queue.push_back(msg);
        if old.is_empty() {
            return Push::Pushed;
        }
        // The gap is before the oldest that is left.
        let first = self.line(&line).next().map(|(at, _)| at);
        if let Some(item) = first.and_then(|at| self.queue.get_mut(at)).and_then(Msg::item_mut) {
            item.discontinuity = true;
        }
        Push::Dropped(old)
    }

    fn pop(&mut self) -> Option<Msg> {
        if !self.gate.is_closed() {
            return self.queue.pop_front();
        }
        let at = self.queue.iter().position(|msg| msg.item().is_none())?;
        self.queue.remove(at)
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

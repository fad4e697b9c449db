//! The two places where items wait: before an instance, and before a node that lives elsewhere.

use std::collections::VecDeque;

use super::Msg;
use crate::data::{Item, Kind};
use crate::exec::{MailQueue, Policy, Push};
use crate::manifest::QueueDef;

/// Audio that waits, at most.
const AUDIO_US: i64 = 100_000;
/// Parameter changes that wait, at most. Answers are bounded by the calls they answer.
const MAX_CONTROL: usize = 1024;

/// The bounds of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    /// Items handed to the node's host and not answered yet.
    pub in_flight: usize,
    /// Items waiting behind those.
    pub waiting: usize,
    /// How much audio may wait, where time bounds it.
    pub waiting_us: Option<i64>,
    pub policy: Policy,
}

/// Items of one kind under one [`Edge`].
pub(super) struct EdgeQueue {
    edge: Edge,
    items: VecDeque<Item>,
}

/// What waits before an instance: each kind under its own default, in the order of arrival all together.
pub(crate) struct Ingress {
    queue: VecDeque<Msg>,
}

impl Edge {
    pub fn new(kind: Kind, asked: Option<QueueDef>) -> Edge {
        let usual = match kind {
            Kind::Audio | Kind::AudioMix => {
                Edge { in_flight: 4, waiting: 32, waiting_us: Some(AUDIO_US), policy: Policy::DropOldest }
            }
            Kind::Video | Kind::Mask => {
                Edge { in_flight: 1, waiting: 1, waiting_us: None, policy: Policy::Latest }
            }
            Kind::Text | Kind::Json | Kind::Binary => {
                Edge { in_flight: 16, waiting: 64, waiting_us: None, policy: Policy::Reject }
            }
            // Video may come: many of its frames must not pile up.
            Kind::Any => Edge { in_flight: 4, waiting: 4, waiting_us: None, policy: Policy::DropOldest },
        };
        let Some(QueueDef { max, policy }) = asked else { return usual };
        let policy = policy.unwrap_or(usual.policy);
        let Some(max) = max else { return Edge { policy, ..usual } };
        let waiting = if policy == Policy::Latest { 1 } else { max };
        Edge { in_flight: max, waiting, waiting_us: None, policy }
    }
}

impl EdgeQueue {
    pub fn new(edge: Edge) -> EdgeQueue {
        EdgeQueue { edge, items: VecDeque::new() }
    }

    /// Takes an item in; what has no room comes back, oldest first.
    pub fn push(&mut self, item: Item) -> Vec<Item> {
        match self.edge.policy {
            Policy::Reject if self.items.len() >= self.edge.waiting => return vec![item],
            Policy::Latest => {
                let old: Vec<Item> = self.items.drain(..).collect();
                self.items.push_back(marked(item, !old.is_empty()));
                return old;
            }
            Policy::Reject | Policy::DropOldest => self.items.push_back(item),
        }
        let mut out = Vec::new();
        let mut waiting_us: i64 = self.items.iter().map(Item::duration_us).sum();
        while self.items.len() > 1
            && (self.items.len() > self.edge.waiting
                || self.edge.waiting_us.is_some_and(|most| waiting_us > most))
            && let Some(old) = self.items.pop_front()
        {
            waiting_us -= old.duration_us();
            out.push(old);
        }
        if let (false, Some(first)) = (out.is_empty(), self.items.front_mut()) {
            first.discontinuity = true;
        }
        out
    }

    pub fn pop(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }
}

impl Ingress {
    pub fn new() -> Ingress {
        Ingress { queue: VecDeque::new() }
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (usize, &Item)> {
        self.queue.iter().enumerate().filter_map(move |(at, msg)| match msg {
            Msg::Input(item) if item.kind() == kind => Some((at, item)),
            _ => None,
        })
    }

    fn take_oldest(&mut self, kind: Kind) -> Option<Msg> {
        let at = self.of_kind(kind).next().map(|(at, _)| at)?;
        self.queue.remove(at)
    }
}

impl MailQueue<Msg> for Ingress {
    fn push(&mut self, msg: Msg) -> Push<Msg> {
        let Msg::Input(item) = msg else {
            let control = self.queue.iter().filter(|msg| matches!(msg, Msg::Change { .. })).count();
            if control >= MAX_CONTROL && matches!(msg, Msg::Change { .. }) {
                return Push::Refused(msg);
            }
            self.queue.push_back(msg);
            return Push::Pushed;
        };
        let kind = item.kind();
        let edge = Edge::new(kind, None);
        let mut count = self.of_kind(kind).count();
        if edge.policy == Policy::Reject && count >= edge.waiting {
            return Push::Refused(Msg::Input(item));
        }
        let mut waiting_us: i64 =
            self.of_kind(kind).map(|(_, item)| item.duration_us()).sum::<i64>() + item.duration_us();
        let mut old = Vec::new();
        while count > 0
            && (count >= edge.waiting || edge.waiting_us.is_some_and(|most| waiting_us > most))
            && let Some(msg) = self.take_oldest(kind)
        {
            if let Msg::Input(item) = &msg {
                waiting_us -= item.duration_us();
            }
            count -= 1;
            old.push(msg);
        }
        self.queue.push_back(Msg::Input(item));
        if old.is_empty() {
            return Push::Pushed;
        }
        // The gap is before the oldest that is left.
        let first = self.of_kind(kind).next().map(|(at, _)| at);
        if let Some(Msg::Input(item)) = first.and_then(|at| self.queue.get_mut(at)) {
            item.discontinuity = true;
        }
        Push::Dropped(old)
    }

    fn pop(&mut self) -> Option<Msg> {
        self.queue.pop_front()
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

fn marked(mut item: Item, discontinuity: bool) -> Item {
    item.discontinuity |= discontinuity;
    item
}

//! Loss, and how much of it is our own doing.

use super::PacketResult;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A judgement covers at least this much.
const SPAN: Duration = Duration::from_millis(250);
const PACKETS: u32 = 20;
/// Judgements that are remembered: what the path loses anyway is the quiet part of them.
const MEMORY: usize = 40;
/// Loss above the path's own that is not taken for chance.
const MARGIN: f64 = 0.08;

#[derive(Debug, Default)]
pub(super) struct Loss {
    began: Option<Instant>,
    lost: u32,
    packets: u32,
    history: VecDeque<f64>,
    recent: f64,
}

impl Loss {
    /// Share of packets lost, smoothed.
    pub fn recent(&self) -> f64 {
        self.recent
    }

    /// The loss beyond the path's own, if there is such.
    pub fn add(&mut self, now: Instant, results: &[PacketResult]) -> Option<f64> {
        let began = *self.began.get_or_insert(now);
        self.packets += results.len() as u32;
        self.lost += results.iter().filter(|r| r.arrived.is_none()).count() as u32;
        if self.packets < PACKETS || now.saturating_duration_since(began) < SPAN {
            return None;
        }
        let share = f64::from(self.lost) / f64::from(self.packets);
        (self.began, self.lost, self.packets) = (Some(now), 0, 0);
        self.recent += 0.3 * (share - self.recent);
        let own = self.paths_own();
        if self.history.len() == MEMORY {
            self.history.pop_front();
        }
        self.history.push_back(share);
        let excess = self.recent.min(share) - own;
        (excess > MARGIN).then_some(excess)
    }

    /// What is lost whatever is sent: the median of what is remembered, but never so much that a path that is full could pass
    /// for one that is bad.
    pub fn paths_own(&self) -> f64 {
        let mut sorted: Vec<f64> = self.history.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0).min(0.25)
    }
}

//! The gradient of the one-way delay, and the queue that it speaks of.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets that left within this time are one group: they queue behind each other.
const GROUP: Duration = Duration::from_millis(5);
const GROUPS: usize = 20;
const SMOOTHING: f64 = 0.9;
/// The slope times the number of groups times this is compared with the threshold.
const GAIN: f64 = 4.0;
const MOST_GROUPS: f64 = 60.0;
/// How fast the threshold follows a gradient above and below it, per ms.
const FOLLOW_UP: f64 = 0.0087;
const FOLLOW_DOWN: f64 = 0.039;
const OVERUSE_TIME_MS: f64 = 10.0;
/// The fastest packet of this time is what a packet takes without a queue.
const BASE_WINDOW: Duration = Duration::from_secs(30);
/// A queue like this is too long, whatever the gradient says.
const LONG_QUEUE: Duration = Duration::from_millis(150);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Normal,
    Over,
    Under,
}

#[derive(Debug)]
pub(super) struct Delay {
    origin: Option<Instant>,
    group: Option<Group>,
    before: Option<Group>,
    /// (arrival, accumulated and smoothed delay), ms.
    line: VecDeque<(f64, f64)>,
    accumulated: f64,
    smoothed: f64,
    count: f64,
    threshold: f64,
    updated: Option<f64>,
    over_for: f64,
    previous_trend: f64,
    usage: Usage,
    /// One-way delays with an unknown offset, ms: the smallest of each past span, and of now.
    bases: VecDeque<(Duration, f64)>,
    queue_ms: f64,
}

/// Packets that left together.
#[derive(Debug, Clone, Copy)]
struct Group {
    first_departure: Instant,
    last_departure: Instant,
    last_arrival: Duration,
}

impl Default for Delay {
    fn default() -> Self {
        Self {
            origin: None,
            group: None,
            before: None,
            line: VecDeque::new(),
            accumulated: 0.0,
            smoothed: 0.0,
            count: 0.0,
            threshold: 12.5,
            updated: None,
            over_for: 0.0,
            previous_trend: 0.0,
            usage: Usage::Normal,
            bases: VecDeque::new(),
            queue_ms: 0.0,
        }
    }
}

impl Delay {
    pub fn usage(&self) -> Usage {
        self.usage
    }

    pub fn queueing(&self) -> Duration {
        Duration::from_secs_f64((self.queue_ms / 1000.0).clamp(0.0, 60.0))
    }

    pub fn add(&mut self, departed: Instant, arrived: Duration) -> Usage {
        self.measure_queue(departed, arrived);
        let fresh = Group { first_departure: departed, last_departure: departed, last_arrival: arrived };
        let Some(group) = &mut self.group else {
            self.group = Some(fresh);
            return self.usage;
        };
        if departed < group.first_departure {
            // It was overtaken; the order of departures is what groups are made of.
            return self.usage;
        }
        if departed.duration_since(group.first_departure) <= GROUP {
            group.last_departure = group.last_departure.max(departed);
            group.last_arrival = group.last_arrival.max(arrived);
            return self.usage;
        }
        let done = std::mem::replace(group, fresh);
        if let Some(before) = self.before.replace(done) {
            self.step(before, done);
        }
        if self.usage == Usage::Normal && self.queueing() > LONG_QUEUE { Usage::Over } else { self.usage }
    }

    fn step(&mut self, before: Group, group: Group) {
        let departures =
            group.last_departure.saturating_duration_since(before.last_departure).as_secs_f64() * 1e3;
        let arrivals = (group.last_arrival.as_secs_f64() - before.last_arrival.as_secs_f64()) * 1e3;
        // Silence or a clock that jumped says nothing of a queue.
        if !(-500.0..3000.0).contains(&arrivals) || departures > 3000.0 {
            let (threshold, bases) = (self.threshold, std::mem::take(&mut self.bases));
            *self = Self { threshold, bases, origin: self.origin, group: self.group, ..Self::default() };
            return;
        }
        self.count = (self.count + 1.0).min(MOST_GROUPS);
        self.accumulated += arrivals - departures;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.accumulated;
        let at = group.last_arrival.as_secs_f64() * 1e3;
        if self.line.len() == GROUPS {
            self.line.pop_front();
        }
        self.line.push_back((at, self.smoothed));
        if self.line.len() == GROUPS {
            let slope = slope(&self.line);
            self.detect(slope * self.count * GAIN, at, departures);
        }
    }

    fn detect(&mut self, trend: f64, at: f64, step_ms: f64) {
        if trend > self.threshold {
            self.over_for += step_ms.min(50.0);
            if self.over_for > OVERUSE_TIME_MS && trend >= self.previous_trend {
                self.over_for = 0.0;
                self.usage = Usage::Over;
            }
        } else {
            self.over_for = 0.0;
            self.usage = if trend < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        self.previous_trend = trend;
        // A spike is no reason to become deaf.
        if trend.abs() < self.threshold + 15.0 {
            let follow = if trend.abs() < self.threshold { FOLLOW_DOWN } else { FOLLOW_UP };
            let passed = self.updated.map_or(0.0, |before| (at - before).clamp(0.0, 100.0));
            self.threshold += follow * (trend.abs() - self.threshold) * passed;
            self.threshold = self.threshold.clamp(6.0, 600.0);
        }
        self.updated = Some(at);
    }

    fn measure_queue(&mut self, departed: Instant, arrived: Duration) {
        let origin = *self.origin.get_or_insert(departed);
        let left = departed.saturating_duration_since(origin);
        let trip = (arrived.as_secs_f64() - left.as_secs_f64()) * 1e3;
        const SPANS: u32 = 10;
        match self.bases.back_mut() {
            Some((since, least)) if left.saturating_sub(*since) < BASE_WINDOW / SPANS => {
                *least = least.min(trip)
            }
            _ => self.bases.push_back((left, trip)),
        }
        while self.bases.len() > SPANS as usize {
            self.bases.pop_front();
        }
        let base = self.bases.iter().map(|(_, least)| *least).fold(f64::INFINITY, f64::min);
        // Up at once in part, down likewise: single late packets are no queue.
        self.queue_ms += 0.1 * ((trip - base) - self.queue_ms);
    }
}

/// Least squares.
fn slope(points: &VecDeque<(f64, f64)>) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (up, down) = points
        .iter()
        .fold((0.0, 0.0), |(up, down), p| (up + (p.0 - x) * (p.1 - y), down + (p.0 - x).powi(2)));
    if down > 0.0 { up / down } else { 0.0 }
}

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
/// A picture that leaves in one go queues behind itself. Only what even the luckiest packet of this time met is a queue that stays.
const STANDING_WINDOW: Duration = Duration::from_millis(120);
const MAX_RECENT: usize = 512;
/// Less of it than this is no overuse, whatever the gradient says, ms.
const LEAST_QUEUE: f64 = 8.0;
/// More of it than this is one, whatever the gradient says, ms.
const LONG_QUEUE: f64 = 100.0;
/// This much that stays for so long is one too, even where the gradient is flat because the queue is full.
const SOME_QUEUE: f64 = 20.0;
const STAYS: Duration = Duration::from_millis(600);
/// A long queue that gives way to nothing for so long is none: the path has become a longer one.
const PATIENCE: Duration = Duration::from_secs(4);

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
    /// (departure, arrival, one-way delay) of the last packets.
    recent: VecDeque<(Duration, Duration, f64)>,
    standing_ms: f64,
    /// Since when there is some queue.
    some: Option<Duration>,
    stays: bool,
    /// Since when the queue doesn't become shorter, and the shortest that it was.
    long: Option<(Duration, f64)>,
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
            recent: VecDeque::new(),
            standing_ms: 0.0,
            some: None,
            stays: false,
            long: None,
        }
    }
}

impl Delay {
    /// What all that is known says of the path.
    pub fn usage(&self) -> Usage {
        match self.usage {
            _ if self.standing_ms > LONG_QUEUE || self.stays => Usage::Over,
            Usage::Over if self.standing_ms < LEAST_QUEUE => Usage::Normal,
            // More would not help.
            Usage::Normal if self.standing_ms > SOME_QUEUE => Usage::Under,
            usage => usage,
        }
    }

    /// What came of it was seen to.
    pub fn heeded(&mut self) {
        self.stays = false;
    }

    /// The queue that stays.
    pub fn queueing(&self) -> Duration {
        Duration::from_secs_f64((self.standing_ms / 1000.0).clamp(0.0, 60.0))
    }

    pub fn add(&mut self, departed: Instant, arrived: Duration) -> Usage {
        self.measure_queue(departed, arrived);
        let fresh = Group { first_departure: departed, last_departure: departed, last_arrival: arrived };
        let Some(group) = &mut self.group else {
            self.group = Some(fresh);
            return self.usage();
        };
        if departed < group.first_departure {
            // It was overtaken; the order of departures is what groups are made of.
            return self.usage();
        }
        if departed.duration_since(group.first_departure) <= GROUP {
            group.last_departure = group.last_departure.max(departed);
            group.last_arrival = group.last_arrival.max(arrived);
            return self.usage();
        }
        let done = std::mem::replace(group, fresh);
        if let Some(before) = self.before.replace(done) {
            self.step(before, done);
        }
        self.usage()
    }

    fn step(&mut self, before: Group, group: Group) {
        let departures =
            group.last_departure.saturating_duration_since(before.last_departure).as_secs_f64() * 1e3;
        let arrivals = (group.last_arrival.as_secs_f64() - before.last_arrival.as_secs_f64()) * 1e3;
        // Silence or a clock that jumped says nothing of a queue.
        if !(-500.0..3000.0).contains(&arrivals) || departures > 3000.0 {
            let (threshold, bases) = (self.threshold, std::mem::take(&mut self.bases));
            let (standing_ms, long) = (self.standing_ms, self.long);
            let (origin, group) = (self.origin, self.group);
            *self = Self { threshold, bases, standing_ms, long, origin, group, ..Self::default() };
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
        self.recent.push_back((left, arrived, trip));
        // By both clocks: what leaves in a moment takes long to arrive where the path has become narrow.
        while self.recent.len() > MAX_RECENT
            || self.recent.front().is_some_and(|(departure, arrival, _)| {
                *departure + STANDING_WINDOW < left || arrival.saturating_add(STANDING_WINDOW) < arrived
            })
        {
            self.recent.pop_front();
        }
        let luckiest = self.recent.iter().map(|(.., trip)| *trip).fold(f64::INFINITY, f64::min);
        self.standing_ms = (luckiest - base).max(0.0);
        self.doubt(left, luckiest);
    }

    /// A queue drains when less is sent. What doesn't is the way itself.
    fn doubt(&mut self, left: Duration, luckiest: f64) {
        if self.standing_ms <= SOME_QUEUE {
            (self.long, self.some, self.stays) = (None, None, false);
            return;
        }
        let some = *self.some.get_or_insert(left);
        if left.saturating_sub(some) > STAYS {
            (self.some, self.stays) = (Some(left), true);
        }
        let (since, least) = self.long.unwrap_or((left, self.standing_ms));
        if self.standing_ms < 0.8 * least {
            self.long = Some((left, self.standing_ms));
        } else if left.saturating_sub(since) < PATIENCE {
            self.long = Some((since, least));
        } else {
            self.bases = VecDeque::from([(left, luckiest)]);
            (self.long, self.some, self.stays, self.standing_ms) = (None, None, false, 0.0);
        }
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

//! How much the path to a peer carries, from what the peer says of each packet (transport-wide feedback).
//!
//! The delay side follows the gradient of the one-way delay as Google's congestion control does
//! (draft-ietf-rmcat-gcc-02): a rising delay is a filling queue. The loss side knows that some paths lose packets whatever is
//! sent: only loss above what the path loses anyway lowers the estimate. See `docs/decisions/0090-bandwidth-estimate.md`.

mod delay;
mod loss;
mod rate;

use delay::{Delay, Usage};
use loss::Loss;
use rate::Rate;
use std::time::{Duration, Instant};

/// The fate of one packet, in the order of departure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketResult {
    /// When it left.
    pub departed: Instant,
    /// When it arrived, on the peer's clock; `None`: lost.
    pub arrived: Option<Duration>,
    /// Its size in bytes.
    pub bytes: usize,
}

/// What is known of the path to a peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidth {
    /// Bit/s that may be sent, all kinds together, RTP headers included.
    pub target_bps: f64,
    /// The queue on the way, in time.
    pub queueing_delay: Duration,
    /// Share of packets lost lately, 0 to 1.
    pub loss: f64,
}

/// The estimate for one peer. Sans-IO: time is an argument.
#[derive(Debug)]
pub struct BandwidthEstimate {
    min_bps: f64,
    max_bps: f64,
    target_bps: f64,
    delay: Delay,
    loss: Loss,
    acked: Rate,
    sent: Rate,
    /// What else was sent, of which nothing is reported, and when the last of it.
    data: Rate,
    data_sent: Option<Instant>,
    origin: Option<Instant>,
    epoch: Option<Instant>,
    capacity: Capacity,
    changed: Option<Instant>,
    heard: Option<Instant>,
    decreased: Option<Instant>,
    /// When it was last heard that anything arrived.
    arrived: Option<Instant>,
    /// Since when there is no sign of a queue.
    clear: Option<Instant>,
    round_trip: Duration,
}

/// What the path carried when it was full last: near it the estimate goes up slowly, far from it fast.
#[derive(Debug, Default)]
struct Capacity {
    mean_bps: Option<f64>,
    /// Variance, relative to the mean.
    variance: f64,
}

/// Far from the last known capacity, a second.
const GROWTH: f64 = 0.45;
/// … and near it at most: on a narrow path even a packet is much.
const GROWTH_NEAR: f64 = 0.15;
/// What is left of the acknowledged rate when a queue builds up.
const BACK_OFF: f64 = 0.85;
/// The estimate may be this much above what is sent: an application that sends little says little about the path.
const HEADROOM: f64 = 1.5;
const HEADROOM_NEAR: f64 = 1.15;
const HEADROOM_BPS: f64 = 50_000.0;
/// Without a report for this long, while something is sent, less is sent.
const SILENCE: Duration = Duration::from_millis(1200);
/// When nothing has arrived for this long, less is sent as well.
const ALL_LOST: Duration = Duration::from_millis(500);
const DATA_GOES_ON: Duration = Duration::from_millis(500);
const PACKET_BITS: f64 = 1200.0 * 8.0;
/// A shorter queue is no sign of one: packets of a picture wait for each other.
const CLEAR: Duration = Duration::from_millis(5);
/// What may leave at a time, compared with the estimate: where the path is thought to be free, near its limit, and while a queue drains.
const PACES: [f64; 3] = [2.5, 1.5, 1.1];
const DRAINS: Duration = Duration::from_millis(60);
/// … and at least where no limit was ever met.
const UNLIMITED_BPS: f64 = 10_000_000.0;

impl BandwidthEstimate {
    /// Starts at `start_bps` and stays within `min_bps` and `max_bps`, all in bit/s.
    pub fn new(start_bps: f64, min_bps: f64, max_bps: f64) -> Self {
        let max_bps = max_bps.max(min_bps);
        Self {
            min_bps,
            max_bps,
            target_bps: start_bps.clamp(min_bps, max_bps),
            delay: Delay::default(),
            loss: Loss::default(),
            acked: Rate::default(),
            sent: Rate::default(),
            data: Rate::default(),
            data_sent: None,
            origin: None,
            epoch: None,
            capacity: Capacity::default(),
            changed: None,
            heard: None,
            decreased: None,
            arrived: None,
            clear: None,
            round_trip: Duration::from_millis(100),
        }
    }

    /// Bit/s that may be sent now, all kinds together.
    pub fn target_bps(&self) -> f64 {
        self.target_bps
    }

    /// How much longer packets take than the fastest of the last time did: the queue on the way.
    pub fn queueing_delay(&self) -> Duration {
        self.delay.queueing()
    }

    /// Share of the packets that were lost lately, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.loss.recent()
    }

    /// What is known; `None` until the peer has reported anything.
    pub fn known(&self) -> Option<Bandwidth> {
        self.changed?;
        let (target_bps, queueing_delay, loss) = (self.target_bps, self.queueing_delay(), self.loss());
        Some(Bandwidth { target_bps, queueing_delay, loss })
    }

    /// Bit/s at which single pictures may leave; `None` until the peer has reported anything.
    pub fn pace_bps(&self) -> Option<f64> {
        self.changed?;
        let [free, near, drains] = PACES;
        Some(match () {
            () if self.delay.queueing() > DRAINS => self.target_bps * drains,
            () if self.capacity.is_near(self.target_bps) => self.target_bps * near,
            // That the estimate is low at the beginning is no reason to hold up a keyframe.
            () if self.capacity.mean_bps.is_none() => (self.target_bps * free).max(UNLIMITED_BPS),
            () => self.target_bps * free,
        })
    }

    /// Something is sent. When reports stay out meanwhile, the path back or both are in trouble.
    pub fn on_sent(&mut self, now: Instant) {
        let longer = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) > SILENCE);
        if self.changed.is_some() && longer(self.heard.max(self.decreased)) {
            self.decreased = Some(now);
            self.target_bps = (self.target_bps * 0.7).max(self.min_bps);
            // What is there after an outage may be another path.
            self.capacity = Capacity::default();
        }
    }

    /// Something is sent beside the packets that reports are about.
    pub fn on_data_sent(&mut self, now: Instant, bytes: usize) {
        let epoch = *self.epoch.get_or_insert(now);
        self.data_sent = Some(now);
        self.data.add(now.saturating_duration_since(epoch), bytes);
    }

    /// How much that is, in bit/s.
    pub fn data_bps(&self, now: Instant) -> f64 {
        let recent = self.data_sent.is_some_and(|at| now.saturating_duration_since(at) < DATA_GOES_ON);
        self.data.bps().filter(|_| recent).unwrap_or(0.0)
    }

    /// What the path carries, while media is sent on it.
    pub fn beside_media(&self, now: Instant) -> Option<f64> {
        let live = self.heard.is_some_and(|at| now.saturating_duration_since(at) < SILENCE);
        (live && self.changed.is_some()).then_some(self.target_bps)
    }

    /// One feedback message.
    pub fn on_feedback(&mut self, now: Instant, results: &[PacketResult]) {
        self.heard = Some(now);
        let Some(newest) = results.iter().filter(|r| r.arrived.is_some()).map(|r| r.departed).max() else {
            return self.on_all_lost(now, results.len());
        };
        self.arrived = Some(now);
        let trip =
            now.saturating_duration_since(newest).clamp(Duration::from_millis(1), Duration::from_secs(2));
        self.round_trip = self.round_trip.mul_f64(0.875) + trip.mul_f64(0.125);
        let mut usage = self.delay.usage();
        for result in results {
            let origin = *self.origin.get_or_insert(result.departed);
            self.sent.add(result.departed.saturating_duration_since(origin), result.bytes);
            if let Some(arrived) = result.arrived {
                self.acked.add(arrived, result.bytes);
                usage = self.delay.add(result.departed, arrived);
            }
        }
        self.delay.heeded();
        let excess = self.loss.add(now, results);
        let since = self.changed.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.changed = Some(now);
        if usage == Usage::Over || self.delay.queueing() > CLEAR {
            self.clear = None;
        } else {
            self.clear.get_or_insert(now);
        }
        match usage {
            Usage::Over => self.back_off(now),
            // The queue drains: more would fill it again.
            Usage::Under => {}
            Usage::Normal => self.grow(now, since),
        }
        if let Some(excess) = excess {
            self.give_way(now, excess);
        }
        self.target_bps = self.target_bps.clamp(self.min_bps, self.max_bps);
    }

    /// Nothing of a whole report arrived. A report is of a few packets, so that this is chance at first, and then a path that is cut
    /// or drowned.
    fn on_all_lost(&mut self, now: Instant, count: usize) {
        let recent = self.arrived.is_some_and(|at| now.saturating_duration_since(at) < ALL_LOST);
        if count > 0 && !recent && self.may_decrease(now) {
            self.decreased = Some(now);
            self.target_bps = (self.target_bps * 0.7).max(self.min_bps);
        }
    }

    fn may_decrease(&self, now: Instant) -> bool {
        let wait = (self.round_trip + Duration::from_millis(100)).min(Duration::from_millis(500));
        self.decreased.is_none_or(|at| now.saturating_duration_since(at) >= wait)
    }

    fn back_off(&mut self, now: Instant) {
        // Behind a queue packets arrive at the rate of the path.
        let full = self.delay.queueing() > DRAINS;
        let acked = if full { self.acked.latest_bps() } else { self.acked.bps() };
        let Some(acked) = acked.filter(|_| self.may_decrease(now)) else { return };
        let acked = self.proven(now, acked);
        self.decreased = Some(now);
        self.capacity.full_at(acked);
        // Half a second of room to drain what waits already, beside the usual step back.
        let drain = 1.0 - self.delay.queueing().as_secs_f64().min(0.5);
        self.target_bps = self.target_bps.min(self.carried(now, acked) * BACK_OFF * drain);
    }

    fn grow(&mut self, now: Instant, since: Duration) {
        let Some(acked) = self.acked.bps().map(|acked| self.proven(now, acked)) else { return };
        let seconds = since.as_secs_f64().min(0.5);
        if self.capacity.is_below(acked) {
            // It carries more than it did: what was known of it is old.
            self.capacity = Capacity::default();
        }
        let fast = self.target_bps * (GROWTH * seconds);
        let step = if self.capacity.is_near(self.target_bps) {
            // About a packet each time that the effect of the last one can be seen, and more the longer it has none. As many bits
            // for who has little as for who has much: this is what makes flows equal.
            let clear = self.clear.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            let clear = clear.as_secs_f64();
            let step = (1.0 + clear).powi(2) * PACKET_BITS / (self.round_trip.as_secs_f64() + 0.1) * seconds;
            step.min(self.target_bps * (GROWTH_NEAR * (1.0 + clear / 2.0) * seconds)).min(fast)
        } else {
            fast
        };
        // Near a known limit what is not sent proves nothing.
        let headroom = if self.capacity.is_near(self.target_bps) { HEADROOM_NEAR } else { HEADROOM };
        let most = (acked * headroom + HEADROOM_BPS).max(self.target_bps);
        self.target_bps = (self.target_bps + step).min(most);
    }

    /// What the path carries, as far as this is known: when less arrived than was sent, what arrived; else it was not full, and what
    /// was thought of it may still be so.
    fn carried(&self, now: Instant, acked: f64) -> f64 {
        match self.sent.bps() {
            Some(sent) if acked >= 0.95 * sent * self.beside(now) => acked.max(self.target_bps),
            _ => acked,
        }
    }

    /// What fits through, where this much of what reports are about arrived: as much of the rest does, and what the path loses
    /// whatever is sent took its room before.
    fn proven(&self, now: Instant, acked: f64) -> f64 {
        let sent = self.sent.bps().unwrap_or(acked).max(acked);
        (acked / (1.0 - self.loss.paths_own())).min(sent) * self.beside(now)
    }

    /// All that is sent, compared with what reports are about. As much of the one arrives as of the other.
    fn beside(&self, now: Instant) -> f64 {
        self.sent.bps().map_or(1.0, |sent| 1.0 + self.data_bps(now) / sent.max(8_000.0))
    }

    /// Loss beyond what the path loses anyway.
    fn give_way(&mut self, now: Instant, excess: f64) {
        if self.may_decrease(now) {
            self.decreased = Some(now);
            let acked = self.acked.bps().map_or(self.target_bps, |acked| self.proven(now, acked));
            let kept = self.target_bps * (1.0 - 0.5 * excess);
            // What arrived fits through.
            self.target_bps = kept.max(self.carried(now, acked) * BACK_OFF).min(self.target_bps);
        }
    }
}

impl Capacity {
    fn full_at(&mut self, bps: f64) {
        let Some(mean) = self.mean_bps else {
            (self.mean_bps, self.variance) = (Some(bps), 0.01);
            return;
        };
        let off = (bps - mean) / mean;
        if off.abs() > 3.0 * self.variance.sqrt() {
            (self.mean_bps, self.variance) = (Some(bps), 0.01);
            return;
        }
        self.mean_bps = Some(mean + 0.15 * (bps - mean));
        self.variance = (0.85 * self.variance + 0.15 * off * off).clamp(0.0025, 0.04);
    }

    fn margin(&self, mean: f64) -> f64 {
        3.0 * self.variance.sqrt() * mean
    }

    fn is_near(&self, bps: f64) -> bool {
        self.mean_bps.is_some_and(|mean| bps > mean - self.margin(mean))
    }

    fn is_below(&self, bps: f64) -> bool {
        self.mean_bps.is_some_and(|mean| bps > mean + self.margin(mean))
    }
}

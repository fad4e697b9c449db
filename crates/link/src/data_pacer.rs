//! Data channels beside media: no faster than the path takes it, and never in front of sound.
//!
//! SCTP knows congestion by loss alone: left to itself it fills the queue of a narrow path, in which sound and pictures then wait.

use crate::event::Transmit;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Acknowledgements and heartbeats pass by: the peer's data doesn't wait for ours.
const SMALL: usize = 120;
/// What may leave at once, in time of the rate, and at least.
const BURST: Duration = Duration::from_millis(10);
const LEAST_BURST_BYTES: f64 = 3.0 * 1250.0;
/// Of what sound leaves, the share that data may take while there are pictures.
const SHARE: f64 = 0.75;
/// What is kept for sound, bit/s; at most a quarter of the path.
const SOUND_BPS: f64 = 80_000.0;
const LEAST_BPS: f64 = 30_000.0;
/// From here on pacing costs more than it gives.
const FREE_BPS: f64 = 100_000_000.0;
/// Relays have small buffers for what comes from outside (decision 0071).
const RELAY_BPS: f64 = 256_000_000.0;
const RELAY_BURST_BYTES: f64 = 16_384.0;
/// SCTP is given what leaves in this time, so that what is sent next needn't wait long …
const WINDOW: Duration = Duration::from_millis(300);
/// … but so much at least, in bytes.
const LEAST_WINDOW: usize = 16_384;

/// How fast data may leave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    bytes_per_second: f64,
    burst: f64,
}

impl Pace {
    /// `media`: what the path carries (bit/s) while media is sent on it; `pictures`: these are among it. `None`: as fast as it goes.
    pub fn new(media: Option<f64>, pictures: bool, relayed: bool) -> Option<Pace> {
        let beside = media.map(|bps| {
            let left = bps - SOUND_BPS.min(bps / 4.0);
            (left * if pictures { SHARE } else { 1.0 }).max(LEAST_BPS)
        });
        let pace = |bps: f64, least: f64| {
            let bytes_per_second = bps / 8.0;
            Pace { bytes_per_second, burst: (bytes_per_second * BURST.as_secs_f64()).max(least) }
        };
        match beside {
            Some(bps) if bps < FREE_BPS => Some(pace(bps, LEAST_BURST_BYTES)),
            _ if relayed => Some(Pace { bytes_per_second: RELAY_BPS / 8.0, burst: RELAY_BURST_BYTES }),
            _ => None,
        }
    }

    /// Bytes that SCTP should have at most.
    pub fn window(&self) -> usize {
        ((self.bytes_per_second * WINDOW.as_secs_f64()) as usize).max(LEAST_WINDOW)
    }
}

/// Datagrams of SCTP that wait for their turn, in order. Bounded by SCTP's own window.
#[derive(Debug, Default)]
pub(crate) struct DataPacer {
    waiting: VecDeque<Transmit>,
    budget: f64,
    filled: Option<Instant>,
    pace: Option<Pace>,
}

impl DataPacer {
    /// Whether this one has to wait for those before it.
    pub fn holds(&self, bytes: usize) -> bool {
        bytes > SMALL && self.pace.is_some()
    }

    pub fn push(&mut self, transmit: Transmit) {
        self.waiting.push_back(transmit);
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn refill(&mut self, now: Instant, pace: Option<Pace>) {
        self.pace = pace;
        let Some(pace) = pace else { return };
        let passed = self.filled.map(|at| now.saturating_duration_since(at).as_secs_f64());
        self.filled = Some(self.filled.map_or(now, |at| at.max(now)));
        let filled = passed.map_or(pace.burst, |s| self.budget + pace.bytes_per_second * s);
        self.budget = filled.min(pace.burst);
    }

    /// The next one that may leave.
    pub fn pop(&mut self) -> Option<Transmit> {
        if self.pace.is_some() && self.budget <= 0.0 {
            return None;
        }
        let transmit = self.waiting.pop_front()?;
        self.budget -= transmit.data.len() as f64;
        Some(transmit)
    }

    /// When the next one may leave.
    pub fn next_at(&self) -> Option<Instant> {
        let filled = self.filled.filter(|_| !self.is_empty())?;
        let rate = self.pace?.bytes_per_second;
        Some(filled + Duration::from_secs_f64((((-self.budget).max(0.0) + 1.0) / rate).clamp(0.001, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::net::SocketAddr;

    fn transmit(bytes: usize) -> Transmit {
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        Transmit { local: addr, remote: addr, data: Bytes::from(vec![23; bytes]) }
    }

    #[test]
    fn data_takes_what_sound_leaves_and_pictures_keep_a_quarter() {
        let bps =
            |media, pictures| Pace::new(media, pictures, false).map(|p| (p.bytes_per_second * 8.0) as u32);
        assert_eq!(bps(None, true), None);
        assert_eq!(bps(Some(1_080_000.0), true), Some(750_000));
        assert_eq!(bps(Some(1_080_000.0), false), Some(1_000_000));
        assert_eq!(bps(Some(50_000.0), true), Some(30_000));
        assert_eq!(bps(Some(1e9), true), None);
        assert!(Pace::new(None, false, true).is_some_and(|p| p.burst == RELAY_BURST_BYTES));
    }

    #[test]
    fn a_burst_leaves_at_the_rate_in_order_and_small_ones_pass() {
        let start = Instant::now();
        let mut pacer = DataPacer::default();
        let pace = Pace::new(Some(1_080_000.0), true, false);
        pacer.refill(start, pace);
        assert!(pacer.holds(1200) && !pacer.holds(90));
        (0..100).for_each(|n| pacer.push(transmit(1000 + n)));
        let (mut now, mut left, mut last) = (start, 0, 0);
        while let Some(at) = pacer.next_at() {
            now = at.max(now);
            pacer.refill(now, pace);
            while let Some(transmit) = pacer.pop() {
                assert!(transmit.data.len() > last);
                last = transmit.data.len();
                left += last;
            }
        }
        let bps = left as f64 * 8.0 / (now - start).as_secs_f64();
        assert!((740_000.0..810_000.0).contains(&bps), "{bps}");
    }
}

//! Video leaves no faster than the path takes it; sound and everything else pass by.

use bytes::Bytes;
use rtc::rtp::Header;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What may leave at once, in time of the pacing rate …
const BURST: Duration = Duration::from_millis(10);
/// … and at least: an ordinary picture is not held up.
const LEAST_BURST_BYTES: f64 = 8.0 * 1250.0;
/// What waits is through after this time, whatever the estimate says: what comes later is not better off for it.
const LONGEST: Duration = Duration::from_millis(400);
/// Until the peer has reported anything.
const UNKNOWN_BPS: f64 = 10_000_000.0;
const HEADER_BYTES: usize = 40;

#[derive(Debug, Default)]
pub(crate) struct Pacer {
    waiting: VecDeque<(Header, Bytes)>,
    waiting_bytes: usize,
    /// Bytes that may leave now.
    budget: f64,
    filled: Option<Instant>,
    bytes_per_second: f64,
}

impl Pacer {
    pub fn push(&mut self, header: Header, payload: Bytes) {
        self.waiting_bytes += payload.len() + HEADER_BYTES;
        self.waiting.push_back((header, payload));
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// The time that has passed, and how fast pictures may leave in bit/s, if that is known.
    pub fn refill(&mut self, now: Instant, pace_bps: Option<f64>) {
        let rate = pace_bps.unwrap_or(UNKNOWN_BPS) / 8.0;
        self.bytes_per_second = rate.max(self.waiting_bytes as f64 / LONGEST.as_secs_f64());
        let most = (self.bytes_per_second * BURST.as_secs_f64()).max(LEAST_BURST_BYTES);
        let passed = self.filled.map(|at| now.saturating_duration_since(at).as_secs_f64());
        self.filled = Some(self.filled.map_or(now, |at| at.max(now)));
        self.budget = passed.map_or(most, |s| (self.budget + self.bytes_per_second * s).min(most));
    }

    /// The next packet that may leave.
    pub fn pop(&mut self) -> Option<(Header, Bytes)> {
        if self.budget <= 0.0 {
            return None;
        }
        let (header, payload) = self.waiting.pop_front()?;
        let bytes = payload.len() + HEADER_BYTES;
        self.waiting_bytes -= bytes;
        // It may go below zero: a packet is never held for its size.
        self.budget -= bytes as f64;
        Some((header, payload))
    }

    /// When the next packet may leave.
    pub fn next_at(&self) -> Option<Instant> {
        let filled = self.filled.filter(|_| !self.is_empty())?;
        let missing = (-self.budget).max(0.0) + 1.0;
        Some(
            filled + Duration::from_secs_f64((missing / self.bytes_per_second.max(1000.0)).clamp(0.001, 1.0)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fill(pacer: &mut Pacer, packets: usize) {
        for _ in 0..packets {
            pacer.push(Header::default(), Bytes::from(vec![0; 1160]));
        }
    }

    /// Milliseconds until everything has left.
    fn drain(pacer: &mut Pacer, mut now: Instant, target_bps: f64) -> u128 {
        let start = now;
        loop {
            pacer.refill(now, Some(2.5 * target_bps));
            while pacer.pop().is_some() {}
            match pacer.next_at() {
                Some(at) => now = at,
                None => return (now - start).as_millis(),
            }
        }
    }

    #[test]
    fn an_ordinary_picture_leaves_at_once_and_a_keyframe_over_time() {
        let now = Instant::now();
        let mut pacer = Pacer::default();
        fill(&mut pacer, 6);
        assert_eq!(drain(&mut pacer, now, 1_500_000.0), 0);
        // 60 KB at 2.5 times 1.5 Mbit/s take 128 ms, less what may leave at once.
        let later = now + 1000 * MS;
        fill(&mut pacer, 50);
        let took = drain(&mut pacer, later, 1_500_000.0);
        assert!((80..130).contains(&took), "{took} ms");
    }

    #[test]
    fn nothing_waits_longer_than_the_limit_and_the_order_is_kept() {
        let now = Instant::now();
        let mut pacer = Pacer::default();
        for sequence_number in 0..200 {
            let header = Header { sequence_number, ..Header::default() };
            pacer.push(header, Bytes::from(vec![0; 1160]));
        }
        let (mut at, mut order) = (now, vec![]);
        while !pacer.is_empty() {
            pacer.refill(at, Some(250_000.0));
            while let Some((header, _)) = pacer.pop() {
                order.push(header.sequence_number);
            }
            at = pacer.next_at().unwrap_or(at);
        }
        assert!(order.is_sorted() && order.len() == 200);
        // The rate falls with what is left, so it is a little more than the limit.
        assert!(at - now < 4 * LONGEST, "{:?}", at - now);
    }
}

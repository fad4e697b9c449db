//! How late packets come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Watches when the packets, or pictures, of one stream arrive, and says how much waiting makes up for how unevenly they do.
///
/// The fastest arrival of the last 4 s says when each media time is due; the lateness of an arrival is its distance
/// from that. [`DelayFilter::spread`] is the lateness that the wanted share of these arrivals kept to, and all but one of the
/// last 32: what has just begun counts, but a single straggler doesn't. What is older than the window is forgotten at once,
/// and with it what it did to the result.
#[derive(Debug, Clone)]
pub struct DelayFilter {
    /// Arrival, and arrival minus media time in microseconds.
    arrivals: VecDeque<(Instant, i64)>,
    quantile: f64,
    origin: Option<Instant>,
    fastest: i64,
    spread: i64,
    scratch: Vec<i64>,
}

/// Arrivals older than this no longer count.
const WINDOW: Duration = Duration::from_secs(4);
/// Arrivals that count at most; at 10 ms a packet the window is shorter for it.
const MAX_ARRIVALS: usize = 256;
/// Of so many, all but one are covered.
const RECENT: usize = 32;
/// Further from the fastest than this, the sender's clock was set anew.
const JUMP_US: i64 = 2_000_000;

impl DelayFilter {
    /// A filter that covers this share of the arrivals: 0 to 1.
    pub fn new(quantile: f64) -> DelayFilter {
        DelayFilter {
            arrivals: VecDeque::new(),
            quantile: quantile.clamp(0.0, 1.0),
            origin: None,
            fastest: 0,
            spread: 0,
            scratch: Vec::new(),
        }
    }

    /// The media of `media_us` (microseconds of the sender's clock, wraps undone) arrived. Returns how late it was.
    pub fn arrived(&mut self, media_us: i64, at: Instant) -> Duration {
        let transit = self.since_origin(at).saturating_sub(media_us);
        if !self.arrivals.is_empty() && transit.saturating_sub(self.fastest).saturating_abs() > JUMP_US {
            self.arrivals.clear();
        }
        while self.arrivals.len() >= MAX_ARRIVALS
            || self.arrivals.front().is_some_and(|(old, _)| at.saturating_duration_since(*old) > WINDOW)
        {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back((at, transit));
        self.scratch.clear();
        self.scratch.extend(self.arrivals.iter().map(|(_, transit)| *transit));
        let index = ((self.scratch.len() as f64 * self.quantile).ceil() as usize).max(1) - 1;
        let (before, covered, _) = self.scratch.select_nth_unstable(index);
        self.fastest = before.iter().copied().fold(*covered, i64::min);
        let latest = (*covered).max(self.latest_but_one());
        self.spread = latest.saturating_sub(self.fastest);
        micros(transit.saturating_sub(self.fastest))
    }

    fn latest_but_one(&self) -> i64 {
        let recent = self.arrivals.iter().rev().take(RECENT).map(|(_, transit)| *transit);
        let (_, second) = recent.fold((i64::MIN, i64::MIN), |(first, second), transit| {
            if transit > first { (transit, first) } else { (first, second.max(transit)) }
        });
        second
    }

    /// When this media time arrives if it is as fast as the fastest. `None` before the first arrival.
    pub fn due(&self, media_us: i64) -> Option<Instant> {
        let at = self.fastest.saturating_add(media_us);
        let origin = self.origin.filter(|_| !self.arrivals.is_empty())?;
        if at >= 0 {
            origin.checked_add(micros(at))
        } else {
            Some(origin.checked_sub(micros(at.saturating_neg())).unwrap_or(origin))
        }
    }

    /// How late the wanted share of the arrivals was at most.
    pub fn spread(&self) -> Duration {
        micros(self.spread)
    }

    /// How many arrivals it goes by.
    pub fn count(&self) -> usize {
        self.arrivals.len()
    }

    /// Forgets all arrivals: another stream begins.
    pub fn clear(&mut self) {
        self.arrivals.clear();
        self.spread = 0;
    }

    fn since_origin(&mut self, at: Instant) -> i64 {
        let origin = *self.origin.get_or_insert(at);
        match at.checked_duration_since(origin) {
            Some(after) => after.as_micros() as i64,
            None => -(origin.duration_since(at).as_micros() as i64),
        }
    }
}

fn micros(us: i64) -> Duration {
    Duration::from_micros(us.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKET_US: i64 = 20_000;

    /// Packets at a steady pace, each late by what `lateness` says; the time after the last.
    fn feed(filter: &mut DelayFilter, from: Instant, first: i64, lateness: &[u64]) {
        for (n, late) in (first..).zip(lateness) {
            filter.arrived(n * PACKET_US, from + Duration::from_micros((n * PACKET_US) as u64 + late));
        }
    }

    #[test]
    fn a_steady_stream_needs_no_waiting_and_is_due_when_it_comes() {
        let (mut filter, start) = (DelayFilter::new(0.98), Instant::now());
        assert_eq!(filter.due(0), None);
        feed(&mut filter, start, 0, &[300; 100]);
        assert_eq!(filter.spread(), Duration::ZERO);
        assert_eq!(filter.due(100 * PACKET_US), Some(start + Duration::from_micros(2_000_300)));
    }

    #[test]
    fn a_clock_that_is_set_anew_is_followed_at_once() {
        let (mut filter, start) = (DelayFilter::new(0.98), Instant::now());
        feed(&mut filter, start, 0, &[0, 5_000, 0]);
        let at = start + Duration::from_millis(60);
        for jump in [i64::MAX / 2, i64::MIN / 2, 0] {
            assert_eq!(filter.arrived(jump, at), Duration::ZERO, "{jump}");
            assert_eq!(filter.spread(), Duration::ZERO);
        }
    }

    #[test]
    fn extreme_media_times_saturate() {
        let (mut filter, start) = (DelayFilter::new(0.5), Instant::now());
        for media in [i64::MIN, i64::MAX, 0, i64::MAX, i64::MIN] {
            filter.arrived(media, start);
            filter.due(i64::MIN);
            filter.due(i64::MAX);
        }
        assert!(filter.arrivals.len() <= MAX_ARRIVALS);
    }

    proptest! {
        /// Waiting for as long as it says would have been enough for the wanted share of what it has seen.
        #[test]
        fn the_spread_covers_the_wanted_share(
            lateness in prop::collection::vec(0u64..200_000, 1..180), // All within the window.
            quantile in 0.5f64..1.0,
        ) {
            let (mut filter, start) = (DelayFilter::new(quantile), Instant::now());
            feed(&mut filter, start, 0, &lateness);
            let fastest = lateness.iter().min().unwrap();
            let spread = filter.spread().as_micros() as u64;
            let covered = lateness.iter().filter(|late| *late - fastest <= spread).count();
            prop_assert!(covered as f64 >= quantile * lateness.len() as f64);
            // No more than needed for that, or for the last ones.
            let less = lateness.iter().filter(|late| *late - fastest < spread).count();
            let mut recent: Vec<u64> = lateness.iter().rev().take(RECENT).copied().collect();
            recent.sort();
            let but_one = recent.len() >= 2 && recent[recent.len() - 2] - fastest == spread;
            prop_assert!((less as f64) < (quantile * lateness.len() as f64).max(1.0) || but_one);
        }

        /// However bad it was: a window later only the present counts.
        #[test]
        fn a_burst_of_jitter_is_forgotten(
            burst in prop::collection::vec(0u64..400_000, 1..300),
            calm in 0u64..2_000,
            base in 0u64..100_000,
        ) {
            let (mut filter, start) = (DelayFilter::new(0.98), Instant::now());
            feed(&mut filter, start, 0, &burst);
            let calm: Vec<u64> = (0..230).map(|n| base + n * 7_919 % (calm + 1)).collect();
            feed(&mut filter, start, burst.len() as i64, &calm);
            prop_assert!(filter.spread() <= Duration::from_millis(2), "{:?}", filter.spread());
        }
    }
}

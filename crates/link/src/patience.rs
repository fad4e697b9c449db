//! How long a missing packet is worth waiting for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Learns how long it takes until a packet that was missing is there, overtaken or sent again, and says how long to wait.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    missing: BTreeMap<u64, Instant>,
    average: Option<Duration>,
    deviation: Duration,
}

/// While nothing is known.
const FIRST: Duration = Duration::from_millis(150);
/// Four requests have time for this on a short way.
const SHORTEST: Duration = Duration::from_millis(80);
/// Then a keyframe is the better answer.
const LONGEST: Duration = Duration::from_millis(600);
/// What comes later than this was given up on long ago.
const REMEMBERED: Duration = Duration::from_millis(1500);
const MAX_MISSING: usize = 512;
/// A larger hole is no matter of single packets.
const MAX_HOLE: u64 = 256;

impl Patience {
    /// The packets from `first` to `last` were jumped over.
    pub fn jumped(&mut self, first: u64, last: u64, now: Instant) {
        if last < first || last - first >= MAX_HOLE {
            return;
        }
        self.missing.retain(|_, since| now.saturating_duration_since(*since) <= REMEMBERED);
        self.missing.extend((first..=last).map(|number| (number, now)));
        while self.missing.len() > MAX_MISSING {
            self.missing.pop_first();
        }
    }

    /// A packet came that may have been missing; one that comes too late counts as well.
    pub fn came(&mut self, number: u64, now: Instant) {
        let Some(since) = self.missing.remove(&number) else { return };
        let took = now.saturating_duration_since(since);
        // As RFC 6298 smooths round trips.
        match &mut self.average {
            None => {
                self.deviation = took / 2;
                self.average = Some(took);
            }
            Some(average) => {
                self.deviation = (self.deviation * 3 + took.abs_diff(*average)) / 4;
                *average = (*average * 7 + took) / 8;
            }
        }
    }

    /// How long to wait: for two requests, the second after one and a half round trips, and a way that varies.
    pub fn deadline(&self) -> Duration {
        match self.average {
            None => FIRST,
            Some(average) => (average * 5 / 2 + self.deviation * 4).clamp(SHORTEST, LONGEST),
        }
    }

    /// Another stream begins on the same path: what was learnt of it stays.
    pub fn restart(&mut self) {
        self.missing.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(takes_ms: &[u64]) -> Duration {
        let start = Instant::now();
        let mut patience = Patience::default();
        for (n, took) in takes_ms.iter().enumerate() {
            let (number, at) = (10 * n as u64, start + Duration::from_secs(n as u64));
            patience.jumped(number, number, at);
            patience.came(number, at + Duration::from_millis(*took));
            patience.came(number, at + Duration::from_secs(9));
        }
        patience.deadline()
    }

    #[test]
    fn a_short_way_is_waited_for_less_and_a_long_one_more() {
        assert_eq!(learn(&[]), FIRST);
        assert_eq!(learn(&[8; 20]), SHORTEST);
        let far = learn(&[120; 20]);
        assert!((300..320).contains(&far.as_millis()), "{far:?}");
        assert_eq!(learn(&[550; 20]), LONGEST);
        assert!(
            learn(&[120, 20, 120, 20, 120, 20, 120, 20]) > Duration::from_millis(250),
            "what varies needs more"
        );
    }

    #[test]
    fn what_comes_long_after_it_was_given_up_still_teaches() {
        let start = Instant::now();
        let mut patience = Patience::default();
        patience.jumped(5, 7, start);
        patience.came(6, start + Duration::from_millis(400));
        assert_eq!(patience.deadline(), LONGEST);
    }

    #[test]
    fn it_remembers_a_bounded_number() {
        let start = Instant::now();
        let mut patience = Patience::default();
        for n in 0..100_000u64 {
            patience.jumped(n * 100, n * 100 + 98, start);
            assert!(patience.missing.len() <= MAX_MISSING);
        }
        patience.jumped(0, u64::MAX, start);
        patience.jumped(5, 4, start);
        assert!(patience.missing.len() <= MAX_MISSING);
    }
}

//! How evenly pictures come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many things happened in the last second.
#[derive(Debug, Default)]
pub(crate) struct PerSecond {
    times: VecDeque<Instant>,
}

/// Pictures shown, and when they stood still (W3C webrtc-stats, `freezeCount` and `pauseCount`).
#[derive(Debug, Default)]
pub(crate) struct Pace {
    rate: PerSecond,
    last: Option<Instant>,
    /// The intervals between the last pictures.
    intervals: VecDeque<Duration>,
    totals: PaceTotals,
}

/// Totals of a [`Pace`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PaceTotals {
    /// Pictures of the last second.
    pub per_second: u32,
    /// Intervals that were much longer than those before.
    pub freezes: u64,
    /// How long these took together.
    pub frozen: Duration,
    /// Intervals over five seconds: the sender had nothing to show.
    pub pauses: u64,
    /// How long these took together.
    pub paused: Duration,
    /// All intervals together.
    pub intervals: Duration,
    /// Their squares, in seconds.
    pub squared_seconds: f64,
}

/// More than any camera gives.
const MOST: usize = 512;
/// An interval is compared to the mean of so many before it.
const COMPARED: usize = 30;
const LONGER_BY: Duration = Duration::from_millis(150);
const PAUSE: Duration = Duration::from_secs(5);

impl PerSecond {
    pub(crate) fn add(&mut self, now: Instant) {
        self.times.push_back(now);
        while self.times.len() > MOST
            || self.times.front().is_some_and(|at| *at + Duration::from_secs(1) <= now)
        {
            self.times.pop_front();
        }
    }

    pub(crate) fn count(&self, now: Instant) -> u32 {
        self.times.iter().filter(|at| now.saturating_duration_since(**at) < Duration::from_secs(1)).count()
            as u32
    }
}

impl Pace {
    /// A picture is shown.
    pub(crate) fn shown(&mut self, now: Instant) {
        self.rate.add(now);
        let Some(last) = self.last.replace(now) else { return };
        let interval = now.saturating_duration_since(last);
        self.totals.intervals += interval;
        self.totals.squared_seconds += interval.as_secs_f64().powi(2);
        if interval > PAUSE {
            self.totals.pauses += 1;
            self.totals.paused += interval;
            self.intervals.clear();
            return;
        }
        if self.intervals.len() == COMPARED {
            let mean = self.intervals.iter().sum::<Duration>() / COMPARED as u32;
            if interval >= (mean * 3).max(mean + LONGER_BY) {
                self.totals.freezes += 1;
                self.totals.frozen += interval;
            }
            self.intervals.pop_front();
        }
        self.intervals.push_back(interval);
    }

    pub(crate) fn totals(&self, now: Instant) -> PaceTotals {
        PaceTotals { per_second: self.rate.count(now), ..self.totals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_a_freeze_and_a_long_one_a_pause() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        for n in 0..40 {
            pace.shown(at(33 * n));
        }
        assert_eq!(pace.totals(at(33 * 39)).per_second, 31);
        // A late picture is none: 100 ms are three intervals, but not 150 ms more than one.
        pace.shown(at(1387));
        assert_eq!(pace.totals(at(1387)).freezes, 0);
        pace.shown(at(1687));
        let totals = pace.totals(at(1687));
        assert_eq!((totals.freezes, totals.frozen), (1, Duration::from_millis(300)));
        pace.shown(at(9687));
        pace.shown(at(9720));
        let totals = pace.totals(at(12_000));
        assert_eq!((totals.freezes, totals.pauses, totals.paused), (1, 1, Duration::from_secs(8)));
        assert_eq!((totals.per_second, totals.intervals), (0, Duration::from_millis(9720)));
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        for _ in 0..10_000 {
            pace.shown(now);
        }
        assert_eq!(pace.totals(now).per_second as usize, MOST);
    }
}

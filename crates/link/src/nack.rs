//! When to ask for a lost packet again (RFC 4585, section 6.2.1).
//!
//! A gap is given [`REORDER`] to close by itself, then the packet is asked for, again when the answer is overdue, and from then on
//! twice a round trip: few packets come to that, and on a path that loses one in ten the third answer is in time for them. At most
//! [`MAX_TRIES`] times and for [`GIVE_UP`]. The round trip is learnt from how long the first answer took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const REORDER: Duration = Duration::from_millis(5);
/// The round trip before the first answer.
const UNKNOWN: Duration = Duration::from_millis(40);
const GIVE_UP: Duration = Duration::from_millis(1000);
const MAX_TRIES: u8 = 10;
/// A larger jump is a new stream or a long outage: the decoder needs a keyframe, not a thousand packets.
const MAX_GAP: u64 = 256;
const MAX_MISSING: usize = 512;

/// The packets of one stream that haven't come.
#[derive(Debug, Default)]
pub(crate) struct NackTracker {
    highest: Option<u64>,
    missing: BTreeMap<u64, Missing>,
    /// Smoothed; the first answer is believed, so that a short way is asked often from its first loss on.
    round_trip: Option<Duration>,
    deviation: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    since: Instant,
    asked: Option<Instant>,
    tries: u8,
}

impl NackTracker {
    /// False for a packet that had come already, or was given up.
    pub fn received(&mut self, sequence: u16, now: Instant) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(u64::from(sequence) + (1 << 16));
            return true;
        };
        let number = unwrap_u16(highest, sequence);
        if number > highest {
            if number - highest > MAX_GAP {
                self.missing.clear();
            } else {
                for lost in highest + 1..number {
                    self.missing.insert(lost, Missing { since: now, asked: None, tries: 0 });
                }
                while self.missing.len() > MAX_MISSING {
                    self.missing.pop_first();
                }
            }
            self.highest = Some(number);
        } else {
            let Some(found) = self.missing.remove(&number) else { return false };
            let Some(asked) = found.asked.filter(|_| found.tries == 1) else { return true };
            let sample = now.saturating_duration_since(asked).min(Duration::from_secs(1));
            let known = self.round_trip.unwrap_or(sample);
            self.deviation = (self.deviation * 7 + sample.abs_diff(known)) / 8;
            self.round_trip = Some((known * 7 + sample) / 8);
        }
        true
    }

    /// The packets to ask for now.
    pub fn due(&mut self, now: Instant) -> Vec<u16> {
        let retry = self.retry();
        self.missing.retain(|_, m| m.tries < MAX_TRIES && now.saturating_duration_since(m.since) < GIVE_UP);
        let mut out = Vec::new();
        for (number, missing) in &mut self.missing {
            if missing.next(retry) <= now {
                missing.asked = Some(now);
                missing.tries += 1;
                out.push((*number & 0xffff) as u16);
            }
        }
        out
    }

    pub fn timeout(&self) -> Option<Instant> {
        let retry = self.retry();
        self.missing.values().map(|m| m.next(retry)).min()
    }

    /// How long to wait for the first answer, and for each further one.
    fn retry(&self) -> [Duration; 2] {
        let (least, most) = (Duration::from_millis(20), Duration::from_millis(300));
        let round_trip = self.round_trip.unwrap_or(UNKNOWN);
        let first = round_trip + self.deviation * 2 + REORDER;
        [first.clamp(least, most), (round_trip / 2).clamp(least, most)]
    }
}

impl Missing {
    fn next(&self, [first, further]: [Duration; 2]) -> Instant {
        match self.asked {
            None => self.since + REORDER,
            Some(asked) => asked + if self.tries > 1 { further } else { first },
        }
    }
}

/// The number nearest to `near` whose low 16 bits are `low`.
pub(crate) fn unwrap_u16(near: u64, low: u16) -> u64 {
    let step = i64::from(low.wrapping_sub((near & 0xffff) as u16) as i16);
    near.saturating_add_signed(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_asked_for_until_it_closes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut tracker = NackTracker::default();
        tracker.received(65534, at(0));
        tracker.received(1, at(1));
        assert_eq!(tracker.due(at(2)), Vec::<u16>::new(), "reordering gets its time");
        assert_eq!(tracker.timeout(), Some(at(6)));
        assert_eq!(tracker.due(at(6)), [65535, 0], "across the wrap");
        tracker.received(65535, at(16));
        assert_eq!(tracker.due(at(20)), Vec::<u16>::new());
        assert_eq!(tracker.due(at(26)), [0], "as often as the first answer, after 10 ms, allows");
        assert_eq!(tracker.due(at(46)), [0]);
        tracker.received(0, at(47));
        assert_eq!(tracker.timeout(), None);
    }

    #[test]
    fn it_gives_up_and_keeps_its_bound() {
        let start = Instant::now();
        let mut tracker = NackTracker::default();
        for i in 0..2000u16 {
            tracker.received(i.wrapping_mul(200), start);
            assert!(tracker.missing.len() <= MAX_MISSING);
        }
        let mut asked = 0;
        for ms in 0..3000 {
            asked += tracker.due(start + Duration::from_millis(ms)).len();
        }
        assert!(asked <= MAX_MISSING * usize::from(MAX_TRIES), "{asked}");
        assert_eq!(tracker.timeout(), None);
        tracker.received(30000, start);
        assert_eq!(tracker.timeout(), None, "a jump is not asked for");
    }
}

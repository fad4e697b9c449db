//! Which timestamp belongs to which sample of a stream.

use std::collections::VecDeque;

/// Maps positions in a stream of samples to timestamps.
///
/// A note is kept only where a timestamp differs from what the samples before it imply, so a steady stream keeps one. A timestamp
/// that is the same again says nothing: the source has no clock, and the samples are counted.
#[derive(Default)]
pub(crate) struct Timeline {
    notes: VecDeque<Note>,
    last_us: Option<i64>,
}

struct Note {
    position: u64,
    timestamp_us: i64,
}

/// Rounding in a sender's clock isn't a jump.
const TOLERANCE_US: i64 = 250;

impl Timeline {
    /// The sample at `position` was captured at `timestamp_us`; positions only grow.
    pub fn note(&mut self, position: u64, rate: u32, timestamp_us: i64) {
        if self.last_us.replace(timestamp_us) == Some(timestamp_us) && !self.notes.is_empty() {
            return;
        }
        let expected = self.notes.back().map(|last| last.at(position as f64, rate));
        if expected.is_none_or(|e| e.saturating_sub(timestamp_us).saturating_abs() > TOLERANCE_US) {
            self.notes.push_back(Note { position, timestamp_us });
        }
    }

    /// When the sample at `position` was captured; notes that lie before it are forgotten.
    pub fn at(&mut self, position: f64, rate: u32) -> i64 {
        while self.notes.get(1).is_some_and(|next| next.position as f64 <= position) {
            self.notes.pop_front();
        }
        self.notes.front().map_or(0, |note| note.at(position, rate))
    }

    pub fn clear(&mut self) {
        self.notes.clear();
        self.last_us = None;
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.notes.len()
    }
}

impl Note {
    fn at(&self, position: f64, rate: u32) -> i64 {
        let offset = (position - self.position as f64) * 1e6 / f64::from(rate);
        self.timestamp_us.saturating_add(offset.round() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_keeps_one_note_and_a_jump_adds_one() {
        let mut timeline = Timeline::default();
        for i in 0..100u64 {
            timeline.note(i * 160, 16_000, 5_000 + i as i64 * 10_000);
        }
        assert_eq!(timeline.len(), 1);
        timeline.note(16_000, 16_000, 9_000_000);
        assert_eq!(timeline.len(), 2);
        assert_eq!(timeline.at(15_999.0, 16_000), 5_000 + 999_938);
        assert_eq!(timeline.at(16_016.0, 16_000), 9_001_000);
        assert_eq!(timeline.len(), 1);
    }

    #[test]
    fn a_source_without_a_clock_is_counted() {
        let mut timeline = Timeline::default();
        for i in 0..100u64 {
            timeline.note(i * 160, 16_000, 0);
        }
        assert_eq!((timeline.len(), timeline.at(15_840.0, 16_000)), (1, 990_000));
        timeline.note(16_000, 16_000, 5);
        assert_eq!(timeline.at(16_160.0, 16_000), 10_005, "now it has one");
    }

    #[test]
    fn extreme_timestamps_saturate() {
        let mut timeline = Timeline::default();
        timeline.note(0, 8_000, i64::MAX);
        timeline.note(1, 8_000, i64::MIN);
        assert_eq!(timeline.at(0.5, 8_000), i64::MAX);
    }
}

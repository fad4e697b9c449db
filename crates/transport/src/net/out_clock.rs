//! One media clock for what a peer is sent, whatever clocks the sources have.

use std::time::Instant;

/// Maps the timestamps of sources to microseconds since `epoch`, audio and video alike.
///
/// Timestamps of sound and picture that fit one clock are taken for one clock's: what was captured together stays together.
/// Sources come and go: each begins anew, and where it fits the clock in use, on that.
pub(super) struct OutClock {
    pub(super) epoch: Instant,
    /// From a source's clock to ours, as the last source needed it.
    offset_us: Option<i64>,
    audio: Source,
    video: Source,
}

#[derive(Default)]
struct Source {
    id: Option<u64>,
    offset_us: i64,
}

/// A source that is off the wall clock by more than this has a clock of its own, or has jumped.
const MAX_OFF_US: i64 = 500_000;

impl OutClock {
    pub(super) fn new(epoch: Instant) -> OutClock {
        OutClock { epoch, offset_us: None, audio: Source::default(), video: Source::default() }
    }

    pub(super) fn audio(&mut self, source: u64, timestamp_us: i64, now: Instant) -> i64 {
        let wall_us = self.wall_us(now);
        self.audio.map(&mut self.offset_us, source, timestamp_us, wall_us)
    }

    pub(super) fn video(&mut self, source: u64, timestamp_us: i64, now: Instant) -> i64 {
        let wall_us = self.wall_us(now);
        self.video.map(&mut self.offset_us, source, timestamp_us, wall_us)
    }

    fn wall_us(&self, now: Instant) -> i64 {
        now.saturating_duration_since(self.epoch).as_micros() as i64
    }
}

impl Source {
    fn map(&mut self, shared: &mut Option<i64>, source: u64, timestamp_us: i64, wall_us: i64) -> i64 {
        let fits = |offset: i64| {
            timestamp_us.saturating_add(offset).saturating_sub(wall_us).saturating_abs() <= MAX_OFF_US
        };
        if self.id != Some(source) || !fits(self.offset_us) {
            self.id = Some(source);
            self.offset_us =
                shared.filter(|offset| fits(*offset)).unwrap_or(wall_us.saturating_sub(timestamp_us));
            *shared = Some(self.offset_us);
        }
        timestamp_us.saturating_add(self.offset_us)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn clock() -> (OutClock, impl Fn(u64) -> Instant) {
        let epoch = Instant::now();
        (OutClock::new(epoch), move |us| epoch + Duration::from_micros(us))
    }

    #[test]
    fn timestamps_keep_their_steps_and_jump_only_with_the_source() {
        let (mut clock, at) = clock();
        assert_eq!(clock.audio(1, 5_000_000, at(100)), 100);
        assert_eq!(clock.audio(1, 5_020_000, at(21_000)), 20_100, "steps are the source's");
        assert_eq!(clock.audio(2, 7, at(40_000)), 40_000, "another clock starts at the wall clock");
        assert_eq!(clock.audio(2, 20_007, at(62_000)), 60_000);
        assert_eq!(
            clock.audio(2, 9_000_000, at(80_000)),
            80_000,
            "a jump of the source is none of the receiver's"
        );
    }

    #[test]
    fn sound_and_picture_of_one_clock_stay_together() {
        let (mut clock, at) = clock();
        assert_eq!(clock.audio(1, 5_000_000, at(20_000)), 20_000);
        // The picture of the same time took 90 ms longer to encode.
        assert_eq!(clock.video(2, 5_000_000, at(110_000)), 20_000);
        assert_eq!(clock.video(2, 5_033_333, at(113_000)), 53_333);
        // A source on the same clock goes on where the other was.
        assert_eq!(clock.video(3, 5_100_000, at(150_000)), 120_000);
        // One with a clock of its own can't be told to belong anywhere.
        assert_eq!(clock.video(4, 0, at(200_000)), 200_000);
        assert_eq!(
            clock.audio(1, 5_200_000, at(221_000)),
            220_000,
            "that is no reason for the sound to jump"
        );
    }
}

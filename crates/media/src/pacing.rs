//! What rate control wants to know of time: strictly growing frame times, and how long encoding takes.

/// Turns timestamps, which may repeat, go back or jump, into presentation times that always grow.
pub(crate) struct FrameClock {
    nominal_us: i64,
    last_timestamp_us: Option<i64>,
    now_us: i64,
}

/// Chooses the encoder's speed step by how long it takes.
pub(crate) struct SpeedGovernor {
    speed: i32,
    range: (i32, i32),
    /// Share of the frame interval that encoding takes, smoothed.
    load: Option<f64>,
    /// Frames until the next change: the effect of one has to be seen first.
    hold: u32,
}

/// A pause longer than this counts as this long, or rate control would spend the whole pause's bits on one frame.
const MAX_GAP_US: i64 = 500_000;
const SMOOTHING: f64 = 0.1;
const TOO_SLOW: f64 = 0.6;
const ROOM_TO_SPARE: f64 = 0.25;
const HOLD_FRAMES: u32 = 30;

impl FrameClock {
    pub fn new(max_fps: u32) -> FrameClock {
        FrameClock { nominal_us: nominal(max_fps), last_timestamp_us: None, now_us: 0 }
    }

    pub fn set_max_fps(&mut self, max_fps: u32) {
        self.nominal_us = nominal(max_fps);
    }

    /// The presentation time of the frame captured at `timestamp_us`, and its nominal duration.
    pub fn next(&mut self, timestamp_us: i64) -> (i64, i64) {
        if let Some(last) = self.last_timestamp_us.replace(timestamp_us) {
            let passed = timestamp_us.saturating_sub(last);
            let step = if passed <= 0 {
                self.nominal_us
            } else {
                // Two frames at nearly the same time are a burst, not a thousand frames a second.
                passed.clamp(self.nominal_us / 2, MAX_GAP_US.max(self.nominal_us))
            };
            self.now_us = self.now_us.saturating_add(step);
        }
        (self.now_us, self.nominal_us)
    }
}

impl SpeedGovernor {
    /// Starts at `speed` and stays within `range`; higher is faster.
    pub fn new(speed: i32, range: (i32, i32)) -> SpeedGovernor {
        SpeedGovernor { speed, range, load: None, hold: HOLD_FRAMES }
    }

    /// Takes how long one frame took; says the new speed where it should change.
    pub fn observe(&mut self, took_us: i64, interval_us: i64) -> Option<i32> {
        let now = took_us as f64 / interval_us.max(1) as f64;
        let load = self.load.map_or(now, |l| l + (now - l) * SMOOTHING);
        self.load = Some(load);
        self.hold = self.hold.saturating_sub(1);
        if self.hold > 0 {
            return None;
        }
        let wanted = if load > TOO_SLOW {
            self.speed + 1
        } else if load < ROOM_TO_SPARE {
            self.speed - 1
        } else {
            self.speed
        };
        let wanted = wanted.clamp(self.range.0, self.range.1);
        if wanted == self.speed {
            return None;
        }
        self.speed = wanted;
        self.hold = HOLD_FRAMES;
        Some(wanted)
    }
}

fn nominal(max_fps: u32) -> i64 {
    1_000_000 / i64::from(max_fps.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_grow_whatever_the_timestamps_do() {
        let mut clock = FrameClock::new(30);
        let mut last = -1;
        for timestamp in [0, 33_333, 33_333, 10, i64::MAX, i64::MIN, i64::MIN, 0, 1, 2, 9_000_000_000] {
            let (now, _) = clock.next(timestamp);
            assert!(now > last, "{timestamp}: {now} after {last}");
            assert!(now - last <= MAX_GAP_US + 1);
            last = now;
        }
    }

    #[test]
    fn steady_timestamps_pass_unchanged() {
        let mut clock = FrameClock::new(60);
        let times: Vec<_> = (0..5).map(|i| clock.next(777 + i * 40_000).0).collect();
        assert_eq!(times, [0, 40_000, 80_000, 120_000, 160_000]);
    }

    #[test]
    fn the_speed_follows_the_load_and_stays_in_range() {
        let mut governor = SpeedGovernor::new(8, (7, 9));
        let run = |g: &mut SpeedGovernor, took| {
            (0..300).filter_map(|_| g.observe(took, 33_333)).collect::<Vec<_>>()
        };
        assert_eq!(run(&mut governor, 30_000), [9]);
        assert_eq!(run(&mut governor, 15_000), [] as [i32; 0]);
        assert_eq!(run(&mut governor, 3_000), [8, 7]);
    }
}

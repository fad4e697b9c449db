//! Frames at the pace they were captured at.

use crate::assembler::AssembledFrame;
use remotemedia_media::DelayFilter;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Holds whole frames back as long as the unevenness of their arrival asks for, so that they come out as evenly as they were
/// captured. On a path that is even enough nothing is held.
#[derive(Debug)]
pub(crate) struct Playout {
    waiting: VecDeque<(AssembledFrame, Instant)>,
    bytes: usize,
    filter: DelayFilter,
    hold: Duration,
    last_us: Option<i64>,
    /// What was captured before this is behind a large frame.
    settled_us: i64,
    /// Of a frame, smoothed.
    mean_bytes: usize,
}

/// The share of frames that are waited for.
const COVERED: f64 = 0.95;
/// Less unevenness than this is not worth waiting for: it is less than a frame at 30 a second.
const QUIET: Duration = Duration::from_millis(30);
const MAX_HOLD: Duration = Duration::from_millis(200);
/// Nothing can be said of fewer in four seconds; and there is no pace to keep.
const MIN_FRAMES: usize = 20;
/// How fast the delay changes, as a share of the time between two frames.
const GROW: u32 = 2;
const SHRINK: u32 = 20;
const MAX_STEP: Duration = Duration::from_millis(100);
/// A frame so many times as large as others, and as a packet, takes its time, because its sender spreads it out, and so do those
/// behind it. That says nothing of the path, and is too rare to hold back all the others for it.
const LARGE: usize = 3;
const PACKET: usize = 1200;
const SETTLES_US: i64 = 150_000;
const KEYFRAME_SETTLES_US: i64 = 300_000;
/// More than this doesn't wait, whatever the timestamps say.
const MAX_FRAMES: usize = 64;
const MAX_BYTES: usize = 4 << 20;

impl Playout {
    pub fn new() -> Playout {
        Playout {
            waiting: VecDeque::new(),
            bytes: 0,
            filter: DelayFilter::new(COVERED),
            hold: Duration::ZERO,
            last_us: None,
            settled_us: i64::MIN,
            mean_bytes: 0,
        }
    }

    /// A frame became whole at `now`.
    pub fn push(&mut self, frame: AssembledFrame, now: Instant) {
        let at = frame.timestamp_us;
        let bytes = frame.data.len();
        if bytes > LARGE * self.mean_bytes.max(PACKET) {
            let settles = if frame.keyframe { KEYFRAME_SETTLES_US } else { SETTLES_US };
            self.settled_us = self.settled_us.max(at.saturating_add(settles));
        }
        self.mean_bytes = (15 * self.mean_bytes + bytes.min((LARGE + 1) * self.mean_bytes.max(PACKET))) / 16;
        if at >= self.settled_us {
            self.filter.arrived(at, now);
        }
        let step = at.saturating_sub(self.last_us.replace(at).unwrap_or(at));
        let step = Duration::from_micros(step.max(0) as u64).min(MAX_STEP);
        let spread = self.filter.spread();
        let wanted = if spread < QUIET || self.filter.count() < MIN_FRAMES {
            Duration::ZERO
        } else {
            spread.min(MAX_HOLD)
        };
        self.hold = wanted.clamp(self.hold.saturating_sub(step / SHRINK), self.hold + step / GROW);
        let due = match self.filter.due(at) {
            // However the timestamps jump.
            Some(due) if !self.hold.is_zero() => (due + self.hold).min(now + MAX_HOLD),
            _ => now,
        };
        self.bytes += bytes;
        self.waiting.push_back((frame, due));
    }

    pub fn pop(&mut self, now: Instant) -> Option<AssembledFrame> {
        if self.due()? > now && self.waiting.len() <= MAX_FRAMES && self.bytes <= MAX_BYTES {
            return None;
        }
        let (frame, _) = self.waiting.pop_front()?;
        self.bytes -= frame.data.len();
        Some(frame)
    }

    /// When the first frame comes out.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, due)| *due)
    }

    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// Another stream begins: what waits of the old one waits no longer.
    pub fn restart(&mut self, now: Instant) {
        self.filter.clear();
        (self.last_us, self.settled_us) = (None, i64::MIN);
        for (_, due) in &mut self.waiting {
            *due = now.min(*due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use remotemedia_media::VideoCodec;

    #[test]
    fn a_large_frame_and_those_behind_it_hold_back_nobody() {
        let mut playout = Playout::new();
        let start = Instant::now();
        let mut held = 0;
        for n in 0..150u64 {
            let burst = n >= 30 && (n - 30) % 40 < 3;
            let late = if burst { 100 - 33 * ((n - 30) % 40) } else { 0 };
            let now = start + Duration::from_millis(33 * n + late);
            let size = if burst && (n - 30) % 40 == 0 { 60_000 } else { 9_000 };
            let frame = AssembledFrame {
                data: Bytes::from(vec![0; size]),
                keyframe: n == 0,
                timestamp_us: 33_000 * n as i64,
                rtp_timestamp: 2970 * n as u32,
                codec: VideoCodec::Vp9,
            };
            playout.push(frame, now);
            held += u32::from(playout.pop(now).is_none());
        }
        // Nor is one held that comes before its time.
        let early = start + Duration::from_millis(33 * 149 + 1);
        let frame = AssembledFrame {
            data: Bytes::from(vec![0; 60_000]),
            keyframe: false,
            timestamp_us: 33_000 * 150,
            rtp_timestamp: 0,
            codec: VideoCodec::Vp9,
        };
        playout.push(frame, early);
        held += u32::from(playout.pop(early).is_none());
        assert_eq!((held, playout.hold()), (0, Duration::ZERO));
    }
}

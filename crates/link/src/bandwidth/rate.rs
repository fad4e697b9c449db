//! The rate at which packets arrive, by the peer's clock.

use std::collections::VecDeque;
use std::time::Duration;

const WINDOW: Duration = Duration::from_millis(500);
const MOMENT: Duration = Duration::from_millis(200);
/// Packets that say something of a moment.
const ENOUGH: usize = 5;
const LEAST: Duration = Duration::from_millis(100);
const MAX_PACKETS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Rate {
    packets: VecDeque<(Duration, usize)>,
    bytes: usize,
    newest: Duration,
}

impl Rate {
    pub fn add(&mut self, arrived: Duration, bytes: usize) {
        // A clock that jumped tells nothing of what was before.
        let jump = Duration::from_secs(5);
        if arrived > self.newest + jump || arrived + jump < self.newest {
            self.packets.clear();
            (self.bytes, self.newest) = (0, arrived);
        }
        self.newest = self.newest.max(arrived);
        self.packets.push_back((arrived, bytes));
        self.bytes += bytes;
        while let Some(&(at, old)) = self.packets.front()
            && (at + WINDOW < self.newest || self.packets.len() > MAX_PACKETS)
        {
            self.packets.pop_front();
            self.bytes -= old;
        }
    }

    /// Bit/s, once there is enough to tell.
    pub fn bps(&self) -> Option<f64> {
        let oldest = self.packets.front()?.0;
        let span = self.newest.saturating_sub(oldest);
        (span >= LEAST).then(|| self.bytes as f64 * 8.0 / span.max(WINDOW.mul_f64(0.6)).as_secs_f64())
    }

    /// The same over the last moment: what a path carries that has just become narrow.
    pub fn latest_bps(&self) -> Option<f64> {
        let since = self.newest.checked_sub(MOMENT)?;
        let latest = || self.packets.iter().rev().take_while(|(at, _)| *at > since);
        let bps = self.bps()?;
        if latest().count() < ENOUGH {
            return Some(bps);
        }
        let bytes: usize = latest().map(|(_, bytes)| bytes).sum();
        Some(bps.min(bytes as f64 * 8.0 / MOMENT.as_secs_f64()))
    }
}

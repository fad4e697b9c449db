//! When to ask a peer for a keyframe.

use std::time::{Duration, Instant};

/// A request may be lost, so it is repeated; a sender that never answers is asked less and less often.
#[derive(Debug, Default)]
pub(crate) struct KeyframeRequests {
    last: Option<Instant>,
    /// Since the last keyframe.
    unanswered: u32,
}

/// A keyframe that does not come is asked for again after this …
const RETRY: Duration = Duration::from_millis(300);
/// … twice, then each time after twice as long, up to this.
const LONGEST: Duration = Duration::from_secs(3);
const QUICK: u32 = 2;

impl KeyframeRequests {
    /// A keyframe is needed: whether to ask for it now.
    pub(crate) fn needed(&mut self, now: Instant) -> bool {
        let doubled = self.unanswered.saturating_sub(QUICK).min(8);
        let wait = (RETRY * (1 << doubled)).min(LONGEST);
        let ask = self.last.is_none_or(|last| now.saturating_duration_since(last) >= wait);
        if ask {
            self.last = Some(now);
            self.unanswered = self.unanswered.saturating_add(1);
        }
        ask
    }

    /// One came.
    pub(crate) fn came(&mut self) {
        self.unanswered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_ignores_every_request_is_asked_less_and_less_often() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut requests = KeyframeRequests::default();
        let asked: Vec<u64> = (0..60_000).step_by(10).filter(|ms| requests.needed(at(*ms))).collect();
        assert_eq!(asked[..7], [0, 300, 600, 1200, 2400, 4800, 7800]);
        assert!(asked.len() < 30, "{} in a minute", asked.len());
        // One that answers is asked as soon as need be again.
        requests.came();
        assert!(requests.needed(at(60_300)));
        requests.came();
        assert!(!requests.needed(at(60_400)), "but never faster than that");
        assert!(requests.needed(at(60_600)));
    }
}

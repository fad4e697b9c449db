//! Making a peer wait with its messages.

use std::time::{Duration, Instant};

/// How often some messages pass all the same, and how many bytes of them.
///
/// The engine tells of a window that opens again only when something comes in, and a sender's attempts get rarer with each that
/// fails; after six it makes no more. So the window is never shut for long, and a sender goes on seconds after it may.
const TRICKLE: Duration = Duration::from_secs(TRICKLE_S);
const TRICKLE_S: u64 = 10;
const TRICKLE_BYTES: usize = 512 << 10;

/// Whether messages are held back, and when the next ones pass.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    on: bool,
    next: Option<Instant>,
    passed: usize,
}

impl Hold {
    /// Returns whether that is a change.
    pub(crate) fn set(&mut self, on: bool) -> bool {
        let changed = self.on != on;
        if changed {
            *self = Hold { on, ..Hold::default() };
        }
        changed
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Whether it is time for a message.
    pub(crate) fn may_pass(&mut self, now: Instant) -> bool {
        self.on && *self.next.get_or_insert(now + TRICKLE) <= now
    }

    /// One of this many bytes has passed.
    pub(crate) fn passed(&mut self, now: Instant, bytes: usize) {
        self.passed += bytes;
        if self.passed >= TRICKLE_BYTES {
            self.passed = 0;
            self.next = Some(now + TRICKLE);
        }
    }

    /// When a message that waits may pass.
    pub(crate) fn next_at(&self, now: Instant) -> Option<Instant> {
        self.next.filter(|at| self.on && *at > now)
    }
}

//! Driver rule D3: the handshake's own timers start at a second, so it is helped along from here.

use crate::event::Transmit;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const RESEND_FIRST: Duration = Duration::from_millis(30);
/// The least time between two answers to what the peer sent again.
const RESEND_ANSWER: Duration = Duration::from_millis(20);
const RESEND_MOST: Duration = Duration::from_millis(250);
const RESEND_DATAGRAMS: usize = 6;
/// A link without a data channel is open when it is connected; the peer may still lack our last flight.
pub(crate) const RESEND_AFTER_CONNECT: Duration = Duration::from_millis(500);
pub(crate) const RESEND_FOR: Duration = Duration::from_secs(5);

/// Driver rule D3: the last DTLS datagrams, sent again while the peer is silent before the link is open, and for a while
/// after that when the peer does the same, because then it lacks the last ones.
#[derive(Default)]
pub(crate) struct Resend {
    pub last: VecDeque<Transmit>,
    /// The first record headers of the last DTLS datagrams in (RFC 6347, section 4.1).
    heard: VecDeque<[u8; 13]>,
    pub at: Option<Instant>,
    interval: Duration,
    rounds: u32,
    answered: Option<Instant>,
    /// When to stop though nothing opened.
    pub until: Option<Instant>,
    /// The link is open: nothing is sent again unasked.
    pub done: bool,
    /// `last` holds what opened the link, and takes no more.
    pub frozen: bool,
}

impl Resend {
    /// Nothing is sent again any more.
    pub fn over() -> Self {
        Self { done: true, frozen: true, ..Self::default() }
    }

    pub fn sent(&mut self, now: Instant, transmit: Transmit) {
        if self.last.len() == RESEND_DATAGRAMS {
            self.last.pop_front();
        }
        self.last.push_back(transmit);
        if self.at.is_none() {
            self.interval = RESEND_FIRST;
            self.at = Some(now + RESEND_FIRST);
        }
    }

    /// True if the peer sent this before: it is to be answered with what we sent last.
    pub fn heard(&mut self, now: Instant, data: &[u8]) -> bool {
        if self.last.is_empty() {
            return false;
        }
        // Record headers carry a number that is never used twice; a record made anew has another.
        let mut header = [0; 13];
        let known = data.len().min(13);
        header[..known].copy_from_slice(&data[..known]);
        if self.heard.contains(&header) {
            let again = self.answered.is_none_or(|at| now.saturating_duration_since(at) >= RESEND_ANSWER);
            if again {
                self.answered = Some(now);
            }
            return again;
        }
        if self.heard.len() == 2 * RESEND_DATAGRAMS {
            self.heard.pop_front();
        }
        self.heard.push_back(header);
        if self.at.is_some() {
            self.interval = RESEND_FIRST;
            self.rounds = 0;
            self.at = Some(now + RESEND_FIRST);
        }
        false
    }

    /// Three times at the first pace, then slower: on a path of a long round trip the answers are only under way.
    pub fn again(&mut self, now: Instant) {
        self.rounds += 1;
        if self.rounds > 3 {
            self.interval = (self.interval * 3 / 2).min(RESEND_MOST);
        }
        self.at = Some(now + self.interval);
    }
}

//! Requests under way and their retransmission (RFC 8489, section 6.2).

use super::auth::Signed;
use bytes::Bytes;
use rtc::stun::message::{
    METHOD_ALLOCATE, METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_REFRESH, Method, TransactionId,
};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// The first retransmission timeout: short, so that one lost datagram costs little.
pub(super) const MIN_RTO: Duration = Duration::from_millis(100);
/// The largest first timeout, that of RFC 8489, on paths that were measured to be slow.
const MAX_RTO: Duration = Duration::from_millis(500);
/// Rc: how often a request is sent.
const SENDS: u32 = 7;
/// Rm: how many first timeouts the last one waits.
const LAST_WAIT: u32 = 16;
/// How long an answer may take on a stream.
const STREAM_WAIT: Duration = Duration::from_secs(10);
/// How long an authenticated answer has to overtake an error that isn't.
const DOUBT: Duration = Duration::from_millis(500);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Allocate,
    Refresh,
    /// A Refresh with lifetime 0. If there is something new to be made, `then_allocate`.
    Release {
        then_allocate: bool,
    },
    Permission(IpAddr),
    Channel(SocketAddr, u16),
}

impl Kind {
    pub fn method(self) -> Method {
        match self {
            Kind::Allocate => METHOD_ALLOCATE,
            Kind::Refresh | Kind::Release { .. } => METHOD_REFRESH,
            Kind::Permission(_) => METHOD_CREATE_PERMISSION,
            Kind::Channel(..) => METHOD_CHANNEL_BIND,
        }
    }
}

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timers {
    left: u32,
    wait: Duration,
    last_wait: Duration,
    next: Instant,
    first: Instant,
    /// The end, if it comes earlier.
    until: Option<Instant>,
}

/// What a timer calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Retransmit,
    GiveUp,
}

impl Timers {
    /// Just sent for the first time.
    pub fn start(now: Instant, rto: Duration, stream: bool) -> Self {
        let (left, wait) = if stream { (0, STREAM_WAIT) } else { (SENDS - 1, rto) };
        Self { left, wait, last_wait: rto * LAST_WAIT, next: now + wait, first: now, until: None }
    }

    /// Counted from now on and not from when it was due, so that a stalled process still waits for its answers.
    pub fn due(&mut self, now: Instant) -> Due {
        if now < self.next() {
            return Due::Nothing;
        }
        if self.left == 0 || self.until.is_some_and(|until| until <= now) {
            return Due::GiveUp;
        }
        self.left -= 1;
        self.wait *= 2;
        self.next = now + if self.left == 0 { self.last_wait } else { self.wait };
        Due::Retransmit
    }

    pub fn next(&self) -> Instant {
        self.until.map_or(self.next, |until| until.min(self.next))
    }

    /// When it was first sent.
    pub fn first(&self) -> Instant {
        self.first
    }

    fn doubt(&mut self, now: Instant) {
        self.until = Some(now + DOUBT);
    }
}

/// One request under way.
pub(super) struct Transaction {
    pub id: TransactionId,
    pub kind: Kind,
    pub bytes: Bytes,
    /// `None` if it was sent without credentials.
    pub signed: Option<Signed>,
    /// How often its like was answered 438 or with another realm, without anything else between.
    pub stale: u32,
    pub timers: Timers,
    /// An error answer without integrity. It counts if nothing better comes.
    doubtful: Option<(u16, String)>,
}

impl Transaction {
    pub fn new(
        kind: Kind,
        id: TransactionId,
        (bytes, signed): (Bytes, Option<Signed>),
        timers: Timers,
    ) -> Self {
        Self { id, kind, bytes, signed, stale: 0, timers, doubtful: None }
    }

    /// Keeps an error that nobody vouches for, and waits a moment for a better answer.
    pub fn doubt(&mut self, now: Instant, code: u16, reason: String) {
        if self.doubtful.is_none() {
            self.doubtful = Some((code, reason));
            self.timers.doubt(now);
        }
    }

    pub fn doubtful(&mut self) -> Option<(u16, String)> {
        self.doubtful.take()
    }
}

/// The first timeout after an answer took this long, counted from the first sending.
pub(super) fn rto_after(answered_in: Duration) -> Duration {
    (answered_in * 2).clamp(MIN_RTO, MAX_RTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_seven_times_and_gives_up_after_seventy_nine_timeouts() {
        let start = Instant::now();
        let mut timers = Timers::start(start, MIN_RTO, false);
        let mut at = Vec::new();
        let end = loop {
            let now = timers.next();
            match timers.due(now) {
                Due::Retransmit => at.push((now - start).as_millis()),
                Due::GiveUp => break now - start,
                Due::Nothing => panic!("told to come now"),
            }
        };
        assert_eq!(at, [100, 300, 700, 1500, 3100, 6300]);
        assert_eq!(end, Duration::from_millis(7900));
    }

    #[test]
    fn a_stalled_process_still_waits_for_the_answer() {
        let start = Instant::now();
        let mut timers = Timers::start(start, MIN_RTO, false);
        let late = start + Duration::from_secs(60);
        assert_eq!(timers.due(late), Due::Retransmit);
        assert_eq!(timers.due(late), Due::Nothing);
        assert_eq!(timers.next(), late + MIN_RTO * 2);
    }

    #[test]
    fn a_stream_is_trusted_to_deliver() {
        let start = Instant::now();
        let mut timers = Timers::start(start, MIN_RTO, true);
        assert_eq!(timers.due(timers.next() - Duration::from_millis(1)), Due::Nothing);
        assert_eq!(timers.due(timers.next()), Due::GiveUp);
        assert_eq!(timers.next(), start + STREAM_WAIT);
    }

    #[test]
    fn slow_paths_get_longer_timeouts_within_bounds() {
        assert_eq!(rto_after(Duration::from_millis(2)), MIN_RTO);
        assert_eq!(rto_after(Duration::from_millis(120)), Duration::from_millis(240));
        assert_eq!(rto_after(Duration::from_secs(7)), MAX_RTO);
    }
}

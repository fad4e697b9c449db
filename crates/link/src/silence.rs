//! While nothing comes from the peer, the engine's clock stands still.
//!
//! Its SCTP would otherwise double its retransmission timeout into the silence, up to a minute, and give the timer up for good
//! after the sixth time, though RFC 8831 (section 5) leaves it to ICE to say when a peer is gone. So a silence takes no time
//! there; the link repeats the last checks itself, and with the first answer the clock is set on: what was in flight goes out
//! again at once.

use crate::event::{IceState, LinkEvent, LinkState, Transmit};
use crate::link::Link;
use bytes::Bytes;
use rtc::sansio::Protocol;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Silence after which the clock stands.
const STILL: Duration = Duration::from_millis(1500);
/// What a new negotiation gets within a silence: enough for the engine to write the first checks.
const A_MOMENT: Duration = Duration::from_millis(100);
/// Between two repetitions of the checks: at first, and then.
const CHECK_SOON: Duration = Duration::from_millis(100);
const CHECK_OFTEN: u32 = 10;
/// Paths whose last check is kept.
const MAX_CHECKS: usize = 128;
/// Datagrams with data that are sent again on a new pair: as many as a receiver's window against replay takes out of order
/// (RFC 6347, section 4.1.2.6).
const MAX_RECENT: usize = 64;
/// What was sent so long before the peer was last heard may have been lost as well.
const IN_FLIGHT: Duration = Duration::from_millis(250);
/// How long the pair in use has to be silent while the peer is heard elsewhere.
const MOVED: Duration = Duration::from_secs(1);
/// A check from elsewhere says nothing any more after this.
const ELSEWHERE: Duration = Duration::from_secs(3);
/// The least time between two [`LinkEvent::PathSuspect`].
const SUSPECT: Duration = Duration::from_secs(2);

const BINDING_REQUEST: &[u8] = &[0x00, 0x01];
const BINDING_SUCCESS: &[u8] = &[0x01, 0x01];

#[derive(Debug)]
pub(crate) struct Silence {
    /// The link was connected once.
    once: bool,
    /// ICE was restarted and has no pair yet.
    restarting: bool,
    /// When anything of the peer's last came in, and when on the pair in use.
    life: Instant,
    heard: Instant,
    /// When something was negotiated last.
    negotiated: Instant,
    /// What the engine's clock is behind ours.
    lag: Duration,
    /// The engine's time, while its clock stands.
    stands: Option<Instant>,
    /// That ICE is disconnected was found here, not by the engine.
    told: bool,
    /// The last check on each path, to be repeated.
    checks: Vec<Transmit>,
    check_at: Instant,
    repeats: u32,
    /// When a check of the peer's was accepted on another path than the one in use.
    elsewhere: Option<Instant>,
    suspected: Option<Instant>,
    /// The last datagrams with SCTP packets, and when they were sent.
    recent: VecDeque<(Instant, Bytes)>,
}

impl Silence {
    pub fn new(now: Instant) -> Self {
        Self {
            once: false,
            restarting: false,
            life: now,
            heard: now,
            negotiated: now,
            lag: Duration::ZERO,
            stands: None,
            told: false,
            checks: Vec::new(),
            check_at: now,
            repeats: 0,
            elsewhere: None,
            suspected: None,
            recent: VecDeque::new(),
        }
    }

    /// ICE looks for a new pair of a link that had one: when the peer was last heard on that.
    pub fn restarted(&self) -> Option<Instant> {
        self.restarting.then_some(self.heard)
    }

    pub fn stands(&self) -> bool {
        self.stands.is_some()
    }

    /// A STUN message goes out.
    pub fn sent(&mut self, now: Instant, transmit: &Transmit, in_use: bool) {
        if transmit.data.starts_with(BINDING_REQUEST) {
            let path = |t: &Transmit| (t.local, t.remote);
            self.checks.retain(|known| path(known) != path(transmit));
            if self.checks.len() == MAX_CHECKS {
                self.checks.remove(0);
            }
            self.checks.push(transmit.clone());
        } else if transmit.data.starts_with(BINDING_SUCCESS) && !in_use {
            // The engine answers only what has the right MESSAGE-INTEGRITY.
            self.elsewhere = Some(now);
        }
    }

    /// The answer to the last check on a path.
    fn answers(&self, local: SocketAddr, remote: SocketAddr, data: &[u8]) -> bool {
        let id = |data: &[u8]| <[u8; 12]>::try_from(data.get(8..20)?).ok();
        let check = self.checks.iter().find(|check| (check.local, check.remote) == (local, remote));
        data.starts_with(BINDING_SUCCESS) && check.is_some_and(|check| id(&check.data) == id(data))
    }

    /// A DTLS record with data goes out.
    pub fn sent_data(&mut self, now: Instant, data: &Bytes) {
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((now, data.clone()));
    }

    /// The engine's state of ICE changed.
    pub fn ice_changed(&mut self, now: Instant, state: IceState) {
        self.told = false;
        match state {
            IceState::Checking => {
                self.checks.clear();
                self.restarting = self.once;
            }
            IceState::Connected | IceState::Completed => {
                self.restarting = false;
                (self.once, self.heard) = (true, now);
                self.elsewhere = None;
            }
            _ => {}
        }
    }
}

impl Link {
    /// When the last datagram came from the peer's side of the pair in use; the beginning of the link, if none did.
    pub fn last_heard(&self) -> Instant {
        self.silence.heard
    }

    /// What the engine is told that the time is.
    pub(crate) fn engine_time(&self, now: Instant) -> Instant {
        let silence = &self.silence;
        silence.stands.unwrap_or_else(|| now.checked_sub(silence.lag).unwrap_or(now))
    }

    /// When that is that the engine speaks of.
    pub(crate) fn our_time(&self, engine: Instant) -> Instant {
        if self.silence.stands() { self.last_now() } else { engine + self.silence.lag }
    }

    /// A datagram comes in. True if the engine's clock was behind and is not any more, so that its timers are due.
    pub(crate) fn hear(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, data: &[u8]) -> bool {
        let in_use = self.selected == Some((local, remote)) && self.has_pair();
        let answer = in_use && self.silence.answers(local, remote, data);
        let told = self.silence.told && in_use;
        let silence = &mut self.silence;
        silence.life = now;
        if in_use {
            silence.heard = now;
        }
        if let Some(at) = silence.stands.take() {
            silence.lag = now.saturating_duration_since(at);
        }
        // Only with an answer that the engine takes as a sign of life may it learn how much time has passed.
        let caught_up = answer && silence.lag > Duration::ZERO;
        if caught_up {
            silence.lag = Duration::ZERO;
        }
        if told {
            silence.told = false;
            self.ice = IceState::Connected;
            self.events.push_back(LinkEvent::IceState(self.ice));
            self.set_state(LinkState::Connected);
        }
        caught_up
    }

    /// Something was negotiated: the engine has work to do.
    pub(crate) fn stir(&mut self, now: Instant) {
        let silence = &mut self.silence;
        silence.negotiated = now;
        silence.repeats = 0;
        if let Some(at) = silence.stands.take() {
            silence.lag = now.saturating_duration_since(at);
        }
    }

    /// ICE has found a new pair. What was sent on the old one since the peer was heard there is sent again as it was, which a
    /// receiver that has it drops: SCTP itself would wait for its timer, a second at least.
    pub(crate) fn repeat_recent(&mut self, since: Instant) {
        let Some((local, remote)) = self.selected else { return };
        let lost = self.silence.recent.iter().filter(|(at, _)| *at + IN_FLIGHT >= since);
        self.transmits.extend(lost.map(|(_, data)| Transmit { local, remote, data: data.clone() }));
    }

    /// Stops the clock if it is time to.
    pub(crate) fn rest_if_silent(&mut self, now: Instant) {
        if self.silence.once && !self.silence.stands() && self.still_at() <= now && self.may_rest() {
            let at = self.engine_time(now);
            self.silence.stands = Some(at);
            self.silence.check_at = now;
            self.stats.silences += 1;
        }
    }

    /// What is done instead of the engine's timers while the clock stands.
    pub(crate) fn keep_silence(&mut self, now: Instant) {
        if self.has_pair() && self.ice != IceState::Disconnected && now >= self.silent_at() {
            self.silence.told = true;
            self.ice = IceState::Disconnected;
            self.events.push_back(LinkEvent::IceState(self.ice));
            self.set_state(LinkState::Disconnected);
        }
        if now >= self.given_up_at() {
            self.silence.stands = None;
            self.ice = IceState::Failed;
            self.events.push_back(LinkEvent::IceState(self.ice));
            return self.set_state(LinkState::Failed);
        }
        if now >= self.silence.check_at {
            let only = self.selected.filter(|_| self.has_pair());
            let wanted = |t: &&Transmit| only.is_none_or(|pair| pair == (t.local, t.remote));
            self.transmits.extend(self.silence.checks.iter().filter(wanted).cloned());
            self.silence.repeats += 1;
            let often = self.silence.repeats <= CHECK_OFTEN && self.ice == IceState::Checking;
            self.silence.check_at = now + if often { CHECK_SOON } else { self.config.ice_keepalive };
        }
    }

    /// The peer sees us at another address than before: it goes on sending to the old one, where nobody is any more.
    pub(crate) fn mapping_changed(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) {
        let recent = self.silence.suspected.is_some_and(|last| now < last + SUSPECT);
        if self.selected == Some((local, remote)) && self.has_pair() && !recent {
            self.suspect(now);
        }
    }

    /// Tells the owner that the peer has moved.
    pub(crate) fn suspect_if_due(&mut self, now: Instant) {
        if self.suspect_at().is_some_and(|at| at <= now) {
            self.suspect(now);
        }
    }

    fn suspect(&mut self, now: Instant) {
        self.silence.elsewhere = None;
        self.silence.suspected = Some(now);
        self.stats.path_suspects += 1;
        self.events.push_back(LinkEvent::PathSuspect);
    }

    /// When there is something to do here.
    pub(crate) fn silence_due(&self) -> Option<Instant> {
        let silence = &self.silence;
        if silence.stands() {
            let told = !self.has_pair() || self.ice == IceState::Disconnected;
            let silent = (!told).then(|| self.silent_at());
            return [Some(silence.check_at), Some(self.given_up_at()), silent].into_iter().flatten().min();
        }
        let still = (silence.once && self.may_rest()).then(|| self.still_at());
        [still, self.suspect_at()].into_iter().flatten().min()
    }

    fn still_at(&self) -> Instant {
        (self.silence.life + STILL).max(self.silence.negotiated + A_MOMENT)
    }

    fn silent_at(&self) -> Instant {
        self.silence.heard + self.config.ice_disconnected
    }

    fn given_up_at(&self) -> Instant {
        self.silence.heard + self.config.ice_disconnected + self.config.ice_failed
    }

    fn suspect_at(&self) -> Option<Instant> {
        let silence = &self.silence;
        let at = silence.heard + MOVED;
        let seen = silence.elsewhere.filter(|seen| *seen > silence.heard && *seen + ELSEWHERE >= at)?;
        let at = at.max(seen).max(silence.suspected.map_or(at, |last| last + SUSPECT));
        (self.has_pair() && silence.once && at <= seen + ELSEWHERE).then_some(at)
    }

    /// ICE has a pair, whether or not anything comes by it.
    fn has_pair(&self) -> bool {
        matches!(self.ice, IceState::Connected | IceState::Completed | IceState::Disconnected)
    }

    fn may_rest(&self) -> bool {
        self.has_pair() || self.ice == IceState::Checking
    }

    /// The engine's timers, unless its clock stands.
    pub(crate) fn engine_timeout(&mut self, now: Instant) {
        if !self.silence.stands() {
            let at = self.engine_time(now);
            let _ = self.pc.handle_timeout(at);
        }
    }
}

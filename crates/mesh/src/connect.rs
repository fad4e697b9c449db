//! Connect requests, and when to offer.

use std::time::Duration;

use crate::peer::{Parked, Peer, Phase, Presence};
use crate::{Action, ConnectError, Mesh, PeerId, PeerState, Reason, RequestId, Time, Warning};

/// After this many repetitions without an answer, a connected link is given up.
const MAX_RESENDS: u32 = 3;

/// A newcomer usually offers within a round trip. With a connect request waiting, this is how long that is awaited
/// instead of `offer_grace`, so that the request does not make every newcomer's offer cross with ours.
const ASKED_GRACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) peer: PeerId,
    pub(crate) deadline: Time,
}

impl Mesh {
    pub(crate) fn on_connect(&mut self, id: PeerId, request: RequestId, timeout: Duration) {
        if *id == *self.config.local_id || !self.config.allows(&id) {
            return self.connect_failed(request, id, ConnectError::Denied);
        }
        if self.requests.len() >= self.config.limits.requests {
            return self.connect_failed(request, id, ConnectError::TooManyRequests);
        }
        self.requests.insert(request, Request { peer: id.clone(), deadline: self.now + timeout });
        let (now, data) = (self.now, self.config.data);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        (peer.parked, peer.keep) = (None, true);
        match &peer.link {
            Some(link) if link.is_silent() => self.restart_silent(&id, Duration::ZERO),
            Some(link) if link.up && (link.channel_open || !data) => self.fulfil(&id),
            Some(_) => {}
            None => {
                peer.attempts = 0;
                // Right away, unless it joined a moment ago and is about to offer.
                let newcomer = peer.joined_at.filter(|_| peer.state == PeerState::New);
                peer.offer_at = Some(newcomer.map_or(now, |joined| now.max(joined + ASKED_GRACE)));
            }
        }
    }

    pub(crate) fn on_cancel_connect(&mut self, request: RequestId) {
        if let Some(request) = self.requests.remove(&request) {
            self.abandon(&request.peer);
        }
    }

    pub(crate) fn expire_request(&mut self, request: RequestId) {
        let Some(Request { peer: id, .. }) = self.requests.remove(&request) else { return };
        let here = self
            .peers
            .get(&id)
            .is_some_and(|peer| peer.presence == Presence::Announced || peer.link.is_some());
        let error = if here { ConnectError::Timeout } else { ConnectError::NotFound };
        self.connect_failed(request, id.clone(), error);
        self.abandon(&id);
    }

    /// Without `auto_connect`, a peer is connected to because somebody asked: if nobody does any more, stop trying.
    fn abandon(&mut self, id: &PeerId) {
        let asked_for = self.requests.values().any(|request| request.peer == *id);
        let Some(peer) = self.peers.get_mut(id) else { return };
        if asked_for || self.config.auto_connect || peer.is_up() {
            return;
        }
        (peer.keep, peer.offer_at) = (false, None);
        if peer.link.as_ref().is_some_and(|link| link.offerer) {
            self.drop_link(id, PeerState::Closed, Reason::Requested("no request is waiting".into()));
            self.forget_unannounced(id);
        }
    }

    pub(crate) fn on_disconnect(&mut self, id: &PeerId, reason: String) {
        self.fail_requests(id, &ConnectError::Disconnected);
        if self.park(id, Parked::ByUs) {
            self.drop_link(id, PeerState::Closed, Reason::Requested(reason));
            self.forget_unannounced(id);
        }
    }

    pub(crate) fn fulfil(&mut self, id: &PeerId) {
        for request in self.take_requests(id) {
            self.act(Action::Connected { request, peer: id.clone() });
        }
    }

    pub(crate) fn fail_requests(&mut self, id: &PeerId, error: &ConnectError) {
        for request in self.take_requests(id) {
            self.connect_failed(request, id.clone(), error.clone());
        }
    }

    pub(crate) fn connect_failed(&mut self, request: RequestId, peer: PeerId, error: ConnectError) {
        self.act(Action::ConnectFailed { request, peer, error });
    }

    fn take_requests(&mut self, id: &PeerId) -> Vec<RequestId> {
        let taken: Vec<_> =
            self.requests.iter().filter(|(_, r)| r.peer == *id).map(|(request, _)| *request).collect();
        taken.iter().for_each(|request| drop(self.requests.remove(request)));
        taken
    }

    // ---- when to offer

    /// How long to wait for the offer of a peer that joined after us.
    pub(crate) fn newcomer_wait(&self, id: &PeerId) -> Duration {
        let asked_for = self.requests.values().any(|request| request.peer == *id);
        if asked_for { ASKED_GRACE.min(self.config.offer_grace) } else { self.config.offer_grace }
    }

    /// Starts counting attempts anew.
    pub(crate) fn offer_after(&mut self, id: &PeerId, wait: Duration) {
        let at = self.now + wait;
        if let Some(peer) = self.peers.get_mut(id) {
            (peer.attempts, peer.offer_at) = (0, Some(at));
        }
    }

    /// After a failure. The side that had offered goes first; the other gives it time to.
    pub(crate) fn retry_later(&mut self, id: &PeerId, offerer: bool) {
        self.counters.failed_links += 1;
        let retry = &self.config.retry;
        let (enabled, max_attempts) = (retry.enabled, retry.max_attempts.unwrap_or(u32::MAX));
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.offer_at = None;
        if !enabled {
            return;
        }
        let attempts = peer.attempts;
        if attempts >= max_attempts {
            return self.warn(id, Warning::GaveUp, format!("gave up after {attempts} attempts"));
        }
        let wait = self.backoff(attempts) + if offerer { Duration::ZERO } else { self.config.offer_grace };
        let at = self.now + wait;
        if let Some(peer) = self.peers.get_mut(id) {
            peer.offer_at = Some(at);
        }
    }

    fn backoff(&mut self, attempts: u32) -> Duration {
        let retry = &self.config.retry;
        let doubled = retry.initial_delay.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        // Never at once, or two timers that see each other due would spin.
        self.rng.jitter(doubled.min(retry.max_delay)).max(Duration::from_millis(1))
    }

    /// When to offer to this peer, if we may and want to at all.
    pub(crate) fn offer_due(&self, id: &PeerId, peer: &Peer) -> Option<Time> {
        let wanted = peer.keep || (self.config.auto_connect && peer.parked.is_none());
        let able =
            self.online && !self.is_closed() && peer.presence == Presence::Announced && peer.link.is_none();
        peer.offer_at.filter(|_| wanted && able && self.config.allows(id))
    }

    pub(crate) fn offer_now(&mut self, id: &PeerId) {
        if !self.has_room() {
            self.fail_requests(id, &ConnectError::PeerLimit);
            // A place may become free.
            let at = self.now + self.backoff(u32::MAX);
            if let Some(peer) = self.peers.get_mut(id) {
                peer.offer_at = Some(at);
                peer.keep &= self.config.auto_connect;
            }
            self.tell_no_room(id);
            return;
        }
        let link = self.create_link(id, true, None, Reason::Offered);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.attempts = peer.attempts.saturating_add(1);
        }
        self.act(Action::CreateOffer { link, ice_restart: false });
    }

    /// Says once why a peer stays without a link; it may ask again and again. True: this was the once.
    pub(crate) fn tell_no_room(&mut self, id: &PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return true };
        if !matches!(peer.state, PeerState::New | PeerState::Failed) || peer.reason == Reason::PeerLimit {
            return false;
        }
        peer.reason = Reason::PeerLimit;
        let (peer, state, reason) = (id.clone(), peer.state, Reason::PeerLimit);
        self.act(Action::PeerState { peer, state, reason });
        true
    }

    /// What was going on took too long.
    pub(crate) fn on_link_overdue(&mut self, id: &PeerId) {
        let next = self.now + self.config.connect_timeout;
        let reachable = self.reachable(id);
        let Some(link) = self.link_mut(id) else { return };
        if !link.up {
            return self.fail_link(id, Reason::ConnectTimeout);
        }
        match &link.phase {
            Phase::Stable => link.deadline = None,
            // Healing has its own times, and its own end.
            Phase::HaveLocalOffer(_) if link.healing.due.is_some() => link.deadline = Some(next),
            // The link works, so a lost offer or answer is no reason to end it. The peer answers a repeated offer again.
            Phase::HaveLocalOffer(_) if link.resends < MAX_RESENDS || !reachable => {
                link.deadline = Some(next);
                if reachable {
                    self.repeat_offer(id);
                }
            }
            _ => self.rebuild_link(id, Reason::NegotiationTimeout),
        }
    }
}

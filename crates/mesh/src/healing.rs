//! Links that fall silent: when ICE is restarted, by whom, and when a link or a peer is given up.

use std::time::Duration;

use crate::peer::{Healing, Link, Peer, Phase, Presence};
use crate::{Action, LinkState, Mesh, PeerId, Reason, Signal, Time};

/// The side that did not offer gives the other one this much time to restart first. It is also what a peer that joined again
/// gets to say whether it is the same process.
const SECOND: Duration = Duration::from_millis(1500);
/// Between two restarts of ours, or repetitions of one that is not answered: at least, at first, at most.
const LEAST: Duration = Duration::from_secs(1);
const FIRST: Duration = Duration::from_millis(1500);
const MOST: Duration = Duration::from_secs(4);
/// A link that was connected for this long was well: its next trouble is a new one.
const WELL: Duration = Duration::from_secs(10);
/// A link that comes back by itself after that is restarted all the same: consent to send has expired after 30 s without an
/// answer (RFC 7675, section 5.1), of which the link was silent for the last ones.
const CONSENT: Duration = Duration::from_secs(25);
/// While another negotiation is in the middle.
const BUSY: Duration = Duration::from_millis(200);
/// A restart for a changed address that is not answered is given up after so many repetitions, if the link works.
const MAX_REPEATS: u32 = 8;

impl Mesh {
    /// A link that was up reports that it is not: it hears nothing, or ICE starts anew.
    pub(crate) fn link_silent(&mut self, id: &PeerId, state: LinkState) {
        let (now, enabled) = (self.now, self.config.retry.enabled);
        let Some(link) = self.link_mut(id) else { return };
        let wait = if link.offerer { Duration::ZERO } else { SECOND };
        let healing = &mut link.healing;
        healing.silent_since.get_or_insert(now);
        let reason = match state {
            LinkState::Connecting => {
                let reason = if healing.moved { Reason::PathChanged } else { Reason::IceRestart };
                self.set_state(id, state, reason);
                return self.ice_restarted(id);
            }
            _ => {
                healing.forget_old(now);
                let at = (now + wait).max(healing.earliest());
                healing.due = Some(healing.due.map_or(at, |due| due.min(at)));
                Reason::Interrupted
            }
        };
        healing.due = healing.due.filter(|_| enabled);
        self.set_state(id, state, reason);
    }

    /// Both ends have new credentials and look for a path. They keep at it by themselves; what could help if nothing comes of
    /// that is an address that they don't know yet.
    pub(crate) fn ice_restarted(&mut self, id: &PeerId) {
        let (now, enabled, wait) = (self.now, self.config.retry.enabled, self.rng.jitter(MOST).max(LEAST));
        let Some(link) = self.link_mut(id).filter(|link| link.is_silent()) else { return };
        link.healing.renewed = true;
        if !enabled {
            return;
        }
        link.healing.due = Some(now + wait + if link.offerer { Duration::ZERO } else { SECOND });
    }

    /// The path moved: find another one before the silence is noticed.
    pub(crate) fn on_path_suspect(&mut self, id: &PeerId) {
        let (now, enabled) = (self.now, self.config.retry.enabled);
        let Some(link) = self.link_mut(id).filter(|link| link.up && enabled) else { return };
        let healing = &mut link.healing;
        healing.forget_old(now);
        healing.moved = true;
        let at = now.max(healing.earliest());
        healing.due = Some(healing.due.map_or(at, |due| due.min(at)));
    }

    /// Signaling is back, so that what could not be said can be said now; a restart that isn't answered may never have been heard.
    pub(crate) fn restart_all_silent(&mut self) {
        let now = self.now;
        let ids: Vec<PeerId> = self.peers.keys().cloned().collect();
        for id in ids {
            self.restart_silent(&id, Duration::ZERO);
            let Some(link) = self.link_mut(&id) else { continue };
            if link.healing.restarting && matches!(link.phase, Phase::HaveLocalOffer(_)) {
                link.healing.due = Some(now);
            }
        }
    }

    /// A peer with a silent link joined again. The same process restarts by itself, another one offers anew.
    pub(crate) fn restart_after_joined(&mut self, id: &PeerId) {
        self.restart_silent(id, SECOND);
    }

    pub(crate) fn restart_silent(&mut self, id: &PeerId, wait: Duration) {
        let (now, enabled) = (self.now, self.config.retry.enabled);
        let Some(link) = self.link_mut(id).filter(|link| link.is_silent() && enabled) else { return };
        link.healing.due = Some((now + wait).max(link.healing.earliest()));
    }

    pub(crate) fn run_healing(&mut self) {
        let now = self.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let ids: Vec<PeerId> =
            self.peers.iter().filter(|(_, p)| p.link.is_some()).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(peer) = self.peers.get(&id) else { continue };
            if due(self.gone_at(peer)) {
                self.remove_peer(&id, Reason::Left);
            } else if due(self.silent_until(peer)) {
                self.fail_link(&id, Reason::Silent);
            } else if due(self.restart_at(peer)) {
                self.heal(&id);
            }
        }
    }

    /// When there is something to do for this peer's link.
    pub(crate) fn healing_due(&self, peer: &Peer) -> impl Iterator<Item = Time> + use<> {
        [self.gone_at(peer), self.silent_until(peer), self.restart_at(peer)].into_iter().flatten()
    }

    /// Offers can be sent to this peer, and may arrive.
    pub(crate) fn reachable(&self, id: &PeerId) -> bool {
        self.online
            && self.peers.get(id).is_some_and(|peer| !matches!(peer.presence, Presence::Missing { .. }))
    }

    /// Sends the offer that is out once more, with its candidates.
    pub(crate) fn repeat_offer(&mut self, id: &PeerId) {
        let Some(link) = self.link_mut(id) else { return };
        let Phase::HaveLocalOffer(sdp) = &link.phase else { return };
        let (sdp, candidates) = (sdp.clone(), link.sent.clone());
        link.resends += 1;
        self.counters.repeated_offers += 1;
        self.signal(id, Signal::Offer(sdp));
        for candidate in candidates {
            self.signal(id, Signal::Candidate(candidate));
        }
    }

    /// Neither its link nor signaling has known anything of it for `left_grace`.
    fn gone_at(&self, peer: &Peer) -> Option<Time> {
        let Presence::Missing { since } = peer.presence else { return None };
        let silent = peer.link.as_ref()?.healing.silent_since?;
        self.online.then(|| since.max(silent) + self.config.left_grace)
    }

    fn silent_until(&self, peer: &Peer) -> Option<Time> {
        Some(peer.link.as_ref()?.healing.silent_since? + self.config.grace)
    }

    fn restart_at(&self, peer: &Peer) -> Option<Time> {
        let here = self.online && !matches!(peer.presence, Presence::Missing { .. });
        peer.link.as_ref()?.healing.due.filter(|_| here)
    }

    fn heal(&mut self, id: &PeerId) {
        let now = self.now;
        let Some(link) = self.link_mut(id) else { return };
        match link.phase {
            Phase::Stable => self.restart_ice(id),
            // It works after all, and the peer may never have had the offer.
            Phase::HaveLocalOffer(_)
                if link.healing.restarting && !link.is_silent() && link.resends >= MAX_REPEATS =>
            {
                (link.healing.due, link.healing.moved) = (None, false);
                let link = link.id;
                self.act(Action::Rollback { link });
                self.settle(id);
            }
            Phase::HaveLocalOffer(_) => {
                let repeats = link.resends + 1;
                self.repeat_offer(id);
                self.heal_again_after(id, repeats);
            }
            _ => link.healing.due = Some(now + BUSY),
        }
    }

    /// An offer with new ICE credentials on the link there is.
    fn restart_ice(&mut self, id: &PeerId) {
        let (now, deadline) = (self.now, self.now + self.config.connect_timeout);
        let Some(link) = self.link_mut(id) else { return };
        link.needed = false;
        link.phase = Phase::CreatingOffer;
        link.deadline = link.deadline.or(Some(deadline));
        let healing = &mut link.healing;
        healing.restarting = true;
        healing.restarts = healing.restarts.saturating_add(1);
        healing.restarted_at = Some(now);
        let (link, restarts) = (link.id, healing.restarts);
        self.counters.ice_restarts += 1;
        self.act(Action::CreateOffer { link, ice_restart: true });
        self.heal_again_after(id, restarts);
    }

    /// If nothing comes of attempt `n`, one counted.
    fn heal_again_after(&mut self, id: &PeerId, n: u32) {
        let wait = self.rng.jitter(doubled(n)).max(LEAST);
        let at = self.now + wait;
        if let Some(link) = self.link_mut(id) {
            link.healing.due = Some(at);
        }
    }
}

impl Link {
    /// It is connected (again). `enabled`: restarts are made at all.
    pub(crate) fn mark_well(&mut self, now: Time, enabled: bool) {
        let healing = &mut self.healing;
        let renewed = std::mem::take(&mut healing.renewed);
        if let Some(since) = healing.silent_since.take() {
            healing.connected_at = now;
            // What was repeated into the silence doesn't count.
            self.resends = 0;
            if now.since(since) >= CONSENT && !renewed && enabled {
                healing.due = Some(now.max(healing.earliest()));
                return;
            }
        }
        // A restart whose offer the peer may have must be brought to its end: the peer has new credentials.
        if !healing.restarting {
            (healing.due, healing.moved) = (None, false);
        }
    }
}

impl Healing {
    /// Trouble that was over for a while doesn't delay what is done about the next.
    fn forget_old(&mut self, now: Time) {
        if self.silent_since.is_none_or(|since| since == now) && self.connected_at + WELL <= now {
            self.restarts = 0;
        }
    }

    /// The first moment at which another restart may begin.
    fn earliest(&self) -> Time {
        self.restarted_at
            .map_or(Time::ZERO, |at| at + if self.restarts > 1 { doubled(self.restarts) } else { LEAST })
    }
}

fn doubled(n: u32) -> Duration {
    FIRST.saturating_mul(1 << n.saturating_sub(1).min(8)).min(MOST)
}

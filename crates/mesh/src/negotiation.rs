//! Offers, answers and candidates: who yields when they cross, and which link they belong to.

use std::cmp::Ordering;

use crate::mesh::valid_id;
use crate::peer::{Parked, Peer, Phase, Presence};
use crate::sdp::{Session, ice_ufrag};
use crate::{Action, ConnectError, IceCandidate, Mesh, PeerId, PeerState, Reason, Signal, Warning, codes};

impl Mesh {
    // ---- from the peer

    pub(crate) fn on_offer(&mut self, id: &PeerId, sdp: String) {
        if self.is_self(id) {
            return;
        }
        if !self.config.allows(id) || !valid_id(id) {
            self.counters.denied_offers += 1;
            self.signal_error(id, codes::DENIED, "connections with this peer are not allowed");
            return self.warn(id, Warning::Denied, "an offer of a peer that is not allowed was refused");
        }
        let Some(session) = self.session_of(&sdp) else {
            return self.bad_description(id, codes::OFFER_INVALID, "the offer is not an SDP within limits");
        };
        if self.peers.get(id).is_none_or(|peer| peer.link.is_none()) {
            return self.on_first_offer(id, sdp, session);
        }
        let polite = yields(&self.config.local_id, id);
        let Some(link) = self.link_mut(id) else { return };
        let renegotiates = match &link.session {
            Some(known) if *known == session => true,
            // Its old link is gone at its end, whatever we think of ours.
            Some(_) => return self.answer_anew(id, sdp, session, Reason::Restarted),
            None => false,
        };
        let phase = std::mem::replace(&mut link.phase, Phase::Stable);
        match phase {
            Phase::Stable if renegotiates => self.accept_again(id, sdp, false),
            Phase::HaveLocalOffer(ours) if !polite && (renegotiates || !link.suspect) => {
                link.phase = Phase::HaveLocalOffer(ours);
                link.ignoring = true;
                self.counters.ignored_offers += 1;
            }
            Phase::CreatingOffer if !polite && renegotiates => {
                link.phase = Phase::CreatingOffer;
                link.ignoring = true;
                self.counters.ignored_offers += 1;
            }
            Phase::CreatingOffer | Phase::HaveLocalOffer(_) if renegotiates => {
                self.counters.yielded_offers += 1;
                self.accept_again(id, sdp, true);
            }
            // Nothing was agreed on this link yet: a new one is simpler than a rollback, and works with any engine. While our
            // offer is not even sent, that is so for both sides.
            Phase::CreatingOffer | Phase::HaveLocalOffer(_) => {
                self.counters.yielded_offers += 1;
                self.answer_anew(id, sdp, session, Reason::WasOffered);
            }
            busy => {
                link.phase = busy;
                link.queued_offer = Some(sdp);
            }
        }
    }

    fn on_first_offer(&mut self, id: &PeerId, sdp: String, session: Session) {
        let known = self.peers.contains_key(id);
        if !self.has_room() || (!known && self.peers.len() >= self.config.limits.roster) {
            self.counters.refused_offers += 1;
            self.signal_error(id, codes::SESSION_LIMIT, "no room for another peer");
            self.fail_requests(id, &ConnectError::PeerLimit);
            if self.tell_no_room(id) {
                self.warn(id, Warning::PeerLimit, "an offer was refused: no room for another peer");
            }
            return;
        }
        let peer = self.peers.entry(id.clone()).or_insert_with(|| Peer::new(Presence::Unannounced));
        peer.parked = None;
        self.answer_anew(id, sdp, session, Reason::WasOffered);
    }

    /// Answers on a fresh link, in place of the one there was.
    fn answer_anew(&mut self, id: &PeerId, sdp: String, session: Session, reason: Reason) {
        self.take_link(id);
        let link = self.create_link(id, false, Some(session), reason);
        if let Some(made) = self.link_mut(id) {
            made.remote_ufrag = ice_ufrag(&sdp);
        }
        self.act(Action::AcceptOffer { link, sdp });
    }

    /// Answers on the link there is.
    fn accept_again(&mut self, id: &PeerId, sdp: String, rolled_back: bool) {
        let deadline = self.now + self.config.connect_timeout;
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.candidates_seen = peer.held.len();
        let Some(link) = &mut peer.link else { return };
        link.phase = Phase::AcceptingOffer { again: true, rolled_back };
        let before = std::mem::replace(&mut link.remote_ufrag, ice_ufrag(&sdp));
        let restarts = link.remote_ufrag != before;
        link.needed |= rolled_back;
        link.healing.restarting = false;
        link.ignoring = false;
        // The time that the peer took is not counted against the link that works.
        link.deadline = link.deadline.filter(|_| !link.up).or(Some(deadline));
        let link = link.id;
        if rolled_back {
            self.act(Action::Rollback { link });
        }
        self.act(Action::AcceptOffer { link, sdp });
        if restarts {
            self.ice_restarted(id);
        }
    }

    pub(crate) fn on_answer(&mut self, id: &PeerId, sdp: String) {
        if self.is_self(id) {
            return;
        }
        let (session, ufrag) = (self.session_of(&sdp), ice_ufrag(&sdp));
        let Some(peer) = self.peers.get_mut(id) else {
            self.counters.unexpected_answers += 1;
            return;
        };
        let (held, deadline) = (peer.held.len(), self.now + self.config.connect_timeout);
        let Some(link) = &mut peer.link else {
            self.counters.unexpected_answers += 1;
            return;
        };
        let other_session = link.session.is_some() && link.session != session;
        match (&link.phase, session) {
            (Phase::HaveLocalOffer(_), None) => {
                let up = link.up;
                self.bad_description(id, codes::ANSWER_INVALID, "the answer is not an SDP within limits");
                if !up {
                    self.fail_link(
                        id,
                        Reason::NegotiationFailed("the answer is not an SDP within limits".into()),
                    );
                }
            }
            // The peer answered on a new link, where the offer of our old one can't be of use.
            (Phase::HaveLocalOffer(_), Some(_)) if other_session => self.rebuild_link(id, Reason::Restarted),
            // A late answer to an offer before the restart: it would pair our new credentials with the peer's old ones.
            (Phase::HaveLocalOffer(_), Some(_))
                if link.healing.restarting && ufrag.is_some() && ufrag == link.remote_ufrag =>
            {
                self.counters.unexpected_answers += 1;
            }
            (Phase::HaveLocalOffer(_), Some(session)) => {
                link.phase = Phase::AcceptingAnswer;
                link.deadline = link.deadline.filter(|_| !link.up).or(Some(deadline));
                link.remote_ufrag = ufrag;
                link.session = Some(session);
                (link.ignoring, link.suspect) = (false, false);
                peer.candidates_seen = held;
                let (link, restarts) = (link.id, link.healing.restarting);
                self.act(Action::AcceptAnswer { link, sdp });
                if restarts {
                    self.ice_restarted(id);
                }
            }
            // The answer taken before was meant for an earlier offer of ours, perhaps of an earlier process under our id.
            (_, Some(_)) if other_session && !link.up => self.fail_link(id, Reason::AnswersCrossed),
            _ => self.counters.unexpected_answers += 1,
        }
    }

    pub(crate) fn on_candidate(&mut self, id: &PeerId, candidate: IceCandidate) {
        if self.is_self(id) {
            return;
        }
        let limits = &self.config.limits;
        let Some(peer) = self.peers.get_mut(id) else {
            self.counters.unknown_candidates += 1;
            return;
        };
        if peer.link.as_ref().is_some_and(|link| link.ignoring) {
            self.counters.ignored_candidates += 1;
            return;
        }
        let bytes = candidate.candidate.len() + candidate.sdp_mid.as_ref().map_or(0, String::len);
        if peer.candidates_seen >= limits.candidates || bytes > limits.candidate_bytes {
            self.counters.dropped_candidates += 1;
            return;
        }
        peer.candidates_seen += 1;
        match &peer.link {
            Some(link) if link.takes_candidates() => {
                let link = link.id;
                self.act(Action::AddRemoteCandidate { link, candidate });
            }
            _ => peer.held.push(candidate),
        }
    }

    pub(crate) fn on_signal_error(&mut self, id: &PeerId, code: i32, message: String) {
        let refused = || match code {
            codes::SESSION_LIMIT => Reason::PeerLimit,
            _ => Reason::Refused { code, message: crate::mesh::clip(message) },
        };
        let Some(link) = self.link_mut(id) else { return };
        // A peer that has no place for a link that it has has given that up.
        let forgotten = link.is_silent() && code == codes::SESSION_LIMIT;
        let first_offer = !link.up && matches!(link.phase, Phase::HaveLocalOffer(_));
        match code {
            // A candidate's trouble, or a crossing that resolves itself.
            codes::CANDIDATE_INVALID | codes::NEGOTIATION_IN_PROGRESS => {}
            codes::DENIED | codes::UNAUTHORIZED if first_offer => {
                self.fail_requests(id, &ConnectError::Denied);
                self.park(id, Parked::ByUs);
                self.drop_link(id, PeerState::Failed, refused());
                self.forget_unannounced(id);
            }
            _ if first_offer || forgotten => {
                if code == codes::SESSION_LIMIT {
                    self.fail_requests(id, &ConnectError::PeerLimit);
                }
                self.fail_link(id, refused());
            }
            // What is connected, or answered, does not hang on signaling.
            _ => {}
        }
    }

    // ---- from the link

    pub(crate) fn on_offer_created(&mut self, id: &PeerId, sdp: String) {
        let Some(link) = self.link_mut(id) else { return };
        if link.phase != Phase::CreatingOffer {
            self.counters.unexpected_reports += 1;
            return;
        }
        link.phase = Phase::HaveLocalOffer(sdp.clone());
        link.resends = 0;
        link.sent.clear();
        self.signal(id, Signal::Offer(sdp));
        self.flush_outbox(id);
    }

    pub(crate) fn on_answer_created(&mut self, id: &PeerId, sdp: String) {
        let Some(link) = self.link_mut(id) else { return };
        if !matches!(link.phase, Phase::AcceptingOffer { .. }) {
            self.counters.unexpected_reports += 1;
            return;
        }
        self.signal(id, Signal::Answer(sdp));
        self.flush_outbox(id);
        self.settle(id);
    }

    pub(crate) fn on_answer_accepted(&mut self, id: &PeerId) {
        match self.link_mut(id) {
            Some(link) if link.phase == Phase::AcceptingAnswer => self.settle(id),
            _ => self.counters.unexpected_reports += 1,
        }
    }

    pub(crate) fn on_negotiation_failed(&mut self, id: &PeerId, reason: String) {
        let Some(link) = self.link_mut(id) else { return };
        let up = link.up;
        let failed = Reason::NegotiationFailed(reason.clone());
        match link.phase {
            // A description that can't be set leaves the connection as it was (W3C webrtc-pc §4.4.1.5).
            Phase::AcceptingOffer { again: true, rolled_back: false } => {
                self.bad_description(id, codes::OFFER_INVALID, &reason);
                self.settle(id);
            }
            Phase::AcceptingOffer { again: true, rolled_back: true } => self.rebuild_link(id, failed),
            Phase::AcceptingOffer { again: false, .. } => {
                self.bad_description(id, codes::OFFER_INVALID, &reason);
                self.fail_link(id, failed);
            }
            // Our offer is still set, so there is no going on.
            Phase::AcceptingAnswer => {
                self.bad_description(id, codes::ANSWER_INVALID, &reason);
                self.rebuild_link(id, failed);
            }
            Phase::CreatingOffer if up => {
                self.warn(id, Warning::NoOffer, reason);
                self.settle(id);
            }
            Phase::CreatingOffer => self.fail_link(id, failed),
            Phase::Stable | Phase::HaveLocalOffer(_) => self.counters.unexpected_reports += 1,
        }
    }

    pub(crate) fn on_local_candidate(&mut self, id: &PeerId, candidate: IceCandidate) {
        let limit = self.config.limits.candidates;
        let Some(link) = self.link_mut(id) else { return };
        // The end of candidates is always told.
        if link.candidates_out >= limit && !candidate.candidate.is_empty() || link.outbox.len() > limit {
            self.counters.dropped_local_candidates += 1;
            return;
        }
        link.candidates_out += 1;
        match link.phase {
            Phase::CreatingOffer | Phase::AcceptingOffer { .. } => link.outbox.push(candidate),
            _ => {
                if matches!(link.phase, Phase::HaveLocalOffer(_)) {
                    link.sent.push(candidate.clone());
                }
                self.signal(id, Signal::Candidate(candidate));
            }
        }
    }

    pub(crate) fn on_negotiation_needed(&mut self, id: &PeerId) {
        let deadline = self.now + self.config.connect_timeout;
        let Some(link) = self.link_mut(id) else { return };
        if link.phase != Phase::Stable {
            link.needed = true;
            return;
        }
        link.needed = false;
        link.phase = Phase::CreatingOffer;
        link.deadline = link.deadline.or(Some(deadline));
        let link = link.id;
        self.act(Action::CreateOffer { link, ice_restart: false });
    }

    // ---- helpers

    /// A negotiation is done: the candidates that waited for it go on, and so does what waited to be negotiated.
    pub(crate) fn settle(&mut self, id: &PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(link) = &mut peer.link else { return };
        link.phase = Phase::Stable;
        (link.healing.restarting, link.ignoring) = (false, false);
        link.sent.clear();
        if link.up {
            link.deadline = None;
        }
        let (link_id, needed, queued) = (link.id, link.needed, link.queued_offer.take());
        if queued.is_none() {
            for candidate in std::mem::take(&mut peer.held) {
                self.act(Action::AddRemoteCandidate { link: link_id, candidate });
            }
        }
        match queued {
            Some(sdp) => self.on_offer(id, sdp),
            None if needed => self.on_negotiation_needed(id),
            None => {}
        }
    }

    fn flush_outbox(&mut self, id: &PeerId) {
        let Some(link) = self.link_mut(id) else { return };
        let waiting = std::mem::take(&mut link.outbox);
        link.candidates_out = waiting.len();
        if matches!(link.phase, Phase::HaveLocalOffer(_)) {
            link.sent.clone_from(&waiting);
        }
        for candidate in waiting {
            self.signal(id, Signal::Candidate(candidate));
        }
    }

    fn session_of(&self, sdp: &str) -> Option<Session> {
        Session::of(sdp).filter(|_| sdp.len() <= self.config.limits.sdp_bytes)
    }

    fn bad_description(&mut self, id: &PeerId, code: i32, message: &str) {
        self.counters.bad_descriptions += 1;
        self.signal_error(id, code, message);
        self.warn(id, Warning::BadDescription, message);
    }

    fn is_self(&mut self, id: &PeerId) -> bool {
        let is_self = **id == *self.config.local_id;
        self.counters.from_self += u64::from(is_self);
        is_self
    }
}

/// Whether we give way to `other` when offers cross: the greater id does. Ids compare by UTF-16 code units, which is what `<`
/// does with strings in a browser.
fn yields(local: &str, other: &str) -> bool {
    local.encode_utf16().cmp(other.encode_utf16()) == Ordering::Greater
}

#[cfg(test)]
mod tests {
    use super::yields;

    #[test]
    fn the_greater_id_yields_by_code_units_as_in_a_browser() {
        assert!(yields("bob", "alice") && !yields("alice", "bob"));
        assert!(yields("b", "a10") && yields("a2", "a10") && yields("aa", "a"));
        // U+1F600 is above U+FF5E as a code point and below it as code units.
        assert!(yields("\u{ff5e}", "\u{1f600}") && !yields("\u{1f600}", "\u{ff5e}"));
    }
}

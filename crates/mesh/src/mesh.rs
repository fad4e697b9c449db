//! The mesh: dispatch, the roster, and the life of links. Negotiation and connect requests are in files of their own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::connect::Request;
use crate::peer::{Link, Parked, Peer, PeerView, Phase, Presence};
use crate::rng::Rng;
use crate::sdp::Session;
use crate::{
    Action, IceCandidate, Input, LinkId, LinkState, MeshConfig, PeerAnnouncement, PeerId, PeerState,
};
use crate::{Reason, RequestId, Signal, Time, Warning};

/// One peer's part of a mesh. See the crate's page for how to drive it.
#[derive(Debug)]
pub struct Mesh {
    pub(crate) config: MeshConfig,
    pub(crate) now: Time,
    pub(crate) online: bool,
    closed: bool,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    /// Which peer a link belongs to. Has exactly the links of `peers`.
    links: BTreeMap<LinkId, PeerId>,
    next_link: u64,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    actions: VecDeque<Action>,
    next_due: Option<Time>,
    /// When we last joined the room, and the first link made since.
    joined: Option<(Time, LinkId)>,
    pub(crate) rng: Rng,
    pub(crate) counters: Counters,
}

impl Mesh {
    /// A mesh that knows nobody yet.
    pub fn new(config: MeshConfig, now: Time) -> Self {
        Self {
            rng: Rng::new(config.seed, &config.local_id),
            config,
            now,
            online: true,
            closed: false,
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            next_link: 1,
            requests: BTreeMap::new(),
            actions: VecDeque::new(),
            next_due: None,
            joined: None,
            counters: Counters::default(),
        }
    }

    /// Takes one input in. Then carry out what [`Mesh::poll`] gives: actions wait there without a bound of their own, a
    /// few for each peer and input.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        if self.closed {
            if let Input::Connect { peer, request, .. } = input {
                self.connect_failed(request, peer, crate::ConnectError::Closed);
            }
            return;
        }
        self.dispatch(input);
        self.run_timers();
    }

    /// The next thing to do, if there is one.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Mesh::handle_timeout`] next. Ask again after each `handle` or `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.next_due
    }

    /// Does what is due at `now`. Harmless if nothing is.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = self.now.max(now);
        if self.next_due.is_some_and(|due| due <= self.now) {
            self.run_timers();
        }
    }

    /// Everyone in the roster, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        self.peers.iter().map(|(id, peer)| peer.view(id))
    }

    /// One peer of the roster.
    pub fn peer(&self, id: &str) -> Option<PeerView<'_>> {
        self.peers.get_key_value(id).map(|(id, peer)| peer.view(id))
    }

    /// Whose link this is, while it lives.
    pub fn link_peer(&self, link: LinkId) -> Option<&PeerId> {
        self.links.get(&link)
    }

    /// What was dropped or ignored so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn dispatch(&mut self, input: Input) {
        match input {
            Input::Announced { peers } => self.on_announced(peers),
            Input::Joined(announcement) => self.on_joined(announcement),
            Input::Left { peer } => self.on_left(&peer),
            Input::Disconnected { peer, reason } => self.on_disconnected(&peer, reason.unwrap_or_default()),
            Input::Offer { peer, sdp } => self.on_offer(&peer, sdp),
            Input::Answer { peer, sdp } => self.on_answer(&peer, sdp),
            Input::Candidate { peer, candidate } => self.on_candidate(&peer, candidate),
            Input::SignalError { peer, code, message } => self.on_signal_error(&peer, code, message),
            Input::SignalingLost => self.online = false,
            Input::SignalingRestored => {
                self.online = true;
                self.restart_all_silent();
            }
            Input::OfferCreated { link, sdp } => {
                self.report(link, |mesh, peer| mesh.on_offer_created(peer, sdp))
            }
            Input::AnswerCreated { link, sdp } => {
                self.report(link, |mesh, peer| mesh.on_answer_created(peer, sdp))
            }
            Input::AnswerAccepted { link } => self.report(link, |mesh, peer| mesh.on_answer_accepted(peer)),
            Input::NegotiationFailed { link, reason } => {
                self.report(link, |mesh, peer| mesh.on_negotiation_failed(peer, clip(reason)));
            }
            Input::LocalCandidate { link, candidate } => {
                self.report(link, |mesh, peer| mesh.on_local_candidate(peer, candidate));
            }
            Input::LocalCandidatesDone { link } => {
                self.report(link, |mesh, peer| mesh.on_local_candidate(peer, IceCandidate::default()));
            }
            Input::LinkState { link, state } => {
                self.report(link, |mesh, peer| mesh.on_link_state(peer, state))
            }
            Input::PathSuspect { link } => self.report(link, Self::on_path_suspect),
            Input::ChannelOpen { link } => self.report(link, Self::on_channel_open),
            Input::NegotiationNeeded { link } => self.report(link, Self::on_negotiation_needed),
            Input::Connect { peer, request, timeout } => self.on_connect(peer, request, timeout),
            Input::CancelConnect { request } => self.on_cancel_connect(request),
            Input::Disconnect { peer, reason } => self.on_disconnect(&peer, clip(reason)),
            Input::Close => self.on_close(),
        }
    }

    /// A report of a link that still exists goes on; any other is late.
    fn report(&mut self, link: LinkId, then: impl FnOnce(&mut Self, &PeerId)) {
        match self.links.get(&link).cloned() {
            Some(peer) => then(self, &peer),
            None => self.counters.stale_reports += 1,
        }
    }

    // ---- presence

    fn on_announced(&mut self, announced: Vec<PeerAnnouncement>) {
        self.online = true;
        self.joined = Some((self.now, LinkId(self.next_link)));
        let listed: BTreeSet<&PeerId> = announced.iter().map(|announcement| &announcement.peer_id).collect();
        let missing: Vec<PeerId> = self.peers.keys().filter(|id| !listed.contains(id)).cloned().collect();
        for id in missing {
            // A server that was restarted does not know yet who is still in a call with us.
            match self.peers.get_mut(&id) {
                Some(peer) if peer.is_up() => peer.mark_missing(self.now),
                _ => self.remove_peer(&id, Reason::Missing),
            }
        }
        for announcement in announced {
            let id = announcement.peer_id.clone();
            // Its offer was faster than the list.
            let early = self.peers.get(&id).is_some_and(|peer| peer.presence == Presence::Unannounced);
            if self.upsert(announcement) && !early && self.peers.get(&id).is_some_and(|peer| !peer.is_up()) {
                self.drop_link(&id, PeerState::New, Reason::Rejoined);
                self.offer_after(&id, std::time::Duration::ZERO);
            }
        }
        self.restart_all_silent();
    }

    fn on_joined(&mut self, announcement: PeerAnnouncement) {
        let id = announcement.peer_id.clone();
        if !self.upsert(announcement) {
            return;
        }
        let (now, wait) = (self.now, self.newcomer_wait(&id));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.joined_at = Some(now);
        match &mut peer.link {
            // It may be another process by now, or the same one that joined again. If it offers we shall know from
            // the offer; if our own offer is out, it may never be answered.
            Some(link) => {
                link.suspect = matches!(link.phase, Phase::HaveLocalOffer(_));
                link.outlived_join = Some(now);
                self.restart_after_joined(&id);
            }
            None => self.offer_after(&id, wait),
        }
    }

    fn on_left(&mut self, id: &PeerId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id) else { return };
        // Only its signaling is gone, as far as we can tell.
        if peer.is_up() {
            return peer.mark_missing(now);
        }
        let said = match &peer.reason {
            Reason::Disconnected(text) => Reason::Disconnected(text.clone()),
            _ => Reason::Left,
        };
        self.remove_peer(id, said);
    }

    fn on_disconnected(&mut self, id: &PeerId, reason: String) {
        if self.park(id, Parked::ByPeer) {
            let reason = Reason::Disconnected(clip(reason));
            self.drop_link(id, PeerState::Closed, reason.clone());
            if let Some(peer) = self.peers.get_mut(id) {
                peer.reason = reason;
            }
            self.forget_unannounced(id);
        }
    }

    /// Brings the roster up to date. `false` if the announcement is not taken.
    fn upsert(&mut self, announcement: PeerAnnouncement) -> bool {
        let id = announcement.peer_id.clone();
        if *id == *self.config.local_id {
            return false;
        }
        let bytes = announcement.capabilities.iter().map(String::len).sum::<usize>()
            + announcement.capabilities.len() * size_of::<String>()
            + announcement.user_data.as_ref().map_or(0, String::len);
        let known = self.peers.contains_key(&id);
        if !valid_id(&id) || bytes > self.config.limits.announcement_bytes {
            self.counters.bad_announcements += 1;
            return false;
        }
        if !known && self.peers.len() >= self.config.limits.roster {
            self.counters.roster_overflow += 1;
            return false;
        }
        let asked_for = self.requests.values().any(|request| request.peer == id);
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(Presence::Unannounced));
        peer.keep |= asked_for;
        peer.parked = peer.parked.filter(|by| *by == Parked::ByUs);
        peer.capabilities.clone_from(&announcement.capabilities);
        peer.user_data.clone_from(&announcement.user_data);
        if std::mem::replace(&mut peer.presence, Presence::Announced) == Presence::Unannounced {
            self.act(Action::PeerJoined { peer: announcement });
        }
        true
    }

    pub(crate) fn remove_peer(&mut self, id: &PeerId, reason: Reason) {
        self.drop_link(id, PeerState::Closed, reason.clone());
        if self.peers.remove(id).is_some() {
            self.act(Action::PeerLeft { peer: id.clone(), reason });
        }
    }

    /// A peer that is not in the room is kept only while it has a link.
    pub(crate) fn forget_unannounced(&mut self, id: &PeerId) {
        let gone = |peer: &&Peer| peer.presence != Presence::Announced && peer.link.is_none();
        if let Some(reason) = self.peers.get(id).filter(gone).map(|peer| peer.reason.clone()) {
            self.remove_peer(id, reason);
        }
    }

    // ---- links

    /// Gives `id` a link; it must have none.
    pub(crate) fn create_link(
        &mut self,
        id: &PeerId,
        offerer: bool,
        session: Option<Session>,
        reason: Reason,
    ) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let phase = match offerer {
            true => Phase::CreatingOffer,
            false => Phase::AcceptingOffer { again: false, rolled_back: false },
        };
        let deadline = self.now + self.config.connect_timeout;
        if let Some(peer) = self.peers.get_mut(id) {
            debug_assert!(peer.link.is_none());
            peer.link = Some(Link::new(link, offerer, phase, session, deadline));
            peer.offer_at = None;
            peer.candidates_seen = peer.held.len();
            self.links.insert(link, id.clone());
            self.act(Action::CreateLink { link, peer: id.clone() });
            self.set_state(id, PeerState::Connecting, reason);
        }
        link
    }

    /// Destroys the peer's link, if it has one, without a word about its state: another link follows.
    pub(crate) fn take_link(&mut self, id: &PeerId) -> Option<Link> {
        let link = self.peers.get_mut(id)?.link.take()?;
        self.links.remove(&link.id);
        self.act(Action::DestroyLink { link: link.id, peer: id.clone() });
        Some(link)
    }

    /// Destroys the peer's link, if it has one.
    pub(crate) fn drop_link(&mut self, id: &PeerId, state: PeerState, reason: Reason) -> Option<Link> {
        let link = self.take_link(id);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.held.clear();
            peer.candidates_seen = 0;
            if link.is_some() || peer.state == PeerState::Failed {
                self.set_state(id, state, reason);
            }
        }
        link
    }

    /// The link is of no use: destroy it and see when to try again.
    pub(crate) fn fail_link(&mut self, id: &PeerId, reason: Reason) {
        if let Some(link) = self.drop_link(id, PeerState::Failed, reason) {
            self.retry_later(id, link.offerer);
            self.forget_unannounced(id);
        }
    }

    /// Our own negotiation spoiled the link. To the other side it looks closed on purpose, so it is for us to make another,
    /// even without `auto_connect`: what was connected is not given up for that.
    pub(crate) fn rebuild_link(&mut self, id: &PeerId, reason: Reason) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.keep |= peer.is_up();
            if let Some(link) = &mut peer.link {
                link.offerer = true;
            }
        }
        self.fail_link(id, reason);
    }

    fn on_link_state(&mut self, id: &PeerId, state: LinkState) {
        match state {
            LinkState::Connected => self.link_up(id),
            LinkState::Failed => self.fail_link(id, Reason::LinkFailed),
            LinkState::Closed if self.peers.get(id).is_some_and(Peer::is_up) => self.closed_by_peer(id),
            LinkState::Closed => self.fail_link(id, Reason::ClosedByPeer),
            // A link begins like this, which is `Connecting` for us already; after that it tells of lost contact.
            LinkState::New | LinkState::Connecting | LinkState::Disconnected => {
                if self.peers.get(id).is_some_and(Peer::is_up) && state != LinkState::New {
                    self.link_silent(id, state);
                }
            }
        }
    }

    /// The orderly end of a connected link is the peer's will: it does not want us, it goes, or it builds anew. Unless we
    /// joined again just now: then it was told that we had left, and a newcomer offers. Or the peer did: then the one that
    /// closed the link may have been the process before.
    fn closed_by_peer(&mut self, id: &PeerId) {
        let (joined, now, timeout) = (self.joined, self.now, self.config.connect_timeout);
        let Some(link) = self.drop_link(id, PeerState::Closed, Reason::ClosedByPeer) else { return };
        let just_now = |at: crate::Time| at + timeout > now;
        let we_joined = joined.is_some_and(|(at, first)| link.id < first && just_now(at));
        if we_joined || link.outlived_join.is_some_and(just_now) {
            self.retry_later(id, true);
        } else {
            self.park(id, Parked::ByPeer);
        }
        self.forget_unannounced(id);
    }

    fn on_channel_open(&mut self, id: &PeerId) {
        // An open channel says that the link is up, should that report have been lost.
        if !self.peers.get(id).is_some_and(Peer::is_up) {
            self.link_up(id);
        }
        if let Some(link) = self.link_mut(id) {
            link.channel_open = true;
            self.fulfil(id);
        }
    }

    fn link_up(&mut self, id: &PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.attempts = 0;
        let Some(link) = &mut peer.link else { return };
        if !std::mem::replace(&mut link.up, true) {
            let busy = link.phase != Phase::Stable;
            link.deadline = busy.then(|| self.now + self.config.connect_timeout);
            link.healing.connected_at = self.now;
        }
        link.mark_well(self.now, self.config.retry.enabled);
        let open = link.channel_open || !self.config.data;
        self.set_state(id, PeerState::Connected, Reason::LinkUp);
        if open {
            self.fulfil(id);
        }
    }

    fn on_close(&mut self) {
        self.closed = true;
        self.next_due = None;
        let requests = std::mem::take(&mut self.requests);
        for (id, request) in requests {
            self.connect_failed(id, request.peer, crate::ConnectError::Closed);
        }
        let peers: Vec<PeerId> = self.peers.keys().cloned().collect();
        for id in peers {
            self.drop_link(&id, PeerState::Closed, Reason::Closed);
        }
    }

    // ---- helpers

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(crate) fn signal(&mut self, peer: &PeerId, signal: Signal) {
        self.act(Action::Signal { peer: peer.clone(), signal });
    }

    pub(crate) fn signal_error(&mut self, peer: &PeerId, code: i32, message: &str) {
        self.signal(peer, Signal::Error { code, message: message.to_owned() });
    }

    pub(crate) fn warn(&mut self, peer: &PeerId, warning: Warning, message: impl Into<String>) {
        self.act(Action::Warning { peer: peer.clone(), warning, message: message.into() });
    }

    pub(crate) fn link_mut(&mut self, id: &PeerId) -> Option<&mut Link> {
        self.peers.get_mut(id)?.link.as_mut()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.links.len() < self.config.max_peers
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// From now on this peer is not offered to of our own accord. `false` if it is unknown.
    pub(crate) fn park(&mut self, id: &PeerId, by: Parked) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        (peer.parked, peer.keep, peer.offer_at) = (Some(by), false, None);
        true
    }

    pub(crate) fn set_state(&mut self, id: &PeerId, state: PeerState, reason: Reason) {
        if let Some(peer) = self.peers.get_mut(id)
            && peer.state != state
        {
            peer.state = state;
            peer.reason = reason.clone();
            self.act(Action::PeerState { peer: id.clone(), state, reason });
        }
    }

    fn run_timers(&mut self) {
        if self.closed {
            return;
        }
        let now = self.now;
        let due: Vec<RequestId> =
            self.requests.iter().filter(|(_, r)| r.deadline <= now).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|request| self.expire_request(request));

        let overdue =
            |peer: &Peer| peer.link.as_ref().and_then(|link| link.deadline).is_some_and(|at| at <= now);
        let due: Vec<PeerId> =
            self.peers.iter().filter(|(_, p)| overdue(p)).map(|(id, _)| id.clone()).collect();
        due.iter().for_each(|id| self.on_link_overdue(id));

        self.run_healing();

        let to_offer = |id: &PeerId, peer: &Peer| self.offer_due(id, peer).is_some_and(|at| at <= now);
        let due: Vec<PeerId> =
            self.peers.iter().filter(|(id, p)| to_offer(id, p)).map(|(id, _)| id.clone()).collect();
        due.iter().for_each(|id| self.offer_now(id));

        let links = self.peers.values().filter_map(|peer| peer.link.as_ref()?.deadline);
        let offers = self.peers.iter().filter_map(|(id, peer)| self.offer_due(id, peer));
        let healing = self.peers.values().flat_map(|peer| self.healing_due(peer));
        let requests = self.requests.values().map(|request| request.deadline);
        self.next_due = requests.chain(links).chain(offers).chain(healing).min();
    }
}

/// What was dropped or ignored, each for its reason. They only count up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reports of links that do not exist any more.
    pub stale_reports: u64,
    /// Reports that do not fit the link's negotiation, such as an offer nobody asked for.
    pub unexpected_reports: u64,
    /// Announcements with a bad id or too much data.
    pub bad_announcements: u64,
    /// Peers not taken because the roster is full.
    pub roster_overflow: u64,
    /// Offers, answers and candidates said to come from ourselves.
    pub from_self: u64,
    /// Offers of denied peers.
    pub denied_offers: u64,
    /// Offers refused for `max_peers`, or for a full roster.
    pub refused_offers: u64,
    /// Offers ignored because they crossed with ours and the other side yields.
    pub ignored_offers: u64,
    /// Offers of ours given up because they crossed with a peer's.
    pub yielded_offers: u64,
    /// Offers and answers that are no SDP or too long.
    pub bad_descriptions: u64,
    /// Answers without an offer.
    pub unexpected_answers: u64,
    /// Candidates of peers we do not know.
    pub unknown_candidates: u64,
    /// Candidates that belong to an ignored offer.
    pub ignored_candidates: u64,
    /// Candidates over the limit of a negotiation, or too long.
    pub dropped_candidates: u64,
    /// Local candidates over the limit of a negotiation.
    pub dropped_local_candidates: u64,
    /// Links that failed.
    pub failed_links: u64,
    /// ICE restarts begun by us.
    pub ice_restarts: u64,
    /// Offers repeated because no answer came.
    pub repeated_offers: u64,
}

pub(crate) fn valid_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 4 * 128 && id.chars().count() <= 128
}

/// Text from outside, cut to what fits an event.
pub(crate) fn clip(mut text: String) -> String {
    const MAX: usize = 256;
    if text.len() > MAX {
        let cut = (0..=MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
    }
    text
}

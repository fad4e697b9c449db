//! What the mesh keeps for each peer.

use crate::sdp::Session;
use crate::{IceCandidate, LinkId, PeerState, Reason, Time};

/// A look at one peer of the roster.
#[derive(Clone, Debug)]
pub struct PeerView<'a> {
    /// Its id.
    pub id: &'a str,
    /// Whether it is in the room, as far as we know. A peer with a link may be missing there for a while, after the signaling
    /// connection was lost.
    pub announced: bool,
    /// Its state.
    pub state: PeerState,
    /// Why it is in that state.
    pub reason: &'a Reason,
    /// What it announced.
    pub capabilities: &'a [String],
    /// What it announced: JSON text.
    pub user_data: Option<&'a str>,
    /// Its link, if there is one.
    pub link: Option<LinkId>,
    /// Whether the link's data channel is open.
    pub channel_open: bool,
    /// How often we offered since it was last connected.
    pub attempts: u32,
}

/// How we know of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It offered before it was announced.
    Unannounced,
    Announced,
    /// It has a link that was up, but signaling does not know it (any more).
    Missing {
        since: Time,
    },
}

/// Who closed the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// Holds until a connect request, an offer, or the end of the peer's membership.
    ByUs,
    /// Holds until then, or until one of us joins again.
    ByPeer,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) presence: Presence,
    pub(crate) capabilities: Vec<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) state: PeerState,
    pub(crate) reason: Reason,
    pub(crate) link: Option<Link>,
    /// The link was closed on purpose: no offers of our own accord.
    pub(crate) parked: Option<Parked>,
    /// A connect request asked for this peer: keep it connected even without `auto_connect`.
    pub(crate) keep: bool,
    pub(crate) attempts: u32,
    /// When it joined after us.
    pub(crate) joined_at: Option<Time>,
    /// When to offer, if there is still no link then.
    pub(crate) offer_at: Option<Time>,
    /// Remote candidates whose description is not set yet.
    pub(crate) held: Vec<IceCandidate>,
    /// Remote candidates taken in since the last description.
    pub(crate) candidates_seen: usize,
}

impl Peer {
    pub(crate) fn new(presence: Presence) -> Self {
        Self {
            presence,
            capabilities: Vec::new(),
            user_data: None,
            state: PeerState::New,
            reason: Reason::Announced,
            link: None,
            parked: None,
            joined_at: None,
            keep: false,
            attempts: 0,
            offer_at: None,
            held: Vec::new(),
            candidates_seen: 0,
        }
    }

    /// The link was up once, so that it is worth keeping whatever signaling says.
    pub(crate) fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.up)
    }

    /// Signaling does not know it any more.
    pub(crate) fn mark_missing(&mut self, now: Time) {
        if !matches!(self.presence, Presence::Missing { .. }) {
            self.presence = Presence::Missing { since: now };
        }
    }

    pub(crate) fn view<'a>(&'a self, id: &'a str) -> PeerView<'a> {
        PeerView {
            id,
            announced: self.presence == Presence::Announced,
            state: self.state,
            reason: &self.reason,
            capabilities: &self.capabilities,
            user_data: self.user_data.as_deref(),
            link: self.link.as_ref().map(|link| link.id),
            channel_open: self.link.as_ref().is_some_and(|link| link.channel_open),
            attempts: self.attempts,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    /// We offered first, so we are the first to try again.
    pub(crate) offerer: bool,
    pub(crate) phase: Phase,
    /// Who wrote the remote description; `None` until there is one.
    pub(crate) session: Option<Session>,
    /// The ICE generation of the remote description.
    pub(crate) remote_ufrag: Option<String>,
    /// It was connected once.
    pub(crate) up: bool,
    pub(crate) healing: Healing,
    pub(crate) channel_open: bool,
    /// When to give up what is going on.
    pub(crate) deadline: Option<Time>,
    /// How often the offer that is out was repeated.
    pub(crate) resends: u32,
    /// Something is to be negotiated once the phase is stable.
    pub(crate) needed: bool,
    /// An offer on this link that came in the middle of another negotiation.
    pub(crate) queued_offer: Option<String>,
    /// The peer's last offer was ignored, and so are its candidates.
    pub(crate) ignoring: bool,
    /// The peer joined again after our offer went out, so the offer may have reached nobody.
    pub(crate) suspect: bool,
    /// When the peer joined again though it had this link.
    pub(crate) outlived_join: Option<Time>,
    /// Local candidates that wait for their description to be sent.
    pub(crate) outbox: Vec<IceCandidate>,
    /// Local candidates of this negotiation, sent or in the outbox.
    pub(crate) candidates_out: usize,
    /// Those sent after the offer that is out, to be repeated with it.
    pub(crate) sent: Vec<IceCandidate>,
}

/// What is done about a link that was up and is silent, or may soon be.
#[derive(Debug, Default)]
pub(crate) struct Healing {
    /// Since when nothing is heard.
    pub(crate) silent_since: Option<Time>,
    /// When it was last connected (again).
    pub(crate) connected_at: Time,
    /// When to restart ICE, or to repeat the offer that is out, unless the link is back by then.
    pub(crate) due: Option<Time>,
    /// The offer that is made, or is out, restarts ICE.
    pub(crate) restarting: bool,
    /// Restarts of ours since the link was last well for a while, and when the last one was.
    pub(crate) restarts: u32,
    pub(crate) restarted_at: Option<Time>,
    /// An address changed, which is why.
    pub(crate) moved: bool,
    /// ICE was restarted since the link fell silent.
    pub(crate) renewed: bool,
}

impl Link {
    pub(crate) fn new(
        id: LinkId,
        offerer: bool,
        phase: Phase,
        session: Option<Session>,
        deadline: Time,
    ) -> Self {
        Self {
            id,
            offerer,
            phase,
            session,
            remote_ufrag: None,
            up: false,
            healing: Healing::default(),
            channel_open: false,
            deadline: Some(deadline),
            resends: 0,
            needed: false,
            queued_offer: None,
            ignoring: false,
            suspect: false,
            outlived_join: None,
            outbox: Vec::new(),
            candidates_out: 0,
            sent: Vec::new(),
        }
    }

    /// It was up and nothing is heard now.
    pub(crate) fn is_silent(&self) -> bool {
        self.healing.silent_since.is_some()
    }

    /// The remote description that the peer's candidates belong to is set.
    pub(crate) fn takes_candidates(&self) -> bool {
        self.session.is_some() && !matches!(self.phase, Phase::AcceptingAnswer | Phase::AcceptingOffer { .. })
    }
}

/// Where a link's negotiation is: JSEP's signaling states, with the waits for the link's reports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Stable,
    CreatingOffer,
    /// The offer is out; kept to be repeated.
    HaveLocalOffer(String),
    AcceptingAnswer,
    AcceptingOffer {
        /// On a link that was negotiated before.
        again: bool,
        /// Our own offer was taken back for it.
        rolled_back: bool,
    },
}

//! What goes into the mesh and what comes out.

use std::sync::Arc;
use std::time::Duration;

use crate::{LinkState, PeerState, Reason};

/// A peer's id, unique in the room: 1 to 128 characters.
pub type PeerId = Arc<str>;

/// One link, from its creation until it is destroyed. Never used twice, so a late report on a link that was replaced is
/// known as such and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// The owner's number for a connect request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A peer as signaling announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAnnouncement {
    /// Its id.
    pub peer_id: PeerId,
    /// What it says it can do.
    pub capabilities: Vec<String>,
    /// Its own data, as JSON text that the mesh does not read.
    pub user_data: Option<String>,
}

impl PeerAnnouncement {
    /// A peer that announces nothing but its id.
    pub fn new(peer_id: impl Into<PeerId>) -> Self {
        Self { peer_id: peer_id.into(), capabilities: Vec::new(), user_data: None }
    }
}

/// An ICE candidate as signaling carries it (W3C `RTCIceCandidateInit`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IceCandidate {
    /// `candidate:…`; empty means the end of candidates.
    pub candidate: String,
    /// The `a=mid` of its media section.
    pub sdp_mid: Option<String>,
    /// The index of its media section.
    pub sdp_m_line_index: Option<u16>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// We joined the room, for the first time or again, and these peers are in it. We offer to each that we have no
    /// connected link with.
    Announced {
        /// Everyone else in the room.
        peers: Vec<PeerAnnouncement>,
    },
    /// A peer joined after us. It offers, we wait.
    Joined(PeerAnnouncement),
    /// A peer's membership ended.
    Left {
        /// Who.
        peer: PeerId,
    },
    /// A peer said that it disconnects; [`Input::Left`] follows.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// Its own words.
        reason: Option<String>,
    },
    /// An offer came.
    Offer {
        /// From whom.
        peer: PeerId,
        /// The description.
        sdp: String,
    },
    /// An answer came.
    Answer {
        /// From whom.
        peer: PeerId,
        /// The description.
        sdp: String,
    },
    /// A candidate came.
    Candidate {
        /// From whom.
        peer: PeerId,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// Something we sent to `peer` could not be delivered, or was refused.
    SignalError {
        /// To whom it was sent.
        peer: PeerId,
        /// JSON-RPC error code, see [`codes`].
        code: i32,
        /// Its text.
        message: String,
    },
    /// The signaling connection is gone. Links live on; nothing new is offered.
    SignalingLost,
    /// The signaling connection is back with its membership kept. ([`Input::Announced`] says it too.)
    SignalingRestored,

    /// The offer asked for by [`Action::CreateOffer`], already set as the local description.
    OfferCreated {
        /// On which link.
        link: LinkId,
        /// The description.
        sdp: String,
    },
    /// The answer to the offer of [`Action::AcceptOffer`], already set as the local description.
    AnswerCreated {
        /// On which link.
        link: LinkId,
        /// The description.
        sdp: String,
    },
    /// The answer of [`Action::AcceptAnswer`] is set.
    AnswerAccepted {
        /// On which link.
        link: LinkId,
    },
    /// The last `CreateOffer`, `AcceptOffer` (or the `Rollback` before it) or `AcceptAnswer` failed.
    NegotiationFailed {
        /// On which link.
        link: LinkId,
        /// Why, for people.
        reason: String,
    },
    /// A local candidate was found. May come at any time; the mesh sends it after the description it belongs to.
    LocalCandidate {
        /// On which link.
        link: LinkId,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// There are no more local candidates.
    LocalCandidatesDone {
        /// On which link.
        link: LinkId,
    },
    /// The link changed its state.
    LinkState {
        /// Which link.
        link: LinkId,
        /// Its state now.
        state: LinkState,
    },
    /// The path of a link is in doubt though it is not silent yet: the peer is heard from another address, or our own addresses
    /// changed. ICE is restarted at once, if the link is up.
    PathSuspect {
        /// Which link.
        link: LinkId,
    },
    /// The data channel is open.
    ChannelOpen {
        /// On which link.
        link: LinkId,
    },
    /// The link has something to negotiate (W3C `negotiationneeded`).
    NegotiationNeeded {
        /// Which link.
        link: LinkId,
    },

    /// Connect to a peer, or wait until that is done. Answered by one [`Action::Connected`] or [`Action::ConnectFailed`],
    /// unless it is cancelled.
    Connect {
        /// Whom.
        peer: PeerId,
        /// The owner's number for it.
        request: RequestId,
        /// How long to wait.
        timeout: Duration,
    },
    /// The owner lost interest in a request.
    CancelConnect {
        /// Which.
        request: RequestId,
    },
    /// Close the link to a peer, and do not offer to it again before the next [`Input::Connect`] or its next join. Its own offers
    /// are answered.
    Disconnect {
        /// Whom.
        peer: PeerId,
        /// Why, for the event.
        reason: String,
    },
    /// Close everything. The mesh does nothing afterwards.
    Close,
}

/// Something to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a link. `CreateOffer` or `AcceptOffer` follows at once and tells its role. A peer never has two.
    CreateLink {
        /// Its id in every report.
        link: LinkId,
        /// The other end.
        peer: PeerId,
    },
    /// Close a link and forget it. Nothing it reports from now on counts.
    DestroyLink {
        /// Which.
        link: LinkId,
        /// The other end.
        peer: PeerId,
    },
    /// Make an offer and set it locally; report [`Input::OfferCreated`].
    CreateOffer {
        /// On which link.
        link: LinkId,
        /// With new ICE credentials. The pair in use stays in use until the answer is there.
        ice_restart: bool,
    },
    /// Set this offer, make the answer and set that; report [`Input::AnswerCreated`].
    AcceptOffer {
        /// On which link.
        link: LinkId,
        /// The description.
        sdp: String,
    },
    /// Set this answer; report [`Input::AnswerAccepted`].
    AcceptAnswer {
        /// On which link.
        link: LinkId,
        /// The description.
        sdp: String,
    },
    /// Take our own offer back (JSEP rollback). Only on a link that was negotiated before. `AcceptOffer` follows, but for an ICE
    /// restart that is given up because nobody answers. If it cannot be done, report [`Input::NegotiationFailed`] once for both.
    Rollback {
        /// On which link.
        link: LinkId,
    },
    /// Add a remote candidate; the remote description it belongs to is set.
    AddRemoteCandidate {
        /// On which link.
        link: LinkId,
        /// The candidate; empty means the end of candidates.
        candidate: IceCandidate,
    },
    /// Send this to a peer through signaling.
    Signal {
        /// To whom.
        peer: PeerId,
        /// What.
        signal: Signal,
    },
    /// A connect request is done.
    Connected {
        /// Which.
        request: RequestId,
        /// With whom.
        peer: PeerId,
    },
    /// A connect request came to nothing.
    ConnectFailed {
        /// Which.
        request: RequestId,
        /// With whom.
        peer: PeerId,
        /// Why.
        error: ConnectError,
    },
    /// A peer is in the room.
    PeerJoined {
        /// As announced.
        peer: PeerAnnouncement,
    },
    /// The mesh forgot a peer: it is not in the room any more and its link is gone. Also told of one that had offered and was
    /// never announced.
    PeerLeft {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: Reason,
    },
    /// A peer's state changed.
    PeerState {
        /// Whose.
        peer: PeerId,
        /// The state now.
        state: PeerState,
        /// Why.
        reason: Reason,
    },
    /// Something the application should know of that is no state.
    Warning {
        /// Whom it concerns.
        peer: PeerId,
        /// What kind.
        warning: Warning,
        /// Details, for people.
        message: String,
    },
}

/// What goes to a peer through signaling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `peer.offer`.
    Offer(String),
    /// `peer.answer`.
    Answer(String),
    /// `peer.ice_candidate`.
    Candidate(IceCandidate),
    /// The protocol's error for an offer or answer of this peer, where the owner's signaling has a way to give it: as the
    /// response if the message was a request to us. Nothing depends on its arrival.
    Error {
        /// JSON-RPC error code, see [`codes`].
        code: i32,
        /// For people.
        message: String,
    },
}

/// Why a connect request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The peer was not announced before the request's timeout.
    #[error("the peer is not in the room")]
    NotFound,
    /// The peer is there, but there was no connection before the request's timeout.
    #[error("no connection in time")]
    Timeout,
    /// `allow_peers` or `deny_peers`, or the peer or the server, forbids it; or it is ourselves.
    #[error("connecting to this peer is not allowed")]
    Denied,
    /// `max_peers` peers have links, here or there.
    #[error("no room for another peer")]
    PeerLimit,
    /// The application disconnected the peer while the request waited.
    #[error("the peer was disconnected by request")]
    Disconnected,
    /// Too many requests are waiting.
    #[error("too many connect requests are waiting")]
    TooManyRequests,
    /// The mesh is closed.
    #[error("the mesh is closed")]
    Closed,
}

/// Kinds of [`Action::Warning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Warning {
    /// A peer sent an offer or answer that is no SDP, is too long, or that the link did not accept.
    BadDescription,
    /// A connected link could not make an offer, so what it has to negotiate stays undone.
    NoOffer,
    /// A peer's offer was refused because `max_peers` have links.
    PeerLimit,
    /// A denied peer offered.
    Denied,
    /// All attempts of [`Retry`](crate::Retry) failed; the peer stays `failed`.
    GaveUp,
}

/// The JSON-RPC error codes that mean something to the mesh.
pub mod codes {
    /// The peer is not connected to signaling.
    pub const PEER_NOT_FOUND: i32 = -32000;
    /// The peer has no room for another.
    pub const SESSION_LIMIT: i32 = -32001;
    /// The offer is invalid.
    pub const OFFER_INVALID: i32 = -32002;
    /// The answer is invalid.
    pub const ANSWER_INVALID: i32 = -32003;
    /// A candidate is invalid; the rest goes on.
    pub const CANDIDATE_INVALID: i32 = -32004;
    /// Another negotiation is going on.
    pub const NEGOTIATION_IN_PROGRESS: i32 = -32005;
    /// Not authorised.
    pub const UNAUTHORIZED: i32 = -32010;
    /// Not allowed to talk to this peer.
    pub const DENIED: i32 = -32013;
}

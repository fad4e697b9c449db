//! The states of a peer and of a link, and why they changed.

use std::fmt;

/// State of a peer as the application sees it: W3C `RTCPeerConnectionState`, with `New` for a peer that is announced and
/// has no link yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// No link.
    #[default]
    New,
    /// A link is being negotiated, or looks for a path.
    Connecting,
    /// The link is up.
    Connected,
    /// The link was up and hears nothing; it may come back.
    Disconnected,
    /// The link failed and is gone. Perhaps a retry is due.
    Failed,
    /// The link was closed on purpose, here or there.
    Closed,
}

impl PeerState {
    /// The W3C string.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of one link as its owner reports it, also in W3C `RTCPeerConnectionState` terms. `Closed` means that the other side
/// closed it in order (DTLS close_notify); a link that just falls silent is `Disconnected`, then `Failed`.
pub type LinkState = PeerState;

/// Why a peer's state is what it is. `Display` gives a sentence part for people, [`Reason::code`] a stable word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is in the room.
    Announced,
    /// We offered to it.
    Offered,
    /// It offered to us.
    WasOffered,
    /// It offered on a new link, so the one we had is gone at its end.
    Restarted,
    /// We joined the room again.
    Rejoined,
    /// The link reported it.
    LinkUp,
    /// The link reported it.
    Interrupted,
    /// ICE starts anew, by us or by the peer, because the link fell silent.
    IceRestart,
    /// ICE starts anew because an address changed, ours or the peer's.
    PathChanged,
    /// The link was silent for the whole of `grace`.
    Silent,
    /// The link reported it.
    LinkFailed,
    /// The peer closed the link.
    ClosedByPeer,
    /// The link was not connected in `connect_timeout`.
    ConnectTimeout,
    /// A negotiation on a connected link got no answer, though it was repeated.
    NegotiationTimeout,
    /// An offer or answer could not be made or was not accepted.
    NegotiationFailed(String),
    /// Our offer crossed with another so that the answers do not fit.
    AnswersCrossed,
    /// Signaling could not deliver our offer, or the peer refused it.
    Refused {
        /// JSON-RPC error code.
        code: i32,
        /// Its text.
        message: String,
    },
    /// It left the room.
    Left,
    /// It was not in the room any more when we joined again.
    Missing,
    /// It said that it disconnects.
    Disconnected(String),
    /// The application asked for it.
    Requested(String),
    /// There is no room for another link.
    PeerLimit,
    /// The mesh was closed.
    Closed,
}

impl Reason {
    /// A stable word for logs and events.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Offered => "offered",
            Self::WasOffered => "was-offered",
            Self::Restarted => "restarted",
            Self::Rejoined => "rejoined",
            Self::LinkUp => "link-up",
            Self::Interrupted => "interrupted",
            Self::IceRestart => "ice-restart",
            Self::PathChanged => "path-changed",
            Self::Silent => "silent",
            Self::LinkFailed => "link-failed",
            Self::ClosedByPeer => "closed-by-peer",
            Self::ConnectTimeout => "connect-timeout",
            Self::NegotiationTimeout => "negotiation-timeout",
            Self::NegotiationFailed(_) => "negotiation-failed",
            Self::AnswersCrossed => "answers-crossed",
            Self::Refused { .. } => "refused",
            Self::Left => "left",
            Self::Missing => "missing",
            Self::Disconnected(_) => "disconnected",
            Self::Requested(_) => "requested",
            Self::PeerLimit => "peer-limit",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = match self {
            Self::NegotiationFailed(text) | Self::Disconnected(text) | Self::Requested(text) => text,
            Self::Refused { code, message } => return write!(f, "refused ({code}: {message})"),
            _ => "",
        };
        match detail {
            "" => f.write_str(self.code()),
            _ => write!(f, "{} ({detail})", self.code()),
        }
    }
}

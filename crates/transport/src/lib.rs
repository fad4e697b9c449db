//! The one place where mesh, links, codecs and pipelines meet, and the only one that does IO.
//!
//! A [`Transport`] owns one net thread (sockets, timers, the mesh and every link) and a few workers (decoding, encoding,
//! pipelines). Signals go in and out as values: whoever owns the transport carries them, over WebSocket or otherwise.
//! Everything that waits has a bound, a policy and a counter; [`Transport::close`] joins every thread.

#![forbid(unsafe_code)]

mod audio_form;
mod audio_in;
mod audio_out;
mod config;
mod event;
mod ice;
mod keyframes;
mod ladder;
mod lane;
mod ledger;
mod lines;
mod mix_out;
mod net;
mod outputs;
mod pace;
mod peer;
mod quality;
mod routes;
mod session;
mod shared;
mod stats;
mod times;
mod transport;
mod video_in;
mod video_out;

use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub use config::{AudioConfig, Config, VideoConfig};
pub use event::{Event, EventCounters, MAX_WAITING_AUDIO_US, MAX_WAITING_MESSAGE_BYTES};
pub use ice::{IceTransportPolicy, MAX_ICE_SERVERS, StunServer, TurnServer};
pub use net::SocketCounters;
pub use pace::PaceTotals;
pub use peer::{HIGH_WATER_BYTES, LOW_WATER_BYTES, MAX_WAITING_BYTES, PeerPath, PeerStatus};
pub use quality::{Quality, QualityCause, QualityMeter, QualityReport, QualitySample};
pub use remotemedia_link::{
    CandidateKind, ChannelOptions, ChannelStats, DataMode, Drops, DtlsRole, IceState,
    InboundStats as LinkInbound, LinkStats, OutboundStats as LinkOutbound, RelayProtocol,
};
pub use remotemedia_mesh::{
    ConnectError, Counters as MeshCounters, IceCandidate, PeerAnnouncement, PeerId, PeerState, Reason, Retry,
    Signal, Warning,
};
pub use routes::{RouteConfig, RouteTo, Track};
pub use session::SessionId;
pub use stats::{
    InboundStats, Loudness, OutboundStats, PeerChannelStats, PeerStats, SourceStats, TransportCounters,
};
pub use transport::{PeerInfo, Transport};

/// One data channel message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// UTF-8 text.
    Text(Bytes),
    /// One JSON value as UTF-8 text; on the wire behind U+001E.
    Json(Bytes),
    /// Bytes.
    Binary(Bytes),
}

/// Why something can't be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// `connect_peer` came to nothing.
    #[error("peer '{peer}': {error}{detail}")]
    Connect {
        /// The peer asked for.
        peer: PeerId,
        /// Why.
        error: ConnectError,
        /// What was reached until then; begins with a separator or is empty.
        detail: String,
    },
    /// No peer of this id is known.
    #[error("no peer '{peer}' is known")]
    PeerNotFound {
        /// The id asked for.
        peer: PeerId,
    },
    /// There is no open channel to this peer.
    #[error("there is no open channel to peer '{peer}'")]
    NotConnected {
        /// The peer.
        peer: PeerId,
    },
    /// A message is larger than the peer takes.
    #[error("a message of {size} bytes is over the {limit} bytes that peer '{peer}' takes")]
    MessageTooLarge {
        /// The peer.
        peer: PeerId,
        /// Bytes on the wire.
        size: usize,
        /// The peer's `max-message-size`.
        limit: usize,
    },
    /// So much waits for the peer that nothing more is taken.
    #[error("{limit} bytes wait for peer '{peer}': await each send before the next")]
    SendQueueFull {
        /// The peer.
        peer: PeerId,
        /// The bound, in bytes.
        limit: usize,
    },
    /// There is no codec for this kind that both ends have.
    #[error("peer '{peer}' and this one have no common {kind} codec")]
    NoCommonCodec {
        /// The peer.
        peer: PeerId,
        /// `audio` or `video`.
        kind: &'static str,
    },
    /// A codec failed.
    #[error("{message}")]
    Codec {
        /// What it said.
        message: String,
    },
    /// A pipeline node failed or refused its input.
    #[error("{message}")]
    Node {
        /// What it said, with the node's id.
        message: String,
    },
    /// A setting is outside its range.
    #[error("{field}: {message}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is allowed.
        message: String,
    },
    /// A peer did something that the mesh warns of.
    #[error("peer '{peer}': {message}")]
    Peer {
        /// Which.
        peer: PeerId,
        /// What kind of thing.
        warning: Warning,
        /// Details.
        message: String,
    },
    /// A STUN or TURN server is of no use at present; it is tried again.
    #[error("{server}: {message}")]
    IceServer {
        /// Its URL.
        server: String,
        /// What is wrong.
        message: String,
    },
    /// The transport is closed.
    #[error("the transport is closed")]
    Closed,
    /// The system refused a socket or a thread.
    #[error("{what}: {message}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        message: String,
    },
}

// A poisoned lock means that a worker panicked, which is reported on its own; the data behind it is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

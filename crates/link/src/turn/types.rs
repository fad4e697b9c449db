//! What a TURN client is told, what it reports and what it counts.

use bytes::Bytes;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address family of a relayed address (RFC 8656, section 18.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, asked for with REQUESTED-ADDRESS-FAMILY.
    V6,
}

impl Family {
    /// The family of this address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// How a [`crate::turn::TurnClient`] starts.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnConfig {
    /// The server, as the socket or stream reaches it.
    pub server: SocketAddr,
    /// USERNAME of the long-term credential mechanism (RFC 8489, section 9.2): 1 to 508 bytes of UTF-8.
    pub username: String,
    /// Its password, or the credential of a TURN REST service. At most 1024 bytes.
    pub credential: String,
    /// Family of the relayed address.
    pub family: Family,
    /// The server is reached over TCP or TLS: ChannelData is padded and nothing is retransmitted.
    pub stream: bool,
}

// The credential never gets into a log.
impl fmt::Debug for TurnConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnConfig")
            .field("server", &self.server)
            .field("username", &self.username)
            .field("family", &self.family)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// What a [`crate::turn::TurnClient`] reports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TurnEvent {
    /// There is an allocation. Comes again with another `relayed` when the server lost the first and a new one was
    /// made: what was sent to the old address is lost, and its candidates are void.
    Allocated {
        /// The address that peers send to.
        relayed: SocketAddr,
        /// Our address as the server sees it: server-reflexive, if the server was reached over UDP.
        mapped: SocketAddr,
    },
    /// There is no allocation and nothing more is tried. The last event.
    Failed(TurnError),
    /// A datagram from a peer.
    Data {
        /// The peer, as the server sees it.
        from: SocketAddr,
        /// The payload.
        data: Bytes,
    },
    /// The server refuses the credentials. [`crate::turn::TurnClient::set_credentials`] within
    /// [`crate::turn::CREDENTIALS_WAIT`] goes on with others; setting the same again gives up at once.
    CredentialsExpired,
    /// The server refuses this peer, as with 403 (Forbidden) by its own rules. What waited for it was dropped.
    PeerRefused {
        /// The peer's address.
        peer: IpAddr,
        /// The error code.
        code: u16,
    },
}

/// Why there is no allocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// The server doesn't answer: all retransmissions were in vain, or the allocation ran out meanwhile.
    #[error("the TURN server doesn't answer")]
    Timeout,
    /// 401, after new credentials were asked for.
    #[error("the TURN server refuses the credentials")]
    Unauthorized,
    /// 300: another server is to be used. The owner bounds how often it follows.
    #[error("the TURN server sends us to {server}")]
    TryAlternate {
        /// ALTERNATE-SERVER.
        server: SocketAddr,
    },
    /// 437 on a first allocation: the server has one for our address and port already. A new local port helps
    /// (RFC 8656, section 7.4).
    #[error("the TURN server has an allocation for this address and port already")]
    AllocationMismatch,
    /// 440, or an address of the other family: the server has no relay of the family asked for.
    #[error("the TURN server relays no such address family")]
    FamilyNotSupported,
    /// 486.
    #[error("allocation quota reached")]
    QuotaReached,
    /// 508.
    #[error("the TURN server has no capacity left")]
    InsufficientCapacity,
    /// 438 again and again, with each new nonce.
    #[error("the TURN server finds each of its nonces stale")]
    NonceLoop,
    /// Another error code.
    #[error("the TURN server answers {code} {reason}")]
    Refused {
        /// ERROR-CODE, 300 to 699.
        code: u16,
        /// Its reason phrase: printable, at most 128 characters.
        reason: String,
    },
    /// An answer against the protocol, as a success without an address.
    #[error("the TURN server breaks the protocol: {0}")]
    Protocol(&'static str),
    /// The username or credential is out of range.
    #[error("{0}")]
    Argument(&'static str),
}

/// What a client did, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnCounters {
    /// Requests sent, without retransmissions.
    pub requests: u64,
    /// Retransmissions.
    pub retransmits: u64,
    /// Requests that were never answered.
    pub timeouts: u64,
    /// 438 answers; each was followed by the same request with the new nonce.
    pub stale_nonces: u64,
    /// Error answers but 401 and 438.
    pub errors: u64,
    /// Allocations made.
    pub allocations: u64,
    /// Datagrams sent as ChannelData.
    pub sent_channel: u64,
    /// Datagrams sent as Send indications.
    pub sent_indication: u64,
    /// Payload bytes sent either way.
    pub sent_bytes: u64,
    /// Datagrams received as ChannelData.
    pub received_channel: u64,
    /// Datagrams received as Data indications.
    pub received_indication: u64,
    /// Payload bytes received either way.
    pub received_bytes: u64,
    /// Datagrams that waited for a permission.
    pub queued: u64,
    /// Datagrams dropped because too many waited for a permission, or it never came.
    pub dropped_unpermitted: u64,
    /// Datagrams not sent: another family, too large, no allocation, too many peers.
    pub dropped_unsendable: u64,
    /// Datagrams dropped because the owner didn't take what is to be sent.
    pub dropped_full: u64,
    /// Datagrams received and dropped because the owner didn't take the events.
    pub dropped_events: u64,
    /// Received: not STUN or ChannelData, or malformed.
    pub malformed: u64,
    /// Received: an answer to no request of ours, a channel that isn't bound, a peer that isn't permitted.
    pub unexpected: u64,
    /// Received: an answer whose integrity is wrong or missing.
    pub unauthenticated: u64,
}

//! What the owner decides before the mesh starts.

use std::time::Duration;

/// Settings of a [`Mesh`](crate::Mesh). [`MeshConfig::new`] gives the defaults named at each field.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Our own peer id, 1 to 128 characters.
    pub local_id: String,
    /// How many remote peers may have a link at one time. Default 10.
    pub max_peers: usize,
    /// Connect to everyone announced in the room. If `false`, the mesh never offers by itself, but answers. Default `true`.
    pub auto_connect: bool,
    /// Every link has a data channel, and a connect request is done when it is open; if `false`, when the link is
    /// connected. Default `true`.
    pub data: bool,
    /// If set, only these peers may be connected to. Default `None`: everyone.
    pub allow_peers: Option<Vec<String>>,
    /// These peers are never connected to, even if they are in `allow_peers`. Default `None`.
    pub deny_peers: Option<Vec<String>>,
    /// How long a link may take from its creation until it is connected, and a negotiation on a connected link until it is
    /// answered. Default 10 s.
    pub connect_timeout: Duration,
    /// How long those present wait for a newcomer's offer before they offer themselves. Default 3 s.
    pub offer_grace: Duration,
    /// How long a link that was connected may stay silent while ICE restarts are tried. After that it has failed and is
    /// built anew. Default 150 s.
    pub grace: Duration,
    /// How long a peer is kept whose link is silent and whose membership ended without a word of its own (its signaling
    /// socket is gone), counted from when both are so. A link that is up outlives its peer's membership. Default 20 s.
    pub left_grace: Duration,
    /// When a failed link is tried again, and whether ICE restarts of our own are made at all.
    pub retry: Retry,
    /// Bounds on what others can make us keep.
    pub limits: Limits,
    /// Seed of the jitter. Give each run another one.
    pub seed: u64,
}

impl MeshConfig {
    /// The defaults, for the peer `local_id`.
    pub fn new(local_id: impl Into<String>) -> Self {
        Self {
            local_id: local_id.into(),
            max_peers: 10,
            auto_connect: true,
            data: true,
            allow_peers: None,
            deny_peers: None,
            connect_timeout: Duration::from_secs(10),
            offer_grace: Duration::from_secs(3),
            grace: Duration::from_secs(150),
            left_grace: Duration::from_secs(20),
            retry: Retry::default(),
            limits: Limits::default(),
            seed: 0,
        }
    }

    /// Whether the lists let us connect to `peer`.
    pub fn allows(&self, peer: &str) -> bool {
        let names = |list: &Option<Vec<String>>| list.as_ref().map(|list| list.iter().any(|id| id == peer));
        names(&self.allow_peers).unwrap_or(true) && !names(&self.deny_peers).unwrap_or(false)
    }
}

/// When a link that failed is tried again: after `initial_delay`, doubled with each attempt up to `max_delay`, less a
/// random part of up to one half. The side that had offered tries first; the other waits for its offer and
/// `offer_grace` more.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Try again at all, and restart ICE when a link falls silent. Default `true`.
    pub enabled: bool,
    /// Attempts in a row before the peer is left in `failed`. A connection, a rejoin or a connect request
    /// starts the count anew. Default `None`: no limit.
    pub max_attempts: Option<u32>,
    /// Default 250 ms.
    pub initial_delay: Duration,
    /// Default 4 s.
    pub max_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            enabled: true,
            max_attempts: None,
            initial_delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(4),
        }
    }
}

/// Bounds. What is over one is dropped and counted in [`Counters`](crate::Counters), or refused with an error.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Peers kept in the roster. Default 1024.
    pub roster: usize,
    /// Connect requests waiting at one time. Default 1024.
    pub requests: usize,
    /// Candidates taken in, and sent out, for one negotiation. Default 64.
    pub candidates: usize,
    /// Bytes of an SDP. Default 48 KiB.
    pub sdp_bytes: usize,
    /// Bytes of one candidate. Default 2048.
    pub candidate_bytes: usize,
    /// Bytes of a peer's capabilities and user data together. Default 64 KiB.
    pub announcement_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            roster: 1024,
            requests: 1024,
            candidates: 64,
            sdp_bytes: 48 * 1024,
            candidate_bytes: 2048,
            announcement_bytes: 64 * 1024,
        }
    }
}

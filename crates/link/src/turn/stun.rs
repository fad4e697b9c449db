//! Our address as a STUN server sees it.

use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Instant;

/// Asks one STUN server once for our server-reflexive address (RFC 8489, Binding without authentication).
#[derive(Debug)]
pub struct StunClient {
    server: SocketAddr,
}

/// What a [`StunClient`] reports, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StunEvent {
    /// Our address and port as the server sees them.
    Mapped(SocketAddr),
    /// There is no answer to be had.
    Failed(StunError),
}

/// Why a STUN server told no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// The server doesn't answer.
    #[error("the STUN server doesn't answer")]
    Timeout,
    /// An error answer.
    #[error("the STUN server answers {code}")]
    Refused {
        /// ERROR-CODE, 300 to 699.
        code: u16,
    },
    /// A success without a usable address.
    #[error("the STUN server's answer has no address")]
    NoAddress,
}

impl StunClient {
    /// Starts: the first request is ready.
    pub fn new(now: Instant, server: SocketAddr) -> Self {
        let _ = now;
        Self { server }
    }

    /// The server.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// A datagram from the server; true if it was for this client.
    pub fn handle_data(&mut self, now: Instant, data: &[u8]) -> bool {
        let _ = (now, data);
        false
    }

    /// The time has come that [`Self::poll_timeout`] told.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// A datagram for the server.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        None
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<StunEvent> {
        None
    }
}

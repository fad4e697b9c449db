//! Our address as a STUN server sees it.

use super::message::{Received, Writer};
use super::transaction::{Due, MIN_RTO, Timers};
use bytes::Bytes;
use rtc::stun::attributes::ATTR_XORMAPPED_ADDRESS;
use rtc::stun::message::{CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, METHOD_BINDING, TransactionId};
use std::net::SocketAddr;
use std::time::Instant;

/// Asks one STUN server once for our server-reflexive address (RFC 8489, Binding without authentication), over UDP. The
/// request is sent 7 times at most; after 7.9 s without an answer it has failed.
#[derive(Debug)]
pub struct StunClient {
    server: SocketAddr,
    id: TransactionId,
    request: Bytes,
    /// Until there is an event.
    timers: Option<Timers>,
    transmit: bool,
    event: Option<StunEvent>,
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
        let request = Writer::new(METHOD_BINDING, CLASS_REQUEST);
        let id = request.id();
        let timers = Some(Timers::start(now, MIN_RTO, false));
        Self { server, id, request: request.finish(), timers, transmit: true, event: None }
    }

    /// The server.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// A datagram from the server; true if it was the answer.
    pub fn handle_data(&mut self, now: Instant, data: &[u8]) -> bool {
        let _ = now;
        let Some(message) = Received::parse(data) else { return false };
        if message.id() != self.id || message.method() != METHOD_BINDING || message.class() == CLASS_REQUEST {
            return false;
        }
        let event = if message.class() == CLASS_SUCCESS_RESPONSE {
            let address = message.address(ATTR_XORMAPPED_ADDRESS).or_else(|| message.mapped_address());
            address.map_or(StunEvent::Failed(StunError::NoAddress), StunEvent::Mapped)
        } else if let Some((code, _)) = message.error() {
            StunEvent::Failed(StunError::Refused { code })
        } else {
            return false;
        };
        // Of duplicates the first counts.
        if self.timers.take().is_some() {
            self.transmit = false;
            self.event = Some(event);
        }
        true
    }

    /// The time has come that [`Self::poll_timeout`] told.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.timers.as_mut().map(|t| t.due(now)) {
            Some(Due::Retransmit) => self.transmit = true,
            Some(Due::GiveUp) => {
                self.timers = None;
                self.event = Some(StunEvent::Failed(StunError::Timeout));
            }
            Some(Due::Nothing) | None => {}
        }
    }

    /// When [`Self::handle_timeout`] is due; `None` when it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.as_ref().map(Timers::next)
    }

    /// A datagram for the server.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        std::mem::take(&mut self.transmit).then(|| self.request.clone())
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<StunEvent> {
        self.event.take()
    }
}

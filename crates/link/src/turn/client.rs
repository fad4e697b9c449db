//! The TURN client.

use super::{TurnConfig, TurnCounters, TurnEvent};
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// One allocation at a TURN server: gets it, keeps it, sends and receives through it.
#[derive(Debug)]
pub struct TurnClient {
    config: TurnConfig,
}

impl TurnClient {
    /// Starts: the first Allocate request is ready to be sent. Over a stream, make it when the stream is connected.
    pub fn new(now: Instant, config: TurnConfig) -> Self {
        let _ = now;
        Self { config }
    }

    /// The server.
    pub fn server(&self) -> SocketAddr {
        self.config.server
    }

    /// The relayed address while there is an allocation.
    pub fn relayed(&self) -> Option<SocketAddr> {
        None
    }

    /// One datagram from the server, or one message from the [`super::StreamDeframer`]. True if it was for this client.
    pub fn handle_data(&mut self, now: Instant, data: &[u8]) -> bool {
        let _ = (now, data);
        false
    }

    /// The time has come that [`Self::poll_timeout`] told.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Self::handle_timeout`] is due; `None` when nothing is awaited.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// What is to be sent to the server next: one datagram, or for a stream one padded message.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        None
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<TurnEvent> {
        None
    }

    /// Sends a datagram to a peer. Without a permission it waits for one, which is asked for. False if it was dropped,
    /// which is counted.
    pub fn send(&mut self, now: Instant, to: SocketAddr, payload: &[u8]) -> bool {
        let _ = (now, to, payload);
        false
    }

    /// Lets this peer send to us, from any of its ports, as soon as there is an allocation: for each remote candidate.
    /// Kept up while it is used; asked again when called again.
    pub fn permit(&mut self, now: Instant, peer: IpAddr) {
        let _ = (now, peer);
    }

    /// Is the allocation still there? Asks the server now: for when links through it fall silent. If the server lost
    /// it, a new one is made and reported.
    pub fn check(&mut self, now: Instant) {
        let _ = now;
    }

    /// Other credentials, used from the next request on.
    pub fn set_credentials(&mut self, now: Instant, username: String, credential: String) {
        let _ = (now, username, credential);
    }

    /// Gives the allocation back (a Refresh with lifetime 0). Keep the client going until [`Self::is_closed`], or send
    /// what [`Self::poll_transmit`] gives once and drop it.
    pub fn close(&mut self, now: Instant) {
        let _ = now;
    }

    /// Nothing more will be sent or reported: closed or failed.
    pub fn is_closed(&self) -> bool {
        false
    }

    /// What happened so far.
    pub fn counters(&self) -> TurnCounters {
        TurnCounters::default()
    }
}

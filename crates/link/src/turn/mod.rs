//! Clients of TURN (RFC 8656) and STUN (RFC 8489) servers, sans-IO like the rest of the crate.
//!
//! [`TurnClient`] keeps one allocation at a server, which all links of a transport share: make one for each server and
//! family of relayed address. Feed what comes from the server to [`TurnClient::handle_data`], the time to
//! [`TurnClient::handle_timeout`] when [`TurnClient::poll_timeout`] says so, and after each call (also after
//! [`TurnClient::send`]) empty [`TurnClient::poll_transmit`] towards the server and [`TurnClient::poll_event`].
//!
//! Over TCP and TLS a [`StreamDeframer`] cuts the stream into messages. [`StunClient`] asks for a server-reflexive
//! address. Both `handle_data` return whether the data was theirs, so that a STUN and a TURN client can share a socket
//! and a server: the STUN client is asked first.
//!
//! `docs/decisions/0070-turn-client.md` says why the engine's client isn't used.

mod auth;
mod client;
mod message;
mod peers;
mod requests;
mod stream;
mod stun;
mod transaction;
mod types;

pub use client::TurnClient;
pub use stream::{MAX_STREAM_BUFFER, StreamDeframer, StreamError};
pub use stun::{StunClient, StunError, StunEvent};
pub use types::{Family, TurnConfig, TurnCounters, TurnError, TurnEvent};

use std::time::Duration;

/// How long a request that was refused with 401 waits for other credentials.
pub const CREDENTIALS_WAIT: Duration = Duration::from_secs(10);
/// The most peer addresses (without port) that are permitted at a time. The one longest unused makes room.
pub const MAX_PERMISSIONS: usize = 128;
/// The most channels at a time, those included whose number rests. Further peers get Send indications.
pub const MAX_CHANNELS: usize = 256;
/// The most datagrams that wait for the permission of one peer address.
pub const MAX_QUEUED_PER_PEER: usize = 32;
/// The most bytes that wait for the permission of one peer address.
pub const MAX_QUEUED_BYTES_PER_PEER: usize = 65_536;
/// The most datagrams that wait for the owner to send them, and received ones that wait to be taken.
pub const MAX_PENDING: usize = 4096;
/// The largest payload of one datagram, in bytes: what fits into UDP with the longest header.
pub const MAX_PAYLOAD: usize = 65_000;

//! One WebRTC link to one peer, sans-IO: datagrams, signals and the time go in, datagrams and events come out.
//!
//! This is the only crate that names the WebRTC engine (`rtc`), so that another engine or release can be judged by its
//! tests alone. It opens no socket, starts no thread and reads no clock for a decision: the owner passes `now` to every
//! call that needs it (`docs/decisions/0020-link-clock.md` lists what the engine itself reads).
//!
//! The life of a [`Link`]: [`Link::new`], [`Link::add_local_candidate`] for each socket, then [`Link::create_offer`] and
//! [`Link::accept_answer`], or [`Link::accept_offer`]. From then on feed [`Link::handle_datagram`] and
//! [`Link::handle_timeout`], and after each call empty [`Link::poll_transmit`] and [`Link::poll_event`].
//!
//! Beside it, for decode workers: [`VideoAssembler`] makes frames of RTP packets, a plain state machine too. [`turn`] has the clients of TURN and STUN servers.
#![forbid(unsafe_code)]

mod accounts;
mod assembler;
mod av1;
mod bandwidth;
mod candidate;
mod channels;
mod config;
mod data_pacer;
mod depacketize;
mod engine;
mod error;
mod event;
mod first_flight;
mod hold;
mod incoming;
mod limits;
mod link;
mod local;
mod media;
mod media_clock;
mod mirror;
mod nack;
mod negotiate;
mod pacer;
mod packetize;
mod patience;
mod playout;
mod resend;
mod sdp;
mod silence;
mod stats;
mod tap;
pub mod turn;

pub use assembler::{AssembledFrame, AssemblerStats, VideoAssembler};
pub use bandwidth::{Bandwidth, BandwidthEstimate, PacketResult};
pub use config::{Certificate, ChannelOptions, DataMode, LinkConfig};
pub use error::LinkError;
pub use event::{
    ChannelId, IceState, LinkEvent, LinkState, MediaKind, MessageKind, Negotiated, PeerAudio, RtpIn, Transmit,
};
pub use link::{Link, MAX_HELD_DATAGRAMS, MAX_QUEUED_CANDIDATES};
pub use local::{LocalCandidate, MAX_LOCAL_CANDIDATES, RelayProtocol};
pub use sdp::{MAX_M_LINES, MAX_SDP_BYTES};
pub use stats::{
    CandidateKind, ChannelStats, Drops, DtlsRole, InboundStats, LinkStats, OutboundStats, SelectedPair,
    StunStats,
};

#[cfg(test)]
extern crate self as remotemedia_link;
#[cfg(test)]
mod hostile_tests;

//! Counters of a link.

use crate::bandwidth::Bandwidth;
use crate::link::Link;
use crate::local::{Local, LocalCandidate, RelayProtocol};
use crate::tap;
use std::net::SocketAddr;
use std::time::Duration;

/// Where a link stands. Counts are since the link was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinkStats {
    /// The pair in use.
    pub selected: Option<SelectedPair>,
    /// Round trip of the last STUN check on the pair in use.
    pub round_trip: Option<Duration>,
    /// What is known of the path's capacity.
    pub bandwidth: Option<Bandwidth>,
    /// Datagrams in.
    pub packets_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Datagrams out.
    pub packets_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Audio in.
    pub audio_in: InboundStats,
    /// Video in.
    pub video_in: InboundStats,
    /// Audio out.
    pub audio_out: OutboundStats,
    /// Video out.
    pub video_out: OutboundStats,
    /// Messages in and out, over all channels.
    pub messages_received: u64,
    /// Messages accepted for sending.
    pub messages_sent: u64,
    /// DTLS datagrams sent again before the link was open (driver rule D3).
    pub handshake_resends: u64,
    /// Datagrams that waited for ICE (driver rule D2).
    pub held: u64,
    /// Silences of the peer in which the engine's clock stood still.
    pub silences: u64,
    /// Times that the peer was heard from elsewhere than where it was, or saw us elsewhere.
    pub path_suspects: u64,
    /// What was thrown away, by reason.
    pub drops: Drops,
}

/// The candidate pair in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectedPair {
    /// Our socket, or our address at the relay.
    pub local: SocketAddr,
    /// What our side of the pair is, as the peer sees it.
    pub local_kind: CandidateKind,
    /// How our relay is reached, if it is one.
    pub relay_protocol: Option<RelayProtocol>,
    /// The peer.
    pub remote: SocketAddr,
    /// What the peer's side is.
    pub remote_kind: CandidateKind,
}

/// Kind of a candidate (RFC 8445, section 5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CandidateKind {
    /// A host's own address.
    Host,
    /// An address seen by a STUN server.
    ServerReflexive,
    /// An address seen in a check.
    PeerReflexive,
    /// An address at a TURN server.
    Relay,
}

/// One kind of media in.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct InboundStats {
    /// RTP packets, retransmissions included.
    pub packets: u64,
    /// Payload bytes in them.
    pub bytes: u64,
    /// Packets expected less packets received (RFC 3550); late retransmissions bring it down again.
    pub lost: i64,
    /// Interarrival jitter in seconds (RFC 3550, section 6.4.1).
    pub jitter_seconds: f64,
    /// Packets that came by RTX (RFC 4588).
    pub retransmitted: u64,
    /// NACK messages sent.
    pub nacks_sent: u64,
    /// PLI messages sent.
    pub plis_sent: u64,
    /// FIR messages sent, to a peer that takes no PLI.
    pub firs_sent: u64,
}

/// One kind of media out, with what the peer reported about it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OutboundStats {
    /// RTP packets handed to the engine, retransmissions not included.
    pub packets: u64,
    /// Payload bytes in them.
    pub bytes: u64,
    /// Packets asked for again by NACK.
    pub nacked_packets: u64,
    /// NACK messages received.
    pub nacks_received: u64,
    /// PLI messages received.
    pub plis_received: u64,
    /// FIR messages received.
    pub firs_received: u64,
    /// Share of packets lost in the peer's last report, 0 to 1.
    pub fraction_lost: f64,
    /// Packets lost so far, as the peer counts.
    pub lost: i64,
    /// Jitter in seconds, as the peer counts.
    pub jitter_seconds: f64,
}

/// What was thrown away, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// Datagrams of no known kind, empty, or larger than 64 KiB.
    pub unknown_datagram: u64,
    /// DTLS and media that came before ICE, beyond [`crate::MAX_HELD_DATAGRAMS`].
    pub held_overflow: u64,
    /// Datagrams after close.
    pub after_close: u64,
    /// RTP packets while the event queue was full.
    pub rtp_queue_full: u64,
    /// RTP packets with a payload type or SSRC nobody negotiated.
    pub rtp_unknown: u64,
    /// `.local` candidates whose name was not resolved.
    pub candidate_mdns: u64,
    /// TCP candidates.
    pub candidate_tcp: u64,
    /// Candidates beyond [`crate::MAX_QUEUED_CANDIDATES`], of another ICE generation, or for RTCP.
    pub candidate_other: u64,
    /// Retransmissions refused because the peer asked for too many.
    pub nack_limited: u64,
    /// Channels refused because the peer opened too many.
    pub channel_limit: u64,
}

impl Link {
    /// Counters.
    pub fn stats(&self) -> LinkStats {
        let mut out = self.stats.clone();
        let shared = tap::lock(&self.shared);
        (out.audio_in, out.video_in) = (shared.audio_in.stats, shared.video_in.stats);
        out.video_in.plis_sent = self.stats.video_in.plis_sent;
        out.video_in.firs_sent = self.stats.video_in.firs_sent;
        for (to, from, sent) in [
            (&mut out.audio_out, shared.audio_out, self.stats.audio_out),
            (&mut out.video_out, shared.video_out, self.stats.video_out),
        ] {
            *to = from;
            (to.packets, to.bytes) = (sent.packets, sent.bytes);
        }
        out.drops.nack_limited = shared.nack_limited;
        out.drops.rtp_unknown += shared.rtp_unknown;
        drop(shared);
        out.selected = self.path();
        out.round_trip = self.round_trip();
        out.bandwidth = self.bandwidth();
        out
    }

    /// The pair in use.
    pub fn path(&self) -> Option<SelectedPair> {
        let (local, remote) = self.selected?;
        let protocol = |l: &Local| match l.candidate {
            LocalCandidate::Relay { relayed, protocol } if relayed == local => Some(protocol),
            _ => None,
        };
        let known = self.remote_candidates.iter().find(|c| c.addr == remote);
        Some(SelectedPair {
            local,
            local_kind: self.mirror.local_kind(local, remote, &self.local_candidates),
            relay_protocol: self.local_candidates.iter().find_map(protocol),
            remote,
            remote_kind: known.map_or(CandidateKind::PeerReflexive, |c| c.kind),
        })
    }

    /// Round trip of the last answered check on the pair in use; those come with every keepalive.
    pub fn round_trip(&self) -> Option<Duration> {
        let (local, remote) = self.selected?;
        self.mirror.round_trip(local, remote)
    }
}

//! Counters of a link.

use crate::bandwidth::Bandwidth;
use crate::event::IceState;
use crate::link::Link;
use crate::local::{Local, LocalCandidate, RelayProtocol};
use crate::tap;
use remotemedia_media::VideoCodec;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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
    /// Of both, those that were STUN: connectivity checks and their answers.
    pub stun: StunStats,
    /// State of ICE; `None` for a default of this.
    pub ice: Option<IceState>,
    /// Our side of DTLS; `None` until it is agreed.
    pub dtls_role: Option<DtlsRole>,
    /// SHA-256 fingerprint of the peer's certificate, as in its description; empty before the first.
    pub remote_fingerprint: String,
    /// ICE restarts that were agreed on.
    pub ice_restarts: u64,
    /// Other pairs that became the one in use.
    pub pair_changes: u64,
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
    /// Channels that opened.
    pub channels_opened: u64,
    /// Of these, those that closed.
    pub channels_closed: u64,
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

/// Connectivity checks (RFC 8445), over all pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StunStats {
    /// STUN datagrams in.
    pub packets_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// STUN datagrams out.
    pub packets_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Checks sent.
    pub requests_sent: u64,
    /// Checks answered.
    pub responses_received: u64,
    /// How long the answered ones took together.
    pub total_round_trip: Duration,
}

/// Who began DTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DtlsRole {
    /// We did.
    Client,
    /// The peer did.
    Server,
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
    /// The stream, once a packet of it came.
    pub ssrc: Option<u32>,
    /// RTP payload type of its last packet.
    pub payload_type: Option<u8>,
    /// What that stands for (video).
    pub codec: Option<VideoCodec>,
    /// RTP packets, retransmissions included.
    pub packets: u64,
    /// Payload bytes in them.
    pub bytes: u64,
    /// RTP headers and padding in them, in bytes.
    pub header_bytes: u64,
    /// When the last one came.
    pub last_packet: Option<Instant>,
    /// Packets expected less packets received (RFC 3550); what comes by RTX is another stream (RFC 4588). Negative: some came twice.
    pub lost: i64,
    /// The same with what came by RTX: what is still missing.
    pub missing: i64,
    /// Interarrival jitter in seconds (RFC 3550, section 6.4.1).
    pub jitter_seconds: f64,
    /// Packets that came by RTX (RFC 4588).
    pub retransmitted: u64,
    /// Payload bytes in them.
    pub retransmitted_bytes: u64,
    /// NACK messages sent.
    pub nacks_sent: u64,
    /// PLI messages sent.
    pub plis_sent: u64,
    /// FIR messages sent, to a peer that takes no PLI.
    pub firs_sent: u64,
    /// Sender reports that the peer sent about it.
    pub remote_reports: u64,
    /// Packets that the peer says it sent.
    pub remote_packets: u64,
    /// Payload bytes that the peer says it sent.
    pub remote_bytes: u64,
    /// The peer's wall clock at its last report: 32.32 fixed-point seconds since 1900.
    pub remote_ntp: Option<u64>,
}

/// One kind of media out, with what the peer reported about it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OutboundStats {
    /// The stream, once a packet of it left.
    pub ssrc: Option<u32>,
    /// RTP payload type of its last packet.
    pub payload_type: Option<u8>,
    /// RTP packets that left, retransmissions included.
    pub packets: u64,
    /// Payload bytes in them.
    pub bytes: u64,
    /// RTP headers in them, in bytes.
    pub header_bytes: u64,
    /// Packets sent again.
    pub retransmitted_packets: u64,
    /// Payload bytes in them.
    pub retransmitted_bytes: u64,
    /// Packets asked for again by NACK.
    pub nacked_packets: u64,
    /// NACK messages received.
    pub nacks_received: u64,
    /// PLI messages received.
    pub plis_received: u64,
    /// FIR messages received.
    pub firs_received: u64,
    /// Receiver reports about it.
    pub reports_received: u64,
    /// Share of packets lost in the peer's last report, 0 to 1.
    pub fraction_lost: f64,
    /// Packets lost so far, as the peer counts.
    pub lost: i64,
    /// The sequence number of the first packet.
    pub first_sequence: Option<u16>,
    /// The highest sequence number that the peer has, with how often it wrapped.
    pub remote_highest: Option<u32>,
    /// Jitter in seconds, as the peer counts.
    pub jitter_seconds: f64,
    /// Round trip by the last report that answered one of ours (RFC 3550, section 6.4.1).
    pub round_trip: Option<Duration>,
    /// All of these together.
    pub total_round_trip: Duration,
    /// How many there were.
    pub round_trips: u64,
}

/// One data channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelStats {
    /// Its label.
    pub label: String,
    /// Its subprotocol; may be empty.
    pub protocol: String,
    /// Messages accepted for sending.
    pub messages_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Messages in.
    pub messages_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
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
    /// RTCP datagrams not read because the peer sent too many, or too many that can't be read.
    pub rtcp_limited: u64,
    /// Transport-wide feedback that told of more packets than it may.
    pub feedback_limited: u64,
    /// Reports and requests about streams that are not ours, and kinds of feedback that nobody negotiated.
    pub rtcp_unknown: u64,
    /// Channels refused because the peer opened too many.
    pub channel_limit: u64,
}

impl OutboundStats {
    /// Packets that the peer has, as it counts; `None` before its first report.
    pub fn remote_received(&self) -> Option<u64> {
        let expected = i64::from(self.remote_highest?) - i64::from(self.first_sequence?) + 1;
        u64::try_from(expected.saturating_sub(self.lost)).ok()
    }
}

impl Link {
    /// Counters.
    pub fn stats(&self) -> LinkStats {
        let mut out = self.stats.clone();
        let shared = tap::lock(&self.shared);
        (out.audio_in, out.video_in) = (shared.audio_in.stats, shared.video_in.stats);
        out.video_in.plis_sent = self.stats.video_in.plis_sent;
        out.video_in.firs_sent = self.stats.video_in.firs_sent;
        (out.audio_out, out.video_out) = (shared.audio_out.stats, shared.video_out.stats);
        let drops = shared.drops;
        out.drops.nack_limited = drops.nack_limited;
        out.drops.feedback_limited = drops.feedback_limited;
        out.drops.rtcp_unknown = drops.rtcp_unknown;
        out.drops.rtp_unknown += drops.rtp_unknown;
        drop(shared);
        let came = out.video_in.payload_type;
        let codec = self.video_types.iter().find(|(number, _)| Some(*number) == came);
        out.video_in.codec = codec.map(|(_, codec)| *codec);
        out.selected = self.path();
        out.round_trip = self.round_trip();
        out.ice = Some(self.ice);
        out.bandwidth = self.bandwidth();
        self.mirror.count(&mut out.stun);
        out.dtls_role = self.setup.map(|s| if s == "active" { DtlsRole::Client } else { DtlsRole::Server });
        out.remote_fingerprint = self.remote_fingerprint.clone();
        out
    }

    /// SHA-256 fingerprint of our certificate (RFC 8122).
    pub fn local_fingerprint(&self) -> String {
        self.certificate.fingerprint()
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

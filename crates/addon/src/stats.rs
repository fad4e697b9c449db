//! Statistics on their way out; TypeScript gives them their W3C names.

use std::time::Duration;

use napi_derive::napi;
use remotemedia_transport::{InboundStats, OutboundStats, PeerPath, PeerStats, RelayProtocol};

use crate::transport::codec_name;

/// One peer.
#[napi(object, object_from_js = false)]
pub struct PeerStatsOut {
    /// Its id.
    pub peer_id: String,
    /// W3C state.
    pub state: &'static str,
    /// `host`, `srflx`, `prflx`, `relay` of our side; absent: no pair.
    pub local_kind: Option<&'static str>,
    /// Of the peer's side.
    pub remote_kind: Option<&'static str>,
    /// `address:port`.
    pub local_address: Option<String>,
    /// `address:port`.
    pub remote_address: Option<String>,
    /// Seconds.
    pub round_trip_time: Option<f64>,
    /// Bit/s that the path is thought to carry.
    pub available_outgoing_bitrate: Option<f64>,
    /// Datagrams.
    pub packets_sent: f64,
    /// Datagrams.
    pub packets_received: f64,
    /// Bytes.
    pub bytes_sent: f64,
    /// Bytes.
    pub bytes_received: f64,
    /// Messages.
    pub messages_sent: f64,
    /// Messages.
    pub messages_received: f64,
    /// Bytes not acknowledged.
    pub buffered_amount: f64,
    /// The codec sent.
    pub video_codec: Option<&'static str>,
    /// Audio in.
    pub audio_in: InboundOut,
    /// Video in.
    pub video_in: InboundOut,
    /// Audio out.
    pub audio_out: OutboundOut,
    /// Video out.
    pub video_out: OutboundOut,
}

/// The way to a peer.
#[napi(object, object_from_js = false)]
pub struct NativePath {
    /// `host`, `srflx`, `prflx` or `relay`: our end.
    pub local: &'static str,
    /// The peer's end.
    pub remote: &'static str,
    /// `udp`; `tcp` or `tls` where our TURN server is reached by that.
    pub protocol: &'static str,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
}

/// Media from a peer.
#[napi(object, object_from_js = false)]
pub struct InboundOut {
    /// RTP packets.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
    /// RTP packets.
    pub lost: f64,
    /// Seconds.
    pub jitter: f64,
    /// Pictures.
    pub frames_received: f64,
    /// Pictures or packets.
    pub frames_decoded: f64,
    /// Pictures.
    pub frames_dropped: f64,
    /// Packets that found no room.
    pub packets_discarded: f64,
    /// Holes in the sound that were made up for.
    pub concealments: f64,
    /// Samples made up.
    pub concealed_samples: f64,
    /// Samples recovered by in-band FEC.
    pub recovered_samples: f64,
    /// Samples of one channel given out, made up or not.
    pub samples: f64,
    /// Seconds that all samples waited together in the jitter buffer.
    pub jitter_buffer_delay: f64,
    /// Seconds that they were meant to wait.
    pub jitter_buffer_target_delay: f64,
    /// RTCP.
    pub nacks: f64,
    /// RTCP.
    pub plis: f64,
    /// RTCP.
    pub firs: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Media to a peer.
#[napi(object, object_from_js = false)]
pub struct OutboundOut {
    /// Pictures or packets.
    pub frames: f64,
    /// Pictures.
    pub keyframes: f64,
    /// RTP packets.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
    /// RTCP.
    pub nacks: f64,
    /// RTCP.
    pub plis: f64,
    /// RTCP.
    pub firs: f64,
    /// RTP packets the peer says it lost.
    pub lost: f64,
    /// 0 to 1.
    pub fraction_lost: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

pub(crate) fn peer_stats(s: PeerStats) -> PeerStatsOut {
    let selected = s.link.selected.as_ref();
    PeerStatsOut {
        peer_id: s.peer.to_string(),
        state: s.state.as_str(),
        local_kind: selected.map(|p| kind(p.local_kind)),
        remote_kind: selected.map(|p| kind(p.remote_kind)),
        local_address: selected.map(|p| p.local.to_string()),
        remote_address: selected.map(|p| p.remote.to_string()),
        round_trip_time: s.link.round_trip.map(|d| d.as_secs_f64()),
        available_outgoing_bitrate: s.link.bandwidth.map(|b| b.target_bps),
        packets_sent: s.link.packets_sent as f64,
        packets_received: s.link.packets_received as f64,
        bytes_sent: s.link.bytes_sent as f64,
        bytes_received: s.link.bytes_received as f64,
        messages_sent: s.link.messages_sent as f64,
        messages_received: s.link.messages_received as f64,
        buffered_amount: s.buffered_amount as f64,
        video_codec: s.video_codec.map(codec_name),
        audio_in: inbound(&s.link.audio_in, &s.audio_in),
        video_in: inbound(&s.link.video_in, &s.video_in),
        audio_out: outbound(&s.link.audio_out, &s.audio_out),
        video_out: outbound(&s.link.video_out, &s.video_out),
    }
}

fn inbound(link: &remotemedia_transport::LinkInbound, media: &InboundStats) -> InboundOut {
    InboundOut {
        packets: link.packets as f64,
        bytes: link.bytes as f64,
        lost: link.lost as f64,
        jitter: link.jitter_seconds,
        frames_received: media.frames_received as f64,
        frames_decoded: media.frames_decoded as f64,
        frames_dropped: media.frames_dropped as f64,
        packets_discarded: (media.packets_dropped + media.jitter.late + media.jitter.removed) as f64,
        concealments: media.jitter.concealments as f64,
        concealed_samples: media.jitter.concealed_samples as f64,
        recovered_samples: media.jitter.recovered_samples as f64,
        samples: media.jitter.samples() as f64,
        jitter_buffer_delay: media.jitter.total_delay.as_secs_f64(),
        jitter_buffer_target_delay: media.jitter.total_target.as_secs_f64(),
        nacks: link.nacks_sent as f64,
        plis: link.plis_sent as f64,
        firs: link.firs_sent as f64,
        width: media.width,
        height: media.height,
    }
}

fn outbound(link: &remotemedia_transport::LinkOutbound, media: &OutboundStats) -> OutboundOut {
    OutboundOut {
        frames: media.frames as f64,
        keyframes: media.keyframes as f64,
        packets: link.packets as f64,
        bytes: link.bytes as f64,
        nacks: link.nacks_received as f64,
        plis: link.plis_received as f64,
        firs: link.firs_received as f64,
        lost: link.lost as f64,
        fraction_lost: link.fraction_lost,
        width: media.width,
        height: media.height,
    }
}

pub(crate) fn path_out(path: PeerPath) -> NativePath {
    NativePath {
        local: kind(path.local),
        remote: kind(path.remote),
        protocol: path.relay_protocol.map_or("udp", RelayProtocol::as_str),
        family: if path.ipv6 { "IPv6" } else { "IPv4" },
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn kind(kind: remotemedia_transport::CandidateKind) -> &'static str {
    use remotemedia_transport::CandidateKind;
    match kind {
        CandidateKind::Host => "host",
        CandidateKind::ServerReflexive => "srflx",
        CandidateKind::PeerReflexive => "prflx",
        CandidateKind::Relay => "relay",
    }
}

//! Statistics on their way out; TypeScript gives them their W3C names and says what they mean.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use napi_derive::napi;
use remotemedia_transport::{
    Drops, DtlsRole, IceState, InboundStats, LinkInbound, LinkOutbound, Loudness, OutboundStats, PeerPath,
    PeerStats, QualityReport, RelayProtocol, SourceStats,
};

use crate::transport::codec_name;

/// One peer.
#[napi(object, object_from_js = false)]
pub struct PeerStatsOut {
    /// Its id.
    pub peer_id: String,
    /// W3C state.
    pub state: &'static str,
    /// W3C state of ICE.
    pub ice_state: Option<&'static str>,
    /// `client` or `server`.
    pub dtls_role: Option<&'static str>,
    /// SHA-256, ours.
    pub local_fingerprint: String,
    /// SHA-256, the peer's; empty: not known.
    pub remote_fingerprint: String,
    /// `host`, `srflx`, `prflx`, `relay` of our side; absent: no pair.
    pub local_kind: Option<&'static str>,
    /// Of the peer's side.
    pub remote_kind: Option<&'static str>,
    /// `address:port`.
    pub local_address: Option<String>,
    /// `address:port`.
    pub remote_address: Option<String>,
    /// `udp`, `tcp` or `tls`: how our relay is reached.
    pub relay_protocol: Option<&'static str>,
    /// Seconds.
    pub round_trip_time: Option<f64>,
    /// Seconds.
    pub total_round_trip_time: f64,
    /// Connectivity checks.
    pub requests_sent: f64,
    /// Answers to them.
    pub responses_received: f64,
    /// Bit/s that the path is thought to carry.
    pub available_outgoing_bitrate: Option<f64>,
    /// Datagrams, without STUN.
    pub packets_sent: f64,
    /// Datagrams, without STUN.
    pub packets_received: f64,
    /// Bytes, without STUN.
    pub bytes_sent: f64,
    /// Bytes, without STUN.
    pub bytes_received: f64,
    /// ICE restarts.
    pub ice_restarts: f64,
    /// Pairs that came into use.
    pub pair_changes: f64,
    /// Silences of the peer.
    pub silences: f64,
    /// Suspicions that its path changed.
    pub path_suspects: f64,
    /// DTLS datagrams sent again.
    pub handshake_resends: f64,
    /// Media that the decoders or the socket left behind, and what was thrown away unread, by reason.
    pub drops: HashMap<String, f64>,
    /// Channels that opened.
    pub channels_opened: f64,
    /// Channels that closed.
    pub channels_closed: f64,
    /// Data channels.
    pub channels: Vec<ChannelOut>,
    /// The codec sent.
    pub video_codec: Option<&'static str>,
    /// Sound before it is encoded.
    pub audio_source: SourceOut,
    /// Pictures before they are encoded.
    pub video_source: SourceOut,
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

/// How good a connection is.
#[napi(object, object_from_js = false)]
pub struct NativeQuality {
    /// `excellent` to `lost`.
    pub quality: &'static str,
    /// What is worst.
    pub cause: Option<&'static str>,
    /// 0 to 1.
    pub loss: Option<f64>,
    /// Seconds.
    pub round_trip_time: Option<f64>,
    /// Seconds.
    pub jitter: Option<f64>,
    /// 0 to 1.
    pub frozen: Option<f64>,
    /// 0 to 1.
    pub bandwidth: Option<f64>,
    /// Seconds.
    pub silent: f64,
}

/// A data channel.
#[napi(object, object_from_js = false)]
pub struct ChannelOut {
    /// Its number.
    pub channel: u32,
    /// Its label.
    pub label: String,
    /// Its subprotocol.
    pub protocol: String,
    /// Messages.
    pub messages_sent: f64,
    /// Bytes.
    pub bytes_sent: f64,
    /// Messages.
    pub messages_received: f64,
    /// Bytes.
    pub bytes_received: f64,
    /// Bytes not acknowledged.
    pub buffered_amount: f64,
}

/// Media before it is encoded.
#[napi(object, object_from_js = false)]
pub struct SourceOut {
    /// Something was given.
    pub used: bool,
    /// Pictures.
    pub frames: f64,
    /// Pictures of the last second.
    pub frames_per_second: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// 0 to 1.
    pub audio_level: f64,
    /// Seconds times the square of the level.
    pub total_audio_energy: f64,
    /// Seconds.
    pub total_samples_duration: f64,
}

/// Media from a peer.
#[napi(object, object_from_js = false)]
pub struct InboundOut {
    /// The stream.
    pub ssrc: Option<u32>,
    /// RTP payload type.
    pub payload_type: Option<u32>,
    /// What that stands for (video).
    pub codec: Option<&'static str>,
    /// RTP packets.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
    /// Bytes.
    pub header_bytes: f64,
    /// Milliseconds since the last packet.
    pub last_packet_ms: Option<f64>,
    /// RTP packets.
    pub lost: f64,
    /// RTP packets.
    pub missing: f64,
    /// Seconds.
    pub jitter: f64,
    /// RTP packets.
    pub retransmitted_packets: f64,
    /// Bytes.
    pub retransmitted_bytes: f64,
    /// Pictures.
    pub frames_received: f64,
    /// Pictures or packets.
    pub frames_decoded: f64,
    /// Pictures.
    pub key_frames: f64,
    /// Pictures.
    pub frames_dropped: f64,
    /// Pictures of the last second.
    pub frames_per_second: u32,
    /// Seconds.
    pub decode_time: f64,
    /// Seconds.
    pub inter_frame_delay: f64,
    /// Seconds squared.
    pub squared_inter_frame_delay: f64,
    /// Count.
    pub freezes: f64,
    /// Seconds.
    pub freezes_duration: f64,
    /// Count.
    pub pauses: f64,
    /// Seconds.
    pub pauses_duration: f64,
    /// Packets that found no room.
    pub packets_discarded: f64,
    /// What the decoder refused.
    pub decode_errors: f64,
    /// Holes in the sound that were made up for.
    pub concealments: f64,
    /// Samples made up.
    pub concealed_samples: f64,
    /// Samples recovered by in-band FEC.
    pub recovered_samples: f64,
    /// Samples of one channel given out, made up or not.
    pub samples: f64,
    /// 0 to 1.
    pub audio_level: f64,
    /// Seconds times the square of the level.
    pub total_audio_energy: f64,
    /// Seconds.
    pub total_samples_duration: f64,
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
    /// Sender reports.
    pub remote_reports: f64,
    /// RTP packets that the peer says it sent.
    pub remote_packets: f64,
    /// Bytes that the peer says it sent.
    pub remote_bytes: f64,
    /// The peer's clock, milliseconds since 1970.
    pub remote_timestamp: Option<f64>,
}

/// Media to a peer.
#[napi(object, object_from_js = false)]
pub struct OutboundOut {
    /// The stream.
    pub ssrc: Option<u32>,
    /// RTP payload type.
    pub payload_type: Option<u32>,
    /// Pictures or packets.
    pub frames: f64,
    /// Pictures.
    pub key_frames: f64,
    /// Pictures of the last second.
    pub frames_per_second: u32,
    /// RTP packets.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
    /// Bytes.
    pub header_bytes: f64,
    /// RTP packets.
    pub retransmitted_packets: f64,
    /// Bytes.
    pub retransmitted_bytes: f64,
    /// RTCP.
    pub nacks: f64,
    /// RTCP.
    pub plis: f64,
    /// RTCP.
    pub firs: f64,
    /// Receiver reports.
    pub reports: f64,
    /// RTP packets the peer says it lost.
    pub lost: f64,
    /// RTP packets the peer says it got.
    pub received: Option<f64>,
    /// 0 to 1.
    pub fraction_lost: f64,
    /// Seconds, as the peer says.
    pub jitter: f64,
    /// Seconds.
    pub round_trip_time: Option<f64>,
    /// Seconds.
    pub total_round_trip_time: f64,
    /// Count.
    pub round_trip_time_measurements: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

pub(crate) fn peer_stats(s: PeerStats) -> PeerStatsOut {
    let (link, selected) = (&s.link, s.link.selected.as_ref());
    let channels = s.channels.iter().map(|c| ChannelOut {
        channel: c.channel,
        label: c.link.label.clone(),
        protocol: c.link.protocol.clone(),
        messages_sent: c.link.messages_sent as f64,
        bytes_sent: c.link.bytes_sent as f64,
        messages_received: c.link.messages_received as f64,
        bytes_received: c.link.bytes_received as f64,
        buffered_amount: c.buffered_amount as f64,
    });
    PeerStatsOut {
        peer_id: s.peer.to_string(),
        state: s.state.as_str(),
        ice_state: link.ice.map(IceState::as_str),
        dtls_role: link.dtls_role.map(|role| if role == DtlsRole::Client { "client" } else { "server" }),
        local_fingerprint: s.local_fingerprint.clone(),
        remote_fingerprint: link.remote_fingerprint.clone(),
        local_kind: selected.map(|p| kind(p.local_kind)),
        remote_kind: selected.map(|p| kind(p.remote_kind)),
        local_address: selected.map(|p| p.local.to_string()),
        remote_address: selected.map(|p| p.remote.to_string()),
        relay_protocol: selected.and_then(|p| p.relay_protocol).map(RelayProtocol::as_str),
        round_trip_time: link.round_trip.map(|d| d.as_secs_f64()),
        total_round_trip_time: link.stun.total_round_trip.as_secs_f64(),
        requests_sent: link.stun.requests_sent as f64,
        responses_received: link.stun.responses_received as f64,
        available_outgoing_bitrate: link.bandwidth.map(|b| b.target_bps),
        packets_sent: (link.packets_sent - link.stun.packets_sent) as f64,
        packets_received: (link.packets_received - link.stun.packets_received) as f64,
        bytes_sent: (link.bytes_sent - link.stun.bytes_sent) as f64,
        bytes_received: (link.bytes_received - link.stun.bytes_received) as f64,
        ice_restarts: link.ice_restarts as f64,
        pair_changes: link.pair_changes as f64,
        silences: link.silences as f64,
        path_suspects: link.path_suspects as f64,
        handshake_resends: link.handshake_resends as f64,
        drops: drops(&link.drops),
        channels_opened: link.channels_opened as f64,
        channels_closed: link.channels_closed as f64,
        channels: channels.collect(),
        video_codec: s.video_codec.map(codec_name),
        audio_source: source(&s.audio_source),
        video_source: source(&s.video_source),
        audio_in: inbound(&link.audio_in, &s.audio_in),
        video_in: inbound(&link.video_in, &s.video_in),
        audio_out: outbound(&link.audio_out, &s.audio_out),
        video_out: outbound(&link.video_out, &s.video_out),
    }
}

pub(crate) fn quality_out(report: QualityReport) -> NativeQuality {
    let QualityReport { quality, cause, sample } = report;
    NativeQuality {
        quality: quality.as_str(),
        cause: cause.map(|cause| cause.as_str()),
        loss: sample.loss,
        round_trip_time: sample.round_trip,
        jitter: sample.jitter,
        frozen: sample.frozen,
        bandwidth: sample.bandwidth,
        silent: sample.silent.as_secs_f64(),
    }
}

fn drops(drops: &Drops) -> HashMap<String, f64> {
    let all = [
        ("unknownDatagram", drops.unknown_datagram),
        ("heldOverflow", drops.held_overflow),
        ("afterClose", drops.after_close),
        ("rtpQueueFull", drops.rtp_queue_full),
        ("rtpUnknown", drops.rtp_unknown),
        ("rtcpUnknown", drops.rtcp_unknown),
        ("rtcpLimited", drops.rtcp_limited),
        ("feedbackLimited", drops.feedback_limited),
        ("nackLimited", drops.nack_limited),
        ("candidateMdns", drops.candidate_mdns),
        ("candidateTcp", drops.candidate_tcp),
        ("candidateOther", drops.candidate_other),
        ("channelLimit", drops.channel_limit),
    ];
    all.into_iter().map(|(name, count)| (name.to_owned(), count as f64)).collect()
}

fn source(source: &SourceStats) -> SourceOut {
    let Loudness { level, energy, seconds } = source.loudness;
    SourceOut {
        used: source.last.is_some(),
        frames: source.frames as f64,
        frames_per_second: source.per_second,
        width: source.width,
        height: source.height,
        audio_level: level,
        total_audio_energy: energy,
        total_samples_duration: seconds,
    }
}

fn inbound(link: &LinkInbound, media: &InboundStats) -> InboundOut {
    let (jitter, pace, loudness) = (&media.jitter, &media.pace, &media.loudness);
    InboundOut {
        ssrc: link.ssrc,
        payload_type: link.payload_type.map(u32::from),
        codec: link.codec.map(codec_name),
        packets: link.packets as f64,
        bytes: link.bytes as f64,
        header_bytes: link.header_bytes as f64,
        last_packet_ms: link.last_packet.map(|at| milliseconds(Instant::now().saturating_duration_since(at))),
        lost: link.lost as f64,
        missing: link.missing as f64,
        jitter: link.jitter_seconds,
        retransmitted_packets: link.retransmitted as f64,
        retransmitted_bytes: link.retransmitted_bytes as f64,
        frames_received: media.frames_received as f64,
        frames_decoded: media.frames_decoded as f64,
        key_frames: media.keyframes as f64,
        frames_dropped: media.frames_dropped as f64,
        frames_per_second: pace.per_second,
        decode_time: media.decode_time.as_secs_f64(),
        inter_frame_delay: pace.intervals.as_secs_f64(),
        squared_inter_frame_delay: pace.squared_seconds,
        freezes: pace.freezes as f64,
        freezes_duration: pace.frozen.as_secs_f64(),
        pauses: pace.pauses as f64,
        pauses_duration: pace.paused.as_secs_f64(),
        packets_discarded: (media.packets_dropped + jitter.late + jitter.removed) as f64,
        decode_errors: media.decode_errors as f64,
        concealments: jitter.concealments as f64,
        concealed_samples: jitter.concealed_samples as f64,
        recovered_samples: jitter.recovered_samples as f64,
        samples: jitter.samples() as f64,
        audio_level: loudness.level,
        total_audio_energy: loudness.energy,
        total_samples_duration: loudness.seconds,
        jitter_buffer_delay: jitter.total_delay.as_secs_f64(),
        jitter_buffer_target_delay: jitter.total_target.as_secs_f64(),
        nacks: link.nacks_sent as f64,
        plis: link.plis_sent as f64,
        firs: link.firs_sent as f64,
        width: media.width,
        height: media.height,
        remote_reports: link.remote_reports as f64,
        remote_packets: link.remote_packets as f64,
        remote_bytes: link.remote_bytes as f64,
        remote_timestamp: link.remote_ntp.map(since_1970),
    }
}

fn outbound(link: &LinkOutbound, media: &OutboundStats) -> OutboundOut {
    OutboundOut {
        ssrc: link.ssrc,
        payload_type: link.payload_type.map(u32::from),
        frames: media.frames as f64,
        key_frames: media.keyframes as f64,
        frames_per_second: media.per_second,
        packets: link.packets as f64,
        bytes: link.bytes as f64,
        header_bytes: link.header_bytes as f64,
        retransmitted_packets: link.retransmitted_packets as f64,
        retransmitted_bytes: link.retransmitted_bytes as f64,
        nacks: link.nacks_received as f64,
        plis: link.plis_received as f64,
        firs: link.firs_received as f64,
        reports: link.reports_received as f64,
        lost: link.lost as f64,
        // W3C: what was sent until then less what was lost.
        received: link.remote_received().map(|packets| packets as f64),
        fraction_lost: link.fraction_lost,
        jitter: link.jitter_seconds,
        round_trip_time: link.round_trip.map(|d| d.as_secs_f64()),
        total_round_trip_time: link.total_round_trip.as_secs_f64(),
        round_trip_time_measurements: link.round_trips as f64,
        width: media.width,
        height: media.height,
    }
}

/// From NTP's 32.32 fixed-point seconds since 1900 (RFC 5905).
fn since_1970(ntp: u64) -> f64 {
    const BETWEEN: f64 = 2_208_988_800.0;
    (ntp as f64 / 4_294_967_296.0 - BETWEEN) * 1000.0
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

//! How the engine is set up.

use crate::config::{Certificate, LinkConfig};
use crate::error::LinkError;
use crate::tap::{Feedback, Shared, Tap};
use remotemedia_media::VideoCodec;
use rtc::interceptor::{
    CongestionControlBuilder, NackResponderBuilder, ReceiverReportBuilder, Registry, SenderReportBuilder,
    Slot, TwccReceiverBuilder, TwccSenderBuilder,
};
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::media_engine::MediaEngine;
use rtc::peer_connection::configuration::setting_engine::{SctpMaxMessageSize, SettingEngineBuilder};
use rtc::peer_connection::transport::RTCDtlsRole;
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters,
    RTCRtpHeaderExtensionCapability, RTCRtpRtxParameters, RtpCodecKind,
};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often the peer is told what came of its packets: the sooner it hears of a queue, the shorter it stays.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(50);
/// The fmtp line for VP9 (RFC 9628, section 6).
pub(crate) const VP9_FMTP: &str = "profile-id=0";
/// The fmtp line for H.264 constrained baseline (RFC 6184, section 8.1).
pub(crate) const H264_FMTP: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

/// The fmtp line for AV1 (RTP Payload Format For AV1, section 7.2.1): main profile, level 5.1 as decoders of a call have it.
pub(crate) const AV1_FMTP: &str = "level-idx=5;profile=0;tier=0";

/// The fmtp line for Opus (RFC 7587, section 6.1).
pub(crate) fn opus_fmtp(config: &LinkConfig) -> String {
    let mut out = String::from("minptime=10");
    out.push_str(if config.fec { ";useinbandfec=1" } else { ";useinbandfec=0" });
    if config.stereo {
        out.push_str(";stereo=1;sprop-stereo=1");
    }
    if config.dtx {
        out.push_str(";usedtx=1");
    }
    out
}

/// The SSRCs of what we send; fixed for the life of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ssrcs {
    pub audio: u32,
    pub video: u32,
    pub video_rtx: u32,
}

pub(crate) fn build(
    now: Instant,
    config: &LinkConfig,
    certificate: &Certificate,
    shared: &Arc<Mutex<Shared>>,
    answer_as_client: bool,
) -> Result<RTCPeerConnection, LinkError> {
    let mut media = MediaEngine::default();
    register(&mut media, config)?;
    // NACKs are written by the tap: the engine's generator counts a packet that comes back by RTX as still missing.
    let registry = Registry::new()
        .with(Slot::from(500), Tap::new(shared.clone()))
        .with(Slot::CongestionControl, CongestionControlBuilder::new(Feedback(shared.clone())).build())
        .with(Slot::TwccSender, TwccSenderBuilder::new().build())
        .with(Slot::NackResponder, NackResponderBuilder::new().with_size(1024).build())
        .with(Slot::TwccReceiver, TwccReceiverBuilder::new().with_interval(FEEDBACK_INTERVAL).build())
        .with(Slot::ReceiverReport, ReceiverReportBuilder::new().build())
        .with(Slot::SenderReport, SenderReportBuilder::new().build());
    // A message must fit the receive buffer twice or its last pieces find the window shut.
    let window = (config.socket_buffer_bytes / 2).clamp(2 * config.max_message_size.max(128 * 1024), 2 << 20);
    let setting = SettingEngineBuilder::new()
        .with_ice_connection_attempts(Some(Duration::from_millis(20)), Some(2000))
        .with_ice_timeouts(Some(config.ice_disconnected), Some(config.ice_failed), Some(config.ice_keepalive))
        .with_host_acceptance_min_wait(Some(Duration::ZERO))
        .with_srflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
        .with_relay_acceptance_min_wait(Some(Duration::ZERO))
        // The link's own list is what a restart goes on with.
        .with_discard_local_candidates_during_ice_restart(true)
        .with_answering_dtls_role(if answer_as_client { RTCDtlsRole::Client } else { RTCDtlsRole::Server })
        .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
        .with_srtp_replay_protection_window(1024)
        .with_srtcp_replay_protection_window(128)
        .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(config.max_message_size as u32))
        .with_sctp_max_receive_buffer_size(window as u32)
        .build();
    let configuration =
        RTCConfigurationBuilder::new().with_certificates(vec![certificate.inner.clone()]).build();
    Ok(RTCPeerConnectionBuilder::new()
        .with_configuration(configuration)
        .with_media_engine(media)
        .with_setting_engine(setting)
        .with_interceptor_registry(registry)
        .build(now)?)
}

fn register(media: &mut MediaEngine, config: &LinkConfig) -> Result<(), LinkError> {
    let codec = |mime: &str, clock_rate, channels, fmtp: &str, feedback: &[(&str, &str)], payload_type| {
        RTCRtpCodecParameters {
            rtp_codec: RTCRtpCodec {
                mime_type: mime.to_owned(),
                clock_rate,
                channels,
                sdp_fmtp_line: fmtp.to_owned(),
                rtcp_feedback: feedback
                    .iter()
                    .map(|(typ, parameter)| RTCPFeedback {
                        typ: (*typ).into(),
                        parameter: (*parameter).into(),
                    })
                    .collect(),
            },
            payload_type,
        }
    };
    if config.audio {
        let opus = codec("audio/opus", 48000, 2, &opus_fmtp(config), &[("transport-cc", "")], 111);
        media.register_codec(opus, RtpCodecKind::Audio)?;
    }
    let feedback = [("nack", ""), ("nack", "pli"), ("ccm", "fir"), ("transport-cc", "")];
    for video in config.video_codecs.iter().filter(|_| config.video) {
        // The payload types Chrome uses for the same, so that dumps read alike.
        let (mime, fmtp, payload_type) = match video {
            VideoCodec::Vp8 => ("video/VP8", "", 96),
            VideoCodec::Vp9 => ("video/VP9", VP9_FMTP, 98),
            VideoCodec::H264 => ("video/H264", H264_FMTP, 106),
            VideoCodec::Av1 => ("video/AV1", AV1_FMTP, 45),
        };
        media.register_codec(codec(mime, 90000, 0, fmtp, &feedback, payload_type), RtpCodecKind::Video)?;
        let apt = format!("apt={payload_type}");
        media
            .register_codec(codec("video/rtx", 90000, 0, &apt, &[], payload_type + 1), RtpCodecKind::Video)?;
    }
    for uri in [rtc::sdp::extmap::SDES_MID_URI, rtc::sdp::extmap::TRANSPORT_CC_URI].map(str::to_owned) {
        for kind in [RtpCodecKind::Audio, RtpCodecKind::Video] {
            media.register_header_extension(
                RTCRtpHeaderExtensionCapability { uri: uri.clone() },
                kind,
                None,
            )?;
        }
    }
    Ok(())
}

/// Our track of one kind. `codec` is left out until it is agreed: the engine would offer no other.
pub(crate) fn track(
    config: &LinkConfig,
    ssrcs: Ssrcs,
    video: bool,
    codec: Option<Option<VideoCodec>>,
) -> MediaStreamTrack {
    let (kind, name) = if video { (RtpCodecKind::Video, "video") } else { (RtpCodecKind::Audio, "audio") };
    let codec = match codec {
        None => RTCRtpCodec::default(),
        Some(None) => RTCRtpCodec {
            mime_type: "audio/opus".into(),
            clock_rate: 48000,
            channels: 2,
            sdp_fmtp_line: opus_fmtp(config),
            rtcp_feedback: vec![],
        },
        Some(Some(video)) => {
            let (mime, fmtp) = match video {
                VideoCodec::Vp8 => ("video/VP8", ""),
                VideoCodec::Vp9 => ("video/VP9", VP9_FMTP),
                VideoCodec::H264 => ("video/H264", H264_FMTP),
                VideoCodec::Av1 => ("video/AV1", AV1_FMTP),
            };
            RTCRtpCodec {
                mime_type: mime.into(),
                clock_rate: 90000,
                channels: 0,
                sdp_fmtp_line: fmtp.into(),
                rtcp_feedback: vec![],
            }
        }
    };
    let coding = RTCRtpCodingParameters {
        ssrc: Some(if video { ssrcs.video } else { ssrcs.audio }),
        rtx: video.then_some(RTCRtpRtxParameters { ssrc: ssrcs.video_rtx }),
        ..Default::default()
    };
    let encoding = RTCRtpEncodingParameters { rtp_coding_parameters: coding, codec, ..Default::default() };
    MediaStreamTrack::new(config.cname.clone(), name.into(), name.into(), kind, vec![encoding])
}

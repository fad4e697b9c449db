//! What a link is told before it starts.

use crate::bandwidth::BandwidthEstimate;
use crate::error::LinkError;
use remotemedia_media::VideoCodec;
use rtc::crypto::SignatureScheme;
use rtc::peer_connection::certificate::{CertificateParams, RTCCertificate};
use std::time::Duration;

/// The bandwidth estimate never goes below this: sound still passes.
const MIN_BITRATE_BPS: u32 = 50_000;

/// How a link behaves. [`Default`] is what the transport uses.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkConfig {
    /// Offer and accept one sendrecv audio section (Opus).
    pub audio: bool,
    /// Offer and accept one sendrecv video section.
    pub video: bool,
    /// Create the `data` channel with the first offer, in this mode. `None`: no data section is offered or accepted.
    pub data: Option<DataMode>,
    /// The video codecs that can be decoded here, the preferred one first; what can be encoded too is sent.
    pub video_codecs: Vec<VideoCodec>,
    /// `a=max-message-size` offered to the peer, in bytes (RFC 8841). 1 KiB to 1 MiB.
    pub max_message_size: usize,
    /// RTCP canonical name and media stream id, one for all tracks so that the peer keeps them in sync. 1 to 64 of
    /// letters, digits, `-` and `_`.
    pub cname: String,
    /// Ask for and announce stereo Opus (RFC 7587).
    pub stereo: bool,
    /// Ask for Opus in-band FEC.
    pub fec: bool,
    /// Ask for Opus discontinuous transmission.
    pub dtx: bool,
    /// Opus frame length asked for (`a=ptime`), in milliseconds: 10, 20, 40 or 60.
    pub frame_ms: u8,
    /// What the kernel granted for one socket buffer, in bytes; bounds what the peer may have in flight towards us.
    pub socket_buffer_bytes: usize,
    /// A message is refused while this many bytes wait on its channel.
    pub max_buffered_bytes: usize,
    /// How often the pair in use is checked (RFC 7675).
    pub ice_keepalive: Duration,
    /// Silence after which ICE is `disconnected`.
    pub ice_disconnected: Duration,
    /// Further silence after which ICE is `failed`. Until then the link can be healed by an ICE restart.
    pub ice_failed: Duration,
    /// The bandwidth estimate starts here, in bit/s.
    pub start_bitrate_bps: u32,
    /// The bandwidth estimate never exceeds this, in bit/s.
    pub max_bitrate_bps: u32,
    /// Bytes of RTP payload and descriptor in one video packet.
    pub video_mtu: usize,
}

/// Delivery of a data channel (RFC 8831).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataMode {
    /// In order, retransmitted until acknowledged.
    Reliable,
    /// Retransmitted, in no order.
    Unordered,
    /// In no order, never retransmitted.
    Unreliable,
}

/// How to open a further channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelOptions {
    /// Delivery.
    pub mode: DataMode,
    /// Subprotocol, at most 255 bytes; may be empty.
    pub protocol: String,
}

/// The ECDSA P-256 certificate that proves who we are in DTLS. One per transport; a clone shares the key.
#[derive(Clone)]
pub struct Certificate {
    pub(crate) inner: RTCCertificate,
    fingerprint: String,
}

impl Certificate {
    /// Makes a self-signed certificate with a new key.
    ///
    /// # Errors
    /// [`LinkError::Engine`] when the system's random source fails.
    pub fn generate() -> Result<Self, LinkError> {
        let provider = rtc::crypto::default_provider().map_err(|e| LinkError::Engine(e.to_string()))?;
        let crypto = provider.crypto();
        let inner =
            RTCCertificate::generate(crypto, SignatureScheme::EcdsaP256Sha256, CertificateParams::default())?;
        let fingerprint = inner
            .get_fingerprints(crypto)?
            .into_iter()
            .find(|f| f.algorithm.eq_ignore_ascii_case("sha-256"))
            .map(|f| f.value.to_uppercase())
            .ok_or(LinkError::Unsupported("a certificate without a sha-256 fingerprint"))?;
        Ok(Self { inner, fingerprint })
    }

    /// The SHA-256 fingerprint as in `a=fingerprint` (RFC 8122): 32 upper-case hex bytes joined by colons.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            audio: true,
            video: true,
            data: Some(DataMode::Reliable),
            video_codecs: VideoCodec::ALL.into_iter().filter(|codec| codec.is_available()).collect(),
            max_message_size: 256 * 1024,
            cname: "remotemedia".into(),
            stereo: false,
            fec: true,
            dtx: false,
            frame_ms: 20,
            socket_buffer_bytes: 4 << 20,
            max_buffered_bytes: 16 << 20,
            ice_keepalive: Duration::from_millis(500),
            ice_disconnected: Duration::from_secs(4),
            ice_failed: Duration::from_secs(150),
            start_bitrate_bps: 1_000_000,
            max_bitrate_bps: 200_000_000,
            video_mtu: 1188,
        }
    }
}

impl LinkConfig {
    pub(crate) fn bandwidth(&self) -> BandwidthEstimate {
        let bps = |value: u32| f64::from(value);
        BandwidthEstimate::new(bps(self.start_bitrate_bps), bps(MIN_BITRATE_BPS), bps(self.max_bitrate_bps))
    }

    /// Checks the ranges given on each field.
    ///
    /// # Errors
    /// [`LinkError::Argument`] naming the first field out of range.
    pub fn validate(&self) -> Result<(), LinkError> {
        if !(1024..=1 << 20).contains(&self.max_message_size) {
            return Err(LinkError::Argument("max_message_size must be 1 KiB to 1 MiB"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.cname.is_empty() || self.cname.len() > 64 || !self.cname.chars().all(plain) {
            return Err(LinkError::Argument("cname must be 1 to 64 letters, digits, '-' or '_'"));
        }
        if ![10, 20, 40, 60].contains(&self.frame_ms) {
            return Err(LinkError::Argument("frame_ms must be 10, 20, 40 or 60"));
        }
        if self.video && self.video_codecs.is_empty() {
            return Err(LinkError::Argument("video needs at least one codec"));
        }
        if !(200..=1400).contains(&self.video_mtu) {
            return Err(LinkError::Argument("video_mtu must be 200 to 1400"));
        }
        if self.start_bitrate_bps < MIN_BITRATE_BPS || self.max_bitrate_bps < self.start_bitrate_bps {
            return Err(LinkError::Argument(
                "bitrates must be 50 kbit/s or more, the start not above the maximum",
            ));
        }
        if !self.audio && !self.video && self.data.is_none() {
            return Err(LinkError::Argument("a link needs audio, video or data"));
        }
        Ok(())
    }
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self { mode: DataMode::Reliable, protocol: String::new() }
    }
}

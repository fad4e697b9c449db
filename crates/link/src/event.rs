//! What comes out of a link.

use crate::config::DataMode;
use bytes::Bytes;
use remotemedia_media::VideoCodec;
use std::net::SocketAddr;
use std::time::Instant;

/// One datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The local candidate's address: which socket sends it.
    pub local: SocketAddr,
    /// Where it goes.
    pub remote: SocketAddr,
    /// Its bytes.
    pub data: Bytes,
}

/// Something the owner of a link has to know.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LinkEvent {
    /// The connection's state changed.
    State(LinkState),
    /// ICE's state changed.
    IceState(IceState),
    /// A channel opened, ours or the peer's.
    ChannelOpen {
        /// The channel.
        id: ChannelId,
        /// Its label; `data` is the link's own. At most 65 535 bytes, given by the peer.
        label: String,
        /// Its subprotocol; may be empty.
        protocol: String,
        /// Messages arrive in order.
        ordered: bool,
        /// True if we opened it.
        ours: bool,
        /// The mode, where we chose it; the engine doesn't tell the reliability of the peer's channels.
        mode: Option<DataMode>,
    },
    /// A channel closed.
    ChannelClosed {
        /// The channel.
        id: ChannelId,
    },
    /// A whole message.
    Message {
        /// The channel.
        id: ChannelId,
        /// String or binary.
        kind: MessageKind,
        /// Its bytes. A peer may send a text that is not UTF-8: check it.
        data: Bytes,
    },
    /// One RTP packet, decrypted, retransmissions already back under their own sequence number.
    Rtp(RtpIn),
    /// PLI or FIR for our video: the next picture must be a keyframe.
    KeyframeRequested,
    /// The description has to be renegotiated for something that was asked of this link.
    NegotiationNeeded,
    /// The peer is heard from another address and no longer from the one in use, or it sees us at another address than before:
    /// ICE should be restarted without waiting for the silence to be noticed. Other connections of this host may be dead too.
    PathSuspect,
    /// A candidate of the peer's has this `.local` name: ask for its address by multicast DNS (RFC 6762) and tell it with
    /// [`crate::Link::resolve_candidate`].
    ResolveName {
        /// The name, in lower case: one label and `.local`.
        name: String,
    },
    /// The peer's RTP clock against its wall clock (RFC 3550, section 6.4.1), for lip sync.
    SenderReport {
        /// Which stream.
        kind: MediaKind,
        /// Its SSRC.
        ssrc: u32,
        /// 32.32 fixed-point seconds since 1900.
        ntp: u64,
        /// The RTP timestamp of that instant, in the stream's clock.
        rtp_ts: u32,
    },
}

/// One RTP packet in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtpIn {
    /// Audio or video.
    pub kind: MediaKind,
    /// The codec that the payload type stands for; `None` for audio, which is always Opus.
    pub codec: Option<VideoCodec>,
    /// The stream.
    pub ssrc: u32,
    /// Its sequence number.
    pub sequence: u16,
    /// RTP timestamp: 48 kHz for audio, 90 kHz for video.
    pub timestamp: u32,
    /// The last packet of a picture, or the first one after silence.
    pub marker: bool,
    /// The payload, without padding.
    pub payload: Bytes,
    /// When it came in.
    pub received: Instant,
}

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// Opus.
    Audio,
    /// VP8, VP9 or H.264.
    Video,
}

/// String or binary message (RFC 8831, section 6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// A string.
    Text,
    /// Bytes.
    Binary,
}

/// One data channel of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub(crate) usize);

/// `RTCPeerConnectionState` (W3C WebRTC, section 4.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Nothing happened yet.
    New,
    /// ICE or DTLS is under way.
    Connecting,
    /// ICE and DTLS are through.
    Connected,
    /// ICE lost touch; it may come back by itself.
    Disconnected,
    /// ICE or DTLS gave up.
    Failed,
    /// Closed, by us or by the peer.
    Closed,
}

/// `RTCIceConnectionState` (W3C WebRTC, section 5.6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IceState {
    /// Waiting for candidates.
    New,
    /// Checking pairs.
    Checking,
    /// A pair works.
    Connected,
    /// All checks are done and a pair works.
    Completed,
    /// Checks of the pair go unanswered.
    Disconnected,
    /// No pair works.
    Failed,
    /// Closed.
    Closed,
}

/// What both sides agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer takes our audio.
    pub audio: bool,
    /// The peer sends, or may send, audio.
    pub audio_receive: bool,
    /// How the peer wants its audio.
    pub peer_audio: PeerAudio,
    /// The codec to send: the first of ours that the peer has too and that can be encoded. `None`: it takes no video of ours.
    pub video: Option<VideoCodec>,
    /// The codecs the peer may send.
    pub video_receive: Vec<VideoCodec>,
    /// Data channels work.
    pub data: bool,
    /// The largest message the peer takes, in bytes.
    pub max_message_size: usize,
}

/// The peer's wishes for the Opus it receives (RFC 7587, section 6.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerAudio {
    /// It prefers stereo.
    pub stereo: bool,
    /// It can use in-band FEC.
    pub fec: bool,
    /// It prefers discontinuous transmission.
    pub dtx: bool,
    /// Its largest bitrate in bits a second.
    pub max_average_bitrate: Option<u32>,
    /// The highest rate that it plays, in samples a second.
    pub max_playback_rate: Option<u32>,
    /// The frame length it asks for (`a=ptime`), in milliseconds.
    pub ptime_ms: Option<u32>,
    /// The longest packet that it takes (`a=maxptime`, RFC 8866, section 6.4), in milliseconds.
    pub max_ptime_ms: Option<u32>,
}

impl LinkState {
    /// The W3C string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }
}

impl IceState {
    /// The W3C string.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Checking => "checking",
            Self::Connected => "connected",
            Self::Completed => "completed",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }
}

impl ChannelId {
    /// A number that is unique in its link.
    pub fn as_u64(self) -> u64 {
        self.0 as u64
    }
}

impl std::fmt::Display for LinkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

//! Settings of a transport, with their ranges.

use std::sync::Arc;
use std::time::Duration;

use remotemedia_media::{VideoCodec, VideoContent};

use crate::{IceTransportPolicy, StunServer, TransportError, TurnServer};

/// Settings of a [`crate::Transport`].
#[derive(Debug, Clone)]
pub struct Config {
    /// This peer's id, 1 to 128 characters.
    pub peer_id: String,
    /// Remote peers at most, 1 to 256. Default 10.
    pub max_peers: usize,
    /// Connect to everyone announced. Default true.
    pub auto_connect: bool,
    /// How the built-in data channel delivers; `None`: there is no data channel. Default reliable.
    pub data: Option<remotemedia_link::DataMode>,
    /// Codecs to send and receive, the preferred one first; AV1 is received only. Default VP9, VP8, H264, AV1.
    pub video_codecs: Vec<VideoCodec>,
    /// Audio settings.
    pub audio: AudioConfig,
    /// Video settings.
    pub video: VideoConfig,
    /// How long a connection may take to open before it is torn down and tried again. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a silent connection is kept and healed by ICE restarts before it has failed and is built anew, 1 s to 1 h.
    /// Default 150 s.
    pub grace: Duration,
    /// Servers that tell our addresses outside of NATs, at most 8. Default none.
    pub stun_servers: Vec<StunServer>,
    /// Servers that relay where there is no direct way, at most 8. Default none.
    pub turn_servers: Vec<TurnServer>,
    /// The TURN servers come with [`crate::Transport::set_turn_servers`] instead, each time that
    /// [`crate::Event::TurnServersNeeded`] asks for them. Default false.
    pub asks_turn_servers: bool,
    /// Which candidates are used. Default all.
    pub ice_transport_policy: IceTransportPolicy,
    /// Certificates (PEM, RFC 7468) that vouch for TURN servers reached over TLS. Default none: no such server is trusted.
    pub tls_roots: Arc<str>,
    /// If set, only these peers are connected to.
    pub allow_peers: Option<Vec<String>>,
    /// These peers are never connected to.
    pub deny_peers: Option<Vec<String>>,
    /// When a failed connection is tried again.
    pub retry: remotemedia_mesh::Retry,
    /// Socket buffers to ask the system for, 64 KiB to 64 MiB; what it grants bounds what is in flight. Default 4 MiB.
    pub socket_buffer_bytes: usize,
    /// Makes retries and identifiers repeatable in tests; `None`: from the system.
    pub seed: Option<u64>,
}

/// How audio is sent (RFC 6716, RFC 7587).
#[derive(Debug, Clone)]
pub struct AudioConfig {
    /// 6,000 to 510,000 bit/s. Default 32,000 for mono and 64,000 for stereo.
    pub bitrate_bps: Option<u32>,
    /// 1 or 2. Default 1.
    pub channels: u16,
    /// 10, 20, 40 or 60. Default 20.
    pub frame_ms: u8,
    /// In-band forward error correction. Default true.
    pub fec: bool,
    /// Discontinuous transmission: almost nothing is sent in silence. Default false.
    pub dtx: bool,
    /// Encoder complexity, 0 to 10. Default 9.
    pub complexity: u8,
}

/// Less than this makes no picture.
const MIN_VIDEO_BPS: u32 = 30_000;

/// How video is sent.
#[derive(Debug, Clone)]
pub struct VideoConfig {
    /// 50,000 to 50,000,000 bit/s. Default: by resolution, 1.5 Mbit/s at 1280x720.
    pub start_bitrate_bps: Option<u32>,
    /// Never above this. Default 4,000,000.
    pub max_bitrate_bps: u32,
    /// Frames beyond this rate are dropped before encoding, 1 to 120. Default 30.
    pub max_fps: u32,
    /// Wider pictures are scaled down, 16 to 4096. Default 1920.
    pub max_width: u32,
    /// Higher pictures are scaled down, 16 to 4096. Default 1080.
    pub max_height: u32,
    /// What the pictures show, which decides what gives way when the path is narrow: with motion the size, with detail
    /// and text the frame rate. Default motion.
    pub content: VideoContent,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            peer_id: String::new(),
            max_peers: 10,
            auto_connect: true,
            data: Some(remotemedia_link::DataMode::Reliable),
            video_codecs: VideoCodec::ALL.into_iter().filter(|codec| codec.is_available()).collect(),
            audio: AudioConfig::default(),
            video: VideoConfig::default(),
            connect_timeout: Duration::from_secs(10),
            grace: Duration::from_secs(150),
            stun_servers: Vec::new(),
            turn_servers: Vec::new(),
            asks_turn_servers: false,
            ice_transport_policy: IceTransportPolicy::All,
            tls_roots: "".into(),
            allow_peers: None,
            deny_peers: None,
            retry: remotemedia_mesh::Retry::default(),
            socket_buffer_bytes: 4 << 20,
            seed: None,
        }
    }
}

impl Default for AudioConfig {
    fn default() -> Self {
        AudioConfig { bitrate_bps: None, channels: 1, frame_ms: 20, fec: true, dtx: false, complexity: 9 }
    }
}

impl Default for VideoConfig {
    fn default() -> Self {
        VideoConfig {
            start_bitrate_bps: None,
            max_bitrate_bps: 4_000_000,
            max_fps: 30,
            max_width: 1920,
            max_height: 1080,
            content: VideoContent::Motion,
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), TransportError> {
        fn range<T: PartialOrd + std::fmt::Display>(
            field: &'static str,
            v: T,
            min: T,
            max: T,
        ) -> Result<(), TransportError> {
            if v >= min && v <= max {
                return Ok(());
            }
            Err(TransportError::Config { field, message: format!("{v} is outside {min} to {max}") })
        }
        range("peer_id", self.peer_id.chars().count(), 1, 128)?;
        range("max_peers", self.max_peers, 1, 256)?;
        range("video_codecs", self.video_codecs.len(), 1, 4)?;
        range("audio.bitrate_bps", self.audio.bitrate_bps(), 6_000, 510_000)?;
        range("audio.channels", self.audio.channels, 1, 2)?;
        range("audio.complexity", self.audio.complexity, 0, 10)?;
        range("grace", self.grace.as_millis(), 1_000, 3_600_000)?;
        range("socket_buffer_bytes", self.socket_buffer_bytes, 64 << 10, 64 << 20)?;
        range("video.start_bitrate_bps", self.video.start_bitrate_bps.unwrap_or(50_000), 50_000, 50_000_000)?;
        range("video.max_bitrate_bps", self.video.max_bitrate_bps, 50_000, 50_000_000)?;
        range("video.max_fps", self.video.max_fps, 1, 120)?;
        range("video.max_width", self.video.max_width, 16, 4096)?;
        range("video.max_height", self.video.max_height, 16, 4096)?;
        StunServer::check_all(&self.stun_servers)?;
        TurnServer::check_all(&self.turn_servers)?;
        let relays = self.asks_turn_servers || !self.turn_servers.is_empty();
        if self.ice_transport_policy == IceTransportPolicy::Relay && !relays {
            let message = "only relays are to be used, and there is no TURN server".to_owned();
            return Err(TransportError::Config { field: "ice_transport_policy", message });
        }
        if ![10, 20, 40, 60].contains(&self.audio.frame_ms) {
            return Err(TransportError::Config {
                field: "audio.frame_ms",
                message: format!("{} is none of 10, 20, 40, 60", self.audio.frame_ms),
            });
        }
        Ok(())
    }
}

impl AudioConfig {
    /// The bitrate to send at, in bit/s.
    pub(crate) fn bitrate_bps(&self) -> u32 {
        self.bitrate_bps.unwrap_or(if self.channels == 2 { 64_000 } else { 32_000 })
    }
}

impl VideoConfig {
    /// What a receiver gets of pictures of this size, in bit/s: what its path is known to carry, as far as they are worth it.
    pub(crate) fn share(&self, path_bps: Option<u32>, width: u32, height: u32) -> u32 {
        let start = self.bitrate_bps(width, height);
        let worth = start.saturating_mul(5) / 2;
        path_bps.map_or(start, |bps| bps.min(worth)).clamp(MIN_VIDEO_BPS, self.max_bitrate_bps)
    }

    /// The bitrate to start with for a picture of this size, in bit/s.
    pub(crate) fn bitrate_bps(&self, width: u32, height: u32) -> u32 {
        let by_size = || {
            let share = f64::from(width) * f64::from(height) / (1280.0 * 720.0);
            // Bits needed grow slower than the picture.
            (1_500_000.0 * share.powf(0.75)) as u32
        };
        self.start_bitrate_bps.unwrap_or_else(by_size).clamp(50_000, self.max_bitrate_bps)
    }
}

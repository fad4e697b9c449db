//! Counters, and the snapshots that are made of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use remotemedia_link::LinkStats;
use remotemedia_media::{JitterStats, VideoCodec};

use crate::event::EventCounters;
use crate::{MeshCounters, PeerId, PeerState, SocketCounters};

/// One peer at one moment.
#[derive(Debug, Clone)]
pub struct PeerStats {
    /// Who.
    pub peer: PeerId,
    /// State of the connection.
    pub state: PeerState,
    /// Path, round trip and packet counts.
    pub link: LinkStats,
    /// The codec it is sent.
    pub video_codec: Option<VideoCodec>,
    /// Audio that came from it.
    pub audio_in: InboundStats,
    /// Video that came from it.
    pub video_in: InboundStats,
    /// Audio sent to it.
    pub audio_out: OutboundStats,
    /// Video sent to it.
    pub video_out: OutboundStats,
    /// Bytes accepted for the built-in channel and not yet acknowledged.
    pub buffered_amount: usize,
    /// The socket that its path uses.
    pub socket: SocketCounters,
}

/// Media that came from one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InboundStats {
    /// RTP packets given to the decoder.
    pub packets: u64,
    /// RTP packets dropped because the decoder was late.
    pub packets_dropped: u64,
    /// Whole pictures that arrived (video).
    pub frames_received: u64,
    /// Pictures, or audio packets, decoded.
    pub frames_decoded: u64,
    /// Pictures that could not be used for want of a keyframe.
    pub frames_dropped: u64,
    /// What the decoder refused.
    pub decode_errors: u64,
    /// The jitter buffer (audio).
    pub jitter: JitterStats,
    /// How long pictures are held back for an even pace (video).
    pub hold: Duration,
    /// By how many millionths the stream's clock is faster than ours. `None` until it was watched for 20 s.
    pub drift_ppm: Option<i32>,
    /// The peer's sender reports say when it was captured: its timestamps fit those of the peer's other media.
    pub synchronized: bool,
    /// Width of the last picture, in pixels.
    pub width: u32,
    /// Height of the last picture, in pixels.
    pub height: u32,
}

/// Media sent to one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboundStats {
    /// Pictures, or audio packets, sent.
    pub frames: u64,
    /// Pictures sent that are decodable by themselves.
    pub keyframes: u64,
    /// RTP packets sent, without retransmissions.
    pub packets: u64,
    /// Payload bytes sent.
    pub bytes: u64,
    /// Pictures not sent because a keyframe was due first.
    pub frames_skipped: u64,
    /// Width of the last picture, in pixels.
    pub width: u32,
    /// Height of the last picture, in pixels.
    pub height: u32,
}

/// Totals of one transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransportCounters {
    /// Datagrams that belong to no link.
    pub unknown_datagrams: u64,
    /// Peers that are made to wait with their messages right now, because the owner does not take them.
    pub held_peers: u64,
    /// Encoded media dropped because the net thread was overloaded.
    pub media_commands_dropped: u64,
    /// Pictures left out because their receiver, who has one track, was shown another stream.
    pub pictures_in_conflict: u64,
    /// Opus encoders that run now. A conference has one for each listener who is heard by others, and one for all who are silent.
    pub audio_encoders: u64,
    /// Invalid offers, answers and candidates.
    pub signals_refused: u64,
    /// Media or messages that the engine refused to send.
    pub packets_refused: u64,
    /// Candidates with a `.local` name whose address was found, a link each.
    pub names_resolved: u64,
    /// Those whose address was not found, or not asked for.
    pub names_unresolved: u64,
    /// What was dropped or ignored of what signaling brought.
    pub mesh: MeshCounters,
    /// What waits, or was dropped, on the way to the owner.
    pub events: EventCounters,
}

#[derive(Default)]
pub(crate) struct InboundCounters {
    pub(crate) packets: AtomicU64,
    pub(crate) packets_dropped: AtomicU64,
    pub(crate) frames_received: AtomicU64,
    pub(crate) frames_decoded: AtomicU64,
    pub(crate) frames_dropped: AtomicU64,
    pub(crate) decode_errors: AtomicU64,
    jitter: Mutex<JitterStats>,
    hold_us: AtomicU64,
    width: AtomicU32,
    height: AtomicU32,
}

impl InboundCounters {
    pub(crate) fn set_size(&self, width: u32, height: u32) {
        self.width.store(width, Ordering::Relaxed);
        self.height.store(height, Ordering::Relaxed);
    }

    pub(crate) fn set_jitter(&self, stats: JitterStats) {
        *crate::lock(&self.jitter) = stats;
    }

    pub(crate) fn set_hold(&self, hold: Duration) {
        self.hold_us.store(hold.as_micros() as u64, Ordering::Relaxed);
    }

    /// All but what the clock says.
    pub(crate) fn snapshot(&self) -> InboundStats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let jitter = *crate::lock(&self.jitter);
        InboundStats {
            packets: get(&self.packets),
            packets_dropped: get(&self.packets_dropped),
            frames_received: get(&self.frames_received),
            // For audio the buffer counts.
            frames_decoded: get(&self.frames_decoded) + jitter.packets,
            frames_dropped: get(&self.frames_dropped),
            decode_errors: get(&self.decode_errors) + jitter.bad,
            jitter,
            hold: Duration::from_micros(get(&self.hold_us)),
            drift_ppm: None,
            synchronized: false,
            width: self.width.load(Ordering::Relaxed),
            height: self.height.load(Ordering::Relaxed),
        }
    }
}

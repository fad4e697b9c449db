//! Counters, and the snapshots that are made of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use remotemedia_link::{ChannelStats, LinkStats};
use remotemedia_media::{AudioFrame, JitterStats, VideoCodec};

use crate::event::EventCounters;
use crate::pace::{Pace, PaceTotals, PerSecond};
use crate::peer::Peer;
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
    /// The sound that was given to be sent to it.
    pub audio_source: SourceStats,
    /// The pictures that were given to be sent to it.
    pub video_source: SourceStats,
    /// Its data channels, the built-in one first.
    pub channels: Vec<PeerChannelStats>,
    /// SHA-256 fingerprint of our certificate (RFC 8122).
    pub local_fingerprint: String,
    /// Bytes accepted for the built-in channel and not yet acknowledged.
    pub buffered_amount: usize,
    /// The socket that its path uses.
    pub socket: SocketCounters,
}

/// One data channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerChannelStats {
    /// Its number: 0 is the built-in one.
    pub channel: u32,
    /// What the link counts.
    pub link: ChannelStats,
    /// Bytes accepted and not yet acknowledged.
    pub buffered_amount: usize,
}

/// Sound or pictures before they are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SourceStats {
    /// Pictures (video).
    pub frames: u64,
    /// Pictures of the last second (video).
    pub per_second: u32,
    /// Width of the last picture, in pixels (video).
    pub width: u32,
    /// Height of the last picture, in pixels (video).
    pub height: u32,
    /// When the last one was given.
    pub last: Option<Instant>,
    /// The sound's loudness.
    pub loudness: Loudness,
}

/// How loud sound is (W3C webrtc-stats, `totalAudioEnergy`).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loudness {
    /// Root mean square of the last samples, 0 to 1.
    pub level: f64,
    /// Seconds times the square of the level, over all samples.
    pub energy: f64,
    /// Seconds of sound.
    pub seconds: f64,
}

/// Media that came from one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct InboundStats {
    /// RTP packets given to the decoder.
    pub packets: u64,
    /// RTP packets dropped because the decoder was late.
    pub packets_dropped: u64,
    /// Whole pictures that arrived (video).
    pub frames_received: u64,
    /// Pictures, or audio packets, decoded.
    pub frames_decoded: u64,
    /// Of these, those that are decodable by themselves (video).
    pub keyframes: u64,
    /// How long decoding took, all together (video).
    pub decode_time: Duration,
    /// How evenly pictures came (video).
    pub pace: PaceTotals,
    /// How loud it is (audio).
    pub loudness: Loudness,
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
    /// Pictures of the last second.
    pub per_second: u32,
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
    keyframes: AtomicU64,
    decode_us: AtomicU64,
    pace: Mutex<Pace>,
    loudness: Mutex<Loudness>,
    jitter: Mutex<JitterStats>,
    hold_us: AtomicU64,
    width: AtomicU32,
    height: AtomicU32,
}

impl InboundCounters {
    /// A picture was decoded.
    pub(crate) fn decoded(&self, begun: Instant, now: Instant, keyframe: bool) {
        self.frames_decoded.fetch_add(1, Ordering::Relaxed);
        self.keyframes.fetch_add(u64::from(keyframe), Ordering::Relaxed);
        let took = now.saturating_duration_since(begun).as_micros() as u64;
        self.decode_us.fetch_add(took, Ordering::Relaxed);
        crate::lock(&self.pace).shown(now);
    }

    /// Sound came out, at 48 kHz.
    pub(crate) fn heard(&self, samples: &[f32], channels: u16) {
        crate::lock(&self.loudness).add(samples, 48_000, channels);
    }

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
            keyframes: get(&self.keyframes),
            decode_time: Duration::from_micros(get(&self.decode_us)),
            pace: crate::lock(&self.pace).totals(Instant::now()),
            loudness: *crate::lock(&self.loudness),
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

/// What was given to be sent to one peer.
#[derive(Default)]
pub(crate) struct SourceCounters {
    rate: PerSecond,
    stats: SourceStats,
}

impl SourceCounters {
    pub(crate) fn picture(&mut self, now: Instant, width: u32, height: u32) {
        self.rate.add(now);
        let frames = self.stats.frames + 1;
        self.stats = SourceStats { frames, width, height, last: Some(now), ..self.stats };
    }

    pub(crate) fn sound(&mut self, now: Instant, loudness: &Loudness) {
        self.stats.last = Some(now);
        let total = &mut self.stats.loudness;
        total.level = loudness.level;
        total.energy += loudness.energy;
        total.seconds += loudness.seconds;
    }

    pub(crate) fn snapshot(&self, now: Instant) -> SourceStats {
        SourceStats { per_second: self.rate.count(now), ..self.stats }
    }
}

/// This sound is about to be encoded for these peers.
pub(crate) fn spoken(frame: &AudioFrame, targets: &[Arc<Peer>]) {
    if targets.is_empty() {
        return;
    }
    let (now, mut loudness) = (Instant::now(), Loudness::default());
    loudness.add(&frame.samples, frame.sample_rate, frame.channels);
    for peer in targets {
        crate::lock(&peer.audio_source).sound(now, &loudness);
    }
}

impl Loudness {
    /// Adds samples of all channels, interleaved.
    pub(crate) fn add(&mut self, samples: &[f32], sample_rate: u32, channels: u16) {
        let per_second = f64::from(sample_rate) * f64::from(channels);
        if samples.is_empty() || per_second <= 0.0 {
            return;
        }
        let squares: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).filter(|s| s.is_finite()).sum();
        self.level = (squares / samples.len() as f64).sqrt().min(1.0);
        let seconds = samples.len() as f64 / per_second;
        self.energy += self.level.powi(2) * seconds;
        self.seconds += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::Loudness;

    #[test]
    fn a_sine_of_half_the_amplitude_has_an_eighth_of_the_energy() {
        let mut loudness = Loudness::default();
        let sine: Vec<f32> = (0..48_000).map(|n| (n as f32 * 0.1).sin() * 0.5).collect();
        for part in sine.chunks(960) {
            loudness.add(part, 48_000, 1);
        }
        loudness.add(&[], 48_000, 1);
        assert!((loudness.seconds - 1.0).abs() < 1e-9, "{loudness:?}");
        assert!((loudness.energy - 0.125).abs() < 0.001, "{loudness:?}");
        loudness.add(&[f32::NAN, f32::INFINITY], 48_000, 1);
        assert!(loudness.level == 0.0 && loudness.energy.is_finite());
    }
}

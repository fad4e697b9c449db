//! Opus packets into sound, as evenly as they were sent.

mod core;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::opus::opus_packet_has_fec;
use crate::{MediaError, OpusDecoder, opus_packet_frames};
use core::{Core, Decode};

/// Puts the Opus packets of one stream in order, waits as long as their jitter asks for, decodes them, and makes up for those
/// that are lost: from the copy in the packet behind (in-band FEC) where there is one, from what was heard before otherwise.
///
/// It owns no thread and no clock: push what arrives, pull when something is [`due`](Self::due).
///
/// - **When:** a packet is due when it would have come had it been as fast as the fastest of the last four seconds, and
///   [`JitterStats::target`] later. The target is the lateness that 98 % of these packets kept to, at most 200 ms, and
///   zero while that is under 10 ms: a quiet path waits for nothing. It moves by little each packet. Nothing waits longer than
///   500 ms.
/// - **What:** each moment of the stream comes out once, in order. A missing packet is given up when it is overdue and a later one
///   is there; then up to 100 ms of it are made up, and what is longer fades out and is skipped. While nothing at all arrives,
///   nothing comes out: that is how a sender's pauses (DTX) pass, and delays in which nothing is lost.
/// - It holds at most 256 packets. What it makes of a packet is at most what the packet says, 120 ms.
pub struct JitterBuffer {
    core: Core<OpusDecoder>,
}

/// One packet as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioPacket {
    /// The stream; another one begins anew.
    pub ssrc: u32,
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, 48 kHz (RFC 7587).
    pub timestamp: u32,
    /// One Opus packet; empty for padding.
    pub payload: Bytes,
}

/// What [`JitterBuffer::pull`] gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioChunk {
    /// RTP timestamp of its first sample.
    pub timestamp: u32,
    /// Samples a channel.
    pub frames: usize,
    /// Where it is from.
    pub source: ChunkSource,
    /// There is a hole before it: a pause of the sender, or a loss too long to make up for.
    pub after_gap: bool,
}

/// Where sound is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkSource {
    /// Its packet.
    Decoded,
    /// The copy in the packet behind it.
    Recovered,
    /// Made up.
    Concealed,
}

/// Counters of a [`JitterBuffer`], and its delay now. Samples are those of one channel at 48 kHz.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JitterStats {
    /// How long a packet that is as fast as the fastest is made to wait.
    pub target: Duration,
    /// How long the last packet waited.
    pub delay: Duration,
    /// How long all samples waited together that came from their own packets, each as long as its packet.
    pub total_delay: Duration,
    /// How long they were meant to wait.
    pub total_target: Duration,
    /// Packets given to the decoder.
    pub packets: u64,
    /// Packets that came after their place was given up.
    pub late: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets that never came, as far as was waited for them.
    pub lost: u64,
    /// Packets that are no Opus.
    pub bad: u64,
    /// Packets taken out undecoded because nobody pulled.
    pub removed: u64,
    /// Times the stream began anew: another SSRC, or sequence numbers out of any order.
    pub restarts: u64,
    /// Samples decoded from their own packets.
    pub decoded_samples: u64,
    /// Samples recovered by in-band FEC.
    pub recovered_samples: u64,
    /// Samples made up.
    pub concealed_samples: u64,
    /// Holes that were made up for, wholly or in part, by either.
    pub concealments: u64,
    /// Samples of losses that were too long to be made up for.
    pub skipped_samples: u64,
}

impl JitterStats {
    /// Samples given out in all.
    pub fn samples(&self) -> u64 {
        self.decoded_samples + self.recovered_samples + self.concealed_samples
    }
}

impl JitterBuffer {
    /// A buffer that gives 1 or 2 channels, whatever the packets hold.
    pub fn new(channels: u16) -> Result<JitterBuffer, MediaError> {
        Ok(JitterBuffer { core: Core::new(OpusDecoder::new(channels)?, channels) })
    }

    /// Takes a packet that arrived at `now`, in any order.
    pub fn push(&mut self, packet: AudioPacket, now: Instant) {
        self.core.push(packet, now);
    }

    /// When there is something to pull. `None`: not before another packet comes.
    pub fn due(&self) -> Option<Instant> {
        self.core.due()
    }

    /// Fills `out` (what was in it goes) with what is due, interleaved: one packet, or a hole of about its length. `None` when
    /// nothing is due; there may be more while it is not.
    pub fn pull(&mut self, now: Instant, out: &mut Vec<f32>) -> Option<AudioChunk> {
        self.core.pull(now, out)
    }

    /// The counters now.
    pub fn stats(&self) -> JitterStats {
        self.core.stats()
    }
}

impl Decode for OpusDecoder {
    fn frames(packet: &[u8]) -> Option<usize> {
        opus_packet_frames(packet).ok().filter(|frames| *frames > 0)
    }

    fn has_fec(packet: &[u8]) -> bool {
        opus_packet_has_fec(packet)
    }

    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> bool {
        OpusDecoder::decode(self, packet, out).is_ok()
    }

    fn recover(&mut self, packet: &[u8], frames: usize, out: &mut Vec<f32>) -> bool {
        self.decode_fec(packet, frames, out).is_ok()
    }

    fn conceal(&mut self, frames: usize, out: &mut Vec<f32>) -> bool {
        OpusDecoder::conceal(self, frames, out).is_ok()
    }

    fn reset(&mut self) {
        OpusDecoder::reset(self);
    }
}

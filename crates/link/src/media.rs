//! Sending audio and video.

use crate::bandwidth::Bandwidth;
use crate::error::LinkError;
use crate::event::LinkState;
use crate::link::{Link, MAX_QUEUED_TRANSMITS};
use crate::media_clock::ticks;
use crate::packetize::packetize;
use crate::tap;
use bytes::Bytes;
use remotemedia_media::{EncodedFrame, VideoCodec};
use rtc::peer_connection::message::{RTCMessage, TaggedRTCMessage};
use rtc::rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtp;
use rtc::sansio::Protocol;
use std::time::Instant;

/// The numbers of one outgoing stream. The first ones are random (RFC 3550, section 5.1).
#[derive(Debug)]
pub(crate) struct RtpOut {
    sequence: u16,
    offset: u32,
    picture: u16,
    /// When the last packet's sound ends, in microseconds of the sender's clock.
    ends_us: Option<i64>,
}

/// The largest frame sent, in bytes.
const MAX_FRAME_BYTES: usize = 4 << 20;

impl Link {
    /// Tells when the timestamps of the media given to this link are zero. The sender reports then say when it was captured;
    /// without this they go by when it was sent. Audio and video have to be on this one clock.
    pub fn set_media_epoch(&mut self, epoch: Instant) {
        let streams = [
            (self.ssrcs.audio, self.audio_out.offset, 48_000),
            (self.ssrcs.video, self.video_out.offset, 90_000),
        ];
        let clock = &mut tap::lock(&self.shared).media_clock;
        (clock.epoch, clock.streams) = (Some(epoch), streams);
    }

    /// The share of our sound that the peer did not get, by its last report (RFC 3550, section 6.4.1): 0 to 1.
    pub fn audio_loss(&self) -> f64 {
        tap::lock(&self.shared).audio_out.stats.fraction_lost
    }

    /// Sends one Opus packet. `timestamp_us` is the time of its first sample on the sender's media clock.
    ///
    /// # Errors
    /// [`LinkError::NotConnected`], [`LinkError::NotNegotiated`], [`LinkError::BufferFull`] if nobody polls,
    /// [`LinkError::Argument`] for an empty packet or one over 1275 bytes a frame (at most 1400), [`LinkError::Closed`].
    pub fn send_audio(&mut self, now: Instant, packet: Bytes, timestamp_us: i64) -> Result<(), LinkError> {
        self.check_sendable()?;
        let codec = self.audio_codec.as_ref().filter(|_| self.negotiated.audio);
        let payload_type = codec.ok_or(LinkError::NotNegotiated("audio"))?.payload_type;
        if packet.is_empty() || packet.len() > 1400 {
            return Err(LinkError::Argument("an Opus packet of 1 to 1400 bytes"));
        }
        let out = &mut self.audio_out;
        // RFC 3551, section 4.1: the marker begins a talkspurt. Half a frame is left for a clock that isn't exact.
        let duration = opus_duration_us(&packet);
        let marker = out.ends_us.is_none_or(|ends| timestamp_us > ends + duration / 2);
        out.ends_us = Some(timestamp_us + duration);
        let timestamp = out.offset.wrapping_add(ticks(timestamp_us, 48_000));
        let ssrc = self.ssrcs.audio;
        let sequence = self.audio_out.next();
        self.write_rtp(now, "audio", header(payload_type, sequence, timestamp, ssrc, marker), packet)?;
        self.drain(now);
        Ok(())
    }

    /// Sends one frame in the codec of [`crate::Negotiated::video`]. Returns how many packets it took.
    ///
    /// # Errors
    /// [`LinkError::NotConnected`], [`LinkError::NotNegotiated`], [`LinkError::BufferFull`] if nobody polls,
    /// [`LinkError::Argument`] for a frame that is empty or over 4 MiB, [`LinkError::Closed`].
    pub fn send_video(&mut self, now: Instant, frame: &EncodedFrame) -> Result<usize, LinkError> {
        self.check_sendable()?;
        let codec: VideoCodec = self.negotiated.video.ok_or(LinkError::NotNegotiated("video"))?;
        let agreed = self.video_codec.as_ref().ok_or(LinkError::NotNegotiated("video"))?;
        let payload_type = agreed.payload_type;
        if frame.data.is_empty() || frame.data.len() > MAX_FRAME_BYTES {
            return Err(LinkError::Argument("a frame of 1 byte to 4 MiB"));
        }
        let payloads = packetize(codec, frame, self.video_out.picture, self.config.video_mtu);
        let count = payloads.len();
        if count == 0 {
            return Err(LinkError::Argument("a frame without a NAL unit"));
        }
        self.video_out.picture = self.video_out.picture.wrapping_add(1);
        let timestamp = self.video_out.offset.wrapping_add(ticks(frame.timestamp_us, 90_000));
        let ssrc = self.ssrcs.video;
        for (index, payload) in payloads.into_iter().enumerate() {
            let sequence = self.video_out.next();
            let header = header(payload_type, sequence, timestamp, ssrc, index + 1 == count);
            self.pacer.push(header, payload);
        }
        self.video_sent = Some(now);
        self.release_video(now);
        self.drain(now);
        Ok(count)
    }

    /// What is known of the path to the peer; `None` until it has reported anything.
    pub fn bandwidth(&self) -> Option<Bandwidth> {
        tap::lock(&self.shared).bandwidth.known()
    }

    /// What messages take of that at present, in bit/s.
    pub fn data_bps(&self, now: Instant) -> f64 {
        tap::lock(&self.shared).bandwidth.data_bps(now)
    }

    /// Lets go what the pacer allows.
    pub(crate) fn release_video(&mut self, now: Instant) {
        if self.pacer.is_empty() {
            return;
        }
        if self.check_sendable().is_err() {
            // The peer asks for a keyframe when it is back.
            return self.pacer.clear();
        }
        let pace_bps = {
            let mut shared = tap::lock(&self.shared);
            shared.bandwidth.on_sent(now);
            shared.bandwidth.pace_bps()
        };
        self.pacer.refill(now, pace_bps);
        while let Some((header, payload)) = self.pacer.pop() {
            // The engine takes all but what has no stream any more.
            let _ = self.write_rtp(now, "video", header, payload);
        }
    }

    /// Asks the peer for a keyframe with a PLI (RFC 4585, section 6.3.1), or with a FIR (RFC 5104, section 4.3.1) where its
    /// description names only that. How often is the caller's matter.
    pub fn request_keyframe(&mut self, now: Instant) {
        let media_ssrc = tap::lock(&self.shared).remote_video;
        let (Some(media_ssrc), Ok(())) = (media_ssrc, self.check_sendable()) else { return };
        let sender_ssrc = self.ssrcs.video;
        let by_fir = self.video_codec.as_ref().is_some_and(|codec| codec.fir_only);
        let request: Box<dyn rtc::rtcp::Packet> = if by_fir {
            let entry = FirEntry { ssrc: media_ssrc, sequence_number: self.stats.video_in.firs_sent as u8 };
            Box::new(FullIntraRequest { sender_ssrc, media_ssrc: 0, fir: vec![entry] })
        } else {
            Box::new(PictureLossIndication { sender_ssrc, media_ssrc })
        };
        let message = RTCMessage::RtcpPacket("video".into(), vec![request]);
        let at = self.engine_time(now);
        if self.pc.handle_write(TaggedRTCMessage { now: at, message }).is_ok() {
            let stats = &mut self.stats.video_in;
            *(if by_fir { &mut stats.firs_sent } else { &mut stats.plis_sent }) += 1;
        }
        self.drain(now);
    }

    fn check_sendable(&self) -> Result<(), LinkError> {
        self.check_open()?;
        // Into a silence nothing is sent: it would not arrive, and SRTP can't follow its own numbers over a long gap (RFC 3711,
        // section 3.3.1).
        if self.state != LinkState::Connected {
            return Err(LinkError::NotConnected);
        }
        if self.transmits.len() >= MAX_QUEUED_TRANSMITS {
            return Err(LinkError::BufferFull);
        }
        Ok(())
    }

    fn write_rtp(
        &mut self,
        now: Instant,
        track: &str,
        header: rtp::Header,
        payload: Bytes,
    ) -> Result<(), LinkError> {
        let message = RTCMessage::RtpPacket(track.into(), rtp::Packet { header, payload });
        let at = self.engine_time(now);
        tap::lock(&self.shared).media_clock.lag = now.saturating_duration_since(at);
        Ok(self.pc.handle_write(TaggedRTCMessage { now: at, message })?)
    }
}

impl RtpOut {
    pub fn new(random: u64) -> Self {
        // The first number is kept in the lower half: SRTP would count a wrap among the first lost packets wrongly.
        Self {
            sequence: random as u16 & 0x7fff,
            offset: (random >> 16) as u32,
            picture: (random >> 48) as u16,
            ends_us: None,
        }
    }

    fn next(&mut self) -> u16 {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        sequence
    }
}

fn header(payload_type: u8, sequence_number: u16, timestamp: u32, ssrc: u32, marker: bool) -> rtp::Header {
    rtp::Header { version: 2, payload_type, sequence_number, timestamp, ssrc, marker, ..Default::default() }
}

/// How long an Opus packet sounds (RFC 6716, section 3.1), in microseconds.
fn opus_duration_us(packet: &[u8]) -> i64 {
    let Some(toc) = packet.first() else { return 0 };
    let frame = match toc >> 3 {
        n @ 0..=11 => [10_000, 20_000, 40_000, 60_000][usize::from(n & 3)],
        n @ 12..=15 => [10_000, 20_000][usize::from(n & 1)],
        n => [2_500, 5_000, 10_000, 20_000][usize::from(n & 3)],
    };
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => packet.get(1).map_or(0, |b| i64::from(b & 0x3f)),
    };
    frame * count
}

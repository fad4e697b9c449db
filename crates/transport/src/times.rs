//! When what a peer sends was captured, for its decode workers.

use std::sync::Mutex;
use std::time::Instant;

use remotemedia_link::{MediaKind, RtpIn};
use remotemedia_media::{PeerClock, StreamId};

/// The clock of one peer's media. The net thread tells it of sender reports, the workers of packets; nobody holds it for long.
pub(crate) struct MediaTimes {
    clock: Mutex<PeerClock>,
    audio: StreamId,
    video: StreamId,
}

impl MediaTimes {
    /// Timestamps count from `epoch`.
    pub(crate) fn new(epoch: Instant) -> MediaTimes {
        let mut clock = PeerClock::new(epoch);
        let (audio, video) = (clock.add_stream(48_000), clock.add_stream(90_000));
        MediaTimes { clock: Mutex::new(clock), audio, video }
    }

    pub(crate) fn arrived(&self, packet: &RtpIn) {
        let stream = self.stream(packet.kind);
        crate::lock(&self.clock).arrived(stream, packet.ssrc, packet.timestamp, packet.received);
    }

    pub(crate) fn reported(&self, kind: MediaKind, ssrc: u32, ntp: u64, rtp: u32, now: Instant) {
        crate::lock(&self.clock).reported(self.stream(kind), ssrc, ntp, rtp, now);
    }

    /// When the media of this RTP timestamp was captured, in microseconds since the transport's start.
    pub(crate) fn timestamp_us(&self, kind: MediaKind, rtp: u32) -> i64 {
        crate::lock(&self.clock).timestamp_us(self.stream(kind), rtp)
    }

    /// By how many millionths the stream's clock is faster than ours, once that is known.
    pub(crate) fn drift_ppm(&self, kind: MediaKind) -> Option<i32> {
        crate::lock(&self.clock).drift_ppm(self.stream(kind)).map(|ppm| ppm.round() as i32)
    }

    pub(crate) fn is_synchronized(&self, kind: MediaKind) -> bool {
        crate::lock(&self.clock).is_synchronized(self.stream(kind))
    }

    fn stream(&self, kind: MediaKind) -> StreamId {
        match kind {
            MediaKind::Audio => self.audio,
            MediaKind::Video => self.video,
        }
    }
}

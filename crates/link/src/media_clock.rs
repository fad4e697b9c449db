//! Which RTP timestamp belongs to which moment, for the sender reports that we send.

use rtc::rtcp::Packet;
use rtc::rtcp::sender_report::SenderReport;
use std::time::{Duration, Instant};

/// The clock of the media given to a link.
///
/// The engine takes the time at which a frame is sent for that at which it was captured, so what encoding and pacing took would
/// show as a skew between sound and picture. Where this clock is known, its reports are set right on their way out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MediaClock {
    /// Media time zero.
    pub epoch: Option<Instant>,
    /// What the engine's clock is behind ours.
    pub lag: Duration,
    /// SSRC, RTP timestamp of media time zero, and clock rate of each stream.
    pub streams: [(u32, u32, u32); 2],
}

impl MediaClock {
    /// Sets the reports right that the engine writes at `at` of its clock.
    pub fn correct(&self, packets: &mut [Box<dyn Packet>], at: Instant) {
        let Some(epoch) = self.epoch else { return };
        for packet in packets {
            let Some(report) = packet.as_any().downcast_ref::<SenderReport>() else { continue };
            let Some((_, zero, rate)) = self.streams.iter().find(|(ssrc, ..)| *ssrc == report.ssrc) else {
                continue;
            };
            let media = (at + self.lag).saturating_duration_since(epoch);
            let rtp_time = zero.wrapping_add(ticks(media.as_micros() as i64, *rate));
            *packet = Box::new(SenderReport { rtp_time, ..report.clone() });
        }
    }
}

/// Microseconds in ticks of an RTP clock, modulo 2^32.
pub(crate) fn ticks(timestamp_us: i64, rate: u32) -> u32 {
    (i128::from(timestamp_us) * i128::from(rate)).div_euclid(1_000_000) as u32
}

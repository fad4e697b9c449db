//! How much of a peer's RTCP is looked at: a few bytes of it can ask for a lot of work.

use crate::stats::Drops;
use rtc::rtcp::Packet;
use rtc::rtcp::transport_feedbacks::cc_feedback_report::CcFeedbackReport;
use rtc::rtcp::transport_feedbacks::transport_layer_cc::{PacketStatusChunk, TransportLayerCc};
use std::time::Instant;

/// RTCP packets a second that are read; also the largest burst. A browser sends some 50.
const RTCP_RATE: f64 = 2000.0;
/// RTCP datagrams a second that could not be read, after which none is read for a while.
const UNREADABLE_RATE: f64 = 500.0;
/// Packets a second that transport-wide feedback may tell of; also the largest burst. It takes 20 bytes to tell of 65 535.
const STATUS_RATE: f64 = 20_000.0;

/// Tokens that come back at a rate.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    tokens: f64,
    at: Instant,
}

/// What is left for this peer.
#[derive(Debug)]
pub(crate) struct Limits {
    packets: Bucket,
    unreadable: Bucket,
    statuses: Bucket,
}

impl Bucket {
    fn new(rate: f64, at: Instant) -> Self {
        Self { rate, tokens: rate, at }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.rate);
    }

    /// Takes them, or nothing.
    fn take(&mut self, now: Instant, tokens: f64) -> bool {
        self.fill(now);
        let enough = tokens <= self.tokens;
        self.tokens -= if enough { tokens } else { 0.0 };
        enough
    }

    /// Takes them, down to a second's worth below zero.
    fn owe(&mut self, now: Instant, tokens: f64) {
        self.fill(now);
        self.tokens = (self.tokens - tokens).max(-self.rate);
    }
}

impl Limits {
    pub fn new(now: Instant) -> Self {
        Self {
            packets: Bucket::new(RTCP_RATE, now),
            unreadable: Bucket::new(UNREADABLE_RATE, now),
            statuses: Bucket::new(STATUS_RATE, now),
        }
    }

    /// Whether RTCP is to be decrypted and read at all.
    pub fn may_read(&mut self, now: Instant) -> bool {
        self.packets.fill(now);
        self.unreadable.fill(now);
        self.packets.tokens > 0.0 && self.unreadable.tokens > 0.0
    }

    /// A datagram was read, and had so many packets; 0: it made no sense or was not the peer's.
    pub fn read(&mut self, now: Instant, packets: usize) {
        if packets == 0 {
            self.unreadable.owe(now, 1.0);
        } else {
            self.packets.owe(now, packets as f64);
        }
    }

    /// Whether the engine is to see this packet; what it is not to see is counted.
    pub fn allows(&mut self, now: Instant, packet: &dyn Packet, drops: &mut Drops) -> bool {
        let any = packet.as_any();
        if let Some(feedback) = any.downcast_ref::<TransportLayerCc>() {
            let statuses = |chunk: &PacketStatusChunk| match chunk {
                PacketStatusChunk::RunLengthChunk(run) => usize::from(run.run_length),
                PacketStatusChunk::StatusVectorChunk(vector) => vector.symbol_list.len(),
            };
            let told: usize = feedback.packet_chunks.iter().map(statuses).sum();
            let allowed = self.statuses.take(now, told as f64);
            drops.feedback_limited += u64::from(!allowed);
            return allowed;
        }
        // RFC 8888, which is not negotiated: its arrival times are of another kind than those of the above.
        let foreign = any.is::<CcFeedbackReport>();
        drops.rtcp_unknown += u64::from(foreign);
        !foreign
    }
}

/// RTCP, where RTP may come too (RFC 5761, section 4).
pub(crate) fn is_rtcp(data: &[u8]) -> bool {
    matches!(data, [128..=191, 192..=223, ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtc::rtcp::transport_feedbacks::transport_layer_cc::{RunLengthChunk, SymbolTypeTcc};
    use std::time::Duration;

    fn feedback(runs: &[u16]) -> TransportLayerCc {
        let chunk = |run_length: &u16| {
            let packet_status_symbol = SymbolTypeTcc::PacketNotReceived;
            PacketStatusChunk::RunLengthChunk(RunLengthChunk {
                packet_status_symbol,
                run_length: *run_length,
                ..Default::default()
            })
        };
        TransportLayerCc { packet_chunks: runs.iter().map(chunk).collect(), ..Default::default() }
    }

    #[test]
    fn feedback_tells_of_so_many_packets_a_second() {
        let now = Instant::now();
        let (mut limits, mut drops) = (Limits::new(now), Drops::default());
        assert!(!limits.allows(now, &feedback(&[8191; 8]), &mut drops), "more than could have been sent");
        let told = (0..1000).filter(|_| limits.allows(now, &feedback(&[100]), &mut drops)).count();
        assert_eq!((told, drops.feedback_limited), (200, 801));
        let later = now + Duration::from_millis(50);
        let told = (0..1000).filter(|_| limits.allows(later, &feedback(&[100]), &mut drops)).count();
        assert_eq!(told, 10);
    }

    #[test]
    fn a_flood_is_not_read_and_a_second_later_it_is_over() {
        let mut now = Instant::now();
        let mut limits = Limits::new(now);
        let mut read = 0;
        for _ in 0..100_000 {
            now += Duration::from_micros(50);
            if limits.may_read(now) {
                limits.read(now, 5);
                read += 1;
            }
        }
        assert!((2000..2600).contains(&read), "{read} in 5 s, of 5 packets each");
        for _ in 0..10_000 {
            if limits.may_read(now) {
                limits.read(now, 0);
            }
        }
        assert!(!limits.may_read(now));
        assert!(limits.may_read(now + Duration::from_secs(2)));
    }
}

//! What is counted of each RTP stream (RFC 3550, sections 6.4 and A; W3C webrtc-stats, section 7).

use crate::nack::unwrap_u16;
use crate::stats::{InboundStats, OutboundStats};
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtp::{Header, Packet};
use rtc::shared::marshal::MarshalSize;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Sender reports of ours that a peer may still answer.
const MAX_REPORTS: usize = 32;

/// One stream in.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    pub stats: InboundStats,
    base: Option<u64>,
    highest: u64,
    /// Packets since `base`, with retransmissions and without, and the losses before it.
    count: i64,
    originals: i64,
    lost_before: [i64; 2],
    transit: Option<f64>,
    start: Option<Instant>,
    /// What was expected and received when we reported last.
    reported: (i64, i64),
}

/// One stream out.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub stats: OutboundStats,
    /// The middle of the NTP time of our sender reports, and when they left.
    reports: VecDeque<(u32, Instant)>,
}

/// What a packet is made of on the wire, in bytes, without what protects it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wire {
    pub payload: usize,
    /// The header with its extensions, and padding.
    pub header: usize,
}

/// Learns what SRTP adds to a packet: the engine takes padding off without telling how much it was.
#[derive(Debug, Default)]
pub(crate) struct Measure {
    /// The datagram that is being read, in bytes; 0: not known.
    pub datagram: usize,
    protection: Option<usize>,
}

impl Measure {
    pub fn packet(&mut self, packet: &Packet) -> Wire {
        let (payload, header) = (packet.payload.len(), packet.header.marshal_size());
        let rest = self.datagram.saturating_sub(payload);
        if !packet.header.padding && rest > header {
            self.protection = Some(rest - header);
        }
        // HMAC-SHA1-80 (RFC 3711), if padding comes first of all.
        let protection = self.protection.unwrap_or(10);
        Wire { payload, header: rest.saturating_sub(protection).max(header) }
    }
}

impl Inbound {
    /// A packet came, as its own or by RTX.
    pub fn counted(&mut self, now: Instant, wire: Wire) {
        self.stats.packets += 1;
        self.stats.bytes += wire.payload as u64;
        self.stats.header_bytes += wire.header as u64;
        self.stats.last_packet = Some(now);
    }

    /// Its place in the stream; `again`: it came by RTX.
    pub fn received(&mut self, now: Instant, header: &Header, clock: f64, again: bool) {
        let (sequence, ts) = (header.sequence_number, header.timestamp);
        let number = match self.base {
            None => {
                self.base = Some(u64::from(sequence) + (1 << 16));
                self.highest = u64::from(sequence) + (1 << 16);
                self.highest
            }
            Some(_) => unwrap_u16(self.highest, sequence),
        };
        self.highest = self.highest.max(number);
        self.count += 1;
        self.originals += i64::from(!again);
        self.stats.missing = self.lost_before[0] + self.expected() - self.count;
        self.stats.lost = self.lost_before[1] + self.expected() - self.originals;
        if again {
            return;
        }
        (self.stats.ssrc, self.stats.payload_type) = (Some(header.ssrc), Some(header.payload_type));
        let start = *self.start.get_or_insert(now);
        let transit = now.saturating_duration_since(start).as_secs_f64() * clock - f64::from(ts);
        if let Some(last) = self.transit {
            // The difference modulo 2^32: the timestamp wraps.
            let mut difference = (transit - last).abs() % 4_294_967_296.0;
            difference = difference.min(4_294_967_296.0 - difference);
            let jitter = self.stats.jitter_seconds * clock;
            self.stats.jitter_seconds = (jitter + (difference - jitter) / 16.0) / clock;
        }
        self.transit = Some(transit);
    }

    /// The peer tells of this stream.
    pub fn sender_report(&mut self, report: &SenderReport) {
        self.stats.remote_reports += 1;
        self.stats.remote_packets = u64::from(report.packet_count);
        self.stats.remote_bytes = u64::from(report.octet_count);
        self.stats.remote_ntp = Some(report.ntp_time);
    }

    /// Puts our accounts into a report block that the engine made: it counts timestamps that wrap as jitter, and what came by RTX as
    /// part of the stream, which it is not (RFC 4588, section 6.3).
    pub fn fill(&mut self, block: &mut ReceptionReport, clock: f64) {
        if self.base.is_none() {
            return;
        }
        let (expected, received) = (self.expected(), self.originals);
        let (before, got) = std::mem::replace(&mut self.reported, (expected, received));
        let (expected, received) = (expected - before, received - got);
        let lost = (expected - received).max(0);
        block.fraction_lost = if expected > 0 { (lost * 256 / expected).min(255) as u8 } else { 0 };
        // 24 bits, signed.
        block.total_lost = self.stats.lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
        block.last_sequence_number = self.highest.wrapping_sub(1 << 16) as u32;
        block.jitter = (self.stats.jitter_seconds * clock) as u32;
    }

    /// Another stream takes its place.
    pub fn restart(&mut self) {
        self.base = None;
        self.transit = None;
        (self.count, self.originals, self.reported) = (0, 0, (0, 0));
        self.lost_before = [self.stats.missing, self.stats.lost];
    }

    fn expected(&self) -> i64 {
        self.base.map_or(0, |base| (self.highest - base.min(self.highest) + 1) as i64)
    }
}

impl Outbound {
    /// A packet leaves; `again`: it was asked for by NACK.
    pub fn sent(&mut self, packet: &Packet, again: bool) {
        let (payload, header) = (packet.payload.len() as u64, packet.header.marshal_size() as u64);
        let stats = &mut self.stats;
        stats.packets += 1;
        stats.bytes += payload;
        stats.header_bytes += header;
        if again {
            stats.retransmitted_packets += 1;
            stats.retransmitted_bytes += payload;
        } else {
            (stats.ssrc, stats.payload_type) = (Some(packet.header.ssrc), Some(packet.header.payload_type));
            stats.first_sequence.get_or_insert(packet.header.sequence_number);
        }
    }

    /// A sender report of ours leaves.
    pub fn reported(&mut self, report: &SenderReport, now: Instant) {
        if self.reports.len() == MAX_REPORTS {
            self.reports.pop_front();
        }
        self.reports.push_back(((report.ntp_time >> 16) as u32, now));
    }

    /// What the peer says of this stream.
    pub fn heard(&mut self, report: &ReceptionReport, clock: f64, now: Instant) {
        let stats = &mut self.stats;
        stats.reports_received += 1;
        stats.fraction_lost = f64::from(report.fraction_lost) / 256.0;
        // 24 bits, signed.
        stats.lost = i64::from((report.total_lost << 8) as i32 >> 8);
        stats.jitter_seconds = f64::from(report.jitter) / clock;
        stats.remote_highest = Some(report.last_sequence_number);
        // RFC 3550, section 6.4.1. Only a report that we did send is believed, and no more than has passed since.
        let sent = self.reports.iter().find(|(id, _)| *id == report.last_sender_report && *id != 0);
        let Some((_, sent)) = sent else { return };
        let held = Duration::from_secs_f64(f64::from(report.delay) / 65536.0);
        if let Some(round_trip) = now.saturating_duration_since(*sent).checked_sub(held) {
            stats.round_trip = Some(round_trip);
            stats.total_round_trip += round_trip;
            stats.round_trips += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence_number: u16, timestamp: u32) -> Header {
        Header { version: 2, ssrc: 1, sequence_number, timestamp, ..Default::default() }
    }

    #[test]
    fn a_report_says_what_we_count() {
        let start = Instant::now();
        let mut stream = Inbound::default();
        // 20 packets a second, the third one lost; the timestamp wraps on the way.
        for n in 0..20u16 {
            let at = start + Duration::from_millis(50 * u64::from(n));
            if n != 2 {
                let ts = 0xffff_f000u32.wrapping_add(u32::from(n) * 2400);
                stream.received(at, &header(65_530u16.wrapping_add(n), ts), 48_000.0, false);
            }
        }
        let mut block = ReceptionReport { jitter: 9, total_lost: 9, ..Default::default() };
        stream.fill(&mut block, 48_000.0);
        assert_eq!((block.total_lost, block.fraction_lost, block.jitter), (1, 12, 0));
        assert_eq!(block.last_sequence_number, 65_530 + 19);
        // It comes by RTX: no longer missing, but lost in the stream itself.
        stream.received(start + Duration::from_secs(1), &header(65_532, 0), 48_000.0, true);
        assert_eq!((stream.stats.lost, stream.stats.missing), (1, 0));
        stream.fill(&mut block, 48_000.0);
        assert_eq!((block.total_lost, block.fraction_lost), (1, 0), "of the time since the last report");
    }

    #[test]
    fn duplicates_make_the_loss_negative() {
        let mut stream = Inbound::default();
        for _ in 0..3 {
            stream.received(Instant::now(), &header(7, 0), 48_000.0, false);
        }
        let mut block = ReceptionReport::default();
        stream.fill(&mut block, 48_000.0);
        assert_eq!((stream.stats.lost, block.total_lost, block.fraction_lost), (-2, 0xff_fffe, 0));
        let mut there = Outbound::default();
        there.heard(&block, 48_000.0, Instant::now());
        assert_eq!(there.stats.lost, -2);
    }

    #[test]
    fn a_round_trip_takes_a_report_that_was_sent() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut stream = Outbound::default();
        let ntp_time = 0x1234_5678_9abc_def0;
        stream.reported(&SenderReport { ntp_time, ..Default::default() }, at(0));
        let answer =
            |last_sender_report, delay| ReceptionReport { last_sender_report, delay, ..Default::default() };
        stream.heard(&answer(0x5678_9abc, 65_536 / 2), 48_000.0, at(580));
        assert_eq!(stream.stats.round_trip, Some(Duration::from_millis(80)));
        for forged in [answer(0x5678_9abd, 0), answer(0, 0), answer(0x5678_9abc, u32::MAX)] {
            stream.heard(&forged, 48_000.0, at(600));
        }
        assert_eq!((stream.stats.round_trips, stream.stats.reports_received), (1, 4));
        for n in 0..1000u64 {
            stream.reported(&SenderReport { ntp_time: n << 16, ..Default::default() }, at(n));
        }
        assert_eq!(stream.reports.len(), MAX_REPORTS);
    }

    #[test]
    fn padding_is_told_from_what_protects() {
        let mut measure = Measure::default();
        let mut packet = Packet { header: header(1, 0), payload: vec![0; 100].into() };
        measure.datagram = 12 + 100 + 16;
        assert_eq!(measure.packet(&packet), Wire { payload: 100, header: 12 });
        packet.header.padding = true;
        packet.payload = vec![0; 0].into();
        measure.datagram = 12 + 224 + 16;
        assert_eq!(measure.packet(&packet), Wire { payload: 0, header: 236 });
    }
}

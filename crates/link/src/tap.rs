//! Our own interceptor, the one next to the wire.
//!
//! It reads RTCP where the engine still has all of it (the engine routes a compound by its first packet, and its own
//! counters of PLI, FIR and NACK have no caller), puts retransmissions back under their own number before anything
//! counts them, asks for lost packets, and keeps the per-kind statistics.

use crate::accounts::{Inbound, Measure, Outbound};
use crate::bandwidth::{BandwidthEstimate, PacketResult};
use crate::event::MediaKind;
use crate::limits::Limits;
use crate::media_clock::MediaClock;
use crate::nack::NackTracker;
use crate::stats::Drops;
use rtc::interceptor::{
    Attribute, AttributedPacket, BandwidthEstimator, Interceptor, Packet, PacketReport, StreamInfo,
    TaggedPacket,
};
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtcp::transport_feedbacks::transport_layer_nack::{
    NackPair, TransportLayerNack, nack_pairs_from_sequence_numbers,
};
use rtc::sansio::Protocol;
use rtc::shared::TransportContext;
use rtc::shared::error::Error;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Retransmissions a peer may ask for, a second; also the largest burst.
const RETRANSMIT_RATE: f64 = 2000.0;
/// … and what share of the path they may fill, where that is known, at this size.
const RETRANSMIT_SHARE: f64 = 0.5;
/// … or this, where a queue stands: there it is the queue that lost them, and more makes it longer.
const RETRANSMIT_SHARE_QUEUED: f64 = 0.15;
const QUEUED: Duration = Duration::from_millis(60);
/// What may be asked for at once, in time of that rate.
const RETRANSMIT_BURST: f64 = 0.25;
const RETRANSMIT_BITS: f64 = 1200.0 * 8.0;
const MAX_SENDER_REPORTS: usize = 16;
const MAX_UNDECLARED: usize = 256;

/// What the tap and the link both see. Only ever locked by the thread that drives the link.
#[derive(Debug)]
pub(crate) struct Shared {
    pub audio_ssrc: u32,
    pub video_ssrc: u32,
    /// Of our retransmissions.
    pub rtx_ssrc: u32,
    pub remote_audio: Option<u32>,
    pub remote_video: Option<u32>,
    pub remote_rtx: Option<u32>,
    /// Payload type of the retransmission format -> of the codec.
    pub apt: Vec<(u8, u8)>,
    /// Payload types of each kind.
    pub audio_types: Vec<u8>,
    pub video_types: Vec<u8>,
    pub keyframe_requested: bool,
    pub sender_reports: VecDeque<(MediaKind, u32, u64, u32)>,
    /// Packets of streams whose SSRC was not in the SDP; the engine would drop them.
    pub undeclared: VecDeque<(Instant, rtc::rtp::Packet)>,
    /// The SSRCs of such streams: audio, video.
    adopted: [Option<u32>; 2],
    pub audio_in: Inbound,
    pub video_in: Inbound,
    pub audio_out: Outbound,
    pub video_out: Outbound,
    pub bandwidth: BandwidthEstimate,
    /// What was not passed on; the link has its own besides.
    pub drops: Drops,
    pub measure: Measure,
    pub limits: Limits,
    /// RTCP packets of the datagram that is being read.
    pub rtcp_read: usize,
    pub media_clock: MediaClock,
    nack: NackTracker,
    tokens: f64,
    refilled: Instant,
}

/// Hands what the peer reports of our packets to the estimate.
pub(crate) struct Feedback(pub Arc<Mutex<Shared>>);

impl BandwidthEstimator for Feedback {
    fn on_reports(&mut self, now: Instant, reports: &[PacketReport]) {
        let results: Vec<PacketResult> = reports
            .iter()
            .filter(|report| report.is_twcc && report.arrived == report.arrival.is_some())
            .map(|r| PacketResult { departed: r.departure, arrived: r.arrival, bytes: r.size })
            .collect();
        lock(&self.0).bandwidth.on_feedback(now, &results);
    }

    fn target_bitrate(&self) -> f64 {
        lock(&self.0).bandwidth.target_bps()
    }
}

pub(crate) struct Tap {
    shared: Arc<Mutex<Shared>>,
    reads: VecDeque<TaggedPacket>,
    writes: VecDeque<TaggedPacket>,
}

pub(crate) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(now: Instant, audio_ssrc: u32, video_ssrc: u32, bandwidth: BandwidthEstimate) -> Self {
        Self {
            audio_ssrc,
            video_ssrc,
            rtx_ssrc: 0,
            remote_audio: None,
            remote_video: None,
            remote_rtx: None,
            apt: Vec::new(),
            audio_types: Vec::new(),
            video_types: Vec::new(),
            keyframe_requested: false,
            sender_reports: VecDeque::new(),
            undeclared: VecDeque::new(),
            adopted: [None; 2],
            audio_in: Inbound::default(),
            video_in: Inbound::default(),
            audio_out: Outbound::default(),
            video_out: Outbound::default(),
            bandwidth,
            drops: Drops::default(),
            measure: Measure::default(),
            limits: Limits::new(now),
            rtcp_read: 0,
            media_clock: MediaClock::default(),
            nack: NackTracker::default(),
            tokens: RETRANSMIT_RATE,
            refilled: now,
        }
    }

    /// The SSRCs of the peer's SDP. What was missing in an old video stream is no longer wanted.
    pub fn declare(&mut self, audio: Option<u32>, video: Option<u32>) {
        if audio.is_some() {
            self.remote_audio = audio;
            self.adopted[0] = None;
        }
        if video.is_some() {
            if self.remote_video.is_some() && self.remote_video != video {
                self.nack = NackTracker::default();
                self.video_in.restart();
            }
            self.remote_video = video;
            self.adopted[1] = None;
        }
    }

    fn rtp(&mut self, now: Instant, packet: &mut rtc::rtp::Packet) -> bool {
        let wire = self.measure.packet(packet);
        let mut retransmitted = false;
        let undeclared = self.adopted[1].is_some() && self.remote_rtx.is_none();
        if undeclared && self.apt.iter().any(|(rtx, _)| *rtx == packet.header.payload_type) {
            self.remote_rtx = Some(packet.header.ssrc);
        }
        if self.remote_rtx == Some(packet.header.ssrc) {
            let apt = self.apt.iter().find(|(rtx, _)| *rtx == packet.header.payload_type).map(|(_, pt)| *pt);
            let (Some(pt), Some(video)) = (apt, self.remote_video) else { return true };
            self.video_in.counted(now, wire);
            if packet.payload.len() <= 2 {
                // Padding to probe the bandwidth: it goes on, so that transport-wide feedback counts it.
                return true;
            }
            packet.header.sequence_number = u16::from_be_bytes([packet.payload[0], packet.payload[1]]);
            packet.header.ssrc = video;
            packet.header.payload_type = pt;
            packet.header.padding = false;
            packet.payload = packet.payload.slice(2..);
            self.video_in.stats.retransmitted += 1;
            self.video_in.stats.retransmitted_bytes += wire.payload as u64;
            retransmitted = true;
        }
        let header = &packet.header;
        let (ssrc, pt) = (header.ssrc, header.payload_type);
        if Some(ssrc) != self.remote_audio && Some(ssrc) != self.remote_video {
            // A peer that names no SSRC in its SDP: the payload type tells the kind, the first stream of a kind is it.
            if self.remote_audio.is_none() && self.audio_types.contains(&pt) {
                self.remote_audio = Some(ssrc);
                self.adopted[0] = Some(ssrc);
            } else if self.remote_video.is_none() && self.video_types.contains(&pt) {
                self.remote_video = Some(ssrc);
                self.adopted[1] = Some(ssrc);
            } else {
                self.drops.rtp_unknown += 1;
                return true;
            }
        }
        let (track, clock) = if Some(ssrc) == self.remote_video {
            let fresh = self.nack.received(header.sequence_number, now);
            if retransmitted && !fresh {
                // It was asked for twice, and counted once.
                return !self.adopted.contains(&Some(ssrc));
            }
            (&mut self.video_in, 90_000.0)
        } else {
            (&mut self.audio_in, 48_000.0)
        };
        if !retransmitted {
            track.counted(now, wire);
        }
        track.received(now, header, clock, retransmitted);
        !self.adopted.contains(&Some(ssrc))
    }

    fn rtcp(&mut self, now: Instant, packets: &mut Vec<Box<dyn rtc::rtcp::Packet>>) {
        self.rtcp_read = packets.len();
        for packet in packets.iter_mut() {
            if let Some(nack) = packet.as_any().downcast_ref::<TransportLayerNack>() {
                *packet = Box::new(self.nack_received(now, nack));
            }
        }
        packets.retain(|packet| {
            let any = packet.as_any();
            let mut ours = true;
            if let Some(pli) = any.downcast_ref::<PictureLossIndication>() {
                ours = pli.media_ssrc == self.video_ssrc;
                self.video_out.stats.plis_received += u64::from(ours);
                self.keyframe_requested |= ours;
            } else if let Some(fir) = any.downcast_ref::<FullIntraRequest>() {
                ours = fir.fir.iter().any(|entry| entry.ssrc == self.video_ssrc);
                self.video_out.stats.firs_received += u64::from(ours);
                self.keyframe_requested |= ours;
            } else if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
                return !nack.nacks.is_empty();
            } else if let Some(report) = any.downcast_ref::<SenderReport>() {
                let known = match Some(report.ssrc) {
                    ssrc if ssrc == self.remote_audio => Some((MediaKind::Audio, &mut self.audio_in)),
                    ssrc if ssrc == self.remote_video => Some((MediaKind::Video, &mut self.video_in)),
                    _ => None,
                };
                if let Some((kind, stream)) = known {
                    stream.sender_report(report);
                    if self.sender_reports.len() == MAX_SENDER_REPORTS {
                        self.sender_reports.pop_front();
                    }
                    self.sender_reports.push_back((kind, report.ssrc, report.ntp_time, report.rtp_time));
                }
                self.reports(now, &report.reports);
            } else if let Some(report) = any.downcast_ref::<ReceiverReport>() {
                self.reports(now, &report.reports);
            } else {
                return self.limits.allows(now, packet.as_ref(), &mut self.drops);
            }
            self.drops.rtcp_unknown += u64::from(!ours);
            true
        });
    }

    /// What of it is within the limit: each answer is a whole packet, so a NACK is an amplifier.
    fn nack_received(&mut self, now: Instant, nack: &TransportLayerNack) -> TransportLayerNack {
        let asked = |pair: &NackPair| 1 + u64::from(pair.lost_packets.count_ones());
        if nack.media_ssrc != self.video_ssrc {
            // Sound is not sent again.
            self.drops.rtcp_unknown += u64::from(nack.media_ssrc != self.audio_ssrc);
            return TransportLayerNack { nacks: Vec::new(), ..nack.clone() };
        }
        self.video_out.stats.nacks_received += 1;
        self.video_out.stats.nacked_packets += nack.nacks.iter().map(asked).sum::<u64>();
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let (rate, most) = self.bandwidth.known().map_or((RETRANSMIT_RATE, RETRANSMIT_RATE), |path| {
            let queued = path.queueing_delay > QUEUED;
            let share = if queued { RETRANSMIT_SHARE_QUEUED } else { RETRANSMIT_SHARE };
            let rate = (path.target_bps * share / RETRANSMIT_BITS).clamp(10.0, RETRANSMIT_RATE);
            (rate, (rate * RETRANSMIT_BURST).max(20.0))
        });
        self.tokens = (self.tokens + passed * rate).min(most);
        let mut granted = nack.clone();
        granted.nacks.retain(|pair| {
            let count = asked(pair);
            let allowed = count as f64 <= self.tokens;
            if allowed {
                self.tokens -= count as f64
            } else {
                self.drops.nack_limited += count
            }
            allowed
        });
        granted
    }

    fn reports(&mut self, now: Instant, reports: &[ReceptionReport]) {
        for report in reports {
            match report.ssrc {
                ssrc if ssrc == self.video_ssrc => self.video_out.heard(report, 90_000.0, now),
                ssrc if ssrc == self.audio_ssrc => self.audio_out.heard(report, 48_000.0, now),
                // What was sent again is counted with the rest.
                ssrc if ssrc == self.rtx_ssrc => {}
                _ => self.drops.rtcp_unknown += 1,
            }
        }
    }

    /// A packet leaves.
    fn sent(&mut self, message: &AttributedPacket) {
        let Packet::Rtp(packet) = &message.packet else { return };
        let again = message.has(&Attribute::Retransmission);
        if packet.header.ssrc == self.audio_ssrc {
            self.audio_out.sent(packet, again);
        } else {
            // What has neither SSRC is video by RTX.
            self.video_out.sent(packet, again || packet.header.ssrc != self.video_ssrc);
        }
    }

    /// Reports leave: with our numbers in them.
    fn reporting(&mut self, now: Instant, packets: &mut [Box<dyn rtc::rtcp::Packet>]) {
        self.media_clock.correct(packets, now);
        for packet in packets {
            let any = packet.as_any();
            if let Some(report) = any.downcast_ref::<SenderReport>() {
                match report.ssrc {
                    ssrc if ssrc == self.audio_ssrc => self.audio_out.reported(report, now),
                    ssrc if ssrc == self.video_ssrc => self.video_out.reported(report, now),
                    _ => {}
                }
            } else if let Some(report) = any.downcast_ref::<ReceiverReport>() {
                let mut report = report.clone();
                for block in &mut report.reports {
                    match Some(block.ssrc) {
                        ssrc if ssrc == self.remote_audio => self.audio_in.fill(block, 48_000.0),
                        ssrc if ssrc == self.remote_video => self.video_in.fill(block, 90_000.0),
                        _ => {}
                    }
                }
                *packet = Box::new(report);
            }
        }
    }
}

impl Tap {
    pub fn new(shared: Arc<Mutex<Shared>>) -> Self {
        Self { shared, reads: VecDeque::new(), writes: VecDeque::new() }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Tap {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, mut msg: TaggedPacket) -> Result<(), Error> {
        let mut shared = lock(&self.shared);
        let now = msg.now;
        let pass = match &mut msg.message.packet {
            Packet::Rtp(packet) => {
                let pass = shared.rtp(now, packet);
                if !pass && shared.undeclared.len() < MAX_UNDECLARED {
                    shared.undeclared.push_back((now, packet.clone()));
                }
                pass
            }
            Packet::Rtcp(packets) => {
                shared.rtcp(now, packets);
                !packets.is_empty()
            }
            _ => true,
        };
        drop(shared);
        if pass {
            self.reads.push_back(msg);
        }
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.reads.pop_front()
    }

    fn handle_write(&mut self, mut msg: TaggedPacket) -> Result<(), Error> {
        let mut shared = lock(&self.shared);
        match &mut msg.message.packet {
            Packet::Rtcp(packets) => shared.reporting(msg.now, packets),
            Packet::Rtp(_) => shared.sent(&msg.message),
            _ => {}
        }
        drop(shared);
        self.writes.push_back(msg);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.writes.pop_front()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        let mut shared = lock(&self.shared);
        let due = shared.nack.due(now);
        if let Some(media_ssrc) = shared.remote_video.filter(|_| !due.is_empty()) {
            shared.video_in.stats.nacks_sent += 1;
            let nack = TransportLayerNack {
                sender_ssrc: shared.video_ssrc,
                media_ssrc,
                nacks: nack_pairs_from_sequence_numbers(&due),
            };
            self.writes.push_back(TaggedPacket {
                now,
                transport: TransportContext::default(),
                message: AttributedPacket::new(Packet::Rtcp(vec![Box::new(nack)])),
            });
        }
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        lock(&self.shared).nack.timeout()
    }
}

impl Interceptor for Tap {
    fn bind_local_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _info: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _info: &StreamInfo) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtc::rtcp::payload_feedbacks::full_intra_request::FirEntry;

    const VIDEO: u32 = 22;

    fn tap(now: Instant) -> (Tap, Arc<Mutex<Shared>>) {
        let shared = Arc::new(Mutex::new(Shared::new(now, 11, VIDEO, BandwidthEstimate::new(1e6, 1e5, 1e7))));
        (Tap::new(shared.clone()), shared)
    }

    fn feed(tap: &mut Tap, now: Instant, packet: Packet) -> Option<TaggedPacket> {
        let message = AttributedPacket::new(packet);
        tap.handle_read(TaggedPacket { now, transport: TransportContext::default(), message })
            .expect("taken");
        tap.poll_read()
    }

    fn rtp(ssrc: u32, payload_type: u8, sequence_number: u16, payload: &'static [u8]) -> Packet {
        let header =
            rtc::rtp::Header { version: 2, ssrc, payload_type, sequence_number, ..Default::default() };
        Packet::Rtp(rtc::rtp::Packet { header, payload: payload.into() })
    }

    #[test]
    fn a_request_behind_an_empty_receiver_report_is_seen() {
        let now = Instant::now();
        let (mut tap, shared) = tap(now);
        let pli = PictureLossIndication { sender_ssrc: 1, media_ssrc: VIDEO };
        feed(&mut tap, now, Packet::Rtcp(vec![Box::new(ReceiverReport::default()), Box::new(pli)]));
        assert!(std::mem::take(&mut lock(&shared).keyframe_requested));
        let fir = FullIntraRequest {
            sender_ssrc: 1,
            media_ssrc: 0,
            fir: vec![FirEntry { ssrc: VIDEO, sequence_number: 1 }],
        };
        feed(&mut tap, now, Packet::Rtcp(vec![Box::new(fir)]));
        assert!(std::mem::take(&mut lock(&shared).keyframe_requested));
        let other = PictureLossIndication { sender_ssrc: 1, media_ssrc: 99 };
        feed(&mut tap, now, Packet::Rtcp(vec![Box::new(other)]));
        let shared = lock(&shared);
        assert!(!shared.keyframe_requested);
        assert_eq!((shared.video_out.stats.plis_received, shared.video_out.stats.firs_received), (1, 1));
    }

    #[test]
    fn nacks_over_the_rate_are_taken_out() {
        let now = Instant::now();
        let (mut tap, shared) = tap(now);
        let pair = NackPair { packet_id: 1, lost_packets: 0xffff };
        let nack = || TransportLayerNack { sender_ssrc: 1, media_ssrc: VIDEO, nacks: vec![pair; 50] };
        let granted = |passed: Option<TaggedPacket>| match passed.map(|p| p.message.packet) {
            Some(Packet::Rtcp(packets)) => {
                packets[0].as_any().downcast_ref::<TransportLayerNack>().map_or(0, |n| n.nacks.len())
            }
            _ => 0,
        };
        let pairs: Vec<_> =
            (0..4).map(|_| granted(feed(&mut tap, now, Packet::Rtcp(vec![Box::new(nack())])))).collect();
        assert_eq!(pairs, [50, 50, 17, 0], "17 packets a pair, 2000 at once");
        assert_eq!(lock(&shared).drops.nack_limited, (33 + 50) * 17);
        let later = now + Duration::from_secs(1);
        assert!(feed(&mut tap, later, Packet::Rtcp(vec![Box::new(nack())])).is_some());
    }

    #[test]
    fn retransmissions_come_under_their_own_number() {
        let now = Instant::now();
        let (mut tap, shared) = tap(now);
        {
            let mut shared = lock(&shared);
            (shared.remote_video, shared.remote_rtx) = (Some(5), Some(6));
            shared.apt = vec![(97, 96)];
        }
        feed(&mut tap, now, rtp(5, 96, 10, b"x"));
        feed(&mut tap, now, rtp(5, 96, 12, b"x"));
        let stats = lock(&shared).video_in.stats;
        assert_eq!((stats.lost, stats.missing), (1, 1));
        let back = feed(&mut tap, now, rtp(6, 97, 900, &[0, 11, 7, 7])).expect("passed on");
        let Packet::Rtp(packet) = back.message.packet else { panic!("not RTP") };
        assert_eq!(
            (packet.header.ssrc, packet.header.sequence_number, packet.header.payload_type),
            (5, 11, 96)
        );
        assert_eq!(&packet.payload[..], [7, 7]);
        let stats = lock(&shared).video_in.stats;
        assert_eq!((stats.missing, stats.lost, stats.retransmitted, stats.packets), (0, 1, 1, 3));
        assert!(lock(&shared).nack.timeout().is_none());
        // Probing with padding stays what it is.
        let probe = feed(&mut tap, now, rtp(6, 97, 901, b"")).expect("passed on");
        assert!(matches!(probe.message.packet, Packet::Rtp(p) if p.header.ssrc == 6));
    }

    #[test]
    fn a_stream_without_an_ssrc_in_the_sdp_is_told_by_its_payload_type() {
        let now = Instant::now();
        let (mut tap, shared) = tap(now);
        lock(&shared).video_types = vec![96];
        assert!(feed(&mut tap, now, rtp(77, 96, 1, b"x")).is_none(), "the engine has no place for it");
        assert_eq!(lock(&shared).undeclared.len(), 1);
        assert_eq!(lock(&shared).remote_video, Some(77));
        for n in 0..1000 {
            feed(&mut tap, now, rtp(78, 96, n, b"x"));
        }
        assert_eq!(lock(&shared).drops.rtp_unknown, 1000);
    }
}

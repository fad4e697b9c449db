//! A peer that means harm, behind a handshake of its own: what it sends over SRTP is taken for the peer's. Nothing panics, what it
//! costs is bounded and counted, and the link goes on.

#[path = "../tests/common/mod.rs"]
mod common;

use crate::tap;
use crate::{LinkConfig, LinkEvent, MediaKind, MessageKind, VideoAssembler};
use bytes::Bytes;
use common::*;
use remotemedia_media::{AudioPacket, EncodedFrame, FramePool, JitterBuffer, VideoCodec, VideoDecoder};
use remotemedia_media::{VideoEncoder, VideoEncoderConfig};
use remotemedia_testkit::{Mutator, Path, Random};
use rtc::peer_connection::message::{RTCMessage, TaggedRTCMessage};
use rtc::rtcp;
use rtc::rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtc::rtcp::raw_packet::RawPacket;
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::rtcp::transport_feedbacks::transport_layer_nack::{NackPair, TransportLayerNack};
use rtc::rtp;
use rtc::sansio::Protocol;
use rtc::shared::marshal::Marshal;
use std::time::{Duration, Instant};

type Rtcp = Box<dyn rtcp::Packet>;

/// A call in which B has seen something of A's.
fn call(seed: u64) -> Pair {
    let mut pair = Pair::open(seed, Path::clean(ms(5)), LinkConfig::default(), LinkConfig::default());
    for index in 0..30 {
        speak(&mut pair, A, index);
        speak(&mut pair, B, index);
    }
    pair
}

/// 33 ms of sound and picture from one to the other.
fn speak(pair: &mut Pair, from: usize, index: usize) {
    let now = pair.instant();
    let mut random = Random::new(index as u64);
    let picture = frame(&mut random, VideoCodec::Vp9, index, 3000);
    pair.peers[from].link.send_video(now, &picture).expect("sent");
    let sound = Bytes::from_static(&[0xfc, 1, 2, 3]);
    pair.peers[from].link.send_audio(now, sound, index as i64 * 33_333).expect("sent");
    pair.settle();
    pair.run_for(ms(33));
}

/// Says this as that peer, over its SRTP.
fn say(pair: &mut Pair, from: usize, packets: Vec<Rtcp>) {
    let now = pair.instant();
    let link = &mut pair.peers[from].link;
    let message = RTCMessage::RtcpPacket("video".into(), packets);
    let _ = link.pc.handle_write(TaggedRTCMessage { now, message });
    link.drain(now);
    pair.settle();
}

fn send(pair: &mut Pair, from: usize, packet: rtp::Packet) {
    let now = pair.instant();
    let link = &mut pair.peers[from].link;
    let message = RTCMessage::RtpPacket("video".into(), packet);
    let _ = link.pc.handle_write(TaggedRTCMessage { now, message });
    link.drain(now);
    pair.settle();
}

/// The victim's link works, and what it sends arrives; its estimate is a number within its range.
fn expect_well(pair: &mut Pair, victim: usize, index: usize) {
    let other = 1 - victim;
    pair.run_for(Duration::from_secs(3));
    assert!(pair.both_open() && pair.both_connected(), "{:?}", pair.states());
    let before = pair.peers[other].messages.len();
    pair.send(victim, MessageKind::Text, b"on");
    assert!(pair.run_until(Duration::from_secs(10), |p| p.peers[other].messages.len() > before));
    pair.peers[other].rtp.clear();
    speak(pair, victim, index);
    pair.run_for(Duration::from_secs(1));
    let came = |kind: MediaKind| pair.peers[other].rtp.iter().any(|p| p.kind == kind);
    assert!(came(MediaKind::Video) && came(MediaKind::Audio), "media goes on");
    let target = pair.peers[victim].link.bandwidth().map_or(1e6, |b| b.target_bps);
    assert!((50_000.0..=10_000_000.0).contains(&target), "{target}");
}

fn ssrcs(pair: &Pair, of: usize) -> (u32, u32) {
    (pair.peers[of].link.ssrcs.audio, pair.peers[of].link.ssrcs.video)
}

#[test]
fn unknown_streams_and_payload_types_are_counted_and_go_nowhere() {
    let mut pair = call(1);
    let (_, video) = ssrcs(&pair, A);
    pair.peers[B].rtp.clear();
    let mut random = Random::new(1);
    let held = tap::lock(&pair.peers[B].link.shared).undeclared.capacity();
    for n in 0..6000u32 {
        let known = random.chance(0.3);
        let header = rtp::Header {
            version: 2,
            ssrc: if known { video } else { n * 7919 + 5 },
            payload_type: if known { [0, 13, 72, 95, 127][random.below(5)] } else { random.below(128) as u8 },
            sequence_number: random.next_u64() as u16,
            timestamp: random.next_u64() as u32,
            padding: random.chance(0.1),
            ..Default::default()
        };
        let size = random.below(300);
        send(&mut pair, A, rtp::Packet { header, payload: random.bytes(size).into() });
        if n % 100 == 0 {
            pair.run_for(ms(5));
        }
    }
    pair.run_for(ms(100));
    let stats = pair.peers[B].link.stats();
    assert!(stats.drops.rtp_unknown > 4000, "{:?}", stats.drops);
    assert!(pair.peers[B].rtp.is_empty(), "{} came through", pair.peers[B].rtp.len());
    let shared = tap::lock(&pair.peers[B].link.shared);
    assert!(shared.undeclared.len() <= 256 && shared.undeclared.capacity() <= held.max(512));
    drop(shared);
    expect_well(&mut pair, B, 31);
}

#[test]
fn reports_about_other_streams_change_nothing_and_absurd_ones_little() {
    let mut pair = call(2);
    let (audio, video) = ssrcs(&pair, A);
    let before = pair.peers[A].link.stats();
    let mut random = Random::new(2);
    for _ in 0..300 {
        let block = |ssrc, random: &mut Random| ReceptionReport {
            ssrc,
            fraction_lost: 255,
            total_lost: random.next_u64() as u32 & 0xff_ffff,
            last_sequence_number: random.next_u64() as u32,
            jitter: u32::MAX,
            last_sender_report: random.next_u64() as u32,
            delay: random.next_u64() as u32,
        };
        let foreign: Vec<_> = (0..31).map(|n| block(n * 4 + 100_000, &mut random)).collect();
        let report = SenderReport {
            ssrc: random.next_u64() as u32,
            ntp_time: random.next_u64(),
            rtp_time: random.next_u64() as u32,
            reports: foreign.clone(),
            ..Default::default()
        };
        say(
            &mut pair,
            B,
            vec![Box::new(report), Box::new(ReceiverReport { reports: foreign, ..Default::default() })],
        );
    }
    pair.run_for(ms(50));
    let after = pair.peers[A].link.stats();
    assert!(after.drops.rtcp_unknown >= 300 * 62, "{:?}", after.drops);
    assert_eq!((after.audio_out.lost, after.video_out.fraction_lost), (0, 0.0));
    assert!(after.video_out.reports_received <= before.video_out.reports_received + 2);
    // About our own: it is what the peer says, and no round trip is made of it.
    let wild = ReceptionReport {
        ssrc: audio,
        fraction_lost: 255,
        total_lost: 0x80_0000,
        last_sequence_number: 0,
        jitter: u32::MAX,
        last_sender_report: 7,
        delay: u32::MAX,
    };
    let reports = vec![wild.clone(), ReceptionReport { ssrc: video, ..wild }];
    // A true report may come right behind it.
    let told = (0..5).any(|_| {
        // As bytes: its own link would put the truth into it.
        let report: Rtcp = Box::new(ReceiverReport { reports: reports.clone(), ..Default::default() });
        let bytes = rtcp::packet::marshal(&[report]).expect("bytes").freeze();
        say(&mut pair, B, vec![Box::new(RawPacket(bytes))]);
        pair.run_for(ms(6));
        pair.peers[A].link.stats().audio_out.lost != 0
    });
    assert!(told);
    let stats = pair.peers[A].link.stats();
    assert_eq!(stats.audio_out.lost, -0x80_0000);
    assert!(stats.audio_out.fraction_lost < 1.0 && stats.audio_out.jitter_seconds.is_finite());
    assert!(stats.audio_out.round_trip.is_none_or(|rtt| rtt < ms(50)), "{:?}", stats.audio_out.round_trip);
    let _ = stats.audio_out.remote_received();
    expect_well(&mut pair, A, 31);
}

#[test]
fn absurd_nacks_are_answered_within_bounds() {
    let mut pair = call(3);
    let (audio, video) = ssrcs(&pair, A);
    let before = pair.peers[A].link.stats();
    // Ten seconds, in which a hundred times a second 250 ranges of 17 packets are asked for, and more of sound and of nobody's.
    for n in 0..1000u16 {
        let nacks = |from: u16| {
            (0..250).map(move |i| NackPair { packet_id: from.wrapping_add(i * 17), lost_packets: 0xffff })
        };
        for media_ssrc in [video, audio, 12_345] {
            let nack =
                TransportLayerNack { sender_ssrc: 1, media_ssrc, nacks: nacks(n.wrapping_mul(97)).collect() };
            say(&mut pair, B, vec![Box::new(nack)]);
        }
        pair.run_for(ms(10));
    }
    let after = pair.peers[A].link.stats();
    let again = after.video_out.retransmitted_packets - before.video_out.retransmitted_packets;
    assert!(again <= 2000 * 11, "{again} packets sent again");
    assert!(after.drops.nack_limited > 1_000_000, "{:?}", after.drops);
    assert!(after.drops.rtcp_unknown >= 900, "{:?}", after.drops);
    assert_eq!(after.audio_out.retransmitted_packets, 0);
    // What may be asked for is asked for without end.
    for _ in 0..2000 {
        let sequence =
            pair.peers[B].rtp.iter().rfind(|p| p.kind == MediaKind::Video).expect("a picture").sequence;
        let nacks = vec![NackPair { packet_id: sequence, lost_packets: 0 }; 20];
        say(&mut pair, B, vec![Box::new(TransportLayerNack { sender_ssrc: 1, media_ssrc: video, nacks })]);
        pair.run_for(ms(1));
    }
    let end = pair.peers[A].link.stats();
    let again = end.video_out.retransmitted_packets - after.video_out.retransmitted_packets;
    assert!(again > 0 && again <= 2000 * 3, "{again} packets sent again in 2 s");
    expect_well(&mut pair, A, 31);
}

#[test]
fn a_storm_of_keyframe_requests_is_one_request_at_a_time() {
    let mut pair = call(4);
    let (_, video) = ssrcs(&pair, A);
    pair.peers[A].asleep = true;
    for n in 0..3000u32 {
        let pli = PictureLossIndication { sender_ssrc: 1, media_ssrc: if n % 3 == 0 { n } else { video } };
        let fir = vec![FirEntry { ssrc: video, sequence_number: n as u8 }; 60];
        say(
            &mut pair,
            B,
            vec![Box::new(pli), Box::new(FullIntraRequest { sender_ssrc: 1, media_ssrc: 0, fir })],
        );
        if n % 10 == 0 {
            pair.run_for(ms(1));
        }
    }
    pair.run_for(ms(20));
    let stats = pair.peers[A].link.stats();
    assert!(stats.video_out.plis_received > 500 && stats.video_out.firs_received > 500, "{stats:?}");
    assert!(stats.drops.rtcp_limited > 0, "{:?}", stats.drops);
    let asked =
        pair.peers[A].link.events.iter().filter(|e| matches!(e, LinkEvent::KeyframeRequested)).count();
    assert_eq!(asked, 1, "until the owner has taken it");
    pair.peers[A].asleep = false;
    pair.settle();
    expect_well(&mut pair, A, 31);
}

/// A transport-wide feedback message as bytes.
fn feedback(base: u16, count: u16, reference: u32, chunks: &[u16], deltas: &[u8]) -> Vec<u8> {
    let mut out = vec![0x8f, 205, 0, 0];
    out.extend(1u32.to_be_bytes());
    out.extend(2u32.to_be_bytes());
    out.extend(base.to_be_bytes());
    out.extend(count.to_be_bytes());
    out.extend((reference << 8 | 1).to_be_bytes());
    chunks.iter().for_each(|chunk| out.extend(chunk.to_be_bytes()));
    out.extend(deltas);
    aligned(out)
}

/// Made a multiple of four bytes long, which its header says.
fn aligned(mut packet: Vec<u8>) -> Vec<u8> {
    packet.resize(packet.len().next_multiple_of(4).max(4), 0);
    let words = (packet.len() / 4 - 1) as u16;
    packet[2..4].copy_from_slice(&words.to_be_bytes());
    packet
}

#[test]
fn impossible_transport_feedback_is_bounded_work() {
    let mut pair = call(5);
    let mut random = Random::new(5);
    let begun = Instant::now();
    for n in 0..4000u32 {
        let any = random.next_u64() as u16;
        let packet = match n % 8 {
            // Packets that were never sent, all lost.
            0 => feedback(any, 0xfff8, 0, &[0x1fff; 8], &[0; 4]),
            // … all arrived, without a time.
            1 => feedback(any, 0xfff8, 0xff_ffff, &[0x7fff; 8], &[0; 4]),
            // Deltas that are missing.
            2 => feedback(any, 0xffff, 1, &[0x3fff; 8], &[1; 8]),
            3 => feedback(any, 20, 1, &[0x2014], &[0xff; 3]),
            // Times that run backwards, and far ahead.
            4 => feedback(any, 7, 0xff_ffff, &[0xd555 | 0x8000], &[0x80; 14]),
            5 => feedback(any, 7, 0, &[0xeaaa], &[0x7f; 14]),
            // A count with nothing behind it.
            6 => feedback(any, 0xffff, 3, &[], &[]),
            _ => {
                let size = random.below(40);
                let deltas = random.bytes(size);
                feedback(any, random.next_u64() as u16, random.next_u64() as u32 >> 8, &[any; 5], &deltas)
            }
        };
        // Forty of them fit one datagram.
        let packets = (0..40)
            .map(|_| Box::new(RawPacket(packet.clone().into())) as Rtcp)
            .take(if n % 8 < 2 { 30 } else { 1 });
        say(&mut pair, B, packets.collect());
        if n % 40 == 0 {
            speak(&mut pair, A, 31 + n as usize / 40);
        }
        if n % 4 == 0 {
            pair.run_for(ms(1));
        }
    }
    let stats = pair.peers[A].link.stats();
    assert!(stats.drops.feedback_limited > 500, "{:?}", stats.drops);
    assert!(stats.drops.rtcp_limited > 0, "{:?}", stats.drops);
    println!("{:?}, {:?}", begun.elapsed(), stats.drops);
    expect_well(&mut pair, A, 200);
}

#[test]
fn an_absurd_remb_changes_nothing() {
    let mut pair = call(6);
    let (audio, video) = ssrcs(&pair, A);
    let before = pair.peers[A].link.bandwidth().expect("known").target_bps;
    for bitrate in [0.0, 1.0, 1e18, f32::MAX] {
        let remb = ReceiverEstimatedMaximumBitrate { sender_ssrc: 1, bitrate, ssrcs: vec![video, audio] };
        if remb.marshal().is_ok() {
            say(&mut pair, B, vec![Box::new(remb)]);
        }
        // Exponent and mantissa as large as they get, and more SSRCs than there are.
        let mut raw = vec![0x8f, 206, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        raw.extend(b"REMB\xff\xff\xff\xff");
        raw.extend(video.to_be_bytes());
        say(&mut pair, B, vec![Box::new(RawPacket(aligned(raw).into()))]);
        pair.run_for(ms(5));
    }
    let after = pair.peers[A].link.bandwidth().expect("known").target_bps;
    assert!((after / before - 1.0).abs() < 0.2, "{before} became {after}");
    expect_well(&mut pair, A, 31);
}

/// One picture, as bytes of its codec; `None`: this build does not have that.
fn keyframe(codec: VideoCodec) -> Option<Vec<u8>> {
    let pool = FramePool::default();
    let config = VideoEncoderConfig { cpu_used: Some(8), ..VideoEncoderConfig::new(codec, 64, 64) };
    let mut encoder = VideoEncoder::new(config).ok()?;
    let picture = pool.get(64, 64).expect("a picture").freeze(0);
    Some(encoder.encode(&picture, true).expect("encoded").expect("a picture").data.to_vec())
}

/// In CI for some seconds; `FUZZ_SECONDS` says how many.
#[test]
fn random_and_mutated_rtp_and_rtcp_break_nothing() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    let end = Instant::now() + Duration::from_secs(seconds);
    let codecs: Vec<_> =
        VideoCodec::ALL.into_iter().filter_map(|codec| Some((codec, keyframe(codec)?))).collect();
    let mut seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    let (mut said, mut decoded) = (0u64, 0u64);
    while Instant::now() < end {
        println!("FUZZ_SEED={seed}");
        let mut pair = call(seed);
        let (mut random, mut mutator) = (Random::new(seed), Mutator::new(seed));
        let (audio, video) = ssrcs(&pair, A);
        let mut media = Media::new();
        for step in 0..400usize {
            match random.below(3) {
                0 => {
                    let sources = templates(audio, video);
                    let count = 1 + random.below(4);
                    let packet = |_| {
                        let source = &sources[random.below(sources.len())];
                        let bytes = if random.chance(0.2) { source.clone() } else { mutator.bytes(source) };
                        Box::new(RawPacket(aligned(bytes).into())) as Rtcp
                    };
                    let packets = (0..count).map(packet).collect();
                    say(&mut pair, B, packets);
                }
                1 => {
                    let (codec, key) = &codecs[random.below(codecs.len())];
                    let codec = *codec;
                    // A picture that is damaged before it is packed.
                    let data = Bytes::from(if random.chance(0.2) { key.clone() } else { mutator.bytes(key) });
                    let frame = EncodedFrame {
                        data,
                        keyframe: true,
                        timestamp_us: step as i64 * 33_333,
                        width: 64,
                        height: 64,
                        temporal_layer: 0,
                    };
                    let now = pair.instant();
                    pair.peers[A].link.negotiated.video = Some(codec);
                    let types = pair.peers[A].link.video_types.clone();
                    if let Some((number, _)) = types.iter().find(|(_, c)| *c == codec)
                        && let Some(agreed) = pair.peers[A].link.video_codec.as_mut()
                    {
                        agreed.payload_type = *number;
                    }
                    let _ = pair.peers[A].link.send_video(now, &frame);
                    pair.settle();
                }
                _ => {
                    let types: Vec<u8> =
                        pair.peers[A].link.video_types.iter().map(|t| t.0).chain([111, 97, 99]).collect();
                    let size = random.below(1200);
                    let mut header = rtp::Header {
                        version: 2,
                        ssrc: [audio, video, video | 3, 77][random.below(4)],
                        payload_type: types[random.below(types.len())],
                        sequence_number: random.next_u64() as u16,
                        timestamp: random.next_u64() as u32,
                        marker: random.chance(0.3),
                        padding: random.chance(0.1),
                        ..Default::default()
                    };
                    header.csrc = (0..random.below(16) as u32).collect();
                    send(&mut pair, A, rtp::Packet { header, payload: random.bytes(size).into() });
                }
            }
            said += 1;
            pair.run_for(ms(random.below(40) as u64));
            decoded += media.take(&mut pair);
        }
        expect_well(&mut pair, B, 401);
        seed += 1;
    }
    println!("{said} messages, {decoded} pictures and pieces of sound came of them");
    assert!(said >= 400 && decoded > 0, "{said} said, {decoded} decoded");
}

/// What is behind the link: assembler, jitter buffer and decoders, as the transport has them.
struct Media {
    video: Vec<(VideoCodec, VideoAssembler, VideoDecoder)>,
    audio: JitterBuffer,
    samples: Vec<f32>,
}

impl Media {
    fn new() -> Media {
        Media { video: vec![], audio: JitterBuffer::new(1).expect("a buffer"), samples: vec![] }
    }

    /// Decodes what has come. Returns how much.
    fn take(&mut self, pair: &mut Pair) -> u64 {
        let now = pair.instant();
        let mut count = 0;
        for packet in std::mem::take(&mut pair.peers[B].rtp) {
            let Some(codec) = packet.codec else {
                let (ssrc, sequence, timestamp) = (packet.ssrc, packet.sequence, packet.timestamp);
                self.audio.push(AudioPacket { ssrc, sequence, timestamp, payload: packet.payload }, now);
                continue;
            };
            if !self.video.iter().any(|(c, ..)| *c == codec) {
                let Ok(decoder) = VideoDecoder::new(codec, FramePool::default()) else { continue };
                self.video.push((codec, VideoAssembler::new(codec), decoder));
            }
            let known = self.video.iter_mut().find(|(c, ..)| *c == codec);
            if let Some((_, assembler, _)) = known {
                assembler.push(packet);
            }
        }
        for (_, assembler, decoder) in &mut self.video {
            while let Some(frame) = assembler.poll(now) {
                count += u64::from(matches!(decoder.decode(&frame.data, 0), Ok(Some(_))));
            }
            let _ = assembler.take_keyframe_request();
        }
        while self.audio.pull(now, &mut self.samples).is_some() {
            count += 1;
        }
        count
    }
}

/// One valid RTCP packet of each kind.
fn templates(audio: u32, video: u32) -> Vec<Vec<u8>> {
    let block =
        |ssrc| ReceptionReport { ssrc, fraction_lost: 3, total_lost: 5, jitter: 9, ..Default::default() };
    let packets: Vec<Rtcp> = vec![
        Box::new(SenderReport {
            ssrc: video,
            reports: vec![block(audio), block(video)],
            ..Default::default()
        }),
        Box::new(ReceiverReport { ssrc: 1, reports: vec![block(video); 3], ..Default::default() }),
        Box::new(PictureLossIndication { sender_ssrc: 1, media_ssrc: video }),
        Box::new(FullIntraRequest {
            sender_ssrc: 1,
            media_ssrc: 0,
            fir: vec![FirEntry { ssrc: video, sequence_number: 1 }],
        }),
        Box::new(TransportLayerNack {
            sender_ssrc: 1,
            media_ssrc: video,
            nacks: vec![NackPair { packet_id: 7, lost_packets: 0x8421 }; 5],
        }),
        Box::new(ReceiverEstimatedMaximumBitrate { sender_ssrc: 1, bitrate: 1e6, ssrcs: vec![video] }),
    ];
    let mut out: Vec<Vec<u8>> =
        packets.iter().filter_map(|p| Some(rtcp::packet::marshal(&[p.cloned()]).ok()?.to_vec())).collect();
    out.push(feedback(100, 20, 1, &[0x2014], &[4; 20]));
    out.push(feedback(100, 14, 1, &[0xbfff, 0xe555], &[4; 21]));
    // Source description, goodbye, application-defined, extended reports (receiver time, last receiver report, loss runs), and
    // congestion feedback after RFC 8888.
    out.push(vec![0x81, 202, 0, 3, 0, 0, 0, 1, 1, 3, b'a', b'b', b'c', 0, 0, 0]);
    out.push(vec![0x82, 203, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 2, b'o', b'k', 0]);
    out.push(vec![0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e']);
    let mut extended = vec![0x80, 207, 0, 0, 0, 0, 0, 1, 4, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8];
    extended.extend([5, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
    extended.extend([1, 0, 0, 3, 0, 0, 0, 1, 0, 1, 0, 9, 0x40, 9, 0x80, 1]);
    out.push(extended);
    out.push(vec![
        0x8b, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0, 5, 0, 3, 0x80, 1, 0x80, 2, 0x80, 3, 0, 0, 0, 0, 0, 9,
    ]);
    out
}

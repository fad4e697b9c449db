//! Audio and video over a link, and the assembler behind it.

mod common;

use bytes::Bytes;
use common::*;
use remotemedia_link::{AssembledFrame, LinkConfig, LinkError, LinkEvent, MediaKind, RtpIn, VideoAssembler};
use remotemedia_media::{AudioPacket, ChunkSource, EncodedFrame, JitterBuffer, VideoCodec};
use remotemedia_testkit::{Path, Random};
use std::time::Duration;

fn only(codec: VideoCodec) -> LinkConfig {
    LinkConfig { video_codecs: vec![codec], ..LinkConfig::default() }
}

/// Sends `count` frames at 30 a second and assembles them at the other side.
fn call(
    pair: &mut Pair,
    codec: VideoCodec,
    count: usize,
) -> (Vec<EncodedFrame>, Vec<AssembledFrame>, VideoAssembler) {
    let mut random = Random::new(11);
    let mut assembler = VideoAssembler::new(codec);
    let (mut sent, mut got) = (vec![], vec![]);
    for index in 0..count {
        let size = 200 + random.below(8000);
        let frame = frame(&mut random, codec, index, size);
        let now = pair.instant();
        let packets = pair.peers[A].link.send_video(now, &frame).expect("a sent frame");
        assert!(packets >= 1 && packets <= frame.data.len() / 1000 + 3, "{packets} packets");
        pair.settle();
        sent.push(frame);
        pair.run_for(Duration::from_micros(33_333));
        for packet in pair.peers[B].rtp.drain(..).filter(|p| p.kind == MediaKind::Video) {
            assembler.push(packet);
        }
        let now = pair.instant();
        while let Some(frame) = assembler.poll(now) {
            got.push(frame);
        }
    }
    pair.run_for(ms(300));
    for packet in pair.peers[B].rtp.drain(..) {
        assembler.push(packet);
    }
    while let Some(frame) = assembler.poll(pair.instant()) {
        got.push(frame);
    }
    (sent, got, assembler)
}

fn same(sent: &[EncodedFrame], got: &[AssembledFrame]) {
    assert_eq!(sent.len(), got.len());
    let base = got[0].timestamp_us;
    for (sent, got) in sent.iter().zip(got) {
        assert_eq!(sent.data, got.data);
        assert_eq!(sent.keyframe, got.keyframe);
        assert!(
            (got.timestamp_us - base - sent.timestamp_us).abs() <= 12,
            "{} {}",
            got.timestamp_us,
            sent.timestamp_us
        );
    }
}

#[test]
fn every_codec_arrives_byte_for_byte() {
    for codec in [VideoCodec::Vp8, VideoCodec::Vp9, VideoCodec::H264] {
        let mut pair = Pair::open(1, Path::clean(ms(5)), only(codec), LinkConfig::default());
        assert_eq!(pair.peers[A].link.negotiated().video, Some(codec));
        let (sent, got, mut assembler) = call(&mut pair, codec, 60);
        same(&sent, &got);
        assert!(!assembler.take_keyframe_request());
    }
}

#[test]
fn five_percent_loss_is_repaired_by_nack() {
    // A seed by which neither the first packet is lost, nor any three times in a row.
    let mut pair = Pair::open(8, Path::clean(ms(15)), only(VideoCodec::Vp8), LinkConfig::default());
    pair.net.set_path(Path::lossy(ms(15), 0.05));
    let (sent, got, assembler) = call(&mut pair, VideoCodec::Vp8, 300);
    same(&sent, &got);
    assert_eq!(assembler.stats().gaps, 0);
    let (a, b) = (pair.peers[A].link.stats(), pair.peers[B].link.stats());
    assert!(b.video_in.nacks_sent > 20, "{b:?}");
    assert!(b.video_in.retransmitted > 40, "by RTX: {b:?}");
    assert_eq!(a.video_out.nacks_received > 0, a.video_out.nacked_packets > 0);
    // Not asked for much more often than lost: 5 % lost, and as many of the retransmissions and NACKs again.
    let lost_share = a.video_out.nacked_packets as f64 / a.video_out.packets as f64;
    assert!(lost_share < 0.10, "{lost_share}");
    assert!(b.video_in.missing.abs() <= 3, "{}", b.video_in.missing);
    // In the stream itself they stay lost (RFC 4588), and so the sender is told.
    let lost = b.video_in.lost as f64 / a.video_out.packets as f64;
    assert!((0.03..0.07).contains(&lost) && a.video_out.lost > 0, "{lost}, {} told", a.video_out.lost);
}

#[test]
fn audio_and_video_flow_both_ways_with_reports() {
    let mut pair = Pair::open(3, Path::clean(ms(10)), LinkConfig::default(), LinkConfig::default());
    let mut random = Random::new(5);
    for n in 0..300usize {
        let now = pair.instant();
        for side in [A, B] {
            // TOC 0xfc: CELT, 20 ms, stereo, one frame.
            let packet = Bytes::from([&[0xfc][..], &(n as u32).to_be_bytes()].concat());
            let pause = if n >= 100 { 1_000_000 } else { 0 };
            pair.peers[side].link.send_audio(now, packet, n as i64 * 20_000 + pause).expect("audio");
            if n % 2 == 0 {
                let frame = frame(&mut random, VideoCodec::Vp9, n / 2, 3000);
                pair.peers[side].link.send_video(now, &frame).expect("video");
            }
        }
        pair.settle();
        pair.run_for(ms(20));
    }
    pair.run_for(ms(100));
    for side in [A, B] {
        let audio: Vec<_> =
            pair.peers[side].rtp.iter().filter(|p| p.kind == MediaKind::Audio).cloned().collect();
        assert_eq!(audio.len(), 300);
        assert_eq!(audio[1].timestamp.wrapping_sub(audio[0].timestamp), 960);
        let marked: Vec<usize> = (0..300).filter(|i| audio[*i].marker).collect();
        assert_eq!(marked, [0, 100], "the marker begins a talkspurt");
        assert_eq!(audio[100].timestamp.wrapping_sub(audio[99].timestamp), 960 + 48_000);
        assert!(
            pair.peers[side]
                .rtp
                .iter()
                .any(|p| p.kind == MediaKind::Video && p.codec == Some(VideoCodec::Vp9))
        );
        let reports = |kind: MediaKind| {
            pair.peers[side]
                .events
                .iter()
                .filter(|e| matches!(e, LinkEvent::SenderReport { kind: k, .. } if *k == kind))
                .count()
        };
        assert!(reports(MediaKind::Audio) >= 2 && reports(MediaKind::Video) >= 2);
    }
    let stats = pair.peers[A].link.stats();
    assert_eq!((stats.audio_in.packets, stats.audio_in.lost, stats.audio_out.packets), (300, 0, 300));
    assert!(stats.audio_in.jitter_seconds < 0.005, "{}", stats.audio_in.jitter_seconds);
    assert_eq!(stats.video_out.fraction_lost, 0.0);
    assert_eq!(stats.drops, Default::default());
}

/// However long it took to encode: sender reports tell when media was captured, for both streams by one clock.
#[test]
fn sender_reports_go_by_the_time_of_capture() {
    let mut pair = Pair::open(10, Path::clean(ms(10)), LinkConfig::default(), LinkConfig::default());
    let epoch = pair.instant();
    pair.peers[A].link.set_media_epoch(epoch);
    let mut random = Random::new(5);
    // Of each stream: an RTP timestamp and its media time in microseconds.
    let mut known = [None; 2];
    let mut reports = 0;
    for n in 0..4000i64 {
        let now = pair.instant();
        let media_us = now.duration_since(epoch).as_micros() as i64;
        if n % 20 == 0 {
            let packet = Bytes::from_static(&[0xfc, 1]);
            pair.peers[A].link.send_audio(now, packet, media_us - 20_000).expect("audio");
        }
        if n % 40 == 0 {
            // Encoding takes longer and longer.
            let mut frame = frame(&mut random, VideoCodec::Vp9, n as usize / 40, 3000);
            frame.timestamp_us = media_us - 30_000 - n * 20;
            pair.peers[A].link.send_video(now, &frame).expect("video");
            known[1] = known[1].or(Some((None, frame.timestamp_us)));
        }
        known[0] = known[0].or(Some((None, media_us - 20_000)));
        pair.settle();
        pair.run_for(ms(1));
        for packet in pair.peers[B].rtp.drain(..) {
            let (rtp, _) = known[usize::from(packet.kind == MediaKind::Video)].as_mut().expect("it was sent");
            rtp.get_or_insert(packet.timestamp);
        }
        let now = pair.instant();
        for event in pair.peers[B].events.drain(..) {
            let LinkEvent::SenderReport { kind, rtp_ts, .. } = event else { continue };
            let (stream, rate) = if kind == MediaKind::Video { (1, 90.0) } else { (0, 48.0) };
            let Some((Some(first), first_us)) = known[stream] else { continue };
            let told = first_us as f64 / 1000.0 + f64::from(rtp_ts.wrapping_sub(first)) / rate;
            let sent = now.duration_since(epoch).as_secs_f64() * 1000.0 - 10.0;
            assert!((told - sent).abs() <= 2.0, "{kind:?}: {told} ms for {sent}");
            reports += 1;
        }
    }
    assert!(reports >= 6, "{reports}");
}

#[test]
fn a_pli_asks_for_a_keyframe() {
    let mut pair = Pair::open(4, Path::clean(ms(5)), LinkConfig::default(), LinkConfig::default());
    let mut random = Random::new(1);
    let now = pair.instant();
    let key = frame(&mut random, VideoCodec::Vp9, 0, 5000);
    pair.peers[A].link.send_video(now, &key).expect("sent");
    pair.settle();
    pair.run_for(ms(50));
    let now = pair.instant();
    pair.peers[B].link.request_keyframe(now);
    pair.settle();
    pair.run_for(ms(50));
    let asked = pair.peers[A].events.iter().filter(|e| matches!(e, LinkEvent::KeyframeRequested)).count();
    assert_eq!(asked, 1);
    assert_eq!(pair.peers[A].link.stats().video_out.plis_received, 1);
    assert_eq!(pair.peers[B].link.stats().video_in.plis_sent, 1);
}

#[test]
fn a_peer_that_names_fir_alone_is_asked_by_fir() {
    let mut pair = Pair::new(10, Path::clean(ms(5)), LinkConfig::default(), LinkConfig::default());
    let now = pair.instant();
    let offer = pair.peers[A].link.create_offer(now, false).expect("an offer");
    let lines = offer.lines().filter(|l| !(l.starts_with("a=rtcp-fb") && l.ends_with("nack pli")));
    let offer = lines.collect::<Vec<_>>().join("\r\n") + "\r\n";
    let answer = pair.peers[B].link.accept_offer(now, &offer).expect("an answer");
    pair.peers[A].link.accept_answer(now, &answer).expect("taken");
    pair.settle();
    assert!(pair.run_until(Duration::from_secs(5), |p| p.both_open()));
    let mut random = Random::new(1);
    for asked in 1..=3 {
        let now = pair.instant();
        let key = frame(&mut random, VideoCodec::Vp9, 0, 5000);
        pair.peers[A].link.send_video(now, &key).expect("sent");
        pair.settle();
        pair.run_for(ms(50));
        let now = pair.instant();
        pair.peers[B].link.request_keyframe(now);
        pair.settle();
        pair.run_for(ms(50));
        let heard = pair.peers[A].events.iter().filter(|e| matches!(e, LinkEvent::KeyframeRequested)).count();
        assert_eq!(heard, asked);
    }
    let (a, b) = (pair.peers[A].link.stats().video_out, pair.peers[B].link.stats().video_in);
    assert_eq!((b.firs_sent, b.plis_sent, a.firs_received, a.plis_received), (3, 0, 3, 0));
}

#[test]
fn a_long_outage_ends_with_a_keyframe() {
    let codec = VideoCodec::Vp8;
    let mut pair = Pair::open(5, Path::clean(ms(10)), only(codec), only(codec));
    let mut random = Random::new(2);
    let mut assembler = VideoAssembler::new(codec);
    let mut got: Vec<(usize, bool)> = vec![];
    let (mut want_key, mut sent_key_at) = (false, None);
    for index in 0..300usize {
        pair.net.set_path(if (30..230).contains(&index) {
            Path::lossy(ms(10), 1.0)
        } else {
            Path::clean(ms(10))
        });
        let mut frame = frame(&mut random, codec, if want_key { 0 } else { index }, 3000);
        frame.timestamp_us = index as i64 * 33_333;
        if want_key && index > 230 {
            sent_key_at.get_or_insert(index);
        }
        want_key = false;
        let now = pair.instant();
        // Once the silence is noticed, nothing is sent into it.
        let sent = pair.peers[A].link.send_video(now, &frame);
        let silent = (140..250).contains(&index) && sent == Err(LinkError::NotConnected);
        assert!(sent.is_ok() || silent, "{index}: {sent:?}");
        pair.settle();
        pair.run_for(Duration::from_micros(33_333));
        for packet in std::mem::take(&mut pair.peers[B].rtp) {
            assembler.push(packet);
        }
        let now = pair.instant();
        while let Some(frame) = assembler.poll(now) {
            got.push((index, frame.keyframe));
        }
        if assembler.take_keyframe_request() {
            let now = pair.instant();
            pair.peers[B].link.request_keyframe(now);
            pair.settle();
        }
        want_key |= pair.peers[A].events.drain(..).any(|e| matches!(e, LinkEvent::KeyframeRequested));
    }
    // After an outage the path is not trusted with much: the last pictures still wait in the pacer.
    pair.run_for(ms(600));
    std::mem::take(&mut pair.peers[B].rtp).into_iter().for_each(|packet| assembler.push(packet));
    let now = pair.instant();
    got.extend(std::iter::from_fn(|| assembler.poll(now)).map(|frame| (300, frame.keyframe)));
    let key = sent_key_at.expect("a keyframe was asked for and sent");
    assert!(key < 250, "{key}");
    let after: Vec<_> = got.iter().filter(|(i, _)| *i >= key).collect();
    assert!(after.first().is_some_and(|(_, k)| *k), "it goes on with the keyframe");
    assert!(after.len() >= 290 - key, "{} frames after {key}", after.len());
    assert!(assembler.stats().gaps >= 1);
}

#[test]
fn sending_before_it_is_connected_or_agreed_is_refused() {
    let mut pair = Pair::new(6, Path::default(), LinkConfig::default(), data_only());
    let now = pair.instant();
    let packet = || Bytes::from_static(&[0xfc, 1]);
    assert_eq!(pair.peers[A].link.send_audio(now, packet(), 0), Err(LinkError::NotConnected));
    pair.negotiate(A, false);
    assert!(pair.run_until(Duration::from_secs(5), |p| p.both_connected()));
    let now = pair.instant();
    assert_eq!(pair.peers[A].link.send_audio(now, packet(), 0), Err(LinkError::NotNegotiated("audio")));
    let key = frame(&mut Random::new(1), VideoCodec::Vp8, 0, 100);
    assert_eq!(pair.peers[A].link.send_video(now, &key), Err(LinkError::NotNegotiated("video")));
    pair.peers[A].link.close(now);
    assert_eq!(pair.peers[A].link.send_audio(now, packet(), 0), Err(LinkError::Closed));
}

#[test]
fn an_endless_nack_is_not_an_amplifier() {
    // The peer's requests are limited to 2000 packets a second; a peer that loses everything asks for at most ten times
    // what was sent.
    let mut pair = Pair::open(7, Path::clean(ms(5)), only(VideoCodec::Vp8), only(VideoCodec::Vp8));
    let mut random = Random::new(2);
    let a = pair.peers[A].addr;
    pair.net.set_path_from(a, Path::lossy(ms(5), 0.5));
    let before = pair.net.counts().bytes;
    let mut payload = 0;
    for index in 0..90 {
        let frame = frame(&mut random, VideoCodec::Vp8, index, 6000);
        payload += frame.data.len() as u64;
        let now = pair.instant();
        pair.peers[A].link.send_video(now, &frame).expect("sent");
        pair.settle();
        pair.run_for(Duration::from_micros(33_333));
    }
    pair.run_for(Duration::from_secs(3));
    let sent = pair.net.counts().bytes - before;
    assert!(sent < payload * 4, "{sent} bytes for {payload}");
}

#[test]
fn audio_over_a_lossy_path_comes_out_once_in_order_and_evenly() {
    let mut pair = Pair::open(8, Path::clean(ms(5)), LinkConfig::default(), LinkConfig::default());
    let mut buffer = JitterBuffer::new(1).expect("a buffer");
    let mut out = vec![];
    pair.net.set_path(Path { jitter: ms(30), ..Path::lossy(ms(5), 0.05) });
    let mut samples = vec![];
    for n in 0..500u32 {
        let now = pair.instant();
        // CELT, 20 ms; any bytes are a sound.
        let packet = Bytes::from([&[0xfc][..], &n.to_be_bytes()].concat());
        pair.peers[A].link.send_audio(now, packet, i64::from(n) * 20_000).expect("sent");
        pair.settle();
        for _ in 0..20 {
            pair.run_for(ms(1));
            let now = pair.instant();
            for packet in pair.peers[B].rtp.drain(..) {
                let RtpIn { ssrc, sequence, timestamp, payload, received, .. } = packet;
                buffer.push(AudioPacket { ssrc, sequence, timestamp, payload }, received);
            }
            while let Some(chunk) = buffer.pull(now, &mut samples) {
                out.push((now, chunk));
            }
        }
    }
    let stats = buffer.stats();
    for pair in out.windows(2) {
        let (before, chunk) = (pair[0].1, pair[1].1);
        assert_eq!(
            chunk.timestamp.wrapping_sub(before.timestamp),
            before.frames as u32,
            "no gap, nothing twice"
        );
    }
    let made_up = out.iter().filter(|(_, chunk)| chunk.source != ChunkSource::Decoded).count() as u64;
    assert_eq!(made_up, stats.lost);
    assert!((10..50).contains(&stats.lost) && stats.late <= 10, "{stats:?}");
    assert!(stats.target >= ms(15) && stats.target <= ms(31), "{stats:?}");
    let pauses = out[50..].windows(2).map(|w| w[1].0 - w[0].0);
    let longest = pauses.max().expect("some");
    assert!(longest <= ms(50), "20 ms each, and one that is lost 10 ms later: {longest:?}");
}

/// A peer that names no SSRC in its SDP, as some gateways do.
#[test]
fn media_without_ssrc_lines_arrives() {
    let config = only(VideoCodec::Vp8);
    let mut pair = Pair::new(9, Path::lossy(ms(5), 0.02), config.clone(), config);
    let now = pair.instant();
    let offer = pair.peers[A].link.create_offer(now, false).expect("an offer");
    let lines = offer.lines().filter(|l| !l.starts_with("a=ssrc") && !l.starts_with("a=msid:"));
    let offer = lines.collect::<Vec<_>>().join("\r\n") + "\r\n";
    let answer = pair.peers[B].link.accept_offer(now, &offer).expect("an answer");
    pair.peers[A].link.accept_answer(now, &answer).expect("taken");
    pair.settle();
    assert!(pair.run_until(Duration::from_secs(5), |p| p.both_open()));
    for n in 0..10i64 {
        let now = pair.instant();
        let packet = Bytes::from_static(&[0xfc, 1]);
        pair.peers[A].link.send_audio(now, packet, n * 20_000).expect("sent");
        pair.settle();
    }
    let (sent, got, _) = call(&mut pair, VideoCodec::Vp8, 60);
    assert!(pair.peers[B].link.stats().audio_in.packets >= 8);
    assert!(got.len() + 8 >= sent.len(), "{} of {}", got.len(), sent.len());
    assert!(got.iter().all(|g| sent.iter().any(|s| s.data == g.data)));
}

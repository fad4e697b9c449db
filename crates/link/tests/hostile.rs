//! Hostile input: nothing panics, nothing is changed by what is refused, nothing grows.

mod common;

use bytes::Bytes;
use common::*;
use remotemedia_link::{
    Link, LinkConfig, LinkEvent, MAX_SDP_BYTES, MediaKind, MessageKind, RtpIn, VideoAssembler,
};
use remotemedia_media::{AudioPacket, JitterBuffer, VideoCodec};
use remotemedia_testkit::{Mutator, Path, Random};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const CHROME: &str = include_str!("data/chrome-offer.sdp");
const FIREFOX: &str = include_str!("data/firefox-offer.sdp");

fn link(config: LinkConfig) -> Link {
    let mut link = Link::new(Instant::now(), config, certificate()).expect("a link");
    link.add_local_candidate("192.0.2.7:4000".parse::<SocketAddr>().expect("an address"))
        .expect("a candidate");
    link
}

#[test]
fn browsers_are_answered() {
    for (name, offer) in [("Chrome", CHROME), ("Firefox", FIREFOX)] {
        let mut link = link(LinkConfig::default());
        let answer = link.accept_offer(Instant::now(), offer).expect(name);
        let media: Vec<&str> = answer.lines().filter(|l| l.starts_with("m=")).collect();
        assert_eq!(media.len(), 3, "{name}: {answer}");
        assert!(media.iter().all(|m| m.contains(" 9 ")), "{name}: {answer}");
        let n = link.negotiated();
        assert!(n.audio && n.data && n.video == Some(VideoCodec::Vp9), "{name}: {n:?}");
        assert_eq!(n.video_receive[..3], [VideoCodec::Vp9, VideoCodec::Vp8, VideoCodec::H264], "{name}");
        let asked =
            std::iter::from_fn(|| link.poll_event()).any(|e| matches!(e, LinkEvent::ResolveName { .. }));
        assert!(asked, "{name}");
    }
}

#[test]
fn damaged_offers_never_panic_and_leave_the_link_usable() {
    let now = Instant::now();
    let ours = link(LinkConfig::default()).create_offer(now, false).expect("an offer");
    let (mut taken, mut refused) = (0, 0);
    for (source, text) in [CHROME, FIREFOX, &ours].into_iter().enumerate() {
        let mut mutator = Mutator::new(source as u64);
        let mut target = link(LinkConfig::default());
        for round in 0..1500 {
            let bad = if round % 4 == 0 {
                String::from_utf8_lossy(&mutator.bytes(text.as_bytes())).into_owned()
            } else {
                mutator.lines(text)
            };
            match target.accept_offer(now, &bad) {
                Ok(_) => {
                    taken += 1;
                    target = link(LinkConfig::default());
                }
                Err(_) => refused += 1,
            }
        }
        target.accept_offer(now, text).expect("the good one is still taken after all the bad ones");
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}

#[test]
fn damaged_answers_never_panic_and_leave_the_offer_open() {
    let now = Instant::now();
    let mut mutator = Mutator::new(9);
    let mut offerer = link(LinkConfig::default());
    let offer = offerer.create_offer(now, false).expect("an offer");
    let answer = link(LinkConfig::default()).accept_offer(now, &offer).expect("an answer");
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..1500 {
        let bad = mutator.lines(&answer);
        if offerer.accept_answer(now, &bad).is_ok() {
            taken += 1;
            // A fresh offer has other mids and SSRCs only; the answer fits it too.
            offerer = link(LinkConfig::default());
            let _ = offerer.create_offer(now, false).expect("an offer");
        } else {
            refused += 1;
        }
    }
    offerer.accept_answer(now, &answer).expect("the good one is still taken");
    assert!(taken > 50 && refused > 50, "{taken} taken, {refused} refused");
}

#[test]
fn limits_are_checked_before_anything_is_read() {
    let now = Instant::now();
    let mut target = link(LinkConfig::default());
    let long = format!("{CHROME}a=x:{}\r\n", "y".repeat(MAX_SDP_BYTES));
    assert!(target.accept_offer(now, &long).is_err());
    let many = format!("{CHROME}{}", "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n".repeat(30));
    assert!(target.accept_offer(now, &many).is_err());
    target.accept_offer(now, CHROME).expect("taken");
}

#[test]
fn damaged_candidates_never_panic() {
    let mut target = link(LinkConfig::default());
    target.accept_offer(Instant::now(), CHROME).expect("taken");
    let mut mutator = Mutator::new(3);
    let line =
        "candidate:2 1 udp 1677729535 203.0.113.7 61000 typ srflx raddr 10.0.0.1 rport 5000 ufrag abcd";
    for _ in 0..5000 {
        let _ = target.add_remote_candidate(&mutator.lines(line), Some("0"), Some(0));
    }
}

#[test]
fn damaged_datagrams_never_panic_and_the_link_goes_on() {
    for seed in 0..4u64 {
        let mut pair = Pair::new(seed, Path::clean(ms(1)), LinkConfig::default(), LinkConfig::default());
        let mut mutator = Mutator::new(seed);
        let mut random = Random::new(seed);
        let mut recorded: Vec<(usize, Vec<u8>)> = vec![];
        pair.negotiate(A, false);
        let mut sent = 0;
        for step in 0..6000 {
            if pair.both_open() && step % 40 == 0 && sent < 60 {
                pair.send(A, MessageKind::Binary, &random.bytes(500));
                let now = pair.instant();
                let key = frame(&mut random, VideoCodec::Vp8, 0, 2500);
                let _ = pair.peers[A].link.send_video(now, &key);
                pair.settle();
                sent += 1;
            }
            if let Some(delivery) = pair.net.receive(pair.now) {
                let to = pair.peers.iter().position(|p| p.addr == delivery.to).expect("a peer");
                let now = pair.instant();
                if recorded.len() < 400 {
                    recorded.push((to, delivery.data.clone()));
                }
                // Before each true datagram, a damaged one and an old one.
                let bad = mutator.bytes(&delivery.data);
                pair.peers[to].link.handle_datagram(now, delivery.to, delivery.from, &bad);
                let (_, old) = &recorded[random.below(recorded.len())];
                pair.peers[to].link.handle_datagram(now, delivery.to, delivery.from, old);
                pair.peers[to].link.handle_datagram(now, delivery.to, delivery.from, &delivery.data);
                pair.settle();
            } else {
                let end = pair.now + ms(20);
                pair.step(end);
            }
        }
        assert!(pair.both_open(), "seed {seed}: {:?}", pair.states());
        pair.run_for(Duration::from_secs(2));
        assert!(
            sent > 10 && pair.peers[B].messages.len() == sent,
            "{} of {sent}",
            pair.peers[B].messages.len()
        );
        let (a, b) = (pair.peers[A].addr, pair.peers[B].addr);
        for _ in 0..20_000 {
            let size = random.below(1500);
            let mut noise = random.bytes(size);
            if let Some(first) = noise.first_mut() {
                *first = [0, 1, 20, 22, 23, 64, 128, 144, 200][random.below(9)];
            }
            let now = pair.instant();
            pair.peers[B].link.handle_datagram(now, b, a, &noise);
        }
        pair.settle();
        pair.send(A, MessageKind::Binary, b"on");
        assert!(pair.run_until(Duration::from_secs(5), |p| p.peers[B].messages.len() == sent + 1));
    }
}

#[test]
fn damaged_rtp_never_panics_and_stays_within_bounds() {
    for codec in VideoCodec::ALL {
        let mut random = Random::new(1);
        let mut mutator = Mutator::new(1);
        let mut assembler = VideoAssembler::new(codec);
        let mut audio = JitterBuffer::new(1).expect("a buffer");
        let mut samples = Vec::new();
        let start = Instant::now();
        let mut frames = 0u64;
        let mut sequence = 65_000u16;
        for n in 0..40_000u64 {
            let now = start + Duration::from_millis(n);
            sequence = sequence.wrapping_add(1);
            let base: &[u8] = match (codec, n % 3) {
                (VideoCodec::Vp8, 0) => &[0x90, 0x80, 0x81, 0x23, 0x10, 1, 2, 3],
                (VideoCodec::Vp8, _) => &[0x80, 0x80, 0x81, 0x23, 9, 9, 9],
                (VideoCodec::Vp9, 0) => &[0x9e, 0x81, 0x23, 0x18, 2, 0x80, 1, 0x68, 2, 4, 1, 8, 2, 0x82, 1],
                (VideoCodec::Vp9, _) => &[0xd4, 0x81, 0x23, 3, 5, 2, 7, 7],
                (VideoCodec::H264, 0) => &[0x78, 0, 4, 0x67, 1, 2, 3, 0, 2, 0x68, 1, 0, 2, 0x65, 0x88],
                (VideoCodec::H264, _) => &[0x7c, 0x85, 0x88, 1, 2, 3, 4],
                (VideoCodec::Av1, 0) => &[0x58, 3, 8, 1, 2, 0x30, 0x10, 3, 4],
                (VideoCodec::Av1, _) => &[0x90, 5, 6, 7, 8],
            };
            let payload = if random.chance(0.5) { base.to_vec() } else { mutator.bytes(base) };
            let jump = if random.chance(0.02) { random.next_u64() as u16 } else { sequence };
            let packet = RtpIn {
                kind: MediaKind::Video,
                codec: Some(codec),
                ssrc: if random.chance(0.001) { 2 } else { 1 },
                sequence: jump,
                timestamp: if random.chance(0.02) { random.next_u64() as u32 } else { n as u32 / 3 * 3000 },
                marker: n % 3 == 2,
                payload: Bytes::from(payload),
                received: now,
            };
            let RtpIn { ssrc, sequence, timestamp, payload, .. } = packet.clone();
            audio.push(AudioPacket { ssrc, sequence, timestamp, payload }, now);
            while audio.pull(now, &mut samples).is_some() {}
            assembler.push(packet);
            while assembler.poll(now).is_some() {
                frames += 1;
            }
            let _ = assembler.take_keyframe_request();
        }
        assert!(frames > 0, "{codec:?}: {:?}", assembler.stats());
        let end = start + Duration::from_secs(60);
        while assembler.poll(end).is_some() {
            frames += 1;
        }
        assert_eq!(assembler.stats().frames, frames);
    }
}

#[test]
fn an_endless_frame_stays_within_bounds() {
    let mut assembler = VideoAssembler::new(VideoCodec::Vp8);
    let payload = {
        let mut bytes = vec![0u8; 60_000];
        bytes[0] = 0x10;
        Bytes::from(bytes)
    };
    let now = Instant::now();
    for n in 0..5000u32 {
        assembler.push(RtpIn {
            kind: MediaKind::Video,
            codec: Some(VideoCodec::Vp8),
            ssrc: 1,
            sequence: n as u16,
            timestamp: 7,
            marker: false,
            payload: payload.clone(),
            received: now,
        });
        assert!(assembler.poll(now).is_none());
    }
    assert!(assembler.stats().skipped > 4000, "{:?}", assembler.stats());
}

//! Two transports over real sockets on this machine: what is sent is what arrives.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Room, pattern, psnr};
use remotemedia_media::{AudioFrame, FramePool, VideoCodec};
use remotemedia_transport::{Config, Event, Message, TransportError};

fn messages(events: &[Event]) -> Vec<&Message> {
    events
        .iter()
        .filter_map(|e| if let Event::Message { message, .. } = e { Some(message) } else { None })
        .collect()
}

#[test]
fn messages_arrive_whole_in_order_and_once() {
    let mut room = Room::new();
    let a = room.join("a", Config::default());
    let b = room.join("b", Config::default());
    room.connect_all();
    let sent: Vec<Message> = (0..200u32)
        .map(|i| match i % 4 {
            0 => Message::Text(format!("message {i}").into()),
            1 => Message::Json(format!("{{\"n\":{i}}}").into()),
            2 => Message::Binary(i.to_le_bytes().to_vec().into()),
            _ => Message::Binary(vec![i as u8; 262_144].into()),
        })
        .collect();
    room.run_until("a's greeting", |m| !messages(&m[b].events).is_empty());
    room.members[b].events.clear();
    for message in &sent {
        while let Err(error) = room.members[a].transport.send_message("b", 0, message.clone()) {
            assert!(matches!(error, TransportError::SendQueueFull { .. }), "{error}");
            room.run_for(Duration::from_millis(5));
        }
    }
    room.run_until("all messages", |m| {
        messages(&m[b].events).iter().filter(|m| ***m != Message::Text("hi".into())).count() >= sent.len()
    });
    let got: Vec<_> = messages(&room.members[b].events)
        .into_iter()
        .filter(|m| **m != Message::Text("hi".into()))
        .cloned()
        .collect();
    assert!(got == sent, "the {} messages are not the {} sent", got.len(), sent.len());

    let over = Message::Binary(vec![0; 262_145].into());
    let error = room.members[a].transport.send_message("b", 0, over).unwrap_err();
    assert!(
        matches!(error, TransportError::MessageTooLarge { size: 262_145, limit: 262_144, .. }),
        "{error}"
    );
}

/// A tone: its frequency and level are measured at the other end.
#[test]
fn a_tone_is_heard_with_its_frequency_and_level() {
    let mut room = Room::new();
    let a = room.join("a", Config::default());
    let b = room.join("b", Config::default());
    room.connect_all();
    room.members[b].transport.subscribe(true, false);
    let start = Instant::now();
    let mut sent = 0u32;
    let mut heard: Vec<f32> = Vec::new();
    room.run_until("two seconds of tone", |members| {
        // 20 ms of 440 Hz at half scale, in real time; a machine that falls behind catches up a few at a time.
        let behind = sent + 5;
        while sent < behind && start.elapsed() >= Duration::from_millis(20) * sent {
            let samples = (0..960)
                .map(|i| 0.5 * (std::f32::consts::TAU * 440.0 * (sent * 960 + i) as f32 / 48_000.0).sin())
                .collect();
            let timestamp_us = i64::from(sent) * 20_000;
            let frame =
                AudioFrame { samples: Arc::new(samples), sample_rate: 48_000, channels: 1, timestamp_us };
            members[a].transport.send_audio("b", frame).unwrap();
            sent += 1;
        }
        for event in members[b].events.drain(..) {
            if let Event::Audio { frame, .. } = event {
                heard.extend(frame.samples.iter());
            }
        }
        heard.len() >= 96_000
    });
    let steady = &heard[48_000..96_000];
    let rms = (steady.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / steady.len() as f64).sqrt();
    let level_db = 20.0 * (rms / (0.5 / 2f64.sqrt())).log10();
    assert!(level_db.abs() < 1.0, "level is off by {level_db:.2} dB");
    let crossings = steady.windows(2).filter(|w| w[0] <= 0.0 && w[1] > 0.0).count();
    assert!((439..=441).contains(&crossings), "{crossings} Hz");
}

#[test]
fn a_moving_pattern_is_seen_with_each_codec() {
    for codec in [VideoCodec::Vp9, VideoCodec::Vp8, VideoCodec::H264] {
        let mut room = Room::new();
        let config = Config { video_codecs: vec![codec], ..Config::default() };
        let a = room.join("a", config.clone());
        let b = room.join("b", config);
        room.connect_all();
        room.members[b].transport.subscribe(false, true);
        let pool = FramePool::default();
        let (mut n, mut seen) = (0u32, Vec::new());
        let start = Instant::now();
        room.run_until("30 pictures", |members| {
            let behind = n + 2;
            while n < behind && start.elapsed() >= Duration::from_millis(33) * n {
                let frame = pattern(&pool, 640, 360, n, i64::from(n) * 33_333);
                members[a].transport.send_video("b", frame).unwrap();
                n += 1;
            }
            for event in members[b].events.drain(..) {
                if let Event::Video { frame, .. } = event {
                    seen.push(frame);
                }
            }
            seen.len() >= 30
        });
        // The first picture's timestamp says where the receiver's clock begins; steps say which picture it is.
        let best: Vec<f64> = seen
            .iter()
            .skip(10)
            .map(|frame| {
                assert_eq!((frame.width(), frame.height()), (640, 360));
                (0..n)
                    .map(|k| psnr(frame.planes()[0].data, pattern(&pool, 640, 360, k, 0).planes()[0].data))
                    .fold(0.0, f64::max)
            })
            .collect();
        let worst = best.iter().copied().fold(f64::INFINITY, f64::min);
        println!("{}: worst PSNR {worst:.1} dB", codec.name());
        assert!(worst > 32.0, "{}: worst PSNR {worst:.1} dB", codec.name());
    }
}

//! How good a connection is said to be while its path gets worse, better, and silent.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Room;
use common::path::{Class, ShapedPath};
use remotemedia_media::AudioFrame;
use remotemedia_testkit::Shape;
use remotemedia_transport::{Config, Event, Quality, QualityCause};

/// Sends sound from the first to the second until one of the two is told this of the other.
fn until(
    room: &mut Room,
    sent: &mut i64,
    start: Instant,
    what: &str,
    is: fn(Quality, Option<QualityCause>) -> bool,
) {
    let samples = Arc::new(vec![0.1; 960]);
    room.run_until(what, |members| {
        while start.elapsed() >= Duration::from_millis(20) * *sent as u32 {
            let frame = AudioFrame {
                samples: samples.clone(),
                sample_rate: 48_000,
                channels: 1,
                timestamp_us: *sent * 20_000,
            };
            let _ = members[0].transport.send_audio("b", frame);
            *sent += 1;
        }
        members.iter_mut().any(|member| {
            member.events.drain(..).any(|event| match event {
                Event::Quality { report, .. } => {
                    println!("{:?} {}: {report:?}", start.elapsed(), member.id);
                    is(report.quality, report.cause)
                }
                _ => false,
            })
        })
    });
}

#[test]
fn loss_and_silence_are_told_and_their_end_as_well() {
    let path = Arc::new(ShapedPath::new([0, 1]));
    let mut room = Room::new();
    let through = path.clone();
    room.tamper = Some(Box::new(move |from, to, signal| through.tamper(from, to, signal)));
    room.join("a", Config::default());
    room.join("b", Config::default());
    room.connect_all();
    let (start, mut sent) = (Instant::now(), 0);
    let mut wait = |what: &str, is| until(&mut room, &mut sent, start, what, is);
    wait("a first word", |_, _| true);
    path.shape(0, Class::Audio, Shape { loss: 0.15, ..Shape::CLEAR });
    wait("loss is told", |quality, cause| quality >= Quality::Fair && cause == Some(QualityCause::Loss));
    path.shape(0, Class::Audio, Shape::CLEAR);
    wait("and its end", |quality, _| quality < Quality::Poor);
    for from in [0, 1] {
        for class in [Class::Audio, Class::Video, Class::Rest] {
            path.shape(from, class, Shape { loss: 1.0, ..Shape::CLEAR });
        }
    }
    wait("silence is told", |quality, cause| {
        quality == Quality::Lost && cause == Some(QualityCause::Silence)
    });
    for from in [0, 1] {
        for class in [Class::Audio, Class::Video, Class::Rest] {
            path.shape(from, class, Shape::CLEAR);
        }
    }
    wait("and its end", |quality, _| quality < Quality::Lost);
    let told = room.members[0].transport.peers()[0].quality;
    assert!(told.is_some_and(|report| report.sample.round_trip.is_some()), "{told:?}");
}

//! Flashes and beeps from one transport through the pipeline of another to a third: they stay together.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Room;
use common::path::{Class, ShapedPath};
use remotemedia_media::{AudioFrame, FramePool, VideoFrame};
use remotemedia_pipeline::{Manifest, Plan, Registry};
use remotemedia_testkit::Shape;
use remotemedia_transport::{Config, Event, RouteConfig, RouteTo, Track};

const GRAPH: &str = "
version: v1
nodes:
  - { id: gain, node_type: Gain, params: { gain_db: -1 } }
  - { id: flip, node_type: Flip, params: { horizontal: true } }
";
const FRAME_US: i64 = 33_333;
/// A flash and a beep begin with every so many pictures, and last so long.
const EVERY: i64 = 24;
const LENGTH_US: i64 = 100_000;
const MAX_SKEW_MS: f64 = 40.0;

fn picture(pool: &FramePool, n: i64) -> VideoFrame {
    let light = n % EVERY * FRAME_US < LENGTH_US;
    let mut frame = pool.get(320, 180).unwrap();
    let [y, u, v] = frame.planes_mut();
    y.data.fill(if light { 220 } else { 30 });
    u.data.fill(128);
    v.data.fill(128);
    frame.freeze(n * FRAME_US)
}

fn sound(n: i64) -> AudioFrame {
    let sample = |i: i64| {
        let at_us = n * 20_000 + i * 1_000_000 / 48_000;
        let beep = at_us % (EVERY * FRAME_US) < LENGTH_US;
        let tone = (std::f64::consts::TAU * 1000.0 * at_us as f64 / 1e6).sin() * 0.5;
        if beep { tone as f32 } else { 0.0 }
    };
    let samples = Arc::new((0..960).map(sample).collect());
    AudioFrame { samples, sample_rate: 48_000, channels: 1, timestamp_us: n * 20_000 }
}

/// Finds where something begins after a pause, by the timestamps.
#[derive(Default)]
struct Onsets {
    found_us: Vec<i64>,
    loud_us: Option<i64>,
}

impl Onsets {
    fn see(&mut self, loud: bool, at_us: i64) {
        if loud {
            if self.loud_us.is_none_or(|last| at_us - last > 300_000) {
                self.found_us.push(at_us);
            }
            self.loud_us = Some(at_us);
        }
    }

    fn event(audio: &mut Onsets, video: &mut Onsets, event: Event) {
        match event {
            Event::Audio { frame, .. } => {
                for (i, sample) in frame.samples.iter().enumerate() {
                    audio.see(sample.abs() > 0.1, frame.timestamp_us + i as i64 * 1_000_000 / 48_000);
                }
            }
            Event::Video { frame, .. } => {
                let [luma, ..] = frame.planes();
                let middle = luma.data[luma.stride * frame.height() as usize / 2..][..320].iter();
                let light = middle.map(|p| u32::from(*p)).sum::<u32>() / 320;
                video.see(light > 120, frame.timestamp_us());
            }
            _ => {}
        }
    }
}

#[test]
fn flash_and_beep_stay_together_through_a_pipeline() {
    let path = Arc::new(ShapedPath::new([0, 1]));
    let mut room = Room::new();
    let through = path.clone();
    room.tamper = Some(Box::new(move |from, to, signal| through.tamper(from, to, signal)));
    for id in ["source", "pipeline", "sink"] {
        room.join(id, Config::default());
    }
    room.connect_all();
    let plan = Plan::compile(&Manifest::parse(GRAPH).unwrap(), &Registry::builtin()).unwrap();
    let middle = &room.members[1].transport;
    let session = middle.create_session(plan).unwrap();
    for (track, through) in [(Track::Audio, "gain"), (Track::Video, "flip")] {
        let (from, to) = (Some(vec!["source".into()]), RouteTo::Peers(vec!["sink".into()]));
        middle.add_route(session, RouteConfig { from, track, through: through.into(), to }).unwrap();
    }
    room.members[2].transport.subscribe(true, true);

    let (pool, start) = (FramePool::default(), Instant::now());
    let (mut pictures, mut sounds) = (0i64, 0i64);
    let (mut audio, mut video) = (Onsets::default(), Onsets::default());
    let mut run = |room: &mut Room, time: u64| {
        let end = Instant::now() + Duration::from_secs(time);
        room.run_until("flashes and beeps", |members| {
            let now_us = start.elapsed().as_micros() as i64;
            while sounds * 20_000 <= now_us {
                members[0].transport.send_audio("pipeline", sound(sounds)).unwrap();
                sounds += 1;
            }
            while pictures * FRAME_US <= now_us {
                members[0].transport.send_video("pipeline", picture(&pool, pictures)).unwrap();
                pictures += 1;
            }
            for event in members[2].events.drain(..) {
                Onsets::event(&mut audio, &mut video, event);
            }
            Instant::now() >= end
        });
        (std::mem::take(&mut audio.found_us), std::mem::take(&mut video.found_us))
    };
    // Until both streams have reported on both ways.
    run(&mut room, 4);
    let late = |ms| Shape { delay: Duration::from_millis(ms), ..Shape::CLEAR };
    for (what, sound, pictures) in [
        ("as it is", 0, 0),
        ("pictures 60 ms later", 0, 60),
        ("sound 60 ms later", 60, 0),
        ("both again", 0, 0),
    ] {
        path.shape(0, Class::Audio, late(sound));
        path.shape(0, Class::Video, late(pictures));
        let (beeps, flashes) = run(&mut room, 6);
        // A beep at the edge of the phase may have its flash in the next.
        let nearest = |beep: i64| flashes.iter().map(|flash| beep - flash).min_by_key(|skew| skew.abs());
        let skews: Vec<f64> = beeps
            .iter()
            .filter_map(|beep| nearest(*beep))
            .filter(|skew| skew.abs() < 400_000)
            .map(|skew| skew as f64 / 1000.0)
            .collect();
        println!("{what}: {skews:.1?} ms");
        assert!(skews.len() >= 4, "{what}: {beeps:?} {flashes:?}");
        assert!(skews.iter().all(|skew| skew.abs() <= MAX_SKEW_MS), "{what}: {skews:?}");
    }
}

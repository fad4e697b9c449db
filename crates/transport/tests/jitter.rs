//! Sound over a path that is clean, jittery, or loses packets: how much is made up, and how long it waits.

mod common;

use std::f32::consts::TAU;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::Room;
use common::path::{Class, ShapedPath};
use remotemedia_media::{AudioFrame, JitterStats};
use remotemedia_testkit::Shape;
use remotemedia_transport::{Config, Event};

/// Something like a voice: a tone with overtones that swells, and is another one every 30 ms.
fn voice(from: usize, count: usize) -> Vec<f32> {
    (from..from + count)
        .map(|i| {
            let t = i as f32 / 48_000.0;
            let swell = 0.6 + 0.4 * (TAU * 3.3 * t).sin();
            let phase = ((i % 1440) as f32 * (100 + i / 1440 * 67 % 160) as f32 / 48_000.0).fract();
            let tone: f32 = (1..8).map(|k| (TAU * k as f32 * phase).sin() / k as f32).sum();
            0.25 * swell * tone
        })
        .collect()
}

/// A steady tone: what is missing of it, or joined badly, is heard at once.
fn tone(from: usize, count: usize) -> Vec<f32> {
    (from..from + count).map(|i| LEVEL * (TAU * HZ * i as f32 / 48_000.0).sin()).collect()
}

const HZ: f32 = 440.0;
const LEVEL: f32 = 0.4;

struct Call {
    signal: fn(usize, usize) -> Vec<f32>,
    room: Room,
    path: Arc<ShapedPath>,
    start: Instant,
    sent: usize,
    /// When each frame was heard, all phases together.
    heard: Vec<Instant>,
    frames: Vec<AudioFrame>,
}

/// What a phase of a call was like.
#[derive(Debug)]
struct Phase {
    made_up: f64,
    recovered: f64,
    /// From the path's end to the listener, in milliseconds: of half the packets, and of 95 %.
    p50_ms: f64,
    p95_ms: f64,
    target: Duration,
    /// How late this machine wakes a thread meanwhile, 95 % of the times: what is measured here can't be better.
    machine_ms: f64,
}

/// Watches how late the machine wakes a thread.
struct Machine {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

impl Machine {
    fn watch() -> Machine {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut late = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let (time, before) = (Duration::from_millis(3), Instant::now());
                std::thread::sleep(time);
                late.push(before.elapsed().saturating_sub(time).as_secs_f64() * 1000.0);
            }
            late
        });
        Machine { stop, thread }
    }

    fn p95_ms(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut late = self.thread.join().unwrap();
        late.sort_by(f64::total_cmp);
        late[late.len() * 95 / 100]
    }
}

impl Call {
    fn new(signal: fn(usize, usize) -> Vec<f32>) -> Call {
        let path = Arc::new(ShapedPath::new([0, 1]));
        let mut room = Room::new();
        let through = path.clone();
        room.tamper = Some(Box::new(move |from, to, signal| through.tamper(from, to, signal)));
        room.join("a", Config::default());
        room.join("b", Config::default());
        room.connect_all();
        room.members[1].transport.subscribe(true, false);
        let (start, heard, frames) = (Instant::now(), Vec::new(), Vec::new());
        Call { signal, room, path, start, sent: 0, heard, frames }
    }

    /// Speaks for a time and listens.
    fn speak(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let Self { signal, room, start, sent, heard, frames, .. } = self;
        room.run_until("somebody speaks", |members| {
            while start.elapsed() >= Duration::from_millis(20) * *sent as u32 {
                let samples = Arc::new(signal(*sent * 960, 960));
                let timestamp_us = *sent as i64 * 20_000;
                let frame = AudioFrame { samples, sample_rate: 48_000, channels: 1, timestamp_us };
                members[0].transport.send_audio("b", frame).unwrap();
                *sent += 1;
            }
            for event in members[1].events.drain(..) {
                if let Event::Audio { frame, .. } = event {
                    heard.push(Instant::now());
                    frames.push(frame);
                }
            }
            Instant::now() >= end
        });
    }

    fn stats(&mut self) -> JitterStats {
        self.room.members[1].transport.request_stats(1, None);
        let mut stats = None;
        let Self { room, heard, frames, .. } = self;
        room.run_until("stats", |members| {
            for event in members[1].events.drain(..) {
                match event {
                    Event::Stats { mut peers, .. } => stats = peers.pop(),
                    Event::Audio { frame, .. } => {
                        heard.push(Instant::now());
                        frames.push(frame);
                    }
                    _ => {}
                }
            }
            stats.is_some()
        });
        stats.unwrap().audio_in.jitter
    }

    /// A phase, after `settle` on the same path.
    fn phase(&mut self, shape: Shape, settle: Duration, time: Duration) -> Phase {
        self.path.shape(0, Class::Audio, shape);
        let machine = Machine::watch();
        self.speak(settle);
        let (before, first) = (self.stats(), self.heard.len());
        self.speak(time);
        let (after, last) = (self.stats(), self.heard.len());
        // Each packet's place is heard once, in order: the nth frame is the nth packet, or stands for it.
        let passed = self.path.passed(0);
        let mut waits: Vec<f64> = (first..last)
            .filter_map(|n| {
                let (heard, passed) = (self.heard[n], (*passed.get(n)?)?);
                Some(heard.saturating_duration_since(passed).as_secs_f64() * 1000.0)
            })
            .collect();
        waits.sort_by(f64::total_cmp);
        assert!(waits.len() > 100, "{}", waits.len());
        let samples = (after.samples() - before.samples()) as f64;
        Phase {
            made_up: (after.concealed_samples - before.concealed_samples) as f64 / samples,
            recovered: (after.recovered_samples - before.recovered_samples) as f64 / samples,
            p50_ms: waits[waits.len() / 2],
            p95_ms: waits[waits.len() * 95 / 100],
            target: after.target,
            machine_ms: machine.p95_ms(),
        }
    }
}

#[test]
fn little_is_made_up_and_nothing_waits_longer_than_the_path_asks_for() {
    let mut call = Call::new(voice);
    let (settle, time) = (Duration::from_secs(4), Duration::from_secs(6));
    let clean = call.phase(Shape::CLEAR, Duration::from_secs(1), time);
    println!("clean: {clean:.4?}");
    let jittery = call.phase(Shape { jitter: Duration::from_millis(30), ..Shape::CLEAR }, settle, time);
    println!("30 ms of jitter: {jittery:.4?}");
    let lossy = call.phase(Shape { loss: 0.05, ..Shape::CLEAR }, Duration::from_secs(6), time);
    println!("5 % lost: {lossy:.4?}");
    let again = call.phase(Shape::CLEAR, settle, Duration::from_secs(3));
    println!("clean again: {again:.4?}");
    for clean in [&clean, &again] {
        assert_eq!((clean.made_up, clean.recovered), (0.0, 0.0));
        assert!(clean.p50_ms < 20.0 + 3.0 * clean.machine_ms, "less than a packet: {clean:?}");
    }
    assert!(jittery.made_up + jittery.recovered < 0.03, "{jittery:?}");
    let (target, most) = (jittery.target.as_secs_f64() * 1000.0, 45.0 + 3.0 * jittery.machine_ms);
    assert!((10.0..most).contains(&target), "{jittery:?}");
    assert!(jittery.p50_ms < most && jittery.p95_ms < most + 30.0, "{jittery:?}");
    let lost = lossy.made_up + lossy.recovered;
    assert!((0.015..0.11).contains(&lost), "{lossy:?}");
    assert!(lossy.recovered > lossy.made_up, "the encoder makes copies for a path that loses: {lossy:?}");
    assert!(lossy.p50_ms < 20.0 + 3.0 * lossy.machine_ms, "a loss delays nothing else: {lossy:?}");
}

#[test]
fn a_tone_goes_on_through_losses() {
    let mut call = Call::new(tone);
    call.speak(Duration::from_secs(1));
    let (before, first) = (call.stats(), call.frames.len());
    call.path.shape(0, Class::Audio, Shape { loss: 0.05, ..Shape::CLEAR });
    call.speak(Duration::from_secs(8));
    call.path.shape(0, Class::Audio, Shape::CLEAR);
    call.speak(Duration::from_millis(500));
    let (after, last) = (call.stats(), call.frames.len());
    let frames = &call.frames[first..last];
    let filled = (after.concealed_samples + after.recovered_samples)
        - (before.concealed_samples + before.recovered_samples);
    let samples: Vec<f32> = frames.iter().flat_map(|frame| frame.samples.iter().copied()).collect();
    // Nothing is left out: what came, what a copy gave and what was made up are together what was sent, and each follows on the other.
    assert_eq!(after.samples() - before.samples(), samples.len() as u64);
    assert!((960 * 4..960 * 60).contains(&filled), "{filled}");
    for pair in frames.windows(2) {
        let step = pair[1].timestamp_us - pair[0].timestamp_us;
        let length = pair[0].samples.len() as i64 * 1_000_000 / 48_000;
        assert!((step - length).abs() < 3000, "{step} us after {length} us of sound");
    }
    // It is there all the time, and nothing clicks.
    let level = |part: &[f32]| {
        let power = part.iter().map(|s| f64::from(s * s)).sum::<f64>() / part.len() as f64;
        10.0 * (power * 2.0 / f64::from(LEVEL * LEVEL)).log10()
    };
    let mut levels: Vec<f64> = samples.chunks_exact(480).map(level).collect();
    levels.sort_by(f64::total_cmp);
    let (softest, loudest) = (levels[0], levels[levels.len() - 1]);
    let soft = levels.iter().filter(|db| **db < -3.0).count() as f64 / levels.len() as f64;
    let steepest = samples.windows(2).map(|w| (w[1] - w[0]).abs()).fold(0.0, f32::max);
    println!(
        "{} of {} samples filled in; level {softest:.1} to {loudest:.1} dB, {:.2} % below -3 dB; steepest step {:.1} of the tone's",
        filled,
        samples.len(),
        soft * 100.0,
        steepest / (TAU * HZ / 48_000.0 * LEVEL)
    );
    assert!(softest > -15.0 && soft < 0.05 && loudest < 2.0, "{softest:.1} to {loudest:.1} dB, {soft:.3}");
    assert!(steepest < 2.0 * TAU * HZ / 48_000.0 * LEVEL, "a click: {steepest}");
}

//! Sound between transports in each form that Opus is sent in: channels, packet lengths, silence, and what the receiver wants.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Member, Room};
use remotemedia_media::AudioFrame;
use remotemedia_transport::{AudioConfig, Config, Event, PeerStats, Signal};

/// Sends sound in real time and keeps what is heard.
struct Call {
    room: Room,
    started: Instant,
    sent: u32,
    heard: Vec<Heard>,
}

/// What a member heard: interleaved samples by channel count.
type Heard = Vec<(u16, Vec<f32>)>;

impl Call {
    /// The first of these sends to all others.
    fn new(audio: &[AudioConfig], tamper: Option<fn(String) -> String>) -> Call {
        let mut room = Room::new();
        if let Some(tamper) = tamper {
            // Of what the others say of themselves.
            room.tamper = Some(Box::new(move |from, _, signal| {
                Some(match signal {
                    Signal::Offer(sdp) if from > 0 => Signal::Offer(tamper(sdp)),
                    Signal::Answer(sdp) if from > 0 => Signal::Answer(tamper(sdp)),
                    other => other,
                })
            }));
        }
        for (n, audio) in audio.iter().enumerate() {
            room.join(&format!("p{n}"), Config { audio: audio.clone(), ..Config::default() });
        }
        room.connect_all();
        for member in &room.members[1..] {
            member.transport.subscribe(true, false);
        }
        let heard = room.members.iter().map(|_| Vec::new()).collect();
        Call { room, started: Instant::now(), sent: 0, heard }
    }

    /// Sends 20 ms pieces of two channels, made by `sample(n)` of sample number `n`, for so long.
    fn send(&mut self, length: Duration, sample: impl Fn(u32) -> (f32, f32)) {
        let Self { room, started, sent, heard } = self;
        let pieces = *sent + (length.as_millis() / 20) as u32;
        room.run_until("the sound is sent", |members| {
            let due = pieces.min(*sent + 5);
            while *sent < due && started.elapsed() >= Duration::from_millis(20) * *sent {
                let samples =
                    (*sent * 960..(*sent + 1) * 960).flat_map(|n| <[f32; 2]>::from(sample(n))).collect();
                let timestamp_us = i64::from(*sent) * 20_000;
                let frame =
                    AudioFrame { samples: Arc::new(samples), sample_rate: 48_000, channels: 2, timestamp_us };
                let refused = members[0].transport.broadcast_audio(frame, &[]);
                assert!(refused.is_empty(), "{refused:?}");
                *sent += 1;
            }
            listen(members, heard);
            *sent == pieces
        });
    }

    /// What each heard of all that was sent.
    fn heard(&mut self) -> Vec<Heard> {
        let end = Instant::now() + Duration::from_millis(500);
        let Self { room, heard, .. } = self;
        room.run_until("it arrives", |members| {
            listen(members, heard);
            Instant::now() >= end
        });
        std::mem::take(heard)
    }

    /// What `of` counts of `peer`.
    fn stats(&mut self, of: usize, peer: usize) -> PeerStats {
        let id = self.room.members[peer].id.clone();
        self.room.members[of].transport.request_stats(1, Some(id));
        let mut stats = None;
        self.room.run_until("stats", |members| {
            for event in members[of].events.drain(..) {
                if let Event::Stats { mut peers, .. } = event {
                    stats = peers.pop();
                }
            }
            stats.is_some()
        });
        stats.unwrap()
    }
}

fn listen(members: &mut [Member], heard: &mut [Heard]) {
    for (member, heard) in members.iter_mut().zip(heard) {
        for event in member.events.drain(..) {
            if let Event::Audio { frame, .. } = event {
                heard.push((frame.channels, frame.samples.to_vec()));
            }
        }
    }
}

/// Everything heard, of one channel.
fn channel(heard: &Heard, which: usize) -> Vec<f32> {
    let of = |(channels, samples): &(u16, Vec<f32>)| {
        samples.iter().skip(which).step_by(usize::from(*channels)).copied().collect::<Vec<_>>()
    };
    heard.iter().flat_map(of).collect()
}

fn tone(n: u32, hz: f32) -> f32 {
    0.4 * (std::f32::consts::TAU * hz * (n % 48_000) as f32 / 48_000.0).sin()
}

/// Level of a frequency in the last half second, in dB of what [`tone`] sends.
fn level_db(samples: &[f32], hz: f64) -> f64 {
    let last = &samples[samples.len() - 24_000..];
    let (mut re, mut im) = (0.0, 0.0);
    for (n, sample) in last.iter().enumerate() {
        let turn = std::f64::consts::TAU * hz * n as f64 / 48_000.0;
        re += f64::from(*sample) * turn.cos();
        im += f64::from(*sample) * turn.sin();
    }
    20.0 * ((re * re + im * im).sqrt() * 2.0 / last.len() as f64 / 0.4).log10()
}

#[test]
fn left_and_right_arrive_apart_where_stereo_is_wanted_and_together_where_it_is_not() {
    let stereo = AudioConfig { channels: 2, ..AudioConfig::default() };
    let mut call = Call::new(&[stereo.clone(), stereo, AudioConfig::default()], None);
    call.send(Duration::from_secs(2), |n| (tone(n, 440.0), tone(n, 1000.0)));
    let heard = call.heard();
    assert!(heard[1].iter().all(|(channels, _)| *channels == 2));
    assert!(heard[2].iter().all(|(channels, _)| *channels == 1));
    for (which, own, other) in [(0, 440.0, 1000.0), (1, 1000.0, 440.0)] {
        let heard = channel(&heard[1], which);
        let (own, other) = (level_db(&heard, own), level_db(&heard, other));
        println!("channel {which}: its tone {own:+.2} dB, the other one {other:+.1} dB");
        assert!(own.abs() < 1.0 && other < -30.0, "{own} {other}");
    }
    let mono = channel(&heard[2], 0);
    for hz in [440.0, 1000.0] {
        let level = level_db(&mono, hz);
        assert!((level + 6.02).abs() < 1.0, "{hz} Hz in the mean of both: {level}");
    }
}

#[test]
fn a_receiver_that_wants_little_gets_no_more() {
    // A telephone: mono, 8 kHz, packets of at most 20 ms, 12 kbit/s.
    let tamper = |sdp: String| {
        sdp.replace("useinbandfec=1", "useinbandfec=1;maxaveragebitrate=12000;maxplaybackrate=8000")
            .replace("a=maxptime:120", "a=maxptime:20")
    };
    let audio =
        AudioConfig { channels: 2, frame_ms: 60, bitrate_bps: Some(96_000), ..AudioConfig::default() };
    let mut call = Call::new(&[audio, AudioConfig::default()], Some(tamper));
    call.send(Duration::from_secs(3), |n| {
        let low = tone(n, 700.0);
        (low + 0.5 * tone(n, 9_000.0), low)
    });
    let heard = call.heard();
    let sent = call.stats(0, 1).audio_out;
    let bps = sent.bytes as f64 * 8.0 / 3.0;
    println!("{} packets, {bps:.0} bit/s", sent.packets);
    assert!((145..=151).contains(&sent.packets), "packets of 20 ms: {}", sent.packets);
    assert!(bps < 14_500.0, "{bps}");
    let mono = channel(&heard[1], 0);
    assert!(level_db(&mono, 700.0).abs() < 1.5, "{}", level_db(&mono, 700.0));
    assert!(level_db(&mono, 9_000.0) < -40.0, "beyond what it plays: {}", level_db(&mono, 9_000.0));
}

#[test]
fn packets_of_each_length_carry_the_sound() {
    for frame_ms in [10u8, 20, 40, 60] {
        let audio = AudioConfig { frame_ms, ..AudioConfig::default() };
        let mut call = Call::new(&[audio.clone(), audio], None);
        call.send(Duration::from_millis(1800), |n| (tone(n, 440.0), tone(n, 440.0)));
        let heard = call.heard();
        let (sent, got) = (call.stats(0, 1).audio_out, call.stats(1, 0).audio_in);
        let expected = 1800 / u64::from(frame_ms);
        println!("{frame_ms} ms: {} packets, {} bytes, {:?}", sent.packets, sent.bytes, got.jitter);
        assert!((expected - 1..=expected).contains(&sent.packets), "{frame_ms} ms: {}", sent.packets);
        let level = level_db(&channel(&heard[1], 0), 440.0);
        assert!(level.abs() < 1.0, "{frame_ms} ms: {level} dB");
        assert_eq!((got.jitter.lost, got.jitter.bad), (0, 0), "{frame_ms} ms");
    }
}

/// With DTX silence costs next to nothing, and the packets that never were are not taken for lost.
#[test]
fn silence_costs_next_to_nothing_and_is_not_taken_for_loss() {
    let mut sent = HashMap::new();
    for dtx in [false, true] {
        let audio = AudioConfig { dtx, ..AudioConfig::default() };
        let mut call = Call::new(&[audio.clone(), audio], None);
        // Something like a voice.
        let voice = |n: u32| {
            let loud = 0.6 + 0.4 * (n as f32 / 4_000.0).sin();
            let value = loud * (0.5 * tone(n, 180.0) + 0.3 * tone(n, 540.0) + 0.2 * tone(n, 1260.0));
            (value, value)
        };
        call.send(Duration::from_secs(1), voice);
        let speaking = call.stats(0, 1).audio_out;
        call.send(Duration::from_secs(3), |_| (0.0, 0.0));
        let silent = call.stats(0, 1).audio_out;
        call.send(Duration::from_millis(1200), |n| (tone(n, 440.0), tone(n, 440.0)));
        let heard = call.heard();
        let jitter = call.stats(1, 0).audio_in.jitter;
        let (packets, bytes) = (silent.packets - speaking.packets, (silent.bytes - speaking.bytes) / 3);
        println!(
            "DTX {dtx}: {} bytes a second, in silence {bytes}, {packets} packets; {jitter:?}",
            speaking.bytes
        );
        assert_eq!((jitter.lost, jitter.concealed_samples, jitter.concealments), (0, 0, 0), "DTX {dtx}");
        assert!(level_db(&channel(&heard[1], 0), 440.0).abs() < 1.0, "it goes on after the silence");
        assert!(!dtx || bytes < speaking.bytes / 20, "{bytes} of {}", speaking.bytes);
        sent.insert(dtx, packets);
    }
    assert!(sent[&true] * 5 < sent[&false], "{sent:?}");
}

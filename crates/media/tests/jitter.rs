//! The jitter buffer with real Opus: what is lost is hardly heard.
#![allow(missing_docs)]

use std::f32::consts::TAU;
use std::time::{Duration, Instant};

use bytes::Bytes;
use remotemedia_media::*;

/// Something like a voice: a tone with overtones that swells, and is another one every 30 ms: what comes can't be guessed.
fn voice(count: usize) -> Vec<f32> {
    let mut phase = 0.0f32;
    (0..count)
        .map(|i| {
            let t = i as f32 / 48_000.0;
            let swell = 0.6 + 0.4 * (TAU * 3.3 * t).sin();
            phase = (phase + (100 + i / 1440 * 67 % 160) as f32 / 48_000.0).fract();
            let tone: f32 = (1..8).map(|k| (TAU * k as f32 * phase).sin() / k as f32).sum();
            0.25 * swell * tone
        })
        .collect()
}

fn encode(samples: &[f32], loss: u8) -> Vec<Bytes> {
    let config = OpusEncoderConfig { expected_loss_pct: loss, ..OpusEncoderConfig::default() };
    let mut encoder = OpusEncoder::new(config).unwrap();
    samples.chunks_exact(960).map(|frame| encoder.encode(frame).unwrap()).collect()
}

/// All that comes out of a buffer for packets of 20 ms that arrive on time, but for those lost.
fn receive(packets: &[Bytes], lost: impl Fn(usize) -> bool) -> (Vec<f32>, Vec<AudioChunk>, JitterStats) {
    let mut buffer = JitterBuffer::new(1).unwrap();
    let start = Instant::now();
    let (mut heard, mut chunks, mut samples) = (Vec::new(), Vec::new(), Vec::new());
    for (n, payload) in packets.iter().enumerate() {
        if lost(n) {
            continue;
        }
        let now = start + Duration::from_millis(20 * n as u64);
        let (sequence, timestamp) = ((n as u16).wrapping_sub(5), (n as u32 * 960).wrapping_sub(4800));
        buffer.push(AudioPacket { ssrc: 1, sequence, timestamp, payload: payload.clone() }, now);
        while let Some(chunk) = buffer.pull(now, &mut samples) {
            heard.extend_from_slice(&samples);
            chunks.push(chunk);
        }
    }
    (heard, chunks, buffer.stats())
}

/// How far the second is from the first, in dB below it.
fn error_db(wanted: &[f32], got: &[f32]) -> f64 {
    let power = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let error = power(&mut wanted.iter().zip(got).map(|(a, b)| a - b));
    10.0 * (error / power(&mut wanted.iter().copied())).log10()
}

#[test]
fn packets_say_whether_they_hold_a_copy_of_the_one_before() {
    let samples = voice(48_000);
    assert!(encode(&samples, 0).iter().all(|packet| !opus_packet_has_fec(packet)));
    let with = encode(&samples, 20);
    let share = with.iter().filter(|packet| opus_packet_has_fec(packet)).count();
    // Only what sounds is copied.
    assert!(share >= 30, "{share} of {}", with.len());
    for packet in [&[][..], &[0x08], &[0x0b], &[0x0b, 0xff], &[0x0b, 0xc5, 255, 255], &[0x0a, 255]] {
        assert!(!opus_packet_has_fec(packet), "{packet:?}");
    }
}

#[test]
fn a_loss_is_recovered_from_the_next_packet_much_better_than_it_can_be_made_up() {
    let samples = voice(96_000);
    let lost = |n: usize| n % 9 == 7;
    let mut errors = Vec::new();
    for loss in [0, 20] {
        let packets = encode(&samples, loss);
        let (whole, ..) = receive(&packets, |_| false);
        let (heard, chunks, stats) = receive(&packets, lost);
        assert_eq!(heard.len(), whole.len(), "nothing is missing and nothing too much");
        let mut at = chunks[0].timestamp;
        for chunk in &chunks {
            assert_eq!(chunk.timestamp, at);
            at = at.wrapping_add(chunk.frames as u32);
        }
        assert_eq!((stats.lost, stats.late, stats.total_delay), (11, 0, Duration::ZERO));
        let (recovered, concealed) = (stats.recovered_samples / 960, stats.concealed_samples / 960);
        println!("{loss} % expected: {recovered} recovered, {concealed} made up");
        assert_eq!(recovered + concealed, 11);
        // Libopus copies only what it takes for a voice.
        assert!(if loss > 0 { recovered >= 6 } else { recovered == 0 });
        let at_losses = |signal: &[f32]| -> Vec<f32> {
            (0..100).filter(|n| lost(*n)).flat_map(|n| signal[n * 960..][..960].to_vec()).collect()
        };
        errors.push(error_db(&at_losses(&whole), &at_losses(&heard)));
    }
    println!("error at the losses: {:.1} dB made up, {:.1} dB recovered", errors[0], errors[1]);
    assert!(errors[1] < errors[0] - 3.0, "{errors:?}");
}

#[test]
fn a_long_loss_fades_to_silence_and_the_sound_comes_back_whole() {
    let packets = encode(&voice(192_000), 0);
    let (whole, ..) = receive(&packets, |_| false);
    let (heard, chunks, stats) = receive(&packets, |n| (60..110).contains(&n));
    assert_eq!(stats.skipped_samples, 45 * 960);
    assert_eq!(stats.concealed_samples, 5 * 960);
    let rms = |s: &[f32]| (s.iter().map(|v| v * v).sum::<f32>() / s.len() as f32).sqrt();
    let made_up = &heard[60 * 960..65 * 960];
    assert!(rms(&made_up[..960]) > 0.3 * rms(&heard[59 * 960..60 * 960]));
    assert!(rms(&made_up[5 * 960 - 48..]) < 0.002, "{}", rms(&made_up[5 * 960 - 48..]));
    let after = chunks.iter().position(|chunk| chunk.after_gap).unwrap();
    assert_eq!((after, chunks[after].timestamp), (65, (110u32 * 960).wrapping_sub(4800)));
    // 100 ms later it is as if nothing had been.
    let error = error_db(&whole[115 * 960..], &heard[70 * 960..]);
    assert!(error < -20.0, "{error:.1} dB");
}

#[test]
fn what_is_no_opus_is_made_up_for() {
    let mut packets = encode(&voice(48_000), 0);
    packets[20] = Bytes::from_static(&[0xff, 0x41]);
    let (heard, _, stats) = receive(&packets, |_| false);
    assert_eq!(heard.len(), 48_000);
    assert_eq!((stats.bad, stats.concealed_samples), (1, 960));
}

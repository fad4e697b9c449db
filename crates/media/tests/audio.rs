//! Opus, resampling and framing, by what is heard.

mod common;

use common::{XorShift, amplitude_at, audio, channel, db, peak, sine};
use remotemedia_media::{
    AudioFramer, MediaError, OPUS_RATE, OpusDecoder, OpusEncoder, OpusEncoderConfig, Resampler,
    is_dtx_packet, opus_packet_frames,
};

/// Encodes a tone, loses the packets `lost` says, and returns what is heard.
fn through_opus(
    config: OpusEncoderConfig,
    packets: usize,
    hz: f64,
    lost: impl Fn(usize) -> bool,
) -> Vec<f32> {
    let mut encoder = OpusEncoder::new(config).unwrap();
    let mut decoder = OpusDecoder::new(config.channels).unwrap();
    let frame = config.frame_samples() / usize::from(config.channels);
    let (mut heard, mut out) = (Vec::new(), Vec::new());
    for i in 0..packets {
        let packet = encoder.encode(&sine(hz, 0.5, OPUS_RATE, config.channels, i * frame, frame)).unwrap();
        assert_eq!(opus_packet_frames(&packet).unwrap(), frame);
        let got = if lost(i) { decoder.conceal(frame, &mut out) } else { decoder.decode(&packet, &mut out) };
        assert_eq!(got.unwrap(), frame);
        assert_eq!(out.len(), frame * usize::from(config.channels));
        heard.extend_from_slice(&out);
    }
    heard
}

#[test]
fn a_tone_keeps_its_frequency_and_level_through_opus() {
    for channels in [1, 2] {
        for frame_ms in [10, 20, 40, 60] {
            let config = OpusEncoderConfig { channels, frame_ms, bitrate_bps: 64_000, ..Default::default() };
            let heard = through_opus(config, 1500 / frame_ms as usize, 440.0, |_| false);
            for c in 0..usize::from(channels) {
                // The first half second is the codec finding its feet.
                let one = &channel(&heard, channels.into(), c)[24_000..];
                let (hz, amplitude) = peak(one, OPUS_RATE, 300.0, 600.0);
                let level = db(amplitude / 0.5);
                println!("{channels} channels, {frame_ms} ms, channel {c}: {hz:.1} Hz, {level:+.2} dB");
                assert!((hz - 440.0).abs() < 1.0, "{hz} Hz");
                assert!(level.abs() < 1.0, "{level} dB");
            }
        }
    }
}

#[test]
fn left_and_right_stay_apart() {
    let config = OpusEncoderConfig { channels: 2, bitrate_bps: 96_000, ..Default::default() };
    let mut encoder = OpusEncoder::new(config).unwrap();
    let mut decoder = OpusDecoder::new(2).unwrap();
    let (mut heard, mut out) = (Vec::new(), Vec::new());
    for i in 0..75 {
        let (l, r) =
            (sine(440.0, 0.5, OPUS_RATE, 1, i * 960, 960), sine(1000.0, 0.3, OPUS_RATE, 1, i * 960, 960));
        let both: Vec<f32> = l.into_iter().zip(r).flat_map(|(l, r)| [l, r]).collect();
        decoder.decode(&encoder.encode(&both).unwrap(), &mut out).unwrap();
        heard.extend_from_slice(&out);
    }
    let (l, r) = (&channel(&heard, 2, 0)[24_000..], &channel(&heard, 2, 1)[24_000..]);
    assert!(db(amplitude_at(l, OPUS_RATE, 440.0) / 0.5).abs() < 1.0);
    assert!(db(amplitude_at(r, OPUS_RATE, 1000.0) / 0.3).abs() < 1.0);
    assert!(db(amplitude_at(l, OPUS_RATE, 1000.0) / 0.3) < -25.0);
    assert!(db(amplitude_at(r, OPUS_RATE, 440.0) / 0.5) < -25.0);
}

#[test]
fn a_lost_packet_is_concealed_with_the_tone_that_was() {
    let config = OpusEncoderConfig { bitrate_bps: 64_000, ..Default::default() };
    let heard = through_opus(config, 60, 440.0, |i| i == 50);
    let gap = &heard[50 * 960..51 * 960];
    let amplitude = amplitude_at(gap, OPUS_RATE, 440.0);
    println!("concealed 20 ms at {:+.2} dB", db(amplitude / 0.5));
    assert!(db(amplitude / 0.5) > -6.0, "{amplitude}");
}

#[test]
fn fec_recovers_a_lost_packet() {
    // Speech-like bursts at a bitrate where FEC is in use: silence, then a burst that is lost.
    let config = OpusEncoderConfig { bitrate_bps: 24_000, expected_loss_pct: 30, ..Default::default() };
    let mut encoder = OpusEncoder::new(config).unwrap();
    let voice = |i: usize| -> Vec<f32> {
        let (a, b) =
            (sine(200.0, 0.3, OPUS_RATE, 1, i * 960, 960), sine(700.0, 0.15, OPUS_RATE, 1, i * 960, 960));
        let loud = if i / 5 % 2 == 1 { 1.0 } else { 0.02 };
        a.iter().zip(b).map(|(a, b)| (a + b) * loud).collect()
    };
    let packets: Vec<_> = (0..60).map(|i| encoder.encode(&voice(i)).unwrap()).collect();
    // 55 is the first loud packet of its burst: nothing before it tells a decoder what to conceal it with.
    let heard = |use_fec: bool| {
        let mut decoder = OpusDecoder::new(1).unwrap();
        let mut out = Vec::new();
        for packet in &packets[..55] {
            decoder.decode(packet, &mut out).unwrap();
        }
        let got = if use_fec {
            decoder.decode_fec(&packets[56], 960, &mut out)
        } else {
            decoder.conceal(960, &mut out)
        };
        assert_eq!(got.unwrap(), 960);
        amplitude_at(&out, OPUS_RATE, 200.0)
    };
    let (with, without) = (heard(true), heard(false));
    println!("amplitude at 200 Hz: {with:.3} with FEC, {without:.3} concealed, 0.3 sent");
    assert!(with > 0.12 && with > 3.0 * without, "{with} {without}");
}

#[test]
fn dtx_sends_next_to_nothing_in_silence() {
    let config = OpusEncoderConfig { dtx: true, ..Default::default() };
    let mut encoder = OpusEncoder::new(config).unwrap();
    let silent = (0..100).filter(|_| is_dtx_packet(&encoder.encode(&[0.0; 960]).unwrap())).count();
    assert!(silent > 60, "{silent} of 100 packets needn't be sent");
    let loud = encoder.encode(&sine(440.0, 0.5, OPUS_RATE, 1, 0, 960)).unwrap();
    assert!(!is_dtx_packet(&loud));
}

#[test]
fn opus_obeys_its_bitrate() {
    let mut encoder =
        OpusEncoder::new(OpusEncoderConfig { channels: 2, bitrate_bps: 128_000, ..Default::default() })
            .unwrap();
    let mut noise = XorShift(7);
    let mut rate = |encoder: &mut OpusEncoder| {
        let mut frame =
            || (0..1920).map(|_| (noise.next() % 2000) as f32 / 4000.0 - 0.25).collect::<Vec<_>>();
        (0..100).map(|_| encoder.encode(&frame()).unwrap().len() * 8).sum::<usize>() as f64 / 2.0
    };
    let before = rate(&mut encoder);
    encoder.set_bitrate(32_000).unwrap();
    let after = rate(&mut encoder);
    assert!((before / 128_000.0 - 1.0).abs() < 0.25, "{before}");
    assert!((after / 32_000.0 - 1.0).abs() < 0.25, "{after}");
}

#[test]
fn settings_out_of_range_name_their_field() {
    let ok = OpusEncoderConfig::default();
    let field = |config| match OpusEncoder::new(config).map(|_| ()) {
        Err(MediaError::Config { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(OpusEncoderConfig { channels: 3, ..ok }), "channels");
    assert_eq!(field(OpusEncoderConfig { bitrate_bps: 5_999, ..ok }), "bitrate_bps");
    assert_eq!(field(OpusEncoderConfig { frame_ms: 30, ..ok }), "frame_ms");
    assert_eq!(field(OpusEncoderConfig { complexity: 11, ..ok }), "complexity");
    assert_eq!(field(OpusEncoderConfig { expected_loss_pct: 101, ..ok }), "expected_loss_pct");
    let mut encoder = OpusEncoder::new(ok).unwrap();
    assert_eq!(encoder.encode(&[0.0; 959]), Err(MediaError::SampleCount { expected: 960, actual: 959 }));
    assert!(
        encoder.set_bitrate(0).is_err()
            && encoder.set_complexity(11).is_err()
            && encoder.set_expected_loss(200).is_err()
    );
    let mut decoder = OpusDecoder::new(1).unwrap();
    for samples in [0, 100, 5761, usize::MAX] {
        assert!(decoder.conceal(samples, &mut Vec::new()).is_err());
    }
}

#[test]
fn numbers_that_are_none_do_no_lasting_harm() {
    let mut encoder =
        OpusEncoder::new(OpusEncoderConfig { bitrate_bps: 64_000, ..Default::default() }).unwrap();
    let mut decoder = OpusDecoder::new(1).unwrap();
    let (mut heard, mut out) = (Vec::new(), Vec::new());
    for i in 0..60 {
        let mut frame = sine(440.0, 0.5, OPUS_RATE, 1, i * 960, 960);
        if i == 5 {
            frame[3] = f32::NAN;
            frame[400..500].fill(f32::INFINITY);
        }
        decoder.decode(&encoder.encode(&frame).unwrap(), &mut out).unwrap();
        assert!(out.iter().all(|s| s.is_finite()));
        heard.extend_from_slice(&out);
    }
    assert!(db(amplitude_at(&heard[24_000..], OPUS_RATE, 440.0) / 0.5).abs() < 1.0);
}

#[test]
fn hostile_packets_are_errors_and_the_next_good_one_is_heard() {
    const SEED: u64 = 0x0123_4567_89ab_cdef;
    let mut random = XorShift(SEED);
    let mut encoder =
        OpusEncoder::new(OpusEncoderConfig { channels: 2, bitrate_bps: 64_000, ..Default::default() })
            .unwrap();
    let good: Vec<_> =
        (0..50).map(|i| encoder.encode(&sine(440.0, 0.5, OPUS_RATE, 2, i * 960, 960)).unwrap()).collect();
    let mut decoder = OpusDecoder::new(2).unwrap();
    let (mut out, mut refused) = (Vec::new(), 0);
    assert!(decoder.decode(&[], &mut out).is_err());
    for i in 0..600 {
        let mut packet = good[i % 50].to_vec();
        match i % 3 {
            0 => packet.truncate(random.below(packet.len())),
            1 => (0..8).for_each(|_| {
                let at = random.below(packet.len());
                packet[at] = random.next() as u8;
            }),
            _ => packet = (0..random.below(1500)).map(|_| random.next() as u8).collect(),
        }
        match decoder.decode(&packet, &mut out) {
            Ok(frames) => assert!(out.len() == frames * 2 && frames <= 5760, "seed {SEED:#x}, round {i}"),
            Err(_) => refused += 1,
        }
        let _ = decoder.decode_fec(&packet, 960, &mut out);
    }
    println!("{refused} of 600 packets refused");
    assert!(refused > 50);
    let mut heard = Vec::new();
    for packet in &good {
        decoder.decode(packet, &mut out).unwrap();
        heard.extend_from_slice(&channel(&out, 2, 0));
    }
    let (hz, amplitude) = peak(&heard[24_000..], OPUS_RATE, 300.0, 600.0);
    assert!((hz - 440.0).abs() < 1.0 && db(amplitude / 0.5).abs() < 1.0, "{hz} Hz {amplitude}");
}

#[test]
fn resampling_keeps_frequency_level_and_time() {
    for (from, to) in [
        (8_000, 48_000),
        (16_000, 48_000),
        (44_100, 48_000),
        (48_000, 16_000),
        (192_000, 8_000),
        (11_025, 44_100),
        (48_000, 48_000),
    ] {
        let mut resampler = Resampler::new(to, 1).unwrap();
        // Lengths that fit no chunk, as a file or a socket gives them.
        let (mut sent, mut heard, lengths) = (0, Vec::new(), [1usize, 160, 441, 37, 1000]);
        let start_us = 5_000_000;
        while sent < from as usize {
            let n = lengths[sent % 5];
            let ts = start_us + sent as i64 * 1_000_000 / i64::from(from);
            let out = resampler.process(&audio(sine(440.0, 0.5, from, 1, sent, n), from, 1, ts)).unwrap();
            let expected = start_us + heard.len() as i64 * 1_000_000 / i64::from(to);
            assert!(
                (out.timestamp_us - expected).abs() <= 300,
                "{from}->{to}: {} for {expected}",
                out.timestamp_us
            );
            assert_eq!((out.sample_rate, out.channels), (to, 1));
            heard.extend_from_slice(&out.samples);
            sent += n;
        }
        let lag_ms = (sent as f64 / f64::from(from) - heard.len() as f64 / f64::from(to)) * 1000.0;
        heard.extend_from_slice(&resampler.flush().unwrap().samples);
        let owed = (sent as f64 * f64::from(to) / f64::from(from)).ceil() as usize;
        assert!(heard.len().abs_diff(owed) <= 1, "{from}->{to}: {} of {owed} samples", heard.len());
        let middle = &heard[to as usize / 10..to as usize * 9 / 10];
        let (hz, amplitude) = peak(middle, to, 300.0, 600.0);
        // The first output sample is the first input sample: compared with a tone made at the new rate.
        let ideal = sine(440.0, 0.5, to, 1, to as usize / 10, middle.len());
        let worst = middle.iter().zip(&ideal).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!(
            "{from}->{to}: {hz:.1} Hz, {:+.3} dB, worst sample off by {worst:.4}, {lag_ms:.1} ms kept inside",
            db(amplitude / 0.5)
        );
        assert!((hz - 440.0).abs() < 0.2 && db(amplitude / 0.5).abs() < 0.1);
        // Where the filter's delay is no whole output sample, the rest of it, less than one sample, is in the timestamp.
        let one_sample = if to % from == 0 { 0.0 } else { 0.5 * std::f32::consts::TAU * 440.0 / to as f32 };
        assert!(worst < 0.005 + one_sample, "{worst}");
        assert!(lag_ms < 15.0, "{lag_ms}");
    }
}

#[test]
fn what_the_lower_rate_cannot_carry_is_filtered_out() {
    let mut resampler = Resampler::new(16_000, 1).unwrap();
    let out = resampler.process(&audio(sine(9_500.0, 0.5, 48_000, 1, 0, 48_000), 48_000, 1, 0)).unwrap();
    // Unfiltered it would be heard at 16000 - 9500 Hz.
    let alias = db(amplitude_at(&out.samples[1600..], 16_000, 6_500.0) / 0.5);
    println!("alias at {alias:.0} dB");
    assert!(alias < -60.0);
}

#[test]
fn frames_that_make_no_sense_are_refused_and_the_stream_goes_on() {
    let mut resampler = Resampler::new(48_000, 2).unwrap();
    for (n, rate, channels) in [
        (10, 7_999, 1),
        (10, 192_001, 1),
        (10, 0, 1),
        (10, 48_000, 0),
        (10, 48_000, 3),
        (11, 48_000, 2),
        (80_001, 8_000, 1),
    ] {
        let refused = resampler.process(&audio(vec![0.0; n], rate, channels, 0));
        assert!(matches!(refused, Err(MediaError::AudioFormat { .. })), "{n} {rate} {channels}");
    }
    assert!(Resampler::new(7_999, 1).is_err() && Resampler::new(48_000, 3).is_err());
    let mut bad = sine(440.0, 0.5, 16_000, 1, 0, 16_000);
    bad[100] = f32::NAN;
    let out = resampler.process(&audio(bad, 16_000, 1, i64::MAX)).unwrap();
    assert!(out.samples.iter().all(|s| s.is_finite()) && out.samples.len() > 90_000);
    // Another rate in the middle starts afresh.
    let out = resampler.process(&audio(sine(440.0, 0.5, 8_000, 2, 0, 8_000), 8_000, 2, 77)).unwrap();
    assert_eq!(out.timestamp_us, 77);
}

#[test]
fn a_framer_cuts_exact_frames_and_carries_timestamps() {
    for (rate, channels) in [(44_100, 1), (16_000, 2), (48_000, 2), (8_000, 1)] {
        let mut framer = AudioFramer::new(2, 20).unwrap();
        let (mut sent, mut heard, mut frame, mut count) = (0, Vec::new(), Vec::new(), 0);
        while sent < rate as usize {
            let n = 1 + sent % 700;
            let ts = 1_000_000 + sent as i64 * 1_000_000 / i64::from(rate);
            framer.push(&audio(sine(440.0, 0.5, rate, channels, sent, n), rate, channels, ts)).unwrap();
            sent += n;
            while let Some(ts) = framer.pop(&mut frame) {
                assert_eq!(frame.len(), 1920);
                let expected = 1_000_000 + count * 20_000;
                assert!((ts - expected).abs() <= 300, "{rate}: {ts} for {expected}");
                count += 1;
                heard.extend_from_slice(&frame);
            }
        }
        assert!(count >= 48, "{count}");
        assert_eq!(framer.dropped_samples(), 0);
        let (hz, amplitude) = peak(&channel(&heard, 2, 1)[4_800..], OPUS_RATE, 300.0, 600.0);
        assert!((hz - 440.0).abs() < 0.2 && db(amplitude / 0.5).abs() < 0.1, "{rate}: {hz} {amplitude}");
    }
}

#[test]
fn a_framer_nobody_empties_stays_bounded_and_keeps_the_newest() {
    let mut framer = AudioFramer::with_limit(1, 20, 100).unwrap();
    for i in 0..500 {
        // A clock that jumps with every frame, which is the worst case for the notes kept of it.
        framer.push(&audio(vec![0.1; 480], 48_000, 1, i * 1_000_000)).unwrap();
        assert!(framer.buffered_us() <= 100_000);
    }
    assert_eq!(framer.dropped_samples(), 500 * 480 - 4_800);
    let mut frame = Vec::new();
    assert_eq!(framer.pop(&mut frame), Some(490_000_000));
    assert_eq!(framer.pop(&mut frame), Some(492_000_000));
}

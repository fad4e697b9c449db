//! Limiter, gain control, noise suppression and level meter on speech, tones and noise.

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use proptest::prelude::*;
use remotemedia_media::{AudioFrame, Resampler};
use remotemedia_pipeline::*;

fn one(node: &str) -> Session {
    session(&format!("{{version: v1, nodes: [{{id: n, {node}}}]}}"), &Registry::builtin())
}

fn frame(samples: Vec<f32>, sample_rate: u32, channels: u16, timestamp_us: i64) -> Item {
    Item::new(Data::Audio(AudioFrame { samples: Arc::new(samples), sample_rate, channels, timestamp_us }))
}

/// Sends a sound through a node in frames of `ms`, and puts together what comes out: samples, and when the first was.
fn through(session: &Session, sound: &[f32], rate: u32, channels: u16, ms: usize) -> (Vec<f32>, i64) {
    let chunk = rate as usize * ms / 1000 * usize::from(channels);
    let out: Arc<Mutex<(Vec<f32>, Option<i64>)>> = Arc::default();
    for (index, samples) in sound.chunks(chunk).enumerate() {
        let item = frame(samples.to_vec(), rate, channels, (index * ms * 1000) as i64);
        let into = out.clone();
        let sink = Arc::new(move |item: Item| {
            let Data::Audio(frame) = item.data else { return };
            assert_eq!(frame.timestamp_us, item.timestamp_us);
            let mut into = into.lock().unwrap();
            let start = *into.1.get_or_insert(frame.timestamp_us);
            let expected = start + into.0.len() as i64 / i64::from(channels) * 1_000_000 / i64::from(rate);
            assert!((frame.timestamp_us - expected).abs() <= 50, "{} is not {expected}", frame.timestamp_us);
            into.0.extend(frame.samples.iter());
        });
        session.push(None, item, None, sink).unwrap();
        // One at a time: nothing is to be dropped.
        eventually(|| session.stats().ingress[0].1.depth == 0);
    }
    eventually(|| session.stats().nodes[0].latency.count == sound.chunks(chunk).count() as u64);
    // The count is there before the samples are.
    let pass = run(session, None, frame(Vec::new(), rate, channels, i64::MAX / 2));
    drop(pass);
    let (samples, start) = std::mem::take(&mut *out.lock().unwrap());
    (samples, start.unwrap())
}

fn db(value: f64) -> f64 {
    20.0 * value.log10()
}

fn rms(samples: &[f32]) -> f64 {
    (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len().max(1) as f64).sqrt()
}

fn peak(samples: &[f32]) -> f32 {
    samples.iter().fold(0.0, |peak, sample| peak.max(sample.abs()))
}

/// A noise that is the same in every run.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Both sentences at 48 kHz, with pauses of `pause` seconds before, between and behind; and where they are.
fn speech(pause: f64) -> (Vec<f32>, Vec<std::ops::Range<usize>>) {
    let bytes = include_bytes!("data/speech_16k.s16");
    let all: Vec<f32> =
        bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0).collect();
    let quiet = vec![0.0; (pause * 48_000.0) as usize];
    let mut out = quiet.clone();
    let mut places = Vec::new();
    for sentence in [&all[..46_389], &all[46_389..]] {
        let mut resampler = Resampler::new(48_000, 1).unwrap();
        let frame = AudioFrame {
            samples: Arc::new(sentence.to_vec()),
            sample_rate: 16_000,
            channels: 1,
            timestamp_us: 0,
        };
        let start = out.len();
        out.extend(resampler.process(&frame).unwrap().samples.iter());
        out.extend(resampler.flush().unwrap().samples.iter());
        places.push(start..out.len());
        out.extend(&quiet);
    }
    (out, places)
}

#[test]
fn the_limiter_never_lets_a_sample_over_its_ceiling_and_leaves_the_rest_alone() {
    let ceiling = 10f64.powf(-3.0 / 20.0) as f32;
    let session = one("node_type: Limiter, params: {ceiling_db: -3, lookahead_ms: 5, release_ms: 50}");
    // Quiet, a burst 24 dB over, quiet, single spikes, quiet; left and right differ.
    let mut noise = noise(7);
    let sound: Vec<f32> = (0..48_000 * 3)
        .flat_map(|n: usize| {
            let t = n as f64 / 48_000.0;
            let tone = (t * 440.0 * std::f64::consts::TAU).sin() as f32;
            let level = match n {
                40_000..60_000 => 11.0,
                100_000..100_020 => 3.0 * noise(),
                n if (70_000..110_000).contains(&n) && n % 9_973 == 0 => 40.0,
                _ => 0.4,
            };
            [tone * level, tone * 0.3]
        })
        .collect();
    let (out, start) = through(&session, &sound, 48_000, 2, 20);
    assert!(peak(&out) <= ceiling, "{} is over {ceiling}", peak(&out));
    assert_eq!(start, 0, "the first sample that comes out is the first that went in");
    let delay = 48_000 * 5 / 1000 - 1;
    assert_eq!(out.len(), sound.len() - delay * 2, "it keeps one window back");
    // Long before and long after, it is the same to the bit.
    assert!(out[..38_000 * 2] == sound[..38_000 * 2], "before the burst");
    let later = 140_000 * 2..143_000 * 2;
    assert!(out[later.clone()] == sound[later], "long after the last spike");
    // The burst itself is brought to the ceiling, not far below it.
    let burst = &out[45_000 * 2..59_000 * 2];
    assert!(peak(burst) > ceiling * 0.97, "{}", peak(burst));
    // No click: the gain of the quiet right channel never jumps.
    let mut before = 1.0f32;
    let mut steepest = 0f32;
    for (sound, out) in sound.chunks_exact(2).zip(out.chunks_exact(2)) {
        if sound[1].abs() > 0.2 {
            let gain = out[1] / sound[1];
            steepest = steepest.max((gain - before).abs());
            before = gain;
        } else if sound[1].abs() > 0.05 {
            before = out[1] / sound[1];
        }
    }
    assert!(steepest < 0.03, "the gain jumped by {steepest}");
}

#[test]
fn the_limiter_starts_afresh_after_a_gap_and_gives_out_what_it_held() {
    let session = one("node_type: Limiter, params: {lookahead_ms: 10}");
    let times: Arc<Mutex<Vec<(i64, usize)>>> = Arc::default();
    for at in [0, 20_000, 1_000_000] {
        let into = times.clone();
        let sink = Arc::new(move |item: Item| {
            let Data::Audio(frame) = &item.data else { return };
            into.lock().unwrap().push((item.timestamp_us, frame.frames()));
        });
        session.push(None, audio(20, at), None, sink).unwrap();
        eventually(|| session.stats().ingress[0].1.depth == 0);
    }
    eventually(|| session.stats().nodes[0].items_out == 4);
    // The window of 480 frames begins with the frame that it was filled by.
    assert_eq!(*times.lock().unwrap(), [(0, 481), (10_021, 960), (30_021, 479), (1_000_000, 481)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any numbers, none among them, in frames of any length: never over the ceiling, always a number.
    #[test]
    fn no_sample_is_ever_over_the_limiters_ceiling(
        sound in proptest::collection::vec(
            prop_oneof![
                8 => -4.0f32..4.0,
                1 => Just(f32::NAN),
                1 => Just(f32::INFINITY),
                1 => Just(1e38f32),
                1 => Just(0.0f32),
            ],
            2..4000,
        ),
        ceiling in -60.0f64..0.0,
        gain in -24.0f64..48.0,
        lookahead in 0.5f64..20.0,
        rate in prop_oneof![Just(8_000u32), Just(44_100), Just(192_000)],
        ms in 1usize..40,
    ) {
        let session = one(&format!(
            "node_type: Limiter, params: {{ceiling_db: {ceiling}, gain_db: {gain}, lookahead_ms: {lookahead}}}"
        ));
        let ceiling = 10f64.powf(ceiling / 20.0) as f32;
        let mut at = 0;
        for chunk in sound.chunks(rate as usize * ms / 1000) {
            let frames = chunk.len() as i64;
            if let Some(item) = run(&session, None, frame(chunk.to_vec(), rate, 1, at)).unwrap() {
                let Data::Audio(frame) = item.data else { unreachable!() };
                for sample in frame.samples.iter() {
                    prop_assert!(sample.abs() <= ceiling, "{} over {}", sample, ceiling);
                }
            }
            at += frames * 1_000_000 / i64::from(rate);
        }
    }
}

#[test]
fn gain_control_brings_near_and_far_speech_to_one_level() {
    let (spoken, places) = speech(0.4);
    for (name, level) in [("far", -38.0), ("usual", -23.0), ("near", -8.0)] {
        let now = db(rms(&spoken[places[0].clone()]));
        let gain = 10f64.powf((level - now) / 20.0) as f32;
        let once: Vec<f32> = spoken.iter().map(|sample| (sample * gain).clamp(-1.0, 1.0)).collect();
        // Three times the same, so that it has time to settle.
        let sound = [once.clone(), once.clone(), once].concat();
        let (out, _) = through(&one("node_type: Agc"), &sound, 48_000, 1, 20);
        assert_eq!(out.len(), sound.len());
        let last = sound.len() * 2 / 3;
        let level = db(rms(&out[last + places[0].start..last + places[0].end]));
        println!("{name}: {level:.1} dBFS");
        assert!((level - -20.0).abs() < 3.0, "{name} speech came out at {level:.1} dBFS");
        assert!(peak(&out) <= 1.0);
    }
}

#[test]
fn gain_control_leaves_pauses_alone_and_does_not_exceed_its_bounds() {
    let (spoken, places) = speech(0.4);
    let mut noise = noise(3);
    // Speech at a third, then ten seconds of faint noise.
    let mut sound: Vec<f32> = spoken.iter().map(|sample| sample * 0.33).collect();
    let end = sound.len();
    sound.extend((0..480_000).map(|_| noise() * 0.0008));
    let (out, _) = through(&one("node_type: Agc, params: {max_gain_db: 12}"), &sound, 48_000, 1, 20);
    let gain_of = |range: std::ops::Range<usize>| db(rms(&out[range.clone()])) - db(rms(&sound[range]));
    let (first, last) = (gain_of(end + 4800..end + 48_000), gain_of(sound.len() - 48_000..sound.len()));
    assert!((first - last).abs() < 0.1, "the noise's gain went from {first:.2} to {last:.2} dB");
    assert!(gain_of(places[1].clone()) < 12.1);
}

#[test]
fn noise_suppression_raises_the_signal_to_noise_ratio_of_speech_by_10_db() {
    let (clean, places) = speech(1.5);
    let speech_power = rms(&clean[places[0].clone()]);
    let mut white = noise(11);
    for (name, rate) in [("48 kHz", 48_000), ("16 kHz", 16_000)] {
        let mut before = 0f32;
        let noisy: Vec<f32> = clean
            .iter()
            .map(|sample| {
                // A little darker than white, as rooms and fans are.
                before = 0.6 * before + 0.4 * white();
                sample + before * (speech_power * 1.1) as f32
            })
            .collect();
        let sound = if rate == 48_000 { noisy.clone() } else { convert(&noisy, 48_000, rate) };
        let (out, start) = through(&one("node_type: NoiseSuppression"), &sound, rate, 1, 20);
        assert!(start.abs() <= 200, "{name}: begins at {start} us");
        let at = |index: usize| index * rate as usize / 48_000;
        let ratio = |sound: &[f32]| {
            // Half a second for it to find out what is noise.
            let quiet = rms(&sound[at(places[0].end) + at(24_000)..at(places[1].start) - at(4_800)]);
            let loud = rms(&sound[at(places[1].start)..at(places[1].end)]);
            (db(loud), db(quiet))
        };
        let ((loud_in, quiet_in), (loud_out, quiet_out)) = (ratio(&sound), ratio(&out));
        let gained = (loud_out - quiet_out) - (loud_in - quiet_in);
        println!(
            "{name}: {:.1} dB -> {:.1} dB, noise down by {:.1} dB, speech by {:.1} dB",
            loud_in - quiet_in,
            loud_out - quiet_out,
            quiet_in - quiet_out,
            loud_in - loud_out
        );
        assert!(gained >= 10.0, "{name}: the ratio rose by {gained:.1} dB only");
        assert!(loud_in - loud_out < 4.0, "{name}: the speech fell by {:.1} dB", loud_in - loud_out);
        // And it is the same speech at the same time: it resembles the clean one at no shift more than at none.
        let reference = if rate == 48_000 { clean.clone() } else { convert(&clean, 48_000, rate) };
        let shifted = |shift: isize| -> f64 {
            let range = at(places[1].start) + 2000..at(places[1].end) - 2000;
            range.map(|n| f64::from(reference[n]) * f64::from(out[(n as isize + shift) as usize])).sum()
        };
        let best = (-600isize..=600).max_by(|a, b| shifted(*a).total_cmp(&shifted(*b))).unwrap();
        assert!(best.abs() <= 24, "{name}: it is {best} samples off");
    }
}

#[test]
fn noise_suppression_is_a_matter_of_degree_and_keeps_channels_apart() {
    let mut white = noise(5);
    let sound: Vec<f32> = (0..48_000 * 3).flat_map(|_| [white() * 0.05, 0.0]).collect();
    let (half, _) =
        through(&one("node_type: NoiseSuppression, params: {strength: 0.5}"), &sound, 48_000, 2, 10);
    let (none, _) =
        through(&one("node_type: NoiseSuppression, params: {strength: 0}"), &sound, 48_000, 2, 10);
    let (full, _) = through(&one("node_type: NoiseSuppression"), &sound, 48_000, 2, 10);
    let left = |sound: &[f32]| sound.iter().step_by(2).copied().collect::<Vec<f32>>();
    let right = |sound: &[f32]| sound.iter().skip(1).step_by(2).copied().collect::<Vec<f32>>();
    let quiet = peak(&right(&half));
    let (before, half, full) = (left(&sound), left(&half), left(&full));
    let tail = 96_000..140_000;
    assert!(db(rms(&full[tail.clone()])) < db(rms(&before[tail.clone()])) - 3.0);
    for n in tail.clone() {
        assert!((half[n] - (before[n] + full[n]) / 2.0).abs() < 1e-6, "half of it is half of both");
    }
    assert!(left(&none)[..tail.end] == before[..tail.end], "nothing is gone");
    assert_eq!(quiet, 0.0);
}

fn convert(sound: &[f32], from: u32, to: u32) -> Vec<f32> {
    let mut resampler = Resampler::new(to, 1).unwrap();
    let mut out = Vec::new();
    for chunk in sound.chunks(from as usize) {
        let samples = Arc::new(chunk.to_vec());
        let frame = AudioFrame { samples, sample_rate: from, channels: 1, timestamp_us: 0 };
        out.extend(resampler.process(&frame).unwrap().samples.iter());
    }
    out.extend(resampler.flush().unwrap().samples.iter());
    out
}

#[test]
fn the_level_meter_tells_rms_and_peak_at_its_rate() {
    let session = one("node_type: LevelMeter, params: {interval_ms: 100}");
    let levels: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let into = levels.clone();
    let hook: OutputHook = Arc::new(move |_, _, item| {
        let Data::Json(value) = &item.data else { panic!("not json") };
        into.lock().unwrap().push((**value).clone());
    });
    session.tap("n.level", hook).unwrap();
    let send = |item: Item| {
        let before = item.data.clone();
        let out = run(&session, None, item).unwrap().unwrap();
        let (Data::Audio(before), Data::Audio(after)) = (before, out.data) else { panic!() };
        assert!(Arc::ptr_eq(&before.samples, &after.samples), "the sound passes as it is");
    };
    for n in 0..50 {
        send(tone(1000.0, 0.1, 48_000, 20, n * 20_000));
    }
    let told = || {
        // The sound is there a little before its level; an item of no sound comes behind both.
        drop(run(&session, None, frame(Vec::new(), 48_000, 1, 0)));
        drop(run(&session, None, frame(Vec::new(), 48_000, 1, 0)));
        std::mem::take(&mut *levels.lock().unwrap())
    };
    let first = told();
    assert_eq!(first.len(), 10, "ten in a second of sound");
    for level in first {
        assert_eq!(level["type"], "level");
        assert!((level["peakDb"].as_f64().unwrap() - -20.0).abs() < 0.02, "{level}");
        assert!((level["rmsDb"].as_f64().unwrap() - -23.01).abs() < 0.02, "{level}");
        assert_eq!((level["clipped"].as_u64(), level["durationMs"].as_f64()), (Some(0), Some(100.0)));
    }
    session.set_param("n", "interval_ms", 10.into()).unwrap();
    send(frame(vec![0.0; 960], 48_000, 1, 1_000_000));
    send(frame([vec![1.5; 10], vec![f32::NAN; 10], vec![0.0; 460]].concat(), 48_000, 1, 1_020_000));
    let told = told();
    assert_eq!(told[0]["rmsDb"], -120.0);
    assert_eq!((&told[1]["clipped"], &told[1]["peakDb"]), (&10.into(), &3.52.into()), "{}", told[1]);
}

/// What a `Vad` tells of a sound.
fn spans(session: &Session, sound: &[f32], rate: u32, channels: u16) -> Vec<serde_json::Value> {
    let events: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let into = events.clone();
    let hook: OutputHook = Arc::new(move |_, _, item| {
        let Data::Json(value) = &item.data else { panic!("not json") };
        assert_eq!(value["atUs"], item.timestamp_us);
        into.lock().unwrap().push((**value).clone());
    });
    let tap = session.tap("n.events", hook).unwrap();
    let (out, start) = through(session, sound, rate, channels, 20);
    assert!(out == sound && start == 0, "the sound passes as it is");
    session.remove_tap(tap);
    std::mem::take(&mut *events.lock().unwrap())
}

#[test]
fn vad_finds_where_somebody_speaks_and_nothing_else() {
    if !onnx_runtime() {
        return;
    }
    let (clean, places) = speech(0.9);
    let mut white = noise(23);
    let loud = rms(&clean[places[0].clone()]) as f32;
    // As it is; with noise 15 dB below; and as a browser sends it, in stereo.
    let noisy: Vec<f32> = clean.iter().map(|sample| sample + white() * loud * 0.3).collect();
    let stereo: Vec<f32> = clean.iter().flat_map(|sample| [*sample, *sample * 0.8]).collect();
    let narrow = convert(&clean, 48_000, 16_000);
    for (name, sound, rate, channels) in [
        ("clean", &clean, 48_000, 1),
        ("noisy", &noisy, 48_000, 1),
        ("stereo", &stereo, 48_000, 2),
        ("16 kHz", &narrow, 16_000, 1),
    ] {
        let session = one("node_type: Vad, params: {min_silence_ms: 500}");
        let told = spans(&session, sound, rate, channels);
        let kinds: Vec<&str> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["speechStart", "speechEnd", "speechStart", "speechEnd"], "{name}: {told:?}");
        for (place, event) in places.iter().zip(told.chunks(2)) {
            let ms = |samples: usize| samples as f64 / 48.0;
            let at = |event: &serde_json::Value| event["atUs"].as_f64().unwrap() / 1000.0;
            let (start, end) = (at(&event[0]) - ms(place.start), at(&event[1]) - ms(place.end));
            println!("{name}: starts {start:+.0} ms and ends {end:+.0} ms off");
            assert!(start.abs() < 150.0 && end.abs() < 200.0, "{name}: {start:+.0} and {end:+.0} ms off");
            let duration = event[1]["durationMs"].as_f64().unwrap();
            assert!((duration - (at(&event[1]) - at(&event[0]))).abs() < 0.1);
        }
    }
    let tone: Vec<f32> =
        (0..48_000 * 3).map(|n| (n as f32 * 440.0 * std::f32::consts::TAU / 48_000.0).sin() * 0.3).collect();
    let hiss: Vec<f32> = (0..48_000 * 3).map(|_| white() * 0.1).collect();
    for (name, sound) in [("a tone", &tone), ("noise", &hiss), ("silence", &vec![0.0; 144_000])] {
        let told = spans(&one("node_type: Vad"), sound, 48_000, 1);
        assert!(told.is_empty(), "{name} is no speech: {told:?}");
    }
}

#[test]
fn vad_tells_of_each_frame_and_ends_speech_that_breaks_off() {
    if !onnx_runtime() {
        return;
    }
    let (clean, places) = speech(0.5);
    let session = one("node_type: Vad");
    let events: Arc<Mutex<Vec<(String, i64)>>> = Arc::default();
    let into = events.clone();
    let hook: OutputHook = Arc::new(move |peer, _, item| {
        assert_eq!(peer.map(|peer| &**peer), Some("ann"));
        let Data::Json(value) = &item.data else { panic!("not json") };
        into.lock().unwrap().push((value["type"].as_str().unwrap().to_owned(), item.timestamp_us));
    });
    session.tap("n.events", hook).unwrap();
    let mut speaking = Vec::new();
    let stop = places[0].start + 48_000 * 3 / 2;
    for (n, samples) in clean[..stop].chunks(960).enumerate() {
        let item = frame(samples.to_vec(), 48_000, 1, n as i64 * 20_000);
        let out = run(&session, Some("ann"), item).unwrap().unwrap();
        let metadata = out.metadata.unwrap();
        let probability: f64 = metadata["speechProbability"].parse().unwrap();
        assert!((0.0..=1.0).contains(&probability));
        speaking.push(metadata["speech"] == "true");
    }
    assert!(!speaking[..20].contains(&true));
    assert!(speaking[40..].iter().filter(|speaking| **speaking).count() > speaking.len() * 7 / 10 - 40);
    // Nothing comes for ten seconds; then silence does.
    let end = stop as i64 * 1000 / 48;
    run(&session, Some("ann"), frame(vec![0.0; 960], 48_000, 1, end + 10_000_000)).unwrap();
    run(&session, Some("ann"), frame(Vec::new(), 48_000, 1, end + 10_020_000)).unwrap();
    let events = events.lock().unwrap().clone();
    assert_eq!(
        events.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(),
        ["speechStart", "speechEnd"]
    );
    assert!((events[1].1 - end).abs() < 120_000, "it ended when the sound did: {events:?}, {end}");
}

#[test]
fn chunk_cuts_sound_into_pieces_of_one_length() {
    let sound: Vec<f32> = (0..9_600).map(|n| n as f32 / 9_600.0).collect();
    let pieces: Arc<Mutex<Vec<(usize, i64)>>> = Arc::default();
    for (params, expected) in [("samples: 512", vec![512; 18]), ("ms: 30", vec![1440; 6])] {
        let session = one(&format!("node_type: Chunk, params: {{{params}}}"));
        let into = pieces.clone();
        let hook: OutputHook = Arc::new(move |_, _, item| {
            let Data::Audio(frame) = &item.data else { return };
            into.lock().unwrap().push((frame.frames(), frame.timestamp_us));
        });
        session.tap("n", hook).unwrap();
        let (out, start) = through(&session, &sound, 48_000, 1, 7);
        let pieces = std::mem::take(&mut *pieces.lock().unwrap());
        assert!(out == sound[..out.len()] && start == 0);
        assert_eq!(pieces.iter().map(|(frames, _)| *frames).collect::<Vec<_>>(), expected);
        for (n, (frames, us)) in pieces.iter().enumerate() {
            assert!((us - (n * frames * 1000 / 48) as i64).abs() <= 45, "{params}: piece {n} at {us}");
        }
    }
    let tiny = one("node_type: Chunk, params: {samples: 1}");
    assert!(run(&tiny, None, audio(20, 0)).is_err(), "960 pieces of one item are too many");
}

//! The conference mixer under virtual time: who hears whom, how loud, and that nothing clicks.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{XorShift, amplitude_at, audio, db};
use proptest::prelude::*;
use remotemedia_media::{AudioFrame, AudioSource, Mixer, MixerConfig, MixerEvent, OPUS_RATE, Pulled};

const RATE: f64 = OPUS_RATE as f64;
const AMPLITUDE: f64 = 0.1;

/// A person with a tone of its own, a clock of its own, and a network of its own.
struct Person {
    name: &'static str,
    hz: f64,
    amplitude: f64,
    /// Its clock runs this much faster, in parts per million.
    ppm: f64,
    /// Each frame is late by up to this much.
    jitter: Duration,
    frame_ms: f64,
    first: Duration,
    /// Silent from, to: nothing is sent.
    stalls: Option<(Duration, Duration)>,
    sent: u64,
}

impl Person {
    fn new(name: &'static str, hz: f64) -> Person {
        Person {
            name,
            hz,
            amplitude: AMPLITUDE,
            ppm: 0.0,
            jitter: Duration::ZERO,
            frame_ms: 20.0,
            first: Duration::ZERO,
            stalls: None,
            sent: 0,
        }
    }

    /// When it sends its next frame.
    fn due(&self) -> Duration {
        let ms = (self.sent + 1) as f64 * self.frame_ms / (1.0 + self.ppm / 1e6);
        self.first + Duration::from_secs_f64(ms / 1000.0)
    }

    fn frame(&mut self) -> AudioFrame {
        let frames = (RATE * self.frame_ms / 1000.0) as u64;
        let first = self.sent * frames;
        self.sent += 1;
        let sample =
            |i: u64| self.amplitude * (std::f64::consts::TAU * self.hz * (first + i) as f64 / RATE).sin();
        audio((0..frames).map(|i| sample(i) as f32).collect(), OPUS_RATE, 1, 0)
    }
}

/// Runs people and a mixer against one virtual clock.
struct World {
    mixer: Mixer<&'static str>,
    people: Vec<Person>,
    start: Instant,
    now: Duration,
    random: XorShift,
    /// What each heard, and what the silent hear under "".
    heard: BTreeMap<&'static str, Vec<f32>>,
    /// How many ticks each had a mix of its own.
    own: BTreeMap<&'static str, u32>,
    events: Vec<(Duration, MixerEvent<&'static str>)>,
    /// Frames under way, by when they come.
    flying: Vec<(Duration, &'static str, AudioFrame)>,
}

impl World {
    fn new(config: MixerConfig, people: Vec<Person>) -> World {
        World {
            mixer: Mixer::new(config).unwrap(),
            people,
            start: Instant::now(),
            now: Duration::ZERO,
            random: XorShift(0x5eed),
            heard: BTreeMap::new(),
            own: BTreeMap::new(),
            events: Vec::new(),
            flying: Vec::new(),
        }
    }

    fn run(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        loop {
            let sends = self.people.iter().map(Person::due).min().unwrap_or(Duration::MAX);
            let comes = self.flying.iter().map(|f| f.0).min().unwrap_or(Duration::MAX);
            let ticks = self.mixer.poll_timeout().map_or(Duration::MAX, |at| at - self.start);
            let next = sends.min(comes).min(ticks);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if next == sends {
                self.send();
            } else if next == comes {
                self.come();
            } else {
                self.tick();
            }
        }
        self.now = end;
    }

    fn send(&mut self) {
        let person = self.people.iter_mut().min_by_key(|person| person.due()).unwrap();
        let at = person.due();
        let stalled = person.stalls.is_some_and(|(from, to)| (from..to).contains(&at));
        let late = Duration::from_micros(self.random.below(person.jitter.as_micros() as usize + 1) as u64);
        // Frames stay in order, as they do behind a jitter buffer.
        let after = self.flying.iter().filter(|f| f.1 == person.name).map(|f| f.0).max().unwrap_or(at);
        let (name, frame) = (person.name, person.frame());
        if !stalled {
            self.flying.push(((at + late).max(after), name, frame));
        }
    }

    fn come(&mut self) {
        let first = (0..self.flying.len()).min_by_key(|i| self.flying[*i].0).unwrap();
        let (at, name, frame) = self.flying.remove(first);
        self.mixer.push(&name, &frame, self.start + at).unwrap();
    }

    fn tick(&mut self) {
        while let Some(mixed) = self.mixer.tick(self.start + self.now) {
            let own: BTreeMap<_, _> = mixed.own.into_iter().collect();
            for listener in self.people.iter().map(|p| p.name).chain([""]) {
                let frame = own.get(listener).unwrap_or(&mixed.common);
                self.heard.entry(listener).or_default().extend(frame.samples.iter());
            }
            for name in own.keys() {
                *self.own.entry(name).or_default() += 1;
            }
        }
        while let Some(event) = self.mixer.poll_event() {
            self.events.push((self.now, event));
        }
    }

    /// The last `seconds` that this one heard.
    fn last(&self, listener: &str, seconds: f64) -> &[f32] {
        let heard = &self.heard[listener];
        &heard[heard.len() - (seconds * RATE) as usize..]
    }
}

fn five() -> Vec<Person> {
    let tones = [("ann", 300.0), ("bob", 440.0), ("cy", 700.0), ("dee", 1000.0), ("eve", 1300.0)];
    let mut people: Vec<Person> = tones.iter().map(|(name, hz)| Person::new(name, *hz)).collect();
    // Nobody sends at the same time as another.
    for (index, person) in people.iter_mut().enumerate() {
        person.first = Duration::from_micros(3_700 * index as u64);
    }
    people
}

/// The largest second difference: a step of one sample shows as large as it is, a tone hardly at all.
fn roughness(samples: &[f32]) -> f64 {
    samples.windows(3).map(|w| f64::from((w[2] - 2.0 * w[1] + w[0]).abs())).fold(0.0, f64::max)
}

/// That of these tones at their loudest.
fn smooth(people: &[Person]) -> f64 {
    people.iter().map(|p| p.amplitude * (std::f64::consts::TAU * p.hz / RATE).powi(2)).sum()
}

/// Each hears each other one within `tolerance_db` of what was sent, and itself at least 40 dB below that.
fn check_mix_minus(world: &World, seconds: f64, tolerance_db: f64) {
    for listener in &world.people {
        let heard = world.last(listener.name, seconds);
        for person in &world.people {
            // The listener's clock is ours: a sender's tone comes at the sender's speed.
            let hz = person.hz * (1.0 + person.ppm / 1e6);
            let level = db(amplitude_at(heard, OPUS_RATE, hz) / person.amplitude);
            if person.name == listener.name {
                assert!(level < -40.0, "{} hears itself at {level:.1} dB", listener.name);
            } else {
                assert!(
                    level.abs() < tolerance_db,
                    "{} hears {} at {level:.2} dB",
                    listener.name,
                    person.name
                );
            }
        }
    }
}

#[test]
fn everyone_hears_everyone_else_and_not_itself() {
    for tick_ms in [10, 20] {
        let mut world = World::new(MixerConfig { tick_ms, ..MixerConfig::default() }, five());
        world.run(3.0);
        check_mix_minus(&world, 1.0, 0.05);
        for listener in ["ann", "bob", "cy", "dee", "eve", ""] {
            let rough = roughness(&world.heard[listener]);
            assert!(rough < 1.5 * smooth(&world.people), "{listener}: {rough}");
        }
        let inputs: Vec<_> = world.mixer.inputs().map(|(_, stats)| stats).collect();
        assert!(inputs.iter().all(|s| s.underruns == 0 && s.heard), "{inputs:?}");
    }
}

#[test]
fn clocks_that_are_off_by_200_ppm_are_followed_for_a_minute_without_a_click() {
    let mut people = five();
    for (person, ppm) in people.iter_mut().zip([200.0, -200.0, 0.0, 130.0, -200.0]) {
        person.ppm = ppm;
        person.jitter = Duration::from_millis(2);
    }
    let mut world = World::new(MixerConfig::default(), people);
    world.run(60.0);
    check_mix_minus(&world, 2.0, 0.2);
    let rough = roughness(&world.heard[""]);
    assert!(rough < 1.5 * smooth(&world.people), "{rough}");
    for (name, stats) in world.mixer.inputs() {
        let person = world.people.iter().find(|p| p.name == *name).unwrap();
        assert_eq!((stats.underruns, stats.concealed_ticks), (0, 0), "{name}: {stats:?}");
        assert!((stats.drift_ppm - person.ppm).abs() < 40.0, "{name}: {stats:?}");
        assert!(stats.buffered_us < 60_000, "{name}: {stats:?}");
    }
}

#[test]
fn jitter_is_met_with_more_delay_and_only_as_much() {
    let mut people = five();
    people[1].jitter = Duration::from_millis(40);
    let mut world = World::new(MixerConfig::default(), people);
    world.run(10.0);
    let before: BTreeMap<_, _> = world.mixer.inputs().map(|(n, s)| (*n, s.underruns)).collect();
    world.run(20.0);
    let after: BTreeMap<_, _> = world.mixer.inputs().map(|(n, s)| (*n, s)).collect();
    assert!(after["bob"].underruns <= before["bob"] + 1, "{:?} then {:?}", before["bob"], after["bob"]);
    assert!(after["bob"].buffered_us < 90_000, "{:?}", after["bob"]);
    assert!(after["ann"].buffered_us < 45_000, "{:?}", after["ann"]);
    check_mix_minus(&world, 1.0, 1.0);
}

#[test]
fn one_who_stalls_fades_out_and_back_and_the_others_hear_each_other_throughout() {
    let mut people = five();
    people[2].stalls = Some((Duration::from_secs(3), Duration::from_secs(6)));
    let mut world = World::new(MixerConfig::default(), people);
    world.run(9.0);
    check_mix_minus(&world, 1.0, 0.05);
    let rough = roughness(&world.heard["ann"]);
    assert!(rough < 2.0 * smooth(&world.people), "{rough}");
    // In each tenth of a second of the stall the others are there, and "cy" is not.
    for start in (32..58).step_by(1) {
        let at = (f64::from(start) / 10.0 * RATE) as usize;
        let heard = &world.heard["ann"][at..at + 4800];
        for person in &world.people[1..] {
            let level = db(amplitude_at(heard, OPUS_RATE, person.hz) / AMPLITUDE);
            if person.name == "cy" {
                assert!(level < -40.0, "at {start} tenths: {level:.1} dB");
            } else {
                assert!(level.abs() < 0.2, "{} at {start} tenths: {level:.2} dB", person.name);
            }
        }
    }
    assert_eq!(world.mixer.inputs().find(|(n, _)| **n == "cy").unwrap().1.underruns, 1);
}

#[test]
fn gain_mute_joining_and_leaving_take_effect_without_a_click() {
    let mut world = World::new(MixerConfig::default(), five());
    let level = |world: &World, hz| db(amplitude_at(world.last("", 0.5), OPUS_RATE, hz) / AMPLITUDE);
    world.run(1.0);
    world.mixer.set_gain(&"bob", -12.0);
    world.mixer.set_muted(&"dee", true);
    world.run(1.0);
    assert!((level(&world, 440.0) + 12.0).abs() < 0.1);
    assert!(level(&world, 1000.0) < -60.0);
    // Who is muted hears what the silent hear, and shares it.
    let own = world.own["dee"];
    world.run(1.0);
    assert_eq!(world.own["dee"], own);
    world.mixer.set_muted(&"dee", false);
    world.mixer.set_gain(&"bob", 0.0);
    let gone = world.people.remove(0);
    world.mixer.remove(&gone.name);
    world.run(1.0);
    assert!(level(&world, 300.0) < -60.0);
    assert_eq!(world.mixer.inputs().count(), 4);
    world.people.push(Person { first: world.now, ..Person::new("fay", 1900.0) });
    world.run(1.0);
    assert!(level(&world, 1900.0).abs() < 0.1 && level(&world, 1000.0).abs() < 0.1);
    world.people.push(gone);
    let most = 2.0 * smooth(&world.people);
    for (listener, heard) in world.heard.iter().filter(|(name, _)| **name != "fay") {
        let rough = roughness(heard);
        assert!(rough < most, "{listener}: {rough} of {most}");
    }
}

#[test]
fn the_silent_share_one_mix_and_those_who_speak_have_their_own() {
    let mut people = five();
    people[3].amplitude = 0.0;
    people[4].amplitude = 0.0003; // -73 dBFS: a quiet room.
    let mut world = World::new(MixerConfig::default(), people);
    world.run(2.0);
    let own: Vec<_> = world.own.keys().copied().collect();
    assert_eq!(own, ["ann", "bob", "cy"]);
    assert_eq!(world.heard["dee"], world.heard[""]);
    let level = db(amplitude_at(world.last("", 1.0), OPUS_RATE, 1300.0) / AMPLITUDE);
    assert!(level < -80.0, "a room below the gate is not heard: {level}");
}

#[test]
fn only_the_loudest_are_heard_and_places_change_hands_slowly() {
    let mut people = five();
    for (person, level) in people.iter_mut().zip([0.2, 0.1, 0.05, 0.11, 0.02]) {
        person.amplitude = level;
    }
    let config = MixerConfig { max_active: Some(2), ..MixerConfig::default() };
    let mut world = World::new(config, people);
    world.run(2.0);
    let heard =
        |world: &World| world.mixer.inputs().filter(|(_, s)| s.heard).map(|(n, _)| *n).collect::<Vec<_>>();
    let first = heard(&world);
    assert!(first.contains(&"ann") && first.len() == 2, "{first:?}");
    // A little louder than the one who has the place is not enough.
    let held = if first.contains(&"bob") { "dee" } else { "bob" };
    world.people.iter_mut().find(|p| p.name == held).unwrap().amplitude = 0.13;
    world.run(3.0);
    assert_eq!(heard(&world), first);
    // Much louder is, and then the place is kept.
    world.people.iter_mut().find(|p| p.name == held).unwrap().amplitude = 0.3;
    world.run(1.5);
    assert_eq!(heard(&world), if held == "dee" { ["ann", "dee"] } else { ["ann", "bob"] });
    world.mixer.set_max_active(None);
    world.run(0.5);
    assert_eq!(heard(&world).len(), 5);
    let most = 3.0 * smooth(&world.people);
    let rough = roughness(&world.heard[""]);
    assert!(rough < most, "{rough} of {most}");
}

#[test]
fn the_active_speaker_changes_with_who_is_clearly_louder_and_ends_in_silence() {
    let mut people = vec![Person::new("ann", 300.0), Person::new("bob", 440.0)];
    people[1].amplitude = 0.08;
    let mut world = World::new(MixerConfig::default(), people);
    world.run(1.0);
    let louder = |world: &mut World, name: &str, amplitude| {
        world.people.iter_mut().find(|p| p.name == name).unwrap().amplitude = amplitude;
    };
    // A cough, and then a word.
    louder(&mut world, "bob", 0.4);
    world.run(0.15);
    louder(&mut world, "bob", 0.08);
    world.run(1.0);
    assert_eq!(world.mixer.active_speaker(), Some(&"ann"));
    louder(&mut world, "bob", 0.4);
    world.run(1.0);
    louder(&mut world, "ann", 0.0);
    louder(&mut world, "bob", 0.0);
    world.run(4.0);
    let who: Vec<_> = world
        .events
        .iter()
        .map(|(_, MixerEvent::ActiveSpeaker { now, before })| (now.unwrap_or("-"), before.unwrap_or("-")))
        .collect();
    assert_eq!(who, [("ann", "-"), ("bob", "ann"), ("-", "bob")]);

    // The same where nothing comes in any more, and then the mixer rests.
    let mut world = World::new(MixerConfig::default(), vec![Person::new("ann", 300.0)]);
    world.run(1.0);
    assert_eq!(world.mixer.active_speaker(), Some(&"ann"));
    world.people.clear();
    world.run(4.0);
    assert_eq!(world.mixer.active_speaker(), None);
    assert_eq!(world.mixer.poll_timeout(), None);
}

#[test]
fn many_loud_voices_stay_within_full_scale() {
    let mut people = five();
    people.iter_mut().for_each(|person| person.amplitude = 0.9);
    let mut world = World::new(MixerConfig::default(), people);
    world.run(2.0);
    assert!(world.heard.values().flatten().all(|sample| sample.abs() <= 0.9));
    assert!(world.mixer.stats().limited_samples > 0);
    // Held down, but still each of them, and as loud as the others.
    let levels: Vec<f64> =
        world.people[1..].iter().map(|p| db(amplitude_at(world.last("ann", 1.0), OPUS_RATE, p.hz))).collect();
    let (least, most) = levels.iter().fold((f64::MAX, f64::MIN), |(l, m), x| (l.min(*x), m.max(*x)));
    assert!(most - least < 1.0, "{levels:?}");
    assert!(db(amplitude_at(world.last("ann", 1.0), OPUS_RATE, 300.0)) < most - 40.0);
}

/// Compared with handing each frame on at once, as a route without a mixer does.
#[test]
fn a_mixer_adds_one_tick_and_three_milliseconds_to_frames_without_jitter() {
    const HZ: f64 = 10.0;
    for (tick_ms, frame_ms) in [(20, 20.0), (10, 10.0), (20, 10.0), (10, 20.0)] {
        for phase in 0..5 {
            let first = Duration::from_micros(4_100 * phase);
            let person = Person { frame_ms, first, amplitude: 0.3, ..Person::new("ann", HZ) };
            let config = MixerConfig { tick_ms, ..MixerConfig::default() };
            let mut world = World::new(config, vec![person]);
            world.run(2.0);
            let heard = world.last("", 1.0);
            // When the first of these samples is played: each tick's samples are, from when it is given.
            let next = world.mixer.poll_timeout().unwrap() - world.start;
            let start = next.as_secs_f64() - 1.0;
            let (mut i, mut q) = (0.0, 0.0);
            for (index, sample) in heard.iter().enumerate() {
                let angle = std::f64::consts::TAU * HZ * (start + index as f64 / RATE);
                i += f64::from(*sample) * angle.sin();
                q += f64::from(*sample) * angle.cos();
            }
            // Frames handed on at once would be played from when they come: a frame's length after its capture began.
            let at_once = first.as_secs_f64() + frame_ms / 1000.0;
            let added_ms =
                1000.0 * ((-q).atan2(i) / (std::f64::consts::TAU * HZ) - at_once).rem_euclid(1.0 / HZ);
            let expected = f64::from(tick_ms) + 3.0;
            assert!((added_ms - expected).abs() < 0.6, "{tick_ms}/{frame_ms}: {added_ms:.2} ms");
        }
    }
}

#[test]
fn a_caller_who_is_late_gets_every_tick_up_to_a_point_and_then_goes_on_from_now() {
    let mut mixer = Mixer::new(MixerConfig::default()).unwrap();
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    // A hundred milliseconds at once, captured at 7 s.
    let silence = audio(vec![0.0; 4800], OPUS_RATE, 1, 7_000_000);
    mixer.push(&1, &silence, at(0)).unwrap();
    assert!(mixer.tick(at(19)).is_none());
    let stamps = |mixer: &mut Mixer<i32>, now| -> Vec<i64> {
        std::iter::from_fn(|| mixer.tick(now)).map(|mixed| mixed.common.timestamp_us).collect()
    };
    // Nothing before the first sound, which begins when a chunk and 3 ms have passed; at 20 ms that isn't so yet.
    let began = stamps(&mut mixer, at(105));
    assert!(began.len() == 4 && began.windows(2).all(|w| w[1] - w[0] == 20_000), "{began:?}");
    assert!((7_000_000..7_020_000).contains(&began[0]), "{began:?}");
    assert_eq!(mixer.poll_timeout(), Some(at(120)));
    mixer.push(&1, &silence, at(1100)).unwrap();
    let late = stamps(&mut mixer, at(1121));
    assert_eq!(late, [began[began.len() - 1] + 1_020_000], "timestamps tell the gap");
    assert_eq!(mixer.stats().ticks_skipped, 50);
    // Nothing comes for two seconds: it rests, and is woken by the next frame.
    while mixer.poll_timeout().is_some_and(|due| due < at(10_000)) {
        let due = mixer.poll_timeout().unwrap();
        mixer.tick(due);
    }
    assert_eq!(mixer.poll_timeout(), None);
    mixer.push(&1, &silence, at(20_000)).unwrap();
    assert_eq!(mixer.poll_timeout(), Some(at(20_020)));
}

#[test]
fn a_source_that_is_pulled_is_asked_in_each_tick_and_not_resampled() {
    struct Steady(u64);
    impl AudioSource for Steady {
        fn pull(&mut self, _now: Instant, out: &mut [f32]) -> Pulled {
            for sample in out {
                *sample = (AMPLITUDE * (std::f64::consts::TAU * 500.0 * self.0 as f64 / RATE).sin()) as f32;
                self.0 += 1;
            }
            Pulled::Audio
        }
    }
    let mut world = World::new(MixerConfig::default(), Vec::new());
    world.mixer.attach(&"jb", Box::new(Steady(0)), world.start).unwrap();
    world.run(3.0);
    let level = db(amplitude_at(world.last("", 1.0), OPUS_RATE, 500.0) / AMPLITUDE);
    assert!(level.abs() < 0.01, "{level}");
    assert!(world.mixer.poll_timeout().is_some(), "it is asked for ever");
}

#[test]
fn what_makes_no_sense_is_refused_and_the_rest_goes_on() {
    let config = |change: fn(&mut MixerConfig)| {
        let mut config = MixerConfig::default();
        change(&mut config);
        Mixer::<i32>::new(config).map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(config(|c| c.tick_ms = 15), "tick_ms is 15, allowed is 10 or 20");
    assert_eq!(config(|c| c.channels = 3), "channels is 3, allowed is 1 or 2");
    assert_eq!(config(|c| c.gate_db = f64::NAN), "gate_db is 0, allowed is -100 to -20");
    assert_eq!(config(|c| c.max_active = Some(0)), "max_active is 0, allowed is 1 to 256");

    let mut mixer = Mixer::new(MixerConfig::default()).unwrap();
    let now = Instant::now();
    for (samples, rate, channels) in [(1, 48_000, 2), (960, 1, 1), (960, 48_000, 0), (960, 48_000, 9)] {
        assert!(mixer.push(&0, &audio(vec![0.0; samples], rate, channels, 0), now).is_err());
    }
    mixer.push(&0, &audio(vec![f32::NAN, f32::INFINITY, -1e30], 48_000, 1, i64::MIN), now).unwrap();
    mixer.set_gain(&0, f64::INFINITY);
    for key in 0..256 {
        mixer.push(&key, &audio(vec![f32::NAN; 9600], 44_100, 2, 0), now).unwrap();
    }
    assert!(mixer.push(&256, &audio(vec![0.0], 48_000, 1, 0), now).is_err());
    for n in 1..=50 {
        while let Some(mixed) = mixer.tick(now + Duration::from_millis(20 * n)) {
            assert!(mixed.common.samples.iter().all(|s| s.is_finite() && s.abs() <= 1.0));
            assert!(mixed.own.iter().all(|(_, frame)| frame.samples.iter().all(|s| s.is_finite())));
        }
    }
}

#[test]
fn an_input_that_nobody_pulls_does_not_grow() {
    let mut mixer = Mixer::new(MixerConfig::default()).unwrap();
    let now = Instant::now();
    for _ in 0..5000 {
        mixer.push(&0, &audio(vec![0.1; 960], OPUS_RATE, 1, 0), now).unwrap();
    }
    let stats = mixer.inputs().next().unwrap().1;
    assert!(stats.buffered_us <= 1_100_000, "{stats:?}");
    assert_eq!(stats.buffered_us + stats.dropped_us, 100_000_000);
}

#[derive(Debug, Clone)]
enum Step {
    Run(u16),
    Join(u8),
    Leave(u8),
    Gain(u8, i8),
    Mute(u8, bool),
    Stall(u8, u16),
    MaxActive(Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (20u16..700).prop_map(Step::Run),
        3 => (0u8..6).prop_map(Step::Join),
        1 => (0u8..6).prop_map(Step::Leave),
        1 => (0u8..6, -20i8..6).prop_map(|(who, db)| Step::Gain(who, db)),
        1 => (0u8..6, any::<bool>()).prop_map(|(who, muted)| Step::Mute(who, muted)),
        1 => (0u8..6, 20u16..900).prop_map(|(who, ms)| Step::Stall(who, ms)),
        1 => proptest::option::of(1u8..4).prop_map(Step::MaxActive),
    ]
}

const CROWD: [(&str, f64); 6] =
    [("a", 310.0), ("b", 450.0), ("c", 620.0), ("d", 790.0), ("e", 930.0), ("f", 1110.0)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens in whatever order: nothing clicks, nobody hears itself, and all is within full scale.
    #[test]
    fn a_conference_in_which_anything_happens_neither_clicks_nor_echoes(
        steps in proptest::collection::vec(step(), 1..40),
        tick_ms in prop_oneof![Just(10u32), Just(20)],
        ppm in -200i32..=200,
        jitter_ms in 0u64..8,
    ) {
        let mut world = World::new(MixerConfig { tick_ms, ..MixerConfig::default() }, Vec::new());
        for step in steps {
            match step {
                Step::Run(ms) => world.run(f64::from(ms) / 1000.0),
                Step::Join(who) => {
                    let (name, hz) = CROWD[usize::from(who)];
                    if world.people.iter().all(|p| p.name != name) {
                        world.people.push(Person {
                            first: world.now,
                            ppm: f64::from(ppm),
                            jitter: Duration::from_millis(jitter_ms),
                            ..Person::new(name, hz)
                        });
                    }
                }
                Step::Leave(who) => {
                    let (name, _) = CROWD[usize::from(who)];
                    world.people.retain(|p| p.name != name);
                    world.flying.retain(|f| f.1 != name);
                    world.mixer.remove(&name);
                }
                Step::Gain(who, db) => world.mixer.set_gain(&CROWD[usize::from(who)].0, f64::from(db)),
                Step::Mute(who, muted) => world.mixer.set_muted(&CROWD[usize::from(who)].0, muted),
                Step::Stall(who, ms) => {
                    let now = world.now;
                    let until = now + Duration::from_millis(ms.into());
                    if let Some(p) = world.people.iter_mut().find(|p| p.name == CROWD[usize::from(who)].0) {
                        p.stalls = Some((now, until));
                    }
                }
                Step::MaxActive(max) => world.mixer.set_max_active(max.map(usize::from)),
            }
        }
        world.run(1.0);
        // All six at 5 dB more than usual.
        let tones: Vec<Person> = CROWD.iter().map(|(n, hz)| Person { amplitude: 0.18, ..Person::new(n, *hz) }).collect();
        let most = 2.0 * smooth(&tones);
        if let Some(heard) = world.heard.get("") {
            let rough = roughness(heard);
            prop_assert!(rough < most, "{} of {}", rough, most);
            prop_assert!(heard.iter().all(|s| s.abs() < 0.9));
        }
        for person in &world.people {
            let Some(heard) = world.heard.get(person.name).filter(|h| h.len() > 24_000) else { continue };
            let own = amplitude_at(&heard[heard.len() - 19_200..], OPUS_RATE, person.hz * (1.0 + person.ppm / 1e6));
            prop_assert!(own < AMPLITUDE / 100.0, "{} hears itself at {}", person.name, own);
        }
    }
}

#[test]
fn stereo_stays_stereo() {
    let mut mixer = Mixer::new(MixerConfig { channels: 2, ..MixerConfig::default() }).unwrap();
    let start = Instant::now();
    let mut out = Vec::new();
    for n in 0..100u64 {
        let left_only: Vec<f32> = (0..960)
            .flat_map(|i| {
                let t = (n * 960 + i) as f64 / RATE;
                [(AMPLITUDE * (std::f64::consts::TAU * 400.0 * t).sin()) as f32, 0.0]
            })
            .collect();
        let now = start + Duration::from_millis(20 * n);
        mixer
            .push(
                &"l",
                &AudioFrame {
                    samples: Arc::new(left_only),
                    sample_rate: OPUS_RATE,
                    channels: 2,
                    timestamp_us: 0,
                },
                now,
            )
            .unwrap();
        while let Some(mixed) = mixer.tick(now) {
            assert_eq!(mixed.common.channels, 2);
            out.extend(mixed.common.samples.iter().copied());
        }
    }
    let last = &out[out.len() - 48_000..];
    let (left, right) = (common::channel(last, 2, 0), common::channel(last, 2, 1));
    assert!(db(amplitude_at(&left, OPUS_RATE, 400.0) / AMPLITUDE).abs() < 0.05);
    assert!(right.iter().all(|s| *s == 0.0));
}

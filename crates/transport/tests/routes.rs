//! Routes of several peers' media: a conference, broadcast, unicast and exclusion, changed while they run.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use common::{Member, Room};
use remotemedia_media::{AudioFrame, FramePool};
use remotemedia_pipeline::{Manifest, Plan, Registry};
use remotemedia_transport::{
    Config, Event, Message, PeerId, RouteConfig, RouteTo, SessionId, Track, Transport,
};

const RATE: f64 = 48_000.0;

/// Tests of real time don't run beside each other: two machines' worth of codecs is what one has.
static ALONE: Mutex<()> = Mutex::new(());

/// A hub and peers that are connected to it only. Each peer has a tone.
struct Star {
    _alone: MutexGuard<'static, ()>,
    room: Room,
    tones: Vec<(&'static str, f64)>,
    start: Instant,
    sent: u32,
    heard: BTreeMap<&'static str, Vec<AudioFrame>>,
}

impl Star {
    fn new(tones: &[(&'static str, f64)]) -> Star {
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut room = Room::new();
        let hub = room.join("hub", Config::default());
        let allow = Some(vec!["hub".to_owned()]);
        for (name, _) in tones {
            room.join(name, Config { allow_peers: allow.clone(), ..Config::default() });
        }
        room.run_until("everybody is connected to the hub", |members| {
            tones.iter().all(|(name, _)| {
                members[hub].transport.send_message(name, 0, Message::Text("hi".into())).is_ok()
            })
        });
        for member in &room.members[1..] {
            member.transport.subscribe(true, true);
        }
        Star {
            _alone: alone,
            room,
            tones: tones.to_vec(),
            start: Instant::now(),
            sent: 0,
            heard: BTreeMap::new(),
        }
    }

    fn hub(&self) -> &Transport {
        &self.room.members[0].transport
    }

    fn session(&self, yaml: &str) -> SessionId {
        let plan = Plan::compile(&Manifest::parse(yaml).unwrap(), &Registry::builtin()).unwrap();
        self.hub().create_session(plan).unwrap()
    }

    /// Everybody speaks for a time, those of `silent` excepted.
    fn talk(&mut self, seconds: f64, silent: &[&str]) {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let Star { room, tones, start, sent, heard, .. } = self;
        room.run_until("the time passes", |members| {
            let most = *sent + 5;
            while *sent < most && start.elapsed() >= Duration::from_millis(20) * *sent {
                for (name, hz) in tones.iter().filter(|(name, _)| !silent.contains(name)) {
                    let member = members.iter().find(|m| &*m.id == *name).unwrap();
                    let sample =
                        |i: u32| (0.1 * (std::f64::consts::TAU * hz * f64::from(i) / RATE).sin()) as f32;
                    let frame = AudioFrame {
                        samples: Arc::new((*sent * 960..(*sent + 1) * 960).map(sample).collect()),
                        sample_rate: 48_000,
                        channels: 1,
                        timestamp_us: i64::from(*sent) * 20_000,
                    };
                    let _ = member.transport.send_audio("hub", frame);
                }
                *sent += 1;
            }
            take(members, tones, heard);
            Instant::now() >= end
        });
    }

    /// How loud each tone is for a listener in the last second, in dB of what was sent.
    fn levels(&self, listener: &str) -> BTreeMap<&'static str, f64> {
        let heard = self.heard.get(listener).map_or(&[][..], Vec::as_slice);
        let samples: Vec<f32> = heard.iter().flat_map(|frame| frame.samples.iter().copied()).collect();
        let last = &samples[samples.len().saturating_sub(48_000)..];
        let level = |hz: f64| 20.0 * (amplitude(last, hz) / 0.1).max(1e-6).log10();
        self.tones.iter().map(|(name, hz)| (*name, level(*hz))).collect()
    }

    /// Each of these hears, for a whole second, these tones as they were sent, and no other one. A machine that is held up may take
    /// some seconds to get there.
    fn check(&mut self, listeners: &[&str], tones: &[&str], silent: &[&str]) {
        let wrong = |star: &Star| {
            listeners.iter().find_map(|listener| {
                let levels = star.levels(listener);
                let right = |(name, level): (&&str, &f64)| {
                    if tones.contains(name) { level.abs() < 1.0 } else { *level < -40.0 }
                };
                (!levels.iter().all(right)).then(|| format!("{listener} hears {levels:.1?}"))
            })
        };
        for _ in 0..60 {
            if wrong(self).is_none() {
                return;
            }
            self.talk(0.5, silent);
        }
        if let Some(wrong) = wrong(self) {
            panic!("{wrong}, and should hear {tones:?}");
        }
    }

    /// The hub comes to have so many encoders.
    fn encoders(&mut self, count: u64, silent: &[&str]) {
        let now = |star: &Star| star.hub().counters().audio_encoders;
        for _ in 0..40 {
            if now(self) == count {
                return;
            }
            self.talk(0.25, silent);
        }
        panic!("{} encoders, not {count}", now(self));
    }

    /// Frames that listeners lost because this process was held up, on either end.
    fn held_up(&self) -> u64 {
        self.room.members.iter().map(|member| member.transport.counters().events.audio_dropped).sum()
    }
}

fn take(
    members: &mut [Member],
    tones: &[(&'static str, f64)],
    heard: &mut BTreeMap<&'static str, Vec<AudioFrame>>,
) {
    for (name, _) in tones {
        let member = members.iter_mut().find(|m| &*m.id == *name).unwrap();
        for event in member.events.extract_if(.., |event| matches!(event, Event::Audio { .. })) {
            if let Event::Audio { frame, .. } = event {
                heard.entry(name).or_default().push(frame);
            }
        }
    }
}

fn amplitude(samples: &[f32], hz: f64) -> f64 {
    let n = samples.len().max(1) as f64;
    let turn = 2.0 * (std::f64::consts::TAU * hz / RATE).cos();
    let (a, b) = samples.iter().enumerate().fold((0.0, 0.0), |(a, b), (i, s)| {
        let window = 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n).cos();
        (f64::from(*s) * window + turn * a - b, a)
    });
    (a * a + b * b - turn * a * b).sqrt() / n * 4.0
}

fn route(track: Track, through: &str, to: RouteTo) -> RouteConfig {
    RouteConfig { from: None, track, through: through.into(), to }
}

fn peers(names: &[&str]) -> RouteTo {
    RouteTo::Peers(names.iter().map(|name| PeerId::from(*name)).collect())
}

/// Whether these microseconds are whole ticks, but for what a sender report corrects at once.
fn is_whole(step: i64) -> bool {
    (step + 5_000).rem_euclid(20_000) < 10_000
}

const FOUR: [(&str, f64); 4] = [("ann", 300.0), ("bob", 440.0), ("cy", 700.0), ("dee", 1000.0)];

#[test]
fn in_a_conference_everybody_hears_everybody_else_whoever_speaks_comes_or_goes() {
    let mut star = Star::new(&FOUR);
    let session = star.session("{version: v1, nodes: [{id: mix, node_type: AudioMixer}]}");
    let number = star.hub().add_route(session, route(Track::Audio, "mix", RouteTo::All)).unwrap();
    let silent = ["dee"];
    star.talk(2.0, &silent);
    star.check(&["ann"], &["bob", "cy"], &silent);
    star.check(&["bob"], &["ann", "cy"], &silent);
    star.check(&["dee"], &["ann", "bob", "cy"], &silent);
    // One begins, one falls silent: both change between a mix of their own and that of the silent.
    let silent = ["ann"];
    star.talk(2.0, &silent);
    star.check(&["ann"], &["bob", "cy", "dee"], &silent);
    star.check(&["dee"], &["bob", "cy"], &silent);
    star.encoders(4, &silent);
    // The silent share one encoding.
    star.encoders(3, &["ann", "cy"]);
    star.check(&["ann", "cy"], &["bob", "dee"], &["ann", "cy"]);
    star.encoders(2, &["ann", "bob", "cy"]);
    // The listeners notice nothing: what they are sent goes on tick by tick.
    if star.held_up() == 0 {
        for (listener, frames) in &star.heard {
            let steps = frames.windows(2).map(|w| w[1].timestamp_us - w[0].timestamp_us);
            let odd: Vec<_> = steps.enumerate().skip(25).filter(|(_, step)| !is_whole(*step)).collect();
            assert!(odd.is_empty(), "{listener}: {odd:?}");
        }
    }
    let stats = star.hub().session_stats(session).unwrap();
    assert!(stats.nodes[0].errors == 0 && stats.nodes[0].dropped.is_empty(), "{:?}", stats.nodes);

    // To some of them only, changed while it runs.
    star.hub().update_route(number, route(Track::Audio, "mix", peers(&["ann", "bob"]))).unwrap();
    star.talk(1.5, &[]);
    star.check(&["ann"], &["bob", "cy", "dee"], &[]);
    let before = star.heard["cy"].len();
    star.talk(0.5, &[]);
    assert_eq!(star.heard["cy"].len(), before, "cy is not sent anything any more");
    star.hub().close_session(session);
    star.talk(0.5, &[]);
    let before = star.heard["ann"].len();
    star.talk(0.5, &[]);
    assert_eq!(star.heard["ann"].len(), before, "nobody is when the session is closed");
    assert_eq!(star.hub().counters().audio_encoders, 0, "all is freed");
}

#[test]
fn streams_of_several_peers_reach_each_receiver_together() {
    let mut star = Star::new(&FOUR);
    let session = star.session("{version: v1, nodes: [{id: gain, node_type: Gain}]}");
    // A, B and C through a node of each peer's own to D, to the others of them, and back.
    let from = Some(["ann", "bob", "cy"].map(PeerId::from).to_vec());
    let abc = |to| RouteConfig { from: from.clone(), ..route(Track::Audio, "gain", to) };
    let silent = ["dee"];
    let number = star.hub().add_route(session, abc(peers(&["dee"]))).unwrap();
    star.talk(2.0, &silent);
    star.check(&["dee"], &["ann", "bob", "cy"], &silent);
    assert!(!star.heard.contains_key("ann"), "unicast");
    star.hub().update_route(number, abc(RouteTo::Others)).unwrap();
    star.talk(2.0, &silent);
    star.check(&["dee"], &["ann", "bob", "cy"], &silent);
    star.check(&["ann"], &["bob", "cy"], &silent);
    star.check(&["cy"], &["ann", "bob"], &silent);
    star.hub().update_route(number, abc(RouteTo::Sender)).unwrap();
    star.talk(2.0, &silent);
    star.check(&["ann"], &["ann"], &silent);
    star.check(&["bob"], &["bob"], &silent);
    // Every frame went through the node once, however many routes there are.
    let both = star.hub().add_route(session, abc(peers(&["dee"]))).unwrap();
    let count = |star: &Star| (star.hub().session_stats(session).unwrap().nodes[0].items_in, star.sent);
    let before = count(&star);
    star.talk(2.0, &silent);
    star.check(&["bob"], &["bob"], &silent);
    star.check(&["dee"], &["ann", "bob", "cy"], &silent);
    let after = count(&star);
    let (taken, sent) = (after.0 - before.0, 3 * u64::from(after.1 - before.1));
    assert!(taken <= sent + 15 && taken + 30 >= sent, "{taken} frames went through of {sent}");
    star.hub().remove_route(both);
    star.hub().remove_route(number);
    star.talk(0.5, &silent);
    let before: Vec<_> = star.heard.values().map(Vec::len).collect();
    star.talk(0.5, &silent);
    let after: Vec<_> = star.heard.values().map(Vec::len).collect();
    assert_eq!(before, after);
}

#[test]
fn a_stream_goes_on_without_a_gap_or_a_click_while_its_route_changes() {
    // A process that is held up loses frames by itself: then it is tried again.
    for attempt in 0.. {
        let mut star = Star::new(&FOUR[..3]);
        let yaml = "{version: v1, nodes: [
            {id: plain, node_type: Gain}, {id: soft, node_type: Gain, params: {gain_db: -6}}]}";
        let session = star.session(yaml);
        let from = Some(vec![PeerId::from("ann")]);
        let one = |through: &str, to| RouteConfig { from: from.clone(), ..route(Track::Audio, through, to) };
        let number = star.hub().add_route(session, one("plain", peers(&["bob"]))).unwrap();
        let silent = ["bob", "cy"];
        star.talk(1.0, &silent);
        star.check(&["bob"], &["ann"], &silent);
        let begin = star.heard["bob"].len();
        for (through, to) in [
            ("plain", peers(&["bob", "cy"])),
            ("soft", peers(&["bob", "cy"])),
            ("soft", RouteTo::Others),
            ("plain", peers(&["bob"])),
        ] {
            star.hub().update_route(number, one(through, to)).unwrap();
            star.talk(0.7, &silent);
        }
        let frames = &star.heard["bob"][begin..];
        let steps = frames.windows(2).map(|w| w[1].timestamp_us - w[0].timestamp_us);
        let gaps: Vec<_> = steps.filter(|step| !(15_000..25_000).contains(step)).collect();
        let samples: Vec<f32> = frames.iter().flat_map(|f| f.samples.iter().copied()).collect();
        let rough =
            samples.windows(3).map(|w| f64::from((w[2] - 2.0 * w[1] + w[0]).abs())).fold(0.0, f64::max);
        if !gaps.is_empty() && attempt < 4 {
            println!("attempt {attempt}: {gaps:?}, {} frames lost by us", star.held_up());
            continue;
        }
        assert!(gaps.is_empty(), "{gaps:?}");
        // A tone of this level has 0.00016; one step of 6 dB at its peak would have 0.05.
        assert!(rough < 0.006, "{rough}");
        star.check(&["bob"], &["ann"], &silent);
        return;
    }
}

#[test]
fn of_two_streams_of_pictures_for_one_receiver_one_is_shown_and_the_other_counted() {
    let mut star = Star::new(&FOUR[..3]);
    let session = star.session("{version: v1, nodes: [{id: pass, node_type: PassThrough}]}");
    star.hub().add_route(session, route(Track::Video, "pass", peers(&["cy"]))).unwrap();
    let pool = FramePool::default();
    let start = Instant::now();
    let mut sent = 0u32;
    let mut sizes = Vec::new();
    star.room.run_until("two seconds of pictures", |members| {
        while start.elapsed() >= Duration::from_millis(50) * sent {
            for (at, (name, width)) in [("ann", 320), ("bob", 160)].into_iter().enumerate() {
                let frame = common::pattern(&pool, width, 120, sent, i64::from(sent) * 50_000);
                assert_eq!(&*members[at + 1].id, name);
                members[at + 1].transport.send_video("hub", frame).unwrap();
            }
            sent += 1;
        }
        for event in members[3].events.drain(..) {
            if let Event::Video { frame, .. } = event {
                sizes.push(frame.width());
            }
        }
        start.elapsed() > Duration::from_secs(2)
    });
    assert!(sizes.len() >= 20, "{} pictures", sizes.len());
    assert!(sizes.iter().all(|width| *width == sizes[0]), "{sizes:?}");
    let counters = star.hub().counters();
    assert!(counters.pictures_in_conflict >= 20, "{counters:?}");
    let told = star.room.members[0].events.iter().filter(
        |event| matches!(event, Event::Error { error, .. } if error.to_string().contains("Compositor")),
    );
    assert_eq!(told.count(), 1);
}

#[test]
fn a_route_that_makes_no_sense_is_refused_by_name_and_what_runs_goes_on() {
    let mut star = Star::new(&FOUR[..2]);
    let yaml = "{version: v1, nodes: [
        {id: gain, node_type: Gain}, {id: meter, node_type: LevelMeter}, {id: flip, node_type: Flip}],
        connections: [{from: gain, to: meter}]}";
    let session = star.session(yaml);
    let good = route(Track::Audio, "meter.out", RouteTo::Others);
    let number = star.hub().add_route(session, good.clone()).unwrap();
    let from = |id: &str, route: RouteConfig| RouteConfig { from: Some(vec![id.into()]), ..route };
    for (bad, says) in [
        (route(Track::Audio, "nope", RouteTo::All), "through: 'nope' is no output"),
        // It leads on to the meter.
        (
            route(Track::Audio, "gain", RouteTo::All),
            "through: 'gain' is no output node of the graph; those are",
        ),
        (route(Track::Audio, "meter.loudness", RouteTo::All), "meter.level"),
        (route(Track::Video, "meter.out", RouteTo::All), "track: video doesn't lead to 'meter.out'"),
        (route(Track::Audio, "flip", RouteTo::All), "track: audio doesn't lead to 'flip'"),
        (route(Track::Data, "flip", RouteTo::All), "track: data doesn't lead to 'flip'"),
        (route(Track::Audio, "meter", peers(&["ann", "hub"])), "to: 'hub' is this transport itself"),
        (from("hub", good.clone()), "from: 'hub' is this transport itself"),
    ] {
        let added = star.hub().add_route(session, bad.clone()).unwrap_err().to_string();
        let updated = star.hub().update_route(number, bad).unwrap_err().to_string();
        assert!(added.contains(says) && updated.contains(says), "{added}; {updated}");
    }
    let plan = Plan::compile(
        &Manifest::parse("{version: v1, nodes: [{id: meter, node_type: Flip}]}").unwrap(),
        &Registry::builtin(),
    );
    let refused = star.hub().reload_session(session, plan.unwrap()).unwrap_err().to_string();
    assert!(refused.contains("meter.out"), "{refused}");
    let error = star.hub().set_peer_param(session, "meter", "ann", "muted", true.into()).unwrap_err();
    assert!(error.to_string().contains("no parameter by peer"), "{error}");
    star.talk(1.5, &["bob"]);
    star.check(&["bob"], &["ann"], &["bob"]);
}

#[test]
fn several_sessions_run_side_by_side_and_one_that_is_closed_sends_what_it_has_and_is_gone() {
    let mut star = Star::new(&FOUR[..3]);
    let gain = star.session("{version: v1, nodes: [{id: gain, node_type: Gain}]}");
    let mix = star.session("{version: v1, nodes: [{id: mix, node_type: ConferenceMixer}]}");
    let ann = Some(vec![PeerId::from("ann")]);
    let one = RouteConfig { from: ann, ..route(Track::Audio, "gain", peers(&["bob"])) };
    star.hub().add_route(gain, one).unwrap();
    let from = Some(vec![PeerId::from("cy")]);
    let all = RouteConfig { from, ..route(Track::Audio, "mix.out", RouteTo::All) };
    star.hub().add_route(mix, all).unwrap();
    let silent = ["bob"];
    star.talk(2.0, &silent);
    star.check(&["bob"], &["ann", "cy"], &silent);
    star.check(&["ann"], &["cy"], &silent);
    // Who is muted for the mixer is so for nobody else.
    star.hub().set_peer_param(mix, "mix", "cy", "muted", true.into()).unwrap();
    star.hub().set_peer_param(mix, "mix", "ann", "muted", true.into()).unwrap();
    star.talk(1.0, &silent);
    star.check(&["bob"], &["ann"], &silent);
    star.hub().finish_session(mix);
    star.room.run_until("the session is closed", |members| {
        members[0]
            .events
            .iter()
            .any(|event| matches!(event, Event::SessionClosed { session } if *session == mix))
    });
    assert!(star.hub().session_stats(mix).is_none(), "its nodes are gone");
    assert!(star.hub().add_route(mix, route(Track::Audio, "mix", RouteTo::All)).is_err());
    star.talk(1.0, &silent);
    star.check(&["bob"], &["ann"], &silent);
    star.hub().finish_session(gain);
    star.talk(0.5, &silent);
    let before: Vec<_> = star.heard.values().map(Vec::len).collect();
    star.talk(0.5, &silent);
    let after: Vec<_> = star.heard.values().map(Vec::len).collect();
    assert_eq!(before, after);
}

/// How long after they were sent the impulses of `ann` were heard by `bob`, in the middle; and how late this thread itself was, but for
/// one time in ten.
fn delay_of_impulses(star: &mut Star) -> (Duration, Duration) {
    let (mut sent, mut heard): (Vec<Instant>, Vec<Instant>) = Default::default();
    let (mut frames, start) = (0u32, Instant::now());
    let mut late: Vec<Duration> = Vec::new();
    let end = start + Duration::from_secs(4);
    star.room.run_until("four seconds", |members| {
        while start.elapsed() >= Duration::from_millis(20) * frames {
            late.push(start.elapsed() - Duration::from_millis(20) * frames);
            let click = frames >= 50 && frames.is_multiple_of(15);
            if click {
                sent.push(Instant::now());
            }
            // The click is in the frame's first 5 ms; between clicks there is a hum, so that nothing is silent.
            let tone = |hz: f64, i: u32| (std::f64::consts::TAU * hz * f64::from(i) / RATE).sin() as f32;
            let sample = |i: u32| match click && i < 240 {
                true => 0.5 * tone(4000.0, i),
                false => 0.02 * tone(200.0, frames * 960 + i),
            };
            let frame = AudioFrame {
                samples: Arc::new((0..960).map(sample).collect()),
                sample_rate: 48_000,
                channels: 1,
                timestamp_us: i64::from(frames) * 20_000,
            };
            let _ = members[1].transport.send_audio("hub", frame);
            frames += 1;
        }
        for event in members[2].events.drain(..) {
            let Event::Audio { frame, .. } = event else { continue };
            let loud = frame.samples.iter().position(|s| s.abs() > 0.15);
            let new = heard.last().is_none_or(|last| last.elapsed() > Duration::from_millis(150));
            if let (Some(at), true) = (loud, new) {
                heard.push(Instant::now() + Duration::from_secs_f64(at as f64 / RATE));
            }
        }
        Instant::now() >= end
    });
    let delay = |at: &Instant| sent.iter().filter(|sent| *sent < at).map(|sent| *at - *sent).min();
    let mut delays: Vec<_> = heard.iter().filter_map(delay).collect();
    assert!(delays.len() >= 4, "{} of {} impulses heard", heard.len(), sent.len());
    delays.sort();
    late.sort();
    (delays[delays.len() / 2], late[late.len() * 9 / 10])
}

#[test]
fn a_mixer_adds_at_most_one_tick_and_what_its_buffer_holds() {
    // What a machine that is held up adds is jitter, which the buffer meets: it says nothing of the mixer. `remotemedia-media` has the
    // same in virtual time.
    let mut quiet = true;
    let yaml = "{version: v1, nodes: [{id: gain, node_type: Gain}, {id: mix, node_type: ConferenceMixer}]}";
    for _ in 0..4 {
        let [(direct, late), (mixed, later)] = ["gain", "mix.out"].map(|through| {
            let mut star = Star::new(&FOUR[..2]);
            let session = star.session(yaml);
            star.hub().add_route(session, route(Track::Audio, through, peers(&["bob"]))).unwrap();
            delay_of_impulses(&mut star)
        });
        let late = late.max(later);
        println!("impulses: {direct:?} without the mixer, {mixed:?} with it; we were late by {late:?}");
        // A tick of 20 ms, 3 ms, and the jitter.
        if mixed < direct + Duration::from_millis(33) {
            return;
        }
        quiet &= late < Duration::from_millis(3);
    }
    assert!(!quiet, "more than that in each attempt");
    println!("NOT JUDGED: this machine is too busy");
}

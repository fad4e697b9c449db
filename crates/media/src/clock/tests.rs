use std::time::Duration;

use proptest::prelude::*;

use super::*;

const AUDIO: u32 = 48_000;
const VIDEO: u32 = 90_000;

/// A peer and the way from it. Times in seconds since the peer began; clocks are off by parts of a million.
#[derive(Debug, Clone)]
struct Peer {
    rtp_start: [u32; 2],
    rtp_ppm: [f64; 2],
    ntp_start: u64,
    ntp_ppm: f64,
    /// From capture to the socket.
    latency: [f64; 2],
    delay: f64,
    jitter: f64,
    report_every: f64,
    /// Of 100.
    reports_lost: u64,
    seed: u64,
}

impl Peer {
    fn steady() -> Peer {
        Peer {
            rtp_start: [0, 0],
            rtp_ppm: [0.0; 2],
            ntp_start: 0xe000_0000 << 32,
            ntp_ppm: 0.0,
            latency: [0.020, 0.045],
            delay: 0.030,
            jitter: 0.0,
            report_every: 1.0,
            reports_lost: 0,
            seed: 1,
        }
    }

    fn rtp(&self, stream: usize, t: f64) -> u32 {
        let rate = f64::from([AUDIO, VIDEO][stream]) * (1.0 + self.rtp_ppm[stream] * 1e-6);
        self.rtp_start[stream].wrapping_add((t * rate).round() as i64 as u32)
    }

    fn ntp(&self, t: f64) -> u64 {
        let passed = t * (1.0 + self.ntp_ppm * 1e-6) * f64::from(2.0f32.powi(32));
        self.ntp_start.wrapping_add(passed as i64 as u64)
    }
}

/// What the receiver makes of it.
struct Call {
    peer: Peer,
    clock: PeerClock,
    ids: [StreamId; 2],
    epoch: Instant,
    random: u64,
    t: f64,
    next: [f64; 2],
    report: [f64; 2],
    /// Of each stream: time of capture, timestamp, seconds.
    told: [Vec<(f64, f64)>; 2],
}

impl Call {
    fn new(peer: Peer) -> Call {
        let epoch = Instant::now();
        let mut clock = PeerClock::new(epoch);
        let ids = [clock.add_stream(AUDIO), clock.add_stream(VIDEO)];
        let report = [0.3 * peer.report_every, 0.8 * peer.report_every];
        let random = peer.seed;
        Call { peer, clock, ids, epoch, random, t: 0.0, next: [0.0; 2], report, told: Default::default() }
    }

    fn random(&mut self) -> f64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    fn at(&self, t: f64) -> Instant {
        self.epoch + Duration::from_secs_f64(100.0 + t)
    }

    /// Runs until `end`; what is sent in each step arrives before the next.
    fn run(&mut self, end: f64) {
        while self.t < end {
            for s in 0..2 {
                if self.t >= self.report[s] {
                    self.report[s] += self.peer.report_every;
                    let lost = self.random() * 100.0 < self.peer.reports_lost as f64;
                    let late = self.peer.delay + self.peer.jitter * self.random();
                    if !lost {
                        let (ntp, rtp) = (self.peer.ntp(self.t), self.peer.rtp(s, self.t));
                        self.clock.reported(self.ids[s], 7, ntp, rtp, self.at(self.t + late));
                    }
                }
                if self.t >= self.next[s] {
                    self.next[s] += [0.020, 1.0 / 30.0][s];
                    let rtp = self.peer.rtp(s, self.t);
                    let late = self.peer.latency[s] + self.peer.delay + self.peer.jitter * self.random();
                    self.clock.arrived(self.ids[s], 7, rtp, self.at(self.t + late));
                    let told = self.clock.timestamp_us(self.ids[s], rtp) as f64 / 1e6 - 100.0;
                    self.told[s].push((self.t, told));
                }
            }
            self.t += 0.001;
        }
    }

    /// How much later than its capture a stream's last frame is told to be.
    fn lag(&self, stream: usize) -> f64 {
        let (t, told) = self.told[stream].last().unwrap();
        told - t
    }

    /// How far the two streams are apart, in seconds.
    fn skew(&self) -> f64 {
        self.lag(0) - self.lag(1)
    }

    fn never_back(&self) -> bool {
        self.told.iter().all(|told| told.windows(2).all(|w| w[1].1 > w[0].1))
    }
}

#[test]
fn before_the_first_report_a_stream_is_as_late_as_its_fastest_packet() {
    let mut call = Call::new(Peer { report_every: 1e9, ..Peer::steady() });
    call.run(2.0);
    assert!((call.lag(0) - 0.050).abs() < 0.001 && (call.lag(1) - 0.075).abs() < 0.001);
    assert!(!call.clock.is_synchronized(call.ids[0]));
}

#[test]
fn reports_bring_the_streams_together_within_a_second_and_without_a_step() {
    let mut call = Call::new(Peer::steady());
    call.run(3.0);
    assert!(call.clock.is_synchronized(call.ids[0]) && call.clock.is_synchronized(call.ids[1]));
    for stream in 0..2 {
        assert!(
            (call.lag(stream) - 0.050).abs() < 0.001,
            "capture and the shortest way: {}",
            call.lag(stream)
        );
        for pair in call.told[stream].windows(2) {
            let (passed, told) = (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
            assert!((0.85..1.15).contains(&(told / passed)), "{pair:?}");
        }
    }
}

#[test]
fn rtp_and_ntp_wraps_are_no_jumps() {
    let ntp_start = u64::MAX - (2u64 << 32);
    let rtp_start = [0u32.wrapping_sub(2 * AUDIO), 0u32.wrapping_sub(2 * VIDEO)];
    let mut call = Call::new(Peer { rtp_start, ntp_start, ..Peer::steady() });
    call.run(8.0);
    assert!(call.skew().abs() < 0.001 && (call.lag(0) - 0.050).abs() < 0.001);
    assert_eq!(call.clock.era, 0);
}

#[test]
fn a_wall_clock_that_is_set_moves_nothing() {
    for step in [1i64 << 32, -(3600i64 << 32), 1 << 31] {
        let mut call = Call::new(Peer { report_every: 0.7, ..Peer::steady() });
        call.run(20.0);
        call.peer.ntp_start = call.peer.ntp_start.wrapping_add_signed(step);
        call.run(21.0);
        assert!(call.skew().abs() < 0.002, "in between: {}", call.skew());
        call.run(30.0);
        assert!(call.skew().abs() < 0.002 && (call.lag(0) - 0.050).abs() < 0.002, "{}", call.lag(0));
        assert_eq!(call.clock.era, 1);
        assert!(call.never_back());
    }
}

#[test]
fn one_false_report_changes_nothing() {
    let mut call = Call::new(Peer::steady());
    call.run(10.0);
    let (ntp, rtp) = (call.peer.ntp(50.0), call.peer.rtp(1, 3.0));
    call.clock.reported(call.ids[1], 7, ntp, rtp, call.at(10.0));
    call.run(10.5);
    assert!(call.skew().abs() < 0.001);
    call.run(15.0);
    assert!(call.skew().abs() < 0.001);
    assert_eq!(call.clock.era, 0);
}

#[test]
fn reports_that_cannot_be_are_not_believed() {
    let mut call = Call::new(Peer { report_every: 1e9, ..Peer::steady() });
    call.run(1.0);
    // The video's wall clock is an hour ahead of the audio's.
    for n in 0..20 {
        let t = f64::from(n);
        call.clock.reported(call.ids[0], 7, call.peer.ntp(t), call.peer.rtp(0, t), call.at(t));
        call.clock.reported(call.ids[1], 7, call.peer.ntp(t + 3600.0), call.peer.rtp(1, t), call.at(t));
    }
    call.run(20.0);
    assert!((call.lag(1) - 0.075).abs() < 0.005 || call.lag(1).abs() < 0.1, "{}", call.lag(1));
    assert!(call.lag(0).abs() < 2.1, "{}", call.lag(0));
    assert!(call.never_back());
}

#[test]
fn a_longer_way_is_followed_by_both_streams_together() {
    let mut call = Call::new(Peer { jitter: 0.010, ..Peer::steady() });
    call.run(40.0);
    call.peer.delay += 0.080;
    call.run(80.0);
    assert!(call.skew().abs() < 0.003, "{}", call.skew());
    assert!((call.lag(0) - 0.130).abs() < 0.005, "{}", call.lag(0));
    let drift = call.clock.drift_ppm(call.ids[0]).unwrap();
    assert!(drift.abs() < 60.0, "a longer way is no drift: {drift}");
    assert!(call.never_back());
}

#[test]
fn a_new_stream_of_the_same_kind_goes_on_where_the_old_one_was() {
    let mut call = Call::new(Peer::steady());
    call.run(5.0);
    let before = call.told[0].last().unwrap().1;
    let rtp = 77u32;
    call.clock.arrived(call.ids[0], 8, rtp, call.at(5.07));
    let told = call.clock.timestamp_us(call.ids[0], rtp) as f64 / 1e6 - 100.0;
    assert!(told > before && (told - 5.07).abs() < 0.001, "{told} after {before}");
}

fn peer() -> impl Strategy<Value = Peer> {
    let ppm = || -200.0..200.0f64;
    (
        (any::<[u32; 2]>(), (ppm(), ppm()), any::<u64>(), ppm()),
        (0.0..0.060f64, 0.0..0.150f64, 0.0..0.300f64, 0.0..0.040f64),
        (0.5..5.0f64, 0..60u64, any::<u64>()),
    )
        .prop_map(|(clocks, way, reports)| Peer {
            rtp_start: clocks.0,
            rtp_ppm: [clocks.1.0, clocks.1.1],
            ntp_start: clocks.2.max(1),
            ntp_ppm: clocks.3,
            latency: [way.0, way.1],
            delay: way.2,
            jitter: way.3,
            report_every: reports.0,
            reports_lost: reports.1,
            seed: reports.2,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the clocks, the way and the lost reports: one zero, one rate, and never back.
    #[test]
    fn audio_and_video_share_one_zero_and_one_rate(peer in peer()) {
        let mut call = Call::new(peer);
        call.run(45.0);
        prop_assert!(call.never_back());
        prop_assume!(call.clock.is_synchronized(call.ids[0]) && call.clock.is_synchronized(call.ids[1]));
        for t in [45.0, 50.0, 60.0] {
            call.run(t);
            prop_assert!(call.skew().abs() < 0.010, "apart by {} s at {t}", call.skew());
        }
        prop_assert!(call.never_back());
        // On our clock: what was captured a second later is told to be a second later, but for what is still being learnt.
        for told in &call.told {
            let (from, to) = (told.iter().find(|(t, _)| *t >= 50.0).unwrap(), told.last().unwrap());
            let rate = (to.1 - from.1) / (to.0 - from.0) - 1.0;
            prop_assert!(rate.abs() < 0.001, "{rate}");
        }
        let lag = call.lag(0);
        let way = call.peer.delay + call.peer.latency[0].min(call.peer.latency[1]);
        let (least, most) = (way, way + call.peer.jitter / 2.0);
        prop_assert!(lag > least - 0.005 && lag < most + 0.005, "{least} {lag} {most}");
        for s in 0..2 {
            let drift = call.clock.drift_ppm(call.ids[s]).unwrap();
            let off = drift - call.peer.rtp_ppm[s];
            prop_assert!(off.abs() < 40.0, "{drift} is off by {off}");
        }
    }

    /// Nothing that a peer says makes a timestamp go back, panic, or be far from when its packets came.
    #[test]
    fn hostile_reports_are_harmless(
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u64>(), any::<u32>(), 0u64..100), 1..300),
    ) {
        let epoch = Instant::now();
        let mut clock = PeerClock::new(epoch);
        let ids = [clock.add_stream(AUDIO), clock.add_stream(VIDEO)];
        let (mut at, mut last) = (epoch, [i64::MIN; 2]);
        for (n, (report, video, ntp, rtp, pause)) in steps.into_iter().enumerate() {
            let stream = usize::from(video);
            at += Duration::from_millis(pause);
            if report {
                clock.reported(ids[stream], 1, ntp, rtp, at);
            } else {
                // Every third packet has a timestamp of its own.
                let rtp = if n % 3 == 0 { rtp } else { n as u32 * 960 };
                clock.arrived(ids[stream], 1, rtp, at);
                let told = clock.timestamp_us(ids[stream], rtp);
                prop_assert!(told >= last[stream]);
                last[stream] = told;
            }
        }
    }
}

//! The bandwidth estimate against a bottleneck with a queue, under virtual time.
#![allow(missing_docs)]

use remotemedia_link::{BandwidthEstimate, PacketResult};
use remotemedia_testkit::Random;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const FEEDBACK: Duration = Duration::from_millis(50);

/// A link that all flows share: a rate, a queue of limited length, a delay.
struct Bottleneck {
    bps: f64,
    queue: Duration,
    delay: Duration,
    jitter: Duration,
    loss: f64,
    free_at: Duration,
    random: Random,
    longest: Duration,
}

impl Bottleneck {
    fn new(bps: f64, delay_ms: u32) -> Self {
        Self {
            bps,
            queue: 400 * MS,
            delay: delay_ms * MS,
            jitter: Duration::ZERO,
            loss: 0.0,
            free_at: Duration::ZERO,
            random: Random::new(1),
            longest: Duration::ZERO,
        }
    }

    /// When this packet arrives, if it does.
    fn send(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let waits = self.free_at.saturating_sub(now);
        self.longest = self.longest.max(waits.min(self.queue));
        if waits > self.queue {
            return None;
        }
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(bytes as f64 * 8.0 / self.bps);
        if self.random.chance(self.loss) {
            return None;
        }
        let jitter = self.jitter.mul_f64(self.random.below(1000) as f64 / 1000.0);
        Some(self.free_at + self.delay + jitter)
    }
}

/// Video at the estimate, at 30 pictures a second, paced over 20 ms each, and feedback every 50 ms.
struct Flow {
    estimate: BandwidthEstimate,
    flight: BTreeMap<(Duration, u64), PacketResult>,
    lost: VecDeque<(Duration, PacketResult)>,
    order: u64,
    next_frame: Duration,
    paced: VecDeque<(Duration, usize)>,
    next_feedback: Duration,
    feedback: VecDeque<(Duration, Vec<PacketResult>)>,
    /// The application sends no more than this.
    limit: f64,
    sent_bytes: u64,
}

impl Flow {
    fn new(at: Duration) -> Self {
        Self {
            estimate: BandwidthEstimate::new(300_000.0, 50_000.0, 8_000_000.0),
            flight: BTreeMap::new(),
            lost: VecDeque::new(),
            order: 0,
            next_frame: at,
            paced: VecDeque::new(),
            next_feedback: at + FEEDBACK,
            feedback: VecDeque::new(),
            limit: f64::INFINITY,
            sent_bytes: 0,
        }
    }

    fn step(&mut self, now: Duration, epoch: Instant, link: &mut Bottleneck) {
        if now >= self.next_frame {
            self.next_frame += Duration::from_micros(33_333);
            let bytes = (self.estimate.target_bps().min(self.limit) / 8.0 / 30.0) as usize;
            let packets = bytes.div_ceil(1200).max(1);
            for n in 0..packets {
                let at = now + (20 * MS).mul_f64(n as f64 / packets as f64);
                self.paced.push_back((at, (bytes / packets).max(50)));
            }
        }
        while self.paced.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = self.paced.pop_front().unwrap();
            self.order += 1;
            self.sent_bytes += bytes as u64;
            let arrived = link.send(now, bytes);
            let result = PacketResult { departed: epoch + now, arrived, bytes };
            match arrived {
                Some(at) => drop(self.flight.insert((at, self.order), result)),
                None => self.lost.push_back((now + link.delay + 30 * MS, result)),
            }
        }
        if now >= self.next_feedback {
            self.next_feedback += FEEDBACK;
            let mut results = Vec::new();
            while self.flight.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
                results.push(self.flight.pop_first().unwrap().1);
            }
            while self.lost.front().is_some_and(|(at, _)| *at <= now) {
                results.push(self.lost.pop_front().unwrap().1);
            }
            results.sort_by_key(|r| r.departed);
            if !results.is_empty() {
                self.feedback.push_back((now + link.delay, results));
            }
        }
        while self.feedback.front().is_some_and(|(at, _)| *at <= now) {
            let (_, results) = self.feedback.pop_front().unwrap();
            self.estimate.on_feedback(epoch + now, &results);
        }
    }
}

struct World {
    now: Duration,
    epoch: Instant,
    link: Bottleneck,
    flows: Vec<Flow>,
}

impl World {
    fn new(link: Bottleneck) -> Self {
        Self { now: Duration::ZERO, epoch: Instant::now(), link, flows: vec![Flow::new(Duration::ZERO)] }
    }

    fn target(&self) -> f64 {
        self.flows[0].estimate.target_bps()
    }

    fn run(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end {
            self.now += MS;
            for flow in &mut self.flows {
                flow.step(self.now, self.epoch, &mut self.link);
            }
        }
    }

    /// Seconds until it is so.
    fn until(&mut self, most: f64, done: impl Fn(&World) -> bool) -> f64 {
        let start = self.now;
        while !done(self) {
            self.run(0.05);
            let passed = (self.now - start).as_secs_f64();
            assert!(passed < most, "not in {most} s: at {:.0} kbit/s", self.target() / 1e3);
        }
        (self.now - start).as_secs_f64()
    }
}

#[test]
fn it_finds_a_path_of_five_megabits_and_keeps_its_queue_short() {
    for delay in [2, 25, 80] {
        let mut world = World::new(Bottleneck::new(5e6, delay));
        let took = world.until(15.0, |w| w.target() > 4e6);
        world.run(5.0);
        world.link.longest = Duration::ZERO;
        let (mut low, mut high) = (f64::INFINITY, 0f64);
        for _ in 0..300 {
            world.run(0.1);
            low = low.min(world.target());
            high = high.max(world.target());
        }
        println!(
            "{delay} ms: 80 % after {took:.1} s, then {:.1} to {:.1} Mbit/s, queue at most {:?}",
            low / 1e6,
            high / 1e6,
            world.link.longest
        );
        assert!(low > 3e6 && high < 6.5e6, "{low} to {high}");
        assert!(world.link.longest < 200 * MS, "{:?}", world.link.longest);
    }
}

#[test]
fn a_clamp_is_obeyed_and_its_end_is_noticed() {
    for delay in [2, 25, 80] {
        let mut world = World::new(Bottleneck::new(5e6, delay));
        world.run(20.0);
        world.link.bps = 0.5e6;
        let under = world.until(3.0, |w| w.target() < 0.5e6);
        world.run(5.0 - under);
        world.link.longest = Duration::ZERO;
        world.run(10.0);
        let longest = world.link.longest;
        world.link.bps = 5e6;
        let back = world.until(15.0, |w| w.target() > 4e6);
        println!(
            "{delay} ms: under the clamp in {under:.1} s, queue then at most {longest:?}, 80 % in {back:.1} s"
        );
        assert!(longest < 100 * MS, "{longest:?}");
    }
}

#[test]
fn loss_that_the_path_has_anyway_costs_little() {
    for (loss, least) in [(0.01, 3.5e6), (0.05, 3.0e6), (0.10, 2.5e6), (0.20, 1.5e6)] {
        let mut link = Bottleneck::new(5e6, 25);
        link.loss = loss;
        let mut world = World::new(link);
        world.run(30.0);
        let mut mean = 0.0;
        for _ in 0..300 {
            world.run(0.1);
            mean += world.target() / 300.0;
        }
        println!("{} % loss: {:.2} Mbit/s", loss * 100.0, mean / 1e6);
        assert!(mean > least, "{mean} at {loss}");
    }
}

#[test]
fn two_flows_share_and_jitter_is_no_queue() {
    let mut world = World::new(Bottleneck::new(4e6, 25));
    world.run(15.0);
    world.flows.push(Flow::new(world.now));
    world.run(40.0);
    let before: Vec<u64> = world.flows.iter().map(|f| f.sent_bytes).collect();
    world.run(30.0);
    let sent: Vec<u64> = world.flows.iter().zip(before).map(|(f, b)| f.sent_bytes - b).collect();
    let share = sent[0] as f64 / (sent[0] + sent[1]) as f64;
    println!("shares {share:.2}, together {:.2} Mbit/s", (sent[0] + sent[1]) as f64 * 8.0 / 30.0 / 1e6);
    assert!((0.35..0.65).contains(&share), "{share}");

    let mut link = Bottleneck::new(5e6, 25);
    link.jitter = 20 * MS;
    let mut world = World::new(link);
    world.run(40.0);
    println!("20 ms of jitter: {:.2} Mbit/s", world.target() / 1e6);
    assert!(world.target() > 2.5e6);
}

#[test]
fn who_sends_little_is_not_told_much() {
    let mut world = World::new(Bottleneck::new(50e6, 25));
    world.flows[0].limit = 500_000.0;
    world.run(30.0);
    assert!(world.target() < 1_000_000.0, "{}", world.target());
    assert!(world.target() > 500_000.0, "{}", world.target());
}

#[test]
fn absurd_feedback_is_bounded() {
    let mut random = Random::new(9);
    let epoch = Instant::now();
    let mut estimate = BandwidthEstimate::new(1e6, 50e3, 8e6);
    for n in 0..20_000u64 {
        let now = epoch + Duration::from_millis(n * 10);
        let results: Vec<PacketResult> = (0..random.below(40))
            .map(|_| PacketResult {
                departed: epoch + Duration::from_millis(random.next_u64() % (n * 10 + 1)),
                arrived: random
                    .chance(0.7)
                    .then(|| Duration::from_micros(random.next_u64() >> (random.below(50) + 8))),
                bytes: random.below(70_000),
            })
            .collect();
        estimate.on_feedback(now, &results);
        let target = estimate.target_bps();
        assert!((50e3..=8e6).contains(&target), "{target}");
        assert!(
            estimate.queueing_delay() <= Duration::from_secs(60) && (0.0..=1.0).contains(&estimate.loss())
        );
    }
}

#[test]
fn shallow_and_deep_queues_are_lived_with() {
    for queue in [40, 1500] {
        let mut link = Bottleneck::new(2e6, 25);
        link.queue = queue * MS;
        let mut world = World::new(link);
        world.run(30.0);
        world.link.longest = Duration::ZERO;
        let mut mean = 0.0;
        for _ in 0..300 {
            world.run(0.1);
            mean += world.target() / 300.0;
        }
        println!("a queue of {queue} ms: {:.2} Mbit/s, at most {:?}", mean / 1e6, world.link.longest);
        assert!(mean > 1.4e6 && mean < 2.3e6, "{mean}");
        assert!(world.link.longest < 250 * MS, "{:?}", world.link.longest);
    }
}

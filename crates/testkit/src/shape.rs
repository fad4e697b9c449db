//! What one direction of a real link does to packets: the decisions, without the link.

use crate::random::Random;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How one direction treats packets. The default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Time that every packet takes.
    pub delay: Duration,
    /// Up to this much more for each packet, evenly spread. The order is kept: a packet that would overtake waits for the one before.
    pub jitter: Duration,
    /// Share of packets lost, each by itself, 0 to 1.
    pub loss: f64,
    /// Losses that come together, beside `loss`.
    pub bursts: Option<Bursts>,
    /// Moments in which nothing moves.
    pub stalls: Option<Stalls>,
    /// Share of packets that take `reorder_by` longer and are overtaken by what follows.
    pub reorder: f64,
    /// See `reorder`.
    pub reorder_by: Duration,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Bits a second, of whole IP packets; 0: no limit.
    pub bits_per_second: u64,
    /// With a limit: the longest that a packet waits for its turn. Who would wait longer is dropped.
    pub queue: Duration,
}

/// Losses in bursts: the Gilbert-Elliott model, which moves between a good and a bad state with each packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// Chance of each packet in the good state to begin a bad one.
    pub enter: f64,
    /// Chance of each packet in the bad state to end it: 0.25 makes bursts of four packets on average.
    pub leave: f64,
    /// Share of packets lost in the bad state.
    pub loss: f64,
}

/// Moments in which nothing moves, as when a radio looks for other stations; what waited follows at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stalls {
    /// Average time from the end of one to the next, exponentially spread.
    pub every: Duration,
    /// How long each lasts.
    pub length: Duration,
}

/// What happened to packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShapeCounts {
    /// Packets taken in.
    pub taken: u64,
    /// Bytes taken in.
    pub bytes: u64,
    /// Packets given out, doubles included.
    pub given: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the queue before the limited rate was full.
    pub queue_full: u64,
    /// Dropped because [`Shaper::MAX_PACKETS`] were under way.
    pub overflow: u64,
    /// Most packets that were ever under way at once.
    pub peak: u64,
}

/// One direction: packets go in with the time, and come out later, or not at all.
#[derive(Debug)]
pub struct Shaper {
    shape: Shape,
    random: Random,
    flight: BinaryHeap<Packet>,
    order: u64,
    bad: bool,
    free_at: Duration,
    last_at: Duration,
    stall: Duration,
    counts: ShapeCounts,
}

#[derive(Debug)]
struct Packet {
    at: Duration,
    order: u64,
    data: Vec<u8>,
}

impl Shaper {
    /// Packets under way at most: three seconds at 30 Mbit/s in full packets.
    pub const MAX_PACKETS: usize = 8192;

    /// A direction whose chances repeat with the seed.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut shaper = Self {
            shape: Shape::default(),
            random: Random::new(seed),
            flight: BinaryHeap::new(),
            order: 0,
            bad: false,
            free_at: Duration::ZERO,
            last_at: Duration::ZERO,
            stall: Duration::MAX,
            counts: ShapeCounts::default(),
        };
        shaper.set_shape(Duration::ZERO, shape);
        shaper
    }

    /// How packets are treated now.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Treats packets like this from now on; those under way arrive as was decided.
    pub fn set_shape(&mut self, now: Duration, shape: Shape) {
        self.shape = shape;
        self.bad = false;
        self.stall = match shape.stalls {
            Some(stalls) => now.saturating_add(self.pause(stalls.every)),
            None => Duration::MAX,
        };
    }

    /// One packet in.
    pub fn push(&mut self, now: Duration, data: &[u8]) {
        self.counts.taken += 1;
        self.counts.bytes += data.len() as u64;
        if self.is_lost() {
            self.counts.lost += 1;
            return;
        }
        let Some(leaves) = self.leaves(now, data.len()) else {
            self.counts.queue_full += 1;
            return;
        };
        let copies = if self.random.chance(self.shape.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if self.flight.len() >= Self::MAX_PACKETS {
                self.counts.overflow += 1;
                return;
            }
            let share = self.random.below(1001) as f64 / 1000.0;
            let mut at = leaves + self.shape.delay + self.shape.jitter.mul_f64(share);
            if self.random.chance(self.shape.reorder) {
                at += self.shape.reorder_by;
            } else {
                at = at.max(self.last_at);
                self.last_at = at;
            }
            self.order += 1;
            self.flight.push(Packet { at, order: self.order, data: data.to_vec() });
        }
        self.counts.peak = self.counts.peak.max(self.flight.len() as u64);
    }

    /// When the next packet arrives.
    pub fn next_at(&self) -> Option<Duration> {
        self.flight.peek().map(|packet| packet.at)
    }

    /// The next packet that has arrived by now.
    pub fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_at()? > now {
            return None;
        }
        self.counts.given += 1;
        self.flight.pop().map(|packet| packet.data)
    }

    /// What happened so far.
    pub fn counts(&self) -> ShapeCounts {
        self.counts
    }

    fn is_lost(&mut self) -> bool {
        let mut loss = self.shape.loss;
        if let Some(bursts) = self.shape.bursts {
            let turn = if self.bad { bursts.leave } else { bursts.enter };
            if self.random.chance(turn) {
                self.bad = !self.bad;
            }
            if self.bad {
                loss = 1.0 - (1.0 - loss) * (1.0 - bursts.loss);
            }
        }
        self.random.chance(loss)
    }

    /// When a packet has left the sender: after a stall, and after those before it if the rate is limited.
    fn leaves(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let mut start = now;
        if let Some(stalls) = self.shape.stalls {
            while now >= self.stall + stalls.length {
                let pause = self.pause(stalls.every);
                self.stall += stalls.length + pause;
            }
            if now >= self.stall {
                start = self.stall + stalls.length;
            }
        }
        if self.shape.bits_per_second == 0 {
            return Some(start);
        }
        let start = start.max(self.free_at);
        if start - now > self.shape.queue {
            return None;
        }
        self.free_at =
            start + Duration::from_secs_f64(bytes as f64 * 8.0 / self.shape.bits_per_second as f64);
        Some(self.free_at)
    }

    /// A random pause of this average.
    fn pause(&mut self, average: Duration) -> Duration {
        let share = (self.random.below(1 << 30) + 1) as f64 / (1u64 << 30) as f64;
        // A pause of nothing at all would make stalls without end.
        average.mul_f64(-share.ln()).max(Duration::from_millis(1))
    }
}

impl Shape {
    /// Changes nothing.
    pub const CLEAR: Shape = Shape {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        bursts: None,
        stalls: None,
        reorder: 0.0,
        reorder_by: Duration::ZERO,
        duplicate: 0.0,
        bits_per_second: 0,
        queue: Duration::from_millis(200),
    };

    /// Share of packets lost by chance in the long run.
    pub fn mean_loss(&self) -> f64 {
        let bad = self.bursts.map_or(0.0, |b| b.loss * b.enter / (b.enter + b.leave));
        1.0 - (1.0 - self.loss) * (1.0 - bad)
    }

    /// Takes one `key=value`, in milliseconds, shares and bits a second. The error says what is allowed.
    pub fn set(&mut self, setting: &str) -> Result<(), String> {
        let (key, value) = setting.split_once('=').ok_or_else(|| format!("'{setting}' is no key=value"))?;
        let parts: Vec<f64> = value
            .split('/')
            .map(|part| part.parse().ok().filter(|n: &f64| n.is_finite() && (0.0..=1e12).contains(n)))
            .collect::<Option<_>>()
            .ok_or_else(|| format!("{key}: '{value}' is no number of 0 or more"))?;
        let ms = |n: f64| Duration::from_secs_f64(n.min(60_000.0) / 1000.0);
        let share = |n: f64| {
            if n <= 1.0 { Ok(n) } else { Err(format!("{key}: a share is 0 to 1")) }
        };
        match (key, parts.as_slice()) {
            ("delay", [n]) => self.delay = ms(*n),
            ("jitter", [n]) => self.jitter = ms(*n),
            ("loss", [n]) => self.loss = share(*n)?,
            ("bursts", [0.0]) => self.bursts = None,
            ("bursts", [enter, leave, loss]) if *leave > 0.0 => {
                self.bursts =
                    Some(Bursts { enter: share(*enter)?, leave: share(*leave)?, loss: share(*loss)? });
            }
            ("stalls", [0.0]) => self.stalls = None,
            ("stalls", [every, length]) => {
                self.stalls = Some(Stalls { every: ms(*every), length: ms(*length) })
            }
            ("reorder", [n, by]) => (self.reorder, self.reorder_by) = (share(*n)?, ms(*by)),
            ("duplicate", [n]) => self.duplicate = share(*n)?,
            ("rate", [n]) => self.bits_per_second = *n as u64,
            ("queue", [n]) => self.queue = ms(*n),
            _ => {
                return Err(format!(
                    "'{setting}': known are delay=MS jitter=MS loss=SHARE bursts=ENTER/LEAVE/LOSS \
                     stalls=EVERY_MS/MS reorder=SHARE/MS duplicate=SHARE rate=BPS queue=MS"
                ));
            }
        }
        Ok(())
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self::CLEAR
    }
}

// The heap gives the greatest first: the earliest, and of one instant the one pushed first.
impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Packet {}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends `count` packets, one every `every`, each its number; gives the times and numbers that arrived.
    fn run(shape: Shape, count: u32, every: Duration) -> (Vec<(Duration, u32)>, ShapeCounts) {
        let mut shaper = Shaper::new(7, shape);
        let mut out = Vec::new();
        let mut take = |shaper: &mut Shaper, until: Duration| {
            while let Some(at) = shaper.next_at().filter(|at| *at <= until) {
                let data = shaper.pop(at).unwrap();
                out.push((at, u32::from_be_bytes(data[..4].try_into().unwrap())));
            }
        };
        for i in 0..count {
            take(&mut shaper, every * i);
            let mut packet = vec![0; 1000];
            packet[..4].copy_from_slice(&i.to_be_bytes());
            shaper.push(every * i, &packet);
        }
        take(&mut shaper, Duration::MAX);
        let counts = shaper.counts();
        assert_eq!(counts.given as usize, out.len());
        (out, counts)
    }

    fn delays(out: &[(Duration, u32)], every: Duration) -> Vec<Duration> {
        out.iter().map(|(at, n)| *at - every * *n).collect()
    }

    #[test]
    fn a_clear_direction_gives_everything_at_once_in_order() {
        let (out, counts) = run(Shape::CLEAR, 100, MS);
        assert_eq!(out, (0..100).map(|i| (MS * i, i)).collect::<Vec<_>>());
        assert_eq!((counts.lost, counts.overflow, counts.queue_full), (0, 0, 0));
    }

    #[test]
    fn delay_and_jitter_are_what_was_asked_and_keep_the_order() {
        let shape = Shape { delay: 40 * MS, jitter: 20 * MS, ..Shape::CLEAR };
        let (out, _) = run(shape, 5000, 30 * MS);
        let all = delays(&out, 30 * MS);
        let mean = all.iter().sum::<Duration>() / all.len() as u32;
        assert!(all.iter().all(|d| (40 * MS..=60 * MS).contains(d)));
        assert!((49 * MS..51 * MS).contains(&mean), "{mean:?}");
        // Close together they would overtake, and don't.
        let (out, _) = run(shape, 5000, MS);
        assert!(out.windows(2).all(|w| w[0].1 < w[1].1 && w[0].0 <= w[1].0));
    }

    #[test]
    fn losses_are_as_many_as_asked_alone_and_in_bursts() {
        let (out, counts) = run(Shape { loss: 0.05, ..Shape::CLEAR }, 100_000, MS);
        assert!((4500..5500).contains(&counts.lost), "{}", counts.lost);
        let alone = runs_of_losses(&out);
        let bursts = Bursts { enter: 0.0125, leave: 0.25, loss: 1.0 };
        let shape = Shape { bursts: Some(bursts), ..Shape::CLEAR };
        assert!((shape.mean_loss() - 0.0476).abs() < 0.0001);
        let (out, counts) = run(shape, 100_000, MS);
        assert!((4200..5400).contains(&counts.lost), "{}", counts.lost);
        let together = runs_of_losses(&out);
        assert!((1.0..1.15).contains(&alone) && (3.6..4.4).contains(&together), "{alone} {together}");
    }

    fn runs_of_losses(out: &[(Duration, u32)]) -> f64 {
        let gaps: Vec<u32> = out.windows(2).map(|w| w[1].1 - w[0].1 - 1).filter(|n| *n > 0).collect();
        f64::from(gaps.iter().sum::<u32>()) / gaps.len() as f64
    }

    #[test]
    fn a_rate_is_kept_and_its_queue_is_bounded() {
        // 1000 bytes each ms are 8 Mbit/s.
        let shape = Shape { bits_per_second: 2_000_000, queue: 100 * MS, ..Shape::CLEAR };
        let (out, counts) = run(shape, 4000, MS);
        let seconds = out.last().unwrap().0.as_secs_f64();
        let rate = out.len() as f64 * 8000.0 / seconds;
        assert!((1.98e6..2.02e6).contains(&rate), "{rate}");
        assert_eq!(counts.queue_full, 4000 - out.len() as u64);
        let longest = delays(&out, MS).into_iter().max().unwrap();
        assert!((95 * MS..=105 * MS).contains(&longest), "{longest:?}");
    }

    #[test]
    fn stalls_hold_everything_and_then_let_it_go() {
        let stalls = Stalls { every: 500 * MS, length: 80 * MS };
        let (out, _) = run(Shape { stalls: Some(stalls), ..Shape::CLEAR }, 20_000, MS);
        let held: Vec<Duration> = delays(&out, MS).into_iter().filter(|d| *d > Duration::ZERO).collect();
        assert!(held.iter().all(|d| *d <= 80 * MS));
        let share = held.len() as f64 / 20_000.0;
        assert!((0.10..0.18).contains(&share), "80 of 580 ms: {share}");
        assert!(out.windows(2).all(|w| w[0].1 < w[1].1));
    }

    #[test]
    fn some_are_overtaken_and_some_come_twice() {
        let shape = Shape { reorder: 0.1, reorder_by: 5 * MS, duplicate: 0.1, ..Shape::CLEAR };
        let (out, counts) = run(shape, 10_000, MS);
        let late = out.windows(2).filter(|w| w[1].1 < w[0].1).count();
        assert!((700..1300).contains(&late), "{late}");
        assert!((10_800..11_200).contains(&counts.given), "{}", counts.given);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let (_, counts) = run(Shape { delay: 60_000 * MS, ..Shape::CLEAR }, 10_000, MS / 10);
        assert_eq!(counts.peak, Shaper::MAX_PACKETS as u64);
        assert_eq!(counts.overflow, 10_000 - Shaper::MAX_PACKETS as u64);
    }

    #[test]
    fn settings_are_read_by_name_and_refused_with_what_is_known() {
        let mut shape = Shape::CLEAR;
        for setting in
            ["delay=12.5", "jitter=3", "loss=0.02", "bursts=0.01/0.25/0.5", "stalls=2000/100", "rate=1e6"]
        {
            shape.set(setting).unwrap();
        }
        assert_eq!(shape.delay, Duration::from_micros(12_500));
        assert_eq!(shape.bursts, Some(Bursts { enter: 0.01, leave: 0.25, loss: 0.5 }));
        assert_eq!(shape.bits_per_second, 1_000_000);
        for bad in ["delay", "delay=x", "delay=-1", "loss=2", "bursts=1/0/1", "speed=1", "reorder=1"] {
            assert!(shape.set(bad).is_err(), "{bad}");
        }
    }
}

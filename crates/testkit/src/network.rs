//! A virtual network: datagrams go in with the virtual time, and come out later, or not at all.

use crate::random::Random;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

/// What one direction does to datagrams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// Time every datagram takes.
    pub latency: Duration,
    /// Up to this much more, at random; overtaking follows from it.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams delivered twice.
    pub duplicate: f64,
    /// Bits a second; 0: no limit. Datagrams queue for at most `queue` of it, later ones are dropped.
    pub bits_per_second: u64,
    /// See `bits_per_second`.
    pub queue: Duration,
}

/// A datagram that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Duration,
    /// Who sent it.
    pub from: SocketAddr,
    /// Who gets it.
    pub to: SocketAddr,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// What happened to datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken in.
    pub sent: u64,
    /// Given out, doubles included.
    pub delivered: u64,
    /// Lost by chance, by a full queue or by [`Network::drop_next`].
    pub lost: u64,
    /// Bytes taken in.
    pub bytes: u64,
}

/// All hosts of a test. Every direction behaves like [`Path`] unless told otherwise.
#[derive(Debug)]
pub struct Network {
    random: Random,
    path: Path,
    exceptions: Vec<(SocketAddr, Path)>,
    flight: BinaryHeap<InFlight>,
    order: u64,
    busy: Vec<(SocketAddr, Duration)>,
    drop_next: Vec<(SocketAddr, usize)>,
    blocked: Vec<SocketAddr>,
    counts: Counts,
}

#[derive(Debug)]
struct InFlight {
    delivery: Delivery,
    order: u64,
}

impl Network {
    /// A network whose losses and jitter repeat with the seed.
    pub fn new(seed: u64, path: Path) -> Self {
        Self {
            random: Random::new(seed),
            path,
            exceptions: Vec::new(),
            flight: BinaryHeap::new(),
            order: 0,
            busy: Vec::new(),
            drop_next: Vec::new(),
            blocked: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// From now on, this for every direction without one of its own.
    pub fn set_path(&mut self, path: Path) {
        self.path = path;
    }

    /// From now on, this for what `from` sends.
    pub fn set_path_from(&mut self, from: SocketAddr, path: Path) {
        self.exceptions.retain(|(a, _)| *a != from);
        self.exceptions.push((from, path));
    }

    /// The next `count` datagrams from this address are lost.
    pub fn drop_next(&mut self, from: SocketAddr, count: usize) {
        self.drop_next.push((from, count));
    }

    /// Cuts a host off, both ways, or lets it back.
    pub fn set_blocked(&mut self, host: SocketAddr, blocked: bool) {
        self.blocked.retain(|a| *a != host);
        if blocked {
            self.blocked.push(host);
        }
    }

    /// One datagram in.
    pub fn send(&mut self, now: Duration, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        self.counts.sent += 1;
        self.counts.bytes += data.len() as u64;
        let path = self.exceptions.iter().find(|(a, _)| *a == from).map_or(self.path, |(_, p)| *p);
        let told = self.drop_next.iter_mut().find(|(a, left)| *a == from && *left > 0);
        if let Some((_, left)) = told {
            *left -= 1;
            self.counts.lost += 1;
            return;
        }
        if self.blocked.contains(&from) || self.blocked.contains(&to) || self.random.chance(path.loss) {
            self.counts.lost += 1;
            return;
        }
        let Some(leaves) = self.leaves(now, from, path, data.len()) else {
            self.counts.lost += 1;
            return;
        };
        let copies = if self.random.chance(path.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = path.jitter.mul_f64(self.random.below(1001) as f64 / 1000.0);
            self.order += 1;
            let at = leaves + path.latency + jitter;
            let delivery = Delivery { at, from, to, data: data.to_vec() };
            self.flight.push(InFlight { delivery, order: self.order });
        }
    }

    /// When the next datagram arrives.
    pub fn next_at(&self) -> Option<Duration> {
        self.flight.peek().map(|f| f.delivery.at)
    }

    /// The next datagram that has arrived by now.
    pub fn receive(&mut self, now: Duration) -> Option<Delivery> {
        if self.next_at()? > now {
            return None;
        }
        let delivery = self.flight.pop()?.delivery;
        if self.blocked.contains(&delivery.to) {
            self.counts.lost += 1;
            return self.receive(now);
        }
        self.counts.delivered += 1;
        Some(delivery)
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When a datagram has left a sender of limited rate; `None` if its queue is full.
    fn leaves(&mut self, now: Duration, from: SocketAddr, path: Path, bytes: usize) -> Option<Duration> {
        if path.bits_per_second == 0 {
            return Some(now);
        }
        let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / path.bits_per_second as f64);
        let index = match self.busy.iter().position(|(a, _)| *a == from) {
            Some(index) => index,
            None => {
                self.busy.push((from, now));
                self.busy.len() - 1
            }
        };
        let start = self.busy[index].1.max(now);
        if start - now > path.queue {
            return None;
        }
        self.busy[index].1 = start + takes;
        Some(start + takes)
    }
}

impl Default for Path {
    /// A clean path of 1 ms.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            bits_per_second: 0,
            queue: Duration::from_millis(100),
        }
    }
}

impl Path {
    /// A clean path of this latency.
    pub fn clean(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// A path of this latency and loss.
    pub fn lossy(latency: Duration, loss: f64) -> Self {
        Self { latency, loss, ..Self::default() }
    }
}

// The heap gives the greatest first: the earliest, and of one instant the one sent first.
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.delivery.at, other.order).cmp(&(self.delivery.at, self.order))
    }
}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for InFlight {}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn run(seed: u64, path: Path) -> (Vec<Delivery>, Counts) {
        let mut network = Network::new(seed, path);
        for i in 0..1000u32 {
            network.send(Duration::from_millis(u64::from(i)), addr(1), addr(2), &i.to_be_bytes());
        }
        let mut out = Vec::new();
        while let Some(delivery) = network.receive(Duration::from_secs(10)) {
            out.push(delivery);
        }
        (out, network.counts())
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let path = Path { loss: 0.1, jitter: Duration::from_millis(5), ..Path::default() };
        assert_eq!(run(1, path), run(1, path));
        assert_ne!(run(1, path).0, run(2, path).0);
        let (out, counts) = run(1, path);
        assert!((850..950).contains(&out.len()), "{}", out.len());
        assert!(out.windows(2).all(|w| w[0].at <= w[1].at));
        assert!(out.windows(2).any(|w| w[0].data > w[1].data), "jitter overtakes");
        assert_eq!(counts.sent, counts.delivered + counts.lost);
    }

    #[test]
    fn a_clean_path_keeps_order_and_a_narrow_one_drops() {
        let (out, _) = run(1, Path::default());
        assert_eq!(out.len(), 1000);
        assert!(out.windows(2).all(|w| w[0].data < w[1].data));
        let narrow = Path { bits_per_second: 16_000, queue: Duration::from_millis(10), ..Path::default() };
        let (out, counts) = run(1, narrow);
        assert!(counts.lost > 400 && !out.is_empty(), "{counts:?}");
    }
}

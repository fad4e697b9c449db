//! Counters per node and connection, shared by all instances of a session, so that they outlive the peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why an item ended at a node without coming out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// A newer one took its place in the queue before the node, or the queue refused it.
    Queue,
    /// The node failed on it.
    Error,
    /// The pass had delivered as many items as a pass may.
    Overrun,
    /// The node's peer left, its session closed, or the node was taken out of the graph first.
    Closed,
    /// The node did not answer within its deadline.
    Deadline,
}

impl DropReason {
    /// Its name in statistics: `queue`, `error`, `overrun`, `closed`, `deadline`.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Queue => "queue",
            DropReason::Error => "error",
            DropReason::Overrun => "overrun",
            DropReason::Closed => "closed",
            DropReason::Deadline => "deadline",
        }
    }
}

const REASONS: [DropReason; 5] =
    [DropReason::Queue, DropReason::Error, DropReason::Overrun, DropReason::Closed, DropReason::Deadline];

/// What one node did so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeStats {
    /// The node's id.
    pub id: String,
    /// Its type.
    pub node_type: String,
    /// Items handed to it.
    pub items_in: u64,
    /// Items it gave out.
    pub items_out: u64,
    /// Items that ended here, by reason; reasons that didn't occur are left out.
    pub dropped: Vec<(DropReason, u64)>,
    /// Failures and panics.
    pub errors: u64,
    /// Times its state was made anew after a failure.
    pub restarts: u64,
    /// Items waiting before it or away at its host, right now.
    pub depth: u64,
    /// How long it takes an item; for a node that lives elsewhere, until its answer.
    pub latency: Latency,
}

/// What one connection carried so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EdgeStats {
    /// The output, as `node.port`.
    pub from: String,
    /// The input, as `node.port`.
    pub to: String,
    /// Items that were brought to it.
    pub items: u64,
    /// Items that ended here, by reason; reasons that didn't occur are left out.
    pub dropped: Vec<(DropReason, u64)>,
    /// Items waiting right now.
    pub depth: u64,
    /// How long items waited. Between native nodes nothing waits, and nothing is measured.
    pub wait: Latency,
}

/// Processing or waiting times, in microseconds. Each percentile is exact to a quarter of an octave.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// All of them together.
    pub sum_us: u64,
    /// Half took at most this long.
    pub p50_us: u64,
    /// 95 % took at most this long.
    pub p95_us: u64,
    /// 99 % took at most this long.
    pub p99_us: u64,
}

/// The counters of a plan's nodes and connections, by their place in it.
pub(crate) struct Metrics {
    pub nodes: Vec<Arc<NodeMetrics>>,
    pub edges: Vec<Arc<EdgeMetrics>>,
}

#[derive(Default)]
pub(crate) struct NodeMetrics {
    pub items_in: AtomicU64,
    pub items_out: AtomicU64,
    pub errors: AtomicU64,
    pub restarts: AtomicU64,
    pub depth: AtomicU64,
    dropped: Drops,
    latency: Histogram,
}

#[derive(Default)]
pub(crate) struct EdgeMetrics {
    pub items: AtomicU64,
    pub depth: AtomicU64,
    dropped: Drops,
    wait: Histogram,
}

#[derive(Default)]
struct Drops([AtomicU64; REASONS.len()]);

/// Buckets a quarter of an octave wide, from 1 us to over a minute.
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

const BUCKETS: usize = 4 * 26;

impl NodeMetrics {
    pub fn drop_item(&self, reason: DropReason, count: u64) {
        self.dropped.count(reason, count);
    }

    pub fn took(&self, time: Duration) {
        self.latency.record(micros(time));
    }

    pub fn snapshot(&self, id: &str, node_type: &str) -> NodeStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NodeStats {
            id: id.to_owned(),
            node_type: node_type.to_owned(),
            items_in: get(&self.items_in),
            items_out: get(&self.items_out),
            dropped: self.dropped.snapshot(),
            errors: get(&self.errors),
            restarts: get(&self.restarts),
            depth: get(&self.depth),
            latency: self.latency.snapshot(),
        }
    }
}

impl EdgeMetrics {
    pub fn drop_item(&self, reason: DropReason) {
        self.dropped.count(reason, 1);
    }

    pub fn waited(&self, time: Duration) {
        self.wait.record(micros(time));
    }

    pub fn snapshot(&self, from: String, to: String) -> EdgeStats {
        EdgeStats {
            from,
            to,
            items: self.items.load(Ordering::Relaxed),
            dropped: self.dropped.snapshot(),
            depth: self.depth.load(Ordering::Relaxed),
            wait: self.wait.snapshot(),
        }
    }
}

impl Drops {
    fn count(&self, reason: DropReason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Vec<(DropReason, u64)> {
        let counts = REASONS.map(|reason| (reason, self.0[reason as usize].load(Ordering::Relaxed)));
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros().min(u128::from(u64::MAX)) as u64
}

impl Histogram {
    fn record(&self, us: u64) {
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Latency {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let count: u64 = counts.iter().sum();
        let percentile = |share: f64| {
            let rank = (count as f64 * share).ceil().max(1.0) as u64;
            let mut seen = 0;
            let found = counts.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            found.map_or(0, upper_us)
        };
        Latency {
            count,
            sum_us: self.sum_us.load(Ordering::Relaxed),
            p50_us: percentile(0.5),
            p95_us: percentile(0.95),
            p99_us: percentile(0.99),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_us: AtomicU64::new(0) }
    }
}

/// The octave gives two thirds of the index, the two bits below the leading one the rest.
fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let octave = us.ilog2() as usize;
    let quarter = if octave >= 2 { (us >> (octave - 2)) & 3 } else { (us << (2 - octave)) & 3 } as usize;
    (octave * 4 + quarter).min(BUCKETS - 1)
}

/// The largest time that falls into the bucket.
fn upper_us(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / 4, bucket as u64 % 4);
    (((5 + quarter) << octave) / 4).saturating_sub(u64::from(octave >= 2)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_quarter_of_an_octave() {
        let metrics = NodeMetrics::default();
        for us in 1..=1000 {
            metrics.took(Duration::from_micros(us));
        }
        let latency = metrics.snapshot("n", "T").latency;
        assert_eq!((latency.count, latency.sum_us), (1000, 500_500));
        for (got, exact) in [(latency.p50_us, 500), (latency.p95_us, 950), (latency.p99_us, 990)] {
            assert!(got >= exact && got <= exact * 5 / 4, "{got} for {exact}");
        }
        metrics.took(Duration::from_secs(3600));
        assert_eq!(metrics.snapshot("n", "T").latency.count, 1001);
    }
}

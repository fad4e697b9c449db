//! Jitter. Not for secrets.

use std::time::Duration;

/// SplitMix64: small, and good enough to keep peers from retrying in step.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The local id goes in too, so that peers that were given one seed still differ.
    pub(crate) fn new(seed: u64, local_id: &str) -> Self {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(local_id.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, fnv))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between half of `delay` and all of it.
    pub(crate) fn jitter(&mut self, delay: Duration) -> Duration {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let half = us / 2;
        Duration::from_micros(us - self.next() % (half + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_its_range_and_differs_between_peers_with_one_seed() {
        let (mut a, mut b) = (Rng::new(7, "a"), Rng::new(7, "b"));
        let delay = Duration::from_millis(1000);
        let draws = |rng: &mut Rng| (0..100).map(|_| rng.jitter(delay)).collect::<Vec<_>>();
        let (a, b) = (draws(&mut a), draws(&mut b));
        assert!(a.iter().chain(&b).all(|d| *d >= delay / 2 && *d <= delay));
        assert_ne!(a, b);
        assert_eq!(a, draws(&mut Rng::new(7, "a")));
    }
}

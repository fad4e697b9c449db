//! What the answers to our checks tell: how the peer sees us (RFC 8445, section 7.2.5.3.1), which the engine doesn't keep, and how long
//! they took, which the engine only tells within all its statistics.

use crate::local::Local;
use crate::stats::{CandidateKind, StunStats};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Checks that wait for their answer, and paths whose answer is remembered.
const MAX_CHECKS: usize = 256;
const MAX_PATHS: usize = 32;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

#[derive(Debug, Default)]
pub(crate) struct Mirror {
    checks: VecDeque<([u8; 12], Instant)>,
    seen: VecDeque<Seen>,
    requests: u64,
    responses: u64,
    total: Duration,
}

#[derive(Debug)]
struct Seen {
    path: (SocketAddr, SocketAddr),
    mapped: SocketAddr,
    round_trip: Duration,
}

impl Mirror {
    /// A STUN message went out.
    pub fn sent(&mut self, now: Instant, data: &[u8]) {
        if let Some(id) = transaction(data, BINDING_REQUEST) {
            if self.checks.len() == MAX_CHECKS {
                self.checks.pop_front();
            }
            self.checks.push_back((id, now));
            self.requests += 1;
        }
    }

    /// A STUN message came in.
    pub fn received(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, data: &[u8]) {
        let Some(id) = transaction(data, BINDING_SUCCESS) else { return };
        let Some(index) = self.checks.iter().position(|(known, _)| *known == id) else { return };
        let Some((_, sent)) = self.checks.remove(index) else { return };
        self.responses += 1;
        self.total += now.saturating_duration_since(sent);
        let Some(mapped) = mapped_address(data) else { return };
        let path = (local, remote);
        self.seen.retain(|seen| seen.path != path);
        if self.seen.len() == MAX_PATHS {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen { path, mapped, round_trip: now.saturating_duration_since(sent) });
    }

    /// Tells how many checks there were.
    pub fn count(&self, out: &mut StunStats) {
        (out.requests_sent, out.responses_received) = (self.requests, self.responses);
        out.total_round_trip = self.total;
    }

    /// How the peer sees us on a path.
    pub fn mapped(&self, local: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
        self.seen.iter().find(|seen| seen.path == (local, remote)).map(|seen| seen.mapped)
    }

    /// How long the last answered check on a path took.
    pub fn round_trip(&self, local: SocketAddr, remote: SocketAddr) -> Option<Duration> {
        self.seen.iter().find(|seen| seen.path == (local, remote)).map(|seen| seen.round_trip)
    }

    /// What our end of a path is. A path that was never answered is taken for what its base is.
    pub fn local_kind(&self, local: SocketAddr, remote: SocketAddr, candidates: &[Local]) -> CandidateKind {
        let base = candidates.iter().find(|l| l.candidate.address() == local).map(|l| l.candidate.kind());
        let base = base.unwrap_or(CandidateKind::Host);
        let Some(Seen { mapped, .. }) = self.seen.iter().find(|seen| seen.path == (local, remote)) else {
            return base;
        };
        if *mapped == local {
            return base;
        }
        let own = |l: &&Local| l.candidate.address() == *mapped && l.candidate.base() == local;
        candidates.iter().find(own).map_or(CandidateKind::PeerReflexive, |l| l.candidate.kind())
    }
}

fn transaction(data: &[u8], kind: [u8; 2]) -> Option<[u8; 12]> {
    if data.get(..2)? != kind || data.get(4..8)? != MAGIC_COOKIE {
        return None;
    }
    data.get(8..20)?.try_into().ok()
}

/// XOR-MAPPED-ADDRESS (RFC 8489, section 14.2).
fn mapped_address(data: &[u8]) -> Option<SocketAddr> {
    let word = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
    let end = (20 + usize::from(word(2)?)).min(data.len());
    let mut at = 20;
    while at + 4 <= end {
        let (kind, len) = (word(at)?, usize::from(word(at + 2)?));
        if kind == XOR_MAPPED_ADDRESS {
            let port = word(at + 6)? ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
            // The mask of an IPv6 address goes on with the transaction id, which follows the cookie in the header.
            let mask = data.get(4..20)?;
            let plain = |n: usize| -> Option<Vec<u8>> {
                Some(data.get(at + 8..at + 8 + n)?.iter().zip(mask).map(|(b, m)| b ^ m).collect())
            };
            let ip = match (*data.get(at + 5)?, len) {
                (1, 8) => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(plain(4)?).ok()?)),
                (2, 20) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(plain(16)?).ok()?)),
                _ => return None,
            };
            return Some(SocketAddr::new(ip, port));
        }
        at += 4 + len.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::LocalCandidate;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn message(kind: [u8; 2], id: u8, mapped: Option<SocketAddr>) -> Vec<u8> {
        let mut out = [&kind[..], &[0, 0], &MAGIC_COOKIE, &[id; 12]].concat();
        if let Some(mapped) = mapped {
            // SOFTWARE first, with padding.
            out.extend([0x80, 0x22, 0, 3, b'a', b'b', b'c', 0]);
            let ip = match mapped.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let mask = out[4..20].to_vec();
            out.extend([0x00, 0x20, 0, 4 + ip.len() as u8, 0, if ip.len() == 4 { 1 } else { 2 }]);
            out.extend((mapped.port() ^ 0x2112).to_be_bytes());
            out.extend(ip.iter().zip(&mask).map(|(b, m)| b ^ m));
        }
        out[3] = (out.len() - 20) as u8;
        out
    }

    #[test]
    fn our_end_is_what_the_peer_says_it_is() {
        for (base, mapped, other) in [
            ("10.0.0.1:5000", "203.0.113.7:61000", "203.0.113.7:61001"),
            ("[fd00::1]:5000", "[2001:db8::7]:61000", "[2001:db8::7]:61001"),
        ] {
            let (base, mapped, other, peer) =
                (addr(base), addr(mapped), addr(other), addr("198.51.100.9:4000"));
            let known = [LocalCandidate::Host(base), LocalCandidate::ServerReflexive { mapped, base }]
                .map(|candidate| Local { candidate, line: String::new() });
            let (mut mirror, now) = (Mirror::default(), Instant::now());
            for (id, seen, kind) in [
                (1, base, CandidateKind::Host),
                (2, mapped, CandidateKind::ServerReflexive),
                (3, other, CandidateKind::PeerReflexive),
            ] {
                let took = Duration::from_millis(u64::from(id) * 10);
                mirror.sent(now, &message(BINDING_REQUEST, id, None));
                mirror.received(now + took, base, peer, &message(BINDING_SUCCESS, id, Some(seen)));
                assert_eq!(mirror.local_kind(base, peer, &known), kind);
                assert_eq!(mirror.round_trip(base, peer), Some(took));
            }
            // An answer to nothing we asked says nothing.
            mirror.received(now, base, peer, &message(BINDING_SUCCESS, 4, Some(base)));
            mirror.received(now, base, peer, &message(BINDING_SUCCESS, 3, Some(base)));
            assert_eq!(mirror.local_kind(base, peer, &known), CandidateKind::PeerReflexive);
            assert_eq!(mirror.local_kind(base, addr("198.51.100.9:1"), &known), CandidateKind::Host);
            assert_eq!(mirror.round_trip(base, addr("198.51.100.9:1")), None);
        }
    }

    #[test]
    fn truncated_answers_and_many_checks_cost_little() {
        let (mut mirror, now) = (Mirror::default(), Instant::now());
        let whole = message(BINDING_SUCCESS, 7, Some(addr("203.0.113.7:61000")));
        for len in 0..whole.len() {
            mirror.sent(now, &message(BINDING_REQUEST, 7, None));
            mirror.received(now, addr("10.0.0.1:1"), addr("10.0.0.2:1"), &whole[..len]);
            assert!(mirror.seen.is_empty(), "{len} bytes");
        }
        for n in 0..2000u16 {
            let mut check = message(BINDING_REQUEST, 0, None);
            check[8..10].copy_from_slice(&n.to_be_bytes());
            mirror.sent(now, &check);
            let mut answer = message(BINDING_SUCCESS, 0, Some(addr("203.0.113.7:61000")));
            answer[8..10].copy_from_slice(&n.to_be_bytes());
            mirror.received(now, addr("10.0.0.1:1"), SocketAddr::from(([10, 0, 0, 2], n + 1)), &answer);
            mirror.sent(now, &check);
        }
        assert_eq!((mirror.checks.len(), mirror.seen.len()), (MAX_CHECKS, MAX_PATHS));
    }
}

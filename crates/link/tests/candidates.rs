//! Candidates of every kind: who is told what, what is sent from where, and what an ICE restart goes on with.

mod common;

use common::{certificate, data_only, ms};
use remotemedia_link::{
    CandidateKind, Link, LinkEvent, LinkState, LocalCandidate, RelayProtocol, SelectedPair, Transmit,
};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn relay(text: &str) -> LocalCandidate {
    LocalCandidate::Relay { relayed: addr(text), protocol: RelayProtocol::Tls }
}

/// A link with its addresses. The network is whole, but for what `nat` says: (inside, outside).
struct Host {
    link: Link,
    nat: Vec<(SocketAddr, SocketAddr)>,
    /// What was sent from.
    used: BTreeSet<SocketAddr>,
    asked: Vec<String>,
}

struct Two {
    start: Instant,
    now: Instant,
    hosts: [Host; 2],
    /// Addresses that nothing gets to.
    dead: BTreeSet<SocketAddr>,
    flight: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl Two {
    fn new(candidates: [&[LocalCandidate]; 2]) -> Two {
        let start = Instant::now();
        let hosts = candidates.map(|list| {
            let mut link = Link::new(start, data_only(), certificate()).expect("a link");
            let mut nat = Vec::new();
            for candidate in list {
                link.add_local_candidate(*candidate).expect("a candidate");
                if let LocalCandidate::ServerReflexive { mapped, base } = *candidate {
                    nat.push((base, mapped));
                }
            }
            Host { link, nat, used: BTreeSet::new(), asked: Vec::new() }
        });
        Two { start, now: start, hosts, dead: BTreeSet::new(), flight: VecDeque::new() }
    }

    fn negotiate(&mut self, restart: bool) -> [String; 2] {
        let offer = self.hosts[0].link.create_offer(self.now, restart).expect("an offer");
        let answer = self.hosts[1].link.accept_offer(self.now, &offer).expect("an answer");
        self.hosts[0].link.accept_answer(self.now, &answer).expect("taken");
        [offer, answer]
    }

    fn pump(&mut self) {
        loop {
            for host in &mut self.hosts {
                while let Some(event) = host.link.poll_event() {
                    if let LinkEvent::ResolveName { name } = event {
                        host.asked.push(name);
                    }
                }
                while let Some(Transmit { local, remote, data }) = host.link.poll_transmit() {
                    host.used.insert(local);
                    let from = host.nat.iter().find(|(inside, _)| *inside == local).map_or(local, |n| n.1);
                    if !self.dead.contains(&local) && !self.dead.contains(&remote) {
                        self.flight.push_back((from, remote, data.to_vec()));
                    }
                }
            }
            let Some((from, to, data)) = self.flight.pop_front() else { return };
            for host in &mut self.hosts {
                let inside = host.nat.iter().find(|(_, outside)| *outside == to).map(|n| n.0);
                // What is behind a NAT can't be reached at its own address.
                let behind = host.nat.iter().any(|(inside, _)| *inside == to);
                let own = host.link.local_candidates().any(|c| c.base() == to);
                if let Some(local) = inside.or((own && !behind).then_some(to)) {
                    host.link.handle_datagram(self.now, local, from, &data);
                }
            }
        }
    }

    fn run_until(&mut self, limit: Duration, done: impl Fn(&Two) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.pump();
            if done(self) {
                return true;
            }
            let Some(next) = self.hosts.iter().filter_map(|h| h.link.poll_timeout()).min() else {
                return false;
            };
            self.now = self.now.max(next) + Duration::from_micros(50);
            if self.now > end {
                return false;
            }
            for host in &mut self.hosts {
                host.link.handle_timeout(self.now);
            }
        }
    }

    fn connect(&mut self) {
        let connected = |t: &Two| t.hosts.iter().all(|h| h.link.state() == LinkState::Connected);
        assert!(self.run_until(Duration::from_secs(5), connected), "{:?}", self.now - self.start);
    }

    fn selected(&mut self, host: usize) -> SelectedPair {
        self.hosts[host].link.stats().selected.expect("a pair in use")
    }
}

fn candidate_lines(sdp: &str) -> Vec<&str> {
    sdp.lines().filter_map(|l| l.strip_prefix("a=")).filter(|l| l.starts_with("candidate:")).collect()
}

#[test]
fn relays_connect_at_once_and_only_the_relay_is_used() {
    let (a, b) = ("203.0.113.1:50000", "203.0.113.1:50001");
    let mut two = Two::new([&[relay(a)], &[relay(b)]]);
    let [offer, answer] = two.negotiate(false);
    for (sdp, own) in [(&offer, a), (&answer, b)] {
        let lines = candidate_lines(sdp);
        assert_eq!(lines.len(), 1, "{sdp}");
        assert!(lines[0].contains(&own.replace(':', " ")), "{sdp}");
        assert!(lines[0].ends_with("typ relay raddr 0.0.0.0 rport 9"), "{sdp}");
    }
    two.connect();
    assert!(two.now - two.start < ms(250), "{:?}", two.now - two.start);
    for (host, own, other) in [(0, a, b), (1, b, a)] {
        assert_eq!(two.hosts[host].used, BTreeSet::from([addr(own)]));
        let pair = two.selected(host);
        assert_eq!((pair.local, pair.remote), (addr(own), addr(other)));
        assert_eq!((pair.local_kind, pair.remote_kind), (CandidateKind::Relay, CandidateKind::Relay));
        assert_eq!(pair.relay_protocol, Some(RelayProtocol::Tls));
    }
}

#[test]
fn checks_to_an_address_that_is_no_candidate_are_ignored() {
    let (a, b) = ("203.0.113.1:50000", "203.0.113.1:50001");
    let mut two = Two::new([&[relay(a)], &[relay(b)]]);
    two.negotiate(false);
    two.connect();
    // The very check that was taken at the relay, now at a socket of the host.
    two.hosts[1].used.clear();
    let mut checks = 0;
    for _ in 0..200 {
        while let Some(Transmit { data, .. }) = two.hosts[0].link.poll_transmit() {
            if data.first() == Some(&0) {
                checks += 1;
                two.hosts[1].link.handle_datagram(
                    two.now,
                    addr("192.0.2.2:5000"),
                    addr("192.0.2.1:5000"),
                    &data,
                );
                assert_eq!(two.hosts[1].link.poll_transmit(), None, "an answer from {:?}", two.hosts[1].used);
            }
        }
        two.now += ms(50);
        two.hosts[0].link.handle_timeout(two.now);
    }
    assert!(checks > 2);
    assert_eq!(two.selected(1).local, addr(b));
}

#[test]
fn reflexive_addresses_are_told_but_sent_from_their_base() {
    let srflx = |base: &str, mapped: &str| {
        [
            LocalCandidate::Host(addr(base)),
            LocalCandidate::ServerReflexive { mapped: addr(mapped), base: addr(base) },
        ]
    };
    let a = srflx("10.0.0.1:5000", "203.0.113.1:61000");
    let b = srflx("10.9.0.1:5000", "203.0.113.9:62000");
    let mut two = Two::new([&a, &b]);
    let [offer, _] = two.negotiate(false);
    assert_eq!(candidate_lines(&offer).len(), 2, "{offer}");
    assert!(offer.contains(" 203.0.113.1 61000 typ srflx raddr 10.0.0.1 rport 5000\r\n"), "{offer}");
    two.connect();
    assert_eq!(two.hosts[0].used, BTreeSet::from([addr("10.0.0.1:5000")]));
    for (host, base, other) in
        [(0, "10.0.0.1:5000", "203.0.113.9:62000"), (1, "10.9.0.1:5000", "203.0.113.1:61000")]
    {
        let pair = two.selected(host);
        assert_eq!((pair.local, pair.remote), (addr(base), addr(other)));
        let kinds = (pair.local_kind, pair.remote_kind);
        assert_eq!(kinds, (CandidateKind::ServerReflexive, CandidateKind::ServerReflexive));
        assert_eq!(pair.relay_protocol, None);
    }
}

#[test]
fn a_nat_that_maps_anew_for_each_peer_is_told_as_peer_reflexive() {
    let a = [LocalCandidate::Host(addr("10.0.0.1:5000"))];
    let b = [LocalCandidate::Host(addr("198.51.100.5:5000"))];
    let mut two = Two::new([&a, &b]);
    two.hosts[0].nat.push((addr("10.0.0.1:5000"), addr("203.0.113.1:7777")));
    two.negotiate(false);
    two.connect();
    let (ours, theirs) = (two.selected(0), two.selected(1));
    assert_eq!((ours.local_kind, ours.remote_kind), (CandidateKind::PeerReflexive, CandidateKind::Host));
    assert_eq!((theirs.local_kind, theirs.remote_kind), (CandidateKind::Host, CandidateKind::PeerReflexive));
    assert_eq!(theirs.remote, addr("203.0.113.1:7777"));
}

#[test]
fn a_candidate_found_late_connects() {
    let b = "203.0.113.1:50001";
    let mut two = Two::new([&[], &[relay(b)]]);
    two.negotiate(false);
    assert!(!two.run_until(ms(500), |t| t.hosts[0].link.state() == LinkState::Connected));
    let line = two.hosts[0].link.add_local_candidate(relay("203.0.113.1:50000")).expect("a candidate");
    assert_eq!(two.hosts[0].link.add_local_candidate(relay("203.0.113.1:50000")), Ok(line.clone()));
    two.hosts[1].link.add_remote_candidate(&line, Some("0"), Some(0)).expect("taken");
    two.connect();
}

/// The address in use goes away, another comes: the restart names and uses only what is there, on either side of it.
#[test]
fn a_restart_goes_on_with_the_addresses_of_now() {
    for mover in [0, 1] {
        let old = LocalCandidate::Host(addr("192.0.2.1:5000"));
        let peer = LocalCandidate::Host(addr("198.51.100.5:5000"));
        let (first, second) = if mover == 0 { (old, peer) } else { (peer, old) };
        let mut two = Two::new([&[first], &[second]]);
        two.negotiate(false);
        two.connect();
        let new = LocalCandidate::Host(addr("192.0.2.77:6000"));
        two.dead.insert(old.base());
        let link = &mut two.hosts[mover].link;
        assert!(link.remove_local_candidate(old) && !link.remove_local_candidate(old));
        link.add_local_candidate(new).expect("a candidate");
        assert_eq!(link.local_candidates().collect::<Vec<_>>(), [new]);
        let descriptions = two.negotiate(true);
        let lines = candidate_lines(&descriptions[mover]);
        assert!(lines.len() == 1 && lines[0].contains(" 192.0.2.77 6000 "), "{lines:?}");
        two.hosts[mover].used.clear();
        two.connect();
        assert_eq!(two.hosts[mover].used, BTreeSet::from([new.base()]), "mover {mover}");
        assert_eq!(two.selected(mover).local, new.base());
        assert_eq!(two.selected(1 - mover).remote, new.base());
    }
}

/// The engine forgets every candidate when it fails; the link doesn't.
#[test]
fn a_link_whose_ice_failed_restarts() {
    let (a, b) = (LocalCandidate::Host(addr("192.0.2.1:5000")), LocalCandidate::Host(addr("192.0.2.2:5000")));
    let mut two = Two::new([&[a], &[b]]);
    two.negotiate(false);
    two.connect();
    two.dead.insert(b.base());
    let failed = |t: &Two| t.hosts.iter().all(|h| h.link.state() == LinkState::Failed);
    assert!(two.run_until(Duration::from_secs(600), failed));
    two.dead.clear();
    two.negotiate(true);
    two.connect();
}

#[test]
fn names_are_asked_for_once_and_connect() {
    let (a, b) = (LocalCandidate::Host(addr("192.0.2.1:5000")), LocalCandidate::Host(addr("192.0.2.2:5000")));
    let mut two = Two::new([&[a], &[b]]);
    let offer = two.hosts[0].link.create_offer(two.now, false).expect("an offer");
    let hidden = offer.replace(" 192.0.2.1 5000 ", " 8b9c-77.LOCAL 5000 ");
    let answer = two.hosts[1].link.accept_offer(two.now, &hidden).expect("an answer");
    let hidden = answer.replace(" 192.0.2.2 5000 ", " abcd-66.local 5000 ");
    two.hosts[0].link.accept_answer(two.now, &hidden).expect("taken");
    let again = "candidate:7 1 udp 2113937151 8b9c-77.local 5000 typ host";
    two.hosts[1].link.add_remote_candidate(again, Some("0"), Some(0)).expect("taken");
    assert!(!two.run_until(ms(300), |t| t.hosts[1].link.state() == LinkState::Connected));
    assert_eq!(two.hosts[1].asked, ["8b9c-77.local"]);
    assert!(two.hosts[1].used.is_empty());
    two.hosts[1].link.resolve_candidate("other.local", Some("192.0.2.9".parse().expect("an address")));
    two.hosts[1].link.resolve_candidate("8b9c-77.local", Some("192.0.2.1".parse().expect("an address")));
    two.connect();
    assert_eq!(two.hosts[1].link.drops().candidate_mdns, 0);
    two.hosts[0].link.resolve_candidate("abcd-66.local", None);
    assert_eq!(two.hosts[0].link.drops().candidate_mdns, 1);
}

#[test]
fn names_are_bounded_and_what_they_stand_for_is_checked() {
    let mut link = Link::new(Instant::now(), data_only(), certificate()).expect("a link");
    for n in 0..10_000 {
        let line = format!("candidate:1 1 udp 1 name-{n}.local 5000 typ host");
        link.add_remote_candidate(&line, None, None).expect("queued or counted");
    }
    let asked =
        std::iter::from_fn(|| link.poll_event()).filter(|e| matches!(e, LinkEvent::ResolveName { .. }));
    assert_eq!(asked.count(), 16);
    assert_eq!(link.drops().candidate_mdns, 10_000 - 16);
    link.resolve_candidate("name-0.local", Some("224.0.0.1".parse().expect("an address")));
    link.resolve_candidate("name-1.local", Some("0.0.0.0".parse().expect("an address")));
    assert_eq!(link.drops().candidate_mdns, 10_000 - 16 + 2);
}

#[test]
fn candidates_that_make_no_sense_are_refused() {
    let mut link = Link::new(Instant::now(), data_only(), certificate()).expect("a link");
    let srflx =
        |mapped: &str, base: &str| LocalCandidate::ServerReflexive { mapped: addr(mapped), base: addr(base) };
    for bad in [
        srflx("0.0.0.0:1", "10.0.0.1:1"),
        srflx("203.0.113.1:0", "10.0.0.1:1"),
        srflx("203.0.113.1:1", "[fd00::1]:1"),
        relay("[ff02::1]:5"),
    ] {
        assert!(link.add_local_candidate(bad).is_err(), "{bad:?}");
    }
    for port in 1..=32 {
        link.add_local_candidate(SocketAddr::from(([10, 0, 0, 1], port))).expect("a candidate");
    }
    assert!(link.add_local_candidate(addr("10.0.0.1:33")).is_err());
}

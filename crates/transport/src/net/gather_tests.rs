//! Gathering under virtual time.

use super::*;
use remotemedia_link::RelayProtocol;
use remotemedia_link::turn::TurnError;

const HOST: &str = "192.0.2.2";
const STUN: &str = "198.51.100.3:3478";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn stun(host: &str) -> StunServer {
    StunServer { host: host.into(), port: 3478 }
}

fn turn(host: &str, username: &str) -> TurnServer {
    let (username, credential) = (username.into(), format!("secret of {username}"));
    TurnServer { host: host.into(), port: 3478, protocol: RelayProtocol::Udp, username, credential }
}

fn relay(relayed: &str) -> LocalCandidate {
    LocalCandidate::Relay { relayed: addr(relayed), protocol: RelayProtocol::Udp }
}

/// The machine with a clock, and everything it asked for.
struct Bench {
    gather: Gather,
    start: Instant,
    now: Instant,
    done: Vec<Do>,
    /// Next port of a socket.
    port: u16,
    refuse: Vec<IpAddr>,
}

impl Bench {
    fn new(policy: IceTransportPolicy, stun: Vec<StunServer>, turn: Vec<TurnServer>) -> Bench {
        Bench::asking(policy, stun, turn, false)
    }

    fn asking(policy: IceTransportPolicy, stun: Vec<StunServer>, turn: Vec<TurnServer>, asks: bool) -> Bench {
        let now = Instant::now();
        let gather = Gather::new(now, policy, stun, turn, asks, 7);
        Bench { gather, start: now, now, done: Vec::new(), port: 5000, refuse: Vec::new() }
    }

    fn addresses(&mut self, list: &[&str]) -> Vec<Do> {
        self.gather.set_addresses(self.now, &list.iter().map(|a| ip(a)).collect::<Vec<_>>());
        self.take()
    }

    /// Carries out what concerns sockets, and returns the rest.
    fn take(&mut self) -> Vec<Do> {
        let mut taken = Vec::new();
        while let Some(action) = self.gather.poll() {
            if let Do::Bind(ip) = action {
                if self.refuse.contains(&ip) {
                    self.gather.bind_failed(self.now, ip);
                } else {
                    self.gather.bound(self.now, SocketAddr::new(ip, self.port));
                    self.port += 1;
                }
            } else {
                taken.push(action);
            }
        }
        self.done.extend(taken.iter().cloned());
        taken
    }

    /// Lets time pass, a timer at a time.
    fn run(&mut self, time: Duration) -> Vec<Do> {
        let end = self.now + time;
        let mut taken = self.take();
        let mut steps = 0;
        while let Some(at) = self.gather.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.gather.handle_timeout(self.now);
            taken.extend(self.take());
            steps += 1;
            assert!(steps < 10_000, "the clock stands still at {:?}", self.now - self.start);
        }
        self.now = end;
        taken
    }

    /// A STUN server's answer to the last request of a socket.
    fn answer(&mut self, base: SocketAddr, mapped: &str) -> Vec<Do> {
        let sent = self.done.iter().rev().find_map(|d| match d {
            Do::Send { from, to, data } if *from == base => Some((*to, data.clone())),
            _ => None,
        });
        let (server, request) = sent.expect("a request");
        assert!(self.gather.handle_stun(self.now, base, server, &success(&request, addr(mapped))));
        self.take()
    }

    fn opened(&self) -> Vec<(RelayId, SocketAddr, Family)> {
        let opened = self.done.iter().filter_map(|d| match d {
            Do::OpenRelay { id, address, family, .. } => Some((*id, *address, *family)),
            _ => None,
        });
        opened.collect()
    }

    fn up(&mut self, id: RelayId, relayed: &str) -> Vec<Do> {
        self.gather.relay_opened(id, ip(HOST));
        self.gather.relay_up(self.now, id, addr(relayed));
        self.take()
    }

    fn fail(&mut self, id: RelayId, error: TurnError) -> Vec<Do> {
        self.gather.relay_failed(self.now, id, &RelayFailure::Turn(error));
        self.take()
    }
}

/// A binding success response with XOR-MAPPED-ADDRESS (RFC 8489).
fn success(request: &[u8], mapped: SocketAddr) -> Vec<u8> {
    let mut out = request[..20].to_vec();
    out[0..2].copy_from_slice(&[1, 1]);
    let octets = match mapped.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mask = out[4..20].to_vec();
    out.extend([0, 0x20, 0, 4 + octets.len() as u8, 0, if mapped.is_ipv4() { 1 } else { 2 }]);
    out.extend((mapped.port() ^ 0x2112).to_be_bytes());
    out.extend(octets.iter().zip(&mask).map(|(b, m)| b ^ m));
    let len = ((out.len() - 20) as u16).to_be_bytes();
    out[2..4].copy_from_slice(&len);
    out
}

fn srflx(mapped: &str, base: SocketAddr) -> LocalCandidate {
    LocalCandidate::ServerReflexive { mapped: addr(mapped), base }
}

fn errors(done: &[Do]) -> Vec<String> {
    let errors = done.iter().filter_map(|d| match d {
        Do::Error { server, message } => Some(format!("{server}: {message}")),
        _ => None,
    });
    errors.collect()
}

const V4_BASE: &str = "192.0.2.2:5000";

#[test]
fn without_servers_the_hosts_are_all_there_is() {
    let mut bench = Bench::new(IceTransportPolicy::All, vec![], vec![]);
    let done = bench.addresses(&["127.0.0.1", HOST, "2001:db8::2"]);
    let hosts = ["127.0.0.1:5000", V4_BASE, "[2001:db8::2]:5002"].map(|a| a.replace("2:5000", "2:5001"));
    let mut expected: Vec<Do> = hosts.iter().map(|a| Do::Add(LocalCandidate::Host(addr(a)))).collect();
    expected.push(Do::Complete);
    assert_eq!(done, expected);
    assert!(bench.gather.is_complete() && bench.gather.poll_timeout().is_none());
}

#[test]
fn a_mapped_address_is_found_kept_alive_and_replaced() {
    let mut bench = Bench::new(IceTransportPolicy::All, vec![stun("198.51.100.3")], vec![]);
    let base = addr(V4_BASE);
    let done = bench.addresses(&[HOST]);
    assert!(
        matches!(&done[..], [Do::Add(_), Do::Send { from, to, .. }] if *from == base && *to == addr(STUN))
    );
    assert!(!bench.gather.is_complete());
    // Somebody else's answer, and one to something else.
    assert!(!bench.gather.handle_stun(bench.now, base, addr("203.0.113.9:3478"), &[1, 1, 0, 0]));
    assert!(!bench.gather.handle_stun(bench.now, base, addr(STUN), &[1, 1, 0, 0]));
    let done = bench.answer(base, "203.0.113.7:61000");
    assert_eq!(done, [Do::Add(srflx("203.0.113.7:61000", base)), Do::Complete]);
    // Kept alive.
    let sends = bench.run(Duration::from_millis(14_900));
    assert_eq!(sends, []);
    assert!(matches!(&bench.run(Duration::from_millis(150))[..], [Do::Send { .. }]));
    assert_eq!(bench.answer(base, "203.0.113.7:61000"), []);
    // The NAT gave another one.
    bench.run(Duration::from_secs(15));
    let done = bench.answer(base, "203.0.113.7:62000");
    let expected = [Do::Remove(srflx("203.0.113.7:61000", base)), Do::Add(srflx("203.0.113.7:62000", base))];
    assert_eq!(done, expected);
    // The server falls silent: what it said is no longer true for sure, and it is told once.
    let done = bench.run(Duration::from_secs(300));
    assert!(done.contains(&Do::Remove(srflx("203.0.113.7:62000", base))));
    assert_eq!(errors(&done), ["stun:198.51.100.3:3478: the STUN server doesn't answer"]);
    let sends = done.iter().filter(|d| matches!(d, Do::Send { .. })).count();
    assert!((10..100).contains(&sends), "{sends} in five minutes");
    while !bench.run(Duration::from_millis(100)).iter().any(|d| matches!(d, Do::Send { .. })) {}
    let done = bench.answer(base, "203.0.113.7:62000");
    assert_eq!(done, [Do::Add(srflx("203.0.113.7:62000", base))]);
}

#[test]
fn an_ice_restart_asks_again_what_the_nat_shows_and_not_more_than_once_a_second() {
    let mut bench = Bench::new(IceTransportPolicy::All, vec![stun("198.51.100.3")], vec![]);
    let base = addr(V4_BASE);
    bench.addresses(&[HOST]);
    bench.answer(base, "203.0.113.7:61000");
    bench.run(Duration::from_secs(5));
    bench.gather.refresh(bench.now);
    assert!(matches!(&bench.take()[..], [Do::Send { .. }]));
    assert!(!bench.gather.is_complete(), "the end of candidates waits for the answer");
    let done = bench.answer(base, "203.0.113.7:62000");
    let (old, new) = (srflx("203.0.113.7:61000", base), srflx("203.0.113.7:62000", base));
    assert_eq!(done, [Do::Remove(old), Do::Add(new), Do::Complete]);
    bench.gather.refresh(bench.now);
    assert_eq!(bench.take(), []);
    bench.run(REFRESH_EVERY);
    bench.gather.refresh(bench.now);
    assert!(matches!(&bench.take()[..], [Do::Send { .. }]));
}

#[test]
fn an_address_that_is_no_ones_but_ours_is_no_candidate_of_its_own() {
    let mut bench = Bench::new(IceTransportPolicy::All, vec![stun("198.51.100.3")], vec![]);
    bench.addresses(&[HOST]);
    assert_eq!(bench.answer(addr(V4_BASE), V4_BASE), [Do::Complete]);
}

#[test]
fn an_interface_that_does_not_lead_to_the_server_is_no_error() {
    let mut bench = Bench::new(IceTransportPolicy::All, vec![stun("198.51.100.3")], vec![]);
    let done = bench.addresses(&["127.0.0.1", "172.17.0.1", HOST, "2001:db8::2"]);
    let asked: Vec<_> = done
        .iter()
        .filter_map(|d| if let Do::Send { from, .. } = d { Some(from.ip()) } else { None })
        .collect();
    assert_eq!(asked, [ip("172.17.0.1"), ip(HOST)], "neither loopback nor the other family");
    let base = addr("192.0.2.2:5002");
    let answered =
        bench.done.iter().position(|d| matches!(d, Do::Send { from, .. } if *from == base)).unwrap();
    let Do::Send { to, data, .. } = bench.done[answered].clone() else { unreachable!() };
    assert!(bench.gather.handle_stun(bench.now, base, to, &success(&data, addr("203.0.113.7:61000"))));
    let done = bench.run(Duration::from_secs(14));
    assert_eq!(errors(&done), [""; 0]);
    let complete = bench.done.iter().filter(|d| **d == Do::Complete).count();
    assert_eq!(complete, 1, "once the last try is over, and only once");
}

#[test]
fn names_are_looked_up_once_and_failures_told_once() {
    let mut bench = Bench::new(
        IceTransportPolicy::All,
        vec![stun("stun.example"), StunServer { host: "stun.example".into(), port: 19302 }],
        vec![turn("stun.example", "u")],
    );
    let done = bench.addresses(&[HOST]);
    assert_eq!(done.iter().filter(|d| matches!(d, Do::Resolve(_))).count(), 1);
    bench.gather.resolved(bench.now, "stun.example", Err("no such host".into()));
    let told = errors(&bench.take());
    assert_eq!(told.len(), 3, "each server is named: {told:?}");
    assert!(
        told.contains(
            &"turn:stun.example:3478?transport=udp: the name can't be resolved: no such host".into()
        )
    );
    assert!(bench.gather.is_complete());
    for _ in 0..5 {
        let done = bench.run(Duration::from_secs(61));
        assert!(done.iter().any(|d| matches!(d, Do::Resolve(_))), "it is tried again");
        bench.gather.resolved(bench.now, "stun.example", Err("no such host".into()));
        assert_eq!(errors(&bench.take()), [""; 0]);
    }
    bench.run(Duration::from_secs(61));
    bench.gather.resolved(bench.now, "stun.example", Ok(vec![ip("2001:db8::3"), ip("198.51.100.3")]));
    let done = bench.take();
    let to: Vec<_> =
        done.iter().filter_map(|d| if let Do::Send { to, .. } = d { Some(*to) } else { None }).collect();
    assert_eq!(to, [addr(STUN), addr("198.51.100.3:19302")]);
    assert_eq!(bench.opened().len(), 2);
    assert_eq!(bench.opened()[0].1, addr("[2001:db8::3]:3478"), "the system's order of preference");
}

#[test]
fn each_server_relays_both_families_and_lacking_one_is_no_error() {
    let mut bench =
        Bench::new(IceTransportPolicy::Relay, vec![stun("198.51.100.3")], vec![turn("198.51.100.3", "u")]);
    let done = bench.addresses(&[HOST]);
    assert!(
        !done.iter().any(|d| matches!(d, Do::Send { .. } | Do::Add(_))),
        "no other address is gathered: {done:?}"
    );
    assert_eq!(bench.opened(), [(0, addr(STUN), Family::V4), (1, addr(STUN), Family::V6)]);
    assert!(bench.gather.why_no_relay().unwrap().contains("no answer yet"));
    assert_eq!(bench.up(0, "203.0.113.1:50000"), [Do::Add(relay("203.0.113.1:50000"))]);
    assert_eq!(bench.fail(1, TurnError::FamilyNotSupported), [Do::Complete]);
    assert_eq!(bench.gather.why_no_relay(), None);
    assert_eq!(bench.run(Duration::from_secs(3600)), [], "and is not asked for again");
}

#[test]
fn a_failed_relay_is_got_again_with_backoff_and_told_once() {
    let mut bench = Bench::new(IceTransportPolicy::Relay, vec![], vec![turn("198.51.100.3", "u")]);
    bench.addresses(&[HOST]);
    bench.fail(1, TurnError::FamilyNotSupported);
    let mut id = 0;
    let mut waits = Vec::new();
    let mut told = Vec::new();
    for _ in 0..9 {
        told.extend(errors(&bench.fail(id, TurnError::QuotaReached)));
        let failed = bench.now;
        let done = bench.run(Duration::from_secs(90));
        let opened =
            done.iter().find_map(|d| if let Do::OpenRelay { id, .. } = d { Some(*id) } else { None });
        id = opened.expect("another try");
        // The try ran out meanwhile; when it began is when the machine was woken for it.
        waits.push(bench.now - failed);
        told.extend(errors(&done));
        if let Some(latest) = bench.opened().last() {
            id = latest.0;
        }
    }
    assert!(waits.len() == 9 && told.len() <= 2, "{told:?}");
    assert_eq!(told[0], "turn:198.51.100.3:3478?transport=udp: allocation quota reached");
    let why = bench.gather.why_no_relay().unwrap();
    assert!(why.starts_with("turn:198.51.100.3:3478?transport=udp: "), "{why}");
    // Once it works and fails again, that is told again.
    bench.up(id, "203.0.113.1:50000");
    let done = bench.fail(id, TurnError::QuotaReached);
    assert_eq!(done[0], Do::Remove(relay("203.0.113.1:50000")));
    assert_eq!(errors(&done).len(), 1);
    let tries = bench.opened().len();
    bench.run(Duration::from_millis(990));
    assert_eq!(bench.opened().len(), tries);
    bench.run(Duration::from_millis(300));
    assert_eq!(bench.opened().len(), tries + 1, "the first wait is a second, with a quarter of jitter");
}

#[test]
fn a_server_with_several_addresses_is_tried_at_each() {
    let mut bench = Bench::new(IceTransportPolicy::Relay, vec![], vec![turn("turn.example", "u")]);
    bench.addresses(&[HOST]);
    bench.gather.resolved(bench.now, "turn.example", Ok(vec![ip("2001:db8::3"), ip("198.51.100.3")]));
    bench.take();
    bench.fail(1, TurnError::FamilyNotSupported);
    // Nobody answers at the first.
    let done = bench.run(Duration::from_secs(6));
    assert_eq!(errors(&done), [""; 0]);
    let opened = bench.opened();
    assert_eq!((opened.len(), opened[2].1), (3, addr(STUN)));
    assert!(done.contains(&Do::CloseRelay(0)));
    bench.gather.relay_failed(bench.now, 2, &RelayFailure::Io("Connection refused".into()));
    let done = bench.take();
    assert_eq!(errors(&done), ["turn:turn.example:3478?transport=udp: Connection refused"]);
    assert!(done.contains(&Do::Resolve("turn.example".into())), "the name may stand for another address now");
}

#[test]
fn where_a_server_sends_us_on_to_is_followed_but_not_for_ever() {
    let mut bench = Bench::new(IceTransportPolicy::Relay, vec![], vec![turn("198.51.100.3", "u")]);
    bench.addresses(&[HOST]);
    bench.fail(1, TurnError::FamilyNotSupported);
    for (n, other) in ["198.51.100.4:3478", "198.51.100.5:3478", "198.51.100.6:3478"].into_iter().enumerate()
    {
        let id = if n == 0 { 0 } else { bench.opened().last().unwrap().0 };
        assert_eq!(errors(&bench.fail(id, TurnError::TryAlternate { server: addr(other) })), [""; 0]);
        assert_eq!(bench.opened().last().unwrap().1, addr(other), "hop {n}");
    }
    let id = bench.opened().last().unwrap().0;
    let done = bench.fail(id, TurnError::TryAlternate { server: addr(STUN) });
    assert_eq!(errors(&done).len(), 1);
    assert!(!done.iter().any(|d| matches!(d, Do::OpenRelay { .. })));
    // A port that the server takes for another client's is given up at once, twice.
    bench.run(Duration::from_secs(2));
    for _ in 0..2 {
        let id = bench.opened().last().unwrap().0;
        let done = bench.fail(id, TurnError::AllocationMismatch);
        assert!(matches!(done[..], [Do::OpenRelay { .. }]), "{done:?}");
    }
    let id = bench.opened().last().unwrap().0;
    assert_eq!(errors(&bench.fail(id, TurnError::AllocationMismatch)).len(), 1);
}

#[test]
fn refused_credentials_are_told_and_others_help_at_once() {
    let mut bench = Bench::new(IceTransportPolicy::Relay, vec![], vec![turn("198.51.100.3", "u")]);
    bench.addresses(&[HOST]);
    bench.fail(1, TurnError::FamilyNotSupported);
    // The same again makes the client give up.
    bench.gather.relay_expired(bench.now, 0);
    let (username, credential) = ("u".to_owned(), "secret of u".to_owned());
    assert_eq!(bench.take(), [Do::SetCredentials { id: 0, username, credential }]);
    let done = bench.fail(0, TurnError::Unauthorized);
    assert_eq!(
        errors(&done),
        ["turn:198.51.100.3:3478?transport=udp: the TURN server refuses the credentials"]
    );
    assert!(bench.gather.is_complete());
    assert_eq!(bench.run(Duration::from_secs(59)), []);
    assert!(bench.run(Duration::from_secs(2)).iter().any(|d| matches!(d, Do::OpenRelay { .. })));
    let id = bench.opened().last().unwrap().0;
    bench.fail(id, TurnError::Unauthorized);
    bench.gather.set_turn_servers(bench.now, vec![turn("198.51.100.3", "v")]);
    let done = bench.take();
    assert!(
        done.iter().any(|d| matches!(d, Do::OpenRelay { server, .. } if server.username == "v")),
        "{done:?}"
    );
}

#[test]
fn credentials_that_expire_are_asked_for_and_the_next_relay_is_there_before_the_old_one_goes() {
    let mut bench = Bench::asking(IceTransportPolicy::Relay, vec![], vec![], true);
    assert_eq!(bench.addresses(&[HOST]), [Do::NeedServers]);
    assert!(!bench.gather.is_complete());
    assert_eq!(bench.gather.why_no_relay().as_deref(), Some("no TURN servers were given yet"));
    bench.gather.set_turn_servers(bench.now, vec![turn("198.51.100.3", "u1")]);
    bench.take();
    bench.fail(1, TurnError::FamilyNotSupported);
    bench.up(0, "203.0.113.1:50000");
    // Others come before anything is refused: the allocation belongs to its user.
    bench.gather.set_turn_servers(bench.now, vec![turn("198.51.100.3", "u2")]);
    assert_eq!(bench.take(), []);
    bench.gather.relay_expired(bench.now, 0);
    let done = bench.take();
    assert!(
        matches!(&done[..], [Do::OpenRelay { id: 2, server, .. }] if server.username == "u2"),
        "{done:?}"
    );
    let done = bench.up(2, "203.0.113.1:50001");
    let expected =
        [Do::Remove(relay("203.0.113.1:50000")), Do::RetireRelay(0), Do::Add(relay("203.0.113.1:50001"))];
    assert_eq!(done, expected);
    // Refused with nothing newer at hand: the owner is asked.
    bench.gather.relay_expired(bench.now, 2);
    assert_eq!(bench.take(), [Do::NeedServers]);
    // The same user with another password keeps the relay.
    let newer = TurnServer { credential: "newer".into(), ..turn("198.51.100.3", "u2") };
    bench.gather.set_turn_servers(bench.now, vec![newer]);
    let (username, credential) = ("u2".to_owned(), "newer".to_owned());
    assert_eq!(bench.take(), [Do::SetCredentials { id: 2, username, credential }]);
}

#[test]
fn servers_that_are_not_listed_any_more_are_left() {
    let mut bench = Bench::new(IceTransportPolicy::Relay, vec![], vec![turn("198.51.100.3", "u")]);
    bench.addresses(&[HOST]);
    bench.up(0, "203.0.113.1:50000");
    bench.gather.set_turn_servers(bench.now, vec![turn("198.51.100.4", "u")]);
    let done = bench.take();
    assert_eq!(done[..3], [Do::Remove(relay("203.0.113.1:50000")), Do::RetireRelay(0), Do::CloseRelay(1)]);
    assert_eq!(bench.opened()[2].1, addr("198.51.100.4:3478"));
    // Late news of them is nobody's.
    bench.gather.relay_up(bench.now, 0, addr("203.0.113.1:50009"));
    bench.gather.relay_failed(bench.now, 1, &RelayFailure::Io("late".into()));
    assert_eq!(bench.take(), []);
}

#[test]
fn everything_is_got_anew_when_the_address_changes() {
    let mut bench =
        Bench::new(IceTransportPolicy::All, vec![stun("198.51.100.3")], vec![turn("198.51.100.3", "u")]);
    bench.addresses(&[HOST]);
    let base = addr(V4_BASE);
    bench.answer(base, "203.0.113.7:61000");
    bench.up(0, "203.0.113.1:50000");
    assert_eq!(bench.fail(1, TurnError::FamilyNotSupported), [Do::Complete]);
    let done = bench.addresses(&["192.0.2.77"]);
    for gone in [LocalCandidate::Host(base), srflx("203.0.113.7:61000", base), relay("203.0.113.1:50000")] {
        assert!(done.contains(&Do::Remove(gone)), "{gone:?} in {done:?}");
    }
    assert!(done.contains(&Do::Unbind(base)) && done.contains(&Do::CloseRelay(0)));
    let new = addr("192.0.2.77:5001");
    assert!(done.contains(&Do::Add(LocalCandidate::Host(new))));
    assert!(done.iter().any(|d| matches!(d, Do::OpenRelay { .. })), "at once");
    assert!(!bench.gather.is_complete());
    bench.answer(new, "203.0.113.8:1000");
    let id = bench.opened().last().unwrap().0;
    assert!(bench.up(id, "203.0.113.1:50001").contains(&Do::Complete));
    // Nothing left, then back: what failed meanwhile doesn't wait for its turn.
    bench.addresses(&[]);
    let id = bench.opened().last().unwrap().0;
    for _ in 0..3 {
        bench.gather.relay_failed(bench.now, id, &RelayFailure::Io("Network is unreachable".into()));
        bench.run(Duration::from_secs(30));
    }
    let tries = bench.opened().len();
    bench.addresses(&["192.0.2.77"]);
    assert!(bench.opened().len() > tries || bench.gather.why_no_relay().unwrap().contains("doesn't answer"));
}

#[test]
fn an_address_that_can_not_be_bound_yet_is_tried_again() {
    let mut bench = Bench::new(IceTransportPolicy::All, vec![], vec![]);
    bench.refuse.push(ip("2001:db8::2"));
    bench.addresses(&["2001:db8::2"]);
    assert_eq!(bench.run(Duration::from_secs(5)), []);
    bench.refuse.clear();
    let done = bench.run(Duration::from_secs(2));
    assert_eq!(done, [Do::Add(LocalCandidate::Host(addr("[2001:db8::2]:5000")))]);
    bench.refuse.push(ip("2001:db8::3"));
    bench.addresses(&["2001:db8::3"]);
    bench.addresses(&[]);
    assert_eq!(bench.gather.poll_timeout(), None, "an address that is gone is not tried any more");
}

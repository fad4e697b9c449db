//! The TURN client against coturn, on loopback. Skipped loudly where there is no `turnserver`.

#[path = "turn/coturn.rs"]
mod coturn;

use coturn::*;
use remotemedia_link::turn::*;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Sends numbered messages both ways at once, each `every`, until `count` went; all must come, in order and once.
fn exchange(a: &mut Node, b: &mut Node, count: u32, every: Duration) {
    let (at_a, at_b) = (a.relayed(), b.relayed());
    let number = |n: u32| [&n.to_be_bytes()[..], &[0x17; 196]].concat();
    let (mut sent, mut next) = (0, Instant::now());
    let done = run_both(a, b, |a, b| {
        let now = Instant::now();
        // coturn has room for some 50 while it doesn't get to run.
        let under_way = sent - a.got.len().min(b.got.len()) as u32;
        if sent < count && now >= next && under_way < 32 {
            next = now + every;
            assert!(a.send(at_b, &number(sent)) && b.send(at_a, &number(sent)));
            sent += 1;
        }
        sent == count && a.got.len() >= count as usize && b.got.len() >= count as usize
    });
    for (node, from) in [(a, at_b), (b, at_a)] {
        let numbers: Vec<u32> = node
            .got
            .drain(..)
            .map(|(sender, d)| {
                assert_eq!((sender, d.len()), (from, 200));
                u32::from_be_bytes(d[..4].try_into().expect("a number"))
            })
            .collect();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "done {done}, {:?}", node.client.counters());
    }
}

fn closes(node: &mut Node) {
    node.client.close(Instant::now());
    node.flush();
    assert!(node.run_until(|n| n.client.is_closed()), "the Refresh is answered");
    assert_eq!(node.client.counters().timeouts, 0);
}

/// 1000 messages each way, over UDP and over a stream, mixed too.
#[test]
fn a_thousand_messages_each_way_in_order() {
    let Some(coturn) = Coturn::with_user(v4(), &[]) else { return };
    for (one, other) in [(false, false), (true, true), (true, false)] {
        let mut a = Node::allocated(coturn.config(one));
        let mut b = Node::allocated(coturn.config(other));
        let mapped = |n: &Node| TurnEvent::Allocated { relayed: n.relayed(), mapped: n.local() };
        assert_eq!((&a.events[0], &b.events[0]), (&mapped(&a), &mapped(&b)));
        introduce(&mut a, &mut b);
        exchange(&mut a, &mut b, 1000, Duration::from_micros(500));
        for node in [&a, &b] {
            let counters = node.client.counters();
            assert!(counters.sent_channel >= 1000, "{counters:?}");
            assert_eq!((counters.malformed, counters.unauthenticated), (0, 0));
            // Where the machine is busy, a request is sent again and answered twice.
            assert!(counters.unexpected <= counters.retransmits, "{counters:?}");
        }
        closes(&mut a);
        closes(&mut b);
    }
}

#[test]
fn ipv6_is_relayed() {
    let Some(coturn) = Coturn::with_user(IpAddr::V6(Ipv6Addr::LOCALHOST), &[]) else { return };
    let mut a = Node::allocated(coturn.config(false));
    let mut b = Node::allocated(coturn.config(true));
    assert!(a.relayed().is_ipv6() && b.relayed().is_ipv6());
    introduce(&mut a, &mut b);
    exchange(&mut a, &mut b, 1000, Duration::from_micros(500));
    closes(&mut a);
    // The other family isn't relayed there.
    let mut four = Node::new(TurnConfig { family: Family::V4, ..coturn.config(false) });
    assert!(four.run_until(|n| !n.events.is_empty()));
    assert_eq!(four.events, [TurnEvent::Failed(TurnError::FamilyNotSupported)]);
}

#[test]
fn a_peer_without_a_relay_is_reached_and_one_that_isnt_permitted_is_not_heard() {
    let Some(coturn) = Coturn::with_user(v4(), &[]) else { return };
    let mut node = Node::allocated(coturn.config(false));
    let relayed = node.relayed();
    let peer = UdpSocket::bind((v4(), 0)).expect("a socket");
    peer.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let at = peer.local_addr().expect("an address");
    peer.send_to(b"too early", relayed).expect("sent");
    // It would have come before the answer to this.
    node.client.check(Instant::now());
    node.flush();
    let answered =
        |n: &Node| n.client.poll_timeout().is_some_and(|at| at > Instant::now() + Duration::from_secs(1));
    assert!(node.run_until(answered), "{:?}", node.client.counters());
    assert!(node.got.is_empty());
    // Permitted, it may begin; and from any port.
    node.client.permit(Instant::now(), at.ip());
    node.flush();
    let other = UdpSocket::bind((v4(), 0)).expect("a socket");
    let heard = node.run_until(|n| {
        other.send_to(b"let me in", relayed).expect("sent");
        !n.got.is_empty()
    });
    assert!(heard);
    assert_eq!(node.got[0], (other.local_addr().expect("an address"), b"let me in".to_vec()));
    assert!(node.send(at, b"hello"));
    let mut buffer = [0; 100];
    assert_eq!(peer.recv_from(&mut buffer).expect("it came"), (5, relayed));
}

/// A nonce lives for two seconds, but that is looked at on requests alone: they are made often.
#[test]
fn nonces_go_stale_under_traffic_and_nothing_is_lost() {
    let Some(coturn) = Coturn::with_user(v4(), &["--stale-nonce=1"]) else { return };
    for stream in [false, true] {
        let mut a = Node::allocated(coturn.config(stream));
        let mut b = Node::allocated(coturn.config(stream));
        introduce(&mut a, &mut b);
        for round in 0..8_u8 {
            exchange(&mut a, &mut b, 300, Duration::from_millis(5));
            // Each kind of request: the allocation, another permission, another channel.
            let now = Instant::now();
            let peer = SocketAddr::from(([127, 0, 1, round + 1], 4000));
            for node in [&mut a, &mut b] {
                node.client.check(now);
                node.client.permit(now, peer.ip());
                node.flush();
            }
        }
        for node in [&mut a, &mut b] {
            let counters = node.client.counters();
            assert!(counters.stale_nonces >= 4, "{counters:?}");
            assert_eq!(
                (counters.errors, counters.timeouts, counters.unauthenticated),
                (0, 0, 0),
                "{counters:?}"
            );
            assert_eq!((node.events.len(), counters.allocations), (1, 1), "{:?}", node.events);
            closes(node);
        }
    }
}

#[test]
fn a_server_that_was_restarted_gives_a_new_allocation() {
    let Some(coturn) = Coturn::with_user(v4(), &[]) else { return };
    let mut node = Node::allocated(coturn.config(false));
    let mut other = Node::allocated(coturn.config(false));
    introduce(&mut node, &mut other);
    let server = coturn.server;
    // An allocation that is lost within ten seconds isn't made again.
    let limit = Instant::now() + Duration::from_secs(10);
    run_both(&mut node, &mut other, |_, _| Instant::now() >= limit);
    drop(coturn);
    let Some(_coturn) = Coturn::start_at(server, USER) else { return };
    for node in [&mut node, &mut other] {
        node.client.check(Instant::now());
        node.flush();
        assert!(node.run_until(|n| n.events.len() == 2), "{:?}", node.client.counters());
        assert!(matches!(node.events[1], TurnEvent::Allocated { .. }), "{:?}", node.events);
    }
    introduce(&mut node, &mut other);
    exchange(&mut node, &mut other, 100, Duration::from_millis(1));
}

#[test]
fn refusals_are_clear() {
    let Some(coturn) = Coturn::with_user(v4(), &["--user-quota=1", "--denied-peer-ip=127.0.0.66"]) else {
        return;
    };
    // Another password.
    let mut node = Node::new(TurnConfig { credential: "wrong".into(), ..coturn.config(false) });
    assert!(node.run_until(|n| !n.events.is_empty()));
    assert_eq!(node.events, [TurnEvent::CredentialsExpired]);
    assert!(node.client.set_credentials(Instant::now(), "alice".into(), "secret".into()));
    node.flush();
    assert!(node.run_until(|n| n.client.relayed().is_some()), "{:?}", node.events);
    // One more than the quota.
    let began = Instant::now();
    let mut second = Node::new(coturn.config(false));
    assert!(second.run_until(|n| !n.events.is_empty()));
    assert_eq!(second.events, [TurnEvent::Failed(TurnError::QuotaReached)]);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // A peer that the server relays nothing to.
    let forbidden = SocketAddr::from(([127, 0, 0, 66], 4000));
    assert!(node.send(forbidden, b"check"));
    assert!(node.run_until(|n| n.events.len() > 2), "{:?}", node.client.counters());
    assert_eq!(node.events[2], TurnEvent::PeerRefused { peer: forbidden.ip(), code: 403 });
    // No server at all.
    let unused = UdpSocket::bind((v4(), 0)).and_then(|s| s.local_addr()).expect("an address");
    let mut nobody = Node::new(TurnConfig { server: unused, ..coturn.config(false) });
    assert!(nobody.run_until(|n| !n.events.is_empty()));
    assert_eq!(nobody.events, [TurnEvent::Failed(TurnError::Timeout)]);
}

/// What a TURN REST service gives out: a name with its end, and an HMAC of it.
#[test]
fn credentials_with_an_end_are_refreshed() {
    let secret = ["--use-auth-secret", "--static-auth-secret=shared", "--stale-nonce=1"];
    let Some(coturn) = Coturn::start(v4(), &secret) else { return };
    let credentials = |seconds: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let username = format!("{}:alice", now.as_secs() as i64 + seconds);
        let provider = rtc::crypto::default_provider().expect("cryptography");
        let mut mac =
            provider.crypto().new_hmac(rtc::crypto::HmacAlgorithm::Sha1, b"shared").expect("HMAC-SHA1");
        let mut tag = [0; 20];
        mac.sign(&[username.as_bytes()], &mut tag).expect("a tag");
        (username, base64(&tag))
    };
    let with = |(username, credential): (String, String)| TurnConfig {
        username,
        credential,
        ..coturn.config(false)
    };
    // Already over: others are asked for. coturn lets nobody change the name on a port: a new one has to be taken.
    let mut node = Node::new(with(credentials(-60)));
    assert!(node.run_until(|n| !n.events.is_empty()));
    let (username, credential) = credentials(2);
    assert!(node.client.set_credentials(Instant::now(), username.clone(), credential.clone()));
    assert!(node.run_until(|n| n.client.is_closed()));
    assert_eq!(
        node.events,
        [TurnEvent::CredentialsExpired, TurnEvent::Failed(TurnError::AllocationMismatch)]
    );
    let mut node = Node::allocated(with((username, credential)));
    let relayed = node.relayed();
    let mut other = Node::allocated(with(credentials(3600)));
    introduce(&mut node, &mut other);
    // They end while it runs. Others come, with another name; the allocation stays.
    for _ in 0..2 {
        exchange(&mut node, &mut other, 800, Duration::from_millis(5));
        let now = Instant::now();
        let (username, credential) = credentials(2);
        assert!(node.client.set_credentials(now, username, credential));
        node.client.check(now);
        (1..5).for_each(|host| node.client.permit(now, IpAddr::from([127, 0, 2, host])));
        node.flush();
    }
    exchange(&mut node, &mut other, 200, Duration::from_millis(5));
    let counters = node.client.counters();
    assert_eq!((node.relayed(), node.events.len()), (relayed, 1), "{:?}", node.events);
    assert_eq!((counters.errors, counters.timeouts), (0, 0), "{counters:?}");
    closes(&mut node);
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        (0..4)
            .map(
                move |i| {
                    if i <= chunk.len() { LETTERS[(bits >> (18 - 6 * i) & 63) as usize].into() } else { '=' }
                },
            )
            .collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// Past the end of everything: nonce and allocation 600 s, channel 600 s, permission 300 s, all as coturn has them by
/// default. Run it with `cargo test -p remotemedia-link --test turn_coturn ten_minutes -- --ignored --nocapture`.
#[test]
#[ignore = "takes 12 minutes"]
fn ten_minutes_pass_and_nothing_is_lost() {
    let Some(coturn) = Coturn::with_user(v4(), &["--stale-nonce=600"]) else { return };
    let began = Instant::now();
    std::thread::scope(|scope| {
        for stream in [false, true] {
            let coturn = &coturn;
            scope.spawn(move || {
                let mut a = Node::allocated(coturn.config(stream));
                let mut b = Node::allocated(coturn.config(stream));
                let mut idle = Node::allocated(coturn.config(stream));
                let (at_a, relayed) = (a.relayed(), idle.relayed());
                introduce(&mut a, &mut b);
                let mut messages = 0;
                while began.elapsed() < Duration::from_secs(720) {
                    exchange(&mut a, &mut b, 500, Duration::from_millis(20));
                    messages += 500;
                    idle.pump();
                }
                for node in [&mut a, &mut b, &mut idle] {
                    let counters = node.client.counters();
                    println!("stream {stream}, {messages} messages each way: {counters:?}");
                    assert!(counters.stale_nonces >= 1, "{counters:?}");
                    assert_eq!((node.events.len(), counters.allocations), (1, 1), "{:?}", node.events);
                    assert_eq!((counters.timeouts, counters.errors, counters.unauthenticated), (0, 0, 0));
                }
                // The one that nobody used is there still.
                assert_eq!(idle.client.relayed(), Some(relayed));
                assert!(idle.send(at_a, b"hello"));
                introduce(&mut idle, &mut a);
                exchange(&mut idle, &mut a, 100, Duration::from_millis(1));
            });
        }
    });
}

/// Through the relay, each way by itself and both at once, with 64 KiB under way. Run it with `cargo test -p
/// remotemedia-link --test turn_coturn throughput -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    let Some(coturn) = Coturn::with_user(v4(), &[]) else { return };
    for (one, other) in [(false, false), (true, true), (true, false)] {
        let mut a = Node::allocated(coturn.config(one));
        let mut b = Node::allocated(coturn.config(other));
        introduce(&mut a, &mut b);
        for (there, back) in [(true, false), (false, true), (true, true)] {
            let [there, back] = measure(&mut a, &mut b, [there, back]);
            let name = |stream: bool| if stream { "TCP" } else { "UDP" };
            println!("{} to {}: {there}; back: {back}", name(one), name(other));
        }
    }
}

/// 20,000 datagrams of 1200 bytes in each wanted direction. A receiver acknowledges each sixteenth.
fn measure(a: &mut Node, b: &mut Node, wanted: [bool; 2]) -> [String; 2] {
    const COUNT: u32 = 20_000;
    const WINDOW: u32 = 56;
    let to = [b.relayed(), a.relayed()];
    let mut payload = [0x17; 1200];
    let (mut sent, mut acknowledged, mut received) = ([0_u32; 2], [0_u32; 2], [0_u32; 2]);
    let (mut last, mut stall, mut end) = ([Instant::now(); 2], [Duration::ZERO; 2], [Duration::ZERO; 2]);
    let began = Instant::now();
    let done = run_both(a, b, |a, b| {
        let nodes = [a, b];
        for way in 0..2 {
            for (_, data) in std::mem::take(&mut nodes[way].got) {
                let number = u32::from_be_bytes(data[..4].try_into().expect("a number"));
                if data.len() == 4 {
                    acknowledged[way] = acknowledged[way].max(number);
                    continue;
                }
                // What this one receives the other way's sender sent.
                let from = 1 - way;
                received[from] += 1;
                stall[from] = stall[from].max(last[from].elapsed());
                last[from] = Instant::now();
                end[from] = began.elapsed();
                if number % 16 == 15 || number + 1 == COUNT {
                    nodes[way].send(to[way], &(number + 1).to_be_bytes());
                }
            }
        }
        for way in 0..2 {
            // What was lost is given up after a tenth of a second.
            if last[way].elapsed() > Duration::from_millis(100) {
                acknowledged[way] = sent[way];
            }
            while wanted[way] && sent[way] < COUNT && sent[way] - acknowledged[way] < WINDOW {
                payload[..4].copy_from_slice(&sent[way].to_be_bytes());
                nodes[way].send(to[way], &payload);
                sent[way] += 1;
            }
        }
        (0..2).all(|way| !wanted[way] || sent[way] == COUNT && acknowledged[way] == COUNT)
    });
    std::array::from_fn(|way| {
        if !wanted[way] {
            return "idle".into();
        }
        let megabytes = f64::from(received[way]) * 1200.0 / 1e6;
        let rate = megabytes / end[way].as_secs_f64();
        let lost = COUNT - received[way];
        format!("{rate:.0} MB/s, {lost} of {COUNT} lost, longest pause {:?}, done {done}", stall[way])
    })
}

//! The TURN client against a server of the test's own, under virtual time.

#[path = "turn/fake.rs"]
mod fake;
#[path = "turn/world.rs"]
mod world;

use fake::*;
use remotemedia_link::turn::*;
use remotemedia_testkit::{Mutator, Path, Random};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use world::*;

const METHODS: [u16; 4] = [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND];

fn failed(error: TurnError) -> TurnEvent {
    TurnEvent::Failed(error)
}

/// What the peer got, by number.
fn numbers(world: &World) -> Vec<u32> {
    let number = |d: &Vec<u8>| u32::from_be_bytes(d[..4].try_into().expect("a number"));
    world.server.relayed.iter().filter(|(_, _, d)| d.len() == 100).map(|(_, _, d)| number(d)).collect()
}

fn numbered(n: u32) -> Vec<u8> {
    let mut data = vec![0x17; 100];
    data[..4].copy_from_slice(&n.to_be_bytes());
    data
}

#[test]
fn an_allocation_takes_two_round_trips_and_says_no_more_than_needed() {
    let world = World::allocated();
    let relayed: SocketAddr = "198.51.100.1:50001".parse().expect("an address");
    assert_eq!(world.events, [(ms(40), TurnEvent::Allocated { relayed, mapped: client_addr() })]);
    let requests: Vec<_> = world.server.requests.iter().map(|(_, r)| r).collect();
    assert_eq!(requests.len(), 2);
    let kinds = |r: &Stun| r.attributes.iter().map(|(k, _)| *k).collect::<Vec<_>>();
    assert_eq!(kinds(requests[0]), [REQUESTED_TRANSPORT], "the first one gives no name");
    assert_eq!(kinds(requests[1]), [REQUESTED_TRANSPORT, USERNAME, REALM, NONCE, INTEGRITY]);
    world.sound();
}

#[test]
fn data_waits_for_the_permission_of_its_address_then_gets_a_channel() {
    let mut world = World::clean();
    let now = world.at();
    world.client.permit(now, peer(1, 1).ip());
    // Before there is an allocation, and to two ports of one address.
    assert!(world.send(peer(1, 7000), b"one") && world.send(peer(1, 7001), b"two"));
    world.run(secs(1));
    let relayed = world.relayed();
    assert_eq!(
        world.server.relayed,
        [(relayed, peer(1, 7000), b"one".to_vec()), (relayed, peer(1, 7001), b"two".to_vec())]
    );
    assert_eq!(world.server.count(CREATE_PERMISSION), 1, "one permission for all ports");
    assert_eq!(world.server.count(CHANNEL_BIND), 0, "nothing heard from them yet");
    assert_eq!(world.client.counters().queued, 2);

    world.bind(peer(1, 7000));
    assert_eq!(world.server.count(CHANNEL_BIND), 1, "a channel for the port that answers");
    assert!(world.peer_sends(peer(1, 7000), b"back"));
    world.run(ms(100));
    assert_eq!(world.got.last(), Some(&(peer(1, 7000), b"back".to_vec())));
    assert_eq!(world.client.counters().received_channel, 1);
    assert_eq!(world.server.unpermitted, 0);
    world.sound();
}

/// Both ways, each 100 ms, numbered.
fn traffic(world: &mut World, peer: SocketAddr, count: u32) {
    for n in 0..count {
        assert!(world.send(peer, &numbered(n)), "sending {n}");
        assert!(world.peer_sends(peer, &numbered(n)), "the peer sending {n}");
        world.run(ms(100));
    }
    world.run(secs(1));
    let back = world.got.iter().filter(|(_, d)| d.len() == 100);
    let back: Vec<u32> = back.map(|(_, d)| u32::from_be_bytes(d[..4].try_into().expect("four"))).collect();
    assert_eq!(back, (0..count).collect::<Vec<_>>(), "everything from the peer, in order");
    assert_eq!(numbers(world), (0..count).collect::<Vec<_>>(), "everything to the peer, in order");
    assert_eq!(world.server.unpermitted, 0);
}

#[test]
fn a_stale_nonce_on_any_request_loses_nothing() {
    for method in METHODS {
        for times in [1, 3] {
            let mut world = World::clean();
            (0..times).for_each(|_| world.server.whim(method, Whim::Stale));
            world.run(secs(1));
            world.bind(peer(1, 7000));
            world.server.relayed.clear();
            // 720 s: the allocation, the permission and the channel are refreshed.
            for n in 0..3 {
                if n > 0 {
                    world.server.whim(method, Whim::Stale);
                }
                world.got.clear();
                world.server.relayed.clear();
                traffic(&mut world, peer(1, 7000), 2_400);
            }
            assert_eq!(world.server.whims_left(), usize::from(method == ALLOCATE) * 2, "method {method}");
            assert_eq!(world.events.len(), 1, "{:?}", world.events);
            let bound: Vec<_> =
                world.server.requests.iter().filter_map(|(_, r)| r.get(CHANNEL_NUMBER)).collect();
            assert!(bound.iter().all(|n| *n == bound[0]), "the channel keeps its number: {bound:?}");
            assert_eq!(world.client.counters().stale_nonces, world.server.stale_answers);
            world.sound();
        }
    }
}

#[test]
fn an_hour_with_a_nonce_a_minute_loses_nothing() {
    let mut world = World::clean();
    world.server.nonce_lifetime = secs(60);
    world.run(secs(1));
    world.bind(peer(1, 7000));
    world.server.relayed.clear();
    traffic(&mut world, peer(1, 7000), 36_000);
    assert_eq!(world.told().len(), 1);
    let counters = world.client.counters();
    assert!(counters.stale_nonces >= 20, "{counters:?}");
    assert_eq!((counters.timeouts, counters.retransmits, counters.errors), (0, 0, 0));
    // 3600 s: Refresh and channel each 300 s, permission each 210 s, a 438 before almost every one.
    assert!((12..=26).contains(&world.server.count(REFRESH)), "{}", world.server.count(REFRESH));
    assert!((12..=26).contains(&world.server.count(CHANNEL_BIND)));
    assert!((17..=38).contains(&world.server.count(CREATE_PERMISSION)));
    world.sound();
}

#[test]
fn a_stale_nonce_on_the_release_is_answered_too() {
    let mut world = World::allocated();
    assert_eq!(world.server.alive(world.at()), 1);
    world.server.whim(REFRESH, Whim::Stale);
    let now = world.at();
    world.client.close(now);
    world.client.close(now);
    assert!(!world.client.is_closed());
    world.run(secs(1));
    assert!(world.client.is_closed());
    assert_eq!(world.server.alive(world.at()), 0);
    assert_eq!(world.client.poll_timeout(), None);
    assert_eq!(world.told().len(), 1, "closing is no event");
    assert!(!world.send(peer(1, 7000), b"late"));
    world.sound();
}

#[test]
fn closing_before_the_answer_gives_back_what_the_server_made_meanwhile() {
    let mut world = World::clean();
    world.run(ms(25));
    let now = world.at();
    world.client.close(now);
    world.run(secs(20));
    assert!(world.client.is_closed() && world.events.is_empty());
    assert_eq!((world.server.count(ALLOCATE), world.server.alive(world.at())), (2, 0));
}

#[test]
fn a_bad_network_delays_but_breaks_nothing() {
    for seed in 0..12 {
        let path = Path { loss: 0.25, duplicate: 0.1, jitter: ms(60), ..Path::clean(ms(40)) };
        let mut world = World::new(seed, path, config());
        assert!(world.run_until(secs(8), |w| w.client.relayed().is_some()), "seed {seed}");
        let mut delivered = 0;
        for n in 0..7200 {
            world.send(peer(1, 7000), &numbered(n));
            if world.client.relayed().is_some() {
                delivered += usize::from(world.peer_sends(peer(1, 7000), &numbered(n)));
            }
            world.run(ms(500));
        }
        // An hour. A quarter is lost on the way; nothing else is.
        let out = world.server.relayed.len();
        assert!((5_000..=6_600).contains(&out), "seed {seed}: {out}");
        assert!(delivered > 7_150, "seed {seed}: the permission was there {delivered} times");
        assert!(world.got.len() > 5_000, "seed {seed}");
        assert_eq!(world.told().len(), 1, "seed {seed}: {:?}", world.events);
        assert!(world.client.counters().sent_channel > 7_000, "seed {seed}: {:?}", world.client.counters());
        assert_eq!(world.server.unpermitted, 0, "seed {seed}");
        world.sound();
    }
}

#[test]
fn an_outage_of_80_seconds_at_any_time_loses_only_what_was_sent_in_it() {
    for begin in (0..640).step_by(20) {
        let mut world = World::allocated();
        world.bind(peer(1, 7000));
        world.server.relayed.clear();
        let relayed = world.relayed();
        for second in 0..900 {
            let out = (begin..begin + 80).contains(&second);
            world.network.set_blocked(server_addr(), out);
            world.send(peer(1, 7000), &numbered(second));
            world.run(secs(1));
        }
        assert_eq!(world.client.relayed(), Some(relayed));
        let kept: Vec<u32> = (0..900).filter(|n| !(begin..begin + 80).contains(n)).collect();
        assert_eq!(numbers(&world), kept, "begin {begin}");
        assert_eq!(world.events.len(), 1);
        world.sound();
    }
}

#[test]
fn answers_with_wrong_or_missing_integrity_are_as_if_they_never_came() {
    for method in METHODS {
        for whim in [Whim::WrongIntegrity, Whim::NoIntegrity] {
            let mut world = World::clean();
            world.server.whim(method, whim.clone());
            world.run(secs(1));
            world.send(peer(1, 7000), b"check");
            world.run(secs(1));
            assert!(world.peer_sends(peer(1, 7000), b"answer"));
            world.run(ms(100));
            world.bind(peer(1, 7000));
            world.run(secs(400));
            assert_eq!(world.told().len(), 1, "{method} {whim:?}: {:?}", world.events);
            let counters = world.client.counters();
            assert_eq!((counters.unauthenticated, counters.retransmits), (1, 1), "{method} {whim:?}");
            assert_eq!(world.server.whims_left(), 0);
            world.sound();
        }
    }
}

#[test]
fn a_refused_allocation_says_why_at_once() {
    let refused = |code| TurnError::Refused { code, reason: "as the test wants".into() };
    for (code, error) in [
        (400, refused(400)),
        (403, refused(403)),
        (437, TurnError::AllocationMismatch),
        (440, TurnError::FamilyNotSupported),
        (442, refused(442)),
        (486, TurnError::QuotaReached),
        (500, refused(500)),
        (508, TurnError::InsufficientCapacity),
    ] {
        for signed in [true, false] {
            let mut world = World::clean();
            (0..9).for_each(|_| world.server.whim(ALLOCATE, Whim::Error(code, signed)));
            world.run(secs(20));
            // Without integrity a better answer has half a second to come.
            let at = if signed { ms(40) } else { ms(540) };
            assert_eq!(world.events, [(at, failed(error.clone()))], "{code} {signed}");
            assert!(world.client.is_closed() && world.client.poll_timeout().is_none());
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn a_forged_error_loses_against_the_right_answer() {
    let mut world = World::clean();
    world.run(ms(25));
    let request = Stun::parse(world.bytes_to_server.last().expect("the signed Allocate")).expect("STUN");
    let attributes = vec![(ERROR_CODE, error_code(486))];
    let forged = Stun { method: ALLOCATE, class: 3, id: request.id, attributes }.encode(None);
    let now = world.at();
    assert!(world.client.handle_data(now, &forged));
    world.run(secs(20));
    assert!(matches!(world.told()[..], [TurnEvent::Allocated { .. }]), "{:?}", world.events);
}

#[test]
fn what_follows_the_integrity_counts_for_nothing() {
    let mut world = World::clean();
    world.run(ms(25));
    let request = Stun::parse(world.bytes_to_server.last().expect("the signed Allocate")).expect("STUN");
    let relayed = xored("198.51.100.1:5000".parse().expect("an address"), &request.id);
    let attributes = vec![(RELAYED_ADDRESS, relayed), (MAPPED_ADDRESS, xored(client_addr(), &request.id))];
    let answer = Stun { method: ALLOCATE, class: 2, id: request.id, attributes };
    let mut bytes = answer.encode(Some(&key("alice", "relay.test", "secret")));
    // An attribute more, and the length says so; the integrity holds all the same.
    bytes.extend_from_slice(&[0, LIFETIME as u8, 0, 4, 0, 0, 2, 0x58]);
    let length = (bytes.len() - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let now = world.at();
    assert!(world.client.handle_data(now, &bytes));
    world.run(ms(1));
    assert_eq!(world.told(), [&failed(TurnError::Protocol("an allocation without a lifetime"))]);
}

#[test]
fn another_server_is_reported() {
    let mut world = World::clean();
    let request = Stun::parse(&world.client.poll_transmit().expect("an Allocate")).expect("STUN");
    let attributes =
        vec![(ERROR_CODE, error_code(300)), (ALTERNATE_SERVER, vec![0, 1, 0x0d, 0x97, 203, 0, 113, 9])];
    let answer = Stun { method: ALLOCATE, class: 3, id: request.id, attributes }.encode(None);
    let now = world.at();
    assert!(world.client.handle_data(now, &answer));
    world.run(secs(20));
    let server = "203.0.113.9:3479".parse().expect("an address");
    assert_eq!(world.told(), [&failed(TurnError::TryAlternate { server })]);
}

#[test]
fn a_silent_server_fails_the_allocation_after_seven_sendings() {
    let mut world = World::clean();
    world.network.set_blocked(server_addr(), true);
    world.run(secs(60));
    assert_eq!(world.events, [(ms(7900), failed(TurnError::Timeout))]);
    assert_eq!(world.bytes_to_server.len(), 7);
    assert_eq!(world.client.counters().timeouts, 1);

    let mut world = World::new(1, Path::default(), TurnConfig { stream: true, ..config() });
    world.network.set_blocked(server_addr(), true);
    world.run(secs(60));
    assert_eq!(world.events, [(secs(10), failed(TurnError::Timeout))]);
    assert_eq!(world.bytes_to_server.len(), 1, "a stream isn't written to twice");
}

#[test]
fn a_server_that_dies_fails_the_client_when_the_allocation_has_run_out() {
    let mut world = World::allocated();
    world.network.set_blocked(server_addr(), true);
    world.run(secs(620));
    let (at, event) = world.events.last().expect("an event");
    assert_eq!(*event, failed(TurnError::Timeout));
    assert!((600..=610).contains(&at.as_secs()), "{at:?}");
    // Trying for five minutes costs less than a datagram a second.
    assert!(world.bytes_to_server.len() < 300, "{}", world.bytes_to_server.len());
}

#[test]
fn an_allocation_that_the_server_lost_is_made_anew_with_its_permissions() {
    for by in [REFRESH, CREATE_PERMISSION] {
        let mut world = World::allocated();
        world.run(secs(20));
        world.bind(peer(1, 7000));
        let (old, now) = (world.relayed(), world.at());
        world.server.forget(now);
        match by {
            REFRESH => world.client.check(now),
            _ => world.client.permit(now, peer(2, 1).ip()),
        }
        world.run(secs(1));
        let told = world.told();
        let relayed = world.relayed();
        assert_ne!(relayed, old);
        assert_eq!(told[1..], [&TurnEvent::Allocated { relayed, mapped: client_addr() }], "by {by}");
        // The peer in use needs no new call, and its old channel isn't used.
        assert!(world.send(peer(1, 7000), b"still there"));
        world.run(ms(100));
        assert_eq!(world.server.relayed.last(), Some(&(relayed, peer(1, 7000), b"still there".to_vec())));
        assert_eq!(world.server.unpermitted, 0);
        assert!(world.peer_sends(peer(1, 7000), b"still there?"));
        world.run(ms(100));
        assert_eq!(world.got.last(), Some(&(peer(1, 7000), b"still there?".to_vec())));
        world.bind(peer(1, 7000));
        world.sound();
    }
}

#[test]
fn check_asks_at_most_once_a_second() {
    let mut world = World::allocated();
    for _ in 0..200 {
        let now = world.at();
        world.client.check(now);
        world.run(ms(10));
    }
    assert_eq!(world.server.count(REFRESH), 2);
}

#[test]
fn a_server_that_keeps_losing_allocations_ends_the_client() {
    let mut world = World::allocated();
    world.run(secs(20));
    world.server.forgetful = true;
    world.server.forget(world.at());
    assert!(world.send(peer(1, 7000), b"check"));
    world.run(secs(30));
    assert_eq!(world.told().last(), Some(&&failed(TurnError::AllocationMismatch)));
    assert!(world.server.requests.len() < 20, "{}", world.server.requests.len());
}

#[test]
fn an_allocation_whose_answer_was_lost_before_a_stale_nonce_is_replaced() {
    let mut world = World::clean();
    // The signed Allocate is carried out, but no answer comes through until its nonce is stale.
    world.run(ms(21));
    world.network.drop_next(server_addr(), 1);
    assert!(world.run_until(secs(1), |w| w.server.alive(w.at()) == 1));
    let now = world.at();
    let alive = world.server.alive(now);
    world.server.forget_answers();
    world.server.new_nonce();
    world.run(secs(10));
    assert_eq!((alive, world.server.alive(world.at())), (1, 1));
    assert!(matches!(world.told()[..], [TurnEvent::Allocated { .. }]), "{:?}", world.events);
    let released = world.server.requests.iter().filter(|(_, r)| r.get(LIFETIME) == Some(&[0; 4])).count();
    assert!(released >= 1, "the first one is given back");
    world.sound();
}

#[test]
fn nonces_that_are_always_stale_end_somewhere() {
    let mut world = World::clean();
    world.server.nonce_lifetime = Duration::ZERO;
    world.run(secs(60));
    assert_eq!(world.told(), [&failed(TurnError::NonceLoop)]);
    assert!(world.server.requests.len() <= 12, "{}", world.server.requests.len());

    // An allocation outlives them.
    let mut world = World::allocated();
    world.server.nonce_lifetime = Duration::ZERO;
    world.run(secs(310));
    world.server.nonce_lifetime = secs(3600);
    world.run(secs(1000));
    assert_eq!(world.told().len(), 1, "{:?}", world.events);
    assert_eq!(world.server.alive(world.at()), 1);
}

#[test]
fn wrong_credentials_ask_for_others_before_they_fail() {
    let wrong = TurnConfig { credential: "wrong".into(), ..config() };
    // Nobody has others.
    let mut world = World::new(1, Path::clean(ms(10)), wrong.clone());
    world.run(secs(60));
    assert_eq!(
        world.events,
        [(ms(40), TurnEvent::CredentialsExpired), (ms(10_040), failed(TurnError::Unauthorized))]
    );
    // The owner has but the same.
    let mut world = World::new(1, Path::clean(ms(10)), wrong.clone());
    world.run(secs(1));
    let now = world.at();
    assert!(world.client.set_credentials(now, "alice".into(), "wrong".into()));
    world.run(secs(1));
    assert_eq!(world.events[1..], [(secs(1), failed(TurnError::Unauthorized))]);
    // The owner has better ones.
    let mut world = World::new(1, Path::clean(ms(10)), wrong.clone());
    world.run(secs(5));
    let now = world.at();
    assert!(!world.client.set_credentials(now, "".into(), "secret".into()), "out of range");
    assert!(world.client.set_credentials(now, "alice".into(), "secret".into()));
    world.run(secs(20));
    assert!(matches!(world.told()[..], [TurnEvent::CredentialsExpired, TurnEvent::Allocated { .. }]));
    // The owner has no end of bad ones.
    let mut world = World::new(1, Path::clean(ms(10)), wrong);
    for n in 0..20 {
        world.run(secs(1));
        let now = world.at();
        world.client.set_credentials(now, "alice".into(), format!("wrong {n}"));
    }
    assert_eq!(world.told().last(), Some(&&failed(TurnError::Unauthorized)));
    assert!(world.told().len() <= 5 && world.server.requests.len() < 12, "{:?}", world.events);
}

#[test]
fn credentials_that_expire_are_asked_for_and_nothing_is_lost_meanwhile() {
    let mut world = World::allocated();
    world.bind(peer(1, 7000));
    world.server.relayed.clear();
    // From now on the server takes another password.
    world.server.users.insert("alice".into(), "fresh".into());
    world.server.nonce_lifetime = secs(60);
    let mut asked = None;
    for n in 0..20_000 {
        world.send(peer(1, 7000), &numbered(n));
        world.run(ms(50));
        if asked.is_none() && matches!(world.told()[..], [_, TurnEvent::CredentialsExpired]) {
            asked = Some(n);
        }
        // The application takes its time.
        if asked.is_some_and(|at| n == at + 400) {
            let now = world.at();
            assert!(world.client.set_credentials(now, "alice".into(), "fresh".into()));
        }
    }
    assert!(asked.is_some_and(|n| n < 6000), "{asked:?}");
    assert_eq!(numbers(&world), (0..20_000).collect::<Vec<_>>());
    assert_eq!(world.told().len(), 2, "{:?}", world.events);
    assert_eq!(world.server.unpermitted, 0);
    world.sound();
}

#[test]
fn credentials_may_change_any_number_of_times() {
    let mut world = World::allocated();
    let mut expect = 1;
    for n in 0..6 {
        world.server.users.insert("alice".into(), format!("secret {n}"));
        // Now and then the allocation goes as well.
        if n % 3 == 2 {
            world.run(secs(20));
            world.server.forget(world.at());
            expect += 1;
        }
        let now = world.at();
        world.client.check(now);
        (2..6).for_each(|host| world.client.permit(now, peer(10 * n + host, 1).ip()));
        world.run(secs(2));
        // However many requests were refused, it is told once.
        assert_eq!(world.told().last(), Some(&&TurnEvent::CredentialsExpired), "change {n}");
        let now = world.at();
        world.client.set_credentials(now, "alice".into(), format!("secret {n}"));
        world.run(secs(2));
        assert_eq!(world.server.alive(world.at()), 1, "change {n}");
        expect += 1;
        assert_eq!(world.told().len(), expect, "{:?}", world.events);
    }
    // They change between the loss of an allocation and the next: as good a reason to ask as the first time.
    world.run(secs(20));
    world.server.forget(world.at());
    let (now, refreshed) = (world.at(), world.server.count(REFRESH));
    world.client.check(now);
    assert!(world.run_until(secs(1), |w| w.server.count(REFRESH) == refreshed + 2));
    world.server.users.insert("alice".into(), "the last".into());
    world.run(secs(1));
    assert_eq!(world.told().last(), Some(&&TurnEvent::CredentialsExpired));
    let now = world.at();
    world.client.set_credentials(now, "alice".into(), "the last".into());
    world.run(secs(1));
    assert_eq!(world.server.alive(world.at()), 1);
}

#[test]
fn an_allocation_that_lives_on_at_the_server_alone_is_replaced() {
    let mut world = World::allocated();
    world.run(secs(280));
    // Requests get through, answers don't, until the lifetime that the client knows is over.
    let clean = Path::clean(ms(10));
    world.network.set_path_from(server_addr(), Path { loss: 1.0, ..clean });
    world.run(secs(321));
    assert_eq!(world.client.relayed(), None);
    world.network.set_path_from(server_addr(), clean);
    world.run(secs(10));
    assert!(
        matches!(world.told()[..], [TurnEvent::Allocated { .. }, TurnEvent::Allocated { .. }]),
        "{:?}",
        world.events
    );
    assert_eq!(world.server.alive(world.at()), 1);
    world.sound();
}

#[test]
fn credentials_that_never_come_end_the_client_with_the_allocation() {
    let mut world = World::allocated();
    world.server.users.insert("alice".into(), "fresh".into());
    world.run(secs(700));
    let asked = world.told().iter().filter(|e| ***e == TurnEvent::CredentialsExpired).count();
    assert!((8..=12).contains(&asked), "asked each half minute of the last five: {asked}");
    let (at, last) = world.events.last().expect("an event");
    assert_eq!(*last, failed(TurnError::Unauthorized));
    assert!((600..=601).contains(&at.as_secs()), "{at:?}");
}

#[test]
fn a_new_name_is_tried_and_the_old_one_kept_for_the_allocation_that_belongs_to_it() {
    let mut world = World::allocated();
    world.bind(peer(1, 7000));
    let relayed = world.relayed();
    world.server.users.insert("1999999999:alice".into(), "fresh".into());
    let now = world.at();
    assert!(world.client.set_credentials(now, "1999999999:alice".into(), "fresh".into()));
    // Several requests at once find out.
    let now = world.at();
    world.client.check(now);
    (2..6).for_each(|host| world.client.permit(now, peer(host, 1).ip()));
    world.run(secs(1000));
    assert_eq!(world.told().len(), 1, "{:?}", world.events);
    assert_eq!(world.relayed(), relayed);
    // The next allocation is made under the new name.
    world.server.forget(world.at());
    let now = world.at();
    world.client.check(now);
    world.run(secs(1));
    let (_, last) = world.server.requests.iter().rfind(|(_, r)| r.method == ALLOCATE).expect("an Allocate");
    assert_eq!(last.text(USERNAME), "1999999999:alice");
    assert_eq!(world.told().len(), 2);

    // The old name is over before the allocation: it runs out, and the new name makes another.
    let now = world.at();
    world.server.users.insert("2999999999:alice".into(), "fresher".into());
    assert!(world.client.set_credentials(now, "2999999999:alice".into(), "fresher".into()));
    world.client.check(now);
    world.run(secs(1));
    world.server.users.remove("1999999999:alice");
    world.run(secs(700));
    assert!(matches!(world.told().last(), Some(TurnEvent::Allocated { .. })), "{:?}", world.events);
    let (_, last) = world.server.requests.iter().rfind(|(_, r)| r.method == ALLOCATE).expect("an Allocate");
    assert_eq!(last.text(USERNAME), "2999999999:alice");
}

#[test]
fn a_forbidden_peer_is_told_once_in_a_while() {
    let mut world = World::allocated();
    world.server.forbidden.push(peer(6, 1).ip());
    for _ in 0..600 {
        world.send(peer(6, 7000), b"check");
        world.send(peer(1, 7000), b"check");
        world.run(ms(100));
    }
    let refused = TurnEvent::PeerRefused { peer: peer(6, 1).ip(), code: 403 };
    assert_eq!(world.told()[1..], [&refused, &refused], "in a minute");
    assert!(world.server.relayed.iter().all(|(_, to, _)| *to == peer(1, 7000)));
    assert_eq!(world.server.relayed.len(), 600);
    let counters = world.client.counters();
    assert!((597..=600).contains(&counters.dropped_unpermitted), "{counters:?}");
}

#[test]
fn what_waits_for_a_permission_is_bounded_and_the_newest_kept() {
    let mut world = World::allocated();
    world.network.set_blocked(server_addr(), true);
    for n in 0..1000 {
        assert!(world.send(peer(1, 7000), &numbered(n)));
    }
    for _ in 0..10 {
        assert!(world.send(peer(2, 7000), &[0x17; 60_000]));
    }
    world.network.set_blocked(server_addr(), false);
    world.run(secs(1));
    assert_eq!(numbers(&world), (1000 - MAX_QUEUED_PER_PEER as u32..1000).collect::<Vec<_>>());
    assert_eq!(world.server.relayed.iter().filter(|(_, to, _)| *to == peer(2, 7000)).count(), 1, "64 KiB");
    let counters = world.client.counters();
    assert_eq!(counters.dropped_unpermitted, 1000 - MAX_QUEUED_PER_PEER as u64 + 9);
}

#[test]
fn ten_thousand_candidates_neither_grow_it_nor_push_out_who_is_in_use() {
    let mut world = World::allocated();
    world.bind(peer(1, 7000));
    world.server.relayed.clear();
    let sent = world.bytes_to_server.len();
    for n in 0..10_000_u32 {
        let now = world.at();
        world.client.permit(now, IpAddr::from((0x0a40_0000 + n).to_be_bytes()));
        if n % 50 == 0 {
            assert!(world.send(peer(1, 7000), &numbered(n)));
            world.run(ms(500));
        }
    }
    // 100 s: what the first 30 s of candidates took is taken over by others once or twice.
    let requests = world.bytes_to_server.len() - sent - 200;
    assert!(requests < 4 * MAX_PERMISSIONS, "{requests} requests");
    assert_eq!(numbers(&world).len(), 200);
    assert!(world.peer_sends(peer(1, 7000), b"still let through"));
    world.sound();
}

#[test]
fn channel_numbers_rest_before_another_peer_gets_them() {
    // A day of peers that come, talk and go; the server notes a number that changes hands too early.
    let mut world = World::allocated();
    let mut random = Random::new(3);
    let mut live: VecDeque<SocketAddr> = VecDeque::new();
    for n in 0..5_000_u32 {
        live.push_back(SocketAddr::from(([10, 1, (n % 40) as u8, 1], 1024 + (n / 40) as u16)));
        if live.len() > 4 {
            live.pop_front();
        }
        for _ in 0..3 {
            for peer in live.clone() {
                world.send(peer, b"out");
                if random.chance(0.8) {
                    world.peer_sends(peer, b"in");
                }
                world.run(ms(100));
            }
        }
        world.run(secs(random.below(30) as u64));
    }
    assert_eq!(world.told().len(), 1, "{:?}", world.events);
    assert!(world.server.count(CHANNEL_BIND) > 4_096, "{}", world.server.count(CHANNEL_BIND));
    assert_eq!(world.server.unpermitted, 0);
    world.sound();
}

#[test]
fn after_a_silence_of_any_length_the_channel_is_rebound_under_the_rules() {
    for quiet in [290, 310, 590, 610, 700, 890, 910, 2000] {
        let mut world = World::allocated();
        world.bind(peer(1, 7000));
        let unpermitted = world.server.unpermitted;
        world.run(secs(quiet));
        world.server.relayed.clear();
        assert!(world.send(peer(1, 7000), b"after the silence"));
        world.run(ms(100));
        assert_eq!(world.server.relayed.len(), 1, "{quiet} s");
        world.bind(peer(1, 7000));
        assert_eq!(world.server.unpermitted, unpermitted, "{quiet} s");
        world.sound();
    }
}

#[test]
fn a_peer_that_is_refused_later_is_asked_for_again() {
    let mut world = World::allocated();
    world.bind(peer(1, 7000));
    world.server.forbidden.push(peer(1, 1).ip());
    let mut sent = 0;
    while world.told().len() == 1 {
        assert!(world.now < secs(300) && world.send(peer(1, 7000), &numbered(sent)));
        sent += 1;
        world.run(secs(1));
    }
    assert_eq!(world.told()[1], &TurnEvent::PeerRefused { peer: peer(1, 1).ip(), code: 403 });
    assert!(!world.send(peer(1, 7000), &numbered(sent)), "not into a channel that leads nowhere");
    world.server.forbidden.clear();
    world.run(secs(31));
    assert!(world.send(peer(1, 7000), &numbered(sent)));
    world.run(ms(100));
    assert_eq!(numbers(&world).last(), Some(&sent));
    assert_eq!(world.server.unpermitted, 0);
    world.sound();
}

#[test]
fn a_channel_that_is_refused_leaves_send_indications() {
    let mut world = World::allocated();
    world.server.whim(CHANNEL_BIND, Whim::Error(400, true));
    world.send(peer(1, 7000), b"check");
    world.run(ms(100));
    world.peer_sends(peer(1, 7000), b"answer");
    world.run(ms(100));
    for n in 0..60 {
        world.send(peer(1, 7000), &numbered(n));
        world.run(secs(1));
    }
    assert_eq!(numbers(&world), (0..60).collect::<Vec<_>>());
    let counters = world.client.counters();
    assert!(counters.sent_channel > 20 && counters.sent_indication > 30, "{counters:?}");
    world.sound();
}

#[test]
fn unused_permissions_and_channels_lapse() {
    let mut world = World::allocated();
    world.bind(peer(1, 7000));
    world.run(secs(3600));
    assert!(world.server.count(CREATE_PERMISSION) <= 3, "{}", world.server.count(CREATE_PERMISSION));
    assert!(world.server.count(CHANNEL_BIND) <= 2, "{}", world.server.count(CHANNEL_BIND));
    assert!(!world.peer_sends(peer(1, 7000), b"hello?"));
    assert!(world.server.alive(world.at()) == 1, "the allocation stays");
    // NATs on the way are kept open.
    assert!((200..=240).contains(&world.server.keepalives), "{}", world.server.keepalives);
    world.bind(peer(1, 7000));
    world.sound();
}

#[test]
fn ipv6_is_asked_for_and_the_families_kept_apart() {
    let mut world = World::new(1, Path::clean(ms(10)), TurnConfig { family: Family::V6, ..config() });
    world.server.relay = "2001:db8::1".parse().expect("an address");
    world.run(secs(1));
    assert!(world.relayed().is_ipv6());
    let six: SocketAddr = "[2001:db8::77]:7000".parse().expect("an address");
    assert!(!world.send(peer(1, 7000), b"four"));
    assert!(!world.send("[::]:7000".parse().expect("an address"), b"nobody"));
    assert!(!world.send("[ff02::fb]:5353".parse().expect("an address"), b"everybody"));
    world.bind(six);
    assert!(!world.send(six, &vec![0; MAX_PAYLOAD + 1]) && world.send(six, &vec![0; MAX_PAYLOAD]));
    assert_eq!(world.client.counters().dropped_unsendable, 4);
    world.sound();

    let mut world = World::new(1, Path::clean(ms(10)), TurnConfig { family: Family::V6, ..config() });
    world.run(secs(1));
    assert_eq!(world.told(), [&failed(TurnError::FamilyNotSupported)]);
}

#[test]
fn over_a_stream_channel_data_is_padded() {
    let mut world = World::new(1, Path::clean(ms(10)), TurnConfig { stream: true, ..config() });
    world.run(secs(1));
    world.bind(peer(1, 7000));
    assert!(world.send(peer(1, 7000), b"12345"));
    assert_eq!(world.bytes_to_server.last().expect("a message")[2..], *b"\0\x0512345\0\0\0");
    assert!(world.bytes_to_server.iter().all(|m| m.len() % 4 == 0));
    world.run(secs(300));
    assert_eq!(world.server.keepalives, 0, "TCP needs none");
}

#[test]
fn what_the_owner_doesnt_take_is_bounded() {
    let mut world = World::allocated();
    world.bind(peer(1, 7000));
    let now = world.at();
    let sent = (0..3 * MAX_PENDING).filter(|_| world.client.send(now, peer(1, 7000), b"x")).count();
    assert_eq!(sent, MAX_PENDING);
    assert_eq!(world.client.counters().dropped_full, 2 * MAX_PENDING as u64);
    let (_, message) = world
        .server
        .peer_sends(now, peer(1, 7000), world.client.relayed().expect("one"), b"y")
        .expect("let through");
    (0..2 * MAX_PENDING).for_each(|_| assert!(world.client.handle_data(now, &message)));
    assert_eq!(world.client.counters().dropped_events, MAX_PENDING as u64);
}

#[test]
fn a_hostile_server_never_panics_or_grows_it() {
    let (mut allocated, mut data, mut ended) = (0, 0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed, Path::clean(ms(5)), config());
        let mut mutator = Mutator::new(seed);
        let mut random = Random::new(seed);
        let mut answers: Vec<Vec<u8>> = Vec::new();
        for round in 0..600_u16 {
            let now = world.at();
            while let Some(message) = world.client.poll_transmit() {
                answers.extend(world.server.handle(now, client_addr(), &message));
                answers.push(message.to_vec());
            }
            world.client.send(now, peer((round % 7) as u8, 7000 + round % 3), b"check");
            if let Some(relayed) = world.client.relayed() {
                let from = peer((round % 7) as u8, 7000 + round % 3);
                answers.extend(world.server.peer_sends(now, from, relayed, b"data").map(|(_, m)| m));
            }
            for answer in answers.split_off(answers.len().saturating_sub(6)) {
                // Damaged where it is signed, and damaged but signed rightly, as a hostile server would.
                world.client.handle_data(now, &mutator.bytes(&answer));
                if let Some(mut message) = Stun::parse(&answer).filter(|m| m.class >= 2) {
                    for (kind, value) in &mut message.attributes {
                        if *kind != INTEGRITY && random.chance(0.1) {
                            *value = mutator.bytes(value);
                        }
                    }
                    message.attributes.retain(|(kind, _)| *kind != INTEGRITY);
                    if random.chance(0.02) {
                        message.class = 3;
                        let code = [300, 400, 401, 403, 437, 438, 441, 486, 500, 699][random.below(10)];
                        message.attributes.insert(0, (ERROR_CODE, error_code(code)));
                    }
                    world
                        .client
                        .handle_data(now, &message.encode(Some(&key("alice", "relay.test", "secret"))));
                }
                if random.chance(0.5) {
                    world.client.handle_data(now, &answer);
                }
            }
            while let Some(event) = world.client.poll_event() {
                match event {
                    TurnEvent::Allocated { relayed, .. } => {
                        assert!(relayed.is_ipv4() && relayed.port() != 0);
                        allocated += 1;
                    }
                    TurnEvent::Data { .. } => data += 1,
                    _ => {}
                }
            }
            world.now += ms(random.below(400) as u64);
            let now = world.at();
            world.client.handle_timeout(now);
            assert!(world.client.poll_timeout().is_none_or(|at| at > now), "seed {seed}");
            if world.client.is_closed() {
                ended += 1;
                world = World::new(seed * 1000 + u64::from(round), Path::clean(ms(5)), config());
            }
        }
    }
    // Hostile enough to end some, not so hostile that nothing else is tried.
    assert!(
        allocated > 60 && data > 1000 && ended > 5,
        "{allocated} allocations, {data} datagrams, {ended} ended"
    );
}

#[test]
fn its_secrets_stay_out_of_logs() {
    let client = World::clean().client;
    let text = format!("{client:?} {:?}", config());
    assert!(text.contains("alice") && !text.contains("secret"), "{text}");
}

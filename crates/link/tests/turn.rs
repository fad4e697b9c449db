//! The TURN client against a server of the test's own, under virtual time: its allocation, credentials and what goes wrong
//! with them. Peers are in `turn_peers.rs`.

// Each of these tests uses its part of them.
#[allow(dead_code)]
#[path = "turn/fake.rs"]
mod fake;
#[allow(dead_code)]
#[path = "turn/world.rs"]
mod world;

use fake::*;
use remotemedia_link::turn::*;
use remotemedia_testkit::Path;
use std::net::SocketAddr;
use std::time::Duration;
use world::*;

const METHODS: [u16; 4] = [ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND];

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
fn its_secrets_stay_out_of_logs() {
    let client = World::clean().client;
    let text = format!("{client:?} {:?}", config());
    assert!(text.contains("alice") && !text.contains("secret"), "{text}");
}

//! The TURN client against a server of the test's own, under virtual time: permissions, channels, data and bounds.

// Each of these tests uses its part of them.
#[allow(dead_code)]
#[path = "turn/fake.rs"]
mod fake;
#[allow(dead_code)]
#[path = "turn/world.rs"]
mod world;

use fake::*;
use remotemedia_link::turn::*;
use remotemedia_testkit::{Mutator, Path, Random};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use world::*;

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

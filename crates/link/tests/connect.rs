//! Opening: clean, lossy, and the driver rules one by one.

mod common;

use common::*;
use remotemedia_link::{LinkConfig, LinkEvent, LinkState};
use remotemedia_testkit::Path;
use std::time::Duration;

#[test]
fn opens_within_a_few_round_trips() {
    for (a, b) in [(data_only(), data_only()), (LinkConfig::default(), LinkConfig::default())] {
        let pair = Pair::open(1, Path::clean(ms(1)), a, b);
        let open = pair.peers.iter().filter_map(|p| p.open_at).max().expect("open");
        // ICE 1, DTLS 2, SCTP 2, DCEP 1 round trips of 2 ms; a naive loop takes 200 ms (driver rule D1).
        assert!(open <= ms(20), "opened at {open:?}");
        assert!(pair.peers.iter().all(|p| p.link.negotiated().data));
    }
}

fn spread(loss: f64, seeds: std::ops::Range<u64>) -> Vec<Duration> {
    let mut opens: Vec<Duration> = seeds
        .map(|seed| {
            let pair = Pair::open(seed, Path::lossy(ms(5), loss), data_only(), data_only());
            pair.peers.iter().filter_map(|p| p.open_at).max().expect("open")
        })
        .collect();
    opens.sort();
    opens
}

#[test]
fn always_opens_at_1_percent_loss() {
    let opens = spread(0.01, 0..200);
    println!("1 %: median {:?}, p90 {:?}, max {:?}", opens[100], opens[180], opens[199]);
    assert!(opens[100] <= ms(100), "median {:?}", opens[100]);
    assert!(opens[199] <= ms(400), "max {:?}", opens[199]);
}

#[test]
fn always_opens_at_5_percent_loss() {
    let opens = spread(0.05, 1000..1200);
    println!("5 %: median {:?}, p90 {:?}, max {:?}", opens[100], opens[180], opens[199]);
    assert!(opens[180] <= ms(250), "p90 {:?}", opens[180]);
    assert!(opens[199] <= ms(600), "max {:?}", opens[199]);
}

#[test]
fn opens_over_a_long_jittery_doubling_path() {
    for seed in 0..10 {
        let path = Path { jitter: ms(40), duplicate: 0.05, loss: 0.02, ..Path::clean(ms(120)) };
        let pair = Pair::open(seed, path, data_only(), data_only());
        let open = pair.peers.iter().filter_map(|p| p.open_at).max().expect("open");
        assert!(open <= Duration::from_secs(6), "seed {seed}: {open:?}");
    }
}

/// Driver rule D2: a ClientHello that overtakes the STUN success waits for it.
#[test]
fn a_handshake_before_ice_is_held() {
    let mut pair = Pair::new(3, Path::clean(ms(1)), data_only(), data_only());
    let now = pair.instant();
    let offer = pair.peers[A].link.create_offer(now, false).expect("an offer");
    let answer = pair.peers[B].link.accept_offer(now, &offer).expect("an answer");
    pair.peers[A].link.accept_answer(now, &answer).expect("taken");
    let stray = [22u8, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let (a, b) = (pair.peers[A].addr, pair.peers[B].addr);
    for _ in 0..40 {
        pair.peers[B].link.handle_datagram(now, b, a, &stray);
    }
    let stats = pair.peers[B].link.stats();
    assert_eq!(stats.held, 32);
    assert_eq!(stats.drops.held_overflow, 8);
    pair.settle();
    assert!(pair.run_until(Duration::from_secs(5), |p| p.both_open()), "noise before ICE does no harm");
}

/// D2 again: STUN is slower than DTLS here, so the first flight arrives before ICE is connected at the other side.
#[test]
fn an_overtaking_client_hello_costs_nothing() {
    let mut pair = Pair::new(4, Path::clean(ms(5)), data_only(), data_only());
    let mut delayed = 0;
    pair.filter = Some(Box::new(move |_, transmit| {
        // The first success responses are lost: the peer's side of ICE completes later.
        let response = transmit.data[0] == 1 && transmit.data[1] == 1;
        delayed += usize::from(response);
        !(response && delayed <= 2)
    }));
    pair.negotiate(A, false);
    assert!(pair.run_until(Duration::from_secs(5), |p| p.both_open()));
    let open = pair.peers.iter().filter_map(|p| p.open_at).max().expect("open");
    assert!(open < ms(300), "{open:?}");
}

/// Driver rule D3: each of the first handshake datagrams may be lost, either way, without a stall of a second.
#[test]
fn any_one_lost_handshake_datagram_costs_little() {
    for side in [A, B] {
        for lost in 0..8 {
            let mut pair = Pair::new(5, Path::clean(ms(1)), data_only(), data_only());
            let mut seen = 0;
            pair.filter = Some(Box::new(move |index, transmit| {
                let handshake = index == side && (20..64).contains(&transmit.data[0]);
                seen += usize::from(handshake);
                !(handshake && seen == lost + 1)
            }));
            pair.negotiate(A, false);
            assert!(
                pair.run_until(Duration::from_secs(30), |p| p.both_open()),
                "side {side}, datagram {lost}"
            );
            let open = pair.peers.iter().filter_map(|p| p.open_at).max().expect("open");
            assert!(open < ms(150), "side {side}, datagram {lost}: {open:?}");
        }
    }
}

/// Driver rule D4: lost STUN packets are sent again at once.
#[test]
fn lost_checks_cost_little() {
    let mut pair = Pair::new(6, Path::clean(ms(1)), data_only(), data_only());
    let addrs = [pair.peers[A].addr, pair.peers[B].addr];
    for addr in addrs {
        pair.net.drop_next(addr, 3);
    }
    pair.negotiate(A, false);
    assert!(pair.run_until(Duration::from_secs(5), |p| p.both_open()));
    let open = pair.peers.iter().filter_map(|p| p.open_at).max().expect("open");
    assert!(open < ms(200), "{open:?}");
}

#[test]
fn connects_without_a_data_section() {
    let media = LinkConfig { data: None, ..LinkConfig::default() };
    for seed in 0..20 {
        let mut pair = Pair::new(seed, Path::lossy(ms(5), 0.05), media.clone(), media.clone());
        pair.negotiate(A, false);
        assert!(
            pair.run_until(Duration::from_secs(10), |p| p.both_connected()),
            "seed {seed}: {:?}",
            pair.states()
        );
        assert!(pair.now < Duration::from_secs(3), "seed {seed}: {:?}", pair.now);
        assert!(!pair.peers[A].link.negotiated().data);
    }
}

#[test]
fn an_idle_link_stays_connected_and_quiet() {
    let mut pair = Pair::open(7, Path::clean(ms(5)), LinkConfig::default(), LinkConfig::default());
    pair.run_for(Duration::from_secs(1));
    let before = pair.net.counts();
    pair.run_for(Duration::from_secs(60));
    let sent = pair.net.counts().sent - before.sent;
    assert!(pair.both_connected());
    assert!(sent < 1200, "{sent} datagrams in an idle minute");
}

#[test]
fn a_dead_peer_is_disconnected_then_failed() {
    let mut pair = Pair::open(8, Path::clean(ms(5)), data_only(), data_only());
    let b = pair.peers[B].addr;
    pair.net.set_blocked(b, true);
    let start = pair.now;
    assert!(pair.run_until(Duration::from_secs(60), |p| p.states()[A] == LinkState::Disconnected));
    assert!(pair.now - start < Duration::from_secs(10), "{:?}", pair.now - start);
    assert!(pair.run_until(Duration::from_secs(160), |p| p.states()[A] == LinkState::Failed));
}

#[test]
fn a_short_outage_heals_by_itself() {
    let mut pair = Pair::open(9, Path::clean(ms(5)), data_only(), data_only());
    let b = pair.peers[B].addr;
    pair.net.set_blocked(b, true);
    pair.run_for(Duration::from_secs(8));
    assert_eq!(pair.states()[A], LinkState::Disconnected);
    pair.net.set_blocked(b, false);
    assert!(pair.run_until(Duration::from_secs(15), |p| p.both_connected()), "{:?}", pair.states());
}

#[test]
fn close_tells_the_peer() {
    for config in [data_only(), LinkConfig { data: None, ..LinkConfig::default() }, LinkConfig::default()] {
        let mut pair = Pair::new(10, Path::clean(ms(5)), config.clone(), config);
        pair.negotiate(A, false);
        assert!(pair.run_until(Duration::from_secs(5), |p| p.both_connected()));
        pair.run_for(ms(200));
        let now = pair.instant();
        pair.peers[A].link.close(now);
        assert_eq!(pair.states()[A], LinkState::Closed);
        assert!(pair.peers[A].link.poll_timeout().is_none());
        pair.settle();
        assert!(pair.run_until(ms(100), |p| p.states()[B] == LinkState::Closed), "{:?}", pair.states());
        pair.settle();
        assert!(matches!(pair.peers[B].events.last(), Some(LinkEvent::State(LinkState::Closed))));
        pair.peers[A].link.close(now);
        let before = pair.peers[A].link.drops().after_close;
        let b = pair.peers[B].addr;
        let a = pair.peers[A].addr;
        pair.peers[A].link.handle_datagram(now, a, b, &[0x80; 40]);
        assert_eq!(pair.peers[A].link.drops().after_close, before + 1);
    }
}

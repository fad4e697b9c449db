//! What a silence of the path leaves of a link: everything. Virtual time.
#![allow(missing_docs)]

mod common;

use common::*;
use remotemedia_link::{IceState, LinkConfig, LinkEvent, LinkState, MessageKind};
use remotemedia_media::VideoCodec;
use remotemedia_testkit::{Path, Random};
use std::net::SocketAddr;
use std::time::Duration;

const S: fn(u64) -> Duration = Duration::from_secs;

fn state_events(pair: &Pair, side: usize) -> Vec<LinkState> {
    let state = |event: &LinkEvent| match event {
        LinkEvent::State(state) => Some(*state),
        _ => None,
    };
    pair.peers[side].events.iter().filter_map(state).collect()
}

fn suspects(pair: &Pair, side: usize) -> usize {
    pair.peers[side].events.iter().filter(|event| matches!(event, LinkEvent::PathSuspect)).count()
}

fn cut(pair: &mut Pair, cut: bool) {
    let host = pair.peers[B].addr;
    pair.net.set_blocked(host, cut);
}

/// Both sides keep sending messages for `time`, one every 10 ms, with their numbers.
struct Talk {
    sent: [u32; 2],
    most_buffered: usize,
}

impl Talk {
    fn new() -> Self {
        Self { sent: [0; 2], most_buffered: 0 }
    }

    fn go_on(&mut self, pair: &mut Pair, time: Duration) {
        let end = pair.now + time;
        while pair.now < end {
            for side in [A, B] {
                self.say(pair, side);
            }
            pair.run_for(ms(10));
        }
    }

    fn say(&mut self, pair: &mut Pair, side: usize) {
        let mut message = self.sent[side].to_be_bytes().to_vec();
        message.resize(400, 7);
        let (now, channel) = (pair.instant(), pair.peers[side].channel.expect("a channel"));
        if pair.peers[side].link.send_message(now, channel, MessageKind::Binary, &message).is_ok() {
            self.sent[side] += 1;
        }
        self.most_buffered = self.most_buffered.max(pair.peers[side].link.buffered_amount(channel));
        pair.settle();
    }

    fn arrived(&self, pair: &Pair) -> bool {
        [A, B].iter().all(|side| pair.peers[1 - side].messages.len() == self.sent[*side] as usize)
    }

    /// In order and once.
    fn check(&self, pair: &Pair) {
        for side in [A, B] {
            let numbers: Vec<u32> = (pair.peers[1 - side].messages.iter())
                .map(|(_, _, data)| u32::from_be_bytes(data[..4].try_into().expect("4 bytes")))
                .collect();
            assert_eq!(numbers.len(), self.sent[side] as usize);
            assert!(numbers.iter().enumerate().all(|(n, number)| n as u32 == *number));
        }
    }
}

/// Restarts ICE as two meshes would that reach each other at once.
fn media_flows(pair: &mut Pair) -> bool {
    let mut random = Random::new(1);
    let now = pair.instant();
    for side in [A, B] {
        pair.peers[side].rtp.clear();
        let key = frame(&mut random, VideoCodec::Vp9, 0, 2000);
        if pair.peers[side].link.send_video(now, &key).is_err() {
            return false;
        }
    }
    pair.settle();
    pair.run_for(ms(100));
    pair.peers.iter().all(|p| p.rtp.len() == 2)
}

#[test]
fn three_seconds_of_silence_are_no_event_and_cost_no_more_than_themselves() {
    for seed in 0..10 {
        let mut pair = Pair::open(seed, Path::clean(ms(20)), LinkConfig::default(), LinkConfig::default());
        let mut talk = Talk::new();
        talk.go_on(&mut pair, ms(1_000 + 37 * seed));
        let before = [pair.peers[A].events.len(), pair.peers[B].events.len()];
        cut(&mut pair, true);
        talk.go_on(&mut pair, S(3));
        cut(&mut pair, false);
        let healed = pair.now;
        let sent = talk.sent;
        assert!(
            pair.run_until(S(2), |p| [A, B]
                .iter()
                .all(|side| p.peers[1 - side].messages.len() >= sent[*side] as usize)),
            "seed {seed}: {:?} after healing",
            pair.now - healed
        );
        talk.check(&pair);
        assert_eq!([pair.peers[A].events.len(), pair.peers[B].events.len()], before, "seed {seed}");
        assert!(media_flows(&mut pair));
    }
}

#[test]
fn an_outage_that_ends_by_itself_is_told_and_loses_no_message() {
    for outage in [10, 30, 150] {
        let mut pair = Pair::open(outage, Path::clean(ms(20)), LinkConfig::default(), LinkConfig::default());
        let mut talk = Talk::new();
        talk.go_on(&mut pair, S(1));
        let begun = pair.now;
        cut(&mut pair, true);
        let told = |p: &Pair| p.states() == [LinkState::Disconnected; 2];
        assert!(pair.run_until(S(7), told), "{:?}", pair.states());
        assert!(pair.now - begun >= S(4) && pair.now - begun < ms(5_200), "{:?}", pair.now - begun);
        let left = begun + S(outage) - pair.now;
        talk.go_on(&mut pair, left);
        cut(&mut pair, false);
        let healed = pair.now;
        let before = [pair.peers[A].messages.len(), pair.peers[B].messages.len()];
        let first = |p: &Pair| (0..2).all(|side| p.peers[side].messages.len() > before[side]);
        assert!(pair.run_until(S(5), first), "after {outage} s: {:?}", pair.states());
        println!("{outage} s: data {:?} after healing", pair.now - healed);
        assert!(pair.now - healed < ms(1_200), "after {outage} s: {:?}", pair.now - healed);
        // The rest is a matter of slow start.
        assert!(pair.run_until(S(10), |p| talk.arrived(p)), "after {outage} s: {:?}", pair.states());
        talk.check(&pair);
        assert!(pair.both_connected() && media_flows(&mut pair));
        for side in [A, B] {
            let states = state_events(&pair, side);
            assert_eq!(states[states.len() - 2..], [LinkState::Disconnected, LinkState::Connected]);
        }
    }
}

#[test]
fn an_outage_with_restarts_is_over_soon_after_it_is_over() {
    for (outage, offerer) in [(30, A), (30, B), (150, A)] {
        let mut pair = Pair::open(outage, Path::clean(ms(20)), LinkConfig::default(), LinkConfig::default());
        let mut talk = Talk::new();
        talk.go_on(&mut pair, S(1));
        let begun = pair.now;
        cut(&mut pair, true);
        talk.go_on(&mut pair, S(5));
        // Signaling works, the path does not: each restart is answered, and none of use.
        while pair.now < begun + S(outage) {
            pair.negotiate(offerer, true);
            talk.go_on(&mut pair, S(3));
        }
        cut(&mut pair, false);
        let healed = pair.now;
        let sent = talk.sent;
        let arrived = pair.run_until(S(5), |p| {
            [A, B].iter().all(|side| p.peers[1 - side].messages.len() >= sent[*side] as usize)
        });
        let after = pair.now - healed;
        assert!(arrived && after < S(2), "{outage} s, offers from {offerer}: {after:?}, {:?}", pair.states());
        println!("{outage} s with restarts: all there {after:?} after healing");
        talk.check(&pair);
        assert!(media_flows(&mut pair));
    }
}

#[test]
fn a_bulk_transfer_goes_on_after_an_outage() {
    for (outage, restart) in [(30, false), (30, true), (140, false)] {
        let path = Path { loss: 0.02, ..Path::clean(ms(20)) };
        let mut pair = Pair::open(outage, path, data_only(), data_only());
        let mut random = Random::new(outage);
        let messages: Vec<Vec<u8>> = (0..300).map(|_| random.bytes(16_000)).collect();
        let (first, rest) = messages.split_at(150);
        pair.send_all(A, first);
        cut(&mut pair, true);
        pair.run_for(S(outage));
        cut(&mut pair, false);
        if restart {
            pair.negotiate(A, true);
        }
        let healed = pair.now;
        let before = pair.peers[B].messages.len();
        assert!(pair.run_until(S(5), |p| p.peers[B].messages.len() > before));
        println!("{outage} s, restart {restart}: goes on {:?} after healing", pair.now - healed);
        pair.send_all(A, rest);
        assert!(pair.run_until(S(60), |p| p.peers[B].messages.len() == messages.len()));
        assert!(pair.peers[B].messages.iter().zip(&messages).all(|((_, _, got), sent)| got == sent));
    }
}

#[test]
fn grace_ends_in_failed() {
    let config = LinkConfig { ice_failed: S(20), ..data_only() };
    let mut pair = Pair::open(1, Path::default(), config.clone(), config);
    let begun = pair.now;
    cut(&mut pair, true);
    assert!(pair.run_until(S(30), |p| p.states() == [LinkState::Failed; 2]), "{:?}", pair.states());
    assert!(pair.now - begun > S(23) && pair.now - begun < S(25), "{:?}", pair.now - begun);
    assert_eq!(pair.peers[A].link.ice_state(), IceState::Failed);
}

#[test]
fn a_restart_whose_answer_does_not_come_costs_nothing() {
    let mut pair = Pair::open(2, Path::default(), LinkConfig::default(), LinkConfig::default());
    let before = [pair.peers[A].events.len(), pair.peers[B].events.len()];
    let now = pair.instant();
    let old = pair.peers[A].link.create_offer(now, true).expect("an offer");
    pair.settle();
    let mut talk = Talk::new();
    talk.go_on(&mut pair, S(10));
    assert!(media_flows(&mut pair));
    // Taken back, and another one is made.
    pair.peers[A].link.rollback(pair.instant()).expect("taken back");
    let now = pair.instant();
    let new = pair.peers[A].link.create_offer(now, true).expect("an offer");
    let ufrag = |sdp: &str| sdp.lines().find_map(|l| l.strip_prefix("a=ice-ufrag:").map(str::to_owned));
    assert_ne!(ufrag(&old), ufrag(&new));
    assert_eq!([pair.peers[A].events.len(), pair.peers[B].events.len()], before);
    let answer = pair.peers[B].link.accept_offer(now, &new).expect("an answer");
    pair.peers[A].link.accept_answer(now, &answer).expect("taken");
    pair.settle();
    talk.go_on(&mut pair, S(1));
    assert!(pair.run_until(S(1), |p| talk.arrived(p)));
    talk.check(&pair);
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again_with_the_same_offer() {
    let mut pair = Pair::open(3, Path::default(), LinkConfig::default(), LinkConfig::default());
    let now = pair.instant();
    let offer = pair.peers[B].link.create_offer(now, true).expect("an offer");
    let lost = pair.peers[A].link.accept_offer(now, &offer).expect("an answer");
    pair.settle();
    let mut talk = Talk::new();
    talk.go_on(&mut pair, S(6));
    let now = pair.instant();
    let answer = pair.peers[A].link.accept_offer(now, &offer).expect("an answer again");
    let ufrag = |sdp: &str| sdp.lines().find_map(|l| l.strip_prefix("a=ice-ufrag:").map(str::to_owned));
    assert_eq!(ufrag(&lost), ufrag(&answer), "it has restarted once");
    pair.peers[B].link.accept_answer(now, &answer).expect("taken");
    pair.settle();
    assert!(pair.run_until(S(3), |p| talk.arrived(p)), "{:?}", pair.states());
    talk.check(&pair);
}

#[test]
fn crossing_restarts_and_plain_offers_heal() {
    for (theirs, restarts) in [(true, 1), (false, 2)] {
        let mut pair = Pair::open(4, Path::default(), LinkConfig::default(), LinkConfig::default());
        let now = pair.instant();
        pair.peers[A].link.create_offer(now, true).expect("an offer");
        let offer = pair.peers[B].link.create_offer(now, theirs).expect("an offer that crosses");
        pair.peers[A].link.rollback(now).expect("taken back");
        let answer = pair.peers[A].link.accept_offer(now, &offer).expect("an answer");
        pair.peers[B].link.accept_answer(now, &answer).expect("taken");
        pair.settle();
        // With a plain offer, our discarded credentials are in use on one side only: the link asks for a restart.
        assert_eq!(suspects(&pair, A), restarts - 1);
        if suspects(&pair, A) > 0 {
            pair.negotiate(A, true);
        }
        let mut talk = Talk::new();
        talk.go_on(&mut pair, S(1));
        assert!(pair.run_until(S(2), |p| talk.arrived(p)), "{:?}", pair.states());
        talk.check(&pair);
        assert!(media_flows(&mut pair));
    }
}

#[test]
fn a_peer_behind_a_nat_that_moves_is_noticed_and_data_flows_again_soon() {
    for (moving, idle) in [(A, true), (B, true), (A, false), (B, false)] {
        let mut pair = Pair::new(5, Path::clean(ms(20)), LinkConfig::default(), LinkConfig::default());
        pair.outside[moving] = Some(SocketAddr::from(([203, 0, 113, 1], 40_000)));
        pair.negotiate(A, false);
        assert!(pair.run_until(S(5), |p| p.both_open()));
        let mut talk = Talk::new();
        talk.go_on(&mut pair, S(2));
        let moved = pair.now;
        pair.outside[moving] = Some(SocketAddr::from(([203, 0, 113, 1], 40_001)));
        let other = 1 - moving;
        let mut noticed = [None; 2];
        while noticed.contains(&None) {
            assert!(pair.now - moved < S(2), "not noticed by both: {noticed:?}");
            if idle {
                pair.run_for(ms(10))
            } else {
                talk.go_on(&mut pair, ms(10))
            }
            for side in [A, B] {
                if suspects(&pair, side) > 0 {
                    noticed[side].get_or_insert(pair.now - moved);
                }
            }
        }
        // The one that moved learns it from the answers to its checks, the other one when it has been silent for a second.
        assert!(noticed[moving] < Some(ms(700)), "{noticed:?}");
        assert!(noticed[other] < Some(ms(1_200)), "{noticed:?}");
        // The mesh of the side that noticed restarts.
        pair.negotiate(other, true);
        talk.say(&mut pair, A);
        talk.say(&mut pair, B);
        assert!(pair.run_until(S(3), |p| talk.arrived(p)), "{:?}", pair.states());
        let again = pair.now - moved;
        println!("side {moving} moved, idle {idle}: noticed after {noticed:?}, data after {again:?}");
        assert!(again < S(2), "{again:?}");
        talk.check(&pair);
        assert_eq!((suspects(&pair, other), suspects(&pair, moving)), (1, 1));
    }
}

#[test]
fn what_has_no_credentials_moves_nothing() {
    let mut pair = Pair::open(6, Path::default(), LinkConfig::default(), LinkConfig::default());
    let mut random = Random::new(6);
    let stranger = SocketAddr::from(([198, 51, 100, 7], 9));
    // Checks as they are, but for their integrity; and other things.
    let mut checks: Vec<Vec<u8>> = Vec::new();
    let from = pair.peers[B].addr;
    cut(&mut pair, true);
    for n in 0..300 {
        pair.run_for(ms(10));
        let (now, local) = (pair.instant(), pair.peers[A].addr);
        let mut data = random.bytes(100);
        if n % 2 == 0 {
            let head = [0, 1, 0, 80, 0x21, 0x12, 0xa4, 0x42];
            data[..8].copy_from_slice(&head);
        } else {
            data[0] = 128;
        }
        checks.push(data.clone());
        pair.peers[A].link.handle_datagram(now, local, stranger, &data);
        pair.settle();
    }
    assert_eq!(suspects(&pair, A), 0);
    // Nor does a recorded answer of the peer's in its own name end the silence for the engine.
    pair.run_for(S(3));
    assert_eq!(pair.peers[A].link.state(), LinkState::Disconnected);
    let (now, local) = (pair.instant(), pair.peers[A].addr);
    let mut old = vec![1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    old.extend([9; 12]);
    pair.peers[A].link.handle_datagram(now, local, from, &old);
    pair.settle();
    cut(&mut pair, false);
    assert!(pair.run_until(S(2), |p| p.both_connected()));
    assert!(media_flows(&mut pair));
}

#[test]
fn a_needless_restart_costs_a_few_round_trips() {
    for (rtt, offerer) in [(1, A), (1, B), (40, A), (40, B)] {
        let mut pair = Pair::open(7, Path::clean(ms(rtt) / 2), LinkConfig::default(), LinkConfig::default());
        pair.run_for(S(1));
        let now = pair.instant();
        let begun = pair.now;
        let offer = pair.peers[offerer].link.create_offer(now, true).expect("an offer");
        let answer = pair.peers[1 - offerer].link.accept_offer(now, &offer).expect("an answer");
        pair.settle();
        pair.run_for(ms(rtt));
        let now = pair.instant();
        assert_eq!(pair.peers[offerer].link.state(), LinkState::Connected, "it waits for the answer");
        pair.peers[offerer].link.accept_answer(now, &answer).expect("taken");
        pair.settle();
        let mut gap = [Duration::ZERO; 2];
        for side in [offerer, 1 - offerer] {
            let from = if side == offerer { begun + ms(rtt) } else { begun };
            pair.run_until(S(3), |p| p.peers[side].link.state() == LinkState::Connected);
            gap[side] = pair.now - from;
        }
        println!("round trip {rtt} ms, offer from {offerer}: gaps {gap:?}");
        assert!(gap.iter().all(|gap| *gap < ms(100 + 4 * rtt)), "{gap:?}");
    }
}

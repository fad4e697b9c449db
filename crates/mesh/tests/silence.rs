//! One mesh with a link that falls silent, one step at a time.
#![allow(missing_docs)]

mod bench;

use std::time::Duration;

use bench::*;
use remotemedia_mesh::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn state(link: LinkId, state: LinkState) -> Input {
    Input::LinkState { link, state }
}

fn generation(session: u64, version: u32, ufrag: &str) -> String {
    format!("{}a=ice-ufrag:{ufrag}\r\n", sdp(session, version))
}

/// We answered, and all went well. The peer's session is 100, its ICE generation `p1`.
fn answered(id: &str, from: &str) -> Bench {
    let mut bench = Bench::named(id);
    bench.announced(&[]);
    bench.give(Input::Joined(PeerAnnouncement::new(from)));
    bench.give(Input::Offer { peer: from.into(), sdp: generation(100, 1, "p1") });
    let link = bench.link(from);
    bench.give(Input::AnswerCreated { link, sdp: generation(1, 1, "u1") });
    bench.give(state(link, LinkState::Connected));
    bench.give(Input::ChannelOpen { link });
    bench.wait(Duration::from_secs(60));
    bench
}

/// We offered, long ago.
fn offered(id: &str, to: &str) -> Bench {
    let mut bench = Bench::connected(id, to);
    bench.wait(Duration::from_secs(60));
    bench
}

/// The link falls silent, and the offer of a restart is made at once if one is asked for.
fn fall_silent(bench: &mut Bench, link: LinkId) -> Vec<Action> {
    let actions = bench.give(state(link, LinkState::Disconnected));
    if restarts(&actions) > 0 {
        bench.give(Input::OfferCreated { link, sdp: generation(1, 9, "u9") });
    }
    actions
}

fn restarts(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::CreateOffer { ice_restart: true, .. })).count()
}

fn sent_offers(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Signal { signal: Signal::Offer(_), .. })).count()
}

#[test]
fn the_side_that_offered_restarts_at_once_and_the_other_a_moment_later_unless_it_is_back() {
    let mut offerer = offered("a", "z");
    let link = offerer.link("z");
    let actions = offerer.give(state(link, LinkState::Disconnected));
    assert_eq!(actions[1..], [Action::CreateOffer { link, ice_restart: true }]);

    let mut answerer = answered("z", "a");
    let link = answerer.link("a");
    assert_eq!(restarts(&answerer.give(state(link, LinkState::Disconnected))), 0);
    assert_eq!(restarts(&answerer.wait(MS(1_499))), 0);
    assert_eq!(restarts(&answerer.wait(MS(1))), 1);

    let mut answerer = answered("z", "a");
    let link = answerer.link("a");
    answerer.give(state(link, LinkState::Disconnected));
    answerer.give(state(link, LinkState::Connected));
    assert!(answerer.wait(Duration::from_secs(300)).is_empty());
}

#[test]
fn an_unanswered_restart_is_repeated_with_its_candidates_and_growing_pauses() {
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    bench.give(state(link, LinkState::Disconnected));
    bench.give(Input::OfferCreated { link, sdp: generation(1, 2, "u2") });
    bench.give(Input::LocalCandidate { link, candidate: candidate(7) });
    let begun = bench.now;
    let mut at = Vec::new();
    for _ in 0..6 {
        let due = bench.mesh.poll_timeout().unwrap();
        let actions = bench.wait(due.since(bench.now));
        let peer = || PeerId::from("z");
        let again = [
            Action::Signal { peer: peer(), signal: Signal::Offer(generation(1, 2, "u2")) },
            Action::Signal { peer: peer(), signal: Signal::Candidate(candidate(7)) },
        ];
        assert!(actions.is_empty() || actions == again, "{actions:?}");
        if !actions.is_empty() {
            at.push(bench.now.since(begun).as_millis());
        }
    }
    let pauses: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| (1_000..=4_000).contains(pause)), "{pauses:?}");
    assert_eq!(bench.mesh.counters().repeated_offers, at.len() as u64);
}

#[test]
fn a_restart_that_was_answered_and_finds_nothing_is_followed_by_another() {
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    bench.give(state(link, LinkState::Disconnected));
    for version in 2..6 {
        bench.give(Input::OfferCreated { link, sdp: generation(1, version, &format!("u{version}")) });
        let answer = generation(100, version, &format!("p{version}"));
        bench.give(Input::Answer { peer: "z".into(), sdp: answer });
        bench.give(Input::AnswerAccepted { link });
        bench.give(state(link, LinkState::Connecting));
        assert_eq!(restarts(&bench.wait(MS(1_900))), 0);
        assert_eq!(restarts(&bench.wait(MS(2_100))), 1);
    }
    assert_eq!(bench.link("z"), link);
}

#[test]
fn a_late_answer_to_an_offer_before_the_restart_is_not_taken_for_its_answer() {
    let mut bench = answered("z", "a");
    let link = bench.link("a");
    bench.give(Input::PathSuspect { link });
    bench.give(Input::OfferCreated { link, sdp: generation(1, 2, "u2") });
    assert!(bench.give(Input::Answer { peer: "a".into(), sdp: generation(100, 2, "p1") }).is_empty());
    let answer = generation(100, 3, "p2");
    let actions = bench.give(Input::Answer { peer: "a".into(), sdp: answer.clone() });
    assert_eq!(actions, [Action::AcceptAnswer { link, sdp: answer }]);
}

#[test]
fn crossing_restarts_end_in_the_one_of_the_smaller_id() {
    let mut greater = answered("z", "a");
    let link = greater.link("a");
    greater.give(state(link, LinkState::Disconnected));
    greater.wait(MS(1_500));
    greater.give(Input::OfferCreated { link, sdp: generation(1, 2, "u2") });
    let theirs = generation(100, 2, "p2");
    let actions = greater.give(Input::Offer { peer: "a".into(), sdp: theirs.clone() });
    assert_eq!(actions, [Action::Rollback { link }, Action::AcceptOffer { link, sdp: theirs }]);

    let mut smaller = offered("a", "z");
    let link = smaller.link("z");
    smaller.give(state(link, LinkState::Disconnected));
    smaller.give(Input::OfferCreated { link, sdp: generation(1, 2, "u2") });
    assert!(smaller.give(Input::Offer { peer: "z".into(), sdp: generation(100, 2, "p2") }).is_empty());
}

#[test]
fn a_moved_path_is_restarted_at_once_by_either_side_and_at_a_bounded_rate() {
    for (mut bench, peer) in [(offered("a", "z"), "z"), (answered("z", "a"), "a")] {
        let link = bench.link(peer);
        let actions = bench.give(Input::PathSuspect { link });
        assert_eq!(actions, [Action::CreateOffer { link, ice_restart: true }]);
        assert_eq!(bench.state(peer), PeerState::Connected);
        bench.give(Input::OfferCreated { link, sdp: generation(1, 2, "u2") });
        bench.give(Input::Answer { peer: peer.into(), sdp: generation(100, 2, "p2") });
        bench.give(Input::AnswerAccepted { link });
        let actions = bench.give(state(link, LinkState::Connecting));
        assert!(
            matches!(&actions[..], [Action::PeerState { reason: Reason::PathChanged, .. }]),
            "{actions:?}"
        );
        bench.give(state(link, LinkState::Connected));

        // Somebody who can make it look as if the path moved gets no more than this.
        let mut count = 0;
        for n in 0..600 {
            let mut actions = bench.give(Input::PathSuspect { link });
            actions.extend(bench.wait(MS(100)));
            count += restarts(&actions);
            if restarts(&actions) > 0 {
                bench.give(Input::OfferCreated { link, sdp: generation(1, 3 + n, &format!("u{}", 3 + n)) });
                let answer = generation(100, 3 + n, &format!("p{}", 3 + n));
                bench.give(Input::Answer { peer: peer.into(), sdp: answer });
                bench.give(Input::AnswerAccepted { link });
                bench.give(state(link, LinkState::Connecting));
                bench.give(state(link, LinkState::Connected));
            }
        }
        assert!((10..=20).contains(&count), "{count} in a minute");
    }
}

#[test]
fn a_restart_that_nobody_answers_is_dropped_if_the_link_works() {
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    bench.give(Input::PathSuspect { link });
    bench.give(Input::OfferCreated { link, sdp: generation(1, 2, "u2") });
    let actions = bench.wait(Duration::from_secs(60));
    assert_eq!((sent_offers(&actions), actions.last()), (8, Some(&Action::Rollback { link })));
    assert!(bench.wait(Duration::from_secs(600)).is_empty());
    assert_eq!((bench.link("z"), bench.state("z")), (link, PeerState::Connected));
    // While nobody can be reached it is not even counted.
    bench.give(Input::PathSuspect { link });
    bench.give(Input::OfferCreated { link, sdp: generation(1, 3, "u3") });
    bench.give(Input::Left { peer: "z".into() });
    assert!(bench.wait(Duration::from_secs(600)).is_empty());
    assert_eq!(sent_offers(&bench.give(Input::Joined(PeerAnnouncement::new("z")))), 1);
}

#[test]
fn nothing_is_restarted_while_signaling_is_away_and_everything_silent_when_it_is_back() {
    for resumed in [true, false] {
        let mut bench = offered("a", "z");
        let link = bench.link("z");
        bench.give(Input::SignalingLost);
        bench.give(state(link, LinkState::Disconnected));
        assert!(bench.wait(Duration::from_secs(100)).is_empty());
        let actions = if resumed { bench.give(Input::SignalingRestored) } else { bench.announced(&["z"]) };
        assert_eq!(actions, [Action::CreateOffer { link, ice_restart: true }]);
    }
}

#[test]
fn a_link_that_comes_back_by_itself_is_restarted_if_consent_had_expired() {
    for (silent, wanted) in [(20, 0), (26, 1)] {
        let mut bench = answered("z", "a");
        let link = bench.link("a");
        bench.give(Input::SignalingLost);
        bench.give(state(link, LinkState::Disconnected));
        bench.wait(Duration::from_secs(silent));
        assert_eq!(restarts(&bench.give(state(link, LinkState::Connected))), 0);
        assert_eq!(bench.state("a"), PeerState::Connected);
        assert_eq!(restarts(&bench.give(Input::SignalingRestored)), wanted, "{silent} s");
        assert_eq!(restarts(&bench.wait(Duration::from_secs(5))), 0);
    }
}

#[test]
fn a_silent_link_is_given_up_after_grace_with_its_reason() {
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    fall_silent(&mut bench, link);
    bench.wait(MS(149_999));
    assert_eq!(bench.link("z"), link);
    let actions = bench.wait(MS(1));
    let silent =
        |a: &Action| matches!(a, Action::PeerState { state: PeerState::Failed, reason: Reason::Silent, .. });
    assert!(actions.iter().any(silent), "{actions:?}");
    assert!(has_links(&bench.wait(MS(250))), "and built anew");
}

#[test]
fn without_retries_nothing_is_restarted_and_grace_still_ends_it() {
    let retry = Retry { enabled: false, ..Retry::default() };
    let mut bench = Bench::new(MeshConfig { retry, ..MeshConfig::new("z") });
    bench.announced(&["a"]);
    bench.give(offer("a", 100, 1));
    let link = bench.link("a");
    bench.give(Input::AnswerCreated { link, sdp: sdp(1, 1) });
    bench.give(state(link, LinkState::Connected));
    bench.give(state(link, LinkState::Disconnected));
    bench.give(Input::PathSuspect { link });
    let actions = bench.wait(Duration::from_secs(151));
    assert_eq!((restarts(&actions), bench.state("a")), (0, PeerState::Failed));
}

#[test]
fn a_peer_that_left_signaling_is_gone_when_its_link_is_silent_too() {
    let gone = |actions: &[Action]| {
        actions.iter().any(|a| matches!(a, Action::PeerLeft { reason: Reason::Left, .. }))
    };
    for left_first in [true, false] {
        let mut bench = offered("a", "z");
        let link = bench.link("z");
        let left = Input::Left { peer: "z".into() };
        if left_first {
            bench.give(left.clone());
        } else {
            fall_silent(&mut bench, link);
        }
        assert!(!gone(&bench.wait(Duration::from_secs(60))), "left first: {left_first}");
        if left_first {
            fall_silent(&mut bench, link);
        } else {
            bench.give(left);
        }
        assert!(!gone(&bench.wait(MS(19_999))));
        assert!(gone(&bench.wait(MS(1))));
    }
    // Back in the room before that, or heard again: it stays.
    for back in [true, false] {
        let mut bench = offered("a", "z");
        let link = bench.link("z");
        bench.give(Input::Left { peer: "z".into() });
        bench.give(state(link, LinkState::Disconnected));
        bench.wait(Duration::from_secs(15));
        if back {
            bench.give(Input::Joined(PeerAnnouncement::new("z")));
            assert_eq!(restarts(&bench.wait(Duration::from_secs(2))), 1);
            bench.give(Input::OfferCreated { link, sdp: generation(1, 2, "u2") });
        } else {
            bench.give(state(link, LinkState::Connected));
        }
        assert!(!gone(&bench.wait(Duration::from_secs(60))));
        assert_eq!(bench.link("z"), link);
    }
    // It said goodbye: at once, silent or not.
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    bench.give(state(link, LinkState::Disconnected));
    bench.give(Input::Disconnected { peer: "z".into(), reason: None });
    assert!(matches!(bench.give(Input::Left { peer: "z".into() })[..], [Action::PeerLeft { .. }]));
}

#[test]
fn a_peer_that_joins_again_keeps_its_link_if_it_is_the_same_and_replaces_it_if_not() {
    // The same process: not a word.
    let mut bench = answered("z", "a");
    let link = bench.link("a");
    bench.give(Input::Left { peer: "a".into() });
    assert!(bench.give(Input::Joined(PeerAnnouncement::new("a"))).is_empty());
    assert!(bench.wait(Duration::from_secs(600)).is_empty());
    assert_eq!(bench.link("a"), link);
    // Another one, with the old link up or silent.
    for silent in [false, true] {
        let mut bench = answered("z", "a");
        let link = bench.link("a");
        if silent {
            bench.give(Input::SignalingLost);
            bench.give(state(link, LinkState::Disconnected));
            bench.give(Input::SignalingRestored);
        }
        bench.give(Input::Joined(PeerAnnouncement::new("a")));
        let actions = bench.give(offer("a", 200, 1));
        assert_ne!(bench.link("a"), link);
        assert!(actions.iter().any(|a| matches!(a, Action::AcceptOffer { .. })), "{actions:?}");
    }
    // It is given time to say which.
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    bench.give(Input::Left { peer: "z".into() });
    bench.give(state(link, LinkState::Disconnected));
    assert!(bench.give(Input::Joined(PeerAnnouncement::new("z"))).is_empty());
    assert_eq!(restarts(&bench.wait(MS(1_499))), 0);
    assert_eq!(restarts(&bench.wait(MS(1))), 1);
}

#[test]
fn requests_work_on_a_silent_link() {
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    fall_silent(&mut bench, link);
    assert!(!done(&bench.give(connect("z", 1, LONG))), "not before it is back");
    assert!(done(&bench.give(state(link, LinkState::Connected))));
    fall_silent(&mut bench, link);
    bench.give(connect("z", 2, LONG));
    assert_eq!(failure(&bench.wait(LONG)), Some(ConnectError::Timeout));
    let actions = bench.give(Input::Disconnect { peer: "z".into(), reason: "enough".into() });
    assert!(has_links(&actions));
    assert!(bench.wait(Duration::from_secs(600)).is_empty());
}

#[test]
fn a_peer_that_is_full_says_so_and_its_place_is_taken_when_it_is_free() {
    let full = Input::SignalError { peer: "z".into(), code: codes::SESSION_LIMIT, message: "full".into() };
    let mut bench = Bench::offered("a", "z");
    bench.give(connect("z", 1, LONG));
    let actions = bench.give(full.clone());
    assert_eq!(failure(&actions), Some(ConnectError::PeerLimit));
    let said = bench.mesh.peer("z").map(|peer| (peer.state, peer.reason.code()));
    assert_eq!(said, Some((PeerState::Failed, "peer-limit")));
    assert_eq!(offers(&bench.wait(MS(250))), 1, "and it is asked again");
    // A silent link whose other end has given it up, and its place.
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    assert!(bench.give(full.clone()).is_empty(), "what works does not hang on it");
    bench.give(state(link, LinkState::Disconnected));
    bench.give(full);
    assert_eq!(bench.mesh.peer("z").map(|peer| peer.reason.code()), Some("peer-limit"));
}

#[test]
fn an_offer_repeated_into_the_silence_does_not_count_once_the_link_is_back() {
    let mut bench = offered("a", "z");
    let link = bench.link("z");
    bench.give(Input::NegotiationNeeded { link });
    bench.give(Input::OfferCreated { link, sdp: sdp(1, 2) });
    bench.give(state(link, LinkState::Disconnected));
    assert!(sent_offers(&bench.wait(Duration::from_secs(60))) > 10);
    bench.give(state(link, LinkState::Connected));
    let actions = bench.wait(Duration::from_secs(20));
    assert!(sent_offers(&actions) >= 1 && !has_links(&actions), "{actions:?}");
}

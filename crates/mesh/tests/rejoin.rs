//! What is hard to tell from the outside: a peer that restarted, one that closed the link, one that only joined again.
#![allow(missing_docs)]

mod bench;

use std::time::Duration;

use bench::*;
use remotemedia_mesh::*;

#[test]
fn an_answer_to_an_earlier_offer_is_found_out_by_the_second_answer() {
    let mut bench = Bench::offered("a", "z");
    let link = bench.link("z");
    // Meant for the offer of the process that had our id before.
    bench.give(Input::Answer { peer: "z".into(), sdp: sdp(100, 1) });
    bench.give(Input::AnswerAccepted { link });
    // The same again tells nothing; another one does.
    assert!(bench.give(Input::Answer { peer: "z".into(), sdp: sdp(100, 1) }).is_empty());
    bench.give(Input::Answer { peer: "z".into(), sdp: sdp(200, 1) });
    assert_eq!(bench.mesh.peer("z").map(|peer| peer.reason.clone()), Some(Reason::AnswersCrossed));
    assert_eq!(offers(&bench.wait(Duration::from_millis(250))), 1);

    // A link that is up was answered rightly.
    let mut bench = Bench::connected("a", "z");
    assert!(bench.give(Input::Answer { peer: "z".into(), sdp: sdp(200, 1) }).is_empty());
}

#[test]
fn a_peer_that_joined_again_after_our_offer_has_not_seen_it_so_its_own_offer_counts() {
    let mut bench = Bench::offered("a", "z");
    bench.give(Input::Joined(PeerAnnouncement::new("z")));
    let actions = bench.give(offer("z", 100, 1));
    assert!(actions.iter().any(|action| matches!(action, Action::AcceptOffer { .. })), "{actions:?}");
}

#[test]
fn offers_in_the_middle_of_a_negotiation_wait_and_the_last_one_counts() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(offer("z", 100, 2));
    assert!(bench.give(offer("z", 100, 3)).is_empty());
    assert!(bench.give(offer("z", 100, 4)).is_empty());
    let actions = bench.give(Input::AnswerCreated { link, sdp: sdp(1, 2) });
    let answer = Action::Signal { peer: "z".into(), signal: Signal::Answer(sdp(1, 2)) };
    assert_eq!(actions, [answer, Action::AcceptOffer { link, sdp: sdp(100, 4) }]);
}

#[test]
fn what_becomes_needed_in_the_middle_of_a_negotiation_is_negotiated_after_it() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(offer("z", 100, 2));
    for _ in 0..3 {
        assert!(bench.give(Input::NegotiationNeeded { link }).is_empty());
    }
    let actions = bench.give(Input::AnswerCreated { link, sdp: sdp(1, 2) });
    assert_eq!(actions[1..], [Action::CreateOffer { link, ice_restart: false }]);
    // A link that can't make it stays as it is.
    let actions = bench.give(Input::NegotiationFailed { link, reason: "no".into() });
    assert!(matches!(actions[..], [Action::Warning { warning: Warning::NoOffer, .. }]), "{actions:?}");
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
}

#[test]
fn a_connected_link_that_our_own_negotiation_spoiled_is_built_anew_even_without_auto_connect() {
    let mut bench = Bench::new(MeshConfig { auto_connect: false, ..MeshConfig::new("z") });
    bench.announced(&["a"]);
    bench.give(offer("a", 100, 1));
    let link = bench.link("a");
    bench.give(Input::AnswerCreated { link, sdp: sdp(1, 1) });
    bench.give(Input::LinkState { link, state: LinkState::Connected });
    bench.give(Input::NegotiationNeeded { link });
    bench.give(Input::OfferCreated { link, sdp: sdp(1, 2) });
    bench.give(offer("a", 100, 2));
    bench.give(Input::NegotiationFailed { link, reason: "no rollback".into() });
    assert_eq!(offers(&bench.wait(Duration::from_millis(250))), 1);
}

#[test]
fn without_auto_connect_a_link_that_failed_is_left_to_the_side_that_offered() {
    let mut bench = Bench::new(MeshConfig { auto_connect: false, ..MeshConfig::new("z") });
    bench.announced(&["a"]);
    bench.give(offer("a", 100, 1));
    let link = bench.link("a");
    bench.give(Input::AnswerCreated { link, sdp: sdp(1, 1) });
    bench.give(Input::LinkState { link, state: LinkState::Connected });
    bench.give(Input::LinkState { link, state: LinkState::Failed });
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
}

#[test]
fn a_peer_that_closed_the_link_is_offered_to_again_when_one_of_us_joins_again() {
    let closed = || {
        let mut bench = Bench::connected("a", "z");
        bench.wait(Duration::from_secs(60));
        let link = bench.link("z");
        bench.give(Input::LinkState { link, state: LinkState::Closed });
        bench
    };
    assert_eq!(offers(&closed().announced(&["z"])), 1);
    let mut bench = closed();
    bench.give(Input::Joined(PeerAnnouncement::new("z")));
    assert_eq!(offers(&bench.wait(Duration::from_secs(3))), 1);
}

#[test]
fn a_link_from_before_we_joined_again_that_closes_just_then_was_closed_because_we_had_left() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.wait(Duration::from_secs(60));
    bench.announced(&["z"]);
    bench.give(Input::LinkState { link, state: LinkState::Closed });
    assert_eq!(offers(&bench.wait(Duration::from_millis(250))), 1);

    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.announced(&["z"]);
    bench.wait(Duration::from_secs(11));
    bench.give(Input::LinkState { link, state: LinkState::Closed });
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
}

#[test]
fn a_link_that_closes_just_after_its_peer_joined_again_was_closed_by_the_process_before() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.wait(Duration::from_secs(60));
    bench.give(Input::Left { peer: "z".into() });
    bench.give(Input::Joined(PeerAnnouncement::new("z")));
    bench.give(Input::LinkState { link, state: LinkState::Closed });
    assert_eq!(offers(&bench.wait(Duration::from_millis(250))), 1);

    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(Input::Joined(PeerAnnouncement::new("z")));
    bench.wait(Duration::from_secs(11));
    bench.give(Input::LinkState { link, state: LinkState::Closed });
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
}

#[test]
fn nothing_is_offered_while_signaling_is_away_and_what_is_due_then_is_offered_after() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(Input::SignalingLost);
    bench.give(Input::LinkState { link, state: LinkState::Failed });
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
    assert_eq!(offers(&bench.give(Input::SignalingRestored)), 1);
}

#[test]
fn a_link_can_outlive_its_peers_membership_and_ends_it_when_it_ends() {
    let kept = || {
        let mut bench = Bench::new(MeshConfig::new("z"));
        bench.announced(&["a"]);
        bench.give(offer("a", 100, 1));
        let link = bench.link("a");
        bench.give(Input::AnswerCreated { link, sdp: sdp(1, 1) });
        bench.give(Input::LinkState { link, state: LinkState::Connected });
        assert!(bench.give(Input::Left { peer: "a".into() }).is_empty());
        assert!(!bench.mesh.peer("a").unwrap().announced);
        (bench, link)
    };
    // It comes back: nothing has happened.
    let (mut bench, link) = kept();
    assert!(bench.give(Input::Joined(PeerAnnouncement::new("a"))).is_empty());
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
    assert_eq!(bench.link("a"), link);
    // It does not.
    let (mut bench, link) = kept();
    let actions = bench.give(Input::LinkState { link, state: LinkState::Failed });
    assert!(
        matches!(actions.last(), Some(Action::PeerLeft { reason: Reason::LinkFailed, .. })),
        "{actions:?}"
    );
    // It had said goodbye.
    let mut bench = Bench::connected("a", "z");
    bench.give(Input::Disconnected { peer: "z".into(), reason: None });
    assert!(matches!(bench.give(Input::Left { peer: "z".into() })[..], [Action::PeerLeft { .. }]));
}

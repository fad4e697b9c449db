//! One mesh, one step at a time.
#![allow(missing_docs)]

mod bench;

use std::time::Duration;

use bench::*;
use remotemedia_mesh::*;

#[test]
fn a_newcomer_offers_to_everyone_and_those_present_wait() {
    let mut newcomer = Bench::named("z");
    assert_eq!(offers(&newcomer.announced(&["a", "b", "c"])), 3);

    let mut present = Bench::named("a");
    present.announced(&[]);
    let actions = present.give(Input::Joined(PeerAnnouncement::new("z")));
    assert!(matches!(&actions[..], [Action::PeerJoined { .. }]), "{actions:?}");
    assert!(present.wait(Duration::from_millis(2_900)).is_empty());
    let link_made = present.give(offer("z", 5, 1));
    assert!(matches!(
        link_made[..],
        [Action::CreateLink { .. }, Action::PeerState { .. }, Action::AcceptOffer { .. }]
    ));
    assert_eq!(offers(&present.wait(Duration::from_secs(5))), 0);
}

#[test]
fn those_present_offer_to_a_newcomer_that_does_not() {
    let mut present = Bench::named("a");
    present.announced(&[]);
    present.give(Input::Joined(PeerAnnouncement::new("z")));
    assert_eq!(offers(&present.wait(Duration::from_millis(3_100))), 1);
}

#[test]
fn without_auto_connect_it_answers_and_offers_only_when_asked() {
    let mut bench = Bench::new(MeshConfig { auto_connect: false, ..MeshConfig::new("m") });
    assert_eq!(offers(&bench.announced(&["a", "b"])), 0);
    bench.give(Input::Joined(PeerAnnouncement::new("c")));
    assert_eq!(offers(&bench.wait(Duration::from_secs(60))), 0);
    assert!(has_links(&bench.give(offer("a", 5, 1))));
    assert_eq!(offers(&bench.give(connect("b", 1, LONG))), 1);
    // Nobody asks any more, so nothing is left of the attempt.
    let actions = bench.give(Input::CancelConnect { request: RequestId(1) });
    assert!(has_links(&actions) && failure(&actions).is_none());
    assert_eq!(offers(&bench.wait(Duration::from_secs(60))), 0);
}

#[test]
fn crossing_first_offers_the_greater_id_yields_on_a_new_link_and_the_smaller_ignores() {
    let mut smaller = Bench::offered("a", "z");
    let kept = smaller.link("z");
    assert!(smaller.give(offer("z", 100, 1)).is_empty());
    // The candidates of the ignored offer are of no use to the answer that will come.
    assert!(smaller.give(Input::Candidate { peer: "z".into(), candidate: candidate(0) }).is_empty());
    let actions = smaller.give(Input::Answer { peer: "z".into(), sdp: sdp(101, 1) });
    assert_eq!(actions, [Action::AcceptAnswer { link: kept, sdp: sdp(101, 1) }]);
    let counters = smaller.mesh.counters();
    assert_eq!((counters.ignored_offers, counters.ignored_candidates), (1, 1));

    let mut greater = Bench::offered("z", "a");
    let old = greater.link("a");
    let actions = greater.give(offer("a", 100, 1));
    let new = greater.link("a");
    assert_ne!(old, new);
    let destroy = Action::DestroyLink { link: old, peer: "a".into() };
    let create = Action::CreateLink { link: new, peer: "a".into() };
    assert_eq!(actions, [destroy, create, Action::AcceptOffer { link: new, sdp: sdp(100, 1) }]);
    // What the old link still reports means nothing.
    assert!(greater.give(Input::LinkState { link: old, state: LinkState::Failed }).is_empty());
    assert_eq!(greater.mesh.counters().stale_reports, 1);
}

#[test]
fn an_offer_that_comes_before_ours_is_out_is_answered_by_either_side() {
    for id in ["a", "z"] {
        let mut bench = Bench::named(id);
        bench.announced(&["m"]);
        let old = bench.link("m");
        assert!(
            bench.give(offer("m", 100, 1)).iter().any(|action| matches!(action, Action::AcceptOffer { .. }))
        );
        assert!(bench.give(Input::OfferCreated { link: old, sdp: sdp(1, 1) }).is_empty());
    }
}

#[test]
fn crossing_renegotiations_roll_back_on_the_greater_side_and_it_offers_again() {
    let mut greater = Bench::connected("z", "a");
    let link = greater.link("a");
    assert_eq!(
        greater.give(Input::NegotiationNeeded { link }),
        [Action::CreateOffer { link, ice_restart: false }]
    );
    greater.give(Input::OfferCreated { link, sdp: sdp(1, 2) });
    let actions = greater.give(offer("a", 100, 2));
    assert_eq!(actions, [Action::Rollback { link }, Action::AcceptOffer { link, sdp: sdp(100, 2) }]);
    let actions = greater.give(Input::AnswerCreated { link, sdp: sdp(1, 3) });
    assert_eq!(actions[1], Action::CreateOffer { link, ice_restart: false });
    assert_eq!(greater.state("a"), PeerState::Connected);

    let mut smaller = Bench::connected("a", "z");
    let link = smaller.link("z");
    smaller.give(Input::NegotiationNeeded { link });
    smaller.give(Input::OfferCreated { link, sdp: sdp(1, 2) });
    assert!(smaller.give(offer("z", 100, 2)).is_empty());
}

#[test]
fn a_rollback_that_fails_ends_in_a_fresh_link_with_our_offer() {
    let mut bench = Bench::connected("z", "a");
    let link = bench.link("a");
    bench.give(Input::NegotiationNeeded { link });
    bench.give(Input::OfferCreated { link, sdp: sdp(1, 2) });
    bench.give(offer("a", 100, 2));
    bench.give(Input::NegotiationFailed { link, reason: "no rollback".into() });
    assert_eq!(bench.state("a"), PeerState::Failed);
    assert_eq!(offers(&bench.wait(Duration::from_millis(300))), 1);
}

#[test]
fn a_bad_renegotiation_offer_leaves_the_connection_as_it_was() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    let actions = bench.give(Input::Offer { peer: "z".into(), sdp: "nonsense".into() });
    assert_eq!((error_code(&actions), has_links(&actions)), (Some(codes::OFFER_INVALID), false));
    bench.give(offer("z", 100, 2));
    let actions = bench.give(Input::NegotiationFailed { link, reason: "bad m-line".into() });
    assert_eq!((error_code(&actions), has_links(&actions)), (Some(codes::OFFER_INVALID), false));
    assert_eq!(bench.state("z"), PeerState::Connected);
    // And the next one is taken.
    assert_eq!(bench.give(offer("z", 100, 3)), [Action::AcceptOffer { link, sdp: sdp(100, 3) }]);
}

#[test]
fn an_offer_of_another_session_is_a_restarted_peer_and_of_the_same_a_renegotiation() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(Input::Joined(PeerAnnouncement::new("z")));
    assert_eq!(bench.give(offer("z", 100, 2)), [Action::AcceptOffer { link, sdp: sdp(100, 2) }]);
    bench.give(Input::AnswerCreated { link, sdp: sdp(1, 2) });

    let actions = bench.give(offer("z", 200, 1));
    assert_ne!(bench.link("z"), link);
    let restarted = |action: &Action| matches!(action, Action::PeerState { reason: Reason::Restarted, .. });
    assert!(actions.iter().any(restarted), "{actions:?}");
    assert_eq!(bench.state("z"), PeerState::Connecting);
}

#[test]
fn joining_again_keeps_links_that_are_up_and_renews_those_that_are_not() {
    let mut bench = Bench::connected("m", "a");
    bench.give(Input::Joined(PeerAnnouncement::new("b")));
    bench.give(offer("b", 7, 1));
    let (up, halfway) = (bench.link("a"), bench.link("b"));
    bench.give(Input::SignalingLost);
    let actions = bench.announced(&["a", "b", "c"]);
    assert_eq!(bench.link("a"), up);
    assert_ne!(bench.link("b"), halfway);
    assert_eq!(offers(&actions), 2);

    // A server that was restarted knows nobody: who is connected stays, and is not announced twice when it is back.
    bench.give(Input::SignalingLost);
    let actions = bench.announced(&[]);
    assert_eq!(bench.mesh.peers().map(|peer| peer.id.to_owned()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::PeerLeft { .. })).count(), 2);
    assert!(bench.give(Input::Joined(PeerAnnouncement::new("a"))).is_empty());
    assert_eq!(bench.link("a"), up);
}

#[test]
fn leaving_tells_the_reason_given_before_and_coming_again_is_a_new_link() {
    let mut bench = Bench::connected("m", "a");
    let old = bench.link("a");
    let actions = bench.give(Input::Disconnected { peer: "a".into(), reason: Some("lunch".into()) });
    let reason = Reason::Disconnected("lunch".into());
    let closed = Action::PeerState { peer: "a".into(), state: PeerState::Closed, reason: reason.clone() };
    assert_eq!(actions, [Action::DestroyLink { link: old, peer: "a".into() }, closed]);
    assert!(bench.wait(Duration::from_secs(30)).is_empty());
    assert_eq!(bench.give(Input::Left { peer: "a".into() }), [Action::PeerLeft { peer: "a".into(), reason }]);
    bench.give(Input::Joined(PeerAnnouncement::new("a")));
    bench.give(offer("a", 9, 1));
    assert_ne!(bench.link("a"), old);
}

#[test]
fn a_stuck_negotiation_fails_with_its_reason_and_is_retried_with_growing_pauses() {
    let mut bench = Bench::offered("a", "z");
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let failed = loop {
            let due = bench.mesh.poll_timeout().expect("something to wait for");
            let actions = bench.wait(due.since(bench.now));
            if let Some(reason) = actions.iter().find_map(|action| match action {
                Action::PeerState { state: PeerState::Failed, reason, .. } => Some(reason.clone()),
                _ => None,
            }) {
                break reason;
            }
        };
        assert_eq!(failed, Reason::ConnectTimeout);
        pauses.push(bench.mesh.poll_timeout().expect("a retry").since(bench.now).as_millis());
    }
    for (n, pause) in pauses.iter().enumerate() {
        let full = (250 << n).min(4_000);
        assert!((full / 2..=full).contains(pause), "{pauses:?}");
    }
}

#[test]
fn it_gives_up_after_the_attempts_it_was_given_and_a_request_starts_anew() {
    let retry = Retry { max_attempts: Some(3), ..Retry::default() };
    let mut bench = Bench::new(MeshConfig { retry, ..MeshConfig::new("a") });
    let first = bench.announced(&["z"]);
    let actions = bench.wait(Duration::from_secs(600));
    assert_eq!(offers(&first) + offers(&actions), 3);
    assert!(actions.iter().any(|action| matches!(action, Action::Warning { warning: Warning::GaveUp, .. })));
    assert_eq!((bench.state("z"), bench.mesh.poll_timeout()), (PeerState::Failed, None));
    assert_eq!(offers(&bench.give(connect("z", 1, LONG))), 1);
}

#[test]
fn a_renegotiation_without_an_answer_is_repeated_before_the_link_is_given_up() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(Input::NegotiationNeeded { link });
    bench.give(Input::OfferCreated { link, sdp: sdp(1, 2) });
    let again = Action::Signal { peer: "z".into(), signal: Signal::Offer(sdp(1, 2)) };
    for _ in 0..3 {
        assert_eq!(bench.wait(LONG), std::slice::from_ref(&again));
    }
    // While signaling is away nothing is repeated, and nothing given up.
    bench.give(Input::SignalingLost);
    assert!(bench.wait(Duration::from_secs(100)).is_empty());
    bench.give(Input::SignalingRestored);
    assert!(has_links(&bench.wait(LONG)));
}

#[test]
fn an_answer_from_another_session_on_a_connected_link_means_the_peer_built_anew() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(Input::NegotiationNeeded { link });
    bench.give(Input::OfferCreated { link, sdp: sdp(1, 2) });
    bench.give(Input::Answer { peer: "z".into(), sdp: sdp(300, 1) });
    assert_eq!(bench.state("z"), PeerState::Failed);
    assert_eq!(offers(&bench.wait(Duration::from_millis(300))), 1);
}

#[test]
fn a_link_closed_by_the_peer_is_left_alone_until_it_offers_or_joins_again() {
    let mut bench = Bench::connected("a", "z");
    let link = bench.link("z");
    bench.give(Input::LinkState { link, state: LinkState::Closed });
    assert_eq!(bench.state("z"), PeerState::Closed);
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
    assert!(has_links(&bench.give(offer("z", 101, 1))));
}

#[test]
fn a_link_that_failed_is_retried_first_by_the_side_that_offered() {
    let mut offerer = Bench::connected("a", "z");
    let link = offerer.link("z");
    offerer.give(Input::LinkState { link, state: LinkState::Disconnected });
    assert_eq!(offerer.state("z"), PeerState::Disconnected);
    offerer.give(Input::LinkState { link, state: LinkState::Failed });
    assert_eq!(offers(&offerer.wait(Duration::from_millis(250))), 1);

    let mut answerer = Bench::named("z");
    answerer.announced(&[]);
    answerer.give(Input::Joined(PeerAnnouncement::new("a")));
    answerer.give(offer("a", 5, 1));
    let link = answerer.link("a");
    answerer.give(Input::AnswerCreated { link, sdp: sdp(1, 1) });
    answerer.give(Input::LinkState { link, state: LinkState::Connected });
    answerer.give(Input::LinkState { link, state: LinkState::Failed });
    assert_eq!(offers(&answerer.wait(Duration::from_millis(3_000))), 0);
    assert_eq!(offers(&answerer.wait(Duration::from_millis(300))), 1);
}

#[test]
fn connect_is_idempotent_and_done_when_the_channel_is_open() {
    let mut bench = Bench::offered("a", "z");
    let link = bench.link("z");
    assert!(bench.give(connect("z", 1, LONG)).is_empty());
    assert!(bench.give(connect("z", 2, LONG)).is_empty());
    bench.give(Input::Answer { peer: "z".into(), sdp: sdp(100, 1) });
    bench.give(Input::AnswerAccepted { link });
    assert!(!done(&bench.give(Input::LinkState { link, state: LinkState::Connected })));
    let actions = bench.give(Input::ChannelOpen { link });
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Connected { .. })).count(), 2);
    assert!(done(&bench.give(connect("z", 3, LONG))));
    assert!(bench.wait(Duration::from_secs(60)).is_empty(), "no request is answered twice");
}

#[test]
fn without_data_a_connect_is_done_when_the_link_is_connected() {
    let mut bench = Bench::new(MeshConfig { data: false, ..MeshConfig::new("a") });
    bench.announced(&["z"]);
    bench.give(connect("z", 1, LONG));
    let link = bench.link("z");
    assert!(done(&bench.give(Input::LinkState { link, state: LinkState::Connected })));
}

#[test]
fn connect_says_whether_the_peer_was_missing_slow_denied_or_unwanted() {
    let deny_peers = Some(vec!["mallory".to_owned()]);
    let mut bench = Bench::new(MeshConfig { deny_peers, ..MeshConfig::new("a") });
    bench.announced(&["z", "mallory"]);
    assert_eq!(failure(&bench.give(connect("mallory", 1, LONG))), Some(ConnectError::Denied));
    assert_eq!(failure(&bench.give(connect("a", 2, LONG))), Some(ConnectError::Denied));
    bench.give(connect("nobody", 3, LONG));
    assert_eq!(failure(&bench.wait(LONG)), Some(ConnectError::NotFound));
    bench.give(connect("z", 4, LONG));
    assert_eq!(failure(&bench.wait(LONG)), Some(ConnectError::Timeout));
    bench.give(connect("z", 5, LONG));
    let disconnect = Input::Disconnect { peer: "z".into(), reason: "enough".into() };
    assert_eq!(failure(&bench.give(disconnect)), Some(ConnectError::Disconnected));
    bench.give(connect("z", 6, LONG));
    assert_eq!(failure(&bench.give(Input::Close)), Some(ConnectError::Closed));
    assert_eq!(failure(&bench.give(connect("z", 7, LONG))), Some(ConnectError::Closed));
    assert_eq!((bench.mesh.poll_timeout(), bench.announced(&["q"])), (None, vec![]));
}

#[test]
fn a_connect_waits_for_its_peer_and_then_a_moment_for_the_newcomers_own_offer() {
    let mut bench = Bench::named("a");
    bench.announced(&[]);
    bench.give(connect("z", 1, Duration::from_secs(60)));
    bench.wait(Duration::from_secs(30));
    assert_eq!(offers(&bench.give(Input::Joined(PeerAnnouncement::new("z")))), 0);
    assert_eq!(offers(&bench.wait(Duration::from_millis(99))), 0);
    assert_eq!(offers(&bench.wait(Duration::from_millis(1))), 1);
}

#[test]
fn disconnect_holds_until_asked_or_offered_again() {
    let mut bench = Bench::connected("a", "z");
    let actions = bench.give(Input::Disconnect { peer: "z".into(), reason: "enough".into() });
    assert!(has_links(&actions));
    bench.give(Input::Joined(PeerAnnouncement::new("z")));
    assert_eq!(offers(&bench.announced(&["z"])), 0);
    assert!(bench.wait(Duration::from_secs(60)).is_empty());
    assert_eq!(offers(&bench.give(connect("z", 1, LONG))), 1);
}

#[test]
fn max_peers_refuses_offers_and_requests_and_says_so() {
    let mut bench = Bench::new(MeshConfig { max_peers: 1, ..MeshConfig::new("m") });
    bench.announced(&["a"]);
    bench.give(Input::Joined(PeerAnnouncement::new("b")));
    assert_eq!(failure(&bench.give(connect("b", 1, LONG))), None);
    let actions = bench.wait(Duration::from_millis(100));
    assert_eq!(failure(&actions), Some(ConnectError::PeerLimit));
    let told = Action::PeerState { peer: "b".into(), state: PeerState::New, reason: Reason::PeerLimit };
    assert!(actions.contains(&told), "{actions:?}");
    bench.give(Input::Joined(PeerAnnouncement::new("c")));
    let actions = bench.give(offer("c", 5, 1));
    assert_eq!((error_code(&actions), has_links(&actions)), (Some(codes::SESSION_LIMIT), false));
    assert!(matches!(
        actions[1..],
        [Action::PeerState { .. }, Action::Warning { warning: Warning::PeerLimit, .. }]
    ));
    // Each further one is refused and counted, and told to nobody but the peer.
    assert!(matches!(bench.give(offer("c", 6, 1))[..], [Action::Signal { .. }]));
    assert_eq!(bench.mesh.counters().refused_offers, 2);
    bench.give(Input::Left { peer: "c".into() });
    bench.give(Input::Left { peer: "a".into() });
    assert_eq!(offers(&bench.wait(Duration::from_secs(4))), 1, "the free place is used");
}

#[test]
fn a_denied_peers_offer_gets_an_error_and_no_sdp() {
    for config in [
        MeshConfig { deny_peers: Some(vec!["x".into()]), ..MeshConfig::new("m") },
        MeshConfig { allow_peers: Some(vec!["a".into()]), ..MeshConfig::new("m") },
    ] {
        let mut bench = Bench::new(config);
        assert_eq!(offers(&bench.announced(&["a", "x"])), 1);
        let actions = bench.give(offer("x", 5, 1));
        assert_eq!((error_code(&actions), has_links(&actions)), (Some(codes::DENIED), false));
        assert_eq!(bench.mesh.counters().denied_offers, 1);
    }
}

#[test]
fn candidates_wait_for_their_description_in_order_and_in_bounded_number() {
    let mut bench = Bench::offered("a", "z");
    let link = bench.link("z");
    let take = |n: usize| Input::Candidate { peer: "z".into(), candidate: candidate(n) };
    for n in 0..10_000 {
        assert!(bench.give(take(n)).is_empty());
    }
    assert_eq!(bench.mesh.counters().dropped_candidates, 10_000 - 64);
    bench.give(Input::Answer { peer: "z".into(), sdp: sdp(100, 1) });
    let actions = bench.give(Input::AnswerAccepted { link });
    let expected = |n| Action::AddRemoteCandidate { link, candidate: candidate(n) };
    assert_eq!(actions, (0..64).map(expected).collect::<Vec<_>>());
    assert!(bench.give(take(64)).is_empty());
    // The next negotiation has its own 64.
    bench.give(offer("z", 100, 2));
    assert!(bench.give(take(1)).is_empty());
    assert_eq!(bench.give(Input::AnswerCreated { link, sdp: sdp(1, 2) })[1], expected(1));
    assert_eq!(bench.give(take(2)), [expected(2)]);
}

#[test]
fn candidates_that_come_before_the_offer_are_kept_for_it() {
    let mut bench = Bench::named("a");
    bench.announced(&[]);
    bench.give(Input::Joined(PeerAnnouncement::new("z")));
    assert!(bench.give(Input::Candidate { peer: "z".into(), candidate: candidate(1) }).is_empty());
    bench.give(offer("z", 5, 1));
    let link = bench.link("z");
    let actions = bench.give(Input::AnswerCreated { link, sdp: sdp(1, 1) });
    assert_eq!(actions[1], Action::AddRemoteCandidate { link, candidate: candidate(1) });
}

#[test]
fn local_candidates_follow_their_description_and_the_end_is_told() {
    let mut bench = Bench::named("a");
    bench.announced(&["z"]);
    let link = bench.link("z");
    let early = bench.give(Input::LocalCandidate { link, candidate: candidate(0) });
    assert!(early.is_empty());
    let signals = |actions: Vec<Action>| -> Vec<Signal> {
        let signal = |action| match action {
            Action::Signal { signal, .. } => signal,
            other => panic!("{other:?}"),
        };
        actions.into_iter().map(signal).collect()
    };
    let sent = signals(bench.give(Input::OfferCreated { link, sdp: sdp(1, 1) }));
    assert_eq!(sent, [Signal::Offer(sdp(1, 1)), Signal::Candidate(candidate(0))]);
    for n in 1..200 {
        bench.give(Input::LocalCandidate { link, candidate: candidate(n) });
    }
    assert_eq!(bench.mesh.counters().dropped_local_candidates, 200 - 64);
    let end = signals(bench.give(Input::LocalCandidatesDone { link }));
    assert_eq!(end, [Signal::Candidate(IceCandidate::default())]);
}

#[test]
fn relay_errors_end_a_first_offer_and_nothing_else() {
    let refused = |code| Input::SignalError { peer: "z".into(), code, message: "no".into() };
    let mut bench = Bench::offered("a", "z");
    assert!(bench.give(refused(codes::CANDIDATE_INVALID)).is_empty());
    bench.give(refused(codes::PEER_NOT_FOUND));
    assert_eq!(bench.state("z"), PeerState::Failed);
    assert_eq!(offers(&bench.wait(Duration::from_millis(250))), 1, "it is still announced");

    let mut bench = Bench::offered("a", "z");
    bench.give(connect("z", 1, LONG));
    assert_eq!(failure(&bench.give(refused(codes::DENIED))), Some(ConnectError::Denied));
    assert!(bench.wait(Duration::from_secs(60)).is_empty(), "a refusal is not argued with");

    let mut bench = Bench::connected("a", "z");
    for code in [codes::PEER_NOT_FOUND, codes::DENIED, codes::OFFER_INVALID, 0] {
        assert!(bench.give(refused(code)).is_empty());
    }
}

#[test]
fn nonsense_costs_nothing_and_is_counted() {
    let mut bench = Bench::connected("m", "a");
    bench.announced(&["a"]);
    let link = bench.link("a");
    let huge = "x".repeat(100_000);
    let answer = |peer: &str| Input::Answer { peer: peer.into(), sdp: sdp(9, 9) };
    for input in [
        answer("a"),
        answer("stranger"),
        answer("m"),
        offer("m", 1, 1),
        Input::Candidate { peer: "stranger".into(), candidate: candidate(0) },
        Input::Candidate { peer: "m".into(), candidate: candidate(0) },
        Input::Candidate {
            peer: "a".into(),
            candidate: IceCandidate { candidate: huge.clone(), ..candidate(0) },
        },
        Input::Joined(PeerAnnouncement::new("")),
        Input::Joined(PeerAnnouncement::new("x".repeat(129))),
        Input::Joined(PeerAnnouncement { user_data: Some(huge.clone()), ..PeerAnnouncement::new("b") }),
        Input::Joined(PeerAnnouncement::new("m")),
        Input::Joined(PeerAnnouncement::new("a")),
        Input::Left { peer: "stranger".into() },
        Input::Disconnected { peer: "stranger".into(), reason: None },
        Input::OfferCreated { link, sdp: sdp(1, 2) },
        Input::AnswerCreated { link, sdp: sdp(1, 2) },
        Input::AnswerAccepted { link },
        Input::NegotiationFailed { link, reason: "late".into() },
        Input::ChannelOpen { link: LinkId(999) },
        Input::CancelConnect { request: RequestId(9) },
        Input::Disconnect { peer: "stranger".into(), reason: String::new() },
    ] {
        let text = format!("{input:?}").chars().take(60).collect::<String>();
        assert_eq!(bench.give(input), [], "{text}");
    }
    let c = *bench.mesh.counters();
    assert_eq!((c.unexpected_answers, c.unknown_candidates, c.from_self, c.dropped_candidates), (2, 1, 3, 1));
    assert_eq!((c.bad_announcements, c.unexpected_reports, c.stale_reports), (3, 4, 1));
    assert_eq!(bench.mesh.peers().count(), 1);

    let actions = bench.give(Input::Offer { peer: "b".into(), sdp: huge });
    assert_eq!((error_code(&actions), bench.mesh.peers().count()), (Some(codes::OFFER_INVALID), 1));
}

#[test]
fn the_roster_and_the_requests_are_bounded() {
    let mut bench = Bench::new(MeshConfig { auto_connect: false, ..MeshConfig::new("m") });
    for n in 0..1_100 {
        bench.give(Input::Joined(PeerAnnouncement::new(format!("p{n}"))));
    }
    assert_eq!((bench.mesh.peers().count(), bench.mesh.counters().roster_overflow), (1024, 76));
    assert!(!has_links(&bench.give(offer("one more", 1, 1))));
    let refused = (0..1_100).filter(|n| {
        let actions = bench.give(connect("nobody", *n, Duration::MAX));
        failure(&actions) == Some(ConnectError::TooManyRequests)
    });
    assert_eq!(refused.count(), 76);
}

#[test]
fn an_offer_that_overtakes_its_announcement_is_answered_and_its_link_kept() {
    let mut bench = Bench::named("m");
    bench.give(offer("a", 5, 1));
    let link = bench.link("a");
    assert!(!bench.mesh.peer("a").unwrap().announced);
    assert!(matches!(bench.give(Input::Joined(PeerAnnouncement::new("a")))[..], [Action::PeerJoined { .. }]));
    assert_eq!(bench.link("a"), link);
    // Nor does our own announce result, should it come after the offer, start it anew.
    bench.give(offer("c", 5, 1));
    let link = bench.link("c");
    assert_eq!(offers(&bench.announced(&["a", "c"])), 1, "to a, which had been announced before");
    assert_eq!(bench.link("c"), link);
    // One that is never announced is forgotten with its link.
    bench.give(offer("b", 5, 1));
    let link = bench.link("b");
    bench.give(Input::LinkState { link, state: LinkState::Failed });
    assert!(bench.mesh.peer("b").is_none());
}

#[test]
fn time_does_not_go_back() {
    let mut bench = Bench::offered("a", "z");
    let due = bench.mesh.poll_timeout();
    bench.now = Time::from_micros(5_000_000);
    bench.give(Input::SignalingRestored);
    bench.mesh.handle_timeout(Time::ZERO);
    bench.now = Time::ZERO;
    bench.give(connect("nobody", 1, Duration::from_secs(1)));
    assert_eq!(bench.mesh.poll_timeout(), Some(Time::from_micros(6_000_000)));
    assert_eq!(due, Some(Time::from_micros(10_000_000)));
}

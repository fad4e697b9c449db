//! Descriptions: codecs, refusals, glare, renegotiation.

mod common;

use common::*;
use remotemedia_link::{Link, LinkConfig, LinkError, LinkState, MessageKind, PeerAudio};
use remotemedia_media::VideoCodec;
use remotemedia_testkit::{Path, Random};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn link(config: LinkConfig) -> Link {
    let mut link = Link::new(Instant::now(), config, certificate()).expect("a link");
    link.add_local_candidate("192.0.2.7:4000".parse::<SocketAddr>().expect("an address"))
        .expect("a candidate");
    link
}

fn with_codecs(codecs: &[VideoCodec]) -> LinkConfig {
    LinkConfig { video_codecs: codecs.to_vec(), ..LinkConfig::default() }
}

#[test]
fn the_first_offer_has_what_a_browser_expects() {
    let mut link = link(LinkConfig { stereo: true, ..LinkConfig::default() });
    let offer = link.create_offer(Instant::now(), false).expect("an offer");
    let media: Vec<&str> = offer.lines().filter(|l| l.starts_with("m=")).collect();
    assert_eq!(media.len(), 3, "{offer}");
    assert!(media[0].starts_with("m=audio 9 UDP/TLS/RTP/SAVPF 111"), "{offer}");
    assert!(media[1].starts_with("m=video 9 UDP/TLS/RTP/SAVPF 98"), "VP9 first: {offer}");
    assert_eq!(media[2], "m=application 9 UDP/DTLS/SCTP webrtc-datachannel");
    for line in [
        "a=group:BUNDLE 0 1 2",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1",
        "a=ptime:20",
        "a=rtpmap:98 VP9/90000",
        "a=fmtp:98 profile-id=0",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:106 H264/90000",
        "a=fmtp:106 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
        "a=fmtp:99 apt=98",
        "a=rtcp-fb:98 nack",
        "a=rtcp-fb:98 nack pli",
        "a=rtcp-fb:98 ccm fir",
        "a=rtcp-fb:98 transport-cc",
        "a=rtcp-mux",
        "a=setup:actpass",
        "a=sendrecv",
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        "a=ice-options:trickle",
    ] {
        assert!(offer.lines().any(|l| l == line), "{line} is missing in\n{offer}");
    }
    assert_eq!(offer.lines().filter(|l| *l == "a=sendrecv").count(), 2);
    assert_eq!(offer.lines().filter(|l| l.starts_with("a=candidate:")).count(), 1, "{offer}");
    assert!(offer.lines().any(|l| l.starts_with("a=ssrc-group:FID ")), "{offer}");
    assert!(offer.contains(&format!("a=fingerprint:sha-256 {}", certificate().fingerprint())));
    assert!(offer.contains(&format!("a=ice-ufrag:{}\r\n", link.local_ufrag())));
    assert!(offer.lines().any(|l| l.contains("cname:remotemedia")), "{offer}");
    // With a space it would pass for libwebrtc's, which is treated in a way of its own.
    assert!(!offer.contains("msid-semantic: "), "{offer}");
    let feedback = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
    let extensions = offer.lines().filter(|l| l.starts_with("a=extmap:") && l.ends_with(feedback));
    assert_eq!(extensions.count(), 2, "for audio and video: {offer}");
}

#[test]
fn the_senders_preference_decides_what_it_sends() {
    use VideoCodec::{H264, Vp8, Vp9};
    for (a, b, a_sends, b_sends) in [
        (vec![Vp9, Vp8, H264], vec![Vp8, Vp9], Some(Vp9), Some(Vp8)),
        (vec![Vp9, H264], vec![H264], Some(H264), Some(H264)),
        (vec![Vp8], vec![Vp9, Vp8, H264], Some(Vp8), Some(Vp8)),
    ] {
        let pair = Pair::open(1, Path::default(), with_codecs(&a), with_codecs(&b));
        assert_eq!(pair.peers[A].link.negotiated().video, a_sends);
        assert_eq!(pair.peers[B].link.negotiated().video, b_sends);
        assert!(pair.peers.iter().all(|p| p.link.negotiated().audio));
    }
}

#[test]
fn a_kind_without_a_common_codec_is_refused_and_the_rest_goes_on() {
    let (a, b) = (with_codecs(&[VideoCodec::Vp9]), with_codecs(&[VideoCodec::H264]));
    let mut pair = Pair::new(2, Path::default(), a, b);
    let now = pair.instant();
    let offer = pair.peers[A].link.create_offer(now, false).expect("an offer");
    let answer = pair.peers[B].link.accept_offer(now, &offer).expect("an answer");
    let media: Vec<&str> = answer.lines().filter(|l| l.starts_with("m=")).collect();
    assert!(media[0].starts_with("m=audio 9 ") && media[1].starts_with("m=video 0 "), "{answer}");
    assert!(answer.contains("a=group:BUNDLE 0 2\r\n"), "{answer}");
    // Some stacks leave the mid out of what they refuse.
    let answer = answer.replace("a=mid:1\r\na=inactive", "a=inactive");
    pair.peers[A].link.accept_answer(now, &answer).expect("taken");
    pair.settle();
    assert!(pair.run_until(Duration::from_secs(2), |p| p.both_open()));
    for peer in &pair.peers {
        let n = peer.link.negotiated();
        assert!(n.audio && n.video.is_none() && n.video_receive.is_empty() && n.data);
    }
    // The refused section keeps its place in what follows, from either side.
    for side in [B, A] {
        let now = pair.instant();
        let offer = pair.peers[side].link.create_offer(now, true).expect("another offer");
        let media: Vec<&str> = offer.lines().filter(|l| l.starts_with("m=")).collect();
        assert!(media.len() == 3 && media[1].starts_with("m=video 0 "), "{offer}");
        let answer = pair.peers[1 - side].link.accept_offer(now, &offer).expect("an answer");
        pair.peers[side].link.accept_answer(now, &answer).expect("taken");
        pair.settle();
        pair.run_for(Duration::from_secs(1));
        assert!(pair.both_connected());
    }
    pair.send(A, MessageKind::Text, b"on");
    assert!(pair.run_until(Duration::from_secs(1), |p| p.peers[B].messages.len() == 1));
}

#[test]
fn sections_that_are_not_there_are_not_missed() {
    let kinds = [
        LinkConfig { audio: false, ..LinkConfig::default() },
        LinkConfig { video: false, ..LinkConfig::default() },
        LinkConfig { audio: false, video: false, ..LinkConfig::default() },
    ];
    for config in kinds {
        let (audio, video) = (config.audio, config.video);
        for (a, b) in [(config.clone(), LinkConfig::default()), (LinkConfig::default(), config.clone())] {
            let pair = Pair::open(3, Path::default(), a, b);
            for peer in &pair.peers {
                assert_eq!(
                    (peer.link.negotiated().audio, peer.link.negotiated().video.is_some()),
                    (audio, video)
                );
            }
        }
    }
}

#[test]
fn crossing_offers_end_in_one_link_with_one_channel() {
    for seed in 0..10 {
        let path = Path::lossy(ms(5), 0.02);
        let mut pair = Pair::new(seed, path, LinkConfig::default(), LinkConfig::default());
        let now = pair.instant();
        let offer_a = pair.peers[A].link.create_offer(now, false).expect("an offer");
        let _ignored = pair.peers[B].link.create_offer(now, false).expect("an offer");
        // B is polite.
        let refused = pair.peers[B].link.accept_offer(now, &offer_a);
        assert!(matches!(refused, Err(LinkError::WrongState(_))), "{refused:?}");
        pair.peers[B].link.rollback(now).expect("rolled back");
        let answer = pair.peers[B].link.accept_offer(now, &offer_a).expect("an answer");
        pair.peers[A].link.accept_answer(now, &answer).expect("taken");
        pair.settle();
        assert!(pair.run_until(Duration::from_secs(10), |p| p.both_open()), "seed {seed}");
        pair.run_for(ms(500));
        for peer in &pair.peers {
            let opens =
                peer.events.iter().filter(|e| matches!(e, remotemedia_link::LinkEvent::ChannelOpen { .. }));
            assert_eq!(opens.count(), 1, "seed {seed}");
        }
        pair.send(B, MessageKind::Text, b"x");
        assert!(pair.run_until(Duration::from_secs(5), |p| p.peers[A].messages.len() == 1));
    }
}

#[test]
fn crossing_restarts_of_an_open_link_heal() {
    let mut pair = Pair::open(4, Path::clean(ms(5)), LinkConfig::default(), LinkConfig::default());
    pair.run_for(ms(500));
    let now = pair.instant();
    let offer_a = pair.peers[A].link.create_offer(now, true).expect("an offer");
    let _ignored = pair.peers[B].link.create_offer(now, true).expect("an offer");
    pair.peers[B].link.rollback(now).expect("rolled back");
    let answer = pair.peers[B].link.accept_offer(now, &offer_a).expect("an answer");
    pair.peers[A].link.accept_answer(now, &answer).expect("taken");
    pair.settle();
    assert!(pair.run_until(Duration::from_secs(3), |p| p.both_connected()), "{:?}", pair.states());
    for side in [A, B] {
        pair.send(side, MessageKind::Text, b"x");
    }
    assert!(pair.run_until(Duration::from_secs(5), |p| p.peers.iter().all(|p| p.messages.len() == 1)));
}

#[test]
fn an_ice_restart_moves_the_link_from_either_side() {
    for side in [A, B] {
        let mut pair = Pair::open(5, Path::clean(ms(5)), LinkConfig::default(), LinkConfig::default());
        pair.run_for(ms(500));
        for round in 0..3usize {
            let before = [A, B].map(|s| pair.peers[s].link.local_ufrag());
            pair.negotiate(side, true);
            let after = [A, B].map(|s| pair.peers[s].link.local_ufrag());
            assert!(before[0] != after[0] && before[1] != after[1], "new credentials on both sides");
            let start = pair.now;
            for side in [A, B] {
                pair.send(side, MessageKind::Text, b"x");
            }
            let done = |p: &Pair| p.both_connected() && p.peers.iter().all(|p| p.messages.len() == round + 1);
            let took = pair.run_until(Duration::from_secs(5), done);
            assert!(took, "side {side} round {round}: {:?}", pair.states());
            assert!(pair.now - start < ms(300), "side {side} round {round}: {:?}", pair.now - start);
            // Media after the restart, both ways.
            let mut random = Random::new(1);
            let now = pair.instant();
            for side in [A, B] {
                pair.peers[side].rtp.clear();
                let key = frame(&mut random, VideoCodec::Vp9, 0, 2000);
                pair.peers[side].link.send_video(now, &key).expect("sent");
            }
            pair.settle();
            pair.run_for(ms(50));
            assert!(pair.peers.iter().all(|p| p.rtp.len() == 2), "side {side} round {round}");
        }
    }
}

#[test]
fn roles_stay_whoever_offers_again() {
    let mut pair = Pair::open(6, Path::default(), LinkConfig::default(), LinkConfig::default());
    let now = pair.instant();
    let offer = pair.peers[B].link.create_offer(now, false).expect("an offer");
    assert!(offer.contains("a=setup:actpass"));
    let answer = pair.peers[A].link.accept_offer(now, &offer).expect("an answer");
    // Driver rule D6: B answered first and passively, so A is the client and says so.
    assert!(answer.contains("a=setup:active") && !answer.contains("a=setup:passive"), "{answer}");
    pair.peers[B].link.accept_answer(now, &answer).expect("taken");
}

#[test]
fn the_first_answer_is_passive() {
    let mut a = link(LinkConfig::default());
    let mut b = link(LinkConfig::default());
    let offer = a.create_offer(Instant::now(), false).expect("an offer");
    let answer = b.accept_offer(Instant::now(), &offer).expect("an answer");
    assert!(answer.contains("a=setup:passive") && !answer.contains("a=setup:active"), "{answer}");
    // An offer that insists on being the server is answered actively.
    let passive = offer.replace("a=setup:actpass", "a=setup:passive");
    let mut c = link(LinkConfig::default());
    let answer = c.accept_offer(Instant::now(), &passive).expect("an answer");
    assert!(answer.contains("a=setup:active"), "{answer}");
}

#[test]
fn what_the_peer_wants_of_opus_is_read() {
    let now = Instant::now();
    let config = LinkConfig { stereo: true, dtx: true, frame_ms: 60, ..LinkConfig::default() };
    let offer = link(config).create_offer(now, false).expect("an offer");
    for line in [
        "a=fmtp:111 minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1;usedtx=1\r\n",
        "a=ptime:60\r\n",
        "a=maxptime:120\r\n",
    ] {
        assert!(offer.contains(line), "{line}: {offer}");
    }
    let read = |offer: &str| {
        let mut b = link(LinkConfig::default());
        b.accept_offer(now, offer).expect("an answer");
        b.negotiated().peer_audio.clone()
    };
    let ours = PeerAudio {
        stereo: true,
        fec: true,
        dtx: true,
        ptime_ms: Some(60),
        max_ptime_ms: Some(120),
        ..PeerAudio::default()
    };
    assert_eq!(read(&offer), ours);
    let phone = offer
        .replace("minptime=10;useinbandfec=1;stereo=1;", "maxaveragebitrate=16000; maxplaybackrate=8000;")
        .replace("a=maxptime:120", "a=maxptime:40");
    let phone = read(&phone);
    assert_eq!((phone.max_average_bitrate, phone.max_playback_rate), (Some(16_000), Some(8_000)));
    assert_eq!((phone.max_ptime_ms, phone.stereo, phone.fec), (Some(40), false, false));
    // What makes no sense says nothing.
    let absurd = offer
        .replace("minptime=10;", "maxaveragebitrate=-1;maxplaybackrate=99999999999;")
        .replace("a=maxptime:120", "a=maxptime:x");
    let absurd = read(&absurd);
    assert_eq!(
        (absurd.max_average_bitrate, absurd.max_playback_rate, absurd.max_ptime_ms),
        (None, None, None)
    );
}

#[test]
fn directions_are_mirrored_and_obeyed() {
    let mut a = link(LinkConfig::default());
    let now = Instant::now();
    let offer = a.create_offer(now, false).expect("an offer");
    for (theirs, ours, sends, receives) in [
        ("recvonly", "sendonly", true, false),
        ("sendonly", "recvonly", false, true),
        ("inactive", "inactive", false, false),
    ] {
        let changed = offer.replace("a=sendrecv\r\na=ptime", &format!("a={theirs}\r\na=ptime"));
        assert_ne!(changed, offer);
        let mut b = link(LinkConfig::default());
        let answer = b.accept_offer(now, &changed).expect("an answer");
        assert!(answer.contains(&format!("a={ours}\r\na=ptime")), "{theirs}: {answer}");
        assert_eq!((b.negotiated().audio, b.negotiated().audio_receive), (sends, receives), "{theirs}");
        assert!(b.negotiated().video.is_some());
    }
}

#[test]
fn wrong_calls_are_refused_and_change_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = (link(LinkConfig::default()), link(LinkConfig::default()));
    assert!(matches!(a.accept_answer(now, "v=0"), Err(LinkError::WrongState(_))));
    assert!(matches!(a.rollback(now), Err(LinkError::WrongState(_))));
    let offer = a.create_offer(now, false).expect("an offer");
    assert!(matches!(a.create_offer(now, false), Err(LinkError::WrongState(_))));
    let answer = b.accept_offer(now, &offer).expect("an answer");
    for bad in [
        String::new(),
        "v=0".into(),
        "x".repeat(100_000),
        answer.replace("a=mid:1", "a=mid:7"),
        answer.replace("a=mid:1", "a=mid:0"),
        answer.replace("a=setup:passive", "a=setup:actpass"),
        answer.replace("sha-256", "sha-1"),
        answer.replacen("a=ice-pwd:", "a=ice-nothing:", 3),
        answer.split("m=application").next().map(str::to_owned).unwrap_or_default(),
        answer.clone() + &"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:z\r\n".repeat(40),
    ] {
        assert!(matches!(a.accept_answer(now, &bad), Err(LinkError::BadSdp(_))), "{bad}");
        assert_eq!(a.state(), LinkState::New);
    }
    a.accept_answer(now, &answer).expect("the good one is still taken");
    a.close(now);
    assert_eq!(a.create_offer(now, false), Err(LinkError::Closed));
    assert_eq!(a.add_remote_candidate("", None, None), Err(LinkError::Closed));
}

#[test]
fn candidates_wait_are_counted_and_bounded() {
    let now = Instant::now();
    let mut a = link(LinkConfig::default());
    for n in 0..100 {
        let line = format!("candidate:1 1 udp 2122260223 198.51.100.{n} 5000 typ host");
        a.add_remote_candidate(&line, Some("0"), Some(0)).expect("queued or counted");
    }
    assert_eq!(a.drops().candidate_other, 36);
    a.add_remote_candidate("candidate:1 1 udp 1 x.local 5000 typ host", None, None).expect("counted");
    a.add_remote_candidate("candidate:1 1 tcp 1 192.0.2.1 9 typ host tcptype active", None, None)
        .expect("counted");
    a.add_remote_candidate("", Some("0"), Some(0)).expect("the end of candidates");
    a.resolve_candidate("x.local", None);
    assert_eq!((a.drops().candidate_mdns, a.drops().candidate_tcp), (1, 1));
    assert!(matches!(
        a.add_remote_candidate("candidate:nonsense", None, None),
        Err(LinkError::BadCandidate(_))
    ));
    let _ = a.create_offer(now, false).expect("an offer");
    assert!(a.add_local_candidate("0.0.0.0:1".parse::<SocketAddr>().expect("an address")).is_err());
}

/// Candidates reach the peer only by trickle, some before the description they belong to.
#[test]
fn trickled_candidates_connect() {
    let mut pair = Pair::new(8, Path::default(), data_only(), data_only());
    let strip = |sdp: String| {
        let lines: Vec<&str> = sdp.lines().filter(|l| !l.starts_with("a=candidate")).collect();
        lines.join("\r\n") + "\r\n"
    };
    let now = pair.instant();
    let (addr_a, addr_b) = (pair.peers[A].addr, pair.peers[B].addr);
    let line_a = pair.peers[A].link.add_local_candidate(addr_a).expect("its line again");
    let line_b = pair.peers[B].link.add_local_candidate(addr_b).expect("its line again");
    let offer = strip(pair.peers[A].link.create_offer(now, false).expect("an offer"));
    pair.peers[B].link.add_remote_candidate(&line_a, Some("0"), Some(0)).expect("early");
    let answer = strip(pair.peers[B].link.accept_offer(now, &offer).expect("an answer"));
    pair.peers[A].link.accept_answer(now, &answer).expect("taken");
    pair.settle();
    pair.run_for(ms(100));
    let now = pair.instant();
    pair.peers[A].link.add_remote_candidate(&line_b, Some("0"), None).expect("late");
    pair.settle();
    assert!(pair.run_until(Duration::from_secs(2), |p| p.both_open()));
    let _ = now;
}

#[test]
fn a_link_can_move_to_its_thread() {
    fn sendable<T: Send>() {}
    sendable::<Link>();
}

#[test]
fn the_states_in_between_are_connecting() {
    let pair = Pair::open(9, Path::default(), LinkConfig::default(), LinkConfig::default());
    for peer in &pair.peers {
        let states: Vec<LinkState> = peer
            .events
            .iter()
            .filter_map(|e| match e {
                remotemedia_link::LinkEvent::State(state) => Some(*state),
                _ => None,
            })
            .collect();
        assert_eq!(states, [LinkState::Connecting, LinkState::Connected]);
    }
}

//! Data channels.

mod common;

use common::*;
use remotemedia_link::{ChannelOptions, DataMode, LinkConfig, LinkError, LinkEvent, MessageKind};
use remotemedia_testkit::{Path, Random};
use std::time::Duration;

fn with_mode(mode: DataMode) -> LinkConfig {
    LinkConfig { data: Some(mode), ..data_only() }
}

#[test]
fn messages_arrive_whole_and_in_order_under_loss() {
    let mut pair = Pair::open(1, Path::lossy(ms(5), 0.02), data_only(), data_only());
    let mut random = Random::new(7);
    let messages: Vec<Vec<u8>> = (0..300)
        .map(|_| {
            let size = random.below(20_000);
            random.bytes(size)
        })
        .collect();
    for side in [A, B] {
        pair.send_all(side, &messages);
    }
    let count = messages.len();
    assert!(pair.run_until(Duration::from_secs(120), |p| p.peers.iter().all(|p| p.messages.len() == count)));
    for peer in &pair.peers {
        assert!(peer.messages.iter().zip(&messages).all(|(got, sent)| got.2[..] == sent[..]));
        assert!(peer.messages.iter().all(|m| m.1 == MessageKind::Binary));
    }
    let stats = pair.peers[A].link.stats();
    assert_eq!((stats.messages_sent, stats.messages_received), (300, 300));
    assert!(stats.round_trip.is_some_and(|r| r >= ms(9) && r <= ms(40)), "{:?}", stats.round_trip);
    let selected = stats.selected.expect("a pair");
    assert_eq!((selected.local, selected.remote), (pair.peers[A].addr, pair.peers[B].addr));
}

/// Driver rule D5: nothing that is sent the moment a side sees its channel open is lost, in either direction.
#[test]
fn nothing_sent_at_once_on_open_is_lost() {
    for seed in 0..50 {
        let mut pair =
            Pair::new(seed, Path { jitter: ms(2), ..Path::clean(ms(1)) }, data_only(), data_only());
        pair.negotiate(A, false);
        let mut sent = [false; 2];
        for _ in 0..100_000 {
            for side in [A, B] {
                if !sent[side] && pair.peers[side].open_at.is_some() {
                    sent[side] = true;
                    for n in 0..20u8 {
                        pair.send(side, MessageKind::Binary, &[n; 100]);
                    }
                }
            }
            if sent == [true; 2] || !pair.step(Duration::from_secs(5)) {
                break;
            }
        }
        assert!(
            pair.run_until(Duration::from_secs(10), |p| p.peers.iter().all(|p| p.messages.len() == 20)),
            "seed {seed}"
        );
        for peer in &pair.peers {
            assert!(peer.messages.iter().enumerate().all(|(n, m)| m.2[..] == [n as u8; 100]), "seed {seed}");
        }
    }
}

#[test]
fn text_binary_and_empty_keep_their_kind() {
    let mut pair = Pair::open(2, Path::default(), data_only(), data_only());
    let sent: [(MessageKind, &[u8]); 5] = [
        (MessageKind::Text, "grüezi \u{1e}{}".as_bytes()),
        (MessageKind::Binary, &[0, 255, 1]),
        (MessageKind::Text, b""),
        (MessageKind::Binary, b""),
        (MessageKind::Text, b"last"),
    ];
    for (kind, data) in sent {
        pair.send(A, kind, data);
    }
    assert!(pair.run_until(Duration::from_secs(2), |p| p.peers[B].messages.len() == 5));
    for ((kind, data), got) in sent.iter().zip(&pair.peers[B].messages) {
        assert_eq!((*kind, *data), (got.1, &got.2[..]));
    }
    let (now, channel) = (pair.instant(), pair.peers[A].channel.expect("open"));
    let link = &mut pair.peers[A].link;
    assert_eq!(link.send_message(now, channel, MessageKind::Text, &[0xff]), Err(LinkError::NotUtf8));
}

#[test]
fn a_message_of_256_kib_passes_and_a_larger_one_is_refused() {
    let mut pair = Pair::open(3, Path::lossy(ms(2), 0.01), data_only(), data_only());
    let data = Random::new(1).bytes(256 * 1024);
    for side in [A, B] {
        pair.send(side, MessageKind::Binary, &data);
    }
    assert!(pair.run_until(Duration::from_secs(60), |p| p.peers.iter().all(|p| p.messages.len() == 1)));
    assert!(pair.peers.iter().all(|p| p.messages[0].2 == data));
    let (now, channel) = (pair.instant(), pair.peers[A].channel.expect("open"));
    let before = pair.net.counts().sent;
    let larger = vec![0; 256 * 1024 + 1];
    let refused = pair.peers[A].link.send_message(now, channel, MessageKind::Binary, &larger);
    assert_eq!(refused, Err(LinkError::MessageTooLarge { size: 262_145, limit: 262_144 }));
    pair.settle();
    assert_eq!(pair.net.counts().sent, before);
}

#[test]
fn the_limit_is_the_peers() {
    let small = LinkConfig { max_message_size: 1024, ..data_only() };
    let mut pair = Pair::open(4, Path::default(), data_only(), small);
    assert_eq!(pair.peers[A].link.negotiated().max_message_size, 1024);
    let (now, channel) = (pair.instant(), pair.peers[A].channel.expect("open"));
    let link = &mut pair.peers[A].link;
    assert!(link.send_message(now, channel, MessageKind::Binary, &[0; 1025]).is_err());
    pair.send(A, MessageKind::Binary, &[1; 1024]);
    assert!(pair.run_until(Duration::from_secs(2), |p| p.peers[B].messages.len() == 1));
}

#[test]
fn unordered_is_whole_and_unreliable_is_only_late_or_lost() {
    for (mode, whole) in [(DataMode::Unordered, true), (DataMode::Unreliable, false)] {
        let mut pair = Pair::open(5, Path::default(), with_mode(mode), data_only());
        let opened = pair.peers[B].events.iter().find_map(|e| match e {
            LinkEvent::ChannelOpen { label, ordered, ours, .. } => Some((label.clone(), *ordered, *ours)),
            _ => None,
        });
        assert_eq!(opened, Some(("data".into(), false, false)));
        pair.net.set_path(Path { loss: 0.1, jitter: ms(10), ..Path::clean(ms(5)) });
        let start = pair.now;
        for n in 0..400u32 {
            pair.send(A, MessageKind::Binary, &n.to_be_bytes());
            pair.run_for(ms(5));
        }
        pair.run_until(Duration::from_secs(60), |p| p.peers[B].messages.len() == 400);
        let got: Vec<u32> = pair.peers[B]
            .messages
            .iter()
            .map(|m| u32::from_be_bytes(m.2[..].try_into().expect("four bytes")))
            .collect();
        let mut unique = got.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), got.len(), "{mode:?}: doubles");
        assert!(got.windows(2).any(|w| w[0] > w[1]), "{mode:?}: nothing overtook in {:?}", pair.now - start);
        if whole {
            assert_eq!(got.len(), 400);
        } else {
            assert!((280..400).contains(&got.len()), "{} of 400 without retransmission", got.len());
        }
    }
}

#[test]
fn further_channels_open_carry_and_close() {
    let mut pair = Pair::open(6, Path::default(), data_only(), data_only());
    let now = pair.instant();
    let options = ChannelOptions { mode: DataMode::Unordered, protocol: "p1".into() };
    let id = pair.peers[B].link.open_channel(now, "extra", options).expect("a channel");
    assert_eq!(
        pair.peers[B].link.send_message(now, id, MessageKind::Text, b"early"),
        Err(LinkError::ChannelNotOpen)
    );
    pair.settle();
    pair.run_for(ms(50));
    let seen = |side: usize, pair: &Pair| {
        pair.peers[side].events.iter().find_map(|e| match e {
            LinkEvent::ChannelOpen { id, label, protocol, ours, .. } if label == "extra" => {
                Some((*id, protocol.clone(), *ours))
            }
            _ => None,
        })
    };
    let (other, protocol, ours) = seen(A, &pair).expect("open at A");
    assert_eq!((protocol.as_str(), ours), ("p1", false));
    assert_eq!(seen(B, &pair), Some((id, "p1".into(), true)));
    let now = pair.instant();
    pair.peers[B].link.send_message(now, id, MessageKind::Text, b"to A").expect("sent");
    pair.peers[A].link.send_message(now, other, MessageKind::Text, b"to B").expect("sent");
    pair.settle();
    pair.run_for(ms(50));
    assert_eq!((pair.peers[A].messages[0].0, &pair.peers[A].messages[0].2[..]), (other, &b"to A"[..]));
    assert_eq!((pair.peers[B].messages[0].0, &pair.peers[B].messages[0].2[..]), (id, &b"to B"[..]));
    let now = pair.instant();
    pair.peers[A].link.close_channel(now, other);
    pair.settle();
    pair.run_for(ms(500));
    for side in [A, B] {
        let closed =
            pair.peers[side].events.iter().filter(|e| matches!(e, LinkEvent::ChannelClosed { .. })).count();
        assert_eq!(closed, 1, "side {side}");
    }
    pair.send(A, MessageKind::Text, b"still here");
    assert!(pair.run_until(Duration::from_secs(1), |p| p.peers[B].messages.len() == 2));
}

#[test]
fn a_sleeping_reader_slows_the_sender_and_loses_nothing() {
    let mut pair = Pair::open(7, Path::default(), data_only(), data_only());
    pair.peers[B].asleep = true;
    let (channel, message) = (pair.peers[A].channel.expect("open"), vec![9u8; 64 * 1024]);
    let mut accepted = 0usize;
    for _ in 0..2000 {
        let now = pair.instant();
        match pair.peers[A].link.send_message(now, channel, MessageKind::Binary, &message) {
            Ok(()) => accepted += 1,
            Err(LinkError::BufferFull) => {}
            Err(other) => panic!("{other}"),
        }
        pair.settle();
        pair.run_for(ms(5));
    }
    let held = accepted * message.len() - pair.peers[A].link.buffered_amount(channel);
    assert!(accepted < 1000, "{accepted} accepted: nothing pushed back");
    assert!(held < 40 << 20, "{held} bytes are held at the reader");
    pair.peers[B].asleep = false;
    pair.settle();
    assert!(
        pair.run_until(Duration::from_secs(60), |p| p.peers[B].messages.len() == accepted),
        "{} of {accepted}",
        pair.peers[B].messages.len()
    );
}

#[test]
fn a_peer_whose_messages_are_held_waits_loses_nothing_and_goes_on_within_seconds() {
    let mut pair = Pair::open(8, Path::default(), data_only(), data_only());
    let now = pair.instant();
    pair.peers[B].link.hold_messages(now, true);
    let channel = pair.peers[A].channel.expect("open");
    let mut accepted = 0u32;
    // A minute and a half: longer than a sender's patience when nothing is acknowledged.
    for _ in 0..3000 {
        let now = pair.instant();
        let message = [accepted.to_be_bytes().to_vec(), vec![0; 16 * 1024]].concat();
        match pair.peers[A].link.send_message(now, channel, MessageKind::Binary, &message) {
            Ok(()) => accepted += 1,
            Err(LinkError::BufferFull) => {}
            Err(other) => panic!("{other}"),
        }
        pair.settle();
        pair.run_for(ms(30));
    }
    let passed = pair.peers[B].messages.len();
    // Half a MiB every ten seconds.
    assert!((200..=330).contains(&passed), "{passed} messages passed in 90 s");
    assert!(pair.both_connected());
    let waits = pair.peers[A].link.buffered_amount(channel);
    let held = (accepted as usize - passed) * 16 * 1024 - waits;
    assert!(held < 12 << 20, "{held} bytes are held here, {waits} there");
    assert!(waits > 1 << 20, "{waits} bytes wait at the sender");
    pair.send(B, MessageKind::Text, b"the other way is open");
    assert!(pair.run_until(Duration::from_secs(1), |p| p.peers[A].messages.len() == 1));
    let now = pair.instant();
    pair.peers[B].link.hold_messages(now, false);
    pair.settle();
    let all = |p: &Pair| p.peers[B].messages.len() == accepted as usize;
    let released = pair.now;
    assert!(
        pair.run_until(Duration::from_secs(20), all),
        "{} of {accepted} within 20 s",
        pair.peers[B].messages.len()
    );
    println!("all {accepted} were there {:?} after the release", pair.now - released);
    let numbers = pair.peers[B].messages.iter().map(|m| u32::from_be_bytes([m.2[0], m.2[1], m.2[2], m.2[3]]));
    assert!(numbers.eq(0..accepted), "in order, each once");
}

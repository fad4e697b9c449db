//! What is said of messages when their link ends under them.

mod common;

use std::time::Duration;

use common::{Member, Room};
use remotemedia_transport::{Config, DataMode, Event, Message};

const LEN: usize = 20_000;

fn numbered(n: u32) -> Message {
    let mut data = n.to_be_bytes().to_vec();
    data.resize(LEN, 7);
    Message::Binary(data.into())
}

fn number(message: &Message) -> Option<u32> {
    let Message::Binary(data) = message else { return None };
    Some(u32::from_be_bytes(data.get(..4)?.try_into().ok()?))
}

fn received(member: &Member) -> Vec<u32> {
    let number = |event: &Event| match event {
        Event::Message { channel: 0, message, .. } => number(message),
        _ => None,
    };
    member.events.iter().filter_map(number).collect()
}

/// How many are acknowledged, the greeting of `connect_all` with them; the numbers in `unknown` and in `unsent`.
type Told = (u64, Vec<Option<u32>>, Vec<Option<u32>>);

fn told(member: &Member) -> Vec<Told> {
    let one = |event: &Event| match event {
        Event::Undelivered { channel: 0, acknowledged, unknown, unsent, .. } => {
            Some((*acknowledged, unknown.iter().map(number).collect(), unsent.iter().map(number).collect()))
        }
        _ => None,
    };
    member.events.iter().filter_map(one).collect()
}

/// A sends as much as is taken, until B has some, then `end` ends it.
fn cut_short(mode: DataMode, end: impl Fn(&mut Room, usize, usize)) -> (Room, u32) {
    let config = || Config { data: Some(mode), ..Config::default() };
    let mut room = Room::new();
    let a = room.join("a", config());
    let b = room.join("b", config());
    room.connect_all();
    room.run_for(Duration::from_secs(2));
    let mut sent = 0;
    room.run_until("some arrived", |members| {
        for _ in 0..50 {
            sent += u32::from(members[a].transport.send_message("b", 0, numbered(sent)).is_ok());
        }
        received(&members[b]).len() >= 600
    });
    end(&mut room, a, b);
    (room, sent)
}

#[test]
fn a_peer_that_dies_in_the_middle_leaves_each_message_acknowledged_unknown_or_unsent() {
    for mode in [DataMode::Reliable, DataMode::Unordered] {
        let (mut room, sent) = cut_short(mode, |room, _, b| room.members[b].transport.close());
        room.run_until("a is told", |members| !told(&members[0]).is_empty());
        let [(acknowledged, unknown, unsent)] = &told(&room.members[0])[..] else { panic!("told once") };
        let acknowledged = *acknowledged as u32 - 1;
        println!(
            "{mode:?}: {sent} sent: {acknowledged} acknowledged, {} unknown, {} unsent",
            unknown.len(),
            unsent.len()
        );
        assert_eq!(acknowledged as usize + unknown.len() + unsent.len(), sent as usize);
        let rest: Vec<u32> = unknown.iter().chain(unsent).map(|n| n.expect("one of ours")).collect();
        assert!(rest.iter().copied().eq(acknowledged..sent), "in the order they were sent");
        let mut got = received(&room.members[1]);
        got.sort_unstable();
        assert!((0..acknowledged).all(|n| got.binary_search(&n).is_ok()), "what is acknowledged has arrived");
        assert!(got.iter().all(|n| *n < acknowledged + unknown.len() as u32), "what is unsent has not");
        assert!(acknowledged > 0 && !unsent.is_empty());
    }
}

#[test]
fn a_link_that_is_ended_here_tells_the_same_and_a_closed_transport_nothing() {
    let (mut room, sent) = cut_short(DataMode::Reliable, |room, a, _| {
        room.members[a].transport.disconnect_peer("b".into(), "enough".into());
    });
    room.run_until("a is told", |members| !told(&members[0]).is_empty());
    let (acknowledged, unknown, unsent) = &told(&room.members[0])[0];
    assert_eq!(*acknowledged as usize - 1 + unknown.len() + unsent.len(), sent as usize);

    let (mut room, _) = cut_short(DataMode::Reliable, |room, a, _| room.members[a].transport.close());
    room.run_for(Duration::from_millis(200));
    assert!(told(&room.members[0]).is_empty());
}

#[test]
fn nothing_is_told_where_all_arrived_or_nobody_promised_it() {
    let mut room = Room::new();
    let a = room.join("a", Config::default());
    room.join("b", Config::default());
    room.connect_all();
    for n in 0..100 {
        room.members[a].transport.send_message("b", 0, numbered(n)).expect("taken");
    }
    room.run_until("all arrived", |members| received(&members[1]).len() == 100);
    room.run_for(Duration::from_secs(3));
    room.members[1].transport.close();
    room.run_for(Duration::from_millis(500));
    assert!(told(&room.members[a]).is_empty(), "{:?}", told(&room.members[a]));

    let (mut room, _) = cut_short(DataMode::Unreliable, |room, _, b| room.members[b].transport.close());
    room.run_for(Duration::from_millis(500));
    assert!(told(&room.members[0]).is_empty());
}

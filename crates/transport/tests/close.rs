//! The end of a transport. Alone in its process, because it counts threads.

mod common;

use bytes::Bytes;
use common::Room;
use remotemedia_transport::{Config, Event, Message, PeerState, TransportError};

#[test]
fn a_peer_that_closes_is_seen_to_go_and_nothing_is_left() {
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let mut room = Room::new();
    let a = room.join("a", Config::default());
    let b = room.join("b", Config::default());
    room.connect_all();
    let before = threads();
    room.members[b].transport.close();
    room.run_until("a sees b go", |m| {
        m[a].events
            .iter()
            .any(|e| matches!(e, Event::PeerState { status, .. } if matches!(status.state, PeerState::Closed | PeerState::Failed)))
    });
    assert!(matches!(
        room.members[b].transport.send_message("a", 0, Message::Text(Bytes::new())),
        Err(TransportError::Closed)
    ));
    if before > 0 {
        assert!(threads() < before, "b's threads are gone: {} before, {} after", before, threads());
    }
}

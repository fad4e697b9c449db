//! Two or more transports in one process, with a room that carries their signals in memory.

#![allow(dead_code, missing_docs)]

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use remotemedia_transport::{Config, Event, PeerAnnouncement, PeerId, Transport};

/// One transport and what it told us that was not a signal.
pub struct Member {
    pub id: PeerId,
    pub transport: Transport,
    pub events: Vec<Event>,
}

/// Joins transports and relays between them.
#[derive(Default)]
pub struct Room {
    pub members: Vec<Member>,
    bell: Arc<(Mutex<bool>, Condvar)>,
}

impl Room {
    pub fn new() -> Room {
        Room::default()
    }

    /// A newcomer: those present learn of it, and it learns of them.
    pub fn join(&mut self, id: &str, config: Config) -> usize {
        let bell = self.bell.clone();
        let wake = move || {
            *bell.0.lock().unwrap() = true;
            bell.1.notify_one();
        };
        let transport = Transport::new(Config { peer_id: id.into(), ..config }, wake).unwrap();
        let id: PeerId = id.into();
        for other in &self.members {
            other.transport.peer_joined(PeerAnnouncement::new(id.clone()));
        }
        transport.announced(self.members.iter().map(|m| PeerAnnouncement::new(m.id.clone())).collect());
        self.members.push(Member { id, transport, events: Vec::new() });
        self.members.len() - 1
    }

    /// Relays until `done` says so, or fails after 20 s.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Vec<Member>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.relay();
            if done(&mut self.members) {
                return;
            }
            assert!(Instant::now() < deadline, "not within 20 s: {what}");
            let (lock, bell) = &*self.bell;
            let guard = lock.lock().unwrap();
            let (mut rung, _) =
                bell.wait_timeout_while(guard, Duration::from_millis(5), |rung| !*rung).unwrap();
            *rung = false;
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.run_until("time passes", |_| Instant::now() >= end);
    }

    /// Relays until each member's built-in channel to each other is open.
    pub fn connect_all(&mut self) {
        self.run_until("every channel is open", |members| {
            let ids: Vec<_> = members.iter().map(|m| m.id.clone()).collect();
            members.iter().enumerate().all(|(i, m)| {
                ids.iter().enumerate().all(|(j, id)| {
                    i == j
                        || m.transport
                            .send_message(id, 0, remotemedia_transport::Message::Text("hi".into()))
                            .is_ok()
                })
            })
        });
    }

    fn relay(&mut self) {
        let index: HashMap<PeerId, usize> =
            self.members.iter().enumerate().map(|(i, m)| (m.id.clone(), i)).collect();
        for i in 0..self.members.len() {
            let mut events = Vec::new();
            while self.members[i].transport.drain(256, &mut events) {}
            let from = self.members[i].id.clone();
            for event in events {
                match event {
                    Event::Signal { peer, signal } => {
                        if let Some(to) = index.get(&peer) {
                            self.members[*to].transport.signal(from.clone(), signal);
                        }
                    }
                    event => self.members[i].events.push(event),
                }
            }
        }
    }
}

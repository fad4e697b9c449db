//! Two or more transports in one process, with a room that carries their signals in memory.

#![allow(dead_code, missing_docs)]

pub mod detour;
pub mod path;

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use remotemedia_media::{FramePool, VideoFrame};
use remotemedia_transport::{Config, Event, PeerAnnouncement, PeerId, Signal, Transport};

/// Changes a signal from one member to another (their numbers) on its way, or takes it away.
type Tamper = Box<dyn Fn(usize, usize, Signal) -> Option<Signal>>;

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
    pub tamper: Option<Tamper>,
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
                        let Some(to) = index.get(&peer) else { continue };
                        let signal = match &self.tamper {
                            Some(tamper) => tamper(i, *to, signal),
                            None => Some(signal),
                        };
                        if let Some(signal) = signal {
                            self.members[*to].transport.signal(from.clone(), signal);
                        }
                    }
                    event => self.members[i].events.push(event),
                }
            }
        }
    }
}

/// Picture `n` of a pattern that moves.
pub fn pattern(pool: &FramePool, width: u32, height: u32, n: u32, timestamp_us: i64) -> VideoFrame {
    let mut frame = pool.get(width, height).unwrap();
    let [y, u, v] = frame.planes_mut();
    for (row, line) in y.data.chunks_mut(y.stride).enumerate() {
        for (col, p) in line.iter_mut().enumerate() {
            let (x, r) = (col as f32 + 2.0 * n as f32, row as f32);
            *p = (128.0 + 60.0 * (x / 23.0).sin() + 50.0 * (r / 31.0).cos()) as u8;
        }
    }
    u.data.fill(100 + (n % 32) as u8);
    v.data.fill(150 - (n % 32) as u8);
    frame.freeze(timestamp_us)
}

/// Peak signal to noise ratio of two planes, dB.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let error: f64 =
        a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>() / a.len() as f64;
    10.0 * (255.0 * 255.0 / error.max(1e-9)).log10()
}

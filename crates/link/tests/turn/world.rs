//! A client, its server and the network between them, under virtual time.

use crate::fake::Server;
use remotemedia_link::turn::{Family, TurnClient, TurnConfig, TurnError, TurnEvent};
use remotemedia_testkit::{Network, Path};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub struct World {
    start: Instant,
    pub now: Duration,
    pub network: Network,
    pub client: TurnClient,
    pub server: Server,
    /// Datagrams from peers, as the client gave them out.
    pub got: Vec<(SocketAddr, Vec<u8>)>,
    /// Its other events.
    pub events: Vec<(Duration, TurnEvent)>,
    pub bytes_to_server: Vec<Vec<u8>>,
}

pub fn client_addr() -> SocketAddr {
    "192.0.2.7:4000".parse().expect("an address")
}

pub fn server_addr() -> SocketAddr {
    "203.0.113.1:3478".parse().expect("an address")
}

pub fn peer(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 9, 8, host], port))
}

pub fn config() -> TurnConfig {
    TurnConfig {
        server: server_addr(),
        username: "alice".into(),
        credential: "secret".into(),
        family: Family::V4,
        stream: false,
    }
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn failed(error: TurnError) -> TurnEvent {
    TurnEvent::Failed(error)
}

/// A datagram of 100 bytes.
pub fn numbered(n: u32) -> Vec<u8> {
    let mut data = vec![0x17; 100];
    data[..4].copy_from_slice(&n.to_be_bytes());
    data
}

/// Those that came out at the relay.
pub fn numbers(world: &World) -> Vec<u32> {
    let number = |d: &Vec<u8>| u32::from_be_bytes(d[..4].try_into().expect("a number"));
    world.server.relayed.iter().filter(|(_, _, d)| d.len() == 100).map(|(_, _, d)| number(d)).collect()
}

impl World {
    pub fn new(seed: u64, path: Path, config: TurnConfig) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: Duration::ZERO,
            network: Network::new(seed, path),
            client: TurnClient::new(start, config),
            server: Server::new(start),
            got: Vec::new(),
            events: Vec::new(),
            bytes_to_server: Vec::new(),
        }
    }

    pub fn clean() -> Self {
        Self::new(1, Path::clean(ms(10)), config())
    }

    /// With an allocation.
    pub fn allocated() -> Self {
        let mut world = Self::clean();
        world.run(secs(1));
        world.relayed();
        world
    }

    pub fn at(&self) -> Instant {
        self.start + self.now
    }

    pub fn relayed(&self) -> SocketAddr {
        self.client.relayed().expect("an allocation")
    }

    pub fn send(&mut self, to: SocketAddr, data: &[u8]) -> bool {
        let now = self.at();
        let sent = self.client.send(now, to, data);
        self.drain();
        sent
    }

    /// A peer sends to the present relayed address. False if the server lets nothing of it through.
    pub fn peer_sends(&mut self, from: SocketAddr, data: &[u8]) -> bool {
        let (now, relayed) = (self.at(), self.relayed());
        let Some((client, message)) = self.server.peer_sends(now, from, relayed, data) else { return false };
        self.network.send(self.now, server_addr(), client, &message);
        true
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Runs until this holds; false if it doesn't within the time.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if holds(self) {
                return true;
            }
            if !self.step(end) {
                return false;
            }
        }
    }

    /// The next thing that happens by `end`; false if nothing does, and then it is `end`.
    fn step(&mut self, end: Duration) -> bool {
        self.drain();
        let timer = self.client.poll_timeout().map(|at| at.saturating_duration_since(self.start));
        let next = timer.into_iter().chain(self.network.next_at()).min();
        let Some(next) = next.filter(|next| *next <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(delivery) = self.network.receive(self.now) {
            let now = self.at();
            if delivery.to == client_addr() {
                self.client.handle_data(now, &delivery.data);
                self.drain();
            } else {
                for answer in self.server.handle(now, delivery.from, &delivery.data) {
                    self.network.send(self.now, server_addr(), delivery.from, &answer);
                }
            }
        }
        let now = self.at();
        if self.client.poll_timeout().is_some_and(|at| at <= now) {
            self.client.handle_timeout(now);
            let again = self.client.poll_timeout();
            assert!(again.is_none_or(|at| at > now), "a timer that was handled is due still");
        }
        self.drain();
        true
    }

    fn drain(&mut self) {
        while let Some(data) = self.client.poll_transmit() {
            self.bytes_to_server.push(data.to_vec());
            self.network.send(self.now, client_addr(), server_addr(), &data);
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                TurnEvent::Data { from, data } => self.got.push((from, data.to_vec())),
                event => self.events.push((self.now, event)),
            }
        }
    }

    /// The events but for data, without times.
    pub fn told(&self) -> Vec<&TurnEvent> {
        self.events.iter().map(|(_, event)| event).collect()
    }

    /// Lets a peer in and binds a channel for it.
    pub fn bind(&mut self, peer: SocketAddr) {
        assert!(self.send(peer, b"check"));
        self.run(ms(100));
        assert!(self.peer_sends(peer, b"answer"));
        self.run(ms(100));
        assert!(self.send(peer, b"more"));
        self.run(ms(100));
        let before = self.client.counters().sent_channel;
        assert!(self.send(peer, b"channel"));
        assert_eq!(self.client.counters().sent_channel, before + 1, "a channel is bound");
        self.run(ms(100));
    }

    /// Ends the test: the server saw no rule broken.
    pub fn sound(&self) {
        assert!(self.server.breaches.is_empty(), "{:?}", self.server.breaches);
    }
}

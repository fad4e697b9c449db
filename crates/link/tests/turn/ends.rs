//! Two links on real sockets, each behind coturn or not.

use crate::coturn::{Node, udp, v4};
use bytes::Bytes;
use remotemedia_link::turn::TurnConfig;
use remotemedia_link::{
    Certificate, ChannelId, Link, LinkConfig, LinkEvent, LocalCandidate, MessageKind, RelayProtocol, Transmit,
};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// What carries a link: an allocation, or a socket of its own.
enum Base {
    Relay(Box<Node>),
    Host(UdpSocket),
}

pub struct End {
    base: Base,
    local: SocketAddr,
    pub link: Link,
    pub channel: Option<ChannelId>,
    pub got: VecDeque<Bytes>,
    /// Bytes a second that leave, if they are held back; 16 KiB may go at once.
    pub pace: Option<f64>,
    credit: f64,
    credited: Instant,
    waiting: VecDeque<Transmit>,
    buffer: Vec<u8>,
}

impl End {
    /// With `turn`, everything goes through the relay.
    pub fn new(turn: Option<TurnConfig>) -> Self {
        let config = LinkConfig { audio: false, video: false, ..LinkConfig::default() };
        let certificate = Certificate::generate().expect("a certificate");
        let mut link = Link::new(Instant::now(), config, &certificate).expect("a link");
        let (base, local) = match turn {
            Some(turn) => {
                let protocol = if turn.stream { RelayProtocol::Tcp } else { RelayProtocol::Udp };
                let node = Node::allocated(turn);
                let relayed = node.relayed();
                link.add_local_candidate(LocalCandidate::Relay { relayed, protocol }).expect("a candidate");
                (Base::Relay(Box::new(node)), relayed)
            }
            None => {
                let socket = udp(v4());
                let local = socket.local_addr().expect("an address");
                link.add_local_candidate(local).expect("a candidate");
                (Base::Host(socket), local)
            }
        };
        Self {
            base,
            local,
            link,
            channel: None,
            got: VecDeque::new(),
            pace: None,
            credit: 0.0,
            credited: Instant::now(),
            waiting: VecDeque::new(),
            buffer: vec![0; 65_536],
        }
    }

    pub fn send(&mut self, data: &[u8]) {
        let channel = self.channel.expect("open");
        self.link.send_message(Instant::now(), channel, MessageKind::Binary, data).expect("taken");
        self.flush();
    }

    pub fn buffered(&mut self) -> usize {
        self.channel.map_or(0, |channel| self.link.buffered_amount(channel))
    }

    /// Ports of its own socket and of its relayed address.
    pub fn ports(&self) -> (u16, Option<u16>) {
        match &self.base {
            Base::Relay(node) => (node.local().port(), Some(self.local.port())),
            Base::Host(_) => (self.local.port(), None),
        }
    }

    /// The client, of an end behind a relay.
    pub fn relay(&self) -> Option<&Node> {
        if let Base::Relay(node) = &self.base { Some(node) } else { None }
    }

    /// Handles what came, and times. True if something came.
    pub fn pump(&mut self) -> bool {
        let mut came = false;
        match &mut self.base {
            Base::Relay(node) => {
                came |= node.pump();
                while let Some((from, data)) = node.got.pop_front() {
                    self.link.handle_datagram(Instant::now(), self.local, from, &data);
                }
            }
            Base::Host(socket) => {
                for _ in 0..64 {
                    match socket.recv_from(&mut self.buffer) {
                        Ok((length, from)) => {
                            came = true;
                            let data = &self.buffer[..length];
                            self.link.handle_datagram(Instant::now(), self.local, from, data);
                        }
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => panic!("{e}"),
                    }
                }
            }
        }
        let now = Instant::now();
        if self.link.poll_timeout().is_some_and(|at| at <= now) {
            self.link.handle_timeout(now);
        }
        self.flush();
        came
    }

    fn flush(&mut self) {
        while let Some(event) = self.link.poll_event() {
            match event {
                LinkEvent::ChannelOpen { id, .. } => self.channel = Some(id),
                LinkEvent::Message { data, .. } => self.got.push_back(data),
                _ => {}
            }
        }
        while let Some(transmit) = self.link.poll_transmit() {
            assert_eq!(transmit.local, self.local);
            self.waiting.push_back(transmit);
        }
        if let Some(rate) = self.pace {
            let earned = self.credited.elapsed().as_secs_f64() * rate;
            self.credited = Instant::now();
            self.credit = (self.credit + earned).min(16_384.0);
        }
        while self.pace.is_none() || self.credit > 0.0 {
            let Some(transmit) = self.waiting.pop_front() else { break };
            self.credit -= transmit.data.len() as f64;
            match &mut self.base {
                Base::Relay(node) => drop(node.client.send(Instant::now(), transmit.remote, &transmit.data)),
                // A full socket loses it, as networks do.
                Base::Host(socket) => drop(socket.send_to(&transmit.data, transmit.remote)),
            }
        }
        if let Base::Relay(node) = &mut self.base {
            node.flush();
        }
    }
}

/// Runs both until this holds; false after two minutes.
pub fn run_ends(ends: &mut [End; 2], mut holds: impl FnMut(&mut [End; 2]) -> bool) -> bool {
    let limit = Instant::now() + Duration::from_secs(120);
    while Instant::now() < limit {
        if holds(ends) {
            return true;
        }
        let [a, b] = ends;
        if !(a.pump() | b.pump()) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    holds(ends)
}

/// Offer from the first, answer from the second; how long until both channels are open.
pub fn connect(ends: &mut [End; 2]) -> Duration {
    let began = Instant::now();
    let offer = ends[0].link.create_offer(began, false).expect("an offer");
    let answer = ends[1].link.accept_offer(began, &offer).expect("an answer");
    ends[0].link.accept_answer(began, &answer).expect("taken");
    assert!(run_ends(ends, |ends| ends.iter().all(|e| e.channel.is_some())), "not open");
    began.elapsed()
}

/// Datagrams that the kernel dropped because a socket was full: IPv4 UDP sockets of this network namespace, by port.
pub fn kernel_drops() -> Vec<(u16, u64)> {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(words.get(1)?.split_once(':')?.1, 16).ok()?;
        Some((port, words.last()?.parse().ok()?)).filter(|(_, drops)| *drops > 0)
    };
    table.lines().skip(1).filter_map(row).collect()
}

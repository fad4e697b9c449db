//! Two links over a virtual network, in virtual time.
#![allow(dead_code)]

use remotemedia_link::{
    Certificate, ChannelId, Link, LinkConfig, LinkEvent, LinkState, MessageKind, RtpIn, Transmit,
};
use remotemedia_media::EncodedFrame;
use remotemedia_testkit::{Network, Path, Random};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub const A: usize = 0;
pub const B: usize = 1;

pub struct Peer {
    pub link: Link,
    pub addr: SocketAddr,
    pub events: Vec<LinkEvent>,
    pub messages: Vec<(ChannelId, MessageKind, bytes::Bytes)>,
    pub rtp: Vec<RtpIn>,
    pub channel: Option<ChannelId>,
    pub open_at: Option<Duration>,
    pub connected_at: Option<Duration>,
    /// True: events stay in the link.
    pub asleep: bool,
    pub closed: bool,
}

pub type Filter = Box<dyn FnMut(usize, &Transmit) -> bool>;

pub struct Pair {
    pub start: Instant,
    pub now: Duration,
    pub net: Network,
    pub peers: [Peer; 2],
    /// Sees each datagram before the network does; false drops it.
    pub filter: Option<Filter>,
    /// A peer's NAT: where the other one sees it now. What is sent to an earlier place is lost.
    pub outside: [Option<SocketAddr>; 2],
}

pub fn certificate() -> &'static Certificate {
    static ONE: OnceLock<Certificate> = OnceLock::new();
    ONE.get_or_init(|| Certificate::generate().expect("a certificate"))
}

fn certificates() -> [&'static Certificate; 2] {
    static OTHER: OnceLock<Certificate> = OnceLock::new();
    [certificate(), OTHER.get_or_init(|| Certificate::generate().expect("a certificate"))]
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn data_only() -> LinkConfig {
    LinkConfig { audio: false, video: false, ..LinkConfig::default() }
}

impl Pair {
    pub fn new(seed: u64, path: Path, a: LinkConfig, b: LinkConfig) -> Pair {
        let start = Instant::now();
        let certificates = certificates();
        let mut index = 0;
        let peers = [a, b].map(|config| {
            let addr = SocketAddr::from(([192, 0, 2, 10 + index as u8], 5000));
            let mut link = Link::new(start, config, certificates[index]).expect("a link");
            link.add_local_candidate(addr).expect("a candidate");
            index += 1;
            Peer {
                link,
                addr,
                events: vec![],
                messages: vec![],
                rtp: vec![],
                channel: None,
                open_at: None,
                connected_at: None,
                asleep: false,
                closed: false,
            }
        });
        Pair {
            start,
            now: Duration::ZERO,
            net: Network::new(seed, path),
            peers,
            filter: None,
            outside: [None; 2],
        }
    }

    pub fn instant(&self) -> Instant {
        self.start + self.now
    }

    /// Offer from one side, answer from the other, at once.
    pub fn negotiate(&mut self, offerer: usize, ice_restart: bool) {
        let now = self.instant();
        let offer = self.peers[offerer].link.create_offer(now, ice_restart).expect("an offer");
        let answer = self.peers[1 - offerer].link.accept_offer(now, &offer).expect("an answer");
        self.peers[offerer].link.accept_answer(now, &answer).expect("a taken answer");
        self.settle();
    }

    /// Negotiates from A and runs until the channel is open on both sides.
    pub fn open(seed: u64, path: Path, a: LinkConfig, b: LinkConfig) -> Pair {
        let mut pair = Pair::new(seed, path, a, b);
        pair.negotiate(A, false);
        let opened = pair.run_until(Duration::from_secs(30), |p| p.both_open());
        assert!(opened, "seed {seed}: not open after 30 s: {:?}", pair.states());
        pair
    }

    pub fn both_open(&self) -> bool {
        self.peers.iter().all(|p| p.open_at.is_some())
    }

    pub fn both_connected(&self) -> bool {
        self.peers.iter().all(|p| p.link.state() == LinkState::Connected)
    }

    pub fn states(&self) -> [LinkState; 2] {
        [self.peers[A].link.state(), self.peers[B].link.state()]
    }

    /// Moves what the links have into the network and the records.
    pub fn settle(&mut self) {
        for index in 0..2 {
            self.settle_one(index);
        }
    }

    fn settle_one(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        while !peer.asleep
            && let Some(event) = peer.link.poll_event()
        {
            match &event {
                LinkEvent::ChannelOpen { id, .. } => {
                    peer.channel.get_or_insert(*id);
                    peer.open_at.get_or_insert(self.now);
                }
                LinkEvent::State(LinkState::Connected) => {
                    peer.connected_at.get_or_insert(self.now);
                }
                LinkEvent::Message { id, kind, data } => {
                    peer.messages.push((*id, *kind, data.clone()));
                    continue;
                }
                LinkEvent::Rtp(packet) => {
                    peer.rtp.push(packet.clone());
                    continue;
                }
                _ => {}
            }
            peer.events.push(event);
        }
        while let Some(transmit) = peer.link.poll_transmit() {
            if let Some(filter) = self.filter.as_mut()
                && !filter(index, &transmit)
            {
                continue;
            }
            let from = self.outside[index].unwrap_or(transmit.local);
            self.net.send(self.now, from, transmit.remote, &transmit.data);
        }
    }

    /// The next thing that happens, not after `end`. False if that is nothing.
    pub fn step(&mut self, end: Duration) -> bool {
        let timers = self.peers.iter().filter_map(|p| p.link.poll_timeout());
        let timer = timers.map(|t| t.saturating_duration_since(self.start)).min();
        let Some(next) = [timer, self.net.next_at()].into_iter().flatten().min().filter(|n| *n <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        let now = self.instant();
        if let Some(delivery) = self.net.receive(self.now) {
            let reached =
                |index: &usize| self.outside[*index].unwrap_or(self.peers[*index].addr) == delivery.to;
            if let Some(index) = (0..2).find(reached) {
                let local = self.peers[index].addr;
                self.peers[index].link.handle_datagram(now, local, delivery.from, &delivery.data);
                self.settle_one(index);
            }
            return true;
        }
        for index in 0..2 {
            if self.peers[index].link.poll_timeout().is_some_and(|t| t <= now) {
                self.peers[index].link.handle_timeout(now);
                self.settle_one(index);
            }
        }
        true
    }

    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Pair) -> bool) -> bool {
        let end = self.now + limit;
        let mut idle = 0u32;
        let mut last = self.now;
        while !done(self) {
            if !self.step(end) {
                return done(self);
            }
            idle = if self.now == last { idle + 1 } else { 0 };
            last = self.now;
            assert!(idle < 200_000, "the clock stands still at {:?}", self.now);
        }
        true
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub fn send(&mut self, from: usize, kind: MessageKind, data: &[u8]) {
        let now = self.instant();
        let channel = self.peers[from].channel.expect("an open channel");
        self.peers[from].link.send_message(now, channel, kind, data).expect("a sent message");
        self.settle_one(from);
    }

    /// Sends while the buffer has room, running in between, until all are accepted.
    pub fn send_all(&mut self, from: usize, messages: &[Vec<u8>]) {
        for message in messages {
            let channel = self.peers[from].channel.expect("an open channel");
            while self.peers[from].link.buffered_amount(channel) > 1 << 20 {
                assert!(self.step(self.now + Duration::from_secs(60)));
            }
            self.send(from, MessageKind::Binary, message);
        }
    }
}

/// A frame with the first bytes a decoder-less depacketizer looks at.
pub fn frame(
    random: &mut Random,
    codec: remotemedia_media::VideoCodec,
    index: usize,
    size: usize,
) -> EncodedFrame {
    use remotemedia_media::VideoCodec::*;
    let keyframe = index == 0;
    let mut data = random.bytes(size);
    match codec {
        Vp8 => data[0] = data[0] & !1 | u8::from(!keyframe),
        Vp9 => data[0] = 0x82,
        H264 => {
            // No start codes inside, and a first slice.
            for byte in &mut data {
                *byte |= 1;
            }
            let head: &[u8] = if keyframe {
                &[0, 0, 0, 1, 0x67, 0x42, 0xe0, 0x1f, 0, 0, 0, 1, 0x68, 0xce, 0x31, 0, 0, 0, 1, 0x65, 0x88]
            } else {
                &[0, 0, 0, 1, 0x41, 0x9a]
            };
            data.splice(0..0, head.iter().copied());
        }
        Av1 => unreachable!("nobody sends it"),
    }
    EncodedFrame {
        data: data.into(),
        keyframe,
        timestamp_us: index as i64 * 33_333,
        width: 640,
        height: 360,
        temporal_layer: 0,
    }
}

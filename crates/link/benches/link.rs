//! Link set-up and data-channel throughput in memory: no sockets, no loss, no waiting.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use remotemedia_link::{Certificate, ChannelId, Link, LinkConfig, LinkEvent, MessageKind};
use remotemedia_media::EncodedFrame;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

struct Pair {
    now: Instant,
    links: [Link; 2],
    addrs: [SocketAddr; 2],
    channels: [Option<ChannelId>; 2],
    received: [usize; 2],
    rtp: usize,
}

impl Pair {
    fn new(certificate: &Certificate, config: &LinkConfig) -> Pair {
        let now = Instant::now();
        let addrs = [SocketAddr::from(([192, 0, 2, 1], 5000)), SocketAddr::from(([192, 0, 2, 2], 5000))];
        let links = addrs.map(|addr| {
            let mut link = Link::new(now, config.clone(), certificate).expect("a link");
            link.add_local_candidate(addr).expect("a candidate");
            link
        });
        Pair { now, links, addrs, channels: [None; 2], received: [0; 2], rtp: 0 }
    }

    fn connect(&mut self) {
        let offer = self.links[0].create_offer(self.now, false).expect("an offer");
        let answer = self.links[1].accept_offer(self.now, &offer).expect("an answer");
        self.links[0].accept_answer(self.now, &answer).expect("taken");
        while self.channels.contains(&None) {
            if !self.pass() {
                self.wait();
            }
        }
    }

    /// Carries over what there is; false if there was nothing.
    fn pass(&mut self) -> bool {
        let mut any = false;
        for from in 0..2 {
            while let Some(transmit) = self.links[from].poll_transmit() {
                any = true;
                if transmit.remote == self.addrs[1 - from] {
                    self.links[1 - from].handle_datagram(
                        self.now,
                        transmit.remote,
                        transmit.local,
                        &transmit.data,
                    );
                }
            }
            while let Some(event) = self.links[from].poll_event() {
                any = true;
                match event {
                    LinkEvent::ChannelOpen { id, .. } => self.channels[from] = Some(id),
                    LinkEvent::Message { data, .. } => self.received[from] += data.len(),
                    LinkEvent::Rtp(packet) => self.rtp += packet.payload.len(),
                    _ => {}
                }
            }
        }
        any
    }

    fn wait(&mut self) {
        let next = self.links.iter().filter_map(Link::poll_timeout).min().expect("a timer");
        self.now = self.now.max(next) + Duration::from_micros(1);
        for link in &mut self.links {
            link.handle_timeout(self.now);
        }
    }

    fn transfer(&mut self, message: &[u8], total: usize) {
        let channel = self.channels[0].expect("open");
        let end = self.received[1] + total;
        let mut left = total / message.len();
        while self.received[1] < end {
            while left > 0 && self.links[0].buffered_amount(channel) < 1 << 20 {
                self.links[0].send_message(self.now, channel, MessageKind::Binary, message).expect("sent");
                left -= 1;
            }
            if !self.pass() {
                self.wait();
            }
        }
    }
}

fn set_up(c: &mut Criterion) {
    let certificate = Certificate::generate().expect("a certificate");
    let mut group = c.benchmark_group("link/set-up");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    let data = LinkConfig { audio: false, video: false, ..LinkConfig::default() };
    for (name, config) in [("data", data), ("audio+video+data", LinkConfig::default())] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || Pair::new(&certificate, &config),
                |pair| pair.connect(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn throughput(c: &mut Criterion) {
    let certificate = Certificate::generate().expect("a certificate");
    let config = LinkConfig { audio: false, video: false, ..LinkConfig::default() };
    let mut group = c.benchmark_group("link/data-channel");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for size in [1024usize, 16 * 1024, 64 * 1024] {
        let mut pair = Pair::new(&certificate, &config);
        pair.connect();
        let (message, total) = (vec![7u8; size], 8 << 20);
        group.throughput(Throughput::Bytes(total as u64));
        group.bench_function(format!("{} KiB", size / 1024), |b| {
            b.iter(|| pair.transfer(black_box(&message), total))
        });
    }
    group.finish();
}

fn video(c: &mut Criterion) {
    let certificate = Certificate::generate().expect("a certificate");
    let config = LinkConfig::default();
    let mut group = c.benchmark_group("link/video");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    let mut pair = Pair::new(&certificate, &config);
    pair.connect();
    let mut frame = EncodedFrame {
        data: Bytes::from(vec![0x82; 12_000]),
        keyframe: true,
        timestamp_us: 0,
        width: 1280,
        height: 720,
        temporal_layer: 0,
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("12 kB frame, sent and received", |b| {
        b.iter(|| {
            pair.now += Duration::from_millis(33);
            frame.timestamp_us += 33_000;
            pair.links[0].send_video(pair.now, &frame).expect("sent");
            while pair.pass() {}
            for link in &mut pair.links {
                link.handle_timeout(pair.now);
            }
            black_box(pair.rtp)
        });
    });
    group.finish();
}

criterion_group!(benches, set_up, throughput, video);
criterion_main!(benches);

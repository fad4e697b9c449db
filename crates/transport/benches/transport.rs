//! Link set-up and data-channel throughput over real sockets on this machine.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::Room;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use remotemedia_transport::{Config, Event, Message};

fn set_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("connect");
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    group.bench_function("two transports, new to open channel", |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                let mut room = Room::new();
                let start = Instant::now();
                room.join("a", Config::default());
                room.join("b", Config::default());
                room.connect_all();
                total += start.elapsed();
            }
            total
        });
    });
    group.finish();
}

fn throughput(c: &mut Criterion) {
    let mut group = c.benchmark_group("reliable channel");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    // What Linux grants by default, and what this asks for.
    for (buffer, name) in [(208 << 10, "208 KiB"), (4 << 20, "4 MiB")] {
        for size in [1 << 10, 16 << 10, 64 << 10] {
            let mut room = Room::new();
            let config = Config { socket_buffer_bytes: buffer, ..Config::default() };
            room.join("a", config.clone());
            room.join("b", config);
            room.connect_all();
            let body = bytes::Bytes::from(vec![7u8; size]);
            const TOTAL: usize = 16 << 20;
            group.throughput(Throughput::Bytes(TOTAL as u64));
            group.bench_function(format!("{size} byte messages, {name} buffers"), |b| {
                b.iter(|| {
                    let (mut sent, mut received, mut waiting) = (0, 0, false);
                    room.run_until("all bytes", |m| {
                        for event in m[0].events.drain(..) {
                            waiting &= !matches!(event, Event::Drained { .. });
                        }
                        while !waiting && sent < TOTAL {
                            waiting =
                                !m[0].transport.send_message("b", 0, Message::Binary(body.clone())).unwrap();
                            sent += size;
                        }
                        for event in m[1].events.drain(..) {
                            if let Event::Message { message, .. } = event {
                                received += message.wire_len();
                            }
                        }
                        received >= TOTAL
                    });
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, set_up, throughput);
criterion_main!(benches);

//! Links through coturn, on loopback. Skipped loudly where there is no `turnserver`.

// Not all of it is used here.
#[allow(dead_code)]
#[path = "turn/coturn.rs"]
mod coturn;
#[path = "turn/ends.rs"]
mod ends;

use coturn::{Coturn, v4};
use ends::*;
use std::time::{Duration, Instant};

/// The first end's base, then the second's: a relay by UDP, by TCP, or none.
const PAIRS: [[Option<bool>; 2]; 5] = [
    [Some(false), Some(false)],
    [Some(false), None],
    [None, Some(false)],
    [Some(true), Some(true)],
    [Some(true), Some(false)],
];

fn pair(coturn: &Coturn, bases: [Option<bool>; 2]) -> [End; 2] {
    bases.map(|base| End::new(base.map(|stream| coturn.config(stream))))
}

fn name(base: Option<bool>) -> &'static str {
    match base {
        None => "host",
        Some(false) => "relay over UDP",
        Some(true) => "relay over TCP",
    }
}

#[test]
fn a_thousand_messages_each_way_through_each_kind_of_pair() {
    // Nonces that go stale meanwhile change nothing.
    let Some(coturn) = Coturn::with_user(v4(), &["--stale-nonce=1"]) else { return };
    for bases in PAIRS {
        let mut ends = pair(&coturn, bases);
        let took = connect(&mut ends);
        println!("{} to {}: open in {took:?}", name(bases[0]), name(bases[1]));
        let message = |n: u32| [&n.to_be_bytes()[..], &[7; 500]].concat();
        for n in 0..1000 {
            ends.iter_mut().for_each(|end| end.send(&message(n)));
            if n % 10 == 0 {
                ends.iter_mut().for_each(|end| {
                    end.pump();
                });
            }
        }
        assert!(run_ends(&mut ends, |ends| ends.iter().all(|e| e.got.len() >= 1000)), "{bases:?}");
        for end in &ends {
            assert!(end.got.iter().enumerate().all(|(n, d)| d[..] == message(n as u32)[..]), "{bases:?}");
            if let Some(node) = end.relay() {
                let counters = node.client.counters();
                assert!(counters.sent_channel > 100, "{bases:?}: {counters:?}");
                assert_eq!((node.events.len(), counters.errors, counters.timeouts), (1, 0, 0), "{bases:?}");
            }
        }
    }
}

/// 50 MB one way, then the other, on the reliable channel. Run it with `cargo test -p remotemedia-link --test turn_links
/// throughput -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    let Some(coturn) = Coturn::with_user(v4(), &[]) else { return };
    let paces = [None, Some(32e6)];
    for (bases, pace) in PAIRS.into_iter().flat_map(|bases| paces.map(|pace| (bases, pace))) {
        let mut ends = pair(&coturn, bases);
        ends.iter_mut().for_each(|end| end.pace = pace);
        let took = connect(&mut ends);
        println!("{} to {}, pace {pace:?}: open in {took:?}", name(bases[0]), name(bases[1]));
        for (from, way) in [(0, "there"), (1, "back")] {
            let figures = transfer(&mut ends, from);
            println!("  {way}: {figures}; {}", dropped(&coturn, &ends));
        }
    }
}

/// Where the kernel dropped datagrams so far.
fn dropped(coturn: &Coturn, ends: &[End; 2]) -> String {
    let [(own, relay), (other, far_relay)] = [ends[0].ports(), ends[1].ports()];
    let name = |port: u16| match port {
        port if port == own => "first socket",
        port if port == other => "second socket",
        port if Some(port) == relay => "first relayed address",
        port if Some(port) == far_relay => "second relayed address",
        port if port == coturn.server.port() => "server",
        _ => "another",
    };
    let rows = kernel_drops().into_iter().filter(|(port, _)| name(*port) != "another");
    let rows: Vec<String> = rows.map(|(port, drops)| format!("{drops} at {}", name(port))).collect();
    if rows.is_empty() { "none dropped".into() } else { format!("dropped: {}", rows.join(", ")) }
}

fn transfer(ends: &mut [End; 2], from: usize) -> String {
    const TOTAL: usize = 50_000_000;
    const MESSAGE: usize = 50_000;
    let message = vec![9; MESSAGE];
    let (began, mut sent, mut received) = (Instant::now(), 0, 0);
    let (mut last, mut pause) = (began, Duration::ZERO);
    let mut pauses = 0;
    let done = run_ends(ends, |ends| {
        while sent < TOTAL && ends[from].buffered() < 1 << 20 {
            ends[from].send(&message);
            sent += MESSAGE;
        }
        for data in std::mem::take(&mut ends[1 - from].got) {
            received += data.len();
            pause = pause.max(last.elapsed());
            pauses += u32::from(last.elapsed() > Duration::from_millis(200));
            last = Instant::now();
        }
        received >= TOTAL
    });
    let time = began.elapsed();
    let rate = received as f64 / 1e6 / time.as_secs_f64();
    format!("{rate:.0} MB/s, longest pause {pause:.0?}, {pauses} over 200 ms, done {done}")
}

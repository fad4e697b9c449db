//! A path between two members of a room that treats sound, pictures and the rest each by a shape of its own.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use remotemedia_testkit::{Shape, Shaper};
use remotemedia_transport::Signal;

use super::detour::detour;

/// What is told apart. Reports go with the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Audio,
    Video,
    Rest,
}

/// When the sound packets of one direction came out of the path: by sequence number, `None` while they haven't.
type Passed = Arc<Mutex<BTreeMap<u16, Option<Instant>>>>;

/// Datagrams of two members pass through here, because each is told this address instead of the other's.
pub struct ShapedPath {
    members: [usize; 2],
    /// Of what goes in by the first and the second door.
    shapes: [Arc<Mutex<[Shape; 3]>>; 2],
    passed: [Passed; 2],
    /// Where what is for the first and the second member goes in.
    doors: [SocketAddr; 2],
    hosts: [Arc<Mutex<Option<SocketAddr>>>; 2],
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The payload type of Opus in our offers.
const OPUS: u8 = 111;

impl ShapedPath {
    /// A path between the members with these numbers.
    pub fn new(members: [usize; 2]) -> ShapedPath {
        let sockets = [0, 1].map(|_| Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap()));
        let mut path = ShapedPath {
            members,
            shapes: Default::default(),
            passed: Default::default(),
            doors: [0, 1].map(|i: usize| sockets[i].local_addr().unwrap()),
            hosts: Default::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for side in [0, 1] {
            let (inward, outward) = (sockets[side].clone(), sockets[1 - side].clone());
            let (shapes, passed) = (path.shapes[side].clone(), path.passed[side].clone());
            let (host, stop) = (path.hosts[side].clone(), path.stop.clone());
            path.threads.push(std::thread::spawn(move || {
                forward(&inward, &outward, &shapes, &passed, &host, &stop);
            }));
        }
        path
    }

    /// What the `from`th of the two members sends is treated so from now on.
    pub fn shape(&self, from: usize, class: Class, shape: Shape) {
        self.shapes[1 - from].lock().unwrap()[class as usize] = shape;
    }

    /// Of each sound packet that the `from`th of the two has sent, in its order: when it came out of the path, or `None`.
    pub fn passed(&self, from: usize) -> Vec<Option<Instant>> {
        let passed = self.passed[1 - from].lock().unwrap();
        let Some(first) = passed.keys().next() else { return Vec::new() };
        // A link's first number is in the lower half, and no test sends as many as would wrap.
        let last = passed.keys().last().unwrap();
        (*first..=*last).map(|n| passed.get(&n).copied().flatten()).collect()
    }

    /// Changes a signal between the two so that they meet here.
    pub fn tamper(&self, from: usize, to: usize, signal: Signal) -> Option<Signal> {
        let at = |member| self.members.iter().position(|m| *m == member);
        let (Some(from), Some(_)) = (at(from), at(to)) else { return Some(signal) };
        detour(signal, self.doors[from], &self.hosts[from])
    }
}

impl Drop for ShapedPath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn class(data: &[u8]) -> Class {
    // RFC 7983: RTP and RTCP; RFC 5761: which is which.
    match data {
        [128..=191, payload, ..] if !(64..96).contains(&(payload & 0x7f)) => {
            if payload & 0x7f == OPUS {
                Class::Audio
            } else {
                Class::Video
            }
        }
        _ => Class::Rest,
    }
}

fn forward(
    inward: &UdpSocket,
    outward: &UdpSocket,
    shapes: &Mutex<[Shape; 3]>,
    passed: &Mutex<BTreeMap<u16, Option<Instant>>>,
    host: &Mutex<Option<SocketAddr>>,
    stop: &AtomicBool,
) {
    let start = Instant::now();
    let mut shapers = [11, 12, 13].map(|seed| Shaper::new(seed, Shape::CLEAR));
    let mut buffer = vec![0; 65_536];
    let number = |data: &[u8]| u16::from_be_bytes([data[2], data[3]]);
    while !stop.load(Ordering::Relaxed) {
        let next = shapers.iter().filter_map(Shaper::next_at).min();
        let wait = next.map_or(Duration::from_millis(10), |at| at.saturating_sub(start.elapsed()));
        inward
            .set_read_timeout(Some(wait.clamp(Duration::from_micros(100), Duration::from_millis(10))))
            .unwrap();
        if let Ok((len, _)) = inward.recv_from(&mut buffer) {
            let (now, data) = (start.elapsed(), &buffer[..len]);
            let class = class(data);
            let (shaper, shape) = (&mut shapers[class as usize], shapes.lock().unwrap()[class as usize]);
            if shaper.shape() != shape {
                shaper.set_shape(now, shape);
            }
            if class == Class::Audio {
                passed.lock().unwrap().insert(number(data), None);
            }
            shaper.push(now, data);
        }
        for shaper in &mut shapers {
            while let Some(data) = shaper.pop(start.elapsed()) {
                if class(&data) == Class::Audio {
                    passed.lock().unwrap().insert(number(&data), Some(Instant::now()));
                }
                if let Some(to) = *host.lock().unwrap() {
                    let _ = outward.send_to(&data, to);
                }
            }
        }
    }
}

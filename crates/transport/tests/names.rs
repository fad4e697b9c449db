//! Candidates that hide behind `.local` names, as browsers' do, with a responder that answers for them.

mod common;

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Room;
use remotemedia_transport::{Config, Message, Signal};

static ROOMS: AtomicU32 = AtomicU32::new(0);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// Answers for names to the group only, as Chromium does. `None`, loudly, where no interface takes part in multicast.
struct Responder {
    names: Arc<Mutex<HashMap<String, Ipv4Addr>>>,
    questions: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Responder {
    fn start() -> Option<Responder> {
        let interfaces = if_addrs::get_if_addrs().unwrap().into_iter();
        let interfaces: Vec<Ipv4Addr> = interfaces
            .filter(|i| i.is_oper_up() && !i.is_loopback())
            .filter_map(|i| if let std::net::IpAddr::V4(ip) = i.ip() { Some(ip) } else { None })
            .collect();
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))
                .unwrap();
        socket.set_reuse_address(true).unwrap();
        #[cfg(unix)]
        socket.set_reuse_port(true).unwrap();
        socket.bind(&std::net::SocketAddr::from(([0, 0, 0, 0], 5353)).into()).unwrap();
        let joined = interfaces.iter().filter(|ip| socket.join_multicast_v4(&GROUP, ip).is_ok()).count();
        if joined == 0 {
            eprintln!("\nSKIPPED: no interface takes part in multicast\n");
            return None;
        }
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let names: Arc<Mutex<HashMap<String, Ipv4Addr>>> = Arc::default();
        let (questions, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (known, asked, stopped) = (names.clone(), questions.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
                let Some((name, ip)) = question(&buffer[..len], &known.lock().unwrap()) else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                for interface in &interfaces {
                    socket2::SockRef::from(&socket).set_multicast_if_v4(interface).unwrap();
                    let _ = socket.send_to(&answer(&name, ip), (GROUP, 5353));
                }
            }
        });
        Some(Responder { names, questions, stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(|t| t.join());
    }
}

fn encode(name: &str) -> Vec<u8> {
    name.split('.').chain([""]).flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat()).collect()
}

fn question(data: &[u8], known: &HashMap<String, Ipv4Addr>) -> Option<(String, Ipv4Addr)> {
    let asks = data.get(2)? & 0x80 == 0;
    let found = known.iter().find(|(name, _)| data[12..].starts_with(&encode(name)))?;
    asks.then(|| (found.0.clone(), *found.1))
}

fn answer(name: &str, ip: Ipv4Addr) -> Vec<u8> {
    let head = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    [&head[..], &encode(name), &[0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4], &ip.octets()].concat()
}

/// What member 0 signals names no address, but a name for each of its own; and the other's are kept from it, so that it
/// has to be found. IPv6 addresses are left out.
fn hide(room: &mut Room, names: Arc<Mutex<HashMap<String, Ipv4Addr>>>) {
    let prefix = format!("{}-{}", std::process::id(), ROOMS.fetch_add(1, Ordering::Relaxed));
    let hide = move |line: &str| {
        let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let Some(ip) = fields.get(4).and_then(|ip| ip.parse::<Ipv4Addr>().ok()) else {
            return line.replace(" udp ", " tcp ");
        };
        fields[4] = format!("{prefix}-{}.local", ip.to_string().replace('.', "-"));
        names.lock().unwrap().insert(fields[4].clone(), ip);
        fields.join(" ")
    };
    room.tamper = Some(Box::new(move |from, _, signal| {
        Some(match signal {
            Signal::Offer(sdp) if from == 0 => Signal::Offer(each_candidate(&sdp, &hide)),
            Signal::Answer(sdp) if from == 0 => Signal::Answer(each_candidate(&sdp, &hide)),
            Signal::Candidate(mut c) if from == 0 && !c.candidate.is_empty() => {
                c.candidate = hide(&c.candidate);
                Signal::Candidate(c)
            }
            Signal::Candidate(_) if from == 1 => return None,
            Signal::Offer(sdp) => Signal::Offer(without_candidates(&sdp)),
            Signal::Answer(sdp) => Signal::Answer(without_candidates(&sdp)),
            other => other,
        })
    }));
}

fn each_candidate(sdp: &str, map: &impl Fn(&str) -> String) -> String {
    let lines = sdp.lines().map(|l| if l.starts_with("a=candidate:") { map(l) } else { l.to_owned() });
    lines.collect::<Vec<_>>().join("\r\n") + "\r\n"
}

fn without_candidates(sdp: &str) -> String {
    sdp.lines().filter(|l| !l.starts_with("a=candidate:")).collect::<Vec<_>>().join("\r\n") + "\r\n"
}

#[test]
fn a_peer_that_tells_only_names_is_found() {
    let Some(responder) = Responder::start() else { return };
    for hidden_offers in [true, false] {
        let mut room = Room::new();
        hide(&mut room, responder.names.clone());
        if hidden_offers {
            // Who comes last offers: member 0 is to be that one.
            room.join("hidden", Config::default());
            room.join("open", Config { auto_connect: false, ..Config::default() });
            room.members[0].transport.connect_peer("open".into(), 1, Duration::from_secs(10));
        } else {
            room.join("hidden", Config::default());
            room.join("open", Config::default());
        }
        room.connect_all();
        room.members[0].transport.send_message("open", 0, Message::Text("found".into())).unwrap();
        let counters = room.members[1].transport.counters();
        assert!(counters.names_resolved >= 1, "{counters:?}");
        assert!(responder.questions.load(Ordering::Relaxed) >= 1);
    }
}

#[test]
fn names_that_nobody_answers_for_are_given_up_and_counted() {
    if Responder::start().is_none() {
        return;
    }
    let mut room = Room::new();
    hide(&mut room, Arc::default());
    let patient = || Config { connect_timeout: Duration::from_secs(30), ..Config::default() };
    room.join("hidden", patient());
    room.join("open", patient());
    let began = std::time::Instant::now();
    room.run_until("the names are given up", |m| m[1].transport.counters().names_unresolved >= 1);
    assert!(began.elapsed() >= Duration::from_millis(9900), "{:?}", began.elapsed());
    assert_eq!(room.members[1].transport.counters().names_resolved, 0);
}

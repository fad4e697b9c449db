//! Through a real coturn: what is sent is what arrives, and nothing else is used.

mod common;
#[path = "common/coturn.rs"]
mod coturn;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Member, Room, pattern, psnr};
use coturn::Coturn;
use remotemedia_media::FramePool;
use remotemedia_transport::{
    CandidateKind, Config, Event, IceTransportPolicy, Message, RelayProtocol, Signal, TransportError,
    TurnServer,
};

fn relay_only(coturn: &Coturn, servers: Vec<TurnServer>) -> Config {
    Config {
        turn_servers: servers,
        ice_transport_policy: IceTransportPolicy::Relay,
        tls_roots: coturn.ca.as_str().into(),
        ..Config::default()
    }
}

fn messages(member: &Member) -> Vec<Message> {
    let messages = member.events.iter().filter_map(|e| match e {
        Event::Message { message, .. } if *message != Message::Text("hi".into()) => Some(message.clone()),
        _ => None,
    });
    messages.collect()
}

fn errors(member: &Member) -> Vec<String> {
    let errors = member.events.iter().filter_map(|e| match e {
        Event::Error { error: error @ TransportError::IceServer { .. }, .. } => Some(error.to_string()),
        _ => None,
    });
    errors.collect()
}

/// Every address that a signal of this member tells.
fn told(signals: &[(usize, Signal)], member: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (_, signal) in signals.iter().filter(|(from, _)| *from == member) {
        match signal {
            Signal::Offer(sdp) | Signal::Answer(sdp) => {
                lines.extend(sdp.lines().filter(|l| l.starts_with("a=candidate:")).map(str::to_owned));
                let elsewhere = sdp.lines().filter(|l| !l.starts_with("a=candidate:"));
                for line in elsewhere.filter(|l| l.starts_with("c=") || l.starts_with("o=")) {
                    assert!(line.ends_with("IN IP4 0.0.0.0") || line.ends_with("IN IP4 127.0.0.1"), "{line}");
                }
            }
            Signal::Candidate(c) if !c.candidate.is_empty() => lines.push(c.candidate.clone()),
            _ => {}
        }
    }
    lines
}

/// Watches what is signalled.
fn listen(room: &mut Room) -> Arc<Mutex<Vec<(usize, Signal)>>> {
    let heard: Arc<Mutex<Vec<(usize, Signal)>>> = Arc::default();
    let ears = heard.clone();
    room.tamper = Some(Box::new(move |from, _, signal| {
        ears.lock().unwrap().push((from, signal.clone()));
        Some(signal)
    }));
    heard
}

fn exchange(room: &mut Room, a: usize, b: usize) {
    let (from, to) = (room.members[a].id.clone(), room.members[b].id.clone());
    let sent: Vec<Message> = (0..100u32)
        .map(|i| match i % 4 {
            0 => Message::Text(format!("message {i}").into()),
            3 => Message::Binary(vec![i as u8; 100_000].into()),
            _ => Message::Binary(i.to_le_bytes().to_vec().into()),
        })
        .collect();
    let before = messages(&room.members[b]).len();
    for message in &sent {
        while let Err(error) = room.members[a].transport.send_message(&to, 0, message.clone()) {
            assert!(matches!(error, TransportError::SendQueueFull { .. }), "{from}: {error}");
            room.run_for(Duration::from_millis(5));
        }
    }
    room.run_until("all messages", |m| messages(&m[b]).len() >= before + sent.len());
    assert!(messages(&room.members[b])[before..] == sent, "other messages than were sent");
}

fn show(room: &mut Room, a: usize, b: usize) {
    let to = room.members[b].id.clone();
    room.members[b].transport.subscribe(false, true);
    let pool = FramePool::new(8);
    let start = Instant::now();
    let (mut sent, mut seen) = (0u32, 0);
    room.run_until("thirty pictures", |members| {
        if start.elapsed() >= Duration::from_millis(33) * sent {
            let frame = pattern(&pool, 320, 240, sent, i64::from(sent) * 33_000);
            members[a].transport.send_video(&to, frame).unwrap();
            sent += 1;
        }
        for event in std::mem::take(&mut members[b].events) {
            let Event::Video { frame, .. } = event else { continue };
            // Which one it is is told by its colour.
            let n = u32::from(frame.planes()[1].data[0]).wrapping_sub(100);
            let best = (0..sent).rev().take(64).map(|k| {
                let ours = pattern(&pool, 320, 240, k, 0);
                psnr(&ours.planes()[0].data[..320 * 200], &frame.planes()[0].data[..320 * 200])
            });
            let best = best.fold(0.0, f64::max);
            assert!(best > 28.0, "picture {n}: {best:.1} dB");
            seen += 1;
        }
        seen >= 30
    });
}

#[test]
fn only_relays_are_told_and_used_over_udp_tcp_and_tls() {
    let Some(coturn) = Coturn::with_user("127.0.0.1") else { return };
    for protocol in [RelayProtocol::Udp, RelayProtocol::Tcp, RelayProtocol::Tls] {
        let mut room = Room::new();
        let heard = listen(&mut room);
        let config = || relay_only(&coturn, vec![coturn.server(protocol)]);
        let (a, b) = (room.join("a", config()), room.join("b", config()));
        room.connect_all();
        exchange(&mut room, a, b);
        exchange(&mut room, b, a);
        show(&mut room, a, b);
        for member in [a, b] {
            let lines = told(&heard.lock().unwrap(), member);
            assert!(!lines.is_empty());
            for line in &lines {
                assert!(line.ends_with(" typ relay raddr 0.0.0.0 rport 9"), "{line}");
            }
            let info = &room.members[member].transport.peers()[0];
            let path = info.status.path.expect("a path");
            let kinds = (path.local, path.remote, path.relay_protocol);
            assert_eq!(kinds, (CandidateKind::Relay, CandidateKind::Relay, Some(protocol)));
            assert_eq!(errors(&room.members[member]), [""; 0]);
        }
        for member in &room.members {
            member.transport.close();
        }
    }
}

#[test]
fn a_relay_serves_both_families_where_its_server_does() {
    let Some(coturn) = Coturn::with_user("::1") else { return };
    let mut room = Room::new();
    let heard = listen(&mut room);
    let config = || relay_only(&coturn, vec![coturn.server(RelayProtocol::Udp)]);
    let (a, b) = (room.join("a", config()), room.join("b", config()));
    room.connect_all();
    exchange(&mut room, a, b);
    for line in told(&heard.lock().unwrap(), a) {
        assert!(line.contains(" ::1 ") && line.ends_with(" typ relay raddr :: rport 9"), "{line}");
    }
    assert!(room.members[a].transport.peers()[0].status.path.expect("a path").ipv6);
    assert_eq!(errors(&room.members[b]), [""; 0], "that it relays no IPv4 is no error");
}

#[test]
fn one_side_with_a_relay_is_enough() {
    let Some(coturn) = Coturn::with_user("127.0.0.1") else { return };
    let mut room = Room::new();
    let heard = listen(&mut room);
    let a = room.join("a", relay_only(&coturn, vec![coturn.server(RelayProtocol::Tcp)]));
    let b = room.join("b", Config::default());
    room.connect_all();
    exchange(&mut room, b, a);
    exchange(&mut room, a, b);
    assert!(told(&heard.lock().unwrap(), a).iter().all(|l| l.contains(" typ relay ")));
    let path = room.members[b].transport.peers()[0].status.path.expect("a path");
    assert_eq!((path.local, path.remote), (CandidateKind::Host, CandidateKind::Relay));
}

#[test]
fn a_server_that_can_not_be_used_is_named_with_the_reason() {
    let Some(coturn) = Coturn::with_user("127.0.0.1") else { return };
    let wrong = TurnServer { credential: "wrong".into(), ..coturn.server(RelayProtocol::Udp) };
    let nobody = TurnServer { port: 9, ..coturn.server(RelayProtocol::Tcp) };
    let nameless = TurnServer { host: "no-such-name.invalid".into(), ..coturn.server(RelayProtocol::Udp) };
    // Not TLS at all; and a certificate that nobody here vouches for.
    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = TurnServer { port: web.local_addr().unwrap().port(), ..coturn.server(RelayProtocol::Tls) };
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let unknown = Coturn::with_user("127.0.0.1").unwrap();
    let servers = vec![wrong, nobody, nameless, plain, unknown.server(RelayProtocol::Tls)];
    let named: Vec<String> = servers.iter().map(TurnServer::to_string).collect();
    let mut room = Room::new();
    let a = room.join("a", relay_only(&coturn, servers));
    room.join("b", Config::default());
    room.run_until("each server is told of", |m| {
        named.iter().all(|n| errors(&m[a]).iter().any(|e| e.contains(n)))
    });
    let told = errors(&room.members[a]);
    for (name, why) in named.iter().zip([
        "refuses the credentials",
        "Connection refused",
        "can't be resolved",
        "TLS",
        "invalid peer certificate",
    ]) {
        let error = told
            .iter()
            .find(|e| e.starts_with(name.as_str()))
            .unwrap_or_else(|| panic!("{name} in {told:?}"));
        assert!(error.contains(why), "{error}");
        assert!(!error.contains("wrong"), "{error}");
    }
    // What a call that waits for the peer is told.
    room.members[a].transport.connect_peer("b".into(), 7, Duration::from_millis(300));
    room.run_until("the answer", |m| m[a].events.iter().any(|e| matches!(e, Event::Connected { .. })));
    let answer = room.members[a].events.iter().find_map(|e| match e {
        Event::Connected { result: Err(error), .. } => Some(error.to_string()),
        _ => None,
    });
    let answer = answer.expect("an error");
    assert!(answer.contains("iceTransportPolicy is 'relay' and there is no relay: "), "{answer}");
    assert!(answer.contains(&format!("{}: the TURN server refuses the credentials", named[0])), "{answer}");
}

#[test]
fn a_relay_that_comes_late_is_trickled_and_one_that_comes_back_is_used_again() {
    let Some(mut coturn) = Coturn::with_user("127.0.0.1") else { return };
    coturn.kill();
    let mut room = Room::new();
    let heard = listen(&mut room);
    let config = || relay_only(&coturn, vec![coturn.server(RelayProtocol::Tcp)]);
    let configs = [config(), config()];
    let [first, second] = configs;
    let (a, b) = (room.join("a", first), room.join("b", second));
    room.run_until("both are told", |m| m.iter().all(|m| !errors(m).is_empty()));
    assert_eq!(told(&heard.lock().unwrap(), a), [""; 0]);
    coturn.start_again();
    room.connect_all();
    exchange(&mut room, a, b);
    // The server loses everything: the call goes on through new relays, with its channel.
    coturn.kill();
    coturn.start_again();
    let before = room.members[b].events.len();
    exchange(&mut room, a, b);
    let closed = |e: &Event| matches!(e, Event::PeerLeft { .. } | Event::PeerJoined(_));
    assert!(!room.members[b].events[before..].iter().any(closed));
}

#[test]
fn servers_are_asked_for_and_credentials_that_expire_are_replaced() {
    let secret = ["--use-auth-secret", "--static-auth-secret", "north"];
    let Some(coturn) = Coturn::start("127.0.0.1", &secret) else { return };
    let server = |username: &str, credential: &str| TurnServer {
        username: username.into(),
        credential: credential.into(),
        ..coturn.server(RelayProtocol::Udp)
    };
    let asking = || Config { asks_turn_servers: true, ..relay_only(&coturn, Vec::new()) };
    let mut room = Room::new();
    let (a, b) = (room.join("a", asking()), room.join("b", asking()));
    let asked = |m: &Member| m.events.iter().filter(|e| matches!(e, Event::TurnServersNeeded)).count();
    room.run_until("both ask", |m| m.iter().all(|m| asked(m) == 1));
    // HMAC-SHA1 of the user name with the secret; the first one's time is long over.
    room.members[a].transport.set_turn_servers(vec![server("1000000000:a", "x")]).unwrap();
    let good = server("2000000000:peer", &rest_credential("north", "2000000000:peer"));
    room.members[b].transport.set_turn_servers(vec![good.clone()]).unwrap();
    room.run_until("a asks again", |m| asked(&m[a]) >= 2);
    room.members[a].transport.set_turn_servers(vec![good]).unwrap();
    room.connect_all();
    exchange(&mut room, a, b);
    assert_eq!(errors(&room.members[b]), [""; 0]);
}

fn rest_credential(secret: &str, username: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    // The only place that needs HMAC-SHA1 and Base64.
    let mut child = Command::new("sh")
        .args(["-c", &format!("openssl dgst -sha1 -hmac {secret} -binary | openssl base64")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(username.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

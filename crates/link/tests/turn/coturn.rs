//! A real TURN server for a test, and clients on real sockets: a thin driver of `TurnClient`.

use remotemedia_link::turn::{Family, StreamDeframer, TurnClient, TurnConfig, TurnEvent};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Of [`Coturn::config`].
pub const USER: &[&str] = &["--lt-cred-mech", "--user", "alice:secret"];

static NEXT: AtomicU16 = AtomicU16::new(0);

/// coturn on a loopback address with a port of its own; it ends with this.
pub struct Coturn {
    child: Child,
    pub server: SocketAddr,
    directory: PathBuf,
}

impl Coturn {
    /// `None`, loudly, where there is no `turnserver` to start, or no such address to listen on.
    pub fn start(ip: IpAddr, extra: &[&str]) -> Option<Self> {
        let Ok(reserved) = TcpListener::bind((ip, 0)) else {
            eprintln!("\nSKIPPED: there is no {ip} here\n");
            return None;
        };
        let server = reserved.local_addr().expect("an address");
        drop(reserved);
        Self::start_at(server, extra)
    }

    pub fn start_at(server: SocketAddr, extra: &[&str]) -> Option<Self> {
        if Command::new("turnserver").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("\nSKIPPED: there is no turnserver (apt-get install coturn)\n");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rm-coturn-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let file = |name: &str| directory.join(name).display().to_string();
        let child = Command::new("turnserver")
            .args(["-n", "--listening-ip", &server.ip().to_string(), "--relay-ip", &server.ip().to_string()])
            .args(["--listening-port", &server.port().to_string(), "--realm", "relay.test"])
            .args([
                "--no-tls",
                "--no-dtls",
                "--no-cli",
                "--no-rfc5780",
                "--allow-loopback-peers",
                "--simple-log",
            ])
            .args(["--userdb", &file("db"), "--pidfile", &file("pid"), "--log-file", &file("log")])
            .args(extra)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("coturn starts");
        let coturn = Self { child, server, directory };
        let limit = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(server).is_err() {
            assert!(Instant::now() < limit, "coturn doesn't listen:\n{}", coturn.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(coturn)
    }

    /// With the user of [`Self::config`].
    pub fn with_user(ip: IpAddr, extra: &[&str]) -> Option<Self> {
        Self::start(ip, &[USER, extra].concat())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub fn config(&self, stream: bool) -> TurnConfig {
        let family = Family::of(self.server.ip());
        let (username, credential) = ("alice".into(), "secret".into());
        TurnConfig { server: self.server, username, credential, family, stream }
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

pub fn v4() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}

/// A socket as the transport makes them: it never blocks, and 4 MiB wait in it if the system lets them.
pub fn udp(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a socket");
    socket.set_nonblocking(true).expect("never blocks");
    let buffers = socket2::SockRef::from(&socket);
    buffers.set_recv_buffer_size(4 << 20).expect("a size");
    buffers.set_send_buffer_size(4 << 20).expect("a size");
    socket
}

enum Wire {
    Udp(UdpSocket),
    /// The stream, what came of it, and what it didn't take yet.
    Tcp(TcpStream, StreamDeframer, Vec<u8>),
}

/// A client on its socket, which never blocks.
pub struct Node {
    wire: Wire,
    pub client: TurnClient,
    pub got: VecDeque<(SocketAddr, Vec<u8>)>,
    pub events: Vec<TurnEvent>,
    buffer: Vec<u8>,
}

impl Node {
    pub fn new(config: TurnConfig) -> Self {
        let wire = if config.stream {
            let stream = TcpStream::connect(config.server).expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            stream.set_nonblocking(true).expect("never blocks");
            Wire::Tcp(stream, StreamDeframer::new(), Vec::new())
        } else {
            let socket = udp(config.server.ip());
            socket.connect(config.server).expect("a server");
            Wire::Udp(socket)
        };
        let client = TurnClient::new(Instant::now(), config);
        let mut node =
            Self { wire, client, got: VecDeque::new(), events: Vec::new(), buffer: vec![0; 65_536] };
        node.flush();
        node
    }

    /// With its allocation.
    pub fn allocated(config: TurnConfig) -> Self {
        let mut node = Self::new(config);
        assert!(node.run_until(|n| n.client.relayed().is_some()), "{:?}", node.events);
        node
    }

    pub fn local(&self) -> SocketAddr {
        match &self.wire {
            Wire::Udp(socket) => socket.local_addr(),
            Wire::Tcp(stream, ..) => stream.local_addr(),
        }
        .expect("an address")
    }

    pub fn relayed(&self) -> SocketAddr {
        self.client.relayed().expect("an allocation")
    }

    pub fn send(&mut self, to: SocketAddr, data: &[u8]) -> bool {
        let sent = self.client.send(Instant::now(), to, data);
        self.flush();
        sent
    }

    /// What is to be sent and told.
    pub fn flush(&mut self) {
        while let Some(bytes) = self.client.poll_transmit() {
            match &mut self.wire {
                // A socket that is full or refused loses it, as networks do.
                Wire::Udp(socket) => drop(socket.send(&bytes)),
                Wire::Tcp(_, _, rest) => rest.extend_from_slice(&bytes),
            }
        }
        if let Wire::Tcp(stream, _, rest) = &mut self.wire {
            while !rest.is_empty() {
                match stream.write(rest) {
                    Ok(written) => drop(rest.drain(..written)),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => panic!("{e}"),
                }
            }
        }
        while let Some(event) = self.client.poll_event() {
            match event {
                TurnEvent::Data { from, data } => self.got.push_back((from, data.to_vec())),
                event => self.events.push(event),
            }
        }
    }

    /// Handles what came, and times. True if something came.
    pub fn pump(&mut self) -> bool {
        let mut came = false;
        // A bounded batch, so that the other one gets its turn.
        for _ in 0..64 {
            let read = match &mut self.wire {
                Wire::Udp(socket) => socket.recv(&mut self.buffer),
                Wire::Tcp(stream, ..) => stream.read(&mut self.buffer),
            };
            let now = Instant::now();
            match (read, &mut self.wire) {
                (Ok(length), Wire::Udp(_)) => drop(self.client.handle_data(now, &self.buffer[..length])),
                (Ok(length), Wire::Tcp(_, deframer, _)) => {
                    assert!(length > 0, "the server ended the stream");
                    deframer.push(&self.buffer[..length]).expect("room");
                    while let Some(message) = deframer.pop().expect("well-formed") {
                        self.client.handle_data(now, &message);
                    }
                }
                (Err(e), _) if e.kind() == ErrorKind::WouldBlock => break,
                // The ICMP of a server that isn't there.
                (Err(e), _) if e.kind() == ErrorKind::ConnectionRefused => break,
                (Err(e), _) => panic!("{e}"),
            }
            came = true;
            self.flush();
        }
        let now = Instant::now();
        if self.client.poll_timeout().is_some_and(|at| at <= now) {
            self.client.handle_timeout(now);
        }
        self.flush();
        came
    }

    /// False after half a minute.
    pub fn run_until(&mut self, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let limit = Instant::now() + Duration::from_secs(30);
        while Instant::now() < limit {
            if holds(self) {
                return true;
            }
            if !self.pump() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        holds(self)
    }
}

/// Runs both until this holds; false after a minute.
pub fn run_both(a: &mut Node, b: &mut Node, mut holds: impl FnMut(&mut Node, &mut Node) -> bool) -> bool {
    let limit = Instant::now() + Duration::from_secs(60);
    while Instant::now() < limit {
        if holds(a, b) {
            return true;
        }
        if !(a.pump() | b.pump()) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    holds(a, b)
}

/// Lets each through to the other and binds channels both ways.
pub fn introduce(a: &mut Node, b: &mut Node) {
    let (at_a, at_b) = (a.relayed(), b.relayed());
    let mut next = Instant::now();
    let bound = run_both(a, b, |a, b| {
        if Instant::now() >= next {
            next = Instant::now() + Duration::from_millis(20);
            a.send(at_b, b"check");
            b.send(at_a, b"check");
        }
        a.client.counters().sent_channel > 0 && b.client.counters().sent_channel > 0
    });
    assert!(bound, "channels: {:?} {:?}", a.client.counters(), b.client.counters());
    // The last of these comes after all others.
    assert!(a.send(at_b, b"last") && b.send(at_a, b"last"));
    let last = |n: &Node| n.got.back().is_some_and(|(_, d)| d == b"last");
    assert!(run_both(a, b, |a, b| last(a) && last(b)));
    a.got.clear();
    b.got.clear();
}

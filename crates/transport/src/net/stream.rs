//! A stream to a TURN server: TCP, or TLS over it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remotemedia_link::turn::StreamDeframer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{SockRef, TcpKeepalive};

use super::socket::SocketCounters;

/// What may wait for the stream. What comes on top is dropped, as a full socket drops it: late media is worth nothing.
const MAX_WAITING: usize = 256 << 10;
/// Silence after which the system sees whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Bytes read in one turn, so that other sockets have theirs.
const READ_A_TURN: usize = 256 << 10;
/// Bytes given to TLS at a time: one record (RFC 8446, section 5.1).
const RECORD: usize = 16 << 10;

pub(crate) struct Stream {
    io: mio::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
    tcp_up: bool,
    /// Until the handshake is done, and while the system takes no more.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// How much of the first message that waits is written.
    written: usize,
    deframer: StreamDeframer,
    pub(crate) counters: SocketCounters,
}

/// What trust in a server's certificate rests on: the roots of the owner's choice.
pub(crate) struct Trust {
    pem: Arc<str>,
    config: Option<Result<Arc<ClientConfig>, String>>,
}

impl Stream {
    /// Begins to connect; with `tls`, to that name.
    pub(crate) fn connect(
        server: SocketAddr,
        tls: Option<(Arc<ClientConfig>, &str)>,
    ) -> Result<Stream, String> {
        let tls = match tls {
            None => None,
            Some((config, host)) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
                Some(Box::new(ClientConnection::new(config, name).map_err(|e| e.to_string())?))
            }
        };
        let io = mio::net::TcpStream::connect(server).map_err(|e| e.to_string())?;
        Ok(Stream {
            io,
            tls,
            tcp_up: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            written: 0,
            deframer: StreamDeframer::new(),
            counters: SocketCounters::default(),
        })
    }

    pub(crate) fn source(&mut self) -> &mut mio::net::TcpStream {
        &mut self.io
    }

    /// Our address, once the system has chosen it.
    pub(crate) fn base(&self) -> Option<IpAddr> {
        self.io.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified())
    }

    /// Whether messages can be sent.
    pub(crate) fn is_up(&self) -> bool {
        self.tcp_up && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// The system has news of the connection, or takes more.
    pub(crate) fn on_writable(&mut self) -> Result<(), String> {
        if !self.tcp_up {
            if let Some(error) = self.io.take_error().map_err(|e| e.to_string())? {
                return Err(error.to_string());
            }
            match self.io.peer_addr() {
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::NotConnected | io::ErrorKind::WouldBlock) => {
                    return Ok(());
                }
                Err(e) => return Err(e.to_string()),
            }
            self.tcp_up = true;
            // A refusal costs a little delay, or that a NAT forgets a stream without traffic.
            let _ = self.io.set_nodelay(true);
            let _ = SockRef::from(&self.io).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        }
        self.flush()
    }

    /// Queues one message; [`Stream::flush`] sends it.
    pub(crate) fn send(&mut self, message: Bytes) {
        if self.waiting_bytes + message.len() > MAX_WAITING {
            self.counters.dropped_full += 1;
            return;
        }
        self.waiting_bytes += message.len();
        self.waiting.push_back(message);
    }

    /// Writes what waits, as far as the system takes it.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        if !self.tcp_up {
            return Ok(());
        }
        loop {
            if !self.write_tls()? {
                return Ok(());
            }
            if !self.is_up() || self.waiting.is_empty() {
                return Ok(());
            }
            let mut chunk = Vec::with_capacity(RECORD.min(self.waiting_bytes));
            for message in &self.waiting {
                let rest = &message[if chunk.is_empty() { self.written } else { 0 }..];
                if chunk.len() + rest.len() > RECORD && !chunk.is_empty() {
                    break;
                }
                chunk.extend_from_slice(rest);
            }
            let taken = match &mut self.tls {
                Some(tls) => tls.writer().write(&chunk),
                None => self.io.write(&chunk),
            };
            match taken {
                Ok(n) => self.took(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// Hands every whole message that came to `each`. Returns whether there may be more.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(Bytes)) -> Result<bool, String> {
        if !self.tcp_up {
            return Ok(false);
        }
        let mut buffer = [0u8; RECORD];
        let mut read = 0;
        while read < READ_A_TURN {
            let taken = match &mut self.tls {
                Some(tls) => read_tls(tls, &mut self.io, &mut buffer),
                None => self.io.read(&mut buffer),
            };
            match taken {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(n) => {
                    read += n;
                    self.deframer.push(&buffer[..n]).map_err(|e| e.to_string())?;
                    while let Some(message) = self.deframer.pop().map_err(|e| e.to_string())? {
                        self.counters.datagrams_received += 1;
                        each(message);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // The handshake may have something to say now.
                    self.flush()?;
                    return Ok(false);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(true)
    }

    /// False while the system takes no more of what TLS has.
    fn write_tls(&mut self) -> Result<bool, String> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.io) {
                Ok(_) => self.counters.send_calls += 1,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(true)
    }

    fn took(&mut self, bytes: usize) {
        self.waiting_bytes -= bytes;
        self.counters.send_calls += u64::from(self.tls.is_none());
        self.written += bytes;
        while let Some(first) = self.waiting.front()
            && self.written >= first.len()
        {
            self.written -= first.len();
            self.waiting.pop_front();
            self.counters.datagrams_sent += 1;
        }
    }
}

/// Plain bytes out of TLS: what is there, else what the socket has.
fn read_tls(
    tls: &mut ClientConnection,
    io: &mut mio::net::TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        if tls.read_tls(io)? == 0 {
            return Ok(0);
        }
        if let Err(error) = tls.process_new_packets() {
            // The server learns why.
            let _ = tls.write_tls(io);
            return Err(io::Error::other(format!("TLS: {error}")));
        }
        if tls.wants_write() && tls.is_handshaking() {
            match tls.write_tls(io) {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
    }
}

impl Trust {
    /// Trusts what these certificates vouch for.
    pub(crate) fn new(pem: Arc<str>) -> Trust {
        Trust { pem, config: None }
    }

    /// Read on first use: most transports need none.
    pub(crate) fn config(&mut self) -> Result<Arc<ClientConfig>, String> {
        let Trust { pem, config } = self;
        config.get_or_insert_with(|| client_config(pem)).clone()
    }
}

fn client_config(pem: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| format!("trusted certificates: {e}"))?;
        // One that TLS can't use vouches for nothing; the others still do.
        if let Err(error) = roots.add(certificate) {
            tracing::debug!(%error, "a trusted certificate is not usable");
        }
    }
    if roots.is_empty() {
        return Err("no certificate is trusted, so no server's can be".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::JoinHandle;
    use std::time::Instant;

    /// ChannelData (RFC 8656, section 12.4) that carries its number.
    fn message(n: u32, len: usize) -> Bytes {
        let mut data = vec![0x40, 1];
        data.extend((len as u16).to_be_bytes());
        data.extend((0..len).map(|i| n.to_be_bytes()[i % 4]));
        data.resize(data.len().next_multiple_of(4), 0);
        data.into()
    }

    fn number(message: &[u8]) -> u32 {
        u32::from_be_bytes(message[4..8].try_into().unwrap())
    }

    fn tls() -> (Arc<rustls::ServerConfig>, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["turn.example".into()]).unwrap().self_signed(&key).unwrap();
        let chain = vec![certificate.der().clone()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        (Arc::new(config), certificate.pem())
    }

    /// A server that first lets `pause` pass, then takes messages until the last of `count`, and sends each back.
    fn echo(
        pause: Duration,
        last: u32,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> (SocketAddr, JoinHandle<Vec<u32>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            let mut connection = tls.map(|config| rustls::ServerConnection::new(config).unwrap());
            while connection.as_ref().is_some_and(|c| c.is_handshaking()) {
                connection.as_mut().unwrap().complete_io(&mut tcp).unwrap();
            }
            std::thread::sleep(pause);
            match connection {
                Some(mut c) => take(&mut rustls::Stream::new(&mut c, &mut tcp), last),
                None => take(&mut tcp, last),
            }
        });
        (address, thread)
    }

    fn take(stream: &mut (impl Read + Write), last: u32) -> Vec<u32> {
        let (mut deframer, mut numbers, mut buffer) = (StreamDeframer::new(), Vec::new(), vec![0; 65_536]);
        while numbers.last() != Some(&last) {
            let n = stream.read(&mut buffer).unwrap();
            deframer.push(&buffer[..n]).unwrap();
            while let Some(message) = deframer.pop().unwrap() {
                numbers.push(number(&message));
                let mut back = message.to_vec();
                back.resize(back.len().next_multiple_of(4), 0);
                stream.write_all(&back).unwrap();
            }
        }
        numbers
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < limit, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_server_that_takes_nothing_costs_no_more_than_the_bound_and_messages_stay_whole() {
        let (server, pem) = tls();
        for over_tls in [false, true] {
            let config = over_tls.then(|| client_config(&pem).unwrap());
            let count = 30_000;
            let (address, thread) = echo(Duration::from_millis(500), count, over_tls.then(|| server.clone()));
            let mut stream = Stream::connect(address, config.map(|c| (c, "turn.example"))).unwrap();
            // What is sent before the stream is up waits for that.
            stream.send(message(0, 100));
            until("the stream is up", || {
                stream.on_writable().unwrap();
                stream.receive(|_| {}).unwrap();
                stream.is_up()
            });
            for n in 1..count {
                stream.send(message(n, 1200));
                stream.flush().unwrap();
                assert!(stream.waiting_bytes <= MAX_WAITING);
            }
            assert!(stream.counters.dropped_full > 100, "{:?}", stream.counters);
            let mut back = Vec::new();
            let mut ended = false;
            until("everything comes back", || {
                if !ended && stream.waiting.is_empty() {
                    stream.send(message(count, 8));
                    ended = true;
                }
                stream.flush().unwrap();
                // The server may close once it has sent everything.
                let _ = stream.receive(|m| back.push(number(&m)));
                back.last() == Some(&count)
            });
            let taken = thread.join().unwrap();
            assert_eq!(taken, back);
            assert!(taken.windows(2).all(|w| w[0] < w[1]), "in order, none twice");
            assert_eq!(taken.len() as u64 + stream.counters.dropped_full, u64::from(count) + 1);
            assert_eq!(stream.counters.datagrams_sent, taken.len() as u64);
        }
    }

    #[test]
    fn a_certificate_for_another_name_is_refused() {
        let (server, pem) = tls();
        let (address, _thread) = echo(Duration::ZERO, 0, Some(server));
        let config = client_config(&pem).unwrap();
        let mut stream = Stream::connect(address, Some((config, "other.example"))).unwrap();
        let mut error = None;
        until("the refusal", || {
            error = stream.on_writable().err().or_else(|| stream.receive(|_| {}).err());
            error.is_some()
        });
        let error = error.unwrap();
        assert!(
            error.starts_with("TLS: invalid peer certificate: certificate not valid for name"),
            "{error}"
        );
        assert!(client_config("").is_err(), "nobody is trusted");
        assert!(client_config("-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n").is_err());
    }
}

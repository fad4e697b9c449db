//! A stream to a TURN server: TCP, or TLS over it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use remotemedia_link::turn::StreamDeframer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::socket::SocketCounters;

/// What may wait for the stream. What comes on top is dropped, as a full socket drops it: late media is worth nothing.
const MAX_WAITING: usize = 256 << 10;
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
            // A refusal costs a little delay.
            let _ = self.io.set_nodelay(true);
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

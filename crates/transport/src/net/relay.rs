//! One relay: a TURN client and the socket or stream that it has for itself. Towards the links it is a socket, whose
//! address is the relayed one.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use remotemedia_link::RelayProtocol;
use remotemedia_link::turn::{Family, TurnClient, TurnConfig, TurnEvent};
use rustls::ClientConfig;

use super::gather::{RelayFailure, RelayId};
use super::socket::{ReceiveBuffers, Socket, SocketCounters};
use super::stream::Stream;
use crate::TurnServer;

pub(crate) struct Relay {
    pub(crate) id: RelayId,
    /// The relayed address, while there is one.
    pub(crate) relayed: Option<SocketAddr>,
    /// To be closed once no link uses it.
    pub(crate) retired: bool,
    config: TurnConfig,
    /// Over a stream, there is one once the stream is up.
    client: Option<TurnClient>,
    carrier: Carrier,
    /// At most a few: the client says these things seldom, and they are taken after every call.
    news: VecDeque<RelayNews>,
}

enum Carrier {
    Udp(Box<Socket>),
    Stream(Box<Stream>),
}

/// What a relay has to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RelayNews {
    Up(SocketAddr),
    Expired,
    Failed(RelayFailure),
}

impl Relay {
    /// Opens the socket or begins to connect. `tls` is for a server that is reached over TLS.
    pub(crate) fn open(
        now: Instant,
        id: RelayId,
        server: &TurnServer,
        address: SocketAddr,
        family: Family,
        buffer_bytes: usize,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Relay, String> {
        let config = TurnConfig {
            server: address,
            username: server.username.clone(),
            credential: server.credential.clone(),
            family,
            stream: server.protocol != RelayProtocol::Udp,
        };
        let carrier = match server.protocol {
            RelayProtocol::Udp => {
                let local = route(address).map_err(|e| e.to_string())?;
                let socket =
                    Socket::bind(SocketAddr::new(local, 0), buffer_bytes).map_err(|e| e.to_string())?;
                Carrier::Udp(Box::new(socket))
            }
            RelayProtocol::Tcp => Carrier::Stream(Box::new(Stream::connect(address, None)?)),
            RelayProtocol::Tls => {
                let tls = tls.ok_or("there is no TLS")?;
                Carrier::Stream(Box::new(Stream::connect(address, Some((tls, &server.host)))?))
            }
        };
        let client = matches!(carrier, Carrier::Udp(_)).then(|| TurnClient::new(now, config.clone()));
        Ok(Relay { id, relayed: None, retired: false, config, client, carrier, news: VecDeque::new() })
    }

    pub(crate) fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> std::io::Result<()> {
        let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
        match &mut self.carrier {
            Carrier::Udp(socket) => registry.register(socket.source(), token, interest),
            Carrier::Stream(stream) => registry.register(stream.source(), token, interest),
        }
    }

    /// Our own address towards the server, once it is known.
    pub(crate) fn base(&self) -> Option<IpAddr> {
        match &self.carrier {
            Carrier::Udp(socket) => Some(socket.local().ip()),
            Carrier::Stream(stream) => stream.base(),
        }
    }

    pub(crate) fn counters(&self) -> SocketCounters {
        match &self.carrier {
            Carrier::Udp(socket) => socket.counters,
            Carrier::Stream(stream) => stream.counters,
        }
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.client.as_ref()?.poll_timeout()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(client) = self.client.as_mut().filter(|c| c.poll_timeout().is_some_and(|at| at <= now)) {
            client.handle_timeout(now);
        }
    }

    /// Sends to a peer; [`Relay::flush`] does it.
    pub(crate) fn send(&mut self, now: Instant, to: SocketAddr, data: &[u8]) {
        if let Some(client) = &mut self.client {
            client.send(now, to, data);
        }
    }

    /// A link through this relay is silent: is the allocation still there?
    pub(crate) fn check(&mut self, now: Instant) {
        if let Some(client) = &mut self.client {
            client.check(now);
        }
    }

    pub(crate) fn set_credentials(&mut self, now: Instant, username: String, credential: String) {
        match &mut self.client {
            Some(client) => {
                client.set_credentials(now, username, credential);
            }
            None => (self.config.username, self.config.credential) = (username, credential),
        }
    }

    pub(crate) fn on_writable(&mut self, now: Instant) {
        match &mut self.carrier {
            Carrier::Udp(socket) => socket.on_writable(),
            Carrier::Stream(stream) => {
                let result = stream.on_writable();
                self.stream_moved(now, result);
            }
        }
    }

    /// Hands what came from peers to `each`. Returns whether there may be more.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        buffers: &mut ReceiveBuffers,
        mut each: impl FnMut(SocketAddr, &[u8]),
    ) -> bool {
        let Relay { client, carrier, config, news, .. } = self;
        match carrier {
            Carrier::Udp(socket) => socket.receive(buffers, |from, data| {
                // Anybody can send to the socket; only the server is listened to.
                if from == config.server
                    && let Some(client) = client
                {
                    client.handle_data(now, data);
                    take_events(client, news, &mut each);
                }
            }),
            Carrier::Stream(stream) => {
                let result = stream.receive(|message| {
                    if let Some(client) = client {
                        client.handle_data(now, &message);
                        take_events(client, news, &mut each);
                    }
                });
                let more = matches!(result, Ok(true));
                self.stream_moved(now, result.map(|_| ()));
                more
            }
        }
    }

    /// What happened besides data. To be asked after every call.
    pub(crate) fn poll_news(&mut self) -> Option<RelayNews> {
        if let Some(client) = &mut self.client {
            take_events(client, &mut self.news, &mut |_, _| {});
        }
        let news = self.news.pop_front()?;
        match &news {
            RelayNews::Up(relayed) => self.relayed = Some(*relayed),
            RelayNews::Failed(_) => (self.relayed, self.client) = (None, None),
            RelayNews::Expired => {}
        }
        Some(news)
    }

    /// Writes what the client and the carrier have.
    pub(crate) fn flush(&mut self, now: Instant) {
        let Relay { client, carrier, config, .. } = self;
        match carrier {
            Carrier::Udp(socket) => {
                while let Some(data) = client.as_mut().and_then(TurnClient::poll_transmit) {
                    socket.send(config.server, &data);
                }
                socket.flush();
            }
            Carrier::Stream(stream) => {
                while let Some(data) = client.as_mut().and_then(TurnClient::poll_transmit) {
                    stream.send(data);
                }
                let result = stream.flush();
                self.stream_moved(now, result);
            }
        }
    }

    /// Gives the allocation back, as far as one message does that, and the socket with it.
    pub(crate) fn close(mut self, now: Instant) {
        if let Some(client) = &mut self.client {
            client.close(now);
        }
        self.flush(now);
    }

    fn stream_moved(&mut self, now: Instant, result: Result<(), String>) {
        if let Err(error) = result {
            if !self.news.iter().any(|n| matches!(n, RelayNews::Failed(_))) {
                self.news.push_back(RelayNews::Failed(RelayFailure::Io(error)));
            }
        } else if self.client.is_none()
            && self.news.is_empty()
            && let Carrier::Stream(stream) = &self.carrier
            && stream.is_up()
        {
            self.client = Some(TurnClient::new(now, self.config.clone()));
            self.flush(now);
        }
    }
}

fn take_events(
    client: &mut TurnClient,
    news: &mut VecDeque<RelayNews>,
    each: &mut impl FnMut(SocketAddr, &[u8]),
) {
    while let Some(event) = client.poll_event() {
        match event {
            TurnEvent::Data { from, data } => each(from, &data),
            TurnEvent::Allocated { relayed, .. } => news.push_back(RelayNews::Up(relayed)),
            TurnEvent::Failed(error) => news.push_back(RelayNews::Failed(RelayFailure::Turn(error))),
            TurnEvent::CredentialsExpired => news.push_back(RelayNews::Expired),
            // Candidates that a server won't relay to are many: private ones, its own.
            TurnEvent::PeerRefused { peer, code } => {
                tracing::debug!(%peer, code, "the TURN server refuses a peer")
            }
            _ => {}
        }
    }
}

/// The address that the system sends from on its way to `server`. Nothing is sent for that.
fn route(server: SocketAddr) -> std::io::Result<IpAddr> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

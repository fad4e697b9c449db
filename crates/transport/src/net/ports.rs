//! Where datagrams go out and come in: sockets of this host and relays, each with its local address.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use mio::{Interest, Registry, Token};

use super::gather::RelayId;
use super::relay::{Relay, RelayNews};
use super::socket::{ReceiveBuffers, Socket, SocketCounters};

/// Names a port as long as it is there; never used twice.
pub(crate) type PortId = usize;

pub(crate) struct Ports {
    registry: Registry,
    ports: BTreeMap<PortId, Port>,
    by_local: HashMap<SocketAddr, PortId>,
    next: PortId,
}

enum Port {
    Host(Box<Socket>),
    Relay(Box<Relay>),
}

impl Ports {
    pub(crate) fn new(registry: Registry) -> Ports {
        Ports { registry, ports: BTreeMap::new(), by_local: HashMap::new(), next: 0 }
    }

    /// Opens a socket at this address of ours.
    pub(crate) fn bind(&mut self, ip: IpAddr, buffer_bytes: usize) -> io::Result<SocketAddr> {
        let mut socket = Socket::bind(SocketAddr::new(ip, 0), buffer_bytes)?;
        self.registry.register(socket.source(), Token(self.next), Interest::READABLE | Interest::WRITABLE)?;
        let local = socket.local();
        self.add(Port::Host(Box::new(socket)), Some(local));
        Ok(local)
    }

    /// Closes the socket at this address.
    pub(crate) fn unbind(&mut self, local: SocketAddr) -> Option<PortId> {
        let id = self.by_local.remove(&local)?;
        self.ports.remove(&id);
        Some(id)
    }

    pub(crate) fn add_relay(&mut self, mut relay: Relay) -> io::Result<()> {
        relay.register(&self.registry, Token(self.next))?;
        self.add(Port::Relay(Box::new(relay)), None);
        Ok(())
    }

    /// Takes a relay out.
    pub(crate) fn remove_relay(&mut self, id: RelayId) -> Option<(PortId, Relay)> {
        let port = *self.ports.iter().find(|(_, p)| matches!(p, Port::Relay(r) if r.id == id))?.0;
        self.by_local.retain(|_, p| *p != port);
        match self.ports.remove(&port)? {
            Port::Relay(relay) => Some((port, *relay)),
            Port::Host(_) => None,
        }
    }

    pub(crate) fn relay_mut(&mut self, id: RelayId) -> Option<&mut Relay> {
        self.relays_mut().find(|r| r.id == id)
    }

    pub(crate) fn relays_mut(&mut self) -> impl Iterator<Item = &mut Relay> {
        self.ports.values_mut().filter_map(|p| match p {
            Port::Relay(relay) => Some(&mut **relay),
            Port::Host(_) => None,
        })
    }

    pub(crate) fn has_hosts(&self) -> bool {
        self.ports.values().any(|p| matches!(p, Port::Host(_)))
    }

    /// What is sent from this address goes through this port.
    pub(crate) fn find(&self, local: SocketAddr) -> Option<PortId> {
        self.by_local.get(&local).copied()
    }

    /// The relay that has this relayed address.
    pub(crate) fn relay_at(&mut self, relayed: SocketAddr) -> Option<&mut Relay> {
        let port = self.by_local.get(&relayed)?;
        match self.ports.get_mut(port)? {
            Port::Relay(relay) => Some(relay),
            Port::Host(_) => None,
        }
    }

    pub(crate) fn counters(&self, local: SocketAddr) -> Option<SocketCounters> {
        Some(match self.ports.get(self.by_local.get(&local)?)? {
            Port::Host(socket) => socket.counters,
            Port::Relay(relay) => relay.counters(),
        })
    }

    /// Queues one datagram; [`Ports::flush`] sends it.
    pub(crate) fn send(&mut self, now: Instant, port: PortId, to: SocketAddr, data: &[u8]) {
        match self.ports.get_mut(&port) {
            Some(Port::Host(socket)) => socket.send(to, data),
            Some(Port::Relay(relay)) => relay.send(now, to, data),
            None => {}
        }
    }

    pub(crate) fn flush(&mut self, now: Instant) {
        for port in self.ports.values_mut() {
            match port {
                Port::Host(socket) => socket.flush(),
                Port::Relay(relay) => relay.flush(now),
            }
        }
    }

    /// The system takes more on this port.
    pub(crate) fn on_writable(&mut self, now: Instant, port: PortId) {
        match self.ports.get_mut(&port) {
            Some(Port::Host(socket)) => socket.on_writable(),
            Some(Port::Relay(relay)) => relay.on_writable(now),
            None => {}
        }
    }

    /// One round of receiving. `each` gets the local address, the sender's and the datagram. Returns whether there may be
    /// more.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        port: PortId,
        buffers: &mut ReceiveBuffers,
        mut each: impl FnMut(SocketAddr, SocketAddr, &[u8]),
    ) -> bool {
        match self.ports.get_mut(&port) {
            Some(Port::Host(socket)) => {
                let local = socket.local();
                socket.receive(buffers, |from, data| each(local, from, data))
            }
            Some(Port::Relay(relay)) => {
                let relayed = relay.relayed;
                relay.receive(now, buffers, |from, data| {
                    if let Some(local) = relayed {
                        each(local, from, data);
                    }
                })
            }
            None => false,
        }
    }

    /// When a relay has something to do; at once if it has something to say.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let relays = self.ports.values().filter_map(|p| match p {
            Port::Relay(relay) if relay.has_news() => Some(now),
            Port::Relay(relay) => relay.poll_timeout(),
            Port::Host(_) => None,
        });
        relays.min()
    }

    /// Drives the relays' timers and gives out what they have to say, with their address of ours.
    pub(crate) fn relay_news(&mut self, now: Instant, news: &mut Vec<(RelayId, Option<IpAddr>, RelayNews)>) {
        for (port, relay) in &mut self.ports {
            let Port::Relay(relay) = relay else { continue };
            relay.handle_timeout(now);
            while let Some(item) = relay.poll_news() {
                if let RelayNews::Up(relayed) = item {
                    self.by_local.retain(|_, p| p != port);
                    self.by_local.insert(relayed, *port);
                }
                news.push((relay.id, relay.base(), item));
            }
        }
    }

    /// Gives relays back and lets the last datagrams leave.
    pub(crate) fn close(self, now: Instant) {
        for port in self.ports.into_values() {
            match port {
                Port::Host(mut socket) => {
                    socket.flush();
                    socket.on_writable();
                }
                Port::Relay(relay) => relay.close(now),
            }
        }
    }

    fn add(&mut self, port: Port, local: Option<SocketAddr>) {
        self.ports.insert(self.next, port);
        if let Some(local) = local {
            self.by_local.insert(local, self.next);
        }
        self.next += 1;
    }
}

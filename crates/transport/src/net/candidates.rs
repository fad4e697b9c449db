//! Carries out what [`super::gather`] decides, and finds the addresses behind names of remote candidates.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::Token;
use remotemedia_link::{CandidateKind, LocalCandidate, RelayProtocol};
use remotemedia_mesh::{Input, LinkId};

use super::gather::{Do, RelayFailure};
use super::interfaces::Address;
use super::mdns::Answer;
use super::relay::{Relay, RelayNews};
use super::{Net, resolve};
use crate::event::Event;
use crate::{IceTransportPolicy, TransportError};

impl Net {
    /// The system says that we have these addresses now.
    pub(super) fn set_addresses(&mut self, now: Instant, addresses: Vec<Address>) {
        tracing::debug!(?addresses, "local addresses changed");
        self.gather.set_addresses(now, &addresses.iter().map(|a| a.ip).collect::<Vec<_>>());
        self.addresses = addresses;
        self.shared.events.push(Event::AddressesChanged);
        self.drive_gather(now);
    }

    /// A link restarts ICE: is what is known of our addresses still true?
    pub(super) fn look_again(&mut self, now: Instant) {
        for relay in self.ports.relays_mut() {
            relay.check(now);
        }
        self.gather.refresh(now);
        self.drive_gather(now);
    }

    /// Lets relays and gathering talk until neither has anything left to say.
    pub(super) fn drive_gather(&mut self, now: Instant) {
        if self.gather.poll_timeout().is_some_and(|at| at <= now) {
            self.gather.handle_timeout(now);
        }
        let mut news = Vec::new();
        loop {
            self.ports.relay_news(now, &mut news);
            for (id, base, item) in news.drain(..) {
                if let Some(base) = base {
                    self.gather.relay_opened(id, base);
                }
                match item {
                    RelayNews::Up(relayed) => self.gather.relay_up(now, id, relayed),
                    RelayNews::Expired => self.gather.relay_expired(now, id),
                    RelayNews::Failed(failure) => {
                        self.ports.remove_relay(id);
                        self.gather.relay_failed(now, id, &failure);
                    }
                }
            }
            let mut any = false;
            while let Some(action) = self.gather.poll() {
                any = true;
                self.carry_out(now, action);
            }
            if !any {
                break;
            }
        }
        self.close_retired(now);
    }

    fn carry_out(&mut self, now: Instant, action: Do) {
        match action {
            Do::Bind(ip) => match self.ports.bind(ip, self.shared.config.socket_buffer_bytes) {
                Ok(local) => self.gather.bound(now, local),
                // An address can go away between the two calls, and one that is new may not be ready yet.
                Err(error) => {
                    tracing::debug!(%ip, %error, "an address can't be bound");
                    self.gather.bind_failed(now, ip);
                }
            },
            Do::Unbind(local) => {
                if let Some(port) = self.ports.unbind(local) {
                    self.demux.remove_socket(port);
                }
            }
            Do::Send { from, to, data } => {
                if let Some(port) = self.ports.find(from) {
                    self.ports.send(now, port, to, &data);
                }
            }
            Do::Resolve(host) => resolve::start(&self.shared, host),
            Do::OpenRelay { id, server, address, family } => {
                let tls = match server.protocol {
                    RelayProtocol::Tls => self.trust.config().map(Some),
                    _ => Ok(None),
                };
                let buffer = self.shared.config.socket_buffer_bytes;
                let opened = tls
                    .and_then(|tls| Relay::open(now, id, &server, address, family, buffer, tls))
                    .and_then(|relay| {
                        let base = relay.base();
                        self.ports.add_relay(relay).map_err(|e| e.to_string())?;
                        Ok(base)
                    });
                match opened {
                    Ok(Some(base)) => self.gather.relay_opened(id, base),
                    Ok(None) => {}
                    Err(error) => self.gather.relay_failed(now, id, &RelayFailure::Io(error)),
                }
            }
            Do::SetCredentials { id, username, credential } => {
                if let Some(relay) = self.ports.relay_mut(id) {
                    relay.set_credentials(now, username, credential);
                }
            }
            Do::CloseRelay(id) => {
                if let Some((port, relay)) = self.ports.remove_relay(id) {
                    self.demux.remove_socket(port);
                    relay.close(now);
                }
            }
            Do::RetireRelay(id) => {
                if let Some(relay) = self.ports.relay_mut(id) {
                    relay.retired = true;
                }
            }
            Do::Add(candidate) => self.add_candidate(now, candidate),
            Do::Remove(candidate) => self.remove_candidate(now, candidate),
            Do::NeedServers => self.shared.events.push(Event::TurnServersNeeded),
            Do::Error { server, message } => {
                let error = TransportError::IceServer { server, message };
                self.shared.events.push(Event::Error { peer: None, error });
            }
            Do::Complete => {
                for link in self.links.keys().copied().collect::<Vec<_>>() {
                    self.tell_candidates(self.time(now), link);
                }
            }
        }
    }

    fn add_candidate(&mut self, now: Instant, candidate: LocalCandidate) {
        tracing::debug!(?candidate, "candidate found");
        self.candidates.push(candidate);
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(entry) = self.links.get_mut(&link) else { continue };
            match entry.link.add_local_candidate(candidate) {
                Ok(line) => entry.candidates.push(line),
                Err(error) => tracing::debug!(%error, "local candidate refused"),
            }
            self.dirty.insert(link);
            self.tell_candidates(self.time(now), link);
        }
    }

    fn remove_candidate(&mut self, now: Instant, candidate: LocalCandidate) {
        tracing::debug!(?candidate, "candidate gone");
        self.candidates.retain(|c| *c != candidate);
        let time = self.time(now);
        for (link, entry) in &mut self.links {
            let was_there = entry.link.remove_local_candidate(candidate);
            // What a STUN server sees is no path of its own.
            let used = candidate.kind() != CandidateKind::ServerReflexive
                && entry.link.path().is_some_and(|path| path.local == candidate.base());
            if was_there && used {
                self.mesh.handle(time, Input::PathSuspect { link: *link });
            }
        }
    }

    fn close_retired(&mut self, now: Instant) {
        let retired: Vec<_> =
            self.ports.relays_mut().filter(|r| r.retired).map(|r| (r.id, r.relayed)).collect();
        for (id, relayed) in retired {
            let used = self.links.values().filter_map(|e| e.link.path()).any(|p| Some(p.local) == relayed);
            if !used && let Some((port, relay)) = self.ports.remove_relay(id) {
                self.demux.remove_socket(port);
                relay.close(now);
            }
        }
    }

    /// Why a peer could not be connected to, where that is for want of a relay; begins with a separator.
    pub(super) fn no_relay(&self) -> String {
        if self.shared.config.ice_transport_policy != IceTransportPolicy::Relay {
            return String::new();
        }
        match self.gather.why_no_relay() {
            Some(why) => format!("; iceTransportPolicy is 'relay' and there is no relay: {why}"),
            None => String::new(),
        }
    }

    // Names

    /// A link wants the address of a peer's `.local` name.
    pub(super) fn resolve_name(&mut self, now: Instant, link: LinkId, name: String) {
        // A relay gets nowhere with an address of somebody's local network, and asking tells that network of us.
        let ask = self.shared.config.ice_transport_policy == IceTransportPolicy::All;
        if !ask || !self.mdns.queries.ask(now, &name) {
            self.name_resolved(link, &name, None);
            return;
        }
        self.named.entry(name).or_default().insert(link);
        self.drive_names(now);
    }

    pub(super) fn drive_names(&mut self, now: Instant) {
        let mut answers = Vec::new();
        self.mdns.drive(now, self.poll.registry(), &self.addresses, &mut answers);
        self.answer_names(answers);
    }

    pub(super) fn receive_names(&mut self, now: Instant, token: Token) {
        let mut answers = Vec::new();
        self.mdns.receive(token, &mut answers);
        self.answer_names(answers);
        self.drive_names(now);
    }

    /// A link is gone, and asks for nothing any more.
    pub(super) fn forget_names(&mut self, link: LinkId) {
        let mut forgotten = 0;
        self.named.retain(|_, links| {
            forgotten += u64::from(links.remove(&link));
            !links.is_empty()
        });
        self.shared.counters.names_unresolved.fetch_add(forgotten, Ordering::Relaxed);
    }

    fn answer_names(&mut self, answers: Vec<Answer>) {
        for (name, ip) in answers {
            for link in self.named.remove(&name).unwrap_or_default() {
                self.name_resolved(link, &name, ip);
            }
        }
    }

    fn name_resolved(&mut self, link: LinkId, name: &str, ip: Option<IpAddr>) {
        let counters = &self.shared.counters;
        let counter = if ip.is_some() { &counters.names_resolved } else { &counters.names_unresolved };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.links.get_mut(&link) {
            entry.link.resolve_candidate(name, ip);
            self.dirty.insert(link);
        }
    }
}

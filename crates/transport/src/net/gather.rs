//! Which candidates there are: addresses of this host, what STUN servers see of them, and relays. A pure state machine:
//! what happens goes in with its time, what to do comes out of [`Gather::poll`].

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use remotemedia_link::LocalCandidate;
use remotemedia_link::turn::{Family, StunClient, StunEvent};

use super::relays::Relays;
pub(crate) use super::relays::{RelayFailure, RelayId};
use crate::{IceTransportPolicy, StunServer, TurnServer};

/// Gathering is taken for complete after this, whatever is still to come.
const COMPLETE_AFTER: Duration = Duration::from_secs(8);
/// How often a mapped address is asked for again: the binding in a NAT lives on, and a new one is noticed (RFC 8445, appendix B.3).
const STUN_EVERY: Duration = Duration::from_secs(15);
/// Servers are not asked more often than this, however many links restart ICE.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// First and longest wait before something that failed is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// Failures told of; each is told once until what failed works again.
const MAX_REPORTED: usize = 64;

/// Something to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Do {
    /// Open a socket here: [`Gather::bound`] or [`Gather::bind_failed`].
    Bind(IpAddr),
    /// Close this socket.
    Unbind(SocketAddr),
    /// Send this to a STUN server.
    Send { from: SocketAddr, to: SocketAddr, data: Bytes },
    /// Look a name up: [`Gather::resolved`].
    Resolve(Arc<str>),
    /// Get a relay: [`Gather::relay_opened`], then [`Gather::relay_up`] or [`Gather::relay_failed`].
    OpenRelay { id: RelayId, server: TurnServer, address: SocketAddr, family: Family },
    /// Other credentials for a relay.
    SetCredentials { id: RelayId, username: String, credential: String },
    /// Give a relay back.
    CloseRelay(RelayId),
    /// Give a relay back as soon as no link uses it.
    RetireRelay(RelayId),
    /// A candidate was found.
    Add(LocalCandidate),
    /// A candidate is gone.
    Remove(LocalCandidate),
    /// The owner is to give fresh TURN servers: [`Gather::set_turn_servers`].
    NeedServers,
    /// A server fails: tell the owner.
    Error { server: String, message: String },
    /// There are no more candidates for now.
    Complete,
}

#[derive(Debug)]
pub(crate) struct Gather {
    policy: IceTransportPolicy,
    stun: Vec<StunServer>,
    names: BTreeMap<Arc<str>, Name>,
    wanted: BTreeSet<IpAddr>,
    hosts: BTreeMap<SocketAddr, Vec<Probe>>,
    /// Addresses whose socket is being opened, and those that wait for another try.
    binding: BTreeSet<IpAddr>,
    unbound: BTreeMap<IpAddr, Instant>,
    relays: Relays,
    /// The owner gives the TURN servers and hasn't yet.
    awaits_servers: bool,
    /// The addresses were given for the first time.
    begun: bool,
    complete: bool,
    deadline: Instant,
    refreshed: Option<Instant>,
    reported: HashSet<(String, String)>,
    out: VecDeque<Do>,
}

/// A server's name and what it stands for.
#[derive(Debug)]
struct Name {
    addresses: Vec<IpAddr>,
    retry_at: Option<Instant>,
    failures: u32,
    looking: bool,
}

/// One socket at one STUN server.
#[derive(Debug)]
struct Probe {
    server: usize,
    address: SocketAddr,
    client: Option<StunClient>,
    mapped: Option<SocketAddr>,
    next: Option<Instant>,
    failures: u32,
    /// Its first outcome is known.
    tried: bool,
}

impl Gather {
    /// `asks`: the TURN servers come from the owner, now and whenever credentials are refused.
    pub(crate) fn new(
        now: Instant,
        policy: IceTransportPolicy,
        stun: Vec<StunServer>,
        turn: Vec<TurnServer>,
        asks: bool,
        seed: u64,
    ) -> Gather {
        let mut gather = Gather {
            policy,
            stun: if policy == IceTransportPolicy::Relay { Vec::new() } else { stun },
            names: BTreeMap::new(),
            wanted: BTreeSet::new(),
            hosts: BTreeMap::new(),
            binding: BTreeSet::new(),
            unbound: BTreeMap::new(),
            relays: Relays::new(asks, seed),
            awaits_servers: asks,
            begun: false,
            complete: false,
            deadline: now + COMPLETE_AFTER,
            refreshed: None,
            reported: HashSet::new(),
            out: VecDeque::new(),
        };
        for server in gather.stun.clone() {
            gather.look_up(now, &server.host);
        }
        if asks {
            gather.out.push_back(Do::NeedServers);
        } else {
            gather.set_turn_servers(now, turn);
        }
        gather
    }

    /// What to do next.
    pub(crate) fn poll(&mut self) -> Option<Do> {
        self.out.pop_front()
    }

    /// All that was to be found was found, or took too long.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// When [`Gather::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let names = self.names.values().filter_map(|n| n.retry_at);
        let probes = self.hosts.values().flatten().filter_map(|p| match &p.client {
            Some(client) => client.poll_timeout(),
            None => p.next,
        });
        let deadline = (self.begun && !self.complete).then_some(self.deadline);
        let binds = self.unbound.values().copied();
        names.chain(probes).chain(binds).chain(deadline).chain(self.relays.poll_timeout()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<Arc<str>> =
            self.names.iter().filter(|(_, n)| is_due(n.retry_at, now)).map(|(k, _)| k.clone()).collect();
        for name in due {
            self.look_up(now, &name);
        }
        let due: Vec<IpAddr> = self.unbound.iter().filter(|(_, at)| **at <= now).map(|(ip, _)| *ip).collect();
        for ip in due {
            self.unbound.remove(&ip);
            self.bind(ip);
        }
        for base in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.drive_probes(now, base, |probe| match &mut probe.client {
                Some(client) if is_due(client.poll_timeout(), now) => client.handle_timeout(now),
                None if is_due(probe.next, now) => {
                    probe.client = Some(StunClient::new(now, probe.address));
                    probe.next = None;
                }
                _ => {}
            });
        }
        self.relays.handle_timeout(now);
        self.settle(now);
    }

    /// A link restarts ICE, so a NAT may have forgotten us: what do STUN servers see now?
    pub(crate) fn refresh(&mut self, now: Instant) {
        if self.refreshed.is_some_and(|at| now.saturating_duration_since(at) < REFRESH_EVERY) {
            return;
        }
        self.refreshed = Some(now);
        let mut any = false;
        for base in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.drive_probes(now, base, |probe| {
                // One that nobody answered on this socket waits for its turn.
                if probe.client.is_none() && probe.mapped.is_some() {
                    probe.client = Some(StunClient::new(now, probe.address));
                    (probe.next, probe.tried) = (None, false);
                    any = true;
                }
            });
        }
        if any {
            self.begin(now);
        }
        self.settle(now);
    }

    // Addresses of this host

    /// The addresses that this host has now.
    pub(crate) fn set_addresses(&mut self, now: Instant, addresses: &[IpAddr]) {
        let before = std::mem::replace(&mut self.wanted, addresses.iter().copied().collect());
        if self.policy == IceTransportPolicy::All {
            self.unbound.retain(|ip, _| self.wanted.contains(ip));
            for base in self
                .hosts
                .keys()
                .copied()
                .filter(|base| !self.wanted.contains(&base.ip()))
                .collect::<Vec<_>>()
            {
                self.remove_host(base);
            }
            for ip in self.wanted.difference(&before).copied().collect::<Vec<_>>() {
                self.bind(ip);
            }
        }
        let more = self.wanted.difference(&before).next().is_some();
        let gone = before.difference(&self.wanted).copied().collect();
        self.relays.addresses_changed(now, &gone, more);
        if more {
            self.begin(now);
        }
        self.begun = true;
        self.settle(now);
    }

    fn bind(&mut self, ip: IpAddr) {
        self.binding.insert(ip);
        self.out.push_back(Do::Bind(ip));
    }

    /// There is a socket at this address now.
    pub(crate) fn bound(&mut self, now: Instant, base: SocketAddr) {
        self.binding.remove(&base.ip());
        self.hosts.insert(base, Vec::new());
        self.out.push_back(Do::Add(LocalCandidate::Host(base)));
        for server in 0..self.stun.len() {
            self.probe(now, base, server);
        }
        self.settle(now);
    }

    /// This address can't be had, as while IPv6 looks whether somebody else has it (RFC 4862, section 5.4).
    pub(crate) fn bind_failed(&mut self, now: Instant, ip: IpAddr) {
        self.binding.remove(&ip);
        self.unbound.insert(ip, now + RETRY_FIRST);
        self.settle(now);
    }

    fn remove_host(&mut self, base: SocketAddr) {
        for mapped in self.mapped(base) {
            self.out.push_back(Do::Remove(LocalCandidate::ServerReflexive { mapped, base }));
        }
        self.hosts.remove(&base);
        self.out.push_back(Do::Remove(LocalCandidate::Host(base)));
        self.out.push_back(Do::Unbind(base));
    }

    // Names

    /// The answer to [`Do::Resolve`].
    pub(crate) fn resolved(&mut self, now: Instant, host: &str, result: Result<Vec<IpAddr>, String>) {
        let Some(name) = self.names.get_mut(host) else { return };
        name.looking = false;
        match result {
            Ok(addresses) => {
                (name.addresses, name.failures, name.retry_at) = (addresses, 0, None);
                self.relays.resolved(now, host, &name.addresses);
                for base in self.hosts.keys().copied().collect::<Vec<_>>() {
                    for server in
                        (0..self.stun.len()).filter(|i| self.stun[*i].host == host).collect::<Vec<_>>()
                    {
                        self.probe(now, base, server);
                    }
                }
            }
            Err(message) => {
                name.retry_at = Some(now + backoff(name.failures));
                name.failures += 1;
                let message = format!("the name can't be resolved: {message}");
                for server in
                    self.stun.iter().filter(|s| s.host == host).map(StunServer::to_string).collect::<Vec<_>>()
                {
                    self.report(server, message.clone());
                }
                self.relays.unresolved(host, &message);
            }
        }
        self.settle(now);
    }

    fn look_up(&mut self, now: Instant, host: &str) {
        let key: Arc<str> = host.into();
        let name = self.names.entry(key.clone()).or_insert_with(|| Name {
            addresses: Vec::new(),
            retry_at: None,
            failures: 0,
            looking: false,
        });
        if let Ok(ip) = host.parse() {
            name.addresses = vec![ip];
            self.relays.resolved(now, host, &[ip]);
        } else if !name.looking {
            (name.looking, name.retry_at) = (true, None);
            self.out.push_back(Do::Resolve(key));
        }
    }

    // STUN

    /// A datagram that may be a STUN server's answer; true if it was.
    pub(crate) fn handle_stun(
        &mut self,
        now: Instant,
        base: SocketAddr,
        from: SocketAddr,
        data: &[u8],
    ) -> bool {
        let Some(probes) = self.hosts.get(&base) else { return false };
        if !probes.iter().any(|p| p.address == from && p.client.is_some()) {
            return false;
        }
        let mut taken = false;
        self.drive_probes(now, base, |probe| {
            if let Some(client) = &mut probe.client
                && probe.address == from
                && !taken
            {
                taken = client.handle_data(now, data);
            }
        });
        self.settle(now);
        taken
    }

    fn probe(&mut self, now: Instant, base: SocketAddr, server: usize) {
        let StunServer { host, port } = &self.stun[server];
        let Some(name) = self.names.get(host.as_str()) else { return };
        let Some(ip) = name.addresses.iter().find(|ip| reaches(base.ip(), **ip)) else { return };
        let address = SocketAddr::new(*ip, *port);
        let Some(probes) = self.hosts.get_mut(&base) else { return };
        if probes.iter().any(|p| p.server == server) {
            return;
        }
        let client = Some(StunClient::new(now, address));
        probes.push(Probe { server, address, client, mapped: None, next: None, failures: 0, tried: false });
        self.drive_probes(now, base, |_| {});
    }

    /// Lets something happen to the probes of a socket, and takes what comes of it.
    fn drive_probes(&mut self, now: Instant, base: SocketAddr, mut act: impl FnMut(&mut Probe)) {
        let before = self.mapped(base);
        let Some(probes) = self.hosts.get_mut(&base) else { return };
        let mut failed = Vec::new();
        for probe in probes {
            act(probe);
            let Some(client) = &mut probe.client else { continue };
            while let Some(data) = client.poll_transmit() {
                self.out.push_back(Do::Send { from: base, to: probe.address, data });
            }
            match client.poll_event() {
                None => continue,
                Some(StunEvent::Mapped(mapped)) => {
                    (probe.mapped, probe.failures) = (Some(mapped), 0);
                    probe.next = Some(now + STUN_EVERY);
                    let server = self.stun[probe.server].to_string();
                    self.reported.retain(|(known, _)| *known != server);
                }
                Some(StunEvent::Failed(error)) => {
                    probe.mapped = None;
                    probe.next = Some(now + backoff(probe.failures + 2));
                    probe.failures += 1;
                    failed.push((probe.server, error.to_string()));
                }
            }
            (probe.client, probe.tried) = (None, true);
        }
        let after = self.mapped(base);
        for mapped in before.difference(&after) {
            self.out.push_back(Do::Remove(LocalCandidate::ServerReflexive { mapped: *mapped, base }));
        }
        for mapped in after.difference(&before) {
            self.out.push_back(Do::Add(LocalCandidate::ServerReflexive { mapped: *mapped, base }));
        }
        for (server, message) in failed {
            // An interface that doesn't lead there is no fault of the server's.
            let mut all = self.hosts.values().flatten().filter(|p| p.server == server);
            if all.all(|p| p.tried && p.mapped.is_none()) {
                self.report(self.stun[server].to_string(), message);
            }
        }
    }

    /// What STUN servers see of a socket, if that is another address than its own.
    fn mapped(&self, base: SocketAddr) -> BTreeSet<SocketAddr> {
        let probes = self.hosts.get(&base).into_iter().flatten();
        probes
            .filter_map(|p| p.mapped)
            .filter(|mapped| *mapped != base && mapped.is_ipv4() == base.is_ipv4())
            .collect()
    }

    // Relays

    /// The TURN servers from now on. Those known already keep their relays.
    pub(crate) fn set_turn_servers(&mut self, now: Instant, servers: Vec<TurnServer>) {
        self.awaits_servers = false;
        let hosts: BTreeSet<String> = servers.iter().map(|s| s.host.clone()).collect();
        let Self { names, stun, .. } = self;
        names.retain(|name, _| hosts.contains(&**name) || stun.iter().any(|s| *s.host == **name));
        if self.relays.set_servers(now, servers) {
            self.begin(now);
        }
        for host in hosts {
            match self.names.get(host.as_str()) {
                Some(name) if !name.addresses.is_empty() => {
                    let addresses = name.addresses.clone();
                    self.relays.resolved(now, &host, &addresses);
                }
                _ => self.look_up(now, &host),
            }
        }
        self.settle(now);
    }

    /// A relay's socket or stream is open, with this address of ours.
    pub(crate) fn relay_opened(&mut self, id: RelayId, base: IpAddr) {
        self.relays.opened(id, base);
    }

    /// A relay has this address.
    pub(crate) fn relay_up(&mut self, now: Instant, id: RelayId, relayed: SocketAddr) {
        if let Some(server) = self.relays.up(now, id, relayed) {
            self.reported.retain(|(known, _)| *known != server);
        }
        self.settle(now);
    }

    /// A relay is gone, or was never there.
    pub(crate) fn relay_failed(&mut self, now: Instant, id: RelayId, failure: &RelayFailure) {
        if let Some(host) = self.relays.failed(now, id, failure) {
            // The name may stand for another address by now.
            self.look_up(now, &host);
        }
        self.settle(now);
    }

    /// The server refuses the credentials of a relay.
    pub(crate) fn relay_expired(&mut self, now: Instant, id: RelayId) {
        self.relays.expired(now, id);
        self.settle(now);
    }

    /// Why there is no relay; `None` if there is one.
    pub(crate) fn why_no_relay(&self) -> Option<String> {
        if self.awaits_servers {
            return Some("no TURN servers were given yet".into());
        }
        self.relays.why_none()
    }

    // Helpers

    /// There is something new to be found.
    fn begin(&mut self, now: Instant) {
        (self.complete, self.deadline) = (false, now + COMPLETE_AFTER);
    }

    fn settle(&mut self, now: Instant) {
        self.relays.start(now);
        while let Some(action) = self.relays.poll() {
            match action {
                Do::Error { server, message } => self.report(server, message),
                action => self.out.push_back(action),
            }
        }
        if self.complete || !self.begun {
            return;
        }
        let looking = self.names.values().any(|n| n.looking && n.failures == 0);
        let probing = self.hosts.values().flatten().any(|p| !p.tried);
        let binding = !self.binding.is_empty();
        if now >= self.deadline
            || !(looking || binding || probing || self.awaits_servers || self.relays.is_pending())
        {
            self.complete = true;
            self.out.push_back(Do::Complete);
        }
    }

    fn report(&mut self, server: String, message: String) {
        if self.reported.len() < MAX_REPORTED && self.reported.insert((server.clone(), message.clone())) {
            self.out.push_back(Do::Error { server, message });
        }
    }
}

pub(super) fn is_due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

/// How long to wait after this many failures before.
pub(super) fn backoff(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(RETRY_LONGEST)
}

/// Whether a socket with this address can get to a server at that one, as far as addresses tell.
fn reaches(base: IpAddr, server: IpAddr) -> bool {
    base.is_ipv4() == server.is_ipv4() && base.is_loopback() == server.is_loopback()
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;

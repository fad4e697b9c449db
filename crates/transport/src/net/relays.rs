//! Which relays to get: one for each TURN server and family of relayed address. The pure half; `relay.rs` has the other.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use remotemedia_link::LocalCandidate;
use remotemedia_link::turn::{Family, TurnError};

use super::gather::{Do, backoff, is_due};
use crate::TurnServer;

/// How long one address of a server is tried when it has others, and when it has none.
const TRY_ADDRESS: Duration = Duration::from_secs(5);
const TRY_LAST_ADDRESS: Duration = Duration::from_secs(15);
/// Refused credentials are tried again only so often, without new ones.
const RETRY_REFUSED: Duration = Duration::from_secs(60);
/// Servers that a server may send us on to, one after another.
const MAX_HOPS: u8 = 3;
/// New ports that are tried at once when a server takes ours for somebody's.
const MAX_NEW_PORTS: u8 = 2;

/// One relay, from [`Do::OpenRelay`] until it fails or is closed. Never used twice.
pub(crate) type RelayId = u32;

/// Why there is no relay, or no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RelayFailure {
    /// The TURN client gave up.
    Turn(TurnError),
    /// The server can't be reached, or not as it should be: the system's words, or those of TLS.
    Io(String),
}

#[derive(Debug)]
pub(crate) struct Relays {
    asks: bool,
    slots: Vec<Slot>,
    next_id: RelayId,
    jitter: u64,
    out: VecDeque<Do>,
}

#[derive(Debug)]
struct Slot {
    server: TurnServer,
    family: Family,
    addresses: Vec<IpAddr>,
    /// Where in `addresses` the next try goes, counted on and on.
    turn: usize,
    /// Tries in a row that failed, over all addresses.
    rounds: u32,
    hops: u8,
    new_ports: u8,
    live: Option<Live>,
    opening: Option<Opening>,
    /// Where a server sent us on to.
    alternate: Option<SocketAddr>,
    retry_at: Option<Instant>,
    /// The server has no relays of this family.
    unsupported: bool,
    /// The credentials were refused; others help at once.
    refused: bool,
    /// A first outcome is known.
    tried: bool,
    why: String,
}

#[derive(Debug)]
struct Live {
    id: RelayId,
    relayed: SocketAddr,
    base: Option<IpAddr>,
    username: String,
    /// The server refuses its credentials from now on.
    expired: bool,
}

#[derive(Debug)]
struct Opening {
    id: RelayId,
    base: Option<IpAddr>,
    username: String,
    until: Instant,
}

impl Relays {
    pub(crate) fn new(asks: bool, seed: u64) -> Relays {
        Relays { asks, slots: Vec::new(), next_id: 0, jitter: seed | 1, out: VecDeque::new() }
    }

    pub(crate) fn poll(&mut self) -> Option<Do> {
        self.out.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let opening = self.slots.iter().filter_map(|s| Some(s.opening.as_ref()?.until));
        opening.chain(self.slots.iter().filter_map(|s| s.retry_at)).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if is_due(slot.retry_at, now) {
                slot.retry_at = None;
            }
        }
        let late: Vec<RelayId> = self
            .slots
            .iter()
            .filter_map(|s| s.opening.as_ref())
            .filter(|o| o.until <= now)
            .map(|o| o.id)
            .collect();
        for id in late {
            self.out.push_back(Do::CloseRelay(id));
            self.failed(now, id, &RelayFailure::Turn(TurnError::Timeout));
        }
    }

    /// Returns whether there is a server that wasn't known before.
    pub(crate) fn set_servers(&mut self, now: Instant, servers: Vec<TurnServer>) -> bool {
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.slots)
            .into_iter()
            .partition(|s| servers.iter().any(|n| n.is_same(&s.server)));
        for slot in gone {
            if let Some(opening) = slot.opening {
                self.out.push_back(Do::CloseRelay(opening.id));
            }
            if let Some(live) = slot.live {
                let candidate =
                    LocalCandidate::Relay { relayed: live.relayed, protocol: slot.server.protocol };
                self.out.push_back(Do::Remove(candidate));
                self.out.push_back(Do::RetireRelay(live.id));
            }
        }
        self.slots = kept;
        let mut new = false;
        for server in servers {
            if !self.slots.iter().any(|s| s.server.is_same(&server)) {
                new = true;
                self.slots.extend([Family::V4, Family::V6].map(|family| Slot::new(server.clone(), family)));
                continue;
            }
            for slot in self.slots.iter_mut().filter(|s| s.server.is_same(&server)) {
                slot.set_credentials(now, &server, &mut self.out);
            }
        }
        new
    }

    /// A name stands for these addresses.
    pub(crate) fn resolved(&mut self, _now: Instant, host: &str, addresses: &[IpAddr]) {
        for slot in self.slots.iter_mut().filter(|s| s.server.host == host) {
            slot.addresses = addresses.to_vec();
        }
    }

    /// A name stands for nothing.
    pub(crate) fn unresolved(&mut self, host: &str, why: &str) {
        for slot in self.slots.iter_mut().filter(|s| s.server.host == host && s.live.is_none()) {
            (slot.tried, slot.why) = (true, why.to_owned());
            self.out.push_back(Do::Error { server: slot.server.to_string(), message: why.to_owned() });
        }
    }

    /// Relays whose own address is gone are got anew; with another address, what failed is tried at once.
    pub(crate) fn addresses_changed(&mut self, now: Instant, gone: &BTreeSet<IpAddr>, more: bool) {
        for slot in &mut self.slots {
            let gone = |base: &Option<IpAddr>| base.is_some_and(|base| gone.contains(&base));
            if let Some(live) = slot.live.take_if(|live| gone(&live.base)) {
                let candidate =
                    LocalCandidate::Relay { relayed: live.relayed, protocol: slot.server.protocol };
                self.out.push_back(Do::Remove(candidate));
                self.out.push_back(Do::CloseRelay(live.id));
                (slot.rounds, slot.retry_at, slot.tried) = (0, Some(now), false);
                slot.why = "the address it was reached from is gone".into();
            }
            if let Some(opening) = slot.opening.take_if(|opening| gone(&opening.base)) {
                self.out.push_back(Do::CloseRelay(opening.id));
                slot.retry_at = Some(now);
            }
            if more && slot.live.is_none() && !slot.refused {
                (slot.rounds, slot.retry_at) = (0, None);
            }
        }
    }

    /// Starts what is to be started.
    pub(crate) fn start(&mut self, now: Instant) {
        for slot in &mut self.slots {
            let has = slot.live.as_ref().is_some_and(|live| !live.replaced_by(&slot.server));
            if has || slot.opening.is_some() || slot.unsupported || slot.retry_at.is_some_and(|at| at > now) {
                continue;
            }
            let address = slot.alternate.or_else(|| {
                let ip = slot.addresses.get(slot.turn % slot.addresses.len().max(1))?;
                Some(SocketAddr::new(*ip, slot.server.port))
            });
            let Some(address) = address else { continue };
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let limit = if slot.has_more_addresses() { TRY_ADDRESS } else { TRY_LAST_ADDRESS };
            slot.retry_at = None;
            slot.opening =
                Some(Opening { id, base: None, username: slot.server.username.clone(), until: now + limit });
            let (server, family) = (slot.server.clone(), slot.family);
            self.out.push_back(Do::OpenRelay { id, server, address, family });
        }
    }

    pub(crate) fn opened(&mut self, id: RelayId, base: IpAddr) {
        if let Some(opening) = self.slots.iter_mut().find_map(|s| s.opening.as_mut().filter(|o| o.id == id)) {
            opening.base = Some(base);
        }
    }

    /// Returns the server that works.
    pub(crate) fn up(&mut self, _now: Instant, id: RelayId, relayed: SocketAddr) -> Option<String> {
        let slot = self.slots.iter_mut().find(|s| s.has(id))?;
        let protocol = slot.server.protocol;
        let old = slot.live.take();
        if let Some(old) = &old {
            self.out.push_back(Do::Remove(LocalCandidate::Relay { relayed: old.relayed, protocol }));
        }
        let opening = slot.opening.take_if(|o| o.id == id);
        slot.live = match (opening, old) {
            (Some(opening), old) => {
                if let Some(old) = old {
                    self.out.push_back(Do::RetireRelay(old.id));
                }
                Some(Live { id, relayed, base: opening.base, username: opening.username, expired: false })
            }
            (None, Some(old)) => Some(Live { relayed, ..old }),
            (None, None) => None,
        };
        self.out.push_back(Do::Add(LocalCandidate::Relay { relayed, protocol }));
        (slot.tried, slot.refused, slot.rounds) = (true, false, 0);
        (slot.hops, slot.new_ports, slot.retry_at) = (0, 0, None);
        Some(slot.server.to_string())
    }

    /// Returns the name to look up again before the next try.
    pub(crate) fn failed(&mut self, now: Instant, id: RelayId, failure: &RelayFailure) -> Option<String> {
        let slot = self.slots.iter_mut().find(|s| s.has(id))?;
        slot.opening.take_if(|o| o.id == id);
        if let Some(live) = slot.live.take_if(|l| l.id == id) {
            let candidate = LocalCandidate::Relay { relayed: live.relayed, protocol: slot.server.protocol };
            self.out.push_back(Do::Remove(candidate));
        }
        let alternate = slot.alternate.take();
        match failure {
            RelayFailure::Turn(TurnError::TryAlternate { server }) if slot.hops < MAX_HOPS => {
                slot.hops += 1;
                slot.alternate = Some(*server);
                return None;
            }
            RelayFailure::Turn(TurnError::AllocationMismatch) if slot.new_ports < MAX_NEW_PORTS => {
                slot.new_ports += 1;
                slot.alternate = alternate;
                return None;
            }
            _ => {}
        }
        let message = match failure {
            RelayFailure::Turn(error) => error.to_string(),
            RelayFailure::Io(error) => error.clone(),
        };
        slot.why.clone_from(&message);
        let server = slot.server.to_string();
        let mut report = true;
        let mut look_up = None;
        match failure {
            RelayFailure::Turn(TurnError::FamilyNotSupported) => {
                (slot.unsupported, slot.tried) = (true, true);
                // That is news only if the server has none of the other family either.
                let same = slot.server.clone();
                let mut slots = self.slots.iter().filter(|s| s.server.is_same(&same));
                report = slots.all(|s| s.unsupported);
            }
            RelayFailure::Turn(TurnError::Unauthorized) => {
                (slot.refused, slot.tried) = (true, true);
                slot.retry_at = Some(now + RETRY_REFUSED);
                if self.asks {
                    self.need_servers();
                }
            }
            _ => {
                let more = slot.has_more_addresses();
                slot.turn += 1;
                (slot.hops, slot.new_ports) = (0, 0);
                if more {
                    report = false;
                } else {
                    self.jitter = self
                        .jitter
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let wait = backoff(slot.rounds);
                    // A quarter more at most, so that many clients don't come back at once.
                    let jitter = wait.mul_f64((self.jitter >> 40) as f64 / (1u64 << 24) as f64 / 4.0);
                    slot.retry_at = Some(now + wait + jitter);
                    slot.rounds += 1;
                    slot.tried = true;
                    look_up = slot.server.host.parse::<IpAddr>().is_err().then(|| slot.server.host.clone());
                }
            }
        }
        if report {
            self.out.push_back(Do::Error { server, message });
        }
        look_up
    }

    pub(crate) fn expired(&mut self, now: Instant, id: RelayId) {
        let asks = self.asks;
        let Some(slot) = self.slots.iter_mut().find(|s| s.has(id)) else { return };
        let used = match (&mut slot.live, &slot.opening) {
            (Some(live), _) if live.id == id => {
                live.expired = true;
                live.username.clone()
            }
            (_, Some(opening)) => opening.username.clone(),
            _ => return,
        };
        if used != slot.server.username {
            // There are others already, and a new allocation takes them.
            (slot.retry_at, slot.alternate) = (None, None);
            self.start(now);
        } else if asks {
            self.need_servers();
        } else {
            // The same again: the client gives up at once, and says so.
            let TurnServer { username, credential, .. } = slot.server.clone();
            self.out.push_back(Do::SetCredentials { id, username, credential });
        }
    }

    /// Something may still come of what was started.
    pub(crate) fn is_pending(&self) -> bool {
        self.slots.iter().any(|s| !s.tried)
    }

    pub(crate) fn why_none(&self) -> Option<String> {
        if self.slots.is_empty() {
            return Some("there is no TURN server".into());
        }
        if self.slots.iter().any(|s| s.live.is_some()) {
            return None;
        }
        let mut parts: Vec<String> = Vec::new();
        for slot in self.slots.iter().filter(|s| !s.unsupported) {
            let why = if slot.why.is_empty() { "no answer yet" } else { &slot.why };
            let part = format!("{}: {why}", slot.server);
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        Some(if parts.is_empty() { "no TURN server relays any address".into() } else { parts.join("; ") })
    }

    fn need_servers(&mut self) {
        if !self.out.contains(&Do::NeedServers) {
            self.out.push_back(Do::NeedServers);
        }
    }
}

impl Slot {
    fn new(server: TurnServer, family: Family) -> Slot {
        Slot {
            server,
            family,
            addresses: Vec::new(),
            turn: 0,
            rounds: 0,
            hops: 0,
            new_ports: 0,
            live: None,
            opening: None,
            alternate: None,
            retry_at: None,
            unsupported: false,
            refused: false,
            tried: false,
            why: String::new(),
        }
    }

    fn has(&self, id: RelayId) -> bool {
        self.live.as_ref().is_some_and(|l| l.id == id) || self.opening.as_ref().is_some_and(|o| o.id == id)
    }

    /// Whether the addresses after this one were not tried yet in this round.
    fn has_more_addresses(&self) -> bool {
        let count = self.addresses.len();
        count > 1 && self.turn % count != count - 1
    }

    /// The same user keeps its relay. An allocation belongs to its user (RFC 8656, section 5), so another one begins anew,
    /// when the server won't have the first any more.
    fn set_credentials(&mut self, now: Instant, new: &TurnServer, out: &mut VecDeque<Do>) {
        if (&self.server.username, &self.server.credential) == (&new.username, &new.credential)
            && !self.refused
        {
            return;
        }
        self.server = new.clone();
        let set = |id| Do::SetCredentials {
            id,
            username: new.username.clone(),
            credential: new.credential.clone(),
        };
        if let Some(live) = &mut self.live
            && live.username == new.username
        {
            live.expired = false;
            out.push_back(set(live.id));
        }
        if let Some(opening) = &mut self.opening {
            opening.username.clone_from(&new.username);
            out.push_back(set(opening.id));
        }
        if self.refused {
            (self.refused, self.retry_at) = (false, Some(now));
        }
    }
}

impl Live {
    /// The server won't have it for long, and there are other credentials.
    fn replaced_by(&self, server: &TurnServer) -> bool {
        self.expired && self.username != server.username
    }
}

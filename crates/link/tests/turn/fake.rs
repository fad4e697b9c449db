//! A TURN server of the test's own (RFC 8656), under virtual time. It keeps the rules that a client could break, and notes
//! each breach. Its codec is written here, so that client and server can't agree on a mistake.

use rtc::crypto::{HashAlgorithm, HmacAlgorithm};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

pub const ALLOCATE: u16 = 3;
pub const REFRESH: u16 = 4;
pub const SEND: u16 = 6;
pub const DATA_INDICATION: u16 = 7;
pub const CREATE_PERMISSION: u16 = 8;
pub const CHANNEL_BIND: u16 = 9;

pub const USERNAME: u16 = 0x06;
pub const INTEGRITY: u16 = 0x08;
pub const ERROR_CODE: u16 = 0x09;
pub const CHANNEL_NUMBER: u16 = 0x0c;
pub const LIFETIME: u16 = 0x0d;
pub const PEER_ADDRESS: u16 = 0x12;
pub const DATA: u16 = 0x13;
pub const REALM: u16 = 0x14;
pub const NONCE: u16 = 0x15;
pub const RELAYED_ADDRESS: u16 = 0x16;
pub const REQUESTED_FAMILY: u16 = 0x17;
pub const REQUESTED_TRANSPORT: u16 = 0x19;
pub const MAPPED_ADDRESS: u16 = 0x20;
pub const ALTERNATE_SERVER: u16 = 0x8023;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const PERMISSION: Duration = Duration::from_secs(300);
const CHANNEL: Duration = Duration::from_secs(600);
const REST: Duration = Duration::from_secs(300);

/// A STUN message taken apart, or to be put together.
#[derive(Debug, Clone)]
pub struct Stun {
    pub method: u16,
    /// 0 request, 1 indication, 2 success, 3 error.
    pub class: u16,
    pub id: [u8; 12],
    pub attributes: Vec<(u16, Vec<u8>)>,
}

impl Stun {
    pub fn parse(data: &[u8]) -> Option<Self> {
        let head = data.first_chunk::<20>()?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if kind >> 14 != 0 || head[4..8] != COOKIE || data.len() != 20 + length || length % 4 != 0 {
            return None;
        }
        let method = (kind & 0xf) | (kind >> 1 & 0x70) | (kind >> 2 & 0xf80);
        let class = (kind >> 4 & 1) | (kind >> 7 & 2);
        let mut attributes = Vec::new();
        let mut rest = &data[20..];
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            attributes.push((u16::from_be_bytes([head[0], head[1]]), tail.get(..length)?.to_vec()));
            rest = tail.get(length.next_multiple_of(4)..)?;
        }
        Some(Self { method, class, id: head[8..].try_into().ok()?, attributes })
    }

    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(k, _)| *k == kind).map(|(_, v)| &v[..])
    }

    pub fn text(&self, kind: u16) -> String {
        String::from_utf8_lossy(self.get(kind).unwrap_or_default()).into_owned()
    }

    /// The bytes, with MESSAGE-INTEGRITY if there is a key.
    pub fn encode(&self, key: Option<&[u8]>) -> Vec<u8> {
        let kind = (self.method & 0xf)
            | (self.method & 0x70) << 1
            | (self.method & 0xf80) << 2
            | (self.class & 1) << 4
            | (self.class & 2) << 7;
        let mut out = [&kind.to_be_bytes()[..], &[0, 0], &COOKIE, &self.id].concat();
        for (kind, value) in &self.attributes {
            put(&mut out, *kind, value);
        }
        if let Some(key) = key {
            set_length(&mut out, 24);
            let mac = hmac(key, &out);
            put(&mut out, INTEGRITY, &mac);
        }
        set_length(&mut out, 0);
        out
    }
}

fn set_length(out: &mut [u8], more: usize) {
    let length = (out.len() - 20 + more) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 20] {
    let provider = rtc::crypto::default_provider().expect("cryptography");
    let mut out = [0; 20];
    let mut mac = provider.crypto().new_hmac(HmacAlgorithm::Sha1, key).expect("HMAC-SHA1");
    mac.sign(&[data], &mut out).expect("a tag");
    out
}

pub fn key(username: &str, realm: &str, password: &str) -> Vec<u8> {
    let provider = rtc::crypto::default_provider().expect("cryptography");
    let text = format!("{username}:{realm}:{password}");
    provider.crypto().hash(HashAlgorithm::Md5, text.as_bytes()).expect("MD5")
}

fn integrity_holds(data: &[u8], key: &[u8]) -> bool {
    // Always the last attribute of our client's messages.
    let Some((covered, tail)) = data.split_last_chunk::<24>() else { return false };
    tail[..4] == [0, 8, 0, 20] && hmac(key, covered) == tail[4..]
}

/// An address as XOR-…-ADDRESS has it, and back.
pub fn xored(address: SocketAddr, id: &[u8; 12]) -> Vec<u8> {
    let (family, mut ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    ip.iter_mut().zip(COOKIE.iter().chain(id)).for_each(|(a, b)| *a ^= b);
    let [high, low] = (address.port() ^ 0x2112).to_be_bytes();
    [&[0, family, high, low][..], &ip].concat()
}

pub fn unxored(value: &[u8], id: &[u8; 12]) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let ip: Vec<u8> = ip.iter().zip(COOKIE.iter().chain(id)).map(|(a, b)| a ^ b).collect();
    let ip: IpAddr = match head[1] {
        1 => <[u8; 4]>::try_from(ip).ok()?.into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([head[2], head[3]]) ^ 0x2112))
}

pub fn channel_data(number: u16, payload: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

/// How the next request of a method is answered.
#[derive(Debug, Clone)]
pub enum Whim {
    Stale,
    /// An error code, with integrity or without.
    Error(u16, bool),
    /// Carried out, but the answer's integrity is wrong; the right answer follows the retransmission.
    WrongIntegrity,
    /// Carried out, but answered without integrity first.
    NoIntegrity,
}

struct Allocation {
    relayed: SocketAddr,
    username: String,
    expires: Instant,
    permissions: HashMap<IpAddr, Instant>,
    channels: HashMap<u16, (SocketAddr, Instant)>,
}

pub struct Server {
    pub realm: String,
    pub users: HashMap<String, String>,
    pub lifetime: u32,
    /// How long a nonce is good.
    pub nonce_lifetime: Duration,
    pub relay: IpAddr,
    /// Peers that are answered 403.
    pub forbidden: Vec<IpAddr>,
    /// Every allocation is lost as soon as it is made.
    pub forgetful: bool,
    whims: Vec<(u16, Whim)>,
    nonce: u32,
    nonce_since: Instant,
    next_port: u16,
    allocations: HashMap<SocketAddr, Allocation>,
    /// Answers, for retransmitted requests.
    answered: HashMap<[u8; 12], (Instant, Vec<u8>)>,
    /// What came out at the relay: from, to, payload.
    pub relayed: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Requests: when, which, whether signed.
    pub requests: Vec<(Instant, Stun)>,
    pub channel_data: u64,
    pub indications: u64,
    pub keepalives: u64,
    /// Data without a permission: a client that waits never causes it.
    pub unpermitted: u64,
    pub stale_answers: u64,
    /// What no client may do.
    pub breaches: Vec<String>,
}

impl Server {
    pub fn new(now: Instant) -> Self {
        Self {
            realm: "relay.test".into(),
            users: HashMap::from([("alice".into(), "secret".into())]),
            lifetime: 600,
            nonce_lifetime: Duration::from_secs(3600),
            relay: IpAddr::from([198, 51, 100, 1]),
            forbidden: Vec::new(),
            forgetful: false,
            whims: Vec::new(),
            nonce: 1,
            nonce_since: now,
            next_port: 50_000,
            allocations: HashMap::new(),
            answered: HashMap::new(),
            relayed: Vec::new(),
            requests: Vec::new(),
            channel_data: 0,
            indications: 0,
            keepalives: 0,
            unpermitted: 0,
            stale_answers: 0,
            breaches: Vec::new(),
        }
    }

    pub fn whim(&mut self, method: u16, whim: Whim) {
        self.whims.push((method, whim));
    }

    pub fn whims_left(&self) -> usize {
        self.whims.len()
    }

    /// As after a restart: no allocation, another nonce.
    pub fn forget(&mut self, now: Instant) {
        self.allocations.clear();
        self.answered.clear();
        self.nonce += 1;
        self.nonce_since = now;
    }

    pub fn new_nonce(&mut self) {
        self.nonce += 1;
    }

    /// As if nothing had been answered: a retransmission is a new request.
    pub fn forget_answers(&mut self) {
        self.answered.clear();
    }

    pub fn count(&self, method: u16) -> usize {
        self.requests.iter().filter(|(_, r)| r.method == method).count()
    }

    pub fn alive(&self, now: Instant) -> usize {
        self.allocations.values().filter(|a| a.expires > now).count()
    }

    /// From the client. What goes back to it.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Vec<Vec<u8>> {
        self.allocations.retain(|_, a| a.expires > now && !self.forgetful);
        if data.first().is_some_and(|b| b >> 6 == 1) {
            self.handle_channel_data(now, from, data);
            return Vec::new();
        }
        let Some(message) = Stun::parse(data) else {
            self.breaches.push(format!("malformed: {data:02x?}"));
            return Vec::new();
        };
        match (message.class, message.method) {
            (1, SEND) => {
                self.indications += 1;
                let peer = message.get(PEER_ADDRESS).and_then(|v| unxored(v, &message.id));
                let (Some(peer), Some(data)) = (peer, message.get(DATA)) else {
                    self.breaches.push("a Send indication without peer or data".into());
                    return Vec::new();
                };
                self.relay(now, from, peer, data.to_vec());
                Vec::new()
            }
            (1, 1) => {
                self.keepalives += 1;
                Vec::new()
            }
            (0, _) => self.handle_request(now, from, message, data),
            _ => {
                self.breaches.push(format!("from a client: {message:?}"));
                Vec::new()
            }
        }
    }

    /// From a peer to a relayed address: what goes to which client.
    pub fn peer_sends(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        relayed: SocketAddr,
        data: &[u8],
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let live = |a: &Allocation| a.relayed == relayed && a.expires > now;
        let (client, allocation) = self.allocations.iter().find(|(_, a)| live(a))?;
        if allocation.permissions.get(&peer.ip()).is_none_or(|until| *until <= now) {
            return None;
        }
        let channel = allocation.channels.iter().find(|(_, (p, until))| *p == peer && *until > now);
        let message = match channel {
            Some((number, _)) => channel_data(*number, data),
            None => {
                let id = [7; 12];
                let attributes = vec![(PEER_ADDRESS, xored(peer, &id)), (DATA, data.to_vec())];
                Stun { method: DATA_INDICATION, class: 1, id, attributes }.encode(None)
            }
        };
        Some((*client, message))
    }

    fn handle_channel_data(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let number = u16::from_be_bytes([data[0], data[1]]);
        let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
        let Some(payload) = data.get(4..4 + length) else {
            return self.breaches.push("ChannelData that is too short".into());
        };
        self.channel_data += 1;
        let channel = self.allocations.get(&from).and_then(|a| a.channels.get(&number));
        match channel.filter(|(_, until)| *until > now) {
            Some((peer, _)) => self.relay(now, from, *peer, payload.to_vec()),
            None => self.unpermitted += 1,
        }
    }

    fn relay(&mut self, now: Instant, from: SocketAddr, peer: SocketAddr, data: Vec<u8>) {
        let allocation = self.allocations.get(&from);
        match allocation.filter(|a| a.permissions.get(&peer.ip()).is_some_and(|until| *until > now)) {
            Some(allocation) => self.relayed.push((allocation.relayed, peer, data)),
            None => self.unpermitted += 1,
        }
    }

    fn handle_request(&mut self, now: Instant, from: SocketAddr, request: Stun, data: &[u8]) -> Vec<Vec<u8>> {
        self.answered.retain(|_, (at, _)| now.saturating_duration_since(*at) < Duration::from_secs(40));
        if let Some((_, answer)) = self.answered.get(&request.id) {
            return vec![answer.clone()];
        }
        self.requests.push((now, request.clone()));
        if now.saturating_duration_since(self.nonce_since) >= self.nonce_lifetime {
            self.nonce += 1;
            self.nonce_since = now;
        }
        let (username, nonce) = (request.text(USERNAME), format!("nonce-{}", self.nonce));
        let password = self.users.get(&username).cloned().unwrap_or_default();
        let key = key(&username, &self.realm, &password);
        if request.get(INTEGRITY).is_none()
            || !self.users.contains_key(&username)
            || !integrity_holds(data, &key)
        {
            return vec![self.challenge(&request, 401)];
        }
        let position = self.whims.iter().position(|(method, _)| *method == request.method);
        let whim = position.map(|p| self.whims.remove(p).1);
        if matches!(whim, Some(Whim::Stale)) {
            self.nonce += 1;
        }
        if matches!(whim, Some(Whim::Stale)) || request.text(NONCE) != nonce {
            self.stale_answers += 1;
            return vec![self.challenge(&request, 438)];
        }
        if let Some(Whim::Error(code, signed)) = whim {
            let attributes = vec![(ERROR_CODE, error_code(code))];
            let answer = Stun { method: request.method, class: 3, id: request.id, attributes };
            return vec![answer.encode(signed.then_some(&key))];
        }
        let (class, attributes) = match self.carry_out(now, from, &request, username) {
            Ok(attributes) => (2, attributes),
            Err(code) => (3, vec![(ERROR_CODE, error_code(code))]),
        };
        let answer = Stun { method: request.method, class, id: request.id, attributes };
        let bytes = answer.encode(Some(&key));
        self.answered.insert(request.id, (now, bytes.clone()));
        match whim {
            Some(Whim::WrongIntegrity) => vec![answer.encode(Some(b"another key"))],
            Some(Whim::NoIntegrity) => vec![answer.encode(None)],
            _ => vec![bytes],
        }
    }

    fn challenge(&self, request: &Stun, code: u16) -> Vec<u8> {
        let attributes = vec![
            (ERROR_CODE, error_code(code)),
            (REALM, self.realm.clone().into_bytes()),
            (NONCE, format!("nonce-{}", self.nonce).into_bytes()),
        ];
        Stun { method: request.method, class: 3, id: request.id, attributes }.encode(None)
    }

    fn carry_out(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Stun,
        username: String,
    ) -> Result<Vec<(u16, Vec<u8>)>, u16> {
        if request.method == ALLOCATE {
            return self.allocate(now, from, request, username);
        }
        let asked = request.get(LIFETIME).map(|v| u32::from_be_bytes(v.try_into().expect("four bytes")));
        let peer = request.get(PEER_ADDRESS).and_then(|v| unxored(v, &request.id));
        let allocation = self.allocations.get_mut(&from).ok_or(437_u16)?;
        if allocation.username != username {
            return Err(441);
        }
        match (request.method, peer) {
            (REFRESH, _) if asked == Some(0) => {
                self.allocations.remove(&from);
                Ok(vec![(LIFETIME, vec![0; 4])])
            }
            (REFRESH, _) => {
                allocation.expires = now + Duration::from_secs(self.lifetime.into());
                Ok(vec![(LIFETIME, self.lifetime.to_be_bytes().to_vec())])
            }
            (CREATE_PERMISSION, Some(peer)) if self.forbidden.contains(&peer.ip()) => Err(403),
            (CREATE_PERMISSION, Some(peer)) => {
                allocation.permissions.insert(peer.ip(), now + PERMISSION);
                Ok(Vec::new())
            }
            (CHANNEL_BIND, Some(peer)) => {
                let number = request.get(CHANNEL_NUMBER).expect("a number");
                let number = u16::from_be_bytes([number[0], number[1]]);
                if !(0x4000..=0x4fff).contains(&number) {
                    self.breaches.push(format!("channel {number:x}"));
                    return Err(400);
                }
                // A number belongs to its peer and a peer to its number until five minutes after the end.
                allocation.channels.retain(|_, (_, until)| *until + REST > now);
                let clash = allocation.channels.iter().find(|(n, (p, _))| (**n == number) != (*p == peer));
                if let Some((n, (p, _))) = clash {
                    self.breaches.push(format!("channel {number:x} for {peer}, but {n:x} is of {p}"));
                    return Err(400);
                }
                allocation.channels.insert(number, (peer, now + CHANNEL));
                allocation.permissions.insert(peer.ip(), now + PERMISSION);
                Ok(Vec::new())
            }
            _ => Err(400),
        }
    }

    fn allocate(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Stun,
        username: String,
    ) -> Result<Vec<(u16, Vec<u8>)>, u16> {
        if request.get(REQUESTED_TRANSPORT) != Some(&[17, 0, 0, 0]) {
            self.breaches.push("an Allocate for something other than UDP".into());
            return Err(442);
        }
        let family = request.get(REQUESTED_FAMILY).map_or(1, |v| v[0]);
        if (family == 2) != self.relay.is_ipv6() {
            return Err(440);
        }
        if self.allocations.contains_key(&from) {
            return Err(437);
        }
        self.next_port += 1;
        let relayed = SocketAddr::new(self.relay, self.next_port);
        let expires = now + Duration::from_secs(self.lifetime.into());
        let (permissions, channels) = (HashMap::new(), HashMap::new());
        self.allocations.insert(from, Allocation { relayed, username, expires, permissions, channels });
        Ok(vec![
            (RELAYED_ADDRESS, xored(relayed, &request.id)),
            (MAPPED_ADDRESS, xored(from, &request.id)),
            (LIFETIME, self.lifetime.to_be_bytes().to_vec()),
        ])
    }
}

pub fn error_code(code: u16) -> Vec<u8> {
    [&[0, 0, (code / 100) as u8, (code % 100) as u8][..], b"as the test wants"].concat()
}

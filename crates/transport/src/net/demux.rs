//! Which link a datagram belongs to: by the name in its STUN check, by the check it answers, or by the address it came from.
//!
//! Any peer can name any address as its candidate, another peer's too. So an address is not simply whose link used it last: the
//! claims on it have ranks.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// Addresses remembered for each link; the oldest mapping gives way.
const MAX_ADDRESSES_PER_LINK: usize = 64;

/// Names remembered for each link: one that is in use, and those of ICE restarts that are not answered yet.
const MAX_UFRAGS_PER_LINK: usize = 16;

/// Checks of all links whose answers may still come.
const MAX_CHECKS: usize = 4096;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

/// Why what comes from an address is taken for a link's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// The link sent a check there.
    Tried,
    /// A check came from there that names the link.
    Named,
    /// The link is connected by it, which DTLS has proved.
    Connected,
}

/// Maps (socket, remote address) and ICE user name fragments to links of type `K` (RFC 7983 and RFC 8445 §7.3).
#[derive(Default)]
pub(crate) struct Demux<K> {
    by_address: HashMap<(usize, SocketAddr), (K, Claim)>,
    by_ufrag: HashMap<String, K>,
    addresses: HashMap<K, Vec<(usize, SocketAddr)>>,
    ufrags: HashMap<K, Vec<String>>,
    /// STUN transactions, and the links whose checks they are; the oldest are forgotten.
    checks: HashMap<[u8; 12], K>,
    checks_in_order: VecDeque<[u8; 12]>,
}

impl<K: Copy + Eq + std::hash::Hash> Demux<K> {
    pub(crate) fn new() -> Demux<K> {
        Demux {
            by_address: HashMap::new(),
            by_ufrag: HashMap::new(),
            addresses: HashMap::new(),
            ufrags: HashMap::new(),
            checks: HashMap::new(),
            checks_in_order: VecDeque::new(),
        }
    }

    /// Checks that name this fragment belong to `link` from now on.
    pub(crate) fn add_ufrag(&mut self, ufrag: String, link: K) {
        if ufrag.is_empty() || self.by_ufrag.insert(ufrag.clone(), link) == Some(link) {
            return;
        }
        let list = self.ufrags.entry(link).or_default();
        list.push(ufrag);
        if list.len() > MAX_UFRAGS_PER_LINK {
            let oldest = list.remove(0);
            if self.by_ufrag.get(&oldest) == Some(&link) {
                self.by_ufrag.remove(&oldest);
            }
        }
    }

    /// `link` sends a STUN message to this address.
    pub(crate) fn sent(&mut self, socket: usize, remote: SocketAddr, link: K, data: &[u8]) {
        self.claim((socket, remote), link, Claim::Tried);
        if let Some(id) = transaction(data, &[BINDING_REQUEST])
            && self.checks.insert(id, link).is_none()
        {
            self.checks_in_order.push_back(id);
            if self.checks_in_order.len() > MAX_CHECKS
                && let Some(oldest) = self.checks_in_order.pop_front()
            {
                self.checks.remove(&oldest);
            }
        }
    }

    /// `link` is connected by this address.
    pub(crate) fn connected(&mut self, socket: usize, remote: SocketAddr, link: K) {
        self.claim((socket, remote), link, Claim::Connected);
    }

    /// `link` is not connected any more: others may prove that its addresses are theirs now.
    pub(crate) fn interrupted(&mut self, link: K) {
        for key in self.addresses.get(&link).into_iter().flatten() {
            if let Some((_, claim)) = self.by_address.get_mut(key) {
                *claim = (*claim).min(Claim::Named);
            }
        }
    }

    fn claim(&mut self, key: (usize, SocketAddr), link: K, claim: Claim) {
        match self.by_address.get_mut(&key) {
            Some((owner, held)) if *owner == link => {
                *held = claim.max(*held);
                return;
            }
            // Who only tries comes after who tried before; whoever shows more is the one who is there now.
            Some((_, held)) if *held > claim || claim == Claim::Tried => return,
            Some((before, _)) => {
                if let Some(list) = self.addresses.get_mut(before) {
                    list.retain(|k| *k != key);
                }
            }
            None => {}
        }
        self.by_address.insert(key, (link, claim));
        let list = self.addresses.entry(link).or_default();
        list.push(key);
        if list.len() > MAX_ADDRESSES_PER_LINK {
            let in_use = |key: &(usize, SocketAddr)| {
                self.by_address.get(key).is_some_and(|(_, claim)| *claim == Claim::Connected)
            };
            let oldest = list.remove(list.iter().position(|key| !in_use(key)).unwrap_or(0));
            self.by_address.remove(&oldest);
        }
    }

    /// The link a datagram is for, or `None` when nobody here knows its sender.
    pub(crate) fn find(&mut self, socket: usize, remote: SocketAddr, data: &[u8]) -> Option<K> {
        if let Some(ufrag) = stun_request_ufrag(data) {
            // The check says whom it is for; an address alone can have had another link before.
            let link = self.by_ufrag.get(ufrag).copied()?;
            self.claim((socket, remote), link, Claim::Named);
            return Some(link);
        }
        let answered = transaction(data, &[BINDING_SUCCESS, BINDING_ERROR]);
        if let Some(link) = answered.and_then(|id| self.checks.get(&id)) {
            return Some(*link);
        }
        self.by_address.get(&(socket, remote)).map(|(link, _)| *link)
    }

    /// The socket is closed; its number is never used again.
    pub(crate) fn remove_socket(&mut self, socket: usize) {
        self.by_address.retain(|(s, _), _| *s != socket);
        for list in self.addresses.values_mut() {
            list.retain(|(s, _)| *s != socket);
        }
    }

    pub(crate) fn remove(&mut self, link: K) {
        for key in self.addresses.remove(&link).unwrap_or_default() {
            self.by_address.remove(&key);
        }
        self.ufrags.remove(&link);
        self.by_ufrag.retain(|_, l| *l != link);
        self.checks.retain(|_, l| *l != link);
        let checks = &self.checks;
        self.checks_in_order.retain(|id| checks.contains_key(id));
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_address.is_empty()
            && self.by_ufrag.is_empty()
            && self.addresses.is_empty()
            && self.ufrags.is_empty()
            && self.checks.is_empty()
            && self.checks_in_order.is_empty()
    }
}

/// The receiver's half of USERNAME in a STUN binding request (RFC 8445 §7.2.2), if `data` is one.
fn stun_request_ufrag(data: &[u8]) -> Option<&str> {
    const USERNAME: u16 = 0x0006;
    transaction(data, &[BINDING_REQUEST])?;
    let u16_at = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
    let end = 20 + usize::from(u16_at(2)?);
    let mut at = 20;
    while at + 4 <= end.min(data.len()) {
        let (kind, len) = (u16_at(at)?, usize::from(u16_at(at + 2)?));
        if kind == USERNAME {
            let name = std::str::from_utf8(data.get(at + 4..at + 4 + len)?).ok()?;
            return name.split(':').next().filter(|u| !u.is_empty());
        }
        at += 4 + len.next_multiple_of(4);
    }
    None
}

/// The transaction of a STUN message of one of these kinds (RFC 8489 §5).
fn transaction(data: &[u8], kinds: &[u16]) -> Option<[u8; 12]> {
    const MAGIC_COOKIE: u32 = 0x2112_A442;
    let kind = u16::from_be_bytes(data.get(..2)?.try_into().ok()?);
    if !kinds.contains(&kind) || data.get(4..8)? != MAGIC_COOKIE.to_be_bytes() {
        return None;
    }
    data.get(8..20)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding_request(username: &str) -> Vec<u8> {
        let mut attributes = vec![0x00, 0x24, 0, 4, 1, 2, 3, 4, 0x00, 0x06];
        attributes.extend((username.len() as u16).to_be_bytes());
        attributes.extend(username.as_bytes());
        attributes.resize(attributes.len().next_multiple_of(4), 0);
        let mut message = vec![0, 1];
        message.extend((attributes.len() as u16).to_be_bytes());
        message.extend(0x2112_A442u32.to_be_bytes());
        message.extend([7; 12]);
        message.extend(attributes);
        message
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_check_names_its_link_and_its_address_follows() {
        let mut demux = Demux::new();
        demux.add_ufrag("abcd".into(), 1u32);
        demux.add_ufrag("efgh".into(), 2);
        assert_eq!(demux.find(0, address(9), &[23, 1, 2]), None);
        assert_eq!(demux.find(0, address(9), &binding_request("abcd:zzzz")), Some(1));
        assert_eq!(demux.find(0, address(9), &[23, 1, 2]), Some(1));
        assert_eq!(demux.find(1, address(9), &[23, 1, 2]), None, "another socket is another path");
        assert_eq!(
            demux.find(0, address(9), &binding_request("efgh:zzzz")),
            Some(2),
            "the name beats the address"
        );
        assert_eq!(demux.find(0, address(9), &[128, 1, 2]), Some(2));
        assert_eq!(demux.find(0, address(8), &binding_request("nope:zzzz")), None);
        demux.find(7, address(9), &binding_request("efgh:zzzz"));
        demux.remove_socket(7);
        assert_eq!(demux.find(7, address(9), &[128, 1, 2]), None, "the socket is gone");
        demux.remove(1);
        demux.remove(2);
        assert!(demux.is_empty());
    }

    fn check(n: u16) -> Vec<u8> {
        let mut message = binding_request("them:us");
        message[8..10].copy_from_slice(&n.to_be_bytes());
        message
    }

    fn answer(n: u16) -> Vec<u8> {
        let mut message = check(n);
        message[..2].copy_from_slice(&BINDING_SUCCESS.to_be_bytes());
        message
    }

    #[test]
    fn naming_anothers_address_as_ones_own_takes_nothing_from_it() {
        let (bob, mallory) = (1u32, 2);
        let media = [128, 1, 2];
        let mut demux = Demux::new();
        demux.add_ufrag("forbob".into(), bob);
        demux.add_ufrag("formallory".into(), mallory);
        // Mallory is faster with bob's address than bob; what bob sends from there, he sends.
        demux.sent(0, address(9), mallory, &check(1));
        demux.sent(0, address(9), bob, &check(2));
        assert_eq!(demux.find(0, address(9), &binding_request("forbob:x")), Some(bob));
        assert_eq!(demux.find(0, address(9), &media), Some(bob));
        demux.connected(0, address(9), bob);
        for n in 3..100 {
            demux.sent(0, address(9), mallory, &check(n));
        }
        assert_eq!(demux.find(0, address(9), &media), Some(bob));
        // An answer goes to who asked, whatever else comes from there.
        assert_eq!(demux.find(0, address(9), &answer(50)), Some(mallory));
        assert_eq!(demux.find(0, address(9), &answer(2)), Some(bob));
        assert_eq!(
            demux.find(0, address(9), &answer(200)),
            Some(bob),
            "an answer to nobody goes by its address"
        );
        // A forged sender, or a NAT that gives the address to somebody else: not while bob is connected by it.
        assert_eq!(demux.find(0, address(9), &binding_request("formallory:x")), Some(mallory));
        assert_eq!(demux.find(0, address(9), &media), Some(bob));
        demux.interrupted(bob);
        assert_eq!(demux.find(0, address(9), &media), Some(bob));
        assert_eq!(demux.find(0, address(9), &binding_request("formallory:x")), Some(mallory));
        assert_eq!(demux.find(0, address(9), &media), Some(mallory));
        // Many others don't push out the one in use.
        demux.connected(0, address(9), bob);
        for port in 1000..2000 {
            demux.sent(0, address(port), bob, &check(port));
        }
        assert_eq!(demux.find(0, address(9), &media), Some(bob));
        for n in 0..10_000 {
            demux.sent(0, address(9), mallory, &check(n));
        }
        assert_eq!(demux.checks.len(), MAX_CHECKS);
        assert_eq!(demux.checks_in_order.len(), MAX_CHECKS);
        demux.remove(bob);
        demux.remove(mallory);
        assert!(demux.is_empty());
    }

    #[test]
    fn names_of_a_link_are_bounded_and_the_last_ones_stay() {
        let mut demux = Demux::new();
        for n in 0..1000 {
            demux.add_ufrag(format!("name{n}"), 1u32);
        }
        let from = SocketAddr::from(([192, 0, 2, 1], 5));
        assert_eq!(demux.by_ufrag.len(), MAX_UFRAGS_PER_LINK);
        assert_eq!(demux.find(0, from, &binding_request("name999:x")), Some(1));
        assert_eq!(demux.find(0, from, &binding_request("name900:x")), None);
        demux.remove(1);
        assert!(demux.is_empty());
    }

    #[test]
    fn addresses_of_a_link_are_bounded_and_truncated_checks_are_nothing() {
        let mut demux = Demux::new();
        demux.add_ufrag("abcd".into(), 1u32);
        for port in 1..=1000 {
            demux.find(0, address(port), &binding_request("abcd:x"));
        }
        assert_eq!(demux.by_address.len(), MAX_ADDRESSES_PER_LINK);
        let whole = binding_request("abcd:x");
        for len in 0..whole.len() - 2 {
            assert_eq!(demux.find(0, address(5000), &whole[..len]), None, "{len} bytes");
        }
    }
}

//! Which link a datagram belongs to: by the address it came from, or by the name in its STUN check.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Addresses remembered for each link; the oldest mapping gives way.
const MAX_ADDRESSES_PER_LINK: usize = 64;

/// Names remembered for each link: one that is in use, and those of ICE restarts that are not answered yet.
const MAX_UFRAGS_PER_LINK: usize = 16;

/// Maps (socket, remote address) and ICE user name fragments to links of type `K` (RFC 7983 and RFC 8445 §7.3).
#[derive(Default)]
pub(crate) struct Demux<K> {
    by_address: HashMap<(usize, SocketAddr), K>,
    by_ufrag: HashMap<String, K>,
    addresses: HashMap<K, Vec<(usize, SocketAddr)>>,
    ufrags: HashMap<K, Vec<String>>,
}

impl<K: Copy + Eq + std::hash::Hash> Demux<K> {
    pub(crate) fn new() -> Demux<K> {
        Demux {
            by_address: HashMap::new(),
            by_ufrag: HashMap::new(),
            addresses: HashMap::new(),
            ufrags: HashMap::new(),
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

    /// `link` has sent to, or was named by, this address: what comes from there is its own.
    pub(crate) fn add_address(&mut self, socket: usize, remote: SocketAddr, link: K) {
        let key = (socket, remote);
        match self.by_address.insert(key, link) {
            Some(before) if before == link => return,
            Some(before) => {
                if let Some(list) = self.addresses.get_mut(&before) {
                    list.retain(|k| *k != key);
                }
            }
            None => {}
        }
        let list = self.addresses.entry(link).or_default();
        list.push(key);
        if list.len() > MAX_ADDRESSES_PER_LINK {
            let oldest = list.remove(0);
            self.by_address.remove(&oldest);
        }
    }

    /// The link a datagram is for, or `None` when nobody here knows its sender.
    pub(crate) fn find(&mut self, socket: usize, remote: SocketAddr, data: &[u8]) -> Option<K> {
        if let Some(ufrag) = stun_request_ufrag(data) {
            // The check says whom it is for; an address alone can have had another link before.
            let link = self.by_ufrag.get(ufrag).copied()?;
            self.add_address(socket, remote, link);
            return Some(link);
        }
        self.by_address.get(&(socket, remote)).copied()
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
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_address.is_empty()
            && self.by_ufrag.is_empty()
            && self.addresses.is_empty()
            && self.ufrags.is_empty()
    }
}

/// The receiver's half of USERNAME in a STUN binding request (RFC 8445 §7.2.2), if `data` is one.
fn stun_request_ufrag(data: &[u8]) -> Option<&str> {
    const BINDING_REQUEST: u16 = 0x0001;
    const MAGIC_COOKIE: u32 = 0x2112_A442;
    const USERNAME: u16 = 0x0006;
    let u16_at = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
    if u16_at(0)? != BINDING_REQUEST || data.get(4..8)? != MAGIC_COOKIE.to_be_bytes() {
        return None;
    }
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

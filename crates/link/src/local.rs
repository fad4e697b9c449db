//! Our own candidates: what is told the peer, and what the engine checks from.

use crate::error::LinkError;
use crate::link::Link;
use crate::stats::CandidateKind;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use std::net::{IpAddr, SocketAddr};

/// Candidates of our own that a link holds at a time.
pub const MAX_LOCAL_CANDIDATES: usize = 32;

/// One of our own addresses, by how it was found (RFC 8445, section 5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalCandidate {
    /// A socket of this host.
    Host(SocketAddr),
    /// The address that a STUN server sees a socket at. Only told the peer: checks go out from the socket anyway, so a pair
    /// of its own would be pruned (RFC 8445, section 6.1.2.4).
    ServerReflexive {
        /// What the server sees.
        mapped: SocketAddr,
        /// The socket.
        base: SocketAddr,
    },
    /// An address at a TURN server. What the link sends from it has it as [`crate::Transmit::local`].
    Relay {
        /// What the peer sends to.
        relayed: SocketAddr,
        /// How the server is reached: the plainer, the better its priority.
        protocol: RelayProtocol,
    },
}

/// How a TURN server is reached (RFC 8656, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RelayProtocol {
    /// `turn:…?transport=udp`
    Udp,
    /// `turn:…?transport=tcp`
    Tcp,
    /// `turns:…?transport=tcp`
    Tls,
}

/// A candidate of ours and the line that the peer is told.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub candidate: LocalCandidate,
    pub line: String,
}

impl Link {
    /// Adds a candidate of ours and returns its line, to be trickled. Descriptions made from now on carry it too. The same
    /// one again changes nothing.
    ///
    /// # Errors
    /// [`LinkError::Argument`] for an address that can't be sent to, mixed families, or the 33rd candidate;
    /// [`LinkError::Closed`].
    pub fn add_local_candidate(&mut self, candidate: impl Into<LocalCandidate>) -> Result<String, LinkError> {
        self.check_open()?;
        let candidate = candidate.into();
        let addr = candidate.address();
        if addr.ip().is_unspecified() || addr.ip().is_multicast() || addr.port() == 0 {
            return Err(LinkError::Argument("a local candidate needs an address and a port"));
        }
        if candidate.base().is_ipv4() != addr.is_ipv4() {
            return Err(LinkError::Argument("a candidate and its base must be of one family"));
        }
        if let Some(known) = self.local_candidates.iter().find(|l| l.candidate == candidate) {
            return Ok(known.line.clone());
        }
        if self.local_candidates.len() == MAX_LOCAL_CANDIDATES {
            return Err(LinkError::Argument("more than 32 local candidates"));
        }
        let line = candidate.line(self.next_foundation);
        self.next_foundation = self.next_foundation.saturating_add(1);
        let local = Local { candidate, line: line.clone() };
        self.engine_local_candidate(&local)?;
        self.local_candidates.push(local);
        self.stir(self.last_now());
        self.drain(self.last_now());
        Ok(line)
    }

    /// Takes a candidate of ours back: its address is gone. No description names it any more, and from the next ICE restart
    /// on nothing is sent from it. True if it was there.
    pub fn remove_local_candidate(&mut self, candidate: LocalCandidate) -> bool {
        let before = self.local_candidates.len();
        self.local_candidates.retain(|l| l.candidate != candidate);
        self.local_candidates.len() != before
    }

    /// Our candidates, in the order they were added.
    pub fn local_candidates(&self) -> impl Iterator<Item = LocalCandidate> + '_ {
        self.local_candidates.iter().map(|l| l.candidate)
    }

    /// The engine forgets all of ours when ICE restarts or fails; those of now are what it goes on with.
    pub(crate) fn restore_local_candidates(&mut self) -> Result<(), LinkError> {
        for local in self.local_candidates.clone() {
            self.engine_local_candidate(&local)?;
        }
        Ok(())
    }

    pub(crate) fn local_lines(&self) -> Vec<String> {
        self.local_candidates.iter().map(|l| l.line.clone()).collect()
    }

    fn engine_local_candidate(&mut self, local: &Local) -> Result<(), LinkError> {
        if matches!(local.candidate, LocalCandidate::ServerReflexive { .. }) {
            return Ok(());
        }
        self.pc.add_local_candidate(RTCIceCandidateInit {
            candidate: local.line.clone(),
            sdp_mid: Some("0".into()),
            sdp_mline_index: Some(0),
            ..Default::default()
        })?;
        Ok(())
    }
}

impl LocalCandidate {
    /// What the peer sends to.
    pub fn address(&self) -> SocketAddr {
        match *self {
            LocalCandidate::Host(addr) => addr,
            LocalCandidate::ServerReflexive { mapped, .. } => mapped,
            LocalCandidate::Relay { relayed, .. } => relayed,
        }
    }

    /// What is sent from, as in [`crate::Transmit::local`] (RFC 8445, section 5.1.1.2).
    pub fn base(&self) -> SocketAddr {
        match *self {
            LocalCandidate::Host(addr) => addr,
            LocalCandidate::ServerReflexive { base, .. } => base,
            LocalCandidate::Relay { relayed, .. } => relayed,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> CandidateKind {
        match self {
            LocalCandidate::Host(_) => CandidateKind::Host,
            LocalCandidate::ServerReflexive { .. } => CandidateKind::ServerReflexive,
            LocalCandidate::Relay { .. } => CandidateKind::Relay,
        }
    }

    /// Our candidate number `number` of this link as a line (RFC 8839, section 5.1). The related address of a relayed
    /// candidate is left blank: it helps nobody, and would show a peer that is to know only the relay where we are.
    fn line(&self, number: u32) -> String {
        let addr = self.address();
        let head =
            format!("candidate:{} 1 udp {} {} {}", number + 1, self.priority(number), addr.ip(), addr.port());
        match self {
            LocalCandidate::Host(_) => format!("{head} typ host"),
            LocalCandidate::ServerReflexive { base, .. } => {
                format!("{head} typ srflx raddr {} rport {}", base.ip(), base.port())
            }
            LocalCandidate::Relay { .. } => {
                let any = if addr.is_ipv4() { "0.0.0.0" } else { "::" };
                format!("{head} typ relay raddr {any} rport 9")
            }
        }
    }

    /// RFC 8445, section 5.1.2.1. Within a kind: IPv6 before IPv4, link-local after both, loopback last; a relay reached by
    /// UDP before TCP before TLS; earlier ones first.
    fn priority(&self, number: u32) -> u32 {
        let type_preference: u32 = match self.kind() {
            CandidateKind::Host => 126,
            CandidateKind::PeerReflexive => 110,
            CandidateKind::ServerReflexive => 100,
            CandidateKind::Relay => 0,
        };
        let family = u32::from(self.address().is_ipv6());
        let class: u32 = match *self {
            LocalCandidate::Relay { protocol: RelayProtocol::Udp, .. } => 4 + family,
            LocalCandidate::Relay { protocol: RelayProtocol::Tcp, .. } => 2 + family,
            LocalCandidate::Relay { protocol: RelayProtocol::Tls, .. } => family,
            LocalCandidate::Host(addr) | LocalCandidate::ServerReflexive { mapped: addr, .. } => {
                match addr.ip() {
                    ip if ip.is_loopback() => 0,
                    IpAddr::V4(ip) if ip.is_link_local() => 1,
                    IpAddr::V6(ip) if ip.is_unicast_link_local() => 1,
                    IpAddr::V4(_) => 2,
                    IpAddr::V6(_) => 3,
                }
            }
        };
        const CLASS: u32 = 10_000;
        let local_preference = class * CLASS + (CLASS - 1 - number.min(CLASS - 1));
        (type_preference << 24) | (local_preference << 8) | 255
    }
}

impl From<SocketAddr> for LocalCandidate {
    fn from(addr: SocketAddr) -> Self {
        LocalCandidate::Host(addr)
    }
}

impl RelayProtocol {
    /// `udp`, `tcp` or `tls`, as in `RTCIceCandidate.relayProtocol` (W3C WebRTC, section 4.8.1).
    pub fn as_str(self) -> &'static str {
        match self {
            RelayProtocol::Udp => "udp",
            RelayProtocol::Tcp => "tcp",
            RelayProtocol::Tls => "tls",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn relay(relayed: &str, protocol: RelayProtocol) -> LocalCandidate {
        LocalCandidate::Relay { relayed: addr(relayed), protocol }
    }

    #[test]
    fn what_is_better_has_the_higher_priority() {
        let srflx = |mapped: &str| LocalCandidate::ServerReflexive {
            mapped: addr(mapped),
            base: addr(if mapped.starts_with('[') { "[2001:db8::9]:1" } else { "10.0.0.1:1" }),
        };
        let worst_first = [
            relay("203.0.113.1:1", RelayProtocol::Tls),
            relay("[2001:db8::1]:1", RelayProtocol::Tls),
            relay("203.0.113.1:1", RelayProtocol::Tcp),
            relay("[2001:db8::1]:1", RelayProtocol::Tcp),
            relay("203.0.113.1:1", RelayProtocol::Udp),
            relay("[2001:db8::1]:1", RelayProtocol::Udp),
            srflx("203.0.113.7:9"),
            srflx("[2001:db8::7]:9"),
            LocalCandidate::Host(addr("127.0.0.1:1")),
            LocalCandidate::Host(addr("169.254.1.1:1")),
            LocalCandidate::Host(addr("192.0.2.1:1")),
            LocalCandidate::Host(addr("[2001:db8::1]:1")),
        ];
        // However late the better one was found.
        for (worse, better) in [(0, 0), (0, 9_999), (0, u32::MAX)] {
            let pairs = worst_first.windows(2);
            for pair in pairs {
                assert!(pair[0].priority(worse) < pair[1].priority(better), "{pair:?} {worse} {better}");
            }
        }
        for candidate in worst_first {
            assert!(candidate.priority(0) > candidate.priority(1), "earlier ones first");
            assert!(candidate.priority(u32::MAX) > 0);
        }
        assert_eq!(worst_first[11].priority(0) >> 24, 126);
        assert_eq!(worst_first[7].priority(0) >> 24, 100);
        assert_eq!(worst_first[5].priority(0) >> 24, 0);
    }

    #[test]
    fn lines_say_what_kind_and_a_relay_hides_the_rest() {
        let srflx = LocalCandidate::ServerReflexive {
            mapped: addr("203.0.113.7:61000"),
            base: addr("10.0.0.1:5000"),
        };
        assert!(srflx.line(4).starts_with("candidate:5 1 udp 16"), "{}", srflx.line(4));
        assert!(srflx.line(4).ends_with(" 203.0.113.7 61000 typ srflx raddr 10.0.0.1 rport 5000"));
        let line = relay("[2001:db8::1]:49152", RelayProtocol::Udp).line(0);
        assert!(line.ends_with(" 2001:db8::1 49152 typ relay raddr :: rport 9"), "{line}");
    }
}

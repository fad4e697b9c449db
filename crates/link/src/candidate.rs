//! Candidate lines (RFC 8839, section 5.1).

use crate::error::LinkError;
use crate::stats::CandidateKind;
use std::net::{IpAddr, SocketAddr};

/// A remote candidate, reduced to what the engine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub addr: SocketAddr,
    pub kind: CandidateKind,
    pub priority: u32,
    pub ufrag: Option<String>,
}

/// What a line turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Usable(Candidate),
    /// A `.local` name, which would need mDNS.
    Mdns,
    Tcp,
    /// For the RTCP component, which is not used with rtcp-mux.
    Rtcp,
}

/// The longest line accepted, in bytes.
const MAX_LINE: usize = 512;

pub(crate) fn parse(line: &str) -> Result<Line, LinkError> {
    let line = line.trim();
    let line = line.strip_prefix("a=").unwrap_or(line);
    let line = line.strip_prefix("candidate:").unwrap_or(line);
    if line.len() > MAX_LINE || line.chars().any(|c| c.is_control()) {
        return Err(LinkError::BadCandidate("too long, or with a control character"));
    }
    let fields: Vec<&str> = line.split(' ').filter(|f| !f.is_empty()).collect();
    let [_, component, protocol, priority, address, port, typ, kind, rest @ ..] = &fields[..] else {
        return Err(LinkError::BadCandidate("fewer than eight fields"));
    };
    if !typ.eq_ignore_ascii_case("typ") {
        return Err(LinkError::BadCandidate("no 'typ'"));
    }
    let component: u16 =
        component.parse().map_err(|_| LinkError::BadCandidate("a component that is no number"))?;
    let priority: u32 =
        priority.parse().map_err(|_| LinkError::BadCandidate("a priority that is no number"))?;
    let port: u16 = port.parse().map_err(|_| LinkError::BadCandidate("a port that is no number"))?;
    let kind = match *kind {
        "host" => CandidateKind::Host,
        "srflx" => CandidateKind::ServerReflexive,
        "prflx" => CandidateKind::PeerReflexive,
        "relay" => CandidateKind::Relay,
        _ => return Err(LinkError::BadCandidate("a type that is not known")),
    };
    if protocol.eq_ignore_ascii_case("tcp") {
        return Ok(Line::Tcp);
    }
    if !protocol.eq_ignore_ascii_case("udp") {
        return Err(LinkError::BadCandidate("a protocol that is not known"));
    }
    if component != 1 {
        return Ok(Line::Rtcp);
    }
    if address.len() > 6 && address.to_ascii_lowercase().ends_with(".local") {
        return Ok(Line::Mdns);
    }
    let ip: IpAddr =
        address.parse().map_err(|_| LinkError::BadCandidate("an address that is no IP address"))?;
    if port == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(LinkError::BadCandidate("an address that can't be sent to"));
    }
    let ufrag = rest.chunks(2).find(|p| p[0] == "ufrag").and_then(|p| p.get(1)).map(|u| (*u).to_owned());
    Ok(Line::Usable(Candidate { addr: SocketAddr::new(ip, port), kind, priority, ufrag }))
}

impl Candidate {
    /// The line for the engine, in its plainest form: nothing of the peer's text is left in it.
    pub fn engine_line(&self) -> String {
        let (ip, port) = (self.addr.ip(), self.addr.port());
        let head = format!("candidate:1 1 udp {} {ip} {port}", self.priority.max(1));
        let any = if ip.is_ipv4() { "0.0.0.0" } else { "::" };
        match self.kind {
            CandidateKind::Host => format!("{head} typ host"),
            CandidateKind::ServerReflexive => format!("{head} typ srflx raddr {any} rport 9"),
            CandidateKind::PeerReflexive => format!("{head} typ prflx raddr {any} rport 9"),
            CandidateKind::Relay => format!("{head} typ relay raddr {any} rport 9"),
        }
    }
}

/// The line of our host candidate number `index`. Priority by RFC 8445, section 5.1.2.1: earlier ones first, IPv6 before
/// IPv4 of the same rank, link-local after both, loopback last.
pub(crate) fn host_line(addr: SocketAddr, index: usize) -> String {
    let rank = u32::try_from(index).unwrap_or(u32::MAX).min(8000);
    let class: u32 = match addr.ip() {
        ip if ip.is_loopback() => 0,
        IpAddr::V4(ip) if ip.is_link_local() => 1,
        IpAddr::V6(ip) if (ip.segments()[0] & 0xffc0) == 0xfe80 => 1,
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 3,
    };
    let local_preference = class * 16_000 + 8_000 - rank;
    let priority = (126 << 24) | (local_preference << 8) | 255;
    format!("candidate:{} 1 udp {priority} {} {} typ host", index + 1, addr.ip(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(line: &str) -> u32 {
        line.split(' ').nth(3).and_then(|p| p.parse().ok()).expect("a priority")
    }

    #[test]
    fn loopback_comes_last_and_ipv6_first() {
        let lines: Vec<u32> = ["127.0.0.1:1", "169.254.1.1:1", "192.0.2.1:1", "[2001:db8::1]:1"]
            .iter()
            .map(|a| priority(&host_line(a.parse().expect("an address"), 3)))
            .collect();
        assert!(lines.windows(2).all(|w| w[0] < w[1]), "{lines:?}");
        assert_eq!(lines[0] >> 24, 126);
    }

    #[test]
    fn lines_of_browsers_are_read() {
        let line = "candidate:2 1 UDP 1677729535 203.0.113.7 61000 typ srflx raddr 10.0.0.1 rport 5000 generation 0 ufrag abcd";
        let Ok(Line::Usable(c)) = parse(line) else { panic!("not usable") };
        assert_eq!(c.kind, CandidateKind::ServerReflexive);
        assert_eq!(c.ufrag.as_deref(), Some("abcd"));
        assert_eq!(c.addr, "203.0.113.7:61000".parse::<SocketAddr>().expect("an address"));
        let mdns = "candidate:1 1 udp 2122260223 8b9c.local 5000 typ host generation 0";
        assert_eq!(parse(mdns), Ok(Line::Mdns));
        assert_eq!(parse("candidate:1 1 tcp 1 10.0.0.1 9 typ host tcptype active"), Ok(Line::Tcp));
        assert_eq!(parse("candidate:1 2 udp 1 10.0.0.1 9 typ host"), Ok(Line::Rtcp));
        assert!(parse("candidate:1 1 udp 1 10.0.0.1 0 typ host").is_err());
        assert!(parse("candidate:1 1 udp 1 example.org 5 typ host").is_err());
        assert!(parse("").is_err());
    }
}

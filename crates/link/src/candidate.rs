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

/// A remote candidate that hides its address behind a name (draft-ietf-mmusic-mdns-ice-candidates).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// In lower case.
    pub name: String,
    port: u16,
    kind: CandidateKind,
    priority: u32,
    pub ufrag: Option<String>,
}

/// What a line turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Usable(Candidate),
    /// A `.local` name, which mDNS resolves.
    Named(Named),
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
    let ufrag = rest.chunks(2).find(|p| p[0] == "ufrag").and_then(|p| p.get(1)).map(|u| (*u).to_owned());
    if address.len() > 6 && address.to_ascii_lowercase().ends_with(".local") {
        // One label before `.local`: a name with more is none that a browser made up, and may not be asked for.
        let label = &address[..address.len() - 6];
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if port == 0 || label.len() > 63 || !label.chars().all(plain) {
            return Err(LinkError::BadCandidate("a name that can't be resolved"));
        }
        return Ok(Line::Named(Named { name: address.to_ascii_lowercase(), port, kind, priority, ufrag }));
    }
    let ip: IpAddr =
        address.parse().map_err(|_| LinkError::BadCandidate("an address that is no IP address"))?;
    Ok(Line::Usable(Candidate { addr: SocketAddr::new(usable(ip, port)?, port), kind, priority, ufrag }))
}

fn usable(ip: IpAddr, port: u16) -> Result<IpAddr, LinkError> {
    if port == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(LinkError::BadCandidate("an address that can't be sent to"));
    }
    Ok(ip)
}

impl Named {
    /// What it is now that its address is known.
    pub fn at(self, ip: IpAddr) -> Result<Candidate, LinkError> {
        let addr = SocketAddr::new(usable(ip, self.port)?, self.port);
        Ok(Candidate { addr, kind: self.kind, priority: self.priority, ufrag: self.ufrag })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_browsers_are_read() {
        let line = "candidate:2 1 UDP 1677729535 203.0.113.7 61000 typ srflx raddr 10.0.0.1 rport 5000 generation 0 ufrag abcd";
        let Ok(Line::Usable(c)) = parse(line) else { panic!("not usable") };
        assert_eq!(c.kind, CandidateKind::ServerReflexive);
        assert_eq!(c.ufrag.as_deref(), Some("abcd"));
        assert_eq!(c.addr, "203.0.113.7:61000".parse::<SocketAddr>().expect("an address"));
        let mdns = "candidate:1 1 udp 2122260223 8B9c-0.local 5000 typ host generation 0 ufrag efgh";
        let Ok(Line::Named(named)) = parse(mdns) else { panic!("no name") };
        assert_eq!((named.name.as_str(), named.ufrag.as_deref()), ("8b9c-0.local", Some("efgh")));
        let c = named.at("10.0.0.7".parse().expect("an address")).expect("usable");
        assert_eq!((c.addr.to_string().as_str(), c.priority), ("10.0.0.7:5000", 2_122_260_223));
        for bad in ["a.b.local", ".local", "a_b.local", "a b.local", &format!("{}.local", "x".repeat(64))] {
            let line = format!("candidate:1 1 udp 1 {bad} 5000 typ host");
            assert!(!matches!(parse(&line), Ok(Line::Named(_))), "{bad}");
        }
        assert_eq!(parse("candidate:1 1 tcp 1 10.0.0.1 9 typ host tcptype active"), Ok(Line::Tcp));
        assert_eq!(parse("candidate:1 2 udp 1 10.0.0.1 9 typ host"), Ok(Line::Rtcp));
        assert!(parse("candidate:1 1 udp 1 10.0.0.1 0 typ host").is_err());
        assert!(parse("candidate:1 1 udp 1 example.org 5 typ host").is_err());
        assert!(parse("").is_err());
    }
}

//! Servers that help to get through NATs.

use std::fmt;

use remotemedia_link::RelayProtocol;

use crate::TransportError;

/// STUN servers at most, and TURN servers at most.
pub const MAX_ICE_SERVERS: usize = 8;

/// A STUN server (RFC 7064): tells us our server-reflexive addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StunServer {
    /// Name or IP address, without brackets.
    pub host: String,
    /// UDP port, by default 3478.
    pub port: u16,
}

/// A TURN server (RFC 7065): gives us relayed addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnServer {
    /// Name or IP address, without brackets. Over TLS, what its certificate is for.
    pub host: String,
    /// Port, by default 3478, over TLS 5349.
    pub port: u16,
    /// How it is reached.
    pub protocol: RelayProtocol,
    /// User name, 1 to 508 bytes.
    pub username: String,
    /// Password, at most 1024 bytes.
    pub credential: String,
}

/// Which candidates are used (W3C `RTCIceTransportPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum IceTransportPolicy {
    /// All there are.
    #[default]
    All,
    /// Only relayed ones. No other address of ours is gathered, told to anybody, or sends to or takes from peers.
    Relay,
}

impl fmt::Display for StunServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stun:{}:{}", Bracketed(&self.host), self.port)
    }
}

impl fmt::Display for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, transport) = match self.protocol {
            RelayProtocol::Udp => ("turn", "udp"),
            RelayProtocol::Tcp => ("turn", "tcp"),
            RelayProtocol::Tls => ("turns", "tcp"),
        };
        write!(f, "{scheme}:{}:{}?transport={transport}", Bracketed(&self.host), self.port)
    }
}

// The credential never gets into a log.
impl fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TurnServer({self} as {:?})", self.username)
    }
}

impl TurnServer {
    /// The same server, whatever the credentials.
    pub(crate) fn is_same(&self, other: &TurnServer) -> bool {
        (&self.host, self.port, self.protocol) == (&other.host, other.port, other.protocol)
    }

    pub(crate) fn check_all(servers: &[TurnServer]) -> Result<(), TransportError> {
        let config = |message: String| TransportError::Config { field: "turn_servers", message };
        if servers.len() > MAX_ICE_SERVERS {
            return Err(config(format!("more than {MAX_ICE_SERVERS}")));
        }
        for server in servers {
            check_host(&server.host, server.port).map_err(|e| config(format!("{server}: {e}")))?;
            if !(1..=508).contains(&server.username.len()) {
                return Err(config(format!("{server}: the user name is outside 1 to 508 bytes")));
            }
            if server.credential.len() > 1024 {
                return Err(config(format!("{server}: the credential is longer than 1024 bytes")));
            }
        }
        Ok(())
    }
}

impl StunServer {
    pub(crate) fn check_all(servers: &[StunServer]) -> Result<(), TransportError> {
        let config = |message: String| TransportError::Config { field: "stun_servers", message };
        if servers.len() > MAX_ICE_SERVERS {
            return Err(config(format!("more than {MAX_ICE_SERVERS}")));
        }
        for server in servers {
            check_host(&server.host, server.port).map_err(|e| config(format!("{server}: {e}")))?;
        }
        Ok(())
    }
}

fn check_host(host: &str, port: u16) -> Result<(), &'static str> {
    if host.is_empty() || host.len() > 253 {
        return Err("the host is outside 1 to 253 characters");
    }
    if port == 0 { Err("port 0") } else { Ok(()) }
}

/// An IPv6 address in brackets, anything else as it is (RFC 3986, section 3.2.2).
struct Bracketed<'a>(&'a str);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_in_their_urls_and_keep_their_secrets() {
        let stun = StunServer { host: "stun.example".into(), port: 3478 };
        assert_eq!(stun.to_string(), "stun:stun.example:3478");
        let turn = TurnServer {
            host: "2001:db8::1".into(),
            port: 5349,
            protocol: RelayProtocol::Tls,
            username: "u".into(),
            credential: "hunter2".into(),
        };
        assert_eq!(turn.to_string(), "turns:[2001:db8::1]:5349?transport=tcp");
        assert!(!format!("{turn:?}").contains("hunter2"));
        assert!(TurnServer::check_all(std::slice::from_ref(&turn)).is_ok());
        assert!(TurnServer::check_all(&[TurnServer { username: String::new(), ..turn.clone() }]).is_err());
        assert!(TurnServer::check_all(&vec![turn; 9]).is_err());
        assert!(StunServer::check_all(&[StunServer { port: 0, ..stun }]).is_err());
    }
}

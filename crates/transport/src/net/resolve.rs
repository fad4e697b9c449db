//! Names of STUN and TURN servers, resolved by the system away from the net thread.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::shared::{Command, Shared};

/// Lookups at a time, over all transports of the process. The system's resolver can take half a minute.
const MAX_LOOKUPS: usize = 16;
/// Addresses taken of one name.
const MAX_ADDRESSES: usize = 8;

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// Starts a lookup; [`Command::Resolved`] brings the answer, in the order of preference (RFC 6724). The thread ends with
/// the lookup and isn't joined: what it may outlive by is a system call that nothing can cut short.
pub(crate) fn start(shared: &Arc<Shared>, host: Arc<str>) {
    if LOOKUPS.fetch_add(1, Ordering::Relaxed) >= MAX_LOOKUPS {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
        let result = Err("too many names are being resolved".to_owned());
        shared.commands.push(Command::Resolved { host, result });
        return;
    }
    let to: Weak<Shared> = Arc::downgrade(shared);
    let name = host.clone();
    let started = std::thread::Builder::new().name("rm-dns".into()).spawn(move || {
        let result = lookup(&name);
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
        if let Some(shared) = to.upgrade() {
            shared.commands.push(Command::Resolved { host: name, result });
        }
    });
    if let Err(error) = started {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
        shared.commands.push(Command::Resolved { host, result: Err(error.to_string()) });
    }
}

fn lookup(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|e| e.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|a| a.ip()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_looked_up_and_nonsense_is_told() {
        let local = lookup("localhost").unwrap();
        assert!(local.iter().all(IpAddr::is_loopback), "{local:?}");
        assert_eq!(lookup("192.0.2.7"), Ok(vec![IpAddr::from([192, 0, 2, 7])]));
        assert!(lookup("no-such-name.invalid").is_err());
        assert!(lookup("not a name").is_err());
    }
}

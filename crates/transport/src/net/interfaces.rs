//! The addresses of this host, and a thread that notices when they change.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::shared::{Command, Shared};

/// Addresses of this host at most.
const MAX_ADDRESSES: usize = 16;
/// How often the system is asked, if that costs less than one part in a thousand of the time.
const EVERY: Duration = Duration::from_secs(1);
const COST_LIMIT: u32 = 1000;
/// At least this often: on a busy machine the wait for a core looks like cost.
const SELDOM: Duration = Duration::from_secs(2);

/// An address that peers could reach us at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    /// Index of its interface, 0 if the system doesn't tell.
    pub(crate) interface: u32,
}

/// Each address of each interface that is up.
pub(crate) fn local_addresses() -> io::Result<Vec<Address>> {
    let mut addresses: Vec<_> = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(|i| i.is_oper_up() || i.is_loopback())
        .map(|i| Address { ip: i.ip(), interface: i.index.unwrap_or(0) })
        .filter(|a| match a.ip {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified(),
            // Link-local IPv6 needs a scope, which candidates can't carry; ::1 reaches nothing that 127.0.0.1 doesn't.
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        })
        .collect();
    addresses.sort();
    addresses.dedup_by_key(|a| a.ip);
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// Looks every second, and tells the net thread what changed. Not on the net thread itself: the system may make who asks
/// wait while interfaces are being changed.
pub(crate) struct Watch {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `known` is what the net thread has already.
    pub(crate) fn start(shared: &Arc<Shared>, known: Vec<Address>) -> io::Result<Watch> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (to, stopped) = (Arc::downgrade(shared), stop.clone());
        let thread =
            std::thread::Builder::new().name("rm-watch".into()).spawn(move || watch(&to, &stopped, known))?;
        Ok(Watch { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *crate::lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there was logged; there is nothing more to end.
            let _ = thread.join();
        }
    }
}

fn watch(to: &Weak<Shared>, stop: &(Mutex<bool>, Condvar), mut known: Vec<Address>) {
    let mut every = EVERY;
    loop {
        let (stopped, _) = stop
            .1
            .wait_timeout_while(crate::lock(&stop.0), every, |stopped| !*stopped)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if *stopped {
            return;
        }
        drop(stopped);
        let began = Instant::now();
        let Ok(found) = local_addresses() else { continue };
        every = (began.elapsed() * COST_LIMIT).clamp(EVERY, SELDOM);
        if found != known {
            let Some(shared) = to.upgrade() else { return };
            shared.commands.push(Command::Addresses(found.clone()));
            known = found;
        }
    }
}

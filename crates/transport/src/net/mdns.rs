//! Browsers hide their addresses behind `.local` names; multicast DNS (RFC 6762) tells what these stand for.
//!
//! [`Queries`] decides and is pure, [`Mdns`] has the sockets. They are only open while a name is asked for.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Type};

use super::interfaces::Address;

pub(crate) const TOKENS: [Token; 2] = [Token(usize::MAX - 1), Token(usize::MAX - 2)];

/// Names asked for at a time. Further ones are refused, and counted.
pub(crate) const MAX_NAMES: usize = 64;
/// When a question is asked again for the first time; then after twice as long each time (RFC 6762, section 5.2).
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// When a name that nobody answered for is given up. Chromium sends one message a second, announcements of other names
/// first: with a few names it takes five seconds for an answer.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Datagrams read in one turn.
const READS_A_TURN: usize = 32;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// A name with its address, or `None` when nobody answered.
pub(crate) type Answer = (String, Option<IpAddr>);

/// The names that are being asked for.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    names: BTreeMap<String, Query>,
}

#[derive(Debug)]
struct Query {
    began: Instant,
    ask_at: Instant,
    pause: Duration,
}

impl Queries {
    /// Asks for a name, in lower case. False if too many are being asked for.
    pub(crate) fn ask(&mut self, now: Instant, name: &str) -> bool {
        if let Some(query) = self.names.get_mut(name) {
            // Who asks now waits as long as who asked first.
            query.began = now;
        } else {
            if self.names.len() >= MAX_NAMES {
                return false;
            }
            self.names.insert(name.to_owned(), Query { began: now, ask_at: now, pause: ASK_AGAIN });
        }
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.names.values().map(|q| q.ask_at.min(q.began + GIVE_UP)).min()
    }

    /// The questions that are due, each a datagram; and the names that are given up.
    pub(crate) fn handle_timeout(&mut self, now: Instant, answers: &mut Vec<Answer>) -> Vec<Vec<u8>> {
        let mut questions = Vec::new();
        self.names.retain(|name, query| {
            if now >= query.began + GIVE_UP {
                answers.push((name.clone(), None));
                return false;
            }
            if now >= query.ask_at {
                query.ask_at = now + query.pause;
                query.pause *= 2;
                questions.extend(question(name));
            }
            true
        });
        questions
    }

    /// A datagram from the group.
    pub(crate) fn handle_data(&mut self, data: &[u8], answers: &mut Vec<Answer>) {
        each_address(data, |name, ip| {
            if self.names.remove(&name).is_some() {
                answers.push((name, Some(ip)));
            }
        });
    }
}

pub(crate) struct Mdns {
    pub(crate) queries: Queries,
    sockets: [Option<mio::net::UdpSocket>; 2],
    /// Questions that left on no interface.
    pub(crate) unsent: u64,
}

impl Mdns {
    pub(crate) fn new() -> Mdns {
        Mdns { queries: Queries::default(), sockets: [None, None], unsent: 0 }
    }

    /// Asks what is due on every interface, and closes the sockets when nothing is asked for any more.
    pub(crate) fn drive(
        &mut self,
        now: Instant,
        registry: &Registry,
        hosts: &[Address],
        answers: &mut Vec<Answer>,
    ) {
        if self.queries.poll_timeout().is_some_and(|at| at <= now) {
            let questions = self.queries.handle_timeout(now, answers);
            if !questions.is_empty() {
                self.open(registry, hosts);
            }
            for question in questions {
                self.unsent += u64::from(!self.send(hosts, &question));
            }
        }
        if self.queries.is_empty() {
            for socket in &mut self.sockets {
                if let Some(mut socket) = socket.take() {
                    let _ = registry.deregister(&mut socket);
                }
            }
        }
    }

    /// Reads what came to the socket of this token.
    pub(crate) fn receive(&mut self, token: Token, answers: &mut Vec<Answer>) {
        let Some(index) = TOKENS.iter().position(|t| *t == token) else { return };
        let Some(socket) = &self.sockets[index] else { return };
        // Longer messages than this are none that answer for a host.
        let mut buffer = [0; 2048];
        for _ in 0..READS_A_TURN {
            match socket.recv_from(&mut buffer) {
                Ok((len, from)) if from.port() == PORT => {
                    self.queries.handle_data(&buffer[..len], answers);
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
        // More waits; the edge is gone, but the question will be asked again and its answer is another edge.
    }

    fn open(&mut self, registry: &Registry, hosts: &[Address]) {
        for (index, v4) in [(0, true), (1, false)] {
            if self.sockets[index].is_some() || !hosts.iter().any(|h| h.ip.is_ipv4() == v4) {
                continue;
            }
            match open(v4, hosts) {
                Ok(mut socket) => match registry.register(&mut socket, TOKENS[index], Interest::READABLE) {
                    Ok(()) => self.sockets[index] = Some(socket),
                    Err(error) => tracing::debug!(%error, "multicast DNS"),
                },
                Err(error) => tracing::debug!(%error, v4, "no socket for multicast DNS"),
            }
        }
    }

    /// Returns whether it left anywhere.
    fn send(&self, hosts: &[Address], question: &[u8]) -> bool {
        let mut sent = false;
        for host in hosts {
            sent |= match host.ip {
                IpAddr::V4(ip) => self.sockets[0].as_ref().is_some_and(|socket| {
                    SockRef::from(socket).set_multicast_if_v4(&ip).is_ok()
                        && socket.send_to(question, SocketAddr::from((GROUP_V4, PORT))).is_ok()
                }),
                IpAddr::V6(_) => self.sockets[1].as_ref().is_some_and(|socket| {
                    let group = SocketAddrV6::new(GROUP_V6, PORT, 0, host.interface);
                    SockRef::from(socket).set_multicast_if_v6(host.interface).is_ok()
                        && socket.send_to(question, group.into()).is_ok()
                }),
            };
        }
        sent
    }
}

/// A socket at the port of multicast DNS, beside others of this host, that hears the group on every interface. A port of
/// its own would be enough for responders that answer one-shot queries (RFC 6762, section 6.7); Chromium's answers to the
/// group only.
fn open(v4: bool, hosts: &[Address]) -> io::Result<mio::net::UdpSocket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    let any = if v4 {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT))
    } else {
        socket.set_only_v6(true)?;
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))
    };
    socket.bind(&any.into())?;
    // Answers of this host's own browsers come back only so.
    let _ = if v4 { socket.set_multicast_loop_v4(true) } else { socket.set_multicast_loop_v6(true) };
    let mut joined = 0;
    for host in hosts {
        let result = match host.ip {
            IpAddr::V4(ip) if v4 => socket.join_multicast_v4(&GROUP_V4, &ip),
            IpAddr::V6(_) if !v4 => socket.join_multicast_v6(&GROUP_V6, host.interface),
            _ => continue,
        };
        // An interface with two addresses is joined once; one without multicast never.
        joined += u32::from(result.is_ok());
    }
    if joined == 0 {
        return Err(io::Error::other("no interface takes part in multicast"));
    }
    Ok(mio::net::UdpSocket::from_std(socket.into()))
}

/// Asks for both kinds of address, answers to be sent to the group (RFC 6762, section 5.4).
fn question(name: &str) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        encoded.push(len);
        encoded.extend_from_slice(label.as_bytes());
    }
    encoded.push(0);
    let mut out = vec![0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
    for kind in [TYPE_A, TYPE_AAAA] {
        out.extend_from_slice(&encoded);
        out.extend(kind.to_be_bytes());
        out.extend(CLASS_IN.to_be_bytes());
    }
    Some(out)
}

/// Calls `found` for each address in a response (RFC 1035, section 4.1), wherever in it. What can't be read ends it.
fn each_address(data: &[u8], mut found: impl FnMut(String, IpAddr)) {
    let word = |at: usize| Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]));
    let is_response = data.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let count = |at: usize| word(at).map_or(0, u32::from);
    if !is_response {
        return;
    }
    let mut at = 12;
    for _ in 0..count(4) {
        let Some((_, end)) = read_name(data, at) else { return };
        at = end + 4;
    }
    for _ in 0..count(6) + count(8) + count(10) {
        let Some((name, end)) = read_name(data, at) else { return };
        let (Some(kind), Some(class), Some(len)) = (word(end), word(end + 2), word(end + 8)) else { return };
        let Some(rdata) = data.get(end + 10..end + 10 + usize::from(len)) else { return };
        at = end + 10 + usize::from(len);
        // The top bit of the class says that the answer is all there is (RFC 6762, section 10.2).
        if class & 0x7fff != CLASS_IN {
            continue;
        }
        let ip = match kind {
            TYPE_A => <[u8; 4]>::try_from(rdata).ok().map(IpAddr::from),
            TYPE_AAAA => <[u8; 16]>::try_from(rdata).ok().map(IpAddr::from),
            _ => None,
        };
        if let (Some(name), Some(ip)) = (name, ip) {
            found(name, ip);
        }
    }
}

/// The name at `at`, in lower case, and where it ends. `None` inside is a name that is none of a host's. Pointers only go
/// back, so that there is an end.
fn read_name(data: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let mut name = String::new();
    let mut plain = true;
    let mut end = None;
    loop {
        let len = usize::from(*data.get(at)?);
        match len >> 6 {
            0 if len == 0 => return Some((plain.then_some(name), end.unwrap_or(at + 1))),
            0 => {
                let label = data.get(at + 1..at + 1 + len)?;
                if name.len() + len > 254 {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                for byte in label {
                    plain &= byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                    name.push(char::from(byte.to_ascii_lowercase()));
                }
                at += 1 + len;
            }
            3 => {
                let target = (len & 0x3f) << 8 | usize::from(*data.get(at + 1)?);
                end.get_or_insert(at + 2);
                if target >= at {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remotemedia_testkit::{Mutator, Random};

    fn answer(name: &str, ip: IpAddr) -> Vec<u8> {
        let mut out = vec![0, 0, 0x84, 0, 0, 0, 0, 2, 0, 0, 0, 0];
        // A record of another kind first, whose name the address's points to.
        for label in name.split('.') {
            out.push(label.len() as u8);
            out.extend(label.as_bytes());
        }
        out.extend([0, 0, 16, 0x80, 1, 0, 0, 0, 120, 0, 2, 1, b'x']);
        out.extend([0xc0, 12]);
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        out.extend([0, if ip.is_ipv4() { 1 } else { 28 }, 0x80, 1, 0, 0, 0, 120, 0, octets.len() as u8]);
        out.extend(octets);
        out
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_asked_for_until_it_is_answered_or_given_up() {
        let start = Instant::now();
        let ms = |n: u64| start + Duration::from_millis(n);
        let mut queries = Queries::default();
        let mut answers = Vec::new();
        assert!(
            queries.ask(start, "abc.local")
                && queries.ask(start, "def.local")
                && queries.ask(start, "abc.local")
        );
        let questions = queries.handle_timeout(start, &mut answers);
        assert_eq!(questions.len(), 2);
        let expected =
            b"\0\0\0\0\0\x02\0\0\0\0\0\0\x03abc\x05local\0\0\x01\0\x01\x03abc\x05local\0\0\x1c\0\x01";
        assert_eq!(questions[0], expected);
        assert_eq!(queries.handle_timeout(ms(999), &mut answers).len(), 0, "not twice in a second");
        queries.handle_data(&answer("ABC.local", ip("192.0.2.7")), &mut answers);
        queries.handle_data(&answer("abc.local", ip("192.0.2.8")), &mut answers);
        queries.handle_data(&answer("other.local", ip("192.0.2.9")), &mut answers);
        assert_eq!(answers, [("abc.local".to_owned(), Some(ip("192.0.2.7")))]);
        assert_eq!(queries.poll_timeout(), Some(ms(1000)));
        for at in [1000, 3000, 7000] {
            assert_eq!(queries.poll_timeout(), Some(ms(at)));
            assert_eq!(queries.handle_timeout(ms(at), &mut answers).len(), 1);
        }
        assert_eq!(queries.poll_timeout(), Some(ms(10_000)));
        assert_eq!(queries.handle_timeout(ms(10_000), &mut answers).len(), 0);
        assert_eq!(answers[1..], [("def.local".to_owned(), None)]);
        assert!(queries.is_empty() && queries.poll_timeout().is_none());
        for n in 0..1000 {
            assert_eq!(queries.ask(start, &format!("{n}.local")), n < MAX_NAMES);
        }
    }

    #[test]
    fn addresses_of_both_families_are_read_wherever_they_are() {
        let mut seen = Vec::new();
        for address in ["192.0.2.7", "2001:db8::7"] {
            each_address(&answer("a-b.local", ip(address)), |name, ip| seen.push((name, ip)));
        }
        assert_eq!(
            seen,
            [("a-b.local".to_owned(), ip("192.0.2.7")), ("a-b.local".to_owned(), ip("2001:db8::7"))]
        );
        let mut query = answer("a-b.local", ip("192.0.2.7"));
        query[2] = 0;
        each_address(&query, |name, _| panic!("{name} out of a query"));
    }

    #[test]
    fn damaged_answers_never_panic_and_pointers_never_loop() {
        let whole = answer("a-b.local", ip("192.0.2.7"));
        let mut mutator = Mutator::new(3);
        let mut found = 0;
        for _ in 0..20_000 {
            each_address(&mutator.bytes(&whole), |_, _| found += 1);
        }
        assert!(found > 100, "{found}");
        for len in 0..whole.len() {
            each_address(&whole[..len], |name, _| panic!("{name} out of {len} bytes"));
        }
        // A pointer to itself, to each other, forward.
        for tail in [&[0xc0, 12][..], &[1, b'a', 0xc0, 12], &[0xc0, 14, 0xc0, 12], &[0xc0, 200]] {
            let data = [&[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], tail, &[0; 40]].concat();
            each_address(&data, |name, _| panic!("{name}"));
        }
        let mut random = Random::new(9);
        for _ in 0..5_000 {
            let len = random.below(600);
            let mut data = random.bytes(len);
            if let Some(flags) = data.get_mut(2) {
                *flags |= 0x80;
            }
            each_address(&data, |_, _| {});
        }
    }
}

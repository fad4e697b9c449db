//! The TURN client: what its owner calls, times, and data. Requests and their answers are in `requests.rs`.

use super::auth::{Auth, Credentials};
use super::message::{Received, Writer, channel_data, parse_channel_data};
use super::peers::{Channels, Permissions};
use super::transaction::{Due, Kind, MIN_RTO, Transaction};
use super::{
    CREDENTIALS_WAIT, Family, MAX_PAYLOAD, MAX_PENDING, TurnConfig, TurnCounters, TurnError, TurnEvent,
};
use bytes::Bytes;
use rtc::crypto::RTCCryptoProvider;
use rtc::stun::attributes::{ATTR_DATA, ATTR_XOR_PEER_ADDRESS};
use rtc::stun::message::{CLASS_INDICATION, METHOD_BINDING, METHOD_DATA, METHOD_SEND};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Without traffic, something is sent to the server after this time: NATs forget UDP (RFC 8445, section 11).
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Between two [`TurnClient::check`]s.
const MIN_CHECK: Duration = Duration::from_secs(1);

/// One allocation at a TURN server: gets it, keeps it, sends and receives through it.
///
/// It keeps going while the server is silent, until the allocation has run out; [`TurnClient::check`] asks earlier. An
/// allocation that the server lost, as by a restart, is made anew and reported.
pub struct TurnClient {
    pub(super) config: TurnConfig,
    pub(super) crypto: Option<Arc<dyn RTCCryptoProvider>>,
    pub(super) state: State,
    pub(super) auth: Auth,
    pub(super) transactions: Vec<Transaction>,
    /// Requests that wait for other credentials.
    pub(super) parked: Vec<Kind>,
    pub(super) permissions: Permissions,
    pub(super) channels: Channels,
    /// When the present or last allocation was made.
    pub(super) made_at: Option<Instant>,
    /// The server may have an allocation of ours that we don't know of.
    pub(super) stray_allocation: bool,
    /// The first retransmission timeout.
    pub(super) rto: Duration,
    last_sent: Instant,
    last_check: Option<Instant>,
    wake: Option<Instant>,
    out: VecDeque<Bytes>,
    events: VecDeque<TurnEvent>,
    pub(super) counters: TurnCounters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Allocating,
    Active(Allocation),
    Closing,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allocation {
    pub relayed: SocketAddr,
    pub expires: Instant,
    /// `None` while a Refresh is under way.
    pub refresh_at: Option<Instant>,
}

impl TurnClient {
    /// Starts: the first Allocate request is ready to be sent. Over a stream, make it when the stream is connected.
    pub fn new(now: Instant, config: TurnConfig) -> Self {
        let credentials =
            Credentials { username: config.username.clone(), credential: config.credential.clone() };
        let bad = credentials.check().err();
        let mut client = Self {
            config,
            crypto: rtc::crypto::default_provider().ok(),
            state: State::Allocating,
            auth: Auth::new(credentials),
            transactions: Vec::new(),
            parked: Vec::new(),
            permissions: Permissions::default(),
            channels: Channels::new(),
            made_at: None,
            stray_allocation: false,
            rto: MIN_RTO,
            last_sent: now,
            last_check: None,
            wake: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            counters: TurnCounters::default(),
        };
        match bad {
            Some(error) => client.fail(error),
            None => client.start(now, Kind::Allocate, 0),
        }
        client.schedule();
        client
    }

    /// The server.
    pub fn server(&self) -> SocketAddr {
        self.config.server
    }

    /// The relayed address while there is an allocation.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.allocation().map(|a| a.relayed)
    }

    /// One datagram from the server, or one message from the [`super::StreamDeframer`]. True if it was for this client.
    pub fn handle_data(&mut self, now: Instant, data: &[u8]) -> bool {
        match data.first().map(|first| first >> 6) {
            Some(1) => self.handle_channel_data(data),
            Some(0) => {
                let Some(mut message) = Received::parse(data) else {
                    self.counters.malformed += 1;
                    return false;
                };
                let taken = if message.class() == CLASS_INDICATION {
                    self.handle_indication(&mut message)
                } else {
                    self.handle_answer(now, message)
                };
                self.schedule();
                taken
            }
            _ => {
                self.counters.malformed += 1;
                false
            }
        }
    }

    /// The time has come that [`Self::poll_timeout`] told.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.retransmit(now);
        if let State::Active(allocation) = self.state {
            if allocation.expires <= now {
                self.expired(now);
            } else if allocation.refresh_at.is_some_and(|at| at <= now) {
                self.refresh(now);
            }
        }
        self.ask_peers(now);
        self.ask_credentials(now);
        if self.keepalive_at().is_some_and(|at| at <= now) {
            let message = Writer::new(METHOD_BINDING, CLASS_INDICATION).finish();
            self.transmit(now, message);
        }
        self.schedule();
    }

    /// When [`Self::handle_timeout`] is due; `None` when nothing is awaited.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// What is to be sent to the server next: one datagram, or for a stream one padded message.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.out.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<TurnEvent> {
        self.events.pop_front()
    }

    /// Sends a datagram to a peer. Without a permission it waits for one, which is asked for. False if it was dropped,
    /// which is counted.
    pub fn send(&mut self, now: Instant, to: SocketAddr, payload: &[u8]) -> bool {
        let live = matches!(self.state, State::Active(_)) || self.first_allocation();
        if !live || !self.can_reach(to.ip()) || to.port() == 0 || payload.len() > MAX_PAYLOAD {
            self.counters.dropped_unsendable += 1;
            return false;
        }
        // A channel outlives a permission, and leads nowhere without one.
        if let Some(number) = self.channels.bound(now, to)
            && self.permissions.touch(now, to.ip())
        {
            let message = channel_data(number, payload, self.config.stream);
            return self.transmit_data(now, message, payload.len(), true);
        }
        let sent = self.send_unbound(now, to, payload);
        self.ask_peers(now);
        self.schedule();
        sent
    }

    /// Lets this peer send to us, from any of its ports, as soon as there is an allocation: for each remote candidate.
    /// Kept up while it is used: call it again for a peer to which nothing was sent for minutes.
    pub fn permit(&mut self, now: Instant, peer: IpAddr) {
        let open = !matches!(self.state, State::Closing | State::Closed);
        if open && self.can_reach(peer) && self.permissions.used(now, peer).is_some() {
            self.ask_peers(now);
            self.schedule();
        }
    }

    /// Is the allocation still there? Asks the server now: for when links through it fall silent. If the server lost
    /// it, a new one is made and reported. At most once a second.
    pub fn check(&mut self, now: Instant) {
        let recent = self.last_check.is_some_and(|at| now.saturating_duration_since(at) < MIN_CHECK);
        if !recent && self.allocation().is_some_and(|a| a.refresh_at.is_some()) {
            self.last_check = Some(now);
            self.refresh(now);
            self.schedule();
        }
    }

    /// Other credentials, used from the next request on. False, and nothing changes, if they are out of range.
    ///
    /// An allocation belongs to the name that it was made with (RFC 8656, section 5): where the server insists on that,
    /// it is kept with the old credentials, and the new ones are used when a new allocation is due.
    pub fn set_credentials(&mut self, now: Instant, username: String, credential: String) -> bool {
        let credentials = Credentials { username, credential };
        if credentials.check().is_err() {
            return false;
        }
        let waited = self.auth.waiting_since().is_some();
        if self.auth.set(credentials) {
            for kind in std::mem::take(&mut self.parked) {
                self.start(now, kind, 0);
            }
        } else if waited && self.state == State::Allocating {
            self.fail(TurnError::Unauthorized);
        }
        self.schedule();
        true
    }

    /// Gives the allocation back (a Refresh with lifetime 0). Keep the client going until [`Self::is_closed`], or send
    /// what [`Self::poll_transmit`] gives once and drop it.
    pub fn close(&mut self, now: Instant) {
        let exists = match self.state {
            State::Active(_) => true,
            // Its answer may be on the way.
            State::Allocating => {
                self.transactions.iter().any(|t| t.kind == Kind::Allocate && t.signed.is_some())
            }
            State::Closing | State::Closed => return,
        };
        self.forget_requests();
        let _ = self.permissions.lost(now);
        self.channels.lost();
        self.state = if exists { State::Closing } else { State::Closed };
        if exists {
            self.start(now, Kind::Release { then_allocate: false }, 0);
        }
        self.schedule();
    }

    /// Nothing more will be sent: closed or failed.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// What happened so far.
    pub fn counters(&self) -> TurnCounters {
        self.counters
    }

    pub(super) fn allocation(&self) -> Option<&Allocation> {
        match &self.state {
            State::Active(allocation) => Some(allocation),
            _ => None,
        }
    }

    /// On the way to the first allocation.
    fn first_allocation(&self) -> bool {
        self.state == State::Allocating && self.made_at.is_none()
    }

    fn can_reach(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.config.family && !ip.is_unspecified() && !ip.is_multicast()
    }

    /// Something for the server. There is room left for requests where data finds none.
    pub(super) fn transmit(&mut self, now: Instant, bytes: Bytes) {
        if self.out.len() >= 2 * MAX_PENDING {
            self.counters.dropped_full += 1;
            return;
        }
        self.last_sent = now;
        self.out.push_back(bytes);
    }

    pub(super) fn report(&mut self, event: TurnEvent) {
        self.events.push_back(event);
    }

    /// The end, with a reason.
    pub(super) fn fail(&mut self, error: TurnError) {
        self.forget_requests();
        self.out.clear();
        self.channels.lost();
        self.permissions = Permissions::default();
        self.state = State::Closed;
        self.report(TurnEvent::Failed(error));
    }

    pub(super) fn forget_requests(&mut self) {
        self.transactions.clear();
        self.parked.clear();
    }

    /// A datagram for a peer, as far as there is room.
    fn transmit_data(&mut self, now: Instant, message: Bytes, bytes: usize, channel: bool) -> bool {
        if self.out.len() >= MAX_PENDING {
            self.counters.dropped_full += 1;
            return false;
        }
        self.transmit(now, message);
        self.counters.sent_bytes += bytes as u64;
        let sent = if channel { &mut self.counters.sent_channel } else { &mut self.counters.sent_indication };
        *sent += 1;
        true
    }

    fn send_unbound(&mut self, now: Instant, to: SocketAddr, payload: &[u8]) -> bool {
        let active = matches!(self.state, State::Active(_));
        let Some(permission) = self.permissions.used(now, to.ip()) else {
            self.counters.dropped_unsendable += 1;
            return false;
        };
        if permission.refused(now) {
            self.counters.dropped_unpermitted += 1;
            return false;
        }
        if !active || !permission.granted(now) {
            self.counters.queued += 1;
            self.counters.dropped_unpermitted += permission.queue(to, Bytes::copy_from_slice(payload));
            return true;
        }
        // A peer that has answered carries data; of all the candidates that are tried, most never do.
        if permission.heard(to) {
            self.channels.want(now, to);
        }
        self.transmit_indication(now, to, payload)
    }

    pub(super) fn transmit_indication(&mut self, now: Instant, to: SocketAddr, payload: &[u8]) -> bool {
        let message = Writer::new(METHOD_SEND, CLASS_INDICATION)
            .address(ATTR_XOR_PEER_ADDRESS, to)
            .attribute(ATTR_DATA, payload)
            .finish();
        self.transmit_data(now, message, payload.len(), false)
    }

    fn handle_channel_data(&mut self, data: &[u8]) -> bool {
        let Some((number, payload)) = parse_channel_data(data) else {
            self.counters.malformed += 1;
            return false;
        };
        let Some(from) = self.channels.peer(number) else {
            self.counters.unexpected += 1;
            return false;
        };
        self.counters.received_channel += 1;
        self.receive(from, Bytes::copy_from_slice(payload));
        true
    }

    fn handle_indication(&mut self, message: &mut Received) -> bool {
        let from = message.address(ATTR_XOR_PEER_ADDRESS);
        // Without DATA it tells of an ICMP error at the relay (RFC 8656, section 11.5).
        let (true, Some(from)) = (message.method() == METHOD_DATA, from) else {
            self.counters.unexpected += 1;
            return false;
        };
        let (Some(data), Some(permission)) = (message.take(ATTR_DATA), self.permissions.get(from.ip()))
        else {
            self.counters.unexpected += 1;
            return true;
        };
        permission.hear(from);
        self.counters.received_indication += 1;
        self.receive(from, data);
        true
    }

    fn receive(&mut self, from: SocketAddr, data: Bytes) {
        if self.events.len() >= MAX_PENDING {
            self.counters.dropped_events += 1;
            return;
        }
        self.counters.received_bytes += data.len() as u64;
        self.report(TurnEvent::Data { from, data });
    }

    fn retransmit(&mut self, now: Instant) {
        let mut given_up = Vec::new();
        let mut index = 0;
        while index < self.transactions.len() {
            match self.transactions[index].timers.due(now) {
                Due::Nothing => index += 1,
                Due::Retransmit => {
                    self.counters.retransmits += 1;
                    let bytes = self.transactions[index].bytes.clone();
                    self.transmit(now, bytes);
                    index += 1;
                }
                Due::GiveUp => given_up.push(self.transactions.remove(index)),
            }
        }
        for transaction in given_up {
            self.unanswered(now, transaction);
        }
    }

    /// Asks for the permissions and channels that are due.
    pub(super) fn ask_peers(&mut self, now: Instant) {
        if self.allocation().is_none() {
            return;
        }
        for peer in self.permissions.due(now) {
            self.start(now, Kind::Permission(peer), 0);
        }
        for (peer, number) in self.channels.due(now) {
            self.start(now, Kind::Channel(peer, number), 0);
        }
    }

    fn ask_credentials(&mut self, now: Instant) {
        let Some(since) = self.auth.waiting_since() else { return };
        if self.state == State::Allocating {
            if now.saturating_duration_since(since) >= CREDENTIALS_WAIT {
                self.fail(TurnError::Unauthorized);
            }
        } else if self.auth.ask_at().is_some_and(|at| at <= now) {
            self.auth.asked(now);
            self.report(TurnEvent::CredentialsExpired);
        }
    }

    fn keepalive_at(&self) -> Option<Instant> {
        (!self.config.stream && self.allocation().is_some()).then(|| self.last_sent + KEEPALIVE)
    }

    /// When something is due next.
    fn schedule(&mut self) {
        let transactions = self.transactions.iter().map(|t| t.timers.next()).min();
        let mut wake = transactions;
        let mut at = |time: Option<Instant>| wake = wake.into_iter().chain(time).min();
        if let State::Active(allocation) = self.state {
            at(Some(allocation.expires));
            at(allocation.refresh_at);
            at(self.permissions.next());
            at(self.channels.next());
            at(self.keepalive_at());
            at(self.auth.ask_at());
        } else if self.state == State::Allocating {
            at(self.auth.waiting_since().map(|since| since + CREDENTIALS_WAIT));
        }
        self.wake = wake;
    }
}

impl std::fmt::Debug for TurnClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnClient")
            .field("config", &self.config)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

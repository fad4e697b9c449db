//! Requests of the TURN client and what their answers mean (RFC 8656, sections 7 to 12).

use super::auth::Verdict;
use super::client::{Allocation, State, TurnClient};
use super::message::{Received, Writer};
use super::transaction::{Kind, Timers, Transaction, rto_after};
use super::{Family, MAX_CHANNELS, MAX_PERMISSIONS, TurnError, TurnEvent};
use rtc::stun::attributes::{
    ATTR_CHANNEL_NUMBER, ATTR_LIFETIME, ATTR_REQUESTED_ADDRESS_FAMILY, ATTR_REQUESTED_TRANSPORT,
    ATTR_XOR_PEER_ADDRESS, ATTR_XOR_RELAYED_ADDRESS, ATTR_XORMAPPED_ADDRESS,
};
use rtc::stun::message::{CLASS_REQUEST, CLASS_SUCCESS_RESPONSE};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A Refresh that got no answer or an error is tried again after this time, until the allocation runs out.
const REFRESH_AGAIN: Duration = Duration::from_secs(2);
/// An allocation that is lost so soon isn't made again.
const MIN_ALLOCATION: Duration = Duration::from_secs(10);
/// Lifetimes that servers grant are taken to be within these bounds, in seconds.
const LIFETIMES: std::ops::RangeInclusive<u32> = 2..=86_400;
/// IPPROTO_UDP and three reserved bytes (RFC 8656, section 18.7).
const TRANSPORT_UDP: [u8; 4] = [17, 0, 0, 0];
/// IPv6 and three reserved bytes (RFC 8656, section 18.8).
const FAMILY_V6: [u8; 4] = [2, 0, 0, 0];
/// CreatePermission names an address; the port means nothing (RFC 8656, section 10.1).
const ANY_PORT: u16 = 9;

impl TurnClient {
    /// Sends a request, or keeps it for other credentials. `stale`: how often its like was just sent again.
    pub(super) fn start(&mut self, now: Instant, kind: Kind, stale: u32) {
        let release = matches!(kind, Kind::Release { .. });
        if self.auth.waiting_since().is_some() && !release {
            self.park(now, kind);
            return;
        }
        let request = Writer::new(kind.method(), CLASS_REQUEST);
        let id = request.id();
        let request = match kind {
            Kind::Allocate => {
                let request = request.attribute(ATTR_REQUESTED_TRANSPORT, &TRANSPORT_UDP);
                match self.config.family {
                    Family::V4 => request,
                    Family::V6 => request.attribute(ATTR_REQUESTED_ADDRESS_FAMILY, &FAMILY_V6),
                }
            }
            Kind::Refresh => request,
            Kind::Release { .. } => request.attribute(ATTR_LIFETIME, &[0; 4]),
            Kind::Permission(peer) => request.address(ATTR_XOR_PEER_ADDRESS, SocketAddr::new(peer, ANY_PORT)),
            Kind::Channel(peer, number) => {
                let [high, low] = number.to_be_bytes();
                request
                    .attribute(ATTR_CHANNEL_NUMBER, &[high, low, 0, 0])
                    .address(ATTR_XOR_PEER_ADDRESS, peer)
            }
        };
        let Some(crypto) = self.crypto.clone() else {
            return self.fail(TurnError::Protocol("no cryptography"));
        };
        match self.auth.sign(request, crypto.crypto()) {
            Ok(signed) => {
                let timers = Timers::start(now, self.rto, self.config.stream);
                let mut transaction = Transaction::new(kind, id, signed, timers);
                transaction.stale = stale;
                self.counters.requests += 1;
                self.transmit(now, transaction.bytes.clone());
                self.transactions.push(transaction);
            }
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn refresh(&mut self, now: Instant) {
        if let State::Active(allocation) = &mut self.state {
            allocation.refresh_at = None;
            self.start(now, Kind::Refresh, 0);
        }
    }

    /// The allocation ran out before a Refresh came through.
    pub(super) fn expired(&mut self, now: Instant) {
        self.auth.lost();
        if self.auth.waiting_since().is_some() {
            self.fail(TurnError::Unauthorized);
        } else {
            self.stray_allocation = true;
            self.lost(now);
        }
    }

    /// An answer from the server. False if nobody asked.
    pub(super) fn handle_answer(&mut self, now: Instant, mut answer: Received) -> bool {
        let found =
            self.transactions.iter().position(|t| t.id == answer.id() && t.kind.method() == answer.method());
        let (Some(index), true) = (found, answer.class() != CLASS_REQUEST) else {
            self.counters.unexpected += 1;
            return false;
        };
        let error = answer.error();
        let transaction = &mut self.transactions[index];
        let trusted = match (&transaction.signed, &self.crypto) {
            (None, _) => true,
            (Some(signed), Some(crypto)) if answer.has_integrity() => {
                if !answer.verify(&signed.key, crypto.crypto()) {
                    self.counters.unauthenticated += 1;
                    return true;
                }
                true
            }
            _ => false,
        };
        if !trusted {
            match &error {
                // These three are answered without integrity: the server and we don't agree on a key.
                Some((401 | 438 | 441, _)) => {}
                // A stream can't be written into by others.
                Some(_) if self.config.stream => {}
                Some((code, reason)) => {
                    self.counters.unauthenticated += 1;
                    transaction.doubt(now, *code, reason.clone());
                    return true;
                }
                None => {
                    self.counters.unauthenticated += 1;
                    return true;
                }
            }
        }
        let transaction = self.transactions.remove(index);
        self.rto = rto_after(now.saturating_duration_since(transaction.timers.first()));
        match error {
            None if answer.class() == CLASS_SUCCESS_RESPONSE => {
                if transaction.signed.is_some() {
                    self.auth.accepted();
                }
                self.succeeded(now, transaction, &answer);
            }
            None => {}
            Some((401, _)) => {
                let verdict = self.auth.unauthorized(&answer, &transaction);
                self.judged(now, transaction, verdict);
            }
            Some((438, _)) if transaction.signed.is_some() => {
                self.counters.stale_nonces += 1;
                let verdict = self.auth.stale(&answer, &transaction);
                self.judged(now, transaction, verdict);
            }
            Some((441, _)) if self.auth.wrong_name(&transaction) => {
                self.start(now, transaction.kind, transaction.stale + 1);
            }
            Some((300, _)) if transaction.kind == Kind::Allocate => {
                self.counters.errors += 1;
                let error = match answer.alternate_server() {
                    Some(server) => TurnError::TryAlternate { server },
                    None => TurnError::Protocol("300 without ALTERNATE-SERVER"),
                };
                self.fail(error);
            }
            Some((code, reason)) => self.refused(now, &transaction, code, reason),
        }
        true
    }

    /// All sendings were in vain.
    pub(super) fn unanswered(&mut self, now: Instant, mut transaction: Transaction) {
        if let Some((code, reason)) = transaction.doubtful() {
            return self.refused(now, &transaction, code, reason);
        }
        self.counters.timeouts += 1;
        self.in_vain(now, transaction.kind, TurnError::Timeout);
    }

    fn succeeded(&mut self, now: Instant, transaction: Transaction, answer: &Received) {
        let sent = transaction.timers.first();
        match transaction.kind {
            Kind::Allocate => self.allocated(now, &transaction, answer),
            Kind::Refresh => {
                let Some(lifetime) = answer.lifetime() else {
                    return self.in_vain(now, Kind::Refresh, TurnError::Protocol("no LIFETIME"));
                };
                if lifetime == 0 {
                    return self.lost(now);
                }
                if let State::Active(allocation) = &mut self.state {
                    allocation.keep(sent, now, lifetime);
                }
            }
            Kind::Release { then_allocate } => self.released(now, then_allocate),
            Kind::Permission(peer) => {
                for (to, payload) in self.permissions.granted(sent, peer) {
                    self.transmit_indication(now, to, &payload);
                }
            }
            Kind::Channel(peer, _) => self.channels.granted(now, sent, peer),
        }
    }

    fn allocated(&mut self, now: Instant, transaction: &Transaction, answer: &Received) {
        let (relayed, mapped) =
            (answer.address(ATTR_XOR_RELAYED_ADDRESS), answer.address(ATTR_XORMAPPED_ADDRESS));
        let (Some(relayed), Some(mapped)) = (relayed, mapped) else {
            return self.fail(TurnError::Protocol("an allocation without its addresses"));
        };
        if Family::of(relayed.ip()) != self.config.family {
            return self.fail(TurnError::FamilyNotSupported);
        }
        let Some(lifetime) = answer.lifetime().filter(|l| *l > 0) else {
            return self.fail(TurnError::Protocol("an allocation without a lifetime"));
        };
        let mut allocation = Allocation { relayed, expires: now, refresh_at: None };
        allocation.keep(transaction.timers.first(), now, lifetime);
        self.auth.allocated(transaction.signed.as_ref());
        self.counters.allocations += 1;
        self.made_at = Some(now);
        self.stray_allocation = false;
        self.state = State::Active(allocation);
        self.report(TurnEvent::Allocated { relayed, mapped });
        self.ask_peers(now);
    }

    /// 401 or 438.
    fn judged(&mut self, now: Instant, transaction: Transaction, verdict: Verdict) {
        let kind = transaction.kind;
        match verdict {
            Verdict::Again => {
                // If its answer was lost, the first one was carried out, and the second will be a mismatch.
                self.stray_allocation |= kind == Kind::Allocate && transaction.signed.is_some();
                self.start(now, kind, transaction.stale + 1);
            }
            Verdict::Park => match kind {
                Kind::Release { then_allocate } => self.released(now, then_allocate),
                _ => self.park(now, kind),
            },
            Verdict::Loop => self.in_vain(now, kind, TurnError::NonceLoop),
            Verdict::Malformed => {
                self.in_vain(now, kind, TurnError::Protocol("a challenge without REALM or NONCE"))
            }
        }
    }

    fn park(&mut self, now: Instant, kind: Kind) {
        if self.auth.park(now) {
            if self.state == State::Allocating && self.auth.hopeless() {
                return self.fail(TurnError::Unauthorized);
            }
            self.report(TurnEvent::CredentialsExpired);
        }
        if self.parked.len() < MAX_PERMISSIONS + MAX_CHANNELS {
            self.parked.push(kind);
        } else {
            self.in_vain(now, kind, TurnError::Unauthorized);
        }
    }

    /// An error answer other than those that are about credentials.
    fn refused(&mut self, now: Instant, transaction: &Transaction, code: u16, reason: String) {
        self.counters.errors += 1;
        match (transaction.kind, code) {
            (Kind::Allocate, 437) if self.stray_allocation => {
                self.stray_allocation = false;
                self.start(now, Kind::Release { then_allocate: true }, 0);
            }
            (Kind::Allocate, _) => self.fail(match code {
                437 => TurnError::AllocationMismatch,
                440 => TurnError::FamilyNotSupported,
                // The attribute that a server of before RFC 6156 doesn't know.
                420 if self.config.family == Family::V6 => TurnError::FamilyNotSupported,
                486 => TurnError::QuotaReached,
                508 => TurnError::InsufficientCapacity,
                code => TurnError::Refused { code, reason },
            }),
            (Kind::Release { then_allocate }, _) => self.released(now, then_allocate),
            (_, 437) => self.lost(now),
            (Kind::Refresh, code) => self.in_vain(now, Kind::Refresh, TurnError::Refused { code, reason }),
            (Kind::Permission(peer), code) => {
                self.counters.dropped_unpermitted += self.permissions.refused(now, peer);
                self.report(TurnEvent::PeerRefused { peer, code });
            }
            (Kind::Channel(peer, _), _) => self.channels.refused(now, peer),
        }
    }

    /// A request came to nothing.
    fn in_vain(&mut self, now: Instant, kind: Kind, error: TurnError) {
        match kind {
            Kind::Allocate => self.fail(error),
            Kind::Refresh => {
                if let State::Active(allocation) = &mut self.state {
                    allocation.refresh_at = Some(now + REFRESH_AGAIN);
                }
            }
            Kind::Release { then_allocate: true } => self.fail(error),
            Kind::Release { then_allocate: false } => self.state = State::Closed,
            Kind::Permission(peer) => {
                self.counters.dropped_unpermitted += self.permissions.unanswered(now, peer);
            }
            Kind::Channel(peer, _) => self.channels.unanswered(now, peer),
        }
    }

    fn released(&mut self, now: Instant, then_allocate: bool) {
        if then_allocate {
            self.start(now, Kind::Allocate, 0);
        } else {
            self.state = State::Closed;
        }
    }

    /// The server has no allocation of ours any more: everything from the beginning.
    fn lost(&mut self, now: Instant) {
        let young = self.made_at.is_some_and(|at| now.saturating_duration_since(at) < MIN_ALLOCATION);
        if young {
            return self.fail(TurnError::AllocationMismatch);
        }
        self.forget_requests();
        self.counters.dropped_unpermitted += self.permissions.lost(now);
        self.channels.lost();
        self.auth.lost();
        self.state = State::Allocating;
        self.start(now, Kind::Allocate, 0);
    }
}

impl Allocation {
    /// The server granted so many seconds to what was sent at `sent`. Refreshed after half of them, which leaves as much
    /// for a network that is away.
    fn keep(&mut self, sent: Instant, now: Instant, lifetime: u32) {
        let lifetime = Duration::from_secs(lifetime.clamp(*LIFETIMES.start(), *LIFETIMES.end()).into());
        self.expires = sent + lifetime;
        self.refresh_at = Some((sent + lifetime / 2).max(now + Duration::from_secs(1)));
    }
}

//! Whom the server lets through: permissions by address, channels by address and port. Tables and times; the requests
//! are the client's.

use super::{MAX_CHANNELS, MAX_PERMISSIONS, MAX_QUEUED_BYTES_PER_PEER, MAX_QUEUED_PER_PEER};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// RFC 8656, section 9.
pub(super) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// Leaves 90 s to reach the server in.
const PERMISSION_REFRESH: Duration = Duration::from_secs(210);
/// RFC 8656, section 12.
pub(super) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// Half of it, for the same reason.
const CHANNEL_REFRESH: Duration = Duration::from_secs(300);
/// How long after its end a number belongs to its peer still.
const CHANNEL_REST: Duration = Duration::from_secs(300);
/// What hasn't been used for so long isn't refreshed.
const UNUSED: Duration = Duration::from_secs(300);
/// What was used within this time doesn't make room, and is asked for again when an answer didn't come.
const IN_USE: Duration = Duration::from_secs(30);
/// After an answer that didn't come.
const AGAIN: Duration = Duration::from_secs(1);
/// After an error answer.
const REFUSED: Duration = Duration::from_secs(30);
/// The most ports of one address of which it is remembered that they were heard from.
const MAX_HEARD: usize = 16;

const FIRST_CHANNEL: u16 = 0x4000;
const LAST_CHANNEL: u16 = 0x4fff;

/// One peer address.
pub(super) struct Permission {
    granted_until: Option<Instant>,
    /// A request is under way.
    asking: bool,
    /// When to ask (again); `None` while asking, and where nobody needs it.
    next: Option<Instant>,
    refused_until: Option<Instant>,
    last_used: Instant,
    waiting: VecDeque<(SocketAddr, Bytes)>,
    waiting_bytes: usize,
    heard: VecDeque<SocketAddr>,
}

impl Permission {
    fn new(now: Instant) -> Self {
        Self {
            granted_until: None,
            asking: false,
            next: Some(now),
            refused_until: None,
            last_used: now,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            heard: VecDeque::new(),
        }
    }

    pub fn granted(&self, now: Instant) -> bool {
        self.granted_until.is_some_and(|until| now < until)
    }

    pub fn refused(&self, now: Instant) -> bool {
        self.refused_until.is_some_and(|until| now < until)
    }

    /// Keeps a datagram until the permission comes. How many older ones were dropped for it.
    pub fn queue(&mut self, to: SocketAddr, data: Bytes) -> u64 {
        self.waiting_bytes += data.len();
        self.waiting.push_back((to, data));
        let mut dropped = 0;
        while self.waiting.len() > MAX_QUEUED_PER_PEER || self.waiting_bytes > MAX_QUEUED_BYTES_PER_PEER {
            let Some((_, old)) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= old.len();
            dropped += 1;
        }
        dropped
    }

    fn take_waiting(&mut self) -> VecDeque<(SocketAddr, Bytes)> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// A datagram came from this port.
    pub fn hear(&mut self, from: SocketAddr) {
        if !self.heard.contains(&from) {
            if self.heard.len() == MAX_HEARD {
                self.heard.pop_front();
            }
            self.heard.push_back(from);
        }
    }

    pub fn heard(&self, from: SocketAddr) -> bool {
        self.heard.contains(&from)
    }
}

/// All peer addresses.
#[derive(Default)]
pub(super) struct Permissions(HashMap<IpAddr, Permission>);

impl Permissions {
    pub fn get(&mut self, peer: IpAddr) -> Option<&mut Permission> {
        self.0.get_mut(&peer)
    }

    /// The entry of this peer, made if need be, and marked as used. `None` if there is no room.
    pub fn used(&mut self, now: Instant, peer: IpAddr) -> Option<&mut Permission> {
        if !self.0.contains_key(&peer) {
            if self.0.len() >= MAX_PERMISSIONS {
                let oldest = self.0.iter().min_by_key(|(_, p)| p.last_used).map(|(ip, p)| (*ip, p.last_used));
                let (oldest, _) =
                    oldest.filter(|(_, used)| now.saturating_duration_since(*used) >= IN_USE)?;
                self.0.remove(&oldest);
            }
            self.0.insert(peer, Permission::new(now));
        }
        let permission = self.0.get_mut(&peer)?;
        permission.last_used = now;
        // Whoever is used again after a while is asked for again.
        if !permission.asking && !permission.granted(now) && permission.next.is_none() {
            permission.next = Some(permission.refused_until.map_or(now, |until| until.max(now)));
        }
        Some(permission)
    }

    /// Something is to be sent to this peer over a channel: true if it is let through, and then it counts as used.
    pub fn touch(&mut self, now: Instant, peer: IpAddr) -> bool {
        let Some(permission) = self.0.get_mut(&peer).filter(|p| p.granted(now)) else { return false };
        permission.last_used = now;
        true
    }

    /// Those to be asked for now. They count as asked for.
    pub fn due(&mut self, now: Instant) -> Vec<IpAddr> {
        let mut due = Vec::new();
        self.0.retain(|ip, p| {
            if p.next.is_some_and(|next| next <= now) {
                p.next = None;
                if now.saturating_duration_since(p.last_used) < UNUSED {
                    p.asking = true;
                    due.push(*ip);
                }
            }
            p.asking || p.next.is_some() || p.granted(now) || p.refused(now)
        });
        due
    }

    /// The request sent at `sent` was granted: what waited for it.
    pub fn granted(&mut self, sent: Instant, peer: IpAddr) -> VecDeque<(SocketAddr, Bytes)> {
        let Some(p) = self.0.get_mut(&peer) else { return VecDeque::new() };
        p.asking = false;
        p.refused_until = None;
        p.granted_until = Some(sent + PERMISSION_LIFETIME);
        p.next = Some(sent + PERMISSION_REFRESH);
        p.take_waiting()
    }

    /// No answer. How many datagrams were dropped.
    pub fn unanswered(&mut self, now: Instant, peer: IpAddr) -> u64 {
        let Some(p) = self.0.get_mut(&peer) else { return 0 };
        p.asking = false;
        let used = now.saturating_duration_since(p.last_used) < IN_USE;
        p.next = (used || p.granted(now)).then_some(now + AGAIN);
        p.take_waiting().len() as u64
    }

    /// An error answer. How many datagrams were dropped.
    pub fn refused(&mut self, now: Instant, peer: IpAddr) -> u64 {
        let Some(p) = self.0.get_mut(&peer) else { return 0 };
        p.asking = false;
        p.granted_until = None;
        p.refused_until = Some(now + REFUSED);
        p.next = None;
        p.take_waiting().len() as u64
    }

    /// The allocation is gone: those still in use are to be asked for anew. How many datagrams were dropped.
    pub fn lost(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        self.0.retain(|_, p| {
            dropped += p.take_waiting().len() as u64;
            now.saturating_duration_since(p.last_used) < IN_USE
        });
        for p in self.0.values_mut() {
            let last_used = p.last_used;
            *p = Permission { last_used, ..Permission::new(now) };
        }
        dropped
    }

    pub fn next(&self) -> Option<Instant> {
        let one = |p: &Permission| match p.next {
            None if p.asking => None,
            None => p.granted_until.into_iter().chain(p.refused_until).max(),
            next => next,
        };
        self.0.values().filter_map(one).min()
    }
}

/// One channel.
pub(super) struct Channel {
    number: u16,
    bound_until: Option<Instant>,
    asking: bool,
    /// When to ask (again).
    next: Option<Instant>,
    /// Until then the number is this peer's, whatever the server took it for.
    rests_until: Instant,
    last_used: Instant,
}

/// All channels.
pub(super) struct Channels {
    by_peer: HashMap<SocketAddr, Channel>,
    by_number: HashMap<u16, SocketAddr>,
    next_number: u16,
}

impl Channels {
    pub fn new() -> Self {
        Self { by_peer: HashMap::new(), by_number: HashMap::new(), next_number: FIRST_CHANNEL }
    }

    /// The number to send to this peer with, and that it is used.
    pub fn bound(&mut self, now: Instant, peer: SocketAddr) -> Option<u16> {
        let channel = self.by_peer.get_mut(&peer)?;
        if channel.bound_until.is_none_or(|until| until <= now) {
            return None;
        }
        channel.last_used = now;
        Some(channel.number)
    }

    /// Whose channel this is.
    pub fn peer(&self, number: u16) -> Option<SocketAddr> {
        self.by_number.get(&number).copied()
    }

    /// A channel is wanted for this peer: true if [`Self::due`] has something to ask for.
    pub fn want(&mut self, now: Instant, peer: SocketAddr) -> bool {
        if let Some(channel) = self.by_peer.get_mut(&peer) {
            channel.last_used = now;
            if channel.asking || channel.next.is_some() {
                return false;
            }
            channel.next = Some(now);
            return true;
        }
        if self.by_peer.len() >= MAX_CHANNELS {
            return false;
        }
        while self.by_number.contains_key(&self.next_number) {
            self.next_number = after(self.next_number);
        }
        let number = self.next_number;
        self.next_number = after(number);
        let (bound_until, asking, next, rests_until, last_used) = (None, false, Some(now), now, now);
        self.by_peer.insert(peer, Channel { number, bound_until, asking, next, rests_until, last_used });
        self.by_number.insert(number, peer);
        true
    }

    /// Those to be asked for now. They count as asked for. Numbers that have rested are free.
    pub fn due(&mut self, now: Instant) -> Vec<(SocketAddr, u16)> {
        let mut due = Vec::new();
        let by_number = &mut self.by_number;
        self.by_peer.retain(|peer, c| {
            if c.next.is_some_and(|next| next <= now) {
                c.next = None;
                if now.saturating_duration_since(c.last_used) < UNUSED {
                    c.asking = true;
                    // From now on the server may have it, answer or not.
                    c.rests_until = now + CHANNEL_LIFETIME + CHANNEL_REST;
                    due.push((*peer, c.number));
                }
            }
            let keep = c.asking || c.next.is_some() || c.rests_until > now;
            if !keep {
                by_number.remove(&c.number);
            }
            keep
        });
        due
    }

    /// The request sent at `sent`, answered now, was granted.
    pub fn granted(&mut self, now: Instant, sent: Instant, peer: SocketAddr) {
        let Some(c) = self.by_peer.get_mut(&peer) else { return };
        c.asking = false;
        c.bound_until = Some(sent + CHANNEL_LIFETIME);
        c.next = Some(sent + CHANNEL_REFRESH);
        c.rests_until = now + CHANNEL_LIFETIME + CHANNEL_REST;
    }

    /// No answer.
    pub fn unanswered(&mut self, now: Instant, peer: SocketAddr) {
        let Some(c) = self.by_peer.get_mut(&peer) else { return };
        c.asking = false;
        c.rests_until = now + CHANNEL_LIFETIME + CHANNEL_REST;
        let used = now.saturating_duration_since(c.last_used) < IN_USE;
        let bound = c.bound_until.is_some_and(|until| now < until);
        c.next = (used || bound).then_some(now + AGAIN);
    }

    /// An error answer: Send indications will do, for a while.
    pub fn refused(&mut self, now: Instant, peer: SocketAddr) {
        let Some(c) = self.by_peer.get_mut(&peer) else { return };
        c.asking = false;
        c.bound_until = None;
        c.next = Some(now + REFUSED);
    }

    /// The allocation is gone, and with it all channels. Numbers go on counting, so that what is still under way isn't
    /// taken for another peer's.
    pub fn lost(&mut self) {
        self.by_peer.clear();
        self.by_number.clear();
    }

    pub fn next(&self) -> Option<Instant> {
        let one = |c: &Channel| if c.asking { None } else { Some(c.next.unwrap_or(c.rests_until)) };
        self.by_peer.values().filter_map(one).min()
    }
}

fn after(number: u16) -> u16 {
    if number == LAST_CHANNEL { FIRST_CHANNEL } else { number + 1 }
}

//! The links' ICE: what connects, what falls silent and when that is noticed.

use std::collections::BTreeSet;

use remotemedia_mesh::*;

use super::{Event, FakeLink, MS, S, World, pair};

/// Silence after which a link says so.
const QUIET: u64 = 4 * S;
/// Silence after which an engine gives up by itself. The mesh is to be first.
const GIVE_UP: u64 = 170 * S;

#[derive(Debug)]
pub struct Ice {
    /// Our generation, and the one of an offer that is not answered.
    pub local: u64,
    pub staged: Option<u64>,
    remote: Option<u64>,
    /// Where the peer said that it is, in this generation.
    pub remote_addresses: BTreeSet<u64>,
    /// The pair in use: our address and the peer's.
    selected: Option<(u64, u64)>,
    alive: bool,
    pub state: LinkState,
    /// Counts changes, so that what was scheduled before one is void.
    epoch: u64,
}

impl Ice {
    pub fn new(generation: u64) -> Self {
        Self {
            local: generation,
            staged: None,
            remote: None,
            remote_addresses: BTreeSet::new(),
            selected: None,
            alive: false,
            state: LinkState::New,
            epoch: 0,
        }
    }

    /// A description of the peer's is set.
    fn take(&mut self, generation: u64, address: u64) {
        if self.remote != Some(generation) {
            self.remote_addresses.clear();
        }
        self.remote = Some(generation);
        self.remote_addresses.insert(address);
    }
}

impl World {
    // ---- what a test does

    /// No path between the two for a while. A longer cut that is there already stays.
    pub fn cut(&mut self, a: &str, b: &str, us: u64) {
        let until = self.now + us;
        let end = self.cuts.entry(pair(a, b)).or_default();
        *end = (*end).max(until);
        self.schedule(us, Event::Rejoined(pair(a, b)));
        self.look_at_paths();
    }

    /// The node has another address. If it knows, its links are told; else its peers notice, if they hear from it.
    pub fn change_address(&mut self, id: &str, knows: bool) {
        let number = self.number();
        let Some(node) = self.nodes.get_mut(id).filter(|node| node.alive) else { return };
        (node.address, node.blind) = (number, !knows);
        let links: Vec<(LinkId, u64)> = node.links.iter().map(|(link, it)| (*link, it.session)).collect();
        self.look_at_paths();
        for (link, session) in links {
            if knows {
                // Gathered anew for what is being negotiated.
                self.gather(id, link);
                self.input(id, Input::PathSuspect { link });
            } else {
                self.schedule(S + 500 * MS, Event::Moved { session });
            }
        }
    }

    pub fn is_cut(&self, a: &str, b: &str) -> bool {
        self.cuts.contains_key(&pair(a, b))
    }

    /// When the last cut ends.
    pub fn whole_at(&self) -> u64 {
        self.cuts.values().copied().fold(self.now, u64::max)
    }

    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    // ---- what the negotiation does

    pub fn ice_offered(&mut self, session: u64, sdp: &str) {
        let fresh = self.number();
        let Some((_, _, it)) = self.fake(session) else { return };
        let (generation, address) = read(sdp);
        let restarts = it.ice.remote.is_some_and(|known| known != generation);
        it.ice.take(generation, address);
        if restarts {
            it.ice.local = fresh;
            self.restarted(session);
        }
    }

    pub fn ice_answered(&mut self, session: u64, sdp: &str) {
        let Some((_, _, it)) = self.fake(session) else { return };
        let (generation, address) = read(sdp);
        let staged = it.ice.staged.take();
        it.ice.take(generation, address);
        if let Some(generation) = staged {
            it.ice.local = generation;
            self.restarted(session);
        }
    }

    /// New credentials: the pair in use is given up.
    fn restarted(&mut self, session: u64) {
        let Some((_, _, it)) = self.fake(session) else { return };
        let was_up = it.ice.selected.take().is_some() || it.ice.state != LinkState::New;
        it.ice.alive = false;
        if was_up {
            self.set_ice(session, LinkState::Connecting);
            self.expect_silence(session, GIVE_UP);
        }
    }

    // ---- the machinery

    /// After anything that makes or breaks paths.
    pub fn look_at_paths(&mut self) {
        let sessions: Vec<u64> =
            self.nodes.values().flat_map(|node| node.links.values().map(|it| it.session)).collect();
        for session in sessions {
            self.look_at(session);
        }
    }

    fn look_at(&mut self, session: u64) {
        if self.can_connect(session) {
            let remote = self.fake(session).and_then(|(_, _, it)| it.remote);
            if let Some(remote) = remote {
                let after = MS + self.below(20 * MS);
                self.schedule(after, Event::Establish(session, remote));
            }
        }
        let alive = self.is_alive(session);
        let Some((_, _, it)) = self.fake(session) else { return };
        if it.ice.selected.is_none() || std::mem::replace(&mut it.ice.alive, alive) == alive {
            return;
        }
        it.ice.epoch += 1;
        if alive {
            if it.ice.state == LinkState::Disconnected {
                self.set_ice(session, LinkState::Connected);
            }
        } else {
            let epoch = it.ice.epoch;
            self.schedule(QUIET, Event::Quiet { session, epoch });
        }
    }

    /// Both ends, as far as they know each other's generation.
    fn ends(&mut self, session: u64) -> Option<(End, End)> {
        let remote = self.fake(session)?.2.remote?;
        let (a, b) = (self.end(session)?, self.end(remote)?);
        (a.remote == Some(b.local) && b.remote == Some(a.local)).then_some((a, b))
    }

    fn end(&mut self, session: u64) -> Option<End> {
        let (id, ..) = self.fake(session)?;
        let address = self.nodes[&id].address;
        let (_, _, it) = self.fake(session)?;
        let ice = &it.ice;
        Some(End {
            address,
            local: ice.local,
            remote: ice.remote,
            knows: ice.remote_addresses.clone(),
            selected: ice.selected,
            id,
        })
    }

    fn can_connect(&mut self, session: u64) -> bool {
        let Some((a, b)) = self.ends(session) else { return false };
        let reaches = a.knows.contains(&b.address) || b.knows.contains(&a.address);
        (a.selected.is_none() || b.selected.is_none()) && reaches && !self.is_cut(&a.id, &b.id)
    }

    /// What goes out on the pair in use comes back.
    fn is_alive(&mut self, session: u64) -> bool {
        let Some((a, b)) = self.ends(session) else { return false };
        let fits = a.selected == Some((a.address, b.address));
        fits && b.selected.is_some() && !self.is_cut(&a.id, &b.id)
    }

    pub fn establish(&mut self, a: u64, b: u64) {
        if !self.can_connect(a) {
            return;
        }
        let Some((end_a, end_b)) = self.ends(a) else { return };
        for (session, mate, selected) in
            [(a, b, (end_a.address, end_b.address)), (b, a, (end_b.address, end_a.address))]
        {
            let Some((id, link, it)) = self.fake(session) else { return };
            let first = it.mate.is_none();
            it.mate = Some(mate);
            (it.ice.selected, it.ice.alive) = (Some(selected), true);
            it.ice.epoch += 1;
            self.set_ice(session, LinkState::Connected);
            if first {
                self.report(&id, link, Input::ChannelOpen { link }, false);
            }
        }
    }

    pub fn quiet(&mut self, session: u64, epoch: u64) {
        if self.fake(session).is_some_and(|(_, _, it)| it.ice.epoch == epoch) {
            self.set_ice(session, LinkState::Disconnected);
            self.expect_silence(session, GIVE_UP);
        }
    }

    pub fn give_up(&mut self, session: u64, epoch: u64) {
        if self.fake(session).is_some_and(|(_, _, it)| it.ice.epoch == epoch) {
            self.set_ice(session, LinkState::Failed);
        }
    }

    /// The peers of a node that moved without knowing hear it from elsewhere, as long as it still sends to them.
    pub fn moved(&mut self, session: u64) {
        let Some((a, b)) = self.ends(session) else { return };
        let heard = b.selected.is_some_and(|(_, old)| old != a.address) && a.selected.is_some();
        let remote = self.fake(session).and_then(|(_, _, it)| it.remote);
        if let Some((id, link, _)) = remote.and_then(|remote| self.fake(remote))
            && heard
            && !self.is_cut(&a.id, &b.id)
        {
            self.input(&id, Input::PathSuspect { link });
        }
    }

    fn expect_silence(&mut self, session: u64, after: u64) {
        let Some((_, _, it)) = self.fake(session) else { return };
        it.ice.epoch += 1;
        let epoch = it.ice.epoch;
        self.schedule(after, Event::GiveUp { session, epoch });
    }

    fn set_ice(&mut self, session: u64, state: LinkState) {
        let Some((id, link, it)) = self.fake(session) else { return };
        if it.ice.state != state {
            it.ice.state = state;
            self.report(&id, link, Input::LinkState { link, state }, true);
        }
    }
}

struct End {
    id: String,
    address: u64,
    local: u64,
    remote: Option<u64>,
    knows: BTreeSet<u64>,
    selected: Option<(u64, u64)>,
}

fn read(sdp: &str) -> (u64, u64) {
    let number = |key: &str| sdp.lines().find_map(|l| l.strip_prefix(key)).unwrap().parse().unwrap();
    (number("a=ice-ufrag:"), number("a=candidate:"))
}

impl FakeLink {
    pub fn ice_state(&self) -> LinkState {
        self.ice.state
    }
}

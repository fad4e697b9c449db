//! A world of meshes under virtual time: a signaling server, and links that connect when both ends hold each other's ICE
//! generation and an address at which one reaches the other. Paths between nodes can be cut and addresses change, which links
//! notice as an engine does. The links check what an engine would insist on (never an offer on an offer, never a candidate
//! before its description), and every run is a function of its seed.
#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use remotemedia_mesh::*;

mod ice;

pub const MS: u64 = 1_000;
pub const S: u64 = 1_000_000;

/// The queue of announce results.
const SNAPSHOT: &str = "snapshot";

pub struct World {
    pub now: u64,
    pub net: Net,
    pub nodes: BTreeMap<String, Node>,
    /// The server's room: id -> incarnation.
    members: BTreeMap<String, u32>,
    queue: BTreeMap<(u64, u64), Event>,
    seq: u64,
    /// When the last message of a queue arrives.
    fifo: BTreeMap<String, u64>,
    /// Session id -> the link that wrote it.
    sessions: BTreeMap<u64, (String, u32, LinkId)>,
    next_session: u64,
    /// ICE generations, and addresses.
    next_number: u64,
    /// Pairs of nodes that have no path, and until when.
    cuts: BTreeMap<(String, String), u64>,
    /// Links made so far for each pair.
    pub made: BTreeMap<(String, String), u64>,
    rng: u64,
    pub actions: u64,
    pub signals: u64,
}

/// How bad it is.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Longest signaling hop; the shortest is a tenth.
    pub delay_us: u64,
    /// Everything the server sends to one client comes in one order. Otherwise what comes from one peer or tells of it
    /// does, and the announce result, which is a snapshot of all, has its place in each of these orders.
    pub total_order: bool,
    /// Of 1000 reports of links, how many get lost.
    pub lost_reports: u64,
    /// Of 1000 relayed signals, how many get lost, how many come twice, and how many come out of order.
    pub lost_signals: u64,
    pub repeated_signals: u64,
    pub late_signals: u64,
    pub rollback_works: bool,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            delay_us: 20 * MS,
            total_order: true,
            lost_reports: 0,
            lost_signals: 0,
            repeated_signals: 0,
            late_signals: 0,
            rollback_works: true,
        }
    }
}

pub struct Node {
    pub mesh: Mesh,
    pub config: MeshConfig,
    incarnation: u32,
    /// Counts signaling connections; what belongs to an older one is lost.
    connection: u32,
    pub online: bool,
    /// This node's clock is ahead of the world's.
    skew: u64,
    pub links: BTreeMap<LinkId, FakeLink>,
    /// Where it is now.
    address: u64,
    /// It doesn't notice that its address changed, as behind a NAT.
    blind: bool,
    pub seen: Vec<Action>,
    next_request: u64,
    pub open_requests: BTreeSet<RequestId>,
    pub alive: bool,
}

pub struct FakeLink {
    pub peer: PeerId,
    session: u64,
    version: u32,
    have_local_offer: bool,
    rollback_failed: bool,
    remote: Option<u64>,
    /// The session at the other end, once both ends are connected.
    pub mate: Option<u64>,
    pub candidates: usize,
    ice: ice::Ice,
    /// When ICE restarts of ours began, by the node's clock.
    restarts: Vec<u64>,
}

enum Event {
    ToServer {
        from: String,
        connection: u32,
        message: Message,
    },
    ToClient {
        to: String,
        incarnation: u32,
        connection: u32,
        input: Input,
    },
    Report {
        node: String,
        incarnation: u32,
        input: Input,
    },
    Establish(u64, u64),
    /// Nothing was heard on a link since a while.
    Quiet {
        session: u64,
        epoch: u64,
    },
    /// A link has been silent for as long as its engine waits.
    GiveUp {
        session: u64,
        epoch: u64,
    },
    /// Somebody hears a peer from another address than the one in use.
    Moved {
        session: u64,
    },
    Rejoined((String, String)),
    Online {
        node: String,
        incarnation: u32,
        resumed: bool,
    },
    Left {
        node: String,
        incarnation: u32,
    },
}

enum Message {
    Announce,
    Relay { to: PeerId, signal: Signal },
}

impl World {
    pub fn new(seed: u64, net: Net) -> Self {
        Self {
            now: 0,
            net,
            nodes: BTreeMap::new(),
            members: BTreeMap::new(),
            queue: BTreeMap::new(),
            seq: 0,
            fifo: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_session: 1,
            next_number: 1,
            cuts: BTreeMap::new(),
            made: BTreeMap::new(),
            rng: seed,
            actions: 0,
            signals: 0,
        }
    }

    // ---- what a test does

    /// Starts a process and lets it join the room. In place of a living one, that one is killed first.
    pub fn join(&mut self, config: MeshConfig) {
        let id = config.local_id.clone();
        let incarnation = self.nodes.get(&id).map_or(1, |old| old.incarnation + 1);
        self.kill_links(&id);
        let skew = self.nodes.get(&id).map_or(0, |old| old.skew);
        let node = Node {
            mesh: Mesh::new(config.clone(), Time::from_micros(self.now + skew)),
            config,
            incarnation,
            connection: incarnation * 1000,
            online: true,
            skew,
            links: BTreeMap::new(),
            address: self.number(),
            blind: false,
            seen: Vec::new(),
            next_request: 0,
            open_requests: BTreeSet::new(),
            alive: true,
        };
        self.nodes.insert(id.clone(), node);
        self.upload(&id, Message::Announce);
    }

    /// The process is gone; the server notices when the socket does.
    pub fn kill(&mut self, id: &str, noticed_after: u64) {
        let Some(node) = self.nodes.get_mut(id).filter(|node| node.alive) else { return };
        (node.alive, node.connection) = (false, node.connection + 1);
        node.open_requests.clear();
        let left = Event::Left { node: id.to_owned(), incarnation: node.incarnation };
        self.kill_links(id);
        self.schedule(noticed_after, left);
    }

    /// A clean end.
    pub fn leave(&mut self, id: &str) {
        if !self.nodes.get(id).is_some_and(|node| node.alive) {
            return;
        }
        self.input(id, Input::Close);
        let node = self.nodes.get_mut(id).unwrap();
        assert!(node.links.is_empty() && node.open_requests.is_empty(), "{id} left something behind");
        (node.alive, node.connection) = (false, node.connection + 1);
        let left = Event::Left { node: id.to_owned(), incarnation: node.incarnation };
        self.schedule(0, left);
    }

    /// Signaling is lost for a while; `resumed`: the server keeps the membership.
    pub fn blip(&mut self, id: &str, outage: u64, resumed: bool) {
        let Some(node) = self.nodes.get_mut(id).filter(|node| node.alive && node.online) else { return };
        node.online = false;
        node.connection += 1;
        let incarnation = node.incarnation;
        self.input(id, Input::SignalingLost);
        if !resumed {
            self.schedule(0, Event::Left { node: id.to_owned(), incarnation });
        }
        self.schedule(outage, Event::Online { node: id.to_owned(), incarnation, resumed });
    }

    /// The server forgets everything, and everyone comes back some time later.
    pub fn crash_server(&mut self, outage: u64) {
        self.members.clear();
        for id in self.ids() {
            let after = outage + self.below(2 * S);
            self.blip(&id, after, true);
        }
    }

    pub fn connect(&mut self, id: &str, to: &str, timeout: Duration) -> Option<RequestId> {
        let node = self.nodes.get_mut(id).filter(|node| node.alive)?;
        node.next_request += 1;
        let request = RequestId(node.next_request);
        node.open_requests.insert(request);
        self.input(id, Input::Connect { peer: to.into(), request, timeout });
        Some(request)
    }

    pub fn disconnect(&mut self, id: &str, to: &str) {
        if self.nodes.get(id).is_some_and(|node| node.alive) {
            self.input(id, Input::Disconnect { peer: to.into(), reason: "test".into() });
        }
    }

    pub fn renegotiate(&mut self, id: &str) {
        let links: Vec<LinkId> =
            self.nodes.get(id).map_or(vec![], |node| node.links.keys().copied().collect());
        for link in links {
            self.input(id, Input::NegotiationNeeded { link });
        }
    }

    /// The node's clock jumps ahead.
    pub fn jump(&mut self, id: &str, by: u64) {
        if let Some(node) = self.nodes.get_mut(id).filter(|node| node.alive) {
            node.skew += by;
        }
    }

    pub fn input(&mut self, id: &str, input: Input) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(id).filter(|node| node.alive) else { return };
        node.mesh.handle(Time::from_micros(now + node.skew), input);
        self.carry_out(id);
    }

    pub fn run_for(&mut self, us: u64) {
        let end = self.now + us;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    pub fn ids(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.alive).map(|(id, _)| id.clone()).collect()
    }

    /// Whether the two have one link, up at both ends.
    pub fn linked(&self, a: &str, b: &str) -> bool {
        let end = |a: &str, b: &str| {
            let node = self.nodes.get(a)?;
            let view =
                node.mesh.peer(b).filter(|view| view.state == PeerState::Connected && view.channel_open)?;
            let link = node.links.get(&view.link?)?;
            Some((link.session, link.mate?))
        };
        matches!((end(a, b), end(b, a)), (Some((a, to_a)), Some((b, to_b))) if a == to_b && b == to_a)
    }

    pub fn describe(&self) -> String {
        let mut text = format!("at {} ms:\n", self.now / MS);
        for (id, node) in self.nodes.iter().filter(|(_, node)| node.alive) {
            for p in node.mesh.peers() {
                let (state, why) = (p.state, p.reason);
                text += &format!(
                    "  {id} -> {}: {state} ({why}) announced {} link {:?}\n",
                    p.id, p.announced, p.link
                );
            }
        }
        text
    }

    // ---- the machinery

    fn next_event(&self) -> Option<u64> {
        let timer = |node: &Node| node.mesh.poll_timeout().map(|at| at.as_micros().saturating_sub(node.skew));
        let timers = self.nodes.values().filter(|node| node.alive).filter_map(timer);
        timers.chain(self.queue.keys().next().map(|(at, _)| *at)).min().map(|at| at.max(self.now))
    }

    fn step(&mut self) {
        for id in self.ids() {
            let node = self.nodes.get_mut(&id).unwrap();
            let now = Time::from_micros(self.now + node.skew);
            if node.mesh.poll_timeout().is_some_and(|at| at <= now) {
                node.mesh.handle_timeout(now);
                assert!(node.mesh.poll_timeout().is_none_or(|at| at > now), "{id} is due again at once");
                self.carry_out(&id);
            }
        }
        if self.queue.keys().next().is_some_and(|(at, _)| *at <= self.now) {
            let (_, event) = self.queue.pop_first().unwrap();
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToServer { from, connection, message } => {
                if self.nodes[&from].connection == connection {
                    self.serve(&from, message);
                }
            }
            Event::ToClient { to, incarnation, connection, input } => {
                let node = &self.nodes[&to];
                if node.incarnation == incarnation && node.connection == connection {
                    self.input(&to, input);
                }
            }
            Event::Report { node, incarnation, input } => {
                if self.nodes[&node].incarnation == incarnation {
                    self.input(&node, input);
                }
            }
            Event::Establish(a, b) => self.establish(a, b),
            Event::Quiet { session, epoch } => self.quiet(session, epoch),
            Event::GiveUp { session, epoch } => self.give_up(session, epoch),
            Event::Moved { session } => self.moved(session),
            Event::Rejoined(pair) => {
                if self.cuts.get(&pair).is_some_and(|until| *until <= self.now) {
                    self.cuts.remove(&pair);
                    self.look_at_paths();
                }
            }
            Event::Online { node, incarnation, resumed } => {
                let it = self.nodes.get_mut(&node).unwrap();
                if it.incarnation == incarnation && it.alive {
                    it.online = true;
                    let _ = resumed;
                    self.upload(&node, Message::Announce);
                }
            }
            Event::Left { node, incarnation } => {
                if self.members.get(&node).is_some_and(|member| *member <= incarnation) {
                    self.members.remove(&node);
                    self.tell_others(&node, |id| Input::Left { peer: id });
                }
            }
        }
    }

    fn serve(&mut self, from: &str, message: Message) {
        match message {
            Message::Announce => {
                let incarnation = self.nodes[from].incarnation;
                self.members.insert(from.to_owned(), incarnation);
                let others = self.members.keys().filter(|id| *id != from);
                let peers = others.map(|id| PeerAnnouncement::new(id.as_str())).collect();
                self.deliver(SNAPSHOT, from, Input::Announced { peers });
                self.tell_others(from, |id| Input::Joined(PeerAnnouncement::new(id)));
            }
            Message::Relay { to, signal } => {
                self.signals += 1;
                let peer: PeerId = from.into();
                if !self.members.contains_key(&*to) || !self.nodes[&*to].online {
                    let error = Input::SignalError {
                        peer: to,
                        code: codes::PEER_NOT_FOUND,
                        message: "not found".into(),
                    };
                    return self.deliver("server", from, error);
                }
                if self.chance(self.net.lost_signals) {
                    return;
                }
                let (repeated, late) = (self.net.repeated_signals, self.net.late_signals);
                let input = match signal {
                    Signal::Offer(sdp) => Input::Offer { peer, sdp },
                    Signal::Answer(sdp) => Input::Answer { peer, sdp },
                    Signal::Candidate(candidate) => Input::Candidate { peer, candidate },
                    // The wire has no way to carry it.
                    Signal::Error { .. } => return,
                };
                if self.chance(repeated) {
                    self.deliver(from, &to, input.clone());
                }
                if self.chance(late) {
                    let to = to.to_string();
                    let (incarnation, connection) = (self.nodes[&to].incarnation, self.nodes[&to].connection);
                    let after = self.below(3 * self.net.delay_us);
                    return self.schedule(after, Event::ToClient { to, incarnation, connection, input });
                }
                self.deliver(from, &to, input);
            }
        }
    }

    fn tell_others(&mut self, about: &str, input: impl Fn(PeerId) -> Input) {
        for id in self.members.keys().filter(|id| *id != about).cloned().collect::<Vec<_>>() {
            self.deliver(about, &id, input(about.into()));
        }
    }

    fn upload(&mut self, from: &str, message: Message) {
        let connection = self.nodes[from].connection;
        let at = self.in_order(format!("{from}>"));
        self.push(at, Event::ToServer { from: from.to_owned(), connection, message });
    }

    fn deliver(&mut self, from: &str, to: &str, input: Input) {
        let (incarnation, connection) = (self.nodes[to].incarnation, self.nodes[to].connection);
        let (before, barrier) = (format!("@{to}:"), format!("@{to}:{SNAPSHOT}"));
        let from = if self.net.total_order { "" } else { from };
        let mut at =
            self.in_order(format!("@{to}:{from}")).max(self.fifo.get(&barrier).copied().unwrap_or(0));
        if from == SNAPSHOT {
            let earlier =
                self.fifo.range(before.clone()..).take_while(|(queue, _)| queue.starts_with(&before));
            at = earlier.map(|(_, at)| *at).fold(at, u64::max);
        }
        self.fifo.insert(format!("@{to}:{from}"), at);
        self.push(at, Event::ToClient { to: to.to_owned(), incarnation, connection, input });
    }

    /// Random delay, but in order with the rest of that queue.
    fn in_order(&mut self, queue: String) -> u64 {
        let delay = self.net.delay_us / 10 + self.below(self.net.delay_us);
        let at = self.fifo.get(&queue).copied().unwrap_or(0).max(self.now + delay);
        self.fifo.insert(queue, at);
        at
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.push(self.now + after, event);
    }

    fn push(&mut self, at: u64, event: Event) {
        self.seq += 1;
        self.queue.insert((at, self.seq), event);
    }

    /// A report of a link: late, in order, and sometimes never.
    fn report(&mut self, id: &str, link: LinkId, input: Input, losable: bool) {
        if losable && self.chance(self.net.lost_reports) {
            return;
        }
        let key = format!("{id} {link:?}");
        let delay = 100 + self.below(2 * MS);
        let at = self.fifo.get(&key).copied().unwrap_or(0).max(self.now + delay);
        self.fifo.insert(key, at);
        let incarnation = self.nodes[id].incarnation;
        self.push(at, Event::Report { node: id.to_owned(), incarnation, input });
    }

    fn carry_out(&mut self, id: &str) {
        while let Some(action) = self.nodes.get_mut(id).unwrap().mesh.poll() {
            self.actions += 1;
            self.nodes.get_mut(id).unwrap().seen.push(action.clone());
            self.act(id, action);
        }
        let node = &self.nodes[id];
        let links: BTreeSet<LinkId> = node.mesh.peers().filter_map(|peer| peer.link).collect();
        assert!(links.iter().eq(node.links.keys()), "{id}: the mesh's links are not those made");
        assert!(links.len() <= node.config.max_peers, "{id} is over its limit");
    }

    fn act(&mut self, id: &str, action: Action) {
        let session = self.next_session;
        let incarnation = self.nodes[id].incarnation;
        let node = self.nodes.get_mut(id).unwrap();
        match action {
            Action::CreateLink { link, peer } => {
                assert!(node.links.values().all(|other| other.peer != peer), "{id}: two links to {peer}");
                assert!(node.config.allows(&peer), "{id}: a link to {peer}, which is denied");
                self.next_session += 1;
                *self.made.entry(pair(id, &peer)).or_default() += 1;
                self.next_number += 1;
                node.links.insert(link, FakeLink::new(peer, session, self.next_number));
                self.sessions.insert(session, (id.to_owned(), incarnation, link));
            }
            Action::DestroyLink { link, .. } => {
                let link = node.links.remove(&link).expect("destroys a link that is there");
                self.hang_up(id, &link, true);
            }
            Action::CreateOffer { link, ice_restart } => {
                let (address, clock) = (node.address, self.now + node.skew);
                let it = node.links.get_mut(&link).expect("a live link");
                assert!(!it.have_local_offer, "{id}: an offer on an offer");
                if ice_restart {
                    assert!(it.remote.is_some(), "{id}: restarts what never began");
                    self.next_number += 1;
                    it.ice.staged = Some(self.next_number);
                    it.restarts.push(clock);
                    let lately = it.restarts.iter().filter(|at| **at + 60 * S > clock).count();
                    assert!(lately <= 30, "{id}: {lately} restarts in a minute");
                }
                it.have_local_offer = true;
                it.version += 1;
                let sdp = it.describe("offer", address);
                self.report(id, link, Input::OfferCreated { link, sdp }, true);
                self.gather(id, link);
            }
            Action::AcceptOffer { link, sdp } => {
                let it = node.links.get_mut(&link).expect("a live link");
                let (session, version) = parse(&sdp);
                if it.rollback_failed || it.remote.is_some_and(|known| known != session) {
                    let reason = "does not fit this link".to_owned();
                    return self.report(id, link, Input::NegotiationFailed { link, reason }, false);
                }
                assert!(!it.have_local_offer, "{id}: accepts an offer on its own");
                it.remote = Some(session);
                it.version += 1;
                let ours = it.session;
                self.ice_offered(ours, &sdp);
                let node = &self.nodes[id];
                let answer = node.links[&link].describe(&format!("answer {session} {version}"), node.address);
                self.report(id, link, Input::AnswerCreated { link, sdp: answer }, true);
                self.gather(id, link);
                self.look_at_paths();
            }
            Action::AcceptAnswer { link, sdp } => {
                let it = node.links.get_mut(&link).expect("a live link");
                assert!(it.have_local_offer, "{id}: an answer without an offer");
                it.have_local_offer = false;
                let ((theirs, _), ours) = (parse(&sdp), it.session);
                if it.remote.is_some_and(|known| known != theirs) {
                    let reason = "another fingerprint".to_owned();
                    return self.report(id, link, Input::NegotiationFailed { link, reason }, false);
                }
                it.remote = Some(theirs);
                // An answer to something else is accepted as well, and just never connects.
                self.report(id, link, Input::AnswerAccepted { link }, true);
                self.ice_answered(ours, &sdp);
                self.look_at_paths();
            }
            Action::Rollback { link } => {
                let works = self.net.rollback_works;
                let it = node.links.get_mut(&link).expect("a live link");
                assert!(it.have_local_offer && it.remote.is_some(), "{id}: nothing to roll back to");
                it.have_local_offer = false;
                it.ice.staged = None;
                it.rollback_failed = !works;
            }
            Action::AddRemoteCandidate { link, candidate } => {
                let it = node.links.get_mut(&link).expect("a live link");
                assert!(it.remote.is_some(), "{id}: a candidate before its description");
                it.candidates += 1;
                if let Some(address) = candidate.candidate.strip_prefix("candidate:") {
                    it.ice.remote_addresses.insert(address.parse().unwrap());
                    self.look_at_paths();
                }
            }
            Action::Signal { peer, signal } => self.upload(id, Message::Relay { to: peer, signal }),
            Action::Connected { request, .. } | Action::ConnectFailed { request, .. } => {
                assert!(node.open_requests.remove(&request), "{id}: {request:?} is answered twice");
            }
            Action::PeerJoined { .. }
            | Action::PeerLeft { .. }
            | Action::PeerState { .. }
            | Action::Warning { .. } => {}
        }
    }

    fn gather(&mut self, id: &str, link: LinkId) {
        let address = self.nodes[id].address;
        for n in [address, 0] {
            let candidate = IceCandidate { candidate: format!("candidate:{n}"), ..IceCandidate::default() };
            self.report(id, link, Input::LocalCandidate { link, candidate }, true);
        }
        self.report(id, link, Input::LocalCandidatesDone { link }, true);
    }

    fn fake(&mut self, session: u64) -> Option<(String, LinkId, &mut FakeLink)> {
        let (id, incarnation, link) = self.sessions.get(&session)?.clone();
        let node = self.nodes.get_mut(&id).filter(|node| node.alive && node.incarnation == incarnation)?;
        Some((id, link, node.links.get_mut(&link)?))
    }

    /// The other end of a link that ends hears of it: soon, or when ICE falls silent.
    fn hang_up(&mut self, ended_at: &str, ended: &FakeLink, orderly: bool) {
        let Some(mate) = ended.mate else { return };
        let told = orderly && self.chance(700);
        let Some((node, link, it)) = self.fake(mate) else { return };
        it.mate = None;
        let told = told && !self.is_cut(&node, ended_at);
        let incarnation = self.nodes[&node].incarnation;
        if told {
            let input = Input::LinkState { link, state: LinkState::Closed };
            self.schedule(5 * MS, Event::Report { node, incarnation, input });
        }
        self.look_at_paths();
    }

    fn kill_links(&mut self, id: &str) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        for link in std::mem::take(&mut node.links).into_values() {
            self.hang_up(id, &link, false);
        }
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.rng = self.rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.rng >> 33) % n.max(1)
    }

    fn chance(&mut self, of_1000: u64) -> bool {
        self.below(1000) < of_1000
    }
}

impl FakeLink {
    fn new(peer: PeerId, session: u64, generation: u64) -> Self {
        Self {
            peer,
            session,
            version: 0,
            have_local_offer: false,
            rollback_failed: false,
            remote: None,
            mate: None,
            candidates: 0,
            ice: ice::Ice::new(generation),
            restarts: Vec::new(),
        }
    }

    fn describe(&self, what: &str, address: u64) -> String {
        let generation = self.ice.staged.unwrap_or(self.ice.local);
        let (session, version) = (self.session, self.version);
        format!(
            "v=0\r\no=- {session} {version} IN IP4 127.0.0.1\r\ns={what} \r\na=ice-ufrag:{generation}\r\na=candidate:{address}\r\n"
        )
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.min(b).to_owned(), a.max(b).to_owned())
}

fn parse(sdp: &str) -> (u64, u32) {
    let mut origin = sdp.lines().nth(1).unwrap().split(' ').skip(1);
    (origin.next().unwrap().parse().unwrap(), origin.next().unwrap().parse().unwrap())
}

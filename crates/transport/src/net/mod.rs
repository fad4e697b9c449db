//! The net thread: owns the sockets, the mesh and every link. It never blocks on anything but its poll.

mod candidates;
mod demux;
mod entry;
mod gather;
mod interfaces;
mod judge;
mod links;
mod mdns;
mod out_clock;
mod ports;
mod relay;
mod relays;
mod resolve;
mod socket;
mod stream;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use remotemedia_link::{Certificate, LinkConfig, LinkEvent, LinkState, LocalCandidate, MessageKind};
use remotemedia_mesh::{Action, IceCandidate, Input, LinkId, Mesh, MeshConfig, PeerState, Time};
use remotemedia_pipeline::{Data, Item};

use crate::event::Event;
use crate::peer::Hold;
use crate::routes::Track;
use crate::shared::{Command, Every, Shared};
use crate::{IceTransportPolicy, Message, PeerId, PeerStats, PeerStatus, TransportError};
use demux::Demux;
use entry::Entry;
use gather::Gather;
pub(crate) use interfaces::Address;
use interfaces::Watch;
use mdns::Mdns;
use ports::{PortId, Ports};
use socket::ReceiveBuffers;
pub use socket::SocketCounters;
use stream::Trust;

pub(crate) const WAKE: Token = Token(usize::MAX);
/// Receive calls on one socket before the others have their turn.
const RECEIVES_A_TURN: usize = 16;
/// The longest sleep: a bound on what a forgotten wake-up could cost.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// First byte of a STUN success or error response (RFC 8489 §5).
const STUN_ANSWER: u8 = 1;

pub(crate) struct Net {
    shared: Arc<Shared>,
    poll: Poll,
    start: Instant,
    ports: Ports,
    gather: Gather,
    /// What gathering found so far.
    candidates: Vec<LocalCandidate>,
    mdns: Mdns,
    /// Links that wait for the address of a name.
    named: HashMap<String, BTreeSet<LinkId>>,
    /// Our addresses as of the last look.
    addresses: Vec<Address>,
    trust: Trust,
    /// Looks whether our addresses change, until the end.
    _watch: Watch,
    mesh: Mesh,
    links: HashMap<LinkId, Entry>,
    by_peer: HashMap<PeerId, LinkId>,
    demux: Demux<LinkId>,
    certificate: Certificate,
    link_config: LinkConfig,
    /// Bytes of a reliable channel that may be in flight: what a receive buffer like ours can hold.
    window: usize,
    /// Links that have something to say.
    dirty: BTreeSet<LinkId>,
    commands: VecDeque<Command>,
    requests: HashMap<u64, PeerId>,
    /// The owner wants to be told nothing more.
    closing: bool,
    paths_due: Every,
}

impl Net {
    /// Opens the sockets and prepares everything that can fail, on the caller's thread.
    pub(crate) fn new(shared: Arc<Shared>, poll: Poll, seed: u64) -> Result<Net, TransportError> {
        let system = |what: &'static str| {
            move |e: std::io::Error| TransportError::System { what, message: e.to_string() }
        };
        let now = Instant::now();
        let registry = poll.registry().try_clone().map_err(system("poll"))?;
        let addresses = interfaces::local_addresses().map_err(system("network interfaces"))?;
        let config = &shared.config;
        let mut gather = Gather::new(
            now,
            config.ice_transport_policy,
            config.stun_servers.clone(),
            config.turn_servers.clone(),
            config.asks_turn_servers,
            seed,
        );
        gather.set_addresses(now, &addresses.iter().map(|a| a.ip).collect::<Vec<_>>());
        let ports = Ports::new(registry);
        let granted =
            socket::granted_buffer_bytes(config.socket_buffer_bytes).map_err(system("UDP sockets"))?;
        let certificate = Certificate::generate()
            .map_err(|e| TransportError::System { what: "certificate", message: e.to_string() })?;
        let mesh_config = MeshConfig {
            max_peers: config.max_peers,
            auto_connect: config.auto_connect,
            data: config.data.is_some(),
            connect_timeout: config.connect_timeout,
            grace: config.grace,
            allow_peers: config.allow_peers.clone(),
            deny_peers: config.deny_peers.clone(),
            retry: config.retry.clone(),
            seed,
            ..MeshConfig::new(config.peer_id.clone())
        };
        let link_config = LinkConfig {
            data: config.data,
            video_codecs: config.video_codecs.clone(),
            stereo: config.audio.channels == 2,
            fec: config.audio.fec,
            dtx: config.audio.dtx,
            frame_ms: config.audio.frame_ms,
            socket_buffer_bytes: granted,
            ice_failed: config.grace,
            ..LinkConfig::default()
        };
        let watch = Watch::start(&shared, addresses.clone()).map_err(system("watch thread"))?;
        let mut net = Net {
            start: now,
            mesh: Mesh::new(mesh_config, Time::ZERO),
            links: HashMap::new(),
            by_peer: HashMap::new(),
            demux: Demux::new(),
            certificate,
            link_config,
            window: (granted / 2).clamp(64 << 10, 2 << 20),
            dirty: BTreeSet::new(),
            commands: VecDeque::new(),
            requests: HashMap::new(),
            closing: false,
            paths_due: Every::new(Duration::from_secs(1)),
            trust: Trust::new(shared.config.tls_roots.clone()),
            shared,
            poll,
            ports,
            gather,
            candidates: Vec::new(),
            mdns: Mdns::new(),
            named: HashMap::new(),
            addresses,
            _watch: watch,
        };
        // The sockets are opened here: what the system refuses for good is an error of the caller's.
        net.drive_gather(now);
        if net.shared.config.ice_transport_policy == IceTransportPolicy::All
            && !net.ports.has_hosts()
            && !net.addresses.is_empty()
        {
            let message = "no interface of this machine could be bound".to_string();
            return Err(TransportError::System { what: "UDP sockets", message });
        }
        Ok(net)
    }

    /// Runs until [`Command::Close`].
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        let mut buffers = ReceiveBuffers::new();
        let mut readable: BTreeSet<PortId> = BTreeSet::new();
        loop {
            let timeout = if readable.is_empty() { self.sleep() } else { Duration::ZERO };
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "poll failed");
                return;
            }
            let now = Instant::now();
            for event in &events {
                let token = event.token();
                if mdns::TOKENS.contains(&token) {
                    self.receive_names(now, token);
                    continue;
                }
                if event.is_writable() {
                    self.ports.on_writable(now, token.0);
                }
                if event.is_readable() {
                    readable.insert(token.0);
                }
            }
            if !self.take_commands() {
                break;
            }
            readable.retain(|port| self.receive(*port, &mut buffers));
            self.run_timers();
            self.settle();
            self.publish_paths();
            *crate::lock(&self.shared.counters.mesh) = *self.mesh.counters();
            self.ports.flush(Instant::now());
        }
        self.finish();
    }

    fn sleep(&self) -> Duration {
        let now = Instant::now();
        let links = self.links.values().filter_map(|e| e.link.poll_timeout());
        let others =
            [self.ports.poll_timeout(now), self.gather.poll_timeout(), self.mdns.queries.poll_timeout()];
        let next = links.chain(others.into_iter().flatten()).min();
        let next = next.map_or(MAX_SLEEP, |at| at.saturating_duration_since(now));
        let mesh = self.mesh.poll_timeout().map_or(MAX_SLEEP, |at| at.since(self.time(now)));
        next.min(mesh).min(MAX_SLEEP)
    }

    fn time(&self, now: Instant) -> Time {
        Time::from_micros(now.saturating_duration_since(self.start).as_micros() as u64)
    }

    /// Hands datagrams to their links. Returns whether the port may have more.
    fn receive(&mut self, port: PortId, buffers: &mut ReceiveBuffers) -> bool {
        let Self { ports, links, demux, dirty, shared, gather, .. } = self;
        for _ in 0..RECEIVES_A_TURN {
            let now = Instant::now();
            let more = ports.receive(now, port, buffers, |local, from, data| {
                if data.first() == Some(&STUN_ANSWER) && gather.handle_stun(now, local, from, data) {
                    return;
                }
                let Some(id) = demux.find(port, from, data) else {
                    shared.counters.unknown_datagrams.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                let Some(entry) = links.get_mut(&id) else { return };
                entry.link.handle_datagram(now, local, from, data);
                dirty.insert(id);
            });
            if !more {
                return false;
            }
        }
        true
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        for (id, entry) in &mut self.links {
            if entry.link.poll_timeout().is_some_and(|at| at <= now) {
                entry.link.handle_timeout(now);
                self.dirty.insert(*id);
            }
        }
        let time = self.time(now);
        if self.mesh.poll_timeout().is_some_and(|at| at <= time) {
            self.mesh.handle_timeout(time);
        }
        self.drive_gather(now);
        self.drive_names(now);
    }

    /// Lets links and mesh talk until neither has anything left to say.
    fn settle(&mut self) {
        loop {
            while let Some(action) = self.mesh.poll() {
                self.act(action);
            }
            let Some(id) = self.dirty.pop_first() else { break };
            self.drain_link(id);
        }
    }

    fn drain_link(&mut self, id: LinkId) {
        let now = Instant::now();
        while let Some(event) = self.links.get_mut(&id).and_then(|e| e.link.poll_event()) {
            self.on_link_event(now, id, event);
        }
        let Some(entry) = self.links.get_mut(&id) else { return };
        entry.pump(now, self.window, &self.shared);
        entry.publish_bandwidth(now, self.shared.config.audio.bitrate_bps());
        while let Some(transmit) = entry.link.poll_transmit() {
            let Some(port) = self.ports.find(transmit.local) else { continue };
            const STUN_LAST: u8 = 3;
            if transmit.data.first().is_some_and(|b| *b <= STUN_LAST) {
                self.demux.sent(port, transmit.remote, id, &transmit.data);
            }
            self.ports.send(now, port, transmit.remote, &transmit.data);
        }
    }

    fn on_link_event(&mut self, now: Instant, id: LinkId, event: LinkEvent) {
        let time = self.time(now);
        let Some(entry) = self.links.get_mut(&id) else { return };
        match event {
            LinkEvent::State(state) => {
                if state == LinkState::Connected {
                    entry.publish_negotiated();
                    if let Some(path) = entry.link.path()
                        && let Some(port) = self.ports.find(path.local)
                    {
                        self.demux.connected(port, path.remote, id);
                    }
                } else {
                    entry.interrupted();
                    self.demux.interrupted(id);
                }
                if state == LinkState::Disconnected
                    && let Some(relay) = entry.link.path().and_then(|path| self.ports.relay_at(path.local))
                {
                    relay.check(now);
                }
                self.mesh.handle(time, Input::LinkState { link: id, state: peer_state(state) });
            }
            LinkEvent::ChannelOpen { id: channel, label, protocol, ordered, ours, mode } => {
                let reliable = mode != Some(crate::DataMode::Unreliable);
                // DATA_CHANNEL_OPEN (RFC 8832, section 5.1).
                let overhead = reliable.then_some(12 + label.len() + protocol.len());
                let Some(number) = entry.channel_opened(channel, &label, ours) else {
                    entry.link.close_channel(now, channel);
                    return;
                };
                if number == 0 {
                    entry.open = true;
                    entry.publish_negotiated();
                    // The engine doesn't tell how the peer's channels deliver; the built-in one does as ours would.
                    let promised = mode.or(self.shared.config.data) != Some(crate::DataMode::Unreliable);
                    entry.peer.open_channel(0, overhead.filter(|_| promised));
                    self.mesh.handle(time, Input::ChannelOpen { link: id });
                } else {
                    entry.peer.open_channel(number, overhead);
                    let peer = entry.peer.id.clone();
                    self.shared.events.push(Event::ChannelOpen {
                        peer,
                        channel: number,
                        label,
                        ordered,
                        reliable,
                    });
                }
            }
            LinkEvent::ChannelClosed { id: channel } => {
                if let Some(number) = entry.channel_closed(channel) {
                    entry.end_channel(number, &self.shared, !self.closing);
                    let peer = entry.peer.id.clone();
                    self.shared.events.push(Event::ChannelClosed { peer, channel: number });
                }
            }
            LinkEvent::Message { id: channel, kind, data } => {
                let Some(number) = entry.channel_number(channel) else { return };
                let message = Message::from_wire(kind == MessageKind::Text, data);
                let peer = entry.peer.id.clone();
                if number == 0
                    && self.shared.sessions.wants(&peer, Track::Data)
                    && let Some(data) = message_data(&message)
                {
                    let timestamp_us = now.saturating_duration_since(self.shared.started).as_micros() as i64;
                    self.shared.sessions.route(&peer, Item { timestamp_us, ..Item::new(data) });
                }
                if self.shared.events.push_message(peer, number, message) {
                    entry.peer.hold(Hold::Events, true);
                    entry.link.hold_messages(now, true);
                }
            }
            LinkEvent::SenderReport { kind, ssrc, ntp, rtp_ts } => {
                entry.times.reported(kind, ssrc, ntp, rtp_ts, now);
            }
            LinkEvent::Rtp(packet) => entry.receive_rtp(packet, &self.shared),
            LinkEvent::KeyframeRequested => entry.keyframe_requested(),
            LinkEvent::ResolveName { name } => self.resolve_name(now, id, name),
            LinkEvent::PathSuspect => {
                self.mesh.handle(time, Input::PathSuspect { link: id });
                // If it was our NAT that moved, it has forgotten what signaling goes through as well.
                self.shared.events.push(Event::AddressesChanged);
            }
            LinkEvent::NegotiationNeeded => self.mesh.handle(time, Input::NegotiationNeeded { link: id }),
            // ICE alone says less than the connection's state.
            _ => {}
        }
    }

    /// Carries out what the mesh decided.
    fn act(&mut self, action: Action) {
        let now = Instant::now();
        let time = self.time(now);
        match action {
            Action::CreateLink { link, peer } => self.create_link(now, link, peer),
            Action::DestroyLink { link, .. } => self.destroy_link(now, link),
            Action::CreateOffer { link, ice_restart } => {
                let result = self.on_link(link, |l| l.create_offer(now, ice_restart));
                self.report(time, link, result, |link, sdp| Input::OfferCreated { link, sdp });
                self.send_candidates(now, link);
            }
            Action::AcceptOffer { link, sdp } => {
                let result = self.on_link(link, |l| l.accept_offer(now, &sdp));
                self.report(time, link, result, |link, sdp| Input::AnswerCreated { link, sdp });
                self.publish_negotiated(link);
                self.send_candidates(now, link);
            }
            Action::AcceptAnswer { link, sdp } => {
                let result = self.on_link(link, |l| l.accept_answer(now, &sdp));
                self.report(time, link, result, |link, ()| Input::AnswerAccepted { link });
                self.publish_negotiated(link);
            }
            Action::Rollback { link } => {
                let result = self.on_link(link, |l| l.rollback(now));
                if let Err(reason) = result {
                    self.mesh.handle(time, Input::NegotiationFailed { link, reason });
                }
            }
            Action::AddRemoteCandidate { link, candidate } => {
                let IceCandidate { candidate, sdp_mid, sdp_m_line_index } = candidate;
                let result = self.on_link(link, |l| {
                    l.add_remote_candidate(&candidate, sdp_mid.as_deref(), sdp_m_line_index)
                });
                if let Err(reason) = result {
                    self.shared.counters.signals_refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%reason, "candidate refused");
                }
            }
            Action::Signal { peer, signal } => self.shared.events.push(Event::Signal { peer, signal }),
            Action::Connected { request, peer } => self.answer(request.0, peer, Ok(())),
            Action::ConnectFailed { request, peer, error } => {
                let state = self.shared.peers.get(&peer).map(|p| p.state());
                let mut detail = match state {
                    Some(state) => format!("; the connection is '{state}'"),
                    None => String::new(),
                };
                detail += &self.no_relay();
                let error = TransportError::Connect { peer: peer.clone(), error, detail };
                self.answer(request.0, peer, Err(error));
            }
            Action::PeerJoined { peer } => self.shared.events.push(Event::PeerJoined(peer)),
            Action::PeerLeft { peer, reason } => {
                self.shared.sessions.remove_peer(&peer);
                self.shared.peers.remove(&peer);
                self.shared.events.push(Event::PeerLeft { peer, reason });
            }
            Action::PeerState { peer, state, reason } => {
                let known = self.shared.peers.get_or_insert(&peer);
                let mut status = known.set_state(state, reason);
                if state == PeerState::Connected {
                    self.shared.sessions.add_peer(&peer);
                    // Which way it goes is known by now; that is no change to tell of on its own.
                    self.publish_path(&peer);
                    status = known.status();
                }
                self.shared.events.push(Event::PeerState { peer, status });
            }
            Action::Warning { peer, warning, message } => {
                let error = TransportError::Peer { peer: peer.clone(), warning, message };
                self.shared.events.push(Event::Error { peer: Some(peer), error });
            }
        }
    }

    fn answer(&mut self, request: u64, peer: PeerId, result: Result<(), TransportError>) {
        self.requests.remove(&request);
        self.shared.events.push(Event::Connected { request: request as u32, peer, result });
    }

    /// Keeps what others see of the peers' paths up to date: round trips change all the time.
    fn publish_paths(&mut self) {
        if !self.paths_due.allows(Instant::now()) {
            return;
        }
        for peer in self.by_peer.keys().cloned().collect::<Vec<_>>() {
            if let Some(status) = self.publish_path(&peer) {
                self.shared.events.push(Event::PeerPath { peer: peer.clone(), status });
            }
            self.judge(&peer);
        }
    }

    /// Returns the peer's status if the path is another one than before.
    fn publish_path(&mut self, peer: &PeerId) -> Option<PeerStatus> {
        let id = *self.by_peer.get(peer)?;
        let entry = self.links.get(&id)?;
        if entry.peer.state() != PeerState::Connected {
            return None;
        }
        let path = entry.link.path()?;
        if let Some(port) = self.ports.find(path.local) {
            self.demux.connected(port, path.remote, id);
        }
        entry.peer.set_path(path.into(), entry.link.round_trip())
    }

    fn publish_negotiated(&mut self, link: LinkId) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.publish_negotiated();
        }
    }

    /// Returns false when the transport is to close.
    fn take_commands(&mut self) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        self.shared.commands.take(&mut commands);
        let mut open = true;
        for command in commands.drain(..) {
            let now = Instant::now();
            match command {
                Command::Mesh(input) => {
                    self.mesh.handle(self.time(now), input);
                    // One at a time, so that what it leads to is done before the next.
                    while let Some(action) = self.mesh.poll() {
                        self.act(action);
                    }
                }
                Command::Close => open = false,
                Command::Stats { request, peer } => self.stats(request, peer.as_ref()),
                command => self.run_command(now, command),
            }
        }
        self.commands = commands;
        open
    }

    fn run_command(&mut self, now: Instant, command: Command) {
        let mut with = |peer: &PeerId, call: &mut dyn FnMut(&mut Entry, &Shared)| {
            let Some(id) = self.by_peer.get(peer) else { return };
            if let Some(entry) = self.links.get_mut(id) {
                call(entry, &self.shared);
                self.dirty.insert(*id);
            }
        };
        match command {
            // Being dirty is enough: draining a link pumps its channels.
            Command::Pump { peer, channel } => with(&peer, &mut |entry, _| entry.wants_pump(channel)),
            Command::OpenChannel { peer, channel, label, options } => {
                with(&peer, &mut |entry, shared| {
                    entry.open_channel(now, channel, &label, options.clone(), shared)
                });
            }
            Command::CloseChannel { peer, channel } => {
                with(&peer, &mut |entry, _| entry.close_channel(now, channel))
            }
            Command::RequestKeyframe { peer } => {
                with(&peer, &mut |entry, _| entry.link.request_keyframe(now))
            }
            Command::Audio { source, targets, packet, timestamp_us } => {
                for target in &targets {
                    with(&target.id, &mut |entry, shared| {
                        entry.send_audio(now, source, packet.clone(), timestamp_us, shared);
                    });
                }
            }
            Command::Video { source, codec, targets, frame } => {
                for target in &targets {
                    with(&target.id, &mut |entry, shared| {
                        entry.send_video(now, &source, codec, &frame, shared)
                    });
                }
            }
            Command::Hold { peer } => with(&peer, &mut |entry, _| entry.apply_hold(now)),
            Command::Addresses(addresses) => self.set_addresses(now, addresses),
            Command::Resolved { host, result } => self.gather.resolved(now, &host, result),
            Command::TurnServers(servers) => self.gather.set_turn_servers(now, servers),
            Command::Mesh(_) | Command::Close | Command::Stats { .. } => {}
        }
    }

    fn stats(&mut self, request: u32, peer: Option<&PeerId>) {
        let now = Instant::now();
        let peers: Vec<PeerStats> = self
            .links
            .values_mut()
            .filter(|entry| peer.is_none_or(|p| *p == entry.peer.id))
            .map(|entry| {
                let link = entry.link.stats();
                let socket = link.selected.and_then(|s| self.ports.counters(s.local)).unwrap_or_default();
                entry.stats(now, link, socket)
            })
            .collect();
        self.shared.events.push(Event::Stats { request, peers });
    }

    /// Says goodbye on every link and lets the datagrams leave.
    fn finish(mut self) {
        let now = Instant::now();
        self.closing = true;
        self.mesh.handle(self.time(now), Input::Close);
        while let Some(action) = self.mesh.poll() {
            self.act(action);
        }
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.destroy_link(now, id);
        }
        self.ports.close(now);
    }
}

fn peer_state(state: LinkState) -> PeerState {
    match state {
        LinkState::New => PeerState::New,
        LinkState::Connecting => PeerState::Connecting,
        LinkState::Connected => PeerState::Connected,
        LinkState::Disconnected => PeerState::Disconnected,
        LinkState::Failed => PeerState::Failed,
        LinkState::Closed => PeerState::Closed,
    }
}

/// A message as a pipeline sees it; `None` when it says it is text or JSON and is not.
fn message_data(message: &Message) -> Option<Data> {
    match message {
        Message::Binary(bytes) => Some(Data::Binary(bytes.clone())),
        Message::Text(bytes) => std::str::from_utf8(bytes).ok().map(|text| Data::Text(text.into())),
        Message::Json(bytes) => serde_json::from_slice(bytes).ok().map(|value| Data::Json(Arc::new(value))),
    }
}

//! The net thread: owns the sockets, the mesh and every link. It never blocks on anything but its poll.

mod demux;
mod entry;
mod socket;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use remotemedia_link::{Certificate, Link, LinkConfig, LinkEvent, LinkState, MessageKind};
use remotemedia_mesh::{Action, IceCandidate, Input, LinkId, Mesh, MeshConfig, PeerState, Time};
use remotemedia_pipeline::{Data, Item};

use crate::event::Event;
use crate::session::Track;
use crate::shared::{Command, Shared};
use crate::{Message, PeerId, PeerStats, TransportError};
use demux::Demux;
use entry::Entry;
pub use socket::SocketCounters;
use socket::{ReceiveBuffers, Socket};

pub(crate) const WAKE: Token = Token(usize::MAX);
/// Receive calls on one socket before the others have their turn.
const RECEIVES_A_TURN: usize = 16;
/// The longest sleep: a bound on what a forgotten wake-up could cost.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// First byte of a DTLS record with application data (RFC 6347 §4.1).
const DTLS_APPLICATION_DATA: u8 = 23;

pub(crate) struct Net {
    shared: Arc<Shared>,
    poll: Poll,
    start: Instant,
    sockets: Vec<Socket>,
    by_local: HashMap<SocketAddr, usize>,
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
}

impl Net {
    /// Opens the sockets and prepares everything that can fail, on the caller's thread.
    pub(crate) fn new(shared: Arc<Shared>, poll: Poll, seed: u64) -> Result<Net, TransportError> {
        let system = |what: &'static str| {
            move |e: std::io::Error| TransportError::System { what, message: e.to_string() }
        };
        let mut sockets = Vec::new();
        let mut by_local = HashMap::new();
        for address in local_addresses().map_err(system("network interfaces"))? {
            // An address can go away between the two calls; the others still serve.
            let Ok(mut socket) = Socket::bind(SocketAddr::new(address, 0), shared.config.socket_buffer_bytes)
            else {
                continue;
            };
            let index = sockets.len();
            poll.registry()
                .register(socket.source(), Token(index), Interest::READABLE | Interest::WRITABLE)
                .map_err(system("poll"))?;
            by_local.insert(socket.local(), index);
            sockets.push(socket);
        }
        if sockets.is_empty() {
            let message = "no interface of this machine could be bound".to_string();
            return Err(TransportError::System { what: "UDP sockets", message });
        }
        let granted = sockets.iter().map(Socket::granted_buffer_bytes).min().unwrap_or(0);
        let certificate = Certificate::generate()
            .map_err(|e| TransportError::System { what: "certificate", message: e.to_string() })?;
        let config = &shared.config;
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
            ..LinkConfig::default()
        };
        Ok(Net {
            start: Instant::now(),
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
            shared,
            poll,
            sockets,
            by_local,
        })
    }

    /// Runs until [`Command::Close`].
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(64);
        let mut buffers = ReceiveBuffers::new();
        let mut readable: BTreeSet<usize> = BTreeSet::new();
        loop {
            let timeout = if readable.is_empty() { self.sleep() } else { Duration::ZERO };
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "poll failed");
                return;
            }
            for event in &events {
                let Token(index) = event.token();
                if let Some(socket) = self.sockets.get_mut(index) {
                    if event.is_writable() {
                        socket.on_writable();
                    }
                    if event.is_readable() {
                        readable.insert(index);
                    }
                }
            }
            if !self.take_commands() {
                break;
            }
            readable.retain(|index| self.receive(*index, &mut buffers));
            self.run_timers();
            self.settle();
            for socket in &mut self.sockets {
                socket.flush();
            }
        }
        self.finish();
    }

    fn sleep(&self) -> Duration {
        let now = Instant::now();
        let links = self.links.values().filter_map(|e| e.link.poll_timeout()).min();
        let links = links.map_or(MAX_SLEEP, |at| at.saturating_duration_since(now));
        let mesh = self.mesh.poll_timeout().map_or(MAX_SLEEP, |at| at.since(self.time(now)));
        links.min(mesh).min(MAX_SLEEP)
    }

    fn time(&self, now: Instant) -> Time {
        Time::from_micros(now.saturating_duration_since(self.start).as_micros() as u64)
    }

    /// Hands datagrams to their links. Returns whether the socket may have more.
    fn receive(&mut self, index: usize, buffers: &mut ReceiveBuffers) -> bool {
        let Self { sockets, links, demux, dirty, shared, .. } = self;
        let socket = &mut sockets[index];
        let local = socket.local();
        let congested = shared.events.is_congested();
        for _ in 0..RECEIVES_A_TURN {
            let now = Instant::now();
            let more = socket.receive(buffers, |from, data| {
                let Some(id) = demux.find(index, from, data) else {
                    shared.counters.unknown_datagrams.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                let Some(entry) = links.get_mut(&id) else { return };
                // The owner does not take its messages: SCTP's own retransmission makes the peer wait.
                if congested && data.first() == Some(&DTLS_APPLICATION_DATA) && entry.open {
                    shared.counters.congested_datagrams.fetch_add(1, Ordering::Relaxed);
                    return;
                }
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
        while let Some(transmit) = entry.link.poll_transmit() {
            let Some(&index) = self.by_local.get(&transmit.local) else { continue };
            const STUN_LAST: u8 = 3;
            if transmit.data.first().is_some_and(|b| *b <= STUN_LAST) {
                self.demux.add_address(index, transmit.remote, id);
            }
            self.sockets[index].send(transmit.remote, &transmit.data);
        }
    }

    fn on_link_event(&mut self, now: Instant, id: LinkId, event: LinkEvent) {
        let time = self.time(now);
        let Some(entry) = self.links.get_mut(&id) else { return };
        match event {
            LinkEvent::State(state) => {
                if state == LinkState::Connected {
                    entry.publish_negotiated();
                }
                self.mesh.handle(time, Input::LinkState { link: id, state: peer_state(state) });
            }
            LinkEvent::ChannelOpen { id: channel, label, ordered, ours, mode, .. } => {
                let Some(number) = entry.channel_opened(channel, &label, ours) else {
                    entry.link.close_channel(now, channel);
                    return;
                };
                if number == 0 {
                    entry.open = true;
                    entry.publish_negotiated();
                    entry.peer.open_channel(0);
                    self.mesh.handle(time, Input::ChannelOpen { link: id });
                } else {
                    entry.peer.open_channel(number);
                    let reliable = mode != Some(crate::DataMode::Unreliable);
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
                    entry.peer.close_channel(number);
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
                    let timestamp_us = now.saturating_duration_since(self.start).as_micros() as i64;
                    self.shared.sessions.route(&peer, Item { timestamp_us, ..Item::new(data) });
                }
                self.shared.events.push(Event::Message { peer, channel: number, message });
            }
            LinkEvent::Rtp(packet) => entry.receive_rtp(packet, &self.shared),
            LinkEvent::KeyframeRequested => entry.keyframe_requested(),
            LinkEvent::PathSuspect => self.mesh.handle(time, Input::PathSuspect { link: id }),
            LinkEvent::NegotiationNeeded => self.mesh.handle(time, Input::NegotiationNeeded { link: id }),
            // ICE alone says less than the connection's state; sender reports are for lip sync.
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
                self.send_candidates(time, link);
            }
            Action::AcceptOffer { link, sdp } => {
                let result = self.on_link(link, |l| l.accept_offer(now, &sdp));
                self.report(time, link, result, |link, sdp| Input::AnswerCreated { link, sdp });
                self.publish_negotiated(link);
                self.send_candidates(time, link);
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
                let detail = match state {
                    Some(state) => format!("; the connection is '{state}'"),
                    None => String::new(),
                };
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
                known.set_state(state);
                self.shared.events.push(Event::PeerState { peer, state, reason });
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

    fn create_link(&mut self, now: Instant, id: LinkId, peer: PeerId) {
        let link = match Link::new(now, self.link_config.clone(), &self.certificate) {
            Ok(link) => link,
            Err(error) => {
                let reason = error.to_string();
                self.mesh.handle(self.time(now), Input::NegotiationFailed { link: id, reason });
                return;
            }
        };
        let shared_peer = self.shared.peers.get_or_insert(&peer);
        let mut entry = Entry::new(link, shared_peer, &self.shared);
        for socket in &self.sockets {
            match entry.link.add_local_candidate(socket.local()) {
                Ok(candidate) => entry.candidates.push(candidate),
                Err(error) => tracing::warn!(%error, "local candidate refused"),
            }
        }
        self.demux.add_ufrag(entry.link.local_ufrag(), id);
        self.by_peer.insert(peer, id);
        self.links.insert(id, entry);
    }

    fn destroy_link(&mut self, now: Instant, id: LinkId) {
        let Some(mut entry) = self.links.remove(&id) else { return };
        entry.link.close(now);
        while let Some(transmit) = entry.link.poll_transmit() {
            if let Some(&index) = self.by_local.get(&transmit.local) {
                self.sockets[index].send(transmit.remote, &transmit.data);
            }
        }
        entry.closed(&self.shared);
        self.demux.remove(id);
        self.dirty.remove(&id);
        if self.by_peer.get(&entry.peer.id) == Some(&id) {
            self.by_peer.remove(&entry.peer.id);
        }
    }

    fn on_link<T>(
        &mut self,
        id: LinkId,
        call: impl FnOnce(&mut Link) -> Result<T, remotemedia_link::LinkError>,
    ) -> Result<T, String> {
        let Some(entry) = self.links.get_mut(&id) else { return Err("the link is gone".into()) };
        self.dirty.insert(id);
        call(&mut entry.link).map_err(|e| e.to_string())
    }

    fn report<T>(
        &mut self,
        time: Time,
        link: LinkId,
        result: Result<T, String>,
        ok: impl FnOnce(LinkId, T) -> Input,
    ) {
        let input = match result {
            Ok(value) => ok(link, value),
            Err(reason) => {
                self.shared.counters.signals_refused.fetch_add(1, Ordering::Relaxed);
                Input::NegotiationFailed { link, reason }
            }
        };
        self.mesh.handle(time, input);
    }

    /// An ICE restart has a new name; and the peer must know our addresses, once a link.
    fn send_candidates(&mut self, time: Time, link: LinkId) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        self.demux.add_ufrag(entry.link.local_ufrag(), link);
        for candidate in std::mem::take(&mut entry.candidates) {
            let candidate = IceCandidate { candidate, sdp_mid: Some("0".into()), sdp_m_line_index: Some(0) };
            self.mesh.handle(time, Input::LocalCandidate { link, candidate });
        }
        self.mesh.handle(time, Input::LocalCandidatesDone { link });
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
                Command::Stats { request, peer } => self.stats(now, request, peer.as_ref()),
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
            Command::Mesh(_) | Command::Close | Command::Stats { .. } => {}
        }
    }

    fn stats(&mut self, now: Instant, request: u32, peer: Option<&PeerId>) {
        let peers: Vec<PeerStats> = self
            .links
            .values_mut()
            .filter(|entry| peer.is_none_or(|p| *p == entry.peer.id))
            .map(|entry| {
                let link = entry.link.stats(now);
                let index = link.selected.as_ref().and_then(|s| self.by_local.get(&s.local)).copied();
                let socket = index.and_then(|i| self.sockets.get(i)).map(|s| s.counters).unwrap_or_default();
                entry.stats(link, socket)
            })
            .collect();
        self.shared.events.push(Event::Stats { request, peers });
    }

    /// Says goodbye on every link and lets the datagrams leave.
    fn finish(mut self) {
        let now = Instant::now();
        self.mesh.handle(self.time(now), Input::Close);
        while let Some(action) = self.mesh.poll() {
            self.act(action);
        }
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.destroy_link(now, id);
        }
        for socket in &mut self.sockets {
            socket.flush();
            socket.on_writable();
        }
    }
}

/// Everything that a peer could reach us at: each address of each interface that is up.
fn local_addresses() -> std::io::Result<Vec<std::net::IpAddr>> {
    let mut addresses: Vec<_> = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(|i| i.is_oper_up() || i.is_loopback())
        .map(|i| i.ip())
        .filter(|ip| match ip {
            std::net::IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified(),
            // Link-local IPv6 needs a scope, which candidates can't carry; ::1 reaches nothing that 127.0.0.1 doesn't.
            std::net::IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(16);
    Ok(addresses)
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

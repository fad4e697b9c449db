//! The owner's handle on a running transport.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use remotemedia_media::{AudioFrame, FramePool, VideoFrame};
use remotemedia_mesh::{Input, RequestId};
use remotemedia_pipeline::{Item, NodeError, OutputHook, PanicReport, Plan, SessionStats, WorkerPool};

use crate::event::{Event, EventQueue};
use crate::net::{Net, WAKE};
use crate::outputs::{Outputs, SourceKey};
use crate::peer::{Hold, Peer, PeerStatus, Peers};
use crate::routes::RouteConfig;
use crate::session::{SessionId, Sessions};
use crate::shared::{Command, Commands, Counters, Shared};
use crate::{
    ChannelOptions, Config, Message, PeerAnnouncement, PeerId, PeerState, QualityReport, Signal,
    TransportCounters, TransportError, TurnServer,
};

/// Threads for video and pipelines: each picture in the machine is worked on by one of them at a time.
const MAX_VIDEO_WORKERS: usize = 8;
/// What waits in a session that is closed is run for this long at most.
const MAX_FINISH: Duration = Duration::from_secs(2);

/// A running transport. All calls return at once but [`Transport::close`], which joins the threads.
pub struct Transport {
    shared: Arc<Shared>,
    net: Mutex<Option<JoinHandle<()>>>,
    next_channel: AtomicU32,
}

/// A peer as it is known right now.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Its id.
    pub id: PeerId,
    /// The connection to it.
    pub status: PeerStatus,
    /// It takes audio.
    pub audio: bool,
    /// The video codec it takes.
    pub video_codec: Option<remotemedia_media::VideoCodec>,
    /// How good the connection is, while there is one.
    pub quality: Option<QualityReport>,
    /// Bytes accepted for the built-in channel and not yet acknowledged.
    pub buffered_amount: usize,
}

impl Transport {
    /// Opens the sockets and starts the threads. `wake` is called from other threads when events wait: once, until
    /// [`Transport::drain`] has been called.
    pub fn new(config: Config, wake: impl Fn() + Send + Sync + 'static) -> Result<Transport, TransportError> {
        config.check()?;
        let system = |what: &'static str| {
            move |e: &dyn std::fmt::Display| TransportError::System { what, message: e.to_string() }
        };
        let poll = mio::Poll::new().map_err(|e| system("poll")(&e))?;
        let waker = mio::Waker::new(poll.registry(), WAKE).map_err(|e| system("waker")(&e))?;
        let seed = config.seed.unwrap_or_else(random_seed);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let hook: remotemedia_pipeline::PanicHook =
            Arc::new(|report: &PanicReport| tracing::error!(?report, "a worker panicked"));
        let audio_pool =
            WorkerPool::new("rm-audio", 1, Some(hook.clone())).map_err(|e| system("worker threads")(&e))?;
        let video_pool = WorkerPool::new("rm-video", cores.clamp(2, MAX_VIDEO_WORKERS), Some(hook))
            .map_err(|e| system("worker threads")(&e))?;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            config,
            peers: Peers::default(),
            events: EventQueue::new(Box::new(wake)),
            commands: Commands::new(waker),
            outputs: Outputs::default(),
            sessions: Sessions::default(),
            frames: FramePool::new(16),
            audio_pool,
            video_pool,
            subscribed_audio: AtomicBool::new(false),
            subscribed_video: AtomicBool::new(false),
            counters: Counters::default(),
            closing: AtomicBool::new(false),
        });
        shared.sessions.attach(&shared);
        let net = Net::new(shared.clone(), poll, seed)?;
        let thread = std::thread::Builder::new()
            .name("rm-net".into())
            .spawn(move || net.run())
            .map_err(|e| system("net thread")(&e))?;
        Ok(Transport { shared, net: Mutex::new(Some(thread)), next_channel: AtomicU32::new(1) })
    }

    /// Takes what happened, at most `max` events beside frames. True: there is more.
    pub fn drain(&self, max: usize, out: &mut Vec<Event>) -> bool {
        self.shared.events.drain(max, out, |peer| self.hold(&peer, Hold::Events, false))
    }

    // What signaling says.

    /// We joined the room, for the first time or again; these are there.
    pub fn announced(&self, peers: Vec<PeerAnnouncement>) {
        self.mesh(Input::Announced { peers });
    }

    /// A peer joined after us.
    pub fn peer_joined(&self, peer: PeerAnnouncement) {
        self.mesh(Input::Joined(peer));
    }

    /// A peer's membership ended.
    pub fn peer_left(&self, peer: PeerId) {
        self.mesh(Input::Left { peer });
    }

    /// A peer says that it is about to leave.
    pub fn peer_disconnected(&self, peer: PeerId, reason: Option<String>) {
        self.mesh(Input::Disconnected { peer, reason });
    }

    /// A peer sent us this.
    pub fn signal(&self, peer: PeerId, signal: Signal) {
        self.mesh(match signal {
            Signal::Offer(sdp) => Input::Offer { peer, sdp },
            Signal::Answer(sdp) => Input::Answer { peer, sdp },
            Signal::Candidate(candidate) => Input::Candidate { peer, candidate },
            Signal::Error { code, message } => Input::SignalError { peer, code, message },
        });
    }

    /// The TURN servers from now on. One that is known already keeps its relay, and takes other credentials.
    pub fn set_turn_servers(&self, servers: Vec<TurnServer>) -> Result<(), TransportError> {
        self.open()?;
        TurnServer::check_all(&servers)?;
        self.shared.commands.push(Command::TurnServers(servers));
        Ok(())
    }

    /// The signaling connection is gone; links live on.
    pub fn signaling_lost(&self) {
        self.mesh(Input::SignalingLost);
    }

    /// The signaling connection is back and we are still a member.
    pub fn signaling_restored(&self) {
        self.mesh(Input::SignalingRestored);
    }

    // Peers.

    /// Answered by [`Event::Connected`] with the same number.
    pub fn connect_peer(&self, peer: PeerId, request: u32, timeout: Duration) {
        self.mesh(Input::Connect { peer, request: RequestId(request.into()), timeout });
    }

    /// Nobody waits for this request any more.
    pub fn cancel_connect(&self, request: u32) {
        self.mesh(Input::CancelConnect { request: RequestId(request.into()) });
    }

    /// Ends the connection to a peer; it is not offered to again by itself.
    pub fn disconnect_peer(&self, peer: PeerId, reason: String) {
        self.mesh(Input::Disconnect { peer, reason });
    }

    /// Everyone there is or was a link with since they joined.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let mut peers: Vec<_> = self
            .shared
            .peers
            .all()
            .into_iter()
            .map(|peer| PeerInfo {
                id: peer.id.clone(),
                status: peer.status(),
                audio: peer.audio(),
                video_codec: peer.video_codec(),
                quality: peer.quality(),
                buffered_amount: peer.buffered_amount(0),
            })
            .collect();
        peers.sort_by(|a, b| a.id.cmp(&b.id));
        peers
    }

    /// Answered by [`Event::Stats`] with the same number.
    pub fn request_stats(&self, request: u32, peer: Option<PeerId>) {
        self.shared.commands.push(Command::Stats { request, peer });
    }

    /// Totals of the whole transport.
    pub fn counters(&self) -> TransportCounters {
        self.shared.counters()
    }

    // Data.

    /// Hands over a message. True: send on; false: [`Event::Drained`] tells when there is room.
    pub fn send_message(&self, peer: &str, channel: u32, message: Message) -> Result<bool, TransportError> {
        let peer = self.peer(peer)?;
        let room = peer.enqueue(channel, message)?;
        self.shared.commands.push(Command::Pump { peer: peer.id.clone(), channel });
        Ok(room)
    }

    /// Makes a peer wait with its messages, on all its channels, or lets it go on; media isn't concerned. Messages that have come in
    /// already are still given out, and a few of the others every ten seconds, so that the connection outlives it.
    pub fn hold_messages(&self, peer: &str, hold: bool) {
        self.hold(peer, Hold::Owner, hold);
    }

    fn hold(&self, peer: &str, why: Hold, hold: bool) {
        if let Some(peer) = self.shared.peers.get(peer) {
            peer.hold(why, hold);
            self.shared.commands.push(Command::Hold { peer: peer.id.clone() });
        }
    }

    /// Bytes accepted for a channel and not yet acknowledged by the peer.
    pub fn buffered_amount(&self, peer: &str, channel: u32) -> usize {
        self.shared.peers.get(peer).map_or(0, |p| p.buffered_amount(channel))
    }

    /// Opens a further channel and returns its number; [`Event::ChannelOpen`] or [`Event::ChannelClosed`] follows.
    pub fn open_channel(
        &self,
        peer: &str,
        label: String,
        options: ChannelOptions,
    ) -> Result<u32, TransportError> {
        let peer = self.connected(peer)?;
        let channel = self.next_channel.fetch_add(1, Ordering::Relaxed);
        self.shared.commands.push(Command::OpenChannel { peer: peer.id.clone(), channel, label, options });
        Ok(channel)
    }

    /// Closes a channel opened by either side.
    pub fn close_channel(&self, peer: &str, channel: u32) {
        self.shared.commands.push(Command::CloseChannel { peer: peer.into(), channel });
    }

    // Media.

    /// Whether received audio and video come as events.
    pub fn subscribe(&self, audio: bool, video: bool) {
        self.shared.subscribed_audio.store(audio, Ordering::Relaxed);
        self.shared.subscribed_video.store(video, Ordering::Relaxed);
    }

    /// Encodes and sends a picture. A picture that still waits for the encoder is replaced. Its timestamp and those of sound for
    /// the same peer are taken to be on one clock if they are within 500 ms.
    pub fn send_video(&self, peer: &str, frame: VideoFrame) -> Result<(), TransportError> {
        let peer = self.connected(peer)?;
        if peer.video_codec().is_none() {
            return Err(TransportError::NoCommonCodec { peer: peer.id.clone(), kind: "video" });
        }
        let key = SourceKey::Unicast(peer.id.clone());
        self.shared.outputs.send_video(&self.shared, key, frame, vec![peer]);
        Ok(())
    }

    /// Encodes and sends samples.
    pub fn send_audio(&self, peer: &str, frame: AudioFrame) -> Result<(), TransportError> {
        let peer = self.connected(peer)?;
        if !peer.audio() {
            return Err(TransportError::NoCommonCodec { peer: peer.id.clone(), kind: "audio" });
        }
        let key = SourceKey::Unicast(peer.id.clone());
        self.shared.outputs.send_audio(&self.shared, key, "", frame, vec![peer]);
        Ok(())
    }

    /// Encodes a picture once a codec and sends it to every connected peer but `exclude`. Returns who could not be sent it.
    pub fn broadcast_video(&self, frame: VideoFrame, exclude: &[PeerId]) -> Vec<TransportError> {
        let (peers, errors) = self.audience(exclude, "video", |p| p.video_codec().is_some());
        self.shared.outputs.send_video(&self.shared, SourceKey::broadcast(exclude), frame, peers);
        errors
    }

    /// Encodes samples once and sends them to every connected peer but `exclude`. Returns who could not be sent them.
    pub fn broadcast_audio(&self, frame: AudioFrame, exclude: &[PeerId]) -> Vec<TransportError> {
        let (peers, errors) = self.audience(exclude, "audio", |p| p.audio());
        self.shared.outputs.send_audio(&self.shared, SourceKey::broadcast(exclude), "", frame, peers);
        errors
    }

    /// Where frames for this transport are best made: its pool reuses their memory.
    pub fn frames(&self) -> &FramePool {
        &self.shared.frames
    }

    // Sessions.

    /// Starts a session that runs this plan, with an instance for each peer.
    pub fn create_session(&self, plan: Arc<Plan>) -> Result<SessionId, TransportError> {
        self.open()?;
        self.shared.sessions.create(&self.shared, plan)
    }

    /// Runs one item through a session's graph.
    pub fn execute(
        &self,
        session: SessionId,
        peer: Option<&str>,
        item: Item,
        done: impl FnOnce(Result<Option<Item>, NodeError>) + Send + 'static,
    ) {
        self.shared.sessions.execute(session, peer, item, Box::new(done));
    }

    /// Adds a route: what matches goes through the session's graph and on to its receivers, without the owner.
    pub fn add_route(&self, session: SessionId, route: RouteConfig) -> Result<u64, TransportError> {
        self.open()?;
        let id = self.shared.sessions.add_route(session, route)?;
        self.want_keyframes();
        Ok(id)
    }

    /// Replaces a route while it runs.
    pub fn update_route(&self, route: u64, config: RouteConfig) -> Result<(), TransportError> {
        self.shared.sessions.update_route(route, config)?;
        self.want_keyframes();
        Ok(())
    }

    /// Ends a route.
    pub fn remove_route(&self, route: u64) {
        self.shared.sessions.remove_route(route);
        self.shared.outputs.remove_route(route);
    }

    /// Changes a node's parameter, for every instance, from the next item on.
    pub fn set_param(
        &self,
        session: SessionId,
        node: &str,
        name: &str,
        value: serde_json::Value,
    ) -> Result<(), NodeError> {
        self.shared.sessions.set_param(session, node, name, value)
    }

    /// Switches a node on or off, for every instance, from the next item on. One that is off passes on what it gets.
    pub fn set_enabled(&self, session: SessionId, node: &str, enabled: bool) -> Result<(), NodeError> {
        self.shared.sessions.set_enabled(session, node, enabled)
    }

    /// Runs another plan in a session, for each peer from its next item on; nodes that are in both keep their state. Refused while
    /// a route goes through an output that the plan doesn't have.
    pub fn reload_session(&self, session: SessionId, plan: Arc<Plan>) -> Result<(), TransportError> {
        self.open()?;
        self.shared.sessions.reload(session, plan)
    }

    /// Has `hook` told of everything that leaves a session's graph by an output, given as `node` or `node.port`; it goes where it
    /// goes besides.
    pub fn tap_session(&self, session: SessionId, output: &str, hook: OutputHook) -> Result<u64, NodeError> {
        self.shared.sessions.tap(session, output, hook)
    }

    /// Ends a tap.
    pub fn remove_tap(&self, session: SessionId, tap: u64) {
        self.shared.sessions.remove_tap(session, tap);
    }

    /// Counters of a session's nodes.
    pub fn session_stats(&self, session: SessionId) -> Option<SessionStats> {
        self.shared.sessions.stats(session)
    }

    /// Tells a shared node something about one peer, who may not be there yet: of a mixer, `gain_db` or `muted`. Forgotten when the peer
    /// leaves the room.
    pub fn set_peer_param(
        &self,
        session: SessionId,
        node: &str,
        peer: &str,
        name: &str,
        value: serde_json::Value,
    ) -> Result<(), NodeError> {
        self.shared.sessions.set_peer_param(session, node, peer, name, value)
    }

    /// Takes nothing in any more for a session, runs and sends what waits in it, for 2 s at most, and ends it with its routes and
    /// instances. [`Event::SessionClosed`] tells of the end.
    pub fn finish_session(&self, session: SessionId) {
        let weak = Arc::downgrade(&self.shared);
        self.shared.sessions.finish(session, MAX_FINISH, move || {
            let Some(shared) = weak.upgrade() else { return };
            for route in shared.sessions.close(session) {
                shared.outputs.remove_route(route);
            }
            shared.events.push(Event::SessionClosed { session });
        });
    }

    /// Ends a session with its routes and instances at once; what waits is dropped.
    pub fn close_session(&self, session: SessionId) {
        for route in self.shared.sessions.close(session) {
            self.shared.outputs.remove_route(route);
        }
    }

    /// Says goodbye to every peer, ends every session and joins every thread. Later calls return once that is done.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        let mut net = crate::lock(&self.net);
        self.shared.commands.push(Command::Close);
        if let Some(thread) = net.take() {
            // A panic there was logged; there is nothing more to end.
            let _ = thread.join();
        }
        self.shared.commands.close();
        self.shared.sessions.close_all();
        self.shared.outputs.clear();
        self.shared.audio_pool.close();
        self.shared.video_pool.close();
        self.shared.events.close();
    }

    fn mesh(&self, input: Input) {
        self.shared.commands.push(Command::Mesh(input));
    }

    fn open(&self) -> Result<(), TransportError> {
        if self.shared.closing.load(Ordering::Acquire) { Err(TransportError::Closed) } else { Ok(()) }
    }

    fn peer(&self, id: &str) -> Result<Arc<Peer>, TransportError> {
        self.open()?;
        self.shared.peers.get(id).ok_or_else(|| TransportError::PeerNotFound { peer: id.into() })
    }

    fn connected(&self, id: &str) -> Result<Arc<Peer>, TransportError> {
        let peer = self.peer(id)?;
        if peer.state() == PeerState::Connected {
            Ok(peer)
        } else {
            Err(TransportError::NotConnected { peer: id.into() })
        }
    }

    fn audience(
        &self,
        exclude: &[PeerId],
        kind: &'static str,
        takes: impl Fn(&Peer) -> bool,
    ) -> (Vec<Arc<Peer>>, Vec<TransportError>) {
        let all = self.shared.peers.connected().into_iter().filter(|p| !exclude.contains(&p.id));
        let (peers, without): (Vec<_>, Vec<_>) = all.partition(|p| takes(p));
        let errors =
            without.into_iter().map(|p| TransportError::NoCommonCodec { peer: p.id.clone(), kind }).collect();
        (peers, errors)
    }

    /// Who starts to look at a stream needs a picture to start with.
    fn want_keyframes(&self) {
        for peer in self.shared.peers.connected() {
            self.shared.commands.push(Command::RequestKeyframe { peer: peer.id.clone() });
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.close();
    }
}

/// Differs from run to run: the standard library seeds its hash maps from the system's random source.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

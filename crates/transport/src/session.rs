//! Sessions, and the routes that carry media from peers through a graph and on to peers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};

use bytes::Bytes;
use remotemedia_pipeline::{
    Data, ErrorHook, ErrorReport, Item, Kind, NodeError, OutputHook, Plan, Session, SessionOptions,
    SessionStats, WorkerPool,
};

use crate::event::Event;
use crate::outputs::SourceKey;
use crate::peer::Peer;
use crate::shared::{Command, Shared};
use crate::{Message, PeerId, TransportError};

/// Sessions that may run side by side.
const MAX_SESSIONS: usize = 64;
/// Routes of all sessions together.
const MAX_ROUTES: usize = 256;

/// Names a session of one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// What a route carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Track {
    /// Decoded audio.
    Audio,
    /// Decoded pictures.
    Video,
    /// Messages of the built-in channel.
    Data,
}

/// Who gets what a route gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTo {
    /// The peer it came from.
    Sender,
    /// Every connected peer but the one it came from.
    Others,
    /// Every connected peer.
    All,
    /// These, where they are connected.
    Peers(Vec<PeerId>),
}

/// One route: from peers, through the graph, to peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Whose media; `None`: everybody's.
    pub from: Option<Vec<PeerId>>,
    /// Which of it.
    pub track: Track,
    /// The node whose output is sent.
    pub through: String,
    /// To whom.
    pub to: RouteTo,
}

#[derive(Default)]
pub(crate) struct Sessions {
    shared: OnceLock<Weak<Shared>>,
    next: AtomicU64,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Arc<Session>>,
    routes: Vec<Arc<Route>>,
}

struct Route {
    id: u64,
    session_id: SessionId,
    session: Arc<Session>,
    config: RouteConfig,
    sinks: Mutex<HashMap<PeerId, Sink>>,
}

type Sink = Arc<dyn Fn(Item) + Send + Sync>;

impl Sessions {
    /// Tells it where it lives, once.
    pub(crate) fn attach(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    pub(crate) fn create(&self, plan: Arc<Plan>, pool: &WorkerPool) -> Result<SessionId, TransportError> {
        let mut state = crate::write(&self.state);
        if state.sessions.len() >= MAX_SESSIONS {
            return Err(TransportError::Config {
                field: "stream",
                message: format!("{MAX_SESSIONS} sessions are open"),
            });
        }
        let id = SessionId(self.next_id());
        let shared = self.shared.get().cloned().unwrap_or_default();
        let on_error: ErrorHook = Arc::new(move |report: ErrorReport| {
            if let Some(shared) = shared.upgrade() {
                let error = TransportError::Node { message: report.error.to_string() };
                shared.events.push(Event::Error { peer: report.peer, error });
            }
        });
        let options = SessionOptions { on_error: Some(on_error), ..SessionOptions::default() };
        let session = Session::new(plan, pool.clone(), options);
        state.sessions.insert(id, Arc::new(session));
        Ok(id)
    }

    pub(crate) fn execute(
        &self,
        id: SessionId,
        peer: Option<&str>,
        item: Item,
        done: Box<dyn FnOnce(Result<Option<Item>, NodeError>) + Send>,
    ) {
        match self.get(id) {
            Some(session) => session.execute(peer, item, done),
            None => done(Err(NodeError::Closed)),
        }
    }

    pub(crate) fn set_param(
        &self,
        id: SessionId,
        node: &str,
        name: &str,
        value: serde_json::Value,
    ) -> Result<(), NodeError> {
        self.get(id).ok_or(NodeError::Closed)?.set_param(node, name, value)
    }

    pub(crate) fn set_enabled(&self, id: SessionId, node: &str, enabled: bool) -> Result<(), NodeError> {
        self.get(id).ok_or(NodeError::Closed)?.set_enabled(node, enabled)
    }

    pub(crate) fn stats(&self, id: SessionId) -> Option<SessionStats> {
        self.get(id).map(|session| session.stats())
    }

    pub(crate) fn reload(&self, id: SessionId, plan: Arc<Plan>) -> Result<(), TransportError> {
        // Held to the end, so that no route is added to what goes.
        let state = crate::write(&self.state);
        let session = state.sessions.get(&id).ok_or(TransportError::Closed)?;
        for route in state.routes.iter().filter(|route| route.session_id == id) {
            check_output(&plan, &route.config.through)?;
        }
        session.reload(plan).map_err(|error| match error {
            NodeError::Closed => TransportError::Closed,
            other => TransportError::Config { field: "reload", message: other.to_string() },
        })
    }

    pub(crate) fn tap(&self, id: SessionId, output: &str, hook: OutputHook) -> Result<u64, NodeError> {
        self.get(id).ok_or(NodeError::Closed)?.tap(output, hook)
    }

    pub(crate) fn remove_tap(&self, id: SessionId, tap: u64) {
        if let Some(session) = self.get(id) {
            session.remove_tap(tap);
        }
    }

    /// Ends a session. Returns its routes.
    pub(crate) fn close(&self, id: SessionId) -> Vec<u64> {
        let (session, routes) = {
            let mut state = crate::write(&self.state);
            let session = state.sessions.remove(&id);
            let (ended, kept) = state.routes.drain(..).partition::<Vec<_>, _>(|r| r.session_id == id);
            state.routes = kept;
            (session, ended)
        };
        if let Some(session) = session {
            session.close();
        }
        routes.iter().map(|r| r.id).collect()
    }

    pub(crate) fn close_all(&self) {
        let ids: Vec<_> = crate::read(&self.state).sessions.keys().copied().collect();
        for id in ids {
            self.close(id);
        }
    }

    pub(crate) fn add_route(
        &self,
        session_id: SessionId,
        config: RouteConfig,
    ) -> Result<u64, TransportError> {
        let mut state = crate::write(&self.state);
        let session = state.sessions.get(&session_id).cloned().ok_or(TransportError::Closed)?;
        check(&session, &config)?;
        if state.routes.len() >= MAX_ROUTES {
            return Err(TransportError::Config {
                field: "route",
                message: format!("{MAX_ROUTES} routes are open"),
            });
        }
        let id = self.next_id();
        state.routes.push(Arc::new(Route { id, session_id, session, config, sinks: Mutex::default() }));
        Ok(id)
    }

    /// The route keeps its id, and so its encoders: receivers see one stream go on.
    pub(crate) fn update_route(&self, id: u64, config: RouteConfig) -> Result<(), TransportError> {
        let mut state = crate::write(&self.state);
        let route = state.routes.iter_mut().find(|r| r.id == id).ok_or(TransportError::Closed)?;
        check(&route.session, &config)?;
        let (session_id, session) = (route.session_id, route.session.clone());
        *route = Arc::new(Route { id, session_id, session, config, sinks: Mutex::default() });
        Ok(())
    }

    pub(crate) fn remove_route(&self, id: u64) {
        crate::write(&self.state).routes.retain(|r| r.id != id);
    }

    /// The peer is gone: its instances are drained and freed.
    pub(crate) fn remove_peer(&self, peer: &PeerId) {
        let state = crate::read(&self.state);
        for session in state.sessions.values() {
            session.remove_peer(peer);
        }
        for route in &state.routes {
            crate::lock(&route.sinks).remove(peer);
        }
    }

    /// Whether a route takes this peer's track.
    pub(crate) fn wants(&self, peer: &str, track: Track) -> bool {
        crate::read(&self.state).routes.iter().any(|r| r.config.takes(peer, track))
    }

    /// Sends an item down every route that takes it.
    pub(crate) fn route(&self, peer: &PeerId, item: Item) {
        let track = match item.kind() {
            Kind::Audio => Track::Audio,
            Kind::Video => Track::Video,
            _ => Track::Data,
        };
        let routes: Vec<_> =
            crate::read(&self.state).routes.iter().filter(|r| r.config.takes(peer, track)).cloned().collect();
        for route in routes {
            let sink = self.sink(&route, peer);
            // What finds no room is dropped by the policy of its kind, and counted in the session's stats.
            let _ = route.session.push(Some(peer), item.clone(), Some(&route.config.through), sink);
        }
    }

    fn sink(&self, route: &Arc<Route>, peer: &PeerId) -> Sink {
        let mut sinks = crate::lock(&route.sinks);
        if let Some(sink) = sinks.get(peer) {
            return sink.clone();
        }
        let (shared, id, to, from) =
            (self.shared.get().cloned().unwrap_or_default(), route.id, route.config.to.clone(), peer.clone());
        let sink: Sink = Arc::new(move |item| {
            if let Some(shared) = shared.upgrade() {
                send(&shared, id, &from, &to, item);
            }
        });
        sinks.insert(peer.clone(), sink.clone());
        sink
    }

    fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        crate::read(&self.state).sessions.get(&id).cloned()
    }

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl RouteConfig {
    fn takes(&self, peer: &str, track: Track) -> bool {
        self.track == track && self.from.as_ref().is_none_or(|from| from.iter().any(|id| &**id == peer))
    }
}

impl RouteTo {
    fn peers(&self, shared: &Shared, from: &PeerId) -> Vec<Arc<Peer>> {
        let mut peers = shared.peers.connected();
        match self {
            RouteTo::Sender => peers.retain(|p| p.id == *from),
            RouteTo::Others => peers.retain(|p| p.id != *from),
            RouteTo::All => {}
            RouteTo::Peers(ids) => peers.retain(|p| ids.contains(&p.id)),
        }
        peers
    }
}

fn check(session: &Session, config: &RouteConfig) -> Result<(), TransportError> {
    check_output(&session.plan(), &config.through)
}

/// A route needs a node that exists; what does not would never send anything.
fn check_output(plan: &Plan, through: &str) -> Result<(), TransportError> {
    if plan.has_output(through) {
        return Ok(());
    }
    let message = format!("'{through}' is no output node of the graph; those are: {}", plan.open_outputs());
    Err(TransportError::Config { field: "through", message })
}

/// What left the graph goes to its receivers.
fn send(shared: &Arc<Shared>, route: u64, from: &PeerId, to: &RouteTo, item: Item) {
    let targets = to.peers(shared, from);
    let key = SourceKey::Route(route, from.clone());
    match item.data {
        Data::Video(frame) => shared.outputs.send_video(shared, key, frame, targets),
        Data::Audio(frame) => shared.outputs.send_audio(shared, key, frame, targets),
        data => {
            let Some(message) = message(data) else { return };
            for peer in targets {
                // A receiver that takes no more loses this one; the others don't wait for it.
                if peer.enqueue(0, message.clone()).is_ok() {
                    shared.commands.push(Command::Pump { peer: peer.id.clone(), channel: 0 });
                } else {
                    shared.counters.packets_refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

fn message(data: Data) -> Option<Message> {
    match data {
        Data::Text(text) => Some(Message::Text(Bytes::copy_from_slice(text.as_bytes()))),
        Data::Json(value) => serde_json::to_vec(&*value).ok().map(|bytes| Message::Json(bytes.into())),
        Data::Binary(bytes) => Some(Message::Binary(bytes)),
        _ => None,
    }
}

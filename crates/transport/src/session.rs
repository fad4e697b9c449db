//! Sessions, and how the media of peers get into their graphs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock, Weak};
use std::time::Duration;

use remotemedia_pipeline::{
    EachSink, ErrorHook, ErrorReport, Item, Kind, NodeError, OutputHook, Plan, Session, SessionOptions,
    SessionStats,
};

use crate::event::Event;
use crate::routes::{Route, RouteConfig, RouteTo, Track};
use crate::shared::Shared;
use crate::{PeerId, TransportError};

/// Sessions that may run side by side.
const MAX_SESSIONS: usize = 64;
/// Routes of all sessions together.
const MAX_ROUTES: usize = 256;

/// Names a session of one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

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

impl Sessions {
    /// Tells it where it lives, once.
    pub(crate) fn attach(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    pub(crate) fn create(&self, shared: &Arc<Shared>, plan: Arc<Plan>) -> Result<SessionId, TransportError> {
        let mut state = crate::write(&self.state);
        if state.sessions.len() >= MAX_SESSIONS {
            return Err(TransportError::Config {
                field: "stream",
                message: format!("{MAX_SESSIONS} sessions are open"),
            });
        }
        let id = SessionId(self.next_id());
        let weak = Arc::downgrade(shared);
        let told = weak.clone();
        let on_error: ErrorHook = Arc::new(move |report: ErrorReport| {
            if let Some(shared) = told.upgrade() {
                let message = match report.left_out {
                    0 => report.error.to_string(),
                    more => format!("{} ({more} more were not told)", report.error),
                };
                let error = TransportError::Node { message };
                shared.events.push(Event::Error { peer: report.peer, error });
            }
        });
        let on_output: OutputHook = Arc::new(move |instance: Option<&PeerId>, node: &str, item: Item| {
            let Some(shared) = weak.upgrade() else { return };
            let routes =
                shared.sessions.matching(|route| route.session == id && route.sends_kind(node, item.kind()));
            for route in routes {
                route.send_made(&shared, instance, item.clone());
            }
        });
        let options = SessionOptions {
            audio_pool: Some(shared.audio_pool.clone()),
            on_error: Some(on_error),
            on_output: Some(on_output),
            ..SessionOptions::default()
        };
        let session = Session::new(plan, shared.video_pool.clone(), options);
        for peer in shared.peers.connected() {
            // Beyond the limit it is refused when it sends something.
            let _ = session.add_peer(&peer.id);
        }
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
        let mut state = crate::write(&self.state);
        let session = state.sessions.get(&id).ok_or(TransportError::Closed)?.clone();
        let own = state.routes.iter().filter(|route| route.session == id);
        let again = |route: &Arc<Route>| Route::new(route.id, id, route.config.clone(), &plan).map(Arc::new);
        let renewed = own.map(again).collect::<Result<Vec<_>, _>>()?;
        session.reload(plan.clone()).map_err(|error| match error {
            NodeError::Closed => TransportError::Closed,
            other => TransportError::Config { field: "reload", message: other.to_string() },
        })?;
        state.routes.retain(|route| route.session != id);
        state.routes.extend(renewed);
        Ok(())
    }

    pub(crate) fn tap(&self, id: SessionId, output: &str, hook: OutputHook) -> Result<u64, NodeError> {
        self.get(id).ok_or(NodeError::Closed)?.tap(output, hook)
    }

    pub(crate) fn remove_tap(&self, id: SessionId, tap: u64) {
        if let Some(session) = self.get(id) {
            session.remove_tap(tap);
        }
    }

    pub(crate) fn set_peer_param(
        &self,
        id: SessionId,
        node: &str,
        peer: &str,
        name: &str,
        value: serde_json::Value,
    ) -> Result<(), NodeError> {
        self.get(id).ok_or(NodeError::Closed)?.set_source_param(node, peer, name, value)
    }

    /// Runs what waits in a session, then calls `done`. Its routes still send meanwhile.
    pub(crate) fn finish(&self, id: SessionId, limit: Duration, done: impl FnOnce() + Send + 'static) {
        match self.get(id) {
            Some(session) => session.finish(limit, done),
            None => done(),
        }
    }

    /// Ends a session. Returns its routes.
    pub(crate) fn close(&self, id: SessionId) -> Vec<u64> {
        let (session, routes) = {
            let mut state = crate::write(&self.state);
            let session = state.sessions.remove(&id);
            let (ended, kept) = state.routes.drain(..).partition::<Vec<_>, _>(|r| r.session == id);
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

    pub(crate) fn add_route(&self, id: SessionId, config: RouteConfig) -> Result<u64, TransportError> {
        let mut state = crate::write(&self.state);
        let plan = state.sessions.get(&id).ok_or(TransportError::Closed)?.plan();
        let route = self.checked(Route::new(self.next_id(), id, config, &plan)?)?;
        if state.routes.len() >= MAX_ROUTES {
            return Err(TransportError::Config {
                field: "route",
                message: format!("{MAX_ROUTES} routes are open"),
            });
        }
        let number = route.id;
        state.routes.push(Arc::new(route));
        Ok(number)
    }

    /// The route keeps its id, and so its encoders: receivers see one stream go on.
    pub(crate) fn update_route(&self, id: u64, config: RouteConfig) -> Result<(), TransportError> {
        let mut state = crate::write(&self.state);
        let at = state.routes.iter().position(|r| r.id == id).ok_or(TransportError::Closed)?;
        let session = state.routes[at].session;
        let plan = state.sessions.get(&session).ok_or(TransportError::Closed)?.plan();
        state.routes[at] = Arc::new(self.checked(Route::new(id, session, config, &plan)?)?);
        Ok(())
    }

    /// Nobody is a peer of itself.
    fn checked(&self, route: Route) -> Result<Route, TransportError> {
        let Some(shared) = self.shared.get().and_then(Weak::upgrade) else {
            return Err(TransportError::Closed);
        };
        let own = &shared.config.peer_id;
        let is_own = |ids: &[PeerId]| ids.iter().any(|id| **id == **own);
        let field = match &route.config {
            RouteConfig { from: Some(from), .. } if is_own(from) => "from",
            RouteConfig { to: RouteTo::Peers(to), .. } if is_own(to) => "to",
            _ => return Ok(route),
        };
        let message = format!("'{own}' is this transport itself; a route goes from its peers to its peers");
        Err(TransportError::Config { field, message })
    }

    pub(crate) fn remove_route(&self, id: u64) {
        crate::write(&self.state).routes.retain(|r| r.id != id);
    }

    /// A peer is there: it hears what is made for everybody.
    pub(crate) fn add_peer(&self, peer: &PeerId) {
        for session in crate::read(&self.state).sessions.values() {
            let _ = session.add_peer(peer);
        }
    }

    /// The peer is gone: its instances are drained and freed.
    pub(crate) fn remove_peer(&self, peer: &PeerId) {
        for session in crate::read(&self.state).sessions.values() {
            session.remove_peer(peer);
        }
    }

    /// Whether a route takes this peer's track.
    pub(crate) fn wants(&self, peer: &str, track: Track) -> bool {
        crate::read(&self.state).routes.iter().any(|route| route.takes(peer, track))
    }

    /// Gives an item to every session that has a route for it, once each; what comes of it goes to those that have one then.
    pub(crate) fn route(&self, peer: &PeerId, item: Item) {
        let track = match item.kind() {
            Kind::Audio => Track::Audio,
            Kind::Video => Track::Video,
            _ => Track::Data,
        };
        let mut sessions: Vec<(SessionId, Arc<Session>)> = {
            let state = crate::read(&self.state);
            let takers = state.routes.iter().filter(|route| route.takes(peer, track));
            takers.filter_map(|r| Some((r.session, state.sessions.get(&r.session)?.clone()))).collect()
        };
        sessions.sort_by_key(|(id, _)| id.0);
        sessions.dedup_by_key(|(id, _)| *id);
        for (id, session) in sessions {
            let (shared, from) = (self.shared.get().cloned().unwrap_or_default(), peer.clone());
            let sink: EachSink = Arc::new(move |node: &str, port: &str, item: Item| {
                let Some(shared) = shared.upgrade() else { return };
                let routes = shared.sessions.matching(|route| {
                    route.session == id && route.takes(&from, track) && route.sends(node, port)
                });
                for route in routes {
                    route.send_of(&shared, &from, item.clone());
                }
            });
            // Media that finds no room displaces older; what is lost otherwise is told: messages too many, and what no node takes.
            if let Err(error) = session.push_each(Some(peer), item.clone(), sink) {
                session.refused(Some(peer), error);
            }
        }
    }

    fn matching(&self, wanted: impl Fn(&Route) -> bool) -> Vec<Arc<Route>> {
        crate::read(&self.state).routes.iter().filter(|route| wanted(route)).cloned().collect()
    }

    fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        crate::read(&self.state).sessions.get(&id).cloned()
    }

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }
}

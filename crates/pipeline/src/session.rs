//! Long-lived instances of a plan, one a peer, and one-shot runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::data::{Audience, Item};
use crate::error::{ManifestError, NodeError};
use crate::exec::{Mailbox, MailboxOptions, MailboxStats, Priority, Push, WeakMailbox, WorkerPool, lock};
use crate::graph::{
    Answer, Change, Cross, Crossing, Gate, Ingress, Instance, Msg, OnFailure, Outlets, Place, Plan,
    Surroundings, Tap,
};
use crate::manifest::{Manifest, Scope};
use crate::metrics::{DropReason, EdgeStats, Metrics, NodeStats};
use crate::spec::{Params, Registry};
use crate::ticket::{EachSink, Outcome, Ticket};

/// Parameters of one foreign node that a session keeps for instances to come.
const MAX_FOREIGN_PARAMS: usize = 256;
/// How often a session that finishes is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Taps of one session.
const MAX_TAPS: usize = 256;
/// Failures told at once, and a second when they go on: a node that fails on every frame must not drown its listener.
const ERROR_BURST: f64 = 50.0;
const ERRORS_A_SECOND: f64 = 10.0;

/// A plan at work for a room: each peer has its own instance of the graph, made when its first item comes, and keeps it
/// until it is removed; nodes of `scope: shared` are there once for all of them. Cloning shares the session.
///
/// What a shared node gives out for an item that came from a peer goes on in that peer's instance; what it makes of several (see
/// [`Item::audience`]) in that of each it is for.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

/// How a session is bounded and whom it tells.
#[derive(Clone)]
pub struct SessionOptions {
    /// Appears in the names of its mailboxes.
    pub name: String,
    /// Peers with instances at most, nobody among them. Default 1024.
    pub max_instances: usize,
    /// The line its instances wait in. Default [`Priority::Normal`].
    pub priority: Priority,
    /// Where nodes run that have to do with audio only, so that they never wait behind pictures. Default: where all run.
    pub audio_pool: Option<WorkerPool>,
    /// Told of failures of nodes, on the worker where they happen: each one, up to 50 at once and 10 a second.
    pub on_error: Option<ErrorHook>,
    /// Gets what leaves the graph and no item led to, on the worker: what nodes with a clock of their own give out.
    pub on_output: Option<OutputHook>,
}

/// Told of failures of nodes.
pub type ErrorHook = Arc<dyn Fn(ErrorReport) + Send + Sync>;

/// Told whose instance it was, the node's id and what it gave out.
pub type OutputHook = Arc<dyn Fn(Option<&Arc<str>>, &str, Item) + Send + Sync>;

/// A failure of a node. What becomes of the item is the node's `on_error`; the session goes on.
#[derive(Debug, Clone)]
pub struct ErrorReport {
    /// The peer in whose instance it happened.
    pub peer: Option<Arc<str>>,
    /// The node's id; empty: an item that none took.
    pub node: String,
    /// What happened.
    pub error: NodeError,
    /// Failures since the last report that were counted and not told, as there were too many.
    pub left_out: u64,
}

/// What became of an item that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits for its turn.
    Queued,
    /// It waits for its turn, and this many older ones of its kind made room for it.
    Displaced(usize),
}

/// Counters of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionStats {
    /// By node, in the order they run; over all peers, also those that left.
    pub nodes: Vec<NodeStats>,
    /// By connection, in the manifest's order; over all peers, also those that left.
    pub edges: Vec<EdgeStats>,
    /// The queues before each instance there is now, together for each peer; the name is `None` where it belongs to none, or to all.
    pub ingress: Vec<(Option<Arc<str>>, MailboxStats)>,
}

struct Inner {
    /// Itself, for instances: they must not keep the session.
    me: Weak<Inner>,
    pool: WorkerPool,
    options: SessionOptions,
    errors: Arc<ErrorLimit>,
    /// Kinds that came and that the plan doesn't take, a bit each.
    untaken: AtomicU32,
    outlets: Arc<Outlets>,
    next_tap: AtomicU64,
    state: Mutex<State>,
}

struct State {
    plan: Arc<Plan>,
    metrics: Arc<Metrics>,
    /// Takes nothing in any more.
    finishing: bool,
    closed: bool,
    instances: HashMap<Key, Mailbox<Msg>>,
    /// Peers that are there, whether or not anything came from them yet.
    present: BTreeSet<Arc<str>>,
    /// What was changed since the manifest, for instances to come.
    params: BTreeMap<Arc<str>, Params>,
    foreign_params: BTreeMap<Arc<str>, BTreeMap<String, Value>>,
    enabled: BTreeMap<Arc<str>, bool>,
}

/// Told when it is dropped.
struct Told(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

/// Names an instance: some of the nodes of a plan, for one peer or for all.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    place: Place,
    /// `None` for nobody's, and for that of all peers.
    peer: Option<Arc<str>>,
}

/// A bucket of reports that fills with time.
struct ErrorLimit(Mutex<ErrorBucket>);

struct ErrorBucket {
    left: f64,
    at: Instant,
    left_out: u64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            name: "session".to_owned(),
            max_instances: 1024,
            priority: Priority::Normal,
            audio_pool: None,
            on_error: None,
            on_output: None,
        }
    }
}

impl Session {
    /// A session without instances yet.
    pub fn new(plan: Arc<Plan>, pool: WorkerPool, options: SessionOptions) -> Session {
        let state = State {
            metrics: plan.metrics(None),
            plan,
            finishing: false,
            closed: false,
            instances: HashMap::new(),
            present: BTreeSet::new(),
            params: BTreeMap::new(),
            foreign_params: BTreeMap::new(),
            enabled: BTreeMap::new(),
        };
        let make = |me: &Weak<Inner>| Inner {
            me: me.clone(),
            pool,
            errors: Arc::new(ErrorLimit::new()),
            untaken: AtomicU32::new(0),
            outlets: Arc::new(Outlets { rest: options.on_output.clone(), taps: RwLock::default() }),
            options,
            next_tap: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        Session { inner: Arc::new_cyclic(make) }
    }

    /// The plan it runs now.
    pub fn plan(&self) -> Arc<Plan> {
        self.inner.plan()
    }

    /// Runs another plan from each instance's next item on. Nodes whose id and type are in both keep their state, their
    /// queues and their counters, and get the parameters of the new plan; what a session changed since is forgotten. Refused
    /// where a tap is at an output that the new plan doesn't have.
    pub fn reload(&self, plan: Arc<Plan>) -> Result<(), NodeError> {
        let mut state = lock(&self.inner.state);
        if state.closed {
            return Err(NodeError::Closed);
        }
        let taps = self.inner.outlets.taps.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        for tap in taps.iter() {
            plan.output(&tap.output.to_string())?;
        }
        drop(taps);
        let metrics = plan.metrics(Some((&state.plan, &state.metrics)));
        state.plan = plan.clone();
        state.metrics = metrics.clone();
        self.inner.untaken.store(0, Ordering::Relaxed);
        state.params.clear();
        state.foreign_params.clear();
        state.enabled.clear();
        send_all(&state, || Msg::Reload { plan: plan.clone(), metrics: metrics.clone() });
        Ok(())
    }

    /// Runs an item through the instance of `peer`, or through the one that belongs to no peer.
    ///
    /// The callback is called exactly once, on a worker or right here: with the first item that leaves the graph, with
    /// `None` when the item was dropped on the way (by a node, by its error policy or by a newer item), or with an error.
    pub fn execute(&self, peer: Option<&str>, item: Item, callback: impl FnOnce(Outcome) + Send + 'static) {
        let ticket = Ticket::once(callback);
        if let Err(error) = self.put(peer, Item { ticket: Some(ticket.clone()), ..item }) {
            ticket.fail(error);
        }
    }

    /// Runs an item through the instance of `peer`; whatever leaves the graph at `output`, given as `node` or `node.port`
    /// (anywhere where `None`), goes to `sink`, on a worker. An item may come out several times, or never.
    pub fn push(
        &self,
        peer: Option<&str>,
        item: Item,
        output: Option<&str>,
        sink: Arc<dyn Fn(Item) + Send + Sync>,
    ) -> Result<Pushed, NodeError> {
        let output = output.map(|id| self.inner.plan().output(id)).transpose()?;
        self.put(peer, Item { ticket: Some(Ticket::every(output, sink)), ..item })
    }

    /// Runs an item through the instance of `peer`; whatever leaves the graph goes to `sink`, on a worker, with the node and the port
    /// it leaves by.
    pub fn push_each(&self, peer: Option<&str>, item: Item, sink: EachSink) -> Result<Pushed, NodeError> {
        self.put(peer, Item { ticket: Some(Ticket::each(sink)), ..item })
    }

    /// Tells the error hook of an item that didn't come in, for those who push and have nobody to give the error to. That the session is
    /// closed is no news; that the graph takes no such kind is told once for each kind and plan.
    pub fn refused(&self, peer: Option<&str>, error: NodeError) {
        let known = match &error {
            NodeError::Closed => true,
            NodeError::NoInput { kind, .. } => {
                let bit = 1 << (*kind as u32);
                self.inner.untaken.fetch_or(bit, Ordering::Relaxed) & bit != 0
            }
            _ => false,
        };
        if !known {
            let report = ErrorReport { peer: peer.map(Arc::from), node: String::new(), error, left_out: 0 };
            self.inner.errors.tell(self.inner.options.on_error.as_ref(), report);
        }
    }

    /// Has `hook` told of everything that leaves the graph by an output, given as `node` or `node.port`, of all peers.
    /// It goes where it goes besides. The number ends it again.
    pub fn tap(&self, output: &str, hook: OutputHook) -> Result<u64, NodeError> {
        let output = self.inner.plan().output(output)?;
        let mut taps = write(&self.inner.outlets.taps);
        if taps.len() >= MAX_TAPS {
            return Err(NodeError::Limit { what: "taps", limit: MAX_TAPS });
        }
        let id = self.inner.next_tap.fetch_add(1, Ordering::Relaxed);
        taps.push(Tap { id, output, hook });
        Ok(id)
    }

    /// Ends what [`Session::tap`] began. An item under way may still come.
    pub fn remove_tap(&self, tap: u64) {
        write(&self.inner.outlets.taps).retain(|known| known.id != tap);
    }

    /// Changes a node's parameter in all instances, present and to come, between two items.
    ///
    /// Native nodes' values are checked here. A change that finds an instance's queue of changes full is [`NodeError::Full`]
    /// for that instance only.
    pub fn set_param(&self, node: &str, name: &str, value: Value) -> Result<(), NodeError> {
        let mut state = lock(&self.inner.state);
        let (index, id) = state.plan.index(node)?;
        let checked = state.plan.change(index, name, &value, state.params.get(&id))?;
        match checked {
            Some(params) => {
                state.params.insert(id.clone(), params.clone());
                send_all(&state, || Msg::Change { node: id.clone(), change: Change::Params(params.clone()) });
            }
            None => {
                let kept = state.foreign_params.entry(id.clone()).or_default();
                if kept.len() >= MAX_FOREIGN_PARAMS && !kept.contains_key(name) {
                    return Err(NodeError::Limit { what: "changed parameters", limit: MAX_FOREIGN_PARAMS });
                }
                kept.insert(name.to_owned(), value.clone());
                send_all(&state, || {
                    let change = Change::ForeignParam(name.to_owned(), value.clone());
                    Msg::Change { node: id.clone(), change }
                });
            }
        }
        Ok(())
    }

    /// Switches a node on or off in all instances, present and to come. Items pass by a node that is off.
    pub fn set_enabled(&self, node: &str, enabled: bool) -> Result<(), NodeError> {
        let mut state = lock(&self.inner.state);
        let (_, id) = state.plan.index(node)?;
        state.enabled.insert(id.clone(), enabled);
        send_all(&state, || Msg::Change { node: id.clone(), change: Change::Enabled(enabled) });
        Ok(())
    }

    /// Tells a node of `scope: shared` something about one peer, who may not be there yet: [`crate::NodeFactory::source_params`] says
    /// what there is. It is forgotten when the peer is removed.
    pub fn set_source_param(
        &self,
        node: &str,
        source: &str,
        name: &str,
        value: Value,
    ) -> Result<(), NodeError> {
        let plan = self.inner.plan();
        let (index, id) = plan.index(node)?;
        plan.check_source_param(index, name, &value)?;
        let mailbox = self.inner.mailbox(&Key { place: plan.place(index), peer: None })?;
        let change = Change::Source { source: source.into(), name: name.to_owned(), value };
        match mailbox.push(Msg::Change { node: id, change }) {
            Push::Refused(_) => Err(NodeError::Closed),
            _ => Ok(()),
        }
    }

    /// A peer is there: what shared nodes make for everybody goes to its instance too, before anything came from it.
    pub fn add_peer(&self, peer: &str) -> Result<(), NodeError> {
        self.inner.admit(&Arc::from(peer))
    }

    /// A peer left for good: what waits in its instances is run, then they end. Unknown peers are ignored.
    pub fn remove_peer(&self, peer: &str) {
        let peer: Arc<str> = Arc::from(peer);
        let (own, common): (Vec<_>, Vec<_>) = {
            let mut state = lock(&self.inner.state);
            state.present.remove(&peer);
            let keys: Vec<Key> =
                state.instances.keys().filter(|key| key.peer.as_ref() == Some(&peer)).cloned().collect();
            let own = keys.iter().filter_map(|key| state.instances.remove(key)).collect();
            let common = state.instances.iter().filter(|(key, _)| key.peer.is_none());
            (own, common.map(|(_, mailbox)| mailbox.clone()).collect())
        };
        own.iter().for_each(Mailbox::drain);
        for mailbox in common {
            let _ = mailbox.push(Msg::SourceGone(peer.clone()));
        }
    }

    /// Takes nothing in any more, runs what waits (at nodes that run elsewhere too), then ends as [`Session::close`] does; at the latest
    /// after `limit`. `done` is called once, on a worker or right here, when it has ended.
    pub fn finish(&self, limit: Duration, done: impl FnOnce() + Send + 'static) {
        lock(&self.inner.state).finishing = true;
        self.inner.clone().finish(Instant::now() + limit, Told(Some(Box::new(done))));
    }

    /// Ends all instances; what waits is dropped, and whoever waits for it is told so. Idempotent; doesn't wait for the
    /// item a worker is busy with.
    pub fn close(&self) {
        self.inner.close();
    }

    /// The counters now.
    pub fn stats(&self) -> SessionStats {
        let (plan, metrics, ingress) = {
            let state = lock(&self.inner.state);
            let mut ingress: BTreeMap<Option<Arc<str>>, MailboxStats> = BTreeMap::new();
            for (key, mailbox) in &state.instances {
                let stats = ingress.entry(key.peer.clone()).or_default();
                *stats = stats.and(&mailbox.stats());
            }
            (state.plan.clone(), state.metrics.clone(), ingress.into_iter().collect())
        };
        let nodes = plan.describe().zip(&metrics.nodes).map(|((id, kind), node)| node.snapshot(id, kind));
        let edges = plan.edges().zip(&metrics.edges);
        let edges = edges.map(|((from, to), edge)| edge.snapshot(from.clone(), to.clone()));
        SessionStats { nodes: nodes.collect(), edges: edges.collect(), ingress }
    }

    fn put(&self, peer: Option<&str>, mut item: Item) -> Result<Pushed, NodeError> {
        let plan = {
            let state = lock(&self.inner.state);
            if state.finishing || state.closed {
                return Err(NodeError::Closed);
            }
            state.plan.clone()
        };
        plan.check_input(item.kind())?;
        item.data.check()?;
        let kind = item.kind();
        if item.source.is_none() {
            item.source = peer.map(Arc::from);
        }
        let peer: Option<Arc<str>> = peer.map(Arc::from);
        if let Some(peer) = &peer {
            self.inner.admit(peer)?;
        }
        let mut displaced = 0;
        for place in plan.entries(kind) {
            let peer = peer.clone().filter(|_| place.scope == Scope::Peer);
            let mailbox = self.inner.mailbox(&Key { place, peer })?;
            match mailbox.push(Msg::Input(item.clone())) {
                Push::Pushed => {}
                Push::Dropped(old) => displaced += old.len(),
                Push::Refused(msg) => {
                    let error = if mailbox.is_closed() {
                        NodeError::Closed
                    } else {
                        NodeError::Full { queue: format!("session \"{}\"", self.inner.options.name), kind }
                    };
                    // Its ticket would say that it was dropped; the caller says why.
                    if let Msg::Input(Item { ticket: Some(ticket), .. }) = &msg {
                        ticket.fail(error.clone());
                    }
                    return Err(error);
                }
            }
        }
        Ok(if displaced == 0 { Pushed::Queued } else { Pushed::Displaced(displaced) })
    }
}

impl Inner {
    fn plan(&self) -> Arc<Plan> {
        lock(&self.state).plan.clone()
    }

    /// Takes note of a peer.
    fn admit(&self, peer: &Arc<str>) -> Result<(), NodeError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(NodeError::Closed);
        }
        if !state.present.contains(peer) {
            if state.present.len() >= self.options.max_instances {
                return Err(NodeError::Limit { what: "peers", limit: self.options.max_instances });
            }
            state.present.insert(peer.clone());
        }
        Ok(())
    }

    /// The way to an instance, which is made if there is none.
    fn mailbox(&self, key: &Key) -> Result<Mailbox<Msg>, NodeError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(NodeError::Closed);
        }
        if let Some(mailbox) = state.instances.get(key) {
            return Ok(mailbox.clone());
        }
        let whose = match (key.place.scope, &key.peer) {
            (Scope::Shared, _) => "*",
            (Scope::Peer, peer) => peer.as_deref().unwrap_or("-"),
        };
        let name = format!("{}/{whose}", self.options.name);
        let hook = self.options.on_error.clone();
        let (peer, limit) = (key.peer.clone(), self.errors.clone());
        let on_error = move |node: &str, error: &NodeError| {
            let (peer, node) = (peer.clone(), node.to_owned());
            limit.tell(hook.as_ref(), ErrorReport { peer, node, error: error.clone(), left_out: 0 });
        };
        let (me, from) = (self.me.clone(), key.clone());
        let cross = move |crossing: Crossing| {
            if let Some(inner) = me.upgrade() {
                inner.cross(&from, crossing);
            }
        };
        let audio_pool = self.options.audio_pool.as_ref().filter(|_| key.place.audio);
        let mailbox = spawn(Start {
            plan: &state.plan,
            place: Some(key.place),
            pool: audio_pool.unwrap_or(&self.pool),
            options: MailboxOptions { name: name.into(), priority: self.options.priority },
            peer: key.peer.clone(),
            metrics: state.metrics.clone(),
            on_error: Arc::new(on_error),
            cross: Arc::new(cross),
            outlets: self.outlets.clone(),
        })?;
        for (node, params) in &state.params {
            mailbox.push(Msg::Change { node: node.clone(), change: Change::Params(params.clone()) });
        }
        for (node, params) in &state.foreign_params {
            for (name, value) in params {
                let change = Change::ForeignParam(name.clone(), value.clone());
                mailbox.push(Msg::Change { node: node.clone(), change });
            }
        }
        for (node, enabled) in &state.enabled {
            mailbox.push(Msg::Change { node: node.clone(), change: Change::Enabled(*enabled) });
        }
        state.instances.insert(key.clone(), mailbox.clone());
        Ok(mailbox)
    }

    /// Brings an item from one instance to those that go on with it.
    fn cross(&self, from: &Key, crossing: Crossing) {
        let place = crossing.plan.place(crossing.node);
        let targets = match (from.place.scope, place.scope) {
            (_, Scope::Shared) => vec![None],
            (Scope::Peer, Scope::Peer) => vec![from.peer.clone()],
            (Scope::Shared, Scope::Peer) => self.audience(&crossing.item),
        };
        for peer in targets {
            // An instance that can't be made has told so when its session was made or its peer came.
            let Ok(mailbox) = self.mailbox(&Key { place, peer: peer.clone() }) else { continue };
            let mut item = crossing.item.clone();
            if let (Scope::Shared, Some(peer)) = (from.place.scope, peer) {
                item.audience = Some(Audience::One(peer));
            }
            let Crossing { plan, node, port, edge, since, .. } = &crossing;
            let (plan, since) = (plan.clone(), *since);
            let lost = match mailbox.push(Msg::Arrive(Crossing {
                plan,
                node: *node,
                port: *port,
                edge: *edge,
                item,
                since,
            })) {
                Push::Pushed => continue,
                Push::Dropped(old) => old,
                Push::Refused(msg) => vec![msg],
            };
            let state = lock(&self.state);
            let (plan, metrics) = (state.plan.clone(), state.metrics.clone());
            drop(state);
            for msg in lost {
                if let Msg::Arrive(crossing) = msg
                    && Arc::ptr_eq(&crossing.plan, &plan)
                {
                    metrics.edges[crossing.edge].drop_item(DropReason::Queue);
                }
            }
        }
    }

    /// In whose instances something goes on that comes from a shared node. Peers that are gone get nothing.
    fn audience(&self, item: &Item) -> Vec<Option<Arc<str>>> {
        let state = lock(&self.state);
        let there = |peer: &Arc<str>| state.present.contains(peer);
        match (&item.audience, &item.source, &item.ticket) {
            (Some(Audience::One(peer)), ..) | (None, Some(peer), _) => {
                Some(peer).filter(|peer| there(peer)).map(|peer| Some(peer.clone())).into_iter().collect()
            }
            (Some(Audience::AllBut(others)), ..) => {
                state.present.iter().filter(|peer| !others.contains(peer)).cloned().map(Some).collect()
            }
            // Somebody waits for it: it was put in without a peer.
            (None, None, Some(_)) => vec![None],
            (None, None, None) => state.present.iter().cloned().map(Some).collect(),
        }
    }

    /// Looks now and then whether nothing is under way any more.
    fn finish(self: Arc<Self>, until: Instant, done: Told) {
        let now = Instant::now();
        if now >= until || self.is_idle() {
            self.close();
            return drop(done);
        }
        let again = self.clone();
        // A pool that is closed runs nothing any more; `done` is told all the same when this is dropped.
        if !self.pool.at(now + LOOK, move || again.finish(until, done)) {
            self.close();
        }
    }

    /// Whether nothing waits or runs, in an instance or at a node that runs elsewhere.
    fn is_idle(&self) -> bool {
        let runs = || {
            let state = lock(&self.state);
            let waits = state.metrics.nodes.iter().any(|node| node.depth.load(Ordering::Relaxed) > 0)
                || state.metrics.edges.iter().any(|edge| edge.depth.load(Ordering::Relaxed) > 0);
            let idle = !waits && state.instances.values().all(Mailbox::is_idle);
            idle.then(|| state.instances.values().map(|mailbox| mailbox.stats().run).sum::<u64>())
        };
        // What went from one instance to another between two looks has run by the second.
        matches!((runs(), runs()), (Some(first), Some(second)) if first == second)
    }

    fn close(&self) {
        let instances = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.instances)
        };
        for mailbox in instances.values() {
            mailbox.close();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn send_all(state: &State, msg: impl Fn() -> Msg) {
    for mailbox in state.instances.values() {
        if let Push::Refused(_) = mailbox.push(msg()) {
            tracing::warn!(?mailbox, "too many changes wait; this one is lost");
        }
    }
}

/// What a new instance needs.
struct Start<'a> {
    plan: &'a Arc<Plan>,
    place: Option<Place>,
    pool: &'a WorkerPool,
    options: MailboxOptions,
    peer: Option<Arc<str>>,
    metrics: Arc<Metrics>,
    on_error: OnFailure,
    cross: Cross,
    outlets: Arc<Outlets>,
}

/// A new instance behind its mailbox.
fn spawn(start: Start<'_>) -> Result<Mailbox<Msg>, NodeError> {
    let Start { plan, place, pool, options, peer, metrics, on_error, cross, outlets } = start;
    // The instance must not keep its own mailbox, and is there before it: the way back is filled in afterwards.
    let back: Arc<Mutex<Option<WeakMailbox<Msg>>>> = Arc::default();
    let upgrade = |back: &Mutex<Option<WeakMailbox<Msg>>>| lock(back).as_ref().and_then(WeakMailbox::upgrade);
    let answers = back.clone();
    let answerer = Arc::new(move |key: u64, id: u64, answer: Answer| {
        if let Some(mailbox) = upgrade(&answers) {
            // Refused once the instance is closed; then nobody waits for the answer.
            let _ = mailbox.push(Msg::Answer { key, id, answer });
        }
    });
    let times = back.clone();
    let later = Arc::new(move |when: Instant, msg: Msg| {
        if let Some(mailbox) = upgrade(&times) {
            mailbox.push_at(when, msg);
        }
    });
    let gate = Gate::default();
    let around =
        Surroundings { peer, metrics, answerer, on_error, later, cross, outlets, gate: gate.clone() };
    let mut instance = Instance::new(plan.clone(), place, around)?;
    let has_clock = instance.has_clock();
    let mailbox = pool.mailbox(options, Ingress::new(gate), move |msg| instance.handle(msg));
    *lock(&back) = Some(mailbox.downgrade());
    if has_clock {
        mailbox.push(Msg::Start);
    }
    Ok(mailbox)
}

impl ErrorLimit {
    fn new() -> ErrorLimit {
        ErrorLimit(Mutex::new(ErrorBucket { left: ERROR_BURST, at: Instant::now(), left_out: 0 }))
    }

    fn tell(&self, hook: Option<&ErrorHook>, report: ErrorReport) {
        if let Some(hook) = hook
            && let Some(left_out) = self.admit(Instant::now())
        {
            hook(ErrorReport { left_out, ..report });
        }
    }

    /// Whether one more may be told, and how many before it weren't.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut bucket = lock(&self.0);
        let filled = now.saturating_duration_since(bucket.at).as_secs_f64() * ERRORS_A_SECOND;
        bucket.left = (bucket.left + filled).min(ERROR_BURST);
        bucket.at = now;
        if bucket.left < 1.0 {
            bucket.left_out += 1;
            return None;
        }
        bucket.left -= 1.0;
        Some(std::mem::take(&mut bucket.left_out))
    }
}

/// Runs single items through fresh instances, and knows the node types.
#[derive(Clone)]
pub struct Runner {
    inner: Arc<RunnerInner>,
}

/// How a runner is bounded.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// One-shot runs at a time. Default 64.
    pub max_unary: usize,
}

struct RunnerInner {
    registry: Registry,
    pool: WorkerPool,
    options: RunnerOptions,
    next: AtomicU64,
    state: Mutex<RunnerState>,
}

#[derive(Default)]
struct RunnerState {
    closed: bool,
    running: HashMap<u64, Mailbox<Msg>>,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        RunnerOptions { max_unary: 64 }
    }
}

impl Runner {
    /// A runner of these node types on this pool.
    pub fn new(registry: Registry, pool: WorkerPool, options: RunnerOptions) -> Runner {
        Runner {
            inner: Arc::new(RunnerInner {
                registry,
                pool,
                options,
                next: AtomicU64::new(0),
                state: Mutex::default(),
            }),
        }
    }

    /// The node types, to add to.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// The pool it runs on.
    pub fn pool(&self) -> &WorkerPool {
        &self.inner.pool
    }

    /// Checks a manifest and loads what it needs. Keep the plan: models are loaded once a plan.
    pub fn compile(&self, manifest: &Manifest) -> Result<Arc<Plan>, ManifestError> {
        Plan::compile(manifest, &self.inner.registry)
    }

    /// A session of a plan on this runner's pool.
    pub fn session(&self, plan: Arc<Plan>, options: SessionOptions) -> Session {
        Session::new(plan, self.inner.pool.clone(), options)
    }

    /// Runs one item through fresh node state, which ends with it. The callback is called exactly once, as in
    /// [`Session::execute`].
    pub fn execute_unary(
        &self,
        plan: &Arc<Plan>,
        item: Item,
        callback: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let runner: Weak<RunnerInner> = Arc::downgrade(&self.inner);
        let ticket = Ticket::once(move |outcome| {
            if let Some(mailbox) = runner.upgrade().and_then(|runner| lock(&runner.state).running.remove(&id))
            {
                mailbox.close();
            }
            callback(outcome);
        });
        if let Err(error) = self.start(id, plan, Item { ticket: Some(ticket.clone()), ..item }) {
            ticket.fail(error);
        }
    }

    /// Ends the one-shot runs; whoever waits for one is told that there is no result. Idempotent.
    pub fn close(&self) {
        self.inner.close();
    }

    fn start(&self, id: u64, plan: &Arc<Plan>, item: Item) -> Result<(), NodeError> {
        plan.check_input(item.kind())?;
        item.data.check()?;
        let limit = self.inner.options.max_unary;
        let mailbox = {
            let mut state = lock(&self.inner.state);
            if state.closed {
                return Err(NodeError::Closed);
            }
            if state.running.len() >= limit {
                return Err(NodeError::Limit { what: "one-shot runs at a time", limit });
            }
            let options = MailboxOptions { name: "unary".into(), priority: Priority::Normal };
            let mailbox = spawn(Start {
                plan,
                place: None,
                pool: &self.inner.pool,
                options,
                peer: None,
                metrics: plan.metrics(None),
                on_error: Arc::new(|_: &str, _: &NodeError| {}),
                cross: Arc::new(|_| {}),
                outlets: Arc::default(),
            })?;
            state.running.insert(id, mailbox.clone());
            mailbox
        };
        match mailbox.push(Msg::Input(item)) {
            Push::Refused(_) => Err(NodeError::Closed),
            _ => Ok(()),
        }
    }
}

impl RunnerInner {
    fn close(&self) {
        let running = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.running)
        };
        for mailbox in running.values() {
            mailbox.close();
        }
    }
}

impl Drop for RunnerInner {
    fn drop(&mut self) {
        self.close();
    }
}

//! Long-lived instances of a plan, one a peer, and one-shot runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Instant;

use serde_json::Value;

use crate::data::Item;
use crate::error::{ManifestError, NodeError};
use crate::exec::{Mailbox, MailboxOptions, MailboxStats, Priority, Push, WeakMailbox, WorkerPool, lock};
use crate::graph::{
    Answer, Change, Gate, Ingress, Instance, Msg, OnFailure, Outlets, Plan, Surroundings, Tap,
};
use crate::manifest::Manifest;
use crate::metrics::{EdgeStats, Metrics, NodeStats};
use crate::spec::{Params, Registry};
use crate::ticket::{Outcome, Ticket};

/// Parameters of one foreign node that a session keeps for instances to come.
const MAX_FOREIGN_PARAMS: usize = 256;
/// Taps of one session.
const MAX_TAPS: usize = 256;
/// Failures told at once, and a second when they go on: a node that fails on every frame must not drown its listener.
const ERROR_BURST: f64 = 50.0;
const ERRORS_A_SECOND: f64 = 10.0;

/// A plan at work for a room: each peer has its own instance of the graph, made when its first item comes, and keeps it
/// until it is removed. Cloning shares the session.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

/// How a session is bounded and whom it tells.
#[derive(Clone)]
pub struct SessionOptions {
    /// Appears in the names of its mailboxes.
    pub name: String,
    /// Instances at most, the one that belongs to no peer among them. Default 1024.
    pub max_instances: usize,
    /// The line its instances wait in. Default [`Priority::Normal`].
    pub priority: Priority,
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
    /// The node's id.
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
    /// The queue before each instance there is now; the name is `None` where it belongs to no peer.
    pub ingress: Vec<(Option<Arc<str>>, MailboxStats)>,
}

struct Inner {
    pool: WorkerPool,
    options: SessionOptions,
    errors: Arc<ErrorLimit>,
    outlets: Arc<Outlets>,
    next_tap: AtomicU64,
    state: Mutex<State>,
}

struct State {
    plan: Arc<Plan>,
    metrics: Arc<Metrics>,
    closed: bool,
    instances: HashMap<Option<Arc<str>>, Mailbox<Msg>>,
    /// What was changed since the manifest, for instances to come.
    params: BTreeMap<Arc<str>, Params>,
    foreign_params: BTreeMap<Arc<str>, BTreeMap<String, Value>>,
    enabled: BTreeMap<Arc<str>, bool>,
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
            closed: false,
            instances: HashMap::new(),
            params: BTreeMap::new(),
            foreign_params: BTreeMap::new(),
            enabled: BTreeMap::new(),
        };
        let inner = Inner {
            pool,
            errors: Arc::new(ErrorLimit::new()),
            outlets: Arc::new(Outlets { rest: options.on_output.clone(), taps: RwLock::default() }),
            options,
            next_tap: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        Session { inner: Arc::new(inner) }
    }

    /// The plan it runs now.
    pub fn plan(&self) -> Arc<Plan> {
        self.inner.plan()
    }

    /// Runs another plan from each instance's next item on. Nodes whose id and type are in both keep their state, their
    /// queues and their counters, and get the parameters of the new plan; what a session changed since is forgotten.
    pub fn reload(&self, plan: Arc<Plan>) -> Result<(), NodeError> {
        let mut state = lock(&self.inner.state);
        if state.closed {
            return Err(NodeError::Closed);
        }
        let metrics = plan.metrics(Some((&state.plan, &state.metrics)));
        state.plan = plan.clone();
        state.metrics = metrics.clone();
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

    /// A peer left for good: what waits in its instance is run, then the instance ends. Unknown peers are ignored.
    pub fn remove_peer(&self, peer: &str) {
        let peer: Arc<str> = Arc::from(peer);
        let (own, common) = {
            let mut state = lock(&self.inner.state);
            (state.instances.remove(&Some(peer.clone())), state.instances.get(&None).cloned())
        };
        if let Some(mailbox) = own {
            mailbox.drain();
        }
        if let Some(mailbox) = common {
            let _ = mailbox.push(Msg::SourceGone(peer));
        }
    }

    /// Ends all instances; what waits is dropped, and whoever waits for it is told so. Idempotent; doesn't wait for the
    /// item a worker is busy with.
    pub fn close(&self) {
        self.inner.close();
    }

    /// The counters now.
    pub fn stats(&self) -> SessionStats {
        let (plan, metrics, mut ingress) = {
            let state = lock(&self.inner.state);
            let ingress = state.instances.iter().map(|(peer, mailbox)| (peer.clone(), mailbox.stats()));
            (state.plan.clone(), state.metrics.clone(), ingress.collect::<Vec<_>>())
        };
        ingress.sort_by(|a, b| a.0.cmp(&b.0));
        let nodes = plan.describe().zip(&metrics.nodes).map(|((id, kind), node)| node.snapshot(id, kind));
        let edges = plan.edges().zip(&metrics.edges);
        let edges = edges.map(|((from, to), edge)| edge.snapshot(from.clone(), to.clone()));
        SessionStats { nodes: nodes.collect(), edges: edges.collect(), ingress }
    }

    fn put(&self, peer: Option<&str>, mut item: Item) -> Result<Pushed, NodeError> {
        self.inner.plan().check_input(item.kind())?;
        item.data.check()?;
        let kind = item.kind();
        if item.source.is_none() {
            item.source = peer.map(Arc::from);
        }
        let mailbox = self.inner.instance(peer)?;
        match mailbox.push(Msg::Input(item)) {
            Push::Pushed => Ok(Pushed::Queued),
            Push::Dropped(old) => Ok(Pushed::Displaced(old.len())),
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
                Err(error)
            }
        }
    }
}

impl Inner {
    fn plan(&self) -> Arc<Plan> {
        lock(&self.state).plan.clone()
    }

    fn instance(&self, peer: Option<&str>) -> Result<Mailbox<Msg>, NodeError> {
        let peer: Option<Arc<str>> = peer.map(Arc::from);
        let mut state = lock(&self.state);
        if state.closed {
            return Err(NodeError::Closed);
        }
        if let Some(mailbox) = state.instances.get(&peer) {
            return Ok(mailbox.clone());
        }
        if state.instances.len() >= self.options.max_instances {
            return Err(NodeError::Limit { what: "peers", limit: self.options.max_instances });
        }
        let name = format!("{}/{}", self.options.name, peer.as_deref().unwrap_or("-"));
        let hook = self.options.on_error.clone();
        let (whose, limit) = (peer.clone(), self.errors.clone());
        let on_error = move |node: &str, error: &NodeError| {
            if let Some(hook) = &hook
                && let Some(left_out) = limit.admit(Instant::now())
            {
                let (peer, node) = (whose.clone(), node.to_owned());
                hook(ErrorReport { peer, node, error: error.clone(), left_out });
            }
        };
        let options = MailboxOptions { name: name.into(), priority: self.options.priority };
        let metrics = state.metrics.clone();
        let mailbox = spawn(
            &state.plan,
            &self.pool,
            options,
            peer.clone(),
            metrics,
            Arc::new(on_error),
            self.outlets.clone(),
        )?;
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
        state.instances.insert(peer, mailbox.clone());
        Ok(mailbox)
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

/// A new instance behind its mailbox.
fn spawn(
    plan: &Arc<Plan>,
    pool: &WorkerPool,
    options: MailboxOptions,
    peer: Option<Arc<str>>,
    metrics: Arc<Metrics>,
    on_error: OnFailure,
    outlets: Arc<Outlets>,
) -> Result<Mailbox<Msg>, NodeError> {
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
    let around = Surroundings { peer, metrics, answerer, on_error, later, outlets, gate: gate.clone() };
    let mut instance = Instance::new(plan.clone(), around)?;
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
            let mailbox = spawn(
                plan,
                &self.inner.pool,
                options,
                None,
                plan.metrics(None),
                Arc::new(|_: &str, _: &NodeError| {}),
                Arc::default(),
            )?;
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

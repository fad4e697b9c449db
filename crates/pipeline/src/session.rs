//! Long-lived instances of a plan, one a peer, and one-shot runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use serde_json::Value;

use crate::data::Item;
use crate::error::{ManifestError, NodeError};
use crate::exec::{Mailbox, MailboxOptions, MailboxStats, Priority, Push, WeakMailbox, WorkerPool, lock};
use crate::graph::{Answer, Change, Ingress, Instance, Msg, OnFailure, Plan, Surroundings};
use crate::manifest::Manifest;
use crate::metrics::{NodeMetrics, NodeStats};
use crate::spec::{Params, Registry};
use crate::ticket::{Outcome, Ticket};

/// Parameters of one foreign node that a session keeps for instances to come.
const MAX_FOREIGN_PARAMS: usize = 256;

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
    /// Told of every failure of a node, on the worker where it happens.
    pub on_error: Option<ErrorHook>,
}

/// Told of every failure of a node.
pub type ErrorHook = Arc<dyn Fn(ErrorReport) + Send + Sync>;

/// A failure of a node. What becomes of the item is the node's `on_error`; the session goes on.
#[derive(Debug, Clone)]
pub struct ErrorReport {
    /// The peer in whose instance it happened.
    pub peer: Option<Arc<str>>,
    /// The node's id.
    pub node: String,
    /// What happened.
    pub error: NodeError,
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
    /// The queue before each instance there is now; the name is `None` where it belongs to no peer.
    pub ingress: Vec<(Option<Arc<str>>, MailboxStats)>,
}

struct Inner {
    plan: Arc<Plan>,
    pool: WorkerPool,
    options: SessionOptions,
    metrics: Arc<Vec<NodeMetrics>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    instances: HashMap<Option<Arc<str>>, Mailbox<Msg>>,
    /// What was changed since the manifest, for instances to come.
    params: BTreeMap<usize, Params>,
    foreign_params: BTreeMap<usize, BTreeMap<String, Value>>,
    enabled: BTreeMap<usize, bool>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            name: "session".to_owned(),
            max_instances: 1024,
            priority: Priority::Normal,
            on_error: None,
        }
    }
}

impl Session {
    /// A session without instances yet.
    pub fn new(plan: Arc<Plan>, pool: WorkerPool, options: SessionOptions) -> Session {
        let metrics = new_metrics(&plan);
        Session { inner: Arc::new(Inner { plan, pool, options, metrics, state: Mutex::default() }) }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.inner.plan
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

    /// Runs an item through the instance of `peer`; whatever leaves the graph at node `output` (anywhere where `None`)
    /// goes to `sink`, on a worker. An item may come out several times, or never.
    pub fn push(
        &self,
        peer: Option<&str>,
        item: Item,
        output: Option<&str>,
        sink: Arc<dyn Fn(Item) + Send + Sync>,
    ) -> Result<Pushed, NodeError> {
        let output = output.map(|id| self.inner.plan.output_index(id)).transpose()?;
        self.put(peer, Item { ticket: Some(Ticket::every(output, sink)), ..item })
    }

    /// Changes a node's parameter in all instances, present and to come, between two items.
    ///
    /// Native nodes' values are checked here. A change that finds an instance's queue of changes full is [`NodeError::Full`]
    /// for that instance only.
    pub fn set_param(&self, node: &str, name: &str, value: Value) -> Result<(), NodeError> {
        let index = self.inner.plan.index(node)?;
        let mut state = lock(&self.inner.state);
        let checked = self.inner.plan.change(index, name, &value, state.params.get(&index))?;
        match checked {
            Some(params) => {
                state.params.insert(index, params.clone());
                send_all(&state, || Msg::Change { node: index, change: Change::Params(params.clone()) });
            }
            None => {
                let kept = state.foreign_params.entry(index).or_default();
                if kept.len() >= MAX_FOREIGN_PARAMS && !kept.contains_key(name) {
                    return Err(NodeError::Limit { what: "changed parameters", limit: MAX_FOREIGN_PARAMS });
                }
                kept.insert(name.to_owned(), value.clone());
                send_all(&state, || {
                    let change = Change::ForeignParam(name.to_owned(), value.clone());
                    Msg::Change { node: index, change }
                });
            }
        }
        Ok(())
    }

    /// Switches a node on or off in all instances, present and to come. Items pass by a node that is off.
    pub fn set_enabled(&self, node: &str, enabled: bool) -> Result<(), NodeError> {
        let index = self.inner.plan.index(node)?;
        let mut state = lock(&self.inner.state);
        state.enabled.insert(index, enabled);
        send_all(&state, || Msg::Change { node: index, change: Change::Enabled(enabled) });
        Ok(())
    }

    /// A peer left for good: what waits in its instance is run, then the instance ends. Unknown peers are ignored.
    pub fn remove_peer(&self, peer: &str) {
        let mailbox = lock(&self.inner.state).instances.remove(&Some(Arc::from(peer)));
        if let Some(mailbox) = mailbox {
            mailbox.drain();
        }
    }

    /// Ends all instances; what waits is dropped, and whoever waits for it is told so. Idempotent; doesn't wait for the
    /// item a worker is busy with.
    pub fn close(&self) {
        self.inner.close();
    }

    /// The counters now.
    pub fn stats(&self) -> SessionStats {
        let plan = &self.inner.plan;
        let nodes = self.inner.metrics.iter().enumerate().map(|(index, metrics)| {
            let (id, node_type) = plan.describe(index);
            metrics.snapshot(id, node_type)
        });
        let mut ingress: Vec<_> = lock(&self.inner.state)
            .instances
            .iter()
            .map(|(peer, mailbox)| (peer.clone(), mailbox.stats()))
            .collect();
        ingress.sort_by(|a, b| a.0.cmp(&b.0));
        SessionStats { nodes: nodes.collect(), ingress }
    }

    fn put(&self, peer: Option<&str>, item: Item) -> Result<Pushed, NodeError> {
        self.inner.plan.check_input(item.kind())?;
        item.data.check()?;
        let kind = item.kind();
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
        let whose = peer.clone();
        let on_error = move |node: &str, error: &NodeError| {
            if let Some(hook) = &hook {
                hook(ErrorReport { peer: whose.clone(), node: node.to_owned(), error: error.clone() });
            }
        };
        let options = MailboxOptions { name: name.into(), priority: self.options.priority };
        let mailbox =
            spawn(&self.plan, &self.pool, options, peer.clone(), self.metrics.clone(), Arc::new(on_error))?;
        for (node, params) in &state.params {
            mailbox.push(Msg::Change { node: *node, change: Change::Params(params.clone()) });
        }
        for (node, params) in &state.foreign_params {
            for (name, value) in params {
                let change = Change::ForeignParam(name.clone(), value.clone());
                mailbox.push(Msg::Change { node: *node, change });
            }
        }
        for (node, enabled) in &state.enabled {
            mailbox.push(Msg::Change { node: *node, change: Change::Enabled(*enabled) });
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

fn send_all(state: &State, msg: impl Fn() -> Msg) {
    for mailbox in state.instances.values() {
        if let Push::Refused(_) = mailbox.push(msg()) {
            tracing::warn!(?mailbox, "too many changes wait; this one is lost");
        }
    }
}

fn new_metrics(plan: &Plan) -> Arc<Vec<NodeMetrics>> {
    Arc::new((0..plan.len()).map(|_| NodeMetrics::default()).collect())
}

/// A new instance behind its mailbox.
fn spawn(
    plan: &Arc<Plan>,
    pool: &WorkerPool,
    options: MailboxOptions,
    peer: Option<Arc<str>>,
    metrics: Arc<Vec<NodeMetrics>>,
    on_error: OnFailure,
) -> Result<Mailbox<Msg>, NodeError> {
    // The instance must not keep its own mailbox, and is there before it: the way back is filled in afterwards.
    let back: Arc<Mutex<Option<WeakMailbox<Msg>>>> = Arc::default();
    let answers = back.clone();
    let answerer = Arc::new(move |node: usize, id: u64, answer: Answer| {
        let mailbox = lock(&answers).as_ref().and_then(WeakMailbox::upgrade);
        if let Some(mailbox) = mailbox {
            // Refused once the instance is closed; then nobody waits for the answer.
            let _ = mailbox.push(Msg::Answer { node, id, answer });
        }
    });
    let mut instance = Instance::new(plan.clone(), Surroundings { peer, metrics, answerer, on_error })?;
    let mailbox = pool.mailbox(options, Ingress::new(), move |msg| instance.handle(msg));
    *lock(&back) = Some(mailbox.downgrade());
    Ok(mailbox)
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
                new_metrics(plan),
                Arc::new(|_: &str, _: &NodeError| {}),
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

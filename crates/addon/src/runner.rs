//! `PipelineRunner` and `Manifest`: compiled plans, one-shot runs, and nodes written in JavaScript.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::{ClassInstance, Either, Function};
use napi_derive::napi;
use remotemedia_pipeline::{
    ForeignCall, ForeignHost, ForeignOutput, ForeignReply, Item, Kind, Manifest, Plan, PortSpec, Registry,
    Runner, RunnerOptions, WorkerPool,
};

use crate::error::NativeError;
use crate::frame::Frame;
use crate::item::{ItemIn, ItemOut};
use crate::wake::Wake;

/// A manifest that was checked, with its models loaded.
#[napi(js_name = "NativePlan")]
pub struct JsPlan {
    pub(crate) plan: Arc<Plan>,
    warnings: Vec<String>,
}

/// One node type of JavaScript's.
#[napi(object, object_to_js = false)]
pub struct NodeType {
    /// Its name in manifests.
    pub node_type: String,
    /// Names and kinds of its inputs.
    pub inputs: Vec<Port>,
    /// Names and kinds of its outputs.
    pub outputs: Vec<Port>,
}

/// A port.
#[napi(object, object_to_js = false)]
pub struct Port {
    /// Its name in manifests.
    pub name: String,
    /// `audio`, `video`, `text`, `json`, `binary`, `audioMix`, `mask` or `any`.
    pub kind: String,
}

/// Something for JavaScript to do or to know.
#[napi(object, object_from_js = false)]
pub struct Task {
    /// `call`: process an item; `cancel`: a call has passed its deadline; `release`: forget a node's state; `done`: an
    /// execute ended.
    pub kind: &'static str,
    /// `call`, `cancel`: the call's number, to answer with. `done`: the number given.
    pub id: f64,
    /// `call`, `release`: the instance of the graph.
    pub instance: Option<f64>,
    /// `call`, `release`: the node's id.
    pub node_id: Option<String>,
    /// `call`: the node's type.
    pub node_type: Option<String>,
    /// `call`: the input port.
    pub port: Option<String>,
    /// `call`: whose instance it is.
    pub peer_id: Option<String>,
    /// `call`: parameters, as JSON.
    pub params: Option<String>,
    /// The item; for `done`, nothing when it was dropped.
    pub item: Option<ItemOut>,
    /// `done`: why it failed.
    pub error: Option<NativeError>,
}

/// One item that a JavaScript node gives out. A picture travels beside it.
pub(crate) enum Pending {
    Call(Box<ForeignCall>),
    Cancel(u64),
    Release { instance: u64, node: String },
    Done { request: u32, result: Result<Option<Item>, NativeError> },
}

/// What waits for the JavaScript thread. Bounded by what may be under way: calls by the nodes' queues, runs by the runner.
pub(crate) struct Inbox {
    queue: Mutex<VecDeque<Pending>>,
    woken: AtomicBool,
    wake: Wake,
}

struct Host {
    inbox: Arc<Inbox>,
}

/// Runs manifests.
#[napi(js_name = "NativeRunner")]
pub struct JsRunner {
    registry: Registry,
    runner: Mutex<Option<Runner>>,
    pool: Mutex<Option<WorkerPool>>,
    inbox: Arc<Inbox>,
    host: Arc<Host>,
    replies: Mutex<HashMap<u64, (ForeignReply, Vec<ForeignOutput>)>>,
    closed: AtomicBool,
}

impl Inbox {
    pub(crate) fn push(&self, pending: Pending) {
        lock(&self.queue).push_back(pending);
        self.ring();
    }

    /// A call that JavaScript hasn't got yet needs not go there; of one that it has, it is told.
    fn cancel(&self, number: u64) {
        let unsent = {
            let mut queue = lock(&self.queue);
            let at = queue.iter().position(|p| matches!(p, Pending::Call(call) if call.number == number));
            match at {
                Some(at) => queue.remove(at),
                None => {
                    queue.push_back(Pending::Cancel(number));
                    None
                }
            }
        };
        if unsent.is_none() {
            self.ring();
        }
    }

    fn ring(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.wake.call();
        }
    }
}

impl ForeignHost for Host {
    fn submit(&self, call: ForeignCall) {
        self.inbox.push(Pending::Call(Box::new(call)));
    }

    fn cancel(&self, number: u64) {
        self.inbox.cancel(number);
    }

    fn release(&self, instance: u64, node_id: &str) {
        self.inbox.push(Pending::Release { instance, node: node_id.to_owned() });
    }
}

#[napi]
impl JsRunner {
    /// `wake` is called when `drain` has something to give.
    #[napi(constructor)]
    pub fn new(wake: Function<'_, (), ()>) -> napi::Result<JsRunner> {
        let inbox = Arc::new(Inbox {
            queue: Mutex::default(),
            woken: AtomicBool::new(false),
            wake: Wake::new(&wake)?,
        });
        let host = Arc::new(Host { inbox: inbox.clone() });
        Ok(JsRunner {
            registry: Registry::builtin(),
            runner: Mutex::default(),
            pool: Mutex::default(),
            inbox,
            host,
            replies: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Adds a node type, or replaces one of JavaScript's own.
    #[napi(catch_unwind)]
    pub fn register(&self, node: NodeType) -> Option<NativeError> {
        let ports = |ports: Vec<Port>| -> Result<Vec<PortSpec>, NativeError> {
            ports
                .into_iter()
                .map(|port| match Kind::from_name(&port.kind) {
                    Some(kind) => Ok(PortSpec::new(&port.name, kind)),
                    None => Err(NativeError::config(format_args!(
                        "port '{}': '{}' is no kind",
                        port.name, port.kind
                    ))),
                })
                .collect()
        };
        let (inputs, outputs) = match (ports(node.inputs), ports(node.outputs)) {
            (Ok(inputs), Ok(outputs)) => (inputs, outputs),
            (Err(error), _) | (_, Err(error)) => return Some(error),
        };
        self.registry
            .register_foreign(&node.node_type, inputs, outputs, self.host.clone())
            .err()
            .map(NativeError::from)
    }

    /// The names of all node types.
    #[napi(catch_unwind)]
    pub fn node_types(&self) -> Vec<String> {
        self.registry.names()
    }

    /// Checks a manifest, given as YAML or JSON, and loads what it needs.
    #[napi(catch_unwind)]
    pub fn compile(&self, text: String) -> Either<JsPlan, NativeError> {
        let plan = Manifest::parse(&text)
            .and_then(|manifest| Ok((Plan::compile(&manifest, &self.registry)?, manifest.warnings)));
        match plan {
            Ok((plan, mut warnings)) => {
                warnings.extend(
                    plan.warnings().iter().filter(|w| !warnings.contains(w)).cloned().collect::<Vec<_>>(),
                );
                Either::A(JsPlan { plan, warnings })
            }
            Err(error) => Either::B(error.into()),
        }
    }

    /// Runs one item through fresh node state. A `done` task with `request` follows, unless an error is returned.
    #[napi(catch_unwind)]
    pub fn execute_unary(
        &self,
        request: u32,
        plan: &JsPlan,
        item: ItemIn,
        frame: Option<ClassInstance<'_, Frame>>,
    ) -> Option<NativeError> {
        let item = match item.into_item(frame) {
            Ok(item) => item,
            Err(error) => return Some(error),
        };
        let runner = match self.runner() {
            Ok(runner) => runner,
            Err(error) => return Some(error),
        };
        runner.execute_unary(&plan.plan, item, self.done(request));
        None
    }

    /// Takes what waits.
    #[napi(catch_unwind)]
    pub fn drain(&self) -> Vec<Task> {
        self.inbox.woken.store(false, Ordering::Release);
        let pending = std::mem::take(&mut *lock(&self.inbox.queue));
        pending.into_iter().map(|pending| self.task(pending)).collect()
    }

    /// One item of the answer to a call; `reply` ends the answer.
    #[napi(catch_unwind)]
    pub fn emit(
        &self,
        call: f64,
        port: String,
        item: ItemIn,
        frame: Option<ClassInstance<'_, Frame>>,
    ) -> Option<NativeError> {
        const MAX_OUTPUTS: usize = 256;
        let timestamp_us = item.timestamp_us;
        let item = match item.into_item(frame) {
            Ok(item) => item,
            Err(error) => return Some(error),
        };
        if let Some((_, outputs)) = lock(&self.replies).get_mut(&(call as u64)) {
            if outputs.len() >= MAX_OUTPUTS {
                return Some(NativeError::new(
                    "ERR_NODE",
                    format_args!("more than {MAX_OUTPUTS} items from one call"),
                ));
            }
            outputs.push(ForeignOutput { port, data: item.data, timestamp_us });
        }
        None
    }

    /// The answer to a call is complete, or the call failed.
    #[napi(catch_unwind)]
    pub fn reply(&self, call: f64, error: Option<String>) {
        let Some((reply, outputs)) = lock(&self.replies).remove(&(call as u64)) else { return };
        match error {
            Some(message) => reply.fail(message),
            None => reply.complete(outputs),
        }
    }

    /// Ends what runs and joins the threads.
    #[napi]
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // The calls still out are answered by being dropped.
        lock(&self.replies).clear();
        lock(&self.inbox.queue).retain(|p| !matches!(p, Pending::Call(_)));
        if let Some(runner) = lock(&self.runner).take() {
            runner.close();
        }
        if let Some(pool) = lock(&self.pool).take() {
            pool.close();
        }
    }
}

impl JsRunner {
    /// Reports the end of a run as a `done` task.
    pub(crate) fn done(&self, request: u32) -> impl FnOnce(remotemedia_pipeline::Outcome) + Send + 'static {
        let inbox = self.inbox.clone();
        move |outcome| inbox.push(Pending::Done { request, result: outcome.map_err(NativeError::from) })
    }

    /// Its threads are started by the first run.
    fn runner(&self) -> Result<Runner, NativeError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(NativeError::closed("runner"));
        }
        let mut runner = lock(&self.runner);
        if let Some(runner) = &*runner {
            return Ok(runner.clone());
        }
        let pool = WorkerPool::new("rm-runner", 2, None).map_err(NativeError::config)?;
        *lock(&self.pool) = Some(pool.clone());
        Ok(runner.insert(Runner::new(self.registry.clone(), pool, RunnerOptions::default())).clone())
    }

    fn task(&self, pending: Pending) -> Task {
        let empty = |kind, id| Task {
            kind,
            id,
            instance: None,
            node_id: None,
            node_type: None,
            port: None,
            peer_id: None,
            params: None,
            item: None,
            error: None,
        };
        match pending {
            Pending::Call(call) => {
                let ForeignCall {
                    number, instance, node_id, node_type, port, item, peer, params, reply, ..
                } = *call;
                lock(&self.replies).insert(number, (reply, Vec::new()));
                Task {
                    instance: Some(instance as f64),
                    node_id: Some(node_id.to_string()),
                    node_type: Some(node_type.to_string()),
                    port: Some(port.to_string()),
                    peer_id: peer.map(|p| p.to_string()),
                    params: serde_json::to_string(&*params).ok(),
                    item: Some(ItemOut::new(item)),
                    ..empty("call", number as f64)
                }
            }
            Pending::Cancel(number) => empty("cancel", number as f64),
            Pending::Release { instance, node } => {
                Task { instance: Some(instance as f64), node_id: Some(node), ..empty("release", 0.0) }
            }
            Pending::Done { request, result } => {
                let (item, error) = match result {
                    Ok(item) => (item.map(ItemOut::new), None),
                    Err(error) => (None, Some(error)),
                };
                Task { item, error, ..empty("done", request.into()) }
            }
        }
    }
}

#[napi]
impl JsPlan {
    /// What was ignored in the manifest.
    #[napi(getter)]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// The nodes whose output leaves the graph.
    #[napi(getter)]
    pub fn outputs(&self) -> Vec<String> {
        self.plan.output_ids().map(str::to_owned).collect()
    }

    /// The kinds that the graph takes.
    #[napi(getter)]
    pub fn takes(&self) -> Vec<String> {
        self.plan.takes().iter().map(|k| k.name().to_owned()).collect()
    }
}

/// What a manifest says, before node types are known.
#[napi(object, object_from_js = false)]
pub struct ManifestInfo {
    /// Its name.
    pub name: Option<String>,
    /// The ids of its nodes.
    pub nodes: Vec<String>,
    /// What was ignored.
    pub warnings: Vec<String>,
}

/// Checks the shape of a manifest, given as YAML or JSON.
#[napi(catch_unwind)]
pub fn parse_manifest(text: String) -> Either<ManifestInfo, NativeError> {
    match Manifest::parse(&text) {
        Ok(manifest) => Either::A(ManifestInfo {
            name: manifest.metadata.name,
            nodes: manifest.nodes.into_iter().map(|n| n.id).collect(),
            warnings: manifest.warnings,
        }),
        Err(error) => Either::B(error.into()),
    }
}

/// Where ONNX Runtime's shared library and the models are.
#[napi(catch_unwind)]
pub fn set_paths(onnx_runtime: Option<String>, models: Option<String>) {
    if let Some(path) = onnx_runtime {
        remotemedia_pipeline::set_onnx_runtime_path(path);
    }
    if let Some(path) = models {
        remotemedia_pipeline::set_model_dir(path);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

//! `PipelineRunner` and `Manifest`: compiled plans, one-shot runs, and nodes written in JavaScript.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::{ClassInstance, Either, Function};
use napi_derive::napi;
use remotemedia_pipeline::{
    ForeignHost, Kind, Manifest, Plan, PortSpec, Registry, Runner, RunnerOptions, WorkerPool,
};

use crate::desk::{self, Desk, MainHost, Pending, Task, WorkerHost, lock};
use crate::error::NativeError;
use crate::frame::Frame;
use crate::item::ItemIn;
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

/// Runs manifests.
#[napi(js_name = "NativeRunner")]
pub struct JsRunner {
    registry: Registry,
    runner: Mutex<Option<Runner>>,
    pool: Mutex<Option<WorkerPool>>,
    desk: Arc<Desk>,
    host: Arc<MainHost>,
    /// The numbers of its workers' desks.
    workers: Mutex<Vec<u32>>,
    closed: AtomicBool,
}

#[napi]
impl JsRunner {
    /// `wake` is called when `drain` has something to give.
    #[napi(constructor)]
    pub fn new(wake: Function<'_, (), ()>) -> napi::Result<JsRunner> {
        let desk = Arc::new(Desk::new(Wake::new(&wake)?));
        let host = Arc::new(MainHost(desk.clone()));
        Ok(JsRunner {
            registry: Registry::builtin(),
            runner: Mutex::default(),
            pool: Mutex::default(),
            desk,
            host,
            workers: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Adds a node type, or replaces one of JavaScript's own.
    #[napi(catch_unwind)]
    pub fn register(&self, node: NodeType) -> Option<NativeError> {
        self.add(node, self.host.clone()).err()
    }

    /// The same for a type whose nodes run in a worker thread. Gives the number of the desk that the worker sits down at.
    #[napi(catch_unwind)]
    pub fn register_worker(&self, node: NodeType) -> Either<u32, NativeError> {
        let host = Arc::new(WorkerHost::new(self.desk.clone()));
        let number = host.number;
        match self.add(node, host) {
            Ok(()) => {
                lock(&self.workers).push(number);
                Either::A(number)
            }
            Err(error) => {
                desk::remove(number);
                Either::B(error)
            }
        }
    }

    /// Calls that a worker has and that were given up: 0 unless it doesn't react.
    #[napi(catch_unwind)]
    pub fn late_calls(&self, worker: u32) -> u32 {
        desk::late_calls(worker) as u32
    }

    /// A worker's thread has ended: what it had failed. Without `again`, what comes fails too.
    #[napi(catch_unwind)]
    pub fn worker_ended(&self, worker: u32, message: String, again: bool) {
        if again { desk::detach(worker, &message) } else { desk::give_up(worker, &message) }
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
        self.desk.drain()
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
        self.desk.emit(call, port, item, frame)
    }

    /// The answer to a call is complete, or the call failed.
    #[napi(catch_unwind)]
    pub fn reply(&self, call: f64, error: Option<String>) {
        self.desk.reply(call, error);
    }

    /// Items that listeners did not take in time.
    #[napi(getter, catch_unwind)]
    pub fn outputs_dropped(&self) -> f64 {
        self.desk.outputs_dropped() as f64
    }

    /// Ends what runs and joins the threads.
    #[napi]
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.desk.clear("the runner is closed");
        self.desk.refuse("the runner is closed");
        for worker in std::mem::take(&mut *lock(&self.workers)) {
            desk::remove(worker);
        }
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
        let desk = self.desk.clone();
        move |outcome| desk.push(Pending::Done { request, result: outcome.map_err(NativeError::from) })
    }

    /// Reports what leaves a graph as `output` tasks.
    pub(crate) fn tap(&self, tap: u32) -> remotemedia_pipeline::OutputHook {
        self.desk.tap(tap)
    }

    fn add(&self, node: NodeType, host: Arc<dyn ForeignHost>) -> Result<(), NativeError> {
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
        let (inputs, outputs) = (ports(node.inputs)?, ports(node.outputs)?);
        Ok(self.registry.register_foreign(&node.node_type, inputs, outputs, host)?)
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

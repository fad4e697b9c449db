//! ONNX Runtime, loaded from a library at run time, and the models.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use crate::exec::lock;

/// Sessions kept for use by several workers at once; a worker beyond that makes one for itself.
const KEPT_SESSIONS: usize = 8;

static PATHS: Mutex<Paths> = Mutex::new(Paths { runtime: None, models: None });
/// The environment lives as long as the process: the library can't be loaded a second time.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

struct Paths {
    runtime: Option<PathBuf>,
    models: Option<PathBuf>,
}

/// Where ONNX Runtime's library is, such as `libonnxruntime.so.1` inside npm's `onnxruntime-node`.
///
/// Without it the environment variable `ORT_DYLIB_PATH` is used. The first library that loads stays for the process.
pub fn set_onnx_runtime_path(path: impl Into<PathBuf>) {
    lock(&PATHS).runtime = Some(path.into());
}

/// The folder with the model files. Without it the environment variable `REMOTEMEDIA_MODEL_DIR` is used.
pub fn set_model_dir(path: impl Into<PathBuf>) {
    lock(&PATHS).models = Some(path.into());
}

/// A model in memory with sessions of it. A session runs one item at a time; workers share as many as they need.
pub(super) struct Model {
    environment: Environment,
    bytes: Arc<[u8]>,
    idle: Mutex<Vec<Session>>,
}

impl Model {
    /// Loads the runtime if that hasn't been done, and a model from the model folder.
    pub fn load(file: &str) -> Result<Model, String> {
        let environment = environment()?;
        let folder = lock(&PATHS).models.clone().or_else(|| from_env("REMOTEMEDIA_MODEL_DIR"));
        let Some(folder) = folder else {
            return Err(format!(
                "the folder with {file} is not known; set the model folder or REMOTEMEDIA_MODEL_DIR"
            ));
        };
        let path = folder.join(file);
        let bytes = std::fs::read(&path)
            .map_err(|error| format!("the model {} can't be read: {error}", path.display()))?;
        let model = Model { environment, bytes: bytes.into(), idle: Mutex::default() };
        let session =
            model.open().map_err(|error| format!("the model {} can't be used: {error}", path.display()))?;
        lock(&model.idle).push(session);
        Ok(model)
    }

    /// Uses a session that nobody else uses meanwhile.
    pub fn with<T>(&self, run: impl FnOnce(&mut Session) -> Result<T, String>) -> Result<T, String> {
        let idle = lock(&self.idle).pop();
        let mut session = match idle {
            Some(session) => session,
            None => self.open().map_err(|error| error.to_string())?,
        };
        let result = run(&mut session);
        let mut idle = lock(&self.idle);
        if idle.len() < KEPT_SESSIONS {
            idle.push(session);
        }
        result
    }

    /// One thread a session: the pool's workers are the parallelism there is.
    fn open(&self) -> Result<Session, ort::Error> {
        Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::Level3)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .commit_from_memory(&self.bytes)
    }
}

fn environment() -> Result<Environment, String> {
    let mut known = lock(&ENVIRONMENT);
    if let Some(environment) = &*known {
        return Ok(environment.clone());
    }
    const INSTALL: &str = "install the npm package onnxruntime-node \
        (ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node), or set ORT_DYLIB_PATH to its library";
    let path = lock(&PATHS).runtime.clone().or_else(|| from_env("ORT_DYLIB_PATH"));
    let Some(path) = path else {
        return Err(format!("needs ONNX Runtime, which isn't there: {INSTALL}"));
    };
    if !Path::new(&path).is_file() {
        return Err(format!("needs ONNX Runtime, and {} isn't there: {INSTALL}", path.display()));
    }
    let builder =
        ort::init_from(&path).map_err(|error| format!("ONNX Runtime can't be loaded: {error}; {INSTALL}"))?;
    let environment = builder
        .with_name("remotemedia")
        .with_telemetry(false)
        .build()
        .map_err(|error| format!("ONNX Runtime can't be started: {error}"))?;
    *known = Some(environment.clone());
    Ok(environment)
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

//! What the tests share.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use remotemedia_media::{AudioFrame, FramePool, VideoFrame};
use remotemedia_pipeline::*;

/// Long enough for any machine; a test that needs it has failed.
pub const LONG: Duration = Duration::from_secs(30);

pub fn pool() -> WorkerPool {
    WorkerPool::new("test", 2, None).unwrap()
}

pub fn text(text: &str) -> Item {
    Item::new(Data::Text(text.into()))
}

pub fn text_of(item: &Item) -> &str {
    match &item.data {
        Data::Text(text) => text,
        other => panic!("{:?} is not text", other.kind()),
    }
}

pub fn audio(ms: usize, timestamp_us: i64) -> Item {
    tone(440.0, 0.5, 48_000, ms, timestamp_us)
}

/// A sine that goes on from timestamp to timestamp.
pub fn tone(hz: f64, amplitude: f64, rate: u32, ms: usize, timestamp_us: i64) -> Item {
    let count = rate as usize * ms / 1000;
    let first = timestamp_us as f64 / 1e6;
    let sample = |i: usize| {
        let t = first + i as f64 / f64::from(rate);
        ((t * hz * std::f64::consts::TAU).sin() * amplitude) as f32
    };
    let samples = Arc::new((0..count).map(sample).collect());
    Item::new(Data::Audio(AudioFrame { samples, sample_rate: rate, channels: 1, timestamp_us }))
}

pub fn picture(width: u32, height: u32, timestamp_us: i64) -> Item {
    let frame = FramePool::default().get(width, height).unwrap().freeze(timestamp_us);
    Item::new(Data::Video(frame))
}

/// Runs one item through the session and waits for what it comes to.
pub fn run(session: &Session, peer: Option<&str>, item: Item) -> Outcome {
    begin(session, peer, item).recv_timeout(LONG).expect("the callback was not called")
}

pub fn begin(session: &Session, peer: Option<&str>, item: Item) -> Receiver<Outcome> {
    let (tx, rx) = channel();
    session.execute(peer, item, move |outcome| tx.send(outcome).unwrap_or(()));
    rx
}

pub fn compile(yaml: &str, registry: &Registry) -> Result<Arc<Plan>, ManifestError> {
    Plan::compile(&Manifest::parse(yaml)?, registry)
}

pub fn session(yaml: &str, registry: &Registry) -> Session {
    Session::new(compile(yaml, registry).unwrap(), pool(), SessionOptions::default())
}

/// Keeps the calls it gets, for the test to answer.
#[derive(Default)]
pub struct Host {
    pub calls: Mutex<Vec<ForeignCall>>,
    pub released: Mutex<Vec<(u64, String)>>,
    pub cancelled: Mutex<Vec<u64>>,
    pub wake: std::sync::Condvar,
}

impl ForeignHost for Host {
    fn submit(&self, call: ForeignCall) {
        self.calls.lock().unwrap().push(call);
        self.wake.notify_all();
    }

    fn cancel(&self, number: u64) {
        self.cancelled.lock().unwrap().push(number);
    }

    fn release(&self, instance: u64, node_id: &str) {
        self.released.lock().unwrap().push((instance, node_id.to_owned()));
        self.wake.notify_all();
    }
}

impl Host {
    /// Waits until there are `count` unanswered calls, and takes them.
    pub fn take(&self, count: usize) -> Vec<ForeignCall> {
        let calls = self.calls.lock().unwrap();
        let (mut calls, timeout) =
            self.wake.wait_timeout_while(calls, LONG, |calls| calls.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} calls instead of {count}", calls.len());
        calls.drain(..).collect()
    }
}

/// Turns text into capitals at once, on its own thread.
pub fn upper(call: ForeignCall) {
    let text = text_of(&call.item).to_uppercase();
    call.reply.complete(vec![out(&text)]);
}

pub fn out(text: &str) -> ForeignOutput {
    ForeignOutput { port: "out".to_owned(), data: Data::Text(text.into()), timestamp_us: None }
}

pub fn with_host(kind: Kind) -> (Registry, Arc<Host>) {
    let registry = Registry::builtin();
    let host = Arc::new(Host::default());
    registry
        .register_foreign(
            "Js",
            vec![PortSpec::new("in", kind)],
            vec![PortSpec::new("out", kind)],
            host.clone(),
        )
        .unwrap();
    (registry, host)
}

/// A native text node made of a function.
pub fn text_node(
    name: &str,
    run: impl Fn(&mut u64, &str) -> Result<Vec<String>, NodeError> + Send + Sync + Clone + 'static,
) -> NodeSpec {
    struct Text<F>(F, u64);
    impl<F: Fn(&mut u64, &str) -> Result<Vec<String>, NodeError> + Send> Node for Text<F> {
        fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
            for text in (self.0)(&mut self.1, text_of(&item))? {
                out.push(0, item.derive(Data::Text(text.as_str().into())));
            }
            Ok(())
        }
    }
    NodeSpec {
        node_type: name.to_owned(),
        inputs: vec![PortSpec::new("in", Kind::Text)],
        outputs: vec![PortSpec::new("out", Kind::Text)],
        params: Vec::new(),
        same_kind: false,
        load: Arc::new(move |_| {
            let run = run.clone();
            let factory = move |_: &Params| Ok(Box::new(Text(run.clone(), 0)) as Box<dyn Node>);
            Ok(Box::new(factory) as Box<dyn NodeFactory>)
        }),
    }
}

/// The picture of tests/data: 256x256.
pub fn astronaut(pool: &FramePool) -> VideoFrame {
    let data = include_bytes!("../data/astronaut_256x256.i420");
    VideoFrame::from_i420(pool, data, 256, 256, 0).unwrap()
}

/// Points the crate at ONNX Runtime and the model. False, and a loud line, when there is no library;
/// with REQUIRE_ORT=1 that is a failure instead.
pub fn onnx_runtime() -> bool {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    set_model_dir(root.join("models"));
    if std::env::var_os("ORT_DYLIB_PATH").is_some_and(|path| !path.is_empty()) {
        return true;
    }
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let bin = root.join("node_modules/onnxruntime-node/bin");
    let versions = std::fs::read_dir(bin).into_iter().flatten().flatten();
    let found = versions
        .map(|entry| entry.path().join("linux").join(arch).join("libonnxruntime.so.1"))
        .find(|path| path.is_file());
    if let Some(path) = found {
        set_onnx_runtime_path(path);
        return true;
    }
    let what = "ONNX Runtime is not there: ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node, \
        or set ORT_DYLIB_PATH to libonnxruntime.so.1";
    assert!(std::env::var_os("REQUIRE_ORT").is_none_or(|value| value != "1"), "{what}");
    eprintln!("SKIPPED: {what}");
    false
}

/// Waits until something that happens on a worker after the answer has happened.
pub fn eventually(condition: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !condition() {
        assert!(since.elapsed() < LONG, "it did not happen");
        std::thread::yield_now();
    }
}

/// Feeds a mask of the test's own to `BackgroundBlur`.
pub fn blur_with_mask(params: &str, mask: impl Fn(usize) -> Option<Mask> + Send + Sync + 'static) -> Session {
    struct Fixed<F>(Arc<F>, usize);
    impl<F: Fn(usize) -> Option<Mask> + Send + Sync> Node for Fixed<F> {
        fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
            if let Some(mask) = (self.0)(self.1) {
                out.push(0, item.derive(Data::Mask(Arc::new(mask))));
            }
            self.1 += 1;
            Ok(())
        }
    }
    let registry = Registry::builtin();
    let mask = Arc::new(mask);
    registry
        .register(NodeSpec {
            node_type: "Fixed".to_owned(),
            inputs: vec![PortSpec::new("in", Kind::Video)],
            outputs: vec![PortSpec::new("mask", Kind::Mask)],
            params: Vec::new(),
            same_kind: false,
            load: Arc::new(move |_| {
                let mask = mask.clone();
                let factory = move |_: &Params| Ok(Box::new(Fixed(mask.clone(), 0)) as Box<dyn Node>);
                Ok(Box::new(factory) as Box<dyn NodeFactory>)
            }),
        })
        .unwrap();
    let yaml = format!(
        "
version: v1
nodes: [{{ id: m, node_type: Fixed }}, {{ id: blur, node_type: BackgroundBlur, params: {{{params}}} }}]
connections: [{{ from: m, to: blur.mask }}]
"
    );
    session(&yaml, &registry)
}

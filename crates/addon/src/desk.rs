//! The desk of one JavaScript thread: what waits for it, and what it owes answers to.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use napi::bindgen_prelude::{ClassInstance, Function};
use napi_derive::napi;
use remotemedia_pipeline::{ForeignCall, ForeignHost, ForeignOutput, ForeignReply, Item, Kind};

use crate::error::NativeError;
use crate::frame::Frame;
use crate::item::{ItemIn, ItemOut};
use crate::wake::Wake;

/// Something for JavaScript to do or to know.
#[napi(object, object_from_js = false)]
pub struct Task {
    /// `call`: process an item; `cancel`: a call has passed its deadline; `release`: forget a node's state; `output`: an
    /// item left a graph where somebody listens; `late`: a worker doesn't react; `done`: an execute ended.
    pub kind: &'static str,
    /// `call`, `cancel`: the call's number, to answer with. `done`, `output`: the number given. `late`: the worker's number.
    pub id: f64,
    /// `call`, `release`: the instance of the graph.
    pub instance: Option<f64>,
    /// `call`, `release`: the node's id.
    pub node_id: Option<String>,
    /// `call`: the node's type.
    pub node_type: Option<String>,
    /// `call`: the input port.
    pub port: Option<String>,
    /// `call`, `output`: whose instance it is.
    pub peer_id: Option<String>,
    /// `call`: parameters, as JSON.
    pub params: Option<String>,
    /// The item; for `done`, nothing when it was dropped.
    pub item: Option<ItemOut>,
    /// `done`: why it failed.
    pub error: Option<NativeError>,
}

pub(crate) enum Pending {
    Call(Box<ForeignCall>),
    Cancel(u64),
    Output { tap: u32, peer: Option<Arc<str>>, item: Item, waiting: Waiting },
    Release { instance: u64, node: String },
    Late(u32),
    Done { request: u32, result: Result<Option<Item>, NativeError> },
}

/// What waits for a JavaScript thread. Bounded by what may be under way: calls by the nodes' queues, runs by the runner,
/// outputs by their kinds.
#[derive(Default)]
pub(crate) struct Desk {
    queue: Mutex<VecDeque<Pending>>,
    woken: AtomicBool,
    /// Nobody sits at it: what comes waits.
    wake: Mutex<Option<Wake>>,
    /// Calls that the thread has, with what it gave out so far.
    replies: Mutex<HashMap<u64, (ForeignReply, Vec<ForeignOutput>)>>,
    /// Those of them that were given up.
    late: Mutex<BTreeSet<u64>>,
    /// Nobody will ever sit at it, and why.
    broken: Mutex<Option<String>>,
    /// Counts those who sat at it.
    shift: AtomicU64,
    outputs_dropped: AtomicU64,
}

/// Counts what one listener has not taken yet; while an item waits it holds its place.
pub(crate) struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    pub(crate) fn new(wake: Wake) -> Desk {
        Desk { wake: Mutex::new(Some(wake)), ..Desk::default() }
    }

    pub(crate) fn push(&self, pending: Pending) {
        lock(&self.queue).push_back(pending);
        self.ring();
    }

    /// A call that JavaScript hasn't got yet needs not go there; of one that it has, it is told. Then true.
    fn cancel(&self, number: u64) -> bool {
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
        if unsent.is_some() {
            return false;
        }
        if lock(&self.replies).contains_key(&number) {
            lock(&self.late).insert(number);
        }
        self.ring();
        true
    }

    fn ring(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(wake) = lock(&self.wake).clone()
        {
            wake.call();
        }
    }

    pub(crate) fn drain(&self) -> Vec<Task> {
        self.woken.store(false, Ordering::Release);
        let pending = std::mem::take(&mut *lock(&self.queue));
        pending.into_iter().map(|pending| self.task(pending)).collect()
    }

    pub(crate) fn emit(
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

    pub(crate) fn reply(&self, call: f64, error: Option<String>) {
        let number = call as u64;
        lock(&self.late).remove(&number);
        let Some((reply, outputs)) = lock(&self.replies).remove(&number) else { return };
        match error {
            Some(message) => reply.fail(message),
            None => reply.complete(outputs),
        }
    }

    /// Reports what leaves a graph as `output` tasks. What is not taken is bounded: 2 pictures, 32 pieces of audio, 1024 others;
    /// what is more is dropped and counted.
    pub(crate) fn tap(self: &Arc<Self>, tap: u32) -> remotemedia_pipeline::OutputHook {
        let desk = self.clone();
        let waiting: [Arc<AtomicUsize>; 3] = Default::default();
        Arc::new(move |peer, _, item| {
            let (which, most) = match item.kind() {
                Kind::Video | Kind::Mask => (0, 2),
                Kind::Audio | Kind::AudioMix => (1, 32),
                _ => (2, 1024),
            };
            let held = Waiting(waiting[which].clone());
            if held.0.fetch_add(1, Ordering::Relaxed) >= most {
                desk.outputs_dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            desk.push(Pending::Output { tap, peer: peer.cloned(), item, waiting: held });
        })
    }

    pub(crate) fn outputs_dropped(&self) -> u64 {
        self.outputs_dropped.load(Ordering::Relaxed)
    }

    /// Fails the calls that the thread has: it is gone.
    pub(crate) fn clear(&self, why: &str) {
        let replies = std::mem::take(&mut *lock(&self.replies));
        lock(&self.late).clear();
        for (reply, _) in replies.into_values() {
            reply.fail(why);
        }
    }

    /// Fails the calls that wait for the thread.
    pub(crate) fn refuse(&self, why: &str) {
        let calls: VecDeque<Pending> = {
            let mut queue = lock(&self.queue);
            let (calls, rest) =
                queue.drain(..).partition::<VecDeque<_>, _>(|p| matches!(p, Pending::Call(_)));
            *queue = rest;
            calls
        };
        for call in calls {
            if let Pending::Call(call) = call {
                call.reply.fail(why);
            }
        }
    }

    fn attach(&self, wake: Wake) -> u64 {
        *lock(&self.wake) = Some(wake.clone());
        let shift = self.shift.fetch_add(1, Ordering::AcqRel) + 1;
        // What came before it is waiting.
        self.woken.store(true, Ordering::Release);
        wake.call();
        shift
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
            Pending::Output { tap, peer, item, waiting } => {
                drop(waiting);
                Task {
                    peer_id: peer.map(|p| p.to_string()),
                    item: Some(ItemOut::new(item)),
                    ..empty("output", tap.into())
                }
            }
            Pending::Cancel(number) => empty("cancel", number as f64),
            Pending::Late(worker) => empty("late", worker.into()),
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

/// Nodes of JavaScript's main thread.
pub(crate) struct MainHost(pub(crate) Arc<Desk>);

impl ForeignHost for MainHost {
    fn submit(&self, call: ForeignCall) {
        self.0.push(Pending::Call(Box::new(call)));
    }

    fn cancel(&self, number: u64) {
        self.0.cancel(number);
    }

    fn release(&self, instance: u64, node_id: &str) {
        self.0.push(Pending::Release { instance, node: node_id.to_owned() });
    }
}

/// Nodes of one type in a worker thread of their own: their items go there without passing the main thread.
pub(crate) struct WorkerHost {
    pub(crate) number: u32,
    desk: Arc<Desk>,
    /// Told when the worker doesn't react.
    main: Arc<Desk>,
}

impl ForeignHost for WorkerHost {
    fn submit(&self, call: ForeignCall) {
        let broken = lock(&self.desk.broken).clone();
        match broken {
            Some(why) => call.reply.fail(why),
            None => self.desk.push(Pending::Call(Box::new(call))),
        }
    }

    fn cancel(&self, number: u64) {
        if self.desk.cancel(number) {
            self.main.push(Pending::Late(self.number));
        }
    }

    fn release(&self, instance: u64, node_id: &str) {
        self.desk.push(Pending::Release { instance, node: node_id.to_owned() });
    }
}

/// By number: the desks of workers, for their threads to find.
static DESKS: Mutex<BTreeMap<u32, Arc<Desk>>> = Mutex::new(BTreeMap::new());
static NEXT_DESK: AtomicU32 = AtomicU32::new(1);

impl WorkerHost {
    pub(crate) fn new(main: Arc<Desk>) -> WorkerHost {
        let number = NEXT_DESK.fetch_add(1, Ordering::Relaxed);
        let desk: Arc<Desk> = Arc::default();
        lock(&DESKS).insert(number, desk.clone());
        WorkerHost { number, desk, main }
    }
}

/// What a runner does with the desks of its workers.
pub(crate) fn with_desk<T>(number: u32, act: impl FnOnce(&Desk) -> T) -> Option<T> {
    let desk = lock(&DESKS).get(&number).cloned()?;
    Some(act(&desk))
}

pub(crate) fn late_calls(number: u32) -> usize {
    with_desk(number, |desk| lock(&desk.late).len()).unwrap_or(0)
}

/// The worker's thread is gone: what it had has failed, and what comes waits for another.
pub(crate) fn detach(number: u32, why: &str) {
    with_desk(number, |desk| {
        *lock(&desk.wake) = None;
        desk.clear(why);
    });
}

/// There won't be another: what waits and what comes fails.
pub(crate) fn give_up(number: u32, why: &str) {
    detach(number, why);
    with_desk(number, |desk| {
        *lock(&desk.broken) = Some(why.to_owned());
        desk.refuse(why);
    });
}

pub(crate) fn remove(number: u32) {
    give_up(number, "the runner is closed");
    lock(&DESKS).remove(&number);
}

/// The side of a worker thread that runs nodes.
#[napi(js_name = "NativeWorker")]
pub struct JsWorker {
    desk: Arc<Desk>,
    shift: u64,
}

#[napi]
impl JsWorker {
    /// Sits down at the desk of this number. `wake` is called when `drain` has something to give.
    #[napi(constructor)]
    pub fn new(number: u32, wake: Function<'_, (), ()>) -> napi::Result<JsWorker> {
        let desk = lock(&DESKS).get(&number).cloned();
        let desk = desk.ok_or_else(|| napi::Error::from_reason(format!("there is no desk {number} here")))?;
        let shift = desk.attach(Wake::new(&wake)?);
        Ok(JsWorker { desk, shift })
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
}

impl Drop for JsWorker {
    fn drop(&mut self) {
        // Another may sit there by now. What it had is failed by the main thread, which knows why it ended.
        if self.desk.shift.load(Ordering::Acquire) == self.shift {
            *lock(&self.desk.wake) = None;
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

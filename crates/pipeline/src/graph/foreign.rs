use std::sync::Arc;

use serde_json::{Map, Value};

use crate::data::{Data, Item};

/// Where nodes of a foreign type run, such as the JavaScript side.
///
/// Called on a worker, so it hands over and returns; what it is given at one time is bounded per node.
pub trait ForeignHost: Send + Sync {
    /// Takes one item for one node. The answer comes through [`ForeignCall::reply`], from any thread, now or later.
    fn submit(&self, call: ForeignCall);

    /// The call of this [`ForeignCall::number`] has passed its deadline: nobody waits for its answer any more. Until it is
    /// answered or dropped it counts as one the host is busy with, so that a host that hangs holds a bounded number.
    fn cancel(&self, number: u64) {
        let _ = number;
    }

    /// The node's state is not needed any more: its instance ended, or it starts afresh after a failure.
    fn release(&self, instance: u64, node_id: &str) {
        let _ = (instance, node_id);
    }
}

/// One item for one foreign node.
#[derive(Debug)]
pub struct ForeignCall {
    /// Counts the calls to this node of this instance, from 0.
    pub id: u64,
    /// Unique in the process.
    pub number: u64,
    /// The instance; unique in the process. State of a node is kept under it and [`ForeignCall::node_id`].
    pub instance: u64,
    /// The node's id in the manifest.
    pub node_id: Arc<str>,
    /// The name of its type.
    pub node_type: Arc<str>,
    /// The name of the input port.
    pub port: Arc<str>,
    /// The item. Its ticket stays behind.
    pub item: Item,
    /// The peer whose instance it is; `None` in the instance that belongs to no peer.
    pub peer: Option<Arc<str>>,
    /// The parameters, as in the manifest or changed since.
    pub params: Arc<Map<String, Value>>,
    /// Where the answer goes.
    pub reply: ForeignReply,
}

/// One item of an answer.
#[derive(Debug, Clone)]
pub struct ForeignOutput {
    /// The name of the output port.
    pub port: String,
    /// The contents.
    pub data: Data,
    /// Its timestamp, in microseconds; that of the input where it is `None`.
    pub timestamp_us: Option<i64>,
}

/// The way back for one call's answer. Dropped without one, the call counts as failed.
pub struct ForeignReply {
    answerer: Option<Answerer>,
    /// The node's place among all there are in the instance, whatever its graph becomes.
    key: u64,
    id: u64,
}

/// What a node gave out, or why it failed.
pub(crate) type Answer = Result<Vec<ForeignOutput>, String>;

/// Puts an answer in line for the instance that waits for it: node, call, answer.
pub(crate) type Answerer = Arc<dyn Fn(u64, u64, Answer) + Send + Sync>;

impl ForeignReply {
    pub(crate) fn new(answerer: Answerer, key: u64, id: u64) -> ForeignReply {
        ForeignReply { answerer: Some(answerer), key, id }
    }

    /// Gives out these items, none to drop the input. The graph goes on with them on a worker.
    pub fn complete(mut self, outputs: Vec<ForeignOutput>) {
        self.answer(Ok(outputs));
    }

    /// Says that the node failed, and why.
    pub fn fail(mut self, message: impl Into<String>) {
        self.answer(Err(message.into()));
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(answerer) = self.answerer.take() {
            answerer(self.key, self.id, answer);
        }
    }
}

impl Drop for ForeignReply {
    fn drop(&mut self) {
        self.answer(Err("the node's host forgot the call".to_owned()));
    }
}

impl std::fmt::Debug for ForeignReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ForeignReply({})", self.id)
    }
}

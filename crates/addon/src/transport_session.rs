//! The rest of `NativeTransport`: what a session counts, hears and becomes: statistics, taps and reloads.

use napi::bindgen_prelude::Either;
use napi_derive::napi;
use remotemedia_pipeline::{DropReason, EdgeStats, Latency, NodeStats, SessionStats};

use crate::error::NativeError;
use crate::runner::{JsPlan, JsRunner};
use crate::transport::{JsTransport, session_id};

/// Counters of a session.
#[napi(object, object_from_js = false)]
pub struct SessionStatsOut {
    /// By node, in the order they run.
    pub nodes: Vec<NodeStatsOut>,
    /// By connection, in the manifest's order.
    pub edges: Vec<EdgeStatsOut>,
    /// By instance there is now.
    pub instances: Vec<InstanceStatsOut>,
}

/// Counters of one node.
#[napi(object, object_from_js = false)]
pub struct NodeStatsOut {
    /// Its id.
    pub id: String,
    /// Its type.
    pub node_type: String,
    /// Items in.
    pub items_in: f64,
    /// Items out.
    pub items_out: f64,
    /// Items dropped, by reason.
    pub dropped: Vec<(String, f64)>,
    /// Failures.
    pub errors: f64,
    /// Times its state was made anew.
    pub restarts: f64,
    /// Waiting before it, or away.
    pub depth: f64,
    /// Processing times.
    pub latency: LatencyOut,
}

/// Counters of one connection.
#[napi(object, object_from_js = false)]
pub struct EdgeStatsOut {
    /// The output, as `node.port`.
    pub from: String,
    /// The input, as `node.port`.
    pub to: String,
    /// Items brought.
    pub items: f64,
    /// Items dropped, by reason.
    pub dropped: Vec<(String, f64)>,
    /// Waiting.
    pub depth: f64,
    /// Waiting times.
    pub wait: LatencyOut,
}

/// Counters of the queue before one instance.
#[napi(object, object_from_js = false)]
pub struct InstanceStatsOut {
    /// Whose it is.
    pub peer_id: Option<String>,
    /// Waiting.
    pub depth: f64,
    /// Taken in.
    pub items: f64,
    /// Taken out again, to make room for newer ones.
    pub dropped: f64,
    /// Not taken in.
    pub refused: f64,
}

/// Times, in microseconds.
#[napi(object, object_from_js = false)]
pub struct LatencyOut {
    /// How many.
    pub count: f64,
    /// All together.
    pub sum_us: f64,
    /// Half took at most this long.
    pub p50_us: f64,
    /// 95 % took at most this long.
    pub p95_us: f64,
    /// 99 % took at most this long.
    pub p99_us: f64,
}

#[napi]
impl JsTransport {
    /// Counters of a session; nothing once it is closed.
    #[napi(catch_unwind)]
    pub fn session_stats(&self, session: f64) -> Option<SessionStatsOut> {
        self.transport.session_stats(session_id(session)).map(SessionStatsOut::from)
    }

    /// Runs another plan in a session, from each instance's next item on.
    #[napi(catch_unwind)]
    pub fn reload_session(&self, session: f64, plan: &JsPlan) -> Option<NativeError> {
        let reloaded = self.transport.reload_session(session_id(session), plan.plan.clone());
        reloaded.err().map(NativeError::from)
    }

    /// Has the runner get an `output` task with `tap` for everything that leaves a session's graph by an output. Gives the
    /// number that ends it.
    #[napi(catch_unwind)]
    pub fn tap_session(
        &self,
        session: f64,
        runner: &JsRunner,
        output: String,
        tap: u32,
    ) -> Either<f64, NativeError> {
        match self.transport.tap_session(session_id(session), &output, runner.tap(tap)) {
            Ok(number) => Either::A(number as f64),
            Err(error) => Either::B(error.into()),
        }
    }

    /// Tells a shared node something about one peer, given as JSON.
    #[napi(catch_unwind)]
    pub fn set_peer_param(
        &self,
        session: f64,
        node: String,
        peer: String,
        name: String,
        value: String,
    ) -> Option<NativeError> {
        let value = match serde_json::from_str(&value) {
            Ok(value) => value,
            Err(error) => return Some(NativeError::config(error)),
        };
        let set = self.transport.set_peer_param(session_id(session), &node, &peer, &name, value);
        set.err().map(NativeError::from)
    }

    /// Runs what waits in a session, then ends it. A `sessionClosed` event with its number follows.
    #[napi(catch_unwind)]
    pub fn finish_session(&self, session: f64) {
        self.transport.finish_session(session_id(session));
    }

    /// Ends a session at once.
    #[napi(catch_unwind)]
    pub fn close_session(&self, session: f64) {
        self.transport.close_session(session_id(session));
    }

    /// Ends a tap.
    #[napi(catch_unwind)]
    pub fn remove_tap(&self, session: f64, number: f64) {
        self.transport.remove_tap(session_id(session), number as u64);
    }
}

impl From<SessionStats> for SessionStatsOut {
    fn from(stats: SessionStats) -> Self {
        let instances = stats.ingress.into_iter().map(|(peer, queue)| InstanceStatsOut {
            peer_id: peer.map(|peer| peer.to_string()),
            depth: queue.depth as f64,
            items: queue.pushed as f64,
            dropped: queue.dropped as f64,
            refused: queue.refused as f64,
        });
        SessionStatsOut {
            nodes: stats.nodes.into_iter().map(NodeStatsOut::from).collect(),
            edges: stats.edges.into_iter().map(EdgeStatsOut::from).collect(),
            instances: instances.collect(),
        }
    }
}

impl From<NodeStats> for NodeStatsOut {
    fn from(stats: NodeStats) -> Self {
        NodeStatsOut {
            id: stats.id,
            node_type: stats.node_type,
            items_in: stats.items_in as f64,
            items_out: stats.items_out as f64,
            dropped: by_name(stats.dropped),
            errors: stats.errors as f64,
            restarts: stats.restarts as f64,
            depth: stats.depth as f64,
            latency: stats.latency.into(),
        }
    }
}

impl From<EdgeStats> for EdgeStatsOut {
    fn from(stats: EdgeStats) -> Self {
        EdgeStatsOut {
            from: stats.from,
            to: stats.to,
            items: stats.items as f64,
            dropped: by_name(stats.dropped),
            depth: stats.depth as f64,
            wait: stats.wait.into(),
        }
    }
}

impl From<Latency> for LatencyOut {
    fn from(latency: Latency) -> Self {
        LatencyOut {
            count: latency.count as f64,
            sum_us: latency.sum_us as f64,
            p50_us: latency.p50_us as f64,
            p95_us: latency.p95_us as f64,
            p99_us: latency.p99_us as f64,
        }
    }
}

fn by_name(dropped: Vec<(DropReason, u64)>) -> Vec<(String, f64)> {
    dropped.into_iter().map(|(reason, count)| (reason.name().to_owned(), count as f64)).collect()
}

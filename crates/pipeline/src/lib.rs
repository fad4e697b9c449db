//! The manifest graph: what runs between a decoded frame and an encoder.
//!
//! [`Manifest`] is parsed, [`Plan`] is it checked against the [`Registry`] of node types with models loaded, and a
//! [`Session`] keeps one instance of the plan per peer, each an actor on a [`WorkerPool`]. An item runs through all native
//! nodes in one go on one worker; only a node that lives elsewhere (JavaScript) makes it wait, in a bounded queue.

#![forbid(unsafe_code)]

mod compat;
mod data;
mod error;
mod exec;
mod graph;
mod manifest;
mod metrics;
mod nodes;
mod session;
mod spec;
mod ticket;

pub use data::{Audience, Data, Item, Kind, Mask};
pub use error::{ManifestError, NodeError};
pub use exec::{
    Bounded, ExecError, MAX_WORKERS, MailQueue, Mailbox, MailboxOptions, MailboxStats, PanicHook,
    PanicReport, Policy, Priority, Push, WorkerPool,
};
pub use graph::{ForeignCall, ForeignHost, ForeignOutput, ForeignReply, Plan};
pub use manifest::{
    ConnectionDef, EndPoint, MAX_CONNECTIONS, MAX_DEPTH, MAX_MANIFEST_BYTES, MAX_NODES, Manifest, Metadata,
    NodeDef, OnError, QueueDef, QueuePolicy, Scope,
};
pub use metrics::{DropReason, EdgeStats, Latency, NodeStats};
pub use nodes::{LayoutKind, Rect, layout, set_model_dir, set_onnx_runtime_path};
pub use session::{
    ErrorHook, ErrorReport, OutputHook, Pushed, Runner, RunnerOptions, Session, SessionOptions, SessionStats,
};
pub use spec::{Emit, Load, Node, NodeFactory, NodeSpec, ParamKind, ParamSpec, Params, PortSpec, Registry};
pub use ticket::{EachSink, Outcome, Ticket};

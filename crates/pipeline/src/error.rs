use crate::data::Kind;

/// Why a manifest is refused. The text names the place and what is allowed there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ManifestError {
    /// Where: `nodes[2].params.radius`, `node "blur"`, `connections[0].from`, or `manifest`.
    pub place: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Why a run failed or an item was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The node said so, or gave out something it must not.
    #[error("node \"{node}\" failed: {message}")]
    Failed {
        /// The node's id.
        node: String,
        /// In the node's own words.
        message: String,
    },
    /// The node panicked; its state was thrown away and made anew.
    #[error("node \"{node}\" panicked: {message}")]
    Panicked {
        /// The node's id.
        node: String,
        /// The panic's message.
        message: String,
    },
    /// The node did not answer in time.
    #[error("node \"{node}\" did not answer within {deadline_ms} ms")]
    Deadline {
        /// The node's id.
        node: String,
        /// Its deadline.
        deadline_ms: u64,
    },
    /// No graph input takes this kind.
    #[error("the graph takes {takes}, not {kind}")]
    NoInput {
        /// The kind of the item.
        kind: Kind,
        /// The kinds its inputs take, as a list to read.
        takes: String,
    },
    /// The queue of this kind is full and its policy is to refuse.
    #[error("{queue} has no room for another {kind}")]
    Full {
        /// Which queue.
        queue: String,
        /// The kind of the item.
        kind: Kind,
    },
    /// The item's contents contradict themselves.
    #[error("an item of kind {kind} is not valid: {problem}")]
    Invalid {
        /// The kind of the item.
        kind: Kind,
        /// What is wrong with it.
        problem: String,
    },
    /// The manifest has no such node, or the node no such output.
    #[error("there is no node \"{0}\"; the graph has {1}")]
    UnknownNode(String, String),
    /// No such output, or a connection leads on from it.
    #[error("items don't leave the graph by \"{0}\"; they do by {1}")]
    UnknownOutput(String, String),
    /// A parameter that isn't there, or a value out of its range.
    #[error("node \"{node}\": {problem}")]
    Param {
        /// The node's id.
        node: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// More peers, or more one-shot runs at a time, than the limit allows.
    #[error("the limit of {limit} {what} is reached")]
    Limit {
        /// Peers, or runs.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The session or the pool is closed, or the peer is gone.
    #[error("the session is closed")]
    Closed,
}

impl ManifestError {
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<String>) -> ManifestError {
        ManifestError { place: place.into(), problem: problem.into() }
    }

    pub(crate) fn node(id: &str, problem: impl Into<String>) -> ManifestError {
        ManifestError::new(format!("node \"{}\"", printable(id)), problem)
    }
}

impl NodeError {
    /// For nodes: this one failed, for the reason given. The graph puts the node's id in.
    pub fn failed(message: impl Into<String>) -> NodeError {
        NodeError::Failed { node: String::new(), message: message.into() }
    }

    pub(crate) fn deadline(deadline: std::time::Duration) -> NodeError {
        NodeError::Deadline { node: String::new(), deadline_ms: deadline.as_millis() as u64 }
    }

    pub(crate) fn at(self, id: &str) -> NodeError {
        match self {
            NodeError::Failed { message, .. } => NodeError::Failed { node: id.to_owned(), message },
            NodeError::Param { problem, .. } => NodeError::Param { node: id.to_owned(), problem },
            NodeError::Deadline { deadline_ms, .. } => {
                NodeError::Deadline { node: id.to_owned(), deadline_ms }
            }
            other => other,
        }
    }
}

/// Text of unknown origin, fit for a message: short, on one line.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut out: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// `a, b or c`.
pub(crate) fn either<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

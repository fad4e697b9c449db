//! Errors as values: TypeScript makes the exceptions, so that they are the caller's realm's own.

use napi_derive::napi;
use remotemedia_pipeline::{ManifestError, NodeError};
use remotemedia_transport::{ConnectError, TransportError, Warning};

/// Why a call failed. `code` is one of the package's stable codes.
#[napi(object, object_from_js = false)]
pub struct NativeError {
    /// `ERR_…`
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The peer concerned.
    pub peer_id: Option<String>,
}

impl NativeError {
    pub(crate) fn new(code: &'static str, message: impl std::fmt::Display) -> NativeError {
        NativeError { code, message: message.to_string(), peer_id: None }
    }

    pub(crate) fn config(message: impl std::fmt::Display) -> NativeError {
        NativeError::new("ERR_CONFIG", message)
    }

    pub(crate) fn codec(message: impl std::fmt::Display) -> NativeError {
        NativeError::new("ERR_CODEC", message)
    }

    pub(crate) fn closed(what: &str) -> NativeError {
        NativeError::new("ERR_CLOSED", format_args!("the {what} is closed"))
    }
}

impl From<TransportError> for NativeError {
    fn from(error: TransportError) -> Self {
        let (code, peer) = match &error {
            TransportError::Connect { peer, error, .. } => (connect_code(error), Some(peer)),
            TransportError::PeerNotFound { peer } | TransportError::NotConnected { peer } => {
                ("ERR_PEER_NOT_FOUND", Some(peer))
            }
            TransportError::MessageTooLarge { peer, .. } => ("ERR_MESSAGE_TOO_LARGE", Some(peer)),
            TransportError::SendQueueFull { peer, .. } => ("ERR_RATE_LIMITED", Some(peer)),
            TransportError::NoCommonCodec { peer, .. } => ("ERR_CODEC", Some(peer)),
            TransportError::Peer { peer, warning, .. } => (warning_code(*warning), Some(peer)),
            TransportError::Codec { .. } => ("ERR_CODEC", None),
            TransportError::Node { .. } => ("ERR_NODE", None),
            TransportError::IceServer { .. } => ("ERR_ICE_SERVER", None),
            TransportError::Closed => ("ERR_CLOSED", None),
            TransportError::Config { .. } | TransportError::System { .. } => ("ERR_CONFIG", None),
        };
        NativeError { code, message: error.to_string(), peer_id: peer.map(|p| p.to_string()) }
    }
}

impl From<ManifestError> for NativeError {
    fn from(error: ManifestError) -> Self {
        NativeError::new("ERR_MANIFEST", error)
    }
}

impl From<NodeError> for NativeError {
    fn from(error: NodeError) -> Self {
        let code = if matches!(error, NodeError::Closed) { "ERR_CLOSED" } else { "ERR_NODE" };
        NativeError::new(code, error)
    }
}

fn connect_code(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::NotFound => "ERR_PEER_NOT_FOUND",
        ConnectError::Timeout => "ERR_CONNECT_TIMEOUT",
        ConnectError::Denied => "ERR_PEER_DENIED",
        ConnectError::PeerLimit => "ERR_PEER_LIMIT",
        ConnectError::TooManyRequests => "ERR_RATE_LIMITED",
        ConnectError::Disconnected | ConnectError::Closed => "ERR_CLOSED",
    }
}

fn warning_code(warning: Warning) -> &'static str {
    match warning {
        Warning::BadDescription => "ERR_SIGNALING",
        Warning::PeerLimit => "ERR_PEER_LIMIT",
        Warning::Denied => "ERR_PEER_DENIED",
        Warning::GaveUp | Warning::NoOffer => "ERR_CONNECT_TIMEOUT",
    }
}

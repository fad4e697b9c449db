//! Why a call on a link was refused.

/// Why a call on a link was refused. The link is unchanged unless the variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A description that can't be used: too large, malformed, or contradicting what was offered.
    #[error("SDP: {0}")]
    BadSdp(&'static str),
    /// A candidate line that can't be parsed (RFC 8839, section 5.1).
    #[error("candidate: {0}")]
    BadCandidate(&'static str),
    /// A call that doesn't fit the negotiation's state, as an answer without an offer.
    #[error("{0} in the present negotiation state")]
    WrongState(&'static str),
    /// The engine can't do this; the owner makes a new link.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The link is closed.
    #[error("the link is closed")]
    Closed,
    /// Nothing can be sent yet: ICE and DTLS are not through.
    #[error("the link is not connected")]
    NotConnected,
    /// The peer has no codec in common for this kind, or doesn't receive it.
    #[error("the peer receives no {0}")]
    NotNegotiated(&'static str),
    /// No such channel, or not open (yet, or any more).
    #[error("the channel is not open")]
    ChannelNotOpen,
    /// Larger than the peer's `a=max-message-size` (RFC 8841). Nothing was sent.
    #[error("a message of {size} bytes is over the peer's limit of {limit}")]
    MessageTooLarge {
        /// Bytes in the message.
        size: usize,
        /// The peer's limit in bytes.
        limit: usize,
    },
    /// A text message that is not UTF-8. Nothing was sent.
    #[error("a text message must be UTF-8")]
    NotUtf8,
    /// More is waiting than [`crate::LinkConfig::max_buffered_bytes`], or a bounded queue is full. Nothing was sent.
    #[error("the send buffer is full")]
    BufferFull,
    /// An argument out of range.
    #[error("{0}")]
    Argument(&'static str),
    /// The engine refused; the text is its own, for a log.
    #[error("engine: {0}")]
    Engine(String),
}

impl From<rtc::shared::error::Error> for LinkError {
    fn from(error: rtc::shared::error::Error) -> Self {
        LinkError::Engine(error.to_string())
    }
}

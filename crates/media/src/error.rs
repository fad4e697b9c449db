//! What can go wrong between a frame and a bitstream.

use crate::FrameError;

/// Why a codec, a resampler or a framer can't do what it was asked.
///
/// Nothing that comes from outside (a packet, a frame, a setting) panics; it ends here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// A picture of a size or a buffer that doesn't fit.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A setting outside its range.
    #[error("{field} is {value}, allowed is {allowed}")]
    Config {
        /// The setting, by its field name.
        field: &'static str,
        /// What it was set to.
        value: i64,
        /// The values there are, for people to read.
        allowed: &'static str,
    },
    /// A packet that is no valid bitstream. Video decoders go on with the next keyframe, Opus with the next packet.
    #[error("corrupt {codec} data: {reason}")]
    Corrupt {
        /// The codec's name.
        codec: &'static str,
        /// What was wrong with it.
        reason: String,
    },
    /// A delta frame came while the decoder has nothing to apply it to: ask the sender for a keyframe (PLI).
    #[error("the {codec} decoder waits for a keyframe")]
    NeedsKeyframe {
        /// The codec's name.
        codec: &'static str,
    },
    /// A valid bitstream or setting of a kind that isn't handled, such as VP9 profile 2.
    #[error("{codec}: {what} is not supported")]
    Unsupported {
        /// The codec's name.
        codec: &'static str,
        /// What isn't supported.
        what: &'static str,
    },
    /// The codec library refused something that should have worked, out of memory for instance.
    #[error("{codec} could not {operation}: {reason}")]
    Codec {
        /// The codec's name.
        codec: &'static str,
        /// What it was doing.
        operation: &'static str,
        /// What the library said.
        reason: String,
    },
    /// A run of samples of the wrong length.
    #[error("expected {expected} samples, got {actual}")]
    SampleCount {
        /// Samples wanted, all channels together.
        expected: usize,
        /// Samples there were, all channels together.
        actual: usize,
    },
    /// An audio frame with a rate, a channel count or a length outside what is handled.
    #[error(
        "audio of {sample_rate} Hz, {channels} channels and {samples} samples: allowed are 8000 to 192000 Hz, 1 or 2 channels, whole frames, at most 10 s"
    )]
    AudioFormat {
        /// Samples a second and channel.
        sample_rate: u32,
        /// Channels.
        channels: u16,
        /// Samples, all channels together.
        samples: usize,
    },
}

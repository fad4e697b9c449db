//! Frames and the codecs that make and read them.
//!
//! Everything here is synchronous and owns no thread: callers decide where a codec runs.

mod frame;

pub use frame::{
    AudioFrame, FrameError, FrameMut, FramePool, MAX_DIMENSION, MAX_PIXELS, Plane, PlaneMut, VideoFrame, check_dimensions,
    i420_len,
};

/// The video codecs that can be sent and received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// VP9 profile 0 (RFC 9628).
    Vp9,
    /// VP8 (RFC 7741).
    Vp8,
    /// H.264 constrained baseline, packetization-mode 1 (RFC 6184).
    H264,
}

/// One encoded picture: a VP8/VP9 frame, or an H.264 access unit in Annex B form.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    /// The bitstream.
    pub data: bytes::Bytes,
    /// Decodable without anything before it.
    pub keyframe: bool,
    /// The timestamp of the picture it was made from, in microseconds.
    pub timestamp_us: i64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

//! Frames and the codecs that make and read them.
//!
//! Everything here is synchronous and owns no thread of its own: callers decide where a codec runs (libvpx may start
//! helper threads inside one `encode` call; see [`VideoEncoderConfig::threads`]).
//!
//! `unsafe` is allowed in three modules only, the wrappers around libvpx, around openh264's options and around dav1d.

#![deny(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

#[cfg(feature = "av1")]
mod av1;
// Without a codec there is nobody to ask for its headers.
#[cfg_attr(not(all(feature = "av1", feature = "h264")), allow(dead_code))]
mod bitstream;
mod clock;
mod codec;
mod colour;
mod delay;
mod error;
mod frame;
mod framer;
#[cfg(feature = "h264")]
mod h264;
mod jitter;
mod mixer;
mod opus;
mod pacing;
mod resample;
mod scale;
mod timeline;
mod video;
mod vpx;

pub use clock::{PeerClock, StreamId};
pub use codec::{EncodedFrame, UnknownCodec, VideoCodec, is_keyframe};
pub use delay::DelayFilter;
pub use error::MediaError;
pub use frame::{
    AudioFrame, FrameError, FrameMut, FramePool, MAX_DIMENSION, MAX_PIXELS, Plane, PlaneMut, VideoFrame,
    check_dimensions, i420_len,
};
pub use framer::AudioFramer;
pub use jitter::{AudioChunk, AudioPacket, ChunkSource, JitterBuffer, JitterStats};
pub use mixer::{
    AudioSource, ElasticBuffer, InputStats, MAX_MIX_INPUTS, Mixed, Mixer, MixerConfig, MixerEvent,
    MixerStats, Pulled, mix,
};
pub use opus::{
    MAX_OPUS_FRAME, OPUS_RATE, OpusDecoder, OpusEncoder, OpusEncoderConfig, is_dtx_packet,
    opus_packet_frames, opus_packet_has_fec,
};
pub use resample::{MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, Resampler};
pub use scale::{Scaler, scale};
pub use video::{VideoContent, VideoDecoder, VideoEncoder, VideoEncoderConfig};

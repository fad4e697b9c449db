//! What this binary is: for bug reports, and for the check that it belongs to the JavaScript that loaded it.

use napi_derive::napi;
use remotemedia_media::{FramePool, VideoCodec, VideoDecoder};

/// What the binary was built from and for.
#[napi(object)]
pub struct BuildInfo {
    /// Version of the package it belongs to.
    pub version: String,
    /// Rust target triple.
    pub target: String,
    /// Cargo profile: `release` or `debug`.
    pub profile: String,
    /// Video codecs that can be opened: `VP9`, `VP8`, and `H264` unless it was built without.
    pub video_codecs: Vec<String>,
}

/// Version of the package this binary belongs to.
#[napi(catch_unwind)]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// What this binary was built from and for.
#[napi(catch_unwind)]
pub fn build_info() -> BuildInfo {
    BuildInfo {
        version: version(),
        target: env!("ADDON_TARGET").to_owned(),
        profile: env!("ADDON_PROFILE").to_owned(),
        video_codecs: VideoCodec::ALL
            .into_iter()
            .filter(|&codec| VideoDecoder::new(codec, FramePool::default()).is_ok())
            .map(|codec| codec.name().to_owned())
            .collect(),
    }
}

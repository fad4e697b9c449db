//! The video codecs' names, and their encoded pictures.

use std::str::FromStr;

use crate::bitstream;

/// The video codecs that can be received, and all but AV1 sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    /// VP9 profile 0 (RFC 9628).
    Vp9,
    /// VP8 (RFC 7741).
    Vp8,
    /// H.264 constrained baseline, packetization-mode 1 (RFC 6184).
    H264,
    /// AV1 main profile, 8 bits (RTP Payload Format For AV1, version 1.0). Received only.
    Av1,
}

/// One encoded picture: a VP8/VP9 frame, or an H.264 access unit in Annex B form. AV1 is not encoded.
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
    /// Its temporal layer: 0 for what others need, see [`VideoEncoderConfig::temporal_layers`](crate::VideoEncoderConfig).
    pub temporal_layer: u8,
}

/// A name that is no video codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no video codec: vp9, vp8, h264 and av1 are")]
pub struct UnknownCodec(pub String);

impl VideoCodec {
    /// Every codec, in the order they are preferred.
    pub const ALL: [VideoCodec; 4] = [VideoCodec::Vp9, VideoCodec::Vp8, VideoCodec::H264, VideoCodec::Av1];

    /// The encoding name in SDP's `a=rtpmap`: `VP9`, `VP8`, `H264` or `AV1`.
    pub fn name(self) -> &'static str {
        match self {
            VideoCodec::Vp9 => "VP9",
            VideoCodec::Vp8 => "VP8",
            VideoCodec::H264 => "H264",
            VideoCodec::Av1 => "AV1",
        }
    }

    /// The media type: `video/VP9`, `video/VP8`, `video/H264` or `video/AV1`.
    pub fn mime(self) -> &'static str {
        match self {
            VideoCodec::Vp9 => "video/VP9",
            VideoCodec::Vp8 => "video/VP8",
            VideoCodec::H264 => "video/H264",
            VideoCodec::Av1 => "video/AV1",
        }
    }

    /// Whether this build can decode it. H.264 and AV1 can be left out (cargo features `h264` and `av1`).
    pub fn is_available(self) -> bool {
        match self {
            VideoCodec::Vp9 | VideoCodec::Vp8 => true,
            VideoCodec::H264 => cfg!(feature = "h264"),
            VideoCodec::Av1 => cfg!(feature = "av1"),
        }
    }

    /// Whether this build can encode it: what can be decoded, without AV1.
    pub fn can_encode(self) -> bool {
        self != VideoCodec::Av1 && self.is_available()
    }
}

impl FromStr for VideoCodec {
    type Err = UnknownCodec;

    /// Takes the name or the media type, in any case: `vp9`, `VP9`, `video/VP9`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        VideoCodec::ALL
            .into_iter()
            .find(|c| c.name().eq_ignore_ascii_case(text) || c.mime().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownCodec(text.chars().take(32).collect()))
    }
}

impl std::fmt::Display for VideoCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether an encoded picture is a keyframe, by its header alone. False for anything that can't be read.
///
/// For H.264 that means an access unit with an IDR slice; whether its parameter sets are there is for the decoder to say.
pub fn is_keyframe(codec: VideoCodec, data: &[u8]) -> bool {
    match codec {
        VideoCodec::Vp8 => bitstream::vp8_header(data).is_some_and(|h| h.keyframe),
        VideoCodec::Vp9 => bitstream::vp9_frames(data)
            .and_then(|frames| frames.first().copied())
            .and_then(bitstream::vp9_header)
            .is_some_and(|h| h.keyframe),
        VideoCodec::H264 => {
            bitstream::h264_nals(data).any(|nal| bitstream::nal_type(nal) == bitstream::NAL_IDR)
        }
        VideoCodec::Av1 => bitstream::av1_starts_sequence(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_media_types_parse_in_any_case() {
        for codec in VideoCodec::ALL {
            assert_eq!(codec.name().to_lowercase().parse(), Ok(codec));
            assert_eq!(codec.mime().parse(), Ok(codec));
        }
        assert_eq!("h265".parse::<VideoCodec>(), Err(UnknownCodec("h265".into())));
    }

    #[test]
    fn rubbish_is_no_keyframe() {
        for codec in VideoCodec::ALL {
            for data in [&[][..], &[0], &[0xff; 9], &[0; 40]] {
                assert!(!is_keyframe(codec, data), "{codec} {data:?}");
            }
        }
    }
}
